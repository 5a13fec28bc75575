//! [`Gate`]: its parts, authentication, and the policies in force.
//!
//! Never here: deciding (see `decide`), releasing (see `release`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use base::{Clock, DomainName, Entropy, Layer, Limits, PermitMint, PrincipalId, Role, SourceName, Timestamp};
use parking_lot::Mutex;
use policy::{Decision, Engine, Labels, PrincipalFacts, PrincipalKind};

use crate::audit::follow::AuditFollower;
use crate::audit::log::AuditLog;
use crate::audit::reader::AuditReader;
use crate::audit::record::{AuditRecord, Outcome};
use crate::audit::records::AuditRecords;
use crate::audit::target::AuditStore;
use crate::cache::Cache;
use crate::caller::{Caller, Directory, Origin, PrincipalRecord};
use crate::emergency::Emergencies;
use crate::patients::{PatientSets, Resolver};
use crate::token::{Claims, TokenKeys, Unauthenticated, check_times, sha256};

const DECISIONS_MAX: usize = 16_384;
const TOKENS_MAX: usize = 16_384;
const SETS_MAX: usize = 4_096;
/// Failed sign-ins recorded one by one per second; the rest is counted in the next record.
const FAILURES_PER_SECOND_MAX: u64 = 50;
/// A bound source needs no token; its caller is renewed by the next connection or message.
const SOURCE_TTL_MS: i64 = 3_600_000;

/// The domain under which the logs about the mesh itself are asked for.
pub fn governance() -> DomainName {
    match DomainName::parse("governance") {
        Ok(name) => name,
        Err(_) => unreachable!("a fixed, valid name"),
    }
}

/// Policies in force, with the answers they gave. Replaced as a whole, so that no answer outlives its policies.
pub(crate) struct Policies {
    engine: Engine,
    answers: Cache<Labels, Arc<Decision>>,
}

impl Policies {
    fn new(engine: Engine) -> Self {
        Policies { engine, answers: Cache::new(DECISIONS_MAX) }
    }

    pub fn version(&self) -> u64 {
        self.engine.version()
    }

    pub fn decide(&self, labels: Labels) -> Arc<Decision> {
        if let Some(known) = self.answers.get(&labels) {
            return known;
        }
        let decision = Arc::new(self.engine.decide_labels(&labels));
        self.answers.insert(labels, decision.clone());
        decision
    }
}

/// What a gate is built from.
pub struct GateParts {
    pub mint: PermitMint,
    pub engine: Engine,
    pub audit: AuditLog,
    pub patients: Arc<dyn PatientSets>,
    pub principals: Arc<dyn Directory>,
    pub tokens: TokenKeys,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub limits: Limits,
}

/// The gate of a node. Cheap to clone.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    mint: PermitMint,
    policies: ArcSwap<Policies>,
    audit: AuditLog,
    patients: Resolver,
    principals: Arc<dyn Directory>,
    tokens: ArcSwap<TokenKeys>,
    verified: Cache<[u8; 32], Arc<Claims>>,
    failures: Mutex<Failures>,
    clock: Arc<dyn Clock>,
    decisions: AtomicU64,
    emergencies: Emergencies,
    entropy: Arc<dyn Entropy>,
    /// Decisions over patients that another domain numbers. One that is forgotten here releases no patient.
    patients_of: Cache<u64, DomainName>,
    permit_ttl_ms: i64,
}

#[derive(Default)]
struct Failures {
    second: i64,
    recorded: u64,
    skipped: u64,
}

impl Gate {
    pub fn new(parts: GateParts) -> Gate {
        let mut first = [0; 8];
        parts.entropy.fill(&mut first);
        Gate(Arc::new(Inner {
            mint: parts.mint,
            policies: ArcSwap::from_pointee(Policies::new(parts.engine)),
            audit: parts.audit,
            patients: Resolver::new(parts.patients, SETS_MAX),
            principals: parts.principals,
            tokens: ArcSwap::from_pointee(parts.tokens),
            verified: Cache::new(TOKENS_MAX),
            failures: Mutex::default(),
            emergencies: Emergencies::new(parts.clock.clone()),
            clock: parts.clock,
            entropy: parts.entropy,
            decisions: AtomicU64::new(u64::from_le_bytes(first)),
            patients_of: Cache::new(DECISIONS_MAX),
            // A permit lives as long as a request may.
            permit_ttl_ms: i64::try_from(parts.limits.http_request_timeout_ms).unwrap_or(i64::MAX),
        }))
    }

    /// Puts new policies in force. Permits given before live out their short life.
    pub fn reload(&self, engine: Engine) {
        self.0.policies.store(Arc::new(Policies::new(engine)));
    }

    /// Believes other token keys from now on, those that were verified before included.
    pub fn trust(&self, tokens: TokenKeys) {
        self.0.tokens.store(Arc::new(tokens));
        self.0.verified.clear();
    }

    /// Version of the policies in force.
    pub fn policy_version(&self) -> u64 {
        self.policies().version()
    }

    /// The caller of an access token (`Authorization: Bearer`, without the word).
    pub async fn authenticate(&self, bearer: Option<&str>) -> Result<Caller, Unauthenticated> {
        self.authenticate_from(bearer, &Origin::default()).await
    }

    /// As [`Gate::authenticate`]; a token that fails is recorded with where it came from.
    pub async fn authenticate_from(&self, bearer: Option<&str>, origin: &Origin) -> Result<Caller, Unauthenticated> {
        let token = bearer.filter(|token| !token.is_empty()).ok_or(Unauthenticated::Missing)?;
        match self.check_token(token) {
            Ok(caller) => Ok(caller),
            Err(reason) => {
                self.record_failure(reason, origin).await;
                Err(reason)
            }
        }
    }

    fn check_token(&self, token: &str) -> Result<Caller, Unauthenticated> {
        // The cache is by hash, so that a dump of memory holds no second copy of tokens.
        let hash = sha256(token.as_bytes());
        let claims = match self.0.verified.get(&hash) {
            Some(claims) => claims,
            None => {
                let claims = Arc::new(self.0.tokens.load().verify(token)?);
                check_times(&claims, self.now())?;
                self.0.verified.insert(hash, claims.clone());
                claims
            }
        };
        check_times(&claims, self.now())?;
        let record = self.0.principals.principal(&claims.sub).map_err(Unauthenticated::Unavailable)?;
        let record = record.filter(|record| record.enabled).ok_or(Unauthenticated::Unknown)?;
        if claims.iat.saturating_mul(1000) < record.tokens_from.ms() {
            return Err(Unauthenticated::Revoked);
        }
        caller_of(&claims, &record)
    }

    async fn record_failure(&self, reason: Unauthenticated, origin: &Origin) {
        let skipped = {
            let mut failures = self.0.failures.lock();
            let second = self.now().ms().div_euclid(1000);
            if failures.second != second {
                (failures.second, failures.recorded) = (second, 0);
            }
            if failures.recorded >= FAILURES_PER_SECOND_MAX {
                failures.skipped += 1;
                return;
            }
            failures.recorded += 1;
            std::mem::take(&mut failures.skipped)
        };
        let Ok(nobody) = PrincipalId::parse("anonymous") else { return };
        let mut record = AuditRecord::new(self.now(), nobody, governance(), Layer::Governance, Outcome::Refused);
        record.door = origin.door.to_owned();
        (record.from, record.trace) = (origin.from, origin.trace);
        (record.action, record.what) = ("sign-in".to_owned(), reason.to_string());
        record.rows = skipped;
        // Nothing is given out either way, so an audit log that is down changes nothing here.
        if self.0.audit.append(vec![record]).await.is_err() {
            tracing::warn!(target: "ward::alarm", "a failed sign-in could not be recorded");
        }
    }

    /// A service that the configuration binds a connection to: a principal without a token, for one purpose in one domain.
    pub fn bound(
        &self,
        principal: &PrincipalId,
        purpose: base::Purpose,
        domain: &DomainName,
    ) -> Result<Caller, Unauthenticated> {
        let record = self.0.principals.principal(principal).map_err(Unauthenticated::Unavailable)?;
        let is_it = |record: &Arc<PrincipalRecord>| {
            record.enabled && record.kind == PrincipalKind::Service && record.domains.contains(domain)
        };
        let record = record.filter(is_it).ok_or(Unauthenticated::Unknown)?;
        let facts = PrincipalFacts {
            id: record.id.clone(),
            kind: record.kind,
            roles: record.roles.clone(),
            domain: Some(domain.clone()),
            source: record.source.clone(),
            assurance: 1,
            training_until: record.training_until,
            care_team: false,
            agreements: record.agreements.clone(),
        };
        Ok(Caller {
            facts: Arc::new(facts),
            on_behalf: None,
            purpose: Some(purpose),
            agreement: None,
            token: None,
            issued: self.now(),
            expires: self.now().plus_ms(SOURCE_TTL_MS),
        })
    }

    /// The caller of a feed that is bound by its listener or certificate.
    pub fn source(&self, name: &SourceName) -> Result<Caller, Unauthenticated> {
        let record = self.0.principals.source(name).map_err(Unauthenticated::Unavailable)?;
        let record = record.filter(|record| record.enabled).ok_or(Unauthenticated::Unknown)?;
        let id = PrincipalId::parse(&format!("source:{}", record.name)).map_err(|_| Unauthenticated::Unknown)?;
        let facts = PrincipalFacts {
            id,
            kind: PrincipalKind::Service,
            roles: vec![Role::Feed],
            domain: Some(record.domain.clone()),
            source: Some(record.name.clone()),
            // Bound by a certificate or by the listener's network: one factor, not two.
            assurance: 1,
            training_until: None,
            care_team: false,
            agreements: Vec::new(),
        };
        Ok(Caller {
            facts: Arc::new(facts),
            on_behalf: None,
            purpose: Some(record.purpose),
            agreement: None,
            token: None,
            issued: self.now(),
            expires: self.now().plus_ms(SOURCE_TTL_MS),
        })
    }

    /// Keyed hash of a query's text, for [`crate::Access::query`]: equal queries are seen to be equal, their text is not
    /// kept.
    pub fn query_hash(&self, text: &[u8]) -> [u8; 16] {
        self.0.audit.query_hash(text)
    }

    /// A reader over all targets that the follower compares.
    pub fn audit_reader(&self, follower: AuditFollower) -> AuditReader {
        AuditReader::new(follower, self.0.audit.clone(), self.0.clock.clone())
    }

    /// Whole records of the first audit target that is there, for renderings and shipping.
    pub fn audit_records(&self, stores: Vec<Arc<dyn AuditStore>>) -> AuditRecords {
        AuditRecords::new(stores, self.0.audit.clone(), self.0.clock.clone())
    }

    pub fn audit(&self) -> &AuditLog {
        &self.0.audit
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    pub(crate) fn mint(&self) -> &PermitMint {
        &self.0.mint
    }

    pub(crate) fn policies(&self) -> Arc<Policies> {
        self.0.policies.load_full()
    }

    pub(crate) fn patients(&self) -> &Resolver {
        &self.0.patients
    }

    pub(crate) fn emergencies(&self) -> &Emergencies {
        &self.0.emergencies
    }

    pub(crate) fn random(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        self.0.entropy.fill(&mut bytes);
        bytes
    }

    pub(crate) fn remember_patients_of(&self, decision: u64, domain: &DomainName) {
        self.0.patients_of.insert(decision, domain.clone());
    }

    /// The domain that numbers a grant's patients, when it is not the grant's own.
    pub(crate) fn patients_of(&self, decision: u64) -> Option<DomainName> {
        self.0.patients_of.get(&decision)
    }

    pub(crate) fn permit_ttl_ms(&self) -> i64 {
        self.0.permit_ttl_ms
    }

    /// Ids count up from a random start: unique on this node, unlikely to meet another's.
    pub(crate) fn next_decision(&self) -> u64 {
        self.0.decisions.fetch_add(1, Ordering::Relaxed)
    }

    /// A record with what is known of the caller and where the request came in.
    pub(crate) fn record(
        &self,
        caller: &Caller,
        origin: &Origin,
        domain: DomainName,
        layer: Layer,
        outcome: Outcome,
    ) -> AuditRecord {
        let mut record = AuditRecord::new(self.now(), caller.principal().clone(), domain, layer, outcome);
        record.on_behalf = caller.on_behalf.clone();
        record.token = caller.token;
        record.agreement = caller.agreement.clone();
        record.door = origin.door.to_owned();
        (record.from, record.trace) = (origin.from, origin.trace);
        record
    }
}

/// A token narrows what the directory says and never widens it.
fn caller_of(claims: &Claims, record: &PrincipalRecord) -> Result<Caller, Unauthenticated> {
    let domain = match &claims.domain {
        Some(named) if record.domains.contains(named) => Some(named.clone()),
        Some(_) => return Err(Unauthenticated::Invalid),
        None => match record.domains.as_slice() {
            [only] => Some(only.clone()),
            _ => None,
        },
    };
    let facts = PrincipalFacts {
        id: record.id.clone(),
        kind: record.kind,
        roles: record.roles.iter().copied().filter(|role| claims.roles.contains(role)).collect(),
        domain,
        source: record.source.clone(),
        assurance: claims.assurance.min(record.assurance_max),
        training_until: record.training_until,
        care_team: claims.care_team && record.care_team,
        agreements: record.agreements.clone(),
    };
    let mut token = [0; 16];
    token.copy_from_slice(&sha256(claims.jti.as_bytes())[..16]);
    Ok(Caller {
        facts: Arc::new(facts),
        on_behalf: claims.on_behalf.clone(),
        purpose: claims.purpose.or(record.purpose),
        agreement: claims.agreement.clone(),
        token: Some(token),
        issued: Timestamp(claims.iat.saturating_mul(1000)),
        expires: Timestamp(claims.exp.saturating_mul(1000)),
    })
}
