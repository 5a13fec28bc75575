//! [`AuditKeys`] by the vault.

use std::sync::Arc;

use ::vault::{Holder, Key, Kind, ObjectId, ObjectName, RetentionClass, Scope, Vault, VaultError};
use async_trait::async_trait;
use base::{Clock, DomainName};

use crate::audit::keys::{AuditKeyError, AuditKeys, Generation};

/// Keys in the vault, in a scope of the audit log's own: erasing a patient does not erase who saw them.
pub struct VaultAuditKeys {
    vault: Vault,
    clock: Arc<dyn Clock>,
    domain: DomainName,
    retention: RetentionClass,
}

impl VaultAuditKeys {
    pub fn new(vault: Vault, clock: Arc<dyn Clock>, retention: RetentionClass) -> Self {
        VaultAuditKeys { vault, clock, domain: crate::gate::governance(), retention }
    }

    fn name<'a>(&'a self) -> ObjectName<'a> {
        ObjectName { domain: &self.domain, kind: Kind::Audit, id: b"generation", version: 1 }
    }
}

fn key_error(error: VaultError) -> AuditKeyError {
    match error {
        VaultError::Destroyed | VaultError::NoSlot => AuditKeyError::Destroyed,
        VaultError::Tampered => AuditKeyError::Tampered,
        _ => AuditKeyError::Outage,
    }
}

#[async_trait]
impl AuditKeys for VaultAuditKeys {
    async fn begin(&self) -> Result<Generation, AuditKeyError> {
        let year = u16::try_from(self.clock.now().year()).unwrap_or(u16::MAX);
        let scope =
            Scope { domain: self.domain.clone(), holder: Holder::Shared, retention: self.retention.clone(), year };
        let (id, key, slot) = self.vault.object_key(self.name(), &scope).await.map_err(key_error)?;
        self.vault.put_slots(&[slot]).await.map_err(key_error)?;
        Ok(Generation { id: id.0, key })
    }

    async fn load(&self, id: [u8; 16]) -> Result<Key, AuditKeyError> {
        self.vault.load_key(ObjectId(id), self.name()).await.map_err(key_error)
    }

    async fn forget(&self, id: [u8; 16]) -> Result<(), AuditKeyError> {
        self.vault.delete_slots(&[ObjectId(id)]).await.map_err(key_error)
    }

    async fn expire(&self, before: i32) -> Result<u64, AuditKeyError> {
        let mut destroyed = 0;
        for row in self.vault.scopes_of(&self.domain, Holder::Shared).await.map_err(key_error)? {
            let is_due = row.scope.retention == self.retention && i32::from(row.scope.year) < before;
            if is_due && !row.is_destroyed() {
                self.vault.destroy_scope(row.id).await.map_err(key_error)?;
                destroyed += 1;
            }
        }
        Ok(destroyed)
    }

    fn derive(&self, label: &str) -> Key {
        self.vault.derive(label)
    }
}
