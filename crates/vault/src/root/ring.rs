//! The epoch keys in memory, with the arithmetic that file and fake share.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use crate::aead::{WrappingKey, derive};
use crate::random::Random;
use crate::{Epoch, Key, Plain, VaultError, WrapItem};

const ITEM_BYTES_MAX: usize = 1024;

pub(crate) struct Ring {
    keys: BTreeMap<Epoch, Key>,
    ciphers: BTreeMap<Epoch, WrappingKey>,
}

impl Ring {
    /// A ring at its first epoch. `root` is the root key.
    pub(crate) fn first(root: &[u8; 32], random: &Random) -> Self {
        Self::with(root, BTreeMap::from([(Epoch(1), random.bytes::<32>())]))
    }

    pub(crate) fn with(root: &[u8; 32], keys: BTreeMap<Epoch, Key>) -> Self {
        let mut ciphers: BTreeMap<_, _> = keys.iter().map(|(epoch, key)| (*epoch, WrappingKey::new(key))).collect();
        ciphers.insert(Epoch::ROOT, WrappingKey::new(&derive(root, b"ward/root/1", b"records")));
        Ring { keys, ciphers }
    }

    pub(crate) fn keys(&self) -> BTreeMap<Epoch, Key> {
        self.keys.clone()
    }

    pub(crate) fn epochs(&self) -> Vec<Epoch> {
        self.keys.keys().copied().collect()
    }

    pub(crate) fn current(&self) -> Epoch {
        self.keys.keys().next_back().copied().unwrap_or(Epoch::ROOT)
    }

    /// The keys this ring would have with one more epoch.
    pub(crate) fn grown(&self, random: &Random) -> BTreeMap<Epoch, Key> {
        let mut keys = self.keys.clone();
        keys.insert(Epoch(self.current().0 + 1), random.bytes::<32>());
        keys
    }

    /// The keys without `epoch`; `None` when it is not among them.
    pub(crate) fn without(&self, epoch: Epoch) -> Result<Option<BTreeMap<Epoch, Key>>, VaultError> {
        if epoch == Epoch::ROOT || epoch == self.current() {
            return Err(VaultError::Invalid("the current epoch cannot be destroyed: begin another first"));
        }
        let mut keys = self.keys.clone();
        Ok(keys.remove(&epoch).map(|_| keys))
    }

    /// Takes over a new set of keys. Use counts of those that stay are kept.
    pub(crate) fn replace(&mut self, keys: BTreeMap<Epoch, Key>) {
        self.ciphers.retain(|epoch, _| *epoch == Epoch::ROOT || keys.contains_key(epoch));
        for (epoch, key) in &keys {
            self.ciphers.entry(*epoch).or_insert_with(|| WrappingKey::new(key));
        }
        self.keys = keys;
    }

    fn cipher(&self, epoch: Epoch) -> Result<&WrappingKey, VaultError> {
        self.ciphers.get(&epoch).ok_or(VaultError::Destroyed)
    }

    pub(crate) fn wrap(
        &self,
        epoch: Epoch,
        items: &[WrapItem<'_>],
        random: &Random,
    ) -> Result<Vec<Vec<u8>>, VaultError> {
        let cipher = self.cipher(epoch)?;
        if items.iter().any(|item| item.bytes.len() > ITEM_BYTES_MAX) {
            return Err(VaultError::Invalid("only keys of at most 1 KiB are wrapped"));
        }
        items.iter().map(|item| cipher.seal(*random.bytes::<12>(), item.aad, item.bytes)).collect()
    }

    pub(crate) fn unwrap(
        &self,
        epoch: Epoch,
        items: &[WrapItem<'_>],
    ) -> Result<Vec<Result<Plain, VaultError>>, VaultError> {
        let cipher = self.cipher(epoch)?;
        Ok(items.iter().map(|item| cipher.open(item.aad, item.bytes)).collect())
    }

    /// count (4) || (epoch (8) || key (32))*, big-endian.
    pub(crate) fn encode(keys: &BTreeMap<Epoch, Key>) -> Plain {
        let mut out = Zeroizing::new(Vec::with_capacity(4 + 40 * keys.len()));
        out.extend_from_slice(&(keys.len() as u32).to_be_bytes());
        for (epoch, key) in keys {
            out.extend_from_slice(&epoch.0.to_be_bytes());
            out.extend_from_slice(&key[..]);
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<BTreeMap<Epoch, Key>> {
        let (count, rest) = bytes.split_first_chunk::<4>()?;
        let count = usize::try_from(u32::from_be_bytes(*count)).ok()?;
        if count == 0 || rest.len() != count.checked_mul(40)? {
            return None;
        }
        let mut keys = BTreeMap::new();
        for record in rest.chunks_exact(40) {
            let (epoch, key) = record.split_first_chunk::<8>()?;
            keys.insert(Epoch(u64::from_be_bytes(*epoch)), Zeroizing::new(key.try_into().ok()?));
        }
        (keys.len() == count && !keys.contains_key(&Epoch::ROOT)).then_some(keys)
    }
}
