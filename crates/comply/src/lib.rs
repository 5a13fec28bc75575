//! Rights of patients and duties of those who keep records: holds, erasure to its certificate, disposal of what has
//! been kept long enough, suspension of the right to an accounting of disclosures.
//!
//! [`book`] is the state, derived from governance facts (`store::Facts`) and from nothing else; [`rights`] takes what
//! people decide: it checks and appends the fact; [`work`] has the estate do what the facts say; [`certificate`] writes
//! what was done. What must be hidden and destroyed is behind the port [`Estate`], which the node fills. Never here:
//! keys, rows, files, HTTP.

pub mod book;
pub mod certificate;
pub mod estate;
pub mod retention;
pub mod rights;
mod work;

pub use book::{
    Against, Authority, Book, Case, Disposal, Erasure, Event, Ground, Hold, HoldKind, State, Statement, Subject,
    Suspension,
};
pub use estate::{Due, Estate, KeepPlan, MemoryEstate, PortError, Record, Records};
pub use retention::{YearOfRecords, years_of};
pub use rights::{Rights, RightsError, Suspending};
