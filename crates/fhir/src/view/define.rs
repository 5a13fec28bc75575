//! From ViewDefinition JSON to a prepared view: every mistake that can be seen without data is found here, with its
//! place in the definition. Unknown members are refused, so that a misspelt `where` does not silently let all through.

use crate::json::{Object, Value};
use crate::path::{self, DateTime, Decimal, Expr, Item, PathErrorKind, Time, TypeInfo};

use super::source::{Ground, Resolved, Source, resolve};
use super::{ColumnKind, View, ViewColumn, ViewError};

/// Selects and unions of one view, at any depth.
const SELECTS_MAX: usize = 200;
const COLUMNS_MAX: usize = 1_000;
const NAME_BYTES_MAX: usize = 128;

/// What a select goes over.
#[derive(Debug, Clone)]
pub(super) enum Each {
    Here,
    List { source: Source, or_null: bool },
    Repeat(Vec<Source>),
}

#[derive(Debug, Clone)]
pub(super) struct Column {
    pub slot: usize,
    pub source: Source,
    pub place: String,
}

#[derive(Debug, Clone)]
pub(super) struct Select {
    pub place: String,
    pub each: Each,
    pub columns: Vec<Column>,
    pub selects: Vec<Select>,
    pub union: Vec<Select>,
}

#[derive(Debug, Clone)]
pub(super) struct Criterion {
    pub place: String,
    pub expr: Expr,
}

/// Members of a canonical resource that say nothing of rows.
const METADATA: [&str; 30] = [
    "resourceType",
    "id",
    "meta",
    "implicitRules",
    "language",
    "text",
    "contained",
    "extension",
    "modifierExtension",
    "url",
    "identifier",
    "version",
    "versionAlgorithmString",
    "name",
    "title",
    "status",
    "experimental",
    "date",
    "publisher",
    "contact",
    "description",
    "useContext",
    "jurisdiction",
    "purpose",
    "copyright",
    "copyrightLabel",
    "fhirVersion",
    "profile",
    "resource",
    "$schema",
];

pub(super) fn parse(definition: &Value, types: &'static dyn TypeInfo) -> Result<View, ViewError> {
    let object = object(definition, "ViewDefinition")?;
    known_members(object, "ViewDefinition", |m| METADATA.contains(&m) || ["constant", "select", "where"].contains(&m))?;
    let resource = match object.get("resource") {
        Some(Value::String(name)) if !name.is_empty() => name.clone(),
        _ => {
            return Err(ViewError::new("resource", "the type of resource is missing, as in \"resource\": \"Patient\""));
        }
    };
    let concrete = !["Resource", "DomainResource"].contains(&resource.as_str());
    let of_resource = path::is_subtype(types, &resource, "Resource") || !types.is_complete(&resource);
    if !concrete || !of_resource || !types.is_type(&resource) {
        return Err(ViewError::new("resource", format!("there is no resource `{resource}` in R4")));
    }
    let constants = constants(object)?;
    let mut reader = Reader { types, constants: &constants, columns: Vec::new(), selects: 0, warnings: Vec::new() };
    let wheres = reader.wheres(object, &resource)?;
    let ground = Ground { type_name: Some(resource.clone().into()), path: Some(resource.clone()), root: true };
    let mut selects = Vec::new();
    for (at, select) in list(object, "select", "")?.iter().enumerate() {
        selects.push(reader.select(select, &format!("select[{at}]"), &ground)?);
    }
    if reader.columns.is_empty() {
        return Err(ViewError::new("select", "the view has no column, add select[0].column"));
    }
    let (columns, warnings) = (reader.columns, reader.warnings);
    let name = object.get("name").and_then(Value::as_str).map(str::to_owned);
    Ok(View { types, name, resource, columns, selects, wheres, constants, warnings })
}

fn object<'v>(value: &'v Value, place: &str) -> Result<&'v Object, ViewError> {
    value.as_object().ok_or_else(|| ViewError::new(place, "an object is needed here"))
}

fn known_members(object: &Object, place: &str, known: impl Fn(&str) -> bool) -> Result<(), ViewError> {
    match object.iter().map(|(key, _)| key).find(|key| !key.starts_with('_') && !known(key)) {
        None => Ok(()),
        Some(key) => Err(ViewError::new(place, format!("member `{key}` is not known, check its spelling"))),
    }
}

/// An array member; absent is empty.
fn list<'v>(object: &'v Object, member: &str, place: &str) -> Result<&'v [Value], ViewError> {
    match object.get(member) {
        None => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(ViewError::new(join(place, member), "a list is needed here")),
    }
}

fn join(place: &str, member: &str) -> String {
    if place.is_empty() { member.to_owned() } else { format!("{place}.{member}") }
}

fn text<'v>(object: &'v Object, member: &str, place: &str) -> Result<Option<&'v str>, ViewError> {
    match object.get(member) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(ViewError::new(join(place, member), "a text is needed here")),
    }
}

/// Names that SQL takes without quotes.
fn name(object: &Object, place: &str) -> Result<String, ViewError> {
    let name = text(object, "name", place)?.unwrap_or_default();
    let mut bytes = name.bytes();
    let fits = bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && name.len() <= NAME_BYTES_MAX;
    if fits {
        return Ok(name.to_owned());
    }
    Err(ViewError::new(
        join(place, "name"),
        "a name of letters, digits and underscores is needed, beginning with a letter",
    ))
}

fn constants(view: &Object) -> Result<Vec<(String, Item<'static>)>, ViewError> {
    let mut constants: Vec<(String, Item<'static>)> = Vec::new();
    for (at, constant) in list(view, "constant", "")?.iter().enumerate() {
        let place = format!("constant[{at}]");
        let object = object(constant, &place)?;
        known_members(object, &place, |m| ["name", "id", "extension"].contains(&m) || m.starts_with("value"))?;
        let name = name(object, &place)?;
        if constants.iter().any(|(n, _)| *n == name) {
            return Err(ViewError::new(place, format!("constant `{name}` is defined twice")));
        }
        let mut values = object.iter().filter(|(key, _)| key.starts_with("value"));
        let (Some((key, value)), None) = (values.next(), values.next()) else {
            return Err(ViewError::new(place, "one value is needed, as in \"valueString\": \"official\""));
        };
        let item = constant_value(&key["value".len()..], value)
            .ok_or_else(|| ViewError::new(join(&place, key), "the value does not fit this type"))?;
        constants.push((name, item));
    }
    Ok(constants)
}

fn constant_value(type_name: &str, value: &Value) -> Option<Item<'static>> {
    Some(match (type_name, value) {
        ("Boolean", Value::Bool(b)) => Item::Boolean(*b),
        ("Integer" | "PositiveInt" | "UnsignedInt" | "Integer64", Value::Number(n)) => Item::Integer(n.as_i64()?),
        ("Integer64", Value::String(text)) => Item::Integer(text.parse().ok()?),
        ("Decimal", Value::Number(n)) => Item::Decimal(Decimal::parse(n.as_str())?),
        ("Date", Value::String(text)) => Item::Date(DateTime::parse_date(text)?),
        ("DateTime" | "Instant", Value::String(text)) => Item::DateTime(DateTime::parse(text)?),
        ("Time", Value::String(text)) => Item::Time(Time::parse(text)?),
        (
            "String" | "Base64Binary" | "Code" | "Id" | "Oid" | "Uri" | "Url" | "Uuid" | "Canonical" | "Markdown",
            Value::String(text),
        ) => Item::String(text.clone().into()),
        _ => return None,
    })
}

struct Reader<'v> {
    types: &'static dyn TypeInfo,
    constants: &'v [(String, Item<'static>)],
    columns: Vec<ViewColumn>,
    selects: usize,
    warnings: Vec<ViewError>,
}

impl Reader<'_> {
    fn wheres(&mut self, view: &Object, resource: &str) -> Result<Vec<Criterion>, ViewError> {
        let mut wheres = Vec::new();
        for (at, criterion) in list(view, "where", "")?.iter().enumerate() {
            let place = format!("where[{at}]");
            let object = object(criterion, &place)?;
            known_members(object, &place, |m| ["path", "description", "id", "extension"].contains(&m))?;
            let place = join(&place, "path");
            let expr = self.compile(object.get("path"), &place, Some(resource))?;
            wheres.push(Criterion { place, expr });
        }
        Ok(wheres)
    }

    /// Compiles a path and checks it against the type of its focus: what can only fail is refused, what can only be
    /// empty is a warning.
    fn compile(&mut self, path: Option<&Value>, place: &str, focus: Option<&str>) -> Result<Expr, ViewError> {
        let Some(Value::String(text)) = path else {
            return Err(ViewError::new(place, "a FHIRPath text is needed here"));
        };
        let expr = path::compile(text).map_err(|e| ViewError::new(place, e.to_string()))?;
        let standard = ["context", "resource", "rootResource", "ucum", "sct", "loinc", "rowIndex"];
        for (name, offset) in expr.variables() {
            let known = standard.contains(&name) || name.starts_with("vs-") || name.starts_with("ext-");
            if !known && !self.constants.iter().any(|(n, _)| n == name) {
                let text = format!("constant `%{name}` at character {offset} is not defined, add it to `constant`");
                return Err(ViewError::new(place, text));
            }
        }
        if let Some((function, offset)) = expr.outside() {
            let text =
                format!("`{function}()` at character {offset} is not for views: rows depend on the resource alone");
            return Err(ViewError::new(place, text));
        }
        for found in expr.check(focus, self.types) {
            let error = ViewError::new(place, found.to_string());
            match found.kind {
                PathErrorKind::AlwaysEmpty => self.warnings.push(error),
                _ => return Err(error),
            }
        }
        Ok(expr)
    }

    fn resolve(&mut self, path: Option<&Value>, place: &str, ground: &Ground) -> Result<Resolved, ViewError> {
        Ok(resolve(self.compile(path, place, ground.type_name.as_deref())?, ground, self.types))
    }

    fn select(&mut self, value: &Value, place: &str, ground: &Ground) -> Result<Select, ViewError> {
        const MEMBERS: [&str; 9] =
            ["column", "select", "forEach", "forEachOrNull", "repeat", "unionAll", "id", "extension", "description"];
        self.selects += 1;
        if self.selects > SELECTS_MAX {
            return Err(ViewError::new(place, "the view has too many selects, split it"));
        }
        let object = object(value, place)?;
        known_members(object, place, |m| MEMBERS.contains(&m))?;
        let (each, ground) = self.each(object, place, ground)?;
        let mut select =
            Select { place: place.to_owned(), each, columns: Vec::new(), selects: Vec::new(), union: Vec::new() };
        for (at, column) in list(object, "column", place)?.iter().enumerate() {
            select.columns.push(self.column(column, &format!("{place}.column[{at}]"), &ground)?);
        }
        for (at, inner) in list(object, "select", place)?.iter().enumerate() {
            select.selects.push(self.select(inner, &format!("{place}.select[{at}]"), &ground)?);
        }
        self.union(object, place, &ground, &mut select)?;
        Ok(select)
    }

    fn each(&mut self, object: &Object, place: &str, ground: &Ground) -> Result<(Each, Ground), ViewError> {
        let given: Vec<&str> =
            ["forEach", "forEachOrNull", "repeat"].into_iter().filter(|m| object.contains_key(m)).collect();
        let member = match given.as_slice() {
            [] => return Ok((Each::Here, ground.clone())),
            [one] => *one,
            _ => return Err(ViewError::new(place, "forEach, forEachOrNull and repeat exclude each other, keep one")),
        };
        let place = join(place, member);
        if member == "repeat" {
            return self.repeat(object, &place, ground);
        }
        let found = self.resolve(object.get(member), &place, ground)?;
        let ground = Ground { type_name: found.type_name.map(Into::into), path: found.path, root: false };
        Ok((Each::List { source: found.source, or_null: member == "forEachOrNull" }, ground))
    }

    fn repeat(&mut self, object: &Object, place: &str, ground: &Ground) -> Result<(Each, Ground), ViewError> {
        let paths = list(object, "repeat", place)?;
        if paths.is_empty() {
            return Err(ViewError::new(place, "at least one path is needed here"));
        }
        // The second round starts from what the first found, so only a type that stays the same is known.
        let mut sources = Vec::new();
        let mut inner: Option<Ground> = None;
        for (at, path) in paths.iter().enumerate() {
            let place = format!("{place}[{at}]");
            let expr = self.compile(Some(path), &place, None)?;
            let found = resolve(expr.clone(), ground, self.types);
            let again =
                found.type_name.map(|t| Ground { type_name: Some(t.into()), path: found.path.clone(), root: false });
            let again = again.filter(|g| resolve(expr.clone(), g, self.types).type_name == found.type_name);
            sources.push(match found.source {
                Source::Plain { hops, type_name } if again.is_some() => Source::Plain { hops, type_name },
                _ => Source::Path(Box::new(expr)),
            });
            inner = match (inner, again) {
                (None, Some(found)) if at == 0 => Some(found),
                (Some(a), Some(b)) if a.type_name == b.type_name => Some(a),
                _ => Some(Ground::default()),
            };
        }
        Ok((Each::Repeat(sources), inner.unwrap_or_default()))
    }

    fn column(&mut self, value: &Value, place: &str, ground: &Ground) -> Result<Column, ViewError> {
        const MEMBERS: [&str; 8] = ["name", "path", "type", "collection", "description", "tag", "id", "extension"];
        let object = object(value, place)?;
        known_members(object, place, |m| MEMBERS.contains(&m))?;
        let name = name(object, place)?;
        if self.columns.len() >= COLUMNS_MAX {
            return Err(ViewError::new(place, "the view has too many columns, split it"));
        }
        if self.columns.iter().any(|c| c.name.eq_ignore_ascii_case(&name)) {
            return Err(ViewError::new(
                join(place, "name"),
                format!("column `{name}` is defined twice, SQL could not tell them apart"),
            ));
        }
        let path_place = join(place, "path");
        let found = self.resolve(object.get("path"), &path_place, ground)?;
        let kind = match text(object, "type", place)? {
            Some(declared) => ColumnKind::of_type(declared).ok_or_else(|| {
                ViewError::new(
                    join(place, "type"),
                    format!("`{declared}` is not a primitive type, columns hold primitives"),
                )
            })?,
            None => found.type_name.and_then(ColumnKind::of_type).unwrap_or(ColumnKind::String),
        };
        let collection = match object.get("collection") {
            None => false,
            Some(Value::Bool(b)) => *b,
            Some(_) => return Err(ViewError::new(join(place, "collection"), "true or false is needed here")),
        };
        let description = text(object, "description", place)?.map(str::to_owned);
        let slot = self.columns.len();
        self.columns.push(ViewColumn { name, kind, collection, source_path: found.path, description });
        Ok(Column { slot, source: found.source, place: path_place })
    }

    /// Branches fill the same columns, so they must agree on them (SQL on FHIR v2, `unionAll`).
    fn union(&mut self, object: &Object, place: &str, ground: &Ground, select: &mut Select) -> Result<(), ViewError> {
        let from = self.columns.len();
        let mut first: Option<Vec<ViewColumn>> = None;
        for (at, branch) in list(object, "unionAll", place)?.iter().enumerate() {
            let place = format!("{place}.unionAll[{at}]");
            let before = self.columns.split_off(from);
            debug_assert!(before.is_empty() || first.is_some());
            let branch = self.select(branch, &place, ground)?;
            match first.as_mut() {
                None => first = Some(self.columns[from..].to_vec()),
                Some(first) => merge(first, &self.columns[from..], &place)?,
            }
            select.union.push(branch);
        }
        if let Some(first) = first {
            self.columns.truncate(from);
            self.columns.extend(first);
        }
        Ok(())
    }
}

fn merge(first: &mut [ViewColumn], other: &[ViewColumn], place: &str) -> Result<(), ViewError> {
    let same =
        |(a, b): (&ViewColumn, &ViewColumn)| a.name == b.name && a.kind == b.kind && a.collection == b.collection;
    if first.len() != other.len() || !first.iter().zip(other).all(same) {
        return Err(ViewError::new(place, "the branches of unionAll need the same columns: names, types and order"));
    }
    for (a, b) in first.iter_mut().zip(other) {
        if a.source_path != b.source_path {
            a.source_path = None;
        }
    }
    Ok(())
}

impl ColumnKind {
    /// The kind of a FHIR primitive type, by its name or its canonical URL.
    pub fn of_type(name: &str) -> Option<ColumnKind> {
        let name = name.rsplit(['/', '.']).next().unwrap_or(name);
        Some(match name {
            "boolean" | "Boolean" => ColumnKind::Boolean,
            "integer" | "positiveInt" | "unsignedInt" | "Integer" => ColumnKind::Integer,
            "integer64" => ColumnKind::Integer64,
            "decimal" | "Decimal" => ColumnKind::Decimal,
            "date" | "Date" => ColumnKind::Date,
            "dateTime" | "DateTime" => ColumnKind::DateTime,
            "instant" => ColumnKind::Instant,
            "time" | "Time" => ColumnKind::Time,
            "base64Binary" => ColumnKind::Base64,
            "string" | "String" | "code" | "id" | "uri" | "url" | "canonical" | "oid" | "uuid" | "markdown"
            | "xhtml" => ColumnKind::String,
            _ => return None,
        })
    }

    /// The FHIR type it stands for.
    pub fn name(self) -> &'static str {
        match self {
            ColumnKind::String => "string",
            ColumnKind::Boolean => "boolean",
            ColumnKind::Integer => "integer",
            ColumnKind::Integer64 => "integer64",
            ColumnKind::Decimal => "decimal",
            ColumnKind::Date => "date",
            ColumnKind::DateTime => "dateTime",
            ColumnKind::Instant => "instant",
            ColumnKind::Time => "time",
            ColumnKind::Base64 => "base64Binary",
        }
    }
}
