//! FHIR writes, applied in journal order: create, update, patch, delete, transaction and batch (R4 §3.1.0).
//!
//! The door has parsed and validated the body already; what depends on the state is decided here, so that a replay of
//! the journal decides the same. Conditions are in `condition`, Bundles in `bundle`, what is answered in `answer`.

mod answer;
mod bundle;
mod condition;

use base::{LogicalId, Ordinal};
use fhir::json::{ParseLimits, Value};
use fhir::patch::Patch;
use fhir::validate::Issue;
use store::{Outcome, StoreError};

use self::answer::{Done, done_outcome};
pub use self::answer::{Refused, refused_outcome, status_line};
pub use self::condition::asks_index;
use self::condition::matches;
use super::work::{Stage, State, Work};
use crate::envelope::{FhirRequest, Interaction};
use crate::ids::IdMint;
use crate::reach::Within;

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

/// What all writes of one journal entry share.
pub struct Writing<'a> {
    pub ids: &'a IdMint,
    pub index: u64,
    pub received: base::Timestamp,
    /// `meta.source`.
    pub source: &'a str,
    pub within: Within,
}

/// Applies one journal entry of kind FHIR and says what to answer.
pub async fn apply(
    work: &mut Work<'_>,
    writing: &Writing<'_>,
    request: &FhirRequest,
    body: Value,
) -> Result<Outcome, StoreError> {
    work.made.clear();
    if request.interaction == Interaction::Bundle {
        return bundle::apply(work, writing, body).await;
    }
    let mut stage = work.stage(writing.index, writing.received);
    let entry = Entry {
        at: request.rtype.clone(),
        interaction: request.interaction,
        rtype: request.rtype.clone(),
        id: request.id.as_deref().and_then(|id| LogicalId::parse(id).ok()),
        criteria: request.criteria.clone(),
        if_match: request.if_match,
        if_none_exist: request.if_none_exist.clone(),
        full_url: None,
        content: body,
    };
    match single(&mut stage, writing, 0, entry).await {
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
    /// Of a conditional update, patch or delete.
    criteria: Option<String>,
    if_match: Option<u32>,
    if_none_exist: Option<String>,
    full_url: Option<String>,
    /// The resource, or the patch.
    content: Value,
}

async fn single(stage: &mut Stage<'_, '_>, writing: &Writing<'_>, unit: u32, entry: Entry) -> Result<Done, Failure> {
    let target = resolve_target(stage, writing, unit, &entry).await?;
    write(stage, writing, entry, target, None).await
}

/// What an entry writes to: decided before references are rewritten, since others may point to it.
#[derive(Clone)]
enum Target {
    To(LogicalId),
    /// A conditional create whose match is there: nothing is written.
    Exists(LogicalId),
    /// A conditional delete without a match.
    Nothing,
}

impl Target {
    fn id(&self) -> Option<&LogicalId> {
        match self {
            Target::To(id) | Target::Exists(id) => Some(id),
            Target::Nothing => None,
        }
    }
}

async fn resolve_target(
    stage: &mut Stage<'_, '_>,
    writing: &Writing<'_>,
    unit: u32,
    entry: &Entry,
) -> Result<Target, Failure> {
    if fhir::definitions::is_server_owned(&entry.rtype) {
        return refuse(405, "not-supported", &*entry.at, "this type is made by the server alone: it cannot be written");
    }
    let condition = match entry.interaction {
        Interaction::Create => entry.if_none_exist.as_deref(),
        _ => entry.criteria.as_deref(),
    };
    if let Some(criteria) = condition {
        let found = matches(stage, writing, &entry.rtype, criteria, &entry.at).await?;
        return match found.as_slice() {
            [] => without_match(stage, writing, unit, entry).await,
            [one] => with_match(entry, one),
            _ => refuse(
                412,
                "multiple-matches",
                &*entry.at,
                "the condition matches more than one resource: make it more selective",
            ),
        };
    }
    match (&entry.id, entry.interaction) {
        (_, Interaction::Create) => Ok(Target::To(writing.ids.mint(stage.index, unit))),
        (Some(id), _) => Ok(Target::To(id.clone())),
        (None, _) => refuse(400, "required", &*entry.at, "an update, patch or delete needs an id or a condition"),
    }
}

/// R4 §3.1.0.4.3, §3.1.0.5, §3.1.0.7, §3.1.0.8.1: no match.
async fn without_match(
    stage: &mut Stage<'_, '_>,
    writing: &Writing<'_>,
    unit: u32,
    entry: &Entry,
) -> Result<Target, Failure> {
    match (entry.interaction, entry.content.get("id").and_then(Value::as_str)) {
        (Interaction::Delete, _) => Ok(Target::Nothing),
        (Interaction::Patch, _) => refuse(404, "not-found", &*entry.at, "the condition matches no resource"),
        // An update as create, of the id that the client gives.
        (Interaction::Update, Some(id)) => {
            let Ok(id) = LogicalId::parse(id) else {
                return refuse(400, "value", &*entry.at, "the resource's id is not a valid id");
            };
            match stage.current(&entry.rtype, &id).await? {
                Some(state) if !state.deleted => {
                    let text = "the condition matches no resource, and another one has this id already";
                    refuse(409, "conflict", &*entry.at, text)
                }
                _ => Ok(Target::To(id)),
            }
        }
        _ => Ok(Target::To(writing.ids.mint(stage.index, unit))),
    }
}

fn with_match(entry: &Entry, one: &LogicalId) -> Result<Target, Failure> {
    let given = entry.content.get("id").and_then(Value::as_str);
    match entry.interaction {
        Interaction::Create => Ok(Target::Exists(one.clone())),
        Interaction::Update if given.is_some_and(|id| id != one.as_str()) => {
            refuse(400, "invalid", &*entry.at, "the condition matches a resource of another id than the one given")
        }
        _ => Ok(Target::To(one.clone())),
    }
}

/// Applies one write whose target is known. `ordinal` is the source record chosen for a Patient of a Bundle.
async fn write(
    stage: &mut Stage<'_, '_>,
    writing: &Writing<'_>,
    entry: Entry,
    target: Target,
    ordinal: Option<Ordinal>,
) -> Result<Done, Failure> {
    let Entry { at, interaction, rtype, if_match, content, .. } = entry;
    let exists = matches!(target, Target::Exists(_));
    let Some(id) = target.id() else {
        return Ok(Done { status: 204, rtype, at: None, body: None, is_own: true });
    };
    let before = stage.current(&rtype, id).await?;
    if rtype == "Patient" && stage.work.silver.is_erased_patient(stage.work.domain, id) {
        return refuse(410, "deleted", at, "this patient was erased, and its id is not used again: create a new one");
    }
    if before.as_ref().is_some_and(|state| !writing.within.covers(state.patient, state.sensitivity)) {
        return refuse(404, "not-found", at, "there is no such resource here, or none that you may see");
    }
    if let Some(expected) = if_match
        && before.as_ref().is_none_or(|state| state.version != expected)
    {
        return refuse(412, "conflict", at, "the resource is not at the version that If-Match names: read it again");
    }
    let done = |status, version: Option<u32>, body, is_own| Done {
        status,
        rtype: rtype.clone(),
        at: version.map(|version| (id.clone(), version)),
        body,
        is_own,
    };
    let content = match interaction {
        Interaction::Create if exists => {
            return Ok(done(200, before.as_ref().map(|state| state.version), before.map(|state| state.body), false));
        }
        Interaction::Delete => {
            let version = stage.delete(&rtype, id).await?;
            return Ok(done(204, version, None, true));
        }
        Interaction::Bundle => return refuse(400, "invalid", at, "a Bundle may not be nested in a Bundle"),
        Interaction::Patch => patched(before.as_ref(), &content, &at)?,
        Interaction::Create | Interaction::Update => content,
    };
    let patient = match ordinal {
        Some(ordinal) => ordinal,
        None => patient_of(stage, &rtype, &content, before.as_ref(), &at).await?,
    };
    refuse_move(before.as_ref(), patient, &at)?;
    if !writing.within.covers(patient, base::Sensitivity::NONE) {
        return refuse(403, "forbidden", at, "you may write about certain patients only, and this is about another");
    }
    let version = stage.put(&rtype, id, patient, content, writing.source).await?;
    let created = before.is_none_or(|state| state.deleted);
    let body = stage.current(&rtype, id).await?.map(|state| state.body);
    Ok(done(if created { 201 } else { 200 }, Some(version), body, interaction != Interaction::Patch))
}

/// R4 §3.1.0.7: the patch of what stands, checked as an update would be.
fn patched(before: Option<&State>, patch: &Value, at: &str) -> Result<Value, Failure> {
    let Some(state) = before else {
        return refuse(404, "not-found", at, "there is no such resource here, or none that you may see");
    };
    if state.deleted {
        return refuse(410, "deleted", at, "this resource was deleted");
    }
    let patch = match Patch::read_entry(patch, &ParseLimits::default()) {
        Ok(patch) => patch,
        Err(issue) => return Err(Failure::Refused(Refused { status: 400, issue })),
    };
    let outcome = patch.apply(&state.body).and_then(|patched| match refusing_issue(&patched) {
        Some(issue) => Err(issue),
        None => Ok(patched),
    });
    outcome.map_err(|issue| Failure::Refused(Refused { status: 422, issue }))
}

fn refuse_move(before: Option<&State>, patient: Ordinal, at: &str) -> Result<(), Failure> {
    match before {
        Some(state) if state.patient != patient && state.patient.is_patient() && state.patient != Ordinal::UNKNOWN => {
            let text = "an update may not move a resource from one patient to another: create a new one and mark this \
                        one entered-in-error";
            refuse(409, "conflict", at, text)
        }
        _ => Ok(()),
    }
}

/// The first thing about a resource for which it cannot be taken.
fn refusing_issue(resource: &Value) -> Option<Issue> {
    if resource.is_null() {
        return None;
    }
    fhir::validate::validate(resource).into_iter().find(|issue| issue.severity.refuses())
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

/// `W/"3"` or `"3"` (R4 §3.1.0.1.3).
pub fn parse_etag(text: &str) -> Option<u32> {
    text.trim().trim_start_matches("W/").trim_matches('"').parse().ok()
}
