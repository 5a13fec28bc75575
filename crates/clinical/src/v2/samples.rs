//! The shared samples, each in a fresh domain: what the messages say of names, identifiers, visits, observations, orders,
//! allergies, diagnoses, immunizations, medications, documents and appointments is asked of the resources, field by field.
//! The questions are put from the raw text, not by the tables. Skipped, with a word, where the data is not at hand.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base::Limits;
use fhir::json::{Value, to_string};
use hl7v2::Message;
use hl7v2::time::{DateTime, Offset};

use super::tests::{mapped_message, shared_folder};
use super::*;

struct Sample {
    file: String,
    bytes: Vec<u8>,
}

fn samples() -> Vec<Sample> {
    let Some(folder) = shared_folder() else {
        let _ = std::io::Write::write_all(&mut std::io::stderr(), b"skipped: no shared data beside the checkout\n");
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    files
        .into_iter()
        .map(|file| Sample {
            bytes: std::fs::read(&file).unwrap(),
            file: file.file_name().unwrap().to_string_lossy().into_owned(),
        })
        .collect()
}

/// One message and what it became.
struct Case<'a> {
    file: &'a str,
    message: &'a Message<'a>,
    made: Vec<(String, Value)>,
}

impl Case<'_> {
    fn all(&self, rtype: &str) -> Vec<&Value> {
        let is = |v: &&Value| v.get("resourceType").and_then(Value::as_str) == Some(rtype);
        self.made.iter().map(|(_, v)| v).filter(is).collect()
    }

    /// `PID-5.1` of the nth segment of that id.
    fn said(&self, id: &str, nth: u32, place: &str) -> Option<String> {
        let path = format!("{id}[{nth}]-{place}").replace("[1]", "");
        self.message.get(&path).map(|t| t.trim().to_owned()).filter(|t| !t.is_empty())
    }

    fn count(&self, id: &str) -> u32 {
        u32::try_from(self.message.segments_named(id).count()).unwrap()
    }

    /// Some resource of the type has the text at some place that the path leads to; lists are looked through.
    #[track_caller]
    fn has(&self, rtype: &str, path: &str, text: &str) {
        let all = self.all(rtype);
        let found = all.iter().any(|r| texts(r, path).iter().any(|t| t == text));
        let seen: Vec<Vec<String>> = all.iter().map(|r| texts(r, path)).collect();
        assert!(found, "{}: no {rtype}.{path} is `{text}`, but {seen:?}", self.file);
    }
}

/// All texts at a path; every list is looked through.
fn texts(value: &Value, path: &str) -> Vec<String> {
    let mut at = vec![value];
    for step in path.split('.') {
        let mut next = Vec::new();
        for value in at {
            for item in flat(value) {
                next.extend(item.get(step));
            }
        }
        at = next;
    }
    at.into_iter().flat_map(flat).map(|v| v.as_str().map_or_else(|| to_string(v), str::to_owned)).collect()
}

fn flat(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(list) => list.iter().flat_map(flat).collect(),
        other => vec![other],
    }
}

fn each(mut question: impl FnMut(&Case<'_>)) {
    for sample in samples() {
        let message = hl7v2::parse(&sample.bytes, &Limits::default()).unwrap();
        let mapped = mapped_message(&message);
        let case = Case { file: &sample.file, message: &message, made: preview(&mapped) };
        question(&case);
    }
}

fn moment(sent: &str) -> Option<String> {
    DateTime::parse(sent).ok().map(|t| t.to_date_time(Offset::from_minutes(-300)))
}

#[test]
fn names_and_identifiers() {
    let mut asked = 0;
    each(|case| {
        for n in 1..=case.count("PID") {
            for rep in 1..=4 {
                let part = |c: &str| case.said("PID", n, &format!("5({rep}).{c}"));
                for (place, path) in
                    [("1.1", "name.family"), ("2", "name.given"), ("3", "name.given"), ("5", "name.prefix")]
                {
                    if let (Some(text), true) = (part(place), part("1.1").or(part("2")).is_some()) {
                        case.has("Patient", path, &text);
                        asked += 1;
                    }
                }
                for field in [2, 3, 4] {
                    if let Some(number) = case.said("PID", n, &format!("{field}({rep}).1")) {
                        case.has("Patient", "identifier.value", &number);
                        asked += 1;
                    }
                }
            }
            for (place, path) in [
                ("19", "identifier.value"),
                ("20.1", "identifier.value"),
                ("11.3", "address.city"),
                ("11.5", "address.postalCode"),
            ] {
                if let Some(text) = case.said("PID", n, place) {
                    case.has("Patient", path, &text);
                    asked += 1;
                }
            }
            if let Some(sex) = case.said("PID", n, "8") {
                let meant = match sex.as_str() {
                    "F" => "female",
                    "M" => "male",
                    "U" => "unknown",
                    _ => "other",
                };
                case.has("Patient", "gender", meant);
                asked += 1;
            }
            if let Some(born) = case.said("PID", n, "7").and_then(|t| DateTime::parse(&t).ok()) {
                case.has("Patient", "birthDate", &born.to_date());
                asked += 1;
            }
        }
    });
    assert!(asked > 900 || asked == 0, "{asked} questions were asked");
}

#[test]
fn visits() {
    let mut asked = 0;
    each(|case| {
        let event = events::effect(&case.message.info().code, &case.message.info().trigger).unwrap();
        if event.visit == events::VisitEffect::None || case.count("PV1") == 0 {
            assert!(case.all("Encounter").is_empty(), "{}", case.file);
            return;
        }
        for n in 1..=case.count("PV1") {
            if case.all("Encounter").is_empty() {
                // It names no visit, nor does PID.
                assert_eq!(case.said("PV1", n, "19.1").or(case.said("PV1", n, "44")), None, "{}", case.file);
                continue;
            }
            for (place, path) in [
                ("19.1", "identifier.value"),
                ("50.1", "identifier.value"),
                ("5.1", "hospitalization.preAdmissionIdentifier.value"),
                ("7.1", "participant.individual.identifier.value"),
                ("8.1", "participant.individual.identifier.value"),
                ("9.1", "participant.individual.identifier.value"),
                ("17.1", "participant.individual.identifier.value"),
                ("54.1", "episodeOfCare.identifier.value"),
            ] {
                if let Some(text) = case.said("PV1", n, place) {
                    case.has("Encounter", path, &text);
                    asked += 1;
                }
            }
            for (place, path) in [("44", "period.start"), ("45", "period.end")] {
                let kept = case.message.info().trigger != "A13" || place == "44";
                if let (Some(time), true) = (case.said("PV1", n, place).and_then(|t| moment(&t)), kept) {
                    case.has("Encounter", path, &time);
                    asked += 1;
                }
            }
            if let Some(care) = case.said("PV1", n, "3.1.1") {
                let shown = texts(case.all("Encounter")[0], "location.location.display");
                let any = case
                    .all("Encounter")
                    .iter()
                    .any(|e| texts(e, "location.location.display").iter().any(|d| d.starts_with(&care)));
                assert!(any, "{}: {care} in {shown:?}", case.file);
                asked += 1;
            }
        }
    });
    assert!(asked > 250 || asked == 0, "{asked} questions were asked");
}

#[test]
fn the_status_of_a_visit_is_the_events() {
    let expected = BTreeMap::from([
        ("A01", "in-progress"),
        ("A02", "in-progress"),
        ("A03", "finished"),
        ("A04", "in-progress"),
        ("A05", "planned"),
        ("A06", "in-progress"),
        ("A07", "in-progress"),
        ("A11", "cancelled"),
        ("A13", "in-progress"),
        ("A14", "planned"),
        ("A27", "cancelled"),
    ]);
    each(|case| {
        let info = case.message.info();
        if let (true, Some(status)) = (info.code == "ADT", expected.get(info.trigger.as_str())) {
            let ended = *status == "in-progress" && info.trigger != "A13" && case.said("PV1", 1, "45").is_some();
            case.has("Encounter", "status", if ended { "finished" } else { status });
        }
    });
}

#[test]
fn observations() {
    let statuses = BTreeMap::from([
        ("F", "final"),
        ("P", "preliminary"),
        ("C", "corrected"),
        ("S", "preliminary"),
        ("R", "preliminary"),
        ("I", "registered"),
        ("X", "cancelled"),
        ("N", "cancelled"),
        ("U", "final"),
        ("V", "final"),
        ("W", "entered-in-error"),
        ("D", "entered-in-error"),
        ("A", "amended"),
        ("B", "amended"),
    ]);
    let mut asked = 0;
    each(|case| {
        if case.message.info().code == "MDM" {
            return;
        }
        let mut wanted = 0;
        for n in 1..=case.count("OBX") {
            let said = |place: &str| case.said("OBX", n, place);
            let status = said("11").unwrap_or_default();
            let Some(code) = said("3.1").or(said("3.2")) else { continue };
            if status == "O" {
                continue;
            }
            wanted += 1;
            if said("3.1").is_some() {
                case.has("Observation", "code.coding.code", &code);
            }
            let of_code: Vec<&Value> = case
                .all("Observation")
                .into_iter()
                .filter(|o| texts(o, "code.coding.code").contains(&code) || texts(o, "code.text").contains(&code))
                .collect();
            let any = |path: &str, text: &str| of_code.iter().any(|o| texts(o, path).iter().any(|t| t == text));
            let known = statuses.get(status.as_str()).copied().unwrap_or("unknown");
            assert!(any("status", known), "{} OBX {n}: {known}", case.file);
            asked += 1;
            let value = case.message.get(&format!("OBX[{n}]-5").replace("[1]", "")).unwrap_or_default().into_owned();
            match said("2").unwrap_or_default().as_str() {
                "NM" if !value.contains('~') && value::number(value.trim()).is_some() => {
                    let number = value::number(value.trim()).unwrap();
                    assert!(any("valueQuantity.value", number.as_str()), "{} OBX {n}", case.file);
                    if let Some(unit) = said("6.1").or(said("6.2")) {
                        assert!(any("valueQuantity.unit", &unit), "{} OBX {n}: {unit}", case.file);
                    }
                    asked += 2;
                }
                "CE" | "CWE" => {
                    if let Some(code) = said("5.1") {
                        let there = any("valueCodeableConcept.coding.code", &code)
                            || any("component.valueCodeableConcept.coding.code", &code);
                        assert!(there, "{} OBX {n}: {code}", case.file);
                        asked += 1;
                    }
                }
                "ST" | "TX" | "FT" if !value.is_empty() => {
                    let lines: Vec<&str> = value.split('~').map(str::trim_end).filter(|l| !l.is_empty()).collect();
                    let first = lines.first().copied().unwrap_or_default().trim();
                    let there = of_code
                        .iter()
                        .any(|o| texts(o, "valueString").iter().any(|t| t.trim_start().starts_with(first)));
                    assert!(there, "{} OBX {n}", case.file);
                    asked += 1;
                }
                _ => {}
            }
            if let Some(time) = said("14").and_then(|t| moment(&t)) {
                assert!(any("effectiveDateTime", &time), "{} OBX {n}: {time}", case.file);
                asked += 1;
            }
            if let Some(range) = said("7") {
                assert!(any("referenceRange.text", &range), "{} OBX {n}: {range}", case.file);
                asked += 1;
            }
        }
        let made = case.all("Observation").len();
        assert!(made <= wanted + usize::try_from(case.count("PD1")).unwrap(), "{}: {made} of {wanted}", case.file);
        assert!(wanted == 0 || made > 0, "{}", case.file);
    });
    assert!(asked > 250 || asked == 0, "{asked} questions were asked");
}

#[test]
fn orders_and_reports() {
    let mut asked = 0;
    each(|case| {
        let code = case.message.info().code;
        let reports = matches!(code.as_str(), "ORU" | "OUL");
        for n in 1..=case.count("OBR") {
            let rtype = if reports { "DiagnosticReport" } else { "ServiceRequest" };
            for (place, path) in [("2.1", "identifier.value"), ("3.1", "identifier.value"), ("4.1", "code.coding.code")]
            {
                if let Some(text) = case.said("OBR", n, place) {
                    case.has(rtype, path, &text);
                    asked += 1;
                }
            }
            if let (true, Some(time), None) =
                (reports, case.said("OBR", n, "7").and_then(|t| moment(&t)), case.said("OBR", n, "8"))
            {
                case.has(rtype, "effectiveDateTime", &time);
                asked += 1;
            }
            if let (true, Some("F")) = (reports, case.said("OBR", n, "25").as_deref()) {
                case.has(rtype, "status", "final");
                asked += 1;
            }
        }
        for n in 1..=case.count("ORC") {
            let rtype = match code.as_str() {
                "ORU" | "OUL" => "DiagnosticReport",
                "VXU" => "Immunization",
                "RDE" | "RDS" => "MedicationRequest",
                "ORM" if case.count("RXO") > 0 => "MedicationRequest",
                _ => "ServiceRequest",
            };
            // Where OBR has numbers of its own, those count.
            let alone = case.count("OBR") == 0;
            for (place, path) in [("2.1", "identifier.value"), ("3.1", "identifier.value")] {
                if let (Some(text), true) = (case.said("ORC", n, place), alone) {
                    case.has(rtype, path, &text);
                    asked += 1;
                }
            }
        }
    });
    assert!(asked > 90 || asked == 0, "{asked} questions were asked");
}

#[test]
fn allergies_and_diagnoses() {
    let severities = BTreeMap::from([("SV", "severe"), ("MO", "moderate"), ("MI", "mild")]);
    let mut asked = 0;
    each(|case| {
        for n in 1..=case.count("AL1") {
            let said = |place: &str| case.said("AL1", n, place);
            let what = said("3.1").or(said("3.2")).unwrap_or_default();
            let found: Vec<&Value> = case
                .all("AllergyIntolerance")
                .into_iter()
                .filter(|a| texts(a, "code.coding.code").contains(&what) || texts(a, "code.text").contains(&what))
                .collect();
            assert!(!found.is_empty(), "{}: {what}", case.file);
            let any = |path: &str, text: &str| found.iter().any(|o| texts(o, path).iter().any(|t| t == text));
            if let Some(severity) = said("4.1").and_then(|s| severities.get(s.as_str()).copied()) {
                assert!(any("reaction.severity", severity), "{}", case.file);
                asked += 1;
            }
            if let Some(reaction) = said("5") {
                assert!(
                    any("reaction.manifestation.text", &reaction)
                        || any("reaction.manifestation.coding.code", &reaction),
                    "{}: {reaction}",
                    case.file
                );
                asked += 1;
            }
            if let Some(onset) = said("6").and_then(|t| moment(&t)) {
                assert!(any("onsetDateTime", &onset), "{}: {onset}", case.file);
                asked += 1;
            }
            assert!(any("clinicalStatus.coding.code", "active"), "{}", case.file);
        }
        for n in 1..=case.count("DG1") {
            let said = |place: &str| case.said("DG1", n, place);
            if let Some(code) = said("3.1") {
                case.has("Condition", "code.coding.code", &code);
                asked += 1;
            }
            // Of a diagnosis that is told twice the later telling counts.
            let again = (n + 1..=case.count("DG1")).any(|m| case.said("DG1", m, "3.1") == said("3.1"));
            if let (Some(time), false) = (said("5").and_then(|t| moment(&t)), again) {
                case.has("Condition", "onsetDateTime", &time);
                asked += 1;
            }
            if let Some(number) = said("20.1") {
                case.has("Condition", "identifier.value", &number);
                asked += 1;
            }
            let deleted = said("21").as_deref() == Some("D");
            let in_error = case
                .all("Condition")
                .iter()
                .any(|c| texts(c, "verificationStatus.coding.code").contains(&"entered-in-error".to_owned()));
            assert_eq!(in_error, deleted, "{}: DG1-21 is an action, not an error", case.file);
        }
        for n in 1..=case.count("PRB") {
            case.has("Condition", "code.coding.code", &case.said("PRB", n, "3.1").unwrap());
            case.has("Condition", "verificationStatus.coding.code", "entered-in-error");
            asked += 1;
        }
        for n in 1..=case.count("IAM") {
            case.has("AllergyIntolerance", "code.coding.code", &case.said("IAM", n, "3.1").unwrap());
            case.has("AllergyIntolerance", "verificationStatus.coding.code", "confirmed");
            asked += 1;
        }
        for n in 1..=case.count("PR1") {
            case.has("Procedure", "code.coding.code", &case.said("PR1", n, "3.1").unwrap());
            if let Some(time) = case.said("PR1", n, "5").and_then(|t| moment(&t)) {
                case.has("Procedure", "performedDateTime", &time);
            }
            asked += 1;
        }
    });
    assert!(asked > 120 || asked == 0, "{asked} questions were asked");
}

#[test]
fn immunizations_medications_documents_and_appointments() {
    let mut asked = BTreeMap::<&str, usize>::new();
    each(|case| {
        for n in 1..=case.count("RXA") {
            let said = |place: &str| case.said("RXA", n, place);
            case.has("Immunization", "vaccineCode.coding.code", &said("5.1").unwrap());
            case.has("Immunization", "occurrenceDateTime", &moment(&said("3").unwrap()).unwrap());
            case.has("Immunization", "status", "completed");
            if let Some(lot) = said("15") {
                case.has("Immunization", "lotNumber", &lot);
                case.has("Immunization", "manufacturer.identifier.value", &said("17.1").unwrap());
            }
            if let Some(dose) = said("6").filter(|d| d != "999") {
                case.has("Immunization", "doseQuantity.value", &dose);
            }
            *asked.entry("RXA").or_default() += 1;
        }
        for (id, code, dose) in [("RXO", "1.1", "2"), ("RXE", "2.1", "3")] {
            for n in 1..=case.count(id) {
                // RXE says more exactly what RXO asked for.
                if id == "RXO" && case.count("RXE") > 0 {
                    continue;
                }
                case.has(
                    "MedicationRequest",
                    "medicationCodeableConcept.coding.code",
                    &case.said(id, n, code).unwrap(),
                );
                if let Some(dose) = case.said(id, n, dose) {
                    let quantity = case.all("MedicationRequest").iter().any(|m| {
                        ["doseQuantity", "doseRange.low"].iter().any(|path| {
                            texts(m, &format!("dosageInstruction.doseAndRate.{path}.value")).contains(&dose)
                        })
                    });
                    assert!(quantity, "{} {id}: {dose}", case.file);
                }
                *asked.entry(id).or_default() += 1;
            }
        }
        for n in 1..=case.count("RXD") {
            case.has(
                "MedicationDispense",
                "medicationCodeableConcept.coding.code",
                &case.said("RXD", n, "2.1").unwrap(),
            );
            case.has("MedicationDispense", "quantity.value", &case.said("RXD", n, "4").unwrap());
            *asked.entry("RXD").or_default() += 1;
        }
        if case.message.info().code == "MDM" {
            let said = |place: &str| case.said("TXA", 1, place);
            case.has("DocumentReference", "masterIdentifier.value", &said("12.1").unwrap());
            case.has("DocumentReference", "type.coding.code", &said("2.1").unwrap());
            let state = if said("17").as_deref() == Some("AU") { "final" } else { "preliminary" };
            case.has("DocumentReference", "docStatus", state);
            case.has("DocumentReference", "status", "current");
            if case.count("OBX") > 0 {
                assert!(
                    !texts(case.all("DocumentReference")[0], "content.attachment.data").is_empty(),
                    "{}",
                    case.file
                );
            }
            *asked.entry("TXA").or_default() += 1;
        }
        for n in 1..=case.count("SCH") {
            let said = |place: &str| case.said("SCH", n, place);
            case.has("Appointment", "identifier.value", &said("1.1").unwrap());
            case.has("Appointment", "identifier.value", &said("2.1").unwrap());
            case.has("Appointment", "start", &moment(&said("11.4").unwrap()).unwrap());
            for (id, path) in [("AIS", "serviceType.coding.code"), ("AIP", "participant.actor.identifier.value")] {
                for n in 1..=case.count(id) {
                    case.has("Appointment", path, &case.said(id, n, "3.1").unwrap());
                }
            }
            let patients = texts(case.all("Appointment")[0], "participant.actor.reference");
            assert_eq!(patients.iter().filter(|r| r.starts_with("Patient/")).count(), 1, "{}", case.file);
            *asked.entry("SCH").or_default() += 1;
        }
    });
    if !asked.is_empty() {
        let expected = [("RXA", 4), ("RXD", 1), ("RXE", 3), ("RXO", 1), ("SCH", 8), ("TXA", 7)];
        assert_eq!(asked, BTreeMap::from(expected));
    }
}

/// Of the segments that care lives in at least 95 of 100 valued fields are mapped. What is kept on purpose stands apart
/// and is printed: set ids, the PV1 of events about the person, numbers that two segments both say.
#[test]
fn what_care_lives_in_is_mapped() {
    let mut shares: BTreeMap<String, Totals> = BTreeMap::new();
    let mut counters: BTreeMap<String, u64> = BTreeMap::new();
    for sample in samples() {
        let message = hl7v2::parse(&sample.bytes, &Limits::default()).unwrap();
        for fate in mapped_message(&message).fates {
            let id = fate.path[..3].to_owned();
            let group = if id.starts_with("RX") { "RX*".to_owned() } else { id };
            if fate.fate == Fate::Kept("a counter within the message") {
                *counters.entry(group).or_default() += 1;
            } else {
                shares.entry(group).or_default().add(&fate.fate);
            }
        }
    }
    if shares.is_empty() {
        return;
    }
    let mut out = String::from("segment: mapped, kept, unmapped, set ids\n");
    for (id, share) in &shares {
        let ids = counters.get(id).copied().unwrap_or(0);
        out.push_str(&format!("  {id} {:5} {:5} {:5} {ids:5}\n", share.mapped, share.kept, share.unmapped));
    }
    let _ = std::io::Write::write_all(&mut std::io::stderr(), out.as_bytes());
    for id in ["PID", "PV1", "ORC", "OBR", "OBX", "AL1", "DG1", "RX*", "TXA"] {
        let share = shares[id];
        let all = share.mapped + share.unmapped;
        assert!(share.mapped * 100 >= all * 95, "{id}: {share:?}");
        assert!(share.kept * 7 <= all, "{id}: too much is kept on purpose: {share:?}");
    }
}

/// The published table is what the program has.
#[test]
fn the_coverage_is_published() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/hl7v2-coverage.md");
    let text = std::fs::read_to_string(file).unwrap();
    let table = coverage_table();
    assert!(text.ends_with(&table), "docs/hl7v2-coverage.md is not what `ward hl7 coverage` prints:\n{table}");
}
