//! Proves at start-up that the Parquet writer of this build encrypts.
//!
//! A build without the cargo feature, or with a broken one, would write plaintext and say nothing. So a sentinel is
//! written to memory, looked for in the bytes, read back with its key, and refused without it and with another.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use base::{Entropy, SystemClock, SystemEntropy};
use futures::StreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ParquetRecordBatchStreamBuilder;
use parquet::file::metadata::ParquetMetaDataReader;

use crate::build::encrypted;
use crate::footers::{Footers, Opener};
use crate::keys::{FileKey, decryption};
use crate::sink::MAGIC;

const SENTINEL: &str = "WARD-SENTINEL-9f2c71";
const PATH: &str = "self-test.parquet";

/// `Err` names the promise that does not hold.
pub async fn prove() -> Result<(), &'static str> {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let mut key = FileKey::default();
    SystemEntropy.fill(&mut key[..]);
    let schema = Arc::new(Schema::new(vec![Field::new(SENTINEL, DataType::Utf8, false)]));
    let values: ArrayRef = Arc::new(StringArray::from(vec![SENTINEL; 100]));
    let batch = RecordBatch::try_new(schema.clone(), vec![values]).map_err(|_| "a batch can be made")?;
    encrypted(store.as_ref(), &key, PATH, schema, std::iter::once(Ok(batch)))
        .await
        .map_err(|_| "an encrypted file can be written")?;

    let bytes = store.get(&Path::from(PATH)).await.map_err(|_| "a written file is there")?;
    let bytes = bytes.bytes().await.map_err(|_| "a written file can be read")?;
    if !bytes.starts_with(MAGIC) || !bytes.ends_with(MAGIC) {
        return Err("a file carries the mark of an encrypted footer");
    }
    if bytes.windows(SENTINEL.len()).any(|w| w == SENTINEL.as_bytes()) {
        return Err("neither values nor column names stand in a file in the clear");
    }
    if ParquetMetaDataReader::new().parse_and_finish(&bytes).is_ok() {
        return Err("a file does not open without its key");
    }
    if read(&store, [1; 32].into(), PATH).await.is_some() {
        return Err("a file does not open under another key");
    }
    if read(&store, key, PATH).await != Some(100) {
        return Err("a file opens under its key");
    }
    Ok(())
}

/// The rows of a file, `None` when it does not open.
pub async fn read(store: &Arc<dyn ObjectStore>, key: FileKey, path: &str) -> Option<usize> {
    let keys = HashMap::from([(path.to_owned(), decryption(key, path).ok()?)]);
    let opener = Opener::new(store.clone(), Arc::new(Footers::new(Arc::new(SystemClock))), 0, keys);
    let path = Path::from(path);
    let size = store.head(&path).await.ok()?.size;
    let reader = opener.open(&path, size).ok()?;
    let mut stream = ParquetRecordBatchStreamBuilder::new(reader).await.ok()?.build().ok()?;
    let mut rows = 0;
    while let Some(batch) = stream.next().await {
        rows += batch.ok()?.num_rows();
    }
    Some(rows)
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn this_build_encrypts() {
        assert_eq!(super::prove().await, Ok(()));
    }
}
