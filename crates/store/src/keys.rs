//! The vault's tables in SQL: slots, scopes, named secrets, in a database of their own that is backed up apart.
//!
//! Sees wrapped keys alone; what they mean is `vault`'s matter, whose contract this keeps.

use std::collections::HashMap;

use async_trait::async_trait;
use base::{DomainName, Timestamp};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AssertSqlSafe, Row as _};
use vault::{
    Epoch, Holder, KeyTable, ObjectId, RetentionClass, Scope, ScopeChange, ScopeId, ScopeQuery, ScopeRow, Slot,
    VaultError,
};

use crate::StoreError;
use crate::sql::{Database, Migration, Rows, in_chunks, placeholders};

/// Slots, scopes and secrets in a database of their own: `sqlite:.../keys.db` or `postgres://...`.
#[derive(Clone)]
pub struct SqlKeyTable {
    db: Database,
}

impl SqlKeyTable {
    pub async fn open(url: &str) -> Result<SqlKeyTable, StoreError> {
        Ok(SqlKeyTable { db: Database::open(url, MIGRATIONS).await? })
    }

    pub async fn close(&self) {
        self.db.close().await;
    }
}

const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    statements: &[
        "CREATE TABLE slot (object {blob} NOT NULL PRIMARY KEY, scope {blob} NOT NULL, wrapped {blob} NOT NULL) \
         {rowless}",
        "CREATE INDEX slot_scope ON slot (scope)",
        "CREATE TABLE scope (id {blob} NOT NULL PRIMARY KEY, domain TEXT NOT NULL, holder BIGINT NOT NULL,
            number BIGINT NOT NULL, retention TEXT NOT NULL, year BIGINT NOT NULL, generation BIGINT NOT NULL,
            epoch BIGINT NOT NULL, wrapped {blob} NOT NULL, uses BIGINT NOT NULL, created BIGINT NOT NULL,
            destroyed BIGINT NOT NULL)",
        "CREATE UNIQUE INDEX scope_what ON scope (domain, holder, number, retention, year, generation)",
        "CREATE INDEX scope_epoch ON scope (epoch, id)",
        "CREATE TABLE secret (name TEXT NOT NULL PRIMARY KEY, value {blob} NOT NULL)",
    ],
}];

macro_rules! scope_columns {
    () => {
        "id, domain, holder, number, retention, year, generation, epoch, wrapped, uses, created, destroyed"
    };
}

fn outage(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> VaultError {
    VaultError::outage("the key table", error)
}

/// What the database gives is not what was put there.
const DAMAGED: VaultError = VaultError::Tampered;

fn array<const N: usize>(bytes: Vec<u8>) -> Result<[u8; N], VaultError> {
    bytes.try_into().map_err(|_| DAMAGED)
}

fn column<'r, T: sqlx::Decode<'r, sqlx::Any> + sqlx::Type<sqlx::Any>>(
    row: &'r AnyRow,
    n: usize,
) -> Result<T, VaultError> {
    row.try_get(n).map_err(outage)
}

/// Numbers of 64 bits keep their bits in a signed column; only equality is asked of them.
fn bits(value: u64) -> i64 {
    value.cast_signed()
}

fn number<T: TryFrom<i64>>(row: &AnyRow, n: usize) -> Result<T, VaultError> {
    T::try_from(column::<i64>(row, n)?).map_err(|_| DAMAGED)
}

fn scope_row(row: &AnyRow) -> Result<ScopeRow, VaultError> {
    let domain = DomainName::parse(&column::<String>(row, 1)?).map_err(|_| DAMAGED)?;
    let holder = Holder::from_parts(number(row, 2)?, column::<i64>(row, 3)?.cast_unsigned()).ok_or(DAMAGED)?;
    let retention = RetentionClass::parse(&column::<String>(row, 4)?).map_err(|_| DAMAGED)?;
    Ok(ScopeRow {
        id: ScopeId(array(column(row, 0)?)?),
        scope: Scope { domain, holder, retention, year: number(row, 5)? },
        generation: number(row, 6)?,
        epoch: epoch_from(column(row, 7)?),
        wrapped: column(row, 8)?,
        uses: column::<i64>(row, 9)?.cast_unsigned(),
        created: Timestamp(column(row, 10)?),
        destroyed: column::<i64>(row, 11)? != 0,
    })
}

fn slot_row(row: &AnyRow) -> Result<Slot, VaultError> {
    Ok(Slot {
        object: ObjectId(array(column(row, 0)?)?),
        scope: ScopeId(array(column(row, 1)?)?),
        wrapped: array(column(row, 2)?)?,
    })
}

#[async_trait]
impl KeyTable for SqlKeyTable {
    async fn get_slots(&self, objects: &[ObjectId]) -> Result<Vec<Option<Slot>>, VaultError> {
        let mut found: HashMap<ObjectId, Slot> = HashMap::with_capacity(objects.len());
        for chunk in in_chunks(objects) {
            let text =
                format!("SELECT object, scope, wrapped FROM slot WHERE object IN {}", placeholders(0, chunk.len()));
            let mut query = sqlx::query(AssertSqlSafe(text));
            for object in chunk {
                query = query.bind(object.0.to_vec());
            }
            for row in query.fetch_all(self.db.readers()).await.map_err(outage)? {
                let slot = slot_row(&row)?;
                found.insert(slot.object, slot);
            }
        }
        Ok(objects.iter().map(|object| found.get(object).copied()).collect())
    }

    async fn put_slots(&self, slots: &[Slot]) -> Result<(), VaultError> {
        if slots.is_empty() {
            return Ok(());
        }
        // The last slot of an object stands: one statement must not touch a row twice.
        let last: HashMap<ObjectId, &Slot> = slots.iter().map(|slot| (slot.object, slot)).collect();
        let mut rows = Rows::new(
            "INSERT INTO slot (object, scope, wrapped)",
            3,
            " ON CONFLICT (object) DO UPDATE SET scope = excluded.scope, wrapped = excluded.wrapped",
        );
        for slot in last.into_values() {
            rows.push([slot.object.0.to_vec().into(), slot.scope.0.to_vec().into(), slot.wrapped.to_vec().into()]);
        }
        let mut turn = self.db.write().await.map_err(outage)?;
        rows.insert(&mut turn.tx).await.map_err(outage)?;
        turn.commit().await.map_err(outage)
    }

    async fn delete_slots(&self, objects: &[ObjectId]) -> Result<(), VaultError> {
        let mut turn = self.db.write().await.map_err(outage)?;
        for chunk in in_chunks(objects) {
            let text = format!("DELETE FROM slot WHERE object IN {}", placeholders(0, chunk.len()));
            let mut query = sqlx::query(AssertSqlSafe(text));
            for object in chunk {
                query = query.bind(object.0.to_vec());
            }
            query.execute(&mut *turn.tx).await.map_err(outage)?;
        }
        turn.commit().await.map_err(outage)?;
        self.db.scrub().await.map_err(outage)
    }

    async fn find_scopes(
        &self,
        query: &ScopeQuery,
        after: Option<ScopeId>,
        max: usize,
    ) -> Result<Vec<ScopeRow>, VaultError> {
        // `after` bound by an empty blob lies before every id.
        let after = after.map_or_else(Vec::new, |after| after.0.to_vec());
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        macro_rules! find {
            ($condition:literal $(, $value:expr)*) => {
                sqlx::query(concat!(
                    "SELECT ", scope_columns!(), " FROM scope WHERE id > $1 AND ", $condition, " ORDER BY id LIMIT $2"
                ))
                .bind(after)
                .bind(max)
                $(.bind($value))*
            };
        }
        let rows = match query {
            ScopeQuery::Id(id) => find!("id = $3", id.0.to_vec()),
            ScopeQuery::Scope(scope) => {
                let (holder, number) = scope.holder.to_parts();
                find!(
                    "domain = $3 AND holder = $4 AND number = $5 AND retention = $6 AND year = $7",
                    scope.domain.as_str(),
                    i64::from(holder),
                    bits(number),
                    scope.retention.as_str(),
                    i64::from(scope.year)
                )
            }
            ScopeQuery::Holder(domain, holder) => {
                let (holder, number) = holder.to_parts();
                find!("domain = $3 AND holder = $4 AND number = $5", domain.as_str(), i64::from(holder), bits(number))
            }
            ScopeQuery::LivingUnassigned(domain) => {
                let (holder, _) = Holder::Unassigned(0).to_parts();
                find!("domain = $3 AND holder = $4 AND destroyed = 0", domain.as_str(), i64::from(holder))
            }
            ScopeQuery::Epoch(epoch) => find!("epoch = $3 AND destroyed = 0", epoch_to(*epoch)),
        };
        rows.fetch_all(self.db.readers()).await.map_err(outage)?.iter().map(scope_row).collect()
    }

    async fn insert_scope(&self, row: &ScopeRow) -> Result<ScopeRow, VaultError> {
        let mut turn = self.db.write().await.map_err(outage)?;
        let stands = match standing(&mut turn.tx, row).await? {
            Some(stands) => stands,
            None => {
                insert_scope(&mut turn.tx, row).await?;
                row.clone()
            }
        };
        turn.commit().await.map_err(outage)?;
        Ok(stands)
    }

    async fn change_scopes(&self, changes: &[ScopeChange]) -> Result<(), VaultError> {
        let mut turn = self.db.write().await.map_err(outage)?;
        for change in changes {
            let query = match change {
                ScopeChange::Rewrap { id, from, epoch, wrapped } => sqlx::query(
                    "UPDATE scope SET epoch = $3, wrapped = $4 WHERE id = $1 AND epoch = $2 AND destroyed = 0",
                )
                .bind(id.0.to_vec())
                .bind(epoch_to(*from))
                .bind(epoch_to(*epoch))
                .bind(wrapped.clone()),
                ScopeChange::Use { id, add } => {
                    sqlx::query("UPDATE scope SET uses = uses + $2 WHERE id = $1 AND destroyed = 0")
                        .bind(id.0.to_vec())
                        .bind(i64::try_from(*add).unwrap_or(i64::MAX >> 1))
                }
            };
            query.execute(&mut *turn.tx).await.map_err(outage)?;
        }
        turn.commit().await.map_err(outage)
    }

    async fn destroy_scope(&self, id: ScopeId) -> Result<(), VaultError> {
        let mut turn = self.db.write().await.map_err(outage)?;
        sqlx::query("UPDATE scope SET destroyed = 1, wrapped = $2 WHERE id = $1")
            .bind(id.0.to_vec())
            .bind(Vec::<u8>::new())
            .execute(&mut *turn.tx)
            .await
            .map_err(outage)?;
        sqlx::query("DELETE FROM slot WHERE scope = $1")
            .bind(id.0.to_vec())
            .execute(&mut *turn.tx)
            .await
            .map_err(outage)?;
        turn.commit().await.map_err(outage)?;
        self.db.scrub().await.map_err(outage)
    }

    async fn secret(&self, name: &str, first: Option<&[u8]>) -> Result<Option<Vec<u8>>, VaultError> {
        const SELECT: &str = "SELECT value FROM secret WHERE name = $1";
        let Some(first) = first else {
            let row = sqlx::query(SELECT).bind(name).fetch_optional(self.db.readers()).await.map_err(outage)?;
            return row.map(|row| column(&row, 0)).transpose();
        };
        let mut turn = self.db.write().await.map_err(outage)?;
        sqlx::query("INSERT INTO secret (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
            .bind(name)
            .bind(first.to_vec())
            .execute(&mut *turn.tx)
            .await
            .map_err(outage)?;
        let row = sqlx::query(SELECT).bind(name).fetch_one(&mut *turn.tx).await.map_err(outage)?;
        let stands = column(&row, 0)?;
        turn.commit().await.map_err(outage)?;
        Ok(Some(stands))
    }
}

async fn standing(tx: &mut AnyConnection, row: &ScopeRow) -> Result<Option<ScopeRow>, VaultError> {
    let (holder, number) = row.scope.holder.to_parts();
    let found = sqlx::query(concat!(
        "SELECT ",
        scope_columns!(),
        " FROM scope WHERE domain = $1 AND holder = $2 AND number = $3 AND retention = $4 AND year = $5 AND \
         generation = $6"
    ))
    .bind(row.scope.domain.as_str())
    .bind(i64::from(holder))
    .bind(bits(number))
    .bind(row.scope.retention.as_str())
    .bind(i64::from(row.scope.year))
    .bind(i64::from(row.generation))
    .fetch_optional(&mut *tx)
    .await
    .map_err(outage)?;
    if let Some(found) = found {
        return Ok(Some(scope_row(&found)?));
    }
    let taken = sqlx::query("SELECT 1 FROM scope WHERE id = $1")
        .bind(row.id.0.to_vec())
        .fetch_optional(&mut *tx)
        .await
        .map_err(outage)?;
    if taken.is_some() {
        return Err(VaultError::Invalid("the scope id is taken"));
    }
    Ok(None)
}

async fn insert_scope(tx: &mut AnyConnection, row: &ScopeRow) -> Result<(), VaultError> {
    let (holder, number) = row.scope.holder.to_parts();
    sqlx::query(concat!(
        "INSERT INTO scope (",
        scope_columns!(),
        ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
    ))
    .bind(row.id.0.to_vec())
    .bind(row.scope.domain.as_str())
    .bind(i64::from(holder))
    .bind(bits(number))
    .bind(row.scope.retention.as_str())
    .bind(i64::from(row.scope.year))
    .bind(i64::from(row.generation))
    .bind(epoch_to(row.epoch))
    .bind(row.wrapped.clone())
    .bind(bits(row.uses))
    .bind(row.created.ms())
    .bind(i64::from(row.destroyed))
    .execute(&mut *tx)
    .await
    .map_err(outage)?;
    Ok(())
}

fn epoch_to(epoch: Epoch) -> i64 {
    bits(epoch.0)
}

fn epoch_from(value: i64) -> Epoch {
    Epoch(value.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_key_table_in_sqlite_keeps_the_vaults_contract() {
        let folder = tempfile::tempdir().unwrap();
        let table = SqlKeyTable::open(&format!("sqlite:{}", folder.path().join("keys.db").display())).await.unwrap();
        vault::contract::key_table(&table).await;
    }
}
