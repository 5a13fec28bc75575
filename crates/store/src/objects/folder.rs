//! The folder of [`super::DurableLocal`]: every write goes to `staging/`, is synced, takes its place under `objects/` by
//! rename or link, and then the folder is synced, and each folder that was made on the way. What a crash left in
//! `staging/` is collected at the next open.
//!
//! A sync that fails is never tried again: its file is given up, and the caller is told. Never here: `object_store`'s
//! words (see `super`), reading.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use disk::{Access, Disk, DiskFile, Kind, parent};
use parking_lot::Mutex;

/// Folders remembered as synced; more are synced again.
const KNOWN_FOLDERS_MAX: usize = 65_536;

pub(super) struct Folder {
    disk: Arc<dyn Disk>,
    objects: PathBuf,
    staging: PathBuf,
    next: AtomicU64,
    /// Folders whose entries in their parents are on the disk.
    known: Mutex<HashSet<PathBuf>>,
}

impl fmt::Debug for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Folder({})", self.objects.display())
    }
}

impl Folder {
    pub fn open(disk: Arc<dyn Disk>, folder: &Path) -> io::Result<Folder> {
        let (objects, staging) = (folder.join("objects"), folder.join("staging"));
        disk.make_folder(folder, Access::Usual)?;
        for made in [&objects, &staging] {
            disk.create_folder(made, Access::Usual)?;
        }
        // Also when an earlier process had made them: it may have died before its sync.
        for folder in [folder, parent(folder)] {
            disk.sync_folder(folder)?;
        }
        for (leftover, _) in disk.list(&staging)? {
            disk.remove(&staging.join(leftover))?;
        }
        let known = Mutex::new(HashSet::from([objects.clone()]));
        Ok(Folder { disk, objects, staging, next: AtomicU64::new(0), known })
    }

    pub fn objects(&self) -> &Path {
        &self.objects
    }

    /// A name in `staging/` that nothing has.
    fn next(&self) -> PathBuf {
        self.staging.join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// A new file in `staging/`, removed when dropped unless it took its place.
    pub fn stage(&self) -> io::Result<Staged> {
        let path = self.next();
        let file = self.disk.create(&path, Access::Private)?;
        Ok(Staged { disk: self.disk.clone(), path, file })
    }

    /// Makes sure that the folder of `place` is there, is durable, and is no link that leads out.
    fn prepare<'a>(&self, place: &'a Path) -> io::Result<&'a Path> {
        let folder = parent(place);
        let mut missing = Vec::new();
        let mut at = folder;
        while !self.known.lock().contains(at) {
            missing.push(at);
            at = at.parent().ok_or_else(|| io::Error::other("the place lies outside the folder"))?;
        }
        for folder in missing.into_iter().rev() {
            self.disk.create_folder(folder, Access::Usual)?;
            if self.disk.stat(folder)?.kind != Kind::Folder {
                return Err(io::Error::other("a folder on the way is a link or a file"));
            }
            // Also when another had made it: that other may not have come to its sync yet.
            self.disk.sync_folder(parent(folder))?;
            let mut known = self.known.lock();
            if known.len() >= KNOWN_FOLDERS_MAX {
                known.clear();
                known.insert(self.objects.clone());
            }
            known.insert(folder.to_owned());
        }
        Ok(folder)
    }

    /// Puts a staged file in its place. With `create` an object that is there stays, and that is an error.
    pub fn place(&self, staged: Staged, place: &Path, create: bool) -> io::Result<()> {
        staged.file.sync()?;
        let folder = self.prepare(place)?;
        if create {
            self.disk.link(&staged.path, place)?;
        } else {
            self.disk.rename(&staged.path, place)?;
        }
        self.disk.sync_folder(folder)
    }

    pub fn copy(&self, from: &Path, to: &Path, create: bool) -> io::Result<()> {
        // Objects never change in place, so two names may share one file.
        let folder = self.prepare(to)?;
        if create {
            self.disk.link(from, to)?;
        } else {
            let link = self.next();
            self.disk.link(from, &link)?;
            let renamed = self.disk.rename(&link, to);
            // Where both are names of one file already, rename(2) does nothing and leaves the first.
            let _ = self.disk.remove(&link);
            renamed?;
        }
        self.disk.sync_folder(folder)
    }

    pub fn rename(&self, from: &Path, to: &Path, create: bool) -> io::Result<()> {
        let (source, target) = (parent(from), self.prepare(to)?);
        if create {
            self.disk.link(from, to)?;
            self.disk.sync_folder(target)?;
            self.disk.remove(from)?;
        } else if from != to {
            self.disk.rename(from, to)?;
            self.disk.sync_folder(target)?;
            // Two names of one file: see `copy`.
            self.disk.remove(from)?;
        } else {
            self.disk.stat(from)?;
        }
        self.disk.sync_folder(source)
    }

    /// Takes the objects away, then syncs each folder once: where that fails, which of them are gone is not known, and
    /// none is told as gone.
    pub fn remove(&self, places: &[PathBuf]) -> Vec<io::Result<()>> {
        let mut folders = BTreeSet::new();
        let remove = |place: &PathBuf| {
            if self.disk.stat(place)?.kind != Kind::File {
                return Err(ErrorKind::NotFound.into());
            }
            self.disk.remove(place)?;
            folders.insert(parent(place).to_owned());
            Ok(())
        };
        let mut told: Vec<io::Result<()>> = places.iter().map(remove).collect();
        if let Some(error) = folders.into_iter().find_map(|folder| self.disk.sync_folder(&folder).err()) {
            told.iter_mut().filter(|one| one.is_ok()).for_each(|one| *one = Err(io::Error::other(error.to_string())));
        }
        told
    }
}

/// A file not yet in its place.
pub(super) struct Staged {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
}

impl fmt::Debug for Staged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Staged({})", self.path.display())
    }
}

impl Staged {
    /// Writes pieces one after the other from `offset` on; how many bytes that were.
    pub fn write<'a>(&self, pieces: impl Iterator<Item = &'a Bytes>, offset: u64) -> io::Result<u64> {
        let mut at = offset;
        for piece in pieces {
            self.file.write_at(piece, at)?;
            at += piece.len() as u64;
        }
        Ok(at - offset)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // What stays here is collected at the next open.
        let _ = self.disk.remove(&self.path);
    }
}
