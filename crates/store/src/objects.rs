//! [`DurableLocal`]: objects in a local folder that are on the disk when a call returns (law 1).
//!
//! `object_store`'s own local store does not sync; it is used here for what only reads. What writes goes through
//! `folder`, on the port of `disk`. One process at a time has the folder open.
//!
//! Never here: sealing (callers give ciphertext), the log's files (`ledger`), cloud stores.

mod folder;
#[cfg(test)]
mod sim_tests;

use std::fmt;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use disk::{Access, Disk, RealDisk};
use futures::stream::{self, BoxStream, StreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, RenameTargetMode,
    Result, UploadPart,
};

use folder::{Folder, Staged};

const STORE: &str = "DurableLocal";
/// Deletes that share the syncs of their folders.
const DELETES_PER_SYNC: usize = 256;

#[derive(Debug)]
pub struct DurableLocal {
    read: LocalFileSystem,
    folder: Arc<Folder>,
}

impl DurableLocal {
    /// Opens the folder, makes it when missing, and removes what an earlier process left half written.
    pub fn open(folder: impl AsRef<FsPath>) -> Result<Self> {
        let folder = folder.as_ref();
        let opened = RealDisk.make_folder(folder, Access::Usual).and_then(|()| folder.canonicalize());
        let folder = opened.and_then(|folder| Folder::open(Arc::new(RealDisk), &folder)).map_err(generic)?;
        Ok(DurableLocal { read: LocalFileSystem::new_with_prefix(folder.objects())?, folder: Arc::new(folder) })
    }

    /// Runs disk work where it may block.
    async fn blocking<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Folder) -> Result<T> + Send + 'static,
    {
        blocking(self.folder.clone(), work).await
    }

    /// `object_store`'s paths have no `..` and no empty parts; its local store also refuses names that end in `#` and
    /// digits. What passes lies under `objects/`.
    fn place(&self, location: &Path) -> Result<PathBuf> {
        self.read.path_to_filesystem(location)
    }
}

async fn blocking<T, F>(folder: Arc<Folder>, work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce(&Folder) -> Result<T> + Send + 'static,
{
    tokio::task::spawn_blocking(move || work(&folder)).await?
}

fn generic(source: io::Error) -> Error {
    Error::Generic { store: STORE, source: source.into() }
}

/// For errors about one object: what the trait has a word for is said in that word.
fn about(location: &Path) -> impl Fn(io::Error) -> Error + use<> {
    let path = location.to_string();
    move |source| match source.kind() {
        ErrorKind::NotFound => Error::NotFound { path: path.clone(), source: source.into() },
        ErrorKind::AlreadyExists => Error::AlreadyExists { path: path.clone(), source: source.into() },
        ErrorKind::PermissionDenied => Error::PermissionDenied { path: path.clone(), source: source.into() },
        _ => generic(source),
    }
}

fn unsupported(what: &str) -> Error {
    Error::NotImplemented { operation: what.to_owned(), implementer: STORE.to_owned() }
}

impl fmt::Display for DurableLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(STORE)
    }
}

#[async_trait]
impl ObjectStore for DurableLocal {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let create = match opts.mode {
            PutMode::Overwrite => false,
            PutMode::Create => true,
            PutMode::Update(_) => return Err(unsupported("a conditional update")),
        };
        if !opts.attributes.is_empty() {
            return Err(unsupported("attributes of an object"));
        }
        let place = self.place(location)?;
        let error = about(location);
        self.blocking(move |folder| {
            let staged = folder.stage().map_err(generic)?;
            staged.write(payload.iter(), 0).map_err(generic)?;
            folder.place(staged, &place, create).map_err(error)
        })
        .await?;
        let e_tag = self.read.head(location).await?.e_tag;
        Ok(PutResult { e_tag, version: None })
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        if !opts.attributes.is_empty() {
            return Err(unsupported("attributes of an object"));
        }
        let place = self.place(location)?;
        let staged = self.blocking(|folder| folder.stage().map_err(generic)).await?;
        let upload = Upload {
            folder: self.folder.clone(),
            location: location.clone(),
            place,
            staged: Some(Arc::new(staged)),
            offset: 0,
            written: Arc::new(AtomicU64::new(0)),
        };
        Ok(Box::new(upload))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.read.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.read.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let folder = self.folder.clone();
        let read = self.read.clone();
        locations
            .ready_chunks(DELETES_PER_SYNC)
            .then(move |batch| {
                let placed = batch
                    .into_iter()
                    .map(|location| location.and_then(|at| read.path_to_filesystem(&at).map(|place| (at, place))))
                    .collect();
                delete_batch(folder.clone(), placed)
            })
            .flat_map(stream::iter)
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.read.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.read.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.read.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let create = matches!(options.mode, CopyMode::Create);
        let (source, target) = (self.place(from)?, self.place(to)?);
        let error = about(if create { to } else { from });
        self.blocking(move |folder| folder.copy(&source, &target, create).map_err(error)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let create = matches!(options.target_mode, RenameTargetMode::Create);
        let (source, target) = (self.place(from)?, self.place(to)?);
        let error = about(if create { to } else { from });
        self.blocking(move |folder| folder.rename(&source, &target, create).map_err(error)).await
    }
}

/// A delete is told only after its folder was synced.
async fn delete_batch(folder: Arc<Folder>, batch: Vec<Result<(Path, PathBuf)>>) -> Vec<Result<Path>> {
    let work = move |folder: &Folder| {
        let places: Vec<PathBuf> = batch.iter().flatten().map(|(_, place)| place.clone()).collect();
        let mut removed = folder.remove(&places).into_iter();
        let told = batch.into_iter().map(|item| {
            let (location, _) = item?;
            let result = removed.next().unwrap_or_else(|| Err(io::Error::other("the delete was not tried")));
            result.map_err(about(&location)).map(|()| location)
        });
        Ok(told.collect())
    };
    blocking(folder, work).await.unwrap_or_else(|error| vec![Err(error)])
}

/// A write in parts. Parts may be written in any order and at once; `complete` makes the object whole and durable.
#[derive(Debug)]
struct Upload {
    folder: Arc<Folder>,
    location: Path,
    place: PathBuf,
    staged: Option<Arc<Staged>>,
    offset: u64,
    written: Arc<AtomicU64>,
}

fn ended() -> Error {
    generic(io::Error::other("the upload has ended"))
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let offset = self.offset;
        self.offset += data.content_length() as u64;
        let staged = self.staged.clone();
        let written = self.written.clone();
        Box::pin(blocking(self.folder.clone(), move |_| {
            let bytes = staged.ok_or_else(ended)?.write(data.iter(), offset).map_err(generic)?;
            written.fetch_add(bytes, Ordering::SeqCst);
            Ok(())
        }))
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let staged = self.staged.take().ok_or_else(ended)?;
        if self.written.load(Ordering::SeqCst) != self.offset {
            return Err(generic(io::Error::other("a part was not written: the upload is given up")));
        }
        let staged = Arc::try_unwrap(staged).map_err(|_| generic(io::Error::other("a part is still being written")))?;
        let place = self.place.clone();
        let error = about(&self.location);
        blocking(self.folder.clone(), move |folder| folder.place(staged, &place, false).map_err(error)).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn abort(&mut self) -> Result<()> {
        self.staged.take().map(drop).ok_or_else(ended)
    }
}

#[cfg(test)]
mod tests;
