//! `ward hl7 show|lint|diff`: messages of files or of the journal, with the names of their fields.
//!
//! A file is read here; an entry of the journal is shown by the node, which decides and records.

use std::io::Read as _;
use std::path::Path;

use base::{Limits, Position, PrincipalId, Purpose};
use clap::Args;
use hl7v2::view;
use serde_json::{Value, json};

use super::flow::place;
use super::{Failure, Result, client, say};
use crate::cli::Cli;

/// Who asks, where values are shown.
#[derive(Debug, Args)]
pub struct Phi {
    /// Values as they came. For the journal: a decision, and a record that names the patients.
    #[arg(long)]
    pub phi: bool,
    /// The principal to act as, with --phi and the journal.
    #[arg(long = "as", value_name = "PRINCIPAL")]
    pub principal: Option<PrincipalId>,
    /// Purpose of use; by default the principal's first.
    #[arg(long, value_parser = crate::cli::purpose)]
    pub purpose: Option<Purpose>,
}

#[derive(Debug, Args)]
pub struct Show {
    /// A file of messages, `-` for standard input, or journal-DOMAIN/INDEX.
    pub message: String,
    /// Only these segments.
    #[arg(long, value_name = "ID")]
    pub segment: Vec<String>,
    #[command(flatten)]
    pub phi: Phi,
}

#[derive(Debug, Args)]
pub struct Lint {
    /// Files of messages, `-` for standard input, or journal-DOMAIN/INDEX.
    #[arg(required = true)]
    pub messages: Vec<String>,
    /// Exit code 1 for warnings too.
    #[arg(long)]
    pub strict: bool,
}

#[derive(Debug, Args)]
pub struct Diff {
    /// A file of one message, or journal-DOMAIN/INDEX.
    pub before: String,
    pub after: String,
    #[command(flatten)]
    pub phi: Phi,
}

/// A place in a journal; anything else is a file.
fn position(text: &str) -> Option<Position> {
    text.parse::<Position>().ok().filter(|position| position.log.as_str().starts_with("journal-"))
}

/// The bytes of a file or of standard input.
pub(super) fn bytes_of(path: &str) -> Result<Vec<u8>> {
    if path == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes)?;
        return Ok(bytes);
    }
    std::fs::read(Path::new(path)).map_err(|error| Failure::said(format!("cannot read {path}: {error}")))
}

/// The messages of a file, one after the other; what cannot be cut into messages is one.
pub(super) fn messages_of<'a>(path: &str, bytes: &'a [u8], limits: &Limits) -> Result<Vec<&'a [u8]>> {
    let batch = hl7v2::batch::split(bytes, limits).map_err(|fault| Failure::said(format!("{path}: {fault}")))?;
    Ok(batch.messages().collect())
}

async fn token(cli: &Cli, phi: &Phi) -> Result<Option<String>> {
    match (&phi.principal, phi.phi) {
        (Some(principal), true) => Ok(Some(client(cli)?.token(principal, phi.purpose).await?)),
        (None, true) => Err(Failure::said("values of the journal are shown to somebody: add --as PRINCIPAL")),
        _ => Ok(None),
    }
}

pub async fn show(cli: &Cli, show: &Show) -> Result {
    if let Some(position) = position(&show.message) {
        let (domain, index) = place(&position)?;
        let path = format!("/admin/journal/{domain}/{index}/message?phi={}", show.phi.phi);
        let answer = client(cli)?.get(&path, token(cli, &show.phi).await?.as_deref()).await?;
        if cli.json {
            say(&answer.to_string());
            return Ok(());
        }
        let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let rows = answer["fields"].as_array().into_iter().flatten();
        print(rows.map(|row| (text(row, "field"), text(row, "name"), text(row, "value"))), &show.segment);
        return Ok(());
    }
    let limits = Limits::default();
    let bytes = bytes_of(&show.message)?;
    for (n, raw) in messages_of(&show.message, &bytes, &limits)?.into_iter().enumerate() {
        let message = hl7v2::parse(raw, &limits)
            .map_err(|fault| Failure::said(format!("{}: message {}: {fault}", show.message, n + 1)))?;
        let rows = view::rows(&message, show.phi.phi);
        if cli.json {
            let fields: Vec<Value> = rows
                .iter()
                .map(|row| json!({"field": row.place, "name": row.name, "type": row.kind, "value": row.shown}))
                .collect();
            say(&json!({ "message": n + 1, "phi": show.phi.phi, "fields": fields }).to_string());
        } else {
            say(&format!("message {}", n + 1));
            print(rows.into_iter().map(|row| (row.place, row.name.to_owned(), row.shown)), &show.segment);
        }
    }
    Ok(())
}

/// Place, name, value in columns; an empty line where a segment begins.
fn print(rows: impl Iterator<Item = (String, String, String)>, only: &[String]) {
    let mut before = String::new();
    for (place, name, value) in rows {
        let segment = place.split('-').next().unwrap_or_default().to_owned();
        let id = segment.split('[').next().unwrap_or_default();
        if !only.is_empty() && !only.iter().any(|wanted| wanted == id) {
            continue;
        }
        if segment != before {
            let title = hl7v2::dictionary::segment(id).map_or("", |def| def.name);
            say(&format!("{segment}  {title}"));
            before = segment;
        }
        let name: String = name.chars().take(40).collect();
        say(&format!("  {place:<10} {name:<40} {value}"));
    }
}

pub async fn lint(cli: &Cli, lint: &Lint) -> Result {
    let (mut errors, mut warnings, mut count) = (0, 0, 0);
    let limits = Limits::default();
    for path in &lint.messages {
        let mut told: Vec<(String, Vec<Value>)> = Vec::new();
        if let Some(position) = position(path) {
            let (domain, index) = place(&position)?;
            let answer = client(cli)?.get(&format!("/admin/journal/{domain}/{index}/lint"), None).await?;
            told.push((path.clone(), answer["findings"].as_array().cloned().unwrap_or_default()));
        } else {
            let bytes = bytes_of(path)?;
            for (n, raw) in messages_of(path, &bytes, &limits)?.into_iter().enumerate() {
                told.push((format!("{path}:{}", n + 1), findings(raw, &limits)));
            }
        }
        for (name, findings) in told {
            count += 1;
            for finding in &findings {
                match finding["level"].as_str() {
                    Some("error") => errors += 1,
                    _ => warnings += 1,
                }
                if !cli.json {
                    let text = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
                    say(&format!("{name}: {}: {}: {} ({})", text("level"), text("place"), text("text"), text("code")));
                }
            }
            if cli.json {
                say(&json!({ "message": name, "findings": findings }).to_string());
            }
        }
    }
    if !cli.json {
        say(&format!("{count} message(s): {errors} error(s), {warnings} warning(s)"));
    }
    match errors > 0 || (lint.strict && warnings > 0) {
        true => Err(Failure::said("the messages depart from the standard")),
        false => Ok(()),
    }
}

fn findings(raw: &[u8], limits: &Limits) -> Vec<Value> {
    match hl7v2::parse(raw, limits) {
        Ok(message) => clinical::v2::lint(&message)
            .into_iter()
            .map(|f| json!({ "level": f.level.code(), "place": f.place, "code": f.code, "text": f.text }))
            .collect(),
        Err(fault) => {
            let place = if fault.segment.is_empty() {
                "message".to_owned()
            } else {
                format!("{}-{}", fault.segment, fault.field)
            };
            vec![json!({ "level": "error", "place": place, "code": "malformed", "text": fault.reason })]
        }
    }
}

pub async fn diff(cli: &Cli, diff: &Diff) -> Result {
    let differences: Vec<Value> = match (position(&diff.before), position(&diff.after)) {
        (Some(before), Some(after)) => {
            let ((domain, a), (other, b)) = (place(&before)?, place(&after)?);
            if domain != other {
                return Err(Failure::said("both entries must be of one domain's journal"));
            }
            let path = format!("/admin/journal/{domain}/{a}/diff/{b}?phi={}", diff.phi.phi);
            let answer = client(cli)?.get(&path, token(cli, &diff.phi).await?.as_deref()).await?;
            answer["differences"].as_array().cloned().unwrap_or_default()
        }
        (None, None) => diff_files(diff)?,
        _ => return Err(Failure::said("compare two files, or two entries of a journal")),
    };
    if cli.json {
        say(&json!({ "differences": differences }).to_string());
    } else {
        for difference in &differences {
            let text = |key: &str| difference[key].as_str().unwrap_or_default().to_owned();
            let or_nothing = |text: String| if text.is_empty() { "(nothing)".to_owned() } else { text };
            let (before, after) = (or_nothing(text("before")), or_nothing(text("after")));
            say(&format!("{:<10} {:<32} {before} → {after}", text("field"), text("name")));
        }
        say(&format!("{} field(s) differ", differences.len()));
    }
    if differences.is_empty() { Ok(()) } else { Err(Failure::said("the messages differ")) }
}

fn diff_files(diff: &Diff) -> Result<Vec<Value>> {
    let limits = Limits::default();
    let (a, b) = (bytes_of(&diff.before)?, bytes_of(&diff.after)?);
    let parse = |path: &str, bytes| {
        hl7v2::parse(bytes, &limits)
            .map(hl7v2::Message::into_owned)
            .map_err(|fault| Failure::said(format!("{path}: {fault}")))
    };
    let (a, b) = (parse(&diff.before, &a)?, parse(&diff.after, &b)?);
    let told = view::diff(&a, &b, diff.phi.phi);
    Ok(told
        .into_iter()
        .map(|d| json!({"field": d.place, "name": d.name, "before": d.before, "after": d.after}))
        .collect())
}
