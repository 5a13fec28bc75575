//! The IO port of everything that must survive a power cut: logs (`ledger`), root keys (`vault`), objects (`store`).
//! [`RealDisk`] is the machine's file system; `sim` is a disk with power cuts, torn writes, failing syncs, flipped bits
//! and no space, where one seed is one run.
//!
//! What is built of several steps ([`Disk::publish_in_turn`], [`Disk::make_folder`]) is built here of the port's own calls, so
//! that the simulation cuts it between any two of them.
//!
//! Never here: what the bytes mean, when to sync, recovery. Those are the callers' matter.

#[cfg(any(test, feature = "sim"))]
pub mod contract;
mod real;
#[cfg(any(test, feature = "sim"))]
pub mod sim;

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

pub use real::RealDisk;

/// The suffix of files not yet in place; such a file means nothing and may be removed.
pub const TEMP_SUFFIX: &str = ".tmp";
/// The largest file that [`Disk::read`] reads whole.
pub const READ_BYTES_MAX: u64 = 1 << 30;

/// Who may read and list what is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// As the process's umask has it.
    Usual,
    /// The owner alone.
    Private,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Folder,
    /// A symbolic link, a device: nothing that is made here.
    Other,
}

/// What a folder says of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub kind: Kind,
    pub bytes: u64,
    pub modified: SystemTime,
    /// Tells a file from the one that had its name before.
    pub id: u64,
}

/// Folders, names, and the files behind them.
pub trait Disk: Send + Sync {
    /// Takes the writer lock for as long as the guard lives. `WouldBlock`, with the holder as its text, when taken.
    fn lock(&self, path: &Path, holder: &str) -> io::Result<Box<dyn Send + Sync>>;
    /// Opens a file that is there, for reading and, where the machine allows it, writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Makes an empty file; `AlreadyExists` when the name is taken. The name is durable after `sync_folder`.
    fn create(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>>;
    /// Of the name itself: a link is not followed.
    fn stat(&self, path: &Path) -> io::Result<Stat>;
    /// Names in a folder, in any order; none when there is no such folder.
    fn list(&self, folder: &Path) -> io::Result<Vec<(String, Kind)>>;
    /// Gives a file another name, in place of the file that had it. Durable after `sync_folder` of the new name's
    /// folder; after a power cut before that, the old file or the new one is there, whole.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file a second name; `AlreadyExists` when it is taken.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes one folder in one that is there; no error when it is there already.
    fn create_folder(&self, folder: &Path, access: Access) -> io::Result<()>;
    /// Removes a file, or a folder with all in it; no error when it is not there. May come back after a power cut until
    /// `sync_folder`.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// When this returns, the names in the folder survive a power cut, also those that an earlier process made.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
    /// A sync or write failed in a way that must not be retried: the real disk ends the process.
    fn fatal(&self, what: &str, error: &io::Error);

    /// The whole of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open(path)?;
        let bytes = file.bytes()?;
        if bytes > READ_BYTES_MAX {
            return Err(io::Error::new(ErrorKind::FileTooLarge, "the file is too large to be read whole"));
        }
        let mut out = vec![0; bytes as usize];
        file.read_at(&mut out, 0)?;
        Ok(out)
    }

    /// Makes a folder and the missing ones above it, each durable in its parent. One that is there already is taken as
    /// durable: where a process that died may have left it, `sync_folder` of its parent makes it so.
    fn make_folder(&self, folder: &Path, access: Access) -> io::Result<()> {
        if folder.as_os_str().is_empty() || self.is_folder(folder)? {
            return Ok(());
        }
        let parent = parent(folder);
        self.make_folder(parent, access)?;
        self.create_folder(folder, access)?;
        self.sync_folder(parent)
    }

    /// Whether there is a folder, or a link to one.
    fn is_folder(&self, path: &Path) -> io::Result<bool> {
        match self.stat(path) {
            Ok(stat) if stat.kind == Kind::Folder => Ok(true),
            Ok(stat) if stat.kind == Kind::Other => Ok(self.stat(&path.join(".")).is_ok()),
            Ok(_) => Ok(false),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Syncs many files and folders, in any order or all at once: when this returns, all of them survive a power cut.
    /// The files come with their names.
    fn sync_many(&self, files: &[(PathBuf, Arc<dyn DiskFile>)], folders: &[&Path]) -> io::Result<()> {
        files.iter().try_for_each(|(_, file)| file.sync())?;
        folders.iter().try_for_each(|folder| self.sync_folder(folder))
    }

    /// Puts whole files in place, making folders as needed. When this returns, all of them survive a power cut;
    /// a file never appears half written. Two calls at once for the same name are the caller's fault.
    fn publish(&self, files: &[(PathBuf, Vec<u8>)]) -> io::Result<()> {
        self.publish_in_turn(&[files])
    }

    /// As `publish`; what comes in a later turn is put in place when all before it is durable in its own.
    fn publish_in_turn(&self, turns: &[&[(PathBuf, Vec<u8>)]]) -> io::Result<()> {
        let mut changed = BTreeSet::new();
        let made =
            turns.iter().copied().flatten().try_for_each(|(path, _)| make_unsynced(self, parent(path), &mut changed));
        let changed: Vec<&Path> = changed.into_iter().collect();
        let written = match made.and_then(|()| write_temps(self, turns)) {
            Ok(written) => written,
            Err(error) => {
                // The next try takes the folders that are there as durable.
                self.sync_many(&[], &changed)?;
                return Err(error);
            }
        };
        self.sync_many(&written, &changed)?;
        let mut temps = written.iter();
        for turn in turns {
            for ((path, _), (temp, _)) in turn.iter().zip(&mut temps) {
                self.rename(temp, path)?;
            }
            let folders: BTreeSet<&Path> = turn.iter().map(|(path, _)| parent(path)).collect();
            self.sync_many(&[], &folders.into_iter().collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

/// Makes a folder and the missing ones above it; `changed` are those that hold a new name.
fn make_unsynced<'a, D: Disk + ?Sized>(disk: &D, folder: &'a Path, changed: &mut BTreeSet<&'a Path>) -> io::Result<()> {
    if folder.as_os_str().is_empty() || disk.is_folder(folder)? {
        return Ok(());
    }
    let parent = parent(folder);
    make_unsynced(disk, parent, changed)?;
    disk.create_folder(folder, Access::Usual)?;
    changed.insert(parent);
    Ok(())
}

/// Writes the files under their names for the time being, unsynced.
fn write_temps<D: Disk + ?Sized>(
    disk: &D,
    turns: &[&[(PathBuf, Vec<u8>)]],
) -> io::Result<Vec<(PathBuf, Arc<dyn DiskFile>)>> {
    let mut written = Vec::new();
    for (path, bytes) in turns.iter().copied().flatten() {
        let temp = temp_path(path);
        let file = match disk.create(&temp, Access::Usual) {
            // Left by a crash, or by a full disk.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                disk.remove(&temp)?;
                disk.create(&temp, Access::Usual)?
            }
            created => created?,
        };
        if let Err(error) = file.write_at(bytes, 0) {
            // Leave no half file on a full disk; the first error is the one that counts.
            let _ = disk.remove(&temp);
            return Err(error);
        }
        written.push((temp, file));
    }
    Ok(written)
}

/// Writes what a file shows over itself and syncs it: after a sync that failed, the system may show bytes that are
/// nowhere but in its memory, and a later sync passes them by. Nobody else may write to the file meanwhile.
pub fn write_again(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    const STEP: u64 = 1 << 20;
    let file = disk.open(path)?;
    let (bytes, mut at) = (file.bytes()?, 0);
    let mut step = Vec::new();
    while at < bytes {
        step.resize((bytes - at).min(STEP) as usize, 0);
        file.read_at(&mut step, at)?;
        file.write_at(&step, at)?;
        at += step.len() as u64;
    }
    file.sync()?;
    disk.sync_folder(parent(path))
}

/// One open file.
pub trait DiskFile: Send + Sync {
    /// Fills `out` from `offset`, or `UnexpectedEof`.
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes`, growing the file as needed. Durable only after `sync`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// When this returns, earlier writes and lengths survive a power cut. After an error nothing is known.
    fn sync(&self) -> io::Result<()>;
    /// Cuts or grows (with zeros) the file. Durable only after `sync`.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    fn bytes(&self) -> io::Result<u64>;
}

/// `name` → `name.tmp`, in the same folder.
pub fn temp_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMP_SUFFIX);
    PathBuf::from(name)
}

/// The folder that a name lies in; `.` for a bare name.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether this is a full disk: the only failure of a write that is worth another try.
pub fn is_no_space(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}
