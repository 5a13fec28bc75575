//! [`RootKeys`] in a file: the epoch keys, sealed under a key from a passphrase (Argon2id, RFC 9106) or under a
//! machine key that lies in a file of its own.
//!
//! What it holds against: whoever has the data and the key table but not this folder and the root. Keep the folder
//! outside the data folder and outside its backups: an old copy of it, together with the root, still holds the epoch
//! keys of its day. The old bytes are overwritten in place when an epoch is destroyed; a file system or a drive that
//! writes elsewhere may keep them, which only an HSM (`pkcs11:`) rules out.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use base::Entropy;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::aead::{Cipher, derive};
use crate::random::Random;
use crate::root::ring::Ring;
use crate::{Epoch, Key, Plain, RootKeys, VaultError, WrapItem};

const FILE_NAME: &str = "epochs.sealed";
const FORMAT: &str = "ward-epochs-1";
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Cost of Argon2id. The default is the least that OWASP's Password Storage Cheat Sheet allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassphraseCost {
    pub memory_kib: u32,
    pub passes: u32,
    pub lanes: u32,
}

impl Default for PassphraseCost {
    fn default() -> Self {
        PassphraseCost { memory_kib: 19 * 1024, passes: 2, lanes: 1 }
    }
}

impl PassphraseCost {
    /// For tests alone: no cost at all.
    pub const INSECURE_FAST: PassphraseCost = PassphraseCost { memory_kib: 8, passes: 1, lanes: 1 };
}

/// Where the root comes from.
pub enum RootSecret {
    /// The cost is for a new file; an existing one keeps the cost it was made with.
    Passphrase { passphrase: Zeroizing<String>, cost: PassphraseCost },
    /// A file of 32 random bytes, mode 0600 or stricter (see [`FileRootKeys::create_machine_key`]).
    MachineKey { path: PathBuf },
}

/// Where the epoch keys lie and what opens them.
pub struct FileRoot {
    /// The folder of the sealed file; made when missing, mode 0700.
    pub folder: PathBuf,
    /// The node's data folder: the machine key must not lie in it.
    pub data_folder: PathBuf,
    pub secret: RootSecret,
}

pub struct FileRootKeys {
    path: PathBuf,
    header: Header,
    seal: Cipher,
    random: Random,
    ring: RwLock<Ring>,
    /// One change of the file at a time.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "root", rename_all = "kebab-case", deny_unknown_fields)]
enum Header {
    Passphrase { salt: String, memory_kib: u32, passes: u32, lanes: u32 },
    MachineKey,
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
        let mut key = Key::default();
        entropy.fill(&mut key[..]);
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io("the machine key"))?;
        file.write_all(&key[..]).and_then(|()| file.sync_all()).map_err(io("the machine key"))?;
        sync_folder(path).map_err(io("the machine key's folder"))
    }

    /// Makes the first epoch. Refused when there are root keys already.
    pub fn init(root: &FileRoot, entropy: Arc<dyn Entropy>) -> Result<Self, VaultError> {
        let path = root.folder.join(FILE_NAME);
        if path.exists() {
            return Err(VaultError::Invalid("there are root keys already"));
        }
        std::fs::create_dir_all(&root.folder)
            .and_then(|()| std::fs::set_permissions(&root.folder, PermissionsExt::from_mode(0o700)))
            .and_then(|()| sync_folder(&root.folder))
            .map_err(io("the folder of the root keys"))?;
        let random = Random::new(entropy);
        let header = match &root.secret {
            RootSecret::MachineKey { .. } => Header::MachineKey,
            RootSecret::Passphrase { cost, .. } => Header::Passphrase {
                salt: base::hex::encode(&random.bytes::<16>()[..]),
                memory_kib: cost.memory_kib,
                passes: cost.passes,
                lanes: cost.lanes,
            },
        };
        let key = root_key(root, &header)?;
        let ring = Ring::first(&key, &random);
        let keys = Self::over(path, header, &key, random, ring);
        keys.store(&keys.ring.read().keys())?;
        Ok(keys)
    }

    /// Opens what [`FileRootKeys::init`] made. Takes the time of Argon2id: call it at start, before serving.
    pub fn open(root: &FileRoot, entropy: Arc<dyn Entropy>) -> Result<Self, VaultError> {
        let path = root.folder.join(FILE_NAME);
        let text = match read_limited(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(VaultError::NotInitialised),
            Err(error) => return Err(io("the file of the epoch keys")(error)),
        };
        let stored: Stored = serde_json::from_slice(&text).map_err(|_| VaultError::Tampered)?;
        if stored.format != FORMAT {
            return Err(VaultError::Tampered);
        }
        let key = root_key(root, &stored.header)?;
        let sealed = BASE64.decode(&stored.sealed).map_err(|_| VaultError::Tampered)?;
        let seal = Cipher::new(&derive(&key[..], b"ward/root/1", b"epochs"));
        // A wrong passphrase and a changed file look the same to the cipher; the first is far more common.
        let plain = seal.open(&aad(&stored.header), &sealed).map_err(|_| VaultError::WrongRoot)?;
        let epochs = Ring::decode(&plain).ok_or(VaultError::Tampered)?;
        let ring = Ring::with(&key, epochs);
        Ok(Self::over(path, stored.header, &key, Random::new(entropy), ring))
    }

    fn over(path: PathBuf, header: Header, key: &Key, random: Random, ring: Ring) -> Self {
        let seal = Cipher::new(&derive(&key[..], b"ward/root/1", b"epochs"));
        FileRootKeys { path, header, seal, random, ring: RwLock::new(ring), writing: tokio::sync::Mutex::new(()) }
    }

    /// Writes a new file beside the old one, syncs, puts it in its place, syncs the folder, then overwrites the bytes
    /// of the old one. A crash at any point leaves the old or the new file whole.
    fn store(&self, keys: &BTreeMap<Epoch, Key>) -> Result<(), VaultError> {
        let sealed = self.seal.seal(*self.random.bytes::<12>(), &aad(&self.header), &Ring::encode(keys))?;
        let stored = Stored { format: FORMAT.into(), header: self.header.clone(), sealed: BASE64.encode(sealed) };
        let text = serde_json::to_vec_pretty(&stored).map_err(|_| VaultError::Invalid("the epoch keys"))?;
        let noise = self.random.bytes::<1024>();
        replace_durably(&self.path, &text, &noise[..]).map_err(io("the file of the epoch keys"))
    }
}

fn replace_durably(path: &Path, text: &[u8], noise: &[u8]) -> std::io::Result<()> {
    let old = OpenOptions::new().write(true).open(path);
    let temp = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temp)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&temp, path)?;
    sync_folder(path)?;
    let Ok(mut old) = old else { return Ok(()) };
    let mut left = usize::try_from(old.metadata()?.size()).unwrap_or(usize::MAX);
    while left > 0 {
        let n = left.min(noise.len());
        old.write_all(&noise[..n])?;
        left -= n;
    }
    old.sync_all()
}

fn sync_folder(of: &Path) -> std::io::Result<()> {
    let parent = of.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

fn read_limited(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

fn io(what: &'static str) -> impl Fn(std::io::Error) -> VaultError {
    move |error| VaultError::outage(what, error)
}

/// The header is bound, so that nobody lowers the cost or swaps the salt unseen.
fn aad(header: &Header) -> Vec<u8> {
    match header {
        Header::Passphrase { salt, memory_kib, passes, lanes } => {
            format!("{FORMAT}|passphrase|{memory_kib}|{passes}|{lanes}|{salt}").into_bytes()
        }
        Header::MachineKey => format!("{FORMAT}|machine-key").into_bytes(),
    }
}

fn root_key(root: &FileRoot, header: &Header) -> Result<Key, VaultError> {
    match (&root.secret, header) {
        (RootSecret::Passphrase { passphrase, .. }, Header::Passphrase { salt, memory_kib, passes, lanes }) => {
            let salt = base::hex::decode(salt).ok_or(VaultError::Tampered)?;
            let cost = PassphraseCost { memory_kib: *memory_kib, passes: *passes, lanes: *lanes };
            passphrase_key(passphrase, &salt, cost)
        }
        (RootSecret::MachineKey { path }, Header::MachineKey) => machine_key(path, &root.data_folder),
        _ => Err(VaultError::WrongRoot),
    }
}

fn passphrase_key(passphrase: &str, salt: &[u8], cost: PassphraseCost) -> Result<Key, VaultError> {
    const MEMORY_KIB_MAX: u32 = 4 << 20;
    if cost.memory_kib > MEMORY_KIB_MAX || cost.passes > 1_000 || cost.lanes > 64 {
        return Err(VaultError::Invalid("the cost of the passphrase is out of bounds"));
    }
    let params = argon2::Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32))
        .map_err(|_| VaultError::Invalid("the cost of the passphrase is out of bounds"))?;
    let mut key = Key::default();
    argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, &mut key[..])
        .map_err(|_| VaultError::Invalid("the passphrase is too long or the salt too short"))?;
    Ok(key)
}

fn machine_key(path: &Path, data_folder: &Path) -> Result<Key, VaultError> {
    let real = path.canonicalize().map_err(io("the machine key file"))?;
    if data_folder.canonicalize().is_ok_and(|data| real.starts_with(data)) {
        return Err(VaultError::Insecure("the machine key file lies in the data folder, move it out"));
    }
    let mut file = File::open(&real).map_err(io("the machine key file"))?;
    let meta = file.metadata().map_err(io("the machine key file"))?;
    if !meta.is_file() {
        return Err(VaultError::Insecure("the machine key is not a regular file"));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(VaultError::Insecure("others can read the machine key file, set its mode to 0600"));
    }
    if meta.size() != 32 {
        return Err(VaultError::Insecure("the machine key file has not 32 bytes"));
    }
    let mut key = Key::default();
    file.read_exact(&mut key[..]).map_err(io("the machine key file"))?;
    Ok(key)
}

#[async_trait]
impl RootKeys for FileRootKeys {
    async fn epochs(&self) -> Result<Vec<Epoch>, VaultError> {
        Ok(self.ring.read().epochs())
    }

    async fn begin_epoch(&self) -> Result<Epoch, VaultError> {
        let _one = self.writing.lock().await;
        let keys = self.ring.read().grown(&self.random);
        // A small file, some four times a month: not worth a thread of its own.
        self.store(&keys)?;
        let mut ring = self.ring.write();
        ring.replace(keys);
        Ok(ring.current())
    }

    async fn wrap(&self, epoch: Epoch, items: &[WrapItem<'_>]) -> Result<Vec<Vec<u8>>, VaultError> {
        self.ring.read().wrap(epoch, items, &self.random)
    }

    async fn unwrap(&self, epoch: Epoch, items: &[WrapItem<'_>]) -> Result<Vec<Result<Plain, VaultError>>, VaultError> {
        self.ring.read().unwrap(epoch, items)
    }

    async fn destroy_epoch(&self, epoch: Epoch) -> Result<(), VaultError> {
        let _one = self.writing.lock().await;
        let Some(keys) = self.ring.read().without(epoch)? else { return Ok(()) };
        self.store(&keys)?;
        self.ring.write().replace(keys);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::SeededEntropy;

    fn entropy(seed: u64) -> Arc<dyn Entropy> {
        Arc::new(SeededEntropy::new(seed))
    }

    fn passphrase(folder: &Path, text: &str) -> FileRoot {
        FileRoot {
            folder: folder.join("keys"),
            data_folder: folder.join("data"),
            secret: RootSecret::Passphrase {
                passphrase: Zeroizing::new(text.to_owned()),
                cost: PassphraseCost::INSECURE_FAST,
            },
        }
    }

    fn machine(folder: &Path, key: &str) -> FileRoot {
        FileRoot {
            folder: folder.join("keys"),
            data_folder: folder.join("data"),
            secret: RootSecret::MachineKey { path: folder.join(key) },
        }
    }

    #[tokio::test]
    async fn both_kinds_keep_the_contract_and_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        FileRootKeys::create_machine_key(&folder.path().join("machine.key"), &SeededEntropy::new(3)).unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::create_dir_all(&a).unwrap();
        std::fs::create_dir_all(&b).unwrap();
        let mut by_machine = machine(&b, "key");
        by_machine.secret = RootSecret::MachineKey { path: folder.path().join("machine.key") };
        for root in [passphrase(&a, "correct horse"), by_machine] {
            assert!(matches!(FileRootKeys::open(&root, entropy(1)), Err(VaultError::NotInitialised)));
            let keys = FileRootKeys::init(&root, entropy(1)).unwrap();
            assert!(FileRootKeys::init(&root, entropy(2)).is_err());
            crate::contract::root_keys(&keys).await;
            let epochs = keys.epochs().await.unwrap();
            let item = WrapItem { aad: b"x", bytes: &[7; 32] };
            let current = *epochs.last().unwrap();
            let wrapped = keys.wrap(current, &[item]).await.unwrap();
            drop(keys);
            let again = FileRootKeys::open(&root, entropy(9)).unwrap();
            assert_eq!(again.epochs().await.unwrap(), epochs);
            let item = WrapItem { aad: b"x", bytes: &wrapped[0] };
            assert_eq!(again.unwrap(current, &[item]).await.unwrap().remove(0).unwrap().as_slice(), [7; 32]);
        }
    }

    #[tokio::test]
    async fn a_wrong_root_a_changed_file_and_an_open_mode_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        FileRootKeys::init(&passphrase(at, "right"), entropy(1)).unwrap();
        assert!(matches!(FileRootKeys::open(&passphrase(at, "wrong"), entropy(1)), Err(VaultError::WrongRoot)));
        let file = at.join("keys").join(FILE_NAME);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("\"memory_kib\": 8", "\"memory_kib\": 9")).unwrap();
        assert!(matches!(FileRootKeys::open(&passphrase(at, "right"), entropy(1)), Err(VaultError::WrongRoot)));

        let key = at.join("machine.key");
        FileRootKeys::create_machine_key(&key, &SeededEntropy::new(1)).unwrap();
        assert!(FileRootKeys::create_machine_key(&key, &SeededEntropy::new(1)).is_err(), "never over a key");
        let refused = FileRootKeys::open(&machine(at, "machine.key"), entropy(1));
        assert!(matches!(refused, Err(VaultError::WrongRoot)), "the file was made with a passphrase");
        std::fs::remove_file(&file).unwrap();
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o640)).unwrap();
        let refused = FileRootKeys::init(&machine(at, "machine.key"), entropy(1));
        assert!(matches!(refused, Err(VaultError::Insecure(_))), "others can read it");
        std::fs::create_dir_all(at.join("data")).unwrap();
        FileRootKeys::create_machine_key(&at.join("data/machine.key"), &SeededEntropy::new(1)).unwrap();
        let refused = FileRootKeys::init(&machine(at, "data/machine.key"), entropy(1));
        assert!(matches!(refused, Err(VaultError::Insecure(_))), "in the data folder");
    }

    #[tokio::test]
    async fn destruction_overwrites_the_old_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let root = passphrase(folder.path(), "right");
        let keys = FileRootKeys::init(&root, entropy(1)).unwrap();
        let first = keys.epochs().await.unwrap()[0];
        keys.begin_epoch().await.unwrap();
        let file = folder.path().join("keys").join(FILE_NAME);
        let hold = File::open(&file).unwrap();
        let before = std::fs::read(&file).unwrap();
        keys.destroy_epoch(first).await.unwrap();
        let mut old = Vec::new();
        { &hold }.read_to_end(&mut old).unwrap();
        assert_eq!(old.len(), before.len());
        assert!(!old.windows(8).any(|window| before.windows(8).any(|was| was == window)));
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    }
}
