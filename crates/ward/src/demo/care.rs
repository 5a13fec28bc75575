//! The demo's emergencies: a physician breaks the glass for one patient of another domain, and is reviewed.

use std::path::Path;

use hyper::Method;
use serde_json::{Value, json};
use synth::Hospital;

use super::token;
use crate::commands::client::Client;
use crate::commands::{Failure, Result, break_glass, say};
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
