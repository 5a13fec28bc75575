//! Restoring: journals at a point in time, cut at a frame whose own signed checkpoint proves the cut; the control log,
//! the configuration and the keys always at their newest known state, so that nothing that was taken away comes back
//! (DESIGN law 11). Catalog, index, tiles and products are not here: they are rebuilt.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::Timestamp;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStore, ObjectStoreExt};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use crate::error::{BackupError, Result};
use crate::frames::{Frame, FrameHead, SEGMENT_HEADER, segment_name};
use crate::keys;
use crate::manifest::{self, BackupId, Extent, Kind, LogCopy, Manifest, Opener, Segment};
use crate::progress::Progress;
use crate::seal::Seal;
use crate::take::{self, CONTROL, ObjectCopy};
use crate::target::Target;

/// Segments on their way at once.
const PARALLEL: usize = 3;

/// To which point journals are restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    Newest,
    /// As a backup saw them.
    Backup(BackupId),
    /// Without what was appended later.
    Time(Timestamp),
}

/// Where a backup lies.
pub struct Places<'a> {
    pub data: &'a Target,
    /// Of keys; where it is the same target it can be left out.
    pub keys: Option<&'a Target>,
}

impl Places<'_> {
    fn keys(&self) -> &Target {
        self.keys.unwrap_or(self.data)
    }
}

/// A restore that was planned: everything chosen, nothing written.
pub struct Restoration<'a> {
    places: Places<'a>,
    at: At,
    data: (Manifest, Seal),
    keys: (Manifest, Seal),
    control: (LogCopy, BackupId, &'static str),
    config: (Manifest, Seal, Kind),
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
    pub size: u64,
    /// Entries in the backup; more than `size` where the log was cut.
    pub of: u64,
    /// The signed checkpoint at `size`; none when the log is empty.
    pub checkpoint: Option<String>,
    /// The checkpoint that the backup names.
    pub outside: String,
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
    /// Key scopes that a living epoch opens, and those that none does any more.
    pub scopes: u64,
    pub scopes_dead: u64,
    /// Said to people: what is not as they may expect.
    pub notes: Vec<String>,
}

impl<'a> Restoration<'a> {
    /// Chooses what to restore. Nothing is written.
    pub async fn plan(places: Places<'a>, at: At, opener: &Opener) -> Result<Restoration<'a>> {
        let none = || BackupError::refused(format!("`{}` holds no finished backup", places.data.name()));
        let newest = manifest::newest(places.data, Kind::Data, opener).await?;
        let data = match &at {
            At::Backup(id) => Some(opener.open(places.data, Kind::Data, id).await?),
            At::Newest | At::Time(_) => newest,
        };
        let data = data.ok_or_else(none)?;
        let keys = manifest::newest(places.keys(), Kind::Keys, opener).await?.ok_or_else(|| {
            BackupError::refused(format!(
                "`{}` holds no backup of key slots, and without them nothing opens: name their target with --keys",
                places.keys().name()
            ))
        })?;
        let living = living_epochs(opener).await?;
        let epochs = keys.0.keys.as_ref().map(|copy| copy.epochs.clone()).unwrap_or_default();
        if !epochs.is_empty() && !epochs.iter().any(|epoch| living.contains(epoch)) {
            return Err(BackupError::refused(
                "every key in the newest keys backup hangs on a key epoch that was destroyed, so nothing in it opens: \
                 a keys backup must be taken after each turn of the epoch",
            ));
        }
        let (control, config) = newest_governance(&places, opener).await?;
        if data.0.mesh != keys.0.mesh || data.0.mesh != config.0.mesh {
            return Err(BackupError::refused("the keys in this target are those of another mesh"));
        }
        Ok(Restoration { places, at, data, keys, control, config, living })
    }

    /// The data backup that was chosen.
    pub fn manifest(&self) -> &Manifest {
        &self.data.0
    }

    /// The keys backup that was chosen.
    pub fn keys_manifest(&self) -> &Manifest {
        &self.keys.0
    }

    /// Entries of the control log that will be there.
    pub fn control_size(&self) -> u64 {
        self.control.0.size
    }

    /// The mesh folder's files, from the newest backup of all: an older one could revive a principal or a policy.
    pub async fn config(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let (manifest, seal, kind) = &self.config;
        let target = if *kind == Kind::Data { self.places.data } else { self.places.keys() };
        let plain = take::open_sealed(&manifest.config, seal, target).await?;
        let damaged = || BackupError::damaged(manifest.config.name.as_str());
        let files: BTreeMap<String, String> = serde_json::from_slice(&plain).map_err(|_| damaged())?;
        files
            .into_iter()
            .map(|(path, text)| {
                let is_inside = Path::new(&path).components().all(|c| matches!(c, std::path::Component::Normal(_)));
                let bytes = base::hex::decode(&text).filter(|_| is_inside).ok_or_else(damaged)?;
                Ok((path, bytes))
            })
            .collect()
    }

    /// Writes keys, logs and objects into an empty place.
    pub async fn write(&self, layout: &Layout, opener: &Opener, progress: &Progress) -> Result<Restored> {
        let begun = opener.clock.now();
        make_private(&layout.data)?;
        let objects = self.objects().await?;
        self.expect(&objects, progress);
        progress.stage("key slots");
        let (scopes, scopes_dead) = self.write_keys(layout, progress).await?;
        let mut logs = Vec::new();
        for copy in self.logs() {
            let Some(folder) = folder_of(layout, copy) else { continue };
            progress.stage(format!("log {}", copy.name));
            let target =
                if copy.name == CONTROL && self.control.2 == "keys" { self.places.keys() } else { self.places.data };
            let until = match &self.at {
                At::Time(time) if copy.name.starts_with("journal-") => Some(*time),
                _ => None,
            };
            logs.push(write_log(copy, &folder, until, target, progress).await?);
        }
        progress.stage("objects");
        let mut bytes: u64 = self.data.0.log_bytes();
        for object in &objects {
            let copy = self.places.data.get_piece(&object.sha256).await?;
            bytes += copy.len() as u64;
            progress.add(copy.len() as u64);
            layout.objects.put(&object_store::path::Path::from(object.path.as_str()), copy.into()).await?;
        }
        let newest = logs.iter().filter(|log| log.name.starts_with("journal-")).filter_map(log_newest).max();
        Ok(Restored {
            backup: self.data.0.id.clone(),
            taken: self.data.0.taken,
            keys: self.keys.0.id.clone(),
            control: self.control.1.clone(),
            config: self.config.0.id.clone(),
            notes: self.notes(&logs, scopes_dead),
            logs,
            objects: objects.len() as u64,
            bytes,
            took_ms: opener.clock.now().ms() - begun.ms(),
            newest,
            scopes,
            scopes_dead,
        })
    }

    /// The chosen backup's logs, with the newest control log in the place of its own.
    fn logs(&self) -> Vec<&LogCopy> {
        let others = self.data.0.logs.iter().filter(|log| log.name != CONTROL);
        std::iter::once(&self.control.0).chain(others).collect()
    }

    async fn objects(&self) -> Result<Vec<ObjectCopy>> {
        let mut by_path = BTreeMap::new();
        for list in &self.data.0.objects.lists {
            for object in take::open_list(list, &self.data.1, self.places.data).await? {
                by_path.insert(object.path.clone(), object);
            }
        }
        Ok(by_path.into_values().collect())
    }

    fn expect(&self, objects: &[ObjectCopy], progress: &Progress) {
        let logs: u64 = self.logs().iter().flat_map(|log| &log.segments).map(Segment::end).sum();
        let keys = self.keys.0.keys.as_ref().map_or(0, |keys| keys.bytes);
        progress.expect(logs + keys + objects.iter().map(|object| object.bytes).sum::<u64>());
    }

    /// Scopes that open, and those whose epoch is gone.
    async fn write_keys(&self, layout: &Layout, progress: &Progress) -> Result<(u64, u64)> {
        let (manifest, seal) = &self.keys;
        let copy = manifest.keys.as_ref().ok_or_else(|| BackupError::damaged(manifest.id.as_str()))?;
        let path = layout.data.join("keys.db");
        keys::restore_table(copy, &manifest.id, seal, self.places.keys(), &path, progress).await?;
        let living: BTreeSet<i64> = self.living.iter().map(|epoch| epoch.cast_signed()).collect();
        let connection = Connection::open(&path)?;
        let mut statement =
            connection.prepare("SELECT epoch, COUNT(*) FROM scope WHERE destroyed = 0 GROUP BY epoch")?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?.cast_unsigned())))?;
        let (mut open, mut dead) = (0, 0);
        for row in rows {
            let (epoch, count) = row?;
            *(if living.contains(&epoch) { &mut open } else { &mut dead }) += count;
        }
        Ok((open, dead))
    }

    fn notes(&self, logs: &[RestoredLog], dead: u64) -> Vec<String> {
        let mut notes = Vec::new();
        if self.keys.0.taken < self.data.0.taken {
            notes.push(format!(
                "the keys were copied at {}, before the data at {}: what came in between opens only if its key was there already",
                self.keys.0.taken, self.data.0.taken
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
        let of_data = self.data.0.log(CONTROL).map_or(0, |log| log.size);
        if self.control.0.size > of_data {
            notes.push(format!(
                "the control log is newer than the data: {} governance entries after the backup are applied",
                self.control.0.size - of_data
            ));
        }
        notes
    }
}

async fn living_epochs(opener: &Opener) -> Result<Vec<u64>> {
    let root = opener.root.as_ref().ok_or_else(|| BackupError::refused("restoring needs the root keys"))?;
    Ok(root.epochs().await?.into_iter().map(|epoch| epoch.0).collect())
}

/// The newest control log and the newest configuration of all backups that are there, of data and of keys.
async fn newest_governance<'a>(
    places: &Places<'a>,
    opener: &Opener,
) -> Result<((LogCopy, BackupId, &'static str), (Manifest, Seal, Kind))> {
    let mut control: Option<(LogCopy, BackupId, &'static str)> = None;
    let mut config: Option<(Manifest, Seal, Kind)> = None;
    for (target, kind) in [(places.data, Kind::Data), (places.keys(), Kind::Keys)] {
        for id in manifest::ids(target, kind).await? {
            let (manifest, seal) = match opener.open(target, kind, &id).await {
                Ok(found) => found,
                Err(BackupError::Damaged { piece }) => {
                    tracing::warn!(%piece, "a manifest is damaged and passed over");
                    continue;
                }
                Err(error) => return Err(error),
            };
            if let Some(log) = manifest.log(CONTROL)
                && control.as_ref().is_none_or(|(newest, ..)| newest.size < log.size)
            {
                control = Some((log.clone(), id, kind.folder()));
            }
            if config.as_ref().is_none_or(|(newest, ..)| newest.taken <= manifest.taken) {
                config = Some((manifest, seal, kind));
            }
        }
    }
    control.zip(config).ok_or_else(|| BackupError::refused("no backup holds a control log"))
}

fn folder_of(layout: &Layout, copy: &LogCopy) -> Option<PathBuf> {
    match copy.name.as_str() {
        "audit-second" => layout.second.clone(),
        name => Some(layout.data.join("logs").join(name)),
    }
}

fn make_private(folder: &Path) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(BackupError::io("making", folder))
}

/// When the newest entry of a restored log came.
fn log_newest(log: &RestoredLog) -> Option<Timestamp> {
    let last = crate::frames::segments(&log.folder).ok()?;
    last.iter().rev().find_map(|segment| {
        let bytes = std::fs::read(&segment.path).ok()?;
        last_frame(&bytes).and_then(|(_, frame)| frame.newest_ms()).map(Timestamp)
    })
}

/// Offset and frame of the last frame in a segment's bytes.
fn last_frame(bytes: &[u8]) -> Option<(usize, Frame<'_>)> {
    let (mut at, mut last) = (SEGMENT_HEADER as usize, None);
    while let Some(head) = bytes.get(at..).and_then(FrameHead::parse) {
        let next = at + usize::try_from(head.disk_bytes()).ok()?;
        if next > bytes.len() {
            break;
        }
        last = Some(at);
        at = next;
    }
    let at = last?;
    Frame::parse(&bytes[at..]).map(|frame| (at, frame))
}

/// Segments of a log with the runs to write, up to a time.
fn wanted(copy: &LogCopy, until: Option<Timestamp>) -> Vec<(u64, Vec<Extent>, bool)> {
    let mut out = Vec::new();
    for segment in &copy.segments {
        let Some(until) = until else {
            out.push((segment.first, segment.extents.clone(), false));
            continue;
        };
        let whole = segment.extents.iter().take_while(|extent| extent.newest_ms <= until.ms()).count();
        let ends_here = whole < segment.extents.len();
        // The run in which the time lies is written, and cut.
        out.push((segment.first, segment.extents[..(whole + usize::from(ends_here))].to_vec(), ends_here));
        if ends_here {
            break;
        }
    }
    out
}

async fn write_log(
    copy: &LogCopy,
    folder: &Path,
    until: Option<Timestamp>,
    target: &Target,
    progress: &Progress,
) -> Result<RestoredLog> {
    let wal = folder.join("wal");
    if wal.exists() {
        return Err(BackupError::refused(format!(
            "`{}` is there already: restore into an empty folder",
            wal.display()
        )));
    }
    make_private(&wal)?;
    let segments = wanted(copy, until);
    let ends: Vec<(u64, Option<String>)> = futures::stream::iter(segments)
        .map(|(first, extents, is_cut)| {
            let path = wal.join(segment_name(first));
            async move { write_segment(&path, first, extents, until.filter(|_| is_cut), target, progress).await }
        })
        .buffered(PARALLEL)
        .try_collect()
        .await?;
    // The newest segment that has frames ends the log; one that was cut to nothing goes, unless it is the first.
    let last = ends.iter().rev().find_map(|(size, checkpoint)| checkpoint.clone().map(|note| (*size, note)));
    let (size, checkpoint) = match last {
        Some((size, note)) => (size, Some(note)),
        None => (0, None),
    };
    sync_folder(&wal)?;
    sync_folder(folder)?;
    if let Some(note) = &checkpoint {
        prove(copy, size, note)?;
    }
    if until.is_none() && size != copy.size {
        return Err(BackupError::damaged(format!("log {}", copy.name)));
    }
    Ok(RestoredLog {
        name: copy.name.clone(),
        folder: folder.to_owned(),
        size,
        of: copy.size,
        checkpoint,
        outside: copy.checkpoint.clone(),
    })
}

/// The cut ends at a frame whose checkpoint this log's key signed, over just these entries.
fn prove(copy: &LogCopy, size: u64, note: &str) -> Result<()> {
    let damaged = || BackupError::damaged(format!("log {}", copy.name));
    let mut parts = copy.vkey.split('+');
    let (name, key) = (parts.next().unwrap_or_default(), parts.nth(1).unwrap_or_default());
    let key = STANDARD.decode(key).ok().and_then(|key| <[u8; 32]>::try_from(key.get(1..)?).ok()).ok_or_else(damaged)?;
    let signed = ledger::note::verify(note, name, &key).ok_or_else(damaged)?;
    let fits = signed.size == size
        && ledger::note::verify(&copy.checkpoint, name, &key)
            .is_some_and(|outside| outside.size != size || outside.root == signed.root);
    if fits { Ok(()) } else { Err(damaged()) }
}

/// Writes the runs of a segment, cuts after the last frame not later than `until`. Returns where the log stands after
/// it and the last frame's checkpoint.
async fn write_segment(
    path: &Path,
    first: u64,
    extents: Vec<Extent>,
    until: Option<Timestamp>,
    target: &Target,
    progress: &Progress,
) -> Result<(u64, Option<String>)> {
    let mut pieces: Vec<Bytes> = Vec::with_capacity(extents.len());
    for extent in &extents {
        let bytes = target.get_piece(&extent.sha256).await?;
        if bytes.len() as u64 != extent.to - extent.from {
            return Err(BackupError::damaged(extent.sha256.as_str()));
        }
        progress.add(bytes.len() as u64);
        pieces.push(bytes);
    }
    let path = path.to_owned();
    let write = tokio::task::spawn_blocking(move || {
        let mut bytes = match <[Bytes; 1]>::try_from(pieces) {
            Ok([one]) => Vec::from(one),
            Err(many) => many.concat(),
        };
        if let Some(until) = until {
            cut(&mut bytes, until);
        }
        let said = match last_frame(&bytes) {
            Some((_, frame)) => (frame.head.end(), Some(frame.checkpoint().to_owned())),
            None => (first, None),
        };
        if said.1.is_none() && first > 0 {
            // Nothing of it was wanted: the log ends in the segment before.
            return Ok(said);
        }
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(BackupError::io("making", &path))?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(BackupError::io("writing", &path))?;
        Ok(said)
    });
    write.await.map_err(|_| BackupError::refused("writing a segment was cut short"))?
}

/// Cuts a segment after its last frame whose entries are all not later than `until`.
fn cut(bytes: &mut Vec<u8>, until: Timestamp) {
    let mut at = SEGMENT_HEADER as usize;
    while let Some(frame) = bytes.get(at..).and_then(Frame::parse) {
        if frame.newest_ms().is_none_or(|newest| newest > until.ms()) {
            break;
        }
        at += usize::try_from(frame.head.disk_bytes()).unwrap_or(usize::MAX);
    }
    bytes.truncate(at);
}

fn sync_folder(folder: &Path) -> Result<()> {
    std::fs::File::open(folder).and_then(|file| file.sync_all()).map_err(BackupError::io("syncing", folder))
}
