//! A target in a folder that may be lost: its disk full or broken, the folder deleted, not mounted, damaged, or come back
//! from an old copy. The node goes on with the other target meanwhile.
//!
//! - A log that cannot go on is **set aside** (renamed, never removed) and another is begun, under a **new origin**
//!   (`MESH/audit`, then `MESH/audit.2`): no checkpoint of the old one is ever contradicted.
//! - Each target keeps the other's newest checkpoint as a **witness**, so that a folder from an old copy is known.
//!
//! Never here: filling a new log (see `union`).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::ledger::{LedgerError, Log, note};
use async_trait::async_trait;
use base::{Clock, Timestamp};
use bytes::Bytes;
use disk::{Access, Disk, DiskFile, Kind, RealDisk, Stat};
use parking_lot::RwLock;

use crate::audit::ledger::LogTarget;
use crate::audit::target::{AuditSource, AuditStore, AuditTarget, AuditUnavailable, SourceError};

/// A folder that could not be opened is tried again after this, and then ever more rarely.
const RETRY_MS: i64 = 1_000;
const RETRY_MS_MAX: i64 = 60_000;
/// The witness of the other target follows at this distance.
const WITNESS_MS: i64 = 5_000;

/// Opens the log in the folder under an origin, or begins it there; with a disk for an audit target ([`AuditDisk`]).
pub type OpenLog = dyn Fn(&Path, &str) -> Result<Log, LedgerError> + Send + Sync;

/// What a target in a folder is made of.
pub struct FolderParts {
    /// For the operator: `log`, `second`.
    pub name: String,
    pub folder: PathBuf,
    /// Origin of its first log; later ones are `ORIGIN.2`, `ORIGIN.3`.
    pub origin: String,
    /// The newest log of this target that is known of, from 1; 0 when none is.
    pub known: u32,
    /// The other target's folder, which keeps this one's witness.
    pub beside: Option<PathBuf>,
    /// Ed25519, of the key that signs its checkpoints.
    pub public_key: [u8; 32],
    pub open: Box<OpenLog>,
    pub clock: Arc<dyn Clock>,
}

/// See the module. Clones are handles to the same target.
#[derive(Clone)]
pub struct FolderTarget(Arc<Inner>);

struct Inner {
    parts: FolderParts,
    state: RwLock<State>,
    /// One looks after it at a time.
    tending: tokio::sync::Mutex<()>,
}

struct State {
    open: Option<Open>,
    /// Newest number of a log in this folder.
    newest: u32,
    why: Option<String>,
    /// It was found damaged: opening it once more does not help.
    is_damaged: bool,
    retry_at: Timestamp,
    retry_ms: i64,
    /// Whether the last try was allowed to begin another log.
    tried_anew: bool,
    /// Size and time of the newest witness.
    witness: (u64, Timestamp),
}

#[derive(Clone)]
struct Open {
    log: Log,
    target: LogTarget,
    origin: String,
    /// Of the lock file: another file there is another folder.
    inode: u64,
}

/// Why there is no log, and what to do about it.
enum Trouble {
    /// Try again later.
    Away(String),
    /// Set it aside.
    Beyond(String),
}

impl FolderTarget {
    /// Nothing is opened before the first [`AuditStore::tend`].
    pub fn new(parts: FolderParts) -> Self {
        let state = State {
            open: None,
            newest: parts.known,
            why: Some("it was not opened yet".to_owned()),
            is_damaged: false,
            retry_at: Timestamp(i64::MIN),
            retry_ms: RETRY_MS,
            tried_anew: false,
            witness: (0, Timestamp(i64::MIN)),
        };
        FolderTarget(Arc::new(Inner { parts, state: RwLock::new(state), tending: tokio::sync::Mutex::new(()) }))
    }

    /// The log behind it now.
    pub fn log(&self) -> Option<Log> {
        self.0.state.read().open.as_ref().map(|open| open.log.clone())
    }

    /// Closes the log for good; the witness is then at its end.
    pub async fn close(&self) {
        let _one = self.0.tending.lock().await;
        let open = {
            let mut state = self.0.state.write();
            state.why = Some("the node is stopping".to_owned());
            state.retry_at = Timestamp(i64::MAX);
            state.open.take()
        };
        let Some(open) = open else { return };
        self.0.keep_witness(&open);
        open.log.close().await;
    }
}

impl Inner {
    fn origin_of(&self, number: u32) -> String {
        if number <= 1 { self.parts.origin.clone() } else { format!("{}.{number}", self.parts.origin) }
    }

    fn number_of(&self, origin: &str) -> Option<u32> {
        match origin.strip_prefix(self.parts.origin.as_str())? {
            "" => Some(1),
            rest => rest.strip_prefix('.')?.parse().ok().filter(|number| *number > 1),
        }
    }

    /// Takes the log away. Closing it may take long when its disk hangs, so nobody waits for that.
    fn lose(&self, why: &str, is_damaged: bool) {
        let open = {
            let mut state = self.state.write();
            state.is_damaged |= is_damaged;
            state.retry_at = self.parts.clock.now();
            state.why = Some(why.to_owned());
            state.tried_anew = false;
            state.open.take()
        };
        if let Some(open) = open {
            let name = &self.parts.name;
            tracing::error!(target: "ward::alarm", audit_target = %name, "an audit target is lost; the node goes on with the other");
            tokio::spawn(async move { open.log.close().await });
        }
    }

    fn is_still_there(&self, open: &Open) -> bool {
        let is_same = inode(&self.parts.folder).is_ok_and(|inode| inode == open.inode);
        is_same && RealDisk.list(&self.parts.folder.join("wal")).is_ok_and(|names| !names.is_empty())
    }

    fn witness_path(&self) -> Option<PathBuf> {
        let beside = self.parts.beside.as_ref()?;
        Some(beside.join(format!("witness-{}", self.parts.name)))
    }

    /// Leaves the newest checkpoint in the other target's folder, if that is there.
    fn keep_witness(&self, open: &Open) {
        let size = open.log.size();
        let now = self.parts.clock.now();
        let Some(path) = self.witness_path() else { return };
        let is_kept = self.state.read().witness.0 == size && path.is_file();
        if is_kept || !path.parent().is_some_and(|folder| folder.join("wal").is_dir()) {
            return;
        }
        if RealDisk.publish(&[(path, open.log.checkpoint().into_bytes())]).is_ok() {
            self.state.write().witness = (size, now);
        }
    }

    /// Opens what is in the folder, or begins a log there. Blocks.
    fn try_open(&self) -> Result<Open, Trouble> {
        let folder = &self.parts.folder;
        let newest = self.state.read().newest;
        let is_empty = RealDisk.list(&folder.join("wal")).map_err(|error| Trouble::Away(error.to_string()))?.is_empty();
        let found = std::fs::read_to_string(folder.join("vkey")).ok();
        let found = found.as_deref().and_then(|key| key.split('+').next()).and_then(|origin| self.number_of(origin));
        let number = match (is_empty, found) {
            (true, _) if folder.join("checkpoint").exists() => {
                return Err(Trouble::Beyond("its segments are gone".to_owned()));
            }
            // What was there is gone, so this is another log.
            (true, _) => newest + 1,
            (false, Some(found)) => found,
            (false, None) => newest.max(1),
        };
        let origin = self.origin_of(number);
        let log = (self.parts.open)(folder, &origin).map_err(|error| match error {
            LedgerError::Damaged { .. } | LedgerError::Tiles { .. } | LedgerError::WrongKey { .. } => {
                Trouble::Beyond(error.to_string())
            }
            other => Trouble::Away(other.to_string()),
        })?;
        if let Err(why) = self.check_witness(&log, number) {
            return Err(Trouble::Beyond(why.to_owned()));
        }
        let key = format!("{}\n", log.vkey()).into_bytes();
        RealDisk.publish(&[(folder.join("vkey"), key)]).map_err(|error| Trouble::Away(error.to_string()))?;
        let inode = inode(folder).map_err(|error| Trouble::Away(error.to_string()))?;
        self.state.write().newest = number.max(newest);
        Ok(Open { target: LogTarget::new(&self.parts.name, log.clone()), log, origin, inode })
    }

    /// An older copy, or another history, than the other target has seen.
    fn check_witness(&self, log: &Log, number: u32) -> Result<(), &'static str> {
        let Some(path) = self.witness_path() else { return Ok(()) };
        let Ok(text) = std::fs::read_to_string(path) else { return Ok(()) };
        let origin = text.lines().next().unwrap_or_default();
        let Some(seen) = note::verify(&text, origin, &self.parts.public_key) else { return Ok(()) };
        match self.number_of(&seen.origin) {
            Some(seen) if seen > number => return Err("the folder is an older copy: a later log of it was seen"),
            Some(same) if same == number => {}
            _ => return Ok(()),
        }
        if seen.size > log.size() {
            return Err("the folder is an older copy: more of it was seen");
        }
        match log.root(seen.size) {
            Ok(root) if root != seen.root => Err("its history is not the one that was seen"),
            _ => Ok(()),
        }
    }

    /// Renames the folder, so that it can be looked into. Blocks.
    fn set_aside(&self) -> io::Result<PathBuf> {
        let folder = &self.parts.folder;
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let free = (1..10_000).map(|n| folder.with_file_name(format!("{name}.aside-{n}"))).find(|path| !path.exists());
        let aside =
            free.ok_or_else(|| io::Error::other("too many folders were set aside: look into them, then move them"))?;
        std::fs::rename(folder, &aside)?;
        RealDisk.sync_folder(folder.parent().unwrap_or(Path::new(".")))?;
        Ok(aside)
    }

    fn open_again(&self, others_whole: bool) {
        let is_damaged = self.state.read().is_damaged;
        let tried = if is_damaged {
            Err(Trouble::Beyond("what was read is not what was written".to_owned()))
        } else {
            self.try_open()
        };
        let tried = match tried {
            Err(Trouble::Beyond(why)) if others_whole => self.begin_anew(&why),
            other => other,
        };
        let mut state = self.state.write();
        state.tried_anew = others_whole;
        match tried {
            Ok(open) => {
                (state.why, state.is_damaged, state.retry_ms) = (None, false, RETRY_MS);
                state.witness = (0, Timestamp(i64::MIN));
                state.open = Some(open);
            }
            Err(Trouble::Away(why)) | Err(Trouble::Beyond(why)) => {
                state.retry_at = self.parts.clock.now().plus_ms(state.retry_ms);
                state.retry_ms = (state.retry_ms * 2).min(RETRY_MS_MAX);
                state.why = Some(why);
            }
        }
    }

    fn begin_anew(&self, why: &str) -> Result<Open, Trouble> {
        let aside =
            self.set_aside().map_err(|error| Trouble::Away(format!("{why}; setting it aside failed: {error}")))?;
        let (name, aside) = (&self.parts.name, aside.display());
        tracing::error!(target: "ward::alarm", audit_target = %name, %aside, "an audit target cannot go on ({why}): it was set aside for ward-verify, and another is begun");
        self.try_open()
    }
}

/// Of the lock file in a log's folder.
fn inode(folder: &Path) -> io::Result<u64> {
    Ok(RealDisk.stat(&folder.join("lock"))?.id)
}

#[async_trait]
impl AuditTarget for FolderTarget {
    fn name(&self) -> &str {
        &self.0.parts.name
    }

    async fn append(&self, records: &[Bytes]) -> Result<u64, AuditUnavailable> {
        let open = self.0.state.read().open.clone().ok_or(AuditUnavailable)?;
        let appended = open.target.append(records).await;
        if appended.is_err() && open.target.is_poisoned() {
            self.0.lose("its disk failed a write or a sync", false);
        }
        appended
    }
}

impl AuditSource for FolderTarget {
    fn size(&self) -> u64 {
        self.0.state.read().open.as_ref().map_or(0, |open| open.target.size())
    }

    fn read(&self, from: u64, records_max: usize) -> Result<Vec<(u64, Bytes)>, SourceError> {
        let open = self.0.state.read().open.clone();
        let open = open.ok_or_else(|| SourceError(format!("the audit target `{}` is away", self.0.parts.name)))?;
        open.target.read(from, records_max).inspect_err(|error| self.broken(&error.0))
    }
}

#[async_trait]
impl AuditStore for FolderTarget {
    fn origin(&self) -> Option<String> {
        self.0.state.read().open.as_ref().map(|open| open.origin.clone())
    }

    fn mark(&self, size: u64) -> Option<[u8; 32]> {
        let open = self.0.state.read().open.clone()?;
        open.target.mark(size)
    }

    async fn tend(&self, others_whole: bool) {
        let _one = self.0.tending.lock().await;
        let open = self.0.state.read().open.clone();
        if let Some(open) = open {
            if self.0.is_still_there(&open) {
                let now = self.0.parts.clock.now();
                let kept = self.0.state.read().witness.1;
                // Where the other target was begun anew, the witness went with its old folder.
                let is_gone = self.0.witness_path().is_some_and(|path| !path.is_file());
                if is_gone || kept.plus_ms(WITNESS_MS) <= now {
                    self.0.keep_witness(&open);
                }
                return;
            }
            self.0.lose("its folder is gone", false);
            // The lock must be free before another log is begun there.
            open.log.close().await;
        }
        let is_due = {
            let state = self.0.state.read();
            let may_more = others_whole && !state.tried_anew && state.retry_at != Timestamp(i64::MAX);
            state.open.is_none() && (state.retry_at <= self.0.parts.clock.now() || may_more)
        };
        if is_due {
            let inner = self.0.clone();
            // A panic in there leaves the target away; the next round tries again.
            let _ = tokio::task::spawn_blocking(move || inner.open_again(others_whole)).await;
        }
    }

    fn broken(&self, why: &str) {
        self.0.lose(why, true);
    }

    fn why(&self) -> Option<String> {
        self.0.state.read().why.clone()
    }
}

/// The real disk for an audit target: when it fails, the target is lost and not the process, since the other suffices.
/// The failed log takes nothing more (a failed sync is never retried); its folder is opened and recovered again.
#[derive(Debug, Clone, Copy, Default)]
pub struct AuditDisk;

impl Disk for AuditDisk {
    fn lock(&self, path: &Path, holder: &str) -> io::Result<Box<dyn Send + Sync>> {
        RealDisk.lock(path, holder)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        RealDisk.open(path)
    }

    fn create(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        RealDisk.create(path, access)
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        RealDisk.stat(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<(String, Kind)>> {
        RealDisk.list(folder)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.link(from, to)
    }

    fn create_folder(&self, folder: &Path, access: Access) -> io::Result<()> {
        RealDisk.create_folder(folder, access)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        RealDisk.sync_folder(folder)
    }

    fn sync_many(&self, files: &[(PathBuf, Arc<dyn DiskFile>)], folders: &[&Path]) -> io::Result<()> {
        RealDisk.sync_many(files, folders)
    }

    fn fatal(&self, what: &str, error: &io::Error) {
        tracing::error!(target: "ward::alarm", %error, "{what}: the disk of an audit target failed");
    }
}
