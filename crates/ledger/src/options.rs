//! What a log is told at its opening, every queue and size with its limit.

use base::Limits;

use crate::error::LedgerError;
use crate::frame::{FRAME_HEADER, SECTOR};

/// Options of one log.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// First line of every checkpoint: names the log to the world, such as `hospital.example/journal-ehr`.
    pub origin: String,
    /// A segment file is closed when the next frame would pass this.
    pub segment_bytes: u64,
    /// How far zeros are written ahead, so that a sync need not change the file's metadata.
    pub preallocate_bytes: u64,
    /// Bytes gathered into one frame; a larger single entry or batch has a frame of its own.
    pub frame_bytes_max: usize,
    /// Entries gathered into one frame.
    pub frame_entries_max: usize,
    /// Largest entry or batch.
    pub append_bytes_max: usize,
    /// Entries waiting for the disk; more are answered busy.
    pub queue_max: usize,
    /// Bytes waiting for the disk; more are answered busy.
    pub queue_bytes_max: usize,
    /// Memory for the newest frames, and as much again for frames read lately.
    pub cache_bytes_max: usize,
    /// The steps of the tiles and the published checkpoint behind the head begin at least this far apart.
    pub tail_interval_ms: u64,
}

impl LogOptions {
    pub fn new(origin: impl Into<String>) -> Self {
        Self::from_limits(origin, &Limits::default())
    }

    pub fn from_limits(origin: impl Into<String>, limits: &Limits) -> Self {
        LogOptions {
            origin: origin.into(),
            segment_bytes: 64 << 20,
            preallocate_bytes: 4 << 20,
            frame_bytes_max: limits.log_frame_bytes_max,
            frame_entries_max: 65_536,
            append_bytes_max: limits.log_frame_bytes_max.max(96 << 20),
            queue_max: limits.log_queue_max,
            queue_bytes_max: 256 << 20,
            cache_bytes_max: 16 << 20,
            tail_interval_ms: 30,
        }
    }

    pub(crate) fn check(&self) -> Result<(), LedgerError> {
        let bad = |option, rule| Err(LedgerError::Options { option, rule });
        if self.origin.is_empty() || self.origin.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return bad("origin", "one non-empty line without spaces");
        }
        if self.append_bytes_max > (u32::MAX as usize) / 2 || self.frame_bytes_max > (u32::MAX as usize) / 2 {
            return bad("append_bytes_max", "at most 2 GiB, as frame_bytes_max");
        }
        if self.frame_entries_max == 0 || self.queue_max == 0 || self.frame_bytes_max < FRAME_HEADER {
            return bad("frame_entries_max", "at least 1, as queue_max");
        }
        if self.preallocate_bytes < SECTOR as u64 || !self.preallocate_bytes.is_multiple_of(SECTOR as u64) {
            return bad("preallocate_bytes", "a multiple of 512, at least 512");
        }
        Ok(())
    }
}
