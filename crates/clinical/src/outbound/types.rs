//! Data types of FHIR to data types of HL7 v2: what `v2::convert` reads, written. A value without a place says nothing.

use std::collections::BTreeMap;

use fhir::json::Value;

use super::er7::{components, repetitions, subcomponents, text};
use crate::v2::back;

/// Extensions that are a field of their own: `urn:wardmesh:hl7v2:PV1-18`.
pub const FIELD: &str = "urn:wardmesh:hl7v2:";

/// System URI to the namespace that a source of the domain calls it by.
pub type Assigners = BTreeMap<String, String>;

pub fn str_at<'a>(value: &'a Value, steps: &[&str]) -> &'a str {
    value.path(steps).and_then(Value::as_str).unwrap_or_default()
}

pub fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    match value.get(name) {
        Some(Value::Array(items)) => items,
        Some(one @ Value::Object(_)) => std::slice::from_ref(one),
        _ => &[],
    }
}

/// The field that an element of a list came from: `PID-13` of the id `PID-13.1`.
pub fn field_of(value: &Value) -> &str {
    str_at(value, &["id"]).split('.').next().unwrap_or_default()
}

/// FHIR date, dateTime or instant as DTM.
pub fn time(value: &str) -> String {
    let (moment, offset) = match value.find('T') {
        Some(at) => match value[at..].find(['Z', '+', '-']) {
            Some(zone) => value.split_at(at + zone),
            None => (value, ""),
        },
        None => (value, ""),
    };
    let moment: String = moment.chars().filter(|c| c.is_ascii_digit() || *c == '.').collect();
    // v2.8.2 §2.A.22: four digits of a second at most.
    let moment = match moment.split_once('.') {
        Some((whole, fraction)) => format!("{whole}.{}", fraction.get(..4).unwrap_or(fraction)),
        None => moment,
    };
    let offset = match offset {
        "Z" => "+0000".to_owned(),
        offset => offset.replace(':', ""),
    };
    moment + &offset
}

/// HD as subcomponents: a namespace where there is one, an OID, a UUID, else the URI itself.
pub fn authority(system: &str, assigners: &Assigners) -> String {
    let (namespace, universal, kind) = authority_parts(system, assigners);
    subcomponents([text(&namespace), text(&universal), kind.to_owned()])
}

fn authority_parts(system: &str, assigners: &Assigners) -> (String, String, &'static str) {
    if let Some(namespace) = assigners.get(system) {
        return (namespace.clone(), String::new(), "");
    }
    if let Some(namespace) = system.strip_prefix("urn:wardmesh:assigner:").and_then(back::name) {
        return (namespace, String::new(), "");
    }
    if let Some(oid) = system.strip_prefix("urn:oid:") {
        return (String::new(), oid.to_owned(), "ISO");
    }
    if let Some(uuid) = system.strip_prefix("urn:uuid:") {
        return (String::new(), uuid.to_owned(), "UUID");
    }
    match system {
        "" => (String::new(), String::new(), ""),
        uri => (String::new(), uri.to_owned(), "URI"),
    }
}

/// Type of an identifier, table 0203.
pub fn identifier_kind(identifier: &Value) -> &str {
    match str_at(identifier, &["type", "text"]) {
        "" => list(identifier.get("type").unwrap_or(&Value::Null), "coding")
            .first()
            .map(|coding| str_at(coding, &["code"]))
            .unwrap_or_default(),
        told => told,
    }
}

/// An identifier of ours that only finds a resource again.
pub fn is_internal(identifier: &Value) -> bool {
    str_at(identifier, &["use"]) == "secondary" && str_at(identifier, &["system"]).starts_with("urn:wardmesh:")
}

/// A number that its owner has no more is told to nobody as theirs.
pub fn cx(identifier: &Value, assigners: &Assigners) -> String {
    let value = str_at(identifier, &["value"]);
    if value.is_empty() || is_internal(identifier) || str_at(identifier, &["use"]) == "old" {
        return String::new();
    }
    let end = |name| time(str_at(identifier, &["period", name]));
    components([
        text(value),
        String::new(),
        String::new(),
        authority(str_at(identifier, &["system"]), assigners),
        text(identifier_kind(identifier)),
        String::new(),
        end("start"),
        end("end"),
    ])
}

/// EI: the number, and its assigner as three components. A role that our own systems carry is left out.
pub fn ei(identifier: &Value, assigners: &Assigners) -> String {
    let value = str_at(identifier, &["value"]);
    if value.is_empty() || is_internal(identifier) {
        return String::new();
    }
    let system = str_at(identifier, &["system"]);
    let system = match system.rsplit_once(':') {
        Some((bare, "plac" | "fill" | "device")) if system.starts_with("urn:wardmesh:") => bare,
        _ => system,
    };
    let (namespace, universal, kind) = authority_parts(system, assigners);
    components([text(value), text(&namespace), text(&universal), kind.to_owned()])
}

pub fn xpn(name: &Value) -> String {
    let words = |field: &str, at: usize| list_text(name, field).get(at).map(|word| text(word)).unwrap_or_default();
    let given = list_text(name, "given");
    let more: Vec<&str> = given.iter().skip(1).copied().collect();
    let mut family = str_at(name, &["family"]).to_owned();
    if family.is_empty() && given.is_empty() {
        str_at(name, &["text"]).clone_into(&mut family);
    }
    let kind = back::name_type(str_at(name, &["use"]));
    let end = |side| time(str_at(name, &["period", side]));
    components([
        text(&family),
        words("given", 0),
        text(&more.join(" ")),
        words("suffix", 0),
        words("prefix", 0),
        words("suffix", 1),
        kind.to_owned(),
        String::new(),
        String::new(),
        String::new(),
        String::new(),
        end("start"),
        end("end"),
    ])
}

fn list_text<'a>(value: &'a Value, name: &str) -> Vec<&'a str> {
    value.get(name).map(Value::items).unwrap_or_default().iter().filter_map(Value::as_str).collect()
}

pub fn xad(address: &Value) -> String {
    let at = |name: &str| text(str_at(address, &[name]));
    let lines = list_text(address, "line");
    let more = lines.get(1..).unwrap_or_default().join(" ");
    let first = lines.first().copied().unwrap_or_default();
    let first = if first.is_empty() { str_at(address, &["text"]) } else { first };
    let end = |side| time(str_at(address, &["period", side]));
    components([
        text(first),
        text(&more),
        at("city"),
        at("state"),
        at("postalCode"),
        at("country"),
        back::address_type(str_at(address, &["use"]), str_at(address, &["type"])).to_owned(),
        String::new(),
        at("district"),
        String::new(),
        String::new(),
        String::new(),
        end("start"),
        end("end"),
    ])
}

pub fn xtn(point: &Value) -> String {
    let value = text(str_at(point, &["value"]));
    if value.is_empty() {
        return value;
    }
    let (used, equipment) = back::telecom(str_at(point, &["system"]), str_at(point, &["use"]));
    let end = |side| time(str_at(point, &["period", side]));
    let (number, address) = match str_at(point, &["system"]) {
        "email" => (String::new(), value),
        _ => (value, String::new()),
    };
    let none = String::new;
    components([
        number,
        used.to_owned(),
        equipment.to_owned(),
        address,
        none(),
        none(),
        none(),
        none(),
        none(),
        none(),
        none(),
        none(),
        end("start"),
        end("end"),
    ])
}

/// CWE of a CodeableConcept: the first two codings, and the text where it is another than the first's.
pub fn cwe(concept: &Value) -> String {
    let codings = list(concept, "coding");
    let mut parts: [String; 9] = Default::default();
    for (coding, at) in codings.iter().take(2).zip([0, 3]) {
        let [code, display, system] = coded(coding);
        parts[at] = code;
        parts[at + 1] = display;
        parts[at + 2] = system;
    }
    let told = str_at(concept, &["text"]);
    let first = codings.first().map(|coding| str_at(coding, &["display"])).unwrap_or_default();
    match codings {
        [] => parts[1] = text(told),
        _ if told != first => parts[8] = text(told),
        _ => {}
    }
    components(parts)
}

/// Of a Coding.
pub fn coding(coding: &Value) -> String {
    components(coded(coding))
}

fn coded(coding: &Value) -> [String; 3] {
    let at = |name: &str| str_at(coding, &[name]);
    [text(at("code")), text(at("display")), text(&back::coding_system(at("system")))]
}

/// A person at work, by number and name. The parts of the name are not known: all of it stands as the family name.
pub fn xcn(reference: &Value, assigners: &Assigners) -> String {
    let identifier = reference.get("identifier").unwrap_or(&Value::Null);
    let number = str_at(identifier, &["value"]);
    let none = String::new;
    components([
        text(number),
        text(str_at(reference, &["display"])),
        none(),
        none(),
        none(),
        none(),
        none(),
        none(),
        if number.is_empty() { none() } else { authority(str_at(identifier, &["system"]), assigners) },
        none(),
        none(),
        none(),
        text(identifier_kind(identifier)),
    ])
}

/// PL of a place: by its parts where we joined them, else by its name.
pub fn pl(reference: &Value) -> String {
    let identifier = reference.get("identifier").unwrap_or(&Value::Null);
    if str_at(identifier, &["system"]).starts_with("urn:wardmesh:place:") {
        let parts: Vec<String> = str_at(identifier, &["value"]).split('|').map(text).collect();
        let at = |n: usize| parts.get(n).cloned().unwrap_or_default();
        let none = String::new;
        return components([at(0), at(1), at(2), at(3), none(), none(), at(4), at(5)]);
    }
    let named = text(str_at(reference, &["display"]));
    if named.is_empty() { text(str_at(identifier, &["value"])) } else { named }
}

pub fn xon(reference: &Value, assigners: &Assigners) -> String {
    let identifier = reference.get("identifier").unwrap_or(&Value::Null);
    let number = str_at(identifier, &["value"]);
    let none = String::new;
    components([
        text(str_at(reference, &["display"])),
        none(),
        none(),
        none(),
        none(),
        if number.is_empty() { none() } else { authority(str_at(identifier, &["system"]), assigners) },
        text(identifier_kind(identifier)),
        none(),
        none(),
        text(number),
    ])
}

/// CQ.
pub fn quantity(quantity: &Value) -> String {
    let number = quantity.get("value").and_then(Value::as_number).map(|number| number.as_str().to_owned());
    let unit = unit(quantity).replace('^', "&");
    components([number.unwrap_or_default(), unit])
}

/// CWE of a unit: the UCUM code with the sender's word beside it, else the word alone.
pub fn unit(quantity: &Value) -> String {
    let (code, unit) = (str_at(quantity, &["code"]), str_at(quantity, &["unit"]));
    match (code, unit) {
        ("", unit) => text(unit),
        (code, unit) => components([text(code), text(if unit.is_empty() { code } else { unit }), "UCUM".to_owned()]),
    }
}

/// What one of our own extensions holds, as the field it came from wants it.
pub fn extension(extension: &Value, assigners: &Assigners) -> String {
    let Some(object) = extension.as_object() else { return String::new() };
    let Some((kind, value)) = object.iter().find(|(name, _)| name.starts_with("value")) else { return String::new() };
    match (kind, value) {
        ("valueBoolean", value) => if value.as_bool() == Some(true) { "Y" } else { "N" }.to_owned(),
        ("valueDateTime" | "valueDate" | "valueInstant", value) => time(value.as_str().unwrap_or_default()),
        ("valueCodeableConcept", value) => cwe(value),
        ("valueCoding", value) => coding(value),
        ("valueIdentifier", value) => cx(value, assigners),
        ("valueAddress", value) => xad(value),
        ("valueHumanName", value) => xpn(value),
        ("valueContactPoint", value) => xtn(value),
        ("valueQuantity" | "valueDuration", value) => quantity(value),
        ("valuePeriod", value) => components([time(str_at(value, &["start"])), time(str_at(value, &["end"]))]),
        ("valueReference", value) => match str_at(value, &["type"]) {
            "Location" => pl(value),
            "Organization" => xon(value, assigners),
            _ => xcn(value, assigners),
        },
        (_, Value::String(_)) => repetitions(value.as_str().unwrap_or_default().split('\n').map(text)),
        (_, value) => value.as_number().map(|number| number.as_str().to_owned()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fhir::json;

    #[test]
    fn times_and_assigners() {
        for (fhir, v2) in [
            ("2021", "2021"),
            ("2021-08", "202108"),
            ("2021-08-18", "20210818"),
            ("2021-08-18T11:26:00+02:15", "20210818112600+0215"),
            ("2021-08-18T11:26:00.123456Z", "20210818112600.1234+0000"),
            ("2021-08-18T11:26:00-05:00", "20210818112600-0500"),
        ] {
            assert_eq!(time(fhir), v2);
        }
        let assigners = Assigners::from([("https://gen.example/mrn".to_owned(), "GENHOSP".to_owned())]);
        for (system, hd) in [
            ("https://gen.example/mrn", "GENHOSP"),
            ("urn:wardmesh:assigner:GHH%20Lab", "GHH Lab"),
            ("urn:oid:1.2.3", "&1.2.3&ISO"),
            ("urn:uuid:a-b", "&a-b&UUID"),
            ("http://hl7.org/fhir/sid/us-ssn", "&http://hl7.org/fhir/sid/us-ssn&URI"),
            ("", ""),
        ] {
            assert_eq!(authority(system, &assigners), hd, "{system}");
        }
    }

    #[test]
    fn concepts() {
        let concept = json!({"coding": [{"system": "http://loinc.org", "code": "2345-7", "display": "Glucose"}], "text": "Glucose"});
        assert_eq!(cwe(&concept), "2345-7^Glucose^LN");
        assert_eq!(cwe(&json!({"text": "a & b"})), "^a \\T\\ b");
        assert_eq!(unit(&json!({"value": 1, "unit": "MG/DL", "code": "mg/dL"})), "mg/dL^MG/DL^UCUM");
    }
}
