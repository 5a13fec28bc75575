//! Data products: contracts, their checks and gates, snapshots, and the SQL port.
//!
//! A product is a folder `domains/<d>/products/<p>` with `contract.yaml` and `view.json`. [`contract`] reads the one,
//! `fhir::view` the other, [`check`] compares them, [`classify`] derives column classes, [`registry`] holds the result.
//! A build goes through [`sql::SqlEngine`], which `lake` implements; what it wrote becomes a [`manifest`].
//! Never here: Arrow, DataFusion, HTTP.

pub mod builder;
pub mod check;
pub mod classify;
pub mod contract;
pub mod diagnostic;
pub mod manifest;
pub mod registry;
pub mod snapshots;
pub mod sql;

pub use builder::{BuildError, BuildReport, Builder, BuilderParts, ProductStatus};
pub use diagnostic::{Diagnostic, Severity};
pub use manifest::{Manifest, SnapshotFile};
pub use registry::{Product, Registry};
pub use snapshots::{Published, SnapshotBook, SnapshotError};
pub use sql::{
    AnswerColumn, BuildTarget, Built, Cell, ColumnType, Format, MaskedColumn, ProductColumn, ResourceRows, RowSource,
    SourceTable, SqlAnswer, SqlEngine, SqlError, SqlQuery, TableName, VisibleTable,
};
