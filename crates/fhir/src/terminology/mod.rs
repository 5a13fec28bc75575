//! Terminology (R4 §4): what CodeSystems, ValueSets and ConceptMaps say, over those that were loaded. `expand` and
//! `validate` answer about value sets, `system` about code systems, `map` about concept maps.
//!
//! Pure: never looks for a resource, but says which it lacks ([`Loaded::wanted`]). Errors name places, never codes.

mod expand;
mod map;
mod system;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use crate::json::Value;

pub use expand::{Expansion, Options, Terms, expand};
pub use map::{Match, Translation, translate};
pub use system::{Concept, Relation, System};

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TermError {
    /// A code of http://hl7.org/fhir/issue-type.
    pub code: &'static str,
    pub text: String,
}

impl TermError {
    pub fn new(code: &'static str, text: impl Into<String>) -> TermError {
        TermError { code, text: text.into() }
    }
}

/// A code, as a question names it.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Coding {
    pub system: Option<String>,
    pub version: Option<String>,
    pub code: String,
    pub display: Option<String>,
}

impl Coding {
    /// `None` without a code.
    pub fn of(value: &Value) -> Option<Coding> {
        let member = |name: &str| text(value, name).map(str::to_owned);
        let coding = Coding {
            system: member("system"),
            version: member("version"),
            code: member("code")?,
            display: member("display"),
        };
        Some(coding)
    }

    pub fn value(&self) -> Value {
        let mut coding = crate::json::Object::new();
        for (name, text) in [
            ("system", self.system.as_deref()),
            ("version", self.version.as_deref()),
            ("code", Some(self.code.as_str())),
            ("display", self.display.as_deref()),
        ] {
            if let Some(text) = text {
                coding.insert(name, text);
            }
        }
        Value::Object(coding)
    }
}

/// A coding may be PHI.
impl std::fmt::Debug for Coding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Coding(..)")
    }
}

pub(crate) fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name).and_then(Value::as_str)
}

pub(crate) fn items<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).map(Value::items).unwrap_or_default()
}

/// A canonical URL and the version behind its `|` (R4 §2.24.0.18).
pub fn split_canonical(canonical: &str) -> (&str, Option<&str>) {
    match canonical.split_once('|') {
        Some((url, version)) => (url, Some(version)),
        None => (canonical, None),
    }
}

/// The resources that a question is answered from. Of several with one URL the version that is asked for counts, else
/// the one that was added last.
#[derive(Default)]
pub struct Loaded {
    resources: HashMap<(&'static str, String), Vec<Value>>,
}

/// The types that are loaded.
const TYPES: [&str; 3] = ["CodeSystem", "ValueSet", "ConceptMap"];

impl Loaded {
    pub fn add(&mut self, resource: Value) {
        let rtype = TYPES.into_iter().find(|rtype| text(&resource, "resourceType") == Some(rtype));
        if let (Some(rtype), Some(url)) = (rtype, text(&resource, "url")) {
            let key = (rtype, url.to_owned());
            self.resources.entry(key).or_default().push(resource);
        }
    }

    pub fn find(&self, rtype: &'static str, canonical: &str) -> Option<&Value> {
        let (url, version) = split_canonical(canonical);
        let all = self.resources.get(&(rtype, url.to_owned()))?;
        match version {
            None => all.last(),
            Some(version) => all.iter().rev().find(|resource| text(resource, "version") == Some(version)),
        }
    }

    /// What a resource refers to and is not here: type and URL, each once.
    pub fn wanted(&self, resource: &Value) -> Vec<(&'static str, String)> {
        let mut wanted: Vec<(&'static str, String)> = Vec::new();
        let mut want = |rtype: &'static str, canonical: Option<&str>| {
            let Some(canonical) = canonical else { return };
            let entry = (rtype, split_canonical(canonical).0.to_owned());
            if !self.resources.contains_key(&entry) && !wanted.contains(&entry) {
                wanted.push(entry);
            }
        };
        if let Some(compose) = resource.get("compose") {
            for part in items(compose, "include").iter().chain(items(compose, "exclude")) {
                want("CodeSystem", text(part, "system"));
                items(part, "valueSet").iter().for_each(|set| want("ValueSet", set.as_str()));
            }
        }
        for group in items(resource, "group") {
            want("ConceptMap", group.get("unmapped").and_then(|unmapped| text(unmapped, "url")));
        }
        wanted
    }

    /// All of a code system, ready to be asked.
    pub fn system(&self, canonical: &str) -> Option<System<'_>> {
        self.find("CodeSystem", canonical).map(System::of)
    }
}
