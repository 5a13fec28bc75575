//! [`Permit`]: the proof that a decision was made, which storage asks for before it gives data.
//!
//! A permit has private fields. Only a [`PermitMint`] makes one, the mint is claimed once per process and handed
//! to `gate` by `ward::build`. What a permit allows is its [`Grant`]; storage asks [`Permit::covers`].
//!
//! ```compile_fail
//! // Nobody outside this module can write a permit down.
//! let permit = base::Permit::<base::Read> { grant: todo!(), _right: std::marker::PhantomData };
//! ```
//!
//! ```compile_fail
//! // A permit to write is not a permit to read.
//! fn reads(_: &base::Permit<base::Read>) {}
//! fn try_it(write: base::Permit<base::Write>) { reads(&write); }
//! ```

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering as AtomicOrdering};

use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

use crate::class::{DataClass, Sensitivity};
use crate::clock::Timestamp;
use crate::id::{DomainName, Ordinal, PrincipalId};
use crate::purpose::Purpose;

/// The right to read data.
#[derive(Debug, Clone, Copy)]
pub struct Read;
/// The right to put data in: journal entries from a door, silver from refine, products from a build.
#[derive(Debug, Clone, Copy)]
pub struct Write;
/// The right to run the mesh: sources, products, set-aside units, keys. Gives no PHI.
#[derive(Debug, Clone, Copy)]
pub struct Manage;

/// Where data lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    Bronze,
    Silver,
    Gold,
    /// Logs about the mesh itself: audit, control.
    Governance,
}

impl Layer {
    pub fn code(self) -> &'static str {
        match self {
            Layer::Bronze => "bronze",
            Layer::Silver => "silver",
            Layer::Gold => "gold",
            Layer::Governance => "governance",
        }
    }
}

/// Patients of one domain, by ordinal.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum PatientSet {
    #[default]
    None,
    All,
    Only(Arc<RoaringBitmap>),
    AllBut(Arc<RoaringBitmap>),
}

impl PatientSet {
    pub fn contains(&self, patient: Ordinal) -> bool {
        match self {
            PatientSet::None => false,
            PatientSet::All => true,
            PatientSet::Only(set) => set.contains(patient.0),
            PatientSet::AllBut(set) => !set.contains(patient.0),
        }
    }

    pub fn one(patient: Ordinal) -> Self {
        PatientSet::Only(Arc::new(RoaringBitmap::from_iter([patient.0])))
    }

    /// Those in both sets.
    pub fn intersect(&self, other: &PatientSet) -> PatientSet {
        use PatientSet::*;
        match (self, other) {
            (None, _) | (_, None) => None,
            (All, set) | (set, All) => set.clone(),
            (Only(a), Only(b)) => Only(Arc::new(&**a & &**b)),
            (Only(a), AllBut(b)) | (AllBut(b), Only(a)) => Only(Arc::new(&**a - &**b)),
            (AllBut(a), AllBut(b)) => AllBut(Arc::new(&**a | &**b)),
        }
    }
}

/// How a masked value is shown.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MaskMethod {
    /// Nothing is shown.
    Null,
    /// A fixed text for every value.
    Constant(String),
    /// HMAC under a key of the domain and the class: equal values stay equal.
    KeyedHash,
    /// The last n characters; the others become `*`.
    Last(u8),
    /// A date becomes its year.
    YearOnly,
    /// A postal code becomes its first three digits, `000` for sparse ones.
    Zip3,
    /// A birth date becomes an age band of ten years, `90+` at the top.
    AgeBand,
}

impl MaskMethod {
    /// The less, the less is shown.
    pub fn shows(&self) -> u16 {
        match self {
            MaskMethod::Null => 0,
            MaskMethod::Constant(_) => 1,
            MaskMethod::AgeBand => 2,
            MaskMethod::Zip3 => 3,
            MaskMethod::YearOnly => 4,
            MaskMethod::KeyedHash => 5,
            MaskMethod::Last(n) => 6 + u16::from(*n),
        }
    }
}

/// One obligation to mask, with the policy that demands it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mask {
    pub class: DataClass,
    pub method: MaskMethod,
    /// Id of the policy, shown to the user as the reason.
    pub policy: String,
    /// The policy's own sentence on why.
    pub reason: String,
}

impl Mask {
    /// Which of several masks on one class holds: the one that shows least. Every door asks here, so that all show the
    /// same (law 7).
    pub fn strictest(masks: &[Mask], class: DataClass) -> Option<&Mask> {
        masks.iter().filter(|mask| mask.class == class).min_by_key(|mask| mask.method.shows())
    }
}

/// What a decision allows. Made by `gate` from a policy decision; read by storage and doors.
#[derive(Debug, Clone)]
pub struct Grant {
    /// Id of the decision, which the audit record names too.
    pub decision: u64,
    pub principal: PrincipalId,
    pub purpose: Purpose,
    pub domain: DomainName,
    pub layer: Layer,
    /// Resource types or product names; empty is "every kind in this layer".
    pub kinds: Vec<String>,
    pub patients: PatientSet,
    /// The sensitivities that may be seen.
    pub sensitivity: Sensitivity,
    pub masks: Vec<Mask>,
    /// At most so many rows or resources per answer.
    pub rows_max: Option<u64>,
    /// Rows are shown only in groups of at least so many patients.
    pub group_min: Option<u32>,
    /// The policies that determined the decision.
    pub policies: Vec<String>,
    pub policy_version: u64,
    pub expires: Timestamp,
}

/// What a storage function is about to give or take.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    pub domain: &'a DomainName,
    pub layer: Layer,
    pub kind: &'a str,
    /// [`Ordinal::NONE`] for what is about no patient.
    pub patient: Ordinal,
    pub sensitivity: Sensitivity,
}

/// The permit does not reach this target. To a caller this looks like "not found".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the permit does not cover the {0} asked for")]
pub struct NotCovered(pub &'static str);

/// Proof of a decision, for the right `R`.
#[derive(Debug)]
pub struct Permit<R> {
    grant: Arc<Grant>,
    _right: PhantomData<R>,
}

impl<R> Clone for Permit<R> {
    fn clone(&self) -> Self {
        Permit { grant: self.grant.clone(), _right: PhantomData }
    }
}

impl<R> Permit<R> {
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// Domain, layer and kind only; for what is then checked row by row.
    pub fn covers_kind(&self, domain: &DomainName, layer: Layer, kind: &str) -> Result<(), NotCovered> {
        let grant = &*self.grant;
        if grant.domain != *domain {
            return Err(NotCovered("domain"));
        }
        if grant.layer != layer {
            return Err(NotCovered("layer"));
        }
        if !grant.kinds.is_empty() && !grant.kinds.iter().any(|k| k == kind) {
            return Err(NotCovered("kind"));
        }
        Ok(())
    }

    /// Everything about the target, its patient and sensitivity included.
    pub fn covers(&self, target: Target<'_>) -> Result<(), NotCovered> {
        self.covers_kind(target.domain, target.layer, target.kind)?;
        if target.patient.is_patient() && !self.grant.patients.contains(target.patient) {
            return Err(NotCovered("patient"));
        }
        if !target.sensitivity.is_within(self.grant.sensitivity) {
            return Err(NotCovered("sensitivity"));
        }
        Ok(())
    }

    /// A permit is for now: prepared statements and streams ask again.
    pub fn is_live(&self, now: Timestamp) -> bool {
        now < self.grant.expires
    }
}

static CLAIMED: AtomicBool = AtomicBool::new(false);

/// Makes permits. Whoever holds it decides; `ward::build` hands it to `gate` and to nobody else.
#[derive(Debug, Clone)]
pub struct PermitMint(());

impl PermitMint {
    /// The mint, the first time this is called in a process; `None` ever after.
    pub fn claim() -> Option<PermitMint> {
        (!CLAIMED.swap(true, AtomicOrdering::SeqCst)).then_some(PermitMint(()))
    }

    pub fn mint<R>(&self, grant: Grant) -> Permit<R> {
        Permit { grant: Arc::new(grant), _right: PhantomData }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(patients: PatientSet) -> Grant {
        Grant {
            decision: 1,
            principal: PrincipalId::parse("dr-lee").unwrap(),
            purpose: Purpose::Treatment,
            domain: DomainName::parse("ehr").unwrap(),
            layer: Layer::Silver,
            kinds: vec!["Patient".into()],
            patients,
            sensitivity: Sensitivity::NONE,
            masks: vec![],
            rows_max: None,
            group_min: None,
            policies: vec![],
            policy_version: 1,
            expires: Timestamp(1_000),
        }
    }

    #[test]
    fn the_mint_is_claimed_once_and_a_permit_for_a_never_covers_b() {
        let mint = PermitMint::claim().expect("first claim");
        assert!(PermitMint::claim().is_none());

        let permit: Permit<Read> = mint.mint(grant(PatientSet::one(Ordinal(7))));
        let (ehr, lab) = (DomainName::parse("ehr").unwrap(), DomainName::parse("laboratory").unwrap());
        let target = |domain, layer, kind, patient, sensitivity| Target { domain, layer, kind, patient, sensitivity };
        let plain = Sensitivity::NONE;
        assert!(permit.covers(target(&ehr, Layer::Silver, "Patient", Ordinal(7), plain)).is_ok());
        for (wrong, part) in [
            (target(&ehr, Layer::Silver, "Patient", Ordinal(8), plain), "patient"),
            (target(&lab, Layer::Silver, "Patient", Ordinal(7), plain), "domain"),
            (target(&ehr, Layer::Gold, "Patient", Ordinal(7), plain), "layer"),
            (target(&ehr, Layer::Silver, "Encounter", Ordinal(7), plain), "kind"),
            (target(&ehr, Layer::Silver, "Patient", Ordinal(7), Sensitivity::PART2), "sensitivity"),
        ] {
            assert_eq!(permit.covers(wrong), Err(NotCovered(part)));
        }
        assert!(permit.is_live(Timestamp(999)) && !permit.is_live(Timestamp(1_000)));
    }

    #[test]
    fn intersections_of_sets_agree_with_membership() {
        let sets = [
            PatientSet::None,
            PatientSet::All,
            PatientSet::Only(Arc::new(RoaringBitmap::from_iter([1, 2, 3]))),
            PatientSet::AllBut(Arc::new(RoaringBitmap::from_iter([2, 5]))),
            PatientSet::Only(Arc::new(RoaringBitmap::from_iter([3, 5]))),
            PatientSet::AllBut(Arc::new(RoaringBitmap::from_iter([1]))),
        ];
        for a in &sets {
            for b in &sets {
                for p in (0..7).map(Ordinal) {
                    assert_eq!(a.intersect(b).contains(p), a.contains(p) && b.contains(p));
                }
            }
        }
    }
}
