//! Exact decimals: an `i128` and a scale, as written, so that `1.10` keeps its precision (FHIR R4 §2.24.0.1).
//! Never rounds unless asked; what does not fit is `None`. Powers and logarithms go through `f64`.

use std::cmp::Ordering;
use std::fmt;

/// Digits after the point that a decimal may have.
pub const SCALE_MAX: u32 = 28;
/// Digits after the point of a quotient.
const QUOTIENT_SCALE: u32 = 18;

/// `mantissa / 10^scale`. `==` compares as written; numeric order is [`Decimal::compare`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Decimal {
    mantissa: i128,
    scale: u32,
}

fn pow10(n: u32) -> Option<i128> {
    10i128.checked_pow(n)
}

impl Decimal {
    pub const ZERO: Decimal = Decimal { mantissa: 0, scale: 0 };
    pub const ONE: Decimal = Decimal { mantissa: 1, scale: 0 };

    /// A decimal from its parts, if the scale is within [`SCALE_MAX`].
    pub fn new(mantissa: i128, scale: u32) -> Option<Decimal> {
        (scale <= SCALE_MAX).then_some(Decimal { mantissa, scale })
    }

    /// Reads a JSON number or a FHIRPath literal: sign, digits, fraction, exponent.
    pub fn parse(text: &str) -> Option<Decimal> {
        let (body, exponent) = match text.find(['e', 'E']) {
            Some(at) => (&text[..at], text[at + 1..].parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (negative, body) = match body.as_bytes().first()? {
            b'-' => (true, &body[1..]),
            b'+' => (false, &body[1..]),
            _ => (false, body),
        };
        let (mut mantissa, mut digits, mut fraction) = (0i128, 0u32, None::<u32>);
        for byte in body.bytes() {
            match byte {
                b'0'..=b'9' => {
                    mantissa = mantissa.checked_mul(10)?.checked_add(i128::from(byte - b'0'))?;
                    digits += 1;
                    if let Some(f) = fraction.as_mut() {
                        *f += 1;
                    }
                }
                b'.' if fraction.is_none() && digits > 0 => fraction = Some(0),
                _ => return None,
            }
        }
        if digits == 0 || fraction == Some(0) {
            return None;
        }
        let scale = i64::from(fraction.unwrap_or(0)) - i64::from(exponent);
        let mantissa = if negative { -mantissa } else { mantissa };
        if scale < 0 {
            let factor = pow10(u32::try_from(-scale).ok().filter(|s| *s <= 38)?)?;
            return Some(Decimal { mantissa: mantissa.checked_mul(factor)?, scale: 0 });
        }
        Decimal::new(mantissa, u32::try_from(scale).ok()?)
    }

    /// The nearest decimal of 15 significant digits; `None` for what is not a finite number.
    pub fn from_f64(value: f64) -> Option<Decimal> {
        if !value.is_finite() {
            return None;
        }
        Decimal::parse(&format!("{value:.14e}")).map(Decimal::normal)
    }

    /// The nearest `f64`.
    pub fn to_f64(self) -> f64 {
        self.to_string().parse().unwrap_or(f64::NAN)
    }

    pub fn mantissa(self) -> i128 {
        self.mantissa
    }

    /// Digits after the point, as written.
    pub fn scale(self) -> u32 {
        self.scale
    }

    /// Without trailing zeros after the point.
    pub fn normal(mut self) -> Decimal {
        while self.scale > 0 && self.mantissa % 10 == 0 {
            self.mantissa /= 10;
            self.scale -= 1;
        }
        self
    }

    /// The same number with at least this many digits after the point.
    pub fn rescale(self, scale: u32) -> Option<Decimal> {
        if scale <= self.scale {
            return Some(self);
        }
        Decimal::new(self.mantissa.checked_mul(pow10(scale - self.scale)?)?, scale)
    }

    fn align(a: Decimal, b: Decimal) -> Option<(i128, i128, u32)> {
        let scale = a.scale.max(b.scale);
        Some((a.rescale(scale)?.mantissa, b.rescale(scale)?.mantissa, scale))
    }

    pub fn checked_add(self, other: Decimal) -> Option<Decimal> {
        let (a, b, scale) = Decimal::align(self, other)?;
        Decimal::new(a.checked_add(b)?, scale)
    }

    pub fn negated(self) -> Decimal {
        Decimal { mantissa: self.mantissa.checked_neg().unwrap_or(i128::MAX), scale: self.scale }
    }

    pub fn checked_sub(self, other: Decimal) -> Option<Decimal> {
        self.checked_add(other.negated())
    }

    pub fn checked_mul(self, other: Decimal) -> Option<Decimal> {
        let product = |a: Decimal, b: Decimal| Decimal::new(a.mantissa.checked_mul(b.mantissa)?, a.scale + b.scale);
        product(self, other).or_else(|| product(self.normal(), other.normal()))
    }

    /// The quotient with up to 18 digits after the point, rounded half away from zero; `None` for a zero divisor.
    pub fn checked_div(self, other: Decimal) -> Option<Decimal> {
        let (a, b) = (self.normal(), other.normal());
        if b.mantissa == 0 {
            return None;
        }
        for digits in (0..=QUOTIENT_SCALE).rev() {
            let shift = i64::from(digits) + i64::from(b.scale) - i64::from(a.scale);
            let up = pow10(u32::try_from(shift.max(0)).ok()?.min(39));
            let down = pow10(u32::try_from((-shift).max(0)).ok()?);
            let scaled = (|| Some((a.mantissa.checked_mul(up?)?, b.mantissa.checked_mul(down?)?)))();
            if let Some((n, d)) = scaled {
                return Decimal::new(div_round(n, d)?, digits).map(Decimal::normal);
            }
        }
        None
    }

    /// Integer division, toward zero (FHIRPath `div`).
    pub fn div_trunc(self, other: Decimal) -> Option<i128> {
        let (a, b, _) = Decimal::align(self, other)?;
        a.checked_div(b)
    }

    /// The remainder of [`Decimal::div_trunc`] (FHIRPath `mod`).
    pub fn checked_rem(self, other: Decimal) -> Option<Decimal> {
        let (a, b, scale) = Decimal::align(self, other)?;
        Decimal::new(a.checked_rem(b)?, scale)
    }

    /// Numeric order; digits that do not matter (`1.0` and `1.00`) do not count.
    pub fn compare(self, other: Decimal) -> Ordering {
        match Decimal::align(self, other) {
            Some((a, b, _)) => a.cmp(&b),
            // Aligning overflowed: the integer parts differ by more than any fraction can make up for, or the
            // signs do; whole parts then decide.
            None => {
                let whole = |d: Decimal| pow10(d.scale).map_or(0, |p| d.mantissa.div_euclid(p));
                whole(self).cmp(&whole(other))
            }
        }
    }

    /// Rounded half away from zero to `scale` digits; a number with fewer digits stays as it is.
    pub fn round(self, scale: u32) -> Option<Decimal> {
        if scale >= self.scale {
            return Some(self);
        }
        Decimal::new(div_round(self.mantissa, pow10(self.scale - scale)?)?, scale)
    }

    /// Toward minus infinity, at `scale` digits.
    pub fn floor(self, scale: u32) -> Option<Decimal> {
        if scale >= self.scale {
            return self.rescale(scale);
        }
        Decimal::new(self.mantissa.div_euclid(pow10(self.scale - scale)?), scale)
    }

    /// Toward plus infinity, at `scale` digits.
    pub fn ceiling(self, scale: u32) -> Option<Decimal> {
        self.negated().floor(scale).map(Decimal::negated)
    }

    /// Toward zero, without digits after the point.
    pub fn truncate(self) -> i128 {
        pow10(self.scale).map_or(0, |p| self.mantissa / p)
    }

    /// This number as an integer, if it is one.
    pub fn to_integer(self) -> Option<i64> {
        let n = self.normal();
        if n.scale == 0 { i64::try_from(n.mantissa).ok() } else { None }
    }

    pub fn is_negative(self) -> bool {
        self.mantissa < 0
    }
}

/// `n / d` rounded half away from zero.
fn div_round(n: i128, d: i128) -> Option<i128> {
    let (q, r) = (n.checked_div(d)?, n.checked_rem(d)?);
    let up = r.unsigned_abs() >= d.unsigned_abs() - r.unsigned_abs();
    Some(if r != 0 && up { q + if (n < 0) == (d < 0) { 1 } else { -1 } } else { q })
}

impl From<i64> for Decimal {
    fn from(value: i64) -> Self {
        Decimal { mantissa: i128::from(value), scale: 0 }
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.mantissa < 0 { "-" } else { "" };
        let digits = self.mantissa.unsigned_abs().to_string();
        let scale = self.scale as usize;
        if scale == 0 {
            return write!(f, "{sign}{digits}");
        }
        let padded = format!("{digits:0>width$}", width = scale + 1);
        let (whole, fraction) = padded.split_at(padded.len() - scale);
        write!(f, "{sign}{whole}.{fraction}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn d(text: &str) -> Decimal {
        Decimal::parse(text).expect("a decimal")
    }

    #[test]
    fn keeps_what_was_written() {
        for text in ["0", "1.10", "-0.0034", "185", "0.00000001", "1234567890987654321.0", "-1"] {
            assert_eq!(d(text).to_string(), text);
        }
        assert_eq!(d("1.5e2").to_string(), "150");
        assert_eq!(d("15e-1").to_string(), "1.5");
        for bad in ["", "-", "1.", ".5", "1..2", "1e", "abc", "1e99999", "9".repeat(60).as_str()] {
            assert_eq!(Decimal::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn arithmetic_by_example() {
        assert_eq!(d("1.2").checked_add(d("1.8")).unwrap().compare(d("3")), Ordering::Equal);
        assert_eq!(d("1.2").checked_mul(d("1.8")).unwrap().to_string(), "2.16");
        assert_eq!(d("1.2").checked_div(d("1.8")).unwrap().to_string(), "0.666666666666666667");
        assert_eq!(d("2.2").div_trunc(d("1.8")), Some(1));
        assert_eq!(d("2.2").checked_rem(d("1.8")).unwrap().to_string(), "0.4");
        assert_eq!(d("1").checked_div(d("0")), None);
        assert_eq!(d("-1.5875").floor(2).unwrap().to_string(), "-1.59");
        assert_eq!(d("-1.5865").ceiling(2).unwrap().to_string(), "-1.58");
        assert_eq!(d("3.14159").round(3).unwrap().to_string(), "3.142");
        assert_eq!(Decimal::from_f64(6.25).unwrap().to_string(), "6.25");
        assert_eq!(Decimal::from_f64(1e300), None);
    }

    proptest! {
        #[test]
        fn never_panics_and_agrees_with_f64(a in -1e12f64..1e12, b in -1e12f64..1e12) {
            let (x, y) = (Decimal::from_f64(a).unwrap(), Decimal::from_f64(b).unwrap());
            prop_assert!((x.checked_add(y).unwrap().to_f64() - (a + b)).abs() <= 1e-2);
            if a != b { prop_assert_eq!(x.compare(y), a.partial_cmp(&b).unwrap()); }
            let _ = x.checked_div(y);
        }

        #[test]
        fn any_text_is_safe(text in "\\PC{0,40}") { let _ = Decimal::parse(&text); }

        #[test]
        fn extremes_are_safe(a: i128, sa in 0u32..=28, b: i128, sb in 0u32..=28) {
            let (x, y) = (Decimal::new(a, sa).unwrap(), Decimal::new(b, sb).unwrap());
            let _ = (x.checked_add(y), x.checked_sub(y), x.checked_mul(y), x.checked_div(y), x.div_trunc(y), x.checked_rem(y), x.compare(y));
            let _ = (x.round(2), x.floor(2), x.ceiling(2), x.truncate(), x.to_string(), x.to_f64());
        }
    }
}
