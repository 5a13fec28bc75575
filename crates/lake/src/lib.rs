//! The only crate that names DataFusion: builds encrypted Parquet, answers SQL through secured tables.
//!
//! A statement's way: [`statement`] admits one read-only query, [`session`] plans it over [`table`]s whose scan is a
//! [`barrier`], [`verify`] looks at the final plan, [`render`] writes the answer. A build's way: [`cells`] become Arrow,
//! [`build`] sorts them into buckets, [`sink`] streams them out under [`keys`].
//!
//! Invariants: a product file is read only by a barrier; nothing is written that is not encrypted; no error quotes data.
//! Never here: permits are made (`gate`), snapshots admitted (`products::snapshots`), HTTP spoken (`edge`).

pub mod barrier;
pub mod build;
pub mod cells;
mod depth;
pub mod engine;
mod error;
pub mod footers;
pub mod keys;
pub mod mask;
pub mod render;
pub mod safe;
pub mod selftest;
pub mod session;
pub mod sink;
pub mod statement;
mod system;
pub mod table;
#[cfg(test)]
mod tests;
pub mod vaulted;
pub mod verify;

#[cfg(test)]
mod whole_tests;

pub use engine::{Lake, LakeParts};
pub use vaulted::VaultFileKeys;
