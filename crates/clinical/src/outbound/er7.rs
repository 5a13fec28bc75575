//! Writing segments: fields by number, values escaped, empty ends cut.

use hl7v2::{Delimiters, escape};

/// A text as it may stand in a message.
pub fn text(value: &str) -> String {
    escape(value, &Delimiters::default()).into_owned()
}

/// Parts with a delimiter between, without empty ones at the end.
fn join(parts: impl IntoIterator<Item = String>, delimiter: char) -> String {
    let mut joined = parts.into_iter().collect::<Vec<_>>();
    while joined.last().is_some_and(String::is_empty) {
        joined.pop();
    }
    joined.join(delimiter.encode_utf8(&mut [0; 4]))
}

/// Parts that are escaped already.
pub fn components<const N: usize>(parts: [String; N]) -> String {
    join(parts, '^')
}

pub fn subcomponents<const N: usize>(parts: [String; N]) -> String {
    join(parts, '&')
}

pub fn repetitions(parts: impl IntoIterator<Item = String>) -> String {
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("~")
}

/// A segment being written. Field 1 of MSH is its separator: [`Segment::header`] begins after the first two.
pub struct Segment {
    id: &'static str,
    /// From field 1.
    fields: Vec<String>,
}

impl Segment {
    pub fn new(id: &'static str) -> Self {
        Segment { id, fields: Vec::new() }
    }

    /// Puts a value that is escaped already where none is yet.
    pub fn set(&mut self, field: usize, value: impl Into<String>) -> &mut Self {
        let value = value.into();
        if value.is_empty() || field == 0 {
            return self;
        }
        if self.fields.len() < field {
            self.fields.resize(field, String::new());
        }
        let there = &mut self.fields[field - 1];
        if there.is_empty() {
            *there = value;
        }
        self
    }

    pub fn is_set(&self, field: usize) -> bool {
        self.fields.get(field.wrapping_sub(1)).is_some_and(|value| !value.is_empty())
    }

    pub fn id(&self) -> &'static str {
        self.id
    }

    pub fn written(&self) -> String {
        let fields: &[String] = match self.id {
            "MSH" => self.fields.get(1..).unwrap_or_default(),
            _ => &self.fields,
        };
        let mut out = self.id.to_owned();
        for field in fields {
            out.push('|');
            out.push_str(field);
        }
        out.push('\r');
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_reads_back() {
        let mut msh = Segment::new("MSH");
        msh.set(2, "^~\\&").set(3, text("A|B")).set(9, "ADT^A01");
        assert_eq!(msh.written(), "MSH|^~\\&|A\\F\\B||||||ADT^A01\r");
        let mut pid = Segment::new("PID");
        pid.set(3, components(["1".into(), String::new(), String::new()])).set(3, "2").set(5, "");
        assert_eq!(pid.written(), "PID|||1\r");
        assert!(pid.is_set(3) && !pid.is_set(5));
    }
}
