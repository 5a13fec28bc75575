//! What can go wrong with a log, said so that the reader knows what to do. Never holds entry content.

use std::io;
use std::path::{Path, PathBuf};

use disk::is_no_space;

/// Why a log could not be opened, read or verified.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another process writes this log.
    #[error("the log in `{}` is in use by {holder}; stop that process or use it through its socket", dir.display())]
    Locked { dir: PathBuf, holder: String },
    /// The files contradict themselves or a signed checkpoint. Nothing is repaired by guessing.
    #[error("the log is damaged: {what} in `{}` at byte {offset}; keep the folder as it is, run ward-verify on it and restore from a backup", file.display())]
    Damaged { what: &'static str, file: PathBuf, offset: u64 },
    /// The tiles or the published checkpoint, which are derived, do not fit; the segments may be whole.
    #[error("{what} in `{}`; rebuild the tiles from the segments", file.display())]
    Tiles { what: &'static str, file: PathBuf },
    /// The published checkpoint is not by this log's key.
    #[error("the checkpoint `{}` is not signed by this log's key for this origin; check the configured key and folder", file.display())]
    WrongKey { file: PathBuf },
    /// Asked for what the log does not hold (yet).
    #[error("entry or size {asked} is beyond the log's {size} entries; ask for a smaller one")]
    OutOfRange { asked: u64, size: u64 },
    /// Tiles are being written again, and proofs have to wait for them.
    #[error("the tiles stand at entry {tiled} and follow the log; try again shortly")]
    Behind { tiled: u64 },
    /// An option that cannot work.
    #[error("the log option {option} must be {rule}")]
    Options { option: &'static str, rule: &'static str },
    #[error("cannot {action} `{}`: {source}; check the disk and the permissions of the folder", file.display())]
    Io { action: &'static str, file: PathBuf, source: io::Error },
}

impl LedgerError {
    pub(crate) fn io<'a>(action: &'static str, file: &'a Path) -> impl FnOnce(io::Error) -> LedgerError + 'a {
        move |source| LedgerError::Io { action, file: file.to_owned(), source }
    }

    pub(crate) fn damaged(what: &'static str, file: &Path, offset: u64) -> LedgerError {
        LedgerError::Damaged { what, file: file.to_owned(), offset }
    }

    /// Whether this is a full disk: the only failure of a write that is worth another try.
    pub fn is_no_space(&self) -> bool {
        matches!(self, LedgerError::Io { source, .. } if is_no_space(source))
    }
}

/// Why an append was not taken. Whatever the reason, it was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The queue before the disk is full.
    #[error("the log is busy; try again in {retry_after_ms} ms")]
    Busy { retry_after_ms: u64 },
    /// More bytes or parts than one entry or batch may have.
    #[error("the entry has more than {limit} {unit}; store the large part as an object and append its reference")]
    TooLarge { limit: usize, unit: &'static str },
    /// The disk is full; nothing was written, and the log goes on when there is space.
    #[error("the disk of the log is full; free space and try again")]
    NoSpace,
    /// The disk failed; the process must end and recover at its next start.
    #[error("the disk of the log failed; restart the node, which recovers what was acknowledged")]
    Poisoned,
    /// The log was closed.
    #[error("the log is closed; the node is stopping")]
    Closed,
}
