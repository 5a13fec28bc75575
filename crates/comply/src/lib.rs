//! Rights of patients: holds, erasure to its certificate, disposal of what has expired.
//!
//! [`book`] is the state, derived from governance facts (`store::Facts`) and from nothing else; [`rights`] takes steps: it
//! checks, appends the fact, and has the estate do what the fact says; [`certificate`] writes what was done. What must be
//! hidden and destroyed is behind the port [`Estate`], which the node fills. Never here: keys, rows, files, HTTP.

pub mod book;
pub mod certificate;
pub mod rights;

pub use book::{Against, Book, Erasure, Event, Ground, Hold, HoldKind, State, Subject};
pub use rights::{Estate, KeepPlan, PortError, Record, Rights, RightsError};
