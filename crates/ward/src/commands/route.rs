//! `ward route`: how far the routes are, their dead letters, and how to go on.

use base::{DomainName, SourceName};
use clap::Subcommand;
use serde_json::{Value, json};

use super::{Result, client, say};
use crate::cli::Cli;

#[derive(Debug, Subcommand)]
pub enum Route {
    /// How far each route is.
    Status,
    /// Messages that a receiver refused, or that policy withheld.
    DeadLetters {
        domain: DomainName,
        route: SourceName,
        /// Those that were sent again, too.
        #[arg(long)]
        all: bool,
    },
    /// Send the message of a dead letter again.
    Send { domain: DomainName, route: SourceName, position: u64 },
    /// Let a route go on from an entry of the journal; without one, from its end.
    Begin {
        domain: DomainName,
        route: SourceName,
        #[arg(long)]
        from: Option<u64>,
    },
}

pub async fn run(cli: &Cli, route: &Route) -> Result {
    let client = client(cli)?;
    match route {
        Route::Status => {
            let answer = client.get("/admin/routes", None).await?;
            print(cli, &answer, "routes", "no domain has a route: add [[route]] to a domain.toml", |one| {
                let trouble = one["trouble"].as_str().map(|text| format!("; {text}")).unwrap_or_default();
                let next = one["next"]
                    .as_u64()
                    .map_or_else(|| "waits for `ward route begin`".to_owned(), |n| format!("next is {n}"));
                format!(
                    "{}/{} to {}: {} behind, {next}, {} delivered since the start, {} dead letters, {} withheld{trouble}",
                    word(one, "domain"),
                    word(one, "name"),
                    word(one, "to"),
                    one["behind"],
                    one["delivered"],
                    one["dead_letters"],
                    one["refused"],
                )
            });
        }
        Route::DeadLetters { domain, route, all } => {
            let path = format!("/admin/routes/{domain}/{route}/dead-letters?resolved={all}");
            let answer = client.get(&path, None).await?;
            print(cli, &answer, "dead_letters", "none", |one| {
                let resolved = if one["resolved"] == true { " (sent again)" } else { "" };
                format!(
                    "{} {} {}: {}{resolved}",
                    one["position"],
                    word(one, "at"),
                    word(one, "code"),
                    word(one, "reason")
                )
            });
        }
        Route::Send { domain, route, position } => {
            let path = format!("/admin/routes/{domain}/{route}/dead-letters/{position}/send");
            let answer = client.post(&path, None, &Value::Null).await?;
            say(&if cli.json { answer.to_string() } else { format!("entry {position} was taken") });
        }
        Route::Begin { domain, route, from } => {
            let body = from.map_or_else(|| json!({}), |from| json!({ "from": from }));
            let answer = client.post(&format!("/admin/routes/{domain}/{route}/begin"), None, &body).await?;
            say(&if cli.json {
                answer.to_string()
            } else {
                format!("the route goes on from entry {}", answer["from"])
            });
        }
    }
    Ok(())
}

fn word<'a>(one: &'a Value, key: &str) -> &'a str {
    one[key].as_str().unwrap_or("-")
}

fn print(cli: &Cli, answer: &Value, key: &str, none: &str, line: impl Fn(&Value) -> String) {
    if cli.json {
        return say(&answer.to_string());
    }
    let rows = answer[key].as_array().map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        say(none);
    }
    rows.iter().for_each(|row| say(&line(row)));
}
