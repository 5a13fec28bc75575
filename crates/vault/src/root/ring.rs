//! The epoch keys in memory, with the arithmetic that file and fake share.

use std::collections::BTreeMap;

use base::Timestamp;
use zeroize::Zeroizing;

use crate::aead::{WrappingKey, derive};
use crate::random::Random;
use crate::{Epoch, Key, Plain, VaultError, WrapItem};

const ITEM_BYTES_MAX: usize = 1024;
/// Keys of records: the one in use, and the one before while a rotation is under way.
const RECORDS_MAX: usize = 2;

/// A key of an epoch, and when it began (0: before that was noted).
#[derive(Clone)]
pub(crate) struct EpochKey {
    pub(crate) key: Key,
    pub(crate) begun: Timestamp,
}

/// What is kept: the keys of the epochs, and those of the records that outlive them ([`Epoch::ROOT`]), newest last.
#[derive(Clone)]
pub(crate) struct Keys {
    pub(crate) records: Vec<Key>,
    pub(crate) epochs: BTreeMap<Epoch, EpochKey>,
}

pub(crate) struct Ring {
    keys: Keys,
    records: Vec<WrappingKey>,
    ciphers: BTreeMap<Epoch, WrappingKey>,
}

impl Keys {
    /// At the first epoch.
    pub(crate) fn first(random: &Random, now: Timestamp) -> Keys {
        let first = EpochKey { key: random.bytes::<32>(), begun: now };
        Keys { records: vec![random.bytes::<32>()], epochs: BTreeMap::from([(Epoch(1), first)]) }
    }

    fn current(&self) -> Epoch {
        self.epochs.keys().next_back().copied().unwrap_or(Epoch::ROOT)
    }

    /// With one more epoch.
    pub(crate) fn grown(&self, random: &Random, now: Timestamp) -> Keys {
        let mut keys = self.clone();
        keys.epochs.insert(Epoch(self.current().0 + 1), EpochKey { key: random.bytes::<32>(), begun: now });
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

    /// With a fresh key of the records beside the one in use.
    pub(crate) fn rotated(&self, random: &Random) -> Keys {
        let mut keys = self.clone();
        if keys.records.len() < RECORDS_MAX {
            keys.records.push(random.bytes::<32>());
        }
        keys
    }

    /// With the newest key of the records alone.
    pub(crate) fn settled(&self) -> Keys {
        let mut keys = self.clone();
        keys.records.drain(..keys.records.len().saturating_sub(1));
        keys
    }

    /// count (4) || record key (32)*, then count (4) || (epoch (8) || begun (8) || key (32))*, big-endian.
    pub(crate) fn encode(&self) -> Plain {
        let mut out = Zeroizing::new(Vec::with_capacity(8 + 32 * self.records.len() + 48 * self.epochs.len()));
        out.extend_from_slice(&(self.records.len() as u32).to_be_bytes());
        self.records.iter().for_each(|key| out.extend_from_slice(&key[..]));
        out.extend_from_slice(&(self.epochs.len() as u32).to_be_bytes());
        for (epoch, EpochKey { key, begun }) in &self.epochs {
            out.extend_from_slice(&epoch.0.to_be_bytes());
            out.extend_from_slice(&begun.0.to_be_bytes());
            out.extend_from_slice(&key[..]);
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Keys> {
        let (count, rest) = split_count(bytes)?;
        let (records, rest) = rest.split_at_checked(count.checked_mul(32)?)?;
        let records: Vec<Key> = records.chunks_exact(32).filter_map(key).collect();
        let epochs = Self::decode_epochs(rest, true)?;
        (1..=RECORDS_MAX).contains(&records.len()).then_some(Keys { records, epochs })
    }

    /// The first format: no times, and the key of the records derived from the root.
    pub(crate) fn decode_v1(root: &[u8; 32], bytes: &[u8]) -> Option<Keys> {
        let records = vec![derive(root, b"ward/root/1", b"records")];
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
    bytes.try_into().ok().map(Zeroizing::new)
}

impl Ring {
    pub(crate) fn new(keys: Keys) -> Self {
        let mut ring = Ring { keys: keys.clone(), records: Vec::new(), ciphers: BTreeMap::new() };
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
        self.records = keys.records.iter().map(|key| WrappingKey::new(key)).collect();
        self.keys = keys;
    }

    pub(crate) fn wrap(
        &self,
        epoch: Epoch,
        items: &[WrapItem<'_>],
        random: &Random,
    ) -> Result<Vec<Vec<u8>>, VaultError> {
        let newest_record = self.records.last().filter(|_| epoch == Epoch::ROOT);
        let cipher = newest_record.or_else(|| self.ciphers.get(&epoch)).ok_or(VaultError::Destroyed)?;
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
        if epoch == Epoch::ROOT {
            return Ok(items.iter().map(|item| self.unwrap_record(item)).collect());
        }
        let cipher = self.ciphers.get(&epoch).ok_or(VaultError::Destroyed)?;
        Ok(items.iter().map(|item| cipher.open(item.aad, item.bytes)).collect())
    }

    /// By the key in use, or by the one before.
    fn unwrap_record(&self, item: &WrapItem<'_>) -> Result<Plain, VaultError> {
        let newest_first = self.records.iter().rev();
        newest_first
            .map(|cipher| cipher.open(item.aad, item.bytes))
            .find(Result::is_ok)
            .unwrap_or(Err(VaultError::Tampered))
    }
}
