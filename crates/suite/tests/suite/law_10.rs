//! Law 10: destroyed means unreadable. One patient goes from the request to the certificate; then a copy of everything
//! that was taken before, under the living root key, opens nothing of it, while the others open on the living node.

use std::path::Path;

use hyper::Method;
use serde_json::{Value, json};

use crate::carve::{Needles, Searched};
use crate::harness::{Mesh, adt, mesh_folder};

const GONE: &str = "ZQERASEDFAMILY";
const KEPT: &str = "ZQREMAINFAMILY";

async fn post(mesh: &Mesh, who: &str, path: &str, body: Value) -> (u16, Value) {
    let token = mesh.token(who).await;
    let headers = [("content-type", "application/json")];
    let answer = mesh.https().await.call(Method::POST, path, Some(&token), &headers, body.to_string()).await;
    let answer = answer.expect("an answer");
    (answer.status.as_u16(), answer.json())
}

async fn id_of(mesh: &Mesh, family: &str) -> Option<String> {
    let found = mesh.get("dr-lee", &format!("/fhir/ehr/Patient?family={family}")).await.json();
    found["entry"][0]["resource"]["id"].as_str().map(str::to_owned)
}

/// A merge: one message that names both patients, so that its key is held by neither.
fn merge(control_id: &str, survivor: &str, loser: &str) -> Vec<u8> {
    let mut text = String::from_utf8(adt(control_id, "A40", survivor, KEPT)).expect("text");
    text.push_str(&format!("MRG|{loser}^^^GENHOSP^MR||||||{GONE}^Test\r"));
    text.into_bytes()
}

async fn request(mesh: &Mesh, who: &str, patient: &str, ground: &str) -> (u16, Value) {
    let body = json!({ "domain": "ehr", "patient": patient, "ground": ground, "reason": "order 4711" });
    post(mesh, who, "/admin/erasures", body).await
}

/// Feeds three patients, two of them in one message, and builds a product twice.
async fn prepared() -> (Mesh, String, String) {
    let mesh = Mesh::start_in(mesh_folder()).await;
    let messages = [
        adt("E1", "A01", "MRNZQKEPT1", KEPT),
        adt("E2", "A01", "MRNZQGONE1", GONE),
        adt("E3", "A08", "MRNZQGONE1", GONE),
        adt("E4", "A01", "MRNZQLATER", "ZQLATERFAMILY"),
    ];
    let codes = mesh.send_all("adt-main", messages.iter().map(Vec::as_slice)).await;
    assert!(codes.iter().all(|code| code == "AA"), "{codes:?}");
    mesh.settle().await;
    mesh.build("ehr", "patients").await;
    mesh.build("ehr", "patients").await;
    let (gone, kept) = (id_of(&mesh, GONE).await.expect("found"), id_of(&mesh, KEPT).await.expect("found"));
    (mesh, gone, kept)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type().expect("a type") {
            kind if kind.is_dir() => copy(&path, &target),
            kind if kind.is_file() => drop(std::fs::copy(&path, &target).expect("a copy")),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn law_10_a_record_goes_only_by_two_others_and_past_no_hold() {
    let (mesh, gone, kept) = prepared().await;
    // The administrator asks for nothing, and a duty to keep stands against the patient's own wish.
    assert_eq!(request(&mesh, "admin-root", &gone, "order").await.0, 403);
    let (status, body) = request(&mesh, "privacy-osei", &gone, "patient-request").await;
    assert!(status == 409 && body["error"].as_str().is_some_and(|e| e.contains("clinical-6y")), "{status} {body}");
    // A hold stands against it, and lifting it opens the way.
    let hold = json!({ "domain": "ehr", "patient": gone, "kind": "legal", "reason": "case 12" });
    let (_, placed) = post(&mesh, "privacy-osei", "/admin/holds", hold).await;
    let (status, body) = request(&mesh, "privacy-osei", &gone, "order").await;
    let number = placed["hold"].as_u64().expect("a hold");
    assert!(
        status == 409 && body["error"].as_str().is_some_and(|e| e.contains(&format!("control/{number}"))),
        "{body}"
    );
    assert_eq!(post(&mesh, "privacy-osei", &format!("/admin/holds/{number}/lift"), Value::Null).await.0, 200);
    let (status, asked) = request(&mesh, "privacy-osei", &gone, "order").await;
    assert_eq!(status, 200, "{asked}");
    let approve = format!("/admin/erasures/{}/approve", asked["erasure"]);
    // Neither the requester nor one person twice.
    assert_eq!(post(&mesh, "privacy-osei", &approve, Value::Null).await.0, 403);
    assert_eq!(post(&mesh, "privacy-lund", &approve, Value::Null).await.0, 200);
    assert_eq!(post(&mesh, "privacy-lund", &approve, Value::Null).await.0, 403);
    assert_eq!(
        mesh.get("dr-lee", &format!("/fhir/ehr/Patient/{gone}")).await.status,
        200,
        "one approval hides nothing"
    );
    // The second hides before it is answered, on every door.
    let start = std::time::Instant::now();
    let (status, body) = post(&mesh, "privacy-abara", &approve, Value::Null).await;
    assert_eq!(status, 200, "{body}");
    for path in [format!("/fhir/ehr/Patient/{gone}"), format!("/fhir/ehr/Patient/{gone}/_history")] {
        assert_eq!(mesh.get("dr-lee", &path).await.status, 404, "{path}");
    }
    assert!(id_of(&mesh, GONE).await.is_none());
    let included = mesh.get("dr-lee", "/fhir/ehr/Encounter?_include=Encounter:patient").await;
    assert!(included.status == 200 && !included.text().contains(GONE) && included.text().contains(KEPT));
    let rows = mesh.sql("dr-lee", "SELECT family FROM ehr.patients").await;
    assert!(rows.status == 200 && !rows.text().contains(GONE) && rows.text().contains(KEPT), "{}", rows.text());
    eprintln!("law 10: approved, hidden and looked for on five ways in {} ms", start.elapsed().as_millis());
    let saw = mesh.get("privacy-osei", &format!("/admin/audit/who-saw/ehr/{gone}")).await;
    assert!(saw.status == 200 && saw.text().contains("dr-lee"), "{}", saw.text());
    assert_eq!(mesh.get("dr-lee", &format!("/fhir/ehr/Patient/{kept}")).await.status, 200);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn law_10_a_copy_from_before_opens_nothing_of_the_erased() {
    let (mesh, gone, kept) = prepared().await;
    let codes = mesh.send_all("adt-main", [merge("E5", "MRNZQKEPT1", "MRNZQGONE1").as_slice()]).await;
    assert_eq!(codes, ["AA"]);
    mesh.settle().await;
    mesh.build("ehr", "patients").await;
    let folder = mesh.stop().await;
    let before = tempfile::tempdir().expect("a folder");
    copy(folder.path(), before.path());

    let mesh = Mesh::start_in(folder).await;
    let (status, asked) = request(&mesh, "privacy-osei", &gone, "order").await;
    assert_eq!(status, 200, "{asked}");
    let path = format!("/admin/erasures/{}", asked["erasure"]);
    for who in ["privacy-lund", "privacy-abara"] {
        let (status, body) = post(&mesh, who, &format!("{path}/approve"), Value::Null).await;
        assert_eq!(status, 200, "{body}");
    }
    let (status, done) = post(&mesh, "privacy-osei", &format!("{path}/finish"), Value::Null).await;
    assert!(status == 200 && done["state"] == "certified", "{status} {done}");
    let erasure = mesh.get("privacy-osei", &path).await.json();
    let certificate = erasure["certificate"].as_str().expect("a certificate").to_owned();
    eprintln!("{certificate}");
    assert!(certificate.contains("scope key") && certificate.contains("1 shared journal entries replaced"));
    assert!(!certificate.contains(GONE) && certificate.contains("dr-lee through fhir"));

    // The others are as they were, products too; a later message of the same number is a new record.
    assert_eq!(mesh.get("dr-lee", &format!("/fhir/ehr/Patient/{kept}")).await.status, 200);
    let rows = mesh.sql("dr-lee", "SELECT family FROM ehr.patients").await;
    assert!(!rows.text().contains(GONE) && rows.text().contains(KEPT), "{}", rows.text());
    mesh.send_all("adt-main", [adt("E6", "A01", "MRNZQGONE1", "ZQNEWFAMILY").as_slice()]).await;
    mesh.settle().await;
    let again = id_of(&mesh, "ZQNEWFAMILY").await.expect("a new record");
    assert_ne!(again, gone);
    let later = id_of(&mesh, "ZQLATERFAMILY").await.expect("found");
    let silver_before = mesh.get("dr-lee", &format!("/fhir/ehr/Patient/{kept}/_history")).await.json()["entry"].clone();
    let folder = mesh.stop().await;

    // A replay into an empty catalog gives the others what they had.
    for file in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _ = std::fs::remove_file(folder.path().join("data").join(file));
    }
    let mesh = Mesh::start_in(folder).await;
    assert_eq!(id_of(&mesh, "ZQLATERFAMILY").await, Some(later));
    assert_eq!(id_of(&mesh, "ZQNEWFAMILY").await, Some(again));
    assert!(id_of(&mesh, GONE).await.is_none());
    let silver_after = mesh.get("dr-lee", &format!("/fhir/ehr/Patient/{kept}/_history")).await.json()["entry"].clone();
    assert_eq!(silver_after, silver_before, "the survivor of a shared message");
    let folder = mesh.stop().await;

    // The copy from before, under the keys as they are now: our own code opens nothing of it.
    std::fs::remove_dir_all(before.path().join("keys")).expect("the old keys");
    copy(&folder.path().join("keys"), &before.path().join("keys"));
    opens_nothing(before.path()).await;
    // Nor does the old data with the living key table.
    for file in ["keys.db", "keys.db-wal", "keys.db-shm"] {
        let _ = std::fs::remove_file(before.path().join("data").join(file));
        let _ = std::fs::copy(folder.path().join("data").join(file), before.path().join("data").join(file));
    }
    opens_nothing(before.path()).await;
}

/// Starts a node on the copy where it starts at all, asks it, and searches every file for the sentinels.
async fn opens_nothing(folder: &Path) {
    let config = ward::config::Config::load(folder).expect("the mesh folder");
    let around = ward::Surroundings {
        mint: crate::harness::mint(),
        clock: std::sync::Arc::new(base::SystemClock),
        entropy: std::sync::Arc::new(base::SystemEntropy),
    };
    match ward::build(config, around).await {
        Err(error) => eprintln!("law 10: a node on the copy does not start: {error}"),
        Ok(node) => {
            let doors = node.doors.clone();
            let domain = crate::harness::domain("ehr");
            let read = doors.gate.node_permit::<base::Read>("build", &domain, base::Layer::Silver).expect("a permit");
            let (mut after, mut bodies) = (0, 0);
            loop {
                let page = doors.silver.scan(&read, &domain, "Patient", after, 100).await.expect("a scan");
                for resource in &page.resources {
                    bodies += 1;
                    let body = String::from_utf8_lossy(resource.body.expose()).into_owned();
                    assert!(!body.contains(GONE), "the copy opens");
                }
                after = page.after;
                if !page.more {
                    break;
                }
            }
            eprintln!("law 10: the copy opens {bodies} other patients");
            node.run_until(std::future::ready(())).await;
        }
    }
    let needles = Needles::new(&[GONE.to_owned(), "MRNZQGONE1".to_owned()]);
    let mut searched = Searched::default();
    needles.search_folder(&folder.join("data"), &mut searched);
    assert!(searched.files > 10 && searched.hits.is_empty(), "{:?}", searched.hits.len());
}
