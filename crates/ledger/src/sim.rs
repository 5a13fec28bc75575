//! A disk in memory with power cuts, for tests: what was not synced vanishes, stays, or stays in part (512-byte
//! sectors, lengths and renames each for themselves); syncs fail, lost or persisted; space runs out.
//! One seed is one run. Never in a shipped build (feature `sim`).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::SeededEntropy;
use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile, temp_path};

const SECTOR: usize = 512;

/// What the next failing sync does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncFault {
    /// It fails, and what it should have made durable is gone, though reads still show it.
    Lost,
    /// It fails, and everything is durable all the same.
    Persisted,
}

#[derive(Default)]
struct Inode {
    durable: Vec<u8>,
    now: Vec<u8>,
    /// Sectors written since the last sync.
    dirty: BTreeSet<usize>,
}

enum NameOp {
    Link(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl NameOp {
    fn path(&self) -> &Path {
        match self {
            NameOp::Link(path, _) | NameOp::Rename(_, path) | NameOp::Remove(path) => path,
        }
    }
}

struct State {
    random: SeededEntropy,
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    name_ops: Vec<NameOp>,
    locks: BTreeMap<PathBuf, String>,
    /// The power goes after this many more changes.
    changes_left: Option<u64>,
    sync_fault: Option<(u64, SyncFault)>,
    bytes_max: Option<usize>,
    fatal: Option<String>,
}

/// A simulated disk; clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

impl SimDisk {
    pub fn new(seed: u64) -> Self {
        SimDisk(Arc::new(Mutex::new(State {
            random: SeededEntropy::new(seed),
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_ops: Vec::new(),
            locks: BTreeMap::new(),
            changes_left: None,
            sync_fault: None,
            bytes_max: None,
            fatal: None,
        })))
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

    /// Bytes of all files.
    pub fn used(&self) -> usize {
        self.0.lock().used()
    }

    /// What a real disk would have ended the process for.
    pub fn fatal_error(&self) -> Option<String> {
        self.0.lock().fatal.clone()
    }

    /// The process ends and starts again; the system stays up. Locks are free.
    pub fn restart(&self) {
        let mut state = self.0.lock();
        state.locks.clear();
        (state.fatal, state.changes_left, state.sync_fault) = (None, None, None);
    }

    /// The power comes back: what was not durable is decided now.
    pub fn power_cut(&self) {
        self.0.lock().power_cut();
        self.restart();
    }
}

impl State {
    fn below(&self, n: usize) -> usize {
        (self.random.next_u64() % n.max(1) as u64) as usize
    }

    fn used(&self) -> usize {
        self.names.values().collect::<BTreeSet<_>>().into_iter().map(|inode| self.inodes[*inode].now.len()).sum()
    }

    fn is_off(&self) -> bool {
        self.changes_left == Some(0)
    }

    fn off() -> io::Error {
        io::Error::other("the power is gone")
    }

    fn check_power(&self) -> io::Result<()> {
        if self.is_off() { Err(Self::off()) } else { Ok(()) }
    }

    /// Counts a change; the one at which the power goes is made in memory and reported as failed.
    fn change(&mut self) -> bool {
        if let Some(left) = &mut self.changes_left {
            *left = left.saturating_sub(1);
        }
        self.is_off()
    }

    fn write(&mut self, inode: usize, bytes: &[u8], offset: usize) -> io::Result<()> {
        self.check_power()?;
        let is_cut = self.change();
        let end = offset + bytes.len();
        let room = self.bytes_max.map_or(usize::MAX, |max| max.saturating_sub(self.used()));
        let file = &mut self.inodes[inode];
        let end_fitting = end.min(file.now.len().saturating_add(room).max(offset));
        if file.now.len() < end_fitting {
            let from = file.now.len();
            file.now.resize(end_fitting, 0);
            file.dirty.extend(from / SECTOR..end_fitting.div_ceil(SECTOR));
        }
        file.now[offset..end_fitting].copy_from_slice(&bytes[..end_fitting - offset]);
        file.dirty.extend(offset / SECTOR..end_fitting.div_ceil(SECTOR));
        match (is_cut, end_fitting < end) {
            (true, _) => Err(Self::off()),
            (_, true) => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn set_len(&mut self, inode: usize, bytes: usize) -> io::Result<()> {
        self.check_power()?;
        let is_cut = self.change();
        let file = &mut self.inodes[inode];
        let before = file.now.len();
        file.now.resize(bytes, 0);
        file.dirty.extend(before.min(bytes) / SECTOR..before.max(bytes).div_ceil(SECTOR));
        if is_cut { Err(Self::off()) } else { Ok(()) }
    }

    fn sync(&mut self, inode: usize) -> io::Result<()> {
        self.check_power()?;
        if self.change() {
            return Err(Self::off());
        }
        let mut fault = None;
        if let Some((left, kind)) = &mut self.sync_fault {
            if *left == 0 {
                fault = Some(*kind);
                self.sync_fault = None;
            } else {
                *left -= 1;
            }
        }
        let file = &mut self.inodes[inode];
        let dirty = std::mem::take(&mut file.dirty);
        if fault != Some(SyncFault::Lost) {
            file.durable.resize(file.now.len(), 0);
            dirty.into_iter().for_each(|sector| copy_sector(&file.now, &mut file.durable, sector));
        }
        if fault.is_some() { Err(io::Error::other("the sync failed")) } else { Ok(()) }
    }

    fn name(&mut self, op: NameOp) -> io::Result<()> {
        self.check_power()?;
        let is_cut = self.change();
        apply(&op, &mut self.names);
        self.name_ops.push(op);
        if is_cut { Err(Self::off()) } else { Ok(()) }
    }

    /// Makes the names in these folders durable, those in others not.
    fn sync_names(&mut self, folders: &BTreeSet<&Path>) -> io::Result<()> {
        self.check_power()?;
        if self.change() {
            return Err(Self::off());
        }
        let (synced, rest) =
            self.name_ops.drain(..).partition(|op| op.path().parent().is_some_and(|folder| folders.contains(folder)));
        self.name_ops = rest;
        Vec::into_iter(synced).for_each(|op| apply(&op, &mut self.durable_names));
        Ok(())
    }

    fn publish(&mut self, files: &[(PathBuf, Vec<u8>)]) -> io::Result<()> {
        let mut written = Vec::new();
        for (path, bytes) in files {
            let temp = temp_path(path);
            self.inodes.push(Inode::default());
            let inode = self.inodes.len() - 1;
            self.name(NameOp::Link(temp.clone(), inode))?;
            if let Err(error) = self.write(inode, bytes, 0) {
                let _ = self.name(NameOp::Remove(temp));
                return Err(error);
            }
            written.push(inode);
        }
        written.into_iter().try_for_each(|inode| self.sync(inode))?;
        for (path, _) in files {
            self.name(NameOp::Rename(temp_path(path), path.clone()))?;
        }
        self.sync_names(&files.iter().filter_map(|(path, _)| path.parent()).collect())
    }

    fn power_cut(&mut self) {
        // Renames and links come back in the order they were made, up to some point.
        let kept = self.below(self.name_ops.len() + 1);
        self.name_ops.drain(..).take(kept).for_each(|op| apply(&op, &mut self.durable_names));
        self.names = self.durable_names.clone();
        // Sometimes all is lost, sometimes nothing, mostly some of it.
        let mode = self.below(4);
        for i in 0..self.inodes.len() {
            let keeps_len = mode == 1 || mode > 1 && self.below(2) == 0;
            let dirty: Vec<usize> = std::mem::take(&mut self.inodes[i].dirty).into_iter().collect();
            let kept: Vec<usize> = dirty.into_iter().filter(|_| mode == 1 || mode > 1 && self.below(2) == 0).collect();
            let file = &mut self.inodes[i];
            if keeps_len {
                file.durable.resize(file.now.len(), 0);
            }
            kept.into_iter().for_each(|sector| copy_sector(&file.now, &mut file.durable, sector));
            file.now = file.durable.clone();
        }
    }
}

fn copy_sector(from: &[u8], to: &mut [u8], sector: usize) {
    let (start, end) = (sector * SECTOR, ((sector + 1) * SECTOR).min(from.len()).min(to.len()));
    if start < end {
        to[start..end].copy_from_slice(&from[start..end]);
    }
}

fn apply(op: &NameOp, names: &mut BTreeMap<PathBuf, usize>) {
    match op {
        NameOp::Link(path, inode) => {
            names.insert(path.clone(), *inode);
        }
        NameOp::Rename(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
        NameOp::Remove(path) => names.retain(|name, _| !name.starts_with(path)),
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

impl Disk for SimDisk {
    fn lock(&self, path: &Path, holder: &str) -> io::Result<Box<dyn Send + Sync>> {
        let mut state = self.0.lock();
        if let Some(holder) = state.locks.get(path) {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, holder.clone()));
        }
        state.locks.insert(path.to_owned(), holder.to_owned());
        Ok(Box::new(SimLock { disk: self.clone(), path: path.to_owned() }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.0.lock();
        state.check_power()?;
        let inode = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile { disk: self.clone(), inode }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = self.0.lock();
        state.check_power()?;
        let inode = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(state.inodes[inode].now.clone())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let state = self.0.lock();
        state.check_power()?;
        let below = state.names.keys().filter_map(|name| name.strip_prefix(folder).ok());
        let names: BTreeSet<String> = below
            .filter_map(|name| Some(name.components().next()?.as_os_str().to_string_lossy().into_owned()))
            .collect();
        Ok(names.into_iter().collect())
    }

    fn publish(&self, files: &[(PathBuf, Vec<u8>)]) -> io::Result<()> {
        self.0.lock().publish(files)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.0.lock().sync_names(&BTreeSet::from([folder]))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        if !state.names.keys().any(|name| name.starts_with(path)) {
            return state.check_power();
        }
        state.name(NameOp::Remove(path.to_owned()))
    }

    fn fatal(&self, what: &str, error: &io::Error) {
        self.0.lock().fatal = Some(format!("{what}: {error}"));
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.disk.0.lock();
        state.check_power()?;
        let now = &state.inodes[self.inode].now;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = offset.saturating_add(out.len());
        out.copy_from_slice(now.get(offset..end).ok_or(io::ErrorKind::UnexpectedEof)?);
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
