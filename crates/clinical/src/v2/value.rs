//! OBX-5 by the type in OBX-2 (v2-to-FHIR guide, OBX to Observation). Numbers keep every digit; what is no number is
//! never made one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fhir::json;
use fhir::json::{Number, Value};
use hl7v2::time::{DateTime, time_to_fhir};
use hl7v2::{Element, Segment};

use super::convert::{Context, Fault, fault, leaf, whole};
use super::{ucum, vocabulary};

/// The value of an observation.
pub struct Observed {
    /// `valueQuantity`, `component`, `extension`: the element and its content.
    pub element: &'static str,
    pub value: Value,
    /// Something to know about it: a short word and a sentence.
    pub remark: Option<Fault>,
}

fn observed(element: &'static str, value: impl Into<Value>) -> Observed {
    Observed { element, value: value.into(), remark: None }
}

fn remarked(element: &'static str, value: impl Into<Value>, code: &'static str, text: &'static str) -> Observed {
    Observed { element, value: value.into(), remark: Some(fault(code, text)) }
}

/// OBX-6 as it stands beside a number.
pub struct Units {
    text: Option<String>,
    code: Option<String>,
}

impl Units {
    /// CWE: the code, else its text. UCUM only for strings that are known to be one.
    pub fn read(context: &Context<'_>, field: Element<'_>) -> Units {
        Units::of(context, leaf(field.component(1)), leaf(field.component(2)))
    }

    /// The source's own table is asked first, then the common one; nothing is guessed.
    fn of(context: &Context<'_>, code: Option<String>, name: Option<String>) -> Units {
        let known = |unit: &String| match context.sender.units.get(unit) {
            Some(own) => Some(own.clone()),
            None => ucum::code(unit).map(str::to_owned),
        };
        let found = [&code, &name].into_iter().flatten().find_map(known);
        Units { text: code.or(name), code: found }
    }

    pub fn none() -> Units {
        Units { text: None, code: None }
    }

    /// The unit in another field of the segment; 0 is none.
    pub fn of_field(context: &Context<'_>, segment: Segment<'_>, field: usize) -> Units {
        match field {
            0 => Units::none(),
            n => Units::read(context, segment.field(n)),
        }
    }

    /// A unit whose parts are subcomponents, as in CQ.
    pub fn inner(context: &Context<'_>, part: Element<'_>) -> Units {
        let at = |n| whole(part.subcomponent(n));
        Units::of(context, at(1), at(2))
    }

    /// There is a unit, and it is none of the known ones.
    pub fn is_unknown(&self) -> bool {
        self.text.is_some() && self.code.is_none()
    }

    pub fn quantity(&self, number: Number, comparator: Option<&str>) -> Value {
        let mut quantity = json!({"value": number});
        if let Some(object) = quantity.as_object_mut() {
            if let Some(comparator) = comparator {
                object.push("comparator", comparator);
            }
            if let Some(text) = &self.text {
                object.push("unit", text.as_str());
            }
            if let Some(code) = &self.code {
                object.push("system", vocabulary::UCUM);
                object.push("code", code.as_str());
            }
        }
        quantity
    }

    /// Text with the unit behind it, for values that are no single number.
    fn beside(&self, text: String) -> String {
        match &self.text {
            Some(unit) => format!("{text} {unit}"),
            None => text,
        }
    }
}

/// An HL7 NM (v2.8.2 §2.A.47) as a JSON number of the same digits: no plus sign, no bare dot, no leading zeros.
pub fn number(text: &str) -> Option<Number> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => ("-", &text[1..]),
        b'+' => ("", &text[1..]),
        _ => ("", text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let whole = match whole.trim_start_matches('0') {
        "" => "0",
        rest => rest,
    };
    let dot = if fraction.is_empty() { "" } else { "." };
    Number::parse(&format!("{sign}{whole}{dot}{fraction}"))
}

/// `>1000`, `<=0.5`, `≥ 3`: comparator of FHIR and the rest.
fn comparator(text: &str) -> (Option<&'static str>, &str) {
    for (sign, comparator) in [("<=", "<="), (">=", ">="), ("≤", "<="), ("≥", ">="), ("<", "<"), (">", ">")] {
        if let Some(rest) = text.strip_prefix(sign) {
            return (Some(comparator), rest.trim());
        }
    }
    (None, text)
}

const BAD_NUMBER: Fault = Fault {
    code: "number-invalid",
    text: "the value type is NM but the value is no number: send digits with an optional sign and point, or send it as ST",
};

/// The value of OBX-5, `None` where it says nothing.
pub fn read(
    context: &Context<'_>,
    kind: &str,
    field: Element<'_>,
    unit: &Units,
    code: &Value,
) -> Result<Option<Observed>, Fault> {
    if !field.is_value() {
        return Ok(None);
    }
    Ok(Some(match kind {
        "NM" => numeric(field, unit)?,
        "SN" => structured(field.repetition(1), unit)?,
        "CE" | "CWE" | "CNE" | "CF" | "IS" | "ID" | "CNN" => coded(context, field, code),
        "DT" | "TS" | "DTM" => {
            let sent = leaf(field).unwrap_or_default();
            observed("valueDateTime", DateTime::parse(&sent)?.to_date_time(context.sender.utc_offset))
        }
        "TM" => observed("valueTime", time_to_fhir(&leaf(field).unwrap_or_default())?.0),
        "DR" => match context.period(field.component(1), field.component(2)) {
            Some(period) => observed("valuePeriod", period),
            None => return Err(fault("time-invalid", "a range of times of which no end can be read")),
        },
        "NR" => range(field, unit)?,
        "ED" => encapsulated(field)?,
        "RP" => pointer(field),
        "" => remarked(
            "valueString",
            text(field),
            "value-type-missing",
            "the value type in OBX-2 is missing: the value is kept as text",
        ),
        _ => observed("valueString", text(field)),
    }))
}

/// All repetitions as lines of text.
fn text(field: Element<'_>) -> String {
    let lines: Vec<String> = field.repetitions().filter_map(|r| r.value()).map(|t| t.trim_end().to_owned()).collect();
    lines.join("\n")
}

fn numeric(field: Element<'_>, unit: &Units) -> Result<Observed, Fault> {
    let sent: Vec<String> = field.repetitions().filter_map(leaf).collect();
    let [one] = sent.as_slice() else {
        if sent.is_empty() || !sent.iter().all(|n| number(comparator(n).1).is_some()) {
            return Err(BAD_NUMBER);
        }
        let text = unit.beside(sent.join("~"));
        return Ok(remarked(
            "valueString",
            text,
            "value-repeats",
            "several numbers for one observation: kept as text, as they came",
        ));
    };
    let (sign, digits) = comparator(one);
    if let Some(number) = number(digits) {
        return Ok(observed("valueQuantity", unit.quantity(number, sign)));
    }
    if vocabulary::RESULT_WORDS.contains(&one.to_uppercase().as_str()) {
        return Ok(remarked(
            "valueString",
            one.clone(),
            "word-for-number",
            "a word where a number was declared: kept as text",
        ));
    }
    Err(BAD_NUMBER)
}

/// SN: comparator, number, separator or suffix, number.
fn structured(sn: Element<'_>, unit: &Units) -> Result<Observed, Fault> {
    let part = |n| leaf(sn.component(n)).unwrap_or_default();
    let (sign, first, separator, second) = (part(1), part(2), part(3), part(4));
    let numbers = (number(&first), number(&second));
    let bad = fault("number-invalid", "the value type is SN but a part that must be a number is none");
    if !first.is_empty() && numbers.0.is_none() || !second.is_empty() && numbers.1.is_none() {
        return Err(bad);
    }
    let joined = || {
        let words: Vec<&str> = [&sign, &first, &separator, &second].map(String::as_str).into();
        let words: Vec<&str> = words.into_iter().filter(|w| !w.is_empty()).collect();
        observed("valueString", unit.beside(words.join(" ")))
    };
    let fhir_sign = match comparator(&sign) {
        (found, "") => found,
        _ => None,
    };
    Ok(match (numbers, separator.as_str()) {
        ((Some(low), Some(high)), "-") if sign.is_empty() => {
            observed("valueRange", json!({"low": (unit.quantity(low, None)), "high": (unit.quantity(high, None))}))
        }
        // A titre: both sides are plain numbers; the unit, if any, belongs to the whole.
        ((Some(over), Some(under)), ":" | "/") if sign.is_empty() || fhir_sign.is_some() => {
            let plain = Units { text: None, code: None };
            observed(
                "valueRatio",
                json!({"numerator": (plain.quantity(over, fhir_sign)), "denominator": (plain.quantity(under, None))}),
            )
        }
        ((Some(number), None), "") if sign.is_empty() || sign == "=" || fhir_sign.is_some() => {
            observed("valueQuantity", unit.quantity(number, fhir_sign))
        }
        ((None, None), _) => return Err(bad),
        _ => joined(),
    })
}

fn range(field: Element<'_>, unit: &Units) -> Result<Observed, Fault> {
    let side = |n| leaf(field.component(n)).map(|t| number(&t).ok_or(BAD_NUMBER)).transpose();
    let (low, high) = (side(1)?, side(2)?);
    let low = low.map(|n| unit.quantity(n, None));
    let high = high.map(|n| unit.quantity(n, None));
    match super::convert::object([("low", low), ("high", high)]) {
        Some(range) => Ok(observed("valueRange", range)),
        None => Err(BAD_NUMBER),
    }
}

/// One coded value, or as many components of the same code as there are repetitions.
fn coded(context: &Context<'_>, field: Element<'_>, code: &Value) -> Observed {
    let concepts: Vec<Value> =
        field.repetitions().filter_map(|r| context.concept(r, super::plan::vocabulary(""))).collect();
    match concepts.as_slice() {
        [one] => observed("valueCodeableConcept", one.clone()),
        [] => observed("valueString", text(field)),
        many => {
            let parts = many.iter().map(|c| json!({"code": code, "valueCodeableConcept": c})).collect::<Vec<_>>();
            observed("component", parts)
        }
    }
}

/// R4 has no attachment for the value; R5's element as the cross-version extension, as the guide has it.
fn attachment(content: Value) -> Value {
    let url = "http://hl7.org/fhir/5.0/StructureDefinition/extension-Observation.value";
    json!([{"url": url, "valueAttachment": content}])
}

/// ED: application, type, subtype, encoding, data.
fn encapsulated(field: Element<'_>) -> Result<Observed, Fault> {
    let part = |n| leaf(field.component(n)).unwrap_or_default();
    let Some(data) = whole(field.component(5)) else {
        return Err(fault("data-missing", "an ED value without data in its fifth component"));
    };
    match part(4).to_lowercase().as_str() {
        "base64" => {
            let data: String = data.split_whitespace().collect();
            let body = data.trim_end_matches('=');
            let valid = data.len().is_multiple_of(4)
                && data.len() - body.len() <= 2
                && body.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'));
            if !valid {
                return Err(fault("data-invalid", "an ED value that is not the Base64 it is said to be"));
            }
            Ok(observed(
                "extension",
                attachment(json!({"contentType": (media_type(&part(2), &part(3))), "data": data})),
            ))
        }
        "hex" => Err(fault("data-invalid", "an ED value in hexadecimal: send it in Base64")),
        _ => Ok(observed("valueString", data)),
    }
}

/// RP: pointer, application, type, subtype.
fn pointer(field: Element<'_>) -> Observed {
    let part = |n| leaf(field.component(n)).unwrap_or_default();
    let place = part(1);
    let mut content = json!({"contentType": (media_type(&part(3), &part(4)))});
    if let Some(object) = content.as_object_mut() {
        let is_url = place.contains("://") && !place.contains(char::is_whitespace);
        object.push(if is_url { "url" } else { "title" }, place);
    }
    observed("extension", attachment(content))
}

/// HL7 tables 0191 and 0291 as a MIME type.
fn media_type(kind: &str, subtype: &str) -> String {
    let kind = match kind.to_lowercase().as_str() {
        "ap" | "application" | "" => "application".to_owned(),
        "au" => "audio".to_owned(),
        "im" => "image".to_owned(),
        "tx" | "ft" | "text" => "text".to_owned(),
        other => other.to_owned(),
    };
    match subtype.to_lowercase().as_str() {
        "" if kind == "text" => "text/plain".to_owned(),
        "" => "application/octet-stream".to_owned(),
        subtype => format!("{kind}/{subtype}"),
    }
}

/// Plain text as an attachment.
pub fn text_attachment(text: &str) -> Value {
    json!({"contentType": "text/plain", "data": (STANDARD.encode(text))})
}

/// One text after another, each in its lines.
pub fn join_texts(first: &mut Value, second: &Value) {
    let text = |value: &Value| {
        let data = value.get("data").and_then(Value::as_str).unwrap_or_default();
        STANDARD.decode(data).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
    };
    let whole = format!("{}\n{}", text(first), text(second));
    if let Some(object) = first.as_object_mut() {
        object.insert("data", STANDARD.encode(whole));
    }
}

/// OBX-7: the text as it came; low and high beside it only where it is plainly two numbers, or one with a comparator.
pub fn reference_range(field: Element<'_>, unit: &Units) -> Option<Value> {
    let said = whole(field)?;
    let mut range = fhir::json::Object::new();
    let sides = |separator: char| {
        let (low, high) = said.split_once(separator)?;
        Some((number(low.trim())?, number(high.trim())?))
    };
    if let Some((low, high)) = sides('-') {
        range.push("low", unit.quantity(low, None));
        range.push("high", unit.quantity(high, None));
    } else if let (Some(sign), digits) = comparator(&said)
        && let Some(limit) = number(digits)
    {
        // FHIR's bounds are inclusive: only the signs that include the limit become one.
        match sign {
            "<=" => range.push("high", unit.quantity(limit, None)),
            ">=" => range.push("low", unit.quantity(limit, None)),
            _ => {}
        }
    }
    range.push("text", said);
    Some(json!([(Value::Object(range))]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_digits_and_nothing_else_is_one() {
        for (sent, kept) in [
            ("5", Some("5")),
            ("4.080", Some("4.080")),
            ("+5", Some("5")),
            ("-0.50", Some("-0.50")),
            (".5", Some("0.5")),
            ("5.", Some("5")),
            ("007", Some("7")),
            ("12345678901234567890.123456789", Some("12345678901234567890.123456789")),
            ("", None),
            (".", None),
            ("-", None),
            ("1e5", None),
            ("1,5", None),
            ("5 mg", None),
            ("NaN", None),
        ] {
            assert_eq!(number(sent).as_ref().map(Number::as_str), kept, "{sent}");
        }
    }

    #[test]
    fn comparators_are_told_apart() {
        assert_eq!(comparator(">1000"), (Some(">"), "1000"));
        assert_eq!(comparator("<= 5"), (Some("<="), "5"));
        assert_eq!(comparator("≥3"), (Some(">="), "3"));
        assert_eq!(comparator("5"), (None, "5"));
    }
}
