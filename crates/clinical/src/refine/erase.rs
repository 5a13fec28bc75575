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
use vault::Holder;

use super::work::{State, Work};
use super::{Gathered, RefineError, Refiner, Turn, WHOLE};
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
    /// Shared entries whose slots are dropped: those above, or the earlier successors that stood for them.
    pub replaced: Vec<u64>,
    /// Versions of others' resources, made by shared entries, that name the record; they stay as they are.
    pub mentions: u64,
    /// Large bodies in the object store.
    pub objects: Vec<String>,
    /// Set-aside units (entry, unit) that go with them.
    pub set_aside: Vec<(u64, u32)>,
    /// Generations of the door's key that are destroyed: all their entries are re-wrapped.
    pub generations: Vec<u64>,
    /// Scope keys of the record, hexadecimal, with class and year.
    pub scopes: Vec<String>,
}

/// The shared entries that were looked at for a record, and those among them that name it.
#[derive(Default)]
struct Sought {
    who: Who,
    shared: BTreeSet<u64>,
    naming: BTreeSet<u64>,
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
        let mut seen = Sought::default();
        if planned.is_none() {
            self.catch_up().await?;
            let permit = self.permit(Layer::Silver)?;
            let (who, _) = self.who(&permit, patient, &mut Plan::default()).await?;
            seen = self.seek(&who).await?;
        }
        let _turn = self.turn.lock().await;
        let plan = match planned {
            Some(plan) => plan,
            None => {
                let plan = self.plan(patient, seen).await?;
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

    /// Shared entries that name the record, of those there are now. Refine may go on meanwhile.
    async fn seek(&self, who: &Who) -> Result<Sought, RefineError> {
        let none = BTreeSet::new();
        self.seek_on(Sought { who: who.clone(), shared: none.clone(), naming: none }).await
    }

    /// The shared entries that came since.
    async fn seek_on(&self, mut sought: Sought) -> Result<Sought, RefineError> {
        loop {
            let after = sought.shared.last().copied();
            let page = self.silver.held_entries(&self.domain, Ordinal::NONE, after).await?;
            if page.is_empty() {
                return Ok(sought);
            }
            for index in page {
                sought.shared.insert(index);
                if let Some(entry) = self.open_living(index).await?
                    && sought.who.is_named_in_entry(&entry)
                {
                    sought.naming.insert(index);
                }
            }
        }
    }

    /// `None` where no key opens it.
    async fn open_living(&self, index: u64) -> Result<Option<JournalEntry>, RefineError> {
        match self.journal.open_at(index).await {
            Ok(entry) => Ok(Some(entry)),
            Err(JournalError::Destroyed { .. } | JournalError::Unreadable { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn plan(self: &Arc<Self>, patient: Ordinal, seen: Sought) -> Result<Plan, RefineError> {
        let (upto, generation) = self.journal.roll().await?;
        let mut position = self.position().await?;
        while position < upto {
            position = self.step_or_set_aside(position, Turn::Held).await?;
        }
        let permit = self.permit(Layer::Silver)?;
        let mut plan = Plan { upto, ..Plan::default() };
        let (who, mut positions) = self.who(&permit, patient, &mut plan).await?;
        let seen = if who == seen.who { seen } else { self.seek(&who).await? };
        let seen = self.seek_on(seen).await?;
        for index in &seen.shared {
            if positions.remove(index) || seen.naming.contains(index) {
                self.plan_shared(&permit, patient, &seen.who, *index, &mut plan).await?;
            }
        }
        self.plan_own(positions, &mut plan).await?;
        plan.generations = self.vault.living_unassigned(&self.domain).await?;
        plan.generations.retain(|living| *living < generation);
        let scopes = self.vault.scopes_of(&self.domain, Holder::Record(patient)).await?;
        plan.scopes = scopes.iter().map(|s| format!("{} {} {}", s.id, s.scope.retention, s.scope.year)).collect();
        Ok(plan)
    }

    /// By what the record is named, and the journal positions of its versions and of entries it holds without one.
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
                break;
            }
            after = upto;
            for version in &page {
                who.see(version);
                positions.extend(&version.positions);
                plan.versions += 1;
            }
        }
        let mut after = None;
        loop {
            let page = self.silver.held_entries(&self.domain, patient, after).await?;
            let Some(last) = page.last().copied() else { return Ok((who, positions)) };
            after = Some(last);
            positions.extend(page);
        }
    }

    /// Entries whose key goes with the record: counted, hashed, and their large bodies found while they still open.
    async fn plan_own(&self, positions: BTreeSet<u64>, plan: &mut Plan) -> Result<(), RefineError> {
        let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for index in positions {
            plan.own_entries += 1;
            digest.update(self.journal.log().leaf_hash(index).map_err(JournalError::from)?.as_ref());
            plan.objects.extend(self.open_living(index).await?.and_then(|entry| entry.large));
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
        plan: &mut Plan,
    ) -> Result<(), RefineError> {
        let Some(entry) = self.open_living(index).await? else { return Ok(()) };
        // An erasure that was planned and not kept left its successors behind: they are dropped like what they succeed.
        let (of, left, units) = match &entry.envelope.content {
            Content::Redacted { of, .. } => (*of, self.left_again(&entry, patient, who), Vec::new()),
            _ => {
                let (left, units) = self.left(permit, patient, who, &entry).await?;
                (index, left, units)
            }
        };
        plan.set_aside.extend(units.into_iter().map(|unit| (of, unit)));
        plan.replaced.push(index);
        plan.mentions += left.mentions(who);
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
            Content::Replay { .. } | Content::Match(_) | Content::Redacted { .. } => (None, HashSet::new()),
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
        for index in &plan.replaced {
            self.vault.delete_slots(&self.journal.objects_of(*index)?).await?;
        }
        self.vault.destroy_holder(&self.domain, Holder::Record(patient)).await?;
        for generation in &plan.generations {
            self.vault.destroy_holder(&self.domain, Holder::Unassigned(*generation)).await?;
        }
        for path in &plan.objects {
            self.journal.remove_large(path).await?;
        }
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
            self.hold(gathered, entry, &patients, &BTreeSet::new());
            return Ok(());
        }
        gathered.entries.push(self.entered(&entry));
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
            stage.put_again(&version.rtype, &version.id, state).await?;
        }
        stage.keep();
        gathered.set_aside.extend(left.set_aside.iter().map(|unit| unit.at_entry(of)));
        Ok(())
    }
}
