//! PID and MRG: patients, and the merge of two records.

use fhir::json;
use fhir::json::Value;
use hl7v2::Segment;

use super::build::{Builder, place_of, unit_number};
use super::convert::{Fault, fault, leaf};
use super::draft::{Change, Draft, Policy, resource_reference};
use super::events::{PatientEffect, VisitEffect};
use super::tables;
use super::vocabulary::NOT_PERSON_NUMBERS;
use super::{Fate, Key};

/// Numbers by which a patient is looked for; a message with more is not an ordinary one.
const KEYS_MAX: usize = 16;

impl<'m> Builder<'m> {
    pub(super) fn person(&mut self, segment: Segment<'m>) {
        self.group = super::build::Group { pid: Some(segment), ..Default::default() };
        let identifiers = self.person_numbers(segment, &[3, 2]);
        if identifiers.is_empty() {
            let text = "the patient has no number: PID-3 is empty or null, so no record can be found or made";
            return self.set_aside(segment, 3, &fault("patient-unidentified", text), false);
        }
        let policy = match self.effect.patient {
            PatientEffect::CreateOnly => Policy::CreateOnly,
            PatientEffect::Upsert | PatientEffect::Merge => Policy::CreateOrUpdate,
        };
        let mut draft = Draft::new("Patient", policy);
        let has_visit = self.effect.visit != VisitEffect::None && self.following(segment, "PV1", &["PID"]).is_some();
        let maps: &[&tables::SegmentMap] = &[&tables::PID];
        self.fields(segment, maps, Some(&mut draft));
        self.account_fate(segment, has_visit);
        self.addresses(segment, &mut draft);
        self.group.patient = Some(self.push_unit(segment, Key::Identifiers(identifiers), draft));
    }

    /// PID-18 is told with PID but belongs to the visit.
    fn account_fate(&mut self, segment: Segment<'m>, has_visit: bool) {
        if segment.field(18).is_absent() {
            return;
        }
        let fate = match has_visit {
            true => Fate::Mapped("Encounter.identifier".into()),
            false => Fate::Kept("an account number belongs to a visit, and the message has none"),
        };
        self.replace_fate(segment, 18, fate);
    }

    /// (system, value) of the CX fields that name a person, best first.
    fn person_numbers(&self, segment: Segment<'m>, fields: &[usize]) -> Vec<(String, String)> {
        let all: Vec<(String, Value)> = fields
            .iter()
            .flat_map(|n| segment.field(*n).repetitions())
            .filter_map(|cx| Some((leaf(cx.component(5)).unwrap_or_default(), self.context.identifier(cx, "")?)))
            .collect();
        let pair = |identifier: &Value| {
            let part = |name| identifier.get(name).and_then(Value::as_str).map(str::to_owned);
            Some((part("system")?, part("value")?))
        };
        let named: Vec<_> = all.iter().filter(|(kind, _)| !NOT_PERSON_NUMBERS.contains(&kind.as_str())).collect();
        let chosen = if named.is_empty() { all.iter().collect() } else { named };
        // The medical record number leads: it is the one that the sender's own desk uses.
        let (records, others): (Vec<_>, Vec<_>) = chosen.into_iter().partition(|(kind, _)| kind == "MR");
        let mut numbers: Vec<(String, String)> = Vec::new();
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

    /// PID-11, with the county of PID-12 where there is one address that names none (v2-to-FHIR guide, PID-12).
    fn addresses(&mut self, segment: Segment<'m>, draft: &mut Draft) {
        let (field, county) = (segment.field(11), segment.field(12));
        let district = leaf(county);
        let mut sole =
            district.clone().filter(|_| field.repetitions().count() == 1 && leaf(field.component(9)).is_none());
        let used = sole.is_some() && field.is_value();
        if field.is_null() {
            draft.push("address", Change::RemoveItems { field: "PID-11".into() });
        } else if field.is_value() {
            let values: Vec<Value> =
                field.repetitions().filter_map(|xad| self.context.address(xad, sole.take())).collect();
            match values.is_empty() {
                true => self.replace_fate(segment, 11, Fate::Unmapped),
                false => draft.push("address", Change::Items { field: "PID-11".into(), values }),
            }
        }
        let same = field.repetitions().any(|xad| leaf(xad.component(9)) == district);
        match district {
            Some(district) if !used && !same => {
                let values = vec![json!({"district": district})];
                draft.push("address", Change::Items { field: "PID-12".into(), values });
            }
            // Said within PID-11 now: what PID-12 said alone before is gone.
            _ if !county.is_absent() => draft.push("address", Change::RemoveItems { field: "PID-12".into() }),
            _ => {}
        }
    }

    /// MRG after PID (v2.8.2 §3.3.40): the record of MRG-1 becomes part of the one of PID-3. It stays, inactive and
    /// linked, so that its numbers still lead to the person.
    pub(super) fn merged(&mut self, segment: Segment<'m>) {
        if self.effect.patient != PatientEffect::Merge {
            return self.all_fields(segment, &Fate::Kept("the event merges nothing"));
        }
        let losers = self.person_numbers(segment, &[1]);
        if let Err((field, fault)) = self.can_merge(&losers) {
            return self.set_aside(segment, field, &fault, false);
        }
        let Some(survivor) = self.group.patient else { return };
        let survivor_n = self.units[survivor].n;
        let mut draft = Draft::new("Patient", Policy::CreateOrUpdate);
        let numbers = segment.field(1).repetitions().filter_map(|cx| self.context.identifier(cx, "")).collect();
        draft.push("identifier", Change::Add(numbers));
        let names: Vec<Value> =
            segment.field(7).repetitions().filter_map(|xpn| self.context.human_name(xpn, 0)).collect();
        if !names.is_empty() {
            draft.push("name", Change::Default(Value::Array(names)));
        }
        draft.set("active", false);
        draft
            .push("link", Change::Add(vec![json!({"other": (resource_reference(survivor_n)), "type": "replaced-by"})]));
        let loser = json!({"other": (resource_reference(unit_number(segment))), "type": "replaces"});
        self.units[survivor].draft.push("link", Change::Add(vec![loser]));
        self.push_unit(segment, Key::Identifiers(losers), draft);
        self.merge_fates(segment);
    }

    fn can_merge(&self, losers: &[(String, String)]) -> Result<(), (usize, Fault)> {
        if losers.is_empty() {
            return Err((
                1,
                fault("merge-without-loser", "a merge that does not say which record ends: MRG-1 is empty"),
            ));
        }
        let Some(survivor) = self.group.patient else {
            return Err((0, fault("merge-without-survivor", "a merge without a usable PID before it")));
        };
        match &self.units[survivor].key {
            Key::Identifiers(own) if own.iter().any(|number| losers.contains(number)) => {
                Err((1, fault("merge-into-itself", "a merge of a record with itself: PID-3 and MRG-1 share a number")))
            }
            _ => Ok(()),
        }
    }

    fn merge_fates(&mut self, segment: Segment<'m>) {
        for (n, field) in segment.fields() {
            if field.is_absent() {
                continue;
            }
            let fate = match n {
                1 => Fate::Mapped("Patient.identifier".into()),
                7 => Fate::Mapped("Patient.name".into()),
                _ => Fate::Unmapped,
            };
            self.fate(segment, n, fate);
        }
    }

    /// The unit of the patient that the walk is in.
    pub(super) fn patient_unit(&self) -> Option<u32> {
        self.group.patient.map(|at| self.units[at].n)
    }

    pub(super) fn tag_patient_missing(&mut self, segment: Segment<'m>) {
        let text = "a result without a usable patient: it is kept without one until a person matches it";
        self.tag(unit_number(segment), place_of(segment), "patient-missing", text);
    }
}
