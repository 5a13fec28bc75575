//! File keys that live in the vault: one object a file, its slot under the product's scope.
//!
//! A product mixes patients in a file, so its scope is shared; erasing one patient rewrites the bucket and destroys the
//! old file's key.

use async_trait::async_trait;
use base::{DomainName, Timestamp};
use products::SqlError;
use vault::{Holder, Kind, ObjectId, ObjectName, RetentionClass, Scope, Vault, VaultError};

use crate::error;
use crate::keys::{FileKey, FileKeys};

/// Retention of a product whose contract names no class.
const DEFAULT_RETENTION: &str = "product";

/// [`FileKeys`] over the vault.
#[derive(Clone)]
pub struct VaultFileKeys(pub Vault);

fn name<'a>(domain: &'a DomainName, path: &'a str) -> ObjectName<'a> {
    ObjectName { domain, kind: Kind::ParquetFile, id: path.as_bytes(), version: 0 }
}

fn failed(error: VaultError) -> SqlError {
    match error {
        // An outage is never "no right", and passes.
        error if error.is_outage() => SqlError::Busy { retry_after_ms: 1_000 },
        _ => error::broken("a file key could not be had"),
    }
}

#[async_trait]
impl FileKeys for VaultFileKeys {
    async fn create(
        &self,
        domain: &DomainName,
        path: &str,
        retention: Option<&str>,
        at: Timestamp,
    ) -> Result<(String, FileKey), SqlError> {
        let retention = RetentionClass::parse(retention.unwrap_or(DEFAULT_RETENTION))
            .map_err(|_| error::broken("a retention class with a bad name"))?;
        let year = u16::try_from(at.year()).unwrap_or_default();
        let scope = Scope { domain: domain.clone(), holder: Holder::Shared, retention, year };
        let (object, key, slot) = self.0.object_key(name(domain, path), &scope).await.map_err(failed)?;
        self.0.put_slots(&[slot]).await.map_err(failed)?;
        Ok((object.to_string(), key))
    }

    async fn load(&self, domain: &DomainName, path: &str, object: &str) -> Result<FileKey, SqlError> {
        let object = ObjectId::parse(object).ok_or_else(|| error::broken("a file without a key id"))?;
        self.0.load_key(object, name(domain, path)).await.map_err(failed)
    }

    async fn destroy(&self, object: &str) -> Result<(), SqlError> {
        let object = ObjectId::parse(object).ok_or_else(|| error::broken("a file without a key id"))?;
        self.0.delete_slots(&[object]).await.map_err(failed)
    }

    fn derive(&self, label: &str) -> FileKey {
        self.0.derive(label)
    }
}
