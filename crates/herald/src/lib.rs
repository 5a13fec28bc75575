//! Audit records as others read them, and their way out: FHIR R4 AuditEvent by IHE BALP ([`audit_event`]), ATNA as DICOM
//! PS3.15 A.5 ([`atna`]), OCSF ([`ocsf`]) and CEF ([`cef`]), shipped over syslog with TLS (RFC 5424, 5425; [`syslog`],
//! [`ship`]).
//!
//! A rendering is a pure function of a record: the same bytes each time, every field of the record in it, patients by
//! keyed token. The log itself is the truth and stays sealed (`gate`); nothing here can be lost.
//!
//! Never here: reading the log under a permit (`gate::AuditReader`), policy, names of patients.

pub mod atna;
pub mod audit_event;
pub mod cef;
mod event;
pub mod ocsf;
pub mod ship;
#[cfg(test)]
mod ship_tests;
pub mod syslog;
#[cfg(test)]
mod tests;

pub use event::{Code, Event, Kind, NAMED_MAX, Place, Sets, indicator};

/// A rendering, by the name that configuration and commands use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// FHIR R4 AuditEvent, IHE BALP.
    Fhir,
    /// DICOM PS3.15 A.5 audit message.
    Atna,
    /// Open Cybersecurity Schema Framework.
    Ocsf,
    /// Common Event Format.
    Cef,
}

impl Format {
    pub const ALL: [Format; 4] = [Format::Fhir, Format::Atna, Format::Ocsf, Format::Cef];

    pub fn code(self) -> &'static str {
        match self {
            Format::Fhir => "fhir",
            Format::Atna => "atna",
            Format::Ocsf => "ocsf",
            Format::Cef => "cef",
        }
    }

    pub fn parse(code: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|format| format.code() == code)
    }

    /// One event as one line of text, without a line end.
    pub fn render(self, event: &Event<'_>, place: &Place) -> String {
        match self {
            Format::Fhir => fhir::json::to_string(&audit_event::render(event, place, &|_| None)),
            Format::Atna => atna::render(event, place),
            Format::Ocsf => ocsf::render(event, place).to_string(),
            Format::Cef => cef::render(event, place),
        }
    }
}
