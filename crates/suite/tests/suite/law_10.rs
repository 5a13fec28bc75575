//! Law 10: destroyed means unreadable. One patient, fed by HL7 and FHIR, goes from the request to the certificate; then a
//! copy of everything that was taken before opens nothing of it under the living keys, while the others read as before.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::{SystemClock, SystemEntropy};
use hyper::Method;
use serde_json::{Value, json};
use store::SqlKeyTable;
use tempfile::TempDir;
use vault::{FileRoot, FileRootKeys, Kind, ObjectId, ObjectName, RootSecret, Slot, Vault};
use ward::wire::{HttpsClient, WireError};

use crate::carve::{Needles, Searched};
use crate::harness::{Mesh, Process, adt, copy, domain, mesh_folder};
use crate::law_1::journal_permit;

const GONE: &str = "ZQERASEDFAMILY";
const KEPT: &str = "ZQREMAINFAMILY";
const NOTE: &str = "ZQERASEDNOTE";

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

/// Names a patient by a merge that an A08 does not make.
fn useless_merge(control_id: &str, of: &str, family: &str, named: &str) -> Vec<u8> {
    let mut text = String::from_utf8(adt(control_id, "A08", of, family)).expect("text");
    text.push_str(&format!("MRG|{named}^^^GENHOSP^MR||||||{GONE}^Test\r"));
    text.into_bytes()
}

/// What the entries of the journal read like that still open.
async fn readable(mesh: &Mesh) -> Vec<String> {
    let journal = mesh.doors.domains[&domain("ehr")].intake.journal();
    let entries = journal.read(&journal_permit("ehr"), 0, 10_000, usize::MAX).await.expect("a journal");
    let text = |entry: clinical::JournalEntry| String::from_utf8_lossy(entry.body.expose()).into_owned();
    entries.into_iter().flatten().map(text).collect()
}

/// A transaction about both patients: a note of each.
pub fn both(gone: &str, kept: &str) -> Value {
    let entry = |patient: &str, url: &str, note: &str| {
        json!({
            "fullUrl": url,
            "request": { "method": "POST", "url": "Observation" },
            "resource": {
                "resourceType": "Observation", "status": "final", "code": { "text": "note" },
                "subject": { "reference": format!("Patient/{patient}") }, "valueString": note
            }
        })
    };
    let entries = [
        entry(gone, "urn:uuid:0d9a7c1e-1f0e-4f6e-9d5a-1a7f3b6c0001", NOTE),
        entry(kept, "urn:uuid:0d9a7c1e-1f0e-4f6e-9d5a-1a7f3b6c0002", "ZQKEPTNOTE"),
    ];
    json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries })
}

async fn request(mesh: &Mesh, who: &str, patient: &str, ground: &str) -> (u16, Value) {
    let body = json!({ "domain": "ehr", "patient": patient, "ground": ground, "reason": "order 4711" });
    post(mesh, who, "/admin/erasures", body).await
}

/// Feeds patients by HL7 and FHIR, two of them in shared inputs, and builds a product twice.
async fn prepared() -> (Mesh, String, String) {
    let mesh = Mesh::start_in(mesh_folder()).await;
    let messages = [
        adt("E1", "A01", "MRNZQKEPT1", KEPT),
        useless_merge("E1B", "MRNZQKEPT1", KEPT, "MRNZQGONE1"),
        adt("E2", "A01", "MRNZQGONE1", GONE),
        adt("E3", "A08", "MRNZQGONE1", GONE),
        // Says nothing new: about its patient all the same.
        adt("E3B", "A08", "MRNZQGONE1", GONE),
        adt("E4", "A01", "MRNZQLATER", "ZQLATERFAMILY"),
        // Before its patient is known, and after.
        useless_merge("E4B", "MRNZQLATER", "ZQLATERFAMILY", "MRNZQGONE1"),
    ];
    let codes = mesh.send_all("adt-main", messages.iter().map(Vec::as_slice)).await;
    assert!(codes.iter().all(|code| code == "AA"), "{codes:?}");
    mesh.settle().await;
    let (gone, kept) = (id_of(&mesh, GONE).await.expect("found"), id_of(&mesh, KEPT).await.expect("found"));
    let bundle = mesh.post_fhir("dr-lee", "/fhir/ehr", &both(&gone, &kept)).await;
    assert_eq!(bundle.status, 200, "{}", bundle.text());
    mesh.build("ehr", "patients").await;
    mesh.build("ehr", "patients").await;
    (mesh, gone, kept)
}

/// What everybody else's records read like.
async fn others(mesh: &Mesh, kept: &str) -> Vec<String> {
    let mut read = Vec::new();
    for path in [
        format!("/fhir/ehr/Patient/{kept}/_history"),
        format!("/fhir/ehr/Observation?patient={kept}"),
        format!("/fhir/ehr/Encounter?patient={kept}&_include=Encounter:patient"),
        "/fhir/ehr/Patient?family=ZQLATERFAMILY".to_owned(),
    ] {
        let answer = mesh.get("dr-lee", &path).await;
        assert_eq!(answer.status, 200, "{path}");
        // A search finds both records of a person who was merged: those of the other go with it.
        let subject = format!("Patient/{kept}");
        let mut entries = answer.json()["entry"].as_array().cloned().unwrap_or_default();
        entries.retain(|entry| entry["resource"]["subject"]["reference"].as_str().is_none_or(|of| of == subject));
        entries.retain(|entry| entry["search"]["mode"] != "include" || entry["resource"]["id"] == kept);
        // The port is another at each start.
        read.push(Value::from(entries).to_string().replace(&mesh.addresses.http.to_string(), "node"));
    }
    let rows = mesh.sql("dr-lee", "SELECT mrn, family, birth_date FROM ehr.patients ORDER BY mrn").await;
    read.extend(rows.text().lines().filter(|row| !row.contains(GONE)).map(str::to_owned));
    read
}

#[tokio::test(flavor = "multi_thread")]
async fn law_10_a_record_goes_only_by_two_others_and_past_no_hold_duty_or_request() {
    let (mesh, gone, kept) = prepared().await;
    let said = |body: &Value, text: &str| body["error"].as_str().is_some_and(|error| error.contains(text));
    // The administrator asks for nothing, and a duty to keep stands against the patient's own wish.
    assert_eq!(request(&mesh, "admin-root", &gone, "order").await.0, 403);
    let (status, body) = request(&mesh, "privacy-osei", &gone, "patient-request").await;
    assert!(status == 409 && said(&body, "clinical-6y"), "{status} {body}");
    // A hold and an open request stand against it, and lifting them opens the way.
    for (kind, text) in [("legal", "legal hold"), ("patient-request", "open request")] {
        let hold = json!({ "domain": "ehr", "patient": gone, "kind": kind, "reason": "case 12" });
        let (_, placed) = post(&mesh, "privacy-osei", "/admin/holds", hold).await;
        let number = placed["hold"].as_u64().expect("a hold");
        let (status, body) = request(&mesh, "privacy-osei", &gone, "order").await;
        assert!(status == 409 && said(&body, text) && said(&body, &format!("control/{number}")), "{body}");
        let lift = format!("/admin/holds/{number}/lift");
        assert_eq!(post(&mesh, "privacy-osei", &lift, json!({ "reason": "closed" })).await.0, 200);
    }
    let (status, asked) = request(&mesh, "privacy-osei", &gone, "order").await;
    assert_eq!(status, 200, "{asked}");
    let approve = format!("/admin/erasures/{}/approve", asked["erasure"]);
    // Neither the requester nor one person twice.
    assert_eq!(post(&mesh, "privacy-osei", &approve, Value::Null).await.0, 403);
    assert_eq!(post(&mesh, "privacy-lund", &approve, Value::Null).await.0, 200);
    assert_eq!(post(&mesh, "privacy-lund", &approve, Value::Null).await.0, 403);
    let read = mesh.get("dr-lee", &format!("/fhir/ehr/Patient/{gone}")).await;
    assert_eq!(read.status, 200, "one approval hides nothing");
    // The second hides before it is answered, on every door.
    let start = std::time::Instant::now();
    let (status, body) = post(&mesh, "privacy-abara", &approve, Value::Null).await;
    assert_eq!(status, 200, "{body}");
    is_hidden_everywhere(&mesh, &gone).await;
    eprintln!("law 10: approved, hidden and looked for through every door in {} ms", start.elapsed().as_millis());
    let saw = mesh.get("privacy-osei", &format!("/admin/audit/who-saw/ehr/{gone}")).await;
    assert!(saw.status == 200 && saw.text().contains("dr-lee"), "{}", saw.text());
    assert_eq!(mesh.get("dr-lee", &format!("/fhir/ehr/Patient/{kept}")).await.status, 200);
    mesh.stop().await;
}

async fn is_hidden_everywhere(mesh: &Mesh, gone: &str) {
    for path in [
        format!("/fhir/ehr/Patient/{gone}"),
        format!("/fhir/ehr/Patient/{gone}/_history"),
        format!("/fhir/ehr/Patient/{gone}/_history/1"),
    ] {
        assert_eq!(mesh.get("dr-lee", &path).await.status, 404, "{path}");
    }
    assert!(id_of(mesh, GONE).await.is_none());
    for path in ["/fhir/ehr/Encounter?_include=Encounter:patient", "/fhir/ehr/Observation?_count=100"] {
        let found = mesh.get("dr-lee", path).await;
        let text = found.text();
        assert!(
            found.status == 200 && !text.contains(GONE) && !text.contains(NOTE) && text.contains("entry"),
            "{path}"
        );
    }
    let rows = mesh.sql("dr-lee", "SELECT family FROM ehr.patients").await;
    assert!(rows.status == 200 && !rows.text().contains(GONE) && rows.text().contains(KEPT), "{}", rows.text());
    // Writes to it answer clearly.
    let note = json!({
        "resourceType": "Observation", "status": "final", "code": { "text": "late" },
        "subject": { "reference": format!("Patient/{gone}") }
    });
    let late = mesh.post_fhir("dr-lee", "/fhir/ehr/Observation", &note).await;
    assert!(late.status == 410 && late.text().contains("erased"), "{} {}", late.status, late.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn law_10_a_copy_from_before_opens_nothing_of_the_erased() {
    let (mesh, gone, kept) = prepared().await;
    let codes = mesh.send_all("adt-main", [merge("E5", "MRNZQKEPT1", "MRNZQGONE1").as_slice()]).await;
    assert_eq!(codes, ["AA"]);
    mesh.settle().await;
    mesh.build("ehr", "patients").await;
    let (before, frames) = (others(&mesh, &kept).await, frame_slots(&mesh));
    assert!(readable(&mesh).await.iter().filter(|body| body.contains(GONE)).count() >= 6);
    let folder = mesh.stop().await;
    let old = tempfile::tempdir().expect("a folder");
    copy(folder.path(), old.path());

    let mesh = Mesh::start_in(folder).await;
    let certificate = erase(&mesh, &gone).await;
    eprintln!("{certificate}");
    assert!(certificate.contains("scope key") && certificate.contains("4 shared journal entries replaced"));
    let named = readable(&mesh).await.iter().filter(|body| body.contains(GONE) || body.contains("MRNZQGONE1")).count();
    assert_eq!(named, 0, "entries of others still name the erased");
    assert!(!certificate.contains(GONE) && certificate.contains("dr-lee for TREAT through fhir"));
    assert!(certificate.contains("dr-lee for TREAT through sql-http"));
    is_hidden_everywhere(&mesh, &gone).await;
    let saw = mesh.get("privacy-osei", &format!("/admin/audit/who-saw/ehr/{gone}")).await;
    assert!(saw.status == 200 && saw.text().contains("dr-lee"), "who saw it is still answered: {}", saw.text());

    // The others are as they were, products too; a later message of the same number is a new record.
    assert_eq!(others(&mesh, &kept).await, before);
    mesh.send_all("adt-main", [adt("E6", "A01", "MRNZQGONE1", "ZQNEWFAMILY").as_slice()]).await;
    mesh.settle().await;
    let again = id_of(&mesh, "ZQNEWFAMILY").await.expect("a new record");
    assert_ne!(again, gone);
    let folder = mesh.stop().await;
    sentinels_are_gone(folder.path());

    // A replay into an empty catalog gives the others what they had.
    for file in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _ = std::fs::remove_file(folder.path().join("data").join(file));
    }
    let mesh = Mesh::start_in(folder).await;
    assert_eq!(others(&mesh, &kept).await[..4], before[..4]);
    assert_eq!(id_of(&mesh, "ZQNEWFAMILY").await, Some(again));
    is_hidden_everywhere(&mesh, &gone).await;
    let folder = mesh.stop().await;

    the_copy_is_noise(old.path(), folder.path(), &frames).await;
}

/// From the request to the certificate.
pub async fn erase(mesh: &Mesh, patient: &str) -> String {
    let (status, asked) = request(mesh, "privacy-osei", patient, "order").await;
    assert_eq!(status, 200, "{asked}");
    let path = format!("/admin/erasures/{}", asked["erasure"]);
    for who in ["privacy-lund", "privacy-abara"] {
        let (status, body) = post(mesh, who, &format!("{path}/approve"), Value::Null).await;
        assert_eq!(status, 200, "{body}");
    }
    let (status, done) = post(mesh, "privacy-osei", "/admin/erasures/finish", Value::Null).await;
    assert_eq!(status, 200, "{done}");
    let erasure = mesh.get("privacy-osei", &path).await.json();
    assert_eq!(erasure["state"], "certified", "{erasure}");
    erasure["certificate"].as_str().expect("a certificate").to_owned()
}

fn sentinels_are_gone(folder: &Path) {
    let needles = Needles::new(&[GONE.to_owned(), "MRNZQGONE1".to_owned(), NOTE.to_owned()]);
    let mut searched = Searched::default();
    needles.search_folder(&folder.join("data"), &mut searched);
    assert!(searched.files > 10 && searched.hits.is_empty(), "{:?}", searched.hits);
}

/// A vault over a key table, under the root and epoch keys of a mesh folder.
async fn vault_over(keys_of: &Path, table: Arc<SqlKeyTable>) -> Vault {
    let path = keys_of.join("keys/machine.key");
    let root = FileRoot {
        folder: keys_of.join("keys"),
        data_folder: keys_of.join("data"),
        secret: RootSecret::MachineKey { path },
    };
    let keys = FileRootKeys::open(&root, Arc::new(SystemEntropy)).expect("the root keys");
    Vault::open(Arc::new(keys), table, Arc::new(SystemClock), Arc::new(SystemEntropy)).await.expect("a vault")
}

async fn table(folder: &Path) -> Arc<SqlKeyTable> {
    Arc::new(
        SqlKeyTable::open(&format!("sqlite:{}", folder.join("data/keys.db").display())).await.expect("a key table"),
    )
}

/// Every slot of a key table, read by another program than ours. But for those of manifests: they name no patient, and
/// their scope stays, since its slots lie in the frames of the control log too.
fn slots_of(folder: &Path) -> Vec<Slot> {
    let script = "import sqlite3, sys\n\
                  query = 'SELECT slot.object, slot.scope, slot.wrapped FROM slot JOIN scope ON scope.id = slot.scope'\n\
                  for row in sqlite3.connect(sys.argv[1]).execute(query + ' WHERE retention <> \"control\"'):\n\
                  \x20   print(''.join(bytes(part).hex() for part in row))";
    let path = folder.join("data/keys.db");
    let output = std::process::Command::new("python3").arg("-c").arg(script).arg(path).output().expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).expect("text");
    lines.lines().map(|line| Slot::from_bytes(&base::hex::decode(line).expect("hex")).expect("a slot")).collect()
}

/// Every slot that lies in the frames of a journal.
fn frame_slots(mesh: &Mesh) -> Vec<Slot> {
    let journal = mesh.doors.domains[&domain("ehr")].intake.journal();
    let entries = journal.log().read(0, 10_000, usize::MAX).expect("a journal");
    entries.iter().flat_map(|entry| entry.slots.chunks(Slot::BYTES)).filter_map(Slot::from_bytes).collect()
}

/// How many of the slots a vault opens: a slot that opens gives a key, whatever it is for.
async fn opened(vault: &Vault, slots: &[Slot]) -> usize {
    let ehr = domain("ehr");
    let mut opened = 0;
    for slot in slots {
        let name = ObjectName { domain: &ehr, kind: Kind::Resource, id: b"any", version: 1 };
        opened += usize::from(vault.load_key_with_slot(slot, name).await.is_ok());
    }
    opened
}

/// `old`: everything as it was, with the root of then. `living`: the mesh folder as it is now.
async fn the_copy_is_noise(old: &Path, living: &Path, frames: &[Slot]) {
    let (before, now) = (slots_of(old), slots_of(living));
    let kept: HashSet<ObjectId> = now.iter().map(|slot| slot.object).collect();
    let gone: Vec<Slot> = before.iter().filter(|slot| !kept.contains(&slot.object)).copied().collect();
    // The test can fail: under the root of then everything opens.
    let then = vault_over(old, table(old).await).await;
    assert_eq!(opened(&then, &before).await, before.len());
    assert!(gone.len() >= 10, "{} slots are gone", gone.len());
    assert_eq!(opened(&then, frames).await, frames.len());
    drop(then);
    // The old key table under the living root keys: nothing of anybody, its epochs are gone.
    let mixed = vault_over(living, table(old).await).await;
    assert_eq!(opened(&mixed, &before).await + opened(&mixed, frames).await, 0, "an epoch was not destroyed");
    // The old slots, put into the living key table: nothing of the erased, the others' by their living slots.
    let alive = vault_over(living, table(living).await).await;
    assert_eq!(opened(&alive, &gone).await, 0, "a key of the erased was not destroyed");
    assert_eq!(opened(&alive, frames).await, 0, "a key of the door was not destroyed");
    assert_eq!(opened(&alive, &now).await, now.len());
    eprintln!(
        "law 10: of {} key slots of the copy {} are gone and open nothing; the other {} open by the living table alone",
        before.len(),
        gone.len(),
        before.len() - gone.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn law_10_what_was_kept_long_enough_goes_the_same_way() {
    let at = |year: i32| Arc::new(base::ManualClock::at(base::time::days_from_civil(year, 6, 1) * 86_400_000));
    let mesh = Mesh::start_at(mesh_folder(), at(2016)).await;
    assert_eq!(mesh.send_all("adt-main", [adt("E1", "A01", "MRNZQGONE1", GONE).as_slice()]).await, ["AA"]);
    mesh.settle().await;
    let folder = mesh.stop().await;

    let mesh = Mesh::start_at(folder, at(2026)).await;
    assert_eq!(mesh.send_all("adt-main", [adt("E2", "A01", "MRNZQKEPT1", KEPT).as_slice()]).await, ["AA"]);
    mesh.settle().await;
    let plan = mesh.get("privacy-osei", "/admin/retention").await.json();
    let rows: Vec<_> =
        plan["retention"].as_array().expect("rows").iter().filter(|row| row["domain"] == "ehr").collect();
    let row = |n: usize| {
        (rows[n]["year"].clone(), rows[n]["records"].clone(), rows[n]["until"].clone(), rows[n]["due"].clone())
    };
    assert_eq!(row(0), (json!(2016), json!(1), json!(2022), json!(true)));
    assert_eq!(row(1), (json!(2026), json!(1), json!(2032), json!(false)));
    let body = |through: u16| json!({ "domain": "ehr", "through": through, "reason": "schedule of 2026" });
    assert_eq!(post(&mesh, "privacy-osei", "/admin/retention", body(2020)).await.0, 409, "kept through 2026");
    let (status, asked) = post(&mesh, "privacy-osei", "/admin/retention", body(2019)).await;
    assert_eq!(status, 200, "{asked}");
    let path = format!("/admin/erasures/{}", asked["disposal"]);
    for who in ["privacy-lund", "privacy-abara"] {
        let (status, body) = post(&mesh, who, &format!("{path}/approve"), Value::Null).await;
        assert_eq!(status, 200, "{body}");
    }
    let (status, done) = post(&mesh, "privacy-osei", "/admin/erasures/finish", Value::Null).await;
    assert_eq!(status, 200, "{done}");
    let disposal = mesh.get("privacy-osei", &path).await.json();
    assert_eq!((&disposal["state"], &disposal["records"]), (&json!("certified"), &json!(1)), "{disposal}");
    assert!(id_of(&mesh, GONE).await.is_none() && id_of(&mesh, KEPT).await.is_some());
    sentinels_are_gone(mesh.stop().await.path());
}

/// Those who ask for an erasure and approve it, at a process that may be killed at any time.
struct Officers {
    address: SocketAddr,
    authority: PathBuf,
    tokens: Vec<(&'static str, String)>,
}

impl Officers {
    async fn at(process: &Process, folder: &Path) -> Officers {
        let mut tokens = Vec::new();
        for who in ["privacy-osei", "privacy-lund", "privacy-abara"] {
            tokens.push((who, process.token(who).await));
        }
        Officers { address: process.http, authority: folder.join("tls/ca.pem"), tokens }
    }

    /// What a process that is there answers must be 200.
    async fn call(&self, who: usize, method: Method, path: &str, body: Value) -> Result<Value, WireError> {
        let mut https = HttpsClient::connect(self.address, &self.authority).await?;
        let headers = [("content-type", "application/json")];
        let answer = https.call(method, path, Some(&self.tokens[who].1), &headers, body.to_string()).await?;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        Ok(answer.json())
    }

    /// The one erasure there is; null when nothing was asked for.
    async fn erasure(&self) -> Result<Value, WireError> {
        let listed = self.call(0, Method::GET, "/admin/erasures", Value::Null).await?;
        let erasures = listed["erasures"].as_array().cloned().unwrap_or_default();
        assert!(erasures.len() <= 1, "{listed}");
        Ok(erasures.into_iter().next().unwrap_or_default())
    }

    /// From wherever it stands to its certificate.
    async fn erase(&self, patient: &str) -> Result<Value, WireError> {
        let mut found = self.erasure().await?;
        if found.is_null() {
            let body = json!({ "domain": "ehr", "patient": patient, "ground": "order", "reason": "order 4711" });
            self.call(0, Method::POST, "/admin/erasures", body).await?;
            found = self.erasure().await?;
        }
        let approvers = found["approvers"].as_array().cloned().unwrap_or_default();
        for who in (1..3).filter(|who| !approvers.contains(&json!(self.tokens[*who].0))) {
            let path = format!("/admin/erasures/{}/approve", found["number"]);
            self.call(who, Method::POST, &path, Value::Null).await?;
        }
        self.call(0, Method::POST, "/admin/erasures/finish", Value::Null).await?;
        self.erasure().await
    }
}

/// Erases in a copy of a mesh folder, by a process that is killed after some time, and goes on in another one. The copy,
/// and how far it was when the second process began.
async fn erased_with_a_kill(prepared: &Path, gone: &str, kill_after: Duration) -> (TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    copy(prepared, folder.path());
    let process = Process::start(folder.path()).await;
    let (officers, patient) = (Officers::at(&process, folder.path()).await, gone.to_owned());
    let erasing = tokio::spawn(async move { officers.erase(&patient).await.is_ok() });
    tokio::time::sleep(kill_after).await;
    process.kill().await;
    erasing.await.expect("no answer but 200");

    let process = Process::start(folder.path()).await;
    let officers = Officers::at(&process, folder.path()).await;
    let found = officers.erasure().await.expect("an answer");
    let state = found["state"].as_str().unwrap_or("not asked for").to_owned();
    let read = process.get("dr-lee", &format!("/fhir/ehr/Patient/{gone}")).await;
    let is_open = ["not asked for", "requested"].contains(&state.as_str());
    assert_eq!(read.status, if is_open { 200 } else { 404 }, "{state}");
    let done = officers.erase(gone).await.expect("an answer");
    assert_eq!(done["state"], "certified", "{done}");
    let certificate = done["certificate"].as_str().expect("a certificate");
    assert!(certificate.contains("scope key") && certificate.contains("3 shared journal entr"), "{certificate}");
    process.stop().await;
    (folder, state)
}

#[tokio::test(flavor = "multi_thread")]
async fn law_10_a_kill_at_any_moment_of_an_erasure_still_ends_in_its_certificate() {
    let (mesh, gone, kept) = prepared().await;
    let (before, frames) = (others(&mesh, &kept).await, frame_slots(&mesh));
    let prepared = mesh.stop().await;
    // How long it takes when nothing comes between.
    let undisturbed = tempfile::tempdir().expect("a folder");
    copy(prepared.path(), undisturbed.path());
    let process = Process::start(undisturbed.path()).await;
    let officers = Officers::at(&process, undisturbed.path()).await;
    let begun = Instant::now();
    officers.erase(&gone).await.expect("an answer");
    let whole = begun.elapsed();
    process.stop().await;

    let kills = crate::law_1::rounds().div_ceil(10) as u32;
    for kill in 0..kills {
        let kill_after = whole * (2 * kill + 1) / (2 * kills);
        let (folder, state) = erased_with_a_kill(prepared.path(), &gone, kill_after).await;
        eprintln!("law 10: killed after {} of {} ms: {state}", kill_after.as_millis(), whole.as_millis());
        let mesh = Mesh::start_in(folder).await;
        mesh.settle().await;
        is_hidden_everywhere(&mesh, &gone).await;
        assert_eq!(others(&mesh, &kept).await, before, "killed after {kill_after:?}");
        let folder = mesh.stop().await;
        sentinels_are_gone(folder.path());
        the_copy_is_noise(prepared.path(), folder.path(), &frames).await;
    }
}
