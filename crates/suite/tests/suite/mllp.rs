//! The MLLP door as interface engines use it: every way of acknowledging, batches, broken framing, TLS with the sender
//! bound to its certificate, limits per source, character sets. Clients are PyPI's hl7 and npm's node-hl7-client, too.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use hl7v2::mllp::frame;
use ward::wire::{MllpClient, ack_code};

use crate::harness::{Mesh, Process, adt, append, mesh_folder, program};

const SOURCES: &str = r#"
[[source]]
name = "refined"
kind = "hl7v2"
listen = "127.0.0.1:0"
ack_on = "refined"

[[source]]
name = "few-types"
kind = "hl7v2"
listen = "127.0.0.1:0"
accepts = ["ADT^A01", "ORU"]

[[source]]
name = "slow"
kind = "hl7v2"
listen = "127.0.0.1:0"
messages_per_second_max = 20
connections_max = 2

[[source]]
name = "tls"
kind = "hl7v2"
listen = "127.0.0.1:0"
tls = "server"

[[source]]
name = "tls-mutual"
kind = "hl7v2"
listen = "127.0.0.1:0"
tls = "mutual"
client_authorities = "tls/ca.pem"
senders = ["dns:development-client"]

[[source]]
name = "tls-others"
kind = "hl7v2"
listen = "127.0.0.1:0"
tls = "mutual"
client_authorities = "tls/ca.pem"
senders = ["dns:laboratory.example.org"]
"#;

fn folder() -> tempfile::TempDir {
    let folder = mesh_folder();
    append(folder.path(), "domains/ehr/domain.toml", SOURCES);
    folder
}

/// ADT^A01 whose MSH goes on after the version.
fn with_header(control_id: &str, after_version: &str) -> Vec<u8> {
    let message = String::from_utf8(adt(control_id, "A01", &format!("M{control_id}"), "Acknowledged")).expect("text");
    message.replacen("|P|2.5.1\r", &format!("|P|2.5.1{after_version}\r"), 1).into_bytes()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace('\r', "\n")
}

/// A result of which the first value is no number and the second is one.
fn result(control_id: &str) -> Vec<u8> {
    format!(
        "MSH|^~\\&|LAB|GENHOSP|WARD|MESH|20261101120000||ORU^R01^ORU_R01|{control_id}|P|2.5.1\r\
         PID|1||M{control_id}^^^GENHOSP^MR||Partly^Test||19700203|F\r\
         OBR|1||F{control_id}^LAB|24323-8^Panel^LN|||20261101110000|||||||||||||||20261101113000||LAB|F\r\
         OBX|1|NM|2345-7^Glucose^LN||not-a-number|mg/dL|||||F\r\
         OBX|2|NM|2951-2^Sodium^LN||140|mmol/L|||||F\r"
    )
    .into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn mllp_acknowledgement_modes() {
    let mesh = Mesh::start_in(folder()).await;
    let mut client = mesh.mllp("adt-main").await;
    // (MSH-15, MSH-16), what comes for a message that is applied, what comes for one that is refused (MSH-11 `T`).
    let modes: [(&str, &[&str], &[&str]); 9] = [
        ("", &["AA"], &["AR"]),
        ("|||AL|NE", &["CA"], &["CR"]),
        ("|||NE|NE", &[], &[]),
        ("|||ER|NE", &[], &["CR"]),
        ("|||SU|NE", &["CA"], &[]),
        ("|||AL|AL", &["CA", "AA"], &["CR"]),
        ("|||NE|AL", &["AA"], &["CR"]),
        ("|||AL|ER", &["CA"], &["CR"]),
        ("|||ER|SU", &["AA"], &["CR"]),
    ];
    for (n, (fields, accepted, refused)) in modes.into_iter().enumerate() {
        let good = with_header(&format!("G{n}"), fields);
        let bad = text(&with_header(&format!("B{n}"), fields)).replacen("|P|2.5.1", "|T|2.5.1", 1).replace('\n', "\r");
        for (message, expected) in [(good, accepted), (bad.into_bytes(), refused)] {
            client.write(&frame(&message)).await.expect("a connection");
            for code in expected {
                let answer = client.read().await.expect("an answer");
                assert_eq!(ack_code(&answer), *code, "{fields}: {}", text(&answer));
                if *code == "CR" || *code == "AR" {
                    assert!(text(&answer).contains("ERR||MSH^1^11|202^"), "{}", text(&answer));
                }
            }
        }
        // Nothing more came: the next thing on the wire is the answer to this one.
        let probe = adt(&format!("P{n}"), "A01", "MPROBE", "Probe");
        let answer = client.send(&probe).await.expect("an answer");
        assert!(text(&answer).contains(&format!("MSA|AA|P{n}\n")), "{fields}: {}", text(&answer));
    }
    // The sender confirms an application answer of ours: nothing is stored, nothing answered.
    let before = mesh.doors.domains.values().map(|parts| parts.intake.journal().log().size()).sum::<u64>();
    client
        .write(&frame(b"MSH|^~\\&|A|B|C|D|20261101||ACK^A01^ACK|X1|P|2.5.1\rMSA|CA|A1\r"))
        .await
        .expect("a connection");
    let answer = client.send(&adt("LAST", "A01", "MPROBE", "Probe")).await.expect("an answer");
    assert!(text(&answer).contains("MSA|AA|LAST"), "{}", text(&answer));
    let after = mesh.doors.domains.values().map(|parts| parts.intake.journal().log().size()).sum::<u64>();
    assert_eq!(after - before, 1);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mllp_answers_when_refined_name_what_was_set_aside() {
    let mesh = Mesh::start_in(folder()).await;
    let mut client = mesh.mllp("refined").await;
    // Applied before it is acknowledged: no waiting for refine here.
    let answer = client.send(&adt("R1", "A01", "MR1", "Refined")).await.expect("an answer");
    assert_eq!(ack_code(&answer), "AA", "{}", text(&answer));
    let found = mesh.get("dr-lee", "/fhir/ehr/Patient?family=Refined&_total=accurate").await.json();
    assert_eq!(found["total"], 1, "{found}");
    // In part: accepted, and the place of what was set aside is named.
    let first = client.send(&result("R2")).await.expect("an answer");
    assert_eq!(ack_code(&first), "AA", "{}", text(&first));
    assert!(text(&first).contains("\nERR||OBX^1^5|102^Data type error^HL70357|W|"), "{}", text(&first));
    assert!(!text(&first).contains("not-a-number"), "a value of the message in its answer: {}", text(&first));
    // Sent again, told again.
    let again = client.send(&result("R2")).await.expect("an answer");
    let without_time = |answer: &[u8]| {
        text(answer).split('|').enumerate().filter(|(n, _)| *n != 6).map(|(_, f)| f.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(without_time(&again), without_time(&first));
    // Nothing of it could be used.
    let unknown = b"MSH|^~\\&|A|GENHOSP|C|D|20261101||ZZZ^Z99|R3|P|2.5.1\rZZZ|1|x\r";
    let answer = client.send(unknown).await.expect("an answer");
    assert_eq!(ack_code(&answer), "AE", "{}", text(&answer));
    assert!(text(&answer).contains("ERR||MSH^1^9|200^"), "{}", text(&answer));
    // Many at once on one connection: answered in their order.
    let many: Vec<u8> =
        (0..100).flat_map(|n| frame(&adt(&format!("Q{n}"), "A01", &format!("MQ{n}"), "Queued"))).collect();
    client.write(&many).await.expect("a connection");
    for n in 0..100 {
        let answer = client.read().await.expect("an answer");
        assert!(text(&answer).contains(&format!("MSA|AA|Q{n}\n")), "{n}: {}", text(&answer));
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mllp_types_that_a_source_does_not_send_are_refused() {
    let mesh = Mesh::start_in(folder()).await;
    let mut client = mesh.mllp("few-types").await;
    for (message, code) in [
        (adt("T1", "A01", "M1", "Typed"), "AA"),
        (result("T2"), "AA"),
        (adt("T3", "A08", "M1", "Typed"), "201"),
        (b"MSH|^~\\&|A|B|C|D|20261101||VXU^V04|T4|P|2.5.1\r".to_vec(), "200"),
        (b"MSH|^~\\&|A|B|C|D|20261101||adt^A01|T5|P|2.5.1\r".to_vec(), "200"),
        (b"MSH|^~\\&|A|B|C|D|20261101||ADT^A1|T6|P|2.5.1\r".to_vec(), "201"),
        (b"MSH|^~\\&|A|B|C|D|20261101||ADT^A01|T7|P|3.0\r".to_vec(), "203"),
        (b"MSH|^~\\&|A|B|C|D|20261101|||T8|P|2.5.1\r".to_vec(), "101"),
    ] {
        let answer = client.send(&message).await.expect("an answer");
        let answered = text(&answer);
        match code {
            "AA" => assert_eq!(ack_code(&answer), "AA", "{answered}"),
            code => {
                assert_eq!(ack_code(&answer), "AR", "{answered}");
                assert!(answered.contains(&format!("|{code}^")), "{code}: {answered}");
            }
        }
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mllp_batches_are_answered_as_batches() {
    let mesh = Mesh::start_in(folder()).await;
    for source in ["adt-main", "refined"] {
        let mut client = mesh.mllp(source).await;
        let mut batch = b"FHS|^~\\&|A|B|C|D|||||F1\rBHS|^~\\&|A|B|C|D|||||B1\r".to_vec();
        for n in 0..3 {
            batch.extend(adt(&format!("{source}{n}"), "A01", &format!("MB{source}{n}"), "Batched"));
        }
        batch.extend(b"MSH|^~\\&|A|B|C|D|20261101||ADT^A01|BAD|T|2.5.1\rBTS|4\rFTS|1\r");
        let answer = text(&client.send(&batch).await.expect("an answer"));
        let segments: Vec<&str> = answer.lines().collect();
        assert!(segments[0].starts_with("FHS|^~\\&|C|D|A|B|") && segments[0].ends_with("|F1"), "{answer}");
        assert!(segments[1].starts_with("BHS|^~\\&|C|D|A|B|") && segments[1].ends_with("|B1"), "{answer}");
        assert!(answer.ends_with("\nBTS|4\nFTS|1\n"), "{answer}");
        let codes: Vec<&str> = segments.iter().filter(|s| s.starts_with("MSA|")).map(|s| &s[4..6]).collect();
        assert_eq!(codes, ["AA", "AA", "AA", "AR"], "{answer}");
    }
    mesh.settle().await;
    let found = mesh.get("dr-lee", "/fhir/ehr/Patient?family=Batched&_count=0&_total=accurate").await.json();
    assert_eq!(found["total"], 6, "{found}");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mllp_broken_framing_closes_its_own_connection_alone() {
    let folder = folder();
    append(folder.path(), "mesh.toml", "\n[limits]\nhl7_message_bytes_max = 65536\n");
    let mesh = Mesh::start_in(folder).await;
    let mut steady = mesh.mllp("adt-main").await;
    let whole = frame(&adt("BEFORE", "A01", "MF0", "Framing"));
    let message = adt("BROKEN", "A01", "MF1", "Framing");
    let oversize = [b"\x0b".as_slice(), &vec![b'x'; 70_000], b"\x1c\r"].concat();
    let cases: [(&str, Vec<u8>); 12] = [
        ("no start block", [&message, b"\x1c\r".as_slice()].concat()),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: ward\r\n\r\n".to_vec()),
        ("TLS on a plain port", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03".to_vec()),
        ("end without carriage return", [b"\x0b".as_slice(), &message, b"\x1cx"].concat()),
        ("two ends", [b"\x0b".as_slice(), &message, b"\x1c\x1c\r"].concat()),
        ("another start instead of the end", [b"\x0b".as_slice(), &message, b"\x0b", &message, b"\x1c\r"].concat()),
        ("a start in the place of the carriage return", [b"\x0b".as_slice(), &message, b"\x1c\x0b", &message].concat()),
        ("nothing inside", b"\x0b\x1c\r".to_vec()),
        ("too large", oversize),
        ("too large and without an end", [b"\x0b".as_slice(), &vec![b'x'; 70_000]].concat()),
        ("bytes between messages", [&whole, b"junk".as_slice(), &whole].concat()),
        ("an end alone", b"\x1c\r".to_vec()),
    ];
    for (n, (what, bytes)) in cases.into_iter().enumerate() {
        let mut broken = mesh.mllp("adt-main").await;
        // The node may close while the rest is on its way.
        let _ = broken.write(&bytes).await;
        let mut answers = 0;
        while broken.read().await.is_ok() {
            answers += 1;
        }
        assert_eq!(answers, usize::from(what == "bytes between messages"), "{what}");
        let answer =
            steady.send(&adt(&format!("S{n}"), "A01", "MFS", "Steady")).await.expect("another connection goes on");
        assert_eq!(ack_code(&answer), "AA", "{what}");
    }
    // Cut off in the middle: nothing is stored.
    {
        let mut cut = mesh.mllp("adt-main").await;
        cut.write(&[b"\x0b".as_slice(), &message].concat()).await.expect("a connection");
    }
    mesh.settle().await;
    let found = mesh.get("dr-lee", "/fhir/ehr/Patient?family=Framing&_total=accurate").await.json();
    assert_eq!(found["total"], 1, "only what came whole: {found}");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mllp_a_source_has_its_own_pace_and_connections() {
    let mesh = Mesh::start_in(folder()).await;
    let mut client = mesh.mllp("slow").await;
    let begun = Instant::now();
    let messages: Vec<u8> = (0..60).flat_map(|n| frame(&adt(&format!("L{n}"), "A01", "ML", "Paced"))).collect();
    client.write(&messages).await.expect("a connection");
    for _ in 0..60 {
        assert_eq!(ack_code(&client.read().await.expect("an answer")), "AA", "slowed down, never refused");
    }
    // One second's worth comes at once, the other forty take two seconds.
    assert!(begun.elapsed().as_millis() >= 1_900, "{:?}", begun.elapsed());
    // Two connections are served; a third waits until one of them is gone.
    let second = mesh.mllp("slow").await;
    let mut third = mesh.mllp("slow").await;
    third.write(&frame(&adt("THIRD", "A01", "ML", "Paced"))).await.expect("the kernel takes it");
    assert_eq!(ack_code(&client.send(&adt("FIRST", "A01", "ML", "Paced")).await.expect("an answer")), "AA");
    drop(second);
    assert!(text(&third.read().await.expect("an answer")).contains("MSA|AA|THIRD"));
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mllp_character_sets() {
    let mesh = Mesh::start_in(folder()).await;
    let mut client = mesh.mllp("adt-main").await;
    let sets: [(&str, &[u8], &str); 9] = [
        ("ASCII", b"Smith", "Smith"),
        ("8859/1", b"M\xfcller", "Müller"),
        ("8859/2", b"Dvo\xf8\xe1k", "Dvořák"),
        ("8859/5", b"\xb8\xd2\xd0\xdd\xde\xd2", "Иванов"),
        ("UNICODE UTF-8", "Łukasz".as_bytes(), "Łukasz"),
        ("GB 18030-2000", b"\xd5\xc5\xce\xb0", "张伟"),
        ("BIG-5", b"\xb3\xaf", "陳"),
        ("KS X 1001", b"\xb1\xe8", "김"),
        ("ISO IR87", b"\x1b$B;3ED\x1b(B", "山田"),
    ];
    for (n, (set, bytes, name)) in sets.into_iter().enumerate() {
        let head = format!(
            "MSH|^~\\&|A|GENHOSP|C|D|20261101||ADT^A01^ADT_A01|S{n}|P|2.5.1||||||{set}\rEVN|A01|20261101120000\r\
             PID|1||MS{n}^^^GENHOSP^MR||"
        );
        let message = [head.as_bytes(), bytes, b"^Test||19700203|F\rPV1|1|I\r"].concat();
        let answer = client.send(&message).await.expect("an answer");
        assert_eq!(ack_code(&answer), "AA", "{set}: {}", text(&answer));
        mesh.settle().await;
        let found = mesh.get("dr-lee", &format!("/fhir/ehr/Patient?identifier=MS{n}")).await.json();
        assert_eq!(found["entry"][0]["resource"]["name"][0]["family"], name, "{set}");
    }
    mesh.stop().await;
}

fn clients() -> PathBuf {
    program("ward").ancestors().nth(2).expect("the target folder").to_owned()
}

async fn run(program: &Path, arguments: &[&str]) -> (bool, String) {
    let output = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap_or_else(|error| panic!("{} does not run ({error}): run `scripts/setup --tests`", program.display()));
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn mllp_clients_of_others_talk_plain_and_with_tls() {
    let folder = folder();
    let process = Process::start(folder.path()).await;
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let (python, node) = (clients().join("clients/bin/python"), PathBuf::from("node"));
    let (py_script, js_script) = (scripts.join("mllp_tls.py"), scripts.join("mllp.cjs"));
    let modules = clients().join("clients-npm");
    let tls = |name: &str| folder.path().join("tls").join(name).display().to_string();
    let (ca, certificate, key) = (tls("ca.pem"), tls("client.pem"), tls("client.key"));
    let messages = folder.path().join("messages.txt");
    let identity = [certificate.as_str(), key.as_str()];
    let mut sent = 0;
    for (client, source, identity, is_taken) in [
        ("node", "adt-main", None, true),
        ("node", "tls", Some(&[] as &[&str]), true),
        ("node", "tls-mutual", Some(&identity), true),
        ("python", "tls", Some(&[]), true),
        ("python", "tls-mutual", Some(&identity), true),
        // Without a certificate, and with one that is not this source's.
        ("python", "tls-mutual", Some(&[]), false),
        ("python", "tls-others", Some(&identity), false),
    ] {
        let lines: Vec<String> = (sent..sent + 5)
            .map(|n| {
                let message = String::from_utf8(adt(&format!("X{n}"), "A01", &format!("MX{n}"), "Foreign"));
                message.expect("text").replace('\r', "|CR|")
            })
            .collect();
        std::fs::write(&messages, lines.join("\n")).expect("a file");
        let (port, file) = (process.mllp_address(source).port().to_string(), messages.display().to_string());
        let (script, modules) = (if client == "node" { &js_script } else { &py_script }, modules.display().to_string());
        let script = script.display().to_string();
        let mut arguments = vec![script.as_str()];
        match client {
            "node" => {
                arguments.extend([modules.as_str(), &port, &file]);
                arguments.extend(identity.map(|_| ca.as_str()));
            }
            _ => arguments.extend([port.as_str(), &ca, &file]),
        }
        arguments.extend(identity.unwrap_or_default());
        let (succeeded, said) = run(if client == "node" { &node } else { &python }, &arguments).await;
        let expected: String = (sent..sent + 5).map(|n| format!("AA X{n}\n")).collect();
        if is_taken {
            assert!(succeeded && said == expected, "{client} to {source}: {said}");
            sent += 5;
        } else {
            assert!(!succeeded && !said.contains("AA X"), "{client} to {source}: {said}");
        }
    }
    process.settle().await;
    let found = process.get("dr-lee", "/fhir/ehr/Patient?family=Foreign&_count=0&_total=accurate").await.json();
    assert_eq!(found["total"], sent, "{found}");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mllp_a_thousand_idle_connections_are_held() {
    let folder = folder();
    let process = Process::start(folder.path()).await;
    let address = process.mllp_address("adt-main");
    let mut idle = Vec::new();
    for _ in 0..1_000 {
        idle.push(MllpClient::connect(address).await.expect("a connection"));
    }
    let answer = idle[999].send(&adt("IDLE", "A01", "MI", "Idle")).await.expect("an answer");
    assert_eq!(ack_code(&answer), "AA");
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).expect("its status");
    let rss = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
    eprintln!("1,000 idle MLLP connections: {rss}");
    process.stop().await;
}
