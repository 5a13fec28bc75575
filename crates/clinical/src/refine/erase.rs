//! Erasing one source record of a domain: planned, then destroyed by plan, so that a crash between goes on.
//!
//! Refine stands still meanwhile: no step is at work, and every entry up to the plan's `upto` is applied. What comes after
//! it about the same human being is a new record with new keys. Whether a record may be erased is decided in `comply`.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use base::{Layer, Ordinal, Permit, Write};
use serde::{Deserialize, Serialize};
use store::Erased;
use vault::{Holder, ObjectId};

use super::work::{State, Work};
use super::{BATCH_ENTRIES_MAX, Gathered, RefineError, Refiner, WHOLE};
use crate::envelope::{Content, Envelope};
use crate::journal::{JournalEntry, JournalError};
use crate::redact::{self, Left, LeftUnit, LeftVersion, Who};

const VERSIONS_PAGE: usize = 500;

/// What an erasure destroys, as it was found before anything was destroyed. Names no patient.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The journal's size: what came before it is destroyed.
    pub upto: u64,
    pub versions: u64,
    /// Entries about this patient alone: how many, and SHA-256 over their leaf hashes in order.
    pub own_entries: u64,
    pub own_hash: String,
    /// Shared entries and what takes their place.
    pub successors: Vec<(u64, u64)>,
    /// Shared entries of which nothing is left.
    pub dropped: Vec<u64>,
    /// Vault objects of the shared entries, hexadecimal.
    pub slots: Vec<String>,
    /// Large bodies in the object store.
    pub objects: Vec<String>,
    /// Set-aside units (entry, unit) that go with them.
    pub set_aside: Vec<(u64, u32)>,
    /// Generations of the door's key that are destroyed: all their entries are re-wrapped.
    pub generations: Vec<u64>,
    /// Scope keys of the record, hexadecimal, with class and year.
    pub scopes: Vec<String>,
}

/// Keeps a plan before it is carried out.
#[async_trait]
pub trait PlanKeeper: Send + Sync {
    /// When this returns the plan survives a crash.
    async fn keep(&self, plan: &Plan) -> Result<(), String>;
}

impl Refiner {
    /// Erases a source record. With a plan of an earlier try only what it says is done (again). Returns the plan and
    /// what silver lost now.
    pub async fn erase(
        self: &Arc<Self>,
        patient: Ordinal,
        planned: Option<Plan>,
        keeper: &dyn PlanKeeper,
    ) -> Result<(Plan, Erased), RefineError> {
        // Most of a lag is worked off before others must wait.
        if planned.is_none() {
            self.catch_up().await?;
        }
        let _turn = self.turn.lock().await;
        let plan = match planned {
            Some(plan) => plan,
            None => {
                let plan = self.plan(patient).await?;
                keeper.keep(&plan).await.map_err(RefineError::Plan)?;
                plan
            }
        };
        let erased = self.carry_out(patient, &plan).await?;
        Ok((plan, erased))
    }

    /// The record's number is never given again, and shared entries are read as what is left of them. At each start,
    /// before refine reads.
    pub fn remember(&self, patient: Ordinal, plan: &Plan) {
        self.patients.forget(&self.domain, patient);
        self.journal.succeed(plan.successors.iter().copied());
    }

    async fn plan(&self, patient: Ordinal) -> Result<Plan, RefineError> {
        let (upto, generation) = self.journal.roll().await?;
        let mut position = self.position().await?;
        while position < upto {
            position = self.step_alone(position, BATCH_ENTRIES_MAX, false).await?;
        }
        let permit = self.permit(Layer::Silver)?;
        let mut plan = Plan { upto, ..Plan::default() };
        let (who, positions) = self.who(&permit, patient, &mut plan).await?;
        let mut shared = HashSet::new();
        let mut after = None;
        loop {
            let page = self.silver.shared_entries(&self.domain, after).await?;
            let Some(last) = page.last().copied() else { break };
            after = Some(last);
            for index in page {
                shared.insert(index);
                self.plan_shared(&permit, patient, &who, index, positions.contains(&index), &mut plan).await?;
            }
        }
        self.plan_own(positions.iter().copied().filter(|index| !shared.contains(index)), &mut plan).await?;
        plan.generations = self.vault.living_unassigned(&self.domain).await?;
        plan.generations.retain(|living| *living < generation);
        let scopes = self.vault.scopes_of(&self.domain, Holder::Record(patient)).await?;
        plan.scopes = scopes.iter().map(|s| format!("{} {} {}", s.id, s.scope.retention, s.scope.year)).collect();
        Ok(plan)
    }

    /// By what the record is named, and the journal positions of its versions.
    async fn who(
        &self,
        permit: &Permit<Write>,
        patient: Ordinal,
        plan: &mut Plan,
    ) -> Result<(Who, BTreeSet<u64>), RefineError> {
        let (mut who, mut positions, mut after) = (Who::default(), BTreeSet::new(), 0);
        loop {
            let (page, upto) = self.silver.record_versions(permit, &self.domain, patient, after, VERSIONS_PAGE).await?;
            if upto == after {
                return Ok((who, positions));
            }
            after = upto;
            for version in &page {
                who.see(version);
                positions.extend(&version.positions);
                plan.versions += 1;
            }
        }
    }

    /// Entries whose key goes with the record: counted, hashed, and their large bodies found while they still open.
    async fn plan_own(&self, positions: impl Iterator<Item = u64>, plan: &mut Plan) -> Result<(), RefineError> {
        let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for index in positions {
            plan.own_entries += 1;
            digest.update(self.journal.log().leaf_hash(index).map_err(JournalError::from)?.as_ref());
            match self.journal.open_at(index).await {
                Ok(entry) => plan.objects.extend(entry.large),
                Err(JournalError::Destroyed { .. } | JournalError::Unreadable { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        plan.own_hash = base::hex::encode(digest.finish().as_ref());
        Ok(())
    }

    /// A shared entry that names the record gets a successor, or goes whole.
    async fn plan_shared(
        &self,
        permit: &Permit<Write>,
        patient: Ordinal,
        who: &Who,
        index: u64,
        made_versions: bool,
        plan: &mut Plan,
    ) -> Result<(), RefineError> {
        let entry = match self.journal.open_at(index).await {
            Ok(entry) => entry,
            Err(JournalError::Destroyed { .. } | JournalError::Unreadable { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let envelope = who.is_named_in(&entry.envelope.to_bytes());
        if !made_versions && !envelope && !who.is_named_in(entry.body.expose()) {
            return Ok(());
        }
        // An erasure that was planned and not kept left its successors behind: they are dropped like what they succeed.
        let (of, left, units) = match &entry.envelope.content {
            Content::Redacted { of, .. } => (*of, self.left_again(&entry, patient, who), Vec::new()),
            _ => {
                let (left, units) = self.left(permit, patient, who, &entry).await?;
                (index, left, units)
            }
        };
        plan.set_aside.extend(units.into_iter().map(|unit| (of, unit)));
        plan.slots.extend(entry.slots.iter().map(|slot| slot.object.to_string()));
        plan.objects.extend(entry.large.iter().cloned());
        if left.is_nothing() {
            plan.dropped.push(of);
            return Ok(());
        }
        let hl7v2 = matches!(entry.envelope.content, Content::Hl7v2 | Content::Redacted { hl7v2: true, .. });
        let body = left.to_bytes();
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &body);
        let envelope = Envelope {
            content: Content::Redacted { of, hl7v2 },
            control_key: None,
            content_hash: base::hex::encode(hash.as_ref()),
            ..entry.envelope
        };
        let bronze = self.permit(Layer::Bronze)?;
        let successor = self.journal.append(&bronze, &envelope, &body).await?;
        plan.successors.push((of, successor));
        Ok(())
    }

    /// What is left of an entry, and the set-aside units that go.
    async fn left(
        &self,
        permit: &Permit<Write>,
        patient: Ordinal,
        who: &Who,
        entry: &JournalEntry,
    ) -> Result<(Left, Vec<u32>), RefineError> {
        let body = entry.body.expose();
        let (raw, emptied) = match &entry.envelope.content {
            Content::Hl7v2 => redact::hl7(body, who),
            Content::Fhir(_) => (redact::bundle(body, who), HashSet::new()),
            Content::Replay { .. } | Content::Redacted { .. } => (None, HashSet::new()),
        };
        let mut left = Left { raw, ..Left::default() };
        for version in self.silver.entry_versions(permit, &self.domain, entry.index).await? {
            // What a later replay of the entry made is made by that replay again.
            if version.patient != patient && version.last_updated == entry.envelope.received {
                left.versions.push(LeftVersion::of(&version));
            }
        }
        let mut gone = Vec::new();
        for unit in self.silver.set_aside_units(&self.domain, entry.index).await? {
            if left.raw.is_none() || redact::is_unit_of(unit.unit, &emptied) && unit.unit != WHOLE {
                gone.push(unit.unit);
            } else {
                left.set_aside.push(LeftUnit::of(&unit));
            }
        }
        Ok((left, gone))
    }

    /// Of a successor, when a further patient of the same entry is erased.
    fn left_again(&self, entry: &JournalEntry, patient: Ordinal, who: &Who) -> Left {
        let mut left = Left::from_bytes(entry.body.expose()).unwrap_or_default();
        left.versions.retain(|version| version.patient != patient);
        let hl7v2 = matches!(entry.envelope.content, Content::Redacted { hl7v2: true, .. });
        left.raw = left.raw.and_then(|raw| if hl7v2 { redact::hl7(&raw, who).0 } else { redact::bundle(&raw, who) });
        if left.raw.is_none() {
            left.set_aside.clear();
        }
        left
    }

    /// Everything here may be done again.
    async fn carry_out(&self, patient: Ordinal, plan: &Plan) -> Result<Erased, RefineError> {
        self.remember(patient, plan);
        let permit = self.permit(Layer::Silver)?;
        let mut scratch = Plan::default();
        let (_, mut positions) = self.who(&permit, patient, &mut scratch).await?;
        // Entries shared with others keep their place in lineage, but what was answered to them named this patient too.
        positions.extend(plan.dropped.iter().copied().chain(plan.successors.iter().map(|(of, _)| *of)));
        let positions: Vec<u64> = positions.into_iter().collect();
        let erased = self.silver.erase_record(&permit, &self.domain, patient, &positions, &plan.set_aside).await?;
        let slots: Vec<ObjectId> = plan.slots.iter().filter_map(|text| ObjectId::parse(text)).collect();
        self.vault.delete_slots(&slots).await?;
        self.vault.destroy_holder(&self.domain, Holder::Record(patient)).await?;
        for generation in &plan.generations {
            self.vault.destroy_holder(&self.domain, Holder::Unassigned(*generation)).await?;
        }
        for path in &plan.objects {
            self.journal.remove_large(path).await?;
        }
        self.silver.renew_index_key(&self.domain).await?;
        Ok(erased)
    }

    /// A successor in its entry's place does again what the entry did for the others; at its own place, nothing.
    pub(super) async fn refine_redacted(
        &self,
        work: &mut Work<'_>,
        gathered: &mut Gathered,
        entry: JournalEntry,
        of: u64,
    ) -> Result<(), RefineError> {
        let left = Left::from_bytes(entry.body.expose()).unwrap_or_default();
        let patients: BTreeSet<Ordinal> =
            left.versions.iter().map(|version| version.patient).filter(|patient| patient.is_patient()).collect();
        if of != entry.index {
            self.hold(gathered, entry, &patients);
            return Ok(());
        }
        let mut stage = work.stage(of, entry.envelope.received);
        for version in &left.versions {
            let Some(body) = version.body() else { continue };
            let state = State {
                version: version.version,
                patient: version.patient,
                sensitivity: version.sensitivity(),
                deleted: version.deleted,
                body: Arc::new(body),
            };
            stage.put_again(&version.rtype, &version.id, state);
        }
        stage.keep();
        gathered.set_aside.extend(left.set_aside.iter().map(|unit| unit.at_entry(of)));
        Ok(())
    }
}
