//! The end of raw bodies: an entry whose time is over gets a successor that keeps what it did, and its keys are
//! destroyed. Which entries, and that nothing holds them, is decided above.
//!
//! The journal stays whole: a rebuild finds the successor in the entry's place and makes the same of it.

use std::sync::Arc;

use base::Layer;
use serde::{Deserialize, Serialize};
use vault::Holder;

use super::{RefineError, Refiner, Turn};
use crate::envelope::{Content, Envelope};
use crate::journal::JournalError;
use crate::redact::{Left, LeftVersion};

/// What an expiry destroys: written down before it is done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expired {
    pub domain: String,
    /// Each entry and what takes its place.
    pub successors: Vec<(u64, u64)>,
    /// Large bodies in the object store.
    pub objects: Vec<String>,
}

impl Refiner {
    /// Destroys the bodies of these entries. What was replayed later, or cannot be opened, is left as it is. `keep` is
    /// told the plan before anything is destroyed.
    pub async fn expire<F, Fut>(self: &Arc<Self>, entries: &[u64], keep: F) -> Result<Expired, RefineError>
    where
        F: FnOnce(Expired) -> Fut,
        Fut: Future<Output = Result<(), String>>,
    {
        self.catch_up().await?;
        let _turn = self.turn.lock().await;
        let mut plan = Expired { domain: self.domain.to_string(), ..Expired::default() };
        for index in entries {
            self.plan_expiry(*index, &mut plan).await?;
        }
        if plan.successors.is_empty() {
            return Ok(plan);
        }
        keep(plan.clone()).await.map_err(RefineError::Plan)?;
        // Every entry up to here, the successors too, under the key of whom it is about; then the door's keys go.
        let (upto, generation) = self.journal.roll().await?;
        let mut position = self.position().await?;
        while position < upto {
            position = self.step_or_set_aside(position, Turn::Held).await?;
        }
        self.journal.succeed(plan.successors.iter().copied());
        for (of, _) in &plan.successors {
            self.vault.delete_slots(&self.journal.objects_of(*of)?).await?;
        }
        for living in self.vault.living_unassigned(&self.domain).await? {
            if living < generation {
                self.vault.destroy_holder(&self.domain, Holder::Unassigned(living)).await?;
            }
        }
        for path in &plan.objects {
            self.journal.remove_large(path).await?;
        }
        let positions: Vec<u64> = plan.successors.iter().map(|(of, _)| *of).collect();
        self.silver.mark_expired(&self.permit(Layer::Silver)?, &self.domain, &positions).await?;
        Ok(plan)
    }

    /// What takes the place of entries, by earlier plans. Before refine reads the journal.
    pub fn remember_expired(&self, plan: &Expired) {
        self.journal.succeed(plan.successors.iter().copied());
    }

    async fn plan_expiry(&self, index: u64, plan: &mut Expired) -> Result<(), RefineError> {
        let entry = match self.journal.open_at(index).await {
            Ok(entry) if entry.envelope.content == Content::Hl7v2 => entry,
            Ok(_) | Err(JournalError::Destroyed { .. } | JournalError::Unreadable { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let silver = self.permit(Layer::Silver)?;
        let made = self.silver.entry_versions(&silver, &self.domain, index).await?;
        // A later replay needs the message again.
        if made.iter().any(|version| version.last_updated != entry.envelope.received) {
            return Ok(());
        }
        let left = Left { versions: made.iter().map(LeftVersion::of).collect(), ..Left::default() };
        let body = left.to_bytes();
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &body);
        let envelope = Envelope {
            content: Content::Redacted { of: index, hl7v2: true },
            control_key: None,
            content_hash: base::hex::encode(hash.as_ref()),
            ..entry.envelope
        };
        let bronze = self.permit(Layer::Bronze)?;
        let successor = self.journal.append(&bronze, &envelope, &body).await?;
        plan.successors.push((index, successor));
        plan.objects.extend(entry.large);
        Ok(())
    }
}
