//! Earlier entries once more: replays after their cause was put right, and results that a person matched.
//!
//! Each is an entry of the journal itself, so that a rebuild decides the same.

use std::collections::HashSet;

use base::{LogicalId, Ordinal, Permit, Write};
use fhir::json::Value;
use store::SetAside;

use super::hl7::{Again, How};
use super::work::{Stage, State, Work};
use super::{BATCH_BYTES_MAX, Gathered, RefineError, Refiner, source_uri};
use crate::envelope::{Content, Matched};
use crate::journal::JournalEntry;

/// What can wait for its patient or its order.
pub const MATCHABLE: [&str; 4] = ["DiagnosticReport", "Observation", "Specimen", "DocumentReference"];

/// Marks what a match said, so that taking it back takes back this and nothing else.
const MATCHED: &str = "urn:wardmesh:matched";

impl Refiner {
    /// An earlier entry as it can be refined: the message itself, or what an erasure left of it.
    async fn earlier(
        &self,
        bronze: &Permit<Write>,
        request: &JournalEntry,
        of: u64,
    ) -> Result<Option<JournalEntry>, RefineError> {
        if of >= request.index {
            return Ok(None);
        }
        let Some(Ok(mut earlier)) = self.journal.read(bronze, of, 1, BATCH_BYTES_MAX).await?.pop() else {
            return Ok(None);
        };
        if let Content::Redacted { hl7v2: true, .. } = earlier.envelope.content
            && let Some(left) = crate::redact::Left::from_bytes(earlier.body.expose())
            && let Some(raw) = left.raw
        {
            earlier.envelope.content = Content::Hl7v2;
            earlier.body = base::Phi::new(raw.into());
        }
        // A FHIR write was answered when it came; its sender knows. Nothing of it is set aside.
        Ok((earlier.envelope.content == Content::Hl7v2).then_some(earlier))
    }

    /// Refines again what was set aside of an earlier entry, or the whole of it; what then works is marked resolved.
    pub(super) async fn replay(
        &self,
        bronze: &Permit<Write>,
        work: &mut Work<'_>,
        gathered: &mut Gathered,
        request: &JournalEntry,
        of: u64,
        whole: bool,
    ) -> Result<(), RefineError> {
        let open: HashSet<u32> = self.silver.open_set_aside(&self.domain, of).await?.into_iter().collect();
        let earlier = if whole || !open.is_empty() { self.earlier(bronze, request, of).await? } else { None };
        let Some(earlier) = earlier else {
            gathered.count(&request.envelope.source, "replay-without-effect", 1);
            return Ok(());
        };
        if earlier.envelope.shadow && whole {
            let known = self.entered(&earlier);
            gathered.entries.push(store::Entered { shadow: false, identifiers: Vec::new(), ..known });
        }
        let again = if whole { Again::Whole } else { Again::Only(&open) };
        let asides = gathered.set_aside.len();
        let how = How { again, at: request.envelope.received };
        let mapped = self.map(&earlier);
        self.refine_hl7(work, gathered, &earlier, mapped, how).await?;
        let new = gathered.set_aside.split_off(asides);
        let still: HashSet<u32> = new.iter().map(|aside| aside.unit).collect();
        gathered.resolved.extend(open.difference(&still).map(|unit| (of, *unit)));
        // What was set aside before stays as it was told; what now is for the first time is told.
        gathered.set_aside.extend(new.into_iter().filter(|aside| !open.contains(&aside.unit)));
        Ok(())
    }

    /// Gives the results of an earlier entry, which could not find their patient or order, the ones that a person
    /// names; or takes that back.
    pub(super) async fn match_results(
        &self,
        bronze: &Permit<Write>,
        work: &mut Work<'_>,
        gathered: &mut Gathered,
        request: &JournalEntry,
        matched: &Matched,
    ) -> Result<(), RefineError> {
        let Some(earlier) = self.earlier(bronze, request, matched.of).await? else {
            gathered.count(&request.envelope.source, "match-without-effect", 1);
            return Ok(());
        };
        let permit = self.permit(base::Layer::Silver)?;
        let made = self.silver.entry_versions(&permit, &self.domain, matched.of).await?;
        let mut targets: Vec<(String, LogicalId)> = Vec::new();
        for version in made.into_iter().filter(|version| MATCHABLE.contains(&version.rtype.as_str())) {
            let key = (version.rtype, version.id);
            if !targets.contains(&key) {
                targets.push(key);
            }
        }
        let source = source_uri(&self.domain, &request.envelope);
        let mut stage = work.stage(request.index, request.envelope.received);
        let patient = match &matched.patient {
            Some(id) if !matched.undo => match whom(&mut stage, id).await? {
                Some(patient) => Some(patient),
                None => {
                    stage.discard();
                    gathered.count(&request.envelope.source, "match-without-effect", 1);
                    return Ok(());
                }
            },
            _ => None,
        };
        let mut changed = 0;
        for (rtype, id) in targets {
            let Some(state) = stage.current(&rtype, &id).await?.filter(|state| !state.deleted) else { continue };
            let next = if matched.undo { unmatched(&state) } else { joined(&rtype, &state, patient.as_ref(), matched) };
            if let Some((body, patient)) = next {
                stage.put(&rtype, &id, patient, body, &source).await?;
                changed += 1;
            }
        }
        stage.keep();
        gathered.count(&request.envelope.source, "results-matched", changed);
        self.settle_asides(gathered, &earlier, matched).await
    }

    /// What was set aside for want of a patient is settled with the match, and waits again when it is taken back.
    async fn settle_asides(
        &self,
        gathered: &mut Gathered,
        earlier: &JournalEntry,
        matched: &Matched,
    ) -> Result<(), RefineError> {
        if matched.patient.is_none() && !matched.undo {
            return Ok(());
        }
        for entry in self.silver.set_aside_of(&self.domain, earlier.index).await? {
            let about_patient = matches!(entry.unit.code.as_str(), "patient-unidentified" | "patient-missing");
            match (about_patient, matched.undo) {
                (true, false) if !entry.resolved => gathered.resolved.push((earlier.index, entry.unit.unit)),
                (true, true) if entry.resolved => gathered.set_aside.push(SetAside { ..entry.unit }),
                _ => {}
            }
        }
        Ok(())
    }
}

/// A living Patient of the domain, by id.
async fn whom(stage: &mut Stage<'_, '_>, id: &str) -> Result<Option<(String, Ordinal)>, RefineError> {
    let Ok(id) = LogicalId::parse(id) else { return Ok(None) };
    let state = stage.current("Patient", &id).await?.filter(|state| !state.deleted);
    Ok(state.map(|state| (format!("Patient/{id}"), state.patient)))
}

fn reference(to: &str) -> Value {
    let mark = fhir::json!([{ "url": (MATCHED), "valueBoolean": true }]);
    fhir::json!({ "extension": (mark), "reference": (to) })
}

fn is_matched(value: &Value) -> bool {
    value.get("extension").and_then(Value::as_array).is_some_and(|extensions| {
        extensions.iter().any(|extension| extension.get("url").and_then(Value::as_str) == Some(MATCHED))
    })
}

/// The resource with the patient and the order that it lacked; `None` where it lacks neither. What belongs to a patient
/// already never goes to another.
fn joined(
    rtype: &str,
    state: &State,
    patient: Option<&(String, Ordinal)>,
    matched: &Matched,
) -> Option<(Value, Ordinal)> {
    let mut body = (*state.body).clone();
    let object = body.as_object_mut()?;
    let mut of = state.patient;
    let mut changed = false;
    if let Some((to, ordinal)) = patient
        && state.patient == Ordinal::UNKNOWN
    {
        object.insert("subject", reference(to));
        of = *ordinal;
        changed = true;
    }
    if let Some(order) = &matched.order
        && matches!(rtype, "DiagnosticReport" | "Observation")
        && object.get("basedOn").is_none()
    {
        object.insert("basedOn", Value::Array(vec![reference(&format!("ServiceRequest/{order}"))]));
        changed = true;
    }
    changed.then_some((body, of))
}

/// The resource without what a match said of it.
fn unmatched(state: &State) -> Option<(Value, Ordinal)> {
    let mut body = (*state.body).clone();
    let object = body.as_object_mut()?;
    let mut of = state.patient;
    let mut changed = false;
    if object.get("subject").is_some_and(is_matched) {
        object.remove("subject");
        of = Ordinal::UNKNOWN;
        changed = true;
    }
    let is_list_matched = |list: &Value| list.as_array().is_some_and(|list| list.iter().any(is_matched));
    if object.get("basedOn").is_some_and(is_list_matched) {
        object.remove("basedOn");
        changed = true;
    }
    changed.then_some((body, of))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base::Sensitivity;

    use super::*;

    #[test]
    fn a_match_is_taken_back_whole_and_moves_nothing_that_has_a_patient() {
        let of = |body: Value, patient| State {
            version: 1,
            patient,
            sensitivity: Sensitivity::NONE,
            deleted: false,
            body: Arc::new(body),
        };
        let lonely = of(fhir::json!({ "resourceType": "Observation", "status": "final" }), Ordinal::UNKNOWN);
        let matched = Matched { of: 1, patient: Some("p".into()), order: Some("o".into()), undo: false };
        let to = ("Patient/p".to_owned(), Ordinal(7));
        let (body, patient) = joined("Observation", &lonely, Some(&to), &matched).unwrap();
        assert_eq!(patient, Ordinal(7));
        assert_eq!(body.path(&["subject", "reference"]), Some(&Value::from("Patient/p")));
        let (back, patient) = unmatched(&of(body, Ordinal(7))).unwrap();
        assert_eq!((back, patient), ((*lonely.body).clone(), Ordinal::UNKNOWN));
        let owned = of(
            fhir::json!({ "resourceType": "Observation", "subject": { "reference": "Patient/q" }, "basedOn": [] }),
            Ordinal(3),
        );
        assert!(joined("Observation", &owned, Some(&to), &matched).is_none() && unmatched(&owned).is_none());
    }
}
