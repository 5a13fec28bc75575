//! [`RootKeys`] in a file: the epoch keys, sealed under a key from a passphrase or under a machine key (`secret`).
//!
//! What it holds against: whoever has the data and the key table but not this folder and the root. Keep the folder
//! outside the data folder and outside its backups: an old copy of it, together with the root, still holds the epoch
//! keys of its day. Old bytes are overwritten in place (`durable`); a file system or a drive that writes elsewhere may
//! keep them, which only an HSM (`pkcs11:`) rules out.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use base::{Entropy, Timestamp};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use disk::{Access, Disk, RealDisk, parent};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use super::durable::{io, is_staged, promote, settle, stage, staged_name};
use super::secret::{Header, RootSecret, check_machine_key, read_machine_key, root_key};
use crate::aead::{Cipher, derive};
use crate::random::Random;
use crate::root::ring::{Keys, Ring};
use crate::{Epoch, Key, Plain, RootKeys, VaultError, WrapItem};

pub(super) const FILE_NAME: &str = "epochs.sealed";
const FORMAT_V1: &str = "ward-epochs-1";
const FORMAT: &str = "ward-epochs-2";
const THE_FILE: &str = "the file of the epoch keys";
const THE_MACHINE_KEY: &str = "the machine key file";

/// Where the epoch keys lie and what opens them.
pub struct FileRoot {
    /// The folder of the sealed file; made when missing, mode 0700.
    pub folder: PathBuf,
    /// The node's data folder: the machine key must not lie in it.
    pub data_folder: PathBuf,
    pub secret: RootSecret,
}

pub struct FileRootKeys {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    random: Random,
    state: RwLock<State>,
    /// One change of the file at a time.
    writing: tokio::sync::Mutex<()>,
}

struct State {
    header: Header,
    seal: Cipher,
    ring: Ring,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: String,
    header: Header,
    sealed: String,
}

impl FileRootKeys {
    /// Makes a machine key: 32 random bytes, mode 0600, durable. Refused when the file exists.
    pub fn create_machine_key(path: &Path, entropy: &dyn Entropy) -> Result<(), VaultError> {
        Self::create_machine_key_on(&RealDisk, path, entropy)
    }

    pub(super) fn create_machine_key_on(disk: &dyn Disk, path: &Path, entropy: &dyn Entropy) -> Result<(), VaultError> {
        let mut key = Key::default();
        entropy.fill(&mut key[..]);
        let write = || {
            let file = disk.create(path, Access::Private)?;
            file.write_at(&key[..], 0)?;
            file.sync()?;
            disk.sync_folder(parent(path))
        };
        write().map_err(io(THE_MACHINE_KEY))
    }

    /// Makes the first epoch. Refused when there are root keys already.
    pub fn init(root: &FileRoot, entropy: Arc<dyn Entropy>, now: Timestamp) -> Result<Self, VaultError> {
        check_secret(root)?;
        let keys = Self::init_on(Arc::new(RealDisk), root, entropy, now)?;
        // A folder that was there before may be open to others.
        std::fs::set_permissions(&root.folder, PermissionsExt::from_mode(0o700))
            .map_err(io("the folder of the root keys"))?;
        Ok(keys)
    }

    /// Opens what [`FileRootKeys::init`] made, and finishes what a crash left of a change. Takes the time of Argon2id:
    /// call it at start, before serving.
    pub fn open(root: &FileRoot, entropy: Arc<dyn Entropy>) -> Result<Self, VaultError> {
        if root.folder.join(FILE_NAME).exists() {
            check_secret(root)?;
        }
        Self::open_on(Arc::new(RealDisk), root, entropy)
    }

    /// The living epochs and when they began, read without changing anything: a node may serve on them meanwhile.
    pub fn look(root: &FileRoot) -> Result<Vec<(Epoch, Option<Timestamp>)>, VaultError> {
        if root.folder.join(FILE_NAME).exists() {
            check_secret(root)?;
        }
        let (_, _, keys) = read_stored(&RealDisk, root)?;
        Ok(keys.epochs.iter().map(|(epoch, key)| (*epoch, Some(key.begun).filter(|at| at.0 != 0))).collect())
    }

    pub(super) fn init_on(
        disk: Arc<dyn Disk>,
        root: &FileRoot,
        entropy: Arc<dyn Entropy>,
        now: Timestamp,
    ) -> Result<Self, VaultError> {
        let path = root.folder.join(FILE_NAME);
        if disk.stat(&path).is_ok() {
            return Err(VaultError::Invalid("there are root keys already"));
        }
        disk.make_folder(&root.folder, Access::Private).map_err(io("the folder of the root keys"))?;
        let random = Random::new(entropy);
        settle(&*disk, &path, &random).map_err(io(THE_FILE))?;
        let header = Header::fresh(&root.secret, &random);
        let seal = seal_of(&root_key(&*disk, &root.secret, &header)?);
        let ring = Ring::new(Keys::first(&random, now));
        let keys = Self::over(disk, path, random, State { header, seal, ring });
        {
            let state = keys.state.read();
            keys.store(&state.header, &state.seal, state.ring.keys())?;
        }
        Ok(keys)
    }

    pub(super) fn open_on(disk: Arc<dyn Disk>, root: &FileRoot, entropy: Arc<dyn Entropy>) -> Result<Self, VaultError> {
        let path = root.folder.join(FILE_NAME);
        let random = Random::new(entropy);
        let (stored, key, keys) = read_stored(&*disk, root)?;
        if let RootSecret::MachineKey { path } = &root.secret {
            settle_machine_key(&*disk, path, &key, &random).map_err(io(THE_MACHINE_KEY))?;
        }
        settle(&*disk, &path, &random).map_err(io(THE_FILE))?;
        let state = State { header: stored.header, seal: seal_of(&key), ring: Ring::new(keys) };
        Ok(Self::over(disk, path, random, state))
    }

    fn over(disk: Arc<dyn Disk>, path: PathBuf, random: Random, state: State) -> Self {
        FileRootKeys { disk, path, random, state: RwLock::new(state), writing: tokio::sync::Mutex::new(()) }
    }

    /// Puts a new file in the place of the old one. A crash at any point leaves the old or the new one whole; on an
    /// error that the process outlives the old one stands. The old bytes are left to `settle`.
    fn store(&self, header: &Header, seal: &Cipher, keys: &Keys) -> Result<(), VaultError> {
        let sealed = seal.seal(*self.random.bytes::<12>(), &header.aad(FORMAT), &keys.encode())?;
        let stored = Stored { format: FORMAT.into(), header: header.clone(), sealed: BASE64.encode(sealed) };
        let text = serde_json::to_vec_pretty(&stored).map_err(|_| VaultError::Invalid("the epoch keys"))?;
        stage(&*self.disk, &self.path, &text, &self.random)
            .and_then(|()| promote(&*self.disk, &self.path, &self.random))
            .map_err(io(THE_FILE))
    }

    /// Stores the keys, serves by them from then on, and overwrites what stood there before.
    fn change(&self, keys: Keys) -> Result<(), VaultError> {
        {
            let state = self.state.read();
            self.store(&state.header, &state.seal, &keys)?;
        }
        self.state.write().ring.replace(keys);
        self.settle()
    }

    fn settle(&self) -> Result<(), VaultError> {
        settle(&*self.disk, &self.path, &self.random).map_err(io(THE_FILE))
    }

    /// Seals the epoch keys anew: under another passphrase, or under a fresh machine key that takes the place of the one
    /// before, whose bytes are overwritten. Epochs, records and what they wrap stay, so that backups of data still open.
    /// Serving goes on meanwhile. After a crash the file opens by the secret before or by the new one.
    pub async fn rotate(&self, to: &RootSecret) -> Result<(), VaultError> {
        let _one = self.writing.lock().await;
        let header = Header::fresh(to, &self.random);
        let staged = match to {
            RootSecret::Passphrase { .. } => None,
            RootSecret::MachineKey { path } => Some((path, self.random.key())),
        };
        let key = match &staged {
            Some((path, key)) => {
                stage(&*self.disk, path, &key[..], &self.random).map_err(io(THE_MACHINE_KEY))?;
                key.clone()
            }
            None => root_key(&*self.disk, to, &header)?,
        };
        let seal = seal_of(&key);
        let keys = self.state.read().ring.keys().clone();
        if let Err(error) = self.store(&header, &seal, &keys) {
            if let Some((path, _)) = &staged {
                settle(&*self.disk, path, &self.random).map_err(io(THE_MACHINE_KEY))?;
            }
            return Err(error);
        }
        {
            let mut state = self.state.write();
            (state.header, state.seal) = (header, seal);
        }
        if let Some((path, _)) = &staged {
            promote(&*self.disk, path, &self.random)
                .and_then(|()| settle(&*self.disk, path, &self.random))
                .map_err(io(THE_MACHINE_KEY))?;
        }
        self.settle()
    }
}

fn check_secret(root: &FileRoot) -> Result<(), VaultError> {
    match &root.secret {
        RootSecret::MachineKey { path } => check_machine_key(path, &root.data_folder),
        RootSecret::Passphrase { .. } => Ok(()),
    }
}

fn seal_of(root_key: &Key) -> Cipher {
    Cipher::new(&derive(&root_key[..], b"ward/root/1", b"epochs"))
}

fn read_stored(disk: &dyn Disk, root: &FileRoot) -> Result<(Stored, Key, Keys), VaultError> {
    let text = match disk.read(&root.folder.join(FILE_NAME)) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(VaultError::NotInitialised),
        Err(error) => return Err(io(THE_FILE)(error)),
    };
    let stored: Stored = serde_json::from_slice(&text).map_err(|_| VaultError::Tampered)?;
    let (key, keys) = open_stored(disk, root, &stored)?;
    Ok((stored, key, keys))
}

/// The root key and the keys it opens. A machine key that a crash kept from its place opens too.
fn open_stored(disk: &dyn Disk, root: &FileRoot, stored: &Stored) -> Result<(Key, Keys), VaultError> {
    let key = root_key(disk, &root.secret, &stored.header)?;
    match (open_sealed(stored, &key), &root.secret) {
        (Err(VaultError::WrongRoot), RootSecret::MachineKey { path })
            if is_staged(disk, path).map_err(io(THE_MACHINE_KEY))? =>
        {
            let key = read_machine_key(disk, &staged_name(path)).map_err(|_| VaultError::WrongRoot)?;
            open_sealed(stored, &key).map(|keys| (key, keys))
        }
        (opened, _) => opened.map(|keys| (key, keys)),
    }
}

fn open_sealed(stored: &Stored, key: &Key) -> Result<Keys, VaultError> {
    let sealed = BASE64.decode(&stored.sealed).map_err(|_| VaultError::Tampered)?;
    // A wrong passphrase and a changed file look the same to the cipher; the first is far more common.
    let aad = stored.header.aad(&stored.format);
    let plain = seal_of(key).open(&aad, &sealed).map_err(|_| VaultError::WrongRoot)?;
    let keys = match stored.format.as_str() {
        FORMAT => Keys::decode(&plain),
        FORMAT_V1 => Keys::decode_v1(key, &plain),
        _ => None,
    };
    keys.ok_or(VaultError::Tampered)
}

/// The machine key that opens is the one in place; others are overwritten.
fn settle_machine_key(disk: &dyn Disk, path: &Path, key: &Key, random: &Random) -> std::io::Result<()> {
    if is_staged(disk, path)? && disk.read(path)? != key[..] {
        promote(disk, path, random)?;
    }
    settle(disk, path, random)
}

#[async_trait]
impl RootKeys for FileRootKeys {
    async fn epochs(&self) -> Result<Vec<Epoch>, VaultError> {
        Ok(self.state.read().ring.epochs())
    }

    async fn begun(&self, epoch: Epoch) -> Result<Option<Timestamp>, VaultError> {
        Ok(self.state.read().ring.begun(epoch).filter(|at| at.0 != 0))
    }

    async fn begin_epoch(&self, now: Timestamp) -> Result<Epoch, VaultError> {
        let _one = self.writing.lock().await;
        let keys = self.state.read().ring.keys().grown(&self.random, now);
        // A small file, some four times a month: not worth a thread of its own.
        self.change(keys)?;
        Ok(self.state.read().ring.current())
    }

    async fn wrap(&self, epoch: Epoch, items: &[WrapItem<'_>]) -> Result<Vec<Vec<u8>>, VaultError> {
        self.state.read().ring.wrap(epoch, items, &self.random)
    }

    async fn unwrap(&self, epoch: Epoch, items: &[WrapItem<'_>]) -> Result<Vec<Result<Plain, VaultError>>, VaultError> {
        self.state.read().ring.unwrap(epoch, items)
    }

    async fn destroy_epoch(&self, epoch: Epoch) -> Result<(), VaultError> {
        let _one = self.writing.lock().await;
        let keys = self.state.read().ring.keys().without(epoch)?;
        match keys {
            Some(keys) => self.change(keys),
            // Gone already, and perhaps by a call that could not overwrite its bytes.
            None => self.settle(),
        }
    }
}
