//! The key of a domain's search index: an object of the vault under a scope of its own, so that it can be destroyed and
//! turns with the epoch. A small file beside the index says which object it is; it holds no secret.
//!
//! An index whose key cannot be had is thrown away and filled again from silver.

use std::path::{Path, PathBuf};

use base::{DomainName, Timestamp};
use vault::{Holder, Key, Kind, ObjectId, ObjectName, RetentionClass, Scope, ScopeId, Vault};

use crate::StoreError;

/// Scopes of index keys are classes of this prefix, one for each key.
pub const INDEX_CLASS: &str = "index-";

/// A key, and how it is found again.
#[derive(Clone)]
pub(crate) struct IndexKey {
    pub object: ObjectId,
    pub scope: ScopeId,
    pub key: Key,
}

fn name(domain: &DomainName) -> ObjectName<'_> {
    ObjectName { domain, kind: Kind::Config, id: b"search-index", version: 1 }
}

/// Durable in the vault when it returns.
pub(crate) async fn fresh(vault: &Vault, domain: &DomainName, now: Timestamp) -> Result<IndexKey, StoreError> {
    let mut number = now.ms().max(0);
    loop {
        let retention = RetentionClass::parse(&format!("{INDEX_CLASS}{number}"))
            .map_err(|_| StoreError::Invalid("an index key cannot be named"))?;
        let scope = Scope { domain: domain.clone(), holder: Holder::Shared, retention, year: 0 };
        match vault.object_key(name(domain), &scope).await {
            Ok((object, key, slot)) => {
                vault.put_slots(&[slot]).await?;
                return Ok(IndexKey { object, scope: slot.scope, key });
            }
            // One of the same millisecond was destroyed already.
            Err(vault::VaultError::Destroyed) => number += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

/// The key that the file beside the index names; `None` when there is none or it was destroyed.
pub(crate) async fn standing(vault: &Vault, domain: &DomainName, index: &Path) -> Result<Option<Key>, StoreError> {
    let Ok(text) = std::fs::read_to_string(beside(index)) else { return Ok(None) };
    let Some(object) = ObjectId::parse(text.trim()) else { return Ok(None) };
    match vault.load_key(object, name(domain)).await {
        Ok(key) => Ok(Some(key)),
        Err(error) if error.is_outage() => Err(error.into()),
        Err(_) => Ok(None),
    }
}

/// Names the key in the file beside the index. Derived like the index itself: a lost one costs a rebuild.
pub(crate) fn name_it(index: &Path, object: ObjectId) -> Result<(), StoreError> {
    let io = |source| StoreError::Io { what: "name the key of a search index", source };
    if let Some(folder) = index.parent() {
        std::fs::create_dir_all(folder).map_err(io)?;
    }
    let next = index.with_extension("key.next");
    std::fs::write(&next, format!("{object}\n")).map_err(io)?;
    std::fs::rename(&next, beside(index)).map_err(io)
}

fn beside(index: &Path) -> PathBuf {
    index.with_extension("key")
}

/// Destroys every other index key of the domain, those of interrupted renewals too.
pub(crate) async fn destroy_others(vault: &Vault, domain: &DomainName, keep: &IndexKey) -> Result<(), StoreError> {
    for row in vault.scopes_of(domain, Holder::Shared).await? {
        if !row.is_destroyed() && row.scope.retention.as_str().starts_with(INDEX_CLASS) && row.id != keep.scope {
            vault.destroy_scope(row.id).await?;
        }
    }
    Ok(())
}
