//! Law 9: bad input gets a clear error that names place and reason, holds no PHI, and never takes the process down.
//!
//! Hostile input on each door of a process of its own, with small limits. Each holds a string that must be neither in the
//! answer nor in the log; afterwards the node lives and does its work.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base::ManualClock;
use hyper::Method;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::harness::{Mesh, Process, adt, append, mesh_folder};

/// Stands for PHI: in every hostile input, never in an answer or in the log.
const SENTINEL: &str = "Zebraquince4711";
/// Longer than any limit of this test; reached only when the node hangs.
const PATIENCE: Duration = Duration::from_secs(30);

fn folder_with_small_limits() -> tempfile::TempDir {
    let folder = mesh_folder();
    let limits = "\n[limits]\nhl7_message_bytes_max = 65536\nhl7_segments_max = 200\nmllp_message_timeout_ms = 700\n\
                  fhir_body_bytes_max = 262144\nhttp_header_timeout_ms = 700\nbundle_entries_max = 50\n\
                  sql_text_bytes_max = 65536\nsql_timeout_ms = 10000\n";
    append(folder.path(), "mesh.toml", limits);
    append(
        folder.path(),
        "domains/laboratory/domain.toml",
        "\n[[source]]\nname = \"lab-tls\"\nkind = \"hl7v2\"\nlisten = \"127.0.0.1:0\"\nmode = \"production\"\ntls = \"server\"\n",
    );
    folder
}

/// Everything that comes until the other side closes, or nothing more comes.
async fn read_all(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut answer = Vec::new();
    let _ =
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the node closes the connection");
    answer
}

/// Sends bytes and closes the sending side; what comes back until the node closes.
async fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    read_all(&mut stream).await
}

async fn tls(address: SocketAddr, authority: &Path) -> impl AsyncRead + AsyncWrite + Unpin + use<> {
    let config = net::client_config(authority, None).expect("a configuration");
    let stream = TcpStream::connect(address).await.expect("a connection");
    TlsConnector::from(config).connect(ServerName::IpAddress(address.ip().into()), stream).await.expect("TLS")
}

fn clean(what: &str, answer: &[u8]) {
    let text = String::from_utf8_lossy(answer);
    assert!(!text.to_lowercase().contains(&SENTINEL.to_lowercase()), "{what}: the answer repeats the input: {text}");
}

/// The node lives, and a normal message and query still work.
async fn works(process: &Process, n: usize) {
    let health = process.get("dr-lee", "/healthz").await;
    assert_eq!(health.status, 200);
    let mrn = format!("WORKS{n}");
    let answers = process.send_all("adt-main", [adt(&mrn, "A01", &mrn, "Normal").as_slice()]).await;
    let ack = answers[0].as_ref().expect("an acknowledgement");
    assert_eq!(ward::wire::ack_code(ack), "AA");
    process.settle().await;
    let query = format!("/fhir/ehr/Patient?identifier=urn:oid:2.16.840.1.113883.19.5.1%7C{mrn}");
    let found = process.get("dr-lee", &query).await.json();
    assert_eq!(found["entry"].as_array().map(Vec::len), Some(1), "{found}");
}

fn log_is_clean(folder: &Path) {
    let log = std::fs::read_to_string(folder.join("serve.log")).expect("the log");
    assert!(log.len() > 1_000, "nothing was logged");
    if let Some(line) = log.lines().find(|line| line.to_lowercase().contains(&SENTINEL.to_lowercase())) {
        panic!("the log repeats the input: {line}");
    }
    assert!(!log.contains("panicked"), "something panicked: {log}");
}

async fn start(folder: &Path) -> Process {
    Process::start_with(folder, &[("RUST_LOG", "debug".as_ref())]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn law_9_mllp_takes_anything() {
    let folder = folder_with_small_limits();
    let process = start(folder.path()).await;
    let address = process.mllp_address("adt-main");
    let message = String::from_utf8(adt("X1", "A01", SENTINEL, SENTINEL)).expect("text");
    let framed = hl7v2::mllp::frame(message.as_bytes());
    let endless = [b"\x0b".as_slice(), message.as_bytes(), SENTINEL.repeat(20_000).as_bytes()].concat();
    let many_segments = format!("{message}{}", format!("NTE|1||{SENTINEL}\r").repeat(2_000));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a message that never ends", endless),
        ("a message too long", hl7v2::mllp::frame(format!("{message}NTE|1||{}\r", SENTINEL.repeat(10_000)).as_bytes())),
        ("too many segments", hl7v2::mllp::frame(many_segments.as_bytes())),
        ("a message cut off", framed[..framed.len() / 2].to_vec()),
        ("no start block", message.clone().into_bytes()),
        ("no end block", [b"\x0b".as_slice(), message.as_bytes()].concat()),
        ("an end block alone", b"\x1c\r".to_vec()),
        ("an empty frame", b"\x0b\x1c\r".to_vec()),
        ("a start block inside", [b"\x0b".as_slice(), &framed].concat()),
        ("garbage", (0..50_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 23) as u8).collect()),
        ("framed garbage", hl7v2::mllp::frame(&(0..9_000_u32).map(|n| (n % 251) as u8 | 1).collect::<Vec<_>>())),
        ("zeros", vec![0; 100_000]),
        ("not UTF-8", hl7v2::mllp::frame(&[message.as_bytes(), b"NTE|1||\xff\xfe\xc3\x28\r"].concat())),
        ("HTTP", format!("GET /{SENTINEL} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes()),
        ("a TLS hello", client_hello(&folder.path().join("tls/ca.pem"))),
        ("delimiters that are letters", hl7v2::mllp::frame(message.replace("|^~\\&|", "MABCDM").as_bytes())),
        (
            "one field of a million repeats",
            hl7v2::mllp::frame(message.replace("||1970", &format!("|{}|1970", "~".repeat(50_000))).as_bytes()),
        ),
        ("nothing at all", Vec::new()),
    ];
    for (n, (what, bytes)) in cases.iter().enumerate() {
        let answer = raw(address, bytes).await;
        clean(what, &answer);
        if *what == "too many segments" || *what == "framed garbage" {
            let text = String::from_utf8_lossy(&answer);
            assert!(text.contains("MSA|AR") && text.contains("ERR|"), "{what}: {text}");
            // The header could be read, so the sender learns which message it was.
            assert_eq!(text.contains("MSA|AR|X1"), *what == "too many segments", "{what}: {text}");
        }
        if n % 6 == 0 {
            works(&process, n).await;
        }
    }
    // One that begins a message and then says nothing is not waited for.
    let mut slow = TcpStream::connect(address).await.expect("a connection");
    slow.write_all(&framed[..20]).await.expect("a connection");
    let mut byte = [0];
    let closed = tokio::time::timeout(PATIENCE, slow.read(&mut byte)).await.expect("the node closes a slow connection");
    assert!(matches!(closed, Ok(0) | Err(_)));
    // Plain bytes to a listener that speaks TLS.
    let answer = raw(process.mllp_address("lab-tls"), &framed).await;
    clean("plain bytes to a TLS listener", &answer);
    assert!(!String::from_utf8_lossy(&answer).contains("MSA"), "a TLS listener answered in the clear");
    let mut over_tls = tls(process.mllp_address("lab-tls"), &folder.path().join("tls/ca.pem")).await;
    over_tls.write_all(&framed).await.expect("a connection");
    let mut ack = vec![0; 4_096];
    let n = over_tls.read(&mut ack).await.expect("an acknowledgement");
    assert!(String::from_utf8_lossy(&ack[..n]).contains("MSA|AA|"), "the TLS listener takes messages over TLS");
    works(&process, 100).await;
    log_is_clean(folder.path());
    process.stop().await;
}

/// The first flight of a TLS client.
fn client_hello(authority: &Path) -> Vec<u8> {
    let config = net::client_config(authority, None).expect("a configuration");
    let name = ServerName::try_from("ward.example").expect("a name");
    let mut connection = rustls::ClientConnection::new(config, name).expect("a connection");
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("a hello");
    hello
}

#[tokio::test(flavor = "multi_thread")]
async fn law_9_http_takes_anything() {
    let folder = folder_with_small_limits();
    let process = start(folder.path()).await;
    bodies(&process).await;
    works(&process, 1).await;
    paths(&process, folder.path()).await;
    works(&process, 2).await;
    bytes(&process, folder.path()).await;
    works(&process, 3).await;
    log_is_clean(folder.path());
    process.stop().await;
}

async fn bodies(process: &Process) {
    let patient = |rest: &str| format!("{{\"resourceType\":\"Patient\",\"name\":[{{\"family\":\"{SENTINEL}\"}}]{rest}");
    let deep = format!("{}{}{}", "{\"a\":".repeat(10_000), "1", "}".repeat(10_000));
    let deep_extension =
        format!("{},\"extension\":{}1{}}}", patient(""), "[{\"extension\":".repeat(10_000), "}]".repeat(10_000));
    let entries = vec![
        json!({ "resource": { "resourceType": "Patient" }, "request": { "method": "POST", "url": "Patient" } });
        60
    ];
    let cases: Vec<(&str, Vec<u8>, &[u16])> = vec![
        ("JSON 10,000 levels deep", deep.into_bytes(), &[400, 413, 422]),
        ("an extension 10,000 levels deep", deep_extension.into_bytes(), &[400, 413, 422]),
        ("arrays 100,000 levels deep", "[".repeat(100_000).into_bytes(), &[400]),
        ("a key twice", patient(",\"active\":true,\"active\":false}").into_bytes(), &[400]),
        ("a key of PHI twice", patient(&format!(",\"{SENTINEL}\":1,\"{SENTINEL}\":2}}")).into_bytes(), &[400]),
        ("an unknown element", patient(&format!(",\"{SENTINEL}\":1}}")).into_bytes(), &[400, 422]),
        ("a body too large", patient(&format!(",\"x\":\"{}\"}}", "x".repeat(600_000))).into_bytes(), &[413]),
        ("bad UTF-8", [patient("").as_bytes(), b",\"gender\":\"\xff\xfe\"}"].concat(), &[400]),
        ("half a surrogate", patient(",\"gender\":\"\\ud800\"}").into_bytes(), &[400, 422]),
        ("a NUL", patient(",\"gender\":\"\\u0000\"}").into_bytes(), &[400, 422]),
        ("cut off", patient("").into_bytes(), &[400]),
        ("no JSON", format!("<Patient><name value=\"{SENTINEL}\"/></Patient>").into_bytes(), &[400, 415]),
        ("another type", format!("{{\"resourceType\":\"{SENTINEL}\"}}").into_bytes(), &[400]),
        ("a number that is none", patient(",\"multipleBirthInteger\":1e999999}").into_bytes(), &[400, 422]),
        (
            "a number with 100,000 digits",
            patient(&format!(",\"multipleBirthInteger\":{}}}", "9".repeat(100_000))).into_bytes(),
            &[400, 422],
        ),
        ("nothing", Vec::new(), &[400]),
    ];
    for (what, body, statuses) in cases {
        let answer = process.post("dr-lee", "/fhir/ehr/Patient", "application/fhir+json", body).await;
        assert!(statuses.contains(&answer.status.as_u16()), "{what}: {} {}", answer.status, answer.text());
        // The place of an unknown element is its name, which its sender wrote; nobody else sees it.
        if what != "an unknown element" {
            clean(what, &answer.body);
        }
        assert!(!answer.body.is_empty(), "{what}: no word of why");
        if answer.status != 413 {
            assert_eq!(answer.json()["resourceType"], "OperationOutcome", "{what}: {}", answer.text());
        }
    }
    let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries });
    let answer = process.post("bedside-gateway", "/fhir/ehr", "application/fhir+json", bundle.to_string()).await;
    assert_eq!(answer.status, 413, "too many entries: {}", answer.text());
    for reference in
        ["Patient/../../etc/passwd", "Patient?identifier=a|b&_sort=x", "urn:uuid:nothing", &SENTINEL.repeat(1_000)]
    {
        let resource = json!({ "resourceType": "Condition", "subject": { "reference": reference } });
        let answer =
            process.post("bedside-gateway", "/fhir/ehr/Condition", "application/fhir+json", resource.to_string()).await;
        assert!(answer.status.is_client_error() || answer.status == 201, "{reference}: {}", answer.text());
        if answer.status != 201 {
            clean("a strange reference", &answer.body);
        }
    }
    let admin = process
        .client
        .call(Method::POST, "/admin/token", None, "application/json", format!("{{\"principal\":\"{SENTINEL}\""))
        .await;
    let admin = admin.expect("an answer");
    assert_eq!(admin.status, 400);
    clean("a broken request for a token", &admin.body);
}

async fn paths(process: &Process, folder: &Path) {
    let token = process.token("dr-lee").await;
    for path in [
        format!("/fhir/ehr/Patient/{SENTINEL}"),
        format!("/fhir/ehr/{SENTINEL}"),
        format!("/fhir/{SENTINEL}/Patient"),
        format!("/{SENTINEL}"),
        format!("/fhir/ehr/Patient?{SENTINEL}=1"),
        format!("/fhir/ehr/Patient?ssn={SENTINEL}"),
        format!("/fhir/ehr/Patient?birthdate={SENTINEL}"),
        format!("/fhir/ehr/Patient?_count={SENTINEL}"),
        format!("/fhir/ehr/Patient?_sort={SENTINEL}"),
        format!("/fhir/ehr/Patient?_cursor={SENTINEL}"),
        format!("/fhir/ehr/Patient?_include={SENTINEL}"),
        format!("/fhir/ehr/Patient?family:{SENTINEL}=x"),
        format!("/fhir/ehr/Patient?general-practitioner:{SENTINEL}.name=x"),
        format!("/fhir/ehr/Patient/x/_history/{SENTINEL}"),
        format!("/fhir/ehr/Patient/{}", "x".repeat(20_000)),
        format!("/fhir/ehr/Patient?{}", "family=a&".repeat(5_000)),
        format!("/fhir/ehr/Observation?code={}", "a,".repeat(10_000)),
        "/fhir/ehr/../../admin/status".into(),
        "/fhir/ehr/Patient/..%2f..%2f..%2fetc%2fpasswd".into(),
        "/fhir/ehr/Patient/%00".into(),
        "/fhir/%ff%fe/Patient".into(),
        "//etc/passwd".into(),
        "/fhir/ehr/Patient?family=%ff%fe%zz".into(),
        format!("/admin/journal/ehr/{SENTINEL}"),
        "/admin/journal/ehr/99999999999999999999999999".into(),
        format!("/admin/lineage/ehr/{SENTINEL}/{SENTINEL}"),
        format!("/admin/audit/who-saw/ehr/{SENTINEL}"),
        format!("/admin/set-aside/{SENTINEL}"),
        format!("/admin/set-aside/ehr?max={SENTINEL}"),
        format!("/admin/audit/checkpoint/{SENTINEL}"),
        "/admin/audit/checkpoint/..%2f..%2fkeys%2fmachine.key".into(),
    ] {
        let answer = process.https().await.get(&path, &token).await.expect("an answer");
        let shown: String = path.chars().take(80).collect();
        assert!(
            answer.status.is_client_error() || path.contains("family=%ff"),
            "{shown}: {} {}",
            answer.status,
            answer.text()
        );
        // The name of a parameter is its place; what it was to find is never told.
        if !path.starts_with(&format!("/fhir/ehr/Patient?{SENTINEL}")) && !path.contains(&format!(":{SENTINEL}")) {
            clean(&shown, &answer.body);
        }
        assert!(
            answer.headers.iter().all(|(_, value)| !String::from_utf8_lossy(value.as_bytes()).contains(SENTINEL)),
            "{shown}"
        );
    }
    wrong_tokens(process, &token).await;
    // A page that is not there answers like any other, also without a token; nothing is told to the network.
    let mut stranger = process.https().await;
    for path in ["/admin/status", "/fhir/ehr/Patient", "/admin/audit"] {
        assert_eq!(stranger.call(Method::GET, path, None, &[], "").await.expect("an answer").status, 401, "{path}");
    }
    let untrusted = HttpsOf::strangers(process.http, folder).await;
    assert!(untrusted.is_err(), "a client that trusts another authority must not connect");
}

struct HttpsOf;

impl HttpsOf {
    /// A client that trusts an authority which did not sign this node's certificate.
    async fn strangers(address: SocketAddr, _folder: &Path) -> Result<(), String> {
        let other = tempfile::tempdir().expect("a folder");
        net::DevCertificates::ensure(other.path()).expect("certificates");
        let client = ward::wire::HttpsClient::connect(address, &other.path().join("ca.pem")).await;
        client.map(drop).map_err(|error| error.to_string())
    }
}

async fn wrong_tokens(process: &Process, token: &str) {
    use base64::Engine;
    let encode = |value: &Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
    let decode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).expect("base64");
    let parts: Vec<&str> = token.split('.').collect();
    let mut claims: Value = serde_json::from_slice(&decode(parts[1])).expect("claims");
    claims["sub"] = json!("ana-analyst");
    let altered = format!("{}.{}.{}", parts[0], encode(&claims), parts[2]);
    let none = format!("{}.{}.", encode(&json!({ "alg": "none", "typ": "JWT" })), encode(&claims));
    let hmac = format!("{}.{}.{}", encode(&json!({ "alg": "HS256", "typ": "JWT" })), parts[1], parts[2]);
    let mut flipped = decode(parts[2]);
    flipped[10] ^= 1;
    let flipped = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(flipped);
    for (what, token) in [
        ("altered claims", altered),
        ("no algorithm", none),
        ("another algorithm", hmac),
        ("a flipped signature", format!("{}.{}.{flipped}", parts[0], parts[1])),
        ("no signature", format!("{}.{}", parts[0], parts[1])),
        ("nonsense", SENTINEL.into()),
        ("too long", "x".repeat(30_000)),
        ("empty", String::new()),
    ] {
        for (method, path) in
            [(Method::GET, "/fhir/ehr/Patient"), (Method::POST, "/sql"), (Method::GET, "/admin/status")]
        {
            let answer =
                process.https().await.call(method, path, Some(&token), &[], "SELECT 1").await.expect("an answer");
            assert_eq!(answer.status, 401, "{what} at {path}: {}", answer.text());
            clean(what, &answer.body);
        }
    }
}

/// What no HTTP library would send.
async fn bytes(process: &Process, folder: &Path) {
    let authority = folder.join("tls/ca.pem");
    let huge_header = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX-Big: {}\r\n\r\n", SENTINEL.repeat(20_000));
    let many_headers =
        format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{}\r\n", format!("X-A: {SENTINEL}\r\n").repeat(5_000));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a header too large", huge_header.into_bytes()),
        ("too many headers", many_headers.into_bytes()),
        ("no HTTP", format!("{SENTINEL}\r\n\r\n").into_bytes()),
        ("a header that is none", format!("GET / HTTP/1.1\r\n{SENTINEL}\r\n\r\n").into_bytes()),
        (
            "a length that is none",
            format!("POST /sql HTTP/1.1\r\nHost: x\r\nContent-Length: {SENTINEL}\r\n\r\n").into_bytes(),
        ),
        ("two lengths", b"POST /sql HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".to_vec()),
        (
            "length and chunks",
            b"POST /sql HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                .to_vec(),
        ),
        ("a path with a line break", format!("GET /fhir\r\n{SENTINEL} HTTP/1.1\r\n\r\n").into_bytes()),
        ("binary", (0..4_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()),
        ("an HTTP/2 preface and garbage", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &[0xFF; 500]].concat()),
        ("headers that never end", format!("GET / HTTP/1.1\r\nHost: {SENTINEL}\r\n").into_bytes()),
    ];
    for (what, request) in cases {
        let mut stream = tls(process.http, &authority).await;
        let _ = stream.write_all(&request).await;
        let mut answer = Vec::new();
        let mut buffer = vec![0; 16 << 10];
        // Until the node closes; it must, for every one of these.
        let closed = tokio::time::timeout(PATIENCE, async {
            while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                answer.extend_from_slice(&buffer[..n]);
                if answer.starts_with(b"HTTP/1.1 4") {
                    break;
                }
            }
        });
        closed.await.unwrap_or_else(|_| panic!("{what}: the node neither answers nor closes"));
        clean(what, &answer);
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{what}: {}", String::from_utf8_lossy(&answer));
    }
    // The wrong protocol altogether.
    clean(
        "plain HTTP to the TLS port",
        &raw(process.http, format!("GET /{SENTINEL} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await,
    );
    clean("MLLP to the TLS port", &raw(process.http, &hl7v2::mllp::frame(&adt("X", "A01", SENTINEL, SENTINEL))).await);
    let mut silent = TcpStream::connect(process.http).await.expect("a connection");
    let mut byte = [0];
    let closed =
        tokio::time::timeout(PATIENCE, silent.read(&mut byte)).await.expect("the node closes a silent connection");
    assert!(matches!(closed, Ok(0) | Err(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn law_9_sql_takes_anything() {
    let folder = folder_with_small_limits();
    let process = start(folder.path()).await;
    // The data itself is the PHI here: errors of the engine like to quote values.
    for n in 0..8 {
        let message = adt(&format!("C{n}"), "A01", &format!("{SENTINEL}{n}"), &format!("{SENTINEL}{n}"));
        process.send_all("adt-main", [message.as_slice()]).await;
    }
    process.settle().await;
    let token = process.token("eng-ehr").await;
    for product in ["patients", "encounters"] {
        let path = format!("/admin/products/ehr/{product}/build");
        process.client.post(&path, Some(&token), &Value::Null).await.expect("a build");
    }
    let mut wrong = Vec::new();
    for who in ["dr-lee", "ana-analyst"] {
        for sql in refused() {
            let shown: String = sql.chars().take(100).collect();
            let answer = sql_of(&process, who, &sql).await;
            assert!(answer.status.is_client_error(), "{who}: {shown}: {} {}", answer.status, answer.text());
            clean(&format!("{who}: {shown}"), &answer.body);
            if answer.status != 413 {
                assert!(
                    answer.json()["error"].as_str().is_some_and(|text| text.len() > 10),
                    "{shown}: {}",
                    answer.text()
                );
            }
        }
        for sql in names_nothing() {
            // What the statement itself names may be told to its author, and to nobody else: see the log's check.
            let answer = sql_of(&process, who, &sql).await;
            assert!(answer.status.is_client_error(), "{who}: {sql}: {} {}", answer.status, answer.text());
        }
        for sql in errors_on_data() {
            let answer = sql_of(&process, who, sql).await;
            if answer.status.is_server_error() {
                wrong.push(format!("{who}: {sql}: {} {}", answer.status, answer.text()));
            }
            if answer.status != 200 {
                clean(&format!("{who}: {sql}"), &answer.body);
            }
            if who == "ana-analyst" {
                clean(&format!("{who}: {sql}"), &answer.body);
            }
        }
    }
    for (name, value) in [("accept", "application/x-nothing"), ("content-type", "text/plain")] {
        let token = process.token("dr-lee").await;
        let answer = process
            .https()
            .await
            .call(Method::POST, "/sql", Some(&token), &[(name, value)], "SELECT 1")
            .await
            .expect("an answer");
        assert!(answer.status.is_client_error(), "{name}: {}", answer.status);
    }
    let answer = process.post("dr-lee", "/sql", "application/sql", vec![0xFF; 100]).await;
    assert_eq!(answer.status, 400);
    let still = process.post("dr-lee", "/sql", "application/sql", "SELECT count(*) AS n FROM ehr.patients").await;
    assert!(still.status == 200 && still.text().contains('8'), "{}", still.text());
    works(&process, 1).await;
    log_is_clean(folder.path());
    process.stop().await;
    assert!(wrong.is_empty(), "errors of the data are told as failures of the node: {wrong:#?}");
}

/// One statement; a node that ends over it is told with the statement.
async fn sql_of(process: &Process, who: &str, sql: &str) -> ward::wire::HttpAnswer {
    let token = process.token(who).await;
    let headers = [("content-type", "application/sql")];
    let body = sql.to_owned();
    let shown: String = sql.chars().take(100).collect();
    let mut https = process.https().await;
    let answer = tokio::time::timeout(PATIENCE, https.call(Method::POST, "/sql", Some(&token), &headers, body)).await;
    let answer = answer.unwrap_or_else(|_| panic!("{who}: {shown} ({} bytes) is answered by nobody", sql.len()));
    answer.unwrap_or_else(|error| panic!("{who}: {shown} ({} bytes) ended the connection: {error}", sql.len()))
}

fn refused() -> Vec<String> {
    let mut all: Vec<String> = [
        "DROP TABLE ehr.patients",
        "CREATE TABLE x AS SELECT * FROM ehr.patients",
        "CREATE VIEW x AS SELECT * FROM ehr.patients",
        "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'",
        "CREATE FUNCTION f() RETURNS INT RETURN 1",
        "COPY (SELECT * FROM ehr.patients) TO '/tmp/out.csv'",
        "COPY ehr.patients TO '/tmp/out.parquet' STORED AS PARQUET",
        "INSERT INTO ehr.patients VALUES ('a')",
        "DELETE FROM ehr.patients",
        "UPDATE ehr.patients SET family = 'x'",
        "TRUNCATE TABLE ehr.patients",
        "SET datafusion.execution.batch_size = 1",
        "RESET datafusion.execution.batch_size",
        "SHOW ALL",
        "SHOW TABLES",
        "BEGIN",
        "COMMIT",
        "PREPARE p AS SELECT * FROM ehr.patients",
        "EXECUTE p",
        "SELECT 1 FROM ehr.patients; SELECT 2 FROM ehr.patients",
        "SELECT 1 FROM ehr.patients; DROP TABLE ehr.patients",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM \"/etc/passwd\"",
        "SELECT * FROM 'data/catalog.db'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM parquet_metadata('x.parquet')",
        "SELECT * FROM generate_series(1, 1000000000)",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM information_schema.df_settings",
        "SELECT * FROM ehr.patients_raw",
        "SELECT * FROM datafusion.public.patients",
        "SELECT * FROM ehr.nowhere",
        "SELECT nothing_here FROM ehr.patients",
        "SELECT no_such_function(family) FROM ehr.patients",
        "SELECT pg_read_file('/etc/passwd') FROM ehr.patients",
        "SELECT getenv('HOME') FROM ehr.patients",
        "SELECT",
        "",
        ";",
        "--",
        "hello",
    ]
    .map(str::to_owned)
    .to_vec();
    all.extend([
        format!("SELECT * FROM ehr.patients WHERE family = '{SENTINEL}"),
        format!("SELECT '{SENTINEL}' FORM ehr.patients"),
        format!("SELECT DATE '{SENTINEL}' FROM ehr.patients"),
        format!("SELECT CAST('{SENTINEL}' AS INT) FROM ehr.patients"),
        format!("SELECT * FROM ehr.patients -- {}", SENTINEL.repeat(10_000)),
    ]);
    all
}

/// Statements that name tables, columns and functions that are not there.
fn names_nothing() -> Vec<String> {
    vec![
        format!("SELECT {SENTINEL} FROM ehr.patients"),
        format!("SELECT * FROM ehr.{SENTINEL}"),
        format!("SELECT * FROM {SENTINEL}.patients"),
        format!("SELECT {SENTINEL}(family) FROM ehr.patients"),
        format!("SELECT * FROM ehr.patients WHERE family = \"{SENTINEL}\""),
    ]
}

/// Statements that are all right, but for what the data holds.
fn errors_on_data() -> Vec<&'static str> {
    vec![
        "SELECT CAST(family AS INT) FROM ehr.patients",
        "SELECT CAST(mrn AS DATE) FROM ehr.patients",
        "SELECT CAST(family AS TIMESTAMP) FROM ehr.patients",
        "SELECT CAST(family AS BOOLEAN) FROM ehr.patients",
        "SELECT CAST(family AS DECIMAL(10,2)) FROM ehr.patients",
        "SELECT arrow_cast(family, 'Int64') FROM ehr.patients",
        "SELECT to_timestamp(family) FROM ehr.patients",
        "SELECT to_date(family) FROM ehr.patients",
        "SELECT family::interval FROM ehr.patients",
        "SELECT decode(family, 'hex') FROM ehr.patients",
        "SELECT decode(family, 'base64') FROM ehr.patients",
        "SELECT regexp_replace('x', family || '(', 'y') FROM ehr.patients",
        "SELECT regexp_like('x', family || '(') FROM ehr.patients",
        "SELECT 1 / (length(family) - length(family)) FROM ehr.patients",
        "SELECT 1 / 0 FROM ehr.patients",
        "SELECT 9223372036854775807 + length(family) FROM ehr.patients",
        "SELECT chr(length(family) - 1000) FROM ehr.patients",
        "SELECT repeat(family, 1000000000) FROM ehr.patients",
        "SELECT family + 1 FROM ehr.patients",
        "SELECT sum(family) FROM ehr.patients",
        "SELECT date_trunc(family, now()) FROM ehr.patients",
        "SELECT digest(family, family) FROM ehr.patients",
        "SELECT * FROM ehr.patients WHERE family = (SELECT family FROM ehr.patients)",
        "SELECT * FROM ehr.patients ORDER BY 99",
        "SELECT count(*) FROM ehr.patients a, ehr.patients b, ehr.patients c, ehr.patients d, ehr.patients e, ehr.patients f",
        "EXPLAIN ANALYZE SELECT * FROM ehr.patients WHERE family = 'x'",
        "EXPLAIN SELECT * FROM ehr.patients",
    ]
}

/// Depth and length of every kind: refused or answered, and the node lives.
#[tokio::test(flavor = "multi_thread")]
async fn law_9_sql_takes_any_depth() {
    let folder = folder_with_small_limits();
    let process = start(folder.path()).await;
    process.send_all("adt-main", [adt("C1", "A01", SENTINEL, SENTINEL).as_slice()]).await;
    process.settle().await;
    let token = process.token("eng-ehr").await;
    process.client.post("/admin/products/ehr/patients/build", Some(&token), &Value::Null).await.expect("a build");
    let of =
        |n: usize, part: &dyn Fn(usize) -> String, between: &str| (0..n).map(part).collect::<Vec<_>>().join(between);
    let from = "FROM ehr.patients";
    for (what, sql) in [
        ("brackets", format!("SELECT 1 {from} WHERE {}", "(".repeat(5_000))),
        ("signs", format!("SELECT {}1 {from}", "-(".repeat(5_000))),
        ("spaced signs", format!("SELECT {}1 {from}", "- ".repeat(5_000))),
        ("NOT of brackets", format!("SELECT 1 {from} WHERE {}true{}", "NOT (".repeat(3_000), ")".repeat(3_000))),
        ("NOT", format!("SELECT 1 {from} WHERE {}true", "NOT ".repeat(5_000))),
        ("IS NULL", format!("SELECT 1 {from} WHERE city{}", " IS NULL".repeat(4_000))),
        ("OR", format!("SELECT 1 {from} WHERE {}", of(3_000, &|n| format!("city='{n}'"), " OR "))),
        ("AND", format!("SELECT 1 {from} WHERE {}", of(3_000, &|n| format!("city<>'{n}'"), " AND "))),
        ("long sums", format!("SELECT {} {from}", of(900, &|_| "1".into(), "+"))),
        ("sums", format!("SELECT {} {from}", of(20_000, &|_| "1".into(), "+"))),
        ("joined text", format!("SELECT {} {from}", of(8_000, &|_| "city".into(), "||"))),
        ("casts", format!("SELECT city{} {from}", "::text".repeat(5_000))),
        ("subscripts", format!("SELECT city{} {from}", "[1]".repeat(5_000))),
        ("functions in functions", format!("SELECT {}city{} {from}", "lower(".repeat(60), ")".repeat(60))),
        ("UNION ALL", of(1_500, &|_| format!("SELECT city {from}"), " UNION ALL ")),
        (
            "CTEs",
            format!(
                "WITH a0 AS (SELECT city {from}){} SELECT 1 FROM a799",
                (1..800).map(|n| format!(", a{n} AS (SELECT * FROM a{})", n - 1)).collect::<String>()
            ),
        ),
        (
            "queries in queries",
            format!("SELECT 1 FROM {}ehr.patients{}", "(SELECT * FROM ".repeat(60), ") t".repeat(60)),
        ),
        ("joins", format!("SELECT 1 FROM {}", of(120, &|n| format!("ehr.patients p{n}"), " CROSS JOIN "))),
        ("CASE", format!("SELECT CASE {} END {from}", of(2_000, &|n| format!("WHEN city='{n}' THEN {n}"), " "))),
        ("IN", format!("SELECT 1 {from} WHERE city IN ({})", of(6_000, &|n| format!("'{n}'"), ","))),
        ("columns", format!("SELECT {} {from}", of(8_000, &|_| "city".into(), ","))),
    ] {
        let answer = sql_of(&process, "dr-lee", &sql).await;
        assert!(
            !answer.status.is_server_error() || answer.status == 504,
            "{what}: {} {}",
            answer.status,
            answer.text()
        );
        assert!(answer.status != 200 || !answer.text().is_empty(), "{what}");
        clean(what, &answer.body);
    }
    works(&process, 1).await;
    log_is_clean(folder.path());
    process.stop().await;
}

/// A token that has run out, and a feed that is older than its permit.
#[tokio::test(flavor = "multi_thread")]
async fn law_9_time_passes() {
    let clock = ManualClock::at(base::Clock::now(&base::SystemClock).ms());
    let folder = mesh_folder();
    let mesh = Mesh::start_at(folder, Arc::new(clock.clone())).await;
    assert_eq!(mesh.send_all("adt-main", [adt("C1", "A01", "M1", "Early").as_slice()]).await, ["AA"]);
    mesh.settle().await;
    let mut feed = mesh.mllp("adt-main").await;
    let token = mesh.token("dr-lee").await;
    let mut https = mesh.https().await;
    assert_eq!(https.get("/fhir/ehr/Patient", &token).await.expect("an answer").status, 200);
    clock.advance_ms(11 * 60_000);
    let late = https.get("/fhir/ehr/Patient", &token).await.expect("an answer");
    assert_eq!(late.status, 401, "{}", late.text());
    assert!(late.text().contains("expired"), "{}", late.text());
    // An open connection and a new one: the feed goes on, hours after the node started.
    for hours in 1..=3 {
        clock.advance_ms(70 * 60_000);
        let message = adt(&format!("L{hours}"), "A08", "M1", "Late");
        let ack = feed.send(&message).await.expect("an open connection still works");
        assert_eq!(ward::wire::ack_code(&ack), "AA", "{hours} h");
        let message = adt(&format!("N{hours}"), "A08", "M1", "New");
        assert_eq!(mesh.send_all("adt-main", [message.as_slice()]).await, ["AA"], "{hours} h");
    }
    mesh.settle().await;
    let token = mesh.token("dr-lee").await;
    let found = https.get("/fhir/ehr/Patient?family=New", &token).await.expect("an answer").json();
    assert_eq!(found["entry"].as_array().map(Vec::len), Some(1), "{found}");
    mesh.stop().await;
}

/// The doors of audit, rights, emergencies and downtime, as a caller who may use them.
#[tokio::test(flavor = "multi_thread")]
async fn law_9_the_doors_of_privacy_take_anything() {
    let folder = folder_with_small_limits();
    let process = start(folder.path()).await;
    let (officer, physician) = (process.token("privacy-osei").await, process.token("dr-lee").await);
    for path in [
        format!("/fhir/ehr/AuditEvent?{SENTINEL}=1"),
        format!("/fhir/ehr/AuditEvent?date={SENTINEL}"),
        format!("/fhir/ehr/AuditEvent?_cursor={SENTINEL}"),
        format!("/fhir/ehr/AuditEvent?agent={SENTINEL}"),
        format!("/fhir/ehr/AuditEvent?patient={SENTINEL}&patient=x"),
        format!("/fhir/ehr/AuditEvent/{SENTINEL}"),
        format!("/fhir/{SENTINEL}/AuditEvent"),
        format!("/admin/audit/who-saw/ehr/{SENTINEL}"),
        format!("/admin/audit/who-saw/{SENTINEL}/x"),
        format!("/admin/audit/who-saw/ehr/x?from={SENTINEL}"),
        format!("/admin/audit/disclosures/ehr/x?to={SENTINEL}"),
        format!("/admin/audit/disclosures/ehr/x?as={SENTINEL}"),
        format!("/admin/audit/disclosures/ehr/x?{SENTINEL}=1"),
        format!("/admin/audit/export?format={SENTINEL}"),
        format!("/admin/audit/export?format=cef&since={SENTINEL}"),
        format!("/admin/audit?last={SENTINEL}"),
        format!("/admin/break-glass?all={SENTINEL}"),
        format!("/admin/erasures/{SENTINEL}"),
        "/admin/erasures/99999999999999999999999".into(),
    ] {
        let answer = process.https().await.get(&path, &officer).await.expect("an answer");
        assert!(answer.status.is_client_error(), "{path}: {} {}", answer.status, answer.text());
        // The name of a parameter is its place.
        if !path.contains(&format!("?{SENTINEL}=")) {
            clean(&path, &answer.body);
        }
    }
    let bodies = [
        Vec::new(),
        format!("{{\"reason\":\"{SENTINEL}\"").into_bytes(),
        format!("[\"{SENTINEL}\"]").into_bytes(),
        format!("{{\"{SENTINEL}\":1}}").into_bytes(),
        format!("{{\"domain\":\"{SENTINEL}\",\"patient\":\"{SENTINEL}\",\"location\":\"{SENTINEL}\",\"days\":\"{SENTINEL}\"}}")
            .into_bytes(),
        format!("{{\"job\":\"{SENTINEL}\",\"what\":\"{SENTINEL}\",\"verdict\":\"{SENTINEL}\"}}").into_bytes(),
        [b"[".repeat(50_000), SENTINEL.as_bytes().to_vec()].concat(),
        [&[0xFF, 0xFE], SENTINEL.as_bytes()].concat(),
        SENTINEL.repeat(20_000).into_bytes(),
    ];
    let headers = [("content-type", "application/json")];
    for path in [
        "/admin/holds",
        "/admin/holds/77/lift",
        "/admin/suspensions",
        "/admin/suspensions/77/end",
        "/admin/erasures",
        "/admin/erasures/77/approve",
        "/admin/erasures/77/refuse",
        "/admin/retention",
        "/admin/break-glass",
        "/admin/break-glass/Zebraquince4711/confirm",
        "/admin/break-glass/Zebraquince4711/end",
        "/admin/break-glass/Zebraquince4711/review",
        "/admin/downtime/ehr/pack",
        "/admin/downtime/ehr/card",
        "/admin/downtime/ehr/openings",
        "/admin/downtime/Zebraquince4711/pack",
        "/admin/maintenance",
        "/admin/keys/rotate",
        "/admin/keys/scopes/Zebraquince4711/give-up",
    ] {
        for (n, body) in bodies.iter().enumerate() {
            for (who, token) in [("officer", &officer), ("physician", &physician)] {
                let mut https = process.https().await;
                let answer = https.call(Method::POST, path, Some(token), &headers, body.clone()).await;
                let answer = match answer {
                    Ok(answer) => answer,
                    // Refused by its head, and closed while the rest was still on its way.
                    Err(ward::wire::WireError::Http(_)) if body.len() > 100_000 => continue,
                    Err(error) => panic!("{path}, body {n}, {who}: {error}"),
                };
                assert!(
                    answer.status.is_client_error(),
                    "{path}, body {n}, {who}: {} {}",
                    answer.status,
                    answer.text()
                );
                clean(path, &answer.body);
            }
        }
    }
    // Over the node's own socket the same.
    for (path, body) in [
        ("/admin/maintenance", json!({ "job": SENTINEL })),
        ("/admin/maintenance", json!({ "job": "backup", "target": 7, SENTINEL: 1 })),
        ("/admin/keys/rotate", json!({ "what": SENTINEL })),
        ("/admin/keys/scopes/Zebraquince4711/give-up", json!(null)),
        ("/admin/token", json!({ "principal": SENTINEL, "minutes": SENTINEL })),
    ] {
        let refused = process.client.post(path, None, &body).await.expect_err("it is refused");
        let text = refused.to_string();
        clean(path, text.as_bytes());
    }
    works(&process, 1).await;
    log_is_clean(folder.path());
    process.stop().await;
}
