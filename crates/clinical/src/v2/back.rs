//! The way back: what a code or a system of FHIR is called in HL7 v2. The same tables as on the way in, read from the
//! other side; where several codes of v2 mean one of FHIR, the one that senders use most.

use super::convert::percent;
use super::plan::vocabulary as codes;
use super::vocabulary::{Vocabulary, coding_system_name};

/// The first of `preferred` that means `wanted`; else the shortest of the table, in the order of the alphabet.
fn of(vocabulary: &Vocabulary, wanted: &str, preferred: &[&'static str]) -> &'static str {
    let means = |v2: &&&'static str| vocabulary.code(v2) == Some(wanted);
    preferred.iter().find(means).copied().or_else(|| vocabulary.called(wanted)).unwrap_or_default()
}

/// A percent-encoded name, where it reads back the same.
pub fn name(encoded: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = (*first == b'%').then(|| after.get(..2)).flatten();
        match digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok().filter(|name| percent(name) == encoded)
}

/// CWE-3 of a system.
pub fn coding_system(uri: &str) -> String {
    if let Some(name) = coding_system_name(uri) {
        return name.to_owned();
    }
    if let Some(table) = uri.strip_prefix("http://terminology.hl7.org/CodeSystem/v2-")
        && table.len() == 4
    {
        return format!("HL7{table}");
    }
    uri.strip_prefix("urn:wardmesh:codes:").and_then(name).unwrap_or_else(|| uri.to_owned())
}

/// Table 0001.
pub fn sex(gender: &str) -> &'static str {
    of(codes("AdministrativeSex"), gender, &["F", "M", "O", "U"])
}

/// Table 0200.
pub fn name_type(use_: &str) -> &'static str {
    if use_.is_empty() { "" } else { of(codes("NameType"), use_, &["L", "D", "N", "M", "A", "S"]) }
}

/// Table 0190.
pub fn address_type(use_: &str, kind: &str) -> &'static str {
    match (use_, kind) {
        ("", "") => "",
        ("", kind) => of(codes("AddressType[Type]"), kind, &["M", "SH"]),
        (use_, _) => of(codes("AddressType[Use]"), use_, &["H", "B", "C", "BI", "BA"]),
    }
}

/// Tables 0201 and 0202: use and equipment.
pub fn telecom(system: &str, use_: &str) -> (&'static str, &'static str) {
    let equipment = match (system, use_) {
        ("phone" | "", "mobile") => "CP",
        ("" | "url", _) => "",
        (system, _) => of(codes("TelecommunicationEquipmentType"), system, &["PH", "FX", "BP", "Internet", "TDD"]),
    };
    let used = match use_ {
        "" | "mobile" => "",
        use_ => of(codes("TelecommunicationUseCode"), use_, &["PRN", "WPN"]),
    };
    (used, equipment)
}

/// Table 0004 of a v3 ActCode.
pub fn patient_class(class: &str) -> &'static str {
    match class {
        "IMP" | "ACUTE" | "NONAC" => "I",
        "AMB" | "VR" | "HH" => "O",
        "EMER" => "E",
        "PRENC" => "P",
        "OBSENC" | "SS" => "B",
        _ => "U",
    }
}

/// Table 0085.
pub fn result_status(status: &str) -> &'static str {
    match status {
        "registered" => "I",
        "preliminary" => "P",
        "final" => "F",
        "amended" => "B",
        "corrected" => "C",
        "cancelled" => "X",
        "entered-in-error" => "W",
        _ => "",
    }
}

/// Table 0123.
pub fn report_status(status: &str) -> &'static str {
    match status {
        "registered" => "I",
        "partial" => "A",
        "preliminary" => "P",
        "final" => "F",
        "corrected" | "amended" | "appended" => "C",
        "cancelled" | "entered-in-error" => "X",
        _ => "",
    }
}

/// Table 0078 of an interpretation.
pub fn abnormal_flag(code: &str) -> &'static str {
    of(codes("InterpretationCodes"), code, &["N", "H", "L", "HH", "LL", "A", "AA"])
}
