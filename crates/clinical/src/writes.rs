//! FHIR writes that wait for their outcome: append, then answer what refine decided (201, 409, 412).

use std::sync::Arc;
use std::time::Duration;

use base::{Permit, SourceName, TraceContext, Write};
use bytes::Bytes;
use store::{Outcome, Silver};

use crate::envelope::{Content, Door, FhirRequest};
use crate::intake::{Input, Intake, IntakeError};

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error(transparent)]
    Intake(#[from] IntakeError),
    #[error(transparent)]
    Store(#[from] store::StoreError),
    /// Durable, but not applied in time. The client asks again with the same idempotency key.
    #[error("the write is durable but not yet applied: ask again with the same Idempotency-Key")]
    NotYetApplied { index: u64 },
    #[error("the answer to this idempotency key is no longer kept")]
    OutcomeGone { index: u64 },
}

/// A write and what became of it.
#[derive(Debug)]
pub struct Written {
    pub index: u64,
    /// The same request came before; this is its first answer.
    pub repeated: bool,
    pub outcome: Outcome,
}

/// The FHIR door's way into one domain.
#[derive(Clone)]
pub struct FhirWrites {
    intake: Arc<Intake>,
    silver: Silver,
    timeout: Duration,
}

impl FhirWrites {
    pub fn new(intake: Arc<Intake>, silver: Silver, timeout: Duration) -> Self {
        FhirWrites { intake, silver, timeout }
    }

    pub async fn submit(
        &self,
        permit: &Permit<Write>,
        source: SourceName,
        door: Door,
        request: FhirRequest,
        idempotency_key: Option<String>,
        trace: TraceContext,
        body: Bytes,
    ) -> Result<Written, WriteError> {
        // A key is its caller's own, and used for two different requests it is two: the interaction is part of it.
        let principal = permit.grant().principal.clone();
        let control_key = idempotency_key.map(|key| {
            let target = request.id.as_deref().or(request.criteria.as_deref()).unwrap_or("");
            format!("{principal} {key} {:?} {}/{target}", request.interaction, request.rtype)
        });
        let content = Content::Fhir(request);
        let accepted = self
            .intake
            .accept(permit, Input { source, door, content, control_key, trace, body, shadow: false, one_content: true })
            .await?;
        let domain = self.intake.journal().domain().clone();
        let mut applied = self.silver.applied(&domain);
        // The guard that `wait_for` gives must not live across an await: only whether it came matters.
        let reached = async { applied.wait_for(|upto| *upto > accepted.index).await.is_ok() };
        if !tokio::time::timeout(self.timeout, reached).await.unwrap_or(false) {
            return Err(WriteError::NotYetApplied { index: accepted.index });
        }
        match self.silver.outcome(&domain, accepted.index).await? {
            Some(outcome) => Ok(Written { index: accepted.index, repeated: accepted.duplicate, outcome }),
            None => Err(WriteError::OutcomeGone { index: accepted.index }),
        }
    }
}
