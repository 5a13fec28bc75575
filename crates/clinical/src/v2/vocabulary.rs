//! Codes: the shape of the vocabularies that `maps` holds, and the few lists that are no map of one v2 table.
//! Facts only; how they are used stands in `convert`.

use std::collections::HashMap;

/// A v2 code and what it is in FHIR.
#[derive(Debug, Clone)]
pub struct Coded {
    pub code: &'static str,
    pub display: &'static str,
    pub system: &'static str,
}

/// A v2 table with its FHIR counterparts, as the tables in `maps` have it.
#[derive(Debug, Default)]
pub struct Vocabulary {
    /// HL7 table number, four digits; the system of the v2 code itself is made of it.
    pub table: &'static str,
    codes: HashMap<&'static str, Coded>,
}

impl Vocabulary {
    pub fn new(table: &'static str) -> Self {
        Vocabulary { table, codes: HashMap::new() }
    }

    pub fn add(&mut self, v2: &'static str, code: &'static str, display: &'static str, system: &'static str) {
        self.codes.insert(v2, Coded { code, display, system });
    }

    pub fn find(&self, v2: &str) -> Option<&Coded> {
        self.codes.get(v2)
    }

    pub fn code(&self, v2: &str) -> Option<&'static str> {
        self.find(v2).map(|coded| coded.code)
    }

    /// The shortest v2 code that means a FHIR code, in the order of the alphabet.
    pub fn called(&self, fhir: &str) -> Option<&'static str> {
        let means = self.codes.iter().filter(|(_, coded)| coded.code == fhir).map(|(v2, _)| *v2);
        means.min_by_key(|v2| (v2.len(), *v2))
    }

    pub fn is_empty(&self) -> bool {
        self.codes.is_empty()
    }
}

/// v2 code to a FHIR code of a required value set.
pub type Codes = &'static [(&'static str, &'static str)];

pub fn code(codes: Codes, v2: &str) -> Option<&'static str> {
    codes.iter().find(|(from, _)| *from == v2).map(|(_, to)| *to)
}

/// OBR-24, table 0074, to observation-category; what is neither laboratory nor imaging has no category.
pub const SECTION_CATEGORY: Codes = &[
    ("LAB", "laboratory"),
    ("BG", "laboratory"),
    ("BLB", "laboratory"),
    ("CG", "laboratory"),
    ("CH", "laboratory"),
    ("CP", "laboratory"),
    ("HM", "laboratory"),
    ("IMM", "laboratory"),
    ("MB", "laboratory"),
    ("MCB", "laboratory"),
    ("MYC", "laboratory"),
    ("SP", "laboratory"),
    ("SR", "laboratory"),
    ("TX", "laboratory"),
    ("VR", "laboratory"),
    ("CT", "imaging"),
    ("CUS", "imaging"),
    ("NMR", "imaging"),
    ("NMS", "imaging"),
    ("OUS", "imaging"),
    ("RAD", "imaging"),
    ("RUS", "imaging"),
    ("RX", "imaging"),
    ("VUS", "imaging"),
];

/// ISO 639-2 (bibliographic and terminology codes) to BCP 47, for the languages that PID-15 names most.
pub const LANGUAGE: Codes = &[
    ("ara", "ar"),
    ("ben", "bn"),
    ("chi", "zh"),
    ("zho", "zh"),
    ("dan", "da"),
    ("deu", "de"),
    ("ger", "de"),
    ("ell", "el"),
    ("gre", "el"),
    ("eng", "en"),
    ("fas", "fa"),
    ("per", "fa"),
    ("fin", "fi"),
    ("fra", "fr"),
    ("fre", "fr"),
    ("hat", "ht"),
    ("heb", "he"),
    ("hin", "hi"),
    ("ita", "it"),
    ("jpn", "ja"),
    ("kor", "ko"),
    ("nld", "nl"),
    ("dut", "nl"),
    ("nor", "no"),
    ("pol", "pl"),
    ("por", "pt"),
    ("ron", "ro"),
    ("rum", "ro"),
    ("rus", "ru"),
    ("som", "so"),
    ("spa", "es"),
    ("swe", "sv"),
    ("tgl", "tl"),
    ("tur", "tr"),
    ("ukr", "uk"),
    ("urd", "ur"),
    ("vie", "vi"),
];

/// CDC race and ethnicity codes of the OMB categories (US Core), and the codes of table 0189.
pub const OMB_RACE: Codes = &[
    ("1002-5", "American Indian or Alaska Native"),
    ("2028-9", "Asian"),
    ("2054-5", "Black or African American"),
    ("2076-8", "Native Hawaiian or Other Pacific Islander"),
    ("2106-3", "White"),
];
pub const OMB_ETHNICITY: Codes = &[("2135-2", "Hispanic or Latino"), ("2186-5", "Not Hispanic or Latino")];
pub const ETHNICITY_0189: Codes = &[("H", "2135-2"), ("N", "2186-5")];

pub const OMB: &str = "urn:oid:2.16.840.1.113883.6.238";
pub const UCUM: &str = "http://unitsofmeasure.org";
pub const V2_0203: &str = "http://terminology.hl7.org/CodeSystem/v2-0203";
pub const NULL_FLAVOR: &str = "http://terminology.hl7.org/CodeSystem/v3-NullFlavor";
pub const OBSERVATION_CATEGORY: &str = "http://terminology.hl7.org/CodeSystem/observation-category";
pub const DATA_ABSENT: &str = "http://terminology.hl7.org/CodeSystem/data-absent-reason";

/// HL7 table 0396: names of coding systems to their URIs. `HL7nnnn` is made by rule, see [`coding_system`].
const CODING_SYSTEMS: Codes = &[
    ("LN", "http://loinc.org"),
    ("LOINC", "http://loinc.org"),
    ("SCT", "http://snomed.info/sct"),
    ("SCT2", "http://snomed.info/sct"),
    ("SNOMED", "http://snomed.info/sct"),
    ("SNOMED-CT", "http://snomed.info/sct"),
    ("sct", "http://snomed.info/sct"),
    ("I9", "http://hl7.org/fhir/sid/icd-9-cm"),
    ("I9C", "http://hl7.org/fhir/sid/icd-9-cm"),
    ("I9CDX", "http://hl7.org/fhir/sid/icd-9-cm"),
    ("I10", "http://hl7.org/fhir/sid/icd-10"),
    ("I10C", "http://hl7.org/fhir/sid/icd-10-cm"),
    ("I10CDX", "http://hl7.org/fhir/sid/icd-10-cm"),
    ("ICD10", "http://hl7.org/fhir/sid/icd-10"),
    ("C4", "http://www.ama-assn.org/go/cpt"),
    ("CPT", "http://www.ama-assn.org/go/cpt"),
    ("CVX", "http://hl7.org/fhir/sid/cvx"),
    ("MVX", "http://hl7.org/fhir/sid/mvx"),
    ("NDC", "http://hl7.org/fhir/sid/ndc"),
    ("RXNORM", "http://www.nlm.nih.gov/research/umls/rxnorm"),
    ("UCUM", UCUM),
    ("CDCREC", OMB),
    ("ISO3166_1", "urn:iso:std:iso:3166"),
    ("ISO639", "urn:ietf:bcp:47"),
    ("ISO639-2", "urn:iso:std:iso:639-2"),
];

/// CWE-3 to the URI of its system. A local name gets one of our own, so that codes of two systems never look alike.
pub fn coding_system(name: &str) -> String {
    if let Some(uri) = code(CODING_SYSTEMS, name) {
        return uri.to_owned();
    }
    let table = name.strip_prefix("HL7").unwrap_or_default().trim_start_matches('-');
    if table.len() == 4 && table.bytes().all(|b| b.is_ascii_digit()) {
        return format!("http://terminology.hl7.org/CodeSystem/v2-{table}");
    }
    if name.contains(':') && !name.contains(char::is_whitespace) {
        return name.to_owned();
    }
    format!("urn:wardmesh:codes:{}", super::convert::percent(name))
}

/// The name of a system whose URI is in the table; the other way round.
pub fn coding_system_name(uri: &str) -> Option<&'static str> {
    CODING_SYSTEMS.iter().find(|(_, known)| *known == uri).map(|(name, _)| *name)
}

/// Whether OBX-8 says that a person must act now.
pub fn is_critical(flag: &str) -> bool {
    matches!(flag, "HH" | "LL" | "AA")
}

/// Identifier types (table 0203) that are kept but never used to find a patient: cards, licences, insurance and
/// social security numbers are shared, mistyped or reused too often; account and visit numbers name a stay.
pub const NOT_PERSON_NUMBERS: &[&str] = &[
    "SS", "SSN", "SB", "DL", "PPN", "MC", "MA", "MB", "MCD", "SN", "SR", "AN", "ANC", "AND", "ANT", "VN", "VS", "BC",
    "AM", "MS", "DI", "FI", "GI", "GN", "EI", "EN", "BR", "BCT", "XX",
];

/// Coded words that laboratories send where a number was expected; they are kept as text.
pub const RESULT_WORDS: &[&str] = &[
    "TNTC",
    "TOO NUMEROUS TO COUNT",
    "QNS",
    "QUANTITY NOT SUFFICIENT",
    "PENDING",
    "NEG",
    "NEGATIVE",
    "POS",
    "POSITIVE",
    "NONE SEEN",
    "NOT DETECTED",
    "DETECTED",
    "TRACE",
    "SEE NOTE",
    "SEE COMMENT",
    "HEMOLYZED",
    "CLOTTED",
];
