//! A deterministic synthetic hospital: one seed is one hospital, its feeds, its dirt and the truth behind them.
//!
//! Nobody in it exists. It feeds the demo, the benchmarks and the tests of the laws: ADT chains and lab results in
//! HL7 v2, bedside records as FHIR transactions. Never opens a socket: callers send what [`Hospital::feed`] gives.

pub mod chains;
pub mod families;
mod fhir;
mod hl7;
mod names;
mod people;
mod random;
mod truth;

use base::Timestamp;

pub use fhir::MRN_SYSTEM;
pub use people::{Encounter, Patient, Sex};
pub use truth::{Expected, SetAsideKind, Truth};

/// What to make. The rates are shares of messages, 0.0 to 1.0.
#[derive(Debug, Clone)]
pub struct Options {
    pub seed: u64,
    pub patients: usize,
    pub dirt: Dirt,
    /// Put a unique string of at least 12 characters into each identifying field, to search for afterwards.
    pub sentinels: bool,
    /// The day the hospital's last message is sent.
    pub today: Timestamp,
}

#[derive(Debug, Clone, Copy)]
pub struct Dirt {
    /// The same message sent again, byte for byte.
    pub resent: f64,
    /// A control id used again for other content.
    pub reused_control_id: f64,
    /// A test message on the production feed.
    pub test_message: f64,
    /// A result that does not say what was measured.
    pub broken_result: f64,
    /// A birth date that is no date.
    pub wrong_date: f64,
    /// A local code that no map knows.
    pub unknown_code: f64,
}

impl Dirt {
    pub const NONE: Dirt = Dirt {
        resent: 0.0,
        reused_control_id: 0.0,
        test_message: 0.0,
        broken_result: 0.0,
        wrong_date: 0.0,
        unknown_code: 0.0,
    };

    /// About what an interface team sees in a bad week.
    pub const USUAL: Dirt = Dirt {
        resent: 0.02,
        reused_control_id: 0.02,
        test_message: 0.01,
        broken_result: 0.02,
        wrong_date: 0.01,
        unknown_code: 0.03,
    };
}

impl Default for Options {
    fn default() -> Self {
        // 2026-11-01T00:00:00Z
        Options { seed: 1, patients: 200, dirt: Dirt::USUAL, sentinels: false, today: Timestamp(1_793_491_200_000) }
    }
}

/// The door an item is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Door {
    /// Domain `ehr`, source `adt-main`.
    Adt,
    /// Domain `laboratory`, source `lab-main`.
    Lab,
    /// Domain `ehr`, FHIR transactions.
    Bedside,
}

/// One thing to send, in the order of the feed.
#[derive(Debug, Clone)]
pub struct Item {
    pub door: Door,
    /// MSH-10, or the idempotency key of the transaction.
    pub control_id: String,
    /// What the hospital would send over the wire, without framing.
    pub bytes: Vec<u8>,
    /// What must come of it.
    pub expected: Expected,
}

/// The hospital: its people, its feed, its truth.
#[derive(Debug)]
pub struct Hospital {
    pub patients: Vec<Patient>,
    pub feed: Vec<Item>,
    pub truth: Truth,
    /// The strings that stand in identifying fields, when [`Options::sentinels`] asked for them.
    pub sentinels: Vec<String>,
}

impl Hospital {
    pub fn generate(options: &Options) -> Hospital {
        let mut random = random::Random::new(options.seed);
        let (patients, sentinels) = people::generate(options, &mut random);
        let mut feed = Vec::new();
        let mut truth = Truth::default();
        for patient in &patients {
            truth.add_patient(patient);
        }
        hl7::feed(options, &patients, &mut random, &mut feed, &mut truth);
        fhir::feed(&patients, &mut random, &mut feed, &mut truth);
        Hospital { patients, feed, truth, sentinels }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_is_one_hospital() {
        let options = Options { patients: 20, ..Options::default() };
        let (a, b) = (Hospital::generate(&options), Hospital::generate(&options));
        assert_eq!(a.feed.len(), b.feed.len());
        assert!(a.feed.iter().zip(&b.feed).all(|(x, y)| x.bytes == y.bytes));
        let other = Hospital::generate(&Options { seed: 2, ..options });
        assert!(a.feed.iter().zip(&other.feed).any(|(x, y)| x.bytes != y.bytes));
    }

    #[test]
    fn every_sentinel_is_sent_and_is_long_enough() {
        let options = Options { patients: 5, sentinels: true, dirt: Dirt::NONE, ..Options::default() };
        let hospital = Hospital::generate(&options);
        let all: Vec<u8> = hospital.feed.iter().flat_map(|item| item.bytes.clone()).collect();
        assert!(hospital.sentinels.len() >= 5 * 6);
        for sentinel in &hospital.sentinels {
            assert!(sentinel.len() >= 12, "{sentinel}");
            assert!(all.windows(sentinel.len()).any(|w| w == sentinel.as_bytes()), "{sentinel} is never sent");
        }
    }

    #[test]
    fn the_usual_dirt_is_there_and_counted() {
        let hospital = Hospital::generate(&Options { patients: 300, ..Options::default() });
        let truth = &hospital.truth;
        assert!(truth.resent > 0 && truth.reused_control_ids > 0 && truth.test_messages > 0);
        assert!(truth.set_aside.values().sum::<usize>() > 0);
        let count = |door| hospital.feed.iter().filter(|i| i.door == door).count();
        assert!(count(Door::Adt) > 600 && count(Door::Lab) > 300 && count(Door::Bedside) == 300);
    }
}
