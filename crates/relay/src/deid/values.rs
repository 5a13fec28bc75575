//! One field at a time: what is shown of it.

use base::{Ordinal, Timestamp, hex, time, zip};
use hl7v2::time::{DateTime, Precision};
use hl7v2::{Delimiters, Element, Segment};

use super::results::is_result;
use super::scan::Words;
use super::table::Treatment;
use super::{Keyed, Method};

/// Who is older is not told apart (§164.514(b)(2)(i)(C)).
const AGE_MAX: i32 = 89;
/// A shift is one of so many days back, never none.
const SHIFT_DAYS: u64 = 365;
/// LOINC's codes of ages.
const AGES: &[&str] = &["30525-0", "21611-9", "21612-7", "29553-5", "63900-5"];

pub struct Values<'a> {
    method: Method,
    keyed: &'a Keyed,
    words: &'a Words,
    /// Days to subtract; `None` where nobody is known, so that dates become years.
    shift: Option<i64>,
    today: (i32, u32, u32),
    pub delimiters: &'a Delimiters,
}

impl<'a> Values<'a> {
    pub fn new(
        method: Method,
        keyed: &'a Keyed,
        patient: Option<Ordinal>,
        words: &'a Words,
        now: Timestamp,
        delimiters: &'a Delimiters,
    ) -> Self {
        let shift = patient.map(|patient| {
            let bytes = keyed(&format!("shift\0{}", patient.0));
            let number = bytes[..8].iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
            (number % SHIFT_DAYS) as i64 + 1
        });
        Values {
            method,
            keyed,
            words,
            shift,
            today: time::civil_from_days(now.ms().div_euclid(86_400_000)),
            delimiters,
        }
    }

    /// All repetitions of a field.
    pub fn field(&self, treatment: Treatment, field: Element<'_>) -> String {
        if treatment == Treatment::Head {
            return field.raw().to_owned();
        }
        let shown = field.repetitions().map(|repetition| self.repetition(treatment, repetition)).collect();
        join(shown, self.delimiters.repetition)
    }

    /// OBX-5 by OBX-2. What has no treatment may be anything and is removed.
    pub fn observation(&self, segment: Segment<'_>, field: Element<'_>) -> String {
        let kind = segment.field(2).value().unwrap_or_default().trim().to_uppercase();
        let is_age = segment.field(3).repetitions().any(|code| {
            [1, 4].iter().any(|n| code.component(*n).value().is_some_and(|code| AGES.contains(&code.trim())))
        });
        let shown = |value: Element<'_>| match kind.as_str() {
            "NM" | "SN" if is_age && is_over_age_max(&value.text()) => String::new(),
            "NM" | "SN" => {
                let shown = |part: Element<'_>| {
                    if is_sign_or_number(&part.text()) { self.unless_known(part) } else { String::new() }
                };
                join(value.components().map(shown).collect(), self.delimiters.component)
            }
            "CE" | "CWE" | "CNE" | "CF" | "IS" | "ID" => self.code(value),
            "ST" if is_result(&value.text()) => self.unless_known(value),
            "DT" | "TS" | "DTM" | "DR" => self.date(value),
            "TM" if value.raw().bytes().all(|b| b.is_ascii_digit() || b".+-".contains(&b)) => self.unless_known(value),
            "XAD" | "AD" => self.address(value),
            "CX" | "CK" | "EI" => self.id(value),
            _ => String::new(),
        };
        join(field.repetitions().map(shown).collect(), self.delimiters.repetition)
    }

    fn repetition(&self, treatment: Treatment, element: Element<'_>) -> String {
        match treatment {
            Treatment::Keep | Treatment::Head => self.keep(element),
            Treatment::Code => self.code(element),
            Treatment::First => self.unless_known(element.component(1)),
            Treatment::Date => self.date(element),
            Treatment::Birth => self.birth(element),
            Treatment::Id => self.id(element),
            Treatment::Number => element.value().map(|number| self.pseudonym(&number)).unwrap_or_default(),
            Treatment::Person => element.component(1).value().map(|number| self.pseudonym(&number)).unwrap_or_default(),
            Treatment::Address => self.address(element),
            Treatment::Place => self.place(element),
            Treatment::Value | Treatment::Ssn | Treatment::Name | Treatment::Phone | Treatment::Text => String::new(),
        }
    }

    /// Nothing of an element in which an identifier of the message or a day stands.
    fn unless_known(&self, element: Element<'_>) -> String {
        let (raw, text) = (element.raw(), element.text());
        let tells_a_day =
            self.method != Method::LimitedDataSet && text.split(|c: char| !c.is_ascii_digit()).any(is_day);
        if self.words.are_in(raw) || self.words.are_in(&text) || tells_a_day { String::new() } else { raw.to_owned() }
    }

    fn keep(&self, element: Element<'_>) -> String {
        let parts = element.components().map(|component| self.unless_known(component)).collect();
        join(parts, self.delimiters.component)
    }

    /// CWE: code, text, system, twice, and the versions; not the third code of later versions, not the text as typed.
    fn code(&self, element: Element<'_>) -> String {
        const CODED: usize = 8;
        let parts = element.components().take(CODED).map(|component| self.unless_known(component)).collect();
        join(parts, self.delimiters.component)
    }

    /// CX, EI: the number under a key; the assigner and the type as they are.
    fn id(&self, element: Element<'_>) -> String {
        let Some(number) = element.component(1).value() else { return String::new() };
        let parts = vec![
            self.pseudonym(&number),
            String::new(),
            String::new(),
            self.unless_known(element.component(4)),
            self.unless_known(element.component(5)),
        ];
        join(parts, self.delimiters.component)
    }

    /// 64 bits keep numbers apart and say nothing more.
    fn pseudonym(&self, number: &str) -> String {
        hex::encode(&(self.keyed)(&format!("number\0{}", number.trim()))[..8])
    }

    fn address(&self, element: Element<'_>) -> String {
        let raw = |n: usize| element.component(n).raw();
        let (town, postal) = match self.method {
            Method::LimitedDataSet => (raw(3).to_owned(), raw(5).to_owned()),
            _ => {
                let code = element.component(5).value();
                (String::new(), code.map(|code| zip::zip3(&code).to_owned()).unwrap_or_default())
            }
        };
        let parts = vec![
            String::new(),
            String::new(),
            town,
            self.unless_known(element.component(4)),
            postal,
            self.unless_known(element.component(6)),
            self.unless_known(element.component(7)),
        ];
        join(parts, self.delimiters.component)
    }

    /// PL: point of care, facility, kind.
    fn place(&self, element: Element<'_>) -> String {
        let parts = [1, 2, 3, 4, 5, 6].map(|n| match n {
            1 | 4 | 6 => self.unless_known(element.component(n)),
            _ => String::new(),
        });
        join(parts.to_vec(), self.delimiters.component)
    }

    /// Each component that is a time; ranges have two.
    fn date(&self, element: Element<'_>) -> String {
        let parts = element.components().map(|part| self.day(part)).collect();
        join(parts, self.delimiters.component)
    }

    fn day(&self, element: Element<'_>) -> String {
        let Some(read) = element.value().and_then(|text| DateTime::parse(&text).ok()) else { return String::new() };
        match (self.method, self.shift) {
            (Method::LimitedDataSet, _) => element.raw().to_owned(),
            (Method::ShiftedDates, Some(days)) if read.precision >= Precision::Day => {
                let shifted = time::days_from_civil(read.year, read.month, read.day) - days;
                let (year, month, day) = time::civil_from_days(shifted);
                // What follows the day is told as it was.
                let rest = element.raw().trim().get(8..).unwrap_or_default();
                format!("{year:04}{month:02}{day:02}{rest}")
            }
            _ => format!("{:04}", read.year),
        }
    }

    fn birth(&self, element: Element<'_>) -> String {
        let Some(read) = element.value().and_then(|text| DateTime::parse(&text).ok()) else { return String::new() };
        let (year, month, day) = self.today;
        let age = year - read.year - i32::from((month, day) < (read.month, read.day));
        if self.method != Method::LimitedDataSet && age > AGE_MAX {
            return String::new();
        }
        self.day(element)
    }
}

fn is_over_age_max(text: &str) -> bool {
    let digits: String = text.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    digits.parse::<i32>().is_ok_and(|age| age > AGE_MAX)
}

/// What can stand in NM and SN: `95`, `-1.5`, `>`, `1`, `:`, `64`.
fn is_sign_or_number(text: &str) -> bool {
    let text = text.trim();
    if matches!(text, ">" | "<" | ">=" | "<=" | "=" | "<>" | "-" | "+" | "/" | "." | ":") {
        return true;
    }
    let number = text.trim_start_matches(['+', '-']);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    !number.is_empty() && digits(whole) && digits(fraction) && !is_day(whole)
}

/// `YYYYMMDD`, with or without a time of day after it, in any year that people live in.
fn is_day(digits: &str) -> bool {
    let Some(day) = digits.get(..8) else { return false };
    (digits.starts_with("19") || digits.starts_with("20"))
        && digits.bytes().all(|b| b.is_ascii_digit())
        && DateTime::parse(day).is_ok()
}

/// Without trailing empty parts; a level without a delimiter has one part.
fn join(mut parts: Vec<String>, delimiter: Option<u8>) -> String {
    while parts.last().is_some_and(String::is_empty) {
        parts.pop();
    }
    match delimiter.map(char::from) {
        Some(delimiter) => parts.join(delimiter.encode_utf8(&mut [0; 4])),
        None => parts.into_iter().next().unwrap_or_default(),
    }
}
