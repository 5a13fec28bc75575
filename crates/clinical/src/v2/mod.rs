//! HL7 v2 messages to FHIR R4, by table. Pure: a function of the message and of what is known about its sender.
//!
//! ```text
//! message ─ map() → Mapped { units, fates, problems }    plan/   the tables of `maps`, compiled once
//!                     │                                  build.rs   segments to places, groups, names, references
//!                     │                                  rows.rs    fields to elements · tables.rs, convert.rs  data types
//!                     │                                  resources.rs, keys.rs  what they need, and are found by
//!                     │                                  hooks.rs, events.rs    results, merges, what an event does
//!                     │                                  moves.rs, lists.rs     what goes to another patient, what lists name
//!   refiner: find or mint an id by each unit's Key       value.rs  OBX-5 · vocabulary.rs, ucum.rs  codes and units
//!                     ↓
//!           Draft::apply(current, ids) → the next version    draft.rs
//! ```
//! Never reads silver, never mints ids: the refiner does (`refine`). Every valued field has a fate.

mod account;
pub(crate) mod back;
mod build;
mod convert;
mod draft;
mod events;
mod hooks;
mod keys;
mod lint;
mod lists;
mod moves;
mod plan;
mod resources;
mod rows;
pub mod shadow;
mod tables;
mod ucum;
mod value;
mod vocabulary;

#[cfg(test)]
mod event_tests;
#[cfg(test)]
mod samples;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;

use base::{Limits, Timestamp};
use hl7v2::Message;
use hl7v2::time::Offset;

pub use account::{Covered, Totals, coverage, coverage_table, preview};
pub use convert::system;
pub use draft::{ApplyError, Change, Draft, Field, Policy, add_items, resource_reference};
pub use events::{MoveOf, has_map};
pub use keys::Named;
pub use lint::{Finding, Level, lint};
pub use lists::{Listing, ended, listed_segments, stands};
pub use moves::Move;

/// What the source's configuration says about how it speaks.
#[derive(Debug, Clone)]
pub struct Sender<'a> {
    /// The source's name: the namespace of identifiers that name no assigner at all.
    pub name: &'a str,
    /// For timestamps without an offset. `None` leaves such times at the day.
    pub utc_offset: Option<Offset>,
    /// Assigning authority (its namespace id or its universal id) to the system URI of its identifiers.
    pub assigners: &'a BTreeMap<String, String>,
    /// The sender's unit strings to UCUM codes, before the common table.
    pub units: &'a BTreeMap<String, String>,
    /// Elements that the source may change; empty is all of them. See [`Draft::keep_to`].
    pub authority: &'a [String],
    /// When the message came: what it may at most claim to be from.
    pub received: Option<Timestamp>,
}

/// What the message reports, from MSH-9 and EVN.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    pub code: String,
    pub trigger: String,
    /// The structure the standard gives this event, else what MSH-9.3 says.
    pub structure: String,
    /// When it happened, as FHIR dateTime: EVN-6, else EVN-2, else MSH-7.
    pub occurred: Option<String>,
    /// The same as a moment, where it can be true; else when the message came.
    pub clock: Option<Timestamp>,
}

/// A message as FHIR.
#[derive(Debug, Clone, Default)]
pub struct Mapped {
    pub event: Event,
    /// In an order in which every unit comes after those it is found within.
    pub units: Vec<Unit>,
    /// Whom PID and MRG name, used or not.
    pub named: Vec<Named>,
    /// What goes to another patient, each after the unit of that patient was applied.
    pub moves: Vec<Move>,
    /// What it states as lists.
    pub lists: Vec<Listing>,
    /// One for each valued field, in the order of the message.
    pub fates: Vec<FieldFate>,
    pub problems: Vec<Problem>,
}

impl Mapped {
    /// The units by their index, in the order in which they are to be applied once each has its id: what refers to a
    /// later unit (a report to its results) comes after it, so that it can leave out what was set aside meanwhile.
    pub fn apply_order(&self) -> Vec<usize> {
        let forward = |unit: &Unit| unit.draft.refers_to().iter().any(|n| *n > unit.n);
        let (later, first): (Vec<usize>, Vec<usize>) = (0..self.units.len()).partition(|at| forward(&self.units[*at]));
        first.into_iter().chain(later).collect()
    }
}

/// One resource that the message speaks of.
#[derive(Debug, Clone)]
pub struct Unit {
    /// Stable for this message whatever else is mapped: eight times the index of its segment, plus which of the
    /// segment's resources it is.
    pub n: u32,
    /// The segment it comes from: `OBX[3]`.
    pub place: String,
    pub key: Key,
    pub draft: Draft,
}

/// How the same resource is found again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// By any of these (system, value), the most certain first. They are also in the draft's `identifier`.
    Identifiers(Vec<(String, String)>),
    /// It has no number of its own: it is the one of this natural key within another unit's resource. Found by the
    /// identifier that [`Key::within`] makes, which [`Draft::apply`] adds.
    Within { unit: u32, natural: String },
}

impl Key {
    /// System of the identifiers of [`Key::Within`].
    pub const WITHIN_SYSTEM: &'static str = "urn:wardmesh:within";

    /// The value of the identifier of a resource that has none of its own. `parent` is a reference such as
    /// `DiagnosticReport/abc`.
    pub fn within(parent: &str, natural: &str) -> String {
        format!("{parent}#{natural}")
    }
}

/// What became of a valued field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Into this element: `Patient.birthDate`.
    Mapped(String),
    /// Not mapped on purpose, for this reason. It stays in the journal.
    Kept(&'static str),
    /// No map yet. It stays in the journal and is counted.
    Unmapped,
}

/// The field by its path, `OBX[2]-5`, and its fate. Holds no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldFate {
    pub path: String,
    pub fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The unit could not be made: it is set aside and replayed when the cause is gone.
    SetAside,
    /// The unit was made; this about it should be known.
    Tag,
}

/// What is wrong at a place. Holds no value of the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// [`Unit::n`] of the unit concerned, or [`Problem::WHOLE`].
    pub unit: u32,
    /// `OBX[2]-5`.
    pub place: String,
    /// A short stable word for counting: `number-invalid`.
    pub code: &'static str,
    /// One sentence that an interface colleague understands.
    pub text: String,
    pub severity: Severity,
    /// What is concerned may be a critical result (OBX-8 HH, LL, AA or a panic flag): it must reach a person now.
    pub critical: bool,
}

impl Problem {
    /// The message as a whole.
    pub const WHOLE: u32 = u32::MAX;
}

/// The message as FHIR. Never fails: what cannot be used is a [`Problem`].
pub fn map(message: &Message<'_>, sender: &Sender<'_>, limits: &Limits) -> Mapped {
    build::Builder::new(message, sender, limits).run()
}
