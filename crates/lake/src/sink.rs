//! Streams a Parquet file into the object store and looks at its magic before it becomes visible.
//!
//! Without its cargo feature the Parquet writer would write plaintext and say nothing; an encrypted footer is marked
//! `PARE` at both ends, a plain one `PAR1`. What is not `PARE` is aborted and never committed.

use std::sync::Arc;

use aws_lc_rs::digest;
use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use parking_lot::Mutex;
use parquet::arrow::async_writer::AsyncFileWriter;
use parquet::errors::ParquetError;

/// First and last four bytes of a file whose footer is encrypted (Parquet modular encryption §5.1).
pub const MAGIC: &[u8; 4] = b"PARE";

/// S3's smallest part, but for the last.
const PART_BYTES: usize = 8 << 20;

/// What was written: filled when the file is committed.
#[derive(Debug, Clone, Default)]
pub struct Written {
    pub bytes: u64,
    pub sha256: String,
}

/// The writer's end of the stream.
pub struct Sink {
    upload: Box<dyn MultipartUpload>,
    buffer: BytesMut,
    head: Vec<u8>,
    tail: Vec<u8>,
    bytes: u64,
    hash: Option<digest::Context>,
    written: Arc<Mutex<Written>>,
}

impl Sink {
    pub async fn begin(store: &dyn ObjectStore, path: &Path) -> Result<(Sink, Arc<Mutex<Written>>), ParquetError> {
        let upload = store.put_multipart(path).await.map_err(external)?;
        let written = Arc::new(Mutex::new(Written::default()));
        let sink = Sink {
            upload,
            buffer: BytesMut::new(),
            head: Vec::new(),
            tail: Vec::new(),
            bytes: 0,
            hash: Some(digest::Context::new(&digest::SHA256)),
            written: written.clone(),
        };
        Ok((sink, written))
    }

    /// Drops what was sent so far.
    pub async fn abort(&mut self) {
        if self.upload.abort().await.is_err() {
            tracing::warn!("an unfinished product file could not be aborted; the next clean-up removes it");
        }
    }

    fn note(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        let missing = MAGIC.len().saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..missing]);
        self.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(MAGIC.len())..]);
        let over = self.tail.len().saturating_sub(MAGIC.len());
        self.tail.drain(..over);
    }

    async fn send(&mut self, all: bool) -> Result<(), ParquetError> {
        while self.buffer.len() >= PART_BYTES || (all && !self.buffer.is_empty()) {
            let part = self.buffer.split_to(self.buffer.len().min(PART_BYTES)).freeze();
            self.upload.put_part(PutPayload::from_bytes(part)).await.map_err(external)?;
        }
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), ParquetError> {
        if self.head != MAGIC || self.tail != MAGIC {
            self.abort().await;
            return Err(ParquetError::General("the file is not encrypted and was not committed".into()));
        }
        self.send(true).await?;
        self.upload.complete().await.map_err(external)?;
        if let Some(hash) = self.hash.take() {
            *self.written.lock() = Written { bytes: self.bytes, sha256: base::hex::encode(hash.finish().as_ref()) };
        }
        Ok(())
    }
}

impl AsyncFileWriter for Sink {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, parquet::errors::Result<()>> {
        async move {
            self.note(&bytes);
            self.buffer.extend_from_slice(&bytes);
            self.send(false).await
        }
        .boxed()
    }

    fn complete(&mut self) -> BoxFuture<'_, parquet::errors::Result<()>> {
        self.commit().boxed()
    }
}

fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn only_an_encrypted_file_is_committed() {
        for (bytes, good) in [("PARE....PARE", true), ("PAR1....PAR1", false), ("PARE....PAR1", false), ("PA", false)] {
            let store = InMemory::new();
            let path = Path::from("x.parquet");
            let (mut sink, written) = Sink::begin(&store, &path).await.unwrap();
            for byte in bytes.as_bytes() {
                sink.write(Bytes::copy_from_slice(&[*byte])).await.unwrap();
            }
            assert_eq!(sink.complete().await.is_ok(), good, "{bytes}");
            assert_eq!(store.head(&path).await.is_ok(), good, "{bytes}");
            assert_eq!(written.lock().bytes, if good { 12 } else { 0 });
        }
    }
}
