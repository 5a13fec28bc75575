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
    /// The key has wrapped at most so often: uses are reserved before they are made.
    pub uses: u64,
    pub created: Timestamp,
    pub state: ScopeState,
}

/// How a scope key stands. It only ever goes on in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScopeState {
    Living,
    /// A further generation took its place: it opens what it wrapped and takes no new slot.
    Closed,
    Destroyed,
}

impl ScopeState {
    /// The code in a table.
    pub fn code(self) -> u8 {
        match self {
            ScopeState::Living => 0,
            ScopeState::Destroyed => 1,
            ScopeState::Closed => 2,
        }
    }

    pub fn from_code(code: u8) -> Option<Self> {
        [ScopeState::Living, ScopeState::Destroyed, ScopeState::Closed].into_iter().find(|state| state.code() == code)
    }
}

impl ScopeRow {
    pub fn is_destroyed(&self) -> bool {
        self.state == ScopeState::Destroyed
    }
}

/// Scopes that were found, in the order of their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScopePage {
    pub rows: Vec<ScopeRow>,
    /// Rows that cannot be read as a scope: what the database gave is not what was put there.
    pub damaged: Vec<ScopeId>,
    /// Where to go on; `None` when this was all.
    pub next: Option<Vec<u8>>,
}

/// The scope of these slots takes no more of them; whoever did the wrapping does it anew.
pub fn slots_refused() -> VaultError {
    VaultError::outage("a scope key", "it was renewed or destroyed while something was wrapped under it")
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
    /// Takes no slot from now on.
    Close { id: ScopeId },
}

impl ScopeChange {
    pub fn id(&self) -> ScopeId {
        let (ScopeChange::Rewrap { id, .. } | ScopeChange::Use { id, .. } | ScopeChange::Close { id }) = self;
        *id
    }
}

/// The node's named secrets, sealed. What cannot be reached is [`VaultError::Outage`].
#[async_trait]
pub trait SecretTable: Send + Sync {
    /// The secret of this name. Where there is none, `first` (when given) is stored durably and stands from then on:
    /// the first writer wins, and what stands is returned.
    async fn secret(&self, name: &str, first: Option<&[u8]>) -> Result<Option<Vec<u8>>, VaultError>;

    /// Puts `to` in place of `from`, durably, and overwrites what stood there. `false`, and nothing is changed, where
    /// something else stands.
    async fn replace_secret(&self, name: &str, from: &[u8], to: &[u8]) -> Result<bool, VaultError>;
}

/// Slots and scopes. What cannot be reached is [`VaultError::Outage`].
#[async_trait]
pub trait KeyTable: SecretTable {
    /// The slots of these objects, in the order asked; `None` where there is none.
    async fn get_slots(&self, objects: &[ObjectId]) -> Result<Vec<Option<Slot>>, VaultError>;

    /// At most `max` slots that this scope wraps, ordered by object, those after `after` alone.
    async fn find_slots(&self, scope: ScopeId, after: Option<ObjectId>, max: usize) -> Result<Vec<Slot>, VaultError>;

    /// When this returns all the slots are durable, each in place of an earlier slot of its object; on an error all or
    /// none of them are. Where the scope of one is closed or destroyed, none is stored ([`slots_refused`]).
    async fn put_slots(&self, slots: &[Slot]) -> Result<(), VaultError>;

    /// When this returns the slots are gone, durably. An object without a slot is no error.
    async fn delete_slots(&self, objects: &[ObjectId]) -> Result<(), VaultError>;

    /// At most `max` scopes, ordered by id, those after `after` (a page's `next`) alone. One row that cannot be read
    /// never hides the others.
    async fn find_scopes(&self, query: &ScopeQuery, after: Option<&[u8]>, max: usize) -> Result<ScopePage, VaultError>;

    /// Stores the row unless its scope and generation are there already; returns the row that stands, durably. The
    /// first writer wins.
    async fn insert_scope(&self, row: &ScopeRow) -> Result<ScopeRow, VaultError>;

    /// As [`KeyTable::insert_scope`], of many rows in one durable step where the table can.
    async fn insert_scopes(&self, rows: &[ScopeRow]) -> Result<Vec<ScopeRow>, VaultError> {
        let mut stand = Vec::with_capacity(rows.len());
        for row in rows {
            stand.push(self.insert_scope(row).await?);
        }
        Ok(stand)
    }

    /// Applies the changes, all or none; durable when it returns.
    async fn change_scopes(&self, changes: &[ScopeChange]) -> Result<(), VaultError>;

    /// When this returns the scope is marked destroyed, and its wrapped key and every slot it wrapped are gone from the
    /// table and from its files, all in one durable step. An outage may mean that the mark stands and old bytes are still
    /// in a file: it is not destroyed until a call returns. Again is no error; an unknown scope is none either.
    async fn destroy_scope(&self, id: ScopeId) -> Result<(), VaultError>;
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

    /// For tests: a bit of the scope's wrapped key flips.
    pub fn damage(&self, id: ScopeId) {
        if let Some(byte) = self.inner.lock().scopes.get_mut(&id).and_then(|row| row.wrapped.last_mut()) {
            *byte ^= 1;
        }
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
                !row.is_destroyed() && row.scope.domain == *domain && matches!(row.scope.holder, Holder::Unassigned(_))
            }
            ScopeQuery::Epoch(epoch) => !row.is_destroyed() && row.epoch == *epoch,
        }
    }
}

#[async_trait]
impl KeyTable for MemoryKeyTable {
    async fn get_slots(&self, objects: &[ObjectId]) -> Result<Vec<Option<Slot>>, VaultError> {
        let inner = self.inner.lock();
        Ok(objects.iter().map(|object| inner.slots.get(object).copied()).collect())
    }

    async fn find_slots(&self, scope: ScopeId, after: Option<ObjectId>, max: usize) -> Result<Vec<Slot>, VaultError> {
        let inner = self.inner.lock();
        let asked = |slot: &&Slot| slot.scope == scope && after.is_none_or(|after| slot.object > after);
        let mut slots: Vec<Slot> = inner.slots.values().filter(asked).copied().collect();
        slots.sort_unstable_by_key(|slot| slot.object);
        slots.truncate(max);
        Ok(slots)
    }

    async fn put_slots(&self, slots: &[Slot]) -> Result<(), VaultError> {
        let mut inner = self.inner.lock();
        let ended = |slot: &Slot| inner.scopes.get(&slot.scope).is_some_and(|row| row.state != ScopeState::Living);
        if slots.iter().any(ended) {
            return Err(slots_refused());
        }
        inner.slots.extend(slots.iter().map(|slot| (slot.object, *slot)));
        Ok(())
    }

    async fn delete_slots(&self, objects: &[ObjectId]) -> Result<(), VaultError> {
        let mut inner = self.inner.lock();
        for object in objects {
            inner.slots.remove(object);
        }
        Ok(())
    }

    async fn find_scopes(&self, query: &ScopeQuery, after: Option<&[u8]>, max: usize) -> Result<ScopePage, VaultError> {
        let inner = self.inner.lock();
        let asked = |row: &&ScopeRow| after.is_none_or(|after| &row.id.0[..] > after) && query.matches(row);
        let rows: Vec<ScopeRow> = inner.scopes.values().filter(asked).take(max).cloned().collect();
        let next = rows.last().filter(|_| rows.len() == max).map(|row| row.id.0.to_vec());
        Ok(ScopePage { rows, damaged: Vec::new(), next })
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
            let Some(row) = inner.scopes.get_mut(&change.id()).filter(|row| !row.is_destroyed()) else { continue };
            match change {
                ScopeChange::Rewrap { from, epoch, wrapped, .. } if row.epoch == *from => {
                    row.epoch = *epoch;
                    row.wrapped = wrapped.clone();
                }
                ScopeChange::Rewrap { .. } => {}
                ScopeChange::Use { add, .. } => row.uses = row.uses.saturating_add(*add),
                ScopeChange::Close { .. } => row.state = ScopeState::Closed,
            }
        }
        Ok(())
    }

    async fn destroy_scope(&self, id: ScopeId) -> Result<(), VaultError> {
        let mut inner = self.inner.lock();
        if let Some(row) = inner.scopes.get_mut(&id) {
            row.state = ScopeState::Destroyed;
            row.wrapped = Vec::new();
        }
        inner.slots.retain(|_, slot| slot.scope != id);
        Ok(())
    }
}

#[async_trait]
impl SecretTable for MemoryKeyTable {
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

    async fn replace_secret(&self, name: &str, from: &[u8], to: &[u8]) -> Result<bool, VaultError> {
        let mut inner = self.inner.lock();
        let Some(standing) = inner.secrets.get_mut(name).filter(|standing| standing.as_slice() == from) else {
            return Ok(false);
        };
        *standing = to.to_vec();
        Ok(true)
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
