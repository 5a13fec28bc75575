//! Compartments and operations of the FHIR door, over the network: what they gather, what they never show, what is on
//! record of them.

use std::collections::BTreeSet;

use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};

use crate::harness::Mesh;

const LOINC: &str = "http://loinc.org";

/// Two patients of one hospital. The second took part in an observation of hers by the first, and is the focus of one.
fn two_patients() -> Value {
    let coded = |code: &str| json!({"coding": [{"system": LOINC, "code": code}]});
    let observation = |id: &str, of: &str, code: &str, at: &str| {
        json!({"resourceType": "Observation", "id": id, "status": "final", "code": coded(code), "effectiveDateTime": at,
            "subject": {"reference": format!("Patient/{of}")},
            "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category",
                "code": "vital-signs"}]}]})
    };
    let with = |mut resource: Value, more: Value| {
        for (name, value) in more.as_object().expect("an object") {
            resource[name] = value.clone();
        }
        resource
    };
    let restricted =
        json!({"security": [{"system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "R"}]});
    let resources = [
        json!({"resourceType": "Organization", "id": "o1", "name": "General"}),
        json!({"resourceType": "Practitioner", "id": "d1", "name": [{"family": "Lee"}]}),
        json!({"resourceType": "PractitionerRole", "id": "dr1", "practitioner": {"reference": "Practitioner/d1"}}),
        json!({"resourceType": "Medication", "id": "md1", "code": coded("m")}),
        json!({"resourceType": "Patient", "id": "p1", "name": [{"family": "One"}]}),
        json!({"resourceType": "Patient", "id": "p2", "name": [{"family": "SecretTwo"}]}),
        json!({"resourceType": "Encounter", "id": "e1", "status": "finished", "class": {"code": "AMB"},
            "subject": {"reference": "Patient/p1"}, "serviceProvider": {"reference": "Organization/o1"},
            "period": {"start": "2023-12-30", "end": "2024-01-02"}}),
        json!({"resourceType": "Condition", "id": "c1", "code": coded("c"), "subject": {"reference": "Patient/p1"},
            "encounter": {"reference": "Encounter/e1"}, "onsetDateTime": "2020-05-05"}),
        json!({"resourceType": "Condition", "id": "c2", "meta": restricted, "code": coded("hidden"),
            "subject": {"reference": "Patient/p1"}, "encounter": {"reference": "Encounter/e1"}}),
        with(
            observation("ob1", "p1", "8480-6", "2024-01-01"),
            json!({
            "encounter": {"reference": "Encounter/e1"}, "performer": [{"reference": "PractitionerRole/dr1"}]}),
        ),
        with(observation("ob2", "p1", "8480-6", "2025-01-01"), json!({"focus": [{"reference": "Patient/p2"}]})),
        observation("ob4", "p1", "8462-4", "2022-01-01"),
        with(observation("ob3", "p2", "8480-6", "2025-02-02"), json!({"performer": [{"reference": "Patient/p1"}]})),
        json!({"resourceType": "MedicationRequest", "id": "m1", "status": "active", "intent": "order",
            "subject": {"reference": "Patient/p1"}, "medicationReference": {"reference": "Medication/md1"}}),
        json!({"resourceType": "DocumentReference", "id": "doc1", "status": "current", "date": "2024-03-01T00:00:00Z",
            "subject": {"reference": "Patient/p1"}, "type": coded("34133-9"),
            "content": [{"attachment": {"contentType": "text/plain", "data": "eA=="}}],
            "context": {"period": {"start": "2021-01-01", "end": "2021-12-31"}}}),
        json!({"resourceType": "DocumentReference", "id": "doc2", "status": "current", "date": "2022-03-01T00:00:00Z",
            "subject": {"reference": "Patient/p1"}, "type": coded("11506-3"),
            "content": [{"attachment": {"contentType": "text/plain", "data": "eA=="}}]}),
    ];
    let entry = |resource: &Value| {
        let url = format!("{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
        json!({"resource": resource, "request": {"method": "PUT", "url": url}})
    };
    json!({"resourceType": "Bundle", "type": "transaction", "entry": resources.iter().map(entry).collect::<Vec<_>>()})
}

async fn start() -> Mesh {
    let mesh = Mesh::start().await;
    let answer = mesh.post_fhir("bedside-gateway", "/fhir/ehr", &two_patients()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    mesh.settle().await;
    mesh
}

async fn json_of(mesh: &Mesh, who: &str, path: &str) -> Value {
    let answer = mesh.get(who, &format!("/fhir/ehr/{path}")).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

async fn status_of(mesh: &Mesh, who: &str, path: &str) -> u16 {
    mesh.get(who, &format!("/fhir/ehr/{path}")).await.status.as_u16()
}

/// Ids of the entries, of one mode or of all.
fn ids(bundle: &Value, mode: Option<&str>) -> BTreeSet<String> {
    let entries = bundle["entry"].as_array().into_iter().flatten();
    let wanted = entries.filter(|entry| mode.is_none_or(|mode| entry["search"]["mode"] == mode));
    wanted.map(|entry| entry["resource"]["id"].as_str().expect("an id").to_owned()).collect()
}

fn set(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

/// Where the `next` link leads, below the domain's base.
fn next(bundle: &Value) -> Option<String> {
    let links = bundle["link"].as_array().into_iter().flatten();
    let next = links.into_iter().find(|link| link["relation"] == "next")?["url"].as_str()?;
    Some(next.split_once("/fhir/ehr/").expect("a link of this domain").1.to_owned())
}

/// The matches of all pages, each seen once.
async fn all_pages(mesh: &Mesh, who: &str, path: &str) -> Vec<String> {
    let mut seen = Vec::new();
    let mut path = Some(path.to_owned());
    while let Some(at) = path {
        let page = json_of(mesh, who, &at).await;
        seen.extend(ids(&page, Some("match")));
        path = next(&page);
        assert!(seen.len() < 100, "pages without end");
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_search_in_compartments() {
    let mesh = start().await;
    for (path, want) in [
        ("Patient/p1/Condition", set(&["c1"])),
        ("Patient/p1/Observation", set(&["ob1", "ob2", "ob3", "ob4"])),
        ("Patient/p1/Observation?code=8462-4", set(&["ob4"])),
        ("Patient/p2/Observation", set(&["ob3"])),
        ("Patient/p2/Condition", set(&[])),
        ("Patient/nobody/Observation", set(&[])),
        ("Patient/p1/Patient", set(&["p1"])),
        ("Encounter/e1/Observation", set(&["ob1"])),
        ("Encounter/e1/Encounter", set(&["e1"])),
        ("Encounter/e1/*", set(&["e1", "c1", "ob1"])),
        ("Patient/p1/*?_type=Condition,MedicationRequest", set(&["c1", "m1"])),
    ] {
        assert_eq!(ids(&json_of(&mesh, "dr-lee", path).await, Some("match")), want, "{path}");
    }
    let all = set(&["p1", "e1", "c1", "ob1", "ob2", "ob3", "ob4", "m1", "doc1", "doc2"]);
    let paged = all_pages(&mesh, "dr-lee", "Patient/p1/*?_count=3").await;
    assert_eq!((paged.len(), paged.into_iter().collect::<BTreeSet<_>>()), (all.len(), all.clone()));
    let total = json_of(&mesh, "dr-lee", "Patient/p1/*?_count=1&_total=accurate").await;
    assert_eq!(total["total"], all.len());
    let paged = all_pages(&mesh, "dr-lee", "Patient/p1/Observation?_count=2&_sort=date").await;
    assert_eq!(paged.len(), 4);

    let token = mesh.token("dr-lee").await;
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let path = "/fhir/ehr/Patient/p1/Observation/_search";
    let posted = mesh.https().await.call(Method::POST, path, Some(&token), &headers, Bytes::from("code=8462-4")).await;
    assert_eq!(ids(&posted.expect("an answer").json(), None), set(&["ob4"]));

    // Types outside, compartments that are not served, criteria that not every type has.
    for (path, status) in [
        ("Patient/p1/Organization", 404),
        ("Practitioner/d1/Observation", 404),
        ("Patient/p1/AuditEvent", 404),
        ("Patient/p1/Nothing", 404),
        ("Patient/p1/*?code=x", 400),
        ("Patient/p1/Observation?nothing=x", 400),
    ] {
        assert_eq!(status_of(&mesh, "dr-lee", path).await, status, "{path}");
    }
    // A registration clerk may see visits and no findings.
    assert_eq!(ids(&json_of(&mesh, "clerk-diaz", "Patient/p1/*").await, None), set(&["p1", "e1"]));
    assert_eq!(status_of(&mesh, "clerk-diaz", "Patient/p1/Observation").await, 403);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_give_everything_of_one_and_nothing_of_another() {
    let mesh = start().await;
    let whole = json_of(&mesh, "dr-lee", "Patient/p1/$everything").await;
    let own = set(&["p1", "e1", "c1", "ob1", "ob2", "ob4", "m1", "doc1", "doc2"]);
    assert_eq!(ids(&whole, Some("match")), own, "restricted findings and those of another stay out");
    assert_eq!(ids(&whole, Some("include")), set(&["o1", "dr1", "d1", "md1"]));
    assert_eq!((whole["entry"][0]["resource"]["id"].as_str(), &whole["total"]), (Some("p1"), &json!(own.len())));
    assert!(!whole.to_string().contains("SecretTwo"));

    for (path, mode, want) in [
        ("Patient/p1/$everything?_type=Observation", None, set(&["ob1", "ob2", "ob4"])),
        ("Patient/p1/$everything?_since=2999-01-01T00:00:00Z", None, set(&[])),
        // What has no time of care is of all times.
        ("Patient/p1/$everything?start=2024-06-01", Some("match"), set(&["p1", "ob2", "m1"])),
        ("Patient/p1/$everything?start=2024-01-02&end=2024-01-02", Some("match"), set(&["p1", "e1", "m1"])),
        ("Patient/p1/$everything?end=2020", Some("match"), set(&["p1", "c1", "m1"])),
        ("Patient/p2/$everything", Some("match"), set(&["p2", "ob3"])),
        ("Encounter/e1/$everything", Some("match"), set(&["e1", "c1", "ob1"])),
        ("Encounter/e1/$everything", Some("include"), set(&["p1", "o1", "dr1", "d1"])),
    ] {
        let bundle = json_of(&mesh, "dr-lee", path).await;
        assert_eq!(ids(&bundle, mode), want, "{path}");
        assert!(path.contains("p2") || !bundle.to_string().contains("SecretTwo"), "{path}");
    }
    let paged = all_pages(&mesh, "dr-lee", "Patient/p1/$everything?_count=2").await;
    assert_eq!((paged.len(), paged.into_iter().collect::<BTreeSet<_>>()), (own.len(), own));
    let parameters =
        json!({"resourceType": "Parameters", "parameter": [{"name": "_type", "valueString": "Condition"}]});
    let posted = mesh.post_fhir("dr-lee", "/fhir/ehr/Patient/p1/$everything", &parameters).await;
    assert_eq!(ids(&posted.json(), None), set(&["c1"]), "{}", posted.text());

    // A link opens for whom it was made, and nobody is told whether somebody is there.
    let link = next(&json_of(&mesh, "dr-lee", "Patient/p1/$everything?_count=2").await).expect("a next page");
    assert_eq!(status_of(&mesh, "nurse-kim", &link).await, 400);
    for (path, status) in [
        ("Patient/nobody/$everything", 404),
        ("Encounter/nobody/$everything", 404),
        ("Patient/$everything", 404),
        ("Observation/ob1/$everything", 404),
        ("Patient/p1/$nothing", 404),
        ("Patient/p1/$everything?_elements=id", 400),
        ("Patient/p1/$everything?_since=2024", 400),
        ("Patient/p1/$everything?_count=0", 400),
        ("Encounter/e1/$everything?start=2024", 400),
    ] {
        assert_eq!(status_of(&mesh, "dr-lee", path).await, status, "{path}");
    }
    // Policy is asked about each type: registration works with visits, not with findings.
    let clerk = json_of(&mesh, "clerk-diaz", "Patient/p1/$everything").await;
    assert_eq!(ids(&clerk, None), set(&["p1", "e1", "o1"]), "{clerk}");
    for who in ["ana-analyst", "admin-root"] {
        assert_eq!(status_of(&mesh, who, "Patient/p1/$everything").await, 403, "{who}");
    }

    // On record for whom it was about, and for nobody else.
    let seen = async |patient: &str| {
        let saw = mesh.get("privacy-osei", &format!("/admin/audit/who-saw/ehr/{patient}")).await.json();
        let lines = saw["accesses"].as_array().cloned().unwrap_or_default();
        lines.iter().filter(|line| line["what"] == "everything Patient").count()
    };
    let (one, two) = (seen("p1").await, seen("p2").await);
    assert_eq!(two, 1, "the one request for the second patient");
    assert!(one >= 9, "each page and each answer: {one}");
    json_of(&mesh, "dr-lee", "Patient/p1/$everything").await;
    assert_eq!([seen("p1").await, seen("p2").await], [one + 1, two], "one record each");
    mesh.stop().await;
}

/// Merged Patients are one person: everything of either is everything of both.
#[tokio::test(flavor = "multi_thread")]
async fn operations_give_everything_of_a_merged_person() {
    let mesh = start().await;
    let put = async |resource: Value| {
        let token = mesh.token("bedside-gateway").await;
        let path =
            format!("/fhir/ehr/{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
        let headers = [("content-type", "application/fhir+json")];
        let body = Bytes::from(resource.to_string());
        let answer =
            mesh.https().await.call(Method::PUT, &path, Some(&token), &headers, body).await.expect("an answer");
        assert!(answer.status.is_success(), "{}", answer.text());
    };
    let link = |other: &str, kind: &str| json!([{"other": {"reference": format!("Patient/{other}")}, "type": kind}]);
    put(json!({"resourceType": "Patient", "id": "p2", "active": false, "link": link("p1", "replaced-by")})).await;
    put(json!({"resourceType": "Patient", "id": "p1", "link": link("p2", "replaces")})).await;
    mesh.settle().await;
    let both = set(&["p1", "p2", "e1", "c1", "ob1", "ob2", "ob3", "ob4", "m1", "doc1", "doc2"]);
    for of in ["p1", "p2"] {
        let whole = json_of(&mesh, "dr-lee", &format!("Patient/{of}/$everything")).await;
        assert_eq!(ids(&whole, Some("match")), both, "{of}");
        let observations = json_of(&mesh, "dr-lee", &format!("Patient/{of}/Observation")).await;
        assert_eq!(ids(&observations, None), set(&["ob1", "ob2", "ob3", "ob4"]), "{of}");
        let all = json_of(&mesh, "dr-lee", &format!("Patient/{of}/*?_count=50")).await;
        assert_eq!(ids(&all, None), both, "{of}");
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_find_the_last_of_each_code() {
    let mesh = start().await;
    for (query, want) in [
        ("patient=p1", vec!["ob2", "ob4"]),
        ("patient=p1&max=2", vec!["ob2", "ob1", "ob4"]),
        ("subject=Patient/p1&category=vital-signs&code=8480-6&max=5", vec!["ob2", "ob1"]),
        ("patient=p1&date=lt2025", vec!["ob1", "ob4"]),
        ("patient.name=One", vec!["ob2", "ob4"]),
        ("patient=nobody", vec![]),
    ] {
        let bundle = json_of(&mesh, "dr-lee", &format!("Observation/$lastn?{query}")).await;
        let entries = bundle["entry"].as_array().cloned().unwrap_or_default();
        let found: Vec<&str> = entries.iter().filter_map(|entry| entry["resource"]["id"].as_str()).collect();
        assert_eq!(found, want, "{query}");
        assert_eq!(bundle["total"], want.len());
    }
    for (query, status) in
        [("code=8480-6", 400), ("patient=p1&max=0", 400), ("patient=p1&_sort=date", 400), ("patient=p1&nothing=1", 400)]
    {
        assert_eq!(status_of(&mesh, "dr-lee", &format!("Observation/$lastn?{query}")).await, status, "{query}");
    }
    assert_eq!(status_of(&mesh, "clerk-diaz", "Observation/$lastn?patient=p1").await, 403);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_find_documents() {
    let mesh = start().await;
    for (query, want) in [
        ("patient=p1", set(&["doc1"])),
        ("patient=Patient/p1&type=http://loinc.org%7C11506-3", set(&["doc2"])),
        ("patient=p1&start=2021-06-01", set(&["doc1", "doc2"])),
        ("patient=p1&start=2022-01-01", set(&["doc2"])),
        ("patient=p1&start=2021-01-01&end=2021-03", set(&["doc1"])),
        ("patient=p1&end=2020-12-31", set(&[])),
        ("patient=p2", set(&[])),
    ] {
        let bundle = json_of(&mesh, "dr-lee", &format!("DocumentReference/$docref?{query}")).await;
        assert_eq!(ids(&bundle, None), want, "{query}");
        assert!(next(&bundle).is_none(), "{query}");
    }
    assert_eq!(all_pages(&mesh, "dr-lee", "DocumentReference/$docref?patient=p1&start=2020&_count=1").await.len(), 2);
    for query in ["", "type=34133-9", "patient=p1&on-demand=true", "patient=p1&start=soon"] {
        assert_eq!(status_of(&mesh, "dr-lee", &format!("DocumentReference/$docref?{query}")).await, 400, "{query}");
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_validate_and_store_nothing() {
    let mesh = start().await;
    let good = json!({"resourceType": "Patient", "id": "p1", "gender": "female"});
    let wrong = json!({"resourceType": "Patient", "gender": "SecretGender", "birthDate": "yesterday"});
    let parameters = |resource: &Value, mode: &str| {
        json!({"resourceType": "Parameters", "parameter": [
            {"name": "resource", "resource": resource}, {"name": "mode", "valueCode": mode}]})
    };
    let size = mesh.doors.domains.values().map(|parts| parts.intake.journal().log().size()).sum::<u64>();
    for (who, path, body, errors) in [
        ("dr-lee", "Patient/$validate", good.clone(), 0),
        ("dr-lee", "Patient/$validate", wrong.clone(), 2),
        ("dr-lee", "Observation/$validate", good.clone(), 1),
        ("dr-lee", "Patient/$validate", parameters(&good, "create"), 0),
        ("dr-lee", "Patient/$validate", parameters(&good, "update"), 0),
        ("dr-lee", "Patient/p2/$validate", parameters(&good, "update"), 1),
        ("dr-lee", "Patient/p1/$validate", parameters(&good, "delete"), 0),
        ("dr-lee", "Patient/nobody/$validate", parameters(&good, "delete"), 1),
        ("clerk-diaz", "Patient/p1/$validate", json!({"resourceType": "Parameters"}), 0),
        ("dr-lee", "Patient/$validate?profile=http://example.org/profile", good.clone(), 1),
        ("dr-lee", "Patient/$validate?profile=http://hl7.org/fhir/StructureDefinition/Patient", good.clone(), 0),
    ] {
        let answer = mesh.post_fhir(who, &format!("/fhir/ehr/{path}"), &body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let outcome = answer.json();
        assert_eq!(outcome["resourceType"], "OperationOutcome");
        let issues = outcome["issue"].as_array().expect("issues");
        assert_eq!(issues.iter().filter(|issue| issue["severity"] == "error").count(), errors, "{path}: {outcome}");
        assert!(!answer.text().contains("SecretGender") && !answer.text().contains("yesterday"));
    }
    json_of(&mesh, "dr-lee", "Condition/c1/$validate").await;
    // A hidden resource is as one that is not there.
    let hidden = json_of(&mesh, "dr-lee", "Condition/c2/$validate").await;
    assert_eq!(hidden["issue"][0]["code"], "not-found", "{hidden}");
    assert_eq!(status_of(&mesh, "dr-lee", "Patient/$validate").await, 400);
    assert_eq!(status_of(&mesh, "clerk-diaz", "Observation/ob1/$validate").await, 403);
    let after = mesh.doors.domains.values().map(|parts| parts.intake.journal().log().size()).sum::<u64>();
    assert_eq!(size, after, "something was stored");
    mesh.stop().await;
}

fn terminology() -> Value {
    let resources = [
        json!({"resourceType": "CodeSystem", "id": "cs", "url": "http://x.org/cs", "version": "1", "name": "Bears",
            "status": "active", "content": "complete", "concept": [
                {"code": "bear", "display": "Bear", "definition": "A bear", "concept": [
                    {"code": "brown", "display": "Brown bear", "designation": [{"language": "de", "value": "Braunbär"}]},
                    {"code": "polar", "display": "Polar bear", "property": [{"code": "cold", "valueBoolean": true}]}]},
                {"code": "tree", "display": "Tree"}]}),
        json!({"resourceType": "ValueSet", "id": "vs", "url": "http://x.org/vs", "status": "active", "compose": {
            "include": [{"system": "http://x.org/cs", "filter": [
                {"property": "concept", "op": "descendent-of", "value": "bear"}]}]}}),
        json!({"resourceType": "ValueSet", "id": "vs2", "url": "http://x.org/vs2", "status": "active", "compose": {
            "include": [{"valueSet": ["http://x.org/vs"]}, {"system": "http://x.org/cs"}],
            "exclude": [{"system": "http://x.org/cs", "concept": [{"code": "polar"}]}]}}),
        json!({"resourceType": "ValueSet", "id": "vs3", "url": "http://x.org/vs3", "status": "active", "compose": {
            "include": [{"system": "http://x.org/unknown"}]}}),
        json!({"resourceType": "ConceptMap", "id": "cm", "url": "http://x.org/cm", "status": "active", "group": [
            {"source": "http://x.org/cs", "target": "http://y.org", "element": [
                {"code": "brown", "target": [{"code": "B", "equivalence": "equivalent", "display": "B."}]}]}]}),
    ];
    let entry = |resource: &Value| {
        let url = format!("{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
        json!({"resource": resource, "request": {"method": "PUT", "url": url}})
    };
    json!({"resourceType": "Bundle", "type": "transaction", "entry": resources.iter().map(entry).collect::<Vec<_>>()})
}

/// A parameter of an answer.
fn said<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let all = answer["parameter"].as_array().expect("parameters");
    let value = all.iter().find(|parameter| parameter["name"] == name).and_then(|parameter| parameter.as_object());
    let value = value.and_then(|parameter| parameter.iter().find(|(member, _)| member.starts_with("value")));
    value.map_or(&Value::Null, |(_, value)| value)
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_answer_from_loaded_terminology() {
    let mesh = Mesh::start().await;
    let answer = mesh.post_fhir("bedside-gateway", "/fhir/ehr", &terminology()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    mesh.settle().await;

    let codes = |set: &Value| -> Vec<String> {
        let contains = set["expansion"]["contains"].as_array().cloned().unwrap_or_default();
        contains.iter().map(|entry| entry["code"].as_str().expect("a code").to_owned()).collect()
    };
    for (path, want) in [
        ("ValueSet/vs/$expand", vec!["brown", "polar"]),
        ("ValueSet/$expand?url=http://x.org/vs", vec!["brown", "polar"]),
        ("ValueSet/$expand?url=http://x.org/vs2", vec!["brown", "bear", "tree"]),
        ("ValueSet/$expand?url=http://x.org/vs2&filter=bear", vec!["brown", "bear"]),
        ("ValueSet/$expand?url=http://x.org/vs2&count=1&offset=1", vec!["bear"]),
    ] {
        let set = json_of(&mesh, "dr-lee", path).await;
        assert_eq!(codes(&set), want, "{path}");
        assert!(set["expansion"]["timestamp"].is_string() && set["compose"].is_null());
        let issues =
            fhir::validate::validate(&fhir::json::parse(set.to_string().as_bytes(), &Default::default()).unwrap());
        assert!(issues.is_empty(), "{path}: {issues:?}");
    }
    let sent = json!({"resourceType": "ValueSet", "status": "draft", "compose": {"include": [
        {"valueSet": ["http://x.org/vs2"]}], "exclude": [{"system": "http://x.org/cs", "concept": [{"code": "tree"}]}]}});
    let posted = mesh.post_fhir("dr-lee", "/fhir/ehr/ValueSet/$expand", &sent).await;
    assert_eq!(codes(&posted.json()), ["brown", "bear"], "{}", posted.text());

    for (path, result) in [
        ("ValueSet/vs/$validate-code?system=http://x.org/cs&code=brown", true),
        ("ValueSet/vs/$validate-code?system=http://x.org/cs&code=brown&display=braunbar", true),
        ("ValueSet/vs/$validate-code?system=http://x.org/cs&code=brown&display=Tree", false),
        ("ValueSet/vs/$validate-code?system=http://x.org/cs&code=bear", false),
        ("ValueSet/$validate-code?url=http://x.org/vs2&system=http://x.org/cs&code=polar", false),
        ("CodeSystem/$validate-code?url=http://x.org/cs&code=tree", true),
        ("CodeSystem/cs/$validate-code?code=SecretCode", false),
        ("ConceptMap/cm/$translate?system=http://x.org/cs&code=brown", true),
        ("ConceptMap/$translate?url=http://x.org/cm&system=http://x.org/cs&code=polar", false),
        ("ConceptMap/$translate?system=http://x.org/cs&code=brown&targetsystem=http://y.org", true),
        ("ConceptMap/cm/$translate?system=http://y.org&code=B&reverse=true", true),
    ] {
        let answer = json_of(&mesh, "dr-lee", path).await;
        assert_eq!(said(&answer, "result"), result, "{path}: {answer}");
        let issues =
            fhir::validate::validate(&fhir::json::parse(answer.to_string().as_bytes(), &Default::default()).unwrap());
        assert!(issues.is_empty(), "{path}: {issues:?}");
    }
    let concept = json!({"resourceType": "Parameters", "parameter": [{"name": "codeableConcept", "valueCodeableConcept":
        {"coding": [{"system": "http://y.org", "code": "x"}, {"system": "http://x.org/cs", "code": "polar"}]}}]});
    let posted = mesh.post_fhir("dr-lee", "/fhir/ehr/ValueSet/vs/$validate-code", &concept).await.json();
    assert_eq!((said(&posted, "result"), said(&posted, "display")), (&json!(true), &json!("Polar bear")));

    let found = json_of(&mesh, "dr-lee", "CodeSystem/$lookup?system=http://x.org/cs&code=polar").await;
    assert_eq!((said(&found, "name"), said(&found, "display")), (&json!("Bears"), &json!("Polar bear")));
    assert!(found.to_string().contains("\"cold\"") && found.to_string().contains("\"parent\""), "{found}");
    let german = "CodeSystem/$lookup?system=http://x.org/cs&code=brown&displayLanguage=de&property=parent";
    let found = json_of(&mesh, "dr-lee", german).await;
    assert_eq!(said(&found, "display"), "Braunbär");
    assert!(!found.to_string().contains("inactive"), "{found}");
    for (query, outcome) in [
        ("codeA=bear&codeB=polar", "subsumes"),
        ("codeA=polar&codeB=bear", "subsumed-by"),
        ("codeA=tree&codeB=bear", "not-subsumed"),
    ] {
        let path = format!("CodeSystem/$subsumes?system=http://x.org/cs&{query}");
        assert_eq!(said(&json_of(&mesh, "dr-lee", &path).await, "outcome"), outcome);
    }

    for (path, status) in [
        ("ValueSet/$expand?url=http://x.org/nothing", 404),
        ("ValueSet/nothing/$expand", 404),
        ("ValueSet/vs3/$expand", 422),
        ("ValueSet/$expand", 400),
        ("ValueSet/vs/$expand?date=2020", 400),
        ("ValueSet/vs/$validate-code?code=brown", 400),
        ("CodeSystem/$lookup?system=http://x.org/cs&code=SecretCode", 404),
        ("CodeSystem/$subsumes?system=http://x.org/cs&codeA=bear&codeB=SecretCode", 404),
        ("ConceptMap/$translate?code=brown", 400),
        ("CodeSystem/cs/$lookup?code=bear", 404),
    ] {
        let answer = mesh.get("dr-lee", &format!("/fhir/ehr/{path}")).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert!(!answer.text().contains("SecretCode"), "{path}");
    }
    assert_eq!(status_of(&mesh, "clerk-diaz", "ValueSet/vs/$expand").await, 403);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_and_searches_say_what_they_leave_out() {
    let mesh = start().await;
    let subsetted = |resource: &Value| resource["meta"]["tag"].to_string().contains("SUBSETTED");
    let found = json_of(&mesh, "dr-lee", "Encounter?_id=e1&_summary=true").await;
    let visit = &found["entry"][0]["resource"];
    assert!(subsetted(visit) && visit["subject"].is_object() && !visit["class"].is_null(), "{visit}");
    let found = json_of(&mesh, "dr-lee", "DocumentReference?_id=doc1&_summary=true").await;
    let document = &found["entry"][0]["resource"];
    assert_eq!(document["content"][0]["attachment"], json!({"contentType": "text/plain"}), "no content in a summary");
    let read = json_of(&mesh, "dr-lee", "Observation/ob1?_elements=subject").await;
    assert!(subsetted(&read) && read["effectiveDateTime"].is_null() && read["status"] == "final", "{read}");
    assert!(!subsetted(&json_of(&mesh, "dr-lee", "Observation/ob1").await));
    let count = json_of(&mesh, "dr-lee", "Observation?_summary=count").await;
    assert_eq!((&count["total"], &count["entry"]), (&json!(4), &Value::Null));
    for path in ["Encounter?_summary=text&_include=Encounter:subject", "Encounter/e1?_summary=some"] {
        assert_eq!(status_of(&mesh, "dr-lee", path).await, 400, "{path}");
    }
    // What the server says it can do is there.
    let statement = json_of(&mesh, "dr-lee", "metadata").await;
    let resources = statement["rest"][0]["resource"].as_array().expect("resources");
    let of = |rtype: &str| {
        resources.iter().find(|resource| resource["type"] == rtype).expect("a type")["operation"].to_string()
    };
    assert!(of("Patient").contains("Patient-everything") && of("ValueSet").contains("ValueSet-expand"));
    let issues =
        fhir::validate::validate(&fhir::json::parse(statement.to_string().as_bytes(), &Default::default()).unwrap());
    assert!(issues.is_empty(), "{issues:?}");
    mesh.stop().await;
}
