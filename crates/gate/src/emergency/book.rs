//! Where break-glass is written down: its facts, the port [`EmergencyBook`], and a fake.
//!
//! Never here: what follows from the facts (see `state`), who may do what (see the module above).

use async_trait::async_trait;
use base::{DomainName, LogicalId, PrincipalId, Timestamp};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::caller::Outage;

/// Names a request and the session it becomes. 128 random bits, written in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionId(pub(crate) [u8; 16]);

impl SessionId {
    pub fn parse(text: &str) -> Option<SessionId> {
        Some(SessionId(base::hex::decode(text)?.try_into().ok()?))
    }
}

impl std::fmt::Display for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&base::hex::encode(&self.0))
    }
}

impl TryFrom<String> for SessionId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        SessionId::parse(&text).ok_or("a session is named by 32 hexadecimal digits")
    }
}

impl From<SessionId> for String {
    fn from(id: SessionId) -> String {
        id.to_string()
    }
}

/// Why the glass is broken, for statistics and review; the free text says it in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Category {
    /// Life or limb is in danger.
    LifeThreat,
    /// The patient cannot say who treats them, or cannot consent.
    CannotConsent,
    /// Covering for a colleague, or a transfer that is not in the record yet.
    Covering,
    /// The system that says who treats whom is down or wrong.
    SystemFault,
    Other,
}

impl Category {
    pub const CODES: &[(&str, Category)] = &[
        ("life-threat", Category::LifeThreat),
        ("cannot-consent", Category::CannotConsent),
        ("covering", Category::Covering),
        ("system-fault", Category::SystemFault),
        ("other", Category::Other),
    ];

    pub fn code(self) -> &'static str {
        Self::CODES.iter().find(|(_, category)| *category == self).map_or("other", |(code, _)| code)
    }

    pub fn parse(code: &str) -> Option<Category> {
        Self::CODES.iter().find(|(known, _)| *known == code).map(|(_, category)| *category)
    }
}

/// What a privacy officer found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Justified,
    NotJustified,
}

/// Text sealed to the patient's record, as hexadecimal: erasing the patient destroys it.
pub(crate) type SealedText = String;

/// A fact of the control log. Times are the gate's, which never go back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Fact {
    Requested {
        id: SessionId,
        at: Timestamp,
        principal: PrincipalId,
        domain: DomainName,
        /// Ordinal and id of the Patient resource.
        patient: u32,
        resource: LogicalId,
        category: Category,
        reason: SealedText,
        /// The wall clock, and the access token's name: the confirmation needs a younger and another one.
        wall: Timestamp,
        token: Option<String>,
    },
    /// The privacy officer is notified by this very entry: it opens a review.
    Confirmed {
        id: SessionId,
        at: Timestamp,
        until: Timestamp,
        /// Substance use disorder records are open in it: the record that 42 CFR 2.51(c) asks for.
        part2: bool,
        policies: Vec<String>,
    },
    /// It was in use at this time; written at most once a minute, so that its time runs on over a restart.
    Used {
        id: SessionId,
        at: Timestamp,
    },
    Ended {
        id: SessionId,
        at: Timestamp,
        by: PrincipalId,
    },
    Reviewed {
        id: SessionId,
        at: Timestamp,
        by: PrincipalId,
        verdict: Verdict,
        note: SealedText,
    },
}

impl Fact {
    pub fn kind(&self) -> &'static str {
        match self {
            Fact::Requested { .. } => "break-glass-requested",
            Fact::Confirmed { .. } => "break-glass-confirmed",
            Fact::Used { .. } => "break-glass-used",
            Fact::Ended { .. } => "break-glass-ended",
            Fact::Reviewed { .. } => "break-glass-reviewed",
        }
    }

    pub fn at(&self) -> Timestamp {
        match self {
            Fact::Requested { at, .. }
            | Fact::Confirmed { at, .. }
            | Fact::Used { at, .. }
            | Fact::Ended { at, .. }
            | Fact::Reviewed { at, .. } => *at,
        }
    }
}

/// Whose text it is: the seal binds it.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    pub domain: &'a DomainName,
    pub patient: u32,
    pub session: SessionId,
    /// `reason` or `note`.
    pub part: &'static str,
}

/// The control log, as break-glass needs it.
#[async_trait]
pub trait EmergencyBook: Send + Sync {
    /// When this returns the fact is durable, sealed, and in every later answer of [`EmergencyBook::facts`].
    async fn append(&self, kind: &'static str, body: &[u8]) -> Result<(), Outage>;
    /// Bodies of all facts of break-glass, oldest first.
    async fn facts(&self) -> Result<Vec<Vec<u8>>, Outage>;
    /// Seals a text to the patient's own record: once the patient is erased nobody opens it.
    async fn seal(&self, about: About<'_>, text: &str) -> Result<Vec<u8>, Outage>;
    /// `None` when its key was destroyed. Another's text does not open.
    async fn open(&self, about: About<'_>, sealed: &[u8]) -> Result<Option<String>, Outage>;
}

/// A book in memory that fails when told to.
#[derive(Debug, Default)]
pub struct MemoryBook {
    facts: Mutex<Vec<Vec<u8>>>,
    failing: std::sync::atomic::AtomicBool,
}

impl MemoryBook {
    pub fn fail(&self, failing: bool) {
        self.failing.store(failing, std::sync::atomic::Ordering::SeqCst);
    }

    fn works(&self) -> Result<(), Outage> {
        let failing = self.failing.load(std::sync::atomic::Ordering::SeqCst);
        if failing { Err(Outage("control log")) } else { Ok(()) }
    }
}

#[async_trait]
impl EmergencyBook for MemoryBook {
    async fn append(&self, _kind: &'static str, body: &[u8]) -> Result<(), Outage> {
        self.works()?;
        self.facts.lock().push(body.to_vec());
        Ok(())
    }

    async fn facts(&self) -> Result<Vec<Vec<u8>>, Outage> {
        self.works()?;
        Ok(self.facts.lock().clone())
    }

    async fn seal(&self, about: About<'_>, text: &str) -> Result<Vec<u8>, Outage> {
        self.works()?;
        Ok(format!("{about:?}\0{text}").into_bytes())
    }

    async fn open(&self, about: About<'_>, sealed: &[u8]) -> Result<Option<String>, Outage> {
        self.works()?;
        let text = String::from_utf8_lossy(sealed);
        Ok(text.strip_prefix(&format!("{about:?}\0")).map(str::to_owned))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_ids_round_trip() {
        for (code, category) in Category::CODES {
            assert_eq!(Category::parse(code), Some(*category));
            assert_eq!(serde_json::to_string(category).unwrap(), format!("\"{code}\""));
        }
        let id = SessionId([7; 16]);
        assert_eq!(SessionId::parse(&id.to_string()), Some(id));
        for wrong in ["", "07", "zz", &"0".repeat(33), &"0".repeat(34), "é"] {
            assert_eq!(SessionId::parse(wrong), None);
        }
    }
}
