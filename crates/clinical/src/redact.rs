//! What is left of an input when one of the patients it names is erased: the [`Left`] of it, which takes its place.
//!
//! An input that names several patients has one key, held by nobody alone. Its successor keeps what the input did for
//! the others (their versions as they were made, so that a replay gives the same), what is still set aside for them,
//! and the input's own bytes without the erased patient's parts, where they can be told apart. Pure: reading and
//! appending is the journal's matter, when to do it `refine`'s.

use std::collections::{BTreeSet, HashMap, HashSet};

use base::{LogicalId, Ordinal, Sensitivity, SourceName, Timestamp};
use fhir::json::{ParseLimits, Value};
use serde::{Deserialize, Serialize};
use store::{Resource, SetAside};

use crate::envelope::Content;
use crate::journal::JournalEntry;
use crate::refine::identifiers;
use crate::v2::Key;

/// Shorter identifiers tell nobody apart.
const IDENTIFIER_BYTES_MIN: usize = 3;
/// Units of one HL7 v2 segment: see `v2::Unit::n`.
const UNITS_PER_SEGMENT: u32 = 8;

/// By what an input names a patient.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Who {
    /// Identifiers and references (`Patient/ID`) of the patient's resources in all versions, by their last word.
    names: HashMap<String, BTreeSet<String>>,
    /// In small letters.
    families: BTreeSet<String>,
    /// Birth dates, `YYYY-MM-DD` and `YYYYMMDD`.
    births: BTreeSet<String>,
}

impl Who {
    /// Learns from a version of one of the patient's resources.
    pub fn see(&mut self, resource: &Resource) {
        self.learn(format!("{}/{}", resource.rtype, resource.id));
        let Ok(body) = fhir::json::parse(resource.body.expose(), &ParseLimits::default()) else { return };
        for (system, value) in identifiers(&body) {
            if value.len() >= IDENTIFIER_BYTES_MIN && system != Key::WITHIN_SYSTEM {
                self.learn(value.to_owned());
            }
        }
        if resource.rtype != "Patient" {
            return;
        }
        let names = body.get("name").and_then(Value::as_array).unwrap_or_default();
        let families = names.iter().filter_map(|name| name.get("family").and_then(Value::as_str));
        self.families.extend(families.filter(|family| !family.is_empty()).map(str::to_lowercase));
        if let Some(birth) = body.get("birthDate").and_then(Value::as_str).filter(|date| date.len() == 10) {
            self.births.extend([birth.to_owned(), birth.replace('-', "")]);
        }
    }

    fn learn(&mut self, name: String) {
        if let Some((start, end)) = words(&name).last() {
            self.names.entry(name[start..end].to_owned()).or_default().insert(name);
        }
    }

    /// Whether a text names the patient: by an identifier or a reference to one of its resources, or by family name and
    /// birth date together.
    fn is_named_by(&self, text: &str) -> bool {
        let ends_a_name = |(start, end): (usize, usize)| {
            self.names.get(&text[start..end]).is_some_and(|names| {
                names.iter().any(|name| {
                    // An identifier may hold more than its last word, and must not be a part of a longer one.
                    let before = text[..end].strip_suffix(name.as_str());
                    before.is_some_and(|before| !before.ends_with(|c: char| c.is_alphanumeric()))
                })
            })
        };
        if words(text).any(ends_a_name) {
            return true;
        }
        self.births.iter().any(|birth| text.contains(birth.as_str())) && {
            let text = text.to_lowercase();
            self.families.iter().any(|family| text.contains(family.as_str()))
        }
    }

    /// Any bytes, whatever their delimiters; what is not UTF-8 is looked at as Latin-1 too.
    pub fn is_named_in(&self, bytes: &[u8]) -> bool {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.is_named_by(text),
            Err(_) => {
                self.is_named_by(&String::from_utf8_lossy(bytes))
                    || self.is_named_by(&bytes.iter().map(|byte| char::from(*byte)).collect::<String>())
            }
        }
    }

    /// A body as its entry's content says it is: JSON is looked at without its escapes.
    pub fn is_named_in_entry(&self, entry: &JournalEntry) -> bool {
        let body = entry.body.expose();
        if self.is_named_in(&entry.envelope.to_bytes()) || self.is_named_in(body) {
            return true;
        }
        match &entry.envelope.content {
            Content::Fhir(request) => {
                let target = request.id.as_ref().map(|id| format!("{}/{id}", request.rtype)).unwrap_or_default();
                let value = fhir::json::parse(body, &ParseLimits::default());
                self.is_named_by(&target) || value.is_ok_and(|value| self.is_named_in_json(&value))
            }
            _ => false,
        }
    }

    fn is_named_in_json(&self, value: &Value) -> bool {
        let mut text = String::new();
        gather(value, &mut text);
        self.is_named_by(&text)
    }
}

/// Start and end of each run of letters and digits.
fn words(text: &str) -> impl Iterator<Item = (usize, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + text[at..].find(char::is_alphanumeric)?;
        at = text[start..].find(|c: char| !c.is_alphanumeric()).map_or(text.len(), |length| start + length);
        Some((start, at))
    })
}

/// Every string of a value, one a line.
fn gather(value: &Value, text: &mut String) {
    match value {
        Value::String(word) => {
            text.push_str(word);
            text.push('\n');
        }
        Value::Array(list) => list.iter().for_each(|item| gather(item, text)),
        Value::Object(object) => {
            object.iter().for_each(|(_, item)| gather(item, text));
            // The patch of a PATCH entry stands in base64.
            if let Some(Ok(patch)) = fhir::patch::binary_json(value, &ParseLimits::default()) {
                gather(&patch, text);
            }
        }
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
    /// Versions that name the patient: they are others', and stay as they are.
    pub fn mentions(&self, who: &Who) -> u64 {
        self.versions.iter().filter(|version| who.is_named_in(version.body.as_bytes())).count() as u64
    }

    pub fn is_nothing(&self) -> bool {
        self.versions.is_empty() && self.set_aside.is_empty() && self.raw.is_none()
    }

    /// A line of JSON, and after a line break the bytes, where there are some.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Plain data always serialises.
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        if let Some(raw) = &self.raw {
            bytes.push(b'\n');
            bytes.extend(raw);
        }
        bytes
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Left> {
        let at = bytes.iter().position(|b| *b == b'\n');
        let left: Left = serde_json::from_slice(&bytes[..at.unwrap_or(bytes.len())]).ok()?;
        Some(Left { raw: at.map(|at| bytes[at + 1..].to_vec()), ..left })
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

/// A Bundle whose entries that name the patient are empty, those too that only refer to such an entry within the
/// Bundle. `None` when nothing is left, or it is no Bundle.
pub fn bundle(body: &[u8], who: &Who) -> Option<Vec<u8>> {
    let mut value = fhir::json::parse(body, &ParseLimits::default()).ok()?;
    let mut who = who.clone();
    let entries = value.get_mut("entry")?.as_array_mut()?;
    let mut emptied = vec![false; entries.len()];
    // Each round empties an entry or is the last.
    loop {
        let named = |(n, entry): &(usize, &Value)| !emptied[*n] && who.is_named_in_json(entry);
        let found: Vec<usize> = entries.iter().enumerate().filter(named).map(|(n, _)| n).collect();
        if found.is_empty() {
            break;
        }
        for n in found {
            emptied[n] = true;
            // Within a Bundle entries refer to each other by `fullUrl` (R4 §2.36.4).
            let url = entries[n].get("fullUrl").and_then(Value::as_str).map(str::to_owned);
            url.into_iter().for_each(|url| who.learn(url));
            entries[n] = Value::Object(fhir::json::Object::default());
        }
    }
    let kept = emptied.contains(&false);
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
            ("PID#1##MRN7*H", true),
            ("Observation/p1", false),
            ("https://h/fhir/ehr/Patient/p1/_history/2", true),
            ("OtherPatient/p1", false),
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
        let body = br#"{"resourceType":"Bundle","entry":[{"resource":{"id":"x","v":"MRN8"}},
            {"fullUrl":"urn:uuid:e","resource":{"subject":{"reference":"urn:uuid:p"}}},
            {"resource":{"encounter":{"reference":"urn:uuid:e"},"value":"last seen"}},
            {"fullUrl":"urn:uuid:p","resource":{"identifier":[{"value":"MRN7"}]}}]}"#;
        let left = String::from_utf8(bundle(body, &who()).unwrap()).unwrap();
        assert!(left.contains("MRN8") && !left.contains("last seen") && !left.contains("urn:uuid"), "{left}");
        assert!(bundle(br#"{"resourceType":"Patient","id":"p1"}"#, &who()).is_none());
        // [{"op":"add","path":"/a","value":"MRN7"}]
        let body =
            br#"{"resourceType":"Bundle","entry":[{"resource":{"id":"x","v":"MRN8"}},{"resource":{"resourceType":
            "Binary","contentType":"application/json-patch+json",
            "data":"W3sib3AiOiJhZGQiLCJwYXRoIjoiL2EiLCJ2YWx1ZSI6Ik1STjcifV0="}}]}"#;
        let left = String::from_utf8(bundle(body, &who()).unwrap()).unwrap();
        assert!(left.contains("MRN8") && !left.contains("Binary"), "{left}");
    }

    #[test]
    fn what_is_left_round_trips() {
        let left = Left { raw: Some(b"MSH\rPID".to_vec()), ..Left::default() };
        let again = Left::from_bytes(&left.to_bytes()).unwrap();
        assert_eq!(again.raw.as_deref(), Some(&b"MSH\rPID"[..]));
        assert!(!again.is_nothing() && Left::from_bytes(&Left::default().to_bytes()).unwrap().is_nothing());
    }
}
