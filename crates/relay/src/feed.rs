//! Where a route's messages come from: the journal, as they came; or silver, of which they are made.

use std::sync::Arc;

use base::{DomainName, Layer, Permit, Phi, Read, TraceContext};
use bytes::Bytes;
use clinical::outbound::{Maker, kinds_of};
use clinical::{Content, Journal, JournalEntry, JournalError};
use serde::{Deserialize, Serialize};
use store::{About, Silver, StoreError};

use crate::work::WorkError;

const BATCH_ENTRIES_MAX: usize = 64;
const BATCH_BYTES_MAX: usize = 8 << 20;

/// Messages that are made from silver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Make {
    /// Of patients and visits.
    Adt,
    /// Of reports and results.
    Oru,
    /// Of immunizations.
    Vxu,
}

impl Make {
    pub fn code(self) -> &'static str {
        match self {
            Make::Adt => "ADT",
            Make::Oru => "ORU",
            Make::Vxu => "VXU",
        }
    }
}

pub enum Feed {
    Journal(Arc<Journal>),
    Silver { maker: Box<Maker>, make: Vec<Make> },
}

/// A message that may go out.
pub struct Offer {
    /// Index of the journal, or number of the change.
    pub position: u64,
    pub source: String,
    pub trace: Option<TraceContext>,
    pub message: Phi<Bytes>,
    /// `None`: the catalog says it, for what is in the journal.
    pub about: Option<About>,
}

pub enum Found {
    Message(Offer),
    /// No message, or erased.
    Nothing,
    Unreadable,
}

/// What is at some positions, in order; what stands between is nothing.
pub struct Batch {
    pub items: Vec<(u64, Found)>,
    pub next: u64,
}

impl Feed {
    pub fn layer(&self) -> Layer {
        match self {
            Feed::Journal(_) => Layer::Bronze,
            Feed::Silver { .. } => Layer::Silver,
        }
    }

    /// What a position counts.
    pub fn word(&self) -> &'static str {
        match self {
            Feed::Journal(_) => "entry",
            Feed::Silver { .. } => "change",
        }
    }

    /// Where it ends: nothing is at this position yet.
    pub async fn end(&self, silver: &Silver, domain: &DomainName) -> Result<u64, StoreError> {
        match self {
            Feed::Journal(journal) => Ok(journal.log().size()),
            Feed::Silver { .. } => silver.changes_end(domain).await,
        }
    }

    /// Up to where it can be read: of the journal, what refine has applied, so that whom it is about is known.
    pub async fn readable(&self, silver: &Silver, domain: &DomainName) -> Result<u64, StoreError> {
        match self {
            Feed::Journal(_) => Ok(*silver.applied(domain).borrow()),
            Feed::Silver { .. } => silver.changes_end(domain).await,
        }
    }

    pub async fn read(
        &self,
        permit: &Permit<Read>,
        silver: &Silver,
        domain: &DomainName,
        from: u64,
        upto: u64,
    ) -> Result<Batch, WorkError> {
        let left = usize::try_from(upto.saturating_sub(from)).unwrap_or(usize::MAX).min(BATCH_ENTRIES_MAX);
        match self {
            Feed::Journal(journal) => {
                let entries = journal.read(permit, from, left, BATCH_BYTES_MAX).await?;
                let mut items = Vec::with_capacity(entries.len());
                for (position, entry) in (from..).zip(entries) {
                    items.push((position, of_entry(entry)?));
                }
                let next = from + items.len() as u64;
                Ok(Batch { items, next })
            }
            Feed::Silver { maker, make } => {
                let (changed, next) = silver.changes(permit, domain, from, left).await?;
                let mut items = Vec::with_capacity(changed.len());
                for resource in changed {
                    let position = resource.change;
                    let is_wanted = kinds_of(&resource.rtype).iter().any(|code| make.iter().any(|m| m.code() == *code));
                    if !is_wanted {
                        continue;
                    }
                    let found = match maker.make(permit, resource).await {
                        Ok(Some(made)) => Found::Message(Offer {
                            position,
                            source: made.source,
                            trace: None,
                            message: made.message,
                            about: Some(made.about),
                        }),
                        Ok(None) => Found::Nothing,
                        Err(StoreError::Corrupt(_)) => Found::Unreadable,
                        Err(error) => return Err(error.into()),
                    };
                    items.push((position, found));
                }
                Ok(Batch { items, next })
            }
        }
    }

    /// Whether a message of this type is one of those that are made; those of the journal all are.
    pub fn gives(&self, code: &str) -> bool {
        match self {
            Feed::Journal(_) => true,
            Feed::Silver { make, .. } => make.iter().any(|make| make.code() == code),
        }
    }
}

fn of_entry(entry: Result<JournalEntry, JournalError>) -> Result<Found, JournalError> {
    match entry {
        Ok(entry) if entry.envelope.content == Content::Hl7v2 && !entry.envelope.shadow => Ok(Found::Message(Offer {
            position: entry.index,
            source: entry.envelope.source.to_string(),
            trace: entry.envelope.trace(),
            message: entry.body,
            about: None,
        })),
        Ok(_) | Err(JournalError::Destroyed { .. }) => Ok(Found::Nothing),
        Err(JournalError::Unreadable { .. }) => Ok(Found::Unreadable),
        Err(error) => Err(error),
    }
}
