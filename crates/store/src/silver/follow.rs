//! The index follows silver: at start, after a commit that could not reach it, and when it is built anew.

use base::{DomainName, Timestamp};
use sqlx::Row as _;

use super::Silver;
use super::read::{COLUMNS, Sealed, is_erased};
use crate::StoreError;
use crate::index::Document;
use crate::sql::{big, unbig};

/// How far the index has followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub change: u64,
    pub of: u64,
    /// Resources put into the index so far.
    pub resources: u64,
}

const STEP: i64 = 512;

impl Silver {
    /// Drops a domain's index and fills it again from silver. Searches give what is there already meanwhile; commits
    /// wait.
    pub async fn rebuild_index(
        &self,
        domain: &DomainName,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), StoreError> {
        let inner = self.domain(domain)?;
        let _turn = inner.commit.lock().await;
        inner.index.clear().await?;
        self.follow_locked(domain, progress).await
    }

    /// Follows up to the newest change.
    pub(super) async fn follow(
        &self,
        domain: &DomainName,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), StoreError> {
        let _turn = self.domain(domain)?.commit.lock().await;
        self.follow_locked(domain, progress).await
    }

    /// The caller holds the domain's commit turn.
    pub(super) async fn follow_locked(
        &self,
        domain: &DomainName,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), StoreError> {
        let index = &self.domain(domain)?.index;
        let row = sqlx::query("SELECT COALESCE(MAX(change), 0) FROM domain_state WHERE domain = $1")
            .bind(domain.as_str())
            .fetch_one(self.0.catalog.db.readers())
            .await?;
        let of = unbig(row.try_get(0)?);
        let (mut at, mut resources) = (index.position(), 0);
        if at > of {
            // The catalog is older than the index: a restored one. What the index holds beyond it never was.
            index.clear().await?;
            at = 0;
        }
        while at < of {
            let rows = self.changes_after(domain, at, of).await?;
            let next = if rows.len() < STEP as usize { of } else { rows.last().map_or(of, |row| row.change) };
            let documents = self.documents(domain, rows).await?;
            resources += documents.len() as u64;
            if !index.apply(at, next, documents).await? {
                return Err(StoreError::Invalid("the index moved while it was followed up"));
            }
            at = next;
            progress(Progress { change: at, of, resources });
        }
        Ok(())
    }

    async fn changes_after(&self, domain: &DomainName, after: u64, upto: u64) -> Result<Vec<Sealed>, StoreError> {
        let text = format!(
            "SELECT {COLUMNS} FROM resource_version v WHERE domain = $1 AND change > $2 AND change <= $3 AND NOT \
             EXISTS (SELECT 1 FROM resource_version w WHERE w.domain = v.domain AND w.token = v.token AND \
             w.version = v.version + 1) ORDER BY change LIMIT $4"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(domain.as_str())
            .bind(big(after)?)
            .bind(big(upto)?)
            .bind(STEP)
            .fetch_all(self.0.catalog.db.readers())
            .await?;
        rows.iter().map(Sealed::from_row).collect()
    }

    /// What was erased has no document. What does not open is named in the node's log and left out: one damaged row
    /// must not keep a hospital from searching.
    async fn documents(&self, domain: &DomainName, rows: Vec<Sealed>) -> Result<Vec<Document>, StoreError> {
        let changes: Vec<u64> = rows.iter().map(|row| row.change).collect();
        let mut resources = Vec::with_capacity(rows.len());
        for (change, opened) in changes.into_iter().zip(self.open_all(domain, rows).await) {
            match opened {
                Ok(resource) => resources.push(resource),
                Err(StoreError::Vault(error)) if is_erased(&error) => {}
                Err(error @ (StoreError::Corrupt(_) | StoreError::Vault(vault::VaultError::Tampered))) => {
                    tracing::error!(%domain, change, %error, "a stored version cannot be indexed: run `ward doctor`");
                }
                Err(error) => return Err(error),
            }
        }
        tokio::task::spawn_blocking(move || resources.into_iter().map(document).collect())
            .await
            .map_err(|_| StoreError::corrupt("search values cannot be read from a stored resource"))
    }
}

/// What is stored was within the limits of its day.
fn stored_limits() -> fhir::json::ParseLimits {
    fhir::json::ParseLimits { bytes_max: usize::MAX, depth_max: fhir::json::DEPTH_HARD_MAX, nodes_max: usize::MAX }
}

fn document(resource: super::Resource) -> Document {
    let limits = stored_limits();
    let values = if resource.deleted {
        None
    } else {
        fhir::json::parse(resource.body.expose(), &limits).ok().map(|body| fhir::search::extract(&body))
    };
    Document {
        rtype: resource.rtype,
        id: resource.id,
        version: resource.version,
        change: resource.change,
        patient: resource.patient,
        sensitivity: resource.sensitivity,
        last_updated: Timestamp(resource.last_updated.ms()),
        values,
    }
}
