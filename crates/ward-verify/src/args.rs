//! What `ward-verify` is asked for: its words, and the files they name.

use std::fs;
use std::path::{Path, PathBuf};

use ward_verify::{Ask, Kept, Keys, Options};

const HELP: &str = "\
ward-verify: proves that a log of Wardmesh was not changed

usage: ward-verify LOG_DIR --key VKEY [OUTSIDE] [--json]
           the whole log: every frame, sealed part, tile and entry bundle
       ward-verify LOG_DIR --key VKEY --entry N | --record FILE [OUTSIDE] [--proof-out FILE]
           one record is in the log
       ward-verify LOG_DIR --key VKEY --old FILE [--new FILE] [--proof-out FILE]
           the log only grew from one checkpoint to another (without --new: to the published one)
       ward-verify --proof FILE --key VKEY [--record FILE] [--old FILE] [OUTSIDE]
           a proof that stands alone; no log is needed

  LOG_DIR            the folder of one log: `wal`, `tile`, `checkpoint`
  --key VKEY         the log's verifier key, as name+hash+key (C2SP signed-note), or @FILE with one key per line;
                     take it from the auditor's own papers, never from LOG_DIR. May be repeated: a log whose signer
                     was replaced has several, and each may sign
  --origin NAME      the log must call itself so (the first line of its checkpoints)
  --entry N          the record with this index, from 0
  --record FILE      the record by what it holds: its leaf data, its leaf hash (raw, hex or base64), or the bytes of one
                     of its sealed parts
  --proof-out FILE   writes the proof to a file that stands alone: C2SP tlog-proof for a record, the body of a C2SP
                     tlog-witness request for two checkpoints
  --proof FILE       checks such a file
  --json             the result as one JSON object
  --help, --version

OUTSIDE, what makes a proof hold against an operator with the signing key; both may be repeated:
  --checkpoint FILE  a checkpoint of this log that was kept outside, by a witness or an auditor
  --witness FOLDER   a folder of such files, one checkpoint each; those of other logs are passed over, each of this log
                     must be consistent with it, and the newest is named

It reads only, needs no private key and no network. The whole log is read once, and it may run beside a writer: then it
covers what was written when it read. It says what it proved, against which checkpoint, and what it could not prove.

exit codes: 0 everything fits; 1 it does not: changed, removed or forged, with the file and where it is known the byte;
            2 wrong usage, or files that cannot be read: nothing is known
";

/// Files of a witness's folder that are looked at.
const WITNESS_FILES_MAX: usize = 100_000;

pub enum Parsed {
    Run(Box<Args>),
    Print(String),
}

pub enum Question {
    Log(PathBuf),
    Record(PathBuf),
    Consistency(PathBuf, PathBuf, Option<PathBuf>),
    Proof(PathBuf, Option<PathBuf>),
}

pub struct Args {
    pub question: Question,
    pub is_json: bool,
    pub proof_out: Option<PathBuf>,
    words: Words,
}

#[derive(Default)]
struct Words {
    dir: Option<PathBuf>,
    keys: Vec<String>,
    origin: Option<String>,
    checkpoints: Vec<PathBuf>,
    witnesses: Vec<PathBuf>,
    entry: Option<u64>,
    record: Option<PathBuf>,
    old: Option<PathBuf>,
    new: Option<PathBuf>,
    proof: Option<PathBuf>,
    proof_out: Option<PathBuf>,
    is_json: bool,
}

pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Parsed, String> {
    let mut args = Words::default();
    while let Some(word) = words.next() {
        let (flag, inline) = match word.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag.to_owned(), Some(value.to_owned())),
            _ => (word, None),
        };
        let mut value = || inline.clone().or_else(|| words.next()).ok_or(format!("{flag} needs a value"));
        match flag.as_str() {
            "-h" | "--help" => return Ok(Parsed::Print(HELP.to_owned())),
            "-V" | "--version" => return Ok(Parsed::Print(format!("ward-verify {}\n", env!("CARGO_PKG_VERSION")))),
            "--key" => args.keys.push(value()?),
            "--origin" => args.origin = Some(value()?),
            "--checkpoint" => args.checkpoints.push(value()?.into()),
            "--witness" => args.witnesses.push(value()?.into()),
            "--entry" => {
                let digits = value()?;
                args.entry = Some(digits.parse().map_err(|_| format!("`{digits}` is no index: a number from 0"))?);
            }
            "--record" => args.record = Some(value()?.into()),
            "--old" => args.old = Some(value()?.into()),
            "--new" => args.new = Some(value()?.into()),
            "--proof" => args.proof = Some(value()?.into()),
            "--proof-out" => args.proof_out = Some(value()?.into()),
            "--json" => args.is_json = true,
            flag if flag.starts_with('-') => return Err(format!("there is no option `{flag}`")),
            _ if args.dir.is_some() => return Err("one log folder at a time".to_owned()),
            _ => args.dir = Some(PathBuf::from(flag)),
        }
    }
    Ok(Parsed::Run(Box::new(args.question()?)))
}

impl Words {
    /// What is asked; words that have no bearing on it are refused.
    fn question(mut self) -> Result<Args, String> {
        if self.keys.is_empty() {
            return Err("--key is needed: without the log's verifier key nothing can be proved".to_owned());
        }
        let is_record = self.entry.is_some() || self.record.is_some();
        let outside = self.checkpoints.len() + self.witnesses.len();
        let question = match (self.proof.take(), self.dir.take()) {
            (Some(_), Some(_)) => return Err("a proof stands alone: give --proof or a log folder".to_owned()),
            (Some(_), None) if self.new.is_some() || self.proof_out.is_some() => {
                return Err("--new and --proof-out have no bearing on --proof".to_owned());
            }
            (Some(proof), None) => Question::Proof(proof, self.old.take()),
            (None, None) => return Err("which log folder?".to_owned()),
            (None, Some(_)) if self.old.is_some() && (is_record || outside > 0) => {
                return Err("--old asks about two checkpoints alone; ask about records apart".to_owned());
            }
            (None, Some(dir)) if self.old.is_some() => {
                Question::Consistency(dir, self.old.take().unwrap_or_default(), self.new.take())
            }
            (None, Some(_)) if self.new.is_some() => return Err("--new needs --old".to_owned()),
            (None, Some(dir)) if is_record => Question::Record(dir),
            (None, Some(_)) if self.proof_out.is_some() => {
                return Err("--proof-out needs --entry, --record or --old".to_owned());
            }
            (None, Some(dir)) => Question::Log(dir),
        };
        Ok(Args { question, is_json: self.is_json, proof_out: self.proof_out.take(), words: self })
    }
}

impl Args {
    pub fn ask(&self) -> Result<Ask, String> {
        let read = |path: &PathBuf| fs::read(path).map_err(|error| format!("`{}`: {error}", path.display()));
        Ok(Ask { index: self.words.entry, bytes: self.words.record.as_ref().map(read).transpose()? })
    }

    pub fn options(&self) -> Result<Options, String> {
        let mut keys: Option<Keys> = None;
        for word in &self.words.keys {
            let text = match word.strip_prefix('@') {
                Some(file) => read_text(Path::new(file))?,
                None => word.clone(),
            };
            let more = Keys::parse(&text)?;
            match &mut keys {
                Some(keys) => keys.add(more),
                None => keys = Some(more),
            }
        }
        let mut options = Options::new(keys.ok_or("--key is needed")?);
        options.origin = self.words.origin.clone();
        for file in &self.words.checkpoints {
            options.outside.push(kept(file)?);
        }
        for folder in &self.words.witnesses {
            options.outside.extend(witness(folder)?);
        }
        Ok(options)
    }
}

pub fn read_text(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("`{}`: {error}", path.display()))
}

/// A checkpoint's file.
pub fn kept(path: &Path) -> Result<Kept, String> {
    Ok(Kept { name: path.display().to_string(), text: read_text(path)?, is_from_folder: false })
}

/// The files of a witness's folder, by name. Names that begin with a dot are none of its checkpoints.
fn witness(folder: &Path) -> Result<Vec<Kept>, String> {
    let error = |error| format!("`{}`: {error}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(error)? {
        let path = entry.map_err(error)?.path();
        let is_hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !is_hidden && path.is_file() {
            files.push(path);
        }
        if files.len() > WITNESS_FILES_MAX {
            return Err(format!("`{}` holds more than {WITNESS_FILES_MAX} files", folder.display()));
        }
    }
    if files.is_empty() {
        return Err(format!("`{}` holds no checkpoint", folder.display()));
    }
    files.sort();
    files.iter().map(|path| Ok(Kept { is_from_folder: true, ..kept(path)? })).collect()
}
