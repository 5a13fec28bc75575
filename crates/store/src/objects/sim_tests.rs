//! The folder of objects on a simulated disk: after power cuts at any change, failed syncs and a full disk an acknowledged
//! put is there, an unacknowledged one whole or absent, a delete that was told is done, and no name ever holds half an
//! object. Reads have no check of their own here: what is flipped is found by the seal of who put it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::SeededEntropy;
use bytes::Bytes;
use disk::sim::{Seeds, SimDisk, SyncFault};
use disk::{Access, Disk, Kind, is_no_space};

use super::folder::Folder;

const ROOT: &str = "/data/objects";

/// `None` when there is no such object.
type Content = Option<Vec<u8>>;

/// What a name may hold: one thing after an acknowledgement, more while an answer is out.
type May = BTreeMap<PathBuf, BTreeSet<Content>>;

struct Run {
    seed: u64,
    random: SeededEntropy,
    disk: SimDisk,
    may: May,
    next: u64,
}

impl Run {
    fn below(&self, n: u64) -> u64 {
        self.random.next_u64() % n
    }

    fn name(&self) -> PathBuf {
        Path::new(ROOT).join("objects").join(["a", "d/b", "d/c", "d/e/f", "g/h"][self.below(5) as usize])
    }

    /// Never the same twice, over some sectors.
    fn content(&mut self) -> Vec<u8> {
        self.next += 1;
        let mut content = self.next.to_be_bytes().to_vec();
        content.resize(8 + self.below(2_000) as usize, self.next as u8);
        content
    }

    /// One operation and what it makes of which names when it succeeds.
    fn step(&mut self, folder: &Folder) -> Option<std::io::Result<()>> {
        let (from, to, create) = (self.name(), self.name(), self.below(3) == 0);
        let (moved, there) = (self.disk.peek(&from), self.disk.peek(&to));
        let refused = create && there.is_some();
        let (result, changes): (_, Vec<(PathBuf, Content)>) = match self.below(6) {
            0..=2 => {
                let content = self.content();
                (self.put(folder, &to, &content, create), vec![(to, Some(content))])
            }
            3 if moved.is_some() => (folder.copy(&from, &to, create), vec![(to, moved)]),
            4 if moved.is_some() && from != to => (folder.rename(&from, &to, create), vec![(from, None), (to, moved)]),
            5 if moved.is_some() => (folder.remove(std::slice::from_ref(&from)).remove(0), vec![(from, None)]),
            _ => return None,
        };
        match &result {
            Ok(()) => {
                assert!(!refused || changes.len() == 1 && changes[0].1.is_none(), "seed {}: no clobber", self.seed);
                changes.into_iter().for_each(|(name, content)| {
                    self.may.insert(name, BTreeSet::from([content]));
                });
            }
            Err(error) if is_no_space(error) || error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(_) => changes.into_iter().for_each(|(name, content)| {
                self.may.entry(name).or_insert_with(|| BTreeSet::from([None])).insert(content);
            }),
        }
        Some(result)
    }

    /// At once or in two parts, the second one first.
    fn put(&self, folder: &Folder, to: &Path, content: &[u8], create: bool) -> std::io::Result<()> {
        let staged = folder.stage()?;
        let (first, second) = content.split_at(self.below(content.len() as u64) as usize);
        let pieces = [Bytes::copy_from_slice(first), Bytes::copy_from_slice(second)];
        if self.below(2) == 0 {
            staged.write(pieces.iter(), 0)?;
        } else {
            staged.write(pieces[1..].iter(), first.len() as u64)?;
            staged.write(pieces[..1].iter(), 0)?;
        }
        folder.place(staged, to, create)
    }

    /// Everything that is there, compared with what may be there.
    fn check(&mut self, is_settled: bool) {
        let mut found: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
        let mut folders = vec![Path::new(ROOT).join("objects")];
        while let Some(folder) = folders.pop() {
            for (name, kind) in self.disk.list(&folder).unwrap() {
                let path = folder.join(name);
                match kind {
                    Kind::Folder => folders.push(path),
                    _ => drop(found.insert(path.clone(), self.disk.read(&path).unwrap())),
                }
            }
        }
        for name in found.keys() {
            assert!(self.may.contains_key(name), "seed {}: nobody put {}", self.seed, name.display());
        }
        for (name, may) in &mut self.may {
            let content = found.remove(name);
            assert!(may.contains(&content), "seed {}: {} is lost, old or half", self.seed, name.display());
            if is_settled {
                *may = BTreeSet::from([content]);
            }
        }
    }

    fn round(&mut self) {
        match self.below(8) {
            0..=3 => self.disk.cut_after(1 + self.below(60)),
            4 => self.disk.fail_sync_after(self.below(20), SyncFault::Lost),
            5 => self.disk.fail_sync_after(self.below(20), SyncFault::Persisted),
            6 => self.disk.set_space(Some(self.disk.used() + self.below(4_000) as usize)),
            _ => {}
        }
        if let Ok(folder) = Folder::open(Arc::new(self.disk.clone()), Path::new(ROOT)) {
            for _ in 0..self.below(20) {
                match self.step(&folder) {
                    Some(Err(error)) if is_no_space(&error) => self.disk.set_space(None),
                    Some(Err(error)) if error.kind() != std::io::ErrorKind::AlreadyExists => break,
                    // The power may have gone after what was acknowledged, while tidying up.
                    _ if self.disk.stat(Path::new("/")).is_err() => break,
                    _ => self.check(false),
                }
            }
        }
        self.disk.set_space(None);
        let is_cut = self.below(3) > 0;
        if is_cut {
            self.disk.power_cut();
        } else {
            self.disk.restart();
        }
        self.check(is_cut);
    }
}

fn simulate(seed: u64) -> u64 {
    let disk = SimDisk::new(seed);
    disk.make_folder(Path::new("/data"), Access::Usual).unwrap();
    let mut run = Run { seed, random: SeededEntropy::new(seed ^ 0x0b1e), disk, may: May::new(), next: 0 };
    for _ in 0..2 + run.below(4) {
        run.round();
    }
    Folder::open(Arc::new(run.disk.clone()), Path::new(ROOT)).expect("opens on a healthy disk");
    run.check(false);
    assert!(run.disk.list(&Path::new(ROOT).join("staging")).unwrap().is_empty(), "seed {seed}");
    run.disk.trace()
}

/// Which seeds: [`Seeds::of_test`].
#[test]
fn an_acknowledged_object_survives_every_simulated_crash() {
    for seed in Seeds::of_test(10_000) {
        simulate(seed);
    }
}

#[test]
fn one_seed_is_one_run() {
    (0..200).for_each(|seed| assert_eq!(simulate(seed), simulate(seed), "seed {seed}"));
}
