//! The end of a log that no published checkpoint covers: a frame of which sectors are missing is cut off, one that was
//! written whole and changed later is damage (docs/log-format.md, "Torn or changed").

use std::path::Path;
use std::sync::Arc;

use base::Timestamp;
use disk::sim::SimDisk;

use crate::frame::{Frame, Prepared, SECTOR};
use crate::head::Head;
use crate::segment::{SEGMENT_HEADER, segment_path};
use crate::*;

const DIR: &str = "/log";

fn open(disk: &SimDisk) -> Result<Head, LedgerError> {
    let signer: Arc<dyn CheckpointSigner> = Arc::new(Ed25519Signer::from_seed("torn.test/log", &[1; 32]).unwrap());
    let options = LogOptions { preallocate_bytes: 16 << 10, ..LogOptions::new("torn.test/log") };
    Head::open(Arc::new(disk.clone()), Path::new(DIR), options, signer, None)
}

/// A log of two frames, the last of seven sectors, two of them zeros as written; where that one begins and its bytes.
fn two_frames() -> (SimDisk, u64, Vec<u8>) {
    let disk = SimDisk::new(1);
    let mut head = open(&disk).unwrap();
    let prepared = |part: Vec<u8>| Prepared::new(NewEntry::one(part), Timestamp(1));
    head.commit(&[&prepared(vec![7; 100])]).unwrap();
    let mut part = vec![9; 3_000];
    part[700..1_900].fill(0);
    head.commit(&[&prepared(part)]).unwrap();
    drop(head);
    disk.restart();
    let file = disk.open(&segment_path(Path::new(DIR), 0)).unwrap();
    let mut bytes = vec![0; 7 * SECTOR];
    let offset = SEGMENT_HEADER as u64 + SECTOR as u64;
    file.read_at(&mut bytes, offset).unwrap();
    let frame = Frame::parse(bytes.clone().into()).unwrap();
    assert_eq!((frame.header.sequence, frame.header.zero_sectors), (1, 2));
    (disk, offset, bytes)
}

/// How the log opens with these bytes in place of the last frame: the entries it has, or why not.
fn reopened(disk: &SimDisk, offset: u64, bytes: &[u8]) -> Result<u64, LedgerError> {
    let disk = disk.fork(2);
    let file = disk.open(&segment_path(Path::new(DIR), 0)).unwrap();
    file.write_at(bytes, offset).unwrap();
    file.sync().unwrap();
    open(&disk).map(|head| head.size())
}

#[test]
fn a_last_frame_that_was_changed_is_never_cut_off_as_torn() {
    let (disk, offset, bytes) = two_frames();
    assert_eq!(reopened(&disk, offset, &bytes).unwrap(), 2);
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        let error = reopened(&disk, offset, &changed).expect_err("a changed byte");
        assert!(matches!(error, LedgerError::Damaged { .. }), "{at}: {error}");
    }
}

#[test]
fn a_frame_with_missing_sectors_is_cut_off_and_the_log_goes_on() {
    let (disk, offset, bytes) = two_frames();
    for missing in 1..1u32 << 7 {
        let mut torn = bytes.clone();
        for sector in (0..7).filter(|sector| missing >> sector & 1 == 1) {
            torn[sector * SECTOR..(sector + 1) * SECTOR].fill(0);
        }
        // Sectors of zeros as written cannot be missed.
        let expected = if torn == bytes { 2 } else { 1 };
        assert_eq!(reopened(&disk, offset, &torn).unwrap(), expected, "{missing:b}");
    }
    for cut in 1..7 {
        let disk = disk.fork(3);
        disk.open(&segment_path(Path::new(DIR), 0)).unwrap().set_len(offset + (cut * SECTOR) as u64).unwrap();
        assert_eq!(open(&disk).unwrap().size(), 1);
    }
}

#[test]
fn a_torn_frame_with_more_behind_it_is_damage() {
    let (disk, offset, mut bytes) = two_frames();
    bytes[3 * SECTOR..4 * SECTOR].fill(0);
    assert_eq!(reopened(&disk, offset, &bytes).unwrap(), 2, "zeros as written");
    bytes[SECTOR..2 * SECTOR].fill(0);
    bytes.resize(8 * SECTOR, 1);
    assert!(matches!(reopened(&disk, offset, &bytes), Err(LedgerError::Damaged { .. })));
}
