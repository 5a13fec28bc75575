//! What a route has done: its position in a journal, and the entries that it could not deliver.

use base::{DomainName, LogName, Ordinal, Sensitivity, SourceName, Timestamp};
use sqlx::Row as _;

use crate::sql::{big, unbig};
use crate::{Catalog, StoreError};

/// An entry that the receiver refused, or that could not be made ready for it. `reason` holds no PHI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub position: u64,
    pub at: Timestamp,
    pub code: String,
    pub reason: String,
    pub resolved: bool,
}

/// What stands for policies withheld: no fault, and a person may let it be sent when they allow it.
pub const REFUSED: &str = "refused";

/// Whom something is about, by labels; no content.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct About {
    pub patients: Vec<Ordinal>,
    pub sensitivity: Sensitivity,
    /// Resource types.
    pub kinds: Vec<String>,
}

/// The book of one route.
#[derive(Clone)]
pub struct RouteBook {
    catalog: Catalog,
    domain: DomainName,
    /// As the consumer table knows it.
    consumer: String,
    log: LogName,
}

const PAGE_MAX: usize = 1_000;

impl RouteBook {
    pub fn new(catalog: Catalog, domain: DomainName, route: &SourceName, log: LogName) -> Self {
        RouteBook { catalog, domain, consumer: format!("route/{route}"), log }
    }

    /// The first entry that was neither delivered nor passed over; `None` for a route that never began here.
    pub async fn position(&self) -> Result<Option<u64>, StoreError> {
        let row =
            sqlx::query_as::<_, (i64,)>("SELECT position FROM consumer WHERE domain = $1 AND name = $2 AND log = $3")
                .bind(self.domain.as_str())
                .bind(self.consumer.as_str())
                .bind(self.log.as_str())
                .fetch_optional(self.catalog.db.readers())
                .await?;
        Ok(row.map(|(position,)| unbig(position)))
    }

    /// Where the route begins, or goes on because a person says so.
    pub async fn begin(&self, at: u64) -> Result<(), StoreError> {
        let mut turn = self.catalog.db.write().await?;
        sqlx::query(
            "INSERT INTO consumer (domain, name, log, position) VALUES ($1, $2, $3, $4) ON CONFLICT (domain, name, log) \
             DO UPDATE SET position = excluded.position",
        )
        .bind(self.domain.as_str())
        .bind(self.consumer.as_str())
        .bind(self.log.as_str())
        .bind(big(at)?)
        .execute(&mut *turn.tx)
        .await?;
        turn.commit().await
    }

    /// Moves on from exactly `from`, in one transaction with what could not be delivered.
    /// The entry before `upto` is marked as forwarded where it was `delivered`.
    pub async fn advance(&self, from: u64, upto: u64, dead: &[DeadLetter], delivered: bool) -> Result<(), StoreError> {
        let mut turn = self.catalog.db.write().await?;
        if let Some(position) = upto.checked_sub(1).filter(|_| delivered) {
            self.mark(&mut turn, position).await?;
        }
        for letter in dead {
            sqlx::query(
                "INSERT INTO dead_letter (domain, route, position, at, code, reason, resolved) VALUES \
                 ($1, $2, $3, $4, $5, $6, 0) ON CONFLICT DO NOTHING",
            )
            .bind(self.domain.as_str())
            .bind(self.consumer.as_str())
            .bind(big(letter.position)?)
            .bind(letter.at.0)
            .bind(letter.code.as_str())
            .bind(letter.reason.as_str())
            .execute(&mut *turn.tx)
            .await?;
        }
        let moved = sqlx::query(
            "UPDATE consumer SET position = $4 WHERE domain = $1 AND name = $2 AND log = $3 AND position = $5",
        )
        .bind(self.domain.as_str())
        .bind(self.consumer.as_str())
        .bind(self.log.as_str())
        .bind(big(upto)?)
        .bind(big(from)?)
        .execute(&mut *turn.tx)
        .await?;
        if moved.rows_affected() != 1 {
            return Err(StoreError::Invalid("the route stands elsewhere: somebody else moved it"));
        }
        turn.commit().await
    }

    /// A change of silver is no entry of the journal.
    async fn mark(&self, turn: &mut crate::sql::WriteTurn, position: u64) -> Result<(), StoreError> {
        if !self.log.as_str().starts_with("journal-") {
            return Ok(());
        }
        sqlx::query("UPDATE journal_entry SET forwarded = forwarded + 1 WHERE domain = $1 AND position = $2")
            .bind(self.domain.as_str())
            .bind(big(position)?)
            .execute(&mut *turn.tx)
            .await?;
        Ok(())
    }

    /// Oldest first, after a position.
    pub async fn dead_letters(
        &self,
        after: Option<u64>,
        resolved_too: bool,
        max: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let rows = sqlx::query(
            "SELECT position, at, code, reason, resolved FROM dead_letter WHERE domain = $1 AND route = $2 AND \
             position > $3 AND resolved <= $4 ORDER BY position LIMIT $5",
        )
        .bind(self.domain.as_str())
        .bind(self.consumer.as_str())
        .bind(after.map_or(Ok(-1), big)?)
        .bind(i64::from(resolved_too))
        .bind(max.clamp(1, PAGE_MAX) as i64)
        .fetch_all(self.catalog.db.readers())
        .await?;
        let letter = |row: &sqlx::any::AnyRow| -> Result<DeadLetter, StoreError> {
            Ok(DeadLetter {
                position: unbig(row.try_get(0)?),
                at: Timestamp(row.try_get(1)?),
                code: row.try_get(2)?,
                reason: row.try_get(3)?,
                resolved: row.try_get::<i64, _>(4)? != 0,
            })
        };
        rows.iter().map(letter).collect()
    }

    /// How many are not resolved: those that could not be delivered, and those that were refused.
    pub async fn open_letters(&self) -> Result<(u64, u64), StoreError> {
        let row = sqlx::query_as::<_, (i64, i64)>(
            "SELECT COUNT(*), COUNT(CASE WHEN code = $3 THEN 1 END) FROM dead_letter WHERE domain = $1 AND route = $2 \
             AND resolved = 0",
        )
        .bind(self.domain.as_str())
        .bind(self.consumer.as_str())
        .bind(REFUSED)
        .fetch_one(self.catalog.db.readers())
        .await?;
        Ok((unbig(row.0 - row.1), unbig(row.1)))
    }

    /// Delivered after all; false when there is no such open letter.
    pub async fn resolve(&self, position: u64) -> Result<bool, StoreError> {
        let mut turn = self.catalog.db.write().await?;
        let done = sqlx::query(
            "UPDATE dead_letter SET resolved = 1 WHERE domain = $1 AND route = $2 AND position = $3 AND resolved = 0",
        )
        .bind(self.domain.as_str())
        .bind(self.consumer.as_str())
        .bind(big(position)?)
        .execute(&mut *turn.tx)
        .await?;
        if done.rows_affected() == 1 {
            self.mark(&mut turn, position).await?;
        }
        turn.commit().await?;
        Ok(done.rows_affected() == 1)
    }

    /// Whom a refined entry is about, and how what it tells and names is labelled now.
    pub async fn about(&self, position: u64) -> Result<About, StoreError> {
        let rows = sqlx::query_as::<_, (String, i64, i64)>(
            "SELECT v.rtype, v.ordinal, 0 FROM resource_version v WHERE v.domain = $1 AND v.change IN (SELECT change FROM \
             lineage WHERE domain = $1 AND position = $2) \
             UNION SELECT n.rtype, n.ordinal, n.sensitivity FROM resource_version n WHERE n.domain = $1 AND n.token IN \
             (SELECT token FROM resource_version WHERE domain = $1 AND change IN (SELECT change FROM lineage WHERE \
             domain = $1 AND position = $2)) AND NOT EXISTS (SELECT 1 FROM resource_version w WHERE w.domain = $1 AND \
             w.token = n.token AND w.version = n.version + 1) \
             UNION SELECT '', n.ordinal, n.sensitivity FROM resource_version n WHERE n.domain = $1 AND n.token IN \
             (SELECT token FROM labelled_entry WHERE domain = $1 AND position = $2) AND NOT EXISTS (SELECT 1 FROM \
             resource_version w WHERE w.domain = $1 AND w.token = n.token AND w.version = n.version + 1) \
             UNION SELECT '', ordinal, 0 FROM named_entry WHERE domain = $1 AND position = $2 \
             UNION SELECT '', ordinal, 0 FROM held_entry WHERE domain = $1 AND position = $2",
        )
        .bind(self.domain.as_str())
        .bind(big(position)?)
        .fetch_all(self.catalog.db.readers())
        .await?;
        let mut about = About::default();
        for (rtype, ordinal, sensitivity) in rows {
            if let Some(patient) = u32::try_from(ordinal).ok().map(Ordinal).filter(|ordinal| ordinal.is_patient()) {
                about.patients.push(patient);
            }
            about.sensitivity = about.sensitivity.with(Sensitivity(u16::try_from(sensitivity).unwrap_or(u16::MAX)));
            if !rtype.is_empty() {
                about.kinds.push(rtype);
            }
        }
        about.patients.sort_unstable();
        about.patients.dedup();
        about.kinds.sort_unstable();
        about.kinds.dedup();
        Ok(about)
    }
}
