//! `ward journal`, `quarantine`, `index`, `product`: how data flows, without its content.

use base::Position;
use serde_json::Value;

use super::{Failure, Result, client, config, say};
use crate::cli::{Cli, Index, Journal, Product, Quarantine};

/// Domain and index of a journal position.
pub(super) fn place(position: &Position) -> Result<(String, u64)> {
    let domain = position.log.as_str().strip_prefix("journal-");
    let domain = domain.ok_or_else(|| Failure::said("a position in a journal begins with journal-DOMAIN/"))?;
    Ok((domain.to_owned(), position.index))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("-")
}

pub async fn journal(cli: &Cli, journal: &Journal) -> Result {
    let position = match journal {
        Journal::Trace { position } => position,
        Journal::Search(search) => return super::journal::search(cli, search).await,
        Journal::Size(size) => return super::journal::size(cli, size).await,
        Journal::Expire(expire) => return super::journal::expire(cli, expire).await,
    };
    let (domain, index) = place(position)?;
    let entry = client(cli)?.get(&format!("/admin/journal/{domain}/{index}"), None).await?;
    if cli.json {
        say(&entry.to_string());
        return Ok(());
    }
    say(&format!(
        "{}  {}  {} from {} by {}, {} bytes, trace {}",
        text(&entry, "position"),
        text(&entry, "received"),
        text(&entry, "kind"),
        text(&entry, "source"),
        text(&entry, "door"),
        entry["bytes"],
        text(&entry, "trace")
    ));
    for version in entry["versions"].as_array().into_iter().flatten() {
        say(&format!("  → {} version {}", text(version, "resource"), version["version"]));
    }
    for field in entry["fields"].as_array().into_iter().flatten() {
        let place = field["to"].as_str().or(field["why"].as_str()).unwrap_or_default();
        say(&format!("  {:<12} {:<9} {place}", text(field, "field"), text(field, "fate")));
    }
    for aside in entry["set_aside"].as_array().into_iter().flatten() {
        say(&format!("  {}", aside_line(aside)));
    }
    Ok(())
}

/// A set-aside unit as a person reads it.
pub fn aside_line(aside: &Value) -> String {
    let state = if aside["resolved"].as_bool() == Some(true) { "resolved" } else { "set aside" };
    let critical = if aside["critical"].as_bool() == Some(true) { ", CRITICAL" } else { "" };
    format!("{state}{critical}: {} ({}): {}", text(aside, "place"), text(aside, "code"), text(aside, "reason"))
}

pub async fn quarantine(cli: &Cli, quarantine: &Quarantine) -> Result {
    let client = client(cli)?;
    match quarantine {
        Quarantine::List { domain } => {
            let config = config(cli)?;
            let domains = config.domains.keys().filter(|name| domain.as_ref().is_none_or(|only| only == *name));
            let mut all = Vec::new();
            for name in domains {
                let answer = client.get(&format!("/admin/set-aside/{name}"), None).await?;
                for aside in answer["set_aside"].as_array().into_iter().flatten() {
                    if cli.json {
                        all.push(aside.clone());
                    } else {
                        say(&format!(
                            "journal-{name}/{}  {}  {}",
                            aside["index"],
                            text(aside, "source"),
                            aside_line(aside)
                        ));
                    }
                }
            }
            if cli.json {
                say(&Value::Array(all).to_string());
            }
        }
        Quarantine::Show { position } => {
            let (domain, index) = place(position)?;
            let entry = client.get(&format!("/admin/journal/{domain}/{index}"), None).await?;
            if cli.json {
                say(&entry["set_aside"].to_string());
            } else {
                for aside in entry["set_aside"].as_array().into_iter().flatten() {
                    say(&aside_line(aside));
                }
            }
        }
        Quarantine::Replay { position } => {
            let (domain, index) = place(position)?;
            let path = format!("/admin/set-aside/{domain}/{index}/replay");
            let answer = client.post(&path, None, &Value::Null).await?;
            if cli.json {
                say(&answer.to_string());
            } else {
                say(&format!(
                    "replayed {position}: {} resolved, {} still set aside",
                    answer["resolved"], answer["left"]
                ));
            }
        }
    }
    Ok(())
}

pub async fn index(cli: &Cli, index: &Index) -> Result {
    let Index::Rebuild { domain } = index;
    super::progress(&format!("rebuilding the search index of {domain} from silver"));
    let answer = client(cli)?.post(&format!("/admin/index/{domain}/rebuild"), None, &Value::Null).await?;
    if cli.json {
        say(&answer.to_string());
    } else {
        say(&format!("{domain}: {} resources indexed", answer["resources"]));
    }
    Ok(())
}

pub async fn product(cli: &Cli, product: &Product) -> Result {
    let client = client(cli)?;
    match product {
        Product::List => {
            let answer = client.get("/admin/products", None).await?;
            if cli.json {
                say(&answer.to_string());
                return Ok(());
            }
            for row in answer["products"].as_array().into_iter().flatten() {
                let snapshot = match row["snapshot"].as_object() {
                    Some(snapshot) => format!("{} rows, built {}", snapshot["rows"], text(&row["snapshot"], "built")),
                    None => format!("not readable: {}", text(row, "missing")),
                };
                say(&format!("{:<28} {:<8} {snapshot}", text(row, "product"), text(row, "version")));
            }
        }
        Product::Build { domain, product, who } => {
            let token = client.token(&who.principal, who.purpose).await?;
            super::progress(&format!("building {domain}.{product}"));
            let path = format!("/admin/products/{domain}/{product}/build");
            let answer = client.post(&path, Some(&token), &Value::Null).await?;
            if cli.json {
                say(&answer.to_string());
            } else {
                say(&format!("{domain}.{product}: {} rows in snapshot {}", answer["rows"], text(&answer, "snapshot")));
            }
        }
    }
    Ok(())
}
