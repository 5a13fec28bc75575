//! What silver is of a journal's beginning, as one number: to see that a restored or rebuilt copy is the same. Ids,
//! versions, labels and origins go in; content does not, it opens only as what it was sealed as.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{Context, SHA256};
use base::DomainName;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use sqlx::Row as _;

use super::Silver;
use super::read::decode_positions;
use crate::StoreError;
use crate::sql::unbig;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilverDigest {
    /// Journal entries it covers.
    pub position: u64,
    /// Versions that came of them,
    pub versions: u64,
    /// by type of resource.
    pub by_type: BTreeMap<String, u64>,
    /// The hashes of all these versions, folded: the order in which they were stored does not matter.
    pub sum: String,
}

impl Silver {
    /// The digest of what came of the journal's entries below `upto`; without it, of all that are applied.
    pub async fn digest(&self, domain: &DomainName, upto: Option<u64>) -> Result<SilverDigest, StoreError> {
        let applied = super::applied(&self.0.catalog, domain).await?;
        let position = upto.map_or(applied, |upto| upto.min(applied));
        let mut digest = SilverDigest { position, ..SilverDigest::default() };
        let mut sum = [0u8; 32];
        let mut rows = sqlx::query(
            "SELECT token, version, rtype, ordinal, sensitivity, last_updated, deleted, positions FROM \
             resource_version WHERE domain = $1",
        )
        .bind(domain.as_str())
        .fetch(self.0.catalog.db.readers());
        while let Some(row) = rows.try_next().await? {
            let positions: Vec<u8> = row.try_get(7)?;
            if decode_positions(&positions).iter().any(|from| *from >= position) {
                continue;
            }
            let (token, rtype): (Vec<u8>, String) = (row.try_get(0)?, row.try_get(2)?);
            let mut context = Context::new(&SHA256);
            context.update(&token);
            context.update(rtype.as_bytes());
            for column in [1, 3, 4, 5, 6] {
                context.update(&unbig(row.try_get(column)?).to_be_bytes());
            }
            context.update(&positions);
            sum.iter_mut().zip(context.finish().as_ref()).for_each(|(sum, byte)| *sum ^= byte);
            digest.versions += 1;
            *digest.by_type.entry(rtype).or_default() += 1;
        }
        digest.sum = base::hex::encode(&sum);
        Ok(digest)
    }
}
