//! Secrets are never in arguments, environment, logs, answers, errors, figures or any file but their own: a node with a
//! planted passphrase does its work, refuses what is wrong, rotates its root and crashes; then everything that can be seen
//! of it is searched for its secrets, in every encoding.

use std::path::Path;
use std::process::Stdio;

use hyper::Method;
use serde_json::{Value, json};

use crate::carve::{Needles, Searched};
use crate::harness::{Process, adt, append, edit, mesh_folder, program, ward};

const FIRST: &str = "ZQPASSPHRASEFIRST7741";
const NEXT: &str = "ZQPASSPHRASENEXT7742";
/// What a search that finds nothing must find.
const SEEN: &str = "ZQSEENINTHELOG7743";

/// A mesh whose root is a passphrase in a file that only its owner reads.
fn with_passphrase() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = mesh_folder();
    let kept = folder.path().join("credential");
    std::fs::create_dir(&kept).expect("a folder");
    std::fs::write(kept.join("passphrase"), format!("{FIRST}\n")).expect("a file");
    std::fs::set_permissions(kept.join("passphrase"), PermissionsExt::from_mode(0o400)).expect("its mode");
    std::fs::remove_file(folder.path().join("keys/machine.key")).expect("the machine key of `ward init`");
    edit(folder.path(), "mesh.toml", "file:keys/machine.key", "passphrase-file:credential/passphrase");
    folder
}

fn of_process(pid: u32, file: &str) -> Vec<u8> {
    std::fs::read(format!("/proc/{pid}/{file}")).expect("a running process")
}

/// Answers and errors of every kind of door, right and wrong, and what the commands print.
async fn seen(process: &Process, folder: &Path, tokens: &[String]) -> Vec<(String, Vec<u8>)> {
    let mut seen = Vec::new();
    let mut note = |what: &str, bytes: Vec<u8>| seen.push((what.to_owned(), bytes));
    let acks = process
        .send_all("adt-main", [adt("S1", "A01", "S1", "Secret").as_slice(), b"MSH|nonsense\r", b"no message"])
        .await;
    note("acknowledgements", acks.into_iter().flat_map(Result::unwrap_or_default).collect());
    let mut https = process.https().await;
    let wrong = format!("{}x", tokens[0]);
    for (path, token, body) in [
        ("/fhir/ehr/Patient?family=Secret", tokens[0].as_str(), ""),
        ("/fhir/ehr/Patient?nonsense=1", &tokens[0], ""),
        ("/fhir/ehr/Patient/nobody", &wrong, ""),
        ("/fhir/ehr/Patient", &tokens[0], "{\"resourceType\":"),
        ("/sql", &tokens[0], "SELECT nothing FROM nowhere"),
        ("/sql", &wrong, "SELECT 1"),
        ("/admin/status", &tokens[1], ""),
        ("/admin/keys", &tokens[1], ""),
        ("/admin/keys/rotate", &tokens[1], "{\"what\":\"root\",\"passphrase\":1}"),
        ("/admin/token", &tokens[1], "{}"),
        ("/metrics", &tokens[1], ""),
        ("/readyz", &tokens[1], ""),
        ("/openapi.json", &tokens[1], ""),
        ("/nowhere", &tokens[1], ""),
    ] {
        let method = if body.is_empty() { Method::GET } else { Method::POST };
        let media = if path == "/sql" { "application/sql" } else { "application/fhir+json" };
        let answer = https
            .call(method, path, Some(token), &[("content-type", media)], body.to_owned())
            .await
            .expect("an answer");
        note(path, [format!("{:?}", answer.headers).into_bytes(), answer.body.to_vec()].concat());
    }
    for command in
        [&["check"][..], &["keys", "status"], &["--json", "keys", "status"], &["doctor"], &["query", "SELECT"]]
    {
        let output = ward(folder, command).await;
        note(&command.join(" "), [output.stdout, output.stderr].concat());
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_in_no_argument_environment_log_answer_error_or_file_but_their_own() {
    let folder = with_passphrase();
    let process = Process::start_with(folder.path(), &[("RUST_LOG", "debug".as_ref())]).await;
    let mut tokens = Vec::new();
    for principal in ["dr-lee", "admin-root", "privacy-osei"] {
        tokens.push(process.token(principal).await);
    }
    let private_key = std::fs::read_to_string(folder.path().join("tls/server.key")).expect("the TLS key");
    let private_key: String = private_key.lines().filter(|line| !line.starts_with("--")).take(1).collect();
    // A token is secret as far as it is signed; its other parts are names.
    let signatures = tokens.iter().map(|token| token.rsplit('.').next().expect("a signature").to_owned());
    let words: Vec<String> = [FIRST.to_owned(), NEXT.to_owned(), private_key].into_iter().chain(signatures).collect();
    let needles = Needles::new(&words);

    let mut shown = seen(&process, folder.path(), &tokens).await;
    // The root goes from one passphrase to the next while the node serves; the command has it from its environment.
    let rotated = tokio::process::Command::new(program("ward"))
        .args(["-C"])
        .arg(folder.path())
        .args(["keys", "rotate", "root", "--passphrase-env", "ZQ_NEXT"])
        .env("ZQ_NEXT", NEXT)
        .output()
        .await
        .expect("ward runs");
    assert!(rotated.status.success(), "{}", String::from_utf8_lossy(&rotated.stderr));
    shown.push(("keys rotate".into(), [rotated.stdout, rotated.stderr].concat()));
    process.get("dr-lee", &format!("/{SEEN}")).await;
    for file in ["cmdline", "environ", "status", "maps"] {
        shown.push((format!("/proc/PID/{file}"), of_process(process.pid(), file)));
    }
    process.abort().await;

    let mut searched = Searched::default();
    for (what, bytes) in &shown {
        needles.search_bytes(Path::new(what), bytes, &mut searched);
    }
    needles.search_folder(folder.path(), &mut searched);
    let own = [folder.path().join("credential/passphrase"), folder.path().join("tls/server.key")];
    let stray: Vec<_> = searched.hits.iter().filter(|hit| !own.contains(&hit.file)).collect();
    let of_own: Vec<_> = own.iter().filter(|file| searched.hits.iter().any(|hit| hit.file == **file)).collect();
    assert_eq!(of_own.len(), own.len(), "the search finds a secret where it belongs");
    assert!(stray.is_empty(), "secrets outside their files: {stray:#?}");
    let log = std::fs::read_to_string(folder.path().join("serve.log")).expect("a log");
    assert!(log.len() > 1_000, "the node logged nothing");

    // The next passphrase opens it, the one before does not.
    let refused = ward(folder.path(), &["keys", "status"]).await;
    assert!(!refused.status.success() && !String::from_utf8_lossy(&refused.stderr).contains(FIRST));
    put(folder.path(), NEXT);
    let status = ward(folder.path(), &["--json", "keys", "status"]).await;
    let status: Value = serde_json::from_slice(&status.stdout).expect("JSON, without a node");
    assert_eq!((&status["serving"], &status["epochs"][0]["epoch"]), (&json!(false), &json!(1)), "{status}");
    let process = Process::start(folder.path()).await;
    assert_eq!(process.get("dr-lee", "/fhir/ehr/Patient?family=Secret").await.status, 200);
    process.stop().await;
}

fn put(folder: &Path, passphrase: &str) {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join("credential/passphrase");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("its mode");
    std::fs::write(&path, passphrase).expect("a file");
}

/// A file that others can read is no secret.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_in_a_file_that_others_read_are_refused() {
    use std::os::unix::fs::PermissionsExt;
    let folder = with_passphrase();
    let path = folder.path().join("credential/passphrase");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).expect("its mode");
    let output = ward(folder.path(), &["serve"]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("others can read it") && !said.contains(FIRST), "{said}");
}

/// What the limit on locked memory allows is said at the start, and what a mesh demands is kept.
#[tokio::test(flavor = "multi_thread")]
async fn memory_is_locked_where_the_system_allows_it_and_else_the_node_says_so() {
    let folder = mesh_folder();
    let process = Process::start(folder.path()).await;
    let status = String::from_utf8(of_process(process.pid(), "status")).expect("text");
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).expect("a line of the status");
    let locked: u64 = locked.trim().trim_end_matches(" kB").parse().expect("kilobytes");
    // The page cipher of the index locks a few pages by itself.
    let is_locked = locked > 10_000;
    process.stop().await;
    let log = std::fs::read_to_string(folder.path().join("serve.log")).expect("a log");
    assert_eq!(log.contains("memory is locked"), is_locked, "{log}");
    assert_eq!(log.contains("memory is not locked"), !is_locked, "{log}");

    // Without the right to lift the limit.
    append(folder.path(), "mesh.toml", "\n");
    edit(folder.path(), "mesh.toml", "[keys]\n", "[keys]\nlocked_memory = \"required\"\n");
    let bounded = "ulimit -l 64 && exec \"$0\" -C \"$1\" serve";
    let run = tokio::process::Command::new("setpriv")
        .args(["--bounding-set=-sys_resource,-ipc_lock", "--inh-caps=-sys_resource,-ipc_lock", "sh", "-c", bounded])
        .arg(program("ward"))
        .arg(folder.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await;
    let Ok(output) = run else { return eprintln!("memory: setpriv is not here, the limit is not tried") };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("64 KiB") && said.contains("locked_memory"), "{said}");
}
