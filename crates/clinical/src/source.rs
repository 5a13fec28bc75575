//! A source that feeds a domain, as `domain.toml` declares it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use base::SourceName;
use serde::{Deserialize, Serialize};

/// One `[[source]]` of a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Unique within the domain.
    pub name: SourceName,
    pub kind: SourceKind,
    /// For `hl7v2`: the address its MLLP listener binds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// What MSH-11 must say. A message of another kind is refused, so that a test never reaches a chart.
    #[serde(default)]
    pub mode: ProcessingMode,
    #[serde(default)]
    pub tls: TlsMode,
    /// For `tls = "mutual"`: the authorities whose client certificates are accepted, relative to the mesh folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_authorities: Option<PathBuf>,
    /// For `tls = "mutual"`: who of those may send as this source, `dns:NAME` (a name in the certificate) or
    /// `sha256:HEX` (the certificate itself). Empty: whoever the authorities vouch for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub senders: Vec<net::PeerName>,
    /// When a message is acknowledged in original mode. In enhanced mode the accept answer always comes from the
    /// journal and the application answer always from refine.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ack_on: AckOn,
    /// Types that may come, `ADT` or `ADT^A01`. Empty: every type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accepts: Vec<String>,
    /// Connections at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_max: Option<usize>,
    /// Messages in a second, over all connections; a faster sender is slowed down, never refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages_per_second_max: Option<u32>,
    /// Offset of the sender's clock, for timestamps that name none: `-05:00`.
    #[serde(default = "utc")]
    pub utc_offset: String,
    /// Assigning authority (CX-4.1 or its universal id) to the system URI of its identifiers.
    #[serde(default)]
    pub assigners: BTreeMap<String, String>,
    /// The sender's unit strings, as they stand in OBX-6, to UCUM codes: `"MG/DL" = "mg/dL"`. They come before the
    /// common table; a string in neither is kept as text, without a code.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub units: BTreeMap<String, String>,
    /// Elements that the source may change, such as `Patient` or `Encounter.location`; what else it says is only taken
    /// where nothing is known yet. Empty is all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub authority: Vec<String>,
    /// Whether its lists of allergies, diagnoses, relatives, insurances, guarantors and procedures stand for all there is,
    /// so that what they no longer name has ended: `"additions"`, `"snapshot"`, or the segments of which they do.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lists: Lists,
}

/// Which lists a source sends whole. The default is none: a list that was cut short must never end an allergy; a list that
/// was not only leaves one standing, where a person sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Lists {
    All(ListMode),
    /// These segments whole, the others not: `["AL1", "NK1"]`.
    Whole(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListMode {
    /// They add and change.
    #[default]
    Additions,
    /// They take the place of what the source said before (v2.8.2 §2.10.4.1).
    Snapshot,
}

impl Default for Lists {
    fn default() -> Self {
        Lists::All(ListMode::default())
    }
}

impl Lists {
    pub fn is_whole(&self, segment: &str) -> bool {
        match self {
            Lists::All(mode) => *mode == ListMode::Snapshot,
            Lists::Whole(segments) => segments.iter().any(|whole| whole == segment),
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn utc() -> String {
    "+00:00".to_owned()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    Hl7v2,
    Fhir,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AckOn {
    /// As soon as the message is durable.
    #[default]
    Journal,
    /// When refine has applied it; the answer names what was set aside.
    Refined,
}

/// HL7 table 0103.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessingMode {
    #[default]
    Production,
    Training,
    Debugging,
}

impl ProcessingMode {
    pub fn code(self) -> &'static str {
        match self {
            ProcessingMode::Production => "P",
            ProcessingMode::Training => "T",
            ProcessingMode::Debugging => "D",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// Plain TCP: only on an address of this machine or a closed network.
    #[default]
    None,
    Server,
    /// The sender shows a certificate.
    Mutual,
}
