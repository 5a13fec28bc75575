//! `ward hl7`: what messages become, without a node: the fate of each field, the resources, the coverage of the tables.
//! What the interface desk does beside is in `desk`, `mllp`, `journal` and `shadow`.

use std::collections::BTreeMap;
use std::path::Path;

use base::Limits;
use clinical::Source;
use clinical::v2::{self, Fate, Mapped, Sender, Severity};
use hl7v2::time::Offset;
use serde_json::json;

use super::{Failure, Result, config, say};
use crate::cli::{Cli, Hl7};

pub async fn hl7(cli: &Cli, hl7: &Hl7) -> Result {
    match hl7 {
        Hl7::Show(show) => super::desk::show(cli, show).await,
        Hl7::Lint(lint) => super::desk::lint(cli, lint).await,
        Hl7::Diff(diff) => super::desk::diff(cli, diff).await,
        Hl7::Send(send) => super::mllp::send(cli, send).await,
        Hl7::Receive(receive) => super::mllp::receive(cli, receive).await,
        Hl7::Replay(replay) => super::journal::replay(cli, replay).await,
        Hl7::Sources => super::journal::sources(cli).await,
        Hl7::Worklist(worklist) => super::journal::worklist(cli, worklist).await,
        Hl7::ShadowDiff(diff) => super::shadow::diff(cli, diff).await,
        Hl7::Coverage => {
            say(v2::coverage_table().trim_end());
            Ok(())
        }
        Hl7::Map { file, explain, source } => map(cli, file, *explain, source.as_deref()),
    }
}

fn map(cli: &Cli, file: &Path, explain: bool, source: Option<&str>) -> Result {
    let limits = Limits::default();
    let bytes = std::fs::read(file).map_err(|e| Failure::said(format!("cannot read {}: {e}", file.display())))?;
    let batch =
        hl7v2::batch::split(&bytes, &limits).map_err(|fault| Failure::said(format!("{}: {fault}", file.display())))?;
    let source = source.map(|name| source_named(cli, name)).transpose()?;
    let mut totals = v2::Totals::default();
    for (n, raw) in batch.messages().enumerate() {
        let message = match hl7v2::parse(raw, &limits) {
            Ok(message) => message,
            Err(fault) => {
                say(&format!("message {}: {fault}", n + 1));
                continue;
            }
        };
        let none = BTreeMap::new();
        let sender = Sender {
            name: source.as_ref().map_or("file", |s| s.name.as_str()),
            utc_offset: source.as_ref().and_then(|s| Offset::parse(&s.utc_offset).ok()),
            assigners: source.as_ref().map_or(&none, |s| &s.assigners),
            units: source.as_ref().map_or(&none, |s| &s.units),
            authority: source.as_ref().map_or(&[], |s| s.authority.as_slice()),
            received: None,
        };
        let mapped = v2::map(&message, &sender, &limits);
        let own = mapped.totals();
        totals.mapped += own.mapped;
        totals.kept += own.kept;
        totals.unmapped += own.unmapped;
        if cli.json {
            say(&as_json(&mapped, explain).to_string());
        } else {
            show(n + 1, &mapped, explain);
        }
    }
    if !cli.json {
        say(&format!("fields: {} mapped, {} kept, {} unmapped", totals.mapped, totals.kept, totals.unmapped));
    }
    Ok(())
}

fn source_named(cli: &Cli, name: &str) -> Result<Source> {
    let config = config(cli)?;
    let found = config.domains.values().flat_map(|domain| &domain.sources).find(|source| source.name.as_str() == name);
    found.cloned().ok_or_else(|| Failure::said(format!("no source `{name}` in this mesh")))
}

/// Where a field goes, in a word and a place.
fn fate(fate: &Fate) -> (&'static str, &str) {
    match fate {
        Fate::Mapped(to) => ("mapped", to),
        Fate::Kept(why) => ("kept", why),
        Fate::Unmapped => ("unmapped", ""),
    }
}

fn show(n: usize, mapped: &Mapped, explain: bool) {
    let event = &mapped.event;
    say(&format!("message {n}: {}^{} as {}", event.code, event.trigger, event.structure));
    for told in &mapped.fates {
        let (word, place) = fate(&told.fate);
        say(&format!("  {:<12} {word:<9} {place}", told.path));
    }
    for problem in &mapped.problems {
        let kind = if problem.severity == Severity::SetAside { "set aside" } else { "told" };
        say(&format!("  {kind}: {} ({}): {}", problem.place, problem.code, problem.text));
    }
    for unit in &mapped.units {
        say(&format!("  → {} from {}", unit.draft.rtype, unit.place));
    }
    if explain {
        for (name, resource) in v2::preview(mapped) {
            say(&format!("{name}\n{}", fhir::json::to_string_pretty(&resource)));
        }
    }
}

fn as_json(mapped: &Mapped, explain: bool) -> serde_json::Value {
    let fields: Vec<_> = mapped
        .fates
        .iter()
        .map(|told| {
            let (word, place) = fate(&told.fate);
            json!({"field": told.path, "fate": word, "to": place})
        })
        .collect();
    let problems: Vec<_> = mapped
        .problems
        .iter()
        .map(|p| json!({"place": p.place, "code": p.code, "text": p.text, "critical": p.critical}))
        .collect();
    let resources: Vec<serde_json::Value> = match explain {
        true => v2::preview(mapped)
            .iter()
            .filter_map(|(_, resource)| serde_json::from_str(&fhir::json::to_string(resource)).ok())
            .collect(),
        false => Vec::new(),
    };
    json!({
        "type": format!("{}^{}", mapped.event.code, mapped.event.trigger),
        "structure": mapped.event.structure,
        "fields": fields,
        "problems": problems,
        "resources": resources,
    })
}
