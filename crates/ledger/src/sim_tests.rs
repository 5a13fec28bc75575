//! The simulation: random appends, power cuts, failing syncs and full disks; after each reopening every acknowledged
//! entry is there once and in order, nothing else but the one batch that was under way, and the tree verifies.

use std::path::Path;
use std::sync::Arc;

use base::{SeededEntropy, Timestamp};
use disk::sim::{SimDisk, SyncFault};

use crate::frame::Prepared;
use crate::head::{self, Head};
use crate::log::open_parts;
use crate::merkle::{Frontier, leaf_hash, sha256};
use crate::tail::{self, Tail};
use crate::verify;
use crate::*;

const DIR: &str = "/log";

/// An entry as the test knows it: parts, slots, time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    parts: Vec<Vec<u8>>,
    slots: Vec<u8>,
    ms: i64,
}

impl Known {
    fn prepared(&self) -> Prepared {
        let parts = self.parts.iter().map(|part| part.clone().into()).collect();
        Prepared::new(NewEntry { parts, slots: self.slots.clone() }, Timestamp(self.ms))
    }

    /// The leaf as docs/log-format.md has it, written a second time.
    fn leaf(&self) -> Vec<u8> {
        let mut leaf = vec![1];
        leaf.extend(self.ms.to_be_bytes());
        leaf.extend((self.parts.len() as u16).to_be_bytes());
        for part in &self.parts {
            leaf.extend((part.len() as u32).to_be_bytes());
            leaf.extend(sha256(part));
        }
        leaf
    }
}

struct Run {
    seed: u64,
    random: SeededEntropy,
    disk: SimDisk,
    options: LogOptions,
    signer: Arc<dyn CheckpointSigner>,
    /// Acknowledged, or found whole after a reopening.
    entries: Vec<Known>,
    /// The batch whose append failed or was cut: may be there, whole, or not.
    under_way: Vec<Known>,
    published: u64,
}

impl Run {
    fn new(seed: u64, signer: Arc<dyn CheckpointSigner>) -> Run {
        let random = SeededEntropy::new(seed ^ 0x5eed);
        let options = LogOptions {
            segment_bytes: 4096 + 512 * (4 + random.next_u64() % 40),
            preallocate_bytes: 512 * (1 + random.next_u64() % 16),
            cache_bytes_max: 4096,
            ..LogOptions::new("sim.test/log")
        };
        let disk = SimDisk::new(seed);
        Run { seed, random, disk, options, signer, entries: vec![], under_way: vec![], published: 0 }
    }

    fn below(&self, n: u64) -> u64 {
        self.random.next_u64() % n
    }

    fn known(&self) -> Known {
        let bytes = |n: u64| (0..self.below(n)).map(|_| self.random.next_u64() as u8).collect::<Vec<u8>>();
        let parts = (0..self.below(4)).map(|_| bytes(if self.below(10) == 0 { 3_000 } else { 100 })).collect();
        Known { parts, slots: bytes(40), ms: self.random.next_u64() as i64 }
    }

    fn set_faults(&self) {
        match self.below(8) {
            0..=3 => self.disk.cut_after(1 + self.below(120)),
            4 => self.disk.fail_sync_after(self.below(40), SyncFault::Lost),
            5 => self.disk.fail_sync_after(self.below(40), SyncFault::Persisted),
            6 => self.disk.set_space(Some(self.disk.used() + self.below(20_000) as usize)),
            _ => {}
        }
    }

    /// Opens, and on success checks everything that can be read.
    fn open(&mut self) -> Option<(Head, Tail)> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let opened = open_parts(&disk, Path::new(DIR), &self.options, &self.signer);
        let (head, tail) = match opened {
            Ok(parts) => parts,
            Err(LedgerError::Io { .. }) => return None,
            Err(error) => panic!("seed {}: {error}", self.seed),
        };
        self.check(&head);
        Some((head, tail))
    }

    fn check(&mut self, head: &Head) {
        let size = head.size() as usize;
        let (acknowledged, under_way) = (self.entries.len(), std::mem::take(&mut self.under_way));
        assert!(
            size == acknowledged || size == acknowledged + under_way.len(),
            "seed {}: {acknowledged} acknowledged, {} under way, {size} found",
            self.seed,
            under_way.len()
        );
        if size > acknowledged {
            self.entries.extend(under_way);
        }
        let Ok(found) = head.reader().read(0, usize::MAX, usize::MAX) else {
            assert!(self.disk.list(Path::new("/")).is_err(), "seed {}: unreadable with the power on", self.seed);
            return;
        };
        assert_eq!(found.len(), size, "seed {}", self.seed);
        for (known, found) in self.entries.iter().zip(&found) {
            let same = known.parts.iter().map(Vec::as_slice).eq(found.parts.iter().map(|part| &part[..]));
            assert!(same && known.slots == found.slots && known.ms == found.appended.ms(), "seed {}", self.seed);
        }
    }

    /// The whole log from its files, against the tree made of what the test knows.
    fn verify(&self) {
        let identity = head::identity(&self.options, &*self.signer);
        match verify::verify(&self.disk, Path::new(DIR), &identity, None) {
            Ok(verified) => {
                let mut tree = Frontier::default();
                self.entries.iter().for_each(|known| tree.push(leaf_hash(&known.leaf())));
                assert_eq!((verified.size, verified.root), (tree.size(), tree.root()), "seed {}", self.seed);
            }
            Err(LedgerError::Io { .. }) => {}
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
    }

    /// Appends until the disk fails or enough was done.
    fn work(&mut self, head: &mut Head, tail: &mut Tail) {
        for _ in 0..self.below(40) {
            let batch: Vec<Known> = (0..1 + self.below(5)).map(|_| self.known()).collect();
            let prepared: Vec<Prepared> = batch.iter().map(Known::prepared).collect();
            match head.commit(&prepared.iter().collect::<Vec<_>>()) {
                Ok(range) => {
                    assert_eq!(range.start as usize, self.entries.len(), "seed {}", self.seed);
                    self.entries.extend(batch);
                }
                Err(AppendError::NoSpace) => self.disk.set_space(None),
                Err(AppendError::Poisoned) => {
                    assert!(self.disk.fatal_error().is_some());
                    self.under_way = batch;
                    return;
                }
                Err(other) => panic!("seed {}: {other}", self.seed),
            }
            if self.below(3) == 0 {
                match tail.step() {
                    Ok(_) => {}
                    Err(LedgerError::Io { .. }) if self.below(2) == 0 => return,
                    Err(LedgerError::Io { .. }) => {}
                    Err(error) => panic!("seed {}: {error}", self.seed),
                }
            }
        }
    }

    /// A checkpoint in the world never names what is not durable, nor goes back once it was durable itself.
    fn check_published(&mut self, is_durable: bool) {
        let identity = head::identity(&self.options, &*self.signer);
        let Ok(published) = tail::published(&self.disk, Path::new(DIR), &identity) else { return };
        let size = published.map_or(0, |published| published.size);
        assert!(size <= self.entries.len() as u64, "seed {}", self.seed);
        assert!(size >= self.published, "seed {}", self.seed);
        if is_durable {
            self.published = size;
        }
    }

    fn round(&mut self) {
        self.set_faults();
        if let Some((mut head, mut tail)) = self.open() {
            self.work(&mut head, &mut tail);
        }
        self.disk.set_space(None);
        let is_cut = self.below(3) > 0;
        if is_cut {
            self.disk.power_cut();
        } else {
            self.disk.restart();
        }
        self.check_published(is_cut);
    }

    fn finish(&mut self) {
        let (head, mut tail) = self.open().expect("opens on a healthy disk");
        self.verify();
        loop {
            if tail.step().unwrap_or_else(|error| panic!("seed {}: {error}", self.seed)) {
                break;
            }
        }
        self.check_published(true);
        assert_eq!(self.published, head.size(), "seed {}", self.seed);
    }
}

fn simulate(seed: u64, signer: &Arc<dyn CheckpointSigner>) {
    let mut run = Run::new(seed, signer.clone());
    for _ in 0..2 + run.below(5) {
        run.round();
    }
    run.finish();
}

/// `WARD_SIM_SEEDS=FROM..TO` runs others than the default.
#[test]
#[expect(clippy::disallowed_methods, reason = "a test is told its seeds by the environment")]
fn acknowledged_entries_survive_every_simulated_crash() {
    let signer: Arc<dyn CheckpointSigner> = Arc::new(Ed25519Signer::from_seed("sim.test/log", &[1; 32]).unwrap());
    let asked = std::env::var("WARD_SIM_SEEDS").ok();
    let (from, to) = asked
        .as_deref()
        .and_then(|range| range.split_once(".."))
        .map_or((0, 2_000), |(from, to)| (from.parse().unwrap(), to.parse().unwrap()));
    let middle = from + (to - from) / 2;
    std::thread::scope(|scope| {
        scope.spawn(|| (from..middle).for_each(|seed| simulate(seed, &signer)));
        (middle..to).for_each(|seed| simulate(seed, &signer));
    });
}
