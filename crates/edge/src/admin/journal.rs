//! Journal entries for the person at the interface desk: found by what the catalog knows of them, shown with the names
//! of their fields, checked, compared, refined again, and their sizes.
//!
//! Without a permit to read the journal itself values are shown by their shape alone. With one, whom an entry is about
//! must be within it, and the record names them.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use base::{DomainName, Layer, Ordinal, Permit, Read, SourceName, Target, Timestamp};
use clinical::{Content, Door, Journal, JournalEntry};
use gate::{Access, Held};
use hl7v2::view;
use policy::Action;
use serde::Deserialize;
use serde_json::{Value, json};
use store::{EntryQuery, EntryRow, EntryState, EntryToken};

use super::break_glass::body_of;
use super::{Admin, AdminError, Answer, Local, domain, json_draft, release, released};
use crate::doors::{Call, Doors};

pub fn router() -> Router<Arc<Doors>> {
    Router::new()
        .route("/admin/journal/{domain}/{index}/message", get(message))
        .route("/admin/journal/{domain}/{index}/lint", get(lint))
        .route("/admin/journal/{domain}/{index}/diff/{other}", get(diff))
        .route("/admin/journal/{domain}/search", post(search))
        .route("/admin/journal/{domain}/replay", post(replay))
        .route("/admin/journal/{domain}/size", get(size))
        .route("/admin/journal/{domain}/expire", post(expire))
}

/// Entries of one page of a search; a replay takes fewer, since each is appended.
const PAGE_MAX: usize = 1_000;
const PAGE: usize = 100;
const REPLAY_MAX: usize = 200;
/// Entries that are not refined yet and are looked at for a search of state `received`.
const WAITING_MAX: usize = 1_000;
const DAY_MS: i64 = 86_400_000;
const SIZE_DAYS: i64 = 30;

/// Destroys the bodies whose time is over, by what the sources declare. `ward` implements it.
#[async_trait::async_trait]
pub trait JournalDesk: Send + Sync {
    /// Entries of the domain that were due, were destroyed, or were held back; with `dry_run` nothing is destroyed.
    async fn expire(&self, domain: &DomainName, dry_run: bool) -> Result<Expiry, String>;
}

/// What an expiry came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Expiry {
    /// Bodies whose time is over.
    pub due: u64,
    /// Of them, destroyed now.
    pub destroyed: u64,
    /// Kept by a hold or an open erasure.
    pub held: u64,
    /// Kept since a later entry needs them.
    pub needed: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Showing {
    /// Values as they came: a permit to read the journal, and a record that names the patients.
    #[serde(default)]
    phi: bool,
}

/// What a person may see of entries, and how the answer leaves.
struct Sight {
    permit: Permit<Read>,
    phi: bool,
    patients: Vec<Ordinal>,
}

impl Sight {
    async fn of(doors: &Doors, call: &Call, name: &DomainName, phi: bool) -> Result<Sight, AdminError> {
        let permit = if phi {
            let ask = call.ask(Action::Read, name, Layer::Bronze).kind(Journal::KIND);
            doors.gate.permit::<Read>(&call.caller, ask).await?
        } else {
            call.metadata(doors, name, "journal").await?
        };
        Ok(Sight { permit, phi, patients: Vec::new() })
    }

    /// One HL7 v2 entry. An entry about somebody whom the permit does not reach looks as if it were not there.
    async fn open(&mut self, doors: &Doors, name: &DomainName, index: u64) -> Result<JournalEntry, AdminError> {
        let journal = doors.domains[name].intake.journal();
        let broken = |error: String| AdminError::broken("the journal cannot be read now", error);
        if index >= journal.log().size() {
            return Err(AdminError::not_found("journal entry"));
        }
        let read = if self.phi {
            self.cover(doors, name, index).await?;
            self.permit.clone()
        } else {
            doors.gate.node_permit::<Read>("refine", name, Layer::Bronze).map_err(|error| broken(error.to_string()))?
        };
        let entry = journal.read(&read, index, 1, usize::MAX).await.map_err(|error| broken(error.to_string()))?.pop();
        let entry = entry.ok_or_else(|| AdminError::not_found("journal entry"))?;
        let entry = entry.map_err(|error| AdminError(StatusCode::GONE, error.to_string()))?;
        if entry.envelope.content != Content::Hl7v2 {
            return Err(AdminError(StatusCode::BAD_REQUEST, "the entry is no HL7 v2 message".to_owned()));
        }
        Ok(entry)
    }

    /// Whom the entry is about is known once it is refined.
    async fn cover(&mut self, doors: &Doors, name: &DomainName, index: u64) -> Result<(), AdminError> {
        if index >= *doors.silver.applied(name).borrow() {
            let text = "whom the entry is about is not known yet: ask again when it is refined";
            return Err(AdminError(StatusCode::CONFLICT, text.to_owned()));
        }
        for (patient, sensitivity) in doors.silver.entry_patients(name, index).await? {
            let target = Target { domain: name, layer: Layer::Bronze, kind: Journal::KIND, patient, sensitivity };
            self.permit.covers(target).map_err(|_| AdminError::not_found("journal entry"))?;
            if patient.is_patient() && patient != Ordinal::UNKNOWN {
                self.patients.push(patient);
            }
        }
        Ok(())
    }

    async fn answer(self, doors: &Doors, call: &Call, name: &DomainName, what: String, value: &Value) -> Answer {
        if !self.phi {
            return released(doors, call, &self.permit, Action::MetadataRead, what, value).await;
        }
        let held = Held::under(&self.permit, json_draft(value));
        let access = Access::of(&self.permit, Action::Read, &call.origin)
            .what(what)
            .rows(1)
            .patients(name, self.patients.iter().map(|patient| patient.0));
        release(doors, call, held, access).await
    }
}

fn parsed<'a>(entry: &'a JournalEntry, doors: &Doors) -> Result<hl7v2::Message<'a>, AdminError> {
    hl7v2::parse(entry.body.expose(), &doors.limits)
        .map_err(|fault| AdminError(StatusCode::UNPROCESSABLE_ENTITY, format!("the message cannot be read: {fault}")))
}

/// The valued fields of a message with their names.
async fn message(
    State(doors): State<Arc<Doors>>,
    Path((name, index)): Path<(String, u64)>,
    Query(showing): Query<Showing>,
    Admin(call): Admin,
) -> Answer {
    let name = domain(&doors, &name)?;
    let mut sight = Sight::of(&doors, &call, name, showing.phi).await?;
    let entry = sight.open(&doors, name, index).await?;
    let fields: Vec<Value> = view::rows(&parsed(&entry, &doors)?, showing.phi)
        .into_iter()
        .map(|row| json!({ "field": row.place, "name": row.name, "type": row.kind, "value": row.shown }))
        .collect();
    let value = json!({ "position": position(name, index), "phi": showing.phi, "fields": fields });
    sight.answer(&doors, &call, name, format!("journal entry {index}"), &value).await
}

fn position(name: &DomainName, index: u64) -> String {
    format!("journal-{name}/{index}")
}

/// What of a message departs from the standard: places and rules, no values.
async fn lint(State(doors): State<Arc<Doors>>, Path((name, index)): Path<(String, u64)>, Admin(call): Admin) -> Answer {
    let name = domain(&doors, &name)?;
    let mut sight = Sight::of(&doors, &call, name, false).await?;
    let entry = sight.open(&doors, name, index).await?;
    let findings: Vec<Value> = clinical::v2::lint(&parsed(&entry, &doors)?)
        .into_iter()
        .map(|f| json!({ "level": f.level.code(), "place": f.place, "code": f.code, "text": f.text }))
        .collect();
    let value = json!({ "position": position(name, index), "findings": findings });
    sight.answer(&doors, &call, name, format!("lint of journal entry {index}"), &value).await
}

/// The fields that two messages say differently.
async fn diff(
    State(doors): State<Arc<Doors>>,
    Path((name, index, other)): Path<(String, u64, u64)>,
    Query(showing): Query<Showing>,
    Admin(call): Admin,
) -> Answer {
    let name = domain(&doors, &name)?;
    let mut sight = Sight::of(&doors, &call, name, showing.phi).await?;
    let (a, b) = (sight.open(&doors, name, index).await?, sight.open(&doors, name, other).await?);
    let differences: Vec<Value> = view::diff(&parsed(&a, &doors)?, &parsed(&b, &doors)?, showing.phi)
        .into_iter()
        .map(|d| json!({ "field": d.place, "name": d.name, "before": d.before, "after": d.after }))
        .collect();
    let value = json!({ "before": position(name, index), "after": position(name, other), "differences": differences });
    sight.answer(&doors, &call, name, format!("journal entries {index} and {other}"), &value).await
}

/// What a search or a replay looks for.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Wanted {
    source: Option<SourceName>,
    /// `ADT^A01` or `ADT`.
    r#type: Option<String>,
    /// MSH-3.1.
    sender: Option<String>,
    /// MSH-10.
    control_id: Option<String>,
    /// A record number as the sender writes it, or `Patient/ID`. Needs a permit to search the journal.
    patient: Option<String>,
    /// Moments or days, RFC 3339.
    from: Option<String>,
    to: Option<String>,
    /// `received` (not refined yet), `refined`, `set-aside`, `forwarded`, `expired` or `shadow`.
    state: Option<String>,
    /// Positions: the first, and the one below which.
    first: Option<u64>,
    before: Option<u64>,
    max: Option<usize>,
}

fn wrong(text: &str) -> AdminError {
    AdminError(StatusCode::BAD_REQUEST, text.to_owned())
}

/// A moment; of a day, a month or a year its first or its last one.
fn moment(text: &str, last: bool) -> Result<Timestamp, AdminError> {
    let moment = fhir::time::parse(text);
    let moment = moment.ok_or_else(|| wrong("a time is written as 2026-11-28 or 2026-11-28T10:00:00Z"))?;
    Ok(Timestamp(if last { moment.to_ms - 1 } else { moment.from_ms }))
}

impl Wanted {
    /// The question for the catalog; whom `patient` names is found elsewhere.
    fn query(&self, doors: &Doors, state: Option<EntryState>, page: usize) -> Result<EntryQuery, AdminError> {
        let token = |kind, word: &String| doors.silver.entry_token(kind, word);
        Ok(EntryQuery {
            source: self.source.clone(),
            kind: self.r#type.clone(),
            control: self.control_id.as_ref().map(|word| token(EntryToken::Control, word)),
            sender: self.sender.as_ref().map(|word| token(EntryToken::Sender, word)),
            from: self.from.as_deref().map(|text| moment(text, false)).transpose()?,
            to: self.to.as_deref().map(|text| moment(text, true)).transpose()?,
            state,
            first: self.first,
            before: self.before,
            max: self.max.unwrap_or(PAGE).clamp(1, page),
            ..EntryQuery::default()
        })
    }
}

fn row_json(name: &DomainName, row: &EntryRow) -> Value {
    let state = match row {
        EntryRow { expired: true, .. } => "expired",
        EntryRow { shadow: true, .. } => "shadow",
        EntryRow { set_aside: 1.., .. } => "set-aside",
        EntryRow { forwarded: 1.., .. } => "forwarded",
        _ => "refined",
    };
    json!({
        "position": position(name, row.index),
        "index": row.index,
        "received": row.at.to_string(),
        "source": row.source,
        "type": row.kind,
        "bytes": row.bytes,
        "stored_bytes": row.stored,
        "state": state,
        "set_aside": row.set_aside,
        "forwarded": row.forwarded,
    })
}

/// Entries by what the catalog knows of them, newest first.
async fn search(State(doors): State<Arc<Doors>>, Path(name): Path<String>, Admin(call): Admin, body: Bytes) -> Answer {
    let name = domain(&doors, &name)?;
    let wanted: Wanted = body_of(&body, r#"{"source", "type", "control_id", "patient", "from", "to", "state", ...}"#)?;
    let state = match wanted.state.as_deref() {
        None | Some("received") => None,
        Some(word) => Some(
            EntryState::ALL
                .into_iter()
                .find(|state| state.code() == word)
                .ok_or_else(|| wrong("a state is one of received, refined, set-aside, forwarded, expired, shadow"))?,
        ),
    };
    let mut query = wanted.query(&doors, state, PAGE_MAX)?;
    if let Some(patient) = &wanted.patient {
        return search_patient(&doors, &call, name, query, patient).await;
    }
    let permit = call.metadata(&doors, name, "journal").await?;
    let value = if wanted.state.as_deref() == Some("received") {
        waiting(&doors, name, &wanted).await?
    } else {
        query.max += 1;
        page(&doors, name, &query).await?
    };
    released(&doors, &call, &permit, Action::MetadataRead, "journal search", &value).await
}

/// A page, and where the next begins; the query asks for one more than is shown.
async fn page(doors: &Doors, name: &DomainName, query: &EntryQuery) -> Result<Value, AdminError> {
    let mut rows = doors.silver.entries(name, query).await?;
    let more = rows.len() >= query.max;
    rows.truncate(query.max - 1);
    let next = rows.last().filter(|_| more).map(|row| row.index);
    let size = doors.domains[name].intake.journal().log().size();
    let waiting = size.saturating_sub(*doors.silver.applied(name).borrow());
    let entries: Vec<Value> = rows.iter().map(|row| row_json(name, row)).collect();
    Ok(json!({ "entries": entries, "before": next, "not_refined_yet": waiting }))
}

/// That somebody is in the journal says something about them: it takes a permit to search it, and is on record.
async fn search_patient(doors: &Doors, call: &Call, name: &DomainName, mut query: EntryQuery, patient: &str) -> Answer {
    let ask = call.ask(Action::Search, name, Layer::Bronze).kind(Journal::KIND);
    let permit = doors.gate.permit::<Read>(&call.caller, ask).await?;
    let ordinals = ordinals_of(doors, name, patient).await?;
    // Whom the permit does not reach is not found.
    let ordinals: Vec<Ordinal> =
        ordinals.into_iter().filter(|ordinal| permit.grant().patients.contains(*ordinal)).collect();
    let hidden = !permit.grant().sensitivity.0;
    let token = doors.silver.entry_token(EntryToken::Identifier, patient);
    query.max += 1;
    query.patients = Some((ordinals.clone(), Some(token)));
    let mut rows = doors.silver.entries(name, &query).await?;
    let more = rows.len() >= query.max;
    rows.truncate(query.max - 1);
    let next = rows.last().filter(|_| more).map(|row| row.index);
    let mut entries = Vec::with_capacity(rows.len());
    for row in &rows {
        let about = doors.silver.entry_patients(name, row.index).await?;
        if about.iter().all(|(_, sensitivity)| sensitivity.0 & hidden == 0) {
            entries.push(row_json(name, row));
        }
    }
    let value = json!({ "entries": entries, "before": next });
    let access = Access::of(&permit, Action::Search, &call.origin)
        .what("journal search by patient")
        .rows(entries.len() as u64)
        .patients(name, ordinals.iter().map(|ordinal| ordinal.0));
    release(doors, call, Held::under(&permit, json_draft(&value)), access).await
}

/// The source records behind `Patient/ID` or a record number.
async fn ordinals_of(doors: &Doors, name: &DomainName, patient: &str) -> Result<Vec<Ordinal>, AdminError> {
    if let Some(id) = patient.strip_prefix("Patient/") {
        let id = base::LogicalId::parse(id).map_err(|_| wrong("a patient is written as Patient/ID or by a number"))?;
        return Ok(doors.silver.patient_of(name, "Patient", &id).await?.into_iter().collect());
    }
    let permit = doors
        .gate
        .node_permit::<Read>("refine", name, Layer::Silver)
        .map_err(|error| AdminError::broken("silver cannot be read now", error))?;
    let criteria = [("identifier".to_owned(), patient.replace('\\', "\\\\").replace(',', "\\,").replace('|', "\\|"))];
    let query = fhir::search::parse_query("Patient", &criteria, &doors.limits, false)
        .map_err(|_| wrong("this is no record number"))?;
    let found = doors.silver.search(&permit, name, &query).await?;
    Ok(found.resources.into_iter().map(|resource| resource.patient).collect())
}

/// Entries that refine has not reached: read from the journal itself, by their envelopes.
async fn waiting(doors: &Doors, name: &DomainName, wanted: &Wanted) -> Result<Value, AdminError> {
    let journal = doors.domains[name].intake.journal();
    let applied = *doors.silver.applied(name).borrow();
    let broken = |error: String| AdminError::broken("the journal cannot be read now", error);
    let permit =
        doors.gate.node_permit::<Read>("refine", name, Layer::Bronze).map_err(|error| broken(error.to_string()))?;
    let from = wanted.first.unwrap_or(0).max(applied);
    let read = journal.read(&permit, from, WAITING_MAX, 64 << 20).await.map_err(|error| broken(error.to_string()))?;
    let entries: Vec<Value> = read
        .into_iter()
        .flatten()
        .filter(|entry| wanted.source.as_ref().is_none_or(|source| *source == entry.envelope.source))
        .take(wanted.max.unwrap_or(PAGE).min(PAGE_MAX))
        .map(|entry| {
            json!({
                "position": position(name, entry.index),
                "index": entry.index,
                "received": entry.envelope.received.to_string(),
                "source": entry.envelope.source,
                "bytes": entry.body.expose().len(),
                "stored_bytes": entry.stored,
                "state": "received",
            })
        })
        .collect();
    let waiting = journal.log().size().saturating_sub(applied);
    Ok(json!({ "entries": entries, "before": Value::Null, "not_refined_yet": waiting }))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ReplayMode {
    /// Only what is set aside; otherwise the whole of each message.
    set_aside_only: bool,
    /// Count, and do nothing.
    dry_run: bool,
}

/// Messages refined again, oldest first, a page at a time: each replay is a journal entry of its own.
async fn replay(State(doors): State<Arc<Doors>>, Path(name): Path<String>, Admin(call): Admin, body: Bytes) -> Answer {
    let name = domain(&doors, &name)?;
    let permit = call.manage(&doors, Action::Replay, name, "set-aside").await?;
    let mut given: serde_json::Map<String, Value> = body_of(&body, r#"{"source", "type", "from", "to", ...}"#)?;
    let mode = ["set_aside_only", "dry_run"]
        .into_iter()
        .filter_map(|key| given.remove(key).map(|value| (key.to_owned(), value)))
        .collect();
    let bad = |_| wrong("this is no description of messages to replay");
    let mode: ReplayMode = serde_json::from_value(Value::Object(mode)).map_err(bad)?;
    let wanted: Wanted = serde_json::from_value(Value::Object(given)).map_err(bad)?;
    if wanted.patient.is_some() || wanted.state.is_some() {
        return Err(wrong("a replay takes messages by source, type, sender, control id, time and position"));
    }
    let state = mode.set_aside_only.then_some(EntryState::SetAside);
    let mut query = wanted.query(&doors, state, REPLAY_MAX)?;
    (query.ascending, query.living) = (true, true);
    let rows = doors.silver.entries(name, &query).await?;
    let next = rows.last().filter(|_| rows.len() >= query.max).map(|row| row.index + 1);
    let messages: Vec<u64> = rows.iter().filter(|row| row.kind.contains('^')).map(|row| row.index).collect();
    let mut tally = Tally::default();
    if !mode.dry_run {
        tally = replay_all(&doors, &call, name, &messages, !mode.set_aside_only).await?;
    }
    let value = json!({
        "replayed": if mode.dry_run { 0 } else { messages.len() },
        "found": messages.len(),
        "versions": tally.versions,
        "resolved": tally.resolved,
        "left": tally.left,
        "first": next,
    });
    let what = format!("replay of {} entries", messages.len());
    released(&doors, &call, &permit, Action::Replay, what, &value).await
}

#[derive(Default)]
struct Tally {
    versions: u64,
    resolved: u64,
    left: u64,
}

async fn replay_all(
    doors: &Doors,
    call: &Call,
    name: &DomainName,
    messages: &[u64],
    whole: bool,
) -> Result<Tally, AdminError> {
    let silver = &doors.silver;
    let (mut versions, mut open) = (0, 0);
    for index in messages {
        versions += silver.versions_of(name, *index).await?;
        open += silver.open_set_aside(name, *index).await?.len() as u64;
    }
    let mut last = None;
    for index in messages {
        last = Some(append(doors, call, name, "replay", Content::Replay { of: *index, whole }).await?);
    }
    if let Some(last) = last {
        let mut applied = silver.applied(name);
        let _ = applied.wait_for(|upto| *upto > last).await.is_ok();
    }
    let mut tally = Tally::default();
    for index in messages {
        tally.versions += silver.versions_of(name, *index).await?;
        tally.left += silver.open_set_aside(name, *index).await?.len() as u64;
    }
    tally.versions = tally.versions.saturating_sub(versions);
    tally.resolved = open.saturating_sub(tally.left);
    Ok(tally)
}

/// An entry that says what a person decided about an earlier one.
pub(super) async fn append(
    doors: &Doors,
    call: &Call,
    name: &DomainName,
    source: &str,
    content: Content,
) -> Result<u64, AdminError> {
    let write = doors
        .gate
        .node_permit::<base::Write>("refine", name, Layer::Bronze)
        .map_err(|error| AdminError::broken("the journal cannot be written now", error))?;
    let source = SourceName::parse(source).map_err(|error| AdminError::broken("it has no source", error))?;
    let input = clinical::Input {
        source,
        door: Door::Console,
        content,
        control_key: None,
        trace: call.trace,
        body: Bytes::new(),
        shadow: false,
        one_content: false,
    };
    let accepted = doors.domains[name].intake.accept(&write, input).await;
    Ok(accepted.map_err(|error| AdminError::broken("it could not be stored", error))?.index)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Days {
    from: Option<String>,
    to: Option<String>,
}

/// Messages and bytes by day and source, as they came and as they lie.
async fn size(
    State(doors): State<Arc<Doors>>,
    Path(name): Path<String>,
    Query(days): Query<Days>,
    Admin(call): Admin,
) -> Answer {
    let name = domain(&doors, &name)?;
    let permit = call.metadata(&doors, name, "journal").await?;
    let now = doors.clock.now();
    let from = match &days.from {
        Some(text) => moment(text, false)?,
        None => now.plus_ms(-SIZE_DAYS * DAY_MS),
    };
    let to = days.to.as_deref().map_or(Ok(now), |text| moment(text, true))?;
    let days: Vec<Value> = doors
        .silver
        .sizes_by_day(name, from, to)
        .await?
        .into_iter()
        .map(|day| {
            json!({
                "day": day.day.to_string().chars().take(10).collect::<String>(),
                "source": day.source,
                "messages": day.messages,
                "raw_bytes": day.raw_bytes,
                "stored_bytes": day.stored_bytes,
                "expired": day.expired,
            })
        })
        .collect();
    released(&doors, &call, &permit, Action::MetadataRead, "journal sizes", &json!({ "days": days })).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expiring {
    #[serde(default)]
    dry_run: bool,
}

async fn expire(State(doors): State<Arc<Doors>>, Path(name): Path<String>, Local(call): Local, body: Bytes) -> Answer {
    let Expiring { dry_run } = body_of(&body, r#"{"dry_run": true} or {}"#)?;
    let name = domain(&doors, &name)?;
    let permit = call.manage(&doors, Action::Manage, name, "journal").await?;
    let expiry = doors
        .journals
        .expire(name, dry_run)
        .await
        .map_err(|error| AdminError::broken("bodies could not be destroyed", error))?;
    let what = format!("end of {} raw bodies", expiry.destroyed);
    released(&doors, &call, &permit, Action::Manage, what, &expiry).await
}
