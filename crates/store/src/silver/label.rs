//! The clear label of a resource: which source record it is about. Says nothing about the person.

use base::{DomainName, LogicalId, Ordinal};

use super::Silver;
use crate::StoreError;

impl Silver {
    /// The source record of the newest version, deleted or not; `None` when there is no such resource. For a door that
    /// must know whom a write is about, and for the audit's question about a patient.
    pub async fn patient_of(
        &self,
        domain: &DomainName,
        rtype: &str,
        id: &LogicalId,
    ) -> Result<Option<Ordinal>, StoreError> {
        let token = self.0.secrets.token(domain, rtype, id.as_str());
        let row = sqlx::query_as::<_, (i64,)>(
            "SELECT ordinal FROM resource_version WHERE domain = $1 AND token = $2 ORDER BY version DESC LIMIT 1",
        )
        .bind(domain.as_str())
        .bind(token.to_vec())
        .fetch_optional(self.0.catalog.db.readers())
        .await?;
        if row.is_none() && rtype == "Patient" {
            return Ok(self.0.erased.read().get(&(domain.clone(), token)).copied());
        }
        row.map(|(patient,)| u32::try_from(patient).map(Ordinal))
            .transpose()
            .map_err(|_| StoreError::corrupt("an ordinal in the catalog is not one"))
    }
}
