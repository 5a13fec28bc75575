//! How long a large log takes to open after `kill -9`:
//! `cargo run --release -p ledger --example crash_start -- [DIR] [GIB]`.
//! Another process of this program appends entries of 1 MiB and some small ones until the log is that large, and is
//! killed while it appends. Then the log is opened with nothing of it in the page cache that can be helped, which is
//! what a node's start waits for; the folder is removed at the end.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use base::{LogName, SystemClock};
use ledger::{Disk, Ed25519Signer, Log, LogOptions, NewEntry, RealDisk};

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn open(dir: &Path) -> Result<Log, Failure> {
    let signer = Ed25519Signer::from_seed("bench.test/log", &[1; 32]).ok_or("no signer")?;
    let options = LogOptions::new("bench.test/log");
    let name = LogName::parse("bench")?;
    Ok(Log::open(Arc::new(RealDisk), dir, name, options, Arc::new(signer), Arc::new(SystemClock))?)
}

/// Appends until it is killed, and says when the log has the bytes.
async fn append(dir: &Path, bytes: u64) -> Result<(), Failure> {
    let log = open(dir)?;
    let (large, small) = (bytes::Bytes::from(vec![0xa5; 1 << 20]), bytes::Bytes::from(vec![0x5a; 200]));
    let mut written = 0;
    loop {
        let mut batch = vec![NewEntry::one(large.clone()); 8];
        batch.extend(vec![NewEntry::one(small.clone()); 256]);
        written += batch.iter().map(|entry| entry.bytes() as u64).sum::<u64>();
        log.append_all(batch).await?;
        if written >= bytes {
            writeln!(std::io::stdout(), "{}", log.size())?;
        }
    }
}

fn measure(dir: &Path, gib: u64) -> Result<(), Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    let mut child = command.arg("append").arg(dir).arg(gib.to_string()).stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
    let acknowledged: u64 = lines.next().ok_or("the appender ended")??.parse()?;
    // On Unix this is SIGKILL: nothing is closed, nothing is flushed by the process.
    child.kill()?;
    child.wait()?;
    let begun = Instant::now();
    let log = open(dir)?;
    let opened = begun.elapsed();
    let size = log.size();
    let last = log.read(size - 1, 1, usize::MAX)?.len();
    let proof = log.inclusion_proof(size - 1, size)?.len();
    let ready = begun.elapsed();
    writeln!(
        std::io::stdout(),
        "{gib} GiB, {acknowledged} entries acknowledged before kill -9, {size} found: opened in {} ms, last entry read \
         ({last}) and proved ({proof} hashes) after {} ms",
        opened.as_millis(),
        ready.as_millis()
    )?;
    drop(log);
    Ok(RealDisk.remove(dir)?)
}

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let is_appender = args.first().is_some_and(|word| word == "append");
    let mut rest = args.iter().skip(usize::from(is_appender));
    let dir = rest.next().map_or("target/crash-start", String::as_str);
    let gib: u64 = rest.next().map_or(Ok(10), |text| text.parse())?;
    if is_appender {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        return runtime.block_on(append(Path::new(dir), gib << 30));
    }
    measure(Path::new(dir), gib)
}
