//! The search index of a domain: SQLite with encrypted pages, derived from silver, never backed up.
//!
//! One writer, a few readers, each at work on a thread that may block. Turning a query into SQL is `query` and
//! `clause`; what a permit covers is part of every statement (`cover`). Reading bodies is `silver`'s matter.

mod clause;
mod cover;
mod dict;
mod include;
mod query;
mod schema;
mod sql;
mod whole;
mod write;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fhir::search::Query;
use parking_lot::{Mutex, RwLock};
use rusqlite::types::Value;
use rusqlite::{Connection, InterruptHandle};
use tokio::sync::Semaphore;

pub(crate) use cover::Cover;
pub(crate) use query::{FEW, Hit, fingerprint};
pub(crate) use whole::{Of, Whole};
pub(crate) use write::Document;

use self::clause::Context;
use self::cover::Patients;
use self::dict::Dict;
use self::schema::Key;
use crate::StoreError;
use crate::index_key::IndexKey;

/// Searches at once in one domain; more wait.
const READERS_MAX: usize = 4;

#[derive(Clone)]
pub(crate) struct Index(Arc<Inner>);

struct Inner {
    path: PathBuf,
    key: RwLock<Key>,
    writer: Mutex<Writer>,
    /// As readers see it: never older than what they read, since it is put here before a commit.
    dict: RwLock<Arc<Dict>>,
    position: AtomicU64,
    readers: Mutex<Vec<Reader>>,
    turns: Arc<Semaphore>,
}

struct Writer {
    connection: Connection,
    dict: Dict,
}

struct Reader {
    connection: Connection,
    patients: Patients,
}

/// What a search found, as numbers that silver reads.
pub(crate) struct Answer {
    pub hits: Vec<Hit>,
    pub included: Vec<u64>,
    pub total: Option<u64>,
    pub more: bool,
}

/// A search as the index runs it.
pub(crate) struct Search {
    pub query: Query,
    pub cover: Cover,
    pub after: Option<Vec<Value>>,
    pub count: usize,
    pub included_max: usize,
    /// [`FEW`], but for tests of plans.
    pub few: i64,
}

impl Index {
    pub async fn open(path: PathBuf, key: Key) -> Result<Index, StoreError> {
        blocking(move || {
            let connection = schema::open_writer(&path, &key)?;
            let dict = Dict::load(&connection)?;
            let position = write::position(&connection)?;
            Ok(Index(Arc::new(Inner {
                path,
                key: RwLock::new(key),
                dict: RwLock::new(Arc::new(dict.clone())),
                writer: Mutex::new(Writer { connection, dict }),
                position: AtomicU64::new(position),
                readers: Mutex::default(),
                turns: Arc::new(Semaphore::new(READERS_MAX)),
            })))
        })
        .await
    }

    /// The last change that is in the index.
    pub fn position(&self) -> u64 {
        self.0.position.load(Ordering::Acquire)
    }

    /// Takes in changes `from + 1 ..= upto`; false when the index does not stand at `from`.
    pub async fn apply(&self, from: u64, upto: u64, documents: Vec<Document>) -> Result<bool, StoreError> {
        let inner = self.0.clone();
        blocking(move || {
            let writer = &mut *inner.writer.lock();
            let publish = |dict: &Dict| *inner.dict.write() = Arc::new(dict.clone());
            match write::apply(&mut writer.connection, &mut writer.dict, from, upto, &documents, &publish) {
                Ok(true) => {
                    inner.position.store(upto, Ordering::Release);
                    Ok(true)
                }
                Ok(false) => {
                    inner.position.store(write::position(&writer.connection)?, Ordering::Release);
                    Ok(false)
                }
                Err(error) => {
                    // Numbers given out in the transaction are gone with it.
                    writer.dict = Dict::load(&writer.connection)?;
                    publish(&writer.dict);
                    Err(error.into())
                }
            }
        })
        .await
    }

    /// Empties the index by making its file anew, which also mends one that is damaged. Waits for searches to end: a
    /// file must not go from under a connection.
    pub async fn clear(&self) -> Result<(), StoreError> {
        let turns = self.0.turns.clone().acquire_many_owned(READERS_MAX as u32).await;
        let turns = turns.map_err(|_| StoreError::Stopping)?;
        let inner = self.0.clone();
        blocking(move || {
            let _turns = turns;
            let writer = &mut *inner.writer.lock();
            inner.readers.lock().clear();
            // Closes the old connection before its file is removed.
            writer.connection = Connection::open_in_memory()?;
            inner.position.store(0, Ordering::Release);
            writer.connection = schema::make_anew(&inner.path, &inner.key.read())?;
            writer.dict = Dict::load(&writer.connection)?;
            *inner.dict.write() = Arc::new(writer.dict.clone());
            Ok(())
        })
        .await
    }

    /// Takes out every resource about a source record; how many there were.
    pub async fn erase(&self, patient: base::Ordinal) -> Result<u64, StoreError> {
        let inner = self.0.clone();
        blocking(move || {
            let writer = &mut *inner.writer.lock();
            let erased = write::erase(&mut writer.connection, patient)?;
            writer.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
            Ok(erased)
        })
        .await
    }

    /// Carries the index over into a file under another key, which takes the old one's place. Where that fails the new
    /// file is empty, for the caller to fill. Waits for searches to end.
    pub async fn reseal(&self, key: &IndexKey) -> Result<(), StoreError> {
        let turns = self.0.turns.clone().acquire_many_owned(READERS_MAX as u32).await;
        let turns = turns.map_err(|_| StoreError::Stopping)?;
        let (inner, key) = (self.0.clone(), key.clone());
        blocking(move || {
            let _turns = turns;
            let writer = &mut *inner.writer.lock();
            inner.readers.lock().clear();
            let carried = schema::carry_over(&writer.connection, &inner.path, &key.key);
            writer.connection = Connection::open_in_memory()?;
            crate::index_key::name_it(&inner.path, key.object)?;
            *inner.key.write() = key.key.clone();
            writer.connection = match carried.and_then(|next| schema::take_place(&next, &inner.path, &key.key)) {
                Ok(connection) => connection,
                Err(error) => {
                    tracing::warn!(%error, "a search index could not be carried over and is rebuilt from silver");
                    schema::make_anew(&inner.path, &key.key)?
                }
            };
            writer.dict = Dict::load(&writer.connection)?;
            *inner.dict.write() = Arc::new(writer.dict.clone());
            inner.position.store(write::position(&writer.connection)?, Ordering::Release);
            Ok(())
        })
        .await
    }

    /// How many resources of each type there are.
    pub async fn counts(&self) -> Result<Vec<(String, u64)>, StoreError> {
        self.read(|connection, _, _| {
            let mut statement = connection.prepare_cached(
                "SELECT t.name, COUNT(*) FROM res r JOIN rtype t ON t.n = r.rtype GROUP BY r.rtype ORDER BY t.name",
            )?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.max(0) as u64)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    pub async fn search(&self, search: Search) -> Result<Answer, StoreError> {
        self.read(move |connection, patients, dict| {
            *patients.lock() = search.cover.patients().clone();
            let context = Context { dict, cover: &search.cover, few: search.few };
            let page = query::run(&context, connection, &search.query, search.after.as_deref(), search.count)?;
            let included = include::run(&context, connection, &search.query, &page.hits, search.included_max)?;
            Ok(Answer { hits: page.hits, included, total: page.total, more: page.more })
        })
        .await
    }

    /// A page of what belongs together, over all types.
    pub async fn whole(
        &self,
        whole: Whole,
        cover: Cover,
        after: Option<Vec<Value>>,
        count: usize,
    ) -> Result<Answer, StoreError> {
        self.read(move |connection, patients, dict| {
            *patients.lock() = cover.patients().clone();
            let context = Context { dict, cover: &cover, few: FEW };
            let page = whole::run(&context, connection, &whole, after.as_deref(), count)?;
            Ok(Answer { hits: page.hits, included: Vec::new(), total: page.total, more: page.more })
        })
        .await
    }

    /// Change numbers of the newest `max` of each code.
    pub async fn last(
        &self,
        query: Query,
        cover: Cover,
        code: &'static str,
        date: &'static str,
        max: usize,
    ) -> Result<Vec<u64>, StoreError> {
        self.read(move |connection, patients, dict| {
            *patients.lock() = cover.patients().clone();
            let context = Context { dict, cover: &cover, few: FEW };
            whole::last(&context, connection, &query, code, date, max)
        })
        .await
    }

    /// Ids and source records of the resources that satisfy the query's criteria, at most `max`, in the order of ids.
    pub async fn find(&self, query: Query, cover: Cover, max: usize) -> Result<Vec<(String, u32)>, StoreError> {
        Ok(self.find_each(vec![query], cover, max).await?.pop().unwrap_or_default())
    }

    /// Many look-ups in one go: one thread and one moment for all of them.
    pub async fn find_each(
        &self,
        queries: Vec<Query>,
        cover: Cover,
        max: usize,
    ) -> Result<Vec<Vec<(String, u32)>>, StoreError> {
        self.read(move |connection, patients, dict| {
            *patients.lock() = cover.patients().clone();
            let context = Context { dict, cover: &cover, few: FEW };
            queries.iter().map(|query| query::find(&context, connection, query, max)).collect()
        })
        .await
    }

    /// Runs in one transaction of a connection of its own, so that page, total and includes are of one moment; a caller
    /// that goes away interrupts it.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection, &Patients, &Dict) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let turn = self.0.turns.clone().acquire_owned().await.map_err(|_| StoreError::Stopping)?;
        let inner = self.0.clone();
        let running = Arc::new(Mutex::new(None));
        let guard = InterruptOnDrop(running.clone());
        let result = blocking(move || {
            let _turn = turn;
            let free = inner.readers.lock().pop();
            let reader = match free {
                Some(reader) => reader,
                None => Reader::open(&inner)?,
            };
            *running.lock() = Some(reader.connection.get_interrupt_handle());
            let result = reader.run(&inner, work);
            running.lock().take();
            inner.readers.lock().push(reader);
            result
        })
        .await;
        drop(guard);
        result
    }
}

impl Reader {
    fn open(inner: &Inner) -> Result<Reader, StoreError> {
        let connection = schema::connect(&inner.path, &inner.key.read())?;
        connection.execute_batch("PRAGMA query_only = ON")?;
        let patients = cover::register(&connection)?;
        Ok(Reader { connection, patients })
    }

    fn run<T>(
        &self,
        inner: &Inner,
        work: impl FnOnce(&Connection, &Patients, &Dict) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let tx = self.connection.unchecked_transaction()?;
        // The first read fixes the moment; numbers are taken after it.
        write::position(&tx)?;
        let dict = inner.dict.read().clone();
        work(&tx, &self.patients, &dict)
    }
}

/// The handle is there only while the search runs, so that nobody else's is interrupted.
struct InterruptOnDrop(Arc<Mutex<Option<InterruptHandle>>>);

impl Drop for InterruptOnDrop {
    fn drop(&mut self) {
        if let Some(handle) = &*self.0.lock() {
            handle.interrupt();
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(StoreError::Stopping),
        },
    }
}
