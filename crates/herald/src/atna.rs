//! ATNA: the audit message of DICOM PS3.15 A.5, one line of XML in ASCII (other characters as references, so that no
//! collector guesses an encoding). Order of elements, attributes and codes are those of the schema in A.5.1.1.
//!
//! Never here: transport (see `syslog`).

use std::borrow::Cow;
use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::event::{Code, DCM, Event, Kind, Place, indicator};

/// DICOM has no role for the person whom a service acts for.
const BEHIND: Code =
    Code("http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "IRCP", "information recipient");

pub fn render(event: &Event<'_>, place: &Place) -> String {
    let record = event.record;
    let kind = Kind::of(record);
    let mut xml = Xml(String::with_capacity(2048));
    xml.raw("<?xml version=\"1.0\" encoding=\"UTF-8\"?><AuditMessage>");
    xml.open(
        "EventIdentification",
        &[
            ("EventActionCode", kind.action()),
            ("EventDateTime", &record.at.to_string()),
            ("EventOutcomeIndicator", indicator(record.outcome)),
        ],
    );
    xml.code("EventID", kind.dicom());
    if let Some(code) = kind.narrower() {
        xml.code("EventTypeCode", code);
    }
    let action = token(&record.action);
    let own = [("csd-code", action.as_ref()), ("codeSystemName", "WARDMESH"), ("originalText", action.as_ref())];
    xml.empty("EventTypeCode", &own);
    xml.raw("<EventOutcomeDescription>")
        .text(record.outcome.code())
        .raw("</EventOutcomeDescription></EventIdentification>");
    participants(&mut xml, event, kind, place);
    xml.open(
        "AuditSourceIdentification",
        &[("AuditEnterpriseSiteID", &token(&place.mesh)), ("AuditSourceID", &token(&place.log))],
    );
    xml.raw("<AuditSourceTypeCode csd-code=\"4\"/></AuditSourceIdentification>");
    objects(&mut xml, event, kind);
    xml.raw("</AuditMessage>");
    xml.0
}

/// A.5.1.1: the user, the service that acts for the user, the node. The client sends or receives, as the event has it.
fn participants(xml: &mut Xml, event: &Event<'_>, kind: Kind, place: &Place) {
    let source = Code(DCM, "110153", "Source Role ID");
    let destination = Code(DCM, "110152", "Destination Role ID");
    let (client, server) = if kind.client_is_source() { (source, destination) } else { (destination, source) };
    let (address, address_type) = match event.record.from {
        Some(ip) => (ip.to_string(), "2"),
        None => ("localhost".to_owned(), "1"),
    };
    let at = [("NetworkAccessPointID", address.as_str()), ("NetworkAccessPointTypeCode", address_type)];
    let alternative = event.record.token.map(|token| format!("token:{}", base::hex::encode(&token)));
    let mut user = vec![("UserID", event.user()), ("UserIsRequestor", "true")];
    user.extend(alternative.as_deref().map(|id| ("AlternativeUserID", id)));
    if let Some(service) = event.service() {
        xml.participant(&user, BEHIND);
        xml.participant(&[&[("UserID", service), ("UserIsRequestor", "false")], &at[..]].concat(), client);
    } else {
        user.extend(at);
        xml.participant(&user, client);
    }
    let url = format!("{}/{}/{}", place.base_url, event.record.door, event.record.domain);
    let mesh = token(&place.mesh);
    let node = [
        ("UserID", mesh.as_ref()),
        ("UserIsRequestor", "false"),
        ("NetworkAccessPointID", url.as_str()),
        ("NetworkAccessPointTypeCode", "5"),
    ];
    xml.participant(&node, server);
}

fn objects(xml: &mut Xml, event: &Event<'_>, kind: Kind) {
    let record = event.record;
    let system = format!("patient token of {}", record.patient_domain());
    for token in event.named() {
        xml.open(
            "ParticipantObjectIdentification",
            &[
                ("ParticipantObjectID", &base::hex::encode(&token)),
                ("ParticipantObjectTypeCode", "1"),
                ("ParticipantObjectTypeCodeRole", "1"),
            ],
        );
        xml.rfc_3881("2", "Patient Number");
        xml.raw("<ParticipantObjectName>")
            .text(&system)
            .raw("</ParticipantObjectName></ParticipantObjectIdentification>");
    }
    if matches!(kind, Kind::Rest("search-type") | Kind::Query) {
        xml.open(
            "ParticipantObjectIdentification",
            &[
                ("ParticipantObjectID", &token(&record.kinds.join(","))),
                ("ParticipantObjectTypeCode", "2"),
                ("ParticipantObjectTypeCodeRole", "24"),
            ],
        );
        xml.rfc_3881("10", "Search Criteria");
        let query = STANDARD.encode(event.request());
        xml.raw("<ParticipantObjectQuery>")
            .raw(&query)
            .raw("</ParticipantObjectQuery></ParticipantObjectIdentification>");
    }
    xml.open(
        "ParticipantObjectIdentification",
        &[
            ("ParticipantObjectID", &format!("urn:wardmesh:decision:{:016x}", record.decision)),
            ("ParticipantObjectTypeCode", "2"),
            ("ParticipantObjectTypeCodeRole", "13"),
        ],
    );
    xml.rfc_3881("12", "URI");
    let what = if record.what.trim().is_empty() { token(&record.action) } else { token(&record.what) };
    xml.raw("<ParticipantObjectName>").text(&what).raw("</ParticipantObjectName>");
    let trace = record.trace.map(|trace| ("trace", base::hex::encode(&trace).into()));
    // Since DICOM's schema has no place for a purpose of use.
    let purpose = record.purpose.map(|purpose| ("purpose-of-use", purpose.code().into()));
    for (name, value) in event.details().into_iter().chain(trace).chain(purpose) {
        xml.empty("ParticipantObjectDetail", &[("type", name), ("value", &STANDARD.encode(value.as_bytes()))]);
    }
    xml.raw("</ParticipantObjectIdentification>");
}

/// An xsd:token that is never empty: white space is one space.
fn token(text: &str) -> Cow<'_, str> {
    let plain = !text.is_empty() && text.trim() == text && !text.contains(['\t', '\n', '\r']) && !text.contains("  ");
    if plain {
        return text.into();
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.is_empty() { "-".into() } else { words.join(" ").into() }
}

struct Xml(String);

impl Xml {
    fn raw(&mut self, text: &str) -> &mut Self {
        self.0.push_str(text);
        self
    }

    /// XML 1.0 §2.2: what is no character of XML becomes U+FFFD; §2.4: markup is escaped.
    fn text(&mut self, text: &str) -> &mut Self {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                ' '..='~' => self.0.push(c),
                '\t' | '\n' | '\r' | '\u{7f}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'.. => {
                    let _ = write!(self.0, "&#{};", c as u32);
                }
                _ => self.0.push_str("&#65533;"),
            }
        }
        self
    }

    fn attributes(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.raw("<").raw(name);
        for (name, value) in attributes {
            self.raw(" ").raw(name).raw("=\"").text(value).raw("\"");
        }
    }

    fn open(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.attributes(name, attributes);
        self.raw(">");
    }

    fn empty(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.attributes(name, attributes);
        self.raw("/>");
    }

    fn code(&mut self, name: &str, Code(system, code, text): Code) {
        let system = if system == DCM { "DCM" } else { system };
        self.empty(name, &[("csd-code", code), ("codeSystemName", system), ("originalText", text)]);
    }

    fn rfc_3881(&mut self, code: &str, text: &str) {
        let attributes = [("csd-code", code), ("codeSystemName", "RFC-3881"), ("originalText", text)];
        self.empty("ParticipantObjectIDTypeCode", &attributes);
    }

    fn participant(&mut self, attributes: &[(&str, &str)], role: Code) {
        self.open("ActiveParticipant", attributes);
        self.code("RoleIDCode", role);
        self.raw("</ActiveParticipant>");
    }
}
