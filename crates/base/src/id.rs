//! Names and identifiers, checked when they are made, so that they cannot be empty or dangerous later.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a name was refused. Holds no input: a wrong name may be PHI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} must be {rule}")]
pub struct InvalidId {
    pub kind: &'static str,
    pub rule: &'static str,
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let check: fn(&str) -> bool = $check;
                if check(text) {
                    Ok($name(text.into()))
                } else {
                    Err(InvalidId { kind: $kind, rule: $rule })
                }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.to_string()
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::parse(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

fn is_slug(text: &str, max: usize) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= max
        && bytes[0].is_ascii_lowercase()
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
}

name_type!(
    /// A domain of the mesh: `ehr`, `laboratory`.
    DomainName, "a domain name", "1 to 32 of a-z 0-9 - _, beginning with a letter", |t| is_slug(t, 32)
);
name_type!(
    /// A source that feeds a domain: `adt-main`.
    SourceName, "a source name", "1 to 64 of a-z 0-9 - _, beginning with a letter", |t| is_slug(t, 64)
);
name_type!(
    /// A log: `journal-ehr`, `audit`, `control`.
    LogName, "a log name", "1 to 64 of a-z 0-9 - _, beginning with a letter", |t| is_slug(t, 64)
);
name_type!(
    /// A person, service or system that acts: `dr-lee`, `app-vitals`.
    PrincipalId, "a principal", "1 to 128 of letters, digits and . _ @ - :", |t| {
        !t.is_empty()
            && t.len() <= 128
            && t.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'@' | b'-' | b':'))
    }
);
name_type!(
    /// FHIR's logical id (R4 §2.24.0.1, type `id`).
    LogicalId, "an id", "1 to 64 of A-Z a-z 0-9 - .", |t| {
        !t.is_empty()
            && t.len() <= 64
            && t.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
    }
);

/// A place in a log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    pub log: LogName,
    pub index: u64,
}

impl Position {
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        const BAD: InvalidId = InvalidId { kind: "a position", rule: "of the form LOG/INDEX, such as journal-ehr/42" };
        let (log, index) = text.split_once('/').ok_or(BAD)?;
        Ok(Position { log: LogName::parse(log)?, index: index.parse().map_err(|_| BAD)? })
    }
}

impl std::str::FromStr for Position {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Position::parse(text)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.log, self.index)
    }
}

/// The number of a source record (a patient as one assigner knows them) within its domain. Says nothing about
/// the person; 0 is "no patient".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Ordinal(pub u32);

impl Ordinal {
    /// For resources about no patient: organizations, practitioners, locations.
    pub const NONE: Ordinal = Ordinal(0);

    /// About a patient, but which one is not known: only a permit for all patients reaches it.
    pub const UNKNOWN: Ordinal = Ordinal(u32::MAX);

    pub fn is_patient(self) -> bool {
        self.0 != 0
    }
}

impl fmt::Display for Ordinal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_refuse_what_could_escape_a_folder_or_a_statement() {
        for bad in ["", "Ehr", "a/b", "..", "1a", "a b", "a'b", "é"] {
            assert!(DomainName::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(DomainName::parse("ehr-2_x").unwrap().as_str(), "ehr-2_x");
    }

    #[test]
    fn an_error_does_not_repeat_its_input() {
        let error = LogicalId::parse("JOHN DOE").unwrap_err().to_string();
        assert!(!error.contains("DOE"));
    }

    #[test]
    fn positions_round_trip() {
        let position = Position::parse("journal-ehr/42").unwrap();
        assert_eq!(position.to_string(), "journal-ehr/42");
        assert!(Position::parse("journal-ehr").is_err());
    }
}
