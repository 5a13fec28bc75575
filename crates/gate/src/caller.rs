//! Who calls: [`Caller`], made only by the gate, and the [`Directory`] port that knows principals and sources.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use base::{DomainName, PrincipalId, Purpose, Role, SourceName, Timestamp, TraceContext};
use parking_lot::RwLock;
use policy::{Agreement, Network, PrincipalFacts, PrincipalKind};

/// A part that decisions need cannot answer. Never read as "no right".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the {0} cannot answer now; try again shortly")]
pub struct Outage(pub &'static str);

/// What the mesh knows of a principal. A token can claim less than this, never more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrincipalRecord {
    pub id: PrincipalId,
    pub kind: PrincipalKind,
    pub roles: Vec<Role>,
    /// Where the principal works; a token names one of them.
    pub domains: Vec<DomainName>,
    /// The only source a feed with a token may send as.
    pub source: Option<SourceName>,
    /// The purpose a client was registered for, so that apps that know no purposes work.
    pub purpose: Option<Purpose>,
    /// Highest assurance level (NIST SP 800-63B) a token may claim.
    pub assurance_max: u8,
    pub training_until: Option<Timestamp>,
    pub care_team: bool,
    pub agreements: Vec<Agreement>,
    pub enabled: bool,
    /// Tokens issued before are void: sign-out everywhere, a stolen client.
    pub tokens_from: Timestamp,
}

impl PrincipalRecord {
    /// An enabled principal with one role and nothing else, to fill in.
    pub fn new(id: PrincipalId, kind: PrincipalKind, role: Role) -> Self {
        PrincipalRecord {
            id,
            kind,
            roles: vec![role],
            domains: Vec::new(),
            source: None,
            purpose: None,
            assurance_max: 2,
            training_until: None,
            care_team: false,
            agreements: Vec::new(),
            enabled: true,
            tokens_from: Timestamp(0),
        }
    }
}

/// A source bound to a listener, a client certificate or a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceRecord {
    pub name: SourceName,
    pub domain: DomainName,
    /// Why it sends: [`Purpose::Treatment`] for a hospital's own systems.
    pub purpose: Purpose,
    pub enabled: bool,
}

/// Principals and sources. Both methods answer from memory, within microseconds.
pub trait Directory: Send + Sync {
    /// The newest record; `None` when there is no such principal.
    fn principal(&self, id: &PrincipalId) -> Result<Option<Arc<PrincipalRecord>>, Outage>;
    /// The newest record; `None` when there is no such source.
    fn source(&self, name: &SourceName) -> Result<Option<Arc<SourceRecord>>, Outage>;
}

/// A directory that is filled by hand: by configuration, and in tests.
#[derive(Debug, Default)]
pub struct MemoryDirectory {
    principals: RwLock<HashMap<PrincipalId, Arc<PrincipalRecord>>>,
    sources: RwLock<HashMap<SourceName, Arc<SourceRecord>>>,
}

impl MemoryDirectory {
    /// Adds or replaces.
    pub fn put(&self, record: PrincipalRecord) {
        self.principals.write().insert(record.id.clone(), Arc::new(record));
    }

    /// Adds or replaces.
    pub fn put_source(&self, record: SourceRecord) {
        self.sources.write().insert(record.name.clone(), Arc::new(record));
    }
}

impl Directory for MemoryDirectory {
    fn principal(&self, id: &PrincipalId) -> Result<Option<Arc<PrincipalRecord>>, Outage> {
        Ok(self.principals.read().get(id).cloned())
    }

    fn source(&self, name: &SourceName) -> Result<Option<Arc<SourceRecord>>, Outage> {
        Ok(self.sources.read().get(name).cloned())
    }
}

/// Where a request came in. The door fills it; the audit record keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    /// `fhir`, `sql-http`, `mllp`, `admin`, ...
    pub door: &'static str,
    /// `None` for the node's own socket.
    pub from: Option<IpAddr>,
    pub trace: Option<[u8; 16]>,
    /// To whom the caller says it will hand the answer on; for the accounting of disclosures.
    pub disclosed_to: Option<String>,
}

impl Origin {
    pub fn new(door: &'static str, from: Option<IpAddr>, trace: Option<TraceContext>) -> Self {
        Origin { door, from, trace: trace.map(|trace| trace.trace_id), disclosed_to: None }
    }

    pub fn network(&self) -> Network {
        match self.from {
            None => Network::Local,
            Some(ip) if ip.is_loopback() => Network::Local,
            Some(IpAddr::V4(ip)) if ip.is_private() || ip.is_link_local() => Network::Internal,
            // RFC 4193 unique local and RFC 4291 link local.
            Some(IpAddr::V6(ip)) if ip.is_unique_local() || ip.is_unicast_link_local() => Network::Internal,
            Some(IpAddr::V6(ip)) => match ip.to_ipv4_mapped() {
                Some(ip) => Origin { from: Some(IpAddr::V4(ip)), ..Origin::default() }.network(),
                None => Network::External,
            },
            Some(IpAddr::V4(_)) => Network::External,
        }
    }
}

/// An authenticated caller. Only the gate makes one.
#[derive(Debug, Clone)]
pub struct Caller {
    pub(crate) facts: Arc<PrincipalFacts>,
    pub(crate) on_behalf: Option<PrincipalId>,
    pub(crate) purpose: Option<Purpose>,
    pub(crate) agreement: Option<String>,
    /// First half of the hash of the token's `jti`; names the token without being it.
    pub(crate) token: Option<[u8; 16]>,
    /// When the token was issued.
    pub(crate) issued: Timestamp,
    pub(crate) expires: Timestamp,
}

impl Caller {
    pub fn principal(&self) -> &PrincipalId {
        &self.facts.id
    }

    /// The person for whom a service acts (RFC 8693 §4.1 `act`, seen from the other side).
    pub fn on_behalf(&self) -> Option<&PrincipalId> {
        self.on_behalf.as_ref()
    }

    pub fn roles(&self) -> &[Role] {
        &self.facts.roles
    }

    pub fn domain(&self) -> Option<&DomainName> {
        self.facts.domain.as_ref()
    }

    /// The only source this caller may send as.
    pub fn source(&self) -> Option<&SourceName> {
        self.facts.source.as_ref()
    }

    /// The purpose that the token or the registration binds.
    pub fn purpose(&self) -> Option<Purpose> {
        self.purpose
    }

    pub fn agreement(&self) -> Option<&str> {
        self.agreement.as_deref()
    }

    /// When this caller must authenticate again.
    pub fn expires(&self) -> Timestamp {
        self.expires
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_by_address() {
        for (address, network) in [
            ("127.0.0.1", Network::Local),
            ("::1", Network::Local),
            ("10.1.2.3", Network::Internal),
            ("192.168.0.9", Network::Internal),
            ("fd00::1", Network::Internal),
            ("::ffff:10.0.0.1", Network::Internal),
            ("::ffff:8.8.8.8", Network::External),
            ("8.8.8.8", Network::External),
            ("2001:db8::1", Network::External),
        ] {
            let origin = Origin { door: "fhir", from: Some(address.parse().unwrap()), ..Origin::default() };
            assert_eq!(origin.network(), network, "{address}");
        }
        assert_eq!(Origin::default().network(), Network::Local);
    }
}
