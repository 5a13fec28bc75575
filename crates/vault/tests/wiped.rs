//! Keys and opened bytes are gone from memory once they are dropped: this process's own memory is searched for them,
//! through `/proc/self/mem` (proc(5)). A process of its own, so that no other test keeps what is looked for.

#![cfg(target_os = "linux")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use base::{DomainName, Entropy, ManualClock, Ordinal, SystemEntropy, Timestamp};
use vault::{
    Epoch, FileRoot, FileRootKeys, Holder, Kind, MemoryKeyTable, MemoryRootKeys, ObjectName, Plain, RetentionClass,
    RootKeys, RootSecret, Scope, Slot, Vault, VaultError, WrapItem,
};
use zeroize::{Zeroize, Zeroizing};

/// What is looked for, kept with each bit turned over: else the search would find its own needle.
struct Needle(Vec<u8>);

impl Needle {
    /// Without the beginning, which the allocator writes over when memory is given back: what stays is the rest.
    fn of(secret: &[u8]) -> Needle {
        const WRITTEN_OVER: usize = 16;
        Needle(secret[WRITTEN_OVER..].iter().map(|byte| !byte).collect())
    }

    fn is_at(&self, window: &[u8]) -> bool {
        window.iter().zip(&self.0).all(|(have, turned)| *have == !turned)
    }
}

const CHUNK: usize = 1 << 20;

/// How often the needle stands in the memory that this process can write, but for the buffer of the search.
fn found(needle: &Needle) -> usize {
    let mut buffer = vec![0; CHUNK];
    let own = buffer.as_ptr() as u64..buffer.as_ptr() as u64 + CHUNK as u64;
    let memory = File::open("/proc/self/mem").expect("this process's memory");
    let maps = std::fs::read_to_string("/proc/self/maps").expect("its map");
    let (first, n, mut count) = (!needle.0[0], needle.0.len(), 0);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some(mode)) = (words.next(), words.next()) else { continue };
        if !mode.starts_with("rw") || line.ends_with("[vvar]") {
            continue;
        }
        let bound = |text: Option<&str>| u64::from_str_radix(text.unwrap_or_default(), 16).expect("an address");
        let mut bounds = range.split('-');
        let (mut at, end) = (bound(bounds.next()), bound(bounds.next()));
        // Overlapping by one needle, so that none is cut in two.
        while at < end {
            let take = usize::try_from(end - at).map_or(CHUNK, |left| left.min(CHUNK));
            let Ok(()) = memory.read_exact_at(&mut buffer[..take], at) else { break };
            for (offset, window) in buffer[..take].windows(n).enumerate() {
                let address = at + offset as u64;
                if window[0] == first && !own.contains(&address) && needle.is_at(window) {
                    count += 1;
                }
            }
            if take < CHUNK {
                break;
            }
            at += (CHUNK - n + 1) as u64;
        }
    }
    buffer.zeroize();
    count
}

/// Remembers, turned over, each key that is wrapped.
struct Spy {
    root: MemoryRootKeys,
    wrapped: Mutex<Vec<Needle>>,
}

#[async_trait]
impl RootKeys for Spy {
    async fn epochs(&self) -> Result<Vec<Epoch>, VaultError> {
        self.root.epochs().await
    }
    async fn begun(&self, epoch: Epoch) -> Result<Option<Timestamp>, VaultError> {
        self.root.begun(epoch).await
    }
    async fn begin_epoch(&self, now: Timestamp) -> Result<Epoch, VaultError> {
        self.root.begin_epoch(now).await
    }
    async fn wrap(&self, epoch: Epoch, items: &[WrapItem<'_>]) -> Result<Vec<Vec<u8>>, VaultError> {
        self.wrapped.lock().expect("no panic").extend(items.iter().map(|item| Needle::of(item.bytes)));
        self.root.wrap(epoch, items).await
    }
    async fn unwrap(&self, epoch: Epoch, items: &[WrapItem<'_>]) -> Result<Vec<Result<Plain, VaultError>>, VaultError> {
        self.root.unwrap(epoch, items).await
    }
    async fn destroy_epoch(&self, epoch: Epoch) -> Result<(), VaultError> {
        self.root.destroy_epoch(epoch).await
    }
}

fn random(bytes: usize) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(vec![0; bytes]);
    SystemEntropy.fill(&mut out);
    out
}

/// Overwrites the stack below the caller: what a call that has returned left there is no longer held by anything.
#[inline(never)]
fn tread_stack() {
    let mut frame = [0_u8; 256 << 10];
    std::hint::black_box(&mut frame);
}

/// Runs as a request of a node does: in a task, whose memory is given back at its end, on a worker whose stack the next
/// task treads upon.
async fn work<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> T {
    let done = tokio::spawn(task).await.expect("no panic");
    tokio::spawn(async { tread_stack() }).await.expect("no panic");
    done
}

fn domain() -> DomainName {
    DomainName::parse("ehr").expect("a name")
}

fn name(domain: &DomainName) -> ObjectName<'_> {
    ObjectName { domain, kind: Kind::Resource, id: b"1", version: 1 }
}

async fn seal(vault: Vault, scope: Scope, plain: Zeroizing<Vec<u8>>) -> (Vec<u8>, Slot) {
    vault.seal(name(&domain()), &scope, &plain).await.expect("sealed")
}

async fn open(vault: Vault, slot: Slot, sealed: Vec<u8>) -> Plain {
    vault.open_with_slot(&slot, name(&domain()), &sealed).await.expect("opened")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn keys_and_opened_bytes_are_wiped_when_dropped() {
    let retention = RetentionClass::parse("clinical").expect("a class");
    let scope = Scope { domain: domain(), holder: Holder::Record(Ordinal(1)), retention, year: 2026 };
    let spy = Arc::new(Spy { root: MemoryRootKeys::new(Arc::new(SystemEntropy)), wrapped: Mutex::default() });
    let (root, table, clock) = (spy.clone(), Arc::new(MemoryKeyTable::new()), Arc::new(ManualClock::at(1_000)));
    let vault = work(async { Vault::open(root, table, clock, Arc::new(SystemEntropy)).await.expect("a vault") }).await;

    // What was opened.
    let plain = random(64);
    let needle = Needle::of(&plain);
    let (sealed, slot) = work(seal(vault.clone(), scope.clone(), plain)).await;
    assert_eq!(found(&needle), 0, "a copy of what was sealed stayed");
    let opened = work(open(vault.clone(), slot, sealed.clone())).await;
    assert!(found(&needle) > 0, "the search finds what is there");
    drop(opened);
    assert_eq!(found(&needle), 0, "what was opened stayed after it was dropped");

    // A scope's key: in the cache, and in the schedule of its cipher, until it leaves the cache.
    let needle = spy.wrapped.lock().expect("no panic").pop().expect("the scope's key was wrapped");
    assert!(found(&needle) > 0, "a cached key is in memory");
    vault.forget_keys();
    assert_eq!(found(&needle), 0, "a scope's key stayed after it left the cache");
    drop(work(open(vault.clone(), slot, sealed)).await);
    assert!(found(&needle) > 0, "and is back after it is used");
    let (destroying, id) = (vault.clone(), slot.scope);
    work(async move { destroying.destroy_scope(id).await.expect("destroyed") }).await;
    assert_eq!(found(&needle), 0, "a destroyed scope's key stayed");

    // A key that was handed out.
    let (giving, scope) = (vault.clone(), Scope { year: 2027, ..scope });
    let key = work(async move { giving.object_key(name(&domain()), &scope).await.expect("a key").1 }).await;
    let needle = Needle::of(&key[..]);
    assert!(found(&needle) > 0);
    drop(key);
    assert_eq!(found(&needle), 0, "an object's key stayed");

    // The node secret lives as long as the vault.
    let needle = spy.wrapped.lock().expect("no panic").remove(0);
    assert!(found(&needle) > 0);
    drop(vault);
    assert_eq!(found(&needle), 0, "the node secret stayed after the vault");

    // The machine key is read to open the epoch keys, and then wiped.
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("keys/machine.key");
    std::fs::create_dir(folder.path().join("keys")).expect("a folder");
    FileRootKeys::create_machine_key(&path, &SystemEntropy).expect("a machine key");
    let needle = Needle::of(&Zeroizing::new(std::fs::read(&path).expect("the machine key")));
    let (keys, data) = (folder.path().join("keys"), folder.path().join("data"));
    let opened = work(async move {
        let root = FileRoot { folder: keys, data_folder: data, secret: RootSecret::MachineKey { path } };
        drop(FileRootKeys::init(&root, Arc::new(SystemEntropy), Timestamp(1)).expect("root keys"));
        FileRootKeys::open(&root, Arc::new(SystemEntropy)).expect("root keys")
    })
    .await;
    tread_stack();
    assert_eq!(found(&needle), 0, "the machine key stayed after it was used");
    drop(opened);
}
