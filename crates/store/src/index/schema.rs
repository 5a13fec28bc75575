//! The tables of a search index, and opening its encrypted file. Derived data only: a file that does not open or has
//! another schema is thrown away and filled again from silver.
//!
//! One table per kind of value. Each has the resource's rows together (primary key: `rid` first, for tests on one
//! resource, sort keys and removal) and an index by value that covers a search. A composite value is a row of `cmp`; its
//! parts are rows of the same tables, their `rid` the negative of its `cid`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use zeroize::Zeroizing;

use crate::StoreError;

/// Counted up with every change of this file: an index of another number is rebuilt.
const SCHEMA: i64 = 1;

pub(super) use vault::Key;

const TABLES: &str = "
CREATE TABLE meta (k TEXT PRIMARY KEY, v INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE rtype (n INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE param (n INTEGER PRIMARY KEY, rtype INTEGER NOT NULL, code TEXT NOT NULL, multi INTEGER NOT NULL,
    UNIQUE (rtype, code));
CREATE TABLE res (rid INTEGER PRIMARY KEY, rtype INTEGER NOT NULL, id TEXT NOT NULL, change INTEGER NOT NULL,
    version INTEGER NOT NULL, ordinal INTEGER NOT NULL, sens INTEGER NOT NULL, updated INTEGER NOT NULL);
CREATE UNIQUE INDEX res_id ON res (rtype, id);
CREATE INDEX res_updated ON res (rtype, updated DESC, id, ordinal, sens);
CREATE INDEX res_patient ON res (ordinal, rtype);
CREATE TABLE tok (rid INTEGER, p INTEGER, code TEXT, sys INTEGER, PRIMARY KEY (rid, p, code, sys)) WITHOUT ROWID;
CREATE INDEX tok_v ON tok (p, code, sys, rid);
CREATE TABLE ref (rid INTEGER, p INTEGER, tid TEXT, tt INTEGER, PRIMARY KEY (rid, p, tid, tt)) WITHOUT ROWID;
CREATE INDEX ref_v ON ref (p, tid, tt, rid);
CREATE TABLE dat (rid INTEGER, p INTEGER, lo INTEGER, hi INTEGER, PRIMARY KEY (rid, p, lo, hi)) WITHOUT ROWID;
CREATE INDEX dat_lo ON dat (p, lo, hi, rid);
CREATE INDEX dat_hi ON dat (p, hi, lo, rid);
CREATE TABLE str (rid INTEGER, p INTEGER, folded TEXT, exact TEXT, PRIMARY KEY (rid, p, folded, exact)) WITHOUT ROWID;
CREATE INDEX str_v ON str (p, folded, exact, rid);
CREATE TABLE num (rid INTEGER, p INTEGER, lo REAL, hi REAL, PRIMARY KEY (rid, p, lo, hi)) WITHOUT ROWID;
CREATE INDEX num_v ON num (p, lo, hi, rid);
CREATE TABLE qty (rid INTEGER, p INTEGER, code TEXT, lo REAL, hi REAL, sys INTEGER, v REAL,
    PRIMARY KEY (rid, p, code, lo, hi, sys, v)) WITHOUT ROWID;
CREATE INDEX qty_v ON qty (p, code, lo, hi, sys, rid);
CREATE TABLE uri (rid INTEGER, p INTEGER, v TEXT, PRIMARY KEY (rid, p, v)) WITHOUT ROWID;
CREATE INDEX uri_v ON uri (p, v, rid);
CREATE TABLE cmp (cid INTEGER PRIMARY KEY, rid INTEGER NOT NULL, p INTEGER NOT NULL);
CREATE INDEX cmp_rid ON cmp (rid, p);
";

/// Opens the writer's connection, making the file anew where it cannot be used.
pub(super) fn open_writer(path: &Path, key: &Key) -> Result<Connection, StoreError> {
    match open_checked(path, key) {
        Ok(connection) => Ok(connection),
        Err(StoreError::Index(error)) => {
            tracing::warn!(%error, "a search index cannot be used as it is and is rebuilt from silver");
            make_anew(path, key)
        }
        Err(error) => Err(error),
    }
}

/// An empty index in place of what is there. No connection to the old file may be open.
pub(super) fn make_anew(path: &Path, key: &Key) -> Result<Connection, StoreError> {
    remove(path)?;
    open_checked(path, key)
}

/// Copies what a connection holds into a new file beside `path`, under another key.
pub(super) fn carry_over(from: &Connection, path: &Path, key: &Key) -> Result<PathBuf, StoreError> {
    let next = path.with_extension("next");
    remove(&next)?;
    create_private(&next)?;
    let key = Zeroizing::new(format!("x'{}'", &*Zeroizing::new(base::hex::encode(&key[..]))));
    let text = next.to_str().ok_or(StoreError::Invalid("a search index whose path is not UTF-8"))?;
    from.execute("ATTACH DATABASE ?1 AS next KEY ?2", rusqlite::params![text, key.as_str()])?;
    let copied = from.query_row("SELECT sqlcipher_export('next')", [], |_| Ok(()));
    let detached = from.execute_batch("DETACH DATABASE next");
    copied?;
    detached?;
    Ok(next)
}

/// Puts a file made by [`carry_over`] in the place of the old one, which nobody may have open.
pub(super) fn take_place(next: &Path, path: &Path, key: &Key) -> Result<Connection, StoreError> {
    remove(path)?;
    std::fs::rename(next, path).map_err(|source| StoreError::Io { what: "put a search index in place", source })?;
    open_checked(path, key)
}

fn open_checked(path: &Path, key: &Key) -> Result<Connection, StoreError> {
    create_private(path)?;
    let mut connection = connect(path, key)?;
    let tx = connection.transaction()?;
    let found: Option<i64> = if tx.table_exists(None, "meta")? {
        tx.query_row("SELECT v FROM meta WHERE k = 'schema'", [], |row| row.get(0)).optional()?
    } else {
        None
    };
    match found {
        Some(SCHEMA) => {}
        None => {
            tx.execute_batch(TABLES)?;
            tx.execute("INSERT INTO meta (k, v) VALUES ('schema', ?), ('position', 0)", [SCHEMA])?;
        }
        // Told apart from what the caller must see: it makes the file anew.
        Some(_) => return Err(StoreError::Index(rusqlite::Error::InvalidQuery)),
    }
    tx.commit()?;
    refuse_plaintext(path)?;
    Ok(connection)
}

/// A connection under the key. Temporary tables stay in memory (law 2).
pub(super) fn connect(path: &Path, key: &Key) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    let text = Zeroizing::new(format!("PRAGMA key = \"x'{}'\";", &*Zeroizing::new(base::hex::encode(&key[..]))));
    // A file that does not open is our matter, not one for standard error.
    connection.execute_batch("PRAGMA cipher_log_level = NONE")?;
    connection.execute_batch(&text)?;
    // Without SQLCipher the pragma above is passed over in silence.
    let cipher: Option<String> = connection.query_row("PRAGMA cipher_version", [], |row| row.get(0)).optional()?;
    if cipher.is_none_or(|version| version.is_empty()) {
        return Err(StoreError::unsupported("a search index without page encryption"));
    }
    connection.busy_timeout(Duration::from_secs(30))?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA temp_store = MEMORY; PRAGMA secure_delete = ON;
         PRAGMA cache_size = -16384; PRAGMA journal_size_limit = 67108864;",
    )?;
    connection.set_prepared_statement_cache_capacity(128);
    Ok(connection)
}

/// The self-test at start: pages must not be readable.
fn refuse_plaintext(path: &Path) -> Result<(), StoreError> {
    use std::io::Read as _;
    let mut head = Vec::with_capacity(16);
    let file = std::fs::File::open(path).map_err(|source| StoreError::Io { what: "read a search index", source })?;
    file.take(16).read_to_end(&mut head).map_err(|source| StoreError::Io { what: "read a search index", source })?;
    if head.starts_with(b"SQLite format 3") {
        return Err(StoreError::unsupported("a search index without page encryption"));
    }
    Ok(())
}

fn create_private(path: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let io = |source| StoreError::Io { what: "make a search index", source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(io)?;
    }
    std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(io)?;
    Ok(())
}

fn remove(path: &Path) -> Result<(), StoreError> {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match std::fs::remove_file(PathBuf::from(name)) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(StoreError::Io { what: "remove a search index", source }),
        }
    }
    Ok(())
}
