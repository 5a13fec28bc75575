//! Messages in, FHIR out: made here for each rule, and the shared samples where they are at hand.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use base::Limits;
use fhir::json::{Value, to_string};
use hl7v2::time::Offset;
use hl7v2::{Message, OwnedMessage};

use super::*;

fn parsed(text: &str) -> OwnedMessage {
    hl7v2::parse(text.as_bytes(), &Limits::default()).unwrap().into_owned()
}

pub(crate) fn mapped_message(message: &Message<'_>) -> Mapped {
    let assigners = BTreeMap::from([("GENHOSP".to_owned(), "urn:oid:2.16.840.1.113883.19.5.1".to_owned())]);
    let units = BTreeMap::from([("KRATZ".to_owned(), "mmol/L".to_owned())]);
    let sender = Sender {
        name: "adt",
        utc_offset: Offset::from_minutes(-300),
        assigners: &assigners,
        units: &units,
        authority: &[],
        received: None,
    };
    map(message, &sender, &Limits::default())
}

pub(super) fn mapped(text: &str) -> Mapped {
    mapped_message(&parsed(text))
}

pub(super) fn adt(trigger: &str, rest: &str) -> String {
    format!("MSH|^~\\&|APP|FAC|||20260101120000||ADT^{trigger}|C1|P|2.5.1\rEVN||20260102083000\r{rest}")
}

fn oru(rest: &str) -> String {
    format!(
        "MSH|^~\\&|LAB|FAC|||20260101120000||ORU^R01^ORU_R01|C1|P|2.5.1\rPID|1||42^^^GENHOSP^MR||DOE^JANE\r\
         OBR|1||F1^LAB|CHEM^Chemistry^L|||20260101080000+0000|||||||||||||||20260101090000+0000||LAB|F\r{rest}"
    )
}

/// A small silver: resources by id, found by identifier. Messages are applied as the refiner does.
#[derive(Default)]
pub(super) struct Silver {
    pub(super) resources: Vec<(String, Value)>,
}

impl Silver {
    pub(super) fn find(&self, rtype: &str, system: &str, value: &str) -> Option<String> {
        let has = |resource: &Value| {
            let text = |i: &Value, name| i.get(name).and_then(Value::as_str).map(str::to_owned);
            resource.get("resourceType").and_then(Value::as_str) == Some(rtype)
                && resource.get("identifier").is_some_and(|list| {
                    list.items().iter().any(|i| {
                        text(i, "system").as_deref() == Some(system) && text(i, "value").as_deref() == Some(value)
                    })
                })
        };
        self.resources.iter().find(|(_, r)| has(r)).map(|(id, _)| id.clone())
    }

    pub(super) fn take(&mut self, text: &str) -> Mapped {
        let mapped = mapped(text);
        self.apply(&mapped);
        mapped
    }

    fn apply(&mut self, mapped: &Mapped) {
        let mut names: HashMap<u32, String> = HashMap::new();
        for unit in &mapped.units {
            let found = match &unit.key {
                Key::Identifiers(numbers) => numbers.iter().find_map(|(s, v)| self.find(unit.draft.rtype, s, v)),
                Key::Within { unit: parent, natural } => {
                    // Refine sets such a unit aside.
                    let Some(parent) = names.get(parent) else { continue };
                    self.find(unit.draft.rtype, Key::WITHIN_SYSTEM, &Key::within(parent, natural))
                }
            };
            let fresh = || format!("{}/{}-{}", unit.draft.rtype, self.resources.len(), unit.n);
            names.insert(unit.n, found.unwrap_or_else(fresh));
        }
        for unit in mapped.apply_order().into_iter().map(|at| &mapped.units[at]) {
            let Some(name) = names.get(&unit.n) else { continue };
            let at = self.resources.iter().position(|(id, _)| id == name);
            let current = at.map(|at| &self.resources[at].1);
            let next = unit.draft.apply(&unit.key, current, &|n| names.get(&n).cloned());
            match (next, at) {
                (Ok(Some(next)), Some(at)) => self.resources[at].1 = next,
                (Ok(Some(next)), None) => self.resources.push((name.clone(), next)),
                (Ok(None) | Err(_), _) => {}
            }
        }
    }

    pub(super) fn all(&self, rtype: &str) -> Vec<&Value> {
        let is = |v: &&Value| v.get("resourceType").and_then(Value::as_str) == Some(rtype);
        self.resources.iter().map(|(_, v)| v).filter(is).collect()
    }

    /// The text at `Patient.name.0.family`, `Observation[1].status`; numbers as their digits, objects as JSON.
    pub(super) fn get(&self, path: &str) -> Option<String> {
        let (head, rest) = path.split_once('.').unwrap();
        let (rtype, nth) = match head.split_once('[') {
            Some((rtype, n)) => (rtype, n.trim_end_matches(']').parse().unwrap()),
            None => (head, 0),
        };
        let steps: Vec<&str> = rest.split('.').collect();
        let value = self.all(rtype).get(nth)?.path(&steps)?;
        Some(value.as_str().map_or_else(|| to_string(value), str::to_owned))
    }
}

#[track_caller]
pub(super) fn check(silver: &Silver, expected: &[(&str, Option<&str>)]) {
    for (path, value) in expected {
        assert_eq!(silver.get(path).as_deref(), *value, "{path}");
    }
}

pub(super) fn codes(mapped: &Mapped) -> Vec<(&str, &str)> {
    mapped.problems.iter().map(|p| (p.place.as_str(), p.code)).collect()
}

const PID: &str = "PID|1||42^^^GENHOSP^MR~77^^^LAB2||DOE^JANE^Q^^^^L~DOE^JJ^^^^^N||19700301|F|||1 High St^^Town^ST^12345^USA^H|\
    |^PRN^PH^^1^555^1234567|||M||ACC9^^^GENHOSP|123-45-6789\r";
const PV1: &str =
    "PV1|1|I|W1^R2^B3^FAC||||11^WELBY^MARCUS|||MED|||||||||V77^^^GENHOSP|||||||||||||||||||||||||20260101080000\r";

/// Unresolved is nothing: every row has an element of R4, a converter, a condition that reads, a vocabulary.
#[test]
fn every_row_of_the_tables_can_be_executed() {
    let faults = &plan::plan().faults;
    assert!(faults.is_empty(), "{} unresolved:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn a_stay_from_admission_to_discharge_and_back() {
    let mut silver = Silver::default();
    silver.take(&adt("A01", &format!("{PID}{PV1}")));
    check(
        &silver,
        &[
            ("Patient.identifier.0.system", Some("urn:oid:2.16.840.1.113883.19.5.1")),
            ("Patient.identifier.0.value", Some("42")),
            ("Patient.identifier.0.type.coding.0.code", Some("MR")),
            ("Patient.identifier.1.system", Some("urn:wardmesh:assigner:LAB2")),
            ("Patient.identifier.2.system", Some("http://hl7.org/fhir/sid/us-ssn")),
            ("Patient.name.0.use", Some("official")),
            ("Patient.name.0.given", Some(r#"["JANE","Q"]"#)),
            ("Patient.name.1.use", Some("nickname")),
            ("Patient.gender", Some("female")),
            ("Patient.birthDate", Some("1970-03-01")),
            ("Patient.address.0.use", Some("home")),
            ("Patient.address.0.line.0", Some("1 High St")),
            ("Patient.telecom.0.value", Some("+1 (555) 1234567")),
            ("Patient.maritalStatus.coding.1.system", Some("http://terminology.hl7.org/CodeSystem/v3-MaritalStatus")),
            ("Encounter.status", Some("in-progress")),
            ("Encounter.class.code", Some("IMP")),
            ("Encounter.identifier.0.value", Some("V77")),
            ("Encounter.identifier.0.type.coding.0.code", Some("VN")),
            ("Encounter.identifier.1.value", Some("ACC9")),
            ("Encounter.location.0.status", Some("active")),
            ("Encounter.location.0.location.display", Some("W1, room R2, bed B3, FAC")),
            ("Encounter.participant.0.individual.display", Some("MARCUS WELBY")),
            ("Encounter.period.start", Some("2026-01-01T08:00:00-05:00")),
            ("Encounter.period.end", None),
        ],
    );
    // The same again, and an update that changes nothing of the status.
    silver.take(&adt("A01", &format!("{PID}{PV1}")));
    silver.take(&adt(
        "A08",
        "PID|1||42^^^GENHOSP^MR~77^^^LAB2||ROE^JANE||\"\"|\rPV1|1|O|||||||||||||||||V77^^^GENHOSP\r",
    ));
    check(
        &silver,
        &[
            ("Patient.name.0.family", Some("ROE")),
            ("Patient.name.1.family", None),
            ("Patient.birthDate", None),
            ("Patient.gender", Some("female")),
            ("Patient.identifier.2.value", Some("123-45-6789")),
            ("Encounter.status", Some("in-progress")),
            ("Encounter.class.code", Some("AMB")),
            ("Encounter.location.0.status", Some("active")),
        ],
    );
    silver.take(&adt("A03", &format!("{PID}{PV1}")));
    check(
        &silver,
        &[
            ("Encounter.status", Some("finished")),
            ("Encounter.period.end", Some("2026-01-02T08:30:00-05:00")),
            ("Encounter.location.0.status", Some("completed")),
        ],
    );
    silver.take(&adt("A13", &format!("{PID}{PV1}")));
    check(&silver, &[("Encounter.status", Some("in-progress")), ("Encounter.period.end", None)]);
    silver.take(&adt("A11", &format!("{PID}{PV1}")));
    check(&silver, &[("Encounter.status", Some("cancelled"))]);
    assert_eq!((silver.all("Patient").len(), silver.all("Encounter").len()), (1, 1));
}

#[test]
fn an_update_of_an_unknown_visit_says_only_what_it_shows() {
    for (pv1, status) in [
        ("PV1|1|I|||||||||||||||||V1\r", "unknown"),
        ("PV1|1|P|||||||||||||||||V1\r", "planned"),
        (PV1, "in-progress"),
        ("PV1|1|I|||||||||||||||||V1||||||||||||||||||||||||||20260102\r", "finished"),
    ] {
        let mut silver = Silver::default();
        silver.take(&adt("A08", &format!("{PID}{pv1}")));
        check(&silver, &[("Encounter.status", Some(status))]);
    }
}

#[test]
fn a_person_update_touches_no_visit_and_a_visit_needs_a_number() {
    let person = mapped(&adt("A31", &format!("{PID}PV1|1|N\r")));
    let types: Vec<&str> = person.units.iter().map(|u| u.draft.rtype).collect();
    assert_eq!(types, ["Patient", "Account"]);
    assert_eq!(person.problems, []);
    let nameless = mapped(&adt("A01", "PID|1||42^^^GENHOSP^MR\rPV1|1|I\r"));
    assert_eq!(codes(&nameless), [("PV1-19", "visit-unidentified")]);
    assert_eq!(nameless.units.len(), 1);
    let nobody = mapped(&adt("A01", &format!("PID|1||\"\"||DOE^JANE\r{PV1}")));
    assert_eq!(codes(&nobody), [("PID-3", "patient-unidentified"), ("PV1", "patient-missing")]);
    assert!(nobody.units.is_empty());
}

#[test]
fn protection_labels_the_record_until_it_is_lifted() {
    let mut silver = Silver::default();
    let visit = |flag: &str| adt("A01", &format!("{PID}{PV1}PV2|{}|{flag}\r", "|".repeat(20)));
    silver.take(&visit("Y"));
    check(&silver, &[("Encounter.meta.security.0.code", Some("R")), ("Patient.meta.security", None)]);
    silver.take(&visit(""));
    check(&silver, &[("Encounter.meta.security.0.code", Some("R"))]);
    silver.take(&visit("N"));
    check(&silver, &[("Encounter.meta.security", None)]);
}

#[test]
fn a_merge_is_understood_where_the_visit_stands_before_it() {
    let mut silver = Silver::default();
    silver.take(&adt("A04", "PID|1||OLD^^^GENHOSP^MR||DOE^J\rPV1|1|O|||||||||||||||||V1\r"));
    silver.take(&adt("A40", "PID|1||42^^^GENHOSP^MR||DOE^JANE\rPV1|1|I\rMRG|OLD^^^GENHOSP^MR\r"));
    check(&silver, &[("Patient[0].active", Some("false")), ("Patient[0].link.0.type", Some("replaced-by"))]);
}

#[test]
fn a_merge_keeps_the_loser_inactive_and_linked() {
    let mut silver = Silver::default();
    silver.take(&adt("A04", "PID|1||OLD^^^GENHOSP^MR||DOE^J\rPV1|1|O|||||||||||||||||V1\r"));
    let merge = adt("A40", "PID|1||42^^^GENHOSP^MR||DOE^JANE\rMRG|OLD^^^GENHOSP^MR\r");
    silver.take(&merge);
    silver.take(&merge);
    let loser = &silver.resources[0].0;
    let survivor = silver.find("Patient", "urn:oid:2.16.840.1.113883.19.5.1", "42").unwrap();
    check(
        &silver,
        &[
            ("Patient[0].active", Some("false")),
            ("Patient[0].name.0.family", Some("DOE")),
            ("Patient[0].link.0.type", Some("replaced-by")),
            ("Patient[0].link.0.other.reference", Some(&survivor)),
            ("Patient[0].identifier.1", None),
            ("Patient[1].link.0.type", Some("replaces")),
            ("Patient[1].link.0.other.reference", Some(loser)),
            ("Patient[1].link.1", None),
            ("Patient[1].active", None),
        ],
    );
    for (pair, code) in [
        ("PID|1||42^^^GENHOSP^MR\rMRG|42^^^GENHOSP^MR\r", "merge-into-itself"),
        ("PID|1||42^^^GENHOSP^MR\rMRG|\r", "merge-without-loser"),
        ("MRG|42^^^GENHOSP^MR\r", "merge-without-survivor"),
    ] {
        assert_eq!(mapped(&adt("A40", pair)).problems[0].code, code);
    }
}

/// An event of ADT at a time of day on 2 January 2026.
pub(super) fn at(trigger: &str, time: &str, rest: &str) -> String {
    format!("MSH|^~\\&|APP|FAC|||20260103||ADT^{trigger}|C1|P|2.5.1\rEVN||20260102{time}\r{rest}")
}

const VISIT: &str = "PV1|1|I|||||||||||||||||V1\r";

pub(super) fn jane(rest: &str) -> String {
    format!("PID|1||42^^^GENHOSP^MR||DOE^JANE\r{rest}")
}

#[test]
fn a_note_belongs_to_what_stands_before_it_or_to_nothing() {
    let mapped =
        mapped(&oru("OBX|1|NM|A^a^L||5|mg/dL|||||F\rOBX|2|NM|B^b^L||x|mg/dL|||||F\rNTE|1||of the broken one\r"));
    let notes = mapped.units.iter().any(|u| u.draft.fields.iter().any(|f| f.path == "note"));
    assert!(!notes, "the note of a result that was set aside is no other's");
    let fate = mapped.fates.iter().find(|f| f.path == "NTE-3").map(|f| f.fate.clone());
    assert!(matches!(fate, Some(Fate::Kept(_))), "{fate:?}");
}

#[test]
fn what_comes_late_changes_only_what_is_older() {
    let admitted = format!("PV1|1|I|W1{}V1{}20260102080000\r", "|".repeat(16), "|".repeat(25));
    let mut silver = Silver::default();
    silver.take(&at("A03", "1000", &jane(VISIT)));
    silver.take(&at("A01", "0800", &jane(&admitted)));
    check(
        &silver,
        &[
            ("Encounter.status", Some("finished")),
            ("Encounter.period.end", Some("2026-01-02T10:00:00-05:00")),
            // Nobody said it before: it is news, late as it comes.
            ("Encounter.period.start", Some("2026-01-02T08:00:00-05:00")),
            ("Encounter.location.0.location.display", Some("W1")),
        ],
    );
    // Element by element: the name is of 08:30, the address of 09:00, a name of 08:15 is too old.
    let mut silver = Silver::default();
    silver.take(&at("A28", "0800", "PID|1||42^^^GENHOSP^MR||DOE^JANE||19700301|F\r"));
    silver.take(&at("A31", "0900", "PID|1||42^^^GENHOSP^MR||||||||1 High St^^Town\r"));
    silver.take(&at("A31", "0830", "PID|1||42^^^GENHOSP^MR||ROE^JANE||\"\"||||2 Low St^^City\r"));
    silver.take(&at("A31", "0815", "PID|1||42^^^GENHOSP^MR||POE^JANE||19710301|M\r"));
    check(
        &silver,
        &[
            ("Patient.name.0.family", Some("ROE")),
            ("Patient.address.0.city", Some("Town")),
            ("Patient.birthDate", None),
            ("Patient.gender", Some("male")),
        ],
    );
}

#[test]
fn events_and_what_takes_them_back() {
    for (chain, status) in [
        (&["A01", "A11"][..], "cancelled"),
        (&["A01", "A11", "A01"], "in-progress"),
        (&["A05", "A38"], "cancelled"),
        (&["A05", "A01", "A38"], "in-progress"),
        (&["A01", "A05"], "in-progress"),
        (&["A01", "A21"], "onleave"),
        (&["A01", "A21", "A22"], "in-progress"),
        (&["A01", "A21", "A52"], "in-progress"),
        (&["A01", "A03", "A13"], "in-progress"),
        (&["A01", "A03", "A02"], "finished"),
        (&["A14", "A27"], "cancelled"),
        (&["A01", "A23"], "entered-in-error"),
        (&["A01", "A23", "A01"], "entered-in-error"),
        (&["A01", "A08", "A31"], "in-progress"),
        (&["A01", "A02", "A12"], "in-progress"),
    ] {
        let mut silver = Silver::default();
        for (n, trigger) in chain.iter().enumerate() {
            silver.take(&at(trigger, &format!("{:02}00", 8 + n), &jane(VISIT)));
        }
        assert_eq!(silver.get("Encounter.status").as_deref(), Some(status), "{chain:?}");
        assert_eq!(silver.all("Encounter").len(), 1, "{chain:?}");
    }
    let mut silver = Silver::default();
    silver.take(&at("A28", "0800", &jane("")));
    silver.take(&at("A29", "0900", &jane("")));
    check(&silver, &[("Patient.active", Some("false")), ("Patient.name.0.family", Some("DOE"))]);
}

#[test]
fn merges_and_links_are_taken_back() {
    let two = "PID|1||42^^^GENHOSP^MR||DOE^JANE\rPID|2||OLD^^^GENHOSP^MR||DOE^J\r";
    for begin in ["A40", "A24"] {
        let mut silver = Silver::default();
        silver.take(&at("A28", "0700", "PID|1||OLD^^^GENHOSP^MR||DOE^J\r"));
        silver.take(&at("A28", "0700", &jane("")));
        let before: Vec<String> = silver.resources.iter().map(|(_, r)| content_of(r)).collect();
        let text = if begin == "A24" { two.to_owned() } else { jane("MRG|OLD^^^GENHOSP^MR\r") };
        silver.take(&at(begin, "0800", &text));
        let joined: Vec<String> = silver.resources.iter().map(|(_, r)| content_of(r)).collect();
        assert_ne!(before, joined, "{begin}");
        assert_eq!(silver.get("Patient.active").is_some(), begin == "A40");
        silver.take(&at("A37", "0900", two));
        let after: Vec<String> = silver.resources.iter().map(|(_, r)| content_of(r)).collect();
        assert_eq!(before, after, "{begin} and A37");
    }
}

/// Without the times of what was said.
pub(super) fn content_of(resource: &Value) -> String {
    let mut resource = resource.clone();
    if let Some(object) = resource.as_object_mut() {
        object.remove("meta");
    }
    to_string(&resource)
}

#[test]
fn numbers_change_and_accounts_and_visits_merge() {
    let mut silver = Silver::default();
    silver.take(&at("A28", "0800", "PID|1||OLD^^^GENHOSP^MR||DOE^JANE\r"));
    silver.take(&at("A47", "0900", &jane("MRG|OLD^^^GENHOSP^MR\r")));
    assert_eq!(silver.all("Patient").len(), 1);
    check(&silver, &[("Patient.identifier.0.value", Some("42")), ("Patient.identifier.1.value", Some("OLD"))]);

    let account = |number: &str| format!("PID|1||42^^^GENHOSP^MR||DOE^JANE|||||||||||||{number}\r");
    let mut silver = Silver::default();
    silver.take(&at("A28", "0800", &account("ACC1")));
    silver.take(&at("A28", "0800", &account("ACC2")));
    silver.take(&at("A41", "0900", &format!("{}MRG|||ACC1\r", account("ACC2"))));
    assert_eq!(silver.all("Account").len(), 2);
    let survivor = silver.find("Account", "urn:wardmesh:facility:FAC", "ACC2").unwrap();
    check(
        &silver,
        &[
            ("Account[0].status", Some("inactive")),
            ("Account[0].partOf.reference", Some(&survivor)),
            ("Account[1].status", Some("active")),
        ],
    );

    let mut silver = Silver::default();
    silver.take(&at("A01", "0800", &jane("PV1|1|I|||||||||||||||||V1\r")));
    silver.take(&at("A01", "0800", &jane("PV1|1|I|||||||||||||||||V2\r")));
    silver.take(&at("A42", "0900", &jane("MRG|||||V1\rPV1|1|I|||||||||||||||||V2\r")));
    let survivor = silver.find("Encounter", "urn:wardmesh:facility:FAC", "V2").unwrap();
    check(
        &silver,
        &[
            ("Encounter[0].status", Some("entered-in-error")),
            ("Encounter[0].partOf.reference", Some(&survivor)),
            ("Encounter[1].status", Some("in-progress")),
        ],
    );
}

#[test]
fn the_source_has_units_of_its_own_and_its_authority_ends_somewhere() {
    let mut silver = Silver::default();
    silver.take(&oru("OBX|1|NM|A^a^L||5|KRATZ|||||F\rOBX|2|NM|B^b^L||5|kratz|||||F\r"));
    check(
        &silver,
        &[
            ("Observation[0].valueQuantity.code", Some("mmol/L")),
            ("Observation[0].valueQuantity.unit", Some("KRATZ")),
            ("Observation[1].valueQuantity.code", None),
        ],
    );
    let known = fhir::json!({"resourceType": "Patient", "name": [{"family": "ROE"}], "gender": "female"});
    let message = parsed(&adt("A31", "PID|1||42^^^GENHOSP^MR||DOE^JANE||19700301|M\r"));
    let mut draft = mapped_message(&message).units.remove(0).draft;
    draft.keep_to(&["Patient.birthDate".to_owned()]);
    let next = draft.apply(&Key::Identifiers(vec![]), Some(&known), &|_| None).unwrap().unwrap();
    assert_eq!(next.path(&["gender"]), Some(&fhir::json!("female")));
    assert_eq!(next.path(&["name", "0", "family"]), Some(&fhir::json!("ROE")));
    assert_eq!(next.path(&["birthDate"]), Some(&fhir::json!("1970-03-01")));
}

#[test]
fn results_go_from_preliminary_to_corrected_and_never_back() {
    let obx = |value: &str, flag: &str, status: &str| {
        oru(&format!("OBX|1|NM|2345-7^Glucose^LN||{value}|mg/dL|70-105|{flag}|||{status}\rNTE|1||note {value}\r"))
    };
    let mut silver = Silver::default();
    silver.take(&obx("400", "HH", "P"));
    check(
        &silver,
        &[
            ("Observation.status", Some("preliminary")),
            ("Observation.valueQuantity.value", Some("400")),
            ("Observation.valueQuantity.code", Some("mg/dL")),
            ("Observation.valueQuantity.system", Some("http://unitsofmeasure.org")),
            ("Observation.interpretation.0.coding.0.code", Some("HH")),
            ("Observation.referenceRange.0.low.value", Some("70")),
            ("Observation.referenceRange.0.text", Some("70-105")),
            ("Observation.effectiveDateTime", Some("2026-01-01T08:00:00+00:00")),
            ("Observation.issued", Some("2026-01-01T09:00:00+00:00")),
            ("Observation.category.0.coding.0.code", Some("laboratory")),
            ("Observation.code.coding.0.system", Some("http://loinc.org")),
            ("Observation.note.0.text", Some("note 400")),
            ("DiagnosticReport.status", Some("final")),
            ("DiagnosticReport.code.coding.0.code", Some("CHEM")),
            ("DiagnosticReport.identifier.0.value", Some("F1")),
        ],
    );
    silver.take(&obx("95.0", "", "F"));
    silver.take(&obx("400", "HH", "P"));
    check(
        &silver,
        &[
            ("Observation.status", Some("final")),
            ("Observation.valueQuantity.value", Some("95.0")),
            ("Observation.interpretation", None),
            ("Observation.note.1", None),
        ],
    );
    silver.take(&obx("90", "N", "C"));
    check(&silver, &[("Observation.status", Some("corrected")), ("Observation.valueQuantity.value", Some("90"))]);
    silver.take(&obx("", "", "W"));
    check(&silver, &[("Observation.status", Some("entered-in-error"))]);
    assert_eq!(silver.all("Observation").len(), 1);
    assert_eq!(silver.all("DiagnosticReport").len(), 1);
    let reference = silver.get("DiagnosticReport.result.0.reference").unwrap();
    assert!(reference.starts_with("Observation/"));
    assert_eq!(silver.get("DiagnosticReport.result.1"), None);
}

#[test]
fn a_result_makes_a_patient_known_and_changes_none() {
    let mut silver = Silver::default();
    silver.take(&oru("OBX|1|ST|A^a^L||x||||||F\r"));
    check(&silver, &[("Patient.name.0.family", Some("DOE"))]);
    let mut silver = Silver::default();
    silver.take(&adt("A28", "PID|1||42^^^GENHOSP^MR||ROE^RICHARD\r"));
    silver.take(&oru("OBX|1|ST|A^a^L||x||||||F\r"));
    check(&silver, &[("Patient.name.0.family", Some("ROE"))]);
    assert_eq!(silver.get("Observation.subject.reference").as_deref(), Some(silver.resources[0].0.as_str()));
    // Who was made known by a result is whom registration says, though it said so before.
    let mut silver = Silver::default();
    silver.take(&oru("OBX|1|ST|A^a^L||x||||||F\r"));
    silver.take(&at("A28", "0800", "PID|1||42^^^GENHOSP^MR||ROE^RICHARD\r").replace("20260102", "20251231"));
    check(&silver, &[("Patient.name.0.family", Some("ROE"))]);
}

#[test]
fn a_broken_result_is_set_aside_and_the_critical_one_beside_it_arrives() {
    let mapped = mapped(&oru(
        "OBX|1|NM|2345-7^Glucose^LN||4x0|mg/dL||HH|||F\rOBX|2|NM|2823-3^K^LN||7.1|mmol/L||HH|||F\rOBX|3|NM|||5||||||F\r",
    ));
    assert_eq!(codes(&mapped), [("OBX-5", "number-invalid"), ("OBX[3]-3", "code-missing")]);
    let critical: Vec<bool> = mapped.problems.iter().map(|p| p.critical).collect();
    assert_eq!(critical, [true, false]);
    assert!(mapped.problems.iter().all(|p| p.severity == Severity::SetAside && !p.text.contains("4x0")));
    let mut silver = Silver::default();
    silver.apply(&mapped);
    check(
        &silver,
        &[
            ("Observation.valueQuantity.value", Some("7.1")),
            ("Observation[1].status", None),
            ("DiagnosticReport.result.1", None),
        ],
    );
}

#[test]
fn results_without_a_patient_are_kept_without_one() {
    let text = oru("OBX|1|NM|2345-7^Glucose^LN||500|mg/dL||HH|||F\r").replace("42^^^GENHOSP^MR", "");
    let mut silver = Silver::default();
    let mapped = silver.take(&text);
    assert!(codes(&mapped).contains(&("OBX", "patient-missing")));
    check(&silver, &[("Observation.valueQuantity.value", Some("500")), ("Observation.subject", None)]);
}

#[test]
fn every_value_type_and_status() {
    for (obx, path, value) in [
        (
            "NM|c^t^L||>1000|mg/dL",
            "valueQuantity",
            r#"{"value":1000,"comparator":">","unit":"mg/dL","system":"http://unitsofmeasure.org","code":"mg/dL"}"#,
        ),
        ("NM|c^t^L||+007.50|g/l-1", "valueQuantity", r#"{"value":7.50,"unit":"g/l-1"}"#),
        ("NM|c^t^L||60~120|bpm", "valueString", "60~120 bpm"),
        ("NM|c^t^L||TNTC|", "valueString", "TNTC"),
        ("SN|c^t^L||^182|mg/dL", "valueQuantity.value", "182"),
        ("SN|c^t^L||>=^100|", "valueQuantity", r#"{"value":100,"comparator":">="}"#),
        ("SN|c^t^L||^1^:^128|", "valueRatio", r#"{"numerator":{"value":1},"denominator":{"value":128}}"#),
        ("SN|c^t^L||^10^-^20|%", "valueRange.low.value", "10"),
        ("SN|c^t^L||^2^+|", "valueString", "2 +"),
        ("SN|c^t^L||<>^5|mL", "valueString", "<> 5 mL"),
        ("ST|c^t^L||a\\T\\b|", "valueString", "a&b"),
        ("TX|c^t^L||one~two|", "valueString", "one\ntwo"),
        ("FT|c^t^L||one\\.br\\two|", "valueString", "one\ntwo"),
        ("CWE|c^t^L||POS^Positive^L|", "valueCodeableConcept.coding.0.code", "POS"),
        ("CE|c^t^L||A^a^L~B^b^L|", "component.1.valueCodeableConcept.text", "b"),
        ("DT|c^t^L||20260102|", "valueDateTime", "2026-01-02"),
        ("TS|c^t^L||202601021530|", "valueDateTime", "2026-01-02T15:30:00-05:00"),
        ("TM|c^t^L||1530|", "valueTime", "15:30:00"),
        ("NR|c^t^L||1^2|mg", "valueRange.high.value", "2"),
        ("DR|c^t^L||20260101^20260102|", "valuePeriod.end", "2026-01-02"),
        ("ED|c^t^L||APP^AP^PDF^Base64^SGVsbG8=|", "extension.0.valueAttachment.contentType", "application/pdf"),
        ("ED|c^t^L||APP^TEXT^^A^Hello|", "valueString", "Hello"),
        ("RP|c^t^L||https://pacs/1^^IM^JPEG|", "extension.0.valueAttachment.url", "https://pacs/1"),
        ("XPN|c^t^L||DOE^JANE|", "valueString", "DOE^JANE"),
        ("|c^t^L||plain|", "valueString", "plain"),
    ] {
        let mut silver = Silver::default();
        silver.take(&oru(&format!("OBX|1|{obx}|||||F\r")));
        assert_eq!(silver.get(&format!("Observation.{path}")).as_deref(), Some(value), "{obx}");
        is_valid(&silver);
    }
    for (sent, status) in [
        ("S", "preliminary"),
        ("R", "preliminary"),
        ("P", "preliminary"),
        ("V", "final"),
        ("U", "final"),
        ("F", "final"),
        ("I", "registered"),
        ("B", "amended"),
        ("A", "amended"),
        ("N", "cancelled"),
        ("X", "cancelled"),
        ("C", "corrected"),
        ("D", "entered-in-error"),
        ("W", "entered-in-error"),
        ("", "unknown"),
        ("?", "unknown"),
    ] {
        let mut silver = Silver::default();
        silver.take(&oru(&format!("OBX|1|ST|c^t^L||||||||{sent}\r")));
        assert_eq!(silver.get("Observation.status").as_deref(), Some(status), "{sent}");
    }
    assert_eq!(mapped(&oru("OBX|1|ST|c^t^L||x||||||O\r")).units.len(), 2);
    for broken in ["NM|c||5 mg", "SN|c||>^x", "DT|c||20260230", "TM|c||2530", "ED|c||A^AP^PDF^Base64^***", "NR|c||a^b"]
    {
        let problems = mapped(&oru(&format!("OBX|1|{broken}||||||F\r"))).problems;
        assert_eq!((problems.len(), problems[0].severity), (1, Severity::SetAside), "{broken}");
    }
}

#[test]
fn other_messages_wait_for_their_map() {
    let mapped = mapped("MSH|^~\\&|A|B|||20260101||MFN^M01|C1|P|2.5\rMFI|1|2\rPID|1||42\r");
    assert_eq!(mapped.problems.len(), 1);
    let problem = &mapped.problems[0];
    assert_eq!(
        (problem.unit, problem.severity, problem.code),
        (Problem::WHOLE, Severity::SetAside, "message-type-unmapped")
    );
    assert!(mapped.units.is_empty());
    assert_eq!(mapped.fates.iter().filter(|f| f.fate == Fate::Unmapped).count(), 4);
}

#[test]
fn what_cannot_be_read_is_told_and_the_rest_goes_on() {
    let mut silver = Silver::default();
    let told = silver.take(&adt(
        "A08",
        "PID|1||42^^^GENHOSP^MR||DOE^JANE||19701399|Q|||||\rtext that broke off\rPV1|1|I|||||||||||||||||V1\r",
    ));
    assert_eq!(codes(&told), [("PID-7", "time-invalid"), ("PID-8", "code-unknown"), ("line 4", "line-broken")]);
    check(
        &silver,
        &[("Patient.name.0.family", Some("DOE")), ("Patient.birthDate", None), ("Encounter.status", Some("unknown"))],
    );
    let contradictory = mapped("MSH|^~\\&|A|B|||20260101||ADT^A08^ADT_A08|C1|P|2.5\rEVN|A01\rPID|1||42\r");
    assert_eq!(codes(&contradictory), [("EVN-1", "event-contradicts"), ("MSH-9", "structure-contradicts")]);
}

#[track_caller]
fn is_valid(silver: &Silver) {
    for (name, resource) in &silver.resources {
        let errors = fhir::validate::validate(resource)
            .into_iter()
            .filter(|i| matches!(i.severity, fhir::validate::Severity::Error | fhir::validate::Severity::Fatal))
            .map(|i| format!("{}: {}", i.expression, i.text));
        assert_eq!(errors.collect::<Vec<_>>(), Vec::<String>::new(), "{name}");
    }
}

/// Every valued field has exactly one fate, and no fate or problem repeats a value.
#[track_caller]
fn account_is_complete(message: &Message<'_>, mapped: &Mapped) {
    let mut told: HashMap<&str, usize> = HashMap::new();
    for fate in &mapped.fates {
        *told.entry(fate.path.as_str()).or_default() += 1;
    }
    for segment in message.segments().filter(|s| s.is_segment()) {
        for (n, field) in segment.fields() {
            let path = format!("{}-{n}", build::place_of(segment));
            assert_eq!(told.get(path.as_str()).copied().unwrap_or(0), usize::from(!field.is_absent()), "{path}");
        }
    }
    let units: Vec<u32> = mapped.units.iter().map(|u| u.n).collect();
    assert!(units.windows(2).all(|w| w[0] < w[1]), "unit numbers follow the segments");
    for problem in mapped.problems.iter().filter(|p| p.severity == Severity::SetAside) {
        assert!(!units.contains(&problem.unit));
    }
}

pub(crate) fn shared_folder() -> Option<PathBuf> {
    let folder = match std::env::var_os("WARD_SHARED_DATA") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
            own.ancestors().map(|a| a.join("shared/data")).find(|f| f.is_dir())?
        }
    };
    Some(folder.join("hl7v2")).filter(|f| f.is_dir())
}

#[track_caller]
fn check_shared(file: &str, expected: &[(&str, Option<&str>)]) {
    let Some(folder) = shared_folder() else { return };
    let bytes = std::fs::read(folder.join(file)).unwrap();
    let mut silver = Silver::default();
    silver.apply(&mapped_message(&hl7v2::parse(&bytes, &Limits::default()).unwrap()));
    check(&silver, expected);
}

#[test]
fn shared_samples_field_by_field() {
    let people = [
        ("Patient.identifier.0.value", Some("1234567")),
        ("Patient.identifier.1.value", Some("PATID1234")),
        ("Patient.identifier.1.type.coding.0.code", Some("MR")),
        ("Patient.name.0.family", Some("EVERYMAN")),
        ("Patient.name.0.given", Some(r#"["ADAM","A"]"#)),
        ("Patient.name.0.use", Some("usual")),
        ("Patient.name.1.family", Some("Josh")),
        ("Patient.gender", Some("male")),
        ("Patient.birthDate", Some("1988-08-18")),
        ("Patient.address.0.city", Some("Ann Arbor")),
        ("Patient.address.0.postalCode", Some("99999")),
        ("Patient.telecom.0.value", Some("78788788")),
        ("Patient.telecom.0.use", Some("mobile")),
        ("Patient.communication.0.language.coding.2.code", Some("ar")),
        ("Patient.maritalStatus.text", Some("Married")),
        ("Patient.multipleBirthInteger", Some("2")),
        ("Patient.deceasedDateTime", Some("2008-08-25T11:16:30+01:15")),
        ("Encounter.identifier.0.value", Some("40007716")),
        ("Encounter.class.code", Some("PRENC")),
        ("Encounter.participant.0.individual.display", Some("Dr. Mohammed Mahi Alaz JR MD")),
        ("Encounter.period.start", Some("2015-02-08T11:34:19+01:10")),
        ("Encounter.hospitalization.admitSource.text", Some("NHS Provider-General (inc.A&E-this Hosp)")),
        ("Encounter.reasonCode.0.coding.0.code", Some("140004")),
        ("Observation.code.coding.0.code", Some("8867-4")),
        ("Observation.valueString", Some("60~120 beats/min")),
        ("Observation.status", Some("preliminary")),
        ("Observation.effectiveDateTime", Some("1999-07-02")),
    ];
    if shared_folder().is_none() {
        let _ = std::io::Write::write_all(&mut std::io::stderr(), b"skipped: no shared data beside the checkout\n");
        return;
    }
    for (file, status, end) in [
        ("ADT-A01-01.hl7", "in-progress", None),
        ("ADT-A03-01.hl7", "finished", Some("2015-02-09T11:34:19+01:10")),
        ("ADT-A04-01.hl7", "in-progress", None),
        ("ADT-A08-01.hl7", "finished", Some("2015-02-09T11:34:19+01:10")),
        ("ADT-A11-01.hl7", "cancelled", None),
        ("ADT-A13-01.hl7", "in-progress", None),
    ] {
        check_shared(file, &people);
        check_shared(file, &[("Encounter.status", Some(status)), ("Encounter.period.end", end)]);
    }
    check_shared("ADT-A28-01.hl7", &people[..17]);
    check_shared("ADT-A31-01.hl7", &[("Patient.name.0.family", Some("EVERYMAN")), ("Encounter.status", None)]);
    check_shared(
        "ADT01-23.hl7",
        &[
            ("Patient.name.0.family", Some("DUCK")),
            ("Patient.identifier.0.value", Some("10006579")),
            ("Patient.identifier.0.type.coding.0.code", Some("MR")),
            ("Patient.birthDate", Some("1924-10-10")),
            ("Patient.address.0.city", Some("FOWL")),
            ("Encounter.class.code", Some("IMP")),
            ("Encounter.identifier.0.value", Some("40007716")),
            ("Encounter.location.0.location.display", Some("PREOP, room 101, bed 1, 1, building S")),
            ("Encounter.period.start", Some("2005-01-10T04:55:02+07:00")),
        ],
    );
    check_shared(
        "ADT04-23.hl7",
        &[
            ("Patient.identifier.0.value", Some("123456789")),
            ("Patient.telecom.0.value", Some("(555)555-0123")),
            ("Patient.telecom.0.use", Some("home")),
            ("Encounter.class.code", Some("AMB")),
            ("Encounter.identifier.0.value", Some("0123456789")),
        ],
    );
    check_shared(
        "ADT-A40-01.hl7",
        &[
            // The survivor refers to the loser, so it is applied last.
            ("Patient[1].identifier.0.value", Some("12345")),
            ("Patient[0].identifier.0.value", Some("56789")),
            ("Patient[0].active", Some("false")),
            ("Patient[0].link.0.type", Some("replaced-by")),
        ],
    );
    check_shared(
        "ORU-R01-RMGEAD.hl7",
        &[
            ("Patient.identifier.0.value", Some("555-44-4444")),
            ("Patient.name.0.family", Some("EVERYWOMAN")),
            ("DiagnosticReport.identifier.0.value", Some("845439")),
            ("DiagnosticReport.identifier.1.value", Some("1045813")),
            ("DiagnosticReport.effectiveDateTime", Some("2002-02-15T07:30:00+06:00")),
            ("DiagnosticReport.status", Some("final")),
            ("Observation.code.coding.0.code", Some("1554-5")),
            ("Observation.valueQuantity.value", Some("182")),
            ("Observation.valueQuantity.unit", Some("mg/dl")),
            ("Observation.valueQuantity.code", Some("mg/dL")),
            ("Observation.interpretation.0.coding.0.code", Some("H")),
            ("Observation.referenceRange.0.text", Some("70_105")),
            ("Observation.referenceRange.0.low", None),
        ],
    );
    check_shared(
        "LAB-ORU-2.hl7",
        &[
            ("Patient.name.0.family", Some("DUCK")),
            ("DiagnosticReport[0].code.coding.0.code", Some("26464-8")),
            ("DiagnosticReport[1].code.coding.0.code", Some("24317-0")),
            // The sender is one field off in OBR: its status stands in OBR-26, so it is not known.
            ("DiagnosticReport[1].issued", None),
            ("DiagnosticReport[1].status", Some("unknown")),
            ("Observation[0].code.coding.0.code", Some("30180-4")),
            ("Observation[0].valueQuantity.value", Some("0")),
            ("Observation[0].valueQuantity.code", Some("%")),
            ("Observation[5].valueQuantity", Some(r#"{"value":13.4,"unit":"g/l-1"}"#)),
            ("Observation[7].valueQuantity.value", Some("4.08")),
            ("Observation[9].effectiveDateTime", Some("2014-10-06T08:30:00+07:00")),
            ("Observation[10].status", None),
        ],
    );
}

#[test]
fn shared_samples_are_accounted_for() {
    let Some(folder) = shared_folder() else { return };
    // Segment → (mapped, kept, unmapped), over the messages that have a map.
    let mut shares: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    let (mut with_map, mut resources) = (0, 0);
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        let message = hl7v2::parse(&bytes, &Limits::default()).unwrap();
        assert_eq!(message.raw(), bytes);
        let mapped = mapped_message(&message);
        account_is_complete(&message, &mapped);
        if mapped.problems.iter().any(|p| p.code == "message-type-unmapped") {
            continue;
        }
        assert!(
            mapped.problems.iter().all(|p| p.severity == Severity::Tag || p.code == "code-missing"),
            "{}: {:?}",
            file.display(),
            mapped.problems
        );
        with_map += 1;
        let mut silver = Silver::default();
        silver.apply(&mapped);
        is_valid(&silver);
        resources += mapped.units.len();
        for fate in &mapped.fates {
            let share = shares.entry(fate.path[..3].to_owned()).or_default();
            match fate.fate {
                Fate::Mapped(_) => share[0] += 1,
                Fate::Kept(_) => share[1] += 1,
                Fate::Unmapped => share[2] += 1,
            }
        }
    }
    let mut out = format!("{with_map} messages, {resources} resources; valued fields mapped, kept, unmapped:\n");
    for (segment, [mapped, kept, unmapped]) in &shares {
        let total = mapped + kept + unmapped;
        out.push_str(&format!("  {segment} {mapped:4} {kept:4} {unmapped:4}  {:3} %\n", (mapped + kept) * 100 / total));
    }
    let _ = std::io::Write::write_all(&mut std::io::stderr(), out.as_bytes());
    assert!(with_map >= 12);
}

mod any {
    use super::*;
    use proptest::prelude::*;

    const SEGMENT: &str = r"(PID|PV1|PV2|MRG|OBR|ORC|OBX|NTE|PD1|NK1|AL1|DG1|PR1|IN1|RXO|RXE|RXA|TXA|SCH|AIP|SPM|TQ1|PRT|ZZ1|junk)(\|(NM|SN|CE|HH|F|P|42|42\^\^\^H&1\.2&ISO\^MR|\x22\x22|20260101|>5|a~b\^c&d|[A-Za-z0-9^~&\\.-]{0,6}))*";

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn message_is_mapped_and_accounted_for(
            kind in prop::sample::select(vec![
                "ADT^A01", "ADT^A08", "ADT^A03", "ADT^A17", "ADT^A24", "ADT^A40", "ADT^A41", "ADT^A42", "ADT^A45", "ORU^R01",
                "ORM^O01", "OML^O21", "OUL^R22", "MDM^T02", "SIU^S12", "VXU^V04", "RDE^O11", "RDS^O13", "DFT^P03", "BAR^P01",
                "REF^I12", "PPR^PC1",
            ]),
            segments in prop::collection::vec(SEGMENT, 0..12),
        ) {
            let text = format!("MSH|^~\\&|A|B|||2026||{kind}|1|P|2.5\r{}", segments.join("\r"));
            let message = parsed(&text);
            let once = mapped_message(&message);
            account_is_complete(&message, &once);
            let mut silver = Silver::default();
            silver.apply(&once);
            is_valid(&silver);
            let first: Vec<String> = silver.resources.iter().map(|(_, r)| to_string(r)).collect();
            // Said twice is said once: nothing new, nothing changed, where every unit can be found again and no number
            // stands for two patients or two visits.
            let count = |rtype| once.units.iter().filter(|u| u.draft.rtype == rtype).count();
            if count("Patient") <= 1 && count("Encounter") <= 1 && once.units.iter().all(|u| !matches!(&u.key, Key::Identifiers(n) if n.is_empty())) {
                silver.apply(&once);
                let second: Vec<String> = silver.resources.iter().map(|(_, r)| to_string(r)).collect();
                prop_assert_eq!(first, second);
            }
        }
    }
}
