//! Free space below the data folder, asked at most once a second.

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use base::Timestamp;

/// How often the file system is asked.
const EVERY_MS: i64 = 1_000;

#[derive(Debug)]
pub struct Space {
    folder: PathBuf,
    asked: AtomicI64,
    free: AtomicU64,
}

impl Space {
    pub fn below(folder: impl Into<PathBuf>) -> Self {
        Space { folder: folder.into(), asked: AtomicI64::new(i64::MIN), free: AtomicU64::new(u64::MAX) }
    }

    /// Bytes that may still be written. A file system that gives no answer does not stop care.
    pub fn free_bytes(&self, now: Timestamp) -> u64 {
        let asked = self.asked.load(Ordering::Relaxed);
        if now.ms().saturating_sub(asked) >= EVERY_MS {
            self.asked.store(now.ms(), Ordering::Relaxed);
            let free = match rustix::fs::statvfs(&self.folder) {
                Ok(stat) => stat.f_bavail.saturating_mul(stat.f_frsize),
                Err(_) => u64::MAX,
            };
            self.free.store(free, Ordering::Relaxed);
        }
        self.free.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_once_a_second_and_never_stops_care() {
        let folder = tempfile::tempdir().unwrap();
        let space = Space::below(folder.path());
        let free = space.free_bytes(Timestamp(0));
        assert!(free > 0 && free < u64::MAX);
        space.free.store(7, Ordering::Relaxed);
        assert_eq!(space.free_bytes(Timestamp(999)), 7);
        assert_ne!(space.free_bytes(Timestamp(1_000)), 7);
        assert_eq!(Space::below("/nowhere/at/all").free_bytes(Timestamp(0)), u64::MAX);
    }
}
