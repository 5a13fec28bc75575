//! What a data type gives to each kind of parameter: R4 §3.1.1.4.7 date, .8 string, .10 token, .11 quantity,
//! .12 reference.

use super::extract::Found;
use super::fold::fold;
use super::{IndexValue, ParamKind, range};
use crate::definitions::CodeSet;
use crate::json::{Number, Value};
use crate::reference::Reference;
use crate::time;

/// The rows that one element gives to a parameter of this kind.
pub(super) fn rows(kind: ParamKind, found: Found<'_>, out: &mut Vec<IndexValue>) {
    let (value, of) = (found.value, found.kind().name);
    match kind {
        ParamKind::Token => token(of, found.path.codes, value, out),
        ParamKind::Reference => reference(of, found.path.is_resource(), value, out),
        ParamKind::Date => out.extend(date(of, value)),
        ParamKind::String => string(of, value, out),
        ParamKind::Number => out.extend(number(value)),
        ParamKind::Quantity => out.extend(quantity(of, value)),
        ParamKind::Uri => out.extend(value.as_str().map(|text| IndexValue::Uri(text.to_owned()))),
        // Composites are put together of their parts; `Location.near` is a matter of distance, not of rows.
        ParamKind::Composite | ParamKind::Special => {}
    }
}

pub(super) fn boolean(holds: bool) -> IndexValue {
    IndexValue::Token { system: None, code: Some(holds.to_string()), text: None }
}

fn text_of(value: &Value, name: &str) -> Option<String> {
    value.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
}

fn folded(value: &Value, name: &str) -> Option<String> {
    value.get(name).and_then(Value::as_str).map(fold).filter(|text| !text.is_empty())
}

fn token(of: &str, codes: Option<&CodeSet>, value: &Value, out: &mut Vec<IndexValue>) {
    match (of, value) {
        ("CodeableConcept", value) => {
            let codings = value.get("coding").map(Value::items).unwrap_or_default();
            let text = folded(value, "text");
            let shown = codings.iter().any(|coding| folded(coding, "display") == text);
            codings.iter().for_each(|coding| out.extend(coding_row(coding)));
            if text.is_some() && !shown {
                out.push(IndexValue::Token { system: None, code: None, text });
            }
        }
        ("Coding", value) => out.extend(coding_row(value)),
        ("Identifier", value) => {
            let text = value.get("type").and_then(|kind| folded(kind, "text"));
            let (system, code) = (text_of(value, "system"), text_of(value, "value"));
            if code.is_some() || system.is_some() {
                out.push(IndexValue::Token { system, code, text });
            }
        }
        ("ContactPoint", value) => {
            if let Some(code) = text_of(value, "value") {
                out.push(IndexValue::Token { system: None, code: Some(code), text: None });
            }
        }
        (_, Value::Bool(holds)) => out.push(boolean(*holds)),
        (_, Value::Number(number)) => {
            out.push(IndexValue::Token { system: None, code: Some(number.as_str().to_owned()), text: None });
        }
        // The system of an element of type code is that of its binding.
        (_, Value::String(code)) if !code.is_empty() => {
            let system = codes.and_then(|set| set.systems.iter().find(|(_, c)| c.contains(&code.as_str())));
            let system = system.map(|(system, _)| (*system).to_owned());
            out.push(IndexValue::Token { system, code: Some(code.clone()), text: None });
        }
        _ => {}
    }
}

fn coding_row(coding: &Value) -> Option<IndexValue> {
    let row = (text_of(coding, "system"), text_of(coding, "code"), folded(coding, "display"));
    let (system, code, text) = row;
    (system.is_some() || code.is_some() || text.is_some()).then_some(IndexValue::Token { system, code, text })
}

fn reference(of: &str, is_resource: bool, value: &Value, out: &mut Vec<IndexValue>) {
    if is_resource {
        let part = |name| text_of(value, name);
        if let (Some(rtype), Some(id)) = (part("resourceType"), part("id")) {
            out.push(IndexValue::Reference { rtype, id });
        }
        return;
    }
    let text = match of {
        "Reference" => value.get("reference").and_then(Value::as_str),
        _ => value.as_str(),
    };
    match text.and_then(Reference::parse) {
        Some(Reference::Local { rtype, id, .. }) => {
            out.push(IndexValue::Reference { rtype: rtype.to_owned(), id: id.to_owned() });
        }
        Some(Reference::Absolute(url) | Reference::Urn(url)) => {
            let url = url.split('|').next().unwrap_or(url).to_owned();
            out.push(IndexValue::AbsoluteRef { url });
        }
        // A contained resource is no resource of the server; a conditional reference is resolved before storing.
        Some(Reference::Fragment(_) | Reference::Conditional { .. }) | None => {}
    }
    if let Some(identifier) = value.get("identifier") {
        let (system, code) = (text_of(identifier, "system"), text_of(identifier, "value"));
        if code.is_some() {
            out.push(IndexValue::IdentifierRef { system, code });
        }
    }
}

fn date(of: &str, value: &Value) -> Option<IndexValue> {
    let moment = |value: Option<&Value>| value.and_then(Value::as_str).and_then(time::parse);
    let (from_ms, to_ms) = match of {
        "Period" => period(value)?,
        "Timing" => timing(value)?,
        _ => moment(Some(value)).map(|m| (m.from_ms, m.to_ms))?,
    };
    (from_ms < to_ms).then_some(IndexValue::Date { from_ms, to_ms })
}

/// An end that is not given is open.
fn period(value: &Value) -> Option<(i64, i64)> {
    let moment = |name| value.get(name).and_then(Value::as_str).and_then(time::parse);
    let (start, end) = (moment("start"), moment("end"));
    if start.is_none() && end.is_none() {
        return None;
    }
    Some((start.map_or(i64::MIN, |m| m.from_ms), end.map_or(i64::MAX, |m| m.to_ms)))
}

/// Only the outer limits count.
fn timing(value: &Value) -> Option<(i64, i64)> {
    let events = value.get("event").map(Value::items).unwrap_or_default();
    let events = events.iter().filter_map(|e| time::parse(e.as_str()?)).map(|m| (m.from_ms, m.to_ms));
    let bounds = value.path(&["repeat", "boundsPeriod"]).and_then(period);
    events.chain(bounds).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
}

fn string(of: &str, value: &Value, out: &mut Vec<IndexValue>) {
    const NAME: &[&str] = &["text", "family", "given", "prefix", "suffix"];
    const ADDRESS: &[&str] = &["text", "line", "city", "district", "state", "postalCode", "country"];
    let parts = match of {
        "HumanName" => NAME,
        "Address" => ADDRESS,
        "Annotation" | "CodeableConcept" => &["text"],
        _ => return push_string(value, out),
    };
    for part in parts {
        value.get(part).map(Value::items).unwrap_or_default().iter().for_each(|text| push_string(text, out));
    }
}

fn push_string(value: &Value, out: &mut Vec<IndexValue>) {
    if let Some(exact) = value.as_str() {
        let folded = fold(exact);
        if !folded.is_empty() {
            out.push(IndexValue::String { folded, exact: exact.to_owned() });
        }
    }
}

fn number(value: &Value) -> Option<IndexValue> {
    let (_, low, high) = range::of_text(value.as_number()?.as_str())?;
    Some(IndexValue::Number { low, high })
}

fn quantity(of: &str, value: &Value) -> Option<IndexValue> {
    match of {
        "Range" => {
            let end = |name| value.get(name).and_then(|q| Some((q.get("value")?.as_number()?.as_f64(), q)));
            let (low, high) = (end("low"), end("high"));
            let unit_of = low.or(high)?.1;
            let low = low.map_or(f64::NEG_INFINITY, |(v, _)| v);
            let high = high.map_or(f64::INFINITY, |(v, _)| v);
            let middle = if low.is_finite() && high.is_finite() { (low + high) / 2.0 } else { low.max(-high).abs() };
            quantity_row(unit_of, middle, low, high)
        }
        "SampledData" => {
            let (low, high) = sampled(value)?;
            quantity_row(value.get("origin")?, (low + high) / 2.0, low, high)
        }
        "Money" => {
            let (amount, low, high) = range::of_text(value.get("value")?.as_number()?.as_str())?;
            let code = text_of(value, "currency");
            let system = code.as_ref().map(|_| "urn:iso:std:iso:4217".to_owned());
            Some(IndexValue::Quantity { value: amount, low, high, system, unit: code.clone(), code })
        }
        _ => {
            let (amount, low, high) = range::of_text(value.get("value").and_then(Value::as_number)?.as_str())?;
            let (low, high) = match value.get("comparator").and_then(Value::as_str) {
                Some("<" | "<=") => (f64::NEG_INFINITY, amount),
                Some(">" | ">=") => (amount, f64::INFINITY),
                _ => (low, high),
            };
            quantity_row(value, amount, low, high)
        }
    }
}

fn quantity_row(unit_of: &Value, value: f64, low: f64, high: f64) -> Option<IndexValue> {
    let part = |name| text_of(unit_of, name);
    let finite = value.is_finite() && low <= high;
    finite.then(|| IndexValue::Quantity {
        value,
        low,
        high,
        system: part("system"),
        code: part("code"),
        unit: part("unit"),
    })
}

/// The least and the greatest sample; `E`, `L` and `U` stand for what could not be measured.
fn sampled(value: &Value) -> Option<(f64, f64)> {
    let amount = |v: Option<&Value>| v.and_then(Value::as_number).map(Number::as_f64);
    let origin = amount(value.path(&["origin", "value"]))?;
    let factor = amount(value.get("factor")).unwrap_or(1.0);
    let samples = value.get("data")?.as_str()?.split_ascii_whitespace().filter_map(|s| s.parse::<f64>().ok());
    let samples = samples.filter(|s| s.is_finite()).map(|s| origin + s * factor);
    samples.fold(None, |range, s| Some(range.map_or((s, s), |(low, high): (f64, f64)| (low.min(s), high.max(s)))))
}
