//! What a table cannot say of a field alone: the value of a result with its unit and range, what an event does to a
//! visit, merges, addresses with their county, documents. Called after the rows of the map it belongs to.

use fhir::json;
use fhir::json::Value;
use hl7v2::Segment;

use super::Fate;
use super::build::{Builder, Named, place_of, unit_number};
use super::convert::{Said, coding, leaf};
use super::draft::{Change, Policy, resource_reference};
use super::events::{self, PatientEffect, VisitEffect, status_shown};
use super::plan::vocabulary as codes;
use super::resources::segment_of;
use super::rows::{append, push_items};
use super::value::{self, Observed, Units};
use super::vocabulary::{self, is_critical};

/// OBX-8 says that a person must act now.
pub(super) fn is_critical_result(segment: Segment<'_>) -> bool {
    segment.field(8).repetitions().any(|flag| leaf(flag).is_some_and(|f| is_critical(&f)))
}

impl<'m> Builder<'m> {
    pub(super) fn hook(&mut self, segment: Segment<'m>, map: &str, unit: usize, fates: &mut [Option<Fate>]) {
        match map {
            "PID[Patient]" => self.person(segment, unit, fates),
            // BAR P06 ends an account, P02 purges it: it is no longer in use.
            "PID[Account]" if self.event.code == "BAR" && matches!(self.event.trigger.as_str(), "P02" | "P06") => {
                self.units[unit].draft.set("status", "inactive");
            }
            "MRG[Patient]" => self.merged(segment, unit, fates),
            "MRG[Account]" | "MRG[Encounter]" => self.ended(segment, unit, fates),
            "DG1[Condition]" | "IAM[AllergyIntolerance]" => {
                super::lists::in_force_again(segment, &mut self.units[unit].draft);
            }
            "PV1[Encounter]" => self.visit(segment, unit),
            "OBX[Observation]" => self.observation(segment, unit, fates),
            "OBX[DocumentReference]" => self.document_part(segment, unit),
            "SCH[Appointment]" => self.appointment(segment, unit),
            "PD1[Observation-LivingWill]" => self.units[unit].draft.set("status", "final"),
            "OBR[DiagnosticReport]" => self.based_on(segment, unit),
            _ => {}
        }
    }

    fn person(&mut self, segment: Segment<'m>, unit: usize, fates: &mut [Option<Fate>]) {
        self.addresses(segment, unit, fates);
        match self.effect.patient {
            PatientEffect::Inactivate => self.units[unit].draft.set("active", false),
            // Added again after it was taken out.
            _ if self.event.code == "ADT" && self.event.trigger == "A28" => {
                self.units[unit].draft.push("active", Change::Remove);
            }
            _ => {}
        }
        let field = segment.field(18);
        if !field.is_absent() && fates[18].is_none() {
            // Told with PID, but it names the stay: Encounter.identifier, where the message has a visit.
            let visit = self.effect.visit != VisitEffect::None && self.near(segment, "PV1").is_some();
            fates[18] = Some(match visit {
                true => Fate::Mapped("Encounter.identifier".into()),
                false => Fate::Kept("an account number belongs to a visit, and the message has none"),
            });
        }
        // Two records of one message that are of one person, or are not (A24, A37).
        let link = matches!(self.effect.patient, PatientEffect::Link | PatientEffect::Unlink);
        if link
            && let Some(Named::Unit(other)) = self.names.get("Patient#1").copied().filter(|n| *n != Named::Unit(unit))
        {
            for (this, that) in [(unit, other), (other, unit)] {
                let that_n = self.units[that].n;
                let item = json!({"other": (resource_reference(self.units[that].n)), "type": "seealso"});
                let draft = &mut self.units[this].draft;
                if self.effect.patient == PatientEffect::Link {
                    append(draft, "link", item);
                    continue;
                }
                // Taken back whatever joined the two: a link, or a merge either way.
                let other = |kind: &str| json!({"other": (resource_reference(that_n)), "type": kind});
                draft.push("link", Change::Take(vec![item, other("replaces")]));
                draft.push("link", Change::Restore(other("replaced-by")));
            }
        }
    }

    /// PID-11, with the county of PID-12 where there is one address that names none (v2-to-FHIR guide, PID-12).
    fn addresses(&mut self, segment: Segment<'m>, unit: usize, fates: &mut [Option<Fate>]) {
        let (field, county) = (segment.field(11), segment.field(12));
        let district = leaf(county);
        let mut sole =
            district.clone().filter(|_| field.repetitions().count() == 1 && leaf(field.component(9)).is_none());
        let used = sole.is_some() && field.is_value();
        if field.is_null() {
            self.units[unit].draft.push("address", Change::RemoveItems { field: "PID-11".into() });
        } else if field.is_value() {
            let values: Vec<Value> =
                field.repetitions().filter_map(|xad| self.context.address(xad, sole.take())).collect();
            match values.is_empty() {
                true => fates[11] = Some(Fate::Unmapped),
                false => {
                    self.units[unit].draft.push("address", Change::Items { field: "PID-11".into(), values });
                }
            }
        }
        let same = field.repetitions().any(|xad| leaf(xad.component(9)) == district);
        match district {
            Some(district) if !used && !same => {
                let values = vec![json!({"district": district})];
                self.units[unit].draft.push("address", Change::Items { field: "PID-12".into(), values });
            }
            // Said within PID-11 now: what PID-12 said alone before is gone.
            _ if !county.is_absent() => {
                self.units[unit].draft.push("address", Change::RemoveItems { field: "PID-12".into() });
            }
            _ => {}
        }
    }

    /// MRG after PID (v2.8.2 §3.3.40): the record of MRG-1 becomes part of the one of PID-3. It stays, inactive and
    /// linked, so that its numbers still lead to the person.
    fn merged(&mut self, segment: Segment<'m>, unit: usize, fates: &mut [Option<Fate>]) {
        let Some(survivor) = self.survivor(unit) else { return };
        let (own_n, survivor_n) = (self.units[unit].n, self.units[survivor].n);
        let numbers: Vec<Value> = [1, 4]
            .into_iter()
            .flat_map(|n| segment.field(n).repetitions())
            .filter_map(|cx| self.context.identifier(cx, ""))
            .collect();
        let names: Vec<Value> =
            segment.field(7).repetitions().filter_map(|xpn| self.context.human_name(xpn, 0)).collect();
        let draft = &mut self.units[unit].draft;
        draft.policy = Policy::CreateOrUpdate;
        draft.push("identifier", Change::Add(numbers));
        if !names.is_empty() {
            draft.push("name", Change::Default(Value::Array(names)));
        }
        let link = json!({"other": (resource_reference(survivor_n)), "type": "replaced-by"});
        draft.push("link", Change::EndInto(link));
        let loser = json!({"other": (resource_reference(own_n)), "type": "replaces"});
        append(&mut self.units[survivor].draft, "link", loser);
        for (n, target) in [(1, "Patient.identifier"), (4, "Patient.identifier"), (7, "Patient.name")] {
            if fates.len() > n && !segment.field(n).is_absent() {
                fates[n] = Some(Fate::Mapped(target.into()));
            }
        }
    }

    fn survivor(&self, loser: usize) -> Option<usize> {
        (0..loser).rev().find(|at| self.units[*at].rtype == "Patient" && self.units[*at].segments[0].id() == "PID")
    }

    /// MRG-3 names an account that becomes part of the one in PID-18, MRG-5 a visit that becomes part of the one in PV1-19
    /// (A35, A41, A42): both stay, found by their numbers, and lead to the one that goes on.
    fn ended(&mut self, segment: Segment<'m>, unit: usize, fates: &mut [Option<Fate>]) {
        let (field, kind, status) = match self.units[unit].rtype {
            "Account" => (3, "AN", "inactive"),
            _ => (5, "VN", "entered-in-error"),
        };
        let Some(identifier) = self.context.identifier(segment.field(field).repetition(1), kind) else { return };
        let draft = &mut self.units[unit].draft;
        draft.policy = Policy::CreateOrUpdate;
        draft.push("identifier", Change::Add(vec![identifier]));
        draft.set("status", status);
        fates[field] = Some(Fate::Mapped(format!("{}.identifier", self.units[unit].rtype)));
    }

    fn visit(&mut self, segment: Segment<'m>, unit: usize) {
        let pid = self.units[unit].patient.map(|p| self.units[p].segments[0]);
        if let Some(pid) = pid {
            let field = pid.field(18);
            let draft = &mut self.units[unit].draft;
            if field.is_null() {
                draft.push("identifier", Change::RemoveItems { field: "PID-18".into() });
            } else if let Some(identifier) = self.context.identifier(field.repetition(1), "AN") {
                draft.push("identifier", Change::Items { field: "PID-18".into(), values: vec![identifier] });
            }
        }
        self.status(segment, unit);
    }

    /// Status and end, after PV1's own fields so that the event has the last word.
    fn status(&mut self, segment: Segment<'m>, unit: usize) {
        let discharged = segment.field(45).is_value();
        let occurred = self.event.occurred.clone();
        let class = leaf(segment.field(2));
        let admitted = segment.field(44).is_value();
        let draft = &mut self.units[unit].draft;
        match self.effect.visit {
            VisitEffect::Status("in-progress", unless) if discharged => {
                draft.push("status", Change::SetUnless(json!("finished"), unless));
            }
            VisitEffect::Status(status, unless) => draft.push("status", Change::SetUnless(json!(status), unless)),
            VisitEffect::End => {
                draft.push("status", Change::SetUnless(json!("finished"), &["cancelled", "entered-in-error"]));
                if let (false, Some(occurred)) = (discharged, occurred) {
                    draft.set("period.end", occurred);
                }
                left(draft);
            }
            VisitEffect::Reopen => {
                draft.push("status", Change::SetUnless(json!("in-progress"), &["cancelled", "entered-in-error"]));
                for ended in ["period.end", "hospitalization.dischargeDisposition", "hospitalization.destination"] {
                    draft.push(ended, Change::Remove);
                }
            }
            VisitEffect::Update | VisitEffect::CreateOnly => {
                let status = status_shown(class.as_deref(), admitted, discharged);
                draft.push("status", Change::Default(json!(status)));
            }
            VisitEffect::None => {}
        }
    }

    /// A report refers to its order by number, also where the order is not in the message.
    fn based_on(&mut self, segment: Segment<'m>, unit: usize) {
        if self.near(segment, "ORC").is_some() {
            return;
        }
        if let Some(number) = self.context.order_number(segment.field(2), "PLAC") {
            let order = json!({"type": "ServiceRequest", "identifier": number});
            self.units[unit].draft.push("basedOn", Change::Items { field: "OBR-2".into(), values: vec![order] });
        }
    }

    fn observation(&mut self, segment: Segment<'m>, unit: usize, fates: &mut [Option<Fate>]) {
        let units = Units::read(&self.context, segment.field(6));
        let code = self.context.concept(segment.field(3), codes("")).unwrap_or_default();
        let kind = leaf(segment.field(2)).unwrap_or_default();
        // It could be read when the observation was admitted.
        let observed = value::read(&self.context, &kind, segment.field(5), &units, &code).ok().flatten();
        self.observation_status(segment, unit, observed.is_some(), fates);
        self.value(segment, unit, observed, &units);
        self.when_and_what_kind(segment, unit);
    }

    fn observation_status(&mut self, segment: Segment<'m>, unit: usize, valued: bool, fates: &mut [Option<Fate>]) {
        let sent = leaf(segment.field(11));
        let known = sent.as_deref().and_then(|s| codes("ObservationResultStatusCodesInterpretation").code(s));
        let draft = &mut self.units[unit].draft;
        match (&sent, known) {
            (_, Some(status)) => draft.set("status", status),
            (None, None) => draft.push("status", Change::Default(json!("unknown"))),
            (Some(_), None) => {
                draft.push("status", Change::Default(json!("unknown")));
                let text = "a result status that HL7 table 0085 does not have: the status is unknown";
                self.tag(unit_number(segment), format!("{}-11", place_of(segment)), "code-unknown", text);
                fates[11] = Some(Fate::Unmapped);
            }
        }
        let why = match sent.as_deref() {
            Some("N") => "not-asked",
            Some("X") => "not-performed",
            _ => return,
        };
        if !valued {
            let reason = coding(vocabulary::DATA_ABSENT, why, None);
            self.units[unit].draft.set("dataAbsentReason", json!({"coding": [reason]}));
        }
    }

    /// Value, range and flag are one statement: a new value without a flag is a value without a flag.
    fn value(&mut self, segment: Segment<'m>, unit: usize, observed: Option<Observed>, units: &Units) {
        let place = |n| format!("{}-{n}", place_of(segment));
        let draft = &mut self.units[unit].draft;
        match value::reference_range(segment.field(7), units) {
            Some(range) => draft.set("referenceRange", range),
            None if observed.is_some() || segment.field(7).is_null() => draft.push("referenceRange", Change::Remove),
            None => {}
        }
        if observed.is_some() && segment.field(8).is_absent() {
            draft.push("interpretation", Change::RemoveItems { field: "OBX-8".into() });
        }
        if units.is_unknown() {
            let text = "a unit that is not in the table of known units: kept as text, without a code";
            self.tag(unit_number(segment), place(6), "unit-unknown", text);
        }
        let draft = &mut self.units[unit].draft;
        let Some(observed) = observed else {
            if segment.field(5).is_null() {
                draft.push("valueString", Change::Remove);
                draft.push("component", Change::Remove);
            }
            return;
        };
        draft.push("dataAbsentReason", Change::Remove);
        match observed.element {
            "extension" => {
                let values = observed.value.items().to_vec();
                draft.push("extension", Change::Items { field: "OBX-5".into(), values });
            }
            "component" => {
                draft.push("valueString", Change::Remove);
                draft.set("component", observed.value);
            }
            element => {
                draft.push("component", Change::Remove);
                draft.set(element, observed.value);
            }
        }
        if let Some(remark) = observed.remark {
            self.tag(unit_number(segment), place(5), remark.code, remark.text);
        }
    }

    /// What OBR says for all its observations: time, issue, laboratory or imaging.
    fn when_and_what_kind(&mut self, segment: Segment<'m>, unit: usize) {
        let Some(request) = self.units[unit]
            .parent
            .or_else(|| self.latest("DiagnosticReport"))
            .and_then(|report| segment_of(&self.units[report], "OBR"))
        else {
            return;
        };
        let time = self.context.date_time(request.field(7));
        let issued = self.context.instant(request.field(22));
        let section = leaf(request.field(24)).and_then(|s| vocabulary::code(vocabulary::SECTION_CATEGORY, &s));
        let draft = &mut self.units[unit].draft;
        if segment.field(14).is_absent()
            && let Ok(Said::Value(time)) = time
        {
            draft.push("effectiveDateTime", Change::Default(time));
        }
        if let Ok(Said::Value(issued)) = issued {
            draft.set("issued", issued);
        }
        if let Some(category) = section {
            let coding = coding(vocabulary::OBSERVATION_CATEGORY, category, None);
            draft.push("category", Change::Add(vec![json!({"coding": [coding]})]));
        }
    }

    /// OBX after TXA: the document itself, as text, as bytes or as a pointer. Text of several segments is one document.
    fn document_part(&mut self, segment: Segment<'m>, unit: usize) {
        let kind = leaf(segment.field(2)).unwrap_or_default();
        let title = self.context.words(segment.field(3));
        let attachment = match kind.as_str() {
            "ED" | "RP" => match value::read(&self.context, &kind, segment.field(5), &Units::none(), &Value::Null) {
                Ok(Some(observed)) => observed
                    .value
                    .path(&["0", "valueAttachment"])
                    .cloned()
                    .or_else(|| observed.value.as_str().map(value::text_attachment)),
                Ok(None) => None,
                Err(fault) => {
                    self.tag(unit_number(segment), format!("{}-5", place_of(segment)), fault.code, fault.text);
                    None
                }
            },
            _ => self.context.lines(segment.field(5)).map(|text| value::text_attachment(&text)),
        };
        let Some(mut attachment) = attachment else { return };
        let draft = &mut self.units[unit].draft;
        let text = |value: &Value| value.get("contentType").and_then(Value::as_str) == Some("text/plain");
        let earlier = draft.fields.iter_mut().find_map(|f| match &mut f.change {
            Change::Items { values, .. } if f.path == "content" => Some(values),
            _ => None,
        });
        // Lines of one text come one segment each.
        if text(&attachment)
            && let Some(last) = earlier.and_then(|values| values.last_mut())
            && let Some(object) = last.as_object_mut()
            && let Some(before) = object.get_mut("attachment").filter(|a| text(a))
        {
            value::join_texts(before, &attachment);
            return;
        }
        if let (Some(title), Some(object)) = (title, attachment.as_object_mut()) {
            object.insert("title", title);
        }
        push_items(draft, "content", "OBX-5".into(), vec![json!({"attachment": attachment})], false);
    }

    fn appointment(&mut self, segment: Segment<'m>, unit: usize) {
        let unit_word = self.context.words(segment.field(10)).unwrap_or_default().to_lowercase();
        let minutes = leaf(segment.field(9)).and_then(|n| n.parse::<i64>().ok()).filter(|n| *n > 0);
        let draft = &mut self.units[unit].draft;
        if let (Some(minutes), "min" | "minutes" | "minute" | "m") = (minutes, unit_word.as_str()) {
            draft.set("minutesDuration", minutes);
        }
        if !segment.field(25).is_value()
            && let Some(status) = events::appointment(&self.event.trigger)
        {
            draft.set("status", status);
        }
        draft.push("status", Change::Default(json!("proposed")));
    }
}

/// The bed of a visit that ended is free.
fn left(draft: &mut super::Draft) {
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
