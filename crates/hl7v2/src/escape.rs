//! Escape sequences of text (v2.8.2 §2.7), both ways.

use std::borrow::Cow;

use crate::charset::{Charset, by_iso2022};
use crate::delimiters::Delimiters;

/// At most so many line breaks or spaces come of one formatting command.
const SPACES_MAX: usize = 255;

/// The text that was meant. Formatting commands become line breaks and spaces, highlighting is dropped; what is not
/// understood (`\Z..\`, an unclosed escape) stays as it was sent.
pub fn unescape<'a>(text: &'a str, delimiters: &Delimiters, charset: &Charset) -> Cow<'a, str> {
    let Some(escape) = delimiters.escape.map(char::from) else { return Cow::Borrowed(text) };
    if !text.contains(escape) {
        return Cow::Borrowed(text);
    }
    let mut out = Output { text: String::with_capacity(text.len()), charset, switched: None };
    let mut hex: Vec<u8> = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(escape) {
        out.plain(&rest[..at], &mut hex);
        let after = &rest[at + 1..];
        let Some(end) = after.find(escape) else {
            out.plain(&rest[at..], &mut hex);
            rest = "";
            break;
        };
        let (code, whole) = (&after[..end], &rest[at..at + end + 2]);
        rest = &after[end + 1..];
        // Adjacent \X..\ are joined before they are decoded: a character may be split over two.
        if let Some(bytes) = code.strip_prefix(['X', 'x']).filter(|d| !d.is_empty()).and_then(base::hex::decode) {
            hex.extend_from_slice(&bytes);
        } else if let Some((encoding, lead)) = code.strip_prefix(['C', 'M']).and_then(by_iso2022) {
            out.flush(&mut hex);
            out.switch(encoding, lead);
        } else {
            out.flush(&mut hex);
            if !single(code, delimiters, &mut out.text) {
                // Not an escape sequence after all: the second escape character may begin one.
                if code.len() > 64 || code.contains([' ', '\r', '\n']) {
                    out.plain(&whole[..whole.len() - 1], &mut hex);
                    let back = text.len() - rest.len() - 1;
                    rest = &text[back..];
                } else {
                    out.plain(whole, &mut hex);
                }
            }
        }
    }
    out.plain(rest, &mut hex);
    out.flush(&mut hex);
    Cow::Owned(out.finish())
}

/// One sequence other than hexadecimal and character set ones; false when it is not known.
fn single(code: &str, delimiters: &Delimiters, out: &mut String) -> bool {
    let delimiter = match code {
        "F" => Some(delimiters.field),
        "S" => delimiters.component,
        "T" => delimiters.subcomponent,
        "R" => delimiters.repetition,
        "E" => delimiters.escape,
        // v2.7 §2.5.5.2; a message that declares no truncation character means the usual one.
        "P" => delimiters.truncation.or(Some(b'#')),
        "H" | "N" => return true,
        _ => return code.strip_prefix('.').is_some_and(|command| formatting(command, out)),
    };
    match delimiter {
        Some(byte) => out.push(char::from(byte)),
        None => return false,
    }
    true
}

/// `\.br\` and its kin (§2.7.6).
fn formatting(command: &str, out: &mut String) -> bool {
    let Some((name, amount)) = command.split_at_checked(2) else { return false };
    let amount = amount.trim().trim_start_matches('+');
    let count = if amount.is_empty() { Some(1) } else { amount.parse::<usize>().ok() };
    let mut repeat = |c: char, n: usize| out.extend(std::iter::repeat_n(c, n.min(SPACES_MAX)));
    match name.to_ascii_lowercase().as_str() {
        "br" | "ce" => repeat('\n', 1),
        "sp" => repeat('\n', count.unwrap_or(1)),
        "sk" => repeat(' ', count.unwrap_or(1)),
        "fi" | "nf" | "in" | "ti" => {}
        _ => return false,
    }
    true
}

struct Output<'c> {
    text: String,
    charset: &'c Charset,
    /// After `\C..\` or `\M..\`: the set, its leading bytes and where in `text` it began.
    switched: Option<(&'static encoding_rs::Encoding, &'static [u8], usize)>,
}

impl Output<'_> {
    fn plain(&mut self, text: &str, hex: &mut Vec<u8>) {
        if !text.is_empty() {
            self.flush(hex);
            self.text.push_str(text);
        }
    }

    fn flush(&mut self, hex: &mut Vec<u8>) {
        if hex.is_empty() {
            return;
        }
        match std::str::from_utf8(hex) {
            Ok(text) => self.text.push_str(text),
            Err(_) if self.charset.encoding == encoding_rs::UTF_8 => {
                self.text.push_str(&encoding_rs::WINDOWS_1252.decode_without_bom_handling(hex).0);
            }
            Err(_) => self.text.push_str(&self.charset.encoding.decode_without_bom_handling(hex).0),
        }
        hex.clear();
    }

    fn switch(&mut self, encoding: &'static encoding_rs::Encoding, lead: &'static [u8]) {
        self.close();
        if encoding != encoding_rs::UTF_8 {
            self.switched = Some((encoding, lead, self.text.len()));
        }
    }

    /// Reads what came since the switch again, in the set that was switched to.
    fn close(&mut self) {
        let Some((encoding, lead, from)) = self.switched.take() else { return };
        let mut bytes = lead.to_vec();
        bytes.extend(self.charset.encode(&self.text[from..]));
        let (decoded, lossy) = encoding.decode_without_bom_handling(&bytes);
        if !lossy {
            self.text.replace_range(from.., &decoded);
        }
    }

    fn finish(mut self) -> String {
        self.close();
        self.text
    }
}

/// Text made safe to stand in a message: delimiters and line ends become escapes. Without an escape character the
/// delimiters in it become spaces.
pub fn escape<'a>(text: &'a str, delimiters: &Delimiters) -> Cow<'a, str> {
    let special = |c: char| {
        u8::try_from(c).is_ok_and(|b| {
            delimiters.separates(b) || delimiters.escape == Some(b) || delimiters.truncation == Some(b) || b < b' '
        })
    };
    if !text.contains(special) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if !special(c) {
            out.push(c);
            continue;
        }
        let Some(escape) = delimiters.escape else {
            out.push(' ');
            continue;
        };
        let byte = u8::try_from(c).unwrap_or(b'?');
        let code = match Some(byte) {
            b if b == Some(delimiters.field) => "F".into(),
            b if b == delimiters.component => "S".into(),
            b if b == delimiters.subcomponent => "T".into(),
            b if b == delimiters.repetition => "R".into(),
            b if b == delimiters.escape => "E".into(),
            b if b == delimiters.truncation => "P".into(),
            _ => format!("X{byte:02X}"),
        };
        out.push(char::from(escape));
        out.push_str(&code);
        out.push(char::from(escape));
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> String {
        unescape(text, &Delimiters::default(), &Charset::UTF8).into_owned()
    }

    #[test]
    fn every_kind() {
        for (sent, meant) in [
            (r"a\F\b\S\c\T\d\R\e\E\f\P\g", r"a|b^c&d~e\f#g"),
            (r"inc.A\T\E-this", "inc.A&E-this"),
            (r"one\.br\two\.BR\three", "one\ntwo\nthree"),
            (r"\.sp2\x\.sk3\y\.in+4\z\.ce\w", "\n\nx   yz\nw"),
            (r"\.sk999999999\", &" ".repeat(255)),
            (r"\H\bold\N\", "bold"),
            (r"\X0D0A\", "\r\n"),
            (r"M\XC3\\XBC\ller", "Müller"),
            (r"M\XFC\ller", "Müller"),
            (r"\Zlocal\ stays", r"\Zlocal\ stays"),
            (r"C:\dir and more", r"C:\dir and more"),
            (r"\\host\share with \F\", r"\\host\share with |"),
            (r"\XZZ\ \X\ \Q\", r"\XZZ\ \X\ \Q\"),
            (r"a\M2442\;3ED\C2842\b", "a山田b"),
            ("", ""),
        ] {
            assert_eq!(read(sent), meant, "{sent}");
        }
        let latin1 = Charset { encoding: encoding_rs::WINDOWS_1252, ..Charset::UTF8 };
        // After \C2D46\ the bytes C1 E8 are Greek; read as Latin 1 first they are Á and è.
        assert_eq!(unescape("\\C2D46\\Áè\\C2D41\\é", &Delimiters::default(), &latin1), "Αθé");
    }

    #[test]
    fn delimiters_of_the_message_are_the_ones_escaped() {
        let odd = Delimiters::declared("MSH$%*!@$", "MSH").unwrap();
        assert_eq!(escape("1$ 2% 3! 4| 5\r", &odd), "1!F! 2!S! 3!E! 4| 5!X0D!");
        let none = Delimiters { escape: None, subcomponent: None, ..Delimiters::default() };
        assert_eq!(escape("a|b", &none), "a b");
        assert_eq!(unescape(r"a\F\b", &none, &Charset::UTF8), r"a\F\b");
    }

    proptest! {
        #[test]
        fn escaping_and_back_is_the_same(text in "[ -~\r\n|^~&#äß山]{0,60}") {
            let delimiters = Delimiters { truncation: Some(b'#'), ..Delimiters::default() };
            let sent = escape(&text, &delimiters);
            prop_assert!(!sent.bytes().any(|b| delimiters.separates(b) || b == b'\r' || b == b'\n'));
            let back = unescape(&sent, &delimiters, &Charset::UTF8);
            prop_assert_eq!(&*back, text.as_str());
        }

        #[test]
        fn any_text_is_read(text in r"(\\|[XFSHNCM.]|2442|br|[a-f0-9]|.){0,80}") {
            read(&text);
        }
    }
}
