//! The format is C2SP's: a reader in Python (`python/tlog_reader.py`), written from the specifications alone, agrees with
//! `ward-verify` on whole logs, on tampered ones, and on proofs.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use ward_verify::{Ask, Memory, Options, record};

use crate::mutate::{Files, Random, tamper};
use crate::sample;

/// Tamperings with tiles, bundles and checkpoint that both judge.
const TAMPERINGS: usize = 300;

/// The lines that the reader answers.
fn reader(arguments: &[&str], input: &str) -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/tlog_reader.py");
    let mut child = Command::new("python3")
        .arg(script)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3: `scripts/setup --tests` says how to get it");
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn write(folder: &Path, files: &Files) {
    // The reader sees what C2SP names, and no segment.
    for (name, bytes) in files.iter().filter(|(name, _)| !name.starts_with("wal")) {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes.as_slice()).unwrap();
    }
}

#[test]
fn a_reader_of_the_specifications_agrees_on_whole_and_on_tampered_logs() {
    let sample = sample();
    let folder = tempfile::tempdir().unwrap();
    let (mut random, mut cases) =
        (Random(77), vec![("untouched", sample.files.clone()), ("older", sample.older.clone())]);
    let others = [&sample.older, &sample.other_key, &sample.fork];
    let wal = |files: &Files| -> Vec<_> {
        files.iter().filter(|(n, _)| n.starts_with("wal")).map(|(_, b)| b.clone()).collect()
    };
    let ours = wal(&sample.files);
    while cases.len() < TAMPERINGS + 2 {
        cases.extend(tamper(&mut random, &sample.files, &others).filter(|(_, files)| wal(files) == ours));
    }
    let mut input = String::new();
    for (n, (_, files)) in cases.iter().enumerate() {
        let case = folder.path().join(n.to_string());
        write(&case, files);
        let _ = writeln!(input, "{}", case.display());
    }
    let answers = reader(&["--batch", "--key", &sample.vkey], &input);
    assert_eq!(answers.len(), cases.len());
    let mut whole = 0;
    for ((kind, files), answer) in cases.iter().zip(&answers) {
        let report = sample.verify(files, false);
        assert_eq!(answer.contains("\"ok\": true"), report.is_whole(), "{kind}: {answer}; {}", report.text());
        whole += usize::from(report.is_whole());
    }
    assert!(answers[0].contains("\"size\": 320") && answers[1].contains("\"size\": 280"), "{answers:?}");
    assert!((2..TAMPERINGS / 4).contains(&whole), "{whole} of {TAMPERINGS} had no effect");
    eprintln!("{TAMPERINGS} tamperings judged alike, {} found", cases.len() - whole);
}

#[test]
fn a_reader_of_the_specifications_agrees_on_proofs() {
    let sample = sample();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("proof").display().to_string();
    for index in [0, 100, 255, 256, 300, 319] {
        let ask = Ask { index: Some(index), bytes: None };
        let claim = record(&Memory(sample.files.clone()), Path::new(""), &ask, &Options::new(sample.key.clone()));
        let text = claim.proof.unwrap();
        for (text, is_good) in [(text.clone(), true), (text.replacen("index ", "index 1", 1), false)] {
            fs::write(&file, text).unwrap();
            let answer = reader(&["--proof", &file, "--key", &sample.vkey], "");
            assert_eq!(answer[0].contains("\"ok\": true"), is_good, "{index}: {answer:?}");
        }
    }
}
