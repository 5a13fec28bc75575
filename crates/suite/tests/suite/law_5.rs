//! Law 5: nothing is lost in translation.
//!
//! A corpus of bad input: the smallest unit that cannot be used is set aside with its place and reason, the rest goes on,
//! a critical result beside it arrives, and a replay brings in what was set aside once its cause is gone.

use std::collections::{BTreeMap, BTreeSet};

use hyper::Method;
use serde_json::{Value, json};
use synth::{Door, Hospital, MRN_SYSTEM, Options};

use crate::harness::{Mesh, adt, append, domain, edit, mesh_folder};

/// A laboratory message with these OBX segments.
fn oru(control_id: &str, mrn: &str, filler: &str, results: &[&str]) -> Vec<u8> {
    let results = results.concat();
    format!(
        "MSH|^~\\&|LABSYS|LABCO|WARD|MESH|20261101130000-0500||ORU^R01^ORU_R01|{control_id}|P|2.5.1\r\
         PID|1||{mrn}^^^GENHOSP^MR||Critical^Test^^^^^L||19500101|M\r\
         PV1|1|I|2N^101^A^GENHOSP||||1001^Lee^Jordan|||||||||||V{mrn}^^^GENHOSP^VN\r\
         OBR|1|P{filler}|{filler}^LAB|24323-8^Comprehensive metabolic panel^LN|||20261101120000|||||||||||||||20261101123000||LAB|F\r\
         {results}"
    )
    .into_bytes()
}

const BROKEN: &str = "OBX|1|NM|2951-2^Sodium^LN||14.2.5|mmol/L|136-145|N|||F\r";
const CRITICAL: &str = "OBX|2|NM|2823-3^Potassium^LN||7.90|mmol/L|3.5-5.1|HH|||F\r";
const NORMAL: &str = "OBX|3|NM|2345-7^Glucose^LN||91|mg/dL|70-99|N|||F\r";

async fn replay(mesh: &Mesh, name: &str, index: u64) -> Value {
    let engineer = if name == "laboratory" { "eng-lab" } else { "eng-ehr" };
    let token = mesh.token(engineer).await;
    let path = format!("/admin/set-aside/{name}/{index}/replay");
    mesh.client.post(&path, Some(&token), &Value::Null).await.expect("a replay")
}

fn entries(bundle: &Value) -> Vec<Value> {
    bundle["entry"].as_array().into_iter().flatten().map(|entry| entry["resource"].clone()).collect()
}

/// Every set-aside unit says where and why, in words, and neither says what the message said.
fn explained(units: &[Value], never: &[&str]) {
    for unit in units {
        let (place, reason) = (unit["place"].as_str().unwrap_or_default(), unit["reason"].as_str().unwrap_or_default());
        assert!(!place.is_empty() && !unit["code"].as_str().unwrap_or_default().is_empty(), "{unit}");
        assert!(reason.len() > 20 && reason.contains(' '), "not a reason: {unit}");
        for value in never {
            assert!(!unit.to_string().contains(value), "{value} is in {unit}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn law_5_a_critical_result_beside_a_broken_one_arrives() {
    let mesh = Mesh::start().await;
    let message = oru("C1", "M1", "F1", &[BROKEN, CRITICAL, NORMAL]);
    assert_eq!(mesh.send_all("lab-main", [message.as_slice()]).await, ["AA"]);
    mesh.settle().await;

    let found = entries(&mesh.get("tech-novak", "/fhir/laboratory/Observation?_count=10").await.json());
    let codes: BTreeSet<&str> = found.iter().filter_map(|o| o["code"]["coding"][0]["code"].as_str()).collect();
    assert_eq!(codes, BTreeSet::from(["2345-7", "2823-3"]));
    let potassium = found.iter().find(|o| o["code"]["coding"][0]["code"] == "2823-3").expect("the critical result");
    assert_eq!(potassium["interpretation"][0]["coding"][0]["code"], "HH");
    // A decimal stays as it came, with its zero (R4 §2.24.0.1).
    let raw = mesh.get("tech-novak", "/fhir/laboratory/Observation?_count=10").await.text();
    assert!(raw.contains("\"value\":7.90,"), "{raw}");
    // The report leads to it.
    let report = entries(&mesh.get("tech-novak", "/fhir/laboratory/DiagnosticReport").await.json()).remove(0);
    let results: Vec<&str> =
        report["result"].as_array().into_iter().flatten().filter_map(|r| r["reference"].as_str()).collect();
    let id = format!("Observation/{}", potassium["id"].as_str().expect("an id"));
    assert!(results.len() == 2 && results.contains(&id.as_str()), "{report}");

    let aside = mesh.set_aside("laboratory").await;
    assert_eq!(aside.len(), 1, "{aside:?}");
    explained(&aside, &["14.2.5", "Critical", "M1"]);
    assert_eq!(aside[0]["place"], "OBX-5");
    assert_eq!(aside[0]["critical"], false);
    // Replayed while its cause is still there, it stays, and nothing else changes.
    let again = replay(&mesh, "laboratory", 0).await;
    assert_eq!((&again["resolved"], &again["left"]), (&json!(0), &json!(1)), "{again}");
    assert_eq!(mesh.set_aside("laboratory").await, aside);
    let after = entries(&mesh.get("tech-novak", "/fhir/laboratory/Observation?_count=10").await.json());
    assert_eq!(after, found);

    // A broken result that says it is critical is set aside as critical.
    let flagged = BROKEN.replace("|N|", "|LL|");
    assert_eq!(mesh.send_all("lab-main", [oru("C2", "M1", "F2", &[&flagged, NORMAL]).as_slice()]).await, ["AA"]);
    mesh.settle().await;
    let aside = mesh.set_aside("laboratory").await;
    assert!(aside.iter().any(|unit| unit["critical"] == true && unit["place"] == "OBX-5"), "{aside:?}");
    mesh.stop().await;
}

/// Two records carry one number: the message about it waits; one record is deleted; the replay brings the message in.
#[tokio::test(flavor = "multi_thread")]
async fn law_5_a_replay_brings_in_what_waited_for_a_person() {
    let mesh = Mesh::start().await;
    let feed = mesh.token("bedside-gateway").await;
    let mut https = mesh.https().await;
    let headers = [("content-type", "application/fhir+json")];
    for id in ["first", "second"] {
        let patient = json!({
            "resourceType": "Patient",
            "id": id,
            "identifier": [{ "system": MRN_SYSTEM, "value": "M77" }],
            "name": [{ "family": "Twice" }],
        });
        let path = format!("/fhir/ehr/Patient/{id}");
        let answer =
            https.call(Method::PUT, &path, Some(&feed), &headers, patient.to_string()).await.expect("an answer");
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    assert_eq!(mesh.send_all("adt-main", [adt("C1", "A01", "M77", "Twice").as_slice()]).await, ["AA"]);
    mesh.settle().await;
    let index = 2;
    let aside = mesh.set_aside("ehr").await;
    explained(&aside, &["M77", "Twice"]);
    assert!(aside.iter().any(|unit| unit["code"] == "ambiguous" && unit["place"] == "PID"), "{aside:?}");
    assert!(aside.iter().all(|unit| unit["index"] == index), "{aside:?}");
    // Nobody's visit is filed under either of them.
    let first = mesh.get("dr-lee", "/fhir/ehr/Encounter?_count=5").await.json();
    for visit in entries(&first) {
        assert!(!visit["subject"]["reference"].is_string(), "{visit}");
    }
    let gone = https.call(Method::DELETE, "/fhir/ehr/Patient/second", Some(&feed), &[], "").await.expect("an answer");
    assert_eq!(gone.status, 204, "{}", gone.text());

    let answer = replay(&mesh, "ehr", index).await;
    assert_eq!(answer["left"], 0, "{answer}");
    assert_eq!(answer["resolved"], aside.len(), "{answer}");
    assert!(mesh.set_aside("ehr").await.is_empty());
    let patient = entries(&mesh.get("dr-lee", "/fhir/ehr/Patient?_count=5").await.json());
    assert_eq!(patient.len(), 1, "{patient:?}");
    assert_eq!((&patient[0]["id"], &patient[0]["birthDate"]), (&json!("first"), &json!("1970-02-03")), "{patient:?}");
    let visits = entries(&mesh.get("dr-lee", "/fhir/ehr/Encounter?patient=Patient/first").await.json());
    assert_eq!(visits.len(), 1, "{visits:?}");
    assert_eq!(visits[0]["status"], "in-progress");
    // The trace of the entry tells the whole story.
    let trace = mesh.client.get(&format!("/admin/journal/ehr/{index}"), None).await.expect("a trace");
    assert!(trace["set_aside"].as_array().is_some_and(|all| all.len() == aside.len()), "{trace}");
    assert!(trace["set_aside"].as_array().into_iter().flatten().all(|unit| unit["resolved"] == true), "{trace}");

    // Nothing waits there any more.
    let token = mesh.token("eng-ehr").await;
    let error =
        mesh.client.post("/admin/set-aside/ehr/2/replay", Some(&token), &Value::Null).await.expect_err("an error");
    assert!(error.to_string().contains("404"), "{error}");
    mesh.stop().await;
}

/// A critical result of a patient who cannot be told is not hidden: it is in silver, or set aside as critical.
#[tokio::test(flavor = "multi_thread")]
async fn law_5_a_critical_result_is_never_hidden_by_a_formality() {
    let folder = mesh_folder();
    append(folder.path(), "domains/laboratory/domain.toml", "\n[[source]]\nname = \"lab-fhir\"\nkind = \"fhir\"\n");
    let feed = "\n[[principal]]\nid = \"lab-gateway\"\nkind = \"service\"\nroles = [\"feed\"]\ndomain = \"laboratory\"\n\
                source = \"lab-fhir\"\npurposes = [\"TREAT\"]\n";
    append(folder.path(), "principals.toml", feed);
    let mesh = Mesh::start_in(folder).await;
    for _ in 0..2 {
        let patient = json!({ "resourceType": "Patient", "identifier": [{ "system": MRN_SYSTEM, "value": "M88" }] });
        let answer = mesh.post_fhir("lab-gateway", "/fhir/laboratory/Patient", &patient).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    let formalities = [
        ("an ambiguous patient", oru("C1", "M88", "F1", &[CRITICAL])),
        (
            "no patient at all",
            String::from_utf8(oru("C2", "M89", "F2", &[CRITICAL]))
                .map(|m| {
                    m.split_inclusive('\r').filter(|line| !line.starts_with("PID")).collect::<String>().into_bytes()
                })
                .expect("text"),
        ),
        (
            "no report",
            String::from_utf8(oru("C3", "M90", "F3", &[CRITICAL]))
                .map(|m| {
                    m.split_inclusive('\r').filter(|line| !line.starts_with("OBR")).collect::<String>().into_bytes()
                })
                .expect("text"),
        ),
        ("an unknown flag beside it", oru("C4", "M91", "F4", &[&CRITICAL.replace("|HH|", "|HH~??|")])),
        ("an unknown status", oru("C5", "M92", "F5", &[&CRITICAL.replace("|||F\r", "|||?\r")])),
        ("a unit nobody knows", oru("C6", "M93", "F6", &[&CRITICAL.replace("mmol/L|", "mmoI per litre|")])),
        ("a time that is none", oru("C7", "M94", "F7", &[&CRITICAL.replace("|||F\r", "|||F|||20269999\r")])),
        ("a code without a system", oru("C8", "M95", "F8", &[&CRITICAL.replace("2823-3^Potassium^LN", "K")])),
        ("a value with a comparator", oru("C9", "M96", "F9", &[&CRITICAL.replace("|7.90|", "|>7.90|")])),
        ("a value of another type", oru("C10", "M97", "F10", &[&CRITICAL.replace("|NM|", "|QQ|")])),
        ("a value that is text", oru("C11", "M98", "F11", &[&CRITICAL.replace("|7.90|", "|too high|")])),
    ];
    for (index, (what, message)) in (2_u64..).zip(&formalities) {
        let before = count_criticals(&mesh).await;
        assert_eq!(mesh.send_all("lab-main", [message.as_slice()]).await, ["AA"], "{what}");
        mesh.settle().await;
        let aside = mesh.set_aside("laboratory").await;
        explained(&aside, &["M88", "too high"]);
        let arrived = count_criticals(&mesh).await > before;
        let flagged = aside.iter().any(|unit| unit["index"] == index && unit["critical"] == true);
        let own: Vec<_> = aside.iter().filter(|unit| unit["index"] == index).collect();
        assert!(arrived || flagged, "{what}: neither in silver nor set aside as critical: {own:?}");
    }
    mesh.stop().await;
}

async fn count_criticals(mesh: &Mesh) -> usize {
    // As the node sees them: a result whose patient is unknown is not everybody's to read.
    let permit = mesh
        .doors
        .gate
        .node_permit::<base::Read>("build", &domain("laboratory"), base::Layer::Silver)
        .expect("the node may read");
    let scanned =
        mesh.doors.silver.scan(&permit, &domain("laboratory"), "Observation", 0, 1_000).await.expect("a scan");
    let critical = |body: &[u8]| {
        let value: Value = serde_json::from_slice(body).unwrap_or_default();
        value["interpretation"].to_string().contains("\"HH\"")
    };
    scanned.resources.iter().filter(|resource| critical(resource.body.expose())).count()
}

/// At the door: what is no message, or not for this node, is refused with the place in ERR; nothing of it is stored.
#[tokio::test(flavor = "multi_thread")]
async fn law_5_what_is_refused_says_where_and_why() {
    let mesh = Mesh::start().await;
    let good = String::from_utf8(adt("C1", "A01", "M1", "Refused")).expect("text");
    let cases: Vec<(&str, String, &str, &str)> = vec![
        ("no MSH", good.replacen("MSH", "MSX", 1), "AR", ""),
        ("nothing but text", "hello".into(), "AR", ""),
        ("a header cut off", "MSH|^~".into(), "AR", ""),
        ("a delimiter twice", good.replacen("|^~\\&|", "|^^\\&|", 1), "AR", "MSH"),
        ("a test message", good.replacen("|P|2.5.1", "|T|2.5.1", 1), "AR", "|MSH^1^11|202"),
        ("a training message", good.replacen("|P|2.5.1", "|D|2.5.1", 1), "AR", "|MSH^1^11|202"),
        ("a version nobody speaks", good.replacen("|P|2.5.1", "|P|3.0", 1), "AR", "|MSH^1^12|203"),
        ("no type", good.replacen("|ADT^A01^ADT_A01|", "||", 1), "AR", "|MSH^1^9|101"),
    ];
    for (what, message, code, error) in &cases {
        let ack = mesh.mllp("adt-main").await.send(message.as_bytes()).await.expect("an acknowledgement");
        let text = String::from_utf8(ack).expect("text");
        assert_eq!(ward::wire::ack_code(text.as_bytes()), *code, "{what}: {text}");
        let err =
            text.split('\r').find(|segment| segment.starts_with("ERR")).unwrap_or_else(|| panic!("{what}: {text}"));
        assert!(err.contains(error), "{what}: {err}");
        let said = err.split('|').nth(8).unwrap_or_default();
        assert!(said.len() > 20 && !said.contains("Refused") && !text.contains("M1^"), "{what}: {err}");
    }
    let size = mesh.doors.domains[&domain("ehr")].intake.journal().log().size();
    assert_eq!(size, 0, "something of what was refused is in the journal");

    // What is a message of no known type is kept and set aside whole.
    let appointment = good.replacen("ADT^A01^ADT_A01", "MFN^M01^MFN_M01", 1);
    assert_eq!(mesh.send_all("adt-main", [appointment.as_bytes()]).await, ["AA"]);
    mesh.settle().await;
    let aside = mesh.set_aside("ehr").await;
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert_eq!((&aside[0]["unit"], &aside[0]["code"]), (&Value::Null, &json!("message-type-unmapped")));
    explained(&aside, &["Refused", "M1"]);
    mesh.stop().await;
}

/// FHIR: what is invalid is told by its element; a transaction applies all or nothing, a batch what it can.
#[tokio::test(flavor = "multi_thread")]
async fn law_5_fhir_errors_name_the_element() {
    let mesh = Mesh::start().await;
    let invalid: Vec<(Value, u16, &str)> = vec![
        (json!({ "resourceType": "Patient", "birthDate": "the third of May" }), 422, "Patient.birthDate"),
        (json!({ "resourceType": "Patient", "gender": "secret" }), 422, "Patient.gender"),
        (json!({ "resourceType": "Patient", "name": [{ "famly": "Typo" }] }), 422, "Patient.name[0]"),
        (json!({ "resourceType": "Patient", "active": "yes" }), 422, "Patient.active"),
        (json!({ "resourceType": "Patient", "name": { "family": "NotAList" } }), 422, "Patient.name"),
        (json!({ "resourceType": "Patient", "name": [{ "given": [null] }] }), 422, "Patient.name[0].given"),
        (json!({ "resourceType": "Patient", "name": [] }), 422, "Patient.name"),
        (
            json!({ "resourceType": "Patient", "deceasedBoolean": true, "deceasedDateTime": "2020" }),
            422,
            "Patient.deceased",
        ),
    ];
    for (resource, status, expression) in &invalid {
        let answer = mesh.post_fhir("dr-lee", "/fhir/ehr/Patient", resource).await;
        assert_eq!(answer.status, *status, "{resource}: {}", answer.text());
        let outcome = answer.json();
        assert_eq!(outcome["resourceType"], "OperationOutcome");
        let said = outcome["issue"][0]["expression"][0].as_str().unwrap_or_default();
        assert!(said.starts_with(expression), "{resource}: {outcome}");
        for value in ["the third of May", "secret", "Typo", "NotAList"] {
            assert!(!answer.text().contains(value), "{}", answer.text());
        }
    }
    let entry = |resource: Value| {
        let rtype = resource["resourceType"].clone();
        json!({ "resource": resource, "request": { "method": "POST", "url": rtype } })
    };
    let good = || entry(json!({ "resourceType": "Patient", "active": true }));
    let bad = entry(json!({ "resourceType": "Patient", "active": "yes" }));
    let dangling = entry(json!({
        "resourceType": "Condition", "subject": { "reference": "Patient/nobody" }, "code": { "text": "something" }
    }));
    for wrong in [&bad, &dangling] {
        let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": [good(), wrong, good()] });
        let answer = mesh.post_fhir("bedside-gateway", "/fhir/ehr", &bundle).await;
        assert_eq!(answer.status, 422, "{}", answer.text());
        let said = answer.json()["issue"][0]["expression"][0].as_str().unwrap_or_default().to_owned();
        assert!(said.starts_with("Bundle.entry[1]"), "{}", answer.text());
    }
    mesh.settle().await;
    let none = mesh.get("dr-lee", "/fhir/ehr/Patient?_total=accurate").await.json();
    assert_eq!(none["total"], 0, "a part of a failed transaction was applied: {none}");
    for wrong in [&bad, &dangling] {
        let bundle = json!({ "resourceType": "Bundle", "type": "batch", "entry": [good(), wrong, good()] });
        let answer = mesh.post_fhir("bedside-gateway", "/fhir/ehr", &bundle).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let said = answer.json();
        let statuses: Vec<&str> =
            said["entry"].as_array().into_iter().flatten().filter_map(|e| e["response"]["status"].as_str()).collect();
        assert!(statuses.len() == 3 && statuses[0].starts_with("201") && statuses[2].starts_with("201"), "{said}");
        assert!(statuses[1].starts_with("422"), "{said}");
        let issue = &said["entry"][1]["response"]["outcome"]["issue"][0];
        assert!(
            issue["expression"][0]
                .as_str()
                .is_some_and(|at| at.starts_with("Bundle.entry[1]") || at == "Patient.active"),
            "{said}"
        );
    }
    let four = mesh.get("dr-lee", "/fhir/ehr/Patient?_total=accurate").await.json();
    assert_eq!(four["total"], 4, "{four}");
    mesh.stop().await;
}

/// A week of a hospital with its dirt: what comes of it is what the hospital knows to be true, and every valued field of
/// every message is mapped, kept or counted as not mapped yet.
#[tokio::test(flavor = "multi_thread")]
async fn law_5_a_hospitals_feed_comes_out_as_the_truth_and_every_field_is_counted() {
    let hospital = Hospital::generate(&Options { patients: 60, seed: 5, ..Options::default() });
    let truth = &hospital.truth;
    let mesh = Mesh::start().await;
    let mut stored: BTreeMap<&str, Vec<&[u8]>> = BTreeMap::new();
    for (door, source) in [(Door::Adt, "adt-main"), (Door::Lab, "lab-main")] {
        let items: Vec<_> = hospital.feed.iter().filter(|item| item.door == door).collect();
        let codes = mesh.send_all(source, items.iter().map(|item| item.bytes.as_slice())).await;
        for (item, code) in items.iter().zip(codes) {
            let refused = item.expected == synth::Expected::Refused;
            // The hospital asks for enhanced acknowledgement (MSH-15).
            let expected: &[&str] = if refused { &["AR", "CR"] } else { &["CA"] };
            assert!(expected.contains(&code.as_str()), "{:?}: {code}", item.expected);
            if !refused && item.expected != synth::Expected::Resent {
                stored.entry(source).or_default().push(&item.bytes);
            }
        }
    }
    for item in hospital.feed.iter().filter(|item| item.door == Door::Bedside) {
        let body: Value = serde_json::from_slice(&item.bytes).expect("JSON");
        let answer = mesh.post_fhir("bedside-gateway", "/fhir/ehr", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    mesh.settle().await;

    let aside = mesh.set_aside("laboratory").await;
    assert_eq!(aside.len(), truth.set_aside.values().sum::<usize>(), "{aside:?}");
    assert!(mesh.set_aside("ehr").await.is_empty());
    explained(&aside, &[]);
    observations_are_true(&mesh, &hospital).await;
    patients_and_visits_are_true(&mesh, &hospital).await;
    fields_are_counted(&mesh, &stored).await;
    mesh.stop().await;
}

async fn all(mesh: &Mesh, who: &str, first: String) -> Vec<Value> {
    let token = mesh.token(who).await;
    let mut https = mesh.https().await;
    let (mut found, mut next) = (Vec::new(), Some(first));
    while let Some(path) = next {
        let answer = https.get(&path, &token).await.expect("an answer");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let bundle = answer.json();
        found.extend(entries(&bundle));
        let links = bundle["link"].as_array().cloned().unwrap_or_default();
        let link = links.iter().find(|link| link["relation"] == "next").and_then(|link| link["url"].as_str());
        next = link.and_then(|url| url.find("/fhir/").map(|at| url[at..].to_owned()));
    }
    found
}

async fn observations_are_true(mesh: &Mesh, hospital: &Hospital) {
    let reports = all(mesh, "tech-novak", "/fhir/laboratory/DiagnosticReport?_count=200".into()).await;
    let mut filler_of: BTreeMap<String, String> = BTreeMap::new();
    for report in &reports {
        let identifiers = report["identifier"].as_array().into_iter().flatten();
        let filler = identifiers.filter_map(|i| i["value"].as_str()).find(|value| value.starts_with("F3"));
        for result in report["result"].as_array().into_iter().flatten() {
            let reference = result["reference"].as_str().expect("a reference").to_owned();
            filler_of.insert(reference, filler.expect("the filler's number").to_owned());
        }
    }
    let mut found: BTreeMap<(String, String), Value> = BTreeMap::new();
    for observation in all(mesh, "tech-novak", "/fhir/laboratory/Observation?_count=500".into()).await {
        let id = format!("Observation/{}", observation["id"].as_str().expect("an id"));
        let filler = filler_of.get(&id).unwrap_or_else(|| panic!("no report leads to {observation}")).clone();
        let code = observation["code"]["coding"][0]["code"].as_str().expect("a code").to_owned();
        assert!(found.insert((filler, code), observation).is_none(), "one result twice");
    }
    let truth = &hospital.truth;
    let broken: usize = truth.set_aside.values().sum();
    for (key, expected) in &truth.observations {
        let observation = found.get(key).unwrap_or_else(|| panic!("{key:?} is not in silver"));
        assert_eq!(observation["status"], expected.status, "{key:?}");
        let value = observation["valueQuantity"]["value"].as_f64();
        assert_eq!(value, expected.value.parse().ok(), "{key:?}");
        assert_eq!(observation["valueQuantity"]["unit"], expected.unit.as_str(), "{key:?}");
    }
    for key in &truth.critical {
        assert!(found[key].to_string().contains("\"HH\"") || truth.observations[key].status == "corrected", "{key:?}");
    }
    assert!(found.len() <= truth.observations.len() + broken, "results that nobody sent");
    assert!(
        truth.observations.len() > 150 && broken > 0 && !truth.critical.is_empty(),
        "the hospital shows too little"
    );
}

async fn patients_and_visits_are_true(mesh: &Mesh, hospital: &Hospital) {
    let by_number = |resources: Vec<Value>, prefix: &str| -> BTreeMap<String, Value> {
        let number = |resource: &Value| {
            let identifiers = resource["identifier"].as_array().into_iter().flatten();
            let mut numbers = identifiers.filter_map(|i| i["value"].as_str()).filter(|value| value.starts_with(prefix));
            numbers.next().map(str::to_owned).unwrap_or_else(|| panic!("no number in {resource}"))
        };
        resources.into_iter().map(|resource| (number(&resource), resource)).collect()
    };
    let truth = &hospital.truth;
    let patients = by_number(all(mesh, "dr-lee", "/fhir/ehr/Patient?_count=200".into()).await, "M");
    assert_eq!(patients.keys().collect::<Vec<_>>(), truth.patients.keys().collect::<Vec<_>>());
    for (mrn, expected) in &truth.patients {
        let patient = &patients[mrn];
        assert_eq!(patient["name"][0]["family"], expected.family.as_str(), "{mrn}");
        assert_eq!(patient["name"][0]["given"][0], expected.given.as_str(), "{mrn}");
        assert_eq!(patient["gender"], expected.gender, "{mrn}");
        assert_eq!(patient["birthDate"].as_str(), expected.born.as_deref(), "{mrn}");
        assert_eq!(patient["address"][0]["city"], expected.city.as_str(), "{mrn}");
    }
    let visits = by_number(all(mesh, "dr-lee", "/fhir/ehr/Encounter?_count=200".into()).await, "V");
    assert_eq!(visits.keys().collect::<Vec<_>>(), truth.encounters.keys().collect::<Vec<_>>());
    for (visit, status) in &truth.encounters {
        assert_eq!(visits[visit]["status"], *status, "{visit}");
    }
}

/// The node's counters against the map over the same bytes, and against the message's own valued fields.
async fn fields_are_counted(mesh: &Mesh, stored: &BTreeMap<&str, Vec<&[u8]>>) {
    let status = mesh.client.get("/admin/status", None).await.expect("a status");
    let counter = |source: &str, name: &str| -> u64 {
        let domains = status["domains"].as_array().into_iter().flatten();
        let counts = domains.flat_map(|domain| domain["counts"].as_array().cloned().unwrap_or_default());
        counts.filter(|c| c["source"] == source && c["counter"] == name).filter_map(|c| c["n"].as_u64()).sum()
    };
    let limits = base::Limits::default();
    for (source, messages) in stored {
        let (mut mapped, mut kept, mut unmapped, mut valued) = (0, 0, 0, 0);
        for bytes in messages {
            let message = hl7v2::parse(bytes, &limits).expect("a message");
            valued += valued_fields(&message);
            let none = BTreeMap::new();
            let sender = clinical::v2::Sender {
                name: source,
                utc_offset: None,
                assigners: &none,
                units: &none,
                authority: &[],
                received: None,
            };
            for fate in clinical::v2::map(&message, &sender, &limits).fates {
                match fate.fate {
                    clinical::v2::Fate::Mapped(_) => mapped += 1,
                    clinical::v2::Fate::Kept(_) => kept += 1,
                    clinical::v2::Fate::Unmapped => unmapped += 1,
                }
            }
        }
        assert_eq!(mapped + kept + unmapped, valued, "{source}: fields without a fate");
        let counted = ["fields-mapped", "fields-kept", "fields-unmapped"].map(|name| counter(source, name));
        assert_eq!(counted.iter().sum::<u64>(), valued, "{source}: {counted:?} against {mapped}, {kept}, {unmapped}");
        assert!(counted[0] > counted[2], "{source}: more is not mapped than mapped: {counted:?}");
        assert_eq!(counter(source, "received"), messages.len() as u64, "{source}");
    }
}

fn valued_fields(message: &hl7v2::Message<'_>) -> u64 {
    message.segments().map(|s| s.fields().filter(|(_, field)| !field.is_absent()).count() as u64).sum()
}

/// A source whose configuration was wrong: put right, and replayed after the restart.
#[tokio::test(flavor = "multi_thread")]
async fn law_5_a_replay_after_a_changed_configuration() {
    let folder = mesh_folder();
    // Two assigners that are one: the hospital's number is found under neither system of the other's records.
    edit(
        folder.path(),
        "domains/ehr/domain.toml",
        "GENHOSP = \"urn:oid:2.16.840.1.113883.19.5.1\"",
        "GENHOSP = \"urn:oid:1.2.3.4\"",
    );
    let mesh = Mesh::start_in(folder).await;
    for id in ["first", "second"] {
        let patient = json!({
            "resourceType": "Patient", "id": id,
            "identifier": [{ "system": "urn:oid:1.2.3.4", "value": "M5" }],
        });
        let token = mesh.token("bedside-gateway").await;
        let headers = [("content-type", "application/fhir+json")];
        let path = format!("/fhir/ehr/Patient/{id}");
        let answer = mesh
            .https()
            .await
            .call(Method::PUT, &path, Some(&token), &headers, patient.to_string())
            .await
            .expect("an answer");
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    mesh.send_all("adt-main", [adt("C1", "A01", "M5", "Moved").as_slice()]).await;
    mesh.settle().await;
    assert!(!mesh.set_aside("ehr").await.is_empty());
    let folder = mesh.stop().await;
    edit(folder.path(), "domains/ehr/domain.toml", "urn:oid:1.2.3.4", MRN_SYSTEM);
    let mesh = Mesh::start_in(folder).await;
    assert!(!mesh.set_aside("ehr").await.is_empty(), "a restart forgets nothing");
    let answer = replay(&mesh, "ehr", 2).await;
    assert_eq!(answer["left"], 0, "{answer}");
    let found = mesh.get("dr-lee", &format!("/fhir/ehr/Patient?identifier={MRN_SYSTEM}%7CM5")).await.json();
    assert_eq!(entries(&found).len(), 1, "{found}");
    mesh.stop().await;
}
