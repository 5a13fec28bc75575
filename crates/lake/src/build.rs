//! Writes the files of a snapshot: rows into buckets by patient ordinal, each sorted, each file under its own key.
//!
//! Memory is bounded: when the rows held grow past the budget, the fullest bucket becomes a file. Files are committed
//! one by one; if anything fails, those already written are removed and their keys destroyed.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch, UInt32Array};
use arrow::compute::{sort_to_indices, take_record_batch};
use arrow::datatypes::{Schema, SchemaRef};
use base::DomainName;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::arrow::{ArrowSchemaConverter, AsyncArrowWriter};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use products::{BuildTarget, Built, Cell, ResourceRows, RowSource, SnapshotFile, SqlError};

use crate::cells::Row;
use crate::keys::{FileKey, FileKeys, encryption};
use crate::sink::Sink;
use crate::{cells, error};

/// Rows of one bucket that make it worth its file.
const ROWS_PER_BUCKET: u64 = 100_000;
const BUCKETS_MAX: u64 = 16;
/// Rows of a row group: small enough that cores share a file.
const ROW_GROUP_ROWS: usize = 128 << 10;
/// Rows made into one Arrow batch.
const BATCH_ROWS: usize = 8_192;

/// Writes all of `rows`.
pub async fn build(
    store: &Arc<dyn ObjectStore>,
    keys: &dyn FileKeys,
    target: &BuildTarget,
    rows: &mut dyn RowSource,
    memory_bytes_max: usize,
) -> Result<Built, SqlError> {
    let buckets = (rows.rows_hint() / ROWS_PER_BUCKET + 1).next_power_of_two().min(BUCKETS_MAX);
    let mut builder = Builder {
        store,
        keys,
        target,
        buckets: (0..buckets).map(|_| Bucket::default()).collect(),
        newest: HashMap::new(),
        unfit: vec![0; target.columns.len()],
        built: Built::default(),
    };
    match builder.run(rows, memory_bytes_max).await {
        Ok(()) => Ok(builder.finish()),
        Err(failed) => {
            for file in &builder.built.files {
                if keys.destroy(&file.object).await.is_err() {
                    tracing::warn!(bucket = file.bucket, "the key of an unfinished product file stays behind");
                }
            }
            remove(store.as_ref(), &builder.built.files).await;
            Err(failed)
        }
    }
}

/// Removes files; one that is gone already is no error, one that stays is told in the log.
pub async fn remove(store: &dyn ObjectStore, files: &[SnapshotFile]) {
    for file in files {
        match store.delete(&Path::from(file.path.as_str())).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(_) => tracing::warn!(bucket = file.bucket, "a product file could not be removed"),
        }
    }
}

#[derive(Default)]
struct Bucket {
    resources: Vec<ResourceRows>,
    bytes: usize,
    parts: u32,
}

/// The newest change of a resource, and whether rows of it are in a file already.
struct Newest {
    change: u64,
    written: bool,
}

struct Builder<'a> {
    store: &'a Arc<dyn ObjectStore>,
    keys: &'a dyn FileKeys,
    target: &'a BuildTarget,
    buckets: Vec<Bucket>,
    newest: HashMap<u128, Newest>,
    unfit: Vec<u64>,
    built: Built,
}

impl Builder<'_> {
    async fn run(&mut self, source: &mut dyn RowSource, memory_bytes_max: usize) -> Result<(), SqlError> {
        let mut held = 0;
        while let Some(resources) = source.next().await? {
            for resource in resources {
                self.supersede(&resource)?;
                let index = resource.patient.0 as usize % self.buckets.len();
                let bytes = bytes_of(&resource);
                let bucket = &mut self.buckets[index];
                bucket.bytes += bytes;
                bucket.resources.push(resource);
                held += bytes;
            }
            while held > memory_bytes_max {
                let Some(fullest) = (0..self.buckets.len()).max_by_key(|i| self.buckets[*i].bytes) else { break };
                held -= self.flush(fullest).await?;
            }
        }
        for index in 0..self.buckets.len() {
            self.flush(index).await?;
        }
        Ok(())
    }

    /// Notes the newest change. Where older rows are in a file already, the build must begin anew.
    fn supersede(&mut self, resource: &ResourceRows) -> Result<(), SqlError> {
        let fresh = Newest { change: resource.change, written: false };
        match self.newest.insert(resource.key, fresh) {
            Some(older) if older.written => Err(SqlError::Busy { retry_after_ms: 0 }),
            _ => Ok(()),
        }
    }

    /// Writes what a bucket holds; the bytes it held.
    async fn flush(&mut self, index: usize) -> Result<usize, SqlError> {
        let bucket = &mut self.buckets[index];
        let (resources, bytes, part) =
            (std::mem::take(&mut bucket.resources), std::mem::take(&mut bucket.bytes), bucket.parts);
        let mut rows = Vec::new();
        for resource in resources {
            let newest = self.newest.get_mut(&resource.key).filter(|newest| newest.change == resource.change);
            let Some(newest) = newest else { continue };
            newest.written = true;
            let (patient, sensitivity) = (resource.patient, resource.sensitivity);
            rows.extend(resource.rows.into_iter().map(|cells| Row { patient, sensitivity, cells }));
        }
        if rows.is_empty() {
            return Ok(bytes);
        }
        self.buckets[index].parts += 1;
        rows.sort_by_key(|row| row.patient);
        let table = &self.target.table;
        let path =
            format!("gold/{}/{}/{}/{index:02}-{part:04}.parquet", table.domain, table.product, self.target.snapshot);
        let batches = rows.chunks(BATCH_ROWS).map(|chunk| cells::batch(&self.target.columns, chunk, &mut self.unfit));
        let schema = Arc::new(cells::file_schema(&cells::schema(&self.target.columns)));
        let written = write_file(
            self.store.as_ref(),
            self.keys,
            FileTarget { domain: &table.domain, path, bucket: index as u16, target: self.target },
            schema,
            batches,
        )
        .await?;
        self.built.rows += written.rows;
        self.built.files.push(written);
        Ok(bytes)
    }

    fn finish(self) -> Built {
        let counted = self.target.columns.iter().zip(&self.unfit).filter(|(_, n)| **n > 0);
        let unfit = counted.map(|(column, n)| (column.name.clone(), *n)).collect();
        Built { unfit, buckets: self.buckets.len() as u16, ..self.built }
    }
}

/// About what the rows of a resource hold in memory.
fn bytes_of(resource: &ResourceRows) -> usize {
    fn cell(one: &Cell) -> usize {
        std::mem::size_of::<Cell>()
            + match one {
                Cell::Text(text) | Cell::Decimal(text) => text.capacity(),
                Cell::List(items) => items.iter().map(cell).sum(),
                _ => 0,
            }
    }
    std::mem::size_of::<ResourceRows>() + resource.rows.iter().flatten().map(cell).sum::<usize>()
}

/// Where one file goes.
pub struct FileTarget<'a> {
    pub domain: &'a DomainName,
    pub path: String,
    pub bucket: u16,
    pub target: &'a BuildTarget,
}

/// Writes one file under a fresh key. Nothing is visible at its path unless this returns `Ok`.
pub async fn write_file(
    store: &dyn ObjectStore,
    keys: &dyn FileKeys,
    file: FileTarget<'_>,
    schema: SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch, arrow::error::ArrowError>>,
) -> Result<SnapshotFile, SqlError> {
    let (object, key) = keys.create(file.domain, &file.path, file.target.retention.as_deref(), file.target.at).await?;
    let (bytes, sha256, rows) = encrypted(store, &key, &file.path, schema, batches).await.map_err(error::write)?;
    Ok(SnapshotFile { path: file.path, rows, bytes, object, sha256, bucket: file.bucket })
}

/// Writes an encrypted file and looks at it: its bytes, hash and rows.
pub async fn encrypted(
    store: &dyn ObjectStore,
    key: &FileKey,
    path: &str,
    schema: SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch, arrow::error::ArrowError>>,
) -> Result<(u64, String, u64), ParquetError> {
    let options = ArrowWriterOptions::new().with_properties(properties(key, path, &schema)?);
    let (sink, written) = Sink::begin(store, &Path::from(path)).await?;
    let mut writer = AsyncArrowWriter::try_new_with_options(sink, schema, options)?;
    let mut rows = 0;
    let outcome = async {
        for batch in batches {
            let batch = batch?;
            rows += batch.num_rows() as u64;
            writer.write(&batch).await?;
        }
        writer.finish().await
    }
    .await;
    if let Err(failed) = outcome {
        writer.into_inner().abort().await;
        return Err(failed);
    }
    let written = written.lock().clone();
    Ok((written.bytes, written.sha256, rows))
}

/// zstd, page statistics (they are encrypted with their column), no bloom filters (they would be in the clear).
fn properties(key: &FileKey, path: &str, schema: &Schema) -> Result<WriterProperties, ParquetError> {
    let parquet = ArrowSchemaConverter::new().convert(schema)?;
    Ok(WriterProperties::builder()
        .set_created_by("wardmesh".into())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_bloom_filter_enabled(false)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .with_file_encryption_properties(encryption(key, path, &parquet)?)
        .build())
}

/// Sorts a batch of a file by patient, for callers that bring Arrow instead of cells.
pub fn sorted(batch: &RecordBatch) -> Result<RecordBatch, arrow::error::ArrowError> {
    let ordinals = batch.column(batch.num_columns() - 2);
    debug_assert!(ordinals.as_any().is::<UInt32Array>());
    take_record_batch(batch, &sort_to_indices(ordinals, None, None)?)
}
