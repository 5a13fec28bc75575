//! The node's own upkeep while it serves: backups, rebuilds, inspection. One job at a time, in a task of its own.
//!
//! Never here: how a backup is laid out (`backup`), what is rebuilt from what (`store`, `products`).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use backup::{CONTROL, KeysTo, LogSource, NodeSource, Progress, Seal, Taken, Target};
use base::{Clock, DomainName, Entropy, Layer, Read, Write};
use edge::{Job, JobState, Maintenance, OperatorError};
use parking_lot::Mutex;
use products::{Builder, Registry, SnapshotBook};
use serde::Serialize;
use serde_json::{Value, json};
use store::Silver;
use vault::Vault;

use super::audit::AuditTargets;
use super::foundation::{Foundation, Logs};
use crate::config::Config;

/// What a backup is taken from: a node that serves, or one whose ground was laid for it.
#[derive(Clone)]
pub struct Stock {
    config: Arc<Config>,
    vault: Vault,
    logs: Logs,
    audit: AuditTargets,
    silver: Silver,
    objects: Arc<dyn object_store::ObjectStore>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

/// Where a backup goes, and how many are kept.
#[derive(Debug, Clone)]
pub struct BackupTo {
    pub target: String,
    pub keys_to: Option<String>,
    pub keep: usize,
    pub keys_keep: usize,
}

/// A backup that was taken, and what came since.
#[derive(Debug, Serialize, serde::Deserialize)]
pub struct Report {
    #[serde(flatten)]
    pub taken: Taken,
    /// Entries of the journals that came while it ran: the next one takes them.
    pub behind: u64,
}

/// Files of the mesh folder that are configuration, and in a backup.
const CONFIG_FOLDERS: [&str; 3] = ["domains", "policies", "agreements"];
const CONFIG_DEPTH_MAX: usize = 6;

impl Stock {
    pub fn of(ground: &Foundation) -> Stock {
        Stock {
            config: ground.config.clone(),
            vault: ground.vault.clone(),
            logs: ground.logs.clone(),
            audit: ground.audit.clone(),
            silver: ground.silver.clone(),
            objects: ground.objects.clone(),
            clock: ground.clock.clone(),
            entropy: ground.entropy.clone(),
        }
    }

    /// Takes a backup; data first, then keys.
    pub async fn back_up(&self, to: &BackupTo, progress: &Progress) -> Result<Report, String> {
        if to.keys_to.as_ref() == Some(&to.target) {
            return Err("keys go to a target of their own: whoever has both targets and the root has everything".into());
        }
        let said = |error: backup::BackupError| error.to_string();
        let target = Target::writer(&to.target).await.map_err(said)?;
        let keys = match &to.keys_to {
            Some(url) => Some(Target::writer(url).await.map_err(said)?),
            None => None,
        };
        progress.stage("positions");
        let epoch = self.vault.current_epoch().await;
        let source = self.source().await?;
        let control_now = || self.log(CONTROL).ok_or_else(|| backup::BackupError::refused("there is no control log"));
        let keys_to =
            keys.as_ref().map(|target| KeysTo { target, control_now: &control_now, keep: to.keys_keep.max(1) });
        let taken = backup::take(&source, &target, to.keep.max(1), keys_to, progress).await;
        for target in [Some(target), keys].into_iter().flatten() {
            target.release().await.map_err(said)?;
        }
        let taken = taken.map_err(said)?;
        if taken.keys.is_some()
            && let Err(error) = super::keys::note_backup(&self.vault, epoch, self.clock.now()).await
        {
            tracing::warn!(%error, "the backup is there, but `ward keys status` does not know of it");
        }
        let sizes = taken.logs.iter().filter(|(name, _)| name.starts_with("journal-"));
        let behind = sizes.filter_map(|(name, size)| Some(self.logs.get(name)?.size().saturating_sub(*size))).sum();
        Ok(Report { taken, behind })
    }

    async fn source(&self) -> Result<NodeSource, String> {
        let taken = self.clock.now();
        let logs: Vec<LogSource> = self.config.log_names().iter().filter_map(|name| self.log(name)).collect();
        let mut silver = BTreeMap::new();
        for domain in self.config.domains.keys() {
            let digest = self.silver.digest(domain, None).await.map_err(|error| error.to_string())?;
            silver.insert(domain.to_string(), digest);
        }
        let data = self.config.data();
        Ok(NodeSource {
            mesh: self.config.mesh.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            taken,
            logs,
            objects: self.objects.clone(),
            key_table: data.join("keys.db"),
            scratch: data,
            config: config_files(&self.config.folder).map_err(|error| format!("reading the mesh folder: {error}"))?,
            silver,
            seal: Seal::of_node(&self.vault).await.map_err(|error| error.to_string())?,
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
        })
    }

    /// A log as it is now.
    fn log(&self, name: &str) -> Option<LogSource> {
        // A target that was lost may write another log by now.
        let log = if name.starts_with("audit") { self.audit.log(name)? } else { self.logs.get(name)?.clone() };
        let folder = self.config.log_folder(name);
        let place = folder.strip_prefix(&self.config.folder).unwrap_or(&folder).display().to_string();
        Some(LogSource { name: name.into(), folder, place, vkey: log.vkey(), checkpoint: log.checkpoint() })
    }
}

/// `*.toml` of the folder, and all files of its configuration folders.
fn config_files(mesh: &Path) -> std::io::Result<BTreeMap<String, Vec<u8>>> {
    fn walk(mesh: &Path, at: &Path, depth: usize, out: &mut BTreeMap<String, Vec<u8>>) -> std::io::Result<()> {
        for entry in std::fs::read_dir(at)? {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            let name = path.strip_prefix(mesh).unwrap_or(&path).to_string_lossy().into_owned();
            if kind.is_file() && (depth > 0 || name.ends_with(".toml")) {
                out.insert(name, std::fs::read(&path)?);
            } else if kind.is_dir() && depth < CONFIG_DEPTH_MAX && (depth > 0 || CONFIG_FOLDERS.contains(&&*name)) {
                walk(mesh, &path, depth + 1, out)?;
            }
        }
        Ok(())
    }
    let mut files = BTreeMap::new();
    walk(mesh, mesh, 0, &mut files)?;
    Ok(files)
}

/// See the module.
#[derive(Clone)]
pub struct Upkeep {
    pub stock: Stock,
    pub gate: gate::Gate,
    pub registry: Arc<Registry>,
    pub builder: Arc<Builder>,
    pub snapshots: SnapshotBook,
    pub journals: BTreeMap<DomainName, Arc<clinical::Journal>>,
    jobs: Arc<Mutex<Jobs>>,
}

#[derive(Default)]
struct Jobs {
    state: JobState,
    progress: Arc<Progress>,
}

impl Maintenance for Upkeep {
    fn begin(&self, job: Job) -> Result<u64, OperatorError> {
        let mut jobs = self.jobs.lock();
        if jobs.state.running {
            return Err(OperatorError(format!("{} is at work: wait for its end", jobs.state.stage)));
        }
        let number = jobs.state.number + 1;
        let progress = Arc::new(Progress::default());
        *jobs = Jobs { state: JobState { number, running: true, ..JobState::default() }, progress: progress.clone() };
        let this = self.clone();
        tokio::spawn(async move {
            let work = {
                let this = this.clone();
                tokio::spawn(async move { this.run(job, &progress).await })
            };
            let outcome = work.await.unwrap_or_else(|_| Err("the job failed inside: see the node's log".into()));
            let mut jobs = this.jobs.lock();
            jobs.state.running = false;
            match outcome {
                Ok(result) => jobs.state.result = Some(result),
                Err(error) => jobs.state.error = Some(error),
            }
        });
        Ok(number)
    }

    fn state(&self) -> JobState {
        let jobs = self.jobs.lock();
        let moment = jobs.progress.moment();
        JobState {
            stage: moment.stage,
            done_bytes: moment.done_bytes,
            total_bytes: moment.total_bytes,
            ..jobs.state.clone()
        }
    }
}

impl Upkeep {
    pub fn new(
        ground: &Foundation,
        gate: &gate::Gate,
        products: &crate::products::Products,
        journals: BTreeMap<DomainName, Arc<clinical::Journal>>,
    ) -> Upkeep {
        Upkeep {
            stock: Stock::of(ground),
            gate: gate.clone(),
            registry: products.registry.clone(),
            builder: products.builder.clone(),
            snapshots: products.snapshots.clone(),
            journals,
            jobs: Arc::default(),
        }
    }

    pub async fn run(&self, job: Job, progress: &Progress) -> Result<Value, String> {
        match job {
            Job::Backup { target, keys_to, keep, keys_keep } => {
                let report = self.stock.back_up(&BackupTo { target, keys_to, keep, keys_keep }, progress).await?;
                serde_json::to_value(report).map_err(|error| error.to_string())
            }
            Job::RebuildIndex { domain } => self.rebuild_index(domain.as_ref(), progress).await,
            Job::RebuildProducts { domain } => self.rebuild_products(domain.as_ref(), progress).await,
            Job::Inspect => self.inspect(progress).await,
        }
    }

    fn domains(&self, only: Option<&DomainName>) -> Result<Vec<DomainName>, String> {
        let known = &self.stock.config.domains;
        match only {
            Some(domain) if !known.contains_key(domain) => Err(format!("there is no domain `{domain}`")),
            Some(domain) => Ok(vec![domain.clone()]),
            None => Ok(known.keys().cloned().collect()),
        }
    }

    async fn rebuild_index(&self, only: Option<&DomainName>, progress: &Progress) -> Result<Value, String> {
        let mut resources = BTreeMap::new();
        for domain in self.domains(only)? {
            progress.stage(format!("search index of {domain}"));
            let mut last = 0;
            let rebuilt = self.stock.silver.rebuild_index(&domain, &mut |at| last = at.resources).await;
            rebuilt.map_err(|error| format!("{domain}: {error}"))?;
            resources.insert(domain.to_string(), last);
        }
        Ok(json!({ "index": resources }))
    }

    /// Builds each product anew, from silver.
    async fn rebuild_products(&self, only: Option<&DomainName>, progress: &Progress) -> Result<Value, String> {
        let domains = self.domains(only)?;
        let mut rows = BTreeMap::new();
        for product in self.registry.products().filter(|product| domains.contains(&product.table.domain)) {
            let table = &product.table;
            progress.stage(format!("product {table}"));
            let refused = |error: gate::Refusal| format!("{table}: {error}");
            let read = self.gate.node_permit::<Read>("build", &table.domain, Layer::Silver).map_err(refused)?;
            let write = self.gate.node_permit::<Write>("build", &table.domain, Layer::Gold).map_err(refused)?;
            let report = self.builder.build(&read, &write, table).await.map_err(|error| format!("{table}: {error}"))?;
            rows.insert(table.to_string(), report.rows);
        }
        Ok(json!({ "products": rows }))
    }

    /// Opens every journal entry and every living snapshot's files; names what does not open or is not there.
    async fn inspect(&self, progress: &Progress) -> Result<Value, String> {
        const PAGE: usize = 256;
        const PAGE_BYTES: usize = 8 << 20;
        const NAMED_MAX: usize = 100;
        let mut journals = BTreeMap::new();
        for (domain, journal) in &self.journals {
            progress.stage(format!("journal of {domain}"));
            let permit = self.gate.node_permit::<Read>("refine", domain, Layer::Bronze);
            let permit = permit.map_err(|error| format!("{domain}: {error}"))?;
            let (mut at, mut erased, mut unreadable) = (0, 0u64, Vec::new());
            loop {
                let page = journal.read(&permit, at, PAGE, PAGE_BYTES).await.map_err(|error| error.to_string())?;
                if page.is_empty() {
                    break;
                }
                for entry in page {
                    match entry {
                        Ok(_) => {}
                        Err(clinical::JournalError::Destroyed { .. }) => erased += 1,
                        Err(error) if unreadable.len() < NAMED_MAX => {
                            unreadable.push(
                                json!({ "position": format!("journal-{domain}/{at}"), "why": error.to_string() }),
                            );
                        }
                        Err(_) => {}
                    }
                    at += 1;
                }
            }
            journals.insert(domain.to_string(), json!({ "entries": at, "erased": erased, "unreadable": unreadable }));
        }
        let mut snapshots = BTreeMap::new();
        for product in self.registry.products() {
            progress.stage(format!("product {}", product.table));
            snapshots.insert(product.table.to_string(), self.inspect_product(&product.table).await);
        }
        Ok(json!({ "journals": journals, "products": snapshots }))
    }

    /// What is wrong with a product's newest snapshot; `null` when nothing is.
    async fn inspect_product(&self, table: &products::TableName) -> Value {
        use object_store::ObjectStoreExt;
        if self.snapshots.living(table).is_empty() {
            return json!("it was never built");
        }
        let manifest = match self.snapshots.current(table).await {
            Ok(manifest) => manifest,
            Err(error) => return json!(error.to_string()),
        };
        let mut missing = 0;
        for file in &manifest.files {
            let path = object_store::path::Path::from(file.path.as_str());
            let is_whole = match self.stock.objects.get(&path).await {
                Ok(found) => found.bytes().await.is_ok_and(|bytes| sha256(&bytes) == file.sha256),
                Err(_) => false,
            };
            missing += usize::from(!is_whole);
        }
        if missing > 0 {
            json!(format!("{missing} of {} files are missing or not what they were", manifest.files.len()))
        } else {
            Value::Null
        }
    }
}

fn sha256(bytes: &[u8]) -> String {
    base::hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref())
}
