//! Certificates as people read them: what was destroyed, in numbers, and what is out of reach. They name the record's id
//! and no content. The text is a sealed fact of the control log; its SHA-256 stands beside it in the clear.

use std::fmt::Write as _;

use base::Timestamp;
use serde_json::Value;

use crate::book::{Case, Disposal, Erasure, State};

/// What stays in the clear of a certificate: its text's hash, which a stranger can compare.
pub fn sha256(text: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    format!("sha256 {}", base::hex::encode(digest.as_ref()))
}

/// The text, which is the same for the same facts.
pub fn of_erasure(erasure: &Erasure, now: Timestamp) -> String {
    let mut out = format!("CERTIFICATE OF ERASURE control/{}\n", erasure.case.number);
    let ground = serde_json::to_value(erasure.ground).unwrap_or_default();
    let head = [
        format!("Record     Patient/{} of domain {}", erasure.subject.patient, erasure.subject.domain),
        format!("Issued     {now}"),
        format!("Ground     {}: {}", ground.as_str().unwrap_or_default(), erasure.case.reason),
    ];
    lines(&mut out, head);
    steps(&mut out, &erasure.case);
    let plan: Value = erasure.whole_plan().and_then(|plan| serde_json::from_str(plan).ok()).unwrap_or_default();
    destroyed(&mut out, &plan, &erasure.copies);
    out_of_reach(&mut out, erasure, &plan);
    out
}

fn lines(out: &mut String, lines: impl IntoIterator<Item = String>) {
    for line in lines {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{line}");
    }
}

fn steps(out: &mut String, case: &Case) {
    for step in &case.steps {
        let by = step.by.as_ref().map_or("the node", |by| by.as_str());
        lines(out, [format!("{:<20} {} by {by} (control/{})", step.what, step.at, step.position)]);
    }
}

fn destroyed(out: &mut String, plan: &Value, copies: &str) {
    let count = |name: &str| plan[name].as_array().map_or(0, Vec::len);
    let number = |name: &str| plan[name].as_u64().unwrap_or_default();
    let all = [
        "Destroyed".to_owned(),
        format!("  {} resource versions, with their rows in catalog and search index", number("versions")),
        format!("  {} journal entries of this record alone", number("own_entries")),
        format!("    SHA-256 of their leaf hashes {}", plan["own_hash"].as_str().unwrap_or_default()),
        format!(
            "  {} shared journal entries replaced by what is left of them, {} destroyed whole",
            count("successors"),
            count("dropped")
        ),
        format!("  {} large objects, {} generations of the door's key", count("objects"), count("generations")),
    ];
    lines(out, all);
    let scopes = plan["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    lines(out, scopes.map(|scope| format!("  scope key {scope}")));
    lines(out, [format!("  copies: {copies}")]);
    let upto = number("upto");
    lines(out, [format!("What came at or after journal entry {upto} about the same human being is a new record.")]);
}

fn out_of_reach(out: &mut String, erasure: &Erasure, plan: &Value) {
    lines(out, ["Out of reach".to_owned()]);
    let mentions = plan["mentions"].as_u64().unwrap_or_default();
    if mentions > 0 {
        let text =
            format!("  {mentions} versions of others' resources name this record's id or number; they are theirs");
        lines(out, [text]);
    }
    lines(
        out,
        ["  ciphertext and hashes in logs and backups, which no key opens; copies outside this mesh".to_owned()],
    );
    if erasure.disposal.is_some() {
        lines(out, ["  who was given the record before stands in the audit log".to_owned()]);
    } else if erasure.disclosed.is_empty() {
        lines(out, ["  the audit log knows of no answer that held this record".to_owned()]);
    }
    lines(out, erasure.disclosed.iter().map(|disclosed| format!("  handed out before to {disclosed}")));
}

/// The certificate of a disposal, with its records.
pub fn of_disposal(disposal: &Disposal, records: &[Erasure], now: Timestamp) -> String {
    let mut out = format!("CERTIFICATE OF DISPOSAL control/{}\n", disposal.case.number);
    let head = [
        format!("Domain     {}, records whose last entry is of {} or before", disposal.domain, disposal.through),
        format!("Issued     {now}"),
        format!("Reason     {}", disposal.case.reason),
    ];
    lines(&mut out, head);
    steps(&mut out, &disposal.case);
    let done = records.iter().filter(|record| record.case.state == State::Certified);
    lines(
        &mut out,
        [format!("{} records destroyed, {} kept for a hold or a longer duty", done.clone().count(), disposal.held)],
    );
    lines(&mut out, done.map(|r| format!("  Patient/{} (control/{})", r.subject.patient, r.case.number)));
    out
}
