//! FHIR writes, applied in journal order: create, update, delete, transaction and batch (R4 §3.1.0).
//!
//! The door has parsed and validated the body already; what depends on the state is decided here, so that a replay of
//! the journal decides the same.

use std::collections::HashMap;

use base::{LogicalId, Ordinal};
use fhir::json::{Object, Value};
use fhir::validate::Issue;
use store::{Outcome, StoreError};

use super::work::{Stage, State, Work};
use crate::envelope::{FhirRequest, Interaction};
use crate::ids::IdMint;

/// A write that was refused; nothing of it was applied.
#[derive(Debug)]
pub struct Refused {
    pub status: u16,
    pub issue: Issue,
}

#[derive(Debug)]
pub enum Failure {
    Refused(Refused),
    Store(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Failure::Store(error)
    }
}

fn refuse<T>(status: u16, code: &'static str, at: impl Into<String>, text: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Refused(Refused { status, issue: Issue::error(code, at, text) }))
}

/// What a single interaction did.
struct Done {
    status: u16,
    rtype: String,
    id: Option<LogicalId>,
    version: Option<u32>,
    body: Option<std::sync::Arc<Value>>,
}

/// Applies one journal entry of kind FHIR and says what to answer.
pub async fn apply(
    work: &mut Work<'_>,
    ids: &IdMint,
    index: u64,
    received: base::Timestamp,
    request: &FhirRequest,
    body: Value,
    source: &str,
) -> Result<Outcome, StoreError> {
    if request.interaction == Interaction::Bundle {
        return match body.get("type").and_then(Value::as_str) {
            Some("batch") => batch(work, ids, index, received, &body, source).await,
            _ => {
                let mut stage = work.stage(index, received);
                match transaction(&mut stage, ids, body, source).await {
                    Ok(response) => {
                        stage.keep();
                        Ok(bundle_outcome("transaction-response", response))
                    }
                    Err(Failure::Refused(refused)) => {
                        stage.discard();
                        Ok(refused_outcome(&refused))
                    }
                    Err(Failure::Store(error)) => Err(error),
                }
            }
        };
    }
    let mut stage = work.stage(index, received);
    let entry = Entry {
        at: request.rtype.clone(),
        interaction: request.interaction,
        rtype: request.rtype.clone(),
        id: request.id.as_deref().and_then(|id| LogicalId::parse(id).ok()),
        query: None,
        if_match: request.if_match,
        if_none_exist: request.if_none_exist.clone(),
        full_url: None,
        resource: body,
    };
    match single(&mut stage, ids, 0, entry, source).await {
        Ok(done) => {
            stage.keep();
            Ok(done_outcome(&done))
        }
        Err(Failure::Refused(refused)) => {
            stage.discard();
            Ok(refused_outcome(&refused))
        }
        Err(Failure::Store(error)) => Err(error),
    }
}

/// One entry of a Bundle, or a request by itself.
struct Entry {
    /// Where it stands, for error texts: `Bundle.entry[3]`.
    at: String,
    interaction: Interaction,
    rtype: String,
    id: Option<LogicalId>,
    /// The query of a conditional update or delete.
    query: Option<String>,
    if_match: Option<u32>,
    if_none_exist: Option<String>,
    full_url: Option<String>,
    resource: Value,
}

async fn single(
    stage: &mut Stage<'_, '_>,
    ids: &IdMint,
    unit: u32,
    entry: Entry,
    source: &str,
) -> Result<Done, Failure> {
    let target = resolve_target(stage, ids, unit, &entry).await?;
    write(stage, entry, target, None, source).await
}

/// Where an entry writes: decided before references are rewritten, since others may point to it.
#[derive(Clone)]
struct TargetId {
    id: LogicalId,
    /// A conditional create whose match exists: nothing is written.
    exists: bool,
}

async fn resolve_target(
    stage: &mut Stage<'_, '_>,
    ids: &IdMint,
    unit: u32,
    entry: &Entry,
) -> Result<TargetId, Failure> {
    if fhir::definitions::is_server_owned(&entry.rtype) {
        return refuse(405, "not-supported", &*entry.at, "this type is made by the server alone: it cannot be written");
    }
    let condition = match entry.interaction {
        Interaction::Create => entry.if_none_exist.as_deref(),
        _ => entry.query.as_deref(),
    };
    if let Some(query) = condition {
        let found = matches(stage, &entry.rtype, query, &entry.at).await?;
        return match (found.as_slice(), entry.interaction) {
            ([], _) => Ok(TargetId { id: ids.mint(stage.index, unit), exists: false }),
            ([one], Interaction::Create) => Ok(TargetId { id: one.clone(), exists: true }),
            ([one], _) => Ok(TargetId { id: one.clone(), exists: false }),
            _ => refuse(
                412,
                "multiple-matches",
                &*entry.at,
                "the condition matches more than one resource: make it more selective",
            ),
        };
    }
    match (&entry.id, entry.interaction) {
        (Some(id), Interaction::Update | Interaction::Delete) => Ok(TargetId { id: id.clone(), exists: false }),
        (None, Interaction::Update | Interaction::Delete) => {
            refuse(400, "required", &*entry.at, "an update or delete needs an id or a condition")
        }
        _ => Ok(TargetId { id: ids.mint(stage.index, unit), exists: false }),
    }
}

/// Resources that satisfy a condition. Conditions by `identifier` and `_id` see everything before this entry.
async fn matches(stage: &mut Stage<'_, '_>, rtype: &str, query: &str, at: &str) -> Result<Vec<LogicalId>, Failure> {
    let pairs = fhir::search::decode_query(query);
    match pairs.as_slice() {
        [(name, token)] if name == "identifier" => {
            let (system, value) = token.split_once('|').unwrap_or(("", token));
            Ok(stage.find(rtype, system, value).await?)
        }
        [(name, id)] if name == "_id" => match LogicalId::parse(id) {
            Ok(id) => Ok(stage.current(rtype, &id).await?.filter(|s| !s.deleted).map(|_| id).into_iter().collect()),
            Err(_) => Ok(Vec::new()),
        },
        _ => refuse(
            400,
            "not-supported",
            at,
            "a condition may be one `identifier=system|value` or one `_id`: other parameters are not supported in conditions",
        ),
    }
}

/// Applies one write whose target is known. `ordinal` is the source record chosen for a Patient of a Bundle.
async fn write(
    stage: &mut Stage<'_, '_>,
    entry: Entry,
    target: TargetId,
    ordinal: Option<Ordinal>,
    source: &str,
) -> Result<Done, Failure> {
    let Entry { at, interaction, rtype, if_match, resource, .. } = entry;
    let before = stage.current(&rtype, &target.id).await?;
    if rtype == "Patient" && stage.work.silver.is_erased_patient(stage.work.domain, &target.id) {
        return refuse(410, "deleted", at, "this patient was erased, and its id is not used again: create a new one");
    }
    if let Some(expected) = if_match
        && before.as_ref().is_none_or(|state| state.version != expected)
    {
        return refuse(412, "conflict", at, "the resource is not at the version that If-Match names: read it again");
    }
    let done =
        |status, version, body| Done { status, rtype: rtype.clone(), id: Some(target.id.clone()), version, body };
    match interaction {
        Interaction::Create if target.exists => {
            Ok(done(200, before.as_ref().map(|s| s.version), before.map(|s| s.body)))
        }
        Interaction::Delete => {
            let version = stage.delete(&rtype, &target.id).await?;
            Ok(done(204, version, None))
        }
        Interaction::Create | Interaction::Update => {
            let patient = match ordinal {
                Some(ordinal) => ordinal,
                None => patient_of(stage, &rtype, &resource, before.as_ref(), &at).await?,
            };
            if let Some(state) = &before
                && state.patient != patient
                && state.patient.is_patient()
                && state.patient != Ordinal::UNKNOWN
            {
                return refuse(
                    409,
                    "conflict",
                    at,
                    "an update may not move a resource from one patient to another: create a new one and mark this one entered-in-error",
                );
            }
            let version = stage.put(&rtype, &target.id, patient, resource, source).await?;
            let created = before.is_none_or(|state| state.deleted);
            let body = stage.current(&rtype, &target.id).await?.map(|state| state.body);
            Ok(done(if created { 201 } else { 200 }, Some(version), body))
        }
        Interaction::Bundle => refuse(400, "invalid", at, "a Bundle may not be nested in a Bundle"),
    }
}

/// The source record a resource is about.
pub(super) async fn patient_of(
    stage: &mut Stage<'_, '_>,
    rtype: &str,
    resource: &Value,
    before: Option<&State>,
    at: &str,
) -> Result<Ordinal, Failure> {
    if rtype == "Patient" {
        return Ok(match before {
            Some(state) => state.patient,
            None => stage.new_patient(),
        });
    }
    if fhir::reference::patient_parameters(rtype).is_empty() {
        return Ok(Ordinal::NONE);
    }
    let Some(reference) = fhir::reference::patient_reference(resource) else {
        return Ok(Ordinal::UNKNOWN);
    };
    let local = reference.strip_prefix("Patient/").map(|rest| rest.split('/').next().unwrap_or(rest));
    match local.map(LogicalId::parse) {
        Some(Ok(id)) => match stage.current("Patient", &id).await? {
            Some(patient) if !patient.deleted => Ok(patient.patient),
            _ if stage.work.silver.is_erased_patient(stage.work.domain, &id) => {
                refuse(410, "deleted", at, "the patient this resource refers to was erased: nothing is added to it")
            }
            _ => refuse(422, "not-found", at, "the patient this resource refers to is not in this domain"),
        },
        Some(Err(_)) => refuse(422, "value", at, "the reference to the patient is not a valid reference"),
        None => Ok(Ordinal::UNKNOWN),
    }
}

async fn transaction(
    stage: &mut Stage<'_, '_>,
    ids: &IdMint,
    bundle: Value,
    source: &str,
) -> Result<Vec<Value>, Failure> {
    let mut entries = bundle_entries(bundle)?;
    let mut targets = Vec::with_capacity(entries.len());
    let mut urls: HashMap<String, String> = HashMap::new();
    for (n, entry) in entries.iter().enumerate() {
        let target = resolve_target(stage, ids, n as u32, entry).await?;
        let local = format!("{}/{}", entry.rtype, target.id);
        if let Some(url) = &entry.full_url
            && urls.insert(url.clone(), local).is_some_and(|earlier| !earlier.ends_with(target.id.as_str()))
        {
            return refuse(400, "duplicate", &*entry.at, "two entries have the same fullUrl");
        }
        targets.push(target);
    }
    refuse_same_target(&entries, &targets)?;
    for entry in &mut entries {
        rewrite_references(stage, entry, &urls).await?;
    }
    // Patients first, so that what refers to them finds its source record; then R4 §3.1.0.11.2's order.
    let mut ordinals = vec![None; entries.len()];
    for (n, entry) in entries.iter().enumerate() {
        if entry.rtype == "Patient" && matches!(entry.interaction, Interaction::Create | Interaction::Update) {
            let before = stage.current("Patient", &targets[n].id).await?;
            ordinals[n] = Some(match before {
                Some(state) => state.patient,
                None => stage.new_patient(),
            });
        }
    }
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by_key(|n| {
        let entry = &entries[*n];
        let step = match entry.interaction {
            Interaction::Delete => 0,
            Interaction::Create => 1,
            Interaction::Update => 2,
            Interaction::Bundle => 3,
        };
        (step, entry.rtype != "Patient", *n)
    });
    let mut slots: Vec<Option<Entry>> = entries.into_iter().map(Some).collect();
    let mut answers: Vec<Value> = vec![Value::Null; slots.len()];
    for n in order {
        let Some(entry) = slots[n].take() else { continue };
        let done = write(stage, entry, targets[n].clone(), ordinals[n], source).await?;
        answers[n] = done_entry(&done);
    }
    Ok(answers)
}

/// "If any resource identities overlap in steps 1-3, the transaction fails" (R4 §3.1.0.11.2).
fn refuse_same_target(entries: &[Entry], targets: &[TargetId]) -> Result<(), Failure> {
    let mut seen = std::collections::HashSet::new();
    for (entry, target) in entries.iter().zip(targets) {
        if !target.exists && !seen.insert((&entry.rtype, &target.id)) {
            return refuse(400, "duplicate", &*entry.at, "two entries change the same resource");
        }
    }
    Ok(())
}

async fn batch(
    work: &mut Work<'_>,
    ids: &IdMint,
    index: u64,
    received: base::Timestamp,
    bundle: &Value,
    source: &str,
) -> Result<Outcome, StoreError> {
    let count = bundle.get("entry").map_or(0, |entries| entries.items().len());
    let mut answers = Vec::with_capacity(count);
    for n in 0..count {
        let mut stage = work.stage(index, received);
        // The door looks at a batch as a whole only: each entry is checked here, and answered by itself.
        let entry = bundle_entry(bundle, n).and_then(|entry| match refusing_issue(&entry.resource) {
            Some(issue) => Err(Failure::Refused(Refused { status: 422, issue })),
            None => Ok(entry),
        });
        let result = match entry {
            Ok(entry) => single(&mut stage, ids, n as u32, entry, source).await,
            Err(failure) => Err(failure),
        };
        match result {
            Ok(done) => {
                stage.keep();
                answers.push(done_entry(&done));
            }
            Err(Failure::Refused(refused)) => {
                stage.discard();
                answers.push(refused_entry(&refused));
            }
            Err(Failure::Store(error)) => return Err(error),
        }
    }
    Ok(bundle_outcome("batch-response", answers))
}

/// The first thing about a resource for which it cannot be taken.
fn refusing_issue(resource: &Value) -> Option<Issue> {
    if resource.is_null() {
        return None;
    }
    fhir::validate::validate(resource).into_iter().find(|issue| issue.severity.refuses())
}

fn bundle_entries(bundle: Value) -> Result<Vec<Entry>, Failure> {
    let count = bundle.get("entry").map_or(0, |entries| entries.items().len());
    (0..count).map(|n| bundle_entry(&bundle, n)).collect()
}

/// Reads `Bundle.entry[n]`: its request, resource and fullUrl.
fn bundle_entry(bundle: &Value, n: usize) -> Result<Entry, Failure> {
    let at = format!("Bundle.entry[{n}]");
    let entry = bundle.get("entry").and_then(Value::as_array).and_then(|list| list.get(n)).unwrap_or(&Value::Null);
    let text = |name: &str| entry.path(&["request", name]).and_then(Value::as_str);
    let interaction = match text("method") {
        Some("POST") => Interaction::Create,
        Some("PUT") => Interaction::Update,
        Some("DELETE") => Interaction::Delete,
        Some("GET" | "HEAD") => {
            return refuse(
                405,
                "not-supported",
                at,
                "reads are not supported inside a Bundle: send them by themselves",
            );
        }
        Some("PATCH") => return refuse(405, "not-supported", at, "PATCH is not supported inside a Bundle"),
        _ => return refuse(400, "required", format!("{at}.request.method"), "request.method is missing or unknown"),
    };
    let url = text("url").unwrap_or_default().trim_start_matches('/');
    let (path, query) = url.split_once('?').map_or((url, None), |(path, query)| (path, Some(query.to_owned())));
    let mut parts = path.split('/');
    let rtype = parts.next().unwrap_or_default().to_owned();
    let id = parts.next().filter(|id| !id.is_empty());
    if fhir::definitions::resource_type(&rtype).is_none() || parts.next().is_some() {
        return refuse(
            400,
            "value",
            format!("{at}.request.url"),
            "request.url must be a resource type, or a type and an id",
        );
    }
    let id = match id.map(LogicalId::parse) {
        None => None,
        Some(Ok(id)) => Some(id),
        Some(Err(_)) => {
            return refuse(400, "value", format!("{at}.request.url"), "the id in request.url is not a valid id");
        }
    };
    let resource = entry.get("resource").cloned().unwrap_or_default();
    if interaction != Interaction::Delete && resource.get("resourceType").and_then(Value::as_str) != Some(&rtype) {
        return refuse(
            400,
            "invalid",
            format!("{at}.resource"),
            "the resource is missing, or is not of the type in request.url",
        );
    }
    let if_match = match text("ifMatch").map(parse_etag) {
        None => None,
        Some(Some(version)) => Some(version),
        Some(None) => return refuse(400, "value", format!("{at}.request.ifMatch"), "ifMatch is not an ETag of ours"),
    };
    Ok(Entry {
        interaction,
        rtype,
        id,
        query,
        if_match,
        if_none_exist: text("ifNoneExist").map(str::to_owned),
        full_url: entry.get("fullUrl").and_then(Value::as_str).map(str::to_owned),
        resource,
        at,
    })
}

/// `W/"3"` or `"3"` (R4 §3.1.0.1.3).
pub fn parse_etag(text: &str) -> Option<u32> {
    text.trim().trim_start_matches("W/").trim_matches('"').parse().ok()
}

/// References to other entries become references to their ids; conditional references are looked up.
async fn rewrite_references(
    stage: &mut Stage<'_, '_>,
    entry: &mut Entry,
    urls: &HashMap<String, String>,
) -> Result<(), Failure> {
    let mut conditional: Vec<(String, String)> = Vec::new();
    let mut unresolved = None;
    fhir::reference::for_each_reference_mut(&mut entry.resource, &mut |path, reference| {
        let Some(target) = reference.get("reference").and_then(Value::as_str) else { return };
        if let Some(local) = urls.get(target) {
            let local = local.clone();
            if let Some(object) = reference.as_object_mut() {
                object.insert("reference", Value::from(local));
            }
        } else if target.starts_with("urn:") {
            unresolved.get_or_insert_with(|| path.to_owned());
        } else if !target.starts_with('#') && !target.contains("://") && target.contains('?') {
            conditional.push((path.to_owned(), target.to_owned()));
        }
    });
    if let Some(path) = unresolved {
        return refuse(
            400,
            "not-found",
            format!("{}.resource.{path}", entry.at),
            "the reference points to no entry of this Bundle",
        );
    }
    let mut found: HashMap<String, String> = HashMap::new();
    for (path, target) in conditional {
        let (rtype, query) = target.split_once('?').unwrap_or((&target, ""));
        let at = format!("{}.resource.{path}", entry.at);
        match matches(stage, rtype, query, &at).await?.as_slice() {
            [one] => {
                found.insert(target.clone(), format!("{rtype}/{one}"));
            }
            [] => return refuse(412, "not-found", at, "the conditional reference matches no resource"),
            _ => {
                return refuse(412, "multiple-matches", at, "the conditional reference matches more than one resource");
            }
        }
    }
    if !found.is_empty() {
        fhir::reference::for_each_reference_mut(&mut entry.resource, &mut |_, reference| {
            let local = reference.get("reference").and_then(Value::as_str).and_then(|t| found.get(t)).cloned();
            if let (Some(local), Some(object)) = (local, reference.as_object_mut()) {
                object.insert("reference", Value::from(local));
            }
        });
    }
    Ok(())
}

fn done_headers(done: &Done) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    if let (Some(id), Some(version)) = (&done.id, done.version) {
        headers.push(("location".to_owned(), format!("{}/{id}/_history/{version}", done.rtype)));
        headers.push(("etag".to_owned(), format!("W/\"{version}\"")));
    }
    headers
}

fn done_outcome(done: &Done) -> Outcome {
    let body = done.body.as_ref().map_or_else(Vec::new, |body| fhir::json::to_vec(body));
    Outcome { status: done.status, headers: done_headers(done), body }
}

pub fn refused_outcome(refused: &Refused) -> Outcome {
    let body = fhir::json::to_vec(&fhir::validate::operation_outcome(std::slice::from_ref(&refused.issue)));
    Outcome { status: refused.status, headers: Vec::new(), body }
}

fn bundle_outcome(kind: &str, entries: Vec<Value>) -> Outcome {
    let mut bundle = Object::default();
    bundle.insert("resourceType", Value::from("Bundle"));
    bundle.insert("type", Value::from(kind));
    bundle.insert("entry", Value::Array(entries));
    Outcome { status: 200, headers: Vec::new(), body: fhir::json::to_vec(&Value::Object(bundle)) }
}

fn done_entry(done: &Done) -> Value {
    let mut response = Object::default();
    response.insert("status", Value::from(status_line(done.status)));
    for (name, value) in done_headers(done) {
        response.insert(&name, Value::from(value));
    }
    if let Some(modified) = done.body.as_ref().and_then(|b| b.path(&["meta", "lastUpdated"])) {
        response.insert("lastModified", modified.clone());
    }
    entry_with(response)
}

fn refused_entry(refused: &Refused) -> Value {
    let mut response = Object::default();
    response.insert("status", Value::from(status_line(refused.status)));
    response.insert("outcome", fhir::validate::operation_outcome(std::slice::from_ref(&refused.issue)));
    entry_with(response)
}

fn entry_with(response: Object) -> Value {
    let mut entry = Object::default();
    entry.insert("response", Value::Object(response));
    Value::Object(entry)
}

fn status_line(status: u16) -> String {
    let reason = match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        405 => "Method Not Allowed",
        410 => "Gone",
        409 => "Conflict",
        412 => "Precondition Failed",
        422 => "Unprocessable Entity",
        _ => "Bad Request",
    };
    format!("{status} {reason}")
}
