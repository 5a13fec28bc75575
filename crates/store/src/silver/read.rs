//! Reading by id, by version, by journal position, and in the order of changes. Every row is checked against the
//! permit before its key is asked for.

use std::collections::HashMap;

use base::{DomainName, Layer, LogicalId, Ordinal, Permit, Phi, Read, Sensitivity, Timestamp, Write};
use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row as _};
use vault::{Kind, ObjectId, ObjectName, VaultError};

use super::types::{Resource, Scanned, Traced};
use super::{Silver, target};
use crate::StoreError;
use crate::secrets::Token;
use crate::sql::{big, in_chunks, placeholders, unbig};

macro_rules! columns {
    () => {
        "change, token, version, rtype, ordinal, sensitivity, last_updated, deleted, positions, object, body"
    };
}
pub(super) const COLUMNS: &str = columns!();

/// A row of `resource_version`, its body still sealed.
pub(super) struct Sealed {
    pub change: u64,
    pub token: Vec<u8>,
    pub version: u32,
    pub rtype: String,
    pub patient: Ordinal,
    pub sensitivity: Sensitivity,
    last_updated: Timestamp,
    pub deleted: bool,
    positions: Vec<u64>,
    object: ObjectId,
    body: Vec<u8>,
}

pub(super) fn object_id(bytes: Vec<u8>) -> Result<ObjectId, StoreError> {
    Ok(ObjectId(bytes.try_into().map_err(|_| StoreError::corrupt("an object id in the catalog is too short"))?))
}

impl Sealed {
    pub fn from_row(row: &AnyRow) -> Result<Sealed, StoreError> {
        let positions: Vec<u8> = row.try_get(8)?;
        let (version, ordinal): (i64, i64) = (row.try_get(2)?, row.try_get(4)?);
        const BAD: StoreError = StoreError::Corrupt("a number in the catalog is out of its range");
        Ok(Sealed {
            change: unbig(row.try_get(0)?),
            token: row.try_get(1)?,
            version: u32::try_from(version).map_err(|_| BAD)?,
            rtype: row.try_get(3)?,
            patient: Ordinal(u32::try_from(ordinal).map_err(|_| BAD)?),
            sensitivity: Sensitivity(u16::try_from(row.try_get::<i64, _>(5)?).map_err(|_| BAD)?),
            last_updated: Timestamp(row.try_get(6)?),
            deleted: row.try_get::<i64, _>(7)? != 0,
            positions: decode_positions(&positions),
            object: object_id(row.try_get(9)?)?,
            body: row.try_get(10)?,
        })
    }

    fn is_covered<R>(&self, permit: &Permit<R>, domain: &DomainName) -> Result<(), base::NotCovered> {
        permit.covers(target(domain, &self.rtype, self.patient, self.sensitivity))
    }

    fn name<'a>(&'a self, domain: &'a DomainName) -> ObjectName<'a> {
        ObjectName { domain, kind: Kind::Resource, id: &self.token, version: u64::from(self.version) }
    }

    fn opened(self, plain: &[u8]) -> Result<Resource, StoreError> {
        let (id, body) = super::pack::unpack(plain)?;
        Ok(Resource {
            id,
            body: Phi::new(body),
            rtype: self.rtype,
            version: self.version,
            change: self.change,
            last_updated: self.last_updated,
            patient: self.patient,
            sensitivity: self.sensitivity,
            deleted: self.deleted,
            positions: self.positions,
        })
    }
}

pub(super) fn encode_positions(positions: &[u64]) -> Vec<u8> {
    positions.iter().flat_map(|position| position.to_le_bytes()).collect()
}

pub(super) fn decode_positions(bytes: &[u8]) -> Vec<u64> {
    let (chunks, _) = bytes.as_chunks::<8>();
    chunks.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect()
}

/// The key is gone: the content was erased.
pub(super) fn is_erased(error: &VaultError) -> bool {
    matches!(error, VaultError::Destroyed | VaultError::NoSlot)
}

impl Silver {
    /// The version that stands; a deleted one says so. `None` when there is none. Not covered is an error, which a
    /// door shows as "not found".
    pub async fn read(
        &self,
        permit: &Permit<Read>,
        domain: &DomainName,
        rtype: &str,
        id: &LogicalId,
    ) -> Result<Option<Resource>, StoreError> {
        let token = self.begin(permit, domain, rtype, id)?;
        let row = sqlx::query(concat!(
            "SELECT ",
            columns!(),
            " FROM resource_version WHERE domain = $1 AND token = $2 ORDER BY version DESC LIMIT 1"
        ))
        .bind(domain.as_str())
        .bind(token.to_vec())
        .fetch_optional(self.0.catalog.db.readers())
        .await?;
        self.open_one(permit, domain, row).await
    }

    /// This version.
    pub async fn vread(
        &self,
        permit: &Permit<Read>,
        domain: &DomainName,
        rtype: &str,
        id: &LogicalId,
        version: u32,
    ) -> Result<Option<Resource>, StoreError> {
        let token = self.begin(permit, domain, rtype, id)?;
        let row = sqlx::query(concat!(
            "SELECT ",
            columns!(),
            " FROM resource_version WHERE domain = $1 AND token = $2 AND version = $3"
        ))
        .bind(domain.as_str())
        .bind(token.to_vec())
        .bind(i64::from(version))
        .fetch_optional(self.0.catalog.db.readers())
        .await?;
        self.open_one(permit, domain, row).await
    }

    /// The version that stood at a change; a deleted one says so.
    pub async fn read_as_of(
        &self,
        permit: &Permit<Read>,
        domain: &DomainName,
        rtype: &str,
        id: &LogicalId,
        change: u64,
    ) -> Result<Option<Resource>, StoreError> {
        let token = self.begin(permit, domain, rtype, id)?;
        let row = sqlx::query(concat!(
            "SELECT ",
            columns!(),
            " FROM resource_version WHERE domain = $1 AND token = $2 AND change <= $3 ORDER BY version DESC LIMIT 1"
        ))
        .bind(domain.as_str())
        .bind(token.to_vec())
        .bind(i64::try_from(change).unwrap_or(i64::MAX))
        .fetch_optional(self.0.catalog.db.readers())
        .await?;
        self.open_one(permit, domain, row).await
    }

    /// Every version from change number `from` on, in order, at most `max`: those that were superseded too, without those
    /// that are not covered or erased. Where the next step goes on.
    pub async fn changes(
        &self,
        permit: &Permit<Read>,
        domain: &DomainName,
        from: u64,
        max: usize,
    ) -> Result<(Vec<Resource>, u64), StoreError> {
        self.check_live(permit)?;
        let end = self.changes_end(domain).await?;
        let rows = sqlx::query(concat!(
            "SELECT ",
            columns!(),
            " FROM resource_version WHERE domain = $1 AND change >= $2 AND change < $3 ORDER BY change LIMIT $4"
        ))
        .bind(domain.as_str())
        .bind(big(from)?)
        .bind(big(end)?)
        .bind(max.clamp(1, SCAN_MAX) as i64)
        .fetch_all(self.0.catalog.db.readers())
        .await?;
        let rows = rows.iter().map(Sealed::from_row).collect::<Result<Vec<_>, _>>()?;
        let next = match rows.last() {
            Some(last) if rows.len() >= max.clamp(1, SCAN_MAX) => last.change + 1,
            _ => end,
        };
        Ok((self.open_covered(permit, domain, rows).await?, next))
    }

    /// One more than the domain's newest change number.
    pub async fn changes_end(&self, domain: &DomainName) -> Result<u64, StoreError> {
        let row = sqlx::query_as::<_, (i64,)>("SELECT change FROM domain_state WHERE domain = $1")
            .bind(domain.as_str())
            .fetch_optional(self.0.catalog.db.readers())
            .await?;
        Ok(row.map_or(0, |(change,)| unbig(change)) + 1)
    }

    /// Versions below `before` (all, if `None`), newest first, at most `max`. Versions not covered are left out; when
    /// the newest of them is not covered it is an error.
    pub async fn history(
        &self,
        permit: &Permit<Read>,
        domain: &DomainName,
        rtype: &str,
        id: &LogicalId,
        before: Option<u32>,
        max: usize,
    ) -> Result<Vec<Resource>, StoreError> {
        let token = self.begin(permit, domain, rtype, id)?;
        let rows = sqlx::query(concat!(
            "SELECT ",
            columns!(),
            " FROM resource_version WHERE domain = $1 AND token = $2 AND version < $3 ORDER BY version DESC LIMIT $4"
        ))
        .bind(domain.as_str())
        .bind(token.to_vec())
        .bind(before.map_or(i64::MAX, i64::from))
        .bind(self.bounded(permit, max))
        .fetch_all(self.0.catalog.db.readers())
        .await?;
        let rows = rows.iter().map(Sealed::from_row).collect::<Result<Vec<_>, _>>()?;
        if let Some(newest) = rows.first() {
            newest.is_covered(permit, domain)?;
        }
        self.open_covered(permit, domain, rows).await
    }

    /// Versions of a type, or of all, that changed before a change number (all, if `None`), newest first, at most `max`,
    /// and where to go on. What is not covered is left out. Looks at a bounded number of changes, so that fewer than
    /// `max` may come although there are more.
    pub async fn changes_before(
        &self,
        permit: &Permit<Read>,
        domain: &DomainName,
        rtype: Option<&str>,
        before: Option<u64>,
        since: Option<Timestamp>,
        max: usize,
    ) -> Result<(Vec<Resource>, Option<u64>), StoreError> {
        self.check_live(permit)?;
        if let Some(rtype) = rtype {
            permit.covers_kind(domain, Layer::Silver, rtype)?;
        }
        let end = self.changes_end(domain).await?;
        let mut before = before.unwrap_or(end).min(end);
        let max = usize::try_from(self.bounded(permit, max)).unwrap_or_default();
        let mut found = Vec::new();
        for _ in 0..HISTORY_STEPS_MAX {
            // The first change is 1.
            if before <= 1 || found.len() >= max {
                break;
            }
            let from = before.saturating_sub(HISTORY_WINDOW).max(1);
            let wanted = max - found.len();
            let rows = sqlx::query(concat!(
                "SELECT ",
                columns!(),
                " FROM resource_version WHERE domain = $1 AND change >= $2 AND change < $3 AND last_updated >= $4 AND \
                 ($5 = '' OR rtype = $5) ORDER BY change DESC LIMIT $6"
            ))
            .bind(domain.as_str())
            .bind(big(from)?)
            .bind(big(before)?)
            .bind(since.map_or(i64::MIN, Timestamp::ms))
            .bind(rtype.unwrap_or_default())
            .bind(wanted as i64)
            .fetch_all(self.0.catalog.db.readers())
            .await?;
            let rows = rows.iter().map(Sealed::from_row).collect::<Result<Vec<_>, _>>()?;
            before = match rows.last() {
                Some(oldest) if rows.len() >= wanted => oldest.change,
                _ => from,
            };
            found.extend(self.open_covered(permit, domain, rows).await?);
        }
        Ok((found, (before > 1 && max > 0).then_some(before)))
    }

    /// Those of the resources that stand and are covered, deleted ones too, in no order.
    pub async fn read_many(
        &self,
        permit: &Permit<Read>,
        domain: &DomainName,
        wanted: &[(String, LogicalId)],
    ) -> Result<Vec<Resource>, StoreError> {
        self.read_set(permit, domain, wanted).await
    }

    /// The same under a permit to write: refine needs what stands to make what follows.
    pub async fn read_many_for_refine(
        &self,
        permit: &Permit<Write>,
        domain: &DomainName,
        wanted: &[(String, LogicalId)],
    ) -> Result<Vec<Resource>, StoreError> {
        self.read_set(permit, domain, wanted).await
    }

    async fn read_set<R>(
        &self,
        permit: &Permit<R>,
        domain: &DomainName,
        wanted: &[(String, LogicalId)],
    ) -> Result<Vec<Resource>, StoreError> {
        self.check_live(permit)?;
        let tokens: Vec<Token> =
            wanted.iter().map(|(rtype, id)| self.0.secrets.token(domain, rtype, id.as_str())).collect();
        let mut rows = Vec::with_capacity(tokens.len());
        for chunk in in_chunks(&tokens) {
            let text = format!(
                "SELECT {COLUMNS} FROM resource_version v WHERE domain = $1 AND token IN {} AND NOT EXISTS (SELECT 1 \
                 FROM resource_version w WHERE w.domain = v.domain AND w.token = v.token AND w.version = v.version + 1)",
                placeholders(1, chunk.len())
            );
            let mut query = sqlx::query(AssertSqlSafe(text)).bind(domain.as_str());
            for token in chunk {
                query = query.bind(token.to_vec());
            }
            for row in query.fetch_all(self.0.catalog.db.readers()).await? {
                rows.push(Sealed::from_row(&row)?);
            }
        }
        self.open_covered(permit, domain, rows).await
    }

    /// The newest versions of a type that changed after change number `after`, in order: for building products. A
    /// caller goes on from `Scanned::after` while there is `more`.
    pub async fn scan(
        &self,
        permit: &Permit<Read>,
        domain: &DomainName,
        rtype: &str,
        after: u64,
        max: usize,
    ) -> Result<Scanned, StoreError> {
        self.check_live(permit)?;
        permit.covers_kind(domain, Layer::Silver, rtype)?;
        let rows = sqlx::query(concat!(
            "SELECT ",
            columns!(),
            " FROM resource_version v WHERE domain = $1 AND rtype = $2 AND change > $3 AND NOT EXISTS (SELECT 1 FROM \
             resource_version w WHERE w.domain = v.domain AND w.token = v.token AND w.version = v.version + 1) \
             ORDER BY change LIMIT $4"
        ))
        .bind(domain.as_str())
        .bind(rtype)
        .bind(big(after)?)
        .bind(max.clamp(1, SCAN_MAX) as i64)
        .fetch_all(self.0.catalog.db.readers())
        .await?;
        let rows = rows.iter().map(Sealed::from_row).collect::<Result<Vec<_>, _>>()?;
        let more = rows.len() == max.clamp(1, SCAN_MAX);
        let after = rows.last().map_or(after, |row| row.change);
        Ok(Scanned { resources: self.open_covered(permit, domain, rows).await?, after, more })
    }

    /// The versions that came of a journal entry, as far as the permit covers them; without content.
    pub async fn came_of(
        &self,
        permit: &Permit<Read>,
        domain: &DomainName,
        index: u64,
    ) -> Result<Vec<Traced>, StoreError> {
        self.check_live(permit)?;
        let rows = sqlx::query(concat!(
            "SELECT ",
            columns!(),
            " FROM resource_version WHERE domain = $1 AND change IN (SELECT change FROM lineage WHERE domain = $1 AND \
             position = $2) ORDER BY change LIMIT $3"
        ))
        .bind(domain.as_str())
        .bind(big(index)?)
        .bind(SCAN_MAX as i64)
        .fetch_all(self.0.catalog.db.readers())
        .await?;
        let rows = rows.iter().map(Sealed::from_row).collect::<Result<Vec<_>, _>>()?;
        let resources = self.open_covered(permit, domain, rows).await?;
        Ok(resources
            .into_iter()
            .map(|r| Traced { rtype: r.rtype, id: r.id, version: r.version, patient: r.patient })
            .collect())
    }

    /// Versions by their change numbers, as the index names them; in the order asked for, without those that are not
    /// covered or erased.
    pub(super) async fn read_changes<R>(
        &self,
        permit: &Permit<R>,
        domain: &DomainName,
        changes: &[u64],
    ) -> Result<Vec<Resource>, StoreError> {
        let keys = changes.iter().map(|change| big(*change)).collect::<Result<Vec<_>, _>>()?;
        let mut rows = Vec::with_capacity(keys.len());
        for chunk in in_chunks(&keys) {
            let text = format!(
                "SELECT {COLUMNS} FROM resource_version WHERE domain = $1 AND change IN {}",
                placeholders(1, chunk.len())
            );
            let mut query = sqlx::query(AssertSqlSafe(text)).bind(domain.as_str());
            for key in chunk {
                query = query.bind(key);
            }
            for row in query.fetch_all(self.0.catalog.db.readers()).await? {
                rows.push(Sealed::from_row(&row)?);
            }
        }
        let opened = self.open_covered(permit, domain, rows).await?;
        let mut by_change: HashMap<u64, Resource> = opened.into_iter().map(|r| (r.change, r)).collect();
        Ok(changes.iter().filter_map(|change| by_change.remove(change)).collect())
    }

    fn begin<R>(
        &self,
        permit: &Permit<R>,
        domain: &DomainName,
        rtype: &str,
        id: &LogicalId,
    ) -> Result<Token, StoreError> {
        self.check_live(permit)?;
        permit.covers_kind(domain, Layer::Silver, rtype)?;
        Ok(self.0.secrets.token(domain, rtype, id.as_str()))
    }

    fn bounded<R>(&self, permit: &Permit<R>, max: usize) -> i64 {
        let max = max.min(self.0.limits.search_count_max) as u64;
        permit.grant().rows_max.map_or(max, |rows| rows.min(max)) as i64
    }

    async fn open_one<R>(
        &self,
        permit: &Permit<R>,
        domain: &DomainName,
        row: Option<AnyRow>,
    ) -> Result<Option<Resource>, StoreError> {
        let Some(row) = row else { return Ok(None) };
        let sealed = Sealed::from_row(&row)?;
        sealed.is_covered(permit, domain)?;
        match self.0.vault.open_object(sealed.object, sealed.name(domain), &sealed.body).await {
            Ok(plain) => Ok(Some(sealed.opened(&plain)?)),
            Err(error) if is_erased(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the rows that are covered; those whose key was destroyed are no more.
    async fn open_covered<R>(
        &self,
        permit: &Permit<R>,
        domain: &DomainName,
        mut rows: Vec<Sealed>,
    ) -> Result<Vec<Resource>, StoreError> {
        rows.retain(|row| row.is_covered(permit, domain).is_ok());
        let mut resources = Vec::with_capacity(rows.len());
        for opened in self.open_all(domain, rows).await {
            match opened {
                Ok(resource) => resources.push(resource),
                Err(StoreError::Vault(error)) if is_erased(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(resources)
    }

    pub(super) async fn open_all(&self, domain: &DomainName, rows: Vec<Sealed>) -> Vec<Result<Resource, StoreError>> {
        let wanted: Vec<_> = rows.iter().map(|row| (row.object, row.name(domain), row.body.as_slice())).collect();
        let plains = self.0.vault.open_many(&wanted).await;
        drop(wanted);
        rows.into_iter().zip(plains).map(|(row, plain)| row.opened(&plain?)).collect()
    }
}

/// Rows of one step of a scan.
const SCAN_MAX: usize = 10_000;
/// Changes that one step of a history looks at, and steps of one page.
const HISTORY_WINDOW: u64 = 50_000;
const HISTORY_STEPS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_round_trip() {
        assert_eq!(decode_positions(&encode_positions(&[7, u64::MAX])), [7, u64::MAX]);
    }
}
