//! Which snapshots exist: those whose manifest's hash stands in the control log.
//!
//! Publishing seals the manifest, stores it as an object and appends a control entry that names its hash; only then can
//! a reader get it, and a reader gets it only while stored manifest and logged hash agree. Memory here is a cache with a
//! position: opening reads the log again. A file list that nobody logged is nothing.

use std::collections::HashMap;
use std::sync::Arc;

use base::{DomainName, Layer, Permit, Timestamp, Write};
use bytes::Bytes;
use ledger::{Log, NewEntry};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use vault::{Holder, Kind, ObjectId, ObjectName, RetentionClass, Scope, Slot, Vault};

use crate::manifest::Manifest;
use crate::sql::TableName;

/// First part of a control entry of ours, in the clear.
const LABEL: &[u8] = b"product-snapshot/1 ";
/// Entries read at once while catching up.
const READ_ENTRIES: usize = 256;
const READ_BYTES: usize = 8 << 20;
/// Manifests kept in memory.
const KEPT_MAX: usize = 256;

/// Why a snapshot could not be published or read. Names no data.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("the permit does not cover the {0} asked for")]
    NotCovered(&'static str),
    #[error("the product has no snapshot yet: build it")]
    None,
    /// Somebody changed or put there a manifest that the control log does not know.
    #[error("the stored manifest is not the one the control log names: restore it, or build the product anew")]
    Forged,
    #[error("the control log cannot be used now")]
    Log(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the vault cannot be used now")]
    Vault(#[from] vault::VaultError),
    #[error("the object store cannot be used now")]
    Objects(#[from] object_store::Error),
}

/// What a control entry says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    Published {
        snapshot: Published,
    },
    /// The snapshot may not be read any more; its files are being removed.
    Retired {
        domain: DomainName,
        product: String,
        snapshot: String,
        at: Timestamp,
    },
}

/// A snapshot as the log knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    pub domain: DomainName,
    pub product: String,
    pub version: String,
    pub snapshot: String,
    /// Hex SHA-256 of the manifest's bytes.
    pub manifest: String,
    /// The vault object of the sealed manifest.
    pub object: String,
    pub rows: u64,
    pub change: u64,
    pub at: Timestamp,
}

impl Published {
    fn path(&self) -> String {
        format!("gold/{}/{}/{}/manifest", self.domain, self.product, self.snapshot)
    }
}

#[derive(Default)]
struct State {
    /// The next control entry to look at.
    position: u64,
    /// By table, oldest first.
    living: HashMap<TableName, Vec<Published>>,
    manifests: HashMap<String, Arc<Manifest>>,
}

/// The book of snapshots.
#[derive(Clone)]
pub struct SnapshotBook(Arc<Inner>);

struct Inner {
    log: Log,
    vault: Vault,
    objects: Arc<dyn ObjectStore>,
    state: RwLock<State>,
    /// One reader of the log at a time, so that events apply in order.
    follow: tokio::sync::Mutex<()>,
}

impl SnapshotBook {
    /// Reads the control log from its beginning.
    pub async fn open(log: Log, vault: Vault, objects: Arc<dyn ObjectStore>) -> Result<Self, SnapshotError> {
        let inner = Inner { log, vault, objects, state: RwLock::default(), follow: tokio::sync::Mutex::new(()) };
        let book = SnapshotBook(Arc::new(inner));
        book.follow().await?;
        Ok(book)
    }

    /// Applies what the log has beyond our position.
    pub async fn follow(&self) -> Result<(), SnapshotError> {
        let _one = self.0.follow.lock().await;
        loop {
            let position = self.0.state.read().position;
            let entries =
                self.0.log.read(position, READ_ENTRIES, READ_BYTES).map_err(|e| SnapshotError::Log(e.into()))?;
            if entries.is_empty() {
                return Ok(());
            }
            for entry in entries {
                let event = self.open_entry(&entry.parts, &entry.slots).await?;
                let mut state = self.0.state.write();
                state.position = entry.index + 1;
                if let Some(event) = event {
                    state.apply(event);
                }
            }
        }
    }

    /// `None` for entries that are not ours.
    async fn open_entry(&self, parts: &[Bytes], slots: &[u8]) -> Result<Option<Event>, SnapshotError> {
        let [label, sealed] = parts else { return Ok(None) };
        let Some(domain) = label.strip_prefix(LABEL) else { return Ok(None) };
        let domain = std::str::from_utf8(domain).ok().and_then(|d| DomainName::parse(d).ok());
        let (Some(domain), Some(slot)) = (domain, Slot::from_bytes(slots)) else { return Err(SnapshotError::Forged) };
        let plain = self.0.vault.open_with_slot(&slot, entry_name(&domain), sealed).await?;
        serde_json::from_slice(&plain).map(Some).map_err(|_| SnapshotError::Forged)
    }

    async fn append(&self, domain: &DomainName, event: &Event, at: Timestamp) -> Result<u64, SnapshotError> {
        // A struct of strings and numbers always serialises.
        let plain = serde_json::to_vec(event).unwrap_or_default();
        let (sealed, slot) = self.0.vault.seal(entry_name(domain), &scope(domain, at), &plain).await?;
        let label = [LABEL, domain.as_str().as_bytes()].concat();
        let entry = NewEntry { parts: vec![Bytes::from(label), Bytes::from(sealed)], slots: slot.to_bytes().to_vec() };
        let index = self.0.log.append(entry).await.map_err(|e| SnapshotError::Log(e.into()))?;
        self.follow().await?;
        Ok(index)
    }

    /// Makes a snapshot exist. When this returns its control entry is durable and readers get it.
    pub async fn publish(&self, permit: &Permit<Write>, manifest: &Manifest) -> Result<u64, SnapshotError> {
        covers(permit, &manifest.domain, &manifest.product)?;
        let bytes = manifest.to_bytes();
        let mut published = Published {
            domain: manifest.domain.clone(),
            product: manifest.product.clone(),
            version: manifest.version.clone(),
            snapshot: manifest.snapshot.clone(),
            manifest: sha256(&bytes),
            object: String::new(),
            rows: manifest.rows,
            change: manifest.change,
            at: manifest.created,
        };
        let path = published.path();
        let scope = scope(&manifest.domain, manifest.created);
        let (sealed, slot) = self.0.vault.seal(manifest_name(&manifest.domain, &path), &scope, &bytes).await?;
        published.object = slot.object.to_string();
        self.0.vault.put_slots(&[slot]).await?;
        self.0.objects.put(&Path::from(path), sealed.into()).await?;
        self.append(&manifest.domain, &Event::Published { snapshot: published }, manifest.created).await
    }

    /// Ends a snapshot: when this returns no reader gets it any more. Its files are the caller's to remove.
    pub async fn retire(
        &self,
        permit: &Permit<Write>,
        published: &Published,
        at: Timestamp,
    ) -> Result<u64, SnapshotError> {
        covers(permit, &published.domain, &published.product)?;
        let event = Event::Retired {
            domain: published.domain.clone(),
            product: published.product.clone(),
            snapshot: published.snapshot.clone(),
            at,
        };
        let index = self.append(&published.domain, &event, at).await?;
        if let Some(object) = ObjectId::parse(&published.object) {
            self.0.vault.delete_slots(&[object]).await?;
        }
        match self.0.objects.delete(&Path::from(published.path())).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(index),
            Err(error) => Err(error.into()),
        }
    }

    /// Living snapshots of a table, oldest first.
    pub fn living(&self, table: &TableName) -> Vec<Published> {
        self.0.state.read().living.get(table).cloned().unwrap_or_default()
    }

    /// Tables of a domain that have living snapshots.
    pub fn tables(&self, domain: &DomainName) -> Vec<TableName> {
        let state = self.0.state.read();
        let living = state.living.iter().filter(|(table, all)| table.domain == *domain && !all.is_empty());
        living.map(|(table, _)| table.clone()).collect()
    }

    /// The newest snapshot's manifest, checked against the hash in the log.
    pub async fn current(&self, table: &TableName) -> Result<Arc<Manifest>, SnapshotError> {
        let newest = self.0.state.read().living.get(table).and_then(|all| all.last().cloned());
        self.manifest(&newest.ok_or(SnapshotError::None)?).await
    }

    /// A snapshot's manifest, checked against the hash in the log.
    pub async fn manifest(&self, published: &Published) -> Result<Arc<Manifest>, SnapshotError> {
        if let Some(known) = self.0.state.read().manifests.get(&published.manifest) {
            return Ok(known.clone());
        }
        let path = published.path();
        let sealed = match self.0.objects.get(&Path::from(path.as_str())).await {
            Ok(found) => found.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => return Err(SnapshotError::Forged),
            Err(error) => return Err(error.into()),
        };
        let object = ObjectId::parse(&published.object).ok_or(SnapshotError::Forged)?;
        let name = manifest_name(&published.domain, &path);
        let plain = match self.0.vault.open_object(object, name, &sealed).await {
            Ok(plain) => plain,
            Err(error) if error.is_outage() => return Err(error.into()),
            Err(_) => return Err(SnapshotError::Forged),
        };
        if sha256(&plain) != published.manifest {
            return Err(SnapshotError::Forged);
        }
        let manifest = Arc::new(Manifest::from_bytes(&plain).ok_or(SnapshotError::Forged)?);
        let mut state = self.0.state.write();
        if state.manifests.len() >= KEPT_MAX {
            state.manifests.clear();
        }
        state.manifests.insert(published.manifest.clone(), manifest.clone());
        Ok(manifest)
    }
}

impl State {
    fn apply(&mut self, event: Event) {
        match event {
            Event::Published { snapshot } => {
                let table = TableName { domain: snapshot.domain.clone(), product: snapshot.product.clone() };
                self.living.entry(table).or_default().push(snapshot);
            }
            Event::Retired { domain, product, snapshot, .. } => {
                let table = TableName { domain, product };
                if let Some(all) = self.living.get_mut(&table) {
                    all.retain(|one| one.snapshot != snapshot);
                }
            }
        }
    }
}

fn covers(permit: &Permit<Write>, domain: &DomainName, product: &str) -> Result<(), SnapshotError> {
    permit.covers_kind(domain, Layer::Gold, product).map_err(|e| SnapshotError::NotCovered(e.0))
}

fn entry_name(domain: &DomainName) -> ObjectName<'_> {
    ObjectName { domain, kind: Kind::Config, id: b"control/product-snapshot", version: 1 }
}

fn manifest_name<'a>(domain: &'a DomainName, path: &'a str) -> ObjectName<'a> {
    ObjectName { domain, kind: Kind::Manifest, id: path.as_bytes(), version: 0 }
}

/// Manifests and their entries name no patient, so one scope of the domain holds them.
fn scope(domain: &DomainName, at: Timestamp) -> Scope {
    Scope {
        domain: domain.clone(),
        holder: Holder::Shared,
        retention: RetentionClass::parse("control").unwrap_or_else(|_| RetentionClass::unassigned()),
        year: u16::try_from(at.year()).unwrap_or_default(),
    }
}

fn sha256(bytes: &[u8]) -> String {
    base::hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref())
}
