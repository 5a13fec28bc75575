//! Conditional reads (R4 §3.1.0.2.1, RFC 9110 §13): what a client has already is not sent again. Decides no access.

use axum::http::{HeaderMap, header};
use base::Timestamp;
use fhir::json::Value;

/// What the client says it has.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Unless {
    tags: Option<Tags>,
    since: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Tags {
    /// `*`: whatever version there is.
    Any,
    Versions(Vec<u32>),
}

impl Unless {
    /// `If-None-Match` and `If-Modified-Since`. What does not read is passed over, and the resource is sent
    /// (RFC 9110 §13.1.3).
    pub fn of(headers: &HeaderMap) -> Unless {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let tags = text(header::IF_NONE_MATCH).map(tags);
        Unless { tags, since: text(header::IF_MODIFIED_SINCE).and_then(parse_http_date) }
    }

    /// `ifNoneMatch` and `ifModifiedSince` of an entry of a Bundle.
    pub fn of_entry(request: &Value) -> Unless {
        let text = |name| request.get(name).and_then(Value::as_str);
        let since = text("ifModifiedSince").and_then(fhir::time::parse).map(|moment| Timestamp(moment.from_ms));
        Unless { tags: text("ifNoneMatch").map(tags), since }
    }

    /// Whether the client has this version. Where it names versions, times do not count (RFC 9110 §13.1.3); times have
    /// the precision of `Last-Modified`, a second.
    pub fn knows(&self, version: u32, last_updated: Timestamp) -> bool {
        match (&self.tags, self.since) {
            (Some(Tags::Any), _) => true,
            (Some(Tags::Versions(known)), _) => known.contains(&version),
            (None, Some(since)) => last_updated.ms().div_euclid(1_000) <= since.ms().div_euclid(1_000),
            (None, None) => false,
        }
    }
}

fn tags(text: &str) -> Tags {
    match text.trim() {
        "*" => Tags::Any,
        list => Tags::Versions(list.split(',').filter_map(clinical::parse_etag).collect()),
    }
}

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// IMF-fixdate (RFC 9110 §5.6.7).
pub fn http_date(at: Timestamp) -> String {
    let days = at.ms().div_euclid(86_400_000);
    let seconds = at.ms().rem_euclid(86_400_000) / 1_000;
    let (year, month, day) = base::time::civil_from_days(days);
    format!(
        "{}, {day:02} {} {year:04} {:02}:{:02}:{:02} GMT",
        DAYS[days.rem_euclid(7) as usize],
        MONTHS[month as usize - 1],
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// An IMF-fixdate; the two obsolete forms, which a sender must not make, are not read.
fn parse_http_date(text: &str) -> Option<Timestamp> {
    let (_, rest) = text.trim().split_once(", ")?;
    let mut words = rest.split(' ');
    let (day, month, year, time) = (words.next()?, words.next()?, words.next()?, words.next()?);
    if words.next() != Some("GMT") || words.next().is_some() {
        return None;
    }
    let month = 1 + MONTHS.iter().position(|known| *known == month)?;
    // As RFC 3339 has it, whose reader knows the calendar.
    let moment = fhir::time::parse(&format!("{year}-{month:02}-{day}T{time}Z"))?;
    Some(Timestamp(moment.from_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_dates_are_fixdates() {
        assert_eq!(http_date(Timestamp(784_111_777_000)), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Timestamp(784_111_777_000)));
        for bad in
            ["", "Sun, 06 Nov 1994 08:49:37", "Sun, 06 Foo 1994 08:49:37 GMT", "06 Nov 1994 08:49:37 GMT", "x, GMT"]
        {
            assert_eq!(parse_http_date(bad), None, "{bad}");
        }
    }

    #[test]
    fn versions_count_before_times() {
        let at = Timestamp(784_111_777_900);
        let unless = |none: Option<&str>, since: Option<&str>| {
            let mut headers = HeaderMap::new();
            none.map(|text| headers.insert(header::IF_NONE_MATCH, text.parse().unwrap()));
            since.map(|text| headers.insert(header::IF_MODIFIED_SINCE, text.parse().unwrap()));
            Unless::of(&headers).knows(3, at)
        };
        let (then, before) = (Some("Sun, 06 Nov 1994 08:49:37 GMT"), Some("Sun, 06 Nov 1994 08:49:36 GMT"));
        for (none, since, expected) in [
            (None, None, false),
            (Some("W/\"3\""), None, true),
            (Some("W/\"2\""), None, false),
            (Some("W/\"2\", W/\"3\""), None, true),
            (Some("*"), None, true),
            (None, then, true),
            (None, before, false),
            (None, Some("yesterday"), false),
            (Some("W/\"2\""), then, false),
        ] {
            assert_eq!(unless(none, since), expected, "{none:?} {since:?}");
        }
    }
}
