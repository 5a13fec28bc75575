//! An outage of the key service is never "no right", never "not found" and never an empty answer: at every door the caller
//! is told to come back, nothing that was acknowledged is lost, and when the service is back so is everything.
//!
//! The root keys are kept by a service of the test's own, which refuses or does not answer while it is told to.

use std::sync::Arc;

use async_trait::async_trait;
use base::{ManualClock, SystemEntropy, Timestamp};
use hyper::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use vault::{Epoch, MemoryRootKeys, Plain, RootKeys, VaultError, WrapItem};
use ward::config::Config;
use ward::wire::{HttpAnswer, ack_code};

use crate::harness::{Mesh, adt, append, mesh_folder, mint};

/// 2026-07-01, noon: no day and no year ends while the test runs.
const NOW_MS: i64 = 1_782_907_200_000;
/// Longer than keys are cached (`VaultOptions::cached_key_ttl_ms`).
const CACHE_MS: i64 = 301_000;
/// Shorter than a person waits; a FHIR write waits half of the other.
const LIMITS: &str = "\n[limits]\nkey_service_timeout_ms = 200\nhttp_request_timeout_ms = 6000\n";

#[derive(Debug, Clone, Copy, PartialEq)]
enum Health {
    Up,
    Refusing,
    Silent,
}

struct Service {
    root: MemoryRootKeys,
    health: watch::Sender<Health>,
}

impl Service {
    fn new() -> Arc<Service> {
        let root = MemoryRootKeys::new(Arc::new(SystemEntropy));
        Arc::new(Service { root, health: watch::Sender::new(Health::Up) })
    }

    async fn reached(&self) -> Result<(), VaultError> {
        let now = *self.health.subscribe().wait_for(|health| *health != Health::Silent).await.expect("a sender");
        if now == Health::Refusing { Err(VaultError::outage("the key service", "it refuses")) } else { Ok(()) }
    }
}

#[async_trait]
impl RootKeys for Service {
    async fn epochs(&self) -> Result<Vec<Epoch>, VaultError> {
        self.reached().await?;
        self.root.epochs().await
    }
    async fn begun(&self, epoch: Epoch) -> Result<Option<Timestamp>, VaultError> {
        self.reached().await?;
        // The fake knows no times; this node's epoch is as old as the test.
        self.root.begun(epoch).await.map(|begun| begun.or(Some(Timestamp(NOW_MS))))
    }
    async fn begin_epoch(&self, now: Timestamp) -> Result<Epoch, VaultError> {
        self.reached().await?;
        self.root.begin_epoch(now).await
    }
    async fn wrap(&self, epoch: Epoch, items: &[WrapItem<'_>]) -> Result<Vec<Vec<u8>>, VaultError> {
        self.reached().await?;
        self.root.wrap(epoch, items).await
    }
    async fn unwrap(&self, epoch: Epoch, items: &[WrapItem<'_>]) -> Result<Vec<Result<Plain, VaultError>>, VaultError> {
        self.reached().await?;
        self.root.unwrap(epoch, items).await
    }
    async fn destroy_epoch(&self, epoch: Epoch) -> Result<(), VaultError> {
        self.reached().await?;
        self.root.destroy_epoch(epoch).await
    }
}

/// One question at a door. Over HTTPS as a principal, or over the node's own socket.
struct Door {
    name: &'static str,
    who: &'static str,
    method: Method,
    path: String,
    media_type: &'static str,
    body: String,
}

fn get(name: &'static str, who: &'static str, path: impl Into<String>) -> Door {
    Door { name, who, method: Method::GET, path: path.into(), media_type: "", body: String::new() }
}

fn send(name: &'static str, who: &'static str, method: Method, path: impl Into<String>, body: &Value) -> Door {
    let media_type = if name.starts_with("FHIR") { "application/fhir+json" } else { "application/json" };
    Door { name, who, method, path: path.into(), media_type, body: body.to_string() }
}

fn patient(mrn: &str) -> Value {
    let identifier = json!([{ "system": "urn:oid:2.16.840.1.113883.19.5.1", "value": mrn }]);
    json!({ "resourceType": "Patient", "identifier": identifier, "name": [{ "family": "Outage" }] })
}

/// Every door that needs a key. `n` makes what is written new.
fn doors(id: &str, event: &str, n: usize) -> Vec<Door> {
    let transaction = json!({ "resourceType": "Bundle", "type": "transaction", "entry": [
        { "resource": patient(&format!("T{n}")), "request": { "method": "POST", "url": "Patient" } }
    ]});
    let mut known = patient("M0");
    known["id"] = id.into();
    known["birthDate"] = format!("19{:02}-02-03", 10 + n).into();
    let mut sql = send("SQL", "dr-lee", Method::POST, "/sql", &Value::Null);
    (sql.media_type, sql.body) = ("application/sql", "SELECT mrn, family FROM ehr.patients ORDER BY mrn".into());
    vec![
        get("FHIR read", "dr-lee", format!("/fhir/ehr/Patient/{id}")),
        get("FHIR vread", "dr-lee", format!("/fhir/ehr/Patient/{id}/_history/1")),
        get("FHIR history", "dr-lee", format!("/fhir/ehr/Patient/{id}/_history")),
        get("FHIR search", "dr-lee", "/fhir/ehr/Patient?family=Outage"),
        get(
            "FHIR search with includes",
            "dr-lee",
            format!("/fhir/ehr/Encounter?patient={id}&_include=Encounter:patient"),
        ),
        send("FHIR create", "bedside-gateway", Method::POST, "/fhir/ehr/Patient", &patient(&format!("C{n}"))),
        send("FHIR transaction", "bedside-gateway", Method::POST, "/fhir/ehr", &transaction),
        send("FHIR update", "bedside-gateway", Method::PUT, format!("/fhir/ehr/Patient/{id}"), &known),
        sql,
        get("AuditEvent search", "privacy-osei", "/fhir/governance/AuditEvent?_count=5"),
        get("AuditEvent read", "privacy-osei", format!("/fhir/governance/AuditEvent/{event}")),
        get("audit page", "privacy-osei", "/admin/audit?last=5"),
        get("who saw", "privacy-osei", format!("/admin/audit/who-saw/ehr/{id}")),
        get("disclosures", "privacy-osei", format!("/admin/audit/disclosures/ehr/{id}")),
        get("audit export", "privacy-osei", "/admin/audit/export?format=cef"),
        get("journal entry", "eng-ehr", "/admin/journal/ehr/0"),
        get("lineage", "eng-ehr", format!("/admin/lineage/ehr/Patient/{id}")),
        send("product build", "eng-ehr", Method::POST, "/admin/products/ehr/patients/build", &Value::Null),
        send("downtime pack", "nurse-kim", Method::POST, "/admin/downtime/ehr/pack", &json!({ "location": "2N" })),
        send(
            "break-glass",
            "dr-lee",
            Method::POST,
            "/admin/break-glass",
            &json!({
                "domain": "ehr", "patient": id, "category": "life-threat", "reason": "unconscious, needs allergies",
            }),
        ),
    ]
}

async fn ask(mesh: &Mesh, door: &Door) -> HttpAnswer {
    let token = mesh.token(door.who).await;
    let headers = [("content-type", door.media_type)];
    let headers = if door.media_type.is_empty() { &headers[..0] } else { &headers[..] };
    mesh.https()
        .await
        .call(door.method.clone(), &door.path, Some(&token), headers, door.body.clone())
        .await
        .unwrap_or_else(|error| panic!("{}: {error}", door.name))
}

fn retry_after(answer: &HttpAnswer) -> Option<u64> {
    answer.headers.get("retry-after")?.to_str().ok()?.parse().ok()
}

async fn found(mesh: &Mesh, query: &str) -> usize {
    let answer = mesh.get("dr-lee", &format!("/fhir/ehr/Patient?{query}&_count=500")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["entry"].as_array().map_or(0, Vec::len)
}

/// Doors that cannot do without a key: these must tell of the outage. The others may also give what they gave before.
const NEED_A_KEY: [&str; 8] = [
    "FHIR read",
    "FHIR vread",
    "FHIR history",
    "FHIR search",
    "FHIR create",
    "FHIR transaction",
    "FHIR update",
    "product build",
];

/// What is wrong with an answer that was given during an outage.
fn wrong(door: &Door, answer: &HttpAnswer) -> Option<String> {
    let status = answer.status.as_u16();
    let is_told = matches!(status, 429 | 503) && retry_after(answer).is_some();
    let entries = answer.json()["entry"].as_array().map(Vec::len);
    let is_empty = answer.body.is_empty() || entries == Some(0);
    let is_given = answer.status.is_success() && !is_empty && !NEED_A_KEY.contains(&door.name);
    (!is_told && !is_given).then(|| format!("{}: {status} {}", door.name, answer.text()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_service_outage_is_told_as_one_at_every_door_and_loses_nothing() {
    let (service, clock) = (Service::new(), Arc::new(ManualClock::at(NOW_MS)));
    let folder = mesh_folder();
    append(folder.path(), "mesh.toml", LIMITS);
    let mesh = Mesh::start_over(folder, clock.clone(), Some(service.clone())).await;
    assert_eq!(mesh.send_all("adt-main", [adt("S0", "A01", "M0", "Outage").as_slice()]).await, ["AA"]);
    mesh.settle().await;
    mesh.build("ehr", "patients").await;
    let listed = mesh.get("dr-lee", "/fhir/ehr/Patient?family=Outage").await.json();
    let id = listed["entry"][0]["resource"]["id"].as_str().expect("an id").to_owned();
    let events = mesh.get("privacy-osei", "/fhir/governance/AuditEvent?_count=1").await.json();
    let event = events["entry"][0]["resource"]["id"].as_str().expect("an event").to_owned();
    // What each door gives while the service is up.
    let mut usual = Vec::new();
    for door in doors(&id, &event, 0) {
        let answer = ask(&mesh, &door).await;
        if !answer.status.is_success() {
            eprintln!("key service: {} gives {} {} at any time", door.name, answer.status, answer.text());
        }
        usual.push(answer.status);
    }
    assert!(usual.iter().filter(|status| status.is_success()).count() >= 15, "{usual:?}");
    mesh.settle().await;

    for (round, health) in [(1, Health::Refusing), (2, Health::Silent)] {
        clock.advance_ms(CACHE_MS);
        service.health.send_replace(health);
        let mut faults = Vec::new();
        for (door, usual) in doors(&id, &event, round).iter().zip(&usual) {
            if usual.is_success() {
                faults.extend(wrong(door, &ask(&mesh, door).await));
            }
        }
        assert!(faults.is_empty(), "{health:?}: {faults:#?}");
        let sources = ["adt-main", "lab-main"];
        let message = |source: &str| adt(&format!("R{round}{source}"), "A01", &format!("R{round}{source}"), "Outage");
        for source in sources {
            let ack = mesh.mllp(source).await.send(&message(source)).await.expect("an acknowledgement");
            let text = String::from_utf8_lossy(&ack);
            assert!(matches!(ack_code(&ack).as_str(), "AR" | "AE") && text.contains("send again"), "{text}");
        }
        let path = "/admin/ingest/ehr/adt-main";
        let handed = mesh.client.call(Method::POST, path, None, "application/hl7-v2", message("file")).await;
        let text = String::from_utf8_lossy(&handed.expect("an answer").body).into_owned();
        assert!(text.contains("send again") && !text.contains("\"AA\""), "a file handed in: {text}");

        service.health.send_replace(Health::Up);
        // Recovered without a restart: the same inputs go in, once, and every door gives what it gave.
        for source in sources {
            let mut connection = mesh.mllp(source).await;
            // After a call that ran out of time the service is left in peace for a second.
            while ack_code(&connection.send(&message(source)).await.expect("an acknowledgement")) != "AA" {}
        }
        mesh.settle().await;
        for (door, usual) in doors(&id, &event, round + 10).iter().zip(&usual) {
            let answer = ask(&mesh, door).await;
            // A second break-glass session may be refused for itself.
            let is_again = door.method == Method::GET || NEED_A_KEY.contains(&door.name);
            let is_fine = !usual.is_success() || !is_again || answer.status.is_success();
            assert!(is_fine, "{}: {} afterwards", door.name, answer.text());
        }
        assert_eq!(found(&mesh, &format!("identifier=R{round}adt-main")).await, 1);
    }
    for domain in ["ehr", "laboratory"] {
        assert!(mesh.set_aside(domain).await.is_empty(), "something of {domain} was set aside");
    }
    mesh.stop().await;
}

/// What was acknowledged while the keys to refine it could not be had waits, and comes once; a node that starts during an
/// outage says what it waits for.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_service_outage_behind_an_acknowledgement_loses_nothing() {
    let service = Service::new();
    let folder = mesh_folder();
    append(folder.path(), "mesh.toml", LIMITS);
    let clock = Arc::new(ManualClock::at(NOW_MS));
    let mesh = Mesh::start_over(folder, clock.clone(), Some(service.clone())).await;
    assert_eq!(mesh.send_all("adt-main", [adt("S0", "A01", "M0", "Outage").as_slice()]).await, ["AA"]);
    mesh.settle().await;
    // The door's key is cached; that of a new patient must be made.
    service.health.send_replace(Health::Refusing);
    for n in 1..4 {
        let message = adt(&format!("S{n}"), "A01", &format!("M{n}"), "Outage");
        assert_eq!(mesh.send_all("adt-main", [message.as_slice()]).await, ["AA"]);
    }
    assert!(mesh.set_aside("ehr").await.is_empty(), "an outage sets nothing aside");
    service.health.send_replace(Health::Up);
    mesh.settle().await;
    assert_eq!(found(&mesh, "family=Outage").await, 4);
    assert!(mesh.set_aside("ehr").await.is_empty());

    let folder = mesh.stop().await;
    service.health.send_replace(Health::Refusing);
    let config = Config::load(folder.path()).unwrap_or_else(|findings| panic!("the mesh folder: {findings:?}"));
    let around = ward::Surroundings {
        mint: mint(),
        clock: clock.clone(),
        entropy: Arc::new(SystemEntropy),
        root_keys: Some(service.clone()),
    };
    let Err(error) = ward::build(config, around).await else { panic!("a node without its keys began to serve") };
    assert!(error.to_string().contains("the key service cannot be reached"), "{error}");
    service.health.send_replace(Health::Up);
    let mesh = Mesh::start_over(folder, clock, Some(service)).await;
    assert_eq!(found(&mesh, "family=Outage").await, 4);
    mesh.stop().await;
}
