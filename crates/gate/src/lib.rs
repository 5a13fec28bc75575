//! The gate: authenticate → decide → permit → record → release. Every door goes through it, in this order.
//!
//! 1. [`Gate::authenticate`] makes a [`Caller`] of an access token; [`Gate::source`] makes one of a bound feed.
//! 2. [`Gate::permit`] asks `policy`, narrows the answer to a set of patients and mints a [`base::Permit`]. A refusal is
//!    in the audit log before it is answered.
//! 3. The door takes data from storage with the permit and keeps it in a [`Held`].
//! 4. [`Gate::release`] makes the audit record of this very response durable and gives a [`Release`], the only thing
//!    that opens a [`Held`].
//!
//! If policy, directory, patient sets or audit cannot answer, the answer is no, and it says that it is an outage and
//! not a missing right.
//!
//! Never here: protocols and their status codes (see `edge`), the policies (see `policy`), the log's bytes (see
//! `ledger`).

mod audit;
mod cache;
mod caller;
mod decide;
mod emergency;
mod gate;
mod patients;
mod release;
mod route;
mod token;
mod worker;

pub use audit::disclosure::{
    Accounting, Disclosure, Exclusion, NoNames, Recipient, Recipients, Study, StudyDisclosure, Suspended, Terms,
};
pub use audit::events::{EventMark, EventPage, EventQuery, Wanted};
pub use audit::folder::{AuditDisk, FolderParts, FolderTarget, OpenLog};
pub use audit::follow::{AuditAlarm, AuditFollower, AuditStatus, IndexStatus, NoAlarm, TargetEvent, TargetStatus};
pub use audit::keys::{AuditKeyError, AuditKeys, Generation, MemoryAuditKeys, RecordId};
pub use audit::ledger::LogTarget;
pub use audit::log::AuditLog;
pub use audit::print::{Paper, accounting as print_accounting};
pub use audit::reader::{AccessLine, AuditFilter, AuditPage, AuditReadError, AuditReader};
pub use audit::record::{AuditRecord, BadRecord, Outcome};
pub use audit::records::{AuditRecords, FoundRecord, RecordPage, Span};
pub use audit::report::Period;
pub use audit::target::{
    AuditSource, AuditStore, AuditTarget, AuditUnavailable, MemoryTarget, SourceError, TargetState, Targets,
};
pub use audit::vault::VaultAuditKeys;
pub use caller::{Caller, Directory, MemoryDirectory, Origin, Outage, PrincipalRecord, SourceRecord};
pub use decide::{Ask, ProductLabels, Refusal, RefusalKind, Right, Scope};
pub use emergency::{
    About, Category, EmergencyBook, EmergencyCounts, EmergencyLimits, EmergencyLine, EmergencyPass, EmergencyRequest,
    MemoryBook, REVIEWS, ReviewLine, SessionId, Verdict,
};
pub use gate::{Gate, GateParts, governance};
pub use patients::{MemoryPatients, PatientSets};
pub use policy::{Action, Agreement, PrincipalKind};
pub use release::{Access, Held, NotReleased, Release, WrongRelease};
pub use route::{Profile, RouteRecord, Sending};
pub use token::{Claims, Issue, TokenError, TokenIssuer, TokenKeys, Unauthenticated};
