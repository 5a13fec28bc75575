//! Out of the gate: data stays in a [`Held`] until the audit record of this very response is durable, which gives the
//! [`Release`] that opens it.
//!
//! ```compile_fail
//! // Nobody outside this module can write a release down.
//! let release = gate::Release { decisions: vec![1], index: 0 };
//! ```
//!
//! ```compile_fail
//! // What is held cannot be looked at.
//! fn peek(held: gate::Held<Vec<u8>>) -> Vec<u8> { held.value }
//! ```

use std::fmt;

use base::{DomainName, Grant, NotCovered, PatientSet, Permit};
use policy::Action;
use roaring::RoaringBitmap;

use crate::audit::record::{AuditRecord, Outcome};
use crate::audit::target::AuditUnavailable;
use crate::caller::{Caller, Origin, Outage};
use crate::decide::rows_within;
use crate::gate::Gate;

/// A response as it is about to leave.
#[derive(Debug, Clone)]
pub struct Access {
    grants: Vec<Grant>,
    pub action: Action,
    pub origin: Origin,
    /// What was asked for, without PHI: `GET Patient/{id}`. Query strings never.
    pub what: String,
    /// See [`Gate::query_hash`].
    pub query_hash: Option<[u8; 16]>,
    pub outcome: Outcome,
    /// Rows, resources or messages in the response.
    pub rows: u64,
    /// Patients whose data is in the response, by domain.
    pub patients: Vec<(DomainName, RoaringBitmap)>,
    pub job: Option<String>,
    pub emergency: bool,
    /// Who receives it, when it is not the caller; for the accounting of disclosures.
    pub recipient: Option<String>,
    /// Where it is sent.
    pub destination: Option<String>,
}

impl Access {
    /// Data or an acknowledgement that goes out under a permit.
    pub fn of<R>(permit: &Permit<R>, action: Action, origin: &Origin) -> Self {
        Access {
            grants: vec![permit.grant().clone()],
            action,
            origin: origin.clone(),
            what: String::new(),
            query_hash: None,
            outcome: Outcome::Served,
            rows: 0,
            patients: Vec::new(),
            job: None,
            emergency: is_emergency(permit.grant()),
            recipient: origin.disclosed_to.clone(),
            destination: None,
        }
    }

    /// A further permit whose data is in the same response.
    pub fn and<R>(mut self, permit: &Permit<R>) -> Self {
        self.grants.push(permit.grant().clone());
        self
    }

    pub fn what(mut self, what: impl Into<String>) -> Self {
        self.what = what.into();
        self
    }

    pub fn outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self
    }

    pub fn rows(mut self, rows: u64) -> Self {
        self.rows = rows;
        self
    }

    pub fn query(mut self, hash: [u8; 16]) -> Self {
        self.query_hash = Some(hash);
        self
    }

    /// Sent to somebody else than the caller: a name, and where.
    pub fn sent_to(mut self, recipient: impl Into<String>, destination: impl Into<String>) -> Self {
        (self.recipient, self.destination) = (Some(recipient.into()), Some(destination.into()));
        self
    }

    /// Adds patients of a domain; [`base::Ordinal::NONE`] is left out.
    pub fn patients(mut self, domain: &DomainName, patients: impl IntoIterator<Item = u32>) -> Self {
        let new = patients.into_iter().filter(|patient| *patient != 0);
        match self.patients.iter_mut().find(|(known, _)| known == domain) {
            Some((_, set)) => set.extend(new),
            None => self.patients.push((domain.clone(), new.collect())),
        }
        self
    }
}

/// Why nothing is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotReleased {
    #[error(transparent)]
    Audit(#[from] AuditUnavailable),
    #[error("the permit for this response has expired; ask again")]
    Expired,
    #[error("the permit was given to another caller")]
    OtherCaller,
    #[error(transparent)]
    Sets(#[from] Outage),
    #[error("a patient of this response is no longer shown; ask again")]
    Hidden,
    /// A door or a store returned more than it was permitted: nothing leaves.
    #[error(transparent)]
    NotCovered(#[from] NotCovered),
}

/// The audit record of a response is durable. Opens the [`Held`] values of the same decisions, once.
#[derive(Debug)]
pub struct Release {
    decisions: Vec<u64>,
    index: u64,
}

impl Release {
    /// Index of the record in the audit target that had it durable first.
    pub fn index(&self) -> u64 {
        self.index
    }
}

/// The release is for other decisions than the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the release is not for this value")]
pub struct WrongRelease;

/// A value taken under permits, which only its release opens.
pub struct Held<T> {
    value: T,
    decisions: Vec<u64>,
}

impl<T> Held<T> {
    pub fn under<R>(permit: &Permit<R>, value: T) -> Self {
        Held { value, decisions: vec![permit.grant().decision] }
    }

    /// The value holds data of a further permit too.
    pub fn and<R>(mut self, permit: &Permit<R>) -> Self {
        self.decisions.push(permit.grant().decision);
        self
    }

    /// Renders what is held; the result stays held.
    pub fn map<U>(self, render: impl FnOnce(T) -> U) -> Held<U> {
        Held { value: render(self.value), decisions: self.decisions }
    }

    pub fn release(self, release: Release) -> Result<T, WrongRelease> {
        let covered = self.decisions.iter().all(|decision| release.decisions.contains(decision));
        if covered { Ok(self.value) } else { Err(WrongRelease) }
    }
}

impl<T> fmt::Debug for Held<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held(..)")
    }
}

impl Gate {
    /// Checks the response against its permits once more and makes its audit record durable, in at least one target,
    /// before the `Release` exists.
    pub async fn release(&self, caller: &Caller, access: Access) -> Result<Release, NotReleased> {
        self.check(caller, &access)?;
        let records = access.grants.iter().map(|grant| self.record_of_access(caller, &access, grant)).collect();
        let index = self.audit().append(records).await?;
        // Once more: whoever reads the log after hiding a patient must find every answer that still left.
        self.check_hidden(&access)?;
        Ok(Release { decisions: access.grants.iter().map(|grant| grant.decision).collect(), index })
    }

    fn check(&self, caller: &Caller, access: &Access) -> Result<(), NotReleased> {
        let now = self.now();
        for grant in &access.grants {
            if now >= grant.expires {
                return Err(NotReleased::Expired);
            }
            if grant.principal != *caller.principal() {
                return Err(NotReleased::OtherCaller);
            }
            rows_within(grant, access.rows)?;
            if is_emergency(grant) && self.emergencies().open_of(grant.decision).is_none() {
                return Err(NotReleased::Expired);
            }
        }
        self.check_hidden(access)?;
        for (domain, patients) in &access.patients {
            // Several permits for one domain: each patient must be within one of them.
            let mut left = patients.clone();
            for grant in &access.grants {
                if *domain == self.patients_of(grant.decision).unwrap_or_else(|| grant.domain.clone()) {
                    left = beyond(&left, &grant.patients);
                }
            }
            if !left.is_empty() {
                return Err(NotCovered("patient").into());
            }
        }
        Ok(())
    }

    /// Patients who were hidden while the answer was made.
    fn check_hidden(&self, access: &Access) -> Result<(), NotReleased> {
        if access.action == Action::Write {
            return Ok(());
        }
        for (domain, patients) in &access.patients {
            let hidden = self.patients().hidden(domain)?;
            if !patients.is_disjoint(&hidden) {
                return Err(NotReleased::Hidden);
            }
        }
        Ok(())
    }

    fn record_of_access(&self, caller: &Caller, access: &Access, grant: &Grant) -> AuditRecord {
        let mut record = self.record(caller, &access.origin, grant.domain.clone(), grant.layer, access.outcome);
        record.decision = grant.decision;
        record.policy_version = grant.policy_version;
        record.purpose = Some(grant.purpose);
        record.rows = access.rows;
        record.action = access.action.code().to_owned();
        record.what = access.what.clone();
        record.kinds = grant.kinds.clone();
        record.policies = grant.policies.clone();
        record.obligations = obligations_of(grant);
        record.query_hash = access.query_hash;
        let session = is_emergency(grant).then(|| self.emergencies().open_of(grant.decision)).flatten();
        record.job = session.map(crate::emergency::job_of).or_else(|| access.job.clone());
        record.emergency = access.emergency;
        record.recipient = access.recipient.clone();
        record.destination = access.destination.clone();
        record.patients_of = self.patients_of(grant.decision);
        let numbered_by = record.patient_domain().clone();
        if let Some((_, patients)) = access.patients.iter().find(|(domain, _)| *domain == numbered_by) {
            record.patients = patients.clone();
            if patients.len() == 1
                && let Some(patient) = patients.min()
            {
                record.patient_token = Some(self.audit().patient_token(&numbered_by, patient));
            }
        }
        record
    }
}

fn is_emergency(grant: &Grant) -> bool {
    grant.purpose == base::Purpose::EmergencyTreatment
}

/// Those of `patients` who are not in `allowed`.
fn beyond(patients: &RoaringBitmap, allowed: &PatientSet) -> RoaringBitmap {
    match allowed {
        PatientSet::None => patients.clone(),
        PatientSet::All => RoaringBitmap::new(),
        PatientSet::Only(set) => patients - &**set,
        PatientSet::AllBut(set) => patients & &**set,
    }
}

/// A grant's obligations in the words of the policies.
pub(crate) fn obligations_of(grant: &Grant) -> Vec<String> {
    let mask =
        |mask: &base::Mask| policy::Obligation::Mask { class: mask.class, method: mask.method.clone() }.to_string();
    let mut all: Vec<String> = grant.masks.iter().map(mask).collect();
    all.extend(grant.rows_max.map(|n| policy::Obligation::RowsMax(n).to_string()));
    all.extend(grant.group_min.map(|n| policy::Obligation::GroupMin(n).to_string()));
    let hidden = base::Sensitivity(!grant.sensitivity.0 & known_sensitivities());
    if hidden != base::Sensitivity::NONE {
        all.push(policy::Obligation::Hide(hidden).to_string());
    }
    all
}

fn known_sensitivities() -> u16 {
    policy::obligation::SENSITIVITIES.iter().fold(0, |bits, (_, bit)| bits | bit.0)
}
