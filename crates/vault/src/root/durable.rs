//! A small secret file that is replaced whole, durably, with the bytes before it overwritten.
//!
//! `NAME` is the file; `NAME.new` a next one that is not in place; `NAME.old` a second name of the one before, so that
//! its bytes can still be reached, and overwritten, after a crash. [`settle`] finishes what a crash left.

use std::ffi::OsString;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

use disk::{Access, Disk, parent};

use crate::VaultError;
use crate::random::Random;

pub(super) fn io(what: &'static str) -> impl Fn(Error) -> VaultError {
    move |error| VaultError::outage(what, error)
}

pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn new_name(path: &Path) -> PathBuf {
    beside(path, ".new")
}

fn old_name(path: &Path) -> PathBuf {
    beside(path, ".old")
}

/// After a failed sync nothing is known of what is on the disk: the process ends and begins anew with what is there.
fn synced(disk: &dyn Disk, result: Result<()>) -> Result<()> {
    result.inspect_err(|error| disk.fatal("keeping a root key file", error))
}

fn sync_names(disk: &dyn Disk, path: &Path) -> Result<()> {
    synced(disk, disk.sync_folder(parent(path)))
}

/// The id of the file behind a name.
fn id(disk: &dyn Disk, path: &Path) -> Result<Option<u64>> {
    match disk.stat(path) {
        Ok(stat) => Ok(Some(stat.id)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Overwrites the bytes behind a name, durably, and removes the name. No error when there is none.
fn shred(disk: &dyn Disk, path: &Path, random: &Random) -> Result<()> {
    if id(disk, path)?.is_none() {
        return Ok(());
    }
    let file = disk.open(path)?;
    let bytes = file.bytes()?;
    let mut at = 0;
    while at < bytes {
        let noise = random.bytes::<1024>();
        let n = (bytes - at).min(noise.len() as u64);
        file.write_at(&noise[..n as usize], at)?;
        at += n;
    }
    synced(disk, file.sync())?;
    disk.remove(path)?;
    sync_names(disk, path)
}

/// Writes `NAME.new`, durably. On an error that is none of a sync (no space) nothing of it is left.
pub(super) fn stage(disk: &dyn Disk, path: &Path, bytes: &[u8], random: &Random) -> Result<()> {
    let new = new_name(path);
    shred(disk, &new, random)?;
    let file = disk.create(&new, Access::Private)?;
    // The name first: bytes that no name reaches could never be overwritten.
    sync_names(disk, path)?;
    if let Err(error) = file.write_at(bytes, 0) {
        // The first error is the one that counts.
        let _ = shred(disk, &new, random);
        return Err(error);
    }
    synced(disk, file.sync())
}

/// Puts `NAME.new` in the place of `NAME`. When it returns that is durable; the bytes before it are overwritten by
/// [`settle`].
pub(super) fn promote(disk: &dyn Disk, path: &Path, random: &Random) -> Result<()> {
    let put = || {
        if id(disk, path)?.is_some() {
            settle_old(disk, path, random)?;
            disk.link(path, &old_name(path))?;
            // The old bytes have their second name before they can lose their first.
            sync_names(disk, path)?;
        }
        disk.rename(&new_name(path), path)
    };
    if let Err(error) = put() {
        let _ = settle(disk, path, random);
        return Err(error);
    }
    sync_names(disk, path)
}

fn settle_old(disk: &dyn Disk, path: &Path, random: &Random) -> Result<()> {
    let old = old_name(path);
    match id(disk, &old)? {
        None => Ok(()),
        // A second name of the living file: the crash came before the next one took its place.
        Some(same) if id(disk, path)? == Some(same) => {
            disk.remove(&old)?;
            sync_names(disk, path)
        }
        Some(_) => shred(disk, &old, random),
    }
}

/// Overwrites what is left of files before and after the one that stands. When it returns only that one is there.
pub(super) fn settle(disk: &dyn Disk, path: &Path, random: &Random) -> Result<()> {
    // Names as a crash left them are made durable first: what is overwritten now must not come back as the living one,
    // nor may a name that only memory knows be relied on.
    sync_names(disk, path)?;
    settle_old(disk, path, random)?;
    shred(disk, &new_name(path), random)
}

/// Whether there is a next file that is not in place.
pub(super) fn is_staged(disk: &dyn Disk, path: &Path) -> Result<bool> {
    Ok(id(disk, &new_name(path))?.is_some())
}

pub(super) fn staged_name(path: &Path) -> PathBuf {
    new_name(path)
}
