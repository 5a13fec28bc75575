//! Writing a log of a restore: its runs checked frame by frame, cut where it is wanted, and the cut proved by the
//! checkpoint that the log's key signed there.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use base::Timestamp;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use crate::error::{BackupError, Result};
use crate::frames::{Chain, Frame, SEGMENT_HEADER, SegmentHead, segment_name};
use crate::manifest::{Extent, LogCopy, Segment};
use crate::pieces::Pieces;
use crate::progress::Progress;
use crate::restore::RestoredLog;

/// Segments on their way at once.
const PARALLEL: usize = 3;

pub(crate) fn make_private(folder: &Path) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(BackupError::io("making", folder))
}

fn sync_folder(folder: &Path) -> Result<()> {
    std::fs::File::open(folder).and_then(|file| file.sync_all()).map_err(BackupError::io("syncing", folder))
}

/// What the frames of a segment's beginning say.
struct Frames {
    /// Where the chain stands before the first of them, and after the last.
    begins: Chain,
    ends: Chain,
    /// Bytes of them, with the segment's header.
    bytes: usize,
    checkpoint: Option<String>,
    newest: Option<Timestamp>,
}

/// Checks a segment frame by frame, up to the last frame not later than `until`. `None` where something does not fit.
fn check(bytes: &[u8], first: u64, until: Option<Timestamp>) -> Option<Frames> {
    let head = SegmentHead::parse(bytes).filter(|head| head.first == first)?;
    let begins = Chain::at(&head);
    let mut frames = Frames { begins, ends: begins, bytes: SEGMENT_HEADER as usize, checkpoint: None, newest: None };
    while frames.bytes < bytes.len() {
        let frame = Frame::parse(&bytes[frames.bytes..])?;
        let newest = Timestamp(frame.newest_ms()?);
        if until.is_some_and(|until| newest > until) {
            break;
        }
        frames.ends.push(&frame.head).ok()?;
        frames.bytes += usize::try_from(frame.head.disk_bytes()).ok()?;
        frames.checkpoint = Some(frame.checkpoint().to_owned());
        frames.newest = Some(newest);
    }
    Some(frames)
}

/// The runs of each segment that are wanted up to a time.
fn wanted(copy: &LogCopy, until: Option<Timestamp>) -> Vec<(u64, Vec<Extent>)> {
    let mut out = Vec::new();
    for segment in &copy.segments {
        let is_within = |extent: &&Extent| until.is_none_or(|until| extent.newest_ms <= until.ms());
        let whole = segment.extents.iter().take_while(is_within).count();
        // The run in which the time lies is written, and cut.
        let upto = segment.extents.len().min(whole + 1);
        out.push((segment.first, segment.extents[..upto].to_vec()));
        if whole < segment.extents.len() {
            break;
        }
    }
    out
}

async fn segment_bytes(name: &str, extents: &[Extent], pieces: Pieces<'_>, progress: &Progress) -> Result<Vec<u8>> {
    let mut runs: Vec<Bytes> = Vec::with_capacity(extents.len());
    for extent in extents {
        let bytes = pieces.get(&extent.piece).await?;
        if bytes.len() as u64 != extent.to - extent.from {
            return Err(BackupError::damaged(format!("log {name}")));
        }
        progress.add(bytes.len() as u64);
        runs.push(bytes);
    }
    Ok(match <[Bytes; 1]>::try_from(runs) {
        Ok([one]) => Vec::from(one),
        Err(many) => many.concat(),
    })
}

pub(crate) async fn write_log(
    copy: &LogCopy,
    folder: &Path,
    until: Option<Timestamp>,
    pieces: Pieces<'_>,
    progress: &Progress,
) -> Result<RestoredLog> {
    let wal = folder.join("wal");
    if wal.exists() {
        let said = format!("`{}` is there already: restore into an empty folder", wal.display());
        return Err(BackupError::refused(said));
    }
    make_private(&wal)?;
    let damaged = || BackupError::damaged(format!("log {}", copy.name));
    let written: Vec<Frames> = futures::stream::iter(wanted(copy, until))
        .map(|(first, extents)| {
            let path = wal.join(segment_name(first));
            async move {
                let bytes = segment_bytes(&copy.name, &extents, pieces, progress).await?;
                let name = copy.name.clone();
                tokio::task::spawn_blocking(move || write_segment(&path, &name, first, &bytes, until))
                    .await
                    .map_err(|_| BackupError::refused("writing a segment was cut short"))?
            }
        })
        .buffered(PARALLEL)
        .try_collect()
        .await?;
    // Each segment goes on where the one before it ended.
    if written.windows(2).any(|pair| pair[0].ends != pair[1].begins) {
        return Err(damaged());
    }
    sync_folder(&wal)?;
    sync_folder(folder)?;
    let last = written.iter().rev().find(|frames| frames.checkpoint.is_some());
    let restored = RestoredLog {
        name: copy.name.clone(),
        folder: folder.to_owned(),
        vkey: copy.vkey.clone(),
        size: last.map_or(0, |frames| frames.ends.index),
        of: copy.size,
        checkpoint: last.and_then(|frames| frames.checkpoint.clone()),
        newest: last.and_then(|frames| frames.newest),
    };
    let is_whole = until.is_some() || restored.size == copy.size;
    if is_whole && proves(copy, &restored) { Ok(restored) } else { Err(damaged()) }
}

/// The log ends at a frame whose checkpoint its key signed, over just these entries.
fn proves(copy: &LogCopy, restored: &RestoredLog) -> bool {
    let Some(note) = &restored.checkpoint else { return true };
    let verified = |note: &str| ledger::note::verify_by(note, &copy.vkey);
    let (Some(own), Some(outside)) = (verified(note), verified(&copy.checkpoint)) else { return false };
    own.size == restored.size && (outside.size != own.size || outside.root == own.root)
}

fn write_segment(path: &Path, log: &str, first: u64, bytes: &[u8], until: Option<Timestamp>) -> Result<Frames> {
    let frames = check(bytes, first, until).ok_or_else(|| BackupError::damaged(format!("log {log}")))?;
    if frames.checkpoint.is_none() && first > 0 {
        // Nothing of it was wanted: the log ends in the segment before.
        return Ok(frames);
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(BackupError::io("making", path))?;
    file.write_all(&bytes[..frames.bytes]).and_then(|()| file.sync_all()).map_err(BackupError::io("writing", path))?;
    Ok(frames)
}

/// When the frame that holds an entry was appended.
pub(crate) async fn time_of(segment: &Segment, index: u64, pieces: Pieces<'_>) -> Result<Timestamp> {
    let bytes = segment_bytes("journal", &segment.extents, pieces, &Progress::default()).await?;
    let mut at = SEGMENT_HEADER as usize;
    while let Some(frame) = bytes.get(at..).and_then(Frame::parse) {
        if index < frame.head.end() {
            return frame.newest_ms().map(Timestamp).ok_or_else(|| BackupError::damaged("journal"));
        }
        at += usize::try_from(frame.head.disk_bytes()).unwrap_or(usize::MAX);
    }
    Err(BackupError::damaged("journal"))
}
