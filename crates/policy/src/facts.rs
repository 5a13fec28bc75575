//! What a decision is made from. Facts come in as they are known; [`Request::labels`] reduces them to what policies can
//! see, so that equal labels have equal answers and can be cached.
//!
//! Never here: patients. A request says only whether it is about one patient and about the care team's own.

use base::{DataClass, DomainName, Layer, PrincipalId, Purpose, Role, Sensitivity, SourceName, Timestamp};

/// What someone wants to do. The code is the Cedar action's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// One known resource, input or row set.
    Read,
    Search,
    /// Create, update, delete through an API.
    Write,
    Export,
    Subscribe,
    /// Begin an emergency access.
    BreakGlass,
    /// Put inputs into a journal as a source.
    Ingest,
    /// SQL over a product.
    Query,
    Build,
    AuditRead,
    ProofRead,
    /// What runs the mesh, without bodies: journal metadata, set-aside reasons, sources, product definitions.
    MetadataRead,
    Replay,
    /// Check definitions: sources, products, policies.
    Check,
    Manage,
    MintToken,
}

impl Action {
    pub const ALL: &'static [Action] = &[
        Action::Read,
        Action::Search,
        Action::Write,
        Action::Export,
        Action::Subscribe,
        Action::BreakGlass,
        Action::Ingest,
        Action::Query,
        Action::Build,
        Action::AuditRead,
        Action::ProofRead,
        Action::MetadataRead,
        Action::Replay,
        Action::Check,
        Action::Manage,
        Action::MintToken,
    ];

    pub fn code(self) -> &'static str {
        match self {
            Action::Read => "read",
            Action::Search => "search",
            Action::Write => "write",
            Action::Export => "export",
            Action::Subscribe => "subscribe",
            Action::BreakGlass => "break-glass",
            Action::Ingest => "ingest",
            Action::Query => "query",
            Action::Build => "build",
            Action::AuditRead => "audit-read",
            Action::ProofRead => "proof-read",
            Action::MetadataRead => "metadata-read",
            Action::Replay => "replay",
            Action::Check => "check",
            Action::Manage => "manage",
            Action::MintToken => "mint-token",
        }
    }

    pub fn parse(code: &str) -> Option<Action> {
        Action::ALL.iter().copied().find(|action| action.code() == code)
    }

    /// Whether this action exists for what lies in a layer (the schema's `appliesTo`).
    pub fn fits(self, resource: ResourceType) -> bool {
        use ResourceType::*;
        match self {
            Action::Read | Action::Search | Action::Write | Action::Export | Action::Subscribe => {
                matches!(resource, Journal | Record | Product)
            }
            Action::BreakGlass => resource == Record,
            Action::Ingest => resource == Journal,
            Action::Query | Action::Build => resource == Product,
            Action::AuditRead | Action::ProofRead => resource == Audit,
            Action::MetadataRead | Action::Replay | Action::Check | Action::Manage | Action::MintToken => {
                resource == Control
            }
        }
    }
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PrincipalKind {
    Person,
    Service,
}

/// A data use or business associate agreement, as it binds one principal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Agreement {
    pub id: String,
    /// Empty: any purpose that policy allows.
    pub purposes: Vec<Purpose>,
    pub until: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrincipalFacts {
    pub id: PrincipalId,
    pub kind: PrincipalKind,
    pub roles: Vec<Role>,
    pub domain: Option<DomainName>,
    pub source: Option<SourceName>,
    /// 1 to 3 (NIST SP 800-63B).
    pub assurance: u8,
    /// Privacy training; `None` for services, which need none.
    pub training_until: Option<Timestamp>,
    pub care_team: bool,
    pub agreements: Vec<Agreement>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Network {
    /// This machine.
    Local,
    /// Private addresses.
    #[default]
    Internal,
    External,
}

impl Network {
    pub fn code(self) -> &'static str {
        match self {
            Network::Local => "local",
            Network::Internal => "internal",
            Network::External => "external",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextFacts {
    pub purpose: Option<Purpose>,
    pub emergency: bool,
    /// The agreement the caller names.
    pub agreement: Option<String>,
    pub network: Network,
    pub now: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceFacts {
    pub domain: DomainName,
    pub layer: Layer,
    /// Resource type, product, source; for [`Layer::Governance`] `audit`, `proof` or what is managed. `*` is "all kinds".
    pub kind: String,
    /// Whether it may hold PHI. Bronze and silver always count as PHI, governance never.
    pub phi: bool,
    pub one_patient: bool,
    pub in_care_team: bool,
    /// Classes of a product's columns.
    pub classes: Vec<DataClass>,
    pub sensitivity: Sensitivity,
}

/// The Cedar type a resource has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResourceType {
    Journal,
    Record,
    Product,
    Audit,
    Control,
}

impl ResourceType {
    pub fn code(self) -> &'static str {
        match self {
            ResourceType::Journal => "Journal",
            ResourceType::Record => "Record",
            ResourceType::Product => "Product",
            ResourceType::Audit => "Audit",
            ResourceType::Control => "Control",
        }
    }
}

impl ResourceFacts {
    /// A resource without PHI about the running of the mesh.
    pub fn control(domain: DomainName, kind: &str) -> Self {
        ResourceFacts {
            domain,
            layer: Layer::Governance,
            kind: kind.to_owned(),
            phi: false,
            one_patient: false,
            in_care_team: false,
            classes: Vec::new(),
            sensitivity: Sensitivity::NONE,
        }
    }

    pub fn resource_type(&self) -> ResourceType {
        match self.layer {
            Layer::Bronze => ResourceType::Journal,
            Layer::Silver => ResourceType::Record,
            Layer::Gold => ResourceType::Product,
            Layer::Governance if matches!(self.kind.as_str(), "audit" | "proof") => ResourceType::Audit,
            Layer::Governance => ResourceType::Control,
        }
    }

    pub fn is_phi(&self) -> bool {
        match self.layer {
            Layer::Bronze | Layer::Silver => true,
            Layer::Gold => self.phi,
            Layer::Governance => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub principal: PrincipalFacts,
    pub action: Action,
    pub resource: ResourceFacts,
    pub context: ContextFacts,
}

/// A request reduced to what policies see. Two requests with equal labels get the same answer from one engine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Labels {
    pub principal: PrincipalId,
    pub principal_kind: PrincipalKind,
    pub roles: Vec<Role>,
    pub home: Option<DomainName>,
    pub source: Option<SourceName>,
    pub assurance: u8,
    pub training_valid: bool,
    pub care_team: bool,
    pub action: Action,
    pub resource: ResourceType,
    pub domain: DomainName,
    pub kind: String,
    pub phi: bool,
    pub one_patient: bool,
    pub in_care_team: bool,
    pub classes: Vec<DataClass>,
    pub sensitivity: Sensitivity,
    pub purpose: Option<Purpose>,
    pub emergency: bool,
    /// In force for this principal and purpose.
    pub agreement: Option<String>,
    pub network: Network,
    pub hour: u8,
}

impl Request {
    pub fn labels(&self) -> Labels {
        let Request { principal, action, resource, context } = self;
        let mut roles = principal.roles.clone();
        roles.sort_unstable();
        roles.dedup();
        let mut classes = resource.classes.clone();
        classes.sort_unstable();
        classes.dedup();
        let in_force = |agreement: &&Agreement| {
            Some(&agreement.id) == context.agreement.as_ref()
                && context.now < agreement.until
                && (agreement.purposes.is_empty()
                    || context.purpose.is_some_and(|purpose| agreement.purposes.contains(&purpose)))
        };
        Labels {
            principal: principal.id.clone(),
            principal_kind: principal.kind,
            roles,
            home: principal.domain.clone(),
            source: principal.source.clone(),
            assurance: principal.assurance,
            training_valid: match (principal.kind, principal.training_until) {
                (_, Some(until)) => context.now < until,
                (PrincipalKind::Service, None) => true,
                (PrincipalKind::Person, None) => false,
            },
            care_team: principal.care_team,
            action: *action,
            resource: resource.resource_type(),
            domain: resource.domain.clone(),
            kind: resource.kind.clone(),
            phi: resource.is_phi(),
            one_patient: resource.one_patient,
            in_care_team: resource.in_care_team,
            classes,
            sensitivity: resource.sensitivity,
            purpose: context.purpose,
            emergency: context.emergency,
            agreement: principal.agreements.iter().find(in_force).map(|agreement| agreement.id.clone()),
            network: context.network,
            hour: u8::try_from(context.now.ms().div_euclid(3_600_000).rem_euclid(24)).unwrap_or(0),
        }
    }
}
