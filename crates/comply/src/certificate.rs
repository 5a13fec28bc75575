//! The certificate of an erasure as a person reads it. Names the record's id and no content.

use std::fmt::Write as _;

use base::Timestamp;

use crate::book::Erasure;

/// The text, which is the same for the same facts.
pub fn text(erasure: &Erasure, now: Timestamp) -> String {
    let mut out = String::new();
    let plan: serde_json::Value =
        erasure.plan.as_deref().and_then(|p| serde_json::from_str(p).ok()).unwrap_or_default();
    let count = |name: &str| plan[name].as_array().map_or(0, Vec::len);
    // Writing to a String cannot fail.
    let mut line = |text: String| drop(writeln!(out, "{text}"));
    line(format!("CERTIFICATE OF ERASURE control/{}", erasure.number));
    line(format!("Record     Patient/{} of domain {}", erasure.subject.patient, erasure.subject.domain));
    line(format!("Issued     {now}"));
    let ground = serde_json::to_value(erasure.ground).unwrap_or_default();
    line(format!("Ground     {}: {}", ground.as_str().unwrap_or_default(), erasure.reason));
    for step in &erasure.steps {
        let by = step.by.as_ref().map_or("the node", |by| by.as_str());
        line(format!("{:<26} {} by {by} (control/{})", step.what, step.at, step.position));
    }
    line("Destroyed".into());
    line(format!("  {} resource versions, with their rows in catalog and search index", plan["versions"]));
    line(format!(
        "  {} journal entries of this record alone, SHA-256 of their leaf hashes {}",
        plan["own_entries"],
        plan["own_hash"].as_str().unwrap_or_default()
    ));
    line(format!(
        "  {} shared journal entries replaced by what is left of them, {} destroyed whole",
        count("successors"),
        count("dropped")
    ));
    line(format!(
        "  {} large objects, {} generations of the door's key, the key of the search index",
        count("objects"),
        count("generations")
    ));
    for scope in plan["scopes"].as_array().into_iter().flatten().filter_map(|s| s.as_str()) {
        line(format!("  scope key {scope}"));
    }
    line(format!("  data products: {}", erasure.copies));
    line(format!(
        "What came after journal entry {} about the same human being is a new record with new keys.",
        plan["upto"]
    ));
    line("Out of reach".into());
    line("  copies outside this mesh; ciphertext and hashes in logs, which no key opens".into());
    if erasure.disclosed.is_empty() {
        line("  the audit log knows of no answer that held this record".into());
    }
    for disclosed in &erasure.disclosed {
        line(format!("  handed out before: {disclosed}"));
    }
    out
}
