//! Bytes of strangers, for as long as it is told to (`WARD_FUZZ_SECONDS`, else [`RUNS`] of them): messages that were real once,
//! cut, turned and mixed, into everything that reads bytes. Nothing panics, nothing is read that was not there, and no
//! input takes out of proportion long.

use std::time::{Duration, Instant};

use base::{Limits, SeededEntropy, Timestamp};
use hl7v2::edit::{Edit, Spot};
use hl7v2::{AckCode, Path, batch, mllp, parse};

const SEEDS: &[&str] = &[
    "MSH|^~\\&|REG|GEN|WARD|MESH|20260101120000-0500||ADT^A01^ADT_A01|C1|P|2.5.1|||AL|NE||UNICODE UTF-8\rEVN|A01|20260101120000\r\
     PID|1||42^^^GENHOSP&1.2.3&ISO^MR~77^^^LAB^PI||M\u{fc}ller^J\\T\\n^Q^^^^L||19700301|F|||1 High St^^Town^ST^12345||\"\"\r\
     PV1|1|I|W1^R2^B3||||11^WELBY^MARCUS|||||||||||V77|||||||||||||||||||||||||20260101080000\rZPI|1|local\\X0D0A\\x\r",
    "MSH|^~\\&|LAB|GEN|||202601011200||ORU^R01|C2|P|2.3\rPID|||42\rOBR|1|P1|F1|A^a^L|||20260101\r\
     OBX|1|NM|B^b^L||>1.5|mg/dL|1-2|HH|||F\rOBX|2|TX|C^c^L||one\\.br\\two\\H\\x\\N\\~three||||||F\rOBX|3|ED|D^d^L||^AP^PDF^Base64^SGVsbG8=||||||F\r",
    "FHS|^~\\&|A|B\rBHS|^~\\&|A|B\rMSH|^~\\&|A|B|C|D|2026||ADT^A08|1|P|2.5\rPID|1||9\rBTS|1\rFTS|1\r",
    "MSH|$%~\\&|\u{0}\u{b}|B|||2026||QBP^Q22|1|T|2.8||||||ISO IR87\rQPD|x\r",
];
/// What a test runs: the same inputs on every machine.
const RUNS: u64 = 10_000;

const WORDS: &[&[u8]] = &[
    b"|",
    b"^",
    b"~",
    b"\\",
    b"&",
    b"\r",
    b"\n",
    b"\r\n",
    b"\x0b",
    b"\x1c\r",
    b"\x1c",
    b"\"\"",
    b"MSH|^~\\&",
    b"\\X41\\",
    b"\\M2442\\",
    b"\\C2842\\",
    b"\\.sp9999999\\",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\x1b$B",
    b"8859/5",
    b"GB 18030-2000",
    b"99999999999999999999",
    b"-1",
    b"20261399",
    b"\xc3",
    b"BTS|",
    b"FHS|",
    b"MSH",
    b"\0",
];
const PATHS: &[&str] = &["PID-3(2).4.1", "OBX[2]-5", "MSH-9.2", "ZPI-2", "PID-3", "OBX-65535(65535).65535.65535"];

struct Chance(SeededEntropy);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        (self.0.next_u64() % n.max(1) as u64) as usize
    }

    /// A change of some bytes, a few times over.
    fn turned(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let pick = self.below(corpus.len());
        let mut bytes = corpus[pick].clone();
        for _ in 0..=self.below(8) {
            let (at, upto) = (self.below(bytes.len() + 1), self.below(bytes.len() + 1));
            let (from, to) = (at.min(upto), at.max(upto));
            match self.below(7) {
                0 if !bytes.is_empty() => {
                    let at = self.below(bytes.len());
                    bytes[at] ^= 1 << self.below(8);
                }
                1 => drop(bytes.drain(from..to.min(from + 40))),
                2 => drop(bytes.splice(from..from, WORDS[self.below(WORDS.len())].iter().copied())),
                3 => {
                    let piece = bytes[from..to.min(from + 200)].to_vec();
                    drop(bytes.splice(at..at, piece));
                }
                4 => {
                    let other = &corpus[self.below(corpus.len())];
                    let cut = self.below(other.len() + 1);
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[cut..]);
                }
                5 => {
                    let word = WORDS[self.below(WORDS.len())];
                    let times = self.below(300);
                    drop(bytes.splice(at..at, word.repeat(times)));
                }
                _ => {
                    let byte = self.below(256) as u8;
                    bytes.insert(at, byte);
                }
            }
            bytes.truncate(64 << 10);
        }
        bytes
    }
}

fn read(bytes: &[u8], chance: &mut Chance, limits: &Limits) {
    if let Ok(batch) = batch::split(bytes, limits) {
        for message in batch.messages() {
            assert!(message.len() <= bytes.len());
        }
    }
    let mut decoder = mllp::Decoder::new(4 << 10);
    let (mut at, step) = (0, 1 + chance.below(500));
    'frames: while at < bytes.len() {
        let end = (at + step).min(bytes.len());
        decoder.push(&bytes[at..end]);
        at = end;
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => assert!(frame.len() <= bytes.len()),
                Ok(None) => break,
                Err(_) => break 'frames,
            }
        }
    }
    let now = Timestamp(1_767_225_600_000);
    let text = String::from_utf8_lossy(bytes);
    let line: String = text.chars().skip(chance.below(40)).take(40).collect();
    let _ = (line.parse::<Path>(), line.parse::<Spot>());
    let _ = (hl7v2::time::DateTime::parse(&line), hl7v2::time::Offset::parse(&line), hl7v2::time::time_to_fhir(&line));
    let message = match parse(bytes, limits) {
        Ok(message) => message,
        Err(fault) => {
            assert!(!hl7v2::nack(&fault, AckCode::AR, "W1", now).is_empty());
            return;
        }
    };
    assert_eq!(message.raw(), bytes, "a message is what it was");
    for segment in message.segments() {
        for (_, field) in segment.fields() {
            for repetition in field.repetitions() {
                for component in repetition.components() {
                    component.subcomponents().for_each(|sub| drop(sub.text()));
                }
            }
        }
    }
    let (info, _) = (message.info(), message.check_header());
    let _ = (hl7v2::structure_of(&info.code, &info.trigger, &info.version), hl7v2::ack_mode(&message));
    for path in PATHS {
        let _ = message.get(path);
    }
    // What its character set cannot say cannot be written again.
    let is_whole = !message.charset().replaced && message.charset().name() != "ISO-2022-JP";
    let answer = hl7v2::ack(&message, AckCode::AA, &[], "W1", now);
    let read = parse(&answer, limits).map(drop);
    assert!(!is_whole || read.is_ok(), "an answer can be read: {read:?}: {:?}", String::from_utf8_lossy(&answer));
    let mut edit = Edit::of(&message);
    let spot: Spot = PATHS[chance.below(4)].parse().unwrap_or_else(|_| "ZPI-2".parse().expect("a spot"));
    match chance.below(3) {
        0 => edit.set(&spot, "a|b^c\\d\u{fc}"),
        1 => edit.remove(&spot),
        _ => edit.remove_segments("OBX"),
    }
    let changed = edit.bytes();
    assert!(!is_whole || parse(&changed, limits).is_ok(), "a changed message is a message");
}

#[test]
fn strangers_bytes_are_answered() {
    #[allow(clippy::disallowed_methods)] // A test is told by whoever runs it.
    let told = |name: &str| std::env::var(name).ok();
    let seconds: Option<u64> = told("WARD_FUZZ_SECONDS").and_then(|s| s.parse().ok());
    let seed: u64 = told("WARD_FUZZ_SEED").and_then(|s| s.parse().ok()).unwrap_or(1);
    let mut corpus: Vec<Vec<u8>> = SEEDS.iter().map(|text| text.as_bytes().to_vec()).collect();
    if let Some(folder) = told("WARD_SHARED_DATA").and_then(|data| std::fs::read_dir(format!("{data}/hl7v2")).ok()) {
        corpus.extend(
            folder
                .flatten()
                .filter_map(|file| std::fs::read(file.path()).ok())
                .map(|b| b[..b.len().min(16 << 10)].to_vec()),
        );
    }
    corpus.sort();
    let limits = Limits::default();
    let start = Instant::now();
    let (mut runs, mut slowest) = (0u64, Duration::ZERO);
    while seconds.map_or(runs < RUNS, |seconds| start.elapsed() < Duration::from_secs(seconds)) {
        // Each run has a seed of its own, so that a failure can be had again alone.
        let own = seed.wrapping_mul(1 << 32).wrapping_add(runs);
        let mut chance = Chance(SeededEntropy::new(own));
        let bytes = chance.turned(&corpus);
        let begun = Instant::now();
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(&bytes, &mut chance, &limits)));
        assert!(
            done.is_ok(),
            "run {runs} of seed {seed} failed on {} bytes: {:?}",
            bytes.len(),
            String::from_utf8_lossy(&bytes)
        );
        slowest = slowest.max(begun.elapsed());
        runs += 1;
    }
    let line = format!("fuzz hl7v2: {runs} runs in {:.0?}, the slowest {slowest:?}, seed {seed}\n", start.elapsed());
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
    assert!(seconds.is_none() || slowest < Duration::from_secs(60), "one input took {slowest:?}");
}
