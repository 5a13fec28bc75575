//! Law 4: history cannot be rewritten unseen.
//!
//! The logs of a real node are tampered with at random, a thousand times; `ward-verify` finds each one. A rollback and a
//! fork are found with a checkpoint that somebody outside kept. What was not touched verifies.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use ward_verify::{Options, Outcome, Report, VerifierKey, verify};

use crate::harness::{Mesh, adt, mesh_folder};

const TAMPERINGS: usize = 1_000;
/// Frames begin at multiples of it (docs/log-format.md).
const ALIGN: usize = 512;
const SEGMENT_HEADER: usize = 4_096;

/// SplitMix64: one seed is one run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n.max(1) as u64).expect("small")
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// The files of a log by their path in it; only what docs/log-format.md says is the log.
type Files = BTreeMap<PathBuf, Vec<u8>>;

fn read_log(folder: &Path) -> Files {
    fn walk(root: &Path, folder: &Path, files: &mut Files) {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            let name = path.strip_prefix(root).expect("below the root").to_owned();
            let is_log = ["wal", "tile", "checkpoint"].iter().any(|part| name.starts_with(part));
            if path.is_dir() {
                walk(root, &path, files);
            } else if is_log && path.extension().is_none_or(|extension| extension != "tmp") {
                files.insert(name, std::fs::read(&path).expect("a readable file"));
            }
        }
    }
    let mut files = Files::new();
    walk(folder, folder, &mut files);
    files
}

fn write_log(folder: &Path, files: &Files) {
    for (name, bytes) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a writable folder");
        std::fs::write(path, bytes).expect("a writable file");
    }
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |all, byte| all << 8 | usize::from(*byte))
}

/// Begin and end of each frame of a segment, by the lengths in the frames.
fn frames(segment: &[u8]) -> Vec<(usize, usize)> {
    let mut frames = Vec::new();
    let mut at = SEGMENT_HEADER;
    while segment.len() >= at + 136 && segment[at..].starts_with(b"WMFRAME1") {
        let end = (at + 136 + number(&segment[at + 8..at + 12])).next_multiple_of(ALIGN);
        frames.push((at, end));
        at = end;
    }
    frames
}

fn key(folder: &Path) -> VerifierKey {
    let text = std::fs::read_to_string(folder.join("vkey")).expect("the verifier key beside the log");
    VerifierKey::parse(text.trim()).expect("a verifier key")
}

fn check(folder: &Path, key: &VerifierKey, outside: &[(&str, &str)]) -> Report {
    let options = outside.iter().fold(Options::new(key.clone()), |options, (name, text)| options.and(name, text));
    verify(folder, &options)
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
    let (mesh, checkpoint) = node_with_a_past().await;
    let logs = ["data/logs/audit", "audit-second/audit", "data/logs/journal-ehr", "data/logs/control"];
    for log in logs {
        let report = check(&mesh.path().join(log), &key(&mesh.path().join(log)), &[]);
        assert_eq!(report.outcome, Outcome::Whole, "the untouched log {log}: {}", report.text());
    }
    let audit = check(&mesh.path().join(logs[0]), &key(&mesh.path().join(logs[0])), &[("kept", &checkpoint)]);
    assert!(audit.is_whole() && audit.outside.len() == 1 && audit.size > 256, "{}", audit.text());

    let share = [TAMPERINGS / 2, 0, TAMPERINGS / 2, 0];
    let work: Vec<_> = logs
        .iter()
        .zip(share)
        .filter(|(_, share)| *share > 0)
        .enumerate()
        .map(|(n, (log, share))| {
            let folder = mesh.path().join(log);
            std::thread::spawn(move || tamper(&folder, share, 0x57AE_u64 + n as u64))
        })
        .collect();
    let mut kinds: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut done = 0;
    for worker in work {
        for (kind, n) in worker.join().expect("every tampering is found") {
            *kinds.entry(kind).or_default() += n;
            done += n;
        }
    }
    eprintln!("law 4: {done} tamperings, all found: {kinds:?}");
    assert_eq!(done, TAMPERINGS);
    assert!(kinds.len() >= 10, "{kinds:?}");
}

/// Tampers with a copy of a log, `count` times, each time with one change; panics at one that is not found.
fn tamper(folder: &Path, count: usize, seed: u64) -> BTreeMap<&'static str, usize> {
    let key = key(folder);
    let mut files = read_log(folder);
    // What is written ahead of the last frame is outside the log; without it the checker has less to read.
    let last = files.keys().rfind(|name| name.starts_with("wal")).expect("a segment").clone();
    let end = frames(&files[&last]).last().expect("a frame").1;
    files.get_mut(&last).expect("there").truncate(end);
    let copy = tempfile::tempdir().expect("a temporary folder");
    write_log(copy.path(), &files);
    assert_eq!(check(copy.path(), &key, &[]).outcome, Outcome::Whole, "without what was written ahead");
    let mut random = Random(seed);
    let mut kinds = BTreeMap::new();
    let needed = needed_names(&files);
    while kinds.values().sum::<usize>() < count {
        let mut changed = files.clone();
        let Some(kind) = change(&mut random, &mut changed, &needed) else { continue };
        if log_of(&changed, &last) == log_of(&files, &last) {
            continue;
        }
        apply(copy.path(), &files, &changed);
        let report = check(copy.path(), &key, &[]);
        assert!(
            matches!(report.outcome, Outcome::Tampered(_)),
            "{kind} of {:?} in {} is not found: {}",
            difference(&files, &changed),
            folder.display(),
            report.text()
        );
        apply(copy.path(), &changed, &files);
        *kinds.entry(kind).or_default() += 1;
    }
    assert_eq!(check(copy.path(), &key, &[]).outcome, Outcome::Whole, "put back as it was");
    kinds
}

/// Without the zeros after the last frame, which are outside the log however many they are.
fn log_of(files: &Files, last: &Path) -> Files {
    let mut files = files.clone();
    if let Some(bytes) = files.get_mut(last) {
        bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1));
    }
    files
}

/// Writes what differs.
fn apply(folder: &Path, from: &Files, to: &Files) {
    for name in from.keys().filter(|name| !to.contains_key(*name)) {
        std::fs::remove_file(folder.join(name)).expect("a file to remove");
    }
    for (name, bytes) in to.iter().filter(|(name, bytes)| from.get(*name) != Some(bytes)) {
        std::fs::write(folder.join(name), bytes).expect("a writable file");
    }
}

/// Where two logs differ, for a failure's text.
fn difference(from: &Files, to: &Files) -> Vec<(PathBuf, usize, usize)> {
    from.iter()
        .filter_map(|(name, before)| {
            let Some(after) = to.get(name) else { return Some((name.clone(), before.len(), 0)) };
            let at = before.iter().zip(after).position(|(a, b)| a != b).unwrap_or(before.len().min(after.len()));
            (before != after).then(|| (name.clone(), at, after.len()))
        })
        .collect()
}

/// The files that the published checkpoint needs: a partial tile of an earlier size may be missing.
fn needed_names(files: &Files) -> Vec<PathBuf> {
    let text = std::str::from_utf8(&files[Path::new("checkpoint")]).expect("text");
    let size: u64 = text.lines().nth(1).and_then(|line| line.parse().ok()).expect("a size");
    let mut needed: Vec<PathBuf> = files.keys().filter(|name| !name.starts_with("tile")).cloned().collect();
    for level in ["0", "1", "2", "entries"] {
        let hashes = size >> (8 * level.parse::<u32>().unwrap_or(0));
        for n in 0..hashes / 256 {
            needed.push(format!("tile/{level}/{n:03}").into());
        }
        if !hashes.is_multiple_of(256) {
            needed.push(format!("tile/{level}/{:03}.p/{}", hashes / 256, hashes % 256).into());
        }
    }
    for name in &needed {
        assert!(files.contains_key(name), "the log has no {}", name.display());
    }
    needed
}

/// One change; `None` where the files that were picked do not allow it.
fn change(random: &mut Random, files: &mut Files, needed: &[PathBuf]) -> Option<&'static str> {
    let names: Vec<PathBuf> = files.keys().cloned().collect();
    let segments: Vec<PathBuf> = names.iter().filter(|name| name.starts_with("wal")).cloned().collect();
    // A log has few files and a great part of its bytes in one: pick among both.
    let name = match random.below(3) {
        0 => random.pick(&segments).clone(),
        _ => random.pick(&names).clone(),
    };
    let frame = |random: &mut Random, bytes: &[u8]| *random.pick(&frames(bytes));
    let bytes = files.get_mut(&name)?;
    if bytes.is_empty() {
        return None;
    }
    match random.below(14) {
        0..=2 => {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
            Some("a bit flipped")
        }
        3 => {
            let at = random.below(bytes.len());
            let end = (at + 1 + random.below(200)).min(bytes.len());
            bytes[at..end].fill(0);
            Some("bytes zeroed")
        }
        4 => {
            let at = random.below(bytes.len());
            bytes.truncate(at);
            Some("a file cut off")
        }
        5 => {
            let at = random.below(bytes.len());
            let end = (at + 1 + random.below(100)).min(bytes.len());
            bytes.drain(at..end);
            Some("bytes dropped")
        }
        6 => {
            let at = random.below(bytes.len());
            let end = (at + 1 + random.below(100)).min(bytes.len());
            let again = bytes[at..end].to_vec();
            bytes.splice(at..at, again);
            Some("bytes doubled")
        }
        7 => {
            let (from, to) = (random.below(bytes.len()), random.below(bytes.len()));
            let n = (1 + random.below(64)).min(bytes.len() - from.max(to));
            let (a, b) = (bytes[from..from + n].to_vec(), bytes[to..to + n].to_vec());
            bytes[from..from + n].copy_from_slice(&b);
            bytes[to..to + n].copy_from_slice(&a);
            Some("bytes swapped")
        }
        8 => {
            let name = random.pick(needed);
            files.remove(name);
            Some("a file removed")
        }
        9 => {
            let other = random.pick(&names).clone();
            let (a, b) = (files[&name].clone(), files[&other].clone());
            files.insert(name, b);
            files.insert(other, a);
            Some("two files swapped")
        }
        10 => {
            let bytes = files.get_mut(random.pick(&segments))?;
            let (from, to) = frame(random, bytes);
            bytes.drain(from..to);
            Some("a frame dropped")
        }
        11 => {
            let bytes = files.get_mut(random.pick(&segments))?;
            let (a, b) = (frame(random, bytes), frame(random, bytes));
            if a == b {
                return None;
            }
            let ((from, mid), (other, end)) = if a.0 < b.0 { (a, b) } else { (b, a) };
            let swapped = [&bytes[other..end], &bytes[mid..other], &bytes[from..mid]].concat();
            bytes.splice(from..end, swapped);
            Some("two frames swapped")
        }
        12 => {
            let bytes = files.get_mut(random.pick(&segments))?;
            let (from, to) = frame(random, bytes);
            if to == bytes.len() {
                // The last frame again, after the last frame: outside the log, as after a crash.
                return None;
            }
            let again = bytes[from..to].to_vec();
            bytes.splice(from..from, again);
            Some("a frame doubled")
        }
        _ => {
            // The published checkpoint says another size, or another root.
            let text = String::from_utf8(files[Path::new("checkpoint")].clone()).ok()?;
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            let line = 1 + random.below(2);
            lines[line] = match line {
                1 => random.below(10_000).to_string(),
                _ => lines[line].chars().rev().collect(),
            };
            files.insert("checkpoint".into(), (lines.join("\n") + "\n").into_bytes());
            Some("a checkpoint rewritten")
        }
    }
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
    write_log(rolled_back.path(), &older);
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
