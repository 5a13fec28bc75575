//! The node's own secrets: one node secret, wrapped by the root and not by an epoch, and what is derived from it or
//! sealed under it. They are not about any patient, so no erasure reaches them.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};

use crate::aead::{Cipher, derive, key_of};
use crate::random::Random;
use crate::vault::Vault;
use crate::{Epoch, Key, KeyTable, Plain, RootKeys, VaultError, WrapItem};

const NODE_SECRET: &str = "node";
const NODE_SECRET_AAD: &[u8] = b"ward/node-secret/1";

/// The secret that stands in the table, made on the first start of a node.
pub(crate) async fn node_secret(root: &dyn RootKeys, table: &dyn KeyTable, random: &Random) -> Result<Key, VaultError> {
    let wrapped = match table.secret(NODE_SECRET, None).await? {
        Some(wrapped) => wrapped,
        None => {
            let fresh = random.key();
            let item = WrapItem { aad: NODE_SECRET_AAD, bytes: &fresh[..] };
            let wrapped = root.wrap(Epoch::ROOT, &[item]).await?.pop().ok_or(VaultError::Tampered)?;
            table.secret(NODE_SECRET, Some(&wrapped)).await?.ok_or(VaultError::Tampered)?
        }
    };
    let item = WrapItem { aad: NODE_SECRET_AAD, bytes: &wrapped };
    let plain = root.unwrap(Epoch::ROOT, &[item]).await?.pop().ok_or(VaultError::Tampered)?;
    // The table of another node, or other root keys.
    let plain = plain.map_err(|_| VaultError::WrongRoot)?;
    key_of(&plain)
}

impl Vault {
    /// The node secret as it lies in the key table, wrapped by the root: for what only the root may open elsewhere.
    pub async fn wrapped_node_secret(&self) -> Result<Vec<u8>, VaultError> {
        self.inner.table.secret(NODE_SECRET, None).await?.ok_or(VaultError::NotInitialised)
    }

    /// A key of this node for one use, the same after each restart: HKDF-SHA256 of the node secret (RFC 5869).
    pub fn derive(&self, label: &str) -> Key {
        derive(&self.inner.node_secret[..], b"ward/derive/1", label.as_bytes())
    }

    /// The seed of the Ed25519 key of this name (RFC 8032 §5.1.5), made on first use and kept sealed in the table.
    pub async fn ed25519_seed(&self, name: &str) -> Result<Key, VaultError> {
        let plain = self.named("ed25519", name, || Ok(Plain::new(self.inner.random.key().to_vec()))).await?;
        key_of(&plain)
    }

    /// The P-256 key of this name as PKCS#8 (RFC 5208), for ES256; made on first use and kept sealed in the table.
    pub async fn es256_pkcs8(&self, name: &str) -> Result<Plain, VaultError> {
        self.named("es256", name, generate_es256).await
    }

    /// Another P-256 key of this name in place of the one that stands, whose sealed bytes are overwritten.
    pub async fn renew_es256_pkcs8(&self, name: &str) -> Result<Plain, VaultError> {
        self.es256_pkcs8(name).await?;
        let full = format!("es256/{name}");
        let standing = self.inner.table.secret(&full, None).await?.ok_or(VaultError::NoSlot)?;
        let fresh = generate_es256()?;
        let cipher = self.named_cipher(&full);
        let sealed = cipher.seal(*self.inner.random.bytes::<12>(), full.as_bytes(), &fresh)?;
        if self.inner.table.replace_secret(&full, &standing, &sealed).await? {
            Ok(fresh)
        } else {
            Err(VaultError::outage("the key table", "the key was renewed by somebody else at the same time"))
        }
    }

    /// A small note of the node, sealed in the table: what stands under the name, and `note` from now on.
    pub async fn replace_note(&self, name: &str, note: &[u8]) -> Result<(), VaultError> {
        let make = || Ok(Plain::new(note.to_vec()));
        if self.named("note", name, make).await?.as_slice() == note {
            return Ok(());
        }
        let full = format!("note/{name}");
        let standing = self.inner.table.secret(&full, None).await?.ok_or(VaultError::NoSlot)?;
        let sealed = self.named_cipher(&full).seal(*self.inner.random.bytes::<12>(), full.as_bytes(), note)?;
        self.inner.table.replace_secret(&full, &standing, &sealed).await.map(drop)
    }

    /// What [`Vault::replace_note`] left.
    pub async fn note(&self, name: &str) -> Result<Option<Plain>, VaultError> {
        let full = format!("note/{name}");
        let Some(sealed) = self.inner.table.secret(&full, None).await? else { return Ok(None) };
        self.named_cipher(&full).open(full.as_bytes(), &sealed).map(Some)
    }

    fn named_cipher(&self, full: &str) -> Cipher {
        Cipher::new(&derive(&self.inner.node_secret[..], b"ward/named-secret/1", full.as_bytes()))
    }

    async fn named(
        &self,
        kind: &'static str,
        name: &str,
        make: impl FnOnce() -> Result<Plain, VaultError>,
    ) -> Result<Plain, VaultError> {
        const NAME_BYTES_MAX: usize = 128;
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(VaultError::Invalid("the name of a secret has 1 to 128 bytes"));
        }
        let full = format!("{kind}/{name}");
        let cipher = self.named_cipher(&full);
        let sealed = match self.inner.table.secret(&full, None).await? {
            Some(sealed) => sealed,
            None => {
                let sealed = cipher.seal(*self.inner.random.bytes::<12>(), full.as_bytes(), &make()?)?;
                self.inner.table.secret(&full, Some(&sealed)).await?.ok_or(VaultError::Tampered)?
            }
        };
        cipher.open(full.as_bytes(), &sealed)
    }
}

/// The signing library draws from the system itself: it takes no randomness from outside.
fn generate_es256() -> Result<Plain, VaultError> {
    EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
        .map(|document| Plain::new(document.as_ref().to_vec()))
        .map_err(|_| VaultError::outage("the system's randomness", "no key could be made"))
}
