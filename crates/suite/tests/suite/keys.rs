//! Keys while the node serves: the epoch turns and keys rotate under load, nothing acknowledged becomes unreadable, each
//! leaves a fact, and a start after it opens everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::ManualClock;
use serde_json::{Value, json};
use ward::wire::ack_code;

use crate::harness::{Mesh, adt, mesh_folder};

const NOW_MS: i64 = 1_790_000_000_000;
const DAY_MS: i64 = 86_400_000;

async fn keys(mesh: &Mesh, path: &str, body: Value) -> Value {
    mesh.client.post(&format!("/admin/keys/{path}"), None, &body).await.expect("the node does it")
}

async fn status(mesh: &Mesh) -> Value {
    mesh.client.get("/admin/keys", None).await.expect("the keys' standing")
}

/// Sends admissions until told to stop; how many were acknowledged, and how many rounds of work it saw.
async fn load(mesh: &Mesh, upto: &AtomicBool) -> usize {
    let mut connection = mesh.mllp("adt-main").await;
    let mut sent = 0;
    while !upto.load(Ordering::SeqCst) || sent == 0 {
        let id = format!("K{sent}");
        let answer = connection.send(&adt(&id, "A01", &format!("7{sent:04}"), "KEYS")).await.expect("an answer");
        assert_eq!(ack_code(&answer), "AA");
        sent += 1;
    }
    sent
}

async fn under_load(mesh: &Mesh, work: impl Future<Output = ()>) -> usize {
    let stop = AtomicBool::new(false);
    let work = async {
        work.await;
        stop.store(true, Ordering::SeqCst);
    };
    let (sent, ()) = tokio::join!(load(mesh, &stop), work);
    sent
}

async fn patients(mesh: &Mesh) -> usize {
    mesh.settle().await;
    let answer = mesh.get("dr-lee", "/fhir/ehr/Patient?family=KEYS&_count=0&_total=accurate").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["total"].as_u64().expect("a total") as usize
}

#[tokio::test(flavor = "multi_thread")]
async fn epochs_turn_and_keys_rotate_under_load_and_a_restart_opens_everything() {
    let clock = Arc::new(ManualClock::at(NOW_MS));
    let mesh = Mesh::start_at(mesh_folder(), clock.clone()).await;
    let before = mesh.token("dr-lee").await;
    let machine_key = std::fs::read(mesh.path().join("keys/machine.key")).expect("the machine key");
    let sent = under_load(&mesh, async {
        for _ in 0..3 {
            let turn = keys(&mesh, "turn", Value::Null).await;
            assert_eq!(turn["kept"], json!([]), "{turn}");
        }
        keys(&mesh, "rotate", json!({ "what": "root" })).await;
        keys(&mesh, "rotate", json!({ "what": "token-signer" })).await;
    })
    .await;
    let standing = status(&mesh).await;
    assert_eq!(standing["epochs"].as_array().map(Vec::len), Some(1), "{standing}");
    assert_eq!(standing["epochs"][0]["epoch"], 4);
    assert_ne!(std::fs::read(mesh.path().join("keys/machine.key")).expect("a machine key"), machine_key);
    assert_eq!(patients(&mesh).await, sent, "nothing acknowledged became unreadable");
    // A token that the key before signed lives out its time.
    let answer = mesh.https().await.get("/fhir/ehr/Patient?family=KEYS", &before).await.expect("an answer");
    assert_eq!(answer.status, 200);

    // The next turn is due while the node is down; it turns by itself once it serves.
    let folder = mesh.stop().await;
    clock.advance_ms(8 * DAY_MS);
    let mesh = Mesh::start_at(folder, clock.clone()).await;
    while status(&mesh).await["epochs"] != json!([{ "epoch": 5, "begun": clock_text(&clock) }]) {
        tokio::task::yield_now().await;
    }
    assert_eq!(patients(&mesh).await, sent);
    mesh.stop().await;
}

fn clock_text(clock: &ManualClock) -> String {
    base::Clock::now(clock).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_the_operators_and_no_answer_holds_one() {
    let mesh = Mesh::start().await;
    for (method, path) in [("GET", "/admin/keys"), ("POST", "/admin/keys/turn"), ("POST", "/admin/keys/rotate")] {
        let token = mesh.token("admin-root").await;
        let body = r#"{"what":"root"}"#;
        let sent = mesh.https().await;
        let answer = { sent }.call(method.parse().unwrap(), path, Some(&token), &[], body.to_owned()).await.unwrap();
        assert_eq!(answer.status, 403, "{path} is open over the node's own socket only");
    }
    let machine_key = std::fs::read(mesh.path().join("keys/machine.key")).expect("the machine key");
    let told = status(&mesh).await.to_string() + &keys(&mesh, "turn", Value::Null).await.to_string();
    for shown in [base::hex::encode(&machine_key), String::from_utf8_lossy(&machine_key).into_owned()] {
        assert!(!told.contains(&shown));
    }
    let refused = mesh.client.post("/admin/keys/scopes/00/give-up", None, &Value::Null).await;
    assert!(refused.is_err(), "only a damaged scope is given up");
    mesh.stop().await;
}
