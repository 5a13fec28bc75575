//! Law 1: durable before acknowledged. Nothing acknowledged is lost or applied twice.
//!
//! Real `kill -9` of the real process, under load on two doors. After each restart every input that was acknowledged is
//! in the journal once and in silver once.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use hyper::Method;
use parking::Acknowledged;
use serde_json::json;
use tokio::time::{Duration, timeout};
use ward::wire::{HttpsClient, MllpClient, ack_code};

use crate::harness::{Process, adt, mesh_folder};

mod parking {
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    /// What was acknowledged, shared by the senders.
    #[derive(Default)]
    pub struct Acknowledged {
        pub mllp: Mutex<BTreeSet<String>>,
        pub fhir: Mutex<BTreeSet<String>>,
    }
}

/// Kills in one run of the tests; `make soak` asks for more.
fn rounds() -> usize {
    #[allow(clippy::disallowed_methods)]
    std::env::var("WARD_SOAK_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(200)
}

async fn send_mllp(address: std::net::SocketAddr, round: usize, sender: usize, acknowledged: Arc<Acknowledged>) {
    let Ok(mut connection) = MllpClient::connect(address).await else { return };
    for n in 0.. {
        let mrn = format!("K{round}-{sender}-{n}");
        let message = adt(&mrn, "A01", &mrn, "Killed");
        match connection.send(&message).await {
            Ok(ack) if ack_code(&ack) == "AA" => drop(acknowledged.mllp.lock().expect("unpoisoned").insert(mrn)),
            _ => return,
        }
    }
}

async fn send_fhir(
    address: std::net::SocketAddr,
    authority: std::path::PathBuf,
    token: String,
    round: usize,
    acknowledged: Arc<Acknowledged>,
) {
    let mut connection = match HttpsClient::connect(address, &authority).await {
        Ok(connection) => connection,
        Err(error) => return eprintln!("law 1: no HTTPS connection: {error}"),
    };
    for n in 0.. {
        let mrn = format!("F{round}-{n}");
        let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": [{
            "resource": {
                "resourceType": "Patient",
                "identifier": [{ "system": "urn:oid:2.16.840.1.113883.19.5.1", "value": mrn }],
                "name": [{ "family": "Killed" }],
            },
            "request": { "method": "POST", "url": "Patient" },
        }]});
        let headers = [("content-type", "application/fhir+json"), ("idempotency-key", mrn.as_str())];
        match connection.call(Method::POST, "/fhir/ehr", Some(&token), &headers, bundle.to_string()).await {
            Ok(answer) if answer.status.is_success() => {
                acknowledged.fhir.lock().expect("unpoisoned").insert(mrn);
            }
            // Refused is not acknowledged; the next one may be taken.
            Ok(answer) => eprintln!("law 1: a transaction was answered {}: {}", answer.status, answer.text()),
            Err(_) => return,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn law_1_two_hundred_kills_lose_nothing_and_double_nothing() {
    let folder = mesh_folder();
    let acknowledged = Arc::new(Acknowledged::default());
    let rounds = rounds();
    for round in 0..rounds {
        let process = Process::start(folder.path()).await;
        let feed = base::PrincipalId::parse("bedside-gateway").expect("a principal");
        let token = process.client.token(&feed, None).await.expect("a token");
        let authority = folder.path().join("tls/ca.pem");
        let mut senders = tokio::task::JoinSet::new();
        // Every third round FHIR alone: beside a flood of HL7 a transaction waits for refine, and few are acknowledged.
        let fhir_alone = round % 3 == 0;
        for sender in 0..if fhir_alone { 0 } else { 3 } {
            senders.spawn(send_mllp(process.mllp_address("adt-main"), round, sender, acknowledged.clone()));
        }
        senders.spawn(send_fhir(process.http, authority, token, round, acknowledged.clone()));
        // A different moment each time: from the first messages to well into the load.
        let until = 1 + (round * 37) % 60;
        let reached = timeout(Duration::from_secs(20), async {
            let count = || {
                let mllp = acknowledged.mllp.lock().expect("unpoisoned").len();
                (mllp, acknowledged.fhir.lock().expect("unpoisoned").len())
            };
            let before = count();
            let (mllp, fhir) = if fhir_alone { (0, 1 + round % 7) } else { (until, 0) };
            while count().0 < before.0 + mllp || count().1 < before.1 + fhir {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        });
        reached.await.expect("messages are acknowledged");
        process.kill().await;
        while senders.join_next().await.is_some() {}
    }
    verify(folder.path(), &acknowledged).await;
}

/// Starts once more and compares what is there with what was acknowledged.
async fn verify(folder: &Path, acknowledged: &Acknowledged) {
    let process = Process::start(folder).await;
    let physician = base::PrincipalId::parse("dr-lee").expect("a principal");
    let token = process.client.token(&physician, None).await.expect("a token");
    let mut https = HttpsClient::connect(process.http, &folder.join("tls/ca.pem")).await.expect("a connection");
    let mut found: Vec<String> = Vec::new();
    let mut next = Some("/fhir/ehr/Patient?_sort=_id&_count=1000".to_owned());
    while let Some(path) = next {
        let bundle = https.get(&path, &token).await.expect("an answer").json();
        assert_eq!(bundle["resourceType"], "Bundle", "{bundle}");
        for entry in bundle["entry"].as_array().into_iter().flatten() {
            let identifiers = entry["resource"]["identifier"].as_array().cloned().unwrap_or_default();
            found.extend(identifiers.iter().filter_map(|i| i["value"].as_str().map(str::to_owned)));
        }
        let links = bundle["link"].as_array().cloned().unwrap_or_default();
        let link = links.iter().find(|link| link["relation"] == "next").and_then(|link| link["url"].as_str());
        next = link.and_then(|url| url.find("/fhir/").map(|at| url[at..].to_owned()));
    }
    let once: BTreeSet<&String> = found.iter().collect();
    assert_eq!(once.len(), found.len(), "something was applied twice");
    for (door, sent) in [("MLLP", &acknowledged.mllp), ("FHIR", &acknowledged.fhir)] {
        let sent = sent.lock().expect("unpoisoned");
        let lost: Vec<&String> = sent.iter().filter(|mrn| !once.contains(mrn)).collect();
        assert!(lost.is_empty(), "{} of {} acknowledged over {door} are lost: {lost:?}", lost.len(), sent.len());
        eprintln!("law 1: {} acknowledged over {door}, all in silver once", sent.len());
    }
    process.kill().await;
}
