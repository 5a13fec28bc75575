//! Data types of HL7 v2 to data types of FHIR (v2-to-FHIR guide, datatype maps): one function each, of one repetition.
//! A component that is null or absent says nothing; what cannot be read is a [`Fault`], never a guess.

use std::collections::BTreeMap;

use fhir::json;
use fhir::json::{Object, Value};
use hl7v2::Element;
use hl7v2::time::{DateTime, TimeError};

use super::Sender;
use super::plan::vocabulary as codes;
use super::value::Units;
use super::vocabulary::{self, Codes, Vocabulary, coding_system};

/// Why a value could not be used: a short word for counting, and a sentence. Holds no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub code: &'static str,
    pub text: &'static str,
}

pub fn fault(code: &'static str, text: &'static str) -> Fault {
    Fault { code, text }
}

impl From<TimeError> for Fault {
    fn from(error: TimeError) -> Self {
        let text = match error {
            TimeError::Shape => "not a date or time of HL7 v2: send YYYYMMDDHHMMSS+ZZZZ or a shorter form of it",
            TimeError::NoSuchDate => "a date that does not exist",
            TimeError::NoSuchTime => "a time of day that does not exist",
            TimeError::NoSuchOffset => "an offset from UTC that does not exist",
        };
        fault("time-invalid", text)
    }
}

/// What a converter says of a field: a value, nothing at all, or that the element must go.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    Value(Value),
    Nothing,
    Remove,
}

type Converted = Result<Said, Fault>;

fn some(value: Option<Value>) -> Converted {
    Ok(value.map_or(Said::Nothing, Said::Value))
}

/// What every converter may need to know.
pub struct Context<'a> {
    pub sender: &'a Sender<'a>,
    /// System for identifiers that name no assigner: of the sending facility.
    pub facility: String,
}

/// The text of the first leaf, trimmed; nothing for absent, null and blank.
pub fn leaf(element: Element<'_>) -> Option<String> {
    element.first().value().map(|t| t.trim().to_owned()).filter(|t| !t.is_empty())
}

/// A component's whole text, trimmed.
pub fn whole(element: Element<'_>) -> Option<String> {
    element.value().map(|t| t.trim().to_owned()).filter(|t| !t.is_empty())
}

/// An object of the members that are there.
pub fn object<const N: usize>(members: [(&'static str, Option<Value>); N]) -> Option<Value> {
    let object: Object = members.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    (!object.is_empty()).then_some(Value::Object(object))
}

fn list(values: Vec<Value>) -> Option<Value> {
    (!values.is_empty()).then_some(Value::Array(values))
}

fn text(value: Option<String>) -> Option<Value> {
    value.map(Value::from)
}

/// Percent-encoded for use in a URN.
pub fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

pub fn coding(system: &str, code: &str, display: Option<&str>) -> Value {
    let mut object = Object::new();
    object.push("system", system);
    object.push("code", code);
    if let Some(display) = display {
        object.push("display", display);
    }
    Value::Object(object)
}

pub fn extension(url: &str, member: &'static str, value: Value) -> Value {
    json!({"url": url, (member): value})
}

/// The system URI of an assigner given as HD parts. A universal id that is an OID or a UUID is one by itself.
pub fn system(
    namespace: Option<&str>,
    universal: Option<&str>,
    kind: Option<&str>,
    assigners: &BTreeMap<String, String>,
) -> Option<String> {
    let configured = [namespace, universal].into_iter().flatten().find_map(|name| assigners.get(name));
    if let Some(system) = configured {
        return Some(system.clone());
    }
    // A URI has no white space (R4 §2.24.0.1).
    if let Some(universal) = universal.filter(|text| !text.contains(char::is_whitespace)) {
        let is_oid = universal.starts_with(['0', '1', '2'])
            && universal.contains('.')
            && universal.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        match kind {
            None | Some("ISO") if is_oid => return Some(format!("urn:oid:{universal}")),
            Some("UUID" | "GUID") => return Some(format!("urn:uuid:{}", universal.to_lowercase())),
            Some("URI") => return Some(universal.to_owned()),
            _ => {}
        }
    }
    namespace.or(universal).map(|name| format!("urn:wardmesh:assigner:{}", percent(name)))
}

impl Context<'_> {
    fn system(&self, namespace: Option<&str>, universal: Option<&str>, kind: Option<&str>) -> Option<String> {
        system(namespace, universal, kind, self.sender.assigners)
    }

    /// Of an HD that is one component: its subcomponents are the parts.
    fn hd_system(&self, hd: Element<'_>) -> Option<String> {
        let part = |n| whole(hd.subcomponent(n));
        self.system(part(1).as_deref(), part(2).as_deref(), part(3).as_deref())
    }

    /// CX: id, check digit, scheme, assigning authority, type, facility, from, to.
    pub fn identifier(&self, cx: Element<'_>, default_type: &str) -> Option<Value> {
        let value = leaf(cx.component(1))?;
        let kind = leaf(cx.component(5)).or_else(|| Some(default_type.to_owned()).filter(|t| !t.is_empty()));
        let system = self.hd_system(cx.component(4)).unwrap_or_else(|| self.facility.clone());
        object([
            ("type", kind.map(|k| identifier_type(&k))),
            ("system", Some(Value::from(system))),
            ("value", Some(Value::from(value))),
            ("period", self.period(cx.component(7), cx.component(8))),
        ])
    }

    /// EI of an order: id, namespace, universal id and its type. Placer and filler numbers of assigners without a
    /// universal id are kept apart.
    pub fn order_number(&self, ei: Element<'_>, role: &'static str) -> Option<Value> {
        self.entity(&|n| leaf(ei.component(n)), role)
    }

    /// An EI by its parts, which are components or, within an EIP, subcomponents.
    fn entity(&self, part: &dyn Fn(usize) -> Option<String>, role: &'static str) -> Option<Value> {
        let value = part(1)?;
        let own = self.system(part(2).as_deref(), part(3).as_deref(), part(4).as_deref());
        let system = own.unwrap_or_else(|| self.facility.clone());
        let system = match system.starts_with("urn:wardmesh:") && !role.is_empty() {
            true => format!("{system}:{}", role.to_lowercase()),
            false => system,
        };
        object([
            ("type", (!role.is_empty()).then(|| identifier_type(role))),
            ("system", Some(Value::from(system))),
            ("value", Some(Value::from(value))),
        ])
    }

    /// XPN, and XCN from its second component on: `shift` is 0 or 1.
    pub fn human_name(&self, name: Element<'_>, shift: usize) -> Option<Value> {
        let part = |n: usize| leaf(name.component(n + shift));
        let given: Vec<Value> = [part(2), part(3)].into_iter().flatten().map(Value::from).collect();
        let suffix: Vec<Value> = [part(4), part(6)].into_iter().flatten().map(Value::from).collect();
        let family = part(1);
        if family.is_none() && given.is_empty() {
            return None;
        }
        let kind = if shift == 0 { part(7) } else { None };
        let use_ = kind.and_then(|k| codes("NameType").code(&k));
        let period = if shift == 0 { self.period(name.component(12), name.component(13)) } else { None };
        object([
            ("use", use_.map(Value::from)),
            ("family", text(family)),
            ("given", list(given)),
            ("prefix", part(5).map(|p| Value::Array(vec![Value::from(p)]))),
            ("suffix", list(suffix)),
            ("period", period),
        ])
    }

    /// A name in one line, for `display`.
    fn display_name(&self, name: Element<'_>, shift: usize) -> Option<String> {
        let part = |n: usize| leaf(name.component(n + shift));
        let words: Vec<String> = [part(5), part(2), part(3), part(1), part(4), part(6)].into_iter().flatten().collect();
        (!words.is_empty()).then(|| words.join(" "))
    }

    /// XCN as a logical reference (R4 §2.3.0.2): who it is by number and name, without a resource of its own.
    pub fn practitioner(&self, xcn: Element<'_>) -> Option<Value> {
        let number = leaf(xcn.component(1));
        let identifier = number.and_then(|value| {
            let system = self.hd_system(xcn.component(9)).unwrap_or_else(|| self.facility.clone());
            object([
                ("type", leaf(xcn.component(13)).map(|k| identifier_type(&k))),
                ("system", Some(Value::from(system))),
                ("value", Some(Value::from(value))),
            ])
        });
        let display = self.display_name(xcn, 1);
        reference("Practitioner", identifier, display)
    }

    /// NDL, whose first component is a CNN of subcomponents: number, family, given, middle, suffix, prefix, degree.
    pub fn named_person(&self, ndl: Element<'_>) -> Option<Value> {
        let person = ndl.component(1);
        let part = |n| whole(person.subcomponent(n));
        let identifier = part(1).and_then(|value| {
            object([("system", Some(Value::from(self.facility.clone()))), ("value", Some(Value::from(value)))])
        });
        let words: Vec<String> = [part(6), part(3), part(4), part(2), part(5), part(7)].into_iter().flatten().collect();
        reference("Practitioner", identifier, (!words.is_empty()).then(|| words.join(" ")))
    }

    /// XON: name, then the number in component 10 (3 before v2.7).
    pub fn organization(&self, xon: Element<'_>) -> Option<Value> {
        let number = leaf(xon.component(10)).or_else(|| leaf(xon.component(3)));
        let identifier = number.and_then(|value| {
            let system = self.hd_system(xon.component(6)).unwrap_or_else(|| self.facility.clone());
            object([
                ("type", leaf(xon.component(7)).map(|k| identifier_type(&k))),
                ("system", Some(Value::from(system))),
                ("value", Some(Value::from(value))),
            ])
        });
        reference("Organization", identifier, leaf(xon.component(1)))
    }

    /// CWE of an organization: code and name.
    pub fn coded_organization(&self, cwe: Element<'_>) -> Option<Value> {
        let system = leaf(cwe.component(3)).map_or_else(|| self.facility.clone(), |name| coding_system(&name));
        let identifier = leaf(cwe.component(1))
            .and_then(|value| object([("system", Some(Value::from(system))), ("value", Some(Value::from(value)))]));
        reference("Organization", identifier, leaf(cwe.component(2)))
    }

    /// PL as a logical reference: point of care, room, bed, facility, building, floor. The identifier is the place's
    /// parts joined, so that the same place is the same text.
    pub fn place(&self, pl: Element<'_>) -> Option<Value> {
        let part = |n| leaf(pl.component(n));
        let (care, room, bed, facility) = (part(1), part(2), part(3), part(4));
        let (building, floor) = (part(7), part(8));
        let parts = [&care, &room, &bed, &facility, &building, &floor];
        if parts.iter().all(|p| p.is_none()) {
            return None;
        }
        let key = parts.map(|p| p.as_deref().unwrap_or_default().replace('|', " ")).join("|");
        let identifier = json!({"system": (self.place_system()), "value": (key.trim_end_matches('|'))});
        let mut words: Vec<String> = care.into_iter().collect();
        for (label, part) in
            [("room ", room), ("bed ", bed), ("", facility), ("building ", building), ("floor ", floor)]
        {
            words.extend(part.map(|p| format!("{label}{p}")));
        }
        reference("Location", Some(identifier), Some(words.join(", ")))
    }

    /// DLD: the code of where to, and since when.
    pub fn discharged_to(&self, dld: Element<'_>) -> Option<Value> {
        let code = dld.component(1);
        let display = whole(code.subcomponent(2)).or_else(|| whole(code.subcomponent(1)));
        reference("Location", None, display)
    }

    fn place_system(&self) -> String {
        let name = self.facility.rsplit(':').next().unwrap_or(&self.facility);
        format!("urn:wardmesh:place:{}", percent(name))
    }

    /// XAD. `county` is PID-12, for a sole address that names none.
    pub fn address(&self, xad: Element<'_>, county: Option<String>) -> Option<Value> {
        let part = |n| leaf(xad.component(n));
        let street = xad.component(1);
        let mut first = whole(street.subcomponent(1));
        // SAD-2 and SAD-3 repeat street name and number; some senders put half of the line there.
        for n in [2, 3] {
            if let Some(more) = whole(street.subcomponent(n)) {
                first = Some(match first {
                    Some(line) if line.contains(&more) => line,
                    Some(line) => format!("{line} {more}"),
                    None => more,
                });
            }
        }
        let lines: Vec<Value> = [first, part(2)].into_iter().flatten().map(Value::from).collect();
        let kind = part(7);
        let of = |name: &str| kind.as_deref().and_then(|k| codes(name).code(k)).map(Value::from);
        let district = part(9).or(county);
        let anything = !lines.is_empty() || [3, 4, 5, 6].into_iter().any(|n| part(n).is_some()) || district.is_some();
        if !anything {
            return None;
        }
        object([
            ("use", of("AddressType[Use]")),
            ("type", of("AddressType[Type]")),
            ("line", list(lines)),
            ("city", text(part(3))),
            ("district", text(district)),
            ("state", text(part(4))),
            ("postalCode", text(part(5))),
            ("country", text(part(6))),
            ("period", self.period(xad.component(13), xad.component(14))),
        ])
    }

    /// XTN: number as text, use, equipment, e-mail, and the number in parts.
    pub fn contact_point(&self, xtn: Element<'_>, default_use: Option<&'static str>) -> Option<Value> {
        let part = |n| leaf(xtn.component(n));
        let equipment = part(3);
        let mut system = equipment.as_deref().and_then(|e| codes("TelecommunicationEquipmentType").code(e));
        let number = part(1).or_else(|| part(12)).or_else(|| self.number_of_parts(xtn));
        let value = match (system, part(4)) {
            (Some("email") | None, Some(address)) if number.is_none() || address.contains('@') => {
                system = Some("email");
                address
            }
            _ => {
                // Said to be an address of the internet, but a number was sent: then it is a number.
                system = system.filter(|s| *s != "email").or(Some("phone"));
                number?
            }
        };
        let used = match part(2) {
            Some(code) => codes("TelecommunicationUseCode").code(&code).or(default_use),
            None if equipment.as_deref() == Some("CP") => Some("mobile"),
            None => default_use,
        };
        object([
            ("system", system.map(Value::from)),
            ("value", Some(Value::from(value))),
            ("use", used.map(Value::from)),
            ("period", self.period(xtn.component(13), xtn.component(14))),
        ])
    }

    fn number_of_parts(&self, xtn: Element<'_>) -> Option<String> {
        let part = |n| leaf(xtn.component(n));
        let local = part(7)?;
        let mut number = String::new();
        if let Some(country) = part(5) {
            number.push_str(&format!("+{} ", country.trim_start_matches('+')));
        }
        if let Some(area) = part(6) {
            number.push_str(&format!("({area}) "));
        }
        number.push_str(&local);
        if let Some(extension) = part(8) {
            number.push_str(&format!(" ext. {extension}"));
        }
        Some(number)
    }

    /// A part of an EIP: the subcomponents are those of an EI. Senders of an EI where an EIP is meant have the number in
    /// the first part.
    pub fn entity_part(&self, eip: Element<'_>, n: usize, role: &'static str) -> Option<Value> {
        self.entity(&|k| whole(eip.component(n).subcomponent(k)), role)
    }

    /// A number in plain text, of the facility.
    pub fn bare_number(&self, st: Element<'_>, kind: &str) -> Option<Value> {
        let value = leaf(st)?;
        let system = if kind.is_empty() { self.facility.clone() } else { format!("{}:{kind}", self.facility) };
        object([("system", Some(Value::from(system))), ("value", Some(Value::from(value)))])
    }

    /// CWE: the code is the number, its system the one of the codes.
    pub fn coded_number(&self, cwe: Element<'_>) -> Option<Value> {
        let system = leaf(cwe.component(3)).map_or_else(|| self.facility.clone(), |name| coding_system(&name));
        let value = leaf(cwe.component(1))?;
        object([("system", Some(Value::from(system))), ("value", Some(Value::from(value)))])
    }

    /// XPN in one line.
    pub fn name_text(&self, xpn: Element<'_>) -> Option<String> {
        self.display_name(xpn, 0)
    }

    pub fn raw_code(&self, element: Element<'_>) -> Option<String> {
        leaf(element).map(code_text)
    }

    /// A concept whose parts are subcomponents: code, text, system.
    pub fn inner_concept(&self, part: Element<'_>) -> Option<Value> {
        let at = |n| whole(part.subcomponent(n));
        let (code, display) = (at(1), at(2));
        let system = at(3).map(|name| coding_system(&name));
        let said = display.clone().or_else(|| code.clone());
        let coding = code.and_then(|code| {
            object([("system", text(system)), ("code", text(Some(code_text(code)))), ("display", text(display))])
        });
        object([("coding", list(coding.into_iter().collect())), ("text", text(said))])
    }

    /// CWE in words, all repetitions in lines: original text, else name, else code.
    pub fn words(&self, field: Element<'_>) -> Option<String> {
        let said = |r: Element<'_>| [9, 2, 1].into_iter().find_map(|n| whole(r.component(n)));
        let lines: Vec<String> = field.repetitions().filter_map(said).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    /// All repetitions in lines.
    pub fn lines(&self, field: Element<'_>) -> Option<String> {
        let lines: Vec<String> = field.repetitions().filter_map(whole).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    pub fn decimal(&self, element: Element<'_>) -> Converted {
        let Some(sent) = leaf(element) else { return Ok(Said::Nothing) };
        match super::value::number(&sent) {
            Some(number) => Ok(Said::Value(Value::Number(number))),
            None => Err(fault("number-invalid", "not a number: kept in the journal, not mapped")),
        }
    }

    /// NM with its unit.
    pub fn amount(&self, element: Element<'_>, units: &Units) -> Converted {
        let Some(sent) = leaf(element) else { return Ok(Said::Nothing) };
        match super::value::number(&sent) {
            Some(number) => Ok(Said::Value(units.quantity(number, None))),
            None => Err(fault("number-invalid", "not a number: kept in the journal, not mapped")),
        }
    }

    /// CQ: number, and the unit in the second component.
    pub fn quantity(&self, cq: Element<'_>) -> Converted {
        self.amount(cq.component(1), &Units::inner(self, cq.component(2)))
    }

    pub fn time(&self, element: Element<'_>) -> Converted {
        let Some(sent) = leaf(element) else { return Ok(Said::Nothing) };
        Ok(Said::Value(Value::from(hl7v2::time::time_to_fhir(&sent)?.0)))
    }

    /// CWE, CE, CNE, IS, ID, ST: the sender's codings as they came, and beside them the one of the vocabulary.
    pub fn concept(&self, cwe: Element<'_>, vocabulary: &Vocabulary) -> Option<Value> {
        let mut codings = Vec::new();
        for n in [1, 4] {
            codings.extend(self.coding_at(cwe, n, vocabulary));
        }
        if let Some(mapped) = codings_of_vocabulary(leaf(cwe.component(1)).as_deref(), vocabulary) {
            let same = |c: &Value| ["system", "code"].iter().all(|part| c.get(part) == mapped.get(part));
            if !codings.iter().any(same) {
                codings.push(mapped);
            }
        }
        let said = leaf(cwe.component(9)).or_else(|| leaf(cwe.component(2)));
        let said = said.or_else(|| leaf(cwe.component(1)).filter(|_| codings.is_empty() || !has_system(&codings)));
        object([("coding", list(codings)), ("text", text(said))])
    }

    fn coding_at(&self, cwe: Element<'_>, at: usize, vocabulary: &Vocabulary) -> Option<Value> {
        let code = leaf(cwe.component(at));
        let display = leaf(cwe.component(at + 1));
        let named = leaf(cwe.component(at + 2));
        let known = code.as_deref().is_some_and(|c| vocabulary.find(c).is_some());
        let table = (at == 1 && named.is_none() && known && !vocabulary.table.is_empty()).then_some(vocabulary.table);
        let system = match (named, table) {
            (Some(name), _) => Some(coding_system(&name)),
            (None, Some(table)) => Some(format!("http://terminology.hl7.org/CodeSystem/v2-{table}")),
            (None, None) => None,
        };
        code.as_ref()?;
        object([("system", text(system)), ("code", text(code.map(code_text))), ("display", text(display))])
    }

    /// A single Coding: the vocabulary's if it has one, else the sender's.
    pub fn one_coding(&self, cwe: Element<'_>, vocabulary: &Vocabulary) -> Option<Value> {
        let code = leaf(cwe.component(1));
        codings_of_vocabulary(code.as_deref(), vocabulary).or_else(|| self.coding_at(cwe, 1, vocabulary))
    }

    pub fn period(&self, from: Element<'_>, to: Element<'_>) -> Option<Value> {
        let time = |e| leaf(e).and_then(|t| DateTime::parse(&t).ok()).map(|t| t.to_date_time(self.sender.utc_offset));
        object([("start", text(time(from))), ("end", text(time(to)))])
    }

    pub fn date(&self, ts: Element<'_>) -> Converted {
        let Some(sent) = leaf(ts) else { return Ok(Said::Nothing) };
        Ok(Said::Value(Value::from(DateTime::parse(&sent)?.to_date())))
    }

    pub fn date_time(&self, ts: Element<'_>) -> Converted {
        let Some(sent) = leaf(ts) else { return Ok(Said::Nothing) };
        Ok(Said::Value(Value::from(DateTime::parse(&sent)?.to_date_time(self.sender.utc_offset))))
    }

    pub fn instant(&self, ts: Element<'_>) -> Converted {
        let Some(sent) = leaf(ts) else { return Ok(Said::Nothing) };
        let time = DateTime::parse(&sent)?;
        // An instant needs seconds; a minute is told as its first second, anything coarser is not an instant.
        let exact = time.precision >= hl7v2::time::Precision::Minute;
        let offset = time.offset.or(self.sender.utc_offset);
        some((exact && offset.is_some()).then(|| Value::from(time.to_date_time(offset))))
    }

    /// The time of day of a birth, for the extension beside `birthDate`.
    pub fn birth_time(&self, ts: Element<'_>) -> Converted {
        // A date that cannot be read is told where it becomes `birthDate`.
        let Some(time) = leaf(ts).and_then(|t| DateTime::parse(&t).ok()) else { return Ok(Said::Nothing) };
        let told = time.to_date_time(self.sender.utc_offset);
        if !told.contains('T') {
            return Ok(Said::Remove);
        }
        let url = "http://hl7.org/fhir/StructureDefinition/patient-birthTime";
        Ok(Said::Value(json!([(extension(url, "valueDateTime", Value::from(told)))])))
    }

    pub fn required_code(&self, element: Element<'_>, vocabulary: &Vocabulary) -> Converted {
        let Some(sent) = leaf(element) else { return Ok(Said::Nothing) };
        match vocabulary.code(&sent) {
            Some(code) => Ok(Said::Value(Value::from(code))),
            None => {
                Err(fault("code-unknown", "a code that its HL7 table does not have: kept in the journal, not mapped"))
            }
        }
    }

    pub fn boolean(&self, element: Element<'_>) -> Converted {
        let Some(sent) = leaf(element) else { return Ok(Said::Nothing) };
        match codes("YesNoIndicator").code(&sent) {
            Some(answer) => Ok(Said::Value(Value::Bool(answer == "true"))),
            None => Err(fault("code-unknown", "neither Y nor N: kept in the journal, not mapped")),
        }
    }

    pub fn integer(&self, element: Element<'_>) -> Converted {
        let Some(sent) = leaf(element) else { return Ok(Said::Nothing) };
        match sent.parse::<i32>() {
            Ok(number) if number >= 0 => Ok(Said::Value(Value::from(number))),
            _ => Err(fault("number-invalid", "not a whole number: kept in the journal, not mapped")),
        }
    }

    /// DLN: number, issuing state, expiry.
    pub fn driver_licence(&self, dln: Element<'_>) -> Option<Value> {
        let value = leaf(dln.component(1))?;
        let system = leaf(dln.component(2)).map(|state| format!("urn:wardmesh:assigner:dl:{}", percent(&state)));
        let to = leaf(dln.component(3)).and_then(|t| DateTime::parse(&t).ok()).map(|t| Value::from(t.to_date()));
        object([
            ("type", Some(identifier_type("DL"))),
            ("system", text(system)),
            ("value", Some(Value::from(value))),
            ("period", to.map(|to| json!({"end": to}))),
        ])
    }

    /// PID-19. The system is the United States' only where the number has that shape.
    pub fn social_security(&self, st: Element<'_>) -> Option<Value> {
        let value = leaf(st)?;
        let digits = value.chars().filter(char::is_ascii_digit).count();
        let is_us = digits == 9 && value.chars().all(|c| c.is_ascii_digit() || c == '-');
        object([
            ("type", Some(identifier_type("SS"))),
            ("system", is_us.then(|| Value::from("http://hl7.org/fhir/sid/us-ssn"))),
            ("value", Some(Value::from(value))),
        ])
    }

    /// PID-15: ISO 639 codes become BCP 47 beside what was sent.
    pub fn language(&self, cwe: Element<'_>) -> Option<Value> {
        let mut concept = self.concept(cwe, codes(""))?;
        let codes = [1, 4].into_iter().filter_map(|n| leaf(cwe.component(n)));
        let tag = codes.map(|c| c.to_lowercase()).find_map(|c| {
            let two = vocabulary::LANGUAGE.iter().find(|(_, tag)| *tag == c).map(|(_, tag)| *tag);
            two.or_else(|| vocabulary::code(vocabulary::LANGUAGE, &c))
        });
        if let (Some(tag), Some(object)) = (tag, concept.as_object_mut()) {
            let mut codings = object.remove("coding").map(|c| c.items().to_vec()).unwrap_or_default();
            codings.push(coding("urn:ietf:bcp:47", tag, None));
            object.insert("coding", Value::Array(codings));
        }
        Some(json!({"language": concept, "preferred": true}))
    }

    /// PID-10 and PID-22, all repetitions, as US Core's extension: OMB categories where the code is one, always text.
    pub fn us_core_group(&self, field: Element<'_>, url: &str, categories: Codes, local: Codes) -> Option<Value> {
        let mut parts = Vec::new();
        let mut words = Vec::new();
        for repetition in field.repetitions() {
            let code = [1, 4].into_iter().find_map(|n| {
                let sent = leaf(repetition.component(n))?;
                let code = vocabulary::code(local, &sent).map_or(sent, str::to_owned);
                categories.iter().find(|(omb, _)| *omb == code).copied()
            });
            if let Some((omb, display)) = code {
                parts.push(extension("ombCategory", "valueCoding", coding(vocabulary::OMB, omb, Some(display))));
            }
            let said = leaf(repetition.component(2)).or(code.map(|(_, display)| display.to_owned()));
            words.extend(said.or_else(|| leaf(repetition.component(1))));
        }
        if words.is_empty() {
            return None;
        }
        parts.push(extension("text", "valueString", Value::from(words.join(", "))));
        Some(json!({"url": url, "extension": (Value::Array(parts))}))
    }
}

/// FHIR codes hold no double spaces and none at the ends (R4 `code`).
fn code_text(code: String) -> String {
    code.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn codings_of_vocabulary(code: Option<&str>, vocabulary: &Vocabulary) -> Option<Value> {
    let coded = vocabulary.find(code?)?;
    Some(coding(coded.system, coded.code, Some(coded.display)))
}

fn has_system(codings: &[Value]) -> bool {
    codings.iter().any(|c| c.get("system").is_some())
}

/// A reference without a resource: identifier and display.
fn reference(rtype: &'static str, identifier: Option<Value>, display: Option<String>) -> Option<Value> {
    if identifier.is_none() && display.is_none() {
        return None;
    }
    object([("type", Some(Value::from(rtype))), ("identifier", identifier), ("display", text(display))])
}

/// Table 0203; a type that it does not have is kept as text.
pub fn identifier_type(code: &str) -> Value {
    if codes("IdentifierType").find(code).is_some() {
        json!({"coding": [(coding(vocabulary::V2_0203, code, None))]})
    } else {
        json!({"text": code})
    }
}
