//! Sealing and opening by the vault beside the bare cipher, turn about in one process, in processor time of one thread, so
//! that other work on the machine does not count; then a million slots wrapped anew. `cargo run --release -p vault --example seal_bench`

#![allow(clippy::print_stdout)] // Its figures are what it is for.

use std::hint::black_box;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use base::{DomainName, SystemClock, SystemEntropy};
use vault::{Holder, Kind, MemoryKeyTable, MemoryRootKeys, ObjectName, RetentionClass, Scope, Vault};

const TURNS: usize = 15;
/// Bytes sealed by each side in each turn.
const TURN_BYTES: usize = 128 << 20;

type Failed = Box<dyn std::error::Error>;

/// Nanoseconds that this thread has run (proc(5), `schedstat`).
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

fn timed(rounds: usize, mut work: impl FnMut(u64)) -> f64 {
    let begun = cpu_ns();
    for round in 0..rounds {
        work(round as u64);
    }
    (cpu_ns() - begun) as f64 / rounds as f64
}

fn key(n: u8) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[n; 32]).expect("a key has 32 bytes"))
}

fn nonce(n: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&n.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn main() -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let entropy = Arc::new(SystemEntropy);
    let root = Arc::new(MemoryRootKeys::new(entropy.clone()));
    let table = Arc::new(MemoryKeyTable::new());
    let vault = runtime.block_on(Vault::open(root, table, Arc::new(SystemClock), entropy))?;
    let domain = DomainName::parse("ehr")?;
    let scope = Scope {
        domain: domain.clone(),
        holder: Holder::Shared,
        retention: RetentionClass::parse("clinical")?,
        year: 2026,
    };
    let name = ObjectName { domain: &domain, kind: Kind::Resource, id: b"Patient/1", version: 1 };
    println!("size        bare ns  +schedule ns     seal ns   of bare     open ns   of bare   (medians of {TURNS})");
    for bytes in [1 << 10, 16 << 10] {
        let plain = vec![0x5a; bytes];
        let (sealed, slot) = runtime.block_on(vault.seal(name, &scope, &plain))?;
        let bare_key = key(9);
        let mut buffer = plain.clone();
        let rounds = TURN_BYTES / bytes;
        let (mut bare, mut scheduled, mut seal, mut open) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..TURNS {
            bare.push(timed(rounds, |n| {
                black_box(bare_key.seal_in_place_separate_tag(nonce(n), Aad::empty(), black_box(&mut buffer)).is_ok());
            }));
            scheduled.push(timed(rounds, |n| {
                let key = key(n as u8);
                black_box(key.seal_in_place_separate_tag(nonce(n), Aad::empty(), black_box(&mut buffer)).is_ok());
            }));
            // One block_on for the whole turn: entering the runtime is no part of sealing.
            let begun = cpu_ns();
            runtime.block_on(async {
                for _ in 0..rounds {
                    black_box(vault.seal(name, &scope, black_box(&plain)).await.is_ok());
                }
            });
            seal.push((cpu_ns() - begun) as f64 / rounds as f64);
            let begun = cpu_ns();
            runtime.block_on(async {
                for _ in 0..rounds {
                    black_box(vault.open_with_slot(&slot, name, black_box(&sealed)).await.is_ok());
                }
            });
            open.push((cpu_ns() - begun) as f64 / rounds as f64);
        }
        let (bare, scheduled, seal, open) = (median(bare), median(scheduled), median(seal), median(open));
        println!(
            "{bytes:>6} B  {bare:>8.0}  {scheduled:>12.0}  {seal:>10.0}  {:>6.0} %  {open:>10.0}  {:>6.0} %",
            100.0 * bare / seal,
            100.0 * bare / open
        );
    }
    const SLOTS: usize = 1_000_000;
    let to = Scope { year: 2027, ..scope.clone() };
    let mut slots = Vec::with_capacity(SLOTS);
    runtime.block_on(async {
        for _ in 0..SLOTS {
            slots.push(vault.object_key(name, &scope).await?.2);
        }
        let begun = cpu_ns();
        vault.rewrap(&slots, &to).await?;
        println!("{SLOTS} slots wrapped anew, table in memory: {:.2} s", (cpu_ns() - begun) as f64 / 1e9);
        Ok(())
    })
}
