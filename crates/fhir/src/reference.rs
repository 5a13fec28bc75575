//! References between resources: their forms (R4 §2.3.0), a walk over all that a resource holds, and the patient a
//! resource belongs to by the Patient compartment.
//!
//! Never follows a reference. Those of transactions are resolved by `bundle`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::OnceLock;

use crate::definitions::{self, Kind, Type};
use crate::json::{Object, Value};

/// The text of `Reference.reference`, by its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reference<'a> {
    /// `Patient/123`, `Patient/123/_history/2`.
    Local { rtype: &'a str, id: &'a str, version: Option<&'a str> },
    /// `Patient?identifier=...`: in transactions only.
    Conditional { rtype: &'a str, query: &'a str },
    /// `https://...`.
    Absolute(&'a str),
    /// `urn:uuid:...`, `urn:oid:...`.
    Urn(&'a str),
    /// `#p1`, without the `#`: contained here.
    Fragment(&'a str),
}

impl<'a> Reference<'a> {
    /// `None` when the text has none of the forms.
    pub fn parse(text: &'a str) -> Option<Reference<'a>> {
        if let Some(id) = text.strip_prefix('#') {
            return Some(Reference::Fragment(id));
        }
        if text.get(..4).is_some_and(|scheme| scheme.eq_ignore_ascii_case("urn:")) {
            return Some(Reference::Urn(text));
        }
        if let Some((rtype, query)) = text.split_once('?')
            && definitions::resource_type(rtype).is_some()
        {
            return Some(Reference::Conditional { rtype, query });
        }
        if is_absolute(text) {
            return Some(Reference::Absolute(text));
        }
        local(text)
    }

    /// The type it leads to, as far as the text says.
    pub fn rtype(&self) -> Option<&'a str> {
        match *self {
            Reference::Local { rtype, .. } | Reference::Conditional { rtype, .. } => Some(rtype),
            Reference::Absolute(url) => match from_absolute(url) {
                Some(Reference::Local { rtype, .. }) => Some(rtype),
                _ => None,
            },
            Reference::Urn(_) | Reference::Fragment(_) => None,
        }
    }
}

fn is_absolute(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
        && !rest.is_empty()
}

fn local(text: &str) -> Option<Reference<'_>> {
    let mut parts = text.split('/');
    let (rtype, id) = (parts.next()?, parts.next()?);
    let version = match (parts.next(), parts.next(), parts.next()) {
        (None, ..) => None,
        (Some("_history"), Some(version), None) => Some(version),
        _ => return None,
    };
    let valid = |id: &str| base::LogicalId::parse(id).is_ok();
    let known = definitions::resource_type(rtype).is_some();
    (known && valid(id) && version.is_none_or(valid)).then_some(Reference::Local { rtype, id, version })
}

/// `Type/id` at the end of a RESTful URL (R4 §2.3.0.1).
fn from_absolute(url: &str) -> Option<Reference<'_>> {
    let path = url.split(['?', '#']).next()?;
    let parts = path.rmatch_indices('/').map(|(at, _)| at);
    parts.take(4).find_map(|at| local(&path[at + 1..]))
}

/// The type that a Reference object says it leads to: by its text, or by `type`.
pub fn target_type(reference: &Value) -> Option<&str> {
    let text = reference.get("reference").and_then(Value::as_str);
    text.and_then(Reference::parse).and_then(|r| r.rtype()).or_else(|| reference.get("type").and_then(Value::as_str))
}

/// Calls `visit` with each Reference object of a resource and its place, contained resources and entries included.
pub fn for_each_reference<'a>(resource: &'a Value, visit: &mut dyn FnMut(&str, &'a Value)) {
    walk(resource, &mut |path, kind, value| {
        if kind == "Reference" {
            visit(path, value);
        }
    });
}

/// Calls `visit` with the text of each literal reference of a resource, and with the URL of each attachment, which may be
/// a Binary.
pub fn for_each_link<'a>(resource: &'a Value, visit: &mut dyn FnMut(&'a str)) {
    walk(resource, &mut |_, kind, value| {
        let member = match kind {
            "Reference" => "reference",
            "Attachment" => "url",
            _ => return,
        };
        if let Some(text) = value.get(member).and_then(Value::as_str) {
            visit(text);
        }
    });
}

/// As [`for_each_reference`], to change them.
pub fn for_each_reference_mut(resource: &mut Value, visit: &mut dyn FnMut(&str, &mut Value)) {
    walk_mut(resource, &mut |path, kind, value| {
        if kind == "Reference" {
            visit(path, value);
        }
    });
}

macro_rules! walker {
    ($(#[$doc:meta])* $walk:ident, $object:ident, [$($lt:lifetime)?], [$($mutable:tt)?], $as_object:ident, $iter:ident) => {
        $(#[$doc])*
        pub(crate) fn $walk<$($lt)?>(
            resource: & $($lt)? $($mutable)? Value,
            visit: &mut dyn FnMut(&str, &str, & $($lt)? $($mutable)? Value),
        ) {
            let Some(kind) = resource_kind(resource) else { return };
            let mut path = kind.name.to_owned();
            if let Some(object) = resource.$as_object() {
                $object(kind, object, &mut path, visit);
            }
        }

        fn $object<$($lt)?>(
            kind: &Type,
            object: & $($lt)? $($mutable)? Object,
            path: &mut String,
            visit: &mut dyn FnMut(&str, &str, & $($lt)? $($mutable)? Value),
        ) {
            for (name, value) in object.$iter() {
                let Some(property) = kind.property(name) else { continue };
                let (kind, mark) = (property.kind, path.len());
                path.push('.');
                path.push_str(name);
                match value {
                    Value::Array(items) => {
                        for (index, item) in items.$iter().enumerate() {
                            let mark = path.len();
                            let _ = write!(path, "[{index}]");
                            visit(path, kind.name, & $($mutable)? *item);
                            let of = item_kind(kind.definition(), item);
                            if let (Some(of), Some(object)) = (of, item.$as_object()) {
                                $object(of, object, path, visit);
                            }
                            path.truncate(mark);
                        }
                    }
                    value => {
                        visit(path, kind.name, & $($mutable)? *value);
                        let of = item_kind(kind.definition(), value);
                        if let (Some(of), Some(object)) = (of, value.$as_object()) {
                            $object(of, object, path, visit);
                        }
                    }
                }
                path.truncate(mark);
            }
        }
    };
}

walker!(
    /// Calls `visit` with the place, type and value of each element, parents first. What is of no known type is
    /// passed over.
    walk, walk_object, ['a], [], as_object, iter
);
walker!(
    /// As `walk`, to change them.
    walk_mut, walk_object_mut, [], [mut], as_object_mut, iter_mut
);

fn resource_kind(value: &Value) -> Option<&'static Type> {
    definitions::resource_type(value.get("resourceType")?.as_str()?)
}

fn item_kind(kind: &'static Type, value: &Value) -> Option<&'static Type> {
    match kind.kind {
        Kind::Primitive => None,
        Kind::Complex => Some(kind),
        Kind::Resource | Kind::AbstractResource => resource_kind(value),
    }
}

/// The elements by which a type's instances belong to a patient, from the Patient compartment (R4 §2.42): names of
/// search parameters, best first. Empty for types outside it.
pub fn patient_parameters(rtype: &str) -> &'static [&'static str] {
    static TABLE: OnceLock<HashMap<&'static str, Vec<&'static str>>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let line = |line: &'static str| {
            let mut words = line.split(' ');
            let rtype = words.next().unwrap_or_default();
            let mut codes: Vec<&str> = words.collect();
            // Whom it is about, before who else took part.
            codes.sort_by_key(|code| match *code {
                "patient" => 0,
                "subject" => 1,
                "beneficiary" | "individual" => 2,
                _ => 3,
            });
            (rtype, codes)
        };
        include_str!("gen/patient_compartment.txt").lines().map(line).collect()
    });
    table.get(rtype).map(Vec::as_slice).unwrap_or_default()
}

/// The text of the reference to the patient whom a resource belongs to: `Patient/1`, a URL that ends so, or a
/// `urn:` or `#` that can only be, or says to be, a patient. `None` for Patient itself and outside the compartment.
pub fn patient_reference(resource: &Value) -> Option<&str> {
    let rtype = resource.get("resourceType")?.as_str()?;
    if rtype == "Patient" {
        return None;
    }
    patient_parameters(rtype).iter().find_map(|code| {
        let references = crate::search::elements(resource, rtype, code);
        references.into_iter().find_map(|(reference, only_patient)| {
            let text = reference.get("reference")?.as_str()?;
            let patient = match target_type(reference) {
                Some(rtype) => rtype == "Patient",
                None => only_patient,
            };
            patient.then_some(text)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn forms_are_told_apart() {
        use Reference::*;
        for (text, want) in [
            ("Patient/1", Some(Local { rtype: "Patient", id: "1", version: None })),
            ("Patient/1/_history/2", Some(Local { rtype: "Patient", id: "1", version: Some("2") })),
            ("Practitioner?identifier=a|b", Some(Conditional { rtype: "Practitioner", query: "identifier=a|b" })),
            ("http://x.org/fhir/Patient/1", Some(Absolute("http://x.org/fhir/Patient/1"))),
            ("urn:uuid:1", Some(Urn("urn:uuid:1"))),
            ("#p", Some(Fragment("p"))),
            ("", None),
            ("Patient", None),
            ("Patient/", None),
            ("Patient/a b", None),
            ("Nothing/1", None),
            ("Patient/1/x", None),
            ("Patient/1/_history/2/3", None),
            ("é?a", None),
        ] {
            assert_eq!(Reference::parse(text), want, "{text}");
        }
        let rtype = |t| Reference::parse(t).and_then(|r| r.rtype());
        assert_eq!(rtype("https://x.org/fhir/Patient/1/_history/3"), Some("Patient"));
        assert_eq!(rtype("https://x.org/Patient"), None);
        assert_eq!(rtype("https://x.org"), None);
    }

    #[test]
    fn every_reference_is_visited_with_its_place() {
        let mut resource = json!({
            "resourceType": "Observation",
            "subject": {"reference": "Patient/1"},
            "performer": [{"reference": "Practitioner/1"}, {"identifier": {"value": "7", "assigner": {"display": "x"}}}],
            "extension": [{"url": "u", "valueReference": {"reference": "Device/1"}}],
            "contained": [{"resourceType": "Specimen", "subject": {"reference": "#"}}],
        });
        let want = [
            "Observation.subject",
            "Observation.performer[0]",
            "Observation.performer[1]",
            "Observation.performer[1].identifier.assigner",
            "Observation.extension[0].valueReference",
            "Observation.contained[0].subject",
        ];
        let mut paths = Vec::new();
        for_each_reference(&resource, &mut |path, _| paths.push(path.to_owned()));
        assert_eq!(paths, want);
        let mut changed = Vec::new();
        for_each_reference_mut(&mut resource, &mut |path, value| {
            value.as_object_mut().unwrap().insert("display", "seen");
            changed.push(path.to_owned());
        });
        assert_eq!(changed, want);
        assert_eq!(resource.path(&["subject", "display"]).and_then(Value::as_str), Some("seen"));
    }

    #[test]
    fn the_patient_is_found_by_the_compartment() {
        for (resource, want) in [
            (json!({"resourceType": "Observation", "subject": {"reference": "Patient/1"}}), Some("Patient/1")),
            (json!({"resourceType": "Observation", "subject": {"reference": "Group/1"}}), None),
            (
                json!({"resourceType": "Observation", "subject": {"reference": "Device/1"}, "performer": [{"reference": "Patient/2"}]}),
                Some("Patient/2"),
            ),
            (json!({"resourceType": "Claim", "patient": {"reference": "urn:uuid:1"}}), Some("urn:uuid:1")),
            (json!({"resourceType": "Encounter", "subject": {"reference": "urn:uuid:1"}}), None),
            (
                json!({"resourceType": "Encounter", "subject": {"reference": "urn:uuid:1", "type": "Patient"}}),
                Some("urn:uuid:1"),
            ),
            (
                json!({"resourceType": "Coverage", "beneficiary": {"reference": "http://a/Patient/3"}}),
                Some("http://a/Patient/3"),
            ),
            (
                json!({"resourceType": "Appointment", "participant": [{"actor": {"reference": "Practitioner/1"}}, {"actor": {"reference": "Patient/4"}}]}),
                Some("Patient/4"),
            ),
            (json!({"resourceType": "Patient", "link": [{"other": {"reference": "Patient/5"}}]}), None),
            (json!({"resourceType": "Organization"}), None),
            (json!({}), None),
        ] {
            assert_eq!(patient_reference(&resource), want, "{}", json::to_string(&resource));
        }
    }
}
