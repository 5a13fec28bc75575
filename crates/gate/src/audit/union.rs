//! One truth from several targets: which records each has, all records once, and filling up what one has missed
//! (DESIGN law 12: either suffices, both reconcile).
//!
//! Records have names of their own ([`RecordId`]), so their order may differ from target to target. What a target has is
//! a set of names: per generation a bitmap of numbers, which are dense, so that a billion records take some megabytes.
//!
//! Never here: opening records (see `follow`), the folders behind targets (see `folder`).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use base::Timestamp;
use bytes::Bytes;
use roaring::RoaringBitmap;

use crate::audit::keys::RecordId;
use crate::audit::target::{AuditStore, SourceError};

/// Records read or copied at once.
pub(crate) const CHUNK: usize = 4096;
/// Bytes copied at once, and records.
const COPY_BYTES: usize = 4 << 20;
const COPY_RECORDS: usize = 1024;
/// Chunks looked at again in one round: others wait for it.
const FILL_CHUNKS_MAX: usize = 64;
/// Records remembered one by one that another target lacks; beyond this their log is read again.
const WAITING_MAX: usize = 262_144;

/// A set of records.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Have {
    sets: HashMap<[u8; 16], RoaringBitmap>,
    len: u64,
}

impl Have {
    /// Whether it was not there before.
    pub fn insert(&mut self, id: RecordId) -> bool {
        let is_new = self.sets.entry(id.generation).or_default().insert(id.number);
        self.len += u64::from(is_new);
        is_new
    }

    pub fn contains(&self, id: RecordId) -> bool {
        self.sets.get(&id.generation).is_some_and(|set| set.contains(id.number))
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    /// Generation, then its numbers in the portable format of roaring.
    pub fn encode(&mut self) -> Vec<([u8; 16], Vec<u8>)> {
        let encode = |(generation, set): (&[u8; 16], &mut RoaringBitmap)| {
            set.optimize();
            let mut bytes = Vec::with_capacity(set.serialized_size());
            // Writing to a Vec does not fail.
            let _ = set.serialize_into(&mut bytes);
            (*generation, bytes)
        };
        self.sets.iter_mut().map(encode).collect()
    }

    pub fn decode<'a>(sets: impl IntoIterator<Item = ([u8; 16], &'a [u8])>) -> Option<Have> {
        let mut have = Have::default();
        for (generation, bytes) in sets {
            let set = RoaringBitmap::deserialize_from(bytes).ok()?;
            have.len += set.len();
            have.sets.insert(generation, set);
        }
        Some(have)
    }
}

/// How far a target was read, so that a restart goes on there.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Place {
    pub origin: String,
    pub size: u64,
    pub mark: [u8; 32],
    pub have: Have,
}

/// A record that one target has and another lacks.
struct Waiting {
    index: u64,
    id: RecordId,
    since: Timestamp,
}

struct Member {
    store: Arc<dyn AuditStore>,
    /// The log that was read up to `upto`.
    origin: Option<String>,
    have: Have,
    upto: u64,
    waiting: VecDeque<Waiting>,
    rescan: Option<Rescan>,
}

/// Records that may be lacking elsewhere and that `waiting` does not list.
#[derive(Clone, Copy)]
struct Rescan {
    from: u64,
    /// Exclusive.
    upto: u64,
    /// Since when it is known.
    since: Timestamp,
}

impl Member {
    /// The next that another target may lack has to be found by reading again.
    fn look_again_from(&mut self, index: u64, now: Timestamp) {
        let (from, since) = self.rescan.map_or((index, now), |known| (known.from.min(index), known.since));
        self.rescan = Some(Rescan { from, upto: self.upto, since });
        self.waiting.clear();
    }
}

/// A record read from a target that no other had shown before.
pub(crate) struct Fresh {
    pub id: RecordId,
    /// Names the log that showed it, and its place there.
    pub log: Arc<str>,
    pub index: u64,
    pub sealed: Bytes,
}

/// Entries read from one target.
pub(crate) struct Chunk {
    pub member: usize,
    entries: Vec<(u64, Bytes)>,
}

/// The targets of an audit log, compared.
pub(crate) struct Union {
    members: Vec<Member>,
    /// Every record that any target has shown.
    seen: Have,
    /// Of these, how many no target has that was read.
    gone: u64,
    /// Where targets stood in an earlier run that were not there since.
    remembered: Vec<Place>,
}

impl Union {
    pub fn new(stores: Vec<Arc<dyn AuditStore>>) -> Self {
        let member = |store| Member {
            store,
            origin: None,
            have: Have::default(),
            upto: 0,
            waiting: VecDeque::new(),
            rescan: None,
        };
        let members = stores.into_iter().map(member).collect();
        Union { members, seen: Have::default(), gone: 0, remembered: Vec::new() }
    }

    /// How far a target was read.
    pub fn read_upto(&self, n: usize) -> u64 {
        self.members[n].upto
    }

    pub fn seen(&mut self) -> &mut Have {
        &mut self.seen
    }

    /// Records that the n-th target lacks, as far as the others have shown.
    pub fn missing(&self, n: usize) -> u64 {
        self.seen.len() - self.gone - self.members[n].have.len()
    }

    /// Of these, those that another target has shown after `since`: they are on their way.
    pub fn on_their_way(&self, n: usize, since: Timestamp) -> u64 {
        let mut found = Have::default();
        for (_, other) in self.members.iter().enumerate().filter(|(other, _)| *other != n) {
            let young = other.waiting.iter().rev().take_while(|waiting| waiting.since > since);
            for waiting in young.filter(|waiting| !self.members[n].have.contains(waiting.id)) {
                found.insert(waiting.id);
            }
        }
        found.len()
    }

    /// Entries that are durable and not yet read.
    pub fn unread(&self) -> u64 {
        let unread = |member: &Member| match member.store.origin() {
            Some(_) => member.store.size().saturating_sub(member.upto),
            None => 0,
        };
        self.members.iter().map(unread).sum()
    }

    /// Where each target that was read stands.
    pub fn places(&self) -> Vec<Place> {
        let place = |member: &Member| {
            let origin = member.origin.clone().filter(|_| member.upto > 0)?;
            let mark = member.store.mark(member.upto)?;
            Some(Place { origin, size: member.upto, mark, have: member.have.clone() })
        };
        self.members.iter().filter_map(place).collect()
    }

    /// Goes on where an earlier run stopped. What does not fit the log that is there now is read from its beginning.
    pub fn resume(&mut self, seen: Have, places: Vec<Place>) {
        (self.gone, self.seen, self.remembered) = (seen.len(), seen, places);
    }

    /// A target is there for the first time: it is read from where an earlier run stopped, if it is the same log.
    fn recall(&mut self, n: usize, origin: &str, now: Timestamp) {
        let store = self.members[n].store.clone();
        let is_it = |place: &mut Place| {
            place.origin == origin && store.size() >= place.size && store.mark(place.size) == Some(place.mark)
        };
        let Some(place) = self.remembered.extract_if(.., is_it).next() else { return };
        (self.members[n].have, self.members[n].upto) = (place.have, place.size);
        self.count_gone();
        // What one lacks was written down nowhere.
        for n in 0..self.members.len() {
            if self.missing(n) > 0 {
                self.others_look_again(n, now);
            }
        }
    }

    fn count_gone(&mut self) {
        let held = self.seen.sets.keys().map(|generation| {
            let sets = self.members.iter().filter_map(|member| member.have.sets.get(generation));
            sets.fold(RoaringBitmap::new(), |held, set| held | set).len()
        });
        self.gone = self.seen.len() - held.sum::<u64>();
    }

    fn others_look_again(&mut self, n: usize, now: Timestamp) {
        for (_, other) in self.members.iter_mut().enumerate().filter(|(other, _)| *other != n) {
            other.look_again_from(0, now);
        }
    }

    /// Notices that a target is there, or was made anew: then whatever it had is gone.
    pub fn notice_renewed(&mut self, now: Timestamp) {
        for n in 0..self.members.len() {
            let Some(origin) = self.members[n].store.origin() else { continue };
            let known = self.members[n].origin.replace(origin.clone());
            match known {
                None => self.recall(n, &origin, now),
                Some(known) if known != origin => {
                    let member = &mut self.members[n];
                    (member.have, member.upto, member.rescan) = (Have::default(), 0, None);
                    member.waiting.clear();
                    self.others_look_again(n, now);
                    self.count_gone();
                }
                Some(_) => {}
            }
        }
    }

    /// The next entries of a target, `None` when all are read or it is away.
    pub async fn read(&self, n: usize) -> Result<Option<Chunk>, SourceError> {
        let member = &self.members[n];
        if member.origin.is_none() || member.store.origin() != member.origin || member.store.size() <= member.upto {
            return Ok(None);
        }
        let entries = read(&member.store, member.upto, CHUNK).await?;
        Ok((!entries.is_empty()).then_some(Chunk { member: n, entries }))
    }

    /// Those of a chunk that no target has shown before.
    pub fn fresh(&self, chunk: &Chunk) -> Vec<Fresh> {
        let mut own = Have::default();
        let log: Arc<str> = self.members[chunk.member].origin.as_deref().unwrap_or_default().into();
        let fresh = |(index, sealed): &(u64, Bytes)| {
            let id = RecordId::of(sealed)?;
            let is_fresh = !self.seen.contains(id) && own.insert(id);
            is_fresh.then(|| Fresh { id, log: log.clone(), index: *index, sealed: sealed.clone() })
        };
        chunk.entries.iter().filter_map(fresh).collect()
    }

    /// Counts a chunk as read.
    pub fn accept(&mut self, chunk: &Chunk, now: Timestamp) {
        for (index, sealed) in &chunk.entries {
            let Some(id) = RecordId::of(sealed) else { continue };
            let was_seen = !self.seen.insert(id);
            let is_new = self.members[chunk.member].have.insert(id);
            if was_seen && is_new && !self.is_held_beside(chunk.member, id) {
                self.gone = self.gone.saturating_sub(1);
            }
            if is_new && self.is_lacking_beside(chunk.member, id) {
                let waiting = &mut self.members[chunk.member].waiting;
                waiting.push_back(Waiting { index: *index, id, since: now });
            }
        }
        let member = &mut self.members[chunk.member];
        member.upto = chunk.entries.last().map_or(member.upto, |(last, _)| last + 1);
        if member.waiting.len() > WAITING_MAX {
            self.tidy(chunk.member);
            let member = &mut self.members[chunk.member];
            if member.waiting.len() > WAITING_MAX
                && let Some(first) = member.waiting.front().map(|waiting| waiting.index)
            {
                member.look_again_from(first, now);
            }
        }
    }

    fn is_lacking_beside(&self, n: usize, id: RecordId) -> bool {
        self.members.iter().enumerate().any(|(other, member)| other != n && !member.have.contains(id))
    }

    fn is_held_beside(&self, n: usize, id: RecordId) -> bool {
        self.members.iter().enumerate().any(|(other, member)| other != n && member.have.contains(id))
    }

    /// Forgets what the others have by now.
    fn tidy(&mut self, n: usize) {
        let mut waiting = std::mem::take(&mut self.members[n].waiting);
        waiting.retain(|waiting| self.is_lacking_beside(n, waiting.id));
        self.members[n].waiting = waiting;
    }

    /// Copies to each target that is there what it lacks and another has had for `grace_ms`: a record that is on its way
    /// needs no copy. Gives how many were copied; comes back when nothing is left or a target takes no more.
    pub async fn fill(&mut self, now: Timestamp, grace_ms: i64) -> u64 {
        let mut copied = 0;
        for from in 0..self.members.len() {
            self.tidy(from);
            if self.members[from].store.origin().is_none()
                || self.members[from].store.origin() != self.members[from].origin
            {
                continue;
            }
            copied += self.fill_waiting(from, now, grace_ms).await;
            copied += self.fill_by_reading(from, now, grace_ms).await;
            self.tidy(from);
        }
        copied
    }

    fn others_there(&self, n: usize) -> Vec<usize> {
        let is_there = |other: &usize| self.members[*other].store.origin().is_some();
        (0..self.members.len()).filter(|other| *other != n).filter(is_there).collect()
    }

    async fn fill_waiting(&mut self, from: usize, now: Timestamp, grace_ms: i64) -> u64 {
        let mut copied = 0;
        for to in self.others_there(from) {
            let due = self.members[from].waiting.iter().filter(|waiting| {
                waiting.since.plus_ms(grace_ms) <= now && !self.members[to].have.contains(waiting.id)
            });
            let due: Vec<u64> = due.map(|waiting| waiting.index).collect();
            // Runs of neighbours are read at once.
            for run in due.chunk_by(|a, b| a + 1 == *b) {
                for run in run.chunks(CHUNK) {
                    let Ok(entries) = read(&self.members[from].store, run[0], run.len()).await else { return copied };
                    match self.copy(to, &entries).await {
                        Some(n) => copied += n,
                        None => return copied,
                    }
                }
            }
        }
        copied
    }

    /// Reads again what may be lacking elsewhere, as long as it can be copied.
    async fn fill_by_reading(&mut self, from: usize, now: Timestamp, grace_ms: i64) -> u64 {
        let mut copied = 0;
        for _ in 0..FILL_CHUNKS_MAX {
            let Some(Rescan { from: at, upto: end, since }) = self.members[from].rescan else { return copied };
            if at >= end {
                self.members[from].rescan = None;
                return copied;
            }
            // A target that is away has to wait, and so has the place where it stopped.
            if since.plus_ms(grace_ms) > now || self.others_there(from).len() + 1 < self.members.len() {
                return copied;
            }
            let want = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            let Ok(entries) = read(&self.members[from].store, at, want).await else { return copied };
            let Some(last) = entries.last().map(|(index, _)| *index) else { return copied };
            for to in self.others_there(from) {
                match self.copy(to, &entries).await {
                    Some(n) => copied += n,
                    None => return copied,
                }
            }
            self.members[from].rescan = Some(Rescan { from: last + 1, upto: end, since });
        }
        copied
    }

    /// Appends those of `entries` that a target lacks; `None` when it took them not.
    async fn copy(&mut self, to: usize, entries: &[(u64, Bytes)]) -> Option<u64> {
        let lacking = entries.iter().filter_map(|(_, sealed)| Some((RecordId::of(sealed)?, sealed.clone())));
        let lacking: Vec<_> = lacking.filter(|(id, _)| !self.members[to].have.contains(*id)).collect();
        let mut rest = lacking.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take(COPY_RECORDS).take_while(|(_, sealed)| {
                bytes += sealed.len();
                bytes <= COPY_BYTES
            });
            let (batch, after) = rest.split_at(fits.count().max(1));
            let records: Vec<Bytes> = batch.iter().map(|(_, sealed)| sealed.clone()).collect();
            self.members[to].store.append(&records).await.ok()?;
            for (id, _) in batch {
                self.members[to].have.insert(*id);
            }
            rest = after;
        }
        Some(lacking.len() as u64)
    }

    /// What a target lacks and others list.
    fn strays(&self, lead: usize, there: &[usize]) -> Vec<(Arc<dyn AuditStore>, u64)> {
        let (mut found, mut strays) = (Have::default(), Vec::new());
        for n in there.iter().filter(|n| **n != lead) {
            for waiting in &self.members[*n].waiting {
                if !self.members[lead].have.contains(waiting.id) && found.insert(waiting.id) {
                    strays.push((self.members[*n].store.clone(), waiting.index));
                }
            }
        }
        strays
    }

    /// How reports read: one target that lacks least, and what only others have.
    pub fn view(&self) -> View {
        let there = (0..self.members.len()).filter(|n| self.members[*n].origin.is_some());
        let there: Vec<usize> = there.filter(|n| self.members[*n].store.origin() == self.members[*n].origin).collect();
        // The first that shows everything together with what only others have; so it seldom changes.
        let views = there.iter().map(|lead| (*lead, self.strays(*lead, &there)));
        let views: Vec<_> =
            views.map(|(lead, strays)| (self.missing(lead) - strays.len() as u64, lead, strays)).collect();
        let Some((lacking, lead, strays)) = views.into_iter().min_by_key(|(lacking, ..)| *lacking) else {
            return View { lead: None, strays: Vec::new(), hidden: self.seen.len() };
        };
        let hidden = lacking + self.gone;
        View { lead: Some(self.members[lead].store.clone()), strays, hidden }
    }
}

/// See [`Union::view`].
pub(crate) struct View {
    pub lead: Option<Arc<dyn AuditStore>>,
    pub strays: Vec<(Arc<dyn AuditStore>, u64)>,
    /// Records that some target had and none that is there can show now.
    pub hidden: u64,
}

async fn read(store: &Arc<dyn AuditStore>, from: u64, max: usize) -> Result<Vec<(u64, Bytes)>, SourceError> {
    let store = store.clone();
    tokio::task::spawn_blocking(move || store.read(from, max))
        .await
        .map_err(|_| SourceError("the reading task ended early; try again".to_owned()))?
}
