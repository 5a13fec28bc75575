//! A route at work: reads on from its position, sends, moves on.

use std::sync::Arc;
use std::time::Duration;

use base::{Clock, DomainName, Layer, Limits, Permit, Read};
use clinical::{Content, Journal, JournalEntry, JournalError};
use gate::{Access, Gate, Held, NotReleased, Origin};
use parking_lot::Mutex;
use policy::Action;
use serde::Serialize;
use store::{DeadLetter, RouteBook, Silver, StoreError};

use crate::route::Route;
use crate::send::{Destination, SendError};

const BATCH_ENTRIES_MAX: usize = 64;
const BATCH_BYTES_MAX: usize = 8 << 20;
const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// What a route is made of.
pub struct Parts {
    pub domain: DomainName,
    pub route: Route,
    pub journal: Arc<Journal>,
    pub silver: Silver,
    pub book: RouteBook,
    pub gate: Gate,
    /// Who receives it, for the accounting of disclosures.
    pub recipient: String,
    pub limits: Arc<Limits>,
    pub clock: Arc<dyn Clock>,
}

/// For the operator.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Status {
    pub name: String,
    pub domain: String,
    pub to: String,
    /// The first entry neither delivered nor passed over; `None` while a person must say where to go on.
    pub next: Option<u64>,
    /// Entries of the journal not looked at yet.
    pub behind: u64,
    /// Since the node started.
    pub delivered: u64,
    pub dead_letters: u64,
    /// Why nothing moves, while nothing moves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("the gate gives the route no permit: {0}")]
    Gate(String),
    #[error("nothing leaves: {0}")]
    NotReleased(NotReleased),
    #[error("{0}")]
    Send(#[from] SendError),
    #[error("there is no such entry to send again")]
    NoSuchEntry,
    #[error("the route has not begun: say from where it goes on")]
    NotBegun,
}

/// What became of one entry.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Delivered,
    /// Not for this route, or of a patient who is hidden or erased.
    Passed,
    Dead {
        code: String,
        reason: String,
    },
}

pub struct Worker {
    parts: Parts,
    destination: tokio::sync::Mutex<Destination>,
    shown: Mutex<Status>,
}

impl Worker {
    pub fn new(parts: Parts, destination: Destination) -> Self {
        let shown = Status {
            name: parts.route.name.to_string(),
            domain: parts.domain.to_string(),
            to: parts.route.to.to_string(),
            ..Status::default()
        };
        Worker { parts, destination: destination.into(), shown: Mutex::new(shown) }
    }

    pub fn name(&self) -> &base::SourceName {
        &self.parts.route.name
    }

    pub fn domain(&self) -> &DomainName {
        &self.parts.domain
    }

    pub fn book(&self) -> &RouteBook {
        &self.parts.book
    }

    fn applied(&self) -> u64 {
        *self.parts.silver.applied(&self.parts.domain).borrow()
    }

    pub async fn status(&self) -> Result<Status, StoreError> {
        let (next, dead_letters) = (self.parts.book.position().await?, self.parts.book.dead_letters_open().await?);
        let size = self.parts.journal.log().size();
        let behind = next.map_or(0, |next| size.saturating_sub(next));
        Ok(Status { next, behind, dead_letters, ..self.shown.lock().clone() })
    }

    /// Works until told to stop. A message under way is finished, or sent again by the next run.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        let mut applied = self.parts.silver.applied(&self.parts.domain);
        let (mut backoff, mut is_alarmed) = (BACKOFF_MIN, false);
        loop {
            applied.mark_unchanged();
            let pause = tokio::select! {
                biased;
                () = &mut stop => return,
                step = self.step() => match step {
                    Ok(true) => {
                        backoff = BACKOFF_MIN;
                        self.shown.lock().trouble = None;
                        continue;
                    }
                    Ok(false) => None,
                    Err(error) => {
                        self.trouble(error.to_string());
                        let pause = backoff;
                        backoff = (backoff * 2).min(BACKOFF_MAX);
                        Some(pause)
                    }
                },
            };
            is_alarmed = self.alarm(is_alarmed).await;
            tokio::select! {
                () = &mut stop => return,
                // A failure waits its time whatever comes; with nothing to do, the next entry ends the wait.
                () = tokio::time::sleep(pause.unwrap_or(BACKOFF_MAX)) => {}
                _ = applied.changed(), if pause.is_none() => {}
            }
        }
    }

    fn trouble(&self, trouble: String) {
        let mut shown = self.shown.lock();
        if shown.trouble.as_ref() != Some(&trouble) {
            tracing::warn!(target: "ward::alarm", route = %self.parts.route.name, "{trouble}");
        }
        shown.trouble = Some(trouble);
    }

    /// One line when it falls behind the mark, one when it has caught up.
    async fn alarm(&self, was: bool) -> bool {
        let Ok(Status { behind, .. }) = self.status().await else { return was };
        let is = behind > self.parts.route.behind_max;
        if is != was {
            let word = if is { "is behind its mark" } else { "has caught up" };
            tracing::warn!(target: "ward::alarm", route = %self.parts.route.name, behind, "a route {word}");
        }
        is
    }

    /// A batch of entries, one after the other; false when there is nothing to do.
    pub async fn step(&self) -> Result<bool, WorkError> {
        let Some(from) = self.parts.book.position().await? else { return Err(WorkError::NotBegun) };
        let left = usize::try_from(self.applied().saturating_sub(from)).unwrap_or(usize::MAX);
        if left == 0 {
            return Ok(false);
        }
        let permit = self.permit()?;
        let entries = self.parts.journal.read(&permit, from, left.min(BATCH_ENTRIES_MAX), BATCH_BYTES_MAX).await?;
        // `at` is durable, `next` is done: what is passed over is written down with the next that is not.
        let (mut at, mut next) = (from, from);
        for entry in entries {
            let fate = match entry {
                Ok(entry) => self.deliver_until_decided(&permit, &entry).await,
                Err(JournalError::Destroyed { .. }) => Ok(Fate::Passed),
                Err(JournalError::Unreadable { .. }) => Ok(Fate::Dead {
                    code: "unreadable".into(),
                    reason: "the entry cannot be opened; `ward doctor` says what it is".into(),
                }),
                Err(error) => Err(error.into()),
            };
            match fate {
                Ok(Fate::Passed) => next += 1,
                Ok(fate) => {
                    let delivered = fate == Fate::Delivered;
                    let dead = match fate {
                        Fate::Dead { code, reason } => vec![self.letter(next, code, reason)],
                        _ => Vec::new(),
                    };
                    self.parts.book.advance(at, next + 1, &dead, delivered).await?;
                    (at, next) = (next + 1, next + 1);
                }
                Err(error) => {
                    if next > at {
                        self.parts.book.advance(at, next, &[], false).await?;
                    }
                    return Err(error);
                }
            }
        }
        if next > at {
            self.parts.book.advance(at, next, &[], false).await?;
        }
        Ok(true)
    }

    fn letter(&self, position: u64, code: String, reason: String) -> DeadLetter {
        tracing::warn!(target: "ward::alarm", route = %self.parts.route.name, position, code, "a message became a dead letter");
        DeadLetter { position, at: self.parts.clock.now(), code, reason, resolved: false }
    }

    fn permit(&self) -> Result<Permit<Read>, WorkError> {
        self.parts
            .gate
            .node_permit_for::<Read>("ship", &self.parts.domain, Layer::Bronze, self.parts.route.purpose)
            .map_err(|refusal| WorkError::Gate(refusal.to_string()))
    }

    /// Sends the entry as often as the route allows, if it is for this route.
    async fn deliver_until_decided(&self, permit: &Permit<Read>, entry: &JournalEntry) -> Result<Fate, WorkError> {
        let mut tries = 0;
        let mut pause = BACKOFF_MIN;
        loop {
            match self.deliver(permit, entry).await {
                Err(WorkError::Send(SendError::Rejected(code))) => return Ok(self.refused(code)),
                Err(WorkError::Send(SendError::Failed(code))) => {
                    tries += 1;
                    if tries >= self.parts.route.tries {
                        return Ok(self.refused(code));
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(BACKOFF_MAX);
                }
                other => return other,
            }
        }
    }

    fn refused(&self, code: String) -> Fate {
        let reason = format!("the receiver answered {code}: see its log, then send the message again");
        Fate::Dead { code, reason }
    }

    async fn deliver(&self, permit: &Permit<Read>, entry: &JournalEntry) -> Result<Fate, WorkError> {
        let Parts { route, domain, .. } = &self.parts;
        if entry.envelope.content != Content::Hl7v2 || entry.envelope.shadow {
            return Ok(Fate::Passed);
        }
        let Ok(message) = hl7v2::parse(entry.body.expose(), &self.parts.limits) else { return Ok(Fate::Passed) };
        if !route.takes(&entry.envelope.source, &message) {
            return Ok(Fate::Passed);
        }
        let bytes = asking_for_an_answer(route.changed(&message), &self.parts.limits);
        let control_id =
            hl7v2::parse(&bytes, &self.parts.limits).map(|message| message.control_id()).unwrap_or_default();
        let patients = self.parts.book.patients_of(entry.index).await?;
        let mut destination = self.destination.lock().await;
        // Somebody is there: only now it is said to have left.
        destination.ready().await?;
        let access = Access::of(permit, Action::Export, &Origin::new("route", None, entry.envelope.trace()))
            .what(format!("route {} entry {}", route.name, entry.index))
            .rows(1)
            .patients(domain, patients.into_iter().map(|patient| patient.0))
            .sent_to(self.parts.recipient.clone(), route.to.to_string());
        let held = Held::under(permit, bytes);
        let release = match self.parts.gate.node_release(permit, route.agreement.as_deref(), access).await {
            Ok(release) => release,
            Err(NotReleased::Hidden) => return Ok(Fate::Passed),
            Err(error) => return Err(WorkError::NotReleased(error)),
        };
        let bytes = held.release(release).map_err(|error| WorkError::Gate(error.to_string()))?;
        destination.send(&bytes, &control_id, entry.index).await?;
        self.shown.lock().delivered += 1;
        Ok(Fate::Delivered)
    }

    /// Sends the message of a dead letter again, now, whatever the route is at.
    pub async fn send_again(&self, position: u64) -> Result<(), WorkError> {
        let permit = self.permit()?;
        let entry = self.parts.journal.read(&permit, position, 1, BATCH_BYTES_MAX).await?.pop();
        let entry = entry.ok_or(WorkError::NoSuchEntry)??;
        match self.deliver(&permit, &entry).await? {
            Fate::Delivered => {}
            Fate::Passed | Fate::Dead { .. } => return Err(WorkError::NoSuchEntry),
        }
        self.parts.book.resolve(position).await?;
        Ok(())
    }
}

/// A message in enhanced mode may ask for no accept answer, or only for one to errors. A route must know, so it asks; the
/// application answer would come to us and not to the first sender, so it asks for none.
pub fn asking_for_an_answer(bytes: Vec<u8>, limits: &Limits) -> Vec<u8> {
    let Ok(message) = hl7v2::parse(&bytes, limits) else { return bytes };
    if hl7v2::ack_mode(&message) == hl7v2::AckMode::Original {
        return bytes;
    }
    let mut edit = hl7v2::edit::Edit::of(&message);
    for (spot, text) in [("MSH-15", "AL"), ("MSH-16", "NE")] {
        if let Ok(spot) = spot.parse() {
            edit.set(&spot, text);
        }
    }
    edit.bytes()
}
