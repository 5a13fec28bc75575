//! Routes of the domains, put together: receivers, certificates, agreements, and where each route begins.
//!
//! Never here: how a route works (see `relay`).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use relay::{Destination, Feed, Parts, Route, Scheme, Worker};
use serde::{Deserialize, Serialize};
use store::{Facts, RouteBook};

use crate::config::{Agreement, Config, Domain, Finding};
use crate::node::foundation::Foundation;
use crate::node::{StartError, while_};

/// The kind of fact that says that a route began: a catalog that does not know its position has lost it.
const BEGUN: &str = "route";

#[derive(Serialize, Deserialize)]
struct Begun {
    domain: String,
    route: String,
    from: u64,
}

/// What is wrong with where a route sends (DESIGN §11: nothing goes outside without an agreement).
pub fn findings(route: &Route, agreements: &[Agreement]) -> Vec<(String, String)> {
    let mut out = route.findings();
    let mut find = |what: &str, help: &str| out.push((format!("route `{}` {what}", route.name), help.to_owned()));
    let address: Option<IpAddr> = route.to.host.parse().ok();
    let is_here = route.to.host == "localhost" || address.is_some_and(|ip| ip.is_loopback());
    if matches!(route.to.scheme, Scheme::Mllp | Scheme::Http) && !is_here {
        find("would send PHI in the clear over the network", "send to mllps:// or https://");
    }
    match &route.agreement {
        _ if route.to.scheme == Scheme::File => {}
        None if !route.internal => find(
            "sends to a receiver that no agreement covers",
            "name it: agreement = \"ID\"; or, if the hospital runs the receiver, internal = true",
        ),
        None if address.is_some_and(|ip| !net::is_internal(ip)) => {
            find("says `internal`, and its address is public", "name an agreement instead");
        }
        None => {}
        Some(_) if route.internal => {
            find("names an agreement and says `internal`", "an internal receiver needs no agreement: keep one");
        }
        Some(id) => match agreements.iter().find(|agreement| agreement.id == *id) {
            None => find(&format!("names the agreement `{id}`, which is not there"), "add agreements/ID.toml"),
            Some(agreement) if !agreement.purposes.contains(&route.purpose) => find(
                &format!("sends for a purpose that the agreement `{id}` does not allow"),
                "write one of its purposes, or another agreement",
            ),
            Some(_) => {}
        },
    }
    out
}

/// A worker for each route. Certificates are read now, so that a wrong file stops the start and not the route.
pub async fn workers(
    ground: &Foundation,
    gate: &gate::Gate,
    journals: impl Fn(&base::DomainName) -> Option<Arc<clinical::Journal>>,
) -> Result<Vec<Arc<Worker>>, StartError> {
    if ground.config.domains.values().any(|domain| !domain.routes.is_empty()) {
        let engine = crate::node::directory::engine(&ground.config)?;
        if let Some(finding) = never_permitted(&engine, &ground.config).first() {
            return Err(StartError { doing: "asking policy about the routes".into(), why: finding.to_string() });
        }
    }
    let mut workers = Vec::new();
    for domain in ground.config.domains.values() {
        for route in &domain.routes {
            let doing = || format!("setting up the route {}", route.name);
            let journal = journals(&domain.name)
                .ok_or_else(|| StartError { doing: doing(), why: "the domain has no journal".into() })?;
            let log = match route.make.is_empty() {
                true => journal.log().name().clone(),
                false => base::LogName::parse("silver").map_err(while_(doing()))?,
            };
            let book = RouteBook::new(ground.catalog.clone(), domain.name.clone(), &route.name, log);
            let feed = feed(ground, domain, route, journal);
            let end = feed.end(&ground.silver, &domain.name).await.map_err(while_(doing()))?;
            begin(&ground.facts, &book, domain, route, end).await.map_err(while_(doing()))?;
            let parts = Parts {
                domain: domain.name.clone(),
                route: route.clone(),
                feed,
                silver: ground.silver.clone(),
                book,
                gate: gate.clone(),
                record: record(&ground.config, &domain.name, route),
                deidentifier: deidentifier(&ground.vault, &domain.name, route),
                recipient: recipient(&ground.config, route),
                limits: ground.limits.clone(),
                clock: ground.clock.clone(),
            };
            workers.push(Arc::new(Worker::new(parts, destination(&ground.config, route)?)));
        }
    }
    Ok(workers)
}

/// A new route begins at the end of the journal, or at its beginning where it says so. One that began before and whose
/// position the catalog has lost waits for a person: to send years of messages again would be a harm, and so would a gap.
async fn begin(facts: &Facts, book: &RouteBook, domain: &Domain, route: &Route, size: u64) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    if book.position().await.map_err(|error| failed(&error))?.is_some() {
        return Ok(());
    }
    let mut from = 0;
    loop {
        let page = facts.follow_kinds(from, BEGUN).await.map_err(|error| failed(&error))?;
        let Some(last) = page.last() else { break };
        from = last.position + 1;
        let is_this = |body: &[u8]| {
            serde_json::from_slice::<Begun>(body)
                .is_ok_and(|begun| begun.domain == domain.name.as_str() && begun.route == route.name.as_str())
        };
        if page.iter().any(|fact| is_this(&fact.body)) {
            tracing::warn!(
                target: "ward::alarm", route = %route.name,
                "the position of a route is lost: `ward route begin` says from where it goes on"
            );
            return Ok(());
        }
    }
    let from = if route.from_beginning { 0 } else { size };
    let begun = Begun { domain: domain.name.to_string(), route: route.name.to_string(), from };
    let body = serde_json::to_vec(&begun).map_err(|error| failed(&error))?;
    facts.append(BEGUN, &body).await.map_err(|error| failed(&error))?;
    book.begin(from).await.map_err(|error| failed(&error))
}

fn destination(config: &Config, route: &Route) -> Result<Destination, StartError> {
    let doing = || format!("setting up the route {}", route.name);
    let identity = route.certificate.as_ref().zip(route.key.as_ref());
    let identity = identity.map(|(certificate, key)| (config.folder.join(certificate), config.folder.join(key)));
    let identity = identity.as_ref().map(|(certificate, key)| (certificate.as_path(), key.as_path()));
    let tls = match &route.authority {
        Some(authority) if route.to.scheme.is_tls() => {
            Some(net::client_config(&config.folder.join(authority), identity).map_err(while_(doing()))?)
        }
        _ => None,
    };
    let timeout = Duration::from_secs(route.timeout_seconds);
    Ok(Destination::new(route.to.clone(), &config.folder, tls, route.internal, timeout))
}

fn feed(ground: &Foundation, domain: &Domain, route: &Route, journal: Arc<clinical::Journal>) -> Feed {
    if route.make.is_empty() {
        return Feed::Journal(journal);
    }
    let assigners = domain.sources.iter().flat_map(|source| source.assigners.clone());
    let (name, facility) = (domain.name.clone(), domain.name.to_string());
    let maker = clinical::outbound::Maker::new(ground.silver.clone(), name, facility, assigners);
    Feed::Silver { maker: Box::new(maker), make: route.make.clone() }
}

/// Under a key of the node for the domain and the project: two projects cannot put together what each of them got.
fn deidentifier(vault: &vault::Vault, domain: &base::DomainName, route: &Route) -> Option<relay::deid::Deidentifier> {
    let declared = route.deidentify.clone()?;
    let of = match &declared.project {
        Some(project) => format!("deid\0{domain}\0project\0{project}"),
        None => format!("deid\0{domain}\0route\0{}", route.name),
    };
    let vault = vault.clone();
    let keyed = move |text: &str| *vault.derive(&format!("{of}\0{text}"));
    Some(relay::deid::Deidentifier::new(declared, Arc::new(keyed)))
}

/// An agreement that is suspended, or whose last day does not read, has ended.
fn record(config: &Config, domain: &base::DomainName, route: &Route) -> gate::RouteRecord {
    let agreement = route.agreement.as_ref().map(|id| {
        let known = config.agreements.iter().find(|known| known.id == *id);
        gate::Agreement {
            id: id.clone(),
            purposes: known.map(|known| known.purposes.clone()).unwrap_or_default(),
            until: known.and_then(Agreement::in_force_until).unwrap_or(base::Timestamp(0)),
        }
    });
    gate::RouteRecord { name: route.name.clone(), domain: domain.clone(), purpose: route.purpose, agreement }
}

/// A route that no policy lets send anything would only gather what it may not send.
pub fn never_permitted(engine: &policy::Engine, config: &Config) -> Vec<Finding> {
    let routes = config.domains.values().flat_map(|domain| domain.routes.iter().map(move |route| (domain, route)));
    routes
        .filter(|(domain, route)| !may_ever_send(engine, &record(config, &domain.name, route), route))
        .map(|(domain, route)| Finding {
            file: format!("domains/{}/domain.toml", domain.name),
            line: None,
            what: format!("no policy lets the route `{}` send for its purpose", route.name),
            help: "permit `export` to `principal in Role::\"route\"`, as policies/routes.cedar of `ward init` does"
                .into(),
        })
        .collect()
}

fn may_ever_send(engine: &policy::Engine, record: &gate::RouteRecord, route: &Route) -> bool {
    let Ok(id) = base::PrincipalId::parse(&format!("route:{}:{}", record.domain, record.name)) else { return false };
    let principal = policy::PrincipalFacts {
        id,
        kind: policy::PrincipalKind::Service,
        roles: vec![base::Role::Route],
        domain: Some(record.domain.clone()),
        source: None,
        assurance: 1,
        training_until: None,
        care_team: false,
        // Whether it is in force now is asked when something is to leave.
        agreements: record
            .agreement
            .iter()
            .map(|a| gate::Agreement { until: base::Timestamp(i64::MAX), ..a.clone() })
            .collect(),
    };
    let resource = policy::ResourceFacts {
        domain: record.domain.clone(),
        layer: base::Layer::Silver,
        kind: "Patient".into(),
        phi: true,
        one_patient: false,
        in_care_team: false,
        classes: Vec::new(),
        sensitivity: base::Sensitivity::NONE,
    };
    let context = policy::ContextFacts {
        purpose: Some(route.purpose),
        emergency: false,
        agreement: record.agreement.as_ref().map(|agreement| agreement.id.clone()),
        network: policy::Network::Local,
        now: base::Timestamp(0),
    };
    let action = policy::Action::Export;
    let answer = engine.decide(&policy::Request { principal, action, resource, context });
    let is_met = |obliged: &policy::Obliged| match &obliged.what {
        policy::Obligation::DeIdentify(profile) => {
            route.deidentify.as_ref().is_some_and(|declared| declared.profile.meets().contains(&profile.as_str()))
        }
        _ => true,
    };
    answer.allow && answer.obligations.iter().all(is_met)
}

/// As the accounting of disclosures names it: the party of the agreement, else the route.
fn recipient(config: &Config, route: &Route) -> String {
    let agreement = route.agreement.as_ref().and_then(|id| config.agreements.iter().find(|known| known.id == *id));
    let party = agreement.and_then(|agreement| agreement.recipient.as_ref());
    party.map_or_else(|| format!("route {}", route.name), |party| party.name.clone())
}
