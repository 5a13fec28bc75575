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
    let path = format!("/fhir/ehr/{path}");
    send(mesh, "dr-lee", method, path.trim_end_matches('/'), &[], body).await
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
    let found = lee(&mesh, Method::POST, "", &bundle("Patient?family=Third&birthdate=1970")).await;
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
        let refused = matches!(answer.status.as_u16(), 403 | 404 | 412) || inner.starts_with("404");
        assert!(refused && !answer.text().contains("Hidden"), "{bundle}: {} {}", answer.status, answer.text());
    }
    // Nothing of it changed.
    let caller =
        mesh.doors.gate.node_permit::<base::Read>("refine", &crate::harness::domain("ehr"), base::Layer::Silver);
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

fn entry(method: &str, url: &str, resource: Value) -> Value {
    let mut entry = json!({ "request": { "method": method, "url": url } });
    if !resource.is_null() {
        entry["resource"] = resource;
    }
    entry
}

fn bundle(kind: &str, entries: &[Value]) -> Value {
    json!({ "resourceType": "Bundle", "type": kind, "entry": entries })
}

fn statuses(answer: &Value) -> Vec<String> {
    let entries = answer["entry"].as_array().expect("entries").iter();
    entries
        .map(|e| e["response"]["status"].as_str().unwrap_or("none").split(' ').next().unwrap_or("").to_owned())
        .collect()
}

/// How often the audit log says that someone did this and was shown this patient.
async fn seen(mesh: &Mesh, patient: &str, what: &str) -> usize {
    let token = mesh.token("privacy-osei").await;
    let path = format!("/admin/audit/who-saw/ehr/{patient}");
    let answer = mesh.client.get(&path, Some(&token)).await.expect("an answer");
    let accesses = answer["accesses"].as_array().cloned().unwrap_or_default();
    accesses.iter().filter(|access| access["what"].as_str() == Some(what)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn fhir_bundles_take_every_method_in_the_specifications_order() {
    let mesh = Mesh::start().await;
    let old = created(&mesh, "Patient", &patient("B1", "Bundled")).await;
    let gone = created(&mesh, "Organization", &json!({ "resourceType": "Organization", "name": "Gone" })).await;
    // [{"op":"remove","path":"/birthDate"}]
    let data = "W3sib3AiOiJyZW1vdmUiLCJwYXRoIjoiL2JpcnRoRGF0ZSJ9XQ==";
    let binary = json!({ "resourceType": "Binary", "contentType": JSON_PATCH, "data": data });
    let parameters = parameters(json!([
        { "name": "type", "valueCode": "add" },
        { "name": "path", "valueString": "Patient" },
        { "name": "name", "valueString": "generalPractitioner" },
        { "name": "value", "valueReference": { "reference": "urn:uuid:new" } },
    ]));
    let organization = json!({ "resourceType": "Organization", "name": "New" });
    let mut made = entry("POST", "Organization", organization);
    made["fullUrl"] = json!("urn:uuid:new");
    let mut stale = entry("PATCH", &format!("Patient/{old}"), binary.clone());
    stale["request"]["ifMatch"] = json!("W/\"7\"");
    let mut known = entry("GET", &format!("Patient/{old}"), Value::Null);
    known["request"]["ifNoneMatch"] = json!("W/\"2\"");

    // The reads stand first and see what the rest did.
    let before = seen(&mesh, &old, "read Patient").await;
    let transaction = bundle(
        "transaction",
        &[
            entry("GET", &format!("Patient/{old}"), Value::Null),
            entry("GET", "Organization?name=New", Value::Null),
            entry("GET", &format!("Organization/{gone}"), Value::Null),
            known,
            entry("PATCH", "Patient?identifier=urn:test:mrn|B1", parameters),
            made,
            entry("DELETE", &format!("Organization/{gone}"), Value::Null),
            entry("HEAD", &format!("Patient/{old}/_history/1"), Value::Null),
            entry("GET", &format!("Patient/{old}/_history?_count=1"), Value::Null),
        ],
    );
    let answer = lee(&mesh, Method::POST, "", &transaction).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let told = answer.json();
    assert_eq!(told["type"], "transaction-response");
    assert_eq!(statuses(&told), ["200", "200", "410", "304", "200", "201", "204", "200", "200"], "{told}");
    let entries = told["entry"].as_array().expect("entries");
    let organization = entries[1]["resource"]["entry"][0]["resource"]["id"].as_str().expect("it was made");
    assert_eq!(entries[0]["resource"]["generalPractitioner"][0]["reference"], format!("Organization/{organization}"));
    assert_eq!((&entries[0]["response"]["etag"], &entries[3]["resource"]), (&json!("W/\"2\""), &Value::Null));
    assert_eq!(entries[7]["resource"], Value::Null, "HEAD");
    assert_eq!(entries[8]["resource"]["entry"].as_array().map(Vec::len), Some(1));
    assert_eq!(seen(&mesh, &old, "read Patient").await, before + 2, "each read has its own record");

    // All or nothing: a patch that fails takes the rest with it, and nothing is read.
    let failing = bundle(
        "transaction",
        &[
            entry("POST", "Patient", patient("B3", "Never")),
            stale.clone(),
            entry("GET", &format!("Patient/{old}"), Value::Null),
        ],
    );
    let refused = lee(&mesh, Method::POST, "", &failing).await;
    assert_eq!(refused.status, 412, "{}", refused.text());
    assert_eq!(mesh.get("dr-lee", "/fhir/ehr/Patient?family=Never").await.json()["entry"], Value::Null);
    let seen_before = seen(&mesh, &old, "read Patient").await;
    assert_eq!(seen_before, before + 2);

    // A batch: each by itself.
    let batch = bundle(
        "batch",
        &[
            stale,
            entry("PATCH", &format!("Patient/{old}"), binary),
            entry("PATCH", &format!("Patient/{old}"), json!({ "resourceType": "Binary", "contentType": "text/plain" })),
            entry("GET", &format!("Patient/{old}"), Value::Null),
            entry("GET", "Patient?nonsense=1", Value::Null),
            entry("GET", "Nonsense/1", Value::Null),
            entry("GET", "AuditEvent", Value::Null),
            entry("POST", "Patient", patient("B4", "Fourth")),
        ],
    );
    let told = lee(&mesh, Method::POST, "", &batch).await.json();
    assert_eq!(statuses(&told), ["412", "200", "400", "200", "400", "400", "400", "201"], "{told}");
    assert_eq!(told["entry"][3]["resource"]["birthDate"], Value::Null);

    // Reads alone are not journalled; in a transaction one without a right refuses all before anything is written.
    let journal = || mesh.doors.domains[&crate::harness::domain("ehr")].intake.journal().log().size();
    let size = journal();
    let reads = bundle("batch", &[entry("GET", &format!("Patient/{old}"), Value::Null)]);
    let told = lee(&mesh, Method::POST, "", &reads).await.json();
    assert_eq!((told["type"].as_str(), statuses(&told)), (Some("batch-response"), vec!["200".to_owned()]));
    let mixed =
        [entry("POST", "Patient", patient("B5", "Never")), entry("GET", "Observation?status=final", Value::Null)];
    let clerk = send(&mesh, "clerk-diaz", Method::POST, "/fhir/ehr", &[], &bundle("transaction", &mixed)).await;
    assert_eq!(clerk.status, 403, "{}", clerk.text());
    assert_eq!(journal(), size);
    let clerk = send(&mesh, "clerk-diaz", Method::POST, "/fhir/ehr", &[], &bundle("batch", &mixed)).await;
    assert_eq!(statuses(&clerk.json()), ["201", "403"], "{}", clerk.text());
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fhir_reads_are_not_sent_again_to_who_has_them() {
    let mesh = Mesh::start().await;
    let id = created(&mesh, "Patient", &patient("R1", "Read")).await;
    let path = format!("/fhir/ehr/Patient/{id}");
    let first = mesh.get("dr-lee", &path).await;
    let modified = header(&first, "last-modified").expect("a date").to_owned();
    let get = |name: &'static str, value: String| {
        let (mesh, path) = (&mesh, path.clone());
        async move {
            let answer = send(mesh, "dr-lee", Method::GET, &path, &[(name, value.as_str())], &Value::Null).await;
            (answer.status.as_u16(), answer.text().is_empty(), header(&answer, "etag").map(str::to_owned))
        }
    };
    let tag = || Some("W/\"1\"".to_owned());
    assert_eq!(get("if-none-match", "W/\"1\"".into()).await, (304, true, tag()));
    assert_eq!(get("if-none-match", "W/\"2\"".into()).await, (200, false, tag()));
    assert_eq!(get("if-modified-since", modified).await, (304, true, tag()));
    assert_eq!(get("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT".into()).await, (200, false, tag()));
    assert_eq!(seen(&mesh, &id, "read Patient").await, 5, "what was not sent again was asked for, too");
    mesh.stop().await;
}

/// Follows `next` until there is none; `(type/id, version, method)` of each entry.
async fn whole_history(mesh: &Mesh, who: &str, path: &str) -> Vec<(String, String, String)> {
    let (mut at, mut all) = (path.to_owned(), Vec::new());
    loop {
        let answer = mesh.get(who, &at).await;
        assert_eq!(answer.status, 200, "{at}: {}", answer.text());
        let page = answer.json();
        for entry in page["entry"].as_array().into_iter().flatten() {
            let url = entry["fullUrl"].as_str().expect("a URL").rsplit("/ehr/").next().unwrap_or_default().to_owned();
            let (tag, method) = (entry["response"]["etag"].as_str(), entry["request"]["method"].as_str());
            assert_eq!(entry.get("resource").is_none(), method == Some("DELETE"));
            all.push((url, tag.unwrap_or_default().to_owned(), method.unwrap_or_default().to_owned()));
        }
        let next = page["link"].as_array().into_iter().flatten().find(|link| link["relation"] == "next");
        match next.and_then(|link| link["url"].as_str()) {
            Some(url) => at = url[url.find("/fhir/").expect("a path")..].to_owned(),
            None => return all,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fhir_histories_are_whole_newest_first_and_of_the_covered_alone() {
    let mesh = Mesh::start().await;
    let organization = |name: &str| json!({ "resourceType": "Organization", "name": name });
    let one = created(&mesh, "Organization", &organization("One")).await;
    let active = json!([{ "op": "add", "path": "/active", "value": true }]);
    assert_eq!(lee(&mesh, Method::PATCH, &format!("Organization/{one}"), &active).await.status, 200);
    let person = created(&mesh, "Patient", &patient("H1", "One")).await;
    let two = created(&mesh, "Organization", &organization("Two")).await;
    assert_eq!(lee(&mesh, Method::DELETE, &format!("Organization/{two}"), &Value::Null).await.status, 204);
    let row = |rtype: &str, id: &str, version: u32, method: &str| {
        (format!("{rtype}/{id}"), format!("W/\"{version}\""), method.to_owned())
    };
    let of_type = [
        row("Organization", &two, 2, "DELETE"),
        row("Organization", &two, 1, "POST"),
        row("Organization", &one, 2, "PUT"),
        row("Organization", &one, 1, "POST"),
    ];
    for count in [1, 3, 100] {
        let path = format!("/fhir/ehr/Organization/_history?_count={count}");
        assert_eq!(whole_history(&mesh, "dr-lee", &path).await, of_type, "{count}");
    }
    let mut all = of_type.to_vec();
    all.insert(2, row("Patient", &person, 1, "POST"));
    assert_eq!(whole_history(&mesh, "dr-lee", "/fhir/ehr/_history?_count=2").await, all);
    let path = format!("/fhir/ehr/Organization/{one}/_history?_count=1");
    assert_eq!(whole_history(&mesh, "dr-lee", &path).await, of_type[2..]);

    // Since when, and pages that stay as they were while others write.
    let then = mesh.get("dr-lee", &format!("/fhir/ehr/Organization/{two}/_history/1")).await.json();
    let since = then["meta"]["lastUpdated"].as_str().expect("a time").to_owned();
    let recent = whole_history(&mesh, "dr-lee", &format!("/fhir/ehr/Organization/_history?_since={since}")).await;
    assert_eq!(recent, of_type[..2]);
    let future = whole_history(&mesh, "dr-lee", "/fhir/ehr/_history?_since=2999-01-01T00:00:00Z").await;
    assert!(future.is_empty());
    let page = mesh.get("dr-lee", "/fhir/ehr/Organization/_history?_count=2").await.json();
    created(&mesh, "Organization", &organization("Three")).await;
    let next = page["link"].as_array().expect("links").iter().find(|link| link["relation"] == "next").expect("a next");
    let next = next["url"].as_str().expect("a URL");
    let next = &next[next.find("/fhir/").expect("a path")..];
    assert_eq!(whole_history(&mesh, "dr-lee", next).await, of_type[2..]);

    // A link is the caller's own, and for its own history; what is restricted is not there.
    assert_eq!(mesh.get("nurse-kim", next).await.status, 400);
    assert_eq!(mesh.get("dr-lee", &next.replace("/Organization/", "/Patient/")).await.status, 400);
    let mut hidden = patient("H4", "Hidden");
    hidden["meta"] = json!({ "security": [
        { "system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "R" }] });
    assert_eq!(mesh.post_fhir("bedside-gateway", "/fhir/ehr/Patient", &hidden).await.status, 201);
    for path in ["/fhir/ehr/_history", "/fhir/ehr/Patient/_history"] {
        let answer = mesh.get("dr-lee", path).await;
        assert!(answer.status == 200 && !answer.text().contains("Hidden"), "{path}");
        // A total is what the caller sees, never what there is.
        assert!(answer.json()["total"].as_u64().is_none_or(|total| total as usize == whole(&answer)), "{path}");
    }
    // Who may read some types may not ask for the history of all, and none without a token.
    assert_eq!(mesh.get("clerk-diaz", "/fhir/ehr/_history").await.status, 403);
    assert_eq!(mesh.get("clerk-diaz", "/fhir/ehr/Observation/_history").await.status, 403);
    assert_eq!(mesh.get("clerk-diaz", "/fhir/ehr/Patient/_history").await.status, 200);
    for wrong in ["_at=2026", "_since=yesterday", "_count=x", "nonsense=1", "_before=3", "_cursor=x"] {
        assert_eq!(mesh.get("dr-lee", &format!("/fhir/ehr/_history?{wrong}")).await.status, 400, "{wrong}");
    }
    assert!(seen(&mesh, &person, "history of all types").await >= 1);
    mesh.stop().await;
}

/// Entries of an answer.
fn whole(answer: &HttpAnswer) -> usize {
    answer.json()["entry"].as_array().map_or(0, Vec::len)
}

#[tokio::test(flavor = "multi_thread")]
async fn fhir_a_key_gives_its_callers_first_answer_again_and_stands_for_one_content() {
    let mesh = Mesh::start().await;
    let post = async |mesh: &Mesh, who: &str, name: &str, key: &str, body: &Value| {
        let answer = send(mesh, who, Method::POST, "/fhir/ehr/Patient", &[(name, key)], body).await;
        let repeated = header(&answer, "x-repeated-answer") == Some("true");
        (answer.status.as_u16(), answer.json()["id"].as_str().unwrap_or_default().to_owned(), repeated)
    };
    let (one, other) = (patient("K1", "Keyed"), patient("K2", "Keyed"));
    let first = post(&mesh, "dr-lee", "idempotency-key", "key-1", &one).await;
    assert_eq!((first.0, first.2), (201, false));
    let again = (201, first.1.clone(), true);
    assert_eq!(post(&mesh, "dr-lee", "idempotency-key", "key-1", &one).await, again);
    assert_eq!(post(&mesh, "dr-lee", "x-request-id", "key-1", &one).await, again);
    assert_eq!(post(&mesh, "dr-lee", "idempotency-key", "key-1", &other).await.0, 422);
    let colleague = post(&mesh, "nurse-kim", "idempotency-key", "key-1", &one).await;
    assert_eq!((colleague.0, colleague.2), (201, false), "a key is its caller's own");
    assert_ne!(colleague.1, first.1);
    assert_eq!(post(&mesh, "dr-lee", "idempotency-key", &"k".repeat(201), &one).await.0, 400);

    // Over a restart, too.
    let mesh = Mesh::start_in(mesh.stop().await).await;
    assert_eq!(post(&mesh, "dr-lee", "idempotency-key", "key-1", &one).await, again);
    assert_eq!(post(&mesh, "dr-lee", "idempotency-key", "key-1", &other).await.0, 422);
    mesh.stop().await;
}
