//! Care goes on: what `mesh.toml` says of break-glass, and the control log as its book.
//!
//! Never here: who may break the glass (policies), sessions (`gate::Gate`).

use std::sync::Arc;

use base::{Clock, DomainName, Ordinal};
use gate::{About, EmergencyBook, EmergencyLimits, Outage};
use serde::{Deserialize, Serialize};
use store::{Facts, Silver};
use vault::{Holder, Kind, ObjectName, Scope, Slot, Vault, VaultError};

/// `[break_glass]`: may only be tightened.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BreakGlass {
    /// Longest session; at most 240.
    pub session_minutes: u32,
    /// A request not confirmed within this time lapses; at most 600.
    pub confirm_seconds: u32,
    /// Days after its end in which a session must be reviewed; at most 30.
    pub review_days: u32,
    /// Longest session of one whose earlier session is overdue for review.
    pub overdue_session_minutes: u32,
}

impl Default for BreakGlass {
    fn default() -> Self {
        BreakGlass { session_minutes: 240, confirm_seconds: 120, review_days: 3, overdue_session_minutes: 30 }
    }
}

impl BreakGlass {
    /// What is wrong with it, and what to do.
    pub fn wrong(&self) -> Option<(&'static str, &'static str)> {
        let minutes = 1..=240;
        if !minutes.contains(&self.session_minutes) || !minutes.contains(&self.overdue_session_minutes) {
            return Some((
                "[break_glass] a session lasts 1 to 240 minutes",
                "write a number of minutes within four hours",
            ));
        }
        if !(10..=600).contains(&self.confirm_seconds) || !(1..=30).contains(&self.review_days) {
            return Some((
                "[break_glass] confirm_seconds or review_days is out of bounds",
                "write 10 to 600 seconds and 1 to 30 days",
            ));
        }
        None
    }

    pub fn limits(&self) -> EmergencyLimits {
        EmergencyLimits {
            session_ms: i64::from(self.session_minutes) * 60_000,
            confirm_ms: i64::from(self.confirm_seconds) * 1_000,
            review_ms: i64::from(self.review_days) * 86_400_000,
            overdue_session_ms: i64::from(self.overdue_session_minutes) * 60_000,
            ..EmergencyLimits::default()
        }
    }
}

/// Facts in the control log; texts sealed to the patient's record, their slots beside them in the fact.
pub struct ControlBook {
    pub facts: Facts,
    pub vault: Vault,
    pub silver: Silver,
    pub clock: Arc<dyn Clock>,
}

fn outage(error: impl std::fmt::Display) -> Outage {
    tracing::error!(%error, "break-glass could not be written or read");
    Outage("control log")
}

fn name_id(about: &About<'_>) -> Vec<u8> {
    format!("break-glass/{}/{}/{}", about.session, about.patient, about.part).into_bytes()
}

impl ControlBook {
    fn scope(&self, domain: &DomainName, patient: u32) -> Scope {
        self.silver.scope(domain, Holder::Record(Ordinal(patient)), self.clock.now())
    }
}

#[async_trait::async_trait]
impl EmergencyBook for ControlBook {
    async fn append(&self, kind: &'static str, body: &[u8]) -> Result<(), Outage> {
        self.facts.append(kind, body).await.map(drop).map_err(outage)
    }

    async fn facts(&self) -> Result<Vec<Vec<u8>>, Outage> {
        let (mut at, mut bodies) = (0, Vec::new());
        loop {
            let facts = self.facts.follow_kinds(at, "break-glass-").await.map_err(outage)?;
            let Some(last) = facts.last() else { return Ok(bodies) };
            at = last.position + 1;
            bodies.extend(facts.into_iter().map(|fact| fact.body));
        }
    }

    async fn seal(&self, about: About<'_>, text: &str) -> Result<Vec<u8>, Outage> {
        let id = name_id(&about);
        let name = ObjectName { domain: about.domain, kind: Kind::Config, id: &id, version: 1 };
        let scope = self.scope(about.domain, about.patient);
        let (sealed, slot) = self.vault.seal(name, &scope, text.as_bytes()).await.map_err(outage)?;
        Ok([slot.to_bytes().as_slice(), &sealed].concat())
    }

    async fn open(&self, about: About<'_>, sealed: &[u8]) -> Result<Option<String>, Outage> {
        let id = name_id(&about);
        let name = ObjectName { domain: about.domain, kind: Kind::Config, id: &id, version: 1 };
        let length = Slot::BYTES.min(sealed.len());
        let (slot, sealed) = sealed.split_at(length);
        let slot = Slot::from_bytes(slot).ok_or_else(|| outage("a sealed text is cut short"))?;
        match self.vault.open_with_slot(&slot, name, sealed).await {
            Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
            Err(VaultError::Destroyed) => Ok(None),
            Err(error) => Err(outage(error)),
        }
    }
}
