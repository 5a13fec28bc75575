//! Principals, sources and policies of the mesh folder, as the gate wants them.

use base::{PrincipalId, Purpose, Role};
use gate::MemoryDirectory;

use super::StartError;
use crate::config::{Agreement, Config, Principal, PrincipalKind, end_of_day};

/// Policies of the folder, compiled.
pub fn engine(config: &Config) -> Result<policy::Engine, StartError> {
    policy::Engine::load(&config.policies).map_err(|diagnostics| StartError {
        doing: "compiling the policies".into(),
        why: diagnostics.iter().map(|d| d.to_string()).collect::<Vec<_>>().join("\n"),
    })
}

/// Whoever may open the node's socket acts as this service.
pub fn operator_id() -> Option<PrincipalId> {
    PrincipalId::parse("operator").ok()
}

/// Principals and sources as the folder declares them.
pub fn directory(config: &Config) -> MemoryDirectory {
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
    // Who makes the downtime packs of the schedule.
    if let Some(id) = crate::downtime::principal() {
        directory.put(gate::PrincipalRecord {
            domains: config.domains.keys().cloned().collect(),
            ..gate::PrincipalRecord::new(id, policy::PrincipalKind::Service, Role::Node)
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
                until: agreement.in_force_until()?,
            })
        })
        .collect()
}
