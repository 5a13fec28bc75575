//! `ward-verify`: the auditor's checker on the command line. All checking is in the library, the arguments in `args`.

mod args;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use args::{Args, Parsed, Question};
use ward_verify::{Claim, Disk};

fn answer(args: &Args) -> Result<(String, u8), String> {
    let options = args.options()?;
    let say = |claim: Claim| {
        if let (Some(file), Some(proof)) = (&args.proof_out, &claim.proof) {
            std::fs::write(file, proof).map_err(|error| format!("`{}`: {error}", file.display()))?;
        }
        Ok((if args.is_json { claim.json() } else { claim.text() }, claim.exit_code()))
    };
    match &args.question {
        Question::Log(dir) => {
            let report = ward_verify::verify(dir, &options);
            Ok((if args.is_json { report.json() } else { report.text() }, report.exit_code()))
        }
        Question::Record(dir) => say(ward_verify::record(&Disk, dir, &args.ask()?, &options)),
        Question::Consistency(dir, old, new) => {
            let new = new.as_deref().map(args::kept).transpose()?;
            say(ward_verify::consistency(&Disk, dir, &args::kept(old)?, new.as_ref(), &options))
        }
        Question::Proof(file, old) => {
            let old = old.as_deref().map(args::kept).transpose()?;
            let text = args::read_text(Path::new(file))?;
            say(ward_verify::proof(&file.display().to_string(), &text, &args.ask()?, old.as_ref(), &options))
        }
    }
}

fn main() -> ExitCode {
    let result = args::parse(std::env::args().skip(1)).and_then(|parsed| match parsed {
        Parsed::Print(text) => Ok((text, 0)),
        Parsed::Run(args) => answer(&args),
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
