//! Taking a backup: logs up to a durable frame, objects, configuration; then key slots, in a place of their own; each
//! manifest last. Everything that is there already is known by its name and not copied again. A backup that is cut
//! short leaves pieces that the next one uses, and no manifest: it does not count.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use base::{Clock, Entropy, Timestamp};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use store::SilverDigest;

use crate::error::{BackupError, Result};
use crate::keys;
use crate::logs::{self, LogSource};
use crate::manifest::{self, BackupId, Kind, Manifest, ObjectCopy, ObjectList, Opener};
use crate::pieces::{Pieces, prune};
use crate::progress::Progress;
use crate::seal::Seal;
use crate::target::Target;

/// The control log: governance facts, of which a restore always takes the newest.
pub const CONTROL: &str = "control";
/// Objects that are truth: bodies too large for the log. Products are derived and built anew.
const OBJECTS: &str = "journal";
/// Object lists beyond this are merged into one.
const LISTS_MAX: usize = 32;
/// Configuration files together.
const CONFIG_BYTES_MAX: usize = 64 << 20;

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

/// Where keys go, apart from the data.
pub struct KeysTo<'a> {
    pub target: &'a Target,
    /// The control log as it is when it is asked for: it must know what the keys know.
    pub control_now: &'a (dyn Fn() -> Result<LogSource> + Send + Sync),
    /// Keys backups to keep, at least one.
    pub keep: usize,
}

/// What was done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Taken {
    pub id: BackupId,
    pub keys: Option<BackupId>,
    /// What was durable by then is in it.
    pub taken: Timestamp,
    pub took_ms: i64,
    pub added_bytes: u64,
    pub total_bytes: u64,
    /// The newest entry of all journals that is in it; what came after would be lost with the machine.
    pub newest: Option<Timestamp>,
    pub logs: Vec<(String, u64)>,
    pub objects: u64,
    pub slots: u64,
    /// Backups that were removed, since enough newer ones are there.
    pub removed: usize,
}

/// Takes a backup of data, and of the keys when they have a target. Of data the newest `keep` are kept.
pub async fn take(
    source: &NodeSource,
    target: &Target,
    keep: usize,
    keys_to: Option<KeysTo<'_>>,
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
        total_bytes: data.bytes(),
        newest: data.newest_entry(),
        logs: data.logs.iter().map(|log| (log.name.clone(), log.size)).collect(),
        objects: data.object_count(),
        slots: 0,
        removed: prune(target, Kind::Data, keep, &opener).await?,
    };
    if let Some(keys_to) = keys_to {
        // After the data: keys newer than the data open all of it, older ones would not.
        let manifest = keys::take(source, &keys_to, &opener, progress).await?;
        taken.slots = manifest.keys.as_ref().map_or(0, |keys| keys.slots);
        taken.added_bytes += manifest.added_bytes;
        taken.removed += prune(keys_to.target, Kind::Keys, keys_to.keep, &opener).await?;
        taken.keys = Some(manifest.id);
    }
    taken.took_ms = source.clock.now().ms() - begun.ms();
    Ok(taken)
}

async fn take_data(source: &NodeSource, target: &Target, opener: &Opener, progress: &Progress) -> Result<Manifest> {
    let before = newest_of(source, target, Kind::Data, opener).await?;
    let pieces = source.pieces(target);
    let (logs, mut added) = copy_logs(&source.logs, before.as_ref(), pieces, progress).await?;
    // Objects after positions: whatever an entry refers to was stored before it.
    progress.stage("objects");
    let known = before.map(|before| before.objects).unwrap_or_default();
    let (objects, more) = copy_objects(source, known, pieces, progress).await?;
    progress.stage("configuration");
    let (config, last) = put_config(source, pieces).await?;
    added += more + last;
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
    put_manifest(&manifest, pieces).await?;
    Ok(manifest)
}

impl NodeSource {
    pub(crate) fn pieces<'a>(&'a self, target: &'a Target) -> Pieces<'a> {
        Pieces { target, seal: &self.seal, entropy: &*self.entropy }
    }
}

/// The newest backup of this mesh, to go on from.
pub(crate) async fn newest_of(
    source: &NodeSource,
    target: &Target,
    kind: Kind,
    opener: &Opener,
) -> Result<Option<Manifest>> {
    match manifest::newest(target, kind, opener).await? {
        Some((before, _)) if before.mesh != source.mesh => Err(BackupError::refused(format!(
            "`{}` holds backups of the mesh `{}`: give each mesh a target of its own",
            target.name(),
            before.mesh
        ))),
        found => Ok(found.map(|(before, _)| before)),
    }
}

/// The last step: from here on the backup counts.
pub(crate) async fn put_manifest(manifest: &Manifest, pieces: Pieces<'_>) -> Result<()> {
    let bytes = manifest::encode(manifest, pieces.seal, pieces.entropy)?;
    pieces.target.put(&manifest::path_of(manifest.kind, &manifest.id), Bytes::from(bytes)).await
}

pub(crate) async fn copy_logs(
    sources: &[LogSource],
    before: Option<&Manifest>,
    pieces: Pieces<'_>,
    progress: &Progress,
) -> Result<(Vec<manifest::LogCopy>, u64)> {
    let (mut copies, mut added) = (Vec::new(), 0);
    for source in sources {
        progress.stage(format!("log {}", source.name));
        let known = before.and_then(|before| before.log(&source.name));
        let (copy, bytes) = logs::copy(source, known, pieces, progress).await?;
        added += bytes;
        copies.push(copy);
    }
    Ok((copies, added))
}

/// Puts the objects that no list of `lists` holds, and a list of them.
async fn copy_objects(
    source: &NodeSource,
    mut lists: Vec<ObjectList>,
    pieces: Pieces<'_>,
    progress: &Progress,
) -> Result<(Vec<ObjectList>, u64)> {
    let mut known: HashMap<String, ObjectCopy> = HashMap::new();
    for list in &lists {
        known.extend(pieces.objects(list).await?.into_iter().map(|object| (object.path.clone(), object)));
    }
    let there: Vec<_> = source.objects.list(Some(&object_store::path::Path::from(OBJECTS))).try_collect().await?;
    let (mut fresh, mut added, mut present) = (Vec::new(), 0, BTreeSet::new());
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
            let (length, (piece, more)) = (bytes.len() as u64, pieces.put(bytes).await?);
            added += more;
            progress.add(object.size);
            fresh.push(ObjectCopy { path: path.clone(), bytes: length, piece });
        }
        present.insert(path);
    }
    let gone = known.keys().any(|path| !present.contains(path));
    if gone || lists.len() >= LISTS_MAX {
        // Written anew: without what was erased, and as one.
        let replaced: BTreeSet<String> = fresh.iter().map(|object| object.path.clone()).collect();
        fresh.extend(known.into_values().filter(|o| present.contains(&o.path) && !replaced.contains(&o.path)));
        lists.clear();
    }
    if !fresh.is_empty() {
        fresh.sort();
        let plain = serde_json::to_vec(&fresh).unwrap_or_default();
        let (piece, more) = pieces.put(Bytes::from(plain)).await?;
        added += more;
        let bytes = fresh.iter().map(|object| object.bytes).sum();
        lists.push(ObjectList { piece, count: fresh.len() as u64, bytes });
    }
    Ok((lists, added))
}

/// The mesh folder's files as one piece; the same piece again while nothing changed.
pub(crate) async fn put_config(source: &NodeSource, pieces: Pieces<'_>) -> Result<(String, u64)> {
    let total: usize = source.config.values().map(Vec::len).sum();
    if total > CONFIG_BYTES_MAX {
        return Err(BackupError::refused("the mesh folder's files are larger than 64 MiB: keep data out of them"));
    }
    let files: BTreeMap<&str, String> =
        source.config.iter().map(|(path, bytes)| (path.as_str(), base::hex::encode(bytes))).collect();
    pieces.put(Bytes::from(serde_json::to_vec(&files).unwrap_or_default())).await
}
