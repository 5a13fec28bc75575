//! From a message at the door to FHIR in silver: intake, the journal, refine.
//!
//! ```text
//! door → Intake::accept → Journal (durable) → acknowledge
//!                            └→ Refiner: parse → map → link → check → Silver::commit (one transaction, position in it)
//! ```
//! Knows no protocol: doors live in `edge`. Decides no access: permits come from `gate`.

pub mod envelope;
mod ids;
mod intake;
mod journal;
mod labels;
mod merged;
pub mod outbound;
mod patients;
pub mod query;
mod reach;
mod receive;
mod redact;
mod refine;
mod source;
mod space;
pub mod v2;
mod writes;

pub use envelope::{Content, Door, Envelope, FhirRequest, Interaction, Matched};
pub use ids::IdMint;
pub use intake::{Accepted, Input, Intake, IntakeError};
pub use journal::{Journal, JournalEntry, JournalError};
pub use patients::PatientMap;
pub use reach::Reach;
pub use receive::{Hl7Receiver, Kind, Later, Reply};
pub use refine::{CONSUMER, Expired, Plan, PlanKeeper, RefineError, Refiner, WHOLE, parse_etag, status_line};
pub use source::{AckOn, Keep, ListMode, Lists, ProcessingMode, QueryRight, Source, SourceKind, TlsMode};
pub use space::Space;
pub use writes::{FhirWrites, WriteError, Written};
