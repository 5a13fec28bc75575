//! **Who saw this patient**, as an index: derived from the audit log, sealed, rebuilt when it is missing or damaged.
//!
//! A log-structured merge tree of immutable runs. The newest records are in memory ([`memory`]); then they become a run
//! ([`table`]), named by the range of records it covers; eight neighbours of one size become the next larger. So a
//! billion records are in some forty runs, and one patient's rows lie together in each. Rows hold the whole record
//! ([`rows`]): a question ([`question`]) never goes to the log.
//!
//! The [`manifest`] names the runs and the place in each target up to which they go. It is replaced as a whole, after
//! the run it names is durable: a crash leaves the one or the other, and what memory held is read from the log again.
//!
//! One key for the index, from the vault; dropping the index destroys it.
//!
//! Never here: which records are new (see `union`), permits (see `reader`).

pub(crate) mod manifest;
pub(crate) mod memory;
pub(crate) mod question;
pub(crate) mod rows;
pub(crate) mod table;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::Timestamp;
use tokio::task::JoinHandle;

use crate::audit::index::manifest::{Manifest, RunName};
use crate::audit::index::memory::{Memory, is_once};
use crate::audit::index::question::{Answer, Question};
use crate::audit::index::rows::Found;
use crate::audit::index::table::{Key, RunKey, Table, TableWriter};
use crate::audit::keys::{AuditKeyError, AuditKeys, RecordId};
use crate::audit::union::{Have, Place};

/// So many neighbours of one level become one of the next.
const FAN: usize = 8;
/// More runs than this are merged before another is written.
const RUNS_MAX: usize = 256;

/// The index could not be written or read; it is dropped and built again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IndexError {
    #[error("the audit index cannot be written or read: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Key(#[from] AuditKeyError),
}

/// An immutable run.
pub(crate) struct Run {
    name: RunName,
    first: Timestamp,
    last: Timestamp,
    table: Table,
}

/// How large the index is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub records: u64,
    pub runs: u64,
    pub bytes: u64,
    pub blocks_read: u64,
}

/// The index of one node.
pub(crate) struct Index {
    folder: PathBuf,
    generation: [u8; 16],
    key: ::vault::Key,
    /// In the order of the records they cover.
    runs: Vec<Arc<Run>>,
    memory: Memory,
    /// What the newest manifest says beside the runs.
    stood: manifest::Stood,
    /// Tells running merges that the index is gone.
    stop: Arc<AtomicBool>,
    /// Running merges, by the level of the runs they replace.
    merging: BTreeMap<u8, (Vec<RunName>, JoinHandle<io::Result<Run>>)>,
}

/// A merge may take minutes; nobody waits for one whose index is closed. Its file goes at the next opening.
impl Drop for Index {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What was read before: where each target stood.
pub(crate) struct Resumed {
    pub seen: Have,
    pub places: Vec<Place>,
}

impl Index {
    /// Opens what is there, or nothing: then what is left of an earlier one is removed, and a key is begun.
    pub async fn open(folder: &Path, keys: &dyn AuditKeys) -> Result<(Index, Option<Resumed>), IndexError> {
        std::fs::create_dir_all(folder)?;
        match Self::open_manifest(folder, keys).await {
            Ok(Some((index, resumed))) => {
                index.remove_others()?;
                Ok((index, Some(resumed)))
            }
            Err(IndexError::Key(AuditKeyError::Outage)) => Err(AuditKeyError::Outage.into()),
            Ok(None) => Ok((Self::begin(folder, keys).await?, None)),
            Err(error) => {
                tracing::warn!("{error}: it is built again from the log");
                Ok((Self::begin(folder, keys).await?, None))
            }
        }
    }

    async fn open_manifest(folder: &Path, keys: &dyn AuditKeys) -> Result<Option<(Index, Resumed)>, IndexError> {
        let Some(sealed) = manifest::load(folder)? else { return Ok(None) };
        let generation = sealed.generation;
        let key = keys.load(generation).await?;
        let Manifest { runs, stood } = sealed.open(&key)?;
        let open = |name: &RunName| -> io::Result<Arc<Run>> {
            let table = Table::open(&folder.join(name.file()), RunKey::derive(&key, name.id)?)?;
            Ok(Arc::new(Run { first: name.first, last: name.last, name: *name, table }))
        };
        let runs = runs.iter().map(open).collect::<io::Result<Vec<_>>>()?;
        let (seen, places) = stood.decode()?;
        let folder = folder.to_owned();
        let index = Index {
            folder,
            generation,
            key,
            runs,
            memory: Memory::default(),
            stood,
            stop: Arc::default(),
            merging: BTreeMap::new(),
        };
        Ok(Some((index, Resumed { seen, places })))
    }

    async fn begin(folder: &Path, keys: &dyn AuditKeys) -> Result<Index, IndexError> {
        Self::drop_in(folder, keys).await?;
        std::fs::create_dir_all(folder)?;
        let begun = keys.begin().await?;
        let index = Index {
            folder: folder.to_owned(),
            generation: begun.id,
            key: begun.key,
            runs: Vec::new(),
            memory: Memory::default(),
            stood: manifest::Stood::default(),
            stop: Arc::default(),
            merging: BTreeMap::new(),
        };
        // A manifest of nothing, so that the key is not forgotten when the index is.
        index.save()?;
        Ok(index)
    }

    /// Removes runs that the manifest does not name.
    fn remove_others(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != manifest::FILE && !self.runs.iter().any(|run| run.name.file() == name) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Destroys the key of whatever index there is, and then its files.
    pub async fn drop_in(folder: &Path, keys: &dyn AuditKeys) -> Result<(), IndexError> {
        if let Some(old) = manifest::load(folder).ok().flatten() {
            keys.forget(old.generation).await?;
        }
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// What takes further records, to be put back when they are added.
    pub fn take_memory(&mut self) -> Memory {
        std::mem::take(&mut self.memory)
    }

    pub fn put_memory(&mut self, memory: Memory) {
        self.memory = memory;
    }

    pub fn is_full(&self) -> bool {
        self.memory.is_full()
    }

    pub fn size(&self) -> Size {
        let runs = &self.runs;
        let records = runs.last().map_or(0, |run| run.name.to) + self.memory.records;
        let bytes = runs.iter().map(|run| run.name.bytes).sum();
        let blocks_read = runs.iter().map(|run| run.table.reads()).sum();
        Size { records, runs: runs.len() as u64, bytes, blocks_read }
    }

    /// Makes a run of what is in memory. `seen` and `places` are where the records stop that were added.
    pub async fn flush(&mut self, seen: &mut Have, places: Vec<Place>) -> Result<(), IndexError> {
        let Some((first, last)) = self.memory.span else { return Ok(()) };
        while self.runs.len() >= RUNS_MAX
            && let Some(level) = self.merging.keys().next().copied()
        {
            self.take_over(level).await?;
        }
        let mut memory = std::mem::take(&mut self.memory);
        let from = self.runs.last().map_or(0, |run| run.name.to);
        let name = RunName { id: new_id()?, level: 0, from, to: from + memory.records, first, last, bytes: 0 };
        let (folder, key) = (self.folder.clone(), self.key.clone());
        let written = tokio::task::spawn_blocking(move || {
            write_run(&folder, &key, name, |writer| memory.write(writer)).map(Arc::new)
        });
        let run = written.await.map_err(io::Error::other)??;
        self.runs.push(run);
        self.stood = manifest::Stood::encode(seen, places);
        self.save()?;
        self.merged().await
    }

    fn save(&self) -> Result<(), IndexError> {
        let runs = self.runs.iter().map(|run| run.name).collect();
        let manifest = Manifest { runs, stood: self.stood.clone() };
        Ok(manifest.save(&self.folder, self.generation, &self.key, new_id()?)?)
    }

    /// Takes over merges that are done, and begins those that are due.
    pub async fn merged(&mut self) -> Result<(), IndexError> {
        let done: Vec<u8> =
            self.merging.iter().filter(|(_, (_, merge))| merge.is_finished()).map(|(l, _)| *l).collect();
        for level in done {
            self.take_over(level).await?;
        }
        self.begin_merges()
    }

    /// Waits for a merge and puts its run into the place of those it was made of.
    async fn take_over(&mut self, level: u8) -> Result<(), IndexError> {
        let Some((old, merge)) = self.merging.remove(&level) else { return Ok(()) };
        let run = Arc::new(merge.await.map_err(io::Error::other)??);
        let at = self.runs.iter().position(|run| old.contains(&run.name)).unwrap_or(self.runs.len());
        self.runs.retain(|run| !old.contains(&run.name));
        self.runs.insert(at, run);
        self.save()?;
        for name in old {
            std::fs::remove_file(self.folder.join(name.file()))?;
        }
        Ok(())
    }

    fn begin_merges(&mut self) -> Result<(), IndexError> {
        let levels: Vec<u8> = self.runs.iter().map(|run| run.name.level).collect();
        for (at, neighbours) in levels.chunk_by(|a, b| a == b).scan(0, |at, part| {
            let begins = *at;
            *at += part.len();
            Some((begins, part))
        }) {
            let level = neighbours[0];
            if neighbours.len() < FAN || self.merging.contains_key(&level) {
                continue;
            }
            let runs: Vec<Arc<Run>> = self.runs[at..at + FAN].to_vec();
            let names: Vec<RunName> = runs.iter().map(|run| run.name).collect();
            let (folder, key, id) = (self.folder.clone(), self.key.clone(), new_id()?);
            let stop = self.stop.clone();
            let merge = tokio::task::spawn_blocking(move || merge(&folder, &key, id, &runs, &stop));
            self.merging.insert(level, (names, merge));
        }
        Ok(())
    }

    /// Waits until no merge is due, for tests and for figures.
    pub async fn settle(&mut self) -> Result<(), IndexError> {
        self.begin_merges()?;
        while let Some(level) = self.merging.keys().next().copied() {
            self.take_over(level).await?;
            self.begin_merges()?;
        }
        Ok(())
    }

    /// See [`question::place_of`].
    pub fn place_of(&self, id: RecordId) -> io::Result<Option<(Arc<str>, u64)>> {
        question::place_of(id, &self.memory, &self.runs)
    }

    /// What a question needs, so that it can be asked without holding the index.
    pub fn prepare(&self, question: &Question) -> io::Result<Prepared> {
        Ok(Prepared { memory: question.recall(&self.memory)?, runs: self.runs.clone() })
    }
}

/// See [`Index::prepare`].
pub(crate) struct Prepared {
    memory: Vec<([u8; 16], Found)>,
    runs: Vec<Arc<Run>>,
}

impl Prepared {
    /// Reads files: for a thread of its own.
    pub fn ask(self, question: &Question) -> io::Result<Answer> {
        question.ask(self.memory, &self.runs)
    }
}

fn new_id() -> io::Result<[u8; 16]> {
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| io::Error::other("the system gives no randomness"))?;
    Ok(id)
}

fn write_run(
    folder: &Path,
    key: &[u8; 32],
    name: RunName,
    write: impl FnOnce(&mut TableWriter) -> io::Result<()>,
) -> io::Result<Run> {
    let path = folder.join(name.file());
    let mut writer = TableWriter::create(&path, RunKey::derive(key, name.id)?)?;
    write(&mut writer)?;
    let name = RunName { bytes: writer.finish()?, ..name };
    let table = Table::open(&path, RunKey::derive(key, name.id)?)?;
    Ok(Run { first: name.first, last: name.last, name, table })
}

/// One run of neighbours.
fn merge(folder: &Path, key: &[u8; 32], id: [u8; 16], runs: &[Arc<Run>], stop: &AtomicBool) -> io::Result<Run> {
    let (Some(oldest), Some(newest)) = (runs.first(), runs.last()) else {
        return Err(io::Error::other("nothing to merge"));
    };
    let name = RunName {
        id,
        level: oldest.name.level.saturating_add(1),
        from: oldest.name.from,
        to: newest.name.to,
        first: runs.iter().map(|run| run.first).min().unwrap_or_default(),
        last: runs.iter().map(|run| run.last).max().unwrap_or_default(),
        bytes: 0,
    };
    write_run(folder, key, name, |writer| {
        let mut inputs = runs.iter().map(|run| run.table.seek(&[0; 33])).collect::<io::Result<Vec<_>>>()?;
        let mut heads: Vec<Option<Key>> = Vec::with_capacity(inputs.len());
        for input in &mut inputs {
            heads.push(input.peek()?.map(|(key, _)| key));
        }
        let mut before: Option<Key> = None;
        while let Some((n, key)) = least(&heads) {
            if stop.load(Ordering::Relaxed) {
                return Err(io::Error::other("the index was closed"));
            }
            let input = &mut inputs[n];
            if let Some((_, value)) = input.peek()?
                && !(is_once(&key) && before == Some(key))
            {
                writer.push(&key, value)?;
                before = Some(key);
            }
            input.skip();
            heads[n] = input.peek()?.map(|(key, _)| key);
        }
        Ok(())
    })
}

fn least(heads: &[Option<Key>]) -> Option<(usize, Key)> {
    heads.iter().enumerate().filter_map(|(n, key)| Some((n, (*key)?))).min_by_key(|(_, key)| *key)
}
