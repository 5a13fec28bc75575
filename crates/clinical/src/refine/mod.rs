//! Refine: the consumer that turns journal entries into FHIR in silver.
//!
//! A batch of entries becomes one SQL transaction with the consumer's position in it, so a crash at any point leaves
//! silver at an exact journal position. What cannot be used is set aside in its smallest unit with its reason, and
//! the rest goes on (law 5). Everything here is a function of the journal: a replay gives the same ids and content.

mod again;
mod ahead;
mod entered;
mod erase;
mod expire;
mod fhir;
mod hl7;
mod lists;
mod moves;
mod work;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, DomainName, Layer, Limits, LogicalId, Ordinal, Permit, SourceName, Write};
use store::{Batch, Entered, Outcome, Seen, SetAside, Silver, StoreError};
use tokio::sync::watch;
use vault::{Holder, Scope, Vault};

use self::ahead::{Ahead, look_ahead};
pub use self::erase::{Plan, PlanKeeper};
pub use self::expire::Expired;
pub use self::fhir::{parse_etag, status_line};
use self::hl7::{Again, How};
use self::work::Work;
pub(crate) use self::work::identifiers;
use crate::envelope::{Content, Envelope, Matched};
use crate::ids::IdMint;
use crate::journal::{Journal, JournalEntry, JournalError};
use crate::patients::PatientMap;
use crate::reach::Within;
use crate::source::Source;

/// The consumer's name in the catalog.
pub const CONSUMER: &str = "refine";

/// The unit number of a whole entry.
pub const WHOLE: u32 = u32::MAX;

const BATCH_ENTRIES_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 8 << 20;
const RETIRE_EVERY: Duration = Duration::from_secs(60);
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(250);

/// What a message says, or why it is none.
type MappedEntry = Result<crate::v2::Mapped, hl7v2::Malformed>;

/// The body of a FHIR write; null where it has none.
type Body = Result<::fhir::json::Value, ::fhir::json::JsonError>;

/// What refine works with. One per domain.
pub struct Refiner {
    domain: DomainName,
    journal: Arc<Journal>,
    silver: Silver,
    vault: Vault,
    gate: gate::Gate,
    patients: Arc<PatientMap>,
    ids: IdMint,
    sources: HashMap<SourceName, Arc<Source>>,
    limits: Arc<Limits>,
    clock: Arc<dyn Clock>,
    /// Held through each step, and by an erasure: while one is at work the other stands still.
    turn: tokio::sync::Mutex<()>,
}

/// Whether a step takes the turn, or whoever asks for it holds it.
#[derive(Debug, Clone, Copy)]
enum Turn {
    Take,
    Held,
}

#[derive(Debug, thiserror::Error)]
pub enum RefineError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Vault(#[from] vault::VaultError),
    #[error("the gate gives refine no permit: {0}")]
    Gate(String),
    #[error("the plan of the erasure could not be kept: {0}")]
    Plan(String),
    #[error("an entry made refine fail inside; it will be set aside")]
    Panicked,
}

/// What a batch gathers beside resource versions.
#[derive(Default)]
struct Gathered {
    set_aside: Vec<SetAside>,
    resolved: Vec<(u64, u32)>,
    outcomes: Vec<(u64, Outcome)>,
    seen: Vec<Seen>,
    counts: HashMap<(SourceName, &'static str), u64>,
    /// Scope of the keys of each entry: the patient it is about, or shared.
    rewraps: Vec<(Scope, Vec<vault::Slot>)>,
    /// Holders of entries that no version tells of.
    held: Vec<(u64, Ordinal)>,
    entries: Vec<Entered>,
    unmapped: HashMap<(SourceName, String), u64>,
    named: Vec<(u64, Ordinal)>,
    labelled: Vec<(u64, String, LogicalId)>,
}

impl Gathered {
    fn count(&mut self, source: &SourceName, counter: &'static str, n: u64) {
        if n > 0 {
            *self.counts.entry((source.clone(), counter)).or_default() += n;
        }
    }
}

impl Refiner {
    #[allow(clippy::too_many_arguments)] // Built once, by `ward::build`, from parts that have no group of their own.
    pub fn new(
        journal: Arc<Journal>,
        silver: Silver,
        vault: Vault,
        gate: gate::Gate,
        patients: Arc<PatientMap>,
        sources: impl IntoIterator<Item = Source>,
        limits: Arc<Limits>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let domain = journal.domain().clone();
        let ids = IdMint::new(&vault.derive(&format!("id/{domain}")));
        let sources = sources.into_iter().map(|s| (s.name.clone(), Arc::new(s))).collect();
        let turn = tokio::sync::Mutex::default();
        Refiner { domain, journal, silver, vault, gate, patients, ids, sources, limits, clock, turn }
    }

    pub fn domain(&self) -> &DomainName {
        &self.domain
    }

    /// Refines until the journal as it stands now is applied. Run before the doors open.
    pub async fn catch_up(self: &Arc<Self>) -> Result<u64, RefineError> {
        let upto = self.journal.log().size();
        let mut position = self.position().await?;
        let from = position;
        while position < upto {
            position = self.step_or_set_aside(position, Turn::Take).await?;
        }
        Ok(position - from)
    }

    /// Refines until told to stop. A failure of the catalog or of the key service is waited out: nothing is skipped.
    pub async fn run(self: Arc<Self>, stop: impl Future<Output = ()>) {
        let mut grown = self.journal.log().subscribe();
        tokio::pin!(stop);
        let mut position = None;
        let mut retired = tokio::time::Instant::now();
        loop {
            let step = async {
                let at = match position {
                    Some(at) => at,
                    None => self.position().await?,
                };
                if at < self.journal.log().size() {
                    self.step_or_set_aside(at, Turn::Take).await
                } else {
                    if retired.elapsed() >= RETIRE_EVERY {
                        retired = tokio::time::Instant::now();
                        self.retire_unassigned().await?;
                    }
                    wait_beyond(&mut grown, at).await;
                    Ok(at)
                }
            };
            tokio::select! {
                () = &mut stop => return,
                result = step => match result {
                    Ok(at) => position = Some(at),
                    Err(error) => {
                        tracing::error!(domain = %self.domain, %error, "refine waits and tries again");
                        position = None;
                        tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
                    }
                },
            }
        }
    }

    /// Destroys the keys under which inputs came in, once every input of theirs has its own scope. Called when refine has
    /// caught up: each entry before its position is re-wrapped. The vault keeps those that may still be in use.
    async fn retire_unassigned(&self) -> Result<(), RefineError> {
        for generation in self.vault.living_unassigned(&self.domain).await? {
            match self.vault.retire_unassigned(&self.domain, generation).await {
                Ok(()) => tracing::info!(domain = %self.domain, generation, "a door key was destroyed"),
                Err(error) if error.is_outage() => return Err(error.into()),
                // Current, or rolled a moment ago: its turn comes.
                Err(_) => {}
            }
        }
        Ok(())
    }

    async fn position(&self) -> Result<u64, StoreError> {
        self.silver.position(&self.domain, CONSUMER, self.journal.log().name()).await
    }

    /// One batch. Where it fails inside (a defect of ours), entries are taken one by one, and the one that fails is
    /// set aside whole: one message must not stop a hospital's feed.
    async fn step_or_set_aside(self: &Arc<Self>, from: u64, turn: Turn) -> Result<u64, RefineError> {
        match self.guarded(from, BATCH_ENTRIES_MAX, false, turn).await {
            Err(RefineError::Panicked) => match self.guarded(from, 1, false, turn).await {
                Err(RefineError::Panicked) => self.guarded(from, 1, true, turn).await,
                other => other,
            },
            other => other,
        }
    }

    async fn guarded(self: &Arc<Self>, from: u64, entries: usize, skip: bool, turn: Turn) -> Result<u64, RefineError> {
        let this = self.clone();
        // A task, so that a panic is an error here; it is not cancelled halfway when the caller stops.
        let step = async move {
            let _turn = match turn {
                Turn::Take => Some(this.turn.lock().await),
                Turn::Held => None,
            };
            this.step(from, entries, skip).await
        };
        match tokio::spawn(step).await {
            Ok(result) => result,
            Err(_) => Err(RefineError::Panicked),
        }
    }

    fn permit(&self, layer: Layer) -> Result<Permit<Write>, RefineError> {
        self.gate
            .node_permit::<Write>(CONSUMER, &self.domain, layer)
            .map_err(|refusal| RefineError::Gate(refusal.to_string()))
    }

    async fn step(&self, from: u64, entries_max: usize, skip: bool) -> Result<u64, RefineError> {
        let bronze = self.permit(Layer::Bronze)?;
        let permit = self.permit(Layer::Silver)?;
        let entries = self.journal.read(&bronze, from, entries_max, BATCH_BYTES_MAX).await?;
        let next_ordinal = self.silver.next_ordinal(&self.domain).await?;
        let mut work = Work::new(&self.silver, &permit, &self.domain, next_ordinal, self.patients.gone(&self.domain));
        let mut gathered = Gathered::default();
        let mapped: Vec<_> = entries.iter().map(|entry| if skip { None } else { self.map_ahead(entry) }).collect();
        let ahead: Vec<Ahead<'_>> = mapped
            .iter()
            .zip(from..)
            .filter_map(|(mapped, index)| Some(Ahead { index, mapped: mapped.as_ref()?.as_ref().ok()? }))
            .collect();
        look_ahead(&mut work, &self.ids, &ahead).await?;
        let mut upto = from;
        let mut again = BTreeSet::new();
        for (entry, mapped) in entries.into_iter().zip(mapped) {
            // What looks back at an entry finds it committed.
            if let Ok(JournalEntry { envelope: Envelope { content, .. }, .. }) = &entry
                && let Content::Replay { of, .. } | Content::Match(Matched { of, .. }) = content
                && (*of >= from && upto > from || !again.insert(*of))
            {
                break;
            }
            let body = entry.as_ref().ok().and_then(|entry| self.body(entry));
            // So does what the index must answer.
            if let (Ok(entry), Some(Ok(body))) = (&entry, &body)
                && let Content::Fhir(request) = &entry.envelope.content
                && upto > from
                && fhir::asks_index(request, body)
            {
                break;
            }
            match entry {
                Ok(entry) if skip => {
                    self.set_aside_whole(&mut gathered, &entry, "internal", INTERNAL);
                    gathered.entries.push(self.entered(&entry));
                    let scope = self.silver.scope(&self.domain, Holder::Shared, entry.envelope.received);
                    gathered.rewraps.push((scope, entry.slots));
                    gathered.held.push((entry.index, Ordinal::NONE));
                }
                Ok(entry) => self.refine_entry(&bronze, &mut work, &mut gathered, entry, (mapped, body)).await?,
                Err(JournalError::Destroyed { .. }) => {}
                Err(JournalError::Unreadable { index, reason }) => gathered.set_aside.push(SetAside {
                    index,
                    unit: WHOLE,
                    source: unknown_source(),
                    place: "journal".into(),
                    code: "unreadable".into(),
                    reason: format!("the entry cannot be opened: {reason}"),
                    critical: true,
                    at: self.clock.now(),
                }),
                Err(error) => return Err(error.into()),
            }
            upto += 1;
        }
        if upto > from {
            self.commit(&permit, work, gathered, from, upto).await?;
        }
        Ok(upto)
    }

    /// What the entry says, where it is a message.
    fn map_ahead(&self, entry: &Result<JournalEntry, JournalError>) -> Option<MappedEntry> {
        let entry = entry.as_ref().ok()?;
        matches!(entry.envelope.content, Content::Hl7v2).then(|| self.map(entry))
    }

    async fn commit(
        &self,
        permit: &Permit<Write>,
        work: Work<'_>,
        gathered: Gathered,
        from: u64,
        upto: u64,
    ) -> Result<(), RefineError> {
        // Keys first: re-wrapping is idempotent, and an entry opens by either slot until the batch is in.
        let mut by_scope: HashMap<Scope, Vec<vault::Slot>> = HashMap::new();
        for (scope, slots) in gathered.rewraps {
            by_scope.entry(scope).or_default().extend(slots);
        }
        self.vault.rewrap_each(&by_scope).await?;
        let changes = work.batch;
        let batch = Batch {
            domain: self.domain.clone(),
            consumer: CONSUMER.into(),
            log: self.journal.log().name().clone(),
            from,
            upto,
            versions: changes.versions,
            patients: changes.patients,
            set_aside: gathered.set_aside,
            resolved: gathered.resolved,
            outcomes: gathered.outcomes,
            seen: gathered.seen,
            held: gathered.held,
            named: gathered.named,
            labelled: gathered.labelled,
            counts: gathered.counts.into_iter().map(|((source, counter), n)| (source, counter, n)).collect(),
            entries: gathered.entries,
            unmapped: gathered.unmapped.into_iter().map(|((source, place), n)| (source, place, n)).collect(),
            lists: changes.lists.into_iter().collect(),
        };
        // The sets that decisions use change before the data can be seen: a new restriction never lags behind.
        self.patients.follow(&self.domain, &batch.versions);
        Ok(self.silver.commit(permit, batch).await?)
    }

    async fn refine_entry(
        &self,
        bronze: &Permit<Write>,
        work: &mut Work<'_>,
        gathered: &mut Gathered,
        entry: JournalEntry,
        (mapped, body): (Option<MappedEntry>, Option<Body>),
    ) -> Result<(), RefineError> {
        let before = work.batch.versions.len();
        work.touched.clear();
        work.labelled.clear();
        if let Content::Redacted { of, .. } = entry.envelope.content {
            return self.refine_redacted(work, gathered, entry, of).await;
        }
        gathered.count(&entry.envelope.source, "received", 1);
        gathered.entries.push(self.entered(&entry));
        if let Some(key) = &entry.envelope.control_key {
            gathered.seen.push(Seen {
                source: entry.envelope.source.clone(),
                key: self.silver.seen_key(key),
                content_hash: entry.envelope.content_hash.clone(),
                index: entry.index,
                at: entry.envelope.received,
            });
        }
        match &entry.envelope.content {
            Content::Hl7v2 => {
                let mapped = mapped.unwrap_or_else(|| self.map(&entry));
                if entry.envelope.shadow {
                    self.look_at(gathered, &entry, mapped);
                } else {
                    let how = How { again: Again::First, at: entry.envelope.received };
                    self.refine_hl7(work, gathered, &entry, mapped, how).await?;
                }
            }
            Content::Fhir(request) => {
                let body = body.or_else(|| self.body(&entry)).unwrap_or(Ok(::fhir::json::Value::Null));
                let outcome = self.refine_fhir(work, &entry, request, body).await?;
                if outcome.status >= 400 {
                    gathered.count(&entry.envelope.source, "refused", 1);
                }
                gathered.outcomes.push((entry.index, outcome));
            }
            Content::Replay { of, whole } => self.replay(bronze, work, gathered, &entry, *of, *whole).await?,
            Content::Match(matched) => self.match_results(bronze, work, gathered, &entry, matched).await?,
            Content::Redacted { .. } => {}
        }
        let written = work.batch.versions.len() - before;
        gathered.count(&entry.envelope.source, "versions", written as u64);
        // Whom it names counts, not only whom it changed: a message that says nothing new is about its patient too.
        let written = work.batch.versions[before..].iter().map(|v| v.patient).filter(|p| p.is_patient());
        let changed: BTreeSet<Ordinal> = written.collect();
        let mut patients = std::mem::take(&mut work.touched);
        // What the versions and the holder of the keys do not tell.
        let others: Vec<Ordinal> = patients.difference(&changed).copied().collect();
        if patients.len() + changed.len() > 1 {
            gathered.named.extend(others.into_iter().map(|patient| (entry.index, patient)));
        }
        let labelled = std::mem::take(&mut work.labelled).into_iter();
        gathered.labelled.extend(labelled.map(|(rtype, id)| (entry.index, rtype, id)));
        patients.extend(&changed);
        if let Some(entered) = gathered.entries.last_mut()
            && patients.iter().any(|patient| *patient != Ordinal::UNKNOWN)
        {
            entered.identifiers.clear();
        }
        self.hold(gathered, entry, &patients, &changed);
        Ok(())
    }

    /// Gives the keys of an entry to the one patient it is about, or to nobody alone.
    fn hold(
        &self,
        gathered: &mut Gathered,
        entry: JournalEntry,
        patients: &BTreeSet<Ordinal>,
        changed: &BTreeSet<Ordinal>,
    ) {
        let holder = match patients.first() {
            Some(one) if patients.len() == 1 && *one != Ordinal::UNKNOWN => Holder::Record(*one),
            _ => Holder::Shared,
        };
        match holder {
            Holder::Record(one) if changed.contains(&one) => {}
            Holder::Record(one) => gathered.held.push((entry.index, one)),
            _ => gathered.held.push((entry.index, Ordinal::NONE)),
        }
        let scope = self.silver.scope(&self.domain, holder, entry.envelope.received);
        gathered.rewraps.push((scope, entry.slots));
    }

    /// The body of a FHIR write, read.
    fn body(&self, entry: &JournalEntry) -> Option<Body> {
        let body = entry.body.expose();
        match entry.envelope.content {
            Content::Fhir(_) if body.is_empty() => Some(Ok(::fhir::json::Value::Null)),
            Content::Fhir(_) => Some(::fhir::json::parse(body, &::fhir::json::ParseLimits::from(&*self.limits))),
            _ => None,
        }
    }

    async fn refine_fhir(
        &self,
        work: &mut Work<'_>,
        entry: &JournalEntry,
        request: &crate::envelope::FhirRequest,
        body: Body,
    ) -> Result<Outcome, RefineError> {
        let body = match body {
            Ok(body) => body,
            Err(error) => {
                let issue = ::fhir::validate::Issue::error("structure", "", error.to_string());
                return Ok(fhir::refused_outcome(&fhir::Refused { status: 400, issue }));
            }
        };
        let source = source_uri(&self.domain, &entry.envelope);
        let writing = fhir::Writing {
            ids: &self.ids,
            index: entry.index,
            received: entry.envelope.received,
            source: &source,
            within: Within::of(request.reach.as_ref()),
        };
        Ok(fhir::apply(work, &writing, request, body).await?)
    }

    fn set_aside_whole(&self, gathered: &mut Gathered, entry: &JournalEntry, code: &str, reason: &str) {
        if let Content::Fhir(_) = entry.envelope.content {
            let issue = ::fhir::validate::Issue::error("exception", "", reason);
            gathered.outcomes.push((entry.index, fhir::refused_outcome(&fhir::Refused { status: 500, issue })));
        }
        gathered.set_aside.push(SetAside {
            index: entry.index,
            unit: WHOLE,
            source: entry.envelope.source.clone(),
            place: "message".into(),
            code: code.into(),
            reason: reason.into(),
            critical: true,
            at: entry.envelope.received,
        });
    }
}

const INTERNAL: &str =
    "refine failed on this entry by a defect of its own: the entry is kept, report it and replay it after an update";

fn unknown_source() -> SourceName {
    SourceName::parse("unknown").expect("a valid name")
}

/// `meta.source`: where the content came from, without saying about whom.
fn source_uri(domain: &DomainName, envelope: &Envelope) -> String {
    let trace = envelope.trace().map(|t| t.trace_id_hex()).unwrap_or_default();
    format!("urn:wardmesh:{domain}:{}#{trace}", envelope.source)
}

async fn wait_beyond(grown: &mut watch::Receiver<u64>, at: u64) {
    // An error means the log is closed; the caller's stop comes next.
    if grown.wait_for(|size| *size > at).await.is_err() {
        std::future::pending::<()>().await;
    }
}
