//! The catalog in a real PostgreSQL: the main job gives what it gives on SQLite, also over an outage of the server and
//! over a start anew.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Mesh, adt, append, mesh_folder, shared_data};

/// A PostgreSQL server on loopback, ended with its value.
struct Server {
    folder: TempDir,
    bin: PathBuf,
    port: u16,
    running: Option<Child>,
}

impl Server {
    async fn start() -> Server {
        let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
            .expect("PostgreSQL: run `scripts/setup --tests`")
            .map(|entry| entry.expect("a folder").path().join("bin"))
            .filter(|bin| bin.join("initdb").exists())
            .collect();
        versions.sort();
        let bin = versions.pop().expect("PostgreSQL: run `scripts/setup --tests`");
        let folder = tempfile::tempdir().expect("a folder");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
        let mut server = Server { folder, bin, port, running: None };
        if is_root() {
            // PostgreSQL does not run as root.
            let owner = Command::new("chown").arg("postgres").arg(server.folder.path()).status().expect("chown");
            assert!(owner.success());
        }
        let data = server.folder.path().join("data");
        let made = server.program("initdb").args(["-A", "trust", "-U", "ward", "-E", "UTF8", "-D"]).arg(data).output();
        let made = made.expect("initdb");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        server.up().await;
        server
    }

    fn program(&self, name: &str) -> Command {
        let program = self.bin.join(name);
        let mut command = match is_root() {
            true => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=KILL", "--"]);
                command.arg(program);
                command
            }
            false => Command::new(program),
        };
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    async fn up(&mut self) {
        let log = std::fs::File::create(self.folder.path().join("log")).expect("a log");
        let data = self.folder.path().join("data");
        let mut command = self.program("postgres");
        command.arg("-D").arg(data).args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1", "-k", ""]);
        self.running = Some(command.stdout(Stdio::null()).stderr(log).spawn().expect("postgres"));
        for _ in 0..600 {
            let ask = self.program("pg_isready").args(["-h", "127.0.0.1", "-p", &self.port.to_string()]).output();
            if ask.expect("pg_isready").status.success() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("PostgreSQL did not start: {:?}", std::fs::read_to_string(self.folder.path().join("log")));
    }

    /// Dies as by a power cut; its children see the death of their parent.
    async fn kill(&mut self) {
        let mut child = self.running.take().expect("it runs");
        child.kill().expect("a kill");
        child.wait().expect("an end");
        while TcpListener::bind(("127.0.0.1", self.port)).is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // The lock of the dead is in the way of a quick start.
        let _ = std::fs::remove_file(self.folder.path().join("data/postmaster.pid"));
    }

    fn url(&self) -> String {
        format!("postgres://ward@127.0.0.1:{}/postgres", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.running.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

fn folder_on(server: &Server) -> TempDir {
    let folder = mesh_folder();
    append(folder.path(), "mesh.toml", &format!("\n[catalog]\nurl = \"{}\"\n", server.url()));
    folder
}

/// Whether the sender asks for the one answer of the original mode: MSH-15 and MSH-16 say nothing else.
fn is_answered(message: &[u8]) -> bool {
    let header = message.split(|byte| *byte == b'\r' || *byte == b'\n').next().unwrap_or_default();
    header.split(|byte| *byte == b'|').skip(14).take(2).all(<[u8]>::is_empty)
}

/// Feeds a mesh by both doors, with the real samples where they are there.
async fn feed(mesh: &Mesh) -> Vec<String> {
    let mut messages: Vec<Vec<u8>> = (0..40)
        .map(|n| adt(&format!("P{n}"), if n % 5 == 4 { "A08" } else { "A01" }, &format!("PG{}", n / 2), "Ledger"))
        .collect();
    if let Some(folder) = shared_data("hl7v2", "the HL7 v2 messages on PostgreSQL") {
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "hl7"))
            .collect();
        files.sort();
        let all = files.iter().map(|file| std::fs::read(file).expect("a file"));
        messages.extend(all.filter(|message| is_answered(message)));
    }
    let codes = mesh.send_all("adt-main", messages.iter().map(Vec::as_slice)).await;
    let entry = |n: usize| {
        json!({
            "fullUrl": format!("urn:uuid:0d9a7c1e-1f0e-4f6e-9d5a-{n:012}"),
            "request": { "method": "POST", "url": "Observation" },
            "resource": {
                "resourceType": "Observation", "status": "final", "code": { "text": "weight" },
                "effectiveDateTime": format!("2026-0{}-01", 1 + n % 9),
                "valueQuantity": { "value": n, "unit": "kg", "system": "http://unitsofmeasure.org", "code": "kg" }
            }
        })
    };
    let entries: Vec<Value> = (0..20).map(entry).collect();
    let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries });
    let answer = mesh.post_fhir("dr-lee", "/fhir/ehr", &bundle).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    mesh.settle().await;
    codes
}

/// What a mesh answers, without what differs from one to the next (ids, times).
async fn answers(mesh: &Mesh) -> Vec<String> {
    let mut out = Vec::new();
    for query in [
        "Patient?_summary=count",
        "Encounter?_summary=count",
        "Observation?_summary=count",
        "Observation?code:text=weight&value-quantity=gt10&_summary=count",
        "Patient?family=led&_summary=count",
        "Encounter?_has:Patient:_id=x&_summary=count",
    ] {
        let answer = mesh.get("dr-lee", &format!("/fhir/ehr/{query}")).await;
        out.push(format!("{query}: {} {}", answer.status, answer.json()["total"]));
    }
    let sorted = mesh.get("dr-lee", "/fhir/ehr/Observation?code:text=weight&_sort=-date&_count=100").await.json();
    let dates: Vec<&str> = sorted["entry"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|entry| entry["resource"]["effectiveDateTime"].as_str())
        .collect();
    out.push(format!("{dates:?}"));
    let mut aside: Vec<String> =
        mesh.set_aside("ehr").await.iter().map(|unit| format!("{} {}", unit["code"], unit["place"])).collect();
    aside.sort();
    out.extend(aside);
    let rows = mesh.sql("dr-lee", "SELECT mrn, family, birth_date FROM ehr.patients ORDER BY mrn, family").await;
    assert_eq!(rows.status, 200, "{}", rows.text());
    out.push(rows.text());
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_in_postgresql_gives_what_sqlite_gives_and_survives_its_server() {
    let mut server = Server::start().await;
    let (theirs, ours) = (Mesh::start_in(folder_on(&server)).await, Mesh::start().await);
    let mut codes = Vec::new();
    for mesh in [&theirs, &ours] {
        codes.push(feed(mesh).await);
        mesh.build("ehr", "patients").await;
    }
    assert!(codes[0] == codes[1] && codes[0][..40].iter().all(|code| code == "AA"), "{codes:?}");
    let expected = answers(&ours).await;
    assert_eq!(answers(&theirs).await, expected);
    ours.stop().await;

    // The server dies. The feed is acknowledged by the journal; what needs the catalog says that it is out.
    let read = "/fhir/ehr/Patient?family=led";
    server.kill().await;
    let codes = theirs.send_all("adt-main", [adt("OUT1", "A01", "PGOUT", "Outage").as_slice()]).await;
    assert_eq!(codes, ["AA"], "the journal takes it");
    let answer = theirs.get("dr-lee", "/fhir/ehr/Patient?family=outage").await;
    assert!(answer.status == 503 || answer.json()["entry"].is_null(), "{} {}", answer.status, answer.text());
    // What is there is not called missing.
    let answer = theirs.get("dr-lee", read).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    server.up().await;
    theirs.settle().await;
    let found = theirs.get("dr-lee", "/fhir/ehr/Patient?family=outage").await.json();
    assert_eq!(found["entry"].as_array().map(Vec::len), Some(1), "{found}");

    // A start anew finds everything; an unchanged part answers as before.
    let before = theirs.get("dr-lee", read).await.json()["entry"].clone();
    let mesh = Mesh::start_in(theirs.stop().await).await;
    let after = mesh.get("dr-lee", read).await.json()["entry"].clone();
    let ids = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().map(|entry| entry["resource"]["id"].to_string()).collect()
    };
    assert!(!ids(&before).is_empty());
    assert_eq!(ids(&after), ids(&before));
    mesh.stop().await;
}
