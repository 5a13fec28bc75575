//! Keys: **object key → scope key → epoch key → root**; sealing, opening, re-wrapping, destroying.
//!
//! - Every object has its own random AES-256-GCM key. Its [`Slot`] (the wrapped key) is a small row that lives apart
//!   from the data, wrapped by the key of a [`Scope`]: holder × retention class × year.
//! - Scope keys are wrapped by an epoch key, which lives in [`RootKeys`]. When an epoch turns, living scope keys are
//!   wrapped anew and the old epoch key is destroyed, so what was destroyed stays destroyed in backups too.
//! - Associated data binds domain, kind, id, version and the ids of the keys: a value moved elsewhere does not open.
//!
//! Read [`Vault`] first, then the two ports [`KeyTable`] (slots and scopes, filled by `store`) and [`RootKeys`]
//! (`root`). Large objects go through [`stream`]; the node's own secrets are in `secret`.
//!
//! Never here: SQL, the network, what an object means, who may open it (`gate` decides, `store` checks the permit).
//! Not defended: root on the live machine. It is narrowed by short lives in the cache, wiping, and
//! [`process::harden`].

mod aead;
mod cache;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod epoch;
mod error;
mod name;
mod plain;
pub mod process;
mod random;
mod renew;
#[cfg(test)]
mod renew_tests;
mod root;
mod scope;
mod scopes;
mod secret;
mod slot;
pub mod stream;
mod table;
#[cfg(test)]
mod tests;
mod unassigned;
mod uses;
mod vault;

pub use error::VaultError;
pub use name::{Kind, ObjectId, ObjectName};
pub use plain::{Key, Plain};
pub use renew::{Finality, Renewal};
pub use root::file::{FileRoot, FileRootKeys};
pub use root::memory::MemoryRootKeys;
pub use root::secret::{PassphraseCost, RootSecret};
pub use root::{Epoch, RootKeys, WrapItem};
pub use scope::{Holder, RetentionClass, Scope, ScopeId};
pub use slot::Slot;
pub use table::{
    KeyTable, MemoryKeyTable, ScopeChange, ScopePage, ScopeQuery, ScopeRow, ScopeState, SecretTable, slots_refused,
};
pub use vault::{EpochTurn, Vault, VaultOptions};
