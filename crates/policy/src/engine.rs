//! The decision itself. See the crate's page for the six rules; the order of [`Engine::decide_labels`] is their order.
//!
//! Never here: files (see `load`), caches (see `gate`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use base::{DomainName, Purpose, Role};
use cedar_policy::{
    Authorizer, Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicySet, RestrictedExpression,
};

use crate::facts::{Action, Labels, Network, PrincipalKind, Request, ResourceType};
use crate::load::{self, Diagnostic, Loaded, Rules};
use crate::obligation::{self, Obliged, SENSITIVITIES};

/// The answer, with what determined it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub allow: bool,
    /// Allowed: the way in, then the forbids whose obligations are carried out. Refused: what forbids, or nothing.
    pub policies: Vec<Arc<str>>,
    /// Joined and sorted; empty when refused.
    pub obligations: Vec<Obliged>,
    /// Sentences for the user.
    pub reasons: Vec<Arc<str>>,
}

impl Decision {
    fn refuse(policies: Vec<Arc<str>>, reasons: Vec<Arc<str>>) -> Self {
        Decision { allow: false, policies, obligations: Vec::new(), reasons }
    }

    fn built_in(policy: &str, reason: impl Into<Arc<str>>) -> Self {
        Decision::refuse(vec![policy.into()], vec![reason.into()])
    }
}

/// Loaded policies. Immutable: a reload makes a new one.
#[derive(Debug)]
pub struct Engine {
    loaded: Loaded,
    names: Names,
    authorizer: Authorizer,
    version: u64,
}

impl Engine {
    /// Loads and checks (path, text) pairs. A path through `domains/<name>/` binds its file to that domain.
    pub fn load<P: AsRef<str>, T: AsRef<str>>(files: &[(P, T)]) -> Result<Engine, Vec<Diagnostic>> {
        let loaded = load::load(files)?;
        let mut sources: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_ref(), text.as_ref())).collect();
        sources.sort_unstable();
        sources.push(("schema", load::SCHEMA));
        let names = Names::new().map_err(|what| {
            vec![Diagnostic { file: "schema.cedarschema".into(), line: 1, what, help: "report this".into() }]
        })?;
        Ok(Engine { loaded, names, authorizer: Authorizer::new(), version: fingerprint(&sources) })
    }

    /// Hash of the sources and the schema: equal text, equal version, on every node.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Number of policies loaded.
    pub fn len(&self) -> usize {
        self.loaded.cards.len()
    }

    pub fn is_empty(&self) -> bool {
        self.loaded.cards.is_empty()
    }

    pub fn decide(&self, request: &Request) -> Decision {
        self.decide_labels(&request.labels())
    }

    /// As [`Engine::decide`], for callers that cache by [`Labels`].
    pub fn decide_labels(&self, labels: &Labels) -> Decision {
        if !labels.action.fits(labels.resource) {
            return Decision::built_in("ward:action", "this action does not exist for what was asked for");
        }
        if labels.phi && labels.purpose.is_none() {
            return Decision::built_in(
                "ward:purpose",
                "patient data needs a purpose of use, and neither the token nor the client's registration gives one",
            );
        }
        // An emergency and its purpose come together or not at all.
        if labels.emergency != (labels.purpose == Some(Purpose::EmergencyTreatment)) {
            return Decision::built_in("ward:emergency", "emergency access and the purpose ETREAT go together");
        }
        match self.evaluate(labels) {
            Ok(decision) => decision,
            Err(reason) => Decision::built_in("ward:fail-closed", reason),
        }
    }

    fn evaluate(&self, labels: &Labels) -> Result<Decision, String> {
        let question = self.names.question(labels)?;
        let global = self.loaded.rules.get(&(None, labels.action));
        let domain = self.loaded.rules.get(&(Some(labels.domain.clone()), labels.action));
        let applying = |pick: fn(&Rules) -> &PolicySet| -> Result<Vec<Arc<str>>, String> {
            let mut ids = Vec::new();
            for rules in [global, domain].into_iter().flatten() {
                ids.extend(self.satisfied(pick(rules), &question)?);
            }
            ids.sort_unstable();
            Ok(ids)
        };
        let forbids = applying(|rules| &rules.forbids)?;
        if !forbids.is_empty() {
            let reasons = self.reasons(&forbids);
            return Ok(Decision::refuse(forbids, reasons));
        }
        let ways = applying(|rules| &rules.permits)?;
        let Some(way) = ways.into_iter().min_by_key(|id| (obligation::weight(self.price(id)), id.clone())) else {
            return Ok(Decision::refuse(Vec::new(), vec![nothing_permits(labels).into()]));
        };
        let mut policies = vec![way];
        policies.extend(applying(|rules| &rules.conditions)?);
        let all = policies.iter().flat_map(|id| self.price(id).iter().cloned()).collect();
        let obligations = obligation::join(all)?;
        let reasons = self.reasons(&policies);
        Ok(Decision { allow: true, policies, obligations, reasons })
    }

    fn price(&self, id: &str) -> &[Obliged] {
        self.loaded.cards.get(id).map_or(&[], |card| &card.obligations)
    }

    fn reasons(&self, ids: &[Arc<str>]) -> Vec<Arc<str>> {
        ids.iter().filter_map(|id| self.loaded.cards.get(id)).map(|card| card.reason.clone()).collect()
    }

    /// Ids of the policies of one set (all permits, or all forbids) that apply. A policy that cannot be evaluated is an
    /// error, not a silent "does not apply": for a forbid that would open what it closes.
    fn satisfied(&self, set: &PolicySet, question: &Question) -> Result<Vec<Arc<str>>, String> {
        if set.is_empty() {
            return Ok(Vec::new());
        }
        let response = self.authorizer.is_authorized(&question.request, set, &question.entities);
        if response.diagnostics().errors().next().is_some() {
            return Err("a policy could not be evaluated, so the request is refused".to_owned());
        }
        Ok(response.diagnostics().reason().map(|id| Arc::from(AsRef::<str>::as_ref(id))).collect())
    }
}

fn nothing_permits(labels: &Labels) -> String {
    let roles: Vec<&str> = labels.roles.iter().map(|role| role.code()).collect();
    let who = if roles.is_empty() { "no role".to_owned() } else { roles.join(", ") };
    let why = labels.purpose.map_or("without a purpose".to_owned(), |purpose| format!("for {purpose}"));
    format!("no policy lets {who} {} a {} of {} {why}", verb(labels.action), noun(labels.resource), labels.domain)
}

fn verb(action: Action) -> &'static str {
    match action {
        Action::AuditRead | Action::ProofRead | Action::MetadataRead => "read",
        Action::BreakGlass => "break the glass for",
        Action::MintToken => "mint a token in",
        other => other.code(),
    }
}

fn noun(resource: ResourceType) -> &'static str {
    match resource {
        ResourceType::Journal => "journal",
        ResourceType::Record => "record",
        ResourceType::Product => "product",
        ResourceType::Audit => "audit log",
        ResourceType::Control => "control",
    }
}

/// Joins the answers for several kinds asked for at once: all must be allowed, and all their obligations hold.
pub fn merge(decisions: impl IntoIterator<Item = Decision>) -> Decision {
    let mut merged = Decision { allow: false, policies: Vec::new(), obligations: Vec::new(), reasons: Vec::new() };
    let mut count = 0;
    for decision in decisions {
        count += 1;
        if !decision.allow {
            return decision;
        }
        for (policy, reason) in decision.policies.into_iter().zip(decision.reasons) {
            if !merged.policies.contains(&policy) {
                merged.policies.push(policy);
                merged.reasons.push(reason);
            }
        }
        merged.obligations.extend(decision.obligations);
    }
    if count == 0 {
        return Decision::built_in("ward:action", "the request names nothing to decide about");
    }
    match obligation::join(merged.obligations) {
        Ok(obligations) => Decision { allow: true, obligations, ..merged },
        Err(reason) => Decision::built_in("ward:fail-closed", reason),
    }
}

/// FNV-1a over length-prefixed sources. Not a security boundary: it names a version, signed bundles protect it.
fn fingerprint(sources: &[(&str, &str)]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut eat = |bytes: &[u8]| {
        for byte in (bytes.len() as u64).to_le_bytes().iter().chain(bytes) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for (path, text) in sources {
        eat(path.as_bytes());
        eat(text.as_bytes());
    }
    hash
}

struct Question {
    request: cedar_policy::Request,
    entities: Entities,
}

/// Cedar names made once, since parsing one costs more than comparing it.
#[derive(Debug)]
struct Names {
    person: EntityTypeName,
    service: EntityTypeName,
    purpose: HashMap<Purpose, EntityUid>,
    role: HashMap<Role, EntityUid>,
    action: HashMap<Action, EntityUid>,
    class: HashMap<base::DataClass, EntityUid>,
    sensitivity: Vec<(base::Sensitivity, EntityUid)>,
    network: HashMap<Network, EntityUid>,
    resource: HashMap<ResourceType, EntityUid>,
}

impl Names {
    fn new() -> Result<Names, String> {
        let kind = |name: &str| name.parse::<EntityTypeName>().map_err(|error| error.to_string());
        let uid = |name: &EntityTypeName, id: &str| EntityUid::from_type_name_and_id(name.clone(), EntityId::new(id));
        let (role, purpose, class) = (kind("Role")?, kind("Purpose")?, kind("Class")?);
        let (action, sensitivity, network) = (kind("Action")?, kind("Sensitivity")?, kind("Network")?);
        let mut resource = HashMap::new();
        for r in [
            ResourceType::Journal,
            ResourceType::Record,
            ResourceType::Product,
            ResourceType::Audit,
            ResourceType::Control,
        ] {
            resource.insert(r, uid(&kind(r.code())?, "this"));
        }
        let networks = [Network::Local, Network::Internal, Network::External];
        Ok(Names {
            person: kind("Person")?,
            service: kind("Service")?,
            purpose: Purpose::ALL.iter().map(|p| (*p, uid(&purpose, p.code()))).collect(),
            role: Role::ALL.iter().map(|r| (*r, uid(&role, r.code()))).collect(),
            action: Action::ALL.iter().map(|a| (*a, uid(&action, a.code()))).collect(),
            class: base::DataClass::ALL.iter().map(|c| (*c, uid(&class, c.code()))).collect(),
            sensitivity: SENSITIVITIES.iter().map(|(name, bit)| (*bit, uid(&sensitivity, name))).collect(),
            network: networks.into_iter().map(|n| (n, uid(&network, n.code()))).collect(),
            resource,
        })
    }

    fn question(&self, labels: &Labels) -> Result<Question, String> {
        const BROKEN: &str = "the request could not be put to the policies, so it is refused";
        let broken = |_| BROKEN.to_owned();
        let kind = match labels.principal_kind {
            PrincipalKind::Person => &self.person,
            PrincipalKind::Service => &self.service,
        };
        let principal = EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(labels.principal.as_str()));
        let resource = self.resource[&labels.resource].clone();
        let roles: HashSet<EntityUid> = labels.roles.iter().map(|role| self.role[role].clone()).collect();
        let who = Entity::new(principal.clone(), self.principal_attributes(labels), roles).map_err(|_| BROKEN)?;
        let what =
            Entity::new(resource.clone(), self.resource_attributes(labels), HashSet::new()).map_err(|_| BROKEN)?;
        let entities = Entities::from_entities([who, what], None).map_err(|_| BROKEN)?;
        let context = Context::from_pairs(self.context(labels)).map_err(|_| BROKEN)?;
        let action = self.action[&labels.action].clone();
        let request = cedar_policy::Request::new(principal, action, resource, context, None);
        Ok(Question { request: request.map_err(|error| broken(error.to_string()))?, entities })
    }

    fn principal_attributes(&self, labels: &Labels) -> HashMap<String, RestrictedExpression> {
        let mut attributes = HashMap::from([
            ("assurance".to_owned(), RestrictedExpression::new_long(i64::from(labels.assurance))),
            ("training_valid".to_owned(), RestrictedExpression::new_bool(labels.training_valid)),
            ("care_team".to_owned(), RestrictedExpression::new_bool(labels.care_team)),
        ]);
        if let Some(home) = &labels.home {
            attributes.insert("domain".to_owned(), text(home.as_str()));
        }
        if let Some(source) = &labels.source {
            attributes.insert("source".to_owned(), text(source.as_str()));
        }
        attributes
    }

    fn resource_attributes(&self, labels: &Labels) -> HashMap<String, RestrictedExpression> {
        let mut attributes =
            HashMap::from([("domain".to_owned(), domain(&labels.domain)), ("kind".to_owned(), text(&labels.kind))]);
        if matches!(labels.resource, ResourceType::Record | ResourceType::Product) {
            let marked = self.sensitivity.iter().filter(|(bit, _)| bit.is_within(labels.sensitivity));
            attributes.insert("sensitivity".to_owned(), set(marked.map(|(_, uid)| uid)));
            attributes.insert("one_patient".to_owned(), RestrictedExpression::new_bool(labels.one_patient));
            attributes.insert("in_care_team".to_owned(), RestrictedExpression::new_bool(labels.in_care_team));
        }
        if labels.resource == ResourceType::Product {
            attributes.insert("phi".to_owned(), RestrictedExpression::new_bool(labels.phi));
            attributes.insert("classes".to_owned(), set(labels.classes.iter().map(|class| &self.class[class])));
        }
        attributes
    }

    fn context(&self, labels: &Labels) -> Vec<(String, RestrictedExpression)> {
        let network = RestrictedExpression::new_entity_uid(self.network[&labels.network].clone());
        let mut pairs = vec![
            ("emergency".to_owned(), RestrictedExpression::new_bool(labels.emergency)),
            ("network".to_owned(), network),
            ("hour".to_owned(), RestrictedExpression::new_long(i64::from(labels.hour))),
        ];
        if let Some(purpose) = &labels.purpose {
            let purpose = RestrictedExpression::new_entity_uid(self.purpose[purpose].clone());
            pairs.push(("purpose".to_owned(), purpose));
        }
        if let Some(agreement) = &labels.agreement {
            pairs.push(("agreement".to_owned(), text(agreement)));
        }
        pairs
    }
}

fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

fn domain(name: &DomainName) -> RestrictedExpression {
    text(name.as_str())
}

fn set<'a>(uids: impl Iterator<Item = &'a EntityUid>) -> RestrictedExpression {
    RestrictedExpression::new_set(uids.map(|uid| RestrictedExpression::new_entity_uid(uid.clone())))
}
