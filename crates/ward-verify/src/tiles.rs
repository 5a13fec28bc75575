//! Compares tiles and entry bundles (C2SP tlog-tiles) with the tree computed from the segments.

use std::io;
use std::path::{Path, PathBuf};

use crate::Stop;
use crate::source::{self, Source};
use crate::tree::{Hash, Tree};

pub(crate) const WIDTH: usize = 256;
/// 256 entries of the longest kind: no tile or bundle is longer.
pub(crate) const TILE_BYTES_MAX: u64 = 256 * (2 + 65_535);

/// The tile being filled at each level, and the bundle with it.
pub(crate) struct Tiles<'a> {
    source: &'a dyn Source,
    dir: PathBuf,
    /// The published size: tiles up to it must be there.
    published: u64,
    levels: Vec<Vec<u8>>,
    bundle: Vec<u8>,
    /// Where each entry of the bundle ends.
    ends: Vec<usize>,
}

/// A tile or bundle: where it is, what it must hold, and how much of it must be there.
struct Expected<'a> {
    source: &'a dyn Source,
    stem: PathBuf,
    bytes: &'a [u8],
    /// Where each element ends in `bytes`.
    ends: &'a [usize],
    /// Elements that the published checkpoint needs.
    needed: usize,
}

impl<'a> Tiles<'a> {
    pub fn new(source: &'a dyn Source, dir: &Path, published: u64) -> Self {
        let dir = dir.join("tile");
        Tiles { source, dir, published, levels: Vec::new(), bundle: Vec::new(), ends: Vec::new() }
    }

    /// Adds an entry to the tree and compares the tiles that it completes.
    pub fn push(&mut self, tree: &mut Tree, data: &[u8], leaf: Hash, notes: &mut Vec<String>) -> Result<(), Stop> {
        self.bundle.extend_from_slice(&(data.len() as u16).to_be_bytes());
        self.bundle.extend_from_slice(data);
        self.ends.push(self.bundle.len());
        tree.push(leaf, |height, hash| {
            // tlog-tiles: level L holds the roots of complete subtrees of height 8 L.
            if height.is_multiple_of(8) {
                let level = (height / 8) as usize;
                if self.levels.len() == level {
                    self.levels.push(Vec::with_capacity(WIDTH * 32));
                }
                self.levels[level].extend_from_slice(hash);
            }
        });
        for level in 0..self.levels.len() {
            if self.levels[level].len() < WIDTH * 32 {
                break;
            }
            self.check(level, (tree.size() - 1) >> (8 * (level + 1)), notes)?;
            self.levels[level].clear();
            if level == 0 {
                self.bundle.clear();
                self.ends.clear();
            }
        }
        Ok(())
    }

    /// The incomplete tiles at the end of a tree of this size.
    pub fn finish(&mut self, size: u64, notes: &mut Vec<String>) -> Result<(), Stop> {
        for level in 0..self.levels.len() {
            self.check(level, size >> (8 * (level + 1)), notes)?;
        }
        Ok(())
    }

    fn check(&self, level: usize, number: u64, notes: &mut Vec<String>) -> Result<(), Stop> {
        let needed = (self.published >> (8 * level)).saturating_sub(number * WIDTH as u64).min(WIDTH as u64) as usize;
        let hashes = &self.levels[level];
        let ends: Vec<usize> = (1..=hashes.len() / 32).map(|i| i * 32).collect();
        let stem = self.dir.join(level.to_string()).join(numbered(number));
        Expected { source: self.source, stem, bytes: hashes, ends: &ends, needed }.check(notes)?;
        if level == 0 {
            let stem = self.dir.join("entries").join(numbered(number));
            Expected { source: self.source, stem, bytes: &self.bundle, ends: &self.ends, needed }.check(notes)?;
        }
        Ok(())
    }
}

impl Expected<'_> {
    fn check(&self, notes: &mut Vec<String>) -> Result<(), Stop> {
        let mut has_needed = self.compare(&self.stem, WIDTH, notes)?;
        let partials = partials(&self.stem);
        for name in self.source.list(&partials).map_err(Stop::io(&partials))? {
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
        let bytes = match source::read(self.source, path, TILE_BYTES_MAX) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Err(Stop::tampered("the tile is longer than any can be", path, None)),
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

/// The folder of a tile's partial forms.
pub(crate) fn partials(stem: &Path) -> PathBuf {
    let mut folder = stem.as_os_str().to_owned();
    folder.push(".p");
    folder.into()
}

/// `x001/x234/067`
pub(crate) fn numbered(number: u64) -> PathBuf {
    let mut groups = vec![format!("{:03}", number % 1000)];
    let mut rest = number / 1000;
    while rest > 0 {
        groups.push(format!("x{:03}", rest % 1000));
        rest /= 1000;
    }
    groups.iter().rev().collect()
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
