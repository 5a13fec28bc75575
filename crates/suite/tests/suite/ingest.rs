//! Other people's data, by `ward ingest`: 37 Synthea bundles and 70 HL7 v2 messages. Every unit is in silver, or set aside
//! with a reason. Skipped, and said to be, where the data is not beside the checkout.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::{Mesh, Process, append, mesh_folder, shared_data, ward};

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path()).collect();
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn ingest_synthea_bundles_are_found_again_by_search() {
    let Some(bundles) = shared_data("synthea-r4", "the Synthea bundles") else { return };
    let folder = mesh_folder();
    let process = Process::start(folder.path()).await;
    let path = bundles.display().to_string();
    let output = ward(folder.path(), &["--json", "ingest", "--domain", "ehr", &path]).await;
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let tally: Value = serde_json::from_slice(&output.stdout).expect("JSON");

    let mut sent: BTreeMap<String, usize> = BTreeMap::new();
    let mut families = BTreeSet::new();
    let files = files(&bundles);
    for file in &files {
        let bundle: Value = serde_json::from_slice(&std::fs::read(file).expect("a file")).expect("JSON");
        for entry in bundle["entry"].as_array().into_iter().flatten() {
            let resource = &entry["resource"];
            *sent.entry(resource["resourceType"].as_str().expect("a type").to_owned()).or_default() += 1;
            families.extend(resource["name"][0]["family"].as_str().map(str::to_owned));
        }
    }
    assert_eq!((&tally["accepted"], &tally["refused"]), (&files.len().into(), &Value::Array(Vec::new())), "{tally}");
    assert_eq!(tally["resources"], sent.values().sum::<usize>(), "{tally}");
    process.settle().await;
    let token = process.token("dr-lee").await;
    let mut https = process.https().await;
    for (rtype, count) in &sent {
        let answer =
            https.get(&format!("/fhir/ehr/{rtype}?_count=3&_total=accurate"), &token).await.expect("an answer");
        let bundle = answer.json();
        assert_eq!(bundle["total"], *count, "{rtype}: {}", answer.text());
        let resource = &bundle["entry"][0]["resource"];
        assert_eq!(resource["resourceType"], rtype.as_str());
        references_are_local(rtype, resource);
    }
    for family in families.iter().take(20) {
        let path = format!("/fhir/ehr/Patient?family:exact={family}");
        let found = https.get(&path, &token).await.expect("an answer").json();
        assert!(
            found["entry"][0]["resource"]["name"][0]["family"] == family.as_str() || found["entry"].is_null(),
            "{found}"
        );
    }
    // The same files again are known: nothing is stored twice.
    let few: Vec<String> = files.iter().take(3).map(|file| file.display().to_string()).collect();
    let mut arguments = vec!["--json", "ingest", "--domain", "ehr"];
    arguments.extend(few.iter().map(String::as_str));
    let again = ward(folder.path(), &arguments).await;
    let tally: Value = serde_json::from_slice(&again.stdout).expect("JSON");
    assert_eq!(tally["duplicates"], 3, "{tally}");
    let total = https.get("/fhir/ehr/Patient?_count=1&_total=accurate", &token).await.expect("an answer").json();
    assert_eq!(total["total"], sent["Patient"]);
    process.stop().await;
}

/// No reference of a stored transaction points to a `urn:uuid` of its bundle any more.
fn references_are_local(rtype: &str, value: &Value) {
    match value {
        Value::Object(object) => {
            if let Some(reference) = object.get("reference").and_then(Value::as_str) {
                assert!(!reference.starts_with("urn:uuid:"), "{rtype} still refers to {reference}");
            }
            object.values().for_each(|value| references_are_local(rtype, value));
        }
        Value::Array(list) => list.iter().for_each(|value| references_are_local(rtype, value)),
        _ => {}
    }
}

/// Ten domains with a source for each processing mode; the files contradict each other, so each domain takes seven.
const DOMAINS: usize = 10;

pub fn mesh_for_files() -> tempfile::TempDir {
    let folder = mesh_folder();
    for n in 0..DOMAINS {
        let mut text = format!("name = \"files-{n}\"\nowner = \"Interface team\"\nsteward = \"eng-ehr\"\n");
        for mode in ["production", "training", "debugging"] {
            text.push_str(&format!(
                "\n[[source]]\nname = \"f{n}-{mode}\"\nkind = \"hl7v2\"\nlisten = \"127.0.0.1:0\"\nmode = \"{mode}\"\n"
            ));
        }
        append(folder.path(), &format!("domains/files-{n}/domain.toml"), &text);
    }
    folder
}

/// Takes every file of a folder in, into the domain and as the source that [`mesh_for_files`] has for it; how many.
pub async fn send_files(mesh: &Mesh, folder: Option<PathBuf>) -> usize {
    let files = folder.map(|folder| files(&folder)).unwrap_or_default();
    let mut by_source: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for (n, file) in files.iter().enumerate() {
        let bytes = std::fs::read(file).expect("a file");
        let message = hl7v2::parse(&bytes, &base::Limits::default()).expect("a message");
        let (domain, source) = place_of(n, &message.processing_id());
        by_source.entry((domain, source)).or_default().push(file.display().to_string());
    }
    for ((domain, source), paths) in by_source {
        let mut arguments = vec!["--json", "ingest", "--domain", &domain, "--source", &source];
        arguments.extend(paths.iter().map(String::as_str));
        let output = ward(mesh.path(), &arguments).await;
        let tally: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(tally["accepted"], paths.len(), "{source}: {tally}");
    }
    files.len()
}

/// Domain and source of the n-th file, by its processing mode.
fn place_of(n: usize, mode: &str) -> (String, String) {
    let mode = match mode {
        "T" => "training",
        "D" => "debugging",
        _ => "production",
    };
    (format!("files-{}", n % DOMAINS), format!("f{}-{mode}", n % DOMAINS))
}

#[tokio::test(flavor = "multi_thread")]
async fn ingest_hl7_files_are_in_silver_or_set_aside_with_a_reason() {
    let Some(messages) = shared_data("hl7v2", "the HL7 v2 messages") else { return };
    let mesh = Mesh::start_in(mesh_for_files()).await;
    let limits = base::Limits::default();
    let files = files(&messages);
    assert!(files.len() >= 70, "{} files", files.len());
    let mut sent: BTreeMap<String, Vec<(String, Vec<u8>)>> = BTreeMap::new();
    for (n, file) in files.iter().enumerate() {
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        let bytes = std::fs::read(file).expect("a file");
        let message = hl7v2::parse(&bytes, &limits).unwrap_or_else(|fault| panic!("{name}: {fault}"));
        let (domain, source) = place_of(n, message.processing_id().as_str());
        let path = file.display().to_string();
        let output = ward(mesh.path(), &["--json", "ingest", "--domain", &domain, "--source", &source, &path]).await;
        let tally: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{name}: {error}: {}", String::from_utf8_lossy(&output.stderr)));
        assert_eq!(tally["accepted"], 1, "{name}: {tally}");
        sent.entry(domain).or_default().push((name, bytes));
    }
    mesh.settle().await;
    let (mut resources, mut aside_total, mut whole) = (0, 0, 0);
    for (domain, files) in &sent {
        let aside = mesh.set_aside(domain).await;
        for unit in &aside {
            let reason = unit["reason"].as_str().unwrap_or_default();
            assert!(reason.len() > 20 && reason.contains(' '), "{domain}: {unit}");
            assert!(!unit["place"].as_str().unwrap_or_default().is_empty(), "{domain}: {unit}");
        }
        for (index, (name, bytes)) in files.iter().enumerate() {
            let trace = mesh.client.get(&format!("/admin/journal/{domain}/{index}"), None).await.expect("a trace");
            let own: BTreeSet<u64> =
                aside.iter().filter(|unit| unit["index"] == index).filter_map(|unit| unit["unit"].as_u64()).collect();
            let is_whole = aside.iter().any(|unit| unit["index"] == index && unit["unit"].is_null());
            let made = trace["versions"].as_array().map_or(0, Vec::len);
            let message = hl7v2::parse(bytes, &limits).expect("a message");
            let none = BTreeMap::new();
            let mapped = clinical::v2::map(
                &message,
                &clinical::v2::Sender {
                    name: "any",
                    utc_offset: None,
                    assigners: &none,
                    units: &none,
                    authority: &[],
                    received: None,
                },
                &limits,
            );
            // A unit that says nothing new makes no version: so a message whose units all were known before makes none.
            assert!(made > 0 || is_whole || !own.is_empty() || index > 0, "{name}: {trace}");
            let problems = mapped.problems.iter().filter(|p| p.severity == clinical::v2::Severity::SetAside).count();
            let told = aside.iter().filter(|unit| unit["index"] == index).count();
            assert!(told >= problems, "{name}: {problems} problems of the map, {told} told: {aside:?}");
            assert!(made <= mapped.units.len(), "{name}: more versions than units");
            resources += made;
            aside_total += told;
            whole += usize::from(is_whole);
            if is_whole {
                let code = aside.iter().find(|unit| unit["index"] == index).map(|unit| unit["code"].clone());
                assert_eq!(code, Some("message-type-unmapped".into()), "{name}: set aside whole for another reason");
            }
        }
    }
    eprintln!(
        "ingest: {} files: {resources} versions, {aside_total} units set aside, {whole} of them whole messages",
        files.len()
    );
    assert!(resources > 40 && whole < files.len(), "{resources} versions, {whole} messages set aside whole");
    mesh.stop().await;
}
