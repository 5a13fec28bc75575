//! How fast a whole log is verified: `verify_bench FOLDER [ENTRIES] [BYTES]` makes a log of compact entries (one sealed
//! part each, as audit records are) where there is none, then verifies it on one core, five times.

#![allow(clippy::print_stdout)] // It prints what it measured.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use base::{LogName, SystemClock};
use ledger::{Ed25519Signer, Log, LogOptions, NewEntry, RealDisk};
use ward_verify::{Options, VerifierKey, verify};

const ORIGIN: &str = "bench.test/audit";
/// Entries of one append: a frame gathers several.
const BATCH: u64 = 512;

fn make(folder: &Path, entries: u64, bytes: usize) -> Result<String, Box<dyn Error>> {
    let signer = Ed25519Signer::from_seed(ORIGIN, &[3; 32]).ok_or("no signer")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?;
    let name = LogName::parse("audit")?;
    let options = LogOptions::new(ORIGIN);
    let log = Log::open(Arc::new(RealDisk), folder, name, options, Arc::new(signer), Arc::new(SystemClock))?;
    runtime.block_on(async {
        while log.size() < entries {
            let batch = (0..BATCH.min(entries - log.size()))
                .map(|n| NewEntry { parts: vec![vec![n as u8; bytes].into()], slots: Vec::new() });
            log.append_all(batch.collect()).await?;
        }
        let vkey = log.vkey();
        log.close().await;
        Ok(vkey)
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let folder = words.next().ok_or("verify_bench FOLDER [ENTRIES] [BYTES]")?;
    let entries = words.next().map_or(Ok(2_000_000), |word| word.parse())?;
    let bytes = words.next().map_or(Ok(160), |word| word.parse())?;
    let vkey = make(Path::new(&folder), entries, bytes)?;
    println!("{vkey}");
    let options = Options::new(VerifierKey::parse(&vkey)?);
    for _ in 0..5 {
        let begun = Instant::now();
        let report = verify(Path::new(&folder), &options);
        if !report.is_whole() {
            return Err(report.text().into());
        }
        let seconds = begun.elapsed().as_secs_f64();
        println!(
            "{} entries in {} frames, {bytes} B a part: {seconds:.2} s, {:.0} entries/s on one core",
            report.size,
            report.frames,
            report.size as f64 / seconds
        );
    }
    Ok(())
}
