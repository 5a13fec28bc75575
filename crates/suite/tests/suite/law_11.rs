//! Law 11: a restore revives no right and no key. Control entries, configuration and keys are the newest known, whatever
//! is restored; data that is older than what is known of it from outside never opens a door unasked.

use std::path::Path;

use base::PrincipalId;

use crate::backup::{admit, json, patients, place, refused};
use crate::harness::{Mesh, Process, adt, copy, edit, mesh_folder};
use crate::law_10::{both, erase};

#[tokio::test(flavor = "multi_thread")]
async fn law_11_an_old_backup_revives_no_patient_and_no_principal() {
    let (folder, safe) = (mesh_folder(), tempfile::tempdir().expect("a temporary folder"));
    let (data, keys) = (place(safe.path(), "data"), place(safe.path(), "keys"));
    let mesh = Mesh::start_in(folder).await;
    for n in 0..3 {
        let message = adt(&format!("C{n}"), "A01", &format!("M{n}"), &format!("Family{n}"));
        mesh.send_all("adt-main", [message.as_slice()]).await;
    }
    mesh.settle().await;
    let id_of = async |family: &str| {
        let bundle = mesh.get("dr-lee", &format!("/fhir/ehr/Patient?family={family}")).await.json();
        bundle["entry"][0]["resource"]["id"].as_str().expect("an id").to_owned()
    };
    let (erased, kept) = (id_of("family1").await, id_of("family2").await);
    // An input about both: what is left of it after the erasure comes later than the old backup ends.
    let shared = mesh.post_fhir("dr-lee", "/fhir/ehr", &both(&erased, &kept)).await;
    assert_eq!(shared.status, 200, "{}", shared.text());
    mesh.settle().await;
    let old = json(mesh.path(), &["backup", &data, "--keys-to", &keys]).await;
    let old = old["id"].as_str().expect("an id").to_owned();

    // Since then: one patient is erased, and the researcher leaves.
    erase(&mesh, &erased).await;
    let folder = mesh.stop().await;
    for file in ["principals.toml", "agreements/dua-outcomes.toml", "domains/research/domain.toml"] {
        edit(folder.path(), file, "\"rio-researcher\"", "\"who-researcher\"");
    }
    json(folder.path(), &["backup", &data, "--keys-to", &keys]).await;

    let restored = safe.path().join("restored");
    let into = restored.display().to_string();
    json(folder.path(), &["restore", &data, "--keys-from", &keys, "--backup", &old, "--into", &into]).await;
    json(&restored, &["rebuild", "products", "ehr"]).await;
    let process = Process::start(&restored).await;
    process.settle().await;
    assert_eq!(patients(&process).await.len(), 2, "the others are there");
    assert_ne!(process.get("dr-lee", &format!("/fhir/ehr/Patient/{erased}")).await.status, 200);
    let history = process.get("dr-lee", &format!("/fhir/ehr/Patient/{erased}/_history")).await;
    assert!(!history.text().contains("Family1"), "{}", history.text());
    let found = process.get("dr-lee", "/fhir/ehr/Patient?family=family1").await;
    assert!(!found.text().contains("Family1"), "{}", found.text());
    let rows = process.post("dr-lee", "/sql", "application/sql", "SELECT family FROM ehr.patients").await;
    assert_eq!(rows.status, 200, "{}", rows.text());
    assert!(rows.text().contains("Family2") && !rows.text().contains("Family1"), "{}", rows.text());
    let gone = PrincipalId::parse("rio-researcher").expect("a principal");
    assert!(process.client.token(&gone, None).await.is_err(), "a principal came back");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn law_11_data_older_than_what_is_known_of_it_opens_no_door_unasked() {
    let (folder, safe) = (mesh_folder(), tempfile::tempdir().expect("a temporary folder"));
    let process = Process::start(folder.path()).await;
    admit(&process, 0..3).await;
    process.stop().await;
    // A copy of the data by hand; governance goes on after it: a product is built, which is a control entry.
    let (live, old) = (folder.path().join("data"), safe.path().join("old"));
    copy(&live, &old);
    json(folder.path(), &["rebuild", "products", "ehr"]).await;
    std::fs::remove_dir_all(&live).expect("a folder");
    copy(&old, &live);
    let said = refused(folder.path(), &["serve"]).await;
    assert!(said.contains("governance entries are missing") && said.contains("--accept-loss"), "{said}");
    let said = refused(folder.path(), &["rebuild", "products"]).await;
    assert!(said.contains("governance entries are missing"), "no command gets around it: {said}");
    let findings = String::from_utf8(crate::harness::ward(folder.path(), &["doctor"]).await.stdout).expect("text");
    assert!(findings.contains("DAMAGED control log"), "{findings}");

    // Somebody takes it upon themselves; it is on record, and asked once.
    let accepted = crate::harness::ward(folder.path(), &["restore", "--accept-loss", "the disk died"]).await;
    assert!(accepted.status.success(), "{}", String::from_utf8_lossy(&accepted.stderr));
    let process = Process::start(folder.path()).await;
    process.settle().await;
    assert_eq!(patients(&process).await.len(), 3);
    process.stop().await;
    let segment = std::fs::read(live.join("logs/control/wal/00000000000000000000.seg")).expect("the control log");
    let label = b"fact/1 restore-accepted";
    assert!(segment.windows(label.len()).any(|window| window == label), "the acceptance is on record");
}

#[tokio::test(flavor = "multi_thread")]
async fn law_11_a_witness_tells_an_old_copy_of_data_and_root_keys_together() {
    let (folder, safe) = (mesh_folder(), tempfile::tempdir().expect("a temporary folder"));
    let kept = place(safe.path(), "witnesses");
    std::fs::create_dir(&kept).expect("a folder");
    edit(folder.path(), "mesh.toml", "[keys]", &format!("[keys]\nwitnesses = \"{kept}\""));
    let process = Process::start(folder.path()).await;
    admit(&process, 0..2).await;
    process.stop().await;
    for part in ["data", "keys"] {
        copy(&folder.path().join(part), &safe.path().join(part));
    }
    // Governance goes on, and somebody else keeps its checkpoint. Other files there say nothing.
    json(folder.path(), &["rebuild", "products", "ehr"]).await;
    let checkpoint = folder.path().join("data/logs/control/checkpoint");
    std::fs::copy(checkpoint, Path::new(&kept).join("friday")).expect("a copy");
    std::fs::write(Path::new(&kept).join("readme"), "kept by the auditor").expect("a file");
    Process::start(folder.path()).await.stop().await;
    for part in ["data", "keys"] {
        std::fs::remove_dir_all(folder.path().join(part)).expect("a folder");
        copy(&safe.path().join(part), &folder.path().join(part));
    }
    let said = refused(folder.path(), &["serve"]).await;
    assert!(said.contains("that a witness keeps") && said.contains("--accept-loss"), "{said}");
    // Accepted once, it is no news.
    let accepted = crate::harness::ward(folder.path(), &["restore", "--accept-loss", "the disk died"]).await;
    assert!(accepted.status.success(), "{}", String::from_utf8_lossy(&accepted.stderr));
    for _ in 0..2 {
        Process::start(folder.path()).await.stop().await;
    }
    // Witnesses that cannot be read are not taken as agreeing.
    std::fs::remove_dir_all(&kept).expect("a folder");
    let said = refused(folder.path(), &["serve"]).await;
    assert!(said.contains("the witnesses in"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn law_11_a_backup_that_lacks_governance_is_restored_only_with_a_word() {
    let (folder, safe) = (mesh_folder(), tempfile::tempdir().expect("a temporary folder"));
    let (data, keys) = (place(safe.path(), "data"), place(safe.path(), "keys"));
    let process = Process::start(folder.path()).await;
    admit(&process, 0..2).await;
    json(folder.path(), &["backup", &data, "--keys-to", &keys]).await;
    process.stop().await;
    json(folder.path(), &["rebuild", "products", "ehr"]).await;
    let into = place(safe.path(), "restored");
    let restore = ["restore", &data, "--keys-from", &keys, "--into", &into];
    let said = refused(folder.path(), &restore).await;
    assert!(said.contains("governance entries would be lost"), "{said}");
    let outcome = json(folder.path(), &[&restore[..], &["--accept-loss", "the disk died"]].concat()).await;
    assert!(outcome["control_lost"].as_u64().is_some_and(|lost| lost > 0), "{outcome}");
    let process = Process::start(Path::new(&into)).await;
    process.settle().await;
    assert_eq!(patients(&process).await.len(), 2);
    process.stop().await;
}
