//! JSON Patch (RFC 6902) with JSON Pointer (RFC 6901). Knows nothing of FHIR.

use super::{Budget, drop_empty};
use crate::json::{Number, Value};
use crate::path::Decimal;
use crate::validate::Issue;

/// One operation.
pub struct Operation {
    kind: Kind,
    path: Pointer,
}

enum Kind {
    Add(Value),
    Remove,
    Replace(Value),
    Move(Pointer),
    Copy(Pointer),
    Test(Value),
}

/// The reference tokens, unescaped; none is the whole document.
type Pointer = Vec<String>;

type Applied<T> = Result<T, &'static str>;

const NO_TARGET: &str = "its path leads to nothing";

pub fn read(operations: &[Value]) -> Result<Vec<Operation>, Issue> {
    operations
        .iter()
        .enumerate()
        .map(|(n, operation)| {
            read_one(operation).map_err(|text| Issue::error("value", format!("[{n}]"), format!("operation {n} {text}")))
        })
        .collect()
}

fn read_one(operation: &Value) -> Applied<Operation> {
    let text = |name: &str| operation.get(name).and_then(Value::as_str);
    // §4: members that an operation does not have are passed over, those it has must be there.
    let value = || operation.get("value").cloned().ok_or("needs a value");
    let from = || pointer(text("from").ok_or("needs a from, a JSON Pointer")?);
    let path = pointer(text("path").ok_or("needs a path, a JSON Pointer")?)?;
    let kind = match text("op") {
        Some("add") => Kind::Add(value()?),
        Some("remove") => Kind::Remove,
        Some("replace") => Kind::Replace(value()?),
        Some("move") => Kind::Move(from()?),
        Some("copy") => Kind::Copy(from()?),
        Some("test") => Kind::Test(value()?),
        _ => return Err("has an op that is none of add, remove, replace, move, copy and test"),
    };
    Ok(Operation { kind, path })
}

/// RFC 6901 §3 and §4: `~1` is `/`, `~0` is `~`, in this order.
fn pointer(text: &str) -> Applied<Pointer> {
    const FORM: &str = "has a path that is no JSON Pointer: it is empty or begins with /";
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let tokens = text.strip_prefix('/').ok_or(FORM)?.split('/');
    tokens
        .map(|token| {
            let escapes =
                token.match_indices('~').all(|(at, _)| matches!(token.as_bytes().get(at + 1), Some(b'0' | b'1')));
            escapes
                .then(|| token.replace("~1", "/").replace("~0", "~"))
                .ok_or("has a ~ in its path that is neither ~0 nor ~1")
        })
        .collect()
}

pub fn apply(operations: &[Operation], document: &mut Value) -> Result<(), Issue> {
    let mut budget = Budget::new();
    for (n, operation) in operations.iter().enumerate() {
        apply_one(operation, document, &mut budget).map_err(|text| {
            Issue::error("processing", format!("[{n}]"), format!("operation {n} cannot be done: {text}"))
        })?;
    }
    drop_empty(document);
    Ok(())
}

fn apply_one(operation: &Operation, document: &mut Value, budget: &mut Budget) -> Applied<()> {
    let path = operation.path.as_slice();
    match &operation.kind {
        Kind::Add(value) => {
            budget.take(value, path.len())?;
            add(document, path, value.clone())
        }
        Kind::Remove => remove(document, path).map(drop),
        Kind::Replace(value) => {
            budget.take(value, path.len())?;
            *find_mut(document, path).ok_or(NO_TARGET)? = value.clone();
            Ok(())
        }
        // §4.4: a place cannot be moved into itself.
        Kind::Move(from) if path.len() > from.len() && path.starts_with(from) => Err("it moves a place into itself"),
        Kind::Move(from) => {
            let value = remove(document, from)?;
            budget.take(&value, path.len())?;
            add(document, path, value)
        }
        Kind::Copy(from) => {
            let value = find(document, from).ok_or("its from leads to nothing")?.clone();
            budget.take(&value, path.len())?;
            add(document, path, value)
        }
        Kind::Test(value) => match find(document, path) {
            Some(found) if is_equal(found, value) => Ok(()),
            _ => Err("the test fails"),
        },
    }
}

fn find<'v>(document: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(document, |value, token| match value {
        Value::Object(object) => object.get(token),
        Value::Array(items) => items.get(index(token)?),
        _ => None,
    })
}

fn find_mut<'v>(document: &'v mut Value, path: &[String]) -> Option<&'v mut Value> {
    path.iter().try_fold(document, |value, token| match value {
        Value::Object(object) => object.get_mut(token),
        Value::Array(items) => items.get_mut(index(token)?),
        _ => None,
    })
}

/// RFC 6901 §4: digits without a leading zero.
fn index(token: &str) -> Option<usize> {
    let plain = token == "0" || (!token.starts_with('0') && token.bytes().all(|b| b.is_ascii_digit()));
    plain.then(|| token.parse().ok()).flatten()
}

/// §4.1: a member is set or replaced; in an array the value is put before what stands there, or at the end by `-`.
fn add(document: &mut Value, path: &[String], value: Value) -> Applied<()> {
    let Some((last, parent)) = path.split_last() else {
        *document = value;
        return Ok(());
    };
    match find_mut(document, parent).ok_or(NO_TARGET)? {
        Value::Object(object) => {
            object.insert(last, value);
            Ok(())
        }
        Value::Array(items) => {
            let at = if last == "-" { Some(items.len()) } else { index(last).filter(|at| *at <= items.len()) };
            items.insert(at.ok_or("its index is beyond the end of the array")?, value);
            Ok(())
        }
        _ => Err(NO_TARGET),
    }
}

fn remove(document: &mut Value, path: &[String]) -> Applied<Value> {
    let Some((last, parent)) = path.split_last() else { return Ok(document.take()) };
    match find_mut(document, parent).ok_or(NO_TARGET)? {
        Value::Object(object) => object.remove(last).ok_or(NO_TARGET),
        Value::Array(items) => match index(last).filter(|at| *at < items.len()) {
            Some(at) => Ok(items.remove(at)),
            None => Err(NO_TARGET),
        },
        _ => Err(NO_TARGET),
    }
}

/// §4.6: numbers are equal by their value, objects whatever their order.
fn is_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            let exact = |n: &Number| Decimal::parse(n.as_str());
            a == b || exact(a).zip(exact(b)).is_some_and(|(a, b)| a.compare(b).is_eq())
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| is_equal(a, b)))
        }
        (a, b) => a == b,
    }
}
