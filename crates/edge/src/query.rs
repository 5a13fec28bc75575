//! Questions at the MLLP door: who fits these demographics (QBP^Q22), by which other numbers is somebody known
//! (QBP^Q23). Asked as the principal that the source names, decided by policy like any read, and on record for each
//! patient that the answer tells of before it leaves. Nothing is stored.
//!
//! Never here: how questions and answers are written (see `clinical::query`).

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use base::{Clock, DomainName, Entropy, Layer, Limits, LogicalId, Permit, Read, Timestamp, TraceContext};
use clinical::query::{Asks, Criterion, Query, Verdict, answer, may_not_ask};
use clinical::{Hl7Receiver, QueryRight, outbound};
use fhir::json::{ParseLimits, Value, parse};
use gate::{Access, Ask, Caller, Gate, Held, Origin, Outcome, RefusalKind};
use hl7v2::{AckError, code357};
use parking_lot::Mutex;
use policy::Action;
use store::{Resource, Silver, StoreError};

/// Patients of one answer, where the question names no number or a higher one.
const ANSWER_MAX: usize = 50;
/// Who fits in all; a question that finds more is too wide.
const MATCHES_MAX: usize = 1_000;
/// Answers with a rest, of one source; the oldest is forgotten.
const OPEN_MAX: usize = 64;
const OPEN_MS: i64 = 600_000;

/// What a source's questions are answered with.
pub struct QueryDesk {
    pub gate: Gate,
    pub silver: Silver,
    pub limits: Arc<Limits>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub right: QueryRight,
    /// System to namespace, as the source's `assigners` have it the other way round.
    assigners: BTreeMap<String, String>,
    open: Mutex<VecDeque<Open>>,
}

/// The rest of an answer.
struct Open {
    pointer: String,
    tag: String,
    all: usize,
    left: Vec<LogicalId>,
    until: Timestamp,
}

/// A question that failed: what the asker is told.
enum Trouble {
    Told(Verdict),
    Store(StoreError),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Trouble::Store(error)
    }
}

impl From<AckError> for Trouble {
    fn from(error: AckError) -> Self {
        Trouble::Told(Verdict::Wrong(error))
    }
}

fn wrong(field: u16, code357: u16, text: &str) -> Trouble {
    let error =
        AckError { segment: "QPD".into(), seq: 1, field, code357, text: text.to_owned(), ..AckError::default() };
    Trouble::Told(Verdict::Wrong(error))
}

fn unavailable() -> Verdict {
    let text = "the question cannot be answered now: ask again";
    Verdict::Wrong(AckError { code357: code357::INTERNAL, text: text.to_owned(), ..AckError::default() })
}

/// Answers, whether or not the source may ask. `desk` is there for those that may.
pub async fn respond(
    receiver: &Hl7Receiver,
    desk: Option<&QueryDesk>,
    clock: &dyn Clock,
    limits: &Limits,
    peer: IpAddr,
    trace: TraceContext,
    bytes: &[u8],
) -> Option<Vec<u8>> {
    let message = hl7v2::parse(bytes, limits).ok()?;
    let control_id = format!("Q{}", &trace.trace_id_hex()[..16]);
    let verdict = match (receiver.check_header(&message), desk) {
        (Err(error), _) => Verdict::Refused(error),
        (Ok(()), None) => Verdict::Refused(may_not_ask()),
        (Ok(()), Some(desk)) => match Query::read(&message, &receiver.source().assigners) {
            Err(error) => Verdict::Wrong(error),
            Ok(query) => {
                let asked = Question {
                    desk,
                    domain: receiver.domain(),
                    origin: Origin::new("mllp", Some(peer), Some(trace)),
                    hash: desk.gate.query_hash(question_text(&message).as_bytes()),
                    query: &query,
                };
                match asked.verdict().await {
                    // The answer is made only of what was released.
                    Ok(released) => released,
                    Err(Trouble::Told(verdict)) => verdict,
                    Err(Trouble::Store(error)) => {
                        tracing::error!(source = %receiver.source().name, %error, "a question could not be answered");
                        unavailable()
                    }
                }
            }
        },
    };
    Some(answer(&message, &verdict, &control_id, clock.now()))
}

/// What is asked, for the hash of the record: equal questions are seen to be equal.
fn question_text(message: &hl7v2::Message<'_>) -> String {
    message.segment("QPD").map(|qpd| qpd.field(3).raw().to_owned()).unwrap_or_default()
}

struct Question<'a> {
    desk: &'a QueryDesk,
    domain: &'a DomainName,
    origin: Origin,
    hash: [u8; 16],
    query: &'a Query,
}

impl QueryDesk {
    pub fn new(
        gate: Gate,
        silver: Silver,
        limits: Arc<Limits>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        right: QueryRight,
        assigners: &BTreeMap<String, String>,
    ) -> Self {
        let assigners = assigners.iter().map(|(namespace, system)| (system.clone(), namespace.clone())).collect();
        QueryDesk { gate, silver, limits, clock, entropy, right, assigners, open: Mutex::default() }
    }

    fn keep(&self, tag: &str, all: usize, left: Vec<LogicalId>) -> String {
        let mut bytes = [0; 16];
        self.entropy.fill(&mut bytes);
        let pointer = base::hex::encode(&bytes);
        let now = self.clock.now();
        let mut open = self.open.lock();
        open.retain(|one| one.until > now && one.tag != tag);
        while open.len() >= OPEN_MAX {
            open.pop_front();
        }
        let until = now.plus_ms(OPEN_MS);
        open.push_back(Open { pointer: pointer.clone(), tag: tag.to_owned(), all, left, until });
        pointer
    }

    fn take(&self, tag: &str, pointer: &str) -> Option<Open> {
        let now = self.clock.now();
        let mut open = self.open.lock();
        let at = open.iter().position(|one| one.tag == tag && one.pointer == pointer && one.until > now)?;
        open.remove(at)
    }

    fn forget(&self, tag: &str) {
        self.open.lock().retain(|one| one.tag != tag);
    }
}

impl Question<'_> {
    async fn verdict(&self) -> Result<Verdict, Trouble> {
        match &self.query.asks {
            Asks::Cancel => {
                self.desk.forget(&self.query.tag);
                let found = Verdict::Found { segments: String::new(), all: 0, here: 0, left: 0, pointer: None };
                Ok(found)
            }
            Asks::Demographics(criteria) => self.demographics(criteria).await,
            Asks::Identifiers { system, value } => self.identifiers(system, value).await,
        }
    }

    fn caller(&self) -> Result<Caller, Trouble> {
        let QueryRight { principal, purpose } = &self.desk.right;
        self.desk.gate.bound(principal, *purpose, self.domain).map_err(|error| {
            tracing::warn!(%principal, %error, "a source may not ask as the principal that it names");
            Trouble::Told(Verdict::Refused(may_not_ask()))
        })
    }

    async fn permit(&self, caller: &Caller) -> Result<Permit<Read>, Trouble> {
        let ask = Ask::new(Action::Search, self.domain, Layer::Silver, &self.origin).kind("Patient");
        let permit = self.desk.gate.permit::<Read>(caller, ask).await.map_err(|refusal| match refusal.kind {
            RefusalKind::Unavailable => Trouble::Told(unavailable()),
            _ => Trouble::Told(Verdict::Refused(may_not_ask())),
        })?;
        // An answer of PID shows a value whole or not at all.
        if permit.grant().masks.is_empty() { Ok(permit) } else { Err(Trouble::Told(Verdict::Refused(may_not_ask()))) }
    }

    async fn demographics(&self, criteria: &[Criterion]) -> Result<Verdict, Trouble> {
        let caller = self.caller()?;
        let permit = self.permit(&caller).await?;
        let (all, mut left) = match &self.query.pointer {
            Some(pointer) => {
                let open = self.desk.take(&self.query.tag, pointer).ok_or_else(|| {
                    let text = "there is no rest of an answer here: ask from the beginning";
                    let segment = "DSC".to_owned();
                    let error =
                        AckError { segment, seq: 1, field: 1, code357: code357::UNKNOWN_KEY, ..AckError::default() };
                    Trouble::Told(Verdict::Wrong(AckError { text: text.to_owned(), ..error }))
                })?;
                (open.all, open.left)
            }
            None => {
                let found = self.matches(&permit, criteria).await?;
                (found.len(), found)
            }
        };
        let here = self.query.limit.unwrap_or(ANSWER_MAX).min(ANSWER_MAX).min(left.len());
        let rest = left.split_off(here);
        let wanted: Vec<_> = left.iter().map(|id| ("Patient".to_owned(), id.clone())).collect();
        let read = self.desk.silver.read_many(&permit, self.domain, &wanted).await?;
        // In the order of the matches; who is gone meanwhile is left out.
        let ordered = left.iter().filter_map(|id| read.iter().find(|resource| resource.id == *id && !resource.deleted));
        let mut told = Vec::new();
        for resource in ordered {
            let body = body_of(resource)?;
            let segments =
                outbound::demographics(&body, &self.query.domains, self.domain.as_str(), &self.desk.assigners);
            told.push((resource.patient.0, segments));
        }
        if told.is_empty() && rest.is_empty() {
            self.release(&caller, &permit, Vec::new()).await?;
            return Ok(Verdict::NotFound);
        }
        let here = told.len();
        let segments = self.release(&caller, &permit, told).await?;
        let left = rest.len();
        let pointer = (left > 0).then(|| self.desk.keep(&self.query.tag, all, rest));
        Ok(Verdict::Found { segments, all, here, left, pointer })
    }

    async fn matches(&self, permit: &Permit<Read>, criteria: &[Criterion]) -> Result<Vec<LogicalId>, Trouble> {
        let mut pairs: Vec<(String, String)> = criteria.iter().map(Criterion::parameter).collect();
        pairs.push(("_count".to_owned(), MATCHES_MAX.min(self.desk.limits.search_count_max).to_string()));
        let query = fhir::search::parse_query("Patient", &pairs, &self.desk.limits, false)
            .map_err(|_| wrong(3, code357::DATA_TYPE, "a parameter of the query does not read"))?;
        let page = self.desk.silver.search(permit, self.domain, &query).await?;
        if page.next.is_some() {
            return Err(wrong(3, code357::INTERNAL, "too many patients fit: say more of whom you look for"));
        }
        let mut fits = Vec::new();
        for resource in &page.resources {
            let body = body_of(resource)?;
            // A record that is part of another now is told by that one.
            if replaced_by(&body).is_none() && criteria.iter().all(|criterion| criterion.fits(&body)) {
                fits.push(resource.id.clone());
            }
        }
        Ok(fits)
    }

    async fn identifiers(&self, system: &str, value: &str) -> Result<Verdict, Trouble> {
        let caller = self.caller()?;
        let permit = self.permit(&caller).await?;
        let by_number =
            Criterion { field: clinical::query::Asked::Identifier, text: format!("{system}|{value}"), begins: false };
        let pairs = [by_number.parameter(), ("_count".to_owned(), "2".to_owned())];
        let query = fhir::search::parse_query("Patient", &pairs, &self.desk.limits, false)
            .map_err(|_| wrong(3, code357::DATA_TYPE, "the number that is asked about does not read"))?;
        let page = self.desk.silver.search(&permit, self.domain, &query).await?;
        let mut found = page.resources;
        found.sort_by_key(|resource| body_of(resource).map(|body| replaced_by(&body).is_some()).unwrap_or(true));
        let Some(resource) = found.into_iter().next() else {
            self.release(&caller, &permit, Vec::new()).await?;
            let text = "the number that is asked about is not known here";
            let error = AckError {
                segment: "QPD".into(),
                seq: 1,
                field: 3,
                repetition: 1,
                component: 1,
                ..AckError::default()
            };
            let error = AckError { code357: code357::UNKNOWN_KEY, text: text.to_owned(), ..error };
            return Err(Trouble::Told(Verdict::Wrong(error)));
        };
        let resource = self.survivor(&permit, resource).await?;
        let body = body_of(&resource)?;
        let told = outbound::identifiers(&body, &self.query.domains, (system, value), &self.desk.assigners);
        let Some(segments) = told else {
            self.release(&caller, &permit, vec![(resource.patient.0, String::new())]).await?;
            return Ok(Verdict::NotFound);
        };
        let segments = self.release(&caller, &permit, vec![(resource.patient.0, segments)]).await?;
        Ok(Verdict::Found { segments, all: 1, here: 1, left: 0, pointer: None })
    }

    /// The record that this one is part of now, as far as the permit reaches.
    async fn survivor(&self, permit: &Permit<Read>, resource: Resource) -> Result<Resource, Trouble> {
        const MERGES_MAX: usize = 8;
        let mut resource = resource;
        for _ in 0..MERGES_MAX {
            let Some(next) = replaced_by(&body_of(&resource)?) else { break };
            let wanted = [("Patient".to_owned(), next)];
            match self.desk.silver.read_many(permit, self.domain, &wanted).await?.pop() {
                Some(found) if !found.deleted => resource = found,
                _ => break,
            }
        }
        Ok(resource)
    }

    /// A record for each patient, all of them durable before a segment is to be had; one of nobody where nobody is told
    /// of.
    async fn release(
        &self,
        caller: &Caller,
        permit: &Permit<Read>,
        told: Vec<(u32, String)>,
    ) -> Result<String, Trouble> {
        let outage = |error: gate::NotReleased| match error {
            gate::NotReleased::Hidden | gate::NotReleased::NotCovered(_) => Trouble::Told(Verdict::NotFound),
            _ => Trouble::Told(unavailable()),
        };
        let what = match self.query.asks {
            Asks::Identifiers { .. } => "query Q23",
            _ => "query Q22",
        };
        let access = || Access::of(permit, Action::Search, &self.origin).what(what).query(self.hash);
        if told.is_empty() {
            let none = access().outcome(Outcome::NotFound);
            self.desk.gate.release(caller, none).await.map_err(outage)?;
            return Ok(String::new());
        }
        let mut out = String::new();
        for (patient, segments) in told {
            let held = Held::under(permit, segments);
            let access = access().rows(1).patients(self.domain, [patient]);
            let release = self.desk.gate.release(caller, access).await.map_err(outage)?;
            out.push_str(&held.release(release).map_err(|_| Trouble::Told(unavailable()))?);
        }
        Ok(out)
    }
}

fn replaced_by(patient: &Value) -> Option<LogicalId> {
    let links = patient.get("link").map(Value::items).unwrap_or_default();
    let mut replaced = links.iter().filter(|link| link.get("type").and_then(Value::as_str) == Some("replaced-by"));
    let reference = replaced.next()?.path(&["other", "reference"])?.as_str()?;
    LogicalId::parse(reference.strip_prefix("Patient/")?).ok()
}

fn body_of(resource: &Resource) -> Result<Value, StoreError> {
    parse(resource.body.expose(), &ParseLimits::default())
        .map_err(|_| StoreError::Corrupt("a stored resource is not JSON"))
}
