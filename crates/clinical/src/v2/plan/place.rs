//! Where a value goes: `location[1].location(Location)` as the guide writes it, checked against the definitions of R4
//! and cut at the first element that repeats. An element that is none of R4's is an error with its name.

use fhir::definitions::{Type, type_named};

/// A place below a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The element up to the first that repeats, or the whole: `hospitalization.admitSource`, `location`.
    pub path: String,
    /// Whether `path` is a list; then `inner` is the way within one of its items.
    pub many: bool,
    /// Which of the items: rows of one label speak of the same one.
    pub label: String,
    pub inner: Vec<Step>,
    /// The type of what stands at the end: `CodeableConcept`, `dateTime`.
    pub leaf: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub name: &'static str,
    /// Of a list: the label of the item.
    pub label: Option<String>,
}

impl Place {
    pub fn parse(rtype: &str, text: &str) -> Result<Place, String> {
        let mut kind = type_named(rtype).ok_or_else(|| format!("no type `{rtype}`"))?;
        let mut place = Place { path: String::new(), many: false, label: String::new(), inner: Vec::new(), leaf: "" };
        for part in logical(text)?.split('.') {
            let (name, label) = match part.split_once('[') {
                // `x[]` of our tables: the item is the field's own.
                Some((name, "]")) => (name.trim(), Some("*".to_owned())),
                Some((name, label)) => (name.trim(), Some(label.trim_end_matches(']').to_owned())),
                None => (part.trim(), None),
            };
            let (json, many) = element(&mut kind, name)
                .ok_or_else(|| format!("`{}` has no element `{name}` in `{text}`", kind.name))?;
            let json: &'static str = Box::leak(json.into_boxed_str());
            // An extension of a primitive stands beside it, in `_name`.
            if matches!(name, "extension" | "id") && place.leaf_is_primitive() {
                place.beside_primitive()?;
            }
            place.push(json, many, label);
            place.leaf = kind.name;
        }
        Ok(place)
    }

    fn leaf_is_primitive(&self) -> bool {
        type_named(self.leaf).is_some_and(Type::is_primitive)
    }

    fn push(&mut self, name: &'static str, many: bool, label: Option<String>) {
        if self.many {
            self.inner.push(Step { name, label: many.then(|| label.unwrap_or_default()) });
            return;
        }
        if !self.path.is_empty() {
            self.path.push('.');
        }
        self.path.push_str(name);
        if many {
            self.many = true;
            self.label = label.unwrap_or_default();
        }
    }

    fn beside_primitive(&mut self) -> Result<(), String> {
        if let Some(step) = self.inner.last_mut() {
            if step.label.is_some() {
                return Err("an extension of a primitive that repeats".to_owned());
            }
            step.name = Box::leak(format!("_{}", step.name).into_boxed_str());
            return Ok(());
        }
        if self.many {
            return Err("an extension of a primitive that repeats".to_owned());
        }
        let at = self.path.rfind('.').map_or(0, |at| at + 1);
        self.path.insert(at, '_');
        Ok(())
    }
}

/// (JSON name, whether it repeats); `kind` moves on to the element's type.
fn element(kind: &mut &'static Type, name: &str) -> Option<(String, bool)> {
    let (many, next) = match kind.property(name) {
        Some(property) => (property.element.many, property.kind.definition()),
        None => return None,
    };
    *kind = next;
    Some((name.to_owned(), many))
}

/// What the guide says of another resource, said by a logical reference: `(Practitioner)` is the reference itself,
/// `(Location.identifier[1])` its identifier, `(Organization.name)` its display.
fn logical(text: &str) -> Result<String, String> {
    let Some((head, tail)) = text.split_once('(') else { return Ok(text.to_owned()) };
    let tail = tail.trim_end_matches(')');
    let (target, rest) = tail.split_once('.').unwrap_or((tail, ""));
    if !target.starts_with(char::is_uppercase) {
        return Err(format!("`{text}` leads to no resource"));
    }
    let (first, more) = rest.split_once('.').map_or((rest, ""), |(first, more)| (first, more));
    let first_name = first.split('[').next().unwrap_or_default();
    let below = match (first_name, more) {
        ("", _) => return Ok(head.to_owned()),
        ("identifier", "") => "identifier".to_owned(),
        ("identifier", more) => format!("identifier.{more}"),
        ("name", "") => "display".to_owned(),
        _ => return Err(format!("`{text}` speaks of an element of another resource")),
    };
    Ok(format!("{head}.{below}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(rtype: &str, text: &str) -> String {
        match Place::parse(rtype, text) {
            Err(error) => error,
            Ok(place) => {
                let inner: Vec<String> = place
                    .inner
                    .iter()
                    .map(|s| match &s.label {
                        Some(label) => format!("{}[{label}]", s.name),
                        None => s.name.to_owned(),
                    })
                    .collect();
                let list = if place.many { format!("[{}]", place.label) } else { String::new() };
                format!("{}{list} {} {}", place.path, inner.join("."), place.leaf)
            }
        }
    }

    #[test]
    fn elements_are_those_of_r4() {
        for (rtype, text, meant) in [
            ("Encounter", "location[1].location(Location)", "location[1] location Reference"),
            ("Encounter", "participant[1].type.coding.code", "participant[1] type[].coding[].code code"),
            ("Encounter", "period.start", "period.start  dateTime"),
            ("Encounter", "hospitalization.specialCourtesy", "hospitalization.specialCourtesy[]  CodeableConcept"),
            ("Patient", "birthDate.extension[1].url", "_birthDate.extension[1] url uri"),
            ("Patient", "deceasedDateTime", "deceasedDateTime  dateTime"),
            ("Encounter", "episodeOfCare(EpisodeOfCare[1].identifier)", "episodeOfCare[] identifier Identifier"),
            ("Encounter", "statuss", "`Encounter` has no element `statuss` in `statuss`"),
            (
                "Encounter",
                "participant(X.address)",
                "`participant(X.address)` speaks of an element of another resource",
            ),
        ] {
            assert_eq!(shown(rtype, text), meant);
        }
    }
}
