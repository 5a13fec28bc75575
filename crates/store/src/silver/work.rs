//! What consumers keep beside resources: outcomes, control keys seen, units set aside, counters.

use base::{DomainName, SourceName, Timestamp};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};
use vault::{Kind, ObjectName};

use super::Silver;
use super::read::{is_erased, object_id};
use super::types::{Batch, Outcome, Seen, SetAside, SetAsideEntry};
use crate::StoreError;
use crate::sql::{Rows, big, unbig};

/// Bound to the domain and the journal position.
pub(super) fn outcome_name(domain: &DomainName, index: u64) -> ObjectName<'_> {
    ObjectName { domain, kind: Kind::Outcome, id: b"outcome", version: index }
}

/// Headers as JSON, a line break, the body.
pub(super) fn pack_outcome(outcome: &Outcome) -> Result<Vec<u8>, StoreError> {
    let mut plain = serde_json::to_vec(&outcome.headers)
        .map_err(|_| StoreError::Invalid("the headers of an outcome cannot be written"))?;
    plain.push(b'\n');
    plain.extend_from_slice(&outcome.body);
    Ok(plain)
}

fn unpack_outcome(status: i64, plain: &[u8]) -> Result<Outcome, StoreError> {
    const BAD: StoreError = StoreError::Corrupt("a stored outcome has an unknown layout");
    let at = plain.iter().position(|b| *b == b'\n').ok_or(BAD)?;
    let headers = serde_json::from_slice(&plain[..at]).map_err(|_| BAD)?;
    Ok(Outcome { status: u16::try_from(status).map_err(|_| BAD)?, headers, body: plain[at + 1..].to_vec() })
}

pub(super) fn source_name(text: &str) -> Result<SourceName, StoreError> {
    SourceName::parse(text).map_err(|_| StoreError::corrupt("a source name in the catalog is not one"))
}

/// Entries of one page of the set-aside list.
const PAGE_MAX: usize = 1_000;

impl Silver {
    pub(super) async fn insert_work(&self, tx: &mut AnyConnection, batch: &Batch) -> Result<(), StoreError> {
        self.insert_seen(tx, batch).await?;
        self.insert_entries(tx, batch).await?;
        let mut held = Rows::new("INSERT INTO held_entry (domain, ordinal, position)", 3, " ON CONFLICT DO NOTHING");
        for (position, holder) in &batch.held {
            held.push([batch.domain.as_str().into(), i64::from(holder.0).into(), big(*position)?.into()]);
        }
        held.insert(tx).await?;
        let mut named = Rows::new("INSERT INTO named_entry (domain, position, ordinal)", 3, " ON CONFLICT DO NOTHING");
        for (position, patient) in &batch.named {
            named.push([batch.domain.as_str().into(), big(*position)?.into(), i64::from(patient.0).into()]);
        }
        named.insert(tx).await?;
        let mut labelled =
            Rows::new("INSERT INTO labelled_entry (domain, position, token)", 3, " ON CONFLICT DO NOTHING");
        for (position, rtype, id) in &batch.labelled {
            let token = self.0.secrets.token(&batch.domain, rtype, id.as_str());
            labelled.push([batch.domain.as_str().into(), big(*position)?.into(), token.to_vec().into()]);
        }
        labelled.insert(tx).await?;
        insert_set_aside(tx, batch).await?;
        self.insert_lists(tx, batch).await?;
        for (index, unit) in &batch.resolved {
            sqlx::query("UPDATE set_aside SET resolved = 1 WHERE domain = $1 AND position = $2 AND unit = $3")
                .bind(batch.domain.as_str())
                .bind(big(*index)?)
                .bind(i64::from(*unit))
                .execute(&mut *tx)
                .await?;
        }
        for (source, name, n) in &batch.counts {
            sqlx::query(
                "INSERT INTO counter (domain, source, name, n) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (domain, source, name) DO UPDATE SET n = counter.n + excluded.n",
            )
            .bind(batch.domain.as_str())
            .bind(source.as_str())
            .bind(*name)
            .bind(big(*n)?)
            .execute(&mut *tx)
            .await?;
        }
        Ok(())
    }

    async fn insert_lists(&self, tx: &mut AnyConnection, batch: &Batch) -> Result<(), StoreError> {
        for (list, at) in &batch.lists {
            sqlx::query(
                "INSERT INTO list_clock (domain, list, at) VALUES ($1, $2, $3) ON CONFLICT (domain, list) DO UPDATE SET \
                 at = excluded.at WHERE excluded.at > list_clock.at",
            )
            .bind(batch.domain.as_str())
            .bind(self.0.secrets.token(&batch.domain, "list", list).to_vec())
            .bind(at.ms())
            .execute(&mut *tx)
            .await?;
        }
        Ok(())
    }

    /// Of when the newest statement of a list is that came so far.
    pub async fn list_clock(&self, domain: &DomainName, list: &str) -> Result<Option<Timestamp>, StoreError> {
        let row = sqlx::query_as::<_, (i64,)>("SELECT at FROM list_clock WHERE domain = $1 AND list = $2")
            .bind(domain.as_str())
            .bind(self.0.secrets.token(domain, "list", list).to_vec())
            .fetch_optional(self.0.catalog.db.readers())
            .await?;
        Ok(row.map(|(at,)| Timestamp(at)))
    }

    async fn insert_seen(&self, tx: &mut AnyConnection, batch: &Batch) -> Result<(), StoreError> {
        let mut rows =
            Rows::new("INSERT INTO seen (domain, source, key, position, hash, at)", 6, " ON CONFLICT DO NOTHING");
        for seen in &batch.seen {
            let hash = base::hex::decode(&seen.content_hash)
                .filter(|hash| hash.len() == 32)
                .ok_or(StoreError::Invalid("a content hash is not a SHA-256 in hexadecimal"))?;
            rows.push([
                batch.domain.as_str().into(),
                seen.source.as_str().into(),
                seen.key.as_str().into(),
                big(seen.index)?.into(),
                self.0.secrets.pad_hash(&batch.domain, seen.index, &hash).into(),
                seen.at.ms().into(),
            ]);
        }
        rows.insert(tx).await.map(drop)
    }

    /// The answer that refine gave to a journal entry; `None` when it had none, or it is no longer kept.
    pub async fn outcome(&self, domain: &DomainName, index: u64) -> Result<Option<Outcome>, StoreError> {
        let row = sqlx::query("SELECT status, object, body FROM outcome WHERE domain = $1 AND position = $2")
            .bind(domain.as_str())
            .bind(big(index)?)
            .fetch_optional(self.0.catalog.db.readers())
            .await?;
        let Some(row) = row else { return Ok(None) };
        let (status, object, body): (i64, Vec<u8>, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        match self.0.vault.open_object(object_id(object)?, outcome_name(domain, index), &body).await {
            Ok(plain) => Ok(Some(unpack_outcome(status, &plain)?)),
            Err(error) if is_erased(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What stands for a control or idempotency key in the catalog: keyed, since a key may hold anything.
    pub fn seen_key(&self, key: &str) -> String {
        self.0.secrets.seen_key(key)
    }

    /// Keys seen at or after a time, oldest first; of more than `max`, the newest.
    pub async fn seen_since(&self, domain: &DomainName, since: Timestamp, max: usize) -> Result<Vec<Seen>, StoreError> {
        let rows = sqlx::query(
            "SELECT source, key, position, hash, at FROM seen WHERE domain = $1 AND at >= $2 ORDER BY at DESC LIMIT $3",
        )
        .bind(domain.as_str())
        .bind(since.ms())
        .bind(i64::try_from(max).unwrap_or(i64::MAX))
        .fetch_all(self.0.catalog.db.readers())
        .await?;
        rows.iter().rev().map(|row| self.seen_row(domain, row)).collect()
    }

    /// What came under this key at or after a time, newest first; of very much the newest.
    pub async fn seen(
        &self,
        domain: &DomainName,
        source: &SourceName,
        key: &str,
        since: Timestamp,
    ) -> Result<Vec<Seen>, StoreError> {
        let rows = sqlx::query(
            "SELECT source, key, position, hash, at FROM seen WHERE domain = $1 AND source = $2 AND key = $3 AND \
             at >= $4 ORDER BY position DESC LIMIT 1000",
        )
        .bind(domain.as_str())
        .bind(source.as_str())
        .bind(key)
        .bind(since.ms())
        .fetch_all(self.0.catalog.db.readers())
        .await?;
        rows.iter().map(|row| self.seen_row(domain, row)).collect()
    }

    fn seen_row(&self, domain: &DomainName, row: &AnyRow) -> Result<Seen, StoreError> {
        let index = unbig(row.try_get(2)?);
        let padded: Vec<u8> = row.try_get(3)?;
        Ok(Seen {
            source: source_name(row.try_get(0)?)?,
            key: row.try_get(1)?,
            content_hash: base::hex::encode(&self.0.secrets.pad_hash(domain, index, &padded)),
            index,
            at: Timestamp(row.try_get(4)?),
        })
    }

    /// Units of a journal entry that are set aside and not resolved.
    pub async fn open_set_aside(&self, domain: &DomainName, index: u64) -> Result<Vec<u32>, StoreError> {
        let rows = sqlx::query_as::<_, (i64,)>(
            "SELECT unit FROM set_aside WHERE domain = $1 AND position = $2 AND resolved = 0 ORDER BY unit",
        )
        .bind(domain.as_str())
        .bind(big(index)?)
        .fetch_all(self.0.catalog.db.readers())
        .await?;
        Ok(rows.into_iter().filter_map(|row| u32::try_from(row.0).ok()).collect())
    }

    /// What is set aside in a domain, in the order of the journal, after a unit (none: from the start). Holds no PHI.
    pub async fn set_aside(
        &self,
        domain: &DomainName,
        after: Option<(u64, u32)>,
        resolved_too: bool,
        max: usize,
    ) -> Result<Vec<SetAsideEntry>, StoreError> {
        let (index, unit) = after.map_or((-1, -1), |(index, unit)| (big(index).unwrap_or(i64::MAX), i64::from(unit)));
        let rows = sqlx::query(
            "SELECT position, unit, source, place, code, reason, critical, at, resolved FROM set_aside WHERE \
             domain = $1 AND (position > $2 OR (position = $2 AND unit > $3)) AND resolved <= $4 \
             ORDER BY position, unit LIMIT $5",
        )
        .bind(domain.as_str())
        .bind(index)
        .bind(unit)
        .bind(i64::from(resolved_too))
        .bind(max.clamp(1, PAGE_MAX) as i64)
        .fetch_all(self.0.catalog.db.readers())
        .await?;
        rows.iter().map(set_aside_row).collect()
    }

    /// The units of one journal entry that were set aside, resolved ones too.
    pub async fn set_aside_of(&self, domain: &DomainName, index: u64) -> Result<Vec<SetAsideEntry>, StoreError> {
        let rows = sqlx::query(
            "SELECT position, unit, source, place, code, reason, critical, at, resolved FROM set_aside WHERE \
             domain = $1 AND position = $2 ORDER BY unit LIMIT 1000",
        )
        .bind(domain.as_str())
        .bind(big(index)?)
        .fetch_all(self.0.catalog.db.readers())
        .await?;
        rows.iter().map(set_aside_row).collect()
    }

    /// How many units are set aside and not resolved, by reason code.
    pub async fn set_aside_counts(&self, domain: &DomainName) -> Result<Vec<(String, u64)>, StoreError> {
        let rows = sqlx::query_as::<_, (String, i64)>(
            "SELECT code, COUNT(*) FROM set_aside WHERE domain = $1 AND resolved = 0 GROUP BY code ORDER BY code",
        )
        .bind(domain.as_str())
        .fetch_all(self.0.catalog.db.readers())
        .await?;
        Ok(rows.into_iter().map(|(code, n)| (code, unbig(n))).collect())
    }

    /// The counters of a domain: (source, counter, n).
    pub async fn counts(&self, domain: &DomainName) -> Result<Vec<(SourceName, String, u64)>, StoreError> {
        let rows = sqlx::query_as::<_, (String, String, i64)>(
            "SELECT source, name, n FROM counter WHERE domain = $1 ORDER BY source, name",
        )
        .bind(domain.as_str())
        .fetch_all(self.0.catalog.db.readers())
        .await?;
        rows.into_iter().map(|(source, name, n)| Ok((source_name(&source)?, name, unbig(n)))).collect()
    }

    /// How many resources of each type stand, deleted ones not counted. Says nothing about anyone.
    pub async fn resource_counts(&self, domain: &DomainName) -> Result<Vec<(String, u64)>, StoreError> {
        self.domain(domain)?.index.counts().await
    }

    /// Forgets outcomes and seen keys from before a time. At most 10,000 of each per call; true while there may be more.
    pub async fn prune(&self, domain: &DomainName, before: Timestamp) -> Result<bool, StoreError> {
        let mut turn = self.0.catalog.db.write().await?;
        let mut more = false;
        for statement in [
            "DELETE FROM outcome WHERE domain = $1 AND position IN (SELECT position FROM outcome WHERE domain = $1 AND \
             at < $2 ORDER BY position LIMIT 10000)",
            "DELETE FROM seen WHERE domain = $1 AND position IN (SELECT position FROM seen WHERE domain = $1 AND \
             at < $2 ORDER BY at LIMIT 10000)",
        ] {
            let gone = sqlx::query(statement).bind(domain.as_str()).bind(before.ms()).execute(&mut *turn.tx).await?;
            more |= gone.rows_affected() >= 10_000;
        }
        turn.commit().await?;
        Ok(more)
    }
}

fn set_aside_row(row: &AnyRow) -> Result<SetAsideEntry, StoreError> {
    Ok(SetAsideEntry {
        unit: SetAside {
            index: unbig(row.try_get(0)?),
            unit: u32::try_from(row.try_get::<i64, _>(1)?).unwrap_or(u32::MAX),
            source: source_name(row.try_get(2)?)?,
            place: row.try_get(3)?,
            code: row.try_get(4)?,
            reason: row.try_get(5)?,
            critical: row.try_get::<i64, _>(6)? != 0,
            at: Timestamp(row.try_get(7)?),
        },
        resolved: row.try_get::<i64, _>(8)? != 0,
    })
}

async fn insert_set_aside(tx: &mut AnyConnection, batch: &Batch) -> Result<(), StoreError> {
    // The last word of a batch on a unit stands: one statement must not touch a row twice.
    let mut last = std::collections::BTreeMap::new();
    for aside in &batch.set_aside {
        last.insert((aside.index, aside.unit), aside);
    }
    let mut rows = Rows::new(
        "INSERT INTO set_aside (domain, position, unit, source, place, code, reason, critical, at, resolved)",
        10,
        " ON CONFLICT (domain, position, unit) DO UPDATE SET place = excluded.place, code = excluded.code, \
         reason = excluded.reason, critical = excluded.critical, at = excluded.at, resolved = 0",
    );
    for aside in last.into_values() {
        rows.push([
            batch.domain.as_str().into(),
            big(aside.index)?.into(),
            i64::from(aside.unit).into(),
            aside.source.as_str().into(),
            aside.place.as_str().into(),
            aside.code.as_str().into(),
            aside.reason.as_str().into(),
            i64::from(aside.critical).into(),
            aside.at.ms().into(),
            0.into(),
        ]);
    }
    rows.insert(tx).await.map(drop)
}
