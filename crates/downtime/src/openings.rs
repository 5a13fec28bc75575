//! The record of openings beside a pack: a line for each, chained under a key of the pack, so that the node can tell its
//! own record from an invented one. A line is on the disk before anything is shown.
//!
//! Whoever holds the file can cut lines off its end, or destroy it: what never comes back to the node it cannot know.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use aws_lc_rs::hmac;
use base::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Keys;

const LOG_BYTES_MAX: u64 = 1 << 20;
const WORDS_BYTES_MAX: usize = 200;

/// One opening, as whoever opened it stated it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opening {
    pub pack: String,
    pub n: u64,
    pub at_ms: i64,
    /// As stated; nobody authenticates anybody while all else is down.
    pub by: String,
    pub host: String,
    /// HMAC-SHA256 over the one before and this.
    #[serde(default)]
    pub mac: String,
}

#[derive(Debug, thiserror::Error)]
pub enum OpeningError {
    #[error(
        "the opening could not be written to `{file}`, so nothing is shown: name another file with --log ({error})"
    )]
    Unwritable { file: String, error: std::io::Error },
    #[error("line {line} of the record of openings is not what this pack's reader wrote")]
    Forged { line: usize },
}

/// The file of a pack's openings.
#[derive(Debug)]
pub struct Openings(PathBuf);

impl Openings {
    pub fn at(file: &Path) -> Openings {
        Openings(file.to_owned())
    }

    /// Beside the pack.
    pub fn beside(pack: &Path) -> Openings {
        let mut name = pack.as_os_str().to_owned();
        name.push(".opened");
        Openings(name.into())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    fn unwritable(&self, error: std::io::Error) -> OpeningError {
        OpeningError::Unwritable { file: self.0.display().to_string(), error }
    }

    /// The text so far; empty where there is no file.
    pub fn text(&self) -> Result<String, OpeningError> {
        let mut text = String::new();
        match std::fs::File::open(&self.0) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(text),
            opened => opened.and_then(|file| file.take(LOG_BYTES_MAX).read_to_string(&mut text)),
        }
        .map_err(|error| self.unwritable(error))?;
        Ok(text)
    }

    /// Durable when this returns.
    pub fn append(
        &self,
        keys: &Keys,
        pack: &str,
        by: &str,
        host: &str,
        now: Timestamp,
    ) -> Result<Opening, OpeningError> {
        let before = verify(keys, pack, &self.text()?)?;
        let last = before.last();
        let mut opening = Opening {
            pack: pack.to_owned(),
            n: last.map_or(0, |last| last.n + 1),
            at_ms: now.ms(),
            by: words(by),
            host: words(host),
            mac: String::new(),
        };
        opening.mac = mac(keys, last.map_or("", |last| &last.mac), &opening);
        let line = serde_json::to_string(&opening).unwrap_or_default();
        let write = || -> std::io::Result<()> {
            let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&self.0)?;
            writeln!(file, "{line}")?;
            file.sync_all()
        };
        write().map_err(|error| self.unwritable(error))?;
        Ok(opening)
    }
}

fn words(text: &str) -> String {
    let plain: String = text.chars().filter(|c| !c.is_control()).collect();
    let mut end = plain.len().min(WORDS_BYTES_MAX);
    while !plain.is_char_boundary(end) {
        end -= 1;
    }
    plain[..end].to_owned()
}

fn mac(keys: &Keys, before: &str, opening: &Opening) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, keys.openings());
    let bare = Opening { mac: String::new(), ..opening.clone() };
    let text = format!("{before}\n{}", serde_json::to_string(&bare).unwrap_or_default());
    base::hex::encode(hmac::sign(&key, text.as_bytes()).as_ref())
}

/// The newest time in a record, unverified: to notice a clock that was set back.
pub(crate) fn newest(text: &str) -> Timestamp {
    let times = text.lines().filter_map(|line| serde_json::from_str::<Opening>(line).ok()).map(|opening| opening.at_ms);
    Timestamp(times.max().unwrap_or(i64::MIN))
}

impl Openings {
    /// When the pack was last opened here, as far as the record says.
    pub fn seen(&self) -> Result<Timestamp, OpeningError> {
        Ok(newest(&self.text()?))
    }
}

/// All openings of a pack's record, or the line that is not in its chain.
pub fn verify(keys: &Keys, pack: &str, text: &str) -> Result<Vec<Opening>, OpeningError> {
    let mut openings: Vec<Opening> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let forged = OpeningError::Forged { line: at + 1 };
        let Ok(opening) = serde_json::from_str::<Opening>(line) else { return Err(forged) };
        let before = openings.last().map_or("", |last| &last.mac);
        if opening.pack != pack || opening.n != at as u64 || opening.mac != mac(keys, before, &opening) {
            return Err(forged);
        }
        openings.push(opening);
    }
    Ok(openings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::tests::{MADE, sealed};

    #[test]
    fn every_opening_is_chained_and_a_changed_or_missing_line_is_found() {
        let (bytes, code) = sealed();
        let (header, _, keys) = crate::open(&bytes, &code, MADE, MADE).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let log = Openings::beside(&folder.path().join("3W.pack"));
        assert!(log.path().ends_with("3W.pack.opened"));
        for n in 0..3 {
            log.append(&keys, &header.pack, "Nurse\nKim", "desk-1", MADE.plus_ms(n)).unwrap();
        }
        assert_eq!(log.seen().unwrap(), MADE.plus_ms(2));
        let text = log.text().unwrap();
        let all = verify(&keys, &header.pack, &text).unwrap();
        assert_eq!((all.len(), all[2].n, all[0].by.as_str()), (3, 2, "NurseKim"));
        let lines: Vec<&str> = text.lines().collect();
        for (wrong, line) in [
            (text.replace("desk-1", "desk-2"), 1),
            ([lines[0], lines[2]].join("\n"), 2),
            ([lines[1], lines[2]].join("\n"), 1),
            (format!("{text}{{}}\n"), 4),
        ] {
            assert!(matches!(verify(&keys, &header.pack, &wrong), Err(OpeningError::Forged { line: l }) if l == line));
        }
        assert!(verify(&keys, "another", &text).is_err());
        let nowhere = Openings::at(Path::new("/nonexistent/folder/log"));
        assert!(matches!(
            nowhere.append(&keys, &header.pack, "kim", "desk", MADE),
            Err(OpeningError::Unwritable { .. })
        ));
    }
}
