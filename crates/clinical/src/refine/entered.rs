//! What the catalog is to know of an entry, so that it is found without being opened.

use std::borrow::Cow;

use store::{Entered, EntryToken};

use super::Refiner;
use crate::envelope::{Content, Interaction};
use crate::journal::JournalEntry;

/// Identifiers of one entry that are remembered.
const IDENTIFIERS_MAX: usize = 16;

/// A type as it stands for an entry that is no message.
const REPLAY: &str = "replay";
const MATCH: &str = "match";
/// What is left of an entry after an erasure, or after the time of its body.
const LEFT: &str = "left";
/// Of HL7 v2 without a readable type.
const UNKNOWN: &str = "unknown";

impl Refiner {
    pub(super) fn entered(&self, entry: &JournalEntry) -> Entered {
        let envelope = &entry.envelope;
        let token = |kind, word: &str| (!word.trim().is_empty()).then(|| self.silver.entry_token(kind, word));
        let mut entered = Entered {
            index: entry.index,
            source: envelope.source.clone(),
            at: envelope.received,
            kind: String::new(),
            control: envelope.control_key.as_deref().and_then(|key| token(EntryToken::Control, key)),
            sender: None,
            identifiers: Vec::new(),
            bytes: entry.body.expose().len() as u64,
            stored: entry.stored,
            shadow: envelope.shadow,
        };
        match &envelope.content {
            Content::Hl7v2 => {
                entered.kind = UNKNOWN.to_owned();
                let Ok(message) = hl7v2::parse(entry.body.expose(), &self.limits) else { return entered };
                let info = message.info();
                entered.kind = match (is_word(&info.code), is_word(&info.trigger)) {
                    (true, true) => format!("{}^{}", info.code, info.trigger),
                    (true, false) => format!("{}^", info.code),
                    (false, _) => UNKNOWN.to_owned(),
                };
                let first = |path: &str| message.get(path).unwrap_or(Cow::Borrowed(""));
                entered.sender = token(EntryToken::Sender, &first("MSH-3.1"));
                let people = message.segments().filter(|segment| matches!(segment.id(), "PID" | "MRG"));
                let numbers = people.flat_map(|segment| {
                    let fields: &[usize] = if segment.id() == "PID" { &[2, 3] } else { &[1] };
                    fields.iter().flat_map(move |n| segment.field(*n).repetitions())
                });
                let numbers = numbers.filter_map(|number| number.first().value());
                entered.identifiers =
                    numbers.filter_map(|number| token(EntryToken::Identifier, &number)).take(IDENTIFIERS_MAX).collect();
            }
            Content::Fhir(request) => {
                let word = match request.interaction {
                    Interaction::Create => "create",
                    Interaction::Update => "update",
                    Interaction::Patch => "patch",
                    Interaction::Delete => "delete",
                    Interaction::Bundle => "bundle",
                };
                entered.kind = format!("fhir {word}");
            }
            Content::Replay { .. } => entered.kind = REPLAY.to_owned(),
            Content::Match(_) => entered.kind = MATCH.to_owned(),
            Content::Redacted { .. } => entered.kind = LEFT.to_owned(),
        }
        entered
    }
}

/// HL7 tables 0076 and 0003: three capitals or digits. Anything else is the sender's own and could say anything.
fn is_word(text: &str) -> bool {
    text.len() == 3 && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
}
