//! Where backups lie: a folder (durable when a call returns) or an object store, behind one small type.
//!
//! Objects in a target are written once and never changed: pieces under the hash of their bytes, manifests under their
//! own names. What they mean is `manifest`'s matter.

use std::fs::{File, OpenOptions};
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::error::{BackupError, Result};
use crate::seal::sha256;

/// A backup target, open to read or to write.
pub struct Target {
    store: Arc<dyn ObjectStore>,
    name: String,
    /// One writer of a folder at a time.
    _lock: Option<File>,
}

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
                Ok(Target { store: Arc::new(store), name: url.to_owned(), _lock: None })
            }
            Place::Cloud => cloud(url),
        }
    }

    /// Opens a target to write; a folder is made when missing, closed to others, and locked.
    pub fn writer(url: &str) -> Result<Target> {
        match place(url)? {
            Place::Folder(folder) => {
                let lock = take_lock(&folder)?;
                let store = store::objects::DurableLocal::open(&folder)?;
                Ok(Target { store: Arc::new(store), name: url.to_owned(), _lock: Some(lock) })
            }
            Place::Cloud => cloud(url),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// When this returns the object is durable.
    pub async fn put(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.store.put(&Path::from(path), bytes.into()).await?;
        Ok(())
    }

    /// Puts bytes under their own hash. Bytes that are there already are not sent again. `true` when they were new.
    pub async fn put_piece(&self, hash: &str, bytes: Bytes) -> Result<bool> {
        let path = piece_path(hash);
        match self.store.head(&Path::from(path.as_str())).await {
            Ok(found) if found.size == bytes.len() as u64 => return Ok(false),
            Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        self.put(&path, bytes).await?;
        Ok(true)
    }

    /// A piece, checked against its name.
    pub async fn get_piece(&self, hash: &str) -> Result<Bytes> {
        let path = piece_path(hash);
        let bytes = self.get(&path).await?.ok_or_else(|| BackupError::damaged(path.as_str()))?;
        if sha256(&bytes) == hash { Ok(bytes) } else { Err(BackupError::damaged(path)) }
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

/// `pieces/AB/ABCD…`
fn piece_path(hash: &str) -> String {
    format!("pieces/{}/{hash}", hash.get(..2).unwrap_or("00"))
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
    let path = folder.join("lock");
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
fn cloud(url: &str) -> Result<Target> {
    let scheme = url.split(':').next().unwrap_or_default();
    Err(BackupError::refused(format!(
        "this program was built without `{scheme}:` targets: build it with `--features cloud`, or use a folder"
    )))
}

/// Credentials come from the provider's own variables and files, as its tools read them.
#[cfg(feature = "cloud")]
fn cloud(url: &str) -> Result<Target> {
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
    let store = Arc::new(object_store::prefix::PrefixStore::new(store, prefix));
    Ok(Target { store, name: url.to_owned(), _lock: None })
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
    async fn a_folder_keeps_pieces_under_their_hash_and_notices_changes() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file:{}", folder.path().join("target").display());
        assert!(matches!(Target::reader(&url), Err(BackupError::Refused(_))), "nothing is there yet");
        let target = Target::writer(&url).unwrap();
        assert!(matches!(Target::writer(&url), Err(BackupError::Refused(_))), "one writer at a time");
        let bytes = Bytes::from_static(b"ciphertext");
        let hash = sha256(&bytes);
        assert!(target.put_piece(&hash, bytes.clone()).await.unwrap());
        assert!(!target.put_piece(&hash, bytes.clone()).await.unwrap(), "not twice");
        let reader = Target::reader(&url).unwrap();
        assert_eq!(reader.get_piece(&hash).await.unwrap(), bytes);
        assert_eq!(reader.list("pieces").await.unwrap().len(), 1);
        std::fs::write(folder.path().join("target/objects").join(piece_path(&hash)), b"ciphertexT").unwrap();
        assert!(matches!(reader.get_piece(&hash).await, Err(BackupError::Damaged { .. })));
        drop(target);
        Target::writer(&url).unwrap();
    }

    #[test]
    fn other_kinds_of_targets_are_refused_with_what_to_do() {
        for url in ["ftp:x", "http://host/x", "file:"] {
            assert!(matches!(Target::writer(url), Err(BackupError::Refused(_))), "{url}");
        }
    }
}
