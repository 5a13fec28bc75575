//! Reads JSON text into a [`Value`] in one pass, within limits. Strict RFC 8259, but that a byte order mark is
//! passed over; duplicate members are refused, since two readers could take different ones.

use super::number;
use super::object::{Key, has_duplicate};
use super::{Number, Object, Value};

/// Depth that no limit can exceed: reading, writing, comparing and dropping recurse once per level.
pub const DEPTH_HARD_MAX: usize = 256;

/// What one document may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseLimits {
    pub bytes_max: usize,
    /// Nesting of arrays and objects; never more than [`DEPTH_HARD_MAX`].
    pub depth_max: usize,
    /// Values of any kind.
    pub nodes_max: usize,
}

impl From<&base::Limits> for ParseLimits {
    fn from(limits: &base::Limits) -> Self {
        ParseLimits {
            bytes_max: limits.fhir_body_bytes_max,
            depth_max: limits.json_depth_max,
            // Real resources have a value per 15 to 40 bytes; this bounds memory to some ten times the text.
            nodes_max: (limits.fhir_body_bytes_max / 8).max(1),
        }
    }
}

impl Default for ParseLimits {
    fn default() -> Self {
        ParseLimits::from(&base::Limits::default())
    }
}

/// Where and why a text is not JSON that we take. Holds nothing of the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason} at line {line}, column {column}")]
pub struct JsonError {
    /// Bytes from the start.
    pub offset: usize,
    /// From 1.
    pub line: usize,
    /// In bytes, from 1.
    pub column: usize,
    pub reason: &'static str,
}

impl JsonError {
    fn at(bytes: &[u8], offset: usize, reason: &'static str) -> Self {
        let before = &bytes[..offset.min(bytes.len())];
        let line = 1 + before.iter().filter(|b| **b == b'\n').count();
        let column = 1 + before.iter().rev().take_while(|b| **b != b'\n').count();
        JsonError { offset, line, column, reason }
    }
}

/// Reads one document. Never recurses deeper than the limit, never allocates for more nodes than the limit.
pub fn parse(bytes: &[u8], limits: &ParseLimits) -> Result<Value, JsonError> {
    if bytes.len() > limits.bytes_max {
        return Err(JsonError::at(&[], 0, "the document is larger than the limit"));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|e| JsonError::at(bytes, e.valid_up_to(), "the document is not valid UTF-8"))?;
    let start = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    let mut reader = Reader {
        text,
        bytes,
        at: start,
        depth_left: limits.depth_max.min(DEPTH_HARD_MAX),
        nodes_left: limits.nodes_max,
        items: Vec::new(),
        members: Vec::new(),
    };
    reader.document().map_err(|reason| JsonError::at(bytes, reader.at, reason))
}

/// A reason; the place is where the reader stands.
type Refused = &'static str;

struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    depth_left: usize,
    nodes_left: usize,
    /// Children of the arrays that are open, so that each array is allocated once, at its size.
    items: Vec<Value>,
    members: Vec<(Key, Value)>,
}

impl Reader<'_> {
    fn document(&mut self) -> Result<Value, Refused> {
        self.space();
        let value = self.value()?;
        self.space();
        match self.peek() {
            None => Ok(value),
            Some(_) => Err("unexpected text after the end of the document"),
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn value(&mut self) -> Result<Value, Refused> {
        self.nodes_left = self.nodes_left.checked_sub(1).ok_or("more values than the limit")?;
        match self.peek() {
            Some(b'"') => self.string().map(Value::String),
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            Some(_) => Err("expected a value"),
            None => Err("the document ends where a value should stand"),
        }
    }

    fn nested(&mut self, read: fn(&mut Self) -> Result<Value, Refused>) -> Result<Value, Refused> {
        self.depth_left = self.depth_left.checked_sub(1).ok_or("nested deeper than the limit")?;
        self.at += 1;
        self.space();
        let value = read(self)?;
        self.depth_left += 1;
        Ok(value)
    }

    fn array(&mut self) -> Result<Value, Refused> {
        let mark = self.items.len();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::Array(Vec::new()));
        }
        loop {
            let item = self.value()?;
            self.items.push(item);
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err("expected a comma or the end of the array"),
            }
            self.space();
        }
        self.at += 1;
        Ok(Value::Array(self.items.drain(mark..).collect()))
    }

    fn object(&mut self) -> Result<Value, Refused> {
        let mark = self.members.len();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Object(Object::new()));
        }
        loop {
            let key = self.key()?;
            let value = self.value()?;
            self.members.push((key, value));
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err("expected a comma or the end of the object"),
            }
            self.space();
        }
        if has_duplicate(&self.members[mark..]) {
            return Err("an object has two members of the same name, before this place");
        }
        self.at += 1;
        Ok(Value::Object(Object::from_members(self.members.drain(mark..).collect())))
    }

    /// The name of a member and the colon after it.
    fn key(&mut self) -> Result<Key, Refused> {
        if self.peek() != Some(b'"') {
            return Err("expected the name of a member in quotes");
        }
        let plain_end = self.plain_end(self.at + 1);
        let key = if self.bytes.get(plain_end) == Some(&b'"') {
            let key = Key::from(&self.text[self.at + 1..plain_end]);
            self.at = plain_end + 1;
            key
        } else {
            Key::from(self.string()?)
        };
        self.space();
        if self.peek() != Some(b':') {
            return Err("expected a colon after the name of a member");
        }
        self.at += 1;
        self.space();
        Ok(key)
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, Refused> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return Err("expected a value");
        }
        self.at += word.len();
        Ok(value)
    }

    fn number(&mut self) -> Result<Value, Refused> {
        let length = number::scan(&self.bytes[self.at..]).ok_or("a number is not well formed")?;
        let text = &self.text[self.at..self.at + length];
        self.at += length;
        Ok(Value::Number(Number::from_scanned(text)))
    }

    /// The first byte at or after `from` that ends a run of plain string content: a quote, a backslash, a control
    /// character, or the end. Eight bytes at a time.
    fn plain_end(&self, from: usize) -> usize {
        const ONES: u64 = 0x0101_0101_0101_0101;
        const HIGHS: u64 = 0x8080_8080_8080_8080;
        // Non-zero when some byte of `word` is zero: exact for whether, which is all that is asked.
        let has_zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
        let mut at = from;
        while let Some(eight) = self.bytes.get(at..at + 8) {
            let word = eight.iter().rev().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
            let control = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
            let special = has_zero(word ^ (ONES * 0x22)) | has_zero(word ^ (ONES * 0x5c)) | control;
            if special != 0 {
                return at + (special.trailing_zeros() / 8) as usize;
            }
            at += 8;
        }
        let rest = self.bytes.get(at..).unwrap_or_default();
        at + rest.iter().position(|b| *b < 0x20 || *b == b'"' || *b == b'\\').unwrap_or(rest.len())
    }

    fn string(&mut self) -> Result<String, Refused> {
        let start = self.at + 1;
        let end = self.plain_end(start);
        if self.bytes.get(end) == Some(&b'"') {
            self.at = end + 1;
            return Ok(self.text[start..end].to_owned());
        }
        let mut out = String::with_capacity(end - start + 16);
        let mut from = start;
        loop {
            let end = self.plain_end(from);
            out.push_str(&self.text[from..end]);
            self.at = end;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => out.push(self.escape()?),
                Some(_) => return Err("a control character in a string must be escaped"),
                None => return Err("the document ends inside a string"),
            }
            from = self.at;
        }
    }

    /// The character of an escape; stands at its backslash, leaves after it.
    fn escape(&mut self) -> Result<char, Refused> {
        let c = match self.bytes.get(self.at + 1) {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(),
            _ => return Err("unknown escape in a string"),
        };
        self.at += 2;
        Ok(c)
    }

    fn unicode_escape(&mut self) -> Result<char, Refused> {
        const BAD: Refused = "a \\u escape is not well formed";
        const LONE: Refused = "a \\u escape is half of a surrogate pair";
        let high = self.hex4(self.at + 2).ok_or(BAD)?;
        let (code, length) = match high {
            0xDC00..=0xDFFF => return Err(LONE),
            0xD800..=0xDBFF => {
                if self.bytes.get(self.at + 6..self.at + 8) != Some(b"\\u") {
                    return Err(LONE);
                }
                let low = self.hex4(self.at + 8).ok_or(BAD)?;
                if !(0xDC00..=0xDFFF).contains(&low) {
                    return Err(LONE);
                }
                (0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00), 12)
            }
            code => (code, 6),
        };
        self.at += length;
        char::from_u32(code).ok_or(BAD)
    }

    fn hex4(&self, at: usize) -> Option<u32> {
        let digits = self.bytes.get(at..at + 4)?;
        digits.iter().try_fold(0, |code, b| Some(code << 4 | char::from(*b).to_digit(16)?))
    }
}
