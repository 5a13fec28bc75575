//! One record, or two checkpoints, proved from the published tiles and bundles (C2SP tlog-tiles) or from a proof alone.
//! Never reads the segments: that the rest of a log is unchanged is [`crate::verify`]'s matter.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::note::Checkpoint;
use crate::proof::{self, Proof};
use crate::report::{Claim, Fact};
use crate::source::{self, Source};
use crate::tiles::{TILE_BYTES_MAX, WIDTH, numbered, partials};
use crate::tree::{Hash, leaf_hash, node_hash};
use crate::{Kept, Options, Stop, open_outside, read_published, unreadable};

/// Which record is meant: by its index, by what it holds, or both.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    pub index: Option<u64>,
    /// The leaf data; or its leaf hash (as bytes, hex or base64); or the bytes of one of its parts.
    pub bytes: Option<Vec<u8>>,
}

/// The tiles and bundles of a log up to its published size.
struct Tiles<'a> {
    source: &'a dyn Source,
    dir: PathBuf,
    size: u64,
    read: BTreeMap<(u32, u64), Vec<u8>>,
}

impl<'a> Tiles<'a> {
    fn new(source: &'a dyn Source, dir: &Path, size: u64) -> Self {
        Tiles { source, dir: dir.join("tile"), size, read: BTreeMap::new() }
    }

    /// A tile's or bundle's bytes: the full one, or the partial one of the published size.
    fn file(&self, kind: &str, number: u64, hashes: u64) -> Result<Vec<u8>, Stop> {
        let stem = self.dir.join(kind).join(numbered(number));
        let width = hashes.saturating_sub(number * WIDTH as u64).min(WIDTH as u64);
        let partial = partials(&stem).join(width.to_string());
        for path in [&stem, &partial] {
            match source::read(self.source, path, TILE_BYTES_MAX) {
                Ok(Some(bytes)) => return Ok(bytes),
                Ok(None) => return Err(Stop::tampered("the tile is longer than any can be", path, None)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Stop::io(path)(error)),
            }
        }
        Err(Stop::tampered("a tile that the published checkpoint needs is missing", &stem, None))
    }

    /// The root of a complete subtree.
    fn node(&mut self, height: u32, number: u64) -> Result<Hash, Stop> {
        let level = height / 8;
        let first = number << (height % 8);
        let (tile, at) = (first / WIDTH as u64, (first % WIDTH as u64) as usize);
        if !self.read.contains_key(&(level, tile)) {
            let bytes = self.file(&level.to_string(), tile, self.size >> (8 * level))?;
            self.read.insert((level, tile), bytes);
        }
        let hashes = self.read[&(level, tile)].as_chunks::<32>().0;
        let Some(mut row) = hashes.get(at..at + (1 << (height % 8))).map(<[Hash]>::to_vec) else {
            let stem = self.dir.join(level.to_string()).join(numbered(tile));
            return Err(Stop::tampered("the tile is too short", &stem, None));
        };
        while row.len() > 1 {
            row = row.as_chunks::<2>().0.iter().map(|[left, right]| node_hash(left, right)).collect();
        }
        Ok(row[0])
    }

    /// The entries of a bundle.
    fn bundle(&self, number: u64) -> Result<Vec<Vec<u8>>, Stop> {
        let bytes = self.file("entries", number, self.size)?;
        let (mut rest, mut entries) = (&bytes[..], Vec::new());
        while let [high, low, after @ ..] = rest {
            let n = usize::from(*high) << 8 | usize::from(*low);
            let Some((entry, left)) = after.split_at_checked(n) else { break };
            entries.push(entry.to_vec());
            rest = left;
        }
        if rest.is_empty() {
            return Ok(entries);
        }
        let stem = self.dir.join("entries").join(numbered(number));
        Err(Stop::tampered("the bundle is cut off inside an entry", &stem, None))
    }

    fn entry(&self, index: u64) -> Result<Vec<u8>, Stop> {
        let number = index / WIDTH as u64;
        let entries = self.bundle(number)?;
        let stem = self.dir.join("entries").join(numbered(number));
        let at = (index % WIDTH as u64) as usize;
        entries.into_iter().nth(at).ok_or_else(|| Stop::tampered("the bundle is too short", &stem, None))
    }

    /// The first entry that is what was asked for.
    fn find(&self, wanted: &Wanted) -> Result<Option<(u64, Vec<u8>)>, Stop> {
        for number in 0..self.size.div_ceil(WIDTH as u64) {
            let left = (self.size - number * WIDTH as u64) as usize;
            let found = self.bundle(number)?.into_iter().take(left).enumerate().find(|(_, leaf)| wanted.fits(leaf));
            if let Some((at, leaf)) = found {
                return Ok(Some((number * WIDTH as u64 + at as u64, leaf)));
            }
        }
        Ok(None)
    }
}

/// The hashes that bytes may stand for.
struct Wanted {
    leaf: Hash,
    named: Option<Hash>,
    part: Hash,
}

impl Wanted {
    fn new(bytes: &[u8]) -> Wanted {
        Wanted { leaf: leaf_hash(bytes), named: named_hash(bytes), part: Sha256::digest(bytes).into() }
    }

    /// How a leaf is what was asked for.
    fn how(&self, leaf: &[u8]) -> Option<&'static str> {
        let hash = leaf_hash(leaf);
        if hash == self.leaf {
            return Some("the given record is its leaf data");
        }
        if self.named == Some(hash) {
            return Some("the given record is its leaf hash");
        }
        let mut parts = leaf.get(11..).unwrap_or_default().chunks_exact(36);
        parts.any(|part| part[4..] == self.part).then_some("the given record is one of its sealed parts")
    }

    fn fits(&self, leaf: &[u8]) -> bool {
        self.how(leaf).is_some()
    }
}

/// A leaf hash as bytes, hex or base64.
fn named_hash(bytes: &[u8]) -> Option<Hash> {
    if let Ok(hash) = bytes.try_into() {
        return Some(hash);
    }
    let text = std::str::from_utf8(bytes).ok()?.trim();
    if text.len() == 64 && text.is_ascii() {
        let digits = (0..32).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok());
        return digits.collect::<Option<Vec<u8>>>()?.try_into().ok();
    }
    STANDARD.decode(text).ok()?.try_into().ok()
}

/// Milliseconds since 1970 in a leaf, if it has the form of one.
fn appended_at(leaf: &[u8]) -> Option<i64> {
    Some(i64::from_be_bytes(leaf.get(1..9).filter(|_| leaf[0] == 1)?.try_into().ok()?))
}

/// Proves that a record is in the log of `dir`, against its published checkpoint and those kept outside.
pub fn record(source: &dyn Source, dir: &Path, ask: &Ask, options: &Options) -> Claim {
    Claim::from(prove_record(source, dir, ask, options))
}

fn prove_record(source: &dyn Source, dir: &Path, ask: &Ask, options: &Options) -> Result<Claim, Stop> {
    let (note, published) = read_published(source, &dir.join("checkpoint"), options)?;
    let mut claim = Claim::default();
    let mut tiles = Tiles::new(source, dir, published.size);
    let wanted = ask.bytes.as_deref().map(Wanted::new);
    let size = published.size;
    let found = match (ask.index, &wanted) {
        (Some(index), _) if index < size => Some((index, tiles.entry(index)?)),
        (None, Some(wanted)) => tiles.find(wanted)?,
        _ => None,
    };
    let Some((index, leaf)) = found else {
        let what = format!("there is no such record among the {size} entries of the published checkpoint");
        return Err(unreadable(what, dir));
    };
    let how = wanted.as_ref().map(|wanted| wanted.how(&leaf));
    if how == Some(None) {
        return Err(Stop::tampered(format!("entry {index} of the log is not the given record"), dir, None));
    }

    let against = open_outside(options, &published, &mut claim.notes)?;
    let mut all: Vec<(&str, &str, Checkpoint)> = against
        .into_iter()
        .filter(|(_, checkpoint)| checkpoint.size > index)
        .map(|(kept, checkpoint)| (kept.name.as_str(), kept.text.as_str(), checkpoint))
        .collect();
    all.sort_by_key(|(_, _, checkpoint)| std::cmp::Reverse(checkpoint.size));
    let newest = all.first().map(|(name, ..)| format!("the outside checkpoint `{name}`"));
    all.push(("the published checkpoint", &note, published.clone()));
    for (name, text, checkpoint) in &all {
        if checkpoint.size > size {
            let what =
                format!("the log has {size} entries, this checkpoint names {}: entries were removed", checkpoint.size);
            return Err(Stop::tampered(what, Path::new(name), None));
        }
        let path = proof::inclusion(index, checkpoint.size, &mut |height, number| tiles.node(height, number))?;
        if !proof::includes(&leaf_hash(&leaf), index, checkpoint.size, &path, &checkpoint.root) {
            let what = format!("entry {index} and the tiles do not lead to the root in {name}");
            return Err(Stop::tampered(what, dir, None));
        }
        if claim.proof.is_none() {
            let proof = Proof::Inclusion { extra: Some(leaf.clone()), index, path, checkpoint: (*text).to_owned() };
            claim.proof = Some(proof.text());
        }
    }
    let against = &all[0].2;
    claim.say_included(index, &leaf, how.flatten(), against, newest.as_deref());
    claim.unproved.push_str("; that the other entries are unchanged: verify the whole log for that");
    Ok(claim)
}

impl Claim {
    fn say_included(
        &mut self,
        index: u64,
        leaf: &[u8],
        how: Option<&str>,
        against: &Checkpoint,
        outside: Option<&str>,
    ) {
        let named = outside.unwrap_or("the log's own checkpoint");
        let size = against.size;
        let _ = write!(
            self.proved,
            "entry {index} of `{}` is among the first {size} entries that {named} fixes, signed by {}",
            against.origin,
            against.signers.join(", ")
        );
        if let Some(how) = how {
            let _ = write!(self.proved, "; {how}");
        }
        self.unproved.push_str(match outside {
            Some(_) => "what the sealed bytes mean",
            None => "that the operator, who holds the signing key, shows everybody this history: no checkpoint kept by somebody else covers the entry",
        });
        self.facts.extend([
            ("origin", Fact::Text(against.origin.clone())),
            ("index", Fact::Number(index)),
            ("leaf_hash", Fact::Text(STANDARD.encode(leaf_hash(leaf)))),
            ("size", Fact::Number(size)),
            ("root", Fact::Text(STANDARD.encode(against.root))),
        ]);
        if let Some(at) = appended_at(leaf) {
            self.facts.push(("appended_at_ms", Fact::Text(at.to_string())));
        }
    }
}

/// Checks a proof that stands alone: of inclusion (C2SP tlog-proof), or of consistency with `old`.
pub fn proof(name: &str, text: &str, ask: &Ask, old: Option<&Kept>, options: &Options) -> Claim {
    Claim::from(match Proof::parse(text) {
        Err(why) => Err(unreadable(format!("is not a proof: {why}"), Path::new(name))),
        Ok(Proof::Inclusion { extra, index, path, checkpoint }) => {
            check_inclusion(name, (extra, index, &path, &checkpoint), ask, options)
        }
        Ok(Proof::Consistency { old: size, path, checkpoint }) => {
            check_consistency(name, size, &path, &checkpoint, old, options)
        }
    })
}

fn check_inclusion(
    name: &str,
    (extra, index, path, note): (Option<Vec<u8>>, u64, &[Hash], &str),
    ask: &Ask,
    options: &Options,
) -> Result<Claim, Stop> {
    let file = Path::new(name);
    let refuted = |what: String| Err(Stop::tampered(what, file, None));
    let checkpoint = options.open(note).map_err(|refused| Stop::tampered(refused, file, None))?;
    if ask.index.is_some_and(|asked| asked != index) {
        return refuted(format!("the proof is about entry {index}"));
    }
    let given = ask.bytes.as_deref();
    // The extra of a proof is not to be trusted for itself: it is used as leaf data, whose hash the path proves.
    let (hash, leaf, how) = match (given, extra) {
        (Some(given), Some(leaf)) => {
            let Some(how) = Wanted::new(given).how(&leaf) else {
                return refuted("the given record is not the one that the proof is about".to_owned());
            };
            (leaf_hash(&leaf), leaf, Some(how))
        }
        (Some(given), None) => (named_hash(given).unwrap_or_else(|| leaf_hash(given)), given.to_vec(), None),
        (None, Some(leaf)) => (leaf_hash(&leaf), leaf, None),
        (None, None) => return Err(unreadable("the proof holds no record: give it with --record".to_owned(), file)),
    };
    if !proof::includes(&hash, index, checkpoint.size, path, &checkpoint.root) {
        return refuted("the record and the path do not lead to the root in the proof's checkpoint".to_owned());
    }
    let mut claim = Claim::default();
    let same = same_as_outside(name, &checkpoint, options, &mut claim.notes)?;
    claim.say_included(index, &leaf, how, &checkpoint, same.as_deref());
    Ok(claim)
}

/// The outside checkpoint that is the proof's own; one of the same size with another root shows two histories.
fn same_as_outside(
    name: &str,
    checkpoint: &Checkpoint,
    options: &Options,
    notes: &mut Vec<String>,
) -> Result<Option<String>, Stop> {
    let mut same = None;
    for (kept, outside) in open_outside(options, checkpoint, notes)? {
        if outside.size != checkpoint.size {
            notes.push(format!(
                "the outside checkpoint `{}` is of another size and says nothing of this proof",
                kept.name
            ));
        } else if outside.root == checkpoint.root {
            same = Some(format!("the outside checkpoint `{}`", kept.name));
        } else {
            let what =
                format!("its checkpoint and the outside checkpoint `{}` are two histories of one log", kept.name);
            return Err(Stop::tampered(what, Path::new(name), None));
        }
    }
    Ok(same)
}

fn check_consistency(
    name: &str,
    size: u64,
    path: &[Hash],
    note: &str,
    old: Option<&Kept>,
    options: &Options,
) -> Result<Claim, Stop> {
    let file = Path::new(name);
    let new = options.open(note).map_err(|refused| Stop::tampered(refused, file, None))?;
    let Some(kept) = old else {
        return Err(unreadable("give the checkpoint that it begins at with --old".to_owned(), file));
    };
    let old = open_kept(kept, &new, options)?;
    if old.size != size {
        let what = format!("the proof begins at {size} entries, `{}` has {}", kept.name, old.size);
        return Err(unreadable(what, file));
    }
    if !proof::extends(old.size, &old.root, new.size, &new.root, path) {
        let what = format!("it does not lead from `{}` to its checkpoint", kept.name);
        return Err(Stop::tampered(what, file, None));
    }
    Ok(consistent((&kept.name, &old), ("the proof's checkpoint", &new), Vec::new()))
}

/// Proves with the tiles of `dir` that the log only grew from one checkpoint to another (or to the published one).
pub fn consistency(source: &dyn Source, dir: &Path, old: &Kept, new: Option<&Kept>, options: &Options) -> Claim {
    Claim::from(prove_consistency(source, dir, old, new, options))
}

fn prove_consistency(
    source: &dyn Source,
    dir: &Path,
    kept: &Kept,
    newer: Option<&Kept>,
    options: &Options,
) -> Result<Claim, Stop> {
    let (note, published) = read_published(source, &dir.join("checkpoint"), options)?;
    let old = open_kept(kept, &published, options)?;
    let (name, note, new) = match newer {
        Some(newer) => (newer.name.as_str(), newer.text.as_str(), open_kept(newer, &published, options)?),
        None => ("the published checkpoint", note.as_str(), published.clone()),
    };
    if new.size > published.size || old.size > published.size {
        let (size, most) = (published.size, new.size.max(old.size));
        let what = format!("the log has {size} entries, a checkpoint names {most}: entries were removed");
        return Err(Stop::tampered(what, dir, None));
    }
    if old.size > new.size {
        let what = format!("has {} entries, `{name}` only {}: give them the other way round", old.size, new.size);
        return Err(unreadable(what, Path::new(&kept.name)));
    }
    let mut tiles = Tiles::new(source, dir, published.size);
    let path = proof::consistency(old.size, new.size, &mut |height, number| tiles.node(height, number))?;
    if !proof::extends(old.size, &old.root, new.size, &new.root, &path) {
        let what = format!("`{}` and {name} are not of one growing history, or the tiles are not theirs", kept.name);
        return Err(Stop::tampered(what, dir, None));
    }
    let mut claim = consistent((&kept.name, &old), (name, &new), Vec::new());
    claim.proof = Some(Proof::Consistency { old: old.size, path, checkpoint: note.to_owned() }.text());
    Ok(claim)
}

fn open_kept(kept: &Kept, of: &Checkpoint, options: &Options) -> Result<Checkpoint, Stop> {
    let file = Path::new(&kept.name);
    let checkpoint = options.open(&kept.text).map_err(|refused| unreadable(refused, file))?;
    if checkpoint.origin == of.origin {
        return Ok(checkpoint);
    }
    let what = format!("the checkpoint is of `{}`, the other one of `{}`", checkpoint.origin, of.origin);
    Err(Stop::tampered(what, file, None))
}

fn consistent(old: (&str, &Checkpoint), new: (&str, &Checkpoint), notes: Vec<String>) -> Claim {
    let (from, to) = (old.1.size, new.1.size);
    Claim {
        proved: format!(
            "the first {from} entries of `{}` are the same in `{}` and in {} of {to} entries: it only grew",
            new.1.origin, old.0, new.0
        ),
        unproved:
            "what the entries hold; and that nobody was shown another history: that needs checkpoints that others keep"
                .to_owned(),
        facts: vec![
            ("origin", Fact::Text(new.1.origin.clone())),
            ("old_size", Fact::Number(from)),
            ("size", Fact::Number(to)),
            ("root", Fact::Text(STANDARD.encode(new.1.root))),
        ],
        notes,
        ..Claim::default()
    }
}
