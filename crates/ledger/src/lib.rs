//! Append-only logs: a write-ahead head with one sync for many appends, Merkle tiles with signed checkpoints behind
//! it, proofs, reading by position. DESIGN laws 1 (durable before acknowledged) and 4 (history cannot be rewritten
//! unseen).
//!
//! - [`Log`] is what others use; `head` appends and recovers, `tail` publishes, `reader` reads.
//! - Every byte goes through `disk`, the IO port; `disk::sim` is a disk with power cuts.
//! - [`merkle`], [`tiles`], [`note`] are RFC 9162, C2SP tlog-tiles and C2SP signed notes.
//! - Bytes on disk: docs/log-format.md. The auditor's checker, which shares no code with this crate: `ward-verify`.
//!
//! Never here: keys and encryption (`vault`), the meaning of entries (`gate`, `clinical`).

mod error;
mod frame;
mod head;
mod log;
pub mod merkle;
pub mod note;
mod options;
mod reader;
mod scan;
mod segment;
mod tail;
pub mod tiles;
mod verify;

pub use disk::{Disk, DiskFile, RealDisk};
pub use error::{AppendError, LedgerError};
pub use frame::{Entry, LEAF_BYTES_MAX, NewEntry, PARTS_MAX};
pub use log::{Log, rebuild_tiles};
pub use merkle::Hash;
pub use note::{Checkpoint, CheckpointSigner, Ed25519Signer};
pub use options::LogOptions;
pub use verify::Verified;

#[cfg(test)]
mod log_tests;
#[cfg(test)]
mod sim_tests;
#[cfg(test)]
mod torn_tests;
