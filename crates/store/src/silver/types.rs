//! What goes into silver and comes out of it. Data only.

use std::sync::Arc;

use base::{LogName, LogicalId, Ordinal, Phi, Sensitivity, SourceName, Timestamp};
use fhir::json::Value;

/// A version of a resource as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    pub rtype: String,
    pub id: LogicalId,
    pub version: u32,
    /// Its place in the order of all changes of the domain.
    pub change: u64,
    pub last_updated: Timestamp,
    /// The source record it is about.
    pub patient: Ordinal,
    pub sensitivity: Sensitivity,
    pub deleted: bool,
    /// The journal entries of the domain that it came from.
    pub positions: Vec<u64>,
    /// JSON; empty when deleted.
    pub body: Phi<Vec<u8>>,
}

/// A version to store. `version` is one more than the version that stands; anything else is a conflict.
#[derive(Debug, Clone)]
pub struct NewVersion {
    pub rtype: String,
    pub id: LogicalId,
    pub version: u32,
    pub last_updated: Timestamp,
    pub patient: Ordinal,
    pub sensitivity: Sensitivity,
    pub deleted: bool,
    pub positions: Vec<u64>,
    /// With its `id` and `meta`; [`Value::Null`] when deleted.
    pub body: Arc<Value>,
}

/// What a consumer made of the journal entries `from..upto`, to be stored wholly or not at all.
#[derive(Debug)]
pub struct Batch {
    pub domain: base::DomainName,
    pub consumer: String,
    pub log: LogName,
    /// Where the consumer must stand now.
    pub from: u64,
    /// Where it stands after.
    pub upto: u64,
    /// In order; several of one resource may follow each other.
    pub versions: Vec<NewVersion>,
    /// New source records: the ordinals that follow on [`Silver::next_ordinal`](super::Silver::next_ordinal).
    pub patients: Vec<Ordinal>,
    pub set_aside: Vec<SetAside>,
    /// Units (journal index, unit) that a replay has now used.
    pub resolved: Vec<(u64, u32)>,
    /// By journal index.
    pub outcomes: Vec<(u64, Outcome)>,
    pub seen: Vec<Seen>,
    /// Who holds the keys of entries that no version tells of: [`Ordinal::NONE`] for those about several patients or
    /// about nobody that is known, else the patient whom an entry named and did not change.
    pub held: Vec<(u64, Ordinal)>,
    /// Whom an entry named beyond what its versions and `held` tell.
    pub named: Vec<(u64, Ordinal)>,
    /// Resources with a label that an entry looked at, changed or not.
    pub labelled: Vec<(u64, String, LogicalId)>,
    /// Added to the counters of a source.
    pub counts: Vec<(SourceName, &'static str, u64)>,
    /// The entries themselves, for searches.
    pub entries: Vec<super::entries::Entered>,
    /// Fields without a map by source and place (`PV1-18`), added to those known.
    pub unmapped: Vec<(SourceName, String, u64)>,
    /// Lists that a source sends whole, by a name of the consumer's, and of when the newest is; what is older than what
    /// stands changes nothing.
    pub lists: Vec<(String, Timestamp)>,
}

/// The answer to a FHIR write. Sealed at rest.
#[derive(Clone, PartialEq, Eq)]
pub struct Outcome {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// The status only: headers and body may hold PHI.
impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Outcome({})", self.status)
    }
}

/// A control or idempotency key that was seen, and with which content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub source: SourceName,
    /// As [`Silver::seen_key`](super::Silver::seen_key) gives it.
    pub key: String,
    /// SHA-256 in hexadecimal.
    pub content_hash: String,
    pub index: u64,
    pub at: Timestamp,
}

/// A unit that could not be used. `place` and `reason` hold no PHI: positions and rules, never values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    pub index: u64,
    pub unit: u32,
    pub source: SourceName,
    pub place: String,
    pub code: String,
    pub reason: String,
    /// It may hold what somebody must act on now.
    pub critical: bool,
    pub at: Timestamp,
}

/// A page of what was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAsideEntry {
    pub unit: SetAside,
    pub resolved: bool,
}

/// One step of a scan.
#[derive(Debug, Clone, PartialEq)]
pub struct Scanned {
    /// Newest versions, in the order of their changes; deleted ones too.
    pub resources: Vec<Resource>,
    /// Where the next step goes on.
    pub after: u64,
    pub more: bool,
}

/// A version that came of a journal entry: for tracing, without content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traced {
    pub rtype: String,
    pub id: LogicalId,
    pub version: u32,
    pub patient: Ordinal,
}
