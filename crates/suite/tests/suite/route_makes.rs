//! Routes that send what the node makes: messages without identities, and messages made from silver.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Mesh, adt, mesh_folder};
use crate::routes::{Receiver, route, routes, until_even, with_routes};

/// The messages of an outbox, in the order in which they were sent.
fn outbox(folder: &Path) -> Vec<String> {
    let mut files: Vec<_> = std::fs::read_dir(folder).expect("an outbox").map(|f| f.expect("a file").path()).collect();
    files.sort();
    files.into_iter().map(|file| std::fs::read_to_string(file).expect("a message")).collect()
}

fn field<'a>(message: &'a str, segment: &str, n: usize) -> &'a str {
    let found = message.split('\r').find(|text| text.starts_with(segment)).unwrap_or_default();
    let at = if segment == "MSH" { n - 1 } else { n };
    found.split('|').nth(at).unwrap_or_default()
}

fn result(control_id: &str, mrn: &str, status: &str, value: &str) -> Vec<u8> {
    format!(
        "MSH|^~\\&|LAB|GENHOSP|WARD|MESH|20261101130000-0500||ORU^R01^ORU_R01|{control_id}|P|2.5.1\r\
         PID|1||{mrn}^^^GENHOSP^MR||Made^Test||19700203|F\r\
         PV1|1|I|2N^101^A^GENHOSP||||||||||||||||V{mrn}^^^GENHOSP^VN\r\
         OBR|1|P1^ORD|F1^LAB|24323-8^Panel^LN|||20261101120000-0500|||||||||||||||||{status}\r\
         OBX|1|NM|2345-7^Glucose^LN||{value}|mg/dL|70-105|H|||{status}|||20261101120000-0500\r\
         OBX|2|CWE|5778-6^Color^LN||Y^Yellow^L||||||{status}|||20261101120000-0500\r"
    )
    .into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_for_research_send_nobody_s_name() {
    let receiver = Receiver::start(|_| "AA").await;
    let text = route(
        "to-study",
        &format!("mllp://{}", receiver.address),
        "agreement = \"dua-outcomes\"\ndeidentify = \"safe-harbor\"",
    )
    .replace("internal = true\n", "")
    .replace("TREAT", "HRESCH");
    // Without de-identification policy lets it send nothing, and it does not start.
    let plain = with_routes(&text.replace("deidentify = \"safe-harbor\"", ""));
    let output = crate::harness::ward(plain.path(), &["check"]).await;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success() && said.contains("no policy lets the route `to-study` send"), "{said}");

    let mesh = Mesh::start_in(with_routes(&text)).await;
    let note = String::from_utf8(result("R1", "M1", "F", "95")).expect("text") + "NTE|1||Made Test was anxious\r";
    mesh.send_all("adt-main", [adt("C1", "A01", "M1", "Made").as_slice(), note.as_bytes()]).await;
    mesh.settle().await;
    until_even(&mesh.client).await;
    let sent = receiver.messages.lock().clone();
    assert_eq!(sent.len(), 2, "{:?}", routes(&mesh.client).await);
    for message in &sent {
        for gone in
            ["Made", "M1^", "VM1", "Mill Street", "Boston", "19700203", "20261101", "Lee", "anxious", "|C1|", "|R1|"]
        {
            assert!(!message.contains(gone), "{gone}: {message}");
        }
    }
    assert!(sent[1].contains("|95|mg/dL|70-105|H|||F|||2026\r"), "{}", sent[1]);
    // Both are of one person still.
    assert_eq!(field(&sent[0], "PID", 3), field(&sent[1], "PID", 3));
    assert!(field(&sent[0], "PID", 3).ends_with("^^^GENHOSP^MR"), "{}", sent[0]);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_tell_each_version_of_silver_once_in_order() {
    let more = "make = [\"ADT\", \"ORU\"]\nchange = [ { set = \"MSH-5\", to = \"OTHER\" } ]";
    let mesh = Mesh::start_in(with_routes(&route("told", "file:out", more))).await;
    let move_to = |id: &str, event: &str, ward: &str| {
        String::from_utf8(adt(id, event, "M1", "Made")).expect("text").replace("2N^101", ward).into_bytes()
    };
    let messages = [
        adt("C1", "A01", "M1", "Made"),
        // Says nothing new: no version, no message.
        adt("C2", "A08", "M1", "Made"),
        move_to("C3", "A02", "3S^202"),
        result("R1", "M1", "P", "90"),
        result("R2", "M1", "F", "95"),
        move_to("C4", "A03", "3S^202"),
        adt("C5", "A28", "M2", "Madeup"),
        String::from_utf8(adt("C6", "A40", "M1", "Made"))
            .expect("text")
            .replace("\rPV1|", "\rMRG|M2^^^GENHOSP^MR\rPV1|")
            .into_bytes(),
    ];
    mesh.send_all("adt-main", messages.iter().map(Vec::as_slice)).await;
    mesh.settle().await;
    until_even(&mesh.client).await;
    let out = mesh.path().join("out");
    let told = outbox(&out);
    let events: Vec<&str> = told.iter().map(|message| field(message, "MSH", 9)).collect();
    let adts: Vec<&str> = events.iter().copied().filter(|event| event.starts_with("ADT")).collect();
    assert!(
        adts.starts_with(&["ADT^A01^ADT_A01", "ADT^A02^ADT_A02", "ADT^A03^ADT_A03", "ADT^A28^ADT_A05"]),
        "{events:?}"
    );
    assert!(adts.contains(&"ADT^A40^ADT_A39"), "{events:?}");
    let results: Vec<&String> = told.iter().filter(|message| field(message, "MSH", 9).starts_with("ORU")).collect();
    assert_eq!(results.len(), 2, "a report with its results is one message: {events:?}");
    assert_eq!(results[1].matches("\rOBX|").count(), 2, "{}", results[1]);
    assert!(results[1].contains("|95|mg/dL^mg/dL^UCUM|70-105|H|||F|||20261101120000-0500\r"), "{}", results[1]);
    assert!(told.iter().all(|message| field(message, "MSH", 5) == "OTHER" && field(message, "MSH", 12) == "2.5.1"));
    let merge = told.iter().find(|message| message.contains("ADT^A40")).expect("a merge");
    assert!(
        field(merge, "PID", 3).contains("M1^^^GENHOSP^MR") && field(merge, "MRG", 1).contains("M2^^^GENHOSP^MR"),
        "{merge}"
    );
    let mut ids: Vec<&str> = told.iter().map(|message| field(message, "MSH", 10)).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), told.len(), "a control id for each version");
    assert!(ids.iter().all(|id| id.len() == 20));

    // What is written through the API is told too; a restart tells nothing again.
    let patient = mesh.get("dr-lee", "/fhir/ehr/Patient?identifier=M1").await.json();
    let patient = patient["entry"][0]["resource"]["id"].as_str().expect("a patient").to_owned();
    let weight = json!({
        "resourceType": "Observation", "status": "final", "subject": { "reference": format!("Patient/{patient}") },
        "code": { "coding": [{ "system": "http://loinc.org", "code": "29463-7", "display": "Weight" }] },
        "effectiveDateTime": "2026-11-01T12:00:00-05:00",
        "valueQuantity": { "value": 71.5, "unit": "kg", "system": "http://unitsofmeasure.org", "code": "kg" }
    });
    let written = mesh.post_fhir("dr-lee", "/fhir/ehr/Observation", &weight).await;
    assert_eq!(written.status, 201, "{}", written.text());
    until_even(&mesh.client).await;
    let folder = mesh.stop().await;
    let mesh = Mesh::start_in(folder).await;
    until_even(&mesh.client).await;
    let after = outbox(&out);
    assert_eq!(after.len(), told.len() + 1);
    let last = after.last().expect("a message");
    assert!(last.contains("OBX|1|NM|29463-7^Weight^LN||71.5|kg^kg^UCUM|||||F|||20261101120000-0500\r"), "{last}");

    // Somebody else's node reads them and knows the same.
    let other = Mesh::start_in(mesh_folder()).await;
    let codes = other.send_all("adt-main", after.iter().map(String::as_bytes)).await;
    assert!(codes.iter().all(|code| code == "AA"), "{codes:?}");
    other.settle().await;
    assert!(other.set_aside("ehr").await.is_empty(), "{:?}", other.set_aside("ehr").await);
    for (query, elements) in [
        ("Patient?identifier=M1", &["name", "birthDate", "gender", "address"][..]),
        ("Encounter?identifier=VM1", &["status", "class"]),
        ("Observation?code=2345-7", &["status", "valueQuantity", "effectiveDateTime"]),
        ("Observation?code=29463-7", &["status", "valueQuantity", "effectiveDateTime"]),
        ("DiagnosticReport", &["status"]),
    ] {
        let told = |bundle: &Value| -> Vec<String> {
            let entries = bundle["entry"].as_array().cloned().unwrap_or_default();
            let shown = entries.iter().map(|entry| {
                elements.iter().map(|name| without_ids(&entry["resource"][name])).collect::<Vec<_>>().join(" ")
            });
            let mut shown: Vec<String> = shown.collect();
            shown.sort();
            shown.dedup();
            shown
        };
        let here = mesh.get("dr-lee", &format!("/fhir/ehr/{query}")).await.json();
        let there = other.get("dr-lee", &format!("/fhir/ehr/{query}")).await.json();
        let (here, there) = (told(&here), told(&there));
        assert!(!here.is_empty() && here.iter().all(|one| there.contains(one)), "{query}: {here:?} {there:?}");
    }
    other.stop().await;
    mesh.stop().await;
}

fn without_ids(value: &Value) -> String {
    match value {
        Value::Object(object) => {
            let parts: Vec<String> = object
                .iter()
                .filter(|(name, _)| *name != "id")
                .map(|(n, v)| format!("{n}:{}", without_ids(v)))
                .collect();
            format!("{{{}}}", parts.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(without_ids).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn law_3_what_is_made_asks_policy_too() {
    let text = route("told", "file:out", "make = [\"ADT\"]").replace("TREAT", "HOPERAT");
    let mesh = Mesh::start_in(with_routes(&text)).await;
    let protected = String::from_utf8(adt("C2", "A01", "M2", "Made")).expect("text");
    let protected = protected.replace("\rPV1|", "\rPD1||||||||||||Y\rPV1|");
    mesh.send_all("adt-main", [adt("C1", "A01", "M1", "Made").as_slice(), protected.as_bytes()]).await;
    mesh.settle().await;
    until_even(&mesh.client).await;
    let told = outbox(&mesh.path().join("out"));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("M1^^^GENHOSP^MR"));
    assert_eq!(routes(&mesh.client).await[0]["refused"], 1);
    mesh.stop().await;
}
