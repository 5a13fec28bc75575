//! Driving clients against a clock, and showing what came of it: [`drive`], [`Load`], [`Figure`], [`Machine`].
//!
//! Never here: what is measured (see the files beside this one).

use std::fmt;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::Serialize;

use crate::commands::{Failure, Result};

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    pub what: String,
    pub value: f64,
    pub unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
    pub conditions: String,
    pub goal: &'static str,
}

impl Figure {
    pub fn new(what: impl Into<String>, value: f64, unit: &'static str) -> Figure {
        Figure { what: what.into(), value, unit, p50_ms: None, p99_ms: None, conditions: String::new(), goal: "" }
    }

    /// Units per second of a load, with its latencies and how busy the machine was.
    pub fn of(what: impl Into<String>, load: &Load, unit: &'static str) -> Figure {
        let figure = Figure::new(what, load.per_second(), unit).latency(load);
        figure.under(load.conditions())
    }

    pub fn latency(mut self, load: &Load) -> Figure {
        (self.p50_ms, self.p99_ms) = (load.percentile_ms(50.0), load.percentile_ms(99.0));
        self
    }

    pub fn under(mut self, conditions: impl AsRef<str>) -> Figure {
        if !self.conditions.is_empty() && !conditions.as_ref().is_empty() {
            self.conditions.push_str("; ");
        }
        self.conditions.push_str(conditions.as_ref());
        self
    }

    pub fn goal(mut self, goal: &'static str) -> Figure {
        self.goal = goal;
        self
    }
}

/// One client: does one thing at a time and says what came of it.
#[async_trait]
pub trait Worker: Send + 'static {
    async fn step(&mut self) -> Step;
}

pub enum Step {
    /// So many units done, so many bytes received.
    Done { units: u64, bytes: u64 },
    /// The answer was not what was asked for; counted and not timed.
    Failed(String),
    /// Nothing is left to do.
    End,
}

/// What clients did together.
#[derive(Debug, Default)]
pub struct Load {
    /// Times of the steps in microseconds, sorted.
    times: Vec<u32>,
    pub units: u64,
    bytes: u64,
    pub failed: u64,
    /// The first failure's words.
    pub why: Option<String>,
    pub took: Duration,
    busy_cores: f64,
    workers: usize,
}

impl Load {
    pub fn per_second(&self) -> f64 {
        self.units as f64 / self.took.as_secs_f64().max(1e-9)
    }

    fn percentile_ms(&self, percent: f64) -> Option<f64> {
        let last = self.times.len().checked_sub(1)?;
        let at = (last as f64 * percent / 100.0).round() as usize;
        self.times.get(at).map(|us| f64::from(*us) / 1e3)
    }

    fn conditions(&self) -> String {
        let mut text = format!("{} at once, {:.1} cores busy", self.workers, self.busy_cores);
        if let Some(each) = self.bytes.checked_div(self.times.len() as u64).filter(|each| *each > 0) {
            text.push_str(&format!(", {each} B an answer"));
        }
        if self.failed > 0 {
            text.push_str(&format!(", {} FAILED: {}", self.failed, self.why.as_deref().unwrap_or("-")));
        }
        text
    }

    fn join(&mut self, other: Load) {
        self.times.extend(other.times);
        self.units += other.units;
        self.bytes += other.bytes;
        self.failed += other.failed;
        self.why = self.why.take().or(other.why);
    }
}

/// Lets all workers work until the time is over or each has nothing left.
pub async fn drive<W: Worker>(workers: Vec<W>, time: Duration) -> Result<Load> {
    let (begun, cpu) = (Instant::now(), cpu_time());
    let until = begun + time;
    let count = workers.len();
    let tasks: Vec<_> = workers.into_iter().map(|worker| tokio::spawn(work(worker, until))).collect();
    let mut load = Load::default();
    for task in tasks {
        load.join(task.await.map_err(super::failed)?);
    }
    load.took = begun.elapsed();
    load.busy_cores = (cpu_time().saturating_sub(cpu)).as_secs_f64() / load.took.as_secs_f64().max(1e-9);
    load.workers = count;
    load.times.sort_unstable();
    match (&load.why, load.times.is_empty()) {
        (Some(why), true) => Err(Failure::said(format!("nothing could be measured: {why}"))),
        _ => Ok(load),
    }
}

/// A client that meets only failures stops after so many.
const FAILURES_MAX: u64 = 200;

async fn work<W: Worker>(mut worker: W, until: Instant) -> Load {
    let mut load = Load::default();
    while Instant::now() < until && load.failed < FAILURES_MAX {
        let begun = Instant::now();
        match worker.step().await {
            Step::Done { units, bytes } => {
                load.times.push(u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX));
                load.units += units;
                load.bytes += bytes;
            }
            Step::Failed(why) => {
                load.failed += 1;
                load.why.get_or_insert(why);
            }
            Step::End => break,
        }
    }
    load
}

/// Processor time of this process: fields 14 and 15 of `/proc/self/stat`, in hundredths of a second.
pub fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is a name in parentheses and may hold anything.
    let fields = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks: u64 = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Resident memory of this process in MB (10^6 bytes), node and clients together.
pub fn resident_mb() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).map_or(0.0, |kib| kib * 1024.0 / 1e6)
}

/// The machine and the build: what every figure depends on.
#[derive(Debug, Serialize)]
pub struct Machine {
    cores: usize,
    /// Median of 200 appends of 4 KiB, each with fdatasync, in the mesh's folder.
    sync_ms_p50: f64,
    sync_ms_p99: f64,
    profile: &'static str,
    version: &'static str,
}

impl Machine {
    pub fn look_at(folder: &Path) -> Result<Machine> {
        let cores = std::thread::available_parallelism()?.get();
        let times = sync_times(folder)?;
        let at = |percent: usize| times.get(times.len() * percent / 100).map_or(0.0, |t| t.as_secs_f64() * 1e3);
        let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
        let version = env!("CARGO_PKG_VERSION");
        Ok(Machine { cores, sync_ms_p50: at(50), sync_ms_p99: at(99), profile, version })
    }

    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.profile == "debug" {
            warnings.push(
                "WARNING: this is a debug build; its figures say nothing about the product. Use bench/run.".to_owned(),
            );
        }
        if self.sync_ms_p50 < 0.05 {
            warnings
                .push("WARNING: a sync takes no time here: the folder is not on a disk that keeps data.".to_owned());
        }
        warnings
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for warning in self.warnings() {
            writeln!(f, "{warning}")?;
        }
        writeln!(
            f,
            "ward {} ({} build), {} cores, 4 KiB append + fdatasync p50 {:.2} ms, p99 {:.2} ms",
            self.version, self.profile, self.cores, self.sync_ms_p50, self.sync_ms_p99
        )?;
        write!(
            f,
            "everything sealed, policy on, audit on two targets, disk sync on; loopback sockets; node and clients in one process"
        )
    }
}

fn sync_times(folder: &Path) -> Result<Vec<Duration>> {
    let path = folder.join("sync-probe");
    let mut file = std::fs::File::create(&path)?;
    let mut times = Vec::with_capacity(200);
    for n in 0..200u8 {
        let begun = Instant::now();
        file.write_all(&[n; 4096])?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    std::fs::remove_file(&path)?;
    times.sort_unstable();
    Ok(times)
}

/// The figures as a table for people; conditions stand under each line.
pub fn table(figures: &[Figure]) -> String {
    let width = figures.iter().map(|f| f.what.chars().count()).max().unwrap_or_default();
    let ms = |value: Option<f64>| value.map_or_else(String::new, |ms| format!("{ms:.2}"));
    let mut out =
        format!("\n{:width$}  {:>10}  {:<12}  {:>8}  {:>8}  goal\n", "what", "value", "unit", "p50 ms", "p99 ms");
    for f in figures {
        out.push_str(&format!(
            "{:width$}  {:>10}  {:<12}  {:>8}  {:>8}  {}\n",
            f.what,
            number(f.value),
            f.unit,
            ms(f.p50_ms),
            ms(f.p99_ms),
            f.goal
        ));
        if !f.conditions.is_empty() {
            out.push_str(&format!("    {}\n", f.conditions));
        }
    }
    out
}

/// Three digits that mean something, with thousands apart.
fn number(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.2}");
    }
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        for (value, text) in
            [(0.5, "0.50"), (12.34, "12.3"), (999.4, "999"), (1234.0, "1,234"), (1_234_567.0, "1,234,567")]
        {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn percentiles_are_of_what_was_done() {
        let load = Load { times: (1..=100).map(|n| n * 1000).collect(), ..Load::default() };
        assert_eq!((load.percentile_ms(50.0), load.percentile_ms(99.0)), (Some(51.0), Some(99.0)));
        assert_eq!(Load::default().percentile_ms(50.0), None);
    }

    struct Counter(u64);

    #[async_trait]
    impl Worker for Counter {
        async fn step(&mut self) -> Step {
            self.0 += 1;
            match self.0 {
                ..=3 => Step::Done { units: 2, bytes: 10 },
                4 => Step::Failed("four".into()),
                _ => Step::End,
            }
        }
    }

    #[tokio::test]
    async fn workers_stop_when_nothing_is_left() {
        let load = drive(vec![Counter(0), Counter(3)], Duration::from_secs(60)).await.unwrap_or_default();
        assert_eq!((load.units, load.times.len(), load.failed), (6, 3, 2));
        assert_eq!(load.why.as_deref(), Some("four"));
        let nothing = drive(vec![Counter(3)], Duration::from_secs(60)).await;
        assert!(nothing.is_err());
    }
}
