//! `ward erase` and `ward hold`: rights of patients, through the running node, as privacy officers.

use base::{DomainName, LogicalId};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{Failure, Result, client, say};
use crate::cli::{As, Cli};

#[derive(Debug, Subcommand)]
pub enum Erase {
    /// Ask for a record to be erased; two others must approve.
    Request {
        domain: DomainName,
        /// The id of the Patient resource.
        patient: LogicalId,
        /// patient-request, order or entered-in-error.
        #[arg(long)]
        ground: String,
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        who: As,
    },
    /// Approve; at the second approval the record is hidden, and then destroyed.
    Approve(Numbered),
    /// Refuse.
    Refuse {
        #[command(flatten)]
        of: Numbered,
        #[arg(long)]
        reason: String,
    },
    /// Turn the key epoch now, which makes a destroyed erasure final.
    Finish(Numbered),
    /// Where an erasure stands.
    Status(Numbered),
    /// All erasures.
    List {
        #[command(flatten)]
        who: As,
    },
    /// The certificate of a final erasure.
    Certificate(Numbered),
}

#[derive(Debug, Args)]
pub struct Numbered {
    /// The erasure's number: the position of its request in the control log.
    pub erasure: u64,
    #[command(flatten)]
    pub who: As,
}

#[derive(Debug, Subcommand)]
pub enum Hold {
    /// Place a hold: nothing of the record, or of the domain, is destroyed while it stands.
    Place {
        domain: DomainName,
        /// The id of the Patient resource; left out, the whole domain.
        patient: Option<LogicalId>,
        /// legal or patient-request.
        #[arg(long, default_value = "legal")]
        kind: String,
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        who: As,
    },
    /// Lift a hold.
    Lift {
        hold: u64,
        #[command(flatten)]
        who: As,
    },
    /// The holds that stand.
    List {
        #[command(flatten)]
        who: As,
    },
}

async fn ask(cli: &Cli, who: &As, path: &str, body: Option<Value>) -> Result<Value> {
    let client = client(cli)?;
    let token = client.token(&who.principal, who.purpose).await?;
    Ok(match body {
        Some(body) => client.post(path, Some(&token), &body).await?,
        None => client.get(path, Some(&token)).await?,
    })
}

fn tell(cli: &Cli, answer: &Value, text: impl FnOnce() -> String) {
    say(&if cli.json { answer.to_string() } else { text() });
}

/// An erasure as a person reads it.
pub fn line(erasure: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let last = erasure["steps"].as_array().and_then(|steps| steps.last()).cloned().unwrap_or_default();
    let why = erasure["refusal"].as_str().map(|why| format!(": {why}")).unwrap_or_default();
    format!(
        "{:<6} {:<10} Patient/{} of {} since control/{}{why}",
        erasure["number"],
        text(&erasure["state"]),
        text(&erasure["subject"]["patient"]),
        text(&erasure["subject"]["domain"]),
        last["position"],
    )
}

pub async fn erase(cli: &Cli, erase: &Erase) -> Result {
    match erase {
        Erase::Request { domain, patient, ground, reason, who } => {
            let body = json!({ "domain": domain, "patient": patient, "ground": ground, "reason": reason });
            let answer = ask(cli, who, "/admin/erasures", Some(body)).await?;
            tell(cli, &answer, || format!("erasure {} is asked for: two others must approve it", answer["erasure"]));
        }
        Erase::Approve(of) => step(cli, of, "approve", Value::Null).await?,
        Erase::Refuse { of, reason } => step(cli, of, "refuse", json!({ "reason": reason })).await?,
        Erase::Finish(of) => step(cli, of, "finish", Value::Null).await?,
        Erase::Status(of) => {
            let answer = ask(cli, &of.who, &format!("/admin/erasures/{}", of.erasure), None).await?;
            tell(cli, &answer, || line(&answer));
        }
        Erase::List { who } => {
            let answer = ask(cli, who, "/admin/erasures", None).await?;
            let all = answer["erasures"].as_array().cloned().unwrap_or_default();
            tell(cli, &answer, || all.iter().map(line).collect::<Vec<_>>().join("\n"));
        }
        Erase::Certificate(of) => {
            let answer = ask(cli, &of.who, &format!("/admin/erasures/{}", of.erasure), None).await?;
            let text = answer["certificate"]
                .as_str()
                .ok_or_else(|| Failure::said("there is no certificate yet: only a final erasure has one"))?;
            tell(cli, &answer["certificate"], || text.trim_end().to_owned());
        }
    }
    Ok(())
}

async fn step(cli: &Cli, of: &Numbered, step: &str, body: Value) -> Result {
    let answer = ask(cli, &of.who, &format!("/admin/erasures/{}/{step}", of.erasure), Some(body)).await?;
    tell(cli, &answer, || format!("erasure {} is {}", of.erasure, answer["state"].as_str().unwrap_or("-")));
    Ok(())
}

pub async fn hold(cli: &Cli, hold: &Hold) -> Result {
    match hold {
        Hold::Place { domain, patient, kind, reason, who } => {
            let body = json!({ "domain": domain, "patient": patient, "kind": kind, "reason": reason });
            let answer = ask(cli, who, "/admin/holds", Some(body)).await?;
            tell(cli, &answer, || format!("hold {} stands", answer["hold"]));
        }
        Hold::Lift { hold, who } => {
            let answer = ask(cli, who, &format!("/admin/holds/{hold}/lift"), Some(Value::Null)).await?;
            tell(cli, &answer, || format!("hold {hold} is lifted"));
        }
        Hold::List { who } => {
            let answer = ask(cli, who, "/admin/holds", None).await?;
            let holds = answer["holds"].as_array().cloned().unwrap_or_default();
            let line = |hold: &Value| {
                let what = &hold["what"];
                let whom =
                    what["patient"]["patient"].as_str().map_or("everything".into(), |id| format!("Patient/{id}"));
                format!(
                    "{:<6} {} {whom} of {}: {}",
                    hold["hold"],
                    what["kind"].as_str().unwrap_or("-"),
                    what["domain"].as_str().unwrap_or("-"),
                    what["reason"].as_str().unwrap_or("-")
                )
            };
            tell(cli, &answer, || holds.iter().map(line).collect::<Vec<_>>().join("\n"));
        }
    }
    Ok(())
}
