//! Renewal: a shared scope gets another key, what lives is wrapped anew under it, and the key before it is destroyed.
//! So a person is erased from what was shared with others, without touching the others' data. And secrets that end the
//! same way, for what is sealed elsewhere (a search index); and how final a destruction is.

use crate::aead::derive;
use crate::vault::Vault;
use crate::{Epoch, Holder, Key, ObjectId, Scope, ScopeChange, ScopeId, ScopeRow, ScopeState, VaultError};

/// What a renewal did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// The key that wraps from now on.
    pub current: ScopeId,
    pub destroyed: Vec<ScopeId>,
    pub slots_rewrapped: u64,
    /// Objects whose slots did not open under the key before: they were unreadable already, and stay so.
    pub unreadable: Vec<ObjectId>,
}

/// How final the destruction of a scope key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finality {
    /// The table has no such scope.
    Unknown,
    /// Not destroyed at all.
    Living,
    /// Destroyed on this node. A backup of the key table opens it while one of these epochs lives: each may have
    /// wrapped it. A turn of the epoch destroys them.
    Destroyed { epochs: Vec<Epoch> },
    /// Every epoch key that ever wrapped it is destroyed: each copy of it is noise.
    Final,
}

impl Vault {
    /// Gives a shared scope another key. From now on wraps are made under it, and no slot is stored under the keys
    /// before it, which still open; [`Vault::finish_renewal`] ends them. For scopes whose slots lie in the table, never
    /// for one whose slots travel in the frames of a log.
    pub async fn renew_scope(&self, scope: &Scope) -> Result<ScopeId, VaultError> {
        let _one = self.inner.renewing.lock().await;
        if scope.holder != Holder::Shared {
            return Err(VaultError::Invalid("only a shared scope is renewed: a record's keys end with it"));
        }
        let before = self.generations(scope).await?;
        let next = before.last().map_or(0, |row| row.generation + 1);
        let row = self.make_scope(scope, next).await?;
        let older = before.iter().filter(|row| row.state == ScopeState::Living);
        let close: Vec<ScopeChange> = older.map(|row| ScopeChange::Close { id: row.id }).collect();
        self.inner.table.change_scopes(&close).await?;
        self.inner.cache.renew(scope);
        Ok(row.id)
    }

    /// Wraps every slot of the scope's closed keys anew under its newest, and destroys the closed keys. Delete the slots
    /// of what shall not live on before ([`Vault::delete_slots`]). After a crash or an outage call it again.
    pub async fn finish_renewal(&self, scope: &Scope) -> Result<Renewal, VaultError> {
        let _one = self.inner.renewing.lock().await;
        let rows = self.generations(scope).await?;
        let closed: Vec<ScopeRow> = rows.into_iter().filter(|row| row.state == ScopeState::Closed).collect();
        let current = self.current_row(scope).await?.id;
        let mut done = Renewal { current, destroyed: Vec::new(), slots_rewrapped: 0, unreadable: Vec::new() };
        for row in closed {
            self.empty_scope(row.id, scope, &mut done).await?;
            self.destroy_scope(row.id).await?;
            done.destroyed.push(row.id);
        }
        Ok(done)
    }

    async fn empty_scope(&self, from: ScopeId, scope: &Scope, done: &mut Renewal) -> Result<(), VaultError> {
        let mut after = None;
        loop {
            let mut slots = self.inner.table.find_slots(from, after, self.batch_max()).await?;
            let Some(last) = slots.last() else { return Ok(()) };
            after = Some(last.object);
            let key = self.key_by_id(from).await?;
            slots.retain(|slot| {
                let is_readable = key.unwrap(slot).is_ok();
                if !is_readable {
                    done.unreadable.push(slot.object);
                }
                is_readable
            });
            done.slots_rewrapped += self.rewrap(&slots, scope).await?.len() as u64;
        }
    }

    /// A secret that ends with its scope: derived from the scope's current key, the same until the scope is renewed,
    /// noise in every backup once that key's destruction is final. Give each use a scope of its own (a shared one, with
    /// a retention class that says what it is). Reads the table each time: keep what it gives, and wipe it.
    pub async fn scope_secret(&self, scope: &Scope, label: &str) -> Result<(ScopeId, Key), VaultError> {
        let row = self.current_row(scope).await?;
        Ok((row.id, self.secret_of(row, label).await?))
    }

    /// The secret of one key of the scope, for what was sealed before a renewal.
    pub async fn scope_secret_by_id(&self, id: ScopeId, label: &str) -> Result<Key, VaultError> {
        let row = self.find_scope(id).await?.ok_or(VaultError::UnknownScope)?;
        self.secret_of(row, label).await
    }

    async fn secret_of(&self, row: ScopeRow, label: &str) -> Result<Key, VaultError> {
        let (_, key) = self.raw_scope_key(row).await?;
        Ok(derive(&key[..], b"ward/scope-secret/1", label.as_bytes()))
    }

    /// How final the destruction of this scope key is now.
    pub async fn finality(&self, id: ScopeId) -> Result<Finality, VaultError> {
        let Some(row) = self.find_scope(id).await? else { return Ok(Finality::Unknown) };
        if !row.is_destroyed() {
            return Ok(Finality::Living);
        }
        // It was wrapped by the epoch of its last wrap and by earlier ones, by none after.
        let living = self.inner.root.epochs().await?;
        let epochs: Vec<Epoch> = living.into_iter().filter(|epoch| *epoch <= row.epoch).collect();
        Ok(if epochs.is_empty() { Finality::Final } else { Finality::Destroyed { epochs } })
    }
}
