//! The mesh that is measured: a fresh folder as `ward init` writes it, one domain more, its node running in this process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{DomainName, PrincipalId};
use bytes::Bytes;
use edge::Doors;
use gate::Gate;
use hyper::Method;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::failed;
use super::figure::{Step, Worker};
use crate::commands::client::Client;
use crate::commands::init::{self, Ports};
use crate::commands::{Failure, Result, surroundings};
use crate::config::Config;
use crate::node::{Addresses, build};
use crate::wire::HttpsClient;

/// A domain for a second import, so that both begin empty.
const ANNEX: &str = r#"name = "annex"
owner = "Benchmark"
steward = "eng-ehr"
contact = "bench@example.org"
retention = "clinical-6y"

[[source]]
name = "bundles"
kind = "fhir"
"#;

const ANNEX_GATEWAY: &str = r#"
[[principal]]
id = "annex-gateway"
kind = "service"
roles = ["feed"]
domain = "annex"
source = "bundles"
purposes = ["TREAT"]
"#;

const NAME: &str = "ward-bench";

/// The folder of the bench; gone when this is dropped.
pub struct Folder(PathBuf);

impl Folder {
    /// A folder left by an earlier bench is begun anew; one that is something else is left alone.
    pub fn begin_anew(path: &Path) -> Result<Folder> {
        if path.exists() {
            let text = std::fs::read_to_string(path.join("mesh.toml")).unwrap_or_default();
            let is_empty = std::fs::read_dir(path)?.next().is_none();
            if !is_empty && !text.contains(&format!("name = \"{NAME}\"")) {
                let shown = path.display();
                return Err(Failure::said(format!("{shown} is not a bench's folder: choose another with --folder")));
            }
            std::fs::remove_dir_all(path)?;
        }
        std::fs::create_dir_all(path)?;
        Ok(Folder(path.to_owned()))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running node and the ways to it.
pub struct TestMesh {
    pub folder: PathBuf,
    pub doors: Arc<Doors>,
    pub gate: Gate,
    pub addresses: Addresses,
    client: Client,
    tls: Arc<rustls::ClientConfig>,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

impl TestMesh {
    pub async fn start(folder: &Path) -> Result<TestMesh> {
        init::write(folder, NAME, Ports::ANY)?;
        std::fs::create_dir_all(folder.join("domains/annex"))?;
        std::fs::write(folder.join("domains/annex/domain.toml"), ANNEX)?;
        let principals = folder.join("principals.toml");
        std::fs::write(&principals, std::fs::read_to_string(&principals)? + ANNEX_GATEWAY)?;
        let config = Config::load(folder).map_err(Failure::Findings)?;
        let socket = config.socket();
        let node = build(config, surroundings()?).await?;
        let (addresses, doors, gate) = (node.addresses()?, node.doors.clone(), node.gate.clone());
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(node.run_until(async move {
            let _ = stopped.await;
        }));
        let tls = net::client_config(&folder.join("tls/ca.pem"), None).map_err(failed)?;
        let client = Client::new(&socket);
        Ok(TestMesh { folder: folder.to_owned(), doors, gate, addresses, client, tls, stop, running })
    }

    pub async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.running.await;
    }

    pub fn operator(&self) -> &Client {
        &self.client
    }

    pub async fn token(&self, principal: &str) -> Result<String> {
        let principal = PrincipalId::parse(principal).map_err(failed)?;
        Ok(self.client.token(&principal, None).await?)
    }

    pub async fn https(&self) -> Result<HttpsClient> {
        Ok(HttpsClient::connect_with(self.addresses.http, self.tls.clone()).await?)
    }

    pub fn mllp(&self, source: &str) -> Result<SocketAddr> {
        let found = self.addresses.mllp.iter().find(|(_, name, _)| name.as_str() == source);
        found.map(|(.., address)| *address).ok_or_else(|| Failure::said(format!("no listener for {source}")))
    }

    /// Living resources of a domain.
    pub async fn living(&self, domain: &str) -> Result<u64> {
        let domain = DomainName::parse(domain).map_err(failed)?;
        let counts = self.doors.silver.resource_counts(&domain).await.map_err(failed)?;
        Ok(counts.iter().map(|(_, n)| n).sum())
    }

    /// Bytes on disk by part, as the file system allots them.
    pub fn at_rest(&self) -> AtRest {
        let data = self.folder.join("data");
        let logs = |wanted: fn(&str) -> bool| -> u64 {
            let Ok(entries) = std::fs::read_dir(data.join("logs")) else { return 0 };
            let named = entries.flatten().filter(|entry| wanted(&entry.file_name().to_string_lossy()));
            named.map(|entry| allotted(&entry.path())).sum()
        };
        let all = allotted(&data) + allotted(&self.folder.join("audit-second"));
        let journals = logs(|name| name.starts_with("journal-"));
        let audit = logs(|name| name == "audit") + allotted(&self.folder.join("audit-second"));
        AtRest {
            all,
            parts: [
                journals,
                audit,
                files(&data, "catalog.db"),
                files(&data, "keys.db"),
                allotted(&data.join("index")),
            ],
        }
    }

    /// So many clients that send these requests in turn, each from another place in the list.
    pub async fn callers(&self, count: usize, token: &str, requests: Vec<Request>) -> Result<Vec<Caller>> {
        let requests: Arc<[Request]> = requests.into();
        let mut callers = Vec::with_capacity(count);
        for n in 0..count {
            callers.push(Caller {
                https: self.https().await?,
                token: token.to_owned(),
                at: n * requests.len() / count,
                requests: requests.clone(),
            });
        }
        Ok(callers)
    }
}

/// What a mesh takes on disk.
#[derive(Debug, Clone, Copy)]
pub struct AtRest {
    pub all: u64,
    parts: [u64; 5],
}

impl AtRest {
    const PARTS: [&'static str; 5] = ["journal", "audit twice", "catalog", "keys", "index"];

    /// Growth by part, for each of so many.
    pub fn growth(&self, before: &AtRest, each: u64) -> String {
        let grown = self.parts.iter().zip(&before.parts).map(|(now, then)| now.saturating_sub(*then) / each.max(1));
        let told: Vec<String> =
            Self::PARTS.iter().zip(grown).map(|(part, bytes)| format!("{part} {bytes} B")).collect();
        told.join(", ")
    }
}

/// A database with the files beside it: its write-ahead log.
fn files(folder: &Path, stem: &str) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let named = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(stem));
    named.filter_map(|entry| entry.metadata().ok()).map(|data| data.blocks() * 512).sum()
}

fn allotted(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => allotted(&entry.path()),
            Ok(data) => data.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// One HTTP request of a list.
#[derive(Clone)]
pub struct Request {
    pub method: Method,
    pub path: String,
    pub headers: &'static [(&'static str, &'static str)],
    pub body: Bytes,
}

impl Request {
    pub fn get(path: impl Into<String>) -> Request {
        Request { method: Method::GET, path: path.into(), headers: &[], body: Bytes::new() }
    }
}

/// A client with a kept HTTPS connection.
pub struct Caller {
    https: HttpsClient,
    token: String,
    requests: Arc<[Request]>,
    at: usize,
}

#[async_trait::async_trait]
impl Worker for Caller {
    async fn step(&mut self) -> Step {
        let Some(request) = self.requests.get(self.at) else { return Step::End };
        self.at = (self.at + 1) % self.requests.len();
        let Request { method, path, headers, body } = request;
        match self.https.call(method.clone(), path, Some(&self.token), headers, body.clone()).await {
            Ok(answer) if answer.status.is_success() => Step::Done { units: 1, bytes: answer.body.len() as u64 },
            Ok(answer) => Step::Failed(format!("{}: {}", answer.status, first_words(&answer.text()))),
            Err(error) => Step::Failed(error.to_string()),
        }
    }
}

pub fn first_words(text: &str) -> String {
    text.chars().take(200).collect()
}
