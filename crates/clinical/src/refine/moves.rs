//! Moves from one patient's record to another's: a number with all that came under it, an account, a visit (v2.8.2
//! §3.3.43 to §3.3.45).
//!
//! What moves keeps its id and gets a version that is about the other patient; its earlier versions stay where they were
//! written. A move that cannot be told apart from a wrong one is set aside whole.

use std::collections::BTreeSet;

use base::{LogicalId, Ordinal};
use fhir::json::Value;
use fhir::reference::for_each_reference_mut;
use store::StoreError;

use super::work::{Key, Stage, State, identifiers};
use crate::v2::{self, Move, MoveOf};

/// Resources that one move takes at most; more is a matter for a person.
const MOVED_MAX: usize = 10_000;

/// Why a move is set aside: its code, and a sentence.
pub type Aside = (&'static str, &'static str);

const AMBIGUOUS: Aside = (
    "move-ambiguous",
    "more than one record carries the number that the move is from: link or merge them, then replay",
);
const PARTIAL: Aside = (
    "move-partial",
    "the number was moved; the record keeps another number of the same assigner, and what came under which of them is not \
     known: move its visits and accounts by A44 and A45, or by hand",
);
const OTHER_OWNER: Aside =
    ("move-of-another", "what moves belongs to neither of the two patients: check the identifiers, then replay");
const TOO_MUCH: Aside = ("move-too-large", "the record holds more than one move may take: move it in parts");

/// Carries a move out, once the patient it goes to stands. What was moved already is left as it is.
pub async fn carry_out(
    stage: &mut Stage<'_, '_>,
    mv: &Move,
    to: &LogicalId,
    source: &str,
) -> Result<Result<(), Aside>, StoreError> {
    let Some(target) = stage.current("Patient", to).await?.filter(|state| !state.deleted) else { return Ok(Ok(())) };
    match mv.what {
        MoveOf::Numbers => numbers(stage, mv, to, &target, source).await,
        MoveOf::Account | MoveOf::Visit => parts(stage, mv, to, &target, source).await,
    }
}

/// A43.
async fn numbers(
    stage: &mut Stage<'_, '_>,
    mv: &Move,
    to: &LogicalId,
    target: &State,
    source: &str,
) -> Result<Result<(), Aside>, StoreError> {
    let mut holders = carriers(stage, &mv.numbers).await?;
    holders.remove(to);
    let named = carriers(stage, &mv.from).await?;
    let owner = match holders.pop_first() {
        // Nobody else has it: it is the target's, by PID-3.
        None => return Ok(Ok(())),
        Some(_) if !holders.is_empty() => return Ok(Err(AMBIGUOUS)),
        Some(owner) if named.is_empty() || named.contains(&owner) => owner,
        Some(_) => return Ok(Err(OTHER_OWNER)),
    };
    let Some(from) = stage.current("Patient", &owner).await? else { return Ok(Ok(())) };
    let moved = |(system, value): (&str, &str)| mv.numbers.iter().any(|(s, v)| s == system && v == value);
    let left: Vec<&str> = identifiers(&from.body).filter(|number| !moved(*number)).map(|(system, _)| system).collect();
    let keeps_like = left.iter().any(|system| mv.numbers.iter().any(|(moved, _)| moved == system));
    if !keeps_like {
        let Some(record) = stage.record(from.patient, MOVED_MAX).await? else { return Ok(Err(TOO_MUCH)) };
        for (key, state) in record {
            transfer(stage, &key, state, &owner, to, target.patient, source).await?;
        }
    }
    // The number itself: taken from the one, and given to the other, where PID-3 does not say it.
    let mut gone = (*from.body).clone();
    let mut taken = Vec::new();
    if let Some(list) = gone.as_object_mut().and_then(|o| o.get_mut("identifier")).and_then(Value::as_array_mut) {
        let (out, stay): (Vec<Value>, Vec<Value>) = std::mem::take(list).into_iter().partition(|i| {
            let part = |name| i.get(name).and_then(Value::as_str).unwrap_or_default();
            moved((part("system"), part("value")))
        });
        (taken, *list) = (out, stay);
    }
    if left.is_empty() {
        end(&mut gone, to);
    }
    stage.put("Patient", &owner, from.patient, gone, source).await?;
    let mut given = (*target.body).clone();
    let new: Vec<Value> = taken.into_iter().filter(|item| !carries(&given, item)).map(as_old).collect();
    if !new.is_empty() {
        v2::add_items(&mut given, "identifier", new);
        stage.put("Patient", to, target.patient, given, source).await?;
    }
    Ok(if keeps_like { Err(PARTIAL) } else { Ok(()) })
}

/// The Patients that carry any of the numbers.
async fn carriers(stage: &mut Stage<'_, '_>, numbers: &[(String, String)]) -> Result<BTreeSet<LogicalId>, StoreError> {
    let mut found = BTreeSet::new();
    for (system, value) in numbers {
        found.extend(stage.find("Patient", system, value).await?);
    }
    Ok(found)
}

fn carries(patient: &Value, item: &Value) -> bool {
    let part = |name| item.get(name).and_then(Value::as_str).unwrap_or_default();
    identifiers(patient).any(|(system, value)| system == part("system") && value == part("value"))
}

/// A number that the message gives up for those of PID-3: who asks by it is still led here.
fn as_old(item: Value) -> Value {
    let mut item = item;
    if let Some(object) = item.as_object_mut() {
        object.remove("id");
        object.insert("use", "old");
    }
    item
}

/// Nothing is left of a record whose last number moved: whoever holds its id is led to where its content is.
fn end(patient: &mut Value, to: &LogicalId) {
    let link = fhir::json!({"other": {"reference": (format!("Patient/{to}"))}, "type": "replaced-by"});
    if let Some(object) = patient.as_object_mut() {
        object.remove("identifier");
        object.insert("active", false);
    }
    v2::add_items(patient, "link", vec![link]);
}

/// A44, A45: the account or visit, and whatever hangs on it.
async fn parts(
    stage: &mut Stage<'_, '_>,
    mv: &Move,
    to: &LogicalId,
    target: &State,
    source: &str,
) -> Result<Result<(), Aside>, StoreError> {
    let types: &[&str] = if mv.what == MoveOf::Account { &["Account", "Encounter"] } else { &["Encounter"] };
    let mut roots: BTreeSet<Key> = BTreeSet::new();
    let mut owners: BTreeSet<Ordinal> = BTreeSet::new();
    for rtype in types {
        for (system, value) in &mv.numbers {
            for id in stage.find(rtype, system, value).await? {
                let Some(state) = stage.current(rtype, &id).await? else { continue };
                if state.patient != target.patient {
                    owners.insert(state.patient);
                    roots.insert(((*rtype).to_owned(), id));
                }
            }
        }
    }
    let mut told: Vec<(LogicalId, Ordinal)> = Vec::new();
    for id in carriers(stage, &mv.from).await? {
        let Some(state) = stage.current("Patient", &id).await? else { continue };
        told.push((id, state.patient));
    }
    for owner in owners {
        let from = match told.iter().find(|(_, patient)| *patient == owner) {
            Some((id, _)) => Some(id.clone()),
            // MRG-1 names nobody we know, or says nothing: whose it is stands in the record itself.
            None if told.is_empty() => owner_of(stage, owner, &roots).await?,
            None => None,
        };
        let Some(from) = from else { return Ok(Err(OTHER_OWNER)) };
        let Some(record) = stage.record(owner, MOVED_MAX).await? else { return Ok(Err(TOO_MUCH)) };
        let moving = hanging(&record, &roots);
        for (key, state) in record.into_iter().filter(|(key, _)| moving.contains(key)) {
            transfer(stage, &key, state, &from, to, target.patient, source).await?;
        }
    }
    Ok(Ok(()))
}

/// The Patient that what moves refers to.
async fn owner_of(
    stage: &mut Stage<'_, '_>,
    owner: Ordinal,
    roots: &BTreeSet<Key>,
) -> Result<Option<LogicalId>, StoreError> {
    for (rtype, id) in roots {
        let Some(state) = stage.current(rtype, id).await? else { continue };
        if state.patient != owner {
            continue;
        }
        let of = fhir::reference::patient_reference(&state.body).and_then(|text| text.strip_prefix("Patient/"));
        return Ok(of.and_then(|id| LogicalId::parse(id).ok()));
    }
    Ok(None)
}

/// What moves with the roots: whatever refers to something that moves, and the results of reports that do.
fn hanging(record: &[(Key, State)], roots: &BTreeSet<Key>) -> BTreeSet<Key> {
    let mut moving = roots.clone();
    loop {
        let before = moving.len();
        for (key, state) in record {
            let (mut hangs, mut results) = (false, Vec::new());
            fhir::reference::for_each_reference(&state.body, &mut |place, reference| {
                let Some(other) = local(reference) else { return };
                hangs |= moving.contains(&other);
                if place.starts_with("DiagnosticReport.result") {
                    results.push(other);
                }
            });
            if hangs {
                moving.insert(key.clone());
            }
            if moving.contains(key) {
                moving.extend(results.into_iter().filter(|other| record.iter().any(|(key, _)| key == other)));
            }
        }
        if moving.len() == before {
            return moving;
        }
    }
}

fn local(reference: &Value) -> Option<Key> {
    let (rtype, id) = reference.get("reference")?.as_str()?.split_once('/')?;
    Some((rtype.to_owned(), LogicalId::parse(id).ok()?))
}

/// The next version of a resource, about the other patient.
async fn transfer(
    stage: &mut Stage<'_, '_>,
    (rtype, id): &Key,
    state: State,
    from: &LogicalId,
    to: &LogicalId,
    patient: Ordinal,
    source: &str,
) -> Result<(), StoreError> {
    let (old, new) = (format!("Patient/{from}"), format!("Patient/{to}"));
    let mut body = (*state.body).clone();
    for_each_reference_mut(&mut body, &mut |_, reference| {
        if let Some(object) = reference.as_object_mut()
            && object.get("reference").and_then(Value::as_str) == Some(&old)
        {
            object.insert("reference", new.as_str());
        }
    });
    // What has no number of its own is found within the patient it is about.
    let list = body.as_object_mut().and_then(|o| o.get_mut("identifier")).and_then(Value::as_array_mut);
    for item in list.into_iter().flatten().filter_map(Value::as_object_mut) {
        let within = item.get("system").and_then(Value::as_str) == Some(v2::Key::WITHIN_SYSTEM);
        let rest = item.get("value").and_then(Value::as_str).and_then(|value| value.strip_prefix(&old));
        if let Some(rest) = rest.filter(|rest| within && rest.starts_with('#')) {
            let value = format!("{new}{rest}");
            item.insert("value", value);
        }
    }
    stage.put(rtype, id, patient, body, source).await?;
    Ok(())
}
