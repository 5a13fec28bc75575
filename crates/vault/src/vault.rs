//! [`Vault`]: seals, opens and re-wraps objects. How scope keys are found, made and destroyed is in `scopes`; the turn of
//! the epoch in `epoch`; what is not yet assigned in `unassigned`.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use base::{Clock, Entropy};
use zeroize::Zeroizing;

use crate::aead::{Cipher, derive};
use crate::cache::{Cache, CacheLimits, ScopeKey};
use crate::name::Form;
use crate::random::Random;
use crate::root::bounded::{BoundedRoot, CallLimits};
use crate::unassigned::Generations;
use crate::uses::Reservations;
use crate::{Epoch, Key, KeyTable, ObjectId, ObjectName, Plain, RootKeys, Scope, ScopeId, Slot, VaultError};

/// Limits of a vault, with defaults for a hospital's node.
#[derive(Debug, Clone)]
pub struct VaultOptions {
    /// Scope keys held in memory.
    pub cached_keys_max: usize,
    /// A scope key is read again after this time, so that a destruction elsewhere is felt.
    pub cached_key_ttl_ms: i64,
    /// And after so many uses.
    pub cached_key_uses_max: u64,
    /// A scope gets a further key after so many wraps; far below the 2^32 of SP 800-38D §8.3.
    pub scope_wraps_max: u64,
    /// The unassigned scope rolls after so many appends,
    pub unassigned_uses_max: u64,
    /// or after this time.
    pub unassigned_ttl_ms: i64,
    /// An append that took the scope before it rolled ends within this time; only then it can be retired.
    pub unassigned_grace_ms: i64,
    /// Scope keys re-wrapped in one step of an epoch's turn, and slots in one step of `rewrap`.
    pub batch_max: usize,
    /// A call of the root keys has so much time; then it is an outage.
    pub root_call_ms_max: u64,
    /// Calls of the root keys at once.
    pub root_calls_max: usize,
}

impl Default for VaultOptions {
    fn default() -> Self {
        VaultOptions {
            cached_keys_max: 16_384,
            cached_key_ttl_ms: 300_000,
            cached_key_uses_max: 1 << 24,
            scope_wraps_max: 1 << 28,
            unassigned_uses_max: 1 << 20,
            unassigned_ttl_ms: 3_600_000,
            unassigned_grace_ms: 600_000,
            batch_max: 16_384,
            root_call_ms_max: 5_000,
            root_calls_max: 64,
        }
    }
}

/// What a turn of the epoch did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochTurn {
    pub current: Epoch,
    pub destroyed: Vec<Epoch>,
    pub scopes_rewrapped: u64,
    /// Scopes whose rows cannot be read or unwrapped. The old epochs that wrap them are kept, so that a backup of the
    /// row still opens, until somebody restores the row or gives it up ([`Vault::destroy_scope`]).
    pub damaged: Vec<ScopeId>,
    /// The old epochs kept for them.
    pub kept: Vec<Epoch>,
}

/// The keys of a node. One per process and key table: a turn of the epoch relies on it.
#[derive(Clone)]
pub struct Vault {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) root: Arc<dyn RootKeys>,
    pub(crate) table: Arc<dyn KeyTable>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Random,
    pub(crate) options: VaultOptions,
    pub(crate) cache: Cache,
    /// Held shared while a scope is wrapped and stored, alone while the epoch changes: no scope is stored under an
    /// epoch that is being emptied.
    pub(crate) epoch: tokio::sync::RwLock<Epoch>,
    /// One turn at a time.
    pub(crate) turning: tokio::sync::Mutex<()>,
    /// Scopes moved to another epoch, for whoever waits for a turn.
    pub(crate) moved: AtomicU64,
    pub(crate) unassigned: Generations,
    pub(crate) node_secret: Key,
    pub(crate) uses: Reservations,
    /// One renewal of a scope at a time.
    pub(crate) renewing: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault(..)")
    }
}

impl Vault {
    pub async fn open(
        root: Arc<dyn RootKeys>,
        table: Arc<dyn KeyTable>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Vault, VaultError> {
        Self::open_with(root, table, clock, entropy, VaultOptions::default()).await
    }

    pub async fn open_with(
        root: Arc<dyn RootKeys>,
        table: Arc<dyn KeyTable>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        options: VaultOptions,
    ) -> Result<Vault, VaultError> {
        let random = Random::new(entropy);
        let calls = CallLimits { call_ms_max: options.root_call_ms_max, calls_max: options.root_calls_max };
        let root: Arc<dyn RootKeys> = Arc::new(BoundedRoot::new(root, calls));
        let current = *root.epochs().await?.last().ok_or(VaultError::NotInitialised)?;
        let node_secret = crate::secret::node_secret(&*root, &*table, &random).await?;
        let limits = CacheLimits {
            entries_max: options.cached_keys_max,
            ttl_ms: options.cached_key_ttl_ms,
            uses_max: options.cached_key_uses_max,
        };
        let inner = Inner {
            root,
            table,
            clock,
            random,
            cache: Cache::new(limits),
            epoch: tokio::sync::RwLock::new(current),
            turning: tokio::sync::Mutex::new(()),
            moved: AtomicU64::new(0),
            unassigned: Generations::default(),
            node_secret,
            uses: Reservations::new(options.scope_wraps_max),
            renewing: tokio::sync::Mutex::new(()),
            options,
        };
        Ok(Vault { inner: Arc::new(inner) })
    }

    /// The id of the scope's current key, which is made on first use.
    pub async fn scope(&self, scope: &Scope) -> Result<ScopeId, VaultError> {
        Ok(self.current_key(scope).await?.id)
    }

    /// Seals `plain` under a key of its own: nonce (12) || ciphertext || tag (16). Does not store the slot: the caller
    /// puts it in the frame of a log, or calls [`Vault::put_slots`].
    pub async fn seal(&self, name: ObjectName<'_>, scope: &Scope, plain: &[u8]) -> Result<(Vec<u8>, Slot), VaultError> {
        let scope_key = self.current_key(scope).await?;
        self.reserve(&scope_key).await?;
        self.seal_under(&scope_key, name, plain)
    }

    /// Never waits: a key that stood in a future would leave copies wherever the future was moved.
    fn seal_under(
        &self,
        scope_key: &ScopeKey,
        name: ObjectName<'_>,
        plain: &[u8],
    ) -> Result<(Vec<u8>, Slot), VaultError> {
        // One draw for all: key (32), object id (16), nonce (12), nonce of the wrap (12).
        let mut drawn = Zeroizing::new([0; 72]);
        self.inner.random.fill(&mut drawn);
        let (key, rest) = drawn.split_first_chunk::<32>().ok_or(VaultError::Tampered)?;
        let (object, rest) = rest.split_first_chunk::<16>().ok_or(VaultError::Tampered)?;
        let (nonce, rest) = rest.split_first_chunk::<12>().ok_or(VaultError::Tampered)?;
        let (wrap_nonce, _) = rest.split_first_chunk::<12>().ok_or(VaultError::Tampered)?;
        let object = ObjectId(*object);
        let sealed = name.with_aad(Form::Whole, object, |aad| Cipher::new(key).seal(*nonce, aad, plain))?;
        Ok((sealed, scope_key.wrap(object, key, *wrap_nonce)?))
    }

    /// When this returns the slots are durable.
    pub async fn put_slots(&self, slots: &[Slot]) -> Result<(), VaultError> {
        self.inner.table.put_slots(slots).await
    }

    /// When this returns the objects cannot be opened by the table's slots again. (A slot elsewhere, in a frame or a
    /// backup, opens until its scope is destroyed.)
    pub async fn delete_slots(&self, objects: &[ObjectId]) -> Result<(), VaultError> {
        self.inner.table.delete_slots(objects).await
    }

    /// Opens by the slot in the table.
    pub async fn open_object(
        &self,
        object: ObjectId,
        name: ObjectName<'_>,
        sealed: &[u8],
    ) -> Result<Plain, VaultError> {
        let slot = self.slot(object).await?;
        self.open_with_slot(&slot, name, sealed).await
    }

    /// Opens many with one round trip to the table; each has its own result, in the order given.
    pub async fn open_many(&self, items: &[(ObjectId, ObjectName<'_>, &[u8])]) -> Vec<Result<Plain, VaultError>> {
        let objects: Vec<ObjectId> = items.iter().map(|(object, ..)| *object).collect();
        let slots = match self.inner.table.get_slots(&objects).await {
            Ok(slots) => slots,
            Err(error) => return each_failed(items.len(), error),
        };
        let mut out = Vec::with_capacity(items.len());
        for (i, (object, name, sealed)) in items.iter().enumerate() {
            out.push(match slots.get(i).copied().flatten() {
                Some(slot) if slot.object == *object => self.open_with_slot(&slot, *name, sealed).await,
                Some(_) => Err(VaultError::Tampered),
                None => Err(VaultError::NoSlot),
            });
        }
        out
    }

    /// Opens by a slot that the caller holds, such as one from the frame of a log.
    pub async fn open_with_slot(&self, slot: &Slot, name: ObjectName<'_>, sealed: &[u8]) -> Result<Plain, VaultError> {
        self.key_by_id(slot.scope).await?.open(slot, name, sealed)
    }

    /// A fresh key for a file that others encrypt (Parquet), bound to `name`. The slot is not stored.
    pub async fn object_key(&self, name: ObjectName<'_>, scope: &Scope) -> Result<(ObjectId, Key, Slot), VaultError> {
        let (object, key, slot) = self.fresh_key(scope).await?;
        Ok((object, raw_key(&key, object, name), slot))
    }

    /// The key that [`Vault::object_key`] gave, by the slot in the table. Under another name it is another key.
    pub async fn load_key(&self, object: ObjectId, name: ObjectName<'_>) -> Result<Key, VaultError> {
        let slot = self.slot(object).await?;
        self.load_key_with_slot(&slot, name).await
    }

    pub async fn load_key_with_slot(&self, slot: &Slot, name: ObjectName<'_>) -> Result<Key, VaultError> {
        let key = self.unwrap(slot).await?;
        Ok(raw_key(&key, slot.object, name))
    }

    /// Wraps the objects' keys under `to`, stores the new slots durably and returns them in the order given. Doing it
    /// again is no error: where a slot's scope is destroyed already, the slot in the table is taken in its place.
    pub async fn rewrap(&self, slots: &[Slot], to: &Scope) -> Result<Vec<Slot>, VaultError> {
        let mut out = Vec::with_capacity(slots.len());
        for batch in slots.chunks(self.batch_max()) {
            let fresh = self.rewrap_batch(batch, to).await?;
            self.inner.table.put_slots(&fresh).await?;
            out.extend(fresh);
        }
        Ok(out)
    }

    /// As [`Vault::rewrap`], for many scopes at once: their new slots are stored together.
    pub async fn rewrap_each(&self, groups: &HashMap<Scope, Vec<Slot>>) -> Result<(), VaultError> {
        self.make_ready(groups.keys()).await?;
        let mut fresh = Vec::new();
        for (to, slots) in groups.iter().filter(|(_, slots)| !slots.is_empty()) {
            fresh.extend(self.rewrap_batch(slots, to).await?);
        }
        for batch in fresh.chunks(self.batch_max()) {
            self.inner.table.put_slots(batch).await?;
        }
        Ok(())
    }

    /// The slots in the table of those objects that have one there.
    pub async fn stored_slots(&self, objects: &[ObjectId]) -> Result<HashMap<ObjectId, Slot>, VaultError> {
        let mut found = HashMap::new();
        for batch in objects.chunks(self.batch_max()) {
            for (object, slot) in batch.iter().zip(self.inner.table.get_slots(batch).await?) {
                match slot {
                    Some(slot) if slot.object == *object => drop(found.insert(*object, slot)),
                    Some(_) => return Err(VaultError::Tampered),
                    None => {}
                }
            }
        }
        Ok(found)
    }

    /// Like [`Vault::rewrap`], from the slots in the table. An object without a slot is [`VaultError::NoSlot`].
    pub async fn rewrap_objects(&self, objects: &[ObjectId], to: &Scope) -> Result<Vec<Slot>, VaultError> {
        let mut slots = Vec::with_capacity(objects.len());
        for batch in objects.chunks(self.batch_max()) {
            for slot in self.inner.table.get_slots(batch).await? {
                slots.push(slot.ok_or(VaultError::NoSlot)?);
            }
        }
        self.rewrap(&slots, to).await
    }

    async fn rewrap_batch(&self, slots: &[Slot], to: &Scope) -> Result<Vec<Slot>, VaultError> {
        let to = self.current_key(to).await?;
        let mut destroyed = Vec::new();
        let mut keys: HashMap<ObjectId, Key> = HashMap::with_capacity(slots.len());
        for slot in slots {
            match self.unwrap(slot).await {
                Ok(key) => drop(keys.insert(slot.object, key)),
                Err(VaultError::Destroyed) => destroyed.push(slot.object),
                Err(error) => return Err(error),
            }
        }
        if !destroyed.is_empty() {
            for slot in self.inner.table.get_slots(&destroyed).await? {
                let slot = slot.ok_or(VaultError::Destroyed)?;
                keys.insert(slot.object, self.unwrap(&slot).await?);
            }
        }
        let mut out = Vec::with_capacity(slots.len());
        for slot in slots {
            let key = keys.get(&slot.object).ok_or(VaultError::Tampered)?;
            self.reserve(&to).await?;
            out.push(to.wrap(slot.object, key, *self.inner.random.bytes::<12>())?);
        }
        Ok(out)
    }

    pub(crate) async fn slot(&self, object: ObjectId) -> Result<Slot, VaultError> {
        match self.inner.table.get_slots(&[object]).await?.first().copied().flatten() {
            Some(slot) if slot.object == object => Ok(slot),
            Some(_) => Err(VaultError::Tampered),
            None => Err(VaultError::NoSlot),
        }
    }

    pub(crate) async fn unwrap(&self, slot: &Slot) -> Result<Key, VaultError> {
        self.key_by_id(slot.scope).await?.unwrap(slot)
    }

    pub(crate) async fn fresh_key(&self, scope: &Scope) -> Result<(ObjectId, Key, Slot), VaultError> {
        let scope_key = self.current_key(scope).await?;
        self.reserve(&scope_key).await?;
        let object = ObjectId(*self.inner.random.bytes::<16>());
        let key = self.inner.random.key();
        let slot = scope_key.wrap(object, &key, *self.inner.random.bytes::<12>())?;
        Ok((object, key, slot))
    }

    /// One wrap, counted before it is made.
    async fn reserve(&self, scope_key: &ScopeKey) -> Result<(), VaultError> {
        while !scope_key.reserved.take() {
            self.reserve_uses(scope_key).await?;
        }
        Ok(())
    }
}

fn raw_key(key: &[u8; 32], object: ObjectId, name: ObjectName<'_>) -> Key {
    name.with_aad(Form::RawKey, object, |aad| derive(key, b"ward/raw-key/1", aad))
}

/// The same failure for each: the first carries the source, the rest say the same without it.
fn each_failed(n: usize, error: VaultError) -> Vec<Result<Plain, VaultError>> {
    let again = |error: &VaultError| match error {
        VaultError::Outage { what, retry_after_ms, .. } => {
            VaultError::Outage { what, retry_after_ms: *retry_after_ms, source: None }
        }
        _ => VaultError::Tampered,
    };
    let mut out: Vec<_> = (1..n).map(|_| Err(again(&error))).collect();
    if n > 0 {
        out.insert(0, Err(error));
    }
    out
}
