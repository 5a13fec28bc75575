//! Opens product files: ranges from the object store, footers decrypted once and kept.
//!
//! An encrypted footer costs as much to decrypt as a short scan, so it is cached by file and class of principal (the
//! same masks and rights), with a bound in bytes and in time: a key destroyed elsewhere is forgotten here soon. Page
//! indexes are read with it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use base::{Clock, Timestamp};
use bytes::Bytes;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::encryption::decrypt::FileDecryptionProperties;
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};

/// Footers of all files of the node together.
const CACHE_BYTES_MAX: usize = 64 << 20;
/// A cached footer holds keys, so it is not kept longer than this.
const CACHE_TTL_MS: i64 = 300_000;
/// How much of a file's end is read at first: most footers fit.
const FOOTER_BYTES_HINT: usize = 64 << 10;

/// Those who may see the same of a file share its footer.
pub type PrincipalClass = u64;

struct Kept {
    footer: Arc<ParquetMetaData>,
    bytes: usize,
    until: Timestamp,
    used: u64,
}

/// Footers that were decrypted lately.
pub struct Footers {
    clock: Arc<dyn Clock>,
    kept: Mutex<(HashMap<(String, PrincipalClass), Kept>, u64)>,
}

impl Footers {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Footers { clock, kept: Mutex::default() }
    }

    fn get(&self, path: &str, class: PrincipalClass) -> Option<Arc<ParquetMetaData>> {
        let (kept, tick) = &mut *self.kept.lock();
        *tick += 1;
        let found = kept.get_mut(&(path.to_owned(), class))?;
        found.used = *tick;
        (self.clock.now() < found.until).then(|| found.footer.clone())
    }

    fn put(&self, path: &str, class: PrincipalClass, footer: &Arc<ParquetMetaData>) {
        let now = self.clock.now();
        let (kept, tick) = &mut *self.kept.lock();
        *tick += 1;
        let fresh =
            Kept { footer: footer.clone(), bytes: footer.memory_size(), until: now.plus_ms(CACHE_TTL_MS), used: *tick };
        kept.insert((path.to_owned(), class), fresh);
        kept.retain(|_, k| now < k.until);
        while kept.values().map(|k| k.bytes).sum::<usize>() > CACHE_BYTES_MAX {
            let Some(oldest) = kept.iter().min_by_key(|(_, k)| k.used).map(|(key, _)| key.clone()) else { break };
            kept.remove(&oldest);
        }
    }

    /// Forgets a file: its key was destroyed or the file removed.
    pub fn forget(&self, path: &str) {
        self.kept.lock().0.retain(|(kept, _), _| kept != path);
    }
}

/// Opens the files of one table for one class of principal.
pub struct Opener {
    store: Arc<dyn ObjectStore>,
    footers: Arc<Footers>,
    class: PrincipalClass,
    keys: HashMap<String, Arc<FileDecryptionProperties>>,
}

impl Opener {
    pub fn new(
        store: Arc<dyn ObjectStore>,
        footers: Arc<Footers>,
        class: PrincipalClass,
        keys: HashMap<String, Arc<FileDecryptionProperties>>,
    ) -> Self {
        Opener { store, footers, class, keys }
    }

    /// A reader for a file of the table.
    pub fn open(&self, path: &Path, bytes: u64) -> Result<Reader> {
        let Some(key) = self.keys.get(path.as_ref()) else {
            return Err(DataFusionError::Internal("a file without a key was asked for".into()));
        };
        Ok(Reader {
            store: self.store.clone(),
            footers: self.footers.clone(),
            class: self.class,
            path: path.clone(),
            bytes,
            key: key.clone(),
        })
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opener").field("files", &self.keys.len()).finish_non_exhaustive()
    }
}

impl ParquetFileReaderFactory for Opener {
    fn create_reader(
        &self,
        _partition: usize,
        file: PartitionedFile,
        _hint: Option<usize>,
        _metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        Ok(Box::new(self.open(&file.object_meta.location, file.object_meta.size)?))
    }
}

/// One open file.
pub struct Reader {
    store: Arc<dyn ObjectStore>,
    footers: Arc<Footers>,
    class: PrincipalClass,
    path: Path,
    bytes: u64,
    key: Arc<FileDecryptionProperties>,
}

impl Reader {
    async fn footer(&mut self) -> Result<Arc<ParquetMetaData>, ParquetError> {
        if let Some(footer) = self.footers.get(self.path.as_ref(), self.class) {
            return Ok(footer);
        }
        let reader = ParquetMetaDataReader::new()
            .with_decryption_properties(Some(self.key.clone()))
            .with_page_index_policy(PageIndexPolicy::Optional)
            .with_prefetch_hint(Some(FOOTER_BYTES_HINT));
        let bytes = self.bytes;
        let footer = Arc::new(reader.load_and_finish(&mut *self, bytes).await?);
        self.footers.put(self.path.as_ref(), self.class, &footer);
        Ok(footer)
    }
}

impl AsyncFileReader for Reader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        self.store.get_range(&self.path, range).map_err(|e| ParquetError::External(Box::new(e))).boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        async move { self.store.get_ranges(&self.path, &ranges).await.map_err(|e| ParquetError::External(Box::new(e))) }
            .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        self.footer().boxed()
    }
}
