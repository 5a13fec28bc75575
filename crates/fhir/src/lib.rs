//! FHIR R4: JSON with exact decimals, structure, search parameters, FHIRPath, views.
//!
//! Pure: no IO, no clock, no randomness, no async. What is stored and who may see it is decided elsewhere
//! (`store`, `gate`); how a resource travels over HTTP is `edge`.

#[macro_use]
pub mod json;

pub mod bundle;
pub mod compartment;
pub mod definitions;
pub mod patch;
pub mod path;
pub mod reference;
pub mod search;
pub mod terminology;
#[cfg(test)]
mod testing;
pub mod time;
pub mod validate;
pub mod view;
