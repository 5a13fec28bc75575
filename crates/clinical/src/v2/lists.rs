//! Lists of segments that stand for all there is (v2.8.2 §2.10.4.1, snapshot mode): allergies, diagnoses, relatives,
//! insurances, guarantors, procedures. What such a list no longer names has ended. Whether a source sends its lists whole is
//! for its configuration to say; here is what a message lists, and what an end is. Segments with an action code say
//! themselves what they do and make no list.

use fhir::json;
use fhir::json::Value;
use hl7v2::Segment;

use super::build::{Builder, place_of};
use super::convert::{coding, leaf};
use super::draft::{Change, Draft, Policy};
use super::events::{PatientEffect, moves};
use super::{Key, Problem, Severity, Unit};

/// A segment that repeats as a list.
struct Kind {
    id: &'static str,
    rtype: &'static str,
    /// How the natural keys of its entries begin, see `keys`.
    prefix: &'static str,
    /// The field that says what the entry is: null there says that the list is empty.
    what: usize,
    /// The field that tells one list from another of the same segment: admitting from final diagnoses.
    kind: Option<usize>,
    /// The field with an action code.
    action: Option<usize>,
}

const KINDS: &[Kind] = &[
    Kind { id: "AL1", rtype: "AllergyIntolerance", prefix: "allergy|", what: 3, kind: None, action: None },
    Kind { id: "DG1", rtype: "Condition", prefix: "condition|", what: 3, kind: Some(6), action: Some(21) },
    Kind { id: "PR1", rtype: "Procedure", prefix: "procedure|", what: 3, kind: None, action: Some(20) },
    Kind { id: "NK1", rtype: "RelatedPerson", prefix: "NK1|", what: 2, kind: None, action: None },
    Kind { id: "GT1", rtype: "RelatedPerson", prefix: "GT1|", what: 3, kind: None, action: None },
    Kind { id: "IN1", rtype: "Coverage", prefix: "coverage|", what: 2, kind: None, action: None },
];

/// Segments that a source may declare to send whole.
pub fn listed_segments() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|kind| kind.id)
}

/// A list as one message states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    pub segment: &'static str,
    pub rtype: &'static str,
    /// [`Unit::n`] of the patient or visit that the list is of.
    pub of: u32,
    /// How the natural keys of its entries begin and end.
    pub prefix: &'static str,
    pub suffix: String,
    /// [`Unit::n`] of what it lists; nothing for a list that is said to be empty.
    pub units: Vec<u32>,
}

impl Listing {
    /// Whether an entry found by this natural key is of the list.
    pub fn holds(&self, natural: &str) -> bool {
        natural.starts_with(self.prefix) && natural.ends_with(&self.suffix)
    }
}

fn kind_of(id: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.id == id)
}

/// Whether the segment says that its list has no entry: `AL1|1||""`.
pub(super) fn says_none(segment: Segment<'_>) -> bool {
    kind_of(segment.id()).is_some_and(|kind| segment.field(kind.what).is_null())
}

/// Whether the segment says by its action code that nothing of it changed (tables 0206, 0323: X; 0287: UC).
pub(super) fn is_unchanged(segment: Segment<'_>) -> bool {
    let (field, word) = match segment.id() {
        "DG1" => (21, "X"),
        "IAM" => (6, "X"),
        "PR1" => (20, "X"),
        "PRB" => (1, "UC"),
        _ => return false,
    };
    leaf(segment.field(field).component(1)).as_deref() == Some(word)
}

/// What is added or changed by action code is in force, whatever was taken back before.
pub(super) fn in_force_again(segment: Segment<'_>, draft: &mut Draft) {
    let field = match segment.id() {
        "DG1" => 21,
        "IAM" => 6,
        _ => return,
    };
    if matches!(leaf(segment.field(field).component(1)).as_deref(), Some("A" | "U")) {
        let field = format!("{}-{field}", segment.id());
        draft.push("verificationStatus.coding", Change::RemoveItems { field });
    }
}

impl<'m> Builder<'m> {
    /// The lists that the message states, once its units are known. Only registration and billing state lists; what orders
    /// and results bring along is a hint.
    pub(super) fn listings(&self, units: &[Unit]) -> Vec<Listing> {
        let states = match self.event.code.as_str() {
            "ADT" => self.effect.patient == PatientEffect::Upsert && moves("ADT", &self.event.trigger).is_none(),
            "BAR" => true,
            _ => false,
        };
        if !states {
            return Vec::new();
        }
        let mut listings: Vec<Listing> = Vec::new();
        // Lists that do not tell all: with action codes, or with an entry that could not be read.
        let mut open: Vec<&str> = Vec::new();
        for segment in self.message.segments() {
            let Some(kind) = kind_of(segment.id()) else { continue };
            if kind.action.is_some_and(|field| segment.field(field).is_value()) {
                open.push(kind.id);
                continue;
            }
            if says_none(segment) {
                let person = units.iter().find(|unit| unit.draft.rtype == "Patient").map(|unit| unit.n);
                let visit = units.iter().find(|unit| unit.draft.rtype == "Encounter").map(|unit| unit.n);
                let of = if matches!(kind.id, "DG1" | "PR1") { visit.or(person) } else { person };
                if let Some(of) = of {
                    listings.push(listing(kind, of, String::new()));
                }
                continue;
            }
            let own = |unit: &&Unit| unit.draft.rtype == kind.rtype && self.speaks_of(segment, unit.n);
            let Some(unit) = units.iter().find(own) else {
                let place = place_of(segment);
                let at =
                    |p: &Problem| p.place == place || p.place.strip_prefix(&place).is_some_and(|r| r.starts_with('-'));
                if self.problems.iter().any(|problem| problem.severity == Severity::SetAside && at(problem)) {
                    open.push(kind.id);
                }
                continue;
            };
            // What has a number of its own is told apart by it and ends by its action code.
            let Key::Within { unit: of, natural } = &unit.key else { continue };
            let suffix = match kind.kind {
                Some(_) => natural.rsplit_once('|').map_or(String::new(), |(_, last)| format!("|{last}")),
                None => String::new(),
            };
            let same = |l: &&mut Listing| l.segment == kind.id && l.of == *of && l.suffix == suffix;
            match listings.iter_mut().find(same) {
                Some(listing) => listing.units.push(unit.n),
                None => {
                    let mut new = listing(kind, *of, suffix);
                    new.units.push(unit.n);
                    listings.push(new);
                }
            }
        }
        listings.retain(|listing| !open.contains(&listing.segment));
        listings
    }
}

fn listing(kind: &Kind, of: u32, suffix: String) -> Listing {
    Listing { segment: kind.id, rtype: kind.rtype, of, prefix: kind.prefix, suffix, units: Vec::new() }
}

const ALLERGY_CLINICAL: &str = "http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical";
const CONDITION_CLINICAL: &str = "http://terminology.hl7.org/CodeSystem/condition-clinical";

fn concept(system: &str, code: &str) -> Value {
    json!({"coding": [(coding(system, code, None))]})
}

/// What it says of an entry that its list no longer names it. A procedure has no end: the list takes back that it was done.
pub fn ended(rtype: &'static str) -> Draft {
    let mut draft = Draft::new(rtype, Policy::CreateOrUpdate);
    match rtype {
        "AllergyIntolerance" => draft.set("clinicalStatus", concept(ALLERGY_CLINICAL, "inactive")),
        "Condition" => draft.set("clinicalStatus", concept(CONDITION_CLINICAL, "inactive")),
        "RelatedPerson" => draft.set("active", false),
        "Coverage" => draft.set("status", "cancelled"),
        _ => draft.set("status", "entered-in-error"),
    }
    draft
}

/// That an entry is listed, so that what ended before is there again.
pub fn stands(draft: &mut Draft) {
    match draft.rtype {
        "AllergyIntolerance" => {
            draft.fields.retain(|field| !field.path.starts_with("clinicalStatus"));
            draft.set("clinicalStatus", concept(ALLERGY_CLINICAL, "active"));
        }
        "Condition" => draft.push("clinicalStatus", Change::Remove),
        "RelatedPerson" => draft.push("active", Change::Remove),
        "Coverage" => draft.set("status", "active"),
        _ => {}
    }
}
