//! `ward`: reads the command line and hands over to the library.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    ward::run(ward::cli::Cli::parse())
}
