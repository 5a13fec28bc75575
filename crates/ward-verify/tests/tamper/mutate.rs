//! Changes a log at random, as an accident, a thief or an operator who knows the format would. One seed is one change.
//! Reads docs/log-format.md only; the suite's law 4 uses it for the logs of a node.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

/// The files of a log by their path in it.
pub type Files = BTreeMap<PathBuf, Arc<Vec<u8>>>;

pub const SEGMENT_HEADER: usize = 4_096;
const SECTOR: usize = 512;
const FRAME_HEADER: usize = 136;

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |all, byte| all << 8 | usize::from(*byte))
}

/// Begin, end without padding, and length of the checkpoint of each frame of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    pub at: usize,
    pub end: usize,
    pub note: usize,
}

impl Frame {
    /// Where the next frame begins.
    pub fn next(self) -> usize {
        self.end.next_multiple_of(SECTOR)
    }

    pub fn entries(self, segment: &[u8]) -> usize {
        number(&segment[self.at + 16..self.at + 20])
    }

    pub fn checkpoint(self, segment: &[u8]) -> &[u8] {
        &segment[self.end - self.note..self.end]
    }

    /// Where each entry begins, and where its leaf begins and ends.
    fn leaves(self, segment: &[u8]) -> Vec<(usize, usize, usize)> {
        let (mut at, mut found) = (self.at + FRAME_HEADER, Vec::new());
        for _ in 0..self.entries(segment) {
            let (slots, leaf) = (number(&segment[at..at + 4]), number(&segment[at + 4..at + 6]));
            let (begin, end) = (at + 6, at + 6 + leaf);
            found.push((at, begin, end));
            let parts: usize = segment[begin + 11..end].chunks_exact(36).map(|part| number(&part[..4])).sum();
            at = end + slots + parts;
        }
        found
    }
}

/// The frames of a segment, by the lengths in them.
pub fn frames(segment: &[u8]) -> Vec<Frame> {
    let (mut at, mut found) = (SEGMENT_HEADER, Vec::new());
    while segment.get(at..at + 8) == Some(b"WMFRAME1") {
        let (body, note) = (number(&segment[at + 8..at + 12]), number(&segment[at + 12..at + 16]));
        let frame = Frame { at, end: at + FRAME_HEADER + body, note };
        if frame.end > segment.len() {
            break;
        }
        found.push(frame);
        at = frame.next();
    }
    found
}

pub fn segments(files: &Files) -> Vec<PathBuf> {
    files.keys().filter(|name| name.starts_with("wal")).cloned().collect()
}

/// Gives a changed frame the hash of its new bytes, as somebody would who knows the format.
pub fn reseal(segment: &mut [u8], frame: Frame) {
    let at = frame.at;
    let body_hash = Sha256::digest(&segment[at + FRAME_HEADER..frame.end]);
    segment[at + 72..at + 104].copy_from_slice(&body_hash);
    let hash = Sha256::digest(&segment[at..at + 104]);
    segment[at + 104..at + FRAME_HEADER].copy_from_slice(&hash);
}

/// Puts every frame's and header's link to the one before it right, over all segments.
pub fn rechain(files: &mut Files) {
    let mut previous = [0; 32];
    for name in segments(files) {
        let segment = Arc::make_mut(files.get_mut(&name).expect("listed"));
        if segment.len() < SEGMENT_HEADER {
            return;
        }
        segment[40..72].copy_from_slice(&previous);
        let hash = Sha256::new().chain_update(&segment[..72]).chain_update(&segment[104..SEGMENT_HEADER]).finalize();
        segment[72..104].copy_from_slice(&hash);
        for frame in frames(segment) {
            segment[frame.at + 40..frame.at + 72].copy_from_slice(&previous);
            reseal(segment, frame);
            previous.copy_from_slice(&segment[frame.at + 104..frame.at + FRAME_HEADER]);
        }
    }
}

/// Leaf and parts of the first `size` entries: what a log says. Slots are replaced when keys are, and are not of it.
pub fn content(files: &Files, size: u64) -> Vec<&[u8]> {
    let mut found = Vec::new();
    for name in segments(files) {
        let segment = &files[&name][..];
        for frame in frames(segment) {
            if found.len() as u64 >= 2 * size {
                // What follows was never whole.
                return found;
            }
            let leaves = frame.leaves(segment);
            let ends = leaves.iter().skip(1).map(|leaf| leaf.0).chain([frame.end - frame.note]);
            for ((at, begin, end), next) in leaves.iter().zip(ends) {
                let slots = number(&segment[*at..at + 4]);
                found.extend([&segment[*begin..*end], &segment[end + slots..next]]);
            }
        }
    }
    found
}

/// The log as it was after one of its frames, with the checkpoint of that frame published: a perfect rollback, made of
/// nothing but the log itself.
pub fn roll_back(files: &Files, segment: &Path, frame: Frame) -> Files {
    let mut back: Files =
        files.iter().filter(|(name, _)| name.as_path() <= segment).map(|(n, b)| (n.clone(), b.clone())).collect();
    back.retain(|name, _| name.starts_with("wal"));
    let bytes = Arc::make_mut(back.get_mut(segment).expect("a segment"));
    let checkpoint = frame.checkpoint(bytes).to_vec();
    bytes.truncate(frame.next());
    let size = size_in(&checkpoint);
    back.insert("checkpoint".into(), Arc::new(checkpoint));
    for (name, bytes) in files.iter().filter(|(name, _)| name.starts_with("tile")) {
        let Some((kind, number, width)) = tile(name) else { continue };
        let level = kind.parse::<u32>().unwrap_or(0);
        let hashes = (size >> (8 * level)).saturating_sub(number * 256).min(256);
        if hashes == 0 || width < hashes {
            continue;
        }
        let cut = if kind == "entries" { bundle_end(bytes, hashes as usize) } else { hashes as usize * 32 };
        let stem = format!("tile/{kind}/{number:03}");
        let name = if hashes == 256 { stem } else { format!("{stem}.p/{hashes}") };
        back.insert(name.into(), Arc::new(bytes[..cut].to_vec()));
    }
    back
}

/// The size in a checkpoint.
pub fn size_in(checkpoint: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(checkpoint);
    text.lines().nth(1).and_then(|line| line.parse().ok()).unwrap_or(0)
}

/// Level or `entries`, number and width of a tile's path (of the first thousand tiles).
fn tile(name: &Path) -> Option<(String, u64, u64)> {
    let parts: Vec<&str> = name.iter().filter_map(|part| part.to_str()).collect();
    let [_, kind, rest @ ..] = &parts[..] else { return None };
    match rest {
        [number] => Some(((*kind).to_owned(), number.parse().ok()?, 256)),
        [folder, width] => Some(((*kind).to_owned(), folder.strip_suffix(".p")?.parse().ok()?, width.parse().ok()?)),
        _ => None,
    }
}

/// Where the first `n` entries of a bundle end.
fn bundle_end(bundle: &[u8], n: usize) -> usize {
    (0..n).fold(0, |at, _| at + 2 + bundle.get(at..at + 2).map_or(0, number))
}

/// One change of a log. `others` are other histories that pieces are taken from. `None` where what was picked does not
/// allow it.
pub fn tamper(random: &mut Random, files: &Files, others: &[&Files]) -> Option<(&'static str, Files)> {
    let mut changed = files.clone();
    let what = match random.below(10) {
        0..=3 => bytes(random, &mut changed),
        4 => whole_files(random, &mut changed, others),
        5..=6 => frame_changes(random, &mut changed),
        7 => knowing(random, &mut changed),
        8 => tiles_and_checkpoint(random, &mut changed, others),
        _ => histories(random, &mut changed, others),
    }?;
    (changed != *files).then_some((what, changed))
}

/// A file of each kind alike, not by their number.
fn some_file(random: &mut Random, files: &Files) -> Option<PathBuf> {
    let kind = *random.pick(&["wal", "wal", "tile/0", "tile/1", "tile/entries", "checkpoint"]);
    let names: Vec<&PathBuf> = files.keys().filter(|name| name.starts_with(kind)).collect();
    (!names.is_empty()).then(|| (*random.pick(&names)).clone())
}

/// Bytes of a file, blindly.
fn bytes(random: &mut Random, files: &mut Files) -> Option<&'static str> {
    let name = some_file(random, files)?;
    let bytes = Arc::make_mut(files.get_mut(&name)?);
    let len = bytes.len();
    let at = random.below(len);
    let unit = *random.pick(&[1, 32, SECTOR]);
    Some(match random.below(8) {
        0..=2 => {
            *bytes.get_mut(at)? ^= 1 << random.below(8);
            "a bit flipped"
        }
        3 => {
            let n = 1 + random.below(600);
            for byte in bytes.iter_mut().skip(at).take(n) {
                *byte = random.next() as u8;
            }
            "bytes overwritten"
        }
        4 => {
            let n = 1 + random.below(200);
            bytes.iter_mut().skip(at).take(n).for_each(|byte| *byte = 0);
            "bytes zeroed"
        }
        5 => {
            bytes.drain(at..(at + unit).min(len));
            "bytes dropped"
        }
        6 => {
            let (a, b) = (random.below(len / unit) * unit, random.below(len / unit) * unit);
            (0..unit.min(len - a.max(b))).for_each(|i| bytes.swap(a + i, b + i));
            "bytes swapped"
        }
        _ => {
            let at = random.below(len / unit) * unit;
            let again = bytes[at..(at + unit).min(len)].to_vec();
            bytes.splice(at..at, again);
            "bytes doubled"
        }
    })
}

fn whole_files(random: &mut Random, files: &mut Files, others: &[&Files]) -> Option<&'static str> {
    let (name, other) = (some_file(random, files)?, some_file(random, files)?);
    Some(match random.below(4) {
        0 => {
            files.remove(&name);
            "a file removed"
        }
        1 => {
            let (a, b) = (files[&name].clone(), files[&other].clone());
            files.insert(name, b);
            files.insert(other, a);
            "two files swapped"
        }
        2 => {
            let bytes = Arc::make_mut(files.get_mut(&name)?);
            bytes.truncate(random.below(bytes.len()));
            "a file cut off"
        }
        _ => {
            match random.pick(others).get(&name) {
                Some(bytes) => files.insert(name, bytes.clone()),
                None => files.remove(&name),
            };
            "a file of another history"
        }
    })
}

/// Frames as units, and cuts at every structure of one.
fn frame_changes(random: &mut Random, files: &mut Files) -> Option<&'static str> {
    let name = random.pick(&segments(files)).clone();
    let bytes = Arc::make_mut(files.get_mut(&name)?);
    let all = frames(bytes);
    if all.is_empty() {
        return None;
    }
    let (frame, other) = (*random.pick(&all), *random.pick(&all));
    Some(match random.below(5) {
        0 => {
            bytes.drain(frame.at..frame.next().min(bytes.len()));
            "a frame dropped"
        }
        1 => {
            let (a, b) = if frame.at < other.at { (frame, other) } else { (other, frame) };
            let end = b.next().min(bytes.len());
            if a == b {
                return None;
            }
            let swapped = [&bytes[b.at..end], &bytes[a.next()..b.at], &bytes[a.at..a.next()]].concat();
            bytes.splice(a.at..end, swapped);
            "two frames swapped"
        }
        2 => {
            let again = bytes[frame.at..frame.next().min(bytes.len())].to_vec();
            bytes.splice(other.at..other.at, again);
            "a frame doubled"
        }
        3 => {
            let (entry, leaf, leaf_end) = *random.pick(&frame.leaves(bytes));
            let cuts = [
                SEGMENT_HEADER,
                frame.at,
                frame.at + 8,
                frame.at + 72,
                frame.at + 104,
                frame.at + FRAME_HEADER,
                entry,
                leaf,
                leaf_end,
                frame.end - frame.note,
                frame.end,
                frame.next(),
            ];
            bytes.truncate(*random.pick(&cuts));
            "a segment cut at a structure"
        }
        _ => {
            let field = *random.pick(&[8, 12, 16, 20, 24, 32, 40, 72]);
            bytes[frame.at + field + random.below(4)] ^= 1 << random.below(8);
            "a field of a frame's header"
        }
    })
}

/// By somebody who knows the format, has all hashes put right, and lacks only the signing key.
fn knowing(random: &mut Random, files: &mut Files) -> Option<&'static str> {
    let name = random.pick(&segments(files)).clone();
    let bytes = Arc::make_mut(files.get_mut(&name)?);
    let all = frames(bytes);
    if all.is_empty() {
        return None;
    }
    let frame = *random.pick(&all);
    let (_, leaf, leaf_end) = *random.pick(&frame.leaves(bytes));
    let what = match random.below(4) {
        0 => {
            bytes[leaf + 1 + random.below(8)] ^= 1 << random.below(8);
            "an entry's time changed, every hash put right"
        }
        1 if leaf_end > leaf + 11 => {
            bytes[leaf + 11 + 4 + random.below(32)] ^= 1;
            "a part's hash changed, the frames put right"
        }
        2 => {
            bytes[frame.end - frame.note + random.below(frame.note)] ^= 1;
            "a frame's checkpoint changed, the frames put right"
        }
        _ => {
            let at = leaf_end + random.below((frame.end - frame.note).saturating_sub(leaf_end));
            *bytes.get_mut(at)? ^= 1 << random.below(8);
            "a part or slot changed, the frames put right"
        }
    };
    let only_frame = random.below(3) == 0;
    if only_frame && frame.end <= bytes.len() {
        reseal(bytes, frame);
    } else {
        rechain(files);
    }
    Some(what)
}

fn tiles_and_checkpoint(random: &mut Random, files: &mut Files, others: &[&Files]) -> Option<&'static str> {
    let kind = *random.pick(&["tile/0", "tile/1", "tile/entries"]);
    let names: Vec<PathBuf> = files.keys().filter(|name| name.starts_with(kind)).cloned().collect();
    if names.is_empty() {
        // A small log has no tile of this level.
        return None;
    }
    let tile = random.pick(&names).clone();
    match random.below(6) {
        0 if kind != "tile/entries" => {
            let bytes = Arc::make_mut(files.get_mut(&tile)?);
            let (a, b) = (random.below(bytes.len() / 32) * 32, random.below(bytes.len() / 32) * 32);
            (0..32).for_each(|i| bytes.swap(a + i, b + i));
            Some("two hashes of a tile swapped")
        }
        1 if kind == "tile/entries" => {
            let bytes = Arc::make_mut(files.get_mut(&tile)?);
            let n = random.below(200);
            let (at, end) = (bundle_end(bytes, n), bundle_end(bytes, n + 1));
            if end > bytes.len() {
                return None;
            }
            let entry: Vec<u8> = bytes.drain(at..end).collect();
            let to = bundle_end(bytes, random.below(n + 1));
            bytes.splice(to..to, entry);
            Some("an entry of a bundle moved")
        }
        2 => {
            // The tile says less, or more, than it should.
            let bytes = Arc::make_mut(files.get_mut(&tile)?);
            if random.below(2) == 0 {
                bytes.truncate(bytes.len().saturating_sub(32))
            } else {
                bytes.extend([7; 32])
            }
            Some("a tile shorter or longer")
        }
        3 => {
            let text = String::from_utf8(files.get(Path::new("checkpoint"))?.to_vec()).ok()?;
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            let line = *random.pick(&[0, 1, 2, 4]);
            lines[line] = match line {
                0 => format!("{}x", lines[0]),
                1 => random.below(10_000).to_string(),
                2 => lines[2].chars().rev().collect(),
                _ => lines[4].chars().map(|c| if c == 'A' { 'B' } else { c }).collect(),
            };
            files.insert("checkpoint".into(), Arc::new((lines.join("\n") + "\n").into_bytes()));
            Some("a checkpoint rewritten")
        }
        4 => {
            let other = random.pick(others).get(Path::new("checkpoint"))?.clone();
            files.insert("checkpoint".into(), other);
            Some("the checkpoint of another history")
        }
        _ => {
            let beside = tile.with_file_name(format!("{}", 1 + random.below(255)));
            let bytes = files.get(&tile)?.clone();
            files.insert(beside, bytes);
            Some("a tile under another name")
        }
    }
}

/// Other histories, whole or spliced at a frame.
fn histories(random: &mut Random, files: &mut Files, others: &[&Files]) -> Option<&'static str> {
    let other = *random.pick(others);
    match random.below(4) {
        0 => {
            *files = other.clone();
            Some("all files of another history")
        }
        1 => {
            let name = random.pick(&segments(files)).clone();
            let all = frames(&files[&name]);
            let frame = *all.get(random.below(all.len()))?;
            *files = roll_back(files, &name, frame);
            Some("rolled back to one of its frames")
        }
        2 => {
            // The other log's segments from one on, and the links put right.
            let name = random.pick(&segments(other)).clone();
            for later in segments(files).into_iter().filter(|later| *later >= name) {
                files.remove(&later);
            }
            files.extend(
                other
                    .iter()
                    .filter(|(later, _)| later.starts_with("wal") && **later >= name)
                    .map(|(n, b)| (n.clone(), b.clone())),
            );
            rechain(files);
            Some("segments of another history spliced on")
        }
        _ => {
            // One frame of another log in the place of this one's.
            let name = random.pick(&segments(files)).clone();
            let theirs = other.get(&name)?;
            let (ours, theirs_frames) = (frames(&files[&name]), frames(theirs));
            let n = random.below(ours.len().min(theirs_frames.len()));
            let (from, to) = (*ours.get(n)?, *theirs_frames.get(n)?);
            let piece = theirs.get(to.at..to.next().min(theirs.len()))?.to_vec();
            let bytes = Arc::make_mut(files.get_mut(&name)?);
            let end = from.next().min(bytes.len());
            bytes.splice(from.at..end, piece);
            if random.below(2) == 0 {
                rechain(files);
            }
            Some("a frame of another history")
        }
    }
}
