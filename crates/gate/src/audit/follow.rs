//! The follower of the audit log: looks after its targets, compares them, fills up what one has missed, tells when one is
//! lost or back, and keeps the index. Reports read through it, so that they see the union of all targets.
//!
//! Never here: how the comparison works (see `union`), what the index holds (see `index`).

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::{Clock, Timestamp};
use serde::Serialize;
use tokio::sync::Mutex;

use crate::audit::index::question::{Answer, Question};
use crate::audit::index::rows::Opened;
use crate::audit::index::{Index, IndexError, Resumed, Size};
use crate::audit::keys::{AuditKeyError, Opener, RecordId, open_with};
use crate::audit::log::AuditLog;
use crate::audit::record::AuditRecord;
use crate::audit::target::AuditStore;
use crate::audit::union::{Chunk, Fresh, Union, View};

/// The targets are compared this often.
const ROUND_MS: u64 = 200;
/// They are looked after this often.
const TEND_MS: i64 = 1_000;
/// A record that one target has had for so long and another has not is not on its way any more.
const GRACE_MS: i64 = 5_000;
/// How long a round lasts, and a report waits for it; what it then lacks is said in the report.
const CATCH_UP_MS: u64 = 5_000;
/// An index that cannot be kept is tried again after this.
const INDEX_RETRY_MS: i64 = 60_000;
/// Years that a record is kept after the end of its own.
const RETENTION_YEARS: i32 = 6;

/// What happened to a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetEvent {
    /// The node goes on with the other.
    Lost { why: String },
    /// It has everything again.
    Back,
    /// A log was begun, and is filled from the other target.
    Begun { origin: String },
}

/// Whoever has to know when a target is lost.
#[async_trait]
pub trait AuditAlarm: Send + Sync {
    /// When this returns the event is written down; one that could not be is logged, and the node goes on.
    async fn changed(&self, target: &str, event: &TargetEvent);
    /// Keys of the years before `before` were destroyed.
    async fn expired(&self, before: i32, scopes: u64);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoAlarm;

#[async_trait]
impl AuditAlarm for NoAlarm {
    async fn changed(&self, _target: &str, _event: &TargetEvent) {}

    async fn expired(&self, _before: i32, _scopes: u64) {}
}

/// One target as the operator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TargetStatus {
    pub name: String,
    /// Names its log to the world; none while it is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    pub records: u64,
    /// It failed, and has not yet made good what it missed.
    pub lost: bool,
    /// Records it lacks and another has had for some seconds.
    pub missed: u64,
    /// Records that another target has shown and that are on their way to this one: normal while there is traffic.
    pub behind: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// The audit log's targets, and how far the follower is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditStatus {
    pub targets: Vec<TargetStatus>,
    /// Durable records that the follower has not yet read, over all targets: the lag of the index.
    pub unread: u64,
    /// The index of who saw whom; none while it cannot be kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<IndexStatus>,
}

/// How large the index is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct IndexStatus {
    pub records: u64,
    /// Immutable files; a question looks into each whose times it asks for.
    pub runs: u64,
    pub bytes: u64,
    /// Blocks that questions have read in the runs that are there now.
    pub blocks_read: u64,
}

/// What was last found and told about a target.
#[derive(Clone, Default)]
struct Told {
    lost: bool,
    origin: Option<String>,
    missed: u64,
    behind: u64,
    /// Appends that had failed, and when that was found.
    failed: u64,
    failed_at: Option<Timestamp>,
}

struct State {
    union: Union,
    told: Vec<Told>,
    tended: i64,
    index: Option<Index>,
    /// When the index is opened or built again.
    index_due: Timestamp,
    /// What is there of the index is not to be used.
    index_is_bad: bool,
    /// Records that did not open.
    unreadable: u64,
}

/// See the module. Clones are handles to the same follower.
#[derive(Clone)]
pub struct AuditFollower(Arc<Inner>);

struct Inner {
    audit: AuditLog,
    stores: Vec<Arc<dyn AuditStore>>,
    alarm: Arc<dyn AuditAlarm>,
    clock: Arc<dyn Clock>,
    folder: Option<PathBuf>,
    opener: Opener,
    state: Mutex<State>,
}

impl AuditFollower {
    /// `stores` are the targets of `audit`, in the same order. The index lies in `folder`; without one every question
    /// reads the whole log.
    pub fn new(
        audit: AuditLog,
        stores: Vec<Arc<dyn AuditStore>>,
        alarm: Arc<dyn AuditAlarm>,
        clock: Arc<dyn Clock>,
        folder: Option<PathBuf>,
    ) -> Self {
        let state = State {
            union: Union::new(stores.clone()),
            told: vec![Told::default(); stores.len()],
            tended: i64::MIN,
            index: None,
            index_due: Timestamp(i64::MIN),
            index_is_bad: false,
            unreadable: 0,
        };
        let opener = Opener::new(audit.keys());
        AuditFollower(Arc::new(Inner { audit, stores, alarm, clock, folder, opener, state: Mutex::new(state) }))
    }

    /// Follows until told to stop.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        loop {
            self.round(GRACE_MS).await;
            tokio::select! {
                () = &mut stop => return self.close_index().await,
                () = tokio::time::sleep(Duration::from_millis(ROUND_MS)) => {}
            }
        }
    }

    /// One round: look after the targets, read what is new, copy what one has lacked for `grace_ms`. Gives how many
    /// records were copied.
    pub async fn round(&self, grace_ms: i64) -> u64 {
        let mut state = self.0.state.lock().await;
        let now = self.0.clock.now();
        if state.tended.saturating_add(TEND_MS) <= now.ms() {
            state.tended = now.ms();
            self.tend().await;
        }
        self.read(&mut state, Some(soon())).await;
        let copied = state.union.fill(now, grace_ms).await;
        self.compare(&mut state, grace_ms).await;
        copied
    }

    /// Twice when a log was begun: it takes the witnesses of the others before anything else.
    async fn tend(&self) {
        let origins = || self.0.stores.iter().map(|store| store.origin()).collect::<Vec<_>>();
        for _ in 0..2 {
            let before = origins();
            for (n, store) in self.0.stores.iter().enumerate() {
                let is_whole = |(other, store): (usize, &Arc<dyn AuditStore>)| other != n && store.origin().is_some();
                let others_whole = self.0.stores.iter().enumerate().any(is_whole);
                store.tend(others_whole).await;
            }
            if origins() == before {
                return;
            }
        }
    }

    /// Reads what is durable now, or what can be read until `until`. Gives how many records were left.
    async fn read(&self, state: &mut State, until: Option<tokio::time::Instant>) -> u64 {
        self.open_index(state).await;
        state.union.notice_renewed(self.0.clock.now());
        // What comes in meanwhile is for the next round.
        let ends: Vec<u64> = self.0.stores.iter().map(|store| store.size()).collect();
        let is_late = || until.is_some_and(|until| tokio::time::Instant::now() >= until);
        // In turn: what one has shown is seen in the other before much of it has to be remembered.
        loop {
            let mut has_read = false;
            for (n, end) in ends.iter().enumerate() {
                has_read |= state.union.read_upto(n) < *end && self.read_chunk(state, n).await;
            }
            if !has_read || is_late() {
                let left = ends.iter().enumerate().map(|(n, end)| end.saturating_sub(state.union.read_upto(n)));
                return left.sum();
            }
        }
    }

    /// Whether something was read. A target that cannot be read says so itself, and is away.
    async fn read_chunk(&self, state: &mut State, n: usize) -> bool {
        let Ok(Some(chunk)) = state.union.read(n).await else { return false };
        if !self.index_chunk(state, &chunk).await {
            return false;
        }
        state.union.accept(&chunk, self.0.clock.now());
        self.flush_index(state, false).await;
        true
    }

    /// Tells what changed. Under traffic some records are always on their way: a target is whole again when it lacks
    /// nothing else and has taken every append for `grace_ms`.
    async fn compare(&self, state: &mut State, grace_ms: i64) {
        let now = self.0.clock.now();
        for (n, store) in self.0.stores.iter().enumerate() {
            let (origin, told) = (store.origin(), &mut state.told[n]);
            told.behind = state.union.on_their_way(n, now.plus_ms(-grace_ms));
            told.missed = state.union.missing(n).saturating_sub(told.behind);
            let failed = self.0.audit.targets().get(n).map_or(0, |target| target.failed);
            let has_failed = std::mem::replace(&mut told.failed, failed) != failed;
            told.failed_at = if has_failed { Some(now) } else { told.failed_at };
            let is_steady = told.failed_at.is_none_or(|at| at.plus_ms(grace_ms) <= now);
            let lost = match origin {
                None => Some(true),
                Some(_) if has_failed => Some(true),
                Some(_) => (is_steady && told.missed == 0).then_some(false),
            };
            self.0.audit.compared(n, told.missed, lost);
            let lost = self.0.audit.targets().get(n).is_some_and(|target| target.lost);
            let mut events = Vec::new();
            if lost && !told.lost {
                let why = store.why().unwrap_or_else(|| "it took no records".to_owned());
                events.push(TargetEvent::Lost { why });
            }
            if let Some(origin) = origin.filter(|origin| told.origin.as_ref() != Some(origin)) {
                told.origin = Some(origin.clone());
                events.push(TargetEvent::Begun { origin });
            }
            if !lost && told.lost {
                events.push(TargetEvent::Back);
            }
            told.lost = lost;
            for event in events {
                self.0.alarm.changed(store.name(), &event).await;
            }
        }
    }

    /// Opens the index, or begins one; the targets are then read again from where it stops.
    async fn open_index(&self, state: &mut State) {
        let now = self.0.clock.now();
        let Some(folder) = self.0.folder.as_ref().filter(|_| state.index.is_none() && state.index_due <= now) else {
            return;
        };
        let keys = self.0.audit.keys();
        let opened = async {
            if state.index_is_bad {
                Index::drop_in(folder, &*keys).await?;
                state.index_is_bad = false;
            }
            Index::open(folder, &*keys).await
        };
        match opened.await {
            Ok((index, resumed)) => {
                state.union = Union::new(self.0.stores.clone());
                state.unreadable = 0;
                if let Some(Resumed { seen, places }) = resumed {
                    state.union.resume(seen, places);
                }
                state.index = Some(index);
            }
            Err(error) => self.without_index(state, &error, false),
        }
    }

    /// Goes on without the index, and tries again later. Questions read the log meanwhile.
    fn without_index(&self, state: &mut State, error: &IndexError, is_bad: bool) {
        tracing::error!(target: "ward::alarm", "{error}; questions read the whole log until it is there again");
        state.index = None;
        state.index_is_bad |= is_bad;
        state.index_due = self.0.clock.now().plus_ms(INDEX_RETRY_MS);
    }

    /// Adds what no target has shown before. `false` when keys cannot be had now: the chunk is read again later.
    async fn index_chunk(&self, state: &mut State, chunk: &Chunk) -> bool {
        let Some(index) = &mut state.index else { return true };
        let fresh = state.union.fresh(chunk);
        let generations: HashSet<[u8; 16]> = fresh.iter().map(|fresh| fresh.id.generation).collect();
        let mut keys = HashMap::new();
        for generation in generations {
            match self.0.opener.key(generation).await {
                Err(AuditKeyError::Outage) => return false,
                // Its retention ended: nothing is missing.
                Err(AuditKeyError::Destroyed) => {}
                found => drop(keys.insert(generation, found.ok())),
            }
        }
        let (mut memory, audit) = (index.take_memory(), self.0.audit.clone());
        let added = tokio::task::spawn_blocking(move || {
            let mut unreadable = 0;
            for Fresh { id, log, index, sealed } in fresh {
                let Some(key) = keys.get(&id.generation) else { continue };
                let encoded = key.as_ref().and_then(|key| open_with(key, &sealed).ok());
                match encoded.map(|encoded| (AuditRecord::decode(&encoded), encoded)) {
                    Some((Ok(record), encoded)) => {
                        memory.add(Opened { id, log, index, record, encoded }, &audit);
                    }
                    _ => unreadable += 1,
                }
            }
            memory.settle();
            (memory, unreadable)
        });
        match added.await {
            Ok((memory, unreadable)) => {
                index.put_memory(memory);
                state.unreadable += unreadable;
                true
            }
            Err(error) => {
                self.without_index(state, &std::io::Error::other(error).into(), false);
                false
            }
        }
    }

    /// Makes a run of what is in memory when that is full, or always.
    async fn flush_index(&self, state: &mut State, always: bool) {
        let Some(index) = &mut state.index else { return };
        let flushed = if index.is_full() || always {
            let places = state.union.places();
            index.flush(state.union.seen(), places).await
        } else {
            Ok(())
        };
        let flushed = match flushed {
            Ok(()) => index.merged().await,
            Err(error) => Err(error),
        };
        if let Err(error) = flushed {
            self.without_index(state, &error, false);
        }
    }

    /// Writes down what is in memory, and goes without the index from here on.
    async fn close_index(&self) {
        let mut state = self.0.state.lock().await;
        self.read(&mut state, Some(soon())).await;
        self.flush_index(&mut state, true).await;
        (state.index, state.index_due) = (None, Timestamp(i64::MAX));
    }

    /// Writes down what is in memory and waits for merges: for tests and figures.
    pub async fn settle_index(&self) {
        let mut state = self.0.state.lock().await;
        self.read(&mut state, None).await;
        self.flush_index(&mut state, true).await;
        let settled = match &mut state.index {
            Some(index) => index.settle().await,
            None => Ok(()),
        };
        if let Err(error) = settled {
            self.without_index(&mut state, &error, false);
        }
    }

    /// Drops the index with its key, and builds it again from the log, for some seconds now and then as it follows. What
    /// it answers is then what the log can tell.
    pub async fn rebuild_index(&self) {
        let mut state = self.0.state.lock().await;
        self.0.opener.forget();
        (state.index, state.index_is_bad, state.index_due) = (None, true, Timestamp(i64::MIN));
        self.read(&mut state, Some(soon())).await;
    }

    /// Ends the retention of what is due: records of a year go six years after its end (45 CFR 164.316(b)(2),
    /// 164.528(a)). Their keys are destroyed, and the index is built again without them. Gives the first year that
    /// stays, and how many scopes of keys were destroyed.
    pub async fn expire(&self) -> Result<(i32, u64), AuditKeyError> {
        let before = self.0.clock.now().year() - RETENTION_YEARS;
        let scopes = self.0.audit.keys().expire(before).await?;
        if scopes > 0 {
            self.rebuild_index().await;
            self.0.alarm.expired(before, scopes).await;
        }
        Ok((before, scopes))
    }

    /// Asks the index; `None` while there is none.
    pub(crate) async fn ask(&self, question: Question) -> Option<Asked> {
        let (prepared, records, behind, unreadable) = {
            let mut state = self.0.state.lock().await;
            let behind = self.read(&mut state, Some(soon())).await;
            let index = state.index.as_ref()?;
            (index.prepare(&question), index.size().records, behind, state.unreadable)
        };
        let asked = tokio::task::spawn_blocking(move || prepared.and_then(|prepared| prepared.ask(&question))).await;
        match asked.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            Ok(answer) => Some(Asked { answer, records, behind, unreadable }),
            Err(error) => {
                let mut state = self.0.state.lock().await;
                self.without_index(&mut state, &error.into(), true);
                state.index_due = self.0.clock.now();
                None
            }
        }
    }

    /// Everything that is durable now, as reports read it.
    pub(crate) async fn view(&self) -> View {
        let mut state = self.0.state.lock().await;
        self.read(&mut state, Some(soon())).await;
        state.union.view()
    }

    /// The target that writes the log of this name now.
    pub(crate) fn store_of(&self, log: &str) -> Option<Arc<dyn AuditStore>> {
        self.0.stores.iter().find(|store| store.origin().as_deref() == Some(log)).cloned()
    }

    /// What is known of a record's name: whether any target has shown it, and where, if the index says so.
    pub(crate) async fn place_of(&self, id: RecordId) -> (bool, Option<(Arc<str>, u64)>) {
        let mut state = self.0.state.lock().await;
        self.read(&mut state, Some(soon())).await;
        let place = match state.index.as_ref().map(|index| index.place_of(id)) {
            Some(Err(error)) => {
                self.without_index(&mut state, &error.into(), true);
                None
            }
            Some(Ok(place)) => place,
            None => None,
        };
        (state.union.seen().contains(id), place)
    }

    pub async fn status(&self) -> AuditStatus {
        let state = self.0.state.lock().await;
        let health = self.0.audit.targets();
        let target = |(n, store): (usize, &Arc<dyn AuditStore>)| TargetStatus {
            name: store.name().to_owned(),
            origin: store.origin(),
            records: store.size(),
            // A log that was not compared yet is not known to be whole.
            lost: health.get(n).is_some_and(|target| target.lost)
                || store.origin().is_none()
                || state.told[n].origin != store.origin(),
            missed: state.told[n].missed,
            behind: state.told[n].behind,
            why: store.why(),
        };
        let targets = self.0.stores.iter().enumerate().map(target).collect();
        let index = state.index.as_ref().map(|index| {
            let Size { records, runs, bytes, blocks_read } = index.size();
            IndexStatus { records, runs, bytes, blocks_read }
        });
        AuditStatus { targets, unread: state.union.unread(), index }
    }
}

/// Until when a round and a report read what is new: others wait for them.
fn soon() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_millis(CATCH_UP_MS)
}

/// What the index answers, and what that answer lacks.
pub(crate) struct Asked {
    pub answer: Answer,
    /// Records in the index.
    pub records: u64,
    /// Durable records that were not read in time.
    pub behind: u64,
    pub unreadable: u64,
}
