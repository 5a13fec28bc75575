//! Shipping the audit log: what `[[audit.ship]]` of `mesh.toml` asks for, put together.
//!
//! Never here: sessions and positions (see `herald::ship`), renderings (see `herald`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::{Clock, Layer, Read};
use gate::{Access, AuditRecords, Gate, Span};
use herald::Format;
use herald::ship::{Batch, Marks, Parts, Records, Shipper};
use herald::syslog::{Confirm, Receiver};
use policy::Action;
use serde::{Deserialize, Serialize};

use crate::config::{Agreement, Config};
use crate::node::{StartError, while_};

/// The principal under which shipping is recorded.
const WORKER: &str = "ward:ship";
const SCHEME: &str = "syslog+tls://";
/// A session's connecting, sending and closing: each.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a shipper with nothing to send looks whether there is something.
const LOOK: Duration = Duration::from_millis(250);

/// One `[[audit.ship]]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ship {
    /// Names the receiver, and its position on disk.
    pub name: base::SourceName,
    /// `syslog+tls://HOST:PORT` (RFC 5425; port 6514 by registration).
    pub to: String,
    /// `atna`, `ocsf`, `cef` or `fhir`.
    pub format: Format,
    /// Authorities that the receiver's certificate must come from: PEM, relative to the mesh folder.
    pub authority: PathBuf,
    /// Our own certificate and key, where the receiver asks for one: PEM, relative to the mesh folder.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// The business associate agreement that covers whoever runs the receiver.
    #[serde(default)]
    pub agreement: Option<String>,
    /// The hospital runs it itself: only addresses of this machine or of private networks are then connected to.
    #[serde(default)]
    pub internal: bool,
    /// How the receiver says that it has read everything: `close-notify` or `end`.
    #[serde(default)]
    pub confirm: Confirm,
    /// Records not confirmed, beyond which an alarm is logged.
    #[serde(default = "behind_records_max")]
    pub behind_records_max: u64,
}

fn behind_records_max() -> u64 {
    10_000
}

impl Ship {
    /// Host and port of `to`.
    pub fn address(&self) -> Option<(&str, u16)> {
        let (host, port) = self.to.strip_prefix(SCHEME)?.rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let named = !host.is_empty() && !host.contains(['/', '@', '?', '#']);
        Some((host, port.parse().ok().filter(|port| *port > 0)?)).filter(|_| named)
    }

    /// What is wrong with it, and what to do: DESIGN §11, no outside URL without an agreement.
    pub fn findings(&self, agreements: &[Agreement]) -> Vec<(String, String)> {
        let mut out = Vec::new();
        let mut find =
            |what: String, help: &str| out.push((format!("[[audit.ship]] `{}` {what}", self.name), help.into()));
        let Some((host, _)) = self.address() else {
            find("has no usable `to`".into(), "write to = \"syslog+tls://HOST:6514\"");
            return out;
        };
        if self.certificate.is_some() != self.key.is_some() {
            find("has a certificate without its key, or a key without its certificate".into(), "give both or none");
        }
        match (&self.agreement, self.internal) {
            (Some(_), true) => {
                find(
                    "names an agreement and says `internal`".into(),
                    "an internal receiver needs no agreement: keep one",
                );
            }
            (None, false) => find(
                "sends audit records to a receiver that no agreement covers".into(),
                "name the business associate agreement: agreement = \"ID\"; or, if the hospital runs it, internal = true",
            ),
            (None, true) if host.parse().is_ok_and(|ip: IpAddr| !net::is_internal(ip)) => {
                find("says `internal`, and its address is public".into(), "name an agreement instead");
            }
            (None, true) => {}
            (Some(id), false) => match agreements.iter().find(|agreement| agreement.id == *id) {
                None => find(format!("names the agreement `{id}`, which is not there"), "add agreements/ID.toml"),
                Some(agreement) if agreement.kind != "business-associate" => {
                    find(format!("names `{id}`, which is no business associate agreement"), "name one of that kind");
                }
                Some(_) => {}
            },
        }
        out
    }
}

/// What shipping stands on.
pub struct Ground<'a> {
    pub config: &'a Config,
    pub gate: &'a Gate,
    pub records: Arc<AuditRecords>,
    pub place: herald::Place,
    pub clock: Arc<dyn Clock>,
}

/// A shipper for each receiver. Certificates are read now, so that a wrong file stops the start and not the shipping.
pub fn shippers(ground: &Ground<'_>) -> Result<Vec<Arc<Shipper>>, StartError> {
    ground.config.mesh.audit.ship.iter().map(|ship| shipper(ground, ship).map(Arc::new)).collect()
}

fn shipper(ground: &Ground<'_>, ship: &Ship) -> Result<Shipper, StartError> {
    let doing = || format!("setting up shipping to {}", ship.name);
    let folder = &ground.config.folder;
    let identity = ship.certificate.as_ref().zip(ship.key.as_ref());
    let identity = identity.map(|(certificate, key)| (folder.join(certificate), folder.join(key)));
    let identity = identity.as_ref().map(|(certificate, key)| (certificate.as_path(), key.as_path()));
    let tls = net::client_config(&folder.join(&ship.authority), identity).map_err(while_(doing()))?;
    let (host, port) = ship.address().ok_or_else(|| StartError { doing: doing(), why: "no usable `to`".into() })?;
    let until = ship.agreement.as_ref().and_then(|id| {
        let agreement = ground.config.agreements.iter().find(|agreement| agreement.id == *id)?;
        agreement.in_force_until()
    });
    let records = AuditedRecords {
        gate: ground.gate.clone(),
        records: ground.records.clone(),
        what: format!("to {} as {}", ship.name, ship.format.code()),
        name: ship.name.to_string(),
        to: ship.to.clone(),
        agreement: ship.agreement.clone().map(|id| (id, until.unwrap_or_default())),
        clock: ground.clock.clone(),
    };
    Ok(Shipper::new(Parts {
        name: ship.name.to_string(),
        to: ship.to.clone(),
        format: ship.format,
        receiver: Receiver {
            host: host.to_owned(),
            port,
            tls,
            confirm: ship.confirm,
            timeout: STEP_TIMEOUT,
            internal_only: ship.internal,
        },
        records: Arc::new(records),
        marks: Arc::new(FileMarks { path: ground.config.data().join(format!("shipping/{}.json", ship.name)) }),
        place: ground.place.clone(),
        behind_max: ship.behind_records_max,
    }))
}

/// The audit log, each batch recorded before it leaves.
struct AuditedRecords {
    gate: Gate,
    records: Arc<AuditRecords>,
    what: String,
    name: String,
    to: String,
    /// Who covers the receiver, and until when.
    agreement: Option<(String, base::Timestamp)>,
    clock: Arc<dyn Clock>,
}

#[async_trait]
impl Records for AuditedRecords {
    fn origin(&self) -> String {
        self.records.origin().unwrap_or_default()
    }

    fn size(&self) -> u64 {
        self.records.size()
    }

    async fn take(&self, from: u64, max: usize) -> Result<Option<Batch>, String> {
        if let Some((id, until)) = &self.agreement
            && self.clock.now() > *until
        {
            return Err(format!("the agreement `{id}` has ended, so nothing is shipped: renew it"));
        }
        let permit = self
            .gate
            .node_permit::<Read>("ship", &gate::governance(), Layer::Governance)
            .map_err(|error| error.to_string())?;
        let span = Span {
            from,
            upto: u64::MAX,
            newest_first: false,
            records_max: max,
            scan_max: max as u64,
            named_max: herald::NAMED_MAX,
        };
        let page = self.records.page(&permit, span, &|_, _| true).await.map_err(|error| error.to_string())?;
        let (mut rows, mut news) = (0, false);
        let held = page.map(|page| {
            rows = page.records.len() as u64;
            news = page.unreadable > 0 || page.records.iter().any(|found| found.record.principal.as_str() != WORKER);
            page
        });
        if !news {
            return Ok(None);
        }
        let access = Access::of(&permit, Action::AuditRead, &gate::Origin::new("ship", None, None))
            .what(format!("ship from {from} {}", self.what))
            .rows(rows)
            .sent_to(self.name.clone(), self.to.clone());
        let agreement = self.agreement.as_ref().map(|(id, _)| id.as_str());
        let release = self.gate.node_release(&permit, agreement, access).await.map_err(|error| error.to_string())?;
        let page = held.release(release).map_err(|error| error.to_string())?;
        let records = page
            .records
            .into_iter()
            .map(|found| (found.index, found.id.to_string(), found.record, found.tokens))
            .collect();
        Ok(Some(Batch { records, next: page.next, unreadable: page.unreadable }))
    }

    async fn longer_than(&self, size: u64) {
        // The log may be begun anew, or another be the first: asked, not told.
        while self.size() == size {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// A small file per receiver, a mark for each log: derived, so a lost or broken one means that everything is sent again.
struct FileMarks {
    path: PathBuf,
}

impl FileMarks {
    fn all(&self) -> BTreeMap<String, u64> {
        std::fs::read(&self.path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }
}

impl Marks for FileMarks {
    fn load(&self, origin: &str) -> Option<u64> {
        self.all().get(origin).copied()
    }

    fn store(&self, origin: &str, next: u64) -> Result<(), String> {
        let mut all = self.all();
        all.insert(origin.to_owned(), next);
        let bytes = serde_json::to_vec(&all).map_err(|error| error.to_string())?;
        write_durably(&self.path, &bytes).map_err(|error| format!("the position of shipping cannot be kept: {error}"))
    }
}

/// Beside, synced, renamed, folder synced: the old mark or the new one is there, whole.
fn write_durably(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use disk::Disk;
    disk::RealDisk.publish(&[(path.to_owned(), bytes.to_vec())])
}
