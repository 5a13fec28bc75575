//! `ward doctor`: finds damage and explains it: what is lost, what is built anew by which command, what to restore from.
//! Reads files as they lie, and asks a running node to open what only it can open. Changes nothing.

use std::path::Path;

use backup::frames;
use edge::Job;
use rusqlite::{Connection, OpenFlags};
use serde::Serialize;
use serde_json::{Value, json};

use super::backup::{JobError, run_job};
use super::client::Client;
use super::{Failure, Result, audit, config, say};
use crate::cli::Cli;
use crate::config::Config;
use crate::node::revived;

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    part: String,
    /// Nothing needs to be done.
    fine: bool,
    what: String,
    /// What it means and what to do; empty when nothing needs to be.
    advice: String,
}

fn fine(part: impl Into<String>, what: impl Into<String>) -> Finding {
    Finding { part: part.into(), fine: true, what: what.into(), advice: String::new() }
}

fn damage(part: impl Into<String>, what: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { part: part.into(), fine: false, what: what.into(), advice: advice.into() }
}

pub async fn run(cli: &Cli) -> Result {
    let config = config(cli)?;
    let mut findings = Vec::new();
    for name in config.log_names() {
        findings.extend(log(&config, &name));
    }
    findings.extend(databases(&config));
    findings.extend(outside(&config));
    findings.extend(opened(&config).await?);
    if cli.json {
        say(&json!(findings).to_string());
    } else {
        for finding in &findings {
            say(&format!("{} {}: {}", if finding.fine { "ok     " } else { "DAMAGED" }, finding.part, finding.what));
            if !finding.advice.is_empty() {
                say(&format!("        {}", finding.advice));
            }
        }
    }
    match findings.iter().filter(|finding| !finding.fine).count() {
        0 => Ok(()),
        n => Err(Failure::said(format!("{n} findings; nothing was changed"))),
    }
}

const RESTORE: &str =
    "stop the node, keep this folder as it is, and restore: ward restore TARGET --keys-from KEYS --into NEW";

/// A log: its segments frame by frame, then what is derived of them by `ward-verify`.
fn log(config: &Config, name: &str) -> Vec<Finding> {
    let (folder, part) = (config.log_folder(name), format!("log {name}"));
    let segments = match frames::segments(&folder) {
        Ok(segments) if segments.is_empty() => {
            return vec![damage(
                part,
                "it has no segments",
                format!("an empty log begins at the next start; one that had entries is lost here: {RESTORE}"),
            )];
        }
        Ok(segments) => segments,
        Err(error) => return vec![damage(part, error.to_string(), RESTORE)],
    };
    let (mut findings, mut chain, mut frames_seen) = (Vec::new(), None, 0);
    for (n, segment) in segments.iter().enumerate() {
        let place = segment.path.display();
        let look = match frames::look(segment, chain) {
            Ok(look) => look,
            Err(error) => {
                findings.push(damage(part.clone(), error.to_string(), RESTORE));
                chain = None;
                continue;
            }
        };
        frames_seen += look.frames;
        for damaged in &look.damage {
            let entries = match damaged.resumes {
                Some(next) if next > damaged.index => {
                    format!("entries {} to {} cannot be proved or read", damaged.index, next - 1)
                }
                _ => format!("from entry {} on nothing can be proved or read", damaged.index),
            };
            let what = format!("{place} at byte {}: {}; {entries}", damaged.offset, damaged.what);
            findings.push(damage(part.clone(), what, RESTORE));
        }
        if look.torn_bytes > 0 && look.damage.is_empty() {
            let what = format!("{place} ends with {} bytes of a frame that never became whole", look.torn_bytes);
            findings.push(if n + 1 == segments.len() {
                let advice = "a power cut leaves this; it was never acknowledged, and the next start drops it";
                Finding { advice: advice.into(), ..fine(part.clone(), what) }
            } else {
                damage(part.clone(), what, RESTORE)
            });
        }
        chain = look.chain;
    }
    if findings.iter().all(|finding| finding.fine) {
        let entries = chain.map_or(0, |chain| chain.index);
        findings.push(fine(
            part.clone(),
            format!("{entries} entries in {frames_seen} frames and {} segments", segments.len()),
        ));
        findings.push(derived(&folder, &part));
    }
    findings
}

/// Tiles and published checkpoint of a log whose segments are whole.
fn derived(folder: &Path, part: &str) -> Finding {
    let part = format!("{part}, tiles");
    match audit::verify_log(folder, false) {
        Ok(said) => fine(part, said.lines().next().unwrap_or_default()),
        Err(Failure::Said(said)) => damage(
            part,
            said.lines().next().unwrap_or_default(),
            "the segments are whole, so nothing is lost: ward rebuild tiles",
        ),
        Err(Failure::Findings(_)) => damage(part, "the mesh folder is not right", "ward check"),
    }
}

fn databases(config: &Config) -> Vec<Finding> {
    let data = config.data();
    let mut findings = vec![keys(&data.join("keys.db"))];
    if config.mesh.catalog.url.is_none() {
        let advice = "it is derived: stop the node, then ward rebuild catalog";
        findings.push(match integrity(&data.join("catalog.db")) {
            Ok(()) => fine("catalog.db", "whole"),
            Err(why) => damage("catalog.db", why, advice),
        });
    }
    for domain in config.domains.keys() {
        let path = data.join("index").join(format!("{domain}.index"));
        let part = format!("index of {domain}");
        findings.push(match std::fs::metadata(&path) {
            Ok(meta) if meta.len() > 0 => {
                fine(part, format!("{} bytes, encrypted: the node checks it when it opens it", meta.len()))
            }
            _ => damage(
                part,
                "the file is missing or empty",
                "it is derived and made anew at the next start: ward rebuild index",
            ),
        });
    }
    findings
}

fn open(path: &Path) -> std::result::Result<Connection, String> {
    if !path.exists() {
        return Err("the file is missing".into());
    }
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(|error| error.to_string())
}

fn integrity(path: &Path) -> std::result::Result<(), String> {
    let connection = open(path)?;
    let said: String = connection
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .map_err(|error| format!("SQLite cannot read it: {error}"))?;
    if said == "ok" { Ok(()) } else { Err(format!("SQLite finds it damaged: {said}")) }
}

fn keys(path: &Path) -> Finding {
    const LOST: &str = "what its keys sealed opens nowhere else: restore it from the newest keys backup (ward restore)";
    if let Err(why) = integrity(path) {
        return damage("keys.db", why, LOST);
    }
    let counts = || -> std::result::Result<(u64, u64, u64), rusqlite::Error> {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned);
        Ok((
            count("SELECT COUNT(*) FROM slot")?,
            count("SELECT COUNT(*) FROM scope WHERE destroyed <> 1")?,
            count("SELECT COUNT(*) FROM slot WHERE NOT EXISTS (SELECT 1 FROM scope WHERE scope.id = slot.scope)")?,
        ))
    };
    match counts() {
        Ok((slots, scopes, 0)) => fine("keys.db", format!("{slots} slots under {scopes} living scopes")),
        Ok((slots, _, lost)) => damage(
            "keys.db",
            format!("{lost} of {slots} slots hang on scopes that are not there"),
            format!("a destroyed scope keeps its row, so these were lost: {LOST}"),
        ),
        Err(error) => damage("keys.db", error.to_string(), LOST),
    }
}

/// What is kept beside the data: root keys, and the control log's checkpoint.
fn outside(config: &Config) -> Vec<Finding> {
    let folder = crate::keys::outside_folder(config);
    let part = format!("root keys in {}", folder.display());
    let opened = crate::keys::look(config);
    let mut findings = vec![match opened {
        Ok(_) => fine(part, "they open"),
        Err(error) => {
            damage(part, error.to_string(), "nothing opens without them: bring back the folder that was kept elsewhere")
        }
    }];
    let control = config.log_folder("control");
    let vkey = std::fs::read_to_string(control.join("vkey")).unwrap_or_default();
    let kept = revived::Outside::checkpoint(&folder).ok().flatten();
    let entries = frames::segments(&control).ok().and_then(|segments| {
        let last = frames::look(segments.last()?, None).ok()?;
        last.chain.map(|chain| chain.index)
    });
    findings.push(match kept.and_then(|note| ledger::note::verify_by(&note, &vkey)) {
        Some(known) if entries.is_some_and(|entries| entries < known.size) => damage(
            "control log",
            format!(
                "it has {} entries, but {} are known beside the root keys",
                entries.unwrap_or_default(),
                known.size
            ),
            "the data is an older copy, and the node will not start: ward restore from a newer backup of the keys",
        ),
        Some(known) => {
            fine("control log", format!("not older than the {} entries known beside the root keys", known.size))
        }
        None => fine("control log", "nothing is known of it beside the root keys yet"),
    });
    findings
}

/// What only a running node can open.
async fn opened(config: &Config) -> Result<Vec<Finding>> {
    let found = match run_job(&Client::new(&config.socket()), &Job::Inspect).await {
        Ok(found) => found,
        Err(JobError::NoNode) => {
            let what = "not looked into: no node runs. Start it and ask again, to have every entry and file opened";
            return Ok(vec![fine("objects", what)]);
        }
        Err(JobError::Failed(failure)) => return Err(failure),
    };
    let mut findings = Vec::new();
    for (domain, journal) in found["journals"].as_object().into_iter().flatten() {
        let unreadable = journal["unreadable"].as_array().cloned().unwrap_or_default();
        let part = format!("journal of {domain}, opened");
        if unreadable.is_empty() {
            findings.push(fine(
                part.clone(),
                format!("{} entries open, {} are erased", journal["entries"], journal["erased"]),
            ));
        }
        for entry in unreadable {
            let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
            findings.push(damage(part.clone(), format!("{}: {}", text("position"), text("why")), RESTORE));
        }
    }
    for (product, trouble) in found["products"].as_object().into_iter().flatten() {
        findings.push(match trouble {
            Value::String(why) if why == "it was never built" => fine(format!("product {product}"), why.as_str()),
            Value::String(why) => {
                damage(format!("product {product}"), why.as_str(), "it is derived: ward rebuild products")
            }
            _ => fine(format!("product {product}"), "every file is what the control log says"),
        });
    }
    Ok(findings)
}
