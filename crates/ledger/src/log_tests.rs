//! Tests of [`crate::Log`] on the real disk, with its threads.

use std::path::Path;
use std::sync::Arc;

use base::{Clock, LogName, ManualClock};
use disk::sim;

use crate::merkle::{verify_consistency, verify_inclusion};
use crate::*;

fn signer() -> Arc<dyn CheckpointSigner> {
    Arc::new(Ed25519Signer::from_seed("ward.test/log", &[3; 32]).unwrap())
}

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 64 << 10,
        preallocate_bytes: 8 << 10,
        tail_interval_ms: 1,
        ..LogOptions::new("ward.test/log")
    }
}

fn open_with(dir: &Path, options: LogOptions) -> Result<Log, LedgerError> {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(1_700_000_000_000));
    Log::open(Arc::new(RealDisk), dir, LogName::parse("test").unwrap(), options, signer(), clock)
}

fn open_sim(disk: &sim::SimDisk) -> Log {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(1_700_000_000_000));
    let name = LogName::parse("test").unwrap();
    // The tail does its part at closing only, so that it takes no sync from the head.
    let options = LogOptions { tail_interval_ms: 3_600_000, ..options() };
    Log::open(Arc::new(disk.clone()), Path::new("/log"), name, options, signer(), clock).unwrap()
}

fn open(dir: &Path) -> Log {
    open_with(dir, options()).unwrap()
}

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap().block_on(future)
}

fn entry(i: u64) -> NewEntry {
    let parts = (0..i % 3 + 1).map(|p| vec![(i + p) as u8; (i * 37 % 900) as usize].into()).collect();
    NewEntry { parts, slots: i.to_be_bytes().to_vec() }
}

fn assert_holds(log: &Log, n: u64) {
    let all = log.read(0, usize::MAX, usize::MAX).unwrap();
    assert_eq!(all.len() as u64, n);
    for (i, got) in all.iter().enumerate() {
        let expected = entry(i as u64);
        assert_eq!((got.index, &got.parts, &got.slots), (i as u64, &expected.parts, &expected.slots));
    }
}

#[test]
fn entries_come_back_after_reopening_over_many_segments_with_proofs() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let log = open(dir.path());
        for i in 0..700 {
            assert_eq!(log.append(entry(i)).await.unwrap(), i);
        }
        assert_holds(&log, 700);
        log.close().await;
        assert_eq!(log.append(entry(0)).await, Err(AppendError::Closed));
        drop(log);

        let log = open(dir.path());
        assert_holds(&log, 700);
        let range = log.append_all((700..1000).map(entry).collect()).await.unwrap();
        assert_eq!(range, 700..1000);
        assert_holds(&log, 1000);
        let verified = log.verify().unwrap();
        assert_eq!((verified.size, verified.root), (1000, log.root(1000).unwrap()));
        assert!(verified.segments > 3);
        let note = note::verify(&log.checkpoint(), "ward.test/log", &signer().public_key()).unwrap();
        assert_eq!((note.size, note.root), (1000, verified.root));
        for (index, size) in [(0, 1), (0, 1000), (999, 1000), (255, 256), (256, 700), (512, 513), (699, 999)] {
            let root = log.root(size).unwrap();
            let path = log.inclusion_proof(index, size).unwrap();
            assert!(verify_inclusion(&log.leaf_hash(index).unwrap(), index, size, &path, &root));
            let path = log.consistency_proof(index, size).unwrap();
            assert!(verify_consistency(index, &log.root(index).unwrap(), size, &root, &path));
        }
        assert!(matches!(log.inclusion_proof(1000, 1000), Err(LedgerError::OutOfRange { .. })));
        assert!(log.read(1000, 10, 10).unwrap().is_empty());
        assert!(matches!(log.read(1001, 10, 10), Err(LedgerError::OutOfRange { .. })));
        let mut published = log.subscribe_published();
        published.wait_for(|size| *size == 1000).await.unwrap();
        let on_disk = std::fs::read_to_string(dir.path().join("checkpoint")).unwrap();
        assert_eq!(on_disk, log.checkpoint());
    });
}

#[test]
fn concurrent_appends_share_frames_and_each_learns_its_own_index() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let log = open(dir.path());
        let mut sizes = log.subscribe();
        let tasks: Vec<_> = (0..500u64)
            .map(|i| {
                let log = log.clone();
                tokio::spawn(async move { (i, log.append(NewEntry::one(i.to_be_bytes().to_vec())).await.unwrap()) })
            })
            .collect();
        let mut indexes = Vec::new();
        for task in tasks {
            let (i, index) = task.await.unwrap();
            let got = log.read(index, 1, usize::MAX).unwrap();
            assert_eq!(got[0].parts[0][..], i.to_be_bytes());
            indexes.push(index);
        }
        indexes.sort_unstable();
        assert_eq!(indexes, (0..500).collect::<Vec<_>>());
        assert_eq!(*sizes.wait_for(|size| *size == 500).await.unwrap(), 500);
        assert!(log.verify().unwrap().frames < 500);
    });
}

#[test]
fn reads_stop_at_their_limits_and_go_on_where_they_stopped() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let log = open_with(dir.path(), LogOptions { cache_bytes_max: 0, ..options() }).unwrap();
        for chunk in 0..20 {
            log.append_all((chunk * 10..chunk * 10 + 10).map(entry).collect()).await.unwrap();
        }
        let mut from = 0;
        while from < 200 {
            let got = log.read(from, 7, 2_000).unwrap();
            assert!(!got.is_empty() && got.len() <= 7);
            let bytes: usize = got.iter().map(|e| e.slots.len() + e.parts.iter().map(|p| p.len()).sum::<usize>()).sum();
            assert!(bytes <= 2_000 || got.len() == 1);
            assert_eq!(got[0].index, from);
            from += got.len() as u64;
        }
        for index in (0..200).rev() {
            assert_eq!(log.read(index, 1, 1).unwrap()[0].parts, entry(index).parts);
        }
    });
}

#[test]
fn one_writer_and_clear_limits() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let log = open_with(dir.path(), LogOptions { append_bytes_max: 100, queue_max: 4, ..options() }).unwrap();
        let error = open_with(dir.path(), options()).err().unwrap();
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        for (bad, unit) in [
            (NewEntry::one(vec![0; 101]), "bytes"),
            (NewEntry { parts: vec![bytes::Bytes::new(); PARTS_MAX + 1], slots: vec![] }, "parts"),
        ] {
            assert!(matches!(log.append(bad).await, Err(AppendError::TooLarge { unit: u, .. }) if u == unit));
        }
        assert_eq!(log.append_all(vec![]).await.unwrap(), 0..0);
        // A batch above the queue's bound is taken when it is alone.
        assert_eq!(log.append_all(vec![NewEntry::one(vec![1]); 9]).await.unwrap(), 0..9);
        let busy = futures_like_join(&log, 200).await;
        assert!(busy.iter().all(|answer| matches!(answer, Ok(_) | Err(AppendError::Busy { .. }))));
        assert_eq!(log.size(), 9 + busy.iter().filter(|answer| answer.is_ok()).count() as u64);
    });
}

async fn futures_like_join(log: &Log, n: usize) -> Vec<Result<u64, AppendError>> {
    let tasks: Vec<_> = (0..n)
        .map(|_| {
            let log = log.clone();
            tokio::spawn(async move { log.append(NewEntry::one(vec![1])).await })
        })
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}

#[test]
fn lost_tiles_are_written_again_and_another_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let log = open(dir.path());
        log.append_all((0..600).map(entry).collect()).await.unwrap();
        log.close().await;
        drop(log);
        let tile = dir.path().join("tile/0/001");
        let before = std::fs::read(&tile).unwrap();
        std::fs::remove_dir_all(dir.path().join("tile")).unwrap();
        let log = open(dir.path());
        assert_eq!(std::fs::read(&tile).unwrap(), before);
        drop(log);
        std::fs::remove_file(&tile).unwrap();
        assert_eq!(rebuild_tiles(Arc::new(RealDisk), dir.path(), options(), signer()).unwrap(), 600);
        assert_eq!(std::fs::read(&tile).unwrap(), before);

        // A tile that rotted is never made a proof of.
        let rotted = dir.path().join("tile/0/000");
        let mut bytes = std::fs::read(&rotted).unwrap();
        bytes[40] ^= 1;
        std::fs::write(&rotted, bytes).unwrap();
        let log = open(dir.path());
        assert!(matches!(log.inclusion_proof(3, 600), Err(LedgerError::Tiles { .. })));
        assert!(log.inclusion_proof(300, 600).is_ok());
        drop(log);

        let other = Arc::new(Ed25519Signer::from_seed("ward.test/log", &[4; 32]).unwrap());
        let clock = Arc::new(ManualClock::at(0));
        let name = LogName::parse("test").unwrap();
        let error = Log::open(Arc::new(RealDisk), dir.path(), name, options(), other, clock).err().unwrap();
        assert!(matches!(error, LedgerError::WrongKey { .. }));
    });
}

#[test]
fn a_log_that_another_key_signed_is_not_called_whole() {
    let disk = sim::SimDisk::new(3);
    run(async {
        let log = open_sim(&disk);
        log.append_all((0..300).map(entry).collect()).await.unwrap();
        log.close().await;
    });
    for (seed, is_whole) in [([3; 32], true), ([4; 32], false)] {
        let signer = Ed25519Signer::from_seed("ward.test/log", &seed).unwrap();
        let identity = crate::head::identity(&options(), &signer);
        let verified = crate::verify::verify(&disk, Path::new("/log"), &identity, None);
        assert_eq!(verified.is_ok(), is_whole, "{verified:?}");
    }
}

#[test]
fn damage_is_refused_with_its_place() {
    let build = |dir: &Path| {
        run(async {
            let log = open(dir);
            for i in 0..400 {
                log.append(entry(i)).await.unwrap();
            }
            log.close().await;
        });
        let mut names: Vec<_> = std::fs::read_dir(dir.join("wal")).unwrap().map(|e| e.unwrap().path()).collect();
        names.sort();
        names
    };
    let flip = |path: &Path, at: usize| {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[at] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    type Harm<'a> = Box<dyn Fn(&[std::path::PathBuf]) + 'a>;
    let harms: Vec<(&str, Harm)> = vec![
        ("a frame in the last segment", Box::new(|names| flip(names.last().unwrap(), 4096 + 200))),
        ("a segment's header", Box::new(|names| flip(&names[0], 50))),
        ("a missing last segment", Box::new(|names| std::fs::remove_file(names.last().unwrap()).unwrap())),
        ("a missing middle segment", Box::new(|names| std::fs::remove_file(&names[1]).unwrap())),
        ("a missing first segment", Box::new(|names| std::fs::remove_file(&names[0]).unwrap())),
        ("no segments", Box::new(|names| names.iter().for_each(|name| std::fs::remove_file(name).unwrap()))),
        (
            "a cut last segment",
            Box::new(|names| {
                let file = std::fs::OpenOptions::new().write(true).open(names.last().unwrap()).unwrap();
                file.set_len(4096 + 512).unwrap();
            }),
        ),
    ];
    for (what, harm) in harms {
        let dir = tempfile::tempdir().unwrap();
        let names = build(dir.path());
        assert!(names.len() > 2);
        harm(&names);
        let error = open_with(dir.path(), options()).err().unwrap_or_else(|| panic!("{what} was not noticed"));
        assert!(matches!(error, LedgerError::Damaged { .. }), "{what}: {error}");
    }
}

#[test]
fn a_failed_sync_acknowledges_nothing_and_poisons_the_log_until_it_is_opened_again() {
    for fault in [sim::SyncFault::Lost, sim::SyncFault::Persisted] {
        let disk = sim::SimDisk::new(1);
        run(async {
            let log = open_sim(&disk);
            log.append(entry(0)).await.unwrap();
            disk.fail_sync_after(0, fault);
            assert_eq!(log.append(entry(1)).await, Err(AppendError::Poisoned));
            assert_eq!(log.append(entry(2)).await, Err(AppendError::Poisoned));
            assert!(disk.fatal_error().unwrap().contains("sync of the log"));
            assert_eq!(log.size(), 1);
            log.close().await;
            drop(log);
            disk.power_cut();
            let log = open_sim(&disk);
            let kept = u64::from(fault == sim::SyncFault::Persisted);
            assert_holds(&log, 1 + kept);
        });
    }
}

#[test]
fn a_full_disk_refuses_appends_and_goes_on_when_there_is_space() {
    let disk = sim::SimDisk::new(2);
    run(async {
        let log = open_sim(&disk);
        for i in 0..10 {
            log.append(entry(i)).await.unwrap();
        }
        disk.set_space(Some(disk.used()));
        let large = NewEntry::one(vec![1; 60_000]);
        assert_eq!(log.append(large.clone()).await, Err(AppendError::NoSpace));
        assert_eq!(log.append(large).await, Err(AppendError::NoSpace));
        disk.set_space(None);
        for i in 10..200 {
            assert_eq!(log.append(entry(i)).await.unwrap(), i);
        }
        assert_holds(&log, 200);
        assert_eq!(log.verify().unwrap().size, 200);
        drop(log);
        disk.power_cut();
        assert_holds(&open_sim(&disk), 200);
    });
}
