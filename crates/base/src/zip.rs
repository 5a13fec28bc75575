//! Three-digit ZIP areas that hold 20,000 people or fewer, which Safe Harbor shows as `000`
//! (45 CFR 164.514(b)(2)(i)(B)).
//!
//! Two lists: by the 2020 census, and by that of 2000, which the regulators' guidance of 2012 printed. The union is the
//! default, since a partner may hold to either.

/// By the 2020 decennial census.
pub const SPARSE_2020: &[&str] = &[
    "036", "059", "102", "202", "203", "204", "205", "369", "556", "692", "753", "772", "821", "823", "878", "879",
    "884", "893",
];

/// By the 2000 decennial census (HHS guidance on de-identification, 2012).
pub const SPARSE_2000: &[&str] = &[
    "036", "059", "063", "102", "203", "556", "692", "790", "821", "823", "830", "831", "878", "879", "884", "890",
    "893",
];

/// The first three digits of a US postal code, `000` for a sparse area and for whatever is not a US postal code.
pub fn zip3(code: &str) -> &str {
    let code = code.trim();
    let digits = |text: &str, n: usize| text.len() == n && text.bytes().all(|b| b.is_ascii_digit());
    let is_zip = match code.split_once('-') {
        Some((five, four)) => digits(five, 5) && digits(four, 4),
        None => digits(code, 5) || digits(code, 9),
    };
    match code.get(..3) {
        Some(three) if is_zip && !SPARSE_2020.contains(&three) && !SPARSE_2000.contains(&three) => three,
        _ => "000",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparse_and_foreign_codes_become_zeros() {
        for (code, shown) in [
            ("02139", "021"),
            ("02139-1234", "021"),
            ("021391234", "021"),
            ("20301", "000"),
            ("06390", "000"),
            ("SW1A 1AA", "000"),
            ("1234", "000"),
            ("", "000"),
            ("1é234", "000"),
        ] {
            assert_eq!(zip3(code), shown, "{code}");
        }
    }
}
