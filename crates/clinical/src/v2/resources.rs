//! What each type of resource needs whatever message makes it: whom it is about and what R4 demands of it; what it is found
//! again by stands in `keys`. A resource without what makes it one is set aside where it would begin.

use std::collections::HashMap;

use fhir::json;
use fhir::json::Value;
use hl7v2::Segment;

use super::build::{Builder, Making, Refusal, place_of};
use super::convert::{coding, fault, leaf};
use super::draft::{Change, Draft, Field, Policy, redirect, resource_reference};
use super::events::{PatientEffect, Subject, VisitEffect};
use super::vocabulary;
use super::{Key, Problem, Severity, Unit, value};

/// A type, the element that says whom it is about, the one that names the visit; whether it is nothing without a patient.
struct About {
    rtype: &'static str,
    subject: &'static str,
    visit: &'static str,
    needs_patient: bool,
}

const fn about(rtype: &'static str, subject: &'static str, visit: &'static str, needs_patient: bool) -> About {
    About { rtype, subject, visit, needs_patient }
}

const ABOUT: &[About] = &[
    about("Encounter", "subject", "", true),
    about("Observation", "subject", "encounter", false),
    about("DiagnosticReport", "subject", "encounter", false),
    about("ServiceRequest", "subject", "encounter", true),
    about("Condition", "subject", "encounter", true),
    about("Procedure", "subject", "encounter", true),
    about("Immunization", "patient", "encounter", true),
    about("MedicationRequest", "subject", "encounter", true),
    about("MedicationDispense", "subject", "context", true),
    about("MedicationAdministration", "subject", "context", true),
    about("AllergyIntolerance", "patient", "encounter", true),
    about("DocumentReference", "subject", "", false),
    about("RelatedPerson", "patient", "", true),
    about("Coverage", "beneficiary", "", true),
    about("ChargeItem", "subject", "context", true),
    about("Specimen", "subject", "", false),
    about("Account", "", "", true),
    about("Appointment", "", "", false),
];

/// The segments that may begin a resource; others only say more of one.
const MAKERS: &[(&str, &[&str])] = &[
    ("Account", &["PID", "MRG"]),
    ("AllergyIntolerance", &["AL1", "IAM"]),
    ("Appointment", &["SCH"]),
    ("ChargeItem", &["FT1"]),
    ("Condition", &["DG1", "PRB"]),
    ("Coverage", &["IN1"]),
    ("DiagnosticReport", &["ORC", "OBR"]),
    ("DocumentReference", &["TXA"]),
    ("Encounter", &["PV1", "MRG"]),
    ("Immunization", &["ORC", "RXA"]),
    ("MedicationAdministration", &["ORC", "RXA"]),
    ("MedicationDispense", &["ORC", "RXD"]),
    ("MedicationRequest", &["ORC", "RXO", "RXE"]),
    ("Observation", &["OBX", "PD1"]),
    ("Patient", &["PID", "MRG"]),
    ("Procedure", &["PR1"]),
    ("RelatedPerson", &["NK1", "GT1"]),
    ("ServiceRequest", &["ORC", "OBR", "RF1"]),
    ("Specimen", &["SPM", "OBR"]),
];

/// Whether a segment may begin a resource of the type.
pub(super) fn begins(rtype: &str, id: &str) -> bool {
    MAKERS.iter().find(|(of, _)| *of == rtype).is_none_or(|(_, makers)| makers.contains(&id))
}

fn about_of(rtype: &str) -> Option<&'static About> {
    ABOUT.iter().find(|about| about.rtype == rtype)
}

impl<'m> Builder<'m> {
    /// Whether a segment may make a resource of this type.
    pub(super) fn admit(
        &self,
        segment: Segment<'m>,
        rtype: &str,
        patient: Option<usize>,
        patient_comes: bool,
    ) -> Result<(), Refusal> {
        let aside = |field, fault| Err(Refusal::SetAside(field, fault, false));
        if !begins(rtype, segment.id()) {
            return Err(Refusal::Kept("what it belongs to is not mapped in this message"));
        }
        if super::lists::says_none(segment) {
            return Err(Refusal::Kept("the list is said to be empty"));
        }
        match (rtype, segment.id()) {
            ("Patient", "MRG") => self.admit_merge(segment),
            ("Patient", _) if self.person_numbers(segment, &[3, 2]).is_empty() => {
                let text = "the patient has no number: PID-3 is empty or null, so no record can be found or made";
                aside(3, fault("patient-unidentified", text))
            }
            ("Patient", _) => Ok(()),
            ("Observation", "OBX") => self.admit_observation(segment),
            ("ServiceRequest", _) if patient.is_none() && self.effect.subject == Subject::Result => {
                Err(Refusal::Kept("a result without a usable patient makes no order known"))
            }
            ("Account", "MRG") if !matches!(self.event.trigger.as_str(), "A35" | "A36" | "A41") => {
                Err(Refusal::Kept("the event merges no account"))
            }
            ("Account", "MRG") if self.event.trigger == "A36" && !segment.field(3).is_value() => {
                Err(Refusal::Kept("the merge names no account"))
            }
            ("Account", "MRG") if !segment.field(3).is_value() => {
                aside(3, fault("merge-without-loser", "a merge that does not say which account ends: MRG-3 is empty"))
            }
            ("Encounter", "MRG") if self.event.trigger != "A42" => Err(Refusal::Kept("the event merges no visit")),
            ("Encounter", "MRG") if !segment.field(5).is_value() => {
                aside(5, fault("merge-without-loser", "a merge that does not say which visit ends: MRG-5 is empty"))
            }
            ("Encounter" | "Account", "MRG") => Ok(()),
            ("Encounter", _) => self.admit_visit(segment, patient),
            ("Account", _) if patient.is_none() => Err(Refusal::Kept("it names no patient that can be used")),
            ("Account", _) if !segment.field(18).is_value() => Err(Refusal::Kept("it names no account")),
            _ if patient.is_none() && !patient_comes && about_of(rtype).is_some_and(|about| about.needs_patient) => {
                let text = "it needs a patient, and the message names none that can be used";
                aside(0, fault("patient-missing", text))
            }
            _ => Ok(()),
        }
    }

    fn admit_visit(&self, segment: Segment<'m>, patient: Option<usize>) -> Result<(), Refusal> {
        if self.effect.visit == VisitEffect::None {
            return Err(Refusal::Kept("the event is about the person, not about a visit"));
        }
        let Some(patient) = patient else {
            let text = "a visit without a usable patient before it";
            return Err(Refusal::SetAside(0, fault("patient-missing", text), false));
        };
        match self.visit_key(segment, self.units[patient].segments[0], self.units[patient].n) {
            Ok(_) => Ok(()),
            // Beside results PV1 is a courtesy: without a number there is nothing to create.
            Err(_) if self.effect.visit == VisitEffect::CreateOnly => {
                Err(Refusal::Kept("it names no visit: PV1-19, PV1-50, PID-18 and PV1-44 are empty"))
            }
            Err(fault) => Err(Refusal::SetAside(19, fault, false)),
        }
    }

    fn admit_observation(&self, segment: Segment<'m>) -> Result<(), Refusal> {
        let critical = super::hooks::is_critical_result(segment);
        if leaf(segment.field(11)).as_deref() == Some("O") {
            return Err(Refusal::Kept("a detail of the order, not a result: OBX-11 is O"));
        }
        let Some(code) = self.context.concept(segment.field(3), super::plan::vocabulary("")) else {
            let text = "the observation does not say what was observed: OBX-3 is empty";
            return Err(Refusal::SetAside(3, fault("code-missing", text), critical));
        };
        let kind = leaf(segment.field(2)).unwrap_or_default();
        let units = value::Units::read(&self.context, segment.field(6));
        match value::read(&self.context, &kind, segment.field(5), &units, &code) {
            Ok(_) => Ok(()),
            Err(fault) => Err(Refusal::SetAside(5, fault, critical)),
        }
    }

    fn admit_merge(&self, segment: Segment<'m>) -> Result<(), Refusal> {
        if self.effect.patient != PatientEffect::Merge {
            return Err(Refusal::Kept("the event merges no patient: the table of events reads what it needs"));
        }
        let losers = self.person_numbers(segment, &[1, 4]);
        let aside = |field, code, text| Err(Refusal::SetAside(field, fault(code, text), false));
        if losers.is_empty() {
            return aside(1, "merge-without-loser", "a merge that does not say which record ends: MRG-1 is empty");
        }
        let Some(survivor) = self.latest("Patient").filter(|at| self.units[*at].segments[0].id() == "PID") else {
            return aside(0, "merge-without-survivor", "a merge without a usable PID before it");
        };
        let own = self.person_numbers(self.units[survivor].segments[0], &[3, 2]);
        if own.iter().any(|number| losers.contains(number)) {
            let text = "a merge of a record with itself: PID-3 and MRG-1 share a number";
            return aside(1, "merge-into-itself", text);
        }
        Ok(())
    }

    /// What a unit is found again by. Puts identifiers of our own into its draft.
    fn key(&mut self, at: usize, counts: &mut HashMap<(Option<u32>, String), u32>) -> Key {
        let key = self.key_of(at);
        // Twice the same in one message are two: told apart by their order.
        let key = match key {
            Key::Within { unit: parent, mut natural } if self.units[at].rtype == "Observation" => {
                let count = counts.entry((Some(parent), natural.clone())).or_default();
                *count += 1;
                if *count > 1 {
                    natural.push_str(&format!("#{count}"));
                }
                Key::Within { unit: parent, natural }
            }
            other => other,
        };
        if let Key::Identifiers(numbers) = &key {
            let old = if self.units[at].segments[0].id() == "MRG" {
                Vec::new()
            } else {
                self.old_numbers(self.units[at].rtype)
            };
            let draft = &mut self.units[at].draft;
            // What it is found by it carries, whether a field says so or not.
            let item = |of: &str, (system, value): &(String, String)| json!({"use": of, "system": (system.as_str()), "value": (value.as_str())});
            let missing = numbers.iter().filter(|number| !carries(draft, number));
            let missing: Vec<Value> =
                missing.map(|n| item(if old.contains(n) { "old" } else { "secondary" }, n)).collect();
            if !old.is_empty() {
                // A number that comes back is old no more.
                let back = numbers.iter().filter(|number| !old.contains(number)).map(|n| item("old", n)).collect();
                draft.push("identifier", Change::Take(back));
            }
            if !missing.is_empty() {
                draft.push("identifier", Change::Add(missing));
            }
        }
        key
    }

    /// A resource that was to be of a patient who did not come: it is set aside.
    fn has_nobody(&mut self, at: usize) -> bool {
        let unit = &self.units[at];
        let needs = about_of(unit.rtype).is_some_and(|about| about.needs_patient);
        if !needs || unit.patient.is_some() {
            return false;
        }
        let (n, place) = (unit.n, place_of(unit.segments[0]));
        self.problems.push(Problem {
            unit: n,
            place,
            code: "patient-missing",
            text: "it needs a patient, and the message names none that can be used".to_owned(),
            severity: Severity::SetAside,
            critical: false,
        });
        true
    }

    /// Subject, visit and what R4 demands, where the message did not say it.
    fn complete(&mut self, at: usize) {
        let unit = &self.units[at];
        let Some(about) = about_of(unit.rtype) else { return };
        let patient = unit.patient.map(|p| self.units[p].n);
        let visit = unit.visit.map(|v| self.units[v].n);
        let place = unit.segments[0];
        let n = unit.n;
        match patient {
            Some(patient) if !about.subject.is_empty() => default(&mut self.units[at].draft, about.subject, patient),
            None if matches!(about.rtype, "Observation" | "DiagnosticReport") => {
                let text = "a result without a usable patient: it is kept without one until a person matches it";
                self.tag(n, place_of(place), "patient-missing", text);
            }
            _ => {}
        }
        if let (Some(visit), false) = (visit, about.visit.is_empty()) {
            default(&mut self.units[at].draft, about.visit, visit);
        }
        if let (Some(visit), "DocumentReference") = (visit, about.rtype) {
            super::rows::append(&mut self.units[at].draft, "context.encounter", resource_reference(visit));
        }
        let draft = &mut self.units[at].draft;
        for (path, value) in demanded(about.rtype) {
            draft.push(path, Change::Default(value));
        }
        match about.rtype {
            "DiagnosticReport" => self.report_code(at),
            "Appointment" => {
                if let Some(patient) = patient {
                    let item = json!({"actor": (resource_reference(patient)), "status": "accepted"});
                    draft.push("participant", Change::Items { field: "PID".into(), values: vec![item] });
                }
                let nobody = json!([{"actor": {"display": "not named by the sender"}, "status": "needs-action"}]);
                draft.push("participant", Change::Default(nobody));
            }
            "AllergyIntolerance" => allergy(draft),
            "Immunization" if !said(draft, "occurrenceDateTime") => {
                draft.push("occurrenceString", Change::Default(Value::from("not told by the sender")));
            }
            _ => {}
        }
    }

    fn report_code(&mut self, at: usize) {
        let unit = &self.units[at];
        let n = unit.n;
        let Some(obr) = segment_of(unit, "OBR") else { return };
        if self.context.concept(obr.field(4), super::plan::vocabulary("")).is_none() {
            let text = "the report does not say which service it is: OBR-4 is empty";
            self.tag(n, format!("{}-4", place_of(obr)), "code-missing", text);
        }
    }
}

/// Elements without which a resource is none, and what is said where the message says nothing.
fn demanded(rtype: &str) -> Vec<(&'static str, Value)> {
    let unnamed = || json!({"text": "not named by the sender"});
    match rtype {
        "Encounter" => {
            vec![("class", coding(vocabulary::NULL_FLAVOR, "UNK", Some("unknown"))), ("status", json!("unknown"))]
        }
        "DiagnosticReport" => vec![("status", json!("unknown")), ("code", unnamed())],
        "ServiceRequest" => vec![("status", json!("unknown")), ("intent", json!("order"))],
        "MedicationRequest" => {
            vec![("status", json!("unknown")), ("intent", json!("order")), ("medicationCodeableConcept", unnamed())]
        }
        "MedicationDispense" => vec![("status", json!("unknown")), ("medicationCodeableConcept", unnamed())],
        "MedicationAdministration" => {
            vec![("status", json!("unknown")), ("medicationCodeableConcept", unnamed())]
        }
        "Immunization" => vec![("status", json!("completed")), ("vaccineCode", unnamed())],
        "Procedure" => vec![("status", json!("completed"))],
        "Coverage" => vec![
            ("status", json!("active")),
            ("payor", json!([{"type": "Organization", "display": "not named by the sender"}])),
        ],
        "Account" => vec![("status", json!("active"))],
        "ChargeItem" => vec![("status", json!("billable")), ("code", unnamed())],
        "DocumentReference" => vec![
            ("status", json!("current")),
            ("content", json!([{"attachment": {"title": "the document itself was not sent"}}])),
        ],
        _ => Vec::new(),
    }
}

const ALLERGY_VERIFICATION: &str = "http://terminology.hl7.org/CodeSystem/allergyintolerance-verification";

/// A reaction needs its manifestation (R4 AllergyIntolerance); an allergy in error has no clinical status (ait-2).
fn allergy(draft: &mut Draft) {
    let unknown = json!([{"extension": [{
        "url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"
    }]}]);
    let mut in_error = false;
    // How sure it is by a code that FHIR does not have: beside the allergy, which must not wait for it.
    let unknown_status = |field: &Field| {
        let Change::Set(value) = &field.change else { return None };
        let codings = value.get("coding").map(Value::items).unwrap_or_default();
        let known = codings.iter().any(|c| c.get("system").and_then(Value::as_str) == Some(ALLERGY_VERIFICATION));
        (field.path == "verificationStatus" && !known).then(|| value.clone())
    };
    if let Some(status) = draft.fields.iter().find_map(unknown_status) {
        draft.fields.retain(|field| unknown_status(field).is_none());
        let item = json!({"url": "urn:wardmesh:hl7v2:IAM-17", "valueCodeableConcept": status});
        draft.push("extension", Change::Items { field: "IAM-17".into(), values: vec![item] });
    }
    for field in &mut draft.fields {
        if let Change::Items { values, .. } = &mut field.change {
            if field.path == "reaction" {
                for reaction in values.iter_mut().filter_map(Value::as_object_mut) {
                    if !reaction.contains_key("manifestation") {
                        reaction.push("manifestation", unknown.clone());
                    }
                }
            }
            in_error |= field.path == "verificationStatus.coding"
                && values.iter().any(|v| v.get("code").and_then(Value::as_str) == Some("entered-in-error"));
        }
    }
    if in_error {
        draft.fields.retain(|field| !field.path.starts_with("clinicalStatus"));
        draft.push("clinicalStatus", Change::Remove);
    }
}

/// Whether the draft says something of this element.
pub(super) fn said(draft: &Draft, path: &str) -> bool {
    draft.fields.iter().any(|field| field.path == path && !matches!(field.change, Change::Default(_)))
}

fn default(draft: &mut Draft, path: &'static str, to: u32) {
    if !said(draft, path) {
        draft.push(path, Change::Set(resource_reference(to)));
    }
}

/// Whether the draft says this identifier.
fn carries(draft: &Draft, (system, value): &(String, String)) -> bool {
    let is = |identifier: &Value| {
        identifier.get("system").and_then(Value::as_str) == Some(system)
            && identifier.get("value").and_then(Value::as_str) == Some(value)
    };
    draft.fields.iter().filter(|field| field.path == "identifier").any(|field| match &field.change {
        Change::Items { values, .. } | Change::Add(values) => values.iter().any(is),
        _ => false,
    })
}

/// The last segment of this id that speaks of the unit.
pub(super) fn segment_of<'m>(unit: &Making<'m>, id: &str) -> Option<Segment<'m>> {
    unit.segments.iter().rev().find(|s| s.id() == id).copied()
}

/// Type, parent unit, and number or natural key.
type Name = (&'static str, Option<u32>, String, String);

/// The units of the message, each with what it is found by. A message that speaks twice of one resource says it all of
/// that one: the later draft follows the earlier.
pub(super) fn finish(builder: &mut Builder<'_>) -> Vec<Unit> {
    let mut order: Vec<usize> = (0..builder.units.len()).collect();
    order.sort_by_key(|at| builder.units[*at].n);
    // What stood before its PID is about it.
    let person = builder.units.iter().position(|u| u.rtype == "Patient");
    for unit in builder.units.iter_mut().filter(|u| u.patient.is_none() && u.rtype != "Patient") {
        unit.patient = person;
    }
    let mut counts = HashMap::new();
    let mut named: HashMap<Name, usize> = HashMap::new();
    let mut same: HashMap<u32, u32> = HashMap::new();
    let mut units: Vec<Unit> = Vec::with_capacity(order.len());
    for at in order {
        if builder.has_nobody(at) {
            continue;
        }
        builder.complete(at);
        let mut key = builder.key(at, &mut counts);
        if let Key::Within { unit, .. } = &mut key
            && let Some(first) = same.get(unit)
        {
            *unit = *first;
        }
        let making = &mut builder.units[at];
        let mut draft = std::mem::replace(&mut making.draft, Draft::new(making.rtype, Policy::CreateOnly));
        if super::lists::is_unchanged(making.segments[0]) {
            draft.policy = Policy::CreateOnly;
        }
        let names: Vec<Name> = match &key {
            Key::Identifiers(numbers) => {
                numbers.iter().map(|(s, v)| (making.rtype, None, s.clone(), v.clone())).collect()
            }
            Key::Within { unit, natural } => vec![(making.rtype, Some(*unit), String::new(), natural.clone())],
        };
        if let Some(at) = names.iter().find_map(|name| named.get(name)).copied() {
            let first: &mut Unit = &mut units[at];
            same.insert(making.n, first.n);
            first.draft.follow(draft);
            continue;
        }
        named.extend(names.into_iter().map(|name| (name, units.len())));
        units.push(Unit { n: making.n, place: place_of(making.segments[0]), key, draft });
    }
    if !same.is_empty() {
        for unit in &mut units {
            unit.draft.fields.iter_mut().for_each(|field: &mut Field| redirect(field, &same));
        }
    }
    for unit in &mut units {
        // What is only made known is said with no authority: whatever an authority says of it, be it older, counts.
        unit.draft.clock = match unit.draft.policy {
            Policy::CreateOnly => Some(base::Timestamp(0)),
            Policy::CreateOrUpdate => builder.event.clock,
        };
        unit.draft.keep_to(builder.context.sender.authority);
    }
    units
}
