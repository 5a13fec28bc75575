//! `ward keys`: how the keys stand, the turn of the epoch, rotation. Through the running node's socket.

use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::client::ClientError;
use super::{Failure, Result, client, config, now, progress, say};
use crate::cli::Cli;
use crate::config::secret_from_environment;

#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Living epochs, when the next turn is due, damaged scopes.
    Status,
    /// Turn the epoch now: living keys are wrapped anew, the old epoch key is destroyed, and what was erased is final.
    Turn,
    /// Replace a key by another while the node serves.
    Rotate {
        #[arg(value_enum)]
        what: What,
        /// For a root that is a passphrase: the environment variable that holds the new one.
        #[arg(long, value_name = "NAME")]
        passphrase_env: Option<String>,
    },
    /// Destroy a damaged scope for good, so that the old epoch kept for it can go. Restore it from a backup instead,
    /// where there is one.
    GiveUp {
        /// As `ward keys status` names it.
        scope: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// The machine key, or the passphrase.
    Root,
    /// The key that signs access tokens.
    TokenSigner,
}

pub async fn run(cli: &Cli, command: &Keys) -> Result {
    let client = client(cli)?;
    let answer = match command {
        Keys::Status => match client.get("/admin/keys", None).await {
            Err(ClientError::NoNode { .. }) => as_they_lie(cli)?,
            answer => answer?,
        },
        Keys::Turn => {
            let turn = client.post("/admin/keys/turn", None, &Value::Null);
            tokio::pin!(turn);
            loop {
                tokio::select! {
                    answer = &mut turn => break answer?,
                    () = tokio::time::sleep(Duration::from_secs(1)) => tell_progress(cli).await,
                }
            }
        }
        Keys::Rotate { what, passphrase_env } => {
            client.post("/admin/keys/rotate", None, &wish(*what, passphrase_env)?).await?
        }
        Keys::GiveUp { scope } => {
            let scope: String = scope.chars().filter(char::is_ascii_hexdigit).collect();
            client.post(&format!("/admin/keys/scopes/{scope}/give-up"), None, &Value::Null).await?
        }
    };
    say(&if cli.json { answer.to_string() } else { told(command, &answer) });
    Ok(())
}

/// Without a node: what the files say. Damaged scopes and a turn that was cut short are known to a node alone.
fn as_they_lie(cli: &Cli) -> Result<Value> {
    let config = config(cli)?;
    let epochs = crate::keys::look(&config)?;
    let days = config.mesh.keys.epoch_days;
    let due = epochs.last().and_then(|(_, begun)| Some(begun.as_ref()?.plus_ms(i64::from(days) * 86_400_000)));
    progress("no node runs on this mesh: its keys are shown as their files have them");
    let shown = |(epoch, begun): &(vault::Epoch, Option<base::Timestamp>)| json!({ "epoch": epoch.0, "begun": begun.map(|at| at.to_string()) });
    Ok(json!({
        "epochs": epochs.iter().map(shown).collect::<Vec<_>>(),
        "epoch_days": days,
        "due": due.map(|due| due.max(now()).to_string()),
        "serving": false,
    }))
}

fn wish(what: What, passphrase_env: &Option<String>) -> Result<Value> {
    match (what, passphrase_env) {
        (What::TokenSigner, _) => Ok(json!({ "what": "token-signer" })),
        (What::Root, None) => Ok(json!({ "what": "root" })),
        (What::Root, Some(name)) => {
            let passphrase = secret_from_environment(name)
                .ok_or_else(|| Failure::said(format!("the environment variable {name} is not set")))?;
            Ok(json!({ "what": "root", "passphrase": passphrase.as_str() }))
        }
    }
}

async fn tell_progress(cli: &Cli) {
    let Ok(client) = client(cli) else { return };
    if let Ok(status) = client.get("/admin/keys", None).await
        && status["turning"] == true
    {
        progress(&format!("{} scopes wrapped anew", status["scopes_moved"]));
    }
}

fn told(command: &Keys, answer: &Value) -> String {
    match command {
        Keys::Status => standing(answer),
        Keys::Turn => turned(answer),
        Keys::GiveUp { .. } => turned(&answer["turn"]),
        Keys::Rotate { .. } => answer["next"].as_str().unwrap_or("done").to_owned(),
    }
}

fn standing(answer: &Value) -> String {
    let mut lines = Vec::new();
    for epoch in answer["epochs"].as_array().into_iter().flatten() {
        lines.push(format!("epoch {} since {}", epoch["epoch"], epoch["begun"].as_str().unwrap_or("(not noted)")));
    }
    let due = answer["due"].as_str().unwrap_or("-");
    lines.push(format!("turns every {} days, next at {due}", answer["epoch_days"]));
    if answer["turning"] == true {
        lines.push(format!("a turn is under way: {} scopes wrapped anew", answer["scopes_moved"]));
    }
    let backup = &answer["keys_backup"];
    match (backup["opens"].as_bool(), backup["epoch"].as_u64()) {
        _ if answer["serving"] == false => {}
        (Some(true), _) => {
            lines.push(format!("newest backup of the keys: {}", backup["taken"].as_str().unwrap_or("-")))
        }
        (Some(false), Some(epoch)) => lines.push(format!(
            "the newest backup of the keys opens nothing: its epoch {epoch} was destroyed. Take one now: ward backup \
             TARGET --keys-to TARGET2"
        )),
        _ => lines.push("no backup of the keys is known: ward backup TARGET --keys-to TARGET2".to_owned()),
    }
    lines.extend(damage(&answer["last"]));
    lines.join("\n")
}

fn turned(turn: &Value) -> String {
    let mut lines = vec![format!(
        "epoch {} began, {} scopes wrapped anew, epochs {} destroyed",
        turn["current"], turn["scopes_rewrapped"], turn["destroyed"]
    )];
    lines.extend(damage(turn));
    lines.join("\n")
}

fn damage(turn: &Value) -> Option<String> {
    let damaged = turn["damaged"].as_array().filter(|damaged| !damaged.is_empty())?;
    let names: Vec<&str> = damaged.iter().filter_map(Value::as_str).collect();
    Some(format!(
        "{} damaged scope(s), for which the old epoch(s) {} are kept: restore keys.db, or `ward keys give-up SCOPE`\n  {}",
        names.len(),
        turn["kept"],
        names.join("\n  ")
    ))
}
