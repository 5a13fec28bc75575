//! The R4 structure definitions as data: types, their elements, the JSON names those have, value sets that are small
//! enough to write out. Read once, at first use, from the tables in `gen`.
//!
//! Facts only. What is done with them: `validate`, `search`, `path`.
//!
//! `structure.txt`: `@name kind base` begins a type (a type defined inside another has its path as name); then
//! `cardinality name[x] type|type(Target,Target) =codes summary` for each own element, with cardinality `?` 0..1,
//! `1` 1..1, `*` 0..\*, `+` 1..\*; `summary` where it is part of one. `codes.txt`: `@name`, then `system code code ...`.

use std::collections::HashMap;
use std::sync::OnceLock;

/// What a type is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Primitive,
    Complex,
    Resource,
    /// `Resource` and `DomainResource`: stand for any resource.
    AbstractResource,
}

/// A type of FHIR, or one defined inside another (`Patient.contact`).
#[derive(Debug)]
pub struct Type {
    pub name: &'static str,
    pub kind: Kind,
    pub base: Option<&'static str>,
    /// All elements, those of the base types first.
    pub elements: Vec<Element>,
    /// JSON name, index of the element, index of the type within it; sorted by name.
    properties: Vec<(Box<str>, u16, u16)>,
}

/// An element of a type.
#[derive(Debug, Clone)]
pub struct Element {
    /// Without `[x]`.
    pub name: &'static str,
    pub required: bool,
    /// Whether it may repeat: then it is an array in JSON.
    pub many: bool,
    /// `value[x]`: the JSON name ends with the type.
    pub choice: bool,
    pub types: Vec<TypeRef>,
    /// The codes of a required binding, where they can be written out.
    pub codes: Option<&'static CodeSet>,
    /// Σ in the definitions: part of `_summary=true`.
    pub summary: bool,
}

/// A type that an element may have.
#[derive(Debug, Clone)]
pub struct TypeRef {
    pub name: &'static str,
    /// For references: types it may lead to; empty is any.
    pub targets: Vec<&'static str>,
    index: u16,
}

/// What a member of a JSON object is.
#[derive(Debug, Clone, Copy)]
pub struct Property<'a> {
    pub element: &'a Element,
    /// The one of its types that the name says.
    pub kind: &'a TypeRef,
    /// Of the element within its type.
    pub index: usize,
    /// Of the type within the element.
    pub choice: u16,
}

impl TypeRef {
    pub fn definition(&self) -> &'static Type {
        &tables().types[usize::from(self.index)]
    }
}

/// The codes of a value set, by system.
#[derive(Debug)]
pub struct CodeSet {
    pub name: &'static str,
    pub systems: Vec<(&'static str, Vec<&'static str>)>,
}

impl CodeSet {
    pub fn has_code(&self, code: &str) -> bool {
        self.systems.iter().any(|(_, codes)| codes.contains(&code))
    }

    pub fn has_coding(&self, system: &str, code: &str) -> bool {
        self.systems.iter().any(|(s, codes)| *s == system && codes.contains(&code))
    }
}

impl Type {
    /// The element and type that a JSON member of this name has; `valueQuantity` gives `value[x]` as Quantity.
    /// Not for the `_name` siblings of primitives.
    pub fn property(&self, json_name: &str) -> Option<Property<'_>> {
        let at = self.properties.binary_search_by(|(name, ..)| (**name).cmp(json_name)).ok()?;
        let (_, index, choice) = self.properties[at];
        let element = &self.elements[usize::from(index)];
        Some(Property { element, kind: &element.types[usize::from(choice)], index: usize::from(index), choice })
    }

    /// The element of this name, without `[x]`.
    pub fn element(&self, name: &str) -> Option<&Element> {
        self.elements.iter().find(|e| e.name == name)
    }

    /// Whether this is the named type or is derived from it.
    pub fn is_a(&self, name: &str) -> bool {
        self.name == name || self.base.and_then(type_named).is_some_and(|base| base.is_a(name))
    }

    pub fn is_primitive(&self) -> bool {
        self.kind == Kind::Primitive
    }
}

impl Element {
    /// The name in JSON when the element has this type.
    pub fn json_name(&self, kind: &TypeRef) -> String {
        if !self.choice {
            return self.name.to_owned();
        }
        let mut name = self.name.to_owned();
        let mut letters = kind.name.chars();
        name.extend(letters.next().map(|c| c.to_ascii_uppercase()));
        name.push_str(letters.as_str());
        name
    }
}

/// The type of this name; nested types by their path.
pub fn type_named(name: &str) -> Option<&'static Type> {
    let tables = tables();
    tables.by_name.get(name).map(|index| &tables.types[usize::from(*index)])
}

/// The resource type of this name, when it is one that instances may have.
pub fn resource_type(name: &str) -> Option<&'static Type> {
    type_named(name).filter(|t| t.kind == Kind::Resource)
}

/// Types whose instances this server makes itself: its audit log, its statements, its answers. Nobody writes one.
pub fn is_server_owned(name: &str) -> bool {
    matches!(name, "AuditEvent" | "CapabilityStatement" | "OperationOutcome" | "Parameters")
}

/// All resource types that instances may have.
pub fn resource_types() -> impl Iterator<Item = &'static Type> {
    tables().types.iter().filter(|t| t.kind == Kind::Resource)
}

/// The code set of this name, such as `administrative-gender`.
pub fn code_set(name: &str) -> Option<&'static CodeSet> {
    code_sets().iter().find(|set| set.name == name)
}

struct Tables {
    types: Vec<Type>,
    by_name: HashMap<&'static str, u16>,
}

fn code_sets() -> &'static [CodeSet] {
    static SETS: OnceLock<Vec<CodeSet>> = OnceLock::new();
    SETS.get_or_init(|| {
        let mut sets: Vec<CodeSet> = Vec::new();
        for line in include_str!("gen/codes.txt").lines() {
            if let Some(name) = line.strip_prefix('@') {
                sets.push(CodeSet { name, systems: Vec::new() });
            } else if let Some(set) = sets.last_mut() {
                let (system, codes) = line.split_once(' ').unwrap_or((line, ""));
                set.systems.push((system, codes.split(' ').collect()));
            }
        }
        sets
    })
}

fn tables() -> &'static Tables {
    static TABLES: OnceLock<Tables> = OnceLock::new();
    TABLES.get_or_init(|| read(include_str!("gen/structure.txt")))
}

/// The tables are part of the program, so a line that does not read is passed over here and found by the tests.
fn read(table: &'static str) -> Tables {
    let headers = table.lines().filter_map(|line| line.strip_prefix('@'));
    let by_name: HashMap<&'static str, u16> =
        headers.enumerate().filter_map(|(i, line)| Some((line.split(' ').next()?, u16::try_from(i).ok()?))).collect();
    let mut types: Vec<Type> = Vec::with_capacity(by_name.len());
    for line in table.lines() {
        if let Some(header) = line.strip_prefix('@') {
            types.push(read_header(header));
        } else if let Some(kind) = types.last_mut() {
            kind.elements.extend(read_element(line, &by_name));
        }
    }
    inherit(&mut types, &by_name);
    for kind in &mut types {
        kind.properties = properties(&kind.elements);
    }
    Tables { types, by_name }
}

fn read_header(header: &'static str) -> Type {
    let mut words = header.split(' ');
    let name = words.next().unwrap_or_default();
    let kind = match words.next() {
        Some("primitive") => Kind::Primitive,
        Some("resource") => Kind::Resource,
        Some("abstract-resource") => Kind::AbstractResource,
        _ => Kind::Complex,
    };
    let base = words.next().filter(|b| *b != "-");
    Type { name, kind, base, elements: Vec::new(), properties: Vec::new() }
}

fn read_element(line: &'static str, by_name: &HashMap<&'static str, u16>) -> Option<Element> {
    let mut words = line.split(' ');
    let (cardinality, name, types) = (words.next()?, words.next()?, words.next()?);
    let marks: Vec<&'static str> = words.collect();
    let stem = name.strip_suffix("[x]");
    let read_type = |text: &'static str| {
        let (name, targets) = text.split_once('(').unwrap_or((text, ""));
        let targets = targets.trim_end_matches(')').split(',').filter(|t| !t.is_empty()).collect();
        Some(TypeRef { name, targets, index: *by_name.get(name)? })
    };
    Some(Element {
        name: stem.unwrap_or(name),
        required: matches!(cardinality, "1" | "+"),
        many: matches!(cardinality, "*" | "+"),
        choice: stem.is_some(),
        types: types.split('|').filter_map(read_type).collect(),
        codes: marks.iter().find_map(|mark| code_set(mark.strip_prefix('=')?)),
        summary: marks.contains(&"summary"),
    })
}

/// Puts the elements of base types before a type's own. Bases may stand after what derives from them.
fn inherit(types: &mut [Type], by_name: &HashMap<&'static str, u16>) {
    let own: Vec<Vec<Element>> = types.iter_mut().map(|t| std::mem::take(&mut t.elements)).collect();
    let bases: Vec<Option<usize>> =
        types.iter().map(|t| t.base.and_then(|b| by_name.get(b)).map(|i| usize::from(*i))).collect();
    for (index, kind) in types.iter_mut().enumerate() {
        let chain: Vec<usize> = std::iter::successors(Some(index), |at| bases[*at]).take(10).collect();
        kind.elements = chain.iter().rev().flat_map(|at| own[*at].iter().cloned()).collect();
    }
}

fn properties(elements: &[Element]) -> Vec<(Box<str>, u16, u16)> {
    let mut properties: Vec<(Box<str>, u16, u16)> = Vec::new();
    for (e, element) in elements.iter().enumerate() {
        for (t, kind) in element.types.iter().enumerate() {
            properties.push((element.json_name(kind).into(), e as u16, t as u16));
        }
    }
    properties.sort();
    properties
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_tables_reads() {
        let table = include_str!("gen/structure.txt");
        let by_name = &tables().by_name;
        for line in table.lines().filter(|l| !l.starts_with('@')) {
            let element = read_element(line, by_name).unwrap_or_else(|| panic!("{line}"));
            assert_eq!(element.types.len(), line.split(' ').nth(2).unwrap().split('|').count(), "{line}");
            assert_eq!(element.codes.is_some(), line.contains(" ="), "{line}");
        }
        for kind in &tables().types {
            assert!(kind.elements.len() <= 128, "{}: validate keeps a bit per element", kind.name);
            assert!(kind.base.is_none_or(|b| type_named(b).is_some()), "{}", kind.name);
            let mut names: Vec<_> = kind.properties.iter().map(|p| &p.0).collect();
            names.dedup();
            assert_eq!(names.len(), kind.properties.len(), "{} has an element twice", kind.name);
        }
    }

    #[test]
    fn types_are_as_r4_has_them() {
        assert_eq!(resource_types().count(), 146);
        let patient = resource_type("Patient").unwrap();
        assert_eq!(patient.elements[0].name, "id");
        let died = patient.property("deceasedDateTime").unwrap();
        assert_eq!((died.element.name, died.element.choice, died.kind.name), ("deceased", true, "dateTime"));
        assert!(patient.property("deceased").is_none() && patient.property("deceasedString").is_none());
        let contact = patient.property("contact").unwrap().kind.definition();
        assert_eq!((contact.name, contact.is_a("BackboneElement")), ("Patient.contact", true));
        assert!(contact.property("modifierExtension").is_some());
        assert!(type_named("Age").unwrap().is_a("Quantity") && type_named("Age").unwrap().property("value").is_some());
        assert_eq!(type_named("Bundle.entry").unwrap().property("link").unwrap().kind.name, "Bundle.link");
        let summary = |of: &str, name: &str| type_named(of).unwrap().element(name).unwrap().summary;
        assert!(summary("Patient", "birthDate") && !summary("Patient", "contact") && !summary("Attachment", "data"));
        assert!(code_set("administrative-gender").unwrap().has_code("female"));
        assert!(resource_type("DomainResource").is_none() && resource_type("HumanName").is_none());
    }
}
