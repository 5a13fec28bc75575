//! read and vread (R4 §3.1.0.2, §3.1.0.3).

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use base::{DomainName, Layer, LogicalId, Permit, Read, TraceContext};
use fhir::json::{ParseLimits, Value};
use fhir::search::Query;
use gate::{Access, Held, Outcome};
use policy::Action;
use store::{Resource, StoreError};

use super::unless::{Unless, http_date};
use super::{Answer, FHIR_JSON, FhirError, known_type, mask, subset};
use crate::doors::{Call, Doors};
use crate::http::Peer;
use crate::outgoing::{Draft, Released};

/// What names a resource in a URL, checked.
pub struct Named<'a> {
    pub domain: &'a DomainName,
    pub rtype: String,
    pub id: LogicalId,
}

pub fn named<'a>(doors: &'a Doors, domain: &str, rtype: &str, id: &str) -> Result<Named<'a>, FhirError> {
    let (domain, _) = doors.domain(domain).ok_or_else(FhirError::not_found)?;
    let rtype = known_type(rtype)?.to_owned();
    let id = LogicalId::parse(id).map_err(|_| FhirError::not_found())?;
    Ok(Named { domain, rtype, id })
}

pub async fn permit_to_read(
    doors: &Doors,
    call: &Call,
    action: Action,
    domain: &DomainName,
    rtype: &str,
) -> Result<Permit<Read>, FhirError> {
    let ask = call.ask(action, domain, Layer::Silver).kind(rtype);
    Ok(doors.gate.permit::<Read>(&call.caller, ask).await?)
}

/// For one resource the decision may know whose it is: a care team sees more of its own patients.
pub async fn permit_to_read_one(doors: &Doors, call: &Call, name: &Named<'_>) -> Result<Permit<Read>, FhirError> {
    let mut ask = call.ask(Action::Read, name.domain, Layer::Silver).kind(&name.rtype);
    if let Some(patient) = doors.silver.patient_of(name.domain, &name.rtype, &name.id).await?
        && patient.is_patient()
    {
        ask = ask.patient(patient);
    }
    Ok(doors.gate.permit::<Read>(&call.caller, ask).await?)
}

pub async fn read(
    State(doors): State<Arc<Doors>>,
    Path((domain, rtype, id)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
) -> Answer {
    let call = doors.call("fhir", &peer, trace, &headers).await?;
    let name = named(&doors, &domain, &rtype, &id)?;
    let part = subset::of_read(&name.rtype, query.as_deref(), &doors.limits)?;
    Ok(one(&doors, &call, &name, None, part.as_ref(), &Unless::of(&headers)).await?.into())
}

pub async fn vread(
    State(doors): State<Arc<Doors>>,
    Path((domain, rtype, id, version)): Path<(String, String, String, String)>,
    RawQuery(query): RawQuery,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
) -> Answer {
    let call = doors.call("fhir", &peer, trace, &headers).await?;
    let name = named(&doors, &domain, &rtype, &id)?;
    let version: u32 = version.parse().map_err(|_| FhirError::not_found())?;
    let part = subset::of_read(&name.rtype, query.as_deref(), &doors.limits)?;
    Ok(one(&doors, &call, &name, Some(version), part.as_ref(), &Unless::of(&headers)).await?.into())
}

/// Reads a resource, or what a caller may know of its absence; recorded either way.
pub async fn one(
    doors: &Doors,
    call: &Call,
    name: &Named<'_>,
    version: Option<u32>,
    part: Option<&Query>,
    unless: &Unless,
) -> Result<Released, FhirError> {
    let permit = permit_to_read_one(doors, call, name).await?;
    let found = match version {
        None => doors.silver.read(&permit, name.domain, &name.rtype, &name.id).await,
        Some(version) => doors.silver.vread(&permit, name.domain, &name.rtype, &name.id, version).await,
    };
    let found = match found {
        Err(StoreError::NotCovered(_)) => None,
        other => other?,
    };
    let what = if version.is_none() { "read" } else { "vread" };
    let access = Access::of(&permit, Action::Read, &call.origin).what(format!("{what} {}", name.rtype));
    let Some(resource) = found.filter(|resource| !resource.deleted || version.is_none()) else {
        doors.gate.release(&call.caller, access.outcome(Outcome::NotFound)).await?;
        return Err(FhirError::not_found());
    };
    if resource.deleted {
        doors.gate.release(&call.caller, access.outcome(Outcome::NotFound)).await?;
        return Err(FhirError::new(StatusCode::GONE, "deleted", "this resource was deleted"));
    }
    let known = unless.knows(resource.version, resource.last_updated);
    let access = access.rows(u64::from(!known)).patients(name.domain, [resource.patient.0]);
    let (status, body) = match known {
        true => (StatusCode::NOT_MODIFIED, Vec::new()),
        false => (StatusCode::OK, body_of(doors, &permit, &resource, part)?),
    };
    let draft = Draft::new(status, FHIR_JSON, body)
        .with(header::ETAG, format!("W/\"{}\"", resource.version))
        .with(header::LAST_MODIFIED, http_date(resource.last_updated));
    let held = Held::under(&permit, draft);
    let release = doors.gate.release(&call.caller, access).await?;
    Released::open(held, release).map_err(|_| FhirError::unavailable("the answer could not be released"))
}

/// The resource as this permit shows it.
pub fn value_of(doors: &Doors, permit: &Permit<Read>, resource: &Resource) -> Result<Value, FhirError> {
    let mut value = fhir::json::parse(resource.body.expose(), &ParseLimits::default())
        .map_err(|_| FhirError::unavailable("a stored resource could not be read"))?;
    let grant = permit.grant();
    mask::apply(&mut value, grant.domain.as_str(), &grant.masks, &*doors.shower);
    Ok(value)
}

/// Bytes as stored when nothing is masked or left out: no second serialisation.
fn body_of(
    doors: &Doors,
    permit: &Permit<Read>,
    resource: &Resource,
    part: Option<&Query>,
) -> Result<Vec<u8>, FhirError> {
    if permit.grant().masks.is_empty() && part.is_none() {
        return Ok(resource.body.expose().clone());
    }
    let mut value = value_of(doors, permit, resource)?;
    if let Some(part) = part {
        subset::apply(part, &mut value);
    }
    Ok(fhir::json::to_vec(&value))
}
