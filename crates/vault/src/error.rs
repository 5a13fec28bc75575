//! What can go wrong with keys, by what the caller can do about it. Texts hold no ids and no values.

use std::error::Error;

/// An outage is never "no right" and never "not found": the caller answers busy and tries again.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("{what} cannot be reached or used now: try again in {retry_after_ms} ms")]
    Outage {
        what: &'static str,
        retry_after_ms: u64,
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// For ever: the key is gone by erasure or expiry.
    #[error("the key was destroyed: what it sealed cannot be read again")]
    Destroyed,
    #[error("there is no key slot for the object: it was never stored, or it was erased")]
    NoSlot,
    /// Never the same as destroyed: what is destroyed is marked, so a table that lost rows is told apart.
    #[error("the key table does not know the scope of this key, so rows of it are missing: restore its newest backup")]
    UnknownScope,
    /// The bytes, the name, or a key on the way are not those that were sealed.
    #[error("what was read is not what was sealed: run `ward doctor`")]
    Tampered,
    #[error("the root key does not fit: check the passphrase or the machine key file")]
    WrongRoot,
    #[error("there are no root keys yet: run `ward init`")]
    NotInitialised,
    /// A condition of safe keeping is not met.
    #[error("the keys are not kept safely: {0}")]
    Insecure(&'static str),
    /// A wrapping key has been used as often as is safe (NIST SP 800-38D §8.3).
    #[error("a wrapping key has reached its use limit: turn the key epoch")]
    Exhausted,
    #[error("the request to the vault is not valid: {0}")]
    Invalid(&'static str),
}

impl VaultError {
    pub const RETRY_AFTER_MS: u64 = 1_000;

    /// For adapters: the part named cannot be reached or used now.
    pub fn outage(what: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        VaultError::Outage { what, retry_after_ms: Self::RETRY_AFTER_MS, source: Some(source.into()) }
    }

    /// Whether trying again later can help.
    pub fn is_outage(&self) -> bool {
        matches!(self, VaultError::Outage { .. })
    }
}
