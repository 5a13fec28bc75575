//! Where the files of a log are read from: a disk, or memory (tests tamper there). Never writes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A tree of files.
pub trait Source: Sync {
    /// The names in a folder; none when it is not there.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;
    fn open(&self, file: &Path) -> io::Result<Box<dyn Blob + '_>>;
    /// Gives a writer a moment; `false` where nothing can change.
    fn wait(&self) -> bool {
        false
    }
}

/// One open file.
pub trait Blob {
    /// Its length now.
    fn bytes(&self) -> io::Result<u64>;
    /// Reads from `offset` until the buffer is full or the file ends; how many bytes it read.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
}

/// A whole file of at most `max` bytes; `None` when it is longer.
pub(crate) fn read(source: &dyn Source, file: &Path, max: u64) -> io::Result<Option<Vec<u8>>> {
    let blob = source.open(file)?;
    let bytes = blob.bytes()?;
    if bytes > max {
        return Ok(None);
    }
    let mut whole = vec![0; bytes as usize];
    let n = blob.read_at(0, &mut whole)?;
    whole.truncate(n);
    Ok(Some(whole))
}

/// The files of this machine.
pub struct Disk;

impl Source for Disk {
    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        match fs::read_dir(folder) {
            Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn open(&self, file: &Path) -> io::Result<Box<dyn Blob + '_>> {
        // A pipe or device in the place of a file would be waited for.
        if !fs::metadata(file)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
        }
        Ok(Box::new(File::open(file)?))
    }

    fn wait(&self) -> bool {
        std::thread::sleep(Duration::from_millis(20));
        true
    }
}

impl Blob for File {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match FileExt::read_at(self, &mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

/// Files in memory, shared until they are changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory(pub BTreeMap<PathBuf, Arc<Vec<u8>>>);

impl Source for Memory {
    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let inside = self.0.keys().filter_map(|path| path.strip_prefix(folder).ok()?.iter().next());
        let mut names: Vec<String> = inside.map(|name| name.to_string_lossy().into_owned()).collect();
        names.dedup();
        Ok(names)
    }

    fn open(&self, file: &Path) -> io::Result<Box<dyn Blob + '_>> {
        let bytes = self.0.get(file).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(bytes.as_slice()))
    }
}

impl Blob for &[u8] {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = self.get(offset as usize..).unwrap_or_default();
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}
