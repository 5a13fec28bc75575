//! One SQL database behind an URL: pools, settings, migrations, inserts of many rows.
//!
//! One dialect serves SQLite and PostgreSQL: `$1` placeholders, BIGINT, TEXT, and `{blob}`, `{rowless}` filled in by
//! the migrations alone. Values travel as bind parameters only. What is stored is `catalog`'s and `keys`'s matter.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use disk::{Disk, RealDisk};
use sqlx::any::{AnyArguments, AnyConnectOptions, AnyPoolOptions};
use sqlx::{
    Any, AnyConnection, AnyPool, Arguments as _, AssertSqlSafe, Connection as _, Executor as _, Row as _, Transaction,
};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::StoreError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    Sqlite,
    Postgres,
}

/// A migration: its number and statements. Never changed once released; a later one corrects it.
pub(crate) struct Migration {
    pub version: i64,
    pub statements: &'static [&'static str],
}

/// Readers in a pool; one writer at a time.
#[derive(Clone)]
pub(crate) struct Database {
    backend: Backend,
    readers: AnyPool,
    writer: AnyPool,
    turn: Arc<Mutex<()>>,
}

/// The writer's turn: a transaction that nobody else in this process writes beside.
pub(crate) struct WriteTurn {
    pub tx: Transaction<'static, Any>,
    _turn: OwnedMutexGuard<()>,
}

impl WriteTurn {
    pub async fn commit(self) -> Result<(), StoreError> {
        Ok(self.tx.commit().await?)
    }
}

const READERS_MAX: u32 = 8;
const BUSY_TIMEOUT: &str = "PRAGMA busy_timeout = 30000";
/// How long a destruction waits for readers that hold on to the old state.
const SCRUB_WAIT: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(10) };

impl Database {
    /// Opens or creates the database and brings its schema up to date. `sqlite:PATH` or `postgres://...`.
    pub async fn open(url: &str, migrations: &[Migration]) -> Result<Self, StoreError> {
        install_drivers();
        let (backend, url, file) = prepare_url(url)?;
        let options: AnyConnectOptions = url.parse()?;
        if let Some(file) = file {
            settle(&options, &file).await?;
        }
        let pool = |connections: u32| {
            AnyPoolOptions::new()
                .max_connections(connections)
                .min_connections(1)
                .idle_timeout(None)
                .max_lifetime(None)
                .test_before_acquire(backend == Backend::Postgres)
                .after_connect(move |connection, _| Box::pin(settings(connection, backend)))
                .connect_with(options.clone())
        };
        let writer = pool(1).await?;
        migrate(&writer, backend, migrations).await?;
        let readers = pool(READERS_MAX).await?;
        Ok(Database { backend, readers, writer, turn: Arc::default() })
    }

    pub fn readers(&self) -> &AnyPool {
        &self.readers
    }

    /// Waits for the writer's turn and begins its transaction. Dropped without a commit, nothing is written.
    pub async fn write(&self) -> Result<WriteTurn, StoreError> {
        let turn = self.turn.clone().lock_owned().await;
        let tx = match self.backend {
            // Takes the lock at once: a deferred transaction could fail where it begins to write.
            Backend::Sqlite => self.writer.begin_with("BEGIN IMMEDIATE").await?,
            Backend::Postgres => self.writer.begin().await?,
        };
        Ok(WriteTurn { tx, _turn: turn })
    }

    /// Moves SQLite's log into the file and empties it: when this returns, what was deleted is in neither. A reader at
    /// work puts that off; one that is at work longer than [`SCRUB_WAIT`] makes it an error.
    pub async fn scrub(&self) -> Result<(), StoreError> {
        self.scrub_within(SCRUB_WAIT).await
    }

    async fn scrub_within(&self, wait: Duration) -> Result<(), StoreError> {
        if self.backend != Backend::Sqlite {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        let mut connection = self.writer.acquire().await?;
        // Short, so that it is this loop that waits: a blocked checkpoint holds the writer's place.
        connection.execute("PRAGMA busy_timeout = 100").await?;
        let begun = Instant::now();
        let done = loop {
            match sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut *connection).await {
                // The first column says whether somebody was in the way.
                Ok(row) if row.try_get::<i64, _>(0).is_ok_and(|busy| busy == 0) => break Ok(()),
                Ok(_) if begun.elapsed() < wait => tokio::task::yield_now().await,
                Ok(_) => break Err(StoreError::StillReadable),
                Err(error) => break Err(error.into()),
            }
        };
        connection.execute(BUSY_TIMEOUT).await?;
        done
    }

    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

fn install_drivers() {
    static DRIVERS: Once = Once::new();
    DRIVERS.call_once(sqlx::any::install_default_drivers);
}

#[cfg(test)]
impl Database {
    /// On a file system of the test's own (`?vfs=`), which has no memory to share between connections: one connection
    /// reads and writes, with the settings of the real ones.
    pub async fn open_alone(url: &str, migrations: &[Migration]) -> Result<Self, StoreError> {
        install_drivers();
        let options: AnyConnectOptions = url.parse()?;
        let one = AnyPoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
        let writer = one.test_before_acquire(false).connect_with(options).await?;
        {
            let mut connection = writer.acquire().await?;
            connection.execute("PRAGMA locking_mode = EXCLUSIVE").await?;
            settings(&mut connection, Backend::Sqlite).await?;
        }
        empty_log(&mut *writer.acquire().await?).await?;
        migrate(&writer, Backend::Sqlite, migrations).await?;
        Ok(Database { backend: Backend::Sqlite, readers: writer.clone(), writer, turn: Arc::default() })
    }
}

/// The file of a SQLite database is made here, so that nobody else can read it, and its name is durable: SQLite syncs
/// the folder for its log alone.
fn prepare_url(url: &str) -> Result<(Backend, String, Option<PathBuf>), StoreError> {
    if url.starts_with("postgres:") || url.starts_with("postgresql:") {
        return Ok((Backend::Postgres, url.to_owned(), None));
    }
    let path = url.strip_prefix("sqlite:").ok_or_else(|| StoreError::unsupported("a catalog URL of this kind"))?;
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() || path.contains([':', '?', '%']) {
        return Err(StoreError::unsupported("a SQLite URL with options, or in memory,"));
    }
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .and_then(|_| RealDisk.sync_folder(disk::parent(Path::new(path))))
        .map_err(|source| StoreError::Io { what: "make its database file", source })?;
    Ok((Backend::Sqlite, format!("sqlite://{path}?mode=rw"), Some(path.into())))
}

/// FULL syncs the log at each commit (law 1); temporary tables stay in memory (law 2).
async fn settings(connection: &mut AnyConnection, backend: Backend) -> sqlx::Result<()> {
    if backend == Backend::Sqlite {
        for pragma in [
            BUSY_TIMEOUT,
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = FULL",
            "PRAGMA secure_delete = ON",
            "PRAGMA foreign_keys = ON",
            "PRAGMA temp_store = MEMORY",
            "PRAGMA cache_size = -16384",
        ] {
            connection.execute(pragma).await?;
        }
    }
    Ok(())
}

/// A process that died may have left commits in the system's memory that no sync took to the disk. SQLite shows them
/// again: before anybody reads or builds on them they are written once more and moved into the file, durably. Where
/// another process has the database open, that one has done it.
async fn settle(options: &AnyConnectOptions, file: &Path) -> Result<(), StoreError> {
    let log = log_of(file);
    let io = |source| StoreError::Io { what: "write the database's log again", source };
    match RealDisk.stat(&log) {
        Ok(stat) if stat.bytes > 0 => {}
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
    }
    let mut alone = AnyConnection::connect_with(options).await?;
    let is_alone = match take(&mut alone).await {
        Ok(()) => true,
        Err(error) if is_busy(&error) => false,
        Err(error) => return Err(error.into()),
    };
    if is_alone {
        let written = tokio::task::spawn_blocking(move || disk::write_again(&RealDisk, &log)).await;
        match written.map_err(|_| StoreError::Invalid("a task that panicked"))? {
            // Whoever had it open until now has moved it.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => other.map_err(io)?,
        }
        empty_log(&mut alone).await?;
    }
    Ok(alone.close().await?)
}

/// Takes the database for this connection alone, until it ends. Does not wait for others.
async fn take(connection: &mut AnyConnection) -> sqlx::Result<()> {
    for statement in ["PRAGMA busy_timeout = 0", "PRAGMA locking_mode = EXCLUSIVE", "PRAGMA synchronous = FULL"] {
        connection.execute(statement).await?;
    }
    // The first read takes the lock.
    connection.execute("SELECT 1 FROM sqlite_schema").await.map(drop)
}

/// The log of a SQLite database.
pub(crate) fn log_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

fn is_busy(error: &sqlx::Error) -> bool {
    const SQLITE_BUSY: u32 = 5;
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok());
    // An extended code has more in its higher bytes.
    code.is_some_and(|code| code & 0xff == SQLITE_BUSY)
}

/// Moves the log into the file.
async fn empty_log(connection: &mut AnyConnection) -> Result<(), StoreError> {
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_all(connection).await?;
    Ok(())
}

async fn migrate(pool: &AnyPool, backend: Backend, migrations: &[Migration]) -> Result<(), StoreError> {
    let mut tx = pool.begin().await?;
    tx.execute("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT PRIMARY KEY)").await?;
    let row = sqlx::query("SELECT COALESCE(MAX(version), 0) FROM schema_version").fetch_one(&mut *tx).await?;
    let at: i64 = row.try_get(0)?;
    if migrations.last().is_some_and(|newest| newest.version < at) {
        return Err(StoreError::unsupported("a catalog written by a later version of this program"));
    }
    let (blob, rowless) = match backend {
        Backend::Sqlite => ("BLOB", "WITHOUT ROWID"),
        Backend::Postgres => ("BYTEA", ""),
    };
    for migration in migrations.iter().filter(|m| m.version > at) {
        for statement in migration.statements {
            let text = statement.replace("{blob}", blob).replace("{rowless}", rowless);
            sqlx::query(AssertSqlSafe(text)).execute(&mut *tx).await?;
        }
        sqlx::query("INSERT INTO schema_version (version) VALUES ($1)")
            .bind(migration.version)
            .execute(&mut *tx)
            .await?;
    }
    Ok(tx.commit().await?)
}

/// Rows for one multi-row INSERT, gathered and then sent in few statements.
pub(crate) struct Rows {
    head: &'static str,
    tail: &'static str,
    columns: usize,
    cells: Vec<Cell>,
}

pub(crate) enum Cell {
    Int(i64),
    Text(String),
    Bytes(Vec<u8>),
}

impl From<i64> for Cell {
    fn from(value: i64) -> Self {
        Cell::Int(value)
    }
}

impl From<&str> for Cell {
    fn from(value: &str) -> Self {
        Cell::Text(value.to_owned())
    }
}

impl From<Vec<u8>> for Cell {
    fn from(value: Vec<u8>) -> Self {
        Cell::Bytes(value)
    }
}

/// Few sizes, so that few statements are prepared; the largest stays far below SQLite's 32,766 parameters.
const CHUNKS: [usize; 3] = [64, 8, 1];

impl Rows {
    /// `head` ends with the list of columns, `tail` is an `ON CONFLICT` clause or empty.
    pub fn new(head: &'static str, columns: usize, tail: &'static str) -> Self {
        Rows { head, tail, columns, cells: Vec::new() }
    }

    pub fn push<const N: usize>(&mut self, row: [Cell; N]) {
        debug_assert_eq!(N, self.columns);
        self.cells.extend(row);
    }

    /// How many rows went in or were changed.
    pub async fn insert(self, connection: &mut AnyConnection) -> Result<u64, StoreError> {
        let mut done = 0;
        let mut left = self.cells.len() / self.columns;
        let mut cells = self.cells.into_iter();
        for size in CHUNKS {
            while left >= size {
                let arguments = arguments(cells.by_ref().take(size * self.columns))?;
                let text = statement(self.head, self.tail, self.columns, size);
                let result = sqlx::query_with(AssertSqlSafe(text), arguments).execute(&mut *connection).await?;
                done += result.rows_affected();
                left -= size;
            }
        }
        Ok(done)
    }
}

/// The cells as the arguments of one statement, in their order.
pub(crate) fn arguments(cells: impl IntoIterator<Item = Cell>) -> Result<AnyArguments, StoreError> {
    let mut arguments = AnyArguments::default();
    for cell in cells {
        add(&mut arguments, cell)?;
    }
    Ok(arguments)
}

fn add(arguments: &mut AnyArguments, cell: Cell) -> Result<(), StoreError> {
    match cell {
        Cell::Int(value) => arguments.add(value),
        Cell::Text(value) => arguments.add(value),
        Cell::Bytes(value) => arguments.add(value),
    }
    .map_err(|error| StoreError::Database(sqlx::Error::Encode(error)))
}

fn statement(head: &str, tail: &str, columns: usize, rows: usize) -> String {
    format!("{head} VALUES {}{tail}", values(0, columns, rows))
}

/// `($2,$3),($4,$5)`: rows of values after `before` others.
pub(crate) fn values(before: usize, columns: usize, rows: usize) -> String {
    let mut text = String::with_capacity(rows * (columns * 6 + 3));
    for row in 0..rows {
        text.push_str(if row == 0 { "(" } else { ",(" });
        for column in 0..columns {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}${}", if column == 0 { "" } else { "," }, before + row * columns + column + 1);
        }
        text.push(')');
    }
    text
}

/// `($2,$3,...)` for `count` values after `before` others, padded by the caller to one of few sizes.
pub(crate) fn placeholders(before: usize, count: usize) -> String {
    let mut text = String::from("(");
    for n in 0..count {
        let _ = write!(text, "{}${}", if n == 0 { "" } else { "," }, before + n + 1);
    }
    text.push(')');
    text
}

/// Splits keys for `IN` lists into chunks of few sizes, each filled up with its last key (which changes no result).
pub(crate) fn in_chunks<T: Clone>(keys: &[T]) -> impl Iterator<Item = Vec<T>> {
    keys.chunks(128).map(|chunk| {
        let size = [1, 8, 32, 128].into_iter().find(|size| *size >= chunk.len()).unwrap_or(128);
        let mut padded = chunk.to_vec();
        if let Some(last) = chunk.last() {
            padded.resize(size, last.clone());
        }
        padded
    })
}

/// A number that a table keeps as BIGINT.
pub(crate) fn big(value: u64) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::Invalid("a position beyond 2^63"))
}

pub(crate) fn unbig(value: i64) -> u64 {
    value.max(0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_number_their_parameters() {
        assert_eq!(statement("INSERT INTO t (a,b)", "", 2, 2), "INSERT INTO t (a,b) VALUES ($1,$2),($3,$4)");
        assert_eq!(placeholders(1, 2), "($2,$3)");
    }

    #[test]
    fn in_lists_come_in_few_sizes() {
        let sizes = |n: usize| in_chunks(&vec![7; n]).map(|chunk| chunk.len()).collect::<Vec<_>>();
        assert_eq!(sizes(0), Vec::<usize>::new());
        assert_eq!(sizes(3), [8]);
        assert_eq!(sizes(130), [128, 8]);
    }

    /// Whoever has it open has moved its log already; a second one is let in, and sees what is there.
    #[tokio::test]
    async fn a_database_in_use_is_opened_beside() {
        const TEST: &[Migration] = &[Migration { version: 1, statements: &["CREATE TABLE t (a BIGINT PRIMARY KEY)"] }];
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("t.db").display());
        let first = Database::open(&url, TEST).await.unwrap();
        for n in 0..3_i64 {
            let mut turn = first.write().await.unwrap();
            sqlx::query("INSERT INTO t (a) VALUES ($1)").bind(n).execute(&mut *turn.tx).await.unwrap();
            turn.commit().await.unwrap();
            assert!(std::fs::metadata(log_of(&folder.path().join("t.db"))).unwrap().len() > 0);
            let beside = Database::open(&url, TEST).await.unwrap();
            let row = sqlx::query("SELECT COUNT(*) FROM t").fetch_one(beside.readers()).await.unwrap();
            assert_eq!(row.get::<i64, _>(0), n + 1);
        }
        first.close().await;
    }

    #[tokio::test]
    async fn every_connection_syncs_its_log_at_each_commit() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("t.db").display());
        let database = Database::open(&url, &[]).await.unwrap();
        // All at once, so that each pool has to make every connection it may have.
        let mut connections = vec![database.writer.acquire().await.unwrap()];
        for _ in 0..READERS_MAX {
            connections.push(database.readers.acquire().await.unwrap());
        }
        for connection in &mut connections {
            let mode = sqlx::query("PRAGMA journal_mode").fetch_one(&mut **connection).await.unwrap();
            let sync = sqlx::query("PRAGMA synchronous").fetch_one(&mut **connection).await.unwrap();
            // https://sqlite.org/pragma.html#pragma_synchronous: 2 is FULL.
            assert_eq!((mode.get::<String, _>(0).as_str(), sync.get::<i64, _>(0)), ("wal", 2));
        }
    }

    #[tokio::test]
    async fn many_rows_arrive_whole_and_a_dropped_turn_writes_nothing() {
        const TEST: &[Migration] =
            &[Migration { version: 1, statements: &["CREATE TABLE t (a BIGINT PRIMARY KEY, b {blob}) {rowless}"] }];
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("t.db").display());
        let database = Database::open(&url, TEST).await.unwrap();
        for keep in [false, true] {
            let mut turn = database.write().await.unwrap();
            let mut rows = Rows::new("INSERT INTO t (a,b)", 2, "");
            for n in 0..1_000_i64 {
                rows.push([n.into(), n.to_le_bytes().to_vec().into()]);
            }
            rows.insert(&mut turn.tx).await.unwrap();
            if keep {
                turn.commit().await.unwrap();
            }
        }
        let row = sqlx::query("SELECT COUNT(*), MIN(b) FROM t").fetch_one(database.readers()).await.unwrap();
        assert_eq!(row.get::<i64, _>(0), 1_000);
        assert_eq!(row.get::<Vec<u8>, _>(1), 0_i64.to_le_bytes());
        database.close().await;
        // Opens again, its schema already there.
        Database::open(&url, TEST).await.unwrap();
    }
}
