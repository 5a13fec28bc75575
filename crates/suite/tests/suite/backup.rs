//! Backup and restore, as an operator runs them: while the node serves, incremental, restored elsewhere, checked.

use std::path::Path;

use serde_json::Value;

use crate::harness::{Process, adt, mesh_folder, ward};

/// Patients of the ehr domain as the physician finds them: without what depends on where the node listens.
pub async fn patients(process: &Process) -> Vec<Value> {
    let bundle = process.get("dr-lee", "/fhir/ehr/Patient?_sort=_id&_count=1000").await.json();
    let entries = bundle["entry"].as_array().cloned().unwrap_or_default();
    entries.into_iter().map(|entry| entry["resource"].clone()).collect()
}

pub async fn admit(process: &Process, range: std::ops::Range<usize>) {
    let messages: Vec<Vec<u8>> =
        range.map(|n| adt(&format!("C{n}"), "A01", &format!("M{n}"), &format!("Family{n}"))).collect();
    for answer in process.send_all("adt-main", messages.iter().map(Vec::as_slice)).await {
        assert_eq!(ward::wire::ack_code(&answer.expect("an acknowledgement")), "AA");
    }
    process.settle().await;
}

/// A command of `ward` that must succeed; its JSON.
pub async fn json(folder: &Path, arguments: &[&str]) -> Value {
    let output = ward(folder, &[&["--json"], arguments].concat()).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "ward {arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(said.lines().last().unwrap_or_default()).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// A command of `ward` that must fail; what it says.
pub async fn refused(folder: &Path, arguments: &[&str]) -> String {
    // A node that serves after all would not come back.
    let output = tokio::time::timeout(std::time::Duration::from_secs(60), ward(folder, arguments)).await;
    let output = output.unwrap_or_else(|_| panic!("ward {arguments:?} was not refused"));
    assert!(!output.status.success(), "ward {arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn place(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_serving_node_is_backed_up_and_comes_back_elsewhere_with_the_same_answers() {
    let (folder, safe) = (mesh_folder(), tempfile::tempdir().expect("a temporary folder"));
    let (data, keys) = (place(safe.path(), "data"), place(safe.path(), "keys"));
    let backup = ["backup", &data, "--keys-to", &keys];
    let process = Process::start(folder.path()).await;
    admit(&process, 0..30).await;
    let first = json(folder.path(), &backup).await;
    admit(&process, 30..35).await;
    let second = json(folder.path(), &backup).await;
    let added = |report: &Value| report["added_bytes"].as_u64().expect("a number");
    assert!(added(&second) < added(&first), "only what is new: {first} {second}");
    assert_eq!(second["behind"], 0);
    let before = patients(&process).await;
    assert_eq!(before.len(), 35);
    process.stop().await;

    // A stopped node is backed up too, and there is nothing new but what its end wrote.
    let third = json(folder.path(), &backup).await;
    assert_eq!(third["objects"], second["objects"]);

    let report = place(safe.path(), "");
    let drill = json(folder.path(), &["verify-restore", &data, "--keys-from", &keys, "--report", &report]).await;
    assert_eq!(drill["passed"], true, "{drill}");
    let silver = drill["checks"].as_array().expect("checks").iter().find(|check| check["what"] == "silver of ehr");
    assert!(silver.is_some_and(|check| check["said"].as_str().unwrap_or_default().contains("the same")), "{drill}");

    let restored = safe.path().join("restored");
    let into = restored.display().to_string();
    let outcome = json(folder.path(), &["restore", &data, "--keys-from", &keys, "--into", &into]).await;
    assert_eq!(outcome["control_lost"], 0, "{outcome}");
    let process = Process::start(&restored).await;
    process.settle().await;
    assert_eq!(patients(&process).await, before);
    admit(&process, 35..36).await;
    assert_eq!(patients(&process).await.len(), 36, "it goes on");
    process.stop().await;

    // Not over something, not without keys, not by another root.
    let said = refused(folder.path(), &["restore", &data, "--keys-from", &keys, "--into", &into]).await;
    assert!(said.contains("not empty"), "{said}");
    let other = mesh_folder();
    let elsewhere = place(safe.path(), "other");
    let said = refused(other.path(), &["restore", &data, "--keys-from", &keys, "--into", &elsewhere]).await;
    assert!(said.contains("root keys"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn journals_come_back_as_of_a_position_and_damage_in_a_backup_is_found() {
    let (folder, safe) = (mesh_folder(), tempfile::tempdir().expect("a temporary folder"));
    let (data, keys) = (place(safe.path(), "data"), place(safe.path(), "keys"));
    let process = Process::start(folder.path()).await;
    admit(&process, 0..20).await;
    process.stop().await;
    json(folder.path(), &["backup", &data, "--keys-to", &keys]).await;
    let into = safe.path().join("at");
    let at = ["restore", &data, "--keys-from", &keys, "--at", "journal-ehr/9", "--into", &place(safe.path(), "at")];
    let outcome = json(folder.path(), &at).await;
    let journal = outcome["logs"].as_array().expect("logs").iter().find(|log| log["name"] == "journal-ehr");
    assert_eq!(journal.map(|log| log["size"].clone()), Some(10.into()), "{outcome}");
    let process = Process::start(&into).await;
    process.settle().await;
    assert_eq!(patients(&process).await.len(), 10);
    process.stop().await;

    // A byte of each piece: the drill says so and leaves nothing behind.
    for piece in walk(&safe.path().join("data/objects/pieces")) {
        let mut bytes = std::fs::read(&piece).expect("a piece");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&piece, bytes).expect("a piece");
    }
    let report = place(safe.path(), "");
    let said = refused(
        folder.path(),
        &["verify-restore", &data, "--keys-from", &keys, "--report", &report, "--scratch", &report],
    )
    .await;
    assert!(said.contains("damaged"), "{said}");
    let left = std::fs::read_dir(safe.path()).expect("a folder");
    assert!(left.flatten().all(|entry| !entry.file_name().to_string_lossy().starts_with("ward-drill")));
}

/// All files below a folder.
pub fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => files.extend(walk(&path)),
            path => files.push(path),
        }
    }
    files.sort();
    files
}
