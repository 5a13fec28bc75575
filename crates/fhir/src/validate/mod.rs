//! Whether a resource has the structure that R4 gives its type: known elements, cardinality, one type of a choice,
//! formats of primitives, codes of required bindings, what a reference may lead to.
//!
//! Not here: profiles, terminology beyond the tables, the definitions' FHIRPath invariants (but for those on
//! extensions and contained resources). No issue ever holds a value. The tables are in `definitions`.

mod issue;
mod primitive;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use crate::definitions::{self, CodeSet, Kind, Property, Type, TypeRef};
use crate::json::{Object, Value};
use crate::reference::Reference;

pub use issue::{Issue, Severity, operation_outcome};

/// Findings listed at most for one resource.
pub const ISSUES_MAX: usize = 100;

/// Checks a resource with all it contains; a Bundle with its entries. Empty when nothing is wrong.
pub fn validate(resource: &Value) -> Vec<Issue> {
    let mut checker = Checker { issues: Vec::new() };
    checker.resource(resource, None, &Place::Root(""));
    checker.issues
}

/// Where the checker stands. Written out only when there is something to say.
#[derive(Clone, Copy)]
enum Place<'a> {
    Root(&'a str),
    Member(&'a Place<'a>, &'a str),
    Item(&'a Place<'a>, usize),
}

impl<'a> Place<'a> {
    fn text(&self) -> String {
        match self {
            Place::Root(name) => (*name).to_owned(),
            Place::Member(parent, name) => {
                let mut text = parent.text();
                // The name of an unknown member comes from the sender: show it only when it could be a name.
                if name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                    text.push('.');
                    text.push_str(name);
                }
                text
            }
            Place::Item(parent, index) => {
                let mut text = parent.text();
                let _ = write!(text, "[{index}]");
                text
            }
        }
    }

    fn member(&'a self, name: &'a str) -> Place<'a> {
        Place::Member(self, name)
    }
}

struct Checker {
    issues: Vec<Issue>,
}

impl Checker {
    fn report(&mut self, code: &'static str, place: &Place<'_>, text: impl Into<String>) {
        if self.issues.len() < ISSUES_MAX {
            self.issues.push(Issue::error(code, place.text(), text));
        }
    }

    /// A resource; `wanted` is the type it must be derived from, when it stands in an element.
    fn resource(&mut self, value: &Value, wanted: Option<&Type>, place: &Place<'_>) {
        let Some(object) = value.as_object() else {
            return self.report("structure", place, "a resource must be a JSON object");
        };
        let Some(name) = object.get("resourceType").and_then(Value::as_str) else {
            return self.report("structure", place, "a resource must have a resourceType");
        };
        let Some(kind) = definitions::resource_type(name) else {
            return self.report("structure", place, "unknown resourceType; it must be a type of FHIR R4");
        };
        if let Some(wanted) = wanted
            && !kind.is_a(wanted.name)
        {
            return self.report("structure", place, format!("must be a {}", wanted.name));
        }
        match place {
            Place::Root(_) => self.object(kind, object, &Place::Root(kind.name)),
            _ => self.object(kind, object, place),
        }
    }

    fn object(&mut self, kind: &Type, object: &Object, place: &Place<'_>) {
        let mut seen = Seen::default();
        for (name, value) in object {
            if self.issues.len() >= ISSUES_MAX {
                return;
            }
            if let Some(of) = name.strip_prefix('_') {
                self.sibling(kind, object, of, value, &mut seen, &place.member(of));
            } else if let Some(property) = kind.property(name) {
                let place = place.member(name);
                if !seen.mark(property) {
                    self.report("structure", &place, "only one type of this element may be given");
                }
                self.element(property, value, object, name, &place);
            } else if !(name == "resourceType" && kind.kind == Kind::Resource) {
                let text = format!("unknown element; {} has none of this name", kind.name);
                self.report("structure", &place.member(name), text);
            }
        }
        if object.is_empty() {
            self.report("structure", place, "must not be empty; leave the element out instead");
        }
        for (index, element) in kind.elements.iter().enumerate().filter(|(_, e)| e.required) {
            if !seen.has(index) {
                self.report("required", place, format!("{} is required", element.name));
            }
        }
        self.invariants(kind, object, place);
    }

    /// `_name`: the id and extensions of a primitive.
    fn sibling(&mut self, kind: &Type, object: &Object, name: &str, value: &Value, seen: &mut Seen, place: &Place<'_>) {
        let Some(property) = kind.property(name).filter(|p| p.kind.definition().is_primitive()) else {
            let text = format!("unknown element; {} has no primitive element of this name", kind.name);
            return self.report("structure", place, text);
        };
        if !seen.mark(property) && !object.contains_key(name) {
            self.report("structure", place, "only one type of this element may be given");
        }
        let Some(element_type) = definitions::type_named("Element") else { return };
        match (property.element.many, value) {
            (false, Value::Object(extra)) => self.object(element_type, extra, place),
            (true, Value::Array(extras)) => {
                let values = object.get(name).and_then(Value::as_array);
                if values.is_some_and(|v| v.len() != extras.len()) {
                    self.report("structure", place, "values and extensions must be arrays of the same length");
                }
                for (index, extra) in extras.iter().enumerate() {
                    let place = Place::Item(place, index);
                    match extra {
                        Value::Null if values.is_some_and(|v| v.get(index).is_some_and(|v| !v.is_null())) => {}
                        Value::Object(extra) => self.object(element_type, extra, &place),
                        _ => self.report("structure", &place, "must be an object with id or extension"),
                    }
                }
            }
            (true, _) => self.report("structure", place, "must be an array, since the element may repeat"),
            (false, _) => self.report("structure", place, "must be an object with id or extension"),
        }
    }

    fn element(&mut self, property: Property<'_>, value: &Value, holder: &Object, name: &str, place: &Place<'_>) {
        match (property.element.many, value) {
            (_, Value::Null) => self.report("structure", place, "must not be null; leave the element out instead"),
            (false, Value::Array(_)) => {
                self.report("structure", place, "must not be an array, since the element does not repeat");
            }
            (false, value) => self.item(property, value, place),
            (true, Value::Array(items)) => {
                if items.is_empty() {
                    self.report("structure", place, "must not be an empty array; leave the element out instead");
                }
                for (index, item) in items.iter().enumerate() {
                    let place = Place::Item(place, index);
                    if !item.is_null() {
                        self.item(property, item, &place);
                    } else if !has_sibling(holder, name, index) {
                        self.report("structure", &place, "may be null only where it has an extension instead");
                    }
                }
            }
            (true, _) => self.report("structure", place, "must be an array, since the element may repeat"),
        }
    }

    fn item(&mut self, property: Property<'_>, value: &Value, place: &Place<'_>) {
        let Property { element, kind, .. } = property;
        let definition = kind.definition();
        match (definition.kind, value) {
            (Kind::Primitive, value) => {
                if let Err(reason) = primitive::check(kind.name, value) {
                    return self.report("value", place, reason);
                }
                if let (Some(codes), Some(code)) = (element.codes, value.as_str())
                    && !codes.has_code(code)
                {
                    self.report("code-invalid", place, format!("must be a code of the value set {}", codes.name));
                }
            }
            (Kind::Resource | Kind::AbstractResource, value) => self.resource(value, Some(definition), place),
            (Kind::Complex, Value::Object(object)) => {
                self.object(definition, object, place);
                match (kind.name, element.codes) {
                    ("Reference", _) => self.reference(kind, object, place),
                    (_, Some(codes)) => self.concept(codes, kind.name, value, place),
                    _ => {}
                }
            }
            (Kind::Complex, _) => self.report("structure", place, "must be an object"),
        }
    }

    /// A required binding on Coding, CodeableConcept or Quantity: at least one coding must be of the set.
    fn concept(&mut self, codes: &CodeSet, kind: &str, value: &Value, place: &Place<'_>) {
        let codings = match kind {
            "CodeableConcept" => value.get("coding").map(Value::items).unwrap_or_default(),
            _ => std::slice::from_ref(value),
        };
        let of_set = |coding: &Value| match (coding.get("system"), coding.get("code").and_then(Value::as_str)) {
            (Some(system), Some(code)) => system.as_str().is_some_and(|s| codes.has_coding(s, code)),
            (None, Some(code)) => kind != "CodeableConcept" && codes.has_code(code),
            _ => false,
        };
        if !codings.iter().any(of_set) {
            self.report("code-invalid", place, format!("must have a coding of the value set {}", codes.name));
        }
    }

    fn reference(&mut self, kind: &TypeRef, object: &Object, place: &Place<'_>) {
        let text = object.get("reference").and_then(Value::as_str).unwrap_or_default();
        if let Some(Reference::Local { rtype, .. }) = Reference::parse(text)
            && !kind.targets.is_empty()
            && !kind.targets.contains(&rtype)
        {
            let targets = kind.targets.join(", ");
            self.report("value", &place.member("reference"), format!("must refer to one of {targets}"));
        }
    }

    /// ext-1 and dom-2: the invariants without which a resource cannot be read safely.
    fn invariants(&mut self, kind: &Type, object: &Object, place: &Place<'_>) {
        if kind.name == "Extension" {
            let has_value = object.keys().any(|k| k.trim_start_matches('_').starts_with("value"));
            if has_value == object.contains_key("extension") {
                self.report("invariant", place, "an extension must have either a value or extensions (ext-1)");
            }
        }
        for (index, inner) in object.get("contained").map(Value::items).unwrap_or_default().iter().enumerate() {
            if kind.kind == Kind::Resource && inner.get("contained").is_some() {
                let contained = place.member("contained");
                let place = Place::Item(&contained, index);
                self.report("invariant", &place, "a contained resource must not contain others (dom-2)");
            }
        }
    }
}

/// Whether `_name[index]` holds something in place of a null value.
fn has_sibling(holder: &Object, name: &str, index: usize) -> bool {
    let sibling = holder.iter().find(|(key, _)| key.strip_prefix('_') == Some(name));
    sibling.and_then(|(_, v)| v.as_array()?.get(index)).is_some_and(|v| !v.is_null())
}

/// Which elements of a type have been met (a bit each), and with which type those with a choice.
#[derive(Default)]
struct Seen {
    elements: u128,
    choices: Vec<(usize, u16)>,
}

impl Seen {
    /// False when another type of the same element was met before.
    fn mark(&mut self, property: Property<'_>) -> bool {
        self.elements |= bit(property.index);
        if !property.element.choice {
            return true;
        }
        let same = self.choices.iter().all(|(index, choice)| *index != property.index || *choice == property.choice);
        self.choices.push((property.index, property.choice));
        same
    }

    fn has(&self, index: usize) -> bool {
        self.elements & bit(index) != 0
    }
}

/// No type has 128 elements; a test of the tables sees to it.
fn bit(index: usize) -> u128 {
    1 << (index % 128)
}
