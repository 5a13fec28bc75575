//! A small node of logs, objects and a key table, backed up and restored over folders.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{Clock, DomainName, LogName, ManualClock, Ordinal, Position, SeededEntropy, Timestamp};
use bytes::Bytes;
use ledger::{Ed25519Signer, Log, LogOptions, NewEntry, RealDisk};
use object_store::{ObjectStore, ObjectStoreExt};
use store::SqlKeyTable;
use store::objects::DurableLocal;
use vault::{Holder, MemoryRootKeys, RetentionClass, RootKeys, Scope, Vault};

use super::*;

const NOW: i64 = 1_764_000_000_000;

struct Node {
    clock: Arc<ManualClock>,
    entropy: Arc<SeededEntropy>,
    root: Arc<dyn RootKeys>,
    vault: Vault,
    journal: Log,
    control: Log,
    objects: Arc<DurableLocal>,
    config: BTreeMap<String, Vec<u8>>,
    // Last, since the logs write to it until they are dropped.
    folder: tempfile::TempDir,
}

fn open_log(folder: &Path, name: &str, seed: u8, clock: Arc<ManualClock>) -> Log {
    let origin = format!("test/{name}");
    let signer = Ed25519Signer::from_seed(&origin, &[seed; 32]).unwrap();
    let mut options = LogOptions::from_limits(&origin, &base::Limits::default());
    (options.segment_bytes, options.preallocate_bytes) = (16 << 10, 8 << 10);
    Log::open(Arc::new(RealDisk), folder, LogName::parse(name).unwrap(), options, Arc::new(signer), clock).unwrap()
}

fn scope(patient: u32) -> Scope {
    Scope {
        domain: DomainName::parse("ehr").unwrap(),
        holder: Holder::Record(Ordinal(patient)),
        retention: RetentionClass::parse("clinical-6y").unwrap(),
        year: 2025,
    }
}

impl Node {
    /// `seed` chooses the log's key: among 32 of them are some with a `+` in base64.
    async fn new(seed: u8) -> Node {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(NOW));
        let entropy = Arc::new(SeededEntropy::new(u64::from(seed)));
        let root: Arc<dyn RootKeys> = Arc::new(MemoryRootKeys::new(entropy.clone()));
        let url = format!("sqlite:{}", folder.path().join("keys.db").display());
        let table = SqlKeyTable::open(&url).await.unwrap();
        let vault = Vault::open(root.clone(), Arc::new(table), clock.clone(), entropy.clone()).await.unwrap();
        Node {
            journal: open_log(&folder.path().join("logs/journal-ehr"), "journal-ehr", seed, clock.clone()),
            control: open_log(&folder.path().join("logs/control"), "control", seed, clock.clone()),
            objects: Arc::new(DurableLocal::open(folder.path().join("objects")).unwrap()),
            config: BTreeMap::from([("principals.toml".into(), b"lee".to_vec())]),
            folder,
            clock,
            entropy,
            root,
            vault,
        }
    }

    /// One entry a frame, a second apart.
    async fn append(&self, log: &Log, n: u8) {
        for i in 0..n {
            self.clock.advance_ms(1_000);
            log.append(NewEntry::one(vec![i; 300])).await.unwrap();
        }
    }

    /// Seals something for a patient, so that its scope is in the key table.
    async fn admit(&self, patient: u32) {
        self.vault.scope(&scope(patient)).await.unwrap();
    }

    fn log(&self, log: &Log) -> LogSource {
        let name = log.name().as_str().to_owned();
        LogSource {
            folder: self.folder.path().join("logs").join(&name),
            place: format!("data/logs/{name}"),
            vkey: log.vkey(),
            checkpoint: log.checkpoint(),
            name,
        }
    }

    async fn source(&self) -> NodeSource {
        NodeSource {
            mesh: "test".into(),
            version: "0".into(),
            taken: self.clock.now(),
            logs: vec![self.log(&self.journal), self.log(&self.control)],
            objects: self.objects.clone(),
            key_table: self.folder.path().join("keys.db"),
            scratch: self.folder.path().to_owned(),
            config: self.config.clone(),
            silver: BTreeMap::new(),
            seal: Seal::of_node(&self.vault).await.unwrap(),
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
        }
    }

    fn place(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    async fn take(&self, keep: usize) -> Taken {
        self.clock.advance_ms(1_000);
        let data = Target::writer(&self.place("backup-data")).await.unwrap();
        let keys = Target::writer(&self.place("backup-keys")).await.unwrap();
        let control_now = || Ok(self.log(&self.control));
        let keys_to = KeysTo { target: &keys, control_now: &control_now, keep };
        take(&self.source().await, &data, keep, Some(keys_to), &Progress::default()).await.unwrap()
    }

    fn opener(&self) -> Opener {
        Opener::of_root(self.root.clone(), self.clock.clone(), self.entropy.clone())
    }

    async fn restore(&self, at: At, into: &str) -> Result<(Restored, PathBuf, BTreeMap<String, Vec<u8>>)> {
        let (data, keys) = (Target::reader(&self.place("backup-data"))?, Target::reader(&self.place("backup-keys"))?);
        let into = self.folder.path().join(into);
        let opener = self.opener();
        let plan = Restoration::plan(Places { data: &data, keys: &keys }, at, &opener).await?;
        let objects: Arc<dyn ObjectStore> = Arc::new(DurableLocal::open(into.join("objects")).unwrap());
        let layout = Layout { data: into.clone(), second: None, objects };
        let restored = plan.write(&layout, &Progress::default()).await?;
        let config = plan.config().await?;
        Ok((restored, into, config))
    }

    /// A restored log, opened as the node would.
    fn reopen(&self, into: &Path, name: &str, seed: u8) -> Log {
        open_log(&into.join("logs").join(name), name, seed, self.clock.clone())
    }
}

fn bytes_of(log: &Log) -> Vec<Vec<u8>> {
    log.read(0, usize::MAX, usize::MAX).unwrap().into_iter().map(|entry| entry.parts.concat()).collect()
}

#[tokio::test]
async fn what_was_backed_up_comes_back_and_only_what_is_new_is_copied() {
    for seed in 0..8 {
        let node = Node::new(seed).await;
        node.append(&node.journal, 60).await;
        node.append(&node.control, 3).await;
        node.admit(1).await;
        let path = object_store::path::Path::from("journal/ehr/large");
        node.objects.put(&path, Bytes::from_static(b"ciphertext").into()).await.unwrap();
        let first = node.take(9).await;
        let again = node.take(9).await;
        assert!(first.added_bytes > 18_000, "{first:?}");
        assert!(again.added_bytes < first.added_bytes / 4, "manifest and a changed key page at most: {again:?}");
        node.append(&node.journal, 5).await;
        let third = node.take(9).await;
        assert!(third.added_bytes > again.added_bytes && third.added_bytes < first.added_bytes / 2, "{third:?}");
        assert_eq!((third.objects, third.logs[0].1), (1, 65));

        let (restored, into, config) = node.restore(At::Newest, "restored").await.unwrap();
        assert_eq!(config, node.config);
        assert_eq!((restored.objects, restored.scopes_dead, restored.notes.len()), (1, 0, 0), "{restored:?}");
        for (log, name) in [(&node.journal, "journal-ehr"), (&node.control, "control")] {
            let copy = node.reopen(&into, name, seed);
            assert_eq!((copy.checkpoint(), bytes_of(&copy)), (log.checkpoint(), bytes_of(log)));
            copy.verify().unwrap();
            copy.append(NewEntry::one(b"goes on".to_vec())).await.unwrap();
            copy.close().await;
        }
        let object = std::fs::read(into.join("objects/objects/journal/ehr/large")).unwrap();
        assert_eq!(object, b"ciphertext");
        assert!(node.restore(At::Newest, "restored").await.is_err(), "not into a folder that holds one");
    }
}

#[tokio::test]
async fn an_empty_node_is_backed_up_and_restored_too() {
    let node = Node::new(1).await;
    node.take(1).await;
    let (restored, into, _) = node.restore(At::Newest, "restored").await.unwrap();
    assert_eq!((restored.newest, restored.logs[0].size), (None, 0));
    let copy = node.reopen(&into, "journal-ehr", 1);
    copy.append(NewEntry::one(b"first".to_vec())).await.unwrap();
}

#[tokio::test]
async fn journals_are_cut_at_any_moment_and_the_control_log_never_is() {
    let node = Node::new(2).await;
    node.append(&node.journal, 50).await;
    node.take(9).await;
    node.append(&node.journal, 50).await;
    node.append(&node.control, 2).await;
    node.take(9).await;
    for size in [0_i64, 1, 27, 50, 51, 99, 100] {
        // Entry n came n + 1 seconds after the beginning, and each backup took one.
        let at = Timestamp(NOW + 1_000 * (size + i64::from(size > 50)) + 500);
        let (restored, into, _) = node.restore(At::Time(at), &format!("at-{size}")).await.unwrap();
        let journal = restored.logs.iter().find(|log| log.name == "journal-ehr").unwrap();
        assert_eq!((journal.size as i64, journal.of), (size, 100));
        let copy = node.reopen(&into, "journal-ehr", 2);
        assert_eq!(bytes_of(&copy), bytes_of(&node.journal)[..size as usize]);
        assert_eq!(node.reopen(&into, "control", 2).size(), 2);
        if size > 0 {
            let position = Position { log: LogName::parse("journal-ehr").unwrap(), index: size as u64 - 1 };
            let (same, ..) = node.restore(At::Position(position), &format!("position-{size}")).await.unwrap();
            assert_eq!(same.logs.iter().find(|log| log.name == "journal-ehr").unwrap().size as i64, size);
        }
    }
    let beyond = Position { log: LogName::parse("journal-ehr").unwrap(), index: 100 };
    assert!(node.restore(At::Position(beyond), "beyond").await.is_err());
}

#[tokio::test]
async fn an_old_backup_comes_back_under_the_newest_governance_and_keys() {
    let mut node = Node::new(3).await;
    node.append(&node.journal, 10).await;
    node.append(&node.control, 1).await;
    node.admit(1).await;
    node.admit(2).await;
    let old = node.take(9).await;
    // Since then: a patient is erased, a person leaves, and there are facts of it.
    let domain = DomainName::parse("ehr").unwrap();
    node.vault.destroy_holder(&domain, Holder::Record(Ordinal(2))).await.unwrap();
    node.append(&node.control, 4).await;
    node.config = BTreeMap::from([("principals.toml".into(), b"nobody".to_vec())]);
    node.append(&node.journal, 10).await;
    node.take(9).await;

    let (restored, into, config) = node.restore(At::Backup(old.id), "restored").await.unwrap();
    assert_eq!(config["principals.toml"], b"nobody");
    assert_eq!(node.reopen(&into, "journal-ehr", 3).size(), 10);
    assert_eq!(node.reopen(&into, "control", 3).size(), 5);
    assert!(restored.notes.iter().any(|note| note.contains("4 entries")), "{:?}", restored.notes);
    let url = format!("sqlite:{}", into.join("keys.db").display());
    let table = Arc::new(SqlKeyTable::open(&url).await.unwrap());
    let vault = Vault::open(node.root.clone(), table, node.clock.clone(), node.entropy.clone()).await.unwrap();
    vault.scope(&scope(1)).await.unwrap();
    assert!(matches!(vault.scope(&scope(2)).await, Err(vault::VaultError::Destroyed)));

    // Once the epoch has turned no earlier keys backup opens anything, and says so.
    node.vault.turn_epoch().await.unwrap();
    let refused = node.restore(At::Newest, "dead").await.err().unwrap();
    assert!(matches!(&refused, BackupError::Refused(text) if text.contains("destroyed")), "{refused}");
    node.take(9).await;
    node.restore(At::Newest, "alive").await.unwrap();
}

#[tokio::test]
async fn damage_is_named_and_the_wrong_root_opens_nothing() {
    let node = Node::new(4).await;
    node.append(&node.journal, 40).await;
    node.take(9).await;
    let pieces = node.folder.path().join("backup-data/objects/pieces");
    let mut files = Vec::new();
    for folder in std::fs::read_dir(&pieces).unwrap() {
        files.extend(std::fs::read_dir(folder.unwrap().path()).unwrap().map(|file| file.unwrap().path()));
    }
    let mut unread = 0;
    for (n, file) in files.iter().enumerate() {
        let whole = std::fs::read(file).unwrap();
        let mut bent = whole.clone();
        bent[whole.len() / 2] ^= 1;
        std::fs::write(file, bent).unwrap();
        let refused = node.restore(At::Newest, &format!("bent-{n}")).await.err();
        assert!(matches!(refused, None | Some(BackupError::Damaged { .. })), "{refused:?}");
        unread += usize::from(refused.is_none());
        std::fs::write(file, whole).unwrap();
    }
    assert!(unread == 1 && files.len() > 2, "all but the configuration, of which a newer one lies with the keys");
    let other: Arc<dyn RootKeys> = Arc::new(MemoryRootKeys::new(Arc::new(SeededEntropy::new(99))));
    let opener = Opener::of_root(other, node.clock.clone(), node.entropy.clone());
    let (data, keys) =
        (Target::reader(&node.place("backup-data")).unwrap(), Target::reader(&node.place("backup-keys")).unwrap());
    let refused = Restoration::plan(Places { data: &data, keys: &keys }, At::Newest, &opener).await.err().unwrap();
    assert!(matches!(refused, BackupError::Keys(_)), "{refused}");
    // Nothing of the log's public labels is in the clear either.
    for file in &files {
        let bytes = std::fs::read(file).unwrap();
        assert!(!bytes.windows(8).any(|w| w == b"WMFRAME1" || w == b"WMSEGMT1"));
    }
}

#[tokio::test]
async fn a_run_that_was_cut_short_does_not_count_and_the_next_one_uses_its_pieces() {
    let node = Node::new(5).await;
    node.append(&node.journal, 60).await;
    let taken = node.take(9).await;
    let manifest = node.folder.path().join(format!("backup-data/objects/data/{}.manifest", taken.id));
    std::fs::remove_file(manifest).unwrap();
    assert!(node.restore(At::Newest, "none").await.is_err());
    let again = node.take(9).await;
    assert!(again.added_bytes < taken.added_bytes / 4, "{} of {}", again.added_bytes, taken.added_bytes);
    node.restore(At::Newest, "restored").await.unwrap();
}

#[tokio::test]
async fn old_backups_go_with_what_only_they_need() {
    let node = Node::new(6).await;
    let path = object_store::path::Path::from("journal/ehr/large");
    node.objects.put(&path, Bytes::from(vec![7; 50_000]).into()).await.unwrap();
    node.append(&node.journal, 20).await;
    let first = node.take(2).await;
    node.objects.delete(&path).await.unwrap();
    for _ in 0..2 {
        node.append(&node.journal, 3).await;
        node.take(2).await;
    }
    let data = Target::reader(&node.place("backup-data")).unwrap();
    assert_eq!(list(&data, Kind::Data, &node.opener()).await.unwrap().len(), 2);
    assert!(data.list("pieces").await.unwrap().iter().all(|(_, bytes)| *bytes < 50_000));
    assert!(node.restore(At::Backup(first.id), "gone").await.is_err());
    let (restored, into, _) = node.restore(At::Newest, "restored").await.unwrap();
    assert_eq!((restored.objects, node.reopen(&into, "journal-ehr", 6).size()), (0, 26));
    let keys = list(&Target::reader(&node.place("backup-keys")).unwrap(), Kind::Keys, &node.opener()).await.unwrap();
    assert!(keys.len() == 2 && keys.iter().all(|one| one.facts.as_ref().unwrap().opens == Some(true)));
}

#[tokio::test]
async fn a_damaged_log_is_refused_with_its_place() {
    let node = Node::new(7).await;
    node.append(&node.journal, 40).await;
    let file = frames::segments(&node.folder.path().join("logs/journal-ehr")).unwrap().pop().unwrap();
    let mut bytes = std::fs::read(&file.path).unwrap();
    bytes[frames::SEGMENT_HEADER as usize + 150] ^= 1;
    std::fs::write(&file.path, bytes).unwrap();
    let target = Target::writer(&node.place("backup-data")).await.unwrap();
    let refused = take(&node.source().await, &target, 1, None, &Progress::default()).await;
    assert!(
        matches!(refused, Err(BackupError::Source { offset: frames::SEGMENT_HEADER, .. })),
        "a backup of a damaged log must not look like one: {refused:?}"
    );
}
