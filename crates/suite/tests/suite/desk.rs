//! The interface desk: messages shown, checked, compared, sent and received; the journal searched, refined again,
//! measured; sources that fall silent; raw bodies at their end; results matched; sources in shadow.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use base::{Clock, Layer, ManualClock, Read, SystemClock};
use hyper::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use ward::wire::HttpAnswer;

use crate::harness::{Mesh, adt, append, domain, edit, mesh_folder, program, ward};

/// An ORU of one result. Without a record number nobody can be found for it.
fn oru(control_id: &str, mrn: &str, filler: &str, unit: &str) -> Vec<u8> {
    let number = if mrn.is_empty() { String::new() } else { format!("{mrn}^^^GENHOSP^MR") };
    format!(
        "MSH|^~\\&|LABSYS|LABCO|WARD|MESH|20261101130000-0500||ORU^R01^ORU_R01|{control_id}|P|2.5.1\r\
         PID|1||{number}||Deskword^Test^^^^^L||19500101|M\r\
         OBR|1|P{filler}|{filler}^LAB|24323-8^Panel^LN|||20261101120000|||||||||||||||20261101123000||LAB|F\r\
         OBX|1|NM|2345-7^Glucose^LN||91|{unit}|70-99|N|||F\r"
    )
    .into_bytes()
}

async fn post(mesh: &Mesh, who: &str, path: &str, body: Value) -> HttpAnswer {
    let token = mesh.token(who).await;
    let headers = [("content-type", "application/json")];
    mesh.https().await.call(Method::POST, path, Some(&token), &headers, body.to_string()).await.expect("an answer")
}

async fn search(mesh: &Mesh, name: &str, body: Value) -> Vec<u64> {
    let answer = mesh.client.post(&format!("/admin/journal/{name}/search"), None, &body).await.expect("an answer");
    indexes(&answer)
}

fn indexes(answer: &Value) -> Vec<u64> {
    answer["entries"].as_array().into_iter().flatten().filter_map(|entry| entry["index"].as_u64()).collect()
}

/// Versions, types and content of silver, whatever the journal's length.
async fn content(mesh: &Mesh, name: &str) -> (u64, String) {
    let digest = mesh.doors.silver.digest(&domain(name), None).await.expect("a digest");
    (digest.versions, format!("{:?} {}", digest.by_type, digest.sum))
}

/// What is derived is built anew at the next start.
fn without_catalog(folder: &Path) {
    for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _ = std::fs::remove_file(folder.join("data").join(name));
    }
}

/// Every file below a folder that holds one of the words.
fn holding(folder: &Path, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if let Ok(bytes) = std::fs::read(&path)
                && let Some(word) = words.iter().find(|word| bytes.windows(word.len()).any(|w| w == word.as_bytes()))
            {
                found.push(format!("{word} in {}", path.display()));
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn desk_shows_lints_and_compares_and_values_take_a_permit_and_a_record() {
    let mesh = Mesh::start().await;
    let second = String::from_utf8(adt("C2", "A08", "M777", "Deskword")).expect("text").replace("Mill", "Oak");
    mesh.send_all("adt-main", [adt("C1", "A01", "M777", "Deskword").as_slice(), second.as_bytes()]).await;
    mesh.settle().await;
    let secret = ["Deskword", "M777", "19700203", "Mill Street"];

    // Whoever sees how data flows sees names of fields and shapes.
    let shown = mesh.client.get("/admin/journal/ehr/0/message", None).await.expect("an answer");
    let name = shown["fields"].as_array().into_iter().flatten().find(|row| row["field"] == "PID-5").expect("PID-5");
    assert_eq!((name["name"].as_str(), name["value"].as_str()), (Some("Patient Name"), Some("a^a^^^^^a")));
    let differs = mesh.client.get("/admin/journal/ehr/0/diff/1", None).await.expect("an answer");
    let fields: Vec<&str> =
        differs["differences"].as_array().into_iter().flatten().filter_map(|d| d["field"].as_str()).collect();
    assert_eq!(fields, ["MSH-9", "MSH-10", "EVN-1", "PID-11"]);
    let lint = mesh.client.get("/admin/journal/ehr/0/lint", None).await.expect("an answer");
    for answer in [&shown, &differs, &lint] {
        assert!(secret.iter().all(|word| !answer.to_string().contains(word)), "{answer}");
    }

    // Values: for whom policy lets open messages, and on record with the patient.
    for who in ["admin-root", "ana-analyst", "privacy-osei", "eng-lab", "clerk-diaz"] {
        for path in ["/admin/journal/ehr/0/message?phi=true", "/admin/journal/ehr/0/diff/1?phi=true"] {
            let answer = mesh.get(who, path).await;
            assert_eq!(answer.status, 403, "{who} {path}");
            assert!(secret.iter().all(|word| !answer.text().contains(word)));
        }
    }
    let answer = mesh.get("eng-ehr", "/admin/journal/ehr/0/message?phi=true").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().contains("Deskword"));
    let patient = mesh.get("dr-lee", "/fhir/ehr/Patient?identifier=M777").await.json();
    let id = patient["entry"][0]["resource"]["id"].as_str().expect("an id").to_owned();
    let saw = mesh.get("privacy-osei", &format!("/admin/audit/who-saw/ehr/{id}")).await.json();
    let by_engineer = saw["accesses"].as_array().into_iter().flatten().any(|line| line.to_string().contains("eng-ehr"));
    assert!(by_engineer, "{saw}");
    mesh.stop().await;
}

/// A message about a protected patient looks as if it were not there, also once the patient was merged with another.
#[tokio::test(flavor = "multi_thread")]
async fn law_3_values_of_a_message_are_shown_within_the_permit_alone() {
    let mesh = Mesh::start().await;
    let text = |control: &str, mrn: &str| String::from_utf8(adt(control, "A01", mrn, "Deskword")).expect("text");
    let protected = text("C2", "M2").replace("\rPV1|", "\rPD1||||||||||||Y\rPV1|");
    let merge = text("C3", "M1").replace("A01", "A40").replace("\rPV1|", "\rMRG|M2^^^GENHOSP^MR\rPV1|");
    let shown = async |who: &str| {
        let mut statuses = Vec::new();
        for index in 0..*mesh.doors.silver.applied(&domain("ehr")).borrow() {
            let answer = mesh.get(who, &format!("/admin/journal/ehr/{index}/message?phi=true")).await;
            assert_eq!(answer.text().contains("Deskword"), answer.status == 200, "{who} {index}: {}", answer.text());
            statuses.push(answer.status.as_u16());
        }
        statuses
    };
    for message in [text("C1", "M1"), protected] {
        mesh.send_all("adt-main", [message.as_bytes()]).await;
    }
    mesh.settle().await;
    assert_eq!(shown("eng-ehr").await, [200, 404]);
    assert_eq!(mesh.get("eng-ehr", "/admin/journal/ehr/0/diff/1?phi=true").await.status, 404);
    assert_eq!(shown("dr-lee").await, [200, 404], "the label keeps it from the care team's desk, too");
    let found = post(&mesh, "eng-ehr", "/admin/journal/ehr/search", json!({ "patient": "M2" })).await;
    assert_eq!(indexes(&found.json()), Vec::<u64>::new());
    mesh.send_all("adt-main", [merge.as_bytes()]).await;
    mesh.settle().await;
    assert_eq!(shown("eng-ehr").await, [404, 404, 404]);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn desk_finds_entries_without_opening_them_and_by_patient_with_a_permit_alone() {
    let mesh = Mesh::start().await;
    let unmapped =
        String::from_utf8(adt("CTLZ9", "A01", "M9999", "Nobody")).expect("text").replace("ADT^A01^ADT_A01", "ZZZ^Z01");
    let messages = [
        adt("CTLA1", "A01", "M1001", "Deskword"),
        adt("CTLA2", "A08", "M1001", "Deskword"),
        adt("CTLA3", "A01", "M1002", "Other"),
    ];
    mesh.send_all("adt-main", messages.iter().map(Vec::as_slice).chain([unmapped.as_bytes()])).await;
    mesh.settle().await;
    for (asked, found) in [
        (json!({}), vec![3, 2, 1, 0]),
        (json!({"type": "ADT"}), vec![2, 1, 0]),
        (json!({"type": "ADT^A08"}), vec![1]),
        (json!({"control_id": "CTLA3"}), vec![2]),
        (json!({"sender": "REGSYS", "max": 2}), vec![3, 2]),
        (json!({"sender": "REGSYS", "before": 2}), vec![1, 0]),
        (json!({"source": "adt-main", "state": "set-aside"}), vec![3]),
        (json!({"state": "refined"}), vec![2, 1, 0]),
        (json!({"state": "forwarded"}), vec![]),
        (json!({"to": "2020-01-01"}), vec![]),
        (json!({"sender": "NOBODY"}), vec![]),
    ] {
        assert_eq!(search(&mesh, "ehr", asked.clone()).await, found, "{asked}");
    }
    // That somebody is in the journal is for those who may search it.
    let path = "/admin/journal/ehr/search";
    for who in ["admin-root", "ana-analyst", "clerk-diaz"] {
        assert_eq!(post(&mesh, who, path, json!({"patient": "M1001"})).await.status, 403, "{who}");
    }
    for (patient, found) in [("M1001", vec![1, 0]), ("M1002", vec![2]), ("M9999", vec![3]), ("M5", vec![])] {
        let answer = post(&mesh, "eng-ehr", path, json!({ "patient": patient })).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(indexes(&answer.json()), found, "{patient}");
    }
    // Bad words get clear errors.
    for body in [json!({"state": "lost"}), json!({"from": "yesterday"}), json!({"colour": "red"})] {
        assert_eq!(post(&mesh, "eng-ehr", path, body.clone()).await.status, 400, "{body}");
    }
    // Sizes by day: as they came, and as they lie.
    let size = mesh.client.get("/admin/journal/ehr/size", None).await.expect("an answer");
    assert_eq!(size["days"][0]["messages"], 4, "{size}");
    assert!(
        size["days"][0]["raw_bytes"].as_u64() > Some(1_000) && size["days"][0]["stored_bytes"].as_u64() > Some(1_000)
    );
    // Nothing that was looked for lies in the clear.
    let words = ["M1001", "M9999", "CTLA3", "CTLZ9", "REGSYS", "Deskword"];
    assert_eq!(holding(&mesh.path().join("data"), &words), Vec::<String>::new());
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn desk_refines_messages_again_after_a_table_was_mended_and_twice_changes_nothing() {
    let mesh = Mesh::start().await;
    let messages = [oru("C1", "M1", "F1", "MG%DL"), oru("C2", "M2", "F2", "MG%DL")];
    assert_eq!(mesh.send_all("lab-main", messages.iter().map(Vec::as_slice)).await, ["AA", "AA"]);
    mesh.settle().await;
    let unit = |answer: &Value| answer["entry"][0]["resource"]["valueQuantity"]["code"].as_str().map(str::to_owned);
    let all = "/fhir/laboratory/Observation?_sort=_id";
    assert_eq!(unit(&mesh.get("tech-novak", all).await.json()), None);
    let folder = mesh.stop().await;
    edit(
        folder.path(),
        "domains/laboratory/domain.toml",
        "mode = \"production\"",
        "mode = \"production\"\nunits = { \"MG%DL\" = \"mg/dL\" }",
    );

    let mesh = Mesh::start_in(folder).await;
    let path = "/admin/journal/laboratory/replay";
    assert_eq!(post(&mesh, "tech-novak", path, json!({})).await.status, 403);
    let dry = post(&mesh, "eng-lab", path, json!({"dry_run": true})).await.json();
    assert_eq!((&dry["found"], &dry["replayed"]), (&json!(2), &json!(0)));
    let first = post(&mesh, "eng-lab", path, json!({"source": "lab-main"})).await.json();
    assert!(first["replayed"] == 2 && first["versions"].as_u64() >= Some(2), "{first}");
    let after = mesh.get("tech-novak", all).await.json();
    assert_eq!(unit(&after).as_deref(), Some("mg/dL"), "{after}");
    assert_eq!(after["entry"].as_array().map(Vec::len), Some(2));
    let second = post(&mesh, "eng-lab", path, json!({"source": "lab-main"})).await.json();
    assert!(second["replayed"] == 2 && second["versions"] == 0, "{second}");

    // An earlier result never comes back over its correction.
    let corrected = String::from_utf8(oru("C3", "M1", "F1", "mg/dL")).expect("text");
    let corrected = corrected.replace("||91|", "||95|").replace("|N|||F\r", "|N|||C\r");
    mesh.send_all("lab-main", [corrected.as_bytes()]).await;
    mesh.settle().await;
    let value = async || {
        let found = mesh.get("tech-novak", "/fhir/laboratory/Observation?status=corrected").await.json();
        found["entry"][0]["resource"]["valueQuantity"]["value"].as_f64()
    };
    assert_eq!(value().await, Some(95.0));
    let third = post(&mesh, "eng-lab", path, json!({"control_id": "C1"})).await.json();
    assert!(third["replayed"] == 1 && third["versions"] == 0, "{third}");
    assert_eq!(value().await, Some(95.0));

    // The journal says all of it: a catalog built anew, now with the mended table from the first, says the same.
    let said = async |mesh: &Mesh| {
        let found = mesh.get("tech-novak", all).await.json();
        let of = |entry: &Value| (entry["resource"]["status"].clone(), entry["resource"]["valueQuantity"].clone());
        found["entry"].as_array().into_iter().flatten().map(of).collect::<Vec<_>>()
    };
    let before = said(&mesh).await;
    assert_eq!(before.len(), 2);
    let folder = mesh.stop().await;
    without_catalog(folder.path());
    let mesh = Mesh::start_in(folder).await;
    assert_eq!(said(&mesh).await, before);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn desk_tells_how_sources_do_and_when_one_falls_silent() {
    let folder = mesh_folder();
    edit(
        folder.path(),
        "domains/ehr/domain.toml",
        "mode = \"production\"",
        "mode = \"production\"\nsilent_after_minutes = 10",
    );
    let clock = Arc::new(ManualClock::at(SystemClock.now().ms()));
    let mesh = Mesh::start_at(folder, clock.clone()).await;
    let watch = edge::SilenceWatch::new(mesh.doors.clone());
    let with_z = String::from_utf8(adt("C1", "A01", "M1", "Deskword")).expect("text") + "ZPD|1|x|y\r";
    mesh.send_all("adt-main", [with_z.as_bytes()]).await;
    mesh.settle().await;
    let source = |answer: &Value, name: &str| {
        answer["sources"].as_array().into_iter().flatten().find(|one| one["source"] == name).cloned().expect("a source")
    };
    let one = source(&mesh.client.get("/admin/sources", None).await.expect("an answer"), "adt-main");
    assert_eq!((&one["messages"], &one["last_minute"], &one["silent"]), (&json!(1), &json!(1), &json!(false)), "{one}");
    assert_eq!(one["answers"]["AA"], 1);
    let unmapped: Vec<&str> =
        one["unmapped"].as_array().into_iter().flatten().filter_map(|field| field["field"].as_str()).collect();
    assert!(unmapped.contains(&"ZPD-2"), "{one}");
    assert!(watch.look().await.expect("a look").is_empty());

    clock.advance_ms(11 * 60_000);
    assert_eq!(watch.look().await.expect("a look").len(), 1);
    assert!(watch.look().await.expect("a look").is_empty(), "told once");
    let one = source(&mesh.client.get("/admin/sources", None).await.expect("an answer"), "adt-main");
    assert_eq!((&one["silent"], &one["last_minute"]), (&json!(true), &json!(0)));
    let metrics = mesh.https().await.get("/metrics", "").await.expect("an answer").text();
    assert!(metrics.contains("ward_source_silent{domain=\"ehr\",source=\"adt-main\"} 1"), "{metrics}");
    assert!(!metrics.contains("Deskword"));
    // One that declares no limit is never silent.
    assert!(metrics.contains("ward_source_silent{domain=\"laboratory\",source=\"lab-main\"} 0"));

    mesh.send_all("adt-main", [adt("C2", "A08", "M1", "Deskword").as_slice()]).await;
    mesh.settle().await;
    assert_eq!(watch.look().await.expect("a look").iter().filter(|(_, _, silent)| !silent).count(), 1);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn desk_destroys_raw_bodies_at_their_end_past_no_hold_and_what_they_became_stays() {
    const DAY_MS: i64 = 86_400_000;
    let folder = mesh_folder();
    edit(
        folder.path(),
        "domains/ehr/domain.toml",
        "mode = \"production\"",
        "mode = \"production\"\nkeep = { refined = 30 }",
    );
    let clock = Arc::new(ManualClock::at(SystemClock.now().ms()));
    let mesh = Mesh::start_at(folder, clock.clone()).await;
    let messages =
        [adt("C1", "A01", "M1", "Deskword"), adt("C2", "A08", "M1", "Deskchanged"), adt("C3", "A01", "M2", "Held")];
    mesh.send_all("adt-main", messages.iter().map(Vec::as_slice)).await;
    mesh.settle().await;
    let held = mesh.get("dr-lee", "/fhir/ehr/Patient?identifier=M2").await.json();
    let held = held["entry"][0]["resource"]["id"].as_str().expect("an id").to_owned();
    let hold = json!({ "domain": "ehr", "patient": held, "kind": "legal", "reason": "case 12" });
    assert!(post(&mesh, "privacy-osei", "/admin/holds", hold).await.status.is_success());
    let before = content(&mesh, "ehr").await;

    let path = "/admin/journal/ehr/expire";
    let expire = async |dry: bool| mesh.client.post(path, None, &json!({ "dry_run": dry })).await.expect("an answer");
    assert_eq!(expire(false).await["due"], 0, "before its time");
    clock.advance_ms(31 * DAY_MS);
    let dry = expire(true).await;
    assert_eq!((&dry["due"], &dry["destroyed"], &dry["held"]), (&json!(3), &json!(0), &json!(1)), "{dry}");
    let done = expire(false).await;
    assert_eq!((&done["due"], &done["destroyed"], &done["held"]), (&json!(3), &json!(2), &json!(1)), "{done}");
    assert_eq!(expire(false).await["destroyed"], 0, "once");
    // Over the network nobody destroys anything.
    assert_eq!(post(&mesh, "admin-root", path, json!({})).await.status, 403);

    // The bodies are gone for everybody; the held one is there; what they became is as before.
    let permit = mesh.doors.gate.node_permit::<Read>("refine", &domain("ehr"), Layer::Bronze).expect("a permit");
    let journal = mesh.doors.domains[&domain("ehr")].intake.journal().clone();
    for (index, is_raw) in [(0, false), (1, false), (2, true)] {
        let entry = journal.read(&permit, index, 1, usize::MAX).await.expect("a read").pop().expect("an entry");
        let entry = entry.expect("the entry or what took its place");
        assert_eq!(entry.envelope.content == clinical::Content::Hl7v2, is_raw, "{index}");
        assert_eq!(entry.body.expose().starts_with(b"MSH"), is_raw);
    }
    assert_eq!(search(&mesh, "ehr", json!({"state": "expired"})).await, [1, 0]);
    let patient = mesh.get("dr-lee", "/fhir/ehr/Patient?identifier=M1").await.json();
    assert_eq!(patient["entry"][0]["resource"]["name"][0]["family"], "Deskchanged");

    // Over a restart and a catalog built anew from the journal.
    let folder = mesh.stop().await;
    without_catalog(folder.path());
    let mesh = Mesh::start_at(folder, clock).await;
    assert_eq!(content(&mesh, "ehr").await, before);
    let patient = mesh.get("dr-lee", "/fhir/ehr/Patient?identifier=M1").await.json();
    assert_eq!(patient["entry"][0]["resource"]["name"][0]["family"], "Deskchanged");
    assert_eq!(mesh.set_aside("ehr").await, Vec::<Value>::new());
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn desk_matches_results_that_nobody_can_be_found_for_and_takes_it_back() {
    let mesh = Mesh::start().await;
    let messages = [oru("C1", "M1", "F1", "mg/dL"), oru("C2", "", "F2", "mg/dL")];
    mesh.send_all("lab-main", messages.iter().map(Vec::as_slice)).await;
    mesh.settle().await;
    let list = mesh.client.get("/admin/worklist/laboratory", None).await.expect("an answer");
    assert_eq!(list["waiting"].as_array().map(Vec::len), Some(1), "{list}");
    let one = &list["waiting"][0];
    assert_eq!(
        (&one["index"], &one["type"], &one["resources"]["Observation"]),
        (&json!(1), &json!("ORU^R01"), &json!(1))
    );
    assert!(!list.to_string().contains("Deskword"));

    let patient = mesh.get("tech-novak", "/fhir/laboratory/Patient?identifier=M1").await.json();
    let patient = patient["entry"][0]["resource"]["id"].as_str().expect("an id").to_owned();
    let of_patient = format!("/fhir/laboratory/Observation?subject=Patient/{patient}");
    let count = async || mesh.get("tech-novak", &of_patient).await.json()["entry"].as_array().map_or(0, Vec::len);
    assert_eq!(count().await, 1);
    let path = "/admin/worklist/laboratory/1/match";
    let body = json!({ "patient": format!("Patient/{patient}") });
    for who in ["eng-lab", "admin-root", "dr-lee"] {
        assert_eq!(post(&mesh, who, path, body.clone()).await.status, 403, "{who}");
    }
    for (body, status) in [(json!({}), 400), (json!({"patient": "Patient/none"}), 404), (json!({"order": "?"}), 400)] {
        assert_eq!(post(&mesh, "tech-novak", path, body.clone()).await.status, status, "{body}");
    }
    let done = post(&mesh, "tech-novak", path, body).await;
    assert_eq!(done.status, 200, "{}", done.text());
    assert!(done.json()["changed"].as_u64() >= Some(2), "{}", done.text());
    assert_eq!(count().await, 2);
    let list = mesh.client.get("/admin/worklist/laboratory", None).await.expect("an answer");
    assert_eq!(list["waiting"], json!([]));
    assert_eq!(mesh.set_aside("laboratory").await, Vec::<Value>::new());

    let undone = post(&mesh, "tech-novak", "/admin/worklist/laboratory/1/undo", json!({})).await;
    assert_eq!(undone.status, 200, "{}", undone.text());
    assert_eq!(count().await, 1);
    let list = mesh.client.get("/admin/worklist/laboratory", None).await.expect("an answer");
    assert_eq!(list["waiting"][0]["index"], 1, "{list}");
    assert_eq!(post(&mesh, "tech-novak", "/admin/worklist/laboratory/1/undo", json!({})).await.status, 404);
    // A report of somebody who is known, by a message that names no order.
    let orders = async || mesh.client.get("/admin/worklist/laboratory?orders=true", None).await.expect("an answer");
    assert_eq!(orders().await["waiting"], json!([]));
    let alone = String::from_utf8(oru("C3", "M1", "F3", "mg/dL")).expect("text").replace("|PF3|F3^LAB|", "|||");
    mesh.send_all("lab-main", [alone.as_bytes()]).await;
    mesh.settle().await;
    let orders = orders().await;
    let lacking = orders["waiting"].as_array().cloned().unwrap_or_default();
    assert_eq!(lacking.len(), 1, "{orders}");
    assert_eq!((&lacking[0]["lacks"], &lacking[0]["type"]), (&json!("order"), &json!("ORU^R01")), "{orders}");
    assert!(!orders.to_string().contains("Deskword"));
    // Who decided it is on record with the patient.
    let saw = mesh.get("privacy-osei", &format!("/admin/audit/who-saw/laboratory/{patient}")).await.text();
    assert!(saw.contains("tech-novak"), "{saw}");
    // A catalog built anew says the same.
    let before = content(&mesh, "laboratory").await;
    let folder = mesh.stop().await;
    without_catalog(folder.path());
    let mesh = Mesh::start_in(folder).await;
    assert_eq!(content(&mesh, "laboratory").await, before);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn desk_keeps_a_source_in_shadow_out_of_sight_until_it_is_switched_on() {
    let folder = mesh_folder();
    let config = "domains/ehr/domain.toml";
    edit(folder.path(), config, "mode = \"production\"", "mode = \"production\"\nshadow = true");
    append(
        folder.path(),
        config,
        "\n[[route]]\nname = \"out\"\nto = \"file:outbox\"\npurpose = \"TREAT\"\ninternal = true\nfrom_beginning = true\n",
    );
    let mesh = Mesh::start_in(folder).await;
    let codes = mesh.send_all("adt-main", [adt("C1", "A01", "M1", "Deskword").as_slice()]).await;
    assert_eq!(codes, ["AA"]);
    mesh.settle().await;
    // Nothing is served, by any door, and nothing is sent on.
    for rtype in ["Patient", "Encounter"] {
        let bundle = mesh.get("dr-lee", &format!("/fhir/ehr/{rtype}")).await.json();
        assert!(bundle["entry"].as_array().is_none_or(Vec::is_empty), "{bundle}");
    }
    mesh.build("ehr", "patients").await;
    let rows = mesh.sql("dr-lee", "SELECT COUNT(*) AS n FROM ehr.patients").await;
    assert!(rows.text().contains("\"n\":0"), "{}", rows.text());
    while mesh.client.get("/admin/routes", None).await.expect("an answer")["routes"][0]["behind"] != 0 {
        tokio::task::yield_now().await;
    }
    assert!(!mesh.path().join("outbox").exists(), "a message of a source in shadow was sent on");
    assert_eq!(search(&mesh, "ehr", json!({"state": "shadow"})).await, [0]);

    // What it would have become is content.
    let day = SystemClock.now().to_string()[..10].to_owned();
    let path = format!("/admin/shadow/ehr/adt-main?day={day}");
    for who in ["admin-root", "ana-analyst", "eng-lab"] {
        assert_eq!(mesh.get(who, &path).await.status, 403, "{who}");
    }
    let ours = mesh.get("eng-ehr", &path).await;
    assert_eq!(ours.status, 200, "{}", ours.text());
    assert!(ours.text().contains("Deskword"));

    // Beside another engine's output, by the command.
    let theirs = mesh.path().join("theirs.ndjson");
    std::fs::write(&theirs, ours.body.as_ref()).expect("a file");
    let compare = async |expected: bool| {
        let file = theirs.display().to_string();
        let arguments = [
            "hl7",
            "shadow-diff",
            "--domain",
            "ehr",
            "--source",
            "adt-main",
            "--day",
            &day,
            "--with",
            &file,
            "--as",
            "eng-ehr",
            "--json",
        ];
        let output = ward(mesh.path(), &arguments).await;
        assert_eq!(output.status.success(), expected, "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let same = compare(true).await;
    assert!(same["differing"] == json!({}) && same["same"].as_u64() >= Some(2), "{same}");
    let changed = String::from_utf8_lossy(&ours.body).replace("Deskword", "Otherword");
    std::fs::write(&theirs, changed).expect("a file");
    let differs = compare(false).await;
    let told = json!({"type": "Patient", "element": "name.family", "how": "differs", "n": 1});
    assert!(differs["elements"].as_array().into_iter().flatten().any(|element| *element == told), "{differs}");
    assert!(!differs.to_string().contains("Otherword"));

    // Switched on: what came is brought in by a replay, what comes is served.
    let folder = mesh.stop().await;
    edit(folder.path(), config, "shadow = true", "shadow = false");
    let mesh = Mesh::start_in(folder).await;
    let done = post(&mesh, "eng-ehr", "/admin/journal/ehr/replay", json!({"source": "adt-main"})).await.json();
    assert_eq!(done["replayed"], 1, "{done}");
    let bundle = mesh.get("dr-lee", "/fhir/ehr/Patient?family=Deskword").await.json();
    assert_eq!(bundle["entry"].as_array().map(Vec::len), Some(1), "{bundle}");
    mesh.stop().await;
}

/// `ward` with these arguments, with its first line of output read.
async fn begin(arguments: &[&str]) -> (tokio::process::Child, Value) {
    let mut child = tokio::process::Command::new(program("ward"))
        .args(arguments)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("ward starts");
    let mut lines = BufReader::new(child.stdout.take().expect("standard output")).lines();
    let line = lines.next_line().await.expect("its output").expect("a line");
    // The rest of its output has somewhere to go.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (child, serde_json::from_str(&line).expect("JSON"))
}

#[tokio::test(flavor = "multi_thread")]
async fn desk_sends_and_receives_plain_and_with_certificates_of_both() {
    let folder = tempfile::tempdir().expect("a folder");
    net::DevCertificates::ensure(folder.path()).expect("certificates");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let batch = [adt("C1", "A01", "M1", "One"), adt("C2", "A08", "M1", "One"), adt("C3", "A03", "M1", "One")].concat();
    std::fs::write(folder.path().join("batch.hl7"), &batch).expect("a file");
    let (ca, server, server_key) = (file("ca.pem"), file("server.pem"), file("server.key"));
    let (client, client_key, messages) = (file("client.pem"), file("client.key"), file("batch.hl7"));
    for (with_tls, code, accepted) in [(false, "AA", 3), (true, "AA", 3), (false, "AE", 0)] {
        let out = file(&format!("in-{with_tls}-{code}"));
        let mut arguments = vec!["--json", "hl7", "receive", "--out", &out, "--count", "3", "--code", code];
        if with_tls {
            arguments.extend(["--certificate", &server, "--key", &server_key, "--client-authorities", &ca]);
        }
        let (mut receiver, said) = begin(&arguments).await;
        let port = said["listening"].as_str().and_then(|text| text.rsplit(':').next()).expect("a port").to_owned();
        let to = if with_tls { format!("mllps://localhost:{port}") } else { format!("mllp://127.0.0.1:{port}") };
        let mut arguments = vec!["--json", "hl7", "send", &messages, "--to", &to, "--rate", "200"];
        if with_tls {
            arguments.extend(["--authority", &ca, "--certificate", &client, "--key", &client_key]);
        }
        let output = ward(folder.path(), &arguments).await;
        let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        assert_eq!((&told["accepted"], &told["sent"]), (&json!(accepted), &json!(3)), "{told}");
        assert_eq!(output.status.success(), accepted == 3);
        assert!(told["latency_ms"]["p50"].as_f64() > Some(0.0), "{told}");
        assert!(receiver.wait().await.expect("its end").success());
        let mut files: Vec<_> =
            std::fs::read_dir(&out).expect("a folder").flatten().map(|entry| entry.path()).collect();
        files.sort();
        let received: Vec<u8> = files.iter().flat_map(|path| std::fs::read(path).expect("a file")).collect();
        assert_eq!(received, batch, "byte for byte, in order");
        assert!(files[0].ends_with("000001-ADT-A01.hl7"), "{files:?}");
    }
    // Stopped at the first refusal; in the clear to nobody outside; no receiver, no success.
    let out = file("in-stop");
    let (_receiver, said) = begin(&["--json", "hl7", "receive", "--out", &out, "--code", "AR"]).await;
    let to = format!("mllp://{}", said["listening"].as_str().expect("an address"));
    let output = ward(folder.path(), &["--json", "hl7", "send", &messages, "--to", &to, "--stop-on-error"]).await;
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&told["sent"], &told["refused"]["AR"]), (&json!(1), &json!(1)), "{told}");
    let output = ward(folder.path(), &["hl7", "send", &messages, "--to", "mllp://192.0.2.1:2575"]).await;
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("in the clear"));

    // Files: shown, checked, compared, without a node.
    let output = ward(folder.path(), &["hl7", "show", &messages]).await;
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("Patient Name") && !shown.contains("One^Test"), "{shown}");
    let output = ward(folder.path(), &["hl7", "show", &messages, "--phi", "--segment", "PID"]).await;
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("One^Test") && !shown.contains("Event Type Code"), "{shown}");
    let bad = file("bad.hl7");
    let text = String::from_utf8(adt("C1", "A01", "M1", "One")).expect("text").replace("19700203", "19701303");
    std::fs::write(&bad, text).expect("a file");
    let output = ward(folder.path(), &["--json", "hl7", "lint", &bad]).await;
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stdout).contains("\"place\":\"PID-7\""));
    let good = file("good.hl7");
    std::fs::write(&good, adt("C1", "A01", "M1", "One")).expect("a file");
    assert!(ward(folder.path(), &["hl7", "lint", &good]).await.status.success());
    let output = ward(folder.path(), &["hl7", "diff", &good, &bad, "--phi"]).await;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success() && told.contains("19700203 → 19701303") && told.contains("1 field(s)"), "{told}");
}
