//! What the root is made from: a passphrase (Argon2id, RFC 9106) or a machine key in a file of its own.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use disk::Disk;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::durable::io;
use crate::random::Random;
use crate::{Key, VaultError};

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
#[derive(Clone)]
pub enum RootSecret {
    /// The cost is for a new file; an existing one keeps the cost it was made with.
    Passphrase { passphrase: Zeroizing<String>, cost: PassphraseCost },
    /// A file of 32 random bytes, mode 0600 or stricter (see `FileRootKeys::create_machine_key`).
    MachineKey { path: PathBuf },
}

/// How the file of the epoch keys is sealed, in the clear in it and bound to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "root", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Header {
    Passphrase { salt: String, memory_kib: u32, passes: u32, lanes: u32 },
    MachineKey,
}

impl Header {
    /// For a file sealed anew: a passphrase gets a fresh salt.
    pub(super) fn fresh(secret: &RootSecret, random: &Random) -> Header {
        match secret {
            RootSecret::MachineKey { .. } => Header::MachineKey,
            RootSecret::Passphrase { cost, .. } => Header::Passphrase {
                salt: base::hex::encode(&random.bytes::<16>()[..]),
                memory_kib: cost.memory_kib,
                passes: cost.passes,
                lanes: cost.lanes,
            },
        }
    }

    /// The header is bound, so that nobody lowers the cost or swaps the salt unseen.
    pub(super) fn aad(&self, format: &str) -> Vec<u8> {
        match self {
            Header::Passphrase { salt, memory_kib, passes, lanes } => {
                format!("{format}|passphrase|{memory_kib}|{passes}|{lanes}|{salt}").into_bytes()
            }
            Header::MachineKey => format!("{format}|machine-key").into_bytes(),
        }
    }
}

/// The root key, from a secret that is of the header's kind.
pub(super) fn root_key(disk: &dyn Disk, secret: &RootSecret, header: &Header) -> Result<Key, VaultError> {
    match (secret, header) {
        (RootSecret::Passphrase { passphrase, .. }, Header::Passphrase { salt, memory_kib, passes, lanes }) => {
            let salt = base::hex::decode(salt).ok_or(VaultError::Tampered)?;
            let cost = PassphraseCost { memory_kib: *memory_kib, passes: *passes, lanes: *lanes };
            passphrase_key(passphrase, &salt, cost)
        }
        (RootSecret::MachineKey { path }, Header::MachineKey) => read_machine_key(disk, path),
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

pub(super) fn read_machine_key(disk: &dyn Disk, path: &Path) -> Result<Key, VaultError> {
    let file = disk.open(path).map_err(io("the machine key file"))?;
    if file.bytes().map_err(io("the machine key file"))? != 32 {
        return Err(VaultError::Insecure("the machine key file has not 32 bytes"));
    }
    let mut key = Key::default();
    file.read_at(&mut key[..], 0).map_err(io("the machine key file"))?;
    Ok(key)
}

/// Whether a machine key on the machine's own disk is kept as it must be.
pub(super) fn check_machine_key(path: &Path, data_folder: &Path) -> Result<(), VaultError> {
    let real = path.canonicalize().map_err(io("the machine key file"))?;
    if data_folder.canonicalize().is_ok_and(|data| real.starts_with(data)) {
        return Err(VaultError::Insecure("the machine key file lies in the data folder, move it out"));
    }
    let meta = File::open(&real).and_then(|file| file.metadata()).map_err(io("the machine key file"))?;
    if !meta.is_file() {
        return Err(VaultError::Insecure("the machine key is not a regular file"));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(VaultError::Insecure("others can read the machine key file, set its mode to 0600"));
    }
    Ok(())
}
