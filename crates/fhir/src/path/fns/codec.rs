//! `encode`, `decode`, `escape`, `unescape` (FHIRPath 2.1 §5.6): base64, urlbase64, hex; html, json.

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn alphabet(format: &str) -> Option<&'static [u8; 64]> {
    match format {
        "base64" => Some(STANDARD),
        "urlbase64" => Some(URL),
        _ => None,
    }
}

pub(super) fn encode(text: &str, format: &str) -> Option<String> {
    if format == "hex" {
        return Some(text.bytes().map(|b| format!("{b:02x}")).collect());
    }
    let alphabet = alphabet(format)?;
    let mut out = String::with_capacity(text.len().div_ceil(3) * 4);
    for chunk in text.as_bytes().chunks(3) {
        let bits = chunk.iter().fold(0u32, |v, b| v << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let index = (bits >> (18 - 6 * at) & 63) as usize;
            out.push(if at <= chunk.len() { char::from(alphabet[index]) } else { '=' });
        }
    }
    Some(out)
}

pub(super) fn decode(text: &str, format: &str) -> Option<String> {
    let bytes = if format == "hex" { decode_hex(text)? } else { decode_base64(text, alphabet(format)?)? };
    String::from_utf8(bytes).ok()
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16);
    let bytes = text.as_bytes();
    bytes.len().is_multiple_of(2).then_some(())?;
    bytes.chunks(2).map(|pair| Some((digit(pair[0])? * 16 + digit(pair[1])?) as u8)).collect()
}

/// RFC 4648 §4, with or without padding; white space as FHIR's base64Binary may have it (R4 §2.24.0.1).
pub(crate) fn base64(text: &str) -> Option<Vec<u8>> {
    let packed: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    decode_base64(&packed, STANDARD)
}

fn decode_base64(text: &str, alphabet: &[u8; 64]) -> Option<Vec<u8>> {
    let body = text.trim_end_matches('=');
    if body.len() % 4 == 1 || text.len() - body.len() > 2 {
        return None;
    }
    let mut out = Vec::with_capacity(body.len() * 3 / 4);
    for chunk in body.as_bytes().chunks(4) {
        let mut bits = 0u32;
        for byte in chunk {
            bits = bits << 6 | alphabet.iter().position(|a| a == byte)? as u32;
        }
        bits <<= 6 * (4 - chunk.len());
        out.extend((0..chunk.len() - 1).map(|at| (bits >> (16 - 8 * at)) as u8));
    }
    Some(out)
}

const HTML: [(&str, &str); 5] = [("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'")];

pub(super) fn escape(text: &str, target: &str) -> Option<String> {
    match target {
        "html" => Some(HTML.iter().fold(text.to_owned(), |out, (escaped, plain)| out.replace(plain, escaped))),
        "json" => {
            let quoted = crate::json::to_string(&text.into());
            Some(quoted[1..quoted.len() - 1].to_owned())
        }
        _ => None,
    }
}

pub(super) fn unescape(text: &str, target: &str) -> Option<String> {
    match target {
        "html" => Some(HTML.iter().rev().fold(text.to_owned(), |out, (escaped, plain)| out.replace(escaped, plain))),
        "json" => unescape_json(text),
        _ => None,
    }
}

fn unescape_json(text: &str) -> Option<String> {
    // Text that holds bare quotes is taken as already unescaped there.
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    let mut escaped = false;
    for c in text.chars() {
        if c == '"' && !escaped {
            quoted.push('\\');
        }
        escaped = c == '\\' && !escaped;
        quoted.push(c);
    }
    quoted.push('"');
    let value = crate::json::parse(quoted.as_bytes(), &crate::json::ParseLimits::default()).ok()?;
    value.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_decodes(text in "\\PC{0,40}", format in "base64|urlbase64|hex") {
            prop_assert_eq!(decode(&encode(&text, &format).unwrap(), &format), Some(text.clone()));
            let _ = decode(&text, &format);
        }

        #[test]
        fn what_is_escaped_unescapes(text in "\\PC{0,40}", target in "html|json") {
            prop_assert_eq!(unescape(&escape(&text, &target).unwrap(), &target), Some(text.clone()));
            let _ = unescape(&text, &target);
        }
    }
}
