//! `ward backup`: takes a backup through the running node, or from a stopped one; lists what a target holds.

use std::sync::Arc;
use std::time::Duration;

use backup::{Kind, Moment, Opener, Progress, Target};
use base::{SystemClock, SystemEntropy};
use edge::{Job, JobState};
use serde_json::Value;

use super::client::{Client, ClientError};
use super::{Failure, Result, config, progress, say};
use crate::cli::{Backup, Cli};
use crate::node::{BackupTo, Ground, Report, Stock};

/// How often a running job is asked after.
const ASK_EVERY: Duration = Duration::from_millis(250);

pub async fn run(cli: &Cli, backup: &Backup) -> Result {
    let target = absolute(&backup.target)?;
    if backup.list {
        return list(cli, &target, Kind::Data).await;
    }
    let to = BackupTo {
        target,
        keys_to: backup.keys_to.as_deref().map(absolute).transpose()?,
        keep: backup.keep,
        keys_keep: backup.keys_keep,
    };
    if to.keys_to.is_none() {
        progress("without --keys-to no keys are copied, and data without keys opens nothing");
    }
    let report = take(cli, &to).await?;
    if cli.json {
        say(&serde_json::to_string(&report).unwrap_or_default());
    } else {
        report_lines(&report).iter().for_each(|line| say(line));
    }
    Ok(())
}

/// Through the node when it runs, else from its folder.
async fn take(cli: &Cli, to: &BackupTo) -> Result<Report> {
    let config = config(cli)?;
    let job =
        Job::Backup { target: to.target.clone(), keys_to: to.keys_to.clone(), keep: to.keep, keys_keep: to.keys_keep };
    match run_job(&Client::new(&config.socket()), &job).await {
        Ok(report) => serde_json::from_value(report).map_err(|error| Failure::said(error.to_string())),
        Err(JobError::NoNode) => {
            progress("no node runs on this mesh: it is backed up as it lies");
            let ground = Ground::lay(config, Arc::new(SystemClock), Arc::new(SystemEntropy)).await?;
            let stock = Stock::of(&ground);
            let shared = Arc::new(Progress::default());
            let told = tell(shared.clone());
            let report = stock.back_up(to, &shared).await;
            told.abort();
            drop(stock);
            ground.close().await;
            report.map_err(Failure::said)
        }
        Err(JobError::Failed(failure)) => Err(failure),
    }
}

/// Why a job of the running node gave no result.
pub enum JobError {
    NoNode,
    Failed(Failure),
}

impl From<ClientError> for JobError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::NoNode { .. } => JobError::NoNode,
            other => JobError::Failed(other.into()),
        }
    }
}

/// Begins a job in the running node and waits for its end; says how it goes.
pub async fn run_job(client: &Client, job: &Job) -> std::result::Result<Value, JobError> {
    let broken = |error: serde_json::Error| JobError::Failed(Failure::said(error.to_string()));
    let begun = client.post("/admin/maintenance", None, &serde_json::to_value(job).map_err(broken)?).await?;
    let mut teller = Teller::default();
    loop {
        let state: JobState = serde_json::from_value(client.get("/admin/maintenance", None).await?).map_err(broken)?;
        if state.number != begun["number"].as_u64().unwrap_or_default() {
            return Err(JobError::Failed(Failure::said("another job took its place: its result is not known")));
        }
        teller.tell(&Moment { stage: state.stage, done_bytes: state.done_bytes, total_bytes: state.total_bytes });
        if !state.running {
            return match (state.result, state.error) {
                (Some(result), _) => Ok(result),
                (None, error) => Err(JobError::Failed(Failure::said(error.unwrap_or_default()))),
            };
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Says each stage once, and in long ones how far it is.
#[derive(Default)]
struct Teller {
    stage: String,
    percent: u64,
}

impl Teller {
    fn tell(&mut self, moment: &Moment) {
        let percent = (moment.done_bytes * 100).checked_div(moment.total_bytes).unwrap_or(0);
        if moment.stage.is_empty() || (moment.stage == self.stage && percent < self.percent + 10) {
            return;
        }
        (self.stage, self.percent) = (moment.stage.clone(), percent);
        match moment.total_bytes {
            0 => progress(&format!("  {}", moment.stage)),
            total => progress(&format!("  {} ({} of {})", moment.stage, size(moment.done_bytes), size(total))),
        }
    }
}

/// Says how a work of this process goes, until it is aborted.
pub fn tell(shared: Arc<Progress>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let mut teller = Teller::default();
        loop {
            teller.tell(&shared.moment());
            tokio::time::sleep(ASK_EVERY).await;
        }
    })
}

fn report_lines(report: &Report) -> Vec<String> {
    let taken = &report.taken;
    let mut lines = vec![format!(
        "backup {}: {} in {} logs and {} objects, {} of it new, in {:.1} s ({})",
        taken.id,
        size(taken.total_bytes),
        taken.logs.len(),
        taken.objects,
        size(taken.added_bytes),
        taken.took_ms as f64 / 1000.0,
        rate(taken.added_bytes, taken.took_ms)
    )];
    match &taken.keys {
        Some(id) => lines.push(format!("keys   {id}: {} slots, with the control log beside them", taken.slots)),
        None => lines.push("keys: none were copied (--keys-to)".into()),
    }
    if taken.removed > 0 {
        lines.push(format!("{} older backups were removed", taken.removed));
    }
    let newest = taken.newest.map_or("no journal entry yet".to_owned(), |at| format!("newest journal entry of {at}"));
    lines.push(format!("RPO    {newest}; {} entries came since and are not in it", report.behind));
    lines
}

async fn list(cli: &Cli, target: &str, kind: Kind) -> Result {
    let config = config(cli)?;
    let root = crate::keys::open_root(&crate::keys::file_root(&config)?)?;
    let opener = Opener::of_root(root, Arc::new(SystemClock), Arc::new(SystemEntropy));
    let said = |error: backup::BackupError| Failure::said(error.to_string());
    let target = Target::reader(target).map_err(said)?;
    let mut listed = backup::list(&target, kind, &opener).await.map_err(said)?;
    listed.extend(backup::list(&target, Kind::Keys, &opener).await.map_err(said)?);
    if cli.json {
        say(&serde_json::to_string(&listed).unwrap_or_default());
        return Ok(());
    }
    for one in listed {
        match (one.facts, one.trouble) {
            (Some(facts), _) => say(&format!(
                "{}  {}  {}, {} of it new{}",
                one.id,
                one.kind.folder(),
                size(facts.bytes),
                size(facts.added_bytes),
                if facts.opens == Some(false) { "; its key epoch was destroyed: it opens nothing" } else { "" }
            )),
            (None, trouble) => say(&format!("{}  {}  {}", one.id, one.kind.folder(), trouble.unwrap_or_default())),
        }
    }
    Ok(())
}

/// A folder as the node sees it too; URLs as they are.
pub fn absolute(target: &str) -> Result<String> {
    match backup::folder_of(target) {
        Some(folder) => Ok(std::path::absolute(folder)?.display().to_string()),
        None => Ok(target.to_owned()),
    }
}

pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (bytes as f64 / 1e3, 0);
    while value >= 1_000.0 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1e3, unit + 1);
    }
    format!("{value:.1} {}", UNITS[unit])
}

pub fn rate(bytes: u64, ms: i64) -> String {
    format!("{:.0} MB/s", bytes as f64 / 1e3 / ms.max(1) as f64)
}
