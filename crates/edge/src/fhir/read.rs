//! read, vread and history of one resource (R4 §3.1.0.1, §3.1.0.3, §3.1.0.8).

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use base::{DomainName, Layer, LogicalId, Permit, Read, TraceContext};
use fhir::json;
use fhir::json::{ParseLimits, Value};
use fhir::search::Query;
use gate::{Access, Held, Outcome};
use policy::Action;
use store::{Resource, StoreError};

use super::{Answer, FHIR_JSON, FhirError, known_type, mask, subset};
use crate::doors::{Call, Doors};
use crate::http::Peer;
use crate::outgoing::{Draft, Outgoing};

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
    let permit = permit_to_read_one(&doors, &call, &name).await?;
    let found = doors.silver.read(&permit, name.domain, &name.rtype, &name.id).await;
    one(&doors, &call, &permit, &name, "read", found, part.as_ref()).await
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
    let permit = permit_to_read_one(&doors, &call, &name).await?;
    let found = doors.silver.vread(&permit, name.domain, &name.rtype, &name.id, version).await;
    one(&doors, &call, &permit, &name, "vread", found, part.as_ref()).await
}

/// Answers with a resource, or with what a caller may know of its absence; recorded either way.
async fn one(
    doors: &Doors,
    call: &Call,
    permit: &Permit<Read>,
    name: &Named<'_>,
    what: &str,
    found: Result<Option<Resource>, StoreError>,
    part: Option<&Query>,
) -> Answer {
    let found = match found {
        Err(StoreError::NotCovered(_)) => None,
        other => other?,
    };
    let access = Access::of(permit, Action::Read, &call.origin).what(format!("{what} {}", name.rtype));
    let Some(resource) = found.filter(|resource| !resource.deleted || what == "read") else {
        doors.gate.release(&call.caller, access.outcome(Outcome::NotFound)).await?;
        return Err(FhirError::not_found());
    };
    if resource.deleted {
        doors.gate.release(&call.caller, access.outcome(Outcome::NotFound)).await?;
        return Err(FhirError::new(StatusCode::GONE, "deleted", "this resource was deleted"));
    }
    let access = access.rows(1).patients(name.domain, [resource.patient.0]);
    let draft = Draft::new(StatusCode::OK, FHIR_JSON, body_of(doors, permit, &resource, part)?)
        .with(header::ETAG, format!("W/\"{}\"", resource.version))
        .with(header::LAST_MODIFIED, http_date(resource.last_updated));
    let held = Held::under(permit, draft);
    let release = doors.gate.release(&call.caller, access).await?;
    Outgoing::data(held, release).map_err(|_| FhirError::unavailable("the answer could not be released"))
}

pub async fn history(
    State(doors): State<Arc<Doors>>,
    Path((domain, rtype, id)): Path<(String, String, String)>,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
) -> Answer {
    let call = doors.call("fhir", &peer, trace, &headers).await?;
    let name = named(&doors, &domain, &rtype, &id)?;
    let permit = permit_to_read(&doors, &call, Action::Read, name.domain, &name.rtype).await?;
    let max = doors.limits.search_count_max;
    let versions = match doors.silver.history(&permit, name.domain, &name.rtype, &name.id, None, max).await {
        Err(StoreError::NotCovered(_)) => Vec::new(),
        other => other?,
    };
    let access = Access::of(&permit, Action::Read, &call.origin).what(format!("history {}", name.rtype));
    if versions.is_empty() {
        doors.gate.release(&call.caller, access.outcome(Outcome::NotFound)).await?;
        return Err(FhirError::not_found());
    }
    let mut entries = Vec::with_capacity(versions.len());
    for version in &versions {
        entries.push(history_entry(&doors, &permit, &name, version)?);
    }
    let bundle = json!({
        "resourceType": "Bundle",
        "type": "history",
        "total": (versions.len() as i64),
        "entry": (Value::Array(entries)),
    });
    let access = access.rows(versions.len() as u64).patients(name.domain, versions.iter().map(|v| v.patient.0));
    let held = Held::under(&permit, Draft::new(StatusCode::OK, FHIR_JSON, fhir::json::to_vec(&bundle)));
    let release = doors.gate.release(&call.caller, access).await?;
    Outgoing::data(held, release).map_err(|_| FhirError::unavailable("the answer could not be released"))
}

fn history_entry(
    doors: &Doors,
    permit: &Permit<Read>,
    name: &Named<'_>,
    version: &Resource,
) -> Result<Value, FhirError> {
    let url = format!("{}/{}", name.rtype, name.id);
    let method = match (version.deleted, version.version) {
        (true, _) => "DELETE",
        (false, 1) => "POST",
        _ => "PUT",
    };
    let mut entry = json!({
        "fullUrl": (format!("{}/fhir/{}/{url}", doors.info.base_url, name.domain)),
        "request": { "method": method, "url": url.as_str() },
        "response": {
            "status": (if version.deleted { "204" } else if version.version == 1 { "201" } else { "200" }),
            "etag": (format!("W/\"{}\"", version.version)),
            "lastModified": (version.last_updated.to_string()),
        },
    });
    if !version.deleted
        && let Some(object) = entry.as_object_mut()
    {
        object.insert("resource", value_of(doors, permit, version)?);
    }
    Ok(entry)
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

/// IMF-fixdate (RFC 9110 §5.6.7).
pub fn http_date(at: base::Timestamp) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let days = at.ms().div_euclid(86_400_000);
    let seconds = at.ms().rem_euclid(86_400_000) / 1_000;
    let (year, month, day) = base::time::civil_from_days(days);
    format!(
        "{}, {day:02} {} {year:04} {:02}:{:02}:{:02} GMT",
        DAYS[days.rem_euclid(7) as usize],
        MONTHS[month as usize - 1],
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn http_dates_are_fixdates() {
        assert_eq!(super::http_date(base::Timestamp(784_111_777_000)), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
