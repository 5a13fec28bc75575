//! How long an epoch turn takes over many scope keys in SQLite: `cargo run --release --example rewrap_bench -- [DIR] [SCOPES]`.
//! The keys are made by a vault as it makes them, one a patient, and put into the table many at a time. Then the epoch
//! turns: every key is unwrapped, wrapped under the new epoch, stored durably, and the old epoch's key is destroyed.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use base::{DomainName, Ordinal, SystemClock, SystemEntropy, Timestamp};
use parking_lot::Mutex;
use store::SqlKeyTable;
use vault::{
    FileRoot, FileRootKeys, Holder, KeyTable, ObjectId, RetentionClass, RootSecret, Scope, ScopeChange, ScopeId,
    ScopePage, ScopeQuery, ScopeRow, Slot, Vault, VaultError,
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Keeps the scopes that a vault makes, and nothing else.
#[derive(Default)]
struct Made(Mutex<Vec<ScopeRow>>);

#[async_trait]
impl KeyTable for Made {
    async fn get_slots(&self, objects: &[ObjectId]) -> Result<Vec<Option<Slot>>, VaultError> {
        Ok(vec![None; objects.len()])
    }

    async fn put_slots(&self, _: &[Slot]) -> Result<(), VaultError> {
        Ok(())
    }

    async fn delete_slots(&self, _: &[ObjectId]) -> Result<(), VaultError> {
        Ok(())
    }

    async fn find_scopes(&self, _: &ScopeQuery, _: Option<&[u8]>, _: usize) -> Result<ScopePage, VaultError> {
        Ok(ScopePage::default())
    }

    async fn insert_scope(&self, row: &ScopeRow) -> Result<ScopeRow, VaultError> {
        self.0.lock().push(row.clone());
        Ok(row.clone())
    }

    async fn change_scopes(&self, _: &[ScopeChange]) -> Result<(), VaultError> {
        Ok(())
    }

    async fn destroy_scope(&self, _: ScopeId) -> Result<(), VaultError> {
        Ok(())
    }
}

async fn measure(folder: &Path, scopes: u32) -> Result<(), Failure> {
    let path = folder.join("machine.key");
    FileRootKeys::create_machine_key(&path, &SystemEntropy)?;
    let root = FileRoot {
        folder: folder.join("keys"),
        data_folder: folder.join("data"),
        secret: RootSecret::MachineKey { path },
    };
    std::fs::create_dir_all(folder.join("data"))?;
    let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
    let keys = Arc::new(FileRootKeys::init(&root, entropy.clone(), Timestamp(1))?);

    let begun = Instant::now();
    let made = Arc::new(Made::default());
    let maker = Vault::open(keys.clone(), made.clone(), clock.clone(), entropy.clone()).await?;
    let (domain, retention) = (DomainName::parse("ehr")?, RetentionClass::parse("clinical-6y")?);
    for n in 0..scopes {
        let holder = Holder::Record(Ordinal(n + 1));
        maker.scope(&Scope { domain: domain.clone(), holder, retention: retention.clone(), year: 2026 }).await?;
    }
    let file = folder.join("data/keys.db");
    let table = Arc::new(SqlKeyTable::open(&format!("sqlite:{}", file.display())).await?);
    let rows = std::mem::take(&mut *made.0.lock());
    table.insert_scopes(&rows).await?;
    let mut out = std::io::stdout();
    let bytes = std::fs::metadata(&file)?.len() >> 20;
    writeln!(out, "{} scope keys made and stored in {:.1} s: {bytes} MiB", rows.len(), begun.elapsed().as_secs_f64())?;
    drop((maker, rows));

    let vault = Vault::open(keys, table.clone(), clock, entropy).await?;
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
