//! What a writer wants back: `Prefer: return=…` (R4 §3.1.0.1.4, RFC 7240).

use axum::http::HeaderMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Return {
    /// Status and headers.
    Minimal,
    /// The resource as it stands now; so without a preference, too.
    Representation,
    /// What was found to be said of the write.
    OperationOutcome,
}

impl Return {
    /// A value that is not known is no preference (RFC 7240 §2).
    pub fn of(headers: &HeaderMap) -> Return {
        let lines = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
        let preferences = lines.flat_map(|line| line.split([',', ';'])).map(str::trim);
        let wanted = preferences.filter_map(|preference| preference.strip_prefix("return="));
        wanted.map(|value| value.trim_matches('"')).find_map(Return::read).unwrap_or(Return::Representation)
    }

    fn read(value: &str) -> Option<Return> {
        match value {
            "minimal" => Some(Return::Minimal),
            "representation" => Some(Return::Representation),
            "OperationOutcome" => Some(Return::OperationOutcome),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_known_preference_counts() {
        for (text, expected) in [
            ("", Return::Representation),
            ("return=minimal", Return::Minimal),
            ("handling=lenient, return=OperationOutcome", Return::OperationOutcome),
            ("return=representation; x", Return::Representation),
            ("return=\"minimal\"", Return::Minimal),
            ("return=nothing, return=minimal", Return::Minimal),
        ] {
            let headers = HeaderMap::from_iter([("prefer".parse().unwrap(), text.parse().unwrap())]);
            assert_eq!(Return::of(&headers), expected, "{text}");
        }
    }
}
