//! From an element to its children: choice elements, primitives with their `_name` siblings, contained resources.
//! Knows the JSON form of FHIR (R4 §2.1.0), nothing of expressions.

use crate::json::{Object, Value};

use super::item::{Element, Item};
use super::types::{ElementType, TypeInfo, choice_type};

/// A name that the parent's type cannot have in this spelling.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ChoiceSpelled;

/// The type to look children up in: what the value says of itself, or what its parent said.
fn type_of<'a>(element: &Element<'a>, object: &'a Object) -> Option<&'a str> {
    object.get("resourceType").and_then(Value::as_str).or(element.type_name)
}

/// Appends the children of this name.
pub(crate) fn child<'a>(
    types: &dyn TypeInfo,
    element: &Element<'a>,
    name: &str,
    out: &mut Vec<Item<'a>>,
) -> Result<(), ChoiceSpelled> {
    let Some(Value::Object(object)) = element.value else {
        primitive_child(element, name, out);
        return Ok(());
    };
    let parent = type_of(element, object);
    let known = parent.and_then(|p| types.element_type(p, name));
    let (value, sibling) = members(object, name);
    if value.is_some() || sibling.is_some() {
        let complete = known.is_none() && parent.is_some_and(|p| types.is_complete(p));
        if complete && parent.is_some_and(|p| spelled_choice(types, p, name).is_some()) {
            return Err(ChoiceSpelled);
        }
        let type_name = match known {
            Some(ElementType::One(t)) => Some(t),
            _ => guess(name),
        };
        push_all(value, sibling, type_name, out);
        return Ok(());
    }
    let may_be_choice =
        known == Some(ElementType::Choice) || known.is_none() && !parent.is_some_and(|p| types.is_complete(p));
    if may_be_choice {
        choice_child(object, name, out);
    }
    Ok(())
}

/// Elements of the same type wherever they stand.
fn guess(name: &str) -> Option<&'static str> {
    match name {
        "extension" | "modifierExtension" => Some("Extension"),
        "meta" => Some("Meta"),
        _ => None,
    }
}

/// The value of `name` and of `_name`.
fn members<'a>(object: &'a Object, name: &str) -> (Option<&'a Value>, Option<&'a Value>) {
    let (mut value, mut sibling) = (None, None);
    for (key, v) in object.iter() {
        if key == name {
            value = Some(v);
        } else if key.strip_prefix('_') == Some(name) {
            sibling = Some(v);
        }
    }
    (value, sibling)
}

fn choice_child<'a>(object: &'a Object, name: &str, out: &mut Vec<Item<'a>>) {
    for (key, _) in object.iter() {
        let bare = key.strip_prefix('_').unwrap_or(key);
        if let Some(type_name) = choice_type(bare, name) {
            let (value, sibling) = members(object, bare);
            push_all(value, sibling, Some(type_name), out);
            return;
        }
    }
}

/// The choice element that `json_name` spells, when the parent has one.
pub(crate) fn spelled_choice<'n>(
    types: &dyn TypeInfo,
    parent: &str,
    json_name: &'n str,
) -> Option<(&'n str, &'static str)> {
    json_name.char_indices().filter(|(at, c)| *at > 0 && c.is_ascii_uppercase()).find_map(|(at, _)| {
        let element = &json_name[..at];
        let type_name = choice_type(json_name, element)?;
        (types.element_type(parent, element) == Some(ElementType::Choice)).then_some((element, type_name))
    })
}

/// Children of a primitive: its id and extensions, which JSON keeps beside it.
fn primitive_child<'a>(element: &Element<'a>, name: &str, out: &mut Vec<Item<'a>>) {
    if let (Some(Value::Object(sibling)), "id" | "extension") = (element.sibling, name) {
        let type_name = if name == "id" { "string" } else { "Extension" };
        push_all(sibling.get(name), None, Some(type_name), out);
    }
}

fn push_all<'a>(
    value: Option<&'a Value>,
    sibling: Option<&'a Value>,
    type_name: Option<&'a str>,
    out: &mut Vec<Item<'a>>,
) {
    match (value, sibling) {
        (Some(Value::Array(values)), None) => {
            for v in values {
                push(Some(v), None, type_name, out);
            }
        }
        (Some(Value::Array(_)), Some(_)) | (None, Some(Value::Array(_))) => {
            let values = value.map_or(&[][..], Value::items);
            let siblings = sibling.map_or(&[][..], Value::items);
            for at in 0..values.len().max(siblings.len()) {
                push(values.get(at), siblings.get(at), type_name, out);
            }
        }
        _ => push(value, sibling, type_name, out),
    }
}

fn push<'a>(value: Option<&'a Value>, sibling: Option<&'a Value>, type_name: Option<&'a str>, out: &mut Vec<Item<'a>>) {
    let value = value.filter(|v| !v.is_null());
    let sibling = sibling.filter(|s| matches!(s, Value::Object(_)));
    if value.is_none() && sibling.is_none() {
        return;
    }
    let own = value.and_then(|v| v.get("resourceType")).and_then(Value::as_str);
    out.push(Item::Element(Element { value, sibling, type_name: own.or(type_name) }));
}

/// Appends all children.
pub(crate) fn children<'a>(types: &dyn TypeInfo, element: &Element<'a>, out: &mut Vec<Item<'a>>) {
    let Some(Value::Object(object)) = element.value else {
        primitive_child(element, "id", out);
        primitive_child(element, "extension", out);
        return;
    };
    let parent = type_of(element, object);
    for (key, value) in object.iter() {
        if key == "resourceType" {
            continue;
        }
        let (name, value, sibling) = match key.strip_prefix('_') {
            Some(bare) if object.contains_key(bare) => continue,
            Some(bare) => (bare, None, Some(value)),
            None => (key, Some(value), members(object, key).1),
        };
        let known = parent.and_then(|p| types.element_type(p, name));
        let type_name = match known {
            Some(ElementType::One(t)) => Some(t),
            _ => parent.and_then(|p| spelled_choice(types, p, name)).map(|(_, t)| t).or(guess(name)),
        };
        push_all(value, sibling, type_name, out);
    }
}
