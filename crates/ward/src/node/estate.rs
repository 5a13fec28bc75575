//! What an erasure hides and destroys on this node: the adapter of `comply::Estate`, and what erasures that were planned
//! before demand at each start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use base::{DomainName, Layer, LogicalId, Ordinal, Read, Write};
use clinical::{PatientMap, Plan, PlanKeeper, Refiner};
use comply::{Due, Estate, KeepPlan, PortError, Record, Records, Rights, State, Subject, years_of};
use gate::Gate;
use products::Builder;
use store::Silver;
use vault::{Holder, Scope, Vault};

use super::{StartError, while_};
use crate::config::Config;

pub struct NodeEstate {
    pub refiners: BTreeMap<DomainName, Arc<Refiner>>,
    pub patients: Arc<PatientMap>,
    pub silver: Silver,
    pub vault: Vault,
    pub gate: Gate,
    pub builder: Arc<Builder>,
    pub config: Arc<Config>,
}

fn failed(error: impl std::fmt::Display) -> PortError {
    PortError(error.to_string())
}

impl NodeEstate {
    fn refiner(&self, domain: &DomainName) -> Result<&Arc<Refiner>, PortError> {
        self.refiners.get(domain).ok_or_else(|| failed("the domain is not served by this node"))
    }

    /// Scopes whose keys wrap what several patients share. Those of the control log have their slots in its frames and
    /// name no patient; each key of a search index has its own.
    async fn shared_scopes(&self, domain: &DomainName) -> Result<BTreeSet<Scope>, PortError> {
        let rows = self.vault.scopes_of(domain, Holder::Shared).await.map_err(failed)?;
        let shared = |scope: &Scope| {
            let class = scope.retention.as_str();
            class != "control" && !class.starts_with(store::INDEX_CLASS)
        };
        let living = rows.into_iter().filter(|row| !row.is_destroyed()).map(|row| row.scope);
        Ok(living.filter(shared).collect())
    }
}

#[async_trait]
impl Records for NodeEstate {
    async fn find(&self, domain: &DomainName, patient: &LogicalId) -> Result<Option<Record>, PortError> {
        let found = self.silver.patient_of(domain, "Patient", patient).await.map_err(failed)?;
        let is_record = |ordinal: &Ordinal| ordinal.is_patient() && *ordinal != Ordinal::UNKNOWN;
        let gone = self.patients.gone(domain);
        let Some(ordinal) = found.filter(is_record).filter(|ordinal| !gone.contains(ordinal.0)) else {
            return Ok(None);
        };
        let scopes = self.vault.scopes_of(domain, Holder::Record(ordinal)).await.map_err(failed)?;
        let living = scopes.into_iter().filter(|row| !row.is_destroyed()).map(|row| row.scope);
        let kept =
            living.map(|scope| (scope.retention.to_string(), scope.year)).filter(|(class, _)| years_of(class) > 0);
        let kept = kept.map(|(class, year)| (class.clone(), year.saturating_add(years_of(&class)))).collect();
        Ok(Some(Record { ordinal, kept }))
    }

    async fn by_year(&self, domain: &DomainName) -> Result<Vec<Due>, PortError> {
        let records = self.silver.records_by_year(domain).await.map_err(failed)?;
        Ok(records.into_iter().map(|(ordinal, year)| Due { ordinal, year }).collect())
    }

    fn class_of(&self, domain: &DomainName) -> String {
        self.config.domains.get(domain).map(|domain| domain.retention.clone()).unwrap_or_default()
    }

    async fn patient_of(&self, domain: &DomainName, record: Ordinal) -> Result<Option<LogicalId>, PortError> {
        let permit = self.gate.node_permit::<Write>("refine", domain, Layer::Silver).map_err(failed)?;
        self.silver.patient_id(&permit, domain, record).await.map_err(failed)
    }
}

#[async_trait]
impl Estate for NodeEstate {
    fn hide(&self, subject: &Subject) {
        self.silver.remember_erased(&subject.domain, &subject.patient, subject.ordinal);
        self.patients.hide(&subject.domain, subject.ordinal);
    }

    fn unhide(&self, subject: &Subject) {
        self.patients.unhide(&subject.domain, subject.ordinal);
        self.silver.remember_living(&subject.domain, &subject.patient);
    }

    async fn destroy(&self, subject: &Subject, plan: Option<&str>, keep: &dyn KeepPlan) -> Result<(), PortError> {
        let plan: Option<Plan> = plan.map(serde_json::from_str).transpose().map_err(failed)?;
        self.refiner(&subject.domain)?.erase(subject.ordinal, plan, &Keeper(keep)).await.map_err(failed)?;
        Ok(())
    }

    async fn rewrite(&self, domain: &DomainName) -> Result<String, PortError> {
        let shared = self.shared_scopes(domain).await?;
        for scope in &shared {
            self.vault.renew_scope(scope).await.map_err(failed)?;
        }
        self.silver.renew_index_key(domain).await.map_err(failed)?;
        let read = self.gate.node_permit::<Read>("build", domain, Layer::Silver).map_err(failed)?;
        let write = self.gate.node_permit::<Write>("build", domain, Layer::Gold).map_err(failed)?;
        let tables = self.builder.book().tables(domain);
        let (mut snapshots, count) = (0, tables.len());
        for table in tables {
            snapshots += self.builder.renew(&read, &write, &table).await.map_err(failed)?;
        }
        let mut rewrapped = 0;
        for scope in &shared {
            rewrapped += self.vault.finish_renewal(scope).await.map_err(failed)?.slots_rewrapped;
        }
        Ok(format!(
            "{count} data products built anew, {snapshots} earlier snapshots ended with their files and file keys; the search \
             index under a new key; {} shared keys renewed for the {rewrapped} objects of others",
            shared.len()
        ))
    }

    async fn epoch(&self) -> Result<u64, PortError> {
        let turn = self.vault.finish_turn().await.map_err(failed)?;
        match turn.damaged.is_empty() {
            true => Ok(turn.current.0),
            false => Err(failed("damaged scope keys keep earlier epochs alive: `ward doctor`")),
        }
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

/// Before refine reads a domain's journal and before a door opens (laws 10, 11): the erased are hidden, what is left of
/// shared entries is known, and what a plan destroys is destroyed, again where a crash cut it short or where a restored
/// copy brought it back.
pub async fn resume(
    rights: &Rights,
    refiner: &Arc<Refiner>,
    patients: &PatientMap,
    silver: &Silver,
    vault: &Vault,
) -> Result<(), StartError> {
    let domain = refiner.domain();
    let doing = || format!("going on with the erasures of {domain}");
    let mut again = Vec::new();
    for erasure in rights.hidden().into_iter().filter(|erasure| erasure.subject.domain == *domain) {
        let subject = &erasure.subject;
        patients.hide(domain, subject.ordinal);
        let Some(plan) = erasure.whole_plan() else { continue };
        silver.remember_erased(domain, &subject.patient, subject.ordinal);
        let plan: Plan = serde_json::from_str(plan).map_err(while_(doing()))?;
        refiner.remember(subject.ordinal, &plan);
        let scopes = vault.scopes_of(domain, Holder::Record(subject.ordinal)).await.map_err(while_(doing()))?;
        let is_back = erasure.case.state > State::Planned && scopes.iter().any(|row| !row.is_destroyed());
        if is_back {
            rights.rewrite_again(domain).await;
        }
        if is_back || erasure.case.state == State::Planned {
            again.push((subject.ordinal, plan));
        }
    }
    for (patient, plan) in again {
        refiner.erase(patient, Some(plan), &Kept).await.map_err(while_(doing()))?;
    }
    Ok(())
}
