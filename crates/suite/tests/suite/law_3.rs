//! Law 3: no permit, no data; no record, no release.

use std::sync::Arc;

use base::{Layer, LogicalId, Ordinal, Read};
use gate::{
    Access, Ask, AuditLog, Caller, Gate, GateParts, Held, Issue, MemoryAuditKeys, MemoryDirectory, MemoryPatients,
    MemoryTarget, NotReleased, PrincipalKind, PrincipalRecord, Targets, TokenIssuer, TokenKeys,
};
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
        let own = mesh.doors.silver.patient_of(&ehr, "Patient", id).await.expect("the store").expect("known");
        let origin = gate::Origin::new("test", None, None);
        let ask = Ask::new(Action::Read, &ehr, Layer::Silver, &origin).patient(own);
        let permit = mesh.doors.gate.permit::<Read>(&caller, ask).await.expect("permitted");
        for other in &ids {
            let read = mesh.doors.silver.read(&permit, &ehr, "Patient", other).await;
            let history = mesh.doors.silver.history(&permit, &ehr, "Patient", other, None, 10).await;
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
    assert!(mesh.doors.silver.patient_of(&ehr, "Patient", &ids[0]).await.expect("the store") != Some(Ordinal::NONE));
    mesh.stop().await;
}

/// What a search asks about beside its own type must be allowed, and what would come beside its matches is left out where
/// it is not.
#[tokio::test(flavor = "multi_thread")]
async fn law_3_a_search_reaches_no_type_that_policy_keeps_from_the_caller() {
    const ALLERGY: &str = "AL1|1|DA|PEN^Penicillin^L|SV|Rash\r";
    let mesh = Mesh::start().await;
    let message = format!("{}{ALLERGY}", String::from_utf8(adt("C1", "A01", "M1", "Law")).expect("text"));
    mesh.send_all("adt-main", [message.as_bytes()]).await;
    mesh.settle().await;
    let types = async |who: &str, query: &str| {
        let answer = mesh.get(who, &format!("/fhir/ehr/{query}")).await;
        let bundle = if answer.status == 200 { answer.json() } else { json!({ "refused": answer.status.as_u16() }) };
        let mut types: Vec<String> = bundle["entry"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|entry| entry["resource"]["resourceType"].as_str().unwrap_or_default().to_owned())
            .collect();
        types.sort();
        types.extend(bundle["refused"].as_u64().map(|status| status.to_string()));
        types
    };
    let both = "Patient?identifier=M1&_revinclude=AllergyIntolerance:patient&_revinclude=Encounter:patient";
    for (who, query, expected) in [
        ("dr-lee", both, &["AllergyIntolerance", "Encounter", "Patient"][..]),
        ("clerk-diaz", both, &["Encounter", "Patient"]),
        ("dr-lee", "Patient?_has:AllergyIntolerance:patient:code=PEN", &["Patient"]),
        ("clerk-diaz", "Patient?_has:AllergyIntolerance:patient:code=PEN", &["403"]),
        ("clerk-diaz", "Patient?_has:AllergyIntolerance:patient:code=NONE", &["403"]),
        ("clerk-diaz", "Patient?_has:Encounter:patient:status=in-progress", &["Patient"]),
        ("clerk-diaz", "Encounter?patient.identifier=M1&_include=Encounter:patient", &["Encounter", "Patient"]),
        ("dr-lee", "AllergyIntolerance?patient.identifier=M1", &["AllergyIntolerance"]),
        ("dr-lee", "AllergyIntolerance?patient.identifier=M2", &[]),
        ("clerk-diaz", "AllergyIntolerance?patient.identifier=M1", &["403"]),
    ] {
        assert_eq!(types(who, query).await, expected, "{who}: {query}");
    }
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
        "/fhir/ehr/Patient/x/Condition",
        "/fhir/ehr/Patient/x/*",
        "/fhir/ehr/Patient/x/$everything",
        "/fhir/ehr/Observation/$lastn?patient=x",
        "/fhir/ehr/DocumentReference/$docref?patient=x",
        "/fhir/ehr/Patient/x/$validate",
        "/fhir/ehr/ValueSet/$expand?url=x",
        "/fhir/ehr/CodeSystem/$lookup?system=x&code=x",
        "/fhir/ehr/ConceptMap/$translate?url=x&code=x",
        "/fhir/ehr/Patient/_history",
        "/fhir/ehr/_history",
        "/admin/status",
        "/admin/journal/ehr/0",
        "/admin/set-aside/ehr",
        "/admin/audit",
        "/admin/lineage/ehr/Patient/x",
        "/admin/products",
        "/fhir/ehr/AuditEvent",
        "/fhir/governance/AuditEvent/audit-0",
        "/admin/audit/export?format=cef",
        "/admin/audit/shipping",
        "/admin/audit/status",
        "/admin/audit/who-saw/ehr/x",
        "/admin/audit/disclosures/ehr/x",
        "/admin/break-glass",
        "/admin/holds",
        "/admin/suspensions",
        "/admin/erasures",
        "/admin/erasures/1",
        "/admin/retention",
        "/admin/journal/ehr/0/message",
        "/admin/journal/ehr/0/message?phi=true",
        "/admin/journal/ehr/0/lint",
        "/admin/journal/ehr/0/diff/0?phi=true",
        "/admin/journal/ehr/size",
        "/admin/sources",
        "/admin/shadow/ehr/adt-main?day=2026-11-01",
        "/admin/worklist/ehr",
    ];
    // Each of them is closed to some caller with a role, too: a physician reads no log, a privacy officer no products.
    let posts = [
        "/admin/audit/expire",
        "/admin/break-glass",
        "/admin/break-glass/x/confirm",
        "/admin/break-glass/x/end",
        "/admin/break-glass/x/review",
        "/admin/downtime/ehr/pack",
        "/admin/downtime/ehr/card",
        "/admin/downtime/ehr/openings",
        "/admin/holds",
        "/admin/holds/1/lift",
        "/admin/suspensions",
        "/admin/suspensions/1/end",
        "/admin/erasures",
        "/admin/erasures/1/approve",
        "/admin/erasures/1/refuse",
        "/admin/erasures/finish",
        "/admin/retention",
        "/admin/journal/ehr/search",
        "/admin/journal/ehr/replay",
        "/admin/worklist/ehr/0/match",
        "/admin/worklist/ehr/0/undo",
    ];
    let local = [
        "/admin/journal/ehr/expire",
        "/admin/maintenance",
        "/admin/keys/turn",
        "/admin/keys/rotate",
        "/admin/keys/scopes/x/give-up",
    ];
    let mut https = mesh.https().await;
    for path in paths {
        for token in ["", "x.y.z"] {
            let answer = https.get(path, token).await.expect("an answer");
            assert_eq!(answer.status, 401, "{path}");
            assert!(!answer.text().contains("SecretName"));
        }
    }
    let analyst = mesh.token("ana-analyst").await;
    let headers = [("content-type", "application/json")];
    for path in posts {
        for (token, status) in [(None, 401), (Some("x.y.z"), 401), (Some(analyst.as_str()), 403)] {
            let answer = https.call(hyper::Method::POST, path, token, &headers, "{}").await.expect("an answer");
            // Break-glass and the parsing of a body come before the decision of some of them.
            let is_closed =
                answer.status == status || token == Some(analyst.as_str()) && answer.status.is_client_error();
            assert!(is_closed, "{path}: {} {}", answer.status, answer.text());
        }
    }
    for path in local {
        let operator = mesh.token("admin-root").await;
        for token in [None, Some(operator.as_str())] {
            let answer = https.call(hyper::Method::POST, path, token, &headers, "{}").await.expect("an answer");
            assert_eq!(answer.status, 403, "{path} is open to the network");
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

/// A failed audit refuses the release: the node's own data, under a gate whose only audit target fails, stays closed.
#[tokio::test(flavor = "multi_thread")]
async fn law_3_nothing_leaves_when_the_audit_cannot_be_written() {
    let folder = crate::harness::mesh_folder();
    let config = ward::config::Config::load(folder.path()).expect("the mesh folder");
    let engine = policy::Engine::load(&config.policies).expect("policies");
    let mesh = Mesh::start_in(folder).await;
    mesh.send_all("adt-main", [adt("C1", "A01", "M1", "Law").as_slice()]).await;
    mesh.settle().await;
    let bundle = mesh.get("dr-lee", "/fhir/ehr/Patient").await.json();
    let id = LogicalId::parse(bundle["entry"][0]["resource"]["id"].as_str().expect("an id")).expect("valid");

    let target = Arc::new(MemoryTarget::new("memory"));
    let (gate, caller) = gate_over(engine, target.clone()).await;
    let ehr = domain("ehr");
    let origin = gate::Origin::new("test", None, None);
    let permit = async || {
        let ask = Ask::new(Action::Read, &ehr, Layer::Silver, &origin).kind("Patient");
        gate.permit::<Read>(&caller, ask).await.expect("permitted")
    };
    let read = async |permit: &base::Permit<Read>| {
        let found =
            mesh.doors.silver.read(permit, &ehr, "Patient", &id).await.expect("the store").expect("the patient");
        let body = String::from_utf8(found.body.expose().to_vec()).expect("text");
        (found.patient.0, Held::under(permit, body))
    };
    // While the audit works the same steps give the data.
    let first = permit().await;
    let (patient, held) = read(&first).await;
    assert!(!format!("{held:?}").contains("Law"), "a held value shows itself");
    let access = Access::of(&first, Action::Read, &origin).rows(1).patients(&ehr, [patient]);
    let release = gate.release(&caller, access).await.expect("the audit works");
    assert!(held.release(release).expect("its release").contains("Law"));

    // The audit fails: no release, and a release of another access opens nothing.
    let (second, third) = (permit().await, permit().await);
    let access = Access::of(&second, Action::Read, &origin).rows(1).patients(&ehr, [patient]);
    let other = gate.release(&caller, access).await.expect("the audit still works");
    target.fail(true);
    let (patient, held) = read(&third).await;
    let access = Access::of(&third, Action::Read, &origin).rows(1).patients(&ehr, [patient]);
    let refused = gate.release(&caller, access).await.expect_err("no audit, no release");
    assert!(matches!(refused, NotReleased::Audit(_)), "{refused}");
    assert!(held.release(other).is_err(), "a release opened what it was not made for");

    // A refusal cannot be recorded either: it stays a refusal.
    let ask = Ask::new(Action::Read, &domain("laboratory"), Layer::Silver, &origin).kind("Patient");
    assert!(gate.permit::<Read>(&caller, ask).await.is_err());
    // The audit is back, and so is the data.
    target.fail(false);
    let fourth = permit().await;
    let (patient, held) = read(&fourth).await;
    let access = Access::of(&fourth, Action::Read, &origin).rows(1).patients(&ehr, [patient]);
    let release = gate.release(&caller, access).await.expect("the audit works again");
    assert!(held.release(release).is_ok());
    mesh.stop().await;
}

/// A gate of its own over the node's policies, with one audit target, and a physician of `ehr`.
async fn gate_over(engine: policy::Engine, target: Arc<MemoryTarget>) -> (Gate, Caller) {
    let entropy: Arc<dyn base::Entropy> = Arc::new(base::SystemEntropy);
    let clock: Arc<dyn base::Clock> = Arc::new(base::SystemClock);
    let keys = Arc::new(MemoryAuditKeys::new(entropy.clone()));
    let audit = AuditLog::open(keys, Targets::new(vec![target], 16)).await.expect("an audit log");
    let key = TokenIssuer::new_key().expect("a key");
    let issuer = TokenIssuer::from_pkcs8(&key, "urn:suite", "urn:suite", 3_600_000).expect("an issuer");
    let physician = base::PrincipalId::parse("dr-lee").expect("a principal");
    let directory = MemoryDirectory::default();
    directory.put(PrincipalRecord {
        domains: vec![domain("ehr")],
        training_until: Some(clock.now().plus_ms(86_400_000)),
        ..PrincipalRecord::new(physician.clone(), PrincipalKind::Person, base::Role::Physician)
    });
    let issue = Issue {
        domain: Some(domain("ehr")),
        purpose: Some(base::Purpose::Treatment),
        ..Issue::new(physician, base::Role::Physician)
    };
    let token = issuer.issue(&issue, clock.now(), &*entropy).expect("a token");
    let gate = Gate::new(GateParts {
        mint: crate::harness::mint(),
        engine,
        audit,
        patients: Arc::new(MemoryPatients::default()),
        principals: Arc::new(directory),
        tokens: TokenKeys::of(&issuer),
        clock,
        entropy,
        limits: base::Limits::default(),
    });
    let caller = gate.authenticate(Some(&token)).await.expect("a caller");
    (gate, caller)
}
