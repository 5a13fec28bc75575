//! Conditions: which resources a conditional write or a conditional reference means (R4 §3.1.0.4.3, §3.1.0.5,
//! §3.1.0.11.2). Decided in journal order: a batch of refine ends before an entry that asks the index, so that the index
//! stands exactly where the entry does.

use base::LogicalId;
use fhir::json::Value;
use fhir::search::{Clause, ClauseValue, Query};

use super::{Failure, Writing, refuse};
use crate::envelope::FhirRequest;
use crate::refine::work::Stage;

/// Matches that are looked at: one is meant, and some may be gone by now.
const MATCHES_MAX: usize = 16;

/// How a condition is answered.
enum Way {
    /// From identifiers, which the changes of this batch are known by too.
    Identifier(String, String),
    Id(LogicalId),
    /// By silver's index, which holds what was committed.
    Index,
}

fn way(rtype: &str, query: &Query) -> Way {
    let [Clause { param, modifier: None, values, .. }] = query.clauses.as_slice() else { return Way::Index };
    let [ClauseValue::Token { system, code: Some(code) }] = values.as_slice() else { return Way::Index };
    if !query.chains.is_empty() || !query.has.is_empty() {
        return Way::Index;
    }
    let reads = |element: &str| {
        let known = fhir::search::param(rtype, param);
        known.is_some_and(|param| param.expression.strip_prefix(rtype) == Some(element))
    };
    match (*param, system) {
        ("_id", None) => LogicalId::parse(code).map_or(Way::Index, Way::Id),
        // Without a system any would do, which the index knows; some types have identifiers elsewhere, too.
        ("identifier", Some(system)) if reads(".identifier") => {
            Way::Identifier(system.clone().unwrap_or_default(), code.clone())
        }
        _ => Way::Index,
    }
}

/// Whether an entry has a condition that only the index answers.
pub fn asks_index(request: &FhirRequest, body: &Value) -> bool {
    let asks = |rtype: &str, criteria: &str| {
        let query = fhir::search::parse_criteria(rtype, criteria);
        query.is_ok_and(|query| matches!(way(rtype, &query), Way::Index))
    };
    let own = [&request.criteria, &request.if_none_exist].into_iter().flatten();
    if own.into_iter().any(|criteria| asks(&request.rtype, criteria)) {
        return true;
    }
    body.get("entry").map(Value::items).unwrap_or_default().iter().any(|entry| {
        let text = |name: &str| entry.path(&["request", name]).and_then(Value::as_str);
        let url = text("url").unwrap_or_default().trim_start_matches('/');
        let reads = matches!(text("method"), Some("GET" | "HEAD"));
        let by_url = url.split_once('?').is_some_and(|(rtype, criteria)| !reads && asks(rtype, criteria));
        let by_none = text("ifNoneExist").is_some_and(|criteria| asks(url, criteria));
        by_url || by_none || entry.get("resource").is_some_and(|resource| any_reference(resource, &asks))
    })
}

/// Texts that could be conditional references. One too many only ends a batch early.
fn any_reference(value: &Value, asks: &dyn Fn(&str, &str) -> bool) -> bool {
    match value {
        Value::String(text) => text.split_once('?').is_some_and(|(rtype, criteria)| asks(rtype, criteria)),
        Value::Array(items) => items.iter().any(|item| any_reference(item, asks)),
        Value::Object(object) => object.values().any(|member| any_reference(member, asks)),
        _ => false,
    }
}

/// The living resources in the writer's reach that meet a condition. Conditions by `identifier` and `_id` see every
/// change before them; the others see those of the entries before this one, and what this very Bundle made under the
/// same condition (R4 §3.1.0.11.1: entries of a batch do not depend on each other).
pub async fn matches(
    stage: &mut Stage<'_, '_>,
    writing: &Writing<'_>,
    rtype: &str,
    criteria: &str,
    at: &str,
) -> Result<Vec<LogicalId>, Failure> {
    let query = match fhir::search::parse_criteria(rtype, criteria) {
        Ok(query) => query,
        Err(issue) => return refuse(400, issue.code, at, issue.text),
    };
    let mut found = match way(rtype, &query) {
        Way::Identifier(system, value) => stage.find(rtype, &system, &value).await?,
        Way::Id(id) => vec![id],
        Way::Index => {
            let (silver, permit, domain) = (stage.work.silver, stage.work.permit, stage.work.domain);
            let within = (&writing.within.patients, writing.within.sensitivity);
            silver.find_within(permit, domain, query, within, MATCHES_MAX).await?
        }
    };
    found.extend(stage.work.made.get(&(rtype.to_owned(), criteria.to_owned())).cloned());
    found.sort();
    found.dedup();
    let mut living = Vec::with_capacity(found.len());
    for id in found {
        if let Some(state) = stage.current(rtype, &id).await?
            && !state.deleted
            && writing.within.covers(state.patient, state.sensitivity)
        {
            living.push(id);
        }
    }
    Ok(living)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::Interaction;

    #[test]
    fn only_what_identifiers_cannot_answer_asks_the_index() {
        for (rtype, criteria, expected) in [
            ("Patient", "identifier=urn:mrn|7", false),
            ("Patient", "identifier=|7", false),
            ("Patient", "identifier=7", true),
            ("Patient", "identifier=urn:mrn|7,urn:mrn|8", true),
            ("Patient", "identifier=urn:mrn|", true),
            ("Patient", "identifier:not=urn:mrn|7", true),
            ("DocumentReference", "identifier=urn:doc|7", true),
            ("Patient", "_id=p1", false),
            ("Patient", "identifier=urn:mrn|7&birthdate=1970", true),
            ("Observation", "subject:Patient.name=x", true),
            ("Patient", "nonsense=1", false),
        ] {
            let mut request = FhirRequest::new(Interaction::Update, rtype);
            request.criteria = Some(criteria.to_owned());
            assert_eq!(asks_index(&request, &Value::Null), expected, "{rtype}?{criteria}");
        }
        let bundle = |reference: &str| {
            let resource = fhir::json!({ "resourceType": "Observation", "subject": { "reference": reference } });
            fhir::json!({ "entry": [{ "resource": (resource), "request": { "method": "POST", "url": "Observation" } }] })
        };
        let request = FhirRequest::new(Interaction::Bundle, "Bundle");
        assert!(asks_index(&request, &bundle("Patient?name=x")));
        assert!(!asks_index(&request, &bundle("Patient?identifier=urn:mrn|7")));
        assert!(!asks_index(&request, &bundle("Why so?")));
    }
}
