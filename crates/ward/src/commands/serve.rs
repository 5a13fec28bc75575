//! `ward serve`: runs the node until SIGTERM or Ctrl-C, then drains.

use tokio::signal::unix::{SignalKind, signal};

use vault::process::Hardening;

use super::{Failure, Result, config, say, surroundings};
use crate::cli::Cli;
use crate::config::LockedMemory;
use crate::node::build;

pub async fn run(cli: &Cli, hardening: Hardening) -> Result {
    let config = config(cli)?;
    check_hardening(hardening, config.mesh.keys.locked_memory)?;
    let node = build(config, surroundings()?).await?;
    let addresses = node.addresses()?;
    // Before anybody is told that it serves: whoever reads that may end it at once.
    let shutdown = shutdown();
    if cli.json {
        let mllp: Vec<_> = addresses
            .mllp
            .iter()
            .map(|(domain, source, address)| serde_json::json!({ "domain": domain, "source": source, "address": address }))
            .collect();
        say(&serde_json::json!({ "http": addresses.http, "mllp": mllp }).to_string());
    } else {
        say(&format!("FHIR, SQL, admin: https://{}", addresses.http));
        for (domain, source, address) in &addresses.mllp {
            say(&format!("MLLP: {address} → {domain} ({source})"));
        }
        say("ready");
    }
    node.run_until(shutdown).await;
    Ok(())
}

/// Says what could not be done for the keys in memory. A mesh may demand it.
fn check_hardening(hardening: Hardening, wanted: LockedMemory) -> Result {
    if !hardening.no_core_files || !hardening.not_dumpable {
        tracing::warn!("core dumps could not be switched off: a crash may write keys to disk");
    }
    let memory = hardening.memory;
    match (memory.is_locked(), wanted) {
        (true, _) => tracing::info!("{memory}"),
        (false, LockedMemory::WhereAllowed) => tracing::warn!("{memory}"),
        (false, LockedMemory::Required) => {
            return Err(Failure::said(format!("{memory} (`[keys] locked_memory = \"required\"` in mesh.toml)")));
        }
    }
    Ok(())
}

/// Resolves at SIGTERM or Ctrl-C, from the call on.
pub fn shutdown() -> impl Future<Output = ()> {
    let signals = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
    async move {
        let [interrupted, terminated] = signals.map(|listening| async move {
            match listening {
                Ok(mut signals) => drop(signals.recv().await),
                Err(_) => std::future::pending().await,
            }
        });
        tokio::select! {
            () = interrupted => {}
            () = terminated => {}
        }
    }
}
