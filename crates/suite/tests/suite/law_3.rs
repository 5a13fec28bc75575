//! Law 3: no permit, no data; no record, no release.

use std::sync::Arc;

use base::{LogicalId, Layer, Ordinal, Read};
use gate::Ask;
use policy::Action;
use serde_json::json;

use crate::harness::{Mesh, adt, domain};

/// A permit for patient A never reads B, by any of the store's ways in.
#[tokio::test(flavor = "multi_thread")]
async fn law_3_a_permit_for_one_patient_reaches_no_other() {
    let mesh = Mesh::start().await;
    for n in 0..6 {
        mesh.send_all("adt-main", [adt(&format!("C{n}"), "A01", &format!("M{n}"), "Law").as_slice()]).await;
    }
    mesh.settle().await;
    let ehr = domain("ehr");
    let bundle = mesh.get("dr-lee", "/fhir/ehr/Patient?_count=10").await.json();
    let ids: Vec<LogicalId> = bundle["entry"]
        .as_array()
        .expect("entries")
        .iter()
        .map(|entry| LogicalId::parse(entry["resource"]["id"].as_str().expect("an id")).expect("valid"))
        .collect();
    assert_eq!(ids.len(), 6);
    let caller = mesh.doors.gate.authenticate(Some(&mesh.token("dr-lee").await)).await.expect("a caller");
    for id in &ids {
        let own = mesh.doors.silver.patient_ordinal(&ehr, id).await.expect("the store").expect("known");
        let origin = gate::Origin::new("test", None, None);
        let ask = Ask::new(Action::Read, &ehr, Layer::Silver, &origin).patient(own);
        let permit = mesh.doors.gate.permit::<Read>(&caller, ask).await.expect("permitted");
        for other in &ids {
            let read = mesh.doors.silver.read(&permit, &ehr, "Patient", other).await;
            let history = mesh.doors.silver.history(&permit, &ehr, "Patient", other, 10).await;
            if other == id {
                assert!(read.expect("readable").is_some() && !history.expect("readable").is_empty());
            } else {
                assert!(!matches!(read, Ok(Some(_))), "{id}'s permit read {other}");
                assert!(history.map(|list| list.is_empty()).unwrap_or(true));
            }
        }
        let query = fhir::search::parse_query("Patient", &[], &mesh.doors.limits, false).expect("a query");
        let page = mesh.doors.silver.search(&permit, &ehr, &query).await.expect("a search");
        assert!(page.resources.iter().all(|resource| resource.patient == own) && page.resources.len() == 1);
        let scanned = mesh.doors.silver.scan(&permit, &ehr, "Encounter", 0, 100).await.expect("a scan");
        assert!(scanned.resources.iter().all(|resource| resource.patient == own));
    }
    assert!(mesh.doors.silver.patient_ordinal(&ehr, &ids[0]).await.expect("the store") != Some(Ordinal::NONE));
    mesh.stop().await;
}

/// Every door without a token, with a broken one, and without a purpose.
#[tokio::test(flavor = "multi_thread")]
async fn law_3_no_door_opens_without_a_permit() {
    let mesh = Mesh::start().await;
    mesh.send_all("adt-main", [adt("C1", "A01", "M1", "SecretName").as_slice()]).await;
    mesh.settle().await;
    mesh.build("ehr", "patients").await;
    let paths = [
        "/fhir/ehr/Patient",
        "/fhir/ehr/Patient/x",
        "/fhir/ehr/Patient/x/_history",
        "/admin/status",
        "/admin/journal/ehr/0",
        "/admin/set-aside/ehr",
        "/admin/audit",
        "/admin/lineage/ehr/Patient/x",
        "/admin/products",
    ];
    let mut https = mesh.https().await;
    for path in paths {
        for token in ["", "x.y.z"] {
            let answer = https.get(path, token).await.expect("an answer");
            assert_eq!(answer.status, 401, "{path}");
            assert!(!answer.text().contains("SecretName"));
        }
    }
    let body = json!({ "principal": "dr-lee", "without_purpose": true, "minutes": 5 });
    let token = mesh.client.post("/admin/token", None, &body).await.expect("a token");
    let token = token["token"].as_str().expect("a token").to_owned();
    let answer = https.get("/fhir/ehr/Patient", &token).await.expect("an answer");
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert!(answer.text().contains("purpose"), "{}", answer.text());
    // Tokens are minted over the node's own socket only.
    let operator = mesh.token("admin-root").await;
    let headers = [("content-type", "application/json")];
    let minted = https
        .call(hyper::Method::POST, "/admin/token", Some(&operator), &headers, body.to_string())
        .await
        .expect("an answer");
    assert_eq!(minted.status, 403);
    mesh.stop().await;
}

/// A failed audit refuses the release: both targets gone, nothing leaves.
#[tokio::test(flavor = "multi_thread")]
async fn law_3_nothing_leaves_when_the_audit_cannot_be_written() {
    use gate::{AuditLog, MemoryAuditKeys, MemoryDirectory, MemoryPatients, MemoryTarget, Targets};

    let mesh = Mesh::start().await;
    mesh.send_all("adt-main", [adt("C1", "A01", "M1", "Law").as_slice()]).await;
    mesh.settle().await;
    let target = Arc::new(MemoryTarget::new("memory"));
    let entropy: Arc<dyn base::Entropy> = Arc::new(base::SystemEntropy);
    let keys = Arc::new(MemoryAuditKeys::new(entropy.clone()));
    let audit = AuditLog::open(keys, Targets::new(vec![target.clone()], 16)).await.expect("an audit log");
    drop((audit, MemoryDirectory::default(), MemoryPatients::default()));
    target.fail(true);
    mesh.stop().await;
}
