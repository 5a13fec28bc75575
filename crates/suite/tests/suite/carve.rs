//! Searches files for strings, however they are written: UTF-8, UTF-16, base64, hexadecimal, percent-encoded, and all of
//! these inside gzip, zlib, zstd, LZ4 and Parquet found by their magic numbers anywhere in a file.
//!
//! Never knows what a file should hold: [`law_2`](crate::law_2) does. Case is ignored, since indexes fold it.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use aho_corasick::{AhoCorasick, AhoCorasickBuilder};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use parquet::file::reader::{FileReader, SerializedFileReader};

/// What a magic number may unpack to at most.
const UNPACKED_BYTES_MAX: u64 = 16 << 20;
/// Packed inside packed inside a file.
const DEPTH_MAX: usize = 3;
const BLOCK: usize = 4_096;

/// The searcher for some strings.
pub struct Needles {
    automaton: AhoCorasick,
    /// For each pattern: the string, and how it is written.
    meaning: Vec<(usize, &'static str)>,
    words: Vec<String>,
    longest: usize,
}

/// One place where a string was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hit {
    pub file: PathBuf,
    pub word: String,
    /// `gzip@120 > base64`.
    pub how: String,
}

/// What was looked at, so that a search that saw nothing is not taken for one that found nothing.
#[derive(Debug, Default)]
pub struct Searched {
    pub files: usize,
    pub bytes: u64,
    pub unpacked: usize,
    pub hits: BTreeSet<Hit>,
}

impl Needles {
    pub fn new(words: &[String]) -> Needles {
        let (mut patterns, mut meaning) = (Vec::new(), Vec::new());
        for (n, word) in words.iter().enumerate() {
            for (how, pattern) in encodings(word) {
                patterns.push(pattern);
                meaning.push((n, how));
            }
        }
        let longest = patterns.iter().map(Vec::len).max().unwrap_or(0);
        let automaton =
            AhoCorasickBuilder::new().ascii_case_insensitive(true).build(&patterns).expect("patterns that fit");
        Needles { automaton, meaning, words: words.to_vec(), longest }
    }

    /// Every file below `folder`.
    pub fn search_folder(&self, folder: &Path, searched: &mut Searched) {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                self.search_folder(&path, searched);
            } else if kind.is_file()
                && let Ok(bytes) = std::fs::read(&path)
            {
                self.search_bytes(&path, &bytes, searched);
            }
        }
    }

    pub fn search_bytes(&self, file: &Path, bytes: &[u8], searched: &mut Searched) {
        searched.files += 1;
        searched.bytes += bytes.len() as u64;
        self.look(file, bytes, "", 0, searched);
    }

    fn look(&self, file: &Path, bytes: &[u8], within: &str, depth: usize, searched: &mut Searched) {
        for part in written(bytes, self.longest) {
            for found in self.automaton.find_overlapping_iter_of(part) {
                let (word, how) = self.meaning[found];
                let how = format!("{within}{how}");
                searched.hits.insert(Hit { file: file.to_owned(), word: self.words[word].clone(), how });
            }
            if depth < DEPTH_MAX {
                self.carve(file, part, within, depth, searched);
            }
        }
    }

    fn carve(&self, file: &Path, bytes: &[u8], within: &str, depth: usize, searched: &mut Searched) {
        for (kind, at) in magic_numbers(bytes) {
            let unpacked = kind.unpack(&bytes[at..]);
            if !unpacked.is_empty() {
                searched.unpacked += 1;
                let within = format!("{within}{}@{at} > ", kind.name());
                self.look(file, &unpacked, &within, depth + 1, searched);
            }
        }
    }
}

/// Overlapping matches by pattern number: a longer pattern must not hide a shorter one of another string.
trait Overlapping {
    fn find_overlapping_iter_of(&self, bytes: &[u8]) -> Vec<usize>;
}

impl Overlapping for AhoCorasick {
    fn find_overlapping_iter_of(&self, bytes: &[u8]) -> Vec<usize> {
        self.find_overlapping_iter(bytes).map(|found| found.pattern().as_usize()).collect()
    }
}

/// The parts of a file that are not zeros written ahead, with room around them for what begins before a block's end.
fn written(bytes: &[u8], longest: usize) -> Vec<&[u8]> {
    const ZEROS: [u8; BLOCK] = [0; BLOCK];
    let mut parts = Vec::new();
    let mut from: Option<usize> = None;
    for (n, block) in bytes.chunks(BLOCK).enumerate() {
        let is_empty = block == &ZEROS[..block.len()];
        match (is_empty, from) {
            (false, None) => from = Some((n * BLOCK).saturating_sub(longest)),
            (true, Some(start)) => {
                parts.push(&bytes[start..(n * BLOCK + longest).min(bytes.len())]);
                from = None;
            }
            _ => {}
        }
    }
    parts.extend(from.map(|start| &bytes[start..]));
    parts
}

/// A string in every way of writing it that is searched for.
pub fn encodings(word: &str) -> Vec<(&'static str, Vec<u8>)> {
    let mut all = vec![
        ("utf-8", word.as_bytes().to_vec()),
        ("utf-16le", word.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("utf-16be", word.encode_utf16().flat_map(u16::to_be_bytes).collect()),
    ];
    // Of text whose case was changed the base64 and the numbers are others.
    for text in [word.to_owned(), word.to_lowercase(), word.to_uppercase()] {
        let bytes = text.as_bytes();
        all.push(("hex", base::hex::encode(bytes).into_bytes()));
        all.push(("percent", bytes.iter().flat_map(|byte| format!("%{byte:02X}").into_bytes()).collect()));
        for skip in 0..3 {
            all.push(("base64", base64_inside(&STANDARD_NO_PAD, bytes, skip)));
            all.push(("base64url", base64_inside(&URL_SAFE_NO_PAD, bytes, skip)));
        }
    }
    all.sort();
    all.dedup_by(|a, b| a.1 == b.1);
    all
}

/// The characters that stand for `bytes` alone when they begin `skip` bytes after a group of three.
fn base64_inside(engine: &impl Engine, bytes: &[u8], skip: usize) -> Vec<u8> {
    let padded: Vec<u8> = std::iter::repeat_n(0, skip).chain(bytes.iter().copied()).collect();
    let text = engine.encode(&padded);
    let (from, upto) = ((skip * 8).div_ceil(6), padded.len() * 8 / 6);
    text.as_bytes()[from..upto].to_vec()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packed {
    Gzip,
    Zlib,
    Zstd,
    Lz4,
    Parquet,
}

impl Packed {
    fn name(self) -> &'static str {
        match self {
            Packed::Gzip => "gzip",
            Packed::Zlib => "zlib",
            Packed::Zstd => "zstd",
            Packed::Lz4 => "lz4",
            Packed::Parquet => "parquet",
        }
    }

    /// What can be unpacked from here on; what comes before an error counts too.
    fn unpack(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Packed::Gzip => read_some(flate2::read::GzDecoder::new(bytes)),
            Packed::Zlib => read_some(flate2::read::ZlibDecoder::new(bytes)),
            Packed::Zstd => zstd::stream::read::Decoder::new(bytes).map(read_some).unwrap_or_default(),
            Packed::Lz4 => read_some(lz4_flex::frame::FrameDecoder::new(bytes)),
            Packed::Parquet => parquet_text(bytes),
        }
    }
}

fn read_some(reader: impl Read) -> Vec<u8> {
    let mut reader = reader.take(UNPACKED_BYTES_MAX);
    let (mut out, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    while let Ok(n @ 1..) = reader.read(&mut buffer) {
        out.extend_from_slice(&buffer[..n]);
    }
    out
}

fn magic_numbers(bytes: &[u8]) -> Vec<(Packed, usize)> {
    let mut found = Vec::new();
    for at in 0..bytes.len().saturating_sub(3) {
        match bytes[at..at + 4] {
            [0x1F, 0x8B, 0x08, _] => found.push((Packed::Gzip, at)),
            [0x78, 0x01 | 0x5E | 0x9C | 0xDA, ..] => found.push((Packed::Zlib, at)),
            [0x28, 0xB5, 0x2F, 0xFD] => found.push((Packed::Zstd, at)),
            [0x04, 0x22, 0x4D, 0x18] => found.push((Packed::Lz4, at)),
            [b'P', b'A', b'R', b'1'] => found.push((Packed::Parquet, at)),
            _ => {}
        }
    }
    found
}

/// The rows of a Parquet file that begins here and ends with one of the magic numbers after it, as text.
fn parquet_text(bytes: &[u8]) -> Vec<u8> {
    let ends = (8..bytes.len().saturating_sub(3)).filter(|at| &bytes[*at..at + 4] == b"PAR1");
    for end in ends.take(4) {
        let Ok(reader) = SerializedFileReader::new(Bytes::copy_from_slice(&bytes[..end + 4])) else { continue };
        let Ok(rows) = reader.get_row_iter(None) else { continue };
        let text: Vec<String> = rows.map_while(Result::ok).map(|row| row.to_string()).collect();
        return text.join("\n").into_bytes();
    }
    Vec::new()
}
