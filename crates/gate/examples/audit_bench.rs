//! Who saw this patient, measured: many audit records on a real disk, their index while it follows, questions about one
//! patient, the law of growth, and a rebuild.
//!
//! `cargo run --release -p gate --example audit_bench -- [MILLIONS] [FOLDER]`; 10 and a temporary folder by default.
//! A million records take some 350 MB.

#![allow(clippy::print_stdout)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::{
    Clock, DomainName, Entropy, Layer, Limits, LogName, Ordinal, PermitMint, PrincipalId, Purpose, Read, SystemClock,
    SystemEntropy, Timestamp,
};
use gate::{
    AuditFollower, AuditLog, AuditReader, AuditRecord, AuditStore, Gate, GateParts, LogTarget, MemoryAuditKeys,
    MemoryDirectory, MemoryPatients, NoAlarm, Outcome, Period, Targets, TokenIssuer, TokenKeys, governance,
};
use ledger::{Ed25519Signer, Log, LogOptions, RealDisk};

const PATIENTS: u32 = 1_000_000;
const BEGIN: i64 = 1_760_000_000_000;
const DAYS: i64 = 30;
const DAY_MS: i64 = 86_400_000;
const BATCH: u64 = 16;
const TASKS: u64 = 512;

type Failure = Box<dyn std::error::Error>;

/// SplitMix64.
fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// 97 % reads of one patient; 2 % searches of up to fifty; 1 % SQL: of twenty cohorts, which come again and again, and of
/// sets of their own.
fn record(n: u64, all: u64) -> Result<AuditRecord, Failure> {
    let chance = mix(n);
    let who = PrincipalId::parse(&format!("user-{}", chance % 2_000))?;
    let at = Timestamp(BEGIN + (n as i64).saturating_mul(DAYS * DAY_MS) / all as i64);
    let mut record = AuditRecord::new(at, who, DomainName::parse("ehr")?, Layer::Silver, Outcome::Served);
    (record.decision, record.policy_version) = (n, 77);
    (record.door, record.action) = ("fhir".into(), "read".into());
    record.what = "GET Patient/{id}".into();
    record.kinds = vec!["Patient".into()];
    record.policies = vec!["care-in-own-domain".into()];
    record.purpose = Some(Purpose::Treatment);
    record.token = Some([chance as u8; 16]);
    record.trace = Some(u128::from(mix(chance)).to_le_bytes());
    record.rows = 1;
    let patient = |k: u64| 1 + (mix(chance ^ k) % u64::from(PATIENTS)) as u32;
    match chance % 1_000 {
        0..970 => record.patients.extend([patient(1)]),
        970..990 => record.patients.extend((0..2 + chance % 49).map(patient)),
        990..999 => {
            let cohort = mix(n) % 20;
            let size = 1_000 + cohort * 2_500;
            record.patients.extend((0..size).map(|k| 1 + (mix(cohort << 32 | k) % u64::from(PATIENTS)) as u32));
        }
        _ => record.patients.extend((0..100 + chance % 900).map(patient)),
    }
    Ok(record)
}

fn open_log(folder: &Path) -> Result<Log, Failure> {
    let signer = Ed25519Signer::from_seed("bench.test/audit", &[3; 32]).ok_or("no signer")?;
    let options = LogOptions::from_limits("bench.test/audit", &Limits::default());
    let (name, clock) = (LogName::parse("audit")?, Arc::new(SystemClock));
    Ok(Log::open(Arc::new(RealDisk), &folder.join("audit"), name, options, Arc::new(signer), clock)?)
}

/// A gate, for the permit to read the audit log.
fn gate(audit: AuditLog) -> Result<Gate, Failure> {
    let key = TokenIssuer::new_key()?;
    let issuer = TokenIssuer::from_pkcs8(&key, "urn:bench", "urn:bench", 3_600_000)?;
    Ok(Gate::new(GateParts {
        mint: PermitMint::claim().ok_or("the mint is taken")?,
        engine: policy::Engine::load(policy::starter()).map_err(|_| "the starting policies do not load")?,
        audit,
        patients: Arc::new(MemoryPatients::default()),
        principals: Arc::new(MemoryDirectory::default()),
        tokens: TokenKeys::of(&issuer),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SystemEntropy),
        limits: Limits::default(),
    }))
}

/// Appends everything, the follower beside it.
async fn fill(audit: &AuditLog, follower: &AuditFollower, all: u64) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for task in 0..TASKS {
        let audit = audit.clone();
        tasks.push(tokio::spawn(async move {
            let mut times = Vec::new();
            let mut n = task * BATCH;
            while n < all {
                let batch = (n..(n + BATCH).min(all)).filter_map(|n| record(n, all).ok()).collect();
                let begun = Instant::now();
                if audit.append(batch).await.is_err() {
                    // Busy: that is what a queue with a bound says.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                }
                times.push(begun.elapsed());
                n += TASKS * BATCH;
            }
            times
        }));
    }
    let lag = tokio::spawn({
        let follower = follower.clone();
        async move {
            let mut lags = Vec::new();
            loop {
                tokio::time::sleep(Duration::from_millis(500)).await;
                let status = follower.status().await;
                lags.push(status.unread);
                if status.targets[0].records >= all {
                    return lags;
                }
            }
        }
    });
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await?);
    }
    let took = begun.elapsed();
    println!(
        "append, index following: {:.0} records/s durable in batches of {BATCH}; {}",
        per_second(all, took),
        spread(&mut times)
    );
    let mut lags = lag.await?;
    lags.sort_unstable();
    println!("index lag while appending: median {} records, most {}", lags[lags.len() / 2], lags[lags.len() - 1]);
    let behind = Instant::now();
    while follower.status().await.unread > 0 {
        follower.round(5_000).await;
    }
    println!("index caught up {:.1} s after the last append", behind.elapsed().as_secs_f64());
    let settling = Instant::now();
    follower.settle_index().await;
    println!("merges settled after {:.1} s more", settling.elapsed().as_secs_f64());
    Ok(())
}

fn per_second(n: u64, took: Duration) -> f64 {
    n as f64 / took.as_secs_f64()
}

fn spread(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |percent: usize| times.get((times.len() * percent / 100).min(times.len().saturating_sub(1)));
    let ms = |percent| at(percent).map_or(0.0, |time: &Duration| time.as_secs_f64() * 1e3);
    format!("p50 {:.2} ms, p99 {:.2} ms, most {:.2} ms", ms(50), ms(99), ms(100))
}

async fn ask(gate: &Gate, reader: &AuditReader, what: &str, patients: &[u32], period: Period) -> Result<(), Failure> {
    let ehr = DomainName::parse("ehr")?;
    let blocks = async || reader.follower().status().await.index.map_or(0, |index| index.blocks_read);
    let (before, mut times, mut lines) = (blocks().await, Vec::new(), 0u64);
    for patient in patients {
        let permit = gate.node_permit::<Read>("ward", &governance(), Layer::Governance)?;
        let begun = Instant::now();
        let page = reader.who_saw_between(&permit, &ehr, &[Ordinal(*patient)], period).await?;
        times.push(begun.elapsed());
        page.map(|page| lines += page.lines.len() as u64);
    }
    let asked = patients.len() as u64;
    let each = (blocks().await - before) as f64 / asked as f64;
    println!(
        "{what}: {}; {:.0} lines and {each:.0} blocks each ({asked} asked)",
        spread(&mut times),
        lines as f64 / asked as f64
    );
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let all = arguments.next().map_or(Ok(10), |text| text.parse::<u64>())? * 1_000_000;
    let temporary = tempfile::tempdir()?;
    let folder = arguments.next().map_or(temporary.path().to_owned(), Into::into);
    let log = open_log(&folder)?;
    let target = Arc::new(LogTarget::new("log", log.clone()));
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    let audit =
        AuditLog::open(Arc::new(MemoryAuditKeys::new(entropy)), Targets::new(vec![target.clone()], 8_192)).await?;
    let stores: Vec<Arc<dyn AuditStore>> = vec![target];
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let index = folder.join("index");
    let follower = AuditFollower::new(audit.clone(), stores, Arc::new(NoAlarm), clock, Some(index));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let following = tokio::spawn({
        let follower = follower.clone();
        async move { follower.run(async { drop(stopped.await) }).await }
    });
    println!(
        "{} records about {PATIENTS} patients over {DAYS} days, {} cores",
        all,
        std::thread::available_parallelism()?
    );
    fill(&audit, &follower, all).await?;
    let size = follower.status().await.index.ok_or("no index")?;
    println!("index: {} runs, {} bytes, {:.0} bytes a record", size.runs, size.bytes, size.bytes as f64 / all as f64);

    let gate = gate(audit)?;
    let reader = gate.audit_reader(follower.clone());
    let whole = Period::default();
    let day = Period { since: Some(Timestamp(BEGIN + (DAYS - 1) * DAY_MS)), until: None };
    let some: Vec<u32> = (0..300).map(|n| 1 + (mix(n) % u64::from(PATIENTS)) as u32).collect();
    // Members of the largest cohort: what SQL has touched again and again.
    let cohort: Vec<u32> = (0..50).map(|k| 1 + (mix(19 << 32 | k) % u64::from(PATIENTS)) as u32).collect();
    ask(&gate, &reader, "who saw a patient, everything", &some, whole).await?;
    ask(&gate, &reader, "who saw a patient, last 24 hours", &some, day).await?;
    ask(&gate, &reader, "who saw a patient of cohorts, everything", &cohort, whole).await?;
    ask(&gate, &reader, "who saw a patient of cohorts, last 24 hours", &cohort, day).await?;

    let begun = Instant::now();
    follower.rebuild_index().await;
    while follower.status().await.unread > 0 {
        follower.round(5_000).await;
    }
    println!("rebuilt from the log: {:.0} records/s", per_second(all, begun.elapsed()));
    follower.settle_index().await;
    ask(&gate, &reader, "after the rebuild, everything", &some, whole).await?;
    let _ = stop.send(());
    following.await?;
    log.close().await;
    Ok(())
}
