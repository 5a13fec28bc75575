//! Law 4: history cannot be rewritten unseen.
//!
//! The logs of a real node are tampered with at random, a thousand times; `ward-verify` finds each one, or it has no effect
//! on what is proved. A rollback and a fork are found with a checkpoint that somebody outside kept. What was not touched
//! verifies, also by a reader of C2SP's specifications that knows nothing of us. Ten thousand more tamperings, and a million
//! in `make soak`: `crates/ward-verify/tests/tamper`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;
use ward_verify::{Memory, Options, Outcome, Report, VerifierKey, verify, verify_in};

use crate::harness::{Mesh, adt, mesh_folder};

#[path = "../../../ward-verify/tests/tamper/mutate.rs"]
#[allow(dead_code)]
mod mutate;

use mutate::{Files, Random, content, frames, segments, size_in};

/// Tamperings with each log in one run of the tests.
fn tamperings() -> u64 {
    #[allow(clippy::disallowed_methods)]
    std::env::var("WARD_TAMPERINGS").ok().and_then(|text| text.parse().ok()).unwrap_or(250)
}

/// The files of a log; only what docs/log-format.md says is the log, without what is written ahead of its last frame.
fn read_log(folder: &Path) -> Files {
    fn walk(root: &Path, folder: &Path, files: &mut Files) {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            let name = path.strip_prefix(root).expect("below the root").to_owned();
            let is_log = ["wal", "tile", "checkpoint"].iter().any(|part| name.starts_with(part));
            if path.is_dir() {
                walk(root, &path, files);
            } else if is_log && path.extension().is_none_or(|extension| extension != "tmp") {
                files.insert(name, Arc::new(std::fs::read(&path).expect("a readable file")));
            }
        }
    }
    let mut files = Files::new();
    walk(folder, folder, &mut files);
    let last = segments(&files).pop().expect("a segment");
    let end = frames(&files[&last]).last().map_or(mutate::SEGMENT_HEADER, |frame| frame.next());
    Arc::make_mut(files.get_mut(&last).expect("there")).truncate(end);
    files
}

fn key_text(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("vkey")).expect("the verifier key beside the log").trim().to_owned()
}

fn key(folder: &Path) -> VerifierKey {
    VerifierKey::parse(&key_text(folder)).expect("a verifier key")
}

fn against(key: &VerifierKey, outside: &[(&str, &str)]) -> Options {
    outside.iter().fold(Options::new(key.clone()), |options, (name, text)| options.and(name, text))
}

fn check(folder: &Path, key: &VerifierKey, outside: &[(&str, &str)]) -> Report {
    verify(folder, &against(key, outside))
}

/// A node with a past: more than a tile of audit entries, a journal with messages and FHIR writes.
async fn node_with_a_past() -> (TempDir, String) {
    let mesh = Mesh::start().await;
    for n in 0..60 {
        let message =
            adt(&format!("C{n}"), if n % 3 == 0 { "A08" } else { "A01" }, &format!("M{}", n % 20), "Historic");
        mesh.send_all("adt-main", [message.as_slice()]).await;
    }
    mesh.settle().await;
    let token = mesh.token("dr-lee").await;
    let mut https = mesh.https().await;
    for n in 0..270 {
        let answer = https.get(&format!("/fhir/ehr/Patient?_count={}", n % 5 + 1), &token).await.expect("an answer");
        assert_eq!(answer.status, 200);
    }
    mesh.build("ehr", "patients").await;
    let checkpoint = mesh.client.call(hyper::Method::GET, "/admin/audit/checkpoint/audit", None, "", "").await;
    let checkpoint = String::from_utf8(checkpoint.expect("an answer").body.to_vec()).expect("text");
    (mesh.stop().await, checkpoint)
}

#[tokio::test(flavor = "multi_thread")]
async fn law_4_a_thousand_tamperings_are_found() {
    let (mesh, kept) = node_with_a_past().await;
    let folders = ["data/logs/audit", "audit-second/audit", "data/logs/journal-ehr", "data/logs/control"];
    let folders = folders.map(|folder| mesh.path().join(folder));
    for folder in &folders {
        let report = check(folder, &key(folder), &[]);
        assert_eq!(report.outcome, Outcome::Whole, "untouched: {}", report.text());
        assert!(reads_alike(folder, &report), "a reader of the specifications does not agree on {}", folder.display());
    }
    let audit = check(&folders[0], &key(&folders[0]), &[("kept", &kept)]);
    assert!(audit.is_whole() && audit.outside.len() == 1 && audit.size > 256, "{}", audit.text());

    let logs: Vec<(VerifierKey, Files)> = folders.iter().map(|folder| (key(folder), read_log(folder))).collect();
    let (mut kinds, mut harmless) = (BTreeMap::<&str, u64>::new(), 0);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..logs.len())
            .map(|n| {
                scope.spawn({
                    let logs = &logs;
                    move || tamper(logs, n)
                })
            })
            .collect();
        for worker in workers {
            let (found, without) = worker.join().expect("every tampering is found");
            found.into_iter().for_each(|(kind, n)| *kinds.entry(kind).or_default() += n);
            harmless += without;
        }
    });
    let found: u64 = kinds.values().sum();
    eprintln!("law 4: {found} tamperings found, {harmless} without effect: {kinds:?}");
    assert_eq!(found + harmless, tamperings() * logs.len() as u64);
    assert!(kinds.len() >= 20 && found > harmless * 5, "{kinds:?}");
}

/// Tampers with one of the logs, in memory, each time with one change; the others are where pieces are taken from. How many
/// of each kind were found, and how many had no effect on what is proved; panics at one that is not found.
fn tamper(logs: &[(VerifierKey, Files)], which: usize) -> (BTreeMap<&'static str, u64>, u64) {
    let (key, files) = &logs[which];
    let others: Vec<&Files> =
        logs.iter().enumerate().filter(|(n, _)| *n != which).map(|(_, (_, files))| files).collect();
    let witness = String::from_utf8(files[Path::new("checkpoint")].to_vec()).expect("text");
    let options = against(key, &[("witness", &witness)]);
    let check = |files: &Files| verify_in(&Memory(files.clone()), Path::new(""), &options);
    let whole = check(files);
    assert!(whole.is_whole() && whole.size == size_in(witness.as_bytes()), "in memory: {}", whole.text());
    let said = content(files, whole.size);
    let mut random = Random(0x57AE + which as u64);
    let (mut kinds, mut harmless, mut done) = (BTreeMap::new(), 0, 0);
    while done < tamperings() {
        let Some((kind, changed)) = mutate::tamper(&mut random, files, &others) else { continue };
        let report = check(&changed);
        let is_found = matches!(report.outcome, Outcome::Tampered(_));
        let is_same = (report.size, report.root) == (whole.size, whole.root);
        let has_no_effect = report.is_whole() && is_same && content(&changed, whole.size) == said;
        assert!(is_found || has_no_effect, "log {which}, the {done}th, {kind}: {}", report.text());
        *(if is_found { kinds.entry(kind).or_default() } else { &mut harmless }) += 1;
        done += 1;
    }
    (kinds, harmless)
}

/// `tlog_reader.py` reads the published checkpoint, bundles and tiles of a log, and finds the same size and root.
fn reads_alike(folder: &Path, report: &Report) -> bool {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ward-verify/python/tlog_reader.py");
    let mut command = std::process::Command::new("python3");
    let output = command.arg(script).arg(folder).args(["--key", &key_text(folder)]).output().expect("python3");
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    // The node was stopped, so everything is published.
    said["ok"] == true && said["size"] == report.size && report.published == Some(report.size)
}

/// An older copy of a log is whole in itself; only what somebody outside kept shows what is gone.
#[tokio::test(flavor = "multi_thread")]
async fn law_4_a_rollback_and_a_fork_are_found_with_an_outside_checkpoint() {
    let kept = |mesh: &Mesh| {
        let log = mesh.doors.domains[&crate::harness::domain("ehr")].intake.journal().log().clone();
        log.checkpoint()
    };
    let send = async |mesh: &Mesh, name: &str, from: usize, upto: usize| {
        for n in from..upto {
            let message = adt(&format!("{name}{n}"), "A01", &format!("M{n}"), name);
            assert_eq!(mesh.send_all("adt-main", [message.as_slice()]).await, ["AA"]);
        }
        mesh.settle().await;
    };
    let mesh = Mesh::start().await;
    send(&mesh, "Early", 0, 5).await;
    let first = kept(&mesh);
    let folder = mesh.stop().await;
    let log = folder.path().join("data/logs/journal-ehr");
    let key = key(&log);
    let older = read_log(&log);
    let backup = mesh_folder();
    copy_all(folder.path(), backup.path());

    let mesh = Mesh::start_in(folder).await;
    send(&mesh, "Later", 5, 10).await;
    let second = kept(&mesh);
    let folder = mesh.stop().await;
    let log = folder.path().join("data/logs/journal-ehr");
    let report = check(&log, &key, &[("first", &first), ("second", &second)]);
    assert!(report.is_whole() && report.outside.len() == 2, "{}", report.text());

    // Rolled back to the backup: whole, and shorter than what was kept.
    let rolled_back = tempfile::tempdir().expect("a temporary folder");
    for (name, bytes) in &older {
        let path = rolled_back.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a writable folder");
        std::fs::write(path, bytes.as_slice()).expect("a writable file");
    }
    assert!(check(rolled_back.path(), &key, &[("first", &first)]).is_whole());
    let report = check(rolled_back.path(), &key, &[("first", &first), ("second", &second)]);
    assert!(matches!(report.outcome, Outcome::Tampered(_)), "a rollback: {}", report.text());

    // Gone on from the backup with other entries, under the same keys: another history of the same length.
    let mesh = Mesh::start_in(backup).await;
    send(&mesh, "Other", 5, 10).await;
    let folder = mesh.stop().await;
    let log = folder.path().join("data/logs/journal-ehr");
    assert!(check(&log, &key, &[("first", &first)]).is_whole());
    let report = check(&log, &key, &[("first", &first), ("second", &second)]);
    assert!(matches!(report.outcome, Outcome::Tampered(_)), "a fork: {}", report.text());
    let json: Value = serde_json::from_str(&report.json()).expect("JSON");
    assert!(json.is_object());
}

/// Replaces a folder by another.
fn copy_all(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).expect("a writable folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_all(&path, &target);
        } else if path.is_file() {
            std::fs::copy(&path, &target).expect("a readable file");
        }
    }
}
