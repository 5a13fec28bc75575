//! Which patients a decision reaches: the [`PatientSets`] port, and how row rules become one [`PatientSet`].

use std::collections::HashMap;
use std::sync::Arc;

use base::{DomainName, Ordinal, PatientSet, PrincipalId};
use parking_lot::RwLock;
use policy::RowRule;
use roaring::RoaringBitmap;

use crate::cache::Cache;
use crate::caller::Outage;

/// Sets of patients of a domain, as the newest applied state has them. All methods answer from memory.
pub trait PatientSets: Send + Sync {
    /// Patients whose records are restricted (VIP, staff, at their own wish).
    fn restricted(&self, domain: &DomainName) -> Result<Arc<RoaringBitmap>, Outage>;
    /// Patients in whose care team the principal is; for a service, the patients of its team.
    fn care_team(&self, principal: &PrincipalId, domain: &DomainName) -> Result<Arc<RoaringBitmap>, Outage>;
    /// Patients who were erased, or hidden for erasure: nobody sees them.
    fn tombstones(&self, domain: &DomainName) -> Result<Arc<RoaringBitmap>, Outage>;
    /// Changes whenever one of the sets above does, and is read before them.
    fn version(&self, domain: &DomainName) -> Result<u64, Outage>;
}

#[derive(Debug, Default)]
struct Sets {
    version: u64,
    restricted: Arc<RoaringBitmap>,
    tombstones: Arc<RoaringBitmap>,
    care_teams: HashMap<PrincipalId, Arc<RoaringBitmap>>,
}

/// Sets that are filled by hand.
#[derive(Debug, Default)]
pub struct MemoryPatients(RwLock<HashMap<DomainName, Sets>>);

impl MemoryPatients {
    pub fn restrict(&self, domain: &DomainName, patients: impl IntoIterator<Item = u32>) {
        self.change(domain, |sets| sets.restricted = Arc::new(patients.into_iter().collect()));
    }

    pub fn bury(&self, domain: &DomainName, patients: impl IntoIterator<Item = u32>) {
        self.change(domain, |sets| sets.tombstones = Arc::new(patients.into_iter().collect()));
    }

    pub fn assign(&self, principal: &PrincipalId, domain: &DomainName, patients: impl IntoIterator<Item = u32>) {
        let team = Arc::new(patients.into_iter().collect());
        self.change(domain, |sets| drop(sets.care_teams.insert(principal.clone(), team)));
    }

    fn change(&self, domain: &DomainName, change: impl FnOnce(&mut Sets)) {
        let mut all = self.0.write();
        let sets = all.entry(domain.clone()).or_default();
        change(sets);
        sets.version += 1;
    }

    fn look<T: Default>(&self, domain: &DomainName, look: impl FnOnce(&Sets) -> T) -> Result<T, Outage> {
        Ok(self.0.read().get(domain).map(look).unwrap_or_default())
    }
}

impl PatientSets for MemoryPatients {
    fn restricted(&self, domain: &DomainName) -> Result<Arc<RoaringBitmap>, Outage> {
        self.look(domain, |sets| sets.restricted.clone())
    }

    fn care_team(&self, principal: &PrincipalId, domain: &DomainName) -> Result<Arc<RoaringBitmap>, Outage> {
        self.look(domain, |sets| sets.care_teams.get(principal).cloned().unwrap_or_default())
    }

    fn tombstones(&self, domain: &DomainName) -> Result<Arc<RoaringBitmap>, Outage> {
        self.look(domain, |sets| sets.tombstones.clone())
    }

    fn version(&self, domain: &DomainName) -> Result<u64, Outage> {
        self.look(domain, |sets| sets.version)
    }
}

/// One answer per (domain, principal, rules), as long as the sets' version stands.
pub(crate) struct Resolver {
    sets: Arc<dyn PatientSets>,
    #[allow(clippy::type_complexity)]
    cache: Cache<(DomainName, PrincipalId, Vec<RowRule>), (u64, PatientSet)>,
}

impl Resolver {
    pub fn new(sets: Arc<dyn PatientSets>, entries_max: usize) -> Self {
        Resolver { sets, cache: Cache::new(entries_max) }
    }

    /// Everyone who is not erased, narrowed by every rule.
    pub fn resolve(
        &self,
        domain: &DomainName,
        principal: &PrincipalId,
        mut rules: Vec<RowRule>,
    ) -> Result<PatientSet, Outage> {
        rules.sort_unstable();
        rules.dedup();
        let key = (domain.clone(), principal.clone(), rules);
        let version = self.sets.version(domain)?;
        if let Some((cached, set)) = self.cache.get(&key)
            && cached == version
        {
            return Ok(set);
        }
        let mut set = all_but(self.sets.tombstones(domain)?);
        for rule in &key.2 {
            set = set.intersect(&match rule {
                RowRule::NotRestricted => all_but(self.sets.restricted(domain)?),
                RowRule::CareTeam => PatientSet::Only(self.sets.care_team(principal, domain)?),
                RowRule::RestrictedInCareTeam => {
                    let own = self.sets.care_team(principal, domain)?;
                    all_but(Arc::new(&*self.sets.restricted(domain)? - &*own))
                }
            });
        }
        self.cache.insert(key, (version, set.clone()));
        Ok(set)
    }

    /// Patients whom nobody sees now.
    pub fn hidden(&self, domain: &DomainName) -> Result<Arc<RoaringBitmap>, Outage> {
        self.sets.tombstones(domain)
    }

    /// Whether the patient is in the principal's care team.
    pub fn is_own(&self, domain: &DomainName, principal: &PrincipalId, patient: Ordinal) -> Result<bool, Outage> {
        Ok(self.sets.care_team(principal, domain)?.contains(patient.0))
    }
}

fn all_but(set: Arc<RoaringBitmap>) -> PatientSet {
    if set.is_empty() { PatientSet::All } else { PatientSet::AllBut(set) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_narrow_and_a_change_is_seen_at_once() {
        let ehr = DomainName::parse("ehr").unwrap();
        let (lee, kim) = (PrincipalId::parse("dr-lee").unwrap(), PrincipalId::parse("dr-kim").unwrap());
        let sets = Arc::new(MemoryPatients::default());
        sets.restrict(&ehr, [3, 4]);
        sets.assign(&lee, &ehr, [1, 3, 5]);
        sets.bury(&ehr, [5]);
        let resolver = Resolver::new(sets.clone(), 16);
        let seen = |who: &PrincipalId, rules: &[RowRule]| -> Vec<u32> {
            let set = resolver.resolve(&ehr, who, rules.to_vec()).unwrap();
            (1..=6).filter(|p| set.contains(Ordinal(*p))).collect()
        };
        for (who, rules, expected) in [
            (&lee, vec![], vec![1, 2, 3, 4, 6]),
            (&lee, vec![RowRule::NotRestricted], vec![1, 2, 6]),
            (&lee, vec![RowRule::RestrictedInCareTeam], vec![1, 2, 3, 6]),
            (&kim, vec![RowRule::RestrictedInCareTeam], vec![1, 2, 6]),
            (&lee, vec![RowRule::CareTeam], vec![1, 3]),
            (&kim, vec![RowRule::CareTeam], vec![]),
            (&lee, vec![RowRule::NotRestricted, RowRule::CareTeam], vec![1]),
        ] {
            assert_eq!(seen(who, &rules), expected, "{who} {rules:?}");
            assert_eq!(seen(who, &rules), expected, "cached");
        }
        sets.assign(&lee, &ehr, [2]);
        assert_eq!(seen(&lee, &[RowRule::CareTeam]), [2]);
        sets.bury(&ehr, [2]);
        assert!(seen(&lee, &[RowRule::CareTeam]).is_empty());
    }
}
