//! Key slots, backed up apart and shortly: a copy of the key table, sealed, with the newest control log and the
//! configuration beside it. At most so many are kept, and none whose key epoch was destroyed: nothing in it opens.
//!
//! The control log lies beside the keys on purpose: whatever keys a restore takes, it knows at least every erasure,
//! revocation and destruction that was on record when those keys were copied (DESIGN law 11).

use std::path::Path;

use bytes::Bytes;
use rusqlite::{Connection, OpenFlags};

use crate::error::{BackupError, Result};
use crate::logs::LogSource;
use crate::manifest::{self, BackupId, KeyCopy, Kind, Manifest, ObjectLists, Opener};
use crate::progress::Progress;
use crate::seal::{Seal, sha256};
use crate::take::{self, NodeSource};
use crate::target::Target;

/// One sealed piece of the key table.
const CHUNK_BYTES: usize = 8 << 20;

pub(crate) async fn take(
    source: &NodeSource,
    target: &Target,
    keep: usize,
    opener: &Opener,
    control_now: impl Fn() -> Result<LogSource>,
    progress: &Progress,
) -> Result<(Manifest, usize)> {
    progress.stage("key slots");
    let before = manifest::newest(target, Kind::Keys, opener).await?.map(|(manifest, _)| manifest);
    let before = before.filter(|before| before.mesh == source.mesh);
    let id = BackupId::new(source.clock.now(), &*source.entropy);
    let (table, scratch) = (source.key_table.clone(), source.scratch.join(format!("keys-{id}.tmp")));
    let copied = {
        let scratch = scratch.clone();
        tokio::task::spawn_blocking(move || copy_table(&table, &scratch))
            .await
            .map_err(|_| BackupError::refused("copying the key table was cut short"))?
    };
    let (facts, bytes) = copied?;
    let taken = source.clock.now();
    // After the table: the control log knows at least what the keys know.
    let (logs, mut added) = take::copy_logs(&[control_now()?], before.as_ref(), target, progress).await?;
    let config = take::put_config(source, before.as_ref().map(|before| &before.config), target).await?;
    progress.expect(bytes.len() as u64);
    let mut chunks = Vec::new();
    for (n, chunk) in bytes.chunks(CHUNK_BYTES).enumerate() {
        let name = format!("slots/{id}/{n:06}");
        let sealed = source.seal.seal(&name, id.as_str().as_bytes(), chunk, &*source.entropy)?;
        added += sealed.len() as u64;
        target.put(&name, Bytes::from(sealed)).await?;
        progress.add(chunk.len() as u64);
        chunks.push(name);
    }
    let manifest = Manifest {
        format: Manifest::FORMAT,
        kind: Kind::Keys,
        id,
        mesh: source.mesh.clone(),
        version: source.version.clone(),
        taken,
        finished: source.clock.now(),
        logs,
        objects: ObjectLists::default(),
        config,
        silver: Default::default(),
        keys: Some(KeyCopy { chunks, bytes: bytes.len() as u64, content: sha256(&bytes), ..facts }),
        added_bytes: added,
    };
    take::put_manifest(&manifest, &source.seal, target, &*source.entropy).await?;
    let removed = prune(target, keep.max(1)).await?;
    Ok((manifest, removed))
}

/// A compact copy of the key table, without the places that were freed, and what is in it.
fn copy_table(table: &Path, scratch: &Path) -> Result<(KeyCopy, Vec<u8>)> {
    let _ = std::fs::remove_file(scratch);
    let remove = Remove(scratch);
    {
        let connection = Connection::open_with_flags(table, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(std::time::Duration::from_secs(30))?;
        connection.execute("VACUUM INTO ?1", [scratch.to_string_lossy()])?;
    }
    let connection = Connection::open_with_flags(scratch, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned);
    let mut statement = connection.prepare("SELECT DISTINCT epoch FROM scope WHERE destroyed = 0 ORDER BY epoch")?;
    let epochs = statement.query_map([], |row| row.get::<_, i64>(0))?;
    let facts = KeyCopy {
        chunks: Vec::new(),
        bytes: 0,
        content: String::new(),
        slots: count("SELECT COUNT(*) FROM slot")?,
        scopes: count("SELECT COUNT(*) FROM scope WHERE destroyed = 0")?,
        epochs: epochs.map(|epoch| epoch.map(i64::cast_unsigned)).collect::<std::result::Result<_, _>>()?,
    };
    let bytes = std::fs::read(scratch).map_err(BackupError::io("reading", scratch))?;
    drop(remove);
    Ok((facts, bytes))
}

/// Removes the copy on its way, also when something failed.
struct Remove<'a>(&'a Path);

impl Drop for Remove<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0);
    }
}

/// Removes all but the newest `keep` keys backups, manifest first, and pieces of ones that were never finished.
async fn prune(target: &Target, keep: usize) -> Result<usize> {
    let ids = manifest::ids(target, Kind::Keys).await?;
    let (old, kept) = ids.split_at(ids.len().saturating_sub(keep));
    for id in old {
        target.delete(&manifest::path_of(Kind::Keys, id)).await?;
    }
    for (path, _) in target.list("slots").await? {
        if !kept.iter().any(|id| path.starts_with(&format!("slots/{id}/"))) {
            target.delete(&path).await?;
        }
    }
    Ok(old.len())
}

/// Writes the key table of a keys backup to `path`, which must not be there.
pub(crate) async fn restore_table(
    copy: &KeyCopy,
    id: &BackupId,
    seal: &Seal,
    target: &Target,
    path: &Path,
    progress: &Progress,
) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut bytes = Vec::with_capacity(usize::try_from(copy.bytes).unwrap_or(0));
    for name in &copy.chunks {
        let sealed = target.get(name).await?.ok_or_else(|| BackupError::damaged(name.as_str()))?;
        let chunk = seal.open(name, id.as_str().as_bytes(), &sealed)?;
        progress.add(chunk.len() as u64);
        bytes.extend_from_slice(&chunk);
    }
    if sha256(&bytes) != copy.content {
        return Err(BackupError::damaged(manifest::path_of(Kind::Keys, id)));
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(BackupError::io("making", path))?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(BackupError::io("writing", path))
}
