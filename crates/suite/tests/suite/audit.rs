//! The audit log that answers: its two targets lose folders and come back from old copies, its index is dropped, and
//! nothing of who saw a patient is lost; the accounting of disclosures on paper.

use std::path::Path;

use hyper::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Mesh, Process, adt, copy, mesh_folder, program, ward};

/// Copies a folder with all in it.
/// `ward-verify` on a log of the mesh.
async fn verify(folder: &Path) -> String {
    let key = std::fs::read_to_string(folder.join("vkey")).expect("the verifier key");
    let mut command = tokio::process::Command::new(program("ward-verify"));
    let output = command.arg(folder).args(["--key", key.trim()]).output().await.expect("ward-verify runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    key.split('+').next().expect("a name").to_owned()
}

async fn who_saw(node: &Process, patient: &str) -> Vec<String> {
    let answer = node.get("privacy-osei", &format!("/admin/audit/who-saw/ehr/{patient}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = answer.json();
    assert_eq!((&answer["unreadable"], &answer["hidden"]), (&Value::from(0), &Value::from(0)));
    let lines = answer["accesses"].as_array().expect("accesses").iter();
    lines.map(|line| format!("{} {} {}", line["at"], line["principal"], line["decision"])).collect()
}

/// Waits until both targets have everything, but for what is on its way: each question is a record itself.
async fn whole(node: &Process) -> Value {
    loop {
        let status = node.client.get("/admin/audit/status", None).await.expect("a status");
        let targets = status["targets"].as_array().expect("targets");
        if targets.len() == 2 && targets.iter().all(|target| target["lost"] == false && target["missed"] == 0) {
            return status;
        }
        tokio::task::yield_now().await;
    }
}

/// Waits until a target writes a log of this name.
async fn until_origin(node: &Process, origin: &str) {
    while !whole(node).await["targets"].as_array().expect("targets").iter().any(|target| target["origin"] == origin) {
        tokio::task::yield_now().await;
    }
}

async fn a_patient(node: &Process) -> String {
    let sent = node.send_all("adt-main", [adt("C1", "A01", "M1", "Audited").as_slice()]).await;
    assert!(sent[0].is_ok());
    node.settle().await;
    let bundle = node.get("dr-lee", "/fhir/ehr/Patient").await.json();
    bundle["entry"][0]["resource"]["id"].as_str().expect("an id").to_owned()
}

async fn look(node: &Process, patient: &str, times: usize) {
    let token = node.token("dr-lee").await;
    let mut https = node.https().await;
    for _ in 0..times {
        assert_eq!(https.get(&format!("/fhir/ehr/Patient/{patient}"), &token).await.expect("an answer").status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_targets_fill_up_what_one_has_lost() {
    let folder = mesh_folder();
    let (first, second) = (folder.path().join("data/logs/audit"), folder.path().join("audit-second/audit"));
    let old: TempDir = tempfile::tempdir().expect("a temporary folder");
    let node = Process::start(folder.path()).await;
    let patient = a_patient(&node).await;
    look(&node, &patient, 5).await;
    assert_eq!(whole(&node).await["targets"][1]["origin"], "suite/audit-second");
    node.stop().await;
    copy(&first, old.path());

    // The second is deleted under the running node: it is begun anew under another name, and filled.
    let node = Process::start(folder.path()).await;
    look(&node, &patient, 5).await;
    std::fs::rename(&second, folder.path().join("gone")).expect("the second folder goes");
    look(&node, &patient, 5).await;
    until_origin(&node, "suite/audit-second.2").await;
    assert!(second.join("witness-log").is_file(), "an old copy of the first would not be known");
    let seen = who_saw(&node, &patient).await;
    assert!(seen.len() >= 16, "{seen:?}");
    node.kill().await;

    // The first comes back from an old copy: it is set aside, and another is begun.
    std::fs::remove_dir_all(&first).expect("the first folder goes");
    copy(old.path(), &first);
    let node = Process::start(folder.path()).await;
    until_origin(&node, "suite/audit.2").await;
    assert!(first.with_file_name("audit.aside-1").is_dir(), "an old copy is kept to be looked into");
    assert!(who_saw(&node, &patient).await.starts_with(&seen), "an access was lost");
    look(&node, &patient, 1).await;
    node.stop().await;

    // Without the first, and without the index, nothing is missing.
    std::fs::remove_dir_all(&first).expect("the first folder goes");
    std::fs::remove_dir_all(folder.path().join("data/audit-index")).expect("the index goes");
    let node = Process::start(folder.path()).await;
    let again = who_saw(&node, &patient).await;
    assert!(again.starts_with(&seen) && again.len() > seen.len(), "an access was lost");
    until_origin(&node, "suite/audit.3").await;
    let status = whole(&node).await;
    assert_eq!(status["targets"][0]["origin"], "suite/audit.3");
    assert!(status["index"]["records"].as_u64().is_some_and(|records| records > 20), "{status}");
    node.stop().await;
    assert_eq!(verify(&first).await, "suite/audit.3");
    assert_eq!(verify(&second).await, "suite/audit-second.2");
    verify(&first.with_file_name("audit.aside-1")).await;
}

/// Treatment is not listed, research is; the paper shows nothing of the inside.
#[tokio::test(flavor = "multi_thread")]
async fn audit_accounts_for_disclosures_on_paper() {
    let mesh = Mesh::start().await;
    mesh.send_all(
        "adt-main",
        [adt("C1", "A01", "M1", "Accounted"), adt("C2", "A01", "M2", "Other")].iter().map(Vec::as_slice),
    )
    .await;
    mesh.settle().await;
    mesh.build("ehr", "patients").await;
    let bundle = mesh.get("dr-lee", "/fhir/ehr/Patient?family=Accounted").await.json();
    let patient = bundle["entry"][0]["resource"]["id"].as_str().expect("an id").to_owned();
    assert_eq!(mesh.get("dr-lee", &format!("/fhir/ehr/Patient/{patient}")).await.status, 200);
    for _ in 0..3 {
        assert_eq!(mesh.sql("rio-researcher", "SELECT gender FROM ehr.patients").await.status, 200);
    }
    let path = format!("/admin/audit/disclosures/ehr/{patient}");
    let accounting = mesh.get("privacy-osei", &path).await.json();
    let lines = accounting["disclosures"].as_array().expect("disclosures");
    assert_eq!((lines.len(), &lines[0]["times"]), (1, &Value::from(3)), "{accounting}");
    assert!(
        lines[0]["recipient"]["name"].as_str().is_some_and(|name| name.contains("State University")),
        "{accounting}"
    );
    assert_eq!(accounting["excluded"]["treatment-payment-operations"], 2);
    assert_eq!(mesh.get("dr-lee", &path).await.status, 403);
    assert_eq!(mesh.get("privacy-osei", &format!("{path}?from=yesterday")).await.status, 400);
    assert_eq!(
        mesh.get("privacy-osei", &format!("{path}?to=2001-01-31")).await.json()["disclosures"],
        Value::Array(vec![])
    );

    // On paper, by the command line.
    let (at, named) = (mesh.path().to_owned(), format!("Patient/{patient}"));
    let page = at.join("accounting.html");
    for (report, file) in [("disclosures", page.as_path()), ("who-saw", &at.join("saw.txt"))] {
        let print = file.to_str().expect("a path");
        let done = ward(&at, &["audit", report, "ehr", &named, "--as", "privacy-osei", "--print", print]).await;
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let paper = std::fs::read_to_string(file).expect("a report");
        assert!(paper.contains("Tanaka"), "{paper}");
        for inside in [patient.as_str(), "rio-researcher", "dr-lee", "dua-outcomes", "127.0.0.1", "Other", "SELECT"] {
            assert!(!paper.contains(inside), "`{inside}` in {paper}");
        }
    }
    assert!(std::fs::read_to_string(at.join("saw.txt")).expect("a report").contains("Jordan Lee, MD"));
    suspended(&mesh, &patient).await;
    handed_on(&mesh, &patient).await;
    mesh.stop().await;
}

async fn manage(mesh: &Mesh, who: &str, path: &str, body: &Value) -> ward::wire::HttpAnswer {
    let token = mesh.token(who).await;
    let headers = [("content-type", "application/json")];
    mesh.https().await.call(Method::POST, path, Some(&token), &headers, body.to_string()).await.expect("an answer")
}

/// An agency asks that the patient is not told for a time (45 CFR 164.528(a)(2)); then the patient is told.
async fn suspended(mesh: &Mesh, patient: &str) {
    let accounting = format!("/admin/audit/disclosures/ehr/{patient}");
    let lines = async || mesh.get("privacy-osei", &accounting).await.json();
    let name = lines().await["disclosures"][0]["recipient"]["name"].as_str().expect("a name").to_owned();
    let (_, agency) = name.split_once(", ").expect("a person of an organisation");
    let asked = |statement: &str, until: &str| {
        json!({
            "domain": "ehr", "patient": patient, "agency": agency, "authority": "health-oversight",
            "statement": statement, "official": "Inspector Roe; file 7 of the privacy office", "until": until,
        })
    };
    let path = "/admin/suspensions";
    for (who, statement, until, status) in [
        ("dr-lee", "written", "2999-12-31", 403),
        ("privacy-osei", "oral", "2999-12-31", 400),
        ("privacy-osei", "written", "2001-12-31", 400),
        ("privacy-osei", "written", "soon", 400),
        ("privacy-osei", "spoken", "2999-12-31", 400),
    ] {
        let answer = manage(mesh, who, path, &asked(statement, until)).await;
        assert_eq!(answer.status, status, "{who} {statement} {until}: {}", answer.text());
    }
    let made = manage(mesh, "privacy-osei", path, &asked("written", "2999-12-31")).await;
    assert_eq!(made.status, 200, "{}", made.text());
    let left = lines().await;
    assert_eq!((&left["disclosures"], &left["suspended"]), (&json!([]), &json!(3)), "{left}");
    for report in ["disclosures", "who-saw"] {
        let paper = mesh.get("privacy-osei", &format!("/admin/audit/{report}/ehr/{patient}?as=text")).await.text();
        assert!(!paper.contains(agency) && !paper.contains("NOT COMPLETE"), "{paper}");
    }
    let standing = mesh.get("privacy-osei", path).await.json();
    assert_eq!(standing["suspensions"][0]["stands"], true, "{standing}");
    let end = format!("{path}/{}/end", made.json()["suspension"]);
    let reason = json!({ "reason": "the inspection is over" });
    assert_eq!(manage(mesh, "privacy-osei", &end, &reason).await.status, 200);
    assert_eq!(manage(mesh, "privacy-osei", &end, &reason).await.status, 404, "it is over");
    assert_eq!(lines().await["disclosures"][0]["times"], 3);
}

/// A caller says to whom an answer is handed on; the accounting names that recipient.
async fn handed_on(mesh: &Mesh, patient: &str) {
    let token = mesh.token("rio-researcher").await;
    let headers = [("content-type", "application/sql"), ("x-disclosed-to", "County Registry")];
    let sql = "SELECT gender FROM ehr.patients";
    let answer = mesh.https().await.call(Method::POST, "/sql", Some(&token), &headers, sql).await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let accounting = mesh.get("privacy-osei", &format!("/admin/audit/disclosures/ehr/{patient}")).await.json();
    let lines = accounting["disclosures"].as_array().expect("disclosures");
    let line = lines.iter().find(|line| line["recipient"]["name"] == "County Registry");
    assert!(
        line.is_some_and(|line| line["purpose"].as_str().is_some_and(|why| why.starts_with("research"))),
        "{lines:?}"
    );
}
