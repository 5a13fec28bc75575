//! The project's own chores, as `cargo xtask COMMAND`. Nothing here is part of the product.

#![allow(clippy::print_stderr)]

mod chores;
mod gen_fhir;
mod gen_v2;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask COMMAND
  tidy       floors, walls, licences, files: the house as a test
  check      the quick inner loop: everything below DataFusion
  ci         everything that must hold before a change lands
  gen fhir   tables of the FHIR R4 definitions
  gen v2     tables of the v2-to-FHIR guide's maps, from a folder of them";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["tidy"] => chores::tidy(&root()),
        ["check"] => chores::check(&root()),
        ["ci"] => chores::ci(&root()),
        ["gen", "fhir"] => gen_fhir::run(&root()),
        ["gen", "v2"] => gen_v2::run(&root(), None),
        ["gen", "v2", folder] => gen_v2::run(&root(), Some(folder)),
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// The checkout this tool was built in.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}
