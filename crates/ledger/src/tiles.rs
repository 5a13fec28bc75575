//! C2SP tlog-tiles: names and bytes of tiles and entry bundles, the right edge of the tree they make, and proofs
//! from them. Derived data; written by `tail`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use disk::Disk;
use parking_lot::Mutex;

use crate::error::LedgerError;
use crate::merkle::{EMPTY_ROOT, Hash, Subtrees, node_hash};

/// Hashes of a full tile, entries of a full bundle.
pub const TILE_WIDTH: usize = 256;
/// Full tiles kept in memory for proofs.
const TILES_CACHED_MAX: usize = 512;

/// Name of a tile of hashes at a tile level, `width` of its hashes being there (256: full).
pub fn tile_path(level: usize, number: u64, width: usize) -> String {
    numbered(format!("tile/{level}/"), number, width)
}

/// Name of an entry bundle.
pub fn bundle_path(number: u64, width: usize) -> String {
    numbered("tile/entries/".to_owned(), number, width)
}

/// tlog-tiles: 3-digit groups, all but the last with an `x`; `.p/W` when partial.
fn numbered(mut path: String, number: u64, width: usize) -> String {
    let digits = number.to_string();
    let digits = format!("{digits:0>width$}", width = digits.len().next_multiple_of(3));
    let groups = digits.len() / 3;
    for group in 0..groups {
        if group + 1 < groups {
            path.push('x');
        }
        path.push_str(&digits[group * 3..group * 3 + 3]);
        if group + 1 < groups {
            path.push('/');
        }
    }
    if width < TILE_WIDTH {
        path.push_str(&format!(".p/{width}"));
    }
    path
}

/// Root of the complete or incomplete subtree over these neighbours, with `right` beside them.
fn fold(hashes: &[Hash], right: Option<Hash>) -> Option<Hash> {
    let (mut rest, mut root) = (hashes, right);
    while !rest.is_empty() {
        // The rightmost complete subtree has as many leaves as the lowest set bit says.
        let n = 1 << rest.len().trailing_zeros();
        let (left, subtree) = rest.split_at(rest.len() - n);
        let hash = complete(subtree);
        root = Some(root.map_or(hash, |right| node_hash(&hash, &right)));
        rest = left;
    }
    root
}

/// Root of a power of two of neighbours.
fn complete(hashes: &[Hash]) -> Hash {
    match hashes {
        [one] => *one,
        [left, right] => node_hash(left, right),
        _ => {
            let (left, right) = hashes.split_at(hashes.len() / 2);
            node_hash(&complete(left), &complete(right))
        }
    }
}

/// The incomplete tile at each level: the right edge of the tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edge {
    size: u64,
    levels: Vec<Vec<Hash>>,
}

impl Edge {
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Hashes of the incomplete tile at a level; empty when there is none.
    pub fn partial(&self, level: usize) -> &[Hash] {
        self.levels.get(level).map(Vec::as_slice).unwrap_or_default()
    }

    pub fn levels(&self) -> usize {
        self.levels.len()
    }

    /// Adds a leaf; `full` is told each tile that this completes.
    pub fn push(&mut self, leaf: Hash, mut full: impl FnMut(usize, u64, &[Hash])) {
        let mut hash = leaf;
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(Vec::with_capacity(TILE_WIDTH));
            }
            let tile = &mut self.levels[level];
            tile.push(hash);
            if tile.len() < TILE_WIDTH {
                break;
            }
            full(level, self.size >> (8 * (level + 1)), tile);
            hash = complete(tile);
            tile.clear();
        }
        self.size += 1;
    }

    pub fn root(&self) -> Hash {
        self.levels.iter().fold(None, |right, tile| fold(tile, right)).unwrap_or(EMPTY_ROOT)
    }

    /// The edge of a tree of `size`, read from its partial tiles.
    pub fn load(disk: &dyn Disk, dir: &Path, size: u64) -> Result<Edge, LedgerError> {
        let mut edge = Edge { size, levels: Vec::new() };
        for level in 0.. {
            let hashes = size.checked_shr(8 * level as u32).unwrap_or(0);
            if hashes == 0 {
                break;
            }
            let width = (hashes % TILE_WIDTH as u64) as usize;
            let mut tile = Vec::with_capacity(TILE_WIDTH);
            if width > 0 {
                tile = read_edge_tile(disk, dir, level, hashes / TILE_WIDTH as u64, width)?;
            }
            edge.levels.push(tile);
        }
        Ok(edge)
    }
}

/// tlog-tiles: a partial tile may be gone once the full one is there, which begins with it.
fn read_edge_tile(
    disk: &dyn Disk,
    dir: &Path,
    level: usize,
    number: u64,
    width: usize,
) -> Result<Vec<Hash>, LedgerError> {
    read_tile(disk, &dir.join(tile_path(level, number, width)), width).or_else(|error| {
        let full = read_tile(disk, &dir.join(tile_path(level, number, TILE_WIDTH)), TILE_WIDTH);
        full.map(|tile| tile[..width].to_vec()).map_err(|_| error)
    })
}

fn read_tile(disk: &dyn Disk, path: &Path, width: usize) -> Result<Vec<Hash>, LedgerError> {
    let bytes =
        disk.read(path).map_err(|_| LedgerError::Tiles { what: "a tile cannot be read", file: path.to_owned() })?;
    if bytes.len() != width * 32 {
        return Err(LedgerError::Tiles { what: "a tile has the wrong length", file: path.to_owned() });
    }
    Ok(bytes.chunks_exact(32).map(to_hash).collect())
}

fn to_hash(bytes: &[u8]) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(bytes);
    hash
}

pub(crate) fn tile_bytes(hashes: &[Hash]) -> Vec<u8> {
    hashes.as_flattened().to_vec()
}

/// Full tiles on disk, the last used ones in memory. What was flipped or rotted is never shown: the edge, which is in
/// memory, says what the tiles below must be.
pub(crate) struct FullTiles {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    cached: Mutex<HashMap<(usize, u64), Arc<[Hash]>>>,
}

impl FullTiles {
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf) -> Self {
        FullTiles { disk, dir, cached: Mutex::default() }
    }

    fn cached(&self, level: usize, number: u64) -> Option<Arc<[Hash]>> {
        self.cached.lock().get(&(level, number)).cloned()
    }

    /// Reads a tile and remembers it when its hashes make up `hash`, which the tree above it has.
    fn read(&self, level: usize, number: u64, hash: &Hash) -> Result<Arc<[Hash]>, LedgerError> {
        let path = self.dir.join(tile_path(level, number, TILE_WIDTH));
        let tile: Arc<[Hash]> = read_tile(&*self.disk, &path, TILE_WIDTH)?.into();
        if complete(&tile) != *hash {
            return Err(LedgerError::Tiles {
                what: "a tile does not have the hash that the tree above it says",
                file: path,
            });
        }
        let mut cached = self.cached.lock();
        if cached.len() >= TILES_CACHED_MAX {
            cached.clear();
        }
        cached.insert((level, number), tile.clone());
        Ok(tile)
    }
}

/// A tree to take proofs from: full tiles, the edge, and leaves that have no tile yet.
pub(crate) struct Tree<'a> {
    full: &'a FullTiles,
    edge: Edge,
    /// Tiles completed by leaves added here.
    fresh: HashMap<(usize, u64), Vec<Hash>>,
}

impl<'a> Tree<'a> {
    pub fn new(full: &'a FullTiles, edge: Edge) -> Self {
        Tree { full, edge, fresh: HashMap::new() }
    }

    pub fn push(&mut self, leaf: Hash) {
        let fresh = &mut self.fresh;
        self.edge.push(leaf, |level, number, hashes| {
            fresh.insert((level, number), hashes.to_vec());
        });
    }
}

impl Subtrees for Tree<'_> {
    type Error = LedgerError;

    fn subtree(&mut self, level: u32, index: u64) -> Result<Hash, LedgerError> {
        let (tile_level, inner) = ((level / 8) as usize, level % 8);
        let first = index << inner;
        let (number, at) = (first / TILE_WIDTH as u64, (first % TILE_WIDTH as u64) as usize);
        let span = at..at + (1 << inner);
        if let Some(tile) = self.fresh.get(&(tile_level, number)) {
            return Ok(complete(&tile[span]));
        }
        let edge_number = self.edge.size.checked_shr(8 * (tile_level as u32 + 1)).unwrap_or(0);
        if number == edge_number {
            let tile = self.edge.partial(tile_level).get(span);
            let beyond = LedgerError::OutOfRange { asked: (index + 1) << level, size: self.edge.size };
            return tile.map(complete).ok_or(beyond);
        }
        let tile = match self.full.cached(tile_level, number) {
            Some(tile) => tile,
            None => {
                let above = self.subtree(8 * (tile_level as u32 + 1), number)?;
                self.full.read(tile_level, number, &above)?
            }
        };
        Ok(complete(&tile[span]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::{Frontier, leaf_hash};

    #[test]
    fn names_are_those_of_the_specification() {
        for (path, expected) in [
            (tile_path(0, 0, 256), "tile/0/000"),
            (tile_path(1, 5, 17), "tile/1/005.p/17"),
            (tile_path(0, 1_234_067, 256), "tile/0/x001/x234/067"),
            (bundle_path(999, 256), "tile/entries/999"),
            (bundle_path(1_000, 1), "tile/entries/x001/000.p/1"),
        ] {
            assert_eq!(path, expected);
        }
    }

    #[test]
    fn the_edge_has_the_frontiers_root_over_three_levels() {
        let (mut edge, mut frontier, mut full) = (Edge::default(), Frontier::default(), 0);
        assert_eq!(edge.root(), frontier.root());
        for i in 0..70_000u64 {
            let leaf = leaf_hash(&i.to_be_bytes());
            frontier.push(leaf);
            edge.push(leaf, |_, _, _| full += 1);
            if i % 97 == 0 || i % 256 == 255 || i > 69_900 || (65_000..66_000).contains(&i) {
                assert_eq!(edge.root(), frontier.root(), "{i}");
            }
        }
        assert_eq!(full, 70_000 / 256 + 1);
        assert_eq!((edge.partial(0).len(), edge.partial(1).len(), edge.partial(2).len()), (112, 17, 1));
    }
}
