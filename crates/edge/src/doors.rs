//! What every door of a node works with, and who is calling.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use axum::http::{HeaderMap, header};
use base::{Clock, DomainName, Entropy, Limits, Purpose, SourceName, TraceContext};
use clinical::{FhirWrites, Hl7Receiver, Intake, PatientMap};
use gate::{Ask, Caller, Gate, Origin, Unauthenticated};
use policy::Action;
use products::{Builder, Registry, SnapshotBook, SqlEngine};
use store::Silver;

use crate::fhir::ShowMasked;
use crate::http::Peer;
use crate::metrics::Metrics;

/// Of `X-Disclosed-To`; what is longer is cut.
const RECIPIENT_CHARS_MAX: usize = 200;

/// The parts of a node that its doors open to the world.
pub struct Doors {
    pub gate: Gate,
    pub silver: Silver,
    /// Who is the same person by a merge.
    pub patients: Arc<PatientMap>,
    pub domains: BTreeMap<DomainName, DomainDoors>,
    pub registry: Arc<Registry>,
    pub snapshots: SnapshotBook,
    pub builder: Arc<Builder>,
    pub engine: Arc<dyn SqlEngine>,
    pub shower: Arc<dyn ShowMasked + Send + Sync>,
    pub operator: Arc<dyn Operator>,
    pub downtime: Arc<dyn crate::DowntimeDesk>,
    pub keys: Arc<dyn crate::KeyDesk>,
    pub maintenance: Arc<dyn crate::Maintenance>,
    pub journals: Arc<dyn crate::JournalDesk>,
    pub audit: Arc<gate::AuditReader>,
    pub rights: comply::Rights,
    pub routes: Vec<Arc<relay::Worker>>,
    pub estate: Arc<dyn comply::Estate>,
    pub audit_records: Arc<gate::AuditRecords>,
    pub metrics: Arc<Metrics>,
    pub limits: Arc<Limits>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub info: NodeInfo,
}

/// What one domain opens.
pub struct DomainDoors {
    pub intake: Arc<Intake>,
    pub writes: FhirWrites,
    /// HL7 v2 sources, for files that come through the node's socket.
    pub receivers: BTreeMap<SourceName, Arc<Hl7Receiver>>,
}

#[derive(Debug, Clone)]
pub struct NodeInfo {
    pub mesh: String,
    pub version: &'static str,
    pub started: base::Timestamp,
    /// Scheme and authority of the HTTP doors, for links: `https://127.0.0.1:8443`.
    pub base_url: String,
}

impl NodeInfo {
    /// This node, as renderings of a log of its audit targets name it.
    pub fn place(&self, log: &str) -> herald::Place {
        herald::Place {
            mesh: self.mesh.clone(),
            log: log.to_owned(),
            base_url: self.base_url.clone(),
            version: self.version,
        }
    }
}

/// What the node itself does for whoever may open its socket. `ward` implements it.
#[async_trait::async_trait]
pub trait Operator: Send + Sync {
    /// A token for a principal of the mesh; with the purpose that is asked for, or the principal's first.
    fn token(
        &self,
        principal: &base::PrincipalId,
        purpose: TokenPurpose,
        minutes: i64,
    ) -> Result<String, OperatorError>;
    /// A token for the operator of this machine, who runs the mesh and sees no PHI.
    fn operator_token(&self) -> Result<String, OperatorError>;
    /// Drops and rebuilds the search index of a domain; how many resources it then holds.
    async fn rebuild_index(&self, domain: &DomainName) -> Result<u64, OperatorError>;
    /// Gauges for the metrics page.
    fn gauges(&self) -> Vec<(&'static str, String, u64)>;
    /// Where the audit log is shipped to, and how far.
    fn shipping(&self) -> Vec<herald::ship::Status>;
    /// Checkpoint of a log, as a signed note.
    fn checkpoint(&self, log: &str) -> Option<String>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenPurpose {
    Default,
    Without,
    Of(Purpose),
}

/// Why the operator's wish was not done: a sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OperatorError(pub String);

/// A call that was authenticated.
pub struct Call {
    pub caller: Caller,
    pub origin: Origin,
    pub trace: TraceContext,
    /// `X-Purpose-Of-Use`.
    pub purpose: Option<Purpose>,
    /// `X-Break-Glass`: the session in which the caller asks. The gate decides whether it is one.
    pub session: Option<String>,
}

impl Call {
    pub fn ask(&self, action: Action, domain: &DomainName, layer: base::Layer) -> Ask {
        let ask = Ask::new(action, domain, layer, &self.origin).stating(self.purpose);
        match &self.session {
            Some(session) => ask.under(session),
            None => ask,
        }
    }
}

/// A name that can stand in an accounting.
fn recipient(name: &str) -> Option<String> {
    let name: String = name.trim().chars().take(RECIPIENT_CHARS_MAX).collect();
    (!name.is_empty()).then_some(name)
}

impl Doors {
    /// Authenticates a request. Over the node's own socket a request without a token is the operator's.
    pub async fn call(
        &self,
        door: &'static str,
        peer: &Peer,
        trace: TraceContext,
        headers: &HeaderMap,
    ) -> Result<Call, Unauthenticated> {
        let from: Option<IpAddr> = match peer {
            Peer::Network(address) => Some(address.ip()),
            Peer::Local => None,
        };
        let mut origin = Origin::new(door, from, Some(trace));
        origin.disclosed_to = headers.get("x-disclosed-to").and_then(|value| value.to_str().ok()).and_then(recipient);
        let bearer = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim());
        let operator = match (peer, bearer) {
            (Peer::Local, None) => self.operator.operator_token().ok(),
            _ => None,
        };
        let caller = self.gate.authenticate_from(bearer.or(operator.as_deref()), &origin).await?;
        let purpose = headers.get("x-purpose-of-use").and_then(|value| value.to_str().ok()).and_then(Purpose::parse);
        let session = headers.get("x-break-glass").map(|value| value.to_str().unwrap_or_default().to_owned());
        Ok(Call { caller, origin, trace, purpose, session })
    }

    pub fn domain(&self, name: &str) -> Option<(&DomainName, &DomainDoors)> {
        let name = DomainName::parse(name).ok()?;
        self.domains.get_key_value(&name)
    }
}
