//! Break-glass, decided on this node: request → confirmation → a session that opens one patient for at most four hours
//! → review.
//!
//! 1. [`Gate::request_emergency`]: policy decides, the reason is sealed, the request is a fact of the control log.
//! 2. [`Gate::confirm_emergency`]: the same clinician, with a younger access token, within two minutes. The fact of the
//!    session is the privacy officer's notice: it opens a review.
//! 3. [`crate::Ask::under`] asks for data within the session, through any door. The audit record of each answer names it.
//! 4. [`Gate::end_emergency`], or time, ends it. [`Gate::review_emergency`] closes the review.
//!
//! Needs no other node: policy, control log and audit log are this node's own (DESIGN laws 8 and 12). Never here: the
//! rules (see `policy`, `emergency.cedar`), how facts are stored (see [`EmergencyBook`]).

mod book;
mod state;

use std::sync::{Arc, OnceLock};

use base::{
    Clock, DomainName, Layer, LogicalId, Manage, NotCovered, Ordinal, Permit, PrincipalId, Read, Sensitivity, Timestamp,
};
use parking_lot::Mutex;
use policy::Action;
use serde::Serialize;

pub use book::{About, Category, EmergencyBook, MemoryBook, SessionId, Verdict};
pub use state::{EmergencyCounts, EmergencyLimits};

use crate::audit::record::Outcome;
use crate::cache::Cache;
use crate::caller::{Caller, Origin, Outage};
use crate::decide::{Ask, Refusal, RefusalKind};
use crate::emergency::book::Fact;
use crate::emergency::state::{OnwardClock, Phase, Session, Sessions};
use crate::gate::{Gate, governance};
use crate::release::Held;

/// A reason or a note; longer is a story.
const TEXT_BYTES_MAX: usize = 4096;
/// A session's use is written down at most this often, so its time is lost over a restart by no more than this.
const USED_MS: i64 = 60_000;
const SESSIONS_OF_DECISIONS_MAX: usize = 16_384;

/// What a clinician asks for.
#[derive(Debug, Clone)]
pub struct EmergencyRequest {
    pub domain: DomainName,
    pub patient: Ordinal,
    /// Id of the Patient resource.
    pub resource: LogicalId,
    pub category: Category,
    pub reason: String,
}

/// A request or session as its clinician needs to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EmergencyPass {
    pub session: SessionId,
    pub state: &'static str,
    /// Until then the request must be confirmed, or the session is open.
    #[serde(serialize_with = "instant")]
    pub until: Timestamp,
}

/// A session as a privacy officer reads it.
#[derive(Debug, Clone, Serialize)]
pub struct EmergencyLine {
    pub session: SessionId,
    pub principal: PrincipalId,
    pub domain: DomainName,
    /// Id of the Patient resource.
    pub patient: LogicalId,
    pub category: &'static str,
    /// `None` after the patient was erased.
    pub reason: Option<String>,
    pub state: &'static str,
    pub requested: String,
    pub started: Option<String>,
    pub until: Option<String>,
    pub ended: Option<String>,
    /// Substance use disorder records were open in it (42 CFR 2.51).
    pub part2: bool,
    pub overdue: bool,
    pub review: Option<ReviewLine>,
}

#[derive(Debug, Clone, Serialize)]
pub struct ReviewLine {
    pub at: String,
    pub by: PrincipalId,
    pub verdict: Verdict,
    pub note: Option<String>,
}

fn instant<S: serde::Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(at)
}

/// An open session, as a decision needs it.
#[derive(Debug, Clone)]
pub(crate) struct Active {
    pub id: SessionId,
    pub domain: DomainName,
    pub patient: Ordinal,
    /// Milliseconds that are left of it.
    pub left_ms: i64,
}

/// The gate's part that knows sessions. Closed until [`Gate::open_emergencies`].
pub(crate) struct Emergencies {
    clock: OnwardClock,
    opened: OnceLock<Opened>,
    sessions: Mutex<Sessions>,
    /// One writer, so that the order of facts is the order of states.
    writing: tokio::sync::Mutex<()>,
    of_decision: Cache<u64, SessionId>,
}

struct Opened {
    book: Arc<dyn EmergencyBook>,
    limits: EmergencyLimits,
}

impl Emergencies {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Emergencies {
            clock: OnwardClock::new(clock),
            opened: OnceLock::new(),
            sessions: Mutex::default(),
            writing: tokio::sync::Mutex::new(()),
            of_decision: Cache::new(SESSIONS_OF_DECISIONS_MAX),
        }
    }

    fn opened(&self) -> Result<&Opened, Outage> {
        self.opened.get().ok_or(Outage("control log"))
    }

    /// Durable first, then in force.
    async fn write(&self, fact: Fact) -> Result<(), Outage> {
        let body = serde_json::to_vec(&fact).map_err(|_| Outage("control log"))?;
        self.opened()?.book.append(fact.kind(), &body).await?;
        self.sessions.lock().apply(fact);
        Ok(())
    }

    fn session(&self, text: &str) -> Option<Session> {
        self.sessions.lock().get(SessionId::parse(text)?).cloned()
    }

    /// The caller's own session, when it is open.
    pub fn active(&self, caller: &Caller, text: &str) -> Result<Active, Refusal> {
        let limits = &self.opened()?.limits;
        let forbidden = |reason: &str| Refusal::new(RefusalKind::Forbidden, reason);
        let session = self
            .session(text)
            .filter(|session| session.principal == *caller.principal())
            .ok_or_else(|| forbidden("you have no such break-glass session; ask for one"))?;
        let now = self.clock.now();
        match (session.phase(now, limits), &session.granted) {
            (Phase::Open, Some(granted)) => Ok(Active {
                id: session.id,
                domain: session.domain,
                patient: session.patient,
                left_ms: granted.until.ms() - now.ms(),
            }),
            (Phase::Requested, _) => Err(forbidden("this break-glass request is not confirmed yet")),
            _ => Err(forbidden("this break-glass session is over; ask for another if the emergency goes on")),
        }
    }

    /// Keeps what a release must know of an emergency's decision, and writes down that the session is in use.
    pub async fn used(&self, decision: u64, id: SessionId) -> Result<(), Outage> {
        self.of_decision.insert(decision, id);
        let now = self.clock.now();
        let due = |session: &Session| now >= session.used.plus_ms(USED_MS);
        if !self.sessions.lock().get(id).is_some_and(due) {
            return Ok(());
        }
        let _one = self.writing.lock().await;
        // Another request may have written it meanwhile.
        if self.sessions.lock().get(id).is_some_and(due) {
            self.write(Fact::Used { id, at: now }).await?;
        }
        Ok(())
    }

    /// The session of a decision, while it is open. `None` releases nothing.
    pub fn open_of(&self, decision: u64) -> Option<SessionId> {
        let id = self.of_decision.get(&decision)?;
        let limits = &self.opened.get()?.limits;
        let now = self.clock.now();
        self.sessions.lock().get(id).filter(|session| session.phase(now, limits) == Phase::Open).map(|_| id)
    }
}

/// How an audit record names a session.
pub(crate) fn job_of(id: impl std::fmt::Display) -> String {
    format!("break-glass/{id}")
}

impl Gate {
    /// Replays all facts of break-glass, and accepts requests from then on. Call it before a door opens.
    pub async fn open_emergencies(&self, book: Arc<dyn EmergencyBook>, limits: EmergencyLimits) -> Result<(), Outage> {
        let emergencies = self.emergencies();
        for body in book.facts().await? {
            let fact: Fact = serde_json::from_slice(&body).map_err(|_| Outage("record of break-glass sessions"))?;
            emergencies.clock.at_least(fact.at());
            emergencies.sessions.lock().apply(fact);
        }
        emergencies.sessions.lock().forget(emergencies.clock.now(), &limits);
        let _ = emergencies.opened.set(Opened { book, limits });
        Ok(())
    }

    /// For metrics and the privacy officer's attention.
    pub fn emergency_counts(&self) -> EmergencyCounts {
        let emergencies = self.emergencies();
        let now = emergencies.clock.now();
        let Some(opened) = emergencies.opened.get() else { return EmergencyCounts::default() };
        emergencies.sessions.lock().counts(now, &opened.limits)
    }

    /// First step. Decided by policy, durable in audit and control log; opens nothing yet.
    pub async fn request_emergency(
        &self,
        caller: &Caller,
        request: EmergencyRequest,
        origin: &Origin,
    ) -> Result<EmergencyPass, Refusal> {
        let ask = ask_for(&request.domain, request.patient, origin);
        let asked = self.check_request(caller, &request).and_then(|()| self.decide::<Read>(caller, &ask, 0));
        // The erased are no patients any more.
        let asked = asked.and_then(|grant| match grant.patients.contains(request.patient) {
            true => Ok(()),
            false => Err(Refusal::new(RefusalKind::Invalid, "there is no such patient here")),
        });
        if let Err(refusal) = asked {
            return Err(self.refused(caller, &ask, refusal).await);
        }
        let id = SessionId(self.random());
        self.emergency_record(caller, &ask, id, Outcome::Served, &format!("asked for: {}", request.category.code()))
            .await?;
        let emergencies = self.emergencies();
        let Opened { book, limits } = emergencies.opened()?;
        let _one = emergencies.writing.lock().await;
        let at = emergencies.clock.now();
        emergencies.sessions.lock().forget(at, limits);
        let EmergencyRequest { domain, patient, resource, category, reason } = request;
        let about = About { domain: &domain, patient: patient.0, session: id, part: "reason" };
        let reason = base::hex::encode(&book.seal(about, reason.trim()).await?);
        let fact = Fact::Requested {
            id,
            at,
            principal: caller.principal().clone(),
            domain,
            patient: patient.0,
            resource,
            category,
            reason,
            wall: self.now(),
            token: caller.token.map(|token| base::hex::encode(&token)),
        };
        emergencies.write(fact).await?;
        Ok(EmergencyPass { session: id, state: Phase::Requested.code(), until: at.plus_ms(limits.confirm_ms) })
    }

    fn check_request(&self, caller: &Caller, request: &EmergencyRequest) -> Result<(), Refusal> {
        let emergencies = self.emergencies();
        let limits = &emergencies.opened()?.limits;
        check_text("reason", &request.reason)?;
        let now = emergencies.clock.now();
        let sessions = emergencies.sessions.lock();
        let living = |session: &&Session| matches!(session.phase(now, limits), Phase::Requested | Phase::Open);
        if sessions.of(caller.principal()).filter(living).count() >= limits.open_max {
            let reason = "you have too many open break-glass requests and sessions; end those that are not needed";
            return Err(Refusal::new(RefusalKind::Forbidden, reason));
        }
        Ok(())
    }

    /// Second step, by the same clinician with a younger access token. When this returns the session is open, and the
    /// notice to the privacy officer is durable.
    pub async fn confirm_emergency(
        &self,
        caller: &Caller,
        id: &str,
        origin: &Origin,
    ) -> Result<EmergencyPass, Refusal> {
        let emergencies = self.emergencies();
        let Opened { limits, .. } = emergencies.opened()?;
        let _one = emergencies.writing.lock().await;
        let session = self.own(caller, id, origin).await?;
        let ask = ask_for(&session.domain, session.patient, origin);
        let at = emergencies.clock.now();
        let decided =
            check_confirmation(caller, &session, at, limits).and_then(|()| self.decide::<Read>(caller, &ask, 0));
        let grant = match decided {
            Ok(grant) => grant,
            Err(refusal) => return Err(self.refused(caller, &ask, refusal).await),
        };
        let overdue = emergencies.sessions.lock().of(caller.principal()).any(|other| other.overdue(at, limits));
        let longest = if overdue { limits.overdue_session_ms } else { limits.session_ms };
        let until = at.plus_ms(longest.min(EmergencyLimits::SESSION_MS_MAX));
        let what = format!("confirmed: {}", session.category.code());
        self.emergency_record(caller, &ask, session.id, Outcome::Granted, &what).await?;
        let part2 = Sensitivity::PART2.is_within(grant.sensitivity);
        emergencies.write(Fact::Confirmed { id: session.id, at, until, part2, policies: grant.policies }).await?;
        tracing::warn!(target: "ward::alarm", session = %session.id, principal = %session.principal, overdue,
            "break-glass: a session is open and waits for its review by a privacy officer");
        Ok(EmergencyPass { session: session.id, state: Phase::Open.code(), until })
    }

    /// Ends the caller's own request or session before its time.
    pub async fn end_emergency(&self, caller: &Caller, id: &str, origin: &Origin) -> Result<EmergencyPass, Refusal> {
        let emergencies = self.emergencies();
        let _one = emergencies.writing.lock().await;
        let session = self.own(caller, id, origin).await?;
        let ask = ask_for(&session.domain, session.patient, origin);
        self.emergency_record(caller, &ask, session.id, Outcome::Served, "ended").await?;
        let at = emergencies.clock.now();
        if session.ended.is_none() {
            emergencies.write(Fact::Ended { id: session.id, at, by: caller.principal().clone() }).await?;
        }
        Ok(EmergencyPass { session: session.id, state: Phase::Over.code(), until: at })
    }

    /// Closes a session's review. The permit is for managing break-glass; nobody reviews their own session.
    pub async fn review_emergency(
        &self,
        permit: &Permit<Manage>,
        id: &str,
        verdict: Verdict,
        note: &str,
    ) -> Result<SessionId, Refusal> {
        permit.covers_kind(&governance(), Layer::Governance, REVIEWS).map_err(not_covered)?;
        let invalid = |reason: &str| Refusal::new(RefusalKind::Invalid, reason);
        check_text("note", note)?;
        let emergencies = self.emergencies();
        let Opened { book, .. } = emergencies.opened()?;
        let _one = emergencies.writing.lock().await;
        let session = emergencies.session(id).filter(|session| session.granted.is_some());
        let session = session.ok_or_else(|| invalid("there is no such break-glass session"))?;
        let by = permit.grant().principal.clone();
        if by == session.principal {
            return Err(Refusal::new(RefusalKind::Forbidden, "nobody reviews their own break-glass session"));
        }
        if session.review.is_some() {
            return Err(invalid("this break-glass session was reviewed already"));
        }
        let at = emergencies.clock.now();
        let note = base::hex::encode(&book.seal(session.about("note"), note.trim()).await?);
        // A review of an open session ends it: the officer has seen enough.
        if session.ended.is_none() {
            emergencies.write(Fact::Ended { id: session.id, at, by: by.clone() }).await?;
        }
        emergencies.write(Fact::Reviewed { id: session.id, at, by, verdict, note }).await?;
        Ok(session.id)
    }

    /// Sessions with their reasons, newest first. The permit is for the metadata of break-glass.
    pub async fn emergencies_of(
        &self,
        permit: &Permit<Read>,
        open_only: bool,
    ) -> Result<Held<Vec<EmergencyLine>>, Refusal> {
        permit.covers_kind(&governance(), Layer::Governance, REVIEWS).map_err(not_covered)?;
        let emergencies = self.emergencies();
        let Opened { book, limits } = emergencies.opened()?;
        let now = emergencies.clock.now();
        let wanted = |session: &&Session| session.granted.is_some() && !(open_only && session.review.is_some());
        let mut sessions: Vec<Session> = emergencies.sessions.lock().all().filter(wanted).cloned().collect();
        sessions.sort_by_key(|session| std::cmp::Reverse((session.requested, session.id)));
        let mut lines = Vec::with_capacity(sessions.len());
        for session in &sessions {
            lines.push(line(&**book, session, now, limits).await?);
        }
        Ok(Held::under(permit, lines))
    }

    /// The caller's own request or session; that there is none is on record.
    async fn own(&self, caller: &Caller, id: &str, origin: &Origin) -> Result<Session, Refusal> {
        let session = self.emergencies().session(id).filter(|session| session.principal == *caller.principal());
        match session {
            Some(session) => Ok(session),
            None => {
                let ask = Ask::new(Action::BreakGlass, &governance(), Layer::Silver, origin);
                let reason = "you have no such break-glass request or session; ask for one";
                Err(self.refused(caller, &ask, Refusal::new(RefusalKind::Forbidden, reason)).await)
            }
        }
    }

    async fn emergency_record(
        &self,
        caller: &Caller,
        ask: &Ask,
        id: SessionId,
        outcome: Outcome,
        what: &str,
    ) -> Result<(), Refusal> {
        let decision = self.next_decision();
        let mut record = self.record(caller, &ask.origin, ask.domain.clone(), ask.layer, outcome);
        record.decision = decision;
        record.policy_version = self.policy_version();
        record.purpose = Some(base::Purpose::EmergencyTreatment);
        record.action = ask.action.code().to_owned();
        record.what = format!("break-glass {what}");
        record.emergency = true;
        record.job = Some(job_of(id));
        self.name_patient(&mut record, ask);
        self.audit().append(vec![record]).await.map(drop).map_err(|_| crate::decide::unavailable(decision))
    }
}

/// The kind of [`Layer::Governance`] that reviews are.
pub const REVIEWS: &str = "break-glass";

fn ask_for(domain: &DomainName, patient: Ordinal, origin: &Origin) -> Ask {
    Ask::new(Action::BreakGlass, domain, Layer::Silver, origin).patient(patient)
}

fn not_covered(error: NotCovered) -> Refusal {
    Refusal::new(RefusalKind::Invalid, error.to_string())
}

fn check_text(what: &str, text: &str) -> Result<(), Refusal> {
    if text.trim().is_empty() || text.len() > TEXT_BYTES_MAX {
        let reason = format!("break-glass needs a {what} in words, at most {TEXT_BYTES_MAX} bytes");
        return Err(Refusal::new(RefusalKind::Invalid, reason));
    }
    Ok(())
}

/// The request waits, and the token is a new one: whoever found an open screen has the old one only.
fn check_confirmation(
    caller: &Caller,
    session: &Session,
    now: Timestamp,
    limits: &EmergencyLimits,
) -> Result<(), Refusal> {
    let forbidden = |reason: &str| Err(Refusal::new(RefusalKind::Forbidden, reason));
    match session.phase(now, limits) {
        Phase::Requested => {}
        Phase::Open => return forbidden("this break-glass request is confirmed already"),
        Phase::Lapsed => return forbidden("this break-glass request was not confirmed in time; ask again"),
        Phase::Over => return forbidden("this break-glass session is over; ask for another if the emergency goes on"),
    }
    let token = caller.token.map(|token| base::hex::encode(&token));
    // Tokens count in whole seconds (RFC 7519 §2).
    let older = caller.issued.ms().div_euclid(1000) < session.wall.ms().div_euclid(1000);
    if token.is_none() || token == session.token || older {
        return forbidden("a confirmation needs a new sign-in; get a new access token and confirm with that");
    }
    Ok(())
}

impl Session {
    fn about(&self, part: &'static str) -> About<'_> {
        About { domain: &self.domain, patient: self.patient.0, session: self.id, part }
    }
}

async fn opened_text(book: &dyn EmergencyBook, about: About<'_>, sealed: &str) -> Result<Option<String>, Outage> {
    book.open(about, &base::hex::decode(sealed).unwrap_or_default()).await
}

async fn line(
    book: &dyn EmergencyBook,
    session: &Session,
    now: Timestamp,
    limits: &EmergencyLimits,
) -> Result<EmergencyLine, Outage> {
    let granted = session.granted.as_ref();
    let review = match &session.review {
        None => None,
        Some(review) => Some(ReviewLine {
            at: review.at.to_string(),
            by: review.by.clone(),
            verdict: review.verdict,
            note: opened_text(book, session.about("note"), &review.note).await?,
        }),
    };
    Ok(EmergencyLine {
        session: session.id,
        principal: session.principal.clone(),
        domain: session.domain.clone(),
        patient: session.resource.clone(),
        category: session.category.code(),
        reason: opened_text(book, session.about("reason"), &session.reason).await?,
        state: session.phase(now, limits).code(),
        requested: session.requested.to_string(),
        started: granted.map(|granted| granted.at.to_string()),
        until: granted.map(|granted| granted.until.to_string()),
        ended: session.ended.map(|at| at.to_string()),
        part2: granted.is_some_and(|granted| granted.part2),
        overdue: session.overdue(now, limits),
        review,
    })
}
