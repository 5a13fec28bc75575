//! PID, PD1 and MRG of a Patient.

use fhir::json::Value;

use super::er7::{Segment, repetitions, text};
use super::types::{
    Assigners, FIELD, coding, cwe, cx, extension, field_of, is_internal, list, str_at, time, xad, xcn, xon, xpn, xtn,
};
use crate::v2::back;

const MAIDEN_NAME: &str = "http://hl7.org/fhir/StructureDefinition/patient-mothersMaidenName";
const RELIGION: &str = "http://hl7.org/fhir/StructureDefinition/patient-religion";
const BIRTH_PLACE: &str = "http://hl7.org/fhir/StructureDefinition/patient-birthPlace";
const BIRTH_TIME: &str = "http://hl7.org/fhir/StructureDefinition/patient-birthTime";
const CITIZENSHIP: &str = "http://hl7.org/fhir/StructureDefinition/patient-citizenship";
const NATIONALITY: &str = "http://hl7.org/fhir/StructureDefinition/patient-nationality";
const CONGREGATION: &str = "http://hl7.org/fhir/StructureDefinition/patient-congregation";
const RACE: &str = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-race";
const ETHNICITY: &str = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-ethnicity";

/// What a resource without a number of its own is called: its id, by the domain.
fn own_number(resource: &Value, domain: &str, kind: &str) -> String {
    format!("{}^^^{}^{kind}", text(str_at(resource, &["id"])), text(domain))
}

fn of_field<'a>(items: &'a [Value], field: &'a str) -> impl Iterator<Item = &'a Value> {
    items.iter().filter(move |item| field_of(item) == field)
}

/// The extension of this URL.
fn extended<'a>(resource: &'a Value, url: &str) -> Option<&'a Value> {
    list(resource, "extension").iter().find(|extension| str_at(extension, &["url"]) == url)
}

/// Our own extensions of a segment, back where they came from.
pub fn put_back(segment: &mut Segment, resource: &Value, assigners: &Assigners) {
    let prefix = format!("{FIELD}{}-", segment.id());
    let mut fields: Vec<(usize, Vec<String>)> = Vec::new();
    for told in list(resource, "extension") {
        let Some(field) = str_at(told, &["url"]).strip_prefix(&prefix).and_then(|n| n.parse().ok()) else { continue };
        let value = extension(told, assigners);
        match fields.iter_mut().find(|(known, _)| *known == field) {
            Some((_, values)) => values.push(value),
            None => fields.push((field, vec![value])),
        }
    }
    for (field, values) in fields {
        segment.set(field, repetitions(values));
    }
}

/// Identifiers that PID-3 or MRG-1 names: those of the person, or its id where there is none.
pub fn numbers(patient: &Value, domain: &str, assigners: &Assigners) -> String {
    let own = list(patient, "identifier").iter().filter(|identifier| {
        !matches!(field_of(identifier), "PID-2" | "PID-4" | "PID-18" | "PID-19" | "PID-20") && !is_internal(identifier)
    });
    let numbers = repetitions(own.map(|identifier| cx(identifier, assigners)));
    if !numbers.is_empty() {
        return numbers;
    }
    let any = repetitions(list(patient, "identifier").iter().map(|identifier| cx(identifier, assigners)));
    if any.is_empty() { own_number(patient, domain, "PI") } else { any }
}

pub fn pid(patient: &Value, domain: &str, assigners: &Assigners) -> Segment {
    let mut pid = Segment::new("PID");
    let identifiers = list(patient, "identifier");
    pid.set(1, "1").set(3, numbers(patient, domain, assigners));
    for (field, id) in [(2, "PID-2"), (4, "PID-4")] {
        pid.set(field, repetitions(of_field(identifiers, id).map(|identifier| cx(identifier, assigners))));
    }
    for (field, id) in [(19, "PID-19"), (20, "PID-20")] {
        let told = of_field(identifiers, id).next();
        pid.set(field, told.map(|identifier| licence_or_number(identifier, field)).unwrap_or_default());
    }
    let names = list(patient, "name");
    let is_other = |name: &&Value| field_of(name) == "PID-9";
    pid.set(5, repetitions(names.iter().filter(|name| !is_other(name)).map(xpn)));
    pid.set(9, repetitions(names.iter().filter(is_other).map(xpn)));
    pid.set(6, extended(patient, MAIDEN_NAME).map(|told| text(str_at(told, &["valueString"]))).unwrap_or_default());
    pid.set(7, birth(patient)).set(8, back::sex(str_at(patient, &["gender"])));
    pid.set(10, group(patient, RACE)).set(22, group(patient, ETHNICITY));
    pid.set(11, repetitions(list(patient, "address").iter().map(xad)));
    let points = list(patient, "telecom");
    let is_work = |point: &&Value| match field_of(point) {
        "" => str_at(point, &["use"]) == "work",
        id => id == "PID-14",
    };
    pid.set(13, repetitions(points.iter().filter(|point| !is_work(point)).map(xtn)));
    pid.set(14, repetitions(points.iter().filter(is_work).map(xtn)));
    pid.set(
        15,
        list(patient, "communication").first().and_then(|told| told.get("language")).map(language).unwrap_or_default(),
    );
    pid.set(16, patient.get("maritalStatus").map(cwe).unwrap_or_default());
    let concept = |url| extended(patient, url).and_then(|told| told.get("valueCodeableConcept")).map(cwe);
    pid.set(17, concept(RELIGION).unwrap_or_default());
    let place = extended(patient, BIRTH_PLACE).map(|told| text(str_at(told, &["valueAddress", "text"])));
    pid.set(23, place.unwrap_or_default());
    match patient.get("multipleBirthInteger").and_then(Value::as_i64) {
        Some(order) => pid.set(24, "Y").set(25, order.to_string()),
        None => pid.set(24, yes_no(patient.get("multipleBirthBoolean"))),
    };
    for (field, url, id) in [(26, CITIZENSHIP, "PID-26"), (28, NATIONALITY, "PID-28")] {
        let all = list(patient, "extension")
            .iter()
            .filter(|told| str_at(told, &["url"]) == url && ["", id].contains(&field_of(told)));
        let codes = all.flat_map(|told| list(told, "extension")).filter(|part| str_at(part, &["url"]) == "code");
        pid.set(field, repetitions(codes.filter_map(|part| part.get("valueCodeableConcept")).map(cwe)));
    }
    pid.set(29, time(str_at(patient, &["deceasedDateTime"])));
    pid.set(30, if pid.is_set(29) { "Y" } else { yes_no(patient.get("deceasedBoolean")) });
    put_back(&mut pid, patient, assigners);
    pid
}

fn yes_no(value: Option<&Value>) -> &'static str {
    match value.and_then(Value::as_bool) {
        Some(true) => "Y",
        Some(false) => "N",
        None => "",
    }
}

/// PID-19 is the bare number; PID-20 adds the state and the last day.
fn licence_or_number(identifier: &Value, field: usize) -> String {
    let value = text(str_at(identifier, &["value"]));
    if field == 19 {
        return value;
    }
    let state = str_at(identifier, &["system"]).strip_prefix("urn:wardmesh:assigner:dl:").and_then(back::name);
    let until = time(str_at(identifier, &["period", "end"]));
    super::er7::components([value, text(&state.unwrap_or_default()), until])
}

/// With the time of day, where it is known.
fn birth(patient: &Value) -> String {
    let exact = patient.get("_birthDate").and_then(|told| extended(told, BIRTH_TIME));
    match exact.map(|told| str_at(told, &["valueDateTime"])).unwrap_or_default() {
        "" => time(str_at(patient, &["birthDate"])),
        moment => time(moment),
    }
}

/// Race or ethnicity: a code for each OMB category, else the text.
fn group(patient: &Value, url: &str) -> String {
    let parts = extended(patient, url).map(|told| list(told, "extension")).unwrap_or_default();
    let codes = repetitions(parts.iter().filter_map(|part| part.get("valueCoding")).map(coding));
    if !codes.is_empty() {
        return codes;
    }
    let told = parts.iter().find(|part| str_at(part, &["url"]) == "text");
    told.map(|part| super::er7::components([String::new(), text(str_at(part, &["valueString"]))])).unwrap_or_default()
}

/// The codes as they were sent: the tag that was added on the way in is left out.
fn language(concept: &Value) -> String {
    let mut concept = concept.clone();
    if let Some(codings) = concept.get_mut("coding").and_then(Value::as_array_mut)
        && codings.len() > 1
    {
        codings.retain(|coding| str_at(coding, &["system"]) != "urn:ietf:bcp:47");
    }
    cwe(&concept)
}

/// PD1, where it says anything.
pub fn pd1(patient: &Value, assigners: &Assigners) -> Option<Segment> {
    let mut pd1 = Segment::new("PD1");
    let carers = list(patient, "generalPractitioner");
    let is = |told: &Value, rtype: &str| {
        str_at(told, &["type"]) == rtype && matches!(field_of(told), "" | "PD1-3" | "PD1-4")
    };
    pd1.set(3, repetitions(carers.iter().filter(|told| is(told, "Organization")).map(|told| xon(told, assigners))));
    pd1.set(4, repetitions(carers.iter().filter(|told| is(told, "Practitioner")).map(|told| xcn(told, assigners))));
    pd1.set(12, if is_restricted(patient) { "Y" } else { "" });
    pd1.set(14, extended(patient, CONGREGATION).map(|told| text(str_at(told, &["valueString"]))).unwrap_or_default());
    put_back(&mut pd1, patient, assigners);
    (pd1.written() != "PD1\r").then_some(pd1)
}

/// Labelled for those only who may see restricted records.
pub fn is_restricted(resource: &Value) -> bool {
    let labels = resource.get("meta").map(|meta| list(meta, "security")).unwrap_or_default();
    labels.iter().any(|label| matches!(str_at(label, &["code"]), "R" | "V"))
}

/// MRG: the numbers of the record that is part of another now.
pub fn mrg(loser: &Value, domain: &str, assigners: &Assigners) -> Segment {
    let mut mrg = Segment::new("MRG");
    mrg.set(1, numbers(loser, domain, assigners));
    mrg.set(7, repetitions(list(loser, "name").iter().take(1).map(xpn)));
    mrg
}
