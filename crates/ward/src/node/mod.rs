//! The node: [`build`] puts its parts together, and its order is the architecture.
//!
//! Keys, logs, catalog, gate, refine caught up, products, and only then doors.

mod audit;
pub(crate) mod directory;
mod estate;
mod expiry;
pub(crate) mod foundation;
mod keys;
mod maintenance;
mod operator;
pub(crate) mod revived;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, DomainName, Entropy, Layer, PermitMint, Read};
use clinical::{FhirWrites, Hl7Receiver, Intake, Journal, PatientMap, Refiner, SourceKind, Space};
use edge::{DomainDoors, Doors, MllpDoor, NodeInfo, Pace, QueryDesk};
use gate::{AuditLog, Gate, GateParts, Targets, TokenIssuer};
use ledger::Log;
use net::{Drain, Listener};
use store::Catalog;

use self::audit::AuditTargets;
use self::foundation::Foundation;
use self::keys::NodeKeys;
use self::maintenance::Upkeep;
use self::operator::NodeOperator;
use self::revived::Outside;
use crate::config::Config;

pub(crate) use self::foundation::Foundation as Ground;
pub(crate) use self::maintenance::{BackupTo, Report, Stock};

/// Why the node could not start: what was being done, and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {why}")]
pub struct StartError {
    pub doing: String,
    pub why: String,
}

pub(crate) fn while_<E: std::fmt::Display>(doing: impl Into<String>) -> impl FnOnce(E) -> StartError {
    let doing = doing.into();
    move |error| StartError { doing, why: error.to_string() }
}

/// As [`while_`], with what is behind the error.
pub(crate) fn because<E: std::error::Error>(doing: impl Into<String>) -> impl FnOnce(E) -> StartError {
    let doing = doing.into();
    move |error| {
        let (mut why, mut source) = (error.to_string(), error.source());
        while let Some(behind) = source {
            why.push_str(": ");
            why.push_str(&behind.to_string());
            source = behind.source();
        }
        StartError { doing, why }
    }
}

/// A node that is built and not yet serving.
pub struct Node {
    pub config: Arc<Config>,
    pub doors: Arc<Doors>,
    pub gate: Gate,
    keys: Arc<NodeKeys>,
    refiners: Vec<Arc<Refiner>>,
    shippers: Vec<Arc<herald::ship::Shipper>>,
    control: Log,
    logs: Vec<Log>,
    audit: AuditTargets,
    listeners: Listeners,
    rounds: crate::downtime::Rounds,
    bodies: Arc<expiry::BodyExpiry>,
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
    /// A service that keeps the root keys, for who embeds the node; `None`: as `[keys] root` says.
    pub root_keys: Option<Arc<dyn vault::RootKeys>>,
}

/// Puts a node together. When this returns every earlier input is refined and every listener is bound.
pub async fn build(config: Config, around: Surroundings) -> Result<Node, StartError> {
    let Surroundings { mint, clock, entropy, root_keys } = around;
    let ground = Foundation::lay_over(config, clock, entropy, None, root_keys).await?;
    let issuer = crate::keys::token_issuer(&ground.config, &ground.vault).await?;
    let issuer = Arc::new(arc_swap::ArcSwap::from_pointee(issuer));
    let practitioners = ground.config.principals.iter().filter_map(|p| Some((p.id.clone(), p.practitioner.clone()?)));
    let patients = Arc::new(PatientMap::new(practitioners));
    let gate = open_gate(&ground, mint, &issuer.load(), patients.clone()).await?;
    open_emergencies(&ground, &gate).await?;
    let rights = comply::Rights::open(ground.facts.clone(), ground.clock.clone())
        .await
        .map_err(while_("reading holds and erasures"))?;
    // Refine has caught up before a door opens: every earlier control key is then known.
    let mut refiners = BTreeMap::new();
    let mut domains = BTreeMap::new();
    for name in ground.config.domains.keys() {
        let (refiner, doors) = open_domain(&ground, &gate, &patients, &rights, name).await?;
        refiners.insert(name.clone(), refiner);
        domains.insert(name.clone(), doors);
    }
    let products = crate::products::open(&ground).await?;
    let estate: Arc<dyn comply::Estate> = Arc::new(estate::NodeEstate {
        refiners: refiners.clone(),
        patients: patients.clone(),
        silver: ground.silver.clone(),
        vault: ground.vault.clone(),
        gate: gate.clone(),
        builder: products.builder.clone(),
        config: ground.config.clone(),
    });
    rights.replay(&*estate);
    let bodies = Arc::new(expiry::BodyExpiry {
        refiners: refiners.clone(),
        silver: ground.silver.clone(),
        rights: rights.clone(),
        facts: ground.facts.clone(),
        config: ground.config.clone(),
        clock: ground.clock.clone(),
        turn: tokio::sync::Mutex::default(),
    });
    let metrics = Arc::new(edge::Metrics::default());
    let listeners = bind(&ground, &gate, &domains, &metrics).await?;
    // Development certificates are there once the listeners are.
    let journal_of = |name: &DomainName| domains.get(name).map(|doors| doors.intake.journal().clone());
    let routes = crate::routes::workers(&ground, &gate, journal_of).await?;
    let http = listeners.http.address().map_err(while_("asking for the HTTP address"))?;
    let info = NodeInfo {
        mesh: ground.config.mesh.name.clone(),
        version: env!("CARGO_PKG_VERSION"),
        started: ground.clock.now(),
        base_url: format!("https://{http}"),
    };
    let audit_records = Arc::new(gate.audit_records(ground.audit.stores()));
    let shippers = crate::ship::shippers(&crate::ship::Ground {
        config: &ground.config,
        gate: &gate,
        records: audit_records.clone(),
        place: info.place(&format!("{}/audit", info.mesh)),
        clock: ground.clock.clone(),
    })?;
    let operator = Arc::new(NodeOperator {
        config: ground.config.clone(),
        issuer: issuer.clone(),
        silver: ground.silver.clone(),
        gate: gate.clone(),
        logs: ground.logs.clone(),
        audit: ground.audit.clone(),
        shippers: shippers.clone(),
        clock: ground.clock.clone(),
        entropy: ground.entropy.clone(),
    });
    let keys = Arc::new(NodeKeys {
        config: ground.config.clone(),
        vault: ground.vault.clone(),
        root: ground.root.clone(),
        facts: ground.facts.clone(),
        gate: gate.clone(),
        issuer: issuer.clone(),
        clock: ground.clock.clone(),
        rotating: tokio::sync::Mutex::new(()),
        last: arc_swap::ArcSwap::from_pointee(None),
    });
    let follower =
        ground.audit.follower(gate.audit(), &ground.facts, &ground.clock, ground.data.join("audit-index")).await?;
    let downtime = Arc::new(crate::downtime::Desk {
        facts: ground.facts.clone(),
        vault: ground.vault.clone(),
        life_ms: i64::from(ground.config.mesh.downtime.hours) * 3_600_000,
    });
    let journals = domains.iter().map(|(name, parts)| (name.clone(), parts.intake.journal().clone())).collect();
    let maintenance = Arc::new(Upkeep::new(&ground, &gate, &products, journals));
    let doors = Arc::new(Doors {
        gate: gate.clone(),
        silver: ground.silver,
        patients,
        domains,
        registry: products.registry,
        snapshots: products.snapshots,
        builder: products.builder,
        engine: products.engine,
        shower: products.shower,
        operator,
        downtime,
        keys: keys.clone(),
        audit: Arc::new(gate.audit_reader(follower).with_names(Arc::new(audit::Names(ground.config.clone())))),
        maintenance,
        journals: bodies.clone(),
        rights,
        routes,
        estate,
        audit_records,
        metrics,
        limits: ground.limits,
        info,
        clock: ground.clock,
        entropy: ground.entropy,
    });
    let rounds = crate::downtime::Rounds {
        config: ground.config.mesh.downtime.clone(),
        mesh: ground.config.folder.clone(),
        doors: doors.clone(),
        issuer,
    };
    Ok(Node {
        rounds,
        bodies,
        config: ground.config,
        doors,
        gate,
        keys,
        refiners: refiners.into_values().collect(),
        shippers,
        control: ground.logs["control"].clone(),
        logs: ground.logs.into_values().collect(),
        audit: ground.audit,
        listeners,
        catalog: ground.catalog,
        drain: Drain::new(),
    })
}

async fn open_gate(
    ground: &Foundation,
    mint: PermitMint,
    issuer: &TokenIssuer,
    patients: Arc<PatientMap>,
) -> Result<Gate, StartError> {
    let retention = vault::RetentionClass::parse("audit-6y").map_err(while_("naming the audit's retention"))?;
    let keys = Arc::new(gate::VaultAuditKeys::new(ground.vault.clone(), ground.clock.clone(), retention));
    let targets = Targets::new(ground.audit.targets(), ground.limits.log_queue_max);
    let audit = AuditLog::open(keys, targets).await.map_err(while_("opening the audit log"))?;
    Ok(Gate::new(GateParts {
        mint,
        engine: directory::engine(&ground.config)?,
        audit,
        patients,
        principals: Arc::new(directory::directory(&ground.config)),
        tokens: keys::token_keys(&ground.vault, issuer, ground.clock.now())
            .await
            .map_err(while_("opening the token keys"))?,
        clock: ground.clock.clone(),
        entropy: ground.entropy.clone(),
        limits: (*ground.limits).clone(),
    }))
}

/// Break-glass sessions of before are known before a door opens.
async fn open_emergencies(ground: &Foundation, gate: &Gate) -> Result<(), StartError> {
    let book = crate::care::ControlBook {
        facts: ground.facts.clone(),
        vault: ground.vault.clone(),
        silver: ground.silver.clone(),
        clock: ground.clock.clone(),
    };
    let limits = ground.config.mesh.break_glass.limits();
    gate.open_emergencies(Arc::new(book), limits).await.map_err(while_("reading the record of break-glass sessions"))
}

/// A domain's journal with its refiner, caught up, and what its doors need.
async fn open_domain(
    ground: &Foundation,
    gate: &Gate,
    patients: &Arc<PatientMap>,
    rights: &comply::Rights,
    name: &DomainName,
) -> Result<(Arc<Refiner>, DomainDoors), StartError> {
    let Foundation { config, limits, vault, silver, clock, objects, .. } = ground;
    let domain = &config.domains[name];
    let log = ground.logs[&format!("journal-{name}")].clone();
    let journal = Arc::new(Journal::new(name.clone(), log, vault.clone(), objects.clone()));
    let permit =
        gate.node_permit::<Read>("index", name, Layer::Silver).map_err(while_(format!("reading silver of {name}")))?;
    patients.load(&permit, silver, name).await.map_err(while_(format!("loading patient sets of {name}")))?;
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
    expiry::remember(&ground.facts, &refiner).await?;
    estate::resume(rights, &refiner, patients, silver, vault).await?;
    let caught_up = refiner.catch_up().await.map_err(while_(format!("refining the journal of {name}")))?;
    if caught_up > 0 {
        tracing::info!(domain = %name, entries = caught_up, "refined what the journal had ahead");
    }
    let space = Space::below(&ground.data);
    let intake = Intake::open(journal, silver.clone(), space, clock.clone(), limits.clone())
        .await
        .map_err(while_(format!("opening the intake of {name}")))?;
    let intake = Arc::new(intake);
    let timeout = Duration::from_millis(limits.http_request_timeout_ms / 2);
    let writes = FhirWrites::new(intake.clone(), silver.clone(), timeout);
    let hl7 = domain.sources.iter().filter(|source| source.kind == SourceKind::Hl7v2);
    let receivers = hl7
        .map(|source| {
            let receiver = Hl7Receiver::new(intake.clone(), Arc::new(source.clone()), limits.clone(), clock.clone());
            (source.name.clone(), Arc::new(receiver))
        })
        .collect();
    Ok((refiner, DomainDoors { intake, writes, receivers }))
}

async fn bind(
    ground: &Foundation,
    gate: &Gate,
    domains: &BTreeMap<DomainName, DomainDoors>,
    metrics: &Arc<edge::Metrics>,
) -> Result<Listeners, StartError> {
    let Foundation { config, limits, clock, entropy, .. } = ground;
    let handshake = Duration::from_millis(limits.http_header_timeout_ms);
    let tls = crate::keys::http_tls(config)?;
    let http = Listener::bind(config.mesh.listen.http, Some(tls), limits.http_connections_max, handshake)
        .await
        .map_err(while_(format!("listening on {}", config.mesh.listen.http)))?;
    let mut mllp = Vec::new();
    for receiver in domains.values().flat_map(|doors| doors.receivers.values()) {
        let source = receiver.source();
        let Some(address) = source.listen else { continue };
        let tls = crate::keys::source_tls(config, source)?;
        let connections_max = source.connections_max.unwrap_or(limits.mllp_connections_max);
        let listener = Listener::bind(address, tls, connections_max, handshake)
            .await
            .map_err(while_(format!("listening on {address} for source {}", source.name)))?;
        let door = MllpDoor {
            gate: gate.clone(),
            receiver: receiver.clone(),
            limits: limits.clone(),
            clock: clock.clone(),
            entropy: entropy.clone(),
            metrics: metrics.clone(),
            pace: Pace::new(source.messages_per_second_max),
            desk: source.query.clone().map(|right| {
                let (gate, silver) = (gate.clone(), ground.silver.clone());
                let (limits, clock, entropy) = (limits.clone(), clock.clone(), entropy.clone());
                QueryDesk::new(gate, silver, limits, clock, entropy, right, &source.assigners)
            }),
        };
        mllp.push((listener, door));
    }
    Ok(Listeners { http, mllp, socket: bind_socket(&config.socket())? })
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
        let Node {
            config,
            doors,
            gate: _,
            keys,
            refiners,
            shippers,
            control,
            logs,
            audit,
            listeners,
            rounds,
            bodies,
            catalog,
            drain,
        } = self;
        let limits = doors.limits.clone();
        let router = edge::router(doors.clone());
        let refining = Drain::new();
        for refiner in refiners {
            let stop = refining.clone();
            refining.spawn(async move { refiner.run(async move { stop.closing().await }).await });
        }
        let stop = refining.clone();
        refining.spawn(async move { keys.run(async move { stop.closing().await }).await });
        let (follower, stop) = (doors.audit.follower().clone(), refining.clone());
        refining.spawn(async move { follower.run(async move { stop.closing().await }).await });
        let (rights, estate, stop) = (doors.rights.clone(), doors.estate.clone(), refining.clone());
        refining.spawn(async move { rights.run(&*estate, async move { stop.closing().await }).await });
        let stop = refining.clone();
        refining.spawn(async move { bodies.run(async move { stop.closing().await }).await });
        let (silence, stop) = (edge::SilenceWatch::new(doors.clone()), refining.clone());
        refining.spawn(async move { silence.run(async move { stop.closing().await }).await });
        for shipper in shippers {
            let stop = refining.clone();
            refining.spawn(async move { shipper.run(async move { stop.closing().await }).await });
        }
        for route in doors.routes.clone() {
            let stop = refining.clone();
            refining.spawn(async move { route.run(async move { stop.closing().await }).await });
        }
        for (listener, door) in listeners.mllp {
            let drain_door = drain.clone();
            drain.spawn(async move { door.serve(listener, drain_door).await });
        }
        drain.spawn(rounds.run(drain.clone()));
        drain.spawn(edge::serve(listeners.http, router.clone(), limits.clone(), drain.clone()));
        drain.spawn(serve_socket(listeners.socket, router, limits.clone(), drain.clone()));
        let outside = Outside::of(&config);
        drain.spawn(outside.clone().follow(control.clone(), drain.clone()));
        shutdown.await;
        tracing::info!("draining");
        // Doors first, refine after them: a FHIR write that is under way waits for its outcome.
        let timeout = Duration::from_millis(limits.drain_timeout_ms);
        if !drain.finish(timeout).await {
            tracing::warn!("some connections did not end in time");
        }
        refining.finish(timeout).await;
        audit.close().await;
        for log in logs {
            log.close().await;
        }
        catalog.close().await;
        if let Err(error) = outside.keep(&control) {
            tracing::error!(%error, "the control log's checkpoint could not be kept beside the root keys");
        }
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
