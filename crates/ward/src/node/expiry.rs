//! The end of raw bodies, by what the sources declare (`keep` in `domain.toml`): which are due, that nothing holds them,
//! and the fact of the control log that is there before a key goes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::{Clock, DomainName, Ordinal};
use clinical::{Expired, Keep, Refiner, Source};
use comply::Rights;
use edge::{Expiry, JournalDesk};
use store::{EntryQuery, EntryRow, Facts, Silver};

use super::{StartError, while_};
use crate::config::Config;

/// The kind of the facts.
const EXPIRED: &str = "raw-expired";
/// Entries destroyed under one fact.
const BATCH: usize = 200;
const PAGE: usize = 1_000;
/// One round destroys at most so many; the next goes on.
const ROUND_MAX: u64 = 100_000;
const LOOK_EVERY: Duration = Duration::from_secs(3_600);
const DAY_MS: i64 = 86_400_000;

pub struct BodyExpiry {
    pub refiners: BTreeMap<DomainName, Arc<Refiner>>,
    pub silver: Silver,
    pub rights: Rights,
    pub facts: Facts,
    pub config: Arc<Config>,
    pub clock: Arc<dyn Clock>,
    /// One expiry at a time.
    pub turn: tokio::sync::Mutex<()>,
}

/// How long an entry's body is kept, by the first of its states that counts.
fn days_of(keep: Keep, row: &EntryRow) -> Option<u32> {
    match row {
        EntryRow { set_aside: 1.., .. } => keep.set_aside,
        EntryRow { shadow: true, .. } => keep.received,
        EntryRow { forwarded: 1.., .. } => keep.forwarded,
        _ => keep.refined,
    }
}

fn shortest(keep: Keep) -> Option<u32> {
    [keep.received, keep.refined, keep.set_aside, keep.forwarded].into_iter().flatten().min()
}

impl BodyExpiry {
    /// Once an hour, until told to stop.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            for domain in self.refiners.keys() {
                match self.expire(domain, false).await {
                    Ok(expiry) if expiry.destroyed > 0 => {
                        tracing::info!(%domain, bodies = expiry.destroyed, held = expiry.held, "raw bodies reached their end");
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::error!(target: "ward::alarm", %domain, error, "raw bodies could not be destroyed at their end");
                    }
                }
            }
        }
    }

    /// Whether a hold or an erasure under way keeps the entry.
    async fn is_held(&self, domain: &DomainName, index: u64, held: &Held) -> Result<bool, String> {
        let about = self.silver.entry_patients(domain, index).await.map_err(|error| error.to_string())?;
        Ok(held.whole
            || about.iter().any(|(patient, _)| held.patients.contains(patient) || held.is_on(domain, *patient)))
    }

    async fn of_source(
        &self,
        domain: &DomainName,
        source: &Source,
        dry_run: bool,
        expiry: &mut Expiry,
    ) -> Result<(), String> {
        let Some(days) = shortest(source.keep) else { return Ok(()) };
        let said = |error: store::StoreError| error.to_string();
        let now = self.clock.now();
        let before = |days: u32| now.plus_ms(-i64::from(days) * DAY_MS);
        let held = Held::of(&self.rights, domain);
        let mut first = 0;
        while expiry.due < ROUND_MAX {
            let query = EntryQuery {
                source: Some(source.name.clone()),
                to: Some(before(days)),
                living: true,
                first: Some(first),
                ascending: true,
                max: PAGE,
                ..EntryQuery::default()
            };
            let rows = self.silver.entries(domain, &query).await.map_err(said)?;
            let Some(last) = rows.last() else { return Ok(()) };
            first = last.index + 1;
            let mut due = Vec::new();
            let is_due = |row: &&EntryRow| {
                row.kind.contains('^') && days_of(source.keep, row).is_some_and(|days| row.at < before(days))
            };
            for row in rows.iter().filter(is_due) {
                expiry.due += 1;
                if self.is_held(domain, row.index, &held).await? {
                    expiry.held += 1;
                } else {
                    due.push(row.index);
                }
            }
            if dry_run {
                continue;
            }
            for batch in due.chunks(BATCH) {
                self.destroy(domain, batch, expiry).await?;
            }
        }
        Ok(())
    }

    async fn destroy(&self, domain: &DomainName, batch: &[u64], expiry: &mut Expiry) -> Result<(), String> {
        let refiner = self.refiners.get(domain).ok_or("the domain is not served by this node")?;
        let facts = self.facts.clone();
        let plan = refiner
            .expire(batch, |plan: Expired| async move {
                let body = serde_json::to_vec(&plan).map_err(|error| error.to_string())?;
                let public = format!("{} bodies", plan.successors.len());
                facts
                    .append_public(EXPIRED, &body, public.as_bytes())
                    .await
                    .map(drop)
                    .map_err(|error| error.to_string())
            })
            .await
            .map_err(|error| error.to_string())?;
        let destroyed = plan.successors.len() as u64;
        expiry.destroyed += destroyed;
        expiry.needed += batch.len() as u64 - destroyed;
        Ok(())
    }
}

/// What stands against destroying anything of a domain now.
struct Held {
    whole: bool,
    patients: BTreeSet<Ordinal>,
    book: comply::book::Book,
}

impl Held {
    fn of(rights: &Rights, domain: &DomainName) -> Held {
        let book = rights.book();
        let erasures = rights.hidden().into_iter().filter(|erasure| erasure.subject.domain == *domain);
        Held {
            whole: book.hold_on(domain, None).is_some(),
            patients: erasures.map(|erasure| erasure.subject.ordinal).collect(),
            book,
        }
    }

    fn is_on(&self, domain: &DomainName, patient: Ordinal) -> bool {
        self.book.hold_on(domain, Some(patient)).is_some()
    }
}

#[async_trait]
impl JournalDesk for BodyExpiry {
    async fn expire(&self, domain: &DomainName, dry_run: bool) -> Result<Expiry, String> {
        let _turn = self.turn.lock().await;
        let mut expiry = Expiry::default();
        let sources = self.config.domains.get(domain).map(|domain| domain.sources.as_slice()).unwrap_or_default();
        for source in sources {
            self.of_source(domain, source, dry_run, &mut expiry).await?;
        }
        Ok(expiry)
    }
}

/// Before refine reads a domain's journal: what took the place of entries whose bodies were destroyed.
pub async fn remember(facts: &Facts, refiner: &Refiner) -> Result<(), StartError> {
    let doing = || format!("reading which bodies of {} reached their end", refiner.domain());
    let mut from = 0;
    loop {
        let page = facts.follow_kinds(from, EXPIRED).await.map_err(while_(doing()))?;
        let Some(last) = page.last() else { return Ok(()) };
        from = last.position + 1;
        for fact in &page {
            let plan: Expired = serde_json::from_slice(&fact.body).map_err(while_(doing()))?;
            if plan.domain == refiner.domain().as_str() {
                refiner.remember_expired(&plan);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use base::{SourceName, Timestamp};

    use super::*;

    #[test]
    fn the_first_state_that_counts_says_how_long() {
        let keep = Keep { received: Some(1), refined: Some(2), set_aside: Some(3), forwarded: None };
        let row = |set_aside, forwarded, shadow| EntryRow {
            index: 0,
            source: SourceName::parse("s").unwrap(),
            at: Timestamp(0),
            kind: "ADT^A01".into(),
            bytes: 0,
            stored: 0,
            set_aside,
            forwarded,
            expired: false,
            shadow,
        };
        for (row, days) in [
            (row(0, 0, false), Some(2)),
            (row(1, 1, false), Some(3)),
            (row(0, 1, false), None),
            (row(0, 0, true), Some(1)),
        ] {
            assert_eq!(days_of(keep, &row), days, "{row:?}");
        }
        assert_eq!((shortest(keep), shortest(Keep::default())), (Some(1), None));
    }
}
