//! FHIR interactions that write or condition: patches, conditions, Bundles with all methods, against R4 §3.1.0.

use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use ward::wire::HttpAnswer;

use crate::harness::Mesh;

const FHIR: &str = "application/fhir+json";
const JSON_PATCH: &str = "application/json-patch+json";

/// A request as a client makes it.
pub async fn send(
    mesh: &Mesh,
    who: &str,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &Value,
) -> HttpAnswer {
    let token = mesh.token(who).await;
    let media = if body.is_array() { JSON_PATCH } else { FHIR };
    let all: Vec<(&str, &str)> = std::iter::once(("content-type", media)).chain(headers.iter().copied()).collect();
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    mesh.https().await.call(method, path, Some(&token), &all, body).await.expect("an answer")
}

async fn lee(mesh: &Mesh, method: Method, path: &str, body: &Value) -> HttpAnswer {
    send(mesh, "dr-lee", method, &format!("/fhir/ehr/{path}"), &[], body).await
}

pub fn patient(number: &str, family: &str) -> Value {
    json!({
        "resourceType": "Patient",
        "identifier": [{ "system": "urn:test:mrn", "value": number }],
        "name": [{ "family": family, "given": ["Ann", "Bea"] }],
        "birthDate": "1970-02-03",
    })
}

async fn created(mesh: &Mesh, path: &str, resource: &Value) -> String {
    let answer = lee(mesh, Method::POST, path, resource).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()["id"].as_str().expect("an id").to_owned()
}

fn header<'a>(answer: &'a HttpAnswer, name: &str) -> Option<&'a str> {
    answer.headers.get(name).and_then(|value| value.to_str().ok())
}

fn parameters(parts: Value) -> Value {
    json!({ "resourceType": "Parameters", "parameter": [{ "name": "operation", "part": parts }] })
}

#[tokio::test(flavor = "multi_thread")]
async fn fhir_patches_change_what_stands_and_a_replay_makes_the_same() {
    let mesh = Mesh::start().await;
    let id = created(&mesh, "Patient", &patient("P1", "Old")).await;
    let path = format!("Patient/{id}");

    let operations = json!([
        { "op": "test", "path": "/name/0/family", "value": "Old" },
        { "op": "replace", "path": "/name/0/family", "value": "New" },
        { "op": "add", "path": "/name/0/given/-", "value": "Cleo" },
        { "op": "copy", "from": "/identifier/0", "path": "/identifier/-" },
        { "op": "replace", "path": "/identifier/1/value", "value": "P1b" },
        { "op": "move", "from": "/name/0/given/0", "path": "/name/0/given/2" },
        { "op": "remove", "path": "/birthDate" },
    ]);
    let patched = lee(&mesh, Method::PATCH, &path, &operations).await;
    assert_eq!(patched.status, 200, "{}", patched.text());
    let body = patched.json();
    assert_eq!(body["name"][0], json!({ "family": "New", "given": ["Bea", "Cleo", "Ann"] }));
    assert_eq!((&body["identifier"][1]["value"], &body["birthDate"]), (&json!("P1b"), &Value::Null));
    assert_eq!(body["meta"]["versionId"], "2");
    assert_eq!(header(&patched, "etag"), Some("W/\"2\""));
    assert!(header(&patched, "location").is_some_and(|at| at.ends_with(&format!("{path}/_history/2"))));

    let operation = parameters(json!([
        { "name": "type", "valueCode": "add" },
        { "name": "path", "valueString": "Patient" },
        { "name": "name", "valueString": "contact" },
        { "name": "value", "part": [{ "name": "name", "valueHumanName": { "text": "a contact" } }] },
    ]));
    let patched = lee(&mesh, Method::PATCH, &path, &operation).await;
    assert_eq!(patched.status, 200, "{}", patched.text());
    assert_eq!(patched.json()["contact"], json!([{ "name": { "text": "a contact" } }]));

    // What fails changes nothing, and says where without the value.
    let family = json!([{ "op": "test", "path": "/name/0/family", "value": "Secretly" }]);
    let name = json!([{ "op": "replace", "path": "/name/0/family", "value": 7 }]);
    let unknown = json!([{ "op": "add", "path": "/nonsense", "value": "Secretly" }]);
    let other = json!([{ "op": "replace", "path": "/id", "value": "another" }]);
    let kind = json!([{ "op": "replace", "path": "/resourceType", "value": "Group" }]);
    let gone = json!([{ "op": "remove", "path": "/telecom/0" }]);
    for (patch, status) in [(&family, 422), (&name, 422), (&unknown, 422), (&other, 422), (&kind, 422), (&gone, 422)] {
        let refused = lee(&mesh, Method::PATCH, &path, patch).await;
        assert_eq!(refused.status, status, "{patch}: {}", refused.text());
        assert_eq!(refused.json()["resourceType"], "OperationOutcome");
        assert!(!refused.text().contains("Secretly"), "{}", refused.text());
    }
    for bad in [json!([{ "op": "spam", "path": "/x" }]), json!([]), json!({ "resourceType": "Patient" })] {
        assert_eq!(lee(&mesh, Method::PATCH, &path, &bad).await.status, 400, "{bad}");
    }
    let missing = json!([{ "op": "remove", "path": "/name" }]);
    assert_eq!(lee(&mesh, Method::PATCH, "Patient/nobody", &missing).await.status, 404);
    assert_eq!(lee(&mesh, Method::PATCH, "Nonsense/x", &missing).await.status, 404);
    let text = [("content-type", "text/plain")];
    let token = mesh.token("dr-lee").await;
    let full = format!("/fhir/ehr/{path}");
    let plain = mesh.https().await.call(Method::PATCH, &full, Some(&token), &text, "[]").await.expect("an answer");
    assert_eq!(plain.status, 415);

    // If-Match, and Prefer.
    let active = json!([{ "op": "add", "path": "/active", "value": true }]);
    let stale = send(&mesh, "dr-lee", Method::PATCH, &full, &[("if-match", "W/\"2\"")], &active).await;
    assert_eq!(stale.status, 412);
    let minimal = [("if-match", "W/\"3\""), ("prefer", "return=minimal")];
    let fresh = send(&mesh, "dr-lee", Method::PATCH, &full, &minimal, &active).await;
    assert_eq!((fresh.status.as_u16(), fresh.text().as_str(), header(&fresh, "etag")), (200, "", Some("W/\"4\"")));
    let outcome = [("prefer", "return=OperationOutcome")];
    let told = send(&mesh, "dr-lee", Method::PATCH, &full, &outcome, &active).await;
    assert_eq!(told.json()["resourceType"], "OperationOutcome");

    // A patch that would move a result to another patient is refused as an update is.
    let other = created(&mesh, "Patient", &patient("P2", "Other")).await;
    let note = json!({
        "resourceType": "Observation", "status": "final", "code": { "text": "note" },
        "subject": { "reference": path },
    });
    let note = created(&mesh, "Observation", &note).await;
    let moved = json!([{ "op": "replace", "path": "/subject/reference", "value": format!("Patient/{other}") }]);
    assert_eq!(lee(&mesh, Method::PATCH, &format!("Observation/{note}"), &moved).await.status, 409);

    // The journal holds the patches; over an empty catalog it makes the same.
    let before = lee(&mesh, Method::GET, &format!("{path}/_history"), &Value::Null).await.json();
    let folder = mesh.stop().await;
    let rebuilt = crate::harness::ward(folder.path(), &["rebuild", "catalog"]).await;
    assert!(rebuilt.status.success(), "{}", String::from_utf8_lossy(&rebuilt.stderr));
    let mesh = Mesh::start_in(folder).await;
    let after = lee(&mesh, Method::GET, &format!("{path}/_history"), &Value::Null).await.json();
    let bodies = |bundle: &Value| -> Vec<Value> {
        bundle["entry"].as_array().expect("entries").iter().map(|entry| entry["resource"].clone()).collect()
    };
    assert_eq!(bodies(&before), bodies(&after));
    assert_eq!(bodies(&after).len(), 4);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fhir_conditions_mean_none_one_or_several() {
    let mesh = Mesh::start().await;
    let (put, del, pat) = (Method::PUT, Method::DELETE, Method::PATCH);
    let one = created(&mesh, "Patient", &patient("C1", "Same")).await;
    created(&mesh, "Patient", &patient("C2", "Same")).await;

    // Update: one match, several, none, ids that do not agree (R4 §3.1.0.4.3).
    let answer = lee(&mesh, put.clone(), "Patient?identifier=C1&family=same", &patient("C1", "Changed")).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["id"]), (200, &json!(one)), "{}", answer.text());
    let mut with_id = patient("C1", "Changed");
    with_id["id"] = json!("another");
    assert_eq!(lee(&mesh, put.clone(), "Patient?identifier=C1", &with_id).await.status, 400);
    assert_eq!(lee(&mesh, put.clone(), "Patient?birthdate=1970-02-03", &patient("C1", "X")).await.status, 412);
    let made = lee(&mesh, put.clone(), "Patient?family=nobody", &patient("C3", "Third")).await;
    assert_eq!(made.status, 201, "{}", made.text());
    with_id["id"] = json!("chosen");
    let chosen = lee(&mesh, put.clone(), "Patient?family=nobody", &with_id).await;
    assert_eq!((chosen.status.as_u16(), &chosen.json()["id"]), (201, &json!("chosen")));
    assert_eq!(lee(&mesh, put.clone(), "Patient?family=nobody", &with_id).await.status, 409);
    for wrong in ["Patient", "Patient?", "Patient?nonsense=1", "Patient?identifier=C1&_sort=family", "Patient?_count=1"]
    {
        let refused = lee(&mesh, put.clone(), wrong, &patient("C1", "X")).await;
        assert_eq!(refused.status, 400, "{wrong}: {}", refused.text());
    }

    // Create, by any criteria.
    let again = |criteria: &'static str| {
        let mesh = &mesh;
        async move {
            let headers = [("if-none-exist", criteria)];
            send(mesh, "dr-lee", Method::POST, "/fhir/ehr/Patient", &headers, &patient("C4", "Fourth")).await
        }
    };
    let first = again("family=Fourth&birthdate=1970-02-03").await;
    let second = again("family=Fourth&birthdate=1970-02-03").await;
    assert_eq!((first.status.as_u16(), second.status.as_u16()), (201, 200));
    assert_eq!(first.json()["id"], second.json()["id"], "{}", second.text());
    assert_eq!(again("birthdate=1970-02-03").await.status, 412);
    assert_eq!(again("identifier=C4").await.status, 200, "without a system any will do");
    assert_eq!(again("identifier=|C4").await.status, 201, "this is about no system");

    // Patch and delete; chains too.
    let fourth = first.json()["id"].as_str().expect("an id").to_owned();
    let note = json!({
        "resourceType": "Observation", "status": "final", "code": { "text": "note" },
        "subject": { "reference": format!("Patient/{fourth}") },
    });
    let note = created(&mesh, "Observation", &note).await;
    let amended = json!([{ "op": "replace", "path": "/status", "value": "amended" }]);
    let chained = format!("Observation?subject:Patient.family=Fourth&status=final&subject:Patient._id={fourth}");
    let answer = lee(&mesh, pat.clone(), &chained, &amended).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["id"]), (200, &json!(note)), "{}", answer.text());
    assert_eq!(lee(&mesh, pat.clone(), &chained, &amended).await.status, 404, "it is not final any more");
    assert_eq!(lee(&mesh, pat, "Patient?birthdate=1970-02-03", &amended).await.status, 412);
    assert_eq!(lee(&mesh, del.clone(), "Patient?birthdate=1970-02-03", &Value::Null).await.status, 412);
    assert_eq!(lee(&mesh, del.clone(), "Patient?family=nobody", &Value::Null).await.status, 204);
    assert_eq!(lee(&mesh, del.clone(), "Observation?status=amended", &Value::Null).await.status, 204);
    assert_eq!(lee(&mesh, Method::GET, &format!("Observation/{note}"), &Value::Null).await.status, 410);
    assert_eq!(lee(&mesh, del, "Observation", &Value::Null).await.status, 400);

    // References of a transaction, by whatever criteria; none or several are refused, and all with it.
    let bundle = |reference: &str| {
        json!({ "resourceType": "Bundle", "type": "transaction", "entry": [{
            "resource": { "resourceType": "Observation", "status": "final", "code": { "text": "by condition" },
                "subject": { "reference": reference } },
            "request": { "method": "POST", "url": "Observation" } }] })
    };
    let found = lee(&mesh, Method::POST, "", &bundle("Patient?family=Changed&birthdate=1970")).await;
    assert_eq!(found.status, 200, "{}", found.text());
    let at = found.json()["entry"][0]["response"]["location"].as_str().expect("a location").to_owned();
    let read = lee(&mesh, Method::GET, at.split("/_history").next().unwrap_or_default(), &Value::Null).await.json();
    let subject = read["subject"]["reference"].as_str().unwrap_or_default();
    assert!(subject.starts_with("Patient/") && !subject.contains('?'), "{subject}");
    assert_eq!(lee(&mesh, Method::POST, "", &bundle("Patient?birthdate=1970-02-03")).await.status, 412);
    assert_eq!(lee(&mesh, Method::POST, "", &bundle("Patient?family=nobody")).await.status, 412);

    // Equal conditional creates in one batch make one; in a transaction they are refused.
    let twice = |kind: &str| {
        let entry = json!({ "resource": patient("C9", "Ninth"),
            "request": { "method": "POST", "url": "Patient", "ifNoneExist": "family=Ninth" } });
        json!({ "resourceType": "Bundle", "type": kind, "entry": [entry, entry] })
    };
    assert_eq!(lee(&mesh, Method::POST, "", &twice("transaction")).await.status, 400);
    let answer = lee(&mesh, Method::POST, "", &twice("batch")).await.json();
    let status = |n: usize| answer["entry"][n]["response"]["status"].as_str().unwrap_or_default().to_owned();
    assert_eq!((status(0).as_str(), status(1).as_str()), ("201 Created", "200 OK"));
    mesh.stop().await;
}

/// 64 clients at once, by what only the index answers.
#[tokio::test(flavor = "multi_thread")]
async fn fhir_equal_conditional_creates_at_once_make_one_resource() {
    let mesh = Mesh::start().await;
    let token = mesh.token("dr-lee").await;
    for criteria in ["family=Only&birthdate=1970-02-03", "identifier=urn:test:mrn%7CZ1"] {
        let headers = [("content-type", FHIR), ("if-none-exist", criteria)];
        let number = if criteria.starts_with("family") { "Y1" } else { "Z1" };
        let body = patient(number, if number == "Y1" { "Only" } else { "Else" }).to_string();
        let calls = (0..64).map(|_| async {
            let mut https = mesh.https().await;
            let answer = https.call(Method::POST, "/fhir/ehr/Patient", Some(&token), &headers, body.clone()).await;
            let answer = answer.expect("an answer");
            (answer.status.as_u16(), answer.json()["id"].as_str().unwrap_or_default().to_owned())
        });
        let answers = futures::future::join_all(calls).await;
        let made = answers.iter().filter(|(status, _)| *status == 201).count();
        assert_eq!(made, 1, "{criteria}: {answers:?}");
        assert!(answers.iter().all(|(status, id)| (*status == 201 || *status == 200) && *id == answers[0].1));
        let found = mesh.get("dr-lee", &format!("/fhir/ehr/Patient?identifier={number}")).await.json();
        assert_eq!(found["entry"].as_array().map(Vec::len), Some(1), "{found}");
    }
    mesh.stop().await;
}

/// A restricted patient is not there for whoever does not reach it: not by a condition, a patch, a Bundle or a reference.
#[tokio::test(flavor = "multi_thread")]
async fn law_3_conditions_and_patches_tell_and_touch_nothing_out_of_reach() {
    let mesh = Mesh::start().await;
    let mut hidden = patient("H1", "Hidden");
    hidden["meta"] = json!({ "security": [
        { "system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "R" }] });
    let posted = mesh.post_fhir("bedside-gateway", "/fhir/ehr/Patient", &hidden).await;
    assert_eq!(posted.status, 201, "{}", posted.text());
    let id = posted.json()["id"].as_str().expect("an id").to_owned();
    let note = json!({ "resourceType": "Observation", "status": "final", "code": { "text": "hidden note" },
        "subject": { "reference": format!("Patient/{id}") } });
    let posted = mesh.post_fhir("bedside-gateway", "/fhir/ehr/Observation", &note).await;
    let note_id = posted.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(mesh.get("dr-lee", &format!("/fhir/ehr/Patient/{id}")).await.status, 404, "it is out of reach");

    let active = json!([{ "op": "add", "path": "/active", "value": false }]);
    let probe = json!([{ "op": "test", "path": "/birthDate", "value": "1970-02-03" }]);
    let amended = json!([{ "op": "replace", "path": "/status", "value": "amended" }]);
    let patch = Method::PATCH;
    for (path, body) in [
        (format!("Patient/{id}"), &active),
        (format!("Patient/{id}"), &probe),
        ("Patient?identifier=urn:test:mrn|H1".to_owned(), &active),
        ("Patient?family=Hidden".to_owned(), &active),
        (format!("Patient?_id={id}"), &active),
        (format!("Observation/{note_id}"), &amended),
        ("Observation?subject:Patient.family=Hidden".to_owned(), &amended),
        (format!("Observation?patient={id}"), &amended),
    ] {
        let path = path.replace('|', "%7C");
        let answer = lee(&mesh, patch.clone(), &path, body).await;
        assert_eq!(answer.status, 404, "{path}: {}", answer.text());
        assert!(!answer.text().contains("Hidden"));
    }
    for path in ["Patient?family=Hidden", "Observation?subject:Patient.family=Hidden"] {
        assert_eq!(lee(&mesh, Method::DELETE, path, &Value::Null).await.status, 204, "as if nothing was there");
    }
    // A condition does not find it either, whatever it is for.
    let headers = [("if-none-exist", "identifier=urn:test:mrn%7CH1")];
    let answer = send(&mesh, "dr-lee", Method::POST, "/fhir/ehr/Patient", &headers, &patient("H1", "Own")).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_ne!(answer.json()["id"], json!(id));
    let answer = lee(&mesh, Method::PUT, "Patient?family=Hidden", &patient("H2", "Own")).await;
    assert_eq!(answer.status, 201, "{}", answer.text());

    // Nor by way of a Bundle.
    let entry = |method: &str, url: &str, resource: Value| {
        let mut entry = json!({ "request": { "method": method, "url": url } });
        if !resource.is_null() {
            entry["resource"] = resource;
        }
        entry
    };
    let mut taken = patient("H3", "Taken");
    taken["id"] = json!(id);
    let data = "W3sib3AiOiJyZW1vdmUiLCJwYXRoIjoiL2JpcnRoRGF0ZSJ9XQ==";
    let binary = json!({ "resourceType": "Binary", "contentType": JSON_PATCH, "data": data });
    let by_condition = json!({ "resourceType": "Observation", "status": "final", "code": { "text": "x" },
        "subject": { "reference": "Patient?family=Hidden" } });
    for (kind, entry) in [
        ("batch", entry("PUT", &format!("Patient/{id}"), taken)),
        ("batch", entry("PATCH", &format!("Patient/{id}"), binary.clone())),
        ("transaction", entry("PATCH", "Patient?family=Hidden", binary)),
        ("batch", entry("DELETE", &format!("Patient/{id}"), Value::Null)),
        ("transaction", entry("POST", "Observation", by_condition)),
    ] {
        let bundle = json!({ "resourceType": "Bundle", "type": kind, "entry": [entry] });
        let answer = lee(&mesh, Method::POST, "", &bundle).await;
        let told = answer.json();
        let inner = told["entry"][0]["response"]["status"].as_str().unwrap_or("none").to_owned();
        let refused = !answer.status.is_success() || inner.starts_with('4');
        assert!(refused && !answer.text().contains("Hidden"), "{bundle}: {} {}", answer.status, answer.text());
    }
    // Nothing of it changed.
    let caller = mesh.doors.gate.node_permit::<base::Read>("test", &crate::harness::domain("ehr"), base::Layer::Silver);
    let ehr = crate::harness::domain("ehr");
    let permit = caller.expect("a permit of the node");
    for (rtype, id) in [("Patient", &id), ("Observation", &note_id)] {
        let id = base::LogicalId::parse(id).expect("an id");
        let found = mesh.doors.silver.read(&permit, &ehr, rtype, &id).await.expect("the store").expect("it is there");
        assert_eq!((found.version, found.deleted), (1, false), "{rtype}");
    }

    // Who may not read a type learns nothing of it by conditions or patches.
    let clerk = |method, path: &'static str, body: Value| {
        let mesh = &mesh;
        async move { send(mesh, "clerk-diaz", method, &format!("/fhir/ehr/{path}"), &[], &body).await.status.as_u16() }
    };
    assert_eq!(clerk(Method::PUT, "Observation?status=final", note.clone()).await, 403);
    assert_eq!(clerk(Method::PATCH, "Observation?status=final", amended.clone()).await, 403);
    assert_eq!(clerk(Method::DELETE, "Patient?_has:Observation:patient:status=final", Value::Null).await, 403);
    // Without a token nothing at all.
    let path = "/fhir/ehr/Patient?family=Own";
    let stranger = mesh.https().await.call(Method::PATCH, path, None, &[("content-type", JSON_PATCH)], "[]").await;
    assert_eq!(stranger.expect("an answer").status, 401);
    mesh.stop().await;
}
