//! One patient's question to the index: rows of its own, then the sets that it is in, then their events. Bounded in
//! what it keeps, and it stops at the run from which on all is later than what was asked for.
//!
//! Never here: names of patients; the question has a token.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use base::{DomainName, Timestamp};
use roaring::RoaringBitmap;

use crate::audit::index::Run;
use crate::audit::index::memory::Memory;
use crate::audit::index::rows::{
    EVENT, Found, MEMBER, OWN, WIDE, container_id, key, moment, name_key, set_of, take_place, time_of,
};
use crate::audit::index::table::Key;
use crate::audit::keys::RecordId;

/// Whose accesses are asked for, from when (inclusive) to when (exclusive), the oldest `max` of them.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub token: [u8; 16],
    pub domain: DomainName,
    pub patient: u32,
    pub since: Timestamp,
    pub until: Timestamp,
    pub max: usize,
}

/// Accesses in the order of time.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub found: Vec<Found>,
    /// There is more after the last.
    pub more: bool,
    /// Runs that were looked into, and blocks that were read, for the law of growth.
    pub runs: u64,
    pub blocks: u64,
}

/// Rows by key, wherever they are.
trait Place {
    /// Calls `each` with the rows from one key to another, both included, until it says stop.
    fn between(
        &mut self,
        from: &Key,
        to: &Key,
        each: &mut dyn FnMut(&Key, &[u8]) -> io::Result<bool>,
    ) -> io::Result<()>;
}

impl Place for super::table::Rows<'_> {
    fn between(
        &mut self,
        from: &Key,
        to: &Key,
        each: &mut dyn FnMut(&Key, &[u8]) -> io::Result<bool>,
    ) -> io::Result<()> {
        self.seek(from)?;
        while let Some((key, value)) = self.peek()? {
            if key > *to || !each(&key, value)? {
                break;
            }
            self.skip();
        }
        Ok(())
    }
}

impl Place for &Memory {
    fn between(
        &mut self,
        from: &Key,
        to: &Key,
        each: &mut dyn FnMut(&Key, &[u8]) -> io::Result<bool>,
    ) -> io::Result<()> {
        // Rows come in no order here, so one that would be the last is not.
        let mut outcome = Ok(());
        Memory::between(self, from, to, &mut |key, value| {
            if outcome.is_ok() {
                outcome = each(key, value).map(|_| ());
            }
        });
        outcome
    }
}

/// What is kept while looking: the earliest.
struct Earliest {
    max: usize,
    found: Vec<([u8; 16], Found)>,
}

impl Earliest {
    fn push(&mut self, key: &Key, value: &[u8]) -> io::Result<()> {
        self.found.push((set_of(key), Found::decode(value)?));
        if self.found.len() >= self.max.saturating_mul(4).max(64) {
            self.trim();
        }
        Ok(())
    }

    fn trim(&mut self) {
        self.found.sort_by_key(|(moment, _)| *moment);
        self.found.truncate(self.max);
    }
}

/// Where the record of a name stands; the newest runs first, as most are asked for soon.
pub(crate) fn place_of(id: RecordId, memory: &Memory, runs: &[Arc<Run>]) -> io::Result<Option<(Arc<str>, u64)>> {
    let key = name_key(id);
    let mut found = None;
    let mut take = |_: &Key, mut value: &[u8]| {
        found = take_place(&mut value);
        Ok(found.is_none())
    };
    Place::between(&mut &*memory, &key, &key, &mut take)?;
    for run in runs.iter().rev() {
        if found.is_some() {
            break;
        }
        let mut take = |_: &Key, mut value: &[u8]| {
            found = take_place(&mut value);
            Ok(found.is_none())
        };
        run.table.seek(&key)?.between(&key, &key, &mut take)?;
    }
    Ok(found)
}

impl Question {
    /// Looks into the runs, oldest first, after what memory holds.
    pub fn ask(&self, memory: Vec<([u8; 16], Found)>, runs: &[Arc<Run>]) -> io::Result<Answer> {
        // One more than is asked for tells whether there is more.
        let max = self.max.saturating_add(1);
        let mut earliest = Earliest { max, found: memory };
        let mut runs: Vec<&Arc<Run>> =
            runs.iter().filter(|run| run.first < self.until && run.last >= self.since).collect();
        runs.sort_by_key(|run| run.first);
        let mut answer = Answer::default();
        for run in runs {
            earliest.trim();
            let latest = earliest.found.last().map(|(moment, _)| *moment);
            if earliest.found.len() >= max && latest.is_some_and(|latest| moment(run.first, 0) > latest) {
                break;
            }
            let before = run.table.reads();
            self.look(&mut run.table.seek(&key(OWN, &self.token, &moment(self.since, 0)))?, &mut earliest)?;
            answer.runs += 1;
            answer.blocks += run.table.reads() - before;
        }
        earliest.trim();
        answer.more = earliest.found.len() > self.max;
        earliest.found.truncate(self.max);
        answer.found = earliest.found.into_iter().map(|(_, found)| found).collect();
        Ok(answer)
    }

    /// What memory holds of the answer.
    pub fn recall(&self, memory: &Memory) -> io::Result<Vec<([u8; 16], Found)>> {
        let all = usize::MAX / 8;
        let mut earliest = Earliest { max: all, found: Vec::new() };
        self.look(&mut &*memory, &mut earliest)?;
        Ok(earliest.found)
    }

    fn look(&self, place: &mut dyn Place, earliest: &mut Earliest) -> io::Result<()> {
        self.events(place, OWN, &self.token, earliest)?;
        // In the order of their names, so that each block is read once at most.
        for set in self.sets(place)? {
            self.events(place, EVENT, &set, earliest)?;
        }
        Ok(())
    }

    fn events(&self, place: &mut dyn Place, kind: u8, id: &[u8; 16], earliest: &mut Earliest) -> io::Result<()> {
        let (from, to) = (key(kind, id, &moment(self.since, 0)), key(kind, id, &[0xff; 16]));
        let mut left = earliest.max;
        place.between(&from, &to, &mut |key, value| {
            if time_of(key) >= self.until {
                return Ok(false);
            }
            if left == 0 {
                return Ok(false);
            }
            left -= 1;
            earliest.push(key, value)?;
            Ok(true)
        })
    }

    /// The sets of this place that the patient is in.
    fn sets(&self, place: &mut dyn Place) -> io::Result<BTreeSet<[u8; 16]>> {
        let mut sets = BTreeSet::new();
        let bounds = |kind, id| (key(kind, id, &[0; 16]), key(kind, id, &[0xff; 16]));
        let (from, to) = bounds(MEMBER, &self.token);
        place.between(&from, &to, &mut |key, _| {
            sets.insert(set_of(key));
            Ok(true)
        })?;
        let (from, to) = bounds(WIDE, &container_id(&self.domain, self.patient));
        place.between(&from, &to, &mut |key, value| {
            let container = RoaringBitmap::deserialize_from(value).map_err(io::Error::other)?;
            if container.contains(self.patient) {
                sets.insert(set_of(key));
            }
            Ok(true)
        })?;
        Ok(sets)
    }
}
