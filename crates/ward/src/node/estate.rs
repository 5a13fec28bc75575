//! What an erasure hides and destroys on this node: the adapters of `comply::Estate`.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use base::{DomainName, Layer, LogicalId, Read, Write};
use clinical::{PatientMap, Plan, PlanKeeper, Refiner};
use comply::{Estate, KeepPlan, PortError, Record, Rights, State, Subject};
use gate::Gate;
use products::Builder;
use store::Silver;
use vault::{Holder, Vault};

use super::{StartError, while_};

pub struct NodeEstate {
    pub refiners: BTreeMap<DomainName, Arc<Refiner>>,
    pub patients: Arc<PatientMap>,
    pub silver: Silver,
    pub vault: Vault,
    pub gate: Gate,
    pub builder: Arc<Builder>,
}

fn failed(error: impl std::fmt::Display) -> PortError {
    PortError(error.to_string())
}

/// `clinical-6y` is kept for six years; a class that names no years has no duty.
fn years_of(class: &str) -> u16 {
    let years = class.rsplit('-').next().and_then(|last| last.strip_suffix('y'));
    years.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

impl NodeEstate {
    fn refiner(&self, domain: &DomainName) -> Result<&Arc<Refiner>, PortError> {
        self.refiners.get(domain).ok_or_else(|| failed("the domain is not served by this node"))
    }
}

#[async_trait]
impl Estate for NodeEstate {
    async fn find(&self, domain: &DomainName, patient: &LogicalId) -> Result<Option<Record>, PortError> {
        let found = self.silver.patient_of(domain, "Patient", patient).await.map_err(failed)?;
        let Some(ordinal) = found.filter(|ordinal| ordinal.is_patient() && *ordinal != base::Ordinal::UNKNOWN) else {
            return Ok(None);
        };
        let scopes = self.vault.scopes_of(domain, Holder::Record(ordinal)).await.map_err(failed)?;
        let living = scopes.into_iter().filter(|row| !row.destroyed).map(|row| row.scope);
        let kept = living.map(|scope| {
            let class = scope.retention.to_string();
            let until = scope.year.saturating_add(years_of(&class));
            (class, until)
        });
        Ok(Some(Record { ordinal, kept: kept.filter(|(class, _)| years_of(class) > 0).collect() }))
    }

    fn hide(&self, subject: &Subject) {
        self.patients.hide(&subject.domain, subject.ordinal);
    }

    fn unhide(&self, subject: &Subject) {
        self.patients.unhide(&subject.domain, subject.ordinal);
    }

    async fn destroy(&self, subject: &Subject, plan: Option<&str>, keep: &dyn KeepPlan) -> Result<(), PortError> {
        let plan: Option<Plan> = plan.map(serde_json::from_str).transpose().map_err(failed)?;
        self.silver.remember_erased(&subject.domain, &subject.patient, subject.ordinal);
        let keeper = Keeper(keep);
        self.refiner(&subject.domain)?.erase(subject.ordinal, plan, &keeper).await.map_err(failed)?;
        Ok(())
    }

    async fn rewrite(&self, subject: &Subject) -> Result<String, PortError> {
        let read = self.gate.node_permit::<Read>("build", &subject.domain, Layer::Silver).map_err(failed)?;
        let write = self.gate.node_permit::<Write>("build", &subject.domain, Layer::Gold).map_err(failed)?;
        let tables = self.builder.book().tables(&subject.domain);
        let (mut snapshots, count) = (0, tables.len());
        for table in tables {
            snapshots += self.builder.renew(&read, &write, &table).await.map_err(failed)?;
        }
        Ok(format!("{count} built anew, {snapshots} earlier snapshots ended, their files and file keys destroyed"))
    }

    async fn epoch(&self) -> Result<u64, PortError> {
        self.vault.finish_turn().await.map(|turn| turn.current.0).map_err(failed)
    }

    async fn turn_epoch(&self) -> Result<(), PortError> {
        self.vault.turn_epoch().await.map(drop).map_err(failed)
    }
}

struct Keeper<'a>(&'a dyn KeepPlan);

#[async_trait]
impl PlanKeeper for Keeper<'_> {
    async fn keep(&self, plan: &Plan) -> Result<(), String> {
        self.0.keep(serde_json::to_string(plan).map_err(|error| error.to_string())?).await
    }
}

/// The plan is kept already.
struct Kept;

#[async_trait]
impl PlanKeeper for Kept {
    async fn keep(&self, _: &Plan) -> Result<(), String> {
        Ok(())
    }
}

/// Before refine reads a domain's journal: the erased are hidden, what is left of shared entries is known, and a
/// destruction that was planned and cut short is done, since refine must not find half a record.
pub async fn resume(
    rights: &Rights,
    refiner: &Arc<Refiner>,
    patients: &PatientMap,
    silver: &Silver,
    domain: &DomainName,
) -> Result<(), StartError> {
    let doing = || format!("going on with the erasures of {domain}");
    for erasure in rights.hidden().into_iter().filter(|erasure| erasure.subject.domain == *domain) {
        let subject = &erasure.subject;
        patients.hide(domain, subject.ordinal);
        let Some(plan) = &erasure.plan else { continue };
        silver.remember_erased(domain, &subject.patient, subject.ordinal);
        let plan: Plan = serde_json::from_str(plan).map_err(while_(doing()))?;
        refiner.remember(subject.ordinal, &plan);
        if erasure.state == State::Planned {
            refiner.erase(subject.ordinal, Some(plan), &Kept).await.map_err(while_(doing()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_says_how_long_it_is_kept() {
        for (class, years) in [("clinical-6y", 6), ("product", 0), ("index-17", 0), ("audit-10y", 10)] {
            assert_eq!(years_of(class), years, "{class}");
        }
    }
}
