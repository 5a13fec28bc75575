//! The values of a query by kind of parameter: escaping, prefixes, and the forms of R4 §3.1.1.4. An error says what a
//! value must look like, never what it was.

use super::fold::fold;
use super::{ClauseValue, Component, Modifier, ParamKind, Prefix, range};
use crate::reference::Reference;
use crate::time;

/// Splits at each `separator` that has no backslash before it (R4 §3.1.1.4.15). The parts are still escaped.
pub(super) fn split(text: &str, separator: char) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut from, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        if c == separator && !escaped {
            parts.push(&text[from..at]);
            from = at + c.len_utf8();
        }
        escaped = c == '\\' && !escaped;
    }
    parts.push(&text[from..]);
    parts
}

/// Takes the backslashes off `\,` `\|` `\$` `\\`; any other backslash stands for itself.
pub(super) fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match chars.peek() {
            Some(next @ (',' | '|' | '$' | '\\')) if c == '\\' => {
                out.push(*next);
                chars.next();
            }
            _ => out.push(c),
        }
    }
    out
}

/// What a value is read for.
pub(super) struct Wanted<'a> {
    pub kind: ParamKind,
    pub modifier: Option<&'a Modifier>,
    pub targets: &'a [&'static str],
    pub components: &'a [Component],
}

/// Reads one value, still escaped. An error is what the value must be.
pub(super) fn read(wanted: &Wanted<'_>, text: &str) -> Result<ClauseValue, &'static str> {
    if text.is_empty() {
        return Err("needs a value");
    }
    match (wanted.modifier, wanted.kind) {
        (Some(Modifier::Missing), _) => match text {
            "true" => Ok(ClauseValue::Missing(true)),
            "false" => Ok(ClauseValue::Missing(false)),
            _ => Err("with :missing needs true or false"),
        },
        (Some(Modifier::Text), _) => Ok(ClauseValue::Text(fold(&unescape(text)))),
        (Some(Modifier::Identifier), _) | (_, ParamKind::Token) => token(text),
        (_, ParamKind::Reference) => reference(wanted, &unescape(text)),
        (_, ParamKind::Date) => date(text),
        (_, ParamKind::Number) => number(text),
        (_, ParamKind::Quantity) => quantity(text),
        (_, ParamKind::String) => {
            let exact = unescape(text);
            Ok(ClauseValue::String { folded: fold(&exact), exact })
        }
        (_, ParamKind::Uri) => Ok(ClauseValue::Uri(unescape(text))),
        (_, ParamKind::Composite) => composite(wanted.components, text),
        (_, ParamKind::Special) => Err("is not supported"),
    }
}

fn token(text: &str) -> Result<ClauseValue, &'static str> {
    let part = |text: &str| (!text.is_empty()).then(|| unescape(text));
    let (system, code) = match split(text, '|').as_slice() {
        [code] => (None, part(code)),
        [system, code] => (Some(part(system)), part(code)),
        _ => return Err("needs code, system|code, |code or system|"),
    };
    if code.is_none() && system.as_ref().is_none_or(Option::is_none) {
        return Err("needs code, system|code, |code or system|");
    }
    Ok(ClauseValue::Token { system, code })
}

fn reference(wanted: &Wanted<'_>, text: &str) -> Result<ClauseValue, &'static str> {
    const FORM: &str = "needs Type/id, an id or a URL";
    let typed = match wanted.modifier {
        Some(Modifier::Type(rtype)) => Some(rtype.as_str()),
        _ => None,
    };
    match Reference::parse(text) {
        Some(Reference::Local { rtype, .. }) if typed.is_some_and(|t| t != rtype) => {
            Err("needs a reference to the type its modifier names")
        }
        Some(Reference::Local { rtype, id, .. }) => {
            Ok(ClauseValue::Reference { rtype: Some(rtype.to_owned()), id: id.to_owned() })
        }
        Some(Reference::Absolute(url) | Reference::Urn(url)) => {
            Ok(ClauseValue::AbsoluteRef(url.split('|').next().unwrap_or(url).to_owned()))
        }
        Some(Reference::Conditional { .. } | Reference::Fragment(_)) => Err(FORM),
        None if base::LogicalId::parse(text).is_ok() => {
            let only = match wanted.targets {
                [one] => Some(*one),
                _ => None,
            };
            Ok(ClauseValue::Reference { rtype: typed.or(only).map(str::to_owned), id: text.to_owned() })
        }
        None => Err(FORM),
    }
}

/// The prefix and what follows it; `eq` where there is none.
fn prefix(text: &str) -> (Prefix, &str) {
    let known = match text.get(..2) {
        Some("eq") => Prefix::Eq,
        Some("ne") => Prefix::Ne,
        Some("gt") => Prefix::Gt,
        Some("lt") => Prefix::Lt,
        Some("ge") => Prefix::Ge,
        Some("le") => Prefix::Le,
        Some("sa") => Prefix::Sa,
        Some("eb") => Prefix::Eb,
        Some("ap") => Prefix::Ap,
        _ => return (Prefix::Eq, text),
    };
    (known, &text[2..])
}

/// `ap` takes in as much again as the precision given, either side, and a day at least. (R4 leaves the measure to the
/// server; a share of the time since then would make the answer depend on when one asks.)
fn date(text: &str) -> Result<ClauseValue, &'static str> {
    let (prefix, text) = prefix(text);
    let moment = time::parse(text).ok_or("needs a date: YYYY, YYYY-MM, YYYY-MM-DD or with a time, after any prefix")?;
    let around = match prefix {
        Prefix::Ap => (moment.to_ms - moment.from_ms).max(time::DAY_MS),
        _ => 0,
    };
    Ok(ClauseValue::Date { prefix, from_ms: moment.from_ms - around, to_ms: moment.to_ms + around })
}

/// The range of the number; for `ap` a tenth either side (R4 §3.1.1.4.4).
fn amount(prefix: Prefix, text: &str) -> Result<(f64, f64, f64), &'static str> {
    let (value, low, high) = range::of_text(text).ok_or("needs a number after any prefix")?;
    Ok(match prefix {
        Prefix::Ap => (value, low.min(value - value.abs() / 10.0), high.max(value + value.abs() / 10.0)),
        _ => (value, low, high),
    })
}

fn number(text: &str) -> Result<ClauseValue, &'static str> {
    let (prefix, text) = prefix(text);
    let (value, low, high) = amount(prefix, text)?;
    Ok(ClauseValue::Number { prefix, value, low, high })
}

fn quantity(text: &str) -> Result<ClauseValue, &'static str> {
    let (prefix, text) = prefix(text);
    let part = |text: &str| (!text.is_empty()).then(|| unescape(text));
    let (text, system, code) = match split(text, '|').as_slice() {
        [number] => (*number, None, None),
        [number, system, code] => (*number, part(system), part(code)),
        _ => return Err("needs number or number|system|code"),
    };
    let (value, low, high) = amount(prefix, text)?;
    Ok(ClauseValue::Quantity { prefix, value, low, high, system: system.map(Some), code })
}

fn composite(components: &[Component], text: &str) -> Result<ClauseValue, &'static str> {
    let parts = split(text, '$');
    if parts.len() != components.len() {
        return Err("needs as many values joined by $ as it has parts");
    }
    let part = |(component, text): (&Component, &str)| {
        read(&Wanted { kind: component.kind, modifier: None, targets: component.targets, components: &[] }, text)
    };
    components.iter().zip(parts).map(part).collect::<Result<Vec<_>, _>>().map(ClauseValue::Composite)
}
