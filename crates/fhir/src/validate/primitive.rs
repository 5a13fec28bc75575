//! The formats of the primitive types, R4 §2.24.0.1. A reason names the rule, never the value.

use crate::json::Value;
use crate::time;

/// R4 §2.24.0.1, string: at most 1,048,576 characters.
const STRING_CHARS_MAX: usize = 1 << 20;

/// `Err` with what the value must be.
pub(super) fn check(kind: &str, value: &Value) -> Result<(), &'static str> {
    match kind {
        "boolean" => want(value.as_bool().is_some(), "must be true or false, without quotes"),
        "decimal" => want(value.as_number().is_some(), "must be a number, without quotes"),
        "integer" => integer(value, i32::MIN.into(), "must be a whole number of 32 bits, without quotes"),
        "unsignedInt" => integer(value, 0, "must be a whole number from 0 to 2147483647, without quotes"),
        "positiveInt" => integer(value, 1, "must be a whole number from 1 to 2147483647, without quotes"),
        _ => match value.as_str() {
            Some(text) => check_text(kind, text),
            None => Err("must be a string"),
        },
    }
}

fn want(holds: bool, reason: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(reason) }
}

fn integer(value: &Value, min: i64, reason: &'static str) -> Result<(), &'static str> {
    want(value.as_i64().is_some_and(|n| (min..=i64::from(i32::MAX)).contains(&n)), reason)
}

fn check_text(kind: &str, text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("must not be empty; leave the element out instead");
    }
    match kind {
        "id" => want(base::LogicalId::parse(text).is_ok(), "must be 1 to 64 of A-Z a-z 0-9 - ."),
        "code" => want(is_code(text), "must be a code: no white space but single spaces within"),
        "uri" | "url" | "canonical" => want(!text.contains(char::is_whitespace), "must be a URI without white space"),
        "oid" => want(is_oid(text), "must be of the form urn:oid:1.2.3"),
        "uuid" => want(is_uuid(text), "must be urn:uuid: and a UUID in lower case"),
        "date" => want(
            time::parse(text).is_some_and(|m| m.is_date()),
            "must be a date that exists: YYYY, YYYY-MM or YYYY-MM-DD",
        ),
        "dateTime" => want(
            time::parse(text).is_some_and(|m| m.is_date_time()),
            "must be a date that exists, or one with a time, seconds and a time zone",
        ),
        "instant" => want(
            time::parse(text).is_some_and(|m| m.is_instant()),
            "must be a date that exists with a time, seconds and a time zone",
        ),
        "time" => want(time::is_time(text), "must be a time of day: hh:mm:ss"),
        "base64Binary" => want(is_base64(text), "must be base64 with padding"),
        _ => check_string(text),
    }
}

/// string, markdown, xhtml.
fn check_string(text: &str) -> Result<(), &'static str> {
    let is_control = |b: u8| b < 0x20 && !matches!(b, b'\t' | b'\n' | b'\r');
    if text.bytes().any(is_control) {
        return Err("must not hold control characters other than tab and line ends");
    }
    want(
        text.len() <= STRING_CHARS_MAX || text.chars().count() <= STRING_CHARS_MAX,
        "must not be longer than 1048576 characters",
    )
}

fn is_code(text: &str) -> bool {
    text.split(char::is_whitespace).all(|word| !word.is_empty())
}

fn is_oid(text: &str) -> bool {
    let Some(arcs) = text.strip_prefix("urn:oid:") else { return false };
    let mut arcs = arcs.split('.');
    let arc = |a: &str| a == "0" || (a.bytes().all(|b| b.is_ascii_digit()) && !a.is_empty() && !a.starts_with('0'));
    arcs.next().is_some_and(|first| matches!(first, "0" | "1" | "2")) && arcs.clone().next().is_some() && arcs.all(arc)
}

fn is_uuid(text: &str) -> bool {
    let Some(uuid) = text.strip_prefix("urn:uuid:") else { return false };
    let hex = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let parts: Vec<&str> = uuid.split('-').collect();
    parts.iter().map(|p| p.len()).eq([8, 4, 4, 4, 12]) && parts.iter().all(|p| hex(p))
}

/// RFC 4648 §4, with white space allowed as the R4 definition allows it.
fn is_base64(text: &str) -> bool {
    let (mut digits, mut padding) = (0usize, 0usize);
    for byte in text.bytes() {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {}
            b'=' => padding += 1,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' if padding == 0 => digits += 1,
            _ => return false,
        }
    }
    padding <= 2 && digits > 0 && (digits + padding).is_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn formats_are_those_of_r4() {
        for (kind, good, bad) in [
            ("boolean", json!([true, false]), json!(["true", 1, null])),
            ("integer", json!([0, -5, 2147483647]), json!([2147483648i64, 1.5, "1"])),
            ("unsignedInt", json!([0, 5]), json!([-1])),
            ("positiveInt", json!([1]), json!([0])),
            ("decimal", json!([1.5, -0.1, 7]), json!(["1.5"])),
            ("string", json!(["a b\n", " "]), json!(["", "a\u{0}", 5])),
            ("code", json!(["final", "a b"]), json!([" a", "a ", "a  b", ""])),
            ("id", json!(["a-1.B"]), json!(["a b", "a_b", ""])),
            ("uri", json!(["urn:oid:1.2", "http://x/y z".replace(' ', "")]), json!(["a b", ""])),
            ("oid", json!(["urn:oid:2.16.840"]), json!(["2.16", "urn:oid:3.1", "urn:oid:1", "urn:oid:1.02"])),
            (
                "uuid",
                json!(["urn:uuid:c757873d-ec9a-4326-a141-556f43239520"]),
                json!(["c757873d-ec9a-4326-a141-556f43239520", "urn:uuid:C757873D-ec9a-4326-a141-556f43239520"]),
            ),
            (
                "date",
                json!(["2020", "2020-02", "2020-02-29"]),
                json!(["2021-02-29", "2020-1-1", "2020-01-01T00:00:00Z"]),
            ),
            (
                "dateTime",
                json!(["2020", "2020-02-29T10:00:00+01:00"]),
                json!(["2020-02-29T10:00", "2020-02-29T10:00:00"]),
            ),
            ("instant", json!(["2020-02-29T10:00:00.123Z"]), json!(["2020-02-29", "2020-02-29T10:00Z"])),
            ("time", json!(["10:00:00"]), json!(["10:00", "25:00:00"])),
            ("base64Binary", json!(["YQ==", "YWJj\nYWJj"]), json!(["YQ", "Y===", "é", ""])),
        ] {
            for value in good.items() {
                assert_eq!(check(kind, value), Ok(()), "{kind} {}", json::to_string(value));
            }
            for value in bad.items() {
                assert!(check(kind, value).is_err(), "{kind} {}", json::to_string(value));
            }
        }
    }
}
