//! `ward rebuild`: builds what is derived anew. Index and products while the node serves or from a stopped one, tiles and
//! catalog from a stopped one. What is replaced goes only when its successor stands.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::{DomainName, SystemClock, SystemEntropy};
use edge::{Job, Maintenance};
use serde_json::{Value, json};

use super::backup::{JobError, run_job};
use super::client::Client;
use super::{Failure, Result, config, progress, say, surroundings};
use crate::cli::{Cli, Derived, Rebuild};
use crate::config::{Config, Tls};
use crate::node::{Ground, Node, build};

/// Files of a SQLite database.
const PARTS: [&str; 3] = ["", "-wal", "-shm"];

pub async fn run(cli: &Cli, rebuild: &Rebuild) -> Result {
    let config = config(cli)?;
    let domain = rebuild.domain.clone();
    if let Some(name) = domain.as_ref().filter(|name| !config.domains.contains_key(*name)) {
        return Err(Failure::said(format!("there is no domain `{name}`")));
    }
    let client = Client::new(&config.socket());
    let done = match rebuild.what {
        Derived::Index => through(&client, config, Job::RebuildIndex { domain }).await?,
        Derived::Products => through(&client, config, Job::RebuildProducts { domain }).await?,
        Derived::Tiles => {
            stopped(&client).await?;
            json!({ "tiles": tiles(config, domain.as_ref()).await? })
        }
        Derived::Catalog => {
            stopped(&client).await?;
            let node = catalog(config, domain.as_ref()).await?;
            let done = counts(&node).await;
            node.run_until(std::future::ready(())).await;
            json!({ "catalog": done? })
        }
        Derived::All => {
            stopped(&client).await?;
            let tiles = tiles(config.clone(), domain.as_ref()).await?;
            let node = catalog(config, domain.as_ref()).await?;
            let silver = counts(&node).await;
            let products = finish(&*node.doors.maintenance, Job::RebuildProducts { domain: None }).await;
            node.run_until(std::future::ready(())).await;
            json!({ "tiles": tiles, "catalog": silver?, "products": products?["products"] })
        }
    };
    if cli.json {
        say(&done.to_string());
        return Ok(());
    }
    for (part, figures) in done.as_object().into_iter().flatten() {
        for (name, figure) in figures.as_object().into_iter().flatten() {
            say(&format!("{part} {name}: {}", figure.as_str().map_or_else(|| figure.to_string(), str::to_owned)));
        }
    }
    Ok(())
}

async fn stopped(client: &Client) -> Result {
    match client.get("/healthz", None).await {
        Err(super::client::ClientError::NoNode { .. }) => Ok(()),
        _ => Err(Failure::said("the node runs on what is to be replaced: stop it first")),
    }
}

/// In the running node, or in one that is built for it and closed again.
async fn through(client: &Client, config: Config, job: Job) -> Result<Value> {
    match run_job(client, &job).await {
        Ok(done) => Ok(done),
        Err(JobError::Failed(failure)) => Err(failure),
        Err(JobError::NoNode) => {
            let node = build(quiet(config), surroundings()?).await?;
            let done = finish(&*node.doors.maintenance, job).await;
            node.run_until(std::future::ready(())).await;
            done
        }
    }
}

/// Runs a job of a node of this process to its end.
pub async fn finish(maintenance: &dyn Maintenance, job: Job) -> Result<Value> {
    maintenance.begin(job).map_err(|error| Failure::said(error.to_string()))?;
    loop {
        let state = maintenance.state();
        match (state.running, state.result, state.error) {
            (true, ..) => tokio::time::sleep(Duration::from_millis(20)).await,
            (false, Some(result), _) => return Ok(result),
            (false, None, error) => return Err(Failure::said(error.unwrap_or_default())),
        }
    }
}

/// The same mesh without its feeds and shipping, on addresses of this machine that the system chooses.
pub fn quiet(mut config: Config) -> Config {
    config.mesh.listen.http = SocketAddr::from(([127, 0, 0, 1], 0));
    config.mesh.audit.ship.clear();
    for source in config.domains.values_mut().flat_map(|domain| &mut domain.sources) {
        source.listen = None;
    }
    if !config.folder.join(&config.mesh.tls.certificate).exists() {
        config.mesh.tls = Tls { development: true, ..Tls::default() };
    }
    config
}

/// Versions of each domain.
async fn counts(node: &Node) -> Result<Value> {
    let mut counts = serde_json::Map::new();
    for domain in node.config.domains.keys() {
        let digest = node.doors.silver.digest(domain, None).await;
        let digest = digest.map_err(|error| Failure::said(error.to_string()))?;
        counts
            .insert(domain.to_string(), json!(format!("{} versions of {} entries", digest.versions, digest.position)));
    }
    Ok(Value::Object(counts))
}

/// Drops the tiles, and opens the logs until they are written again. The published checkpoint stays while its log's key
/// signed it: it is what shows that the log was longer once.
async fn tiles(config: Config, domain: Option<&DomainName>) -> Result<Value> {
    let only = domain.map(|domain| format!("journal-{domain}"));
    let names: Vec<String> =
        config.log_names().into_iter().filter(|name| only.as_ref().is_none_or(|only| only == name)).collect();
    for name in &names {
        let folder = config.log_folder(name);
        progress(&format!("tiles of {name}"));
        remove(&folder.join("tile"))?;
        let (note, vkey) = (folder.join("checkpoint"), folder.join("vkey"));
        let signed = std::fs::read_to_string(&note).ok().zip(std::fs::read_to_string(&vkey).ok());
        if signed.is_none_or(|(note, vkey)| ledger::note::verify_by(&note, &vkey).is_none()) {
            remove(&note)?;
        }
    }
    let ground = Ground::lay(config, Arc::new(SystemClock), Arc::new(SystemEntropy)).await?;
    let mut written = serde_json::Map::new();
    for name in names {
        let Some(log) = ground.logs.get(&name) else { continue };
        let size = log.size();
        let mut published = log.subscribe_published();
        let _ = published.wait_for(|tiled| *tiled >= size).await;
        written.insert(name, json!(format!("{size} entries")));
    }
    ground.close().await;
    Ok(Value::Object(written))
}

fn remove(path: &Path) -> Result {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::said(format!("removing {}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

/// Puts catalog and indexes aside and refines the journals from their first entry. Where that fails the old ones come
/// back.
async fn catalog(config: Config, domain: Option<&DomainName>) -> Result<Node> {
    if domain.is_some() {
        return Err(Failure::said("one catalog holds all domains: leave the domain out"));
    }
    if config.mesh.catalog.url.is_some() {
        return Err(Failure::said(
            "only the embedded catalog is rebuilt by this command: empty the database at [catalog] url",
        ));
    }
    let data = config.data();
    let moves: Vec<(PathBuf, PathBuf)> = PARTS
        .iter()
        .map(|part| format!("catalog.db{part}"))
        .chain(["index".to_owned()])
        .map(|name| (data.join(&name), data.join(format!("{name}.before"))))
        .collect();
    for (from, to) in &moves {
        if to.exists() && !from.exists() {
            // An earlier rebuild was cut short before it made anything.
            continue;
        }
        remove(to)?;
        if from.exists() {
            std::fs::rename(from, to)?;
        }
    }
    progress("refining the journals from their first entry");
    match build(quiet(config), surroundings()?).await {
        Ok(node) => {
            for (_, before) in &moves {
                remove(before)?;
            }
            Ok(node)
        }
        Err(error) => {
            for (from, before) in moves.iter().filter(|(_, before)| before.exists()) {
                remove(from)?;
                std::fs::rename(before, from)?;
            }
            Err(error.into())
        }
    }
}
