//! What can go wrong with a backup, in sentences that say what to do. Never PHI: paths, names and positions only.

use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("the backup target cannot be used now: {0}")]
    Target(#[source] object_store::Error),
    #[error("{doing} `{}`: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: std::io::Error },
    /// A piece that the target gives is not the one that was put there.
    #[error("`{piece}` in the backup is damaged or missing: restore from another backup, and take a new one")]
    Damaged { piece: String },
    /// The source itself is damaged: a backup of it would only look like one.
    #[error("log {log}, {} at byte {offset}: {what}; run `ward doctor`", path.display())]
    Source { log: String, path: PathBuf, offset: u64, what: &'static str },
    #[error("the key table cannot be copied: {0}")]
    KeyTable(#[from] rusqlite::Error),
    #[error("the backup cannot be opened with these root keys: {0}")]
    Keys(#[from] vault::VaultError),
    /// It cannot be done as asked; the text says what to do.
    #[error("{0}")]
    Refused(String),
}

impl From<object_store::Error> for BackupError {
    fn from(error: object_store::Error) -> Self {
        BackupError::Target(error)
    }
}

impl BackupError {
    pub fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> BackupError {
        let path = path.to_owned();
        move |source| BackupError::Io { doing, path, source }
    }

    pub fn refused(text: impl Into<String>) -> BackupError {
        BackupError::Refused(text.into())
    }

    pub(crate) fn damaged(piece: impl Into<String>) -> BackupError {
        BackupError::Damaged { piece: piece.into() }
    }
}

pub type Result<T> = std::result::Result<T, BackupError>;
