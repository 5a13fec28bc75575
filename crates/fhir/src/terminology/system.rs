//! A CodeSystem as concepts that can be asked: by code, by hierarchy, by the filters of a value set (R4 §4.8).

use std::collections::{HashMap, HashSet};

use regex::{Regex, RegexBuilder};

use super::{TermError, items, text};
use crate::json::Value;
use crate::search::fold;

/// Memory of one compiled expression.
const REGEX_BYTES_MAX: usize = 1 << 20;
/// Levels of a hierarchy as it is nested: deeper ones are read as flat.
const DEPTH_MAX: usize = 64;

/// One concept.
#[derive(Clone)]
pub struct Concept<'a> {
    pub code: &'a str,
    pub display: Option<&'a str>,
    /// As the resource has it, with its designations and properties.
    pub value: &'a Value,
    parents: Vec<usize>,
    children: Vec<usize>,
    pub is_abstract: bool,
    pub is_inactive: bool,
}

/// A code system, indexed.
pub struct System<'a> {
    pub resource: &'a Value,
    pub url: &'a str,
    pub version: Option<&'a str>,
    case_sensitive: bool,
    concepts: Vec<Concept<'a>>,
    by_code: HashMap<String, usize>,
}

/// How one concept stands to another (R4 codesystem-operation-subsumes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    Equivalent,
    Subsumes,
    SubsumedBy,
    NotSubsumed,
}

impl Relation {
    /// The code of http://hl7.org/fhir/concept-subsumption-outcome.
    pub fn code(self) -> &'static str {
        match self {
            Relation::Equivalent => "equivalent",
            Relation::Subsumes => "subsumes",
            Relation::SubsumedBy => "subsumed-by",
            Relation::NotSubsumed => "not-subsumed",
        }
    }
}

impl<'a> System<'a> {
    pub fn of(resource: &'a Value) -> System<'a> {
        let mut system = System {
            resource,
            url: text(resource, "url").unwrap_or_default(),
            version: text(resource, "version"),
            // R4 CodeSystem.caseSensitive: where it is not said, case may matter.
            case_sensitive: resource.get("caseSensitive").and_then(Value::as_bool) != Some(false),
            concepts: Vec::new(),
            by_code: HashMap::new(),
        };
        system.take(items(resource, "concept"), None, 0);
        system.link();
        system
    }

    fn take(&mut self, concepts: &'a [Value], parent: Option<usize>, depth: usize) {
        for value in concepts {
            let Some(code) = text(value, "code") else { continue };
            let at = self.concepts.len();
            let property = |name: &str, uri: &str| self.property(value, name, uri);
            let is = |found: Option<&Value>| found.and_then(Value::as_bool) == Some(true);
            let status = property("status", "status").and_then(Value::as_str);
            let concept = Concept {
                code,
                display: text(value, "display"),
                value,
                parents: parent.into_iter().collect(),
                children: Vec::new(),
                is_abstract: is(property("notSelectable", "notSelectable")) || is(property("abstract", "abstract")),
                is_inactive: is(property("inactive", "inactive")) || matches!(status, Some("retired" | "deprecated")),
            };
            self.concepts.push(concept);
            self.by_code.entry(self.key(code)).or_insert(at);
            if depth < DEPTH_MAX {
                self.take(items(value, "concept"), Some(at), depth + 1);
            }
        }
    }

    /// Parents and children that stand as properties (R4 §4.8.7), beside those by nesting.
    fn link(&mut self) {
        let mut edges = Vec::new();
        for (at, concept) in self.concepts.iter().enumerate() {
            edges.extend(concept.parents.iter().map(|parent| (*parent, at)));
            for (code, value) in self.properties(concept) {
                let other = value.as_str().and_then(|code| self.by_code.get(&self.key(code)));
                match (code, other) {
                    ("parent", Some(parent)) => edges.push((*parent, at)),
                    ("child", Some(child)) => edges.push((at, *child)),
                    _ => {}
                }
            }
        }
        let mut seen = HashSet::new();
        for concept in &mut self.concepts {
            concept.parents.clear();
        }
        for (parent, child) in edges {
            if parent != child && seen.insert((parent, child)) {
                self.concepts[parent].children.push(child);
                self.concepts[child].parents.push(parent);
            }
        }
    }

    fn key(&self, code: &str) -> String {
        if self.case_sensitive { code.to_owned() } else { code.to_lowercase() }
    }

    /// The value of a concept's property by its code, or by the standard URI that the system gives its own code for.
    fn property(&self, concept: &'a Value, name: &str, standard: &str) -> Option<&'a Value> {
        let uri = |definition: &&Value| {
            text(definition, "uri").and_then(|uri| uri.strip_prefix("http://hl7.org/fhir/concept-properties#"))
                == Some(standard)
        };
        let own = items(self.resource, "property").iter().find(uri).and_then(|definition| text(definition, "code"));
        let name = own.unwrap_or(name);
        items(concept, "property").iter().find(|property| text(property, "code") == Some(name)).and_then(value_of)
    }

    /// Code and value of each property of a concept.
    pub fn properties(&self, concept: &Concept<'a>) -> impl Iterator<Item = (&'a str, &'a Value)> + use<'a> {
        let properties = items(concept.value, "property").iter();
        properties.filter_map(|property| Some((text(property, "code")?, value_of(property)?)))
    }

    pub fn find(&self, code: &str) -> Option<&Concept<'a>> {
        self.place(code).map(|at| &self.concepts[at])
    }

    fn place(&self, code: &str) -> Option<usize> {
        self.by_code.get(&self.key(code)).copied()
    }

    pub fn concepts(&self) -> &[Concept<'a>] {
        &self.concepts
    }

    pub fn parents(&self, concept: &Concept<'a>) -> impl Iterator<Item = &Concept<'a>> {
        concept.parents.iter().map(|at| &self.concepts[*at])
    }

    pub fn children(&self, concept: &Concept<'a>) -> impl Iterator<Item = &Concept<'a>> {
        concept.children.iter().map(|at| &self.concepts[*at])
    }

    /// Whether all codes are here, so that "all of the system" can be said (R4 CodeSystem.content).
    pub fn check_complete(&self) -> Result<(), TermError> {
        match text(self.resource, "content") {
            Some("complete") => Ok(()),
            _ => Err(TermError::new(
                "not-supported",
                "a code system that is loaded here is not complete, so what it holds cannot be told",
            )),
        }
    }

    /// The concepts above (or below) one, itself not among them.
    fn reach(&self, from: usize, next: impl for<'c> Fn(&'c Concept<'a>) -> &'c [usize]) -> HashSet<usize> {
        let mut reached = HashSet::new();
        let mut left = vec![from];
        while let Some(at) = left.pop() {
            for other in next(&self.concepts[at]) {
                if *other != from && reached.insert(*other) {
                    left.push(*other);
                }
            }
        }
        reached
    }

    /// How `a` stands to `b`; `None` where either is no code of the system.
    pub fn relation(&self, a: &str, b: &str) -> Option<Relation> {
        let (a, b) = (self.place(a)?, self.place(b)?);
        Some(if a == b {
            Relation::Equivalent
        } else if self.reach(b, |concept| concept.parents.as_slice()).contains(&a) {
            Relation::Subsumes
        } else if self.reach(a, |concept| concept.parents.as_slice()).contains(&b) {
            Relation::SubsumedBy
        } else {
            Relation::NotSubsumed
        })
    }

    /// Which concepts a filter of a value set lets through (R4 ValueSet.compose.include.filter).
    pub(super) fn filter(&self, filter: &Value) -> Result<Filter, TermError> {
        let part = |name: &str| {
            text(filter, name).ok_or_else(|| TermError::new("invalid", format!("a filter needs `{name}`")))
        };
        let (property, op, value) = (part("property")?, part("op")?, part("value")?);
        let below = |include_self: bool| {
            let mut set =
                self.place(value).map(|at| self.reach(at, |concept| concept.children.as_slice())).unwrap_or_default();
            set.extend(self.place(value).filter(|_| include_self));
            set
        };
        let hierarchical = matches!(property, "concept" | "code");
        Ok(match op {
            "is-a" if hierarchical => Filter::In(below(true)),
            "descendent-of" if hierarchical => Filter::In(below(false)),
            "is-not-a" if hierarchical => Filter::NotIn(below(true)),
            "generalizes" if hierarchical => {
                let mut set = self
                    .place(value)
                    .map(|at| self.reach(at, |concept| concept.parents.as_slice()))
                    .unwrap_or_default();
                set.extend(self.place(value));
                Filter::In(set)
            }
            "in" | "not-in" if hierarchical => {
                let set = value.split(',').filter_map(|code| self.place(code.trim())).collect();
                if op == "in" { Filter::In(set) } else { Filter::NotIn(set) }
            }
            "=" => Filter::Value { property: property.to_owned(), any: vec![value.to_owned()], holds: true },
            "in" | "not-in" => Filter::Value {
                property: property.to_owned(),
                any: value.split(',').map(|value| value.trim().to_owned()).collect(),
                holds: op == "in",
            },
            "regex" => {
                // The whole of the value, as R4's other expressions are matched.
                let pattern = RegexBuilder::new(&format!("^(?:{value})$")).size_limit(REGEX_BYTES_MAX).build();
                let pattern =
                    pattern.map_err(|_| TermError::new("invalid", "the expression of a filter does not read"))?;
                Filter::Regex { property: property.to_owned(), pattern }
            }
            "exists" => Filter::Exists { property: property.to_owned(), wanted: value == "true" },
            _ => {
                return Err(TermError::new(
                    "not-supported",
                    "a filter has an operator that its property does not have",
                ));
            }
        })
    }

    pub(super) fn passes(&self, at: usize, filter: &Filter) -> bool {
        let concept = &self.concepts[at];
        let values = |property: &str| -> Vec<String> {
            match property {
                "code" | "concept" => vec![concept.code.to_owned()],
                "display" => concept.display.map(str::to_owned).into_iter().collect(),
                "definition" => text(concept.value, "definition").map(str::to_owned).into_iter().collect(),
                "parent" => self.parents(concept).map(|parent| parent.code.to_owned()).collect(),
                "child" => self.children(concept).map(|child| child.code.to_owned()).collect(),
                "inactive" => vec![concept.is_inactive.to_string()],
                _ => {
                    let all = self.properties(concept).filter(|(code, _)| *code == property);
                    all.filter_map(|(_, value)| plain(value)).collect()
                }
            }
        };
        match filter {
            Filter::In(set) => set.contains(&at),
            Filter::NotIn(set) => !set.contains(&at),
            Filter::Value { property, any, holds } => {
                values(property).iter().any(|value| any.contains(value)) == *holds
            }
            Filter::Regex { property, pattern } => values(property).iter().any(|value| pattern.is_match(value)),
            Filter::Exists { property, wanted } => values(property).is_empty() != *wanted,
        }
    }

    /// The place of a code among [`System::concepts`].
    pub(super) fn index(&self, code: &str) -> Option<usize> {
        self.place(code)
    }

    /// Whether a text is the display of a concept, or one of its designations; case, accents and spaces do not count.
    pub fn is_display(&self, concept: &Concept<'a>, shown: &str) -> bool {
        let designations =
            items(concept.value, "designation").iter().filter_map(|designation| text(designation, "value"));
        let shown = fold(shown);
        concept.display.into_iter().chain(designations).any(|known| fold(known) == shown)
    }
}

/// A filter, ready to be asked.
pub(super) enum Filter {
    In(HashSet<usize>),
    NotIn(HashSet<usize>),
    Value { property: String, any: Vec<String>, holds: bool },
    Regex { property: String, pattern: Regex },
    Exists { property: String, wanted: bool },
}

/// `value[x]` of a property.
fn value_of(property: &Value) -> Option<&Value> {
    property.as_object()?.iter().find(|(name, _)| name.starts_with("value")).map(|(_, value)| value)
}

/// The text of a value, of a Coding its code.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Number(number) => Some(number.as_str().to_owned()),
        value => text(value, "code").map(str::to_owned),
    }
}
