//! The words that identify somebody in a message, and whether one of them is left in another.
//!
//! Words of names, street and town, numbers of every kind. A word counts from three letters, or from five digits; shorter
//! ones meet by chance.

use std::collections::HashSet;

use hl7v2::{Message, Segment};

use super::Method;
use super::table::{Treatment, treatments};

const LETTERS_MIN: usize = 3;
const DIGITS_MIN: usize = 5;
/// Of a number that is found however it is spelt.
const NUMBER_MIN: usize = 7;

/// Words of addresses that say nothing about anybody.
const COMMON: &[&str] = &[
    "THE", "AND", "STREET", "ROAD", "AVENUE", "AVE", "LANE", "DRIVE", "BLVD", "COURT", "PLACE", "WAY", "NORTH",
    "SOUTH", "EAST", "WEST", "APT", "SUITE", "BOX", "CITY", "TOWN", "USA", "UNKNOWN", "NONE", "FOR", "NEW",
];

/// What identifies somebody in a message.
#[derive(Default)]
pub struct Words {
    /// In capitals.
    words: HashSet<String>,
    /// Numbers of seven digits and more, without the signs between.
    numbers: Vec<String>,
    /// Numbers and addresses with signs in them, in capitals.
    wholes: Vec<String>,
    /// Days may stay, so that a number which begins with one tells nothing.
    may_tell_days: bool,
}

/// How a part of a field is gathered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Name,
    Address,
    Number,
}

impl Words {
    pub fn of(message: &Message<'_>, method: Method) -> Words {
        let mut words = Words { may_tell_days: method == Method::LimitedDataSet, ..Words::default() };
        for segment in message.segments() {
            let Some(fields) = treatments(segment.id()) else { continue };
            for (n, field) in segment.fields() {
                let treatment = match fields.get(n) {
                    Some(Treatment::Value) => of_value(segment),
                    other => other,
                };
                for (part, component) in treatment.map_or(&[][..], |treatment| parts(treatment, method)) {
                    for repetition in field.repetitions() {
                        let whole = *component == 0;
                        let element = if whole { repetition } else { repetition.component(*component) };
                        words.gather(*part, &element.value().unwrap_or_default());
                    }
                }
            }
        }
        words
    }

    pub fn add(&mut self, other: Words) {
        self.words.extend(other.words);
        self.numbers.extend(other.numbers);
        self.wholes.extend(other.wholes);
    }

    fn gather(&mut self, part: Part, text: &str) {
        let digits: String = text.chars().filter(char::is_ascii_digit).collect();
        let is_day = |digits: &str| {
            self.may_tell_days && digits.get(..8).is_some_and(|day| hl7v2::time::DateTime::parse(day).is_ok())
        };
        if digits.len() >= NUMBER_MIN && !is_day(&digits) {
            self.numbers.push(digits);
        }
        let has_digit = text.bytes().any(|b| b.is_ascii_digit());
        let is_spelt = text.contains(|c: char| !c.is_alphanumeric()) && text.len() >= DIGITS_MIN;
        if part == Part::Number && is_spelt && (has_digit || text.contains('@')) {
            self.wholes.push(text.trim().to_uppercase());
        }
        let words: Vec<String> = cut(text).filter(|word| counts(part, word) && !is_day(word)).collect();
        self.words.extend(words);
    }

    pub fn are_in(&self, text: &str) -> bool {
        if cut(text).any(|word| self.words.contains(&word)) {
            return true;
        }
        let upper = text.to_uppercase();
        if self.wholes.iter().any(|whole| upper.contains(whole)) {
            return true;
        }
        // A telephone number is the same however it is spelt; a pseudonym, which has letters, is none.
        let between = |c: char| matches!(c, ' ' | '-' | '(' | ')' | '.' | '+' | '/');
        text.split(|c: char| !c.is_alphanumeric() && !between(c)).any(|leaf| {
            let digits: String = leaf.chars().filter(|c| !between(*c)).collect();
            digits.len() >= NUMBER_MIN
                && digits.bytes().all(|b| b.is_ascii_digit())
                && self.numbers.iter().any(|number| digits.contains(number))
        })
    }

    /// Where the first of them is, in a message that was made of this one. What the header says about how to read it is
    /// passed over.
    pub fn first_in(&self, made: &Message<'_>) -> Option<String> {
        for segment in made.segments() {
            for (n, field) in segment.fields() {
                let is_head = segment.id() == "MSH"
                    && (n <= 2 || treatments("MSH").and_then(|fields| fields.get(n)) == Some(Treatment::Head));
                if !is_head && (self.are_in(field.raw()) || self.are_in(&field.text())) {
                    return Some(format!("{}[{}]-{n}", segment.id(), segment.occurrence()));
                }
            }
        }
        None
    }
}

/// The components that identify; 0 is all of them.
fn parts(treatment: Treatment, method: Method) -> &'static [(Part, usize)] {
    match treatment {
        Treatment::Name => &[(Part::Name, 1), (Part::Name, 2), (Part::Name, 3)],
        Treatment::Address if method == Method::LimitedDataSet => &[(Part::Address, 1), (Part::Address, 2)],
        Treatment::Address => {
            &[(Part::Address, 1), (Part::Address, 2), (Part::Address, 3), (Part::Number, 5), (Part::Address, 9)]
        }
        Treatment::Person => &[(Part::Number, 1), (Part::Name, 2), (Part::Name, 3), (Part::Name, 4)],
        Treatment::Id => &[(Part::Number, 1)],
        Treatment::Number | Treatment::Ssn | Treatment::Phone => &[(Part::Number, 0)],
        _ => &[],
    }
}

/// What an observation's value is, where it can identify somebody.
fn of_value(segment: Segment<'_>) -> Option<Treatment> {
    Some(match segment.field(2).value()?.trim() {
        "XPN" | "PN" => Treatment::Name,
        "XCN" | "CN" => Treatment::Person,
        "XAD" | "AD" => Treatment::Address,
        "XTN" | "TN" => Treatment::Phone,
        "CX" | "CK" | "EI" => Treatment::Id,
        _ => return None,
    })
}

fn cut(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_uppercase)
}

fn counts(part: Part, word: &str) -> bool {
    let has_digit = word.bytes().any(|b| b.is_ascii_digit());
    match part {
        Part::Number => has_digit && word.len() >= DIGITS_MIN,
        _ if word.bytes().all(|b| b.is_ascii_digit()) => word.len() >= DIGITS_MIN,
        Part::Name => word.chars().count() >= LETTERS_MIN,
        Part::Address => word.chars().count() >= LETTERS_MIN && !COMMON.contains(&word),
    }
}
