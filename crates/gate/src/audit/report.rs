//! One patient's reports: who saw the patient, and the accounting of disclosures; as data, or on paper. From the index,
//! or, while there is none, through the whole log.
//!
//! Never here: which disclosures are listed (see `disclosure`), how the paper looks (see `print`).

use std::collections::HashSet;

use base::{DomainName, Ordinal, Permit, Read, Timestamp};

use crate::audit::disclosure::{Accountant, Accounting, Suspended, is_suspended, recipient_of};
use crate::audit::index::question::Question;
use crate::audit::index::rows::Found;
use crate::audit::print::{self, Paper};
use crate::audit::reader::{AccessLine, AuditFilter, AuditPage, AuditReadError, AuditReader};
use crate::release::Held;

/// Lines of one report.
pub(crate) const LINES_MAX: usize = 10_000;
/// Records of one patient that an accounting looks at.
const ACCOUNTED_MAX: usize = 1_000_000;
/// §164.528(a)(3): six years before the request.
const ACCOUNTING_YEARS: i32 = 6;

/// From when (inclusive) to when (exclusive).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Period {
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
}

/// What the log knows of one patient, oldest first.
pub(crate) struct Known {
    pub found: Vec<Found>,
    pub more: bool,
    /// Records looked through, or in the index.
    pub size: u64,
    pub unreadable: u64,
    /// Durable records that could not be looked at.
    pub hidden: u64,
}

impl AuditReader {
    /// Everything that the log knows of one patient, oldest first: what went out, and what was tried. The page's `next`
    /// is set only when there are more than ten thousand lines: then ask from the last line's time on.
    pub async fn who_saw(
        &self,
        permit: &Permit<Read>,
        domain: &DomainName,
        patient: Ordinal,
    ) -> Result<Held<AuditPage>, AuditReadError> {
        self.who_saw_between(permit, domain, &[patient], Period::default()).await
    }

    /// As [`AuditReader::who_saw`], of a period, and of all records of one person.
    pub async fn who_saw_between(
        &self,
        permit: &Permit<Read>,
        domain: &DomainName,
        patients: &[Ordinal],
        period: Period,
    ) -> Result<Held<AuditPage>, AuditReadError> {
        self.check(permit)?;
        let Known { found, more, size, unreadable, hidden } = self.known(domain, patients, period, LINES_MAX).await?;
        let lines: Vec<AccessLine> = found.iter().map(AccessLine::new).collect();
        let next = lines.last().filter(|_| more).map(|line| line.index + 1);
        Ok(Held::under(permit, AuditPage { lines, next, size, unreadable, hidden }))
    }

    /// Who saw the patient, on paper for the patient.
    pub async fn who_saw_on(
        &self,
        permit: &Permit<Read>,
        domain: &DomainName,
        patients: &[Ordinal],
        period: Period,
        suspended: &Suspended,
        paper: Paper,
    ) -> Result<Held<String>, AuditReadError> {
        self.check(permit)?;
        let mut known = self.known(domain, patients, period, LINES_MAX).await?;
        known.found.retain(|found| !is_suspended(&recipient_of(&*self.names, &found.record), suspended));
        let text = print::who_saw(&known.found, known.unreadable + known.hidden, known.more, &*self.names, paper);
        Ok(Held::under(permit, text))
    }

    /// The accounting of disclosures of a period, by default of the six years until now, without those to agencies for
    /// which the right to it is suspended.
    pub async fn accounting(
        &self,
        permit: &Permit<Read>,
        domain: &DomainName,
        patients: &[Ordinal],
        period: Period,
        suspended: &Suspended,
    ) -> Result<Held<Accounting>, AuditReadError> {
        self.check(permit)?;
        let until = period.until.unwrap_or_else(|| self.clock.now().plus_ms(1));
        let since = period.since.unwrap_or_else(|| years_before(until, ACCOUNTING_YEARS));
        let mut accountant = Accountant::new(&*self.names, suspended);
        let (mut from, mut looked_at, mut missing) = (since, 0, 0);
        // Those of the last millisecond come again with the next page.
        let mut before: HashSet<(u64, u64)> = HashSet::new();
        loop {
            let period = Period { since: Some(from), until: Some(until) };
            let known = self.known(domain, patients, period, LINES_MAX).await?;
            missing = missing.max(known.unreadable + known.hidden);
            let name = |found: &Found| (found.index, found.record.decision);
            known.found.iter().filter(|found| !before.contains(&name(found))).for_each(|found| accountant.add(found));
            looked_at += known.found.len();
            let Some(last) = known.found.last().map(|found| found.record.at).filter(|_| known.more) else { break };
            if looked_at >= ACCOUNTED_MAX || last <= from && !before.is_empty() {
                missing = missing.max(1);
                break;
            }
            before = known.found.iter().filter(|found| found.record.at == last).map(name).collect();
            from = last;
        }
        Ok(Held::under(permit, accountant.finish(since, until.plus_ms(-1), missing)))
    }

    pub(crate) async fn known(
        &self,
        domain: &DomainName,
        patients: &[Ordinal],
        period: Period,
        max: usize,
    ) -> Result<Known, AuditReadError> {
        let (first, others) = patients.split_first().unwrap_or((&Ordinal::UNKNOWN, &[]));
        let mut known = self.known_of(domain, *first, period, max).await?;
        for patient in others {
            let one = self.known_of(domain, *patient, period, max).await?;
            known.found.extend(one.found);
            known.more |= one.more;
            known.size = known.size.max(one.size);
            known.unreadable = known.unreadable.max(one.unreadable);
            known.hidden = known.hidden.max(one.hidden);
        }
        if !others.is_empty() {
            // A record that names several of them is one access.
            known.found.sort_by_key(|found| (found.record.at, found.index, found.id));
            known.found.dedup_by_key(|found| found.id);
            known.more |= known.found.len() > max;
            known.found.truncate(max);
        }
        Ok(known)
    }

    async fn known_of(
        &self,
        domain: &DomainName,
        patient: Ordinal,
        period: Period,
        max: usize,
    ) -> Result<Known, AuditReadError> {
        let question = Question {
            token: self.audit.patient_token(domain, patient.0),
            domain: domain.clone(),
            patient: patient.0,
            since: period.since.unwrap_or(Timestamp(0)),
            until: period.until.unwrap_or(Timestamp(i64::MAX)),
            max,
        };
        if let Some(asked) = self.follower.ask(question).await {
            let (size, unreadable, hidden) = (asked.records, asked.unreadable, asked.behind);
            return Ok(Known { found: asked.answer.found, more: asked.answer.more, size, unreadable, hidden });
        }
        let Period { since, until } = period;
        let filter = AuditFilter { patient: Some((domain.clone(), patient)), since, until, ..AuditFilter::default() };
        let source = self.source().await;
        let mut scan = self.scan(&source, &filter, 0, max, u64::MAX).await?;
        scan.found.sort_by_key(|found| found.record.at);
        let (size, hidden) = (source.end(), source.hidden());
        Ok(Known { found: scan.found, more: scan.next.is_some(), size, unreadable: scan.unreadable, hidden })
    }
}

/// The same day so many years earlier.
fn years_before(at: Timestamp, years: i32) -> Timestamp {
    const DAY_MS: i64 = 86_400_000;
    let (year, month, day) = base::time::civil_from_days(at.ms().div_euclid(DAY_MS));
    // The 29th of February is the 1st of March where there is none.
    Timestamp(base::time::days_from_civil(year - years, month, day) * DAY_MS)
}
