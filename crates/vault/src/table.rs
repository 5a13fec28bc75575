//! The port for slots and scopes: what `store` keeps in SQL, and a fake in memory that promises the same.
//!
//! The table sees wrapped keys alone. It is a store of its own, backed up apart from the data and for a short time.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use base::{DomainName, Timestamp};
use parking_lot::Mutex;

use crate::{Epoch, Holder, ObjectId, Scope, ScopeId, Slot, VaultError};

/// A scope key as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeRow {
    pub id: ScopeId,
    pub scope: Scope,
    /// 0 for the first key of this scope; one more each time a key has been used as often as is wise.
    pub generation: u32,
    /// The epoch whose key wraps it.
    pub epoch: Epoch,
    /// The wrapped key, opaque and of any length; empty once destroyed.
    pub wrapped: Vec<u8>,
    /// About how often the key has wrapped (counted by sampling).
    pub uses: u64,
    pub created: Timestamp,
    pub destroyed: bool,
}

/// Which scopes to find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScopeQuery {
    /// The one with this id.
    Id(ScopeId),
    /// All generations of exactly this scope, destroyed ones too.
    Scope(Scope),
    /// Every retention class, year and generation of this holder, destroyed ones too.
    Holder(DomainName, Holder),
    /// Those of the domain that are unassigned and not destroyed.
    LivingUnassigned(DomainName),
    /// Those wrapped under this epoch and not destroyed.
    Epoch(Epoch),
}

/// A change to a scope that is not destroyed. On a destroyed or unknown scope a change does nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScopeChange {
    /// The same key under another epoch. Does nothing unless the scope stands at `from`.
    Rewrap { id: ScopeId, from: Epoch, epoch: Epoch, wrapped: Vec<u8> },
    /// Adds to the use count.
    Use { id: ScopeId, add: u64 },
}

/// Slots, scopes and the node's named secrets. What cannot be reached is [`VaultError::Outage`].
#[async_trait]
pub trait KeyTable: Send + Sync {
    /// The slots of these objects, in the order asked; `None` where there is none.
    async fn get_slots(&self, objects: &[ObjectId]) -> Result<Vec<Option<Slot>>, VaultError>;

    /// When this returns all the slots are durable, each in place of an earlier slot of its object; on an error all or
    /// none of them are.
    async fn put_slots(&self, slots: &[Slot]) -> Result<(), VaultError>;

    /// When this returns the slots are gone, durably. An object without a slot is no error.
    async fn delete_slots(&self, objects: &[ObjectId]) -> Result<(), VaultError>;

    /// At most `max` scopes, ordered by id, those after `after` alone.
    async fn find_scopes(
        &self,
        query: &ScopeQuery,
        after: Option<ScopeId>,
        max: usize,
    ) -> Result<Vec<ScopeRow>, VaultError>;

    /// Stores the row unless its scope and generation are there already; returns the row that stands, durably. The
    /// first writer wins.
    async fn insert_scope(&self, row: &ScopeRow) -> Result<ScopeRow, VaultError>;

    /// Applies the changes, all or none; durable when it returns.
    async fn change_scopes(&self, changes: &[ScopeChange]) -> Result<(), VaultError>;

    /// When this returns the scope is marked destroyed, its wrapped key is overwritten by nothing, and every slot it
    /// wrapped is gone, all in one durable step. Again is no error; an unknown scope is none either.
    async fn destroy_scope(&self, id: ScopeId) -> Result<(), VaultError>;

    /// The secret of this name. Where there is none, `first` (when given) is stored durably and stands from then on:
    /// the first writer wins, and what stands is returned.
    async fn secret(&self, name: &str, first: Option<&[u8]>) -> Result<Option<Vec<u8>>, VaultError>;
}

/// The fake. A clone of the contents ([`MemoryKeyTable::snapshot`]) is a "backup" in tests of erasure.
#[derive(Debug, Default)]
pub struct MemoryKeyTable {
    inner: Mutex<Tables>,
}

#[derive(Debug, Default, Clone)]
struct Tables {
    slots: HashMap<ObjectId, Slot>,
    scopes: BTreeMap<ScopeId, ScopeRow>,
    secrets: BTreeMap<String, Vec<u8>>,
}

impl MemoryKeyTable {
    pub fn new() -> Self {
        Self::default()
    }

    /// A copy of all that is stored now.
    pub fn snapshot(&self) -> MemoryKeyTable {
        MemoryKeyTable { inner: Mutex::new(self.inner.lock().clone()) }
    }
}

impl ScopeQuery {
    /// Whether the row is one of those asked for; the meaning every adapter must give to the query.
    pub fn matches(&self, row: &ScopeRow) -> bool {
        match self {
            ScopeQuery::Id(id) => row.id == *id,
            ScopeQuery::Scope(scope) => row.scope == *scope,
            ScopeQuery::Holder(domain, holder) => row.scope.domain == *domain && row.scope.holder == *holder,
            ScopeQuery::LivingUnassigned(domain) => {
                !row.destroyed && row.scope.domain == *domain && matches!(row.scope.holder, Holder::Unassigned(_))
            }
            ScopeQuery::Epoch(epoch) => !row.destroyed && row.epoch == *epoch,
        }
    }
}

#[async_trait]
impl KeyTable for MemoryKeyTable {
    async fn get_slots(&self, objects: &[ObjectId]) -> Result<Vec<Option<Slot>>, VaultError> {
        let inner = self.inner.lock();
        Ok(objects.iter().map(|object| inner.slots.get(object).copied()).collect())
    }

    async fn put_slots(&self, slots: &[Slot]) -> Result<(), VaultError> {
        self.inner.lock().slots.extend(slots.iter().map(|slot| (slot.object, *slot)));
        Ok(())
    }

    async fn delete_slots(&self, objects: &[ObjectId]) -> Result<(), VaultError> {
        let mut inner = self.inner.lock();
        for object in objects {
            inner.slots.remove(object);
        }
        Ok(())
    }

    async fn find_scopes(
        &self,
        query: &ScopeQuery,
        after: Option<ScopeId>,
        max: usize,
    ) -> Result<Vec<ScopeRow>, VaultError> {
        let inner = self.inner.lock();
        let rows = inner.scopes.values().filter(|row| after.is_none_or(|after| row.id > after) && query.matches(row));
        Ok(rows.take(max).cloned().collect())
    }

    async fn insert_scope(&self, row: &ScopeRow) -> Result<ScopeRow, VaultError> {
        let mut inner = self.inner.lock();
        let same = |other: &&ScopeRow| other.scope == row.scope && other.generation == row.generation;
        if let Some(standing) = inner.scopes.values().find(same) {
            return Ok(standing.clone());
        }
        if inner.scopes.contains_key(&row.id) {
            return Err(VaultError::Invalid("the scope id is taken"));
        }
        inner.scopes.insert(row.id, row.clone());
        Ok(row.clone())
    }

    async fn change_scopes(&self, changes: &[ScopeChange]) -> Result<(), VaultError> {
        let mut inner = self.inner.lock();
        for change in changes {
            let (ScopeChange::Rewrap { id, .. } | ScopeChange::Use { id, .. }) = change;
            let Some(row) = inner.scopes.get_mut(id).filter(|row| !row.destroyed) else { continue };
            match change {
                ScopeChange::Rewrap { from, epoch, wrapped, .. } if row.epoch == *from => {
                    row.epoch = *epoch;
                    row.wrapped = wrapped.clone();
                }
                ScopeChange::Rewrap { .. } => {}
                ScopeChange::Use { add, .. } => row.uses = row.uses.saturating_add(*add),
            }
        }
        Ok(())
    }

    async fn destroy_scope(&self, id: ScopeId) -> Result<(), VaultError> {
        let mut inner = self.inner.lock();
        if let Some(row) = inner.scopes.get_mut(&id) {
            row.destroyed = true;
            row.wrapped = Vec::new();
        }
        inner.slots.retain(|_, slot| slot.scope != id);
        Ok(())
    }

    async fn secret(&self, name: &str, first: Option<&[u8]>) -> Result<Option<Vec<u8>>, VaultError> {
        let mut inner = self.inner.lock();
        match (inner.secrets.get(name), first) {
            (Some(standing), _) => Ok(Some(standing.clone())),
            (None, None) => Ok(None),
            (None, Some(first)) => {
                inner.secrets.insert(name.to_owned(), first.to_vec());
                Ok(Some(first.to_vec()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_fake_keeps_the_contract() {
        crate::contract::key_table(&MemoryKeyTable::new()).await;
    }
}
