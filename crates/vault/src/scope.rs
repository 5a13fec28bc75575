//! Scopes: whose key wraps an object's key. Never the keys themselves (see `cache`).

use std::fmt;
use std::sync::Arc;

use base::{DomainName, InvalidId, Ordinal};

/// Whose data it is. Keys belong to source records, never to persons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Holder {
    /// A source record of the domain.
    Record(Ordinal),
    /// About nobody, or about several who cannot be split.
    Shared,
    /// Taken in at the door and not yet refined, by generation.
    Unassigned(u64),
}

impl Holder {
    /// For tables: a code of the variant and its number.
    pub fn to_parts(self) -> (u8, u64) {
        match self {
            Holder::Record(ordinal) => (1, u64::from(ordinal.0)),
            Holder::Shared => (2, 0),
            Holder::Unassigned(generation) => (3, generation),
        }
    }

    pub fn from_parts(code: u8, number: u64) -> Option<Self> {
        match code {
            1 => Some(Holder::Record(Ordinal(u32::try_from(number).ok()?))),
            2 if number == 0 => Some(Holder::Shared),
            3 => Some(Holder::Unassigned(number)),
            _ => None,
        }
    }
}

/// Id of a retention class: `clinical`, `audit`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RetentionClass(Arc<str>);

impl RetentionClass {
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let bytes = text.as_bytes();
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        if (1..=32).contains(&bytes.len()) && bytes[0].is_ascii_lowercase() && bytes.iter().all(inner) {
            Ok(RetentionClass(text.into()))
        } else {
            Err(InvalidId { kind: "a retention class", rule: "1 to 32 of a-z 0-9 - _, beginning with a letter" })
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What has not yet been assigned to a class.
    pub fn unassigned() -> Self {
        RetentionClass("unassigned".into())
    }
}

impl fmt::Display for RetentionClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What one scope key covers, and so what is destroyed with it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    pub domain: DomainName,
    pub holder: Holder,
    pub retention: RetentionClass,
    pub year: u16,
}

/// The random id of a scope key. A scope whose key was used very often has more than one (see `ScopeRow::generation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScopeId(pub [u8; 16]);

impl ScopeId {
    /// From the 32 hex digits that `Display` writes.
    pub fn parse(hex: &str) -> Option<Self> {
        Some(ScopeId(base::hex::decode(hex)?.try_into().ok()?))
    }
}

impl fmt::Display for ScopeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base::hex::encode(&self.0))
    }
}
