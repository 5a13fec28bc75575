//! Time comes in as an argument: one seed and one clock are one run.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

impl Timestamp {
    pub fn ms(self) -> i64 {
        self.0
    }

    pub fn plus_ms(self, ms: i64) -> Timestamp {
        Timestamp(self.0.saturating_add(ms))
    }

    /// The UTC year, for key scopes and retention.
    pub fn year(self) -> i32 {
        crate::time::civil_from_days(self.0.div_euclid(86_400_000)).0
    }
}

/// `2026-11-25T01:27:13.123Z` (FHIR instant, RFC 3339).
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = self.0.div_euclid(86_400_000);
        let ms = self.0.rem_euclid(86_400_000);
        let (y, m, d) = crate::time::civil_from_days(days);
        write!(
            f,
            "{y:04}-{m:02}-{d:02}T{:02}:{:02}:{:02}.{:03}Z",
            ms / 3_600_000,
            ms / 60_000 % 60,
            ms / 1000 % 60,
            ms % 1000
        )
    }
}

pub trait Clock: Send + Sync {
    /// The wall clock, UTC.
    fn now(&self) -> Timestamp;
    /// Milliseconds since a moment of this process, which nobody who sets the wall clock moves.
    fn steady_ms(&self) -> i64;
}

#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn steady_ms(&self) -> i64 {
        static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
        i64::try_from(BEGUN.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}

/// A clock that moves only when told to.
#[derive(Debug, Clone)]
pub struct ManualClock {
    wall: Arc<AtomicI64>,
    steady: Arc<AtomicI64>,
}

impl ManualClock {
    pub fn at(ms: i64) -> Self {
        ManualClock { wall: Arc::new(AtomicI64::new(ms)), steady: Arc::default() }
    }

    /// Time passes.
    pub fn advance_ms(&self, ms: i64) {
        self.wall.fetch_add(ms, Ordering::SeqCst);
        self.steady.fetch_add(ms, Ordering::SeqCst);
    }

    /// Somebody sets the wall clock by so much, forward or back; no time passes.
    pub fn jump_ms(&self, ms: i64) {
        self.wall.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.wall.load(Ordering::SeqCst))
    }

    fn steady_ms(&self) -> i64 {
        self.steady.load(Ordering::SeqCst)
    }
}
