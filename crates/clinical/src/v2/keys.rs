//! What each resource is found again by: a number of its own where the sender gives one, else its natural key within the
//! report, visit or patient it belongs to (see [`Key`]).

use fhir::json::Value;
use hl7v2::{Element, Segment};

use super::Key;
use super::build::{Builder, Making};
use super::convert::{Fault, fault, leaf, whole};
use super::events::MoveOf;
use super::resources::segment_of;
use super::vocabulary::NOT_PERSON_NUMBERS;

/// Numbers by which a patient is looked for; a message with more is not an ordinary one.
const KEYS_MAX: usize = 16;

/// Systems of identifiers that find a resource by a number together with what it is of: several services of one order
/// often share the number.
const REPORT_SYSTEM: &str = "urn:wardmesh:report";
const ORDER_SYSTEM: &str = "urn:wardmesh:order";
const IMMUNIZATION_SYSTEM: &str = "urn:wardmesh:immunization";

type Number = (String, String);

/// Every number by which one PID or MRG names a human being, whether the message uses it or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// (type of resource, system, value).
    pub numbers: Vec<(&'static str, String, String)>,
}

/// Segments that name a patient, and their CX fields with what they number. PID-21 is the mother's: that is the child's
/// own data about her.
const NAMING: [(&str, &[(usize, &str)]); 2] = [
    ("PID", &[(2, "Patient"), (3, "Patient"), (4, "Patient"), (18, "Account")]),
    ("MRG", &[(1, "Patient"), (2, "Patient"), (4, "Patient"), (3, "Account"), (5, "Encounter")]),
];

/// Where a number of a placer or filler stands: segment, field, role.
type Place = (&'static str, usize, &'static str);

const FILLER: [Place; 2] = [("OBR", 3, "FILL"), ("ORC", 3, "FILL")];
const PLACER: [Place; 2] = [("OBR", 2, "PLAC"), ("ORC", 2, "PLAC")];

/// (system, value) of an identifier.
pub(super) fn pair(identifier: &Value) -> Option<Number> {
    let part = |name| identifier.get(name).and_then(Value::as_str).map(str::to_owned);
    Some((part("system")?, part("value")?))
}

impl<'m> Builder<'m> {
    /// Whom the message names, segment by segment; one that holds no number is left out.
    pub(super) fn named(&self) -> Vec<Named> {
        let naming = |segment: Segment<'m>| {
            let (_, fields) = NAMING.into_iter().find(|(id, _)| *id == segment.id())?;
            let numbers = fields.iter().flat_map(|(n, rtype)| {
                let pairs = segment.field(*n).repetitions().filter_map(|cx| pair(&self.context.identifier(cx, "")?));
                pairs.map(|(system, value)| (*rtype, system, value)).collect::<Vec<_>>()
            });
            Some(Named { numbers: numbers.collect() }).filter(|named| !named.numbers.is_empty())
        };
        self.message.segments().filter(|segment| segment.is_segment()).filter_map(naming).collect()
    }

    /// (system, value) of the CX fields that name a person, best first.
    pub(super) fn person_numbers(&self, segment: Segment<'m>, fields: &[usize]) -> Vec<Number> {
        let all: Vec<(String, Value)> = fields
            .iter()
            .flat_map(|n| segment.field(*n).repetitions())
            .filter_map(|cx| Some((leaf(cx.component(5)).unwrap_or_default(), self.context.identifier(cx, "")?)))
            .collect();
        let named: Vec<_> = all.iter().filter(|(kind, _)| !NOT_PERSON_NUMBERS.contains(&kind.as_str())).collect();
        let chosen = if named.is_empty() { all.iter().collect() } else { named };
        // The medical record number leads: it is the one that the sender's own desk uses.
        let (records, others): (Vec<_>, Vec<_>) = chosen.into_iter().partition(|(kind, _)| kind == "MR");
        let mut numbers: Vec<Number> = Vec::new();
        for (_, identifier) in records.into_iter().chain(others) {
            if let Some(number) = pair(identifier)
                && !numbers.contains(&number)
                && numbers.len() < KEYS_MAX
            {
                numbers.push(number);
            }
        }
        numbers
    }

    /// PV1-19, else the alternate number, else the account, else the time of admission.
    pub(super) fn visit_key(&self, segment: Segment<'m>, pid: Segment<'m>, patient: u32) -> Result<Key, Fault> {
        let account = || self.stay_number(pid, 18, "AN");
        let alternate = || self.stay_number(segment, 50, "");
        if let Some(number) = self.stay_number(segment, 19, "VN").or_else(alternate).or_else(account) {
            return Ok(Key::Identifiers(vec![number]));
        }
        match leaf(segment.field(44)) {
            Some(admitted) => Ok(Key::Within { unit: patient, natural: format!("visit|{admitted}") }),
            None => Err(fault(
                "visit-unidentified",
                "the visit has no number: PV1-19, PV1-50, PID-18 and PV1-44 are empty, so no later message could reach it",
            )),
        }
    }

    /// The number of a visit or an account, a CX.
    pub(super) fn stay_number(&self, segment: Segment<'m>, field: usize, kind: &str) -> Option<Number> {
        pair(&self.context.identifier(segment.field(field).repetition(1), kind)?)
    }

    /// Numbers of MRG that the event gives up for new ones (A46 to A51) or moves under a new one (A44, A45): what has the
    /// new one is still found by the old.
    pub(super) fn old_numbers(&self, rtype: &str) -> Vec<Number> {
        let Some(mrg) = self.message.segment("MRG").filter(|_| self.event.code == "ADT") else { return Vec::new() };
        match (self.event.trigger.as_str(), rtype) {
            ("A46" | "A47" | "A48", "Patient") => self.person_numbers(mrg, &[1, 4]),
            ("A44" | "A49", "Account") => self.stay_number(mrg, 3, "AN").into_iter().collect(),
            ("A45" | "A50" | "A51", "Encounter") => {
                let both = [self.stay_number(mrg, 5, "VN"), self.stay_number(mrg, 6, "")];
                both.into_iter().flatten().collect()
            }
            _ => Vec::new(),
        }
    }

    /// What the unit is found by.
    pub(super) fn key_of(&self, at: usize) -> Key {
        let unit = &self.units[at];
        let n = |at: usize| self.units[at].n;
        let seeker = Seeker {
            builder: self,
            unit,
            first: unit.segments[0],
            patient: unit.patient.map(n).filter(|patient| *patient < unit.n),
            visit: unit.visit.map(n),
            parent: unit.parent.map(n).filter(|parent| *parent < unit.n),
        };
        seeker.key()
    }
}

/// A unit, and what it may be found within.
struct Seeker<'b, 'm> {
    builder: &'b Builder<'m>,
    unit: &'b Making<'m>,
    first: Segment<'m>,
    patient: Option<u32>,
    visit: Option<u32>,
    parent: Option<u32>,
}

fn numbers(found: impl IntoIterator<Item = Number>) -> Key {
    Key::Identifiers(found.into_iter().collect())
}

fn within(unit: Option<u32>, natural: String) -> Key {
    match unit {
        Some(unit) => Key::Within { unit, natural },
        None => Key::Identifiers(Vec::new()),
    }
}

/// By its number, else as `or` has it.
fn by(number: Option<Number>, or: impl FnOnce() -> Key) -> Key {
    number.map_or_else(or, |number| Key::Identifiers(vec![number]))
}

fn first_of<const N: usize>(texts: [String; N]) -> String {
    texts.into_iter().find(|text| !text.is_empty()).unwrap_or_default()
}

impl<'m> Seeker<'_, 'm> {
    fn key(&self) -> Key {
        match self.unit.rtype {
            "Patient" => self.patient(),
            "Encounter" => self.encounter(),
            "Account" => self.account(),
            "DiagnosticReport" => self.report(),
            "ServiceRequest" => self.order(),
            "Observation" => self.observation(),
            "Specimen" => self.specimen(),
            "MedicationRequest" => self.medication(),
            "MedicationDispense" => self.dispense(),
            "MedicationAdministration" => self.administration(),
            "Immunization" => self.immunization(),
            "Condition" => self.condition(),
            "Procedure" => by(self.number("PR1", 19), || {
                let natural = format!("procedure|{}|{}", self.text("PR1", 3), self.text("PR1", 5));
                within(self.visit.or(self.patient), natural)
            }),
            "AllergyIntolerance" => by(self.number("IAM", 7), || {
                let what = self.field(self.first.id(), 3).and_then(whole).unwrap_or_default();
                within(self.patient, format!("allergy|{what}"))
            }),
            "Coverage" => {
                let part = |n| self.text("IN1", n);
                within(self.patient, format!("coverage|{}|{}|{}", part(2), part(3), part(36)))
            }
            "RelatedPerson" => self.relative(),
            "Appointment" => numbers(
                [(2, "FILL"), (1, "PLAC")]
                    .into_iter()
                    .filter_map(|(n, role)| pair(&self.builder.context.order_number(self.field("SCH", n)?, role)?)),
            ),
            "DocumentReference" => by(self.number("TXA", 12), || {
                within(self.patient, format!("document|{}|{}", self.text("TXA", 2), self.text("TXA", 4)))
            }),
            "ChargeItem" => {
                let part = |n| self.text("FT1", n);
                within(self.visit.or(self.patient), format!("charge|{}|{}|{}", part(1), part(4), part(7)))
            }
            _ => Key::Identifiers(Vec::new()),
        }
    }

    fn field(&self, id: &str, n: usize) -> Option<Element<'m>> {
        segment_of(self.unit, id).map(|segment| segment.field(n))
    }

    fn text(&self, id: &str, n: usize) -> String {
        self.field(id, n).and_then(leaf).unwrap_or_default()
    }

    /// An EI that is a number of its own.
    fn number(&self, id: &str, n: usize) -> Option<Number> {
        pair(&self.builder.context.order_number(self.field(id, n)?, "")?)
    }

    fn placed(&self, places: impl IntoIterator<Item = Place>) -> Option<Number> {
        places.into_iter().find_map(|(id, n, role)| pair(&self.builder.context.order_number(self.field(id, n)?, role)?))
    }

    fn patient(&self) -> Key {
        if self.first.id() == "MRG" {
            return numbers(self.builder.person_numbers(self.first, &[1, 4]));
        }
        let mut own = self.builder.person_numbers(self.first, &[3, 2]);
        // A number on the move still leads to whom it is moved from.
        if let Some(mv) = self.builder.moves.iter().find(|mv| mv.to == self.unit.n && mv.what == MoveOf::Numbers)
            && own.iter().any(|number| !mv.numbers.contains(number))
        {
            own.retain(|number| !mv.numbers.contains(number));
        }
        numbers(own.into_iter().chain(self.builder.old_numbers("Patient")))
    }

    fn encounter(&self) -> Key {
        if self.first.id() == "MRG" {
            return numbers(self.builder.stay_number(self.first, 5, "VN"));
        }
        let pid = self.unit.patient.map(|patient| self.builder.units[patient].segments[0]);
        let Some((pid, patient)) = pid.zip(self.patient) else { return Key::Identifiers(Vec::new()) };
        match self.builder.visit_key(self.first, pid, patient) {
            Ok(Key::Identifiers(own)) => numbers(own.into_iter().chain(self.builder.old_numbers("Encounter"))),
            Ok(key) => key,
            Err(_) => Key::Identifiers(Vec::new()),
        }
    }

    fn account(&self) -> Key {
        let field = if self.first.id() == "MRG" { 3 } else { 18 };
        let own = self.builder.stay_number(self.first, field, "AN");
        numbers(own.into_iter().chain(self.builder.old_numbers("Account")))
    }

    /// Filler number, else placer number, with the service; else patient, service and time. A report with none of these
    /// is always a new one.
    fn report(&self) -> Key {
        let (service, time) = (self.text("OBR", 4), self.text("OBR", 7));
        match self.placed(FILLER.into_iter().chain(PLACER)) {
            Some((system, value)) => numbers([(REPORT_SYSTEM.to_owned(), format!("{system}|{value}|{service}"))]),
            None if service.is_empty() && time.is_empty() => Key::Identifiers(Vec::new()),
            None => within(self.patient, format!("report|{service}|{time}")),
        }
    }

    fn order(&self) -> Key {
        if self.first.id() == "RF1" {
            return by(self.number("RF1", 6), || within(self.patient, format!("referral|{}", self.text("RF1", 7))));
        }
        let service = self.text("OBR", 4);
        match self.placed(PLACER.into_iter().chain(FILLER)) {
            Some((system, value)) if !service.is_empty() => {
                numbers([(ORDER_SYSTEM.to_owned(), format!("{system}|{value}|{service}"))])
            }
            Some(number) => numbers([number]),
            None => {
                let time = first_of([self.text("OBR", 6), self.text("OBR", 7), self.text("ORC", 9)]);
                within(self.patient, format!("order|{service}|{time}"))
            }
        }
    }

    fn observation(&self) -> Key {
        if self.first.id() != "OBX" {
            return within(self.patient, format!("{}-7", self.first.id()));
        }
        let what = self.first.field(3);
        let part = |n| leaf(what.component(n)).unwrap_or_default();
        let sub = whole(self.first.field(4)).unwrap_or_default();
        let mut natural = format!("{}|{}|{sub}", first_of([part(1), part(2)]), part(3));
        if self.parent.is_none() {
            // Outside a report the time tells one measurement from the next.
            natural.push_str(&format!("|{}", leaf(self.first.field(14)).unwrap_or_default()));
        }
        within(self.parent.or(self.visit).or(self.patient), natural)
    }

    fn specimen(&self) -> Key {
        let part = |n, role| pair(&self.builder.context.entity_part(self.field("SPM", 2)?, n, role)?);
        by(part(2, "FILL").or_else(|| part(1, "PLAC")), || {
            let natural = format!("specimen|{}|{}", self.text("SPM", 1), self.text("SPM", 4));
            within(self.parent.or(self.patient), natural)
        })
    }

    fn medication(&self) -> Key {
        by(self.placed([("ORC", 2, "PLAC"), ("ORC", 3, "FILL")]), || {
            let code = first_of([self.text("RXE", 2), self.text("RXO", 1)]);
            let time = first_of([self.text("ORC", 9), self.text("TQ1", 7)]);
            within(self.patient, format!("medication|{code}|{time}"))
        })
    }

    fn dispense(&self) -> Key {
        let part = |n| self.text("RXD", n);
        let (system, value) = self.placed([("ORC", 3, "FILL"), ("ORC", 2, "PLAC")]).unwrap_or_default();
        within(self.patient, format!("dispense|{}|{}|{}|{system}|{value}", part(1), part(2), part(3)))
    }

    fn administration(&self) -> Key {
        let (system, value) = self.placed([("ORC", 2, "PLAC"), ("ORC", 3, "FILL")]).unwrap_or_default();
        within(self.patient, format!("given|{}|{}|{system}|{value}", self.text("RXA", 5), self.text("RXA", 3)))
    }

    fn immunization(&self) -> Key {
        let (code, time) = (self.text("RXA", 5), self.text("RXA", 3));
        // 9999 is the registries' number for "not given here".
        let order = self.placed([("ORC", 3, "FILL"), ("ORC", 2, "PLAC")]).filter(|(_, value)| value != "9999");
        match order {
            Some((system, value)) => numbers([(IMMUNIZATION_SYSTEM.to_owned(), format!("{system}|{value}|{code}"))]),
            None => within(self.patient, format!("immunization|{code}|{time}")),
        }
    }

    fn condition(&self) -> Key {
        let (id, own, kind) = match self.first.id() {
            "PRB" => ("PRB", self.number("PRB", 4), String::new()),
            _ => ("DG1", self.number("DG1", 20), self.text("DG1", 6)),
        };
        by(own, || {
            let what = first_of([self.text(id, 3), self.text(id, 4)]);
            within(self.visit.or(self.patient), format!("condition|{what}|{kind}"))
        })
    }

    fn relative(&self) -> Key {
        let (id, name, kind) = if self.first.id() == "GT1" { ("GT1", 3, 11) } else { ("NK1", 2, 3) };
        let who = self.field(id, name).map(|field| field.repetition(1)).and_then(whole).unwrap_or_default();
        within(self.patient, format!("{id}|{who}|{}", self.text(id, kind)))
    }
}
