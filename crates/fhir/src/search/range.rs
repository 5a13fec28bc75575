//! The range that a decimal stands for: half a unit of its last digit either side (R4 §3.1.1.4.6).

use crate::json::Number;

/// The number and its range; `None` for what is no number or too large for a double. `100` is 99.5 to 100.5,
/// `100.00` is 99.995 to 100.005, `1e2` is 50 to 150: one significant figure (R4 says so in words; its "95 to 105" and
/// its `5.40e-3` "0.00005 either side" contradict them and each other).
pub(super) fn of_text(text: &str) -> Option<(f64, f64, f64)> {
    let value = Number::parse(text)?.as_f64();
    let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent: i32 = exponent.parse().ok()?;
    let decimals = digits.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    // Of the digit after the last one given.
    let unit = exponent.checked_sub(i32::try_from(decimals).ok()?)?.checked_sub(1)?;
    let scaled = digits.replace('.', "").parse::<i128>().ok().and_then(|n| n.checked_mul(10));
    let (low, high) = match scaled {
        // In decimal, so that 5.40 begins at 5.395 and not beside it.
        Some(n) => (scale(n.checked_sub(5)?, unit)?, scale(n.checked_add(5)?, unit)?),
        // More digits than a double can tell apart.
        None => (value, value),
    };
    (low.is_finite() && high.is_finite()).then_some((value, low, high))
}

fn scale(digits: i128, unit: i32) -> Option<f64> {
    format!("{digits}e{unit}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precision_is_half_the_last_digit() {
        for (text, range) in [
            ("100", Some((100.0, 99.5, 100.5))),
            ("100.00", Some((100.0, 99.995, 100.005))),
            ("1e2", Some((100.0, 50.0, 150.0))),
            ("1.0e2", Some((100.0, 95.0, 105.0))),
            ("-2.5", Some((-2.5, -2.55, -2.45))),
            ("0", Some((0.0, -0.5, 0.5))),
            ("5.40", Some((5.4, 5.395, 5.405))),
            ("0.8", Some((0.8, 0.75, 0.85))),
            ("1e-400", Some((0.0, 0.0, 0.0))),
            ("1e999", None),
            ("1e99999999999", None),
            ("abc", None),
            ("", None),
        ] {
            assert_eq!(of_text(text), range, "{text}");
        }
    }
}
