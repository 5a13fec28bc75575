//! HL7 v2 messages, applied unit by unit: found again by key, drafted onto what stands, checked, staged.
//!
//! The message's meaning is `v2`'s; here is what meets the state. A unit that cannot be used is set aside alone.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use base::{LogicalId, Ordinal, SourceName, Timestamp};
use fhir::json::Value;
use fhir::validate::Severity as IssueSeverity;
use parking_lot::Mutex;
use store::SetAside;

use super::fhir::{Failure, patient_of};
use super::work::{Stage, Work};
use super::{Gathered, RefineError, Refiner, WHOLE, source_uri};
use super::{lists, moves};
use crate::journal::JournalEntry;
use crate::v2::{self, ApplyError, Key, Mapped, Problem, Sender, Severity, Unit};

/// What became of one unit.
enum Done {
    Written,
    /// The message said nothing new, or was overtaken by a later one.
    Unchanged(&'static str),
    SetAside {
        code: &'static str,
        reason: String,
    },
}

/// Whether a message is refined for the first time.
#[derive(Debug, Clone, Copy)]
pub(super) enum Again<'a> {
    First,
    /// Only these units; the others are found and not changed.
    Only(&'a HashSet<u32>),
    /// All of it, after its mapping changed or its source left shadow.
    Whole,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct How<'a> {
    pub again: Again<'a>,
    /// When what it makes is made.
    pub at: Timestamp,
}

impl Refiner {
    /// What a message of a source in shadow would become: counted, and nothing made of it.
    pub(super) fn look_at(
        &self,
        gathered: &mut Gathered,
        entry: &JournalEntry,
        mapped: Result<Mapped, hl7v2::Malformed>,
    ) {
        let source = &entry.envelope.source;
        match mapped {
            Ok(mapped) => {
                let aside = |problem: &&Problem| problem.severity == Severity::SetAside;
                gathered.count(source, "shadow-set-aside", mapped.problems.iter().filter(aside).count() as u64);
                gathered.count(source, "shadow-units", mapped.units.len() as u64);
                count_fates(gathered, source, &mapped);
            }
            Err(_) => gathered.count(source, "shadow-set-aside", 1),
        }
    }

    /// Refines a message, mapped by [`Refiner::map`].
    pub(super) async fn refine_hl7(
        &self,
        work: &mut Work<'_>,
        gathered: &mut Gathered,
        entry: &JournalEntry,
        mapped: Result<Mapped, hl7v2::Malformed>,
        how: How<'_>,
    ) -> Result<(), RefineError> {
        let source = &entry.envelope.source;
        let only = match how.again {
            Again::Only(units) => Some(units),
            Again::First | Again::Whole => None,
        };
        let mut mapped = match mapped {
            Ok(mapped) => mapped,
            Err(fault) => {
                self.set_aside_whole(gathered, entry, "malformed", &fault.to_string());
                return Ok(());
            }
        };
        let wanted = |unit: u32| only.is_none_or(|only| only.contains(&unit) || only.contains(&WHOLE));
        for problem in mapped.problems.iter().filter(|problem| wanted(problem.unit)) {
            match problem.severity {
                Severity::SetAside => gathered.set_aside.push(aside(entry, problem, how.at)),
                Severity::Tag => gathered.count(source, "tagged", 1),
            }
        }
        let declared = self.sources.get(source).cloned();
        if matches!(how.again, Again::First) {
            count_fates(gathered, source, &mapped);
        }
        if let (None, Some(declared)) = (only, &declared) {
            lists::stand(&mut mapped, declared);
        }
        let mut stage = work.stage(entry.index, how.at);
        // First every unit gets its id, since references lead forward too (a report to its results); then each is
        // applied, what refers forward last, so that it leaves out what was set aside.
        let mut places: HashMap<u32, Place> = HashMap::new();
        let mut failed: Vec<(&Unit, &'static str, String)> = Vec::new();
        for unit in &mapped.units {
            match self.place(&mut stage, entry.index, unit, &places, wanted(unit.n)).await? {
                Ok(Some(mut place)) => {
                    // Made by this very message before, and known by other numbers now: it is changed, not made anew.
                    if place.is_new && matches!(how.again, Again::Whole) {
                        let stands = stage.current(place.rtype, &place.id).await?;
                        place.is_new = stands.is_none_or(|state| state.deleted);
                    }
                    places.insert(unit.n, place);
                }
                Ok(None) => {}
                Err((code, reason)) => failed.push((unit, code, reason)),
            }
        }
        for unit in mapped.apply_order().into_iter().map(|at| &mapped.units[at]) {
            let Some(place) = places.get(&unit.n).cloned() else { continue };
            if !wanted(unit.n) {
                self.carry_out_moves(&mut stage, gathered, entry, &mapped, unit, &place, &wanted).await?;
                continue;
            }
            if matches!(how.again, Again::Whole) && self.is_overtaken(entry.index, &place).await? {
                gathered.count(source, "units-overtaken", 1);
                continue;
            }
            match self.apply_unit(&mut stage, entry, unit, &place, &places).await? {
                Done::Written => gathered.count(source, "units-written", 1),
                Done::Unchanged(counter) => gathered.count(source, counter, 1),
                Done::SetAside { code, reason } => {
                    if place.is_new {
                        places.remove(&unit.n);
                    }
                    failed.push((unit, code, reason));
                    continue;
                }
            }
            self.carry_out_moves(&mut stage, gathered, entry, &mapped, unit, &place, &wanted).await?;
        }
        if let (None, Some(declared)) = (only, &declared) {
            let uri = source_uri(&self.domain, &entry.envelope);
            let ended = lists::settle(&mut stage, &mapped, declared, &places, &uri).await?;
            gathered.count(source, "entries-ended", ended);
        }
        for (unit, code, reason) in failed.into_iter().filter(|(unit, ..)| wanted(unit.n)) {
            let critical = mapped.problems.iter().any(|p| p.unit == unit.n && p.critical) || is_critical(unit);
            gathered.set_aside.push(SetAside {
                index: entry.index,
                unit: unit.n,
                source: source.clone(),
                place: unit.place.clone(),
                code: code.into(),
                reason,
                critical,
                at: how.at,
            });
        }
        for named in &mapped.named {
            self.touch(&mut stage, named).await?;
        }
        stage.keep();
        Ok(())
    }

    /// The entry is about everybody whom it names, also where that could not be used: its key must not outlive any of
    /// them (law 10). Who is not known yet is somebody else until known, so that the key is held by nobody alone.
    async fn touch(&self, stage: &mut Stage<'_, '_>, named: &v2::Named) -> Result<(), RefineError> {
        let mut is_known = false;
        for (rtype, system, value) in &named.numbers {
            is_known |= !stage.find(rtype, system, value).await?.is_empty();
        }
        if !is_known {
            stage.work.touched.insert(Ordinal::UNKNOWN);
        }
        Ok(())
    }

    /// Results have no clock of their elements: one that was corrected since does not go back to what an earlier message
    /// said.
    async fn is_overtaken(&self, index: u64, place: &Place) -> Result<bool, RefineError> {
        if place.is_new || !matches!(place.rtype, "Observation" | "DiagnosticReport" | "Specimen") {
            return Ok(false);
        }
        let newest = self.silver.newest_position(&self.domain, place.rtype, &place.id).await?;
        Ok(newest.is_some_and(|newest| newest > index))
    }

    /// The moves to the patient that this unit speaks of: before the units of what moves, which then speak of the same
    /// patient as the record.
    #[allow(clippy::too_many_arguments)] // One message at work.
    async fn carry_out_moves(
        &self,
        stage: &mut Stage<'_, '_>,
        gathered: &mut Gathered,
        entry: &JournalEntry,
        mapped: &Mapped,
        unit: &Unit,
        place: &Place,
        wanted: &(dyn Fn(u32) -> bool + Sync),
    ) -> Result<(), RefineError> {
        for mv in mapped.moves.iter().filter(|mv| mv.to == unit.n && wanted(mv.n)) {
            let source = source_uri(&self.domain, &entry.envelope);
            if let Err((code, reason)) = moves::carry_out(stage, mv, &place.id, &source).await? {
                let (text, severity) = (reason.to_owned(), Severity::SetAside);
                let problem = Problem { unit: mv.n, place: mv.place.clone(), code, text, severity, critical: false };
                gathered.set_aside.push(aside(entry, &problem, stage.received));
            } else {
                gathered.count(&entry.envelope.source, "moves", 1);
            }
        }
        Ok(())
    }

    /// What a message says. Looks at no state.
    pub(super) fn map(&self, entry: &JournalEntry) -> Result<Mapped, hl7v2::Malformed> {
        let message = hl7v2::parse(entry.body.expose(), &self.limits)?;
        let none = std::collections::BTreeMap::new();
        let received = Some(entry.envelope.received);
        let name = entry.envelope.source.as_str();
        let unknown = Sender { name, utc_offset: None, assigners: &none, units: &none, authority: &[], received };
        let source = self.sources.get(&entry.envelope.source);
        let sender = source.map_or(unknown, |source| source.sender(received));
        Ok(v2::map(&message, &sender, &self.limits))
    }

    /// The id of the resource a unit speaks of: found, or minted where the unit may make it. The inner error sets the
    /// unit aside.
    async fn place(
        &self,
        stage: &mut Stage<'_, '_>,
        index: u64,
        unit: &Unit,
        places: &HashMap<u32, Place>,
        may_make: bool,
    ) -> Result<Result<Option<Place>, (&'static str, String)>, RefineError> {
        Ok(match find(stage, unit, places).await? {
            Found::One(id) => Ok(Some(Place { rtype: unit.draft.rtype, id, is_new: false })),
            Found::None if may_make => {
                Ok(Some(Place { rtype: unit.draft.rtype, id: self.ids.mint(index, unit.n), is_new: true }))
            }
            Found::None => Ok(None),
            Found::Many => {
                let reason = "more than one record carries this identifier: link or merge them, then replay";
                Err(("ambiguous", reason.to_owned()))
            }
            Found::NoParent => Err(("parent-missing", ApplyError::ParentMissing.to_string())),
        })
    }

    async fn apply_unit(
        &self,
        stage: &mut Stage<'_, '_>,
        entry: &JournalEntry,
        unit: &Unit,
        place: &Place,
        places: &HashMap<u32, Place>,
    ) -> Result<Done, RefineError> {
        let before = if place.is_new { None } else { stage.current(place.rtype, &place.id).await? };
        let current = before.as_ref().map(|state| &*state.body);
        let applied = unit.draft.apply(&unit.key, current, &|n| places.get(&n).map(Place::reference));
        let next = match applied {
            Ok(Some(next)) => next,
            Ok(None) => return Ok(Done::Unchanged("units-unchanged")),
            Err(ApplyError::Stale) => return Ok(Done::Unchanged("units-overtaken")),
            Err(error @ ApplyError::ParentMissing) => {
                return Ok(Done::SetAside { code: "parent-missing", reason: error.to_string() });
            }
        };
        if let Some(issue) = first_error(&next) {
            return Ok(Done::SetAside { code: "invalid", reason: issue });
        }
        let patient = match self.patient(stage, place.rtype, &next, before.as_ref()).await? {
            Ok(patient) => patient,
            Err(reason) => return Ok(Done::SetAside { code: "patient", reason }),
        };
        stage.put(place.rtype, &place.id, patient, next, &source_uri(&self.domain, &entry.envelope)).await?;
        Ok(Done::Written)
    }

    /// The source record; the inner error is a reason to set the unit aside.
    async fn patient(
        &self,
        stage: &mut Stage<'_, '_>,
        rtype: &str,
        next: &Value,
        before: Option<&super::work::State>,
    ) -> Result<Result<Ordinal, String>, RefineError> {
        match patient_of(stage, rtype, next, before, "").await {
            Ok(patient) => match before {
                Some(state) if state.patient != patient && state.patient.is_patient() => {
                    Ok(Err("the record belongs to another patient already: check the identifiers, then replay".into()))
                }
                _ => Ok(Ok(patient)),
            },
            Err(Failure::Refused(refused)) => Ok(Err(refused.issue.text)),
            Err(Failure::Store(error)) => Err(error.into()),
        }
    }
}

/// Where a unit's resource stands.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub rtype: &'static str,
    pub id: LogicalId,
    pub is_new: bool,
}

impl Place {
    pub fn reference(&self) -> String {
        format!("{}/{}", self.rtype, self.id)
    }
}

enum Found {
    None,
    One(LogicalId),
    Many,
    NoParent,
}

/// The resource this unit speaks of, by the most certain of its keys that finds one.
async fn find(stage: &mut Stage<'_, '_>, unit: &Unit, places: &HashMap<u32, Place>) -> Result<Found, RefineError> {
    let rtype = unit.draft.rtype;
    let within;
    let keys: &[(String, String)] = match &unit.key {
        Key::Identifiers(keys) => keys,
        Key::Within { unit, natural } => {
            let Some(parent) = places.get(unit) else { return Ok(Found::NoParent) };
            if stage.is_fresh(parent.rtype, &parent.id) {
                // Silver knows nothing within what it does not know.
                let value = Key::within(&parent.reference(), natural);
                return Ok(found(stage.find_staged(rtype, Key::WITHIN_SYSTEM, &value).await?));
            }
            within = [(Key::WITHIN_SYSTEM.to_owned(), Key::within(&parent.reference(), natural))];
            &within
        }
    };
    for (system, value) in keys {
        match found(stage.find(rtype, system, value).await?) {
            Found::None => {}
            other => return Ok(other),
        }
    }
    Ok(Found::None)
}

fn found(mut ids: Vec<LogicalId>) -> Found {
    match ids.len() {
        0 | 1 => ids.pop().map_or(Found::None, Found::One),
        _ => Found::Many,
    }
}

fn aside(entry: &JournalEntry, problem: &Problem, at: Timestamp) -> SetAside {
    SetAside {
        index: entry.index,
        unit: problem.unit,
        source: entry.envelope.source.clone(),
        place: problem.place.clone(),
        code: problem.code.into(),
        reason: problem.text.clone(),
        critical: problem.critical,
        at,
    }
}

/// Every valued field is mapped, kept on purpose, or not mapped yet: counted per source, and per source and type.
fn count_fates(gathered: &mut Gathered, source: &SourceName, mapped: &Mapped) {
    let totals = mapped.totals();
    let counted =
        [("fields-mapped", totals.mapped), ("fields-kept", totals.kept), ("fields-unmapped", totals.unmapped)];
    for (counter, n) in counted {
        gathered.count(source, counter, n);
        gathered.count(source, of_type(counter, &mapped.event.code), n);
    }
    for told in mapped.fates.iter().filter(|told| told.fate == v2::Fate::Unmapped) {
        *gathered.unmapped.entry((source.clone(), field_of(&told.path))).or_default() += 1;
    }
}

/// `OBX-5` of `OBX[2]-5`. A line that is no segment begins with whatever its sender wrote: it has no name here.
fn field_of(path: &str) -> String {
    match path.parse::<hl7v2::Path>() {
        Ok(path) => format!("{}-{}", path.segment, path.field),
        Err(_) => "no segment".to_owned(),
    }
}

/// The counter of a type of message: `fields-mapped-adt`. Types without a map share one.
fn of_type(counter: &'static str, code: &str) -> &'static str {
    type Names = HashMap<(&'static str, String), &'static str>;
    static NAMES: LazyLock<Mutex<Names>> = LazyLock::new(Mutex::default);
    let code = if v2::has_map(code) { code.to_lowercase() } else { "other".to_owned() };
    let mut names = NAMES.lock();
    match names.get(&(counter, code.clone())) {
        Some(name) => name,
        None => {
            // One for each of a few types, for the life of the process.
            let name: &'static str = Box::leak(format!("{counter}-{code}").into_boxed_str());
            names.insert((counter, code), name);
            name
        }
    }
}

/// What we made ourselves must be valid FHIR; otherwise a person looks at it.
fn first_error(resource: &Value) -> Option<String> {
    fhir::validate::validate(resource)
        .into_iter()
        .find(|issue| matches!(issue.severity, IssueSeverity::Error | IssueSeverity::Fatal))
        .map(|issue| format!("{}: {}", issue.expression, issue.text))
}

/// An observation flagged HH, LL or AA (HL7 table 0078).
fn is_critical(unit: &Unit) -> bool {
    unit.draft.fields.iter().any(|field| {
        field.path == "interpretation"
            && match &field.change {
                v2::Change::Set(value) | v2::Change::SetUnless(value, _) | v2::Change::Default(value) => {
                    has_critical_code(value)
                }
                v2::Change::Items { values, .. } | v2::Change::Add(values) => values.iter().any(has_critical_code),
                v2::Change::Remove
                | v2::Change::RemoveItems { .. }
                | v2::Change::Take(_)
                | v2::Change::EndInto(_)
                | v2::Change::Restore(_) => false,
            }
    })
}

fn has_critical_code(value: &Value) -> bool {
    match value {
        Value::Array(list) => list.iter().any(has_critical_code),
        Value::Object(object) => {
            object.get("code").and_then(Value::as_str).is_some_and(|code| matches!(code, "HH" | "LL" | "AA"))
                || object.get("coding").is_some_and(has_critical_code)
        }
        _ => false,
    }
}
