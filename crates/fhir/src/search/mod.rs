//! FHIR search, R4 §3.1.1: parameters, what a resource puts into the index, and queries.
//!
//! Never runs a search: the store turns a [`Query`] into SQL over the rows that extraction gives.

mod types;

pub use types::*;
