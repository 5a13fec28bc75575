//! [`DurableLocal`]: objects in a local folder that are on the disk when a call returns (law 1).
//!
//! `object_store`'s own local store does not sync; it is used here for what only reads. Every write goes to
//! `staging/`, is synced, takes its place under `objects/` by rename or link, and then the folder is synced, and each
//! folder that was made on the way. What a crash left in `staging/` is collected at the next open. One process at a
//! time has the folder open.
//!
//! Never here: sealing (callers give ciphertext), the log's files (`ledger`), cloud stores.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, RenameTargetMode,
    Result, UploadPart,
};
use parking_lot::Mutex;

const STORE: &str = "DurableLocal";
/// Folders remembered as synced; more are synced again.
const KNOWN_FOLDERS_MAX: usize = 65_536;
/// Deletes that share the syncs of their folders.
const DELETES_PER_SYNC: usize = 256;

#[derive(Debug)]
pub struct DurableLocal {
    read: LocalFileSystem,
    disk: Arc<Disk>,
}

/// The folder, and what is known of it.
#[derive(Debug)]
struct Disk {
    objects: PathBuf,
    staging: PathBuf,
    next: AtomicU64,
    /// Folders whose entries in their parents are on the disk.
    known: Mutex<HashSet<PathBuf>>,
}

impl DurableLocal {
    /// Opens the folder, makes it when missing, and removes what an earlier process left half written.
    pub fn open(folder: impl AsRef<FsPath>) -> Result<Self> {
        let folder = folder.as_ref();
        let open = || -> io::Result<Disk> {
            make_folder(folder)?;
            let folder = folder.canonicalize()?;
            let (objects, staging) = (folder.join("objects"), folder.join("staging"));
            make_folder(&objects)?;
            make_folder(&staging)?;
            for leftover in fs::read_dir(&staging)? {
                fs::remove_file(leftover?.path())?;
            }
            let known = Mutex::new(HashSet::from([objects.clone()]));
            Ok(Disk { objects, staging, next: AtomicU64::new(0), known })
        };
        let disk = open().map_err(generic)?;
        Ok(DurableLocal { read: LocalFileSystem::new_with_prefix(&disk.objects)?, disk: Arc::new(disk) })
    }

    /// Runs disk work where it may block.
    async fn blocking<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Disk) -> Result<T> + Send + 'static,
    {
        blocking(self.disk.clone(), work).await
    }

    /// `object_store`'s paths have no `..` and no empty parts; its local store also refuses names that end in `#` and
    /// digits. What passes lies under `objects/`.
    fn place(&self, location: &Path) -> Result<PathBuf> {
        self.read.path_to_filesystem(location)
    }
}

async fn blocking<T, F>(disk: Arc<Disk>, work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce(&Disk) -> Result<T> + Send + 'static,
{
    tokio::task::spawn_blocking(move || work(&disk)).await?
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

fn sync_folder(folder: &FsPath) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Makes one folder and the missing ones above it, each durable in its parent.
fn make_folder(folder: &FsPath) -> io::Result<()> {
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
    match fs::create_dir(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {
            make_folder(parent.ok_or(error)?)?;
            match fs::create_dir(folder) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Err(error) => return Err(error),
    }
    // Also when another had made it: that other may not have come to its sync yet.
    sync_folder(parent.unwrap_or(FsPath::new(".")))
}

impl Disk {
    /// A new file in `staging/`, removed when dropped unless it took its place.
    fn stage(&self) -> io::Result<Staged> {
        let path = self.staging.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Staged { path, file })
    }

    /// Makes sure that the folder of `place` is there, is durable, and is no link that leads out.
    fn prepare<'a>(&self, place: &'a FsPath) -> io::Result<&'a FsPath> {
        let folder = place.parent().unwrap_or(place);
        let mut missing = Vec::new();
        let mut at = folder;
        while !self.known.lock().contains(at) {
            missing.push(at);
            at = at.parent().ok_or_else(|| io::Error::other("the place lies outside the folder"))?;
        }
        for folder in missing.into_iter().rev() {
            make_folder(folder)?;
            if folder.canonicalize()? != folder {
                return Err(io::Error::other("a folder on the way is a link"));
            }
            let mut known = self.known.lock();
            if known.len() >= KNOWN_FOLDERS_MAX {
                known.clear();
                known.insert(self.objects.clone());
            }
            known.insert(folder.to_owned());
        }
        Ok(folder)
    }

    /// Puts a synced file in its place. With `create` an object that is there stays, and that is an error.
    fn place(&self, staged: Staged, place: &FsPath, create: bool) -> io::Result<()> {
        staged.file.sync_all()?;
        let folder = self.prepare(place)?;
        if create {
            fs::hard_link(&staged.path, place)?;
        } else {
            fs::rename(&staged.path, place)?;
        }
        sync_folder(folder)
    }

    fn copy(&self, from: &FsPath, to: &FsPath, create: bool) -> io::Result<()> {
        // Objects never change in place, so two names may share one file.
        let folder = self.prepare(to)?;
        if create {
            fs::hard_link(from, to)?;
        } else {
            let link = self.staging.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
            fs::hard_link(from, &link)?;
            let renamed = fs::rename(&link, to);
            // Where both are names of one file already, rename(2) does nothing and leaves the first.
            let _ = fs::remove_file(&link);
            renamed?;
        }
        sync_folder(folder)
    }

    fn rename(&self, from: &FsPath, to: &FsPath, create: bool) -> io::Result<()> {
        let (source, target) = (from.parent().unwrap_or(from), self.prepare(to)?);
        if create {
            fs::hard_link(from, to)?;
            sync_folder(target)?;
            fs::remove_file(from)?;
        } else if from != to {
            fs::rename(from, to)?;
            // Two names of one file: see `copy`.
            match fs::remove_file(from) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            sync_folder(target)?;
        } else {
            fs::metadata(from)?;
        }
        sync_folder(source)
    }
}

#[derive(Debug)]
struct Staged {
    path: PathBuf,
    file: File,
}

impl Drop for Staged {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
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
        self.blocking(move |disk| {
            let mut staged = disk.stage().map_err(generic)?;
            payload.iter().try_for_each(|part| staged.file.write_all(part)).map_err(generic)?;
            disk.place(staged, &place, create).map_err(error)
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
        let staged = self.blocking(|disk| disk.stage().map_err(generic)).await?;
        let upload = Upload {
            disk: self.disk.clone(),
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
        let disk = self.disk.clone();
        let read = self.read.clone();
        locations
            .ready_chunks(DELETES_PER_SYNC)
            .then(move |batch| {
                let placed = batch
                    .into_iter()
                    .map(|location| location.and_then(|at| read.path_to_filesystem(&at).map(|place| (at, place))))
                    .collect();
                delete_batch(disk.clone(), placed)
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
        self.blocking(move |disk| disk.copy(&source, &target, create).map_err(error)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let create = matches!(options.target_mode, RenameTargetMode::Create);
        let (source, target) = (self.place(from)?, self.place(to)?);
        let error = about(if create { to } else { from });
        self.blocking(move |disk| disk.rename(&source, &target, create).map_err(error)).await
    }
}

/// Unlinks all, then syncs each folder once; a delete is told only after that.
async fn delete_batch(disk: Arc<Disk>, batch: Vec<Result<(Path, PathBuf)>>) -> Vec<Result<Path>> {
    let work = move |_: &Disk| {
        let mut folders = BTreeSet::new();
        let mut out: Vec<Result<Path>> = Vec::with_capacity(batch.len());
        for item in batch {
            out.push(item.and_then(|(location, place)| {
                fs::remove_file(&place).map_err(about(&location))?;
                folders.extend(place.parent().map(FsPath::to_owned));
                Ok(location)
            }));
        }
        for folder in folders {
            if let Err(error) = sync_folder(&folder) {
                // Which of them are on the disk is not known: none is told as done.
                let text = error.to_string();
                for done in out.iter_mut().filter(|one| one.is_ok()) {
                    *done = Err(generic(io::Error::other(text.clone())));
                }
                break;
            }
        }
        Ok(out)
    };
    blocking(disk, work).await.unwrap_or_else(|error| vec![Err(error)])
}

/// A write in parts. Parts may be written in any order and at once; `complete` makes the object whole and durable.
#[derive(Debug)]
struct Upload {
    disk: Arc<Disk>,
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
        let disk = self.disk.clone();
        Box::pin(blocking(disk, move |_| {
            let staged = staged.ok_or_else(ended)?;
            let mut at = offset;
            for part in data.iter() {
                staged.file.write_all_at(part, at).map_err(generic)?;
                at += part.len() as u64;
            }
            written.fetch_add(at - offset, Ordering::SeqCst);
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
        blocking(self.disk.clone(), move |disk| disk.place(staged, &place, false).map_err(error)).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn abort(&mut self) -> Result<()> {
        self.staged.take().map(drop).ok_or_else(ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt;
    use object_store::memory::InMemory;
    use object_store::{GetRange, WriteMultipart};

    fn at(text: &str) -> Path {
        Path::parse(text).unwrap()
    }

    async fn names(store: &dyn ObjectStore, prefix: Option<&str>) -> Vec<String> {
        let metas: Vec<ObjectMeta> = store.list(prefix.map(at).as_ref()).try_collect().await.unwrap();
        let mut names: Vec<String> = metas.into_iter().map(|meta| meta.location.to_string()).collect();
        names.sort();
        names
    }

    async fn content(store: &dyn ObjectStore, path: &str) -> Result<Bytes> {
        store.get(&at(path)).await?.bytes().await
    }

    /// What the product relies on from any object store. `store` is empty.
    async fn contract(store: &dyn ObjectStore) {
        reads_and_writes(store).await;
        moves(store).await;
        parts(store).await;
    }

    async fn reads_and_writes(store: &dyn ObjectStore) {
        let (a, b) = (at("journal/ehr/a"), at("journal/ehr/b"));
        assert!(matches!(store.get(&a).await, Err(Error::NotFound { .. })));
        assert!(matches!(store.head(&a).await, Err(Error::NotFound { .. })));
        store.put(&a, "one".into()).await.unwrap();
        store.put(&a, "0123456789".into()).await.unwrap();
        assert_eq!(content(store, "journal/ehr/a").await.unwrap(), "0123456789");
        let create = PutOptions::from(PutMode::Create);
        let refused = store.put_opts(&a, "two".into(), create.clone()).await;
        assert!(matches!(refused, Err(Error::AlreadyExists { .. })));
        assert_eq!(content(store, "journal/ehr/a").await.unwrap(), "0123456789", "no clobber");
        store.put_opts(&b, "new".into(), create).await.unwrap();

        assert_eq!(store.head(&a).await.unwrap().size, 10);
        assert_eq!(store.get_range(&a, 2..5).await.unwrap(), "234");
        assert_eq!(store.get_ranges(&a, &[0..1, 8..10]).await.unwrap(), vec!["0", "89"]);
        let suffix = GetOptions { range: Some(GetRange::Suffix(3)), ..GetOptions::default() };
        assert_eq!(store.get_opts(&a, suffix).await.unwrap().bytes().await.unwrap(), "789");

        store.put(&at("top"), "".into()).await.unwrap();
        assert_eq!(names(store, None).await, ["journal/ehr/a", "journal/ehr/b", "top"]);
        assert_eq!(names(store, Some("journal")).await, ["journal/ehr/a", "journal/ehr/b"]);
        let shallow = store.list_with_delimiter(Some(&at("journal"))).await.unwrap();
        assert_eq!((shallow.common_prefixes, shallow.objects.len()), (vec![at("journal/ehr")], 0));
        let missing = names(store, Some("nothing")).await;
        assert!(missing.is_empty());
    }

    async fn moves(store: &dyn ObjectStore) {
        let (a, b, c) = (at("journal/ehr/a"), at("journal/ehr/b"), at("deep/er/c"));
        store.copy(&a, &c).await.unwrap();
        store.copy(&a, &c).await.unwrap();
        store.put(&a, "changed".into()).await.unwrap();
        assert_eq!(content(store, "deep/er/c").await.unwrap(), "0123456789", "a copy is its own");
        assert!(matches!(store.copy_if_not_exists(&b, &c).await, Err(Error::AlreadyExists { .. })));
        store.rename(&b, &c).await.unwrap();
        assert_eq!(content(store, "deep/er/c").await.unwrap(), "new");
        assert!(matches!(store.head(&b).await, Err(Error::NotFound { .. })));
        assert!(matches!(store.rename_if_not_exists(&a, &c).await, Err(Error::AlreadyExists { .. })));
        store.rename_if_not_exists(&a, &b).await.unwrap();
        assert!(matches!(store.copy(&at("no"), &b).await, Err(Error::NotFound { .. })));
        assert!(matches!(store.rename(&at("no"), &b).await, Err(Error::NotFound { .. })));
        for path in names(store, None).await {
            store.delete(&at(&path)).await.unwrap();
        }
        assert!(names(store, None).await.is_empty());
    }

    async fn parts(store: &dyn ObjectStore) {
        let path = at("large/x");
        let mut upload = store.put_multipart(&path).await.unwrap();
        let (first, second) = (upload.put_part("aaaa".into()), upload.put_part("bb".into()));
        second.await.unwrap();
        first.await.unwrap();
        assert!(store.head(&path).await.is_err(), "not there before it is whole");
        upload.complete().await.unwrap();
        assert_eq!(content(store, "large/x").await.unwrap(), "aaaabb");

        let mut writer = WriteMultipart::new_with_chunk_size(store.put_multipart(&path).await.unwrap(), 1_000);
        let bytes: Vec<u8> = (0..100_000u32).map(|n| (n % 253) as u8).collect();
        for piece in bytes.chunks(777) {
            writer.write(piece);
        }
        writer.finish().await.unwrap();
        assert_eq!(content(store, "large/x").await.unwrap(), bytes);

        let mut upload = store.put_multipart(&at("large/y")).await.unwrap();
        upload.put_part("lost".into()).await.unwrap();
        upload.abort().await.unwrap();
        assert_eq!(names(store, Some("large")).await, ["large/x"]);
    }

    fn left_in_staging(folder: &FsPath) -> usize {
        fs::read_dir(folder.join("staging")).unwrap().count()
    }

    #[tokio::test]
    async fn keeps_the_contract_and_leaves_nothing_in_staging() {
        let folder = tempfile::tempdir().unwrap();
        let store = DurableLocal::open(folder.path().join("a/b")).unwrap();
        contract(&store).await;
        assert_eq!(left_in_staging(&folder.path().join("a/b")), 0);
    }

    #[tokio::test]
    async fn the_store_in_memory_keeps_the_same_contract() {
        contract(&InMemory::new()).await;
    }

    #[tokio::test]
    async fn a_crash_leaves_old_or_new_and_the_next_open_collects_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let store = DurableLocal::open(folder.path()).unwrap();
        store.put(&at("x/y"), "old".into()).await.unwrap();
        let mut upload = store.put_multipart(&at("x/y")).await.unwrap();
        upload.put_part("half".into()).await.unwrap();
        // As a crash would: nothing is dropped.
        std::mem::forget(upload);
        assert_eq!(left_in_staging(folder.path()), 1);
        drop(store);
        let store = DurableLocal::open(folder.path()).unwrap();
        assert_eq!(left_in_staging(folder.path()), 0);
        assert_eq!(content(&store, "x/y").await.unwrap(), "old");
        let mut upload = store.put_multipart(&at("x/z")).await.unwrap();
        let unwritten = upload.put_part("never".into());
        drop(unwritten);
        assert!(upload.complete().await.is_err(), "a part is missing");
        drop(upload);
        assert_eq!(left_in_staging(folder.path()), 0);
    }

    #[tokio::test]
    async fn no_path_leads_out_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let store = DurableLocal::open(folder.path()).unwrap();
        assert!(Path::parse("../x").is_err());
        store.put(&Path::from("../x"), "1".into()).await.unwrap();
        store.put(&Path::from("/etc/x"), "1".into()).await.unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "objects and staging alone");
        std::os::unix::fs::symlink(outside.path(), folder.path().join("objects/link")).unwrap();
        assert!(store.put(&at("link/x"), "1".into()).await.is_err());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        let update = PutMode::Update(object_store::UpdateVersion { e_tag: None, version: None });
        assert!(store.put_opts(&at("x"), "1".into(), update.into()).await.is_err());
    }
}
