//! Messages of strangers mapped to FHIR, for as long as it is told to (`WARD_FUZZ_SECONDS`, else [`RUNS`] of them): every valued
//! field has its fate, what is made and is not valid is told, and nothing panics.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use base::{Limits, SeededEntropy, Timestamp};
use clinical::v2::{self, Sender};

/// What a test runs: the same inputs on every machine.
const RUNS: u64 = 1_000;

const WORDS: &[&str] = &[
    "|",
    "^",
    "~",
    "&",
    "\"\"",
    "\r",
    "\rPID|1||",
    "\rMRG|",
    "\rOBX|1|NM|",
    "\rAL1|1|",
    "\rDG1|1||",
    "\rPV1|1|I",
    "\rORC|RE",
    "D",
    "HH",
    "42",
    "20260101",
    "20261399",
    "^^^GENHOSP^MR",
    ">5",
    "\\T\\",
    "\u{fc}",
];

#[test]
fn strangers_messages_are_mapped_and_accounted_for() {
    #[allow(clippy::disallowed_methods)] // A test is told by whoever runs it.
    let told = |name: &str| std::env::var(name).ok();
    let seconds: Option<u64> = told("WARD_FUZZ_SECONDS").and_then(|s| s.parse().ok());
    let seed: u64 = told("WARD_FUZZ_SEED").and_then(|s| s.parse().ok()).unwrap_or(1);
    let at = Timestamp(1_793_491_200_000);
    let mut corpus: Vec<String> = Vec::new();
    for kind in [
        "ADT^A01", "ADT^A17", "ADT^A37", "ADT^A40", "ADT^A43", "ADT^A44", "ADT^A45", "ADT^A51", "ORU^R01", "VXU^V04",
        "RDE^O11", "BAR^P01", "MDM^T02",
    ] {
        corpus.push(format!(
            "MSH|^~\\&|A|GENHOSP|||20261101120000||{kind}|1|P|2.5.1\rEVN||20261101120000\rPID|1||42^^^GENHOSP^MR||DOE^JANE||19700301|F||||||||||ACC1\r\
             MRG|77^^^GENHOSP^MR||ACC2||V2\rPV1|1|I|W1||||||||||||||||V1\rORC|RE|P1|F1\rOBR|1|P1|F1|A^a^L|||20261101\r\
             OBX|1|NM|B^b^L||5|mg/dL|1-2|H|||F\rAL1|1|DA|PEN^x^L\rDG1|1||J18^x^I10||20261101|A\rNK1|1|X^Y|SPO\rIN1|1|P|C\rRXA|0|1|20261101||140^x^CVX|1\r\
             TXA|1|DS|TX|20261101||||||||D1\r"
        ));
    }
    if let Some(folder) = told("WARD_SHARED_DATA").and_then(|data| std::fs::read_dir(format!("{data}/hl7v2")).ok()) {
        corpus.extend(folder.flatten().filter_map(|file| std::fs::read_to_string(file.path()).ok()));
    }
    corpus.sort();
    let (limits, none) = (Limits::default(), BTreeMap::new());
    let authority = ["Patient.name".to_owned(), "Encounter".to_owned()];
    let start = Instant::now();
    let invalid: Mutex<BTreeMap<String, u64>> = Mutex::default();
    let (mut runs, mut slowest) = (0u64, Duration::ZERO);
    while seconds.map_or(runs < RUNS, |seconds| start.elapsed() < Duration::from_secs(seconds)) {
        let chance = SeededEntropy::new(seed.wrapping_mul(1 << 32).wrapping_add(runs));
        let below = |n: usize| (chance.next_u64() % n.max(1) as u64) as usize;
        let mut text: Vec<char> = corpus[below(corpus.len())].chars().take(20_000).collect();
        for _ in 0..=below(12) {
            let place = 9 + below(text.len().saturating_sub(9));
            match below(4) {
                0 => drop(text.drain(place..(place + below(20)).min(text.len()))),
                1 => {
                    let piece: Vec<char> = text[place..(place + below(120)).min(text.len())].to_vec();
                    let to = 9 + below(text.len().saturating_sub(9));
                    drop(text.splice(to..to, piece));
                }
                _ => drop(text.splice(place..place, WORDS[below(WORDS.len())].chars())),
            }
        }
        let text: String = text.into_iter().collect();
        let sender = Sender {
            name: "any",
            utc_offset: None,
            assigners: &none,
            units: &none,
            authority: if runs.is_multiple_of(7) { &authority } else { &[] },
            received: Some(at),
        };
        let begun = Instant::now();
        let done = std::panic::catch_unwind(|| {
            let Ok(message) = hl7v2::parse(text.as_bytes(), &limits) else { return };
            let mapped = v2::map(&message, &sender, &limits);
            let valued: usize = message
                .segments()
                .filter(|s| s.is_segment())
                .map(|s| s.fields().filter(|(_, f)| !f.is_absent()).count())
                .sum();
            assert_eq!(mapped.fates.len(), valued, "every valued field has one fate");
            // What is not valid is set aside by itself, so it is told here and no failure.
            let is_wrong = |i: &fhir::validate::Issue| {
                matches!(i.severity, fhir::validate::Severity::Error | fhir::validate::Severity::Fatal)
            };
            for (name, resource) in v2::preview(&mapped) {
                if let Some(fault) = fhir::validate::validate(&resource).into_iter().find(is_wrong) {
                    let rtype = name.split('/').next().unwrap_or_default();
                    *invalid
                        .lock()
                        .expect("a lock")
                        .entry(format!("{rtype} {} {}", fault.expression, fault.text))
                        .or_default() += 1;
                }
            }
        });
        assert!(done.is_ok(), "run {runs} of seed {seed} failed: {text:?}");
        slowest = slowest.max(begun.elapsed());
        runs += 1;
    }
    let line = format!(
        "fuzz clinical: {runs} runs in {:.0?}, the slowest {slowest:?}, seed {seed}; not valid: {:?}\n",
        start.elapsed(),
        invalid.lock().expect("a lock")
    );
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
    assert!(seconds.is_none() || slowest < Duration::from_secs(60), "one input took {slowest:?}");
}
