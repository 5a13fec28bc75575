//! Writes a value as JSON text: compact for storage and the wire, indented for people.

use super::Value;

/// Compact JSON in UTF-8.
pub fn to_vec(value: &Value) -> Vec<u8> {
    to_string(value).into_bytes()
}

/// Compact JSON.
pub fn to_string(value: &Value) -> String {
    let mut out = String::with_capacity(256);
    write(&mut out, value, None);
    out
}

/// JSON over several lines, two spaces per level.
pub fn to_string_pretty(value: &Value) -> String {
    let mut out = String::with_capacity(256);
    write(&mut out, value, Some(0));
    out
}

fn write(out: &mut String, value: &Value, level: Option<usize>) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => out.push_str(number.as_str()),
        Value::String(text) => write_string(out, text),
        Value::Array(items) => {
            let inner = level.map(|l| l + 1);
            write_list(out, ('[', ']'), level, items.iter(), |out, item| write(out, item, inner));
        }
        Value::Object(object) => {
            let inner = level.map(|l| l + 1);
            write_list(out, ('{', '}'), level, object.iter(), |out, (key, item)| {
                write_string(out, key);
                out.push_str(if inner.is_some() { ": " } else { ":" });
                write(out, item, inner);
            });
        }
    }
}

fn write_list<T>(
    out: &mut String,
    (open, close): (char, char),
    level: Option<usize>,
    items: impl ExactSizeIterator<Item = T>,
    mut each: impl FnMut(&mut String, T),
) {
    let empty = items.len() == 0;
    out.push(open);
    for (i, item) in items.enumerate() {
        if i > 0 {
            out.push(',');
        }
        new_line(out, level.map(|l| l + 1));
        each(out, item);
    }
    if !empty {
        new_line(out, level);
    }
    out.push(close);
}

fn new_line(out: &mut String, level: Option<usize>) {
    if let Some(level) = level {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", level));
    }
}

/// Only what RFC 8259 §7 demands is escaped.
fn write_string(out: &mut String, text: &str) {
    out.push('"');
    let mut from = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[from..at]);
        from = at + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            other => {
                out.push_str("\\u00");
                out.push_str(&base::hex::encode(&[other]));
            }
        }
    }
    out.push_str(&text[from..]);
    out.push('"');
}
