//! [`Log`]: what others use. A bounded queue before one writer thread (group commit: a sync takes what queued while
//! the last one ran), a second thread for the tail, reads and proofs on the caller's thread.
//! What a frame does to the disk is in `head`, what tiles do in `tail`.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use base::{Clock, LogName};
use disk::Disk;
use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::{oneshot, watch};

use crate::error::{AppendError, LedgerError};
use crate::frame::{Entry, NewEntry, PARTS_MAX, Prepared};
use crate::head::{self, Head};
use crate::merkle::{self, Hash, leaf_hash};
use crate::note::CheckpointSigner;
use crate::options::LogOptions;
use crate::reader::Reader;
use crate::scan::Identity;
use crate::tail::{self, Tail};
use crate::tiles::{Edge, FullTiles, Tree};
use crate::verify::{self, Verified};

/// Tiles this far behind are caught up before `open` returns; more are written in the background.
const CATCH_UP_MAX: u64 = 65_536;
/// Entries without tiles that a proof may gather by itself.
const UNTILED_MAX: u64 = 262_144;
/// Entries without tiles that end the gathering before its time.
const GATHERED_MAX: u64 = 4_096;
const RETRY_AFTER_MS_MAX: u64 = 1_000;
/// A full disk is tried again at this distance.
const NO_SPACE_WAIT_MS: u64 = 1_000;

/// An append-only log of one writer. Clones are handles to the same log; it closes when the last one goes.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
    _end: Arc<End>,
}

struct Shared {
    name: LogName,
    options: LogOptions,
    identity: Identity,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    clock: Arc<dyn Clock>,
    reader: Arc<Reader>,
    full: FullTiles,
    edge: RwLock<Arc<Edge>>,
    queue: Mutex<Queue>,
    queued: Condvar,
    tail: Mutex<TailWork>,
    tail_wakes: Condvar,
    size: watch::Sender<u64>,
    tiled: watch::Sender<u64>,
    ended: watch::Sender<bool>,
    /// Threads that have not ended.
    running: AtomicUsize,
    /// The writer lock, given back when both threads have ended.
    lock: Mutex<Option<Box<dyn Send + Sync>>>,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    entries: usize,
    bytes: usize,
    is_closing: bool,
    is_poisoned: bool,
    /// How long a commit took lately.
    commit_ms: u64,
}

struct Item {
    entries: Entries,
    bytes: usize,
    reply: oneshot::Sender<Result<Range<u64>, AppendError>>,
}

enum Entries {
    One(Prepared),
    Many(Vec<Prepared>),
}

impl Entries {
    fn as_slice(&self) -> &[Prepared] {
        match self {
            Entries::One(entry) => std::slice::from_ref(entry),
            Entries::Many(entries) => entries,
        }
    }
}

#[derive(Default)]
struct TailWork {
    is_due: bool,
    /// There are enough entries for a step: gathering more would only make proofs late.
    is_much: bool,
    is_stopping: bool,
}

impl Log {
    /// Takes the writer lock, recovers what is in `dir` or begins a log there, and starts its two threads.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        name: LogName,
        options: LogOptions,
        signer: Arc<dyn CheckpointSigner>,
        clock: Arc<dyn Clock>,
    ) -> Result<Log, LedgerError> {
        options.check()?;
        let lock = take_lock(&*disk, dir)?;
        let (head, mut tail) = open_parts(&disk, dir, &options, &signer)?;
        if head.size() - tail.edge().size() <= CATCH_UP_MAX {
            catch_up(&mut tail)?;
        }
        let reader = head.reader().clone();
        let shared = Arc::new(Shared {
            identity: head::identity(&options, &*signer),
            full: FullTiles::new(disk.clone(), dir.to_owned()),
            edge: RwLock::new(tail.edge().clone()),
            queue: Mutex::new(Queue { commit_ms: 1, ..Queue::default() }),
            queued: Condvar::new(),
            tail: Mutex::new(TailWork { is_due: true, ..TailWork::default() }),
            tail_wakes: Condvar::new(),
            size: watch::Sender::new(reader.size()),
            tiled: watch::Sender::new(tail.published()),
            ended: watch::Sender::new(false),
            running: AtomicUsize::new(2),
            lock: Mutex::new(Some(lock)),
            dir: dir.to_owned(),
            name,
            options,
            disk,
            clock,
            reader,
        });
        let spawn = |label: &str, work: Box<dyn FnOnce(&Shared) + Send>| {
            let (shared, name) = (shared.clone(), format!("{label} {}", shared.name));
            std::thread::Builder::new()
                .name(name)
                .spawn(move || work(&shared))
                .map_err(LedgerError::io("start a thread for", dir))
        };
        let tail_thread = spawn("tail", Box::new(move |shared| run_tail(shared, tail)))?;
        // From here on both threads must be told to end, whatever happens.
        let mut end = End { shared: shared.clone(), threads: Mutex::new(vec![tail_thread]) };
        match spawn("log", Box::new(move |shared| run_head(shared, head))) {
            Ok(thread) => end.threads.get_mut().push(thread),
            Err(error) => {
                shared.stop_tail();
                return Err(error);
            }
        }
        Ok(Log { shared, _end: Arc::new(end) })
    }

    pub fn name(&self) -> &LogName {
        &self.shared.name
    }

    /// Number of durable entries: the next index.
    pub fn size(&self) -> u64 {
        self.shared.reader.size()
    }

    /// Follows the durable size.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.size.subscribe()
    }

    /// Follows the size of the published checkpoint, which the tiles on disk prove.
    pub fn subscribe_published(&self) -> watch::Receiver<u64> {
        self.shared.tiled.subscribe()
    }

    /// Appends one entry. When this returns its index, the entry would survive a power cut. An append that is dropped
    /// while waiting may still be written.
    pub async fn append(&self, entry: NewEntry) -> Result<u64, AppendError> {
        let bytes = self.check(std::slice::from_ref(&entry))?;
        let prepared = Prepared::new(entry, self.shared.clock.now());
        Ok(self.enqueue(Entries::One(prepared), bytes).await?.start)
    }

    /// Appends entries side by side in one frame: after a power cut all of them are there or none.
    pub async fn append_all(&self, entries: Vec<NewEntry>) -> Result<Range<u64>, AppendError> {
        let bytes = self.check(&entries)?;
        if entries.is_empty() {
            return Ok(self.size()..self.size());
        }
        let now = self.shared.clock.now();
        let prepared = entries.into_iter().map(|entry| Prepared::new(entry, now)).collect();
        self.enqueue(Entries::Many(prepared), bytes).await
    }

    /// Payload bytes of the entries, within the limits.
    fn check(&self, entries: &[NewEntry]) -> Result<usize, AppendError> {
        let (bytes_max, entries_max) = (self.shared.options.append_bytes_max, self.shared.options.frame_entries_max);
        if entries.len() > entries_max {
            return Err(AppendError::TooLarge { limit: entries_max, unit: "entries" });
        }
        if entries.iter().any(|entry| entry.parts.len() > PARTS_MAX) {
            return Err(AppendError::TooLarge { limit: PARTS_MAX, unit: "parts" });
        }
        let bytes = entries.iter().map(NewEntry::bytes).fold(0, usize::saturating_add);
        if bytes > bytes_max {
            return Err(AppendError::TooLarge { limit: bytes_max, unit: "bytes" });
        }
        Ok(bytes)
    }

    async fn enqueue(&self, entries: Entries, bytes: usize) -> Result<Range<u64>, AppendError> {
        let (reply, answer) = oneshot::channel();
        self.shared.push(Item { entries, bytes, reply })?;
        answer.await.unwrap_or(Err(AppendError::Poisoned))
    }

    /// Up to `entries_max` durable entries from `from`, stopping at `bytes_max` bytes, but at least one if there is
    /// one. Empty at the end of the log. Reads files: not for an async worker when much is asked.
    pub fn read(&self, from: u64, entries_max: usize, bytes_max: usize) -> Result<Vec<Entry>, LedgerError> {
        self.shared.reader.read(from, entries_max, bytes_max)
    }

    /// The signed checkpoint at the durable size (C2SP tlog-checkpoint).
    pub fn checkpoint(&self) -> String {
        self.shared.reader.durable().note.to_string()
    }

    /// The verifier key that checks this log's checkpoints.
    pub fn vkey(&self) -> String {
        crate::note::vkey(&self.shared.identity.key_name, &self.shared.identity.public_key)
    }

    /// Root of the first `size` entries.
    pub fn root(&self, size: u64) -> Result<Hash, LedgerError> {
        merkle::root(&mut self.shared.tree(size)?, size)
    }

    /// Leaf hash of an entry, for an inclusion proof.
    pub fn leaf_hash(&self, index: u64) -> Result<Hash, LedgerError> {
        self.shared.check_size(index.saturating_add(1))?;
        let mut hash = [0; 32];
        self.shared.reader.leaves(index, index + 1, |leaf| hash = leaf_hash(leaf))?;
        Ok(hash)
    }

    /// RFC 9162 §2.1.3: that entry `index` is in the tree of `size`.
    pub fn inclusion_proof(&self, index: u64, size: u64) -> Result<Vec<Hash>, LedgerError> {
        if index >= size {
            return Err(LedgerError::OutOfRange { asked: index, size });
        }
        merkle::inclusion_proof(&mut self.shared.tree(size)?, index, size)
    }

    /// RFC 9162 §2.1.4: that the tree of `from` entries is a beginning of the tree of `to`.
    pub fn consistency_proof(&self, from: u64, to: u64) -> Result<Vec<Hash>, LedgerError> {
        if from > to {
            return Err(LedgerError::OutOfRange { asked: from, size: to });
        }
        merkle::consistency_proof(&mut self.shared.tree(to)?, from, to)
    }

    /// Reads the whole log and checks every hash, signature and link. Long; beside a running writer it covers what was
    /// durable when it began.
    pub fn verify(&self) -> Result<Verified, LedgerError> {
        let shared = &self.shared;
        verify::verify(&*shared.disk, &shared.dir, &shared.identity, Some(&shared.reader))
    }

    /// Takes no more appends, makes durable what is queued, publishes the last checkpoint, gives the lock back.
    pub async fn close(&self) {
        self.shared.begin_closing();
        let mut ended = self.shared.ended.subscribe();
        // The sender lives as long as `self`.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}

fn take_lock(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn Send + Sync>, LedgerError> {
    let path = dir.join("lock");
    disk.lock(&path, &format!("process {}", std::process::id())).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => LedgerError::Locked { dir: dir.to_owned(), holder: error.to_string() },
        _ => LedgerError::io("lock", &path)(error),
    })
}

/// Head and tail of the log in a locked folder.
pub(crate) fn open_parts(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    options: &LogOptions,
    signer: &Arc<dyn CheckpointSigner>,
) -> Result<(Head, Tail), LedgerError> {
    let identity = head::identity(options, &**signer);
    let published = tail::published(&**disk, dir, &identity)?;
    let size = published.map(|published| published.size);
    let head = Head::open(disk.clone(), dir, options.clone(), signer.clone(), size)?;
    let tail = Tail::open(disk.clone(), dir, head.reader().clone(), identity, published)?;
    Ok((head, tail))
}

fn catch_up(tail: &mut Tail) -> Result<(), LedgerError> {
    loop {
        match tail.step() {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) if error.is_no_space() => {
                tracing::warn!("{error}: the tiles follow when there is space");
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
}

/// Writes all tiles and the published checkpoint of a closed log again from its segments. Returns the log's size.
pub fn rebuild_tiles(
    disk: Arc<dyn Disk>,
    dir: &Path,
    options: LogOptions,
    signer: Arc<dyn CheckpointSigner>,
) -> Result<u64, LedgerError> {
    options.check()?;
    let _lock = take_lock(&*disk, dir)?;
    let tiles = dir.join("tile");
    disk.remove(&tiles).map_err(LedgerError::io("remove", &tiles))?;
    let (head, mut tail) = open_parts(&disk, dir, &options, &signer)?;
    tail.start_over();
    while !tail.step()? {}
    Ok(head.size())
}

impl Shared {
    fn push(&self, item: Item) -> Result<(), AppendError> {
        let count = item.entries.as_slice().len();
        let mut queue = self.queue.lock();
        if queue.is_poisoned {
            return Err(AppendError::Poisoned);
        }
        if queue.is_closing {
            return Err(AppendError::Closed);
        }
        let is_full =
            queue.entries + count > self.options.queue_max || queue.bytes + item.bytes > self.options.queue_bytes_max;
        // A batch larger than the queue is taken when it is alone.
        if is_full && !queue.items.is_empty() {
            let frames = 1 + (queue.bytes / self.options.frame_bytes_max.max(1)) as u64;
            return Err(AppendError::Busy { retry_after_ms: (queue.commit_ms * frames).clamp(1, RETRY_AFTER_MS_MAX) });
        }
        queue.entries += count;
        queue.bytes += item.bytes;
        queue.items.push_back(item);
        let was_empty = queue.items.len() == 1;
        drop(queue);
        if was_empty {
            self.queued.notify_one();
        }
        Ok(())
    }

    /// Waits for work, then takes one frame's worth. `None` when the log is closed and empty.
    fn take(&self, batch: &mut Vec<Item>) -> Option<()> {
        let mut queue = self.queue.lock();
        while queue.items.is_empty() {
            if queue.is_closing {
                return None;
            }
            self.queued.wait(&mut queue);
        }
        let (mut entries, mut bytes) = (0, 0usize);
        while let Some(item) = queue.items.front() {
            entries += item.entries.as_slice().len();
            bytes = bytes.saturating_add(item.bytes);
            let is_over = entries > self.options.frame_entries_max || bytes > self.options.frame_bytes_max;
            if is_over && !batch.is_empty() {
                break;
            }
            let Some(item) = queue.items.pop_front() else { break };
            queue.entries -= item.entries.as_slice().len();
            queue.bytes -= item.bytes;
            batch.push(item);
        }
        Some(())
    }

    fn begin_closing(&self) {
        self.queue.lock().is_closing = true;
        self.queued.notify_all();
    }

    fn stop_tail(&self) {
        self.tail.lock().is_stopping = true;
        self.tail_wakes.notify_all();
    }

    fn wake_tail(&self) {
        let is_much = self.reader.size().saturating_sub(self.edge.read().size()) >= GATHERED_MAX;
        let mut work = self.tail.lock();
        let was_due = std::mem::replace(&mut work.is_due, true);
        let was_much = std::mem::replace(&mut work.is_much, is_much);
        drop(work);
        if !was_due || is_much && !was_much {
            self.tail_wakes.notify_one();
        }
    }

    fn check_size(&self, size: u64) -> Result<(), LedgerError> {
        let durable = self.reader.size();
        if size > durable { Err(LedgerError::OutOfRange { asked: size, size: durable }) } else { Ok(()) }
    }

    /// A tree that has at least `size` leaves.
    fn tree(&self, size: u64) -> Result<Tree<'_>, LedgerError> {
        self.check_size(size)?;
        let edge = self.edge.read().clone();
        let tiled = edge.size();
        if size.saturating_sub(tiled) > UNTILED_MAX {
            return Err(LedgerError::Behind { tiled });
        }
        let mut tree = Tree::new(&self.full, (*edge).clone());
        if size > tiled {
            self.reader.leaves(tiled, size, |leaf| tree.push(leaf_hash(leaf)))?;
        }
        Ok(tree)
    }
}

/// Ends a thread's part of a log, also when it panicked: then nobody waits for an answer that cannot come.
struct Ends<'a>(&'a Shared);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.queue.lock().is_poisoned = true;
            self.0.begin_closing();
        }
        if self.0.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.lock.lock().take();
            self.0.ended.send_replace(true);
        }
    }
}

/// The writer thread takes no more: what is still queued is answered, and the tail finishes.
struct HeadEnds<'a>(&'a Shared);

impl Drop for HeadEnds<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.is_closing = true;
        queue.items.clear();
        drop(queue);
        self.0.stop_tail();
    }
}

fn run_head(shared: &Shared, mut head: Head) {
    let _ends = Ends(shared);
    let _head_ends = HeadEnds(shared);
    let mut batch = Vec::new();
    while shared.take(&mut batch).is_some() {
        let begun = shared.clock.now();
        let entries: Vec<&Prepared> = batch.iter().flat_map(|item| item.entries.as_slice()).collect();
        let committed = head.commit(&entries);
        drop(entries);
        // A clock that jumps must not make the answer to a busy caller absurd.
        let took = shared.clock.now().ms().saturating_sub(begun.ms()).clamp(0, RETRY_AFTER_MS_MAX as i64) as u64;
        {
            let mut queue = shared.queue.lock();
            queue.commit_ms = ((queue.commit_ms * 3 + took) / 4).max(1);
            queue.is_poisoned |= committed == Err(AppendError::Poisoned);
        }
        if committed.is_ok() {
            shared.size.send_replace(head.size());
            shared.wake_tail();
        }
        answer(&mut batch, committed);
    }
}

/// Tells each waiting append its own indexes. One that is no longer waiting is no error.
fn answer(batch: &mut Vec<Item>, committed: Result<Range<u64>, AppendError>) {
    let mut next = committed.as_ref().map_or(0, |range| range.start);
    for item in batch.drain(..) {
        let end = next + item.entries.as_slice().len() as u64;
        let _ = item.reply.send(committed.clone().map(|_| next..end));
        next = end;
    }
}

fn run_tail(shared: &Shared, mut tail: Tail) {
    let _ends = Ends(shared);
    let mut wait_ms = shared.options.tail_interval_ms;
    let mut is_full = false;
    loop {
        let is_last = {
            let mut work = shared.tail.lock();
            while !work.is_due && !work.is_stopping {
                shared.tail_wakes.wait(&mut work);
            }
            if !work.is_stopping {
                // Gather: what comes in this time shares tiles and syncs.
                let time = Duration::from_millis(wait_ms);
                let gathers = |work: &mut TailWork| !work.is_stopping && (is_full || !work.is_much);
                let _ = shared.tail_wakes.wait_while_for(&mut work, gathers, time);
            }
            (work.is_due, work.is_much) = (false, false);
            work.is_stopping
        };
        let begun = shared.clock.now();
        match follow(shared, &mut tail) {
            Ok(()) => {
                is_full = false;
                // Steps begin at a distance; a long one leaves nothing to wait for. A clock may jump.
                let took = shared.clock.now().ms().saturating_sub(begun.ms()).max(0) as u64;
                wait_ms = shared.options.tail_interval_ms.saturating_sub(took);
            }
            Err(error) if error.is_no_space() => {
                if !is_full {
                    tracing::warn!(log = %shared.name, "{error}: the tiles follow when there is space");
                }
                is_full = true;
                wait_ms = NO_SPACE_WAIT_MS;
                shared.tail.lock().is_due = true;
            }
            Err(error) => {
                shared.queue.lock().is_poisoned = true;
                shared.disk.fatal("writing tiles", &std::io::Error::other(error.to_string()));
                return;
            }
        }
        if is_last {
            return;
        }
    }
}

fn follow(shared: &Shared, tail: &mut Tail) -> Result<(), LedgerError> {
    loop {
        let is_done = tail.step()?;
        *shared.edge.write() = tail.edge().clone();
        shared.tiled.send_replace(tail.published());
        if is_done {
            return Ok(());
        }
    }
}

/// Closes the log when the last handle goes.
struct End {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.shared.begin_closing();
        for thread in self.threads.get_mut().drain(..).rev() {
            // A panic of the thread has been reported by its own hook.
            let _ = thread.join();
        }
    }
}
