//! A message as a person reads it: each field with its name, and two messages side by side, field by field.
//!
//! Without the word that PHI may be seen, a value is shown as its [`shape`]: what it is made of, not what it says.

use std::collections::HashMap;

use crate::dictionary;
use crate::{Message, Segment};

/// Longest value that is shown; a document in OBX-5 would bury the rest.
const SHOWN_CHARS_MAX: usize = 2_000;

/// One field of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// `OBX[2]-5`.
    pub place: String,
    /// As the standard calls it; empty where it does not.
    pub name: &'static str,
    pub kind: &'static str,
    /// The value, or its shape.
    pub shown: String,
}

/// One field that two messages say differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// In the first message where it is there, else in the second.
    pub place: String,
    pub name: &'static str,
    /// Empty where the field or the whole segment is not there.
    pub before: String,
    pub after: String,
}

/// The valued fields of a message in their order. With `phi` their values stand as they came.
pub fn rows(message: &Message<'_>, phi: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    for segment in message.segments() {
        for (n, field) in segment.fields().filter(|(_, field)| !field.is_absent()) {
            let def = dictionary::field(segment.id(), n);
            rows.push(Row {
                place: place(segment, n),
                name: def.map_or("", |def| def.name),
                kind: def.map_or("", |def| def.kind),
                shown: shown(segment.id(), n, field.raw(), phi),
            });
        }
    }
    rows
}

/// Fields that differ, segment by segment: those of the second message that belong to none of the first come last.
pub fn diff(before: &Message<'_>, after: &Message<'_>, phi: bool) -> Vec<Difference> {
    let pairs = pair(before, after);
    let mut taken = vec![false; after.segments().len()];
    let mut out = Vec::new();
    for (segment, other) in before.segments().zip(pairs) {
        let other = other.and_then(|n| {
            taken[n] = true;
            after.segment_at(n)
        });
        compare(Some(segment), other, phi, &mut out);
    }
    for segment in after.segments().filter(|segment| !taken[segment.index()]) {
        compare(None, Some(segment), phi, &mut out);
    }
    out
}

fn compare(before: Option<Segment<'_>>, after: Option<Segment<'_>>, phi: bool, out: &mut Vec<Difference>) {
    let Some(named) = before.or(after) else { return };
    let fields = [before, after].into_iter().flatten().map(Segment::fields_len).max().unwrap_or(0);
    for n in 1..=fields {
        let raw = |segment: Option<Segment<'_>>| segment.map_or(String::new(), |s| s.field(n).raw().to_owned());
        let (a, b) = (raw(before), raw(after));
        if a != b {
            out.push(Difference {
                place: place(named, n),
                name: dictionary::field(named.id(), n).map_or("", |def| def.name),
                before: shown(named.id(), n, &a, phi),
                after: shown(named.id(), n, &b, phi),
            });
        }
    }
}

/// For each segment of the first message the one of the second that is about the same: word for word the same, else
/// the same thing by its own key, else the next that is left of its kind.
fn pair(before: &Message<'_>, after: &Message<'_>) -> Vec<Option<usize>> {
    let mut pairs: Vec<Option<usize>> = vec![None; before.segments().len()];
    let mut taken = vec![false; after.segments().len()];
    let likeness: [fn(Segment<'_>) -> Option<String>; 3] =
        [|s| Some(s.raw().to_owned()), key, |s| Some(s.id().to_owned())];
    for like in likeness {
        let mut open: HashMap<String, std::collections::VecDeque<usize>> = HashMap::new();
        for segment in after.segments().filter(|segment| !taken[segment.index()]) {
            if let Some(key) = like(segment) {
                open.entry(key).or_default().push_back(segment.index());
            }
        }
        for segment in before.segments() {
            let at = segment.index();
            if pairs[at].is_none()
                && let Some(found) = like(segment).and_then(|key| open.get_mut(&key)?.pop_front())
            {
                pairs[at] = Some(found);
                taken[found] = true;
            }
        }
    }
    pairs
}

/// What a repeating segment is about: the field that names it.
fn key(segment: Segment<'_>) -> Option<String> {
    let fields: &[usize] = match segment.id() {
        "OBX" => &[3, 4],
        "OBR" => &[2, 3, 4],
        "ORC" => &[2, 3],
        "AL1" | "DG1" | "PR1" | "IN1" | "NK1" => &[3],
        "RXA" => &[5],
        "SPM" => &[2],
        _ => return None,
    };
    let parts: Vec<&str> = fields.iter().map(|n| segment.field(*n).raw()).collect();
    parts.iter().any(|part| !part.is_empty()).then(|| format!("{}|{}", segment.id(), parts.join("|")))
}

fn place(segment: Segment<'_>, n: usize) -> String {
    match segment.occurrence() {
        1 => format!("{}-{n}", segment.id()),
        nth => format!("{}[{nth}]-{n}", segment.id()),
    }
}

/// A value as it may be shown: whole with `phi`; a code or a counter that says nothing about anybody as it is; else its
/// shape.
fn shown(segment: &str, n: usize, raw: &str, phi: bool) -> String {
    if phi || is_open(segment, n, raw) { cut(raw) } else { shape(raw) }
}

/// What a field holds can be something else than what it is for: a code counts only as one of its table, a counter
/// only as digits.
fn is_open(segment: &str, n: usize, raw: &str) -> bool {
    let Some(def) = dictionary::field(segment, n).filter(|def| def.is_open) else { return false };
    match def.table.and_then(dictionary::table) {
        Some(table) => table.has(raw),
        None if def.kind == "SI" => raw.len() <= 4 && raw.bytes().all(|b| b.is_ascii_digit()),
        None => true,
    }
}

fn cut(raw: &str) -> String {
    match raw.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((at, _)) => format!("{}… ({} characters)", &raw[..at], raw.chars().count()),
        None => raw.to_owned(),
    }
}

/// What a value is made of: runs of letters as `a`, of digits as `9`, delimiters and punctuation as they are. Lengths
/// and letters are gone, and with them what it says.
pub fn shape(raw: &str) -> String {
    let mut out = String::new();
    for c in raw.chars() {
        let c = match c {
            _ if c.is_alphabetic() => 'a',
            _ if c.is_numeric() => '9',
            _ if c.is_whitespace() || c.is_control() => ' ',
            _ => c,
        };
        if !(matches!(c, 'a' | '9' | ' ') && out.ends_with(c)) {
            out.push(c);
        }
        if out.len() >= 120 {
            out.push('…');
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use base::Limits;

    use super::*;

    const ONE: &str = "MSH|^~\\&|REG|GEN|||20260101120000||ADT^A01^ADT_A01|C1|P|2.5.1\rEVN|A01|20260101\r\
        PID|1||M123-4^^^GEN^MR||Doe^Jo||19700203|F\rPV1|1|I|2N^101\r\
        OBX|1|NM|718-7^Hb||14.1|g/dL\rOBX|2|NM|2345-7^Glu||90|mg/dL\r";

    fn read(text: &str) -> crate::OwnedMessage {
        crate::parse(text.as_bytes(), &Limits::default()).unwrap().into_owned()
    }

    #[test]
    fn names_are_told_and_values_are_not() {
        let rows = rows(&read(ONE), false);
        let at = |place: &str| rows.iter().find(|row| row.place == place).unwrap();
        assert_eq!((at("PID-5").name, at("PID-5").shown.as_str()), ("Patient Name", "a^a"));
        assert_eq!(at("PID-3").shown, "a9-9^^^a^a");
        assert_eq!(at("PID-7").shown, "9");
        assert_eq!(at("MSH-9").shown, "ADT^A01^ADT_A01");
        assert_eq!((at("PV1-2").shown.as_str(), at("OBX[2]-1").shown.as_str()), ("I", "2"));
        let all: String = rows.iter().map(|row| row.shown.as_str()).collect();
        for said in ["Doe", "M123", "1970", "14.1", "101"] {
            assert!(!all.contains(said), "{said}");
        }
        assert_eq!(super::rows(&read(ONE), true).iter().find(|r| r.place == "PID-5").unwrap().shown, "Doe^Jo");
    }

    #[test]
    fn what_stands_in_a_field_for_codes_is_shown_only_as_a_code() {
        for (text, shown) in [("I", "I"), ("DOE", "a"), ("I^Doe", "a^a")] {
            let message = read(&format!("MSH|^~\\&|||||||ADT^A01|1|P|2.5\rPV1|1|{text}\rOBX|Doe\r"));
            let rows = rows(&message, false);
            assert_eq!(rows.iter().find(|row| row.place == "PV1-2").unwrap().shown, shown);
            assert_eq!(rows.iter().find(|row| row.place == "OBX-1").unwrap().shown, "a");
        }
    }

    #[test]
    fn fields_are_compared_with_those_of_the_same_thing() {
        let two = ONE
            .replace("OBX|1|NM|718-7^Hb||14.1|g/dL\r", "")
            .replace("OBX|2|NM|2345-7^Glu||90", "OBX|1|NM|2345-7^Glu||95")
            .replace("Doe^Jo", "Doe^Joan")
            + "ZPD|x\r";
        let found = diff(&read(ONE), &read(&two), true);
        let told: Vec<_> = found.iter().map(|d| (d.place.as_str(), d.before.as_str(), d.after.as_str())).collect();
        assert_eq!(
            told,
            [
                ("PID-5", "Doe^Jo", "Doe^Joan"),
                ("OBX-1", "1", ""),
                ("OBX-2", "NM", ""),
                ("OBX-3", "718-7^Hb", ""),
                ("OBX-5", "14.1", ""),
                ("OBX-6", "g/dL", ""),
                ("OBX[2]-1", "2", "1"),
                ("OBX[2]-5", "90", "95"),
                ("ZPD-1", "", "x"),
            ]
        );
        assert!(diff(&read(ONE), &read(ONE), true).is_empty());
        assert!(diff(&read(ONE), &read(&two), false).iter().all(|d| !d.after.contains("Joan")));
    }
}
