//! `ward downtime-pack`: make one, print a card, open one without a node, hand the record of openings in.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};

use base::{DomainName, PrincipalId};
use base64::Engine as _;
use clap::{Args, Subcommand};
use downtime::{Code, Openings};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{Failure, Result, client, now, put_file, say, say_error};
use crate::cli::{As, Cli};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DowntimePack {
    #[command(subcommand)]
    step: Option<Step>,
    /// The domain whose visits say who is on the ward.
    domain: Option<DomainName>,
    /// The ward: the point of care of its beds (PV1-3.1), or a Location.
    #[arg(long)]
    location: Option<String>,
    /// The file to write.
    #[arg(long)]
    out: Option<PathBuf>,
    /// The principal to act as.
    #[arg(long = "as", value_name = "PRINCIPAL")]
    principal: Option<PrincipalId>,
}

struct Make<'a> {
    domain: &'a DomainName,
    location: &'a str,
    out: &'a Path,
    who: As,
}

#[derive(Debug, Subcommand)]
enum Step {
    /// Print the codes of the coming days, to be kept on paper beside the ward's computer.
    Card {
        domain: DomainName,
        #[arg(long)]
        location: String,
        #[arg(long, default_value_t = 7)]
        days: u32,
        #[command(flatten)]
        who: As,
    },
    /// Read a pack, without a node. The code is asked for on standard input.
    Open {
        file: PathBuf,
        /// Who reads it: name and role.
        #[arg(long)]
        by: String,
        /// text, or html for a browser's print.
        #[arg(long, default_value = "text")]
        format: String,
        /// The record of openings; by default the pack's name with `.opened`.
        #[arg(long)]
        log: Option<PathBuf>,
    },
    /// Hand a pack's record of openings to the node, when it is back.
    Reconcile {
        /// The `.opened` file.
        log: PathBuf,
        /// The domain that the pack is of.
        #[arg(long)]
        domain: DomainName,
        #[command(flatten)]
        who: As,
    },
}

pub async fn run(cli: &Cli, command: &DowntimePack) -> Result {
    match &command.step {
        Some(Step::Card { domain, location, days, who }) => card(cli, domain, location, *days, who).await,
        Some(Step::Open { file, by, format, log }) => open(file, by, format, log.as_deref()),
        Some(Step::Reconcile { log, domain, who }) => reconcile(cli, log, domain, who).await,
        None => {
            let (Some(domain), Some(location), Some(out), Some(principal)) =
                (&command.domain, &command.location, &command.out, &command.principal)
            else {
                return Err(Failure::said("name DOMAIN, --location, --out and --as; or one of card, open, reconcile"));
            };
            let who = As { principal: principal.clone(), purpose: None };
            make_one(cli, Make { domain, location, out, who }).await
        }
    }
}

async fn post(cli: &Cli, who: &As, path: &str, body: &Value) -> Result<Value> {
    let client = client(cli)?;
    let token = client.token(&who.principal, who.purpose).await?;
    Ok(client.post(path, Some(&token), body).await?)
}

async fn make_one(cli: &Cli, make: Make<'_>) -> Result {
    let path = format!("/admin/downtime/{}/pack", make.domain);
    let answer = post(cli, &make.who, &path, &json!({ "location": make.location })).await?;
    let file = answer["file"].as_str().and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
    put_file(make.out, &file.ok_or_else(|| Failure::said("the node's answer holds no pack"))?)?;
    let header = &answer["header"];
    if cli.json {
        say(&json!({ "header": header, "patients": answer["patients"], "file": make.out.display().to_string() })
            .to_string());
        return Ok(());
    }
    let expires = base::Timestamp(header["expires_ms"].as_i64().unwrap_or_default());
    say(&format!(
        "{}: {} patients of {}, sealed, good until {expires}\n\
         it opens with the card of {} for {}: ward downtime-pack card {} --location {} --as {}",
        make.out.display(),
        answer["patients"],
        make.location,
        make.location,
        header["day"].as_str().unwrap_or("-"),
        make.domain,
        make.location,
        make.who.principal
    ));
    Ok(())
}

async fn card(cli: &Cli, domain: &DomainName, location: &str, days: u32, who: &As) -> Result {
    let path = format!("/admin/downtime/{domain}/card");
    let answer = post(cli, who, &path, &json!({ "location": location, "days": days })).await?;
    if cli.json {
        say(&answer.to_string());
        return Ok(());
    }
    say(&format!(
        "Downtime card: {location} of {domain}. Keep it apart from the packs; destroy each line after its day."
    ));
    for line in answer["codes"].as_array().into_iter().flatten() {
        say(&format!("  {}  {}", line["day"].as_str().unwrap_or("-"), line["code"].as_str().unwrap_or("-")));
    }
    Ok(())
}

/// The opening is written down first; then the pack is shown.
fn open(file: &Path, by: &str, format: &str, log: Option<&Path>) -> Result {
    let render = match format {
        "text" => downtime::text,
        "html" => downtime::html,
        _ => return Err(Failure::said("the format must be text or html")),
    };
    if by.trim().is_empty() {
        return Err(Failure::said("say who reads it: --by \"NAME, ROLE\""));
    }
    let said = |error: &dyn std::fmt::Display| Failure::said(error.to_string());
    let bytes = std::fs::read(file).map_err(|error| Failure::said(format!("{}: {error}", file.display())))?;
    let log = log.map_or_else(|| Openings::beside(file), Openings::at);
    let seen = log.seen().map_err(|error| said(&error))?;
    let code = code()?;
    let (header, ward, keys) = downtime::open(&bytes, &code, now(), seen).map_err(|error| said(&error))?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    log.append(&keys, &header.pack, by, host.trim(), now()).map_err(|error| said(&error))?;
    let shown = Zeroizing::new(render(&header, &ward));
    std::io::stdout().write_all(shown.as_bytes())?;
    say_error(&format!("this reading is on record in {}", log.path().display()));
    Ok(())
}

fn code() -> Result<Code> {
    say_error("type the code of the ward's card for the pack's day:");
    let mut line = Zeroizing::new(String::new());
    std::io::stdin().lock().read_line(&mut line)?;
    Code::parse(&line).ok_or_else(|| Failure::said("this is no code: it has five groups of five characters"))
}

async fn reconcile(cli: &Cli, log: &Path, domain: &DomainName, who: &As) -> Result {
    let text = std::fs::read_to_string(log).map_err(|error| Failure::said(format!("{}: {error}", log.display())))?;
    let client = client(cli)?;
    let token = client.token(&who.principal, who.purpose).await?;
    let path = format!("/admin/downtime/{domain}/openings");
    let answer = client.call(hyper::Method::POST, &path, Some(&token), "text/plain", text).await?.ok()?.json()?;
    if cli.json {
        say(&answer.to_string());
        return Ok(());
    }
    say(&format!("{} openings, {} of them new in the audit log", answer["openings"], answer["new"]));
    Ok(())
}
