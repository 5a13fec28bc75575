//! create, update, patch, delete, transaction and batch (R4 §3.1.0): checked here as far as the bytes tell, then
//! appended, and answered with what refine decided.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use base::{DomainName, Layer, LogicalId, TraceContext};
use clinical::{Door, FhirRequest, Interaction, Written};
use fhir::json::{ParseLimits, Value};
use fhir::patch::{JSON_PATCH, Patch};
use fhir::validate::{Issue, Severity};
use gate::{Access, Held, Outcome};
use policy::Action;

use super::bundle_reads::Reads;
use super::prefer::Return;
use super::read::{named, one};
use super::search::is_lenient;
use super::unless::{Unless, http_date};
use super::writing::{Permitted, check_criteria, permit};
use super::{Answer, FHIR_JSON, FhirError, known_type};
use crate::doors::{Call, Doors};
use crate::http::Peer;
use crate::outgoing::{Draft, Released};

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
    let kind = match value.get("type").and_then(Value::as_str) {
        Some("transaction") => {
            check_structure(&value)?;
            "transaction"
        }
        _ => "batch",
    };
    let reads = Reads::of(&value, kind, doors.limits.bundle_reads_max)?;
    let lenient = is_lenient(&headers);
    let (name, _) = doors.domain(&domain).ok_or_else(FhirError::not_found)?;
    reads.permit(&doors, &call, name).await?;
    if reads.is_all() {
        return Ok(reads.answer(&doors, &call, name, None, lenient).await);
    }
    let request = FhirRequest::new(Interaction::Bundle, "Bundle");
    let written = submit(&doors, &call, &domain, request, &headers, Some(&value), body).await?;
    if reads.is_empty() || !written.status().is_success() {
        return Ok(written.into());
    }
    Ok(reads.answer(&doors, &call, name, Some(written), lenient).await)
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
    let if_none_exist = match headers.get("if-none-exist").map(|value| value.to_str()) {
        None => None,
        Some(Ok(criteria)) => Some(criteria.trim_start_matches('?').to_owned()),
        Some(Err(_)) => return Err(invalid("If-None-Exist must be search criteria, percent-encoded")),
    };
    let request = FhirRequest { if_none_exist, ..FhirRequest::new(Interaction::Create, &rtype) };
    Ok(submit(&doors, &call, &domain, request, &headers, Some(&value), body).await?.into())
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
    let request = FhirRequest {
        id: Some(id.to_string()),
        if_match: if_match(&headers)?,
        ..FhirRequest::new(Interaction::Update, &rtype)
    };
    Ok(submit(&doors, &call, &domain, request, &headers, Some(&value), body).await?.into())
}

/// Conditional update (R4 §3.1.0.4.3).
pub async fn update_where(
    State(doors): State<Arc<Doors>>,
    Path((domain, rtype)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let call = doors.call("fhir", &peer, trace, &headers).await?;
    let value = resource_of_type(&doors, &body, known_type(&rtype)?)?;
    let request = FhirRequest {
        criteria: Some(criteria(query)?),
        if_match: if_match(&headers)?,
        ..FhirRequest::new(Interaction::Update, &rtype)
    };
    Ok(submit(&doors, &call, &domain, request, &headers, Some(&value), body).await?.into())
}

pub async fn patch(
    State(doors): State<Arc<Doors>>,
    Path((domain, rtype, id)): Path<(String, String, String)>,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let call = doors.call("fhir", &peer, trace, &headers).await?;
    let rtype = known_type(&rtype)?;
    let id = LogicalId::parse(&id).map_err(|_| FhirError::not_found())?;
    let value = patch_of(&doors, &headers, &body)?;
    let request = FhirRequest {
        id: Some(id.to_string()),
        if_match: if_match(&headers)?,
        ..FhirRequest::new(Interaction::Patch, rtype)
    };
    Ok(submit(&doors, &call, &domain, request, &headers, Some(&value), body).await?.into())
}

/// Conditional patch (R4 §3.1.0.8.1).
pub async fn patch_where(
    State(doors): State<Arc<Doors>>,
    Path((domain, rtype)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let call = doors.call("fhir", &peer, trace, &headers).await?;
    let rtype = known_type(&rtype)?;
    let value = patch_of(&doors, &headers, &body)?;
    let request = FhirRequest {
        criteria: Some(criteria(query)?),
        if_match: if_match(&headers)?,
        ..FhirRequest::new(Interaction::Patch, rtype)
    };
    Ok(submit(&doors, &call, &domain, request, &headers, Some(&value), body).await?.into())
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
        return Err(invalid("a delete by id takes no parameters"));
    }
    let rtype = known_type(&rtype)?;
    let id = LogicalId::parse(&id).map_err(|_| FhirError::not_found())?;
    let request = FhirRequest {
        id: Some(id.to_string()),
        if_match: if_match(&headers)?,
        ..FhirRequest::new(Interaction::Delete, rtype)
    };
    Ok(submit(&doors, &call, &domain, request, &headers, None, Bytes::new()).await?.into())
}

/// Conditional delete of the one match (R4 §3.1.0.7.1; `conditionalDelete` is `single`).
pub async fn delete_where(
    State(doors): State<Arc<Doors>>,
    Path((domain, rtype)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
) -> Answer {
    let call = doors.call("fhir", &peer, trace, &headers).await?;
    let request = FhirRequest {
        criteria: Some(criteria(query)?),
        if_match: if_match(&headers)?,
        ..FhirRequest::new(Interaction::Delete, known_type(&rtype)?)
    };
    Ok(submit(&doors, &call, &domain, request, &headers, None, Bytes::new()).await?.into())
}

pub fn invalid(text: &str) -> FhirError {
    FhirError::new(StatusCode::BAD_REQUEST, "invalid", text)
}

fn criteria(query: Option<String>) -> Result<String, FhirError> {
    query.filter(|query| !query.is_empty()).ok_or_else(|| invalid("this needs an id in the URL, or criteria after `?`"))
}

/// R4 §3.1.0.8: a JSON Patch says so by its media type; Parameters come as any resource does.
fn patch_of(doors: &Doors, headers: &HeaderMap, body: &[u8]) -> Result<Value, FhirError> {
    let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let value = match media.split(';').next().unwrap_or_default().trim() {
        JSON_PATCH | "application/fhir+json" | "application/json" => parse(doors, body)?,
        _ => {
            let text = "a patch is application/json-patch+json, or application/fhir+json with Parameters";
            return Err(FhirError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-supported", text));
        }
    };
    match Patch::read(&value) {
        Ok(_) => Ok(value),
        Err(issue) => Err(FhirError { status: StatusCode::BAD_REQUEST, issues: vec![issue], retry_after_s: None }),
    }
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
    mut request: FhirRequest,
    headers: &HeaderMap,
    value: Option<&Value>,
    body: Bytes,
) -> Result<Released, FhirError> {
    let (domain, parts) = doors.domain(domain).ok_or_else(FhirError::not_found)?;
    let key = idempotency_key(headers)?;
    check_criteria(&request)?;
    let permitted = permit(doors, call, domain, &mut request, value).await?;
    let what = format!("{:?} {}", request.interaction, request.rtype).to_lowercase();
    let criteria = request.criteria.clone().or_else(|| request.if_none_exist.clone());
    let (source, rtype) = (permitted.source.clone(), request.rtype.clone());
    let written = parts.writes.submit(&permitted.permit, source, Door::Fhir, request, key, call.trace, body).await?;
    let shown = representation(doors, call, domain, &rtype, &permitted, &written, headers).await?;
    let own = answer(doors, call, domain, &permitted, written, (what, criteria), headers).await?;
    Ok(match shown {
        Some(shown) => own.with_body_of(shown),
        None => own,
    })
}

/// What refine decided, recorded and released.
async fn answer(
    doors: &Doors,
    call: &Call,
    domain: &DomainName,
    permitted: &Permitted,
    written: Written,
    (what, criteria): (String, Option<String>),
    headers: &HeaderMap,
) -> Result<Released, FhirError> {
    let permit = &permitted.permit;
    let reader = doors.gate.node_permit::<base::Read>("refine", domain, Layer::Silver)?;
    let touched = doors.silver.came_of(&reader, domain, written.index).await?;
    let outcome = if written.outcome.status < 400 { Outcome::Served } else { Outcome::Failed };
    // A patient whom this very write brought in is not yet in anybody's set.
    let shown = touched.iter().map(|version| version.patient).filter(|p| permit.grant().patients.contains(*p));
    let mut access = Access::of(permit, Action::Write, &call.origin)
        .what(what)
        .outcome(outcome)
        .rows(touched.len() as u64)
        .patients(domain, shown.map(|patient| patient.0));
    if let Some(criteria) = criteria {
        access = access.query(doors.gate.query_hash(criteria.as_bytes()));
    }
    let mut held = Held::under(permit, draft(doors, domain, written, headers));
    for asked in &permitted.asked {
        (access, held) = (access.and(asked), held.and(asked));
    }
    let release = doors.gate.release(&call.caller, access).await?;
    Released::open(held, release).map_err(|_| FhirError::unavailable("the answer could not be released"))
}

/// What the writer did not send and may read: what a patch came to, what a conditional create found. A read like any
/// other, with a record of its own; without the right to it there is none.
async fn representation(
    doors: &Doors,
    call: &Call,
    domain: &DomainName,
    rtype: &str,
    permitted: &Permitted,
    written: &Written,
    headers: &HeaderMap,
) -> Result<Option<Released>, FhirError> {
    let outcome = &written.outcome;
    let is_whole = !outcome.body.is_empty() || !matches!(outcome.status, 200 | 201);
    if is_whole || permitted.is_feed || Return::of(headers) != Return::Representation {
        return Ok(None);
    }
    let location = outcome.headers.iter().find(|(name, _)| name == "location");
    let mut parts = location.map(|(_, at)| at.split('/')).into_iter().flatten().skip(1);
    let (Some(id), Some("_history"), Some(Ok(version))) =
        (parts.next(), parts.next(), parts.next().map(str::parse::<u32>))
    else {
        return Ok(None);
    };
    let ask = call.ask(Action::Read, domain, Layer::Silver).kind(rtype);
    if !doors.gate.would_permit::<base::Read>(&call.caller, &ask) {
        return Ok(None);
    }
    let name = named(doors, domain.as_str(), rtype, id)?;
    match one(doors, call, &name, Some(version), None, &Unless::default()).await {
        Ok(shown) => Ok(Some(shown)),
        // It was written; that it is not shown is no failure of the write.
        Err(error) if error.status == StatusCode::NOT_FOUND => Ok(None),
        Err(error) => Err(error),
    }
}

fn draft(doors: &Doors, domain: &DomainName, written: Written, headers: &HeaderMap) -> Draft {
    let outcome = written.outcome;
    let status = StatusCode::from_u16(outcome.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let is_bundle = outcome.headers.is_empty() && status == StatusCode::OK;
    let body = match Return::of(headers) {
        _ if !status.is_success() || is_bundle => outcome.body,
        _ if status == StatusCode::NO_CONTENT => Vec::new(),
        Return::Minimal => Vec::new(),
        Return::Representation => outcome.body,
        Return::OperationOutcome => fhir::json::to_vec(&fhir::validate::operation_outcome(&[])),
    };
    let mut draft = Draft::new(status, FHIR_JSON, body);
    for (name, value) in outcome.headers {
        match name.as_str() {
            "location" => {
                let url = format!("{}/fhir/{domain}/{value}", doors.info.base_url);
                draft = draft.with(header::LOCATION, url);
            }
            "etag" => draft = draft.with(header::ETAG, value),
            "last-modified" => {
                if let Some(at) = fhir::time::parse(&value) {
                    draft = draft.with(header::LAST_MODIFIED, http_date(base::Timestamp(at.from_ms)));
                }
            }
            _ => {}
        }
    }
    if written.repeated {
        draft = draft.with(HeaderName::from_static("x-repeated-answer"), "true");
    }
    draft
}
