//! The frame: what one sync makes durable. Its bytes, the leaf inside, and their checks (docs/log-format.md).
//! Pure: no IO (see `head` and `reader`), no signatures (see `note`).

use base::Timestamp;
use bytes::Bytes;

use crate::merkle::{Hash, leaf_hash, sha256};

/// Frames begin at multiples of this: a torn write never shares a sector with an acknowledged frame.
pub const SECTOR: usize = 512;
pub const FRAME_MAGIC: &[u8; 8] = b"WMFRAME1";
pub const FRAME_HEADER: usize = 136;
/// Where the frame's own hash stands in its header, which is over all before it.
const HASH_AT: usize = 104;
/// C2SP tlog-tiles: an entry's length is a 16-bit number.
pub const LEAF_BYTES_MAX: usize = 65_535;
const LEAF_VERSION: u8 = 1;
const LEAF_HEADER: usize = 11;
const LEAF_PART: usize = 36;
const ENTRY_HEADER: usize = 6;
/// Parts of one entry, so that its leaf fits.
pub const PARTS_MAX: usize = (LEAF_BYTES_MAX - LEAF_HEADER) / LEAF_PART;

/// An entry to append.
#[derive(Debug, Clone, Default)]
pub struct NewEntry {
    /// The sealed parts, in order; the leaf holds their lengths and hashes.
    pub parts: Vec<Bytes>,
    /// Opaque: wrapped keys, kept beside the entry and outside the leaf.
    pub slots: Vec<u8>,
}

impl NewEntry {
    /// An entry of one part without slots.
    pub fn one(part: impl Into<Bytes>) -> Self {
        NewEntry { parts: vec![part.into()], slots: Vec::new() }
    }

    /// Bytes of payload: parts and slots.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum::<usize>() + self.slots.len()
    }
}

/// An entry as read. Its parts share the memory of the frame they were read with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub index: u64,
    pub parts: Vec<Bytes>,
    pub slots: Vec<u8>,
    pub appended: Timestamp,
}

/// An entry hashed and ready for a frame.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    leaf: Vec<u8>,
    pub hash: Hash,
    slots: Vec<u8>,
    parts: Vec<Bytes>,
    bytes: usize,
}

impl Prepared {
    /// The caller has checked the limits ([`PARTS_MAX`], 4 GiB).
    pub fn new(entry: NewEntry, appended: Timestamp) -> Prepared {
        let mut leaf = Vec::with_capacity(LEAF_HEADER + LEAF_PART * entry.parts.len());
        leaf.push(LEAF_VERSION);
        leaf.extend_from_slice(&appended.0.to_be_bytes());
        leaf.extend_from_slice(&(entry.parts.len() as u16).to_be_bytes());
        for part in &entry.parts {
            leaf.extend_from_slice(&(part.len() as u32).to_be_bytes());
            leaf.extend_from_slice(&sha256(part));
        }
        let bytes = ENTRY_HEADER + leaf.len() + entry.bytes();
        Prepared { hash: leaf_hash(&leaf), leaf, slots: entry.slots, parts: entry.parts, bytes }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.slots.len() as u32).to_be_bytes());
        out.extend_from_slice(&(self.leaf.len() as u16).to_be_bytes());
        out.extend_from_slice(&self.leaf);
        out.extend_from_slice(&self.slots);
        for part in &self.parts {
            out.extend_from_slice(part);
        }
    }
}

/// The fixed start of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub body_bytes: u32,
    pub checkpoint_bytes: u32,
    pub entries: u32,
    /// Sectors of the frame that hold nothing but zeros: with more of them it was not written whole.
    pub zero_sectors: u32,
    pub sequence: u64,
    pub first: u64,
    pub previous: Hash,
    pub body_hash: Hash,
    pub hash: Hash,
}

impl FrameHeader {
    /// `None` when anything about the header does not fit: it has its own hash.
    pub fn parse(bytes: &[u8]) -> Option<FrameHeader> {
        let header: &[u8; FRAME_HEADER] = bytes.get(..FRAME_HEADER)?.try_into().ok()?;
        let u32_at = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) << 32 | u64::from(u32_at(at + 4));
        let parsed = FrameHeader {
            body_bytes: u32_at(8),
            checkpoint_bytes: u32_at(12),
            entries: u32_at(16),
            zero_sectors: u32_at(20),
            sequence: u64_at(24),
            first: u64_at(32),
            previous: header[40..72].try_into().ok()?,
            body_hash: header[72..104].try_into().ok()?,
            hash: header[HASH_AT..].try_into().ok()?,
        };
        let sane = header.starts_with(FRAME_MAGIC)
            && sha256(&header[..HASH_AT]) == parsed.hash
            && parsed.entries > 0
            && parsed.checkpoint_bytes <= parsed.body_bytes
            && parsed.first.checked_add(u64::from(parsed.entries)).is_some();
        sane.then_some(parsed)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(FRAME_MAGIC);
        for number in [self.body_bytes, self.checkpoint_bytes, self.entries, self.zero_sectors] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(&self.sequence.to_be_bytes());
        out.extend_from_slice(&self.first.to_be_bytes());
        out.extend_from_slice(&self.previous);
        out.extend_from_slice(&self.body_hash);
        out.extend_from_slice(&self.hash);
    }

    /// Bytes on disk, with the zeros to the next sector.
    pub fn disk_bytes(&self) -> u64 {
        (FRAME_HEADER as u64 + u64::from(self.body_bytes)).next_multiple_of(SECTOR as u64)
    }

    pub fn end(&self) -> u64 {
        self.first + u64::from(self.entries)
    }
}

/// Whether there is nothing but zeros; the first words say so of most.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| *word == [0; 16]) && rest.iter().all(|byte| *byte == 0)
}

/// A frame whose hashes and shape were checked.
#[derive(Debug)]
pub(crate) struct Frame {
    pub header: FrameHeader,
    bytes: Bytes,
    /// Offset of each entry in `bytes`.
    starts: Vec<u32>,
}

impl Frame {
    /// Builds a frame. `checkpoint` is the signed note at the size after it.
    pub fn encode(sequence: u64, first: u64, previous: &Hash, entries: &[&Prepared], checkpoint: &str) -> Frame {
        let entry_bytes: usize = entries.iter().map(|entry| entry.bytes).sum();
        let mut header = FrameHeader {
            body_bytes: (entry_bytes + checkpoint.len()) as u32,
            checkpoint_bytes: checkpoint.len() as u32,
            entries: entries.len() as u32,
            zero_sectors: 0,
            sequence,
            first,
            previous: *previous,
            body_hash: [0; 32],
            hash: [0; 32],
        };
        let mut out = Vec::with_capacity(header.disk_bytes() as usize);
        out.resize(FRAME_HEADER, 0);
        let mut starts = Vec::with_capacity(entries.len());
        for entry in entries {
            starts.push(out.len() as u32);
            entry.encode(&mut out);
        }
        out.extend_from_slice(checkpoint.as_bytes());
        header.body_hash = sha256(&out[FRAME_HEADER..]);
        out.resize(header.disk_bytes() as usize, 0);
        // The first sector is never one of them: it begins with the header.
        header.zero_sectors = out.chunks(SECTOR).skip(1).filter(|sector| is_zero(sector)).count() as u32;
        let mut head = Vec::with_capacity(FRAME_HEADER);
        header.encode(&mut head);
        header.hash = sha256(&head[..HASH_AT]);
        out[..HASH_AT].copy_from_slice(&head[..HASH_AT]);
        out[HASH_AT..FRAME_HEADER].copy_from_slice(&header.hash);
        Frame { header, bytes: Bytes::from(out), starts }
    }

    /// The bytes on disk.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// `None` when anything about the bytes (header, hashes, padding, entry lengths) does not fit.
    pub fn parse(bytes: Bytes) -> Option<Frame> {
        let header = FrameHeader::parse(&bytes)?;
        let end = FRAME_HEADER + header.body_bytes as usize;
        let whole = bytes.len() as u64 == header.disk_bytes() && bytes[end..].iter().all(|b| *b == 0);
        if !whole || sha256(&bytes[FRAME_HEADER..end]) != header.body_hash {
            return None;
        }
        let entries_end = end - header.checkpoint_bytes as usize;
        // A hash can be right over wrong lengths when somebody made it so: take no count on trust.
        let mut starts = Vec::with_capacity((header.entries as usize).min(bytes.len() / ENTRY_HEADER));
        let mut at = FRAME_HEADER;
        for _ in 0..header.entries {
            starts.push(u32::try_from(at).ok()?);
            at += Fields::parse(&bytes[at..entries_end])?.bytes;
        }
        let checkpoint = &bytes[entries_end..end];
        (at == entries_end && std::str::from_utf8(checkpoint).is_ok()).then_some(Frame { header, bytes, starts })
    }

    /// The signed note at the size after this frame.
    pub fn checkpoint(&self) -> &str {
        let end = FRAME_HEADER + self.header.body_bytes as usize;
        std::str::from_utf8(&self.bytes[end - self.header.checkpoint_bytes as usize..end]).unwrap_or_default()
    }

    fn fields(&self, at: usize) -> Fields<'_> {
        // Checked by `parse`; an empty entry stands for what cannot be.
        Fields::parse(&self.bytes[self.starts[at] as usize..]).unwrap_or(Fields { leaf: &[], slots: &[], bytes: 0 })
    }

    /// Leaf data of entries `from..to` by log index, which must lie in the frame.
    pub fn leaves(&self, from: u64, to: u64) -> impl Iterator<Item = &[u8]> {
        ((from - self.header.first) as usize..(to - self.header.first) as usize).map(|at| self.fields(at).leaf)
    }

    /// Payload bytes of the entry with this log index.
    pub fn entry_bytes(&self, index: u64) -> usize {
        let fields = self.fields((index - self.header.first) as usize);
        fields.bytes - fields.leaf.len() - ENTRY_HEADER
    }

    pub fn entry(&self, index: u64) -> Entry {
        let fields = self.fields((index - self.header.first) as usize);
        let mut at = self.starts[(index - self.header.first) as usize] as usize
            + ENTRY_HEADER
            + fields.leaf.len()
            + fields.slots.len();
        let parts = part_lengths(fields.leaf)
            .map(|bytes| {
                at += bytes;
                self.bytes.slice(at - bytes..at)
            })
            .collect();
        let mut ms = [0; 8];
        ms.copy_from_slice(&fields.leaf[1..9]);
        Entry { index, parts, slots: fields.slots.to_vec(), appended: Timestamp(i64::from_be_bytes(ms)) }
    }

    /// Whether every part has the hash its leaf says.
    pub fn parts_match(&self) -> bool {
        self.starts.iter().all(|start| {
            let bytes = &self.bytes[*start as usize..];
            let Some(fields) = Fields::parse(bytes) else { return false };
            let mut rest = &bytes[ENTRY_HEADER + fields.leaf.len() + fields.slots.len()..fields.bytes];
            fields.leaf[LEAF_HEADER..].chunks_exact(LEAF_PART).zip(part_lengths(fields.leaf)).all(|(part, bytes)| {
                let (part_bytes, after) = rest.split_at(bytes);
                rest = after;
                sha256(part_bytes)[..] == part[4..]
            })
        })
    }
}

/// One entry's bytes in a frame.
struct Fields<'a> {
    leaf: &'a [u8],
    slots: &'a [u8],
    /// All of the entry.
    bytes: usize,
}

impl<'a> Fields<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Fields<'a>> {
        let header = bytes.get(..ENTRY_HEADER)?;
        let slots = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let leaf = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let slots_at = ENTRY_HEADER + leaf;
        let parts_at = slots_at.checked_add(slots)?;
        let (leaf, slots) = (bytes.get(ENTRY_HEADER..slots_at)?, bytes.get(slots_at..parts_at)?);
        if leaf.len() < LEAF_HEADER || leaf[0] != LEAF_VERSION {
            return None;
        }
        let count = usize::from(u16::from_be_bytes([leaf[9], leaf[10]]));
        if leaf.len() != LEAF_HEADER + count * LEAF_PART {
            return None;
        }
        let end = part_lengths(leaf).try_fold(parts_at, |at, bytes| at.checked_add(bytes))?;
        (end <= bytes.len()).then_some(Fields { leaf, slots, bytes: end })
    }
}

fn part_lengths(leaf: &[u8]) -> impl Iterator<Item = usize> {
    leaf[LEAF_HEADER..]
        .chunks_exact(LEAF_PART)
        .map(|part| u32::from_be_bytes([part[0], part[1], part[2], part[3]]) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prepared(parts: &[Vec<u8>], slots: &[u8], ms: i64) -> Prepared {
        let parts = parts.iter().map(|part| Bytes::copy_from_slice(part)).collect();
        Prepared::new(NewEntry { parts, slots: slots.to_vec() }, Timestamp(ms))
    }

    proptest! {
        #[test]
        fn frames_round_trip_and_notice_every_changed_bit(
            entries in prop::collection::vec((prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..4), prop::collection::vec(any::<u8>(), 0..20), any::<i64>()), 1..6),
            first in 0u64..1_000_000, flip in any::<usize>(),
        ) {
            let all: Vec<Prepared> = entries.iter().map(|(parts, slots, ms)| prepared(parts, slots, *ms)).collect();
            let built = Frame::encode(3, first, &[5; 32], &all.iter().collect::<Vec<_>>(), "a note\n");
            let bytes = built.bytes().to_vec();
            let frame = Frame::parse(Bytes::from(bytes.clone())).unwrap();
            prop_assert_eq!((frame.header, &frame.starts), (built.header, &built.starts));
            prop_assert_eq!(frame.checkpoint(), "a note\n");
            prop_assert!(frame.parts_match());
            for (i, (parts, slots, ms)) in entries.iter().enumerate() {
                let entry = frame.entry(first + i as u64);
                prop_assert_eq!(&entry.parts.iter().map(|p| p.to_vec()).collect::<Vec<_>>(), parts);
                prop_assert_eq!((&entry.slots, entry.appended), (slots, Timestamp(*ms)));
                prop_assert_eq!(leaf_hash(frame.leaves(entry.index, entry.index + 1).next().unwrap()), all[i].hash);
            }
            let mut changed = bytes;
            let at = flip % changed.len();
            changed[at] ^= 1 << (flip % 8);
            prop_assert!(Frame::parse(Bytes::from(changed)).is_none());
        }

        #[test]
        fn any_bytes_are_refused_without_a_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..1200)) {
            let _ = Frame::parse(Bytes::from(bytes.clone()));
            if bytes.len() >= FRAME_HEADER {
                bytes[..8].copy_from_slice(FRAME_MAGIC);
                bytes[8..16].copy_from_slice(&[0, 0, 1, 0, 0, 0, 0, 9]);
                let end = FRAME_HEADER.max(bytes.len().min(FRAME_HEADER + 256));
                let body = sha256(&bytes[FRAME_HEADER..end]);
                bytes[72..HASH_AT].copy_from_slice(&body);
                let hash = sha256(&bytes[..HASH_AT]);
                bytes[HASH_AT..FRAME_HEADER].copy_from_slice(&hash);
            }
            let _ = Frame::parse(Bytes::from(bytes));
        }
    }

    #[test]
    fn the_largest_leaf_fits() {
        const { assert!(LEAF_HEADER + PARTS_MAX * LEAF_PART <= LEAF_BYTES_MAX) };
        let entry = prepared(&vec![vec![]; PARTS_MAX], &[], 1);
        assert!(Frame::parse(Frame::encode(0, 0, &[0; 32], &[&entry], "").bytes().clone()).is_some());
    }
}
