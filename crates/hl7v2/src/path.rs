//! Places in a message, written as interface people write them: `PID-3(2).4.1`, `OBX[2]-5`.

use std::fmt;
use std::str::FromStr;

/// Segment, its occurrence, field, repetition, component, subcomponent; all from 1. What is not given is 1 for the
/// occurrence, and the whole of it below.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Path {
    pub segment: String,
    pub occurrence: u32,
    pub field: u16,
    pub repetition: Option<u16>,
    pub component: Option<u16>,
    pub subcomponent: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a path of HL7 v2: write it like `PID-3(2).4.1` or `OBX[2]-5`")]
pub struct PathError;

impl FromStr for Path {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Path, PathError> {
        let (segment, place) = text.split_once('-').ok_or(PathError)?;
        let (segment, occurrence) = bracketed(segment, '[', ']')?;
        let id = segment.as_bytes();
        if id.len() != 3 || !id.iter().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit()) {
            return Err(PathError);
        }
        let mut parts = place.split('.');
        let (field, repetition) = bracketed(parts.next().ok_or(PathError)?, '(', ')')?;
        let component = parts.next().map(number).transpose()?;
        let subcomponent = parts.next().map(number).transpose()?;
        if parts.next().is_some() {
            return Err(PathError);
        }
        Ok(Path {
            segment: segment.to_owned(),
            occurrence: occurrence.map_or(1, u32::from),
            field: number(field)?,
            repetition,
            component,
            subcomponent,
        })
    }
}

/// `OBX[2]` to (`OBX`, 2).
fn bracketed(text: &str, open: char, close: char) -> Result<(&str, Option<u16>), PathError> {
    match text.split_once(open) {
        None => Ok((text, None)),
        Some((head, tail)) => Ok((head, Some(number(tail.strip_suffix(close).ok_or(PathError)?)?))),
    }
}

fn number(text: &str) -> Result<u16, PathError> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(PathError);
    }
    text.parse().ok().filter(|n| *n > 0).ok_or(PathError)
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.segment)?;
        if self.occurrence != 1 {
            write!(f, "[{}]", self.occurrence)?;
        }
        write!(f, "-{}", self.field)?;
        if let Some(n) = self.repetition {
            write!(f, "({n})")?;
        }
        for n in [self.component, self.subcomponent].into_iter().flatten() {
            write!(f, ".{n}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_round_trip_and_nonsense_is_refused() {
        for text in ["PID-3", "PID-3(2).4.1", "OBX[2]-5", "OBX[12]-5(3).2", "ZB1-1.1.1"] {
            assert_eq!(text.parse::<Path>().unwrap().to_string(), text);
        }
        for text in
            ["", "PID", "PID-", "PID-0", "pid-3", "PID-3.", "PID-3.1.1.1", "PID-3(", "OBX[x]-5", "PID-+3", "PI-3"]
        {
            assert!(text.parse::<Path>().is_err(), "{text}");
        }
    }
}
