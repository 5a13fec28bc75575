//! The audit log on real logs of the ledger, in two folders: one survives the loss of the other, and what was released
//! is read back after a restart.

use std::path::Path;
use std::sync::Arc;

use base::{Clock, DomainName, Layer, LogName, ManualClock, PrincipalId, SeededEntropy};
use gate::{AuditLog, AuditRecord, AuditSource, LogTarget, MemoryAuditKeys, Outcome, Targets};
use ledger::{Ed25519Signer, Log, LogOptions, RealDisk};

fn open(dir: &Path, clock: Arc<dyn Clock>) -> Log {
    let signer = Ed25519Signer::from_seed("audit.test", &[7; 32]).unwrap();
    let name = LogName::parse("audit").unwrap();
    Log::open(Arc::new(RealDisk), dir, name, LogOptions::new("audit.test/audit"), Arc::new(signer), clock).unwrap()
}

fn record(n: u64) -> AuditRecord {
    let (who, domain) = (PrincipalId::parse("dr-lee").unwrap(), DomainName::parse("ehr").unwrap());
    let at = base::Timestamp(1_790_000_000_000);
    AuditRecord { decision: n, ..AuditRecord::new(at, who, domain, Layer::Silver, Outcome::Served) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_folders_and_a_restart() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(1_790_000_000_000));
    let keys = Arc::new(MemoryAuditKeys::new(Arc::new(SeededEntropy::new(3))));
    let logs = [open(one.path(), clock.clone()), open(two.path(), clock.clone())];
    let targets =
        Targets::new(logs.iter().map(|log| Arc::new(LogTarget::new("log", log.clone())) as _).collect(), 1024);
    let audit = AuditLog::open(keys.clone(), targets).await.unwrap();
    // Concurrent releases share the log's group commits.
    let mut running = tokio::task::JoinSet::new();
    for n in 0..500 {
        let audit = audit.clone();
        running.spawn(async move { audit.append(vec![record(n)]).await });
    }
    while let Some(done) = running.join_next().await {
        done.unwrap().unwrap();
    }
    logs[1].close().await;
    for n in 500..510 {
        audit.append(vec![record(n)]).await.unwrap();
    }
    logs[0].close().await;
    audit.append(vec![record(510)]).await.unwrap_err();
    let states = audit.targets();
    assert!(states.iter().all(|state| state.lost), "{states:?}");
    drop((logs, audit));

    let source = LogTarget::new("log", open(one.path(), clock));
    assert_eq!(source.size(), 510);
    let mut read = Vec::new();
    while (read.len() as u64) < source.size() {
        read.extend(source.read(read.len() as u64, 100).unwrap());
    }
    assert!(read.iter().enumerate().all(|(n, (index, _))| n as u64 == *index));
    // Sealed: neither who nor where stands there in the clear.
    assert!(read.iter().all(|(_, bytes)| !bytes.windows(6).any(|w| w == b"dr-lee")));
}
