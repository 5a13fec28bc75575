//! create, update, delete, transaction and batch (R4 §3.1.0): checked here as far as the bytes tell, then appended, and
//! answered with what refine decided.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use base::{DomainName, Layer, LogicalId, Ordinal, PatientSet, Permit, Role, SourceName, TraceContext, Write};
use clinical::{Door, FhirRequest, Interaction};
use fhir::json::{ParseLimits, Value};
use fhir::validate::{Issue, Severity};
use gate::{Access, Held, Outcome};
use policy::Action;

use super::{Answer, FHIR_JSON, FhirError, known_type};
use crate::doors::{Call, Doors};
use crate::http::Peer;
use crate::outgoing::{Draft, Outgoing};

/// The source that API writes of persons and apps count as.
const API_SOURCE: &str = "fhir-api";
const KEY_BYTES_MAX: usize = 200;

pub async fn bundle(
    State(doors): State<Arc<Doors>>,
    Path(domain): Path<String>,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let call = doors.call("fhir", &peer, trace, &headers).await?;
    let value = parse(&doors, &body)?;
    if value.get("resourceType").and_then(Value::as_str) != Some("Bundle") {
        return Err(invalid("a POST to the base takes a Bundle of type transaction or batch"));
    }
    if !matches!(value.get("type").and_then(Value::as_str), Some("transaction" | "batch")) {
        return Err(invalid("the Bundle's type must be transaction or batch"));
    }
    let entries = value.get("entry").and_then(Value::as_array).map_or(0, <[Value]>::len);
    if entries > doors.limits.bundle_entries_max {
        let text = format!("a Bundle may have {} entries here: send several", doors.limits.bundle_entries_max);
        return Err(FhirError::new(StatusCode::PAYLOAD_TOO_LARGE, "too-long", text));
    }
    // The entries of a batch stand alone: one that is wrong is answered by itself, by refine.
    if value.get("type").and_then(Value::as_str) == Some("transaction") {
        check_structure(&value)?;
    }
    let request = FhirRequest {
        interaction: Interaction::Bundle,
        rtype: "Bundle".into(),
        id: None,
        if_match: None,
        if_none_exist: None,
    };
    submit(&doors, &call, &domain, request, &headers, Some(&value), body).await
}

pub async fn create(
    State(doors): State<Arc<Doors>>,
    Path((domain, rtype)): Path<(String, String)>,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let call = doors.call("fhir", &peer, trace, &headers).await?;
    let value = resource_of_type(&doors, &body, known_type(&rtype)?)?;
    let if_none_exist = headers.get("if-none-exist").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let request = FhirRequest { interaction: Interaction::Create, rtype, id: None, if_match: None, if_none_exist };
    submit(&doors, &call, &domain, request, &headers, Some(&value), body).await
}

pub async fn update(
    State(doors): State<Arc<Doors>>,
    Path((domain, rtype, id)): Path<(String, String, String)>,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let call = doors.call("fhir", &peer, trace, &headers).await?;
    let value = resource_of_type(&doors, &body, known_type(&rtype)?)?;
    let id = LogicalId::parse(&id).map_err(|error| invalid(&error.to_string()))?;
    // R4 §3.1.0.4: the id in the body must be there and be the one in the URL.
    if value.get("id").and_then(Value::as_str) != Some(id.as_str()) {
        return Err(invalid("the resource's id must be there and be the id in the URL"));
    }
    let if_match = if_match(&headers)?;
    let request = FhirRequest {
        interaction: Interaction::Update,
        rtype,
        id: Some(id.to_string()),
        if_match,
        if_none_exist: None,
    };
    submit(&doors, &call, &domain, request, &headers, Some(&value), body).await
}

pub async fn delete(
    State(doors): State<Arc<Doors>>,
    Path((domain, rtype, id)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
) -> Answer {
    let call = doors.call("fhir", &peer, trace, &headers).await?;
    if query.is_some_and(|query| !query.is_empty()) {
        return Err(invalid("a delete takes no parameters"));
    }
    let rtype = known_type(&rtype)?.to_owned();
    let id = LogicalId::parse(&id).map_err(|_| FhirError::not_found())?;
    let request = FhirRequest {
        interaction: Interaction::Delete,
        rtype,
        id: Some(id.to_string()),
        if_match: if_match(&headers)?,
        if_none_exist: None,
    };
    submit(&doors, &call, &domain, request, &headers, None, Bytes::new()).await
}

fn invalid(text: &str) -> FhirError {
    FhirError::new(StatusCode::BAD_REQUEST, "invalid", text)
}

fn if_match(headers: &HeaderMap) -> Result<Option<u32>, FhirError> {
    match headers.get(header::IF_MATCH).map(|value| value.to_str().ok().and_then(clinical::parse_etag)) {
        None => Ok(None),
        Some(Some(version)) => Ok(Some(version)),
        Some(None) => Err(invalid("If-Match must be an ETag as this server gives it: W/\"3\"")),
    }
}

fn parse(doors: &Doors, body: &[u8]) -> Result<Value, FhirError> {
    Ok(fhir::json::parse(body, &ParseLimits::from(&*doors.limits))?)
}

fn resource_of_type(doors: &Doors, body: &[u8], rtype: &str) -> Result<Value, FhirError> {
    let value = parse(doors, body)?;
    if value.get("resourceType").and_then(Value::as_str) != Some(rtype) {
        return Err(invalid("the resource is not of the type in the URL"));
    }
    check_structure(&value)?;
    Ok(value)
}

fn check_structure(value: &Value) -> Result<(), FhirError> {
    let issues: Vec<Issue> = fhir::validate::validate(value)
        .into_iter()
        .filter(|issue| matches!(issue.severity, Severity::Error | Severity::Fatal))
        .take(100)
        .collect();
    if issues.is_empty() {
        return Ok(());
    }
    Err(FhirError { status: StatusCode::UNPROCESSABLE_ENTITY, issues, retry_after_s: None })
}

/// The first answer again for the same key and content, within the duplicate window.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, FhirError> {
    let Some(value) = headers.get("idempotency-key").or_else(|| headers.get("x-request-id")) else { return Ok(None) };
    match value.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= KEY_BYTES_MAX => Ok(Some(key.to_owned())),
        _ => Err(invalid("the Idempotency-Key must be 1 to 200 visible characters")),
    }
}

async fn submit(
    doors: &Doors,
    call: &Call,
    domain: &str,
    request: FhirRequest,
    headers: &HeaderMap,
    value: Option<&Value>,
    body: Bytes,
) -> Answer {
    let (domain, parts) = doors.domain(domain).ok_or_else(FhirError::not_found)?;
    let key = idempotency_key(headers)?;
    let (source, permit) = permit_to_write(doors, call, domain, &request, value).await?;
    let what = format!("{:?} {}", request.interaction, request.rtype).to_lowercase();
    let written = parts.writes.submit(&permit, source, Door::Fhir, request, key, call.trace, body).await?;
    let reader = doors.gate.node_permit::<base::Read>("refine", domain, Layer::Silver)?;
    let touched = doors.silver.came_of(&reader, domain, written.index).await?;
    let outcome = if written.outcome.status < 400 { Outcome::Served } else { Outcome::Failed };
    // A patient whom this very write brought in is not yet in anybody's set.
    let shown = touched.iter().map(|version| version.patient).filter(|p| permit.grant().patients.contains(*p));
    let access = Access::of(&permit, Action::Write, &call.origin)
        .what(what)
        .outcome(outcome)
        .rows(touched.len() as u64)
        .patients(domain, shown.map(|patient| patient.0));
    let draft = answer(doors, domain, written.outcome, written.repeated, headers);
    let held = Held::under(&permit, draft);
    let release = doors.gate.release(&call.caller, access).await?;
    Outgoing::data(held, release).map_err(|_| FhirError::unavailable("the answer could not be released"))
}

fn answer(doors: &Doors, domain: &DomainName, outcome: store::Outcome, repeated: bool, headers: &HeaderMap) -> Draft {
    let status = StatusCode::from_u16(outcome.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let prefer = headers.get("prefer").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let minimal = prefer.contains("return=minimal") && status.is_success();
    let body = if minimal || status == StatusCode::NO_CONTENT { Vec::new() } else { outcome.body };
    let mut draft = Draft::new(status, FHIR_JSON, body);
    for (name, value) in outcome.headers {
        match name.as_str() {
            "location" => {
                let url = format!("{}/fhir/{domain}/{value}", doors.info.base_url);
                draft = draft.with(header::LOCATION, url);
            }
            "etag" => draft = draft.with(header::ETAG, value),
            _ => {}
        }
    }
    if repeated {
        draft = draft.with(HeaderName::from_static("x-repeated-answer"), "true");
    }
    draft
}

/// A feed puts in as its own source; everybody else writes records, each type permitted by itself.
async fn permit_to_write(
    doors: &Doors,
    call: &Call,
    domain: &DomainName,
    request: &FhirRequest,
    value: Option<&Value>,
) -> Result<(SourceName, Permit<Write>), FhirError> {
    if let (Some(source), true) = (call.caller.source(), call.caller.roles().contains(&Role::Feed)) {
        let ask = call.ask(Action::Ingest, domain, Layer::Bronze).kind(source.as_str());
        return Ok((source.clone(), doors.gate.permit::<Write>(&call.caller, ask).await?));
    }
    let source = SourceName::parse(API_SOURCE).map_err(|_| FhirError::unavailable("the source has no name"))?;
    let written = written_resources(request, value);
    if written.iter().any(|(rtype, _)| fhir::definitions::is_server_owned(rtype)) {
        let text = "AuditEvent, CapabilityStatement, OperationOutcome and Parameters are made by this server alone";
        return Err(FhirError::new(StatusCode::METHOD_NOT_ALLOWED, "not-supported", text));
    }
    let mut types: Vec<&str> = written.iter().map(|(rtype, _)| *rtype).collect();
    types.sort_unstable();
    types.dedup();
    let ask = call.ask(Action::Write, domain, Layer::Silver).kinds(types.clone());
    let records = doors.gate.permit::<Write>(&call.caller, ask).await?;
    for (rtype, resource) in &written {
        check_patient(doors, domain, &records, rtype, *resource, request).await?;
    }
    // The same decision, for the journal that carries the write.
    let ask = call.ask(Action::Write, domain, Layer::Silver).kinds(types).through(&source);
    let permit = doors.gate.permit::<Write>(&call.caller, ask).await?;
    Ok((source, permit))
}

/// Type and resource of everything a request writes.
fn written_resources<'a>(request: &'a FhirRequest, value: Option<&'a Value>) -> Vec<(&'a str, Option<&'a Value>)> {
    if request.interaction != Interaction::Bundle {
        return vec![(&request.rtype, value)];
    }
    let entries = value.and_then(|bundle| bundle.get("entry")).and_then(Value::as_array).unwrap_or_default();
    entries
        .iter()
        .map(|entry| {
            let url = entry.path(&["request", "url"]).and_then(Value::as_str).unwrap_or_default();
            let rtype = url.trim_start_matches('/').split(['/', '?']).next().unwrap_or_default();
            (if fhir::definitions::resource_type(rtype).is_some() { rtype } else { "Bundle" }, entry.get("resource"))
        })
        .collect()
}

/// A permit for some patients lets nobody write about others, nor about one who cannot be told.
async fn check_patient(
    doors: &Doors,
    domain: &DomainName,
    permit: &Permit<Write>,
    rtype: &str,
    resource: Option<&Value>,
    request: &FhirRequest,
) -> Result<(), FhirError> {
    if permit.grant().patients == PatientSet::All
        || (rtype != "Patient" && fhir::reference::patient_parameters(rtype).is_empty())
    {
        return Ok(());
    }
    let id = match (rtype, request.interaction) {
        ("Patient", Interaction::Update | Interaction::Delete) => request.id.as_deref(),
        _ => resource
            .and_then(fhir::reference::patient_reference)
            .and_then(|reference| reference.strip_prefix("Patient/"))
            .and_then(|rest| rest.split('/').next()),
    };
    let id = id.and_then(|id| LogicalId::parse(id).ok());
    if id.as_ref().is_some_and(|id| doors.silver.is_erased_patient(domain, id)) {
        let text = "the record of this patient was erased: nothing is added to it, and its id is not used again";
        return Err(FhirError::new(StatusCode::GONE, "deleted", text));
    }
    let ordinal = match id {
        Some(id) => doors.silver.patient_of(domain, "Patient", &id).await?,
        None => None,
    };
    // What is there already may be about somebody else than the new content says.
    if let Some(id) = request.id.as_deref().and_then(|id| LogicalId::parse(id).ok())
        && let Some(standing) = doors.silver.patient_of(domain, rtype, &id).await?
        && standing.is_patient()
        && !permit.grant().patients.contains(standing)
    {
        return Err(FhirError::not_found());
    }
    let allowed = match (ordinal, rtype, &permit.grant().patients) {
        (Some(ordinal), ..) => permit.grant().patients.contains(ordinal),
        // A new patient is in nobody's restricted set yet, and in nobody's care team either.
        (None, "Patient", PatientSet::AllBut(_)) => request.interaction != Interaction::Delete,
        _ => permit.grant().patients.contains(Ordinal::UNKNOWN),
    };
    if allowed {
        return Ok(());
    }
    Err(FhirError::new(
        StatusCode::FORBIDDEN,
        "forbidden",
        "you may write about certain patients only: refer to one of them by a literal reference (Patient/ID)",
    ))
}
