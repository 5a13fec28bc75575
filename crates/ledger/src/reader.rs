//! Reading a log by position: frames from a bounded memory of recent ones, else from the segment files by a sparse
//! index. Shows only what is durable. Never writes (see `head`, `tail`).

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use disk::{Disk, DiskFile};
use parking_lot::{Mutex, RwLock};

use crate::error::LedgerError;
use crate::frame::{Entry, FRAME_HEADER, Frame, FrameHeader};
use crate::segment::{SEGMENT_HEADER, segment_path};

/// Index points are at least this far apart.
const SAMPLE_BYTES: u64 = 256 << 10;
/// Segments whose index is kept.
const SAMPLED_SEGMENTS_MAX: usize = 512;
/// Places where a reader stopped, so that it goes on without a search.
const HINTS_MAX: usize = 64;

/// What would survive a power cut.
#[derive(Debug, Clone)]
pub(crate) struct Durable {
    pub size: u64,
    /// The signed checkpoint at this size.
    pub note: Arc<str>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    pub first: u64,
    /// Where its durable frames end in the file.
    pub end: u64,
}

/// A place where a frame begins.
#[derive(Debug, Clone, Copy)]
struct Place {
    first: u64,
    segment: u64,
    offset: u64,
}

/// Frames in memory, the oldest dropped first.
#[derive(Default)]
struct FrameCache {
    frames: VecDeque<Arc<Frame>>,
    bytes: usize,
}

impl FrameCache {
    fn push(&mut self, frame: Arc<Frame>, bytes_max: usize) {
        self.bytes += frame.bytes().len();
        self.frames.push_back(frame);
        while self.bytes > bytes_max {
            let Some(old) = self.frames.pop_front() else { break };
            self.bytes -= old.bytes().len();
        }
    }

    fn find(&self, index: u64) -> Option<Arc<Frame>> {
        self.frames.iter().rev().find(|frame| frame.header.first <= index && index < frame.header.end()).cloned()
    }

    /// For frames in order.
    fn search(&self, index: u64) -> Option<Arc<Frame>> {
        let at = self.frames.partition_point(|frame| frame.header.end() <= index);
        self.frames.get(at).filter(|frame| frame.header.first <= index).cloned()
    }
}

pub(crate) struct Reader {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    cache_bytes_max: usize,
    segments: RwLock<Vec<Segment>>,
    samples: Mutex<HashMap<u64, Vec<Place>>>,
    hints: Mutex<VecDeque<Place>>,
    recent: Mutex<FrameCache>,
    lately: Mutex<FrameCache>,
    durable: RwLock<Durable>,
}

impl Reader {
    pub fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        cache_bytes_max: usize,
        segments: Vec<Segment>,
        durable: Durable,
    ) -> Self {
        Reader {
            disk,
            dir,
            cache_bytes_max,
            segments: RwLock::new(segments),
            samples: Mutex::default(),
            hints: Mutex::default(),
            recent: Mutex::default(),
            lately: Mutex::default(),
            durable: RwLock::new(durable),
        }
    }

    pub fn durable(&self) -> Durable {
        self.durable.read().clone()
    }

    pub fn segments(&self) -> Vec<Segment> {
        self.segments.read().clone()
    }

    pub fn size(&self) -> u64 {
        self.durable.read().size
    }

    /// What was durable at the end of the frame some `entries` after `from`; `newest` when that is not farther.
    pub fn within(&self, newest: &Durable, from: u64, entries: u64) -> Result<Durable, LedgerError> {
        if newest.size.saturating_sub(from) <= entries {
            return Ok(newest.clone());
        }
        let frame = self.frame(from + entries - 1)?;
        Ok(Durable { size: frame.header.end(), note: frame.checkpoint().into() })
    }

    /// The head has found where the last segment's frames end.
    pub fn set_end(&self, end: u64) {
        if let Some(last) = self.segments.write().last_mut() {
            last.end = end;
        }
    }

    /// The head has found the newest frame.
    pub fn recovered(&self, newest: Frame) {
        *self.durable.write() = Durable { size: newest.header.end(), note: newest.checkpoint().into() };
        self.recent.lock().push(Arc::new(newest), self.cache_bytes_max);
    }

    /// The head has begun a new segment, durably.
    pub fn add_segment(&self, first: u64) {
        self.segments.write().push(Segment { first, end: SEGMENT_HEADER as u64 });
    }

    /// The head has made a frame at `offset` of the last segment durable.
    pub fn add_frame(&self, frame: Frame, offset: u64, note: Arc<str>) {
        let header = frame.header;
        let segment = {
            let mut segments = self.segments.write();
            let Some(last) = segments.last_mut() else { return };
            last.end = offset + header.disk_bytes();
            last.first
        };
        self.sample(Place { first: header.first, segment, offset });
        self.recent.lock().push(Arc::new(frame), self.cache_bytes_max);
        *self.durable.write() = Durable { size: header.end(), note };
    }

    fn sample(&self, place: Place) {
        let mut samples = self.samples.lock();
        if samples.len() >= SAMPLED_SEGMENTS_MAX && !samples.contains_key(&place.segment) {
            samples.clear();
        }
        // A segment's index begins at its start or not at all: a later beginning would hide what is before.
        if place.offset == SEGMENT_HEADER as u64 {
            samples.insert(place.segment, vec![place]);
        } else if let Some(points) = samples.get_mut(&place.segment)
            && points.last().is_some_and(|last| place.offset >= last.offset + SAMPLE_BYTES)
        {
            points.push(place);
        }
    }

    /// Up to `entries_max` entries from `from`, stopping when they have `bytes_max` bytes; at least one if there is one.
    pub fn read(&self, from: u64, entries_max: usize, bytes_max: usize) -> Result<Vec<Entry>, LedgerError> {
        let size = self.size();
        if from > size {
            return Err(LedgerError::OutOfRange { asked: from, size });
        }
        let mut entries = Vec::new();
        let (mut index, mut bytes) = (from, 0usize);
        while index < size && entries.len() < entries_max {
            let frame = self.frame(index)?;
            for index in index..frame.header.end().min(size) {
                bytes = bytes.saturating_add(frame.entry_bytes(index));
                if entries.len() >= entries_max || (bytes > bytes_max && !entries.is_empty()) {
                    return Ok(entries);
                }
                entries.push(frame.entry(index));
            }
            index = frame.header.end();
        }
        Ok(entries)
    }

    /// Leaf data of `from..to`, in order. `to` is durable.
    pub fn leaves(&self, from: u64, to: u64, mut each: impl FnMut(&[u8])) -> Result<(), LedgerError> {
        let mut index = from;
        while index < to {
            let frame = self.frame(index)?;
            let end = frame.header.end().min(to);
            frame.leaves(index, end).for_each(&mut each);
            index = end;
        }
        Ok(())
    }

    /// The frame that holds a durable index.
    fn frame(&self, index: u64) -> Result<Arc<Frame>, LedgerError> {
        if let Some(frame) = self.recent.lock().search(index) {
            return Ok(frame);
        }
        if let Some(frame) = self.lately.lock().find(index) {
            return Ok(frame);
        }
        let (segment, next) = {
            let segments = self.segments.read();
            let at = segments.partition_point(|segment| segment.first <= index);
            (segments[at.max(1) - 1], segments.get(at).map(|next| next.first))
        };
        let path = segment_path(&self.dir, segment.first);
        let file = self.disk.open(&path).map_err(LedgerError::io("open", &path))?;
        let scan = Walk { file: &*file, path: &path, segment };
        let offset = self.locate(&scan, index)?;
        let frame = Arc::new(scan.frame(offset)?);
        if !(frame.header.first..frame.header.end()).contains(&index) {
            return Err(LedgerError::damaged("a frame holds other entries than its neighbours say", &path, offset));
        }
        self.lately.lock().push(frame.clone(), self.cache_bytes_max);
        let after = offset + frame.header.disk_bytes();
        if next.is_none_or(|next| frame.header.end() < next) {
            let mut hints = self.hints.lock();
            hints.push_back(Place { first: frame.header.end(), segment: segment.first, offset: after });
            if hints.len() > HINTS_MAX {
                hints.pop_front();
            }
        }
        Ok(frame)
    }

    /// Offset of the frame with this index, by the nearest known place before it and the headers from there.
    fn locate(&self, walk: &Walk<'_>, index: u64) -> Result<u64, LedgerError> {
        let segment = walk.segment.first;
        let hint =
            self.hints.lock().iter().rev().find(|place| place.first == index && place.segment == segment).copied();
        if let Some(place) = hint {
            return Ok(place.offset);
        }
        let sampled = self.samples.lock().contains_key(&segment);
        if !sampled {
            walk.headers(SEGMENT_HEADER as u64, |offset, header| {
                self.sample(Place { first: header.first, segment, offset });
                true
            })?;
        }
        let from = {
            let samples = self.samples.lock();
            let points = samples.get(&segment).map(Vec::as_slice).unwrap_or_default();
            let at = points.partition_point(|place| place.first <= index);
            points.get(at.wrapping_sub(1)).map_or(SEGMENT_HEADER as u64, |place| place.offset)
        };
        let mut found = None;
        walk.headers(from, |offset, header| {
            if index < header.end() {
                found = Some(offset);
            }
            found.is_none()
        })?;
        found.ok_or_else(|| {
            LedgerError::damaged("the segment ends before an entry it should hold", walk.path, walk.segment.end)
        })
    }
}

/// Goes along the frames of one segment.
struct Walk<'a> {
    file: &'a dyn DiskFile,
    path: &'a std::path::Path,
    segment: Segment,
}

impl Walk<'_> {
    fn header(&self, offset: u64) -> Result<FrameHeader, LedgerError> {
        let mut bytes = [0; FRAME_HEADER];
        self.file.read_at(&mut bytes, offset).map_err(LedgerError::io("read", self.path))?;
        FrameHeader::parse(&bytes)
            .filter(|header| offset + header.disk_bytes() <= self.segment.end)
            .ok_or_else(|| LedgerError::damaged("there is no frame where one should begin", self.path, offset))
    }

    /// Calls `each` with the frames from `offset` on, until it says stop or the segment ends.
    fn headers(&self, mut offset: u64, mut each: impl FnMut(u64, FrameHeader) -> bool) -> Result<(), LedgerError> {
        while offset < self.segment.end {
            let header = self.header(offset)?;
            if !each(offset, header) {
                break;
            }
            offset += header.disk_bytes();
        }
        Ok(())
    }

    fn frame(&self, offset: u64) -> Result<Frame, LedgerError> {
        let mut bytes = vec![0; self.header(offset)?.disk_bytes() as usize];
        self.file.read_at(&mut bytes, offset).map_err(LedgerError::io("read", self.path))?;
        Frame::parse(Bytes::from(bytes)).ok_or_else(|| {
            LedgerError::damaged("a frame does not have the hash it was written with", self.path, offset)
        })
    }
}
