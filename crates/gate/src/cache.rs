//! A bounded map that forgets: two generations, the older dropped when the younger is full. Constant work per use, at
//! most `2 × half` entries.

use std::collections::HashMap;
use std::hash::Hash;

use parking_lot::Mutex;

pub(crate) struct Cache<K, V> {
    half: usize,
    maps: Mutex<(HashMap<K, V>, HashMap<K, V>)>,
}

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    pub fn new(entries_max: usize) -> Self {
        Cache { half: (entries_max / 2).max(1), maps: Mutex::default() }
    }

    pub fn get(&self, key: &K) -> Option<V> {
        let mut maps = self.maps.lock();
        if let Some(value) = maps.0.get(key) {
            return Some(value.clone());
        }
        let (key, value) = maps.1.remove_entry(key)?;
        self.put(&mut maps, key, value.clone());
        Some(value)
    }

    pub fn insert(&self, key: K, value: V) {
        self.put(&mut self.maps.lock(), key, value);
    }

    pub fn clear(&self) {
        *self.maps.lock() = Default::default();
    }

    fn put(&self, maps: &mut (HashMap<K, V>, HashMap<K, V>), key: K, value: V) {
        if maps.0.len() >= self.half {
            maps.1 = std::mem::take(&mut maps.0);
        }
        maps.0.insert(key, value);
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        let maps = self.maps.lock();
        maps.0.len() + maps.1.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_within_its_bound_and_keeps_what_is_used() {
        let cache = Cache::new(8);
        for n in 0..100 {
            cache.insert(n, n);
            cache.get(&0);
            assert!(cache.len() <= 8);
        }
        assert_eq!(cache.get(&0), Some(0));
        assert_eq!(cache.get(&1), None);
    }
}
