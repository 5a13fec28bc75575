//! Messages sent on to others: in order, at least once, on record; over MLLP, MLLP with mutual TLS, HTTP, and into a
//! folder. The receiver is killed, the node is killed, and nothing is lost or out of order.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use base::SeededEntropy;
use hl7v2::mllp::{Decoder, frame};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use ward::wire::ack_code;

use crate::harness::{Mesh, Process, adt, append, mesh_folder, program, ward};

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

pub fn with_routes(text: &str) -> tempfile::TempDir {
    let folder = mesh_folder();
    append(folder.path(), "domains/ehr/domain.toml", text);
    folder
}

pub fn route(name: &str, to: &str, more: &str) -> String {
    format!("\n[[route]]\nname = \"{name}\"\nto = \"{to}\"\npurpose = \"TREAT\"\ninternal = true\n{more}\n")
}

/// A receiver in this process: what came, and what it answers.
pub struct Receiver {
    pub address: SocketAddr,
    pub messages: Arc<Mutex<Vec<String>>>,
}

impl Receiver {
    pub async fn start(code: impl Fn(&str) -> &'static str + Send + Sync + 'static) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let messages: Arc<Mutex<Vec<String>>> = Arc::default();
        let (kept, code) = (messages.clone(), Arc::new(code));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (kept, code) = (kept.clone(), code.clone());
                tokio::spawn(async move {
                    let (mut decoder, mut buffer) = (Decoder::new(1 << 20), vec![0; 8192]);
                    loop {
                        while let Ok(Some(message)) = decoder.next_frame() {
                            let text = String::from_utf8_lossy(&message).into_owned();
                            let id = control_id(&text);
                            kept.lock().push(text.clone());
                            let answer =
                                format!("MSH|^~\\&|R|R|S|S|20261101||ACK|R{id}|P|2.5.1\rMSA|{}|{id}\r", code(&text));
                            if stream.write_all(&frame(answer.as_bytes())).await.is_err() {
                                return;
                            }
                        }
                        match stream.read(&mut buffer).await {
                            Ok(0) | Err(_) => return,
                            Ok(n) => decoder.push(&buffer[..n]),
                        }
                    }
                });
            }
        });
        Receiver { address, messages }
    }

    pub fn ids(&self) -> Vec<String> {
        self.messages.lock().iter().map(|message| control_id(message)).collect()
    }
}

fn control_id(message: &str) -> String {
    message.split('|').nth(9).unwrap_or_default().to_owned()
}

/// What came twice in a row came because its answer was lost.
fn without_repeats(mut ids: Vec<String>) -> Vec<String> {
    ids.dedup();
    ids
}

pub async fn routes(client: &ward::commands::client::Client) -> Vec<Value> {
    let answer = client.get("/admin/routes", None).await.expect("an answer");
    answer["routes"].as_array().cloned().unwrap_or_default()
}

/// Waits until every route has nothing left to do.
pub async fn until_even(client: &ward::commands::client::Client) {
    while routes(client).await.iter().any(|route| route["behind"] != 0) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_take_what_fits_change_it_and_are_on_record() {
    let receiver = Receiver::start(|_| "AA").await;
    let outbox = "outbox/lab";
    let more = "from = [\"adt-main\"]\ntypes = [\"ADT^A01\"]\nwhen = [\"PV1-2 = I\", \"PID-5.1 != Nobody\"]\n\
                change = [ { set = \"MSH-5\", to = \"LAB\" }, { remove = \"PID-11\" }, { set = \"PID-2.1\", from = \"PID-3.1\" } ]";
    let mut text = route("to-lab", &format!("mllp://{}", receiver.address), more);
    text.push_str(&route("to-folder", &format!("file:{outbox}"), "types = [\"ADT\"]"));
    let mesh = Mesh::start_in(with_routes(&text)).await;
    let messages = [
        adt("C1", "A01", "M1", "Routed"),
        adt("C2", "A08", "M1", "Routed"),
        adt("C3", "A01", "M2", "Nobody"),
        // Enhanced mode, and no answer wanted: the route asks for one all the same.
        String::from_utf8(adt("C4", "A01", "M4", "Routed"))
            .expect("text")
            .replacen("|P|2.5.1\r", "|P|2.5.1|||NE|NE\r", 1)
            .into_bytes(),
    ];
    let mut client = mesh.mllp("adt-main").await;
    for message in &messages {
        client.write(&frame(message)).await.expect("a connection");
    }
    for _ in 0..3 {
        assert_eq!(ack_code(&client.read().await.expect("an answer")), "AA");
    }
    mesh.settle().await;
    until_even(&mesh.client).await;
    assert_eq!(receiver.ids(), ["C1", "C4"]);
    let sent = receiver.messages.lock()[0].clone();
    assert!(sent.contains("|LAB|MESH|") && sent.contains("PID|1|M1|M1^^^") && !sent.contains("Mill Street"), "{sent}");
    let asked = receiver.messages.lock()[1].clone();
    assert!(asked.contains("|P|2.5.1|||AL|NE\r"), "{asked}");
    let mut files: Vec<String> = std::fs::read_dir(mesh.path().join(outbox))
        .expect("an outbox")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    files.sort();
    assert_eq!(
        files,
        ["C1", "C2", "C3", "C4"].iter().enumerate().map(|(n, id)| format!("{n:012}-{id}.hl7")).collect::<Vec<_>>()
    );
    let first = std::fs::read(mesh.path().join(outbox).join(&files[0])).expect("a file");
    assert_eq!(first, messages[0], "what is not changed leaves as it came, byte for byte");

    // Who saw this patient: the route, on record, with where it went.
    let bundle = mesh.get("dr-lee", "/fhir/ehr/Patient?identifier=M1").await.json();
    let patient = bundle["entry"][0]["resource"]["id"].as_str().expect("a patient").to_owned();
    let officer = mesh.token("privacy-osei").await;
    let seen =
        mesh.client.get(&format!("/admin/audit/who-saw/ehr/{patient}"), Some(&officer)).await.expect("an answer");
    let rows = seen.to_string();
    assert!(rows.contains("route to-lab entry 0") && rows.contains("route to-folder entry 1"), "{rows}");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_keep_what_a_receiver_refuses_and_send_it_again() {
    let is_open = Arc::new(Mutex::new(false));
    let open = is_open.clone();
    let receiver = Receiver::start(move |message| match control_id(message).as_str() {
        "C2" if !*open.lock() => "AR",
        "C3" if !*open.lock() => "AE",
        _ => "AA",
    })
    .await;
    let mesh =
        Mesh::start_in(with_routes(&route("strict", &format!("mllp://{}", receiver.address), "tries = 2"))).await;
    let messages: Vec<Vec<u8>> = (1..=4).map(|n| adt(&format!("C{n}"), "A01", "M1", "Refused")).collect();
    mesh.send_all("adt-main", messages.iter().map(Vec::as_slice)).await;
    mesh.settle().await;
    until_even(&mesh.client).await;
    assert_eq!(receiver.ids(), ["C1", "C2", "C3", "C3", "C4"], "a rejection at once, an error after its tries");
    let said =
        |output: std::process::Output| String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let letters = said(ward(mesh.path(), &["route", "dead-letters", "ehr", "strict"]).await);
    assert!(letters.contains("1 2") && letters.contains(" AR:") && letters.contains(" AE:"), "{letters}");
    assert!(!letters.contains("Refused^"), "{letters}");
    let status = said(ward(mesh.path(), &["route", "status"]).await);
    assert!(
        status.contains("0 behind, next is 4, 2 delivered since the start, 2 dead letters, 0 withheld"),
        "{status}"
    );
    // Still refused, then taken.
    let refused = ward(mesh.path(), &["route", "send", "ehr", "strict", "1"]).await;
    assert!(!refused.status.success());
    *is_open.lock() = true;
    for position in ["1", "2"] {
        let sent = ward(mesh.path(), &["route", "send", "ehr", "strict", position]).await;
        assert!(sent.status.success(), "{}", said(sent));
    }
    let letters = said(ward(mesh.path(), &["route", "dead-letters", "ehr", "strict"]).await);
    assert_eq!(letters.trim(), "none");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_reach_another_node_by_mutual_tls_and_http() {
    let port = free_port();
    let http = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let http_address = http.local_addr().expect("its address");
    let posted: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = posted.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = http.accept().await {
            let kept = kept.clone();
            let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let kept = kept.clone();
                async move {
                    use http_body_util::BodyExt;
                    assert_eq!(request.headers()["content-type"], "x-application/hl7-v2+er7");
                    let body = request.into_body().collect().await.expect("a body").to_bytes();
                    let id = control_id(&String::from_utf8_lossy(&body));
                    let is_busy = id == "C1" && !kept.lock().contains(&id);
                    kept.lock().push(id);
                    let status = if is_busy { 503 } else { 200 };
                    Ok::<_, hyper::Error>(
                        hyper::Response::builder()
                            .status(status)
                            .body(http_body_util::Full::new(bytes::Bytes::new()))
                            .expect("a response"),
                    )
                }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service),
            );
        }
    });
    let tls =
        "authority = \"tls/ca.pem\"\ncertificate = \"tls/client.pem\"\nkey = \"tls/client.key\"\nfrom = [\"adt-main\"]";
    let mut text = format!(
        "\n[[source]]\nname = \"from-route\"\nkind = \"hl7v2\"\nlisten = \"127.0.0.1:{port}\"\ntls = \"mutual\"\n\
         client_authorities = \"tls/ca.pem\"\nsenders = [\"dns:development-client\"]\n"
    );
    text.push_str(&route("by-tls", &format!("mllps://localhost:{port}"), tls));
    text.push_str(&route("by-http", &format!("http://{http_address}/hl7/in"), "from = [\"adt-main\"]"));
    let mesh = Mesh::start_in(with_routes(&text)).await;
    let messages: Vec<Vec<u8>> = (0..20).map(|n| adt(&format!("C{n}"), "A01", &format!("MT{n}"), "Onward")).collect();
    mesh.send_all("adt-main", messages.iter().map(Vec::as_slice)).await;
    mesh.settle().await;
    // The route's own entries come back in by the other source, and are for no route.
    until_even(&mesh.client).await;
    mesh.settle().await;
    let status = mesh.client.get("/admin/status", None).await.expect("a status").to_string();
    assert!(status.contains(r#""source":"from-route","counter":"received","n":20}"#), "{status}");
    let ids = posted.lock().clone();
    assert_eq!(ids.iter().filter(|id| *id == "C1").count(), 2, "a receiver that is busy is asked again: {ids:?}");
    assert_eq!(without_repeats(ids), (0..20).map(|n| format!("C{n}")).collect::<Vec<_>>());
    mesh.stop().await;
}

/// `target/clients/bin/python` with PyPI's hl7.
fn python() -> PathBuf {
    program("ward").ancestors().nth(2).expect("the target folder").join("clients/bin/python")
}

async fn real_receiver(port: u16, book: &Path) -> tokio::process::Child {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/mllp_receiver.py");
    let mut child = tokio::process::Command::new(python())
        .arg(script)
        .arg(port.to_string())
        .arg(book)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("a receiver: run `scripts/setup --tests`");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    assert_eq!(lines.next_line().await.expect("its output").as_deref(), Some("listening"));
    child
}

fn book_of(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_a_receiver_that_is_killed_and_comes_back_misses_nothing() {
    let port = free_port();
    let folder = with_routes(&route("to-other", &format!("mllp://127.0.0.1:{port}"), "timeout_seconds = 5"));
    let book = folder.path().join("received");
    let mesh = Mesh::start_in(folder).await;
    let random = SeededEntropy::new(7);
    let mut sent = Vec::new();
    for round in 0..5 {
        let mut receiver = real_receiver(port, &book).await;
        let messages: Vec<Vec<u8>> =
            (0..40).map(|n| adt(&format!("K{round}-{n}"), "A01", &format!("MK{n}"), "Killed")).collect();
        sent.extend((0..40).map(|n| format!("K{round}-{n}")));
        mesh.send_all("adt-main", messages.iter().map(Vec::as_slice)).await;
        if round < 4 {
            tokio::time::sleep(Duration::from_millis(random.next_u64() % 150)).await;
            receiver.start_kill().expect("it runs");
            let _ = receiver.wait().await;
        } else {
            mesh.settle().await;
            until_even(&mesh.client).await;
        }
    }
    assert_eq!(without_repeats(book_of(&book)), sent, "each once, in order, but for one repeated after each outage");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_a_node_that_is_killed_forwards_everything_in_order() {
    const KILLS: u64 = 24;
    let receiver = Receiver::start(|_| "AA").await;
    let folder = with_routes(&route("to-other", &format!("mllp://{}", receiver.address), ""));
    let random = SeededEntropy::new(24);
    let mut acknowledged = Vec::new();
    for kill in 0..KILLS {
        let node = Process::start(folder.path()).await;
        let address = node.mllp_address("adt-main");
        let feed = tokio::spawn(async move {
            let mut taken = Vec::new();
            let Ok(mut client) = ward::wire::MllpClient::connect(address).await else { return taken };
            for n in 0..10_000 {
                let id = format!("N{kill}-{n}");
                match client.send(&adt(&id, "A01", &format!("MN{}", n % 50), "Forwarded")).await {
                    Ok(answer) if ack_code(&answer) == "AA" => taken.push(id),
                    _ => break,
                }
            }
            taken
        });
        tokio::time::sleep(Duration::from_millis(30 + random.next_u64() % 300)).await;
        node.kill().await;
        acknowledged.extend(feed.await.expect("the feed"));
    }
    let node = Process::start(folder.path()).await;
    node.settle().await;
    until_even(&node.client).await;
    let got = without_repeats(receiver.ids());
    let mut rest = got.iter();
    for id in &acknowledged {
        assert!(rest.any(|there| there == id), "{id} was acknowledged and not forwarded, or out of order");
    }
    let mut once = got.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), got.len(), "a message came again out of its turn");
    eprintln!(
        "{KILLS} kills: {} acknowledged, {} forwarded, {} sent twice",
        acknowledged.len(),
        got.len(),
        receiver.ids().len() - got.len()
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_that_would_leak_do_not_start() {
    let cases = [
        (route("plain", "mllp://192.168.1.7:2575", ""), "in the clear"),
        (route("public", "mllps://8.8.8.8:2575", "authority = \"tls/ca.pem\""), "address is public"),
        (route("nobody", "mllps://lab.example.org:2575", ""), "trusts nobody"),
        (
            route("x", "mllps://lab.example.org:1", "").replace("internal = true\n", "authority = \"tls/ca.pem\"\n"),
            "no agreement covers",
        ),
        (
            route("x", "mllps://lab.example.org:1", "authority = \"tls/ca.pem\"")
                .replace("internal = true", "agreement = \"dua-outcomes\""),
            "does not allow",
        ),
        (route("secret", "https://user:word@lab.example.org/", ""), "no address of a receiver"),
    ];
    for (text, expected) in cases {
        let folder = with_routes(&text);
        let output = ward(folder.path(), &["check"]).await;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(!output.status.success() && said.contains(expected), "{expected}: {said}");
    }
}
