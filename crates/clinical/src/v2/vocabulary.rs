//! Code tables: HL7 v2 to FHIR, from the v2-to-FHIR guide's concept maps with our decisions where it is silent.
//! Facts only; how they are used stands in `convert`.

/// A v2 code and what it is in FHIR.
pub struct Coded {
    pub v2: &'static str,
    pub code: &'static str,
    pub display: &'static str,
    pub system: &'static str,
}

/// A v2 table with its FHIR counterparts.
pub struct Vocabulary {
    /// HL7 table number, four digits; the system of the v2 code itself is made of it.
    pub table: &'static str,
    pub codes: &'static [Coded],
}

impl Vocabulary {
    pub fn find(&self, v2: &str) -> Option<&'static Coded> {
        self.codes.iter().find(|c| c.v2 == v2)
    }
}

/// v2 code to a FHIR code of a required value set.
pub type Codes = &'static [(&'static str, &'static str)];

pub fn code(codes: Codes, v2: &str) -> Option<&'static str> {
    codes.iter().find(|(from, _)| *from == v2).map(|(_, to)| *to)
}

/// Table 0001 to administrative-gender.
pub const SEX: Codes =
    &[("F", "female"), ("M", "male"), ("O", "other"), ("U", "unknown"), ("A", "other"), ("N", "other"), ("X", "other")];

/// Table 0136.
pub const YES_NO: Codes = &[("Y", "true"), ("N", "false")];

/// Table 0200 to name-use.
pub const NAME_USE: Codes = &[
    ("BAD", "old"),
    ("D", "usual"),
    ("L", "official"),
    ("R", "official"),
    ("M", "maiden"),
    ("MSK", "anonymous"),
    ("N", "nickname"),
    ("NAV", "temp"),
    ("TEMP", "temp"),
    ("NOUSE", "old"),
];

/// Table 0190 to address-use.
pub const ADDRESS_USE: Codes =
    &[("BA", "old"), ("BI", "billing"), ("C", "temp"), ("B", "work"), ("H", "home"), ("O", "work")];

/// Table 0190 to address-type.
pub const ADDRESS_TYPE: Codes = &[("M", "postal"), ("SH", "postal")];

/// Table 0201 to contact-point-use.
pub const TELECOM_USE: Codes = &[("PRN", "home"), ("WPN", "work"), ("PRS", "mobile"), ("ORN", "home"), ("VHN", "temp")];

/// Table 0202 to contact-point-system.
pub const TELECOM_SYSTEM: Codes = &[
    ("PH", "phone"),
    ("CP", "phone"),
    ("FX", "fax"),
    ("MD", "other"),
    ("SAT", "phone"),
    ("BP", "pager"),
    ("Internet", "email"),
    ("X.400", "email"),
    ("TDD", "other"),
    ("TTY", "other"),
];

/// Table 0085 to observation-status. O is no observation at all and stands elsewhere. The guide leaves B, I, N, R, S,
/// U and V open: decided here.
pub const OBSERVATION_STATUS: Codes = &[
    ("A", "amended"),
    ("B", "amended"),
    ("C", "corrected"),
    ("D", "entered-in-error"),
    ("F", "final"),
    ("I", "registered"),
    ("N", "cancelled"),
    ("P", "preliminary"),
    ("R", "preliminary"),
    ("S", "preliminary"),
    ("U", "final"),
    ("V", "final"),
    ("W", "entered-in-error"),
    ("X", "cancelled"),
];

/// Table 0123 to diagnostic-report-status. M (corrected, not final) and N (done, results pending) are decided here.
pub const REPORT_STATUS: Codes = &[
    ("O", "registered"),
    ("I", "registered"),
    ("S", "registered"),
    ("N", "registered"),
    ("A", "partial"),
    ("R", "partial"),
    ("P", "preliminary"),
    ("M", "preliminary"),
    ("C", "corrected"),
    ("F", "final"),
    ("X", "cancelled"),
];

/// Table 0004 to the class of an encounter.
pub const PATIENT_CLASS: Vocabulary = Vocabulary {
    table: "0004",
    codes: &[
        Coded { v2: "E", code: "EMER", display: "emergency", system: ACT_CODE },
        Coded { v2: "I", code: "IMP", display: "inpatient encounter", system: ACT_CODE },
        Coded { v2: "O", code: "AMB", display: "ambulatory", system: ACT_CODE },
        Coded { v2: "P", code: "PRENC", display: "pre-admission", system: ACT_CODE },
        Coded { v2: "R", code: "R", display: "Recurring patient", system: V2_0004 },
        Coded { v2: "B", code: "B", display: "Obstetrics", system: V2_0004 },
        Coded { v2: "C", code: "C", display: "Commercial Account", system: V2_0004 },
        Coded { v2: "N", code: "N", display: "Not Applicable", system: V2_0004 },
        Coded { v2: "U", code: "U", display: "Unknown", system: V2_0004 },
    ],
};

pub const MARITAL_STATUS: Vocabulary = Vocabulary {
    table: "0002",
    codes: &[
        Coded { v2: "A", code: "L", display: "Legally Separated", system: MARITAL },
        Coded { v2: "D", code: "D", display: "Divorced", system: MARITAL },
        Coded { v2: "M", code: "M", display: "Married", system: MARITAL },
        Coded { v2: "S", code: "S", display: "Never Married", system: MARITAL },
        Coded { v2: "W", code: "W", display: "Widowed", system: MARITAL },
        Coded { v2: "C", code: "C", display: "Common Law", system: MARITAL },
        Coded { v2: "G", code: "T", display: "Domestic partner", system: MARITAL },
        Coded { v2: "P", code: "T", display: "Domestic partner", system: MARITAL },
        Coded { v2: "R", code: "T", display: "Domestic partner", system: MARITAL },
        Coded { v2: "E", code: "L", display: "Legally Separated", system: MARITAL },
        Coded { v2: "N", code: "A", display: "Annulled", system: MARITAL },
        Coded { v2: "I", code: "I", display: "Interlocutory", system: MARITAL },
        Coded { v2: "B", code: "U", display: "unmarried", system: MARITAL },
        Coded { v2: "U", code: "UNK", display: "unknown", system: NULL_FLAVOR },
        Coded { v2: "O", code: "OTH", display: "other", system: NULL_FLAVOR },
        Coded { v2: "T", code: "NAVU", display: "Not available", system: NULL_FLAVOR },
    ],
};

/// Tables of which only the codes' own system is known: the code is kept as it came.
pub const NONE: Vocabulary = Vocabulary { table: "", codes: &[] };

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
pub const V2_0004: &str = "http://terminology.hl7.org/CodeSystem/v2-0004";
pub const ACT_CODE: &str = "http://terminology.hl7.org/CodeSystem/v3-ActCode";
pub const PARTICIPATION: &str = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType";
pub const NULL_FLAVOR: &str = "http://terminology.hl7.org/CodeSystem/v3-NullFlavor";
pub const OBSERVATION_CATEGORY: &str = "http://terminology.hl7.org/CodeSystem/observation-category";
pub const DATA_ABSENT: &str = "http://terminology.hl7.org/CodeSystem/data-absent-reason";
const MARITAL: &str = "http://terminology.hl7.org/CodeSystem/v3-MaritalStatus";
pub const INTERPRETATION: &str = "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation";

/// HL7 table 0396: names of coding systems to their URIs. `HL7nnnn` is made by rule, see [`coding_system`].
const CODING_SYSTEMS: Codes = &[
    ("LN", "http://loinc.org"),
    ("LOINC", "http://loinc.org"),
    ("SCT", "http://snomed.info/sct"),
    ("SCT2", "http://snomed.info/sct"),
    ("SNOMED", "http://snomed.info/sct"),
    ("SNOMED-CT", "http://snomed.info/sct"),
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
    if name.contains(':') && !name.contains(' ') {
        return name.to_owned();
    }
    format!("urn:wardmesh:codes:{}", super::convert::percent(name))
}

/// Table 0078 to v3 ObservationInterpretation; codes the guide calls inactive are not here.
pub const INTERPRETATIONS: Codes = &[
    ("<", "Off scale low"),
    (">", "Off scale high"),
    ("A", "Abnormal"),
    ("AA", "Critical abnormal"),
    ("B", "Better"),
    ("CAR", "Carrier"),
    ("D", "Significant change down"),
    ("DET", "Detected"),
    ("E", "Equivocal"),
    ("EX", "outside threshold"),
    ("EXP", "Expected"),
    ("H", "High"),
    ("HH", "Critical high"),
    ("HU", "Significantly high"),
    ("I", "Intermediate"),
    ("IE", "Insufficient evidence"),
    ("IND", "Indeterminate"),
    ("L", "Low"),
    ("LL", "Critical low"),
    ("LU", "Significantly low"),
    ("MS", "moderately susceptible"),
    ("N", "Normal"),
    ("NCL", "No CLSI defined breakpoint"),
    ("ND", "Not detected"),
    ("NEG", "Negative"),
    ("NR", "Non-reactive"),
    ("NS", "Non-susceptible"),
    ("POS", "Positive"),
    ("R", "Resistant"),
    ("RR", "Reactive"),
    ("S", "Susceptible"),
    ("SDD", "Susceptible-dose dependent"),
    ("SYN-R", "Synergy - resistant"),
    ("SYN-S", "Synergy - susceptible"),
    ("U", "Significant change up"),
    ("VS", "very susceptible"),
    ("UNE", "Unexpected"),
    ("W", "Worse"),
    ("WR", "Weakly reactive"),
];

/// Whether OBX-8 says that a person must act now.
pub fn is_critical(flag: &str) -> bool {
    matches!(flag, "HH" | "LL" | "AA")
}

/// The codes of table 0203 that the guide lists, and those of order numbers.
pub const IDENTIFIER_TYPES: &str = "\
    FILL PLAC \
    ACSN AM AMA AN ANC AND ANON ANT APRN ASID BA BC BCT BR BRN BSNR CC CONM CY CZ DDS DEA DFN DI DL DN \
    DO DP DPM DR DS EI EN ESN FI GI GL GN HC IND JHN LACSN LANR LI LN LR MA MB MC MCD MCN MCR MCT MD MI \
    MR MRT MS NBSNR NCT NE NH NI NII NIIP NNxxx NP NPI OD PA PC PCN PE PEN PI PN PNT PPIN PPN PRC PRN PT \
    QA RI RN RPH RR RRI RRP SID SL SN SP SR SS TAX TN TPR U UPIN USID VN VP VS WC WCN WP XX";

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
