//! Tree navigation, clock, reflection, and the functions of FHIR and SQL on FHIR (FHIRPath §5.8–5.9, R4 FHIRPath page).

use std::borrow::Cow;

use crate::json::Value;

use super::super::ast::{NodeId, TypeSpec};
use super::super::error::{PathError, PathErrorKind};
use super::super::eval::{Eval, Items, Scope};
use super::super::func::Func;
use super::super::item::{Element, Item};
use super::super::navigate;
use super::super::temporal::DateTime;
use super::super::types;
use super::{one, truth};

pub(super) fn call<'a>(
    eval: &Eval<'a>,
    id: NodeId,
    func: Func,
    input: &[Item<'a>],
    scope: Scope<'_, 'a>,
) -> Result<Items<'a>, PathError> {
    match func {
        Func::Children => children(eval, id, input),
        Func::Descendants => descendants(eval, id, input),
        Func::Trace => trace(eval, id, input, scope),
        Func::Now => one(Some(Item::DateTime(now(eval, id)?))),
        Func::Today => one(Some(Item::Date(now(eval, id)?.date()))),
        Func::TimeOfDay => one(Some(Item::Time(now(eval, id)?.time()))),
        Func::Type => Ok(input.iter().filter_map(type_of).collect()),
        Func::Extension => extension(eval, id, input, scope),
        Func::HasValue => truth(has_value(input)),
        Func::GetValue => one(if has_value(input) { input.first().and_then(Item::system) } else { None }),
        Func::Resolve => Ok(input.iter().filter_map(|item| resolve(eval, item)).collect()),
        Func::ConformsTo => conforms_to(eval, id, input, scope),
        Func::GetResourceKey => resource_key(input),
        _ => Err(eval.error(id, "this function is not known here")),
    }
}

fn children<'a>(eval: &Eval<'a>, id: NodeId, input: &[Item<'a>]) -> Result<Items<'a>, PathError> {
    let mut out = Vec::new();
    for element in input.iter().filter_map(Item::element) {
        navigate::children(eval.context.types, element, &mut out);
    }
    eval.bounded(id, out)
}

/// All below, level by level; JSON is a tree, so this ends.
fn descendants<'a>(eval: &Eval<'a>, id: NodeId, input: &[Item<'a>]) -> Result<Items<'a>, PathError> {
    let mut out = children(eval, id, input)?;
    let mut from = 0;
    while from < out.len() {
        let level = children(eval, id, &out[from..])?;
        from = out.len();
        out.extend(level);
        eval.spend(id, out.len() - from)?;
        if out.len() > eval.context.limits.items_max {
            break;
        }
    }
    eval.bounded(id, out)
}

fn trace<'a>(eval: &Eval<'a>, id: NodeId, input: &[Item<'a>], scope: Scope<'_, 'a>) -> Result<Items<'a>, PathError> {
    let name = eval.argument(id, 0, scope)?;
    let name = eval.single(id, &name)?.and_then(Item::text).unwrap_or_default();
    if let Some(trace) = eval.context.trace {
        let shown = match eval.args(id).len() {
            2 => eval.argument(id, 1, Scope { focus: input, ..scope })?,
            _ => input.to_vec(),
        };
        trace(&name, &shown);
    }
    Ok(input.to_vec())
}

fn now(eval: &Eval<'_>, id: NodeId) -> Result<DateTime, PathError> {
    let now = eval.context.now.ok_or_else(|| eval.error(id, "there is no clock in this evaluation"))?;
    Ok(DateTime::from_utc_ms(now.ms()))
}

fn type_of<'a>(item: &Item<'a>) -> Option<Item<'a>> {
    let (namespace, name) = match item {
        Item::Element(element) => {
            let guessed = match element.value {
                Some(Value::Bool(_)) => "boolean",
                Some(Value::Number(n)) if n.as_i64().is_some() => "integer",
                Some(Value::Number(_)) => "decimal",
                Some(Value::String(_)) => "string",
                _ => "Element",
            };
            // A backbone element's own type has no name of its own.
            let own = element.type_name.map(|name| if name.contains('.') { "BackboneElement" } else { name });
            ("FHIR", own.unwrap_or(guessed))
        }
        Item::Type { .. } => ("System", "TypeSpecifier"),
        other => ("System", other.system_name()?),
    };
    Some(Item::Type { namespace, name: Cow::Borrowed(name) })
}

/// Extensions of this URL, of complex elements and of primitives.
fn extension<'a>(
    eval: &Eval<'a>,
    id: NodeId,
    input: &[Item<'a>],
    scope: Scope<'_, 'a>,
) -> Result<Items<'a>, PathError> {
    let url = eval.argument(id, 0, scope)?;
    let Some(url) = eval.single(id, &url)?.and_then(Item::text) else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    for element in input.iter().filter_map(Item::element) {
        // `extension` is never a choice, so this cannot be refused.
        let _ = navigate::child(eval.context.types, element, "extension", &mut out);
    }
    let is_url = |item: &Item<'a>| {
        let value = item.element().and_then(|e| e.value);
        value.and_then(|v| v.get("url")).and_then(Value::as_str) == Some(&*url)
    };
    out.retain(is_url);
    eval.bounded(id, out)
}

fn has_value(input: &[Item<'_>]) -> bool {
    match input {
        [Item::Element(element)] => element.value.is_some() && element.is_primitive(),
        [Item::Type { .. }] => false,
        [_] => true,
        _ => false,
    }
}

/// The resource a reference, canonical or uri names: contained in this one, or found by the caller's resolver.
fn resolve<'a>(eval: &Eval<'a>, item: &Item<'a>) -> Option<Item<'a>> {
    let element = item.element()?;
    let reference = match element.value? {
        Value::String(text) => text.as_str(),
        other => other.get("reference")?.as_str()?,
    };
    let found = match reference.strip_prefix('#') {
        Some(fragment) => contained(eval.context.root_resource.or(eval.context.resource).or(eval.root)?, fragment)?,
        None => eval.context.resolver?.resolve(reference)?,
    };
    Some(Item::Element(Element::resource(found)))
}

fn contained<'a>(root: &'a Value, id: &str) -> Option<&'a Value> {
    if id.is_empty() {
        return Some(root);
    }
    root.get("contained")?.items().iter().find(|r| r.get("id").and_then(Value::as_str) == Some(id))
}

/// Whether a resource is of the base definition that the URL names; other profiles are not loaded here.
fn conforms_to<'a>(
    eval: &Eval<'a>,
    id: NodeId,
    input: &[Item<'a>],
    scope: Scope<'_, 'a>,
) -> Result<Items<'a>, PathError> {
    let url = eval.argument(id, 0, scope)?;
    let (Some(url), Some(item)) = (eval.single(id, &url)?.and_then(Item::text), eval.single(id, input)?) else {
        return Ok(Vec::new());
    };
    let name = url.strip_prefix("http://hl7.org/fhir/StructureDefinition/");
    let name = name.filter(|n| eval.context.types.is_type(n)).ok_or_else(|| {
        let offset = eval.ast.node(id).offset as usize;
        PathError::new(
            PathErrorKind::Unsupported,
            offset,
            "only base definitions can be conformed to here, profiles are not loaded",
        )
    })?;
    let own = item.element().and_then(|e| e.type_name);
    truth(own.is_some_and(|own| types::is_subtype(eval.context.types, own, name)))
}

/// `Type/id`: unique within a server, equal to what [`reference_key`] gives for a reference to it.
fn resource_key<'a>(input: &[Item<'a>]) -> Result<Items<'a>, PathError> {
    let key = |item: &Item<'a>| {
        let resource = item.element()?.value?;
        let (rtype, id) = (resource.get("resourceType")?.as_str()?, resource.get("id")?.as_str()?);
        Some(Item::string(format!("{rtype}/{id}")))
    };
    Ok(input.iter().filter_map(key).collect())
}

/// The key of the resource a Reference names, if it is of the type asked for (SQL on FHIR, `getReferenceKey`).
pub(super) fn reference_key<'a>(input: &[Item<'a>], spec: Option<&TypeSpec>) -> Result<Items<'a>, PathError> {
    let key = |item: &Item<'a>| {
        let element = item.element()?.value?;
        let reference = element.get("reference")?.as_str()?;
        let stated = element.get("type").and_then(Value::as_str);
        let (key, rtype) = split_reference(reference, stated)?;
        spec.is_none_or(|s| rtype == Some(&*s.name)).then(|| Item::string(key))
    };
    Ok(input.iter().filter_map(key).collect())
}

/// The key in a reference, without a version, and the type it names; nothing for contained resources.
fn split_reference<'r>(reference: &'r str, stated: Option<&'r str>) -> Option<(&'r str, Option<&'r str>)> {
    if reference.is_empty() || reference.starts_with('#') {
        return None;
    }
    if reference.starts_with("urn:") {
        return Some((reference, stated));
    }
    let bare = reference.split_once("/_history/").map_or(reference, |(before, _)| before);
    let mut parts = bare.rsplit('/');
    let (_, rtype) = (parts.next()?, parts.next());
    Some((bare, rtype.filter(|t| t.as_bytes().first().is_some_and(u8::is_ascii_uppercase)).or(stated)))
}
