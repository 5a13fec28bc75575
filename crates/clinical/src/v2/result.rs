//! ORC, OBR, OBX and NTE: reports and their observations. A broken observation is set aside alone; the rest goes on.

use fhir::json;
use fhir::json::Value;
use hl7v2::{Element, Segment};

use super::build::{Builder, place_of, unit_number};
use super::convert::{Said, fault, leaf, whole};
use super::draft::{Change, Draft, Policy, resource_reference};
use super::value::{self, Observed, Units};
use super::vocabulary::{self, is_critical};
use super::{Fate, Key, tables};

/// System of the identifier that finds a report by its order number and service together: several services of one
/// order often share the number.
const REPORT_SYSTEM: &str = "urn:wardmesh:report";

const GROUP_ENDS: &[&str] = &["ORC", "PID"];

impl<'m> Builder<'m> {
    /// ORC stands before the OBR that it orders; its numbers count where OBR has none.
    pub(super) fn order(&mut self, segment: Segment<'m>) {
        self.group.order = Some(segment);
        let request = self.following(segment, "OBR", GROUP_ENDS);
        for (n, field) in segment.fields() {
            if field.is_absent() {
                continue;
            }
            let fate = match (n, request) {
                (2 | 3, Some(obr)) if obr.field(n).is_absent() => Fate::Mapped("DiagnosticReport.identifier".into()),
                (2 | 3, Some(_)) => Fate::Kept("OBR says it too, and OBR counts"),
                _ => Fate::Unmapped,
            };
            self.fate(segment, n, fate);
        }
    }

    pub(super) fn report(&mut self, segment: Segment<'m>) {
        self.group.request = Some(segment);
        self.group.report = None;
        self.group.observation = None;
        let order = self.group.order.take();
        let mut draft = Draft::new("DiagnosticReport", Policy::CreateOrUpdate);
        self.fields(segment, &[&tables::OBR], Some(&mut draft));
        for (n, role) in [(2, "PLAC"), (3, "FILL")] {
            let from_order = order.filter(|_| segment.field(n).is_absent()).map(|orc| orc.field(n));
            if let Some(identifier) = from_order.and_then(|ei| self.context.order_number(ei, role)) {
                draft.push("identifier", Change::Items { field: format!("ORC-{n}"), values: vec![identifier] });
            }
        }
        self.period(segment, &mut draft);
        draft.push("status", Change::Default(json!("unknown")));
        draft.push("code", Change::Default(json!({"text": "not named by the sender"})));
        if self.context.concept(segment.field(4), &vocabulary::NONE).is_none() {
            let text = "the report does not say which service it is: OBR-4 is empty";
            self.tag(unit_number(segment), format!("{}-4", place_of(segment)), "code-missing", text);
        }
        self.about(segment, &mut draft);
        let key = self.report_key(segment, order, &mut draft);
        self.group.report = Some(self.push_unit(segment, key, draft));
    }

    /// Filler number, else placer number, with the service; else patient, service and time (DESIGN: joined by numbers,
    /// else by patient + OBR-4 + OBR-7). A report with none of these is always a new one.
    fn report_key(&self, segment: Segment<'m>, order: Option<Segment<'m>>, draft: &mut Draft) -> Key {
        let service = leaf(segment.field(4)).unwrap_or_default();
        let number = [(3, "FILL"), (2, "PLAC")].into_iter().find_map(|(n, role)| {
            let of = |s: Segment<'m>| self.context.order_number(s.field(n), role);
            of(segment).or_else(|| order.and_then(of))
        });
        if let Some(number) = number {
            let part = |name| number.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            let value = format!("{}|{}|{service}", part("system"), part("value"));
            let found_by = json!({"use": "secondary", "system": REPORT_SYSTEM, "value": (value.as_str())});
            draft.push("identifier", Change::Add(vec![found_by]));
            return Key::Identifiers(vec![(REPORT_SYSTEM.to_owned(), value)]);
        }
        let time = leaf(segment.field(7)).unwrap_or_default();
        match self.patient_unit() {
            Some(unit) if !(service.is_empty() && time.is_empty()) => {
                Key::Within { unit, natural: format!("report|{service}|{time}") }
            }
            _ => Key::Identifiers(Vec::new()),
        }
    }

    /// OBR-7 and OBR-8 together are a period.
    fn period(&mut self, segment: Segment<'m>, draft: &mut Draft) {
        if !segment.field(8).is_value() {
            return;
        }
        for (n, path) in [(7, "effectivePeriod.start"), (8, "effectivePeriod.end")] {
            match self.context.date_time(segment.field(n)) {
                Ok(Said::Value(time)) => draft.set(path, time),
                Ok(_) => {}
                Err(fault) => {
                    self.replace_fate(segment, n, Fate::Unmapped);
                    self.tag(unit_number(segment), format!("{}-{n}", place_of(segment)), fault.code, fault.text);
                }
            }
        }
    }

    /// Subject and visit.
    fn about(&mut self, segment: Segment<'m>, draft: &mut Draft) {
        match self.patient_unit() {
            Some(patient) => draft.set("subject", resource_reference(patient)),
            None => self.tag_patient_missing(segment),
        }
        if let Some(visit) = self.group.visit {
            draft.set("encounter", resource_reference(self.units[visit].n));
        }
    }

    pub(super) fn observation(&mut self, segment: Segment<'m>) {
        self.group.observation = None;
        let critical = segment.field(8).repetitions().any(|flag| leaf(flag).is_some_and(|f| is_critical(&f)));
        let sent_status = leaf(segment.field(11));
        if sent_status.as_deref() == Some("O") {
            return self.all_fields(segment, &Fate::Kept("a detail of the order, not a result: OBX-11 is O"));
        }
        let units = Units::read(segment.field(6));
        let Some(code) = self.context.concept(segment.field(3), &vocabulary::NONE) else {
            let text = "the observation does not say what was observed: OBX-3 is empty";
            return self.set_aside(segment, 3, &fault("code-missing", text), critical);
        };
        let kind = leaf(segment.field(2)).unwrap_or_default();
        let observed = match value::read(&self.context, &kind, segment.field(5), &units, &code) {
            Ok(observed) => observed,
            Err(fault) => return self.set_aside(segment, 5, &fault, critical),
        };
        let mut draft = Draft::new("Observation", Policy::CreateOrUpdate);
        self.fields(segment, &[&tables::OBX], Some(&mut draft));
        self.observation_status(segment, sent_status.as_deref(), observed.is_some(), &mut draft);
        self.about(segment, &mut draft);
        self.value(segment, observed, &units, &mut draft);
        self.when_and_what_kind(segment, &mut draft);
        let key = self.observation_key(segment);
        let at = self.push_unit(segment, key, draft);
        self.group.observation = Some(at);
        if let Some(report) = self.group.report {
            let reference = resource_reference(self.units[at].n);
            append(&mut self.units[report].draft, "result", None, reference);
        }
    }

    fn observation_key(&mut self, segment: Segment<'m>) -> Key {
        let part = |field: Element<'m>, n| leaf(field.component(n)).unwrap_or_default();
        let what = segment.field(3);
        let sub = whole(segment.field(4)).unwrap_or_default();
        let code = [part(what, 1), part(what, 2)].into_iter().find(|t| !t.is_empty()).unwrap_or_default();
        let mut natural = format!("{code}|{}|{sub}", part(what, 3));
        let parent = match self.group.report {
            Some(report) => Some(self.units[report].n),
            None => {
                // Outside a report the time tells one measurement from the next.
                natural.push_str(&format!("|{}", leaf(segment.field(14)).unwrap_or_default()));
                self.group.visit.map(|at| self.units[at].n).or(self.patient_unit())
            }
        };
        let count = self.group.naturals.entry((parent, natural.clone())).or_default();
        *count += 1;
        if *count > 1 {
            natural.push_str(&format!("#{count}"));
        }
        match parent {
            Some(unit) => Key::Within { unit, natural },
            None => Key::Identifiers(Vec::new()),
        }
    }

    fn observation_status(&mut self, segment: Segment<'m>, sent: Option<&str>, valued: bool, draft: &mut Draft) {
        let known = sent.and_then(|code| vocabulary::code(vocabulary::OBSERVATION_STATUS, code));
        match (sent, known) {
            (_, Some(status)) => draft.set("status", status),
            (None, None) => draft.push("status", Change::Default(json!("unknown"))),
            (Some(_), None) => {
                draft.push("status", Change::Default(json!("unknown")));
                let text = "a result status that HL7 table 0085 does not have: the status is unknown";
                self.tag(unit_number(segment), format!("{}-11", place_of(segment)), "code-unknown", text);
                self.replace_fate(segment, 11, Fate::Unmapped);
            }
        }
        let why = match sent {
            Some("N") => "not-asked",
            Some("X") => "not-performed",
            _ => return,
        };
        if !valued {
            let reason = super::convert::coding(vocabulary::DATA_ABSENT, why, None);
            draft.set("dataAbsentReason", json!({"coding": [reason]}));
        }
    }

    /// Value, range and flag are one statement: a new value without a flag is a value without a flag.
    fn value(&mut self, segment: Segment<'m>, observed: Option<Observed>, units: &Units, draft: &mut Draft) {
        let place = |n| format!("{}-{n}", place_of(segment));
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
    fn when_and_what_kind(&mut self, segment: Segment<'m>, draft: &mut Draft) {
        let Some(request) = self.group.request else { return };
        if segment.field(14).is_absent()
            && let Ok(Said::Value(time)) = self.context.date_time(request.field(7))
        {
            draft.push("effectiveDateTime", Change::Default(time));
        }
        if let Ok(Said::Value(issued)) = self.context.instant(request.field(22)) {
            draft.set("issued", issued);
        }
        let section = leaf(request.field(24)).and_then(|s| vocabulary::code(vocabulary::SECTION_CATEGORY, &s));
        if let Some(category) = section {
            let coding = super::convert::coding(vocabulary::OBSERVATION_CATEGORY, category, None);
            draft.push("category", Change::Add(vec![json!({"coding": [coding]})]));
        }
    }

    /// A comment after an observation is its note; after anything else it has no place yet.
    pub(super) fn note(&mut self, segment: Segment<'m>) {
        let text: Vec<String> = segment.field(3).repetitions().filter_map(whole).collect();
        let (Some(at), false) = (self.group.observation, text.is_empty()) else {
            return self.all_fields(segment, &Fate::Unmapped);
        };
        append(&mut self.units[at].draft, "note", Some("NTE"), json!({"text": (text.join("\n"))}));
        for (n, field) in segment.fields() {
            if !field.is_absent() {
                let fate = match n {
                    1 => Fate::Kept("a counter within the message"),
                    3 => Fate::Mapped("Observation.note".into()),
                    _ => Fate::Unmapped,
                };
                self.fate(segment, n, fate);
            }
        }
    }
}

/// One more item of a list that grows segment by segment.
fn append(draft: &mut Draft, path: &'static str, field: Option<&str>, item: Value) {
    let list = draft.fields.iter_mut().rev().filter(|f| f.path == path).find_map(|f| match &mut f.change {
        Change::Add(values) if field.is_none() => Some(values),
        Change::Items { field: name, values } if Some(name.as_str()) == field => Some(values),
        _ => None,
    });
    match (list, field) {
        (Some(values), _) => values.push(item),
        (None, None) => draft.push(path, Change::Add(vec![item])),
        (None, Some(name)) => draft.push(path, Change::Items { field: name.to_owned(), values: vec![item] }),
    }
}
