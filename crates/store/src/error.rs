//! What can go wrong in storage. Texts name neither values nor ids: those may be PHI. Doors turn these into what a
//! client sees (`edge`).

use base::NotCovered;
use vault::VaultError;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// To a client this looks like "not found".
    #[error(transparent)]
    NotCovered(#[from] NotCovered),
    #[error("the permit has expired: ask for a new decision")]
    Expired,
    /// Another write came first. The caller reads the position again and does its batch anew.
    #[error("a {rtype} is at version {found}, not {expected} as the batch takes for granted: read it again")]
    Conflict { rtype: String, expected: u32, found: u32 },
    /// The consumer's position is not where the batch begins: it was applied already, or another writer is at work.
    #[error("the consumer stands at {at}, not at {from} where the batch begins: read the position again")]
    Fenced { at: u64, from: u64 },
    /// `what` names the parameter or feature, never its value.
    #[error("{what} is not supported: leave it out or ask for it another way")]
    Unsupported { what: String },
    #[error("the page link is not valid for this request: start the search again")]
    BadCursor,
    #[error("more than {max} {what}: narrow the request")]
    TooMany { what: &'static str, max: usize },
    #[error("the domain is not served by this node: check its name")]
    UnknownDomain,
    #[error("the batch is not valid: {0}")]
    Invalid(&'static str),
    #[error("{0}: run `ward doctor`")]
    Corrupt(&'static str),
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// An outage, never "no right" and never "not found".
    #[error("the catalog cannot be reached or used now: see the source of this error")]
    Database(#[source] sqlx::Error),
    #[error("the search index cannot be used now: see the source of this error")]
    Index(#[source] rusqlite::Error),
    #[error("the store cannot {what}: see the source of this error")]
    Io { what: &'static str, source: std::io::Error },
    /// Deleted, and still in the database's log: it is not destroyed yet.
    #[error("what was deleted is still in the database's log, since a reader holds on to it: try again")]
    StillReadable,
    #[error("the node is stopping")]
    Stopping,
}

impl StoreError {
    /// What is stored is not what was written.
    pub fn corrupt(what: &'static str) -> Self {
        StoreError::Corrupt(what)
    }

    pub(crate) fn unsupported(what: impl Into<String>) -> Self {
        StoreError::Unsupported { what: what.into() }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        StoreError::Database(error)
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        StoreError::Index(error)
    }
}
