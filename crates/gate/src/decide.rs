//! From a question to a permit: [`Gate::permit`]. Asks `policy` once per kind (from a cache where it can), narrows to
//! patients, mints. Every refusal is durable in the audit log before it is answered.
//!
//! Never here: rules (see `policy`), sets (see `patients`), the response (see `release`).

use std::fmt;
use std::sync::Arc;

use base::{
    DataClass, DomainName, Grant, Layer, Manage, Mask, NotCovered, Ordinal, PatientSet, Permit, Purpose, Read,
    Sensitivity, SourceName, Write,
};
use policy::{Action, ContextFacts, Decision, Obligation, Request, ResourceFacts, RowRule};

use crate::audit::record::{AuditRecord, Outcome};
use crate::caller::{Caller, Origin, Outage};
use crate::emergency::{Active, SessionId};
use crate::gate::Gate;

/// A kind is a resource type, a product or a source; longer is none of them.
const KIND_BYTES_MAX: usize = 64;
const KINDS_MAX: usize = 256;

mod sealed {
    pub trait Sealed {}
    impl Sealed for base::Read {}
    impl Sealed for base::Write {}
    impl Sealed for base::Manage {}
}

/// A right that a permit can give, and the actions that ask for it.
pub trait Right: sealed::Sealed {
    fn allows(action: Action) -> bool;
}

impl Right for Read {
    fn allows(action: Action) -> bool {
        use Action::*;
        matches!(action, Read | Search | Export | Subscribe | BreakGlass | Query | AuditRead | ProofRead | MetadataRead)
    }
}

impl Right for Write {
    fn allows(action: Action) -> bool {
        matches!(action, Action::Write | Action::Ingest | Action::Build)
    }
}

impl Right for Manage {
    fn allows(action: Action) -> bool {
        matches!(action, Action::Manage | Action::Replay | Action::Check | Action::MintToken)
    }
}

/// Which patients a request means to reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// Whomever policy allows.
    #[default]
    All,
    /// Only those of the caller's care team ("my patients").
    CareTeam,
    One(Ordinal),
}

/// What is known of a product that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProductLabels {
    pub phi: bool,
    pub classes: Vec<DataClass>,
    pub sensitivity: Sensitivity,
}

/// Unknown is the worst case.
impl Default for ProductLabels {
    fn default() -> Self {
        ProductLabels { phi: true, classes: Vec::new(), sensitivity: Sensitivity::NONE }
    }
}

/// A question to the gate.
#[derive(Debug, Clone)]
pub struct Ask {
    pub action: Action,
    pub domain: DomainName,
    pub layer: Layer,
    /// Resource types, products, sources or what is managed. Empty: every kind of the layer.
    pub kinds: Vec<String>,
    /// See [`Ask::also`].
    also: Vec<String>,
    /// Stated by the request; must agree with what the token or the registration binds.
    pub purpose: Option<Purpose>,
    /// See [`Ask::under`].
    session: Option<String>,
    pub scope: Scope,
    /// The domain that numbers the patients, for a product built from another domain's records.
    pub patients_of: Option<DomainName>,
    pub product: ProductLabels,
    /// See [`Ask::through`].
    pub journal: Option<SourceName>,
    /// See [`Ask::de_identified`].
    profiles: &'static [&'static str],
    pub origin: Origin,
}

impl Ask {
    pub fn new(action: Action, domain: &DomainName, layer: Layer, origin: &Origin) -> Self {
        Ask {
            action,
            domain: domain.clone(),
            layer,
            kinds: Vec::new(),
            also: Vec::new(),
            purpose: None,
            session: None,
            scope: Scope::All,
            patients_of: None,
            product: ProductLabels::default(),
            journal: None,
            profiles: &[],
            origin: origin.clone(),
        }
    }

    pub fn kind(mut self, kind: &str) -> Self {
        self.kinds.push(kind.to_owned());
        self
    }

    pub fn kinds<'a>(mut self, kinds: impl IntoIterator<Item = &'a str>) -> Self {
        self.kinds.extend(kinds.into_iter().map(str::to_owned));
        self
    }

    /// Kinds that the permit covers where policy allows them and leaves out where it does not: what may come beside what
    /// was asked for.
    pub fn also<'a>(mut self, kinds: impl IntoIterator<Item = &'a str>) -> Self {
        self.also.extend(kinds.into_iter().map(str::to_owned));
        self
    }

    pub fn patient(mut self, patient: Ordinal) -> Self {
        self.scope = Scope::One(patient);
        self
    }

    pub fn care_team(mut self) -> Self {
        self.scope = Scope::CareTeam;
        self
    }

    /// The product's patients are numbered by this domain; the default is the domain asked for.
    pub fn patients_of(mut self, domain: &DomainName) -> Self {
        self.patients_of = (*domain != self.domain).then(|| domain.clone());
        self
    }

    pub(crate) fn patient_domain(&self) -> &DomainName {
        self.patients_of.as_ref().unwrap_or(&self.domain)
    }

    pub fn stating(mut self, purpose: Option<Purpose>) -> Self {
        self.purpose = purpose;
        self
    }

    /// For writes through an API: they are decided on the resource types they write, and the permit is for the journal
    /// entry that carries them, as this source.
    pub fn through(mut self, source: &SourceName) -> Self {
        self.journal = Some(source.clone());
        self
    }

    /// Within a break-glass session of the caller: the purpose becomes ETREAT, and the session's patient is the only
    /// one.
    pub fn under(mut self, session: &str) -> Self {
        self.session = Some(session.to_owned());
        self
    }

    /// What leaves passes these de-identification profiles, so that an obligation to one of them is carried out.
    pub(crate) fn de_identified(mut self, profiles: &'static [&'static str]) -> Self {
        self.profiles = profiles;
        self
    }

    pub(crate) fn is_emergency(&self) -> bool {
        self.session.is_some() || self.action == Action::BreakGlass
    }

    pub fn product(mut self, labels: ProductLabels) -> Self {
        self.product = labels;
        self
    }
}

/// What kind of no it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// Authenticate again.
    Expired,
    /// Policy says no.
    Forbidden,
    /// The request contradicts itself; a door's mistake or a hostile client.
    Invalid,
    /// Something that decisions need is down. Not a missing right.
    Unavailable,
}

/// A no, with its reasons. It is in the audit log unless that could not answer ([`RefusalKind::Unavailable`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub kind: RefusalKind,
    /// Sentences for the user, without PHI.
    pub reasons: Vec<Arc<str>>,
    /// The policies that forbid; empty when nothing permits.
    pub policies: Vec<Arc<str>>,
    /// Id of the decision, as the audit record has it.
    pub decision: u64,
}

impl Refusal {
    pub(crate) fn new(kind: RefusalKind, reason: impl Into<Arc<str>>) -> Self {
        Refusal { kind, reasons: vec![reason.into()], policies: Vec::new(), decision: 0 }
    }
}

impl From<Outage> for Refusal {
    fn from(outage: Outage) -> Self {
        Refusal::new(RefusalKind::Unavailable, outage.to_string())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reasons.join("; "))
    }
}

impl std::error::Error for Refusal {}

impl Gate {
    /// A permit for the right `R`, or a refusal that is durable in the audit log.
    pub async fn permit<R: Right>(&self, caller: &Caller, ask: Ask) -> Result<Permit<R>, Refusal> {
        let decision = self.next_decision();
        let decided = self.decide_under::<R>(caller, &ask, decision);
        match decided {
            Ok((grant, session)) => {
                if let Some(session) = session {
                    self.emergencies().used(decision, session.id).await?;
                }
                Ok(self.mint().mint(grant))
            }
            Err(refusal) => Err(self.refused(caller, &ask, Refusal { decision, ..refusal }).await),
        }
    }

    /// The refusal, when it is durable in the audit log.
    pub(crate) async fn refused(&self, caller: &Caller, ask: &Ask, refusal: Refusal) -> Refusal {
        let record = self.record_of_refusal(caller, ask, &refusal);
        match self.audit().append(vec![record]).await {
            Ok(_) => refusal,
            Err(_) => unavailable(refusal.decision),
        }
    }

    /// Whether [`Gate::permit`] would give a permit now. For lists that show a caller what they may use; gives no data
    /// and is no access, so it is not recorded. An outage counts as no.
    pub fn would_permit<R: Right>(&self, caller: &Caller, ask: &Ask) -> bool {
        self.decide_under::<R>(caller, ask, 0).is_ok()
    }

    /// Within a break-glass session the question is narrowed to its patient before it is decided.
    fn decide_under<R: Right>(
        &self,
        caller: &Caller,
        ask: &Ask,
        decision: u64,
    ) -> Result<(Grant, Option<Active>), Refusal> {
        if ask.action == Action::BreakGlass {
            return Err(Refusal::new(
                RefusalKind::Invalid,
                "break-glass is asked for and confirmed by its own two steps",
            ));
        }
        let Some(session) = &ask.session else { return Ok((self.decide::<R>(caller, ask, decision)?, None)) };
        let session = self.emergencies().active(caller, session)?;
        let mut grant = self.decide::<R>(caller, &narrowed(ask, &session)?, decision)?;
        grant.expires = grant.expires.min(self.now().plus_ms(session.left_ms));
        Ok((grant, Some(session)))
    }

    pub(crate) fn decide<R: Right>(&self, caller: &Caller, ask: &Ask, decision: u64) -> Result<Grant, Refusal> {
        let now = self.now();
        if now >= caller.expires {
            return Err(Refusal::new(RefusalKind::Expired, "the sign-in has expired; ask for a new access token"));
        }
        if !R::allows(ask.action) {
            let reason = "this action asks for another right than the door wants";
            return Err(Refusal::new(RefusalKind::Invalid, reason));
        }
        check_kinds(&ask.kinds)?;
        check_kinds(&ask.also)?;
        if ask.journal.is_some() && (ask.action, ask.layer) != (Action::Write, Layer::Silver) {
            return Err(Refusal::new(RefusalKind::Invalid, "only a write of resources goes through a journal"));
        }
        let purpose = purpose_of(caller, ask)?;
        let (answer, kinds) = self.answer(caller, ask, purpose)?;
        if !answer.allow {
            let Decision { policies, reasons, .. } = answer;
            return Err(Refusal { kind: RefusalKind::Forbidden, reasons, policies, decision });
        }
        self.grant(caller, ask, purpose, answer, kinds, decision)
    }

    /// One decision per kind, joined, and the kinds that it is about.
    fn answer(&self, caller: &Caller, ask: &Ask, purpose: Option<Purpose>) -> Result<(Decision, Vec<String>), Refusal> {
        let in_care_team = match ask.scope {
            Scope::All => false,
            Scope::CareTeam => true,
            Scope::One(patient) => self.patients().is_own(ask.patient_domain(), caller.principal(), patient)?,
        };
        let policies = self.policies();
        let kinds: &[String] = if ask.kinds.is_empty() { &["*".to_owned()] } else { &ask.kinds };
        let decide = |kind: &String| {
            let request = Request {
                principal: (*caller.facts).clone(),
                action: ask.action,
                resource: ResourceFacts {
                    domain: ask.domain.clone(),
                    layer: ask.layer,
                    kind: kind.clone(),
                    phi: ask.product.phi,
                    one_patient: matches!(ask.scope, Scope::One(_)),
                    in_care_team,
                    classes: ask.product.classes.clone(),
                    sensitivity: ask.product.sensitivity,
                },
                context: ContextFacts {
                    purpose,
                    emergency: ask.is_emergency(),
                    agreement: caller.agreement.clone(),
                    network: ask.origin.network(),
                    now: self.now(),
                },
            };
            policies.decide(request.labels())
        };
        let mut decisions: Vec<Decision> = kinds.iter().map(|kind| (*decide(kind)).clone()).collect();
        let mut covered = ask.kinds.clone();
        // Where nothing is named, every kind is.
        for kind in ask.also.iter().filter(|_| !ask.kinds.is_empty()) {
            let decision = decide(kind);
            if decision.allow && !covered.contains(kind) {
                decisions.push((*decision).clone());
                covered.push(kind.clone());
            }
        }
        let one = if decisions.len() == 1 { decisions.pop() } else { None };
        Ok((one.unwrap_or_else(|| policy::merge(decisions)), covered))
    }

    fn grant(
        &self,
        caller: &Caller,
        ask: &Ask,
        purpose: Option<Purpose>,
        answer: Decision,
        kinds: Vec<String>,
        decision: u64,
    ) -> Result<Grant, Refusal> {
        let duties = Duties::of(&answer, ask.profiles)?;
        let mut rules = duties.rules;
        if ask.scope == Scope::CareTeam {
            rules.push(RowRule::CareTeam);
        }
        let mut patients = self.patients().resolve(ask.patient_domain(), caller.principal(), rules)?;
        if let Scope::One(patient) = ask.scope {
            patients = patients.intersect(&PatientSet::one(patient));
        }
        let (layer, kinds) = match &ask.journal {
            Some(source) => (Layer::Bronze, vec![source.to_string()]),
            None => (ask.layer, kinds),
        };
        if let Some(domain) = &ask.patients_of {
            self.remember_patients_of(decision, domain);
        }
        Ok(Grant {
            decision,
            principal: caller.principal().clone(),
            // What is not about patients needs no purpose of its own.
            purpose: purpose.unwrap_or(Purpose::SystemAdministration),
            domain: ask.domain.clone(),
            layer,
            kinds,
            patients,
            sensitivity: Sensitivity(!duties.hidden.0),
            masks: duties.masks,
            rows_max: duties.rows_max,
            group_min: duties.group_min,
            policies: answer.policies.iter().map(|id| id.to_string()).collect(),
            policy_version: self.policies().version(),
            expires: caller.expires.min(self.now().plus_ms(self.permit_ttl_ms())),
        })
    }

    pub(crate) fn record_of_refusal(&self, caller: &Caller, ask: &Ask, refusal: &Refusal) -> AuditRecord {
        let mut record = self.record(caller, &ask.origin, ask.domain.clone(), ask.layer, Outcome::Refused);
        record.decision = refusal.decision;
        record.policy_version = self.policies().version();
        record.purpose = if ask.is_emergency() { Some(Purpose::EmergencyTreatment) } else { caller.purpose };
        record.action = ask.action.code().to_owned();
        // What a client made up stays out of the log: only names that could be kinds are kept.
        record.kinds = ask.kinds.iter().filter(|kind| is_kind(kind)).take(KINDS_MAX).cloned().collect();
        record.policies = refusal.policies.iter().map(|id| id.to_string()).collect();
        record.what = refusal.reasons.first().map(|reason| reason.to_string()).unwrap_or_default();
        record.emergency = ask.is_emergency();
        record.job = ask.session.as_deref().and_then(SessionId::parse).map(crate::emergency::job_of);
        self.name_patient(&mut record, ask);
        record
    }

    /// Whom it was about, as a token: no data of theirs goes out with this record.
    pub(crate) fn name_patient(&self, record: &mut AuditRecord, ask: &Ask) {
        record.patients_of = ask.patients_of.clone();
        if let Scope::One(patient) = ask.scope {
            record.patient_token = Some(self.audit().patient_token(ask.patient_domain(), patient.0));
        }
    }
}

/// The question, for the session's patient only.
fn narrowed(ask: &Ask, session: &Active) -> Result<Ask, Refusal> {
    let forbidden = |reason: &str| Err(Refusal::new(RefusalKind::Forbidden, reason));
    if ask.domain != session.domain || *ask.patient_domain() != session.domain {
        return forbidden("the break-glass session is for another domain");
    }
    match ask.scope {
        Scope::One(patient) if patient != session.patient => {
            forbidden("the break-glass session is for another patient")
        }
        _ => Ok(Ask { scope: Scope::One(session.patient), ..ask.clone() }),
    }
}

pub(crate) fn unavailable(decision: u64) -> Refusal {
    let reason = "the audit log cannot record this, so the answer is no; try again shortly";
    Refusal { decision, ..Refusal::new(RefusalKind::Unavailable, reason) }
}

fn is_kind(kind: &str) -> bool {
    !kind.is_empty()
        && kind.len() <= KIND_BYTES_MAX
        && kind.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn check_kinds(kinds: &[String]) -> Result<(), Refusal> {
    if kinds.len() <= KINDS_MAX && kinds.iter().all(|kind| is_kind(kind)) {
        return Ok(());
    }
    let reason = "what is asked for is not the name of a resource type, a product or a source";
    Err(Refusal::new(RefusalKind::Invalid, reason))
}

/// The bound purpose. A request may state it again, and may only leave it for an emergency.
fn purpose_of(caller: &Caller, ask: &Ask) -> Result<Option<Purpose>, Refusal> {
    if ask.is_emergency() {
        return Ok(Some(Purpose::EmergencyTreatment));
    }
    match (caller.purpose, ask.purpose) {
        (bound, None) => Ok(bound),
        (Some(bound), Some(stated)) if bound == stated => Ok(Some(bound)),
        _ => Err(Refusal::new(
            RefusalKind::Forbidden,
            "the request states another purpose than the access token is for; ask for a token with that purpose",
        )),
    }
}

/// Obligations sorted by who carries them out.
struct Duties {
    rules: Vec<RowRule>,
    hidden: Sensitivity,
    masks: Vec<Mask>,
    rows_max: Option<u64>,
    group_min: Option<u32>,
}

impl Duties {
    fn of(answer: &Decision, profiles: &[&str]) -> Result<Duties, Refusal> {
        let mut duties =
            Duties { rules: vec![], hidden: Sensitivity::NONE, masks: vec![], rows_max: None, group_min: None };
        for obliged in &answer.obligations {
            match &obliged.what {
                Obligation::Mask { class, method } => duties.masks.push(Mask {
                    class: *class,
                    method: method.clone(),
                    policy: obliged.policy.to_string(),
                    reason: obliged.reason.to_string(),
                }),
                Obligation::Rows(rule) => duties.rules.push(*rule),
                Obligation::Hide(hidden) => duties.hidden = duties.hidden.with(*hidden),
                Obligation::RowsMax(n) => duties.rows_max = Some(*n),
                Obligation::GroupMin(n) => duties.group_min = Some(*n),
                // Carried by the audit record: those who hold the role read it there.
                Obligation::Notify(_) => {}
                // A permit cannot carry a profile, and an obligation that nobody carries out is a no.
                Obligation::DeIdentify(profile) if profiles.contains(&profile.as_str()) => {}
                Obligation::DeIdentify(_) => {
                    let reason = "this data may leave only through a de-identification profile, which this door lacks";
                    return Err(Refusal {
                        policies: vec![obliged.policy.clone()],
                        ..Refusal::new(RefusalKind::Forbidden, reason)
                    });
                }
            }
        }
        Ok(duties)
    }
}

/// Used by `release` and by readers of permits.
pub(crate) fn rows_within(grant: &Grant, rows: u64) -> Result<(), NotCovered> {
    match grant.rows_max {
        Some(max) if rows > max => Err(NotCovered("number of rows")),
        _ => Ok(()),
    }
}
