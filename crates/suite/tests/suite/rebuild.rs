//! What is derived is dropped, one thing at a time, and built anew from logs and objects: the same answers.

use std::collections::BTreeMap;
use std::path::Path;

use base::{Layer, Read};
use serde_json::Value;
use store::SilverDigest;
use synth::{Door, Hospital, Options};
use tempfile::TempDir;

use crate::backup::{json, walk};
use crate::harness::{Mesh, domain, mesh_folder};

const QUERIES: [&str; 6] = [
    "/fhir/ehr/Patient?gender=female&_sort=_id&_count=1000",
    "/fhir/ehr/Patient?birthdate=lt1970-01-01&_sort=_id&_count=1000",
    "/fhir/ehr/Encounter?status=finished&_sort=_id&_count=1000",
    "/fhir/laboratory/Observation?_sort=_id&_count=1000",
    "/fhir/laboratory/DiagnosticReport?_sort=_id&_include=DiagnosticReport:result&_count=1000",
    "/fhir/laboratory/Observation?status=final&_sort=_id&_count=1000",
];
const PRODUCTS: [(&str, &str); 3] = [("ehr", "patients"), ("ehr", "encounters"), ("laboratory", "labs")];

/// Everything that can be asked of the node.
#[derive(Debug, PartialEq)]
struct Answers {
    /// Ids, versions, origins,
    silver: BTreeMap<String, SilverDigest>,
    /// and the content of each resource that stands.
    content: BTreeMap<String, Vec<u8>>,
    search: Vec<Vec<Value>>,
    rows: Vec<String>,
}

async fn answers(mesh: &Mesh) -> Answers {
    let (mut silver, mut content) = (BTreeMap::new(), BTreeMap::new());
    for name in ["ehr", "laboratory"] {
        let domain = domain(name);
        let digest = mesh.doors.silver.digest(&domain, None).await.expect("a digest");
        let permit = mesh.doors.gate.node_permit::<Read>("index", &domain, Layer::Silver).expect("a permit");
        for rtype in digest.by_type.keys() {
            let mut after = 0;
            loop {
                let page = mesh.doors.silver.scan(&permit, &domain, rtype, after, 500).await.expect("a page");
                for resource in page.resources {
                    let place = format!("{name}/{rtype}/{} {}", resource.id, resource.version);
                    content.insert(place, resource.body.expose().clone());
                }
                after = page.after;
                if !page.more {
                    break;
                }
            }
        }
        silver.insert(name.to_owned(), digest);
    }
    let mut search = Vec::new();
    for query in QUERIES {
        let who = if query.starts_with("/fhir/ehr") { "dr-lee" } else { "tech-novak" };
        let answer = mesh.get(who, query).await;
        assert_eq!(answer.status, 200, "{query}: {}", answer.text());
        let entries = answer.json()["entry"].as_array().cloned().unwrap_or_default();
        assert!(!entries.is_empty(), "{query} finds something");
        search.push(entries.into_iter().map(|entry| entry["resource"].clone()).collect());
    }
    let mut rows = Vec::new();
    for (domain, product) in PRODUCTS {
        let answer = mesh.sql("dr-lee", &format!("SELECT * FROM {domain}.{product} ORDER BY id")).await;
        assert_eq!(answer.status, 200, "{product}: {}", answer.text());
        rows.push(answer.text());
    }
    Answers { silver, content, search, rows }
}

async fn feed(mesh: &Mesh) {
    let hospital = Hospital::generate(&Options { seed: 11, patients: 25, ..Options::default() });
    for (door, source) in [(Door::Adt, "adt-main"), (Door::Lab, "lab-main")] {
        let items = hospital.feed.iter().filter(|item| item.door == door);
        mesh.send_all(source, items.map(|item| item.bytes.as_slice())).await;
    }
    let token = mesh.token("bedside-gateway").await;
    let mut https = mesh.https().await;
    for item in hospital.feed.iter().filter(|item| item.door == Door::Bedside) {
        let headers = [("content-type", "application/fhir+json"), ("idempotency-key", item.control_id.as_str())];
        let body = item.bytes.clone();
        https.call(hyper::Method::POST, "/fhir/ehr", Some(&token), &headers, body).await.expect("an answer");
    }
    mesh.settle().await;
    for (domain, product) in PRODUCTS {
        mesh.build(domain, product).await;
    }
}

fn remove(path: &Path) {
    if path.is_dir() {
        std::fs::remove_dir_all(path).expect("a folder");
    } else {
        std::fs::remove_file(path).expect("a file");
    }
}

/// Starts on the folder, compares every answer, and stops again.
async fn same(folder: TempDir, before: &Answers, what: &str) -> TempDir {
    let mesh = Mesh::start_in(folder).await;
    let after = answers(&mesh).await;
    assert_eq!(after.silver, before.silver, "{what}: ids and versions");
    assert_eq!(after.content, before.content, "{what}: content");
    assert_eq!(after.search, before.search, "{what}: search");
    assert_eq!(after.rows, before.rows, "{what}: product rows");
    mesh.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_derived_thing_is_dropped_and_rebuilt_to_the_same_answers() {
    let mesh = Mesh::start_in(mesh_folder()).await;
    feed(&mesh).await;
    let before = answers(&mesh).await;
    assert!(before.silver["ehr"].versions > 100 && before.content.len() > 100, "there is something to lose");

    // While it serves.
    json(mesh.path(), &["rebuild", "index"]).await;
    json(mesh.path(), &["rebuild", "products"]).await;
    let refused = crate::backup::refused(mesh.path(), &["rebuild", "catalog"]).await;
    assert!(refused.contains("stop it first"), "{refused}");
    assert_eq!(answers(&mesh).await, before, "rebuilt while serving");
    let mut folder = mesh.stop().await;

    // The index is made anew by itself.
    let data = folder.path().join("data");
    remove(&data.join("index"));
    folder = same(folder, &before, "the index").await;

    // Tiles: dropped, and bent.
    let journal = data.join("logs/journal-ehr");
    let tile = walk(&journal.join("tile")).into_iter().find(|path| path.is_file()).expect("a tile");
    let mut bytes = std::fs::read(&tile).expect("a tile");
    bytes[0] ^= 1;
    std::fs::write(&tile, bytes).expect("a tile");
    let found = crate::harness::ward(folder.path(), &["doctor"]).await;
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(found.contains("DAMAGED log journal-ehr, tiles") && found.contains("ward rebuild tiles"), "{found}");
    remove(&data.join("logs/control/tile"));
    json(folder.path(), &["rebuild", "tiles"]).await;
    for name in ["journal-ehr", "journal-laboratory", "control", "audit"] {
        let log = data.join("logs").join(name);
        let key = format!("@{}", log.join("vkey").display());
        let mut verify = std::process::Command::new(crate::harness::program("ward-verify"));
        let said = verify.arg(&log).args(["--key", &key]).output().expect("ward-verify runs");
        assert!(said.status.success(), "{name}: {}", String::from_utf8_lossy(&said.stdout));
    }
    folder = same(folder, &before, "tiles").await;

    // Product files, then the whole of silver.
    remove(&data.join("objects/objects/gold"));
    json(folder.path(), &["rebuild", "products"]).await;
    folder = same(folder, &before, "products").await;
    json(folder.path(), &["rebuild", "catalog"]).await;
    folder = same(folder, &before, "the catalog").await;
    for file in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _ = std::fs::remove_file(data.join(file));
    }
    remove(&data.join("objects/objects/gold"));
    json(folder.path(), &["rebuild", "all"]).await;
    folder = same(folder, &before, "everything").await;

    // And nothing is found wrong now.
    let found = crate::harness::ward(folder.path(), &["doctor"]).await;
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_names_damage_that_cannot_be_rebuilt() {
    let mesh = Mesh::start_in(mesh_folder()).await;
    for n in 0..20 {
        let message = crate::harness::adt(&format!("C{n}"), "A01", &format!("M{n}"), "Family");
        mesh.send_all("adt-main", [message.as_slice()]).await;
    }
    mesh.settle().await;
    let folder = mesh.stop().await;
    let doctor = async || {
        let output = crate::harness::ward(folder.path(), &["doctor"]).await;
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert!(doctor().await.0, "{}", doctor().await.1);
    let data = folder.path().join("data");
    let before: Vec<(std::path::PathBuf, Vec<u8>)> =
        walk(folder.path()).into_iter().map(|path| (path.clone(), std::fs::read(&path).expect("a file"))).collect();

    let segment = data.join("logs/journal-ehr/wal/00000000000000000000.seg");
    let mut bytes = std::fs::read(&segment).expect("a segment");
    bytes[9_000] ^= 1;
    std::fs::write(&segment, &bytes).expect("a segment");
    std::fs::write(data.join("keys.db"), b"no database at all, and longer than a header of one").expect("a file");
    let (fine, said) = doctor().await;
    assert!(!fine && said.contains("DAMAGED log journal-ehr") && said.contains("cannot be proved or read"), "{said}");
    assert!(said.contains("DAMAGED keys.db") && said.contains("ward restore"), "{said}");
    // It changed nothing.
    for (path, content) in before {
        if path != segment && path != data.join("keys.db") {
            assert_eq!(std::fs::read(&path).ok(), Some(content), "{}", path.display());
        }
    }
}
