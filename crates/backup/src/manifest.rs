//! What a backup says of itself. A manifest is written last: a backup without one does not count. It is sealed; its
//! path holds its time and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::{Clock, Entropy, Timestamp};
use serde::{Deserialize, Serialize};
use store::SilverDigest;
use vault::RootKeys;

use crate::error::{BackupError, Result};
use crate::seal::Seal;
use crate::target::Target;

const MAGIC: &[u8] = b"WMBACKUP1\n";
const FORMAT: u32 = 1;
/// The clear line before the sealed manifest.
const HEADER_BYTES_MAX: usize = 4096;

/// Data (logs, objects, configuration), or key slots with the control log and the configuration beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Data,
    Keys,
}

impl Kind {
    pub fn folder(self) -> &'static str {
        match self {
            Kind::Data => "data",
            Kind::Keys => "keys",
        }
    }
}

/// `20261125T050243123Z-1f2e3d4c`: when, and a random end.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BackupId(String);

impl BackupId {
    pub fn new(at: Timestamp, entropy: &dyn Entropy) -> BackupId {
        let mut random = [0; 4];
        entropy.fill(&mut random);
        let time: String = at.to_string().chars().filter(|c| !matches!(c, '-' | ':' | '.')).collect();
        BackupId(format!("{time}-{}", base::hex::encode(&random)))
    }

    pub fn parse(text: &str) -> Option<BackupId> {
        let (time, random) = text.split_once('-')?;
        let known = time.len() == 19
            && time.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'T' | b'Z'))
            && random.len() == 8
            && random.bytes().all(|b| b.is_ascii_hexdigit());
        known.then(|| BackupId(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for BackupId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A run of a segment file, from one frame border to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    pub from: u64,
    pub to: u64,
    pub piece: String,
    /// When its newest entry was appended.
    pub newest_ms: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Index of its first entry.
    pub first: u64,
    pub extents: Vec<Extent>,
    /// Where its last frame begins, and that frame's hash: from these the next backup sees that it is the same.
    pub last_offset: u64,
    pub last_hash: String,
}

impl Segment {
    /// Where what is backed up of it ends.
    pub fn end(&self) -> u64 {
        self.extents.last().map_or(0, |extent| extent.to)
    }
}

/// A log, up to a frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogCopy {
    /// `journal-ehr`, `control`, `audit`, `audit-second`.
    pub name: String,
    /// Its folder within the mesh folder.
    pub place: String,
    pub vkey: String,
    pub size: u64,
    /// The signed checkpoint at this size.
    pub checkpoint: String,
    pub segments: Vec<Segment>,
}

impl LogCopy {
    pub fn is_journal(&self) -> bool {
        self.name.starts_with("journal-")
    }
}

/// Objects beside the logs, in lists that are written once; later ones add.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectList {
    /// The piece that holds the list: [`ObjectCopy`]s as JSON.
    pub piece: String,
    pub count: u64,
    /// Of the objects together.
    pub bytes: u64,
}

/// One entry of an object list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectCopy {
    pub path: String,
    pub bytes: u64,
    pub piece: String,
}

/// The copied key table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyCopy {
    /// Pieces of it, in order.
    pub chunks: Vec<String>,
    pub bytes: u64,
    pub slots: u64,
    pub scopes: u64,
    /// Epochs that its living scopes are wrapped under. When one is destroyed, what hung on it is noise.
    pub epochs: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub kind: Kind,
    pub id: BackupId,
    pub mesh: String,
    pub version: String,
    /// When the positions were taken: what came before is in it.
    pub taken: Timestamp,
    pub finished: Timestamp,
    pub logs: Vec<LogCopy>,
    #[serde(default)]
    pub objects: Vec<ObjectList>,
    /// The piece with the mesh folder's files.
    pub config: String,
    /// What silver was of each journal, so that a restored copy can be compared.
    #[serde(default)]
    pub silver: BTreeMap<String, SilverDigest>,
    #[serde(default)]
    pub keys: Option<KeyCopy>,
    /// Bytes that this backup added to the target.
    pub added_bytes: u64,
}

impl Manifest {
    pub const FORMAT: u32 = FORMAT;

    pub fn log(&self, name: &str) -> Option<&LogCopy> {
        self.logs.iter().find(|log| log.name == name)
    }

    /// Bytes of the logs, objects and keys in it.
    pub fn bytes(&self) -> u64 {
        let logs: u64 = self.logs.iter().flat_map(|log| &log.segments).map(Segment::end).sum();
        logs + self.objects.iter().map(|list| list.bytes).sum::<u64>() + self.keys.as_ref().map_or(0, |keys| keys.bytes)
    }

    pub fn object_count(&self) -> u64 {
        self.objects.iter().map(|list| list.count).sum()
    }

    /// When the newest entry of the journals in it was appended.
    pub fn newest_entry(&self) -> Option<Timestamp> {
        let journals = self.logs.iter().filter(|log| log.is_journal());
        journals.flat_map(|log| &log.segments).flat_map(|s| &s.extents).map(|e| e.newest_ms).max().map(Timestamp)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    kind: Kind,
    id: BackupId,
    /// The node secret, wrapped by the root.
    secret: String,
}

pub fn path_of(kind: Kind, id: &BackupId) -> String {
    format!("{}/{id}.manifest", kind.folder())
}

/// The bytes of a sealed manifest.
pub(crate) fn encode(manifest: &Manifest, seal: &Seal, entropy: &dyn Entropy) -> Result<Vec<u8>> {
    let secret = base::hex::encode(seal.wrapped());
    let header = Header { kind: manifest.kind, id: manifest.id.clone(), secret };
    let mut out = MAGIC.to_vec();
    // A struct of strings and numbers always serialises.
    out.extend(serde_json::to_vec(&header).unwrap_or_default());
    out.push(b'\n');
    let plain = serde_json::to_vec(manifest).unwrap_or_default();
    let mut nonce = [0; 12];
    entropy.fill(&mut nonce);
    let sealed = seal.seal(&path_of(manifest.kind, &manifest.id), &out, &plain, nonce)?;
    out.extend(sealed);
    Ok(out)
}

/// Opens manifests with the root keys, or with the seal of a running node.
pub struct Opener {
    pub root: Option<Arc<dyn RootKeys>>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    seals: tokio::sync::Mutex<Vec<Seal>>,
}

impl Opener {
    pub fn of_root(root: Arc<dyn RootKeys>, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Opener {
        Opener { root: Some(root), clock, entropy, seals: tokio::sync::Mutex::default() }
    }

    pub fn of_seal(seal: Seal, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Opener {
        Opener { root: None, clock, entropy, seals: tokio::sync::Mutex::new(vec![seal]) }
    }

    /// A node has one seal; it is found again without asking the root.
    async fn seal(&self, wrapped: &[u8]) -> Result<Seal> {
        let mut seals = self.seals.lock().await;
        if let Some(known) = seals.iter().find(|seal| seal.wrapped() == wrapped) {
            return Ok(known.clone());
        }
        let Some(root) = &self.root else {
            return Err(BackupError::refused("this target holds the backups of another node"));
        };
        let seal = Seal::of_wrapped(wrapped, root, &self.clock, &self.entropy).await?;
        seals.push(seal.clone());
        Ok(seal)
    }

    /// A manifest, its seal checked, and the seal that opens its pieces.
    pub async fn open(&self, target: &Target, kind: Kind, id: &BackupId) -> Result<(Manifest, Seal)> {
        let path = path_of(kind, id);
        let damaged = || BackupError::damaged(path.as_str());
        let bytes = target.get(&path).await?.ok_or_else(damaged)?;
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(damaged)?;
        let line = rest.iter().take(HEADER_BYTES_MAX).position(|b| *b == b'\n').ok_or_else(damaged)?;
        let header: Header = serde_json::from_slice(&rest[..line]).map_err(|_| damaged())?;
        let wrapped = base::hex::decode(&header.secret).ok_or_else(damaged)?;
        let seal = self.seal(&wrapped).await?;
        let split = MAGIC.len() + line + 1;
        let plain = seal.open(&path, &bytes[..split], bytes[split..].to_vec())?;
        let manifest: Manifest = serde_json::from_slice(&plain).map_err(|_| damaged())?;
        if manifest.format != FORMAT {
            return Err(BackupError::refused("this backup is of a later version of ward: restore it with that one"));
        }
        if manifest.kind != kind || manifest.id != *id {
            return Err(damaged());
        }
        Ok((manifest, seal))
    }
}

/// Ids of the backups of a kind in a target, oldest first.
pub async fn ids(target: &Target, kind: Kind) -> Result<Vec<BackupId>> {
    let names = target.list(kind.folder()).await?;
    let id = |path: &str| {
        let name = path.strip_prefix(kind.folder())?.strip_prefix('/')?;
        BackupId::parse(name.strip_suffix(".manifest")?)
    };
    Ok(names.iter().filter_map(|(path, _)| id(path)).collect())
}

/// The newest backup of a kind that opens. What does not open is told, not skipped in silence.
pub async fn newest(target: &Target, kind: Kind, opener: &Opener) -> Result<Option<(Manifest, Seal)>> {
    for id in ids(target, kind).await?.iter().rev() {
        match opener.open(target, kind, id).await {
            Ok(found) => return Ok(Some(found)),
            Err(BackupError::Damaged { piece }) => {
                tracing::warn!(%piece, "a manifest is damaged; the one before it is taken");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::SeededEntropy;

    #[test]
    fn ids_sort_by_time_and_nothing_else_is_one() {
        let entropy = SeededEntropy::new(1);
        let (a, b) = (BackupId::new(Timestamp(0), &entropy), BackupId::new(Timestamp(1_764_000_000_123), &entropy));
        assert!(a < b && b.as_str().starts_with("20251124T"), "{b}");
        assert_eq!(BackupId::parse(b.as_str()), Some(b));
        for text in ["", "latest", "20251124T160000123Z", "../../etc/passwd-00000000", "20251124T160000123Z-xyz"] {
            assert_eq!(BackupId::parse(text), None, "{text}");
        }
    }
}
