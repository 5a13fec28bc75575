//! `ward journal search|size|expire`, `ward hl7 replay|sources|worklist`: the journal for the person at the interface
//! desk, through the node.

use base::{DomainName, Position, SourceName};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::flow::place;
use super::{Failure, Result, client, config, progress, say};
use crate::cli::{As, Cli};

/// Which entries.
#[derive(Debug, Args)]
pub struct Which {
    #[arg(long)]
    pub domain: DomainName,
    #[arg(long)]
    pub source: Option<SourceName>,
    /// `ADT^A01`, or `ADT` for every event.
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<String>,
    /// The sending application (MSH-3).
    #[arg(long)]
    pub sender: Option<String>,
    /// MSH-10.
    #[arg(long)]
    pub control_id: Option<String>,
    /// First moment or day, 2026-11-28 or 2026-11-28T10:00:00Z.
    #[arg(long)]
    pub from: Option<String>,
    /// Last moment or day.
    #[arg(long)]
    pub to: Option<String>,
}

impl Which {
    fn body(&self) -> Map<String, Value> {
        let mut body = Map::new();
        let mut put = |key: &str, value: Option<&str>| {
            value.map(|value| body.insert(key.to_owned(), value.into()));
        };
        put("source", self.source.as_ref().map(SourceName::as_str));
        put("type", self.kind.as_deref());
        put("sender", self.sender.as_deref());
        put("control_id", self.control_id.as_deref());
        put("from", self.from.as_deref());
        put("to", self.to.as_deref());
        body
    }
}

#[derive(Debug, Args)]
pub struct Search {
    #[command(flatten)]
    pub which: Which,
    /// received (not refined yet), refined, set-aside, forwarded, expired or shadow.
    #[arg(long)]
    pub state: Option<String>,
    /// A record number as the sender writes it, or Patient/ID; needs --as. The number never stands in a URL or a log.
    #[arg(long, requires = "principal")]
    pub patient: Option<String>,
    /// The principal to act as, with --patient.
    #[arg(long = "as", value_name = "PRINCIPAL", id = "principal")]
    pub principal: Option<base::PrincipalId>,
    /// Entries below this position: where an earlier page ended.
    #[arg(long, value_name = "INDEX")]
    pub before: Option<u64>,
    #[arg(long, default_value_t = 50)]
    pub max: usize,
}

#[derive(Debug, Args)]
pub struct Size {
    #[arg(long)]
    pub domain: Option<DomainName>,
    /// First day; 30 days back without it.
    #[arg(long)]
    pub from: Option<String>,
    /// Last day.
    #[arg(long)]
    pub to: Option<String>,
}

#[derive(Debug, Args)]
pub struct Expire {
    pub domain: DomainName,
    /// Say what is due, and destroy nothing.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct Replay {
    #[command(flatten)]
    pub which: Which,
    /// Only what is set aside, and not the whole of each message.
    #[arg(long)]
    pub set_aside: bool,
    /// The first position, and the one below which.
    #[arg(long, value_name = "INDEX")]
    pub first: Option<u64>,
    #[arg(long, value_name = "INDEX")]
    pub before: Option<u64>,
    /// Count the messages, and refine none.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub enum Worklist {
    /// Messages whose results wait for a patient. Shows no content.
    List {
        #[arg(long)]
        domain: DomainName,
        /// Reports of known patients that no order is known of, instead.
        #[arg(long)]
        orders: bool,
    },
    /// Say whose the results of a message are.
    Match {
        /// journal-DOMAIN/INDEX
        position: Position,
        /// Patient/ID; of an order its patient without it.
        #[arg(long)]
        patient: Option<String>,
        /// ServiceRequest/ID
        #[arg(long)]
        order: Option<String>,
        #[command(flatten)]
        who: As,
    },
    /// Take a match back: the results wait again.
    Undo {
        position: Position,
        #[command(flatten)]
        who: As,
    },
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("-")
}

pub async fn search(cli: &Cli, search: &Search) -> Result {
    let client = client(cli)?;
    let mut body = search.which.body();
    body.insert("max".into(), search.max.into());
    if let Some(state) = &search.state {
        body.insert("state".into(), state.as_str().into());
    }
    if let Some(patient) = &search.patient {
        body.insert("patient".into(), patient.as_str().into());
    }
    if let Some(before) = search.before {
        body.insert("before".into(), before.into());
    }
    let token = match &search.principal {
        Some(principal) => Some(client.token(principal, None).await?),
        None => None,
    };
    let path = format!("/admin/journal/{}/search", search.which.domain);
    let answer = client.post(&path, token.as_deref(), &Value::Object(body)).await?;
    if cli.json {
        say(&answer.to_string());
        return Ok(());
    }
    for entry in answer["entries"].as_array().into_iter().flatten() {
        say(&format!(
            "{:<24} {}  {:<12} {:<10} {:<9} {} bytes",
            text(entry, "position"),
            text(entry, "received"),
            text(entry, "source"),
            text(entry, "type"),
            text(entry, "state"),
            entry["bytes"],
        ));
    }
    if let Some(before) = answer["before"].as_u64() {
        say(&format!("more: add --before {before}"));
    }
    if let Some(waiting @ 1..) = answer["not_refined_yet"].as_u64() {
        say(&format!("{waiting} newer entries are not refined yet: --state received shows them"));
    }
    Ok(())
}

pub async fn size(cli: &Cli, size: &Size) -> Result {
    let client = client(cli)?;
    let config = config(cli)?;
    let mut all = Vec::new();
    for domain in config.domains.keys().filter(|name| size.domain.as_ref().is_none_or(|only| only == *name)) {
        let period = [("from", &size.from), ("to", &size.to)];
        let query: Vec<String> =
            period.iter().filter_map(|(key, value)| Some(format!("{key}={}", value.as_ref()?))).collect();
        let answer = client.get(&format!("/admin/journal/{domain}/size?{}", query.join("&")), None).await?;
        for day in answer["days"].as_array().into_iter().flatten() {
            let mut day = day.clone();
            day["domain"] = domain.as_str().into();
            all.push(day);
        }
    }
    if cli.json {
        say(&Value::Array(all).to_string());
        return Ok(());
    }
    say("day         domain/source             messages     raw bytes  stored bytes  stored/message  expired");
    for day in &all {
        let (messages, stored) = (day["messages"].as_u64().unwrap_or(0), day["stored_bytes"].as_u64().unwrap_or(0));
        say(&format!(
            "{:<11} {:<24} {messages:>9} {:>13} {stored:>13} {:>15} {:>8}",
            text(day, "day"),
            format!("{}/{}", text(day, "domain"), text(day, "source")),
            day["raw_bytes"].as_u64().unwrap_or(0),
            stored / messages.max(1),
            day["expired"].as_u64().unwrap_or(0),
        ));
    }
    Ok(())
}

pub async fn expire(cli: &Cli, expire: &Expire) -> Result {
    let path = format!("/admin/journal/{}/expire", expire.domain);
    let answer = client(cli)?.post(&path, None, &json!({ "dry_run": expire.dry_run })).await?;
    say(&if cli.json {
        answer.to_string()
    } else {
        format!(
            "{} bodies are due, {} destroyed, {} kept by a hold or an erasure under way, {} needed by a later replay",
            answer["due"], answer["destroyed"], answer["held"], answer["needed"]
        )
    });
    Ok(())
}

pub async fn replay(cli: &Cli, replay: &Replay) -> Result {
    let client = client(cli)?;
    let mut body = replay.which.body();
    body.insert("set_aside_only".into(), replay.set_aside.into());
    body.insert("dry_run".into(), replay.dry_run.into());
    if let Some(before) = replay.before {
        body.insert("before".into(), before.into());
    }
    let path = format!("/admin/journal/{}/replay", replay.which.domain);
    let mut first = replay.first;
    let mut tally = [("found", 0), ("replayed", 0), ("versions", 0), ("resolved", 0), ("left", 0)];
    loop {
        if let Some(first) = first {
            body.insert("first".into(), first.into());
        }
        let answer = client.post(&path, None, &Value::Object(body.clone())).await?;
        for (key, n) in &mut tally {
            *n += answer[*key].as_u64().unwrap_or(0);
        }
        first = answer["first"].as_u64();
        if first.is_none() {
            break;
        }
        progress(&format!("{} messages, up to {}", tally[0].1, first.unwrap_or_default()));
    }
    let [(_, found), (_, replayed), (_, versions), (_, resolved), (_, left)] = tally;
    say(&if cli.json {
        tally
            .iter()
            .map(|(key, n)| ((*key).to_owned(), Value::from(*n)))
            .collect::<Map<_, _>>()
            .into_iter()
            .collect::<Value>()
            .to_string()
    } else if replay.dry_run {
        format!("{found} message(s) would be refined again")
    } else {
        format!(
            "{replayed} message(s) refined again: {versions} new version(s), {resolved} resolved, {left} still set aside"
        )
    });
    Ok(())
}

pub async fn sources(cli: &Cli) -> Result {
    let answer = client(cli)?.get("/admin/sources", None).await?;
    if cli.json {
        say(&answer.to_string());
        return Ok(());
    }
    for one in answer["sources"].as_array().into_iter().flatten() {
        let mut notes = Vec::new();
        if one["silent"] == true {
            notes.push("SILENT".to_owned());
        }
        if one["shadow"] == true {
            notes.push("in shadow".to_owned());
        }
        let answers: Vec<String> =
            one["answers"].as_object().into_iter().flatten().map(|(code, n)| format!("{n} {code}")).collect();
        say(&format!(
            "{}/{}: {} messages, last {}, {} in the last minute, {} in the last hour; domain lag {}; {} set aside; answered {} {}",
            text(one, "domain"),
            text(one, "source"),
            one["messages"],
            text(one, "last_message"),
            one["last_minute"],
            one["last_hour"],
            one["domain_lag_entries"],
            one["set_aside"],
            if answers.is_empty() { "nothing since the start".to_owned() } else { answers.join(", ") },
            notes.join(", "),
        ));
        for field in one["unmapped"].as_array().into_iter().flatten() {
            say(&format!("  no map: {:<10} {}", text(field, "field"), field["n"]));
        }
    }
    Ok(())
}

pub async fn worklist(cli: &Cli, worklist: &Worklist) -> Result {
    let client = client(cli)?;
    let (position, who, body, path) = match worklist {
        Worklist::List { domain, orders } => {
            let mut after = 0;
            let mut rows = Vec::new();
            loop {
                let path = format!("/admin/worklist/{domain}?after={after}&orders={orders}");
                let answer = client.get(&path, None).await?;
                rows.extend(answer["waiting"].as_array().cloned().unwrap_or_default());
                match answer["after"].as_u64() {
                    Some(next) if next > after => after = next,
                    _ => break,
                }
            }
            return list(cli, &rows);
        }
        Worklist::Match { position, patient, order, who } => {
            let mut body = Map::new();
            if let Some(patient) = patient {
                body.insert("patient".into(), patient.as_str().into());
            }
            if let Some(order) = order {
                body.insert("order".into(), order.as_str().into());
            }
            (position, who, Value::Object(body), "match")
        }
        Worklist::Undo { position, who } => (position, who, Value::Null, "undo"),
    };
    let (domain, index) = place(position)?;
    let token = client.token(&who.principal, who.purpose).await?;
    let answer = client.post(&format!("/admin/worklist/{domain}/{index}/{path}"), Some(&token), &body).await?;
    if cli.json {
        say(&answer.to_string());
    } else {
        say(&format!("{position}: {} resource(s) changed, by {}", answer["changed"], text(&answer, "entry")));
    }
    match answer["changed"].as_u64() {
        Some(1..) => Ok(()),
        _ => Err(Failure::said("nothing of this message waits for that: see `ward hl7 worklist list`")),
    }
}

fn list(cli: &Cli, rows: &[Value]) -> Result {
    if cli.json {
        say(&json!({ "waiting": rows }).to_string());
        return Ok(());
    }
    if rows.is_empty() {
        say("no result waits");
    }
    for row in rows {
        let resources: Vec<String> =
            row["resources"].as_object().into_iter().flatten().map(|(kind, n)| format!("{n} {kind}")).collect();
        say(&format!(
            "{:<24} lacks its {:<7} since {}  {:<12} {:<10} {}",
            text(row, "position"),
            text(row, "lacks"),
            text(row, "since"),
            text(row, "source"),
            text(row, "type"),
            resources.join(", ")
        ));
    }
    Ok(())
}
