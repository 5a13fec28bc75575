//! A query string, percent-decoded into pairs (application/x-www-form-urlencoded).

/// Pairs in their order. Bytes that are no UTF-8 after decoding become U+FFFD, which then matches nothing.
pub fn decode_query(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digit = |n: usize| bytes.get(n).and_then(|b| char::from(*b).to_digit(16));
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (b'+', ..) => {
                out.push(b' ');
                at += 1;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_and_never_loses_a_pair() {
        let pairs = decode_query("name=M%C3%BCller+K&identifier=urn%3Aoid%7C1&_has%3A&x=%4&&=");
        let shown: Vec<_> = pairs.iter().map(|(n, v)| format!("{n}→{v}")).collect();
        assert_eq!(shown, ["name→Müller K", "identifier→urn:oid|1", "_has:→", "x→%4", "→"]);
    }
}
