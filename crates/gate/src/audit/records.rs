//! Whole records of one audit target, the first that is there, in order, for renderings and shipping. Under a permit for the audit log, and
//! [`Held`]: reading is itself recorded.
//!
//! Never here: what a record looks like elsewhere (see `herald`), reports about one patient (see `reader`).

use std::sync::Arc;

use base::{Clock, Layer, Permit, Read};
use bytes::Bytes;

use crate::audit::keys::{AuditKeyError, Opener, RecordId};
use crate::audit::log::AuditLog;
use crate::audit::reader::AuditReadError;
use crate::audit::record::AuditRecord;
use crate::audit::target::{AuditStore, SourceError};
use crate::gate::governance;
use crate::release::Held;

/// Records opened at once.
const CHUNK: u64 = 1024;

/// A record with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundRecord {
    /// The same wherever the record lies.
    pub id: RecordId,
    /// Names the log to the world, `MESH/audit`, and its place there.
    pub log: Arc<str>,
    pub index: u64,
    pub record: AuditRecord,
    /// Keyed tokens of its patients, in the order of their ordinals; none when they are more than was asked for.
    pub tokens: Vec<[u8; 16]>,
}

/// A run of the log.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RecordPage {
    pub records: Vec<FoundRecord>,
    /// Where the next page goes on: the span's new `from`, or its new `upto` when the newest come first.
    pub next: u64,
    /// Whether the span holds more.
    pub more: bool,
    /// Records in the log.
    pub size: u64,
    /// Records that could not be opened: their key's retention ended, or they are damaged.
    pub unreadable: u64,
}

/// How much of the log is read.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    pub from: u64,
    /// Exclusive.
    pub upto: u64,
    pub newest_first: bool,
    pub records_max: usize,
    /// Records looked at, wanted or not.
    pub scan_max: u64,
    /// Of more patients than this a record's are not named.
    pub named_max: u64,
}

/// Reads the first audit target that is there. Places in the log are that target's: another one has another order.
pub struct AuditRecords {
    stores: Vec<Arc<dyn AuditStore>>,
    audit: AuditLog,
    opener: Opener,
    clock: Arc<dyn Clock>,
}

impl AuditRecords {
    pub(crate) fn new(stores: Vec<Arc<dyn AuditStore>>, audit: AuditLog, clock: Arc<dyn Clock>) -> Self {
        let opener = Opener::new(audit.keys());
        AuditRecords { stores, audit, opener, clock }
    }

    fn first(&self) -> Option<&Arc<dyn AuditStore>> {
        self.stores.iter().find(|store| store.origin().is_some())
    }

    /// The log that is read now, by the name that it has to the world.
    pub fn origin(&self) -> Option<String> {
        self.first()?.origin()
    }

    pub fn size(&self) -> u64 {
        self.first().map_or(0, |store| store.size())
    }

    /// Those records of a span that are wanted.
    pub async fn page(
        &self,
        permit: &Permit<Read>,
        span: Span,
        wanted: &(dyn Fn(u64, &AuditRecord) -> bool + Sync),
    ) -> Result<Held<RecordPage>, AuditReadError> {
        self.check(permit)?;
        let gone = || SourceError("no target of the audit log is there; see `ward audit status`".to_owned());
        let source = self.first().ok_or_else(gone)?.clone();
        let log: Arc<str> = source.origin().unwrap_or_default().into();
        let size = source.size();
        let (mut low, mut high) = (span.from, span.upto.min(size));
        let mut page = RecordPage { size, ..RecordPage::default() };
        let mut looked_at = 0;
        'pages: while low < high && looked_at < span.scan_max {
            let chunk = (high - low).min(CHUNK).min(span.scan_max - looked_at);
            let start = if span.newest_first { high - chunk } else { low };
            let mut entries = read(&source, start, start + chunk).await?;
            if span.newest_first {
                entries.reverse();
            }
            for (index, sealed) in entries {
                if page.records.len() >= span.records_max {
                    break 'pages;
                }
                self.look((&log, index), &sealed, span.named_max, wanted, &mut page).await?;
                looked_at += 1;
                if span.newest_first { high = index } else { low = index + 1 }
            }
        }
        (page.next, page.more) = (if span.newest_first { high } else { low }, low < high);
        Ok(Held::under(permit, page))
    }

    async fn look(
        &self,
        (log, index): (&Arc<str>, u64),
        sealed: &[u8],
        named_max: u64,
        wanted: &(dyn Fn(u64, &AuditRecord) -> bool + Sync),
        page: &mut RecordPage,
    ) -> Result<(), AuditReadError> {
        let opened = self.opener.open(sealed).await.map(|plain| AuditRecord::decode(&plain));
        match (RecordId::of(sealed), opened) {
            (Some(id), Ok(Ok(record))) if wanted(index, &record) => {
                let tokens = self.audit.tokens_of(&record, named_max);
                page.records.push(FoundRecord { id, log: log.clone(), index, record, tokens });
            }
            (Some(_), Ok(Ok(_))) => {}
            (_, Err(AuditKeyError::Outage)) => return Err(AuditKeyError::Outage.into()),
            _ => page.unreadable += 1,
        }
        Ok(())
    }

    fn check(&self, permit: &Permit<Read>) -> Result<(), AuditReadError> {
        let covers = permit.covers_kind(&governance(), Layer::Governance, "audit").is_ok();
        if covers && permit.is_live(self.clock.now()) { Ok(()) } else { Err(AuditReadError::NotCovered) }
    }
}

/// All entries of a part of the log.
async fn read(source: &Arc<dyn AuditStore>, from: u64, end: u64) -> Result<Vec<(u64, Bytes)>, AuditReadError> {
    let source = source.clone();
    let read = move || {
        let mut out: Vec<(u64, Bytes)> = Vec::new();
        let mut at = from;
        while at < end {
            let more = source.read(at, usize::try_from(end - at).unwrap_or(usize::MAX))?;
            let Some((last, _)) = more.last() else {
                return Err(SourceError("the log ends before its size; run ward-verify on it".to_owned()));
            };
            at = last + 1;
            out.extend(more);
        }
        Ok(out)
    };
    let read = tokio::task::spawn_blocking(read).await;
    Ok(read.map_err(|_| SourceError("the reading task ended early; try again".to_owned()))??)
}
