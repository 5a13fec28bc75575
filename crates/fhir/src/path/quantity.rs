//! Quantities: calendar durations and the UCUM units that clinical data uses most, converted exactly. A unit that is
//! not in the table equals only itself; nothing is ever guessed. Full UCUM (special and arbitrary units) is not here.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::decimal::Decimal;

/// A value with a unit: UCUM, or a calendar duration word.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantity<'a> {
    pub value: Decimal,
    pub unit: Cow<'a, str>,
    /// `4 days` rather than `4 'd'`.
    pub calendar: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CalendarUnit {
    Year,
    Month,
    Week,
    Day,
    Hour,
    Minute,
    Second,
    Millisecond,
}

/// The calendar duration of this word, singular or plural.
pub fn calendar_unit(word: &str) -> Option<CalendarUnit> {
    use CalendarUnit::*;
    Some(match word.strip_suffix('s').unwrap_or(word) {
        "year" => Year,
        "month" => Month,
        "week" => Week,
        "day" => Day,
        "hour" => Hour,
        "minute" => Minute,
        "second" => Second,
        "millisecond" => Millisecond,
        _ => return None,
    })
}

impl CalendarUnit {
    /// The UCUM unit of the same length; years and months have none (FHIRPath §2.1.6.1).
    pub fn ucum(self) -> Option<&'static str> {
        use CalendarUnit::*;
        match self {
            Year | Month => None,
            Week => Some("wk"),
            Day => Some("d"),
            Hour => Some("h"),
            Minute => Some("min"),
            Second => Some("s"),
            Millisecond => Some("ms"),
        }
    }
}

/// The calendar duration that a definite UCUM unit stands for in date arithmetic.
pub fn duration_of_ucum(unit: &str) -> Option<CalendarUnit> {
    use CalendarUnit::*;
    Some(match unit {
        "wk" => Week,
        "d" => Day,
        "h" => Hour,
        "min" => Minute,
        "s" => Second,
        "ms" => Millisecond,
        _ => return None,
    })
}

const BASES: [&str; 9] = ["m", "s", "g", "K", "C", "cd", "mol", "rad", "[iU]"];
const METRE: Dims = [1, 0, 0, 0, 0, 0, 0, 0, 0];
const SECOND: Dims = [0, 1, 0, 0, 0, 0, 0, 0, 0];
const GRAM: Dims = [0, 0, 1, 0, 0, 0, 0, 0, 0];
const KELVIN: Dims = [0, 0, 0, 1, 0, 0, 0, 0, 0];
const COULOMB: Dims = [0, 0, 0, 0, 1, 0, 0, 0, 0];
const CANDELA: Dims = [0, 0, 0, 0, 0, 1, 0, 0, 0];
const MOLE: Dims = [0, 0, 0, 0, 0, 0, 1, 0, 0];
const RADIAN: Dims = [0, 0, 0, 0, 0, 0, 0, 1, 0];
const IU: Dims = [0, 0, 0, 0, 0, 0, 0, 0, 1];
const NONE: Dims = [0; 9];
const VOLUME: Dims = [3, 0, 0, 0, 0, 0, 0, 0, 0];
const PASCAL: Dims = [-1, -2, 1, 0, 0, 0, 0, 0, 0];
const JOULE: Dims = [2, -2, 1, 0, 0, 0, 0, 0, 0];

/// Powers of the base units.
type Dims = [i8; 9];

/// A unit in base units: `num / den * 10^exp`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Unit {
    num: i128,
    den: i128,
    exp: i32,
    dims: Dims,
}

const ONE: Unit = Unit { num: 1, den: 1, exp: 0, dims: NONE };

/// (code, takes prefixes, numerator, denominator, power of ten, dimensions); values from the UCUM tables.
type Atom = (&'static str, bool, i128, i128, i32, Dims);
const ATOMS: &[Atom] = &[
    ("m", true, 1, 1, 0, METRE),
    ("s", true, 1, 1, 0, SECOND),
    ("g", true, 1, 1, 0, GRAM),
    ("K", true, 1, 1, 0, KELVIN),
    ("C", true, 1, 1, 0, COULOMB),
    ("cd", true, 1, 1, 0, CANDELA),
    ("mol", true, 1, 1, 0, MOLE),
    ("rad", true, 1, 1, 0, RADIAN),
    ("[iU]", true, 1, 1, 0, IU),
    ("[IU]", true, 1, 1, 0, IU),
    ("10*", false, 1, 1, 1, NONE),
    ("10^", false, 1, 1, 1, NONE),
    ("%", false, 1, 1, -2, NONE),
    ("[ppth]", false, 1, 1, -3, NONE),
    ("[ppm]", false, 1, 1, -6, NONE),
    ("[ppb]", false, 1, 1, -9, NONE),
    ("min", false, 60, 1, 0, SECOND),
    ("h", false, 3_600, 1, 0, SECOND),
    ("d", false, 86_400, 1, 0, SECOND),
    ("wk", false, 604_800, 1, 0, SECOND),
    ("mo", false, 2_629_800, 1, 0, SECOND),
    ("a", false, 31_557_600, 1, 0, SECOND),
    ("l", true, 1, 1, -3, VOLUME),
    ("L", true, 1, 1, -3, VOLUME),
    ("t", true, 1, 1, 6, GRAM),
    ("Hz", true, 1, 1, 0, [0, -1, 0, 0, 0, 0, 0, 0, 0]),
    ("N", true, 1, 1, 3, [1, -2, 1, 0, 0, 0, 0, 0, 0]),
    ("Pa", true, 1, 1, 3, PASCAL),
    ("bar", true, 1, 1, 8, PASCAL),
    ("atm", false, 101_325, 1, 3, PASCAL),
    ("m[Hg]", true, 133_322, 1, 3, PASCAL),
    ("m[H2O]", true, 980_665, 1, 1, PASCAL),
    ("J", true, 1, 1, 3, JOULE),
    ("W", true, 1, 1, 3, [2, -3, 1, 0, 0, 0, 0, 0, 0]),
    ("cal", true, 4_184, 1, 0, JOULE),
    ("[Cal]", false, 4_184, 1, 3, JOULE),
    ("A", true, 1, 1, 0, [0, -1, 0, 0, 1, 0, 0, 0, 0]),
    ("V", true, 1, 1, 3, [2, -2, 1, 0, -1, 0, 0, 0, 0]),
    ("eq", true, 1, 1, 0, MOLE),
    ("osm", true, 1, 1, 0, MOLE),
    ("kat", true, 1, 1, 0, [0, -1, 0, 0, 0, 0, 1, 0, 0]),
    ("U", true, 1, 60, -6, [0, -1, 0, 0, 0, 0, 1, 0, 0]),
    ("Gy", true, 1, 1, 0, [2, -2, 0, 0, 0, 0, 0, 0, 0]),
    ("Sv", true, 1, 1, 0, [2, -2, 0, 0, 0, 0, 0, 0, 0]),
    ("Bq", true, 1, 1, 0, [0, -1, 0, 0, 0, 0, 0, 0, 0]),
    ("[in_i]", false, 254, 1, -4, METRE),
    ("[ft_i]", false, 3_048, 1, -4, METRE),
    ("[yd_i]", false, 9_144, 1, -4, METRE),
    ("[mi_i]", false, 1_609_344, 1, -3, METRE),
    ("[lb_av]", false, 45_359_237, 1, -5, GRAM),
    ("[oz_av]", false, 28_349_523_125, 1, -9, GRAM),
    ("[gr]", false, 6_479_891, 1, -8, GRAM),
    ("[gal_us]", false, 3_785_411_784, 1, -12, VOLUME),
    ("[qt_us]", false, 946_352_946, 1, -12, VOLUME),
    ("[pt_us]", false, 473_176_473, 1, -12, VOLUME),
    ("[cup_us]", false, 2_365_882_365, 1, -13, VOLUME),
    ("[foz_us]", false, 295_735_295_625, 1, -16, VOLUME),
    ("[tbs_us]", false, 1_478_676_478_125, 1, -17, VOLUME),
    ("[tsp_us]", false, 492_892_159_375, 1, -17, VOLUME),
];

const PREFIXES: &[(&str, i32)] = &[
    ("da", 1),
    ("Y", 24),
    ("Z", 21),
    ("E", 18),
    ("P", 15),
    ("T", 12),
    ("G", 9),
    ("M", 6),
    ("k", 3),
    ("h", 2),
    ("d", -1),
    ("c", -2),
    ("m", -3),
    ("u", -6),
    ("n", -9),
    ("p", -12),
    ("f", -15),
    ("a", -18),
];

impl Unit {
    fn times(self, other: Unit, sign: i8) -> Option<Unit> {
        let (num, den) = if sign < 0 { (other.den, other.num) } else { (other.num, other.den) };
        let mut dims = self.dims;
        for (d, o) in dims.iter_mut().zip(other.dims) {
            *d = d.checked_add(o.checked_mul(sign)?)?;
        }
        let exp = self.exp.checked_add(other.exp * i32::from(sign))?;
        Some(Unit { num: self.num.checked_mul(num)?, den: self.den.checked_mul(den)?, exp, dims })
    }

    fn power(self, exponent: i8) -> Option<Unit> {
        (0..exponent.unsigned_abs()).try_fold(ONE, |unit, _| unit.times(self, exponent.signum()))
    }

    fn atom(code: &str) -> Option<Unit> {
        let of = |a: &Atom, exp: i32| Unit { num: a.2, den: a.3, exp: a.4 + exp, dims: a.5 };
        if let Some(atom) = ATOMS.iter().find(|a| a.0 == code) {
            return Some(of(atom, 0));
        }
        PREFIXES.iter().find_map(|(prefix, exp)| {
            let rest = code.strip_prefix(prefix)?;
            ATOMS.iter().find(|a| a.1 && a.0 == rest).map(|a| of(a, *exp))
        })
    }

    /// A unit term: `mg/dL`, `10*3/uL`, `m.s-2`, `/min`, `{beats}/min`.
    fn parse(text: &str) -> Option<Unit> {
        const TERM_BYTES_MAX: usize = 64;
        if text.is_empty() || text.len() > TERM_BYTES_MAX || text.contains(['(', ')']) {
            return None;
        }
        let (mut unit, mut rest, mut sign) = (ONE, text, 1);
        if let Some(after) = rest.strip_prefix('/') {
            (rest, sign) = (after, -1);
        }
        loop {
            let end = component_end(rest)?;
            unit = unit.times(Unit::component(&rest[..end])?, sign)?;
            match rest.as_bytes().get(end) {
                None => return Some(unit),
                Some(b'/') => sign = -1,
                Some(_) => sign = 1,
            }
            rest = &rest[end + 1..];
        }
    }

    /// An atom with its exponent, a number, or an annotation.
    fn component(text: &str) -> Option<Unit> {
        let text = match text.find('{') {
            Some(0) => return Some(ONE),
            Some(at) => &text[..at],
            None => text,
        };
        if let Ok(number) = text.parse::<u32>() {
            return (number > 0).then_some(Unit { num: i128::from(number), ..ONE });
        }
        if let Some(unit) = Unit::atom(text) {
            return Some(unit);
        }
        let digits = text.bytes().rev().take_while(u8::is_ascii_digit).count();
        let at = text.len() - digits;
        let at = if at > 0 && matches!(text.as_bytes()[at - 1], b'-' | b'+') { at - 1 } else { at };
        let exponent: i8 = text[at..].parse().ok()?;
        Unit::atom(&text[..at])?.power(exponent)
    }

    /// This unit's base units, as UCUM.
    fn base_text(self) -> String {
        let parts: Vec<String> = BASES
            .iter()
            .zip(self.dims)
            .filter(|(_, d)| *d != 0)
            .map(|(base, d)| if d == 1 { (*base).to_owned() } else { format!("{base}{d}") })
            .collect();
        if parts.is_empty() { "1".to_owned() } else { parts.join(".") }
    }

    /// `value` of this unit in base units.
    fn to_base(self, value: Decimal) -> Option<Decimal> {
        scale(value.checked_mul(Decimal::new(self.num, 0)?)?, self.exp)?.checked_div(Decimal::new(self.den, 0)?)
    }
}

/// `value * 10^exp`, exactly.
fn scale(value: Decimal, exp: i32) -> Option<Decimal> {
    let wanted = i64::from(value.scale()) - i64::from(exp);
    if wanted >= 0 {
        return Decimal::new(value.mantissa(), u32::try_from(wanted).ok()?);
    }
    let factor = 10i128.checked_pow(u32::try_from(-wanted).ok()?)?;
    Decimal::new(value.mantissa().checked_mul(factor)?, 0)
}

/// Where the component at the start of `text` ends: at a dot or slash outside brackets and braces.
fn component_end(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth -= 1,
            b'.' | b'/' if depth == 0 => return (at > 0).then_some(at),
            _ => {}
        }
    }
    (!text.is_empty() && depth == 0).then_some(text.len())
}

impl<'a> Quantity<'a> {
    pub fn new(value: Decimal, unit: impl Into<Cow<'a, str>>) -> Self {
        Quantity { value, unit: unit.into(), calendar: false }
    }

    /// The calendar duration this is: a word, or a quoted word as some writers have it.
    pub fn calendar_unit(&self) -> Option<CalendarUnit> {
        calendar_unit(&self.unit)
    }

    /// Value and unit in which years and months are months, and other calendar words are UCUM.
    fn definite(&self) -> (Decimal, Cow<'_, str>) {
        match self.calendar_unit() {
            Some(CalendarUnit::Year) => {
                (self.value.checked_mul(Decimal::from(12)).unwrap_or(self.value), Cow::Borrowed("calendar month"))
            }
            Some(CalendarUnit::Month) => (self.value, Cow::Borrowed("calendar month")),
            Some(other) => (self.value, Cow::Borrowed(other.ucum().unwrap_or("s"))),
            None => (self.value, Cow::Borrowed(self.unit.as_ref())),
        }
    }

    /// Both values in one unit, the larger of the two; `None` when the units cannot be converted.
    fn common(&self, other: &Quantity<'_>) -> Option<(Decimal, Decimal)> {
        let ((a, a_unit), (b, b_unit)) = (self.definite(), other.definite());
        if a_unit == b_unit {
            return Some((a, b));
        }
        let (ua, ub) = (Unit::parse(&a_unit)?, Unit::parse(&b_unit)?);
        if ua.dims != ub.dims {
            return None;
        }
        let one = |u: Unit| u.to_base(Decimal::ONE);
        if one(ua)?.compare(one(ub)?) == Ordering::Less {
            Some((convert(a, ua, ub)?, b))
        } else {
            Some((a, convert(b, ub, ua)?))
        }
    }

    /// Whether the units measure the same thing, so that values can be compared.
    pub fn comparable(&self, other: &Quantity<'_>) -> bool {
        self.common(other).is_some()
    }

    /// Order; `None` when the units cannot be converted into each other.
    pub fn compare(&self, other: &Quantity<'_>) -> Option<Ordering> {
        self.common(other).map(|(a, b)| a.compare(b))
    }

    /// Equality to the precision of the less precise one (FHIRPath §6.1.2).
    pub fn equivalent(&self, other: &Quantity<'_>) -> bool {
        let month = |q: &Quantity<'_>| match (q.unit.as_ref(), q.calendar_unit()) {
            ("a", _) => Quantity { value: q.value, unit: Cow::Borrowed("year"), calendar: true },
            ("mo", _) => Quantity { value: q.value, unit: Cow::Borrowed("month"), calendar: true },
            _ => Quantity { value: q.value, unit: Cow::Owned(q.unit.to_string()), calendar: q.calendar },
        };
        month(self).common(&month(other)).is_some_and(|(a, b)| decimals_equivalent(a, b))
    }

    /// The sum in this unit.
    pub fn add(&self, other: &Quantity<'_>) -> Option<Quantity<'a>> {
        let value = if self.unit == other.unit {
            other.value
        } else {
            let (a, b) = (self.definite(), other.definite());
            match (self.calendar_unit(), a.1 == b.1) {
                (Some(CalendarUnit::Year), true) => b.0.checked_div(Decimal::from(12))?,
                (_, true) => b.0,
                _ => {
                    let (ua, ub) = (Unit::parse(&a.1)?, Unit::parse(&b.1)?);
                    (ua.dims == ub.dims).then(|| convert(b.0, ub, ua))??
                }
            }
        };
        Some(Quantity { value: self.value.checked_add(value)?, unit: self.unit.clone(), calendar: self.calendar })
    }

    pub fn neg(&self) -> Quantity<'a> {
        Quantity { value: self.value.negated(), unit: self.unit.clone(), calendar: self.calendar }
    }

    /// Product (or quotient) in base units, or in the unit of the one that has one.
    pub fn multiply(&self, other: &Quantity<'a>, divide: bool) -> Option<Quantity<'a>> {
        let compute = |a: Decimal, b: Decimal| if divide { a.checked_div(b) } else { a.checked_mul(b) };
        if other.unit == "1" {
            return Some(Quantity { value: compute(self.value, other.value)?, ..self.clone() });
        }
        if divide && self.unit == other.unit {
            return Some(Quantity::new(compute(self.value, other.value)?, "1"));
        }
        if !divide && self.unit == "1" {
            return Some(Quantity { value: compute(self.value, other.value)?, ..other.clone() });
        }
        let ((a, a_unit), (b, b_unit)) = (self.definite(), other.definite());
        let (ua, ub) = (Unit::parse(&a_unit)?, Unit::parse(&b_unit)?);
        let unit = ua.times(ub, if divide { -1 } else { 1 })?;
        Some(Quantity::new(unit.to_base(compute(a, b)?)?, unit.base_text()))
    }
}

/// `value` of one unit in the other.
fn convert(value: Decimal, from: Unit, to: Unit) -> Option<Decimal> {
    let num = from.num.checked_mul(to.den)?;
    let den = from.den.checked_mul(to.num)?;
    scale(value.checked_mul(Decimal::new(num, 0)?)?.checked_div(Decimal::new(den, 0)?)?, from.exp - to.exp)
        .map(Decimal::normal)
}

/// Equality after rounding to the digits of the less precise one; trailing zeros do not count as digits.
pub fn decimals_equivalent(a: Decimal, b: Decimal) -> bool {
    let (a, b) = (a.normal(), b.normal());
    let scale = a.scale().min(b.scale());
    matches!((a.round(scale), b.round(scale)), (Some(a), Some(b)) if a.compare(b) == Ordering::Equal)
}

/// `value unit`: calendar words bare, UCUM in quotes (FHIRPath `toString()`).
impl std::fmt::Display for Quantity<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.calendar {
            write!(f, "{} {}", self.value, self.unit)
        } else {
            write!(f, "{} '{}'", self.value, self.unit)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn q(value: &str, unit: &'static str) -> Quantity<'static> {
        Quantity::new(Decimal::parse(value).expect("a decimal"), unit)
    }

    #[test]
    fn units_convert_exactly_or_not_at_all() {
        use Ordering::*;
        for (a, b, order) in [
            (q("4.0000", "g"), q("4000.0", "mg"), Some(Equal)),
            (q("1", "[lb_av]"), q("453.59237", "g"), Some(Equal)),
            (q("7", "days"), q("1", "wk"), Some(Equal)),
            (q("12", "months"), q("1", "year"), Some(Equal)),
            (q("1", "month"), q("1", "mo"), None),
            (q("120", "mm[Hg]"), q("16", "kPa"), Some(Less)),
            (q("100", "mg/dL"), q("1", "g/L"), Some(Equal)),
            (q("5", "10*3/uL"), q("5", "10*9/L"), Some(Equal)),
            (q("60", "{beats}/min"), q("1", "Hz"), Some(Equal)),
            (q("1", "cm"), q("1", "s"), None),
            (q("37", "Cel"), q("98.6", "[degF]"), None),
            (q("37", "Cel"), q("38", "Cel"), Some(Less)),
        ] {
            assert_eq!(a.compare(&b), order, "{a} {b}");
        }
        assert!(q("4", "g").equivalent(&q("4040", "mg")));
        assert!(!q("4", "g").equivalent(&q("4600", "mg")));
        let area = q("2.0", "cm").multiply(&q("2.0", "m"), false).unwrap();
        assert_eq!(area.compare(&q("0.04", "m2")), Some(Equal));
        assert_eq!(q("1", "m").add(&q("50", "cm")).unwrap().value.to_string(), "1.5");
    }

    proptest! {
        #[test]
        fn any_unit_is_safe(a in "[a-zA-Z0-9./*^{}\\[\\]-]{0,20}", b in "[a-zA-Z0-9./]{0,8}") {
            let (x, y) = (Quantity::new(Decimal::ONE, a), Quantity::new(Decimal::ONE, b));
            let _ = (x.compare(&y), x.equivalent(&y), x.add(&y), x.multiply(&y, false), x.multiply(&y, true));
        }
    }
}
