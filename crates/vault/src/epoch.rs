//! The turn of the key epoch: every living scope key is wrapped anew, then the old epoch key is destroyed.
//!
//! A crash at any point loses nothing: the new epoch is durable before anything is wrapped under it, each batch is one
//! transaction of the table, and an old epoch key is destroyed only after the table holds no living scope under it. One
//! damaged row stops nothing but the destruction of its own epoch: a backup of the row still opens.

use std::sync::atomic::Ordering;

use base::Timestamp;

use crate::scopes::row_aad;
use crate::vault::{EpochTurn, Vault};
use crate::{Epoch, Plain, ScopeChange, ScopeId, ScopeQuery, ScopeRow, VaultError, WrapItem};

impl Vault {
    /// Begins a new epoch and empties and destroys all earlier ones. Serving goes on meanwhile. On an error (an outage,
    /// a crash) call it again or [`Vault::finish_turn`]: it goes on where it was.
    pub async fn turn_epoch(&self) -> Result<EpochTurn, VaultError> {
        let _one = self.inner.turning.lock().await;
        {
            let mut current = self.inner.epoch.write().await;
            *current = self.inner.root.begin_epoch(self.inner.clock.now()).await?;
        }
        self.empty_old_epochs().await
    }

    /// Finishes a turn that was interrupted; nothing to do when none was. Call it after start-up.
    pub async fn finish_turn(&self) -> Result<EpochTurn, VaultError> {
        let _one = self.inner.turning.lock().await;
        self.empty_old_epochs().await
    }

    /// The epochs whose keys exist, the last one current.
    pub async fn living_epochs(&self) -> Result<Vec<Epoch>, VaultError> {
        self.inner.root.epochs().await
    }

    pub async fn current_epoch(&self) -> Epoch {
        *self.inner.epoch.read().await
    }

    /// The living epochs, oldest first, and when each began (`None` where that was not noted). More than one: a turn is
    /// under way, was interrupted, or keeps one for a damaged scope.
    pub async fn epochs(&self) -> Result<Vec<(Epoch, Option<Timestamp>)>, VaultError> {
        let mut all = Vec::new();
        for epoch in self.inner.root.epochs().await? {
            all.push((epoch, self.inner.root.begun(epoch).await?));
        }
        Ok(all)
    }

    /// Whether a turn is under way, and how many scopes this process has moved in turns since it began.
    pub fn turn_progress(&self) -> (bool, u64) {
        (self.inner.turning.try_lock().is_err(), self.inner.moved.load(Ordering::Relaxed))
    }

    async fn empty_old_epochs(&self) -> Result<EpochTurn, VaultError> {
        let current = *self.inner.epoch.read().await;
        let mut turn =
            EpochTurn { current, destroyed: Vec::new(), scopes_rewrapped: 0, damaged: Vec::new(), kept: Vec::new() };
        for old in self.inner.root.epochs().await? {
            if old >= current {
                continue;
            }
            let damaged = self.empty_epoch(old, current, &mut turn.scopes_rewrapped).await?;
            if damaged.is_empty() {
                self.inner.root.destroy_epoch(old).await?;
                turn.destroyed.push(old);
            } else {
                turn.damaged.extend(damaged);
                turn.kept.push(old);
            }
        }
        Ok(turn)
    }

    /// Moves every scope of `old` to `current`, until a pass over the table finds none to move: what is left then is
    /// damaged. Nothing comes in under `old` any more, so the second pass is that one.
    async fn empty_epoch(&self, old: Epoch, current: Epoch, moved: &mut u64) -> Result<Vec<ScopeId>, VaultError> {
        const PASSES_MAX: usize = 3;
        for _ in 0..PASSES_MAX {
            let (mut damaged, mut moved_now) = (Vec::new(), 0);
            let mut after: Option<Vec<u8>> = None;
            loop {
                let query = ScopeQuery::Epoch(old);
                let page = self.inner.table.find_scopes(&query, after.as_deref(), self.batch_max()).await?;
                let (changes, unfit) = self.rewrapped(&page.rows, old, current).await?;
                if !changes.is_empty() {
                    self.inner.table.change_scopes(&changes).await?;
                }
                moved_now += changes.len() as u64;
                self.inner.moved.fetch_add(changes.len() as u64, Ordering::Relaxed);
                damaged.extend(page.damaged.into_iter().chain(unfit));
                after = page.next;
                if after.is_none() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            *moved += moved_now;
            if moved_now == 0 {
                return Ok(damaged);
            }
        }
        // The table said yes and did nothing: never destroy a key on such a word.
        Err(VaultError::Invalid("the key table did not take the new wraps"))
    }

    /// Unwraps under the old epoch and wraps under the current one: two calls of the root for the whole batch. Beside
    /// the changes the rows that did not unwrap.
    async fn rewrapped(
        &self,
        rows: &[ScopeRow],
        old: Epoch,
        current: Epoch,
    ) -> Result<(Vec<ScopeChange>, Vec<ScopeId>), VaultError> {
        let aads: Vec<Vec<u8>> = rows.iter().map(|row| row_aad(row, old)).collect();
        let items: Vec<_> = rows.iter().zip(&aads).map(|(row, aad)| WrapItem { aad, bytes: &row.wrapped }).collect();
        let (mut fit, mut unfit): (Vec<(&ScopeRow, Plain)>, _) = (Vec::with_capacity(rows.len()), Vec::new());
        let unwrapped = self.inner.root.unwrap(old, &items).await?;
        if unwrapped.len() != rows.len() {
            return Err(VaultError::Tampered);
        }
        for (row, key) in rows.iter().zip(unwrapped) {
            match key {
                Ok(key) => fit.push((row, key)),
                Err(VaultError::Tampered) => unfit.push(row.id),
                Err(error) => return Err(error),
            }
        }
        let aads: Vec<Vec<u8>> = fit.iter().map(|(row, _)| row_aad(row, current)).collect();
        let items: Vec<_> = fit.iter().zip(&aads).map(|((_, key), aad)| WrapItem { aad, bytes: key }).collect();
        let wrapped = self.inner.root.wrap(current, &items).await?;
        if wrapped.len() != fit.len() {
            return Err(VaultError::Tampered);
        }
        let change = |((row, _), wrapped): (&(&ScopeRow, Plain), Vec<u8>)| ScopeChange::Rewrap {
            id: row.id,
            from: old,
            epoch: current,
            wrapped,
        };
        Ok((fit.iter().zip(wrapped).map(change).collect(), unfit))
    }

    pub(crate) fn batch_max(&self) -> usize {
        self.inner.options.batch_max.max(1)
    }
}
