//! Where audit records go: the ports [`AuditTarget`], [`AuditSource`] and [`AuditStore`], [`Targets`] of which one must
//! succeed (DESIGN law 12), and a fake.
//!
//! Never here: what the bytes mean; how targets make good what they missed (see `union`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The record is not durable, so nothing may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the audit log cannot take the record of this access, so nothing is released; try again shortly")]
pub struct AuditUnavailable;

#[async_trait]
pub trait AuditTarget: Send + Sync {
    /// For the operator: `log`, `second-folder`.
    fn name(&self) -> &str;
    /// When this returns `Ok`, all records survive a power cut; gives the index of the first.
    async fn append(&self, records: &[Bytes]) -> Result<u64, AuditUnavailable>;
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the audit log cannot be read now: {0}")]
pub struct SourceError(pub String);

/// An audit log as a reader sees it.
pub trait AuditSource: Send + Sync {
    fn size(&self) -> u64;
    /// Records from an index on, in order, at most so many; may give fewer, and none only at the end.
    fn read(&self, from: u64, records_max: usize) -> Result<Vec<(u64, Bytes)>, SourceError>;
}

/// A target that is read back, goes and comes again, and may be made anew.
#[async_trait]
pub trait AuditStore: AuditTarget + AuditSource {
    /// Names the log behind the target to the world; another name when it was made anew. `None` while it is away.
    fn origin(&self) -> Option<String>;
    /// A hash that only this log has at `size` records, to know it again after a restart; `None` when it is away.
    fn mark(&self, size: u64) -> Option<[u8; 32]>;
    /// Looks after the target: whether it is still there, whether it can be had again. One that is beyond repair is
    /// set aside, never removed, and begun anew only when `others_whole`.
    async fn tend(&self, others_whole: bool);
    /// What was read is not what was written: the target is away from now on.
    fn broken(&self, why: &str);
    /// Why it is away, in a sentence for the operator.
    fn why(&self) -> Option<String>;
}

/// One target's health, for `/readyz`, metrics and the alarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetState {
    pub name: String,
    /// It failed, and has not yet made good what it missed.
    pub lost: bool,
    /// Records this target does not have and another has.
    pub missed: u64,
    /// Appends that failed since the start.
    pub failed: u64,
}

struct Tracked {
    target: Arc<dyn AuditTarget>,
    lost: AtomicBool,
    missed: AtomicU64,
    failed: AtomicU64,
    /// Bounds what waits for a slow target.
    places: Arc<Semaphore>,
}

impl Tracked {
    async fn append(&self, records: &[Bytes]) -> Result<u64, AuditUnavailable> {
        let outcome = match self.places.clone().try_acquire_owned() {
            Ok(_place) => self.target.append(records).await,
            Err(_) => Err(AuditUnavailable),
        };
        if outcome.is_err() {
            self.missed.fetch_add(records.len() as u64, Ordering::Relaxed);
            self.failed.fetch_add(1, Ordering::Relaxed);
            self.set_lost(true);
        }
        outcome
    }

    /// One line for each change, not for each record.
    fn set_lost(&self, lost: bool) {
        if self.lost.swap(lost, Ordering::Relaxed) != lost {
            let target = self.target.name();
            tracing::warn!(target: "ward::alarm", audit_target = target, lost, "an audit target changed its state");
        }
    }
}

/// Several independent targets: an append succeeds with the first that has it durable; the others go on behind and are
/// counted when they fail.
#[derive(Clone)]
pub struct Targets(Arc<Vec<Arc<Tracked>>>);

impl Targets {
    /// `queue_max` appends may wait at each target.
    pub fn new(targets: Vec<Arc<dyn AuditTarget>>, queue_max: usize) -> Self {
        let track = |target| {
            Arc::new(Tracked {
                target,
                lost: AtomicBool::new(false),
                missed: AtomicU64::new(0),
                failed: AtomicU64::new(0),
                places: Arc::new(Semaphore::new(queue_max)),
            })
        };
        Targets(Arc::new(targets.into_iter().map(track).collect()))
    }

    pub fn states(&self) -> Vec<TargetState> {
        let state = |tracked: &Arc<Tracked>| TargetState {
            name: tracked.target.name().to_owned(),
            lost: tracked.lost.load(Ordering::Relaxed),
            missed: tracked.missed.load(Ordering::Relaxed),
            failed: tracked.failed.load(Ordering::Relaxed),
        };
        self.0.iter().map(state).collect()
    }

    /// What comparing the targets has found: the n-th lacks so many records; it is lost, or not, or as before.
    pub(crate) fn compared(&self, n: usize, missed: u64, lost: Option<bool>) {
        if let Some(tracked) = self.0.get(n) {
            tracked.missed.store(missed, Ordering::Relaxed);
            lost.into_iter().for_each(|lost| tracked.set_lost(lost));
        }
    }

    /// Index of the first record in the first target that has all of them durable.
    pub async fn append(&self, records: Vec<Bytes>) -> Result<u64, AuditUnavailable> {
        match self.0.as_slice() {
            [] => Err(AuditUnavailable),
            [only] => only.append(&records).await,
            several => {
                let records: Arc<[Bytes]> = records.into();
                let mut running = JoinSet::new();
                for tracked in several {
                    let (tracked, records) = (tracked.clone(), records.clone());
                    running.spawn(async move { tracked.append(&records).await });
                }
                let mut found = Err(AuditUnavailable);
                while let Some(done) = running.join_next().await {
                    if let Ok(Ok(index)) = done {
                        found = Ok(index);
                        break;
                    }
                }
                running.detach_all();
                found
            }
        }
    }
}

/// A target in memory that fails, stalls and goes when told to, and reads like a log.
pub struct MemoryTarget {
    name: String,
    records: Mutex<Vec<Bytes>>,
    failing: AtomicBool,
    away: AtomicBool,
    /// How often it was made anew.
    renewed: AtomicU64,
    stalled: tokio::sync::watch::Sender<bool>,
}

impl MemoryTarget {
    pub fn new(name: &str) -> Self {
        MemoryTarget {
            name: name.to_owned(),
            records: Mutex::default(),
            failing: AtomicBool::new(false),
            away: AtomicBool::new(false),
            renewed: AtomicU64::new(0),
            stalled: tokio::sync::watch::Sender::new(false),
        }
    }

    /// Takes no record, and can be read: a full disk.
    pub fn fail(&self, failing: bool) {
        self.failing.store(failing, Ordering::SeqCst);
    }

    pub fn stall(&self, stalled: bool) {
        self.stalled.send_replace(stalled);
    }

    /// Neither takes records nor can be read: a folder that is not mounted.
    pub fn away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// Loses all records but the first `keep`, as a folder that was deleted or came back from an old copy, and was
    /// therefore made anew.
    pub fn lose(&self, keep: usize) {
        self.records.lock().truncate(keep);
        self.renewed.fetch_add(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl AuditTarget for MemoryTarget {
    fn name(&self) -> &str {
        &self.name
    }

    async fn append(&self, records: &[Bytes]) -> Result<u64, AuditUnavailable> {
        // The sender lives as long as this target, so waiting ends only when told to.
        let _ = self.stalled.subscribe().wait_for(|stalled| !stalled).await;
        if self.failing.load(Ordering::SeqCst) || self.away.load(Ordering::SeqCst) {
            return Err(AuditUnavailable);
        }
        let mut held = self.records.lock();
        let first = held.len() as u64;
        held.extend(records.iter().cloned());
        Ok(first)
    }
}

impl AuditSource for MemoryTarget {
    fn size(&self) -> u64 {
        self.records.lock().len() as u64
    }

    fn read(&self, from: u64, records_max: usize) -> Result<Vec<(u64, Bytes)>, SourceError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(SourceError("the target is away".to_owned()));
        }
        let held = self.records.lock();
        let skip = usize::try_from(from).unwrap_or(usize::MAX);
        Ok(held.iter().enumerate().skip(skip).take(records_max).map(|(n, r)| (n as u64, r.clone())).collect())
    }
}

#[async_trait]
impl AuditStore for MemoryTarget {
    fn origin(&self) -> Option<String> {
        let renewed = self.renewed.load(Ordering::SeqCst);
        (!self.away.load(Ordering::SeqCst)).then(|| format!("test/{}.{}", self.name, renewed + 1))
    }

    fn mark(&self, size: u64) -> Option<[u8; 32]> {
        let held = self.records.lock();
        let last = usize::try_from(size).ok()?.checked_sub(1)?;
        Some(crate::token::sha256(held.get(last)?))
    }

    async fn tend(&self, _others_whole: bool) {}

    fn broken(&self, _why: &str) {
        self.away(true);
    }

    fn why(&self) -> Option<String> {
        self.away.load(Ordering::SeqCst).then(|| "the target is away".to_owned())
    }
}
