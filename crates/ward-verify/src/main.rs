//! `ward-verify`: the auditor's checker on the command line. All checking is in the library.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use ward_verify::{Options, VerifierKey, verify};

const HELP: &str = "\
ward-verify: proves that a log of Wardmesh was not changed

usage: ward-verify LOG_DIR --key VKEY [--checkpoint FILE]... [--json]

  LOG_DIR            the folder of one log: `wal`, `tile`, `checkpoint`
  --key VKEY         the log's verifier key, as name+hash+key (C2SP signed-note), or @FILE that holds it;
                     take it from the auditor's own papers, never from LOG_DIR
  --checkpoint FILE  a checkpoint of this log that was kept outside, by a witness or an auditor; may be repeated;
                     without one, an operator who holds the signing key could have rewritten everything
  --json             the result as one JSON object
  --help             this text
  --version          the version

It reads every file of the log once, needs no private key and no network, and changes nothing.
It may run beside a writer: then it covers what was written when it read.

exit codes: 0 everything fits; 1 tampered with, file and byte are named; 2 wrong usage or unreadable files
";

struct Args {
    dir: PathBuf,
    key: String,
    checkpoints: Vec<PathBuf>,
    is_json: bool,
}

enum Parsed {
    Run(Args),
    Print(String),
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Parsed, String> {
    let (mut dir, mut key, mut checkpoints, mut is_json) = (None, None, Vec::new(), false);
    while let Some(word) = words.next() {
        let (flag, inline) = match word.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag.to_owned(), Some(value.to_owned())),
            _ => (word, None),
        };
        let mut value = || inline.clone().or_else(|| words.next()).ok_or(format!("{flag} needs a value"));
        match flag.as_str() {
            "-h" | "--help" => return Ok(Parsed::Print(HELP.to_owned())),
            "-V" | "--version" => return Ok(Parsed::Print(format!("ward-verify {}\n", env!("CARGO_PKG_VERSION")))),
            "--key" => key = Some(value()?),
            "--checkpoint" => checkpoints.push(PathBuf::from(value()?)),
            "--json" => is_json = true,
            flag if flag.starts_with('-') => return Err(format!("there is no option `{flag}`")),
            _ if dir.is_some() => return Err("one log folder at a time".to_owned()),
            _ => dir = Some(PathBuf::from(flag)),
        }
    }
    let dir = dir.ok_or("which log folder?")?;
    let key = key.ok_or("--key is needed: without the log's verifier key nothing can be proved")?;
    Ok(Parsed::Run(Args { dir, key, checkpoints, is_json }))
}

fn options(args: &Args) -> Result<Options, String> {
    let read = |path: &PathBuf| fs::read_to_string(path).map_err(|error| format!("`{}`: {error}", path.display()));
    let key = match args.key.strip_prefix('@') {
        Some(file) => read(&PathBuf::from(file))?,
        None => args.key.clone(),
    };
    let checkpoints = args.checkpoints.iter().map(|path| Ok((path.display().to_string(), read(path)?)));
    Ok(Options { key: VerifierKey::parse(&key)?, checkpoints: checkpoints.collect::<Result<_, String>>()? })
}

fn main() -> ExitCode {
    let result = parse(std::env::args().skip(1)).and_then(|parsed| match parsed {
        Parsed::Print(text) => Ok((text, 0)),
        Parsed::Run(args) => {
            let report = verify(&args.dir, &options(&args)?);
            Ok((if args.is_json { report.json() } else { report.text() }, report.exit_code()))
        }
    });
    // A closed pipe is the reader's choice; the exit code stands.
    match result {
        Ok((text, code)) => {
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::from(code)
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "ward-verify: {error}; see ward-verify --help");
            ExitCode::from(2)
        }
    }
}
