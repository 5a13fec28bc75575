//! Results that wait for their patient: resources about nobody that is known, by the entry they first came from.

use std::collections::BTreeMap;

use base::{DomainName, Ordinal, Timestamp};
use sqlx::Row as _;

use super::Silver;
use super::read::decode_positions;
use crate::StoreError;
use crate::sql::{big, unbig};

/// An entry whose results nobody can be found for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The entry the results first came from.
    pub index: u64,
    pub since: Timestamp,
    /// Resources by type.
    pub resources: BTreeMap<String, u64>,
}

/// Resources looked at for one page.
const LOOK_MAX: i64 = 5_000;

impl Silver {
    /// To whom a person's match gave the results of an entry: whose the newest versions are that first came from it and
    /// were about nobody then.
    pub async fn matched_to(&self, domain: &DomainName, position: u64) -> Result<Option<Ordinal>, StoreError> {
        let row = sqlx::query_as::<_, (i64,)>(
            "SELECT n.ordinal FROM resource_version v JOIN resource_version n ON n.domain = v.domain AND \
             n.token = v.token WHERE v.domain = $1 AND v.ordinal = $2 AND v.change IN (SELECT change FROM lineage WHERE \
             domain = $1 AND position = $3) AND n.ordinal <> $2 AND n.version = (SELECT MAX(m.version) FROM \
             resource_version m WHERE m.domain = v.domain AND m.token = v.token) LIMIT 1",
        )
        .bind(domain.as_str())
        .bind(i64::from(Ordinal::UNKNOWN.0))
        .bind(big(position)?)
        .fetch_optional(self.0.catalog.db.readers())
        .await?;
        Ok(row.and_then(|(ordinal,)| u32::try_from(ordinal).ok()).map(Ordinal).filter(|ordinal| ordinal.is_patient()))
    }

    /// Reports and results about nobody that is known, by entry, after a change number; and where the next page begins.
    pub async fn waiting(
        &self,
        domain: &DomainName,
        after: u64,
        max: usize,
    ) -> Result<(Vec<Waiting>, Option<u64>), StoreError> {
        let rows = sqlx::query(
            "SELECT v.change, v.rtype, v.last_updated, (SELECT f.positions FROM resource_version f WHERE \
             f.domain = v.domain AND f.token = v.token ORDER BY f.version LIMIT 1) FROM resource_version v WHERE \
             v.domain = $1 AND v.ordinal = $2 AND v.change > $3 AND v.deleted = 0 AND v.rtype IN ('DiagnosticReport', \
             'Observation') AND v.version = (SELECT MAX(n.version) FROM resource_version n WHERE n.domain = v.domain AND \
             n.token = v.token) ORDER BY v.change LIMIT $4",
        )
        .bind(domain.as_str())
        .bind(i64::from(Ordinal::UNKNOWN.0))
        .bind(big(after)?)
        .bind(LOOK_MAX)
        .fetch_all(self.0.catalog.db.readers())
        .await?;
        let mut found: Vec<Waiting> = Vec::new();
        for row in &rows {
            let positions: Vec<u8> = row.try_get(3)?;
            let Some(index) = decode_positions(&positions).first().copied() else { continue };
            let at = match found.iter().position(|waiting| waiting.index == index) {
                Some(at) => at,
                None if found.len() < max => {
                    let since = Timestamp(row.try_get(2)?);
                    found.push(Waiting { index, since, resources: BTreeMap::new() });
                    found.len() - 1
                }
                None => return Ok((found, Some(unbig(row.try_get::<i64, _>(0)?).saturating_sub(1)))),
            };
            *found[at].resources.entry(row.try_get(1)?).or_default() += 1;
        }
        let next = rows.last().filter(|_| rows.len() as i64 == LOOK_MAX);
        Ok((found, next.map(|row| row.try_get::<i64, _>(0).map(unbig)).transpose()?))
    }
}
