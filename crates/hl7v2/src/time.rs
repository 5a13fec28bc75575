//! Dates and times of HL7 v2 (DT, TM, DTM, TS; v2.8.2 §2.A.21–22, §2.A.75) with the precision and offset they were
//! sent with, and as FHIR text. Nothing is made up: what is not precise stays so.

use base::Timestamp;
use base::time::{days_from_civil, is_date};

/// Why a date or time could not be read. Holds no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    #[error("not a date or time: send YYYYMMDDHHMMSS.SSSS+ZZZZ or a shorter form of it")]
    Shape,
    #[error("a date that does not exist")]
    NoSuchDate,
    #[error("a time of day that does not exist")]
    NoSuchTime,
    #[error("an offset from UTC that does not exist: send +HHMM or -HHMM up to 14 hours")]
    NoSuchOffset,
}

/// How exact a time is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precision {
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
    Fraction,
}

/// Minutes east of UTC, within ±14 hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offset(i16);

impl Offset {
    pub const UTC: Offset = Offset(0);

    pub fn from_minutes(minutes: i16) -> Option<Offset> {
        (-840..=840).contains(&minutes).then_some(Offset(minutes))
    }

    pub fn minutes(self) -> i16 {
        self.0
    }

    /// `+0200` or `-0530`, as HL7 v2 writes it; `+02:00` and `Z` are read too.
    pub fn parse(text: &str) -> Result<Offset, TimeError> {
        if text == "Z" {
            return Ok(Offset::UTC);
        }
        let bad = TimeError::NoSuchOffset;
        let (sign, digits) = match text.as_bytes().first() {
            Some(b'+') => (1, &text[1..]),
            Some(b'-') => (-1, &text[1..]),
            _ => return Err(bad),
        };
        let digits = digits.replace(':', "");
        if digits.len() != 4 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad);
        }
        let number: i16 = digits.parse().map_err(|_| bad)?;
        let (hours, minutes) = (number / 100, number % 100);
        if minutes > 59 {
            return Err(bad);
        }
        Offset::from_minutes(sign * (hours * 60 + minutes)).ok_or(bad)
    }

    fn fhir(self) -> String {
        let sign = if self.0 < 0 { '-' } else { '+' };
        let minutes = self.0.unsigned_abs();
        format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }
}

/// A point in time as sent. Parts below the precision are their least value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DateTime {
    pub year: i32,
    pub month: u32,
    pub day: u32,
    pub hour: u32,
    pub minute: u32,
    pub second: u32,
    /// Ten-thousandths of a second.
    pub fraction: u32,
    /// Digits of the fraction that were sent, 0 to 4.
    pub fraction_digits: u8,
    pub precision: Precision,
    pub offset: Option<Offset>,
}

impl std::fmt::Debug for DateTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DateTime(to the {:?})", self.precision)
    }
}

/// Two digits at `at`.
fn two(bytes: &[u8], at: usize) -> u32 {
    u32::from(bytes[at] - b'0') * 10 + u32::from(bytes[at + 1] - b'0')
}

/// Cuts `…+ZZZZ` and `….SSSS` off: (digits, fraction digits, offset).
fn pieces(text: &str) -> Result<(&str, &str, Option<Offset>), TimeError> {
    let (local, offset) = match text.find(['+', '-']) {
        Some(at) => (&text[..at], Some(Offset::parse(&text[at..])?)),
        None => (text, None),
    };
    let (digits, fraction) = local.split_once('.').unwrap_or((local, ""));
    let all_digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    let bare_dot = local.ends_with('.');
    if !all_digits(digits) || !all_digits(fraction) || fraction.len() > 9 || bare_dot {
        return Err(TimeError::Shape);
    }
    Ok((digits, fraction, offset))
}

/// (hour, minute, second), each where sent, from two to six digits.
fn time_of_day(digits: &[u8]) -> Result<(u32, u32, u32), TimeError> {
    let part = |n: usize| if digits.len() >= 2 * n + 2 { two(digits, 2 * n) } else { 0 };
    let (hour, minute, second) = (part(0), part(1), part(2));
    // 60 is a leap second; FHIR allows it too.
    if hour > 23 || minute > 59 || second > 60 {
        return Err(TimeError::NoSuchTime);
    }
    Ok((hour, minute, second))
}

impl DateTime {
    /// `YYYY[MM[DD[HH[MM[SS[.S[S[S[S]]]]]]]]][+/-ZZZZ]`.
    pub fn parse(text: &str) -> Result<DateTime, TimeError> {
        let (digits, fraction, offset) = pieces(text.trim())?;
        let bytes = digits.as_bytes();
        let precision = match bytes.len() {
            4 => Precision::Year,
            6 => Precision::Month,
            8 => Precision::Day,
            10 => Precision::Hour,
            12 => Precision::Minute,
            14 if fraction.is_empty() => Precision::Second,
            14 => Precision::Fraction,
            _ => return Err(TimeError::Shape),
        };
        if !fraction.is_empty() && precision != Precision::Fraction {
            return Err(TimeError::Shape);
        }
        let year = (two(bytes, 0) * 100 + two(bytes, 2)) as i32;
        let month = if bytes.len() >= 6 { two(bytes, 4) } else { 1 };
        let day = if bytes.len() >= 8 { two(bytes, 6) } else { 1 };
        if year == 0 || !is_date(year, month, day) {
            return Err(TimeError::NoSuchDate);
        }
        let (hour, minute, second) = time_of_day(bytes.get(8..).unwrap_or_default())?;
        // Senders write more digits than the four that are allowed; the rest is below our grain.
        let kept = &fraction[..fraction.len().min(4)];
        let fraction: u32 = format!("{kept:0<4}").parse().unwrap_or(0);
        let fraction_digits = kept.len() as u8;
        Ok(DateTime { year, month, day, hour, minute, second, fraction, fraction_digits, precision, offset })
    }

    /// FHIR `date`: `2021`, `2021-01` or `2021-01-15`; a time of day is left out.
    pub fn to_date(&self) -> String {
        match self.precision {
            Precision::Year => format!("{:04}", self.year),
            Precision::Month => format!("{:04}-{:02}", self.year, self.month),
            _ => format!("{:04}-{:02}-{:02}", self.year, self.month, self.day),
        }
    }

    /// FHIR `dateTime` (R4 §2.24.0.1): a time of day needs an offset, its own or else `default`; without either only
    /// the date is said. Seconds that were not sent are zero, as FHIR asks; so are minutes of a bare hour.
    pub fn to_date_time(&self, default: Option<Offset>) -> String {
        let Some(offset) = self.offset.or(default).filter(|_| self.precision >= Precision::Hour) else {
            return self.to_date();
        };
        format!("{}T{}{}", self.to_date(), self.clock_text(), offset.fhir())
    }

    /// FHIR `instant`, which needs at least seconds and an offset.
    pub fn to_instant(&self, default: Option<Offset>) -> Option<String> {
        (self.precision >= Precision::Second && self.offset.or(default).is_some()).then(|| self.to_date_time(default))
    }

    fn clock_text(&self) -> String {
        let mut text = format!("{:02}:{:02}:{:02}", self.hour, self.minute, self.second);
        if self.fraction_digits > 0 {
            let digits = format!("{:04}", self.fraction);
            text.push('.');
            text.push_str(&digits[..usize::from(self.fraction_digits)]);
        }
        text
    }

    /// The earliest moment this can mean, for comparing; without any offset, read as UTC.
    pub fn earliest(&self, default: Option<Offset>) -> Timestamp {
        let days = days_from_civil(self.year, self.month, self.day);
        let offset = self.offset.or(default).unwrap_or(Offset::UTC);
        let seconds = i64::from(self.hour * 3600 + self.minute * 60 + self.second) - i64::from(offset.0) * 60;
        Timestamp((days * 86_400 + seconds) * 1000 + i64::from(self.fraction / 10))
    }
}

/// TM, `HH[MM[SS[.SSSS]]][+/-ZZZZ]`, as FHIR `time`, which has no offset: one that was sent is given back beside it.
pub fn time_to_fhir(text: &str) -> Result<(String, Option<Offset>), TimeError> {
    let (digits, fraction, offset) = pieces(text.trim())?;
    if !matches!(digits.len(), 2 | 4 | 6) || (!fraction.is_empty() && digits.len() != 6) {
        return Err(TimeError::Shape);
    }
    let (hour, minute, second) = time_of_day(digits.as_bytes())?;
    let mut time = format!("{hour:02}:{minute:02}:{second:02}");
    if !fraction.is_empty() {
        time.push('.');
        time.push_str(fraction);
    }
    Ok((time, offset))
}

/// A moment as HL7 v2 writes it, in UTC: `20261125013723.123+0000`.
pub fn format_utc(now: Timestamp) -> String {
    let (days, ms) = (now.0.div_euclid(86_400_000), now.0.rem_euclid(86_400_000));
    let (year, month, day) = base::time::civil_from_days(days);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}.{:03}+0000", ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_precision_as_fhir() {
        let plus2 = Offset::from_minutes(120);
        for (sent, date, date_time) in [
            ("1924", "1924", "1924"),
            ("192410", "1924-10", "1924-10"),
            ("19241011", "1924-10-11", "1924-10-11"),
            ("2021011516", "2021-01-15", "2021-01-15T16:00:00+02:00"),
            ("202101151620+0215", "2021-01-15", "2021-01-15T16:20:00+02:15"),
            ("202101151620", "2021-01-15", "2021-01-15T16:20:00+02:00"),
            ("20210817151943.4+0200", "2021-08-17", "2021-08-17T15:19:43.4+02:00"),
            ("20150624084727.655-0500", "2015-06-24", "2015-06-24T08:47:27.655-05:00"),
            ("20161231235960.0000+0000", "2016-12-31", "2016-12-31T23:59:60.0000+00:00"),
            ("20200229", "2020-02-29", "2020-02-29"),
        ] {
            let read = DateTime::parse(sent).unwrap();
            assert_eq!(read.to_date(), date, "{sent}");
            assert_eq!(read.to_date_time(plus2), date_time, "{sent}");
        }
        let local = DateTime::parse("20210115162030").unwrap();
        assert_eq!(local.to_date_time(None), "2021-01-15");
        assert_eq!(local.to_instant(None), None);
        assert_eq!(local.to_instant(Some(Offset::UTC)).unwrap(), "2021-01-15T16:20:30+00:00");
    }

    #[test]
    fn what_is_no_time_is_told() {
        for (sent, error) in [
            ("", TimeError::Shape),
            ("20", TimeError::Shape),
            ("2021-01-15", TimeError::NoSuchOffset),
            ("15/01/2021", TimeError::Shape),
            ("202101151", TimeError::Shape),
            ("2021.5", TimeError::Shape),
            ("20210115162030.", TimeError::Shape),
            ("20210230", TimeError::NoSuchDate),
            ("00000000", TimeError::NoSuchDate),
            ("20211301", TimeError::NoSuchDate),
            ("2021010124", TimeError::NoSuchTime),
            ("202101010060", TimeError::NoSuchTime),
            ("20210101000000+2400", TimeError::NoSuchOffset),
            ("20210101000000+1", TimeError::NoSuchOffset),
            ("２０２１", TimeError::Shape),
        ] {
            assert_eq!(DateTime::parse(sent).unwrap_err(), error, "{sent}");
        }
    }

    #[test]
    fn times_of_day_and_moments() {
        assert_eq!(time_to_fhir("0930").unwrap(), ("09:30:00".into(), None));
        assert_eq!(time_to_fhir("093015.25-0500").unwrap(), ("09:30:15.25".into(), Offset::from_minutes(-300)));
        assert!(time_to_fhir("9").is_err() && time_to_fhir("2460").is_err());
        let at = DateTime::parse("20210115162030.5+0200").unwrap();
        assert_eq!(at.earliest(None).to_string(), "2021-01-15T14:20:30.500Z");
        assert_eq!(format_utc(at.earliest(None)), "20210115142030.500+0000");
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "[0-9+.:Z-]{0,24}|.{0,12}") {
            let _ = DateTime::parse(&text);
            let _ = time_to_fhir(&text);
        }

        #[test]
        fn moments_round_trip(ms in 0i64..4_000_000_000_000) {
            let read = DateTime::parse(&format_utc(Timestamp(ms))).unwrap();
            prop_assert_eq!(read.earliest(None), Timestamp(ms));
        }
    }
}
