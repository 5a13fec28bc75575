//! The delimiters of a message, which it declares itself in MSH-1 and MSH-2 (v2.8.2 §2.5.4, §2.14.9.1).

use crate::error::{Malformed, code357};

/// A delimiter that the message did not declare is `None`: its level does not exist there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Delimiters {
    pub field: u8,
    pub component: Option<u8>,
    pub repetition: Option<u8>,
    pub escape: Option<u8>,
    pub subcomponent: Option<u8>,
    /// v2.7 and later (§2.5.5.2).
    pub truncation: Option<u8>,
}

impl Default for Delimiters {
    /// `|^~\&`, the recommended ones.
    fn default() -> Self {
        Delimiters {
            field: b'|',
            component: Some(b'^'),
            repetition: Some(b'~'),
            escape: Some(b'\\'),
            subcomponent: Some(b'&'),
            truncation: None,
        }
    }
}

impl Delimiters {
    /// Reads them from a header segment (`MSH`, `FHS`, `BHS`): `header` begins with the segment id.
    pub fn declared(header: &str, segment: &str) -> Result<Delimiters, Malformed> {
        let wrong = |field, reason| Malformed::new(segment, 1, field, code357::DATA_TYPE, reason);
        let bytes = header.as_bytes();
        let Some(&field) = bytes.get(3) else {
            return Err(Malformed::new(
                segment,
                1,
                1,
                code357::REQUIRED_FIELD_MISSING,
                "the field separator is missing: it must follow the segment id",
            ));
        };
        if !usable(field) {
            return Err(wrong(
                1,
                "the field separator must be a printable character that is no letter, digit or quote",
            ));
        }
        let rest = &bytes[4..];
        let encoding = &rest[..rest.iter().position(|b| *b == field).unwrap_or(rest.len())];
        if encoding.len() > 5 {
            return Err(wrong(2, "more than five encoding characters: declare at most ^~\\&#"));
        }
        if !encoding.iter().all(|b| usable(*b)) {
            return Err(wrong(2, "encoding characters must be printable and no letters, digits or quotes"));
        }
        if (1..encoding.len()).any(|i| encoding[..i].contains(&encoding[i])) {
            return Err(wrong(2, "two delimiters are the same character: each must differ"));
        }
        let at = |i: usize| encoding.get(i).copied();
        Ok(Delimiters {
            field,
            component: at(0),
            repetition: at(1),
            escape: at(2),
            subcomponent: at(3),
            truncation: at(4),
        })
    }

    /// MSH-2 as it must be written so that it declares these.
    pub fn encoding_characters(&self) -> String {
        [self.component, self.repetition, self.escape, self.subcomponent, self.truncation]
            .into_iter()
            .map_while(|d| d.map(char::from))
            .collect()
    }

    /// Whether `byte` separates something in this message (the escape character does not).
    pub(crate) fn separates(&self, byte: u8) -> bool {
        byte == self.field
            || [self.component, self.repetition, self.subcomponent].into_iter().flatten().any(|d| d == byte)
    }
}

/// Printable ASCII that is neither letter, digit, space nor the quote of the null value.
fn usable(byte: u8) -> bool {
    byte.is_ascii_punctuation() && byte != b'"'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_declares_its_own() {
        let read = |t: &str| Delimiters::declared(t, "MSH");
        assert_eq!(read(r"MSH|^~\&|A").unwrap(), Delimiters::default());
        assert_eq!(read(r"MSH|^~\&#|A").unwrap().truncation, Some(b'#'));
        let odd = read("MSH$%*!@$A").unwrap();
        assert_eq!((odd.field, odd.component, odd.subcomponent), (b'$', Some(b'%'), Some(b'@')));
        assert_eq!(odd.encoding_characters(), "%*!@");
        assert_eq!(read("MSH|^|A").unwrap().repetition, None);
        assert_eq!(read("MSH|").unwrap().component, None);
    }

    #[test]
    fn unusable_ones_are_refused_by_place() {
        for (header, field) in
            [("MSH", 1), ("MSHA^~", 1), (r"MSH|^~\&#!|", 2), ("MSH|^^|", 2), ("MSH|^a|", 2), ("MSH|^~\u{e9}|", 2)]
        {
            assert_eq!(Delimiters::declared(header, "MSH").unwrap_err().field, field, "{header}");
        }
    }
}
