//! What is left of an input when one of the patients it names is erased: the [`Left`] of it, which takes its place.
//!
//! An input that names several patients has one key, held by nobody alone. Its successor keeps what the input did for
//! the others (their versions as they were made, so that a replay gives the same), what is still set aside for them,
//! and the input's own bytes without the erased patient's parts, where they can be told apart. Pure: reading and
//! appending is the journal's matter, when to do it `refine`'s.

use std::collections::HashSet;

use base::{LogicalId, Ordinal, Sensitivity, SourceName, Timestamp};
use fhir::json::{ParseLimits, Value};
use serde::{Deserialize, Serialize};
use store::{Resource, SetAside};

use crate::v2::Key;

/// Shorter identifiers tell nobody apart.
const IDENTIFIER_BYTES_MIN: usize = 3;
/// Units of one HL7 v2 segment: see `v2::Unit::n`.
const UNITS_PER_SEGMENT: u32 = 8;

/// By what an input names a patient.
#[derive(Default)]
pub struct Who {
    /// Values of the identifiers of the Patient resource, in all its versions.
    identifiers: HashSet<String>,
    /// Ids of the patient's resources.
    ids: HashSet<String>,
    families: HashSet<String>,
    /// Birth dates as eight digits.
    births: HashSet<String>,
}

impl Who {
    /// Learns from a version of one of the patient's resources.
    pub fn see(&mut self, resource: &Resource) {
        self.ids.insert(resource.id.to_string());
        if resource.rtype != "Patient" || resource.deleted {
            return;
        }
        let Ok(body) = fhir::json::parse(resource.body.expose(), &ParseLimits::default()) else { return };
        let list = |name: &str| body.get(name).and_then(Value::as_array).unwrap_or_default();
        let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        for identifier in list("identifier") {
            let within = text(identifier, "system").is_some_and(|system| system == Key::WITHIN_SYSTEM);
            let value = text(identifier, "value").filter(|value| value.len() >= IDENTIFIER_BYTES_MIN && !within);
            self.identifiers.extend(value);
        }
        self.families.extend(list("name").iter().filter_map(|name| text(name, "family")).map(|f| f.to_lowercase()));
        let birth = text(&body, "birthDate").map(|date| date.replace('-', "")).filter(|digits| digits.len() == 8);
        self.births.extend(birth);
    }

    /// Whether these words name the patient: by an identifier, by the id of a resource, or by family name and birth
    /// date together.
    fn is_named_by<'a>(&self, words: impl Iterator<Item = &'a str>) -> bool {
        let (mut family, mut birth) = (false, false);
        for word in words {
            let last = word.rsplit('/').next().unwrap_or(word);
            if self.identifiers.contains(word) || self.ids.contains(last) {
                return true;
            }
            family |= !word.is_empty() && self.families.contains(&word.to_lowercase());
            let digits: String = word.chars().filter(|c| *c != '-').take(8).collect();
            birth |= self.births.contains(&digits);
        }
        family && birth
    }

    /// Any bytes, split at what separates words in HL7 v2 and JSON.
    pub fn is_named_in(&self, bytes: &[u8]) -> bool {
        let text = String::from_utf8_lossy(bytes);
        self.is_named_by(text.split(['|', '^', '~', '&', '\r', '\n', '"', ',', ' ', '?', '=']))
    }

    fn is_named_in_json(&self, value: &Value) -> bool {
        let mut words = Vec::new();
        gather(value, &mut words);
        self.is_named_by(
            words.into_iter().flat_map(|word| std::iter::once(word).chain(word.split(['|', '=', '?', ' ']))),
        )
    }
}

fn gather<'a>(value: &'a Value, words: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => words.push(text),
        Value::Array(list) => list.iter().for_each(|item| gather(item, words)),
        Value::Object(object) => object.iter().for_each(|(_, item)| gather(item, words)),
        _ => {}
    }
}

/// What is left of an input.
#[derive(Default, Serialize, Deserialize)]
pub struct Left {
    pub versions: Vec<LeftVersion>,
    pub set_aside: Vec<LeftUnit>,
    /// The input's bytes without the patient's parts; none where they cannot be told apart.
    #[serde(skip)]
    pub raw: Option<Vec<u8>>,
    has_raw: bool,
}

/// A version that the input made of another patient's resource.
#[derive(Serialize, Deserialize)]
pub struct LeftVersion {
    pub rtype: String,
    pub id: LogicalId,
    pub version: u32,
    pub patient: Ordinal,
    pub sensitivity: u16,
    pub last_updated: Timestamp,
    pub deleted: bool,
    body: String,
}

/// A unit of another patient that is set aside.
#[derive(Clone, Serialize, Deserialize)]
pub struct LeftUnit {
    unit: u32,
    source: SourceName,
    place: String,
    code: String,
    reason: String,
    critical: bool,
    at: Timestamp,
}

impl LeftVersion {
    pub fn of(resource: &Resource) -> Self {
        LeftVersion {
            rtype: resource.rtype.clone(),
            id: resource.id.clone(),
            version: resource.version,
            patient: resource.patient,
            sensitivity: resource.sensitivity.0,
            last_updated: resource.last_updated,
            deleted: resource.deleted,
            body: String::from_utf8_lossy(resource.body.expose()).into_owned(),
        }
    }

    pub fn sensitivity(&self) -> Sensitivity {
        Sensitivity(self.sensitivity)
    }

    /// `None` when it is no JSON.
    pub fn body(&self) -> Option<Value> {
        match self.deleted {
            true => Some(Value::Null),
            false => fhir::json::parse(self.body.as_bytes(), &ParseLimits::default()).ok(),
        }
    }
}

impl LeftUnit {
    pub fn of(unit: &SetAside) -> Self {
        let SetAside { unit: n, source, place, code, reason, critical, at, .. } = unit.clone();
        LeftUnit { unit: n, source, place, code, reason, critical, at }
    }

    pub fn at_entry(&self, index: u64) -> SetAside {
        let LeftUnit { unit, source, place, code, reason, critical, at } = self.clone();
        SetAside { index, unit, source, place, code, reason, critical, at }
    }
}

impl Left {
    pub fn is_nothing(&self) -> bool {
        self.versions.is_empty() && self.set_aside.is_empty() && self.raw.is_none()
    }

    /// One line of JSON, then the bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let head = Left { raw: None, has_raw: self.raw.is_some(), versions: Vec::new(), set_aside: Vec::new() };
        let mut value = serde_json::to_value(&head).unwrap_or_default();
        value["versions"] = serde_json::to_value(&self.versions).unwrap_or_default();
        value["set_aside"] = serde_json::to_value(&self.set_aside).unwrap_or_default();
        let mut bytes = value.to_string().into_bytes();
        bytes.push(b'\n');
        bytes.extend(self.raw.iter().flatten());
        bytes
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Left> {
        let at = bytes.iter().position(|b| *b == b'\n')?;
        let mut left: Left = serde_json::from_slice(&bytes[..at]).ok()?;
        left.raw = left.has_raw.then(|| bytes[at + 1..].to_vec());
        Some(left)
    }
}

/// An HL7 v2 message without the segments that name the patient, each left as its bare id, so that the others keep
/// their places and with them their units. With it the segments that were emptied. `None` when nothing but headers is
/// left.
pub fn hl7(message: &[u8], who: &Who) -> (Option<Vec<u8>>, HashSet<u32>) {
    let mut out: Vec<&[u8]> = Vec::new();
    let mut emptied = HashSet::new();
    let (mut in_group, mut kept) = (false, false);
    for (n, segment) in message.split(|b| *b == b'\r').enumerate() {
        let id = segment.get(..3).unwrap_or(segment);
        let is_header = matches!(id, b"MSH" | b"EVN" | b"");
        let named = !is_header && who.is_named_in(segment);
        match id {
            // Everything up to the next patient is about this one.
            b"PID" => in_group = named,
            b"MSH" => in_group = false,
            _ => {}
        }
        if named || (in_group && !is_header) {
            emptied.insert(n as u32);
            out.push(id);
        } else {
            kept |= !is_header;
            out.push(segment);
        }
    }
    let text = out.join(&b'\r');
    // A header that names the patient, or a segment cut in the middle: nothing of it can be kept.
    let left = (kept && !who.is_named_in(&text)).then_some(text);
    (left, emptied)
}

/// The unit is of a segment that was emptied.
pub fn is_unit_of(unit: u32, emptied: &HashSet<u32>) -> bool {
    emptied.contains(&(unit / UNITS_PER_SEGMENT))
}

/// A Bundle whose entries that name the patient are empty. `None` when nothing is left, or it is no Bundle.
pub fn bundle(body: &[u8], who: &Who) -> Option<Vec<u8>> {
    let mut value = fhir::json::parse(body, &ParseLimits::default()).ok()?;
    let entries = value.get_mut("entry")?.as_array_mut()?;
    let mut kept = false;
    for entry in entries.iter_mut() {
        if who.is_named_in_json(entry) {
            *entry = Value::Object(fhir::json::Object::default());
        } else {
            kept = true;
        }
    }
    let named = who.is_named_in_json(&value);
    (kept && !named).then(|| fhir::json::to_vec(&value))
}

#[cfg(test)]
mod tests {
    use base::Phi;

    use super::*;

    fn who() -> Who {
        let body = br#"{"resourceType":"Patient","id":"p1","identifier":[{"system":"urn:m","value":"MRN7"}],
            "name":[{"family":"Gone"}],"birthDate":"1970-02-03"}"#;
        let mut who = Who::default();
        who.see(&Resource {
            rtype: "Patient".into(),
            id: LogicalId::parse("p1").unwrap(),
            version: 1,
            change: 1,
            last_updated: Timestamp(1),
            patient: Ordinal(1),
            sensitivity: Sensitivity::NONE,
            deleted: false,
            positions: vec![0],
            body: Phi::new(body.to_vec()),
        });
        who
    }

    #[test]
    fn a_patient_is_named_by_number_by_id_or_by_name_and_birth_date_together() {
        for (text, expected) in [
            ("PID|1||MRN7^^^H^MR", true),
            (r#"{"subject":{"reference":"Patient/p1"}}"#, true),
            ("PID|1||||GONE^A||19700203", true),
            ("PID|1||||GONE^A||19710203", false),
            ("PID|1||MRN71^^^H^MR||Other", false),
            ("", false),
        ] {
            assert_eq!(who().is_named_in(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn the_others_segments_keep_their_places() {
        let message = b"MSH|^~\\&|A\rEVN|A40\rPID|1||MRN8||Kept\rMRG|MRN7\rPV1|1|I\rPID|2||MRN7||Gone\rOBX|1\r";
        let (left, emptied) = hl7(message, &who());
        let left = String::from_utf8(left.unwrap()).unwrap();
        assert_eq!(left, "MSH|^~\\&|A\rEVN|A40\rPID|1||MRN8||Kept\rMRG\rPV1|1|I\rPID\rOBX\r");
        assert_eq!(emptied, HashSet::from([3, 5, 6]));
        assert!(is_unit_of(3 * UNITS_PER_SEGMENT + 1, &emptied) && !is_unit_of(2 * UNITS_PER_SEGMENT, &emptied));
        assert!(hl7(b"MSH|^~\\&|A\rPID|1||MRN7||Gone\rPV1|1\r", &who()).0.is_none());
    }

    #[test]
    fn a_bundles_other_entries_stay_in_their_places() {
        let body = br#"{"resourceType":"Bundle","entry":[{"resource":{"id":"x","v":"MRN8"}},
            {"resource":{"subject":{"reference":"Patient/p1"}}}]}"#;
        let left = fhir::json::parse(&bundle(body, &who()).unwrap(), &ParseLimits::default()).unwrap();
        let entries = left.get("entry").unwrap().as_array().unwrap();
        assert_eq!(entries.len(), 2);
        assert!(entries[0].get("resource").is_some() && entries[1].get("resource").is_none());
        assert!(bundle(br#"{"resourceType":"Patient","id":"p1"}"#, &who()).is_none());
    }

    #[test]
    fn what_is_left_round_trips() {
        let left = Left { raw: Some(b"MSH\rPID".to_vec()), ..Left::default() };
        let again = Left::from_bytes(&left.to_bytes()).unwrap();
        assert_eq!(again.raw.as_deref(), Some(&b"MSH\rPID"[..]));
        assert!(!again.is_nothing() && Left::from_bytes(&Left::default().to_bytes()).unwrap().is_nothing());
    }
}
