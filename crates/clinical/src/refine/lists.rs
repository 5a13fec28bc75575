//! Ends what a list no longer names, where the source sends the list whole (v2.8.2 §2.10.4.1; what a list is stands in
//! `v2::lists`).
//!
//! A list ends only what the same source said last, and only what was of that list: what came by another source, by the
//! API or under an action code stays. The newest list counts, whatever comes when: of each list the clock of its newest
//! statement is kept, so that an older one which comes late ends nothing and brings nothing back.

use std::collections::{BTreeSet, HashMap};

use base::{LogicalId, Timestamp};
use fhir::json::Value;
use store::StoreError;

use super::hl7::Place;
use super::work::{Stage, State, identifiers};
use crate::source::{Lists, Source};
use crate::v2::{self, ApplyError, Draft, Key, Listing, Mapped};

/// Says of every entry of a list that it stands, so that it is there again where it had ended.
pub fn stand(mapped: &mut Mapped, source: &Source) {
    let listed: BTreeSet<u32> =
        whole(mapped, &source.lists).flat_map(|listing| listing.units.iter().copied()).collect();
    for unit in mapped.units.iter_mut().filter(|unit| listed.contains(&unit.n)) {
        v2::stands(&mut unit.draft);
        unit.draft.keep_to(&source.authority);
    }
}

fn whole<'a>(mapped: &'a Mapped, lists: &'a Lists) -> impl Iterator<Item = &'a Listing> {
    mapped.lists.iter().filter(|listing| lists.is_whole(listing.segment))
}

/// Ends what the lists of a message no longer name; how many entries that were. `source_uri` is what `meta.source` says
/// of this message.
pub async fn settle(
    stage: &mut Stage<'_, '_>,
    mapped: &Mapped,
    source: &Source,
    places: &HashMap<u32, Place>,
    source_uri: &str,
) -> Result<u64, StoreError> {
    let Some(clock) = mapped.event.clock else { return Ok(0) };
    let mut ended = 0;
    for listing in whole(mapped, &source.lists) {
        let Some(of) = places.get(&listing.of) else { continue };
        let list = format!("{} {}{} {}", source.name, listing.segment, listing.suffix, of.reference());
        let newest = stage.list_clock(&list).await?;
        if let Some(newest) = newest.filter(|newest| clock < *newest) {
            // What only an overtaken list names had ended before it was heard of.
            for place in listing.units.iter().filter_map(|n| places.get(n)).filter(|place| place.is_new) {
                ended += u64::from(end(stage, listing.rtype, &place.id, newest, source, source_uri).await?);
            }
            continue;
        }
        stage.set_list_clock(list, clock);
        // An entry whose record cannot be told might be any of those that would end.
        if listing.units.iter().any(|n| !places.contains_key(n)) {
            continue;
        }
        let named: BTreeSet<&LogicalId> = listing.units.iter().filter_map(|n| places.get(n)).map(|p| &p.id).collect();
        for id in entries(stage, listing, of, source_uri).await? {
            if !named.contains(&id) {
                ended += u64::from(end(stage, listing.rtype, &id, clock, source, source_uri).await?);
            }
        }
    }
    Ok(ended)
}

/// The entries of a list that this source said last.
async fn entries(
    stage: &mut Stage<'_, '_>,
    listing: &Listing,
    of: &Place,
    source_uri: &str,
) -> Result<Vec<LogicalId>, StoreError> {
    let Some(owner) = stage.current(of.rtype, &of.id).await? else { return Ok(Vec::new()) };
    let patient = match of.rtype {
        "Patient" => Some(of.id.clone()),
        _ => fhir::reference::patient_reference(&owner.body)
            .and_then(|text| LogicalId::parse(text.strip_prefix("Patient/")?).ok()),
    };
    let Some(patient) = patient else { return Ok(Vec::new()) };
    let speaker = source_uri.split('#').next().unwrap_or(source_uri);
    let within = format!("{}#", of.reference());
    let mut entries = Vec::new();
    for (id, state) in stage.about(listing.rtype, &patient, owner.patient).await? {
        let source = state.body.path(&["meta", "source"]).and_then(Value::as_str).unwrap_or_default();
        let said_last = source.split('#').next() == Some(speaker);
        let of_list = identifiers(&state.body).any(|(system, value)| {
            system == Key::WITHIN_SYSTEM && value.strip_prefix(&within).is_some_and(|rest| listing.holds(rest))
        });
        if said_last && of_list && !in_error(&state) {
            entries.push(id);
        }
    }
    Ok(entries)
}

/// What was taken back has no end (R4 ait-2, con-5).
fn in_error(state: &State) -> bool {
    let codings = state.body.path(&["verificationStatus", "coding"]).map(Value::items).unwrap_or_default();
    codings.iter().any(|coding| coding.get("code").and_then(Value::as_str) == Some("entered-in-error"))
}

async fn end(
    stage: &mut Stage<'_, '_>,
    rtype: &'static str,
    id: &LogicalId,
    clock: Timestamp,
    source: &Source,
    source_uri: &str,
) -> Result<bool, StoreError> {
    let Some(state) = stage.current(rtype, id).await?.filter(|state| !state.deleted) else { return Ok(false) };
    let mut draft: Draft = v2::ended(rtype);
    draft.clock = Some(clock);
    draft.keep_to(&source.authority);
    match draft.apply(&Key::Identifiers(Vec::new()), Some(&state.body), &|_| None) {
        Ok(Some(next)) => {
            stage.put(rtype, id, state.patient, next, source_uri).await?;
            Ok(true)
        }
        Ok(None) | Err(ApplyError::Stale | ApplyError::ParentMissing) => Ok(false),
    }
}
