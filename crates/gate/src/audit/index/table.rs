//! One run of the index on disk: sorted rows in sealed, compressed blocks, with fences to find a row by two reads.
//!
//! ```text
//! blocks · fence blocks · footer · footer offset (8) · footer length (4) · "AIX1"
//! ```
//!
//! A row is its key (33 bytes) and a value. Each block is zstd, then AES-256-GCM under the run's own key; the number of
//! the block is its nonce and is bound with the run's id, so that a block elsewhere does not open. Of a run in use only
//! the top of the fences is in memory: 45 bytes for about 16,000 rows.
//!
//! Never here: what rows mean (see `rows`), which runs there are (see `manifest`).

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;

/// Rows sort by it.
pub(crate) type Key = [u8; 33];

const BLOCK_BYTES: usize = 16 << 10;
const FENCE_ROWS: usize = 256;
/// Sizes have a limit, so that a damaged one asks for no memory.
const BLOCK_BYTES_MAX: usize = 16 << 20;
const FOOTER_BYTES_MAX: usize = 256 << 20;
const MAGIC: &[u8; 4] = b"AIX1";
const TRAILER: usize = 16;
/// Number under which the footer is sealed; no block comes so far.
const FOOTER: u64 = u64::MAX;
const ZSTD_LEVEL: i32 = 1;

/// Seals and opens the blocks of one run.
pub(crate) struct RunKey {
    key: LessSafeKey,
    id: [u8; 16],
}

impl RunKey {
    /// From the key of the whole index.
    pub fn derive(index: &[u8; 32], id: [u8; 16]) -> io::Result<RunKey> {
        let tag =
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, index), &[b"ward-audit-run-1".as_slice(), &id].concat());
        let key = UnboundKey::new(&AES_256_GCM, tag.as_ref()).map_err(|_| io::Error::other("no key"))?;
        Ok(RunKey { key: LessSafeKey::new(key), id })
    }

    fn nonce_and_aad(&self, number: u64) -> (Nonce, [u8; 24]) {
        let mut nonce = [0; NONCE_LEN];
        nonce[..8].copy_from_slice(&number.to_le_bytes());
        let mut aad = [0; 24];
        aad[..16].copy_from_slice(&self.id);
        aad[16..].copy_from_slice(&number.to_le_bytes());
        (Nonce::assume_unique_for_key(nonce), aad)
    }

    /// Length before compression (4), then compressed, then sealed.
    pub fn seal(&self, number: u64, raw: &[u8]) -> io::Result<Vec<u8>> {
        let mut body = (raw.len() as u32).to_le_bytes().to_vec();
        body.extend_from_slice(&zstd::bulk::compress(raw, ZSTD_LEVEL)?);
        let (nonce, aad) = self.nonce_and_aad(number);
        let sealed = self.key.seal_in_place_append_tag(nonce, Aad::from(aad), &mut body);
        sealed.map_err(|_| io::Error::other("a block could not be sealed"))?;
        Ok(body)
    }

    pub fn open(&self, number: u64, mut sealed: Vec<u8>) -> io::Result<Vec<u8>> {
        let (nonce, aad) = self.nonce_and_aad(number);
        let opened = self.key.open_in_place(nonce, Aad::from(aad), &mut sealed).map_err(|_| damaged())?;
        let (length, body) = opened.split_at_checked(4).ok_or_else(damaged)?;
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let most = if number == FOOTER { FOOTER_BYTES_MAX } else { BLOCK_BYTES_MAX };
        if length > most {
            return Err(damaged());
        }
        zstd::bulk::decompress(body, length).map_err(|_| damaged())
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the audit index is damaged; it is built again from the log")
}

/// Where a block lies, and the first key in it.
#[derive(Clone, Copy)]
struct Fence {
    first: Key,
    number: u64,
    offset: u64,
    bytes: u32,
}

fn put_fences(fences: &[Fence]) -> Vec<u8> {
    let mut out = Vec::with_capacity(fences.len() * 53);
    for fence in fences {
        out.extend_from_slice(&fence.first);
        out.extend_from_slice(&fence.number.to_le_bytes());
        out.extend_from_slice(&fence.offset.to_le_bytes());
        out.extend_from_slice(&fence.bytes.to_le_bytes());
    }
    out
}

fn fences(raw: &[u8]) -> io::Result<Vec<Fence>> {
    let (rows, rest) = raw.as_chunks::<53>();
    if !rest.is_empty() {
        return Err(damaged());
    }
    let fence = |row: &[u8; 53]| {
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| row[at + n]));
        let bytes = u32::from_le_bytes(std::array::from_fn(|n| row[49 + n]));
        Fence { first: std::array::from_fn(|n| row[n]), number: number(33), offset: number(41), bytes }
    };
    Ok(rows.iter().map(fence).collect())
}

/// Writes a run, rows in order.
pub(crate) struct TableWriter {
    out: BufWriter<File>,
    key: RunKey,
    block: Vec<u8>,
    first: Key,
    offset: u64,
    number: u64,
    fences: Vec<Fence>,
    top: Vec<Fence>,
}

impl TableWriter {
    pub fn create(path: &Path, key: RunKey) -> io::Result<Self> {
        let out = BufWriter::with_capacity(256 << 10, File::create(path)?);
        let (block, first) = (Vec::with_capacity(BLOCK_BYTES * 2), [0; 33]);
        Ok(TableWriter { out, key, block, first, offset: 0, number: 0, fences: Vec::new(), top: Vec::new() })
    }

    pub fn push(&mut self, key: &Key, value: &[u8]) -> io::Result<()> {
        if self.block.is_empty() {
            self.first = *key;
        }
        self.block.extend_from_slice(key);
        self.block.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.block.extend_from_slice(value);
        if self.block.len() >= BLOCK_BYTES { self.end_block() } else { Ok(()) }
    }

    fn write(&mut self, first: Key, raw: &[u8]) -> io::Result<Fence> {
        let sealed = self.key.seal(self.number, raw)?;
        let bytes = u32::try_from(sealed.len()).map_err(|_| io::Error::other("a block is too large"))?;
        let fence = Fence { first, number: self.number, offset: self.offset, bytes };
        self.out.write_all(&sealed)?;
        self.number += 1;
        self.offset += u64::from(bytes);
        Ok(fence)
    }

    fn end_block(&mut self) -> io::Result<()> {
        let raw = std::mem::take(&mut self.block);
        let fence = self.write(self.first, &raw)?;
        self.fences.push(fence);
        self.block = raw;
        self.block.clear();
        Ok(())
    }

    /// When this returns the run survives a power cut. Gives its bytes.
    pub fn finish(mut self) -> io::Result<u64> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        // The fences of a billion rows take some hundred megabytes at most while the largest run is written.
        let all = std::mem::take(&mut self.fences);
        for part in all.chunks(FENCE_ROWS) {
            let fence = self.write(part[0].first, &put_fences(part))?;
            self.top.push(fence);
        }
        let sealed = self.key.seal(FOOTER, &put_fences(&self.top))?;
        self.out.write_all(&sealed)?;
        self.out.write_all(&self.offset.to_le_bytes())?;
        self.out.write_all(&(sealed.len() as u32).to_le_bytes())?;
        self.out.write_all(MAGIC)?;
        let file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok(self.offset + sealed.len() as u64 + TRAILER as u64)
    }
}

/// A run that can be read.
pub(crate) struct Table {
    file: File,
    key: RunKey,
    top: Vec<Fence>,
    reads: AtomicU64,
}

impl Table {
    pub fn open(path: &Path, key: RunKey) -> io::Result<Self> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let mut trailer = [0; TRAILER];
        file.read_exact_at(&mut trailer, bytes.checked_sub(TRAILER as u64).ok_or_else(damaged)?)?;
        let offset = u64::from_le_bytes(std::array::from_fn(|n| trailer[n]));
        let length = u32::from_le_bytes(std::array::from_fn(|n| trailer[8 + n]));
        if &trailer[12..] != MAGIC || offset.saturating_add(u64::from(length)) + TRAILER as u64 != bytes {
            return Err(damaged());
        }
        // No longer than the file, as was just checked.
        let mut sealed = vec![0; length as usize];
        file.read_exact_at(&mut sealed, offset)?;
        let mut table = Table { file, key, top: Vec::new(), reads: AtomicU64::new(0) };
        table.top = fences(&table.key.open(FOOTER, sealed)?)?;
        Ok(table)
    }

    /// Blocks read since it was opened.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    fn read(&self, fence: &Fence) -> io::Result<Vec<u8>> {
        if fence.bytes as usize > BLOCK_BYTES_MAX {
            return Err(damaged());
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
        let mut sealed = vec![0; fence.bytes as usize];
        self.file.read_exact_at(&mut sealed, fence.offset)?;
        self.key.open(fence.number, sealed)
    }

    /// A reader at the first row whose key is `from` or later.
    pub fn seek(&self, from: &Key) -> io::Result<Rows<'_>> {
        let mut rows = Rows { table: self, top: 0, fences: Vec::new(), next: 0, block: Vec::new(), at: 0 };
        rows.seek(from)?;
        Ok(rows)
    }
}

/// Rows of a run in order.
pub(crate) struct Rows<'a> {
    table: &'a Table,
    /// The fence block that is read.
    top: usize,
    fences: Vec<Fence>,
    /// The next block in `fences`.
    next: usize,
    block: Vec<u8>,
    at: usize,
}

impl Rows<'_> {
    /// Goes to the first row whose key is `from` or later. Reads nothing when that is in the block at hand.
    pub fn seek(&mut self, from: &Key) -> io::Result<()> {
        let is_ahead = self.next > 0 && self.fences[self.next - 1].first <= *from;
        let is_here = is_ahead && self.fences.get(self.next).is_some_and(|next| *from < next.first);
        if !is_here {
            let top = self.table.top.partition_point(|fence| fence.first < *from).saturating_sub(1);
            if self.fences.is_empty() || top != self.top {
                let Some(fence) = self.table.top.get(top) else { return Ok(()) };
                (self.top, self.fences) = (top, fences(&self.table.read(fence)?)?);
            }
            self.next = self.fences.partition_point(|fence| fence.first < *from).saturating_sub(1);
            self.load()?;
        }
        self.at = 0;
        while let Some((key, _)) = self.peek()? {
            if key >= *from {
                break;
            }
            self.skip();
        }
        Ok(())
    }

    /// Reads the next block; leaves none at the end.
    fn load(&mut self) -> io::Result<()> {
        (self.at, self.block) = (0, Vec::new());
        if self.next >= self.fences.len() {
            let Some(fence) = self.table.top.get(self.top + 1) else { return Ok(()) };
            self.fences = fences(&self.table.read(fence)?)?;
            (self.top, self.next) = (self.top + 1, 0);
        }
        if let Some(fence) = self.fences.get(self.next) {
            self.block = self.table.read(fence)?;
            self.next += 1;
        }
        Ok(())
    }

    fn row(&self) -> Option<(Key, std::ops::Range<usize>)> {
        let head = self.block.get(self.at..self.at + 37)?;
        let length = u32::from_le_bytes([head[33], head[34], head[35], head[36]]) as usize;
        let from = self.at + 37;
        (from + length <= self.block.len()).then(|| (std::array::from_fn(|n| head[n]), from..from + length))
    }

    /// The row at hand.
    pub fn peek(&mut self) -> io::Result<Option<(Key, &[u8])>> {
        if self.at >= self.block.len() {
            self.load()?;
        }
        match self.row() {
            Some((key, value)) => Ok(Some((key, &self.block[value]))),
            None if self.block.is_empty() => Ok(None),
            None => Err(damaged()),
        }
    }

    /// Goes to the next row.
    pub fn skip(&mut self) {
        self.at = self.row().map_or(self.block.len(), |(_, value)| value.end);
    }
}
