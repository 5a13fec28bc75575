//! The reading end of the audit log: pages by filter (one patient's reports are in `report`). Under a permit for the audit log, and what
//! is read comes [`Held`], so that reading the audit log is itself recorded.
//!
//! What is read is the union of all targets: the one that has most, then what only others have. Records are scanned in
//! chunks. Of each full chunk a summary stays in memory (times, principals, patients), so that the next question skips
//! chunks without an answer. Summaries are bounded and rebuilt by scanning; nothing depends on them.
//!
//! Never here: the log's own proofs (see `ledger`), renderings as FHIR AuditEvent or syslog.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use base::{Clock, DomainName, Layer, Ordinal, Permit, PrincipalId, Read, Timestamp};
use bytes::Bytes;
use parking_lot::Mutex;
use roaring::RoaringBitmap;
use serde::Serialize;

use crate::audit::disclosure::{NoNames, Recipients};
use crate::audit::follow::AuditFollower;
use crate::audit::index::rows::Found;
use crate::audit::keys::{AuditKeyError, Opener, RecordId};
use crate::audit::log::AuditLog;
use crate::audit::record::{AuditRecord, Outcome};
use crate::audit::target::SourceError;
use crate::audit::union::View;
use crate::gate::governance;
use crate::release::Held;

pub(crate) const CHUNK: u64 = 1024;
/// Summaries kept: four million records.
const SUMMARIES_MAX: usize = 4096;
/// Lines of one page, and of one who-saw report.
const LINES_MAX: usize = 10_000;
/// Records looked at for one page; the next page goes on from there.
const SCAN_MAX: u64 = 262_144;

/// Which records are wanted; all conditions hold.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    pub since: Option<Timestamp>,
    /// Exclusive.
    pub until: Option<Timestamp>,
    pub principal: Option<PrincipalId>,
    pub patient: Option<(DomainName, Ordinal)>,
    pub decision: Option<u64>,
    /// Emergency accesses only, for their review.
    pub emergency: bool,
}

/// One record as people and programs read it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AccessLine {
    /// Names the record; its AuditEvent has the same id.
    pub id: String,
    /// Place in the log that showed it first.
    pub index: u64,
    /// FHIR instant.
    pub at: String,
    pub principal: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_behalf: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    pub door: String,
    pub action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purpose: Option<&'static str>,
    pub emergency: bool,
    pub domain: String,
    pub layer: &'static str,
    pub kinds: Vec<String>,
    pub what: String,
    pub outcome: &'static str,
    pub rows: u64,
    /// How many patients the response held.
    pub patients: u64,
    /// Hexadecimal, so that no reader rounds it.
    pub decision: String,
    pub policies: Vec<String>,
    pub policy_version: String,
    pub obligations: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agreement: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query_hash: Option<String>,
}

impl AccessLine {
    pub(crate) fn new(found: &Found) -> Self {
        let record = &found.record;
        AccessLine {
            id: found.id.to_string(),
            index: found.index,
            at: record.at.to_string(),
            principal: record.principal.to_string(),
            on_behalf: record.on_behalf.as_ref().map(PrincipalId::to_string),
            from: record.from.map(|ip| ip.to_string()),
            door: record.door.clone(),
            action: record.action.clone(),
            purpose: record.purpose.map(|purpose| purpose.code()),
            emergency: record.emergency,
            domain: record.domain.to_string(),
            layer: record.layer.code(),
            kinds: record.kinds.clone(),
            what: record.what.clone(),
            outcome: record.outcome.code(),
            rows: record.rows,
            patients: found.patients,
            decision: format!("{:016x}", record.decision),
            policies: record.policies.clone(),
            policy_version: format!("{:016x}", record.policy_version),
            obligations: record.obligations.clone(),
            agreement: record.agreement.clone(),
            job: record.job.clone(),
            trace: record.trace.map(|id| base::hex::encode(&id)),
            query_hash: record.query_hash.map(|hash| base::hex::encode(&hash)),
        }
    }
}

/// One line for a person.
impl fmt::Display for AccessLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = if self.kinds.is_empty() { "everything".to_owned() } else { self.kinds.join(", ") };
        write!(f, "{} {} {} {kinds} of {}/{}", self.at, self.principal, self.action, self.domain, self.layer)?;
        if let Some(person) = &self.on_behalf {
            write!(f, " on behalf of {person}")?;
        }
        if let Some(purpose) = self.purpose {
            write!(f, " for {purpose}")?;
        }
        if !self.door.is_empty() {
            write!(f, " through {}", self.door)?;
        }
        if let Some(from) = &self.from {
            write!(f, " from {from}")?;
        }
        write!(f, ": {}", self.outcome)?;
        if self.outcome == Outcome::Refused.code() && !self.what.is_empty() {
            write!(f, " ({})", self.what)?;
        }
        if self.rows > 0 {
            write!(f, ", {} rows", self.rows)?;
        }
        if !self.policies.is_empty() {
            write!(f, ", by {}", self.policies.join(" and "))?;
        }
        if self.emergency { f.write_str(", EMERGENCY") } else { Ok(()) }
    }
}

/// A page of the log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AuditPage {
    pub lines: Vec<AccessLine>,
    /// Where the next page begins; none at the end of the log.
    pub next: Option<u64>,
    /// Records in the log.
    pub size: u64,
    /// Records in this page's range that could not be opened: their key's retention ended, or they are damaged
    /// (`ward-verify` tells which).
    pub unreadable: u64,
    /// Records that a target had and none that is there can show now.
    pub hidden: u64,
}

/// What a look through the log has found.
#[derive(Default)]
pub(crate) struct Scan {
    /// In the order of the log; the records name their patients no more.
    pub found: Vec<Found>,
    /// Where to go on.
    pub next: Option<u64>,
    pub unreadable: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditReadError {
    #[error("the permit is not for reading the audit log")]
    NotCovered,
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Key(#[from] AuditKeyError),
    /// A page of one target's log cannot go on in another's.
    #[error("the search began in a log that is not read now: search again")]
    Moved,
}

/// What a full chunk is about.
struct Summary {
    from: Timestamp,
    to: Timestamp,
    principals: HashSet<u64>,
    patients: HashMap<DomainName, RoaringBitmap>,
    tokens: HashSet<[u8; 16]>,
    emergency: bool,
    unreadable: u64,
}

impl Summary {
    fn of(records: &[(u64, RecordId, AuditRecord)], unreadable: u64) -> Self {
        let mut summary = Summary {
            from: Timestamp(i64::MAX),
            to: Timestamp(i64::MIN),
            principals: HashSet::new(),
            patients: HashMap::new(),
            tokens: HashSet::new(),
            emergency: false,
            unreadable,
        };
        for (.., record) in records {
            summary.from = summary.from.min(record.at);
            summary.to = summary.to.max(record.at);
            summary.principals.insert(hash(&record.principal));
            if !record.patients.is_empty() {
                *summary.patients.entry(record.patient_domain().clone()).or_default() |= &record.patients;
            }
            summary.tokens.extend(record.patient_token);
            summary.emergency |= record.emergency;
        }
        summary
    }

    fn may_hold(&self, filter: &AuditFilter, token: Option<&[u8; 16]>) -> bool {
        filter.since.is_none_or(|since| self.to >= since)
            && filter.until.is_none_or(|until| self.from < until)
            && filter.principal.as_ref().is_none_or(|principal| self.principals.contains(&hash(principal)))
            && (!filter.emergency || self.emergency)
            && filter.patient.as_ref().is_none_or(|(domain, patient)| {
                self.patients.get(domain).is_some_and(|set| set.contains(patient.0))
                    || token.is_some_and(|token| self.tokens.contains(token))
            })
    }
}

fn hash(principal: &PrincipalId) -> u64 {
    let mut hasher = DefaultHasher::new();
    principal.hash(&mut hasher);
    hasher.finish()
}

fn wanted(record: &AuditRecord, filter: &AuditFilter, token: Option<&[u8; 16]>) -> bool {
    filter.since.is_none_or(|since| record.at >= since)
        && filter.until.is_none_or(|until| record.at < until)
        && filter.principal.as_ref().is_none_or(|principal| record.principal == *principal)
        && filter.decision.is_none_or(|decision| record.decision == decision)
        && (!filter.emergency || record.emergency)
        && filter.patient.as_ref().is_none_or(|(domain, patient)| {
            (record.patient_domain() == domain && record.patients.contains(patient.0))
                || (token.is_some() && record.patient_token.as_ref() == token)
        })
}

/// What a report reads: all records of one target, then what only others have.
pub(crate) struct Source {
    view: View,
    /// Names the log of the target that is read first.
    origin: Arc<str>,
    /// Its size when the report began.
    size: u64,
}

impl Source {
    fn new(view: View) -> Self {
        let lead = view.lead.as_ref();
        let origin = lead.and_then(|lead| lead.origin()).unwrap_or_default().into();
        let size = lead.map_or(0, |lead| lead.size());
        Source { view, origin, size }
    }

    pub fn end(&self) -> u64 {
        self.size + self.view.strays.len() as u64
    }

    /// Records that a target had and none that is there can show now.
    pub fn hidden(&self) -> u64 {
        self.view.hidden
    }

    /// The log that is read first.
    pub fn origin(&self) -> &Arc<str> {
        &self.origin
    }

    /// Which log a position of this source is in, and where there.
    pub fn place_of(&self, position: u64) -> (Arc<str>, u64) {
        let stray = position.checked_sub(self.size).and_then(|nth| usize::try_from(nth).ok());
        match stray.and_then(|nth| self.view.strays.get(nth)) {
            Some((store, index)) => (store.origin().unwrap_or_default().into(), *index),
            None => (self.origin.clone(), position),
        }
    }

    /// A page of nothing yet.
    fn page(&self, next: Option<u64>) -> AuditPage {
        AuditPage { lines: Vec::new(), next, size: self.end(), unreadable: 0, hidden: self.view.hidden }
    }

    /// Some records from `from` on, in order; none only at the end.
    pub(crate) async fn read(&self, from: u64, max: u64) -> Result<Vec<(u64, Bytes)>, SourceError> {
        let (store, at, max) = match &self.view.lead {
            Some(lead) if from < self.size => (lead.clone(), from, max.min(self.size - from)),
            _ => {
                let nth = usize::try_from(from - self.size).unwrap_or(usize::MAX);
                let Some((store, index)) = self.view.strays.get(nth) else { return Ok(Vec::new()) };
                (store.clone(), *index, 1)
            }
        };
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        let read = tokio::task::spawn_blocking(move || store.read(at, max)).await;
        let read = read.map_err(|_| SourceError("the reading task ended early; try again".to_owned()))??;
        Ok(read.into_iter().enumerate().map(|(n, (_, sealed))| (from + n as u64, sealed)).collect())
    }
}

/// Reads all audit targets as one log.
pub struct AuditReader {
    pub(crate) follower: AuditFollower,
    pub(crate) audit: AuditLog,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) names: Arc<dyn Recipients>,
    pub(crate) opener: Opener,
    /// By the log's origin and the chunk's first record.
    summaries: Mutex<BTreeMap<(Arc<str>, u64), Arc<Summary>>>,
}

impl AuditReader {
    pub(crate) fn new(follower: AuditFollower, audit: AuditLog, clock: Arc<dyn Clock>) -> Self {
        let opener = Opener::new(audit.keys());
        AuditReader { follower, audit, clock, names: Arc::new(NoNames), opener, summaries: Mutex::default() }
    }

    /// Reports on paper name people and organisations by these.
    pub fn with_names(self, names: Arc<dyn Recipients>) -> Self {
        AuditReader { names, ..self }
    }

    /// The targets, compared.
    pub fn follower(&self) -> &AuditFollower {
        &self.follower
    }

    pub(crate) async fn source(&self) -> Source {
        Source::new(self.follower.view().await)
    }

    /// Records from an index on, oldest first, at most `max`. The page may be short before the log's end when few
    /// records match: go on from `next`.
    pub async fn page(
        &self,
        permit: &Permit<Read>,
        filter: &AuditFilter,
        from: u64,
        max: usize,
    ) -> Result<Held<AuditPage>, AuditReadError> {
        self.check(permit)?;
        let source = self.source().await;
        let scan = self.scan(&source, filter, from, max.min(LINES_MAX), SCAN_MAX).await?;
        let mut page = source.page(scan.next);
        (page.lines, page.unreadable) = (scan.found.iter().map(AccessLine::new).collect(), scan.unreadable);
        Ok(Held::under(permit, page))
    }

    /// The newest matching records, at most `max`, oldest of them first; looks back over at most a quarter of a million
    /// records. The page's `next` is the end of the log as it was, for following it with [`AuditReader::page`].
    pub async fn newest(
        &self,
        permit: &Permit<Read>,
        filter: &AuditFilter,
        max: usize,
    ) -> Result<Held<AuditPage>, AuditReadError> {
        self.check(permit)?;
        let max = max.min(LINES_MAX);
        let source = self.source().await;
        let size = source.end();
        let mut page = source.page(Some(size));
        let mut end = size;
        while end > 0 && page.lines.len() < max && size - end < SCAN_MAX {
            let start = (end - 1) / CHUNK * CHUNK;
            let chunk = self.scan(&source, filter, start, LINES_MAX, end - start).await?;
            page.unreadable += chunk.unreadable;
            page.lines.splice(0..0, chunk.found.iter().map(AccessLine::new));
            end = start;
        }
        page.lines.drain(..page.lines.len().saturating_sub(max));
        Ok(Held::under(permit, page))
    }

    pub(crate) fn check(&self, permit: &Permit<Read>) -> Result<(), AuditReadError> {
        let covers = permit.covers_kind(&governance(), Layer::Governance, "audit").is_ok();
        if covers && permit.is_live(self.clock.now()) { Ok(()) } else { Err(AuditReadError::NotCovered) }
    }

    /// Matching records from an index on, at most `max`, of at most `records_max` that are looked at.
    pub(crate) async fn scan(
        &self,
        source: &Source,
        filter: &AuditFilter,
        from: u64,
        max: usize,
        records_max: u64,
    ) -> Result<Scan, AuditReadError> {
        let size = source.end();
        let token = filter.patient.as_ref().map(|(domain, patient)| self.audit.patient_token(domain, patient.0));
        let mut scan = Scan::default();
        let mut at = from;
        while at < size {
            if at - from >= records_max {
                scan.next = Some(at);
                break;
            }
            let start = at - at % CHUNK;
            let end = (start + CHUNK).min(size);
            let known = self.summaries.lock().get(&(source.origin.clone(), start)).cloned();
            if let Some(known) = known.as_ref().filter(|known| !known.may_hold(filter, token.as_ref())) {
                scan.unreadable += known.unreadable;
                at = end;
                continue;
            }
            let (records, unreadable) = self.chunk(source, start, end).await?;
            scan.unreadable += unreadable;
            for (index, id, record) in records.into_iter().filter(|(index, ..)| *index >= at) {
                if wanted(&record, filter, token.as_ref()) {
                    if scan.found.len() >= max {
                        scan.next = Some(index);
                        return Ok(scan);
                    }
                    let patients = record.patients.len();
                    let record = AuditRecord { patients: RoaringBitmap::new(), ..record };
                    let (log, index) = source.place_of(index);
                    scan.found.push(Found { id, log, index, patients, record });
                }
            }
            at = end;
        }
        Ok(scan)
    }

    /// What a chunk is known to be about, if it was read before.
    pub(crate) fn may_hold(&self, source: &Source, start: u64, filter: &AuditFilter) -> bool {
        let known = self.summaries.lock().get(&(source.origin.clone(), start)).cloned();
        known.is_none_or(|known| known.may_hold(filter, None))
    }

    /// Records of `start..end`, and how many could not be opened. Keeps the summary of a full chunk.
    pub(crate) async fn chunk(
        &self,
        source: &Source,
        start: u64,
        end: u64,
    ) -> Result<(Vec<(u64, RecordId, AuditRecord)>, u64), AuditReadError> {
        let mut records = Vec::new();
        let mut unreadable = 0;
        let mut at = start;
        while at < end {
            let sealed = source.read(at, end - at).await?;
            let Some((last, _)) = sealed.last() else { break };
            at = last + 1;
            for (index, sealed) in sealed {
                let opened = self.opener.open(&sealed).await.map(|plain| AuditRecord::decode(&plain));
                match (RecordId::of(&sealed), opened) {
                    (Some(id), Ok(Ok(record))) => records.push((index, id, record)),
                    (_, Err(AuditKeyError::Outage)) => return Err(AuditKeyError::Outage.into()),
                    _ => unreadable += 1,
                }
            }
        }
        if end - start == CHUNK && at >= end && end <= source.size {
            let mut summaries = self.summaries.lock();
            summaries.insert((source.origin.clone(), start), Arc::new(Summary::of(&records, unreadable)));
            if summaries.len() > SUMMARIES_MAX {
                summaries.pop_first();
            }
        }
        Ok((records, unreadable))
    }
}
