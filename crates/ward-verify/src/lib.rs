//! Verifies a log of Wardmesh from its files alone: no keys, no network, no code shared with the writer. Written from
//! docs/log-format.md, RFC 6962, C2SP tlog-tiles, tlog-checkpoint and signed-note.
//!
//! [`verify`] reads the segments once, in order, and holds at most one frame, one tile per level and one entry bundle.
//! It computes every hash itself and compares: frames with their chain, parts with their leaves, leaves with entry bundles
//! and tiles, the tree with each checkpoint. [`record`], [`consistency`] and [`proof`] answer smaller questions from tiles
//! or from a proof alone.
//!
//! - `source`: where files are read from. `note`: verifier keys and signed checkpoints. `tree`: the Merkle tree.
//! - `segments`: frames. `tiles`: tiles and bundles. `proof`: Merkle proofs. `record`: one record, two checkpoints.
//! - `report`: what was found, in sentences and in JSON.

mod note;
mod proof;
mod record;
mod report;
mod segments;
mod source;
mod tiles;
mod tree;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

pub use note::{Checkpoint, Keys, VerifierKey};
pub use record::{Ask, consistency, proof, record};
pub use report::{Claim, Fact, Finding, Outcome, Report};
pub use source::{Blob, Disk, Memory, Source};

use note::NOTE_BYTES_MAX;
use segments::Walk;
use tiles::Tiles;
use tree::{Hash, Tree};

/// What to verify against.
#[derive(Debug, Clone)]
pub struct Options {
    /// The log's verifier keys, from somewhere else than the log's folder.
    pub keys: Keys,
    /// The origin that the log must have.
    pub origin: Option<String>,
    /// Checkpoints kept outside.
    pub outside: Vec<Kept>,
}

/// A checkpoint that somebody outside kept.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Its file, for the report.
    pub name: String,
    /// The signed note.
    pub text: String,
    /// It comes from a folder of many, where those of other logs are passed over.
    pub is_from_folder: bool,
}

impl Options {
    /// Against the keys alone.
    pub fn new(keys: impl Into<Keys>) -> Options {
        Options { keys: keys.into(), origin: None, outside: Vec::new() }
    }

    /// With one more outside checkpoint, which must be of this log.
    #[must_use]
    pub fn and(mut self, name: &str, text: &str) -> Options {
        self.outside.push(Kept { name: name.to_owned(), text: text.to_owned(), is_from_folder: false });
        self
    }

    /// A checkpoint that is signed, and of the log that is meant.
    fn open(&self, note: &str) -> Result<Checkpoint, String> {
        let checkpoint = self.keys.open(note).map_err(|refused| refused.to_string())?;
        match &self.origin {
            Some(origin) if *origin != checkpoint.origin => {
                Err(format!("the checkpoint is of the log `{}`, not of `{origin}`", checkpoint.origin))
            }
            _ => Ok(checkpoint),
        }
    }
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
            _ => unreadable(format!("cannot be read: {error}"), file),
        }
    }
}

impl From<Stop> for Outcome {
    fn from(stop: Stop) -> Outcome {
        match stop {
            Stop::Tampered(finding) => Outcome::Tampered(finding),
            Stop::Unreadable(finding) => Outcome::Unreadable(finding),
        }
    }
}

fn unreadable(what: impl Into<String>, file: &Path) -> Stop {
    Stop::Unreadable(Finding { what: what.into(), file: file.to_owned(), offset: None })
}

/// A root that the tree must have at some size, and where that is said.
struct Wanted {
    root: Hash,
    file: PathBuf,
    /// The name of an outside checkpoint.
    outside: Option<String>,
}

/// Verifies the log in a folder of this machine. Never fails otherwise than by its report.
pub fn verify(dir: &Path, options: &Options) -> Report {
    verify_in(&Disk, dir, options)
}

/// Verifies the log in `dir` of any source of files.
pub fn verify_in(source: &dyn Source, dir: &Path, options: &Options) -> Report {
    let mut report = Report::new(dir, options.keys.name());
    report.outcome = run(source, dir, options, &mut report).map_or_else(Outcome::from, |()| Outcome::Whole);
    report
}

fn run(source: &dyn Source, dir: &Path, options: &Options, report: &mut Report) -> Result<(), Stop> {
    let checkpoint_file = dir.join("checkpoint");
    // The checkpoint first: what it names was durable before it, also when the log is being written now.
    let (_, published) = read_published(source, &checkpoint_file, options)?;
    report.origin = published.origin.clone();
    report.signers = published.signers.clone();
    report.published = Some(published.size);
    let mut wanted: BTreeMap<u64, Vec<Wanted>> = BTreeMap::new();
    let published_root = Wanted { root: published.root, file: checkpoint_file.clone(), outside: None };
    wanted.entry(published.size).or_default().push(published_root);
    for (kept, outside) in open_outside(options, &published, &mut report.notes)? {
        let root = Wanted { root: outside.root, file: PathBuf::from(&kept.name), outside: Some(kept.name.clone()) };
        wanted.entry(outside.size).or_default().push(root);
    }
    if options.origin.is_none() && published.origin != options.keys.name() {
        let (origin, key) = (&published.origin, options.keys.name());
        report.notes.push(format!(
            "the log calls itself `{origin}`, its key `{key}`: make sure that this log is meant (--origin)"
        ));
    }

    let mut log = LogCheck { wanted, tree: Tree::default(), tiles: Tiles::new(source, dir, published.size), report };
    log.check_size()?;
    let mut walk = Walk::new(source, dir, &options.keys, &published.origin);
    walk.run(&mut log)?;
    log.tiles.finish(log.tree.size(), &mut log.report.notes)?;
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

/// The published checkpoint and its note.
fn read_published(source: &dyn Source, file: &Path, options: &Options) -> Result<(String, Checkpoint), Stop> {
    let dir = file.parent().unwrap_or(file);
    let bytes = match source::read(source, file, NOTE_BYTES_MAX) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Err(Stop::tampered("the checkpoint is longer than any can be", file, None)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parts = [dir.join("wal"), dir.join("tile")];
            let is_log = parts.iter().any(|part| source.list(part).is_ok_and(|names| !names.is_empty()));
            return Err(match is_log {
                true => Stop::tampered("the file is missing", file, None),
                false => unreadable("is not the folder of a log: it has neither `checkpoint` nor `wal`", dir),
            });
        }
        Err(error) => return Err(Stop::io(file)(error)),
    };
    let text = String::from_utf8(bytes).map_err(|_| Stop::tampered("the checkpoint is not text", file, None))?;
    let checkpoint = options.open(&text).map_err(|refused| Stop::tampered(refused, file, None))?;
    Ok((text, checkpoint))
}

/// The outside checkpoints of the log that `of` is a checkpoint of.
fn open_outside<'o>(
    options: &'o Options,
    of: &Checkpoint,
    notes: &mut Vec<String>,
) -> Result<Vec<(&'o Kept, Checkpoint)>, Stop> {
    let mut found = Vec::new();
    let mut skipped = 0;
    for kept in &options.outside {
        let file = Path::new(&kept.name);
        let origin = note::parse_unsigned(&kept.text).map(|checkpoint| checkpoint.origin);
        if let Some(origin) = origin.filter(|origin| *origin != of.origin) {
            if kept.is_from_folder {
                notes.push(format!("`{}` is of another log, `{origin}`: not looked at", kept.name));
                skipped += 1;
                continue;
            }
            let what = format!("the outside checkpoint is of `{origin}`, the log is `{}`", of.origin);
            return Err(Stop::tampered(what, file, None));
        }
        let checkpoint = options.keys.open(&kept.text).map_err(|refused| unreadable(refused.to_string(), file))?;
        found.push((kept, checkpoint));
    }
    if found.is_empty() && skipped > 0 {
        let what = format!("none of the witnesses' checkpoints is of `{}`", of.origin);
        return Err(unreadable(what, Path::new(&options.outside[0].name)));
    }
    Ok(found)
}

/// Takes the entries in order and compares the growing tree with tiles and checkpoints.
pub(crate) struct LogCheck<'a> {
    wanted: BTreeMap<u64, Vec<Wanted>>,
    pub tree: Tree,
    tiles: Tiles<'a>,
    pub report: &'a mut Report,
}

impl LogCheck<'_> {
    pub fn leaf(&mut self, data: &[u8]) -> Result<(), Stop> {
        self.tiles.push(&mut self.tree, data, tree::leaf_hash(data), &mut self.report.notes)?;
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
