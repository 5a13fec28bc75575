//! Lays a message over its structure and carries out what the plan says of each segment. Knows groups, names and
//! references; how a field becomes an element stands in `rows`, what a resource is found by in `resources`, and what a
//! table cannot say (values of results, the effect of events) in `hooks`.

use std::collections::{HashMap, HashSet};

use base::Limits;
use hl7v2::time::DateTime;
use hl7v2::{Element, Message, Segment, structure_of};

use super::convert::{Context, Fault, leaf, percent};
use super::draft::{Change, Draft, resource_reference};
use super::events::{self, Effect};
use super::plan::{Home, Link, Plan, Structure, Target, Task, plan};
use super::{Event, Fate, FieldFate, Mapped, Move, Problem, Sender, Severity};

/// Units of one segment: their numbers leave room for resources that are mapped later.
pub(super) const UNITS_PER_SEGMENT: u32 = 8;

pub(super) const SET_ASIDE: Fate = Fate::Kept("set aside with its segment: see the problem");

/// Why a segment's resource is not made.
pub(super) enum Refusal {
    /// Not wanted here, for this reason.
    Kept(&'static str),
    /// Wanted, and it cannot be made: the field, what is wrong, whether it may be critical.
    SetAside(usize, Fault, bool),
}

/// A resource in the making.
pub(super) struct Making<'m> {
    pub n: u32,
    pub rtype: &'static str,
    pub draft: Draft,
    /// The segments that speak of it, in order; the first gives its place.
    pub segments: Vec<Segment<'m>>,
    pub patient: Option<usize>,
    pub visit: Option<usize>,
    /// What it is a part of: a report for its results.
    pub parent: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    Unit(usize),
    Refused,
}

/// A segment at its place in the structure.
#[derive(Clone, Copy, Default)]
struct Laid {
    place: Option<usize>,
    instance: usize,
    /// The outermost group that begins with it.
    begins: Option<usize>,
}

/// One repetition of a group: its segments from..to.
struct Instance {
    group: usize,
    parent: usize,
    from: usize,
    to: usize,
}

pub(super) struct Builder<'m> {
    pub message: &'m Message<'m>,
    pub context: Context<'m>,
    pub event: Event,
    pub effect: Effect,
    pub plan: &'static Plan,
    pub structure: Option<&'static Structure>,
    pub units: Vec<Making<'m>>,
    pub names: HashMap<&'static str, Named>,
    /// The order in which names came to mean something.
    spoken: Vec<(&'static str, usize)>,
    laid: Vec<Laid>,
    instances: Vec<Instance>,
    /// The instance of the segment at work.
    pub at: usize,
    /// The resource of the segment before.
    before: Option<usize>,
    /// The segments by their id.
    by_id: HashMap<&'m str, Vec<usize>>,
    /// The first PID that names a patient.
    first_person: Option<usize>,
    /// A segment, and how many numbers of its resources were given.
    numbered: (usize, u32),
    fates: Vec<FieldFate>,
    fates_max: usize,
    pub problems: Vec<Problem>,
    pub moves: Vec<Move>,
}

impl<'m> Builder<'m> {
    pub fn new(message: &'m Message<'_>, sender: &'m Sender<'_>, limits: &Limits) -> Self {
        let info = message.info();
        let facility = facility_system(message, sender);
        let context = Context { sender, facility };
        let named = structure_of(&info.code, &info.trigger, &info.version).map(str::to_owned);
        let structure_name = named.unwrap_or(info.structure);
        let clock = ["EVN-6", "EVN-2", "MSH-7"].into_iter().find_map(|path| {
            let sent = message.at(&path.parse().ok()?);
            DateTime::parse(&leaf(sent)?).ok()
        });
        let occurred = clock.map(|t| t.to_date_time(sender.utc_offset));
        let clock = clock.map(|t| t.earliest(sender.utc_offset)).filter(|t| events::plausible(*t, sender.received));
        let plan = plan();
        // Events of ADT have maps of their own where the guide tells them apart.
        let by_trigger = format!("{}_{}", info.code, info.trigger);
        let structure = plan.messages.get(by_trigger.as_str()).or_else(|| plan.messages.get(structure_name.as_str()));
        let effect = events::effect(&info.code, &info.trigger);
        let mut by_id: HashMap<&'m str, Vec<usize>> = HashMap::new();
        for segment in message.segments() {
            by_id.entry(segment.id()).or_default().push(segment.index());
        }
        let event = Event {
            code: info.code,
            trigger: info.trigger,
            structure: structure_name,
            occurred,
            clock: clock.or(sender.received),
        };
        Builder {
            message,
            context,
            event,
            effect: effect.unwrap_or(Effect::NOTHING),
            plan,
            structure: structure.filter(|_| effect.is_some()),
            units: Vec::new(),
            names: HashMap::new(),
            spoken: Vec::new(),
            laid: Vec::new(),
            instances: vec![Instance { group: 0, parent: 0, from: 0, to: usize::MAX }],
            at: 0,
            before: None,
            by_id,
            first_person: None,
            numbered: (usize::MAX, 0),
            fates: Vec::new(),
            fates_max: limits.hl7_segments_max.saturating_mul(4),
            problems: Vec::new(),
            moves: Vec::new(),
        }
    }

    pub fn run(mut self) -> Mapped {
        match self.structure {
            Some(structure) => {
                self.check_event();
                self.lay(structure);
                let pids = self.by_id.get("PID").cloned().unwrap_or_default();
                self.first_person = pids
                    .into_iter()
                    .find(|at| self.nth(*at).is_some_and(|pid| !self.person_numbers(pid, &[3, 2]).is_empty()));
                for segment in self.message.segments() {
                    self.segment(structure, segment);
                }
            }
            None => self.unmapped_type(),
        }
        let units = super::resources::finish(&mut self);
        let (named, lists) = (self.named(), self.listings(&units));
        Mapped { event: self.event, units, named, moves: self.moves, lists, fates: self.fates, problems: self.problems }
    }

    /// Gives every segment its place in the structure.
    fn lay(&mut self, structure: &'static Structure) {
        let mut open: Vec<usize> = vec![0];
        let mut at: Option<usize> = None;
        let mut seen: HashSet<(usize, usize)> = HashSet::new();
        for segment in self.message.segments() {
            let next =
                if segment.is_segment() && segment.id() != "MSH" { structure.next(at, segment.id()) } else { None };
            let Some((place, mut begins)) = next else {
                self.laid.push(Laid { place: None, instance: open.last().copied().unwrap_or(0), begins: None });
                continue;
            };
            let mut chain: Vec<usize> = structure.chain(place).collect();
            chain.reverse();
            let same = |begins: Option<usize>, instances: &[Instance], open: &[usize]| {
                let kept =
                    |(open, group): &(&usize, &usize)| instances[**open].group == **group && Some(**group) != begins;
                open.iter().zip(&chain).take_while(kept).count()
            };
            let mut keep = same(begins, &self.instances, &open);
            // A segment that does not repeat came again: its group begins anew, be it the message itself.
            if keep == chain.len() && !structure.places[place].many && !seen.insert((open[keep - 1], place)) {
                begins = Some(structure.places[place].group);
                seen.retain(|(_, p)| *p != place);
                keep = same(begins, &self.instances, &open);
            }
            for closed in open.drain(keep.max(1)..) {
                self.instances[closed].to = segment.index();
            }
            let first_new = chain.get(open.len()).copied();
            for group in chain.into_iter().skip(open.len()) {
                let parent = open.last().copied().unwrap_or(0);
                self.instances.push(Instance { group, parent, from: segment.index(), to: usize::MAX });
                open.push(self.instances.len() - 1);
            }
            at = Some(place);
            seen.insert((open.last().copied().unwrap_or(0), place));
            self.laid.push(Laid {
                place: Some(place),
                instance: open.last().copied().unwrap_or(0),
                begins: begins.or(first_new),
            });
        }
    }

    fn segment(&mut self, structure: &'static Structure, segment: Segment<'m>) {
        if !segment.is_segment() {
            return self.no_segment(segment);
        }
        match segment.id() {
            "MSH" => return self.all_fields(segment, &Fate::Kept(HEADER)),
            "EVN" => return self.all_fields(segment, &Fate::Kept(EVENT)),
            _ => {}
        }
        let laid = self.laid[segment.index()];
        self.at = laid.instance;
        if let Some(group) = laid.begins {
            self.forget(structure, group);
        }
        let own = laid.place.map(|place| &structure.places[place]);
        let tasks: &'static [Task] = match own {
            Some(place) if !place.tasks.is_empty() => &place.tasks,
            _ => self.plan.defaults.get(segment.id()).map_or(&[], Vec::as_slice),
        };
        let mut fates: Vec<Option<Fate>> = vec![None; segment.fields_len() + 1];
        let mut first = None;
        if segment.id() == "MRG" {
            self.numbered = (segment.index(), 0);
            self.moving(segment, &mut fates);
        }
        for task in tasks {
            if let Some(unit) = self.task(segment, laid.place, task, &mut fates) {
                first = first.or(Some(unit));
            }
        }
        // What follows, such as a note, is about this segment's resource, or about nothing where that was not made.
        if !tasks.is_empty() && !tasks.iter().all(|task| task.target == Target::Before) {
            self.before = first;
        }
        if let (Some(unit), Some(rest)) = (first, self.plan.segments.get(rest_of(segment.id()).as_str())) {
            self.rows(segment, rest, unit, &mut fates, true);
        }
        self.tell(segment, fates);
    }

    /// Names whose group begins anew mean nothing any more.
    fn forget(&mut self, structure: &'static Structure, group: usize) {
        let gone = |name: &str| match structure.homes.get(name) {
            Some(Home::Group(home)) => structure.within(*home, group),
            Some(Home::Place(place)) => structure.within(structure.places[*place].group, group),
            None => group == 0,
        };
        self.names.retain(|name, _| !gone(name));
        self.spoken.retain(|(name, _)| !gone(name));
    }

    /// Carries out one task; the unit it spoke of.
    fn task(
        &mut self,
        segment: Segment<'m>,
        place: Option<usize>,
        task: &'static Task,
        fates: &mut [Option<Fate>],
    ) -> Option<usize> {
        if task.condition.as_ref().is_some_and(|c| !c.holds(&self.scene(segment, segment.field(1), 0))) {
            return None;
        }
        let unit = match self.target(segment, place, task) {
            Ok(unit) => unit?,
            Err(refusal) => {
                self.refuse(segment, refusal, fates);
                return None;
            }
        };
        let rtype = self.units[unit].rtype;
        let map = match task.map.strip_suffix("[@]") {
            Some(id) => self.plan.segments.get(format!("{id}[{rtype}]").as_str()),
            None => self.plan.segments.get(task.map),
        };
        if self.units[unit].segments.last().is_none_or(|s| s.index() != segment.index()) {
            self.units[unit].segments.push(segment);
        }
        if let Some(map) = map {
            self.rows(segment, map, unit, fates, false);
        }
        self.hook(segment, task.map, unit, fates);
        for link in &task.links {
            self.link(link, unit);
        }
        Some(unit)
    }

    /// The unit a task speaks of, made where it is not there yet.
    fn target(&mut self, segment: Segment<'m>, place: Option<usize>, task: &Task) -> Result<Option<usize>, Refusal> {
        match task.target {
            Target::Before => Ok(self.before),
            Target::Latest(rtype) => Ok(self.latest(rtype)),
            Target::Named(name, rtype) => {
                let anew = match self.structure.and_then(|s| s.homes.get(name)) {
                    Some(Home::Place(home)) => place == Some(*home) && !self.made_by(name, segment),
                    // Of our defaults: another of the same segment begins another.
                    None => self.spoke_already(name, segment),
                    Some(Home::Group(_)) => false,
                };
                match self.names.get(name) {
                    Some(Named::Refused) if !anew => {
                        Err(Refusal::Kept("what it belongs to is not mapped in this message"))
                    }
                    Some(Named::Unit(unit)) if !anew => Ok(Some(*unit)),
                    _ => self.make(segment, name, rtype).map(Some),
                }
            }
        }
    }

    /// Whether the name means a unit that this very segment made.
    fn made_by(&self, name: &str, segment: Segment<'m>) -> bool {
        matches!(self.names.get(name), Some(Named::Unit(unit))
            if self.units[*unit].segments.first().is_some_and(|s| s.index() == segment.index()))
    }

    /// Whether an earlier segment of the same id speaks of what the name means.
    fn spoke_already(&self, name: &str, segment: Segment<'m>) -> bool {
        matches!(self.names.get(name), Some(Named::Unit(unit)) if self.units[*unit]
            .segments
            .iter()
            .any(|s| s.id() == segment.id() && s.index() != segment.index()))
            || self.names.get(name) == Some(&Named::Refused)
    }

    fn make(&mut self, segment: Segment<'m>, name: &'static str, rtype: &'static str) -> Result<usize, Refusal> {
        let patient = if rtype == "Patient" { None } else { self.latest("Patient") };
        let patient_comes = patient.is_none() && self.patient_comes(segment);
        let n = self.next_number(segment);
        if let Err(refusal) = self.admit(segment, rtype, patient, patient_comes) {
            // A segment that only says more of a resource does not speak for the one that begins it.
            if super::resources::begins(rtype, segment.id()) {
                self.names.insert(name, Named::Refused);
            }
            return Err(refusal);
        }
        let visit = self.latest("Encounter").filter(|v| self.units[*v].patient == patient);
        let draft = Draft::new(rtype, self.effect.policy(rtype));
        self.units.push(Making { n, rtype, draft, segments: vec![segment], patient, visit, parent: None });
        let unit = self.units.len() - 1;
        self.names.insert(name, Named::Unit(unit));
        self.spoken.retain(|(spoken, _)| *spoken != name);
        self.spoken.push((name, unit));
        Ok(unit)
    }

    /// Whether the segment speaks of the unit of this number.
    pub(super) fn speaks_of(&self, segment: Segment<'m>, n: u32) -> bool {
        let of = |unit: &&Making<'m>| unit.n == n;
        self.units.iter().find(of).is_some_and(|unit| unit.segments.iter().any(|s| s.index() == segment.index()))
    }

    /// A number for the segment's next resource, be it made or set aside.
    fn next_number(&mut self, segment: Segment<'m>) -> u32 {
        if self.numbered.0 != segment.index() {
            self.numbered = (segment.index(), 0);
        }
        let n = unit_number(segment) + self.numbered.1.min(UNITS_PER_SEGMENT - 1);
        self.numbered.1 += 1;
        n
    }

    fn nth(&self, index: usize) -> Option<Segment<'m>> {
        self.message.segment_at(index)
    }

    /// Whether a usable PID stands after the segment, and none before it.
    fn patient_comes(&self, segment: Segment<'m>) -> bool {
        self.first_person.is_some_and(|at| at > segment.index())
    }

    /// The latest living unit of a type.
    pub fn latest(&self, rtype: &str) -> Option<usize> {
        self.spoken.iter().rev().map(|(_, unit)| *unit).find(|unit| self.units[*unit].rtype == rtype)
    }

    pub(super) fn refuse(&mut self, segment: Segment<'m>, refusal: Refusal, fates: &mut [Option<Fate>]) {
        let fate = match refusal {
            Refusal::Kept(reason) => Fate::Kept(reason),
            Refusal::SetAside(field, fault, critical) => {
                let n = unit_number(segment) + self.numbered.1.saturating_sub(1).min(UNITS_PER_SEGMENT - 1);
                self.set_aside(n, segment, field, &fault, critical);
                SET_ASIDE
            }
        };
        for (n, field) in segment.fields() {
            if !field.is_absent() && fates[n].is_none() {
                fates[n] = Some(fate.clone());
            }
        }
    }

    /// `A.path=B`, where both are there.
    fn link(&mut self, link: &Link, unit: usize) {
        let (Some(from), Some(to)) = (self.resolve(link.from, unit), self.resolve(link.to, unit)) else { return };
        if from == to {
            return;
        }
        let (from_type, to_n) = (self.units[from].rtype, self.units[to].n);
        if matches!(link.path, "result" | "supportingInfo" | "supportingInformation") && self.units[to].parent.is_none()
        {
            self.units[to].parent = Some(from);
        }
        if link.path == "partOf" && self.units[from].parent.is_none() {
            self.units[from].parent = Some(to);
        }
        let kind = fhir::definitions::type_named(from_type);
        let (top, inner) = link.path.split_once('.').unwrap_or((link.path, ""));
        let Some(property) = kind.and_then(|k| k.property(top)) else { return };
        let (path, many) = match (inner, property.kind.definition().property(inner)) {
            ("", _) => (link.path, property.element.many),
            (_, Some(below)) => (link.path, below.element.many),
            (_, None) => return,
        };
        let reference = resource_reference(to_n);
        if many {
            super::rows::append(&mut self.units[from].draft, path, reference);
        } else {
            self.units[from].draft.push(path, Change::Set(reference));
        }
    }

    fn resolve(&self, target: Target, own: usize) -> Option<usize> {
        match target {
            Target::Before => Some(own),
            Target::Latest(rtype) => self.latest(rtype),
            Target::Named(name, _) => match self.names.get(name)? {
                Named::Unit(unit) => Some(*unit),
                Named::Refused => None,
            },
        }
    }

    /// The segment of this id that belongs to the one at hand: in its group, or in the groups around it.
    pub fn near(&self, segment: Segment<'m>, id: &str) -> Option<Segment<'m>> {
        if segment.id() == id {
            return Some(segment);
        }
        let places = self.by_id.get(id)?;
        let mut at = self.at;
        loop {
            let instance = &self.instances[at];
            let (from, to) = (instance.from, instance.to);
            // The nearest before, else the first after.
            let split = places.partition_point(|p| *p < segment.index());
            let before = places[..split].last().filter(|p| **p >= from);
            let found = before.or_else(|| places[split..].first().filter(|p| **p < to));
            if let Some(index) = found {
                return self.nth(*index);
            }
            if at == 0 {
                return None;
            }
            at = instance.parent;
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
        for segment in self.message.segments().filter(|s| s.is_segment()) {
            let fate = if segment.id() == "MSH" { Fate::Kept(HEADER) } else { Fate::Unmapped };
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

    /// Tells that the segment's unit is set aside.
    fn set_aside(&mut self, unit: u32, segment: Segment<'m>, field: usize, fault: &Fault, critical: bool) {
        let place = if field == 0 { place_of(segment) } else { format!("{}-{field}", place_of(segment)) };
        self.problems.push(Problem {
            unit,
            place,
            code: fault.code,
            text: fault.text.to_owned(),
            severity: Severity::SetAside,
            critical,
        });
    }

    fn fate(&mut self, segment: Segment<'m>, field: usize, fate: Fate) {
        if self.fates.len() == self.fates_max {
            let text = "more fields than are told one by one: the rest is in the journal only";
            self.tag(Problem::WHOLE, place_of(segment), "fates-cut", text);
        }
        if self.fates.len() <= self.fates_max {
            self.fates.push(FieldFate { path: format!("{}-{field}", place_of(segment)), fate });
        }
    }

    /// The account of a segment: every valued field once.
    fn tell(&mut self, segment: Segment<'m>, mut fates: Vec<Option<Fate>>) {
        for (n, field) in segment.fields() {
            if !field.is_absent() {
                self.fate(segment, n, fates[n].take().unwrap_or(Fate::Unmapped));
            }
        }
    }

    /// One fate for every field of a segment that says something.
    fn all_fields(&mut self, segment: Segment<'m>, fate: &Fate) {
        for (n, field) in segment.fields() {
            if !field.is_absent() {
                self.fate(segment, n, fate.clone());
            }
        }
    }

    pub fn scene<'b>(&'b self, segment: Segment<'m>, own: Element<'m>, field: usize) -> At<'b, 'm> {
        At { builder: self, segment, own, field }
    }
}

/// What conditions are asked about: a segment, and the repetition at hand.
pub(super) struct At<'b, 'm> {
    builder: &'b Builder<'m>,
    segment: Segment<'m>,
    own: Element<'m>,
    field: usize,
}

impl<'m> super::plan::Scene<'m> for At<'_, 'm> {
    fn field(&self, segment: &str, field: usize) -> Element<'m> {
        if segment == self.segment.id() {
            // Of the field at hand the repetition counts.
            return if field == self.field { self.own } else { self.segment.field(field) };
        }
        if segment == "MSH" {
            return self.builder.message.segments().next().map_or(self.absent(), |s| s.field(field));
        }
        self.builder.near(self.segment, segment).map_or(self.absent(), |s| s.field(field))
    }

    fn has(&self, segment: &str) -> bool {
        self.builder.near(self.segment, segment).is_some()
    }

    fn own(&self) -> Element<'m> {
        self.own
    }

    fn absent(&self) -> Element<'m> {
        self.segment.field(usize::from(u16::MAX))
    }
}

/// The fate of every field of MSH and EVN.
const HEADER: &str = "about the message, not the patient: read by the door and kept in the journal";
const EVENT: &str = "about the event: its clock and its reason are read, the journal keeps them";

/// The name of the map for what no other map of a segment took.
fn rest_of(id: &str) -> String {
    format!("{id}[*]")
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
