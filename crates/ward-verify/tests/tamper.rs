//! Law 4: random tampering with every kind of file of a log is found, or provably has no effect: the same number of
//! entries with the same root are still proved. `WARD_TAMPER_SEEDS=FROM..TO` runs others than the default thousand.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{Clock, Entropy, LogName, ManualClock, SeededEntropy};
use ledger::{Ed25519Signer, Log, LogOptions, NewEntry, RealDisk};
use sha2::{Digest, Sha256};
use ward_verify::{Options, Outcome, Report, VerifierKey, verify};

const ORIGIN: &str = "ward.test/audit";

/// A log as its files, with what an auditor holds of it.
struct Sample {
    files: BTreeMap<PathBuf, Vec<u8>>,
    /// The files as they were at 300 entries.
    older: BTreeMap<PathBuf, Vec<u8>>,
    /// Another log of the same length and origin, by another key.
    other_key: BTreeMap<PathBuf, Vec<u8>>,
    /// Another history signed by the same key, beginning like this one.
    fork: BTreeMap<PathBuf, Vec<u8>>,
    checkpoint: String,
    key: VerifierKey,
    size: u64,
    root: [u8; 32],
}

fn signer(seed: u8) -> Ed25519Signer {
    Ed25519Signer::from_seed(ORIGIN, &[seed; 32]).unwrap()
}

fn open(dir: &Path, seed: u8) -> Log {
    let options = LogOptions {
        segment_bytes: 32 << 10,
        preallocate_bytes: 4 << 10,
        tail_interval_ms: 1,
        ..LogOptions::new(ORIGIN)
    };
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(1_700_000_000_000));
    let name = LogName::parse("audit").unwrap();
    Log::open(Arc::new(RealDisk), dir, name, options, Arc::new(signer(seed)), clock).unwrap()
}

async fn fill(log: &Log, from: u64, to: u64, salt: u8) {
    let random = SeededEntropy::new(u64::from(salt));
    let mut at = from;
    while at < to {
        let n = (1 + random.next_u64() % 9).min(to - at);
        let batch = (at..at + n).map(|i| {
            let part = |p: u64| vec![(i + p) as u8 ^ salt; ((i * 13 + p) % 150) as usize].into();
            NewEntry { parts: (0..i % 3 + 1).map(part).collect(), slots: vec![salt; (i % 30) as usize] }
        });
        log.append_all(batch.collect()).await.unwrap();
        at += n;
    }
    log.subscribe_published().wait_for(|size| *size == to).await.unwrap();
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("lock") {
                found.insert(path.strip_prefix(dir).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Makes a log of 600 entries; `salt_after` gives the entries from 300 on.
async fn make(seed: u8, salt_after: u8) -> (BTreeMap<PathBuf, Vec<u8>>, BTreeMap<PathBuf, Vec<u8>>, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), seed);
    fill(&log, 0, 300, 1).await;
    let older = files(dir.path());
    fill(&log, 300, 600, salt_after).await;
    let (checkpoint, vkey) = (log.checkpoint(), log.vkey());
    log.close().await;
    (files(dir.path()), older, checkpoint, vkey)
}

fn sample() -> Sample {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let (now, older, checkpoint, vkey) = runtime.block_on(make(5, 2));
    let (other_key, ..) = runtime.block_on(make(6, 2));
    let (fork, ..) = runtime.block_on(make(5, 3));
    let key = VerifierKey::parse(&vkey).unwrap();
    let mut sample = Sample { files: now, older, other_key, fork, checkpoint, key, size: 0, root: [0; 32] };
    let report = sample.verify(&sample.files, true);
    assert_eq!(report.outcome, Outcome::Whole, "{}", report.text());
    assert!(report.notes.is_empty() && report.segments > 2, "{report:?}");
    (sample.size, sample.root) = (report.size, report.root);
    assert_eq!(sample.size, 600);
    sample
}

impl Sample {
    fn verify(&self, files: &BTreeMap<PathBuf, Vec<u8>>, with_checkpoint: bool) -> Report {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let checkpoints = with_checkpoint.then(|| ("witness".to_owned(), self.checkpoint.clone()));
        verify(dir.path(), &Options { key: self.key.clone(), checkpoints: checkpoints.into_iter().collect() })
    }

    /// Changes the files at random; returns what was done.
    fn tamper(&self, random: &SeededEntropy) -> (BTreeMap<PathBuf, Vec<u8>>, String) {
        let mut files = self.files.clone();
        let below = |n: usize| (random.next_u64() % n.max(1) as u64) as usize;
        // Segments, tiles, bundles and the checkpoint in turn, not by their number.
        let kind = ["wal", "tile/0", "tile/1", "tile/entries", "checkpoint"][below(5)];
        let names: Vec<PathBuf> = files.keys().filter(|name| name.starts_with(kind)).cloned().collect();
        let name = names[below(names.len())].clone();
        let bytes = files.get_mut(&name).unwrap();
        let len = bytes.len();
        let what = match below(12) {
            0..=2 => {
                let at = below(len);
                bytes[at] ^= 1 << below(8);
                format!("flip a bit at {at}")
            }
            3 => {
                let (at, n) = (below(len), 1 + below(600));
                random.fill(&mut bytes[at..(at + n).min(len)]);
                format!("overwrite {n} at {at}")
            }
            4 => {
                bytes.truncate(below(len));
                format!("cut to {}", bytes.len())
            }
            5 => {
                let (at, n) = (below(len), [1, 32, 512][below(3)]);
                bytes.drain(at..(at + n).min(len));
                format!("drop {n} at {at}")
            }
            6 => {
                let unit = [1, 32, 512][below(3)];
                let (a, b) = (below(len / unit) * unit, below(len / unit) * unit);
                for i in 0..unit.min(len) {
                    bytes.swap(a + i, b + i);
                }
                format!("swap {unit} at {a} and {b}")
            }
            7 => {
                let unit = [1, 32, 512][below(3)];
                let at = below(len / unit) * unit;
                let piece = bytes[at..(at + unit).min(len)].to_vec();
                bytes.splice(at..at, piece);
                format!("repeat {unit} at {at}")
            }
            8 => {
                files.remove(&name);
                "remove".to_owned()
            }
            9 => {
                let other = names[below(names.len())].clone();
                let (a, b) = (files[&name].clone(), files[&other].clone());
                files.insert(name.clone(), b);
                files.insert(other.clone(), a);
                format!("exchange with {}", other.display())
            }
            10 => {
                let source = [&self.older, &self.other_key, &self.fork][below(3)];
                match source.get(&name) {
                    Some(bytes) => files.insert(name.clone(), bytes.clone()),
                    None => files.remove(&name),
                };
                "take the file of another history".to_owned()
            }
            _ => {
                let which = below(3);
                files = [&self.older, &self.other_key, &self.fork][which].clone();
                format!("take all files of history {which}")
            }
        };
        (files, format!("{}: {what}", name.display()))
    }
}

#[expect(clippy::disallowed_methods, reason = "a test is told its seeds by the environment")]
fn seeds() -> std::ops::Range<u64> {
    let asked = std::env::var("WARD_TAMPER_SEEDS").ok();
    let range = asked.as_deref().and_then(|range| range.split_once(".."));
    range.map_or(0..1_000, |(from, to)| from.parse().unwrap()..to.parse().unwrap())
}

#[test]
fn every_tampering_is_found_or_has_no_effect() {
    let sample = sample();
    let check = |seed: u64| {
        let random = SeededEntropy::new(seed);
        let (files, what) = sample.tamper(&random);
        if files == sample.files {
            return false;
        }
        let report = sample.verify(&files, true);
        let has_no_effect = report.is_whole() && report.size == sample.size && report.root == sample.root;
        let is_found = matches!(report.outcome, Outcome::Tampered(_));
        assert!(is_found || has_no_effect, "seed {seed}, {what}: {report:?}");
        is_found
    };
    let seeds = seeds();
    let middle = seeds.start + (seeds.end - seeds.start) / 2;
    let found = std::thread::scope(|scope| {
        let count = |range: std::ops::Range<u64>| range.filter(|seed| check(*seed)).count() as u64;
        let other = scope.spawn(move || count(seeds.start..middle));
        count(middle..seeds.end) + other.join().unwrap()
    });
    // Without effect are only equal files, bytes after the last frame and unneeded partial tiles.
    assert!(found * 10 > (seeds.end - seeds.start) * 8, "only {found} were found");
}

#[test]
fn an_outside_checkpoint_finds_what_the_key_holder_can_hide() {
    let sample = sample();
    for (history, files) in [("rolled back", &sample.older), ("forked", &sample.fork)] {
        // Consistent in itself, so nothing but the outside checkpoint can tell.
        let alone = sample.verify(files, false);
        assert!(alone.is_whole(), "{history}: {}", alone.text());
        assert!(alone.text().contains("no outside checkpoint"), "{}", alone.text());
        let against = sample.verify(files, true);
        assert!(matches!(against.outcome, Outcome::Tampered(_)), "{history}: {}", against.text());
    }
    let other = sample.verify(&sample.other_key, false);
    assert!(matches!(other.outcome, Outcome::Tampered(_)));
    let whole = sample.verify(&sample.files, true);
    assert!(whole.text().contains("the first 600 are those of the outside checkpoint `witness`"), "{}", whole.text());
    assert!(whole.json().contains("\"outcome\":\"ok\""), "{}", whole.json());
}

#[test]
fn an_older_outside_checkpoint_leaves_the_rest_unproved() {
    let mut sample = sample();
    sample.checkpoint = String::from_utf8(sample.older[Path::new("checkpoint")].clone()).unwrap();
    let report = sample.verify(&sample.files, true);
    assert!(report.is_whole() && report.text().contains("entries 300 to 599"), "{}", report.text());
}

/// Offset of each frame of a segment.
fn frames(segment: &[u8]) -> Vec<usize> {
    let (mut at, mut found) = (4096, Vec::new());
    while segment.get(at..at + 8) == Some(b"WMFRAME1") {
        found.push(at);
        let body = u32::from_be_bytes(segment[at + 8..at + 12].try_into().unwrap()) as usize;
        at = (at + 104 + body).next_multiple_of(512);
    }
    found
}

/// Gives a changed frame the hash of its new bytes, as somebody would who knows the format.
fn reseal(segment: &mut [u8], at: usize) {
    let body = u32::from_be_bytes(segment[at + 8..at + 12].try_into().unwrap()) as usize;
    let hash =
        Sha256::new().chain_update(&segment[at..at + 72]).chain_update(&segment[at + 104..at + 104 + body]).finalize();
    segment[at + 72..at + 104].copy_from_slice(&hash);
}

#[test]
fn somebody_who_knows_the_format_is_found_too() {
    let sample = sample();
    let segments: Vec<&PathBuf> = sample.files.keys().filter(|name| name.starts_with("wal")).collect();
    let (first, last) = (segments[0], segments[segments.len() - 1]);
    let expect = |files: &BTreeMap<PathBuf, Vec<u8>>, words: &str| {
        let report = sample.verify(files, false);
        assert!(matches!(&report.outcome, Outcome::Tampered(found) if found.what.contains(words)), "{}", report.text());
    };

    // The last byte before the checkpoint of the last frame is the end of its last part.
    let mut files = sample.files.clone();
    let segment = files.get_mut(last).unwrap();
    let at = *frames(segment).last().unwrap();
    let length = |from: usize| u32::from_be_bytes(segment[from..from + 4].try_into().unwrap()) as usize;
    let end = at + 104 + length(at + 8) - length(at + 12);
    segment[end - 1] ^= 1;
    reseal(segment, at);
    expect(&files, "does not have the hash in its leaf");

    // The time in the first leaf of a frame, with the part hashes and the frame's hash in order.
    let mut files = sample.files.clone();
    let segment = files.get_mut(last).unwrap();
    segment[at + 104 + 6 + 8] ^= 1;
    reseal(segment, at);
    expect(&files, "do not have the root in the published checkpoint");

    // A frame's sequence number, its hash put right: the next frame names the old hash.
    let mut files = sample.files.clone();
    let segment = files.get_mut(first).unwrap();
    let frame = frames(segment)[1];
    segment[frame + 31] ^= 4;
    reseal(segment, frame);
    expect(&files, "does not follow the one before it");

    for needed in ["tile/0/002.p/88", "tile/entries/002.p/88", "tile/entries/000", "tile/1/000.p/2"] {
        let mut files = sample.files.clone();
        assert!(files.remove(Path::new(needed)).is_some(), "{needed}");
        expect(&files, "needs is missing");
    }
}

#[test]
fn zeros_ahead_and_an_unfinished_frame_are_outside_the_log() {
    let sample = sample();
    let mut files = sample.files.clone();
    let (_, last) = files.iter_mut().rfind(|(name, _)| name.starts_with("wal")).unwrap();
    last.extend([0; 4096]);
    assert!(sample.verify(&files, true).notes.is_empty());
    let (_, last) = files.iter_mut().rfind(|(name, _)| name.starts_with("wal")).unwrap();
    let at = last.len() - 700;
    last[at] = 7;
    let report = sample.verify(&files, true);
    assert!(report.is_whole() && report.size == sample.size && report.notes.len() == 1, "{}", report.text());
}

#[test]
fn the_verifier_agrees_with_a_log_that_is_being_written() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let log = open(dir.path(), 5);
    let key = VerifierKey::parse(&log.vkey()).unwrap();
    let writer = log.clone();
    let writing = runtime.spawn(async move { fill(&writer, 0, 3_000, 4).await });
    let mut size = 0;
    while !writing.is_finished() {
        let report = verify(dir.path(), &Options { key: key.clone(), checkpoints: vec![] });
        assert!(report.is_whole() && report.size >= size, "{}", report.text());
        size = report.size;
    }
    runtime.block_on(writing).unwrap();
    runtime.block_on(log.close());
    let report = verify(dir.path(), &Options { key, checkpoints: vec![("now".into(), log.checkpoint())] });
    assert!(report.is_whole() && report.size == 3_000, "{}", report.text());
}
