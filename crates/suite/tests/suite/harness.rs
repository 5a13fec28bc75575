//! Meshes to test on: in process ([`Mesh`]) and as a process that can be killed ([`Process`]).

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, OnceLock};

use base::{Clock, DomainName, PermitMint, PrincipalId, Purpose, SystemClock, SystemEntropy};
use bytes::Bytes;
use hyper::Method;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use ward::commands::client::Client;
use ward::commands::init::{self, Ports};
use ward::config::Config;
use ward::wire::{HttpAnswer, HttpsClient, MllpClient, WireError};
use ward::{Addresses, Surroundings};

/// One mint serves every node of this process: it can be claimed only once.
pub fn mint() -> PermitMint {
    static MINT: OnceLock<PermitMint> = OnceLock::new();
    MINT.get_or_init(|| PermitMint::claim().expect("nothing else in this process claims the mint")).clone()
}

/// A mesh folder as `ward init` writes it, on ports the system chooses.
pub fn mesh_folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    init::write(folder.path(), "suite", Ports::ANY).expect("a mesh folder");
    folder
}

/// A node in this process.
pub struct Mesh {
    folder: Option<TempDir>,
    pub addresses: Addresses,
    pub doors: Arc<edge::Doors>,
    pub client: Client,
    stop: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<()>>,
}

impl Drop for Mesh {
    /// A test that failed leaves its folder: the node still writes there, and a log whose folder goes ends the process.
    fn drop(&mut self) {
        if let Some(folder) = self.folder.take() {
            let _ = folder.keep();
        }
    }
}

impl Mesh {
    pub async fn start() -> Mesh {
        Mesh::start_in(mesh_folder()).await
    }

    /// Starts on a folder that may have been changed, or used before.
    pub async fn start_in(folder: TempDir) -> Mesh {
        Mesh::start_at(folder, Arc::new(SystemClock)).await
    }

    /// Starts with a clock of the test's own.
    pub async fn start_at(folder: TempDir, clock: Arc<dyn Clock>) -> Mesh {
        Mesh::start_over(folder, clock, None).await
    }

    /// Starts with root keys that the test keeps.
    pub async fn start_over(
        folder: TempDir,
        clock: Arc<dyn Clock>,
        root_keys: Option<Arc<dyn vault::RootKeys>>,
    ) -> Mesh {
        let config = Config::load(folder.path()).unwrap_or_else(|findings| panic!("the mesh folder: {findings:?}"));
        let socket = config.socket();
        let around = Surroundings { mint: mint(), clock, entropy: Arc::new(SystemEntropy), root_keys };
        let node = ward::build(config, around).await.unwrap_or_else(|error| panic!("the node: {error}"));
        let (addresses, doors) = (node.addresses().expect("addresses"), node.doors.clone());
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(node.run_until(async move {
            let _ = stopped.await;
        }));
        Mesh {
            folder: Some(folder),
            addresses,
            doors,
            client: Client::new(&socket),
            stop: Some(stop),
            running: Some(running),
        }
    }

    /// Drains the node; the folder can be started again.
    pub async fn stop(mut self) -> TempDir {
        let _ = self.stop.take().expect("stopped once").send(());
        self.running.take().expect("stopped once").await.expect("the node drains");
        self.folder.take().expect("stopped once")
    }

    pub fn path(&self) -> &Path {
        self.folder.as_ref().expect("a node that was not stopped").path()
    }

    pub fn mllp_address(&self, source: &str) -> SocketAddr {
        let found = self.addresses.mllp.iter().find(|(_, name, _)| name.as_str() == source);
        found.map(|(.., address)| *address).expect("a listener of this source")
    }

    pub async fn mllp(&self, source: &str) -> MllpClient {
        MllpClient::connect(self.mllp_address(source)).await.expect("an MLLP connection")
    }

    pub async fn https(&self) -> HttpsClient {
        let authority = self.path().join("tls/ca.pem");
        HttpsClient::connect(self.addresses.http, &authority).await.expect("an HTTPS connection")
    }

    pub async fn token(&self, principal: &str) -> String {
        self.token_for(principal, None).await
    }

    pub async fn token_for(&self, principal: &str, purpose: Option<Purpose>) -> String {
        let principal = PrincipalId::parse(principal).expect("a principal");
        self.client.token(&principal, purpose).await.expect("a token")
    }

    /// GET over HTTPS as a principal.
    pub async fn get(&self, principal: &str, path: &str) -> HttpAnswer {
        let token = self.token(principal).await;
        self.https().await.get(path, &token).await.expect("an answer")
    }

    /// POST of FHIR JSON over HTTPS as a principal.
    pub async fn post_fhir(&self, principal: &str, path: &str, body: &Value) -> HttpAnswer {
        let token = self.token(principal).await;
        let headers = [("content-type", "application/fhir+json")];
        let body = Bytes::from(body.to_string());
        self.https().await.call(Method::POST, path, Some(&token), &headers, body).await.expect("an answer")
    }

    /// One SQL statement as a principal; JSON lines.
    pub async fn sql(&self, principal: &str, sql: &str) -> HttpAnswer {
        let token = self.token(principal).await;
        let headers = [("content-type", "application/sql"), ("accept", "application/x-ndjson")];
        let body = Bytes::from(sql.to_owned());
        self.https().await.call(Method::POST, "/sql", Some(&token), &headers, body).await.expect("an answer")
    }

    /// Waits until everything that is in the journals is refined.
    pub async fn settle(&self) {
        for (name, parts) in &self.doors.domains {
            let size = parts.intake.journal().log().size();
            self.doors.silver.applied(name).wait_for(|applied| *applied >= size).await.expect("refine runs");
        }
    }

    /// Builds a product as its engineer.
    pub async fn build(&self, domain: &str, product: &str) -> Value {
        let engineer = if domain == "laboratory" { "eng-lab" } else { "eng-ehr" };
        let token = self.token(engineer).await;
        let path = format!("/admin/products/{domain}/{product}/build");
        self.client.post(&path, Some(&token), &Value::Null).await.expect("a build")
    }

    /// Sends messages over one connection, in order; the MSA-1 of each answer.
    pub async fn send_all<'a>(&self, source: &str, messages: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
        let mut connection = self.mllp(source).await;
        let mut codes = Vec::new();
        for message in messages {
            codes.push(ward::wire::ack_code(&connection.send(message).await.expect("an acknowledgement")));
        }
        codes
    }

    /// Open set-aside units of a domain.
    pub async fn set_aside(&self, domain: &str) -> Vec<Value> {
        let answer = self.client.get(&format!("/admin/set-aside/{domain}"), None).await.expect("an answer");
        answer["set_aside"].as_array().cloned().unwrap_or_default()
    }
}

pub fn domain(name: &str) -> DomainName {
    DomainName::parse(name).expect("a domain name")
}

/// A minimal ADT^A01 with what a test cares about.
pub fn adt(control_id: &str, trigger: &str, mrn: &str, family: &str) -> Vec<u8> {
    format!(
        "MSH|^~\\&|REGSYS|GENHOSP|WARD|MESH|20261101120000-0500||ADT^{trigger}^ADT_A01|{control_id}|P|2.5.1\r\
         EVN|{trigger}|20261101120000\r\
         PID|1||{mrn}^^^GENHOSP^MR||{family}^Test^^^^^L||19700203|F|||1 Mill Street^^Boston^MA^02118^USA^H\r\
         PV1|1|I|2N^101^A^GENHOSP||||1001^Lee^Jordan||||||||||||V{mrn}^^^GENHOSP^VN|||||||||||||||||||||||||20261101120000\r"
    )
    .into_bytes()
}

/// The `ward` program of this build.
pub fn program(name: &str) -> PathBuf {
    // target/PROFILE/deps/suite-HASH → target/PROFILE/NAME
    let own = std::env::current_exe().expect("this test's path");
    let program = own.parent().and_then(Path::parent).expect("the profile's folder").join(name);
    assert!(program.exists(), "{} is not built: run `cargo build -p ward -p ward-verify` first", program.display());
    program
}

/// A node as a process of its own, which can be killed.
pub struct Process {
    child: tokio::process::Child,
    pub http: SocketAddr,
    pub mllp: Vec<(String, SocketAddr)>,
    pub client: Client,
    folder: PathBuf,
}

impl Process {
    /// Starts `ward serve` and waits until it says where it listens.
    pub async fn start(folder: &Path) -> Process {
        Process::start_with(folder, &[]).await
    }

    /// With variables added to its environment. What it logs is in `serve.log` of the folder.
    pub async fn start_with(folder: &Path, environment: &[(&str, &OsStr)]) -> Process {
        let mut child = tokio::process::Command::new(program("ward"))
            .envs(environment.iter().copied())
            .args(["--json", "-C"])
            .arg(folder)
            .arg("serve")
            .stdout(Stdio::piped())
            .stderr(Stdio::from(
                std::fs::OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(folder.join("serve.log"))
                    .expect("a log file"),
            ))
            .kill_on_drop(true)
            .spawn()
            .expect("ward starts");
        let stdout = child.stdout.take().expect("standard output");
        let mut lines = BufReader::new(stdout).lines();
        let line = lines.next_line().await.expect("its output").unwrap_or_else(|| {
            panic!("ward ended: {}", std::fs::read_to_string(folder.join("serve.log")).unwrap_or_default())
        });
        let said: Value = serde_json::from_str(&line).expect("JSON");
        let address = |value: &Value| value.as_str().and_then(|text| text.parse().ok()).expect("an address");
        let mllp = said["mllp"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|row| (row["source"].as_str().unwrap_or_default().to_owned(), address(&row["address"])))
            .collect();
        let socket = Config::load(folder).expect("the mesh folder").socket();
        Process { child, http: address(&said["http"]), mllp, client: Client::new(&socket), folder: folder.to_owned() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("a running process")
    }

    pub async fn token(&self, principal: &str) -> String {
        let principal = PrincipalId::parse(principal).expect("a principal");
        self.client.token(&principal, None).await.expect("a token")
    }

    pub async fn https(&self) -> HttpsClient {
        HttpsClient::connect(self.http, &self.folder.join("tls/ca.pem")).await.expect("an HTTPS connection")
    }

    /// GET over HTTPS as a principal.
    pub async fn get(&self, principal: &str, path: &str) -> HttpAnswer {
        let token = self.token(principal).await;
        self.https().await.get(path, &token).await.expect("an answer")
    }

    /// POST over HTTPS as a principal.
    pub async fn post(&self, principal: &str, path: &str, media_type: &str, body: impl Into<Bytes>) -> HttpAnswer {
        let token = self.token(principal).await;
        let headers = [("content-type", media_type)];
        self.https().await.call(Method::POST, path, Some(&token), &headers, body).await.expect("an answer")
    }

    /// Asks until everything that is in the journals is refined.
    pub async fn settle(&self) {
        loop {
            let status = self.client.get("/admin/status", None).await.expect("a status");
            let domains = status["domains"].as_array().expect("domains");
            if domains.iter().all(|domain| domain["applied"] == domain["journal_entries"]) {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Sends messages over one connection, in order; the acknowledgement of each, or why there is none.
    pub async fn send_all<'a>(
        &self,
        source: &str,
        messages: impl IntoIterator<Item = &'a [u8]>,
    ) -> Vec<Result<Vec<u8>, WireError>> {
        let mut connection = MllpClient::connect(self.mllp_address(source)).await.expect("an MLLP connection");
        let mut answers = Vec::new();
        for message in messages {
            answers.push(connection.send(message).await);
        }
        answers
    }

    /// SIGTERM, and waits until the node has drained.
    pub async fn stop(mut self) {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a running process");
        let status = self.child.wait().await.expect("its end");
        assert!(status.success(), "ward serve ended with {status}");
    }

    pub fn mllp_address(&self, source: &str) -> SocketAddr {
        self.mllp.iter().find(|(name, _)| name == source).map(|(_, address)| *address).expect("a listener")
    }

    /// SIGABRT, as a crash ends a process; how it ended.
    pub async fn abort(mut self) -> std::process::ExitStatus {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
        rustix::process::kill_process(pid, rustix::process::Signal::ABORT).expect("a running process");
        self.child.wait().await.expect("its end")
    }

    /// `kill -9`: no handler runs.
    pub async fn kill(mut self) {
        self.child.start_kill().expect("a running process");
        let _ = self.child.wait().await;
    }
}

/// Runs a command of `ward` on a mesh folder, as a person would.
pub async fn ward(folder: &Path, arguments: &[&str]) -> std::process::Output {
    let mut command = tokio::process::Command::new(program("ward"));
    command.env_remove("RUST_LOG").arg("-C").arg(folder).args(arguments).kill_on_drop(true);
    command.output().await.expect("ward runs")
}

/// Replaces a text of a file in a mesh folder; it must be there.
pub fn edit(folder: &Path, file: &str, from: &str, to: &str) {
    let path = folder.join(file);
    let text = std::fs::read_to_string(&path).expect("a file of the mesh folder");
    assert!(text.contains(from), "{file} has no `{from}`");
    std::fs::write(path, text.replace(from, to)).expect("a writable file");
}

/// Copies a folder as a person would, with its files' modes.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type().expect("a kind") {
            kind if kind.is_dir() => copy(&path, &target),
            kind if kind.is_file() => drop(std::fs::copy(&path, &target).expect("a copy")),
            _ => {}
        }
    }
}

/// Adds a text to a file in a mesh folder; a new file where there is none.
pub fn append(folder: &Path, file: &str, text: &str) {
    use std::io::Write;
    let path = folder.join(file);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a writable folder");
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).expect("a writable file");
    file.write_all(text.as_bytes()).expect("a writable file");
}

/// Real test data beside the checkout; `None` with a word on what is skipped.
pub fn shared_data(part: &str, test: &str) -> Option<PathBuf> {
    #[allow(clippy::disallowed_methods)]
    let named = std::env::var("WARD_SHARED_DATA").ok().map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|folder| folder.join("shared/data"));
    let found = named.into_iter().chain(beside).map(|folder| folder.join(part)).find(|folder| folder.is_dir());
    if found.is_none() {
        eprintln!("skipped: {test}: shared/data/{part} is not here (WARD_SHARED_DATA may point to it)");
    }
    found
}
