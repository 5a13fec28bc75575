//! Walks the segment files (docs/log-format.md): headers, frames, entries, and the end of the last segment.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::note::{self, VerifierKey};
use crate::tree::Hash;
use crate::{LogCheck, Stop};

const SEGMENT_HEADER: u64 = 4096;
const FRAME_HEADER: u64 = 104;
const SECTOR: u64 = 512;
const NOTE_BYTES_MAX: u32 = 64 << 10;

pub(crate) struct Walk<'a> {
    dir: &'a Path,
    key: &'a VerifierKey,
    origin: &'a str,
    sequence: u64,
    previous: Hash,
    /// First index of the segment before.
    before: Option<u64>,
    buffer: Vec<u8>,
    /// Checkpoint of the newest frame, and where that frame is.
    newest: Option<(String, PathBuf, u64)>,
}

/// The fixed part of a frame.
#[derive(Clone, Copy)]
struct Header {
    body: u32,
    note: u32,
    entries: u32,
    sequence: u64,
    first: u64,
    previous: Hash,
    hash: Hash,
}

impl Header {
    fn end(&self, offset: u64) -> u64 {
        (offset + FRAME_HEADER + u64::from(self.body)).next_multiple_of(SECTOR)
    }
}

struct Segment {
    path: PathBuf,
    file: BufReader<File>,
    bytes: u64,
}

impl Segment {
    /// Takes note of the file's length now; whether it is shorter than before.
    fn has_shrunk(&mut self) -> io::Result<bool> {
        let before = std::mem::replace(&mut self.bytes, self.file.get_ref().metadata()?.len());
        Ok(self.bytes < before)
    }
}

fn be64(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn be32(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn hash_at(bytes: &[u8], at: usize) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(&bytes[at..at + 32]);
    hash
}

impl<'a> Walk<'a> {
    pub fn new(dir: &'a Path, key: &'a VerifierKey, origin: &'a str) -> Self {
        Walk {
            dir,
            key,
            origin,
            sequence: 0,
            previous: [0; 32],
            before: None,
            buffer: vec![0; 256 << 10],
            newest: None,
        }
    }

    pub fn run(&mut self, log: &mut LogCheck<'_>) -> Result<(), Stop> {
        let wal = self.dir.join("wal");
        let firsts = self.list(&wal, log)?;
        if firsts.is_empty() {
            return Err(Stop::tampered("there is no segment", &wal, None));
        }
        for (i, first) in firsts.iter().enumerate() {
            let path = wal.join(format!("{first:020}.seg"));
            let file = File::open(&path).map_err(Stop::io(&path))?;
            let bytes = file.metadata().map_err(Stop::io(&path))?.len();
            let mut segment = Segment { file: BufReader::with_capacity(256 << 10, file), path, bytes };
            self.header(&mut segment, *first, log)?;
            let end = self.frames(&mut segment, log)?;
            let is_last = i + 1 == firsts.len();
            self.rest(&mut segment, end, is_last, log)?;
            log.report.segments += 1;
        }
        let Some((text, path, offset)) = self.newest.take() else { return Ok(()) };
        if self.key.open(&text).is_none() {
            return Err(Stop::tampered(
                "the newest frame's checkpoint is not signed by the given key",
                &path,
                Some(offset),
            ));
        }
        Ok(())
    }

    fn list(&self, wal: &Path, log: &mut LogCheck<'_>) -> Result<Vec<u64>, Stop> {
        let mut firsts = Vec::new();
        for entry in fs::read_dir(wal).map_err(Stop::io(wal))? {
            let name = entry.map_err(Stop::io(wal))?.file_name().to_string_lossy().into_owned();
            let digits = name.strip_suffix(".seg").filter(|digits| digits.len() == 20);
            match digits.and_then(|digits| digits.parse().ok()) {
                Some(first) => firsts.push(first),
                None => log.report.notes.push(format!("`{}` is not part of the log", wal.join(name).display())),
            }
        }
        firsts.sort_unstable();
        Ok(firsts)
    }

    fn header(&mut self, segment: &mut Segment, first: u64, log: &LogCheck<'_>) -> Result<(), Stop> {
        let tampered = |what: &str| Err(Stop::tampered(what, &segment.path, Some(0)));
        let mut header = vec![0; SEGMENT_HEADER as usize];
        segment.file.read_exact(&mut header).map_err(Stop::io(&segment.path))?;
        let hash = Sha256::new().chain_update(&header[..72]).chain_update(&header[104..]).finalize();
        if &header[..8] != b"WMSEGMT1" || header[72..104] != hash[..] {
            return tampered("the segment's header does not have its hash");
        }
        if header[104..136] != Sha256::digest(self.origin)[..] {
            return tampered("the segment belongs to a log of another origin");
        }
        let before = be64(&header[32..]);
        let is_linked = self.before.unwrap_or(u64::MAX) == before
            && be64(&header[16..]) == first
            && be64(&header[24..]) == self.sequence
            && hash_at(&header, 40) == self.previous;
        if !is_linked || first != log.tree.size() {
            return tampered(
                "the segment does not begin where the one before ended: something between is missing or exchanged",
            );
        }
        let peaks: Vec<u8> = log.tree.peaks().flatten().copied().collect();
        let end = 136 + peaks.len();
        if be64(&header[8..]) != peaks.len() as u64 / 32
            || header[136..end] != peaks[..]
            || header[end..].iter().any(|b| *b != 0)
        {
            return tampered("the tree in the segment's header is not that of the entries before it");
        }
        self.before = Some(first);
        Ok(())
    }

    /// All whole frames; returns the offset after them.
    fn frames(&mut self, segment: &mut Segment, log: &mut LogCheck<'_>) -> Result<u64, Stop> {
        let mut offset = SEGMENT_HEADER;
        while let Some(header) = self.whole_frame(segment, offset).map_err(Stop::io(&segment.path))? {
            let tampered = |what: &str| Err(Stop::tampered(what, &segment.path, Some(offset)));
            if header.sequence != self.sequence || header.previous != self.previous {
                return tampered(
                    "the frame does not follow the one before it: frames were removed, repeated or exchanged",
                );
            }
            if header.first != log.tree.size() {
                return tampered("the frame begins at another index than the one before it ended");
            }
            self.entries(segment, offset, header, log)?;
            self.sequence += 1;
            self.previous = header.hash;
            log.report.frames += 1;
            offset = header.end(offset);
        }
        Ok(offset)
    }

    /// The frame at an offset, if a whole one is there. A segment may be closed meanwhile, which cuts off the zeros
    /// after its frames: then there is nothing.
    fn whole_frame(&mut self, segment: &mut Segment, offset: u64) -> io::Result<Option<Header>> {
        match self.read_frame(segment, offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && segment.has_shrunk()? => Ok(None),
            other => other,
        }
    }

    /// The header of a frame whose bytes have its hash and whose padding is zero.
    fn read_frame(&mut self, segment: &mut Segment, offset: u64) -> io::Result<Option<Header>> {
        if offset + FRAME_HEADER > segment.bytes {
            return Ok(None);
        }
        segment.file.seek(SeekFrom::Start(offset))?;
        let mut bytes = [0; FRAME_HEADER as usize];
        segment.file.read_exact(&mut bytes)?;
        let header = Header {
            body: be32(&bytes[8..]),
            note: be32(&bytes[12..]),
            entries: be32(&bytes[16..]),
            sequence: be64(&bytes[24..]),
            first: be64(&bytes[32..]),
            previous: hash_at(&bytes, 40),
            hash: hash_at(&bytes, 72),
        };
        let is_sane = bytes.starts_with(b"WMFRAME1") && be32(&bytes[20..]) == 0 && header.entries > 0;
        if !is_sane || header.note > header.body.min(NOTE_BYTES_MAX) || header.end(offset) > segment.bytes {
            return Ok(None);
        }
        let mut hasher = Sha256::new().chain_update(&bytes[..72]);
        let mut left = u64::from(header.body);
        while left > 0 {
            let n = self.buffer.len().min(left as usize);
            segment.file.read_exact(&mut self.buffer[..n])?;
            hasher.update(&self.buffer[..n]);
            left -= n as u64;
        }
        let padding = (header.end(offset) - offset - FRAME_HEADER - u64::from(header.body)) as usize;
        segment.file.read_exact(&mut self.buffer[..padding])?;
        let is_padded = self.buffer[..padding].iter().all(|byte| *byte == 0);
        Ok((is_padded && hasher.finalize()[..] == header.hash).then_some(header))
    }

    fn entries(
        &mut self,
        segment: &mut Segment,
        offset: u64,
        header: Header,
        log: &mut LogCheck<'_>,
    ) -> Result<(), Stop> {
        let path = segment.path.clone();
        segment.file.seek(SeekFrom::Start(offset + FRAME_HEADER)).map_err(Stop::io(&path))?;
        let mut body =
            Body { left: u64::from(header.body - header.note), file: &mut segment.file, buffer: &mut self.buffer };
        for _ in 0..header.entries {
            let at = offset + FRAME_HEADER + u64::from(header.body - header.note) - body.left;
            let leaf = body.entry(&path, at)?;
            log.leaf(&leaf)?;
            log.report.parts += (leaf.len() as u64 - 11) / 36;
        }
        if body.left != 0 {
            return Err(Stop::tampered("the frame holds more than its entries", &path, Some(offset)));
        }
        let mut text = vec![0; header.note as usize];
        segment.file.read_exact(&mut text).map_err(Stop::io(&path))?;
        let text = String::from_utf8(text).unwrap_or_default();
        let fits = note::parse_unsigned(&text).is_some_and(|checkpoint| {
            checkpoint.origin == self.origin && checkpoint.size == log.tree.size() && checkpoint.root == log.tree.root()
        });
        if !fits {
            let what = "the checkpoint in the frame is not over the entries up to it";
            return Err(Stop::tampered(what, &path, Some(offset)));
        }
        self.newest = Some((text, path, offset));
        Ok(())
    }

    /// What follows the last whole frame of a segment: nothing, or in the last segment zeros or an unfinished frame.
    fn rest(&mut self, segment: &mut Segment, end: u64, is_last: bool, log: &mut LogCheck<'_>) -> Result<(), Stop> {
        if end >= segment.bytes {
            return Ok(());
        }
        if !is_last {
            let what = "a frame is broken: a closed segment must end with a whole frame";
            return Err(Stop::tampered(what, &segment.path, Some(end)));
        }
        let Some(dirty) = self.first_dirty_sector(segment, end).map_err(Stop::io(&segment.path))? else {
            return Ok(());
        };
        let mut at = end + SECTOR;
        while at < segment.bytes {
            let frame = self.whole_frame(segment, at).map_err(Stop::io(&segment.path))?;
            if let Some(header) = frame.filter(|header| header.sequence > self.sequence)
                && self.is_signed(segment, at, header).map_err(Stop::io(&segment.path))?
            {
                let what = "a frame is broken though whole ones follow";
                return Err(Stop::tampered(what, &segment.path, Some(end)));
            }
            at += SECTOR;
        }
        log.report.notes.push(format!(
            "`{}` has bytes after the last whole frame, from {dirty} on: a frame being written or cut off by a crash; \
             they are outside the log and acknowledged by nothing in it",
            segment.path.display()
        ));
        Ok(())
    }

    fn is_signed(&mut self, segment: &mut Segment, offset: u64, header: Header) -> io::Result<bool> {
        let at = offset + FRAME_HEADER + u64::from(header.body - header.note);
        segment.file.seek(SeekFrom::Start(at))?;
        let mut text = vec![0; header.note as usize];
        segment.file.read_exact(&mut text)?;
        Ok(String::from_utf8(text).is_ok_and(|text| self.key.open(&text).is_some()))
    }

    fn first_dirty_sector(&mut self, segment: &mut Segment, end: u64) -> io::Result<Option<u64>> {
        segment.file.seek(SeekFrom::Start(end))?;
        let mut at = end;
        while at < segment.bytes {
            let n = self.buffer.len().min((segment.bytes - at) as usize);
            match segment.file.read_exact(&mut self.buffer[..n]) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && segment.has_shrunk()? => return Ok(None),
                other => other?,
            }
            if let Some(i) = self.buffer[..n].iter().position(|byte| *byte != 0) {
                return Ok(Some(at + i as u64));
            }
            at += n as u64;
        }
        Ok(None)
    }
}

/// The entries of one frame, read one after the other.
struct Body<'a> {
    file: &'a mut BufReader<File>,
    buffer: &'a mut Vec<u8>,
    left: u64,
}

impl Body<'_> {
    fn take(&mut self, bytes: u64, path: &Path, at: u64) -> Result<(), Stop> {
        self.left = self
            .left
            .checked_sub(bytes)
            .ok_or_else(|| Stop::tampered("an entry reaches beyond its frame", path, Some(at)))?;
        Ok(())
    }

    /// Reads an entry, checks its leaf's shape and each part's hash, and returns the leaf.
    fn entry(&mut self, path: &Path, at: u64) -> Result<Vec<u8>, Stop> {
        let tampered = |what: String| Err(Stop::tampered(what, path, Some(at)));
        self.take(6, path, at)?;
        let mut lengths = [0; 6];
        self.file.read_exact(&mut lengths).map_err(Stop::io(path))?;
        let (slots, leaf) = (u64::from(be32(&lengths)), u64::from(lengths[4]) << 8 | u64::from(lengths[5]));
        self.take(leaf + slots, path, at)?;
        let mut leaf = vec![0; leaf as usize];
        self.file.read_exact(&mut leaf).map_err(Stop::io(path))?;
        self.file.seek_relative(slots as i64).map_err(Stop::io(path))?;
        let is_shaped = leaf.len() >= 11
            && leaf[0] == 1
            && leaf.len() == 11 + 36 * (usize::from(leaf[9]) << 8 | usize::from(leaf[10]));
        if !is_shaped {
            return tampered("the leaf of the entry has not the form of one".to_owned());
        }
        for (number, part) in leaf[11..].chunks_exact(36).enumerate() {
            self.take(u64::from(be32(part)), path, at)?;
            if self.hash(u64::from(be32(part))).map_err(Stop::io(path))? != part[4..] {
                return tampered(format!("part {number} of the entry does not have the hash in its leaf"));
            }
        }
        Ok(leaf)
    }

    fn hash(&mut self, mut bytes: u64) -> io::Result<Hash> {
        let mut hasher = Sha256::new();
        while bytes > 0 {
            let n = self.buffer.len().min(bytes as usize);
            self.file.read_exact(&mut self.buffer[..n])?;
            hasher.update(&self.buffer[..n]);
            bytes -= n as u64;
        }
        Ok(hasher.finalize().into())
    }
}
