//! `ward break-glass`: ask, confirm, end; list and review for privacy officers.

use std::io::Read;

use base::{DomainName, LogicalId};
use clap::Subcommand;
use serde_json::{Value, json};

use super::{Result, client, say};
use crate::cli::{As, Cli};

#[derive(Debug, Subcommand)]
pub enum BreakGlass {
    /// First step: ask for emergency access to one patient. Opens nothing yet.
    Start {
        domain: DomainName,
        /// The id of the Patient resource.
        patient: LogicalId,
        #[command(flatten)]
        who: As,
        /// Why, in words; `-` reads it from standard input, where no list of processes shows it.
        #[arg(long)]
        reason: String,
        /// life-threat, cannot-consent, covering, system-fault or other.
        #[arg(long, default_value = "other")]
        category: String,
    },
    /// Second step, by the same clinician, within two minutes: the session opens.
    Confirm {
        session: String,
        #[command(flatten)]
        who: As,
    },
    /// End one's own session before its time.
    End {
        session: String,
        #[command(flatten)]
        who: As,
    },
    /// Sessions that wait for their review, newest first.
    List {
        #[command(flatten)]
        who: As,
        /// Reviewed ones too.
        #[arg(long)]
        all: bool,
    },
    /// Close a session's review, as a privacy officer.
    Review {
        session: String,
        #[command(flatten)]
        who: As,
        /// justified or not-justified.
        #[arg(long)]
        verdict: String,
        /// What was found, in words; `-` reads it from standard input.
        #[arg(long)]
        note: String,
    },
}

pub async fn run(cli: &Cli, command: &BreakGlass) -> Result {
    let (BreakGlass::Start { who, .. }
    | BreakGlass::Confirm { who, .. }
    | BreakGlass::End { who, .. }
    | BreakGlass::List { who, .. }
    | BreakGlass::Review { who, .. }) = command;
    let client = client(cli)?;
    // A new token each time: a confirmation needs one that is younger than the request.
    let token = client.token(&who.principal, who.purpose).await?;
    let answer = match command {
        BreakGlass::Start { domain, patient, reason, category, .. } => {
            let body = json!({ "domain": domain, "patient": patient, "category": category, "reason": words(reason)? });
            client.post("/admin/break-glass", Some(&token), &body).await?
        }
        BreakGlass::Confirm { session, .. } => {
            client.post(&path(session, "confirm"), Some(&token), &Value::Null).await?
        }
        BreakGlass::End { session, .. } => client.post(&path(session, "end"), Some(&token), &Value::Null).await?,
        BreakGlass::List { all, .. } => client.get(&format!("/admin/break-glass?all={all}"), Some(&token)).await?,
        BreakGlass::Review { session, verdict, note, .. } => {
            let body = json!({ "verdict": verdict, "note": words(note)? });
            client.post(&path(session, "review"), Some(&token), &body).await?
        }
    };
    say(&if cli.json { answer.to_string() } else { told(command, &answer) });
    Ok(())
}

/// What is no session's name reaches the node as one that it does not have.
fn path(session: &str, step: &str) -> String {
    let session: String = session.chars().filter(char::is_ascii_alphanumeric).collect();
    format!("/admin/break-glass/{session}/{step}")
}

fn words(text: &str) -> Result<String> {
    if text != "-" {
        return Ok(text.to_owned());
    }
    let mut words = String::new();
    std::io::stdin().take(64 << 10).read_to_string(&mut words)?;
    Ok(words)
}

fn told(command: &BreakGlass, answer: &Value) -> String {
    let text = |key: &str| answer[key].as_str().unwrap_or("-");
    let session = text("session");
    match command {
        BreakGlass::Start { who, .. } => format!(
            "asked: session {session}; confirm it until {}:\n  ward break-glass confirm {session} --as {}",
            text("until"),
            who.principal
        ),
        BreakGlass::Confirm { .. } => format!(
            "open until {}: send `X-Break-Glass: {session}` with FHIR and SQL requests, or use ward query --break-glass\n\
             the privacy officer is notified; the session will be reviewed",
            text("until")
        ),
        BreakGlass::End { .. } => format!("session {session} is over"),
        BreakGlass::Review { verdict, .. } => format!("session {session} is reviewed: {verdict}"),
        BreakGlass::List { .. } => {
            let sessions = answer["sessions"].as_array().into_iter().flatten().map(one_line);
            let lines = sessions.collect::<Vec<_>>();
            if lines.is_empty() { "no session waits for its review".into() } else { lines.join("\n") }
        }
    }
}

/// A session as a privacy officer reads it.
pub fn one_line(session: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut line = format!(
        "{}  {} {} Patient/{} in {}, {}, {} to {}: {}",
        text(&session["session"]),
        text(&session["principal"]),
        text(&session["state"]),
        text(&session["patient"]),
        text(&session["domain"]),
        text(&session["category"]),
        text(&session["started"]),
        text(if session["ended"].is_null() { &session["until"] } else { &session["ended"] }),
        session["reason"].as_str().unwrap_or("(the reason was erased with the patient)"),
    );
    if session["part2"] == true {
        line.push_str("\n    records under 42 CFR Part 2, if any, were open in it (2.51, medical emergency)");
    }
    match &session["review"] {
        Value::Null if session["overdue"] == true => line.push_str("\n    review OVERDUE"),
        Value::Null => line.push_str("\n    waits for its review"),
        review => line.push_str(&format!(
            "\n    {} by {} at {}: {}",
            text(&review["verdict"]),
            text(&review["by"]),
            text(&review["at"]),
            review["note"].as_str().unwrap_or("(the note was erased with the patient)"),
        )),
    }
    line
}
