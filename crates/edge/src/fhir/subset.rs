//! `_elements` and `_summary` (R4 §3.1.1.5.8, §3.1.1.5.9): what of a match is left out. Who may see what was decided
//! before: this only takes away. Included resources are whole.

use axum::http::StatusCode;
use base::Limits;
use fhir::definitions::{self, Kind, Type};
use fhir::json;
use fhir::json::{Object, Value};
use fhir::search::{Query, Summary};

use super::FhirError;

/// R4 §3.1.1.5.8: "`_include` and `_revinclude` cannot be mixed with `_summary=text`".
pub fn check(query: &Query) -> Result<(), FhirError> {
    let includes = !query.includes.is_empty() || !query.revincludes.is_empty();
    if query.summary == Summary::Text && includes {
        let text = "`_summary=text` gives no included resources: leave one of them out";
        return Err(FhirError::new(StatusCode::BAD_REQUEST, "invalid", text));
    }
    Ok(())
}

/// What a read asks to be left out (R4 §3.1.0.1.6); `None` where it asks nothing. Its other parameters are passed over.
pub fn of_read(rtype: &str, query: Option<&str>, limits: &Limits) -> Result<Option<Query>, FhirError> {
    let mut pairs = fhir::search::decode_query(query.unwrap_or_default());
    pairs.retain(|(name, _)| name == "_summary" || name == "_elements");
    if pairs.is_empty() {
        return Ok(None);
    }
    let query = fhir::search::parse_query(rtype, &pairs, limits, false);
    let bad = |issue| FhirError { status: StatusCode::BAD_REQUEST, issues: vec![issue], retry_after_s: None };
    Ok(Some(query.map_err(bad)?).filter(|query| !matches!(query.summary, Summary::Count)))
}

/// Leaves out what was not asked for, and marks the resource as incomplete.
pub fn apply(query: &Query, resource: &mut Value) {
    let Some(object) = resource.as_object_mut() else { return };
    let rtype = object.get("resourceType").and_then(Value::as_str);
    let Some(kind) = rtype.and_then(definitions::resource_type) else { return };
    let keep: &dyn Fn(&str) -> bool = match query.summary {
        Summary::True => {
            summarize(kind, object, true);
            return mark(object);
        }
        Summary::Text => &|element: &str| element == "text",
        Summary::Data => &|element: &str| element != "text",
        _ if query.elements.is_empty() => return,
        _ => &|element: &str| query.elements.iter().any(|asked| asked == element),
    };
    object.retain(|name, _| stays(kind, name, keep));
    mark(object);
}

/// Only elements with the summary flag Σ, at each level of types; mandatory ones of the resource stay as with
/// `_elements`, so that what is left is valid.
fn summarize(kind: &'static Type, object: &mut Object, top: bool) {
    object.retain(|name, value| {
        if top && name == "resourceType" {
            return true;
        }
        let plain = name.strip_prefix('_').unwrap_or(name);
        let Some(property) = kind.property(plain) else { return false };
        let element = property.element;
        let always = ["id", "meta", "implicitRules", "modifierExtension"].contains(&element.name);
        if !always && !element.required && !element.summary {
            return false;
        }
        let of = property.kind.definition();
        // What stands beside a primitive is its id and extensions, which have no flag.
        if of.kind == Kind::Complex && !always {
            match value {
                Value::Array(items) => {
                    items.iter_mut().filter_map(Value::as_object_mut).for_each(|item| summarize(of, item, false));
                }
                value => {
                    if let Some(object) = value.as_object_mut() {
                        summarize(of, object, false);
                    }
                }
            }
        }
        true
    });
}

/// Mandatory elements stay, and those that change what the rest means.
fn stays(kind: &Type, name: &str, keep: &dyn Fn(&str) -> bool) -> bool {
    let plain = name.strip_prefix('_').unwrap_or(name);
    let Some(element) = kind.property(plain).map(|property| property.element) else { return true };
    let always = ["id", "meta", "implicitRules", "modifierExtension"].contains(&element.name);
    always || element.required || keep(element.name)
}

/// `meta.tag` SUBSETTED: an incomplete resource must not be sent back as an update.
fn mark(object: &mut Object) {
    let tag = json!({ "system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED" });
    let mut meta = match object.remove("meta") {
        Some(Value::Object(meta)) => meta,
        _ => Object::default(),
    };
    let mut tags = match meta.remove("tag") {
        Some(Value::Array(tags)) => tags,
        _ => Vec::new(),
    };
    // A mask may have said so already.
    if !tags.iter().any(|known| known.get("code").and_then(Value::as_str) == Some("SUBSETTED")) {
        tags.push(tag);
    }
    meta.insert("tag", Value::Array(tags));
    object.insert("meta", Value::Object(meta));
}

#[cfg(test)]
mod tests {
    use fhir::json::ParseLimits;

    use super::*;

    fn left(query: &Query) -> Vec<String> {
        let text = br#"{"resourceType":"Observation","id":"o1","text":{"status":"generated","div":"<div/>"},
            "status":"final","_status":{"id":"s"},"code":{"text":"K"},"valueString":"x","issued":"2026-01-01T00:00:00Z"}"#;
        let mut resource = fhir::json::parse(text, &ParseLimits::default()).unwrap();
        apply(query, &mut resource);
        resource.as_object_mut().unwrap().iter().map(|(name, _)| name.to_string()).collect()
    }

    #[test]
    fn what_was_not_asked_for_is_left_out_and_the_rest_is_marked() {
        let whole = Query { rtype: "Observation".into(), ..Query::default() };
        assert_eq!(left(&whole).len(), 8, "nothing asked, nothing changed");
        let elements = Query { elements: vec!["value".into()], ..whole.clone() };
        assert_eq!(left(&elements), ["resourceType", "id", "status", "_status", "code", "valueString", "meta"]);
        let text = Query { summary: Summary::Text, ..whole.clone() };
        assert_eq!(left(&text), ["resourceType", "id", "text", "status", "_status", "code", "meta"]);
        let data = Query { summary: Summary::Data, ..whole.clone() };
        assert_eq!(left(&data).iter().filter(|name| *name == "text").count(), 0);
        // A summary has what the definitions mark: no narrative, and nothing of an element that is not marked itself.
        let summary = Query { summary: Summary::True, ..whole };
        assert_eq!(
            left(&summary),
            ["resourceType", "id", "status", "_status", "code", "valueString", "issued", "meta"]
        );
    }

    #[test]
    fn a_summary_goes_into_types() {
        let text =
            br#"{"resourceType":"Patient","id":"p","photo":[{"data":"AA=="}],"gender":"male","_gender":{"id":"g"},
            "contact":[{"name":{"family":"x"}}],"communication":[{"language":{"text":"de"}}],
            "name":[{"family":"y","extension":[{"url":"u","valueString":"z"}]}],
            "identifier":[{"system":"s","value":"v","assigner":{"reference":"Organization/1"}}],
            "link":[{"other":{"reference":"Patient/2"},"type":"seealso"}]}"#;
        let mut resource = fhir::json::parse(text, &ParseLimits::default()).unwrap();
        apply(&Query { rtype: "Patient".into(), summary: Summary::True, ..Query::default() }, &mut resource);
        let object = resource.as_object_mut().unwrap();
        let meta = fhir::json::to_string(&object.remove("meta").unwrap());
        assert!(meta.contains("SUBSETTED"), "{meta}");
        assert_eq!(
            fhir::json::to_string(&resource),
            r#"{"resourceType":"Patient","id":"p","gender":"male","_gender":{"id":"g"},"name":[{"family":"y"}],"identifier":[{"system":"s","value":"v","assigner":{"reference":"Organization/1"}}],"link":[{"other":{"reference":"Patient/2"},"type":"seealso"}]}"#
        );
    }
}
