//! Whether the data folder is an old copy (DESIGN law 11): what is known of the control log from outside the data is
//! kept beside the root keys, and compared before a door opens. A control log that is shorter, or another one, would
//! revive what was revoked or erased since: the node then refuses to start, until somebody accepts the loss, which is a
//! fact on record itself.
//!
//! Never here: what facts mean (whoever follows them replays them), choosing what to restore (`backup`).

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ledger::Log;
use net::Drain;
use serde::{Deserialize, Serialize};
use store::Facts;
use vault::Vault;

use super::{StartError, while_};
use crate::config::Config;

/// The newest checkpoint of the control log, a signed note that `ward-verify --checkpoint` reads.
pub const FILE: &str = "control.checkpoint";
/// The fact that a loss was accepted.
const ACCEPTED: &str = "restore-accepted";

/// Files in a folder of witnesses, and bytes of one that are looked at.
const WITNESSES_MAX: usize = 4_096;
const NOTE_BYTES_MAX: u64 = 64 << 10;

/// What is known from outside the data folder.
#[derive(Debug, Clone)]
pub struct Outside {
    folder: PathBuf,
    key_table: PathBuf,
    /// Checkpoints that others keep: they know also what an old copy of data and root keys together does not.
    witnesses: Option<PathBuf>,
}

/// Why the data is not the newest that was known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "loss", rename_all = "kebab-case")]
pub enum Loss {
    /// The control log has fewer entries than it had.
    Older { entries: u64, known: u64 },
    /// It went another way, or is another log.
    Another { entries: u64 },
    /// Key scopes hang on key epochs that were destroyed: the key table is older than the root keys.
    Keys { scopes: u64, epochs: Vec<u64> },
    /// It does not hold a checkpoint that a witness keeps: the root of so many entries, in hex.
    Witnessed { known: u64, root: String },
}

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Loss::Older { entries, known } => write!(
                f,
                "the control log has {entries} entries, but had {known}: {} governance entries are missing, and what they \
                 revoked or erased would come back",
                known - entries
            ),
            Loss::Another { entries } => {
                write!(f, "the control log ({entries} entries) does not go on from the checkpoint that was kept of it")
            }
            Loss::Keys { scopes, .. } => write!(
                f,
                "{scopes} key scopes hang on key epochs that were destroyed: `keys.db` is older than the root keys, and what \
                 they seal is noise"
            ),
            Loss::Witnessed { known, .. } => write!(
                f,
                "the control log does not hold the checkpoint of {known} entries that a witness keeps: governance entries \
                 are missing or others, and what they revoked or erased would come back"
            ),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Accepted {
    reason: String,
    losses: Vec<Loss>,
}

impl Outside {
    pub fn of(config: &Config) -> Outside {
        Outside {
            folder: crate::keys::outside_folder(config),
            key_table: config.data().join("keys.db"),
            witnesses: config.mesh.keys.witnesses.as_ref().map(|folder| config.folder.join(folder)),
        }
    }

    /// The kept checkpoint in a folder of root keys.
    pub fn checkpoint(folder: &Path) -> std::io::Result<Option<String>> {
        match std::fs::read_to_string(folder.join(FILE)) {
            Ok(note) => Ok(Some(note)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Refuses data that is older than what is known of it. With a reason the loss is recorded and accepted.
    pub async fn check(&self, vault: &Vault, facts: &Facts, reason: Option<&str>) -> Result<(), StartError> {
        let doing = || format!("comparing the data with what was kept in {}", self.folder.display());
        let mut losses = self.losses(vault, facts).await.map_err(while_(doing()))?;
        let stays = |loss: &Loss| matches!(loss, Loss::Keys { .. } | Loss::Witnessed { .. });
        if losses.iter().any(stays) {
            // Scopes that were lost stay lost, and witnesses keep what they have: once accepted they are no news.
            let known = facts.follow_kinds(0, ACCEPTED).await.map_err(while_(doing()))?;
            let known: Vec<Accepted> = known.iter().filter_map(|f| serde_json::from_slice(&f.body).ok()).collect();
            losses.retain(|loss| !stays(loss) || !known.iter().any(|accepted| accepted.losses.contains(loss)));
        }
        if let Some(first) = losses.first() {
            let Some(reason) = reason else {
                let why = format!(
                    "{first}. Restore from a newer backup of the keys (`ward restore`), or, when there is none, \
                     accept the loss: `ward restore --accept-loss REASON`"
                );
                return Err(StartError { doing: doing(), why });
            };
            let body = serde_json::to_vec(&Accepted { reason: reason.to_owned(), losses }).map_err(while_(doing()))?;
            facts.append(ACCEPTED, &body).await.map_err(while_(doing()))?;
        }
        self.keep(facts.log()).map_err(while_(doing()))
    }

    async fn losses(&self, vault: &Vault, facts: &Facts) -> Result<Vec<Loss>, String> {
        let control = facts.log();
        let mut losses = Vec::new();
        if let Some(note) = Outside::checkpoint(&self.folder).map_err(|error| error.to_string())? {
            losses.extend(compare(&note, control).map_err(|error| error.to_string())?);
        }
        if let Some(folder) = &self.witnesses {
            losses.extend(witnessed(folder, control)?);
        }
        let living = vault.living_epochs().await.map_err(|error| error.to_string())?;
        let epochs = backup::epochs_of(&self.key_table).map_err(|error| error.to_string())?;
        let dead: Vec<_> = epochs.into_iter().filter(|(epoch, _)| !living.iter().any(|e| e.0 == *epoch)).collect();
        if !dead.is_empty() {
            let scopes = dead.iter().map(|(_, scopes)| scopes).sum();
            losses.push(Loss::Keys { scopes, epochs: dead.into_iter().map(|(epoch, _)| epoch).collect() });
        }
        Ok(losses)
    }

    /// Keeps the control log's checkpoint, durably.
    pub fn keep(&self, control: &Log) -> std::io::Result<()> {
        let (path, temp) = (self.folder.join(FILE), self.folder.join(format!("{FILE}.new")));
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temp)?;
        file.write_all(control.checkpoint().as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temp, &path)?;
        std::fs::File::open(&self.folder)?.sync_all()
    }

    /// Keeps it newly whenever the log has grown, until the node drains.
    pub async fn follow(self, control: Log, drain: Drain) {
        let mut grown = control.subscribe();
        loop {
            tokio::select! {
                () = drain.closing() => return,
                changed = grown.changed() => if changed.is_err() { return },
            }
            let (outside, log) = (self.clone(), control.clone());
            let kept = tokio::task::spawn_blocking(move || outside.keep(&log)).await;
            if let Ok(Err(error)) = kept {
                tracing::error!(%error, "the control log's checkpoint could not be kept beside the root keys");
            }
        }
    }
}

/// The witnesses' checkpoints that a control log does not hold. Other files in their folder are passed over; a folder
/// that cannot be read says nothing, so it is an error.
fn witnessed(folder: &Path, control: &Log) -> Result<Vec<Loss>, String> {
    let told = |error: std::io::Error| format!("the witnesses in {}: {error}", folder.display());
    let own = ledger::note::parse(&control.checkpoint()).ok_or("the control log has no checkpoint")?;
    let files = std::fs::read_dir(folder).and_then(|files| files.collect::<Result<Vec<_>, _>>()).map_err(told)?;
    if files.len() > WITNESSES_MAX {
        return Err(format!("the witnesses in {}: more than {WITNESSES_MAX} files", folder.display()));
    }
    let mut losses = Vec::new();
    for file in files {
        let meta = std::fs::metadata(file.path()).map_err(told)?;
        if !meta.is_file() || meta.len() > NOTE_BYTES_MAX {
            continue;
        }
        let bytes = std::fs::read(file.path()).map_err(told)?;
        let note = std::str::from_utf8(&bytes).ok().and_then(|note| ledger::note::verify_by(note, &control.vkey()));
        let Some(known) = note.filter(|known| known.origin == own.origin) else { continue };
        let is_held =
            known.size <= control.size() && control.root(known.size).map_err(|error| error.to_string())? == known.root;
        let loss = Loss::Witnessed { known: known.size, root: base::hex::encode(&known.root) };
        if !is_held && !losses.contains(&loss) {
            losses.push(loss);
        }
    }
    Ok(losses)
}

/// What is missing of a control log, by a checkpoint that was kept of it.
fn compare(note: &str, control: &Log) -> Result<Option<Loss>, ledger::LedgerError> {
    let entries = control.size();
    Ok(match ledger::note::verify_by(note, &control.vkey()) {
        None => Some(Loss::Another { entries }),
        Some(known) if known.size > entries => Some(Loss::Older { entries, known: known.size }),
        Some(known) if known.size > 0 && control.root(known.size)? != known.root => Some(Loss::Another { entries }),
        Some(_) => None,
    })
}
