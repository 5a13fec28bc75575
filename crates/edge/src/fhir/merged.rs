//! Searches that name a merged Patient: they find the records of all who are the same person, whichever of their ids was
//! asked for. A record stays under the Patient it was written for, so an undone merge needs no repair; what the permit
//! does not cover stays out, merged or not.

use base::{DomainName, LogicalId, Permit, Read};
use fhir::search::{Chain, Clause, ClauseValue, Criterion, Modifier, ParamKind, Query};
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

/// Lets every chain to a Patient, as in `patient.identifier`, lead to all of the same person: whoever of the merged
/// Patients meets its criterion brings the others with it. Returns the source records of those, as [`widen`] does.
pub async fn widen_chains(
    doors: &Doors,
    permit: &Permit<Read>,
    domain: &DomainName,
    query: &mut Query,
) -> Result<Vec<u32>, FhirError> {
    let mut asked = Vec::new();
    let kinds = &permit.grant().kinds;
    let covers_patients = kinds.is_empty() || kinds.iter().any(|kind| kind == "Patient");
    if !covers_patients || !doors.patients.has_merged(domain) {
        return Ok(asked);
    }
    let mut left: Vec<&mut Chain> = query.chains.iter_mut().collect();
    while let Some(chain) = left.pop() {
        let to_patients = chain.branches.iter().filter(|(rtype, _)| rtype == "Patient");
        let criteria: Vec<Criterion> = to_patients.map(|(_, criterion)| criterion.clone()).collect();
        let mut others = Vec::new();
        for criterion in criteria {
            for id in merged_that_meet(doors, permit, domain, criterion).await? {
                let family = doors.patients.family(domain, &id);
                let covered = family.iter().filter_map(|(_, p)| *p).filter(|p| permit.grant().patients.contains(*p));
                asked.extend(covered.map(|patient| patient.0));
                let id = |id: LogicalId| ClauseValue::Token { system: None, code: Some(id.as_str().to_owned()) };
                others.extend(family.into_iter().skip(1).map(|(relative, _)| id(relative)));
            }
        }
        if let (Some(param), false) = (fhir::search::param("Patient", "_id"), others.is_empty()) {
            let relatives = Clause { param: param.code, kind: param.kind, modifier: None, values: others };
            chain.branches.push(("Patient".to_owned(), Criterion::Clause(relatives)));
        }
        left.extend(chain.branches.iter_mut().filter_map(|(_, criterion)| match criterion {
            Criterion::Chain(chain) => Some(chain),
            Criterion::Clause(_) | Criterion::Has(_) | Criterion::Any(_) => None,
        }));
    }
    Ok(asked)
}

/// Patients with a link, which whoever takes part in a merge has, that meet a criterion. At most a page of them.
async fn merged_that_meet(
    doors: &Doors,
    permit: &Permit<Read>,
    domain: &DomainName,
    criterion: Criterion,
) -> Result<Vec<LogicalId>, FhirError> {
    let Some(link) = fhir::search::param("Patient", "link") else { return Ok(Vec::new()) };
    let is_there = ClauseValue::Missing(false);
    let linked =
        Clause { param: link.code, kind: link.kind, modifier: Some(Modifier::Missing), values: vec![is_there] };
    let mut query = Query { rtype: "Patient".to_owned(), clauses: vec![linked], ..Query::default() };
    query.count = Some(doors.limits.search_count_max);
    match criterion {
        Criterion::Clause(clause) => query.clauses.push(clause),
        Criterion::Chain(chain) => query.chains.push(chain),
        Criterion::Has(has) => query.has.push(has),
        Criterion::Any(any) => query.any.push(any),
    }
    let page = doors.silver.search(permit, domain, &query).await?;
    Ok(page.resources.into_iter().map(|resource| resource.id).collect())
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
