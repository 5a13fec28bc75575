//! Compares tiles and entry bundles (C2SP tlog-tiles) with the tree computed from the segments.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::Stop;
use crate::tree::{Hash, node_hash};

const WIDTH: usize = 256;

/// The tile being filled at each level, and the bundle with it.
pub(crate) struct Tiles {
    dir: PathBuf,
    /// The published size: tiles up to it must be there.
    published: u64,
    size: u64,
    levels: Vec<Vec<u8>>,
    bundle: Vec<u8>,
    /// Where each entry of the bundle ends.
    ends: Vec<usize>,
}

/// A tile or bundle: where it is, what it must hold, and how much of it must be there.
struct Expected<'a> {
    stem: PathBuf,
    bytes: &'a [u8],
    /// Where each element ends in `bytes`.
    ends: &'a [usize],
    /// Elements that the published checkpoint needs.
    needed: usize,
}

impl Tiles {
    pub fn new(dir: &Path, published: u64) -> Self {
        Tiles { dir: dir.join("tile"), published, size: 0, levels: Vec::new(), bundle: Vec::new(), ends: Vec::new() }
    }

    pub fn push(&mut self, data: &[u8], leaf: Hash, notes: &mut Vec<String>) -> Result<(), Stop> {
        self.bundle.extend_from_slice(&(data.len() as u16).to_be_bytes());
        self.bundle.extend_from_slice(data);
        self.ends.push(self.bundle.len());
        let mut hash = leaf;
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            self.levels[level].extend_from_slice(&hash);
            if self.levels[level].len() < WIDTH * 32 {
                break;
            }
            self.check(level, self.size >> (8 * (level + 1)), notes)?;
            hash = root(&self.levels[level]);
            self.levels[level].clear();
            if level == 0 {
                self.bundle.clear();
                self.ends.clear();
            }
        }
        self.size += 1;
        Ok(())
    }

    /// The incomplete tiles at the end.
    pub fn finish(&mut self, notes: &mut Vec<String>) -> Result<(), Stop> {
        for level in 0..self.levels.len() {
            self.check(level, self.size >> (8 * (level + 1)), notes)?;
        }
        Ok(())
    }

    fn check(&self, level: usize, number: u64, notes: &mut Vec<String>) -> Result<(), Stop> {
        let needed = (self.published >> (8 * level)).saturating_sub(number * WIDTH as u64).min(WIDTH as u64) as usize;
        let hashes = &self.levels[level];
        let ends: Vec<usize> = (1..=hashes.len() / 32).map(|i| i * 32).collect();
        let stem = self.dir.join(level.to_string()).join(numbered(number));
        Expected { stem, bytes: hashes, ends: &ends, needed }.check(notes)?;
        if level == 0 {
            let stem = self.dir.join("entries").join(numbered(number));
            Expected { stem, bytes: &self.bundle, ends: &self.ends, needed }.check(notes)?;
        }
        Ok(())
    }
}

impl Expected<'_> {
    fn check(&self, notes: &mut Vec<String>) -> Result<(), Stop> {
        let mut found = 0;
        if self.compare(&self.stem, WIDTH, notes)? {
            found = WIDTH;
        }
        let mut partials = self.stem.clone().into_os_string();
        partials.push(".p");
        let partials = PathBuf::from(partials);
        let mut has_needed = found == WIDTH;
        for name in list(&partials).map_err(Stop::io(&partials))? {
            let path = partials.join(&name);
            match name.parse::<usize>().ok().filter(|width| (1..WIDTH).contains(width) && width.to_string() == name) {
                Some(width) => {
                    let is_there = self.compare(&path, width, notes)?;
                    has_needed |= is_there && width == self.needed;
                }
                None => notes.push(format!("`{}` is not part of the log", path.display())),
            }
        }
        if self.needed > 0 && !has_needed {
            return Err(Stop::tampered("a tile that the published checkpoint needs is missing", &self.stem, None));
        }
        Ok(())
    }

    /// Compares a file that may be there with what it must hold. `false` when it is not there.
    fn compare(&self, path: &Path, width: usize, notes: &mut Vec<String>) -> Result<bool, Stop> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(Stop::io(path)(error)),
        };
        let known = width.min(self.ends.len());
        let end = if known == 0 { 0 } else { self.ends[known - 1] };
        let is_same = bytes.get(..end) == Some(&self.bytes[..end]) && (known < width || bytes.len() == end);
        if !is_same {
            let at = bytes.iter().zip(&self.bytes[..end]).position(|(a, b)| a != b).unwrap_or(bytes.len().min(end));
            let what = "the tile does not hold what the segments say";
            return Err(Stop::tampered(what, path, Some(at as u64)));
        }
        if known < width {
            notes.push(format!(
                "`{}` reaches beyond the entries read: it was written meanwhile, or is no part of the log",
                path.display()
            ));
        }
        Ok(true)
    }
}

fn list(folder: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// `x001/x234/067`
fn numbered(number: u64) -> PathBuf {
    let mut groups = vec![format!("{:03}", number % 1000)];
    let mut rest = number / 1000;
    while rest > 0 {
        groups.push(format!("x{:03}", rest % 1000));
        rest /= 1000;
    }
    groups.iter().rev().collect()
}

/// Root of a full tile.
fn root(tile: &[u8]) -> Hash {
    let mut hashes: Vec<Hash> = tile.as_chunks::<32>().0.to_vec();
    while hashes.len() > 1 {
        hashes = hashes.as_chunks::<2>().0.iter().map(|[left, right]| node_hash(left, right)).collect();
    }
    hashes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_groups_of_three() {
        for (number, path) in [(0, "000"), (999, "999"), (1_000, "x001/000"), (1_234_067, "x001/x234/067")] {
            assert_eq!(numbered(number), Path::new(path));
        }
    }
}
