//! What is wrong with a message, said by place and reason. Never holds a value of the message.

use std::fmt;

/// Codes of HL7 table 0357, message error condition.
pub mod code357 {
    pub const ACCEPTED: u16 = 0;
    pub const SEGMENT_SEQUENCE: u16 = 100;
    pub const REQUIRED_FIELD_MISSING: u16 = 101;
    pub const DATA_TYPE: u16 = 102;
    pub const TABLE_VALUE_NOT_FOUND: u16 = 103;
    pub const UNSUPPORTED_MESSAGE_TYPE: u16 = 200;
    pub const UNSUPPORTED_EVENT: u16 = 201;
    pub const UNSUPPORTED_PROCESSING_ID: u16 = 202;
    pub const UNSUPPORTED_VERSION: u16 = 203;
    pub const UNKNOWN_KEY: u16 = 204;
    pub const DUPLICATE_KEY: u16 = 205;
    pub const RECORD_LOCKED: u16 = 206;
    pub const INTERNAL: u16 = 207;

    /// The table's own words.
    pub fn text(code: u16) -> &'static str {
        match code {
            ACCEPTED => "Message accepted",
            SEGMENT_SEQUENCE => "Segment sequence error",
            REQUIRED_FIELD_MISSING => "Required field missing",
            DATA_TYPE => "Data type error",
            TABLE_VALUE_NOT_FOUND => "Table value not found",
            UNSUPPORTED_MESSAGE_TYPE => "Unsupported message type",
            UNSUPPORTED_EVENT => "Unsupported event code",
            UNSUPPORTED_PROCESSING_ID => "Unsupported processing id",
            UNSUPPORTED_VERSION => "Unsupported version id",
            UNKNOWN_KEY => "Unknown key identifier",
            DUPLICATE_KEY => "Duplicate key identifier",
            RECORD_LOCKED => "Application record locked",
            _ => "Application internal error",
        }
    }
}

/// A message, or a place in it, that does not follow ER7.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// The segment's id; empty when the fault is before any segment.
    pub segment: String,
    /// Which of the segments with this id, from 1; 0 when there is none.
    pub occurrence: u32,
    /// The field, from 1; 0 is the segment as a whole.
    pub field: u16,
    /// What is wrong and what to do: one sentence, no value of the message.
    pub reason: &'static str,
    /// HL7 table 0357, see [`code357`].
    pub code357: u16,
}

impl Malformed {
    pub fn new(segment: &str, occurrence: u32, field: u16, code357: u16, reason: &'static str) -> Self {
        Malformed { segment: segment.to_owned(), occurrence, field, reason, code357 }
    }
}

impl std::error::Error for Malformed {}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.segment.is_empty() {
            f.write_str(&self.segment)?;
            if self.occurrence > 1 {
                write!(f, "[{}]", self.occurrence)?;
            }
            if self.field > 0 {
                write!(f, "-{}", self.field)?;
            }
            f.write_str(": ")?;
        }
        write!(f, "{} (HL7 table 0357 code {})", self.reason, self.code357)
    }
}
