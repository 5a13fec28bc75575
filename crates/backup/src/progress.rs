//! How far a backup or a restore is, for whoever waits for it.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::Serialize;

/// Shared between the work and whoever asks. Numbers only grow.
#[derive(Debug, Default)]
pub struct Progress {
    stage: Mutex<String>,
    done_bytes: AtomicU64,
    total_bytes: AtomicU64,
}

/// A moment of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Moment {
    pub stage: String,
    pub done_bytes: u64,
    pub total_bytes: u64,
}

impl Progress {
    pub fn stage(&self, stage: impl Into<String>) {
        *self.stage.lock() = stage.into();
    }

    pub fn expect(&self, bytes: u64) {
        self.total_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn add(&self, bytes: u64) {
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn moment(&self) -> Moment {
        Moment {
            stage: self.stage.lock().clone(),
            done_bytes: self.done_bytes.load(Ordering::Relaxed),
            total_bytes: self.total_bytes.load(Ordering::Relaxed),
        }
    }
}
