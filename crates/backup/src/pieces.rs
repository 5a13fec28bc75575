//! Pieces of a target, sealed: put once under the keyed hash of their content, given back only as they were put; and
//! the removal of backups that are too old, with the pieces that no other one needs.

use std::collections::HashSet;

use base::Entropy;
use bytes::Bytes;

use crate::error::{BackupError, Result};
use crate::manifest::{self, Kind, Manifest, ObjectCopy, ObjectList, Opener};
use crate::seal::Seal;
use crate::target::Target;

const FOLDER: &str = "pieces";

/// A target with the seal of one node.
#[derive(Clone, Copy)]
pub struct Pieces<'a> {
    pub target: &'a Target,
    pub seal: &'a Seal,
    pub entropy: &'a dyn Entropy,
}

impl Pieces<'_> {
    /// Puts bytes; the name of the piece, and how many bytes that added: none when it was there.
    pub async fn put(&self, plain: Bytes) -> Result<(String, u64)> {
        let mut nonce = [0; 12];
        self.entropy.fill(&mut nonce);
        let (seal, hashed) = (self.seal.clone(), plain.clone());
        let name = blocking(move || seal.name(&hashed)).await?;
        let path = path_of(&name);
        if self.target.size_of(&path).await? == Some(plain.len() as u64 + Seal::OVERHEAD_BYTES) {
            return Ok((name, 0));
        }
        let (seal, bound) = (self.seal.clone(), name.clone());
        let sealed = blocking(move || seal.seal(&bound, b"", &plain, nonce)).await?;
        let added = sealed.len() as u64;
        self.target.put(&path, Bytes::from(sealed)).await?;
        Ok((name, added))
    }

    /// A piece as it was put, or an error that names it.
    pub async fn get(&self, name: &str) -> Result<Bytes> {
        let path = path_of(name);
        let sealed = self.target.get(&path).await?.ok_or_else(|| BackupError::damaged(path))?;
        let (seal, name) = (self.seal.clone(), name.to_owned());
        blocking(move || seal.open(&name, b"", Vec::from(sealed))).await
    }

    pub(crate) async fn objects(&self, list: &ObjectList) -> Result<Vec<ObjectCopy>> {
        let plain = self.get(&list.piece).await?;
        serde_json::from_slice(&plain).map_err(|_| BackupError::damaged(list.piece.as_str()))
    }
}

/// `pieces/AB/ABCD…`
fn path_of(name: &str) -> String {
    format!("{FOLDER}/{}/{name}", name.get(..2).unwrap_or("00"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| BackupError::refused("sealing was cut short: try again"))?
}

/// Removes all but the newest `keep` backups of a kind, manifest first; then the pieces that no manifest names, also
/// those of runs that never finished. How many backups went. The caller holds the target's lock.
pub(crate) async fn prune(target: &Target, kind: Kind, keep: usize, opener: &Opener) -> Result<usize> {
    let ids = manifest::ids(target, kind).await?;
    let (old, kept) = ids.split_at(ids.len().saturating_sub(keep.max(1)));
    if old.is_empty() {
        return Ok(0);
    }
    let mut needed: HashSet<String> = HashSet::new();
    for id in kept {
        match opener.open(target, kind, id).await {
            Ok((manifest, seal)) => {
                gather(&manifest, Pieces { target, seal: &seal, entropy: &*opener.entropy }, &mut needed).await?
            }
            Err(error) => {
                // What it needs is unknown: nothing is removed for good.
                tracing::warn!(%id, %error, "a backup cannot be read, so no old one is removed");
                return Ok(0);
            }
        }
    }
    for id in old {
        target.delete(&manifest::path_of(kind, id)).await?;
    }
    for (path, _) in target.list(FOLDER).await? {
        if !path.rsplit('/').next().is_some_and(|name| needed.contains(name)) {
            target.delete(&path).await?;
        }
    }
    Ok(old.len())
}

async fn gather(manifest: &Manifest, pieces: Pieces<'_>, needed: &mut HashSet<String>) -> Result<()> {
    needed.insert(manifest.config.clone());
    needed.extend(manifest.logs.iter().flat_map(|log| &log.segments).flat_map(|s| &s.extents).map(|e| e.piece.clone()));
    needed.extend(manifest.keys.iter().flat_map(|keys| keys.chunks.iter().cloned()));
    for list in &manifest.objects {
        needed.insert(list.piece.clone());
        needed.extend(pieces.objects(list).await?.into_iter().map(|object| object.piece));
    }
    Ok(())
}
