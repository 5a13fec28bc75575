//! The manifest of a snapshot: which files make up one state of a product.
//!
//! A snapshot exists when the hash of its manifest stands in the control log (see [`crate::snapshots`]); a manifest
//! alone proves nothing. Holds names and counts, no patient data.

use base::{DomainName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::sql::ProductColumn;

/// Layout of files and manifest; a reader refuses another.
pub const FORMAT: u32 = 1;

/// One encrypted Parquet file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFile {
    /// In the object store.
    pub path: String,
    pub rows: u64,
    pub bytes: u64,
    /// Hex of the vault object whose slot holds the file key.
    pub object: String,
    /// Hex SHA-256 of the file's bytes.
    pub sha256: String,
    /// Which of `buckets` by patient ordinal.
    pub bucket: u16,
}

/// Everything needed to read one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub domain: DomainName,
    pub product: String,
    pub version: String,
    /// Hex SHA-256 of contract and view, as they were.
    pub definition: String,
    pub snapshot: String,
    pub columns: Vec<ProductColumn>,
    pub buckets: u16,
    pub files: Vec<SnapshotFile>,
    pub rows: u64,
    /// The silver change number it was built at: an incremental build goes on from here.
    pub change: u64,
    /// Smallest and largest journal index of the resources in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<(u64, u64)>,
    /// Values that did not fit their column's type and became null.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unfit: Vec<(String, u64)>,
    /// Resources the view could not be applied to.
    #[serde(default)]
    pub skipped: u64,
    pub created: Timestamp,
}

impl Manifest {
    /// The bytes that are hashed and kept.
    pub fn to_bytes(&self) -> Vec<u8> {
        // A struct of strings and numbers always serialises.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// `None` for anything but a manifest of this format.
    pub fn from_bytes(bytes: &[u8]) -> Option<Manifest> {
        serde_json::from_slice(bytes).ok().filter(|m: &Manifest| m.format == FORMAT)
    }
}
