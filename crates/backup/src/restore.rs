//! Planning a restore: journals at a point in time; the control log, the configuration and the keys always at their
//! newest known state, so that nothing that was taken away comes back (DESIGN law 11). Writing is in `write`. Catalog,
//! index, tiles and products are not here: they are rebuilt.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use base::{Position, Timestamp};
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};

use crate::error::{BackupError, Result};
use crate::keys;
use crate::manifest::{self, BackupId, Kind, LogCopy, Manifest, ObjectCopy, Opener, Segment};
use crate::pieces::Pieces;
use crate::progress::Progress;
use crate::seal::Seal;
use crate::take::CONTROL;
use crate::target::Target;
use crate::write;

/// To which point journals are restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    Newest,
    /// As a backup saw them.
    Backup(BackupId),
    /// Without what was appended later.
    Time(Timestamp),
    /// As of the moment when this journal entry was appended.
    Position(Position),
}

/// Where a backup lies: keys apart from the data.
#[derive(Clone, Copy)]
pub struct Places<'a> {
    pub data: &'a Target,
    pub keys: &'a Target,
}

/// One manifest with what opens its pieces.
struct Chosen<'a> {
    manifest: Manifest,
    seal: Seal,
    target: &'a Target,
}

impl Chosen<'_> {
    fn pieces<'b>(&'b self, opener: &'b Opener) -> Pieces<'b> {
        Pieces { target: self.target, seal: &self.seal, entropy: &*opener.entropy }
    }
}

/// A restore that was planned: everything chosen, nothing written.
pub struct Restoration<'a> {
    opener: &'a Opener,
    /// Journals end here.
    until: Option<Timestamp>,
    data: Chosen<'a>,
    keys: Chosen<'a>,
    /// With the newest control log,
    control: Chosen<'a>,
    /// and the newest configuration.
    config: Chosen<'a>,
    /// The root's living epochs.
    living: Vec<u64>,
}

/// Where a restored mesh keeps its things.
pub struct Layout {
    pub data: PathBuf,
    /// The folder of the second audit log, where there is one.
    pub second: Option<PathBuf>,
    pub objects: Arc<dyn ObjectStore>,
}

/// A log as it was restored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RestoredLog {
    pub name: String,
    pub folder: PathBuf,
    pub vkey: String,
    pub size: u64,
    /// Entries in the backup; more than `size` where the log was cut.
    pub of: u64,
    /// The signed checkpoint at `size`; none when the log is empty.
    pub checkpoint: Option<String>,
    pub newest: Option<Timestamp>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Restored {
    pub backup: BackupId,
    pub taken: Timestamp,
    pub keys: BackupId,
    /// The backup whose control log is the newest.
    pub control: BackupId,
    pub config: BackupId,
    pub logs: Vec<RestoredLog>,
    pub objects: u64,
    pub bytes: u64,
    pub took_ms: i64,
    /// When the newest entry of the restored journals came.
    pub newest: Option<Timestamp>,
    /// Key scopes that no living epoch opens any more.
    pub scopes_dead: u64,
    /// Said to people: what is not as they may expect.
    pub notes: Vec<String>,
}

impl<'a> Restoration<'a> {
    /// Chooses what to restore. Nothing is written.
    pub async fn plan(places: Places<'a>, at: At, opener: &'a Opener) -> Result<Restoration<'a>> {
        let root = opener.root.as_ref().ok_or_else(|| BackupError::refused("restoring needs the root keys"))?;
        let living: Vec<u64> = root.epochs().await?.into_iter().map(|epoch| epoch.0).collect();
        let found = match &at {
            At::Backup(id) => Some(opener.open(places.data, Kind::Data, id).await?),
            _ => manifest::newest(places.data, Kind::Data, opener).await?,
        };
        let none = || BackupError::refused(format!("`{}` holds no finished backup of data", places.data.name()));
        let (manifest, seal) = found.ok_or_else(none)?;
        let data = Chosen { manifest, seal, target: places.data };
        let keys = newest_keys(places.keys, &living, opener).await?;
        let (control, config) = newest_governance(places, opener).await?;
        if data.manifest.mesh != keys.manifest.mesh || data.manifest.mesh != config.manifest.mesh {
            return Err(BackupError::refused("the keys in this target are those of another mesh"));
        }
        let mut plan = Restoration { opener, until: None, data, keys, control, config, living };
        plan.until = match at {
            At::Newest | At::Backup(_) => None,
            At::Time(time) => Some(time),
            At::Position(position) => Some(plan.time_of(&position).await?),
        };
        Ok(plan)
    }

    /// The data backup that was chosen.
    pub fn manifest(&self) -> &Manifest {
        &self.data.manifest
    }

    /// The control log that will be there: the newest of all backups.
    pub fn control(&self) -> Result<&LogCopy> {
        self.control.manifest.log(CONTROL).ok_or_else(|| BackupError::refused("no backup holds a control log"))
    }

    /// The mesh folder's files, from the newest backup of all: an older one could revive a principal or a policy.
    pub async fn config(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let piece = &self.config.manifest.config;
        let damaged = || BackupError::damaged(piece.as_str());
        let plain = self.config.pieces(self.opener).get(piece).await?;
        let files: BTreeMap<String, String> = serde_json::from_slice(&plain).map_err(|_| damaged())?;
        files
            .into_iter()
            .map(|(path, text)| {
                let is_inside = Path::new(&path).components().all(|c| matches!(c, Component::Normal(_)));
                let bytes = base::hex::decode(&text).filter(|_| is_inside).ok_or_else(damaged)?;
                Ok((path, bytes))
            })
            .collect()
    }

    /// Writes keys, logs and objects into an empty place; every hash and every checkpoint is checked on the way.
    pub async fn write(&self, layout: &Layout, progress: &Progress) -> Result<Restored> {
        let begun = self.opener.clock.now();
        write::make_private(&layout.data)?;
        let objects = self.objects().await?;
        self.expect(&objects, progress)?;
        progress.stage("key slots");
        let copy =
            self.keys.manifest.keys.as_ref().ok_or_else(|| BackupError::damaged(self.keys.manifest.id.as_str()))?;
        let table = layout.data.join("keys.db");
        keys::restore_table(copy, self.keys.pieces(self.opener), &table, progress).await?;
        let dead = keys::epochs_of(&table)?.into_iter().filter(|(epoch, _)| !self.living.contains(epoch));
        let scopes_dead = dead.map(|(_, scopes)| scopes).sum();
        let mut logs = vec![self.write_log(&self.control, self.control()?, layout, progress).await?];
        for copy in self.data.manifest.logs.iter().filter(|log| log.name != CONTROL) {
            logs.push(self.write_log(&self.data, copy, layout, progress).await?);
        }
        progress.stage("objects");
        for object in &objects {
            let copy = self.data.pieces(self.opener).get(&object.piece).await?;
            progress.add(copy.len() as u64);
            layout.objects.put(&object_store::path::Path::from(object.path.as_str()), copy.into()).await?;
        }
        Ok(Restored {
            backup: self.data.manifest.id.clone(),
            taken: self.data.manifest.taken,
            keys: self.keys.manifest.id.clone(),
            control: self.control.manifest.id.clone(),
            config: self.config.manifest.id.clone(),
            notes: self.notes(&logs, scopes_dead),
            newest: logs.iter().filter(|log| log.name.starts_with("journal-")).filter_map(|log| log.newest).max(),
            logs,
            objects: objects.len() as u64,
            bytes: progress.moment().done_bytes,
            took_ms: self.opener.clock.now().ms() - begun.ms(),
            scopes_dead,
        })
    }

    async fn write_log(
        &self,
        from: &Chosen<'_>,
        copy: &LogCopy,
        layout: &Layout,
        progress: &Progress,
    ) -> Result<RestoredLog> {
        let folder = match (copy.name.as_str(), &layout.second) {
            ("audit-second", Some(second)) => second.clone(),
            (name, _) => layout.data.join("logs").join(name),
        };
        progress.stage(format!("log {}", copy.name));
        let until = self.until.filter(|_| copy.is_journal());
        write::write_log(copy, &folder, until, from.pieces(self.opener), progress).await
    }

    async fn objects(&self) -> Result<Vec<ObjectCopy>> {
        let mut by_path = BTreeMap::new();
        for list in &self.data.manifest.objects {
            let objects = self.data.pieces(self.opener).objects(list).await?;
            by_path.extend(objects.into_iter().map(|object| (object.path.clone(), object)));
        }
        Ok(by_path.into_values().collect())
    }

    fn expect(&self, objects: &[ObjectCopy], progress: &Progress) -> Result<()> {
        let others = self.data.manifest.logs.iter().filter(|log| log.name != CONTROL);
        let logs: u64 = others.chain([self.control()?]).flat_map(|log| &log.segments).map(Segment::end).sum();
        let keys = self.keys.manifest.keys.as_ref().map_or(0, |keys| keys.bytes);
        progress.expect(logs + keys + objects.iter().map(|object| object.bytes).sum::<u64>());
        Ok(())
    }

    /// When a journal entry was appended.
    async fn time_of(&self, position: &Position) -> Result<Timestamp> {
        let copy = self.data.manifest.log(position.log.as_str()).filter(|log| log.is_journal());
        let copy = copy.filter(|log| position.index < log.size).ok_or_else(|| {
            BackupError::refused(format!("{position} is no journal entry of backup {}", self.data.manifest.id))
        })?;
        let segment = copy.segments.iter().rev().find(|segment| segment.first <= position.index);
        let segment = segment.ok_or_else(|| BackupError::damaged(format!("log {}", copy.name)))?;
        write::time_of(segment, position.index, self.data.pieces(self.opener)).await
    }

    fn notes(&self, logs: &[RestoredLog], dead: u64) -> Vec<String> {
        let (data, keys) = (&self.data.manifest, &self.keys.manifest);
        let mut notes = Vec::new();
        if keys.taken < data.taken {
            notes.push(format!(
                "the keys were copied at {}, before the data at {}: what came in between opens only if its key was there already",
                keys.taken, data.taken
            ));
        }
        if dead > 0 {
            notes.push(format!("{dead} key scopes hang on a destroyed key epoch: what they seal is noise"));
        }
        for log in logs.iter().filter(|log| log.size < log.of) {
            notes.push(format!(
                "{} was cut at {} of {} entries: checkpoints of it that were kept outside and are newer will not fit any more",
                log.name, log.size, log.of
            ));
        }
        let known = data.log(CONTROL).map_or(0, |log| log.size);
        let newest = logs.iter().find(|log| log.name == CONTROL).map_or(0, |log| log.size);
        if newest > known {
            notes.push(format!(
                "the control log is newer than the data: {} entries that came after the backup are applied",
                newest - known
            ));
        }
        notes
    }
}

async fn newest_keys<'a>(target: &'a Target, living: &[u64], opener: &Opener) -> Result<Chosen<'a>> {
    let (manifest, seal) = manifest::newest(target, Kind::Keys, opener).await?.ok_or_else(|| {
        BackupError::refused(format!(
            "`{}` holds no backup of key slots, and without them nothing opens: name their target with --keys-from",
            target.name()
        ))
    })?;
    let epochs = manifest.keys.as_ref().map(|copy| copy.epochs.as_slice()).unwrap_or_default();
    if !epochs.is_empty() && !epochs.iter().any(|epoch| living.contains(epoch)) {
        return Err(BackupError::refused(
            "every key in the newest keys backup hangs on a key epoch that was destroyed, so nothing in it opens: a \
             keys backup must be taken after each turn of the epoch",
        ));
    }
    Ok(Chosen { manifest, seal, target })
}

/// The newest control log and the newest configuration of all backups that are there, of data and of keys.
async fn newest_governance<'a>(places: Places<'a>, opener: &Opener) -> Result<(Chosen<'a>, Chosen<'a>)> {
    let mut control: Option<Chosen<'a>> = None;
    let mut config: Option<Chosen<'a>> = None;
    let size = |manifest: &Manifest| manifest.log(CONTROL).map_or(0, |log| log.size);
    for (target, kind) in [(places.data, Kind::Data), (places.keys, Kind::Keys)] {
        for id in manifest::ids(target, kind).await? {
            let (manifest, seal) = match opener.open(target, kind, &id).await {
                Ok(found) => found,
                Err(BackupError::Damaged { piece }) => {
                    tracing::warn!(%piece, "a manifest is damaged and passed over");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let chosen = || Chosen { manifest: manifest.clone(), seal: seal.clone(), target };
            if control.as_ref().is_none_or(|newest| size(&newest.manifest) < size(&manifest)) {
                control = Some(chosen());
            }
            if config.as_ref().is_none_or(|newest| newest.manifest.taken <= manifest.taken) {
                config = Some(chosen());
            }
        }
    }
    control.zip(config).ok_or_else(|| BackupError::refused("no backup holds a control log"))
}
