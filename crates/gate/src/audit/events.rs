//! A search for events: whole records from the union of all targets, newest or oldest first, page by page. One patient's
//! come from the index of who saw whom, all others by looking through the log.
//!
//! An event is named by its record ([`RecordId`]), so that a name means one event for ever, whichever target answers; the
//! index finds it.
//!
//! Never here: what is wanted of an event and how it looks (see `edge::fhir::audit_event`, `herald`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base::{DomainName, Ordinal, Permit, PrincipalId, Read, Timestamp};
use bytes::Bytes;

use crate::audit::index::rows::Found;
use crate::audit::keys::{AuditKeyError, RecordId};
use crate::audit::reader::{AuditFilter, AuditReadError, AuditReader, CHUNK};
use crate::audit::record::AuditRecord;
use crate::audit::records::FoundRecord;
use crate::audit::report::{LINES_MAX, Period};
use crate::audit::target::SourceError;
use crate::release::Held;

/// Records looked at for one page of a search that names no patient; the next page goes on from there.
const SCAN_MAX: u64 = 262_144;

/// What is searched for, as far as the log can be asked for it; the rest is `wanted`.
#[derive(Debug, Clone, Default)]
pub struct EventQuery {
    /// Events of any of these; none means of everybody.
    pub patients: Option<Vec<(DomainName, Ordinal)>>,
    pub period: Period,
    pub principal: Option<PrincipalId>,
    pub newest_first: bool,
    /// Where the page before stopped.
    pub after: Option<EventMark>,
    pub max: usize,
    /// Of more patients than this a record's are not named.
    pub named_max: u64,
}

/// Where a page stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventMark {
    /// At an event of one patient.
    Seen { at: Timestamp, id: RecordId },
    /// At a position of a log that is looked through.
    Read { log: String, position: u64 },
}

impl fmt::Display for EventMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EventMark::Seen { at, id } => write!(f, "seen {} {id}", at.ms()),
            EventMark::Read { log, position } => write!(f, "read {position} {log}"),
        }
    }
}

impl EventMark {
    /// As it is displayed.
    pub fn parse(text: &str) -> Option<EventMark> {
        let mut parts = text.splitn(3, ' ');
        match (parts.next()?, parts.next()?, parts.next()?) {
            ("seen", at, id) => Some(EventMark::Seen { at: Timestamp(at.parse().ok()?), id: RecordId::parse(id)? }),
            ("read", position, log) => Some(EventMark::Read { log: log.to_owned(), position: position.parse().ok()? }),
            _ => None,
        }
    }
}

/// A page of events.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EventPage {
    pub events: Vec<FoundRecord>,
    /// There is more.
    pub next: Option<EventMark>,
    /// Records that could not be opened, or that no target can show now: the page may lack them.
    pub missing: u64,
}

/// Says whether an event is wanted.
pub type Wanted<'a> = dyn Fn(RecordId, &AuditRecord) -> bool + Sync + 'a;

impl AuditReader {
    /// The keyed token of a patient, as records and renderings have it.
    pub fn patient_token(
        &self,
        permit: &Permit<Read>,
        domain: &DomainName,
        patient: Ordinal,
    ) -> Result<[u8; 16], AuditReadError> {
        self.check(permit)?;
        Ok(self.audit.patient_token(domain, patient.0))
    }

    /// The event of a name; none where no target has shown such a one.
    pub async fn event(
        &self,
        permit: &Permit<Read>,
        id: RecordId,
        named_max: u64,
    ) -> Result<Held<Option<FoundRecord>>, AuditReadError> {
        self.check(permit)?;
        let Some((log, index, record)) = self.named(id).await? else { return Ok(Held::under(permit, None)) };
        let tokens = self.audit.tokens_of(&record, named_max);
        Ok(Held::under(permit, Some(FoundRecord { id, log, index, record, tokens })))
    }

    pub(crate) async fn named(&self, id: RecordId) -> Result<Option<(Arc<str>, u64, AuditRecord)>, AuditReadError> {
        let (is_known, place) = self.follower.place_of(id).await;
        if !is_known {
            return Ok(None);
        }
        if let Some((log, index)) = place
            && let Some(record) = self.whole(id, &log, index).await?
        {
            return Ok(Some((log, index, record)));
        }
        // There is no index now, or the log that it names is not there: the newest are looked through.
        let source = self.source().await;
        let mut high = source.end();
        let low = high.saturating_sub(SCAN_MAX);
        while high > low {
            let start = high.saturating_sub(CHUNK).max(low);
            let mut at = start;
            while at < high {
                let sealed = source.read(at, high - at).await?;
                let Some((last, _)) = sealed.last() else { break };
                at = last + 1;
                if let Some((position, _)) = sealed.iter().find(|(_, sealed)| RecordId::of(sealed) == Some(id)) {
                    let (log, index) = source.place_of(*position);
                    return Ok(self.whole(id, &log, index).await?.map(|record| (log, index, record)));
                }
            }
            high = start;
        }
        Err(SourceError("the target that showed this record is away: see `ward audit status`".to_owned()).into())
    }

    /// A page of events that are wanted.
    pub async fn events(
        &self,
        permit: &Permit<Read>,
        query: &EventQuery,
        wanted: &Wanted<'_>,
    ) -> Result<Held<EventPage>, AuditReadError> {
        self.check(permit)?;
        let page = match &query.patients {
            Some(patients) => self.events_of(patients, query, wanted).await?,
            None => self.events_through(query, wanted).await?,
        };
        Ok(Held::under(permit, page))
    }

    /// From the index.
    pub(crate) async fn events_of(
        &self,
        patients: &[(DomainName, Ordinal)],
        query: &EventQuery,
        wanted: &Wanted<'_>,
    ) -> Result<EventPage, AuditReadError> {
        let mut page = EventPage::default();
        let mut kept: BTreeMap<(Timestamp, RecordId), Found> = BTreeMap::new();
        // One more than is asked for tells whether there is more.
        let max = query.max.max(1) + 1;
        let after = match query.after {
            Some(EventMark::Seen { at, id }) => Some((at, id)),
            Some(EventMark::Read { .. }) => return Err(AuditReadError::Moved),
            None => None,
        };
        let is_after = |mark: &(Timestamp, RecordId)| match query.newest_first {
            true => after.is_none_or(|after| *mark < after),
            false => after.is_none_or(|after| *mark > after),
        };
        for (domain, patient) in patients {
            let mut period = query.period;
            loop {
                let known = self.known(domain, &[*patient], period, LINES_MAX).await?;
                page.missing = page.missing.max(known.unreadable + known.hidden);
                let last = known.found.last().map(|found| found.record.at);
                for found in known.found {
                    let mark = (found.record.at, found.id);
                    if is_after(&mark) && wanted(found.id, &found.record) {
                        kept.insert(mark, found);
                    }
                    while kept.len() > max {
                        if query.newest_first {
                            kept.pop_first()
                        } else {
                            kept.pop_last()
                        };
                    }
                }
                let Some(last) = last.filter(|_| known.more) else { break };
                if period.since == Some(last) {
                    page.missing += 1;
                    break;
                }
                period.since = Some(last);
            }
        }
        let mut kept: Vec<((Timestamp, RecordId), Found)> = kept.into_iter().collect();
        if query.newest_first {
            kept.reverse();
        }
        let more = kept.len() == max;
        kept.truncate(max - 1);
        page.next = kept.last().map(|((at, id), _)| EventMark::Seen { at: *at, id: *id }).filter(|_| more);
        for (_, found) in kept {
            let Found { id, log, index, patients, record } = found;
            // Of many patients the index names none.
            let record = match record.patients.len() == patients {
                true => Some((log, index, record)),
                false => self.named(id).await?,
            };
            match record {
                Some((log, index, record)) => {
                    let tokens = self.audit.tokens_of(&record, query.named_max);
                    page.events.push(FoundRecord { id, log, index, record, tokens });
                }
                None => page.missing += 1,
            }
        }
        Ok(page)
    }

    /// By looking through the log, chunk by chunk.
    pub(crate) async fn events_through(
        &self,
        query: &EventQuery,
        wanted: &Wanted<'_>,
    ) -> Result<EventPage, AuditReadError> {
        let source = self.source().await;
        let Period { since, until } = query.period;
        let filter = AuditFilter { since, until, principal: query.principal.clone(), ..AuditFilter::default() };
        let mut page = EventPage { missing: source.hidden(), ..EventPage::default() };
        let (mut low, mut high) = (0, source.end());
        match (&query.after, query.newest_first) {
            (None, _) => {}
            (Some(EventMark::Read { log, position }), is_down) if *log == **source.origin() => match is_down {
                true => high = high.min(*position),
                false => low = *position,
            },
            (Some(_), _) => return Err(AuditReadError::Moved),
        }
        let mut looked_at = 0;
        'pages: while low < high && looked_at < SCAN_MAX {
            let (start, end) = match query.newest_first {
                true => (((high - 1) / CHUNK * CHUNK).max(low), high),
                false => (low, (low / CHUNK * CHUNK + CHUNK).min(high)),
            };
            if self.may_hold(&source, start / CHUNK * CHUNK, &filter) {
                let (mut records, unreadable) = self.chunk(&source, start, end).await?;
                page.missing += unreadable;
                if query.newest_first {
                    records.reverse();
                }
                for (position, id, record) in records {
                    let (log, index) = source.place_of(position);
                    let is_due = since.is_none_or(|since| record.at >= since)
                        && until.is_none_or(|until| record.at < until)
                        && wanted(id, &record);
                    if is_due && page.events.len() >= query.max {
                        break 'pages;
                    }
                    if query.newest_first {
                        high = position
                    } else {
                        low = position + 1
                    }
                    if is_due {
                        let tokens = self.audit.tokens_of(&record, query.named_max);
                        page.events.push(FoundRecord { id, log, index, record, tokens });
                    }
                }
            }
            looked_at += end - start;
            if query.newest_first { high = start } else { low = end }
        }
        let at = if query.newest_first { high } else { low };
        let mark = || EventMark::Read { log: source.origin().to_string(), position: at };
        page.next = (low < high).then(mark);
        Ok(page)
    }

    /// The record at a place of a log, if its target is there, it is this one, and it opens.
    async fn whole(&self, id: RecordId, log: &str, index: u64) -> Result<Option<AuditRecord>, AuditReadError> {
        let Some(store) = self.follower.store_of(log) else { return Ok(None) };
        let read = tokio::task::spawn_blocking(move || store.read(index, 1)).await;
        let read = read.map_err(|_| SourceError("the reading task ended early; try again".to_owned()))??;
        let is_it = |(at, sealed): &(u64, Bytes)| *at == index && RecordId::of(sealed) == Some(id);
        let Some((_, sealed)) = read.into_iter().find(is_it) else { return Ok(None) };
        match self.opener.open(&sealed).await {
            Ok(plain) => Ok(AuditRecord::decode(&plain).ok()),
            Err(AuditKeyError::Outage) => Err(AuditKeyError::Outage.into()),
            Err(_) => Ok(None),
        }
    }
}
