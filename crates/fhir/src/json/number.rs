//! A JSON number as it was written. `1.50` and `1.5` are different values in FHIR: the trailing zero is precision.

use std::fmt;

/// The exact text of a valid JSON number (RFC 8259 §6). Equality is equality of the text.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Number(Box<str>);

impl Number {
    /// `None` when the text is not a JSON number, wholly.
    pub fn parse(text: &str) -> Option<Number> {
        (scan(text.as_bytes()) == Some(text.len())).then(|| Number(text.into()))
    }

    /// For the reader, which has scanned the text already.
    pub(super) fn from_scanned(text: &str) -> Number {
        Number(text.into())
    }

    /// The shortest text that reads back as `number`; `None` for NaN and infinities.
    pub fn from_f64(number: f64) -> Option<Number> {
        number.is_finite().then(|| Number(number.to_string().into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `None` when written with a fraction or an exponent, or out of range.
    pub fn as_i64(&self) -> Option<i64> {
        self.0.parse().ok()
    }

    /// The nearest double; infinite when out of range.
    pub fn as_f64(&self) -> f64 {
        self.0.parse().unwrap_or(f64::NAN)
    }
}

/// Length of the number at the start of `bytes`; `None` when there is none.
pub(super) fn scan(bytes: &[u8]) -> Option<usize> {
    let digits = |from: usize| bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let mut at = usize::from(bytes.first() == Some(&b'-'));
    match bytes.get(at)? {
        b'0' => at += 1,
        b'1'..=b'9' => at += digits(at),
        _ => return None,
    }
    if bytes.get(at) == Some(&b'.') {
        let fraction = digits(at + 1);
        if fraction == 0 {
            return None;
        }
        at += 1 + fraction;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        at += 1 + usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        let exponent = digits(at.min(bytes.len()));
        if exponent == 0 {
            return None;
        }
        at += exponent;
    }
    Some(at)
}

impl fmt::Debug for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Number(..)")
    }
}

macro_rules! number_from {
    ($($int:ty),*) => {
        $(impl From<$int> for Number {
            fn from(number: $int) -> Self {
                Number(number.to_string().into())
            }
        })*
    };
}
number_from!(i64, i32, u64, u32, u16, usize);
