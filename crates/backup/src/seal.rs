//! Sealing: whatever goes to a target is AES-256-GCM under a key for each name, derived from the node secret that the
//! vault holds; the name is bound, so nothing opens in another's place. Pieces are named by a keyed hash of what is in
//! them: the same content is the same piece, and the name tells nothing to whoever has no key.
//!
//! A sealed manifest carries the node secret as it lies in the key table, wrapped by the root: whoever has the root
//! can open it, and nobody else. Root and epoch keys are never in a backup.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::hmac;
use base::{Clock, Entropy};
use bytes::Bytes;
use vault::{Key, MemoryKeyTable, RootKeys, SecretTable, Vault};

use crate::error::{BackupError, Result};

/// The name of the node secret in the key table.
const NODE_SECRET: &str = "node";
const TAG_BYTES: usize = 16;

/// Seals and opens what belongs to one node's backups.
#[derive(Clone)]
pub struct Seal {
    key: Key,
    /// The node secret, wrapped by the root.
    wrapped: Vec<u8>,
}

impl Seal {
    /// By how much a sealed piece is longer than what is in it.
    pub const OVERHEAD_BYTES: u64 = (NONCE_LEN + TAG_BYTES) as u64;

    /// The seal of a node, by its vault.
    pub async fn of_node(vault: &Vault) -> Result<Seal> {
        Ok(Seal { key: derived(vault), wrapped: vault.wrapped_node_secret().await? })
    }

    /// The seal that a manifest was written with, by the root keys.
    pub(crate) async fn of_wrapped(
        wrapped: &[u8],
        root: &Arc<dyn RootKeys>,
        clock: &Arc<dyn Clock>,
        entropy: &Arc<dyn Entropy>,
    ) -> Result<Seal> {
        let table = MemoryKeyTable::new();
        table.secret(NODE_SECRET, Some(wrapped)).await?;
        let vault = Vault::open(root.clone(), Arc::new(table), clock.clone(), entropy.clone()).await?;
        Ok(Seal { key: derived(&vault), wrapped: wrapped.to_vec() })
    }

    pub(crate) fn wrapped(&self) -> &[u8] {
        &self.wrapped
    }

    /// The name of a piece: 64 hexadecimal digits, the keyed hash of its content.
    pub fn name(&self, plain: &[u8]) -> Result<String> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.derive("names")?[..]);
        Ok(base::hex::encode(hmac::sign(&key, plain).as_ref()))
    }

    /// nonce (12) || ciphertext || tag (16).
    pub fn seal(&self, name: &str, bound: &[u8], plain: &[u8], nonce: [u8; NONCE_LEN]) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(NONCE_LEN + plain.len() + TAG_BYTES);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(plain);
        let tag = self
            .cipher(name)?
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(bound), &mut out[NONCE_LEN..])
            .map_err(|_| BackupError::refused("the piece is too large to be sealed"))?;
        out.extend_from_slice(tag.as_ref());
        Ok(out)
    }

    pub fn open(&self, name: &str, bound: &[u8], mut sealed: Vec<u8>) -> Result<Bytes> {
        let damaged = || BackupError::damaged(name);
        let (nonce, rest) = sealed.split_first_chunk_mut::<NONCE_LEN>().ok_or_else(damaged)?;
        let plain = self
            .cipher(name)?
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(bound), rest)
            .map_err(|_| damaged())?
            .len();
        Ok(Bytes::from(sealed).slice(NONCE_LEN..NONCE_LEN + plain))
    }

    fn cipher(&self, name: &str) -> Result<LessSafeKey> {
        let broken = |_| BackupError::refused("a key of the backup could not be derived");
        UnboundKey::new(&AES_256_GCM, &self.derive(name)?[..]).map(LessSafeKey::new).map_err(broken)
    }

    fn derive(&self, name: &str) -> Result<Key> {
        struct Bytes32;
        impl KeyType for Bytes32 {
            fn len(&self) -> usize {
                32
            }
        }
        let mut key = Key::default();
        Salt::new(HKDF_SHA256, b"ward/backup/1")
            .extract(&self.key[..])
            .expand(&[name.as_bytes()], Bytes32)
            .and_then(|okm| okm.fill(&mut key[..]))
            .map_err(|_| BackupError::refused("a key of the backup could not be derived"))?;
        Ok(key)
    }
}

fn derived(vault: &Vault) -> Key {
    vault.derive("backup/1")
}

pub(crate) fn sha256_of(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::{SeededEntropy, SystemClock};
    use vault::MemoryRootKeys;

    #[tokio::test]
    async fn a_sealed_piece_opens_under_its_own_name_and_root_alone() {
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(1));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let root: Arc<dyn RootKeys> = Arc::new(MemoryRootKeys::new(entropy.clone()));
        let table = Arc::new(MemoryKeyTable::new());
        let vault = Vault::open(root.clone(), table, clock.clone(), entropy.clone()).await.unwrap();
        let seal = Seal::of_node(&vault).await.unwrap();
        let sealed = seal.seal("a", b"x", b"plain", [7; 12]).unwrap();
        assert!(!sealed.windows(5).any(|w| w == b"plain"));
        let again = Seal::of_wrapped(seal.wrapped(), &root, &clock, &entropy).await.unwrap();
        assert_eq!(&again.open("a", b"x", sealed.clone()).unwrap()[..], b"plain");
        assert_eq!(again.name(b"plain").unwrap(), seal.name(b"plain").unwrap());
        assert!(again.open("b", b"x", sealed.clone()).is_err() && again.open("a", b"y", sealed).is_err());
        let other: Arc<dyn RootKeys> = Arc::new(MemoryRootKeys::new(Arc::new(SeededEntropy::new(2))));
        assert!(Seal::of_wrapped(seal.wrapped(), &other, &clock, &entropy).await.is_err(), "another root");
    }
}
