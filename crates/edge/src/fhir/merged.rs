//! Searches that name a merged Patient: they find the records of all who are the same person, whichever of their ids was
//! asked for. A record stays under the Patient it was written for, so an undone merge needs no repair; what the permit
//! does not cover stays out, merged or not.

use base::{DomainName, LogicalId, Permit, Read};
use fhir::search::{ClauseValue, Modifier, ParamKind, Query};
use store::SearchPage;

use super::FhirError;
use crate::doors::Doors;

/// Lets every criterion that names a Patient name all of the same person. Returns the source records that were asked
/// about so, which the record of this access names beside those that are shown.
pub fn widen(doors: &Doors, permit: &Permit<Read>, domain: &DomainName, query: &mut Query) -> Vec<u32> {
    let mut asked = Vec::new();
    let rtype = query.rtype.clone();
    for clause in query.clauses.iter_mut().filter(|clause| clause.kind == ParamKind::Reference) {
        let to_patient = match &clause.modifier {
            None => true,
            Some(Modifier::Type(target)) => target == "Patient",
            Some(_) => false,
        };
        // Patient.link is about the merge itself.
        let leads = fhir::search::param(&rtype, clause.param).is_some_and(|param| param.targets.contains(&"Patient"));
        if !to_patient || !leads || rtype == "Patient" {
            continue;
        }
        let mut more = Vec::new();
        for value in &clause.values {
            let ClauseValue::Reference { rtype, id } = value else { continue };
            if rtype.as_deref().is_some_and(|rtype| rtype != "Patient") {
                continue;
            }
            let Ok(id) = LogicalId::parse(id) else { continue };
            let family = doors.patients.family(domain, &id);
            if family.len() < 2 {
                continue;
            }
            let covered =
                family.iter().filter_map(|(_, patient)| *patient).filter(|p| permit.grant().patients.contains(*p));
            asked.extend(covered.map(|patient| patient.0));
            more.extend(family.into_iter().skip(1).map(|(id, _)| ClauseValue::Reference {
                rtype: Some("Patient".to_owned()),
                id: id.as_str().to_owned(),
            }));
        }
        clause.values.extend(more);
    }
    asked
}

/// Puts beside each Patient that was merged into another the one that goes on: whoever asks by an old number is led to
/// the person in one answer. As included, since it does not meet the criteria itself.
pub async fn add_survivors(
    doors: &Doors,
    permit: &Permit<Read>,
    domain: &DomainName,
    page: &mut SearchPage,
) -> Result<(), FhirError> {
    let shown = |page: &SearchPage, id: &LogicalId| {
        page.resources.iter().chain(&page.included).any(|r| r.rtype == "Patient" && r.id == *id)
    };
    let ended = page.resources.iter().filter(|resource| resource.rtype == "Patient");
    let mut wanted: Vec<(String, LogicalId)> = Vec::new();
    for survivor in ended.filter_map(|resource| doors.patients.survivor(domain, &resource.id)) {
        if !shown(page, &survivor) && wanted.iter().all(|(_, id)| *id != survivor) {
            wanted.push(("Patient".to_owned(), survivor));
        }
    }
    let rows = (page.resources.len() + page.included.len()) as u64;
    let room = permit.grant().rows_max.map_or(u64::MAX, |max| max.saturating_sub(rows));
    wanted.truncate(usize::try_from(room).unwrap_or(usize::MAX));
    if !wanted.is_empty() {
        let found = doors.silver.read_many(permit, domain, &wanted).await?;
        page.included.extend(found.into_iter().filter(|resource| !resource.deleted));
    }
    Ok(())
}
