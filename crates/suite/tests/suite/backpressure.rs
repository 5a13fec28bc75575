//! Busy is answered at the stated marks: at a lag of refine (`refine_lag_max`) and of free disk space
//! (`disk_free_bytes_min`), at every door that takes something in, with the time to wait, and nothing is stored for what
//! was refused. Reading goes on. When the mark is left again, so does the rest.

use std::path::Path;

use hyper::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use ward::wire::{MllpClient, ack_code};

use crate::harness::{Process, adt, append, edit, mesh_folder, ward};

/// Bytes of memory that a process may hold after a flood, beyond what it held before.
const GROWTH_BYTES_MAX: u64 = 300 << 20;

fn patient(mrn: &str) -> String {
    let identifier = json!([{ "system": "urn:oid:2.16.840.1.113883.19.5.1", "value": mrn }]);
    json!({ "resourceType": "Patient", "identifier": identifier, "name": [{ "family": "Late" }] }).to_string()
}

fn bundle(mrn: &str) -> String {
    let resource: Value = serde_json::from_str(&patient(mrn)).expect("JSON");
    let entry = json!([{ "resource": resource, "request": { "method": "POST", "url": "Patient" } }]);
    json!({ "resourceType": "Bundle", "type": "transaction", "entry": entry }).to_string()
}

async fn entries(process: &Process) -> u64 {
    let status = process.client.get("/admin/status", None).await.expect("a status");
    let domains = status["domains"].as_array().expect("domains");
    domains.iter().filter_map(|domain| domain["journal_entries"].as_u64()).sum()
}

/// Resident bytes of a process, now and at most (proc(5), `VmRSS` and `VmHWM`).
fn memory(pid: u32, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let line = status.lines().find_map(|line| line.strip_prefix(what)).expect("a line of the status");
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().expect("kilobytes") << 10
}

/// Every door that takes something in, once. What each says.
async fn knock(process: &Process, folder: &Path, name: &str) -> Vec<(&'static str, bool, String)> {
    let mut said = Vec::new();
    for (door, source) in [("MLLP ehr", "adt-main"), ("MLLP laboratory", "lab-main")] {
        let message = adt(&format!("{name}{source}"), "A01", &format!("{name}{source}"), "Late");
        let ack = process.send_all(source, [message.as_slice()]).await.remove(0).expect("an acknowledgement");
        said.push((door, ack_code(&ack) == "AA", String::from_utf8_lossy(&ack).into_owned()));
    }
    let (path, fhir) = ("/fhir/ehr", "application/fhir+json");
    for (door, path, body) in [
        ("FHIR transaction", path.to_owned(), bundle(&format!("{name}T"))),
        ("FHIR create", format!("{path}/Patient"), patient(&format!("{name}C"))),
        ("FHIR update", format!("{path}/Patient/{}", name.to_lowercase()), {
            let mut resource: Value = serde_json::from_str(&patient(&format!("{name}U"))).expect("JSON");
            resource["id"] = name.to_lowercase().into();
            resource.to_string()
        }),
    ] {
        let token = process.token("bedside-gateway").await;
        let method = if door == "FHIR update" { Method::PUT } else { Method::POST };
        let headers = [("content-type", fhir)];
        let answer = process.https().await.call(method, &path, Some(&token), &headers, body).await.expect("an answer");
        let waits = answer.headers.get("retry-after").and_then(|v| v.to_str().ok()?.parse::<u32>().ok());
        let is_in = answer.status.is_success();
        assert!(is_in || (answer.status == 429 && waits.is_some()), "{door}: {} {waits:?}", answer.status);
        said.push((door, is_in, answer.text()));
    }
    let files = tempfile::tempdir().expect("a folder");
    for (file, bytes) in [
        ("m.hl7", adt(&format!("{name}I"), "A01", &format!("{name}I"), "Late")),
        ("p.json", patient(&format!("{name}J")).into_bytes()),
    ] {
        let path = files.path().join(file);
        std::fs::write(&path, bytes).expect("a file");
        let output = ward(folder, &["ingest", "--domain", "ehr", &path.display().to_string()]).await;
        let text = [output.stdout, output.stderr].concat();
        said.push(("ingest", output.status.success(), String::from_utf8_lossy(&text).into_owned()));
    }
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn backpressure_at_the_disk_mark_every_door_is_busy_and_stores_nothing() {
    let folder = mesh_folder();
    let process = Process::start(folder.path()).await;
    assert!(knock(&process, folder.path(), "Before").await.iter().all(|(_, is_in, _)| *is_in));
    process.settle().await;
    let before = entries(&process).await;
    process.stop().await;

    append(folder.path(), "mesh.toml", "\n[limits]\ndisk_free_bytes_min = 9000000000000000000\n");
    let process = Process::start(folder.path()).await;
    for (door, is_in, text) in knock(&process, folder.path(), "Full").await {
        assert!(!is_in && text.contains("busy"), "{door} took something in: {text}");
        assert!(!text.contains("Late"), "{door} shows what it refused: {text}");
    }
    assert_eq!(entries(&process).await, before, "something was stored for a refused input");
    let read = process.get("dr-lee", "/fhir/ehr/Patient?family=late").await;
    assert!(
        read.status == 200 && read.json()["entry"].as_array().is_some_and(|found| !found.is_empty()),
        "reading goes on"
    );
    process.stop().await;

    edit(folder.path(), "mesh.toml", "9000000000000000000", "1000000");
    let process = Process::start(folder.path()).await;
    for (door, is_in, text) in knock(&process, folder.path(), "After").await {
        assert!(is_in, "{door} after the mark was left: {text}");
    }
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backpressure_at_the_lag_mark_a_flood_is_told_to_wait_and_memory_stays_bounded() {
    const SENDERS: usize = 8;
    const BUSY: usize = 2_000;
    let folder = mesh_folder();
    append(folder.path(), "mesh.toml", "\n[limits]\nrefine_lag_max = 20\n");
    let process = Process::start(folder.path()).await;
    let before = memory(process.pid(), "VmRSS:");
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let address = process.mllp_address("adt-main");
        senders.spawn(async move {
            let mut connection = MllpClient::connect(address).await.expect("a connection");
            let (mut taken, mut busy) = (0, 0);
            for n in 0.. {
                let mrn = format!("F{sender}-{n}");
                let ack = connection.send(&adt(&mrn, "A01", &mrn, "Flood")).await.expect("an acknowledgement");
                match ack_code(&ack).as_str() {
                    "AA" => taken += 1,
                    code => {
                        let text = String::from_utf8_lossy(&ack);
                        assert!(code == "AR" && text.contains("busy") && text.contains(" ms"), "{text}");
                        busy += 1;
                    }
                }
                if busy >= BUSY / SENDERS {
                    break;
                }
            }
            (taken, busy)
        });
    }
    let (mut taken, mut busy) = (0, 0);
    while let Some(sender) = senders.join_next().await {
        let (t, b) = sender.expect("a sender");
        (taken, busy) = (taken + t, busy + b);
    }
    let grown = memory(process.pid(), "VmHWM:").saturating_sub(before);
    eprintln!("backpressure: {taken} taken, {busy} told to wait, memory grew by {} MiB at most", grown >> 20);
    assert!(busy >= BUSY && taken > 0);
    assert!(grown < GROWTH_BYTES_MAX, "memory grew by {grown} bytes");
    assert_eq!(entries(&process).await, taken, "the journal holds what was acknowledged and nothing else");
    process.settle().await;
    assert_eq!(process.get("dr-lee", "/readyz").await.status, 200, "ready again");
    for (door, is_in, text) in knock(&process, folder.path(), "Ebb").await {
        assert!(is_in, "{door} after the flood: {text}");
    }
    process.stop().await;
}
