//! The simulation: one seed is one run of a log on a disk that loses power, tears writes, fails syncs (lost or
//! persisted), flips bits of reads, fills up and rots, while the clock jumps. After every step the whole log is compared
//! with what the test knows: every acknowledged entry there, in order and unchanged; nothing else but the one batch that
//! was under way, whole; the published checkpoint and its tiles over durable entries alone, never going back.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{SeededEntropy, Timestamp};
use disk::sim::{Seeds, SimDisk, SyncFault};

use crate::frame::Prepared;
use crate::head::{self, Head};
use crate::log::open_parts;
use crate::merkle::{Frontier, Hash, leaf_hash, sha256, verify_inclusion};
use crate::scan::Identity;
use crate::segment::segment_path;
use crate::tail::{Tail, checkpoint_path};
use crate::tiles::{Edge, FullTiles, TILE_WIDTH, Tree, bundle_path, tile_bytes, tile_path};
use crate::verify;
use crate::*;

const DIR: &str = "/log";

/// An entry as the test knows it: parts, slots, time, and its leaf as docs/log-format.md has it, written a second time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    parts: Vec<Vec<u8>>,
    slots: Vec<u8>,
    ms: i64,
    leaf: Vec<u8>,
}

impl Known {
    fn new(parts: Vec<Vec<u8>>, slots: Vec<u8>, ms: i64) -> Known {
        let mut leaf = vec![1];
        leaf.extend(ms.to_be_bytes());
        leaf.extend((parts.len() as u16).to_be_bytes());
        for part in &parts {
            leaf.extend((part.len() as u32).to_be_bytes());
            leaf.extend(sha256(part));
        }
        Known { parts, slots, ms, leaf }
    }

    fn prepared(&self) -> Prepared {
        let parts = self.parts.iter().map(|part| part.clone().into()).collect();
        Prepared::new(NewEntry { parts, slots: self.slots.clone() }, Timestamp(self.ms))
    }

    fn is(&self, found: &Entry) -> bool {
        let same = self.parts.iter().map(Vec::as_slice).eq(found.parts.iter().map(|part| &part[..]));
        same && self.slots == found.slots && self.ms == found.appended.ms()
    }
}

/// What the test knows: entries acknowledged, or found whole after a reopening, and the tree over them.
#[derive(Default)]
struct Oracle {
    entries: Vec<Known>,
    /// Full tiles of the tree, by name, and the edge.
    full: Vec<(PathBuf, Vec<u8>)>,
    edge: Edge,
    bundle: Vec<u8>,
    frontier: Frontier,
    /// Root at each size.
    roots: Vec<Hash>,
}

impl Oracle {
    fn push(&mut self, known: Known) {
        let (dir, hash) = (Path::new(DIR), leaf_hash(&known.leaf));
        if self.roots.is_empty() {
            self.roots.push(self.frontier.root());
        }
        self.bundle.extend((known.leaf.len() as u16).to_be_bytes());
        self.bundle.extend(&known.leaf);
        let (full, bundle) = (&mut self.full, &mut self.bundle);
        self.edge.push(hash, |level, number, hashes| {
            full.push((dir.join(tile_path(level, number, TILE_WIDTH)), tile_bytes(hashes)));
            if level == 0 {
                full.push((dir.join(bundle_path(number, TILE_WIDTH)), std::mem::take(bundle)));
            }
        });
        self.frontier.push(hash);
        self.roots.push(self.frontier.root());
        self.entries.push(known);
    }

    fn size(&self) -> u64 {
        self.entries.len() as u64
    }

    fn root(&self, size: u64) -> Hash {
        self.roots.get(size as usize).copied().unwrap_or(merkle::EMPTY_ROOT)
    }
}

struct Run {
    seed: u64,
    random: SeededEntropy,
    disk: SimDisk,
    options: LogOptions,
    signer: Arc<dyn CheckpointSigner>,
    identity: Identity,
    known: Oracle,
    /// The batch whose append failed or was cut: may be there, whole, or not.
    under_way: Vec<Known>,
    published: u64,
    /// Reads may be flipped in this round: an error that names damage is the right answer then.
    has_flips: bool,
    /// Says what happens, for somebody who replays a seed.
    tells: bool,
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
        Run {
            seed,
            random,
            disk: SimDisk::new(seed),
            identity: head::identity(&options, &*signer),
            options,
            signer,
            known: Oracle::default(),
            under_way: vec![],
            published: 0,
            has_flips: false,
            tells: false,
        }
    }

    #[expect(clippy::print_stdout, reason = "the replay of one seed is read by a person")]
    fn tell(&self, what: std::fmt::Arguments<'_>) {
        if self.tells {
            println!("{what}");
        }
    }

    fn below(&self, n: u64) -> u64 {
        self.random.next_u64() % n
    }

    /// A few entries, now and then one that is large or a batch that fills tiles. The clock jumps anywhere.
    fn batch(&self) -> Vec<Known> {
        let bytes = |n: u64| (0..self.below(n)).map(|_| self.random.next_u64() as u8).collect::<Vec<u8>>();
        if self.below(40) == 0 {
            return (0..self.below(400)).map(|i| Known::new(vec![], vec![], i as i64)).collect();
        }
        let entry = |_| {
            let parts = (0..self.below(3)).map(|_| bytes(if self.below(12) == 0 { 3_000 } else { 60 })).collect();
            Known::new(parts, bytes(30), self.random.next_u64() as i64)
        };
        (0..1 + self.below(4)).map(entry).collect()
    }

    fn set_faults(&mut self) {
        self.has_flips = false;
        match self.below(10) {
            0..=3 => {
                let changes = 1 + self.below(90);
                self.tell(format_args!("the power will go with change {changes} of the disk"));
                self.disk.cut_after(changes);
            }
            fault @ (4 | 5) => {
                let (fault, syncs) = (if fault == 4 { SyncFault::Lost } else { SyncFault::Persisted }, self.below(30));
                self.tell(format_args!("sync {} will fail ({fault:?})", syncs + 1));
                self.disk.fail_sync_after(syncs, fault);
            }
            6 => {
                let bytes = self.below(12_000) as usize;
                self.tell(format_args!("the disk has {bytes} bytes left"));
                self.disk.set_space(Some(self.disk.used() + bytes));
            }
            7 | 8 => {
                let reads = self.below(60);
                self.tell(format_args!("read {} will have a flipped bit", reads + 1));
                self.has_flips = true;
                self.disk.flip_read_after(reads);
            }
            _ => self.tell(format_args!("nothing will fail")),
        }
    }

    /// An error that a fault explains: anything else is a defect.
    fn explain(&self, error: &LedgerError) {
        let is_fault = matches!(error, LedgerError::Io { .. }) || self.has_flips;
        assert!(is_fault, "seed {}: {error}", self.seed);
    }

    fn open(&mut self) -> Option<(Head, Tail)> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let (head, tail) = match open_parts(&disk, Path::new(DIR), &self.options, &self.signer) {
            Ok(parts) => parts,
            Err(error) => {
                self.explain(&error);
                self.tell(format_args!("  not opened: {error}"));
                return None;
            }
        };
        let (acknowledged, under_way) = (self.known.size(), std::mem::take(&mut self.under_way));
        let with_it = acknowledged + under_way.len() as u64;
        assert!(
            [acknowledged, with_it].contains(&head.size()),
            "seed {}: {acknowledged} acknowledged, {with_it} with what was under way, {} found",
            self.seed,
            head.size()
        );
        if head.size() > acknowledged {
            under_way.into_iter().for_each(|known| self.known.push(known));
        }
        let (size, published) = (head.size(), tail.published());
        self.tell(format_args!(
            "  opened: {acknowledged} entries were acknowledged, {size} found, {published} published"
        ));
        self.check(&head);
        self.verify();
        Some((head, tail))
    }

    /// Every entry, read back, and what the world is shown.
    fn check(&mut self, head: &Head) {
        match head.reader().read(0, usize::MAX, usize::MAX) {
            Ok(found) => {
                let known = &self.known.entries;
                assert!(found.len() == known.len(), "seed {}: {} of {}", self.seed, found.len(), known.len());
                let same = known.iter().zip(&found).all(|(known, found)| known.is(found));
                assert!(same, "seed {}: an entry is not what was appended", self.seed);
            }
            Err(error) => self.explain(&error),
        }
        self.check_published(false);
    }

    /// The whole log from its files.
    fn verify(&self) {
        match verify::verify(&self.disk, Path::new(DIR), &self.identity, None) {
            Ok(verified) => {
                let size = self.known.size();
                assert_eq!((verified.size, verified.root), (size, self.known.root(size)), "seed {}", self.seed);
            }
            Err(error) => self.explain(&error),
        }
    }

    /// A checkpoint in the world never names what is not durable, has all its tiles, and never goes back once it was
    /// durable itself. Looks past the disk's faults.
    fn check_published(&mut self, is_durable: bool) {
        let text = self.disk.peek(&checkpoint_path(Path::new(DIR)));
        let note =
            text.map(|text| self.identity.verify(&String::from_utf8(text).unwrap()).expect("a whole checkpoint"));
        let (size, root) = note.unwrap_or((0, merkle::EMPTY_ROOT));
        assert!(size <= self.known.size(), "seed {}: more is published than durable", self.seed);
        assert!(size >= self.published, "seed {}: the checkpoint went back", self.seed);
        assert_eq!(root, self.known.root(size), "seed {}", self.seed);
        if size > self.published || is_durable {
            self.check_tiles(size);
        }
        if is_durable {
            self.published = size;
        }
    }

    fn check_tiles(&self, size: u64) {
        let mut full = 0;
        for (path, bytes) in &self.known.full {
            let Some(found) = self.disk.peek(path) else { continue };
            assert_eq!(&found, bytes, "seed {}: {}", self.seed, path.display());
            full += 1;
        }
        let needed: u64 = [1, 1, 2].iter().map(|level| size >> (8 * level)).sum();
        assert!(full >= needed, "seed {}: {full} full tiles of {needed}", self.seed);
        let peeked = SimDisk::new(0);
        for level in 0..3 {
            let (hashes, dir) = (size >> (8 * level), Path::new(DIR));
            let (number, width) = (hashes / TILE_WIDTH as u64, (hashes % TILE_WIDTH as u64) as usize);
            let names = [tile_path(level, number, width), tile_path(level, number, TILE_WIDTH)];
            for path in names.map(|name| dir.join(name)) {
                if let Some(bytes) = self.disk.peek(&path) {
                    peeked.publish(&[(path, bytes)]).unwrap();
                }
            }
        }
        let edge = Edge::load(&peeked, Path::new(DIR), size).unwrap_or_else(|e| panic!("seed {}: {e}", self.seed));
        assert_eq!(edge.root(), self.known.root(size), "seed {}", self.seed);
    }

    /// A proof from tiles holds, or is refused: what was flipped on the way is never handed out.
    fn prove(&self, tail: &Tail, full: &FullTiles) {
        let edge = tail.edge();
        if edge.size() == 0 {
            return;
        }
        let size = 1 + self.below(edge.size());
        let index = self.below(size);
        match merkle::inclusion_proof(&mut Tree::new(full, (**edge).clone()), index, size) {
            Ok(path) => {
                let leaf = leaf_hash(&self.known.entries[index as usize].leaf);
                let holds = verify_inclusion(&leaf, index, size, &path, &self.known.root(size));
                assert!(holds, "seed {}: a wrong proof of {index} in {size}", self.seed);
            }
            Err(LedgerError::Tiles { .. }) => assert!(self.has_flips || self.disk.list(Path::new("/")).is_err()),
            Err(error) => self.explain(&error),
        }
    }

    /// Appends and publishes until the disk fails or enough was done.
    fn work(&mut self, head: &mut Head, tail: &mut Tail) {
        let full = FullTiles::new(Arc::new(self.disk.clone()), DIR.into());
        for _ in 0..self.below(16) {
            let goes_on = if self.below(3) == 0 { self.publish(tail) } else { self.append(head) };
            self.check(head);
            self.prove(tail, &full);
            if !goes_on {
                assert!(!self.disk.went_on_after_fatal(), "seed {}", self.seed);
                return;
            }
        }
    }

    fn append(&mut self, head: &mut Head) -> bool {
        let batch = self.batch();
        let prepared: Vec<Prepared> = batch.iter().map(Known::prepared).collect();
        let entries: Vec<&Prepared> = prepared.iter().collect();
        match head.commit(&entries) {
            Ok(range) => {
                assert_eq!(range, self.known.size()..self.known.size() + batch.len() as u64, "seed {}", self.seed);
                self.tell(format_args!("  acknowledged: {} entries, from {}", range.end - range.start, range.start));
                batch.into_iter().for_each(|known| self.known.push(known));
                true
            }
            Err(AppendError::NoSpace) => {
                self.tell(format_args!("  refused: no space; some is made"));
                self.disk.set_space(None);
                true
            }
            Err(AppendError::Poisoned) => {
                // The process ends here. Nothing may be acknowledged by one that somehow went on.
                assert!(self.disk.fatal_error().is_some(), "seed {}", self.seed);
                self.tell(format_args!("  not acknowledged: {} entries; the process ends", batch.len()));
                assert_eq!(head.commit(&entries), Err(AppendError::Poisoned), "seed {}", self.seed);
                self.under_way = batch;
                false
            }
            Err(other) => panic!("seed {}: {other}", self.seed),
        }
    }

    /// As `log::run_tail` does: a full disk waits, anything else ends the process.
    fn publish(&mut self, tail: &mut Tail) -> bool {
        match tail.step() {
            Ok(_) => {
                self.tell(format_args!("  published: a checkpoint over {} entries", tail.published()));
                true
            }
            Err(error) if error.is_no_space() => true,
            Err(error) => {
                self.explain(&error);
                self.tell(format_args!("  not published: {error}; the process ends"));
                self.disk.fatal("writing tiles", &std::io::Error::other(error.to_string()));
                false
            }
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
            self.tell(format_args!("the power was cut: what was not synced is there, gone or torn"));
        } else {
            self.disk.restart();
            self.tell(format_args!("the process was restarted"));
        }
        self.check_published(is_cut);
    }

    fn finish(&mut self) {
        self.has_flips = false;
        let (head, mut tail) = self.open().expect("opens on a healthy disk");
        while !tail.step().unwrap_or_else(|error| panic!("seed {}: {error}", self.seed)) {}
        self.check_published(true);
        assert_eq!(self.published, head.size(), "seed {}", self.seed);
        self.tell(format_args!("all {} entries are there, in order, unchanged and proved", head.size()));
        drop((head, tail));
        self.rot();
    }

    /// A bit rots somewhere: the log is refused with the place, or shows no entry that is not as it was.
    fn rot(&self) {
        let disk = self.disk.fork(self.seed);
        disk.restart();
        let Some(path) = disk.rot() else { return };
        let port: Arc<dyn Disk> = Arc::new(disk);
        let Ok((head, _)) = open_parts(&port, Path::new(DIR), &self.options, &self.signer) else { return };
        assert_eq!(head.size(), self.known.size(), "seed {}: lost by a bit in {}", self.seed, path.display());
        for index in 0..head.size() {
            let found = head.reader().read(index, 1, usize::MAX);
            let is_right = found.is_err() || found.is_ok_and(|found| self.known.entries[index as usize].is(&found[0]));
            assert!(is_right, "seed {}: entry {index} is wrong by a bit in {}", self.seed, path.display());
        }
        let verified = verify::verify(&*port, Path::new(DIR), &self.identity, None);
        let is_seen = verified.is_err() || !path.starts_with(Path::new(DIR).join("wal"));
        let last = segment_path(Path::new(DIR), head.reader().segments().last().unwrap().first);
        // Behind the last frame are zeros that nobody reads as the log's; recovery cuts off what is not.
        assert!(is_seen || path == last, "seed {}: rot in {} is not seen", self.seed, path.display());
    }
}

/// The trace of everything that the run of this seed did and saw.
fn simulate(seed: u64, signer: &Arc<dyn CheckpointSigner>, tells: bool) -> u64 {
    let mut run = Run { tells, ..Run::new(seed, signer.clone()) };
    for _ in 0..2 + run.below(3) {
        run.round();
    }
    run.finish();
    run.disk.trace()
}

fn signer() -> Arc<dyn CheckpointSigner> {
    Arc::new(Ed25519Signer::from_seed("sim.test/log", &[1; 32]).unwrap())
}

/// Which seeds: [`Seeds::of_test`].
#[test]
fn acknowledged_entries_survive_every_simulated_crash() {
    let (signer, seeds) = (signer(), Seeds::of_test(10_000));
    let tells = seeds.is_one();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some(seed) = seeds.next() {
                    simulate(seed, &signer, tells);
                }
            });
        }
    });
}

#[test]
fn one_seed_is_one_run() {
    let signer = signer();
    for seed in 0..100 {
        assert_eq!(simulate(seed, &signer, false), simulate(seed, &signer, false), "seed {seed}");
    }
    assert_ne!(simulate(1, &signer, false), simulate(2, &signer, false));
}
