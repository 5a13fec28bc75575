//! The IO port of a log: two small traits, and the real disk. Never knows what it writes.
//! A simulated disk with power cuts is in `sim`.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The suffix of files not yet in place; such a file means nothing and may be removed.
pub const TEMP_SUFFIX: &str = ".tmp";

/// Folders and names.
pub trait Disk: Send + Sync {
    /// Takes the writer lock for as long as the guard lives. `WouldBlock`, with the holder as its text, when taken.
    fn lock(&self, path: &Path, holder: &str) -> io::Result<Box<dyn Send + Sync>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// The whole of a small file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Names in a folder, in any order; none when there is no such folder.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;
    /// Puts whole files in place, making folders as needed. When this returns, all of them survive a power cut;
    /// a file never appears half written.
    fn publish(&self, files: &[(PathBuf, Vec<u8>)]) -> io::Result<()>;
    /// When this returns, the names in the folder survive a power cut, also those that an earlier process made.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
    /// Removes a file, or a folder with all in it; no error when it is not there. May come back after a power cut.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// A sync or write failed in a way that must not be retried: the real disk ends the process.
    fn fatal(&self, what: &str, error: &io::Error);
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

/// The machine's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

struct RealFile(File);

impl Disk for RealDisk {
    fn lock(&self, path: &Path, holder: &str) -> io::Result<Box<dyn Send + Sync>> {
        if let Some(folder) = path.parent() {
            make_folder(folder)?;
        }
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
                return Err(io::Error::new(io::ErrorKind::WouldBlock, holder.to_owned()));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        file.set_len(0)?;
        writeln!(file, "{holder}")?;
        Ok(Box::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(RealFile(OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn publish(&self, files: &[(PathBuf, Vec<u8>)]) -> io::Result<()> {
        let mut folders: Vec<&Path> = files.iter().filter_map(|(path, _)| path.parent()).collect();
        folders.sort_unstable();
        folders.dedup();
        for folder in &folders {
            make_folder(folder)?;
        }
        let written: Vec<(File, PathBuf)> =
            files.iter().map(|(path, bytes)| write_temp(path, bytes)).collect::<io::Result<_>>()?;
        for (file, _) in &written {
            file.sync_all()?;
        }
        for ((_, temp), (path, _)) in written.iter().zip(files) {
            fs::rename(temp, path)?;
        }
        for folder in &folders {
            sync_folder(folder)?;
        }
        Ok(())
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        sync_folder(folder)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let result = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
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

/// `name` → `name.tmp`, in the same folder.
pub(crate) fn temp_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMP_SUFFIX);
    PathBuf::from(name)
}

fn write_temp(path: &Path, bytes: &[u8]) -> io::Result<(File, PathBuf)> {
    let temp = temp_path(path);
    let mut file = File::create(&temp)?;
    if let Err(error) = file.write_all(bytes) {
        // Leave no half file on a full disk; the first error is the one that counts.
        let _ = fs::remove_file(&temp);
        return Err(error);
    }
    Ok((file, temp))
}

/// Makes a folder and its parents, each durable in its own parent.
fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_folder(parent)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_folder(parent)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
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
    fn the_lock_names_its_holder_and_ends_with_its_guard() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/lock");
        let guard = RealDisk.lock(&path, "process 7").unwrap();
        let error = RealDisk.lock(&path, "process 8").err().unwrap();
        assert_eq!((error.kind(), error.to_string().as_str()), (io::ErrorKind::WouldBlock, "process 7"));
        drop(guard);
        RealDisk.lock(&path, "process 8").unwrap();
    }

    #[test]
    fn published_files_are_whole_and_leave_no_temp() {
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<_> = (0..3).map(|i| (folder.path().join(format!("d{i}/f")), vec![i; 9])).collect();
        RealDisk.publish(&files).unwrap();
        for (path, bytes) in &files {
            assert_eq!(&RealDisk.read(path).unwrap(), bytes);
            assert_eq!(RealDisk.list(path.parent().unwrap()).unwrap(), ["f"]);
        }
        RealDisk.remove(&folder.path().join("d0")).unwrap();
        RealDisk.remove(&folder.path().join("d0")).unwrap();
        assert!(RealDisk.list(&folder.path().join("d0")).unwrap().is_empty());
    }
}
