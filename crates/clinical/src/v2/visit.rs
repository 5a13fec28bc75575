//! PV1 (and PID-18): the visit, and what the event does to it.

use fhir::json;
use fhir::json::Value;
use hl7v2::Segment;

use super::build::Builder;
use super::convert::{Fault, fault, leaf};
use super::draft::{Change, Draft, Policy, resource_reference};
use super::events::{VisitEffect, status_shown};
use super::{Fate, Key, tables, vocabulary};

impl<'m> Builder<'m> {
    pub(super) fn visit(&mut self, segment: Segment<'m>) {
        self.group.visit = None;
        if self.effect.visit == VisitEffect::None {
            return self.all_fields(segment, &Fate::Kept("the event is about the person, not about a visit"));
        }
        let Some(patient) = self.patient_unit() else {
            let text = "a visit without a usable patient before it";
            return self.set_aside(segment, 0, &fault("patient-missing", text), false);
        };
        let key = match self.visit_key(segment, patient) {
            Ok(key) => key,
            // Beside results PV1 is a courtesy: without a number there is nothing to create.
            Err(_) if self.effect.visit == VisitEffect::CreateOnly => {
                return self.all_fields(segment, &Fate::Kept("it names no visit: PV1-19, PID-18 and PV1-44 are empty"));
            }
            Err(fault) => return self.set_aside(segment, 19, &fault, false),
        };
        let policy = match self.effect.visit {
            VisitEffect::CreateOnly => Policy::CreateOnly,
            _ => Policy::CreateOrUpdate,
        };
        let mut draft = Draft::new("Encounter", policy);
        self.fields(segment, &[&tables::PV1], Some(&mut draft));
        if let Some(pid) = self.group.pid {
            self.account(pid, &mut draft);
        }
        draft.set("subject", resource_reference(patient));
        let unknown = vocabulary::NULL_FLAVOR;
        draft.push("class", Change::Default(super::convert::coding(unknown, "UNK", Some("unknown"))));
        self.status(segment, &mut draft);
        self.group.visit = Some(self.push_unit(segment, key, draft));
    }

    /// PV1-19, else the account, else the time of admission.
    fn visit_key(&self, segment: Segment<'m>, patient: u32) -> Result<Key, Fault> {
        let number = |cx, kind| {
            let identifier = self.context.identifier(cx, kind)?;
            let part = |name| identifier.get(name).and_then(Value::as_str).map(str::to_owned);
            Some((part("system")?, part("value")?))
        };
        let account = || self.group.pid.and_then(|pid| number(pid.field(18).repetition(1), "AN"));
        if let Some(number) = number(segment.field(19).repetition(1), "VN").or_else(account) {
            return Ok(Key::Identifiers(vec![number]));
        }
        match leaf(segment.field(44)) {
            Some(admitted) => Ok(Key::Within { unit: patient, natural: format!("visit|{admitted}") }),
            None => Err(fault(
                "visit-unidentified",
                "the visit has no number: PV1-19, PID-18 and PV1-44 are empty, so no later message could reach it",
            )),
        }
    }

    fn account(&mut self, pid: Segment<'m>, draft: &mut Draft) {
        let field = pid.field(18);
        if field.is_null() {
            draft.push("identifier", Change::RemoveItems { field: "PID-18".into() });
        } else if let Some(identifier) = self.context.identifier(field.repetition(1), "AN") {
            draft.push("identifier", Change::Items { field: "PID-18".into(), values: vec![identifier] });
        }
    }

    /// Status and end, after PV1's own fields so that the event has the last word.
    fn status(&mut self, segment: Segment<'m>, draft: &mut Draft) {
        let discharged = segment.field(45).is_value();
        match self.effect.visit {
            VisitEffect::Status("in-progress") if discharged => draft.set("status", "finished"),
            VisitEffect::Status(status) => draft.set("status", status),
            VisitEffect::End => {
                draft.set("status", "finished");
                if let (false, Some(occurred)) = (discharged, self.event.occurred.clone()) {
                    draft.set("period.end", occurred);
                }
                left(draft);
            }
            VisitEffect::Reopen => {
                draft.set("status", "in-progress");
                for ended in ["period.end", "hospitalization.dischargeDisposition", "hospitalization.destination"] {
                    draft.push(ended, Change::Remove);
                }
            }
            VisitEffect::Update | VisitEffect::CreateOnly => {
                let class = leaf(segment.field(2));
                let status = status_shown(class.as_deref(), segment.field(44).is_value(), discharged);
                draft.push("status", Change::Default(json!(status)));
            }
            VisitEffect::None => {}
        }
    }
}

/// The bed of a visit that ended is free.
fn left(draft: &mut Draft) {
    for field in draft.fields.iter_mut().filter(|f| f.path == "location") {
        if let Change::Items { field, values } = &mut field.change
            && field == "PV1-3"
        {
            for location in values.iter_mut().filter_map(Value::as_object_mut) {
                location.insert("status", "completed");
            }
        }
    }
}
