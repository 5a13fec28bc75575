//! Real clients, none of them ours: PyPI `hl7`'s `mllp_send`, `curl`; and the programs as people run them: every command of
//! `ward` against a running node, and `ward-verify`.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::harness::{Process, adt, mesh_folder, program, ward};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a command printed, if it succeeded.
fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}: {}{}", output.status, text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// The last line of what a command printed with `--json`.
fn json(output: &Output) -> Value {
    let said = said(output);
    serde_json::from_str(said.trim()).unwrap_or_else(|error| panic!("not JSON ({error}): {said}"))
}

async fn run(program: &Path, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command.output().await.unwrap_or_else(|error| panic!("{} does not run: {error}", program.display()))
}

/// `target/clients/bin/mllp_send`, which `scripts/setup --tests` puts there.
fn mllp_send() -> PathBuf {
    let target = program("ward").ancestors().nth(2).expect("the target folder").to_owned();
    let client = target.join("clients/bin/mllp_send");
    assert!(
        client.exists(),
        "{} is missing: run `scripts/setup --tests` (PyPI's hl7, for a real MLLP sender)",
        client.display()
    );
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_mllp_send_feeds_a_file_of_messages() {
    let folder = mesh_folder();
    let process = Process::start(folder.path()).await;
    let messages = tempfile::tempdir().expect("a folder");
    let port = process.mllp_address("adt-main").port().to_string();
    let client = mllp_send();
    // As MLLP frames, and as the loose text files that interface teams have.
    let framed: Vec<u8> =
        (0..20).flat_map(|n| hl7v2::mllp::frame(&adt(&format!("F{n}"), "A01", &format!("MF{n}"), "Framed"))).collect();
    let loose: String = (0..10)
        .map(|n| text(&adt(&format!("L{n}"), "A04", &format!("ML{n}"), "Loose")).replace('\r', "\r\n"))
        .collect();
    for (name, bytes, flag, count) in [("framed", framed, None, 20), ("loose", loose.into_bytes(), Some("--loose"), 10)]
    {
        let file = messages.path().join(name);
        std::fs::write(&file, bytes).expect("a file");
        let file = file.display().to_string();
        let mut arguments = vec!["--port", &port, "--file", &file];
        arguments.extend(flag);
        arguments.push("127.0.0.1");
        let output = run(&client, &arguments).await;
        let said = said(&output);
        assert_eq!(said.matches("MSA|AA|").count(), count, "{name}: {said}{}", text(&output.stderr));
    }
    process.settle().await;
    for (family, count) in [("Framed", 20), ("Loose", 10)] {
        let found =
            process.get("dr-lee", &format!("/fhir/ehr/Patient?family={family}&_count=0&_total=accurate")).await.json();
        assert_eq!(found["total"], count, "{family}: {found}");
    }
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_curl_reads_searches_and_creates() {
    let folder = mesh_folder();
    let process = Process::start(folder.path()).await;
    let token = process.token("dr-lee").await;
    let authority = folder.path().join("tls/ca.pem").display().to_string();
    let base = format!("https://{}/fhir/ehr", process.http);
    let bearer = format!("Authorization: Bearer {token}");
    let curl = async |arguments: &[&str]| -> (String, String) {
        let mut all = vec![
            "--silent",
            "--show-error",
            "--cacert",
            &authority,
            "--dump-header",
            "/dev/stderr",
            "--header",
            &bearer,
        ];
        all.extend(arguments);
        let output = run(Path::new("curl"), &all).await;
        (said(&output), text(&output.stderr).to_lowercase())
    };
    let fhir = "Content-Type: application/fhir+json";
    let patient = r#"{"resourceType":"Patient","name":[{"family":"Curled"}],"multipleBirthInteger":2}"#;
    let (body, headers) = curl(&["--header", fhir, "--data", patient, &format!("{base}/Patient")]).await;
    assert!(headers.starts_with("http/2 201") || headers.starts_with("http/1.1 201"), "{headers}{body}");
    assert!(headers.contains("etag: w/\"1\"") && headers.contains("location: https://"), "{headers}");
    let created: Value = serde_json::from_str(&body).expect("JSON");
    let id = created["id"].as_str().expect("an id");
    let url = format!("{base}/Patient/{id}");

    let (body, headers) = curl(&[&url]).await;
    assert!(
        headers.contains(" 200") && headers.contains("etag: w/\"1\"") && headers.contains("cache-control: no-store"),
        "{headers}"
    );
    assert_eq!(serde_json::from_str::<Value>(&body).expect("JSON")["name"][0]["family"], "Curled");
    let (body, _) = curl(&["--get", "--data-urlencode", "family=Curled", &format!("{base}/Patient")]).await;
    assert_eq!(serde_json::from_str::<Value>(&body).expect("JSON")["entry"][0]["resource"]["id"], id);
    let (body, _) = curl(&["--data", "family=Curled", &format!("{base}/Patient/_search")]).await;
    assert_eq!(serde_json::from_str::<Value>(&body).expect("JSON")["entry"][0]["resource"]["id"], id);

    // An update with the ETag that was read; the same ETag again is overtaken.
    let changed = body_with_id(patient, id, "Straightened");
    for (etag, status) in [("W/\"1\"", " 200"), ("W/\"1\"", " 412"), ("W/\"2\"", " 200")] {
        let if_match = format!("If-Match: {etag}");
        let (body, headers) =
            curl(&["-X", "PUT", "--header", fhir, "--header", &if_match, "--data", &changed, &url]).await;
        assert!(headers.lines().next().is_some_and(|line| line.contains(status)), "{status}: {headers}{body}");
    }
    // Sent twice with one key: one patient, one answer.
    let key = "Idempotency-Key: curl-1";
    let (first, _) = curl(&["--header", fhir, "--header", key, "--data", patient, &format!("{base}/Patient")]).await;
    let (second, headers) =
        curl(&["--header", fhir, "--header", key, "--data", patient, &format!("{base}/Patient")]).await;
    assert_eq!(first, second);
    assert!(headers.contains("x-repeated-answer: true"), "{headers}");
    // SQL, and the trace that was asked for.
    let trace = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let (_, headers) = curl(&["--header", trace, &url]).await;
    assert!(headers.contains("0af7651916cd43dd8448eb211c80319c"), "{headers}");
    let sql = format!("https://{}/sql", process.http);
    let (body, headers) = curl(&["--data-binary", "SELECT 1", &sql]).await;
    assert!(headers.contains(" 400") && body.contains("reads no product"), "{headers}{body}");
    // Without the authority curl trusts nobody.
    let refused = run(Path::new("curl"), &["--silent", &url]).await;
    assert!(!refused.status.success() && refused.stdout.is_empty());
    process.stop().await;
}

fn body_with_id(patient: &str, id: &str, family: &str) -> String {
    let mut patient: Value = serde_json::from_str(patient).expect("JSON");
    patient["id"] = id.into();
    patient["name"][0]["family"] = family.into();
    patient.to_string()
}

/// A node with something to show: two patients, one set-aside unit, a built product.
async fn node_to_show(folder: &Path) -> Process {
    let process = Process::start(folder).await;
    let appointment = text(&adt("S1", "A01", "M1", "Shown")).replace("ADT^A01^ADT_A01", "MFN^M01^MFN_M01");
    let messages = [adt("C1", "A01", "M1", "Shown"), adt("C2", "A01", "M2", "Shown"), appointment.into_bytes()];
    process.send_all("adt-main", messages.iter().map(Vec::as_slice)).await;
    process.settle().await;
    process
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_every_command_works_on_a_running_node() {
    let folder = mesh_folder();
    let at = folder.path();
    assert!(said(&ward(at, &["check"]).await).contains("3 domains"));
    assert_eq!(json(&ward(at, &["--json", "check", "--limits"]).await)["limits"]["json_depth_max"], 64);
    let process = node_to_show(at).await;

    // Data.
    let token = said(&ward(at, &["token", "dr-lee"]).await);
    assert_eq!(token.trim().split('.').count(), 3, "{token}");
    let minted = json(&ward(at, &["--json", "token", "dr-lee", "--purpose", "ETREAT", "--minutes", "5"]).await);
    assert!(minted["token"].is_string(), "{minted}");
    let built = json(&ward(at, &["--json", "product", "build", "ehr", "patients", "--as", "eng-ehr"]).await);
    assert_eq!(built["rows"], 2, "{built}");
    assert!(said(&ward(at, &["product", "build", "ehr", "encounters", "--as", "eng-ehr"]).await).contains("2 rows"));
    let list = said(&ward(at, &["product", "list"]).await);
    assert!(list.contains("ehr.patients") && list.contains("2 rows") && list.contains("not readable"), "{list}");
    assert!(
        json(&ward(at, &["--json", "product", "list"]).await)["products"].as_array().is_some_and(|all| all.len() == 3)
    );
    let query = "SELECT id, family FROM ehr.patients ORDER BY id";
    let csv = said(&ward(at, &["query", "--as", "dr-lee", query]).await);
    assert!(csv.starts_with("id,family") && csv.matches("Shown").count() == 2, "{csv}");
    let lines = said(&ward(at, &["--json", "query", "--as", "dr-lee", query]).await);
    let first: Value = serde_json::from_str(lines.lines().next().expect("a row")).expect("JSON");
    let patient = first["id"].as_str().and_then(|key| key.strip_prefix("Patient/")).expect("a key").to_owned();
    let masked = ward(at, &["query", "--as", "ana-analyst", query]).await;
    assert!(
        !said(&masked).contains("Shown") && text(&masked.stderr).contains("masked: patients.family"),
        "{}",
        text(&masked.stderr)
    );
    let arrow = ward(at, &["query", "--as", "dr-lee", "--format", "arrow", query]).await;
    let stream = arrow::ipc::reader::StreamReader::try_new(&arrow.stdout[..], None).expect("an Arrow stream");
    assert_eq!(stream.map(|batch| batch.expect("a batch").num_rows()).sum::<usize>(), 2);

    // Audit.
    let shown = said(&ward(at, &["audit", "show", "--as", "privacy-osei", "--last", "10"]).await);
    assert!(shown.contains("dr-lee") && shown.contains("sql-http"), "{shown}");
    let shown = json(&ward(at, &["--json", "audit", "show", "--as", "auditor-wu"]).await);
    assert!(shown["accesses"].as_array().is_some_and(|all| all.len() > 5), "{shown}");
    let saw = said(&ward(at, &["audit", "who-saw", "ehr", &patient, "--as", "privacy-osei"]).await);
    assert!(saw.contains("dr-lee") && saw.contains("ana-analyst") && !saw.contains("auditor-wu"), "{saw}");
    assert!(
        json(&ward(at, &["--json", "audit", "who-saw", "ehr", &patient, "--as", "privacy-osei"]).await)["accesses"]
            .is_array()
    );
    let verified = said(&ward(at, &["audit", "verify"]).await);
    assert_eq!(verified.matches("ok:").count(), 2, "the log and its second: {verified}");

    // Flow.
    let trace = said(&ward(at, &["journal", "trace", "journal-ehr/0"]).await);
    assert!(trace.contains("hl7v2 from adt-main by mllp") && trace.contains("→ Patient/"), "{trace}");
    let trace = json(&ward(at, &["--json", "journal", "trace", "journal-ehr/0"]).await);
    assert!(trace["versions"].as_array().is_some_and(|all| all.len() == 2), "{trace}");
    let aside = said(&ward(at, &["quarantine", "list"]).await);
    assert!(
        aside.contains("journal-ehr/2") && aside.contains("message-type-unmapped") && aside.lines().count() == 1,
        "{aside}"
    );
    assert_eq!(json(&ward(at, &["--json", "quarantine", "list", "--domain", "ehr"]).await)[0]["index"], 2);
    assert!(said(&ward(at, &["quarantine", "list", "--domain", "laboratory"]).await).is_empty());
    assert!(said(&ward(at, &["quarantine", "show", "journal-ehr/2"]).await).contains("kept in the journal"));
    assert!(
        said(&ward(at, &["quarantine", "replay", "journal-ehr/2"]).await).contains("0 resolved, 1 still set aside")
    );
    assert_eq!(json(&ward(at, &["--json", "quarantine", "replay", "journal-ehr/2"]).await)["left"], 1);
    assert!(said(&ward(at, &["index", "rebuild", "ehr"]).await).contains("4 resources indexed"));

    // Files.
    let outside = tempfile::tempdir().expect("a folder");
    let file = outside.path().join("batch.hl7");
    std::fs::write(&file, [adt("B1", "A01", "M3", "Shown"), adt("B2", "A01", "M4", "Shown")].concat()).expect("a file");
    let file = file.display().to_string();
    let ingested = json(&ward(at, &["--json", "ingest", "--domain", "ehr", &file]).await);
    assert_eq!((&ingested["accepted"], &ingested["duplicates"]), (&2.into(), &0.into()), "{ingested}");
    let again = json(&ward(at, &["--json", "ingest", "--domain", "ehr", &file]).await);
    assert_eq!(again["duplicates"], 2, "{again}");

    refusals(at, &patient).await;
    process.stop().await;
    let gone = ward(at, &["query", "--as", "dr-lee", query]).await;
    assert!(gone.status.code() == Some(1) && text(&gone.stderr).contains("ward serve"), "{}", text(&gone.stderr));
}

/// Commands that must fail say one sentence and what to do, on standard error, with exit code 1 (or 2: arguments, folder).
async fn refusals(at: &Path, patient: &str) {
    for (arguments, code, word) in [
        (vec!["query", "--as", "admin-root", "SELECT * FROM ehr.patients"], 1, "administrators"),
        (vec!["query", "--as", "nobody-here", "SELECT * FROM ehr.patients"], 1, "no such principal"),
        (vec!["query", "--as", "dr-lee", "SELECT * FROM ehr.nowhere"], 1, "nowhere"),
        (vec!["query", "--as", "dr-lee", "--purpose", "HRESCH", "SELECT * FROM ehr.patients"], 1, "TREAT"),
        (vec!["query", "--as", "dr-lee", "--purpose", "FUN", "SELECT * FROM ehr.patients"], 2, "purpose"),
        (vec!["query", "--as", "dr-lee", "--format", "xml", "SELECT * FROM ehr.patients"], 1, "format"),
        (vec!["audit", "who-saw", "ehr", patient, "--as", "dr-lee"], 1, ""),
        (vec!["audit", "show", "--as", "ana-analyst"], 1, ""),
        (vec!["audit", "who-saw", "ehr", "nobody", "--as", "privacy-osei"], 1, "no such patient"),
        (vec!["journal", "trace", "journal-ehr/999"], 1, "no such journal entry"),
        (vec!["journal", "trace", "control/0"], 1, "journal-DOMAIN"),
        (vec!["quarantine", "replay", "journal-ehr/0"], 1, "no such"),
        (vec!["product", "build", "ehr", "patients", "--as", "dr-lee"], 1, ""),
        (vec!["product", "build", "ehr", "nothing", "--as", "eng-ehr"], 1, ""),
        (vec!["index", "rebuild", "nowhere"], 1, "no such domain"),
        (vec!["ingest", "--domain", "nowhere", "x"], 1, "no domain"),
        (vec!["ingest", "--domain", "ehr", "/no/such/file"], 1, ""),
        (vec!["no-such-command"], 2, "no-such-command"),
    ] {
        let output = ward(at, &arguments).await;
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(word) && said.len() > 10 && !said.contains("panicked"), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty(), "{arguments:?}: {}", text(&output.stdout));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_ward_verify_proves_the_logs_of_a_node() {
    let folder = mesh_folder();
    let process = node_to_show(folder.path()).await;
    let kept = process
        .client
        .call(hyper::Method::GET, "/admin/audit/checkpoint/journal-ehr", None, "", "")
        .await
        .expect("a checkpoint");
    let outside = tempfile::tempdir().expect("a folder");
    let checkpoint = outside.path().join("kept").display().to_string();
    std::fs::write(&checkpoint, &kept.body).expect("a file");
    let verifier = program("ward-verify");
    let verify = async |log: &str, more: &[&str]| {
        let log = folder.path().join(log);
        let key = format!("@{}", log.join("vkey").display());
        let log = log.display().to_string();
        let mut arguments = vec![log.as_str(), "--key", key.as_str()];
        arguments.extend(more);
        run(&verifier, &arguments).await
    };
    // Beside the writer, and after it.
    for log in ["data/logs/audit", "audit-second/audit", "data/logs/control", "data/logs/journal-ehr"] {
        assert!(said(&verify(log, &[]).await).starts_with("ok:"), "{log}");
    }
    process.stop().await;
    let proved = json(&verify("data/logs/journal-ehr", &["--checkpoint", &checkpoint, "--json"]).await);
    assert!(proved.to_string().contains("kept"), "{proved}");
    let wrong = verify("data/logs/audit", &["--checkpoint", &checkpoint]).await;
    assert_ne!(wrong.status.code(), Some(0), "a checkpoint of another log: {}", text(&wrong.stdout));
    // One byte of one file.
    let log = folder.path().join("data/logs/journal-ehr/wal/00000000000000000000.seg");
    let mut bytes = std::fs::read(&log).expect("a segment");
    bytes[5_000] ^= 1;
    std::fs::write(&log, bytes).expect("a writable file");
    let tampered = verify("data/logs/journal-ehr", &[]).await;
    assert_eq!(tampered.status.code(), Some(1), "{}", text(&tampered.stdout));
    assert!(
        text(&tampered.stdout).contains("TAMPERED") && text(&tampered.stdout).contains(".seg"),
        "{}",
        text(&tampered.stdout)
    );
    let usage = run(&verifier, &[]).await;
    assert_eq!(usage.status.code(), Some(2));
}

/// A mesh folder that is wrong is told like a compiler tells it: file, line, what, what to do.
#[tokio::test(flavor = "multi_thread")]
async fn clients_check_reports_like_a_compiler() {
    for (file, from, to, says) in [
        ("mesh.toml", "data = \"data\"", "date = \"data\"", "mesh.toml:3"),
        ("mesh.toml", "root = \"file:keys", "root = \"file:data", "a stolen disk opens itself"),
        ("mesh.toml", "root = \"file:", "root = \"paper:", "no known kind"),
        ("domains/ehr/domain.toml", "name = \"ehr\"", "name = \"her\"", "not its folder's name"),
        ("domains/ehr/domain.toml", "listen = \"127.0.0.1:0\"", "listen = \"0.0.0.0:2575\"", "PHI in the clear"),
        ("domains/ehr/domain.toml", "utc_offset = \"-05:00\"", "utc_offset = \"EST\"", "no offset"),
        ("principals.toml", "kind = \"person\"", "kind = \"human\"", "principals.toml"),
        ("policies/care.cedar", "permit (", "allow (", "policies/care.cedar"),
        ("policies/care.cedar", "rows(restricted-in-care-team)", "rows(everybody)", "policies/care.cedar"),
        ("domains/ehr/products/patients/view.json", "\"path\": \"gender\"", "\"path\": \"gender(\"", "view.json"),
        ("domains/ehr/products/patients/contract.yaml", "- name: gender", "- name: sex", "contract.yaml"),
        ("agreements/dua-outcomes.toml", "rio-researcher", "nobody", "no principal"),
    ] {
        let folder = mesh_folder();
        crate::harness::edit(folder.path(), file, from, to);
        let output = ward(folder.path(), &["check"]).await;
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{file}: {to}: {said}{}", text(&output.stdout));
        assert!(said.contains(says), "{file}: {to}: {said}");
    }
    let nothing = tempfile::tempdir().expect("a folder");
    let output = ward(nothing.path(), &["check"]).await;
    assert!(output.status.code() == Some(2) && text(&output.stderr).contains("ward init"), "{}", text(&output.stderr));
}
