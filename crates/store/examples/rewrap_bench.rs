//! How long an epoch turn takes over many scope keys in SQLite: `cargo run --release -p store --example rewrap_bench --
//! [DIR] [SCOPES]`. The keys are made by a vault, one a patient. Then the epoch turns: every key is unwrapped, wrapped
//! under the new epoch and stored durably, and the old epoch's key is destroyed. The folder is removed at the end.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use base::{DomainName, Ordinal, SystemClock, SystemEntropy, Timestamp};
use store::SqlKeyTable;
use vault::{FileRoot, FileRootKeys, Holder, RetentionClass, RootSecret, Scope, Vault};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Scopes made in one durable step.
const STEP: u32 = 10_000;

async fn measure(folder: &Path, scopes: u32) -> Result<(), Failure> {
    let path = folder.join("machine.key");
    FileRootKeys::create_machine_key(&path, &SystemEntropy)?;
    let (keys, data_folder) = (folder.join("keys"), folder.join("data"));
    let root = FileRoot { folder: keys, data_folder, secret: RootSecret::MachineKey { path } };
    std::fs::create_dir_all(&root.data_folder)?;
    let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
    let keys = Arc::new(FileRootKeys::init(&root, entropy.clone(), Timestamp(1))?);
    let file = root.data_folder.join("keys.db");
    let table = Arc::new(SqlKeyTable::open(&format!("sqlite:{}", file.display())).await?);
    let vault = Vault::open(keys, table.clone(), clock, entropy).await?;
    let mut out = std::io::stdout();

    let begun = Instant::now();
    let (domain, retention) = (DomainName::parse("ehr")?, RetentionClass::parse("clinical-6y")?);
    let scope = |n| Scope {
        domain: domain.clone(),
        holder: Holder::Record(Ordinal(n + 1)),
        retention: retention.clone(),
        year: 2026,
    };
    for from in (0..scopes).step_by(STEP as usize) {
        let step: HashMap<Scope, Vec<_>> = (from..(from + STEP).min(scopes)).map(|n| (scope(n), Vec::new())).collect();
        vault.rewrap_each(&step).await?;
    }
    let (took, mib) = (begun.elapsed().as_secs_f64(), std::fs::metadata(&file)?.len() >> 20);
    writeln!(out, "{scopes} scope keys made and stored in {took:.1} s: {mib} MiB")?;

    let begun = Instant::now();
    let turn = vault.turn_epoch().await?;
    let took = begun.elapsed().as_secs_f64();
    writeln!(
        out,
        "the epoch turned over {} of them in {took:.1} s ({:.0}/s), the old epoch's key destroyed: {}",
        turn.scopes_rewrapped,
        turn.scopes_rewrapped as f64 / took,
        !turn.destroyed.is_empty()
    )?;
    table.close().await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().unwrap_or_else(|| ".rewrap-bench".to_owned()));
    let scopes = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    std::fs::create_dir_all(&folder)?;
    let done = measure(&folder, scopes).await;
    std::fs::remove_dir_all(&folder)?;
    done
}
