//! Audit records as a read leaves them, appended durably: through the node's own audit log (two targets, either
//! suffices) and through one with a single target, with the time until its proof can be had.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base::{Clock, DomainName, Layer, LogName, PrincipalId, Purpose, SystemClock, SystemEntropy};
use gate::{AuditLog, AuditRecord, LogTarget, MemoryAuditKeys, Outcome, Targets};
use ledger::{Ed25519Signer, Log, LogOptions, RealDisk};

use super::figure::{Figure, Step, Worker, drive};
use super::mesh::TestMesh;
use super::{Plan, failed};
use crate::commands::{Failure, Result, progress};

struct Recorder {
    log: AuditLog,
    record: AuditRecord,
    /// Records in one call: an answer about several domains, or a batch of a door's.
    batch: usize,
}

#[async_trait]
impl Worker for Recorder {
    async fn step(&mut self) -> Step {
        self.record.decision = self.record.decision.wrapping_add(1);
        match self.log.append(vec![self.record.clone(); self.batch]).await {
            Ok(_) => Step::Done { units: self.batch as u64, bytes: 0 },
            Err(error) => Step::Failed(error.to_string()),
        }
    }
}

/// A read of one patient by a physician.
fn record(n: u32) -> Result<AuditRecord> {
    let principal = PrincipalId::parse("dr-lee").map_err(failed)?;
    let domain = DomainName::parse("ehr").map_err(failed)?;
    let mut record = AuditRecord::new(SystemClock.now(), principal, domain, Layer::Silver, Outcome::Served);
    record.door = "fhir".into();
    record.action = "read".into();
    record.what = "GET Patient/{id}".into();
    record.kinds = vec!["Patient".into()];
    record.policies = vec!["care-in-own-domain".into()];
    record.purpose = Some(Purpose::Treatment);
    record.token = Some([7; 16]);
    record.trace = Some([9; 16]);
    record.rows = 1;
    record.patients.insert(n + 1);
    Ok(record)
}

fn recorders(log: &AuditLog, tasks: u32, batch: usize) -> Result<Vec<Recorder>> {
    (0..tasks).map(|n| Ok(Recorder { log: log.clone(), record: record(n)?, batch })).collect()
}

pub async fn figures(mesh: &TestMesh, plan: &Plan) -> Result<Vec<Figure>> {
    const GOAL: &str = "100,000/s; proof ≤ 100 ms p99";
    let bytes = record(1)?.encode().len();
    let told = format!("{bytes} B a record before its seal");
    let mut figures = Vec::new();
    for (tasks, batch) in [(64, 1), (512, 1), (512, 16)] {
        progress(&format!("audit append: {tasks} tasks, {batch} a call, two targets"));
        let load = drive(recorders(mesh.gate.audit(), tasks, batch)?, plan.time).await?;
        figures.push(
            Figure::of(format!("audit append: {tasks} tasks, {batch} a call, two targets"), &load, "records/s")
                .under(&told)
                .goal(GOAL),
        );
    }
    figures.push(index_lag(mesh).await);
    let log = single_log(mesh)?;
    let targets = Targets::new(vec![Arc::new(LogTarget::new("log", log.clone()))], 8_192);
    let keys = Arc::new(MemoryAuditKeys::new(Arc::new(SystemEntropy)));
    let audit = AuditLog::open(keys, targets).await.map_err(failed)?;
    for (tasks, batch) in [(512, 1), (512, 16)] {
        progress(&format!("audit append: {tasks} tasks, {batch} a call, one target"));
        let proofs = tokio::spawn(proof_times(log.clone(), plan.time));
        let load = drive(recorders(&audit, tasks, batch)?, plan.time).await?;
        let mut times = proofs.await.map_err(failed)?;
        times.sort_unstable();
        let at = |percent: usize| times.get(times.len() * percent / 100).map_or(0.0, |t| t.as_secs_f64() * 1e3);
        let ready = format!("published for proof after p50 {:.1} ms, p99 {:.1} ms", at(50), at(99));
        figures.push(
            Figure::of(format!("audit append: {tasks} tasks, {batch} a call, one target"), &load, "records/s")
                .under(&told)
                .under(ready)
                .goal(GOAL),
        );
    }
    drop(audit);
    log.close().await;
    figures.extend(super::render::figures(&record(1)?, plan).await?);
    Ok(figures)
}

/// How far the index of who saw whom is behind right after the load, over both targets.
async fn index_lag(mesh: &TestMesh) -> Figure {
    let follower = mesh.doors.audit.follower();
    let (behind, begun) = (follower.status().await.unread, Instant::now());
    while follower.status().await.unread > 0 {
        follower.round(5_000).await;
    }
    let caught_up = format!("caught up after {:.1} s", begun.elapsed().as_secs_f64());
    Figure::new("audit index behind after the load", behind as f64, "records").under(caught_up)
}

fn single_log(mesh: &TestMesh) -> Result<Log> {
    let name = "bench.test/audit";
    let signer = Ed25519Signer::from_seed(name, &[3; 32]).ok_or_else(|| Failure::said("no signer"))?;
    let options = LogOptions::from_limits(name, &mesh.doors.limits);
    let folder = mesh.folder.join("audit-single");
    let log_name = LogName::parse("audit").map_err(failed)?;
    Log::open(Arc::new(RealDisk), &folder, log_name, options, Arc::new(signer), Arc::new(SystemClock)).map_err(failed)
}

/// Now and again: how long the next record waits until the tiles hold it. One that is not there when the time is over
/// counts as long as it waited.
async fn proof_times(log: Log, time: Duration) -> Vec<Duration> {
    let until = Instant::now() + time;
    let mut published = log.subscribe_published();
    let mut times = Vec::new();
    while Instant::now() < until {
        let (begun, size) = (Instant::now(), log.size() + 1);
        let waited = tokio::time::timeout(time, published.wait_for(|published| *published >= size)).await;
        let is_published = waited.map(|published| published.is_ok()) == Ok(true);
        times.push(begun.elapsed());
        if !is_published {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    times
}
