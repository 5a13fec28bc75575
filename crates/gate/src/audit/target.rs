//! Where audit records go: the [`AuditTarget`] port, [`Targets`] of which one must succeed (DESIGN law 12), and a fake.
//!
//! Never here: what the bytes mean.

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

/// One target's health, for `/readyz`, metrics and the alarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetState {
    pub name: String,
    pub lost: bool,
    /// Records this target does not have and another has.
    pub missed: u64,
}

struct Tracked {
    target: Arc<dyn AuditTarget>,
    lost: AtomicBool,
    missed: AtomicU64,
    /// Bounds what waits for a slow target.
    places: Arc<Semaphore>,
}

impl Tracked {
    async fn append(&self, records: &[Bytes]) -> Result<u64, AuditUnavailable> {
        let outcome = match self.places.clone().try_acquire_owned() {
            Ok(_place) => self.target.append(records).await,
            Err(_) => Err(AuditUnavailable),
        };
        let was = self.lost.swap(outcome.is_err(), Ordering::Relaxed);
        if outcome.is_err() {
            self.missed.fetch_add(records.len() as u64, Ordering::Relaxed);
        }
        if was != outcome.is_err() {
            let (target, lost) = (self.target.name(), outcome.is_err());
            tracing::warn!(target: "ward::alarm", audit_target = target, lost, "an audit target changed its state");
        }
        outcome
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
        };
        self.0.iter().map(state).collect()
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

/// A target in memory that fails and stalls when told to, and reads like a log.
pub struct MemoryTarget {
    name: String,
    records: Mutex<Vec<Bytes>>,
    failing: AtomicBool,
    stalled: tokio::sync::watch::Sender<bool>,
}

impl MemoryTarget {
    pub fn new(name: &str) -> Self {
        MemoryTarget {
            name: name.to_owned(),
            records: Mutex::default(),
            failing: AtomicBool::new(false),
            stalled: tokio::sync::watch::Sender::new(false),
        }
    }

    pub fn fail(&self, failing: bool) {
        self.failing.store(failing, Ordering::SeqCst);
    }

    pub fn stall(&self, stalled: bool) {
        self.stalled.send_replace(stalled);
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
        if self.failing.load(Ordering::SeqCst) {
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
        let held = self.records.lock();
        let skip = usize::try_from(from).unwrap_or(usize::MAX);
        Ok(held.iter().enumerate().skip(skip).take(records_max).map(|(n, r)| (n as u64, r.clone())).collect())
    }
}
