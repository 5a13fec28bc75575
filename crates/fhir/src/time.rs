//! FHIR's partial dates as ranges of time: the precision written is the width (R4 §2.24.0.1 date, dateTime, instant;
//! §3.1.1.4.7 for search). Text without a time zone is taken as UTC, so that a node answers alike wherever it stands.

use base::time::{days_from_civil, is_date};

pub const DAY_MS: i64 = 86_400_000;

/// How much of a date and time was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precision {
    Year,
    Month,
    Day,
    Minute,
    Second,
    Fraction,
}

/// A partial date: everything from `from_ms` up to, not including, `to_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    pub from_ms: i64,
    pub to_ms: i64,
    pub precision: Precision,
    pub zoned: bool,
}

impl Moment {
    pub fn is_date(&self) -> bool {
        self.precision <= Precision::Day
    }

    /// Whether this is a well formed dateTime: a time must have seconds and a zone.
    pub fn is_date_time(&self) -> bool {
        self.is_date() || self.is_instant()
    }

    pub fn is_instant(&self) -> bool {
        self.precision >= Precision::Second && self.zoned
    }
}

/// Reads `YYYY`, `YYYY-MM`, `YYYY-MM-DD` and those with a time: `Thh:mm`, `:ss`, `.fff`, `Z` or `+hh:mm`, the zone
/// being optional. `None` for a date that does not exist.
pub fn parse(text: &str) -> Option<Moment> {
    let (date, time) = match text.split_once('T') {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let year = i32::try_from(number(date.get(..4)?)?).ok().filter(|y| *y > 0)?;
    let rest = date.get(4..)?;
    let day_start = |y: i32, m: u32, d: u32| days_from_civil(y, m, d) * DAY_MS;
    let whole = |from_ms, to_ms, precision| Some(Moment { from_ms, to_ms, precision, zoned: false });
    if rest.is_empty() && time.is_none() {
        return whole(day_start(year, 1, 1), day_start(year + 1, 1, 1), Precision::Year);
    }
    let month = number(rest.strip_prefix('-')?.get(..2)?).filter(|m| (1..=12).contains(m))?;
    let rest = rest.get(3..)?;
    if rest.is_empty() && time.is_none() {
        let (next_year, next_month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
        return whole(day_start(year, month, 1), day_start(next_year, next_month, 1), Precision::Month);
    }
    let day = number(rest.strip_prefix('-')?).filter(|_| rest.len() == 3)?;
    if !is_date(year, month, day) {
        return None;
    }
    let from_ms = day_start(year, month, day);
    match time {
        None => whole(from_ms, from_ms + DAY_MS, Precision::Day),
        Some(time) => with_time(from_ms, time),
    }
}

fn with_time(day_ms: i64, text: &str) -> Option<Moment> {
    let zone_at = text.find(['Z', '+', '-']);
    let (clock, zone) = text.split_at(zone_at.unwrap_or(text.len()));
    let (offset_ms, clock) = (zone_offset_ms(zone)?, clock_of(clock)?);
    let from_ms = day_ms + clock.ms - offset_ms;
    Some(Moment { from_ms, to_ms: from_ms + clock.width_ms, precision: clock.precision, zoned: zone_at.is_some() })
}

struct Clock {
    ms: i64,
    width_ms: i64,
    precision: Precision,
}

/// `hh:mm`, `hh:mm:ss`, `hh:mm:ss.f…`; a leap second is allowed, as FHIR allows it.
fn clock_of(text: &str) -> Option<Clock> {
    let bytes = text.as_bytes();
    let hour = number(text.get(..2)?).filter(|h| *h < 24)?;
    let minute = number(text.get(3..5)?).filter(|m| *m < 60 && bytes[2] == b':')?;
    let ms = i64::from(hour * 60 + minute) * 60_000;
    let Some(seconds) = text.get(5..).filter(|s| !s.is_empty()) else {
        return Some(Clock { ms, width_ms: 60_000, precision: Precision::Minute });
    };
    let second = number(seconds.strip_prefix(':')?.get(..2)?).filter(|s| *s <= 60)?;
    let ms = ms + i64::from(second) * 1000;
    let Some(fraction) = seconds.get(3..).filter(|f| !f.is_empty()) else {
        return Some(Clock { ms, width_ms: 1000, precision: Precision::Second });
    };
    let digits = fraction.strip_prefix('.')?;
    number(digits.get(..digits.len().min(9))?).filter(|_| digits.bytes().all(|b| b.is_ascii_digit()))?;
    let kept = number(&digits[..digits.len().min(3)])?;
    let width_ms = [100, 10, 1][digits.len().min(3) - 1];
    Some(Clock { ms: ms + i64::from(kept) * width_ms, width_ms, precision: Precision::Fraction })
}

/// Whether the text is a FHIR `time`: `hh:mm:ss` with an optional fraction, no zone.
pub fn is_time(text: &str) -> bool {
    clock_of(text).is_some_and(|clock| clock.precision >= Precision::Second)
}

fn zone_offset_ms(zone: &str) -> Option<i64> {
    let sign = match zone.as_bytes().first() {
        None => return Some(0),
        Some(b'Z') => return (zone.len() == 1).then_some(0),
        Some(b'-') => -1,
        Some(_) => 1,
    };
    let (hour, minute) = zone[1..].split_once(':')?;
    let (hour, minute) = (number(hour).filter(|_| hour.len() == 2)?, number(minute).filter(|_| minute.len() == 2)?);
    let inside = (hour < 14 && minute < 60) || (hour == 14 && minute == 0);
    inside.then_some(sign * i64::from(hour * 60 + minute) * 60_000)
}

/// Up to nine digits, and nothing else.
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.len() <= 9 && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn precision_is_the_width() {
        for (text, from, width) in [
            ("1970", 0, 365 * DAY_MS),
            ("1970-12", 334 * DAY_MS, 31 * DAY_MS),
            ("2000-02", 10_988 * DAY_MS, 29 * DAY_MS),
            ("1970-01-02", DAY_MS, DAY_MS),
            ("1970-01-01T00:01", 60_000, 60_000),
            ("1970-01-01T00:01Z", 60_000, 60_000),
            ("1970-01-01T00:00:01Z", 1000, 1000),
            ("1970-01-01T00:00:01.5Z", 1500, 100),
            ("1970-01-01T00:00:01.5009999999999Z", 1500, 1),
            ("1970-01-01T02:00:00+02:00", 0, 1000),
            ("1969-12-31T19:00:00-05:00", 0, 1000),
        ] {
            let moment = parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(moment.to_ms - moment.from_ms, width, "{text}");
            assert_eq!(moment.from_ms, from, "{text}");
        }
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in [
            "",
            "0000",
            "70",
            "1970-",
            "1970-1",
            "1970-13",
            "1970-00",
            "1970-01-1",
            "1970-02-30",
            "1970-01-01T",
            "1970-01-01T1",
            "1970-01-01T24:00",
            "1970-01-01T10:60",
            "1970-01-01T10:00:61",
            "1970-01-01T10:00:00.",
            "1970-01-01T10:00:00+1",
            "1970-01-01T10:00:00+15:00",
            "1970-01-01T10:00:00ZZ",
            "1970T10:00",
            "1970-01T10:00",
            "١٩٧٠",
            "1970-01-01T10-00",
            " 1970",
            "1970 ",
            "+970",
        ] {
            assert!(parse(text).is_none(), "{text}");
        }
        assert!(is_time("10:00:00.5") && !is_time("10:00") && !is_time("10:00:00Z"));
        assert!(!parse("1970-01-01T10:00:00").unwrap().is_date_time());
        assert!(parse("1970-01-01T10:00:00Z").unwrap().is_instant());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[0-9T:.Z+\\-é]{0,30}|.{0,12}") {
            if let Some(moment) = parse(&text) {
                prop_assert!(moment.from_ms < moment.to_ms);
            }
            let _ = is_time(&text);
        }
    }
}
