//! The contract of an object store, and what is ours alone: staging is left empty, no path leads out.

use std::fs;

use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::{GetRange, WriteMultipart};

use super::*;

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
