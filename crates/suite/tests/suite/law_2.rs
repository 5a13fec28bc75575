//! Law 2: no PHI in the clear at rest: data, index, temp and spill files, logs.
//!
//! A hospital with a unique string in every identifying field goes through the doors of a process of its own; then every
//! file that the process has is searched for these strings, in every encoding. Planted files show that the searcher finds.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use hyper::Method;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::json;
use synth::{Dirt, Door, Hospital, Options};

use crate::carve::{Needles, Searched, encodings};
use crate::harness::{Process, mesh_folder, ward};

/// The searcher finds what is planted, in each encoding and each kind of packing; else its silence would prove nothing.
#[test]
fn law_2_the_searcher_finds_what_is_planted() {
    let sentinel = "FAMQWERTYUIOPAS0042".to_owned();
    let needles = Needles::new(std::slice::from_ref(&sentinel));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut planted = Vec::new();
    let mut plant = |name: String, bytes: Vec<u8>| {
        // In the middle of a file that is full of other things, beyond zeros that were written ahead.
        let noise: Vec<u8> = (0..9_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let bytes = [vec![0; 20_000], noise.clone(), bytes, noise, vec![0; 20_000]].concat();
        std::fs::write(folder.path().join(&name), bytes).expect("a file");
        planted.push(name);
    };
    for (n, (how, pattern)) in encodings(&sentinel).into_iter().enumerate() {
        plant(format!("{n}-{how}"), pattern);
    }
    plant("folded".into(), sentinel.to_lowercase().into_bytes());
    // Repeated before it, so that a packer refers back and the string itself is not in the packed bytes.
    let prefix = &sentinel[..10];
    let text = format!("{prefix} {} {sentinel} {sentinel}", prefix.repeat(20));
    for (name, packed) in packings(text.as_bytes()) {
        assert!(
            !packed.windows(sentinel.len()).any(|w| w == sentinel.as_bytes()) || name.starts_with("lz4"),
            "{name} does not pack"
        );
        plant(name.clone(), packed.clone());
        plant(format!("{name}-in-zstd"), zstd::encode_all(&packed[..], 3).expect("zstd"));
    }
    for compression in
        [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::LZ4_RAW, Compression::ZSTD(ZstdLevel::default())]
    {
        plant(format!("parquet-{compression:?}"), parquet_file(&sentinel, compression));
    }
    let mut searched = Searched::default();
    needles.search_folder(folder.path(), &mut searched);
    for name in &planted {
        assert!(
            searched.hits.iter().any(|hit| hit.file == folder.path().join(name) && hit.word == sentinel),
            "what was planted in {name} was not found"
        );
    }
    assert_eq!(searched.files, planted.len());
}

fn packings(text: &[u8]) -> Vec<(String, Vec<u8>)> {
    use std::io::Write;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(text).expect("gzip");
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    zlib.write_all(text).expect("zlib");
    let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
    lz4.write_all(text).expect("lz4");
    vec![
        ("gzip".into(), gzip.finish().expect("gzip")),
        ("zlib".into(), zlib.finish().expect("zlib")),
        ("zstd".into(), zstd::encode_all(text, 19).expect("zstd")),
        ("lz4".into(), lz4.finish().expect("lz4")),
    ]
}

fn parquet_file(value: &str, compression: Compression) -> Vec<u8> {
    let rows: ArrayRef =
        Arc::new(StringArray::from_iter_values((0..50).map(|n| format!("{} {n} {value}", &value[..9]))));
    let batch = RecordBatch::try_from_iter([("family", rows)]).expect("a batch");
    // Without statistics, which would hold the value in the clear beside the pages.
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_statistics_enabled(parquet::file::properties::EnabledStatistics::None)
        .build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).expect("a writer");
    writer.write(&batch).expect("rows");
    writer.close().expect("a file");
    bytes
}

/// Everything a node can be made to do with a patient's data, then the search: while it runs, after a kill, after a drain.
#[tokio::test(flavor = "multi_thread")]
async fn law_2_no_sentinel_is_in_any_file_of_a_node() {
    let options = Options {
        patients: 24,
        sentinels: true,
        dirt: Dirt { test_message: 0.05, ..Dirt::USUAL },
        ..Options::default()
    };
    let hospital = Hospital::generate(&options);
    assert!(hospital.sentinels.len() >= 24 * 9);
    let needles = Needles::new(&hospital.sentinels);
    let folder = mesh_folder();
    let temp = folder.path().join("temp");
    std::fs::create_dir(&temp).expect("a folder");
    let environment = [("TMPDIR", temp.as_os_str()), ("RUST_LOG", "debug".as_ref())];

    let process = Process::start_with(folder.path(), &environment).await;
    feed(&process, &hospital).await;
    wrong_input(&process, &hospital).await;
    process.settle().await;
    read(&process, &hospital).await;
    file(&process, folder.path(), &hospital).await;
    search(&needles, folder.path(), Some(process.pid()), "while it runs");
    leaves_no_core(process.pid());
    let end = process.abort().await;
    assert!(end.signal() == Some(6) && !end.core_dumped(), "a crash left a core file: {end}");
    search(&needles, folder.path(), None, "after a crash");

    let process = Process::start_with(folder.path(), &environment).await;
    read(&process, &hospital).await;
    process.client.post("/admin/index/ehr/rebuild", None, &serde_json::Value::Null).await.expect("a rebuild");
    search(&needles, folder.path(), Some(process.pid()), "after a crash and a rebuild");
    process.stop().await;
    search(&needles, folder.path(), None, "after a drain");
}

/// Every file of the mesh folder: data, second audit log, keys, certificates, temp folder, `serve.log`; and the files that
/// the process has open after they were unlinked.
fn search(needles: &Needles, folder: &Path, pid: Option<u32>, when: &str) {
    let mut searched = Searched::default();
    needles.search_folder(folder, &mut searched);
    if let Some(pid) = pid {
        search_unlinked(needles, pid, &mut searched);
    }
    let log = std::fs::metadata(folder.join("serve.log")).expect("a log").len();
    assert!(log > 1_000, "the process logged nothing: RUST_LOG did not reach it");
    assert!(
        searched.files > 20 && searched.bytes > 1 << 20,
        "{when}: {} files, {} bytes",
        searched.files,
        searched.bytes
    );
    let shown: Vec<_> = searched
        .hits
        .iter()
        .take(20)
        .map(|hit| format!("{} in {} as {}", hit.word, hit.file.display(), hit.how))
        .collect();
    assert!(shown.is_empty(), "{when}: {} finds: {shown:#?}", searched.hits.len());
    eprintln!(
        "law 2, {when}: {} files, {} bytes, {} unpacked: nothing",
        searched.files, searched.bytes, searched.unpacked
    );
}

/// A crash writes no memory to disk: the limit is 0 and cannot be raised, and the process is not dumpable, which gives its
/// files below `/proc` to root (proc(5)); a test that runs as root cannot see the latter.
fn leaves_no_core(pid: u32) {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("a running process");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit of core files");
    assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2, "{core}");
    let owner = |pid: &str| std::fs::metadata(format!("/proc/{pid}/environ")).expect("a running process").uid();
    assert_eq!(owner(&pid.to_string()), 0, "the process is dumpable");
    if owner("self") == 0 {
        eprintln!("law 2: run as root, so that a dumpable process would look the same");
    }
}

/// SQL engines and databases unlink their temporary files while they write them.
fn search_unlinked(needles: &Needles, pid: u32, searched: &mut Searched) {
    let Ok(open) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return };
    for entry in open.flatten() {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        if target.to_string_lossy().ends_with(" (deleted)")
            && entry.path().metadata().is_ok_and(|file| file.is_file())
            && let Ok(bytes) = std::fs::read(entry.path())
        {
            needles.search_bytes(&target, &bytes, searched);
        }
    }
}

async fn feed(process: &Process, hospital: &Hospital) {
    for (door, source) in [(Door::Adt, "adt-main"), (Door::Lab, "lab-main")] {
        let items = hospital.feed.iter().filter(|item| item.door == door).map(|item| item.bytes.as_slice());
        let answers = process.send_all(source, items).await;
        assert!(answers.iter().all(Result::is_ok), "every message has an acknowledgement");
    }
    let token = process.token("bedside-gateway").await;
    let mut https = process.https().await;
    for item in hospital.feed.iter().filter(|item| item.door == Door::Bedside) {
        // A key may hold anything: here a sentinel.
        let key = format!("{}-{}", item.control_id, hospital.sentinels[0]);
        let headers = [("content-type", "application/fhir+json"), ("idempotency-key", key.as_str())];
        let answer =
            https.call(Method::POST, "/fhir/ehr", Some(&token), &headers, item.bytes.clone()).await.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

/// Input that fails on the way in, in ways that tempt to log or store it.
async fn wrong_input(process: &Process, hospital: &Hospital) {
    let patient = &hospital.patients[0];
    let (family, mrn) = (&patient.family, &patient.mrn);
    let messages = [
        format!("PID|1||{mrn}||{family}\r"),
        format!("MSH|^~\\&|A|B|C|D|20261101||ADT^A01|1|T|2.5.1\rPID|1||{mrn}||{family}\r"),
        format!("MSH|^~\\&|A|B|C|D|{family}||{family}^{mrn}|{family}|P|2.5.1\rPID|1||{mrn}||{family}\r"),
        format!("MSH|^~\\&|A|B|C|D|20261101||ADT^A01^ADT_A01|X1|P|2.5.1\r{family}\rPID|1||{mrn}||{family}||{family}\r"),
    ];
    process.send_all("adt-main", messages.iter().map(String::as_bytes)).await;
    let bodies = [
        format!("{{\"resourceType\":\"Patient\",\"birthDate\":\"{family}\"}}"),
        format!("{{\"resourceType\":\"Patient\",\"{family}\":1}}"),
        format!("{{\"resourceType\":\"Patient\",\"name\":[{{\"family\":\"{family}"),
    ];
    for body in bodies {
        let answer = process.post("dr-lee", "/fhir/ehr/Patient", "application/fhir+json", body).await;
        assert!(answer.status.is_client_error(), "{}", answer.status);
    }
    for path in [
        format!("/fhir/ehr/Patient/{family}"),
        format!("/fhir/ehr/Patient?{family}={mrn}"),
        format!("/fhir/ehr/{family}"),
        format!("/admin/lineage/ehr/Patient/{family}"),
        format!("/{family}"),
    ] {
        let answer = process.get("dr-lee", &path).await;
        assert!(answer.status.is_client_error(), "{path}: {}", answer.status);
    }
    for sql in [
        format!("SELECT {family} FROM ehr.patients"),
        format!("SELECT '{family}' FROM ehr.nowhere"),
        format!("SELECT '{family}"),
        format!("INSERT INTO ehr.patients VALUES ('{family}')"),
    ] {
        let answer = process.post("dr-lee", "/sql", "application/sql", sql).await;
        assert!(answer.status.is_client_error(), "{}", answer.status);
    }
}

/// Reads through every door, with the strings themselves as criteria.
async fn read(process: &Process, hospital: &Hospital) {
    for (domain, product, engineer) in
        [("ehr", "patients", "eng-ehr"), ("ehr", "encounters", "eng-ehr"), ("laboratory", "labs", "eng-lab")]
    {
        let token = process.token(engineer).await;
        let path = format!("/admin/products/{domain}/{product}/build");
        process.client.post(&path, Some(&token), &serde_json::Value::Null).await.expect("a build");
    }
    for patient in hospital.patients.iter().take(6) {
        for path in [
            format!("/fhir/ehr/Patient?family={}", patient.family),
            format!("/fhir/ehr/Patient?identifier={}%7C{}", synth::MRN_SYSTEM, patient.mrn),
            format!("/fhir/ehr/Patient?given={}&address-city={}&_sort=family", patient.given, patient.city),
            format!("/fhir/ehr/Encounter?patient.family={}&_include=Encounter:patient", patient.family),
        ] {
            let answer = process.get("dr-lee", &path).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        let found = process.get("dr-lee", &format!("/fhir/ehr/Patient?family={}", patient.family)).await.json();
        let id = found["entry"][0]["resource"]["id"].as_str().unwrap_or_else(|| panic!("{found}")).to_owned();
        assert_eq!(found["entry"][0]["resource"]["name"][0]["family"], patient.family.as_str());
        process.get("dr-lee", &format!("/fhir/ehr/Patient/{id}/_history")).await;
        let saw = process.get("privacy-osei", &format!("/admin/audit/who-saw/ehr/{id}")).await;
        assert_eq!(saw.status, 200, "{}", saw.text());
        let sql = format!("SELECT * FROM ehr.patients WHERE family = '{}' OR mrn = '{}'", patient.family, patient.mrn);
        let rows = process.post("dr-lee", "/sql", "application/sql", sql.clone()).await;
        assert!(rows.status == 200 && rows.text().contains(&patient.family), "{}: {}", rows.status, rows.text());
        process.post("ana-analyst", "/sql", "application/sql", sql).await;
    }
    // Big enough to sort, join and group.
    let sql = "SELECT p.family, count(*) FROM ehr.patients p JOIN ehr.encounters e ON e.patient = p.id \
               GROUP BY p.family ORDER BY p.family";
    let joined = process.post("dr-lee", "/sql", "application/sql", sql).await;
    assert_eq!(joined.status, 200, "{}", joined.text());
    assert_eq!(process.get("privacy-osei", "/admin/audit?last=50").await.status, 200);
}

/// A file by `ward ingest`, whose name says nothing.
async fn file(process: &Process, folder: &Path, hospital: &Hospital) {
    let patient = &hospital.patients[1];
    let outside = tempfile::tempdir().expect("a folder outside the mesh");
    let message = outside.path().join("message.hl7");
    std::fs::write(&message, &hospital.feed[0].bytes).expect("a file");
    let bundle = json!({ "resourceType": "Patient", "name": [{ "family": patient.family }] });
    let resource = outside.path().join("patient.json");
    std::fs::write(&resource, bundle.to_string()).expect("a file");
    for path in [message, resource] {
        let output = ward(folder, &["ingest", "--domain", "ehr", &path.display().to_string()]).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    process.settle().await;
}
