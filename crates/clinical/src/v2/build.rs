//! Walks a message segment by segment and runs the tables over its fields. Knows the grouping of segments; what each
//! group becomes stands in `person`, `visit` and `result`.

use std::collections::HashMap;

use base::Limits;
use hl7v2::time::DateTime;
use hl7v2::{Element, Message, Segment, structure_of};

use super::convert::{Context, Fault, Said, leaf, percent};
use super::draft::{Change, Draft};
use super::events::{self, Effect, PatientEffect, VisitEffect};
use super::tables::{self, Convert, Row, SegmentMap};
use super::{Event, Fate, FieldFate, Key, Mapped, Problem, Sender, Severity, Unit};

/// Units of one segment: their numbers leave room for resources that are mapped later.
const UNITS_PER_SEGMENT: u32 = 8;

/// A segment's own fates are among so many of the last ones.
const FIELDS_LOOKED_BACK: usize = 4_200;

pub(super) const SET_ASIDE: Fate = Fate::Kept("set aside with its segment: see the problem");

/// Type, parent unit, and number or natural key.
type UnitName = (&'static str, Option<u32>, String, String);

/// Where the walk is: the units that the next segment belongs to, by their index.
#[derive(Default)]
pub(super) struct Group<'m> {
    pub pid: Option<Segment<'m>>,
    pub patient: Option<usize>,
    pub visit: Option<usize>,
    pub order: Option<Segment<'m>>,
    pub request: Option<Segment<'m>>,
    pub report: Option<usize>,
    pub observation: Option<usize>,
    /// How often each natural key came within its parent unit.
    pub naturals: HashMap<(Option<u32>, String), u32>,
}

pub(super) struct Builder<'m> {
    pub message: &'m Message<'m>,
    pub context: Context<'m>,
    pub event: Event,
    pub effect: Effect,
    pub units: Vec<Unit>,
    pub group: Group<'m>,
    /// The units by what they are found by.
    named: HashMap<UnitName, usize>,
    fates: Vec<FieldFate>,
    fates_max: usize,
    problems: Vec<Problem>,
}

impl<'m> Builder<'m> {
    pub fn new(message: &'m Message<'_>, sender: &'m Sender<'_>, limits: &Limits) -> Self {
        let info = message.info();
        let facility = facility_system(message, sender);
        let context = Context { sender, facility };
        let structure = structure_of(&info.code, &info.trigger).map_or(info.structure, str::to_owned);
        let occurred = ["EVN-6", "EVN-2", "MSH-7"].into_iter().find_map(|path| {
            let sent = message.at(&path.parse().ok()?);
            DateTime::parse(&leaf(sent)?).ok().map(|t| t.to_date_time(sender.utc_offset))
        });
        let event = Event { code: info.code, trigger: info.trigger, structure, occurred };
        // Replaced in `run` before anything is mapped.
        let effect = Effect { patient: PatientEffect::CreateOnly, visit: VisitEffect::None };
        Builder {
            message,
            context,
            event,
            effect,
            units: Vec::new(),
            group: Group::default(),
            named: HashMap::new(),
            fates: Vec::new(),
            fates_max: limits.hl7_segments_max.saturating_mul(4),
            problems: Vec::new(),
        }
    }

    pub fn run(mut self) -> Mapped {
        match events::effect(&self.event.code, &self.event.trigger) {
            Some(effect) => {
                self.effect = effect;
                self.check_event();
                for segment in self.message.segments() {
                    self.segment(segment);
                }
            }
            None => self.unmapped_type(),
        }
        Mapped { event: self.event, units: self.units, fates: self.fates, problems: self.problems }
    }

    fn segment(&mut self, segment: Segment<'m>) {
        match segment.id() {
            "MSH" => self.all_fields(segment, &Fate::Kept(tables::HEADER)),
            "EVN" => self.fields(segment, &[&tables::EVN], None),
            "PID" => self.person(segment),
            "PD1" => self.more_of(segment, self.group.patient, &tables::PD1),
            "MRG" => self.merged(segment),
            "PV1" => self.visit(segment),
            "PV2" => self.more_of(segment, self.group.visit, &tables::PV2),
            "ORC" => self.order(segment),
            "OBR" => self.report(segment),
            "OBX" => self.observation(segment),
            "NTE" => self.note(segment),
            _ if segment.is_segment() => self.all_fields(segment, &Fate::Unmapped),
            _ => self.no_segment(segment),
        }
    }

    /// A line without a segment id: most often text with a bare line break in the field before it.
    fn no_segment(&mut self, segment: Segment<'m>) {
        let text = "a line is no segment: a line break inside a field must be sent as \\.br\\; its text is in the journal only";
        self.problems.push(Problem {
            unit: unit_number(segment),
            place: format!("line {}", segment.index() + 1),
            code: "line-broken",
            text: text.to_owned(),
            severity: Severity::SetAside,
            critical: false,
        });
    }

    fn unmapped_type(&mut self) {
        self.problems.push(Problem {
            unit: Problem::WHOLE,
            place: "MSH-9".to_owned(),
            code: "message-type-unmapped",
            text: "message type not mapped yet: kept in the journal, replay when the map exists".to_owned(),
            severity: Severity::SetAside,
            critical: false,
        });
        for segment in self.message.segments() {
            let fate = if segment.id() == "MSH" { Fate::Kept(tables::HEADER) } else { Fate::Unmapped };
            self.all_fields(segment, &fate);
        }
    }

    /// Contradictions between what the message says it is and what it is. MSH-9.1 and MSH-9.2 decide.
    fn check_event(&mut self) {
        let said = |path| self.message.get(path).map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
        if said("EVN-1.1").is_some_and(|event| event != self.event.trigger) {
            self.tag(
                Problem::WHOLE,
                "EVN-1".into(),
                "event-contradicts",
                "EVN-1 names another event than MSH-9.2, which decides",
            );
        }
        if said("MSH-9.3").is_some_and(|structure| structure != self.event.structure) {
            let text = "MSH-9.3 names another structure than the standard gives this event";
            self.tag(Problem::WHOLE, "MSH-9".into(), "structure-contradicts", text);
        }
    }

    pub fn tag(&mut self, unit: u32, place: String, code: &'static str, text: &str) {
        let severity = Severity::Tag;
        self.problems.push(Problem { unit, place, code, text: text.to_owned(), severity, critical: false });
    }

    /// Sets the segment's unit aside; all its fields share that fate.
    pub fn set_aside(&mut self, segment: Segment<'m>, field: usize, fault: &Fault, critical: bool) {
        let place = if field == 0 { place_of(segment) } else { format!("{}-{field}", place_of(segment)) };
        self.problems.push(Problem {
            unit: unit_number(segment),
            place,
            code: fault.code,
            text: fault.text.to_owned(),
            severity: Severity::SetAside,
            critical,
        });
        self.all_fields(segment, &SET_ASIDE);
    }

    pub fn fate(&mut self, segment: Segment<'m>, field: usize, fate: Fate) {
        if self.fates.len() == self.fates_max {
            let text = "more fields than are told one by one: the rest is in the journal only";
            self.tag(Problem::WHOLE, place_of(segment), "fates-cut", text);
        }
        if self.fates.len() <= self.fates_max {
            self.fates.push(FieldFate { path: format!("{}-{field}", place_of(segment)), fate });
        }
    }

    /// Corrects the fate that the table gave a field.
    pub fn replace_fate(&mut self, segment: Segment<'m>, field: usize, fate: Fate) {
        let path = format!("{}-{field}", place_of(segment));
        if let Some(told) = self.fates.iter_mut().rev().take(FIELDS_LOOKED_BACK).find(|told| told.path == path) {
            told.fate = fate;
        }
    }

    /// One fate for every field of a segment that says something.
    pub fn all_fields(&mut self, segment: Segment<'m>, fate: &Fate) {
        for (n, field) in segment.fields() {
            if !field.is_absent() {
                self.fate(segment, n, fate.clone());
            }
        }
    }

    /// Runs maps over a segment, into a draft where there is one.
    pub fn fields(&mut self, segment: Segment<'m>, maps: &[&'static SegmentMap], mut draft: Option<&mut Draft>) {
        for (n, field) in segment.fields() {
            if field.is_absent() {
                continue;
            }
            let mut fate = Fate::Unmapped;
            for map in maps {
                for row in map.rows(n) {
                    let said = self.row(segment, field, map, row, draft.as_deref_mut());
                    if !matches!(fate, Fate::Mapped(_)) {
                        fate = said;
                    }
                }
            }
            self.fate(segment, n, fate);
        }
    }

    /// One row over one field. What it says goes into the draft; what it cannot use becomes a problem.
    fn row(
        &mut self,
        segment: Segment<'m>,
        field: Element<'m>,
        map: &SegmentMap,
        row: &Row,
        draft: Option<&mut Draft>,
    ) -> Fate {
        let target = || Fate::Mapped(format!("{}.{}", map.resource, row.element.trim_end_matches("[]")));
        if matches!(row.convert, Convert::Kept) {
            return Fate::Kept(row.note);
        }
        if row.unless != 0 && segment.field(row.unless).is_value() {
            return Fate::Kept("another field of the segment says it with more detail");
        }
        let Some(draft) = draft else { return Fate::Unmapped };
        if matches!(row.convert, Convert::ByBuilder) {
            return target();
        }
        let name = format!("{}-{}", map.segment, row.field);
        let (path, many) = match row.element.strip_suffix("[]") {
            Some(path) => (path, true),
            None => (row.element, false),
        };
        if field.is_null() {
            draft.push(path, if many { Change::RemoveItems { field: name } } else { Change::Remove });
            return target();
        }
        let mut values = Vec::new();
        let mut removed = false;
        let repetitions: Vec<Element<'m>> = match (row.convert.takes_whole_field(), many) {
            (true, _) => vec![field],
            (false, true) => field.repetitions().collect(),
            (false, false) => vec![field.repetition(1)],
        };
        for repetition in repetitions {
            match tables::convert(&self.context, repetition, &row.convert) {
                Ok(Said::Value(value)) => values.push(value),
                Ok(Said::Nothing) => {}
                Ok(Said::Remove) => removed = true,
                Err(fault) => {
                    let place = format!("{}-{}", place_of(segment), row.field);
                    self.tag(unit_number(segment), place, fault.code, fault.text);
                }
            }
        }
        match (values.pop(), many) {
            (Some(last), true) => {
                values.push(last);
                draft.push(path, Change::Items { field: name, values });
            }
            (Some(one), false) => draft.push(path, Change::Set(one)),
            (None, true) if removed => draft.push(path, Change::RemoveItems { field: name }),
            (None, false) if removed => draft.push(path, Change::Remove),
            (None, _) => return Fate::Unmapped,
        }
        target()
    }

    /// A segment that says more about a unit that is there already.
    fn more_of(&mut self, segment: Segment<'m>, unit: Option<usize>, map: &'static SegmentMap) {
        match unit {
            None => self.all_fields(segment, &Fate::Kept("what it belongs to is not mapped in this message")),
            Some(at) => {
                let draft = &self.units[at].draft;
                let mut more = Draft::new(draft.rtype, draft.policy);
                self.fields(segment, &[map], Some(&mut more));
                self.units[at].draft.follow(more);
            }
        }
    }

    /// Takes a unit in. A message that speaks twice of one resource says it all of that one: the later draft follows
    /// the earlier.
    pub fn push_unit(&mut self, segment: Segment<'m>, key: Key, draft: Draft) -> usize {
        let names: Vec<UnitName> = match &key {
            Key::Identifiers(numbers) => {
                numbers.iter().map(|(s, v)| (draft.rtype, None, s.clone(), v.clone())).collect()
            }
            Key::Within { unit, natural } => vec![(draft.rtype, Some(*unit), String::new(), natural.clone())],
        };
        if let Some(at) = names.iter().find_map(|name| self.named.get(name)).copied() {
            self.units[at].draft.follow(draft);
            return at;
        }
        self.named.extend(names.into_iter().map(|name| (name, self.units.len())));
        self.units.push(Unit { n: unit_number(segment), place: place_of(segment), key, draft });
        self.units.len() - 1
    }

    /// The segment after this one that has the id, before any of the ids that end the group.
    pub fn following(&self, segment: Segment<'m>, id: &str, end: &[&str]) -> Option<Segment<'m>> {
        let mut rest = self.message.segments().skip(segment.index() + 1);
        rest.find(|s| s.id() == id || end.contains(&s.id())).filter(|s| s.id() == id)
    }
}

/// `OBX[3]`; the first is plain `OBX`.
pub(super) fn place_of(segment: Segment<'_>) -> String {
    match segment.occurrence() {
        1 => segment.id().to_owned(),
        n => format!("{}[{n}]", segment.id()),
    }
}

pub(super) fn unit_number(segment: Segment<'_>) -> u32 {
    u32::try_from(segment.index()).unwrap_or(u32::MAX / UNITS_PER_SEGMENT - 1).saturating_mul(UNITS_PER_SEGMENT)
}

/// The system of identifiers that name no assigner: of the facility in MSH-4, else of the source.
fn facility_system(message: &Message<'_>, sender: &Sender<'_>) -> String {
    let universal = message.get("MSH-4.2").map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
    let name = message.get("MSH-4.1").map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
    let configured = [&name, &universal].into_iter().flatten().find_map(|n| sender.assigners.get(n));
    match (configured, universal, name) {
        (Some(system), ..) => system.clone(),
        (None, Some(oid), _) if oid.contains('.') && oid.bytes().all(|b| b.is_ascii_digit() || b == b'.') => {
            format!("urn:oid:{oid}")
        }
        (None, _, Some(name)) => format!("urn:wardmesh:facility:{}", percent(&name)),
        _ => format!("urn:wardmesh:source:{}", percent(sender.name)),
    }
}
