//! What is in a ValueSet: as a list (R4 valueset-operation-expand) and asked for one code
//! (valueset-operation-validate-code). Both ask the same compiled parts, so that they agree.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};

use super::system::{Filter, System};
use super::{Coding, Loaded, TermError, items, text};
use crate::json::{Object, Value};
use crate::search::fold;

/// Value sets within value sets.
const DEPTH_MAX: usize = 16;
/// Includes and excludes of one question, nested ones counted each time.
const PARTS_MAX: usize = 10_000;
/// Entries looked at for one expansion, before they are filtered: a bound on time, where the limit of an expansion is one
/// on memory.
const LOOKED_AT_MAX: usize = 2_000_000;

/// How an expansion is wanted.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Text to be found in code or display.
    pub filter: Option<String>,
    pub offset: usize,
    pub count: Option<usize>,
    pub active_only: bool,
    pub designations: bool,
    /// Language of the displays, where there is one.
    pub language: Option<String>,
    /// Concepts that an expansion may have; more is too costly.
    pub concepts_max: usize,
}

/// A page of an expansion.
#[derive(Debug, Clone)]
pub struct Expansion {
    /// Of all pages.
    pub total: usize,
    /// `ValueSet.expansion.contains`, flat.
    pub contains: Vec<Value>,
    /// The code systems used, as canonicals with their versions.
    pub used: Vec<String>,
}

/// What terminology questions are asked of: the loaded resources, code systems indexed.
pub struct Terms<'a> {
    loaded: &'a Loaded,
    systems: HashMap<String, System<'a>>,
    parts: Cell<usize>,
}

/// A value set ready to be asked.
struct Set<'t, 'a> {
    includes: Vec<Part<'t, 'a>>,
    excludes: Vec<Part<'t, 'a>>,
    /// `compose.inactive` is false.
    active_only: bool,
}

/// An include or an exclude: what its system selects, and is in all its value sets.
struct Part<'t, 'a> {
    from: Option<From<'t, 'a>>,
    sets: Vec<Set<'t, 'a>>,
}

struct From<'t, 'a> {
    url: &'a str,
    version: Option<&'a str>,
    system: Option<&'t System<'a>>,
    select: Select<'a>,
}

enum Select<'a> {
    Listed(Vec<&'a Value>, HashSet<&'a str>),
    Filtered(Vec<Filter>),
}

/// One member of a value set.
#[derive(Clone, Copy)]
struct Entry<'a> {
    url: &'a str,
    version: Option<&'a str>,
    code: &'a str,
    display: Option<&'a str>,
    designations: &'a [Value],
    is_abstract: bool,
    is_inactive: bool,
}

fn not_loaded(what: &str) -> TermError {
    TermError::new("not-found", format!("a {what} that is needed is not in this domain, or not in that version"))
}

fn too_costly(max: usize) -> TermError {
    TermError::new("too-costly", format!("the expansion has more than {max} concepts: ask with a filter"))
}

impl<'a> Terms<'a> {
    /// For questions about these resources and all that they refer to.
    pub fn new(loaded: &'a Loaded, about: &[&'a Value]) -> Terms<'a> {
        let mut systems = HashMap::new();
        let mut left: Vec<&Value> = about.to_vec();
        let mut seen: HashSet<*const Value> = HashSet::new();
        while let Some(resource) = left.pop() {
            if !seen.insert(std::ptr::from_ref(resource)) {
                continue;
            }
            if text(resource, "resourceType") == Some("CodeSystem") {
                systems
                    .entry(text(resource, "url").unwrap_or_default().to_owned())
                    .or_insert_with(|| System::of(resource));
            }
            let Some(compose) = resource.get("compose") else { continue };
            for part in items(compose, "include").iter().chain(items(compose, "exclude")) {
                left.extend(items(part, "valueSet").iter().filter_map(|set| loaded.find("ValueSet", set.as_str()?)));
                let Some(key) = system_key(part) else { continue };
                if !systems.contains_key(&key)
                    && let Some(resource) = loaded.find("CodeSystem", &key)
                {
                    systems.insert(key, System::of(resource));
                }
            }
        }
        Terms { loaded, systems, parts: Cell::new(0) }
    }

    pub fn system(&self, canonical: &str) -> Option<&System<'a>> {
        self.systems.get(canonical)
    }

    fn set(&self, resource: &'a Value, depth: usize) -> Result<Set<'_, 'a>, TermError> {
        if depth > DEPTH_MAX {
            return Err(TermError::new("too-costly", "value sets refer to each other too deeply, or in a circle"));
        }
        let Some(compose) = resource.get("compose") else {
            // Without a definition its stored expansion is all that is known of it.
            return match resource.get("expansion") {
                Some(expansion) => Ok(Set { includes: stored(expansion), excludes: Vec::new(), active_only: false }),
                None => Err(TermError::new("not-supported", "a value set has no definition")),
            };
        };
        let parts = |name: &str| -> Result<Vec<Part<'_, 'a>>, TermError> {
            items(compose, name).iter().map(|part| self.part(part, depth)).collect()
        };
        let active_only = compose.get("inactive").and_then(Value::as_bool) == Some(false);
        Ok(Set { includes: parts("include")?, excludes: parts("exclude")?, active_only })
    }

    fn part(&self, part: &'a Value, depth: usize) -> Result<Part<'_, 'a>, TermError> {
        self.parts.set(self.parts.get() + 1);
        if self.parts.get() > PARTS_MAX {
            return Err(TermError::new("too-costly", format!("a value set comes to more than {PARTS_MAX} parts")));
        }
        let mut sets = Vec::new();
        for canonical in items(part, "valueSet").iter().filter_map(Value::as_str) {
            let nested = self.loaded.find("ValueSet", canonical).ok_or_else(|| not_loaded("value set"))?;
            sets.push(self.set(nested, depth + 1)?);
        }
        let Some(url) = text(part, "system") else {
            return match sets.is_empty() {
                true => Err(TermError::new("invalid", "an include needs a system or a value set (R4 vsd-1)")),
                false => Ok(Part { from: None, sets }),
            };
        };
        let system = system_key(part).and_then(|key| self.systems.get(&key));
        let listed = items(part, "concept");
        let select = if listed.is_empty() {
            let system = system.ok_or_else(|| not_loaded("code system"))?;
            system.check_complete()?;
            Select::Filtered(
                items(part, "filter").iter().map(|filter| system.filter(filter)).collect::<Result<_, _>>()?,
            )
        } else {
            let codes = listed.iter().filter_map(|concept| text(concept, "code")).collect();
            Select::Listed(listed.iter().collect(), codes)
        };
        let version = text(part, "version").or(system.and_then(|system| system.version));
        Ok(Part { from: Some(From { url, version, system, select }), sets })
    }

    /// Whether a code is in a value set, and how it is shown there. Without a system it is in none.
    pub fn validate(&self, resource: &'a Value, coding: &Coding) -> Result<Option<String>, TermError> {
        self.parts.set(0);
        let set = self.set(resource, 0)?;
        let Some(url) = coding.system.as_deref() else { return Ok(None) };
        let found = set.entry(url, coding.version.as_deref(), &coding.code);
        Ok(found.map(|entry| entry.display.unwrap_or_default().to_owned()))
    }

    /// Whether `shown` is a display of the coding, as its system or the value set has it; true where neither has any.
    pub fn is_display(&self, resource: &'a Value, coding: &Coding, shown: &str) -> Result<bool, TermError> {
        self.parts.set(0);
        let set = self.set(resource, 0)?;
        let url = coding.system.as_deref().unwrap_or_default();
        let Some(entry) = set.entry(url, coding.version.as_deref(), &coding.code) else { return Ok(false) };
        let own = entry.designations.iter().filter_map(|designation| text(designation, "value"));
        let mut own = entry.display.into_iter().chain(own).peekable();
        let system = self.systems.get(url).and_then(|system| Some((system, system.find(&coding.code)?)));
        if own.peek().is_none() && system.is_none() {
            return Ok(true);
        }
        let folded = fold(shown);
        Ok(own.any(|known| fold(known) == folded)
            || system.is_some_and(|(system, concept)| system.is_display(concept, shown)))
    }
}

/// The key of the code system of an include: its URL, and the version if one is named.
fn system_key(part: &Value) -> Option<String> {
    let url = text(part, "system")?;
    Some(match text(part, "version") {
        Some(version) => format!("{url}|{version}"),
        None => url.to_owned(),
    })
}

/// The entries of a stored expansion, one part for each of its systems.
fn stored<'t, 'a>(expansion: &'a Value) -> Vec<Part<'t, 'a>> {
    let mut by_system: Vec<(&str, Option<&str>, Vec<&Value>)> = Vec::new();
    let mut left: Vec<&Value> = items(expansion, "contains").iter().rev().collect();
    while let Some(entry) = left.pop() {
        left.extend(items(entry, "contains").iter().rev());
        let (Some(url), Some(_)) = (text(entry, "system"), text(entry, "code")) else { continue };
        let version = text(entry, "version");
        match by_system.iter_mut().find(|(known, known_version, _)| (*known, *known_version) == (url, version)) {
            Some((.., entries)) => entries.push(entry),
            None => by_system.push((url, version, vec![entry])),
        }
    }
    let part = |(url, version, entries): (&'a str, Option<&'a str>, Vec<&'a Value>)| {
        let codes = entries.iter().filter_map(|entry| text(entry, "code")).collect();
        let select = Select::Listed(entries, codes);
        Part { from: Some(From { url, version, system: None, select }), sets: Vec::new() }
    };
    by_system.into_iter().map(part).collect()
}

impl<'a> Set<'_, 'a> {
    /// The member of this system and code.
    fn entry(&self, url: &str, version: Option<&str>, code: &str) -> Option<Entry<'a>> {
        let found = self.includes.iter().find_map(|part| part.entry(url, version, code))?;
        let is_out = (self.active_only && found.is_inactive) || self.excludes(&found);
        (!is_out).then_some(found)
    }

    fn excludes(&self, entry: &Entry<'a>) -> bool {
        self.excludes.iter().any(|part| part.entry(entry.url, None, entry.code).is_some())
    }

    /// Each member, perhaps with repeats, until `visit` has had enough.
    fn each(&self, visit: &mut dyn FnMut(Entry<'a>) -> Result<(), TermError>) -> Result<(), TermError> {
        for part in &self.includes {
            part.each(&mut |entry| {
                if (self.active_only && entry.is_inactive) || self.excludes(&entry) { Ok(()) } else { visit(entry) }
            })?;
        }
        Ok(())
    }
}

impl<'a> Part<'_, 'a> {
    fn entry(&self, url: &str, version: Option<&str>, code: &str) -> Option<Entry<'a>> {
        let within = |sets: &[Set<'_, 'a>]| sets.iter().all(|set| set.entry(url, version, code).is_some());
        match (&self.from, self.sets.split_first()) {
            (Some(from), _) => from.entry(url, version, code).filter(|_| within(&self.sets)),
            (None, Some((first, others))) => first.entry(url, version, code).filter(|_| within(others)),
            (None, None) => None,
        }
    }

    fn each(&self, visit: &mut dyn FnMut(Entry<'a>) -> Result<(), TermError>) -> Result<(), TermError> {
        let within = |sets: &[Set<'_, 'a>], entry: &Entry<'a>| {
            sets.iter().all(|set| set.entry(entry.url, None, entry.code).is_some())
        };
        match (&self.from, self.sets.split_first()) {
            (Some(from), _) => from.each(&mut |entry| if within(&self.sets, &entry) { visit(entry) } else { Ok(()) }),
            (None, Some((first, others))) => {
                first.each(&mut |entry| if within(others, &entry) { visit(entry) } else { Ok(()) })
            }
            (None, None) => Ok(()),
        }
    }
}

impl<'a> From<'_, 'a> {
    fn entry(&self, url: &str, version: Option<&str>, code: &str) -> Option<Entry<'a>> {
        // A version that one of them does not say is any.
        let fits = version.is_none_or(|version| self.version.is_none_or(|own| own == version));
        if url != self.url || !fits {
            return None;
        }
        match &self.select {
            Select::Listed(listed, codes) => {
                let known = codes.contains(code);
                known
                    .then(|| listed.iter().find(|concept| text(concept, "code") == Some(code)))?
                    .and_then(|c| self.listed(c))
            }
            Select::Filtered(filters) => {
                let system = self.system?;
                let at = system.index(code)?;
                filters.iter().all(|filter| system.passes(at, filter)).then(|| self.concept(system, at))
            }
        }
    }

    fn each(&self, visit: &mut dyn FnMut(Entry<'a>) -> Result<(), TermError>) -> Result<(), TermError> {
        match (&self.select, self.system) {
            (Select::Listed(listed, _), _) => {
                listed.iter().filter_map(|concept| self.listed(concept)).try_for_each(visit)
            }
            (Select::Filtered(filters), Some(system)) => (0..system.concepts().len())
                .filter(|at| filters.iter().all(|filter| system.passes(*at, filter)))
                .map(|at| self.concept(system, at))
                .try_for_each(visit),
            (Select::Filtered(_), None) => Ok(()),
        }
    }

    fn listed(&self, concept: &'a Value) -> Option<Entry<'a>> {
        let code = text(concept, "code")?;
        let known = self.system.and_then(|system| system.find(code));
        let said = |name: &str| concept.get(name).and_then(Value::as_bool) == Some(true);
        Some(Entry {
            url: self.url,
            version: self.version,
            code,
            display: text(concept, "display").or(known.and_then(|known| known.display)),
            designations: match items(concept, "designation") {
                [] => known.map(|known| items(known.value, "designation")).unwrap_or_default(),
                own => own,
            },
            is_abstract: said("abstract") || known.is_some_and(|known| known.is_abstract),
            is_inactive: said("inactive") || known.is_some_and(|known| known.is_inactive),
        })
    }

    fn concept(&self, system: &System<'a>, at: usize) -> Entry<'a> {
        let concept = &system.concepts()[at];
        Entry {
            url: self.url,
            version: self.version,
            code: concept.code,
            display: concept.display,
            designations: items(concept.value, "designation"),
            is_abstract: concept.is_abstract,
            is_inactive: concept.is_inactive,
        }
    }
}

impl<'a> Entry<'a> {
    fn display_in(&self, language: Option<&str>) -> Option<&'a str> {
        let in_language = |designation: &&Value| language.is_some() && text(designation, "language") == language;
        let other = self.designations.iter().find(in_language);
        other.and_then(|designation| text(designation, "value")).or(self.display)
    }

    fn value(&self, options: &Options) -> Value {
        let mut entry = Object::new();
        entry.insert("system", self.url);
        if let Some(version) = self.version {
            entry.insert("version", version);
        }
        if self.is_abstract {
            entry.insert("abstract", true);
        }
        if self.is_inactive {
            entry.insert("inactive", true);
        }
        entry.insert("code", self.code);
        if let Some(display) = self.display_in(options.language.as_deref()) {
            entry.insert("display", display);
        }
        if options.designations && !self.designations.is_empty() {
            entry.insert("designation", Value::Array(self.designations.to_vec()));
        }
        Value::Object(entry)
    }
}

/// A page of what is in a value set, each code once, in the order of its definition.
pub fn expand<'a>(terms: &Terms<'a>, resource: &'a Value, options: &Options) -> Result<Expansion, TermError> {
    terms.parts.set(0);
    let set = terms.set(resource, 0)?;
    let filter = options.filter.as_deref().map(fold);
    let mut seen: HashSet<(&str, &str)> = HashSet::new();
    let mut found: Vec<Entry<'a>> = Vec::new();
    let mut used: Vec<String> = Vec::new();
    let mut looked_at = 0;
    set.each(&mut |entry| {
        looked_at += 1;
        if looked_at > LOOKED_AT_MAX {
            return Err(too_costly(options.concepts_max));
        }
        let fits = filter.as_deref().is_none_or(|filter| {
            let display = entry.display_in(options.language.as_deref());
            fold(entry.code).contains(filter) || display.is_some_and(|display| fold(display).contains(filter))
        });
        if !fits || (options.active_only && entry.is_inactive) || !seen.insert((entry.url, entry.code)) {
            return Ok(());
        }
        if found.len() >= options.concepts_max {
            return Err(too_costly(options.concepts_max));
        }
        let canonical = match entry.version {
            Some(version) => format!("{}|{version}", entry.url),
            None => entry.url.to_owned(),
        };
        if !used.contains(&canonical) {
            used.push(canonical);
        }
        found.push(entry);
        Ok(())
    })?;
    let page = found.iter().skip(options.offset).take(options.count.unwrap_or(usize::MAX));
    Ok(Expansion { total: found.len(), contains: page.map(|entry| entry.value(options)).collect(), used })
}
