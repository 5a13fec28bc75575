//! How audit records are sealed: AES-256-GCM under one key per **generation**. A generation begins at each start of the
//! node, each day, and after [`RECORDS_MAX`] records; its key is fresh, so a counter makes the nonces. Days let a year's
//! records end with that year's retention.
//!
//! A sealed record is `1 || generation (16) || nonce (12) || ciphertext || tag (16)`; version and generation are bound as
//! associated data, the place in the log by the log's Merkle tree.
//!
//! Never here: what a record says (see `record`).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use ::vault::Key;
use async_trait::async_trait;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use base::{DomainName, Entropy, Timestamp};
use bytes::Bytes;
use parking_lot::Mutex;

const FORMAT: u8 = 1;
const HEAD: usize = 1 + 16 + NONCE_LEN;
/// Far below what NIST SP 800-38D §8.3 allows for one key.
const RECORDS_MAX: u64 = 1 << 30;
const DAY_MS: i64 = 86_400_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuditKeyError {
    /// Try again: an outage is not a missing right.
    #[error("the key of the audit log cannot be had now; try again shortly")]
    Outage,
    #[error("the key of these audit records was destroyed when their retention ended")]
    Destroyed,
    #[error("an audit record does not open under its key; run ward-verify on the log")]
    Tampered,
}

/// A generation's name and key.
#[derive(Clone)]
pub struct Generation {
    pub id: [u8; 16],
    pub key: Key,
}

/// Keys for audit records.
#[async_trait]
pub trait AuditKeys: Send + Sync {
    /// A key never used before. When this returns, [`AuditKeys::load`] finds it after a crash.
    async fn begin(&self) -> Result<Generation, AuditKeyError>;
    /// The key of a generation that was begun.
    async fn load(&self, id: [u8; 16]) -> Result<Key, AuditKeyError>;
    /// Destroys the key of a generation: what it sealed opens no more. No error when there is none.
    async fn forget(&self, id: [u8; 16]) -> Result<(), AuditKeyError>;
    /// Destroys the keys of all generations that were begun before a year. How many scopes of keys that were.
    async fn expire(&self, before: i32) -> Result<u64, AuditKeyError>;
    /// A secret of this node for a label, the same at every start: for keyed tokens and hashes.
    fn derive(&self, label: &str) -> Key;
}

/// Keys in memory, for tests.
pub struct MemoryAuditKeys {
    entropy: Arc<dyn Entropy>,
    keys: Mutex<HashMap<[u8; 16], Key>>,
}

impl MemoryAuditKeys {
    pub fn new(entropy: Arc<dyn Entropy>) -> Self {
        MemoryAuditKeys { entropy, keys: Mutex::default() }
    }
}

#[async_trait]
impl AuditKeys for MemoryAuditKeys {
    async fn begin(&self) -> Result<Generation, AuditKeyError> {
        let (mut id, mut key) = ([0; 16], Key::default());
        self.entropy.fill(&mut id);
        self.entropy.fill(&mut key[..]);
        self.keys.lock().insert(id, key.clone());
        Ok(Generation { id, key })
    }

    async fn load(&self, id: [u8; 16]) -> Result<Key, AuditKeyError> {
        self.keys.lock().get(&id).cloned().ok_or(AuditKeyError::Destroyed)
    }

    async fn forget(&self, id: [u8; 16]) -> Result<(), AuditKeyError> {
        self.keys.lock().remove(&id);
        Ok(())
    }

    /// These keys know no years.
    async fn expire(&self, _before: i32) -> Result<u64, AuditKeyError> {
        Ok(0)
    }

    fn derive(&self, label: &str) -> Key {
        crate::token::sha256(label.as_bytes()).into()
    }
}

fn cipher(key: &[u8; 32]) -> Result<LessSafeKey, AuditKeyError> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map_err(|_| AuditKeyError::Tampered)
}

/// One generation at work. Sealing takes no lock.
pub(crate) struct Sealer {
    id: [u8; 16],
    key: LessSafeKey,
    used: AtomicU64,
    /// Day of the first record, from 1970; [`i64::MIN`] before it.
    day: AtomicI64,
}

impl Sealer {
    pub fn new(generation: &Generation) -> Result<Self, AuditKeyError> {
        Ok(Sealer {
            id: generation.id,
            key: cipher(&generation.key)?,
            used: AtomicU64::new(0),
            day: AtomicI64::new(i64::MIN),
        })
    }

    /// `None` when the generation is used up or of another day.
    pub fn seal(&self, plain: &[u8], at: Timestamp) -> Option<Bytes> {
        let today = at.ms().div_euclid(DAY_MS);
        let first = self.day.compare_exchange(i64::MIN, today, Ordering::Relaxed, Ordering::Relaxed);
        if first.is_err_and(|day| day < today) {
            return None;
        }
        let count = self.used.fetch_add(1, Ordering::Relaxed);
        if count >= RECORDS_MAX {
            return None;
        }
        let mut nonce = [0; NONCE_LEN];
        nonce[..8].copy_from_slice(&count.to_le_bytes());
        let mut out = Vec::with_capacity(HEAD + plain.len() + 16);
        out.push(FORMAT);
        out.extend_from_slice(&self.id);
        out.extend_from_slice(&nonce);
        let mut body = plain.to_vec();
        let bound = aad(&self.id);
        self.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(bound), &mut body).ok()?;
        out.extend_from_slice(&body);
        Some(out.into())
    }
}

fn aad(id: &[u8; 16]) -> [u8; 28] {
    let mut aad = *b"ward-audit-1................";
    aad[12..].copy_from_slice(id);
    aad
}

/// The generation of a sealed record.
pub(crate) fn generation_of(sealed: &[u8]) -> Result<[u8; 16], AuditKeyError> {
    match sealed {
        [FORMAT, rest @ ..] if sealed.len() >= HEAD + 16 => {
            let mut id = [0; 16];
            id.copy_from_slice(&rest[..16]);
            Ok(id)
        }
        _ => Err(AuditKeyError::Tampered),
    }
}

/// What names a record wherever it lies: its generation of keys, and its number in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId {
    pub(crate) generation: [u8; 16],
    pub(crate) number: u32,
}

/// 32 hexadecimal digits, `-`, the number: an id that FHIR takes too.
impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", base::hex::encode(&self.generation), self.number)
    }
}

impl RecordId {
    /// `None` for what no [`Sealer`] made.
    pub(crate) fn of(sealed: &[u8]) -> Option<Self> {
        let generation = generation_of(sealed).ok()?;
        let number = u64::from_le_bytes(sealed.get(17..25)?.try_into().ok()?);
        Some(RecordId { generation, number: u32::try_from(number).ok()? })
    }

    /// As it is displayed, and no other way.
    pub fn parse(text: &str) -> Option<Self> {
        let (digits, number) = text.split_once('-')?;
        let generation: Vec<u8> = digits
            .as_bytes()
            .as_chunks::<2>()
            .0
            .iter()
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect::<Option<_>>()?;
        let id = RecordId { generation: generation.try_into().ok()?, number: number.parse().ok()? };
        (id.to_string() == text).then_some(id)
    }
}

/// Opens sealed records under keys once loaded.
pub(crate) struct Opener {
    keys: Arc<dyn AuditKeys>,
    loaded: Mutex<HashMap<[u8; 16], Arc<LessSafeKey>>>,
}

impl Opener {
    const KEYS_MAX: usize = 256;

    pub fn new(keys: Arc<dyn AuditKeys>) -> Self {
        Opener { keys, loaded: Mutex::default() }
    }

    pub async fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, AuditKeyError> {
        open_with(&*self.key(generation_of(sealed)?).await?, sealed)
    }

    /// The key of a generation, loaded once.
    pub async fn key(&self, id: [u8; 16]) -> Result<Arc<LessSafeKey>, AuditKeyError> {
        if let Some(key) = self.loaded.lock().get(&id).cloned() {
            return Ok(key);
        }
        let key = Arc::new(cipher(&*self.keys.load(id).await?)?);
        let mut loaded = self.loaded.lock();
        if loaded.len() >= Self::KEYS_MAX {
            loaded.clear();
        }
        loaded.insert(id, key.clone());
        Ok(key)
    }

    /// Keys are asked for again: some were destroyed.
    pub fn forget(&self) {
        self.loaded.lock().clear();
    }
}

/// Opens a sealed record under the key of its generation.
pub(crate) fn open_with(key: &LessSafeKey, sealed: &[u8]) -> Result<Vec<u8>, AuditKeyError> {
    let id = generation_of(sealed)?;
    let mut nonce = [0; NONCE_LEN];
    nonce.copy_from_slice(&sealed[17..HEAD]);
    let mut body = sealed[HEAD..].to_vec();
    let opened = key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad(&id)), &mut body);
    let length = opened.map_err(|_| AuditKeyError::Tampered)?.len();
    body.truncate(length);
    Ok(body)
}

/// Keyed tokens and hashes of the audit log.
pub(crate) struct Tokens {
    patient: hmac::Key,
    query: hmac::Key,
}

impl Tokens {
    pub fn new(keys: &dyn AuditKeys) -> Self {
        let key = |label| hmac::Key::new(hmac::HMAC_SHA256, &*keys.derive(label));
        Tokens { patient: key("audit-token"), query: key("audit-query") }
    }

    /// HMAC of `domain|ordinal`: the same patient, the same token, for whoever has the node's secret.
    pub fn patient(&self, domain: &DomainName, patient: u32) -> [u8; 16] {
        half(&hmac::sign(&self.patient, format!("{domain}|{patient}").as_bytes()))
    }

    pub fn query(&self, text: &[u8]) -> [u8; 16] {
        half(&hmac::sign(&self.query, text))
    }
}

fn half(tag: &hmac::Tag) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&tag.as_ref()[..16]);
    out
}

#[cfg(test)]
mod tests {
    use base::SeededEntropy;

    use super::*;

    fn keys() -> Arc<MemoryAuditKeys> {
        Arc::new(MemoryAuditKeys::new(Arc::new(SeededEntropy::new(11))))
    }

    #[tokio::test]
    async fn sealed_records_open_and_every_changed_bit_is_found() {
        let keys = keys();
        let sealer = Sealer::new(&keys.begin().await.unwrap()).unwrap();
        let opener = Opener::new(keys);
        let sealed = sealer.seal(b"dr-lee read", Timestamp(0)).unwrap();
        assert_eq!(opener.open(&sealed).await.unwrap(), b"dr-lee read");
        assert_ne!(sealed, sealer.seal(b"dr-lee read", Timestamp(0)).unwrap(), "a nonce was used twice");
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(opener.open(&changed).await.is_err(), "{bit}");
        }
        for end in 0..sealed.len() {
            assert!(opener.open(&sealed[..end]).await.is_err());
        }
    }

    #[tokio::test]
    async fn a_generation_ends_with_its_day_and_with_its_count() {
        let sealer = Sealer::new(&keys().begin().await.unwrap()).unwrap();
        let noon = Timestamp(DAY_MS * 20_000 + DAY_MS / 2);
        assert!(sealer.seal(b"x", noon).is_some());
        assert!(sealer.seal(b"x", noon.plus_ms(DAY_MS / 2 - 1)).is_some());
        assert!(sealer.seal(b"x", noon.plus_ms(DAY_MS / 2)).is_none());
        assert!(sealer.seal(b"x", noon.plus_ms(-DAY_MS)).is_some(), "a clock set back wastes no keys");
        sealer.used.store(RECORDS_MAX, Ordering::Relaxed);
        assert!(sealer.seal(b"x", noon).is_none());
    }

    #[test]
    fn patient_tokens_differ_by_patient_and_domain() {
        let tokens = Tokens::new(&*keys());
        let (ehr, lab) = (DomainName::parse("ehr").unwrap(), DomainName::parse("laboratory").unwrap());
        assert_eq!(tokens.patient(&ehr, 7), tokens.patient(&ehr, 7));
        assert_ne!(tokens.patient(&ehr, 7), tokens.patient(&ehr, 8));
        assert_ne!(tokens.patient(&ehr, 7), tokens.patient(&lab, 7));
    }
}
