//! Key slots, backed up apart and shortly: a copy of the key table, sealed, with the newest control log and the
//! configuration beside it. Few are kept; one whose key epochs were all destroyed opens nothing.
//!
//! The control log lies beside the keys on purpose: whatever keys a restore takes, it knows at least every erasure,
//! revocation and destruction that was on record when those keys were copied (DESIGN law 11).

use std::path::Path;

use bytes::Bytes;
use rusqlite::{Connection, OpenFlags};

use crate::error::{BackupError, Result};
use crate::manifest::{BackupId, KeyCopy, Kind, Manifest, Opener};
use crate::pieces::Pieces;
use crate::progress::Progress;
use crate::take::{self, KeysTo, NodeSource};

/// One piece of the key table.
const CHUNK_BYTES: usize = 8 << 20;

pub(crate) async fn take(
    source: &NodeSource,
    to: &KeysTo<'_>,
    opener: &Opener,
    progress: &Progress,
) -> Result<Manifest> {
    progress.stage("key slots");
    let before = take::newest_of(source, to.target, Kind::Keys, opener).await?;
    let pieces = source.pieces(to.target);
    let id = BackupId::new(source.clock.now(), &*source.entropy);
    let (table, scratch) = (source.key_table.clone(), source.scratch.join(format!("keys-{id}.tmp")));
    let copied = tokio::task::spawn_blocking(move || copy_table(&table, &scratch))
        .await
        .map_err(|_| BackupError::refused("copying the key table was cut short"))?;
    let (mut keys, bytes) = copied?;
    let taken = source.clock.now();
    // After the table: the control log knows at least what the keys know.
    let (logs, mut added) = take::copy_logs(&[(to.control_now)()?], before.as_ref(), pieces, progress).await?;
    let (config, more) = take::put_config(source, pieces).await?;
    added += more;
    progress.expect(bytes.len() as u64);
    for start in (0..bytes.len()).step_by(CHUNK_BYTES) {
        let chunk = bytes.slice(start..bytes.len().min(start + CHUNK_BYTES));
        let length = chunk.len() as u64;
        let (piece, more) = pieces.put(chunk).await?;
        added += more;
        progress.add(length);
        keys.chunks.push(piece);
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
        objects: Vec::new(),
        config,
        silver: Default::default(),
        keys: Some(keys),
        added_bytes: added,
    };
    take::put_manifest(&manifest, pieces).await?;
    Ok(manifest)
}

/// A compact copy of the key table, without the places that were freed, and what is in it.
fn copy_table(table: &Path, scratch: &Path) -> Result<(KeyCopy, Bytes)> {
    let _ = std::fs::remove_file(scratch);
    let _remove = Remove(scratch);
    let connection = Connection::open_with_flags(table, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(std::time::Duration::from_secs(30))?;
    connection.execute("VACUUM INTO ?1", [scratch.to_string_lossy()])?;
    drop(connection);
    let connection = Connection::open_with_flags(scratch, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let bytes = std::fs::read(scratch).map_err(BackupError::io("reading", scratch))?;
    let facts = KeyCopy {
        chunks: Vec::new(),
        bytes: bytes.len() as u64,
        slots: connection.query_row("SELECT COUNT(*) FROM slot", [], |row| row.get(0)).map(i64::cast_unsigned)?,
        scopes: living_epochs(&connection)?.iter().map(|(_, scopes)| scopes).sum(),
        epochs: living_epochs(&connection)?.into_iter().map(|(epoch, _)| epoch).collect(),
    };
    Ok((facts, Bytes::from(bytes)))
}

fn living_epochs(connection: &Connection) -> rusqlite::Result<Vec<(u64, u64)>> {
    let mut statement =
        connection.prepare("SELECT epoch, COUNT(*) FROM scope WHERE destroyed <> 1 GROUP BY epoch ORDER BY epoch")?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
    rows.map(|row| row.map(|(epoch, scopes)| (epoch.cast_unsigned(), scopes.cast_unsigned()))).collect()
}

/// The key epochs that a key table's living scopes hang on, and how many scopes on each.
pub fn epochs_of(table: &Path) -> Result<Vec<(u64, u64)>> {
    Ok(living_epochs(&Connection::open_with_flags(table, OpenFlags::SQLITE_OPEN_READ_ONLY)?)?)
}

/// Removes the copy on its way, also when something failed.
struct Remove<'a>(&'a Path);

impl Drop for Remove<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0);
    }
}

/// Writes the key table of a keys backup to `path`, which must not be there.
pub(crate) async fn restore_table(copy: &KeyCopy, pieces: Pieces<'_>, path: &Path, progress: &Progress) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(BackupError::io("making", path))?;
    for name in &copy.chunks {
        let chunk = pieces.get(name).await?;
        file.write_all(&chunk).map_err(BackupError::io("writing", path))?;
        progress.add(chunk.len() as u64);
    }
    file.sync_all().map_err(BackupError::io("writing", path))
}
