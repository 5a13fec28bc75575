//! Which patients are whose: the sets that decisions use, kept as silver changes.
//!
//! Care teams come from encounters (the practitioner numbers of their participants), restrictions from the labels of
//! Patient resources; merged Patients are one person in both. Derived and in memory: loaded from silver at start, then
//! followed batch by batch.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use base::{DomainName, LogicalId, Ordinal, Permit, PrincipalId, Read, Sensitivity};
use fhir::json::{ParseLimits, Value};
use gate::{Outage, PatientSets};
use parking_lot::RwLock;
use roaring::RoaringBitmap;
use store::{NewVersion, Silver, StoreError};

use crate::merged::Merged;

#[derive(Debug, Default)]
struct Sets {
    version: u64,
    restricted: Arc<RoaringBitmap>,
    /// The deleted and the hidden together.
    tombstones: Arc<RoaringBitmap>,
    /// Patients whose Patient resource is deleted.
    buried: Arc<RoaringBitmap>,
    /// Hidden for erasure, or erased: whatever silver says.
    hidden: Arc<RoaringBitmap>,
    /// Erased: their entries are noise, and their numbers are never given again.
    gone: Arc<RoaringBitmap>,
    /// Practitioner number to the patients of that practitioner's encounters.
    teams: HashMap<String, Arc<RoaringBitmap>>,
    merged: Merged,
}

impl Sets {
    fn settle(&mut self, moved: bool) {
        if moved {
            self.tombstones = Arc::new(&*self.buried | &*self.hidden);
            self.version += 1;
        }
    }
}

/// The sets of all domains of a node.
#[derive(Debug)]
pub struct PatientMap {
    /// Principal to practitioner number.
    practitioners: HashMap<PrincipalId, String>,
    domains: RwLock<HashMap<DomainName, Sets>>,
}

const SCAN_ROWS: usize = 500;

impl PatientMap {
    pub fn new(practitioners: impl IntoIterator<Item = (PrincipalId, String)>) -> Self {
        PatientMap { practitioners: practitioners.into_iter().collect(), domains: RwLock::default() }
    }

    /// Reads what silver holds now. Before the doors open.
    pub async fn load(&self, permit: &Permit<Read>, silver: &Silver, domain: &DomainName) -> Result<(), StoreError> {
        let mut change = Change::default();
        for rtype in ["Patient", "Encounter"] {
            let mut after = 0;
            loop {
                let page = silver.scan(permit, domain, rtype, after, SCAN_ROWS).await?;
                for resource in &page.resources {
                    let body = if resource.deleted {
                        Value::Null
                    } else {
                        fhir::json::parse(resource.body.expose(), &ParseLimits::default())
                            .map_err(|_| StoreError::corrupt("a stored resource is not JSON"))?
                    };
                    change.see(rtype, &resource.id, resource.patient, resource.sensitivity, resource.deleted, &body);
                }
                // At the start nobody is merged: only who is says something new.
                change.patients.retain(|(_, _, links)| links.is_some());
                after = page.after;
                if !page.more {
                    break;
                }
            }
        }
        self.apply(domain, change);
        Ok(())
    }

    /// Follows a batch that silver has taken.
    pub fn follow<'a>(&self, domain: &DomainName, versions: impl IntoIterator<Item = &'a NewVersion>) {
        let mut change = Change::default();
        for version in versions {
            let (rtype, sensitivity) = (&version.rtype, version.sensitivity);
            change.see(rtype, &version.id, version.patient, sensitivity, version.deleted, &version.body);
        }
        self.apply(domain, change);
    }

    /// The version moves only when a set does: decisions are cached by it.
    fn apply(&self, domain: &DomainName, change: Change) {
        let mut domains = self.domains.write();
        let sets = domains.entry(domain.clone()).or_default();
        let mut moved = turn(&mut sets.restricted, &change.restrict, true);
        moved |= turn(&mut sets.restricted, &change.unrestrict, false);
        moved |= turn(&mut sets.buried, &change.bury, true);
        moved |= turn(&mut sets.buried, &change.unbury, false);
        for (id, patient, body) in &change.patients {
            moved |= sets.merged.see(id, *patient, body.as_ref());
        }
        for (practitioner, patients) in &change.teams {
            moved |= turn(sets.teams.entry(practitioner.clone()).or_default(), patients, true);
        }
        sets.settle(moved);
    }

    /// From when this returns no decision reaches the patient, and nothing that was decided before leaves.
    pub fn hide(&self, domain: &DomainName, patient: Ordinal) {
        let mut domains = self.domains.write();
        let sets = domains.entry(domain.clone()).or_default();
        let moved = turn(&mut sets.hidden, &HashSet::from([patient.0]), true);
        sets.settle(moved);
    }

    /// Takes back [`PatientMap::hide`], where what it was done for did not come about.
    pub fn unhide(&self, domain: &DomainName, patient: Ordinal) {
        let mut domains = self.domains.write();
        let sets = domains.entry(domain.clone()).or_default();
        let moved = turn(&mut sets.hidden, &HashSet::from([patient.0]), false);
        sets.settle(moved);
    }

    /// The patient is erased: hidden for good, and its number is passed over when a replay counts patients.
    pub fn forget(&self, domain: &DomainName, patient: Ordinal) {
        self.hide(domain, patient);
        let mut domains = self.domains.write();
        turn(&mut domains.entry(domain.clone()).or_default().gone, &HashSet::from([patient.0]), true);
    }

    /// Those whose numbers are never given again.
    pub fn gone(&self, domain: &DomainName) -> Arc<RoaringBitmap> {
        self.look(domain, |sets| sets.gone.clone())
    }

    /// Those hidden for erasure, or erased.
    pub fn hidden(&self, domain: &DomainName) -> Arc<RoaringBitmap> {
        self.look(domain, |sets| sets.hidden.clone())
    }

    /// The Patient and all who are the same person by a merge, the Patient itself first; each with its source record,
    /// where it took part in one.
    pub fn family(&self, domain: &DomainName, id: &LogicalId) -> Vec<(LogicalId, Option<Ordinal>)> {
        let domains = self.domains.read();
        let Some(sets) = domains.get(domain) else { return vec![(id.clone(), None)] };
        let family = sets.merged.family(id);
        family.into_iter().map(|id| (sets.merged.ordinal(&id), id)).map(|(ordinal, id)| (id, ordinal)).collect()
    }

    /// Whether anybody is merged there at all.
    pub fn has_merged(&self, domain: &DomainName) -> bool {
        self.domains.read().get(domain).is_some_and(|sets| !sets.merged.is_empty())
    }

    /// The Patient that goes on for one that was merged into it.
    pub fn survivor(&self, domain: &DomainName, id: &LogicalId) -> Option<LogicalId> {
        self.domains.read().get(domain)?.merged.survivor(id).cloned()
    }

    fn look<T: Default>(&self, domain: &DomainName, look: impl FnOnce(&Sets) -> T) -> T {
        self.domains.read().get(domain).map(look).unwrap_or_default()
    }
}

/// Puts patients into a set or takes them out. True when the set is another one now.
fn turn(set: &mut Arc<RoaringBitmap>, patients: &HashSet<u32>, present: bool) -> bool {
    let moving: Vec<u32> = patients.iter().copied().filter(|patient| set.contains(*patient) != present).collect();
    if moving.is_empty() {
        return false;
    }
    let bitmap = Arc::make_mut(set);
    for patient in moving {
        if present {
            bitmap.insert(patient);
        } else {
            bitmap.remove(patient);
        }
    }
    true
}

/// What a batch does to the sets. The last word on a patient counts.
#[derive(Default)]
struct Change {
    restrict: HashSet<u32>,
    unrestrict: HashSet<u32>,
    bury: HashSet<u32>,
    unbury: HashSet<u32>,
    teams: HashMap<String, HashSet<u32>>,
    /// Patients with their links, in order; `None` for one that was deleted.
    patients: Vec<(LogicalId, Ordinal, Option<Value>)>,
}

impl Change {
    fn see(
        &mut self,
        rtype: &str,
        id: &LogicalId,
        patient: Ordinal,
        sensitivity: Sensitivity,
        deleted: bool,
        body: &Value,
    ) {
        if !patient.is_patient() || patient == Ordinal::UNKNOWN {
            return;
        }
        let turn = |on: &mut HashSet<u32>, off: &mut HashSet<u32>| {
            on.insert(patient.0);
            off.remove(&patient.0);
        };
        match rtype {
            "Patient" => {
                let restricted = sensitivity.0 & Sensitivity::RESTRICTED.0 != 0;
                if restricted {
                    turn(&mut self.restrict, &mut self.unrestrict);
                } else {
                    turn(&mut self.unrestrict, &mut self.restrict);
                }
                if deleted {
                    turn(&mut self.bury, &mut self.unbury);
                } else {
                    turn(&mut self.unbury, &mut self.bury);
                }
                let links = body.get("link").map(|links| fhir::json!({ "link": (links.clone()) }));
                self.patients.push((id.clone(), patient, links.filter(|_| !deleted)));
            }
            "Encounter" if !deleted => {
                for number in practitioners(body) {
                    self.teams.entry(number.to_owned()).or_default().insert(patient.0);
                }
            }
            _ => {}
        }
    }
}

/// Practitioner numbers of an encounter's participants.
fn practitioners(encounter: &Value) -> impl Iterator<Item = &str> {
    encounter
        .get("participant")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|participant| participant.path(&["individual", "identifier", "value"])?.as_str())
}

impl PatientSets for PatientMap {
    fn restricted(&self, domain: &DomainName) -> Result<Arc<RoaringBitmap>, Outage> {
        Ok(self.look(domain, |sets| sets.merged.widened(sets.restricted.clone())))
    }

    fn care_team(&self, principal: &PrincipalId, domain: &DomainName) -> Result<Arc<RoaringBitmap>, Outage> {
        let Some(number) = self.practitioners.get(principal) else { return Ok(Arc::default()) };
        let team = |sets: &Sets| sets.merged.widened(sets.teams.get(number).cloned().unwrap_or_default());
        Ok(self.look(domain, team))
    }

    fn tombstones(&self, domain: &DomainName) -> Result<Arc<RoaringBitmap>, Outage> {
        Ok(self.look(domain, |sets| sets.tombstones.clone()))
    }

    fn version(&self, domain: &DomainName) -> Result<u64, Outage> {
        Ok(self.look(domain, |sets| sets.version))
    }
}
