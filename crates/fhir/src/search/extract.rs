//! Reads the rows of the index out of a resource. Never fails: what does not have the form its parameter asks for
//! gives no row, since validation, not the index, is where that is said.

use super::compile::{Compiled, Path, Step};
use super::{IndexValue, ParamKind, convert, params};
use crate::definitions::Type;
use crate::json::Value;
use crate::reference::target_type;

/// Rows of one composite parameter from one element.
const COMBINATIONS_MAX: usize = 256;

/// Rows of one resource: beyond them it is found by fewer of its repetitions.
const ROWS_MAX: usize = 50_000;

/// Rows of a parameter among which an equal one is looked for.
const SAME_SEARCHED_MAX: usize = 32;

/// Something a path led to.
#[derive(Clone, Copy)]
pub(super) struct Found<'a> {
    pub value: &'a Value,
    pub path: &'a Path,
}

/// All rows of a resource: the code of the parameter and the value. Empty for an unknown type.
pub fn extract(resource: &Value) -> Vec<(&'static str, IndexValue)> {
    let rtype = resource.get("resourceType").and_then(Value::as_str).unwrap_or_default();
    let Some(of_type) = params::of_type(rtype) else { return Vec::new() };
    let mut rows: Vec<(&'static str, IndexValue)> = Vec::new();
    for (param, reader) in of_type.params.iter().zip(&of_type.readers) {
        let mut values = Vec::new();
        if reader.compiled.truth {
            values.push(convert::boolean(is_true(resource, &reader.compiled)));
        } else if param.kind == ParamKind::Composite {
            composite(resource, param, reader, &mut values);
        } else {
            for found in find(resource, resource, &reader.compiled) {
                convert::rows(param.kind, found, &mut values);
            }
        }
        let first = rows.len();
        for value in values {
            // Names and codings often stand twice; looking at a few rows finds nearly all and costs little.
            let seen = rows[first..].iter().take(SAME_SEARCHED_MAX).any(|(_, other)| *other == value);
            if !seen && rows.len() < ROWS_MAX {
                rows.push((param.code, value));
            }
        }
    }
    rows
}

/// The Reference elements that a parameter reads, each with whether it can only lead to a patient.
pub(crate) fn elements<'a>(resource: &'a Value, rtype: &str, code: &str) -> Vec<(&'a Value, bool)> {
    let Some(of_type) = params::of_type(rtype) else { return Vec::new() };
    let readers = of_type.params.iter().zip(&of_type.readers);
    let Some((_, reader)) = readers.into_iter().find(|(param, _)| param.code == code) else { return Vec::new() };
    let mut out = Vec::new();
    for path in &reader.compiled.paths {
        follow(resource, &path.steps, &mut |value| out.push((value, path.only_patient)));
    }
    out
}

fn is_true(resource: &Value, compiled: &Compiled) -> bool {
    find(resource, resource, compiled).iter().any(|found| found.value.as_bool() != Some(false))
}

fn find<'a>(resource: &'a Value, element: &'a Value, compiled: &'a Compiled) -> Vec<Found<'a>> {
    let mut out = Vec::new();
    for path in &compiled.paths {
        let start = if path.from_resource { resource } else { element };
        follow(start, &path.steps, &mut |value| out.push(Found { value, path }));
    }
    out
}

/// Follows a path from a value, entering arrays; null leads nowhere.
fn follow<'a>(value: &'a Value, steps: &[Step], visit: &mut dyn FnMut(&'a Value)) {
    if let (Value::Array(items), false) = (value, matches!(steps.first(), Some(Step::Index(_)))) {
        return items.iter().for_each(|item| follow(item, steps, visit));
    }
    let Some((step, rest)) = steps.split_first() else {
        if !value.is_null() {
            visit(value);
        }
        return;
    };
    match step {
        Step::Member(name) => {
            if let Some(next) = value.get(name) {
                follow(next, rest, visit);
            }
        }
        Step::Index(index) => {
            if let Some(next) = value.items().get(*index) {
                follow(next, rest, visit);
            }
        }
        Step::Equal(name, text) => {
            if value.get(name).and_then(Value::as_str) == Some(text) {
                follow(value, rest, visit);
            }
        }
        Step::LeadsTo(rtype) => {
            if target_type(value) == Some(rtype) {
                follow(value, rest, visit);
            }
        }
    }
}

/// For each element that the expression gives, every combination of its parts.
fn composite(resource: &Value, param: &super::Param, reader: &params::Reader, out: &mut Vec<IndexValue>) {
    for (path, parts) in reader.compiled.paths.iter().zip(&reader.components) {
        let mut each = |element: &Value| {
            let mut combinations: Vec<Vec<IndexValue>> = vec![Vec::new()];
            for (component, compiled) in param.components.iter().zip(parts) {
                let mut values = Vec::new();
                for found in find(resource, element, compiled) {
                    convert::rows(component.kind, found, &mut values);
                }
                let extended = combinations.iter().flat_map(|begun| {
                    values.iter().map(move |value| [begun.as_slice(), std::slice::from_ref(value)].concat())
                });
                combinations = extended.take(COMBINATIONS_MAX).collect();
            }
            out.extend(combinations.into_iter().map(IndexValue::Composite));
        };
        follow(resource, &path.steps, &mut each);
    }
}

impl Found<'_> {
    pub(super) fn kind(&self) -> &'static Type {
        self.path.kind
    }
}
