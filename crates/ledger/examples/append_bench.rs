//! Durable appends per second: `cargo run --release -p ledger --example append_bench -- [DIR] [SECONDS] [BYTES]`.
//! Prints appends/s, the time to the acknowledgement and to a published proof at several numbers of waiting appenders,
//! alone and in batches, beside the disk's own time for a write of 4 KiB with a sync, and entries verified per second of
//! one core. `bench/append` runs PostgreSQL beside it.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base::{LogName, SystemClock};
use ledger::merkle::verify_inclusion;
use ledger::{AppendError, Disk, Ed25519Signer, LedgerError, Log, LogOptions, NewEntry, RealDisk, note};

/// A proof that is not there after this counts as long.
const WAIT_MAX: Duration = Duration::from_secs(3);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Time of a 4 KiB overwrite with a data sync, in microseconds, sorted.
fn sync_times(dir: &Path) -> Result<Vec<u64>, Failure> {
    let path = dir.join("sync-probe");
    RealDisk.publish(&[(path.clone(), vec![0; 1 << 20])])?;
    let file = RealDisk.open(&path)?;
    let mut times = Vec::new();
    for i in 0..200u64 {
        let begun = Instant::now();
        file.write_at(&[i as u8; 4096], i % 256 * 4096)?;
        file.sync()?;
        times.push(begun.elapsed().as_micros() as u64);
    }
    RealDisk.remove(&path)?;
    times.sort_unstable();
    Ok(times)
}

/// Time that this thread was on a core.
fn on_core() -> Result<Duration, Failure> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(Duration::from_nanos(text.split_whitespace().next().unwrap_or_default().parse()?))
}

fn at(sorted: &[u64], percent: usize) -> u64 {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
}

struct Load {
    appenders: usize,
    /// Entries in one call.
    batch: usize,
    bytes: usize,
    time: Duration,
}

/// Appends until the time is over; the times of the calls in microseconds, and how often the log was busy.
async fn appender(log: Log, load: Arc<Load>, busy: Arc<AtomicU64>, until: Instant) -> Result<Vec<u64>, AppendError> {
    let mut times = Vec::new();
    let payload = bytes::Bytes::from(vec![0xa5; load.bytes]);
    while Instant::now() < until {
        let begun = Instant::now();
        let answer = if load.batch == 1 {
            log.append(NewEntry::one(payload.clone())).await.map(drop)
        } else {
            log.append_all(vec![NewEntry::one(payload.clone()); load.batch]).await.map(drop)
        };
        match answer {
            Ok(()) => times.push(begun.elapsed().as_micros() as u64),
            Err(AppendError::Busy { .. }) => {
                busy.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(times)
}

/// Now and again: how long the next entry waits until a published checkpoint and its tiles prove it.
async fn proof_times(log: Log, until: Instant) -> Vec<u64> {
    let (mut published, mut times) = (log.subscribe_published(), Vec::new());
    while Instant::now() < until {
        let (begun, size) = (Instant::now(), log.size() + 1);
        // Nothing is appended any more when the time is over.
        let waited = tokio::time::timeout(WAIT_MAX, published.wait_for(|published| *published >= size)).await.is_ok();
        if waited || Instant::now() < until {
            times.push(begun.elapsed().as_micros() as u64);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    times.sort_unstable();
    times
}

/// Now and again: how long one more entry takes until the log has handed out its inclusion in a signed checkpoint, and
/// that held.
async fn handed_times(log: Log, until: Instant) -> Result<Vec<u64>, Failure> {
    let vkey = log.vkey();
    let mut times = Vec::new();
    while Instant::now() < until {
        let begun = Instant::now();
        match log.append(NewEntry::one(vec![1])).await {
            Ok(index) => {
                let checkpoint = note::verify_by(&log.checkpoint(), &vkey).ok_or("no checkpoint")?;
                let path = loop {
                    match log.inclusion_proof(index, checkpoint.size) {
                        Err(LedgerError::Behind { .. }) => tokio::task::yield_now().await,
                        path => break path?,
                    }
                };
                let leaf = log.leaf_hash(index)?;
                if !verify_inclusion(&leaf, index, checkpoint.size, &path, &checkpoint.root) {
                    return Err("a wrong proof".into());
                }
                times.push(begun.elapsed().as_micros() as u64);
            }
            Err(AppendError::Busy { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    times.sort_unstable();
    Ok(times)
}

async fn run(dir: &Path, load: Load, out: &mut impl Write) -> Result<(), Failure> {
    let dir = dir.join(format!("log-{}-{}", load.appenders, load.batch));
    let signer = Ed25519Signer::from_seed("bench.test/log", &[1; 32]).ok_or("no signer")?;
    let options = LogOptions { queue_max: 65_536, ..LogOptions::new("bench.test/log") };
    let name = LogName::parse("bench")?;
    let log = Log::open(Arc::new(RealDisk), &dir, name, options, Arc::new(signer), Arc::new(SystemClock))?;
    let (load, busy) = (Arc::new(load), Arc::new(AtomicU64::new(0)));
    let begun = Instant::now();
    let until = begun + load.time;
    let tasks: Vec<_> =
        (0..load.appenders).map(|_| tokio::spawn(appender(log.clone(), load.clone(), busy.clone(), until))).collect();
    let proofs = tokio::spawn(proof_times(log.clone(), until));
    let handed = tokio::spawn(handed_times(log.clone(), until));
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    let took = begun.elapsed();
    let (handed, proofs) = (handed.await??, proofs.await?);
    let tail = Instant::now();
    let size = log.size();
    log.subscribe_published().wait_for(|published| *published >= size).await?;
    let tail = tail.elapsed();
    times.sort_unstable();
    let begun = on_core()?;
    let frames = log.verify()?.frames;
    let verified = on_core()? - begun;
    let per_second = |n: u64, time: Duration| (n as f64 / time.as_secs_f64()) as u64;
    writeln!(
        out,
        "{:>9} {:>6} {:>12} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>10} {:>7} {:>8} {:>12}",
        load.appenders,
        load.batch,
        per_second(size, took),
        at(&times, 50),
        at(&times, 99),
        at(&handed, 50),
        at(&handed, 99),
        at(&proofs, 50),
        at(&proofs, 99),
        size / frames.max(1),
        busy.load(Ordering::Relaxed),
        tail.as_millis(),
        per_second(size, verified),
    )?;
    log.close().await;
    Ok(())
}

#[tokio::main(flavor = "multi_thread")]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().unwrap_or_else(|| "target/append-bench".to_owned());
    let time = Duration::from_secs(args.next().map_or(Ok(5), |text| text.parse())?);
    let bytes = args.next().map_or(Ok(200), |text| text.parse())?;
    let dir = Path::new(&dir);
    let syncs = sync_times(dir)?;
    let mut out = std::io::stdout();
    writeln!(
        out,
        "\
        p50, p99: of an acknowledgement; hand: of an append and its inclusion in a signed checkpoint, handed out by the\n\
        log and checked; publ: until a published checkpoint and its tiles prove it, all in µs; verified/s of one core"
    )?;
    let cores = std::thread::available_parallelism()?;
    writeln!(
        out,
        "{cores} cores, entries of {bytes} bytes, sync on, 4 KiB write and sync: p50 {} µs, p99 {} µs, {} s each",
        at(&syncs, 50),
        at(&syncs, 99),
        time.as_secs()
    )?;
    writeln!(
        out,
        "appenders  batch    appends/s    p50 µs    p99 µs   hand 50   hand 99   publ 50   publ 99  per frame    busy  tail ms   verified/s"
    )?;
    for (appenders, batch) in [(1, 1), (8, 1), (64, 1), (1_024, 1), (8_192, 1), (8, 100), (4, 1_000)] {
        run(dir, Load { appenders, batch, bytes, time }, &mut out).await?;
    }
    // At the end, all together: ext4 looks for a minute past the inodes of files that were just removed.
    Ok(RealDisk.remove(dir)?)
}
