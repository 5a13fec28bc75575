//! PV1 and PV2 of an Encounter, and which event its change is.

use fhir::json::Value;

use super::er7::{Segment, repetitions, text};
use super::patient::{is_restricted, put_back};
use super::types::{Assigners, cwe, cx, field_of, is_internal, list, pl, str_at, time, xcn};
use crate::v2::back;

/// The event that tells of a version of a visit after the one before it (HL7 table 0003); each has the effect that
/// `v2::events` gives it.
pub fn event(before: Option<&Value>, now: &Value) -> &'static str {
    let class = |visit: &Value| back::patient_class(str_at(visit, &["class", "code"]));
    let admitted = if class(now) == "I" { "A01" } else { "A04" };
    let was = before.map(|visit| str_at(visit, &["status"])).unwrap_or_default();
    let begun = ["arrived", "triaged", "in-progress"];
    match str_at(now, &["status"]) {
        "entered-in-error" => "A23",
        status if status == was => before.map_or("A08", |before| moved(before, now, class(before), class(now))),
        "cancelled" if was == "planned" => "A38",
        "cancelled" => "A11",
        "planned" if was.is_empty() => "A05",
        "finished" => "A03",
        "onleave" => "A21",
        status if begun.contains(&status) => match was {
            "finished" => "A13",
            "onleave" => "A22",
            was if begun.contains(&was) => "A08",
            _ => admitted,
        },
        _ => "A08",
    }
}

/// Within the same status: another class, another place, or anything else.
fn moved(before: &Value, now: &Value, from: &str, to: &str) -> &'static str {
    let place = |visit: &Value| stands(visit).map(|place| (pl(place), str_at(place, &["reference"]).to_owned()));
    let is_open = matches!(str_at(now, &["status"]), "arrived" | "triaged" | "in-progress");
    match (from, to) {
        ("O" | "E" | "B", "I") if is_open => "A06",
        ("I", "O" | "E" | "B") if is_open => "A07",
        _ if is_open && place(before).is_some() && place(before) != place(now) => "A02",
        _ => "A08",
    }
}

/// Where the patient is: PV1-3.
fn stands(visit: &Value) -> Option<&Value> {
    let locations = list(visit, "location");
    let told = locations.iter().find(|location| field_of(location) == "PV1-3");
    let active = || locations.iter().rfind(|location| str_at(location, &["status"]) == "active");
    let any = || locations.iter().find(|location| field_of(location).is_empty());
    told.or_else(active).or_else(any)?.get("location")
}

/// Practitioners by the field they came from, or by how they take part.
const PARTICIPANTS: &[(usize, &str, &str)] =
    &[(7, "PV1-7", "ATND"), (8, "PV1-8", "REF"), (9, "PV1-9", "CON"), (17, "PV1-17", "ADM"), (52, "PV1-52", "PART")];

const LOCATIONS: &[(usize, &str)] = &[(6, "PV1-6"), (11, "PV1-11"), (42, "PV1-42"), (43, "PV1-43")];

pub fn pv1(visit: &Value, domain: &str, assigners: &Assigners) -> Segment {
    let mut pv1 = Segment::new("PV1");
    pv1.set(1, "1").set(2, back::patient_class(str_at(visit, &["class", "code"])));
    let told = list(visit, "location").iter().filter(|told| field_of(told) == "PV1-3");
    pv1.set(3, repetitions(told.filter_map(|told| told.get("location")).map(pl)));
    pv1.set(3, stands(visit).map(pl).unwrap_or_default());
    let types = list(visit, "type");
    for (field, id) in [(4, "PV1-4"), (18, "PV1-18")] {
        pv1.set(field, types.iter().find(|told| field_of(told) == id).map(cwe).unwrap_or_default());
    }
    let stay = |name: &str| visit.path(&["hospitalization", name]);
    pv1.set(5, stay("preAdmissionIdentifier").map(|number| cx(number, assigners)).unwrap_or_default());
    let locations = list(visit, "location");
    for (field, id) in LOCATIONS {
        let there = locations.iter().filter(|told| field_of(told) == *id).filter_map(|told| told.get("location"));
        pv1.set(*field, repetitions(there.map(pl)));
    }
    let participants = list(visit, "participant");
    for (field, id, role) in PARTICIPANTS {
        let is_it = |told: &&Value| match field_of(told) {
            "" => {
                list(told, "type").iter().flat_map(|kind| list(kind, "coding")).any(|c| str_at(c, &["code"]) == *role)
            }
            from => from == *id,
        };
        let persons = participants.iter().filter(is_it).filter_map(|told| told.get("individual"));
        pv1.set(*field, repetitions(persons.map(|person| xcn(person, assigners))));
    }
    pv1.set(10, visit.get("serviceType").map(cwe).unwrap_or_default());
    for (field, name) in [(13, "reAdmission"), (14, "admitSource"), (36, "dischargeDisposition")] {
        pv1.set(field, stay(name).map(cwe).unwrap_or_default());
    }
    for (field, name) in [(16, "specialCourtesy"), (38, "dietPreference")] {
        pv1.set(
            field,
            visit.get("hospitalization").map(|stay| repetitions(list(stay, name).iter().map(cwe))).unwrap_or_default(),
        );
    }
    pv1.set(19, number(visit, domain, assigners));
    pv1.set(37, stay("destination").map(|place| text(str_at(place, &["display"]))).unwrap_or_default());
    pv1.set(39, text(str_at(visit, &["serviceProvider", "display"])));
    pv1.set(44, time(str_at(visit, &["period", "start"]))).set(45, time(str_at(visit, &["period", "end"])));
    let others = numbers(visit).filter(|number| field_of(number) == "PV1-50").chain(own_numbers(visit).skip(1));
    pv1.set(50, repetitions(others.map(|number| cx(number, assigners))));
    put_back(&mut pv1, visit, assigners);
    pv1
}

fn numbers(visit: &Value) -> impl Iterator<Item = &Value> {
    list(visit, "identifier").iter().filter(|number| !is_internal(number))
}

/// Those that name the visit itself.
fn own_numbers(visit: &Value) -> impl Iterator<Item = &Value> {
    numbers(visit).filter(|number| !matches!(field_of(number), "PV1-50" | "PID-18"))
}

/// The visit's number, or its id where it has none.
fn number(visit: &Value, domain: &str, assigners: &Assigners) -> String {
    match own_numbers(visit).next().map(|number| cx(number, assigners)).filter(|number| !number.is_empty()) {
        Some(number) => number,
        None => format!("{}^^^{}^VN", text(str_at(visit, &["id"])), text(domain)),
    }
}

/// PID-18: the account that the visit carries as a number of its own.
pub fn account(visit: &Value, assigners: &Assigners) -> String {
    let numbers = list(visit, "identifier").iter().filter(|number| field_of(number) == "PID-18");
    repetitions(numbers.map(|number| cx(number, assigners)))
}

/// PV2, where it says anything.
pub fn pv2(visit: &Value, assigners: &Assigners) -> Option<Segment> {
    let mut pv2 = Segment::new("PV2");
    let before = list(visit, "location").iter().filter(|told| field_of(told) == "PV2-1");
    pv2.set(1, repetitions(before.filter_map(|told| told.get("location")).map(pl)));
    let referrers = list(visit, "participant").iter().filter(|told| field_of(told) == "PV2-13");
    pv2.set(13, repetitions(referrers.filter_map(|told| told.get("individual")).map(|person| xcn(person, assigners))));
    pv2.set(3, list(visit, "reasonCode").first().map(cwe).unwrap_or_default());
    pv2.set(22, if is_restricted(visit) { "Y" } else { "" });
    pv2.set(25, visit.get("priority").map(cwe).unwrap_or_default());
    put_back(&mut pv2, visit, assigners);
    (pv2.written() != "PV2\r").then_some(pv2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fhir::json;

    #[test]
    fn events_by_what_changed() {
        let visit = |status: &str, class: &str, place: &str| {
            json!({
                "status": (status.to_owned()),
                "class": {"code": (class.to_owned())},
                "location": [{"location": {"display": (place.to_owned())}}]
            })
        };
        let ward = |status: &str| visit(status, "IMP", "2N");
        for (before, now, expected) in [
            (None, ward("in-progress"), "A01"),
            (None, visit("in-progress", "AMB", "2N"), "A04"),
            (None, ward("planned"), "A05"),
            (None, ward("finished"), "A03"),
            (Some(ward("planned")), ward("in-progress"), "A01"),
            (Some(ward("planned")), ward("cancelled"), "A38"),
            (Some(ward("in-progress")), ward("cancelled"), "A11"),
            (Some(ward("in-progress")), ward("finished"), "A03"),
            (Some(ward("finished")), ward("in-progress"), "A13"),
            (Some(ward("in-progress")), ward("onleave"), "A21"),
            (Some(ward("onleave")), ward("in-progress"), "A22"),
            (Some(ward("in-progress")), ward("in-progress"), "A08"),
            (Some(ward("in-progress")), visit("in-progress", "IMP", "3S"), "A02"),
            (Some(visit("in-progress", "EMER", "ED")), ward("in-progress"), "A06"),
            (Some(ward("in-progress")), visit("in-progress", "AMB", "2N"), "A07"),
            (Some(ward("finished")), visit("finished", "IMP", "3S"), "A08"),
            (Some(ward("finished")), ward("entered-in-error"), "A23"),
        ] {
            assert_eq!(event(before.as_ref(), &now), expected, "{now:?}");
        }
    }
}
