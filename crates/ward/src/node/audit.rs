//! The audit targets of a node: the log below the data folder and the second folder, each under an origin of its own, so
//! that a checkpoint of one is never taken for a witness of the other; and the control facts about their losses.
//!
//! Never here: what becomes of a lost target (see `gate`'s folder target).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{Clock, Limits, LogName, PrincipalId};
use gate::{
    AuditAlarm, AuditDisk, AuditFollower, AuditLog, AuditStore, AuditTarget, FolderParts, FolderTarget, Recipient,
    Recipients, TargetEvent, Terms,
};
use ledger::{CheckpointSigner, Ed25519Signer, LedgerError, Log, LogOptions};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use store::Facts;
use vault::Vault;

use super::foundation::make_private;
use super::{StartError, while_};
use crate::config::{Agreement, Config, Party};

/// Kinds of the control facts about targets begin with this.
const FACT: &str = "audit-target-";

/// A fact about a target.
#[derive(Serialize, Deserialize)]
struct TargetFact {
    target: String,
    /// Name of the log that was begun, or why the target was lost.
    #[serde(default)]
    origin: Option<String>,
    #[serde(default)]
    why: Option<String>,
}

/// See the module. Clones are handles to the same targets.
#[derive(Clone)]
pub struct AuditTargets(Arc<Vec<(&'static str, FolderTarget)>>);

struct Opener<'a> {
    config: &'a Config,
    vault: &'a Vault,
    clock: &'a Arc<dyn Clock>,
    /// Newest origin of each target that the control log knows.
    known: BTreeMap<String, String>,
}

impl AuditTargets {
    /// Opens what can be opened; fails when no target can.
    pub async fn open(
        config: &Config,
        vault: &Vault,
        facts: &Facts,
        clock: &Arc<dyn Clock>,
    ) -> Result<AuditTargets, StartError> {
        let opener = Opener { config, vault, clock, known: known(facts).await? };
        let first = config.data().join("logs/audit");
        let second = config.mesh.audit.second.as_ref().map(|folder| config.folder.join(folder).join("audit"));
        let mut targets = vec![("audit", opener.target("log", "audit", first.clone(), second.clone()).await?)];
        if let Some(folder) = second {
            targets.push(("audit-second", opener.target("second", "audit-second", folder, Some(first)).await?));
        }
        let is_open = |(_, target): &(_, FolderTarget)| target.origin().is_some();
        // Twice: the first may be begun anew only once the second is seen to be whole.
        for _ in 0..2 {
            for n in 0..targets.len() {
                let others_whole = (0..targets.len()).any(|other| other != n && is_open(&targets[other]));
                targets[n].1.tend(others_whole).await;
            }
        }
        if !targets.iter().any(is_open) {
            let why = |(name, target): &(&str, FolderTarget)| format!("{name}: {}", target.why().unwrap_or_default());
            let why = targets.iter().map(why).collect::<Vec<_>>().join("; ");
            return Err(StartError { doing: "opening the audit log".into(), why });
        }
        Ok(AuditTargets(Arc::new(targets)))
    }

    pub fn targets(&self) -> Vec<Arc<dyn AuditTarget>> {
        self.0.iter().map(|(_, target)| Arc::new(target.clone()) as _).collect()
    }

    pub fn stores(&self) -> Vec<Arc<dyn AuditStore>> {
        self.0.iter().map(|(_, target)| Arc::new(target.clone()) as _).collect()
    }

    /// The logs that are open now, by name.
    pub fn logs(&self) -> Vec<(String, Log)> {
        self.0.iter().filter_map(|(name, target)| Some(((*name).to_owned(), target.log()?))).collect()
    }

    /// The log that a target writes now.
    pub fn log(&self, name: &str) -> Option<Log> {
        self.0.iter().find(|(known, _)| *known == name)?.1.log()
    }

    /// Compares the targets and keeps the index, in `folder`.
    pub async fn follower(
        &self,
        audit: &AuditLog,
        facts: &Facts,
        clock: &Arc<dyn Clock>,
        folder: PathBuf,
    ) -> Result<AuditFollower, StartError> {
        let alarm = FactAlarm { facts: facts.clone(), known: Mutex::new(known(facts).await?) };
        Ok(AuditFollower::new(audit.clone(), self.stores(), Arc::new(alarm), clock.clone(), Some(folder)))
    }

    pub async fn close(&self) {
        for (_, target) in self.0.iter() {
            target.close().await;
        }
    }
}

impl Opener<'_> {
    async fn target(
        &self,
        name: &str,
        log: &str,
        folder: PathBuf,
        beside: Option<PathBuf>,
    ) -> Result<FolderTarget, StartError> {
        let doing = || format!("opening the log {log}");
        let origin = format!("{}/{log}", self.config.mesh.name);
        let seed = self.vault.ed25519_seed(&format!("log/{log}")).await.map_err(while_(doing()))?;
        let signer = Ed25519Signer::from_seed(&origin, &seed).ok_or_else(|| StartError {
            doing: doing(),
            why: "the mesh's name cannot name a key: use letters, digits, dots and dashes".into(),
        })?;
        let known = self.known.get(name).map_or(0, |known| number(known, &origin));
        let log_name = LogName::parse(log).map_err(while_(doing()))?;
        let (limits, clock) = (self.config.mesh.limits.clone(), self.clock.clone());
        let open = move |folder: &Path, origin: &str| {
            let signer = Ed25519Signer::from_seed(origin, &seed);
            let signer = signer.ok_or(LedgerError::Options { option: "origin", rule: "a name of a key" })?;
            open(folder, log_name.clone(), origin, &limits, signer, clock.clone())
        };
        Ok(FolderTarget::new(FolderParts {
            name: name.to_owned(),
            folder,
            origin,
            known,
            beside,
            public_key: signer.public_key(),
            open: Box::new(open),
            clock: self.clock.clone(),
        }))
    }
}

fn open(
    folder: &Path,
    name: LogName,
    origin: &str,
    limits: &Limits,
    signer: Ed25519Signer,
    clock: Arc<dyn Clock>,
) -> Result<Log, LedgerError> {
    make_private(folder).map_err(|error| LedgerError::Io {
        action: "make",
        file: folder.to_owned(),
        source: std::io::Error::other(error.why),
    })?;
    Log::open(Arc::new(AuditDisk), folder, name, LogOptions::from_limits(origin, limits), Arc::new(signer), clock)
}

/// `MESH/audit` is the first log of its target, `MESH/audit.2` the second.
fn number(known: &str, origin: &str) -> u32 {
    known.strip_prefix(origin).and_then(|rest| rest.strip_prefix('.')).and_then(|n| n.parse().ok()).unwrap_or(1)
}

/// The newest origin of each target, by the control log.
async fn known(facts: &Facts) -> Result<BTreeMap<String, String>, StartError> {
    let mut known = BTreeMap::new();
    let mut from = 0;
    loop {
        let page =
            facts.follow_kinds(from, FACT).await.map_err(while_("reading what is known of the audit targets"))?;
        let Some(last) = page.last() else { return Ok(known) };
        from = last.position + 1;
        for fact in &page {
            let read = serde_json::from_slice::<TargetFact>(&fact.body);
            let read = read.map_err(while_("reading what is known of the audit targets"))?;
            if let Some(origin) = read.origin {
                known.insert(read.target, origin);
            }
        }
    }
}

/// Names of people and organisations for a patient's reports, by the mesh folder.
pub struct Names(pub Arc<Config>);

impl Recipients for Names {
    fn recipient(&self, principal: &PrincipalId, agreement: Option<&str>) -> Recipient {
        let known = self.0.principal(principal);
        let own = known.map(|known| match (&known.name, known.roles.first()) {
            (Some(name), _) => name.clone(),
            (None, Some(role)) => format!("a {} of this organisation", role.code().replace('-', " ")),
            (None, None) => "a user of this organisation".to_owned(),
        });
        let own = own.unwrap_or_else(|| "a user or service of this organisation".to_owned());
        let agreement = agreement.and_then(|id| self.0.agreements.iter().find(|agreement| agreement.id == id));
        match agreement.and_then(|agreement| agreement.recipient.clone()) {
            None => Recipient { name: own, address: None, phone: None },
            Some(Party { name, address, phone }) => {
                let name = match known.and_then(|known| known.name.as_ref()) {
                    Some(person) => format!("{person}, {name}"),
                    None => name,
                };
                Recipient { name, address, phone }
            }
        }
    }

    fn terms(&self, agreement: &str) -> Terms {
        let found = self.0.agreements.iter().find(|known| known.id == agreement);
        let terms = |found: &Agreement| Terms { excluded: found.not_accounted, study: found.study.clone() };
        found.map(terms).unwrap_or_default()
    }
}

/// Writes losses, returns and new logs down in the control log.
struct FactAlarm {
    facts: Facts,
    known: Mutex<BTreeMap<String, String>>,
}

#[async_trait::async_trait]
impl AuditAlarm for FactAlarm {
    async fn changed(&self, target: &str, event: &TargetEvent) {
        let (kind, origin, why) = match event {
            TargetEvent::Lost { why } => ("lost", None, Some(why.clone())),
            TargetEvent::Back => ("back", None, None),
            TargetEvent::Begun { origin } => {
                let before = self.known.lock().insert(target.to_owned(), origin.clone());
                if before.as_ref() == Some(origin) {
                    return;
                }
                ("begun", Some(origin.clone()), None)
            }
        };
        let fact = TargetFact { target: target.to_owned(), origin, why };
        let body = serde_json::to_vec(&fact).unwrap_or_default();
        if self.facts.append(&format!("{FACT}{kind}"), &body).await.is_err() {
            tracing::error!(target: "ward::alarm", audit_target = target, kind, "a change of an audit target could not be written to the control log");
        }
    }

    async fn expired(&self, before: i32, scopes: u64) {
        let body = serde_json::json!({ "years_before": before, "scopes": scopes }).to_string();
        if self.facts.append("audit-retention-ended", body.as_bytes()).await.is_err() {
            tracing::error!(target: "ward::alarm", "the end of audit records' retention could not be written to the control log");
        }
    }
}
