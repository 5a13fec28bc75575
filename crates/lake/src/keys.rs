//! Keys of product files: one random key a file, from it one key a column and one for the footer.
//!
//! Where file keys live is [`FileKeys`]'s promise (the vault keeps it); how they turn into Parquet's modular encryption
//! is here. No key is logged, printed or kept longer than its reader.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use aws_lc_rs::hkdf;
use base::{DomainName, Timestamp};
use parquet::encryption::decrypt::{FileDecryptionProperties, KeyRetriever};
use parquet::encryption::encrypt::FileEncryptionProperties;
use parquet::errors::ParquetError;
use parquet::schema::types::SchemaDescriptor;
use products::SqlError;

/// A file's key.
pub type FileKey = vault::Key;

/// Where file keys are made, kept and destroyed.
#[async_trait]
pub trait FileKeys: Send + Sync {
    /// A fresh random key for the file at `path`, durable when this returns, with the hex id to find it by.
    async fn create(
        &self,
        domain: &DomainName,
        path: &str,
        retention: Option<&str>,
        at: Timestamp,
    ) -> Result<(String, FileKey), SqlError>;

    /// The key made for this file. One that was destroyed is an error.
    async fn load(&self, domain: &DomainName, path: &str, object: &str) -> Result<FileKey, SqlError>;

    /// Makes the key unreadable by the table it is kept in. One that is gone already is no error.
    async fn destroy(&self, object: &str) -> Result<(), SqlError>;

    /// A key that is the same for the same label as long as the node lives: for keyed masks.
    fn derive(&self, label: &str) -> FileKey;
}

/// The name under which the footer's key is derived; no column path begins with a zero byte.
const FOOTER: &[u8] = b"\0footer";

struct Length;

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        32
    }
}

/// HKDF-SHA-256 of the file key for one leaf path.
fn derived(key: &FileKey, path: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 32];
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"ward parquet column").extract(&key[..]);
    // Both fail only for lengths over 255 hashes.
    if let Ok(okm) = prk.expand(&[path], Length) {
        let _ = okm.fill(&mut out);
    }
    out
}

/// How a file of this schema is encrypted: every column and the footer, the path bound as associated data.
pub fn encryption(
    key: &FileKey,
    path: &str,
    schema: &SchemaDescriptor,
) -> Result<Arc<FileEncryptionProperties>, ParquetError> {
    let mut properties = FileEncryptionProperties::builder(derived(key, FOOTER))
        .with_footer_key_metadata(FOOTER.to_vec())
        .with_aad_prefix(path.as_bytes().to_vec())
        .with_aad_prefix_storage(false);
    for column in schema.columns() {
        let leaf = column.path().string();
        properties =
            properties.with_column_key_and_metadata(&leaf, derived(key, leaf.as_bytes()), leaf.clone().into_bytes());
    }
    properties.build()
}

/// How the file at `path` is decrypted: keys are derived as columns are read.
pub fn decryption(key: FileKey, path: &str) -> Result<Arc<FileDecryptionProperties>, ParquetError> {
    FileDecryptionProperties::with_key_retriever(Arc::new(Derive(key)))
        .with_aad_prefix(path.as_bytes().to_vec())
        .build()
}

struct Derive(FileKey);

impl KeyRetriever for Derive {
    fn retrieve_key(&self, leaf_path: &[u8]) -> Result<Vec<u8>, ParquetError> {
        Ok(derived(&self.0, leaf_path))
    }
}

impl fmt::Debug for Derive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Derive(..)")
    }
}

/// File keys in memory: the fake that tests and the self-test use.
pub struct MemoryFileKeys {
    entropy: Arc<dyn base::Entropy>,
    keys: parking_lot::Mutex<std::collections::HashMap<String, [u8; 32]>>,
}

impl MemoryFileKeys {
    pub fn new(entropy: Arc<dyn base::Entropy>) -> Self {
        MemoryFileKeys { entropy, keys: Default::default() }
    }
}

#[async_trait]
impl FileKeys for MemoryFileKeys {
    async fn create(
        &self,
        _: &DomainName,
        _: &str,
        _: Option<&str>,
        _: Timestamp,
    ) -> Result<(String, FileKey), SqlError> {
        let (mut id, mut key) = ([0; 16], [0; 32]);
        self.entropy.fill(&mut id);
        self.entropy.fill(&mut key);
        self.keys.lock().insert(base::hex::encode(&id), key);
        Ok((base::hex::encode(&id), key.into()))
    }

    async fn load(&self, _: &DomainName, _: &str, object: &str) -> Result<FileKey, SqlError> {
        let key = self.keys.lock().get(object).copied();
        key.map(FileKey::from).ok_or(SqlError::Broken { incident: "no key".into() })
    }

    async fn destroy(&self, object: &str) -> Result<(), SqlError> {
        self.keys.lock().remove(object);
        Ok(())
    }

    fn derive(&self, label: &str) -> FileKey {
        let mut out = [0; 32];
        out.copy_from_slice(&derived(&[1; 32].into(), label.as_bytes()));
        out.into()
    }
}
