//! Law 1: durable before acknowledged. Nothing acknowledged is lost or applied twice.
//!
//! Real `kill -9` of the real process, at another moment each time, under mixed load: HL7 over four MLLP connections to two
//! domains, FHIR transactions and creates, files by `ward ingest`, reads, SQL and product builds. After each restart
//! positions do not pass the journals; at the end every input that was acknowledged is in the journal once, by its content,
//! and in silver once, and the index holds what silver holds. `WARD_SOAK_ROUNDS` asks for more kills.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use base::{Clock, Grant, Layer, PatientSet, Permit, Purpose, Read, Sensitivity};
use hyper::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Duration, timeout};
use ward::wire::{HttpsClient, MllpClient, ack_code};

use crate::harness::{Mesh, Process, adt, domain, mesh_folder, mint, program};

/// Kills in one run of the tests; `make soak` asks for a thousand.
pub fn rounds() -> usize {
    #[allow(clippy::disallowed_methods)]
    std::env::var("WARD_SOAK_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60)
}

/// Record numbers of what was acknowledged, by door. Each input has its own.
#[derive(Default)]
struct Acknowledged(Mutex<BTreeMap<&'static str, BTreeSet<String>>>);

impl Acknowledged {
    fn add(&self, door: &'static str, mrn: String) {
        self.0.lock().expect("unpoisoned").entry(door).or_default().insert(mrn);
    }

    fn count(&self, door: &str) -> usize {
        self.0.lock().expect("unpoisoned").get(door).map_or(0, BTreeSet::len)
    }
}

/// A record number that says nothing but which input it is, in the form that `markers` finds again.
fn mark(door: char, round: usize, sender: usize, n: usize) -> String {
    format!("K{door}{round:05}S{sender}N{n:06}E")
}

/// The record numbers of this test in a text.
fn markers(text: &str) -> Vec<String> {
    let is_marker =
        |word: &&str| word.len() == 17 && word.starts_with('K') && word.ends_with('E') && word.contains('S');
    text.split(|c: char| !c.is_ascii_alphanumeric()).filter(is_marker).map(str::to_owned).collect()
}

async fn send_mllp(door: &'static str, address: SocketAddr, round: usize, sender: usize, to: Arc<Acknowledged>) {
    let Ok(mut connection) = MllpClient::connect(address).await else { return };
    for n in 0.. {
        let mrn = mark(if door == "laboratory" { 'L' } else { 'H' }, round, sender, n);
        match connection.send(&adt(&mrn, "A01", &mrn, "Killed")).await {
            Ok(ack) if ack_code(&ack) == "AA" => to.add(door, mrn),
            _ => return,
        }
    }
}

fn patient(mrn: &str) -> Value {
    json!({
        "resourceType": "Patient",
        "identifier": [{ "system": "urn:oid:2.16.840.1.113883.19.5.1", "value": mrn }],
        "name": [{ "family": "Killed" }],
    })
}

/// Transactions and creates in turn, each with a key of its own.
async fn send_fhir(address: SocketAddr, authority: PathBuf, token: String, round: usize, to: Arc<Acknowledged>) {
    let Ok(mut connection) = HttpsClient::connect(address, &authority).await else { return };
    for n in 0.. {
        let mrn = mark('F', round, 0, n);
        let (path, body) = match n % 2 {
            0 => {
                let request = json!({ "method": "POST", "url": "Patient" });
                let entry = json!([{ "resource": patient(&mrn), "request": request }]);
                ("/fhir/ehr", json!({ "resourceType": "Bundle", "type": "transaction", "entry": entry }))
            }
            _ => ("/fhir/ehr/Patient", patient(&mrn)),
        };
        let headers = [("content-type", "application/fhir+json"), ("idempotency-key", mrn.as_str())];
        match connection.call(Method::POST, path, Some(&token), &headers, body.to_string()).await {
            Ok(answer) if answer.status.is_success() => to.add("FHIR", mrn),
            // Refused or late is not acknowledged; the next one may be taken.
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

/// `ward ingest` of one file after another, each by a process of its own: acknowledged when it ends with 0.
async fn send_files(folder: PathBuf, files: PathBuf, round: usize, to: Arc<Acknowledged>) {
    for n in 0.. {
        let mrn = mark('C', round, 0, n);
        let file = files.join(format!("{mrn}.hl7"));
        std::fs::write(&file, adt(&mrn, "A01", &mrn, "Killed")).expect("a file");
        let mut command = tokio::process::Command::new(program("ward"));
        command.arg("-C").arg(&folder).args(["ingest", "--domain", "ehr", "--source", "adt-main"]).arg(&file);
        match command.kill_on_drop(true).output().await {
            Ok(output) if output.status.success() => to.add("ingest", mrn),
            _ => return,
        }
    }
}

/// Reads of every kind and builds, until the node is gone; what they answer is other laws' matter.
async fn read(address: SocketAddr, authority: PathBuf, token: String) {
    let Ok(mut connection) = HttpsClient::connect(address, &authority).await else { return };
    for n in 0.. {
        let read = match n % 3 {
            0 => connection.get("/fhir/ehr/Patient?family=killed&_count=20", &token).await,
            1 => connection.get("/fhir/ehr/Encounter?_sort=-date&_count=5", &token).await,
            _ => {
                let headers = [("content-type", "application/sql")];
                let sql = "SELECT count(*) FROM ehr.patients";
                connection.call(Method::POST, "/sql", Some(&token), &headers, sql.to_owned()).await
            }
        };
        if read.is_err() {
            return;
        }
    }
}

async fn build(client: ward::commands::client::Client, token: String) {
    while client.post("/admin/products/ehr/patients/build", Some(&token), &Value::Null).await.is_ok() {}
}

/// Starts a node, loads it, kills it at a moment that depends on the round.
async fn round(folder: &Path, files: &Path, round: usize, to: &Arc<Acknowledged>) {
    let process = Process::start(folder).await;
    positions_fit(&process).await;
    let authority = folder.join("tls/ca.pem");
    let (feed, reader, builder) =
        (process.token("bedside-gateway").await, process.token("dr-lee").await, process.token("eng-ehr").await);
    let mut senders = JoinSet::new();
    // Every third round without HL7 over MLLP: beside a flood of it a FHIR write waits for refine, and few are acknowledged.
    let door = ["ehr", "FHIR", "laboratory"][round % 3];
    if door != "FHIR" {
        for sender in 0..3 {
            senders.spawn(send_mllp("ehr", process.mllp_address("adt-main"), round, sender, to.clone()));
        }
        senders.spawn(send_mllp("laboratory", process.mllp_address("lab-main"), round, 3, to.clone()));
    }
    senders.spawn(send_fhir(process.http, authority.clone(), feed, round, to.clone()));
    senders.spawn(read(process.http, authority, reader));
    if round.is_multiple_of(4) {
        senders.spawn(send_files(folder.to_owned(), files.to_owned(), round, to.clone()));
    }
    if round % 4 == 2 {
        senders.spawn(build(process.client.clone(), builder));
    }
    let wanted = to.count(door) + if door == "FHIR" { 1 + round % 5 } else { 1 + (round * 37) % 60 };
    let reached = timeout(Duration::from_secs(60), async {
        while to.count(door) < wanted {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    });
    reached.await.expect("inputs are acknowledged");
    process.kill().await;
    while senders.join_next().await.is_some() {}
}

/// No consumer is ahead of its journal.
async fn positions_fit(process: &Process) {
    let status = process.client.get("/admin/status", None).await.expect("a status");
    for domain in status["domains"].as_array().expect("domains") {
        let number = |key: &str| domain[key].as_u64().unwrap_or_else(|| panic!("{key}: {domain}"));
        assert!(number("applied") <= number("journal_entries"), "a position passes its journal: {domain}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn law_1_kills_under_mixed_load_lose_nothing_and_double_nothing() {
    let (folder, files) = (mesh_folder(), tempfile::tempdir().expect("a folder"));
    let acknowledged = Arc::new(Acknowledged::default());
    for n in 0..rounds() {
        round(folder.path(), files.path(), n, &acknowledged).await;
    }
    verify(folder, &acknowledged).await;
}

/// A permit of the test's own for everything in the journal of a domain.
pub fn journal_permit(of: &str) -> Permit<Read> {
    mint().mint(Grant {
        decision: 0,
        principal: base::PrincipalId::parse("suite").expect("a principal"),
        purpose: Purpose::Operations,
        domain: domain(of),
        layer: Layer::Bronze,
        kinds: Vec::new(),
        patients: PatientSet::All,
        sensitivity: Sensitivity(u16::MAX),
        masks: Vec::new(),
        rows_max: None,
        group_min: None,
        policies: Vec::new(),
        policy_version: 0,
        expires: base::SystemClock.now().plus_ms(3_600_000),
    })
}

/// How often each record number stands in the journal of a domain, one count an entry.
async fn in_journal(mesh: &Mesh, of: &str) -> BTreeMap<String, usize> {
    let journal = mesh.doors.domains[&domain(of)].intake.journal();
    let (permit, mut found, mut from) = (journal_permit(of), BTreeMap::new(), 0);
    while from < journal.log().size() {
        let entries = journal.read(&permit, from, 512, 16 << 20).await.expect("a readable journal");
        from += entries.len() as u64;
        for entry in entries {
            let body = entry.expect("an entry that opens").body;
            let once: BTreeSet<String> = markers(&String::from_utf8_lossy(body.expose())).into_iter().collect();
            once.into_iter().for_each(|mrn| *found.entry(mrn).or_default() += 1);
        }
    }
    found
}

/// Every record number in silver, as the search answers it.
async fn in_silver(mesh: &Mesh, of: &str, who: &str) -> Vec<String> {
    let token = mesh.token(who).await;
    let (mut https, mut found) = (mesh.https().await, Vec::new());
    let mut next = Some(format!("/fhir/{of}/Patient?_sort=_id&_count=1000"));
    while let Some(path) = next {
        let bundle = https.get(&path, &token).await.expect("an answer").json();
        assert_eq!(bundle["resourceType"], "Bundle", "{bundle}");
        for entry in bundle["entry"].as_array().into_iter().flatten() {
            let identifiers = entry["resource"]["identifier"].as_array().cloned().unwrap_or_default();
            found.extend(identifiers.iter().filter_map(|i| i["value"].as_str().map(str::to_owned)));
        }
        let links = bundle["link"].as_array().cloned().unwrap_or_default();
        let link = links.iter().find(|link| link["relation"] == "next").and_then(|link| link["url"].as_str());
        next = link.and_then(|url| url.find("/fhir/").map(|at| url[at..].to_owned()));
    }
    found
}

/// Starts once more and compares journal, silver and index with what was acknowledged.
async fn verify(folder: TempDir, acknowledged: &Acknowledged) {
    let mesh = Mesh::start_in(folder).await;
    mesh.settle().await;
    for (of, who, doors) in
        [("ehr", "dr-lee", &["ehr", "FHIR", "ingest"][..]), ("laboratory", "tech-novak", &["laboratory"][..])]
    {
        let journal = in_journal(&mesh, of).await;
        let twice: Vec<_> = journal.iter().filter(|(_, n)| **n != 1).collect();
        assert!(twice.is_empty(), "{of}: in the journal more than once: {twice:?}");
        let silver = in_silver(&mesh, of, who).await;
        let once: BTreeSet<&String> = silver.iter().collect();
        assert_eq!(once.len(), silver.len(), "{of}: something was applied twice");
        // Refine made all of the journal, and nothing else.
        let unlike: Vec<_> = journal.keys().filter(|mrn| !once.contains(mrn)).collect();
        assert!(unlike.is_empty() && once.len() == journal.len(), "{of}: silver is not the journal: {unlike:?}");
        for door in doors {
            let sent = acknowledged.0.lock().expect("unpoisoned").get(door).cloned().unwrap_or_default();
            let lost: Vec<&String> = sent.iter().filter(|mrn| !journal.contains_key(*mrn)).collect();
            assert!(lost.is_empty(), "{} of {} acknowledged by {door} are lost: {lost:?}", lost.len(), sent.len());
            assert!(!sent.is_empty() || rounds() < 4, "nothing was acknowledged by {door}");
            eprintln!("law 1: {} acknowledged by {door}, each in journal and silver once", sent.len());
        }
        // The index answered the search above; silver itself counts the same.
        let counts = mesh.doors.silver.resource_counts(&domain(of)).await.expect("the catalog");
        let patients = counts.iter().find(|(kind, _)| kind == "Patient").map_or(0, |(_, n)| *n);
        assert_eq!(patients, silver.len() as u64, "{of}: the index does not hold what silver holds");
    }
    mesh.stop().await;
}
