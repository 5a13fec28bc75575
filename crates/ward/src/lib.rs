//! The node and its commands. `build()` in [`node`] puts the parts together; [`run`] is the command line.

pub mod bench;
pub mod care;
pub mod cli;
pub mod commands;
pub mod config;
pub mod demo;
pub mod downtime;
mod keys;
pub mod node;
mod products;
pub mod routes;
pub mod ship;
pub mod wire;

use std::process::ExitCode;

use cli::{Cli, Command};

pub use node::{Addresses, Node, StartError, Surroundings, build};

/// Exit codes: 0 done, 1 it could not be done, 2 the mesh folder or the arguments are wrong.
pub fn run(cli: Cli) -> ExitCode {
    commands::log_to_stderr(&cli);
    let hardening = vault::process::harden();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            commands::say_error(&format!("the runtime could not start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        let result = match &cli.command {
            Command::Init(init) => commands::init::run(&cli, init),
            Command::Check { limits } => commands::check::run(&cli, *limits),
            Command::Serve => commands::serve::run(&cli, hardening).await,
            Command::Demo(demo) => demo::run(&cli, demo).await,
            Command::Ingest(ingest) => commands::ingest::run(&cli, ingest).await,
            Command::Query(query) => commands::data::query(&cli, query).await,
            Command::Token(token) => commands::data::token(&cli, token).await,
            Command::Audit(audit) => commands::audit::run(&cli, audit).await,
            Command::Ship(ship) => commands::ship::run(&cli, ship).await,
            Command::Hl7(hl7) => commands::hl7::hl7(&cli, hl7).await,
            Command::Journal(journal) => commands::flow::journal(&cli, journal).await,
            Command::Quarantine(quarantine) => commands::flow::quarantine(&cli, quarantine).await,
            Command::Index(index) => commands::flow::index(&cli, index).await,
            Command::Erase(erase) => commands::erase::erase(&cli, erase).await,
            Command::Hold(hold) => commands::erase::hold(&cli, hold).await,
            Command::Retention(retention) => commands::erase::retention(&cli, retention).await,
            Command::Product(product) => commands::flow::product(&cli, product).await,
            Command::Route(route) => commands::route::run(&cli, route).await,
            Command::DowntimePack(pack) => commands::downtime::run(&cli, pack).await,
            Command::Keys(keys) => commands::keys::run(&cli, keys).await,
            Command::BreakGlass(step) => commands::break_glass::run(&cli, step).await,
            Command::Backup(backup) => commands::backup::run(&cli, backup).await,
            Command::Restore(restore) => commands::restore::run(&cli, restore).await,
            Command::VerifyRestore(verify) => commands::verify_restore::run(&cli, verify).await,
            Command::Doctor => commands::doctor::run(&cli).await,
            Command::Rebuild(rebuild) => commands::rebuild::run(&cli, rebuild).await,
            Command::Bench(bench) => bench::run(&cli, bench).await,
        };
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failure.report(),
        }
    })
}
