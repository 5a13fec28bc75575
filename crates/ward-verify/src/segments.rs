//! Walks the segment files (docs/log-format.md): headers, frames, entries, and the end of the last segment.

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::note::{self, Keys};
use crate::source::{Blob, Source};
use crate::tree::Hash;
use crate::{LogCheck, Stop};

const SEGMENT_HEADER: u64 = 4096;
const FRAME_HEADER: u64 = 136;
const SECTOR: u64 = 512;
const NOTE_BYTES_MAX: u32 = note::NOTE_BYTES_MAX as u32;
/// No writer makes longer ones. One frame is held in memory.
const BODY_BYTES_MAX: u32 = 1 << 31;
/// How often a place where a frame may be half written is looked at again.
const LOOKS: u32 = 10;
/// What is read at once.
const WINDOW: usize = 1 << 20;

pub(crate) struct Walk<'a> {
    source: &'a dyn Source,
    dir: &'a Path,
    keys: &'a Keys,
    origin: &'a str,
    sequence: u64,
    previous: Hash,
    /// First index of the segment before.
    before: Option<u64>,
    /// Checkpoint of the newest frame, and where that frame is.
    newest: Option<(String, PathBuf, u64)>,
}

/// What is at the end of the last segment.
enum End {
    Clean,
    /// A whole frame, written meanwhile.
    Whole,
    /// A frame that nothing was acknowledged of; the first byte that is not zero.
    Torn(u64),
    Changed(&'static str),
}

/// The fixed part of a frame.
#[derive(Clone, Copy)]
struct Header {
    body: u32,
    note: u32,
    entries: u32,
    /// Sectors of the frame that hold nothing but zeros.
    zeros: u32,
    sequence: u64,
    first: u64,
    previous: Hash,
    body_hash: Hash,
    hash: Hash,
}

impl Header {
    fn end(&self, offset: u64) -> u64 {
        (offset + FRAME_HEADER + u64::from(self.body)).next_multiple_of(SECTOR)
    }
}

/// An open segment, with the part of it that was read last.
struct Segment<'s> {
    path: PathBuf,
    blob: Box<dyn Blob + 's>,
    bytes: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl<'s> Segment<'s> {
    fn open(source: &'s dyn Source, path: PathBuf) -> Result<Self, Stop> {
        let blob = source.open(&path).map_err(Stop::io(&path))?;
        let bytes = blob.bytes().map_err(Stop::io(&path))?;
        Ok(Segment { path, blob, bytes, window: Vec::new(), window_at: 0 })
    }

    /// Forgets what was read: a writer may have written since.
    fn refresh(&mut self) {
        self.window.clear();
    }

    /// `len` bytes at an offset.
    fn slice(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let start = offset.wrapping_sub(self.window_at);
        if start.saturating_add(len as u64) > self.window.len() as u64 {
            let left = self.bytes.saturating_sub(offset);
            self.window.resize((len.max(WINDOW) as u64).min(left) as usize, 0);
            self.window_at = offset;
            let n = self.blob.read_at(offset, &mut self.window)?;
            self.window.truncate(n);
        }
        let start = (offset - self.window_at) as usize;
        self.window.get(start..start + len).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Takes note of the file's length now; whether it is shorter than before.
    fn has_shrunk(&mut self) -> io::Result<bool> {
        let before = std::mem::replace(&mut self.bytes, self.blob.bytes()?);
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
    pub fn new(source: &'a dyn Source, dir: &'a Path, keys: &'a Keys, origin: &'a str) -> Self {
        Walk { source, dir, keys, origin, sequence: 0, previous: [0; 32], before: None, newest: None }
    }

    pub fn run(&mut self, log: &mut LogCheck<'_>) -> Result<(), Stop> {
        let wal = self.dir.join("wal");
        let firsts = self.list(&wal, log)?;
        if firsts.is_empty() {
            return Err(Stop::tampered("there is no segment", &wal, None));
        }
        for (i, first) in firsts.iter().enumerate() {
            let mut segment = Segment::open(self.source, wal.join(format!("{first:020}.seg")))?;
            self.header(&mut segment, *first, log)?;
            let mut end = self.frames(&mut segment, SEGMENT_HEADER, log)?;
            let is_last = i + 1 == firsts.len();
            while self.rest(&mut segment, end, is_last, log)? {
                end = self.frames(&mut segment, end, log)?;
            }
            log.report.segments += 1;
        }
        let Some((text, path, offset)) = self.newest.take() else { return Ok(()) };
        self.keys.open(&text).map_err(|refused| {
            Stop::tampered(format!("the newest frame's checkpoint: {refused}"), &path, Some(offset))
        })?;
        Ok(())
    }

    fn list(&self, wal: &Path, log: &mut LogCheck<'_>) -> Result<Vec<u64>, Stop> {
        let mut firsts = Vec::new();
        for name in self.source.list(wal).map_err(Stop::io(wal))? {
            let digits = name.strip_suffix(".seg").filter(|digits| digits.len() == 20);
            match digits.and_then(|digits| digits.parse().ok()) {
                Some(first) => firsts.push(first),
                None => log.report.notes.push(format!("`{}` is not part of the log", wal.join(name).display())),
            }
        }
        firsts.sort_unstable();
        Ok(firsts)
    }

    fn header(&mut self, segment: &mut Segment<'_>, first: u64, log: &LogCheck<'_>) -> Result<(), Stop> {
        let path = segment.path.clone();
        let tampered = |what: &str| Err(Stop::tampered(what, &path, Some(0)));
        let header = segment.slice(0, SEGMENT_HEADER as usize).map_err(Stop::io(&path))?;
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
            && hash_at(header, 40) == self.previous;
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

    /// All whole frames from an offset on; returns the offset after them.
    fn frames(&mut self, segment: &mut Segment<'_>, from: u64, log: &mut LogCheck<'_>) -> Result<u64, Stop> {
        let mut offset = from;
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
    fn whole_frame(&self, segment: &mut Segment<'_>, offset: u64) -> io::Result<Option<Header>> {
        match Self::read_frame(segment, offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && segment.has_shrunk()? => Ok(None),
            other => other,
        }
    }

    /// A frame whose header, body and padding are right.
    fn read_frame(segment: &mut Segment<'_>, offset: u64) -> io::Result<Option<Header>> {
        let Some(header) = Self::read_header(segment, offset)? else { return Ok(None) };
        if header.end(offset) > segment.bytes {
            return Ok(None);
        }
        let frame = segment.slice(offset, (header.end(offset) - offset) as usize)?;
        let (body, padding) = frame[FRAME_HEADER as usize..].split_at(header.body as usize);
        let is_right = Sha256::digest(body)[..] == header.body_hash;
        Ok((is_right && padding.iter().all(|byte| *byte == 0)).then_some(header))
    }

    /// The header of a frame, if it proves itself.
    fn read_header(segment: &mut Segment<'_>, offset: u64) -> io::Result<Option<Header>> {
        if offset + FRAME_HEADER > segment.bytes {
            return Ok(None);
        }
        let bytes = segment.slice(offset, FRAME_HEADER as usize)?;
        let header = Header {
            body: be32(&bytes[8..]),
            note: be32(&bytes[12..]),
            entries: be32(&bytes[16..]),
            zeros: be32(&bytes[20..]),
            sequence: be64(&bytes[24..]),
            first: be64(&bytes[32..]),
            previous: hash_at(bytes, 40),
            body_hash: hash_at(bytes, 72),
            hash: hash_at(bytes, 104),
        };
        let is_right = bytes.starts_with(b"WMFRAME1") && Sha256::digest(&bytes[..104])[..] == header.hash;
        let is_short = header.body <= BODY_BYTES_MAX && header.note <= header.body.min(NOTE_BYTES_MAX);
        Ok((is_right && is_short && header.entries > 0).then_some(header))
    }

    fn entries(
        &mut self,
        segment: &mut Segment<'_>,
        offset: u64,
        header: Header,
        log: &mut LogCheck<'_>,
    ) -> Result<(), Stop> {
        let path = segment.path.clone();
        let at = offset + FRAME_HEADER;
        let body = segment.slice(at, header.body as usize).map_err(Stop::io(&path))?;
        let (entries, text) = body.split_at((header.body - header.note) as usize);
        let mut rest = entries;
        for _ in 0..header.entries {
            let at = at + (entries.len() - rest.len()) as u64;
            let leaf = entry(&mut rest).map_err(|what| Stop::tampered(what, &path, Some(at)))?;
            log.leaf(leaf)?;
            log.report.parts += (leaf.len() as u64 - 11) / 36;
        }
        if !rest.is_empty() {
            return Err(Stop::tampered("the frame holds more than its entries", &path, Some(offset)));
        }
        let text = String::from_utf8_lossy(text).into_owned();
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

    /// What follows the last whole frame of a segment: nothing, or in the last segment zeros or a torn frame. Whether
    /// frames were written there meanwhile.
    fn rest(
        &mut self,
        segment: &mut Segment<'_>,
        end: u64,
        is_last: bool,
        log: &mut LogCheck<'_>,
    ) -> Result<bool, Stop> {
        let path = segment.path.clone();
        if end >= segment.bytes {
            return Ok(false);
        }
        if !is_last {
            let what = "a frame is broken: a closed segment must end with a whole frame";
            return Err(Stop::tampered(what, &path, Some(end)));
        }
        let size = log.tree.size();
        for attempt in 0.. {
            match self.judge(segment, end, size).map_err(Stop::io(&path))? {
                End::Clean => return Ok(false),
                End::Whole => return Ok(true),
                End::Torn(dirty) => {
                    log.report.notes.push(format!(
                        "`{}` has bytes after the last whole frame, from {dirty} on: a frame being written or torn by a \
                         power cut; they are outside the log and acknowledged by nothing in it",
                        path.display()
                    ));
                    return Ok(false);
                }
                // Beside a writer a frame may be half there yet: look again before it is called changed.
                End::Changed(_) if attempt < LOOKS && self.source.wait() => segment.refresh(),
                End::Changed(what) => return Err(Stop::tampered(what, &path, Some(end))),
            }
        }
        Ok(false)
    }

    /// docs/log-format.md, "Torn or changed".
    fn judge(&self, segment: &mut Segment<'_>, end: u64, size: u64) -> io::Result<End> {
        let Some(dirty) = self.first_dirty_byte(segment, end)? else { return Ok(End::Clean) };
        if self.whole_frame(segment, end)?.is_some() {
            return Ok(End::Whole);
        }
        let header = Self::read_header(segment, end)?.filter(|header| {
            header.sequence == self.sequence && header.first == size && header.previous == self.previous
        });
        if let Some(header) = header {
            let after = header.end(end);
            if self.first_dirty_byte(segment, after)?.is_some() {
                return Ok(End::Changed("a frame is broken though something follows: it had been made durable"));
            }
            return Ok(match Self::zero_sectors(segment, end, after)? > u64::from(header.zeros) {
                true => End::Torn(dirty),
                false => End::Changed("the last frame was changed: all of it was written, and it has not its hash"),
            });
        }
        if dirty < end + SECTOR && segment.bytes >= end + SECTOR {
            return Ok(End::Changed("the last frame was changed: a torn one begins as it was meant, or with zeros"));
        }
        let mut at = end + SECTOR;
        while at < segment.bytes {
            let frame = self.whole_frame(segment, at)?;
            if let Some(header) = frame.filter(|header| header.sequence > self.sequence)
                && self.is_signed(segment, at, header)?
            {
                return Ok(End::Changed("a frame is broken though whole ones follow"));
            }
            at += SECTOR;
        }
        Ok(End::Torn(dirty))
    }

    /// Sectors from `from` to `to` that hold nothing but zeros, or lie beyond the end of the file.
    fn zero_sectors(segment: &mut Segment<'_>, from: u64, to: u64) -> io::Result<u64> {
        let mut zeros = 0;
        for at in (from..to).step_by(SECTOR as usize) {
            let n = SECTOR.min(segment.bytes.saturating_sub(at)) as usize;
            zeros += u64::from(n == 0 || segment.slice(at, n)?.iter().all(|byte| *byte == 0));
        }
        Ok(zeros)
    }

    fn is_signed(&self, segment: &mut Segment<'_>, offset: u64, header: Header) -> io::Result<bool> {
        let at = offset + FRAME_HEADER + u64::from(header.body - header.note);
        let text = segment.slice(at, header.note as usize)?;
        Ok(std::str::from_utf8(text).is_ok_and(|text| self.keys.open(text).is_ok()))
    }

    fn first_dirty_byte(&self, segment: &mut Segment<'_>, end: u64) -> io::Result<Option<u64>> {
        let mut at = end;
        while at < segment.bytes {
            let n = WINDOW.min((segment.bytes - at) as usize);
            let dirty = segment.slice(at, n).map(|bytes| bytes.iter().position(|byte| *byte != 0));
            let dirty = match dirty {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && segment.has_shrunk()? => return Ok(None),
                other => other?,
            };
            if let Some(i) = dirty {
                return Ok(Some(at + i as u64));
            }
            at += n as u64;
        }
        Ok(None)
    }
}

/// Takes the next entry off a frame's entries, checks its leaf's shape and each part's hash, and returns the leaf.
fn entry<'b>(rest: &mut &'b [u8]) -> Result<&'b [u8], String> {
    let mut take = |n: usize| {
        let (taken, left) = rest.split_at_checked(n).ok_or("an entry reaches beyond its frame")?;
        *rest = left;
        Ok::<_, String>(taken)
    };
    let lengths = take(6)?;
    let (slots, leaf) = (be32(lengths) as usize, usize::from(lengths[4]) << 8 | usize::from(lengths[5]));
    let leaf = take(leaf)?;
    take(slots)?;
    let is_shaped =
        leaf.len() >= 11 && leaf[0] == 1 && leaf.len() == 11 + 36 * (usize::from(leaf[9]) << 8 | usize::from(leaf[10]));
    if !is_shaped {
        return Err("the leaf of the entry has not the form of one".to_owned());
    }
    for (number, part) in leaf[11..].chunks_exact(36).enumerate() {
        if Sha256::digest(take(be32(part) as usize)?)[..] != part[4..] {
            return Err(format!("part {number} of the entry does not have the hash in its leaf"));
        }
    }
    Ok(leaf)
}
