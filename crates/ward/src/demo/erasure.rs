//! The demo's erasure: one patient from the request to the certificate.

use std::path::Path;
use std::time::Instant;

use hyper::StatusCode;
use serde_json::{Value, json};

use super::{Addresses, Client, Failure, HttpsClient, Result, say, token};

/// Asks, approves twice, turns the key epoch, and shows what the certificate says.
pub async fn show(addresses: &Addresses, folder: &Path, client: &Client, mrn: &str) -> Result {
    let mut https = HttpsClient::connect(addresses.http, &folder.join("tls/ca.pem")).await?;
    let physician = token(client, "dr-lee").await?;
    let found =
        https.get(&format!("/fhir/ehr/Patient?identifier={}%7C{mrn}", synth::MRN_SYSTEM), &physician).await?.json();
    let id = found["entry"][0]["resource"]["id"].as_str().ok_or_else(|| Failure::said("the patient was not found"))?;
    let officer = token(client, "privacy-osei").await?;
    let body = json!({ "domain": "ehr", "patient": id, "ground": "order", "reason": "court order 12/2026" });
    let asked = client.post("/admin/erasures", Some(&officer), &body).await?;
    let path = format!("/admin/erasures/{}", asked["erasure"]);
    let start = Instant::now();
    for other in ["privacy-lund", "privacy-abara"] {
        let token = token(client, other).await?;
        client.post(&format!("{path}/approve"), Some(&token), &Value::Null).await?;
    }
    let status = https.get(&format!("/fhir/ehr/Patient/{id}"), &physician).await?.status;
    if status != StatusCode::NOT_FOUND {
        return Err(Failure::said(format!("a hidden patient was answered {status}")));
    }
    say("");
    say(&format!(
        "ERASE   Patient/{id}: asked for by privacy-osei, approved by privacy-lund and privacy-abara; {status} after {} ms",
        start.elapsed().as_millis()
    ));
    client.post("/admin/erasures/finish", Some(&officer), &Value::Null).await?;
    let erasure = client.get(&path, Some(&officer)).await?;
    let certificate = erasure["certificate"].as_str().ok_or_else(|| Failure::said("the erasure has no certificate"))?;
    say(&format!(
        "        certified {:.1} s after the first approval, the key epoch turned:",
        start.elapsed().as_secs_f64()
    ));
    for line in certificate.lines().skip_while(|line| *line != "Destroyed") {
        say(&format!("          {line}"));
    }
    Ok(())
}
