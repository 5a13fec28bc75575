//! The port for epoch keys and the root above them. `file` keeps them in files, `memory` is the fake, `bounded`
//! puts limits of time and number around any of them.
//!
//! Never here: scope keys at rest (see `table`), the turn of an epoch (see `epoch`).

pub(crate) mod bounded;
#[cfg(test)]
mod crash_tests;
mod durable;
pub mod file;
#[cfg(test)]
mod file_tests;
pub mod memory;
mod ring;
pub mod secret;

use std::fmt;

use async_trait::async_trait;
use base::Timestamp;

use crate::{Plain, VaultError};

/// A key epoch. They count up from 1; [`Epoch::ROOT`] is the root itself, which does not turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// For the few records that outlive every epoch: the node secret.
    pub const ROOT: Epoch = Epoch(0);
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One thing to wrap or unwrap, with what is bound to it.
#[derive(Clone, Copy)]
pub struct WrapItem<'a> {
    pub aad: &'a [u8],
    /// A key of at most 1 KiB to wrap, or a wrapped one to unwrap.
    pub bytes: &'a [u8],
}

/// Holds the epoch keys and never gives one out. What cannot be reached is [`VaultError::Outage`].
#[async_trait]
pub trait RootKeys: Send + Sync {
    /// The living epochs in ascending order, never none; the last is the current one.
    async fn epochs(&self) -> Result<Vec<Epoch>, VaultError>;

    /// When a living epoch began; `None` where that was not noted.
    async fn begun(&self, epoch: Epoch) -> Result<Option<Timestamp>, VaultError>;

    /// Begins the next epoch with a fresh random key. When this returns it survives a crash and is the current one.
    async fn begin_epoch(&self, now: Timestamp) -> Result<Epoch, VaultError>;

    /// Wraps under a living epoch or [`Epoch::ROOT`], in the order given; all or an error. A destroyed or unknown
    /// epoch is [`VaultError::Destroyed`].
    async fn wrap(&self, epoch: Epoch, items: &[WrapItem<'_>]) -> Result<Vec<Vec<u8>>, VaultError>;

    /// Unwraps what `wrap` gave under the same epoch and aad; each item has its own result
    /// ([`VaultError::Tampered`] where it does not fit). A destroyed or unknown epoch is [`VaultError::Destroyed`].
    async fn unwrap(&self, epoch: Epoch, items: &[WrapItem<'_>]) -> Result<Vec<Result<Plain, VaultError>>, VaultError>;

    /// When this returns nothing that was wrapped under the epoch can be unwrapped again, also after a crash, and the bytes of
    /// its key are overwritten. Refused for the current epoch and for the root. Again is no error.
    async fn destroy_epoch(&self, epoch: Epoch) -> Result<(), VaultError>;
}
