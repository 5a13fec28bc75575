//! A route at work: reads on from its position, sends, moves on.

use std::sync::Arc;
use std::time::Duration;

use base::{Clock, DomainName, Limits, Permit, Read};
use clinical::JournalError;
use gate::{Access, Caller, Gate, Held, NotReleased, Origin, RefusalKind, RouteRecord, Sending};
use parking_lot::Mutex;
use policy::Action;
use serde::Serialize;
use store::{DeadLetter, RouteBook, Silver, StoreError};

use crate::deid::{Deidentifier, Left};
use crate::feed::{Feed, Found, Offer};
use crate::route::{OnRefused, Route};
use crate::send::{Destination, SendError};

const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// What a route is made of.
pub struct Parts {
    pub domain: DomainName,
    pub route: Route,
    pub feed: Feed,
    pub silver: Silver,
    pub book: RouteBook,
    pub gate: Gate,
    /// The route as the gate knows it.
    pub record: RouteRecord,
    pub deidentifier: Option<Deidentifier>,
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
    /// Entries of the journal, or changes of silver, not looked at yet.
    pub behind: u64,
    /// Since the node started.
    pub delivered: u64,
    pub dead_letters: u64,
    /// Messages that policy withheld.
    pub refused: u64,
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
    /// As long as that is so nothing leaves, whoever the patient is.
    #[error("nothing leaves: {0}")]
    NotNow(String),
    #[error("{what} may not go: {reason}")]
    Held { what: String, reason: String },
    #[error("there is no such entry to send again")]
    NoSuchEntry,
    #[error("the route has not begun: say from where it goes on")]
    NotBegun,
}

/// What became of one entry.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Delivered,
    /// Not for this route, or erased.
    Passed,
    Dead {
        code: String,
        reason: String,
    },
    /// It may not go there.
    Refused {
        reason: String,
        by: By,
    },
}

#[derive(Debug, PartialEq, Eq)]
enum By {
    Policy,
    /// The patient is hidden or erased: nobody waits for that.
    Hiding,
}

impl Fate {
    fn hidden() -> Fate {
        Fate::Refused { reason: "a patient it names is shown to nobody now".into(), by: By::Hiding }
    }
}

pub struct Worker {
    parts: Parts,
    destination: tokio::sync::Mutex<Destination>,
    shown: Mutex<Status>,
    /// The message that the route waits before, because policy refuses it.
    held: Mutex<Option<(u64, String)>>,
}

impl Worker {
    pub fn new(parts: Parts, destination: Destination) -> Self {
        let shown = Status {
            name: parts.route.name.to_string(),
            domain: parts.domain.to_string(),
            to: parts.route.to.to_string(),
            ..Status::default()
        };
        Worker { parts, destination: destination.into(), shown: Mutex::new(shown), held: Mutex::default() }
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

    /// `entry 7` of the journal, or `change 7` of silver.
    fn name_of(&self, position: u64) -> String {
        format!("{} {position}", self.parts.feed.word())
    }

    /// Where it would begin, did it begin now.
    pub async fn end(&self) -> Result<u64, StoreError> {
        self.parts.feed.end(&self.parts.silver, &self.parts.domain).await
    }

    pub async fn status(&self) -> Result<Status, StoreError> {
        let next = self.parts.book.position().await?;
        let (dead_letters, refused) = self.parts.book.open_letters().await?;
        let size = self.end().await?;
        let behind = next.map_or(0, |next| size.saturating_sub(next));
        Ok(Status { next, behind, dead_letters, refused, ..self.shown.lock().clone() })
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

    /// A batch, one after the other; false when there is nothing to do.
    pub async fn step(&self) -> Result<bool, WorkError> {
        let Parts { feed, silver, domain, book, .. } = &self.parts;
        let Some(from) = book.position().await? else { return Err(WorkError::NotBegun) };
        let upto = feed.readable(silver, domain).await?;
        if from >= upto {
            return Ok(false);
        }
        let batch = feed.read(&self.permit()?, silver, domain, from, upto).await?;
        // `at` is durable, `next` is done: what is passed over is written down with the next that is not.
        let (mut at, mut next) = (from, from);
        for (position, found) in batch.items {
            next = next.max(position);
            let fate = match found {
                Found::Message(offer) => self.deliver_until_decided(&offer).await,
                Found::Nothing => Ok(Fate::Passed),
                Found::Unreadable => Ok(Fate::Dead {
                    code: "unreadable".into(),
                    reason: format!("the {} cannot be opened; `ward doctor` says what it is", feed.word()),
                }),
            };
            match fate {
                Ok(Fate::Passed) => next = position + 1,
                Ok(fate) => {
                    let delivered = fate == Fate::Delivered;
                    let dead = match fate {
                        Fate::Dead { code, reason } => {
                            tracing::warn!(target: "ward::alarm", route = %self.parts.route.name, position, code,
                                "a message became a dead letter");
                            vec![self.letter(position, code, reason)]
                        }
                        Fate::Refused { reason, .. } => vec![self.letter(position, store::REFUSED.into(), reason)],
                        _ => Vec::new(),
                    };
                    book.advance(at, position + 1, &dead, delivered).await?;
                    (at, next) = (position + 1, position + 1);
                }
                Err(error) => {
                    if next > at {
                        book.advance(at, next, &[], false).await?;
                    }
                    return Err(error);
                }
            }
        }
        if batch.next > at {
            book.advance(at, batch.next, &[], false).await?;
        }
        Ok(true)
    }

    fn letter(&self, position: u64, code: String, reason: String) -> DeadLetter {
        DeadLetter { position, at: self.parts.clock.now(), code, reason, resolved: false }
    }

    /// For reading only: what leaves has a permit of its own.
    fn permit(&self) -> Result<Permit<Read>, WorkError> {
        self.parts
            .gate
            .node_permit_for::<Read>("ship", &self.parts.domain, self.parts.feed.layer(), self.parts.route.purpose)
            .map_err(|refusal| WorkError::Gate(refusal.to_string()))
    }

    /// Sends the message as often as the route allows, if it is for this route.
    async fn deliver_until_decided(&self, offer: &Offer) -> Result<Fate, WorkError> {
        let mut tries = 0;
        let mut pause = BACKOFF_MIN;
        loop {
            match self.deliver(offer).await {
                Err(WorkError::Send(SendError::Rejected(code))) => return Ok(self.rejected(code)),
                Err(WorkError::Send(SendError::Failed(code))) => {
                    tries += 1;
                    if tries >= self.parts.route.tries {
                        return Ok(self.rejected(code));
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(BACKOFF_MAX);
                }
                Ok(Fate::Refused { reason, by: By::Policy }) if self.parts.route.on_refused == OnRefused::Hold => {
                    *self.held.lock() = Some((offer.position, reason.clone()));
                    return Err(WorkError::Held { what: self.name_of(offer.position), reason });
                }
                other => return other,
            }
        }
    }

    fn rejected(&self, code: String) -> Fate {
        let reason = format!("the receiver answered {code}: see its log, then send the message again");
        Fate::Dead { code, reason }
    }

    async fn deliver(&self, offer: &Offer) -> Result<Fate, WorkError> {
        let Parts { route, domain, gate, .. } = &self.parts;
        let Ok(message) = hl7v2::parse(offer.message.expose(), &self.parts.limits) else { return Ok(Fate::Passed) };
        if !self.parts.feed.gives(&message.info().code) || !route.takes(&offer.source, &message) {
            return Ok(Fate::Passed);
        }
        let caller = gate.route(&self.parts.record).map_err(|refusal| WorkError::NotNow(refusal.to_string()))?;
        let mut about = match &offer.about {
            Some(about) => about.clone(),
            None => self.parts.book.about(offer.position).await?,
        };
        about.patients.retain(|patient| *patient != base::Ordinal::UNKNOWN);
        if about.patients.is_empty() && ["PID", "MRG"].iter().any(|id| message.segment(id).is_some()) {
            let reason =
                "whom it is about is not known, so nobody can say that it may go: see what was set aside of it";
            return Ok(Fate::Dead { code: "unidentified".into(), reason: reason.into() });
        }
        let bytes = match self.made_ready(&message, &about.patients) {
            Ok(bytes) => bytes,
            Err(left) => return Ok(Fate::Dead { code: "identifying".into(), reason: left.to_string() }),
        };
        let Ok(control_id) = hl7v2::parse(&bytes, &self.parts.limits).map(|message| message.control_id()) else {
            let reason = "with the route's changes it is no message any more: see how its header came in";
            return Ok(Fate::Dead { code: "malformed".into(), reason: reason.into() });
        };
        let mut destination = self.destination.lock().await;
        // Somebody is there: only now it is said to have left.
        destination.ready().await?;
        let origin = Origin::new("route", None, offer.trace);
        let how = self.parts.deidentifier.as_ref().map(|how| format!(", {}", how.name())).unwrap_or_default();
        let (what, to) = (format!("route {} {}{how}", route.name, self.name_of(offer.position)), route.to.to_string());
        let sending = Sending {
            domain,
            kinds: &about.kinds,
            patients: &about.patients,
            sensitivity: about.sensitivity,
            profile: self.parts.deidentifier.as_ref().map(|how| how as &dyn gate::Profile),
            origin: &origin,
            what: &what,
            recipient: &self.parts.recipient,
            destination: &to,
        };
        let permit = match self.permit_to_send(&caller, sending, offer.position).await? {
            Ok(permit) => permit,
            Err(refused) => return Ok(refused),
        };
        let access = Access::of(&permit, Action::Export, &origin)
            .what(what)
            .rows(1)
            .patients(domain, about.patients.iter().map(|patient| patient.0))
            .sent_to(self.parts.recipient.clone(), to);
        let held = Held::under(&permit, bytes);
        let release = match gate.release(&caller, access).await {
            Ok(release) => release,
            Err(NotReleased::Hidden) => return Ok(Fate::hidden()),
            Err(error) => return Err(WorkError::NotReleased(error)),
        };
        let bytes = held.release(release).map_err(|error| WorkError::Gate(error.to_string()))?;
        destination.send(&bytes, &control_id, offer.position).await?;
        self.shown.lock().delivered += 1;
        Ok(Fate::Delivered)
    }

    /// Changed, de-identified, and asking for an answer.
    fn made_ready(&self, message: &hl7v2::Message<'_>, patients: &[base::Ordinal]) -> Result<Vec<u8>, Left> {
        let Parts { route, limits, .. } = &self.parts;
        let mut bytes = route.changed(message);
        if let Some(deidentifier) = &self.parts.deidentifier {
            let changed = hl7v2::parse(&bytes, limits).map_err(|_| Left { place: "MSH".into() })?;
            let now = self.parts.clock.now();
            let made = deidentifier.apply(&changed, message, patients, now)?;
            drop(changed);
            bytes = made;
        }
        Ok(asking_for_an_answer(bytes, limits))
    }

    /// The inner error is what becomes of a message that may not go.
    async fn permit_to_send(
        &self,
        caller: &Caller,
        sending: Sending<'_>,
        position: u64,
    ) -> Result<Result<Permit<Read>, Fate>, WorkError> {
        let gate = &self.parts.gate;
        // One that is held was refused on record already; it is asked about in earnest when the answer is another.
        let held = self.held.lock().clone().filter(|(before, _)| *before == position);
        if let Some((_, reason)) = held
            && !gate.would_permit_to_send(caller, sending)
        {
            let is_hidden = self.is_hidden(sending.patients)?;
            return Ok(Err(if is_hidden { Fate::hidden() } else { Fate::Refused { reason, by: By::Policy } }));
        }
        match gate.permit_to_send(caller, sending).await {
            Ok(permit) => Ok(Ok(permit)),
            Err(refusal) if refusal.kind != RefusalKind::Forbidden => Err(WorkError::Gate(refusal.to_string())),
            Err(_) if self.is_hidden(sending.patients)? => Ok(Err(Fate::hidden())),
            Err(refusal) => {
                let by = refusal.policies.join(", ");
                let by = if by.is_empty() { String::new() } else { format!(" ({by})") };
                Ok(Err(Fate::Refused { reason: format!("{refusal}{by}"), by: By::Policy }))
            }
        }
    }

    fn is_hidden(&self, patients: &[base::Ordinal]) -> Result<bool, WorkError> {
        let hidden = self.parts.gate.is_any_hidden(&self.parts.domain, patients);
        hidden.map_err(|outage| WorkError::Gate(outage.to_string()))
    }

    /// Sends the message of a dead letter again, or one that was refused, now, whatever the route is at.
    pub async fn send_again(&self, position: u64) -> Result<(), WorkError> {
        let Parts { feed, silver, domain, .. } = &self.parts;
        let batch = feed.read(&self.permit()?, silver, domain, position, position + 1).await?;
        let offer = batch.items.into_iter().find_map(|(at, found)| match found {
            Found::Message(offer) if at == position => Some(offer),
            _ => None,
        });
        match self.deliver(&offer.ok_or(WorkError::NoSuchEntry)?).await? {
            Fate::Delivered => {}
            Fate::Refused { reason, .. } | Fate::Dead { reason, .. } => {
                return Err(WorkError::Held { what: self.name_of(position), reason });
            }
            Fate::Passed => return Err(WorkError::NoSuchEntry),
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
