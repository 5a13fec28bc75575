//! Reads the files of a log from scratch: the segments' headers, then frames with every check, and the end of the
//! last segment, where a torn frame is told from damage. Repairs nothing (see `head`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use disk::{Disk, DiskFile, TEMP_SUFFIX};

use crate::error::LedgerError;
use crate::frame::{FRAME_HEADER, Frame, FrameHeader, SECTOR, is_zero};
use crate::merkle::{Frontier, Hash, leaf_hash, sha256};
use crate::note;
use crate::segment::{SEGMENT_HEADER, SegmentHeader, parse_segment_name, segment_path};

/// Who must have signed, and for which log.
#[derive(Clone)]
pub(crate) struct Identity {
    pub origin: String,
    pub key_name: String,
    pub public_key: [u8; 32],
}

impl Identity {
    /// The size and root of a note signed by this log's key for this origin.
    pub fn verify(&self, text: &str) -> Option<(u64, Hash)> {
        let checkpoint = note::verify(text, &self.key_name, &self.public_key)?;
        (checkpoint.origin == self.origin).then_some((checkpoint.size, checkpoint.root))
    }

    /// Whether the text of a note says this of this log; who signed it is not looked at.
    pub fn says(&self, text: &str, size: u64, root: &Hash) -> bool {
        let says = |it: note::Checkpoint| it.origin == self.origin && it.size == size && it.root == *root;
        note::parse(text).is_some_and(says)
    }

    pub fn origin_hash(&self) -> Hash {
        sha256(self.origin.as_bytes())
    }
}

/// One segment file on disk.
pub(crate) struct SegmentFile {
    pub header: SegmentHeader,
    pub path: PathBuf,
    pub file: Arc<dyn DiskFile>,
    pub bytes: u64,
}

/// Where a chain of frames stands.
#[derive(Clone)]
pub(crate) struct State {
    pub sequence: u64,
    pub previous: Hash,
    pub frontier: Frontier,
}

impl State {
    pub fn of(header: &SegmentHeader) -> State {
        State { sequence: header.sequence, previous: header.previous, frontier: header.frontier.clone() }
    }

    /// Whether the header is that of the next frame.
    fn is_before(&self, header: &FrameHeader) -> bool {
        let next = (self.sequence, self.previous, self.frontier.size());
        next == (header.sequence, header.previous, header.first)
    }

    fn is_start_of(&self, header: &SegmentHeader) -> bool {
        self.sequence == header.sequence && self.previous == header.previous && self.frontier == header.frontier
    }
}

/// The headers of all segments, in order and linked to each other.
pub(crate) fn segments(disk: &dyn Disk, dir: &Path, identity: &Identity) -> Result<Vec<SegmentFile>, LedgerError> {
    let wal = dir.join("wal");
    let names = disk.list(&wal).map_err(LedgerError::io("list", &wal))?;
    let mut firsts: Vec<u64> = names.iter().filter_map(|(name, _)| parse_segment_name(name)).collect();
    firsts.sort_unstable();
    let mut segments: Vec<SegmentFile> = Vec::with_capacity(firsts.len());
    for first in firsts {
        let path = segment_path(dir, first);
        let segment = open_segment(disk, path, identity)?;
        let before = segments.last().map(|before| before.header.first());
        let follows = segments.last().map_or(0, |before| before.header.sequence) <= segment.header.sequence;
        if segment.header.first() != first || segment.header.before != before || !follows {
            return Err(LedgerError::damaged("the segment does not follow the one before it", &segment.path, 0));
        }
        segments.push(segment);
    }
    if segments.first().is_some_and(|segment| segment.header.first() != 0) {
        return Err(LedgerError::damaged("the first segment is missing", &wal, 0));
    }
    Ok(segments)
}

pub(crate) fn open_segment(disk: &dyn Disk, path: PathBuf, identity: &Identity) -> Result<SegmentFile, LedgerError> {
    let file = disk.open(&path).map_err(LedgerError::io("open", &path))?;
    let bytes = file.bytes().map_err(LedgerError::io("read", &path))?;
    if bytes < SEGMENT_HEADER as u64 {
        return Err(LedgerError::damaged("the segment's header is cut off", &path, bytes));
    }
    let mut header = vec![0; SEGMENT_HEADER];
    file.read_at(&mut header, 0).map_err(LedgerError::io("read", &path))?;
    let Some(header) = SegmentHeader::parse(&header) else {
        return Err(LedgerError::damaged("the segment's header does not have its hash", &path, 0));
    };
    if header.origin_hash != identity.origin_hash() {
        return Err(LedgerError::damaged("the segment belongs to a log of another origin", &path, 104));
    }
    Ok(SegmentFile { header, path, file, bytes })
}

/// Left-overs of a crash between writing a file and putting it in place.
pub(crate) fn remove_temps(disk: &dyn Disk, folder: &Path) -> Result<(), LedgerError> {
    for (name, _) in disk.list(folder).map_err(LedgerError::io("list", folder))? {
        if name.ends_with(TEMP_SUFFIX) {
            let path = folder.join(name);
            disk.remove(&path).map_err(LedgerError::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Where the frames of a segment end.
pub(crate) struct End {
    pub state: State,
    pub offset: u64,
    /// After the frames is what a power cut left of an unacknowledged one.
    pub torn: bool,
    /// The last frame and its offset.
    pub last: Option<(Frame, u64)>,
}

/// Checks all frames of a segment against `state`, the chain so far. `each` sees every frame with its offset.
pub(crate) fn frames(
    segment: &SegmentFile,
    state: State,
    is_last: bool,
    identity: &Identity,
    mut each: impl FnMut(&Frame, u64, &State) -> Result<(), LedgerError>,
) -> Result<End, LedgerError> {
    if !state.is_start_of(&segment.header) {
        return Err(LedgerError::damaged("the segment does not begin where the one before ended", &segment.path, 0));
    }
    let mut end = End { state, offset: SEGMENT_HEADER as u64, torn: false, last: None };
    while let Some(frame) = frame_at(segment, end.offset)? {
        let damaged = |what| LedgerError::damaged(what, &segment.path, end.offset);
        let header = frame.header;
        if header.sequence != end.state.sequence || header.previous != end.state.previous {
            return Err(damaged("a frame does not follow the one before it"));
        }
        if header.first != end.state.frontier.size() {
            return Err(damaged("a frame begins at another index than the one before it ended"));
        }
        frame.leaves(header.first, header.end()).for_each(|leaf| end.state.frontier.push(leaf_hash(leaf)));
        end.state.sequence += 1;
        end.state.previous = header.hash;
        each(&frame, end.offset, &end.state)?;
        let next = end.offset + header.disk_bytes();
        end.last = Some((frame, end.offset));
        end.offset = next;
    }
    match rest(segment, &end, identity)? {
        Rest::Nothing => Ok(end),
        Rest::Torn if is_last => Ok(End { torn: true, ..end }),
        Rest::Zeros if is_last => Ok(end),
        Rest::Changed if is_last => Err(LedgerError::damaged(
            "the last frame was written whole and is not what was written",
            &segment.path,
            end.offset,
        )),
        Rest::Zeros | Rest::Torn | Rest::Changed => {
            Err(LedgerError::damaged("a closed segment does not end with a whole frame", &segment.path, end.offset))
        }
        Rest::Frame => {
            Err(LedgerError::damaged("a frame is broken though whole ones follow", &segment.path, end.offset))
        }
    }
}

/// The frame at an offset, if a whole one is there.
fn frame_at(segment: &SegmentFile, offset: u64) -> Result<Option<Frame>, LedgerError> {
    let read =
        |out: &mut [u8], offset| segment.file.read_at(out, offset).map_err(LedgerError::io("read", &segment.path));
    if offset + FRAME_HEADER as u64 > segment.bytes {
        return Ok(None);
    }
    let mut header = [0; FRAME_HEADER];
    read(&mut header, offset)?;
    let Some(header) = FrameHeader::parse(&header) else { return Ok(None) };
    if offset + header.disk_bytes() > segment.bytes {
        return Ok(None);
    }
    let mut bytes = vec![0; header.disk_bytes() as usize];
    read(&mut bytes, offset)?;
    Ok(Frame::parse(Bytes::from(bytes)))
}

enum Rest {
    Nothing,
    Zeros,
    /// A frame of which sectors are missing: it was never acknowledged.
    Torn,
    /// The last frame had all its sectors and is no longer what was written: it may have been acknowledged.
    Changed,
    /// More follows a frame that is not whole, so that one had been made durable.
    Frame,
}

/// What follows the last whole frame. Beneath a frame that is being written there are zeros, so a power cut leaves each
/// of its sectors as written or zero; anything else is damage (docs/log-format.md, "Torn or changed").
fn rest(segment: &SegmentFile, end: &End, identity: &Identity) -> Result<Rest, LedgerError> {
    if end.offset >= segment.bytes {
        return Ok(Rest::Nothing);
    }
    let mut first = [0; SECTOR];
    let there = SECTOR.min((segment.bytes - end.offset) as usize);
    segment.file.read_at(&mut first[..there], end.offset).map_err(LedgerError::io("read", &segment.path))?;
    if is_zero(&first) {
        return without_header(segment, end, identity);
    }
    match FrameHeader::parse(&first).filter(|header| end.state.is_before(header)) {
        Some(header) => with_header(segment, end.offset, &header),
        None if there < SECTOR => Ok(Rest::Torn),
        None => Ok(Rest::Changed),
    }
}

/// The header is there and says how many sectors there should be, and how many of them are zeros.
fn with_header(segment: &SegmentFile, offset: u64, header: &FrameHeader) -> Result<Rest, LedgerError> {
    let end = offset + header.disk_bytes();
    let mut zeros = end.saturating_sub(segment.bytes).div_ceil(SECTOR as u64);
    let mut is_followed = false;
    sectors(segment, offset, |at, sector| {
        match (at < end, is_zero(sector)) {
            (true, true) => zeros += 1,
            (false, false) => is_followed = true,
            _ => {}
        }
        Ok(!is_followed)
    })?;
    Ok(match zeros > u64::from(header.zero_sectors) {
        _ if is_followed => Rest::Frame,
        true => Rest::Torn,
        false => Rest::Changed,
    })
}

/// The first sector is not there. A frame counts as following only with a signature of this log over more entries: an
/// old frame inside an entry that was being written must not look like one.
fn without_header(segment: &SegmentFile, end: &End, identity: &Identity) -> Result<Rest, LedgerError> {
    let mut found = Rest::Zeros;
    sectors(segment, end.offset, |at, sector| {
        if is_zero(sector) {
            return Ok(true);
        }
        found = Rest::Torn;
        if FrameHeader::parse(sector).is_some_and(|header| header.sequence > end.state.sequence) {
            let signed = frame_at(segment, at)?.and_then(|frame| identity.verify(frame.checkpoint()));
            if signed.is_some_and(|(size, _)| size > end.state.frontier.size()) {
                found = Rest::Frame;
                return Ok(false);
            }
        }
        Ok(true)
    })?;
    Ok(found)
}

/// Calls `each` with the sectors from `offset` on until it says no or the file ends.
fn sectors(
    segment: &SegmentFile,
    mut offset: u64,
    mut each: impl FnMut(u64, &[u8]) -> Result<bool, LedgerError>,
) -> Result<(), LedgerError> {
    let mut buffer = vec![0; 1 << 20];
    while offset < segment.bytes {
        let n = buffer.len().min((segment.bytes - offset) as usize);
        let chunk = &mut buffer[..n];
        segment.file.read_at(chunk, offset).map_err(LedgerError::io("read", &segment.path))?;
        for (i, sector) in chunk.chunks(SECTOR).enumerate() {
            if !each(offset + (i * SECTOR) as u64, sector)? {
                return Ok(());
            }
        }
        offset += n as u64;
    }
    Ok(())
}
