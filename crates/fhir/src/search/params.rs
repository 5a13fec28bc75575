//! The search parameters of R4 (§3.1.3, Search Parameter Registry), read once from the table in `gen`, and compiled.
//!
//! `search.txt`: `@Type`, then `code kind targets expression` per parameter, `-` for no targets; parts of a composite
//! follow it, indented.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::compile::{Compiled, compile};
use super::{Component, Param, ParamKind};
use crate::definitions::{self, Type};

/// A parameter and what it reads.
#[derive(Debug)]
pub(super) struct Reader {
    pub compiled: Compiled,
    /// For composites: for each path of `compiled`, each part.
    pub components: Vec<Vec<Compiled>>,
}

#[derive(Debug, Default)]
pub(super) struct OfType {
    pub params: Vec<Param>,
    /// In the order of `params`.
    pub readers: Vec<Reader>,
}

/// The parameters of a resource type, those of every resource (`_id`, `_lastUpdated`, ...) first. Empty for a type
/// that R4 does not have.
pub fn params(rtype: &str) -> &'static [Param] {
    of_type(rtype).map(|t| t.params.as_slice()).unwrap_or_default()
}

/// The parameter of this name.
pub fn param(rtype: &str, code: &str) -> Option<&'static Param> {
    params(rtype).iter().find(|p| p.code == code)
}

pub(super) fn of_type(rtype: &str) -> Option<&'static OfType> {
    tables().get(rtype)
}

fn tables() -> &'static HashMap<&'static str, OfType> {
    static TABLES: OnceLock<HashMap<&'static str, OfType>> = OnceLock::new();
    TABLES.get_or_init(|| {
        let declared = read(include_str!("../gen/search.txt"));
        let none = Vec::new();
        let of = |name: &str| declared.get(name).unwrap_or(&none).iter().cloned();
        let table = |kind: &'static Type| {
            let bases = if kind.is_a("DomainResource") { vec!["Resource", "DomainResource"] } else { vec!["Resource"] };
            let params: Vec<Param> = bases.into_iter().chain([kind.name]).flat_map(of).collect();
            let readers = params.iter().map(|param| reader(kind, param)).collect();
            (kind.name, OfType { params, readers })
        };
        definitions::resource_types().map(table).collect()
    })
}

/// The table is part of the program: a test sees to it that every expression compiles.
fn reader(kind: &'static Type, param: &Param) -> Reader {
    let compiled = compile(kind, param.expression).unwrap_or_default();
    let parts = |of: &'static Type| -> Vec<Compiled> {
        param.components.iter().map(|c| compile(of, c.expression).unwrap_or_default()).collect()
    };
    let components = match param.kind {
        ParamKind::Composite => compiled.paths.iter().map(|path| parts(path.kind)).collect(),
        _ => Vec::new(),
    };
    Reader { compiled, components }
}

fn read(table: &'static str) -> HashMap<&'static str, Vec<Param>> {
    let mut declared: HashMap<&'static str, Vec<Param>> = HashMap::new();
    let mut base = "";
    let mut lines = table.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix('@') {
            base = name;
            continue;
        }
        let mut components = Vec::new();
        while let Some(part) = lines.next_if(|l| l.starts_with(' ')) {
            components.extend(read_component(part));
        }
        declared.entry(base).or_default().extend(read_param(base, line, components));
    }
    declared
}

fn read_param(base: &'static str, line: &'static str, components: Vec<Component>) -> Option<Param> {
    let mut words = line.splitn(4, ' ');
    let (code, kind, targets, expression) = (words.next()?, words.next()?, words.next()?, words.next()?);
    Some(Param {
        code,
        kind: kind_of(kind)?,
        base,
        expression,
        targets: read_targets(targets),
        components: leak(components),
    })
}

fn read_component(line: &'static str) -> Option<Component> {
    let mut words = line.trim_start().splitn(3, ' ');
    let (kind, targets, expression) = (words.next()?, words.next()?, words.next()?);
    Some(Component { kind: kind_of(kind)?, expression, targets: read_targets(targets) })
}

fn read_targets(text: &'static str) -> &'static [&'static str] {
    if text == "-" { &[] } else { leak(text.split(',').collect()) }
}

/// The tables live as long as the program, and are made once.
fn leak<T>(items: Vec<T>) -> &'static [T] {
    if items.is_empty() { &[] } else { Box::leak(items.into_boxed_slice()) }
}

fn kind_of(text: &str) -> Option<ParamKind> {
    Some(match text {
        "token" => ParamKind::Token,
        "reference" => ParamKind::Reference,
        "date" => ParamKind::Date,
        "string" => ParamKind::String,
        "number" => ParamKind::Number,
        "quantity" => ParamKind::Quantity,
        "uri" => ParamKind::Uri,
        "composite" => ParamKind::Composite,
        "special" => ParamKind::Special,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_expression_of_r4_is_covered() {
        let mut count = 0;
        for kind in definitions::resource_types() {
            for param in params(kind.name) {
                let compiled = compile(kind, param.expression);
                let compiled = compiled.unwrap_or_else(|e| panic!("{} {}: {e}", kind.name, param.code));
                assert!(!compiled.paths.is_empty(), "{} {} reads nothing", kind.name, param.code);
                for path in &compiled.paths {
                    for part in param.components {
                        let compiled = compile(path.kind, part.expression);
                        let compiled = compiled.unwrap_or_else(|e| panic!("{} {}: {e}", kind.name, param.code));
                        assert!(!compiled.paths.is_empty(), "{} {} reads nothing", kind.name, part.expression);
                    }
                }
                assert_eq!(param.components.is_empty(), param.kind != ParamKind::Composite);
                count += 1;
            }
        }
        assert!(count > 2500, "{count}");
        let lines = include_str!("../gen/search.txt").lines().filter(|l| !l.starts_with(['@', ' '])).count();
        assert_eq!(lines, read(include_str!("../gen/search.txt")).values().map(Vec::len).sum::<usize>());
    }

    #[test]
    fn parameters_are_those_of_r4() {
        let birthdate = param("Patient", "birthdate").unwrap();
        assert_eq!((birthdate.kind, birthdate.expression), (ParamKind::Date, "Patient.birthDate"));
        assert_eq!(param("Observation", "_lastUpdated").unwrap().base, "Resource");
        assert_eq!(param("Observation", "patient").unwrap().targets, ["Patient"]);
        assert_eq!(param("Observation", "code-value-quantity").unwrap().components.len(), 2);
        assert!(param("Patient", "nothing").is_none() && params("Nothing").is_empty());
    }
}
