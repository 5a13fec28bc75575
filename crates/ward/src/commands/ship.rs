//! `ward ship status` and `ward audit export`: the audit log on its way to others.

use std::io::Write;
use std::path::Path;

use serde_json::Value;

use super::{Failure, Result, client, progress, say};
use crate::cli::{Cli, Export, Ship};

pub async fn run(cli: &Cli, ship: &Ship) -> Result {
    match ship {
        Ship::Status => status(cli).await,
    }
}

async fn status(cli: &Cli) -> Result {
    let answer = client(cli)?.get("/admin/audit/shipping", None).await?;
    if cli.json {
        say(&answer.to_string());
        return Ok(());
    }
    let shippers = answer["shippers"].as_array().map(Vec::as_slice).unwrap_or_default();
    if shippers.is_empty() {
        say("nothing is shipped: add [[audit.ship]] to mesh.toml");
    }
    for one in shippers {
        let text = |key: &str| one[key].as_str().unwrap_or("-").to_owned();
        let trouble = one["trouble"].as_str().map(|text| format!("; {text}")).unwrap_or_default();
        say(&format!(
            "{} {} to {}: {} behind, next is {}, {} confirmed and {} broken sessions since the start{trouble}",
            text("name"),
            text("format"),
            text("to"),
            one["behind"],
            one["next"],
            one["sent"],
            one["broken"],
        ));
    }
    Ok(())
}

/// Page by page into a file that is only there when it is whole.
pub async fn export(cli: &Cli, export: &Export) -> Result {
    let since = export.from.as_deref().map(moment).transpose()?.map(|moment| moment.from_ms);
    // A day that is named is meant to its end.
    let until = export.to.as_deref().map(moment).transpose()?.map(|moment| moment.to_ms);
    let mut place = tempfile_beside(&export.out)?;
    let mut query = format!("format={}", export.format.code());
    for (name, at) in [("since", since), ("until", until)] {
        if let Some(at) = at {
            query.push_str(&format!("&{name}={at}"));
        }
    }
    let client = client(cli)?;
    let (mut from, mut lines, mut unreadable) = (0, 0, 0);
    loop {
        let token = client.token(&export.who.principal, export.who.purpose).await?;
        let page = client.get(&format!("/admin/audit/export?{query}&from={from}"), Some(&token)).await?;
        for line in page["lines"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            writeln!(place.1, "{line}")?;
            lines += 1;
        }
        unreadable += page["unreadable"].as_u64().unwrap_or_default();
        if export.to.is_none() && from == 0 {
            // The end of the first page's span holds for all: else each page would be followed by its own record.
            query.push_str(&format!("&until={}", page["until"]));
        }
        match page["next"].as_u64() {
            Some(next) => from = next,
            None => break,
        }
    }
    place.1.sync_all()?;
    std::fs::rename(&place.0, &export.out)?;
    if unreadable > 0 {
        progress(&format!(
            "{unreadable} records no longer open: their retention ended, or `ward audit verify` says more"
        ));
    }
    let shown = export.out.display();
    match cli.json {
        true => say(&serde_json::json!({ "records": lines, "unreadable": unreadable, "file": export.out }).to_string()),
        false => say(&format!("{lines} records to {shown}")),
    }
    Ok(())
}

/// Private, and by its last name only when it is whole.
fn tempfile_beside(out: &Path) -> Result<(std::path::PathBuf, std::fs::File)> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut name = out.as_os_str().to_owned();
    name.push(".part");
    let path = std::path::PathBuf::from(name);
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    Ok((path, file))
}

/// `YYYY-MM-DD`, or an instant as FHIR writes it.
fn moment(text: &str) -> Result<fhir::time::Moment> {
    let wrong = || Failure::said(format!("`{text}` is no time: write 2026-11-25 or 2026-11-25T08:00:00Z"));
    fhir::time::parse(text).ok_or_else(wrong)
}
