//! Which messages a route takes: conditions on fields, written as `PV1-2 = I`, all of which must hold.
//!
//! ```text
//! PATH = TEXT        PATH != TEXT        PATH in TEXT, TEXT, ...        PATH valued        PATH empty
//! ```

use std::fmt;

use hl7v2::{Message, Path};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Condition {
    path: Path,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Is(String),
    IsNot(String),
    In(Vec<String>),
    Valued,
    Empty,
}

impl Condition {
    /// A field that is absent or null is empty, and is no text. Of a field without a repetition, component or
    /// subcomponent in the path, the first simple part counts: `MSH-9 = ADT`.
    pub fn holds(&self, message: &Message<'_>) -> bool {
        let element = message.at(&self.path);
        let text = element.first().value();
        let is = |wanted: &String| text.as_deref().is_some_and(|text| text.trim() == wanted);
        match &self.test {
            Test::Is(wanted) => is(wanted),
            Test::IsNot(wanted) => !is(wanted),
            Test::In(wanted) => wanted.iter().any(is),
            Test::Valued => element.is_value(),
            Test::Empty => !element.is_value(),
        }
    }
}

impl TryFrom<String> for Condition {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const WRONG: &str =
            "a condition is written `PATH = TEXT`, `PATH != TEXT`, `PATH in TEXT, TEXT`, `PATH valued` or `PATH empty`";
        let (path, rest) = text.trim().split_once(' ').ok_or(WRONG)?;
        let path: Path = path.parse().map_err(|_| WRONG)?;
        let (word, rest) = rest.trim().split_once(' ').unwrap_or((rest.trim(), ""));
        let value = rest.trim();
        let texts = || value.split(',').map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let test = match word {
            "=" if !value.is_empty() => Test::Is(value.to_owned()),
            "!=" if !value.is_empty() => Test::IsNot(value.to_owned()),
            "in" if texts().next().is_some() => Test::In(texts().collect()),
            "valued" if value.is_empty() => Test::Valued,
            "empty" if value.is_empty() => Test::Empty,
            _ => return Err(WRONG),
        };
        Ok(Condition { path, test })
    }
}

impl From<Condition> for String {
    fn from(condition: Condition) -> String {
        condition.to_string()
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.path)?;
        match &self.test {
            Test::Is(text) => write!(f, "= {text}"),
            Test::IsNot(text) => write!(f, "!= {text}"),
            Test::In(texts) => write!(f, "in {}", texts.join(", ")),
            Test::Valued => f.write_str("valued"),
            Test::Empty => f.write_str("empty"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_hold_or_not() {
        let text = "MSH|^~\\&|REG|GEN|C|D|20200101||ADT^A01|1|P|2.5\rPID|1||M1^^^X~M2|\"\"|Doe^Jo\rPV1|1|I|2N^101\r";
        let message = hl7v2::parse(text.as_bytes(), &base::Limits::default()).unwrap();
        for (text, holds) in [
            ("MSH-9 = ADT", true),
            ("MSH-9.2 = A01", true),
            ("MSH-9.2 != A01", false),
            ("PV1-2 in O, I, E", true),
            ("PV1-2 in O, E", false),
            ("PID-3(2) = M2", true),
            ("PID-4 valued", false),
            ("PID-4 empty", true),
            ("PID-19 empty", true),
            ("PID-19 != 1", true),
            ("OBX-5 valued", false),
            ("PV1-3.2 = 101", true),
        ] {
            let condition = Condition::try_from(text.to_owned()).unwrap();
            assert_eq!(condition.holds(&message), holds, "{text}");
            assert_eq!(condition.to_string(), text);
        }
        for text in ["", "PV1-2", "PV1-2 =", "PV1 = I", "PV1-2 ~ I", "PV1-2 valued x", "PV1-2 in ,"] {
            assert!(Condition::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
