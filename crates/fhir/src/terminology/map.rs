//! What a ConceptMap translates a code to (R4 conceptmap-operation-translate), forwards and back.

use super::{Coding, Loaded, TermError, items, text};
use crate::json::Value;

/// Maps that `unmapped` leads on to.
const MAPS_MAX: usize = 8;

/// One translation of a code.
#[derive(Debug, Clone)]
pub struct Match {
    /// A code of http://hl7.org/fhir/concept-map-equivalence.
    pub equivalence: String,
    pub concept: Coding,
    /// As the map has them.
    pub products: Vec<Value>,
    /// The URL of the map.
    pub source: Option<String>,
}

#[derive(Debug, Clone, Default)]
pub struct Translation {
    pub matches: Vec<Match>,
}

impl Translation {
    /// R4: "true if the concept could be translated successfully", which `unmatched` and `disjoint` say it could not.
    pub fn succeeds(&self) -> bool {
        self.matches.iter().any(|found| !matches!(found.equivalence.as_str(), "unmatched" | "disjoint"))
    }
}

/// What a map says about a code; `target` narrows it to one system of the other side.
pub fn translate(
    loaded: &Loaded,
    map: &Value,
    coding: &Coding,
    target: Option<&str>,
    reverse: bool,
) -> Result<Translation, TermError> {
    let mut translation = Translation::default();
    let mut map = map;
    for _ in 0..MAPS_MAX {
        let (own, other) = if reverse { ("target", "source") } else { ("source", "target") };
        let groups = items(map, "group").iter().filter(|group| {
            let of_system =
                |side: &str, system: Option<&str>| system.is_none_or(|system| text(group, side) == Some(system));
            of_system(own, coding.system.as_deref()) && of_system(other, target)
        });
        let mut next = None;
        for group in groups {
            let before = translation.matches.len();
            match reverse {
                true => backwards(map, group, coding, &mut translation.matches),
                false => forwards(map, group, coding, &mut translation.matches),
            }
            let mapped = items(group, "element").iter().any(|element| text(element, "code") == Some(&coding.code));
            if !reverse && !mapped && translation.matches.len() == before {
                next = next.or(unmapped(map, group, coding, &mut translation.matches)?);
            }
        }
        match next {
            None => return Ok(translation),
            Some(url) => {
                let missing = || TermError::new("not-found", "the map for what is unmapped is not in this domain");
                map = loaded.find("ConceptMap", url).ok_or_else(missing)?;
            }
        }
    }
    Err(TermError::new("too-costly", format!("more than {MAPS_MAX} maps lead on to each other, or in a circle")))
}

fn forwards(map: &Value, group: &Value, coding: &Coding, matches: &mut Vec<Match>) {
    let elements = items(group, "element").iter().filter(|element| text(element, "code") == Some(&coding.code));
    for target in elements.flat_map(|element| items(element, "target")) {
        // What depends on other codes holds only with them, and they were not given.
        if !items(target, "dependsOn").is_empty() {
            continue;
        }
        let equivalence = text(target, "equivalence").unwrap_or("relatedto");
        let Some(code) = text(target, "code") else {
            // R4 cmd: a target without a code says that there is none.
            continue;
        };
        matches.push(found(map, group, "target", equivalence, code, text(target, "display"), items(target, "product")));
    }
}

fn backwards(map: &Value, group: &Value, coding: &Coding, matches: &mut Vec<Match>) {
    for element in items(group, "element") {
        let targets = items(element, "target").iter();
        for target in targets.filter(|target| text(target, "code") == Some(&coding.code)) {
            let (Some(code), true) = (text(element, "code"), items(target, "dependsOn").is_empty()) else { continue };
            let equivalence = text(target, "equivalence").unwrap_or("relatedto");
            matches.push(found(map, group, "source", turned(equivalence), code, text(element, "display"), &[]));
        }
    }
}

/// The equivalence as it is seen from the other side.
fn turned(equivalence: &str) -> &str {
    match equivalence {
        "wider" => "narrower",
        "narrower" => "wider",
        "subsumes" => "specializes",
        "specializes" => "subsumes",
        same => same,
    }
}

/// R4 ConceptMap.group.unmapped: what to do with a code that the group does not have; the map to go on with, if any.
fn unmapped<'a>(
    map: &Value,
    group: &'a Value,
    coding: &Coding,
    matches: &mut Vec<Match>,
) -> Result<Option<&'a str>, TermError> {
    let Some(unmapped) = group.get("unmapped") else { return Ok(None) };
    match text(unmapped, "mode") {
        Some("provided") => {
            let display = coding.display.as_deref();
            matches.push(found(map, group, "target", "equal", &coding.code, display, &[]));
            Ok(None)
        }
        Some("fixed") => {
            let code = text(unmapped, "code")
                .ok_or_else(|| TermError::new("invalid", "a fixed code is missing (R4 cmd-2)"))?;
            matches.push(found(map, group, "target", "relatedto", code, text(unmapped, "display"), &[]));
            Ok(None)
        }
        Some("other-map") => match text(unmapped, "url") {
            Some(url) => Ok(Some(url)),
            None => Err(TermError::new("invalid", "the other map is missing (R4 cmd-3)")),
        },
        _ => Ok(None),
    }
}

fn found(
    map: &Value,
    group: &Value,
    side: &str,
    equivalence: &str,
    code: &str,
    display: Option<&str>,
    products: &[Value],
) -> Match {
    let version = format!("{side}Version");
    Match {
        equivalence: equivalence.to_owned(),
        concept: Coding {
            system: text(group, side).map(str::to_owned),
            version: text(group, &version).map(str::to_owned),
            code: code.to_owned(),
            display: display.map(str::to_owned),
        },
        products: products.to_vec(),
        source: text(map, "url").map(str::to_owned),
    }
}
