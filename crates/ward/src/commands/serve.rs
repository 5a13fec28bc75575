//! `ward serve`: runs the node until SIGTERM or Ctrl-C, then drains.

use tokio::signal::unix::{SignalKind, signal};

use super::{Result, config, say, surroundings};
use crate::cli::Cli;
use crate::node::build;

pub async fn run(cli: &Cli) -> Result {
    let config = config(cli)?;
    let node = build(config, surroundings()?).await?;
    let addresses = node.addresses()?;
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
    node.run_until(shutdown()).await;
    Ok(())
}

/// Resolves at SIGTERM or Ctrl-C.
pub async fn shutdown() {
    let interrupted = tokio::signal::ctrl_c();
    match signal(SignalKind::terminate()) {
        Ok(mut terminated) => tokio::select! {
            _ = interrupted => {}
            _ = terminated.recv() => {}
        },
        Err(_) => {
            let _ = interrupted.await;
        }
    }
}
