//! Operations (R4 §3.2) that read: found by their name after a type or an instance, asked by GET or by POST of Parameters.
//! Each asks the gate as a read or a search does, and stores nothing.

mod arguments;
mod everything;
mod search;
mod terminology;
mod validate;
pub(super) mod whole;

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use base::{LogicalId, TraceContext};

use self::arguments::Arguments;
use self::whole::Wide;
use super::{Answer, FhirError, known_type, read};
use crate::doors::{Call, Doors};
use crate::http::Peer;

/// Of the type (`*`: of every type that is written here): name, and the definition that says what it does.
pub const OPERATIONS: &[(&str, &str, &str)] = &[
    ("*", "validate", "http://hl7.org/fhir/OperationDefinition/Resource-validate"),
    ("Patient", "everything", "http://hl7.org/fhir/OperationDefinition/Patient-everything"),
    ("Encounter", "everything", "http://hl7.org/fhir/OperationDefinition/Encounter-everything"),
    ("Observation", "lastn", "http://hl7.org/fhir/OperationDefinition/Observation-lastn"),
    ("DocumentReference", "docref", "http://hl7.org/fhir/us/core/OperationDefinition/docref"),
    ("ValueSet", "expand", "http://hl7.org/fhir/OperationDefinition/ValueSet-expand"),
    ("ValueSet", "validate-code", "http://hl7.org/fhir/OperationDefinition/ValueSet-validate-code"),
    ("CodeSystem", "validate-code", "http://hl7.org/fhir/OperationDefinition/CodeSystem-validate-code"),
    ("CodeSystem", "lookup", "http://hl7.org/fhir/OperationDefinition/CodeSystem-lookup"),
    ("CodeSystem", "subsumes", "http://hl7.org/fhir/OperationDefinition/CodeSystem-subsumes"),
    ("ConceptMap", "translate", "http://hl7.org/fhir/OperationDefinition/ConceptMap-translate"),
];

/// `GET [type]/[id]`: a read, or an operation of the type.
pub async fn read_or_get(
    doors: State<Arc<Doors>>,
    Path((domain, rtype, id)): Path<(String, String, String)>,
    query: RawQuery,
    peer: Extension<Peer>,
    trace: Extension<TraceContext>,
    headers: HeaderMap,
) -> Answer {
    if !id.starts_with('$') {
        return read::read(doors, Path((domain, rtype, id)), query, peer, trace, headers).await;
    }
    let call = doors.call("fhir", &peer, trace.0, &headers).await?;
    let pairs = fhir::search::decode_query(query.0.as_deref().unwrap_or_default());
    by_get(&doors, &call, &domain, &rtype, None, &id, pairs, &headers).await
}

/// `POST [type]/$[name]`.
pub async fn post_of_type(
    State(doors): State<Arc<Doors>>,
    Path((domain, rtype, name)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let call = doors.call("fhir", &peer, trace, &headers).await?;
    let arguments = Arguments::of_post(&doors, query.as_deref(), &body)?;
    run(&doors, &call, &domain, &rtype, None, &name, arguments, &headers).await
}

/// `POST [type]/[id]/$[name]`.
pub async fn post_of_instance(
    State(doors): State<Arc<Doors>>,
    Path((domain, rtype, id, name)): Path<(String, String, String, String)>,
    RawQuery(query): RawQuery,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let call = doors.call("fhir", &peer, trace, &headers).await?;
    let arguments = Arguments::of_post(&doors, query.as_deref(), &body)?;
    run(&doors, &call, &domain, &rtype, Some(&id), &name, arguments, &headers).await
}

#[allow(clippy::too_many_arguments)] // What a URL has, one by one.
pub async fn by_get(
    doors: &Doors,
    call: &Call,
    domain: &str,
    rtype: &str,
    id: Option<&str>,
    name: &str,
    pairs: Vec<(String, String)>,
    headers: &HeaderMap,
) -> Answer {
    run(doors, call, domain, rtype, id, name, Arguments::of_pairs(pairs), headers).await
}

#[allow(clippy::too_many_arguments)]
async fn run(
    doors: &Doors,
    call: &Call,
    domain: &str,
    rtype: &str,
    id: Option<&str>,
    name: &str,
    arguments: Arguments,
    headers: &HeaderMap,
) -> Answer {
    let (domain, _) = doors.domain(domain).ok_or_else(FhirError::not_found)?;
    let rtype = known_type(rtype)?;
    let id = id.map(LogicalId::parse).transpose().map_err(|_| FhirError::not_found())?;
    let bare = name.trim_start_matches('$');
    let wide = |id: &LogicalId| Wide {
        doors,
        call,
        domain,
        path: format!("{rtype}/{id}/{name}"),
        what: format!("{bare} {rtype}"),
    };
    match (rtype, bare, &id) {
        ("Patient", "everything", Some(id)) => everything::of_patient(&wide(id), id, arguments.pairs()?).await,
        ("Encounter", "everything", Some(id)) => everything::of_encounter(&wide(id), id, arguments.pairs()?).await,
        ("Observation", "lastn", None) => search::lastn(doors, call, domain, arguments.pairs()?, headers).await,
        ("DocumentReference", "docref", None) => search::docref(doors, call, domain, arguments.pairs()?, headers).await,
        (_, "validate", id) => validate::validate(doors, call, domain, rtype, id.as_ref(), &arguments).await,
        (_, _, id) => {
            let asked = (rtype, bare);
            if let Some(answer) = terminology::run(doors, call, domain, asked, id.as_ref(), &arguments).await {
                return answer;
            }
            let text = "there is no such operation here: the CapabilityStatement lists those of each type";
            Err(FhirError::new(StatusCode::NOT_FOUND, "not-supported", text))
        }
    }
}
