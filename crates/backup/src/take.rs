//! Taking a backup: logs up to a durable frame, objects, configuration; then key slots, in a place of their own; each
//! manifest last. Everything that is there already is known by its hash and not copied again. A backup that is cut
//! short leaves pieces that the next one uses, and no manifest: it does not count.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use base::{Clock, Entropy, Timestamp};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};

use crate::error::{BackupError, Result};
use crate::logs::{self, LogSource};
use crate::manifest::{self, BackupId, Kind, LogCopy, Manifest, ObjectLists, Opener, SealedPiece, SilverDigest};
use crate::progress::Progress;
use crate::seal::{Seal, sha256};
use crate::target::Target;
use crate::{keys, seal};

/// The control log: governance facts, of which a restore always takes the newest.
pub const CONTROL: &str = "control";
/// Objects that are truth: bodies too large for the log. Products are derived and built anew.
const OBJECTS: &str = "journal";
/// Object lists beyond this are merged into one.
const LISTS_MAX: usize = 32;
/// Configuration files together.
const CONFIG_BYTES_MAX: usize = 64 << 20;
/// Data manifests kept: the newest holds every earlier entry, so old ones matter only when it is damaged.
const DATA_MANIFESTS_KEPT: usize = 48;

/// A node, as a backup sees it. Positions were taken before this was made.
pub struct NodeSource {
    pub mesh: String,
    pub version: String,
    pub taken: Timestamp,
    pub logs: Vec<LogSource>,
    pub objects: Arc<dyn ObjectStore>,
    /// `keys.db`.
    pub key_table: PathBuf,
    /// A private folder for the copy of the key table on its way.
    pub scratch: PathBuf,
    /// Files of the mesh folder: path and content.
    pub config: BTreeMap<String, Vec<u8>>,
    pub silver: BTreeMap<String, SilverDigest>,
    pub seal: Seal,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
}

/// What was done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Taken {
    pub id: BackupId,
    pub keys: Option<BackupId>,
    pub taken: Timestamp,
    pub took_ms: i64,
    pub added_bytes: u64,
    pub total_bytes: u64,
    /// The newest entry of all journals that is in it; what came after would be lost with the machine.
    pub newest: Option<Timestamp>,
    pub logs: Vec<(String, u64)>,
    pub objects: u64,
    pub slots: u64,
    /// Keys backups that were removed, since enough newer ones are there.
    pub keys_removed: usize,
}

/// One entry of an object list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct ObjectCopy {
    pub path: String,
    pub bytes: u64,
    pub sha256: String,
}

/// Takes a backup of data, and of the keys when they have a target.
pub async fn take(
    source: &NodeSource,
    target: &Target,
    keys_target: Option<(&Target, usize)>,
    control_now: impl Fn() -> Result<LogSource>,
    progress: &Progress,
) -> Result<Taken> {
    let begun = source.clock.now();
    let opener = Opener::of_seal(source.seal.clone(), source.clock.clone(), source.entropy.clone());
    let data = take_data(source, target, &opener, progress).await?;
    let mut taken = Taken {
        id: data.id.clone(),
        keys: None,
        taken: data.taken,
        took_ms: 0,
        added_bytes: data.added_bytes,
        total_bytes: data.log_bytes() + data.objects.bytes,
        newest: newest_entry(&data.logs),
        logs: data.logs.iter().map(|log| (log.name.clone(), log.size)).collect(),
        objects: data.objects.count,
        slots: 0,
        keys_removed: 0,
    };
    if let Some((keys_target, keep)) = keys_target {
        // After the data: keys newer than the data open all of it, older ones would not.
        let (manifest, removed) = keys::take(source, keys_target, keep, &opener, control_now, progress).await?;
        taken.slots = manifest.keys.as_ref().map_or(0, |keys| keys.slots);
        taken.added_bytes += manifest.added_bytes;
        taken.keys_removed = removed;
        taken.keys = Some(manifest.id);
    }
    taken.took_ms = source.clock.now().ms() - begun.ms();
    Ok(taken)
}

/// When the newest entry of the journals came.
pub(crate) fn newest_entry(logs: &[LogCopy]) -> Option<Timestamp> {
    let journals = logs.iter().filter(|log| log.name.starts_with("journal-"));
    journals.flat_map(|log| &log.segments).flat_map(|s| &s.extents).map(|e| e.newest_ms).max().map(Timestamp)
}

async fn take_data(source: &NodeSource, target: &Target, opener: &Opener, progress: &Progress) -> Result<Manifest> {
    let before = manifest::newest(target, Kind::Data, opener).await?.map(|(manifest, _)| manifest);
    let before = before.filter(|before| before.mesh == source.mesh);
    let (logs, mut added) = copy_logs(&source.logs, before.as_ref(), target, progress).await?;
    // Objects after positions: whatever an entry refers to was stored before it.
    progress.stage("objects");
    let (objects, more) = copy_objects(source, before.as_ref().map(|b| &b.objects), target, progress).await?;
    added += more;
    progress.stage("configuration");
    let config = put_config(source, before.as_ref().map(|before| &before.config), target).await?;
    let manifest = Manifest {
        format: Manifest::FORMAT,
        kind: Kind::Data,
        id: BackupId::new(source.clock.now(), &*source.entropy),
        mesh: source.mesh.clone(),
        version: source.version.clone(),
        taken: source.taken,
        finished: source.clock.now(),
        logs,
        objects,
        config,
        silver: source.silver.clone(),
        keys: None,
        added_bytes: added,
    };
    progress.stage("manifest");
    put_manifest(&manifest, &source.seal, target, &*source.entropy).await?;
    forget_old(target).await?;
    Ok(manifest)
}

/// The last step: from here on the backup counts.
pub(crate) async fn put_manifest(
    manifest: &Manifest,
    seal: &Seal,
    target: &Target,
    entropy: &dyn Entropy,
) -> Result<()> {
    let bytes = manifest::encode(manifest, seal, entropy)?;
    target.put(&manifest::path_of(manifest.kind, &manifest.id), Bytes::from(bytes)).await
}

pub(crate) async fn copy_logs(
    sources: &[LogSource],
    before: Option<&Manifest>,
    target: &Target,
    progress: &Progress,
) -> Result<(Vec<LogCopy>, u64)> {
    let (mut copies, mut added) = (Vec::new(), 0);
    for source in sources {
        progress.stage(format!("log {}", source.name));
        let known = before.and_then(|before| before.log(&source.name));
        let (copy, bytes) = logs::copy(source, known, target, progress).await?;
        added += bytes;
        copies.push(copy);
    }
    Ok((copies, added))
}

async fn copy_objects(
    source: &NodeSource,
    before: Option<&ObjectLists>,
    target: &Target,
    progress: &Progress,
) -> Result<(ObjectLists, u64)> {
    let mut lists = before.map(|before| before.lists.clone()).unwrap_or_default();
    let mut known: HashMap<String, ObjectCopy> = HashMap::new();
    for list in &lists {
        for object in open_list(list, &source.seal, target).await? {
            known.insert(object.path.clone(), object);
        }
    }
    let there: Vec<_> = source.objects.list(Some(&object_store::path::Path::from(OBJECTS))).try_collect().await?;
    let (mut fresh, mut added) = (Vec::new(), 0);
    let mut present = BTreeSet::new();
    for object in there {
        let path = object.location.to_string();
        if known.get(&path).is_none_or(|known| known.bytes != object.size) {
            progress.expect(object.size);
            let bytes = match source.objects.get(&object.location).await {
                Ok(found) => found.bytes().await?,
                // Erased since it was listed.
                Err(object_store::Error::NotFound { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            let copy = ObjectCopy { path: path.clone(), bytes: bytes.len() as u64, sha256: sha256(&bytes) };
            if target.put_piece(&copy.sha256, bytes).await? {
                added += copy.bytes;
            }
            progress.add(object.size);
            fresh.push(copy);
        }
        present.insert(path);
    }
    let gone = known.keys().any(|path| !present.contains(path));
    if gone || lists.len() >= LISTS_MAX {
        // Written anew: without what was erased, and as one.
        fresh.extend(known.into_values());
        fresh.retain(|object| present.contains(&object.path));
        lists.clear();
    }
    fresh.sort();
    fresh.dedup_by(|a, b| a.path == b.path);
    let (mut count, mut bytes) = (0, 0);
    if !fresh.is_empty() {
        let plain = serde_json::to_vec(&fresh).unwrap_or_default();
        lists.push(put_sealed("objects", &plain, fresh.len() as u64, source, target).await?);
    }
    for list in &lists {
        count += list.count;
        bytes += open_list(list, &source.seal, target).await?.iter().map(|object| object.bytes).sum::<u64>();
    }
    Ok((ObjectLists { lists, count, bytes }, added))
}

pub(crate) async fn open_list(list: &SealedPiece, seal: &Seal, target: &Target) -> Result<Vec<ObjectCopy>> {
    let plain = open_sealed(list, seal, target).await?;
    serde_json::from_slice(&plain).map_err(|_| BackupError::damaged(list.name.as_str()))
}

/// The mesh folder's files, sealed; the same piece again while nothing changed.
pub(crate) async fn put_config(
    source: &NodeSource,
    before: Option<&SealedPiece>,
    target: &Target,
) -> Result<SealedPiece> {
    let total: usize = source.config.values().map(Vec::len).sum();
    if total > CONFIG_BYTES_MAX {
        return Err(BackupError::refused("the mesh folder's files are larger than 64 MiB: keep data out of them"));
    }
    let files: BTreeMap<&str, String> =
        source.config.iter().map(|(path, bytes)| (path.as_str(), base::hex::encode(bytes))).collect();
    let plain = serde_json::to_vec(&files).unwrap_or_default();
    let content = sha256(&plain);
    if let Some(before) = before.filter(|before| before.content == content) {
        return Ok(before.clone());
    }
    put_sealed("config", &plain, files.len() as u64, source, target).await
}

pub(crate) async fn put_sealed(
    what: &str,
    plain: &[u8],
    count: u64,
    source: &NodeSource,
    target: &Target,
) -> Result<SealedPiece> {
    let mut random = [0; 16];
    source.entropy.fill(&mut random);
    let name = format!("{what}/{}", base::hex::encode(&random));
    let sealed = source.seal.seal(&name, b"", plain, &*source.entropy)?;
    let hash = sha256(&sealed);
    target.put_piece(&hash, Bytes::from(sealed)).await?;
    Ok(SealedPiece { name, sha256: hash, content: seal::sha256(plain), count })
}

pub(crate) async fn open_sealed(piece: &SealedPiece, seal: &Seal, target: &Target) -> Result<Vec<u8>> {
    let sealed = target.get_piece(&piece.sha256).await?;
    let plain = seal.open(&piece.name, b"", &sealed)?;
    if sha256(&plain) == piece.content { Ok(plain) } else { Err(BackupError::damaged(piece.name.as_str())) }
}

/// Old data manifests go; the pieces that they share with newer ones stay.
async fn forget_old(target: &Target) -> Result<()> {
    let ids = manifest::ids(target, Kind::Data).await?;
    for id in ids.iter().rev().skip(DATA_MANIFESTS_KEPT) {
        target.delete(&manifest::path_of(Kind::Data, id)).await?;
    }
    Ok(())
}
