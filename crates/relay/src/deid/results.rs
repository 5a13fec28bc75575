//! Texts that are a result and nothing else: of an observation told as a string, only these stay.

/// Words of qualitative results; a text of three of them at most.
const WORDS: &[&str] = &[
    "POSITIVE",
    "NEGATIVE",
    "POS",
    "NEG",
    "NORMAL",
    "ABNORMAL",
    "DETECTED",
    "UNDETECTED",
    "NOT",
    "REACTIVE",
    "NONREACTIVE",
    "NON",
    "PRESENT",
    "ABSENT",
    "NONE",
    "SEEN",
    "TRACE",
    "FEW",
    "MODERATE",
    "MANY",
    "RARE",
    "OCCASIONAL",
    "SMALL",
    "LARGE",
    "CLEAR",
    "CLOUDY",
    "HAZY",
    "TURBID",
    "YELLOW",
    "AMBER",
    "STRAW",
    "RED",
    "BROWN",
    "COLORLESS",
    "HIGH",
    "LOW",
    "WEAK",
    "STRONG",
    "WEAKLY",
    "STRONGLY",
    "YES",
    "NO",
    "MALE",
    "FEMALE",
    "INDETERMINATE",
    "EQUIVOCAL",
    "INCONCLUSIVE",
    "INVALID",
    "GROWTH",
    "SENSITIVE",
    "SUSCEPTIBLE",
    "INTERMEDIATE",
    "RESISTANT",
    "PENDING",
    "A",
    "B",
    "AB",
    "O",
    "RH",
    "TNTC",
    "IMMUNE",
    "NONIMMUNE",
    "TRUE",
    "FALSE",
    "NORMOCYTIC",
    "UNKNOWN",
];

/// A number with a comparator, a range, a ratio, a titer, plus signs, or words of the list.
pub fn is_result(text: &str) -> bool {
    let text = text.trim();
    if text.len() > 40 {
        return false;
    }
    is_number(text) || is_grade(text) || is_words(text)
}

/// `95`, `-1.5`, `>1000`, `<= 0.5`, `60-120`, `1:64`, `4/10`, `5 %`: at most six digits before a point.
fn is_number(text: &str) -> bool {
    let text = text.trim_start_matches(['<', '>', '=', '~', ' ']).trim_end_matches(['%', ' ']);
    let parts: Vec<&str> = text.trim_start_matches(['-', '+']).split(['-', ':', '/']).collect();
    let is_part = |part: &&str| {
        let (whole, fraction) = part.trim().split_once('.').unwrap_or((part.trim(), ""));
        let digits = |text: &str, max: usize| text.len() <= max && text.bytes().all(|b| b.is_ascii_digit());
        !whole.is_empty() && digits(whole, if parts.len() == 1 { 6 } else { 4 }) && digits(fraction, 6)
    };
    // Three parts are a date or a telephone number.
    parts.len() <= 2 && parts.iter().all(is_part)
}

/// `+`, `++`, `3+`.
fn is_grade(text: &str) -> bool {
    let signs = text.trim_start_matches(|c: char| c.is_ascii_digit());
    !signs.is_empty() && text.len() <= 4 && signs.bytes().all(|b| b == b'+')
}

fn is_words(text: &str) -> bool {
    let mut words = text.split([' ', '-', '_', ',', '.', '/', '(', ')']).filter(|word| !word.is_empty()).peekable();
    words.peek().is_some()
        && words.clone().count() <= 3
        && words.all(|word| WORDS.contains(&word.to_uppercase().as_str()))
}

#[cfg(test)]
mod tests {
    use super::is_result;

    #[test]
    fn results_and_what_may_be_anything() {
        for text in [
            "95",
            "-1.5",
            ">1000",
            "<= 0.5",
            "60-120",
            "1:64",
            "5 %",
            "+++",
            "2+",
            "Not Detected",
            "non-reactive",
            "O POS",
        ] {
            assert!(is_result(text), "{text}");
        }
        for text in [
            "",
            "called Dr. Lee",
            "555-12-3456",
            "617-5550100",
            "20240305",
            "2024-03-05",
            "M1234567",
            "1234567",
            "03/05/24",
        ] {
            assert!(!is_result(text), "{text}");
        }
    }
}
