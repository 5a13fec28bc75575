//! Where backups lie: a folder (durable when a call returns) or an object store, behind one small type.
//!
//! Objects in a target are written once and never changed. What they mean is `manifest`'s and `pieces`' matter.

use std::fs::{File, OpenOptions};
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use crate::error::{BackupError, Result};

/// A backup target, open to read or to write.
pub struct Target {
    store: Arc<dyn ObjectStore>,
    name: String,
    /// One writer at a time: of a folder by its lock file, which ends with the process;
    _lock: Option<File>,
    /// of an object store by an object, which [`Target::release`] removes.
    is_locked: bool,
}

const LOCK: &str = "lock";

impl Target {
    /// Opens a target to read: `file:FOLDER`, a folder, or with the cargo feature `cloud` `s3:`, `az:`, `gs:`.
    pub fn reader(url: &str) -> Result<Target> {
        match place(url)? {
            Place::Folder(folder) => {
                let objects = folder.join("objects");
                if !objects.is_dir() {
                    return Err(BackupError::refused(format!("`{url}` holds no backup")));
                }
                let store = object_store::local::LocalFileSystem::new_with_prefix(&objects)?;
                Ok(Target::over(Arc::new(store), url))
            }
            Place::Cloud => Ok(Target::over(cloud(url)?, url)),
        }
    }

    /// Opens a target to write and locks it; a folder is made when missing and closed to others.
    pub async fn writer(url: &str) -> Result<Target> {
        match place(url)? {
            Place::Folder(folder) => {
                let lock = take_lock(&folder)?;
                let store = store::objects::DurableLocal::open(&folder)?;
                Ok(Target { _lock: Some(lock), ..Target::over(Arc::new(store), url) })
            }
            Place::Cloud => Target::over(cloud(url)?, url).locked().await,
        }
    }

    fn over(store: Arc<dyn ObjectStore>, url: &str) -> Target {
        Target { store, name: url.to_owned(), _lock: None, is_locked: false }
    }

    async fn locked(mut self) -> Result<Target> {
        let text = format!("process {}", std::process::id());
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&Path::from(LOCK), text.into(), create).await {
            Ok(_) => self.is_locked = true,
            Err(object_store::Error::AlreadyExists { .. }) => {
                return Err(BackupError::refused(format!(
                    "another backup is being written to `{0}`: wait for its end. If it died, delete the object `{LOCK}` in `{0}`",
                    self.name
                )));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(self)
    }

    /// Gives the lock back.
    pub async fn release(self) -> Result<()> {
        if self.is_locked { self.delete(LOCK).await } else { Ok(()) }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// When this returns the object is durable.
    pub async fn put(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.store.put(&Path::from(path), bytes.into()).await?;
        Ok(())
    }

    /// The size of an object; `None` when there is none.
    pub async fn size_of(&self, path: &str) -> Result<Option<u64>> {
        match self.store.head(&Path::from(path)).await {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// `None` when there is no such object.
    pub async fn get(&self, path: &str) -> Result<Option<Bytes>> {
        match self.store.get(&Path::from(path)).await {
            Ok(found) => Ok(Some(found.bytes().await?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Names and sizes below a folder, in order.
    pub async fn list(&self, folder: &str) -> Result<Vec<(String, u64)>> {
        let mut found: Vec<(String, u64)> = self
            .store
            .list(Some(&Path::from(folder)))
            .map_ok(|object| (object.location.to_string(), object.size))
            .try_collect()
            .await?;
        found.sort();
        Ok(found)
    }

    /// No error when it is not there.
    pub async fn delete(&self, path: &str) -> Result<()> {
        match self.store.delete(&Path::from(path)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

enum Place {
    Folder(PathBuf),
    Cloud,
}

fn place(url: &str) -> Result<Place> {
    match url.split_once(':') {
        Some(("file", path)) => {
            // file:PATH, file:///PATH
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() {
                return Err(BackupError::refused("`file:` names no folder: write file:FOLDER"));
            }
            Ok(Place::Folder(PathBuf::from(path)))
        }
        Some(("s3" | "az" | "gs", _)) => Ok(Place::Cloud),
        Some((scheme, _)) if !scheme.contains('/') && !scheme.is_empty() => Err(BackupError::refused(format!(
            "`{scheme}:` is no kind of target: write a folder, file:, s3:, az: or gs:"
        ))),
        _ => Ok(Place::Folder(PathBuf::from(url))),
    }
}

/// The folder of a target that is one, so that a command can compare places.
pub fn folder_of(url: &str) -> Option<PathBuf> {
    match place(url) {
        Ok(Place::Folder(folder)) => Some(folder),
        _ => None,
    }
}

fn take_lock(folder: &FsPath) -> Result<File> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(BackupError::io("making the folder", folder))?;
    let path = folder.join(LOCK);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(BackupError::io("opening", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(BackupError::refused("another backup is being written to this target: wait for its end"))
        }
        Err(std::fs::TryLockError::Error(error)) => Err(BackupError::io("locking", &path)(error)),
    }
}

#[cfg(not(feature = "cloud"))]
fn cloud(url: &str) -> Result<Arc<dyn ObjectStore>> {
    let scheme = url.split(':').next().unwrap_or_default();
    Err(BackupError::refused(format!(
        "this program was built without `{scheme}:` targets: build it with `--features cloud`, or use a folder"
    )))
}

/// Credentials come from the provider's own variables and files, as its tools read them.
#[cfg(feature = "cloud")]
fn cloud(url: &str) -> Result<Arc<dyn ObjectStore>> {
    use object_store::aws::AmazonS3Builder;
    use object_store::azure::MicrosoftAzureBuilder;
    use object_store::gcp::GoogleCloudStorageBuilder;
    let rest = |scheme: &str| url.trim_start_matches(scheme).trim_start_matches(':').trim_start_matches('/').to_owned();
    let (store, prefix): (Arc<dyn ObjectStore>, String) = match url.split(':').next() {
        Some("s3") => {
            let (bucket, prefix) = bucket_of(&rest("s3"));
            (Arc::new(AmazonS3Builder::from_env().with_bucket_name(bucket).build()?), prefix)
        }
        Some("az") => {
            let (container, prefix) = bucket_of(&rest("az"));
            (Arc::new(MicrosoftAzureBuilder::from_env().with_container_name(container).build()?), prefix)
        }
        _ => {
            let (bucket, prefix) = bucket_of(&rest("gs"));
            (Arc::new(GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket).build()?), prefix)
        }
    };
    Ok(Arc::new(object_store::prefix::PrefixStore::new(store, prefix)))
}

#[cfg(feature = "cloud")]
fn bucket_of(rest: &str) -> (String, String) {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    (bucket.to_owned(), prefix.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_writer_at_a_time_and_readers_see_what_it_wrote() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file:{}", folder.path().join("target").display());
        assert!(matches!(Target::reader(&url), Err(BackupError::Refused(_))), "nothing is there yet");
        let target = Target::writer(&url).await.unwrap();
        assert!(matches!(Target::writer(&url).await, Err(BackupError::Refused(_))));
        target.put("a/b", Bytes::from_static(b"sealed")).await.unwrap();
        let reader = Target::reader(&url).unwrap();
        assert_eq!(reader.get("a/b").await.unwrap().unwrap(), "sealed");
        assert_eq!((reader.size_of("a/b").await.unwrap(), reader.size_of("a/c").await.unwrap()), (Some(6), None));
        assert_eq!(reader.list("a").await.unwrap(), [("a/b".to_owned(), 6)]);
        target.release().await.unwrap();
        Target::writer(&url).await.unwrap();
    }

    #[tokio::test]
    async fn an_object_store_is_locked_by_an_object() {
        let store: Arc<dyn ObjectStore> = Arc::new(object_store::memory::InMemory::new());
        let target = Target::over(store.clone(), "s3:bucket").locked().await.unwrap();
        assert!(matches!(Target::over(store.clone(), "s3:bucket").locked().await, Err(BackupError::Refused(_))));
        target.release().await.unwrap();
        Target::over(store, "s3:bucket").locked().await.unwrap();
    }

    #[tokio::test]
    async fn other_kinds_of_targets_are_refused_with_what_to_do() {
        for url in ["ftp:x", "http://host/x", "file:"] {
            assert!(matches!(Target::writer(url).await, Err(BackupError::Refused(_))), "{url}");
        }
    }
}
