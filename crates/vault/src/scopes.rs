//! Scope keys: found, made on first use, followed by a further one when used up, destroyed.

use std::sync::Arc;

use base::DomainName;

use crate::aead::key_of;
use crate::cache::ScopeKey;
use crate::vault::Vault;
use crate::{Epoch, Holder, Key, Scope, ScopeChange, ScopeId, ScopeQuery, ScopeRow, ScopeState, VaultError, WrapItem};

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
            && !key.reserved.is_worn(self.inner.options.scope_wraps_max)
        {
            return Ok(key);
        }
        let ticket = self.inner.cache.ticket();
        let row = self.current_row(scope).await?;
        let key = Arc::new(self.unwrap_scope(row).await?);
        self.inner.cache.put(ticket, key.clone(), true);
        Ok(key)
    }

    /// The row of the generation that seals now, made where there is none.
    pub(crate) async fn current_row(&self, scope: &Scope) -> Result<ScopeRow, VaultError> {
        let rows = self.generations(scope).await?;
        let worn = |row: &ScopeRow| self.inner.uses.of(row.id, row.uses).is_worn(self.inner.options.scope_wraps_max);
        match rows.into_iter().next_back() {
            Some(row) if row.state == ScopeState::Closed || worn(&row) => {
                self.make_scope(scope, row.generation + 1).await
            }
            Some(row) => Ok(row),
            None => self.make_scope(scope, 0).await,
        }
    }

    /// All generations of a scope that still gives out keys, oldest first.
    ///
    /// What was destroyed stays destroyed: a record or a door's scope with one destroyed generation has ended. A shared
    /// scope is renewed by destroying generations before its newest; it has ended when that one is gone.
    pub(crate) async fn generations(&self, scope: &Scope) -> Result<Vec<ScopeRow>, VaultError> {
        let page = self.inner.table.find_scopes(&ScopeQuery::Scope(scope.clone()), None, GENERATIONS_MAX).await?;
        if !page.damaged.is_empty() {
            return Err(VaultError::Tampered);
        }
        let mut rows = page.rows;
        rows.sort_by_key(|row| row.generation);
        let ended = match scope.holder {
            Holder::Shared => rows.last().is_some_and(ScopeRow::is_destroyed),
            Holder::Record(_) | Holder::Unassigned(_) => rows.iter().any(ScopeRow::is_destroyed),
        };
        if ended { Err(VaultError::Destroyed) } else { Ok(rows) }
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
        let mut page = self.inner.table.find_scopes(&ScopeQuery::Id(id), None, 1).await?;
        if page.damaged.is_empty() { Ok(page.rows.pop()) } else { Err(VaultError::Tampered) }
    }

    pub(crate) async fn make_scope(&self, scope: &Scope, generation: u32) -> Result<ScopeRow, VaultError> {
        self.make_scopes(&[scope], generation).await?.pop().ok_or(VaultError::Tampered)
    }

    /// Makes the first keys of those scopes that have none yet, in one durable step for all of them.
    pub(crate) async fn make_ready(&self, scopes: impl Iterator<Item = &Scope>) -> Result<(), VaultError> {
        let mut missing = Vec::new();
        for scope in scopes {
            if self.inner.cache.current(scope, self.inner.clock.now()).is_none()
                && self.generations(scope).await?.is_empty()
            {
                missing.push(scope);
            }
        }
        for batch in missing.chunks(self.batch_max()) {
            self.make_scopes(batch, 0).await?;
        }
        Ok(())
    }

    async fn make_scopes(&self, scopes: &[&Scope], generation: u32) -> Result<Vec<ScopeRow>, VaultError> {
        let fresh: Vec<(ScopeId, Key)> =
            scopes.iter().map(|_| (ScopeId(*self.inner.random.bytes::<16>()), self.inner.random.key())).collect();
        // Held until the rows are stored: no turn of the epoch may overtake them.
        let epoch = self.inner.epoch.read().await;
        let aads: Vec<Vec<u8>> =
            fresh.iter().zip(scopes).map(|((id, _), scope)| scope_aad(*id, scope, generation, *epoch)).collect();
        let items: Vec<WrapItem<'_>> =
            fresh.iter().zip(&aads).map(|((_, key), aad)| WrapItem { aad, bytes: &key[..] }).collect();
        let wrapped = self.inner.root.wrap(*epoch, &items).await?;
        if wrapped.len() != scopes.len() {
            return Err(VaultError::Tampered);
        }
        let made = |((id, _), (scope, wrapped)): (&(ScopeId, Key), (&&Scope, Vec<u8>))| ScopeRow {
            id: *id,
            scope: (*scope).clone(),
            generation,
            epoch: *epoch,
            wrapped,
            uses: self.inner.uses.first_block(),
            created: self.inner.clock.now(),
            state: ScopeState::Living,
        };
        let rows: Vec<ScopeRow> = fresh.iter().zip(scopes.iter().zip(wrapped)).map(made).collect();
        let stand = self.inner.table.insert_scopes(&rows).await?;
        for (row, stands) in rows.iter().zip(&stand) {
            if stands.id == row.id {
                self.inner.uses.begin(row.id);
            }
        }
        Ok(stand)
    }

    async fn unwrap_scope(&self, row: ScopeRow) -> Result<ScopeKey, VaultError> {
        let (row, key) = self.raw_scope_key(row).await?;
        let reserved = self.inner.uses.of(row.id, row.uses);
        Ok(ScopeKey::new(row.id, row.scope, &key, reserved, self.inner.clock.now()))
    }

    /// The key itself, with the row as it stands now.
    pub(crate) async fn raw_scope_key(&self, mut row: ScopeRow) -> Result<(ScopeRow, Key), VaultError> {
        loop {
            if row.is_destroyed() {
                return Err(VaultError::Destroyed);
            }
            match self.unwrap_row(&row).await {
                Ok(key) => return Ok((row, key)),
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
        key_of(&plain)
    }

    /// Counts a block of wraps before they are made.
    pub(crate) async fn reserve_uses(&self, key: &ScopeKey) -> Result<(), VaultError> {
        let block = key.reserved.next_block();
        self.inner.table.change_scopes(&[ScopeChange::Use { id: key.id, add: block }]).await?;
        key.reserved.add(block, self.inner.uses.block_max());
        Ok(())
    }

    /// Destroys one scope key. When this returns no object of it opens on this node, and its slots are gone from the
    /// table and its files; backups of the table hold it until the epoch has turned ([`Vault::finality`]).
    pub async fn destroy_scope(&self, id: ScopeId) -> Result<(), VaultError> {
        // Out of the cache first, so that nothing opens while the table is at work; and after it once more, for a
        // reader that came between.
        self.inner.cache.destroy(id);
        let done = self.inner.table.destroy_scope(id).await;
        self.inner.cache.destroy(id);
        self.inner.uses.forget(id);
        done
    }

    /// Destroys every scope of a holder: all retention classes, years and generations, damaged ones too. Returns how
    /// many there were that still lived. A key that somebody makes meanwhile is destroyed as well.
    pub async fn destroy_holder(&self, domain: &DomainName, holder: Holder) -> Result<u64, VaultError> {
        let mut destroyed = 0;
        loop {
            let (rows, damaged) = self.all_scopes(&ScopeQuery::Holder(domain.clone(), holder)).await?;
            let living = rows.iter().filter(|row| !row.is_destroyed()).map(|row| row.id);
            let ids: Vec<ScopeId> = living.chain(damaged).collect();
            if ids.is_empty() {
                return Ok(destroyed);
            }
            for id in ids {
                self.destroy_scope(id).await?;
                destroyed += 1;
            }
        }
    }

    /// The scopes of a holder, destroyed ones too. What a certificate of erasure lists. A row that cannot be read is an
    /// error: the list would not be whole.
    pub async fn scopes_of(&self, domain: &DomainName, holder: Holder) -> Result<Vec<ScopeRow>, VaultError> {
        let (rows, damaged) = self.all_scopes(&ScopeQuery::Holder(domain.clone(), holder)).await?;
        if damaged.is_empty() { Ok(rows) } else { Err(VaultError::Tampered) }
    }

    pub(crate) async fn all_scopes(&self, query: &ScopeQuery) -> Result<(Vec<ScopeRow>, Vec<ScopeId>), VaultError> {
        let (mut rows, mut damaged) = (Vec::new(), Vec::new());
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.inner.table.find_scopes(query, after.as_deref(), self.batch_max()).await?;
            rows.extend(page.rows);
            damaged.extend(page.damaged);
            after = page.next;
            if after.is_none() {
                return Ok((rows, damaged));
            }
        }
    }

    /// Drops every scope key from memory: the next use reads them again.
    pub fn forget_keys(&self) {
        self.inner.cache.clear();
    }
}
