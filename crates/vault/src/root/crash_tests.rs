//! Root keys on the simulated disk: power cuts, torn writes, syncs that fail (lost or persisted), no space, in every
//! change. A living epoch is never lost, a destroyed one never comes back, and nothing of it is left on the medium.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use base::{SeededEntropy, Timestamp};
use disk::Disk;
use disk::sim::{SimDisk, SyncFault};
use zeroize::Zeroizing;

use super::file::FILE_NAME;
use crate::*;

/// Of each kind of root secret; a passphrase costs more.
const SEEDS: [u64; 2] = [8_000, 2_500];
const STEPS: usize = 8;

struct Run {
    seed: u64,
    disk: SimDisk,
    chance: SeededEntropy,
    folder: PathBuf,
    /// The secret that opens the file; two while a rotation is in doubt.
    secrets: Vec<RootSecret>,
    keys: FileRootKeys,
    /// Wraps under the epochs that must live.
    living: BTreeMap<Epoch, Vec<u8>>,
    destroyed: BTreeSet<Epoch>,
    record: Vec<u8>,
    passphrases: u64,
    machine_keys: BTreeSet<Vec<u8>>,
}

fn machine_key() -> PathBuf {
    PathBuf::from("/mesh/keys/machine.key")
}

fn passphrase(n: u64) -> RootSecret {
    let passphrase = Zeroizing::new(format!("passphrase {n}"));
    RootSecret::Passphrase { passphrase, cost: PassphraseCost::INSECURE_FAST }
}

async fn wrap(keys: &FileRootKeys, epoch: Epoch) -> Vec<u8> {
    keys.wrap(epoch, &[WrapItem { aad: b"x", bytes: &[7; 32] }]).await.unwrap().remove(0)
}

async fn unwraps(keys: &FileRootKeys, epoch: Epoch, bytes: &[u8]) -> bool {
    match keys.unwrap(epoch, &[WrapItem { aad: b"x", bytes }]).await {
        Ok(mut plain) => plain.remove(0).is_ok(),
        Err(error) => panic!("{error}"),
    }
}

impl Run {
    async fn begin(seed: u64, secret: RootSecret) -> Run {
        let disk = SimDisk::new(seed);
        let folder = PathBuf::from("/mesh/keys");
        disk.make_folder(&folder, disk::Access::Private).unwrap();
        if let RootSecret::MachineKey { path } = &secret {
            FileRootKeys::create_machine_key_on(&disk, path, &SeededEntropy::new(seed)).unwrap();
        }
        let root = FileRoot { folder: folder.clone(), data_folder: "/mesh/data".into(), secret: secret.clone() };
        let entropy = Arc::new(SeededEntropy::new(seed));
        let keys = FileRootKeys::init_on(Arc::new(disk.clone()), &root, entropy, Timestamp(1)).unwrap();
        let living = BTreeMap::from([(Epoch(1), wrap(&keys, Epoch(1)).await)]);
        let record = wrap(&keys, Epoch::ROOT).await;
        let (destroyed, chance) = (BTreeSet::new(), SeededEntropy::new(!seed));
        let (secrets, machine_keys) = (vec![secret], BTreeSet::new());
        Run { seed, disk, chance, folder, secrets, keys, living, destroyed, record, passphrases: 0, machine_keys }
    }

    fn below(&self, n: u64) -> u64 {
        self.chance.next_u64() % n
    }

    fn break_something(&self) {
        match self.below(6) {
            0 => {}
            1 | 2 => self.disk.cut_after(1 + self.below(24)),
            3 => self.disk.fail_sync_after(self.below(9), SyncFault::Lost),
            4 => self.disk.fail_sync_after(self.below(9), SyncFault::Persisted),
            _ => self.disk.set_space(Some(self.disk.used() + self.below(900) as usize)),
        }
    }

    async fn change(&mut self) -> Result<(), VaultError> {
        match self.below(4) {
            0 | 1 => {
                let epoch = self.keys.begin_epoch(Timestamp(2)).await?;
                self.living.insert(epoch, wrap(&self.keys, epoch).await);
            }
            2 => {
                let all = self.keys.epochs().await?;
                let Some(epoch) = all.first().copied().filter(|_| all.len() > 1) else { return Ok(()) };
                self.living.remove(&epoch);
                self.keys.destroy_epoch(epoch).await?;
                self.destroyed.insert(epoch);
            }
            _ => {
                let to = match &self.secrets[0] {
                    RootSecret::MachineKey { .. } => self.secrets[0].clone(),
                    RootSecret::Passphrase { .. } => {
                        self.passphrases += 1;
                        passphrase(self.passphrases)
                    }
                };
                self.secrets.insert(0, to.clone());
                self.keys.rotate(&to).await?;
                self.secrets.truncate(1);
            }
        }
        Ok(())
    }

    /// The process is dead; the power went too, or the system is still up.
    fn die(&self) {
        if self.below(3) > 0 {
            self.disk.power_cut()
        } else {
            self.disk.restart()
        }
        self.disk.set_space(None);
    }

    /// With the first secret that opens.
    fn open(&self) -> Option<(RootSecret, FileRootKeys)> {
        self.secrets.iter().find_map(|secret| {
            let (folder, data_folder) = (self.folder.clone(), "/mesh/data".into());
            let root = FileRoot { folder, data_folder, secret: secret.clone() };
            let entropy = Arc::new(SeededEntropy::new(self.chance.next_u64()));
            let keys = FileRootKeys::open_on(Arc::new(self.disk.clone()), &root, entropy).ok()?;
            Some((secret.clone(), keys))
        })
    }

    /// The process begins anew; another crash may come while it puts in order what the one before left.
    async fn reopen(&mut self) {
        self.die();
        while self.below(3) == 0 {
            self.break_something();
            drop(self.open());
            self.die();
        }
        let (secret, keys) = self.open().unwrap_or_else(|| panic!("seed {}: the keys are lost", self.seed));
        self.secrets = vec![secret];
        self.keys = keys;
    }

    async fn check(&self) {
        let seed = self.seed;
        let epochs = self.keys.epochs().await.unwrap();
        for (epoch, bytes) in &self.living {
            assert!(unwraps(&self.keys, *epoch, bytes).await, "seed {seed}: living {epoch} of {epochs:?}");
        }
        assert!(unwraps(&self.keys, Epoch::ROOT, &self.record).await, "seed {seed}: a record");
        assert!(epochs.iter().all(|epoch| !self.destroyed.contains(epoch)), "seed {seed}: {epochs:?} revives one");
    }

    /// Nothing is left on the medium, under a name or not, but the one file and the one machine key.
    fn check_medium(&mut self) {
        let standing = self.disk.read(&self.folder.join(FILE_NAME)).unwrap();
        let machine = self.disk.read(&machine_key()).ok();
        self.machine_keys.extend(machine.clone());
        let mut same = 0;
        for bytes in self.disk.medium() {
            if bytes == standing || Some(&bytes) == machine.as_ref() {
                same += 1;
                continue;
            }
            assert!(!self.machine_keys.contains(&bytes), "seed {}: an old machine key is left", self.seed);
            // Noise has no long run of letters; a sealed file, or a sector of one, is nothing else.
            let is_letter = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
            let longest = bytes.split(|b| !is_letter(b)).map(<[u8]>::len).max();
            assert!(longest.unwrap_or(0) < 40, "seed {}: old bytes are left", self.seed);
        }
        assert_eq!(same, 1 + usize::from(machine.is_some()), "seed {}: one of each", self.seed);
        let names: BTreeSet<String> = self.disk.list(&self.folder).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), same, "seed {}: {names:?}", self.seed);
    }
}

async fn run(seed: u64, secret: RootSecret) -> u64 {
    let mut run = Run::begin(seed, secret).await;
    for _ in 0..STEPS {
        run.break_something();
        let done = run.change().await;
        let has_ended = run.disk.fatal_error().is_some() || run.disk.stat(&run.folder).is_err();
        run.disk.set_space(None);
        if has_ended || run.below(4) == 0 {
            run.reopen().await;
            run.check_medium();
        } else {
            run.disk.restart();
            if done.is_ok() {
                run.check_medium();
            }
        }
        run.check().await;
    }
    run.disk.power_cut();
    run.reopen().await;
    run.check().await;
    run.check_medium();
    run.disk.trace()
}

fn seeds(seeds: u64, secret: impl Fn() -> RootSecret) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for seed in 0..seeds {
            run(seed, secret()).await;
        }
        assert_eq!(run(7, secret()).await, run(7, secret()).await, "one seed is one run");
    });
}

#[test]
fn every_simulated_crash_under_a_machine_key() {
    seeds(SEEDS[0], || RootSecret::MachineKey { path: machine_key() });
}

#[test]
fn every_simulated_crash_under_a_passphrase() {
    seeds(SEEDS[1], || passphrase(0));
}
