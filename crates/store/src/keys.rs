//! The vault's tables in SQL: slots, scopes, named secrets, in a database of their own that is backed up apart.
//!
//! Sees wrapped keys alone; what they mean is `vault`'s matter, whose contract this keeps.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use base::{DomainName, Timestamp};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AssertSqlSafe, Row as _};
use vault::{
    Epoch, Holder, KeyTable, ObjectId, RetentionClass, Scope, ScopeChange, ScopeId, ScopePage, ScopeQuery, ScopeRow,
    ScopeState, SecretTable, Slot, VaultError, slots_refused,
};

use crate::StoreError;
use crate::sql::{Cell, Database, Migration, Rows, in_chunks, placeholders, values};

macro_rules! scope_columns {
    () => {
        "id, domain, holder, number, retention, year, generation, epoch, wrapped, uses, created, destroyed"
    };
}

fn outage(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> VaultError {
    VaultError::outage("the key table", error)
}

/// Slots, scopes and secrets in a database of their own: `sqlite:.../keys.db` or `postgres://...`.
#[derive(Clone)]
pub struct SqlKeyTable {
    db: Database,
}

impl SqlKeyTable {
    pub async fn open(url: &str) -> Result<SqlKeyTable, StoreError> {
        Ok(SqlKeyTable { db: Database::open(url, MIGRATIONS).await? })
    }

    #[cfg(test)]
    pub async fn open_alone(url: &str) -> Result<SqlKeyTable, StoreError> {
        Ok(SqlKeyTable { db: Database::open_alone(url, MIGRATIONS).await? })
    }

    pub async fn close(&self) {
        self.db.close().await;
    }
}

/// What a query asks of the rows of scopes, its values from `$3` on.
struct Condition {
    text: &'static str,
    values: Vec<Cell>,
}

impl Condition {
    fn of(query: &ScopeQuery) -> Condition {
        let of_holder = |domain: &DomainName, holder: Holder| {
            let (holder, number) = holder.to_parts();
            vec![domain.as_str().into(), i64::from(holder).into(), bits(number).into()]
        };
        let (text, values) = match query {
            ScopeQuery::Id(id) => ("id = $3", vec![id.0.to_vec().into()]),
            ScopeQuery::Scope(scope) => {
                let mut values = of_holder(&scope.domain, scope.holder);
                values.extend([scope.retention.as_str().into(), i64::from(scope.year).into()]);
                ("domain = $3 AND holder = $4 AND number = $5 AND retention = $6 AND year = $7", values)
            }
            ScopeQuery::Holder(domain, holder) => {
                ("domain = $3 AND holder = $4 AND number = $5", of_holder(domain, *holder))
            }
            ScopeQuery::LivingUnassigned(domain) => {
                let (holder, _) = Holder::Unassigned(0).to_parts();
                let values = vec![domain.as_str().into(), i64::from(holder).into()];
                ("domain = $3 AND holder = $4 AND destroyed <> 1", values)
            }
            ScopeQuery::Epoch(epoch) => ("epoch = $3 AND destroyed <> 1", vec![epoch_to(*epoch).into()]),
        };
        Condition { text, values }
    }
}

impl SqlKeyTable {
    async fn fetch_scopes(
        &self,
        columns: &'static str,
        condition: &Condition,
        after: &[u8],
        max: usize,
    ) -> sqlx::Result<Vec<AnyRow>> {
        // `after` bound by an empty blob lies before every id.
        let text = format!("SELECT {columns} FROM scope WHERE id > $1 AND {} ORDER BY id LIMIT $2", condition.text);
        let limit = i64::try_from(max).unwrap_or(i64::MAX);
        let mut query = sqlx::query(AssertSqlSafe(text)).bind(after.to_vec()).bind(limit);
        for value in &condition.values {
            query = match value {
                Cell::Int(value) => query.bind(*value),
                Cell::Text(value) => query.bind(value.clone()),
                Cell::Bytes(value) => query.bind(value.clone()),
            };
        }
        query.fetch_all(self.db.readers()).await
    }

    async fn find_scopes_singly(
        &self,
        condition: &Condition,
        after: &[u8],
        max: usize,
    ) -> Result<ScopePage, VaultError> {
        let ids = self.fetch_scopes("id", condition, after, max).await.map_err(outage)?;
        let mut page = ScopePage::default();
        for row in &ids {
            let id: Vec<u8> = column(row, 0)?;
            let one = Condition { text: "id = $3", values: vec![id.clone().into()] };
            match self.fetch_scopes(scope_columns!(), &one, &[], 1).await {
                Ok(rows) => {
                    let found = scope_page(&rows, usize::MAX)?;
                    page.rows.extend(found.rows);
                    page.damaged.extend(found.damaged);
                }
                Err(error) if is_undecodable(&error) => page.damaged.push(damaged_id(id)?),
                Err(error) => return Err(outage(error)),
            }
        }
        if let Some(last) = ids.last().filter(|_| ids.len() >= max) {
            page.next = Some(column(last, 0)?);
        }
        Ok(page)
    }
}

fn is_undecodable(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. })
}

/// An id of another length names no key; what is left of it is told all the same.
fn damaged_id(mut id: Vec<u8>) -> Result<ScopeId, VaultError> {
    id.resize(16, 0);
    Ok(ScopeId(array(id)?))
}

const MIGRATIONS: &[Migration] =
    &[Migration { version: 1, statements: FIRST }, Migration { version: 2, statements: SCOPES_BY_ID }];

const FIRST: &[&str] = &[
    "CREATE TABLE slot (object {blob} NOT NULL PRIMARY KEY, scope {blob} NOT NULL, wrapped {blob} NOT NULL) \
     {rowless}",
    "CREATE INDEX slot_scope ON slot (scope)",
    // `destroyed` is the code of the scope's state.
    "CREATE TABLE scope (id {blob} NOT NULL PRIMARY KEY, domain TEXT NOT NULL, holder BIGINT NOT NULL,
        number BIGINT NOT NULL, retention TEXT NOT NULL, year BIGINT NOT NULL, generation BIGINT NOT NULL,
        epoch BIGINT NOT NULL, wrapped {blob} NOT NULL, uses BIGINT NOT NULL, created BIGINT NOT NULL,
        destroyed BIGINT NOT NULL)",
    "CREATE UNIQUE INDEX scope_what ON scope (domain, holder, number, retention, year, generation)",
    "CREATE INDEX scope_epoch ON scope (epoch, id)",
    "CREATE TABLE secret (name TEXT NOT NULL PRIMARY KEY, value {blob} NOT NULL)",
];

/// Scopes lie in the order of their ids, in which a turn of the epoch goes through them: in the order of their coming each
/// row of a step lay in a page of its own, which SQLite writes twice.
const SCOPES_BY_ID: &[&str] = &[
    "ALTER TABLE scope RENAME TO scope_before",
    "DROP INDEX scope_what",
    "DROP INDEX scope_epoch",
    "CREATE TABLE scope (id {blob} NOT NULL PRIMARY KEY, domain TEXT NOT NULL, holder BIGINT NOT NULL,
        number BIGINT NOT NULL, retention TEXT NOT NULL, year BIGINT NOT NULL, generation BIGINT NOT NULL,
        epoch BIGINT NOT NULL, wrapped {blob} NOT NULL, uses BIGINT NOT NULL, created BIGINT NOT NULL,
        destroyed BIGINT NOT NULL) {rowless}",
    "INSERT INTO scope SELECT * FROM scope_before ORDER BY id",
    "DROP TABLE scope_before",
    "CREATE UNIQUE INDEX scope_what ON scope (domain, holder, number, retention, year, generation)",
    "CREATE INDEX scope_epoch ON scope (epoch, id)",
];

/// What the database gives is not what was put there.
const DAMAGED: VaultError = VaultError::Tampered;

fn array<const N: usize>(bytes: Vec<u8>) -> Result<[u8; N], VaultError> {
    bytes.try_into().map_err(|_| DAMAGED)
}

fn column<'r, T: sqlx::Decode<'r, sqlx::Any> + sqlx::Type<sqlx::Any>>(
    row: &'r AnyRow,
    n: usize,
) -> Result<T, VaultError> {
    row.try_get(n).map_err(|error| if is_undecodable(&error) { DAMAGED } else { outage(error) })
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
        state: ScopeState::from_code(number(row, 11)?).ok_or(DAMAGED)?,
    })
}

/// The rows that can be read, the ids of those that cannot, and where to go on.
fn scope_page(rows: &[AnyRow], max: usize) -> Result<ScopePage, VaultError> {
    let mut page = ScopePage::default();
    for row in rows {
        match scope_row(row) {
            Ok(row) => page.rows.push(row),
            Err(VaultError::Tampered) => {
                page.damaged.push(damaged_id(column(row, 0)?)?);
            }
            Err(error) => return Err(error),
        }
    }
    if let Some(last) = rows.last().filter(|_| rows.len() >= max) {
        page.next = Some(column(last, 0)?);
    }
    Ok(page)
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

    async fn find_slots(&self, scope: ScopeId, after: Option<ObjectId>, max: usize) -> Result<Vec<Slot>, VaultError> {
        let text = "SELECT object, scope, wrapped FROM slot WHERE scope = $1 AND object > $2 ORDER BY object LIMIT $3";
        let query = sqlx::query(text)
            .bind(scope.0.to_vec())
            .bind(after.map_or_else(Vec::new, |after| after.0.to_vec()))
            .bind(i64::try_from(max).unwrap_or(i64::MAX));
        query.fetch_all(self.db.readers()).await.map_err(outage)?.iter().map(slot_row).collect()
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
        let mut scopes: Vec<ScopeId> = slots.iter().map(|slot| slot.scope).collect();
        scopes.sort_unstable();
        scopes.dedup();
        let mut turn = self.db.write().await.map_err(outage)?;
        check_living(&mut turn.tx, &scopes).await?;
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

    async fn find_scopes(&self, query: &ScopeQuery, after: Option<&[u8]>, max: usize) -> Result<ScopePage, VaultError> {
        let condition = Condition::of(query);
        let after = after.unwrap_or_default();
        match self.fetch_scopes(scope_columns!(), &condition, after, max).await {
            Ok(rows) => scope_page(&rows, max),
            // One text that is none fails the whole answer: each row for itself then.
            Err(error) if is_undecodable(&error) => self.find_scopes_singly(&condition, after, max).await,
            Err(error) => Err(outage(error)),
        }
    }

    async fn insert_scope(&self, row: &ScopeRow) -> Result<ScopeRow, VaultError> {
        let stands = self.insert_scopes(std::slice::from_ref(row)).await?.pop();
        stands.ok_or(VaultError::Invalid("a scope that was not stored"))
    }

    async fn insert_scopes(&self, rows: &[ScopeRow]) -> Result<Vec<ScopeRow>, VaultError> {
        let mut turn = self.db.write().await.map_err(outage)?;
        let mut fresh = Rows::new(
            concat!("INSERT INTO scope (", scope_columns!(), ")"),
            12,
            " ON CONFLICT (domain, holder, number, retention, year, generation) DO NOTHING",
        );
        rows.iter().for_each(|row| fresh.push(scope_cells(row)));
        let made = fresh.insert(&mut turn.tx).await.map_err(|error| match error {
            StoreError::Database(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                VaultError::Invalid("the scope id is taken")
            }
            error => outage(error),
        })?;
        let stand = if made == rows.len() as u64 {
            rows.to_vec()
        } else {
            let mut stand = Vec::with_capacity(rows.len());
            for row in rows {
                stand.push(standing(&mut turn.tx, row).await?);
            }
            stand
        };
        turn.commit().await.map_err(outage)?;
        Ok(stand)
    }

    async fn change_scopes(&self, changes: &[ScopeChange]) -> Result<(), VaultError> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut turn = self.db.write().await.map_err(outage)?;
        let mut rewraps: BTreeMap<(Epoch, Epoch), Vec<(ScopeId, &[u8])>> = BTreeMap::new();
        for change in changes {
            let query = match change {
                ScopeChange::Rewrap { id, from, epoch, wrapped } => {
                    rewraps.entry((*from, *epoch)).or_default().push((*id, wrapped));
                    continue;
                }
                ScopeChange::Use { id, add } => {
                    sqlx::query("UPDATE scope SET uses = uses + $2 WHERE id = $1 AND destroyed <> 1")
                        .bind(id.0.to_vec())
                        .bind(i64::try_from(*add).unwrap_or(i64::MAX >> 1))
                }
                ScopeChange::Close { id } => {
                    sqlx::query("UPDATE scope SET destroyed = 2 WHERE id = $1 AND destroyed <> 1").bind(id.0.to_vec())
                }
            };
            query.execute(&mut *turn.tx).await.map_err(outage)?;
        }
        for ((from, to), rows) in rewraps {
            rewrap(&mut turn.tx, from, to, &rows).await?;
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
}

#[async_trait]
impl SecretTable for SqlKeyTable {
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

    async fn replace_secret(&self, name: &str, from: &[u8], to: &[u8]) -> Result<bool, VaultError> {
        let mut turn = self.db.write().await.map_err(outage)?;
        let done = sqlx::query("UPDATE secret SET value = $3 WHERE name = $1 AND value = $2")
            .bind(name)
            .bind(from.to_vec())
            .bind(to.to_vec())
            .execute(&mut *turn.tx)
            .await
            .map_err(outage)?;
        turn.commit().await.map_err(outage)?;
        self.db.scrub().await.map_err(outage)?;
        Ok(done.rows_affected() > 0)
    }
}

/// No slot goes under a scope that is closed or destroyed.
async fn check_living(tx: &mut AnyConnection, scopes: &[ScopeId]) -> Result<(), VaultError> {
    for chunk in in_chunks(scopes) {
        let list = placeholders(0, chunk.len());
        let text = format!("SELECT COUNT(*) FROM scope WHERE id IN {list} AND destroyed <> 0");
        let mut query = sqlx::query(AssertSqlSafe(text));
        for scope in chunk {
            query = query.bind(scope.0.to_vec());
        }
        let row = query.fetch_one(&mut *tx).await.map_err(outage)?;
        if column::<i64>(&row, 0)? > 0 {
            return Err(slots_refused());
        }
    }
    Ok(())
}

/// Scopes from one epoch to another, many in one statement. Few sizes, so that few statements are prepared.
async fn rewrap(tx: &mut AnyConnection, from: Epoch, to: Epoch, rows: &[(ScopeId, &[u8])]) -> Result<(), VaultError> {
    let mut rest = rows;
    for size in [2_048, 64, 8, 1] {
        while rest.len() >= size {
            let (now, later) = rest.split_at(size);
            rest = later;
            let values = values(2, 2, size);
            let text = format!(
                "UPDATE scope SET epoch = $2, wrapped = v.column2 FROM (VALUES {values}) AS v \
                 WHERE scope.id = v.column1 AND scope.epoch = $1 AND scope.destroyed <> 1"
            );
            let mut query = sqlx::query(AssertSqlSafe(text)).bind(epoch_to(from)).bind(epoch_to(to));
            for (id, wrapped) in now {
                query = query.bind(id.0.to_vec()).bind(wrapped.to_vec());
            }
            query.execute(&mut *tx).await.map_err(outage)?;
        }
    }
    Ok(())
}

/// The row that stands for what `row` is for.
async fn standing(tx: &mut AnyConnection, row: &ScopeRow) -> Result<ScopeRow, VaultError> {
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
    .fetch_one(&mut *tx)
    .await
    .map_err(outage)?;
    scope_row(&found)
}

fn scope_cells(row: &ScopeRow) -> [Cell; 12] {
    let (holder, number) = row.scope.holder.to_parts();
    [
        row.id.0.to_vec().into(),
        row.scope.domain.as_str().into(),
        i64::from(holder).into(),
        bits(number).into(),
        row.scope.retention.as_str().into(),
        i64::from(row.scope.year).into(),
        i64::from(row.generation).into(),
        epoch_to(row.epoch).into(),
        row.wrapped.clone().into(),
        bits(row.uses).into(),
        row.created.ms().into(),
        i64::from(row.state.code()).into(),
    ]
}

fn epoch_to(epoch: Epoch) -> i64 {
    bits(epoch.0)
}

fn epoch_from(value: i64) -> Epoch {
    Epoch(value.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use base::{ManualClock, Ordinal, SeededEntropy};
    use vault::{MemoryRootKeys, Vault};

    use super::*;

    async fn table(folder: &Path) -> SqlKeyTable {
        SqlKeyTable::open(&format!("sqlite:{}", folder.join("keys.db").display())).await.unwrap()
    }

    fn row(n: u8, wrapped: Vec<u8>) -> ScopeRow {
        ScopeRow {
            id: ScopeId([n; 16]),
            scope: Scope {
                domain: DomainName::parse("ehr").unwrap(),
                holder: Holder::Record(Ordinal(n.into())),
                retention: RetentionClass::parse("clinical").unwrap(),
                year: 2026,
            },
            generation: 0,
            epoch: Epoch(1),
            wrapped,
            uses: 0,
            created: Timestamp(1),
            state: ScopeState::Living,
        }
    }

    /// Whether any file of the database holds these bytes.
    fn is_on_disk(folder: &Path, wanted: &[u8]) -> bool {
        let mut files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        files.any(|path| std::fs::read(path).unwrap().windows(wanted.len()).any(|window| window == wanted))
    }

    #[tokio::test]
    async fn the_key_table_in_sqlite_keeps_the_vaults_contract() {
        let folder = tempfile::tempdir().unwrap();
        vault::contract::key_table(&table(folder.path()).await).await;
    }

    #[tokio::test]
    async fn what_was_destroyed_is_in_no_file_of_the_database_and_an_error_says_when_it_still_is() {
        let folder = tempfile::tempdir().unwrap();
        let table = table(folder.path()).await;
        // Long enough for pages of its own, beside others.
        let (scope_wrap, slot_wrap) = ([0xD5; 900].to_vec(), [0xE7; 60]);
        for n in 1..60 {
            let wrapped = if n == 7 { scope_wrap.clone() } else { vec![n; 900] };
            table.insert_scope(&row(n, wrapped)).await.unwrap();
            let wrapped = if n == 7 { slot_wrap } else { [n; 60] };
            table.put_slots(&[Slot { object: ObjectId([n; 16]), scope: ScopeId([n; 16]), wrapped }]).await.unwrap();
        }
        assert!(is_on_disk(folder.path(), &scope_wrap) && is_on_disk(folder.path(), &slot_wrap));
        // A reader holds on to the state before: the log cannot be emptied, and that is not called destroyed.
        let mut reader = table.db.readers().begin().await.unwrap();
        sqlx::query("SELECT COUNT(*) FROM scope").fetch_one(&mut *reader).await.unwrap();
        let refused = table.destroy_scope(ScopeId([7; 16])).await.unwrap_err();
        assert!(refused.is_outage(), "{refused}");
        assert!(is_on_disk(folder.path(), &scope_wrap), "which is why");
        reader.rollback().await.unwrap();
        table.destroy_scope(ScopeId([7; 16])).await.unwrap();
        assert!(!is_on_disk(folder.path(), &scope_wrap) && !is_on_disk(folder.path(), &slot_wrap));
        assert!(is_on_disk(folder.path(), &[8; 900]), "the others stay");
    }

    #[tokio::test]
    async fn a_replaced_secret_is_in_no_file_of_the_database() {
        let folder = tempfile::tempdir().unwrap();
        let table = table(folder.path()).await;
        table.secret("node", Some(&[0xC3; 90])).await.unwrap();
        assert!(table.replace_secret("node", &[0xC3; 90], &[0xC4; 90]).await.unwrap());
        assert!(!is_on_disk(folder.path(), &[0xC3; 90]));
    }

    /// Rows whose columns no longer mean anything: the turn passes them by, keeps their epoch, and names them.
    #[tokio::test]
    async fn a_row_that_cannot_be_read_stops_no_turn() {
        let damages = ["domain = 'NOT A NAME'", "holder = 9", "generation = -1", "wrapped = x'00'", "destroyed = 77"];
        for damage in damages.into_iter().chain(["domain = CAST(x'FF00' AS TEXT)", "retention = x'01'"]) {
            let folder = tempfile::tempdir().unwrap();
            let table = Arc::new(table(folder.path()).await);
            let entropy = Arc::new(SeededEntropy::new(1));
            let root = Arc::new(MemoryRootKeys::new(entropy.clone()));
            let clock = Arc::new(ManualClock::at(1_764_000_000_000));
            let vault = Vault::open(root, table.clone(), clock, entropy).await.unwrap();
            let mut ids = Vec::new();
            for n in 1..6 {
                ids.push(vault.scope(&row(n, vec![]).scope).await.unwrap());
            }
            let mut turn = table.db.write().await.unwrap();
            let text = format!("UPDATE scope SET {damage} WHERE id = $1");
            sqlx::query(AssertSqlSafe(text)).bind(ids[2].0.to_vec()).execute(&mut *turn.tx).await.unwrap();
            turn.commit().await.unwrap();
            let turn = vault.turn_epoch().await.unwrap();
            assert_eq!((turn.damaged, turn.kept, turn.scopes_rewrapped), (vec![ids[2]], vec![Epoch(1)], 4), "{damage}");
            vault.destroy_scope(ids[2]).await.unwrap();
            assert_eq!(vault.finish_turn().await.unwrap().destroyed, [Epoch(1)], "{damage}");
        }
    }
}
