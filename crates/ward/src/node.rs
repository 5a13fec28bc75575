//! The node: [`build`] puts its parts together, and its order is the architecture.
//!
//! Keys, logs, catalog, gate, refine caught up, products, and only then doors.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, DomainName, Entropy, Layer, LogName, PermitMint, PrincipalId, Purpose, Read, Role};
use clinical::{FhirWrites, Hl7Receiver, Intake, Journal, PatientMap, Refiner, SourceKind, Space};
use edge::{DomainDoors, Doors, MllpDoor, NodeInfo, Operator, OperatorError, TokenPurpose};
use gate::{AuditLog, Gate, GateParts, Issue, LogTarget, MemoryDirectory, Targets, TokenIssuer, TokenKeys};
use ledger::{Ed25519Signer, Log, LogOptions, RealDisk};
use net::{Drain, Listener};
use store::objects::DurableLocal;
use store::{Catalog, Silver, SilverParts, SqlKeyTable};
use vault::Vault;

use crate::config::{Agreement, Config, Principal, PrincipalKind, end_of_day};

/// Why the node could not start: what was being done, and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {why}")]
pub struct StartError {
    pub doing: String,
    pub why: String,
}

fn while_<E: std::fmt::Display>(doing: impl Into<String>) -> impl FnOnce(E) -> StartError {
    let doing = doing.into();
    move |error| StartError { doing, why: error.to_string() }
}

/// A node that is built and not yet serving.
pub struct Node {
    pub config: Arc<Config>,
    pub doors: Arc<Doors>,
    pub gate: Gate,
    refiners: Vec<Arc<Refiner>>,
    logs: Vec<Log>,
    listeners: Listeners,
    catalog: Catalog,
    drain: Drain,
}

struct Listeners {
    http: Listener,
    mllp: Vec<(Listener, MllpDoor)>,
    socket: tokio::net::UnixListener,
}

/// Where a running node listens.
#[derive(Debug, Clone)]
pub struct Addresses {
    pub http: SocketAddr,
    /// (domain, source) → address.
    pub mllp: Vec<(DomainName, base::SourceName, SocketAddr)>,
}

/// What time, chance and permits a node is built with.
pub struct Surroundings {
    pub mint: PermitMint,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
}

/// Logs of a node by name, for proofs and checkpoints.
type Logs = BTreeMap<String, Log>;

/// Puts a node together. When this returns every earlier input is refined and every listener is bound.
pub async fn build(config: Config, around: Surroundings) -> Result<Node, StartError> {
    let config = Arc::new(config);
    let Surroundings { mint, clock, entropy } = around;
    let limits = Arc::new(config.mesh.limits.clone());
    let data = config.data();
    make_private(&data)?;

    // Keys.
    let key_table = SqlKeyTable::open(&sqlite(&data, "keys.db")).await.map_err(while_("opening the key table"))?;
    let vault = crate::keys::open_vault(&config, Arc::new(key_table), clock.clone(), entropy.clone()).await?;

    // Logs.
    let mut logs = Logs::new();
    let opener = LogOpener { config: &config, vault: &vault, clock: &clock };
    for domain in config.domains.keys() {
        let log = opener.open(&data.join("logs"), &format!("journal-{domain}")).await?;
        logs.insert(log.name().to_string(), log);
    }
    let control = opener.open(&data.join("logs"), "control").await?;
    let audit = opener.open(&data.join("logs"), "audit").await?;
    logs.insert("control".into(), control.clone());
    logs.insert("audit".into(), audit.clone());
    let mut targets: Vec<Arc<dyn gate::AuditTarget>> = vec![Arc::new(LogTarget::new("log", audit.clone()))];
    if let Some(second) = &config.mesh.audit.second {
        let log = opener.open(&config.folder.join(second), "audit").await?;
        logs.insert("audit-second".into(), log.clone());
        targets.push(Arc::new(LogTarget::new("second", log)));
    }

    // Catalog and silver.
    let url = config.mesh.catalog.url.clone().unwrap_or_else(|| sqlite(&data, "catalog.db"));
    let catalog = Catalog::open(&url).await.map_err(while_("opening the catalog"))?;
    let silver = Silver::open(SilverParts {
        catalog: catalog.clone(),
        vault: vault.clone(),
        index_dir: data.join("index"),
        domains: config.domains.keys().cloned().collect(),
        clock: clock.clone(),
        entropy: entropy.clone(),
        limits: limits.clone(),
    })
    .await
    .map_err(while_("opening silver and its search index"))?;
    let objects: Arc<dyn object_store::ObjectStore> =
        Arc::new(DurableLocal::open(&data.join("objects")).map_err(while_("opening the object store"))?);

    // The gate.
    let issuer = Arc::new(crate::keys::token_issuer(&config, &vault).await?);
    let directory = Arc::new(directory(&config));
    let practitioners = config.principals.iter().filter_map(|p| Some((p.id.clone(), p.practitioner.clone()?)));
    let patients = Arc::new(PatientMap::new(practitioners));
    let retention = vault::RetentionClass::parse("audit-6y").map_err(while_("naming the audit's retention"))?;
    let audit_keys = Arc::new(gate::VaultAuditKeys::new(vault.clone(), clock.clone(), retention));
    let audit_log = AuditLog::open(audit_keys, Targets::new(targets, limits.log_queue_max))
        .await
        .map_err(while_("opening the audit log"))?;
    let gate = Gate::new(GateParts {
        mint,
        engine: engine(&config)?,
        audit: audit_log,
        patients: patients.clone(),
        principals: directory,
        tokens: TokenKeys::of(&issuer),
        clock: clock.clone(),
        entropy: entropy.clone(),
        limits: (*limits).clone(),
    });

    // Refine, caught up before a door opens: every earlier control key is then known.
    let mut refiners = Vec::new();
    let mut domains = BTreeMap::new();
    let mut receivers = Vec::new();
    for (name, domain) in &config.domains {
        let log = logs[&format!("journal-{name}")].clone();
        let journal = Arc::new(Journal::new(name.clone(), log, vault.clone(), objects.clone()));
        let permit = gate
            .node_permit::<Read>("index", name, Layer::Silver)
            .map_err(while_(format!("reading silver of {name}")))?;
        patients.load(&permit, &silver, name).await.map_err(while_(format!("loading patient sets of {name}")))?;
        let refiner = Arc::new(Refiner::new(
            journal.clone(),
            silver.clone(),
            vault.clone(),
            gate.clone(),
            patients.clone(),
            domain.sources.clone(),
            limits.clone(),
            clock.clone(),
        ));
        let caught_up = refiner.catch_up().await.map_err(while_(format!("refining the journal of {name}")))?;
        if caught_up > 0 {
            tracing::info!(domain = %name, entries = caught_up, "refined what the journal had ahead");
        }
        refiners.push(refiner);
        let intake = Arc::new(
            Intake::open(journal, silver.clone(), Space::below(&data), clock.clone(), limits.clone())
                .await
                .map_err(while_(format!("opening the intake of {name}")))?,
        );
        let timeout = Duration::from_millis(limits.http_request_timeout_ms / 2);
        let writes = FhirWrites::new(intake.clone(), silver.clone(), timeout);
        let mut by_source = BTreeMap::new();
        for source in domain.sources.iter().filter(|source| source.kind == SourceKind::Hl7v2) {
            let source = Arc::new(source.clone());
            let receiver = Arc::new(Hl7Receiver::new(intake.clone(), source.clone(), limits.clone(), clock.clone()));
            by_source.insert(source.name.clone(), receiver.clone());
            receivers.push((source, receiver));
        }
        domains.insert(name.clone(), DomainDoors { intake, writes, receivers: by_source });
    }

    // Products.
    let products = crate::products::open(crate::products::Parts {
        config: &config,
        silver: &silver,
        vault: &vault,
        control: &control,
        objects,
        clock: clock.clone(),
        entropy: entropy.clone(),
    })
    .await?;

    // Doors.
    let metrics = Arc::new(edge::Metrics::default());
    let http_tls = crate::keys::http_tls(&config)?;
    let handshake = Duration::from_millis(limits.http_header_timeout_ms);
    let http = Listener::bind(config.mesh.listen.http, Some(http_tls), limits.http_connections_max, handshake)
        .await
        .map_err(while_(format!("listening on {}", config.mesh.listen.http)))?;
    let http_address = http.address().map_err(while_("asking for the HTTP address"))?;
    let mut mllp = Vec::new();
    for (source, receiver) in receivers {
        let Some(address) = source.listen else { continue };
        let tls = crate::keys::source_tls(&config, &source)?;
        let listener = Listener::bind(address, tls, limits.mllp_connections_max, handshake)
            .await
            .map_err(while_(format!("listening on {address} for source {}", source.name)))?;
        let caller = gate.source(&source.name).map_err(while_(format!("binding source {}", source.name)))?;
        let door = MllpDoor {
            gate: gate.clone(),
            caller,
            receiver,
            limits: limits.clone(),
            clock: clock.clone(),
            entropy: entropy.clone(),
            metrics: metrics.clone(),
        };
        mllp.push((listener, door));
    }
    let socket = bind_socket(&config.socket())?;
    let operator = Arc::new(NodeOperator {
        config: config.clone(),
        issuer,
        silver: silver.clone(),
        gate: gate.clone(),
        logs: logs.clone(),
        clock: clock.clone(),
        entropy: entropy.clone(),
    });
    let doors = Arc::new(Doors {
        gate: gate.clone(),
        silver,
        domains,
        registry: products.registry,
        snapshots: products.snapshots,
        builder: products.builder,
        engine: products.engine,
        shower: products.shower,
        operator,
        audit: Arc::new(gate.audit_reader(Arc::new(LogTarget::new("log", audit)))),
        metrics,
        limits,
        clock: clock.clone(),
        entropy,
        info: NodeInfo {
            mesh: config.mesh.name.clone(),
            version: env!("CARGO_PKG_VERSION"),
            started: clock.now(),
            base_url: format!("https://{http_address}"),
        },
    });
    Ok(Node {
        config,
        doors,
        gate,
        refiners,
        logs: logs.into_values().collect(),
        listeners: Listeners { http, mllp, socket },
        catalog,
        drain: Drain::new(),
    })
}

impl Node {
    pub fn addresses(&self) -> Result<Addresses, StartError> {
        let asked = "asking for a listener's address";
        let mut mllp = Vec::new();
        for (listener, door) in &self.listeners.mllp {
            let address = listener.address().map_err(while_(asked))?;
            mllp.push((door.receiver.domain().clone(), door.receiver.source().name.clone(), address));
        }
        Ok(Addresses { http: self.listeners.http.address().map_err(while_(asked))?, mllp })
    }

    /// Serves until `shutdown` resolves, then drains: no new work, open work finished, logs closed.
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) {
        let Node { config, doors, gate: _, refiners, logs, listeners, catalog, drain } = self;
        let limits = doors.limits.clone();
        let router = edge::router(doors.clone());
        let refining = Drain::new();
        for refiner in refiners {
            let stop = refining.clone();
            refining.spawn(async move { refiner.run(async move { stop.closing().await }).await });
        }
        for (listener, door) in listeners.mllp {
            let drain_door = drain.clone();
            drain.spawn(async move { door.serve(listener, drain_door).await });
        }
        drain.spawn(edge::serve(listeners.http, router.clone(), limits.clone(), drain.clone()));
        drain.spawn(serve_socket(listeners.socket, router, limits.clone(), drain.clone()));
        shutdown.await;
        tracing::info!("draining");
        // Doors first, refine after them: a FHIR write that is under way waits for its outcome.
        let timeout = Duration::from_millis(limits.drain_timeout_ms);
        if !drain.finish(timeout).await {
            tracing::warn!("some connections did not end in time");
        }
        refining.finish(timeout).await;
        for log in logs {
            log.close().await;
        }
        catalog.close().await;
        let _ = std::fs::remove_file(config.socket());
    }
}

/// The node's own socket: whoever may open the file runs this node.
async fn serve_socket(socket: tokio::net::UnixListener, router: axum::Router, limits: Arc<base::Limits>, drain: Drain) {
    loop {
        let stream = tokio::select! {
            () = drain.closing() => return,
            accepted = socket.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => continue,
            },
        };
        let (router, limits, closing) = (router.clone(), limits.clone(), drain.clone());
        drain.spawn(async move { edge::serve_io(stream, edge::Peer::Local, router, &limits, &closing).await });
    }
}

fn bind_socket(path: &Path) -> Result<tokio::net::UnixListener, StartError> {
    use std::os::unix::fs::PermissionsExt;
    // The data folder's lock is held by now (the logs'), so a socket that is there is a dead one.
    let _ = std::fs::remove_file(path);
    let socket = tokio::net::UnixListener::bind(path).map_err(while_(format!("binding {}", path.display())))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(while_(format!("closing {} to others", path.display())))?;
    Ok(socket)
}

fn make_private(folder: &Path) -> Result<(), StartError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(while_(format!("making {}", folder.display())))
}

fn sqlite(data: &Path, file: &str) -> String {
    format!("sqlite:{}", data.join(file).display())
}

struct LogOpener<'a> {
    config: &'a Config,
    vault: &'a Vault,
    clock: &'a Arc<dyn Clock>,
}

impl LogOpener<'_> {
    /// Opens a log, with its signing key from the vault, and leaves its public key beside it for `ward-verify`.
    async fn open(&self, folder: &Path, name: &str) -> Result<Log, StartError> {
        let doing = || format!("opening the log {name}");
        let log_name = LogName::parse(name).map_err(while_(doing()))?;
        let folder = folder.join(name);
        make_private(&folder)?;
        let origin = format!("{}/{name}", self.config.mesh.name);
        let seed = self.vault.ed25519_seed(&format!("log/{name}")).await.map_err(while_(doing()))?;
        let signer = Ed25519Signer::from_seed(&origin, &seed).ok_or_else(|| StartError {
            doing: doing(),
            why: "the mesh's name cannot name a key: use letters, digits, dots and dashes".into(),
        })?;
        let options = LogOptions::from_limits(origin, &self.config.mesh.limits);
        let (disk, clock) = (Arc::new(RealDisk), self.clock.clone());
        let log = {
            let folder = folder.clone();
            tokio::task::spawn_blocking(move || Log::open(disk, &folder, log_name, options, Arc::new(signer), clock))
                .await
                .map_err(while_(doing()))?
                .map_err(while_(doing()))?
        };
        std::fs::write(folder.join("vkey"), format!("{}\n", log.vkey())).map_err(while_(doing()))?;
        Ok(log)
    }
}

/// Policies of the folder, compiled.
pub fn engine(config: &Config) -> Result<policy::Engine, StartError> {
    policy::Engine::load(&config.policies).map_err(|diagnostics| StartError {
        doing: "compiling the policies".into(),
        why: diagnostics.iter().map(|d| d.to_string()).collect::<Vec<_>>().join("\n"),
    })
}

fn operator_id() -> Option<PrincipalId> {
    PrincipalId::parse("operator").ok()
}

/// Principals and sources as the folder declares them.
fn directory(config: &Config) -> MemoryDirectory {
    let directory = MemoryDirectory::default();
    for principal in &config.principals {
        directory.put(record(principal, config));
    }
    // Whoever may open the node's socket.
    if let Some(id) = operator_id() {
        directory.put(gate::PrincipalRecord {
            purpose: Some(Purpose::SystemAdministration),
            ..gate::PrincipalRecord::new(id, policy::PrincipalKind::Service, Role::Administrator)
        });
    }
    for domain in config.domains.values() {
        for source in &domain.sources {
            directory.put_source(gate::SourceRecord {
                name: source.name.clone(),
                domain: domain.name.clone(),
                purpose: Purpose::Treatment,
                enabled: true,
            });
        }
    }
    directory
}

fn record(principal: &Principal, config: &Config) -> gate::PrincipalRecord {
    let kind = match principal.kind {
        PrincipalKind::Person => policy::PrincipalKind::Person,
        PrincipalKind::Service => policy::PrincipalKind::Service,
    };
    let role = principal.roles.first().copied().unwrap_or(Role::Analyst);
    gate::PrincipalRecord {
        roles: principal.roles.clone(),
        domains: principal.domain.iter().cloned().collect(),
        source: principal.source.clone(),
        training_until: principal.training_until.as_deref().and_then(end_of_day),
        care_team: principal.practitioner.is_some(),
        agreements: agreements_of(&principal.id, &config.agreements),
        ..gate::PrincipalRecord::new(principal.id.clone(), kind, role)
    }
}

fn agreements_of(principal: &PrincipalId, agreements: &[Agreement]) -> Vec<policy::Agreement> {
    agreements
        .iter()
        .filter(|agreement| agreement.parties.contains(principal))
        .filter_map(|agreement| {
            Some(policy::Agreement {
                id: agreement.id.clone(),
                purposes: agreement.purposes.clone(),
                until: end_of_day(&agreement.until)?,
            })
        })
        .collect()
}

/// What the node does for whoever may open its socket.
struct NodeOperator {
    config: Arc<Config>,
    issuer: Arc<TokenIssuer>,
    silver: Silver,
    gate: Gate,
    logs: Logs,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl NodeOperator {
    fn issue(&self, issue: &Issue) -> Result<String, OperatorError> {
        self.issuer.issue(issue, self.clock.now(), &*self.entropy).map_err(|error| OperatorError(error.to_string()))
    }
}

#[async_trait::async_trait]
impl Operator for NodeOperator {
    fn token(&self, principal: &PrincipalId, purpose: TokenPurpose, minutes: i64) -> Result<String, OperatorError> {
        let known = self.config.principal(principal).ok_or_else(|| {
            let names: Vec<_> = self.config.principals.iter().map(|p| p.id.as_str()).collect();
            OperatorError(format!("no such principal; principals.toml has {}", names.join(", ")))
        })?;
        let purpose = match purpose {
            TokenPurpose::Without => None,
            TokenPurpose::Default => known.purposes.first().copied(),
            TokenPurpose::Of(purpose) if known.purposes.contains(&purpose) => Some(purpose),
            TokenPurpose::Of(_) => {
                let codes: Vec<_> = known.purposes.iter().map(|p| p.code()).collect();
                return Err(OperatorError(format!("this principal acts for {} only", codes.join(", "))));
            }
        };
        let role = known.roles.first().copied().ok_or_else(|| OperatorError("this principal has no role".into()))?;
        let agreement = self.config.agreements.iter().find(|agreement| agreement.parties.contains(principal));
        self.issue(&Issue {
            roles: known.roles.clone(),
            domain: known.domain.clone(),
            purpose,
            agreement: agreement.map(|agreement| agreement.id.clone()),
            care_team: known.practitioner.is_some(),
            ttl_ms: minutes.max(1) * 60_000,
            ..Issue::new(known.id.clone(), role)
        })
    }

    fn operator_token(&self) -> Result<String, OperatorError> {
        let id = operator_id().ok_or_else(|| OperatorError("the operator has no name".into()))?;
        self.issue(&Issue {
            purpose: Some(Purpose::SystemAdministration),
            ttl_ms: 60_000,
            ..Issue::new(id, Role::Administrator)
        })
    }

    async fn rebuild_index(&self, domain: &DomainName) -> Result<u64, OperatorError> {
        let failed = |error: store::StoreError| OperatorError(error.to_string());
        self.silver.rebuild_index(domain, &mut |_| {}).await.map_err(failed)?;
        let counts = self.silver.resource_counts(domain).await.map_err(failed)?;
        Ok(counts.into_iter().map(|(_, living)| living).sum())
    }

    fn gauges(&self) -> Vec<(&'static str, String, u64)> {
        let mut gauges: Vec<_> =
            self.logs.iter().map(|(name, log)| ("ward_log_entries", format!("log=\"{name}\""), log.size())).collect();
        for target in self.gate.audit().targets() {
            let label = format!("target=\"{}\"", target.name);
            gauges.push(("ward_audit_target_lost", label.clone(), u64::from(target.lost)));
            gauges.push(("ward_audit_target_missed", label, target.missed));
        }
        gauges
    }

    fn checkpoint(&self, log: &str) -> Option<String> {
        self.logs.get(log).map(Log::checkpoint)
    }
}
