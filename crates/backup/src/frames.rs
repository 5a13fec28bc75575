//! The frames of a log's segments, read from their files as docs/log-format.md lays them out: where they end, whether
//! they are whole, when their entries were appended. For copying up to a frame, cutting at one, and naming damage by
//! its place. Proves nothing against an operator (that is `ward-verify`'s matter) and repairs nothing.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{BackupError, Result};
use crate::seal::sha256_of;

pub const SEGMENT_HEADER: u64 = 4096;
const FRAME_HEADER: usize = 136;
const SECTOR: u64 = 512;
const LEAF_HEADER: usize = 11;
const LEAF_PART: usize = 36;

/// A segment file of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentFile {
    /// Index of its first entry, as its name says.
    pub first: u64,
    pub path: PathBuf,
    pub bytes: u64,
}

/// The segments in a log's folder, in order. None when there is no such folder.
pub fn segments(log: &Path) -> Result<Vec<SegmentFile>> {
    let wal = log.join("wal");
    let entries = match std::fs::read_dir(&wal) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(BackupError::io("listing", &wal)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(BackupError::io("listing", &wal))?;
        let name = entry.file_name();
        let Some(first) = name.to_str().and_then(parse_name) else { continue };
        let bytes = entry.metadata().map_err(BackupError::io("reading", &entry.path()))?.len();
        found.push(SegmentFile { first, path: entry.path(), bytes });
    }
    found.sort_by_key(|segment| segment.first);
    Ok(found)
}

/// `00000000000000004711.seg`
pub fn segment_name(first: u64) -> String {
    format!("{first:020}.seg")
}

fn parse_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes)
}

fn hash_at(bytes: &[u8], at: usize) -> [u8; 32] {
    bytes.get(at..at + 32).and_then(|b| b.try_into().ok()).unwrap_or_default()
}

/// What a segment's header says of where it stands; `None` when it does not have its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHead {
    pub first: u64,
    /// Sequence number of its first frame.
    pub sequence: u64,
    /// Hash of the last frame before it; zeros in the first segment.
    pub previous: [u8; 32],
    pub origin: [u8; 32],
}

impl SegmentHead {
    pub fn parse(bytes: &[u8]) -> Option<SegmentHead> {
        let bytes = bytes.get(..SEGMENT_HEADER as usize)?;
        let whole = bytes.starts_with(b"WMSEGMT1") && sha256_of(&[&bytes[..72], &bytes[104..]]) == bytes[72..104];
        whole.then(|| SegmentHead {
            first: u64_at(bytes, 16),
            sequence: u64_at(bytes, 24),
            previous: hash_at(bytes, 40),
            origin: hash_at(bytes, 104),
        })
    }
}

/// The fixed start of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHead {
    body_bytes: u32,
    checkpoint_bytes: u32,
    entries: u32,
    pub sequence: u64,
    pub first: u64,
    pub previous: [u8; 32],
    body_hash: [u8; 32],
    pub hash: [u8; 32],
}

impl FrameHead {
    pub fn parse(bytes: &[u8]) -> Option<FrameHead> {
        let bytes = bytes.get(..FRAME_HEADER)?;
        let head = FrameHead {
            body_bytes: u32_at(bytes, 8),
            checkpoint_bytes: u32_at(bytes, 12),
            entries: u32_at(bytes, 16),
            sequence: u64_at(bytes, 24),
            first: u64_at(bytes, 32),
            previous: hash_at(bytes, 40),
            body_hash: hash_at(bytes, 72),
            hash: hash_at(bytes, 104),
        };
        let sane = bytes.starts_with(b"WMFRAME1")
            && sha256_of(&[&bytes[..104]]) == head.hash
            && head.entries > 0
            && head.checkpoint_bytes <= head.body_bytes
            && head.first.checked_add(u64::from(head.entries)).is_some();
        sane.then_some(head)
    }

    pub fn end(&self) -> u64 {
        self.first + u64::from(self.entries)
    }

    pub fn disk_bytes(&self) -> u64 {
        (FRAME_HEADER as u64 + u64::from(self.body_bytes)).next_multiple_of(SECTOR)
    }
}

/// A frame's bytes, its hash checked.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    pub head: FrameHead,
    bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The whole frame at the start of `bytes`, which may go on.
    pub fn parse(bytes: &'a [u8]) -> Option<Frame<'a>> {
        let head = FrameHead::parse(bytes)?;
        let end = FRAME_HEADER + head.body_bytes as usize;
        let padded = usize::try_from(head.disk_bytes()).ok()?;
        let bytes = bytes.get(..padded)?;
        let whole = bytes[end..].iter().all(|b| *b == 0) && sha256_of(&[&bytes[FRAME_HEADER..end]]) == head.body_hash;
        whole.then_some(Frame { head, bytes })
    }

    /// The signed checkpoint at the size after this frame.
    pub fn checkpoint(&self) -> &'a str {
        let end = FRAME_HEADER + self.head.body_bytes as usize;
        std::str::from_utf8(&self.bytes[end - self.head.checkpoint_bytes as usize..end]).unwrap_or_default()
    }

    /// When the last of its entries was appended, in milliseconds since 1970. `None` when its entries are malformed.
    pub fn newest_ms(&self) -> Option<i64> {
        let end = FRAME_HEADER + (self.head.body_bytes - self.head.checkpoint_bytes) as usize;
        let (mut at, mut newest) = (FRAME_HEADER, i64::MIN);
        for _ in 0..self.head.entries {
            let entry = self.bytes.get(at..end)?;
            let header = entry.get(..6)?;
            let (slots, leaf) = (u32_at(header, 0) as usize, usize::from(u16::from_be_bytes([header[4], header[5]])));
            let leaf_data = entry.get(6..6 + leaf)?;
            newest = newest.max(i64::from_be_bytes(leaf_data.get(1..9)?.try_into().ok()?));
            let parts: usize =
                leaf_data.get(LEAF_HEADER..)?.chunks_exact(LEAF_PART).map(|part| u32_at(part, 0) as usize).sum();
            at = at.checked_add(6 + leaf)?.checked_add(slots)?.checked_add(parts)?;
        }
        (at == end).then_some(newest)
    }
}

/// Where a chain of frames stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    /// Sequence number and index of the next frame.
    pub sequence: u64,
    pub index: u64,
    /// Hash of the last frame.
    pub previous: [u8; 32],
}

impl Chain {
    /// Before the first frame of a segment.
    pub fn at(head: &SegmentHead) -> Chain {
        Chain { sequence: head.sequence, index: head.first, previous: head.previous }
    }

    /// Takes the next frame, or says why it does not follow.
    pub fn push(&mut self, frame: &FrameHead) -> std::result::Result<(), &'static str> {
        if frame.sequence != self.sequence || frame.previous != self.previous {
            return Err("a frame does not follow the one before it");
        }
        if frame.first != self.index {
            return Err("a frame begins at another index than the one before it ended");
        }
        *self = Chain { sequence: self.sequence + 1, index: frame.end(), previous: frame.hash };
        Ok(())
    }
}

/// Reads a piece of a file whole.
pub fn read_range(file: &File, path: &Path, from: u64, to: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(to.saturating_sub(from)).unwrap_or(0)];
    file.read_exact_at(&mut bytes, from).map_err(BackupError::io("reading", path))?;
    Ok(bytes)
}

/// Heads of the frames of a file from `offset` on, by their lengths alone; ends where no frame begins.
pub fn heads(file: &File, path: &Path, mut offset: u64, each: &mut dyn FnMut(u64, FrameHead) -> bool) -> Result<()> {
    let bytes = file.metadata().map_err(BackupError::io("reading", path))?.len();
    while offset + FRAME_HEADER as u64 <= bytes {
        let mut head = [0; FRAME_HEADER];
        file.read_exact_at(&mut head, offset).map_err(BackupError::io("reading", path))?;
        let Some(head) = FrameHead::parse(&head) else { return Ok(()) };
        if offset + head.disk_bytes() > bytes || !each(offset, head) {
            return Ok(());
        }
        offset += head.disk_bytes();
    }
    Ok(())
}

/// What is wrong in a segment, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    pub offset: u64,
    /// Index of the first entry that it touches.
    pub index: u64,
    pub what: &'static str,
    /// Index of the first entry after it that is whole again, where there is one.
    pub resumes: Option<u64>,
}

/// How a segment looks, frame by frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    pub frames: u64,
    /// Where the chain stands after the last frame.
    pub chain: Option<Chain>,
    /// Bytes after the last frame that are not zero: in the last segment, what a power cut left.
    pub torn_bytes: u64,
    pub damage: Vec<Damage>,
}

/// Places named in one segment.
const DAMAGES_MAX: usize = 100;

/// Reads a whole segment and names every place that does not fit. `before` is where the segment before ended.
pub fn look(segment: &SegmentFile, before: Option<Chain>) -> Result<Look> {
    let bytes = std::fs::read(&segment.path).map_err(BackupError::io("reading", &segment.path))?;
    let mut look = Look { frames: 0, chain: None, torn_bytes: 0, damage: Vec::new() };
    let Some(head) = SegmentHead::parse(&bytes) else {
        let resumes = next_frame(&bytes, SEGMENT_HEADER as usize, 0).map(|(_, frame)| frame.head.first);
        let what = "the segment's header does not have its hash";
        look.damage.push(Damage { offset: 0, index: segment.first, what, resumes });
        return Ok(look);
    };
    let mut chain = Chain::at(&head);
    if head.first != segment.first || before.is_some_and(|before| before != chain) {
        let what = "the segment does not begin where the one before it ended";
        look.damage.push(Damage {
            offset: 0,
            index: before.map_or(segment.first, |b| b.index),
            what,
            resumes: Some(head.first),
        });
    }
    let mut at = SEGMENT_HEADER as usize;
    while look.damage.len() < DAMAGES_MAX {
        let Some(frame) = Frame::parse(&bytes[at.min(bytes.len())..]) else {
            let rest = &bytes[at.min(bytes.len())..];
            let Some((found, next)) = next_frame(&bytes, at + SECTOR as usize, chain.sequence) else {
                look.torn_bytes = rest.iter().rposition(|b| *b != 0).map_or(0, |last| last as u64 + 1);
                break;
            };
            let what = "a frame is broken though whole ones follow";
            look.damage.push(Damage { offset: at as u64, index: chain.index, what, resumes: Some(next.head.first) });
            chain = Chain { sequence: next.head.sequence, index: next.head.first, previous: next.head.previous };
            at = found;
            continue;
        };
        if let Err(what) = chain.push(&frame.head) {
            look.damage.push(Damage { offset: at as u64, index: chain.index, what, resumes: Some(frame.head.first) });
            chain = Chain { sequence: frame.head.sequence + 1, index: frame.head.end(), previous: frame.head.hash };
        }
        look.frames += 1;
        at += frame.head.disk_bytes() as usize;
    }
    look.chain = Some(chain);
    Ok(look)
}

/// The next whole frame at a sector border from `from` on whose number is above `sequence`.
fn next_frame(bytes: &[u8], from: usize, sequence: u64) -> Option<(usize, Frame<'_>)> {
    (from.next_multiple_of(SECTOR as usize)..bytes.len()).step_by(SECTOR as usize).find_map(|at| {
        let rest = &bytes[at..];
        (rest.starts_with(b"WMFRAME1"))
            .then(|| Frame::parse(rest))
            .flatten()
            .filter(|f| f.head.sequence > sequence)
            .map(|f| (at, f))
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use base::{LogName, SystemClock};
    use ledger::{Ed25519Signer, Log, LogOptions, NewEntry, RealDisk};

    use super::*;

    /// A log of `n` frames of one entry each, over segments of about 16 KiB.
    pub(crate) async fn write_log(folder: &Path, n: usize) -> (String, String) {
        let signer = Ed25519Signer::from_seed("suite/log", &[7; 32]).unwrap();
        let mut options = LogOptions::from_limits("suite/log", &base::Limits::default());
        (options.segment_bytes, options.preallocate_bytes) = (16 << 10, 8 << 10);
        let name = LogName::parse("log").unwrap();
        let log =
            Log::open(Arc::new(RealDisk), folder, name, options, Arc::new(signer), Arc::new(SystemClock)).unwrap();
        for i in 0..n {
            log.append(NewEntry::one(vec![i as u8; 300])).await.unwrap();
        }
        let said = (log.checkpoint(), log.vkey());
        log.close().await;
        said
    }

    #[tokio::test]
    async fn a_whole_log_looks_whole_and_damage_is_named_by_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let (checkpoint, _) = write_log(folder.path(), 40).await;
        let all = segments(folder.path()).unwrap();
        assert!(all.len() > 2, "several segments");
        let mut chain = None;
        let mut newest = String::new();
        for segment in &all {
            let looked = look(segment, chain).unwrap();
            assert_eq!((looked.damage.as_slice(), looked.torn_bytes), (&[][..], 0));
            chain = looked.chain;
            let file = File::open(&segment.path).unwrap();
            heads(&file, &segment.path, SEGMENT_HEADER, &mut |offset, head| {
                let bytes = read_range(&file, &segment.path, offset, offset + head.disk_bytes()).unwrap();
                let frame = Frame::parse(&bytes).unwrap();
                newest = frame.checkpoint().to_owned();
                assert!(frame.newest_ms().unwrap() > 1_600_000_000_000);
                true
            })
            .unwrap();
        }
        assert_eq!((chain.unwrap().index, newest), (40, checkpoint));

        // A byte within the second frame of the second segment.
        let file = File::open(&all[1].path).unwrap();
        let mut places = Vec::new();
        heads(&file, &all[1].path, SEGMENT_HEADER, &mut |offset, head| {
            places.push((offset, head.first));
            true
        })
        .unwrap();
        let mut bytes = std::fs::read(&all[1].path).unwrap();
        bytes[places[1].0 as usize + 200] ^= 1;
        std::fs::write(&all[1].path, bytes).unwrap();
        let looked = look(&all[1], None).unwrap();
        let [damage] = looked.damage.as_slice() else { panic!("{looked:?}") };
        assert_eq!((damage.offset, damage.index, damage.resumes), (places[1].0, places[1].1, Some(places[1].1 + 1)));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_looked_at_without_a_panic(mut bytes in proptest::collection::vec(0u8..255, 0..2000)) {
            let _ = (Frame::parse(&bytes), SegmentHead::parse(&bytes));
            if bytes.len() > 24 {
                bytes[..24].copy_from_slice(b"WMFRAME1\x00\x00\x00\x40\x00\x00\x00\x08\x00\x00\x00\x01\x00\x00\x00\x00");
            }
            let _ = FrameHead::parse(&bytes);
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("x.seg");
            std::fs::write(&path, &bytes).unwrap();
            let _ = look(&SegmentFile { first: 0, bytes: bytes.len() as u64, path }, None).unwrap();
        }
    }
}
