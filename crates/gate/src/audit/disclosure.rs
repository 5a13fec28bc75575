//! The **accounting of disclosures** (45 CFR 164.528): of what the log knows of a patient, what has to be accounted for,
//! and how: by recipient and purpose, several disclosures for one purpose summarised, research on fifty or more
//! individuals by its protocol.
//!
//! When in doubt a disclosure is listed: too many may be said, none may be missing.
//!
//! Never here: finding the records (see `reader`), the paper (see `print`).

use std::collections::BTreeMap;

use base::{PrincipalId, Purpose, Timestamp};
use serde::{Deserialize, Serialize};

use crate::audit::index::rows::Found;
use crate::audit::record::{AuditRecord, Outcome};

/// §164.528(b)(4)(i): research on so many individuals may be listed by its protocol.
const RESEARCH_INDIVIDUALS_MIN: u64 = 50;

/// Why a disclosure need not be accounted for: §164.528(a)(1), by its letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exclusion {
    /// (i) §164.506.
    TreatmentPaymentOperations,
    /// (ii) §164.502(a)(1)(i), to the individual.
    Individual,
    /// (iii) §164.502(a)(1)(iii).
    Incidental,
    /// (iv) §164.508.
    Authorization,
    /// (v) §164.510: the facility's directory, persons involved in care.
    FacilityDirectory,
    /// (vi) §164.512(k)(2).
    NationalSecurity,
    /// (vii) §164.512(k)(5).
    Custody,
    /// (viii) §164.514(e).
    LimitedDataSet,
}

impl Exclusion {
    pub const ALL: [Exclusion; 8] = [
        Exclusion::TreatmentPaymentOperations,
        Exclusion::Individual,
        Exclusion::Incidental,
        Exclusion::Authorization,
        Exclusion::FacilityDirectory,
        Exclusion::NationalSecurity,
        Exclusion::Custody,
        Exclusion::LimitedDataSet,
    ];

    /// In words for the patient.
    pub fn words(self) -> &'static str {
        match self {
            Exclusion::TreatmentPaymentOperations => "for your treatment, for payment, or for running the hospital",
            Exclusion::Individual => "to you or your representative",
            Exclusion::Incidental => "incident to another permitted disclosure",
            Exclusion::Authorization => "that you authorized in writing",
            Exclusion::FacilityDirectory => "for the hospital's directory, or to persons involved in your care",
            Exclusion::NationalSecurity => "for national security or intelligence",
            Exclusion::Custody => "to those who had you in custody",
            Exclusion::LimitedDataSet => "as part of a limited data set",
        }
    }
}

/// A research activity, in plain words: §164.528(b)(4)(i)(A)–(C), (E).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Study {
    /// Name of the protocol or activity.
    pub name: String,
    /// What it is for, and by which criteria records are chosen.
    pub description: String,
    /// What kind of information is disclosed.
    pub data: String,
    /// Who pays for it, with address and telephone number.
    pub sponsor: String,
}

/// Who received something, as the mesh's files say.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Recipient {
    /// A person or an entity, in words that a patient understands; never an internal id.
    pub name: String,
    /// Of its business; never of anybody's home.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phone: Option<String>,
}

/// What the files say of an agreement, as far as an accounting needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// The privacy officer's word that what goes out under it need not be accounted for.
    pub excluded: Option<Exclusion>,
    pub study: Option<Study>,
}

/// Names behind principals and agreements.
pub trait Recipients: Send + Sync {
    fn recipient(&self, principal: &PrincipalId, agreement: Option<&str>) -> Recipient;
    fn terms(&self, agreement: &str) -> Terms;
}

/// Nobody has a name.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoNames;

impl Recipients for NoNames {
    fn recipient(&self, _principal: &PrincipalId, _agreement: Option<&str>) -> Recipient {
        let name = "a user of this system (the privacy office knows the name)".to_owned();
        Recipient { name, address: None, phone: None }
    }

    fn terms(&self, _agreement: &str) -> Terms {
        Terms::default()
    }
}

/// One line: the first disclosure, and how many followed (§164.528(b)(2), (b)(3)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Disclosure {
    /// Days, `YYYY-MM-DD`, UTC.
    pub first: String,
    pub last: String,
    pub times: u64,
    pub recipient: Recipient,
    /// Where it was sent, when that was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    pub what: String,
    pub purpose: &'static str,
}

/// Research that may have had the patient's information (§164.528(b)(4)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StudyDisclosure {
    pub study: Study,
    pub researcher: Recipient,
    pub first: String,
    pub last: String,
}

/// An accounting of disclosures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Accounting {
    /// First day and last day of the period.
    pub from: String,
    pub to: String,
    pub disclosures: Vec<Disclosure>,
    pub research: Vec<StudyDisclosure>,
    /// How many were left out, by reason.
    pub excluded: BTreeMap<Exclusion, u64>,
    /// Records that could not be read or were not looked at in time: then the accounting has to be made again.
    pub missing: u64,
    /// How many are left out for now because an agency asked for it; for the privacy office, never on paper.
    pub suspended: u64,
}

/// Agencies, as recipients are named, for whose disclosures the right to an accounting is suspended
/// (§164.528(a)(2)).
pub type Suspended = [String];

/// Who received what a record says went out.
pub(crate) fn recipient_of(names: &dyn Recipients, record: &AuditRecord) -> Recipient {
    let mut recipient = names.recipient(&record.principal, record.agreement.as_deref());
    if let Some(name) = &record.recipient {
        recipient.name.clone_from(name);
    }
    recipient
}

/// The agency itself, or a person there: `Jane Roe, State Police`.
pub(crate) fn is_suspended(recipient: &Recipient, suspended: &Suspended) -> bool {
    let name = recipient.name.trim().to_lowercase();
    suspended
        .iter()
        .map(|agency| agency.trim().to_lowercase())
        .any(|agency| name == agency || name.strip_suffix(&agency).is_some_and(|person| person.ends_with(", ")))
}

/// Why it is left out; `None` when it is listed.
pub(crate) fn exclusion(record: &AuditRecord, terms: &Terms) -> Option<Exclusion> {
    match record.purpose {
        Some(
            Purpose::Treatment
            | Purpose::EmergencyTreatment
            | Purpose::Payment
            | Purpose::Operations
            // Auditing and compliance are health care operations (§164.501), and so is running the system.
            | Purpose::Compliance
            | Purpose::SystemAdministration,
        ) => Some(Exclusion::TreatmentPaymentOperations),
        Some(Purpose::PatientRequest) => Some(Exclusion::Individual),
        Some(Purpose::Research | Purpose::PublicHealth) | None => terms.excluded,
    }
}

/// Whether information about patients went out at all.
fn went_out(record: &AuditRecord, patients: u64) -> bool {
    record.outcome == Outcome::Served && patients > 0 && !matches!(record.action.as_str(), "write" | "ingest" | "build")
}

fn purpose_words(purpose: Option<Purpose>) -> &'static str {
    match purpose {
        Some(Purpose::Research) => "research (45 CFR 164.512(i))",
        Some(Purpose::PublicHealth) => "public health (45 CFR 164.512(b))",
        _ => "not stated",
    }
}

/// A resource type in words.
fn kind_words(kind: &str) -> &str {
    match kind {
        "Patient" => "identity and contact details",
        "Encounter" => "visits",
        "Observation" => "results and vital signs",
        "DiagnosticReport" => "reports of examinations",
        "Condition" => "diagnoses",
        "MedicationRequest" | "MedicationAdministration" | "MedicationDispense" => "medications",
        "AllergyIntolerance" => "allergies",
        "Procedure" => "procedures",
        "Immunization" => "immunizations",
        "DocumentReference" => "documents",
        "ImagingStudy" => "images",
        other => other,
    }
}

/// A brief description of what was disclosed.
pub(crate) fn what_words(record: &AuditRecord) -> String {
    let mut kinds: Vec<&str> = record.kinds.iter().map(|kind| kind_words(kind)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let what = if kinds.is_empty() { "records".to_owned() } else { kinds.join(", ") };
    let masked = record.obligations.iter().filter_map(|text| text.strip_prefix("mask(")?.split(',').next());
    let masked: Vec<&str> = masked.collect();
    let what = match record.layer {
        base::Layer::Gold => format!("a row in the data set `{what}` of {}", record.domain),
        _ => format!("{what} ({})", record.domain),
    };
    if masked.is_empty() { what } else { format!("{what}, with removed or coarsened: {}", masked.join(", ")) }
}

pub(crate) fn day(at: Timestamp) -> String {
    at.to_string().chars().take(10).collect()
}

/// Gathers records, in the order of time, into an accounting.
pub(crate) struct Accountant<'a> {
    names: &'a dyn Recipients,
    suspended: &'a Suspended,
    left_out: u64,
    lines: BTreeMap<(Recipient, Option<String>, String, &'static str), (Timestamp, Timestamp, u64)>,
    research: BTreeMap<(Study, Recipient), (Timestamp, Timestamp)>,
    excluded: BTreeMap<Exclusion, u64>,
}

impl<'a> Accountant<'a> {
    pub fn new(names: &'a dyn Recipients, suspended: &'a Suspended) -> Self {
        let (lines, research, excluded) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Accountant { names, suspended, left_out: 0, lines, research, excluded }
    }

    pub fn add(&mut self, found: &Found) {
        let record = &found.record;
        if !went_out(record, found.patients) {
            return;
        }
        let terms = record.agreement.as_deref().map(|agreement| self.names.terms(agreement)).unwrap_or_default();
        if let Some(reason) = exclusion(record, &terms) {
            *self.excluded.entry(reason).or_default() += 1;
            return;
        }
        let recipient = recipient_of(self.names, record);
        if is_suspended(&recipient, self.suspended) {
            self.left_out += 1;
            return;
        }
        let is_large = record.purpose == Some(Purpose::Research) && found.patients >= RESEARCH_INDIVIDUALS_MIN;
        if let Some(study) = terms.study.filter(|_| is_large) {
            let (_, last) = self.research.entry((study, recipient)).or_insert((record.at, record.at));
            *last = (*last).max(record.at);
            return;
        }
        let key = (recipient, record.destination.clone(), what_words(record), purpose_words(record.purpose));
        let (_, last, times) = self.lines.entry(key).or_insert((record.at, record.at, 0));
        *last = (*last).max(record.at);
        *times += 1;
    }

    pub fn finish(self, from: Timestamp, to: Timestamp, missing: u64) -> Accounting {
        let mut lines: Vec<_> = self.lines.into_iter().collect();
        lines.sort_by_key(|(_, (first, ..))| *first);
        let disclosure = |((recipient, destination, what, purpose), (first, last, times))| Disclosure {
            first: day(first),
            last: day(last),
            times,
            recipient,
            destination,
            what,
            purpose,
        };
        let research = self.research.into_iter();
        let research = research.map(|((study, researcher), (first, last))| StudyDisclosure {
            study,
            researcher,
            first: day(first),
            last: day(last),
        });
        Accounting {
            from: day(from),
            to: day(to),
            disclosures: lines.into_iter().map(disclosure).collect(),
            research: research.collect(),
            excluded: self.excluded,
            missing,
            suspended: self.left_out,
        }
    }
}
