//! Use counts of scope keys: wraps are reserved in the table before they are made, a block at a time, so that the count
//! there is never too low, whatever crashes (NIST SP 800-38D §8.3 limits what one key may wrap).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::ScopeId;

/// Blocks begin small: most scopes are a patient's year with a few hundred objects.
const FIRST_BLOCK: u64 = 256;
/// Reservations remembered for keys that are not in the cache. One forgotten is counted as used.
const REMEMBERED_MAX: usize = 65_536;

/// What this process has reserved of one key and not yet used.
#[derive(Debug)]
pub(crate) struct Uses {
    left: AtomicU64,
    block: AtomicU64,
    /// The count in the table, as far as it is known here.
    counted: AtomicU64,
}

impl Uses {
    /// Takes one use, if one is left.
    pub(crate) fn take(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    pub(crate) fn next_block(&self) -> u64 {
        self.block.load(Ordering::Relaxed)
    }

    /// A block was added in the table.
    pub(crate) fn add(&self, block: u64, block_max: u64) {
        self.counted.fetch_add(block, Ordering::Relaxed);
        self.left.fetch_add(block, Ordering::Relaxed);
        self.block.store((block * 2).min(block_max), Ordering::Relaxed);
    }

    /// Nothing is left, and no further block may be reserved.
    pub(crate) fn is_worn(&self, wraps_max: u64) -> bool {
        self.counted.load(Ordering::Relaxed) >= wraps_max && self.left.load(Ordering::Relaxed) == 0
    }
}

/// The reservations of a process, by key.
#[derive(Debug)]
pub(crate) struct Reservations {
    wraps_max: u64,
    by_key: Mutex<HashMap<ScopeId, Arc<Uses>>>,
}

impl Reservations {
    pub(crate) fn new(wraps_max: u64) -> Self {
        Reservations { wraps_max, by_key: Mutex::default() }
    }

    /// A key is given up after at most this many blocks, however often its process ends.
    pub(crate) fn block_max(&self) -> u64 {
        (self.wraps_max >> 12).max(1)
    }

    pub(crate) fn first_block(&self) -> u64 {
        FIRST_BLOCK.min(self.block_max())
    }

    /// The reservation of a key whose count in the table is `counted`.
    pub(crate) fn of(&self, id: ScopeId, counted: u64) -> Arc<Uses> {
        let mut by_key = self.by_key.lock();
        if by_key.len() >= REMEMBERED_MAX {
            by_key.retain(|_, uses| Arc::strong_count(uses) > 1);
        }
        let fresh = || {
            let block = AtomicU64::new(self.first_block());
            Arc::new(Uses { left: AtomicU64::new(0), block, counted: AtomicU64::new(counted) })
        };
        let uses = by_key.entry(id).or_insert_with(fresh);
        uses.counted.fetch_max(counted, Ordering::Relaxed);
        uses.clone()
    }

    /// A key that this process has just stored, with its first block counted.
    pub(crate) fn begin(&self, id: ScopeId) {
        let uses = self.of(id, 0);
        uses.add(self.first_block(), self.block_max());
    }

    pub(crate) fn forget(&self, id: ScopeId) {
        self.by_key.lock().remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_was_reserved_and_blocks_grow() {
        let all = Reservations::new(1 << 28);
        let id = ScopeId([1; 16]);
        all.begin(id);
        let uses = all.of(id, 100);
        assert_eq!((0..=FIRST_BLOCK).filter(|_| uses.take()).count() as u64, FIRST_BLOCK);
        let mut counted = FIRST_BLOCK;
        for _ in 0..20 {
            let block = uses.next_block();
            assert!(block <= all.block_max());
            uses.add(block, all.block_max());
            counted += block;
        }
        assert_eq!(uses.counted.load(Ordering::Relaxed), counted);
        assert!(!uses.is_worn(counted), "some are left");
        while uses.take() {}
        assert!(uses.is_worn(counted) && !uses.is_worn(counted + 1));
    }
}
