//! Copying a log while it is being written: whole segments and the last one up to a frame, in runs that are never
//! copied again. What is copied is checked frame by frame: a backup of a damaged log must not look like one.

use std::fs::File;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::error::{BackupError, Result};
use crate::frames::{self, Chain, Frame, FrameHead, SEGMENT_HEADER, SegmentFile, SegmentHead};
use crate::manifest::{Extent, LogCopy, Segment};
use crate::pieces::Pieces;
use crate::progress::Progress;

/// A log to copy, with the position it is copied up to.
#[derive(Debug, Clone)]
pub struct LogSource {
    /// `journal-ehr`, `control`, `audit`, `audit-second`.
    pub name: String,
    pub folder: PathBuf,
    /// Its folder within the mesh folder.
    pub place: String,
    pub vkey: String,
    /// A signed checkpoint whose entries are durable.
    pub checkpoint: String,
}

impl LogSource {
    /// Entries that the checkpoint names.
    pub fn size(&self) -> Result<u64> {
        ledger::note::parse(&self.checkpoint)
            .map(|checkpoint| checkpoint.size)
            .ok_or_else(|| BackupError::refused(format!("the checkpoint of log {} is malformed", self.name)))
    }
}

/// A run that is in several pieces beyond this is copied anew as one, once its segment is closed.
const EXTENTS_MAX: usize = 16;

/// Copies what the target does not have yet. Returns the copy and the bytes added.
pub(crate) async fn copy(
    source: &LogSource,
    before: Option<&LogCopy>,
    pieces: Pieces<'_>,
    progress: &Progress,
) -> Result<(LogCopy, u64)> {
    let size = source.size()?;
    let files: Vec<SegmentFile> =
        frames::segments(&source.folder)?.into_iter().filter(|file| file.first < size || file.first == 0).collect();
    // The same log goes on where the last backup ended; another log of the same name does not.
    let before = before.filter(|before| before.vkey == source.vkey && before.place == source.place);
    let mut copy = LogCopy {
        name: source.name.clone(),
        place: source.place.clone(),
        vkey: source.vkey.clone(),
        size,
        checkpoint: source.checkpoint.clone(),
        segments: Vec::with_capacity(files.len()),
    };
    let mut added = 0;
    let mut reached = 0;
    for (at, file) in files.iter().enumerate() {
        let is_closed = files.get(at + 1).is_some();
        let known = before.and_then(|before| before.segments.iter().find(|segment| segment.first == file.first));
        let (segment, end, bytes) = copy_segment(source, file, is_closed, size, known, pieces, progress).await?;
        reached = end;
        added += bytes;
        copy.segments.push(segment);
    }
    if size > 0 && reached != size {
        let path = files.last().map_or_else(|| source.folder.clone(), |file| file.path.clone());
        let what = "the log's segments end before its published checkpoint";
        return Err(BackupError::Source { log: source.name.clone(), path, offset: 0, what });
    }
    Ok((copy, added))
}

/// The segment's copy, the index after its last frame in it, and the bytes added.
async fn copy_segment(
    source: &LogSource,
    file: &SegmentFile,
    is_closed: bool,
    size: u64,
    known: Option<&Segment>,
    pieces: Pieces<'_>,
    progress: &Progress,
) -> Result<(Segment, u64, u64)> {
    let fresh = |path: &Path| -> Result<File> { File::open(path).map_err(BackupError::io("opening", path)) };
    let open = fresh(&file.path)?;
    let damaged =
        |offset, what| BackupError::Source { log: source.name.clone(), path: file.path.clone(), offset, what };
    let known = match known {
        Some(known) => still_there(&open, file, known)?.map(|chain| (known.clone(), chain)),
        None => None,
    };
    let (mut segment, mut chain) = match known {
        Some((known, chain)) if !(is_closed && known.extents.len() > EXTENTS_MAX) => (known, chain),
        _ => {
            let header = frames::read_range(&open, &file.path, 0, SEGMENT_HEADER.min(file.bytes))?;
            let head = SegmentHead::parse(&header)
                .filter(|head| head.first == file.first)
                .ok_or_else(|| damaged(0, "the segment's header does not have its hash"))?;
            let segment = Segment { first: file.first, extents: Vec::new(), last_offset: 0, last_hash: String::new() };
            (segment, Chain::at(&head))
        }
    };
    // Lengths of frames tell where the wanted ones end; their bytes are checked below.
    let from = segment.end();
    let mut to = from.max(SEGMENT_HEADER);
    let mut last: Option<(u64, FrameHead)> = None;
    frames::heads(&open, &file.path, to, &mut |offset, head| {
        let wanted = head.end() <= size;
        if wanted {
            to = offset + head.disk_bytes();
            last = Some((offset, head));
        }
        wanted
    })?;
    if is_closed && to != file.bytes {
        return Err(damaged(to, "a closed segment does not end with a whole frame"));
    }
    if to == from {
        return Ok((segment, chain.index, 0));
    }
    progress.expect(to - from);
    let (log, path) = (source.name.clone(), file.path.clone());
    let read = tokio::task::spawn_blocking(move || read_run(&log, &path, from, to, chain));
    let run = read.await.map_err(|_| BackupError::refused("reading a segment was cut short"))??;
    let (piece, added) = pieces.put(run.bytes).await?;
    progress.add(to - from);
    segment.extents.push(Extent { from, to, piece, newest_ms: run.newest_ms });
    if let Some((offset, head)) = last {
        (segment.last_offset, segment.last_hash) = (offset, base::hex::encode(&head.hash));
    }
    chain = run.chain;
    Ok((segment, chain.index, added))
}

/// Where the chain stands after the known run, when the file still holds it. Frames are chained by hash, so the last
/// one answers for all before it.
fn still_there(open: &File, file: &SegmentFile, known: &Segment) -> Result<Option<Chain>> {
    if known.end() > file.bytes || known.end() < SEGMENT_HEADER {
        return Ok(None);
    }
    if known.last_hash.is_empty() {
        let header = frames::read_range(open, &file.path, 0, SEGMENT_HEADER)?;
        return Ok(SegmentHead::parse(&header).filter(|head| head.first == file.first).map(|head| Chain::at(&head)));
    }
    let bytes = frames::read_range(open, &file.path, known.last_offset, known.end())?;
    let frame = Frame::parse(&bytes).filter(|frame| {
        known.last_offset + frame.head.disk_bytes() == known.end()
            && base::hex::encode(&frame.head.hash) == known.last_hash
    });
    Ok(frame.map(|frame| Chain {
        sequence: frame.head.sequence + 1,
        index: frame.head.end(),
        previous: frame.head.hash,
    }))
}

struct Run {
    bytes: Bytes,
    newest_ms: i64,
    chain: Chain,
}

/// Reads a run and checks each frame of it: bytes, order, hashes.
fn read_run(log: &str, path: &Path, from: u64, to: u64, mut chain: Chain) -> Result<Run> {
    let file = File::open(path).map_err(BackupError::io("opening", path))?;
    let bytes = frames::read_range(&file, path, from, to)?;
    let mut at = SEGMENT_HEADER.saturating_sub(from) as usize;
    let mut newest_ms = i64::MIN;
    while at < bytes.len() {
        let damaged =
            |what| BackupError::Source { log: log.to_owned(), path: path.to_owned(), offset: from + at as u64, what };
        let frame =
            Frame::parse(&bytes[at..]).ok_or_else(|| damaged("a frame does not have the hash it was written with"))?;
        chain.push(&frame.head).map_err(damaged)?;
        newest_ms = newest_ms.max(frame.newest_ms().ok_or_else(|| damaged("a frame's entries are malformed"))?);
        at += frame.head.disk_bytes() as usize;
    }
    Ok(Run { bytes: Bytes::from(bytes), newest_ms, chain })
}
