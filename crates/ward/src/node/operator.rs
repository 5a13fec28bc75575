//! What the node does for whoever may open its socket: tokens, rebuilds, figures, checkpoints.

use std::sync::Arc;

use base::{Clock, DomainName, Entropy, PrincipalId, Purpose, Role};
use edge::{Operator, OperatorError, TokenPurpose};
use gate::{Gate, Issue, TokenIssuer};
use herald::ship::Shipper;
use ledger::Log;
use store::Silver;

use super::audit::AuditTargets;
use super::directory::operator_id;
use super::foundation::Logs;
use crate::config::Config;

/// See the module.
pub struct NodeOperator {
    pub config: Arc<Config>,
    pub issuer: Arc<arc_swap::ArcSwap<TokenIssuer>>,
    pub silver: Silver,
    pub gate: Gate,
    pub logs: Logs,
    pub audit: AuditTargets,
    pub shippers: Vec<Arc<Shipper>>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
}

impl NodeOperator {
    fn issue(&self, issue: &Issue) -> Result<String, OperatorError> {
        let issuer = self.issuer.load();
        issuer.issue(issue, self.clock.now(), &*self.entropy).map_err(|error| OperatorError(error.to_string()))
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
        let sessions = self.gate.emergency_counts();
        for (state, n) in [("open", sessions.open), ("unreviewed", sessions.unreviewed), ("overdue", sessions.overdue)]
        {
            gauges.push(("ward_break_glass_sessions", format!("state=\"{state}\""), n));
        }
        for shipper in self.shipping() {
            let label = format!("shipper=\"{}\"", shipper.name);
            gauges.push(("ward_audit_ship_behind", label.clone(), shipper.behind));
            gauges.push(("ward_audit_ship_confirmed_total", label.clone(), shipper.sent));
            gauges.push(("ward_audit_ship_broken_sessions_total", label, shipper.broken));
        }
        gauges
    }

    fn shipping(&self) -> Vec<herald::ship::Status> {
        self.shippers.iter().map(|shipper| shipper.status()).collect()
    }

    fn checkpoint(&self, log: &str) -> Option<String> {
        // An audit log may have been begun anew since the start.
        self.audit.log(log).or_else(|| self.logs.get(log).cloned()).as_ref().map(Log::checkpoint)
    }
}
