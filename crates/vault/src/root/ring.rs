//! The epoch keys in memory, with the arithmetic that file and fake share.

use std::collections::BTreeMap;

use base::Timestamp;

use crate::aead::{WrappingKey, derive, key_of};
use crate::random::Random;
use crate::{Epoch, Key, Plain, VaultError, WrapItem};

const ITEM_BYTES_MAX: usize = 1024;

/// A key of an epoch, and when it began (0: before that was noted).
#[derive(Clone)]
pub(crate) struct EpochKey {
    pub(crate) key: Key,
    pub(crate) begun: Timestamp,
}

/// What is kept: the keys of the epochs, and that of the records that outlive them ([`Epoch::ROOT`]).
#[derive(Clone)]
pub(crate) struct Keys {
    pub(crate) records: Key,
    pub(crate) epochs: BTreeMap<Epoch, EpochKey>,
}

pub(crate) struct Ring {
    keys: Keys,
    records: WrappingKey,
    ciphers: BTreeMap<Epoch, WrappingKey>,
}

impl Keys {
    /// At the first epoch.
    pub(crate) fn first(random: &Random, now: Timestamp) -> Keys {
        let first = EpochKey { key: random.key(), begun: now };
        Keys { records: random.key(), epochs: BTreeMap::from([(Epoch(1), first)]) }
    }

    fn current(&self) -> Epoch {
        self.epochs.keys().next_back().copied().unwrap_or(Epoch::ROOT)
    }

    /// With one more epoch.
    pub(crate) fn grown(&self, random: &Random, now: Timestamp) -> Keys {
        let mut keys = self.clone();
        keys.epochs.insert(Epoch(self.current().0 + 1), EpochKey { key: random.key(), begun: now });
        keys
    }

    /// Without `epoch`; `None` when it is not among them.
    pub(crate) fn without(&self, epoch: Epoch) -> Result<Option<Keys>, VaultError> {
        if epoch == Epoch::ROOT || epoch == self.current() {
            return Err(VaultError::Invalid("the current epoch cannot be destroyed: begin another first"));
        }
        let mut keys = self.clone();
        Ok(keys.epochs.remove(&epoch).map(|_| keys))
    }

    /// key of the records (32) || count (4) || (epoch (8) || begun (8) || key (32))*, big-endian.
    pub(crate) fn encode(&self) -> Plain {
        let mut out = Plain::new(Vec::with_capacity(36 + 48 * self.epochs.len()));
        out.extend_from_slice(&self.records[..]);
        out.extend_from_slice(&(self.epochs.len() as u32).to_be_bytes());
        for (epoch, EpochKey { key, begun }) in &self.epochs {
            out.extend_from_slice(&epoch.0.to_be_bytes());
            out.extend_from_slice(&begun.0.to_be_bytes());
            out.extend_from_slice(&key[..]);
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Keys> {
        let (records, rest) = bytes.split_at_checked(32)?;
        Some(Keys { records: key(records)?, epochs: Self::decode_epochs(rest, true)? })
    }

    /// The first format: no times, and the key of the records derived from the root.
    pub(crate) fn decode_v1(root: &[u8; 32], bytes: &[u8]) -> Option<Keys> {
        let records = derive(root, b"ward/root/1", b"records");
        Some(Keys { records, epochs: Self::decode_epochs(bytes, false)? })
    }

    fn decode_epochs(bytes: &[u8], has_times: bool) -> Option<BTreeMap<Epoch, EpochKey>> {
        let (count, rest) = split_count(bytes)?;
        let size = if has_times { 48 } else { 40 };
        if count == 0 || rest.len() != count.checked_mul(size)? {
            return None;
        }
        let mut epochs = BTreeMap::new();
        for record in rest.chunks_exact(size) {
            let (epoch, rest) = record.split_first_chunk::<8>()?;
            let (begun, bytes) = if has_times { rest.split_first_chunk::<8>()? } else { (&[0; 8], rest) };
            let begun = Timestamp(i64::from_be_bytes(*begun));
            epochs.insert(Epoch(u64::from_be_bytes(*epoch)), EpochKey { key: key(bytes)?, begun });
        }
        (epochs.len() == count && !epochs.contains_key(&Epoch::ROOT)).then_some(epochs)
    }
}

fn split_count(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (count, rest) = bytes.split_first_chunk::<4>()?;
    Some((usize::try_from(u32::from_be_bytes(*count)).ok()?, rest))
}

fn key(bytes: &[u8]) -> Option<Key> {
    key_of(bytes).ok()
}

impl Ring {
    pub(crate) fn new(keys: Keys) -> Self {
        let records = WrappingKey::new(&keys.records);
        let mut ring = Ring { keys: keys.clone(), records, ciphers: BTreeMap::new() };
        ring.replace(keys);
        ring
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(crate) fn epochs(&self) -> Vec<Epoch> {
        self.keys.epochs.keys().copied().collect()
    }

    pub(crate) fn current(&self) -> Epoch {
        self.keys.current()
    }

    pub(crate) fn begun(&self, epoch: Epoch) -> Option<Timestamp> {
        self.keys.epochs.get(&epoch).map(|key| key.begun)
    }

    /// Takes over a new set of keys. Use counts of epochs that stay are kept.
    pub(crate) fn replace(&mut self, keys: Keys) {
        self.ciphers.retain(|epoch, _| keys.epochs.contains_key(epoch));
        for (epoch, key) in &keys.epochs {
            self.ciphers.entry(*epoch).or_insert_with(|| WrappingKey::new(&key.key));
        }
        self.keys = keys;
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

    fn cipher(&self, epoch: Epoch) -> Result<&WrappingKey, VaultError> {
        if epoch == Epoch::ROOT {
            return Ok(&self.records);
        }
        self.ciphers.get(&epoch).ok_or(VaultError::Destroyed)
    }
}
