//! What of a message departs from the standard: structure by table 0354, required fields, lengths, codes, dates,
//! numbers, character set. For people at the interface desk; refine takes what it can whatever stands here.
//!
//! A finding names a place and a rule and never a value. What the mapping says of a message (`Mapped::problems`) is
//! told beside it.

use std::collections::HashSet;

use hl7v2::time::{DateTime, time_to_fhir};
use hl7v2::{Element, Message, Segment, dictionary, structure_of};

use super::plan::{Structure, plan};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The standard does not allow it.
    Error,
    /// Allowed, and likely not meant.
    Warning,
}

impl Level {
    pub fn code(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warning => "warning",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub level: Level,
    /// `PID-7`, `OBX[2]`, `MSH`.
    pub place: String,
    /// A short stable word for counting.
    pub code: &'static str,
    pub text: String,
}

/// More than these of one message tell nobody anything.
const FINDINGS_MAX: usize = 500;

/// Segments without which a structure is none, beside MSH. Those of a group that may be left out are not here.
const REQUIRED: &[(&str, &str)] = &[
    ("ADT_A01", "EVN PID PV1"),
    ("ADT_A02", "EVN PID PV1"),
    ("ADT_A03", "EVN PID PV1"),
    ("ADT_A05", "EVN PID PV1"),
    ("ADT_A06", "EVN PID PV1"),
    ("ADT_A09", "EVN PID PV1"),
    ("ADT_A12", "EVN PID PV1"),
    ("ADT_A15", "EVN PID PV1"),
    ("ADT_A16", "EVN PID PV1"),
    ("ADT_A17", "EVN PID PV1"),
    ("ADT_A18", "EVN PID MRG PV1"),
    ("ADT_A21", "EVN PID PV1"),
    ("ADT_A24", "EVN PID"),
    ("ADT_A30", "EVN PID MRG"),
    ("ADT_A37", "EVN PID"),
    ("ADT_A38", "EVN PID PV1"),
    ("ADT_A39", "EVN PID MRG"),
    ("ADT_A43", "EVN PID MRG"),
    ("ADT_A44", "EVN PID MRG"),
    ("ADT_A45", "EVN PID MRG PV1"),
    ("ADT_A50", "EVN PID MRG PV1"),
    ("ADT_A52", "EVN PID PV1"),
    ("ADT_A54", "EVN PID PV1"),
    ("ADT_A60", "EVN PID"),
    ("ADT_A61", "EVN PID PV1"),
    ("BAR_P01", "EVN PID"),
    ("BAR_P02", "EVN PID"),
    ("BAR_P05", "EVN PID"),
    ("BAR_P06", "EVN PID"),
    ("BAR_P10", "EVN PID PV1 GP1"),
    ("BAR_P12", "EVN PID"),
    ("DFT_P03", "EVN PID FT1"),
    ("DFT_P11", "EVN PID FT1"),
    ("MDM_T01", "EVN PID PV1 TXA"),
    ("MDM_T02", "EVN PID PV1 TXA OBX"),
    ("OMG_O19", "ORC OBR"),
    ("OML_O21", "ORC"),
    ("ORM_O01", "ORC"),
    ("ORU_R01", "OBR"),
    ("ORU_R30", "PID OBR OBX"),
    ("OUL_R22", "SPM OBR"),
    ("OUL_R23", "SPM OBR"),
    ("OUL_R24", "OBR"),
    ("PPR_PC1", "PID PRB"),
    ("RAS_O17", "ORC RXA RXR"),
    ("RDE_O11", "ORC RXE RXR"),
    ("RDS_O13", "ORC RXD RXR"),
    ("REF_I12", "PRD PID"),
    ("SIU_S12", "SCH RGS"),
    ("VXU_V04", "PID"),
];

/// Everything that departs from the standard, in the order of the message.
pub fn lint(message: &Message<'_>) -> Vec<Finding> {
    let mut lint = Lint { message, found: Vec::new(), version: message.version() };
    lint.header();
    lint.structure();
    for segment in message.segments() {
        lint.segment(segment);
    }
    lint.found.truncate(FINDINGS_MAX);
    lint.found
}

struct Lint<'m> {
    message: &'m Message<'m>,
    found: Vec<Finding>,
    version: String,
}

fn place_of(segment: Segment<'_>) -> String {
    match segment.occurrence() {
        1 => segment.id().to_owned(),
        nth => format!("{}[{nth}]", segment.id()),
    }
}

impl Lint<'_> {
    fn say(&mut self, level: Level, place: impl Into<String>, code: &'static str, text: impl Into<String>) {
        if self.found.len() < FINDINGS_MAX {
            self.found.push(Finding { level, place: place.into(), code, text: text.into() });
        }
    }

    fn header(&mut self) {
        let faults = self.message.check_header().into_iter().chain(self.message.deviations().iter().cloned());
        for fault in faults {
            let place = match (fault.segment.is_empty(), fault.field) {
                (true, _) => "message".to_owned(),
                (false, 0) => fault.segment.clone(),
                (false, n) => format!("{}-{n}", fault.segment),
            };
            self.say(Level::Error, place, "header", fault.reason);
        }
        let charset = *self.message.charset();
        let has_wide = !self.message.as_text().is_ascii();
        if charset.contradicted {
            let text = format!("the bytes are not in the declared character set: read as {}", charset.name());
            self.say(Level::Error, "MSH-18", "charset", text);
        } else if has_wide && !charset.declared {
            let text = format!("characters beyond ASCII and no set declared: read as {}", charset.name());
            self.say(Level::Warning, "MSH-18", "charset", text);
        }
        if charset.replaced {
            self.say(Level::Error, "MSH-18", "charset", "some bytes mean nothing in the character set");
        }
        let info = self.message.info();
        if let Some(trigger) = self.message.get("EVN-1")
            && !info.trigger.is_empty()
            && trigger.trim() != info.trigger
        {
            self.say(Level::Warning, "EVN-1", "event", "another event than MSH-9.2 says; MSH-9.2 counts");
        }
    }

    fn structure(&mut self) {
        let info = self.message.info();
        let standard = structure_of(&info.code, &info.trigger, &info.version);
        match standard {
            Some(name) if !info.structure.is_empty() && info.structure != name => {
                self.say(Level::Warning, "MSH-9.3", "structure", format!("table 0354 gives this event {name}"));
            }
            None if info.code != "ACK" => {
                self.say(Level::Warning, "MSH-9", "structure", "no structure is known for this type and event");
            }
            _ => {}
        }
        let by_trigger = format!("{}_{}", info.code, info.trigger);
        let messages = &plan().messages;
        let known = messages.get(by_trigger.as_str()).or_else(|| messages.get(standard.unwrap_or_default()));
        let Some(structure) = known else { return };
        let name = standard.unwrap_or(structure.name);
        self.order(structure, name);
        let there: HashSet<&str> = self.message.segments().map(Segment::id).collect();
        let required = REQUIRED.iter().find(|(of, _)| *of == name).map_or("", |(_, ids)| ids);
        let missing: Vec<&str> = required.split(' ').filter(|id| !id.is_empty() && !there.contains(id)).collect();
        for id in missing {
            self.say(Level::Error, id, "segment-missing", format!("{name} has this segment always"));
        }
    }

    /// Every segment at a place that the structure has for it.
    fn order(&mut self, structure: &'static Structure, name: &str) {
        let (message, mut at) = (self.message, None);
        for segment in message.segments().filter(|s| s.is_segment() && !s.id().starts_with('Z')) {
            // May stand anywhere: comments, continuation, software.
            if matches!(segment.id(), "NTE" | "ADD" | "DSC" | "SFT" | "UAC") {
                continue;
            }
            let (place, id) = (place_of(segment), segment.id());
            match (structure.next_in_order(at, id), structure.first(id)) {
                (Some((found, _)), _) => at = Some(found),
                (None, None) if super::plan::knows_segment(id) || dictionary::segment(id).is_some() => {
                    self.say(Level::Warning, place, "segment-unexpected", format!("{name} has no such segment"));
                }
                (None, None) => self.say(Level::Error, place, "segment-unknown", "no segment of the standard"),
                (None, Some(first)) if structure.places[first].segment == id && at == Some(first) => {
                    self.say(Level::Error, place, "segment-repeats", format!("{name} has this segment once here"));
                }
                (None, Some(_)) => {
                    self.say(
                        Level::Error,
                        place,
                        "segment-order",
                        format!("{name} does not have it after the one before"),
                    );
                }
            }
        }
    }

    fn segment(&mut self, segment: Segment<'_>) {
        let Some(def) = dictionary::segment(segment.id()) else { return };
        let place = place_of(segment);
        for (n, field) in (1..).zip(&def.fields) {
            let element = segment.field(n);
            if field.is_required && !element.is_value() && !matches!((segment.id(), n), ("MSH", _)) {
                self.say(Level::Error, format!("{place}-{n}"), "required", format!("{} is required", field.name));
            }
        }
        for (n, element) in segment.fields().filter(|(_, element)| element.is_value()) {
            match def.fields.get(n - 1) {
                Some(field) => self.field(&place, segment, n, field, element),
                None if def.is_complete => {
                    let text = format!("{} has no field {n}", segment.id());
                    self.say(Level::Warning, format!("{place}-{n}"), "field-unknown", text);
                }
                None => {}
            }
        }
        if segment.id() == "OBX" {
            let status = segment.field(11).value().unwrap_or_default();
            if segment.field(5).is_value() && !segment.field(2).is_value() {
                self.say(Level::Error, format!("{place}-2"), "required", "a value without its type");
            }
            // v2.8.2 §7.4.2.5: no value may come where the result is not there yet, or is taken back.
            if !segment.field(5).is_value() && !matches!(&*status, "X" | "I" | "N" | "O" | "D" | "W") {
                self.say(Level::Warning, format!("{place}-5"), "value-missing", "a result without a value");
            }
        }
    }

    fn field(
        &mut self,
        place: &str,
        segment: Segment<'_>,
        n: usize,
        def: &'static dictionary::FieldDef,
        element: Element<'_>,
    ) {
        if segment.id() == "MSH" && n <= 2 {
            return;
        }
        let whole = format!("{place}-{n}");
        let count = element.repetitions().count();
        if count > 1 && !def.repeats {
            self.say(Level::Warning, whole.clone(), "repeats", format!("{} does not repeat", def.name));
        }
        for (nth, repetition) in (1..).zip(element.repetitions()) {
            let at = if count > 1 { format!("{whole}({nth})") } else { whole.clone() };
            if let Some(max) = def.length_max.filter(|_| self.has_lengths()) {
                let length = repetition.raw().chars().count();
                if length > max {
                    let text = format!("{length} characters, the standard bounds {} at {max}", def.name);
                    self.say(Level::Warning, at.clone(), "length", text);
                }
            }
            let kind = match (segment.id(), n) {
                ("OBX", 5) => segment.field(2).value().map(|kind| kind.into_owned()).unwrap_or_default(),
                _ => def.kind.to_owned(),
            };
            self.value(&at, &kind, repetition);
            self.code(&at, def, repetition);
        }
    }

    /// v2.7 took the lengths of fields back, but for a few simple types.
    fn has_lengths(&self) -> bool {
        matches!(self.version.as_str(), "2.1" | "2.2" | "2.3" | "2.3.1" | "2.3.2" | "2.4" | "2.5" | "2.5.1" | "2.6")
    }

    fn value(&mut self, place: &str, kind: &str, element: Element<'_>) {
        let Some(text) = element.first().value().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
        else {
            return;
        };
        let fault = match kind {
            "DTM" | "TS" | "DT" => DateTime::parse(&text).err(),
            "TM" => time_to_fhir(&text).err(),
            _ => None,
        };
        if let Some(fault) = fault {
            return self.say(Level::Error, place, "date", fault.to_string());
        }
        // v2.8.2 §2.A.47: an optional sign, digits, an optional point.
        let is_number = |text: &str| {
            let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
            digits.bytes().any(|b| b.is_ascii_digit())
                && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.')
                && digits.bytes().filter(|b| *b == b'.').count() <= 1
        };
        match kind {
            "NM" if !is_number(&text) => self.say(Level::Error, place, "number", "not a number"),
            "SI" if !text.bytes().all(|b| b.is_ascii_digit()) => {
                self.say(Level::Error, place, "number", "not a sequence number");
            }
            _ => {}
        }
    }

    fn code(&mut self, place: &str, def: &dictionary::FieldDef, element: Element<'_>) {
        let Some((number, table)) = def.table.and_then(|number| Some((number, dictionary::table(number)?))) else {
            return;
        };
        let Some(code) = element.first().value() else { return };
        if !table.has(code.trim()) {
            let (level, whose) = match table.is_user_defined {
                true => (Level::Warning, "not among the suggested codes of"),
                false => (Level::Error, "not in"),
            };
            self.say(level, place, "code", format!("a code that is {whose} table {number}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use base::Limits;

    use super::*;

    const GOOD: &str = "MSH|^~\\&|REG|GEN|||20260101120000||ADT^A01^ADT_A01|C1|P|2.5.1\rEVN|A01|20260101\r\
        PID|1||M1^^^GEN^MR||Doe^Jo||19700203|F\rPV1|1|I|2N^101\r";

    fn told(text: &str) -> Vec<String> {
        let message = hl7v2::parse(text.as_bytes(), &Limits::default()).unwrap();
        lint(&message).into_iter().map(|f| format!("{} {} {}", f.level.code(), f.place, f.code)).collect()
    }

    #[test]
    fn what_is_well_is_silent_and_what_is_not_is_named_by_its_place() {
        assert_eq!(told(GOOD), Vec::<String>::new());
        for (change, to, expected) in [
            ("^ADT_A01", "^ADT_A05", &["warning MSH-9.3 structure"][..]),
            ("EVN|A01", "EVN|A04", &["warning EVN-1 event"]),
            ("PV1|1|I|2N^101\r", "", &["error PV1 segment-missing"]),
            ("PID|1||M1^^^GEN^MR|", "PID|1|||", &["error PID-3 required"]),
            ("19700203", "19701303", &["error PID-7 date"]),
            ("|F\r", "|Q\r", &["warning PID-8 code"]),
            ("PID|1|", "PID|x|", &["error PID-1 number"]),
            ("Doe^Jo|", "Doe^Jo~Roe|", &[]),
            ("19700203", "19700203~19700204", &["warning PID-7 repeats"]),
            ("Doe^Jo", "D\u{f6}e^Jo", &["warning MSH-18 charset"]),
            ("PV1|1|I|2N^101\r", "PV1|1|I\rPID|1||M2||X\r", &["error PID[2] segment-order"]),
            ("PV1|1|I|2N^101\r", "PV1|1|I\rPV1|2|I\r", &["error PV1[2] segment-repeats"]),
            (
                "PV1|1|I|2N^101\r",
                "PV1|1|I\rTXA|1|CN||||||||||D\rXYZ|1\rZPD|1\r",
                &["warning TXA segment-unexpected", "error XYZ segment-unknown", "error TXA-17 required"],
            ),
            (
                "PV1|1|I|2N^101\r",
                "PV1|1|I\rOBX|1|NM|718-7^Hb||12,5||||||Q\r",
                &["error OBX-5 number", "error OBX-11 code"],
            ),
            (
                "PV1|1|I|2N^101\r",
                "PV1|1|I\rOBX|1||718-7^Hb||12||||||F\rOBX|2|ST|1^x|||||||F\r",
                &["error OBX-2 required", "error OBX[2]-11 required", "warning OBX[2]-5 value-missing"],
            ),
        ] {
            let text = GOOD.replace(change, to);
            assert_eq!(told(&text), expected, "{to}");
        }
    }

    #[test]
    fn lengths_bind_the_versions_that_had_them() {
        let long = GOOD.replace("|C1|", &format!("|{}|", "C".repeat(30)));
        assert_eq!(told(&long), ["warning MSH-10 length"]);
        assert!(told(&long.replace("|2.5.1", "|2.8")).is_empty());
    }

    #[test]
    fn findings_hold_no_value_and_have_a_limit() {
        let many = format!("{GOOD}{}", "OBX|x|NM|Secret||Secret||||||Secret\r".repeat(400));
        let message = hl7v2::parse(many.as_bytes(), &Limits::default()).unwrap();
        let found = lint(&message);
        assert_eq!(found.len(), FINDINGS_MAX);
        assert!(found.iter().all(|f| !f.text.contains("Secret") && !f.place.contains("Secret")));
    }
}
