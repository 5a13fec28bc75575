//! Every family of HL7 v2 message once, and the account of what became of each field of all that came.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use synth::Door;
use synth::families::families;

use super::Fed;
use crate::commands::{Result, progress, say};
use crate::wire::{MllpClient, ack_code};

/// Sends one message of every family over its feed.
pub async fn send(today: base::Timestamp, adt: std::net::SocketAddr, lab: std::net::SocketAddr) -> Result<Fed> {
    let all = families(today);
    let (mut registration, mut laboratory) = (MllpClient::connect(adt).await?, MllpClient::connect(lab).await?);
    let mut fed = Fed::default();
    for sample in &all {
        let connection = if sample.door == Door::Lab { &mut laboratory } else { &mut registration };
        let code = ack_code(&connection.send(&sample.bytes).await?);
        let accepted = matches!(code.as_str(), "AA" | "CA");
        fed.sent += 1;
        fed.accepted += usize::from(accepted);
        fed.refused += usize::from(!accepted);
        if !accepted {
            fed.surprises.push(format!("{} was answered {code}", sample.kind));
        }
    }
    let names: BTreeSet<&str> = all.iter().filter_map(|sample| sample.kind.get(..3)).collect();
    progress(&format!("  every family once: {} messages, {}", all.len(), Vec::from_iter(names).join(" ")));
    Ok(fed)
}

/// Fields mapped, kept on purpose and not mapped, by the type of message; and what the tables cover.
pub fn account(status: &Value) {
    let mut types: BTreeMap<String, [u64; 3]> = BTreeMap::new();
    for row in status["domains"].as_array().into_iter().flatten().flat_map(|d| d["counts"].as_array()).flatten() {
        let counter = row["counter"].as_str().unwrap_or_default();
        for (n, fate) in ["fields-mapped-", "fields-kept-", "fields-unmapped-"].into_iter().enumerate() {
            if let Some(kind) = counter.strip_prefix(fate) {
                types.entry(kind.to_uppercase()).or_default()[n] += row["n"].as_u64().unwrap_or_default();
            }
        }
    }
    say("");
    say("LOSS    what became of each valued field, by type: mapped, kept on purpose, not mapped (raw is kept of all)");
    for (kind, [mapped, kept, unmapped]) in &types {
        let share = (mapped + kept) as f64 * 100.0 / (mapped + kept + unmapped).max(1) as f64;
        say(&format!("          {kind:<5} {mapped:>7} {kept:>7} {unmapped:>7}   {share:5.1} % accounted for"));
    }
    let mut covered: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut messages, all) = (BTreeSet::new(), clinical::v2::coverage());
    for (message, _, how) in &all {
        messages.insert(*message);
        *covered.entry(how.word()).or_default() += 1;
    }
    let of = |word| covered.get(word).copied().unwrap_or_default();
    say(&format!(
        "COVERS  {} message structures, {} segments in them: {} by the v2-to-FHIR guide, {} by overrides, {} kept raw (ward hl7 coverage)",
        messages.len(),
        all.len(),
        of("guide"),
        of("override"),
        of("raw")
    ));
}
