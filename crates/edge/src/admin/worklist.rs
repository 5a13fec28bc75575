//! Results that could not find their patient or order: a list, and a person's word on whose they are, which can be taken
//! back. Each word is a journal entry and on record; the list holds no PHI.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use base::{DomainName, Layer, LogicalId, Ordinal, Read, Write};
use clinical::{Content, Matched};
use gate::{Access, Ask, Held};
use policy::Action;
use serde::Deserialize;
use serde_json::{Value, json};
use store::{EntryQuery, EntryRow};

use super::break_glass::body_of;
use super::journal::append;
use super::{Admin, AdminError, Answer, domain, json_draft, release, released};
use crate::doors::{Call, Doors};

pub fn router() -> Router<Arc<Doors>> {
    Router::new()
        .route("/admin/worklist/{domain}", get(list))
        .route("/admin/worklist/{domain}/{index}/match", post(matched))
        .route("/admin/worklist/{domain}/{index}/undo", post(undo))
}

const PAGE_MAX: usize = 500;
/// Codes of units that wait for a patient or an order.
const CODES: [&str; 4] = ["patient-unidentified", "patient-missing", "ambiguous", "parent-missing"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    /// Where an earlier page said that the next begins.
    #[serde(default)]
    after: u64,
    max: Option<usize>,
    /// Reports of known patients that no order is known of, the newest first; one page.
    #[serde(default)]
    orders: bool,
}

async fn entry(doors: &Doors, name: &DomainName, index: u64) -> Result<Option<EntryRow>, AdminError> {
    let query = EntryQuery { first: Some(index), before: Some(index + 1), max: 1, ..EntryQuery::default() };
    Ok(doors.silver.entries(name, &query).await?.pop())
}

/// Reports and results about nobody that is known, by the message they came in.
async fn list(
    State(doors): State<Arc<Doors>>,
    Path(name): Path<String>,
    Query(asked): Query<Page>,
    Admin(call): Admin,
) -> Answer {
    let name = domain(&doors, &name)?;
    let permit = call.metadata(&doors, name, "set-aside").await?;
    let max = asked.max.unwrap_or(100).clamp(1, PAGE_MAX);
    if asked.orders {
        let rows = without_order(&doors, name, max).await?;
        let value = json!({ "waiting": rows, "after": Value::Null });
        return released(&doors, &call, &permit, Action::MetadataRead, "worklist", &value).await;
    }
    let (waiting, after) = doors.silver.waiting(name, asked.after, max).await?;
    let mut rows = Vec::with_capacity(waiting.len());
    for one in waiting {
        let entry = entry(&doors, name, one.index).await?;
        let asides = doors.silver.set_aside_of(name, one.index).await?;
        let asides: Vec<Value> = asides
            .iter()
            .filter(|aside| !aside.resolved && CODES.contains(&aside.unit.code.as_str()))
            .map(|aside| json!({ "place": aside.unit.place, "code": aside.unit.code, "critical": aside.unit.critical }))
            .collect();
        let resources: &BTreeMap<String, u64> = &one.resources;
        rows.push(json!({
            "position": format!("journal-{name}/{}", one.index),
            "index": one.index,
            "source": entry.as_ref().map(|row| row.source.to_string()),
            "type": entry.as_ref().map(|row| row.kind.clone()),
            "since": one.since.to_string(),
            "lacks": "patient",
            "resources": resources,
            "set_aside": asides,
        }));
    }
    let value = json!({ "waiting": rows, "after": after });
    released(&doors, &call, &permit, Action::MetadataRead, "worklist", &value).await
}

/// Reports of messages that lead to no order.
async fn without_order(doors: &Doors, name: &DomainName, max: usize) -> Result<Vec<Value>, AdminError> {
    let permit = doors
        .gate
        .node_permit::<Read>("refine", name, Layer::Silver)
        .map_err(|error| AdminError::broken("silver cannot be read now", error))?;
    let criteria = [("based-on:missing", "true".to_owned()), ("_count", max.to_string())];
    let criteria = criteria.map(|(key, value)| (key.to_owned(), value));
    let query = fhir::search::parse_query("DiagnosticReport", &criteria, &doors.limits, false)
        .map_err(|_| AdminError::broken("reports cannot be searched now", "the question does not read"))?;
    let mut rows = Vec::new();
    for report in doors.silver.search(&permit, name, &query).await?.resources {
        let Some(index) = report.positions.first().copied() else { continue };
        let entry = entry(doors, name, index).await?.filter(|row| row.kind.contains('^'));
        if let Some(entry) = entry.filter(|_| report.patient != Ordinal::UNKNOWN) {
            rows.push(json!({
                "position": format!("journal-{name}/{index}"),
                "index": index,
                "source": entry.source,
                "type": entry.kind,
                "since": report.last_updated.to_string(),
                "lacks": "order",
                "resources": { "DiagnosticReport": 1 },
                "set_aside": [],
            }));
        }
    }
    Ok(rows)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Match {
    /// `Patient/ID`.
    patient: Option<String>,
    /// `ServiceRequest/ID`.
    order: Option<String>,
}

fn wrong(text: &str) -> AdminError {
    AdminError(StatusCode::BAD_REQUEST, text.to_owned())
}

/// The id in `Type/ID`.
fn id_of(text: &str, rtype: &str) -> Result<LogicalId, AdminError> {
    let id = text.strip_prefix(rtype).and_then(|rest| rest.strip_prefix('/')).unwrap_or(text);
    LogicalId::parse(id).map_err(|_| wrong("write the patient as Patient/ID and the order as ServiceRequest/ID"))
}

async fn ordinal_of(doors: &Doors, name: &DomainName, rtype: &str, id: &LogicalId) -> Result<Ordinal, AdminError> {
    let found = doors.silver.patient_of(name, rtype, id).await?;
    let what = if rtype == "Patient" { "patient" } else { "order of a known patient" };
    found.filter(|o| o.is_patient() && *o != Ordinal::UNKNOWN).ok_or_else(|| AdminError::not_found(what))
}

/// A person says whose an entry's results are: they become that patient's.
async fn matched(
    State(doors): State<Arc<Doors>>,
    Path((name, index)): Path<(String, u64)>,
    Admin(call): Admin,
    body: Bytes,
) -> Answer {
    let wanted: Match =
        body_of(&body, r#"{"patient": "Patient/ID", "order": "ServiceRequest/ID"}, one of them or both"#)?;
    let name = domain(&doors, &name)?;
    let patient = wanted.patient.as_deref().map(|text| id_of(text, "Patient")).transpose()?;
    let order = wanted.order.as_deref().map(|text| id_of(text, "ServiceRequest")).transpose()?;
    let whose = match (&patient, &order) {
        (Some(id), _) => ordinal_of(&doors, name, "Patient", id).await?,
        (None, Some(id)) => ordinal_of(&doors, name, "ServiceRequest", id).await?,
        (None, None) => return Err(wrong("a match names a patient, an order, or both")),
    };
    if let (Some(_), Some(id)) = (&patient, &order)
        && ordinal_of(&doors, name, "ServiceRequest", id).await? != whose
    {
        return Err(wrong("the order is another patient's"));
    }
    let patient = match patient {
        Some(id) => Some(id.to_string()),
        // An order alone says whose it is.
        None => patient_id(&doors, name, whose).await?,
    };
    let content = Matched { of: index, patient, order: order.map(|id| id.to_string()), undo: false };
    decide(&doors, &call, name, whose, content).await
}

async fn patient_id(doors: &Doors, name: &DomainName, whose: Ordinal) -> Result<Option<String>, AdminError> {
    let permit = doors
        .gate
        .node_permit::<Write>("refine", name, Layer::Silver)
        .map_err(|error| AdminError::broken("silver cannot be read now", error))?;
    Ok(doors.silver.patient_id(&permit, name, whose).await?.map(|id| id.to_string()))
}

/// The match is taken back: the results wait again.
async fn undo(State(doors): State<Arc<Doors>>, Path((name, index)): Path<(String, u64)>, Admin(call): Admin) -> Answer {
    let name = domain(&doors, &name)?;
    let whose = match doors.silver.matched_to(name, index).await? {
        Some(ordinal) => ordinal,
        None => return Err(AdminError::not_found("match of this entry")),
    };
    let content = Matched { of: index, patient: None, order: None, undo: true };
    decide(&doors, &call, name, whose, content).await
}

/// What a match changes is that patient's results: who may write those decides about it.
async fn decide(doors: &Doors, call: &Call, name: &DomainName, whose: Ordinal, content: Matched) -> Answer {
    let index = content.of;
    if entry(doors, name, index).await?.is_none_or(|row| !row.kind.contains('^')) {
        return Err(AdminError::not_found("message at this position"));
    }
    let ask: Ask =
        call.ask(Action::Write, name, Layer::Silver).kinds(["DiagnosticReport", "Observation"]).patient(whose);
    let permit = doors.gate.permit::<Write>(&call.caller, ask).await?;
    let undone = content.undo;
    let at = append(doors, call, name, "match", Content::Match(content)).await?;
    let mut applied = doors.silver.applied(name);
    let _ = applied.wait_for(|upto| *upto > at).await.is_ok();
    let changed = doors.silver.versions_of(name, at).await?;
    let value = json!({
        "position": format!("journal-{name}/{index}"),
        "entry": format!("journal-{name}/{at}"),
        "changed": changed,
    });
    let what = if undone { format!("match of entry {index} taken back") } else { format!("match of entry {index}") };
    let access = Access::of(&permit, Action::Write, &call.origin).what(what).rows(changed).patients(name, [whose.0]);
    release(doors, call, Held::under(&permit, json_draft(&value)), access).await
}
