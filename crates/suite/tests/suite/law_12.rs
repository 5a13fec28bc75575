//! Law 12: care goes on. Break-glass is decided on the node: two steps, one patient, every door, a review; over a restart
//! and a clock that is set back.

use std::path::Path;
use std::sync::Arc;

use base::ManualClock;
use hyper::Method;
use serde_json::{Value, json};
use ward::wire::HttpAnswer;

use crate::harness::{Mesh, Process, adt, append, mesh_folder, ward};

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

/// Asks until the targets are as told; a second between two looks is the node's own. The question is on record like
/// any other, so it is refused as long as no target takes a record.
async fn until(process: &Process, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    loop {
        let status = process.client.get("/admin/audit/status", None).await;
        if let Some(targets) = status.ok().and_then(|status| status["targets"].as_array().cloned())
            && wanted(&targets)
        {
            return targets;
        }
        tokio::task::yield_now().await;
    }
}

fn lost(targets: &[Value], name: &str) -> bool {
    targets.iter().any(|target| target["name"] == name && target["lost"] == true)
}

/// Takes a folder away, and puts a file in its place so that nobody makes it again.
fn take_away(folder: &Path) {
    std::fs::rename(folder, folder.with_extension("away")).expect("a folder to take away");
    std::fs::write(folder, "not a folder").expect("a writable place");
}

fn bring_back(folder: &Path) {
    std::fs::remove_file(folder).expect("the file in its place");
    std::fs::rename(folder.with_extension("away"), folder).expect("the folder");
}

fn request(patient: &str) -> String {
    json!({ "domain": "ehr", "patient": patient, "category": "system-fault", "reason": "one target is lost" })
        .to_string()
}

/// The status of a physician's read in a session of break-glass, both steps first.
async fn breaks_the_glass(process: &Process, patient: &str) -> u16 {
    let asked = process.post("dr-lee", "/admin/break-glass", "application/json", request(patient)).await;
    assert_eq!(asked.status, 202, "{}", asked.text());
    let session = asked.json()["session"].as_str().expect("a session").to_owned();
    let confirm = format!("/admin/break-glass/{session}/confirm");
    let confirmed = process.post("dr-lee", &confirm, "application/json", "").await;
    assert_eq!(confirmed.status, 201, "{}", confirmed.text());
    let token = process.token("dr-lee").await;
    let path = format!("/fhir/ehr/Patient/{patient}");
    let headers = [("x-break-glass", session.as_str())];
    process.https().await.call(Method::GET, &path, Some(&token), &headers, "").await.expect("an answer").status.as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn law_12_either_audit_target_suffices_and_the_lost_one_is_filled_up_again() {
    let folder = mesh_folder();
    let process = Process::start(folder.path()).await;
    let patient = restricted("ZQXONE").to_string();
    let posted = process.post("bedside-gateway", "/fhir/ehr/Patient", "application/fhir+json", patient).await;
    let patient = posted.json()["id"].as_str().expect("an id").to_owned();
    process.settle().await;
    let (first, second) = (folder.path().join("data/logs/audit"), folder.path().join("audit-second"));
    until(&process, |targets| targets.len() == 2 && targets.iter().all(|target| target["lost"] == false)).await;

    // The second is lost at run time: an alarm, and care goes on.
    take_away(&second);
    until(&process, |targets| lost(targets, "second") && !lost(targets, "log")).await;
    let metrics = process.get("dr-lee", "/metrics").await.text();
    assert!(metrics.contains("ward_audit_target_lost{target=\"second\"} 1"), "{metrics}");
    for _ in 0..20 {
        assert_eq!(process.get("dr-lee", "/fhir/ehr/Patient").await.status, 200);
    }
    assert_eq!(breaks_the_glass(&process, &patient).await, 200, "break-glass with one target");

    // Both are lost: no record, no release, and whoever asks is told when to ask again. Break-glass is no way around.
    let token = process.token("dr-lee").await;
    let officer = process.token("privacy-osei").await;
    take_away(&first);
    let refused = loop {
        let answer = send(&process, &token, Method::GET, "/fhir/ehr/Patient", "").await;
        if answer.status != 200 {
            break answer;
        }
    };
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.headers.contains_key("retry-after") && !refused.text().contains("ZQXONE"));
    let asked = send(&process, &token, Method::POST, "/admin/break-glass", &request(&patient)).await;
    assert_eq!(asked.status, 503, "break-glass without audit: {}", asked.text());
    assert!(asked.headers.contains_key("retry-after"));
    for path in ["/admin/audit/status", "/admin/holds", "/admin/suspensions", "/admin/break-glass"] {
        assert_eq!(send(&process, &officer, Method::GET, path, "").await.status, 503, "{path} without audit");
    }

    // Both come back, and each has every record in the end.
    bring_back(&first);
    bring_back(&second);
    let whole = |targets: &[Value]| {
        let same = targets.iter().all(|target| target["records"] == targets[0]["records"]);
        same && targets.iter().all(|target| target["lost"] == false && target["missed"] == 0)
    };
    let all = until(&process, whole).await;
    assert!(all[0]["records"].as_u64() > Some(20), "{all:?}");
    assert_eq!(process.get("dr-lee", "/fhir/ehr/Patient").await.status, 200);
    assert_eq!(breaks_the_glass(&process, &patient).await, 200);
    process.stop().await;
    let verified = ward(folder.path(), &["audit", "verify"]).await;
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}

async fn send(process: &Process, token: &str, method: Method, path: &str, body: &str) -> HttpAnswer {
    let headers = [("content-type", "application/json")];
    process.https().await.call(method, path, Some(token), &headers, body.to_owned()).await.expect("an answer")
}

/// One target is gone before the node starts: it starts, serves and breaks the glass.
#[tokio::test(flavor = "multi_thread")]
async fn law_12_a_node_starts_with_one_audit_target_and_breaks_the_glass() {
    let folder = mesh_folder();
    let process = Process::start(folder.path()).await;
    let patient = restricted("ZQXONE").to_string();
    let posted = process.post("bedside-gateway", "/fhir/ehr/Patient", "application/fhir+json", patient).await;
    let patient = posted.json()["id"].as_str().expect("an id").to_owned();
    process.settle().await;
    process.kill().await;
    take_away(&folder.path().join("audit-second"));
    let process = Process::start(folder.path()).await;
    assert_eq!(breaks_the_glass(&process, &patient).await, 200);
    process.stop().await;
}

/// Two ways in one test: by a nurse, and by the node's own schedule. What is at rest holds nothing in the clear.
#[tokio::test(flavor = "multi_thread")]
async fn law_12_a_downtime_pack_is_read_without_the_node_and_its_openings_come_back() {
    let folder = mesh_folder();
    append(folder.path(), "mesh.toml", "\n[[downtime.ward]]\ndomain = \"ehr\"\nlocation = \"2N\"\n");
    let mesh = Process::start(folder.path()).await;
    for n in 0..3 {
        let message = adt(&format!("C{n}"), "A01", &format!("M{n}"), &format!("ZQXNAME{n}"));
        assert!(mesh.send_all("adt-main", [message.as_slice()]).await[0].is_ok());
    }
    let elsewhere = String::from_utf8(adt("C9", "A01", "M9", "ZQXELSEWHERE")).expect("text").replace("2N^101", "4E^7");
    assert!(mesh.send_all("adt-main", [elsewhere.as_bytes()]).await[0].is_ok());
    let labs = "MSH|^~\\&|LAB|GENHOSP|WARD|MESH|20261101120000||ORU^R01^ORU_R01|L1|P|2.5.1\r\
                PID|1||M1^^^GENHOSP^MR||ZQXNAME1^Test||19700203|F\r\
                OBR|1|P1|F1|24323-8^Panel^LN|||20261101110000||||||||||||||||||F\r\
                OBX|1|NM|2823-3^Potassium^LN||6.9|mmol/L^^UCUM|3.5-5.1|HH|||F|||20261101110000\r";
    assert!(mesh.send_all("lab-main", [labs.as_bytes()]).await[0].is_ok());
    mesh.settle().await;
    let pack = folder.path().join("by-nurse.pack");
    let out = pack.to_str().expect("a path");
    let made =
        ward(folder.path(), &["downtime-pack", "ehr", "--location", "2N", "--out", out, "--as", "nurse-kim"]).await;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    for who in ["admin-root", "ana-analyst", "tech-novak", "privacy-osei"] {
        let no =
            ward(folder.path(), &["downtime-pack", "ehr", "--location", "2N", "--out", "/dev/null", "--as", who]).await;
        assert!(!no.status.success(), "{who} made a pack");
    }
    let card = ["--json", "downtime-pack", "card", "ehr", "--location", "2N", "--days", "1", "--as", "nurse-kim"];
    let card = ward(folder.path(), &card).await;
    let card: Value = serde_json::from_slice(&card.stdout).expect("JSON");
    let code = card["codes"][0]["code"].as_str().expect("a code").to_owned();
    mesh.stop().await;

    // The node is down. With the code of the card the pack opens, and says that it was opened.
    let (shown, said) = open(&pack, &code).await;
    for name in ["ZQXNAME0", "ZQXNAME1", "ZQXNAME2"] {
        assert!(shown.contains(name), "{shown} {said}");
    }
    assert!(!shown.contains("ZQXELSEWHERE"), "a patient of another ward");
    let wrong = code.replace(|c: char| c.is_ascii_digit(), "7").replace('A', "B");
    assert!(wrong == code || open(&pack, &wrong).await.0.is_empty(), "another code opened the pack");
    for at_rest in [&pack, &folder.path().join("by-nurse.pack.opened")] {
        let bytes = std::fs::read(at_rest).expect("a file");
        assert!(!bytes.windows(7).any(|window| window == b"ZQXNAME"), "{} tells names", at_rest.display());
    }
    scheduled(folder.path(), &pack, &code).await;
}

/// Opens a pack as a person would; what is on standard output, and what on standard error.
async fn open(pack: &Path, code: &str) -> (String, String) {
    use tokio::io::AsyncWriteExt;
    let mut child = tokio::process::Command::new(crate::harness::program("ward"))
        .args(["downtime-pack", "open", "--by", "Kim, nurse"])
        .arg(pack)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("ward starts");
    child.stdin.take().expect("its input").write_all(format!("{code}\n").as_bytes()).await.expect("its input");
    let output = child.wait_with_output().await.expect("ward runs");
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The node is back: it makes a pack by its schedule, and takes over the record of openings, once.
async fn scheduled(folder: &Path, pack: &Path, code: &str) {
    let packs = || {
        let entries = std::fs::read_dir(folder.join("downtime")).into_iter().flatten().flatten();
        let packs = entries.map(|entry| entry.path());
        packs.filter(|path| path.extension().is_some_and(|extension| extension == "pack")).collect::<Vec<_>>()
    };
    // One was made when the node first started, before anybody was on the ward.
    let earlier = packs();
    let process = Process::start(folder).await;
    let made = loop {
        match packs().into_iter().find(|path| !earlier.contains(path)) {
            Some(path) => break path,
            None => tokio::task::yield_now().await,
        }
    };
    let (shown, said) = open(&made, code).await;
    // The node may read every domain, so the laboratory's critical value is in its packs.
    assert!(shown.contains("ZQXNAME2") && shown.contains("CRITICAL Potassium: 6.9 mmol/L [HH]"), "{shown} {said}");
    let log = format!("{}.opened", pack.display());
    for new in ["1 of them new", "0 of them new"] {
        let handed = ["downtime-pack", "reconcile", &log, "--domain", "ehr", "--as", "privacy-osei"];
        let handed = ward(folder, &handed).await;
        let said = String::from_utf8_lossy(&handed.stdout).into_owned();
        assert!(said.contains(new), "{said} {}", String::from_utf8_lossy(&handed.stderr));
    }
    let bundle = process.get("dr-lee", "/fhir/ehr/Patient?family=ZQXNAME0").await.json();
    let patient = bundle["entry"][0]["resource"]["id"].as_str().expect("an id");
    let saw = process.get("privacy-osei", &format!("/admin/audit/who-saw/ehr/{patient}")).await.json();
    let doors: Vec<&str> =
        saw["accesses"].as_array().into_iter().flatten().filter_map(|access| access["door"].as_str()).collect();
    for door in ["admin", "downtime"] {
        assert!(doors.contains(&door), "{door} of {doors:?}");
    }
    std::fs::write(&log, "{\"pack\":\"00\",\"n\":0,\"at_ms\":0,\"by\":\"x\",\"host\":\"y\"}\n")
        .expect("a writable file");
    let forged = ward(folder, &["downtime-pack", "reconcile", &log, "--domain", "ehr", "--as", "privacy-osei"]).await;
    assert!(!forged.status.success());
    process.stop().await;
}
