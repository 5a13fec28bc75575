//! From a door into the journal: resends recognised, busy answered, durable before acknowledged.
//!
//! A resend is the same source, the same control key **and** the same content within a window (senders do reuse
//! control ids). The first answer is then given again and nothing is stored twice.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use base::{Clock, Limits, Permit, SourceName, Timestamp, TraceContext, Write};
use bytes::Bytes;
use parking_lot::Mutex;
use store::Silver;
use tokio::sync::watch;

use crate::envelope::{Content, Door, Envelope};
use crate::journal::{Journal, JournalError};
use crate::space::Space;

/// What a door hands in.
#[derive(Debug)]
pub struct Input {
    pub source: SourceName,
    pub door: Door,
    pub content: Content,
    pub control_key: Option<String>,
    pub trace: TraceContext,
    pub body: Bytes,
    /// Its source is in shadow: see [`Envelope::shadow`].
    pub shadow: bool,
    /// The control key stands for one content: another one under it is refused. Senders of HL7 do reuse theirs.
    pub one_content: bool,
}

/// The input is durable, now or since the first time it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    pub index: u64,
    pub duplicate: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// Nothing was stored; the sender may try again.
    #[error("the domain is busy: try again in {retry_after_ms} ms")]
    Busy { retry_after_ms: u64 },
    /// Nothing was stored.
    #[error("this key came before with other content: a key is for one request and its repetitions")]
    KeyReused,
    #[error(transparent)]
    Journal(JournalError),
    #[error(transparent)]
    Store(#[from] store::StoreError),
}

impl From<JournalError> for IntakeError {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Busy { retry_after_ms } => IntakeError::Busy { retry_after_ms },
            other => IntakeError::Journal(other),
        }
    }
}

type Key = (SourceName, String, String);

/// The resends a door can still meet: keys of the window, oldest first.
#[derive(Debug, Default)]
struct Recent {
    /// By source and control key: the contents that came, seldom more than one.
    known: HashMap<(SourceName, String), Vec<(String, Place)>>,
    order: VecDeque<(Timestamp, Key)>,
}

#[derive(Debug, Clone)]
enum Place {
    /// Its first copy is on the way to the disk.
    Pending(watch::Receiver<Option<u64>>),
    At(u64),
}

impl Recent {
    /// Forgets what left the window, and the oldest above the bound.
    fn trim(&mut self, now: Timestamp, window_ms: i64) {
        while let Some((at, _)) = self.order.front() {
            if at.plus_ms(window_ms) >= now && self.order.len() <= RECENT_MAX {
                return;
            }
            if let Some((_, key)) = self.order.pop_front() {
                self.forget(&key);
            }
        }
    }

    fn contents(&self, (source, key, _): &Key) -> &[(String, Place)] {
        self.known.get(&(source.clone(), key.clone())).map_or(&[], Vec::as_slice)
    }

    fn get(&self, key: &Key) -> Option<&Place> {
        self.contents(key).iter().find(|(hash, _)| *hash == key.2).map(|(_, place)| place)
    }

    fn put(&mut self, (source, key, hash): Key, place: Place) {
        let contents = self.known.entry((source, key)).or_default();
        match contents.iter_mut().find(|(known, _)| *known == hash) {
            Some((_, known)) => *known = place,
            None => contents.push((hash, place)),
        }
    }

    fn forget(&mut self, (source, key, hash): &Key) {
        let at = (source.clone(), key.clone());
        if let Some(contents) = self.known.get_mut(&at) {
            contents.retain(|(known, _)| known != hash);
            if contents.is_empty() {
                self.known.remove(&at);
            }
        }
    }
}

/// Control keys remembered per domain: a bound on memory (about 150 bytes each). Older ones of the window are
/// looked up in the catalog.
const RECENT_MAX: usize = 400_000;

pub struct Intake {
    journal: Arc<Journal>,
    silver: Silver,
    recent: Mutex<Recent>,
    /// Whether the window holds more keys than memory does.
    spilled: std::sync::atomic::AtomicBool,
    applied: watch::Receiver<u64>,
    space: Space,
    clock: Arc<dyn Clock>,
    limits: Arc<Limits>,
}

impl Intake {
    /// Opened after refine has caught up, so that every earlier key is known.
    pub async fn open(
        journal: Arc<Journal>,
        silver: Silver,
        space: Space,
        clock: Arc<dyn Clock>,
        limits: Arc<Limits>,
    ) -> Result<Self, IntakeError> {
        let since = clock.now().plus_ms(-limits.duplicate_window_ms);
        let seen = silver.seen_since(journal.domain(), since, RECENT_MAX).await?;
        let mut recent = Recent::default();
        let spilled = seen.len() >= RECENT_MAX;
        for entry in seen {
            let key = (entry.source, entry.key, entry.content_hash);
            recent.order.push_back((entry.at, key.clone()));
            recent.put(key, Place::At(entry.index));
        }
        let applied = silver.applied(journal.domain());
        Ok(Intake {
            journal,
            silver,
            recent: Mutex::new(recent),
            spilled: spilled.into(),
            applied,
            space,
            clock,
            limits,
        })
    }

    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    pub fn silver(&self) -> &Silver {
        &self.silver
    }

    /// Durable when this returns. The order of one caller's inputs is kept.
    ///
    /// Runs as a task of its own: a client that goes away in the middle must not leave an entry in the journal whose
    /// key nobody remembers, or its resend would be stored twice.
    pub async fn accept(self: &Arc<Self>, permit: &Permit<Write>, input: Input) -> Result<Accepted, IntakeError> {
        self.refuse_when_behind()?;
        let (this, permit) = (self.clone(), permit.clone());
        match tokio::spawn(async move { this.accept_once(&permit, input).await }).await {
            Ok(accepted) => accepted,
            Err(failed) => match failed.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is ending; nothing was acknowledged.
                Err(_) => Err(IntakeError::Busy { retry_after_ms: 1_000 }),
            },
        }
    }

    async fn accept_once(&self, permit: &Permit<Write>, input: Input) -> Result<Accepted, IntakeError> {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &input.body);
        let content_hash = base::hex::encode(digest.as_ref());
        let Some(control_key) = input.control_key.clone() else {
            return self.append(permit, &input, content_hash).await;
        };
        // The catalog knows keys by their HMAC only: an Idempotency-Key may hold anything.
        let key: Key = (input.source.clone(), self.silver.seen_key(&control_key), content_hash.clone());
        loop {
            let (claim, pending) = match self.claim(&key, input.one_content) {
                Claim::Known(index) => return Ok(Accepted { index, duplicate: true }),
                Claim::Wait(pending) => (None, Some(pending)),
                Claim::Mine(sender) => (Some(sender), None),
                Claim::Reused => return Err(IntakeError::KeyReused),
            };
            if let Some(mut pending) = pending {
                // The same message on two connections at once: the second waits for the first one's answer.
                match pending.wait_for(Option::is_some).await.map(|index| *index) {
                    Ok(Some(index)) => return Ok(Accepted { index, duplicate: true }),
                    _ => continue,
                }
            }
            let mut claimed = Claimed { intake: self, key: &key, sender: claim, done: false };
            let seen = self.in_catalog(&key).await?;
            if let Some(seen) = seen.iter().find(|seen| seen.content_hash == key.2) {
                claimed.settle(seen.index);
                return Ok(Accepted { index: seen.index, duplicate: true });
            }
            if input.one_content && !seen.is_empty() {
                return Err(IntakeError::KeyReused);
            }
            let accepted = self.append(permit, &input, content_hash).await?;
            claimed.settle(accepted.index);
            return Ok(accepted);
        }
    }

    /// Busy is answered before anything is stored: at a lag of refine, and at a mark of free space.
    fn refuse_when_behind(&self) -> Result<(), IntakeError> {
        if self.space.free_bytes(self.clock.now()) < self.limits.disk_free_bytes_min {
            return Err(IntakeError::Busy { retry_after_ms: 10_000 });
        }
        let lag = self.journal.log().size().saturating_sub(*self.applied.borrow());
        if lag > self.limits.refine_lag_max { Err(IntakeError::Busy { retry_after_ms: 1_000 }) } else { Ok(()) }
    }

    async fn append(
        &self,
        permit: &Permit<Write>,
        input: &Input,
        content_hash: String,
    ) -> Result<Accepted, IntakeError> {
        let envelope = Envelope {
            source: input.source.clone(),
            door: input.door,
            content: input.content.clone(),
            received: self.clock.now(),
            control_key: input.control_key.clone(),
            content_hash,
            traceparent: input.trace.to_string(),
            decision: permit.grant().decision,
            principal: permit.grant().principal.to_string(),
            shadow: input.shadow,
        };
        let index = self.journal.append(permit, &envelope, &input.body).await?;
        Ok(Accepted { index, duplicate: false })
    }

    fn claim(&self, key: &Key, one_content: bool) -> Claim {
        let now = self.clock.now();
        let mut recent = self.recent.lock();
        let before = recent.order.len();
        recent.trim(now, self.limits.duplicate_window_ms);
        if before > RECENT_MAX {
            self.spilled.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        match recent.get(key) {
            Some(Place::At(index)) => Claim::Known(*index),
            Some(Place::Pending(pending)) => Claim::Wait(pending.clone()),
            None if one_content && !recent.contents(key).is_empty() => Claim::Reused,
            None => {
                let (sender, receiver) = watch::channel(None);
                recent.put(key.clone(), Place::Pending(receiver));
                recent.order.push_back((now, key.clone()));
                Claim::Mine(sender)
            }
        }
    }

    /// What came under this key in the window, as the catalog knows it, where memory does not hold all of the window.
    async fn in_catalog(&self, key: &Key) -> Result<Vec<store::Seen>, IntakeError> {
        if !self.spilled.load(std::sync::atomic::Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        let since = self.clock.now().plus_ms(-self.limits.duplicate_window_ms);
        Ok(self.silver.seen(self.journal.domain(), &key.0, &key.1, since).await?)
    }
}

enum Claim {
    Known(u64),
    Wait(watch::Receiver<Option<u64>>),
    Mine(watch::Sender<Option<u64>>),
    /// The key came with another content, and stands for one.
    Reused,
}

/// A claimed key. Dropped without being settled (an error, a caller that went away) it is free again.
struct Claimed<'a> {
    intake: &'a Intake,
    key: &'a Key,
    sender: Option<watch::Sender<Option<u64>>>,
    done: bool,
}

impl Claimed<'_> {
    fn settle(&mut self, index: u64) {
        self.intake.recent.lock().put(self.key.clone(), Place::At(index));
        if let Some(sender) = self.sender.take() {
            let _ = sender.send(Some(index));
        }
        self.done = true;
    }
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        if !self.done {
            let mut recent = self.intake.recent.lock();
            recent.forget(self.key);
            recent.order.retain(|(_, key)| key != self.key);
        }
    }
}
