//! A disk in memory with power cuts, for tests. What was not synced vanishes, stays, or stays in part: sectors of 512
//! bytes, lengths and names each for themselves. Syncs fail, lost or persisted; space runs out; reads flip bits and
//! files rot. One seed is one run: [`SimDisk::trace`] is the same for the same calls. Never in a shipped build (feature
//! `sim`).
//!
//! What a real system does and this one too: a failed sync leaves the pages clean, so that a later sync of the same
//! file says all is well and the bytes are still not there; a folder's names are in a journal, so that a failed sync of
//! a folder leaves them to a later one.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use base::SeededEntropy;
use parking_lot::Mutex;

use crate::{Access, Disk, DiskFile, Kind, Stat, parent};

const SECTOR: usize = 512;

/// What the next failing sync does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncFault {
    /// It fails, and what it should have made durable is gone; reads may show it until the system needs the memory.
    Lost,
    /// It fails, and everything is durable all the same.
    Persisted,
}

#[derive(Default, Clone)]
struct Inode {
    durable: Vec<u8>,
    now: Vec<u8>,
    /// Sectors written since the last sync.
    dirty: BTreeSet<usize>,
    /// Sectors that a sync took as written and that are not.
    lost: BTreeSet<usize>,
    modified: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    File(usize),
    Folder,
}

#[derive(Clone)]
enum NameOp {
    Set(PathBuf, Node),
    Rename(PathBuf, PathBuf, Node),
    Remove(PathBuf),
}

impl NameOp {
    fn path(&self) -> &Path {
        match self {
            NameOp::Set(path, _) | NameOp::Rename(_, path, _) | NameOp::Remove(path) => path,
        }
    }

    /// The names that it changes.
    fn paths(&self) -> impl Iterator<Item = &Path> {
        let from = if let NameOp::Rename(from, ..) = self { Some(from.as_path()) } else { None };
        [Some(self.path()), from].into_iter().flatten()
    }

    fn apply(&self, names: &mut Names) {
        match self {
            NameOp::Set(path, node) => {
                names.insert(path.clone(), *node);
            }
            NameOp::Rename(from, to, node) => {
                if names.get(from) == Some(node) {
                    names.remove(from);
                }
                names.insert(to.clone(), *node);
            }
            NameOp::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

type Names = BTreeMap<PathBuf, Node>;

struct State {
    random: SeededEntropy,
    inodes: Vec<Inode>,
    names: Names,
    durable_names: Names,
    name_ops: Vec<NameOp>,
    locks: BTreeMap<PathBuf, String>,
    /// The power goes after this many more changes.
    changes_left: Option<u64>,
    sync_fault: Option<(u64, SyncFault)>,
    bytes_max: Option<usize>,
    /// The read after this many more has a flipped bit.
    flip: Option<u64>,
    fatal: Option<String>,
    went_on: bool,
    ticks: u64,
    trace: u64,
}

/// A simulated disk; clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

impl SimDisk {
    pub fn new(seed: u64) -> Self {
        SimDisk(Arc::new(Mutex::new(State {
            random: SeededEntropy::new(seed),
            inodes: Vec::new(),
            names: Names::new(),
            durable_names: Names::new(),
            name_ops: Vec::new(),
            locks: BTreeMap::new(),
            changes_left: None,
            sync_fault: None,
            bytes_max: None,
            flip: None,
            fatal: None,
            went_on: false,
            ticks: 0,
            trace: seed,
        })))
    }

    /// Another disk with the same content, durable and not, without faults or locks.
    pub fn fork(&self, seed: u64) -> SimDisk {
        let state = self.0.lock();
        let fork = SimDisk::new(seed);
        {
            let mut other = fork.0.lock();
            other.inodes = state.inodes.clone();
            other.names = state.names.clone();
            other.durable_names = state.durable_names.clone();
            other.name_ops = state.name_ops.clone();
        }
        fork
    }

    /// The power goes after `changes` more writes, syncs, renames or removals; from then on everything fails.
    pub fn cut_after(&self, changes: u64) {
        self.0.lock().changes_left = Some(changes);
    }

    /// The sync after `syncs` more fails.
    pub fn fail_sync_after(&self, syncs: u64, fault: SyncFault) {
        self.0.lock().sync_fault = Some((syncs, fault));
    }

    /// Files can have this many bytes together.
    pub fn set_space(&self, bytes_max: Option<usize>) {
        self.0.lock().bytes_max = bytes_max;
    }

    /// The read after `reads` more has a flipped bit; the disk has not.
    pub fn flip_read_after(&self, reads: u64) {
        self.0.lock().flip = Some(reads);
    }

    /// Flips a bit of a durable file for good. Which file it was, if there was one with bytes.
    pub fn rot(&self) -> Option<PathBuf> {
        let state = &mut *self.0.lock();
        let mut files: Vec<(&PathBuf, usize)> = state
            .durable_names
            .iter()
            .filter_map(|(path, node)| match node {
                Node::File(inode) if !state.inodes[*inode].durable.is_empty() => Some((path, *inode)),
                _ => None,
            })
            .collect();
        if files.is_empty() {
            return None;
        }
        let (path, inode) = files.swap_remove(below(&state.random, files.len()));
        let file = &mut state.inodes[inode];
        let bit = below(&state.random, file.durable.len() * 8);
        for bytes in [&mut file.durable, &mut file.now] {
            if let Some(byte) = bytes.get_mut(bit / 8) {
                *byte ^= 1 << (bit % 8);
            }
        }
        Some(path.clone())
    }

    /// What a file holds in memory, without touching the disk or its faults: for oracles.
    pub fn peek(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.0.lock();
        state.names.get(path).and_then(|node| node.inode()).map(|inode| state.inodes[inode].now.clone())
    }

    /// Bytes of all files.
    pub fn used(&self) -> usize {
        self.0.lock().used()
    }

    /// What a real disk would have ended the process for.
    pub fn fatal_error(&self) -> Option<String> {
        self.0.lock().fatal.clone()
    }

    /// Whether somebody wrote or synced though the process should have ended.
    pub fn went_on_after_fatal(&self) -> bool {
        self.0.lock().went_on
    }

    /// Everything that was done and seen so far, in one number.
    pub fn trace(&self) -> u64 {
        self.0.lock().trace
    }

    /// What is on the medium, also under names that are gone: for tests that look for what must not be there.
    pub fn medium(&self) -> Vec<Vec<u8>> {
        self.0.lock().inodes.iter().map(|inode| inode.durable.clone()).collect()
    }

    /// The process ends and starts again; the system stays up. Locks are free, and memory may have been needed.
    pub fn restart(&self) {
        let state = &mut *self.0.lock();
        for inode in state.inodes.iter_mut().filter(|inode| !inode.lost.is_empty()) {
            if below(&state.random, 2) == 0 {
                for sector in std::mem::take(&mut inode.lost) {
                    evict(inode, sector);
                }
            }
        }
        state.locks.clear();
        (state.fatal, state.changes_left, state.sync_fault, state.flip) = (None, None, None, None);
    }

    /// The power comes back: what was not durable is decided now.
    pub fn power_cut(&self) {
        self.0.lock().power_cut();
        self.restart();
    }
}

/// The seeds that a test runs, one after the other, for any number of threads.
pub struct Seeds {
    next: AtomicU64,
    to: u64,
    until: Option<Instant>,
}

impl Seeds {
    /// `0..count`; or what `WARD_SIM_SEEDS=FROM..TO` says, for at most `WARD_SIM_SECONDS`.
    #[expect(clippy::disallowed_methods, reason = "a simulation is told its seeds by the environment")]
    pub fn of_test(count: u64) -> Seeds {
        let asked = std::env::var("WARD_SIM_SEEDS").ok();
        let range = asked.as_deref().and_then(|text| text.split_once(".."));
        let range = range.and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
        let seconds = std::env::var("WARD_SIM_SECONDS").ok().and_then(|text| text.parse().ok());
        let (from, to) = range.unwrap_or((0, count));
        let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        Seeds { next: AtomicU64::new(from), to, until }
    }

    /// Whether one seed was asked for: its test then tells what happens.
    pub fn is_one(&self) -> bool {
        self.next.load(Ordering::Relaxed) + 1 == self.to
    }

    /// The next seed; none when all were given out or the time is over.
    pub fn next(&self) -> Option<u64> {
        let is_late = self.until.is_some_and(|until| Instant::now() >= until);
        let seed = if is_late { self.to } else { self.next.fetch_add(1, Ordering::Relaxed) };
        (seed < self.to).then_some(seed)
    }
}

impl Iterator for Seeds {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        Seeds::next(self)
    }
}

fn below(random: &SeededEntropy, n: usize) -> usize {
    (random.next_u64() % n.max(1) as u64) as usize
}

fn off() -> io::Error {
    io::Error::other("the power is gone")
}

fn mix(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(23) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn mix_bytes(hash: u64, bytes: &[u8]) -> u64 {
    let chunks = bytes.chunks_exact(8);
    let mut last = [0; 8];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    let words = chunks.map(|chunk| u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|i| chunk[i])));
    words.chain([u64::from_le_bytes(last), bytes.len() as u64]).fold(hash, mix)
}

impl State {
    fn used(&self) -> usize {
        let inodes: BTreeSet<usize> = self.names.values().filter_map(|node| node.inode()).collect();
        inodes.into_iter().map(|inode| self.inodes[inode].now.len()).sum()
    }

    fn note(&mut self, call: u64, path: &Path, bytes: &[u8]) {
        self.trace = mix_bytes(mix_bytes(mix(self.trace, call), path.as_os_str().as_encoded_bytes()), bytes);
    }

    fn is_off(&self) -> bool {
        self.changes_left == Some(0)
    }

    fn check_power(&self) -> io::Result<()> {
        if self.is_off() { Err(off()) } else { Ok(()) }
    }

    /// Begins a change; `true` when the power goes with it: it is made in memory and reported as failed.
    fn change(&mut self) -> io::Result<bool> {
        self.check_power()?;
        if self.fatal.is_some() {
            self.went_on = true;
            return Err(io::Error::other("the process has ended"));
        }
        self.ticks += 1;
        if let Some(left) = &mut self.changes_left {
            *left = left.saturating_sub(1);
        }
        Ok(self.is_off())
    }

    fn check_space(&self) -> io::Result<()> {
        if self.bytes_max.is_some_and(|max| self.used() >= max) { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn write(&mut self, inode: usize, bytes: &[u8], offset: usize) -> io::Result<()> {
        let is_cut = self.change()?;
        self.trace = mix_bytes(mix(self.trace, (inode as u64) << 40 | offset as u64), bytes);
        let end = offset + bytes.len();
        let room = self.bytes_max.map_or(usize::MAX, |max| max.saturating_sub(self.used()));
        let file = &mut self.inodes[inode];
        let end_fitting = end.min(file.now.len().saturating_add(room).max(offset.min(file.now.len())));
        file.modified = self.ticks;
        if file.now.len() < end_fitting {
            let from = file.now.len();
            file.now.resize(end_fitting, 0);
            file.dirty.extend(from / SECTOR..end_fitting.div_ceil(SECTOR));
        }
        if offset < end_fitting {
            file.now[offset..end_fitting].copy_from_slice(&bytes[..end_fitting - offset]);
            for sector in offset / SECTOR..end_fitting.div_ceil(SECTOR) {
                file.dirty.insert(sector);
                file.lost.remove(&sector);
            }
        }
        match (is_cut, end_fitting < end) {
            (true, _) => Err(off()),
            (_, true) => Err(ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn set_len(&mut self, inode: usize, bytes: usize) -> io::Result<()> {
        let is_cut = self.change()?;
        self.trace = mix(self.trace, (inode as u64) << 40 | bytes as u64);
        let file = &mut self.inodes[inode];
        let before = file.now.len();
        file.now.resize(bytes, 0);
        file.dirty.extend(before.min(bytes) / SECTOR..before.max(bytes).div_ceil(SECTOR));
        file.modified = self.ticks;
        if is_cut { Err(off()) } else { Ok(()) }
    }

    fn next_sync_fault(&mut self) -> Option<SyncFault> {
        let (left, kind) = self.sync_fault.as_mut()?;
        if *left > 0 {
            *left -= 1;
            return None;
        }
        let kind = *kind;
        self.sync_fault = None;
        Some(kind)
    }

    fn sync(&mut self, inode: usize) -> io::Result<()> {
        if self.change()? {
            return Err(off());
        }
        self.trace = mix(self.trace, inode as u64);
        let fault = self.next_sync_fault();
        let file = &mut self.inodes[inode];
        let dirty = std::mem::take(&mut file.dirty);
        if fault == Some(SyncFault::Lost) {
            file.lost.extend(dirty);
        } else {
            file.durable.resize(file.now.len(), 0);
            dirty.into_iter().for_each(|sector| copy_sector(&file.now, &mut file.durable, sector));
        }
        if fault.is_some() { Err(io::Error::other("the sync failed")) } else { Ok(()) }
    }

    fn name(&mut self, op: NameOp) -> io::Result<()> {
        let is_cut = self.change()?;
        let code = match &op {
            NameOp::Set(..) => 1,
            NameOp::Rename(from, ..) => mix_bytes(2, from.as_os_str().as_encoded_bytes()),
            NameOp::Remove(_) => 3,
        };
        self.note(code, op.path(), &[]);
        op.apply(&mut self.names);
        self.name_ops.push(op);
        if is_cut { Err(off()) } else { Ok(()) }
    }

    fn sync_names(&mut self, folder: &Path) -> io::Result<()> {
        self.find_folder(folder)?;
        if self.change()? {
            return Err(off());
        }
        self.note(4, folder, &[]);
        let fault = self.next_sync_fault();
        if fault != Some(SyncFault::Lost) {
            let paths = self.synced_with(folder);
            let (synced, rest): (Vec<_>, Vec<_>) =
                self.name_ops.drain(..).partition(|op| op.paths().any(|path| paths.contains(path)));
            self.name_ops = rest;
            synced.iter().for_each(|op| op.apply(&mut self.durable_names));
        }
        if fault.is_some() { Err(io::Error::other("the sync of a folder failed")) } else { Ok(()) }
    }

    /// The names that a sync of the folder decides: its own, and, as a rename is in two folders at once, those bound to
    /// them by renames.
    fn synced_with(&self, folder: &Path) -> BTreeSet<PathBuf> {
        let mut paths: BTreeSet<PathBuf> = BTreeSet::new();
        loop {
            let before = paths.len();
            for op in &self.name_ops {
                if op.paths().any(|path| parent(path) == folder || paths.contains(path)) {
                    paths.extend(op.paths().map(Path::to_owned));
                }
            }
            if paths.len() == before {
                return paths;
            }
        }
    }

    fn is_root(path: &Path) -> bool {
        path.parent().is_none() || path == Path::new(".")
    }

    fn find_folder(&self, folder: &Path) -> io::Result<()> {
        match self.names.get(folder) {
            _ if Self::is_root(folder) => Ok(()),
            Some(Node::Folder) => Ok(()),
            Some(Node::File(_)) => Err(ErrorKind::NotADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    fn find_file(&self, path: &Path) -> io::Result<usize> {
        match self.names.get(path) {
            Some(Node::File(inode)) => Ok(*inode),
            Some(Node::Folder) => Err(ErrorKind::IsADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    fn find_free(&self, path: &Path) -> io::Result<()> {
        self.find_folder(parent(path))?;
        if self.names.contains_key(path) { Err(ErrorKind::AlreadyExists.into()) } else { Ok(()) }
    }

    fn power_cut(&mut self) {
        // Some systems keep the order of names up to some point, others any of them.
        let ops = std::mem::take(&mut self.name_ops);
        let (in_order, upto) = (below(&self.random, 2) == 0, below(&self.random, ops.len() + 1));
        for (i, op) in ops.iter().enumerate() {
            let is_kept = if in_order { i < upto } else { below(&self.random, 2) == 0 };
            if is_kept {
                op.apply(&mut self.durable_names);
            }
        }
        let durable = &self.durable_names;
        let is_reached = |path: &Path| {
            let mut above = path.ancestors().skip(1).filter(|folder| !Self::is_root(folder));
            above.all(|folder| durable.get(folder) == Some(&Node::Folder))
        };
        let reached = durable.iter().filter(|(path, _)| is_reached(path));
        self.durable_names = reached.map(|(path, node)| (path.clone(), *node)).collect();
        self.names = self.durable_names.clone();
        // Sometimes all is lost, sometimes nothing, mostly some of it.
        let mode = below(&self.random, 4);
        for file in &mut self.inodes {
            if file.dirty.is_empty() && file.lost.is_empty() && file.now.len() == file.durable.len() {
                continue;
            }
            let keeps = |random: &SeededEntropy| mode == 1 || mode > 1 && below(random, 2) == 0;
            if keeps(&self.random) {
                file.durable.resize(file.now.len(), 0);
            }
            for sector in std::mem::take(&mut file.dirty) {
                if keeps(&self.random) {
                    copy_sector(&file.now, &mut file.durable, sector);
                }
            }
            file.lost.clear();
            file.now = file.durable.clone();
        }
    }
}

impl Node {
    fn inode(self) -> Option<usize> {
        match self {
            Node::File(inode) => Some(inode),
            Node::Folder => None,
        }
    }
}

fn copy_sector(from: &[u8], to: &mut [u8], sector: usize) {
    let (start, end) = (sector * SECTOR, ((sector + 1) * SECTOR).min(from.len()).min(to.len()));
    if start < end {
        to[start..end].copy_from_slice(&from[start..end]);
    }
}

/// Memory shows again what is on the medium: zeros beyond its end.
fn evict(file: &mut Inode, sector: usize) {
    let (start, end) = (sector * SECTOR, ((sector + 1) * SECTOR).min(file.now.len()));
    if start < end {
        file.now[start..end].fill(0);
        copy_sector(&file.durable, &mut file.now, sector);
    }
}

struct SimFile {
    disk: SimDisk,
    inode: usize,
}

struct SimLock {
    disk: SimDisk,
    path: PathBuf,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.0.lock().locks.remove(&self.path);
    }
}

impl SimDisk {
    fn file(&self, inode: usize) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { disk: self.clone(), inode })
    }
}

impl Disk for SimDisk {
    fn lock(&self, path: &Path, holder: &str) -> io::Result<Box<dyn Send + Sync>> {
        self.make_folder(parent(path), Access::Usual)?;
        let mut state = self.0.lock();
        if let Some(holder) = state.locks.get(path) {
            return Err(io::Error::new(ErrorKind::WouldBlock, holder.clone()));
        }
        state.locks.insert(path.to_owned(), holder.to_owned());
        Ok(Box::new(SimLock { disk: self.clone(), path: path.to_owned() }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.0.lock();
        state.check_power()?;
        let inode = state.find_file(path)?;
        Ok(self.file(inode))
    }

    fn create(&self, path: &Path, _access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.lock();
        state.check_power()?;
        state.find_free(path)?;
        state.check_space()?;
        let modified = state.ticks;
        state.inodes.push(Inode { modified, ..Inode::default() });
        let inode = state.inodes.len() - 1;
        state.name(NameOp::Set(path.to_owned(), Node::File(inode)))?;
        Ok(self.file(inode))
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let state = self.0.lock();
        state.check_power()?;
        let folder = Stat { kind: Kind::Folder, bytes: 0, modified: SystemTime::UNIX_EPOCH, id: 0 };
        match state.names.get(path) {
            Some(Node::File(inode)) => {
                let file = &state.inodes[*inode];
                let modified = SystemTime::UNIX_EPOCH + Duration::from_millis(file.modified);
                Ok(Stat { kind: Kind::File, bytes: file.now.len() as u64, modified, id: 1 + *inode as u64 })
            }
            Some(Node::Folder) => Ok(folder),
            None if State::is_root(path) => Ok(folder),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<(String, Kind)>> {
        let mut state = self.0.lock();
        state.check_power()?;
        state.note(5, folder, &[]);
        // A folder's names lie side by side, but names below them are between.
        let below = state.names.range(folder.to_owned()..).take_while(|(path, _)| path.starts_with(folder));
        let own = below.filter(|(path, _)| path.parent() == Some(folder));
        Ok(own
            .filter_map(|(path, node)| {
                let kind = if *node == Node::Folder { Kind::Folder } else { Kind::File };
                Some((path.file_name()?.to_string_lossy().into_owned(), kind))
            })
            .collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.check_power()?;
        let inode = state.find_file(from)?;
        state.find_folder(parent(to))?;
        match state.names.get(to) {
            Some(Node::Folder) => return Err(ErrorKind::IsADirectory.into()),
            Some(Node::File(other)) if *other == inode => return Ok(()),
            _ => {}
        }
        state.name(NameOp::Rename(from.to_owned(), to.to_owned(), Node::File(inode)))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.check_power()?;
        let inode = state.find_file(from)?;
        state.find_free(to)?;
        state.check_space()?;
        state.name(NameOp::Set(to.to_owned(), Node::File(inode)))
    }

    fn create_folder(&self, folder: &Path, _access: Access) -> io::Result<()> {
        let mut state = self.0.lock();
        state.check_power()?;
        match state.find_free(folder) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
            found => found?,
        }
        state.check_space()?;
        state.name(NameOp::Set(folder.to_owned(), Node::Folder))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.check_power()?;
        let below = state.names.range(path.to_owned()..).take_while(|(name, _)| name.starts_with(path));
        let gone: Vec<PathBuf> = below.map(|(name, _)| name.clone()).collect();
        // The deepest first, each for itself.
        gone.into_iter().rev().try_for_each(|name| state.name(NameOp::Remove(name)))
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.check_power()?;
        state.sync_names(folder)
    }

    /// In an order by chance: a cut leaves any of them.
    fn sync_many(&self, files: &[(PathBuf, Arc<dyn DiskFile>)], folders: &[&Path]) -> io::Result<()> {
        let mut left: Vec<usize> = (0..files.len() + folders.len()).collect();
        while !left.is_empty() {
            let at = below(&self.0.lock().random, left.len());
            let next = left.swap_remove(at);
            match files.get(next) {
                Some((_, file)) => file.sync()?,
                None => self.sync_folder(folders[next - files.len()])?,
            }
        }
        Ok(())
    }

    fn fatal(&self, what: &str, error: &io::Error) {
        let mut state = self.0.lock();
        state.note(6, Path::new(what), &[]);
        state.fatal = Some(format!("{what}: {error}"));
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        let state = &mut *self.disk.0.lock();
        state.check_power()?;
        let now = &state.inodes[self.inode].now;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = offset.saturating_add(out.len());
        out.copy_from_slice(now.get(offset..end).ok_or(ErrorKind::UnexpectedEof)?);
        match &mut state.flip {
            Some(0) if !out.is_empty() => {
                let bit = below(&state.random, out.len() * 8);
                out[bit / 8] ^= 1 << (bit % 8);
                state.flip = None;
            }
            Some(left) => *left = left.saturating_sub(1),
            None => {}
        }
        state.trace = mix_bytes(mix(state.trace, offset as u64), out);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.0.lock().write(self.inode, bytes, offset as usize)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.0.lock().sync(self.inode)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.disk.0.lock().set_len(self.inode, bytes as usize)
    }

    fn bytes(&self) -> io::Result<u64> {
        let state = self.disk.0.lock();
        state.check_power()?;
        Ok(state.inodes[self.inode].now.len() as u64)
    }
}

#[cfg(test)]
mod tests;
