//! Root keys on the machine's own disk: both kinds of secret, what is refused, rotation, the first format.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use base::{Entropy, SeededEntropy, Timestamp};
use zeroize::Zeroizing;

use super::file::FILE_NAME;
use crate::*;

const NOW: Timestamp = Timestamp(1_764_000_000_000);

fn entropy(seed: u64) -> Arc<dyn Entropy> {
    Arc::new(SeededEntropy::new(seed))
}

fn with(folder: &Path, secret: RootSecret) -> FileRoot {
    FileRoot { folder: folder.join("keys"), data_folder: folder.join("data"), secret }
}

fn said(text: &str) -> RootSecret {
    RootSecret::Passphrase { passphrase: Zeroizing::new(text.to_owned()), cost: PassphraseCost::INSECURE_FAST }
}

fn passphrase(folder: &Path, text: &str) -> FileRoot {
    with(folder, said(text))
}

fn machine(folder: &Path, key: &str) -> FileRoot {
    with(folder, RootSecret::MachineKey { path: folder.join(key) })
}

/// Wraps under the current epoch and under the root, to be unwrapped later.
async fn wrap(keys: &FileRootKeys) -> Vec<(Epoch, Vec<u8>)> {
    let mut all = Vec::new();
    for epoch in keys.epochs().await.unwrap().into_iter().chain([Epoch::ROOT]) {
        let item = WrapItem { aad: b"x", bytes: &[7; 32] };
        all.push((epoch, keys.wrap(epoch, &[item]).await.unwrap().remove(0)));
    }
    all
}

async fn unwraps(keys: &FileRootKeys, wrapped: &[(Epoch, Vec<u8>)]) {
    for (epoch, bytes) in wrapped {
        let item = WrapItem { aad: b"x", bytes };
        assert_eq!(keys.unwrap(*epoch, &[item]).await.unwrap().remove(0).unwrap().as_slice(), [7; 32]);
    }
}

#[tokio::test]
async fn both_kinds_keep_the_contract_and_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    FileRootKeys::create_machine_key(&folder.path().join("machine.key"), &SeededEntropy::new(3)).unwrap();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    std::fs::create_dir_all(&a).unwrap();
    std::fs::create_dir_all(&b).unwrap();
    let by_machine = with(&b, RootSecret::MachineKey { path: folder.path().join("machine.key") });
    for root in [passphrase(&a, "correct horse"), by_machine] {
        assert!(matches!(FileRootKeys::open(&root, entropy(1)), Err(VaultError::NotInitialised)));
        let keys = FileRootKeys::init(&root, entropy(1), NOW).unwrap();
        assert_eq!(keys.begun(Epoch(1)).await.unwrap(), Some(NOW));
        assert!(FileRootKeys::init(&root, entropy(2), NOW).is_err());
        crate::contract::root_keys(&keys).await;
        let (epochs, wrapped) = (keys.epochs().await.unwrap(), wrap(&keys).await);
        let begun = keys.begun(epochs[1]).await.unwrap();
        drop(keys);
        let again = FileRootKeys::open(&root, entropy(9)).unwrap();
        assert_eq!((again.epochs().await.unwrap(), again.begun(epochs[1]).await.unwrap()), (epochs, begun));
        unwraps(&again, &wrapped).await;
    }
}

#[tokio::test]
async fn a_wrong_root_a_changed_file_and_an_open_mode_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    FileRootKeys::init(&passphrase(at, "right"), entropy(1), NOW).unwrap();
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
    let refused = FileRootKeys::init(&machine(at, "machine.key"), entropy(1), NOW);
    assert!(matches!(refused, Err(VaultError::Insecure(_))), "others can read it");
    std::fs::create_dir_all(at.join("data")).unwrap();
    FileRootKeys::create_machine_key(&at.join("data/machine.key"), &SeededEntropy::new(1)).unwrap();
    let refused = FileRootKeys::init(&machine(at, "data/machine.key"), entropy(1), NOW);
    assert!(matches!(refused, Err(VaultError::Insecure(_))), "in the data folder");
}

#[tokio::test]
async fn destruction_overwrites_the_old_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let root = passphrase(folder.path(), "right");
    let keys = FileRootKeys::init(&root, entropy(1), NOW).unwrap();
    let first = keys.epochs().await.unwrap()[0];
    keys.begin_epoch(NOW).await.unwrap();
    let file = folder.path().join("keys").join(FILE_NAME);
    let hold = File::open(&file).unwrap();
    let before = std::fs::read(&file).unwrap();
    keys.destroy_epoch(first).await.unwrap();
    let mut old = Vec::new();
    { &hold }.read_to_end(&mut old).unwrap();
    assert_eq!(old.len(), before.len());
    assert!(!old.windows(8).any(|window| before.windows(8).any(|was| was == window)));
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(folder.path().join("keys")).unwrap().count(), 1, "nothing else is left");
}

#[tokio::test]
async fn the_root_rotates_and_what_was_wrapped_stays() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let keys = FileRootKeys::init(&passphrase(at, "old"), entropy(1), NOW).unwrap();
    let wrapped = wrap(&keys).await;
    keys.rotate(&said("new")).await.unwrap();
    unwraps(&keys, &wrapped).await;
    keys.begin_epoch(NOW).await.unwrap();
    drop(keys);
    assert!(matches!(FileRootKeys::open(&passphrase(at, "old"), entropy(2)), Err(VaultError::WrongRoot)));
    let keys = FileRootKeys::open(&passphrase(at, "new"), entropy(2)).unwrap();
    unwraps(&keys, &wrapped).await;
}

#[tokio::test]
async fn a_machine_key_rotates_in_its_place_and_the_one_before_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let (at, path) = (folder.path(), folder.path().join("machine.key"));
    FileRootKeys::create_machine_key(&path, &SeededEntropy::new(3)).unwrap();
    let root = machine(at, "machine.key");
    let keys = FileRootKeys::init(&root, entropy(1), NOW).unwrap();
    let wrapped = wrap(&keys).await;
    let (before, hold) = (std::fs::read(&path).unwrap(), File::open(&path).unwrap());
    keys.rotate(&root.secret).await.unwrap();
    let mut old = Vec::new();
    { &hold }.read_to_end(&mut old).unwrap();
    assert!(old != before && old.len() == 32, "overwritten");
    assert_ne!(std::fs::read(&path).unwrap(), before);
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    unwraps(&FileRootKeys::open(&root, entropy(4)).unwrap(), &wrapped).await;
    std::fs::write(&path, before).unwrap();
    assert!(matches!(FileRootKeys::open(&root, entropy(5)), Err(VaultError::WrongRoot)));
}

/// Written by the first format: a machine key of 32 times 5, one epoch.
#[tokio::test]
async fn the_first_format_opens_and_is_written_anew_by_the_next_change() {
    use base64::Engine as _;
    let folder = tempfile::tempdir().unwrap();
    let root = machine(folder.path(), "machine.key");
    std::fs::create_dir_all(folder.path().join("keys")).unwrap();
    std::fs::write(folder.path().join("machine.key"), [5; 32]).unwrap();
    std::fs::set_permissions(folder.path().join("machine.key"), PermissionsExt::from_mode(0o600)).unwrap();
    let plain = [&1u32.to_be_bytes()[..], &3u64.to_be_bytes(), &[8; 32]].concat();
    let seal = crate::aead::Cipher::new(&crate::aead::derive(&[5; 32], b"ward/root/1", b"epochs"));
    let sealed = seal.seal([1; 12], b"ward-epochs-1|machine-key", &plain).unwrap();
    let sealed = base64::engine::general_purpose::STANDARD.encode(sealed);
    let text = serde_json::json!({ "format": "ward-epochs-1", "header": { "root": "machine-key" }, "sealed": sealed });
    let file = folder.path().join("keys").join(FILE_NAME);
    std::fs::write(&file, text.to_string()).unwrap();
    let keys = FileRootKeys::open(&root, entropy(1)).unwrap();
    assert_eq!((keys.epochs().await.unwrap(), keys.begun(Epoch(3)).await.unwrap()), (vec![Epoch(3)], None));
    let record = crate::aead::WrappingKey::new(&crate::aead::derive(&[5; 32], b"ward/root/1", b"records"));
    let item = record.seal([2; 12], b"x", &[7; 32]).unwrap();
    let wrapped = [(Epoch::ROOT, item)];
    unwraps(&keys, &wrapped).await;
    keys.begin_epoch(NOW).await.unwrap();
    assert!(std::fs::read_to_string(&file).unwrap().contains("ward-epochs-2"));
    unwraps(&FileRootKeys::open(&root, entropy(2)).unwrap(), &wrapped).await;
}
