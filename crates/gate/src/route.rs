//! What a route may send: each message is asked about by itself, for the patients it names and the labels of what it
//! tells. A refusal is durable in the audit log, for each patient by their token, before it is answered.
//!
//! Never here: what a message is and where it goes (see `relay`), the rules (see `policy`).

use std::sync::Arc;

use base::{
    DomainName, Grant, Layer, Mask, Ordinal, Permit, PrincipalId, Purpose, Read, Role, Sensitivity, SourceName,
};
use policy::{Action, Agreement, PrincipalFacts, PrincipalKind};

use crate::audit::record::AuditRecord;
use crate::caller::{Caller, Origin, Outage};
use crate::decide::{Ask, Refusal, RefusalKind, unavailable};
use crate::gate::Gate;

/// A route asks anew for every message.
const CALLER_TTL_MS: i64 = 3_600_000;

/// A route as it is declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteRecord {
    pub name: SourceName,
    pub domain: DomainName,
    pub purpose: Purpose,
    /// The agreement that it names, as it is in force. `None`: the receiver is the hospital's own.
    pub agreement: Option<Agreement>,
}

/// How a message is de-identified on its way.
pub trait Profile: Send + Sync {
    /// The names for which `de-identify(NAME)` is met.
    fn names(&self) -> &'static [&'static str];
    /// Whether it shows no more than the mask allows.
    fn meets(&self, mask: &Mask) -> bool;
}

/// A message as it is about to leave.
#[derive(Clone, Copy)]
pub struct Sending<'a> {
    pub domain: &'a DomainName,
    /// Resource types that it tells of; empty is "unknown, so any".
    pub kinds: &'a [String],
    pub patients: &'a [Ordinal],
    /// Labels of what it tells.
    pub sensitivity: Sensitivity,
    pub profile: Option<&'a dyn Profile>,
    pub origin: &'a Origin,
    /// Names route and message, without PHI.
    pub what: &'a str,
    pub recipient: &'a str,
    pub destination: &'a str,
}

impl Gate {
    /// The route as a caller. An agreement that has ended, or does not allow the purpose, is a refusal: nothing may
    /// leave, whoever the patient is.
    pub fn route(&self, record: &RouteRecord) -> Result<Caller, Refusal> {
        let refuse = |reason: String| Err(Refusal::new(RefusalKind::Forbidden, reason));
        if let Some(agreement) = &record.agreement {
            if self.now() >= agreement.until {
                return refuse(format!("the agreement `{}` is not in force", agreement.id));
            }
            if !agreement.purposes.is_empty() && !agreement.purposes.contains(&record.purpose) {
                return refuse(format!("the agreement `{}` does not allow this purpose", agreement.id));
            }
        }
        let id = PrincipalId::parse(&format!("route:{}:{}", record.domain, record.name))
            .map_err(|_| Refusal::new(RefusalKind::Invalid, "the route's name is no principal's"))?;
        let facts = PrincipalFacts {
            id,
            kind: PrincipalKind::Service,
            roles: vec![Role::Route],
            domain: Some(record.domain.clone()),
            source: None,
            assurance: 1,
            training_until: None,
            care_team: false,
            agreements: record.agreement.iter().cloned().collect(),
        };
        Ok(Caller {
            facts: Arc::new(facts),
            on_behalf: None,
            purpose: Some(record.purpose),
            agreement: record.agreement.as_ref().map(|agreement| agreement.id.clone()),
            token: None,
            issued: self.now(),
            expires: self.now().plus_ms(CALLER_TTL_MS),
        })
    }

    /// A permit over the patients of this message, or a refusal that is durable in the audit log.
    pub async fn permit_to_send(&self, route: &Caller, sending: Sending<'_>) -> Result<Permit<Read>, Refusal> {
        let decision = self.next_decision();
        let (refusal, about) = match self.decide_sending(route, &sending, decision) {
            Ok(grant) => return Ok(self.mint().mint(grant)),
            Err((refusal, about)) => (Refusal { decision, ..refusal }, about),
        };
        let records = self.records_of_refusal(route, &sending, &refusal, &about);
        match self.audit().append(records).await {
            Ok(_) => Err(refusal),
            Err(_) => Err(unavailable(decision)),
        }
    }

    /// Whether [`Gate::permit_to_send`] would give a permit now; not recorded. An outage counts as no.
    pub fn would_permit_to_send(&self, route: &Caller, sending: Sending<'_>) -> bool {
        self.decide_sending(route, &sending, 0).is_ok()
    }

    /// Whether one of the patients is shown to nobody now.
    pub fn is_any_hidden(&self, domain: &DomainName, patients: &[Ordinal]) -> Result<bool, Outage> {
        let hidden = self.patients().hidden(domain)?;
        Ok(patients.iter().any(|patient| hidden.contains(patient.0)))
    }

    /// A refusal comes with the patients because of whom; none when it is not because of one.
    fn decide_sending(
        &self,
        route: &Caller,
        sending: &Sending<'_>,
        decision: u64,
    ) -> Result<Grant, (Refusal, Vec<Ordinal>)> {
        let grant = self.decide::<Read>(route, &ask_of(sending), decision).map_err(|refusal| (refusal, Vec::new()))?;
        let refuse = |reason: &str, about: Vec<Ordinal>| {
            let policies = grant.policies.iter().map(|id| Arc::from(id.as_str())).collect();
            Err((Refusal { policies, ..Refusal::new(RefusalKind::Forbidden, reason) }, about))
        };
        let beyond: Vec<Ordinal> =
            sending.patients.iter().copied().filter(|patient| !grant.patients.contains(*patient)).collect();
        if !beyond.is_empty() {
            return refuse("policy does not let the record of a patient it names go there", beyond);
        }
        if !sending.sensitivity.is_within(grant.sensitivity) {
            return refuse("it tells what is specially protected, which policy does not let go there", Vec::new());
        }
        if grant.masks.iter().any(|mask| !sending.profile.is_some_and(|profile| profile.meets(mask))) {
            return refuse("policy wants values masked that the route does not mask", Vec::new());
        }
        if grant.group_min.is_some() {
            return refuse("policy lets only groups of patients go there", Vec::new());
        }
        Ok(grant)
    }

    fn records_of_refusal(
        &self,
        route: &Caller,
        sending: &Sending<'_>,
        refusal: &Refusal,
        about: &[Ordinal],
    ) -> Vec<AuditRecord> {
        let ask = ask_of(sending);
        let record = |ask: &Ask| {
            let mut record = self.record_of_refusal(route, ask, refusal);
            record.what = format!("{}: {}", sending.what, record.what);
            record.recipient = Some(sending.recipient.to_owned());
            record.destination = Some(sending.destination.to_owned());
            record
        };
        let about = if about.is_empty() { sending.patients } else { about };
        if about.is_empty() {
            return vec![record(&ask)];
        }
        about.iter().map(|patient| record(&ask.clone().patient(*patient))).collect()
    }
}

fn ask_of(sending: &Sending<'_>) -> Ask {
    let ask = Ask::new(Action::Export, sending.domain, Layer::Silver, sending.origin);
    let ask = ask.kinds(sending.kinds.iter().map(String::as_str));
    ask.de_identified(sending.profile.map_or(&[], Profile::names))
}
