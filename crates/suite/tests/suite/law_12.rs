//! Law 12: care goes on. Break-glass is decided on the node: two steps, one patient, every door, a review; over a restart
//! and a clock that is set back.

use std::sync::Arc;

use base::ManualClock;
use hyper::Method;
use serde_json::{Value, json};
use ward::wire::HttpAnswer;

use crate::harness::{Mesh, mesh_folder};

const NOW_MS: i64 = 1_790_000_000_000;
const HOUR_MS: i64 = 3_600_000;

/// A patient whom treatment does not open to `dr-lee`: restricted, and in nobody's care team.
fn restricted(family: &str) -> Value {
    json!({ "resourceType": "Patient", "name": [{ "family": family }], "birthDate": "1977-07-07",
            "meta": { "security": [{ "system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "R" }] } })
}

/// What a clinician does, with a new token each time.
pub struct Care<'m>(pub &'m Mesh);

impl Care<'_> {
    pub async fn send(&self, who: &str, method: Method, path: &str, session: Option<&str>, body: &str) -> HttpAnswer {
        let token = self.0.token(who).await;
        let mut headers = vec![("content-type", if path == "/sql" { "application/sql" } else { "application/json" })];
        headers.extend(session.map(|session| ("x-break-glass", session)));
        self.0.https().await.call(method, path, Some(&token), &headers, body.to_owned()).await.expect("an answer")
    }

    pub async fn patient(&self, family: &str) -> String {
        let posted = self.0.post_fhir("bedside-gateway", "/fhir/ehr/Patient", &restricted(family)).await;
        assert_eq!(posted.status, 201, "{}", posted.text());
        posted.json()["id"].as_str().expect("an id").to_owned()
    }

    pub async fn ask(&self, who: &str, patient: &str) -> HttpAnswer {
        let body = json!({ "domain": "ehr", "patient": patient, "category": "life-threat", "reason": "ZQXREASON" });
        self.send(who, Method::POST, "/admin/break-glass", None, &body.to_string()).await
    }

    /// Both steps.
    pub async fn session(&self, patient: &str) -> String {
        let asked = self.ask("dr-lee", patient).await;
        assert_eq!(asked.status, 202, "{}", asked.text());
        let session = asked.json()["session"].as_str().expect("a session").to_owned();
        let confirmed = self.step("dr-lee", &session, "confirm").await;
        assert_eq!(confirmed.status, 201, "{}", confirmed.text());
        session
    }

    pub async fn step(&self, who: &str, session: &str, step: &str) -> HttpAnswer {
        self.send(who, Method::POST, &format!("/admin/break-glass/{session}/{step}"), None, "").await
    }

    pub async fn read(&self, who: &str, patient: &str, session: Option<&str>) -> u16 {
        self.send(who, Method::GET, &format!("/fhir/ehr/Patient/{patient}"), session, "").await.status.as_u16()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn law_12_break_glass_opens_one_patient_through_every_door_and_is_reviewed() {
    let mesh = Mesh::start().await;
    let care = Care(&mesh);
    let (one, other) = (care.patient("ZQXONE").await, care.patient("ZQXOTHER").await);
    mesh.settle().await;
    mesh.build("ehr", "patients").await;
    assert_eq!(care.read("dr-lee", &one, None).await, 404, "restricted");
    // The first step opens nothing; the second needs haste and its own clinician.
    let asked = care.ask("dr-lee", &one).await.json();
    let waiting = asked["session"].as_str().expect("a session");
    assert_eq!(care.read("dr-lee", &one, Some(waiting)).await, 403);
    assert_eq!(care.step("nurse-kim", waiting, "confirm").await.status, 403);
    let session = care.session(&one).await;
    let under = Some(session.as_str());

    assert_eq!(care.read("dr-lee", &one, under).await, 200);
    let bundle = care.send("dr-lee", Method::GET, "/fhir/ehr/Patient?_count=100", under, "").await.json();
    let shown: Vec<&str> =
        bundle["entry"].as_array().into_iter().flatten().filter_map(|e| e["resource"]["id"].as_str()).collect();
    assert_eq!(shown, [one.as_str()]);
    let rows = care.send("dr-lee", Method::POST, "/sql", under, "SELECT family FROM ehr.patients").await;
    assert_eq!(rows.text().trim(), r#"{"family":"ZQXONE"}"#, "the same one patient by SQL");

    // Nobody else, nowhere else, and nothing is written under it.
    assert_eq!(care.read("dr-lee", &other, under).await, 403);
    for who in ["nurse-kim", "rio-researcher", "ana-analyst", "admin-root"] {
        assert_eq!(care.read(who, &one, under).await, 403, "{who} with another's session");
        assert_eq!(care.ask(who, &one).await.status, 403, "{who} may not break the glass");
    }
    let labs = care.send("dr-lee", Method::POST, "/sql", under, "SELECT * FROM laboratory.labs").await;
    assert_eq!(labs.status, 403, "{}", labs.text());
    let put = care.send("dr-lee", Method::PUT, &format!("/fhir/ehr/Patient/{one}"), under, "{}").await;
    assert!(put.status.is_client_error(), "{}", put.text());

    reviewed(&mesh, &care, &one, &session).await;
    mesh.stop().await;
}

/// The privacy officer sees it and nobody else does; each access names its session.
async fn reviewed(mesh: &Mesh, care: &Care<'_>, patient: &str, session: &str) {
    let status = mesh.client.get("/admin/status", None).await.expect("a status");
    assert_eq!(status["break_glass"], json!({ "open": 1, "unreviewed": 1, "overdue": 0 }));
    for who in ["dr-lee", "auditor-wu", "admin-root", "eng-ehr"] {
        let list = care.send(who, Method::GET, "/admin/break-glass", None, "").await;
        assert_eq!(list.status, 403, "{who}: {}", list.text());
        assert!(!list.text().contains("ZQXREASON"));
    }
    let list = care.send("privacy-osei", Method::GET, "/admin/break-glass", None, "").await.json();
    let line = &list["sessions"][0];
    assert_eq!(
        (&line["session"], &line["patient"], &line["reason"]),
        (&json!(session), &json!(patient), &json!("ZQXREASON"))
    );
    let saw =
        care.send("privacy-osei", Method::GET, &format!("/admin/audit/who-saw/ehr/{patient}"), None, "").await.json();
    let job = json!(format!("break-glass/{session}"));
    let named = saw["accesses"].as_array().into_iter().flatten().filter(|access| access["job"] == job);
    let named: Vec<(&str, &str)> = named
        .map(|access| (access["door"].as_str().unwrap_or("-"), access["outcome"].as_str().unwrap_or("-")))
        .collect();
    for expected in [("admin", "granted"), ("fhir", "served"), ("sql-http", "served")] {
        assert!(named.contains(&expected), "{expected:?} of {named:?}");
    }
    let review = json!({ "verdict": "justified", "note": "seen" }).to_string();
    let path = format!("/admin/break-glass/{session}/review");
    assert_eq!(care.send("dr-lee", Method::POST, &path, None, &review).await.status, 403);
    assert_eq!(care.send("privacy-osei", Method::POST, &path, None, &review).await.status, 200);
    // A review ends the session: it is over for its clinician.
    assert_eq!(care.read("dr-lee", patient, Some(session)).await, 403);
    let list = care.send("privacy-osei", Method::GET, "/admin/break-glass", None, "").await.json();
    assert_eq!(list["sessions"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn law_12_a_session_survives_a_restart_and_ends_though_the_clock_is_set_back() {
    let clock = ManualClock::at(NOW_MS);
    let mesh = Mesh::start_at(mesh_folder(), Arc::new(clock.clone())).await;
    let care = Care(&mesh);
    let patient = care.patient("ZQXONE").await;
    mesh.settle().await;
    let session = care.session(&patient).await;
    clock.advance_ms(4 * HOUR_MS - 60_000);
    assert_eq!(care.read("dr-lee", &patient, Some(&session)).await, 200);
    let folder = mesh.stop().await;

    // While the node is down somebody sets the clock back by three hours.
    clock.jump_ms(-3 * HOUR_MS);
    let mesh = Mesh::start_at(folder, Arc::new(clock.clone())).await;
    let care = Care(&mesh);
    assert_eq!(care.read("dr-lee", &patient, Some(&session)).await, 200, "open over the restart");
    clock.advance_ms(60_000);
    assert_eq!(care.read("dr-lee", &patient, Some(&session)).await, 403, "four hours are over");
    let counts = mesh.doors.gate.emergency_counts();
    assert_eq!((counts.open, counts.unreviewed), (0, 1), "its review waits still");
    let again = care.session(&patient).await;
    assert_eq!(care.read("dr-lee", &patient, Some(&again)).await, 200);
    assert_eq!(care.step("dr-lee", &again, "end").await.status, 200);
    assert_eq!(care.read("dr-lee", &patient, Some(&again)).await, 403);
    mesh.stop().await;
}
