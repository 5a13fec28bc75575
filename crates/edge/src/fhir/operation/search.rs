//! Operations that are searches of one type: `Observation/$lastn` and `DocumentReference/$docref`.

use axum::http::{HeaderMap, StatusCode};
use base::DomainName;
use fhir::search::{Clause, ClauseValue, Modifier, ParamKind, Prefix};

use crate::doors::{Call, Doors};
use crate::fhir::search::{Pick, Search, is_lenient};
use crate::fhir::{Answer, FhirError};

fn bad(code: &'static str, text: &str) -> FhirError {
    FhirError::new(StatusCode::BAD_REQUEST, code, text)
}

/// R4 observation-operation-lastn: the newest `max` observations of each code of a subject, of those that meet the
/// criteria of any search.
pub async fn lastn(
    doors: &Doors,
    call: &Call,
    domain: &DomainName,
    pairs: Vec<(String, String)>,
    headers: &HeaderMap,
) -> Answer {
    let mut max = 1;
    let mut criteria = Vec::with_capacity(pairs.len());
    for (name, value) in &pairs {
        match name.as_str() {
            "max" => {
                let number = value.parse().ok().filter(|number| *number > 0);
                max = number.ok_or_else(|| bad("value", "max needs a whole number above 0"))?;
            }
            "_format" | "_pretty" => {}
            _ => criteria.push((name.clone(), value.clone())),
        }
    }
    let of_a_subject =
        |(name, _): &(String, String)| matches!(name.split([':', '.']).next(), Some("patient" | "subject"));
    if !criteria.iter().any(of_a_subject) {
        return Err(bad("required", "$lastn needs the patient or the subject whose observations are meant"));
    }
    let search = Search {
        doors,
        call,
        domain,
        rtype: "Observation",
        path: "Observation/$lastn".to_owned(),
        what: "lastn Observation".to_owned(),
        pick: Pick::Last(max),
    };
    let query = search.parse(&criteria, is_lenient(headers))?;
    let whole = query.sort.is_empty() && query.count.is_none() && query.cursor.is_none();
    if !whole || !query.includes.is_empty() || !query.revincludes.is_empty() {
        return Err(bad(
            "not-supported",
            "$lastn answers whole and in its own order: leave out what sorts, pages or includes",
        ));
    }
    Ok(search.answer(query, &pairs, Vec::new()).await?.into())
}

/// US Core docref: the documents of a patient, as DocumentReferences. Documents are found, not made on demand.
pub async fn docref(
    doors: &Doors,
    call: &Call,
    domain: &DomainName,
    pairs: Vec<(String, String)>,
    headers: &HeaderMap,
) -> Answer {
    let mut search = Search {
        doors,
        call,
        domain,
        rtype: "DocumentReference",
        path: "DocumentReference/$docref".to_owned(),
        what: "docref DocumentReference".to_owned(),
        pick: Pick::Page,
    };
    let pairs = search.open(pairs)?;
    let mut criteria = Vec::with_capacity(pairs.len());
    let (mut start, mut end) = (None, None);
    for (name, value) in &pairs {
        let moment = || fhir::time::parse(value).ok_or_else(|| bad("value", "start and end need a date or a time"));
        match name.as_str() {
            "patient" | "type" | "_count" | "_cursor" => criteria.push((name.clone(), value.clone())),
            "start" => start = Some(moment()?.from_ms),
            "end" => end = Some(moment()?.to_ms),
            "on-demand" if value == "false" => {}
            "on-demand" => return Err(bad("not-supported", "documents are not made on demand here")),
            _ => return Err(bad("not-supported", "$docref takes patient, start, end, type and on-demand here")),
        }
    }
    if criteria.iter().filter(|(name, _)| name == "patient").count() != 1 {
        return Err(bad("required", "$docref needs one patient: an id, or Patient/ID"));
    }
    let mut query = search.parse(&criteria, is_lenient(headers))?;
    if start.is_none() && end.is_none() {
        // "If neither a start date nor an end date is provided, the most recent or current document is in scope."
        query.sort = vec![("date", true)];
        query.count = Some(1);
        search.pick = Pick::First;
    } else {
        query.any.push(in_care_dates(start.unwrap_or(i64::MIN), end.unwrap_or(i64::MAX)));
    }
    Ok(search.answer(query, &pairs, Vec::new()).await?.into())
}

/// "The date range relates to care dates": the time of what the document tells of; of itself where it does not say.
fn in_care_dates(start_ms: i64, end_ms: i64) -> Vec<Vec<Clause>> {
    let clause = |param, modifier, value| Clause { param, kind: ParamKind::Date, modifier, values: vec![value] };
    let after = ClauseValue::Date { prefix: Prefix::Gt, from_ms: start_ms, to_ms: start_ms };
    let before = ClauseValue::Date { prefix: Prefix::Lt, from_ms: end_ms, to_ms: end_ms };
    vec![
        vec![clause("period", None, after.clone()), clause("period", None, before.clone())],
        vec![
            clause("date", None, after),
            clause("date", None, before),
            clause("period", Some(Modifier::Missing), ClauseValue::Missing(true)),
        ],
    ]
}
