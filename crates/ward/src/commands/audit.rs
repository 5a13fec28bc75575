//! `ward audit`: verify, status, expire, show, who-saw, disclosures. Its export is in `ship`.

use std::path::Path;

use bytes::Bytes;

use super::{Failure, Result, client, config, say};
use crate::cli::{As, Audit, Cli, PatientReport};

pub async fn run(cli: &Cli, audit: &Audit) -> Result {
    match audit {
        Audit::Verify => verify(cli),
        Audit::Status => status(cli).await,
        Audit::Expire => expire(cli).await,
        Audit::Show { who, last } => lines(cli, who, &format!("/admin/audit?last={last}")).await,
        Audit::Suspend(suspend) => super::erase::suspend(cli, suspend).await,
        Audit::Export(export) => super::ship::export(cli, export).await,
        Audit::WhoSaw(report) if report.print.is_none() => {
            lines(cli, &report.who, &path("who-saw", report, "json")?).await
        }
        Audit::WhoSaw(report) => paper(cli, "who-saw", report).await,
        Audit::Disclosures(report) => paper(cli, "disclosures", report).await,
    }
}

/// As the operator of the node, whose socket this is.
async fn status(cli: &Cli) -> Result {
    let answer = client(cli)?.get("/admin/audit/status", None).await?;
    if cli.json {
        say(&answer.to_string());
        return Ok(());
    }
    for target in answer["targets"].as_array().into_iter().flatten() {
        let text = |key: &str| target[key].as_str().unwrap_or("-").to_owned();
        let state = match (target["lost"].as_bool(), target["origin"].as_str()) {
            (Some(false), _) if target["behind"] == 0 => "whole".to_owned(),
            (Some(false), _) => format!("whole, but for {} records on their way", target["behind"]),
            (_, Some(_)) => format!("LOST, back, {} records to fill up", target["missed"]),
            (_, None) => format!("LOST: {}", text("why")),
        };
        say(&format!("{:<8} {:<28} records {:<10} {state}", text("name"), text("origin"), target["records"]));
    }
    let index = &answer["index"];
    match index.is_null() {
        true => say("the index of who saw whom is not there; questions read the whole log"),
        false => say(&format!(
            "index: {} records in {} runs, {} bytes; {} durable records behind",
            index["records"], index["runs"], index["bytes"], answer["unread"]
        )),
    }
    Ok(())
}

async fn expire(cli: &Cli) -> Result {
    let answer = client(cli)?.post("/admin/audit/expire", None, &serde_json::Value::Null).await?;
    let (before, scopes) = (&answer["years_before"], &answer["scopes_destroyed"]);
    match cli.json {
        true => say(&answer.to_string()),
        false => say(&format!("keys of audit records before {before}: {scopes} scopes destroyed")),
    }
    Ok(())
}

async fn lines(cli: &Cli, who: &As, path: &str) -> Result {
    let client = client(cli)?;
    let token = client.token(&who.principal, who.purpose).await?;
    let answer = client.get(path, Some(&token)).await?;
    if cli.json {
        say(&answer.to_string());
        return Ok(());
    }
    for line in answer["accesses"].as_array().into_iter().flatten() {
        say(&one_line(line));
    }
    Ok(())
}

/// Where the node answers with a report. Days are checked here, so that they need no escapes.
fn path(what: &str, report: &PatientReport, form: &str) -> Result<String> {
    let mut path = format!("/admin/audit/{what}/{}/{}?as={form}", report.domain, report.patient);
    for (name, day) in [("from", &report.from), ("to", &report.to)] {
        if let Some(day) = day {
            crate::config::end_of_day(day).ok_or_else(|| Failure::said(format!("--{name} is a day: YYYY-MM-DD")))?;
            path.push_str(&format!("&{name}={day}"));
        }
    }
    Ok(path)
}

/// A report as text or JSON, or into a file as the patient gets it.
async fn paper(cli: &Cli, what: &str, report: &PatientReport) -> Result {
    let is_page = report.print.as_ref().is_some_and(|file| file.extension().is_some_and(|end| end == "html"));
    let form = match (cli.json, is_page) {
        (true, _) => "json",
        (false, true) => "html",
        (false, false) => "text",
    };
    let client = client(cli)?;
    let token = client.token(&report.who.principal, report.who.purpose).await?;
    let path = path(what, report, form)?;
    let answer = client.call(hyper::Method::GET, &path, Some(&token), "application/json", Bytes::new()).await?.ok()?;
    match &report.print {
        None => say(String::from_utf8_lossy(&answer.body).trim_end()),
        Some(file) => {
            write_private(file, &answer.body)?;
            say(&format!("wrote {}; it is about a patient: hand it over or destroy it", file.display()));
        }
    }
    Ok(())
}

/// Readable by its owner alone.
fn write_private(file: &Path, bytes: &[u8]) -> Result {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut out = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file)?;
    out.write_all(bytes)?;
    Ok(out.sync_all()?)
}

/// An access as a person reads it.
pub fn one_line(line: &serde_json::Value) -> String {
    let text = |key: &str| line[key].as_str().unwrap_or("-").to_owned();
    format!(
        "{} {:<16} {:<8} {:<9} {:<10} {:<28} {:<9} rows {:<5} patients {}",
        text("at"),
        text("principal"),
        text("purpose"),
        text("door"),
        text("domain"),
        text("what"),
        text("outcome"),
        line["rows"],
        line["patients"]
    )
}

/// Runs `ward-verify`, which shares no code with the writer, over the audit log and its second.
fn verify(cli: &Cli) -> Result {
    let config = config(cli)?;
    let mut folders = vec![config.data().join("logs/audit")];
    folders.extend(config.mesh.audit.second.as_ref().map(|second| config.folder.join(second).join("audit")));
    for folder in folders {
        say(&verify_log(&folder, cli.json)?);
    }
    Ok(())
}

/// What `ward-verify` says of one log.
pub fn verify_log(folder: &Path, json: bool) -> Result<String> {
    verify_against(folder, None, json)
}

/// The same against a checkpoint that was kept outside.
pub fn verify_against(folder: &Path, checkpoint: Option<&Path>, json: bool) -> Result<String> {
    let program = std::env::current_exe()?.with_file_name("ward-verify");
    let key = std::fs::read_to_string(folder.join("vkey"))?;
    let mut command = std::process::Command::new(&program);
    command.arg(folder).arg("--key").arg(key.trim());
    if let Some(checkpoint) = checkpoint {
        command.arg("--checkpoint").arg(checkpoint);
    }
    if json {
        command.arg("--json");
    }
    let output =
        command.output().map_err(|error| Failure::said(format!("{} cannot be run: {error}", program.display())))?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() {
        return Ok(said);
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Failure::said(format!("{}: {said} {why}", folder.display())))
}
