//! De-identification of a message on its way out: what a profile lets through, everything else removed.
//!
//! An allow-list ([`table`]) says what may stay of each field and how; [`values`] does it; [`scan`] then looks in what
//! is left for the identifiers of the message itself, and a hit keeps the message back. Dates and pseudonyms come of
//! keys that never leave the node.
//!
//! Never here: who may receive it (see `gate`), changes that a route declares (made before; see `route`).

mod results;
mod scan;
mod table;
#[cfg(test)]
mod tests;
mod values;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base::{DataClass, Mask, MaskMethod, Ordinal, Timestamp};
use hl7v2::{Message, Segment};
use serde::{Deserialize, Serialize};

use self::scan::Words;
use self::table::{Treatment, treatments};
use self::values::Values;

/// Which of HIPAA's two ways of taking identities away, or what lies between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// 45 CFR 164.514(b)(2): dates are years, postal codes three digits.
    SafeHarbor,
    /// As Safe Harbor, but dates keep their distance: each patient's are shifted by the same number of days. An expert
    /// determines that it is enough (§164.514(b)(1)).
    ShiftedDates,
    /// §164.514(e)(2): dates, towns and postal codes stay. It is still PHI and needs a data use agreement.
    LimitedDataSet,
}

impl Method {
    /// The obligations `de-identify(NAME)` that it carries out.
    pub fn meets(self) -> &'static [&'static str] {
        match self {
            // It shows less than either of the others.
            Method::SafeHarbor => &["safe-harbor", "shifted-dates", "limited-data-set"],
            Method::ShiftedDates => &["shifted-dates"],
            Method::LimitedDataSet => &["limited-data-set"],
        }
    }
}

/// `deidentify` of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct Deidentify {
    pub profile: Method,
    /// Pseudonyms and shifts are the same for all routes of a domain with the same project; by default each route is its
    /// own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<base::SourceName>,
    /// Segments or fields that stay as they are beside what the table lets through, such as `ZPI-3`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keep: Vec<Kept>,
}

/// `deidentify = "safe-harbor"`, or a table.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Short(Method),
    Long(Long),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Long {
    profile: Method,
    #[serde(default)]
    project: Option<base::SourceName>,
    #[serde(default)]
    keep: Vec<Kept>,
}

impl From<Written> for Deidentify {
    fn from(written: Written) -> Self {
        match written {
            Written::Short(profile) => Deidentify { profile, project: None, keep: Vec::new() },
            Written::Long(Long { profile, project, keep }) => Deidentify { profile, project, keep },
        }
    }
}

/// A segment, `ZPI`, or one field of it, `ZPI-3`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Kept {
    segment: String,
    field: Option<usize>,
}

impl FromStr for Kept {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "write what stays as a segment or a field: `ZPI` or `ZPI-3`; it is never MSH";
        let (segment, field) = match text.split_once('-') {
            Some((segment, field)) => (segment, Some(field.parse().map_err(|_| WRONG)?)),
            None => (text, None),
        };
        let is_segment = segment.len() == 3 && segment.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        if !is_segment || segment == "MSH" || field == Some(0) {
            return Err(WRONG);
        }
        Ok(Kept { segment: segment.to_owned(), field })
    }
}

impl TryFrom<String> for Kept {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Kept> for String {
    fn from(kept: Kept) -> String {
        match kept.field {
            Some(field) => format!("{}-{field}", kept.segment),
            None => kept.segment,
        }
    }
}

/// Makes 32 bytes of a text, under a key of the node; the same text gives the same bytes.
pub type Keyed = Arc<dyn Fn(&str) -> [u8; 32] + Send + Sync>;

/// A route's way of de-identifying, with its keys.
#[derive(Clone)]
pub struct Deidentifier {
    declared: Deidentify,
    /// Bound to the domain and the project.
    keyed: Keyed,
}

/// Something of the patient is left; nothing may leave. Names the place, never the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an identifier of the message is left at {place}")]
pub struct Left {
    pub place: String,
}

impl fmt::Debug for Deidentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Deidentifier({:?})", self.declared)
    }
}

impl Deidentifier {
    pub fn new(declared: Deidentify, keyed: Keyed) -> Self {
        Deidentifier { declared, keyed }
    }

    /// `safe-harbor`, for the record.
    pub fn name(&self) -> &'static str {
        match self.declared.profile {
            Method::SafeHarbor => "safe-harbor",
            Method::ShiftedDates => "shifted-dates",
            Method::LimitedDataSet => "limited-data-set",
        }
    }

    /// What may leave of the message, about these patients; the shift of its dates is that of the first. `came` is the
    /// message before a route changed it: what identifies somebody there may have been moved.
    pub fn apply(
        &self,
        message: &Message<'_>,
        came: &Message<'_>,
        patients: &[Ordinal],
        now: Timestamp,
    ) -> Result<Vec<u8>, Left> {
        let method = self.declared.profile;
        let mut words = Words::of(message, method);
        words.add(Words::of(came, method));
        let values = Values::new(method, &self.keyed, patients.first().copied(), &words, now, message.delimiters());
        let mut text = String::with_capacity(message.as_text().len());
        for segment in message.segments() {
            let Some(left) = self.segment(segment, &values) else { continue };
            text.push_str(&left);
            text.push_str(if segment.terminator().is_empty() { "\r" } else { segment.terminator() });
        }
        let bytes = message.charset().encode(&text);
        // Once more, over what is about to leave.
        let limits = base::Limits::default();
        let made = hl7v2::parse(&bytes, &limits).map_err(|_| Left { place: "MSH".into() })?;
        match words.first_in(&made) {
            Some(place) => Err(Left { place }),
            None => Ok(bytes),
        }
    }

    fn segment(&self, segment: Segment<'_>, values: &Values<'_>) -> Option<String> {
        let id = segment.id();
        let known = treatments(id);
        let kept: Vec<&Kept> = self.declared.keep.iter().filter(|kept| kept.segment == id).collect();
        if known.is_none() && kept.is_empty() {
            return None;
        }
        let separator = char::from(values.delimiters.field);
        let is_header = id == "MSH";
        let mut fields: Vec<String> = Vec::new();
        for (n, field) in segment.fields() {
            let shown = match n {
                // MSH-1 is the separator that stands after the id.
                1 if is_header => continue,
                2 if is_header => field.raw().to_owned(),
                _ if kept.iter().any(|kept| kept.field.is_none_or(|one| one == n)) => field.raw().to_owned(),
                _ => match known.and_then(|known| known.get(n)) {
                    Some(Treatment::Value) => values.observation(segment, field),
                    Some(treatment) => values.field(treatment, field),
                    None => String::new(),
                },
            };
            fields.push(shown);
        }
        // A result whose value may not leave tells nothing.
        if id == "OBX" && segment.field(5).is_value() && fields.get(4).is_none_or(String::is_empty) {
            return None;
        }
        // Whoever reads it learns that the name is a coded one (table 0200).
        if let ("PID", Some(component), Some(name)) = (id, values.delimiters.component, fields.get_mut(4)) {
            *name = format!("{}S", char::from(component).to_string().repeat(6));
        }
        while fields.last().is_some_and(String::is_empty) {
            fields.pop();
        }
        if fields.is_empty() {
            return None;
        }
        Some(fields.into_iter().fold(id.to_owned(), |text, field| text + &separator.to_string() + &field))
    }
}

impl gate::Profile for Deidentifier {
    fn names(&self) -> &'static [&'static str] {
        self.declared.profile.meets()
    }

    fn meets(&self, mask: &Mask) -> bool {
        let is_limited = self.declared.profile == Method::LimitedDataSet;
        let shown = match mask.class {
            DataClass::Name | DataClass::NationalId | DataClass::Contact | DataClass::FreeText | DataClass::Binary => {
                MaskMethod::Null
            }
            DataClass::Address if !is_limited => MaskMethod::Null,
            DataClass::PostalCode if !is_limited => MaskMethod::Zip3,
            DataClass::Identifier => MaskMethod::KeyedHash,
            DataClass::BirthDate if !is_limited => MaskMethod::YearOnly,
            DataClass::Date if self.declared.profile == Method::SafeHarbor => MaskMethod::YearOnly,
            _ => return false,
        };
        shown.shows() <= mask.method.shows()
    }
}
