//! Questions for patients: QBP^Q22 (patient demographics, IHE ITI-21) and QBP^Q23 (identifiers, IHE ITI-9), read and
//! answered (RSP^K22, RSP^K23). Pure: which patients there are, and whether they may be told, is asked by the door.

use std::collections::BTreeMap;

use base::Timestamp;
use fhir::json::Value;
use fhir::search::fold;
use hl7v2::{AckCode, AckError, Element, Message, Severity, code357};

use crate::outbound;
use crate::v2;

/// Criteria of one question, and domains it wants numbers of.
const PARAMETERS_MAX: usize = 32;
const TAG_CHARS_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// QPD-2: what the answer and its continuations are known by.
    pub tag: String,
    pub asks: Asks,
    /// RCP-2: patients of one answer.
    pub limit: Option<usize>,
    /// DSC-1: goes on where an earlier answer ended.
    pub pointer: Option<String>,
    /// Systems whose numbers are wanted; empty: all.
    pub domains: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asks {
    /// Who fits these.
    Demographics(Vec<Criterion>),
    /// By which other numbers somebody is known.
    Identifiers { system: String, value: String },
    /// QCN^J01: the answer of this tag is wanted no further.
    Cancel,
}

/// `@PID.5.1^SMITH*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Criterion {
    pub field: Asked,
    /// Without the asterisk.
    pub text: String,
    /// It may go on.
    pub begins: bool,
}

/// What of a patient a criterion is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Identifier,
    Family,
    Given,
    Birth,
    Sex,
    Street,
    City,
    State,
    Postal,
    Country,
    Phone,
}

/// Names of fields as QPD-3 writes them, without the `@`; parts of an assigner are read beside the number.
const FIELDS: &[(&str, Asked)] = &[
    ("PID.3", Asked::Identifier),
    ("PID.3.1", Asked::Identifier),
    ("PID.5.1", Asked::Family),
    ("PID.5.1.1", Asked::Family),
    ("PID.5.2", Asked::Given),
    ("PID.7", Asked::Birth),
    ("PID.7.1", Asked::Birth),
    ("PID.8", Asked::Sex),
    ("PID.11.1", Asked::Street),
    ("PID.11.1.1", Asked::Street),
    ("PID.11.3", Asked::City),
    ("PID.11.4", Asked::State),
    ("PID.11.5", Asked::Postal),
    ("PID.11.6", Asked::Country),
    ("PID.13", Asked::Phone),
    ("PID.13.1", Asked::Phone),
    ("PID.13.12", Asked::Phone),
];
const ASSIGNERS: &[&str] = &["PID.3.4", "PID.3.4.1", "PID.3.4.2", "PID.3.4.3"];

fn fault(segment: &str, field: u16, code357: u16, text: &str) -> AckError {
    AckError { segment: segment.into(), seq: 1, field, code357, text: text.to_owned(), ..AckError::default() }
}

impl Query {
    /// `assigners` of the source: how it names systems.
    pub fn read(message: &Message<'_>, assigners: &BTreeMap<String, String>) -> Result<Query, AckError> {
        let info = message.info();
        let trigger = (info.code.as_str(), info.trigger.as_str());
        if trigger == ("QCN", "J01") {
            let Some(qid) = message.segment("QID") else {
                return Err(fault("QID", 0, code357::SEGMENT_SEQUENCE, "a cancel needs QID, which names the query"));
            };
            let tag = tag(qid.field(1)).ok_or_else(|| {
                fault("QID", 1, code357::REQUIRED_FIELD_MISSING, "the query to cancel is named by its tag")
            })?;
            return Ok(Query { tag, asks: Asks::Cancel, limit: None, pointer: None, domains: Vec::new() });
        }
        if !matches!(trigger, ("QBP", "Q22" | "Q23")) {
            let text = "questions are QBP^Q22 (demographics), QBP^Q23 (identifiers) and QCN^J01 (cancel)";
            return Err(fault("MSH", 9, code357::UNSUPPORTED_EVENT, text));
        }
        let Some(qpd) = message.segment("QPD") else {
            return Err(fault("QPD", 0, code357::SEGMENT_SEQUENCE, "a query needs QPD, which says what is asked"));
        };
        let tag = tag(qpd.field(2)).ok_or_else(|| {
            fault("QPD", 2, code357::REQUIRED_FIELD_MISSING, "the query has no tag of up to 64 characters")
        })?;
        let (asks, wanted) = match info.trigger.as_str() {
            "Q22" => (Asks::Demographics(criteria(qpd.field(3), assigners)?), 8),
            _ => (identifier(qpd.field(3), assigners)?, 4),
        };
        let domains = domains(qpd.field(wanted), wanted as u16, assigners)?;
        let pointer = message.segment("DSC").and_then(|dsc| dsc.field(1).value().map(|text| text.trim().to_owned()));
        let pointer = pointer.filter(|pointer| !pointer.is_empty());
        Ok(Query { tag, asks, limit: limit(message)?, pointer, domains })
    }
}

fn tag(element: Element<'_>) -> Option<String> {
    let tag = element.value()?.trim().to_owned();
    (!tag.is_empty() && tag.chars().count() <= TAG_CHARS_MAX).then_some(tag)
}

/// RCP-2: `20^RD`. Other units than records are not spoken.
fn limit(message: &Message<'_>) -> Result<Option<usize>, AckError> {
    let Some(rcp) = message.segment("RCP") else { return Ok(None) };
    let quantity = rcp.field(2);
    let Some(number) = quantity.component(1).value() else { return Ok(None) };
    let unit = quantity.component(2).first().value().unwrap_or_default().trim().to_owned();
    match number.trim().parse::<usize>() {
        Ok(number) if number > 0 && matches!(unit.as_str(), "" | "RD") => Ok(Some(number)),
        _ => Err(fault("RCP", 2, code357::DATA_TYPE, "how many patients one answer may hold is written as 20^RD")),
    }
}

fn criteria(field: Element<'_>, assigners: &BTreeMap<String, String>) -> Result<Vec<Criterion>, AckError> {
    let mut criteria: Vec<Criterion> = Vec::new();
    let mut assigner: [Option<String>; 3] = Default::default();
    for (n, repetition) in field.repetitions().enumerate() {
        let at = |code, text: &str| {
            let repetition = u16::try_from(n + 1).unwrap_or(u16::MAX);
            Err(AckError { repetition, ..fault("QPD", 3, code, text) })
        };
        if n >= PARAMETERS_MAX {
            return at(code357::INTERNAL, "at most 32 parameters are taken");
        }
        let Some(name) = repetition.component(1).value() else { continue };
        let Some(text) = repetition.component(2).value() else { continue };
        let (name, text) = (name.trim().trim_start_matches('@'), text.trim());
        if let Some(part) = ASSIGNERS.iter().position(|known| *known == name) {
            // `.4` without a number is the namespace as well.
            assigner[part.saturating_sub(1)] = Some(text.to_owned());
            continue;
        }
        let Some((_, field)) = FIELDS.iter().find(|(known, _)| *known == name) else {
            return at(code357::TABLE_VALUE_NOT_FOUND, "a parameter that is not one of PID.3, 5, 7, 8, 11 and 13");
        };
        let begins = text.ends_with('*');
        let text = text.trim_end_matches('*').to_owned();
        if text.is_empty() {
            return at(code357::REQUIRED_FIELD_MISSING, "a parameter without a value");
        }
        if *field == Asked::Sex && !["F", "M", "O", "U", "A", "N"].contains(&text.as_str()) {
            return at(code357::TABLE_VALUE_NOT_FOUND, "a sex that HL7 table 0001 does not have");
        }
        if *field == Asked::Birth && hl7v2::time::DateTime::parse(&text).is_err() {
            return at(code357::DATA_TYPE, "a date of birth is written as YYYYMMDD");
        }
        criteria.push(Criterion { field: *field, text, begins });
    }
    if criteria.is_empty() {
        let text = "the query says nothing to look for: give at least one of PID.3, 5, 7, 8, 11 and 13";
        return Err(fault("QPD", 3, code357::REQUIRED_FIELD_MISSING, text));
    }
    let [namespace, universal, kind] = &assigner;
    if let Some(system) = v2::system(namespace.as_deref(), universal.as_deref(), kind.as_deref(), assigners) {
        for criterion in criteria.iter_mut().filter(|criterion| criterion.field == Asked::Identifier) {
            criterion.text = format!("{system}|{}", criterion.text);
        }
    }
    Ok(criteria)
}

fn identifier(field: Element<'_>, assigners: &BTreeMap<String, String>) -> Result<Asks, AckError> {
    let missing = |component, text: &str| {
        let repetition = 1;
        Err(AckError { repetition, component, ..fault("QPD", 3, code357::REQUIRED_FIELD_MISSING, text) })
    };
    let Some(value) = field.component(1).value() else {
        return missing(1, "the number that is asked about is missing");
    };
    let Some(system) = hd(field.component(4), assigners) else {
        return missing(4, "the assigner of the number that is asked about is missing");
    };
    Ok(Asks::Identifiers { system, value: value.trim().to_owned() })
}

fn hd(hd: Element<'_>, assigners: &BTreeMap<String, String>) -> Option<String> {
    let part = |n: usize| hd.subcomponent(n).value().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    v2::system(part(1).as_deref(), part(2).as_deref(), part(3).as_deref(), assigners)
}

fn domains(field: Element<'_>, number: u16, assigners: &BTreeMap<String, String>) -> Result<Vec<String>, AckError> {
    let mut domains = Vec::new();
    for (n, repetition) in field.repetitions().enumerate() {
        if !repetition.is_value() {
            continue;
        }
        let repetition_number = u16::try_from(n + 1).unwrap_or(u16::MAX);
        match hd(repetition.component(4), assigners) {
            Some(system) if domains.len() < PARAMETERS_MAX => domains.push(system),
            _ => {
                let text = "a domain that is asked for is named by its assigner in the fourth component";
                let error = fault("QPD", number, code357::UNKNOWN_KEY, text);
                return Err(AckError { repetition: repetition_number, component: 4, ..error });
            }
        }
    }
    Ok(domains)
}

impl Criterion {
    /// As a parameter of a FHIR search, which may find more than fits.
    pub fn parameter(&self) -> (String, String) {
        let escaped = |text: &str| {
            text.chars().fold(String::new(), |mut out, c| {
                if matches!(c, '\\' | ',' | '$' | '|') {
                    out.push('\\');
                }
                out.push(c);
                out
            })
        };
        let (name, value) = match self.field {
            Asked::Identifier => {
                let value = match self.text.rsplit_once('|') {
                    Some((system, number)) => format!("{}|{}", escaped(system), escaped(number)),
                    None => escaped(&self.text),
                };
                ("identifier", value)
            }
            Asked::Family => ("family", escaped(&self.text)),
            Asked::Given => ("given", escaped(&self.text)),
            Asked::Birth => {
                let day = hl7v2::time::DateTime::parse(&self.text).map(|time| time.to_date()).unwrap_or_default();
                ("birthdate", day)
            }
            Asked::Sex => ("gender", sex(&self.text).to_owned()),
            Asked::Street => ("address", escaped(&self.text)),
            Asked::City => ("address-city", escaped(&self.text)),
            Asked::State => ("address-state", escaped(&self.text)),
            Asked::Postal => ("address-postalcode", escaped(&self.text)),
            Asked::Country => ("address-country", escaped(&self.text)),
            Asked::Phone => ("phone", escaped(&self.text)),
        };
        (name.to_owned(), value)
    }

    /// Whether a patient that a search found is meant: a text is the whole word, unless it ends with an asterisk. Case
    /// and accents do not count.
    pub fn fits(&self, patient: &Value) -> bool {
        let list = |name: &str| patient.get(name).map(Value::items).unwrap_or_default();
        let texts: Vec<&str> = match self.field {
            Asked::Family => texts(list("name"), "family"),
            Asked::Given => texts(list("name"), "given"),
            Asked::Street => texts(list("address"), "line"),
            Asked::City => texts(list("address"), "city"),
            Asked::State => texts(list("address"), "state"),
            Asked::Postal => texts(list("address"), "postalCode"),
            Asked::Country => texts(list("address"), "country"),
            Asked::Identifier | Asked::Birth | Asked::Sex | Asked::Phone => return true,
        };
        let wanted = fold(&self.text);
        texts.into_iter().map(fold).any(|text| if self.begins { text.starts_with(&wanted) } else { text == wanted })
    }
}

fn sex(code: &str) -> &'static str {
    match code {
        "F" => "female",
        "M" => "male",
        "U" => "unknown",
        _ => "other",
    }
}

fn texts<'a>(items: &'a [Value], name: &str) -> Vec<&'a str> {
    let mut out = Vec::new();
    for item in items {
        match item.get(name) {
            Some(Value::Array(many)) => out.extend(many.iter().filter_map(Value::as_str)),
            Some(one) => out.extend(one.as_str()),
            None => {}
        }
    }
    out
}

/// What became of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Segments of the patients, how many there are in all, how many are left, and where the rest begins.
    Found {
        segments: String,
        all: usize,
        here: usize,
        left: usize,
        pointer: Option<String>,
    },
    NotFound,
    /// The question cannot be answered as it was asked.
    Wrong(AckError),
    /// The asker may not ask this.
    Refused(AckError),
}

/// The answer as a message. `query` is `None` where the question did not read.
pub fn answer(message: &Message<'_>, verdict: &Verdict, control_id: &str, now: Timestamp) -> Vec<u8> {
    let info = message.info();
    let (code, status, errors) = match verdict {
        Verdict::Found { .. } => (AckCode::AA, "OK", Vec::new()),
        Verdict::NotFound => (AckCode::AA, "NF", Vec::new()),
        Verdict::Wrong(error) => (AckCode::AE, "AE", vec![error.clone()]),
        Verdict::Refused(error) => (AckCode::AR, "AR", vec![error.clone()]),
    };
    let kind = match (info.code.as_str(), info.trigger.as_str()) {
        ("QBP", "Q22") => ["RSP", "K22", "RSP_K22"],
        ("QBP", "Q23") => ["RSP", "K23", "RSP_K23"],
        (_, trigger) => {
            let trigger = trigger.to_owned();
            return hl7v2::response(message, ["ACK", &trigger, "ACK"], code, &errors, control_id, now).into_bytes();
        }
    };
    let mut text = hl7v2::response(message, kind, code, &errors, control_id, now);
    text.push_str(&outbound::query_answer(message, status, verdict));
    text.into_bytes()
}

/// A question about a source that may not ask.
pub fn may_not_ask() -> AckError {
    let text = "this source may not ask: a query needs `query` in the source's configuration, and a policy";
    AckError { severity: Severity::Error, ..fault("MSH", 9, code357::UNSUPPORTED_MESSAGE_TYPE, text) }
}
