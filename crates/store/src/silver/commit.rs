//! Storing a batch: keys, then ONE SQL transaction, then the index, then the applied position.
//!
//! A crash between any two steps is harmless. Keys without their ciphertext open nothing; an index that is behind
//! follows silver when it is opened or written next; and a batch that is done again finds itself fenced, or gives the
//! same content.

use std::collections::HashMap;

use base::{DomainName, Ordinal, Permit, Write};
use sqlx::{AnyConnection, AssertSqlSafe, Row as _};
use vault::{Kind, ObjectName, Slot};

use super::pack::pack;
use super::read::encode_positions;
use super::types::{Batch, NewVersion, Outcome};
use super::{REFINE, Silver, target};
use crate::StoreError;
use crate::index::Document;
use crate::secrets::Token;
use crate::sql::{Rows, big, in_chunks, placeholders};

/// Where a test can make a commit fail.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    AfterKeys,
    BeforeSqlCommit,
    AfterSqlCommit,
    AfterIndex,
}

/// A version, sealed and ready for its row.
struct Prepared<'a> {
    version: &'a NewVersion,
    token: Token,
    object: [u8; 16],
    sealed: Vec<u8>,
}

struct PreparedOutcome<'a> {
    index: u64,
    outcome: &'a Outcome,
    object: [u8; 16],
    sealed: Vec<u8>,
}

impl Silver {
    /// Stores the batch wholly or not at all. When it returns, everything in it survives a crash and is found by reads
    /// and searches. After any error the caller reads [`Silver::position`] again before it goes on.
    pub async fn commit(&self, permit: &Permit<Write>, batch: Batch) -> Result<(), StoreError> {
        self.check_live(permit)?;
        check(permit, &batch)?;
        let domain = self.domain(&batch.domain)?;
        let _turn = domain.commit.lock().await;

        let documents = extract(&batch).await?;
        let mut slots = Vec::with_capacity(batch.versions.len() + batch.outcomes.len());
        let versions = self.seal_versions(&batch, &mut slots).await?;
        let outcomes = self.seal_outcomes(&batch, &mut slots).await?;
        self.0.vault.put_slots(&slots).await?;
        #[cfg(test)]
        self.fault(Step::AfterKeys)?;

        let mut turn = self.0.catalog.db.write().await?;
        let before = self.write_rows(&mut turn.tx, &batch, &versions, &outcomes).await?;
        #[cfg(test)]
        self.fault(Step::BeforeSqlCommit)?;
        turn.commit().await?;
        #[cfg(test)]
        self.fault(Step::AfterSqlCommit)?;

        let documents = last_of_each(documents, before);
        if !domain.index.apply(before, before + batch.versions.len() as u64, documents).await? {
            self.follow_locked(&batch.domain, &mut |_| {}).await?;
        }
        #[cfg(test)]
        self.fault(Step::AfterIndex)?;
        if batch.consumer == REFINE {
            domain.advance(batch.upto);
        }
        Ok(())
    }

    #[cfg(test)]
    fn fault(&self, step: Step) -> Result<(), StoreError> {
        let mut fault = self.0.fault.lock();
        if *fault == Some(step) {
            *fault = None;
            return Err(StoreError::Stopping);
        }
        Ok(())
    }

    async fn seal_versions<'a>(
        &self,
        batch: &'a Batch,
        slots: &mut Vec<Slot>,
    ) -> Result<Vec<Prepared<'a>>, StoreError> {
        let mut prepared = Vec::with_capacity(batch.versions.len());
        for version in &batch.versions {
            let token = self.0.secrets.token(&batch.domain, &version.rtype, version.id.as_str());
            let body = if version.deleted { Vec::new() } else { fhir::json::to_vec(&version.body) };
            let plain = pack(&version.id, &zeroize::Zeroizing::new(body));
            let scope = self.record_scope(&batch.domain, version.patient, version.last_updated);
            let name = ObjectName {
                domain: &batch.domain,
                kind: Kind::Resource,
                id: &token,
                version: u64::from(version.version),
            };
            let (sealed, slot) = self.0.vault.seal(name, &scope, &plain).await?;
            prepared.push(Prepared { version, token, object: slot.object.0, sealed });
            slots.push(slot);
        }
        Ok(prepared)
    }

    /// An outcome may repeat what was written: it is sealed for the one patient that the entry's versions are about.
    async fn seal_outcomes<'a>(
        &self,
        batch: &'a Batch,
        slots: &mut Vec<Slot>,
    ) -> Result<Vec<PreparedOutcome<'a>>, StoreError> {
        let mut patients: HashMap<u64, Option<Ordinal>> = HashMap::new();
        for version in batch.versions.iter().filter(|v| v.patient.is_patient()) {
            for position in &version.positions {
                let known = patients.entry(*position).or_insert(Some(version.patient));
                if *known != Some(version.patient) {
                    *known = None;
                }
            }
        }
        let now = self.0.clock.now();
        let mut prepared = Vec::with_capacity(batch.outcomes.len());
        for (index, outcome) in &batch.outcomes {
            let patient = patients.get(index).copied().flatten().unwrap_or(Ordinal::NONE);
            let scope = self.record_scope(&batch.domain, patient, now);
            let plain = zeroize::Zeroizing::new(super::work::pack_outcome(outcome)?);
            let (sealed, slot) =
                self.0.vault.seal(super::work::outcome_name(&batch.domain, *index), &scope, &plain).await?;
            prepared.push(PreparedOutcome { index: *index, outcome, object: slot.object.0, sealed });
            slots.push(slot);
        }
        Ok(prepared)
    }

    /// Returns the change number before the batch.
    async fn write_rows(
        &self,
        tx: &mut AnyConnection,
        batch: &Batch,
        versions: &[Prepared<'_>],
        outcomes: &[PreparedOutcome<'_>],
    ) -> Result<u64, StoreError> {
        move_position(tx, batch).await?;
        let (change, ordinal) = domain_state(tx, &batch.domain).await?;
        check_versions(tx, &batch.domain, versions).await?;
        let last_ordinal = check_patients(batch, ordinal)?;
        insert_versions(tx, batch, versions, change).await?;
        insert_patients(tx, batch).await?;
        self.insert_outcomes(tx, batch, outcomes).await?;
        self.insert_work(tx, batch).await?;
        sqlx::query("UPDATE domain_state SET change = $2, ordinal = $3 WHERE domain = $1")
            .bind(batch.domain.as_str())
            .bind(big(change + versions.len() as u64)?)
            .bind(i64::from(last_ordinal))
            .execute(&mut *tx)
            .await?;
        Ok(change)
    }

    async fn insert_outcomes(
        &self,
        tx: &mut AnyConnection,
        batch: &Batch,
        outcomes: &[PreparedOutcome<'_>],
    ) -> Result<(), StoreError> {
        let now = self.0.clock.now().ms();
        let mut rows =
            Rows::new("INSERT INTO outcome (domain, position, status, at, object, body)", 6, " ON CONFLICT DO NOTHING");
        for prepared in outcomes {
            rows.push([
                batch.domain.as_str().into(),
                big(prepared.index)?.into(),
                i64::from(prepared.outcome.status).into(),
                now.into(),
                prepared.object.to_vec().into(),
                prepared.sealed.clone().into(),
            ]);
        }
        rows.insert(tx).await.map(drop)
    }
}

/// What can be seen to be wrong before anything is written.
fn check(permit: &Permit<Write>, batch: &Batch) -> Result<(), StoreError> {
    if batch.from > batch.upto {
        return Err(StoreError::Invalid("it ends before it begins"));
    }
    for version in &batch.versions {
        permit.covers(target(&batch.domain, &version.rtype, version.patient, version.sensitivity))?;
        let says = |name: &str, value: &str| version.body.get(name).and_then(fhir::json::Value::as_str) == Some(value);
        let fits = match version.deleted {
            true => version.body.is_null(),
            false => says("resourceType", &version.rtype) && says("id", version.id.as_str()),
        };
        if !fits {
            return Err(StoreError::Invalid(
                "a resource says another type or id than its version, or is deleted and has content",
            ));
        }
    }
    Ok(())
}

/// What each version puts into the index, made on a thread that may take its time.
async fn extract(batch: &Batch) -> Result<Vec<Document>, StoreError> {
    let versions = batch.versions.clone();
    tokio::task::spawn_blocking(move || versions.iter().map(document).collect())
        .await
        .map_err(|_| StoreError::Invalid("search values cannot be read from a resource"))
}

fn document(version: &NewVersion) -> Document {
    Document {
        rtype: version.rtype.clone(),
        id: version.id.clone(),
        version: version.version,
        change: 0,
        patient: version.patient,
        sensitivity: version.sensitivity,
        last_updated: version.last_updated,
        values: (!version.deleted).then(|| fhir::search::extract(&version.body)),
    }
}

/// Numbers the documents and keeps the last of each resource.
fn last_of_each(mut documents: Vec<Document>, before: u64) -> Vec<Document> {
    for (n, document) in documents.iter_mut().enumerate() {
        document.change = before + 1 + n as u64;
    }
    let mut last: HashMap<(&str, &str), u64> = HashMap::with_capacity(documents.len());
    for document in &documents {
        last.insert((&document.rtype, document.id.as_str()), document.change);
    }
    let keep: Vec<bool> =
        documents.iter().map(|d| last.get(&(d.rtype.as_str(), d.id.as_str())) == Some(&d.change)).collect();
    let mut keep = keep.into_iter();
    documents.retain(|_| keep.next().unwrap_or(true));
    documents
}

/// The fence: moves the consumer from exactly where the batch begins.
async fn move_position(tx: &mut AnyConnection, batch: &Batch) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO consumer (domain, name, log, position) VALUES ($1, $2, $3, 0) ON CONFLICT DO NOTHING")
        .bind(batch.domain.as_str())
        .bind(batch.consumer.as_str())
        .bind(batch.log.as_str())
        .execute(&mut *tx)
        .await?;
    let moved =
        sqlx::query("UPDATE consumer SET position = $4 WHERE domain = $1 AND name = $2 AND log = $3 AND position = $5")
            .bind(batch.domain.as_str())
            .bind(batch.consumer.as_str())
            .bind(batch.log.as_str())
            .bind(big(batch.upto)?)
            .bind(big(batch.from)?)
            .execute(&mut *tx)
            .await?;
    if moved.rows_affected() == 1 {
        return Ok(());
    }
    let row = sqlx::query("SELECT position FROM consumer WHERE domain = $1 AND name = $2 AND log = $3")
        .bind(batch.domain.as_str())
        .bind(batch.consumer.as_str())
        .bind(batch.log.as_str())
        .fetch_one(&mut *tx)
        .await?;
    Err(StoreError::Fenced { at: crate::sql::unbig(row.try_get(0)?), from: batch.from })
}

async fn domain_state(tx: &mut AnyConnection, domain: &DomainName) -> Result<(u64, i64), StoreError> {
    sqlx::query("INSERT INTO domain_state (domain, change, ordinal) VALUES ($1, 0, 0) ON CONFLICT DO NOTHING")
        .bind(domain.as_str())
        .execute(&mut *tx)
        .await?;
    let row = sqlx::query("SELECT change, ordinal FROM domain_state WHERE domain = $1")
        .bind(domain.as_str())
        .fetch_one(&mut *tx)
        .await?;
    Ok((crate::sql::unbig(row.try_get(0)?), row.try_get(1)?))
}

/// Each version must follow the one that stands.
async fn check_versions(
    tx: &mut AnyConnection,
    domain: &DomainName,
    versions: &[Prepared<'_>],
) -> Result<(), StoreError> {
    let mut tokens: Vec<Token> = versions.iter().map(|v| v.token).collect();
    tokens.sort_unstable();
    tokens.dedup();
    let mut stands: HashMap<Vec<u8>, u32> = HashMap::with_capacity(tokens.len());
    for chunk in in_chunks(&tokens) {
        let text = format!(
            "SELECT token, MAX(version) FROM resource_version WHERE domain = $1 AND token IN {} GROUP BY token",
            placeholders(1, chunk.len())
        );
        let mut query = sqlx::query(AssertSqlSafe(text)).bind(domain.as_str());
        for token in chunk {
            query = query.bind(token.to_vec());
        }
        for row in query.fetch_all(&mut *tx).await? {
            let version: i64 = row.try_get(1)?;
            stands.insert(row.try_get(0)?, u32::try_from(version).unwrap_or(u32::MAX));
        }
    }
    for prepared in versions {
        let stands = stands.entry(prepared.token.to_vec()).or_insert(0);
        let expected = prepared.version.version.saturating_sub(1);
        if *stands != expected || prepared.version.version == 0 {
            let rtype = prepared.version.rtype.clone();
            return Err(StoreError::Conflict { rtype, expected, found: *stands });
        }
        *stands = prepared.version.version;
    }
    Ok(())
}

/// New source records are numbered one after the other, so that a replay numbers them alike.
fn check_patients(batch: &Batch, last: i64) -> Result<u32, StoreError> {
    let mut last = u32::try_from(last).map_err(|_| StoreError::corrupt("an ordinal is out of its range"))?;
    for patient in &batch.patients {
        if patient.0 != last + 1 || *patient == Ordinal::UNKNOWN {
            return Err(StoreError::Invalid("its new source records do not follow on those there are"));
        }
        last = patient.0;
    }
    Ok(last)
}

async fn insert_versions(
    tx: &mut AnyConnection,
    batch: &Batch,
    versions: &[Prepared<'_>],
    before: u64,
) -> Result<(), StoreError> {
    let mut rows = Rows::new(
        "INSERT INTO resource_version (domain, change, token, version, rtype, ordinal, sensitivity, last_updated, \
         deleted, positions, object, body)",
        12,
        "",
    );
    let mut lineage = Rows::new("INSERT INTO lineage (domain, position, change)", 3, "");
    for (n, Prepared { version, token, object, sealed }) in versions.iter().enumerate() {
        let change = big(before + 1 + n as u64)?;
        rows.push([
            batch.domain.as_str().into(),
            change.into(),
            token.to_vec().into(),
            i64::from(version.version).into(),
            version.rtype.as_str().into(),
            i64::from(version.patient.0).into(),
            i64::from(version.sensitivity.0).into(),
            version.last_updated.ms().into(),
            i64::from(version.deleted).into(),
            encode_positions(&version.positions).into(),
            object.to_vec().into(),
            sealed.clone().into(),
        ]);
        let mut positions = version.positions.clone();
        positions.sort_unstable();
        positions.dedup();
        for position in positions {
            lineage.push([batch.domain.as_str().into(), big(position)?.into(), change.into()]);
        }
    }
    rows.insert(&mut *tx).await?;
    lineage.insert(&mut *tx).await.map(drop)
}

async fn insert_patients(tx: &mut AnyConnection, batch: &Batch) -> Result<(), StoreError> {
    let mut rows = Rows::new("INSERT INTO patient (domain, ordinal, upto)", 3, "");
    for patient in &batch.patients {
        rows.push([batch.domain.as_str().into(), i64::from(patient.0).into(), big(batch.upto)?.into()]);
    }
    rows.insert(tx).await.map(drop)
}
