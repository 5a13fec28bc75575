//! Checks a whole log from its segments: every link, hash, part and signature. The auditor's checker is a program of
//! its own (`ward-verify`); this one is for the node itself.

use std::path::Path;

use disk::Disk;

use crate::error::LedgerError;
use crate::merkle::Hash;
use crate::reader::Reader;
use crate::scan::{self, Identity, State};

/// What was found whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    pub size: u64,
    pub root: Hash,
    pub frames: u64,
    pub segments: usize,
}

/// With a `reader`, what it shows as durable; without, all that is in the folder.
pub(crate) fn verify(
    disk: &dyn Disk,
    dir: &Path,
    identity: &Identity,
    reader: Option<&Reader>,
) -> Result<Verified, LedgerError> {
    let mut segments = scan::segments(disk, dir, identity)?;
    if let Some(reader) = reader {
        // The writer goes on: look only at what was durable now.
        let durable = reader.segments();
        segments.truncate(durable.len());
        for (segment, durable) in segments.iter_mut().zip(&durable) {
            segment.bytes = segment.bytes.min(durable.end);
        }
    }
    let mut state: Option<State> = None;
    for (i, segment) in segments.iter().enumerate() {
        let is_last = i + 1 == segments.len();
        let start = state.unwrap_or_else(|| State::of(&segment.header));
        let end = scan::frames(segment, start, is_last, identity, |frame, offset, state| {
            let damaged = |what| Err(LedgerError::damaged(what, &segment.path, offset));
            if !frame.parts_match() {
                return damaged("a part does not have the hash in its leaf");
            }
            if !identity.says(frame.checkpoint(), state.frontier.size(), &state.frontier.root()) {
                return damaged("a frame's checkpoint is not over these entries");
            }
            Ok(())
        })?;
        // Each signed root covers all before it, so the last one of a segment speaks for all of them.
        if let Some((frame, offset)) = &end.last
            && identity.verify(frame.checkpoint()).is_none()
        {
            return Err(LedgerError::damaged(
                "a frame's checkpoint is not signed by this log's key",
                &segment.path,
                *offset,
            ));
        }
        state = Some(end.state);
    }
    let state = state.ok_or_else(|| LedgerError::damaged("all segments are missing", &dir.join("wal"), 0))?;
    Ok(Verified {
        size: state.frontier.size(),
        root: state.frontier.root(),
        frames: state.sequence,
        segments: segments.len(),
    })
}
