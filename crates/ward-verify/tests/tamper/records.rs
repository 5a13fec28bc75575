//! One record and two checkpoints, by the tiles of a log and by proofs that stand alone; and the command line.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use ward_verify::{Ask, Claim, Kept, Keys, Memory, Options, Outcome, consistency, proof, record};

use crate::mutate::{Files, frames, roll_back, segments};
use crate::{Sample, sample};

fn at(index: u64) -> Ask {
    Ask { index: Some(index), bytes: None }
}

fn of(bytes: impl Into<Vec<u8>>) -> Ask {
    Ask { index: None, bytes: Some(bytes.into()) }
}

fn kept(name: &str, text: &str) -> Kept {
    Kept { name: name.to_owned(), text: text.to_owned(), is_from_folder: false }
}

fn is_refuted(claim: &Claim) -> bool {
    matches!(claim.outcome, Outcome::Tampered(_))
}

impl Sample {
    fn options(&self) -> Options {
        Options::new(self.key.clone())
    }

    fn record(&self, files: &Files, ask: &Ask, options: &Options) -> Claim {
        record(&Memory(files.clone()), Path::new(""), ask, options)
    }

    /// The checkpoint of each frame with its size, as a witness may have kept it.
    fn checkpoints(&self) -> Vec<(u64, String)> {
        let mut found = Vec::new();
        for name in segments(&self.files) {
            let bytes = &self.files[&name];
            let texts = frames(bytes).into_iter().map(|frame| frame.checkpoint(bytes).to_vec());
            found.extend(texts.map(|text| (crate::mutate::size_in(&text), String::from_utf8(text).unwrap())));
        }
        found
    }

    /// The leaf data of an entry, from its bundle.
    fn leaf(&self, index: u64) -> Vec<u8> {
        let bundle = if index < 256 { "tile/entries/000" } else { "tile/entries/001.p/64" };
        let (mut rest, mut n) = (&self.files[Path::new(bundle)][..], index % 256);
        loop {
            let end = 2 + (usize::from(rest[0]) << 8 | usize::from(rest[1]));
            if n == 0 {
                return rest[2..end].to_vec();
            }
            (rest, n) = (&rest[end..], n - 1);
        }
    }
}

#[test]
fn every_record_is_proved_and_its_proof_stands_alone() {
    let sample = sample();
    let (alone, against) = (sample.options(), sample.options().and("witness", &sample.checkpoint));
    for index in (0..320).step_by(13).chain([255, 256, 319]) {
        let claim = sample.record(&sample.files, &at(index), &alone);
        assert!(
            claim.exit_code() == 0 && claim.unproved.contains("no checkpoint kept by somebody else"),
            "{}",
            claim.text()
        );
        let claim = sample.record(&sample.files, &at(index), &against);
        assert!(claim.proved.contains("outside checkpoint `witness`"), "{}", claim.text());
        let text = claim.proof.unwrap();
        let leaf = sample.leaf(index);
        let hash = Sha256::new().chain_update([0]).chain_update(&leaf).finalize();
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        for bytes in [leaf.clone(), hash.to_vec(), hex.into_bytes()] {
            let found = sample.record(&sample.files, &of(bytes.clone()), &alone);
            assert!(found.proved.contains(&format!("entry {index} of")), "{}", found.text());
            let checked = proof("p", &text, &of(bytes), None, &alone);
            assert!(checked.exit_code() == 0, "{}", checked.text());
        }
        assert_eq!(proof("p", &text, &Ask::default(), None, &against).exit_code(), 0);
        // Another record, another index, another leaf in the proof, another key, a path that was touched.
        assert!(is_refuted(&proof("p", &text, &of("other"), None, &alone)));
        assert!(is_refuted(&proof("p", &text, &at(index + 1), None, &alone)));
        let moved = text.replace(&format!("index {index}\n"), &format!("index {}\n", index ^ 1));
        assert!(is_refuted(&proof("p", &moved, &Ask::default(), None, &alone)), "{moved}");
        let stranger =
            Options::new(Keys::parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW").unwrap());
        assert!(is_refuted(&proof("p", &text, &Ask::default(), None, &stranger)));
        let mut lines: Vec<&str> = text.lines().collect();
        lines.remove(3);
        let shorter = lines.join("\n") + "\n";
        assert_ne!(proof("p", &shorter, &Ask::default(), None, &alone).exit_code(), 0);
    }
    let part = sample.record(&sample.files, &of(vec![]), &alone);
    assert!(part.text().contains("one of its sealed parts"), "an empty part: {}", part.text());
    for ask in [at(320), of("no such record")] {
        assert_eq!(sample.record(&sample.files, &ask, &alone).exit_code(), 2);
    }
    let both = Ask { index: Some(3), bytes: Some(sample.leaf(4)) };
    assert!(is_refuted(&sample.record(&sample.files, &both, &alone)));
}

#[test]
fn a_record_that_was_changed_is_not_proved() {
    let sample = sample();
    let options = sample.options().and("witness", &sample.checkpoint);
    for name in ["tile/entries/000", "tile/0/000", "tile/0/001.p/64"] {
        let mut files = sample.files.clone();
        Arc::make_mut(files.get_mut(Path::new(name)).unwrap())[40] ^= 1;
        assert!(is_refuted(&sample.record(&files, &at(0), &options)), "{name}");
        files.remove(Path::new(name));
        assert!(is_refuted(&sample.record(&files, &at(0), &options)), "{name}");
    }
    for files in [&sample.older, &sample.other_key, &sample.fork] {
        assert!(is_refuted(&sample.record(files, &at(0), &options)));
    }
}

#[test]
fn a_log_that_grew_is_consistent_with_each_of_its_checkpoints_and_no_other_is() {
    let sample = sample();
    let (source, options) = (Memory(sample.files.clone()), sample.options());
    let all = sample.checkpoints();
    let (middle_size, middle) = &all[all.len() / 2];
    for (size, text) in &all {
        let old = kept("old", text);
        let claim = consistency(&source, Path::new(""), &old, None, &options);
        assert!(claim.exit_code() == 0 && claim.proved.contains(&format!("first {size} entries")), "{}", claim.text());
        let file = claim.proof.unwrap();
        assert_eq!(proof("p", &file, &Ask::default(), Some(&old), &options).exit_code(), 0);
        let other = proof("p", &file, &Ask::default(), Some(&kept("other", middle)), &options);
        assert!(other.exit_code() == 2 || text == middle, "{}", other.text());
        let between = consistency(&source, Path::new(""), &old, Some(&kept("new", middle)), &options);
        assert_eq!(between.exit_code() == 0, size <= middle_size, "{}", between.text());
    }
    let fork = String::from_utf8(sample.fork[Path::new("checkpoint")].to_vec()).unwrap();
    assert!(is_refuted(&consistency(&source, Path::new(""), &kept("fork", &fork), None, &options)));
    let older = Memory(sample.older.clone());
    assert!(is_refuted(&consistency(&older, Path::new(""), &kept("newer", &sample.checkpoint), None, &options)));
}

#[test]
fn every_checkpoint_of_a_witness_is_compared_and_the_newest_is_named() {
    let sample = sample();
    let mut options = sample.options();
    for (n, (_, text)) in sample.checkpoints().iter().enumerate() {
        options.outside.push(Kept { is_from_folder: true, ..kept(&format!("w/{n:03}"), text) });
    }
    let (count, newest) = (options.outside.len(), options.outside.last().unwrap().name.clone());
    let report = crate::verify_in(&Memory(sample.files.clone()), Path::new(""), &options);
    assert!(report.is_whole() && report.outside.len() == count, "{}", report.text());
    assert!(report.text().contains(&format!("`{newest}`, the newest of {count} that agree")), "{}", report.text());
    // One of them from a fork among the many.
    let fork = String::from_utf8(sample.fork[Path::new("checkpoint")].to_vec()).unwrap();
    let with_fork =
        Options { outside: [options.outside.clone(), vec![kept("w/fork", &fork)]].concat(), ..options.clone() };
    let report = crate::verify_in(&Memory(sample.files.clone()), Path::new(""), &with_fork);
    assert!(matches!(report.outcome, Outcome::Tampered(found) if found.file == Path::new("w/fork")));
    // Of another log: told, and passed over only in a folder; a folder with nothing else proves nothing.
    let named = Options { origin: Some("ward.test/other".to_owned()), ..options.clone() };
    let report = crate::verify_in(&Memory(sample.files.clone()), Path::new(""), &named);
    assert!(matches!(report.outcome, Outcome::Tampered(found) if found.what.contains("`ward.test/audit`, not of")));
    let stranger = sample.checkpoint.replacen("ward.test/audit", "ward.test/other", 1);
    let stranger = Kept { is_from_folder: true, ..kept("w/stranger", &stranger) };
    let mut only = sample.options();
    only.outside = vec![stranger.clone()];
    assert_eq!(crate::verify_in(&Memory(sample.files.clone()), Path::new(""), &only).exit_code(), 2);
    options.outside.push(stranger);
    let report = crate::verify_in(&Memory(sample.files.clone()), Path::new(""), &options);
    assert!(report.is_whole() && report.notes[0].contains("`ward.test/other`"), "{}", report.text());
}

fn run(arguments: &[&str]) -> (i32, String) {
    // target/PROFILE/deps/tamper-HASH → target/PROFILE/ward-verify, which is built with this test.
    let own = std::env::current_exe().unwrap();
    let program = own.parent().and_then(Path::parent).unwrap().join("ward-verify");
    let Output { status, stdout, stderr } = Command::new(program).args(arguments).output().unwrap();
    let said = [stdout, stderr].concat();
    (status.code().unwrap(), String::from_utf8(said).unwrap())
}

#[test]
fn the_command_line_asks_every_question() {
    let sample = sample();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    for (name, bytes) in &sample.files {
        write(&format!("log/{}", name.display()), bytes);
    }
    let log = folder.path().join("log").display().to_string();
    let all = sample.checkpoints();
    for (size, text) in all.iter().step_by(7) {
        write(&format!("witness/{size}"), text.as_bytes());
    }
    let witness = folder.path().join("witness").display().to_string();
    let old = write("old", all[3].1.as_bytes());
    let key = write(
        "vkey",
        format!(
            "# the log's keys\nPeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW\n{}\n",
            sample.vkey
        )
        .as_bytes(),
    );
    let key = format!("@{key}");
    let record_file = write("record", &sample.leaf(7));
    let proof_file = folder.path().join("7.tlog-proof").display().to_string();
    let grown_file = folder.path().join("grown").display().to_string();
    let expect = |arguments: &[&str], code: i32, words: &str| {
        let (got, said) = run(arguments);
        assert!(got == code && said.contains(words), "{arguments:?} gave {got}: {said}");
    };
    expect(&[&log, "--key", &key], 0, "ok: all 320 entries");
    expect(&[&log, "--key", &key, "--witness", &witness], 0, "the newest of");
    expect(&[&log, "--key", &key, "--witness", &witness, "--json"], 0, "\"outside\":[{");
    expect(&[&log, "--key", &key, "--origin", "other"], 1, "not of `other`");
    expect(&[&log, "--key", &key, "--entry", "7", "--proof-out", &proof_file], 0, "ok: entry 7");
    expect(&[&log, "--key", &key, "--record", &record_file, "--json"], 0, "\"index\":7");
    expect(&["--proof", &proof_file, "--key", &key], 0, "ok: entry 7");
    expect(&["--proof", &proof_file, "--key", &key, "--record", &record_file], 0, "is its leaf data");
    expect(&["--proof", &proof_file, "--key", &key, "--record", &old], 1, "REFUTED");
    expect(&[&log, "--key", &key, "--old", &old, "--proof-out", &grown_file], 0, "it only grew");
    expect(&["--proof", &grown_file, "--key", &key, "--old", &old], 0, "it only grew");
    expect(&["--proof", &grown_file, "--key", &key], 2, "--old");
    expect(&[&log, "--key", &key, "--new", &old], 2, "--new needs --old");
    expect(&[&log], 2, "--key is needed");
    expect(&["--key", &key], 2, "which log folder?");
    expect(&[&witness, "--key", &key], 2, "is not the folder of a log");
    expect(&["--help"], 0, "exit codes");
    // The same folder, rolled back: whole in itself, and found by the witness.
    let segment = &segments(&sample.files)[0];
    let back = roll_back(&sample.files, segment, frames(&sample.files[segment])[0]);
    fs::remove_dir_all(folder.path().join("log")).unwrap();
    for (name, bytes) in &back {
        write(&format!("log/{}", name.display()), bytes);
    }
    expect(&[&log, "--key", &key], 0, "ok:");
    expect(&[&log, "--key", &key, "--witness", &witness], 1, "TAMPERED");
}
