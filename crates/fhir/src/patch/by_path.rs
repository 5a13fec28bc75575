//! FHIRPath Patch (R4 fhirpatch.html): operations on elements that FHIRPath names.
//!
//! Never rewrites a path: it is evaluated as it stands, and the elements it gives are found again in the resource by
//! where they lie in memory. A primitive and its `_name` sibling are one element and move together.

use super::{Budget, drop_empty};
use crate::definitions::{self, Kind as TypeKind, Type};
use crate::json::{Object, Value};
use crate::path::{Context, Element, Expr, Item, PathLimits, compile_within};
use crate::validate::Issue;

/// Parts within parts of a value that has no type of its own.
const PARTS_DEPTH_MAX: usize = 16;
/// A patch may hold hundreds of paths; each is short work.
const LIMITS: PathLimits = PathLimits {
    text_bytes_max: 4 << 10,
    depth_max: 32,
    items_max: 10_000,
    value_bytes_max: 64 << 10,
    steps_max: 100_000,
};

/// One operation.
pub struct Operation {
    kind: Kind,
    path: Expr,
    /// Where a list begins that has no element yet: what holds it, and its name.
    list: Option<(Expr, String)>,
}

enum Kind {
    Add { name: String, value: Given },
    Insert { value: Given, index: usize },
    Delete,
    Replace { value: Given },
    Move { source: usize, destination: usize },
}

/// The value that an operation brings.
enum Given {
    /// `value[x]`: the type as the name says it, the value, and what stands beside a primitive.
    Typed {
        suffix: String,
        value: Value,
        sibling: Value,
    },
    /// An element without a data type of its own, such as `Patient.contact`: its children.
    Parts(Vec<(String, Given)>),
    Resource(Value),
}

type Applied<T> = Result<T, &'static str>;

pub fn read(parameters: &[Value]) -> Result<Vec<Operation>, Issue> {
    let one = |(n, parameter): (usize, &Value)| {
        let at = || format!("Parameters.parameter[{n}]");
        match parameter.get("name").and_then(Value::as_str) {
            Some("operation") => {}
            _ => return Err(Issue::error("value", at(), "each parameter of a patch is an operation")),
        }
        read_one(parameter).map_err(|text| Issue::error("value", at(), format!("the operation {text}")))
    };
    parameters.iter().enumerate().map(one).collect()
}

fn read_one(operation: &Value) -> Applied<Operation> {
    let parts = operation.get("part").map(Value::items).unwrap_or_default();
    let part = |name: &str| parts.iter().find(|part| part.get("name").and_then(Value::as_str) == Some(name));
    let text = |name: &str| {
        let part = part(name)?;
        ["valueString", "valueCode"].iter().find_map(|member| part.get(member)).and_then(Value::as_str)
    };
    let number = |name: &str, missing: &'static str| {
        let part = part(name).ok_or(missing)?;
        let given = ["valueInteger", "valueUnsignedInt", "valuePositiveInt"].iter().find_map(|m| part.get(m));
        given
            .and_then(Value::as_i64)
            .and_then(|n| usize::try_from(n).ok())
            .ok_or("has an index that is no whole number")
    };
    let value = || given(part("value").ok_or("needs a value")?, 0);
    let path = text("path").ok_or("needs a path")?;
    let kind = match text("type") {
        Some("add") => Kind::Add { name: text("name").ok_or("needs a name")?.to_owned(), value: value()? },
        Some("insert") => Kind::Insert { value: value()?, index: number("index", "needs an index")? },
        Some("delete") => Kind::Delete,
        Some("replace") => Kind::Replace { value: value()? },
        Some("move") => Kind::Move {
            source: number("source", "needs a source")?,
            destination: number("destination", "needs a destination")?,
        },
        _ => return Err("has a type that is none of add, insert, delete, replace and move"),
    };
    let compile = |text: &str| compile_within(text, &LIMITS).map_err(|_| "has a path that is no FHIRPath");
    let list = path.rsplit_once('.').filter(|(_, name)| name.bytes().all(|b| b.is_ascii_alphanumeric()));
    let list = list.and_then(|(holder, name)| Some((compile(holder).ok()?, name.to_owned())));
    let path = compile(path)?;
    // fhirpatch.html: a path does not leave the resource; and the same patch gives the same outcome at any time.
    if path.outside().is_some() {
        return Err("has a path that depends on more than the resource");
    }
    Ok(Operation { kind, path, list })
}

fn given(part: &Value, depth: usize) -> Applied<Given> {
    let object = part.as_object().ok_or("has a value without content")?;
    if let Some(resource) = object.get("resource") {
        return Ok(Given::Resource(resource.clone()));
    }
    let suffix = |name: &str| Some(name.strip_prefix('_').unwrap_or(name).strip_prefix("value")?.to_owned());
    if let Some(suffix) = object.keys().find_map(suffix) {
        let member = |name: String| object.get(&name).cloned().unwrap_or_default();
        let (value, sibling) = (member(format!("value{suffix}")), member(format!("_value{suffix}")));
        return Ok(Given::Typed { suffix, value, sibling });
    }
    if depth >= PARTS_DEPTH_MAX {
        return Err("has a value that is too deep");
    }
    let parts = object.get("part").map(Value::items).unwrap_or_default();
    if parts.is_empty() {
        return Err("has a value without content");
    }
    let named = parts.iter().map(|part| {
        let name = part.get("name").and_then(Value::as_str).ok_or("has a part without a name")?;
        Ok((name.to_owned(), given(part, depth + 1)?))
    });
    Ok(Given::Parts(named.collect::<Applied<_>>()?))
}

pub fn apply(operations: &[Operation], resource: &mut Value) -> Result<(), Issue> {
    let mut budget = Budget::new();
    for (n, operation) in operations.iter().enumerate() {
        let at = || format!("Parameters.parameter[{n}]");
        apply_one(operation, resource, &mut budget)
            .map_err(|text| Issue::error("processing", at(), format!("the operation cannot be done: {text}")))?;
    }
    drop_empty(resource);
    Ok(())
}

fn apply_one(operation: &Operation, root: &mut Value, budget: &mut Budget) -> Applied<()> {
    match &operation.kind {
        Kind::Add { name, value } => {
            let holder = one(&slots(&operation.path, root)?)?;
            add(root, &holder.own_path(), name, value, budget)
        }
        Kind::Insert { value, index } => {
            let list = whole_list(operation, root)?;
            let kind = type_at(root, &list.holder)?;
            let target = target(kind, &list.name, value)?;
            if !target.many {
                return Err("its path is not a list");
            }
            let made = make(target.kind, value)?;
            budget.take(&made.0, depth(&list.holder))?;
            change(root, &list.holder, &target.name, true, |items| {
                if *index > items.len() {
                    return Err("its index is beyond the end of the list");
                }
                items.insert(*index, made);
                Ok(())
            })
        }
        Kind::Delete => match slots(&operation.path, root)?.as_slice() {
            // fhirpatch.html: "if found".
            [] => Ok(()),
            found => {
                let Slot { holder, name, index } = one(found)?.element()?;
                let many = index.is_some();
                change(root, &holder, &name, many, |items| {
                    items.remove(index.unwrap_or(0));
                    Ok(())
                })
            }
        },
        Kind::Replace { value } => {
            let slot = one(&slots(&operation.path, root)?)?.element()?;
            replace(root, slot, value, budget)
        }
        Kind::Move { source, destination } => {
            let list = whole_list(operation, root)?;
            change(root, &list.holder, &list.name, list.index.is_some(), |items| {
                if *source >= items.len() || *destination >= items.len() {
                    return Err("its source or destination is beyond the end of the list");
                }
                let moved = items.remove(*source);
                items.insert(*destination, moved);
                Ok(())
            })
        }
    }
}

/// A step from an object to an object: a member, and the item where it is an array.
type Step = (String, Option<usize>);

/// Where an element stands: in which object, under which name (without `_`), at which place of the array.
#[derive(Clone, PartialEq)]
struct Slot {
    holder: Vec<Step>,
    /// Empty for the resource itself.
    name: String,
    index: Option<usize>,
}

impl Slot {
    /// The path to the element itself.
    fn own_path(&self) -> Vec<Step> {
        let own = (!self.name.is_empty()).then(|| (self.name.clone(), self.index));
        self.holder.iter().cloned().chain(own).collect()
    }

    fn element(self) -> Applied<Slot> {
        if self.name.is_empty() { Err("its path is the resource itself") } else { Ok(self) }
    }
}

fn one(slots: &[Slot]) -> Applied<Slot> {
    match slots {
        [one] => Ok(one.clone()),
        [] => Err("its path leads to nothing"),
        _ => Err("its path leads to more than one element"),
    }
}

/// Where the elements stand that a path gives.
fn slots(path: &Expr, root: &Value) -> Applied<Vec<Slot>> {
    let context = Context { limits: LIMITS, ..Context::new() };
    let items = path.eval(root, &context).map_err(|_| "its path cannot be evaluated on the resource")?;
    items.iter().map(|item| slot_of(item, root).ok_or("its path gives what is no element of the resource")).collect()
}

fn slot_of(item: &Item<'_>, root: &Value) -> Option<Slot> {
    let Element { value, sibling, .. } = item.element()?;
    let target = value.or(*sibling)?;
    if std::ptr::eq(target, root) {
        return Some(Slot { holder: Vec::new(), name: String::new(), index: None });
    }
    find(root, target, &mut Vec::new())
}

fn find(within: &Value, target: &Value, above: &mut Vec<Step>) -> Option<Slot> {
    for (name, value) in within.as_object()? {
        let plain = name.strip_prefix('_').unwrap_or(name);
        let slot = |above: &[Step], index| Slot { holder: above.to_vec(), name: plain.to_owned(), index };
        let below = |value: &Value, index, above: &mut Vec<Step>| {
            above.push((name.to_string(), index));
            let found = find(value, target, above);
            above.pop();
            found
        };
        if std::ptr::eq(value, target) {
            return Some(slot(above, None));
        }
        let found = match value {
            Value::Array(items) => {
                items.iter().enumerate().find_map(|(index, item)| match std::ptr::eq(item, target) {
                    true => Some(slot(above, Some(index))),
                    false => below(item, Some(index), above),
                })
            }
            value => below(value, None, above),
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// The list that an insert or a move is about: all of it, or the place where one may begin.
fn whole_list(operation: &Operation, root: &Value) -> Applied<Slot> {
    const NOT_ONE: &str = "its path is not one list";
    let found = slots(&operation.path, root)?;
    let Some(first) = found.first() else {
        let (holder, name) = operation.list.as_ref().ok_or("its path leads to nothing")?;
        let holder = one(&slots(holder, root)?)?.own_path();
        return Ok(Slot { holder, name: name.clone(), index: Some(0) });
    };
    let first = first.clone().element()?;
    let all = object_at(root, &first.holder).map_or(0, |object| elements(object, &first.name).len());
    let same = found.iter().all(|slot| slot.holder == first.holder && slot.name == first.name);
    if same && found.len() == all && first.index.is_some() { Ok(first) } else { Err(NOT_ONE) }
}

fn object_at<'v>(root: &'v Value, path: &[Step]) -> Option<&'v Object> {
    let step = |value: &'v Value, (name, index): &Step| match index {
        Some(index) => value.get(name)?.as_array()?.get(*index),
        None => value.get(name),
    };
    path.iter().try_fold(root, step)?.as_object()
}

fn object_at_mut<'v>(root: &'v mut Value, path: &[Step]) -> Option<&'v mut Object> {
    let mut value = root;
    for (name, index) in path {
        value = value.get_mut(name)?;
        if let Some(index) = index {
            value = value.as_array_mut()?.get_mut(*index)?;
        }
    }
    value.as_object_mut()
}

/// The type of the object at a path.
fn type_at(root: &Value, path: &[Step]) -> Applied<&'static Type> {
    const UNKNOWN: &str = "its path leads to what has no children";
    let resource = |value: &Value| definitions::resource_type(value.get("resourceType")?.as_str()?);
    let mut kind = resource(root).ok_or(UNKNOWN)?;
    for (at, (name, _)) in path.iter().enumerate() {
        let plain = name.strip_prefix('_').unwrap_or(name);
        kind = kind.property(plain).ok_or(UNKNOWN)?.kind.definition();
        kind = match kind.kind {
            TypeKind::Primitive => definitions::type_named("Element").ok_or(UNKNOWN)?,
            TypeKind::Complex => kind,
            TypeKind::Resource | TypeKind::AbstractResource => {
                let object = object_at(root, &path[..=at]).ok_or(UNKNOWN)?;
                let name = object.get("resourceType").and_then(Value::as_str).ok_or(UNKNOWN)?;
                definitions::resource_type(name).ok_or(UNKNOWN)?
            }
        };
    }
    Ok(kind)
}

/// What a value becomes in an object: the member's name, whether it is a list, its type.
struct Target {
    name: String,
    many: bool,
    kind: &'static Type,
}

/// `name` is that of an element (`value`), or of a member (`valueQuantity`).
fn target(kind: &'static Type, name: &str, value: &Given) -> Applied<Target> {
    const NONE: &str = "the element has none of this name and type";
    let of_choice = || {
        let element = kind.element(name).filter(|element| element.choice)?;
        let Given::Typed { suffix, .. } = value else { return None };
        kind.property(&format!("{}{suffix}", element.name))
    };
    let property = kind.property(name).or_else(of_choice).ok_or(NONE)?;
    let json_name = property.element.json_name(property.kind);
    let of = property.kind.definition();
    if !fits(of, value) {
        return Err("the value is of another type than the element");
    }
    Ok(Target { name: json_name, many: property.element.many, kind: of })
}

/// fhirpatch.html: the type of the value must be right. Whether a primitive has the form of its element says validation.
fn fits(kind: &Type, value: &Given) -> bool {
    match value {
        Given::Resource(_) => matches!(kind.kind, TypeKind::Resource | TypeKind::AbstractResource),
        Given::Parts(_) => kind.kind == TypeKind::Complex,
        Given::Typed { suffix, .. } => {
            let mut small = suffix.clone();
            small.get_mut(..1).into_iter().for_each(str::make_ascii_lowercase);
            let given = definitions::type_named(suffix).or_else(|| definitions::type_named(&small));
            given.is_some_and(|given| {
                (given.is_primitive() && kind.is_primitive()) || given.is_a(kind.name) || kind.is_a(given.name)
            })
        }
    }
}

/// The value and its sibling, as JSON has them.
fn make(kind: &'static Type, value: &Given) -> Applied<(Value, Value)> {
    match value {
        Given::Typed { value, sibling, .. } => Ok((value.clone(), sibling.clone())),
        Given::Resource(resource) => Ok((resource.clone(), Value::Null)),
        Given::Parts(parts) => {
            let mut object = Object::new();
            for (name, part) in parts {
                let target = target(kind, name, part)?;
                let mut items = elements(&object, &target.name);
                if !target.many && !items.is_empty() {
                    return Err("a part that may stand once is given twice");
                }
                items.push(make(target.kind, part)?);
                put(&mut object, &target.name, target.many, items);
            }
            Ok((Value::Object(object), Value::Null))
        }
    }
}

/// The elements of a name, each with its sibling; null where there is none.
fn elements(object: &Object, name: &str) -> Vec<(Value, Value)> {
    let list = |name: &str| match object.get(name) {
        Some(Value::Array(items)) => items.clone(),
        Some(Value::Null) | None => Vec::new(),
        Some(one) => vec![one.clone()],
    };
    let (values, siblings) = (list(name), list(&format!("_{name}")));
    let length = values.len().max(siblings.len());
    let filled = |list: Vec<Value>| list.into_iter().chain(std::iter::repeat(Value::Null)).take(length);
    filled(values).zip(filled(siblings)).collect()
}

/// Puts the elements back: what is empty is not there (R4 §2.6.2.2).
fn put(object: &mut Object, name: &str, many: bool, items: Vec<(Value, Value)>) {
    let (values, siblings): (Vec<Value>, Vec<Value>) = items.into_iter().unzip();
    for (name, list) in [(name.to_owned(), values), (format!("_{name}"), siblings)] {
        if list.iter().all(Value::is_null) {
            object.remove(&name);
        } else if many {
            object.insert(name, Value::Array(list));
        } else if let Some(one) = list.into_iter().next() {
            object.insert(name, one);
        }
    }
}

fn change(
    root: &mut Value,
    holder: &[Step],
    name: &str,
    many: bool,
    edit: impl FnOnce(&mut Vec<(Value, Value)>) -> Applied<()>,
) -> Applied<()> {
    let object = object_at_mut(root, holder).ok_or("its path leads to what has no children")?;
    let mut items = elements(object, name);
    edit(&mut items)?;
    put(object, name, many, items);
    Ok(())
}

fn add(root: &mut Value, holder: &[Step], name: &str, value: &Given, budget: &mut Budget) -> Applied<()> {
    let kind = type_at(root, holder)?;
    let target = target(kind, name, value)?;
    let made = make(target.kind, value)?;
    budget.take(&made.0, depth(holder))?;
    if object_at(root, holder).is_none() {
        return add_to_primitive(root, holder, &target, made);
    }
    if !target.many && is_there(root, holder, kind, &target.name) {
        return Err("the element is there already, and does not repeat");
    }
    change(root, holder, &target.name, target.many, |items| {
        items.push(made);
        Ok(())
    })
}

/// Id and extensions of a primitive stand in its sibling, which may not be there yet (R4 §2.6.2.3).
fn add_to_primitive(root: &mut Value, primitive: &[Step], target: &Target, made: (Value, Value)) -> Applied<()> {
    const NONE: &str = "its path leads to nothing";
    let ((name, index), holder) = primitive.split_last().ok_or(NONE)?;
    change(root, holder, name, index.is_some(), |items| {
        let (_, sibling) = items.get_mut(index.unwrap_or(0)).ok_or(NONE)?;
        if sibling.is_null() {
            *sibling = Value::Object(Object::new());
        }
        let object = sibling.as_object_mut().ok_or(NONE)?;
        let mut there = elements(object, &target.name);
        if !target.many && !there.is_empty() {
            return Err("the element is there already, and does not repeat");
        }
        there.push(made);
        put(object, &target.name, target.many, there);
        Ok(())
    })
}

/// How deep a value stands, at most, that is put into the object there.
fn depth(holder: &[Step]) -> usize {
    2 * holder.len() + 2
}

/// Whether the element is there, as whatever of its types.
fn is_there(root: &Value, holder: &[Step], kind: &Type, name: &str) -> bool {
    let Some(object) = object_at(root, holder) else { return false };
    let Some(property) = kind.property(name) else { return false };
    let names = property.element.types.iter().map(|of| property.element.json_name(of));
    names.into_iter().any(|name| object.contains_key(&name) || object.contains_key(&format!("_{name}")))
}

fn replace(root: &mut Value, slot: Slot, value: &Given, budget: &mut Budget) -> Applied<()> {
    let kind = type_at(root, &slot.holder)?;
    let element = kind.property(&slot.name).ok_or("the element is not known")?.element;
    let name = if element.choice { element.name } else { &slot.name };
    let target = target(kind, name, value)?;
    let made = make(target.kind, value)?;
    budget.take(&made.0, depth(&slot.holder))?;
    if target.name != slot.name {
        // A choice of another type.
        change(root, &slot.holder, &slot.name, false, |items| {
            items.clear();
            Ok(())
        })?;
    }
    change(root, &slot.holder, &target.name, target.many, |items| {
        match items.get_mut(slot.index.unwrap_or(0)) {
            Some(item) => *item = made,
            None => items.push(made),
        }
        Ok(())
    })
}
