//! Renderings of the audit log, judged by tools of others: FHIR AuditEvent through its door and by PyPI fhir.resources,
//! ATNA by xmllint, OCSF by two PyPI models; and shipping to a real rsyslog over TLS that is killed on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Output;

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::harness::{Mesh, Process, append, edit, mesh_folder, program, ward};

const BALP: &str = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit.";
const FAMILY: &str = "Rendleworth";

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}: {}{}", output.status, text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn patient(n: usize) -> Value {
    json!({
        "resourceType": "Patient",
        "identifier": [{ "system": "urn:oid:1.2.3", "value": format!("MRN-7741-{n}") }],
        "name": [{ "family": FAMILY }],
    })
}

/// Events of a searchset.
fn events(bundle: &Value) -> Vec<Value> {
    let entries = bundle["entry"].as_array().cloned().unwrap_or_default();
    entries.into_iter().map(|entry| entry["resource"].clone()).collect()
}

fn next_link(bundle: &Value) -> Option<String> {
    let links = bundle["link"].as_array()?;
    let next = links.iter().find(|link| link["relation"] == "next")?["url"].as_str()?;
    next.split_once("/fhir/").map(|(_, path)| format!("/fhir/{path}"))
}

fn profile(event: &Value) -> &str {
    event["meta"]["profile"][0].as_str().and_then(|url| url.strip_prefix(BALP)).unwrap_or_default()
}

/// Elements of a list whose `type` has this code.
fn typed<'a>(event: &'a Value, list: &str, code: &str) -> Vec<&'a Value> {
    let is = |item: &&Value| item["type"]["code"] == code || item["type"]["coding"][0]["code"] == code;
    event[list].as_array().into_iter().flatten().filter(is).collect()
}

/// What the BALP profile that an event names asks of it.
fn check_balp(event: &Value) {
    let profile = profile(event);
    let (pattern, is_patient) = match profile.strip_prefix("Patient") {
        Some(pattern) => (pattern, true),
        None => (profile, false),
    };
    // Subtypes, action, client, server.
    let (subtypes, action, client, server): (&[&str], _, _, _) = match pattern {
        "Read" => (&["read", "vread"][..], "R", "110152", "110153"),
        "Query" => (&["search-type"][..], "E", "110153", "110152"),
        "Create" => (&["create"][..], "C", "110153", "110152"),
        "Update" => (&["update", "patch"][..], "U", "110153", "110152"),
        "Delete" => (&["delete"][..], "D", "110150", "custodian"),
        _ => panic!("no profile of BALP: {profile}"),
    };
    assert_eq!((&event["type"]["code"], &event["outcome"]), (&json!("rest"), &json!("0")), "{event}");
    assert_eq!(event["action"], action, "{event}");
    let own = event["subtype"].as_array().expect("subtypes");
    assert_eq!(
        own.iter()
            .filter(|code| subtypes
                .iter()
                .any(|known| code["code"] == *known && code["system"] == "http://hl7.org/fhir/restful-interaction"))
            .count(),
        1,
        "{event}"
    );
    for code in [client, server] {
        let agents = typed(event, "agent", code);
        assert_eq!(agents.len(), 1, "{code}: {event}");
        assert!(agents[0]["who"].is_object() && agents[0]["network"].is_object() && agents[0].get("media").is_none());
    }
    let user = if matches!(pattern, "Read" | "Query") { "IRCP" } else { "AUT" };
    let users = typed(event, "agent", user);
    assert!(users.len() == 1 && users[0]["requestor"] == true && users[0].get("network").is_none(), "{event}");
    let objects = typed(event, "entity", "2");
    assert_eq!(objects.len(), 1, "{event}");
    if pattern == "Query" {
        assert_eq!(objects[0]["role"]["code"], "24");
        assert!(
            objects[0]["query"].is_string() && objects[0].get("what").is_none() && objects[0].get("detail").is_none()
        );
    } else {
        assert!(
            objects[0]["what"].is_object() && ["3", "4", "20"].iter().any(|role| objects[0]["role"]["code"] == *role)
        );
    }
    assert!(
        typed(event, "entity", "XrequestId").iter().all(|entity| entity["what"]["identifier"]["value"].is_string())
    );
    if is_patient {
        let patients = typed(event, "entity", "1");
        assert!(patients.len() == 1 && patients[0]["role"]["code"] == "1" && patients[0]["what"]["type"] == "Patient");
    }
}

/// FHIR writes, reads, a search and a refusal; the id of the first of two patients.
async fn hospital_day(mesh: &Mesh) -> String {
    let mut ids = Vec::new();
    for n in 0..2 {
        let created = mesh.post_fhir("dr-lee", "/fhir/ehr/Patient", &patient(n)).await;
        assert_eq!(created.status, StatusCode::CREATED, "{}", created.text());
        ids.push(created.json()["id"].as_str().expect("an id").to_owned());
    }
    assert_eq!(mesh.get("dr-lee", &format!("/fhir/ehr/Patient/{}", ids[0])).await.status, 200);
    assert_eq!(mesh.get("dr-lee", &format!("/fhir/ehr/Patient?family={FAMILY}")).await.status, 200);
    assert_eq!(mesh.get("ana-analyst", &format!("/fhir/ehr/Patient/{}", ids[0])).await.status, 403);
    ids.swap_remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn renderings_audit_events_through_the_fhir_door() {
    let mesh = Mesh::start().await;
    let id = hospital_day(&mesh).await;
    let search = async |query: &str| {
        let answer = mesh.get("privacy-osei", &format!("/fhir/ehr/AuditEvent{query}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        for phi in [FAMILY, "MRN-7741"] {
            assert!(!answer.text().contains(phi), "{phi} is in an AuditEvent");
        }
        answer.json()
    };
    let about = events(&search(&format!("?patient=Patient/{id}")).await);
    let kinds: Vec<(&str, &str)> =
        about.iter().map(|e| (profile(e), e["agent"][2]["name"].as_str().unwrap_or_default())).collect();
    // Newest first: refused, searched with another patient, read, and perhaps created: a writer sees whom they bring in
    // only where policy says so.
    assert_eq!(kinds[..3], [("", "ana-analyst"), ("Query", "dr-lee"), ("PatientRead", "dr-lee")]);
    assert!(kinds[3..].iter().all(|kind| *kind == ("PatientCreate", "dr-lee")), "{kinds:?}");
    about.iter().filter(|event| !profile(event).is_empty()).for_each(check_balp);
    for event in &about {
        let bytes = event.to_string();
        let value = fhir::json::parse(bytes.as_bytes(), &fhir::json::ParseLimits::default()).expect("JSON");
        assert_eq!(fhir::validate::validate(&value).len(), 0, "{bytes}");
    }
    // Whom the request named is referred to; the other patient of the search is a token alone.
    let people: Vec<bool> = typed(&about[1], "entity", "1")
        .iter()
        .map(|person| person["what"]["reference"] == format!("Patient/{id}"))
        .collect();
    assert_eq!(people.iter().filter(|known| **known).count(), 1, "{people:?}");
    assert_eq!(people.len(), 2);
    assert_eq!(about[0]["outcome"], "8");
    // The same by other criteria.
    let refused = events(&search("?outcome=8&agent-name=ana").await);
    assert_eq!(refused.iter().map(|event| &event["id"]).collect::<Vec<_>>(), [&about[0]["id"]]);
    let read = "?type=rest&subtype=http://hl7.org/fhir/restful-interaction|read&agent:identifier=urn:wardmesh:principal|dr-lee";
    assert_eq!(events(&search(read).await).len(), 1);
    assert_eq!(events(&search("?action=C").await).len(), 2);
    assert!(events(&search("?action=C").await).iter().all(|event| profile(event).ends_with("Create")));
    let recorded = about[2]["recorded"].as_str().expect("an instant");
    // A search that names no patient shows the same event with a token in the patient's place.
    let is_there = async |query: String| events(&search(&query).await).iter().any(|e| e["id"] == about[2]["id"]);
    assert!(is_there(format!("?date={recorded}")).await);
    assert!(!is_there(format!("?date=gt{recorded}")).await);
    assert_eq!(events(&search("?date=lt2000").await).len(), 0);
    // By id, and what is not there.
    let one =
        mesh.get("auditor-wu", &format!("/fhir/ehr/AuditEvent/{}", about[2]["id"].as_str().expect("an id"))).await;
    assert_eq!((one.status, one.json()["id"].clone()), (StatusCode::OK, about[2]["id"].clone()));
    let nobody = format!("{}-1", "0".repeat(32));
    for wrong in ["audit-99999999", "audit-01", "1", &id, &nobody] {
        assert_eq!(mesh.get("auditor-wu", &format!("/fhir/ehr/AuditEvent/{wrong}")).await.status, 404, "{wrong}");
    }
    let elsewhere = mesh
        .get("auditor-wu", &format!("/fhir/laboratory/AuditEvent/{}", about[2]["id"].as_str().expect("an id")))
        .await;
    assert_eq!(elsewhere.status, 404, "another domain's record is not there");
    // Reading the log is in the log.
    let of_log = mesh.get("auditor-wu", "/fhir/governance/AuditEvent?type=110101").await.json();
    let searches = events(&of_log);
    assert!(searches.len() > 10 && searches.iter().all(|event| event["type"]["code"] == "110101"));
}

#[tokio::test(flavor = "multi_thread")]
async fn renderings_pages_of_audit_events_are_whole_and_closed_to_others() {
    let mesh = Mesh::start().await;
    let id = hospital_day(&mesh).await;
    let mut path = "/fhir/ehr/AuditEvent?agent-name=dr-lee&_count=2&_sort=date".to_owned();
    let (mut ids, mut pages) = (Vec::new(), 0);
    loop {
        let page = mesh.get("privacy-osei", &path).await;
        assert_eq!(page.status, 200, "{}", page.text());
        let page = page.json();
        ids.extend(events(&page).iter().map(|event| event["id"].as_str().expect("an id").to_owned()));
        pages += 1;
        let Some(next) = next_link(&page) else { break };
        assert_eq!(mesh.get("auditor-wu", &next).await.status, 400, "a link opens for its own caller alone");
        path = next;
    }
    let whole = mesh.get("privacy-osei", "/fhir/ehr/AuditEvent?agent-name=dr-lee").await.json();
    let newest_first: Vec<String> =
        events(&whole).iter().map(|event| event["id"].as_str().expect("an id").to_owned()).collect();
    assert!(pages >= 2 && ids.len() >= 4, "{pages} pages, {ids:?}");
    assert_eq!(ids.iter().rev().cloned().collect::<Vec<_>>(), newest_first);
    for who in ["dr-lee", "nurse-kim", "eng-ehr", "ana-analyst"] {
        assert_eq!(mesh.get(who, "/fhir/ehr/AuditEvent").await.status, 403, "{who}");
    }
    for (query, status) in [
        ("?_total=accurate", 400),
        ("?entity-name=x", 400),
        ("?agent=Practitioner/1", 400),
        ("?agent.name=x", 400),
        ("?made-up=1", 400),
        ("?date=yesterday", 400),
        ("?patient=Patient/nobody", 200),
    ] {
        assert_eq!(mesh.get("auditor-wu", &format!("/fhir/ehr/AuditEvent{query}")).await.status, status, "{query}");
    }
    let on_all = mesh.get("auditor-wu", &format!("/fhir/governance/AuditEvent?patient={id}")).await;
    assert_eq!(on_all.status, 400, "patients are numbered by domain");
    let forged = mesh.post_fhir("dr-lee", "/fhir/ehr/AuditEvent", &json!({ "resourceType": "AuditEvent" })).await;
    assert_eq!(forged.status, 405, "{}", forged.text());
    assert_eq!(forged.json()["resourceType"], "OperationOutcome");
}

/// The log is written by the node alone: neither a person nor a feed puts an AuditEvent beside it, whichever way.
#[tokio::test(flavor = "multi_thread")]
async fn renderings_nobody_writes_what_the_server_owns() {
    let mesh = Mesh::start().await;
    let event = json!({
        "resourceType": "AuditEvent", "id": "forged", "recorded": "2026-01-01T00:00:00Z",
        "type": { "system": "http://terminology.hl7.org/CodeSystem/audit-event-type", "code": "rest" },
        "agent": [{ "requestor": true }], "source": { "observer": { "display": "x" } },
    });
    for who in ["dr-lee", "bedside-gateway"] {
        for kind in ["transaction", "batch"] {
            for (method, url) in
                [("POST", "AuditEvent"), ("PUT", "AuditEvent/forged"), ("DELETE", "/AuditEvent/forged")]
            {
                let mut entry = json!({ "request": { "method": method, "url": url } });
                if method != "DELETE" {
                    entry["resource"] = event.clone();
                }
                let bundle = json!({ "resourceType": "Bundle", "type": kind, "entry": [entry] });
                let answer = mesh.post_fhir(who, "/fhir/ehr", &bundle).await;
                let inner = answer.json()["entry"][0]["response"]["status"].as_str().map(str::to_owned);
                let refused =
                    answer.status == 405 || answer.status == 200 && inner.is_some_and(|s| s.starts_with("405"));
                assert!(refused, "{who} {kind} {method}: {} {}", answer.status, answer.text());
            }
        }
        for owned in ["CapabilityStatement", "OperationOutcome", "Parameters"] {
            let answer = mesh.post_fhir(who, &format!("/fhir/ehr/{owned}"), &json!({ "resourceType": owned })).await;
            assert!(answer.status.is_client_error(), "{who} {owned}: {} {}", answer.status, answer.text());
        }
    }
    mesh.settle().await;
    let ehr = base::DomainName::parse("ehr").expect("a domain");
    let stored = mesh.doors.silver.resource_counts(&ehr).await.expect("counts");
    assert!(stored.iter().all(|(rtype, _)| !fhir::definitions::is_server_owned(rtype)), "{stored:?}");
    mesh.stop().await;
}

/// Traffic of every kind that the doors have.
async fn traffic(process: &Process, from: usize, patients: usize) {
    for n in from..from + patients {
        let created =
            process.post("dr-lee", "/fhir/ehr/Patient", "application/fhir+json", patient(n).to_string()).await;
        assert_eq!(created.status, 201, "{}", created.text());
        let id = created.json()["id"].as_str().expect("an id").to_owned();
        assert_eq!(process.get("dr-lee", &format!("/fhir/ehr/Patient/{id}")).await.status, 200);
        assert_eq!(process.get("nurse-kim", &format!("/fhir/ehr/Patient/{id}/_history")).await.status, 200);
    }
    process.get("dr-lee", &format!("/fhir/ehr/Patient?family={FAMILY}")).await;
    process.get("ana-analyst", "/fhir/ehr/Patient").await;
    let stranger = process.https().await.get("/fhir/ehr/Patient", "no.such.token").await.expect("an answer");
    assert_eq!(stranger.status, 401);
    let build = process.post("eng-ehr", "/admin/products/ehr/patients/build", "application/json", "").await;
    assert_eq!(build.status, 200, "{}", build.text());
    let sql = "SELECT count(*) FROM ehr.patients";
    assert_eq!(process.post("ana-analyst", "/sql", "application/sql", sql).await.status, 200);
}

/// `ward audit export` of everything until now, by index.
async fn export(folder: &Path, format: &str) -> BTreeMap<u64, String> {
    let out = folder.join(format!("export.{format}"));
    let path = out.display().to_string();
    said(&ward(folder, &["audit", "export", "--format", format, "--as", "auditor-wu", "--out", &path]).await);
    let text = std::fs::read_to_string(&out).expect("an export");
    assert!(!text.contains(FAMILY) && !text.contains("MRN-7741"), "{format} holds PHI");
    // An AuditEvent is known by the record's own name; its place in the log is that in the export.
    let index = |n: usize, line: &str| if format == "fhir" { Some(n as u64) } else { index_of(format, line) };
    text.lines().enumerate().map(|(n, line)| (index(n, line).expect("an index"), line.to_owned())).collect()
}

/// The record's place in the log, as a rendering says it; `None` for what is no whole rendering.
fn index_of(format: &str, line: &str) -> Option<u64> {
    let between = |from: &str, to: &str| line.split(from).nth(1)?.split(to).next()?.parse().ok();
    match format {
        "ocsf" => serde_json::from_str::<Value>(line).ok()?["metadata"]["sequence"].as_u64(),
        "cef" => between("externalId=", " ").filter(|_| line.starts_with("CEF:0|Wardmesh|ward|")),
        _ => {
            use base64::Engine;
            let value =
                line.ends_with("</AuditMessage>").then_some(line)?.split("type=\"log-index\" value=\"").nth(1)?;
            let bytes = base64::engine::general_purpose::STANDARD.decode(value.split('"').next()?).ok()?;
            String::from_utf8(bytes).ok()?.parse().ok()
        }
    }
}

fn client(name: &str) -> PathBuf {
    let client = program("ward").ancestors().nth(2).expect("the target folder").join("clients/bin").join(name);
    assert!(client.exists(), "{} is missing: run `scripts/setup --tests`", client.display());
    client
}

async fn judge(format: &str, file: &Path) -> usize {
    let judge = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judges/audit.py");
    let output = tokio::process::Command::new(client("python")).arg(judge).arg(format).arg(file).output().await;
    said(&output.expect("python runs")).trim().parse().expect("a count")
}

/// xmllint, with the schema of DICOM PS3.15 A.5.1, over many messages at once.
async fn xmllint(messages: impl Iterator<Item = &str>) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = tokio::process::Command::new("xmllint");
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("../herald/schema/atna.rng");
    command.arg("--noout").arg("--relaxng").arg(schema);
    for (n, message) in messages.enumerate() {
        let file = folder.path().join(format!("{n}.xml"));
        std::fs::write(&file, message).expect("a file");
        command.arg(file);
    }
    said(&command.output().await.expect("xmllint runs (scripts/setup --tests)"));
}

#[tokio::test(flavor = "multi_thread")]
async fn renderings_exports_are_accepted_by_the_tools_of_others() {
    let folder = mesh_folder();
    let process = Process::start(folder.path()).await;
    traffic(&process, 0, 3).await;
    let fhir = export(folder.path(), "fhir").await;
    let indexes: Vec<u64> = fhir.keys().copied().collect();
    assert!(indexes.len() > 15 && indexes.iter().copied().eq(0..indexes.len() as u64), "{indexes:?}");
    for format in ["ocsf", "atna", "cef"] {
        let more = export(folder.path(), format).await;
        assert!(indexes.iter().all(|index| more.contains_key(index)), "{format} has every record");
    }
    let lines =
        |format: &str| std::fs::read_to_string(folder.path().join(format!("export.{format}"))).expect("an export");
    assert_eq!(judge("fhir", &folder.path().join("export.fhir")).await, indexes.len());
    assert_eq!(judge("ocsf", &folder.path().join("export.ocsf")).await, lines("ocsf").lines().count());
    xmllint(lines("atna").lines()).await;
    for event in fhir.values().map(|line| serde_json::from_str::<Value>(line).expect("JSON")) {
        if !profile(&event).is_empty() {
            check_balp(&event);
        }
    }
    let classes: BTreeSet<u64> = lines("ocsf")
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).expect("JSON")["class_uid"].as_u64())
        .collect();
    assert_eq!(classes, BTreeSet::from([3002, 6003, 6005]));
    // A span, and who may not.
    let out = folder.path().join("old").display().to_string();
    let span = ["audit", "export", "--format", "cef", "--to", "2000-01-01", "--as", "auditor-wu", "--out", &out];
    assert_eq!(said(&ward(folder.path(), &span).await).split(' ').next(), Some("0"));
    let refused = ward(folder.path(), &["audit", "export", "--format", "cef", "--as", "dr-lee", "--out", &out]).await;
    assert!(!refused.status.success());
    process.stop().await;
}

/// rsyslog with TLS by OpenSSL, writing what it gets before it reads on; one file per format, each record after a line
/// end, so that one that was cut by `kill -9` spoils no other.
struct Rsyslog {
    folder: tempfile::TempDir,
    port: u16,
    child: Option<tokio::process::Child>,
}

impl Rsyslog {
    fn prepare() -> Rsyslog {
        let folder = tempfile::tempdir().expect("a folder");
        net::DevCertificates::ensure(folder.path()).expect("certificates");
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
        let at = folder.path().display();
        let config = format!(
            r#"global(workDirectory="{at}" maxMessageSize="256k" defaultNetstreamDriver="ossl"
  defaultNetstreamDriverCAFile="{at}/ca.pem" defaultNetstreamDriverCertFile="{at}/server.pem"
  defaultNetstreamDriverKeyFile="{at}/server.key")
main_queue(queue.type="Direct")
module(load="imtcp" StreamDriver.Name="ossl" StreamDriver.Mode="1" StreamDriver.AuthMode="anon")
template(name="one" type="string" string="\n%msg%")
template(name="file" type="string" string="{at}/%msgid%.out")
input(type="imtcp" port="{port}" address="127.0.0.1")
action(type="omfile" dynaFile="file" template="one" queue.type="Direct" asyncWriting="off" flushOnTXEnd="on")
"#
        );
        std::fs::write(folder.path().join("rsyslog.conf"), config).expect("a file");
        Rsyslog { folder, port, child: None }
    }

    fn start(&mut self) {
        let at = self.folder.path();
        let mut command = tokio::process::Command::new("rsyslogd");
        command.arg("-n").arg("-f").arg(at.join("rsyslog.conf")).arg("-i").arg(at.join("pid")).kill_on_drop(true);
        let log = std::fs::File::create(at.join("rsyslog.log")).expect("a file");
        command.stderr(log);
        self.child = Some(command.spawn().expect("rsyslogd runs (scripts/setup --tests)"));
    }

    async fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().await.expect("it can be killed");
        let _ = std::fs::remove_file(self.folder.path().join("pid"));
    }

    /// Whole records by index, each with how often it came.
    fn received(&self, format: &str) -> BTreeMap<u64, Vec<String>> {
        let file = match format {
            "atna" => "DICOM+RFC3881",
            "ocsf" => "OCSF",
            _ => "CEF",
        };
        let text = std::fs::read_to_string(self.folder.path().join(format!("{file}.out"))).unwrap_or_default();
        let mut out = BTreeMap::<u64, Vec<String>>::new();
        for line in text.lines() {
            if let Some(index) = index_of(format, line) {
                out.entry(index).or_default().push(line.to_owned());
            }
        }
        out
    }
}

/// The node's own port is another after a restart.
fn without_port(line: &str) -> String {
    let mut parts = line.split("https://127.0.0.1:");
    let first = parts.next().unwrap_or_default().to_owned();
    first + &parts.map(|part| part.trim_start_matches(|c: char| c.is_ascii_digit())).collect::<String>()
}

async fn shippers(process: &Process) -> Vec<Value> {
    let status = process.client.get("/admin/audit/shipping", None).await.expect("a status");
    status["shippers"].as_array().cloned().expect("shippers")
}

#[tokio::test(flavor = "multi_thread")]
async fn renderings_every_record_reaches_a_real_rsyslog_that_is_killed_on_the_way() {
    let mut rsyslog = Rsyslog::prepare();
    let folder = mesh_folder();
    std::fs::copy(rsyslog.folder.path().join("ca.pem"), folder.path().join("siem-ca.pem")).expect("a copy");
    for format in ["atna", "ocsf", "cef"] {
        let receiver = format!(
            "\n[[audit.ship]]\nname = \"siem-{format}\"\nto = \"syslog+tls://localhost:{}\"\nformat = \"{format}\"\n\
             authority = \"siem-ca.pem\"\ninternal = true\n",
            rsyslog.port
        );
        append(folder.path(), "mesh.toml", &receiver);
    }
    // The receiver is not there yet.
    let process = Process::start(folder.path()).await;
    traffic(&process, 0, 2).await;
    while !shippers(&process).await.iter().all(|shipper| shipper["trouble"].is_string()) {
        tokio::task::yield_now().await;
    }
    rsyslog.start();
    // Killed three times while records come; the node once, too.
    for round in 1..=3 {
        while rsyslog.received("cef").len() < round * 10 {
            tokio::task::yield_now().await;
        }
        traffic(&process, round * 10, 2).await;
        rsyslog.kill().await;
        traffic(&process, round * 10 + 5, 2).await;
        rsyslog.start();
    }
    process.kill().await;
    let process = Process::start(folder.path()).await;
    traffic(&process, 50, 1).await;
    let wanted: BTreeMap<&str, BTreeMap<u64, String>> = BTreeMap::from([
        ("atna", export(folder.path(), "atna").await),
        ("ocsf", export(folder.path(), "ocsf").await),
        ("cef", export(folder.path(), "cef").await),
    ]);
    let last = wanted["cef"].keys().last().copied().expect("records");
    while !shippers(&process).await.iter().all(|shipper| shipper["next"].as_u64() > Some(last)) {
        tokio::task::yield_now().await;
    }
    let status = shippers(&process).await;
    for (format, wanted) in &wanted {
        let received = rsyslog.received(format);
        for (index, line) in wanted {
            let came = received.get(index).unwrap_or_else(|| panic!("{format}: record {index} never arrived"));
            let same = came.iter().all(|came| without_port(came) == without_port(line));
            assert!(same, "{format}: record {index} arrived changed");
        }
        assert!(!received.values().flatten().any(|line| line.contains(FAMILY) || line.contains("MRN-7741")));
        let again: usize = received.values().map(|came| came.len() - 1).sum();
        eprintln!("{format}: {} records arrived, {again} of them came again; {}", received.len(), status[0]);
    }
    xmllint(rsyslog.received("atna").values().flatten().map(String::as_str)).await;
    let metrics = process.https().await.get("/metrics", "").await.expect("metrics").text();
    assert!(metrics.contains("ward_audit_ship_behind{shipper=\"siem-atna\"}"), "{metrics}");
    let shown = said(&ward(folder.path(), &["ship", "status"]).await);
    assert!(shown.contains("siem-ocsf ocsf to syslog+tls://localhost"), "{shown}");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn renderings_no_receiver_without_an_agreement() {
    let folder = mesh_folder();
    let receiver = |to: &str, rest: &str| {
        format!(
            "\n[[audit.ship]]\nname = \"siem\"\nto = \"{to}\"\nformat = \"cef\"\nauthority = \"tls/ca.pem\"\n{rest}\n"
        )
    };
    let plain = std::fs::read_to_string(folder.path().join("mesh.toml")).expect("a file");
    for (to, rest, why) in [
        ("syslog+tls://siem.example:6514", "", "no agreement covers"),
        ("syslog+tls://8.8.8.8:6514", "internal = true", "its address is public"),
        ("syslog+tls://siem.example:6514", "agreement = \"none\"", "which is not there"),
        ("syslog+tls://siem.example:6514", "agreement = \"dua-outcomes\"", "no business associate agreement"),
        ("syslog+tls://siem.example:6514", "agreement = \"dua-outcomes\"\ninternal = true", "says `internal`"),
        ("syslog://siem.example:514", "internal = true", "no usable `to`"),
        ("syslog+tls://siem.example:6514", "internal = true\ncertificate = \"tls/client.pem\"", "without its key"),
    ] {
        std::fs::write(folder.path().join("mesh.toml"), format!("{plain}{}", receiver(to, rest))).expect("a file");
        let output = ward(folder.path(), &["check"]).await;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && error.contains(why), "{to} {rest}: {error}");
    }
    std::fs::write(
        folder.path().join("mesh.toml"),
        format!("{plain}{}", receiver("syslog+tls://siem.example:6514", "agreement = \"dua-outcomes\"")),
    )
    .expect("a file");
    edit(folder.path(), "agreements/dua-outcomes.toml", "data-use", "business-associate");
    said(&ward(folder.path(), &["check"]).await);
}
