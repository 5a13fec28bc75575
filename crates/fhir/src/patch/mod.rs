//! Patches of a resource (R4 §3.1.0.7): JSON Patch (RFC 6902) and FHIRPath Patch. A pure function of patch and resource.
//!
//! Never validates the outcome: that is `validate`'s matter, as for an update. No error holds a value.

mod by_path;
mod by_pointer;
#[cfg(test)]
mod tests;

use crate::json::{ParseLimits, Value};
use crate::validate::Issue;

/// Operations of one patch.
const OPERATIONS_MAX: usize = 500;
/// What the operations of one patch may add or copy: a chain of copies doubles what it copies.
const ADDED_BYTES_MAX: usize = 16 << 20;
/// A resource that patches made grow to this grows no further: what is stored must be read again.
const RESOURCE_BYTES_MAX: usize = 32 << 20;

/// The media type of a JSON Patch.
pub const JSON_PATCH: &str = "application/json-patch+json";

/// A patch that was read and has the form of one.
pub enum Patch {
    Json(Vec<by_pointer::Operation>),
    FhirPath(Vec<by_path::Operation>),
}

/// Counts only: a patch is PHI.
impl std::fmt::Debug for Patch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Patch::Json(operations) => write!(f, "Json({} operations)", operations.len()),
            Patch::FhirPath(operations) => write!(f, "FhirPath({} operations)", operations.len()),
        }
    }
}

impl Patch {
    /// Reads an array as a JSON Patch, and Parameters as a FHIRPath Patch.
    pub fn read(value: &Value) -> Result<Patch, Issue> {
        let patch = match value {
            Value::Array(operations) => {
                bounded(operations.len())?;
                Patch::Json(by_pointer::read(operations)?)
            }
            Value::Object(object) if object.get("resourceType").and_then(Value::as_str) == Some("Parameters") => {
                let operations = object.get("parameter").map(Value::items).unwrap_or_default();
                bounded(operations.len())?;
                Patch::FhirPath(by_path::read(operations)?)
            }
            _ => {
                let text = "a patch is an array of operations (JSON Patch) or Parameters (FHIRPath Patch)";
                return Err(Issue::error("structure", "", text));
            }
        };
        Ok(patch)
    }

    /// Reads what stands as the resource of a PATCH entry: Parameters, or a Binary that holds a JSON Patch
    /// (R4 §3.1.0.11.2).
    pub fn read_entry(resource: &Value, limits: &ParseLimits) -> Result<Patch, Issue> {
        match binary_json(resource, limits) {
            Some(patch) => Patch::read(&patch?),
            None => Patch::read(resource),
        }
    }

    /// Applies all operations in their order; the resource is as it was when one of them cannot be.
    pub fn apply(&self, resource: &Value) -> Result<Value, Issue> {
        let mut patched = resource.clone();
        match self {
            Patch::Json(operations) => by_pointer::apply(operations, &mut patched)?,
            Patch::FhirPath(operations) => by_path::apply(operations, &mut patched)?,
        }
        if ["resourceType", "id"].iter().any(|name| resource.get(name) != patched.get(name)) {
            return Err(Issue::error("business-rule", "", "a patch may not change resourceType or id"));
        }
        if measure(&patched).bytes > RESOURCE_BYTES_MAX {
            return Err(Issue::error("too-costly", "", "the patch makes the resource too large"));
        }
        Ok(patched)
    }
}

/// The JSON in a Binary that says it is a JSON Patch; `None` where the resource is none.
pub fn binary_json(resource: &Value, limits: &ParseLimits) -> Option<Result<Value, Issue>> {
    let text = |name: &str| resource.get(name).and_then(Value::as_str);
    if text("resourceType") != Some("Binary") {
        return None;
    }
    let kind = text("contentType").and_then(|kind| kind.split(';').next()).map(str::trim);
    if kind != Some(JSON_PATCH) {
        let text = format!("a Binary as a patch must be of the content type {JSON_PATCH}");
        return Some(Err(Issue::error("value", "Binary.contentType", text)));
    }
    let data = crate::path::decode_base64(text("data").unwrap_or_default())
        .ok_or_else(|| Issue::error("value", "Binary.data", "must be base64"));
    Some(data.and_then(|data| {
        crate::json::parse(&data, limits).map_err(|error| Issue::error("structure", "Binary.data", error.to_string()))
    }))
}

fn bounded(operations: usize) -> Result<(), Issue> {
    match operations {
        0 => Err(Issue::error("required", "", "a patch needs at least one operation")),
        1..=OPERATIONS_MAX => Ok(()),
        _ => Err(Issue::error("too-costly", "", format!("a patch may have {OPERATIONS_MAX} operations: send several"))),
    }
}

/// What operations may still add.
struct Budget(usize);

impl Budget {
    fn new() -> Budget {
        Budget(ADDED_BYTES_MAX)
    }

    /// `above` is how deep the value will stand.
    fn take(&mut self, value: &Value, above: usize) -> Result<(), &'static str> {
        let size = measure(value);
        self.0 = self.0.checked_sub(size.bytes).ok_or("it makes the resource too large")?;
        let deepest = ParseLimits::default().depth_max;
        if above + size.depth <= deepest { Ok(()) } else { Err("it makes the resource too deep") }
    }
}

#[derive(Clone, Copy)]
struct Size {
    bytes: usize,
    depth: usize,
}

/// About as many bytes as it takes, and how deep it is.
fn measure(value: &Value) -> Size {
    const NODE_BYTES: usize = 16;
    let all = |own: usize, below: &mut dyn Iterator<Item = Size>| {
        let sum = |a: Size, b: Size| Size { bytes: a.bytes + b.bytes, depth: a.depth.max(b.depth) };
        let below = below.fold(Size { bytes: own, depth: 0 }, sum);
        Size { depth: below.depth + 1, ..below }
    };
    match value {
        Value::String(text) => Size { bytes: NODE_BYTES + text.len(), depth: 1 },
        Value::Array(items) => all(NODE_BYTES, &mut items.iter().map(measure)),
        Value::Object(object) => {
            let names: usize = object.keys().map(str::len).sum();
            all(NODE_BYTES + names, &mut object.values().map(measure))
        }
        _ => Size { bytes: NODE_BYTES, depth: 1 },
    }
}

/// R4 §2.6.2: an array or an object is never empty. What the operations emptied goes.
fn drop_empty(value: &mut Value) {
    let is_empty = |value: &Value| match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(object) => object.is_empty(),
        _ => false,
    };
    match value {
        Value::Array(items) => {
            items.iter_mut().for_each(drop_empty);
            items.retain(|item| !is_empty(item));
        }
        Value::Object(object) => object.retain(|_, member| {
            drop_empty(member);
            !is_empty(member)
        }),
        _ => {}
    }
}
