//! Law 4: random tampering with every kind of file of a log is found, or provably has no effect: the same number of
//! entries with the same root are still proved, and their leaves and parts are the same. `WARD_TAMPER_SEEDS=FROM..TO`
//! runs others than the default ten thousand.

#![allow(clippy::print_stderr)] // The tally of what was done.

mod mutate;
mod reader;
mod records;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use base::{Clock, LogName, ManualClock, SeededEntropy};
use ledger::{Ed25519Signer, Log, LogOptions, NewEntry, RealDisk};
use mutate::{Files, Random, content, frames, reseal, roll_back, segments, size_in, tamper};
use ward_verify::{Memory, Options, Outcome, Report, VerifierKey, verify, verify_in};

const ORIGIN: &str = "ward.test/audit";

/// A log as its files, with what an auditor holds of it.
struct Sample {
    files: Files,
    /// The files as they were at 280 entries.
    older: Files,
    /// Another log of the same length and origin, by another key.
    other_key: Files,
    /// Another history signed by the same key, beginning like this one.
    fork: Files,
    checkpoint: String,
    key: VerifierKey,
    vkey: String,
    size: u64,
    root: [u8; 32],
}

fn signer(seed: u8) -> Ed25519Signer {
    Ed25519Signer::from_seed(ORIGIN, &[seed; 32]).unwrap()
}

fn open(dir: &Path, seed: u8) -> Log {
    let options = LogOptions {
        segment_bytes: 16 << 10,
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
            let part = |p: u64| vec![(i + p) as u8 ^ salt; ((i * 13 + p) % 60) as usize].into();
            NewEntry { parts: (0..i % 3 + 1).map(part).collect(), slots: vec![salt; (i % 30) as usize] }
        });
        log.append_all(batch.collect()).await.unwrap();
        at += n;
    }
    log.subscribe_published().wait_for(|size| *size == to).await.unwrap();
}

fn files(dir: &Path) -> Files {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("lock") {
                found.insert(path.strip_prefix(dir).unwrap().to_owned(), Arc::new(fs::read(&path).unwrap()));
            }
        }
    }
    found
}

/// Makes a log of 320 entries; `salt_after` gives the entries from 280 on.
async fn make(seed: u8, salt_after: u8) -> (Files, Files, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), seed);
    fill(&log, 0, 280, 1).await;
    let older = files(dir.path());
    fill(&log, 280, 320, salt_after).await;
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
    let mut sample = Sample { files: now, older, other_key, fork, checkpoint, key, vkey, size: 0, root: [0; 32] };
    let report = sample.verify(&sample.files, true);
    assert_eq!(report.outcome, Outcome::Whole, "{}", report.text());
    assert!(report.notes.is_empty() && report.segments > 2, "{report:?}");
    (sample.size, sample.root) = (report.size, report.root);
    assert_eq!(sample.size, 320);
    sample
}

impl Sample {
    fn verify(&self, files: &Files, with_checkpoint: bool) -> Report {
        let options = Options::new(self.key.clone());
        let options = if with_checkpoint { options.and("witness", &self.checkpoint) } else { options };
        verify_in(&Memory(files.clone()), Path::new(""), &options)
    }
}

#[expect(clippy::disallowed_methods, reason = "a test is told its seeds by the environment")]
fn seeds() -> std::ops::Range<u64> {
    let asked = std::env::var("WARD_TAMPER_SEEDS").ok();
    let range = asked.as_deref().and_then(|range| range.split_once(".."));
    range.map_or(0..10_000, |(from, to)| from.parse().unwrap()..to.parse().unwrap())
}

/// How often each kind was found, and how often it had no effect.
type Kinds = BTreeMap<&'static str, (u64, u64)>;

#[test]
fn every_tampering_is_found_or_has_no_effect() {
    let sample = sample();
    let others = [&sample.older, &sample.other_key, &sample.fork];
    let said = content(&sample.files, sample.size);
    let check = |seeds: std::ops::Range<u64>| {
        let mut kinds = Kinds::new();
        for seed in seeds {
            let mut random = Random(seed);
            let Some((kind, files)) =
                std::iter::repeat_with(|| tamper(&mut random, &sample.files, &others)).flatten().next()
            else {
                continue;
            };
            let report = sample.verify(&files, true);
            let is_same = (report.size, report.root) == (sample.size, sample.root);
            let has_no_effect = report.is_whole() && is_same && content(&files, sample.size) == said;
            let is_found = matches!(report.outcome, Outcome::Tampered(_));
            assert!(is_found || has_no_effect, "seed {seed}, {kind}: {report:?}");
            let (found, harmless) = kinds.entry(kind).or_default();
            *(if is_found { found } else { harmless }) += 1;
        }
        kinds
    };
    let seeds = seeds();
    let middle = seeds.start + (seeds.end - seeds.start) / 2;
    let kinds = std::thread::scope(|scope| {
        let other = scope.spawn(|| check(seeds.start..middle));
        let mut kinds = check(middle..seeds.end);
        for (kind, (found, harmless)) in other.join().unwrap() {
            let all = kinds.entry(kind).or_default();
            *all = (all.0 + found, all.1 + harmless);
        }
        kinds
    });
    // Without effect are bytes after the last frame, slots, unneeded partial tiles, and an older published checkpoint.
    let (found, harmless) = kinds.values().fold((0, 0), |all, kind| (all.0 + kind.0, all.1 + kind.1));
    eprintln!("{found} found, {harmless} without effect: {kinds:?}");
    assert!(found > harmless * 5, "only {found} were found: {kinds:#?}");
    assert!(seeds.end - seeds.start < 10_000 || kinds.len() >= 25, "{kinds:#?}");
}

/// Nothing but what somebody outside kept can tell a perfect rollback, and it does, to each of the log's frames.
#[test]
fn a_perfect_rollback_is_found_by_an_outside_checkpoint_alone() {
    let sample = sample();
    let mut rollbacks = 0;
    for segment in segments(&sample.files) {
        for frame in frames(&sample.files[&segment]) {
            let back = roll_back(&sample.files, &segment, frame);
            let size = size_in(&back[Path::new("checkpoint")]);
            if size == sample.size {
                continue;
            }
            let alone = sample.verify(&back, false);
            assert!(alone.is_whole() && alone.size == size && alone.notes.is_empty(), "{}", alone.text());
            let against = sample.verify(&back, true);
            assert!(matches!(&against.outcome, Outcome::Tampered(found) if found.what.contains("removed")));
            rollbacks += 1;
        }
    }
    assert!(rollbacks > 40, "{rollbacks}");
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
    assert!(whole.text().contains("the first 320 are those of the outside checkpoint `witness`"), "{}", whole.text());
    assert!(whole.json().contains("\"outcome\":\"ok\""), "{}", whole.json());
}

#[test]
fn an_older_outside_checkpoint_leaves_the_rest_unproved() {
    let mut sample = sample();
    sample.checkpoint = String::from_utf8(sample.older[Path::new("checkpoint")].to_vec()).unwrap();
    let report = sample.verify(&sample.files, true);
    assert!(report.is_whole() && report.text().contains("entries 280 to 319"), "{}", report.text());
}

#[test]
fn somebody_who_knows_the_format_is_found_too() {
    let sample = sample();
    let names = segments(&sample.files);
    let (first, last) = (&names[0], &names[names.len() - 1]);
    let expect = |files: &Files, words: &str| {
        let report = sample.verify(files, false);
        assert!(matches!(&report.outcome, Outcome::Tampered(found) if found.what.contains(words)), "{}", report.text());
    };

    // The last byte before the checkpoint of the last frame is the end of its last part.
    let mut files = sample.files.clone();
    let segment = Arc::make_mut(files.get_mut(last).unwrap());
    let frame = *frames(segment).last().unwrap();
    segment[frame.end - frame.note - 1] ^= 1;
    reseal(segment, frame);
    expect(&files, "does not have the hash in its leaf");

    // The time in the first leaf of a frame, with the part hashes and the frame's hash in order.
    let mut files = sample.files.clone();
    let segment = Arc::make_mut(files.get_mut(last).unwrap());
    segment[frame.at + 136 + 6 + 8] ^= 1;
    reseal(segment, frame);
    expect(&files, "do not have the root in the published checkpoint");

    // A frame's sequence number, its hash put right: the next frame names the old hash.
    let mut files = sample.files.clone();
    let segment = Arc::make_mut(files.get_mut(first).unwrap());
    let frame = frames(segment)[1];
    segment[frame.at + 31] ^= 4;
    reseal(segment, frame);
    expect(&files, "does not follow the one before it");

    for needed in ["tile/0/001.p/64", "tile/entries/001.p/64", "tile/entries/000", "tile/1/000.p/1"] {
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
    Arc::make_mut(last).extend([0; 4096]);
    assert!(sample.verify(&files, true).notes.is_empty());
    let (_, last) = files.iter_mut().rfind(|(name, _)| name.starts_with("wal")).unwrap();
    let at = last.len() - 700;
    Arc::make_mut(last)[at] = 7;
    let report = sample.verify(&files, true);
    assert!(report.is_whole() && report.size == sample.size && report.notes.len() == 1, "{}", report.text());
}

/// docs/log-format.md, "Torn or changed": in a last frame that no published checkpoint covers.
#[test]
fn a_torn_last_frame_is_told_from_a_changed_one() {
    let sample = sample();
    let last = segments(&sample.files).pop().unwrap();
    let frames = frames(&sample.files[&last]);
    let (before, frame) = (frames[frames.len() - 2], frames[frames.len() - 1]);
    assert!(frame.next() - frame.at >= 1_024, "the last frame has two sectors");
    type Change<'a> = &'a dyn Fn(&mut Vec<u8>);
    let judge = |change: Change| {
        let mut files = sample.files.clone();
        files.insert("checkpoint".into(), sample.older[Path::new("checkpoint")].clone());
        change(Arc::make_mut(files.get_mut(&last).unwrap()));
        sample.verify(&files, false)
    };
    let second = frame.at + 512;
    let torn: [Change; 4] = [
        &|bytes| bytes[second..second + 512].fill(0),
        &|bytes| bytes[frame.at..second].fill(0),
        &|bytes| bytes.truncate(second),
        &|bytes| bytes.truncate(frame.at + 100),
    ];
    for change in torn {
        let report = judge(change);
        assert!(
            report.is_whole() && report.size < 320 && report.text().contains("torn by a power cut"),
            "{}",
            report.text()
        );
    }
    let changed: [(Change, &str); 5] = [
        (&|bytes| bytes[before.at..before.at + 512].fill(0), "whole ones follow"),
        (&|bytes| bytes[second + 7] ^= 1, "all of it was written"),
        (&|bytes| bytes[frame.at + 30] ^= 1, "begins as it was meant"),
        (&|bytes| bytes[frame.at..frame.at + 8].fill(0), "begins as it was meant"),
        (
            &|bytes| {
                bytes[second..second + 512].fill(0);
                bytes.extend([0, 1]);
            },
            "had been made durable",
        ),
    ];
    for (change, words) in changed {
        let report = judge(change);
        assert!(matches!(&report.outcome, Outcome::Tampered(found) if found.what.contains(words)), "{}", report.text());
    }
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
        let report = verify(dir.path(), &Options::new(key.clone()));
        assert!(report.is_whole() && report.size >= size, "{}", report.text());
        size = report.size;
    }
    runtime.block_on(writing).unwrap();
    runtime.block_on(log.close());
    let report = verify(dir.path(), &Options::new(key).and("now", &log.checkpoint()));
    assert!(report.is_whole() && report.size == 3_000, "{}", report.text());
}
