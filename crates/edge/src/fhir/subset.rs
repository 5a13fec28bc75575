//! `_elements` and `_summary` (R4 §3.1.1.5.8, §3.1.1.5.9): what of a match is left out. Who may see what was decided
//! before: this only takes away. Included resources are whole.

use axum::http::StatusCode;
use fhir::definitions::{self, Type};
use fhir::json;
use fhir::json::{Object, Value};
use fhir::search::{Query, Summary};

use super::FhirError;

/// `_summary=true` needs the summary flags of every element, which this server has no table of.
pub fn check(query: &Query) -> Result<(), FhirError> {
    if query.summary == Summary::True {
        let text = "`_summary=true` is not supported: name what you need with `_elements`";
        return Err(FhirError::new(StatusCode::BAD_REQUEST, "not-supported", text));
    }
    Ok(())
}

/// Leaves out what was not asked for, and marks the resource as incomplete.
pub fn apply(query: &Query, resource: &mut Value) {
    let Some(object) = resource.as_object_mut() else { return };
    let rtype = object.get("resourceType").and_then(Value::as_str);
    let Some(kind) = rtype.and_then(definitions::resource_type) else { return };
    let keep: &dyn Fn(&str) -> bool = match query.summary {
        Summary::Text => &|element: &str| element == "text",
        Summary::Data => &|element: &str| element != "text",
        _ if query.elements.is_empty() => return,
        _ => &|element: &str| query.elements.iter().any(|asked| asked == element),
    };
    object.retain(|name, _| stays(kind, name, keep));
    mark(object);
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
    tags.push(tag);
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
        assert!(check(&Query { summary: Summary::True, ..whole }).is_err());
    }
}
