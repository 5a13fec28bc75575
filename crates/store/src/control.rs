//! Caches of the control log in the catalog: documents (principals, grants, policies) by kind and key, and product
//! snapshots. Each names the control entry it came from; the log is the truth.
//!
//! Sealed, since a grant can name a patient. What a document says is `gate`'s and `products`' matter.

use base::{DomainName, Timestamp};
use sqlx::Row as _;
use sqlx::any::AnyRow;
use vault::{Holder, Kind, ObjectId, ObjectName, RetentionClass, Scope, Vault};

use crate::sql::{big, unbig};
use crate::{Catalog, StoreError};

/// Under this name the governance plane's own records are sealed.
const GOVERNANCE: &str = "governance";
const RETENTION: &str = "governance";

/// A document as the control log last said it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlDoc {
    pub kind: String,
    pub key: String,
    /// Index of the control entry.
    pub position: u64,
    pub body: Vec<u8>,
}

/// A published snapshot of a product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProductSnapshot {
    pub domain: DomainName,
    pub product: String,
    pub snapshot: String,
    /// Index of the control entry that holds the manifest's hash.
    pub position: u64,
    pub created: Timestamp,
    pub manifest: Vec<u8>,
}

#[derive(Clone)]
pub struct Control {
    catalog: Catalog,
    vault: Vault,
    domain: DomainName,
    scope: Scope,
}

impl Control {
    pub fn new(catalog: Catalog, vault: Vault) -> Result<Control, StoreError> {
        let domain = DomainName::parse(GOVERNANCE).map_err(|_| StoreError::UnknownDomain)?;
        let retention =
            RetentionClass::parse(RETENTION).map_err(|_| StoreError::Invalid("a retention class that is not known"))?;
        let scope = Scope { domain: domain.clone(), holder: Holder::Shared, retention, year: 0 };
        Ok(Control { catalog, vault, domain, scope })
    }

    async fn seal(&self, kind: Kind, id: &[u8], position: u64, plain: &[u8]) -> Result<(Vec<u8>, Vec<u8>), StoreError> {
        let name = ObjectName { domain: &self.domain, kind, id, version: position };
        let (sealed, slot) = self.vault.seal(name, &self.scope, plain).await?;
        self.vault.put_slots(&[slot]).await?;
        Ok((slot.object.0.to_vec(), sealed))
    }

    async fn open(
        &self,
        kind: Kind,
        id: &[u8],
        position: u64,
        object: Vec<u8>,
        sealed: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let object = object.try_into().map_err(|_| StoreError::corrupt("an object id in the catalog is too short"))?;
        let name = ObjectName { domain: &self.domain, kind, id, version: position };
        Ok(self.vault.open_object(ObjectId(object), name, sealed).await?.to_vec())
    }

    /// Stores what a control entry says. An entry older than what stands changes nothing, so a replay is harmless.
    pub async fn put(&self, doc: &ControlDoc) -> Result<(), StoreError> {
        let id = doc_id(&doc.kind, &doc.key);
        let (object, body) = self.seal(Kind::Config, &id, doc.position, &doc.body).await?;
        let mut turn = self.catalog.db.write().await?;
        sqlx::query(
            "INSERT INTO control_doc (kind, key, position, object, body) VALUES ($1, $2, $3, $4, $5) ON CONFLICT \
             (kind, key) DO UPDATE SET position = excluded.position, object = excluded.object, body = excluded.body \
             WHERE control_doc.position <= excluded.position",
        )
        .bind(doc.kind.as_str())
        .bind(doc.key.as_str())
        .bind(big(doc.position)?)
        .bind(object)
        .bind(body)
        .execute(&mut *turn.tx)
        .await?;
        turn.commit().await
    }

    pub async fn get(&self, kind: &str, key: &str) -> Result<Option<ControlDoc>, StoreError> {
        let row = sqlx::query("SELECT kind, key, position, object, body FROM control_doc WHERE kind = $1 AND key = $2")
            .bind(kind)
            .bind(key)
            .fetch_optional(self.catalog.db.readers())
            .await?;
        match row {
            Some(row) => Ok(Some(self.doc(&row).await?)),
            None => Ok(None),
        }
    }

    /// All documents of a kind, in the order of keys.
    pub async fn list(&self, kind: &str) -> Result<Vec<ControlDoc>, StoreError> {
        let rows = sqlx::query(
            "SELECT kind, key, position, object, body FROM control_doc WHERE kind = $1 ORDER BY key LIMIT 100000",
        )
        .bind(kind)
        .fetch_all(self.catalog.db.readers())
        .await?;
        let mut docs = Vec::with_capacity(rows.len());
        for row in &rows {
            docs.push(self.doc(row).await?);
        }
        Ok(docs)
    }

    async fn doc(&self, row: &AnyRow) -> Result<ControlDoc, StoreError> {
        let (kind, key): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let position = unbig(row.try_get(2)?);
        let (object, sealed): (Vec<u8>, Vec<u8>) = (row.try_get(3)?, row.try_get(4)?);
        let body = self.open(Kind::Config, &doc_id(&kind, &key), position, object, &sealed).await?;
        Ok(ControlDoc { kind, key, position, body })
    }

    /// Stores a snapshot that the control log names. Again is harmless.
    pub async fn put_snapshot(&self, snapshot: &ProductSnapshot) -> Result<(), StoreError> {
        let id = snapshot_id(&snapshot.domain, &snapshot.product, &snapshot.snapshot);
        let (object, manifest) = self.seal(Kind::Manifest, &id, snapshot.position, &snapshot.manifest).await?;
        let mut turn = self.catalog.db.write().await?;
        sqlx::query(
            "INSERT INTO product_snapshot (domain, product, snapshot, position, created, object, manifest) VALUES ($1, \
             $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
        )
        .bind(snapshot.domain.as_str())
        .bind(snapshot.product.as_str())
        .bind(snapshot.snapshot.as_str())
        .bind(big(snapshot.position)?)
        .bind(snapshot.created.ms())
        .bind(object)
        .bind(manifest)
        .execute(&mut *turn.tx)
        .await?;
        turn.commit().await
    }

    /// The newest snapshots of a product, newest first.
    pub async fn snapshots(
        &self,
        domain: &DomainName,
        product: &str,
        max: usize,
    ) -> Result<Vec<ProductSnapshot>, StoreError> {
        let rows = sqlx::query(
            "SELECT snapshot, position, created, object, manifest FROM product_snapshot WHERE domain = $1 AND \
             product = $2 ORDER BY position DESC LIMIT $3",
        )
        .bind(domain.as_str())
        .bind(product)
        .bind(i64::try_from(max).unwrap_or(i64::MAX))
        .fetch_all(self.catalog.db.readers())
        .await?;
        let mut snapshots = Vec::with_capacity(rows.len());
        for row in &rows {
            let snapshot: String = row.try_get(0)?;
            let position = unbig(row.try_get(1)?);
            let (object, sealed): (Vec<u8>, Vec<u8>) = (row.try_get(3)?, row.try_get(4)?);
            let id = snapshot_id(domain, product, &snapshot);
            let manifest = self.open(Kind::Manifest, &id, position, object, &sealed).await?;
            snapshots.push(ProductSnapshot {
                domain: domain.clone(),
                product: product.to_owned(),
                snapshot,
                position,
                created: Timestamp(row.try_get(2)?),
                manifest,
            });
        }
        Ok(snapshots)
    }
}

fn joined(parts: [&str; 3]) -> Vec<u8> {
    parts.join("\0").into_bytes()
}

fn doc_id(kind: &str, key: &str) -> Vec<u8> {
    joined(["doc", kind, key])
}

fn snapshot_id(domain: &DomainName, product: &str, snapshot: &str) -> Vec<u8> {
    joined([domain.as_str(), product, snapshot])
}
