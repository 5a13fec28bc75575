//! Law 7: same policy through every door: the same patients and the same masks by FHIR and by SQL, at one journal position.

use std::collections::BTreeMap;

use hyper::Method;
use serde_json::{Value, json};

use crate::harness::{Mesh, adt, append, mesh_folder};

/// The analyst may search and read records too, under what the policy for products says word for word.
fn mesh_with_records_for_analysts() -> tempfile::TempDir {
    let folder = mesh_folder();
    let products =
        std::fs::read_to_string(folder.path().join("policies/analytics.cedar")).expect("the starting policies");
    let begin = products.find("@id(\"analyst-reads-products\")").expect("the analyst's policy");
    let end = begin
        + products[begin..]
            .find(';')
            .and_then(|at| products[begin + at..].find("\n\n").map(|n| at + n))
            .expect("its end");
    let records = products[begin..end]
        .replace("analyst-reads-products", "analyst-reads-records")
        .replace("action in [Action::\"query\", Action::\"read\"]", "action in [Action::\"search\", Action::\"read\"]")
        .replace("resource is Product", "resource is Record");
    assert!(records.contains("mask(birth-date, year-only)") && records.contains("resource is Record"), "{records}");
    append(folder.path(), "policies/suite.cedar", &format!("{records}\n"));
    folder
}

/// Rows of a statement by their `id`.
async fn rows(mesh: &Mesh, who: &str, sql: &str) -> BTreeMap<String, Value> {
    let answer = mesh.sql(who, sql).await;
    assert_eq!(answer.status, 200, "{who}: {sql}: {}", answer.text());
    let text = answer.text();
    let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a JSON line"));
    rows.map(|row| (logical(&row["id"]).to_owned(), row)).collect()
}

/// The id in a resource key: `Patient/abc`.
fn logical(key: &Value) -> &str {
    let key = key.as_str().expect("a key");
    key.split_once('/').map_or(key, |(_, id)| id)
}

/// Resources of a search by their id, over all pages.
async fn resources(mesh: &Mesh, who: &str, first: &str) -> BTreeMap<String, Value> {
    let token = mesh.token(who).await;
    let mut https = mesh.https().await;
    let (mut found, mut next) = (BTreeMap::new(), Some(first.to_owned()));
    while let Some(path) = next {
        let answer = https.get(&path, &token).await.expect("an answer");
        assert_eq!(answer.status, 200, "{who}: {path}: {}", answer.text());
        let bundle = answer.json();
        for entry in bundle["entry"].as_array().into_iter().flatten() {
            let resource = entry["resource"].clone();
            found.insert(resource["id"].as_str().expect("an id").to_owned(), resource);
        }
        let links = bundle["link"].as_array().cloned().unwrap_or_default();
        let link = links.iter().find(|link| link["relation"] == "next").and_then(|link| link["url"].as_str());
        next = link.and_then(|url| url.find("/fhir/").map(|at| url[at..].to_owned()));
    }
    found
}

/// What the product's view takes from a Patient, read from the resource by hand.
fn as_row(patient: &Value) -> Value {
    let first = |list: &Value| list.as_array().and_then(|list| list.first().cloned()).unwrap_or_default();
    let (name, address) = (first(&patient["name"]), first(&patient["address"]));
    let mrn = patient["identifier"].as_array().into_iter().flatten().find(|identifier| {
        identifier["type"]["coding"].as_array().into_iter().flatten().any(|coding| coding["code"] == "MR")
    });
    let phone = patient["telecom"].as_array().into_iter().flatten().find(|telecom| telecom["system"] == "phone");
    json!({
        "id": format!("Patient/{}", patient["id"].as_str().expect("an id")),
        "mrn": mrn.map(|identifier| identifier["value"].clone()).unwrap_or_default(),
        "family": name["family"],
        "given": first(&name["given"]),
        "gender": patient["gender"],
        "birth_date": patient["birthDate"],
        "phone": phone.map(|telecom| telecom["value"].clone()).unwrap_or_default(),
        "city": address["city"],
        "state": address["state"],
        "postal_code": address["postalCode"],
    })
}

/// JSON lines may leave nulls out; both sides are compared without.
fn without_nulls(row: &Value) -> BTreeMap<String, Value> {
    let fields = row.as_object().expect("an object").iter();
    fields.filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.clone(), value.clone())).collect()
}

struct Told {
    restricted: String,
    part2: String,
}

/// Twelve patients by ADT, two by FHIR; one of each is labelled afterwards.
async fn fill(mesh: &Mesh) -> Told {
    for n in 0..12 {
        let message =
            String::from_utf8(adt(&format!("C{n}"), "A01", &format!("M{n}"), &format!("Family{n}"))).expect("text");
        let message = message
            .replace("19700203", &format!("{}0{}1{}", 1931 + n * 7, 1 + n % 9, n % 10))
            .replace("02118", ["02118", "03601", "10001", "05901"][n % 4])
            .replace("|F|||", if n % 2 == 0 { "|F|||" } else { "|M|||" })
            .replace("^USA^H\r", "^USA^H||6175550100^PRN^PH\r");
        assert_eq!(mesh.send_all("adt-main", [message.as_bytes()]).await, ["AA"]);
    }
    mesh.settle().await;
    let plain =
        json!({ "resourceType": "Patient", "name": [{ "family": "Plain" }], "gender": "other", "birthDate": "1988" });
    assert_eq!(mesh.post_fhir("bedside-gateway", "/fhir/ehr/Patient", &plain).await.status, 201);
    let labelled = |code: &str| {
        json!({ "resourceType": "Patient", "name": [{ "family": "Labelled" }], "birthDate": "1977-07-07",
                "meta": { "security": [{ "system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": code }] } })
    };
    let posted = mesh.post_fhir("bedside-gateway", "/fhir/ehr/Patient", &labelled("42CFRPart2")).await;
    assert_eq!(posted.status, 201, "{}", posted.text());
    let part2 = posted.json()["id"].as_str().expect("an id").to_owned();
    // One of the ADT patients becomes restricted by an update.
    let found = resources(mesh, "dr-lee", "/fhir/ehr/Patient?family=Family3").await;
    let (restricted, mut patient) = found.into_iter().next().expect("a patient");
    patient["meta"] = labelled("R")["meta"].clone();
    let token = mesh.token("bedside-gateway").await;
    let headers = [("content-type", "application/fhir+json")];
    let path = format!("/fhir/ehr/Patient/{restricted}");
    let put = mesh
        .https()
        .await
        .call(Method::PUT, &path, Some(&token), &headers, patient.to_string())
        .await
        .expect("an answer");
    assert_eq!(put.status, 200, "{}", put.text());
    mesh.settle().await;
    for product in ["patients", "encounters"] {
        mesh.build("ehr", product).await;
    }
    Told { restricted, part2 }
}

#[tokio::test(flavor = "multi_thread")]
async fn law_7_the_same_patients_and_the_same_masks_by_fhir_and_by_sql() {
    let mesh = Mesh::start_in(mesh_with_records_for_analysts()).await;
    let told = fill(&mesh).await;
    let position = mesh.doors.domains[&crate::harness::domain("ehr")].intake.journal().log().size();

    for who in ["ana-analyst", "dr-lee", "nurse-kim"] {
        let by_fhir = resources(&mesh, who, "/fhir/ehr/Patient?_count=5").await;
        let by_sql = rows(&mesh, who, "SELECT * FROM ehr.patients").await;
        assert_eq!(by_fhir.keys().collect::<Vec<_>>(), by_sql.keys().collect::<Vec<_>>(), "{who}: other patients");
        for (id, patient) in &by_fhir {
            assert_eq!(without_nulls(&as_row(patient)), without_nulls(&by_sql[id]), "{who}: {id} shows other values");
        }
        assert!(by_fhir.len() >= 12, "{who} sees {} patients", by_fhir.len());
        if who != "dr-lee" {
            // The physician is in the care team; neither the nurse nor the analyst is.
            assert!(!by_fhir.contains_key(&told.restricted), "{who}: the restricted patient");
            assert!(!by_fhir.contains_key(&told.part2), "{who}: the patient under 42 CFR Part 2");
        }
        // One read says the same as the search and as the row.
        for (id, patient) in by_fhir.iter().take(3) {
            let read = mesh.get(who, &format!("/fhir/ehr/Patient/{id}")).await;
            assert_eq!(read.json(), *patient, "{who}");
            let history = mesh.get(who, &format!("/fhir/ehr/Patient/{id}/_history")).await.json();
            assert_eq!(history["entry"][0]["resource"], *patient, "{who}");
        }
        let size = mesh.doors.domains[&crate::harness::domain("ehr")].intake.journal().log().size();
        assert_eq!(size, position, "the journal moved");
    }
    mesh.stop().await;
}

/// What the analyst's policy says, in values: not merely the same on both sides.
#[tokio::test(flavor = "multi_thread")]
async fn law_7_masks_show_what_the_policy_says() {
    let mesh = Mesh::start_in(mesh_with_records_for_analysts()).await;
    let told = fill(&mesh).await;
    let raw = rows(&mesh, "dr-lee", "SELECT * FROM ehr.patients").await;
    let masked = rows(&mesh, "ana-analyst", "SELECT * FROM ehr.patients").await;
    assert!(masked.len() > 8, "{} rows", masked.len());
    for (id, row) in &masked {
        for hidden in ["family", "given", "mrn", "phone", "city"] {
            assert!(row[hidden].is_null(), "{hidden}: {row}");
        }
        let (shown, real) =
            (row["birth_date"].as_str().expect("a year"), raw[id]["birth_date"].as_str().expect("a date"));
        // Ages above 89 are all told as 90 (45 CFR 164.514(b)(2)(i)(C)): a later year than the real one.
        let oldest = base::Clock::now(&base::SystemClock).year() - 90;
        let expected = real[..4].parse::<i32>().expect("a year").max(oldest);
        assert!(
            shown.parse() == Ok(expected) || shown.parse() == Ok(expected + 1) && expected == oldest,
            "{shown} of {real}"
        );
        if let Some(zip) = raw[id]["postal_code"].as_str() {
            // 036 and 059 hold too few people (45 CFR 164.514(b)(2)(i)(B)).
            let expected = if matches!(&zip[..3], "036" | "059") { "000" } else { &zip[..3] };
            assert_eq!(row["postal_code"], expected, "{row}");
        }
        for open in ["gender", "state"] {
            assert_eq!(row[open], raw[id][open]);
        }
    }
    // A criterion over what is masked tells nothing by SQL, and is refused by FHIR.
    for criterion in
        ["family = 'Family1'", "family LIKE 'Fam%'", "birth_date = '1938-02-11'", "mrn = 'M1'", "postal_code = '02118'"]
    {
        let answer =
            mesh.sql("ana-analyst", &format!("SELECT count(*) AS n FROM ehr.patients WHERE {criterion}")).await;
        assert!(answer.status != 200 || answer.json()["n"] == 0, "{criterion}: {}", answer.text());
        let seen = mesh.sql("dr-lee", &format!("SELECT count(*) AS n FROM ehr.patients WHERE {criterion}")).await;
        assert_ne!(seen.json()["n"], 0, "{criterion} finds nothing unmasked, and so proves nothing");
    }
    for criterion in [
        "family=Family1",
        "name=Family1",
        "given=Test",
        "identifier=M1",
        "birthdate=1938-02-11",
        "birthdate=gt1930",
        "_sort=family",
        "_sort=-birthdate",
        "phone=6175550100",
        "telecom=6175550100",
        "address=Boston",
        "address-city=Boston",
        "address-postalcode=02118",
        "phonetic=Family1",
        "_has:Encounter:patient:status=in-progress",
    ] {
        let answer = mesh.get("ana-analyst", &format!("/fhir/ehr/Patient?{criterion}")).await;
        assert!(answer.status == 403 || answer.status == 400, "{criterion}: {} {}", answer.status, answer.text());
        assert!(!answer.text().contains("Family1") && !answer.text().contains("6175550100"), "{}", answer.text());
    }
    let chained = mesh.get("ana-analyst", "/fhir/ehr/Encounter?patient.family=Family1").await;
    assert!(chained.status == 403 || chained.status == 400, "{}", chained.text());
    for criterion in ["gender=female", "_sort=_id", "_lastUpdated=gt2020"] {
        assert_eq!(mesh.get("ana-analyst", &format!("/fhir/ehr/Patient?{criterion}")).await.status, 200, "{criterion}");
    }
    hidden_ones_stay_hidden(&mesh, &told).await;
    mesh.stop().await;
}

/// By no way through either door.
async fn hidden_ones_stay_hidden(mesh: &Mesh, told: &Told) {
    let visit = rows(mesh, "dr-lee", "SELECT id, patient FROM ehr.encounters").await;
    let visit = visit.values().find(|row| logical(&row["patient"]) == told.restricted).expect("a visit")["id"].clone();
    let visit = logical(&visit);
    for hidden in [&told.restricted, &told.part2] {
        for path in [
            format!("/fhir/ehr/Patient/{hidden}"),
            format!("/fhir/ehr/Patient/{hidden}/_history"),
            format!("/fhir/ehr/Patient/{hidden}/_history/1"),
        ] {
            let answer = mesh.get("ana-analyst", &path).await;
            assert_eq!(answer.status, 404, "{path}: {}", answer.text());
        }
        for path in [
            format!("/fhir/ehr/Patient?_id={hidden}&_total=accurate"),
            format!("/fhir/ehr/Encounter?patient=Patient/{hidden}&_total=accurate"),
            format!("/fhir/ehr/Encounter?_id={visit}&_include=Encounter:patient&_total=accurate"),
        ] {
            let answer = mesh.get("ana-analyst", &path).await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            assert!(answer.json()["entry"].is_null() && answer.json()["total"] == 0, "{path}: {}", answer.text());
        }
        for sql in [
            format!("SELECT count(*) AS n FROM ehr.patients WHERE id = 'Patient/{hidden}'"),
            format!("SELECT count(*) AS n FROM ehr.encounters WHERE patient = 'Patient/{hidden}'"),
            format!(
                "SELECT count(*) AS n FROM ehr.encounters e JOIN ehr.patients p ON e.patient = p.id WHERE p.id = 'Patient/{hidden}'"
            ),
        ] {
            let answer = mesh.sql("ana-analyst", &sql).await;
            assert_eq!(answer.json()["n"], 0, "{sql}: {}", answer.text());
        }
    }
    // The whole bundle of visits with their patients included shows no name, and nobody hidden.
    let answer = mesh.get("ana-analyst", "/fhir/ehr/Encounter?_include=Encounter:patient&_count=100").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    for never in ["Family", "Labelled", "6175550100", "Mill Street", told.restricted.as_str(), told.part2.as_str()] {
        assert!(!answer.text().contains(never), "{never} is shown");
    }
    // The same visits by both doors.
    let by_fhir = resources(mesh, "ana-analyst", "/fhir/ehr/Encounter?_count=100").await;
    let by_sql = rows(mesh, "ana-analyst", "SELECT * FROM ehr.encounters").await;
    assert_eq!(by_fhir.keys().collect::<Vec<_>>(), by_sql.keys().collect::<Vec<_>>());
    for (id, row) in &by_sql {
        let encounter = &by_fhir[id];
        assert_eq!(encounter["subject"]["reference"], row["patient"]);
        assert_eq!((&encounter["status"], &encounter["class"]["code"]), (&row["status"], &row["class"]));
        assert!(
            row["visit_number"].is_null() && encounter["identifier"].to_string().matches("value").count() == 0,
            "{row} {encounter}"
        );
        assert_eq!(encounter["period"]["start"], row["admitted"]);
    }
}
