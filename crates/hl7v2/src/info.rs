//! What the header says about a message: type, control id, processing id, version, sender, receiver.

use crate::error::{Malformed, code357};
use crate::message::Message;

/// The header of a message, read leniently: what is missing is empty. See [`Message::check_header`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MessageInfo {
    /// MSH-9.1, HL7 table 0076: `ADT`.
    pub code: String,
    /// MSH-9.2, HL7 table 0003: `A01`; where it is missing, EVN-1.
    pub trigger: String,
    /// MSH-9.3, HL7 table 0354, as sent: often wrong, see [`crate::structure_of`].
    pub structure: String,
    /// MSH-10.
    pub control_id: String,
    /// MSH-11.1, HL7 table 0103: P, T or D.
    pub processing_id: String,
    /// MSH-12.1: `2.5.1`.
    pub version: String,
    /// MSH-3.1.
    pub sending_application: String,
    /// MSH-4.1.
    pub sending_facility: String,
    /// MSH-5.1.
    pub receiving_application: String,
    /// MSH-6.1.
    pub receiving_facility: String,
    /// MSH-7 as sent.
    pub sent: String,
}

impl Message<'_> {
    pub fn info(&self) -> MessageInfo {
        let Some(header) = self.segment("MSH") else { return MessageInfo::default() };
        let first = |n: usize| header.field(n).first().value().map(|t| t.trim().to_owned()).unwrap_or_default();
        let part = |n: usize| header.field(9).component(n).first().value().map(|t| t.trim().to_owned());
        let trigger = part(2).filter(|t| !t.is_empty()).or_else(|| self.get("EVN-1.1").map(|t| t.trim().to_owned()));
        MessageInfo {
            code: first(9),
            trigger: trigger.unwrap_or_default(),
            structure: part(3).unwrap_or_default(),
            control_id: self.control_id(),
            processing_id: first(11),
            version: first(12),
            sending_application: first(3),
            sending_facility: first(4),
            receiving_application: first(5),
            receiving_facility: first(6),
            sent: first(7),
        }
    }

    /// MSH-9: (message code, trigger event, message structure); empty where not sent.
    pub fn message_type(&self) -> (String, String, String) {
        let info = self.info();
        (info.code, info.trigger, info.structure)
    }

    /// MSH-10, whole.
    pub fn control_id(&self) -> String {
        self.get("MSH-10").map(|t| t.trim().to_owned()).unwrap_or_default()
    }

    /// MSH-11.1.
    pub fn processing_id(&self) -> String {
        self.info().processing_id
    }

    /// MSH-12.1.
    pub fn version(&self) -> String {
        self.info().version
    }

    /// The required fields of MSH, and whether version and processing id are known: faults by place, none if all is
    /// well. Whether they are what the source declares is the door's question.
    pub fn check_header(&self) -> Vec<Malformed> {
        let info = self.info();
        let mut faults = Vec::new();
        for (field, text, reason) in [
            (9, &info.code, "the message type is missing"),
            (10, &info.control_id, "the message control id is missing"),
            (11, &info.processing_id, "the processing id is missing"),
            (12, &info.version, "the version is missing"),
        ] {
            if text.is_empty() {
                faults.push(Malformed::new("MSH", 1, field, code357::REQUIRED_FIELD_MISSING, reason));
            }
        }
        if !info.processing_id.is_empty() && !matches!(info.processing_id.as_str(), "P" | "T" | "D") {
            let reason = "the processing id is none of P, T and D";
            faults.push(Malformed::new("MSH", 1, 11, code357::UNSUPPORTED_PROCESSING_ID, reason));
        }
        if !info.version.is_empty() && !VERSIONS.contains(&info.version.as_str()) {
            let reason = "the version is not supported: send 2.1 to 2.8.2";
            faults.push(Malformed::new("MSH", 1, 12, code357::UNSUPPORTED_VERSION, reason));
        }
        faults
    }
}

/// HL7 table 0104, the versions that were published up to 2.8.2.
pub(crate) const VERSIONS: &[&str] =
    &["2.1", "2.2", "2.3", "2.3.1", "2.3.2", "2.4", "2.5", "2.5.1", "2.6", "2.7", "2.7.1", "2.8", "2.8.1", "2.8.2"];
