//! The main job: a message goes in at the door and comes out as a governed, provable row.

use crate::harness::{Mesh, adt};

/// One HL7 message, from the socket to the row, seen by four people.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_becomes_a_governed_row() {
    let mesh = Mesh::start().await;
    let codes = mesh.send_all("adt-main", [adt("C1", "A01", "M100", "Everywoman").as_slice()]).await;
    assert_eq!(codes, ["AA"]);
    mesh.settle().await;

    // The physician finds the patient over FHIR, by record number and by name.
    for query in ["identifier=urn:oid:2.16.840.1.113883.19.5.1%7CM100", "family=every", "birthdate=1970-02-03"] {
        let bundle = mesh.get("dr-lee", &format!("/fhir/ehr/Patient?{query}")).await.json();
        assert_eq!(bundle["entry"].as_array().map(Vec::len), Some(1), "{query}: {bundle}");
        assert_eq!(bundle["entry"][0]["resource"]["name"][0]["family"], "Everywoman");
    }
    let encounters = mesh.get("dr-lee", "/fhir/ehr/Encounter?_count=5").await.json();
    assert_eq!(encounters["entry"][0]["resource"]["status"], "in-progress", "{encounters}");

    // The same patient as a row, by four people.
    mesh.build("ehr", "patients").await;
    let query = "SELECT family, birth_date, postal_code, mrn FROM ehr.patients";
    let physician = mesh.sql("dr-lee", query).await;
    assert_eq!(physician.status, 200, "{}", physician.text());
    assert!(physician.text().contains("Everywoman") && physician.text().contains("1970-02-03"));
    let analyst = mesh.sql("ana-analyst", query).await;
    assert_eq!(analyst.status, 200, "{}", analyst.text());
    assert!(!analyst.text().contains("Everywoman") && !analyst.text().contains("1970-02-03"), "{}", analyst.text());
    assert!(analyst.text().contains("1970") && analyst.text().contains("021"), "{}", analyst.text());
    let masked = analyst.headers["x-ward-masked"].to_str().expect("visible characters").to_owned();
    assert!(masked.contains("family") && masked.contains("analyst-reads-products"), "{masked}");
    let researcher = mesh.sql("rio-researcher", query).await;
    assert_eq!(researcher.status, 200, "{}", researcher.text());
    assert!(!researcher.text().contains("1970") && !researcher.text().contains("M100"), "{}", researcher.text());
    let admin = mesh.sql("admin-root", query).await;
    assert_eq!(admin.status, 403, "{}", admin.text());

    // Who saw her: the FHIR reads and the SQL are both there.
    let bundle = mesh.get("dr-lee", "/fhir/ehr/Patient?family=every").await.json();
    let id = bundle["entry"][0]["resource"]["id"].as_str().expect("an id").to_owned();
    let saw = mesh.get("privacy-osei", &format!("/admin/audit/who-saw/ehr/{id}")).await.json();
    let doors: Vec<&str> =
        saw["accesses"].as_array().into_iter().flatten().filter_map(|line| line["door"].as_str()).collect();
    assert!(doors.contains(&"fhir") && doors.contains(&"sql-http"), "{saw}");

    // And where she came from.
    let lineage = mesh.client.get(&format!("/admin/lineage/ehr/Patient/{id}"), None).await.expect("lineage");
    assert_eq!(lineage["versions"][0]["positions"][0], 0);
    mesh.stop().await;
}

/// A chain: admitted, changed, discharged; then the admission of another is cancelled.
#[tokio::test(flavor = "multi_thread")]
async fn events_move_the_visit() {
    let mesh = Mesh::start().await;
    let message = |id, trigger| adt(id, trigger, "M200", "Visitor");
    for (control_id, trigger, status) in [
        ("1", "A01", "in-progress"),
        ("2", "A08", "in-progress"),
        ("3", "A03", "finished"),
        ("4", "A13", "in-progress"),
    ] {
        mesh.send_all("adt-main", [message(control_id, trigger).as_slice()]).await;
        mesh.settle().await;
        let bundle = mesh.get("dr-lee", "/fhir/ehr/Encounter?_count=5").await.json();
        assert_eq!(bundle["entry"].as_array().map(Vec::len), Some(1), "after {trigger}: {bundle}");
        assert_eq!(bundle["entry"][0]["resource"]["status"], status, "after {trigger}");
    }
    mesh.stop().await;
}

/// A restart, and a rebuilt index, change nothing that can be asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_and_a_rebuilt_index_answer_the_same() {
    let mesh = Mesh::start().await;
    for n in 0..20 {
        let message = adt(&format!("C{n}"), "A01", &format!("M{n}"), &format!("Family{n}"));
        mesh.send_all("adt-main", [message.as_slice()]).await;
    }
    mesh.settle().await;
    let ask = "/fhir/ehr/Patient?_sort=family&_count=100&_total=accurate";
    let ids = |bundle: &serde_json::Value| -> Vec<String> {
        let entries = bundle["entry"].as_array().cloned().unwrap_or_default();
        entries.iter().filter_map(|e| e["resource"]["id"].as_str().map(str::to_owned)).collect()
    };
    let before = mesh.get("dr-lee", ask).await.json();
    assert_eq!(before["total"], 20);
    mesh.client.post("/admin/index/ehr/rebuild", None, &serde_json::Value::Null).await.expect("a rebuild");
    let rebuilt = mesh.get("dr-lee", ask).await.json();
    assert_eq!(ids(&before), ids(&rebuilt));
    let folder = mesh.stop().await;

    let mesh = Mesh::start_in(folder).await;
    let after = mesh.get("dr-lee", ask).await.json();
    assert_eq!(ids(&before), ids(&after));
    // A resend after the restart is still known.
    let codes = mesh.send_all("adt-main", [adt("C3", "A01", "M3", "Family3").as_slice()]).await;
    assert_eq!(codes, ["AA"]);
    let size = mesh.doors.domains[&crate::harness::domain("ehr")].intake.journal().log().size();
    assert_eq!(size, 20);
    mesh.stop().await;
}
