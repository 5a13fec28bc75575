//! Permits for the node's own workers, which act for nobody and hold no token. What each may touch stands in one table;
//! a worker that is not in it gets nothing.

use std::sync::Arc;

use base::{DomainName, Grant, Layer, PatientSet, Permit, PrincipalId, Purpose, Read, Role, Sensitivity};
use policy::{PrincipalFacts, PrincipalKind};

use crate::caller::Caller;
use crate::decide::{Refusal, RefusalKind, Right};
use crate::gate::Gate;
use crate::release::{Access, NotReleased, Release};

/// A worker asks anew at least this often.
const PERMIT_TTL_MS: i64 = 600_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Read,
    Write,
    Manage,
}

use Layer::{Bronze, Gold, Governance, Silver};

/// (worker, what it may do where).
const WORKERS: &[(&str, &[(Needs, Layer)])] = &[
    // Reads the journal, writes silver; marks its journal entries as re-wrapped.
    ("refine", &[(Needs::Read, Bronze), (Needs::Write, Bronze), (Needs::Read, Silver), (Needs::Write, Silver)]),
    // Rebuilds the search index from silver.
    ("index", &[(Needs::Read, Silver), (Needs::Write, Silver)]),
    // Builds products from silver and from other products.
    ("build", &[(Needs::Read, Silver), (Needs::Read, Gold), (Needs::Write, Gold)]),
    // Ships journal entries and what is made of silver to routes, and audit records to their receivers.
    ("ship", &[(Needs::Read, Bronze), (Needs::Read, Silver), (Needs::Read, Governance)]),
    // The node itself: start-up, control log, drain.
    ("ward", &[(Needs::Manage, Governance), (Needs::Write, Governance), (Needs::Read, Governance)]),
];

/// The rights a generic `R` stands for, told by an action that only it allows.
fn needs_of<R: Right>() -> Needs {
    if R::allows(policy::Action::Read) {
        Needs::Read
    } else if R::allows(policy::Action::Write) {
        Needs::Write
    } else {
        Needs::Manage
    }
}

impl Gate {
    /// A permit for a worker of this node, over all patients of a domain but the erased.
    pub fn node_permit<R: Right>(
        &self,
        worker: &'static str,
        domain: &DomainName,
        layer: Layer,
    ) -> Result<Permit<R>, Refusal> {
        let purpose = if layer == Governance { Purpose::SystemAdministration } else { Purpose::Operations };
        self.node_permit_for(worker, domain, layer, purpose)
    }

    /// As [`Gate::node_permit`], for what leaves the node: the purpose for which its receiver gets it.
    pub fn node_permit_for<R: Right>(
        &self,
        worker: &'static str,
        domain: &DomainName,
        layer: Layer,
        purpose: Purpose,
    ) -> Result<Permit<R>, Refusal> {
        let unknown =
            || Refusal::new(RefusalKind::Forbidden, "this worker has no such right; see gate::worker's table");
        let (_, rights) = WORKERS.iter().find(|(name, _)| *name == worker).ok_or_else(unknown)?;
        if !rights.contains(&(needs_of::<R>(), layer)) {
            return Err(unknown());
        }
        let principal = PrincipalId::parse(&format!("ward:{worker}")).map_err(|_| unknown())?;
        let grant = Grant {
            decision: self.next_decision(),
            principal,
            purpose,
            domain: domain.clone(),
            layer,
            kinds: Vec::new(),
            patients: PatientSet::All,
            sensitivity: Sensitivity(u16::MAX),
            masks: Vec::new(),
            rows_max: None,
            group_min: None,
            policies: vec![format!("ward:worker:{worker}")],
            policy_version: self.policies().version(),
            expires: self.now().plus_ms(PERMIT_TTL_MS),
        };
        Ok(self.mint().mint(grant))
    }

    /// As [`Gate::release`], for what a worker sends out of the node under its permit; `agreement` covers whoever gets it.
    pub async fn node_release(
        &self,
        permit: &Permit<Read>,
        agreement: Option<&str>,
        access: Access,
    ) -> Result<Release, NotReleased> {
        let grant = permit.grant();
        let facts = PrincipalFacts {
            id: grant.principal.clone(),
            kind: PrincipalKind::Service,
            roles: vec![Role::Node],
            domain: None,
            source: None,
            assurance: 1,
            training_until: None,
            care_team: false,
            agreements: Vec::new(),
        };
        let caller = Caller {
            facts: Arc::new(facts),
            on_behalf: None,
            purpose: Some(grant.purpose),
            agreement: agreement.map(str::to_owned),
            token: None,
            issued: self.now(),
            expires: grant.expires,
        };
        self.release(&caller, access).await
    }
}
