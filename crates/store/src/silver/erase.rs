//! Taking one source record out of silver: its versions, its outcomes and control keys, its rows of the index, and the
//! index's own key, so that an old copy of the index file opens nothing.
//!
//! Which record, and whether it may be erased, is decided above (`comply`); its journal entries are `clinical`'s matter.
//! Every step may be repeated: what is gone already is no error.

use base::{DomainName, LogicalId, Ordinal, Permit, Timestamp, Write};
use sqlx::{AssertSqlSafe, Row as _};
use vault::ObjectId;

use super::Silver;
use super::read::{COLUMNS, Sealed, is_erased, object_id};
use super::types::{Resource, SetAside};
use crate::StoreError;
use crate::sql::{big, in_chunks, placeholders, unbig};

/// What was taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Erased {
    pub versions: u64,
    pub outcomes: u64,
    pub control_keys: u64,
    pub set_aside: u64,
    pub index_rows: u64,
}

/// Entries of one page of held entries.
const PAGE: i64 = 1_000;

impl Silver {
    /// Every version that [`Silver::erase_record`] takes out, in the order of changes: those after change `after`, at
    /// most `max`. Versions whose key is gone already are left out.
    pub async fn record_versions(
        &self,
        permit: &Permit<Write>,
        domain: &DomainName,
        patient: Ordinal,
        after: u64,
        max: usize,
    ) -> Result<(Vec<Resource>, u64), StoreError> {
        self.check_live(permit)?;
        let text = format!(
            "SELECT {COLUMNS} FROM resource_version v WHERE domain = $1 AND change > $2 AND token IN (SELECT token FROM \
             resource_version WHERE domain = $1 AND ordinal = $3) AND (ordinal = $3 OR $3 = (SELECT n.ordinal FROM \
             resource_version n WHERE n.domain = v.domain AND n.token = v.token ORDER BY n.version DESC LIMIT 1)) \
             ORDER BY change LIMIT $4"
        );
        let rows = sqlx::query(AssertSqlSafe(text))
            .bind(domain.as_str())
            .bind(big(after)?)
            .bind(i64::from(patient.0))
            .bind(i64::try_from(max).unwrap_or(i64::MAX))
            .fetch_all(self.0.catalog.db.readers())
            .await?;
        let rows = rows.iter().map(Sealed::from_row).collect::<Result<Vec<_>, _>>()?;
        let upto = rows.last().map_or(after, |row| row.change);
        Ok((self.open_unerased(domain, rows).await?, upto))
    }

    /// Every version that came of a journal entry, with its content.
    pub async fn entry_versions(
        &self,
        permit: &Permit<Write>,
        domain: &DomainName,
        position: u64,
    ) -> Result<Vec<Resource>, StoreError> {
        self.check_live(permit)?;
        let text = format!(
            "SELECT {COLUMNS} FROM resource_version WHERE domain = $1 AND change IN (SELECT change FROM lineage WHERE \
             domain = $1 AND position = $2) ORDER BY change"
        );
        let rows = sqlx::query(AssertSqlSafe(text))
            .bind(domain.as_str())
            .bind(big(position)?)
            .fetch_all(self.0.catalog.db.readers())
            .await?;
        let rows = rows.iter().map(Sealed::from_row).collect::<Result<Vec<_>, _>>()?;
        self.open_unerased(domain, rows).await
    }

    async fn open_unerased(&self, domain: &DomainName, rows: Vec<Sealed>) -> Result<Vec<Resource>, StoreError> {
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

    /// Journal entries that no version tells of and whose keys `holder` holds ([`Ordinal::NONE`]: nobody alone), after
    /// a position (none: from the first), in order, a page of them. Empty at the end.
    pub async fn held_entries(
        &self,
        domain: &DomainName,
        holder: Ordinal,
        after: Option<u64>,
    ) -> Result<Vec<u64>, StoreError> {
        let rows = sqlx::query_as::<_, (i64,)>(
            "SELECT position FROM held_entry WHERE domain = $1 AND ordinal = $2 AND position > $3 ORDER BY position \
             LIMIT $4",
        )
        .bind(domain.as_str())
        .bind(i64::from(holder.0))
        .bind(after.map_or(Ok(-1), big)?)
        .bind(PAGE)
        .fetch_all(self.0.catalog.db.readers())
        .await?;
        Ok(rows.into_iter().map(|(position,)| unbig(position)).collect())
    }

    /// What is set aside of an entry, resolved or not.
    pub async fn set_aside_units(&self, domain: &DomainName, position: u64) -> Result<Vec<SetAside>, StoreError> {
        Ok(self.set_aside_of(domain, position).await?.into_iter().map(|entry| entry.unit).collect())
    }

    /// Takes the record out of catalog and index, with what consumers kept about `positions`: outcomes and control keys
    /// of each, and of `set_aside` the units named. Refine must stand still meanwhile.
    pub async fn erase_record(
        &self,
        permit: &Permit<Write>,
        domain: &DomainName,
        patient: Ordinal,
        positions: &[u64],
        set_aside: &[(u64, u32)],
    ) -> Result<Erased, StoreError> {
        self.check_live(permit)?;
        let inner = self.domain(domain)?;
        let _turn = inner.commit.lock().await;
        let mut erased = Erased::default();
        let (versions, mut objects) = self.rows_of(domain, patient).await?;
        let mut tx = self.0.catalog.db.write().await?;
        for statement in [
            "DELETE FROM named_entry WHERE domain = $1 AND ordinal = $2",
            "DELETE FROM labelled_entry WHERE domain = $1 AND token IN (SELECT token FROM resource_version WHERE \
             domain = $1 AND ordinal = $2)",
        ] {
            let patient = i64::from(patient.0);
            sqlx::query(statement).bind(domain.as_str()).bind(patient).execute(&mut *tx.tx).await?;
        }
        for (change, from) in &versions {
            for position in from {
                sqlx::query("DELETE FROM lineage WHERE domain = $1 AND position = $2 AND change = $3")
                    .bind(domain.as_str())
                    .bind(big(*position)?)
                    .bind(big(*change)?)
                    .execute(&mut *tx.tx)
                    .await?;
            }
            let gone = sqlx::query("DELETE FROM resource_version WHERE domain = $1 AND change = $2")
                .bind(domain.as_str())
                .bind(big(*change)?)
                .execute(&mut *tx.tx)
                .await?;
            erased.versions += gone.rows_affected();
        }
        let keys = positions.iter().map(|position| big(*position)).collect::<Result<Vec<i64>, _>>()?;
        for chunk in in_chunks(&keys) {
            let list = placeholders(1, chunk.len());
            macro_rules! of_positions {
                ($head:literal) => {{
                    let text = format!("{} WHERE domain = $1 AND position IN {list}", $head);
                    let mut query = sqlx::query(AssertSqlSafe(text)).bind(domain.as_str());
                    for key in &chunk {
                        query = query.bind(*key);
                    }
                    query
                }};
            }
            for row in of_positions!("SELECT object FROM outcome").fetch_all(&mut *tx.tx).await? {
                objects.push(object_id(row.try_get(0)?)?);
            }
            erased.outcomes += of_positions!("DELETE FROM outcome").execute(&mut *tx.tx).await?.rows_affected();
            erased.control_keys += of_positions!("DELETE FROM seen").execute(&mut *tx.tx).await?.rows_affected();
            of_positions!("DELETE FROM journal_identifier").execute(&mut *tx.tx).await?;
            of_positions!("UPDATE journal_entry SET control = 0").execute(&mut *tx.tx).await?;
        }
        for (position, unit) in set_aside {
            let gone = sqlx::query("DELETE FROM set_aside WHERE domain = $1 AND position = $2 AND unit = $3")
                .bind(domain.as_str())
                .bind(big(*position)?)
                .bind(i64::from(*unit))
                .execute(&mut *tx.tx)
                .await?;
            erased.set_aside += gone.rows_affected();
        }
        // Slots first: a row that stays behind after a crash is noise, and is found again by its label.
        self.0.vault.delete_slots(&objects).await?;
        tx.commit().await?;
        self.0.catalog.db.scrub().await?;
        erased.index_rows = inner.index.erase(patient).await?;
        Ok(erased)
    }

    /// Change number and journal positions of every version to take out, and their objects: all of a resource whose
    /// newest version is about the record; of one that is somebody else's now, those that were about the record.
    #[allow(clippy::type_complexity)]
    async fn rows_of(
        &self,
        domain: &DomainName,
        patient: Ordinal,
    ) -> Result<(Vec<(u64, Vec<u64>)>, Vec<ObjectId>), StoreError> {
        let rows = sqlx::query(
            "SELECT v.change, v.positions, v.object FROM resource_version v WHERE v.domain = $1 AND v.token IN (SELECT \
             token FROM resource_version WHERE domain = $1 AND ordinal = $2) AND (v.ordinal = $2 OR $2 = (SELECT ordinal \
             FROM resource_version n WHERE n.domain = $1 AND n.token = v.token ORDER BY n.version DESC LIMIT 1))",
        )
        .bind(domain.as_str())
        .bind(i64::from(patient.0))
        .fetch_all(self.0.catalog.db.readers())
        .await?;
        let (mut versions, mut objects) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
        for row in rows {
            let positions: Vec<u8> = row.try_get(1)?;
            versions.push((unbig(row.try_get(0)?), super::read::decode_positions(&positions)));
            objects.push(object_id(row.try_get(2)?)?);
        }
        Ok((versions, objects))
    }

    /// Seals the domain's search index under a fresh key and destroys every earlier one. Searches wait for the moment
    /// in which the files change places.
    pub async fn renew_index_key(&self, domain: &DomainName) -> Result<(), StoreError> {
        let inner = self.domain(domain)?;
        let _turn = inner.commit.lock().await;
        let key = crate::index_key::fresh(&self.0.vault, domain, self.0.clock.now()).await?;
        inner.index.reseal(&key).await?;
        crate::index_key::destroy_others(&self.0.vault, domain, &key).await?;
        // Where the old file could not be carried over the new one is empty.
        self.follow_locked(domain, &mut |_| {}).await
    }

    /// Every source record of the domain by the year of its newest version, in the order of ordinals.
    pub async fn records_by_year(&self, domain: &DomainName) -> Result<Vec<(Ordinal, u16)>, StoreError> {
        let rows = sqlx::query_as::<_, (i64, i64)>(
            "SELECT ordinal, MAX(last_updated) FROM resource_version WHERE domain = $1 AND ordinal > 0 AND ordinal < $2 \
             GROUP BY ordinal ORDER BY ordinal",
        )
        .bind(domain.as_str())
        .bind(i64::from(Ordinal::UNKNOWN.0))
        .fetch_all(self.0.catalog.db.readers())
        .await?;
        let record = |(ordinal, at): (i64, i64)| {
            let year = u16::try_from(Timestamp(at).year()).unwrap_or_default();
            u32::try_from(ordinal).map(|ordinal| (Ordinal(ordinal), year))
        };
        let bad = |_| StoreError::corrupt("an ordinal in the catalog is not one");
        rows.into_iter().map(record).collect::<Result<_, _>>().map_err(bad)
    }

    /// The id of the newest Patient of a source record.
    pub async fn patient_id(
        &self,
        permit: &Permit<Write>,
        domain: &DomainName,
        patient: Ordinal,
    ) -> Result<Option<LogicalId>, StoreError> {
        self.check_live(permit)?;
        let text = format!(
            "SELECT {COLUMNS} FROM resource_version WHERE domain = $1 AND ordinal = $2 AND rtype = 'Patient' ORDER BY \
             change DESC LIMIT 1"
        );
        let rows = sqlx::query(AssertSqlSafe(text))
            .bind(domain.as_str())
            .bind(i64::from(patient.0))
            .fetch_all(self.0.catalog.db.readers())
            .await?;
        let rows = rows.iter().map(Sealed::from_row).collect::<Result<Vec<_>, _>>()?;
        Ok(self.open_unerased(domain, rows).await?.pop().map(|resource| resource.id))
    }

    /// Takes back [`Silver::remember_erased`], where an erasure did not come about.
    pub fn remember_living(&self, domain: &DomainName, patient: &LogicalId) {
        let token = self.0.secrets.token(domain, "Patient", patient.as_str());
        self.0.erased.write().remove(&(domain.clone(), token));
    }

    /// Keeps the label of an erased Patient, so that the audit can still be asked about it. Nothing else of it stays.
    pub fn remember_erased(&self, domain: &DomainName, patient: &LogicalId, ordinal: Ordinal) {
        let token = self.0.secrets.token(domain, "Patient", patient.as_str());
        self.0.erased.write().insert((domain.clone(), token), ordinal);
    }

    /// Whether a Patient of this id was erased: the id is never used again.
    pub fn is_erased_patient(&self, domain: &DomainName, patient: &LogicalId) -> bool {
        let token = self.0.secrets.token(domain, "Patient", patient.as_str());
        self.0.erased.read().contains_key(&(domain.clone(), token))
    }
}
