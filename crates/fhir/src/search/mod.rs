//! FHIR search, R4 §3.1.1: parameters, what a resource puts into the index, and queries.
//!
//! Never runs a search: the store turns a [`Query`] into SQL over the rows that [`extract`] gives.

mod compile;
mod convert;
mod decode;
mod extract;
mod fold;
mod params;
mod query;
mod range;
#[cfg(test)]
mod tests;
mod types;
mod value;

pub use decode::decode_query;
pub(crate) use extract::elements;
pub use extract::extract;
pub use fold::fold;
pub use params::{param, params};
pub use query::{parse_criteria, parse_query};
pub use types::*;
