//! Which Patients are one person because they were merged (R4 §8.1.11.1, `Patient.link`).
//!
//! Only `replaced-by` of the one that ended counts: it is what a merge sets and what its inverse takes away. Records stay
//! where they were written; who asks for one of these Patients is given the records of all, so that an undone merge leaves
//! everybody with their own.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use base::{LogicalId, Ordinal};
use fhir::json::Value;
use roaring::RoaringBitmap;

/// Patients that one person may have; more is no person but a mistake, and is cut.
const FAMILY_MAX: usize = 64;

/// The merges of one domain. Holds nothing for a patient who was never merged.
#[derive(Debug, Default)]
pub struct Merged {
    /// The one that ended, and the one that goes on.
    into: HashMap<LogicalId, LogicalId>,
    from: HashMap<LogicalId, BTreeSet<LogicalId>>,
    /// Source records of those that were merged, as far as they said so.
    ordinals: HashMap<LogicalId, Ordinal>,
    ids: HashMap<u32, LogicalId>,
    linked: RoaringBitmap,
}

impl Merged {
    /// Takes note of how a Patient stands; `None` when it is deleted. True when that changes who belongs together.
    pub fn see(&mut self, id: &LogicalId, patient: Ordinal, body: Option<&Value>) -> bool {
        let links = body.and_then(|body| body.get("link")).map(Value::items).unwrap_or_default();
        let has = |kind: &'static str| move |link: &&Value| link.get("type").and_then(Value::as_str) == Some(kind);
        let survivor = links.iter().find(has("replaced-by")).and_then(other);
        let takes_part = survivor.is_some() || links.iter().any(|link| has("replaces")(&link));
        let known = self.ordinals.contains_key(id);
        if takes_part && patient.is_patient() && patient != Ordinal::UNKNOWN {
            self.ordinals.insert(id.clone(), patient);
            self.ids.insert(patient.0, id.clone());
            self.linked.insert(patient.0);
        } else if !takes_part && self.ordinals.remove(id).is_some() {
            self.ids.remove(&patient.0);
            self.linked.remove(patient.0);
        }
        let before = match &survivor {
            Some(survivor) => self.into.insert(id.clone(), survivor.clone()),
            None => self.into.remove(id),
        };
        if before == survivor {
            return known != takes_part;
        }
        if let Some(before) = before
            && let Some(losers) = self.from.get_mut(&before)
        {
            losers.remove(id);
            if losers.is_empty() {
                self.from.remove(&before);
            }
        }
        if let Some(survivor) = survivor {
            self.from.entry(survivor).or_default().insert(id.clone());
        }
        true
    }

    /// The Patient and all who are the same person, the Patient itself first.
    pub fn family(&self, id: &LogicalId) -> Vec<LogicalId> {
        let mut family = vec![id.clone()];
        let mut at = 0;
        while at < family.len() && family.len() < FAMILY_MAX {
            let next = self.into.get(&family[at]).into_iter();
            let next: Vec<LogicalId> = next.chain(self.from.get(&family[at]).into_iter().flatten()).cloned().collect();
            for relative in next {
                if !family.contains(&relative) && family.len() < FAMILY_MAX {
                    family.push(relative);
                }
            }
            at += 1;
        }
        family
    }

    /// The one that goes on for a Patient that ended, at the end of the way; `None` where it did not end.
    pub fn survivor(&self, id: &LogicalId) -> Option<&LogicalId> {
        let mut at = self.into.get(id)?;
        for _ in 0..FAMILY_MAX {
            match self.into.get(at) {
                Some(next) if next != id => at = next,
                _ => break,
            }
        }
        Some(at)
    }

    pub fn is_empty(&self) -> bool {
        self.into.is_empty()
    }

    pub fn ordinal(&self, id: &LogicalId) -> Option<Ordinal> {
        self.ordinals.get(id).copied()
    }

    /// The set, with the source records of whoever is the same person as one in it.
    pub fn widened(&self, set: Arc<RoaringBitmap>) -> Arc<RoaringBitmap> {
        if self.linked.is_disjoint(&set) {
            return set;
        }
        let mut wider = (*set).clone();
        for patient in &self.linked & &*set {
            let Some(id) = self.ids.get(&patient) else { continue };
            wider.extend(self.family(id).iter().filter_map(|relative| self.ordinal(relative)).map(|o| o.0));
        }
        Arc::new(wider)
    }
}

/// The Patient of this domain that a link leads to.
fn other(link: &Value) -> Option<LogicalId> {
    let text = link.path(&["other", "reference"])?.as_str()?;
    LogicalId::parse(text.strip_prefix("Patient/")?).ok()
}

#[cfg(test)]
mod tests {
    use fhir::json;

    use super::*;

    fn id(text: &str) -> LogicalId {
        LogicalId::parse(text).unwrap()
    }

    fn link(kind: &str, to: &str) -> Value {
        json!({"resourceType": "Patient", "link": [{"other": {"reference": (format!("Patient/{to}"))}, "type": kind}]})
    }

    #[test]
    fn a_merge_joins_a_chain_of_merges_too_and_its_inverse_parts_them() {
        let mut merged = Merged::default();
        assert!(merged.see(&id("a"), Ordinal(1), Some(&link("replaced-by", "b"))));
        assert!(merged.see(&id("b"), Ordinal(2), Some(&link("replaces", "a"))));
        assert!(!merged.see(&id("b"), Ordinal(2), Some(&link("replaces", "a"))), "the same again moves nothing");
        assert_eq!(merged.family(&id("a")), [id("a"), id("b")]);
        assert_eq!(merged.family(&id("x")), [id("x")]);
        // And the survivor ends in turn.
        merged.see(&id("b"), Ordinal(2), Some(&link("replaced-by", "c")));
        merged.see(&id("c"), Ordinal(3), Some(&link("replaces", "b")));
        assert_eq!(merged.family(&id("c")).len(), 3);
        assert_eq!(merged.survivor(&id("a")), Some(&id("c")));
        assert_eq!(merged.survivor(&id("c")), None);
        let set = |members: &[u32]| Arc::new(RoaringBitmap::from_iter(members.iter().copied()));
        assert_eq!(merged.widened(set(&[1, 9])), set(&[1, 2, 3, 9]));
        assert_eq!(merged.widened(set(&[9])), set(&[9]));
        // Undone.
        merged.see(&id("b"), Ordinal(2), Some(&json!({"resourceType": "Patient"})));
        assert_eq!(merged.family(&id("a")), [id("a"), id("b")]);
        merged.see(&id("a"), Ordinal(1), None);
        assert_eq!(merged.family(&id("a")), [id("a")]);
        assert_eq!(merged.widened(set(&[1])), set(&[1]));
    }

    #[test]
    fn merges_in_a_circle_come_to_an_end() {
        let mut merged = Merged::default();
        merged.see(&id("a"), Ordinal(1), Some(&link("replaced-by", "b")));
        merged.see(&id("b"), Ordinal(2), Some(&link("replaced-by", "a")));
        assert_eq!(merged.family(&id("a")).len(), 2);
        assert!(merged.survivor(&id("a")).is_some());
    }
}
