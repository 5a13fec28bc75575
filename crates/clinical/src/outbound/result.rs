//! OBR and OBX of DiagnosticReports and Observations.

use fhir::json::{Value, to_string};

use super::er7::{Segment, components, repetitions, text};
use super::patient::put_back;
use super::types::{Assigners, coding, cwe, ei, field_of, is_internal, list, str_at, time, unit, xcn, xon};
use crate::v2::back;

/// The attachment that R4 has no value for.
const ATTACHMENT: &str = "http://hl7.org/fhir/5.0/StructureDefinition/extension-Observation.value";
const WITHIN: &str = crate::v2::Key::WITHIN_SYSTEM;

/// OBR of a report, or of an observation that stands alone.
pub fn obr(n: usize, told: &Value, domain: &str, assigners: &Assigners) -> Segment {
    let mut obr = Segment::new("OBR");
    let is_report = str_at(told, &["resourceType"]) == "DiagnosticReport";
    let of_kind = |wanted: &'static str| {
        let all = list(told, "identifier").iter().filter(|number| !is_internal(number));
        all.filter(move |number| super::types::identifier_kind(number) == wanted)
    };
    let first = |wanted| of_kind(wanted).next().map(|number| ei(number, assigners)).unwrap_or_default();
    obr.set(1, n.to_string()).set(2, first("PLAC")).set(3, first("FILL"));
    obr.set(3, format!("{}^{}", text(str_at(told, &["id"])), text(domain)));
    obr.set(4, told.get("code").map(cwe).unwrap_or_default());
    let (from, to) = effective(told);
    obr.set(7, from).set(8, to).set(22, time(str_at(told, &["issued"])));
    let sections = list(told, "category").iter().flat_map(|category| list(category, "coding"));
    let section =
        sections.filter(|coding| str_at(coding, &["system"]).ends_with("/v2-0074")).map(|c| str_at(c, &["code"]));
    obr.set(24, section.map(text).next().unwrap_or_default());
    let status = str_at(told, &["status"]);
    obr.set(25, if is_report { back::report_status(status) } else { result_as_report(status) });
    put_back(&mut obr, told, assigners);
    obr
}

/// Table 0123 for a result that stands alone.
fn result_as_report(status: &str) -> &'static str {
    match status {
        "amended" => "C",
        status => back::report_status(status),
    }
}

fn effective(told: &Value) -> (String, String) {
    let at = |steps: &[&str]| time(str_at(told, steps));
    let moment = at(&["effectiveDateTime"]);
    let moment = if moment.is_empty() { at(&["effectiveInstant"]) } else { moment };
    if moment.is_empty() {
        (at(&["effectivePeriod", "start"]), at(&["effectivePeriod", "end"]))
    } else {
        (moment, String::new())
    }
}

/// OBX-2, and OBX-5 as it stands in the message.
struct Shown {
    kind: &'static str,
    value: String,
    unit: String,
}

fn shown(kind: &'static str, value: impl Into<String>) -> Shown {
    Shown { kind, value: value.into(), unit: String::new() }
}

fn number(quantity: &Value) -> String {
    quantity.get("value").and_then(Value::as_number).map(|number| number.as_str().to_owned()).unwrap_or_default()
}

/// The value of an observation or of a component of one; `None` where it has none.
fn value(told: &Value) -> Option<Shown> {
    if let Some(quantity) = told.get("valueQuantity") {
        let sign = str_at(quantity, &["comparator"]);
        let number = number(quantity);
        let value = if sign.is_empty() { shown("NM", number) } else { shown("SN", components([text(sign), number])) };
        return Some(Shown { unit: unit(quantity), ..value });
    }
    if let Some(range) = told.get("valueRange") {
        let side = |name| range.get(name).map(number).unwrap_or_default();
        let units = ["low", "high"].iter().filter_map(|name| range.get(name)).map(unit).find(|unit| !unit.is_empty());
        let value = components([String::new(), side("low"), "-".into(), side("high")]);
        return Some(Shown { unit: units.unwrap_or_default(), ..shown("SN", value) });
    }
    if let Some(ratio) = told.get("valueRatio") {
        let side = |name| ratio.get(name).map(number).unwrap_or_default();
        let sign = text(str_at(ratio, &["numerator", "comparator"]));
        return Some(shown("SN", components([sign, side("numerator"), ":".into(), side("denominator")])));
    }
    if let Some(concept) = told.get("valueCodeableConcept") {
        return Some(shown("CWE", cwe(concept)));
    }
    if let Some(words) = told.get("valueString").and_then(Value::as_str) {
        let lines: Vec<String> = words.split('\n').map(text).collect();
        let kind = if lines.len() > 1 || words.len() > 199 { "TX" } else { "ST" };
        return Some(shown(kind, lines.join("~")));
    }
    for (name, kind) in [("valueDateTime", "DTM"), ("valueInstant", "DTM"), ("valueTime", "TM")] {
        if let Some(moment) = told.get(name).and_then(Value::as_str) {
            let value = if kind == "TM" { moment.replace(':', "") } else { time(moment) };
            return Some(shown(kind, value));
        }
    }
    if let Some(period) = told.get("valuePeriod") {
        return Some(shown("DR", components([time(str_at(period, &["start"])), time(str_at(period, &["end"]))])));
    }
    if let Some(answer) = told.get("valueBoolean").and_then(Value::as_bool) {
        return Some(shown("CWE", format!("{}^^HL70136", if answer { "Y" } else { "N" })));
    }
    if let Some(whole) = told.get("valueInteger") {
        return Some(shown("NM", to_string(whole)));
    }
    attachment(told)
}

/// ED with its data, RP where only a place is known.
fn attachment(told: &Value) -> Option<Shown> {
    let extension = list(told, "extension").iter().find(|extension| str_at(extension, &["url"]) == ATTACHMENT)?;
    let content = extension.get("valueAttachment")?;
    let (kind, subtype) = str_at(content, &["contentType"]).split_once('/').unwrap_or_default();
    let data = str_at(content, &["data"]);
    if data.is_empty() {
        let place =
            [str_at(content, &["url"]), str_at(content, &["title"])].into_iter().find(|place| !place.is_empty())?;
        return Some(shown("RP", components([text(place), String::new(), text(kind), text(subtype)])));
    }
    Some(shown("ED", components([String::new(), text(kind), text(subtype), "Base64".into(), data.to_owned()])))
}

/// The OBX of an observation: one, and one for each part that is coded otherwise. They are numbered on from `n`.
pub fn obx(n: usize, told: &Value, assigners: &Assigners) -> Vec<Segment> {
    let parts = list(told, "component");
    let is_same = |part: &&Value| part.get("code") == told.get("code");
    let mut all = Vec::new();
    let repeated: Vec<String> = parts.iter().filter(is_same).filter_map(value).map(|shown| shown.value).collect();
    let own = match repeated.is_empty() {
        true => value(told),
        false => Some(shown("CWE", repetitions(repeated))),
    };
    let has_others = parts.iter().any(|part| !is_same(&part));
    if own.is_some() || !has_others {
        all.push(one(n, told, told, &sub_id(told), own, assigners));
    }
    for (at, part) in parts.iter().filter(|part| !is_same(part)).enumerate() {
        // The parts of one measurement share what stands before the dot (§7.4.2.4).
        let sub = format!("{}.{}", if sub_id(told).is_empty() { "1".to_owned() } else { sub_id(told) }, at + 1);
        all.push(one(n + all.len(), told, part, &sub, value(part), assigners));
    }
    all
}

/// OBX-4: what tells several results of one code apart, as the key of the resource keeps it.
fn sub_id(told: &Value) -> String {
    let within = list(told, "identifier").iter().find(|number| str_at(number, &["system"]) == WITHIN);
    let natural = within.and_then(|number| str_at(number, &["value"]).split_once('#')).map(|(_, natural)| natural);
    natural.and_then(|natural| natural.split('|').nth(2)).map(text).unwrap_or_default()
}

fn one(n: usize, told: &Value, part: &Value, sub: &str, shown: Option<Shown>, assigners: &Assigners) -> Segment {
    let mut obx = Segment::new("OBX");
    obx.set(1, n.to_string());
    if let Some(Shown { kind, value, unit }) = shown {
        obx.set(2, kind).set(5, value).set(6, unit);
    }
    obx.set(3, part.get("code").map(cwe).unwrap_or_default()).set(4, sub);
    obx.set(7, list(part, "referenceRange").first().map(reference_range).unwrap_or_default());
    obx.set(8, repetitions(list(part, "interpretation").iter().map(flag)));
    obx.set(11, back::result_status(str_at(told, &["status"])));
    let performers = list(told, "performer");
    let is_person =
        |told: &&Value| str_at(told, &["type"]) == "Practitioner" && ["", "OBX-16"].contains(&field_of(told));
    let is_place =
        |told: &&Value| str_at(told, &["type"]) == "Organization" && ["", "OBX-23"].contains(&field_of(told));
    obx.set(14, effective(told).0);
    obx.set(16, repetitions(performers.iter().filter(is_person).map(|told| xcn(told, assigners))));
    obx.set(17, told.get("method").map(cwe).unwrap_or_default());
    obx.set(18, told.path(&["device", "identifier"]).map(|number| ei(number, assigners)).unwrap_or_default());
    obx.set(23, performers.iter().find(is_place).map(|told| xon(told, assigners)).unwrap_or_default());
    put_back(&mut obx, told, assigners);
    obx
}

fn reference_range(range: &Value) -> String {
    let words = str_at(range, &["text"]);
    if !words.is_empty() {
        return text(words);
    }
    let side = |name| range.get(name).map(number).unwrap_or_default();
    match (side("low"), side("high")) {
        (low, high) if low.is_empty() && high.is_empty() => String::new(),
        (low, high) if high.is_empty() => format!(">={low}"),
        (low, high) if low.is_empty() => format!("<={high}"),
        (low, high) => format!("{low}-{high}"),
    }
}

/// The v2 code of a flag, else its own.
fn flag(interpretation: &Value) -> String {
    let Some(told) = list(interpretation, "coding").first() else {
        return components([String::new(), text(str_at(interpretation, &["text"]))]);
    };
    match back::abnormal_flag(str_at(told, &["code"])) {
        "" => coding(told),
        flag => flag.to_owned(),
    }
}
