//! What a source in shadow would have made, and how that differs from what another engine made of the same messages.
//!
//! Messages are folded into resources in memory as refine would fold them into silver, from nothing. Two sets of
//! resources are laid side by side by type and identifier, and compared element by element.

use std::collections::{BTreeMap, HashMap};

use fhir::json::Value;

use super::{Key, Mapped};

/// Resources in memory for one comparison.
pub const RESOURCES_MAX: usize = 200_000;

/// Resources as messages make them, one after the other.
#[derive(Default)]
pub struct Fold {
    resources: Vec<Option<Value>>,
    /// (type, system, value) to its place.
    known: HashMap<(&'static str, String, String), usize>,
}

impl Fold {
    /// False when there is no room for more.
    pub fn add(&mut self, mapped: &Mapped) -> bool {
        if self.resources.len() + mapped.units.len() > RESOURCES_MAX {
            return false;
        }
        let mut places: HashMap<u32, usize> = HashMap::new();
        for unit in &mapped.units {
            let rtype = unit.draft.rtype;
            let keys = match &unit.key {
                Key::Identifiers(keys) => keys.clone(),
                Key::Within { unit: parent, natural } => match places.get(parent) {
                    Some(at) => vec![(Key::WITHIN_SYSTEM.to_owned(), Key::within(&name(*at), natural))],
                    None => continue,
                },
            };
            let found = keys.iter().find_map(|(s, v)| self.known.get(&(rtype, s.clone(), v.clone())).copied());
            let at = found.unwrap_or_else(|| {
                self.resources.push(None);
                self.resources.len() - 1
            });
            for (system, value) in keys {
                self.known.entry((rtype, system, value)).or_insert(at);
            }
            places.insert(unit.n, at);
        }
        for unit in mapped.apply_order().into_iter().map(|at| &mapped.units[at]) {
            let Some(at) = places.get(&unit.n).copied() else { continue };
            let current = self.resources[at].as_ref();
            let named = |n: u32| places.get(&n).map(|at| name(*at));
            if let Ok(Some(next)) = unit.draft.apply(&unit.key, current, &named) {
                for (system, value) in crate::refine::identifiers(&next) {
                    self.known.entry((unit.draft.rtype, system.to_owned(), value.to_owned())).or_insert(at);
                }
                self.resources[at] = Some(next);
            }
        }
        true
    }

    pub fn resources(self) -> Vec<Value> {
        self.resources.into_iter().flatten().collect()
    }
}

/// References lead by place; what a resource is about to be called nobody knows.
fn name(at: usize) -> String {
    format!("Resource/{at}")
}

/// How an element departs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Departs {
    OnlyOurs,
    OnlyTheirs,
    Differs,
}

impl Departs {
    pub fn code(self) -> &'static str {
        match self {
            Departs::OnlyOurs => "only ours",
            Departs::OnlyTheirs => "only theirs",
            Departs::Differs => "differs",
        }
    }
}

/// Two sets of resources, side by side. Counts and names of elements; no value.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Resources that say the same.
    pub same: u64,
    /// By type: those that say something else, and those without a counterpart.
    pub differing: BTreeMap<String, u64>,
    pub only_ours: BTreeMap<String, u64>,
    pub only_theirs: BTreeMap<String, u64>,
    /// (type, element, how) with the number of resources.
    pub elements: BTreeMap<(String, String, Departs), u64>,
}

impl Comparison {
    pub fn is_same(&self) -> bool {
        self.differing.is_empty() && self.only_ours.is_empty() && self.only_theirs.is_empty()
    }
}

/// What says nothing about anybody, or cannot be the same in two engines.
const IGNORED: [&str; 5] = ["id", "meta", "text", "contained", "implicitRules"];

pub fn compare(ours: &[Value], theirs: &[Value]) -> Comparison {
    let mut by_number: HashMap<(&str, &str, &str), usize> = HashMap::new();
    let mut by_value: HashMap<(&str, &str), usize> = HashMap::new();
    for (at, resource) in theirs.iter().enumerate() {
        let rtype = type_of(resource);
        for (system, value) in crate::refine::identifiers(resource) {
            by_number.entry((rtype, system, value)).or_insert(at);
            by_value.entry((rtype, value)).or_insert(at);
        }
    }
    let mut taken = vec![false; theirs.len()];
    let mut result = Comparison::default();
    for resource in ours {
        let rtype = type_of(resource);
        let numbers: Vec<(&str, &str)> = crate::refine::identifiers(resource).collect();
        let found = numbers
            .iter()
            .find_map(|(system, value)| by_number.get(&(rtype, *system, *value)))
            .or_else(|| numbers.iter().find_map(|(_, value)| by_value.get(&(rtype, *value))));
        let Some(at) = found.copied().filter(|at| !taken[*at]) else {
            *result.only_ours.entry(rtype.to_owned()).or_default() += 1;
            continue;
        };
        taken[at] = true;
        if note(rtype, &leaves(resource), &leaves(&theirs[at]), &mut result) {
            *result.differing.entry(rtype.to_owned()).or_default() += 1;
        } else {
            result.same += 1;
        }
    }
    for (resource, _) in theirs.iter().zip(&taken).filter(|(_, taken)| !**taken) {
        *result.only_theirs.entry(type_of(resource).to_owned()).or_default() += 1;
    }
    result
}

fn type_of(resource: &Value) -> &str {
    resource.get("resourceType").and_then(Value::as_str).unwrap_or("unknown")
}

type Leaves = BTreeMap<String, Vec<String>>;

/// Whether anything departs.
fn note(rtype: &str, ours: &Leaves, theirs: &Leaves, result: &mut Comparison) -> bool {
    let mut departs = false;
    let mut say = |element: &str, how| {
        departs = true;
        *result.elements.entry((rtype.to_owned(), element.to_owned(), how)).or_default() += 1;
    };
    for (element, values) in ours {
        match theirs.get(element) {
            None => say(element, Departs::OnlyOurs),
            Some(others) if others != values => say(element, Departs::Differs),
            Some(_) => {}
        }
    }
    for element in theirs.keys().filter(|element| !ours.contains_key(*element)) {
        say(element, Departs::OnlyTheirs);
    }
    departs
}

/// Every simple value by the path of its element, the order of lists aside.
fn leaves(resource: &Value) -> Leaves {
    let mut out = Leaves::new();
    let members = resource.as_object().into_iter().flat_map(|object| object.iter());
    for (key, value) in members.filter(|(key, _)| !IGNORED.contains(key) && *key != "resourceType") {
        gather(key, value, &mut out);
    }
    for values in out.values_mut() {
        values.sort();
    }
    out
}

fn gather(path: &str, value: &Value, out: &mut Leaves) {
    match value {
        Value::Array(list) => list.iter().for_each(|item| gather(path, item, out)),
        Value::Object(object) => {
            // What is ours alone: marks of where an item came from, numbers within a parent.
            let own = |key: &str| {
                object.get(key).and_then(Value::as_str).is_some_and(|text| text.starts_with("urn:wardmesh:"))
            };
            if own("url") || own("system") {
                return;
            }
            for (key, item) in object.iter() {
                match key {
                    "id" => {}
                    "reference" => out.entry(format!("{path}.reference")).or_default().push(String::new()),
                    key => gather(&format!("{path}.{key}"), item, out),
                }
            }
        }
        Value::Null => {}
        simple => out.entry(path.to_owned()).or_default().push(fhir::json::to_string(simple)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap as Map;

    use base::Limits;

    use super::*;
    use crate::v2::{Sender, map};

    fn mapped(text: &str) -> Mapped {
        let message = hl7v2::parse(text.as_bytes(), &Limits::default()).unwrap();
        let none = Map::new();
        let sender =
            Sender { name: "lab", utc_offset: None, assigners: &none, units: &none, authority: &[], received: None };
        map(&message, &sender, &Limits::default())
    }

    fn adt(trigger: &str, family: &str) -> String {
        format!(
            "MSH|^~\\&|R|G|||2026110112000{n}||ADT^{trigger}^ADT_A01|1|P|2.5.1\rEVN|{trigger}|2026110112000{n}\r\
             PID|1||M1^^^GEN^MR||{family}^Jo||19700203|F\rPV1|1|I|2N||||||||||||||||V1^^^GEN^VN\r",
            n = trigger.len() + family.len() % 5,
        )
    }

    #[test]
    fn messages_fold_into_one_patient_and_equal_sets_say_so() {
        let mut fold = Fold::default();
        for message in [adt("A01", "Doe"), adt("A08", "Roes")] {
            assert!(fold.add(&mapped(&message)));
        }
        let ours = fold.resources();
        let patients: Vec<_> = ours.iter().filter(|r| type_of(r) == "Patient").collect();
        assert_eq!(patients.len(), 1);
        assert!(fhir::json::to_string(patients[0]).contains("Roes"));
        let same = compare(&ours, &ours);
        assert!(same.is_same() && same.same == ours.len() as u64, "{same:?}");
    }

    #[test]
    fn what_departs_is_named_by_its_element_and_without_its_value() {
        let mut fold = Fold::default();
        fold.add(&mapped(&adt("A01", "Doe")));
        let ours = fold.resources();
        let theirs = vec![
            fhir::json!({"resourceType": "Patient", "id": "x",
                "identifier": [{"system": "urn:their:mr", "value": "M1"}],
                "name": [{"family": "Doe", "given": ["Jo"]}], "gender": "male", "active": true}),
            fhir::json!({"resourceType": "Observation", "id": "y", "identifier": [{"value": "Z"}]}),
        ];
        let found = compare(&ours, &theirs);
        let of = |element: &str, how| {
            found.elements.get(&("Patient".to_owned(), element.to_owned(), how)).copied().unwrap_or(0)
        };
        assert_eq!((of("gender", Departs::Differs), of("birthDate", Departs::OnlyOurs)), (1, 1));
        assert_eq!(of("active", Departs::OnlyTheirs), 1);
        assert_eq!((of("name.family", Departs::Differs), found.only_theirs.get("Observation")), (0, Some(&1)));
        assert!(!format!("{found:?}").contains("Doe"));
    }
}
