//! Character sets: from MSH-18 (HL7 table 0211) or, where it is absent, from the bytes themselves.

use std::borrow::Cow;

use encoding_rs::Encoding;

use crate::error::{Malformed, code357};
use crate::message::header_end;

/// How the bytes of a message became text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charset {
    pub(crate) encoding: &'static Encoding,
    /// MSH-18 declared it, or a byte order mark did.
    pub declared: bool,
    /// The bytes did not follow the declared set, so another was taken.
    pub contradicted: bool,
    /// Some bytes mean nothing in this set: they read as U+FFFD. The raw bytes are kept.
    pub replaced: bool,
}

impl Charset {
    /// The WHATWG name: `UTF-8`, `windows-1252`, `ISO-2022-JP`.
    pub fn name(&self) -> &'static str {
        self.encoding.name()
    }

    pub(crate) const UTF8: Charset =
        Charset { encoding: encoding_rs::UTF_8, declared: false, contradicted: false, replaced: false };

    /// Text in the bytes of this set, for answers; what the set lacks becomes `?`.
    pub fn encode(&self, text: &str) -> Vec<u8> {
        if self.encoding == encoding_rs::UTF_16LE || self.encoding == encoding_rs::UTF_16BE {
            let little = self.encoding == encoding_rs::UTF_16LE;
            return text.encode_utf16().flat_map(|u| if little { u.to_le_bytes() } else { u.to_be_bytes() }).collect();
        }
        let (bytes, _, lossy) = self.encoding.encode(text);
        if !lossy {
            return bytes.into_owned();
        }
        let mut out = Vec::with_capacity(text.len());
        let mut buffer = [0; 4];
        for c in text.chars() {
            let (bytes, _, lossy) = self.encoding.encode(c.encode_utf8(&mut buffer));
            if lossy { out.push(b'?') } else { out.extend_from_slice(&bytes) }
        }
        out
    }
}

/// HL7 table 0211 (v2.8.2 §2.C.2.132) to an encoding; `Ascii` and unknown names are `None` in the inner option.
fn by_name(name: &str) -> Result<Option<&'static Encoding>, ()> {
    use encoding_rs as e;
    let name: String = name.chars().filter(|c| !matches!(c, ' ' | '-' | '_' | '/')).collect::<String>().to_uppercase();
    Ok(Some(match name.as_str() {
        "" | "ASCII" | "USASCII" | "ISOIR6" | "ISO646" => return Ok(None),
        "88591" | "ISO88591" | "WINDOWS1252" | "CP1252" => e::WINDOWS_1252,
        "88592" | "ISO88592" => e::ISO_8859_2,
        "88593" | "ISO88593" => e::ISO_8859_3,
        "88594" | "ISO88594" => e::ISO_8859_4,
        "88595" | "ISO88595" => e::ISO_8859_5,
        "88596" | "ISO88596" => e::ISO_8859_6,
        "88597" | "ISO88597" => e::ISO_8859_7,
        "88598" | "ISO88598" => e::ISO_8859_8,
        "88599" | "ISO88599" => e::WINDOWS_1254,
        "885915" | "ISO885915" => e::ISO_8859_15,
        "ISOIR13" | "SHIFTJIS" | "SJIS" => e::SHIFT_JIS,
        "ISOIR14" | "ISOIR87" | "ISOIR159" | "ISO2022JP" => e::ISO_2022_JP,
        "GB180302000" | "GB18030" | "GB2312" => e::GB18030,
        "KSX1001" => e::EUC_KR,
        "BIG5" => e::BIG5,
        "UNICODE" | "UNICODEUTF8" | "UTF8" => e::UTF_8,
        "UNICODEUTF16" | "UTF16" => e::UTF_16BE,
        _ => return Err(()),
    }))
}

/// The escape sequences of `\C..\` and `\M..\` (v2.8.2 §2.7.2, after ISO 2022): the set that follows, and for
/// seven-bit sets the bytes that begin it.
pub(crate) fn by_iso2022(hex: &str) -> Option<(&'static Encoding, &'static [u8])> {
    use encoding_rs as e;
    Some(match hex.to_ascii_uppercase().as_str() {
        "2842" | "284A" => (e::UTF_8, b""),
        "2D41" => (e::WINDOWS_1252, b""),
        "2D42" => (e::ISO_8859_2, b""),
        "2D43" => (e::ISO_8859_3, b""),
        "2D44" => (e::ISO_8859_4, b""),
        "2D4C" => (e::ISO_8859_5, b""),
        "2D47" => (e::ISO_8859_6, b""),
        "2D46" => (e::ISO_8859_7, b""),
        "2D48" => (e::ISO_8859_8, b""),
        "2D4D" => (e::WINDOWS_1254, b""),
        "2949" => (e::SHIFT_JIS, b""),
        "2442" | "2440" | "242842" => (e::ISO_2022_JP, b"\x1b$B"),
        "242943" => (e::EUC_KR, b""),
        "242941" => (e::GBK, b""),
        _ => return None,
    })
}

/// Whether the first of the sets that MSH-18 names is one that can be read.
pub(crate) fn is_known(names: &str, repetition: Option<u8>) -> bool {
    names.split(|c| Some(c) == repetition.map(char::from)).next().is_none_or(|name| by_name(name.trim()).is_ok())
}

/// The text of a whole message. Decoded before it is split: in Shift_JIS, Big5, GB 18030 and ISO-2022-JP a byte that
/// looks like a delimiter can be half of a character.
pub(crate) fn decode(raw: &[u8]) -> Result<(Cow<'_, str>, Charset), Malformed> {
    if let Some(encoding) = utf16_by_look(raw) {
        let (text, replaced) = encoding.decode_without_bom_handling(raw);
        let charset = Charset { encoding, declared: true, contradicted: false, replaced };
        return Ok((Cow::Owned(text.into_owned()), charset));
    }
    let declared = declared(raw)?;
    if let Some(encoding) = declared
        && encoding != encoding_rs::UTF_8
        && encoding != encoding_rs::UTF_16BE
    {
        let (text, replaced) = encoding.decode_without_bom_handling(raw);
        return Ok((text, Charset { encoding, declared: true, contradicted: false, replaced }));
    }
    let contradicted = declared == Some(encoding_rs::UTF_16BE);
    Ok(match std::str::from_utf8(raw) {
        Ok(text) => (Cow::Borrowed(text), Charset { declared: declared.is_some(), contradicted, ..Charset::UTF8 }),
        Err(_) => {
            let encoding = encoding_rs::WINDOWS_1252;
            let (text, replaced) = encoding.decode_without_bom_handling(raw);
            (text, Charset { encoding, declared: false, contradicted: declared.is_some(), replaced })
        }
    })
}

fn utf16_by_look(raw: &[u8]) -> Option<&'static Encoding> {
    if raw.starts_with(b"\xff\xfe") || raw.starts_with(b"M\0S\0H\0") {
        Some(encoding_rs::UTF_16LE)
    } else if raw.starts_with(b"\xfe\xff") || raw.starts_with(b"\0M\0S\0H") {
        Some(encoding_rs::UTF_16BE)
    } else {
        None
    }
}

/// MSH-18 of the raw bytes. It may repeat: the first is the set of the message, the others are reached by escapes;
/// a Japanese message names its ISO 2022 set there while the first is empty, so the first non-ASCII one counts if
/// the bytes hold an ISO 2022 escape.
fn declared(raw: &[u8]) -> Result<Option<&'static Encoding>, Malformed> {
    // What a message may begin with is what `Message::index` skips.
    let mut body = raw;
    while let Some(rest) = [&b"\xef\xbb\xbf"[..], b"\r", b"\n"].iter().find_map(|lead| body.strip_prefix(*lead)) {
        body = rest;
    }
    let (Some(&separator), true) = (body.get(3), body.starts_with(b"MSH")) else { return Ok(None) };
    let line = &body[..header_end(body, separator)];
    let repetition = line.get(5).copied().filter(|b| *b != separator);
    // Field 1 is the separator itself, so MSH-18 is piece 17 when the line is cut at separators.
    let Some(field) = line.split(|b| *b == separator).nth(17) else { return Ok(None) };
    for (n, name) in field.split(|b| Some(*b) == repetition).enumerate() {
        let known = std::str::from_utf8(name).ok().map(|t| by_name(t.trim()));
        match known {
            Some(Ok(Some(encoding))) if n == 0 || (encoding == encoding_rs::ISO_2022_JP && raw.contains(&0x1b)) => {
                return Ok(Some(encoding));
            }
            Some(Ok(_)) => {}
            _ if n > 0 => {}
            _ => {
                return Err(Malformed::new(
                    "MSH",
                    1,
                    18,
                    code357::TABLE_VALUE_NOT_FOUND,
                    "the character set is not supported: send one of HL7 table 0211 other than CNS 11643 and UTF-32",
                ));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(charset: &str) -> Vec<u8> {
        format!("MSH|^~\\&|A|B|C|D|20200101||ADT^A01|1|P|2.5||||||{charset}\rPID|1||7||").into_bytes()
    }

    #[test]
    fn sets_by_declaration_and_by_look() {
        for (charset, bytes, text, name) in [
            ("", &b"M\xc3\xbcller"[..], "Müller", "UTF-8"),
            ("", b"M\xfcller", "Müller", "windows-1252"),
            ("ASCII", b"M\xfcller", "Müller", "windows-1252"),
            ("8859/1", b"M\xfcller", "Müller", "windows-1252"),
            ("8859/2", b"\xa3ukasz", "Łukasz", "ISO-8859-2"),
            ("8859/5", b"\xb8\xd2\xd0\xdd", "Иван", "ISO-8859-5"),
            ("8859/7", b"\xc1\xe8\xde\xed\xe1", "Αθήνα", "ISO-8859-7"),
            ("UNICODE UTF-8", "山田".as_bytes(), "山田", "UTF-8"),
            // The second byte of 表 in Shift_JIS is a backslash, of 十 too; of ポ a vertical bar.
            ("ISO IR13", b"\x95\x5c\x83\x7c", "表ポ", "Shift_JIS"),
            ("~ISO IR87", b"\x1b$B;3ED\x1b(B", "山田", "ISO-2022-JP"),
            ("GB 18030-2000", b"\xd5\xc5\xc8\xfd", "张三", "gb18030"),
            ("BIG-5", b"\xb3\x5c\xa5\x5c", "許功", "Big5"),
            ("KS X 1001", b"\xb1\xe8", "김", "EUC-KR"),
        ] {
            let mut raw = header(charset);
            raw.extend_from_slice(bytes);
            let (decoded, set) = decode(&raw).unwrap();
            assert!(decoded.ends_with(&format!("|{text}")), "{charset}");
            assert_eq!(set.name(), name, "{charset}");
            assert!(!set.replaced);
        }
    }

    #[test]
    fn contradictions_are_told_and_unknown_sets_refused() {
        let mut raw = header("UNICODE UTF-8");
        raw.push(0xfc);
        let (_, set) = decode(&raw).unwrap();
        assert!(set.contradicted && !set.declared);
        assert_eq!(decode(&header("CNS 11643-1992")).unwrap_err().field, 18);
    }

    #[test]
    fn utf16_is_seen_by_its_look() {
        for little in [true, false] {
            let raw: Vec<u8> = "MSH|^~\\&|Ü"
                .encode_utf16()
                .flat_map(|u| if little { u.to_le_bytes() } else { u.to_be_bytes() })
                .collect();
            let (text, set) = decode(&raw).unwrap();
            assert_eq!(text, "MSH|^~\\&|Ü");
            assert_eq!(set.encode(&text), raw);
        }
    }
}
