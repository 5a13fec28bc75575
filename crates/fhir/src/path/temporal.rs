//! Dates, dateTimes and times as FHIR writes them: with a precision, perhaps with a zone (FHIRPath §4.1.5–4.1.7).
//! Comparison is precision-aware: what cannot be known is `None`. Never asks a clock.

use std::cmp::Ordering;
use std::fmt;

use base::time::{civil_from_days, days_from_civil, days_in_month, is_date};

const DAY_MS: i64 = 86_400_000;
/// A local time without a zone may lie this far from UTC on either side (UTC+14 … UTC-12).
const ZONE_EAST_MS: i64 = 14 * 3_600_000;
const ZONE_WEST_MS: i64 = 12 * 3_600_000;

/// How much of a date or time is there. Seconds and milliseconds compare as one precision (FHIRPath §6.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Precision {
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
    Millisecond,
}

impl Precision {
    fn rank(self) -> u8 {
        match self {
            Precision::Millisecond => Precision::Second as u8,
            other => other as u8,
        }
    }
}

/// A date or dateTime: fields below the precision hold their least value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DateTime {
    year: i32,
    month: u32,
    day: u32,
    ms_of_day: i64,
    precision: Precision,
    /// Minutes east of UTC, where a zone is written.
    zone_minutes: Option<i32>,
}

/// A time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Time {
    ms_of_day: i64,
    precision: Precision,
}

/// A cursor over ASCII digits and separators.
struct Scan<'a>(&'a [u8]);

impl Scan<'_> {
    fn digits(&mut self, n: usize) -> Option<u32> {
        let (head, tail) = self.0.split_at_checked(n)?;
        let value = head.iter().try_fold(0u32, |v, b| b.is_ascii_digit().then(|| v * 10 + u32::from(b - b'0')))?;
        self.0 = tail;
        Some(value)
    }

    fn eat(&mut self, byte: u8) -> bool {
        let hit = self.0.first() == Some(&byte);
        if hit {
            self.0 = &self.0[1..];
        }
        hit
    }

    fn fraction_ms(&mut self) -> Option<u32> {
        let n = self.0.iter().take_while(|b| b.is_ascii_digit()).count();
        if n == 0 || n > 9 {
            return None;
        }
        let (head, tail) = self.0.split_at(n);
        self.0 = tail;
        // Digits past milliseconds are cut: FHIRPath keeps three.
        Some(head.iter().chain(b"00").take(3).fold(0, |v, b| v * 10 + u32::from(b - b'0')))
    }

    /// `hh(:mm(:ss(.fff)?)?)?`
    fn time(&mut self) -> Option<(i64, Precision)> {
        let hour = self.digits(2).filter(|h| *h < 24)?;
        let mut ms = i64::from(hour) * 3_600_000;
        if !self.eat(b':') {
            return Some((ms, Precision::Hour));
        }
        ms += i64::from(self.digits(2).filter(|m| *m < 60)?) * 60_000;
        if !self.eat(b':') {
            return Some((ms, Precision::Minute));
        }
        // A leap second is kept as the last second of its minute.
        ms += i64::from(self.digits(2).filter(|s| *s <= 60)?.min(59)) * 1000;
        if !self.eat(b'.') {
            return Some((ms, Precision::Second));
        }
        ms += i64::from(self.fraction_ms()?);
        Some((ms, Precision::Millisecond))
    }

    fn zone(&mut self) -> Option<Option<i32>> {
        if self.eat(b'Z') {
            return Some(Some(0));
        }
        let sign = match self.0.first() {
            None => return Some(None),
            Some(b'+') => 1,
            Some(b'-') => -1,
            Some(_) => return None,
        };
        self.0 = &self.0[1..];
        let hours = self.digits(2).filter(|h| *h <= 14)?;
        if !self.eat(b':') {
            return None;
        }
        let minutes = self.digits(2).filter(|m| *m < 60)?;
        Some(Some(sign * (hours * 60 + minutes) as i32))
    }
}

impl Time {
    /// `hh(:mm(:ss(.fff)?)?)?`, without a zone.
    pub fn parse(text: &str) -> Option<Time> {
        let mut scan = Scan(text.as_bytes());
        let (ms_of_day, precision) = scan.time()?;
        scan.0.is_empty().then_some(Time { ms_of_day, precision })
    }

    pub fn precision(self) -> Precision {
        self.precision
    }

    /// Order, or `None` when the coarser one leaves it open.
    pub fn compare(self, other: Time) -> Option<Ordering> {
        compare_fields(&time_fields(self.ms_of_day), self.precision, &time_fields(other.ms_of_day), other.precision, 3)
    }

    /// The first (or last) moment this can mean, to milliseconds.
    pub fn boundary(self, high: bool) -> Time {
        let ms_of_day = self.ms_of_day + if high { span_ms(self.precision) - 1 } else { 0 };
        Time { ms_of_day, precision: Precision::Millisecond }
    }

    pub fn with_precision(self, precision: Precision) -> Time {
        let unit = span_ms(precision);
        Time { ms_of_day: self.ms_of_day / unit * unit, precision }
    }

    /// Moved by milliseconds, around the clock.
    pub fn plus_ms(self, ms: i64) -> Option<Time> {
        Some(Time { ms_of_day: self.ms_of_day.checked_add(ms)?.rem_euclid(DAY_MS), ..self })
    }
}

/// Length in milliseconds of the finest field of a time precision.
fn span_ms(precision: Precision) -> i64 {
    match precision {
        Precision::Year | Precision::Month | Precision::Day => DAY_MS,
        Precision::Hour => 3_600_000,
        Precision::Minute => 60_000,
        Precision::Second => 1000,
        Precision::Millisecond => 1,
    }
}

/// Hour, minute, second with milliseconds.
fn time_fields(ms: i64) -> [i64; 3] {
    [ms / 3_600_000, ms / 60_000 % 60, ms % 60_000]
}

/// Field by field; `first` is the rank of the first field.
fn compare_fields(a: &[i64], pa: Precision, b: &[i64], pb: Precision, first: u8) -> Option<Ordering> {
    let common = usize::from(pa.rank().min(pb.rank()) + 1 - first);
    let order = a.iter().take(common).cmp(b.iter().take(common));
    (order != Ordering::Equal || pa.rank() == pb.rank()).then_some(order)
}

impl DateTime {
    /// `YYYY(-MM(-DD(Thh(:mm(:ss(.fff)?)?)?zone?)?)?)?`; a bare `T` may follow a partial date, as in literals.
    pub fn parse(text: &str) -> Option<DateTime> {
        let mut scan = Scan(text.as_bytes());
        let year = scan.digits(4)? as i32;
        let (mut month, mut day, mut precision) = (1, 1, Precision::Year);
        if scan.eat(b'-') {
            month = scan.digits(2).filter(|m| (1..=12).contains(m))?;
            precision = Precision::Month;
            if scan.eat(b'-') {
                day = scan.digits(2).filter(|d| is_date(year, month, *d))?;
                precision = Precision::Day;
            }
        }
        let (mut ms_of_day, mut zone_minutes) = (0, None);
        if scan.eat(b'T') && !scan.0.is_empty() {
            if precision != Precision::Day {
                return None;
            }
            (ms_of_day, precision) = scan.time()?;
            zone_minutes = scan.zone()?;
        }
        scan.0.is_empty().then_some(DateTime { year, month, day, ms_of_day, precision, zone_minutes })
    }

    /// A date alone: no time, no `T`.
    pub fn parse_date(text: &str) -> Option<DateTime> {
        if text.len() > 10 || text.contains('T') { None } else { DateTime::parse(text) }
    }

    /// A moment in UTC, to milliseconds.
    pub fn from_utc_ms(ms: i64) -> DateTime {
        let (year, month, day) = civil_from_days(ms.div_euclid(DAY_MS));
        let ms_of_day = ms.rem_euclid(DAY_MS);
        DateTime { year, month, day, ms_of_day, precision: Precision::Millisecond, zone_minutes: Some(0) }
    }

    pub fn precision(self) -> Precision {
        self.precision
    }

    pub fn date(self) -> DateTime {
        let precision = self.precision.min(Precision::Day);
        DateTime { ms_of_day: 0, zone_minutes: None, precision, ..self }
    }

    pub fn time(self) -> Time {
        Time { ms_of_day: self.ms_of_day, precision: self.precision.max(Precision::Hour) }
    }

    fn local_ms(self) -> i64 {
        days_from_civil(self.year, self.month, self.day) * DAY_MS + self.ms_of_day
    }

    fn fields(self) -> [i64; 6] {
        let [h, m, s] = time_fields(self.ms_of_day);
        [i64::from(self.year), i64::from(self.month), i64::from(self.day), h, m, s]
    }

    /// The same moment on UTC's clock.
    fn utc(self) -> DateTime {
        let Some(zone) = self.zone_minutes else { return self };
        let moved = DateTime::from_utc_ms(self.local_ms() - i64::from(zone) * 60_000);
        DateTime { precision: self.precision, ..moved }
    }

    /// The least and greatest millisecond since 1970 that this can mean.
    pub fn range_ms(self) -> (i64, i64) {
        let (low, high) = (self.local_ms(), self.filled(true).local_ms());
        match self.zone_minutes {
            Some(zone) => (low - i64::from(zone) * 60_000, high - i64::from(zone) * 60_000),
            None => (low - ZONE_EAST_MS, high + ZONE_WEST_MS),
        }
    }

    /// Order (FHIRPath §6.2): field by field down to the coarser precision; `None` where precision or a missing
    /// zone leaves it open.
    pub fn compare(self, other: DateTime) -> Option<Ordering> {
        if self.zone_minutes.is_some() != other.zone_minutes.is_some() {
            let ((a_low, a_high), (b_low, b_high)) = (self.range_ms(), other.range_ms());
            return match () {
                () if a_high < b_low => Some(Ordering::Less),
                () if a_low > b_high => Some(Ordering::Greater),
                () => None,
            };
        }
        let (a, b) = (self.utc(), other.utc());
        compare_fields(&a.fields(), a.precision, &b.fields(), b.precision, 0)
    }

    fn filled(self, high: bool) -> DateTime {
        let month = if high && self.precision < Precision::Month { 12 } else { self.month };
        let last = days_in_month(self.year, month);
        let day = if high && self.precision < Precision::Day { last } else { self.day };
        let ms_of_day = self.ms_of_day + if high { span_ms(self.precision) - 1 } else { 0 };
        DateTime { month, day, ms_of_day, precision: Precision::Millisecond, ..self }
    }

    /// The first (or last) moment this can mean, to milliseconds; without a zone, the easternmost (westernmost).
    pub fn boundary(self, high: bool) -> DateTime {
        let zone = self.zone_minutes.unwrap_or(if high { -12 * 60 } else { 14 * 60 });
        DateTime { zone_minutes: Some(zone), ..self.filled(high) }
    }

    /// The first (or last) day this date can mean.
    pub fn date_boundary(self, high: bool) -> DateTime {
        self.filled(high).date()
    }

    /// Cut to a coarser precision.
    pub fn with_precision(self, precision: Precision) -> DateTime {
        let keep = |p: Precision| precision >= p;
        let unit = span_ms(precision);
        DateTime {
            month: if keep(Precision::Month) { self.month } else { 1 },
            day: if keep(Precision::Day) { self.day } else { 1 },
            ms_of_day: self.ms_of_day / unit * unit,
            zone_minutes: self.zone_minutes.filter(|_| keep(Precision::Hour)),
            precision,
            ..self
        }
    }

    /// Moved by calendar months; a day that the month lacks becomes its last (FHIRPath §6.7).
    pub fn plus_months(self, months: i64) -> Option<DateTime> {
        let total = (i64::from(self.year) * 12 + i64::from(self.month) - 1).checked_add(months)?;
        let year = i32::try_from(total.div_euclid(12)).ok().filter(|y| (0..=9999).contains(y))?;
        let month = total.rem_euclid(12) as u32 + 1;
        let day = self.day.min(days_in_month(year, month));
        Some(DateTime { year, month, day, ..self })
    }

    /// Moved by milliseconds; what is finer than the precision is dropped from the amount first.
    pub fn plus_ms(self, ms: i64) -> Option<DateTime> {
        let unit = span_ms(self.precision.max(Precision::Day));
        let unit = if self.precision == Precision::Second { 1 } else { unit };
        let moved = self.local_ms().checked_add(ms / unit * unit)?;
        let (year, month, day) = civil_from_days(moved.div_euclid(DAY_MS));
        let ms_of_day = moved.rem_euclid(DAY_MS);
        let precision = if self.precision == Precision::Second && ms_of_day % 1000 != 0 {
            Precision::Millisecond
        } else {
            self.precision
        };
        (0..=9999).contains(&year).then_some(DateTime { year, month, day, ms_of_day, precision, ..self })
    }

    /// Digits of the value as written (FHIRPath `precision()`): 4, 6, 8, 10, 12, 14, 17.
    pub fn digits(self) -> i64 {
        [4, 6, 8, 10, 12, 14, 17][self.precision as usize]
    }
}

impl Time {
    /// Digits of the value as written: 2, 4, 6, 9.
    pub fn digits(self) -> i64 {
        [2, 2, 2, 2, 4, 6, 9][self.precision as usize]
    }

    /// The precision that has this many digits.
    pub fn precision_of(digits: i64) -> Option<Precision> {
        [(2, Precision::Hour), (4, Precision::Minute), (6, Precision::Second), (9, Precision::Millisecond)]
            .into_iter()
            .find_map(|(n, p)| (n == digits).then_some(p))
    }
}

/// The precision of a date or dateTime that has this many digits.
pub fn precision_of(digits: i64) -> Option<Precision> {
    use Precision::*;
    [(4, Year), (6, Month), (8, Day), (10, Hour), (12, Minute), (14, Second), (17, Millisecond)]
        .into_iter()
        .find_map(|(n, p)| (n == digits).then_some(p))
}

fn write_time(f: &mut fmt::Formatter<'_>, ms: i64, precision: Precision) -> fmt::Result {
    write!(f, "{:02}", ms / 3_600_000)?;
    if precision >= Precision::Minute {
        write!(f, ":{:02}", ms / 60_000 % 60)?;
    }
    if precision >= Precision::Second {
        write!(f, ":{:02}", ms / 1000 % 60)?;
    }
    if precision >= Precision::Millisecond {
        write!(f, ".{:03}", ms % 1000)?;
    }
    Ok(())
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_time(f, self.ms_of_day, self.precision)
    }
}

impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}", self.year)?;
        if self.precision >= Precision::Month {
            write!(f, "-{:02}", self.month)?;
        }
        if self.precision >= Precision::Day {
            write!(f, "-{:02}", self.day)?;
        }
        if self.precision >= Precision::Hour {
            f.write_str("T")?;
            write_time(f, self.ms_of_day, self.precision)?;
        }
        match self.zone_minutes {
            None => Ok(()),
            Some(0) => f.write_str("Z"),
            Some(z) => write!(f, "{}{:02}:{:02}", if z < 0 { '-' } else { '+' }, z.abs() / 60, z.abs() % 60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> DateTime {
        DateTime::parse(text).expect("a dateTime")
    }

    #[test]
    fn writes_what_it_read() {
        for text in [
            "2015",
            "2015-02",
            "2015-02-28",
            "2015-02-04T14",
            "2015-02-04T14:34",
            "2015-02-04T14:34:28",
            "2015-02-04T14:34:28.123",
            "2015-02-04T14:34:28Z",
            "2015-02-04T14:34:28.120-05:30",
        ] {
            assert_eq!(at(text).to_string(), text);
        }
        for bad in [
            "",
            "15",
            "2015-13",
            "2015-02-30",
            "2015-02T10",
            "2015-02-04T25",
            "2015-02-04 10:00",
            "2015-",
            "2015-02-04T14:34:28.",
        ] {
            assert_eq!(DateTime::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn order_knows_what_it_cannot_know() {
        use Ordering::*;
        for (a, b, order) in [
            ("2012-04-15", "2012-04-15T10:00:00", None),
            ("2012-04-15T15:00:00Z", "2012-04-15T10:00:00", None),
            ("2012-04-15T15:00:00+02:00", "2012-04-15T16:00:00+03:00", Some(Equal)),
            ("2018-03-01T10:30:00", "2018-03-01T10:30:00.0", Some(Equal)),
            ("1974-12-25", "2020-01-01T00:00:00Z", Some(Less)),
            ("2018-03", "2018-04-01", Some(Less)),
        ] {
            assert_eq!(at(a).compare(at(b)), order, "{a} {b}");
        }
    }

    #[test]
    fn moves_by_the_calendar() {
        assert_eq!(at("2016-02-29").plus_months(12).unwrap().to_string(), "2017-02-28");
        assert_eq!(at("1973-12-25").plus_ms(7 * DAY_MS + 1).unwrap().to_string(), "1974-01-01");
        assert_eq!(at("1970-06").date_boundary(true).to_string(), "1970-06-30");
        assert_eq!(at("2010-10-10").boundary(true).to_string(), "2010-10-10T23:59:59.999-12:00");
    }

    proptest! {
        #[test]
        fn any_text_is_safe(text in "[0-9T:.Z+-]{0,30}") {
            if let Some(d) = DateTime::parse(&text) {
                let _ = (d.range_ms(), d.boundary(true), d.plus_months(i64::MAX), d.plus_ms(i64::MIN), d.compare(d));
                prop_assert_eq!(DateTime::parse(&d.to_string()), Some(d));
            }
            if let Some(t) = Time::parse(&text) { let _ = (t.boundary(true), t.plus_ms(i64::MAX), t.compare(t)); }
        }
    }
}
