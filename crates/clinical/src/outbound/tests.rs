//! There and back: what the shared samples become in FHIR, told in messages of ours, becomes the same again. Skipped, with
//! a word, where the data is not at hand.

use std::collections::BTreeSet;

use base::Limits;
use fhir::json::{Value, to_string};

use super::er7::Segment;
use super::types::{Assigners, field_of, is_internal, list, str_at};
use super::*;
use crate::v2::preview;
use crate::v2::tests::{mapped_message, shared_folder};

/// What a message becomes.
fn resources(message: &[u8]) -> Vec<(String, Value)> {
    let message = hl7v2::parse(message, &Limits::default()).unwrap();
    preview(&mapped_message(&message))
}

fn of_type<'a>(all: &'a [(String, Value)], rtype: &str) -> Vec<(&'a str, &'a Value)> {
    all.iter()
        .filter(|(_, value)| str_at(value, &["resourceType"]) == rtype)
        .map(|(name, value)| (name.as_str(), value))
        .collect()
}

fn message(kind: &str, segments: &[Segment]) -> Vec<u8> {
    let mut msh = Segment::new("MSH");
    msh.set(2, "^~\\&").set(3, "WARDMESH").set(4, "ehr").set(7, "20260101120000-0500").set(9, kind);
    msh.set(10, "1").set(11, "P").set(12, VERSION).set(18, "UNICODE UTF-8");
    let mut text = msh.written();
    if let Some(trigger) = kind.strip_prefix("ADT^").and_then(|rest| rest.get(..3)) {
        text.push_str(&format!("EVN|{trigger}|20260101120000-0500\r"));
    }
    segments.iter().for_each(|segment| text.push_str(&segment.written()));
    text.into_bytes()
}

/// Elements of a resource that say something clinical or who it is about, one a line; without ids, stamps and what only
/// finds it again.
fn said(value: &Value, elements: &[&str]) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for element in elements {
        match value.get(element) {
            Some(Value::Array(items)) => {
                // Roles and participations have segments of their own, which we do not write.
                let is_told = |item: &&Value| {
                    !is_internal(item) && !matches!(field_of(item).get(..3), Some("ROL" | "PRT" | "ORC" | "OBR"))
                };
                let told = items.iter().filter(is_told);
                out.extend(told.map(|item| format!("{element} {}", plain(item))));
            }
            Some(one) => drop(out.insert(format!("{element} {}", plain(one)))),
            None => {}
        }
    }
    out
}

fn str_at_object(object: &fhir::json::Object) -> &str {
    object.get("system").and_then(Value::as_str).unwrap_or_default()
}

/// Without the ids of elements, which name the field that they came from.
fn plain(value: &Value) -> String {
    fn strip(value: &mut Value) {
        if let Some(object) = value.as_object_mut() {
            object.remove("id");
            object.remove("reference");
            // Whether a place is taken is for the event to say.
            object.remove("status");
            // A place is named within the sender.
            // The sender's word for a unit gives way to its code.
            if object.contains_key("code") && object.contains_key("unit") {
                object.remove("unit");
            }
            if str_at_object(object).starts_with("urn:wardmesh:place:") {
                object.remove("system");
            }
            for (_, value) in object.iter_mut() {
                strip(value);
            }
        }
        if let Some(items) = value.as_array_mut() {
            items.iter_mut().for_each(strip);
        }
    }
    let mut value = value.clone();
    strip(&mut value);
    to_string(&value)
}

/// How many elements are the same; the others are told in `wrong`.
fn same(wrong: &mut Vec<String>, file: &str, (before, after): (&Value, &Value), elements: &[&str]) -> usize {
    let (before, after) = (said(before, elements), said(after, elements));
    let tell = |what: &str, told: &String| format!("{file} {what} {told}");
    wrong.extend(before.difference(&after).map(|told| tell("lost", told)));
    wrong.extend(after.difference(&before).map(|told| tell("new", told)));
    before.intersection(&after).count()
}

const PATIENT: &[&str] = &[
    "identifier",
    "name",
    "gender",
    "birthDate",
    "address",
    "telecom",
    "maritalStatus",
    "deceasedDateTime",
    "deceasedBoolean",
    "multipleBirthInteger",
    "communication",
];
const ENCOUNTER: &[&str] = &[
    "class",
    "identifier",
    "period",
    "location",
    "participant",
    "serviceType",
    "hospitalization",
    "type",
    "reasonCode",
];
const REPORT: &[&str] = &["identifier", "code", "status", "effectiveDateTime", "effectivePeriod", "issued"];
const OBSERVATION: &[&str] = &[
    "code",
    "status",
    "effectiveDateTime",
    "valueQuantity",
    "valueString",
    "valueCodeableConcept",
    "valueDateTime",
    "valueTime",
    "valueRange",
    "valueRatio",
    "valuePeriod",
    "component",
    "interpretation",
    "referenceRange",
    "method",
    "device",
];
const IMMUNIZATION: &[&str] = &[
    "identifier",
    "vaccineCode",
    "status",
    "occurrenceDateTime",
    "doseQuantity",
    "lotNumber",
    "expirationDate",
    "manufacturer",
    "route",
    "site",
    "performer",
    "statusReason",
    "reasonCode",
    "primarySource",
    "reportOrigin",
];

/// A number that its owner has no more is not told.
fn without_old_numbers(patient: &Value) -> Value {
    let mut told = patient.clone();
    if let Some(numbers) = told.get_mut("identifier").and_then(Value::as_array_mut) {
        numbers.retain(|number| str_at(number, &["use"]) != "old");
    }
    told
}

#[test]
fn the_samples_come_back_the_same() {
    let Some(folder) = shared_folder() else {
        let _ = std::io::Write::write_all(&mut std::io::stderr(), b"skipped: no shared data beside the checkout\n");
        return;
    };
    let none = Assigners::new();
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let (mut counts, mut wrong) = ([0; 5], Vec::new());
    for path in files {
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let made = resources(&std::fs::read(&path).unwrap());
        let Some((_, patient)) = of_type(&made, "Patient").into_iter().find(|(_, p)| p.get("name").is_some()) else {
            continue;
        };
        let patient = &without_old_numbers(patient);
        let person = || vec![patient::pid(patient, "ehr", &none)];
        let mut adt = person();
        adt.extend(patient::pd1(patient, &none));
        let visit = of_type(&made, "Encounter").into_iter().next();
        if let Some((_, visit)) = visit {
            adt[0].set(18, visit::account(visit, &none));
            adt.push(visit::pv1(visit, "ehr", &none));
            adt.extend(visit::pv2(visit, &none));
        }
        let again = resources(&message("ADT^A08^ADT_A01", &adt));
        let (_, back) = of_type(&again, "Patient")[0];
        counts[0] += same(&mut wrong, &file, (patient, back), PATIENT);
        if let Some((_, visit)) = visit {
            let (_, back) = of_type(&again, "Encounter")[0];
            counts[1] += same(&mut wrong, &file, (visit, back), ENCOUNTER);
        }
        for (_, report) in of_type(&made, "DiagnosticReport") {
            let mut oru = person();
            oru.push(result::obr(1, report, "ehr", &none));
            let mut results = Vec::new();
            for listed in list(report, "result") {
                let reference = str_at(listed, &["reference"]);
                let Some((_, told)) = made.iter().find(|(name, _)| name == reference) else { continue };
                results.push(told);
                let segments = result::obx(oru.len() - 1, told, &none);
                oru.extend(segments);
            }
            let bytes = message("ORU^R01^ORU_R01", &oru);
            let again = resources(&bytes);
            let (_, back) = of_type(&again, "DiagnosticReport")[0];
            counts[2] += same(&mut wrong, &file, (report, back), REPORT);
            let observations = of_type(&again, "Observation");
            assert_eq!(
                observations.len(),
                results.len(),
                "{file}\n{}",
                String::from_utf8_lossy(&bytes).replace('\r', "\n")
            );
            for (told, (_, back)) in results.into_iter().zip(observations) {
                counts[3] += same(&mut wrong, &file, (told, back), OBSERVATION);
            }
        }
        for (_, told) in of_type(&made, "Immunization") {
            let mut vxu = person();
            vxu.extend(vaccine::segments(told, true, "ehr", &none));
            let again = resources(&message("VXU^V04^VXU_V04", &vxu));
            let (_, back) = of_type(&again, "Immunization")[0];
            counts[4] += same(&mut wrong, &file, (told, back), IMMUNIZATION);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(counts.iter().all(|n| *n > 0), "{counts:?}");
}
