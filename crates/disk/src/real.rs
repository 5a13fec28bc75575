//! [`RealDisk`]: the machine's file system (Linux, and what behaves like it).

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, FileType, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::{Access, Disk, DiskFile, Kind, Stat, parent};

/// The machine's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

struct RealFile(File);

/// Files and folders that are synced each for itself; more of them by their file system.
#[cfg(target_os = "linux")]
const SYNCED_SINGLY_MAX: usize = 8;

fn kind(kind: FileType) -> Kind {
    if kind.is_file() {
        Kind::File
    } else if kind.is_dir() {
        Kind::Folder
    } else {
        Kind::Other
    }
}

impl Disk for RealDisk {
    fn lock(&self, path: &Path, holder: &str) -> io::Result<Box<dyn Send + Sync>> {
        self.make_folder(parent(path), Access::Usual)?;
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Who holds it is a courtesy: an unreadable name must not hide the lock.
                let read = Read::by_ref(&mut file).take(200).read_to_string(&mut text);
                let name = text.trim();
                let known = read.is_ok() && !name.is_empty();
                let holder = if known { name } else { "another process" };
                return Err(io::Error::new(ErrorKind::WouldBlock, holder.to_owned()));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        file.set_len(0)?;
        writeln!(file, "{holder}")?;
        Ok(Box::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
                File::open(path)?
            }
            opened => opened?,
        };
        Ok(Arc::new(RealFile(file)))
    }

    fn create(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let mode = if access == Access::Private { 0o600 } else { 0o666 };
        Ok(Arc::new(RealFile(OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path)?)))
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let meta = fs::symlink_metadata(path)?;
        Ok(Stat {
            kind: kind(meta.file_type()),
            bytes: meta.len(),
            modified: meta.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            id: meta.ino(),
        })
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<(String, Kind)>> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        entries
            .map(|entry| {
                let entry = entry?;
                Ok((entry.file_name().to_string_lossy().into_owned(), kind(entry.file_type()?)))
            })
            .collect()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn create_folder(&self, folder: &Path, access: Access) -> io::Result<()> {
        let mode = if access == Access::Private { 0o700 } else { 0o777 };
        match DirBuilder::new().mode(mode).create(folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let result = match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
            Ok(_) => fs::remove_file(path),
            Err(error) => Err(error),
        };
        match result {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }

    /// Many at once are one wait for each of their file systems: each file that is synced for itself costs a commit of
    /// the file system's journal, all together one.
    #[cfg(target_os = "linux")]
    fn sync_many(&self, files: &[(PathBuf, Arc<dyn DiskFile>)], folders: &[&Path]) -> io::Result<()> {
        if files.len() + folders.len() <= SYNCED_SINGLY_MAX {
            files.iter().try_for_each(|(_, file)| file.sync())?;
            return folders.iter().try_for_each(|folder| self.sync_folder(folder));
        }
        let places: BTreeSet<&Path> =
            files.iter().map(|(path, _)| parent(path)).chain(folders.iter().copied()).collect();
        let mut synced = BTreeSet::new();
        for place in places {
            let folder = File::open(place)?;
            if synced.insert(folder.metadata()?.dev()) {
                rustix::fs::syncfs(&folder)?;
            }
        }
        Ok(())
    }

    fn fatal(&self, what: &str, error: &io::Error) {
        if tracing::dispatcher::has_been_set() {
            tracing::error!(%error, "{what}: the disk failed, so the process ends; it recovers at its next start");
        } else {
            let text =
                format!("{what}: {error}: the disk failed, so the process ends; it recovers at its next start\n");
            // Nobody is left to tell when this fails too.
            let _ = io::stderr().write_all(text.as_bytes());
        }
        std::process::abort();
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_disk_keeps_the_contract() {
        let folder = tempfile::tempdir().unwrap();
        crate::contract::disk(&RealDisk, folder.path());
    }

    #[test]
    #[ignore = "ends its process: run by the test below in one of its own"]
    fn ends_here() {
        RealDisk.fatal("sync of the log", &io::Error::other("no such luck"));
        panic!("went on");
    }

    #[test]
    fn a_failed_disk_ends_the_process_and_says_so() {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let out = command.args(["--ignored", "--exact", "--nocapture", "real::tests::ends_here"]).output().unwrap();
        // 6 is SIGABRT.
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&out.status), Some(6), "{out:?}");
        let said = String::from_utf8(out.stderr).unwrap();
        assert!(said.contains("sync of the log: no such luck: the disk failed, so the process ends"), "{said}");
    }

    #[test]
    fn private_is_the_owner_alone_and_a_linked_folder_is_a_folder() {
        let at = tempfile::tempdir().unwrap();
        let folder = at.path().join("a/b");
        RealDisk.make_folder(&folder, Access::Private).unwrap();
        RealDisk.create(&folder.join("f"), Access::Private).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(folder.join("f")).unwrap().mode() & 0o777, 0o600);
        std::os::unix::fs::symlink(&folder, at.path().join("link")).unwrap();
        std::os::unix::fs::symlink(at.path().join("nowhere"), at.path().join("broken")).unwrap();
        assert!(RealDisk.is_folder(&at.path().join("link")).unwrap());
        assert!(!RealDisk.is_folder(&at.path().join("broken")).unwrap());
        RealDisk.publish(&[(at.path().join("link/g"), b"x".to_vec())]).unwrap();
        assert_eq!(RealDisk.read(&folder.join("g")).unwrap(), b"x");
        RealDisk.remove(&at.path().join("link")).unwrap();
        assert!(folder.exists(), "a link goes alone");
    }
}
