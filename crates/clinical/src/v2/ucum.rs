//! Unit strings that laboratories and monitors send, and their UCUM codes. Case counts. What is not here gets no code:
//! a unit is never guessed.

/// The UCUM code of a unit string, if it is a known one.
pub fn code(unit: &str) -> Option<&'static str> {
    UNITS
        .iter()
        .find(|(code, aliases)| *code == unit || aliases.split_ascii_whitespace().any(|a| a == unit))
        .map(|(code, _)| *code)
}

/// UCUM code, and other spellings that mean just that.
const UNITS: &[(&str, &str)] = &[
    ("%", ""),
    ("/min", "bpm beats/min breaths/min {beats}/min {breaths}/min br/min"),
    ("/[HPF]", "/HPF /hpf"),
    ("/[LPF]", "/LPF /lpf"),
    ("/uL", "cells/uL"),
    ("1", ""),
    ("10*3/uL", "10^3/uL K/uL x10E3/uL x10*3/uL x10(3)/uL thou/uL 10*3/mm3 k/uL"),
    ("10*6/uL", "10^6/uL M/uL x10E6/uL x10*6/uL x10(6)/uL"),
    ("10*9/L", "10^9/L x10E9/L x10*9/L giga/L G/L"),
    ("10*12/L", "10^12/L x10E12/L x10*12/L tera/L T/L"),
    ("[degF]", "degF °F"),
    ("Cel", "degC °C"),
    ("[IU]/L", "IU/L"),
    ("[IU]/mL", "IU/mL"),
    ("m[IU]/L", "mIU/L"),
    ("m[IU]/mL", "mIU/mL"),
    ("u[IU]/mL", "uIU/mL µIU/mL"),
    ("[in_i]", ""),
    ("[lb_av]", "lb lbs"),
    ("[pH]", "pH"),
    ("U/L", "u/L U/l"),
    ("cm", ""),
    ("d", ""),
    ("fL", "fl"),
    ("g", ""),
    ("g/L", "g/l"),
    ("g/dL", "g/dl gm/dL"),
    ("h", "hr"),
    ("kPa", ""),
    ("kcal", ""),
    ("kg", ""),
    ("kg/m2", "kg/m^2"),
    ("L", ""),
    ("L/min", ""),
    ("m2", ""),
    ("meq/L", "mEq/L"),
    ("mg", ""),
    ("mg/L", "mg/l"),
    ("mg/dL", "mg/dl"),
    ("mg/g", ""),
    ("mg/mmol", ""),
    ("min", ""),
    ("mL", "ml"),
    ("mL/min", "ml/min"),
    ("mL/min/{1.73_m2}", "mL/min/1.73m2 mL/min/1.73_m2 mL/min/1.73"),
    ("mm", ""),
    ("mm/h", "mm/hr"),
    ("mm[Hg]", "mmHg"),
    ("mmol/L", "mmol/l"),
    ("mmol/mol", ""),
    ("mosm/kg", "mOsm/kg"),
    ("ng/L", "ng/l"),
    ("ng/dL", "ng/dl"),
    ("ng/mL", "ng/ml"),
    ("nmol/L", "nmol/l"),
    ("pg", ""),
    ("pg/mL", "pg/ml"),
    ("pmol/L", "pmol/l"),
    ("s", "sec"),
    ("ug/L", "ug/l µg/L mcg/L"),
    ("ug/dL", "ug/dl µg/dL mcg/dL"),
    ("ug/mL", "ug/ml µg/mL mcg/mL"),
    ("umol/L", "umol/l µmol/L"),
];

#[cfg(test)]
mod tests {
    use super::code;

    #[test]
    fn known_spellings_only_and_case_counts() {
        for (unit, ucum) in [
            ("mg/dL", Some("mg/dL")),
            ("mg/dl", Some("mg/dL")),
            ("MG/DL", None),
            ("beats/min", Some("/min")),
            ("mmHg", Some("mm[Hg]")),
            ("g/l-1", None),
            ("C", None),
            ("", None),
        ] {
            assert_eq!(code(unit), ucum, "{unit}");
        }
    }
}
