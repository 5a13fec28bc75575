//! The masks of a permit applied to a FHIR resource: the counterpart of the lake's masks on columns (law 7).
//!
//! Every primitive element has a class, by the same table that classifies a product's columns. What is masked leaves no
//! value behind: the element is removed, or replaced by what the method shows. The resource is then marked as a subset.

use base::{DataClass, Mask, MaskMethod};
use fhir::json::{Object, Value};

/// Shows a value as a mask allows; the lake owns the methods, so that both doors show the same.
pub trait ShowMasked {
    /// What to show instead of `text`; `None` removes it.
    fn show(&self, method: &MaskMethod, domain: &str, class: DataClass, text: &str) -> Option<String>;
}

/// Applies `masks` to a resource in place. True when something was masked.
pub fn apply(resource: &mut Value, domain: &str, masks: &[Mask], shower: &dyn ShowMasked) -> bool {
    if masks.is_empty() {
        return false;
    }
    let rtype = resource.get("resourceType").and_then(Value::as_str).unwrap_or_default().to_owned();
    let walk = Walk { rtype: &rtype, domain, masks, shower };
    let Some(object) = resource.as_object_mut() else { return false };
    let changed = walk.object(object, "");
    if changed {
        mark_subset(object);
    }
    changed
}

struct Walk<'a> {
    rtype: &'a str,
    domain: &'a str,
    masks: &'a [Mask],
    shower: &'a dyn ShowMasked,
}

impl Walk<'_> {
    fn object(&self, object: &mut Object, path: &str) -> bool {
        let mut changed = false;
        let mut gone: Vec<String> = Vec::new();
        for (name, value) in object.iter_mut() {
            // Of the element itself and of what stands beside a primitive (`_birthDate`).
            let bare = name.strip_prefix('_').unwrap_or(name);
            let below = if path.is_empty() { bare.to_owned() } else { format!("{path}.{bare}") };
            match self.value(value, &below) {
                Effect::Kept => {}
                Effect::Changed => changed = true,
                Effect::Gone => gone.push(name.to_string()),
            }
        }
        for name in &gone {
            object.remove(name);
        }
        changed || !gone.is_empty()
    }

    fn value(&self, value: &mut Value, path: &str) -> Effect {
        match value {
            Value::Object(object) => {
                let changed = self.object(object, path);
                if object.is_empty() { Effect::Gone } else { Effect::of(changed) }
            }
            Value::Array(list) => {
                let before = list.len();
                let mut changed = false;
                list.retain_mut(|item| match self.value(item, path) {
                    Effect::Gone => false,
                    effect => {
                        changed |= effect == Effect::Changed;
                        true
                    }
                });
                if list.is_empty() && before > 0 { Effect::Gone } else { Effect::of(changed || list.len() < before) }
            }
            Value::Null => Effect::Kept,
            Value::String(_) | Value::Number(_) | Value::Bool(_) => self.primitive(value, path),
        }
    }

    fn primitive(&self, value: &mut Value, path: &str) -> Effect {
        if matches!(path, "resourceType" | "id") || path.starts_with("meta") {
            return Effect::Kept;
        }
        let class = products::classify::derive(self.rtype, path);
        let Some(mask) = Mask::strictest(self.masks, class) else { return Effect::Kept };
        let shown = match value {
            Value::String(text) => self.shower.show(&mask.method, self.domain, class, text),
            // A number or truth value of a masked class has no partial form.
            _ => None,
        };
        match shown {
            Some(text) => {
                *value = Value::from(text);
                Effect::Changed
            }
            None => Effect::Gone,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Kept,
    Changed,
    Gone,
}

impl Effect {
    fn of(changed: bool) -> Effect {
        if changed { Effect::Changed } else { Effect::Kept }
    }
}

/// HL7 v3 ObservationValue SUBSETTED and MASKED (R4 §3.1.0.5, security labels).
fn mark_subset(object: &mut Object) {
    let tag = |code: &str, display: &str| {
        let mut coding = Object::default();
        coding.insert("system", Value::from("http://terminology.hl7.org/CodeSystem/v3-ObservationValue"));
        coding.insert("code", Value::from(code));
        coding.insert("display", Value::from(display));
        Value::Object(coding)
    };
    let mut meta = match object.remove("meta") {
        Some(Value::Object(meta)) => meta,
        _ => Object::default(),
    };
    for (list, code, display) in [("tag", "SUBSETTED", "subsetted"), ("security", "MASKED", "masked")] {
        let mut all = match meta.remove(list) {
            Some(Value::Array(all)) => all,
            _ => Vec::new(),
        };
        all.push(tag(code, display));
        meta.insert(list, Value::Array(all));
    }
    object.insert("meta", Value::Object(meta));
}
