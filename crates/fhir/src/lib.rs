//! FHIR R4: JSON with exact decimals, structure, search parameters, FHIRPath, views.
//!
//! Pure: no IO, no clock, no randomness, no async. What is stored and who may see it is decided elsewhere
//! (`store`, `gate`); how a resource travels over HTTP is `edge`.

#[macro_use]
pub mod json;

pub mod definitions;
pub mod path;
pub mod search;
pub mod view;
