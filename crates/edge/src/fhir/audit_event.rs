//! AuditEvent through the FHIR door: the audit log as IHE BALP has it (`herald::audit_event`), under a permit for the
//! audit log. `/fhir/{domain}/AuditEvent` shows what concerns a domain, `/fhir/governance/AuditEvent` all of the log.
//! What is searched is the union of all targets; one patient's events come from the index (`gate::AuditReader::events`).
//!
//! Patients are named by keyed token; only one whom the request itself names is referred to by id. The log is written by
//! the gate alone: nothing is created, changed or deleted here.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use base::{DomainName, Layer, LogicalId, Ordinal, Permit, Read, TraceContext};
use fhir::json;
use fhir::json::Value;
use fhir::search::{Clause, ClauseValue, Modifier, Prefix, Query, Summary, Total, fold};
use fhir::validate::Issue;
use gate::{
    Access, AuditReadError, AuditRecord, EventMark, EventPage, EventQuery, FoundRecord, Outcome, Period, RecordId,
};
use herald::audit_event::{ACTION, PRINCIPAL, render};
use herald::{Code, Event, Kind, Sets};
use policy::Action;

use super::search::{link_bound, open_link, pairs_text, percent};
use super::{Answer, FHIR_JSON, FhirError};
use crate::doors::{Call, Doors};
use crate::http::Peer;
use crate::outgoing::{Draft, Outgoing};

/// The search parameters that are understood, with their kinds, for the CapabilityStatement.
pub const PARAMS: &[(&str, &str)] = &[
    ("_id", "token"),
    ("action", "token"),
    ("agent", "reference"),
    ("agent-name", "string"),
    ("date", "date"),
    ("outcome", "token"),
    ("patient", "reference"),
    ("subtype", "token"),
    ("type", "token"),
];

pub async fn refuse() -> FhirError {
    let text = "the audit log is written by this node alone: AuditEvent can be read and searched";
    FhirError::new(StatusCode::METHOD_NOT_ALLOWED, "not-supported", text)
}

pub async fn get(
    State(doors): State<Arc<Doors>>,
    Path(domain): Path<String>,
    RawQuery(query): RawQuery,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
) -> Answer {
    let call = doors.call("fhir", &peer, trace, &headers).await?;
    search(&doors, &call, &domain, fhir::search::decode_query(query.as_deref().unwrap_or_default())).await
}

pub async fn post(
    State(doors): State<Arc<Doors>>,
    Path(domain): Path<String>,
    RawQuery(query): RawQuery,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let call = doors.call("fhir", &peer, trace, &headers).await?;
    let mut pairs = fhir::search::decode_query(query.as_deref().unwrap_or_default());
    let form = std::str::from_utf8(&body)
        .map_err(|_| FhirError::new(StatusCode::BAD_REQUEST, "structure", "the form is not UTF-8"))?;
    pairs.extend(fhir::search::decode_query(form));
    search(&doors, &call, &domain, pairs).await
}

pub async fn read(
    State(doors): State<Arc<Doors>>,
    Path((domain, id)): Path<(String, String)>,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
) -> Answer {
    let call = doors.call("fhir", &peer, trace, &headers).await?;
    let about = About::parse(&doors, &domain)?;
    let id = RecordId::parse(&id).ok_or_else(FhirError::not_found)?;
    let permit = permit(&doors, &call).await?;
    let found = doors.audit.event(&permit, id, herald::NAMED_MAX).await?;
    let mut outcome = Outcome::NotFound;
    let held = found.map(|found| match found.filter(|found| about.holds(&found.record)) {
        Some(found) => {
            outcome = Outcome::Served;
            Draft::new(StatusCode::OK, FHIR_JSON, fhir::json::to_vec(&value_of(&doors, &found, &[])))
        }
        None => FhirError::not_found().draft(),
    });
    let access = Access::of(&permit, Action::AuditRead, &call.origin).what("read AuditEvent").outcome(outcome);
    let release = doors.gate.release(&call.caller, access.rows(u64::from(outcome == Outcome::Served))).await?;
    Outgoing::data(held, release).map_err(|_| FhirError::unavailable("the answer could not be released"))
}

async fn permit(doors: &Doors, call: &Call) -> Result<Permit<Read>, FhirError> {
    let ask = call.ask(Action::AuditRead, &gate::governance(), Layer::Governance).kind("audit");
    Ok(doors.gate.permit::<Read>(&call.caller, ask).await?)
}

async fn search(doors: &Doors, call: &Call, domain: &str, mut pairs: Vec<(String, String)>) -> Answer {
    let about = About::parse(doors, domain)?;
    pairs.retain(|(name, _)| name != "_format" && name != "_pretty");
    let bound = link_bound(call, &about.name(), "AuditEvent");
    if let [(name, link)] = pairs.as_slice()
        && name == "_cursor"
    {
        pairs = open_link(doors, &bound, link)?;
    }
    let query =
        fhir::search::parse_query("AuditEvent", &pairs, &doors.limits, false).map_err(|issue| bad(vec![issue]))?;
    let oldest_first = order(&query)?;
    let permit = permit(doors, call).await?;
    let criteria = Criteria::of(doors, &permit, &about, &query).await?;
    let asked = EventQuery {
        patients: criteria.asked_for()?,
        period: criteria.period(),
        principal: None,
        newest_first: !oldest_first,
        after: query.cursor.as_deref().and_then(EventMark::parse),
        max: query.count.unwrap_or(doors.limits.search_count_default),
        named_max: herald::NAMED_MAX,
    };
    let wanted = |id, record: &AuditRecord| about.holds(record) && criteria.hold(id, record);
    let page = doors.audit.events(&permit, &asked, &wanted).await?;
    let links =
        Links { doors, bound: &bound, base: format!("{}/fhir/{}/AuditEvent", doors.info.base_url, about.name()) };
    let mut rows = 0;
    let held = page.map(|page| {
        rows = page.events.len() as u64;
        match bundle(&links, &pairs, &page, &criteria.named) {
            Ok(bundle) => Draft::new(StatusCode::OK, FHIR_JSON, fhir::json::to_vec(&bundle)),
            Err(error) => error.draft(),
        }
    });
    let access = Access::of(&permit, Action::AuditRead, &call.origin)
        .what("search AuditEvent")
        .query(doors.gate.query_hash(pairs_text(&pairs).as_bytes()))
        .rows(rows);
    let release = doors.gate.release(&call.caller, access).await?;
    Outgoing::data(held, release).map_err(|_| FhirError::unavailable("the answer could not be released"))
}

fn bad(issues: Vec<Issue>) -> FhirError {
    FhirError { status: StatusCode::BAD_REQUEST, issues, retry_after_s: None }
}

fn unsupported(text: impl Into<String>) -> FhirError {
    FhirError::new(StatusCode::BAD_REQUEST, "not-supported", text)
}

/// Newest first, unless `_sort=date`.
fn order(query: &Query) -> Result<bool, FhirError> {
    let plain =
        query.chains.is_empty() && query.has.is_empty() && query.includes.is_empty() && query.revincludes.is_empty();
    if !plain {
        return Err(unsupported("chains, _has, _include and _revinclude are not supported for AuditEvent"));
    }
    if query.total != Total::None || query.summary == Summary::Count || query.count == Some(0) {
        return Err(unsupported("a total is not counted for AuditEvent: follow the next links"));
    }
    match query.sort.as_slice() {
        [] | [("date", true)] => Ok(false),
        [("date", false)] => Ok(true),
        _ => Err(unsupported("AuditEvent can be sorted by date or -date")),
    }
}

/// Which part of the log a path means.
enum About {
    Everything,
    Domain(DomainName),
}

impl About {
    fn parse(doors: &Doors, name: &str) -> Result<About, FhirError> {
        if name == gate::governance().as_str() {
            return Ok(About::Everything);
        }
        doors.domain(name).map(|(name, _)| About::Domain(name.clone())).ok_or_else(FhirError::not_found)
    }

    fn name(&self) -> DomainName {
        match self {
            About::Everything => gate::governance(),
            About::Domain(name) => name.clone(),
        }
    }

    fn holds(&self, record: &AuditRecord) -> bool {
        match self {
            About::Everything => true,
            About::Domain(name) => record.domain == *name || record.patient_domain() == name,
        }
    }
}

/// A patient whom the request names.
struct Named {
    id: LogicalId,
    domain: DomainName,
    ordinal: Ordinal,
    token: [u8; 16],
}

/// One parameter: any of its values must hold.
enum Criterion {
    Id(Vec<RecordId>),
    Date(Vec<(Prefix, i64, i64)>),
    Action(Vec<String>),
    Outcome(Vec<String>),
    Type(Vec<(Option<Option<String>>, Option<String>)>),
    Subtype(Vec<(Option<Option<String>>, Option<String>)>),
    Agent(Vec<String>),
    AgentName(Vec<String>),
    /// Places in [`Criteria::named`].
    Patient(Vec<usize>),
}

/// All must hold.
struct Criteria {
    all: Vec<Criterion>,
    named: Vec<Named>,
}

impl Criteria {
    async fn of(doors: &Doors, permit: &Permit<Read>, about: &About, query: &Query) -> Result<Criteria, FhirError> {
        let mut criteria = Criteria { all: Vec::new(), named: Vec::new() };
        for clause in &query.clauses {
            let criterion = match (clause.param, &clause.modifier) {
                ("patient", None | Some(Modifier::Type(_))) => criteria.patients(doors, permit, about, clause).await?,
                (_, None) | ("agent", Some(Modifier::Identifier)) => plain(clause)?,
                _ => return Err(unsupported(format!("{} takes no such modifier for AuditEvent", clause.param))),
            };
            criteria.all.push(criterion);
        }
        Ok(criteria)
    }

    /// A patient is known by the id of the Patient resource in this domain.
    async fn patients(
        &mut self,
        doors: &Doors,
        permit: &Permit<Read>,
        about: &About,
        clause: &Clause,
    ) -> Result<Criterion, FhirError> {
        let About::Domain(domain) = about else {
            let text = "patients are numbered by domain: search /fhir/DOMAIN/AuditEvent?patient=...";
            return Err(FhirError::new(StatusCode::BAD_REQUEST, "value", text));
        };
        let mut found = Vec::new();
        for value in &clause.values {
            let ClauseValue::Reference { id, .. } = value else { continue };
            let Ok(id) = LogicalId::parse(id) else { continue };
            let ordinal = doors.silver.patient_of(domain, "Patient", &id).await?;
            let Some(ordinal) = ordinal.filter(|ordinal| ordinal.is_patient()) else { continue };
            let token = doors.audit.patient_token(permit, domain, ordinal)?;
            found.push(self.named.len());
            self.named.push(Named { id, domain: domain.clone(), ordinal, token });
        }
        Ok(Criterion::Patient(found))
    }

    /// Whom the log is asked for; its index knows their events, whatever a record still says of its patients.
    fn asked_for(&self) -> Result<Option<Vec<(DomainName, Ordinal)>>, FhirError> {
        let asked = |criterion: &Criterion| match criterion {
            Criterion::Patient(places) => Some(places.clone()),
            _ => None,
        };
        let mut asked = self.all.iter().filter_map(asked);
        let (first, second) = (asked.next(), asked.next());
        if second.is_some() {
            return Err(unsupported(
                "AuditEvent can be searched by one patient parameter: write patient=A,B for either",
            ));
        }
        let named = |place: usize| (self.named[place].domain.clone(), self.named[place].ordinal);
        Ok(first.map(|places| places.into_iter().map(named).collect()))
    }

    /// Within it is everything that the dates allow.
    fn period(&self) -> Period {
        let mut period = Period::default();
        for criterion in &self.all {
            let Criterion::Date(dates) = criterion else { continue };
            let [(prefix, from, to)] = dates.as_slice() else { continue };
            let (from, to) = (base::Timestamp(*from), base::Timestamp(*to));
            let (since, until) = match prefix {
                Prefix::Eq | Prefix::Ap => (Some(from), Some(to)),
                Prefix::Ge => (Some(from), None),
                Prefix::Gt | Prefix::Sa => (Some(to), None),
                Prefix::Le => (None, Some(to)),
                Prefix::Lt | Prefix::Eb => (None, Some(from)),
                Prefix::Ne => (None, None),
            };
            period.since = period.since.max(since);
            period.until = period.until.into_iter().chain(until).min();
        }
        period
    }

    fn hold(&self, id: RecordId, record: &AuditRecord) -> bool {
        self.all.iter().all(|criterion| Self::holds(criterion, id, record))
    }

    fn holds(criterion: &Criterion, id: RecordId, record: &AuditRecord) -> bool {
        let kind = Kind::of(record);
        match criterion {
            Criterion::Id(ids) => ids.contains(&id),
            Criterion::Date(dates) => dates.iter().any(|date| in_time(record.at.ms(), *date)),
            Criterion::Action(codes) => codes.iter().any(|code| code == kind.action()),
            Criterion::Outcome(codes) => codes.iter().any(|code| code == herald::indicator(record.outcome)),
            Criterion::Type(codes) => {
                codes.iter().any(|wanted| is_coded(wanted, herald::audit_event::event_type(kind)))
            }
            Criterion::Subtype(codes) => codes.iter().any(|wanted| {
                kind.narrower().is_some_and(|code| is_coded(wanted, code)) || is_code(wanted, ACTION, &record.action)
            }),
            Criterion::Agent(names) => names.iter().any(|name| is_agent(record, |agent| agent == name)),
            Criterion::AgentName(starts) => {
                starts.iter().any(|start| is_agent(record, |agent| fold(agent).starts_with(start.as_str())))
            }
            // The log was asked for them.
            Criterion::Patient(_) => true,
        }
    }
}

fn is_agent(record: &AuditRecord, is: impl Fn(&str) -> bool) -> bool {
    is(record.principal.as_str()) || record.on_behalf.as_ref().is_some_and(|person| is(person.as_str()))
}

/// R4 §3.1.1.4.7; a record's time is one millisecond wide.
fn in_time(at: i64, (prefix, from, to): (Prefix, i64, i64)) -> bool {
    let is_within = from <= at && at < to;
    match prefix {
        Prefix::Eq | Prefix::Ap => is_within,
        Prefix::Ne => !is_within,
        Prefix::Gt | Prefix::Sa => at >= to,
        Prefix::Lt | Prefix::Eb => at < from,
        Prefix::Ge => at >= from,
        Prefix::Le => at < to,
    }
}

fn is_coded(wanted: &(Option<Option<String>>, Option<String>), Code(system, code, _): Code) -> bool {
    is_code(wanted, system, code)
}

fn is_code((system, code): &(Option<Option<String>>, Option<String>), own_system: &str, own_code: &str) -> bool {
    system.as_ref().is_none_or(|system| system.as_deref() == Some(own_system))
        && code.as_ref().is_none_or(|code| code == own_code)
}

fn plain(clause: &Clause) -> Result<Criterion, FhirError> {
    let tokens = || {
        clause.values.iter().filter_map(|value| match value {
            ClauseValue::Token { system, code } => Some((system.clone(), code.clone())),
            _ => None,
        })
    };
    let codes = || tokens().filter_map(|(_, code)| code);
    Ok(match clause.param {
        "_id" => Criterion::Id(codes().filter_map(|id| RecordId::parse(&id)).collect()),
        "action" => Criterion::Action(codes().collect()),
        "outcome" => Criterion::Outcome(codes().collect()),
        "type" => Criterion::Type(tokens().collect()),
        "subtype" => Criterion::Subtype(tokens().collect()),
        "agent" if clause.modifier == Some(Modifier::Identifier) => {
            let own = |system: &Option<Option<String>>| system.as_ref().is_none_or(|s| s.as_deref() == Some(PRINCIPAL));
            Criterion::Agent(tokens().filter(|(system, _)| own(system)).filter_map(|(_, code)| code).collect())
        }
        "agent" => return Err(unsupported("agents are known by identifier: write agent:identifier=PRINCIPAL")),
        "agent-name" => Criterion::AgentName(
            clause
                .values
                .iter()
                .filter_map(|value| match value {
                    ClauseValue::String { folded, .. } => Some(folded.clone()),
                    _ => None,
                })
                .collect(),
        ),
        "date" => Criterion::Date(
            clause
                .values
                .iter()
                .filter_map(|value| match value {
                    ClauseValue::Date { prefix, from_ms, to_ms } => Some((*prefix, *from_ms, *to_ms)),
                    _ => None,
                })
                .collect(),
        ),
        other => {
            let known: Vec<&str> = PARAMS.iter().map(|(name, _)| *name).collect();
            return Err(unsupported(format!("AuditEvent cannot be searched by {other}: by {}", known.join(", "))));
        }
    })
}

fn value_of(doors: &Doors, found: &FoundRecord, named: &[Named]) -> Value {
    let id = found.id.to_string();
    let event = Event { id: &id, index: found.index, record: &found.record, tokens: &found.tokens, sets: Sets::Whole };
    let name = |token: &[u8; 16]| named.iter().find(|named| named.token == *token).map(|named| named.id.to_string());
    render(&event, &doors.info.place(&found.log), &name)
}

struct Links<'a> {
    doors: &'a Doors,
    bound: &'a [u8],
    base: String,
}

fn bundle(
    links: &Links<'_>,
    pairs: &[(String, String)],
    page: &EventPage,
    named: &[Named],
) -> Result<Value, FhirError> {
    let entry = |found: &FoundRecord| {
        json!({
            "fullUrl": (format!("{}/{}", links.base, found.id)),
            "resource": (value_of(links.doors, found, named)),
            "search": { "mode": "match" },
        })
    };
    let criteria: Vec<&(String, String)> = pairs.iter().filter(|(name, _)| name != "_cursor").collect();
    let shown: Vec<String> =
        criteria.iter().map(|(name, value)| format!("{}={}", percent(name), percent(value))).collect();
    let mut link = vec![json!({ "relation": "self", "url": (format!("{}?{}", links.base, shown.join("&"))) })];
    if let Some(next) = &page.next {
        let cursor = ("_cursor".to_owned(), next.to_string());
        let carried: Vec<&(String, String)> = criteria.into_iter().chain([&cursor]).collect();
        let plain = serde_json::to_vec(&carried).unwrap_or_default();
        let sealed = links.doors.silver.seal_link(links.bound, &plain)?;
        link.push(json!({ "relation": "next", "url": (format!("{}?_cursor={}", links.base, percent(&sealed))) }));
    }
    let mut bundle = json!({ "resourceType": "Bundle", "type": "searchset", "link": (Value::Array(link)) });
    let lacking = (page.missing > 0).then(|| {
        let text = format!("{} records of the audit log cannot be shown now; events may be missing here", page.missing);
        json!({
            "resource": {
                "resourceType": "OperationOutcome",
                "issue": [{ "severity": "warning", "code": "incomplete", "diagnostics": text }],
            },
            "search": { "mode": "outcome" },
        })
    });
    let entries: Vec<Value> = page.events.iter().map(entry).chain(lacking).collect();
    if let Some(bundle) = bundle.as_object_mut()
        && !entries.is_empty()
    {
        bundle.insert("entry", entries);
    }
    Ok(bundle)
}

impl From<AuditReadError> for FhirError {
    fn from(error: AuditReadError) -> Self {
        if matches!(error, AuditReadError::Moved) {
            return FhirError::new(StatusCode::GONE, "expired", error.to_string());
        }
        tracing::error!(%error, "the audit log cannot be read");
        FhirError::unavailable("the audit log cannot be read now: try again")
    }
}
