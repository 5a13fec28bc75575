//! `ward ingest`: files through the node's socket, each unit durable before it is counted.

use std::path::{Path, PathBuf};

use clinical::SourceKind;
use hyper::Method;
use serde_json::Value;

use super::client::Client;
use super::{Failure, Result, client, config, progress, say};
use crate::cli::{Cli, Ingest};
use crate::config::Domain;

#[derive(Default, serde::Serialize)]
struct Tally {
    files: usize,
    accepted: usize,
    duplicates: usize,
    resources: usize,
    refused: Vec<Refused>,
}

#[derive(serde::Serialize)]
struct Refused {
    file: String,
    reason: String,
}

pub async fn run(cli: &Cli, ingest: &Ingest) -> Result {
    let config = config(cli)?;
    let domain = config
        .domains
        .get(&ingest.domain)
        .ok_or_else(|| Failure::said(format!("`{}` is no domain of this mesh", ingest.domain)))?;
    let client = client(cli)?;
    let files = expand(&ingest.files)?;
    let mut tally = Tally::default();
    let mut feed_token = None;
    for (n, file) in files.iter().enumerate() {
        if n % 10 == 0 || n + 1 == files.len() {
            progress(&format!("{} of {}: {}", n + 1, files.len(), file.display()));
        }
        let bytes = std::fs::read(file)?;
        tally.files += 1;
        if looks_like_json(&bytes) {
            if feed_token.is_none() {
                feed_token = Some(feed(&config, domain, &client).await?);
            }
            post_fhir(&client, domain, file, bytes, feed_token.as_deref(), &mut tally).await?;
        } else {
            post_hl7(&client, &config.mesh.limits, domain, ingest, file, &bytes, &mut tally).await?;
        }
    }
    report(cli, ingest, &tally);
    if tally.refused.is_empty() {
        Ok(())
    } else {
        Err(Failure::said(format!("{} unit(s) were refused", tally.refused.len())))
    }
}

fn report(cli: &Cli, ingest: &Ingest, tally: &Tally) {
    if cli.json {
        say(&serde_json::to_string(tally).unwrap_or_default());
        return;
    }
    say(&format!(
        "{}: {} files, {} units accepted ({} of them known already), {} resources answered",
        ingest.domain, tally.files, tally.accepted, tally.duplicates, tally.resources
    ));
    for refused in &tally.refused {
        say(&format!("refused {}: {}", refused.file, refused.reason));
    }
    say("what could not be used is set aside with its reason: ward quarantine list");
}

/// Files as given, folders one level deep, in the order of their names.
fn expand(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let mut inside: Vec<PathBuf> =
                std::fs::read_dir(path)?.filter_map(|entry| Some(entry.ok()?.path())).filter(|p| p.is_file()).collect();
            inside.sort();
            files.extend(inside);
        } else {
            files.push(path.clone());
        }
    }
    Ok(files)
}

fn looks_like_json(bytes: &[u8]) -> bool {
    bytes.iter().find(|b| !b.is_ascii_whitespace() && !matches!(b, 0xEF | 0xBB | 0xBF)) == Some(&b'{')
}

/// A token of the domain's FHIR feed.
async fn feed(config: &crate::config::Config, domain: &Domain, client: &Client) -> Result<String> {
    let source = domain.sources.iter().find(|source| source.kind == SourceKind::Fhir);
    let source = source.ok_or_else(|| Failure::said(format!("`{}` has no source of kind fhir", domain.name)))?;
    let feed = config.principals.iter().find(|p| p.source.as_ref() == Some(&source.name));
    let feed =
        feed.ok_or_else(|| Failure::said(format!("no principal in principals.toml sends as `{}`", source.name)))?;
    Ok(client.token(&feed.id, None).await?)
}

async fn post_fhir(
    client: &Client,
    domain: &Domain,
    file: &Path,
    bytes: Vec<u8>,
    token: Option<&str>,
    tally: &mut Tally,
) -> Result {
    let parsed: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let rtype = parsed["resourceType"].as_str().unwrap_or("Bundle").to_owned();
    let path = match rtype.as_str() {
        "Bundle" => format!("/fhir/{}", domain.name),
        other => format!("/fhir/{}/{other}", domain.name),
    };
    // The file's content is its key: the same file twice is one input.
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
    let key = format!("file-{}", &base::hex::encode(digest.as_ref())[..32]);
    let headers = [("content-type", "application/fhir+json"), ("idempotency-key", key.as_str())];
    let answer = client.call_with(Method::POST, &path, token, &headers, bytes).await?;
    let repeated = answer.headers.contains_key("x-repeated-answer");
    match answer.ok() {
        Ok(answer) => {
            tally.accepted += 1;
            tally.duplicates += usize::from(repeated);
            let body: Value = answer.json().unwrap_or_default();
            tally.resources += body["entry"].as_array().map_or(1, Vec::len);
        }
        Err(error) => {
            tally.refused.push(Refused { file: file.display().to_string(), reason: error.to_string() });
        }
    }
    Ok(())
}

async fn post_hl7(
    client: &Client,
    limits: &base::Limits,
    domain: &Domain,
    ingest: &Ingest,
    file: &Path,
    bytes: &[u8],
    tally: &mut Tally,
) -> Result {
    let source = match &ingest.source {
        Some(source) => source.clone(),
        None => domain
            .sources
            .iter()
            .find(|source| source.kind == SourceKind::Hl7v2)
            .map(|source| source.name.clone())
            .ok_or_else(|| Failure::said(format!("`{}` has no source of kind hl7v2", domain.name)))?,
    };
    let refused = |reason: String| Refused { file: file.display().to_string(), reason };
    let batch = match hl7v2::batch::split(bytes, limits) {
        Ok(batch) => batch,
        Err(fault) => {
            tally.refused.push(refused(fault.to_string()));
            return Ok(());
        }
    };
    for message in batch.messages() {
        let path = format!("/admin/ingest/{}/{source}", domain.name);
        let answer = client.call(Method::POST, &path, None, "x-application/hl7-v2+er7", message.to_vec()).await?;
        let answer = answer.ok()?.json()?;
        if matches!(answer["code"].as_str(), Some("AA" | "CA")) {
            tally.accepted += 1;
            tally.duplicates += usize::from(answer["duplicate"].as_bool() == Some(true));
        } else {
            let reason = answer["ack"].as_str().unwrap_or_default();
            let error = reason.lines().find(|line| line.starts_with("ERR")).unwrap_or(reason);
            tally.refused.push(refused(error.to_owned()));
        }
    }
    Ok(())
}
