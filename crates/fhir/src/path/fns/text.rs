//! Text functions (FHIRPath §5.6). Places count characters, not bytes. Regular expressions run in linear time.

use std::borrow::Cow;

use regex::{Regex, RegexBuilder};

use super::super::ast::NodeId;
use super::super::error::PathError;
use super::super::eval::{Eval, Items, Scope};
use super::super::func::Func;
use super::super::item::Item;
use super::codec;
use super::{one, truth};

/// Memory of one compiled regular expression.
const REGEX_BYTES_MAX: usize = 256 << 10;

pub(super) fn call<'a>(
    eval: &Eval<'a>,
    id: NodeId,
    func: Func,
    input: &[Item<'a>],
    scope: Scope<'_, 'a>,
) -> Result<Items<'a>, PathError> {
    if func == Func::Join {
        return join(eval, id, input, scope);
    }
    let Some(item) = eval.single(id, input)? else { return Ok(Vec::new()) };
    let text = text_of(eval, id, item)?;
    eval.spend(id, text.len() / 64)?;
    if func == Func::Substring {
        return substring(eval, id, &text, scope);
    }
    let mut arguments: Vec<Cow<'a, str>> = Vec::new();
    for at in 0..eval.args(id).len() {
        let items = eval.argument(id, at, scope)?;
        match eval.single(id, &items)? {
            Some(item) => arguments.push(text_of(eval, id, item)?),
            None => return Ok(Vec::new()),
        }
    }
    let first = arguments.first().map_or("", |a| a.as_ref());
    let second = arguments.get(1).map_or("", |a| a.as_ref());
    let owned = |text: String| one(Some(Item::string(text)));
    match func {
        Func::IndexOf => one(Some(Item::Integer(place(&text, text.find(first))))),
        Func::LastIndexOf => one(Some(Item::Integer(place(&text, text.rfind(first))))),
        Func::StartsWith => truth(text.starts_with(first)),
        Func::EndsWith => truth(text.ends_with(first)),
        Func::Contains => truth(text.contains(first)),
        Func::Upper => owned(text.to_uppercase()),
        Func::Lower => owned(text.to_lowercase()),
        Func::Trim => owned(text.trim().to_owned()),
        Func::Length => one(Some(Item::Integer(text.chars().count() as i64))),
        Func::ToChars => eval.bounded(id, text.chars().map(|c| Item::string(c.to_string())).collect()),
        Func::Split => eval.bounded(id, text.split(first).map(|part| Item::string(part.to_owned())).collect()),
        Func::Replace => owned(replaced(eval, id, &text, first, second)?),
        Func::Matches => truth(regex(eval, id, first)?.is_match(&text)),
        Func::MatchesFull => truth(regex(eval, id, &format!("^(?:{first})$"))?.is_match(&text)),
        Func::ReplaceMatches if first.is_empty() => owned(text.into_owned()),
        Func::ReplaceMatches => {
            let (regex, with) = (regex(eval, id, first)?, substitution(second));
            let hits = regex.find_iter(&text).count();
            // A substitution may name each group once per character, so the whole text may come back for each.
            let each = with.len().saturating_add(with.matches('$').count().saturating_mul(text.len()));
            eval.spend_text(id, text.len().saturating_add(hits.saturating_mul(each)))?;
            owned(regex.replace_all(&text, with).into_owned())
        }
        Func::Encode => one(codec::encode(&text, first).map(Item::string)),
        Func::Decode => one(codec::decode(&text, first).map(Item::string)),
        Func::Escape => one(codec::escape(&text, first).map(Item::string)),
        _ => one(codec::unescape(&text, first).map(Item::string)),
    }
}

fn text_of<'a>(eval: &Eval<'a>, id: NodeId, item: &Item<'a>) -> Result<Cow<'a, str>, PathError> {
    // Dates are texts in JSON; a computed number is not a text.
    item.text().ok_or_else(|| eval.error(id, format!("a text is needed here, not {}", item.type_label())))
}

/// Characters before a byte; -1 when there is none.
fn place(text: &str, byte: Option<usize>) -> i64 {
    byte.map_or(-1, |at| text[..at].chars().count() as i64)
}

fn substring<'a>(eval: &Eval<'a>, id: NodeId, text: &str, scope: Scope<'_, 'a>) -> Result<Items<'a>, PathError> {
    let args = eval.args(id);
    let Some(start) = args.first().map(|a| eval.integer(*a, scope)).transpose()?.flatten() else {
        return Ok(Vec::new());
    };
    let length = args.get(1).map(|a| eval.integer(*a, scope)).transpose()?.flatten();
    let Ok(start) = usize::try_from(start) else { return Ok(Vec::new()) };
    if start >= text.chars().count() {
        return Ok(Vec::new());
    }
    let length = length.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(0));
    one(Some(Item::string(text.chars().skip(start).take(length).collect::<String>())))
}

fn replaced(eval: &Eval<'_>, id: NodeId, text: &str, pattern: &str, with: &str) -> Result<String, PathError> {
    let hits = if pattern.is_empty() { text.len() + 1 } else { text.matches(pattern).count() };
    eval.spend_text(id, text.len().saturating_add(hits.saturating_mul(with.len())))?;
    Ok(text.replace(pattern, with))
}

/// A dot also matches line ends (FHIRPath §5.6.8).
fn regex(eval: &Eval<'_>, id: NodeId, pattern: &str) -> Result<Regex, PathError> {
    eval.spend(id, 64 + pattern.len())?;
    RegexBuilder::new(pattern)
        .dot_matches_new_line(true)
        .size_limit(REGEX_BYTES_MAX)
        .build()
        .map_err(|_| eval.error(id, "this regular expression is wrong, too large, or looks around"))
}

/// `$1x` means group 1 and then x; the regex crate reads a group named `1x`.
fn substitution(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits > 0 {
            out.push_str(&format!("${{{}}}", &rest[..digits]));
            rest = &rest[digits..];
        } else if rest.starts_with('{') {
            out.push('$');
        } else {
            out.push_str("$$");
        }
    }
    out + rest
}

fn join<'a>(eval: &Eval<'a>, id: NodeId, input: &[Item<'a>], scope: Scope<'_, 'a>) -> Result<Items<'a>, PathError> {
    let separator = eval.argument(id, 0, scope)?;
    let separator = match eval.single(id, &separator)? {
        Some(item) => text_of(eval, id, item)?,
        None => Cow::Borrowed(""),
    };
    let mut parts = Vec::with_capacity(input.len());
    for item in input.iter().filter(|i| i.element().is_none_or(|e| e.value.is_some())) {
        parts.push(text_of(eval, id, item)?);
    }
    let bytes: usize = parts.iter().map(|p| p.len() + separator.len()).sum();
    eval.spend_text(id, bytes)?;
    // Nothing joined is nothing, not an empty text (SQL on FHIR suite).
    one((!parts.is_empty()).then(|| Item::string(parts.join(&*separator))))
}
