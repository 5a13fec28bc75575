//! What must come of the feed, for tests to compare with.

use std::collections::BTreeMap;

use crate::people::Patient;

/// What must come of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// Stored and refined.
    Accepted,
    /// The first answer again; stored once.
    Resent,
    /// Refused at the door: a test message on a production feed.
    Refused,
    /// Stored; so many of its units are set aside.
    PartlySetAside(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SetAsideKind {
    BrokenResult,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TruthPatient {
    pub mrn: String,
    pub family: String,
    pub given: String,
    pub gender: &'static str,
    /// `YYYY-MM-DD`; `None` where the feed only ever sent a date that is none.
    pub born: Option<String>,
    pub city: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TruthObservation {
    /// Filler order number and code.
    pub filler: String,
    pub code: String,
    pub value: String,
    pub unit: String,
    pub status: &'static str,
}

#[derive(Debug, Default)]
pub struct Truth {
    /// By MRN: how the patient must stand at the end.
    pub patients: BTreeMap<String, TruthPatient>,
    /// Visit number to the FHIR status it must end in.
    pub encounters: BTreeMap<String, &'static str>,
    /// (filler, code) to the observation as it must stand at the end.
    pub observations: BTreeMap<(String, String), TruthObservation>,
    /// Critical results: (filler, code).
    pub critical: Vec<(String, String)>,
    pub resent: usize,
    pub reused_control_ids: usize,
    pub test_messages: usize,
    pub wrong_dates: usize,
    pub unknown_codes: usize,
    pub set_aside: BTreeMap<SetAsideKind, usize>,
}

impl Truth {
    pub fn add_patient(&mut self, patient: &Patient) {
        let born = &patient.born;
        self.patients.insert(
            patient.mrn.clone(),
            TruthPatient {
                mrn: patient.mrn.clone(),
                family: patient.family.clone(),
                given: patient.given.clone(),
                gender: patient.sex.fhir(),
                born: Some(format!("{}-{}-{}", &born[..4], &born[4..6], &born[6..])),
                city: patient.city.clone(),
            },
        );
    }
}
