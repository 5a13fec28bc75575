//! Whom a writer reaches, kept with the write: what is decided in journal order (conditions, patches, Bundles) then shows
//! and touches no more than the permit did, and a replay decides the same. Decides no access: `gate` did.

use std::sync::Arc;

use base::{Grant, Ordinal, PatientSet, Sensitivity};
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

/// A part of a domain's patients and labels, as an envelope holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reach {
    /// The patients are the only ones, or else the only ones that are not reached.
    only: bool,
    /// A Roaring bitmap of their numbers, in hexadecimal.
    patients: String,
    /// Labels that are reached.
    sensitivity: u16,
}

impl Reach {
    /// What all of the grants reach; `None` where that is everybody.
    pub fn of<'g>(grants: impl IntoIterator<Item = &'g Grant>) -> Option<Reach> {
        let all = Within::default();
        let within = grants.into_iter().fold(all.clone(), |within, grant| Within {
            patients: within.patients.intersect(&grant.patients),
            sensitivity: Sensitivity(within.sensitivity.0 & grant.sensitivity.0),
        });
        if within == all {
            return None;
        }
        let (only, set) = match within.patients {
            PatientSet::All => (false, Arc::default()),
            PatientSet::None => (true, Arc::default()),
            PatientSet::Only(set) => (true, set),
            PatientSet::AllBut(set) => (false, set),
        };
        let mut bytes = Vec::with_capacity(set.serialized_size());
        // Writing into memory does not fail; where it did, what cannot be read back reaches nobody.
        let written = set.serialize_into(&mut bytes);
        let patients = written.map_or_else(|_| "-".to_owned(), |()| base::hex::encode(&bytes));
        Some(Reach { only, patients, sensitivity: within.sensitivity.0 })
    }
}

/// A [`Reach`] as it is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Within {
    pub patients: PatientSet,
    pub sensitivity: Sensitivity,
}

impl Default for Within {
    fn default() -> Self {
        Within { patients: PatientSet::All, sensitivity: Sensitivity(u16::MAX) }
    }
}

impl Within {
    /// A reach that cannot be read reaches nobody.
    pub fn of(reach: Option<&Reach>) -> Within {
        let Some(reach) = reach else { return Within::default() };
        let set = base::hex::decode(&reach.patients).and_then(|bytes| RoaringBitmap::deserialize_from(&bytes[..]).ok());
        let patients = match (set, reach.only) {
            (None, _) => PatientSet::None,
            (Some(set), true) => PatientSet::Only(Arc::new(set)),
            (Some(set), false) => PatientSet::AllBut(Arc::new(set)),
        };
        Within { patients, sensitivity: Sensitivity(reach.sensitivity) }
    }

    /// What is about no patient is reached by everybody, as by a permit.
    pub fn covers(&self, patient: Ordinal, sensitivity: Sensitivity) -> bool {
        (!patient.is_patient() || self.patients.contains(patient)) && sensitivity.is_within(self.sensitivity)
    }
}

#[cfg(test)]
mod tests {
    use base::{DomainName, Layer, PrincipalId, Purpose, Timestamp};

    use super::*;

    fn grant(patients: PatientSet, sensitivity: u16) -> Grant {
        Grant {
            decision: 1,
            principal: PrincipalId::parse("p").unwrap(),
            purpose: Purpose::Treatment,
            domain: DomainName::parse("ehr").unwrap(),
            layer: Layer::Silver,
            kinds: vec![],
            patients,
            sensitivity: Sensitivity(sensitivity),
            masks: vec![],
            rows_max: None,
            group_min: None,
            policies: vec![],
            policy_version: 1,
            expires: Timestamp(1),
        }
    }

    #[test]
    fn a_reach_is_what_all_grants_reach_and_comes_back_from_the_envelope() {
        let set = |numbers: &[u32]| Arc::new(numbers.iter().copied().collect::<RoaringBitmap>());
        let all = grant(PatientSet::All, u16::MAX);
        assert_eq!(Reach::of([&all, &all]), None);
        let sets =
            [PatientSet::All, PatientSet::None, PatientSet::Only(set(&[1, 2])), PatientSet::AllBut(set(&[2, 3]))];
        for a in &sets {
            for b in &sets {
                let grants = [grant(a.clone(), u16::MAX), grant(b.clone(), !1)];
                let reach = Reach::of(&grants).expect("a part");
                let read: Reach = serde_json::from_str(&serde_json::to_string(&reach).unwrap()).unwrap();
                let within = Within::of(Some(&read));
                for patient in (1..5).map(Ordinal) {
                    assert_eq!(within.covers(patient, Sensitivity(0)), a.contains(patient) && b.contains(patient));
                    assert!(!within.covers(patient, Sensitivity(1)));
                }
                assert!(within.covers(Ordinal::NONE, Sensitivity(0)));
            }
        }
        let damaged = Reach { only: false, patients: "zz".into(), sensitivity: u16::MAX };
        assert!(!Within::of(Some(&damaged)).covers(Ordinal(1), Sensitivity(0)));
    }
}
