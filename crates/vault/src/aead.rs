//! AES-256-GCM (NIST SP 800-38D) by aws-lc-rs: nonce (12) || ciphertext || tag (16). The only file that names the cipher.
//!
//! aws-lc wipes a key schedule when it is freed; what we hold ourselves wipes itself.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};

use crate::{Key, Plain, VaultError};

pub(crate) const NONCE_BYTES: usize = 12;
pub(crate) const TAG_BYTES: usize = 16;
pub(crate) const OVERHEAD_BYTES: usize = NONCE_BYTES + TAG_BYTES;
pub(crate) const WRAPPED_BYTES: usize = 32 + OVERHEAD_BYTES;

/// Random nonces under one key: SP 800-38D §8.3 allows 2^32; nothing of ours goes past a quarter of it.
pub(crate) const USES_MAX: u64 = 1 << 30;

/// A cipher with its key schedule made once.
pub(crate) struct Cipher(LessSafeKey);

impl Cipher {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        // The length is the only thing that can be wrong, and the type fixes it.
        Cipher(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("an AES-256 key has 32 bytes")))
    }

    /// Seals with one copy into a buffer of the final size.
    pub(crate) fn seal(&self, nonce: [u8; NONCE_BYTES], aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, VaultError> {
        let mut out = Vec::with_capacity(plain.len() + OVERHEAD_BYTES);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(plain);
        let tag = self.seal_in_place(nonce, aad, &mut out[NONCE_BYTES..])?;
        out.extend_from_slice(&tag);
        Ok(out)
    }

    pub(crate) fn seal_in_place(
        &self,
        nonce: [u8; NONCE_BYTES],
        aad: &[u8],
        in_out: &mut [u8],
    ) -> Result<[u8; TAG_BYTES], VaultError> {
        let tag = self
            .0
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), in_out)
            .map_err(|_| VaultError::Invalid("the object is too large to seal in one piece"))?;
        tag.as_ref().try_into().map_err(|_| VaultError::Tampered)
    }

    /// Opens without touching the sealed bytes and without a second copy.
    pub(crate) fn open(&self, aad: &[u8], sealed: &[u8]) -> Result<Plain, VaultError> {
        let len = sealed.len().checked_sub(OVERHEAD_BYTES).ok_or(VaultError::Tampered)?;
        let mut plain = Plain::new(vec![0; len]);
        self.open_into(aad, sealed, &mut plain)?;
        Ok(plain)
    }

    /// `out` has the length of the plaintext.
    pub(crate) fn open_into(&self, aad: &[u8], sealed: &[u8], out: &mut [u8]) -> Result<(), VaultError> {
        let (nonce, rest) = sealed.split_at_checked(NONCE_BYTES).ok_or(VaultError::Tampered)?;
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| VaultError::Tampered)?;
        self.open_with_nonce(nonce, aad, rest, out)
    }

    /// `sealed` is ciphertext || tag.
    pub(crate) fn open_with_nonce(
        &self,
        nonce: [u8; NONCE_BYTES],
        aad: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<(), VaultError> {
        let at = sealed.len().checked_sub(TAG_BYTES).ok_or(VaultError::Tampered)?;
        let (ciphertext, tag) = sealed.split_at(at);
        if ciphertext.len() != out.len() {
            return Err(VaultError::Tampered);
        }
        self.0
            .open_separate_gather(Nonce::assume_unique_for_key(nonce), Aad::from(aad), ciphertext, tag, out)
            .map_err(|_| VaultError::Tampered)
    }
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cipher(..)")
    }
}

/// A key that wraps other keys and counts how often it did.
#[derive(Debug)]
pub(crate) struct WrappingKey {
    cipher: Cipher,
    wraps: AtomicU64,
}

impl WrappingKey {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        WrappingKey { cipher: Cipher::new(key), wraps: AtomicU64::new(0) }
    }

    pub(crate) fn wrap(
        &self,
        nonce: [u8; NONCE_BYTES],
        aad: &[u8],
        key: &[u8; 32],
    ) -> Result<[u8; WRAPPED_BYTES], VaultError> {
        self.count()?;
        let mut out = [0; WRAPPED_BYTES];
        out[..NONCE_BYTES].copy_from_slice(&nonce);
        out[NONCE_BYTES..NONCE_BYTES + 32].copy_from_slice(key);
        let tag = self.cipher.seal_in_place(nonce, aad, &mut out[NONCE_BYTES..NONCE_BYTES + 32])?;
        out[NONCE_BYTES + 32..].copy_from_slice(&tag);
        Ok(out)
    }

    pub(crate) fn unwrap(&self, aad: &[u8], wrapped: &[u8; WRAPPED_BYTES]) -> Result<Key, VaultError> {
        let mut key = Key::default();
        self.unwrap_into(aad, wrapped, &mut key)?;
        Ok(key)
    }

    pub(crate) fn unwrap_into(
        &self,
        aad: &[u8],
        wrapped: &[u8; WRAPPED_BYTES],
        key: &mut [u8; 32],
    ) -> Result<(), VaultError> {
        self.cipher.open_into(aad, wrapped, key)
    }

    /// For what is wrapped but is not a key of 32 bytes.
    pub(crate) fn seal(&self, nonce: [u8; NONCE_BYTES], aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, VaultError> {
        self.count()?;
        self.cipher.seal(nonce, aad, plain)
    }

    pub(crate) fn open(&self, aad: &[u8], sealed: &[u8]) -> Result<Plain, VaultError> {
        self.cipher.open(aad, sealed)
    }

    fn count(&self) -> Result<(), VaultError> {
        if self.wraps.fetch_add(1, Ordering::Relaxed) < USES_MAX { Ok(()) } else { Err(VaultError::Exhausted) }
    }
}

/// A key from the 32 bytes that were opened.
pub(crate) fn key_of(bytes: &[u8]) -> Result<Key, VaultError> {
    let bytes: &[u8; 32] = bytes.try_into().map_err(|_| VaultError::Tampered)?;
    let mut key = Key::default();
    key.copy_from_slice(bytes);
    Ok(key)
}

/// HKDF-SHA256 (RFC 5869). `context` must be unambiguous: one label, or fields behind their lengths.
pub(crate) fn derive(secret: &[u8], salt: &[u8], context: &[u8]) -> Key {
    struct Bytes32;
    impl KeyType for Bytes32 {
        fn len(&self) -> usize {
            32
        }
    }
    let mut out = Key::default();
    Salt::new(HKDF_SHA256, salt)
        .extract(secret)
        .expand(&[context], Bytes32)
        .and_then(|okm| okm.fill(&mut out[..]))
        // 32 bytes is the digest's own length; HKDF refuses only more than 255 times that.
        .expect("HKDF gives 32 bytes");
    out
}
