//! The head of a log: recovers the segments at opening and appends frames, one sync each. Synchronous and without
//! threads, so that a seed is a run (see `sim`); queues and waiting are in `log`.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use disk::{Disk, DiskFile, is_no_space};

use crate::error::{AppendError, LedgerError};
use crate::frame::{Frame, Prepared};
use crate::note::{self, CheckpointSigner};
use crate::options::LogOptions;
use crate::reader::{Durable, Reader, Segment};
use crate::scan::{self, Identity, SegmentFile, State};
use crate::segment::{SEGMENT_HEADER, SegmentHeader, segment_path};

/// Zeros are written ahead in pieces of this size.
const ZEROS: &[u8] = &[0; 256 << 10];

pub(crate) struct Head {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: LogOptions,
    signer: Arc<dyn CheckpointSigner>,
    identity: Identity,
    reader: Arc<Reader>,
    state: State,
    segment: OpenSegment,
    /// A new segment was begun and not finished: go on with that before anything else.
    must_roll: bool,
    poisoned: bool,
}

/// The segment being written.
struct OpenSegment {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    first: u64,
    /// Where the next frame begins.
    offset: u64,
    /// The file's length.
    allocated: u64,
}

pub(crate) fn identity(options: &LogOptions, signer: &dyn CheckpointSigner) -> Identity {
    Identity { origin: options.origin.clone(), key_name: signer.name().to_owned(), public_key: signer.public_key() }
}

impl Head {
    /// Recovers the log in `dir`, or begins one. `published` is the size of the checkpoint already given to the
    /// world: a log that ends before it has lost what was acknowledged. The caller holds the writer lock.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: LogOptions,
        signer: Arc<dyn CheckpointSigner>,
        published: Option<u64>,
    ) -> Result<Head, LedgerError> {
        let identity = identity(&options, &*signer);
        scan::remove_temps(&*disk, &dir.join("wal"))?;
        let mut segments = scan::segments(&*disk, dir, &identity)?;
        if segments.is_empty() {
            if published.is_some_and(|size| size > 0) {
                return Err(LedgerError::damaged("all segments are missing", &dir.join("wal"), 0));
            }
            let header = SegmentHeader {
                origin_hash: identity.origin_hash(),
                sequence: 0,
                before: None,
                previous: [0; 32],
                frontier: Default::default(),
            };
            let path = segment_path(dir, 0);
            disk.publish(&[(path.clone(), header.encode())]).map_err(LedgerError::io("write", &path))?;
            segments = scan::segments(&*disk, dir, &identity)?;
        }
        // A process that died between a rename and the sync of its folder leaves a name that a power cut takes back.
        for folder in [&dir.join("wal"), dir, dir.parent().unwrap_or(dir)] {
            disk.sync_folder(folder).map_err(LedgerError::io("sync", folder))?;
        }
        let listed = segments
            .iter()
            .map(|segment| Segment { first: segment.header.first(), end: segment.bytes })
            .collect::<Vec<_>>();
        let durable =
            Durable { size: 0, note: note::sign(&*signer, &identity.origin, 0, &crate::merkle::EMPTY_ROOT).into() };
        let reader = Arc::new(Reader::new(disk.clone(), dir.to_owned(), options.cache_bytes_max, listed, durable));
        let (state, segment) = recover(&segments, &identity, &reader)?;
        let size = state.frontier.size();
        if published.is_some_and(|published| published > size) {
            return Err(LedgerError::damaged(
                "the log ends before its published checkpoint, so acknowledged entries are gone",
                &segment.path,
                segment.offset,
            ));
        }
        Ok(Head {
            disk,
            dir: dir.to_owned(),
            options,
            signer,
            identity,
            reader,
            state,
            segment,
            must_roll: false,
            poisoned: false,
        })
    }

    pub fn reader(&self) -> &Arc<Reader> {
        &self.reader
    }

    pub fn size(&self) -> u64 {
        self.state.frontier.size()
    }

    /// Makes the entries durable as one frame. After an error nothing of it is acknowledged.
    pub fn commit(&mut self, entries: &[&Prepared]) -> Result<Range<u64>, AppendError> {
        if self.poisoned {
            return Err(AppendError::Poisoned);
        }
        let first = self.size();
        if entries.is_empty() {
            return Ok(first..first);
        }
        let mut frontier = self.state.frontier.clone();
        entries.iter().for_each(|entry| frontier.push(entry.hash));
        let note = note::sign(&*self.signer, &self.identity.origin, frontier.size(), &frontier.root());
        let frame = Frame::encode(self.state.sequence, first, &self.state.previous, entries, &note);
        let bytes = frame.header.disk_bytes();
        let is_full =
            self.segment.offset + bytes > self.options.segment_bytes && self.segment.offset > SEGMENT_HEADER as u64;
        if self.must_roll || is_full {
            self.must_roll = true;
            self.roll()?;
            self.must_roll = false;
        }
        self.write(frame.bytes())?;
        if let Err(error) = self.segment.file.sync() {
            return Err(self.poison("sync of the log", &error));
        }
        let offset = self.segment.offset;
        self.segment.offset += bytes;
        self.state = State { sequence: self.state.sequence + 1, previous: frame.header.hash, frontier };
        let range = first..self.size();
        self.reader.add_frame(frame, offset, note.into());
        Ok(range)
    }

    /// Writes a frame, unsynced, with zeros ahead of it when the file must grow.
    fn write(&mut self, bytes: &[u8]) -> Result<(), AppendError> {
        let end = self.segment.offset + bytes.len() as u64;
        if end > self.segment.allocated {
            let ahead = end.next_multiple_of(self.options.preallocate_bytes).min(self.options.segment_bytes.max(end));
            let mut at = end;
            while at < ahead {
                let piece = &ZEROS[..ZEROS.len().min((ahead - at) as usize)];
                if self.segment.file.write_at(piece, at).is_err() {
                    // Zeros ahead are a convenience; whether the frame itself fits is found out below.
                    break;
                }
                at += piece.len() as u64;
            }
            self.segment.allocated = ahead;
        }
        match self.segment.file.write_at(bytes, self.segment.offset) {
            Ok(()) => Ok(()),
            Err(error) if is_no_space(&error) => {
                // Nothing of it may look like a frame later, and beneath the next one there must be zeros.
                let cut = self.segment.file.set_len(self.segment.offset).and_then(|()| self.segment.file.sync());
                if let Err(error) = cut {
                    return Err(self.poison("cutting off an unfinished frame", &error));
                }
                self.segment.allocated = self.segment.offset;
                Err(AppendError::NoSpace)
            }
            Err(error) => Err(self.poison("write to the log", &error)),
        }
    }

    /// Closes the segment at its last frame and begins the next.
    fn roll(&mut self) -> Result<(), AppendError> {
        let cut = self.segment.file.set_len(self.segment.offset).and_then(|()| self.segment.file.sync());
        if let Err(error) = cut {
            return Err(self.poison("closing a segment", &error));
        }
        self.segment.allocated = self.segment.offset;
        let header = SegmentHeader {
            origin_hash: self.identity.origin_hash(),
            sequence: self.state.sequence,
            before: Some(self.segment.first),
            previous: self.state.previous,
            frontier: self.state.frontier.clone(),
        };
        let path = segment_path(&self.dir, header.first());
        let opened = self.disk.publish(&[(path.clone(), header.encode())]).and_then(|()| self.disk.open(&path));
        let file = match opened {
            Ok(file) => file,
            Err(error) if is_no_space(&error) => return Err(AppendError::NoSpace),
            Err(error) => return Err(self.poison("beginning a segment", &error)),
        };
        let start = SEGMENT_HEADER as u64;
        self.segment = OpenSegment { file, path, first: header.first(), offset: start, allocated: start };
        self.reader.add_segment(header.first());
        Ok(())
    }

    fn poison(&mut self, what: &str, error: &std::io::Error) -> AppendError {
        self.poisoned = true;
        self.disk.fatal(what, error);
        AppendError::Poisoned
    }
}

/// Scans the last segment that has frames, cuts off what a power cut left half written, and makes sure that the
/// last frame is on the disk and not only in the system's memory.
fn recover(
    segments: &[SegmentFile],
    identity: &Identity,
    reader: &Arc<Reader>,
) -> Result<(State, OpenSegment), LedgerError> {
    let (last, closed) = segments.split_last().ok_or(LedgerError::OutOfRange { asked: 0, size: 0 })?;
    let end = scan::frames(last, State::of(&last.header), true, identity, |_, _, _| Ok(()))?;
    let io = |action| LedgerError::io(action, &last.path);
    if end.torn {
        last.file.set_len(end.offset).map_err(io("cut"))?;
    }
    if let Some((frame, offset)) = &end.last {
        // After a failed sync the system may show bytes that never reached the disk: write them again.
        last.file.write_at(frame.bytes(), *offset).map_err(io("write"))?;
    }
    last.file.sync().map_err(io("sync"))?;
    let state = end.state.clone();
    let newest = match (end.last, closed.last()) {
        (Some((frame, offset)), _) => Some((frame, offset, last)),
        (None, Some(before)) => {
            let end = scan::frames(before, State::of(&before.header), false, identity, |_, _, _| Ok(()))?;
            let follows = end.state.sequence == state.sequence && end.state.previous == state.previous;
            if !follows || end.state.frontier != state.frontier {
                return Err(LedgerError::damaged(
                    "the segment does not begin where the one before ended",
                    &last.path,
                    0,
                ));
            }
            let (frame, offset) = end.last.ok_or_else(|| {
                LedgerError::damaged("a closed segment holds no frame", &before.path, SEGMENT_HEADER as u64)
            })?;
            Some((frame, offset, before))
        }
        (None, None) => None,
    };
    let allocated = if end.torn { end.offset } else { last.bytes };
    let open = OpenSegment {
        file: last.file.clone(),
        path: last.path.clone(),
        first: last.header.first(),
        offset: end.offset,
        allocated,
    };
    if let Some((frame, offset, segment)) = newest {
        let root = state.frontier.root();
        if identity.verify(frame.checkpoint()) != Some((state.frontier.size(), root)) {
            return Err(LedgerError::damaged(
                "the last frame's checkpoint is not this log's key's over these entries",
                &segment.path,
                offset,
            ));
        }
        reader.recovered(frame);
    }
    reader.set_end(end.offset);
    Ok((state, open))
}
