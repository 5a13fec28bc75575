//! Scope keys in memory: few, for a short time, for so many uses, wiped when dropped.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use base::Timestamp;
use parking_lot::Mutex;
use zeroize::Zeroizing;

use crate::aead::{Cipher, NONCE_BYTES, WrappingKey};
use crate::name::Form;
use crate::uses::Uses;
use crate::{Key, ObjectId, ObjectName, Plain, Scope, ScopeId, Slot, VaultError};

/// An unwrapped scope key with its key schedule.
#[derive(Debug)]
pub(crate) struct ScopeKey {
    pub(crate) id: ScopeId,
    pub(crate) scope: Scope,
    pub(crate) wrapping: WrappingKey,
    /// What is reserved of its wraps.
    pub(crate) reserved: Arc<Uses>,
    loaded: Timestamp,
    touched: AtomicI64,
    uses: AtomicU64,
}

impl ScopeKey {
    pub(crate) fn new(id: ScopeId, scope: Scope, key: &[u8; 32], reserved: Arc<Uses>, now: Timestamp) -> Self {
        ScopeKey {
            id,
            scope,
            wrapping: WrappingKey::new(key),
            reserved,
            loaded: now,
            touched: AtomicI64::new(now.0),
            uses: AtomicU64::new(0),
        }
    }

    pub(crate) fn unwrap(&self, slot: &Slot) -> Result<Key, VaultError> {
        self.wrapping.unwrap(&Slot::aad(slot.object, slot.scope), &slot.wrapped)
    }

    /// The use was taken from `reserved`.
    pub(crate) fn wrap(&self, object: ObjectId, key: &[u8; 32], nonce: [u8; NONCE_BYTES]) -> Result<Slot, VaultError> {
        let wrapped = self.wrapping.wrap(nonce, &Slot::aad(object, self.id), key)?;
        Ok(Slot { object, scope: self.id, wrapped })
    }

    pub(crate) fn open(&self, slot: &Slot, name: ObjectName<'_>, sealed: &[u8]) -> Result<Plain, VaultError> {
        let mut key = Zeroizing::new([0; 32]);
        self.wrapping.unwrap_into(&Slot::aad(slot.object, slot.scope), &slot.wrapped, &mut key)?;
        name.with_aad(Form::Whole, slot.object, |aad| Cipher::new(&key).open(aad, sealed))
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct CacheLimits {
    pub(crate) entries_max: usize,
    pub(crate) ttl_ms: i64,
    pub(crate) uses_max: u64,
}

#[derive(Debug)]
pub(crate) struct Cache {
    limits: CacheLimits,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    keys: HashMap<ScopeId, Arc<ScopeKey>>,
    /// The generation of a scope that new objects are sealed under.
    current: HashMap<Scope, ScopeId>,
    /// Counts destructions and renewals: what was read before one must not come in after it.
    changes: u64,
}

/// Taken before a key is read from the table, given back when it is put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

impl Cache {
    pub(crate) fn new(limits: CacheLimits) -> Self {
        Cache { limits, inner: Mutex::default() }
    }

    pub(crate) fn ticket(&self) -> Ticket {
        Ticket(self.inner.lock().changes)
    }

    pub(crate) fn get(&self, id: ScopeId, now: Timestamp) -> Option<Arc<ScopeKey>> {
        self.inner.lock().get(id, now, &self.limits)
    }

    /// The key that seals for this scope now.
    pub(crate) fn current(&self, scope: &Scope, now: Timestamp) -> Option<Arc<ScopeKey>> {
        let mut inner = self.inner.lock();
        let id = *inner.current.get(scope)?;
        inner.get(id, now, &self.limits)
    }

    /// Puts a key in, unless something was destroyed or renewed since the ticket was taken (the caller may use its key once, and
    /// reads again next time).
    pub(crate) fn put(&self, ticket: Ticket, key: Arc<ScopeKey>, is_current: bool) {
        let mut inner = self.inner.lock();
        if ticket.0 != inner.changes {
            return;
        }
        if inner.keys.len() >= self.limits.entries_max && !inner.keys.contains_key(&key.id) {
            inner.make_room(&self.limits, key.loaded);
        }
        if is_current {
            inner.current.insert(key.scope.clone(), key.id);
        }
        inner.keys.insert(key.id, key);
    }

    /// Drops a key that was, or is about to be, destroyed.
    pub(crate) fn destroy(&self, id: ScopeId) {
        let mut inner = self.inner.lock();
        inner.changes += 1;
        inner.remove(id);
    }

    /// The scope has another key from now on; the one before still opens.
    pub(crate) fn renew(&self, scope: &Scope) {
        let mut inner = self.inner.lock();
        inner.changes += 1;
        inner.current.remove(scope);
    }

    pub(crate) fn clear(&self) {
        let mut inner = self.inner.lock();
        inner.keys.clear();
        inner.current.clear();
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.inner.lock().keys.len()
    }
}

impl Inner {
    fn get(&mut self, id: ScopeId, now: Timestamp, limits: &CacheLimits) -> Option<Arc<ScopeKey>> {
        let key = self.keys.get(&id)?;
        let age_ms = now.0.saturating_sub(key.loaded.0);
        // A clock set back makes an age negative: read again rather than trust it.
        if !(0..limits.ttl_ms).contains(&age_ms) || key.uses.fetch_add(1, Ordering::Relaxed) >= limits.uses_max {
            self.remove(id);
            return None;
        }
        key.touched.store(now.0, Ordering::Relaxed);
        Some(key.clone())
    }

    fn remove(&mut self, id: ScopeId) {
        if let Some(key) = self.keys.remove(&id)
            && self.current.get(&key.scope) == Some(&id)
        {
            self.current.remove(&key.scope);
        }
    }

    /// Drops the expired, then the quarter that was idle longest, so that room is made seldom.
    fn make_room(&mut self, limits: &CacheLimits, now: Timestamp) {
        let mut by_idleness: Vec<(i64, ScopeId)> = Vec::with_capacity(self.keys.len());
        let mut expired = Vec::new();
        for (id, key) in &self.keys {
            if now.0.saturating_sub(key.loaded.0) >= limits.ttl_ms {
                expired.push(*id);
            } else {
                by_idleness.push((key.touched.load(Ordering::Relaxed), *id));
            }
        }
        let wanted = (limits.entries_max / 4).max(1).saturating_sub(expired.len()).min(by_idleness.len());
        if wanted > 0 {
            by_idleness.select_nth_unstable(wanted - 1);
            expired.extend(by_idleness[..wanted].iter().map(|(_, id)| *id));
        }
        for id in expired {
            self.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Holder, RetentionClass};
    use base::{DomainName, Ordinal};

    fn key(n: u8, now: i64) -> Arc<ScopeKey> {
        let scope = Scope {
            domain: DomainName::parse("ehr").unwrap(),
            holder: Holder::Record(Ordinal(n.into())),
            retention: RetentionClass::parse("clinical").unwrap(),
            year: 2026,
        };
        Arc::new(ScopeKey::new(ScopeId([n; 16]), scope, &[n; 32], uses(n), Timestamp(now)))
    }

    fn uses(n: u8) -> Arc<Uses> {
        crate::uses::Reservations::new(1 << 28).of(ScopeId([n; 16]), 0)
    }

    #[test]
    fn keys_go_by_time_by_use_by_room_and_by_destruction() {
        let cache = Cache::new(CacheLimits { entries_max: 8, ttl_ms: 100, uses_max: 3 });
        let put = |n, now| cache.put(cache.ticket(), key(n, now), true);
        put(1, 0);
        assert!(cache.get(ScopeId([1; 16]), Timestamp(99)).is_some());
        assert!(cache.get(ScopeId([1; 16]), Timestamp(100)).is_none(), "time");
        put(2, 0);
        for expected in [true, true, true, false] {
            assert_eq!(cache.current(&key(2, 0).scope, Timestamp(1)).is_some(), expected, "use");
        }
        for n in 0..100 {
            put(n, i64::from(n));
            assert!(cache.len() <= 8, "room");
        }
        let ticket = cache.ticket();
        cache.destroy(ScopeId([99; 16]));
        cache.put(ticket, key(99, 99), true);
        assert!(cache.get(ScopeId([99; 16]), Timestamp(100)).is_none(), "destruction");
    }

    #[test]
    fn debug_shows_no_key() {
        let marked = ScopeKey::new(ScopeId([1; 16]), key(1, 0).scope.clone(), &[0xAB; 32], uses(1), Timestamp(0));
        let text = format!("{marked:?}");
        assert!(text.contains("Cipher(..)") && !text.contains("171"), "{text}");
    }
}
