//! A shipper: reads the audit log in order and sends every record to one receiver, at least once, in batches.
//!
//! The position moves only when the receiver has confirmed a batch, and is durable before the next one. So after a crash,
//! an outage or a broken connection sending goes on with the batch that was not confirmed: **of each broken session at
//! most [`BATCH_MAX`] records arrive twice, none is missing, and the order within a session is the log's.**
//!
//! Never here: the log (port [`Records`]), where the position is kept (port [`Marks`]), TLS (see `syslog`).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gate::AuditRecord;
use parking_lot::Mutex;
use serde::Serialize;

use crate::syslog::{Receiver, frame};
use crate::{Event, Format, Place, Sets};

/// Records of one session at most: what may arrive twice.
pub const BATCH_MAX: usize = 1024;
/// Frames of one session at most; a batch with larger records is shorter.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// Between sessions, so that a quiet node opens at most one a second.
const PAUSE: Duration = Duration::from_secs(1);
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Records of the log as they may be sent: released, with the keyed tokens of their patients.
pub struct Batch {
    /// In the order of the log, with their names and the tokens of their patients.
    pub records: Vec<(u64, String, AuditRecord, Vec<[u8; 16]>)>,
    /// Where the next batch begins.
    pub next: u64,
    /// Records that no longer open: their retention ended, or they are damaged.
    pub unreadable: u64,
}

/// The audit log.
#[async_trait]
pub trait Records: Send + Sync {
    /// The log's name; another one when it was made anew.
    fn origin(&self) -> String;
    fn size(&self) -> u64;
    /// At most `max` records from an index on, in order. When this returns `Ok`, it is on record that they leave, and to
    /// whom. `None`: nothing but records of shipping itself is there, which go out with the next of another kind.
    async fn take(&self, from: u64, max: usize) -> Result<Option<Batch>, String>;
    /// Resolves when the log is longer than `size`.
    async fn longer_than(&self, size: u64);
}

/// How far a receiver has confirmed each log. Derived: without it everything is sent again.
pub trait Marks: Send + Sync {
    /// The first record of a log that is not confirmed; `None` when nothing is known, or nothing that can be read.
    fn load(&self, origin: &str) -> Option<u64>;
    /// When this returns `Ok`, the mark survives a power cut.
    fn store(&self, origin: &str, next: u64) -> Result<(), String>;
}

/// For the operator.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Status {
    pub name: String,
    pub to: String,
    pub format: &'static str,
    /// The first record not confirmed.
    pub next: u64,
    /// Records in the log that are not confirmed.
    pub behind: u64,
    /// Confirmed since the node started.
    pub sent: u64,
    /// Sessions that broke since the node started; of each at most a batch went out twice.
    pub broken: u64,
    pub unreadable: u64,
    /// Why nothing moves, while nothing moves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// One receiver's shipper.
pub struct Shipper {
    name: String,
    format: Format,
    receiver: Receiver,
    records: Arc<dyn Records>,
    marks: Arc<dyn Marks>,
    place: Place,
    behind_max: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Of this log is `shown.next`.
    origin: String,
    /// Size of the log when nothing was left but records of shipping itself.
    quiet_at: u64,
    shown: Status,
}

/// What a shipper is made of.
pub struct Parts {
    pub name: String,
    pub to: String,
    pub format: Format,
    pub receiver: Receiver,
    pub records: Arc<dyn Records>,
    pub marks: Arc<dyn Marks>,
    pub place: Place,
    /// Further behind than this is an alarm.
    pub behind_max: u64,
}

impl Shipper {
    pub fn new(parts: Parts) -> Self {
        let Parts { name, to, format, receiver, records, marks, place, behind_max } = parts;
        let shown = Status { name: name.clone(), to, format: format.code(), ..Status::default() };
        let state = State { shown, ..State::default() };
        let shipper = Shipper { name, format, receiver, records, marks, place, behind_max, state: Mutex::new(state) };
        shipper.look_which_log();
        shipper
    }

    /// Another log than before is shipped from its own mark on: one that was begun anew from its beginning, one that is
    /// back from where it was. A mark beyond a log's end is of another one.
    fn look_which_log(&self) {
        let (origin, size) = (self.records.origin(), self.records.size());
        let mut state = self.state.lock();
        if state.origin == origin && state.shown.next <= size {
            return;
        }
        let next = self.marks.load(&origin).filter(|next| *next <= size).unwrap_or(0);
        if !state.origin.is_empty() {
            tracing::warn!(
                target: "ward::alarm", shipper = self.name, next,
                "another audit log is shipped than before"
            );
        }
        (state.origin, state.shown.next, state.quiet_at) = (origin, next, 0);
    }

    pub fn status(&self) -> Status {
        let size = self.records.size();
        let state = self.state.lock();
        let behind = if state.quiet_at == size { 0 } else { size.saturating_sub(state.shown.next) };
        Status { behind, ..state.shown.clone() }
    }

    /// Ships until told to stop. A batch that is under way is finished or sent again by the next run.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        let mut backoff = BACKOFF_MIN;
        let mut alarmed = false;
        loop {
            let pause = match self.step().await {
                Ok(true) => {
                    backoff = BACKOFF_MIN;
                    self.pause_after_batch()
                }
                Ok(false) => {
                    let size = self.records.size();
                    tokio::select! {
                        () = &mut stop => return,
                        () = self.records.longer_than(size) => continue,
                    }
                }
                Err(trouble) => {
                    let wait = backoff;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                    self.trouble(trouble);
                    wait
                }
            };
            alarmed = self.alarm(alarmed);
            tokio::select! {
                () = &mut stop => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// At once when a whole batch more is waiting.
    fn pause_after_batch(&self) -> Duration {
        if self.status().behind >= BATCH_MAX as u64 { Duration::ZERO } else { PAUSE }
    }

    fn trouble(&self, trouble: String) {
        let shown = &mut self.state.lock().shown;
        shown.broken += 1;
        if shown.trouble.as_ref() != Some(&trouble) {
            tracing::warn!(target: "ward::alarm", shipper = self.name, next = shown.next, "{trouble}");
        }
        shown.trouble = Some(trouble);
    }

    /// One line when it falls behind the mark, one when it has caught up.
    fn alarm(&self, alarmed: bool) -> bool {
        let behind = self.status().behind;
        let is_behind = behind > self.behind_max;
        if is_behind != alarmed {
            let word = if is_behind { "is behind its mark" } else { "has caught up" };
            tracing::warn!(target: "ward::alarm", shipper = self.name, behind, "shipping the audit log {word}");
        }
        is_behind
    }

    /// One batch; false when there is nothing to send.
    pub async fn step(&self) -> Result<bool, String> {
        self.look_which_log();
        let (from, size) = (self.state.lock().shown.next, self.records.size());
        if from >= size {
            return Ok(false);
        }
        let Some(batch) = self.records.take(from, BATCH_MAX).await? else {
            self.state.lock().quiet_at = size;
            return Ok(false);
        };
        let place = Place { log: self.state.lock().origin.clone(), ..self.place.clone() };
        let (frames, next) = self.frames(&batch, &place);
        if !frames.is_empty() {
            self.receiver.send(&frames).await.map_err(|error| error.to_string())?;
        }
        let origin = self.state.lock().origin.clone();
        self.marks.store(&origin, next)?;
        let shown = &mut self.state.lock().shown;
        shown.sent += batch.records.iter().filter(|(index, ..)| *index < next).count() as u64;
        if next == batch.next {
            shown.unreadable += batch.unreadable;
        }
        (shown.next, shown.trouble) = (next, None);
        Ok(true)
    }

    /// Frames of as many records as fit, at least one, and where the next batch begins.
    fn frames(&self, batch: &Batch, place: &Place) -> (Vec<u8>, u64) {
        let mut frames = Vec::with_capacity(batch.records.len() * 1024);
        for (index, id, record, tokens) in &batch.records {
            if frames.len() > BATCH_BYTES_MAX {
                return (frames, *index);
            }
            let event = Event { id, index: *index, record, tokens, sets: Sets::Digest };
            frame(&mut frames, &event, place, self.format);
        }
        (frames, batch.next)
    }
}
