//! The writing end of the audit log: encode, seal, append to the targets.

use std::sync::Arc;

use arc_swap::ArcSwap;
use base::{DomainName, Timestamp};

use crate::audit::keys::{AuditKeyError, AuditKeys, Sealer, Tokens};
use crate::audit::record::AuditRecord;
use crate::audit::target::{AuditUnavailable, TargetState, Targets};

/// Seals records and makes them durable.
#[derive(Clone)]
pub struct AuditLog(Arc<Inner>);

struct Inner {
    keys: Arc<dyn AuditKeys>,
    targets: Targets,
    sealer: ArcSwap<Sealer>,
    renewing: tokio::sync::Mutex<()>,
    tokens: Tokens,
}

impl AuditLog {
    /// Begins a generation of keys.
    pub async fn open(keys: Arc<dyn AuditKeys>, targets: Targets) -> Result<Self, AuditKeyError> {
        let sealer = ArcSwap::from_pointee(Sealer::new(&keys.begin().await?)?);
        let tokens = Tokens::new(&*keys);
        Ok(AuditLog(Arc::new(Inner { keys, targets, sealer, renewing: tokio::sync::Mutex::new(()), tokens })))
    }

    /// Durable in at least one target when this returns `Ok`. Gives the index of the first record.
    pub async fn append(&self, records: Vec<AuditRecord>) -> Result<u64, AuditUnavailable> {
        let mut sealed = Vec::with_capacity(records.len());
        for record in records.into_iter().flat_map(AuditRecord::split) {
            sealed.push(self.seal(&record.encode(), record.at).await?);
        }
        if sealed.is_empty() {
            return Err(AuditUnavailable);
        }
        self.0.targets.append(sealed).await
    }

    async fn seal(&self, plain: &[u8], at: Timestamp) -> Result<bytes::Bytes, AuditUnavailable> {
        if let Some(sealed) = self.0.sealer.load().seal(plain, at) {
            return Ok(sealed);
        }
        let _one = self.0.renewing.lock().await;
        // Another task may have renewed it meanwhile.
        if let Some(sealed) = self.0.sealer.load().seal(plain, at) {
            return Ok(sealed);
        }
        let generation = self.0.keys.begin().await.map_err(|_| AuditUnavailable)?;
        let sealer = Arc::new(Sealer::new(&generation).map_err(|_| AuditUnavailable)?);
        let sealed = sealer.seal(plain, at);
        self.0.sealer.store(sealer);
        sealed.ok_or(AuditUnavailable)
    }

    /// Health of each target.
    pub fn targets(&self) -> Vec<TargetState> {
        self.0.targets.states()
    }

    /// See [`Targets::compared`].
    pub(crate) fn compared(&self, n: usize, missed: u64, lost: Option<bool>) {
        self.0.targets.compared(n, missed, lost);
    }

    pub(crate) fn keys(&self) -> Arc<dyn AuditKeys> {
        self.0.keys.clone()
    }

    pub(crate) fn patient_token(&self, domain: &DomainName, patient: u32) -> [u8; 16] {
        self.0.tokens.patient(domain, patient)
    }

    /// Tokens of a record's patients in the order of their ordinals; none when they are more than `named_max`.
    pub(crate) fn tokens_of(&self, record: &AuditRecord, named_max: u64) -> Vec<[u8; 16]> {
        if record.patients.len() > named_max {
            return Vec::new();
        }
        record.patients.iter().map(|patient| self.patient_token(record.patient_domain(), patient)).collect()
    }

    pub(crate) fn query_hash(&self, text: &[u8]) -> [u8; 16] {
        self.0.tokens.query(text)
    }
}
