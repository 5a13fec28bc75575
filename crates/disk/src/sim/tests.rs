//! Tests of the simulated disk: what a cut may take, what it may not, and that one seed is one run.

use super::*;
use crate::temp_path;

fn disk(seed: u64) -> (SimDisk, PathBuf) {
    let disk = SimDisk::new(seed);
    let root = PathBuf::from("/data");
    disk.make_folder(&root, Access::Usual).unwrap();
    (disk, root)
}

#[test]
fn the_simulated_disk_keeps_the_contract() {
    let (disk, root) = disk(1);
    crate::contract::disk(&disk, &root);
}

/// What the cuts of many seeds leave of one write.
fn leftovers(work: impl Fn(&SimDisk, &Path)) -> BTreeSet<Option<Vec<u8>>> {
    (0..400)
        .map(|seed| {
            let (disk, root) = disk(seed);
            work(&disk, &root);
            disk.power_cut();
            disk.read(&root.join("f")).ok()
        })
        .collect()
}

#[test]
fn the_unsynced_vanishes_stays_or_is_torn_at_sectors_and_the_synced_stays() {
    let old_then_new = |disk: &SimDisk, root: &Path, synced: bool| {
        disk.publish(&[(root.join("f"), vec![1; 3 * SECTOR])]).unwrap();
        let file = disk.open(&root.join("f")).unwrap();
        file.write_at(&[2; 3 * SECTOR], 0).unwrap();
        if synced {
            file.sync().unwrap();
        }
    };
    let torn: BTreeSet<_> = leftovers(|disk, root| old_then_new(disk, root, false));
    assert_eq!(torn.len(), 8, "each of three sectors old or new");
    for bytes in torn.iter().flatten() {
        assert!(bytes.chunks(SECTOR).all(|sector| sector.iter().all(|b| *b == sector[0])));
    }
    assert_eq!(leftovers(|disk, root| old_then_new(disk, root, true)), BTreeSet::from([Some(vec![2; 3 * SECTOR])]));
}

#[test]
fn a_name_is_durable_only_when_its_folder_was_synced_and_a_publish_is_whole() {
    let named = |disk: &SimDisk, root: &Path, synced: bool| {
        let file = disk.create(&root.join("f"), Access::Usual).unwrap();
        file.write_at(b"x", 0).unwrap();
        file.sync().unwrap();
        if synced {
            disk.sync_folder(root).unwrap();
        }
    };
    assert_eq!(leftovers(|disk, root| named(disk, root, false)), BTreeSet::from([None, Some(b"x".to_vec())]));
    assert_eq!(leftovers(|disk, root| named(disk, root, true)), BTreeSet::from([Some(b"x".to_vec())]));
    for seed in 0..2_000 {
        let (disk, root) = disk(seed);
        let files: Vec<_> = (0..3u8).map(|i| (root.join(format!("d{i}/f")), vec![i; 700])).collect();
        disk.publish(&files[..1]).unwrap();
        disk.cut_after(1 + seed % 40);
        let done = disk.publish(&files).is_ok();
        disk.power_cut();
        for (i, (path, bytes)) in files.iter().enumerate() {
            match disk.read(path) {
                Ok(found) => assert_eq!(&found, bytes, "seed {seed}"),
                Err(_) => assert!(!done && i > 0, "seed {seed}"),
            }
            assert!(!done || disk.stat(&temp_path(path)).is_err());
        }
    }
}

#[test]
fn a_failed_sync_loses_or_keeps_and_the_next_one_lies() {
    for (fault, expected) in [(SyncFault::Lost, vec![0; 9]), (SyncFault::Persisted, vec![7; 9])] {
        let (disk, root) = disk(3);
        disk.publish(&[(root.join("f"), vec![0; 9])]).unwrap();
        let file = disk.open(&root.join("f")).unwrap();
        file.write_at(&[7; 9], 0).unwrap();
        disk.fail_sync_after(0, fault);
        assert!(file.sync().is_err());
        assert_eq!(disk.read(&root.join("f")).unwrap(), [7; 9], "memory shows it");
        file.sync().unwrap();
        disk.power_cut();
        assert_eq!(disk.read(&root.join("f")).unwrap(), expected);
    }
}

#[test]
fn space_ends_and_bits_flip_where_told() {
    let (disk, root) = disk(4);
    disk.set_space(Some(1_000));
    let error = disk.publish(&[(root.join("f"), vec![0; 2_000])]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert!(disk.list(&root).unwrap().is_empty(), "no half file is left");
    disk.set_space(None);
    disk.publish(&[(root.join("f"), vec![0; 2_000])]).unwrap();
    disk.flip_read_after(1);
    let ones = || disk.read(&root.join("f")).unwrap().iter().map(|b| b.count_ones()).sum::<u32>();
    assert_eq!((ones(), ones(), ones()), (0, 1, 0));
    assert_eq!(disk.rot(), Some(root.join("f")));
    disk.power_cut();
    assert_eq!((ones(), ones()), (1, 1));
}

#[test]
fn the_same_seed_is_the_same_run() {
    let run = |seed| {
        let (disk, root) = disk(seed);
        disk.cut_after(30);
        for i in 0..9u8 {
            let _ = disk.publish(&[(root.join(format!("{i}")), vec![i; 600])]);
        }
        disk.power_cut();
        for (name, _) in disk.list(&root).into_iter().flatten() {
            let _ = disk.read(&root.join(name));
        }
        disk.trace()
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn nobody_goes_on_after_the_process_should_have_ended() {
    let (disk, root) = disk(6);
    disk.fatal("a test", &io::Error::other("x"));
    assert!(disk.fatal_error().is_some() && !disk.went_on_after_fatal());
    assert!(disk.publish(&[(root.join("f"), vec![1])]).is_err());
    assert!(disk.went_on_after_fatal());
}
