//! Scope keys: found, made on first use, followed by a further one when used up, destroyed.

use std::sync::Arc;

use base::DomainName;

use crate::cache::ScopeKey;
use crate::vault::Vault;
use crate::{Epoch, Holder, Key, Scope, ScopeChange, ScopeId, ScopeQuery, ScopeRow, VaultError, WrapItem};

/// What is bound into the wrap of a scope key: all that its row claims but the use count.
pub(crate) fn scope_aad(id: ScopeId, scope: &Scope, generation: u32, epoch: Epoch) -> Vec<u8> {
    let (holder, number) = scope.holder.to_parts();
    let (domain, retention) = (scope.domain.as_str().as_bytes(), scope.retention.as_str().as_bytes());
    let mut aad = Vec::with_capacity(48 + domain.len() + retention.len());
    aad.push(1); // version of this layout
    aad.extend_from_slice(&id.0);
    aad.extend_from_slice(&epoch.0.to_be_bytes());
    aad.extend_from_slice(&generation.to_be_bytes());
    aad.push(holder);
    aad.extend_from_slice(&number.to_be_bytes());
    aad.extend_from_slice(&scope.year.to_be_bytes());
    aad.push(domain.len() as u8); // at most 32, see DomainName
    aad.extend_from_slice(domain);
    aad.extend_from_slice(retention);
    aad
}

pub(crate) fn row_aad(row: &ScopeRow, epoch: Epoch) -> Vec<u8> {
    scope_aad(row.id, &row.scope, row.generation, epoch)
}

/// No scope comes near so many generations: each is 2^28 wraps.
const GENERATIONS_MAX: usize = 1024;

impl Vault {
    /// The key that seals for `scope` now. No IO when it is in the cache.
    pub(crate) async fn current_key(&self, scope: &Scope) -> Result<Arc<ScopeKey>, VaultError> {
        if let Some(key) = self.inner.cache.current(scope, self.inner.clock.now())
            && key.uses_before + key.wrapping.wraps() < self.inner.options.scope_wraps_max
        {
            return Ok(key);
        }
        let ticket = self.inner.cache.ticket();
        let rows = self.inner.table.find_scopes(&ScopeQuery::Scope(scope.clone()), None, GENERATIONS_MAX).await?;
        // What was destroyed stays destroyed: a scope with one destroyed generation gives out no further key.
        if rows.iter().any(|row| row.destroyed) {
            return Err(VaultError::Destroyed);
        }
        let newest = rows.into_iter().max_by_key(|row| row.generation);
        let row = match newest {
            Some(row) if !self.is_used_up(&row) => row,
            Some(row) => self.make_scope(scope, row.generation + 1).await?,
            None => self.make_scope(scope, 0).await?,
        };
        let key = Arc::new(self.unwrap_scope(row).await?);
        self.inner.cache.put(ticket, key.clone(), true);
        Ok(key)
    }

    fn is_used_up(&self, row: &ScopeRow) -> bool {
        let now = self.inner.clock.now();
        let in_memory = self.inner.cache.get(row.id, now).map_or(0, |key| key.uses_before + key.wrapping.wraps());
        row.uses.max(in_memory) >= self.inner.options.scope_wraps_max
    }

    /// The key with this id, for opening. No IO when it is in the cache.
    pub(crate) async fn key_by_id(&self, id: ScopeId) -> Result<Arc<ScopeKey>, VaultError> {
        if let Some(key) = self.inner.cache.get(id, self.inner.clock.now()) {
            return Ok(key);
        }
        let ticket = self.inner.cache.ticket();
        // A destroyed scope keeps its row: one that is not there went with a rollback, and a backup may hold it.
        let row = self.find_scope(id).await?.ok_or(VaultError::UnknownScope)?;
        let key = Arc::new(self.unwrap_scope(row).await?);
        self.inner.cache.put(ticket, key.clone(), false);
        Ok(key)
    }

    pub(crate) async fn find_scope(&self, id: ScopeId) -> Result<Option<ScopeRow>, VaultError> {
        Ok(self.inner.table.find_scopes(&ScopeQuery::Id(id), None, 1).await?.pop())
    }

    async fn make_scope(&self, scope: &Scope, generation: u32) -> Result<ScopeRow, VaultError> {
        let id = ScopeId(*self.inner.random.bytes::<16>());
        let key = self.inner.random.bytes::<32>();
        // Held until the row is stored: no turn of the epoch may overtake it.
        let epoch = self.inner.epoch.read().await;
        let aad = scope_aad(id, scope, generation, *epoch);
        let item = WrapItem { aad: &aad, bytes: &key[..] };
        let wrapped = self.inner.root.wrap(*epoch, &[item]).await?.pop().ok_or(VaultError::Tampered)?;
        let row = ScopeRow {
            id,
            scope: scope.clone(),
            generation,
            epoch: *epoch,
            wrapped,
            uses: 0,
            created: self.inner.clock.now(),
            destroyed: false,
        };
        self.inner.table.insert_scope(&row).await
    }

    async fn unwrap_scope(&self, mut row: ScopeRow) -> Result<ScopeKey, VaultError> {
        loop {
            if row.destroyed {
                return Err(VaultError::Destroyed);
            }
            match self.unwrap_row(&row).await {
                Ok(key) => {
                    let now = self.inner.clock.now();
                    return Ok(ScopeKey::new(row.id, row.scope, &key, row.uses, now));
                }
                // The epoch may have turned between the read and the unwrap: look again, as long as it moved on.
                Err(VaultError::Destroyed) => match self.find_scope(row.id).await? {
                    Some(again) if again.epoch > row.epoch => row = again,
                    _ => return Err(VaultError::Destroyed),
                },
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) async fn unwrap_row(&self, row: &ScopeRow) -> Result<Key, VaultError> {
        let aad = row_aad(row, row.epoch);
        let item = WrapItem { aad: &aad, bytes: &row.wrapped };
        let plain = self.inner.root.unwrap(row.epoch, &[item]).await?.pop().ok_or(VaultError::Tampered)??;
        plain.as_slice().try_into().map(Key::new).map_err(|_| VaultError::Tampered)
    }

    pub(crate) async fn count_uses(&self, key: &ScopeKey, add: u64) -> Result<(), VaultError> {
        self.inner.table.change_scopes(&[ScopeChange::Use { id: key.id, add }]).await
    }

    /// Destroys one scope key. When this returns no object of it opens on this node, and its slots are gone from the
    /// table; backups of the table hold it until the epoch has turned ([`Vault::turn_epoch`]).
    pub async fn destroy_scope(&self, id: ScopeId) -> Result<(), VaultError> {
        // Out of the cache first, so that nothing opens while the table is at work; and after it once more, for a
        // reader that came between.
        self.inner.cache.destroy(id);
        let done = self.inner.table.destroy_scope(id).await;
        self.inner.cache.destroy(id);
        done
    }

    /// Destroys every scope of a holder: all retention classes, years and generations. Returns how many there were
    /// that still lived.
    pub async fn destroy_holder(&self, domain: &DomainName, holder: Holder) -> Result<u64, VaultError> {
        let mut destroyed = 0;
        for row in self.scopes_of(domain, holder).await? {
            if !row.destroyed {
                self.destroy_scope(row.id).await?;
                destroyed += 1;
            }
        }
        Ok(destroyed)
    }

    /// The scopes of a holder, destroyed ones too. What a certificate of erasure lists.
    pub async fn scopes_of(&self, domain: &DomainName, holder: Holder) -> Result<Vec<ScopeRow>, VaultError> {
        self.all_scopes(&ScopeQuery::Holder(domain.clone(), holder)).await
    }

    pub(crate) async fn all_scopes(&self, query: &ScopeQuery) -> Result<Vec<ScopeRow>, VaultError> {
        let page = self.batch_max();
        let mut rows: Vec<ScopeRow> = Vec::new();
        loop {
            let after = rows.last().map(|row| row.id);
            let more = self.inner.table.find_scopes(query, after, page).await?;
            if more.is_empty() {
                return Ok(rows);
            }
            rows.extend(more);
        }
    }

    /// Drops every scope key from memory: the next use reads them again.
    pub fn forget_keys(&self) {
        self.inner.cache.clear();
    }
}
