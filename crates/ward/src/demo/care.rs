//! The demo's emergencies: a physician breaks the glass for one patient of another domain, and is reviewed; a nurse packs
//! her ward for when all else fails.

use std::path::Path;

use base64::Engine as _;
use hyper::Method;
use serde_json::{Value, json};
use synth::Hospital;

use super::token;
use crate::commands::client::Client;
use crate::commands::{Failure, Result, break_glass, now, say};
use crate::node::Addresses;
use crate::wire::HttpsClient;

/// The laboratory is closed to `dr-lee`, until one patient's emergency opens it.
pub async fn break_the_glass(addresses: &Addresses, folder: &Path, client: &Client, hospital: &Hospital) -> Result {
    let mut https = HttpsClient::connect(addresses.http, &folder.join("tls/ca.pem")).await?;
    let technician = token(client, "tech-novak").await?;
    let mut known = None;
    // Not everybody in the hospital had a sample taken.
    for person in hospital.patients.iter().take(20) {
        let path = format!("/fhir/laboratory/Patient?identifier={}%7C{}", synth::MRN_SYSTEM, person.mrn);
        let found = https.get(&path, &technician).await?.json();
        known = found["entry"][0]["resource"]["id"].as_str().map(str::to_owned);
        if known.is_some() {
            break;
        }
    }
    let patient = known.ok_or_else(|| Failure::said("the laboratory knows none of the demo's patients"))?;
    let path = format!("/fhir/laboratory/Observation?patient={patient}&_count=50");
    let before = https.get(&path, &token(client, "dr-lee").await?).await?.status;
    let body = json!({
        "domain": "laboratory", "patient": patient, "category": "life-threat",
        "reason": "found unconscious on the ward, results needed at once",
    });
    let asked = client.post("/admin/break-glass", Some(&token(client, "dr-lee").await?), &body).await?;
    let session = asked["session"].as_str().unwrap_or_default().to_owned();
    let confirm = format!("/admin/break-glass/{session}/confirm");
    let open = client.post(&confirm, Some(&token(client, "dr-lee").await?), &Value::Null).await?;
    let physician = token(client, "dr-lee").await?;
    let headers = [("x-break-glass", session.as_str())];
    let after = https.call(Method::GET, &path, Some(&physician), &headers, "").await?;
    say("");
    say(&format!("BREAK   dr-lee asks laboratory for Patient/{patient}: {before}"));
    say(&format!(
        "        asks and confirms, with a reason: session {session}, open until {}",
        open["until"].as_str().unwrap_or("-")
    ));
    let shown = after.json()["entry"].as_array().map_or(0, Vec::len);
    say(&format!("        asks again in the session: {}, {shown} observations of this one patient", after.status));
    reviewed(client, &session).await
}

async fn reviewed(client: &Client, session: &str) -> Result {
    let officer = token(client, "privacy-osei").await?;
    let waiting = client.get("/admin/break-glass", Some(&officer)).await?;
    for line in waiting["sessions"].as_array().into_iter().flatten() {
        for line in break_glass::one_line(line).lines() {
            say(&format!("        {line}"));
        }
    }
    let review = json!({ "verdict": "justified", "note": "the ward confirms it" });
    client.post(&format!("/admin/break-glass/{session}/review"), Some(&officer), &review).await?;
    say("        privacy-osei reviews it: justified; the session is over");
    Ok(())
}

/// A nurse makes the pack of a ward and reads it as she would without the node.
pub async fn pack_a_ward(addresses: &Addresses, folder: &Path, client: &Client) -> Result {
    let nurse = token(client, "nurse-kim").await?;
    let mut https = HttpsClient::connect(addresses.http, &folder.join("tls/ca.pem")).await?;
    let visits = https.get("/fhir/ehr/Encounter?status=in-progress&_count=1", &nurse).await?.json();
    let place = &visits["entry"][0]["resource"]["location"][0]["location"]["identifier"]["value"];
    let Some(location) = place.as_str().and_then(|place| place.split('|').next()) else {
        say("\nPACK    no ward has a patient now");
        return Ok(());
    };
    let made = client.post("/admin/downtime/ehr/pack", Some(&nurse), &json!({ "location": location })).await?;
    let file = base64::engine::general_purpose::STANDARD
        .decode(made["file"].as_str().unwrap_or_default())
        .map_err(|error| Failure::said(error.to_string()))?;
    let code = downtime::Code::parse(made["code"].as_str().unwrap_or_default());
    let code = code.ok_or_else(|| Failure::said("the node's answer holds no code"))?;
    let opened = downtime::open(&file, &code, now(), base::Timestamp(0));
    let (header, ward, _) = opened.map_err(|error| Failure::said(error.to_string()))?;
    say("");
    say(&format!(
        "PACK    nurse-kim makes the downtime pack of {location}: {} patients, {} bytes sealed; read without the node:",
        made["patients"],
        file.len()
    ));
    for line in downtime::text(&header, &ward).lines().take(12) {
        say(&format!("          {line}"));
    }
    Ok(())
}
