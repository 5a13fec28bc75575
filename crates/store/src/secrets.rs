//! Keyed tokens and sealed links of the store, under keys that the vault derives. Keeps no data.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use base::{DomainName, Entropy};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use vault::Vault;

use crate::StoreError;

pub(crate) struct Secrets {
    id: hmac::Key,
    seen: hmac::Key,
    link: LessSafeKey,
    entropy: Arc<dyn Entropy>,
}

/// Stands for (domain, type, id) in the catalog.
pub(crate) type Token = [u8; 16];

impl Secrets {
    pub fn new(vault: &Vault, entropy: Arc<dyn Entropy>) -> Result<Self, StoreError> {
        let mac = |label| hmac::Key::new(hmac::HMAC_SHA256, &vault.derive(label)[..]);
        let link = UnboundKey::new(&AES_256_GCM, &vault.derive("store/link")[..])
            .map_err(|_| StoreError::Invalid("a derived key of the wrong length"))?;
        Ok(Secrets { id: mac("store/id"), seen: mac("store/seen"), link: LessSafeKey::new(link), entropy })
    }

    pub fn token(&self, domain: &DomainName, rtype: &str, id: &str) -> Token {
        let mut context = hmac::Context::with_key(&self.id);
        for part in [domain.as_str(), rtype, id] {
            context.update(part.as_bytes());
            context.update(&[0]);
        }
        let mut token = [0; 16];
        token.copy_from_slice(&context.sign().as_ref()[..16]);
        token
    }

    /// 128 bits of the HMAC in hexadecimal: an Idempotency-Key may hold anything.
    pub fn seen_key(&self, key: &str) -> String {
        base::hex::encode(&hmac::sign(&self.seen, key.as_bytes()).as_ref()[..16])
    }

    /// 63 bits of the HMAC, and never 0.
    pub fn entry_token(&self, label: &str, word: &str) -> i64 {
        let mut context = hmac::Context::with_key(&self.seen);
        for part in ["entry", label, word] {
            context.update(part.as_bytes());
            context.update(&[0]);
        }
        let mut token = [0; 8];
        token.copy_from_slice(&context.sign().as_ref()[..8]);
        (i64::from_be_bytes(token) & i64::MAX).max(1)
    }

    /// Puts a content hash under a pad, or takes it off. The pad is of this journal entry alone.
    pub fn pad_hash(&self, domain: &DomainName, index: u64, hash: &[u8]) -> Vec<u8> {
        let mut context = hmac::Context::with_key(&self.seen);
        context.update(b"pad\0");
        context.update(domain.as_str().as_bytes());
        context.update(&index.to_be_bytes());
        hash.iter().zip(context.sign().as_ref()).map(|(a, b)| a ^ b).collect()
    }

    /// Seals a page link. It opens only for the same `bound` (principal, request).
    pub fn seal_link(&self, bound: &[u8], plain: &[u8]) -> Result<String, StoreError> {
        let mut nonce = [0; NONCE_LEN];
        self.entropy.fill(&mut nonce);
        let mut out = plain.to_vec();
        self.link
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(bound), &mut out)
            .map_err(|_| StoreError::Invalid("a page link that is too long"))?;
        let mut sealed = nonce.to_vec();
        sealed.extend_from_slice(&out);
        Ok(URL_SAFE_NO_PAD.encode(sealed))
    }

    pub fn open_link(&self, bound: &[u8], text: &str) -> Result<Vec<u8>, StoreError> {
        let mut sealed = URL_SAFE_NO_PAD.decode(text).map_err(|_| StoreError::BadCursor)?;
        if sealed.len() < NONCE_LEN {
            return Err(StoreError::BadCursor);
        }
        let mut body = sealed.split_off(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(&sealed).map_err(|_| StoreError::BadCursor)?;
        let plain = self.link.open_in_place(nonce, Aad::from(bound), &mut body).map_err(|_| StoreError::BadCursor)?;
        Ok(plain.to_vec())
    }
}
