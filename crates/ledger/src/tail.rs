//! The tail of a log: follows the head with tiles and the published checkpoint (C2SP tlog-tiles), all derived from
//! the segments. Publishes a checkpoint only when its tiles are durable and their root is the one signed.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use disk::Disk;

use crate::error::LedgerError;
use crate::merkle::{Hash, leaf_hash};
use crate::reader::{Durable, Reader};
use crate::scan::Identity;
use crate::tiles::{Edge, TILE_WIDTH, bundle_path, tile_bytes, tile_path};

/// Entries whose tiles are written in one go.
const STEP_ENTRIES_MAX: u64 = 65_536;
/// Folders remembered as durable; more are asked for again.
const OWNED_MAX: usize = 4_096;

pub(crate) fn checkpoint_path(dir: &Path) -> PathBuf {
    dir.join("checkpoint")
}

/// The checkpoint given to the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Published {
    pub size: u64,
    pub root: Hash,
}

/// The published checkpoint in `dir`, its signature checked; `None` when there is none.
pub(crate) fn published(disk: &dyn Disk, dir: &Path, identity: &Identity) -> Result<Option<Published>, LedgerError> {
    let path = checkpoint_path(dir);
    let bytes = match disk.read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(LedgerError::io("read", &path)(error)),
    };
    let verified = std::str::from_utf8(&bytes).ok().and_then(|text| identity.verify(text));
    let (size, root) = verified.ok_or(LedgerError::WrongKey { file: path })?;
    Ok(Some(Published { size, root }))
}

type Files = Vec<(PathBuf, Vec<u8>)>;

/// What a step makes.
struct NewTiles {
    edge: Edge,
    bundle: Vec<u8>,
    files: Files,
}

pub(crate) struct Tail {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    reader: Arc<Reader>,
    identity: Identity,
    edge: Arc<Edge>,
    /// The entry bundle begun at the edge.
    bundle: Vec<u8>,
    /// Tiles are durable up to here; the checkpoint may be behind.
    published: Option<Published>,
    /// The edge when partial tiles were last written.
    partial_at: u64,
    /// Folders known to be durable, by this process.
    owned: HashSet<PathBuf>,
}

impl Tail {
    /// Goes on from the published checkpoint, or from the first entry when its tiles are missing or wrong.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        reader: Arc<Reader>,
        identity: Identity,
        published: Option<Published>,
    ) -> Result<Tail, LedgerError> {
        let mut tail = Tail {
            disk,
            dir: dir.to_owned(),
            reader,
            identity,
            edge: Arc::default(),
            bundle: Vec::new(),
            published,
            partial_at: 0,
            owned: HashSet::new(),
        };
        let Some(published) = published else { return Ok(tail) };
        match tail.load(published) {
            Ok(()) => {}
            Err(LedgerError::Tiles { what, file }) => {
                tracing::warn!(file = %file.display(), "{what}: tiles are written again from the segments");
            }
            Err(error) => return Err(error),
        }
        Ok(tail)
    }

    fn load(&mut self, published: Published) -> Result<(), LedgerError> {
        let edge = Edge::load(&*self.disk, &self.dir, published.size)?;
        if edge.root() != published.root {
            let file = checkpoint_path(&self.dir);
            return Err(LedgerError::Tiles {
                what: "the tiles do not have the root of the published checkpoint",
                file,
            });
        }
        // The bundle comes from the segments: they are the truth, and its beginning is written again with it.
        let begun = published.size - published.size % TILE_WIDTH as u64;
        let mut bundle = Vec::new();
        let mut hashes = Vec::new();
        self.reader.leaves(begun, published.size, |leaf| {
            push_entry(&mut bundle, leaf);
            hashes.push(leaf_hash(leaf));
        })?;
        if hashes != edge.partial(0) {
            let what = "the entries are not those of the published checkpoint";
            return Err(LedgerError::damaged(what, &checkpoint_path(&self.dir), 0));
        }
        (self.edge, self.bundle, self.partial_at) = (Arc::new(edge), bundle, published.size);
        Ok(())
    }

    /// Forgets the tiles: the next steps write all of them again.
    pub fn start_over(&mut self) {
        (self.edge, self.bundle, self.partial_at) = (Arc::default(), Vec::new(), 0);
    }

    /// The right edge of what has tiles.
    pub fn edge(&self) -> &Arc<Edge> {
        &self.edge
    }

    /// Size of the published checkpoint, as far as its tiles are there.
    pub fn published(&self) -> u64 {
        self.published.map_or(0, |published| published.size.min(self.edge.size()))
    }

    /// One step towards what is durable, which moves on meanwhile: each step publishes the checkpoint that it reaches,
    /// so that a proof waits for one step and not for the end of the load. `true` when that was the newest.
    pub fn step(&mut self) -> Result<bool, LedgerError> {
        let newest = self.reader.durable();
        let target = self.reader.within(&newest, self.edge.size(), STEP_ENTRIES_MAX)?;
        let mut to = target.size;
        if let Some(published) = self.published.filter(|published| published.size > self.edge.size()) {
            // Writing tiles again: stop where the published root can be compared.
            to = to.min(published.size);
        }
        let is_end = to == target.size;
        let new = self.tiles_to(to, is_end)?;
        let root = new.edge.root();
        let fits = |published: Published| published.size != to || published.root == root;
        if !self.published.is_none_or(fits) {
            let what = "the entries are not those of the published checkpoint";
            return Err(LedgerError::damaged(what, &checkpoint_path(&self.dir), 0));
        }
        let is_news = is_end && self.published.is_none_or(|published| published.size < to);
        let checkpoint = if is_news { Some(self.checkpoint(&target, &root)?) } else { None };
        self.put(&new.files, checkpoint.as_slice())?;
        let before = std::mem::replace(&mut self.edge, Arc::new(new.edge));
        self.bundle = new.bundle;
        if is_end {
            self.partial_at = to;
        }
        if is_news {
            self.published = Some(Published { size: to, root });
        }
        self.remove_partials(&before)?;
        Ok(is_end && to == newest.size)
    }

    /// What is to be written so that there are tiles up to `to`.
    fn tiles_to(&self, to: u64, is_end: bool) -> Result<NewTiles, LedgerError> {
        let mut edge = (*self.edge).clone();
        let mut bundle = self.bundle.clone();
        let mut files: Files = Vec::new();
        let mut number = edge.size() / TILE_WIDTH as u64;
        let dir = &self.dir;
        self.reader.leaves(edge.size(), to, |leaf| {
            push_entry(&mut bundle, leaf);
            edge.push(leaf_hash(leaf), |level, tile, hashes| {
                files.push((dir.join(tile_path(level, tile, TILE_WIDTH)), tile_bytes(hashes)));
                if level == 0 {
                    files.push((dir.join(bundle_path(number, TILE_WIDTH)), std::mem::take(&mut bundle)));
                    number += 1;
                }
            });
        })?;
        if is_end {
            self.add_partials(&edge, &bundle, &mut files);
        }
        Ok(NewTiles { edge, bundle, files })
    }

    /// The incomplete tiles that changed since they were last written.
    fn add_partials(&self, edge: &Edge, bundle: &[u8], files: &mut Files) {
        for level in 0..edge.levels() {
            let shift = 8 * level as u32;
            let (hashes, tile) = (edge.size() >> shift, edge.partial(level));
            if tile.is_empty() || (self.partial_at >> shift) == hashes {
                continue;
            }
            let number = hashes / TILE_WIDTH as u64;
            files.push((self.dir.join(tile_path(level, number, tile.len())), tile_bytes(tile)));
            if level == 0 {
                files.push((self.dir.join(bundle_path(number, tile.len())), bundle.to_vec()));
            }
        }
    }

    /// tlog-tiles: partial tiles may go when the full tile is there.
    fn remove_partials(&self, before: &Edge) -> Result<(), LedgerError> {
        for level in 0..before.levels() {
            let shift = 8 * (level as u32 + 1);
            let number = before.size() >> shift;
            if before.partial(level).is_empty() || number == self.edge.size() >> shift {
                continue;
            }
            let mut partials = vec![tile_path(level, number, TILE_WIDTH)];
            if level == 0 {
                partials.push(bundle_path(number, TILE_WIDTH));
            }
            for name in partials {
                let folder = self.dir.join(name + ".p");
                self.disk.remove(&folder).map_err(LedgerError::io("remove", &folder))?;
            }
        }
        Ok(())
    }

    /// The file of the checkpoint, when it is signed over this root.
    fn checkpoint(&self, target: &Durable, root: &Hash) -> Result<(PathBuf, Vec<u8>), LedgerError> {
        let path = checkpoint_path(&self.dir);
        if self.identity.verify(&target.note) != Some((target.size, *root)) {
            return Err(LedgerError::damaged(
                "the entries do not have the root that was signed when they were acknowledged",
                &path,
                0,
            ));
        }
        Ok((path, target.note.as_bytes().to_vec()))
    }

    /// The checkpoint is put in place when all its tiles are durable.
    fn put(&mut self, tiles: &Files, checkpoint: &[(PathBuf, Vec<u8>)]) -> Result<(), LedgerError> {
        let Some((place, _)) = tiles.iter().chain(checkpoint).next() else { return Ok(()) };
        for folder in tiles.iter().filter_map(|(path, _)| path.parent()) {
            self.own(folder)?;
        }
        self.disk.publish_in_turn(&[tiles, checkpoint]).map_err(LedgerError::io("write", place))
    }

    /// Makes a folder that is there already durable, and those above it: the process that made it may have died before
    /// it did.
    fn own(&mut self, folder: &Path) -> Result<(), LedgerError> {
        if folder == self.dir || self.owned.contains(folder) {
            return Ok(());
        }
        let above = disk::parent(folder);
        self.own(above)?;
        if self.disk.is_folder(folder).map_err(LedgerError::io("read", folder))? {
            self.disk.sync_folder(above).map_err(LedgerError::io("sync", above))?;
        }
        if self.owned.len() >= OWNED_MAX {
            self.owned.clear();
        }
        self.owned.insert(folder.to_owned());
        Ok(())
    }
}

/// tlog-tiles: each entry with its length as a big-endian 16-bit number before it.
fn push_entry(bundle: &mut Vec<u8>, leaf: &[u8]) {
    bundle.extend_from_slice(&(leaf.len() as u16).to_be_bytes());
    bundle.extend_from_slice(leaf);
}
