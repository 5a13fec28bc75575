//! [`AuditTarget`] and [`AuditSource`] by a log of the ledger.

use ::ledger::{Log, NewEntry};
use async_trait::async_trait;
use bytes::Bytes;

use crate::audit::target::{AuditSource, AuditTarget, AuditUnavailable, SourceError};

/// A log of the ledger; concurrent appends share its group commit.
#[derive(Clone)]
pub struct LogTarget {
    log: Log,
    name: String,
}

impl LogTarget {
    /// `name` is for the operator: `log`, `second`.
    pub fn new(name: &str, log: Log) -> Self {
        LogTarget { log, name: name.to_owned() }
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
            [one] => self.log.append(entry(one)).await.map_err(|_| AuditUnavailable),
            many => {
                let range = self.log.append_all(many.iter().map(entry).collect()).await;
                range.map(|range| range.start).map_err(|_| AuditUnavailable)
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
        let entries = self.log.read(from, records_max, 8 << 20).map_err(|error| SourceError(error.to_string()))?;
        Ok(entries.into_iter().map(|entry| (entry.index, entry.parts.into_iter().next().unwrap_or_default())).collect())
    }
}
