//! A source that feeds a domain, as `domain.toml` declares it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use base::{SourceName, Timestamp};
use hl7v2::time::Offset;
use serde::{Deserialize, Serialize};

use crate::v2::Sender;

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
    /// Whether its connections may ask for patients (QBP^Q22, QBP^Q23), and as whom. Without it a query is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<QueryRight>,
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
    /// What comes is read, mapped and counted, and nothing of it is served or sent on: to compare with another engine
    /// before the source is switched on.
    #[serde(default, skip_serializing_if = "is_default")]
    pub shadow: bool,
    /// Minutes without a message after which an alarm is raised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_after_minutes: Option<u32>,
    /// Days after which the bodies of messages are destroyed, by their state. What they became stays.
    #[serde(default, skip_serializing_if = "is_default")]
    pub keep: Keep,
    /// Whether its lists of allergies, diagnoses, relatives, insurances, guarantors and procedures stand for all there is,
    /// so that what they no longer name has ended: `"additions"`, `"snapshot"`, or the segments of which they do.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lists: Lists,
}

impl Source {
    /// What the mapping is to know of whoever sends as this source.
    pub fn sender(&self, received: Option<Timestamp>) -> Sender<'_> {
        Sender {
            name: self.name.as_str(),
            utc_offset: Offset::parse(&self.utc_offset).ok(),
            assigners: &self.assigners,
            units: &self.units,
            authority: &self.authority,
            received,
        }
    }
}

/// `keep = { forwarded = 30, refined = 90 }`: days, 1 to 36500; a state that is not named is kept as long as the
/// record. Of a message in several states the first counts of: set aside, received, forwarded, refined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keep {
    /// Received while the source was in shadow, and never refined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refined: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_aside: Option<u32>,
    /// Refined, and delivered by a route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarded: Option<u32>,
}

/// `query` of a source: a service of `principals.toml` whose rights the questions have, and what for they are asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryRight {
    pub principal: base::PrincipalId,
    pub purpose: base::Purpose,
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
