//! The turn of the key epoch: every living scope key is wrapped anew, then the old epoch key is destroyed.
//!
//! A crash at any point loses nothing: the new epoch is durable before anything is wrapped under it, each batch is one
//! transaction of the table, and an old epoch key is destroyed only after the table holds no living scope under it.

use crate::scopes::row_aad;
use crate::vault::{EpochTurn, Vault};
use crate::{Epoch, Plain, ScopeChange, ScopeQuery, ScopeRow, VaultError, WrapItem};

impl Vault {
    /// Begins a new epoch and empties and destroys all earlier ones. Serving goes on meanwhile. On an error (an outage,
    /// a crash) call it again or [`Vault::finish_turn`]: it goes on where it was.
    pub async fn turn_epoch(&self) -> Result<EpochTurn, VaultError> {
        let _one = self.inner.turning.lock().await;
        {
            let mut current = self.inner.epoch.write().await;
            *current = self.inner.root.begin_epoch().await?;
        }
        self.empty_old_epochs().await
    }

    /// Finishes a turn that was interrupted; nothing to do when none was. Call it after start-up.
    pub async fn finish_turn(&self) -> Result<EpochTurn, VaultError> {
        let _one = self.inner.turning.lock().await;
        self.empty_old_epochs().await
    }

    pub async fn current_epoch(&self) -> Epoch {
        *self.inner.epoch.read().await
    }

    async fn empty_old_epochs(&self) -> Result<EpochTurn, VaultError> {
        let current = *self.inner.epoch.read().await;
        let mut turn = EpochTurn { current, destroyed: Vec::new(), scopes_rewrapped: 0 };
        for old in self.inner.root.epochs().await? {
            if old >= current {
                continue;
            }
            turn.scopes_rewrapped += self.empty_epoch(old, current).await?;
            self.inner.root.destroy_epoch(old).await?;
            turn.destroyed.push(old);
        }
        Ok(turn)
    }

    async fn empty_epoch(&self, old: Epoch, current: Epoch) -> Result<u64, VaultError> {
        let mut moved = 0;
        let mut unmoved_before = None;
        loop {
            let rows = self.inner.table.find_scopes(&ScopeQuery::Epoch(old), None, self.batch_max()).await?;
            let Some(first) = rows.first().map(|row| row.id) else { return Ok(moved) };
            if unmoved_before == Some(first) {
                // The table said yes and did nothing: never destroy a key on such a word.
                return Err(VaultError::Invalid("the key table did not take the new wraps"));
            }
            unmoved_before = Some(first);
            let changes = self.rewrapped(&rows, old, current).await?;
            self.inner.table.change_scopes(&changes).await?;
            moved += rows.len() as u64;
        }
    }

    /// Unwraps under the old epoch and wraps under the current one: two calls of the root for the whole batch.
    async fn rewrapped(&self, rows: &[ScopeRow], old: Epoch, current: Epoch) -> Result<Vec<ScopeChange>, VaultError> {
        let old_aads: Vec<Vec<u8>> = rows.iter().map(|row| row_aad(row, old)).collect();
        let new_aads: Vec<Vec<u8>> = rows.iter().map(|row| row_aad(row, current)).collect();
        let items: Vec<WrapItem<'_>> =
            rows.iter().zip(&old_aads).map(|(row, aad)| WrapItem { aad, bytes: &row.wrapped }).collect();
        let keys: Vec<Plain> = self.inner.root.unwrap(old, &items).await?.into_iter().collect::<Result<_, _>>()?;
        let items: Vec<WrapItem<'_>> =
            keys.iter().zip(&new_aads).map(|(key, aad)| WrapItem { aad, bytes: key }).collect();
        let wrapped = self.inner.root.wrap(current, &items).await?;
        if wrapped.len() != rows.len() {
            return Err(VaultError::Tampered);
        }
        let change = |(row, wrapped): (&ScopeRow, Vec<u8>)| ScopeChange::Rewrap {
            id: row.id,
            from: old,
            epoch: current,
            wrapped,
        };
        Ok(rows.iter().zip(wrapped).map(change).collect())
    }

    pub(crate) fn batch_max(&self) -> usize {
        self.inner.options.batch_max.max(1)
    }
}
