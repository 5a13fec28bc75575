//! A domain's journal: raw input, sealed part by part, in the ledger.
//!
//! An entry has two parts, envelope and body. The key slots of both travel in the same frame, wrapped by the domain's
//! *unassigned* scope; refine re-wraps them to the patient they turn out to be about. A body too large for a frame goes
//! to the object store first, and the entry holds a reference with the ciphertext's hash. Bodies are compressed before
//! they are sealed, where that makes them smaller.

use std::collections::HashMap;
use std::sync::Arc;

use base::{DomainName, Layer, Permit, Phi, Read, Timestamp, Write};
use bytes::Bytes;
use ledger::{AppendError, Log, NewEntry};
use object_store::ObjectStoreExt as _;
use object_store::path::Path as ObjectPath;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use vault::{Kind, ObjectId, ObjectName, Slot, Vault};

use crate::envelope::{Content, Envelope};

/// Bodies up to this size lie in the log itself.
const INLINE_BYTES_MAX: usize = 1 << 20;

const ENVELOPE: u64 = 0;
const BODY: u64 = 1;
const LARGE: u64 = 2;

/// Why an entry could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("the journal is busy: try again in {retry_after_ms} ms")]
    Busy { retry_after_ms: u64 },
    #[error("the journal's permit does not cover this: {0}")]
    NotCovered(#[from] base::NotCovered),
    #[error("entry {index} of the journal cannot be opened: {reason}")]
    Unreadable { index: u64, reason: &'static str },
    #[error("entry {index} of the journal was destroyed by erasure or expiry")]
    Destroyed { index: u64 },
    #[error(transparent)]
    Append(AppendError),
    #[error(transparent)]
    Ledger(#[from] ledger::LedgerError),
    #[error(transparent)]
    Vault(#[from] vault::VaultError),
    #[error("the object store failed: {0}")]
    Objects(#[from] object_store::Error),
}

impl From<AppendError> for JournalError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Busy { retry_after_ms } => JournalError::Busy { retry_after_ms },
            other => JournalError::Append(other),
        }
    }
}

/// An entry as it was received.
#[derive(Debug)]
pub struct JournalEntry {
    pub index: u64,
    pub appended: Timestamp,
    pub envelope: Envelope,
    pub body: Phi<Bytes>,
    /// The slots that came with the frame: envelope, body, and the large object where there is one.
    pub slots: Vec<Slot>,
    /// Where a large body lies in the object store.
    pub large: Option<String>,
    /// Bytes that lie in the log and the object store for it: sealed parts and slots.
    pub stored: u64,
}

/// How the bytes of a body lie, by the first byte of the body part.
const INLINE: u8 = 0;
const REFERENCE: u8 = 1;
/// The length in four bytes, then zstd.
const COMPRESSED: u8 = 2;
/// Shorter bodies are not worth it.
const COMPRESS_BYTES_MIN: usize = 128;

/// Where a large body lies.
#[derive(Debug, Serialize, Deserialize)]
struct LargeBody {
    path: String,
    bytes: u64,
    sha256: String,
    /// It was compressed before it was sealed: its own length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    length: Option<u64>,
}

pub struct Journal {
    domain: DomainName,
    log: Log,
    vault: Vault,
    objects: Arc<dyn object_store::ObjectStore>,
    /// Entries whose keys were dropped, and the entry that says what is left of each.
    successors: RwLock<HashMap<u64, u64>>,
    /// Held shared from the choice of a key until the entry is in the log; alone to see that none is on its way.
    on_its_way: tokio::sync::RwLock<()>,
}

impl Journal {
    pub const KIND: &'static str = "journal";

    pub fn new(domain: DomainName, log: Log, vault: Vault, objects: Arc<dyn object_store::ObjectStore>) -> Self {
        let (successors, on_its_way) = (RwLock::default(), tokio::sync::RwLock::default());
        Journal { domain, log, vault, objects, successors, on_its_way }
    }

    pub fn domain(&self) -> &DomainName {
        &self.domain
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    fn name(&self, part: u64) -> ObjectName<'_> {
        ObjectName {
            domain: &self.domain,
            kind: if part == LARGE { Kind::LargeObject } else { Kind::JournalPart },
            id: self.log.name().as_str().as_bytes(),
            version: part,
        }
    }

    /// Seals and appends. When this returns the entry survives a power cut (law 1).
    pub async fn append(&self, permit: &Permit<Write>, envelope: &Envelope, body: &[u8]) -> Result<u64, JournalError> {
        permit.covers_kind(&self.domain, Layer::Bronze, envelope.source.as_str())?;
        let _on_its_way = self.on_its_way.read().await;
        let scope = self.vault.current_unassigned(&self.domain).await?;
        let mut slots = Vec::with_capacity(3 * Slot::BYTES);

        let (envelope_part, slot) = self.vault.seal(self.name(ENVELOPE), &scope, &envelope.to_bytes()).await?;
        slots.extend_from_slice(&slot.to_bytes());

        let mut plain;
        let mut large_slot = None;
        let small = (body.len() >= COMPRESS_BYTES_MIN).then(|| store::compress(body)).flatten();
        if body.len() <= INLINE_BYTES_MAX {
            plain = Vec::with_capacity(body.len() + 5);
            match &small {
                Some(small) => {
                    plain.push(COMPRESSED);
                    plain.extend_from_slice(&(body.len() as u32).to_be_bytes());
                    plain.extend_from_slice(small);
                }
                None => {
                    plain.push(INLINE);
                    plain.extend_from_slice(body);
                }
            }
        } else {
            let content = small.as_ref().map_or(body, |small| small);
            let (sealed, slot) = self.vault.seal(self.name(LARGE), &scope, content).await?;
            let path = format!("journal/{}/{}", self.domain, base::hex::encode(&slot.object.0));
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &sealed);
            let reference = LargeBody {
                path: path.clone(),
                bytes: sealed.len() as u64,
                sha256: base::hex::encode(digest.as_ref()),
                length: small.is_some().then_some(body.len() as u64),
            };
            self.objects.put(&ObjectPath::from(path), sealed.into()).await?;
            plain = vec![REFERENCE];
            plain.extend(serde_json::to_vec(&reference).expect("a reference is plain data"));
            large_slot = Some(slot);
        }
        let (body_part, slot) = self.vault.seal(self.name(BODY), &scope, &plain).await?;
        slots.extend_from_slice(&slot.to_bytes());
        if let Some(slot) = large_slot {
            slots.extend_from_slice(&slot.to_bytes());
        }
        let parts = vec![Bytes::from(envelope_part), Bytes::from(body_part)];
        Ok(self.log.append(NewEntry { parts, slots }).await?)
    }

    /// Entries from `from` on, opened. What cannot be opened is an error of that entry, not of the batch.
    pub async fn read<R: MayReadBronze>(
        &self,
        permit: &Permit<R>,
        from: u64,
        entries_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Result<JournalEntry, JournalError>>, JournalError> {
        permit.covers_kind(&self.domain, Layer::Bronze, Self::KIND)?;
        let sealed = self.log.read(from, entries_max, bytes_max)?;
        let stored = self.stored_slots(&sealed).await?;
        let mut out = Vec::with_capacity(sealed.len());
        for entry in sealed {
            let (index, appended) = (entry.index, entry.appended);
            let opened = match self.open(entry, &stored).await {
                Err(JournalError::Destroyed { .. }) => self.successor_of(index, appended).await,
                other => other,
            };
            out.push(opened);
        }
        Ok(out)
    }

    /// What is left of an entry, in its place: the order of entries decides what they do.
    async fn successor_of(&self, index: u64, appended: Timestamp) -> Result<JournalEntry, JournalError> {
        let Some(later) = self.successors.read().get(&index).copied() else {
            return Err(JournalError::Destroyed { index });
        };
        // A journal that was restored to an earlier moment ends before its successor, or went on with something else.
        if later >= self.log.size() {
            return Err(JournalError::Destroyed { index });
        }
        match self.open_at(later).await {
            Ok(entry) if matches!(entry.envelope.content, Content::Redacted { of, .. } if of == index) => {
                Ok(JournalEntry { index, appended, ..entry })
            }
            Ok(_) | Err(JournalError::Destroyed { .. }) => Err(JournalError::Destroyed { index }),
            Err(error) => Err(error),
        }
    }

    /// One entry as it stands, without what may have taken its place.
    pub(crate) async fn open_at(&self, index: u64) -> Result<JournalEntry, JournalError> {
        let unreadable = JournalError::Unreadable { index, reason: "it is not in the log" };
        let entry = self.log.read(index, 1, usize::MAX)?.pop().ok_or(unreadable)?;
        let stored = self.stored_slots(std::slice::from_ref(&entry)).await?;
        self.open(entry, &stored).await
    }

    /// The re-wrapped slots of entries, where refine has stored them.
    async fn stored_slots(&self, entries: &[ledger::Entry]) -> Result<HashMap<ObjectId, Slot>, JournalError> {
        let slots = entries.iter().flat_map(|entry| entry.slots.chunks(Slot::BYTES)).filter_map(Slot::from_bytes);
        Ok(self.vault.stored_slots(&slots.map(|slot| slot.object).collect::<Vec<_>>()).await?)
    }

    /// Names the entries that take the place of others; of several the last one counts. Before refine reads them.
    pub fn succeed(&self, successors: impl IntoIterator<Item = (u64, u64)>) {
        let mut known = self.successors.write();
        for (of, later) in successors {
            let stands = known.entry(of).or_insert(later);
            *stands = later.max(*stands);
        }
    }

    /// The vault objects of an entry, as its frame names them.
    pub(crate) fn objects_of(&self, index: u64) -> Result<Vec<vault::ObjectId>, JournalError> {
        let slots = self.log.read(index, 1, usize::MAX)?.pop().map(|entry| entry.slots).unwrap_or_default();
        Ok(slots.chunks(Slot::BYTES).filter_map(Slot::from_bytes).map(|slot| slot.object).collect())
    }

    /// Begins the next generation of the door's key when no append is on its way with an earlier one. Returns the
    /// journal's size then, below which no entry was sealed under the generation that now begins, and its number.
    pub(crate) async fn roll(&self) -> Result<(u64, u64), JournalError> {
        let _alone = self.on_its_way.write().await;
        self.vault.roll_unassigned(&self.domain);
        let scope = self.vault.current_unassigned(&self.domain).await?;
        let vault::Holder::Unassigned(generation) = scope.holder else {
            return Err(vault::VaultError::Invalid("the door's scope is not unassigned").into());
        };
        Ok((self.log.size(), generation))
    }

    /// Removes a large body that no key opens any more. One that is gone already is no error.
    pub(crate) async fn remove_large(&self, path: &str) -> Result<(), JournalError> {
        match self.objects.delete(&ObjectPath::from(path)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens by the re-wrapped slots where refine has stored some, else by those of the frame.
    async fn open(&self, entry: ledger::Entry, stored: &HashMap<ObjectId, Slot>) -> Result<JournalEntry, JournalError> {
        let index = entry.index;
        let unreadable = |reason| JournalError::Unreadable { index, reason };
        let slots: Vec<Slot> = entry
            .slots
            .chunks(Slot::BYTES)
            .map(Slot::from_bytes)
            .collect::<Option<_>>()
            .ok_or_else(|| unreadable("its key slots are malformed"))?;
        let [envelope_part, body_part] = entry.parts.as_slice() else {
            return Err(unreadable("it has not two parts"));
        };
        let [envelope_slot, body_slot, rest @ ..] = slots.as_slice() else {
            return Err(unreadable("it has not a slot for each part"));
        };
        let envelope = self.open_part(index, newest(stored, envelope_slot), ENVELOPE, envelope_part).await?;
        let envelope = Envelope::from_bytes(&envelope).ok_or_else(|| unreadable("its envelope is malformed"))?;
        let body = self.open_part(index, newest(stored, body_slot), BODY, body_part).await?;
        let mut bytes = entry.parts.iter().map(Bytes::len).sum::<usize>() as u64 + entry.slots.len() as u64;
        let mut large = None;
        let body = match body.split_first() {
            Some((&INLINE, inline)) => Bytes::copy_from_slice(inline),
            Some((&COMPRESSED, content)) => {
                let unpacked = content.split_first_chunk::<4>().and_then(|(length, content)| {
                    let length = u32::from_be_bytes(*length) as usize;
                    store::decompress(content, length)
                });
                Bytes::from(unpacked.ok_or_else(|| unreadable("its body is malformed"))?)
            }
            Some((&REFERENCE, reference)) => {
                let slot = rest.first().ok_or_else(|| unreadable("its large object has no slot"))?;
                let (reference, body) = self.open_large(index, newest(stored, slot), reference).await?;
                bytes += reference.bytes;
                large = Some(reference.path);
                body
            }
            _ => return Err(unreadable("its body is malformed")),
        };
        Ok(JournalEntry {
            index,
            appended: entry.appended,
            envelope,
            body: Phi::new(body),
            slots,
            large,
            stored: bytes,
        })
    }

    async fn open_large(&self, index: u64, slot: &Slot, reference: &[u8]) -> Result<(LargeBody, Bytes), JournalError> {
        let unreadable = |reason| JournalError::Unreadable { index, reason };
        let reference: LargeBody =
            serde_json::from_slice(reference).map_err(|_| unreadable("its reference is malformed"))?;
        let sealed = self.objects.get(&ObjectPath::from(reference.path.as_str())).await?.bytes().await?;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &sealed);
        if sealed.len() as u64 != reference.bytes || base::hex::encode(digest.as_ref()) != reference.sha256 {
            return Err(unreadable("its large object is not the one that was received"));
        }
        let content = self.open_part(index, slot, LARGE, &sealed).await?;
        let body = match reference.length.map(usize::try_from) {
            None => content.to_vec(),
            Some(Ok(length)) => {
                store::decompress(&content, length).ok_or_else(|| unreadable("its large object is malformed"))?
            }
            Some(Err(_)) => return Err(unreadable("its large object is malformed")),
        };
        Ok((reference, Bytes::from(body)))
    }

    async fn open_part(&self, index: u64, slot: &Slot, part: u64, sealed: &[u8]) -> Result<vault::Plain, JournalError> {
        let opened = self.vault.open_with_slot(slot, self.name(part), sealed).await;
        opened.map_err(|error| match error {
            vault::VaultError::Destroyed | vault::VaultError::NoSlot => JournalError::Destroyed { index },
            vault::VaultError::Tampered => {
                JournalError::Unreadable { index, reason: "its bytes are not those that were sealed" }
            }
            vault::VaultError::UnknownScope => JournalError::Unreadable {
                index,
                reason: "the key table lost the scope of its key; restore the newest backup of keys.db, then replay",
            },
            other => other.into(),
        })
    }
}

fn newest<'a>(stored: &'a HashMap<ObjectId, Slot>, slot: &'a Slot) -> &'a Slot {
    stored.get(&slot.object).unwrap_or(slot)
}

/// Refine reads the journal with its permit to write silver; people read it with a permit to read.
pub trait MayReadBronze {}
impl MayReadBronze for Read {}
impl MayReadBronze for Write {}
