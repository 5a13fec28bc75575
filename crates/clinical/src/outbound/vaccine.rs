//! ORC, RXA and RXR of an Immunization.

use fhir::json::Value;

use super::er7::{Segment, repetitions, text};
use super::patient::put_back;
use super::types::{Assigners, cwe, ei, field_of, identifier_kind, is_internal, list, pl, str_at, time, unit, xcn};

pub fn segments(told: &Value, is_first: bool, domain: &str, assigners: &Assigners) -> Vec<Segment> {
    let mut all = vec![orc(told, domain, assigners), rxa(told, is_first, assigners)];
    let mut rxr = Segment::new("RXR");
    rxr.set(1, told.get("route").map(cwe).unwrap_or_default()).set(2, told.get("site").map(cwe).unwrap_or_default());
    put_back(&mut rxr, told, assigners);
    if rxr.is_set(1) {
        all.push(rxr);
    }
    all
}

fn performers<'a>(told: &'a Value, field: &'a str, function: &'a str) -> impl Iterator<Item = &'a Value> {
    let is_it = move |performer: &&Value| match field_of(performer) {
        "" => {
            let functions = performer.get("function").map(|function| list(function, "coding")).unwrap_or_default();
            functions.iter().any(|coding| str_at(coding, &["code"]) == function)
        }
        from => from == field,
    };
    list(told, "performer").iter().filter(is_it).filter_map(|performer| performer.get("actor"))
}

fn orc(told: &Value, domain: &str, assigners: &Assigners) -> Segment {
    let mut orc = Segment::new("ORC");
    let numbers = || list(told, "identifier").iter().filter(|number| !is_internal(number));
    for (field, kind) in [(2, "PLAC"), (3, "FILL")] {
        let own = numbers().find(|number| identifier_kind(number) == kind);
        orc.set(field, own.map(|number| ei(number, assigners)).unwrap_or_default());
    }
    put_back(&mut orc, told, assigners);
    orc.set(1, "RE").set(3, format!("{}^{}", text(str_at(told, &["id"])), text(domain)));
    orc.set(9, time(str_at(told, &["recorded"])));
    orc.set(12, repetitions(performers(told, "ORC-12", "OP").map(|person| xcn(person, assigners))));
    orc
}

fn rxa(told: &Value, is_first: bool, assigners: &Assigners) -> Segment {
    let mut rxa = Segment::new("RXA");
    let status = str_at(told, &["status"]);
    rxa.set(1, "0").set(2, "1");
    let given = time(str_at(told, &["occurrenceDateTime"]));
    rxa.set(3, given.clone()).set(4, given).set(5, told.get("vaccineCode").map(cwe).unwrap_or_default());
    put_back(&mut rxa, told, assigners);
    let dose = told.get("doseQuantity");
    let amount =
        dose.and_then(|dose| dose.get("value")).and_then(Value::as_number).map(|number| number.as_str().to_owned());
    // CDC's implementation guide: 999 where the amount is not known.
    rxa.set(6, amount.unwrap_or_else(|| "999".to_owned())).set(7, dose.map(unit).unwrap_or_default());
    rxa.set(9, told.get("reportOrigin").map(cwe).unwrap_or_default());
    rxa.set(
        9,
        match told.get("primarySource").and_then(Value::as_bool) {
            Some(true) => "00^New immunization record^NIP001",
            Some(false) => "01^Historical information - source unspecified^NIP001",
            None => "",
        },
    );
    rxa.set(10, repetitions(performers(told, "RXA-10", "AP").map(|person| xcn(person, assigners))));
    rxa.set(11, told.get("location").map(pl).unwrap_or_default());
    rxa.set(15, text(str_at(told, &["lotNumber"]))).set(16, time(str_at(told, &["expirationDate"])));
    rxa.set(17, told.get("manufacturer").map(manufacturer).unwrap_or_default());
    let reason = told.get("statusReason").map(cwe).unwrap_or_default();
    rxa.set(
        20,
        match status {
            "completed" => "CP",
            "not-done" if !reason.is_empty() => "RE",
            "not-done" => "NA",
            _ => "",
        },
    );
    rxa.set(18, reason).set(19, list(told, "reasonCode").first().map(cwe).unwrap_or_default());
    rxa.set(
        21,
        match status {
            "entered-in-error" => "D",
            _ if is_first => "A",
            _ => "U",
        },
    );
    rxa
}

/// A CWE: code, name, system.
fn manufacturer(told: &Value) -> String {
    let identifier = told.get("identifier").unwrap_or(&Value::Null);
    let system = crate::v2::back::coding_system(str_at(identifier, &["system"]));
    super::er7::components([text(str_at(identifier, &["value"])), text(str_at(told, &["display"])), text(&system)])
}
