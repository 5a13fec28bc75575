//! `ward restore`: a mesh from its backups into an empty folder; or, on a folder that was restored by hand, the word
//! that what was lost is lost (DESIGN law 11).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use backup::{At, BackupId, Layout, Opener, Places, Progress, Restoration, Restored, Target};
use base::{Clock, Position, SystemClock, SystemEntropy, Timestamp};
use serde::Serialize;
use store::objects::DurableLocal;
use vault::FileRoot;

use super::backup::{absolute, rate, size, tell};
use super::{Failure, Result, config, progress, say};
use crate::cli::{Cli, Restore};
use crate::config::Config;
use crate::keys;
use crate::node::{Ground, revived};

/// Files of the root that lie beside the data and go with a restored mesh.
const KEYS_FOLDER: &str = "keys";

/// What is to be restored, and where.
pub struct Wanted {
    pub target: String,
    pub keys_from: String,
    pub into: PathBuf,
    pub at: At,
    pub root: FileRoot,
    pub accept_loss: Option<String>,
}

/// What was restored.
#[derive(Debug, Serialize)]
pub struct Outcome {
    #[serde(flatten)]
    pub restored: Restored,
    pub folder: PathBuf,
    /// Entries of the control log that are known from outside and in no backup.
    pub control_lost: u64,
    /// Until the logs were open again, with their tiles.
    pub ready_ms: i64,
}

pub async fn run(cli: &Cli, restore: &Restore) -> Result {
    let (Some(target), Some(into)) = (&restore.target, &restore.into) else {
        let reason = restore.accept_loss.as_deref();
        let reason =
            reason.ok_or_else(|| Failure::said("name a backup: ward restore TARGET --keys-from KEYS --into FOLDER"))?;
        return accept(cli, reason).await;
    };
    let keys_from = restore.keys_from.as_deref();
    let keys_from = keys_from.ok_or_else(|| Failure::said("name the target of the keys too: --keys-from KEYS"))?;
    let wanted = Wanted {
        target: absolute(target)?,
        keys_from: absolute(keys_from)?,
        into: std::path::absolute(into)?,
        at: at(restore)?,
        root: root(cli, restore, into)?,
        accept_loss: restore.accept_loss.clone(),
    };
    let outcome = restore_into(&wanted).await?;
    if cli.json {
        say(&serde_json::to_string(&outcome).unwrap_or_default());
        return Ok(());
    }
    lines(&outcome).iter().for_each(|line| say(line));
    say(&format!(
        "start it with `ward -C {} serve`: silver, index and tiles are rebuilt before its doors open",
        into.display()
    ));
    say(&format!("then `ward -C {} rebuild products`", into.display()));
    Ok(())
}

pub fn lines(outcome: &Outcome) -> Vec<String> {
    let restored = &outcome.restored;
    let mut lines = vec![format!(
        "restored backup {} (taken {}) with keys {} into {}",
        restored.backup,
        restored.taken,
        restored.keys,
        outcome.folder.display()
    )];
    lines.extend(restored.logs.iter().map(|log| format!("  {}: {} of {} entries", log.name, log.size, log.of)));
    lines.extend(restored.notes.iter().map(|note| format!("note: {note}")));
    if outcome.control_lost > 0 {
        lines.push(format!(
            "accepted as lost: {} governance entries; this is on record in the control log",
            outcome.control_lost
        ));
    }
    lines.push(format!(
        "RTO    {} and {} objects in {:.1} s ({}), logs open after {:.1} s",
        size(restored.bytes),
        restored.objects,
        restored.took_ms as f64 / 1000.0,
        rate(restored.bytes, restored.took_ms),
        outcome.ready_ms as f64 / 1000.0
    ));
    let newest = restored.newest.map_or("none".to_owned(), |at| at.to_string());
    lines.push(format!("RPO    newest journal entry: {newest}; what came after it is lost"));
    lines
}

fn at(restore: &Restore) -> Result<At> {
    if let Some(id) = &restore.backup {
        let id = BackupId::parse(id);
        return id
            .map(At::Backup)
            .ok_or_else(|| Failure::said("--backup is no id: `ward backup TARGET --list` shows them"));
    }
    let Some(text) = &restore.at else { return Ok(At::Newest) };
    if let Ok(position) = Position::parse(text) {
        return Ok(At::Position(position));
    }
    let time = fhir::time::parse(text).filter(fhir::time::Moment::is_instant);
    time.map(|moment| At::Time(Timestamp(moment.from_ms))).ok_or_else(|| {
        Failure::said("--at is a time such as 2026-11-25T03:12:00Z, or a journal position such as journal-ehr/4711")
    })
}

/// The root keys: as `--root` says, else those in the new folder, else those of the mesh that `-C` names.
fn root(cli: &Cli, restore: &Restore, into: &Path) -> Result<FileRoot> {
    let data = into.join("data");
    if let Some(text) = &restore.root {
        return Ok(keys::root_of(text, &std::path::absolute(".")?, data)?);
    }
    if into.join(KEYS_FOLDER).is_dir() {
        return Ok(keys::root_of("file:keys/machine.key", into, data)?);
    }
    match Config::load(&cli.mesh) {
        Ok(config) => Ok(keys::file_root(&config)?),
        Err(_) => Err(Failure::said(format!(
            "the root keys are in no backup: put the mesh's keys folder at {}, or name it with --root file:PATH/machine.key",
            into.join(KEYS_FOLDER).display()
        ))),
    }
}

/// Restores, opens what was restored, and puts the restore on record.
pub async fn restore_into(wanted: &Wanted) -> Result<Outcome> {
    let clock = SystemClock;
    let begun = clock.now();
    check_empty(&wanted.into)?;
    let said = |error: backup::BackupError| Failure::said(error.to_string());
    let opener = Opener::of_root(keys::open_root(&wanted.root)?, Arc::new(SystemClock), Arc::new(SystemEntropy));
    let data = Target::reader(&wanted.target).map_err(said)?;
    let keys_from = Target::reader(&wanted.keys_from).map_err(said)?;
    let places = Places { data: &data, keys: &keys_from };
    let plan = Restoration::plan(places, wanted.at.clone(), &opener).await.map_err(said)?;
    let control_lost = check_control(&plan, wanted)?;
    write_config(&wanted.into, &plan.config().await.map_err(said)?)?;
    let config = Config::load(&wanted.into).map_err(Failure::Findings)?;
    bring_keys(&wanted.root, &keys::outside_folder(&config))?;
    let layout = Layout {
        data: config.data(),
        second: config.mesh.audit.second.as_ref().map(|_| config.log_folder("audit-second")),
        objects: Arc::new(
            DurableLocal::open(config.data().join("objects")).map_err(|error| Failure::said(error.to_string()))?,
        ),
    };
    let shared = Arc::new(Progress::default());
    let told = tell(shared.clone());
    let restored = plan.write(&layout, &shared).await;
    told.abort();
    let restored = restored.map_err(said)?;
    drop(layout);
    progress("opening what was restored");
    let reason = wanted.accept_loss.as_deref();
    let ground = Ground::lay_accepting(config, Arc::new(SystemClock), Arc::new(SystemEntropy), reason).await?;
    let fact = serde_json::to_vec(&restored).unwrap_or_default();
    let recorded = ground.facts.append("restored", &fact).await;
    ground.close().await;
    recorded.map_err(|error| Failure::said(format!("the restore could not be put on record: {error}")))?;
    let ready_ms = clock.now().ms() - begun.ms();
    Ok(Outcome { restored, folder: wanted.into.clone(), control_lost, ready_ms })
}

/// Nothing may be there but the root keys.
fn check_empty(into: &Path) -> Result {
    std::fs::create_dir_all(into)?;
    for entry in std::fs::read_dir(into)? {
        if entry?.file_name() != KEYS_FOLDER {
            return Err(Failure::said(format!("{} is not empty: restore into a new folder", into.display())));
        }
    }
    Ok(())
}

/// The control log must be as new as it is known to have been; what is missing must be accepted.
fn check_control(plan: &Restoration<'_>, wanted: &Wanted) -> Result<u64> {
    let control = plan.control().map_err(|error| Failure::said(error.to_string()))?;
    let known = revived::Outside::checkpoint(&wanted.root.folder)?;
    let known = known.and_then(|note| ledger::note::verify_by(&note, &control.vkey)).map_or(0, |known| known.size);
    let lost = known.saturating_sub(control.size);
    if lost > 0 && wanted.accept_loss.is_none() {
        return Err(Failure::said(format!(
            "the newest control log in these backups has {} entries, but {known} are known beside the root keys: {lost} \
             governance entries would be lost, and what they revoked or erased would come back. Restore from a newer \
             backup of the keys, or accept the loss with --accept-loss REASON",
            control.size
        )));
    }
    Ok(lost)
}

fn write_config(into: &Path, files: &std::collections::BTreeMap<String, Vec<u8>>) -> Result {
    for (path, bytes) in files {
        let path = into.join(path);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, bytes)?;
    }
    Ok(())
}

/// Copies the root's own files to where the restored mesh looks for them, unless they are there.
pub fn bring_keys(root: &FileRoot, to: &Path) -> Result {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(to)?;
    if std::fs::canonicalize(&root.folder)? == std::fs::canonicalize(to)? {
        return Ok(());
    }
    let mut files = vec![root.folder.join("epochs.sealed"), root.folder.join(revived::FILE)];
    if let vault::RootSecret::MachineKey { path } = &root.secret {
        files.push(path.clone());
    }
    for from in files.into_iter().filter(|file| file.exists()) {
        let place = to.join(from.file_name().unwrap_or_default());
        if place.exists() {
            return Err(Failure::said(format!(
                "{} is there already: root keys are never overwritten",
                place.display()
            )));
        }
        let bytes = zeroize::Zeroizing::new(std::fs::read(&from)?);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&place)?;
        std::io::Write::write_all(&mut file, &bytes)?;
        file.sync_all()?;
    }
    Ok(())
}

/// On a mesh whose data is older than what is known of it: puts the loss on record, so that the node starts.
async fn accept(cli: &Cli, reason: &str) -> Result {
    let ground =
        Ground::lay_accepting(config(cli)?, Arc::new(SystemClock), Arc::new(SystemEntropy), Some(reason)).await?;
    let entries = ground.facts.size();
    ground.close().await;
    say(&format!("accepted and on record: the control log goes on from {entries} entries"));
    Ok(())
}
