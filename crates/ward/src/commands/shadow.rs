//! `ward hl7 shadow-diff`: a day of a source in shadow beside the output of another engine, element by element.

use std::path::{Path, PathBuf};

use base::{DomainName, SourceName};
use bytes::Bytes;
use clap::Args;
use clinical::v2::shadow::{Comparison, compare};
use fhir::json::{ParseLimits, Value};
use hyper::Method;
use serde_json::json;

use super::{Failure, Result, client, say};
use crate::cli::{As, Cli};

#[derive(Debug, Args)]
pub struct ShadowDiff {
    #[arg(long)]
    pub domain: DomainName,
    #[arg(long)]
    pub source: SourceName,
    /// YYYY-MM-DD, UTC.
    #[arg(long)]
    pub day: String,
    /// The other engine's output of that day: a file or a folder of NDJSON, Bundles or resources.
    #[arg(long, value_name = "PATH")]
    pub with: PathBuf,
    #[command(flatten)]
    pub who: As,
}

/// Bytes of the other engine's output that are read.
const BYTES_MAX: u64 = 512 << 20;

pub async fn diff(cli: &Cli, diff: &ShadowDiff) -> Result {
    let theirs = read(&diff.with)?;
    let client = client(cli)?;
    let token = client.token(&diff.who.principal, diff.who.purpose).await?;
    let path = format!("/admin/shadow/{}/{}?day={}", diff.domain, diff.source, diff.day);
    let answer = client.call(Method::GET, &path, Some(&token), "application/json", Bytes::new()).await?.ok()?;
    let messages = answer.headers.get("x-ward-messages").and_then(|n| n.to_str().ok()).unwrap_or("0").to_owned();
    let mut ours = Vec::new();
    gather(&answer.body, "the node's answer", &mut ours)?;
    let found = compare(&ours, &theirs);
    if cli.json {
        say(&as_json(&found, &messages, ours.len(), theirs.len()).to_string());
    } else {
        show(&found, &messages, ours.len(), theirs.len());
    }
    if found.is_same() { Ok(()) } else { Err(Failure::said("the two engines say different things")) }
}

fn show(found: &Comparison, messages: &str, ours: usize, theirs: usize) {
    let differing: u64 = found.differing.values().sum();
    say(&format!(
        "{messages} messages: {ours} resources of ours, {theirs} of theirs; {} the same, {differing} differ",
        found.same
    ));
    for (who, by_type) in [("only ours", &found.only_ours), ("only theirs", &found.only_theirs)] {
        for (rtype, n) in by_type {
            say(&format!("  {who:<12} {n:>7} {rtype}"));
        }
    }
    let mut elements: Vec<_> = found.elements.iter().collect();
    elements.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    for ((rtype, element, how), n) in elements {
        say(&format!("  {:<12} {n:>7} {rtype}.{element}", how.code()));
    }
}

fn as_json(found: &Comparison, messages: &str, ours: usize, theirs: usize) -> serde_json::Value {
    let elements: Vec<_> = found
        .elements
        .iter()
        .map(|((rtype, element, how), n)| json!({"type": rtype, "element": element, "how": how.code(), "n": n}))
        .collect();
    json!({
        "messages": messages.parse::<u64>().unwrap_or(0),
        "ours": ours,
        "theirs": theirs,
        "same": found.same,
        "differing": found.differing,
        "only_ours": found.only_ours,
        "only_theirs": found.only_theirs,
        "elements": elements,
    })
}

/// Every resource below a path, in the order of names.
fn read(path: &Path) -> Result<Vec<Value>> {
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        files = std::fs::read_dir(path)?.filter_map(|entry| Some(entry.ok()?.path())).filter(|p| p.is_file()).collect();
        files.sort();
    }
    let mut bytes_left = BYTES_MAX;
    let mut resources = Vec::new();
    for file in files {
        let size = std::fs::metadata(&file)?.len();
        bytes_left = bytes_left
            .checked_sub(size)
            .ok_or_else(|| Failure::said(format!("more than {BYTES_MAX} bytes to compare with: compare in parts")))?;
        gather(&std::fs::read(&file)?, &file.display().to_string(), &mut resources)?;
    }
    Ok(resources)
}

/// A resource, a Bundle, or one of them a line.
fn gather(bytes: &[u8], name: &str, out: &mut Vec<Value>) -> Result {
    let limits = ParseLimits::default();
    if let Ok(value) = fhir::json::parse(bytes, &limits) {
        add(value, out);
        return Ok(());
    }
    for (n, line) in bytes.split(|b| *b == b'\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty()) {
        let value = fhir::json::parse(line, &limits)
            .map_err(|error| Failure::said(format!("{name}: line {}: {error}", n + 1)))?;
        add(value, out);
    }
    Ok(())
}

fn add(value: Value, out: &mut Vec<Value>) {
    if value.get("resourceType").and_then(Value::as_str) != Some("Bundle") {
        return out.push(value);
    }
    let entries = value.get("entry").and_then(Value::as_array).unwrap_or_default();
    out.extend(entries.iter().filter_map(|entry| entry.get("resource").cloned()));
}
