//! Backups of a mesh: incremental, sealed copies of its logs, objects, configuration and key slots in a folder or an
//! object store, and their restore.
//!
//! - [`take`](take()) copies while the node serves; `logs` up to a durable frame, `keys` the key table, apart.
//! - [`Restoration`] chooses and writes: journals at a point in time, governance always the newest (DESIGN law 11).
//! - [`manifest`] is what a backup says of itself, written last; `pieces` hold the rest; [`Target`] is where it lies.
//! - [`frames`] reads segments by place, for cutting and for `ward doctor`.
//!
//! Never here: root and epoch keys, which are in no backup; what entries mean; rebuilding what is derived (`ward`).

mod error;
pub mod frames;
mod keys;
mod list;
mod logs;
pub mod manifest;
mod pieces;
mod progress;
mod restore;
mod seal;
mod take;
mod target;
mod write;

#[cfg(test)]
mod tests;

pub use error::{BackupError, Result};
pub use keys::epochs_of;
pub use list::{Facts, Listed, list};
pub use logs::LogSource;
pub use manifest::{BackupId, Kind, Manifest, Opener};
pub use progress::{Moment, Progress};
pub use restore::{At, Layout, Places, Restoration, Restored, RestoredLog};
pub use seal::Seal;
pub use take::{CONTROL, KeysTo, NodeSource, Taken, take};
pub use target::{Target, folder_of};
