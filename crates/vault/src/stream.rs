//! Large objects, sealed piece by piece: the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár, CRYPTO 2015).
//!
//! header (11: "WST1" || 7 random bytes), then chunks of 64 KiB of plaintext with a tag of 16 each; the last one is
//! shorter or full, and empty only when there is nothing at all. The nonce of a chunk is the 7 bytes, its number (4,
//! big-endian) and a flag that is 1 for the last one: chunks that are cut off, left out, put in another order or taken
//! from another object do not open.

use std::fmt;

use zeroize::Zeroizing;

use crate::aead::{Cipher, TAG_BYTES};
use crate::name::Form;
use crate::vault::Vault;
use crate::{ObjectId, ObjectName, Scope, Slot, VaultError};

/// Plaintext bytes of a chunk.
pub const CHUNK_BYTES: usize = 64 << 10;
const SEALED_CHUNK_BYTES: usize = CHUNK_BYTES + TAG_BYTES;
const MAGIC: [u8; 4] = *b"WST1";
const HEADER_BYTES: usize = 11;

/// How many bytes a sealed stream of so many plaintext bytes has.
pub fn sealed_len(plain_len: u64) -> u64 {
    let chunks = plain_len.div_ceil(CHUNK_BYTES as u64).max(1);
    HEADER_BYTES as u64 + plain_len + chunks * TAG_BYTES as u64
}

impl Vault {
    /// Begins a sealed stream under a key of its own. The slot is not stored: see [`Vault::seal`].
    pub async fn seal_stream(&self, name: ObjectName<'_>, scope: &Scope) -> Result<(StreamSealer, Slot), VaultError> {
        let (object, key, slot) = self.fresh_key(scope).await?;
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&MAGIC);
        header[4..].copy_from_slice(&self.inner.random.bytes::<7>()[..]);
        let chunks = Chunks::new(&key, object, name, header);
        Ok((StreamSealer { chunks, pending: Zeroizing::new(Vec::new()), begun: false }, slot))
    }

    /// Begins to open a sealed stream by the slot in the table.
    pub async fn open_stream(&self, object: ObjectId, name: ObjectName<'_>) -> Result<StreamOpener, VaultError> {
        let slot = self.slot(object).await?;
        self.open_stream_with_slot(&slot, name).await
    }

    /// Begins to open a sealed stream by a slot that the caller holds.
    pub async fn open_stream_with_slot(&self, slot: &Slot, name: ObjectName<'_>) -> Result<StreamOpener, VaultError> {
        let key = self.unwrap(slot).await?;
        let chunks = Chunks::new(&key, slot.object, name, [0; HEADER_BYTES]);
        Ok(StreamOpener { chunks, pending: Vec::new(), begun: false })
    }
}

/// What sealing and opening share: the cipher, what is bound, and where we are.
struct Chunks {
    cipher: Cipher,
    aad: Vec<u8>,
    header: [u8; HEADER_BYTES],
    next: u32,
}

impl Chunks {
    fn new(key: &[u8; 32], object: ObjectId, name: ObjectName<'_>, header: [u8; HEADER_BYTES]) -> Self {
        let aad = name.with_aad(Form::Chunk, object, <[u8]>::to_vec);
        Chunks { cipher: Cipher::new(key), aad, header, next: 0 }
    }

    fn nonce(&mut self, last: bool) -> Result<[u8; 12], VaultError> {
        let mut nonce = [0; 12];
        nonce[..7].copy_from_slice(&self.header[4..]);
        nonce[7..11].copy_from_slice(&self.next.to_be_bytes());
        nonce[11] = u8::from(last);
        self.next = self.next.checked_add(1).ok_or(VaultError::Invalid("the stream is longer than 256 TiB"))?;
        Ok(nonce)
    }

    fn seal(&mut self, plain: &[u8], last: bool, out: &mut Vec<u8>) -> Result<(), VaultError> {
        let nonce = self.nonce(last)?;
        let at = out.len();
        out.extend_from_slice(plain);
        let tag = self.cipher.seal_in_place(nonce, &self.aad, &mut out[at..])?;
        out.extend_from_slice(&tag);
        Ok(())
    }

    fn open(&mut self, sealed: &[u8], last: bool, out: &mut Vec<u8>) -> Result<(), VaultError> {
        let nonce = self.nonce(last)?;
        let len = sealed.len().checked_sub(TAG_BYTES).ok_or(VaultError::Tampered)?;
        let at = out.len();
        out.resize(at + len, 0);
        let opened = self.cipher.open_with_nonce(nonce, &self.aad, sealed, &mut out[at..]);
        if opened.is_err() {
            out.truncate(at);
        }
        opened
    }
}

/// Takes plaintext in pieces of any size and appends sealed bytes to `out`.
pub struct StreamSealer {
    chunks: Chunks,
    pending: Zeroizing<Vec<u8>>,
    begun: bool,
}

impl StreamSealer {
    pub fn push(&mut self, mut plain: &[u8], out: &mut Vec<u8>) -> Result<(), VaultError> {
        self.begin(out);
        // A full chunk waits until more comes: only then it is known not to be the last one.
        while self.pending.len() + plain.len() > CHUNK_BYTES {
            if self.pending.is_empty() {
                let (chunk, rest) = plain.split_at(CHUNK_BYTES);
                self.chunks.seal(chunk, false, out)?;
                plain = rest;
            } else {
                let (fill, rest) = plain.split_at(CHUNK_BYTES - self.pending.len());
                self.pending.extend_from_slice(fill);
                self.chunks.seal(&self.pending, false, out)?;
                self.pending.clear();
                plain = rest;
            }
        }
        // Once and whole: a buffer that grows leaves its plaintext behind.
        let room = CHUNK_BYTES - self.pending.len();
        self.pending.reserve_exact(room);
        self.pending.extend_from_slice(plain);
        Ok(())
    }

    /// The last chunk. A stream that is not finished does not open.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), VaultError> {
        self.begin(out);
        self.chunks.seal(&self.pending, true, out)
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        if !self.begun {
            self.begun = true;
            out.extend_from_slice(&self.chunks.header);
        }
    }
}

/// Takes sealed bytes in pieces of any size and appends plaintext to `out`. Each chunk is proved before it is given
/// out, but only [`StreamOpener::finish`] proves that the end is the end.
pub struct StreamOpener {
    chunks: Chunks,
    pending: Vec<u8>,
    begun: bool,
}

impl StreamOpener {
    pub fn push(&mut self, mut sealed: &[u8], out: &mut Vec<u8>) -> Result<(), VaultError> {
        if !self.begun {
            let need = HEADER_BYTES - self.pending.len();
            let (head, rest) = sealed.split_at(need.min(sealed.len()));
            self.pending.extend_from_slice(head);
            sealed = rest;
            if self.pending.len() < HEADER_BYTES {
                return Ok(());
            }
            self.chunks.header.copy_from_slice(&self.pending);
            if self.chunks.header[..4] != MAGIC {
                return Err(VaultError::Tampered);
            }
            self.pending.clear();
            self.begun = true;
        }
        while self.pending.len() + sealed.len() > SEALED_CHUNK_BYTES {
            if self.pending.is_empty() {
                let (chunk, rest) = sealed.split_at(SEALED_CHUNK_BYTES);
                self.chunks.open(chunk, false, out)?;
                sealed = rest;
            } else {
                let (fill, rest) = sealed.split_at(SEALED_CHUNK_BYTES - self.pending.len());
                self.pending.extend_from_slice(fill);
                self.chunks.open(&self.pending, false, out)?;
                self.pending.clear();
                sealed = rest;
            }
        }
        self.pending.extend_from_slice(sealed);
        Ok(())
    }

    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), VaultError> {
        if !self.begun {
            return Err(VaultError::Tampered);
        }
        let before = self.chunks.next;
        let at = out.len();
        self.chunks.open(&self.pending, true, out)?;
        // An empty last chunk after others is never written; refusing it keeps one encoding for one content.
        if out.len() == at && before > 0 { Err(VaultError::Tampered) } else { Ok(()) }
    }
}

impl fmt::Debug for StreamSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamSealer(..)")
    }
}

impl fmt::Debug for StreamOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamOpener(..)")
    }
}
