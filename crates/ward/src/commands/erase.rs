//! `ward erase`, `ward hold`, `ward retention`: rights of patients and duties of keeping, through the running node, as
//! privacy officers.

use std::time::Duration;

use base::{DomainName, LogicalId};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{Failure, Result, client, progress, say};
use crate::cli::{As, Cli};

/// How often a command that waits looks again.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub enum Erase {
    /// Ask for a record to be erased; two others must approve.
    Request {
        domain: DomainName,
        /// The id of the Patient resource.
        patient: LogicalId,
        /// patient-request, order or entered-in-error. A duty to keep stands against the first only.
        #[arg(long, default_value = "patient-request")]
        ground: String,
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        who: As,
    },
    /// All erasures and disposals.
    List {
        #[command(flatten)]
        who: As,
    },
    /// Where an erasure or a disposal stands, step by step.
    Show {
        #[command(flatten)]
        of: Numbered,
        /// Wait until it is destroyed, or certified.
        #[arg(long)]
        wait: bool,
    },
    /// Approve an erasure or a disposal; at the second approval the record is hidden, and then destroyed.
    Approve(Numbered),
    /// Refuse an erasure or a disposal.
    Refuse {
        #[command(flatten)]
        of: Numbered,
        #[arg(long)]
        reason: String,
    },
    /// Turn the key epoch now: what is destroyed becomes final and gets its certificate.
    Finish {
        #[command(flatten)]
        who: As,
    },
    /// The certificate of a final erasure.
    Certificate(Numbered),
}

#[derive(Debug, Args)]
pub struct Numbered {
    /// Its number: the position of its request in the control log.
    pub number: u64,
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
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        who: As,
    },
    /// The holds that stand.
    List {
        #[command(flatten)]
        who: As,
    },
}

/// 45 CFR 164.528(a)(2): for a time a patient is not told what was disclosed to an agency.
#[derive(Debug, Subcommand)]
pub enum Suspend {
    /// Suspend the right to an accounting, at the agency's statement.
    Begin {
        domain: DomainName,
        patient: LogicalId,
        /// As disclosures name their recipient.
        #[arg(long)]
        agency: String,
        /// health-oversight or law-enforcement.
        #[arg(long)]
        authority: String,
        /// written, or oral: then for thirty days at most.
        #[arg(long)]
        statement: String,
        /// Who made the statement, and where it is kept.
        #[arg(long)]
        official: String,
        /// Last day, YYYY-MM-DD.
        #[arg(long)]
        until: String,
        #[command(flatten)]
        who: As,
    },
    /// End a suspension before its time.
    End {
        suspension: u64,
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        who: As,
    },
    /// All suspensions, those that are over too.
    List {
        #[command(flatten)]
        who: As,
    },
}

#[derive(Debug, Subcommand)]
pub enum Retention {
    /// How many records had their last entry in which year, until when they are kept, and which may go.
    Plan {
        #[command(flatten)]
        who: As,
    },
    /// Ask for the disposal of a domain's records that may go; two others approve it with `ward erase approve`.
    Apply {
        domain: DomainName,
        /// Records whose last entry is of this year or before.
        #[arg(long)]
        through: u16,
        #[arg(long)]
        reason: String,
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

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

/// An erasure or a disposal in one line.
pub fn line(case: &Value) -> String {
    let why = case["refusal"].as_str().map(|why| format!(": {why}")).unwrap_or_default();
    let whom = match case["subject"]["patient"].as_str() {
        Some(patient) => format!("Patient/{patient} of {}", text(&case["subject"]["domain"])),
        None => format!("records of {} through {}", text(&case["domain"]), case["through"]),
    };
    format!("{:<6} {:<10} {whom}{why}", case["number"].to_string(), text(&case["state"]))
}

fn steps(case: &Value) -> String {
    let mut lines = vec![line(case)];
    for step in case["steps"].as_array().into_iter().flatten() {
        let at = step["at"].as_i64().map(|ms| base::Timestamp(ms).to_string());
        let by = step["by"].as_str().unwrap_or("the node");
        lines.push(format!(
            "  {} {} by {by} (control/{})",
            at.unwrap_or_default(),
            text(&step["what"]),
            step["position"]
        ));
    }
    lines.join("\n")
}

pub async fn erase(cli: &Cli, erase: &Erase) -> Result {
    match erase {
        Erase::Request { domain, patient, ground, reason, who } => {
            let body = json!({ "domain": domain, "patient": patient, "ground": ground, "reason": reason });
            let answer = ask(cli, who, "/admin/erasures", Some(body)).await?;
            tell(cli, &answer, || format!("erasure {} is asked for: two others must approve it", answer["erasure"]));
        }
        Erase::List { who } => {
            let answer = ask(cli, who, "/admin/erasures", None).await?;
            let all = ["erasures", "disposals"].iter().flat_map(|kind| answer[*kind].as_array().into_iter().flatten());
            let all: Vec<String> = all.map(line).collect();
            tell(cli, &answer, || all.join("\n"));
        }
        Erase::Show { of, wait } => {
            let answer = if *wait { wait_for(cli, of).await? } else { one(cli, of).await? };
            tell(cli, &answer, || steps(&answer));
        }
        Erase::Approve(of) => decide(cli, of, "approve", Value::Null).await?,
        Erase::Refuse { of, reason } => decide(cli, of, "refuse", json!({ "reason": reason })).await?,
        Erase::Finish { who } => {
            let answer = ask(cli, who, "/admin/erasures/finish", Some(Value::Null)).await?;
            tell(cli, &answer, || "the key epoch has turned: what was destroyed is final".to_owned());
        }
        Erase::Certificate(of) => {
            let answer = one(cli, of).await?;
            let certificate = answer["certificate"].as_str().ok_or_else(|| {
                Failure::said(format!(
                    "there is no certificate yet: it is {}, and comes when the key epoch has turned (`ward erase finish` \
                     turns it now)",
                    text(&answer["state"])
                ))
            })?;
            tell(cli, &json!({ "certificate": certificate }), || certificate.trim_end().to_owned());
        }
    }
    Ok(())
}

async fn one(cli: &Cli, of: &Numbered) -> Result<Value> {
    ask(cli, &of.who, &format!("/admin/erasures/{}", of.number), None).await
}

async fn wait_for(cli: &Cli, of: &Numbered) -> Result<Value> {
    let mut seen = 0;
    loop {
        let case = one(cli, of).await?;
        let steps = case["steps"].as_array().map_or(0, Vec::len);
        if steps != seen {
            seen = steps;
            progress(&line(&case));
        }
        match text(&case["state"]) {
            "hidden" | "approved" | "planned" | "listed" => tokio::time::sleep(LOOK_EVERY).await,
            _ => return Ok(case),
        }
    }
}

async fn decide(cli: &Cli, of: &Numbered, step: &str, body: Value) -> Result {
    let answer = ask(cli, &of.who, &format!("/admin/erasures/{}/{step}", of.number), Some(body)).await?;
    tell(cli, &answer, || format!("{} is {}", of.number, text(&answer["state"])));
    Ok(())
}

pub async fn hold(cli: &Cli, hold: &Hold) -> Result {
    match hold {
        Hold::Place { domain, patient, kind, reason, who } => {
            let body = json!({ "domain": domain, "patient": patient, "kind": kind, "reason": reason });
            let answer = ask(cli, who, "/admin/holds", Some(body)).await?;
            tell(cli, &answer, || format!("hold {} stands", answer["hold"]));
        }
        Hold::Lift { hold, reason, who } => {
            let body = json!({ "reason": reason });
            let answer = ask(cli, who, &format!("/admin/holds/{hold}/lift"), Some(body)).await?;
            tell(cli, &answer, || format!("hold {hold} is lifted"));
        }
        Hold::List { who } => {
            let answer = ask(cli, who, "/admin/holds", None).await?;
            let line = |hold: &Value| {
                let what = &hold["what"];
                let whom =
                    what["patient"]["patient"].as_str().map_or("everything".into(), |id| format!("Patient/{id}"));
                let (kind, domain, reason) = (text(&what["kind"]), text(&what["domain"]), text(&what["reason"]));
                format!("{:<6} {kind} {whom} of {domain}: {reason}", hold["hold"].to_string())
            };
            let holds = answer["holds"].as_array().cloned().unwrap_or_default();
            tell(cli, &answer, || holds.iter().map(line).collect::<Vec<_>>().join("\n"));
        }
    }
    Ok(())
}

pub async fn suspend(cli: &Cli, suspend: &Suspend) -> Result {
    match suspend {
        Suspend::Begin { domain, patient, agency, authority, statement, official, until, who } => {
            let body = json!({
                "domain": domain, "patient": patient, "agency": agency, "authority": authority,
                "statement": statement, "official": official, "until": until,
            });
            let answer = ask(cli, who, "/admin/suspensions", Some(body)).await?;
            tell(cli, &answer, || format!("suspension {} stands until the end of {until}", answer["suspension"]));
        }
        Suspend::End { suspension, reason, who } => {
            let path = format!("/admin/suspensions/{suspension}/end");
            let answer = ask(cli, who, &path, Some(json!({ "reason": reason }))).await?;
            tell(cli, &answer, || format!("suspension {suspension} is over"));
        }
        Suspend::List { who } => {
            let answer = ask(cli, who, "/admin/suspensions", None).await?;
            let line = |row: &Value| {
                let (what, state) = (&row["what"], if row["stands"] == true { "stands" } else { "over" });
                let patient = text(&what["subject"]["patient"]);
                let (domain, agency) = (text(&what["subject"]["domain"]), text(&what["agency"]));
                let (statement, official) = (text(&what["statement"]), text(&what["official"]));
                let number = row["suspension"].to_string();
                format!("{number:<6} {state:<6} Patient/{patient} of {domain}: {agency}, {statement}: {official}")
            };
            let rows = answer["suspensions"].as_array().cloned().unwrap_or_default();
            tell(cli, &answer, || rows.iter().map(line).collect::<Vec<_>>().join("\n"));
        }
    }
    Ok(())
}

pub async fn retention(cli: &Cli, retention: &Retention) -> Result {
    match retention {
        Retention::Plan { who } => {
            let answer = ask(cli, who, "/admin/retention", None).await?;
            let line = |row: &Value| {
                format!(
                    "{:<12} {:<14} {:<6} {:>8} records, kept through {}{}{}",
                    text(&row["domain"]),
                    text(&row["class"]),
                    row["year"].to_string(),
                    row["records"].to_string(),
                    row["until"],
                    if row["due"] == true { ", may go" } else { "" },
                    row["held"]
                        .as_u64()
                        .filter(|held| *held > 0)
                        .map(|held| format!(", {held} held"))
                        .unwrap_or_default()
                )
            };
            let rows = answer["retention"].as_array().cloned().unwrap_or_default();
            tell(cli, &answer, || rows.iter().map(line).collect::<Vec<_>>().join("\n"));
        }
        Retention::Apply { domain, through, reason, who } => {
            let body = json!({ "domain": domain, "through": through, "reason": reason });
            let answer = ask(cli, who, "/admin/retention", Some(body)).await?;
            tell(cli, &answer, || {
                format!(
                    "disposal {0} is asked for: two others must approve it (`ward erase approve {0}`)",
                    answer["disposal"]
                )
            });
        }
    }
    Ok(())
}
