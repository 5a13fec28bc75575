//! `ward verify-restore`: restores into a temporary folder, starts a copy of the node there without feeds, checks laws 4
//! and 11, compares silver with what the backup says of it, rebuilds what is derived, and writes a report.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use backup::At;
use base::{Clock, Layer, Read, SystemClock};
use edge::Job;
use serde::Serialize;
use serde_json::{Value, json};
use store::SilverDigest;

use super::backup::absolute;
use super::rebuild::{finish, quiet};
use super::restore::{self, Outcome, Wanted, restore_into};
use super::{Failure, Result, config, progress, say, surroundings};
use crate::cli::{Cli, VerifyRestore};
use crate::config::Config;
use crate::keys;
use crate::node::{Node, build};

/// Resources of each type that are opened.
const SAMPLES_MAX: usize = 50;

/// One thing that was checked.
#[derive(Debug, Serialize)]
struct Check {
    what: String,
    passed: bool,
    said: String,
}

#[derive(Debug, Serialize)]
struct Report {
    passed: bool,
    at: String,
    outcome: Outcome,
    /// From the beginning of the restore until the doors were open on refined data.
    rto_ms: i64,
    checks: Vec<Check>,
}

pub async fn run(cli: &Cli, verify: &VerifyRestore) -> Result {
    let here = config(cli)?;
    let scratch = match &verify.scratch {
        Some(folder) => std::path::absolute(folder)?,
        None => std::env::temp_dir(),
    };
    let copy = Scratch::new(&scratch)?;
    let report = drill(&here, verify, &copy).await;
    copy.remove()?;
    let report = report?;
    let files = write(&verify.report, &report)?;
    if cli.json {
        say(&serde_json::to_string(&report).unwrap_or_default());
    } else {
        say(&text(&report));
        say(&format!("report: {} and .json", files.display()));
    }
    if report.passed {
        Ok(())
    } else {
        Err(Failure::said("the restored copy is not what it should be: see the report"))
    }
}

async fn drill(here: &Config, verify: &VerifyRestore, copy: &Scratch) -> Result<Report> {
    let begun = SystemClock.now();
    let root = keys::file_root(here)?;
    let outcome = restore_into(&Wanted {
        target: absolute(&verify.target)?,
        keys_from: absolute(&verify.keys_from)?,
        into: copy.folder.clone(),
        at: At::Newest,
        root,
        // A drill of a backup that is not the newest state is no loss: it is said in the report.
        accept_loss: Some("a drill: this copy is removed again".into()),
    })
    .await?;
    let silver = silver_of(verify, here, &outcome).await?;
    let config = quiet(Config::load(&copy.folder).map_err(Failure::Findings)?);
    let mut checks: Vec<Check> = outcome.restored.logs.iter().map(|log| law_4(&config, log)).collect();
    checks.push(law_11(&outcome));
    progress("starting the copy: silver is refined from the journals");
    let node = build(config, surroundings()?).await?;
    let rto_ms = SystemClock.now().ms() - begun.ms();
    let compared = compare(&node, &silver, &outcome, &mut checks).await;
    let rebuilt = finish(&*node.doors.maintenance, Job::RebuildIndex { domain: None }).await;
    checks.push(check("search index", rebuilt.map(|done| format!("built anew: {}", figures(&done["index"])))));
    let built = finish(&*node.doors.maintenance, Job::RebuildProducts { domain: None }).await;
    checks.push(check("products", built.map(|done| format!("built anew: {}", figures(&done["products"])))));
    let inspected = finish(&*node.doors.maintenance, Job::Inspect).await;
    checks.push(check("objects", inspected.and_then(|found| whole(&found))));
    node.run_until(std::future::ready(())).await;
    compared?;
    Ok(Report { passed: checks.iter().all(|check| check.passed), at: begun.to_string(), outcome, rto_ms, checks })
}

fn check(what: &str, result: Result<String>) -> Check {
    let what = what.to_owned();
    match result {
        Ok(said) => Check { what, passed: true, said },
        Err(Failure::Said(said)) => Check { what, passed: false, said },
        Err(Failure::Findings(findings)) => Check { what, passed: false, said: format!("{findings:?}") },
    }
}

/// `ward-verify` over a restored log, against the checkpoint that the backup kept of it.
fn law_4(config: &Config, log: &backup::RestoredLog) -> Check {
    let folder = config.log_folder(&log.name);
    let outside = log.checkpoint.as_ref().map(|note| {
        let path = folder.join("backup.checkpoint");
        std::fs::write(&path, note).map(|()| path)
    });
    let result = match outside.transpose() {
        Ok(path) => super::audit::verify_against(&folder, path.as_deref(), false),
        Err(error) => Err(error.into()),
    };
    // The first line says what was proved.
    let first = result.map(|said| said.lines().next().unwrap_or_default().to_owned());
    check(&format!("law 4, log {}", log.name), first)
}

/// Governance is the newest known, and no key hangs on a destroyed epoch.
fn law_11(outcome: &Outcome) -> Check {
    let (lost, dead) = (outcome.control_lost, outcome.restored.scopes_dead);
    let result = match (dead, lost) {
        (0, 0) => {
            Ok("control log, configuration and keys are the newest known: nothing that was taken away came back".into())
        }
        (0, _) => Ok(format!(
            "control log, configuration and keys are the newest in the backup; {lost} governance entries came since, so a \
             real restore would ask for --accept-loss"
        )),
        _ => {
            Err(Failure::said(format!("{dead} key scopes hang on destroyed key epochs: take a backup of the keys now")))
        }
    };
    check("law 11", result)
}

/// What the backup says of silver.
async fn silver_of(
    verify: &VerifyRestore,
    here: &Config,
    outcome: &Outcome,
) -> Result<std::collections::BTreeMap<String, SilverDigest>> {
    let said = |error: backup::BackupError| Failure::said(error.to_string());
    let (clock, entropy) = (std::sync::Arc::new(SystemClock), std::sync::Arc::new(base::SystemEntropy));
    let opener = backup::Opener::of_root(keys::open_root(&keys::file_root(here)?)?, clock, entropy);
    let target = backup::Target::reader(&absolute(&verify.target)?).map_err(said)?;
    let (manifest, _) = opener.open(&target, backup::Kind::Data, &outcome.restored.backup).await.map_err(said)?;
    Ok(manifest.silver)
}

/// Silver of the copy against the digest that the backup took, and samples that must open.
async fn compare(
    node: &Node,
    silver: &std::collections::BTreeMap<String, SilverDigest>,
    outcome: &Outcome,
    checks: &mut Vec<Check>,
) -> Result {
    let later = outcome.restored.notes.iter().any(|note| note.starts_with("the control log is newer"));
    for domain in node.config.domains.keys() {
        let Some(kept) = silver.get(domain.as_str()) else { continue };
        let own = node.doors.silver.digest(domain, Some(kept.position)).await;
        let own = own.map_err(|error| Failure::said(error.to_string()))?;
        let result = match own == *kept {
            true => {
                Ok(format!("{} versions of {} entries, the same as when it was backed up", own.versions, own.position))
            }
            // What was erased after the backup is not there any more, and must not be.
            false if later && own.versions < kept.versions => {
                Ok(format!("{} of {} versions: governance entries came after the backup", own.versions, kept.versions))
            }
            false => Err(Failure::said(format!(
                "{} versions of {} entries, but the backup had {} of {}, or others",
                own.versions, own.position, kept.versions, kept.position
            ))),
        };
        checks.push(check(&format!("silver of {domain}"), result));
        checks.push(check(&format!("samples of {domain}"), samples(node, domain, kept).await));
    }
    Ok(())
}

async fn samples(node: &Node, domain: &base::DomainName, kept: &SilverDigest) -> Result<String> {
    let permit = node.gate.node_permit::<Read>("index", domain, Layer::Silver);
    let permit = permit.map_err(|refusal| Failure::said(refusal.to_string()))?;
    let mut opened = 0;
    for rtype in kept.by_type.keys() {
        let page = node.doors.silver.scan(&permit, domain, rtype, 0, SAMPLES_MAX).await;
        let page = page.map_err(|error| Failure::said(format!("{rtype}: {error}")))?;
        opened += page.resources.len();
    }
    Ok(format!("{opened} resources of {} types opened", kept.by_type.len()))
}

/// Whether an inspection found everything.
fn whole(found: &Value) -> Result<String> {
    let unreadable: usize = found["journals"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(_, journal)| journal["unreadable"].as_array().map(Vec::len))
        .sum();
    let products = found["products"].as_object().into_iter().flatten();
    let broken: Vec<&String> = products.filter(|(_, trouble)| !trouble.is_null()).map(|(name, _)| name).collect();
    if unreadable > 0 || !broken.is_empty() {
        return Err(Failure::said(format!(
            "{unreadable} journal entries do not open; products with trouble: {broken:?}"
        )));
    }
    Ok("every journal entry opens, but for erased ones, and every product has its files".into())
}

fn figures(value: &Value) -> String {
    let figures = value.as_object().into_iter().flatten().map(|(name, figure)| format!("{name} {figure}"));
    figures.collect::<Vec<_>>().join(", ")
}

fn text(report: &Report) -> String {
    let mut text = format!("restore drill of {}\n", report.at);
    for line in restore::lines(&report.outcome) {
        let _ = writeln!(text, "{line}");
    }
    for check in &report.checks {
        let verdict = if check.passed { "ok    " } else { "FAILED" };
        let _ = writeln!(text, "{verdict} {}: {}", check.what, check.said);
    }
    let _ = write!(
        text,
        "{}: from the backup to open doors in {:.1} s",
        if report.passed { "passed" } else { "FAILED" },
        report.rto_ms as f64 / 1000.0
    );
    text
}

fn write(folder: &Path, report: &Report) -> Result<PathBuf> {
    let time: String = report.at.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    let path = std::path::absolute(folder)?.join(format!("verify-restore-{time}.txt"));
    std::fs::write(&path, text(report) + "\n")?;
    std::fs::write(path.with_extension("json"), json!(report).to_string())?;
    Ok(path)
}

/// The temporary copy. It holds root keys while it lives, so it is private and always removed.
struct Scratch {
    folder: PathBuf,
}

impl Scratch {
    fn new(parent: &Path) -> Result<Scratch> {
        use std::os::unix::fs::DirBuilderExt;
        let mut random = [0; 8];
        base::Entropy::fill(&base::SystemEntropy, &mut random);
        let folder = parent.join(format!("ward-drill-{}", base::hex::encode(&random)));
        std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
        Ok(Scratch { folder })
    }

    fn remove(self) -> Result {
        Ok(std::fs::remove_dir_all(&self.folder)?)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
