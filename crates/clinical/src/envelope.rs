//! What the door knew about an input, kept beside its bytes in the journal.
//!
//! The envelope is sealed like the body: a control id or a conditional query may hold PHI.

use base::{SourceName, Timestamp, TraceContext};
use serde::{Deserialize, Serialize};

use crate::reach::Reach;

/// How the bytes are to be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Content {
    /// One HL7 v2 message in ER7.
    Hl7v2,
    /// One FHIR interaction that changes something.
    Fhir(FhirRequest),
    /// An earlier entry, to be refined once more, after what it lacked was put right.
    Replay {
        of: u64,
        /// All of it, and not only its set-aside units: the way in for what a source in shadow sent, too.
        #[serde(default, skip_serializing_if = "is_false")]
        whole: bool,
    },
    /// A person says whose an earlier entry's results are, or takes that back.
    Match(Matched),
    /// What is left of an earlier entry after the erasure of a patient it named (see `redact`).
    Redacted {
        of: u64,
        /// The entry was an HL7 v2 message.
        hl7v2: bool,
    },
}

fn is_false(value: &bool) -> bool {
    !*value
}

/// Results that could not find their patient or order, matched by a person. Ids are silver's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matched {
    pub of: u64,
    /// The Patient the entry's results are about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patient: Option<String>,
    /// The ServiceRequest they answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
    /// The match is taken back: what it made is entered in error, and the results wait again.
    #[serde(default, skip_serializing_if = "is_false")]
    pub undo: bool,
}

/// A FHIR write as the client asked for it (R4 §3.1.0). The body is the resource or Bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FhirRequest {
    pub interaction: Interaction,
    /// Resource type; `Bundle` for a transaction or batch.
    pub rtype: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The version that `If-Match` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_match: Option<u32>,
    /// The query of `If-None-Exist`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_none_exist: Option<String>,
    /// The criteria of a conditional update, patch or delete: what stands after `?`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub criteria: Option<String>,
    /// Whom the writer reached, where that was not everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reach: Option<Reach>,
}

impl FhirRequest {
    pub fn new(interaction: Interaction, rtype: &str) -> Self {
        FhirRequest {
            interaction,
            rtype: rtype.to_owned(),
            id: None,
            if_match: None,
            if_none_exist: None,
            criteria: None,
            reach: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interaction {
    Create,
    Update,
    /// The body is the patch: it is applied to the version that stands when its turn comes.
    Patch,
    Delete,
    /// A Bundle of type `transaction` or `batch`.
    Bundle,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    pub source: SourceName,
    pub door: Door,
    pub content: Content,
    pub received: Timestamp,
    /// MSH-10 or `Idempotency-Key`: with the content's hash it tells a resend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_key: Option<String>,
    /// SHA-256 of what was sent, hexadecimal.
    pub content_hash: String,
    pub traceparent: String,
    /// The decision that let this in.
    pub decision: u64,
    pub principal: String,
    /// Its source was in shadow when it came: read, counted, compared, and nothing made of it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub shadow: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Door {
    Mllp,
    Fhir,
    /// `ward ingest`, through the node's socket.
    File,
    Console,
}

impl Door {
    pub fn code(self) -> &'static str {
        match self {
            Door::Mllp => "mllp",
            Door::Fhir => "fhir",
            Door::File => "file",
            Door::Console => "console",
        }
    }
}

impl Envelope {
    pub fn trace(&self) -> Option<TraceContext> {
        TraceContext::parse(&self.traceparent)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an envelope is plain data")
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}
