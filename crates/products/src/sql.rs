//! The SQL port: what products ask of the engine that builds and queries tables. `lake` implements it.
//!
//! No Arrow and no DataFusion here: rows go in as cells, answers come out as bytes in the format asked for.

use std::fmt;

use async_trait::async_trait;
use base::{DataClass, DomainName, Mask, Ordinal, Permit, Read, Sensitivity, Timestamp, Write};
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

use crate::manifest::{Manifest, SnapshotFile};

/// `domain.product`, as it stands in SQL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    pub domain: DomainName,
    pub product: String,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.domain, self.product)
    }
}

/// What a column holds. FHIR dates are partial (`1985`, `1985-03`) and keep their text, which sorts by time where the
/// precision is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ColumnType {
    Text,
    Boolean,
    Integer,
    /// Exact, with so many digits in all and after the point.
    Decimal {
        precision: u8,
        scale: i8,
    },
    Double,
}

impl ColumnType {
    /// FHIR decimals when the contract says nothing else.
    pub const DECIMAL: ColumnType = ColumnType::Decimal { precision: 38, scale: 9 };
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ColumnType::Text => f.write_str("text"),
            ColumnType::Boolean => f.write_str("boolean"),
            ColumnType::Integer => f.write_str("bigint"),
            ColumnType::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
            ColumnType::Double => f.write_str("double"),
        }
    }
}

/// A column of a product, as built and as policy sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProductColumn {
    pub name: String,
    pub kind: ColumnType,
    /// A list of such values.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub collection: bool,
    pub class: DataClass,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    pub nullable: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub primary_key: bool,
    /// The FHIRPath the value comes from.
    #[serde(default)]
    pub source_path: String,
}

/// One value of a row.
#[derive(Clone, PartialEq)]
pub enum Cell {
    Null,
    Text(String),
    Boolean(bool),
    Integer(i64),
    /// The exact source text.
    Decimal(String),
    List(Vec<Cell>),
}

/// Shape only: cells hold patient data.
impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cell::Null => "Null",
            Cell::Text(_) => "Text(..)",
            Cell::Boolean(_) => "Boolean(..)",
            Cell::Integer(_) => "Integer(..)",
            Cell::Decimal(_) => "Decimal(..)",
            Cell::List(_) => "List(..)",
        })
    }
}

/// The rows of one resource, with the labels they are guarded by. No rows means that the resource has none any more.
#[derive(Debug, Clone, PartialEq)]
pub struct ResourceRows {
    /// Which resource; the same in each of its versions, and only there.
    pub key: u128,
    /// Its place in the order of changes: of two with one key, the later one holds.
    pub change: u64,
    pub patient: Ordinal,
    pub sensitivity: Sensitivity,
    pub rows: Vec<Vec<Cell>>,
}

/// Rows of a build, in chunks, in the order of changes. A resource that changes meanwhile comes again.
#[async_trait]
pub trait RowSource: Send {
    /// The next resources, `None` at the end. After an error nothing more is asked for.
    async fn next(&mut self) -> Result<Option<Vec<ResourceRows>>, SqlError>;

    /// About how many rows will come; it sets the number of buckets.
    fn rows_hint(&self) -> u64 {
        0
    }
}

/// What a build writes.
#[derive(Debug, Clone)]
pub struct BuildTarget {
    pub table: TableName,
    /// New for each build; the folder of its files.
    pub snapshot: String,
    pub columns: Vec<ProductColumn>,
    /// Retention class of the file keys.
    pub retention: Option<String>,
    pub at: Timestamp,
}

/// What a build wrote. Nothing of it can be read before its manifest stands in the control log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Built {
    pub files: Vec<SnapshotFile>,
    pub buckets: u16,
    pub rows: u64,
    /// Values that did not fit their column's type and became null, by column.
    pub unfit: Vec<(String, u64)>,
}

/// A table a statement may read: the snapshot, its columns with today's classes, and the permit.
#[derive(Debug, Clone)]
pub struct SourceTable {
    pub name: TableName,
    pub columns: Vec<ProductColumn>,
    pub manifest: std::sync::Arc<Manifest>,
    pub permit: Permit<Read>,
}

/// A table as the system tables show it.
#[derive(Debug, Clone)]
pub struct VisibleTable {
    pub name: TableName,
    pub description: Option<String>,
    pub columns: Vec<ProductColumn>,
}

/// How the answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// One JSON object a line (`application/x-ndjson`).
    #[default]
    JsonLines,
    /// RFC 4180 with a header line.
    Csv,
    /// Arrow IPC stream (`application/vnd.apache.arrow.stream`).
    ArrowStream,
}

impl Format {
    pub fn media_type(self) -> &'static str {
        match self {
            Format::JsonLines => "application/x-ndjson",
            Format::Csv => "text/csv; charset=utf-8",
            Format::ArrowStream => "application/vnd.apache.arrow.stream",
        }
    }
}

/// One statement with everything it may touch.
#[derive(Debug, Clone)]
pub struct SqlQuery {
    pub sql: String,
    /// Schema of unqualified names: the caller's domain.
    pub default_domain: DomainName,
    pub tables: Vec<SourceTable>,
    /// What `information_schema` shows: the tables this caller could read.
    pub visible: Vec<VisibleTable>,
    pub format: Format,
    /// At most so many rows, below the node's own limit.
    pub rows_max: Option<u64>,
}

/// A column of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AnswerColumn {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub nullable: bool,
}

/// A column that was shown masked, with the rule and its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MaskedColumn {
    pub table: TableName,
    pub column: String,
    #[serde(flatten)]
    pub mask: Mask,
}

/// What a statement gave. The patients are those whose rows passed the filter of the tables it read: a statement may
/// have shown fewer, never more.
#[derive(Clone)]
pub struct SqlAnswer {
    pub columns: Vec<AnswerColumn>,
    pub rows: u64,
    /// More rows existed than may be shown.
    pub truncated: bool,
    pub body: Vec<u8>,
    pub format: Format,
    pub masked: Vec<MaskedColumn>,
    pub patients: Vec<(DomainName, RoaringBitmap)>,
}

/// Shape only: the body holds patient data.
impl fmt::Debug for SqlAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlAnswer")
            .field("columns", &self.columns.len())
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

/// Why a statement or build did not run. No text of it quotes data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SqlError {
    /// The text is not SQL, or names what the caller cannot see. The caller's own words may stand in it.
    #[error("{what}")]
    Invalid { what: String },
    /// A statement of a kind that is never run.
    #[error("{what}")]
    Refused { what: String },
    /// The same for a table that is not there and one that is not permitted.
    #[error("table `{table}` does not exist or you may not read it")]
    NoSuchTable { table: String },
    #[error("the permit does not cover the {0} asked for")]
    NotCovered(&'static str),
    #[error("the statement was stopped after {timeout_ms} ms: narrow it, or read less at once")]
    TimedOut { timeout_ms: u64 },
    #[error("the statement needs more than {what}: narrow it, or aggregate more")]
    TooLarge { what: &'static str },
    #[error("the engine is busy, try again in {retry_after_ms} ms")]
    Busy { retry_after_ms: u64 },
    /// The data made an operation fail. What exactly stays inside: it could tell of rows the caller may not see.
    #[error(
        "an operation of the statement failed on the data: check casts, divisions and ranges (incident {incident})"
    )]
    Data { incident: String },
    #[error("the engine failed (incident {incident})")]
    Broken { incident: String },
}

/// Builds and queries tables of products. Permits are checked inside, whoever calls.
#[async_trait]
pub trait SqlEngine: Send + Sync {
    /// The tables a statement would read, each once, none of them opened. A statement that is not one read-only query
    /// is refused here.
    fn tables(&self, sql: &str, default_domain: &DomainName) -> Result<Vec<TableName>, SqlError>;

    /// Runs one read-only statement over exactly these tables. Rows, sensitivities and masks follow each table's
    /// permit; a permit that does not cover its table fails the whole.
    async fn query(&self, query: SqlQuery) -> Result<SqlAnswer, SqlError>;

    /// Writes the files of one snapshot, encrypted under keys that are in the vault when this returns, durable when
    /// this returns. On error no file stays that could be read.
    async fn build(
        &self,
        permit: &Permit<Write>,
        target: &BuildTarget,
        rows: &mut dyn RowSource,
    ) -> Result<Built, SqlError>;

    /// Removes files of a snapshot that no reader needs any more. Files already gone are no error.
    async fn remove(&self, permit: &Permit<Write>, table: &TableName, files: &[SnapshotFile]) -> Result<(), SqlError>;

    /// Proves on this machine that what is written is encrypted and does not open under another key.
    async fn self_test(&self) -> Result<(), SqlError>;
}
