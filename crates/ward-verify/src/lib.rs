//! Verifies a log of Wardmesh from its files alone: no keys, no network, no code shared with the writer. Written from
//! docs/log-format.md, RFC 6962, C2SP tlog-tiles, tlog-checkpoint and signed-note.
//!
//! [`verify`] reads the segments once, in order, and holds at most one tile per level, one entry bundle and small
//! buffers. It computes every hash itself and compares: frames with their chain, parts with their leaves, leaves with
//! entry bundles and tiles, the tree with each checkpoint.
//!
//! - `note`: verifier keys and signed checkpoints. `tree`: the Merkle tree.
//! - `segments`: frames. `tiles`: tiles and bundles. `report`: what was found, in sentences and in JSON.

mod note;
mod report;
mod segments;
mod tiles;
mod tree;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use note::VerifierKey;
pub use report::{Finding, Outcome, Report};

use note::Checkpoint;
use segments::Walk;
use tiles::Tiles;
use tree::{Hash, Tree};

/// What to verify against.
pub struct Options {
    /// The log's verifier key, from somewhere else than the log's folder.
    pub key: VerifierKey,
    /// Checkpoints kept outside: a name for the report, and the note.
    pub checkpoints: Vec<(String, String)>,
}

/// Why verification stopped.
pub(crate) enum Stop {
    Tampered(Finding),
    Unreadable(Finding),
}

impl Stop {
    pub fn tampered(what: impl Into<String>, file: &Path, offset: Option<u64>) -> Stop {
        Stop::Tampered(Finding { what: what.into(), file: file.to_owned(), offset })
    }

    /// A file that must be there and is not is tampering; one that cannot be read is not known to be.
    pub fn io(file: &Path) -> impl FnOnce(io::Error) -> Stop + '_ {
        move |error| match error.kind() {
            io::ErrorKind::NotFound => Stop::tampered("the file is missing", file, None),
            io::ErrorKind::UnexpectedEof => Stop::tampered("the file is cut off", file, None),
            _ => Stop::Unreadable(Finding {
                what: format!("cannot be read: {error}"),
                file: file.to_owned(),
                offset: None,
            }),
        }
    }
}

/// A root that the tree must have at some size, and where that is said.
struct Wanted {
    root: Hash,
    file: PathBuf,
    /// The name of an outside checkpoint.
    outside: Option<String>,
}

/// Verifies the log in `dir`. Never fails otherwise than by its report.
pub fn verify(dir: &Path, options: &Options) -> Report {
    let mut report = Report::new(dir, &options.key.name);
    report.outcome = match run(dir, options, &mut report) {
        Ok(()) => Outcome::Whole,
        Err(Stop::Tampered(finding)) => Outcome::Tampered(finding),
        Err(Stop::Unreadable(finding)) => Outcome::Unreadable(finding),
    };
    report
}

fn run(dir: &Path, options: &Options, report: &mut Report) -> Result<(), Stop> {
    let checkpoint_file = dir.join("checkpoint");
    if !checkpoint_file.exists() && !dir.join("wal").exists() {
        let what = "is not the folder of a log: it has neither `checkpoint` nor `wal`".to_owned();
        return Err(Stop::Unreadable(Finding { what, file: dir.to_owned(), offset: None }));
    }
    // The checkpoint first: what it names was durable before it, also when the log is being written now.
    let published = read_published(&checkpoint_file, &options.key)?;
    report.origin = published.origin.clone();
    report.published = Some(published.size);
    let mut wanted: BTreeMap<u64, Vec<Wanted>> = BTreeMap::new();
    let published_root = Wanted { root: published.root, file: checkpoint_file.clone(), outside: None };
    wanted.entry(published.size).or_default().push(published_root);
    for (name, text) in &options.checkpoints {
        let outside = read_outside(name, text, &options.key, &published.origin)?;
        let root = Wanted { root: outside.root, file: PathBuf::from(name), outside: Some(name.clone()) };
        wanted.entry(outside.size).or_default().push(root);
    }

    let mut log = LogCheck { wanted, tree: Tree::default(), tiles: Tiles::new(dir, published.size), report };
    log.check_size()?;
    let mut walk = Walk::new(dir, &options.key, &published.origin);
    walk.run(&mut log)?;
    log.tiles.finish(&mut log.report.notes)?;
    let tree = &log.tree;
    (log.report.size, log.report.root) = (tree.size(), tree.root());
    if let Some((size, missing)) = log.wanted.into_iter().next() {
        let end = tree.size();
        let what = format!("the log has {end} entries, this checkpoint names {size}: entries were removed");
        let file = missing.first().map_or(checkpoint_file, |wanted| wanted.file.clone());
        return Err(Stop::tampered(what, &file, None));
    }
    Ok(())
}

fn read_published(file: &Path, key: &VerifierKey) -> Result<Checkpoint, Stop> {
    let bytes = fs::read(file).map_err(Stop::io(file))?;
    let text = String::from_utf8(bytes).map_err(|_| Stop::tampered("the checkpoint is not text", file, None))?;
    key.open(&text).ok_or_else(|| {
        Stop::tampered("the checkpoint is not signed by the given key (or the key is another log's)", file, None)
    })
}

fn read_outside(name: &str, text: &str, key: &VerifierKey, origin: &str) -> Result<Checkpoint, Stop> {
    let file = Path::new(name);
    let Some(checkpoint) = key.open(text) else {
        let what = "is not a checkpoint signed by the given key".to_owned();
        return Err(Stop::Unreadable(Finding { what, file: file.to_owned(), offset: None }));
    };
    if checkpoint.origin != origin {
        let what = format!("the outside checkpoint is of `{}`, the folder holds `{origin}`", checkpoint.origin);
        return Err(Stop::tampered(what, file, None));
    }
    Ok(checkpoint)
}

/// Takes the entries in order and compares the growing tree with tiles and checkpoints.
pub(crate) struct LogCheck<'a> {
    wanted: BTreeMap<u64, Vec<Wanted>>,
    pub tree: Tree,
    tiles: Tiles,
    pub report: &'a mut Report,
}

impl LogCheck<'_> {
    pub fn leaf(&mut self, data: &[u8]) -> Result<(), Stop> {
        let hash = tree::leaf_hash(data);
        self.tree.push(hash);
        self.tiles.push(data, hash, &mut self.report.notes)?;
        self.check_size()
    }

    /// Compares the root with each checkpoint of this size.
    fn check_size(&mut self) -> Result<(), Stop> {
        let size = self.tree.size();
        if self.wanted.first_key_value().is_none_or(|(next, _)| *next != size) {
            return Ok(());
        }
        let root = self.tree.root();
        for wanted in self.wanted.remove(&size).unwrap_or_default() {
            if wanted.root != root {
                let what = match wanted.outside {
                    Some(_) => format!(
                        "the log's first {size} entries are not those of this outside checkpoint: history was rewritten"
                    ),
                    None => format!("the log's first {size} entries do not have the root in the published checkpoint"),
                };
                return Err(Stop::tampered(what, &wanted.file, None));
            }
            if let Some(name) = wanted.outside {
                self.report.outside.push((name, size));
            }
        }
        Ok(())
    }
}
