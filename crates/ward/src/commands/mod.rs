//! The commands, one file per family, and how they speak: text for people on standard output, JSON with `--json`,
//! errors on standard error in one sentence.

pub mod audit;
pub mod backup;
pub mod break_glass;
pub mod check;
pub mod client;
pub mod data;
pub mod desk;
pub mod doctor;
pub mod downtime;
pub mod erase;
pub mod flow;
pub mod hl7;
pub mod ingest;
pub mod init;
pub mod journal;
pub mod keys;
pub mod mllp;
pub mod rebuild;
pub mod restore;
pub mod route;
pub mod serve;
pub mod shadow;
pub mod ship;
pub mod verify_restore;

use std::process::ExitCode;

use base::{Clock, SystemClock, SystemEntropy};
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command};
use crate::config::{Config, Finding};
use crate::node::{StartError, Surroundings};
use client::{Client, ClientError};

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// The mesh folder is not right: exit code 2.
    Findings(Vec<Finding>),
    Said(String),
}

pub type Result<T = ()> = std::result::Result<T, Failure>;

impl Failure {
    pub fn said(text: impl Into<String>) -> Self {
        Failure::Said(text.into())
    }

    pub fn report(self) -> ExitCode {
        match self {
            Failure::Findings(findings) => {
                for finding in &findings {
                    say_error(&finding.to_string());
                }
                say_error(&format!("{} finding(s): the mesh folder is not right", findings.len()));
                ExitCode::from(2)
            }
            Failure::Said(text) => {
                say_error(&text);
                ExitCode::FAILURE
            }
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Failure::Said(error.to_string())
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        Failure::Said(error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Failure::Said(error.to_string())
    }
}

#[allow(clippy::print_stdout)]
pub fn say(text: &str) {
    println!("{text}");
}

#[allow(clippy::print_stderr)]
pub fn say_error(text: &str) {
    eprintln!("ward: {text}");
}

#[allow(clippy::print_stderr)]
pub fn progress(text: &str) {
    eprintln!("{text}");
}

/// Warnings and worse by default; `serve` says what it does. `RUST_LOG` changes it.
pub fn log_to_stderr(cli: &Cli) {
    let default = if matches!(cli.command, Command::Serve) { "info" } else { "warn" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = if cli.json { builder.json().try_init() } else { builder.with_target(false).try_init() };
}

pub fn config(cli: &Cli) -> Result<Config> {
    Config::load(&cli.mesh).map_err(Failure::Findings)
}

/// A client of the node that runs on this mesh.
pub fn client(cli: &Cli) -> Result<Client> {
    Ok(Client::new(&config(cli)?.socket()))
}

/// The system's clock and randomness, and this process's permit mint.
pub fn surroundings() -> Result<Surroundings> {
    let mint = base::PermitMint::claim().ok_or_else(|| Failure::said("a node was already built in this process"))?;
    let (clock, entropy) = (std::sync::Arc::new(SystemClock), std::sync::Arc::new(SystemEntropy));
    Ok(Surroundings { mint, clock, entropy, root_keys: None })
}

pub fn now() -> base::Timestamp {
    SystemClock.now()
}

/// Writes a file for its owner alone: whole or not at all, and there after a power cut.
pub fn put_file(path: &std::path::Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(std::path::Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&name)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&name, path)?;
    std::fs::File::open(folder)?.sync_all()
}
