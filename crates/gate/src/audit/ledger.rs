//! [`AuditTarget`], [`AuditSource`] and [`AuditStore`] by a log of the ledger.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::ledger::{AppendError, Log, NewEntry};
use async_trait::async_trait;
use bytes::Bytes;

use crate::audit::target::{AuditSource, AuditStore, AuditTarget, AuditUnavailable, SourceError};

/// Bytes read at once.
const READ_BYTES: usize = 8 << 20;

/// A log of the ledger; concurrent appends share its group commit.
#[derive(Clone)]
pub struct LogTarget {
    log: Log,
    name: String,
    poisoned: Arc<AtomicBool>,
}

impl LogTarget {
    /// `name` is for the operator: `log`, `second`.
    pub fn new(name: &str, log: Log) -> Self {
        LogTarget { log, name: name.to_owned(), poisoned: Arc::default() }
    }

    /// The log takes nothing more: its disk failed, or it was closed.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Relaxed)
    }

    fn unavailable(&self, error: AppendError) -> AuditUnavailable {
        if matches!(error, AppendError::Poisoned | AppendError::Closed) {
            self.poisoned.store(true, Ordering::Relaxed);
        }
        AuditUnavailable
    }
}

#[async_trait]
impl AuditTarget for LogTarget {
    fn name(&self) -> &str {
        &self.name
    }

    async fn append(&self, records: &[Bytes]) -> Result<u64, AuditUnavailable> {
        let entry = |record: &Bytes| NewEntry { parts: vec![record.clone()], slots: Vec::new() };
        match records {
            [one] => self.log.append(entry(one)).await.map_err(|error| self.unavailable(error)),
            many => {
                let range = self.log.append_all(many.iter().map(entry).collect()).await;
                range.map(|range| range.start).map_err(|error| self.unavailable(error))
            }
        }
    }
}

impl AuditSource for LogTarget {
    fn size(&self) -> u64 {
        self.log.size()
    }

    fn read(&self, from: u64, records_max: usize) -> Result<Vec<(u64, Bytes)>, SourceError> {
        if from >= self.log.size() {
            return Ok(Vec::new());
        }
        let entries = self.log.read(from, records_max, READ_BYTES).map_err(|error| SourceError(error.to_string()))?;
        Ok(entries.into_iter().map(|entry| (entry.index, entry.parts.into_iter().next().unwrap_or_default())).collect())
    }
}

#[async_trait]
impl AuditStore for LogTarget {
    fn origin(&self) -> Option<String> {
        (!self.is_poisoned()).then(|| self.log.vkey().split('+').next().unwrap_or_default().to_owned())
    }

    /// Hash of the last entry: with the origin it tells one log from another.
    fn mark(&self, size: u64) -> Option<[u8; 32]> {
        self.log.leaf_hash(size.checked_sub(1)?).ok()
    }

    async fn tend(&self, _others_whole: bool) {}

    fn broken(&self, _why: &str) {
        self.poisoned.store(true, Ordering::Relaxed);
    }

    fn why(&self) -> Option<String> {
        self.is_poisoned().then(|| "its log takes no more records".to_owned())
    }
}
