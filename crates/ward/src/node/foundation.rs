//! What everything else of a node stands on: keys, logs, catalog, silver, objects.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{Clock, Entropy, Limits, LogName};
use ledger::{Disk, Ed25519Signer, Log, LogOptions, RealDisk};
use store::objects::DurableLocal;
use store::{Catalog, Facts, Silver, SilverParts, SqlKeyTable};
use vault::{FileRootKeys, RootKeys, Vault};

use super::audit::AuditTargets;
use super::{StartError, because, revived, while_};
use crate::config::Config;

/// Logs of a node by name, for proofs and checkpoints.
pub type Logs = BTreeMap<String, Log>;

pub struct Foundation {
    pub config: Arc<Config>,
    pub limits: Arc<Limits>,
    pub data: PathBuf,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub vault: Vault,
    /// The epoch keys in files, for the rotation of their root; `None` where a service keeps them.
    pub root: Option<Arc<FileRootKeys>>,
    pub logs: Logs,
    /// The audit log and its second, where there is one. Either suffices.
    pub audit: AuditTargets,
    /// Governance facts in the control log: holds, erasures, sessions, grants.
    pub facts: Facts,
    pub catalog: Catalog,
    pub silver: Silver,
    pub objects: Arc<dyn object_store::ObjectStore>,
}

impl Foundation {
    /// Keys first, since logs and catalog are sealed; the logs' locks then keep a second node out.
    pub async fn lay(
        config: Config,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Foundation, StartError> {
        Foundation::lay_over(config, clock, entropy, None, None).await
    }

    /// Like [`Foundation::lay`]; with a reason, a loss of governance facts is accepted and recorded (law 11).
    pub async fn lay_accepting(
        config: Config,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        accepted: Option<&str>,
    ) -> Result<Foundation, StartError> {
        Foundation::lay_over(config, clock, entropy, accepted, None).await
    }

    /// With `service` the root keys are kept there, and not in files.
    pub async fn lay_over(
        config: Config,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        accepted: Option<&str>,
        service: Option<Arc<dyn RootKeys>>,
    ) -> Result<Foundation, StartError> {
        let config = Arc::new(config);
        let limits = Arc::new(config.mesh.limits.clone());
        let data = config.data();
        make_private(&data)?;
        let key_table = SqlKeyTable::open(&sqlite(&data, "keys.db")).await.map_err(because("opening the key table"))?;
        let (keys, root): (Arc<dyn RootKeys>, _) = match service {
            Some(service) => (service, None),
            None => {
                let files = crate::keys::open_files(&config, &clock, &entropy).await?;
                (files.clone(), Some(files))
            }
        };
        let vault = crate::keys::open_vault(&config, keys, Arc::new(key_table), clock.clone(), entropy.clone()).await?;
        let mut logs = open_logs(&config, &vault, &clock).await?;
        let facts =
            Facts::open(logs["control"].clone(), vault.clone()).map_err(while_("opening the governance facts"))?;
        revived::Outside::of(&config).check(&vault, &facts, accepted).await?;
        let audit = AuditTargets::open(&config, &vault, &facts, &clock).await?;
        logs.extend(audit.logs());
        let url = config.mesh.catalog.url.clone().unwrap_or_else(|| sqlite(&data, "catalog.db"));
        let catalog = Catalog::open(&url).await.map_err(because("opening the catalog"))?;
        let silver = Silver::open(SilverParts {
            catalog: catalog.clone(),
            vault: vault.clone(),
            index_dir: data.join("index"),
            domains: config.domains.keys().cloned().collect(),
            retention: config.retention(),
            clock: clock.clone(),
            entropy: entropy.clone(),
            limits: limits.clone(),
        })
        .await
        .map_err(while_("opening silver and its search index"))?;
        let objects: Arc<dyn object_store::ObjectStore> =
            Arc::new(DurableLocal::open(data.join("objects")).map_err(while_("opening the object store"))?);
        Ok(Foundation {
            config,
            limits,
            data,
            clock,
            entropy,
            vault,
            root,
            logs,
            audit,
            facts,
            catalog,
            silver,
            objects,
        })
    }

    /// Gives locks and files back.
    pub async fn close(self) {
        for log in self.logs.into_values() {
            log.close().await;
        }
        self.audit.close().await;
        self.catalog.close().await;
    }
}

/// A journal per domain, and the control log.
async fn open_logs(config: &Config, vault: &Vault, clock: &Arc<dyn Clock>) -> Result<Logs, StartError> {
    let folder = config.data().join("logs");
    let opener = LogOpener { config, vault, clock };
    let mut logs = Logs::new();
    for domain in config.domains.keys() {
        let name = format!("journal-{domain}");
        let log = opener.open(&folder, &name).await?;
        logs.insert(name, log);
    }
    logs.insert("control".into(), opener.open(&folder, "control").await?);
    Ok(logs)
}

pub(super) fn make_private(folder: &Path) -> Result<(), StartError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(while_(format!("making {}", folder.display())))
}

fn sqlite(data: &Path, file: &str) -> String {
    format!("sqlite:{}", data.join(file).display())
}

struct LogOpener<'a> {
    config: &'a Config,
    vault: &'a Vault,
    clock: &'a Arc<dyn Clock>,
}

impl LogOpener<'_> {
    /// Opens a log, with its signing key from the vault, and leaves its public key beside it for `ward-verify`.
    async fn open(&self, folder: &Path, name: &str) -> Result<Log, StartError> {
        let doing = || format!("opening the log {name}");
        let log_name = LogName::parse(name).map_err(while_(doing()))?;
        let folder = folder.join(name);
        make_private(&folder)?;
        let origin = format!("{}/{name}", self.config.mesh.name);
        let seed = self.vault.ed25519_seed(&format!("log/{name}")).await.map_err(while_(doing()))?;
        let signer = Ed25519Signer::from_seed(&origin, &seed).ok_or_else(|| StartError {
            doing: doing(),
            why: "the mesh's name cannot name a key: use letters, digits, dots and dashes".into(),
        })?;
        let options = LogOptions::from_limits(origin, &self.config.mesh.limits);
        let (disk, clock) = (Arc::new(RealDisk), self.clock.clone());
        let log = {
            let folder = folder.clone();
            tokio::task::spawn_blocking(move || Log::open(disk, &folder, log_name, options, Arc::new(signer), clock))
                .await
                .map_err(while_(doing()))?
                .map_err(while_(doing()))?
        };
        let vkey = (folder.join("vkey"), format!("{}\n", log.vkey()).into_bytes());
        tokio::task::spawn_blocking(move || RealDisk.publish(&[vkey]))
            .await
            .map_err(while_(doing()))?
            .map_err(while_(doing()))?;
        Ok(log)
    }
}
