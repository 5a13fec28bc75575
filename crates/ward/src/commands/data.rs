//! `ward query` and `ward token`.

use hyper::Method;

use super::{Failure, Result, client, say, say_error};
use crate::cli::{Cli, Query, Token};

pub async fn query(cli: &Cli, query: &Query) -> Result {
    let client = client(cli)?;
    let token = client.token(&query.who.principal, query.who.purpose).await?;
    let accept = match (cli.json, query.format.as_str()) {
        (true, _) | (false, "jsonl") => "application/x-ndjson",
        (false, "csv") => "text/csv",
        (false, "arrow") => "application/vnd.apache.arrow.stream",
        _ => return Err(Failure::said("the format must be jsonl, csv or arrow")),
    };
    let mut headers = vec![("content-type", "application/sql"), ("accept", accept)];
    headers.extend(query.break_glass.as_deref().map(|session| ("x-break-glass", session)));
    let answer = client.call_with(Method::POST, "/sql", Some(&token), &headers, query.sql.clone()).await?.ok()?;
    if let Some(masked) = answer.headers.get("x-ward-masked").and_then(|value| value.to_str().ok()) {
        for column in serde_json::from_str::<Vec<serde_json::Value>>(masked).unwrap_or_default() {
            say_error(&format!(
                "masked: {}.{} by {}: {}",
                column["table"]["product"].as_str().unwrap_or_default(),
                column["column"].as_str().unwrap_or_default(),
                column["policy"].as_str().unwrap_or_default(),
                column["reason"].as_str().unwrap_or_default()
            ));
        }
    }
    if query.format == "arrow" && !cli.json {
        use std::io::Write;
        std::io::stdout().write_all(&answer.body)?;
    } else {
        say(String::from_utf8_lossy(&answer.body).trim_end());
    }
    Ok(())
}

pub async fn token(cli: &Cli, token: &Token) -> Result {
    let body = serde_json::json!({
        "principal": token.principal,
        "purpose": token.purpose.map(|p| p.code()),
        "without_purpose": token.without_purpose,
        "minutes": token.minutes,
    });
    let answer = client(cli)?.post("/admin/token", None, &body).await?;
    match (cli.json, answer["token"].as_str()) {
        (true, _) => say(&answer.to_string()),
        (false, Some(text)) => say(text),
        (false, None) => return Err(Failure::said("the node gave no token")),
    }
    Ok(())
}
