//! `$everything` of a Patient and of an Encounter (R4 patient-operation-everything, encounter-operation-everything): the
//! record as it is, and what it refers to. Never what is about another person, whoever refers to whom.

use std::collections::HashSet;

use axum::http::StatusCode;
use base::{LogicalId, Ordinal, Permit, Read};
use fhir::compartment::Compartment;
use fhir::json::Value;
use fhir::reference::Reference;
use gate::{Access, Outcome};
use policy::Action;
use store::{Of, Resource, StoreError, Whole};

use super::whole::{Asked, Wide};
use crate::fhir::read::value_of;
use crate::fhir::{Answer, FhirError};

/// What the record refers to, and what that refers to in turn: a PractitionerRole's Practitioner.
const HOPS: usize = 2;

/// The whole of one Patient, with all who are the same person.
pub async fn of_patient(wide: &Wide<'_>, id: &LogicalId, pairs: Vec<(String, String)>) -> Answer {
    let pairs = wide.open(pairs)?;
    let asked = read(&pairs, &["start", "end", "_since", "_type", "_count", "_cursor"])?;
    let (doors, domain) = (wide.doors, wide.domain);
    let own = doors.silver.patient_of(domain, "Patient", id).await?.filter(|record| record.is_patient());
    let family = doors.patients.family(domain, id);
    let mut records: Vec<Ordinal> = own.into_iter().collect();
    records.extend(family.iter().filter_map(|(_, record)| *record).filter(|record| Some(*record) != own));
    // Of one record policy may know that it is the caller's own patient; of several it is asked as for any search.
    let about = own.filter(|_| records.len() == 1);
    let permit = wide.permit("Patient", about, &asked.types).await?;
    let Some(_) = standing(wide, &permit, "Patient", id).await? else { return not_found(wide, &permit).await };
    records.retain(|record| permit.grant().patients.contains(*record));
    answer(wide, &permit, Of::Records(records.clone()), "Patient", records, asked, &pairs).await
}

/// The whole of one visit: what is in its compartment.
pub async fn of_encounter(wide: &Wide<'_>, id: &LogicalId, pairs: Vec<(String, String)>) -> Answer {
    let pairs = wide.open(pairs)?;
    let asked = read(&pairs, &["_since", "_type", "_count", "_cursor"])?;
    let own = wide.doors.silver.patient_of(wide.domain, "Encounter", id).await?.filter(|record| record.is_patient());
    let permit = wide.permit("Encounter", own, &asked.types).await?;
    let Some(visit) = standing(wide, &permit, "Encounter", id).await? else { return not_found(wide, &permit).await };
    let of = Of::Compartment(Compartment::Encounter, vec![id.clone()]);
    answer(wide, &permit, of, "Encounter", vec![visit.patient], asked, &pairs).await
}

fn read(pairs: &[(String, String)], known: &[&str]) -> Result<Asked, FhirError> {
    let mut asked = Asked::default();
    for (name, value) in pairs {
        if !known.contains(&name.as_str()) {
            let text = format!("$everything takes {} here", known[..known.len() - 1].join(", "));
            return Err(FhirError::new(StatusCode::BAD_REQUEST, "not-supported", text));
        }
        asked.take(name, value)?;
    }
    Ok(asked)
}

/// The resource that it is the whole of, when it stands and the permit shows it.
async fn standing(
    wide: &Wide<'_>,
    permit: &Permit<Read>,
    rtype: &str,
    id: &LogicalId,
) -> Result<Option<Resource>, FhirError> {
    match wide.doors.silver.read(permit, wide.domain, rtype, id).await {
        Err(StoreError::NotCovered(_)) => Ok(None),
        found => Ok(found?.filter(|resource| !resource.deleted)),
    }
}

async fn not_found(wide: &Wide<'_>, permit: &Permit<Read>) -> Answer {
    let access = Access::of(permit, Action::Search, &wide.call.origin).what(wide.what.as_str());
    wide.doors.gate.release(&wide.call.caller, access.outcome(Outcome::NotFound)).await?;
    Err(FhirError::not_found())
}

async fn answer(
    wide: &Wide<'_>,
    permit: &Permit<Read>,
    of: Of,
    root: &'static str,
    about: Vec<Ordinal>,
    asked: Asked,
    pairs: &[(String, String)],
) -> Answer {
    let (doors, domain) = (wide.doors, wide.domain);
    let care = match (asked.start_ms, asked.end_ms) {
        (None, None) => None,
        (start, end) => Some((start.unwrap_or(i64::MIN), end.unwrap_or(i64::MAX))),
    };
    let whole = Whole {
        of,
        root,
        about: Some(about.clone()),
        types: asked.types,
        since: asked.since,
        care,
        total: false,
        // Where no page size is asked for all of it comes at once, as far as one answer goes.
        count: asked.count.unwrap_or(doors.limits.search_count_max),
        cursor: asked.cursor,
    };
    let mut page = doors.silver.whole(permit, domain, &whole).await?;
    if whole.cursor.is_none() && page.next.is_none() {
        page.total = Some(page.resources.len() as u64);
    }
    let mut matches = Vec::with_capacity(page.resources.len());
    for resource in &page.resources {
        matches.push(value_of(doors, permit, resource)?);
    }
    let mut known: HashSet<(String, String)> =
        page.resources.iter().map(|resource| (resource.rtype.clone(), resource.id.to_string())).collect();
    let room = permit.grant().rows_max.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX);
    let room = room.saturating_sub(page.resources.len());
    let base = format!("{}/fhir/{domain}/", doors.info.base_url);
    let mut includes: Vec<Value> = Vec::new();
    for hop in 0..HOPS {
        let from = if hop == 0 { &matches } else { &includes };
        let wanted: Vec<(String, LogicalId)> = from
            .iter()
            .flat_map(|value| targets(value, &base))
            .filter(|(rtype, _)| whole.types.is_empty() || whole.types.contains(rtype))
            .filter(|(rtype, id)| known.insert((rtype.clone(), id.to_string())))
            .collect();
        if wanted.is_empty() {
            break;
        }
        let mut found = doors.silver.read_many(permit, domain, &wanted).await?;
        found.retain(|resource| {
            let ours = !resource.patient.is_patient() || about.contains(&resource.patient);
            ours && !resource.deleted && whole.since.is_none_or(|since| resource.last_updated > since)
        });
        let max = doors.limits.search_count_max;
        if page.included.len() + found.len() > max {
            return Err(StoreError::TooMany { what: "resources that a page refers to", max }.into());
        }
        found.truncate(room.saturating_sub(page.included.len()));
        for resource in found {
            includes.push(value_of(doors, permit, &resource)?);
            page.included.push(resource);
        }
    }
    wide.answer_with(permit, page, matches, includes, pairs, about.iter().map(|record| record.0).collect()).await
}

/// Resources of this server that a resource refers to.
fn targets(resource: &Value, base: &str) -> Vec<(String, LogicalId)> {
    let mut found = Vec::new();
    fhir::reference::for_each_link(resource, &mut |text| {
        let local = text.strip_prefix(base).unwrap_or(text);
        if let Some(Reference::Local { rtype, id, .. }) = Reference::parse(local)
            && let Ok(id) = LogicalId::parse(id)
        {
            found.push((rtype.to_owned(), id));
        }
    });
    found
}
