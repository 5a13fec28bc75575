//! A key table that lost rows is damage, not erasure: what cannot be opened is set aside with that reason, the feed goes on,
//! and when the rows are back a replay brings everything.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::harness::{Mesh, adt};

/// Runs SQL on the key table of a stopped node.
fn on_key_table(folder: &Path, sql: &str) {
    let script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.executescript(sys.argv[2]); c.commit()";
    let output = Command::new("python3").args(["-c", script]).arg(folder.join("data/keys.db")).arg(sql).output();
    let output = output.expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

const N: usize = 12;

async fn send(mesh: &Mesh, name: &str) {
    for n in 0..N {
        let message = adt(&format!("{name}{n}"), "A01", &format!("{name}{n}"), name);
        assert_eq!(mesh.send_all("adt-main", [message.as_slice()]).await, ["AA"]);
    }
    mesh.settle().await;
}

async fn found(mesh: &Mesh, name: &str) -> usize {
    let answer = mesh.get("dr-lee", &format!("/fhir/ehr/Patient?family={name}&_count=50")).await.json();
    answer["entry"].as_array().map_or(0, Vec::len)
}

/// The catalog is lost, so refine begins anew; and the key table lost the scopes of the domain.
async fn start_without_keys(folder: TempDir) -> Mesh {
    for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _ = std::fs::remove_file(folder.path().join("data").join(name));
    }
    let _ = std::fs::remove_dir_all(folder.path().join("data/index"));
    let lose = "CREATE TABLE kept AS SELECT * FROM scope WHERE domain = 'ehr'; DELETE FROM scope WHERE domain = 'ehr';";
    on_key_table(folder.path(), lose);
    let mesh = Mesh::start_in(folder).await;
    mesh.settle().await;
    let aside = mesh.set_aside("ehr").await;
    assert_eq!(aside.len(), N, "each entry is set aside, none passed over: {aside:?}");
    assert!(aside.iter().all(|unit| unit.to_string().contains("lost the scope")), "{aside:?}");
    assert_eq!(found(&mesh, "First").await, 0);
    mesh
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_keys_set_entries_aside_and_a_replay_brings_them_back() {
    let mesh = Mesh::start().await;
    send(&mesh, "First").await;
    let mesh = start_without_keys(mesh.stop().await).await;
    let folder = mesh.stop().await;
    on_key_table(folder.path(), "INSERT INTO scope SELECT * FROM kept; DROP TABLE kept;");
    let mesh = Mesh::start_in(folder).await;
    for n in 0..N {
        let path = format!("/admin/set-aside/ehr/{n}/replay");
        mesh.client.post(&path, None, &serde_json::Value::Null).await.expect("a replay");
    }
    mesh.settle().await;
    assert_eq!((found(&mesh, "First").await, mesh.set_aside("ehr").await.len()), (N, 0));
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_keys_do_not_stop_the_feed() {
    let mesh = Mesh::start().await;
    send(&mesh, "First").await;
    let mesh = start_without_keys(mesh.stop().await).await;
    send(&mesh, "Second").await;
    assert_eq!((found(&mesh, "Second").await, mesh.set_aside("ehr").await.len()), (N, N));
    mesh.stop().await;
}
