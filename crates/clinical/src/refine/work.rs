//! The working set of a refine batch: what silver holds, with what this batch and this entry have already changed.
//!
//! An entry's changes are staged and joined to the batch only when the whole entry (or the unit that may stand alone)
//! has succeeded. Never writes to the catalog itself: the batch does, in one transaction.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use base::{DomainName, LogicalId, Ordinal, Permit, Sensitivity, Timestamp, Write};
use fhir::json::Value;
use fhir::search::{Clause, ClauseValue, ParamKind};
use roaring::RoaringBitmap;
use store::{NewVersion, Silver, StoreError};

use crate::labels;

/// A resource as it stands for the next unit.
#[derive(Debug, Clone)]
pub struct State {
    pub version: u32,
    pub patient: Ordinal,
    pub sensitivity: Sensitivity,
    pub deleted: bool,
    pub body: Arc<Value>,
}

pub type Key = (String, LogicalId);
/// (type, system, value).
pub type Identifier = (String, String, String);

/// Versions that are read at once where a whole record is asked for.
const RECORD_PAGE: usize = 500;

/// Changes, over silver.
#[derive(Debug, Default)]
pub struct Changes {
    pub versions: Vec<NewVersion>,
    pub patients: Vec<Ordinal>,
    /// Of when the newest statement of a list is.
    pub lists: HashMap<String, Timestamp>,
    states: HashMap<Key, State>,
    identifiers: HashMap<Identifier, Vec<LogicalId>>,
}

impl Changes {
    fn join(&mut self, later: Changes) {
        self.versions.extend(later.versions);
        self.patients.extend(later.patients);
        self.states.extend(later.states);
        self.lists.extend(later.lists);
        for (identifier, ids) in later.identifiers {
            self.identifiers.entry(identifier).or_default().extend(ids);
        }
    }
}

/// What every unit of a batch shares.
pub struct Work<'a> {
    pub silver: &'a Silver,
    pub permit: &'a Permit<Write>,
    pub domain: &'a DomainName,
    /// Of this batch, earlier entries.
    pub batch: Changes,
    /// What silver answered already; an entry of `None` is "not there".
    read: HashMap<Key, Option<State>>,
    /// Whom silver's index knows by an identifier, as asked already.
    found: HashMap<Identifier, Vec<LogicalId>>,
    next_ordinal: Ordinal,
    /// Numbers that are never given: their patients were erased.
    gone: Arc<RoaringBitmap>,
    /// The patients whose records the entry at work looked at, changed or not.
    pub touched: BTreeSet<Ordinal>,
    /// The labelled resources that it looked at.
    pub labelled: BTreeSet<(String, LogicalId)>,
    /// What the entry at work made, by type and the condition that nothing met before.
    pub made: HashMap<(String, String), LogicalId>,
}

/// One entry at work: its own changes over the batch's.
pub struct Stage<'w, 'a> {
    pub work: &'w mut Work<'a>,
    pub index: u64,
    pub received: Timestamp,
    own: Changes,
    ordinal_at_start: Ordinal,
}

impl<'a> Work<'a> {
    pub fn new(
        silver: &'a Silver,
        permit: &'a Permit<Write>,
        domain: &'a DomainName,
        next_ordinal: Ordinal,
        gone: Arc<RoaringBitmap>,
    ) -> Self {
        let (batch, read, found) = (Changes::default(), HashMap::new(), HashMap::new());
        let (touched, labelled, made) = (BTreeSet::new(), BTreeSet::new(), HashMap::new());
        Work { silver, permit, domain, batch, read, found, next_ordinal, gone, touched, labelled, made }
    }

    pub fn stage<'w>(&'w mut self, index: u64, received: Timestamp) -> Stage<'w, 'a> {
        let ordinal_at_start = self.next_ordinal;
        Stage { work: self, index, received, own: Changes::default(), ordinal_at_start }
    }

    /// Asks silver for many identifiers, and for the resources that carry them, in two round trips.
    pub async fn look_up(&mut self, wanted: impl IntoIterator<Item = Identifier>) -> Result<(), StoreError> {
        let missing: BTreeSet<Identifier> =
            wanted.into_iter().filter(|identifier| !self.found.contains_key(identifier)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let missing: Vec<Identifier> = missing.into_iter().collect();
        let found = self.silver.find_identifiers(self.permit, self.domain, &missing).await?;
        let carriers: Vec<Key> = missing
            .iter()
            .zip(&found)
            .flat_map(|((rtype, ..), ids)| ids.iter().map(|id| (rtype.clone(), id.clone())))
            .collect();
        self.prefetch(&carriers).await?;
        self.found.extend(missing.into_iter().zip(found));
        Ok(())
    }

    /// The one living resource that silver knows by an identifier, as it was looked up.
    pub fn known(&self, identifier: &Identifier) -> Option<&LogicalId> {
        self.found.get(identifier).and_then(|ids| if let [one] = ids.as_slice() { Some(one) } else { None })
    }

    /// Asks silver for many resources in one round trip, ahead of the units that need them.
    pub async fn prefetch(&mut self, wanted: &[(String, LogicalId)]) -> Result<(), StoreError> {
        let missing: Vec<_> = wanted.iter().filter(|key| !self.read.contains_key(*key)).cloned().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let found = self.silver.read_many_for_refine(self.permit, self.domain, &missing).await?;
        for key in missing {
            self.read.insert(key, None);
        }
        for resource in found {
            let state = state_of(&resource)?;
            self.read.insert((resource.rtype, resource.id), Some(state));
        }
        Ok(())
    }
}

fn state_of(resource: &store::Resource) -> Result<State, StoreError> {
    let body = if resource.deleted {
        Value::Null
    } else {
        fhir::json::parse(resource.body.expose(), &fhir::json::ParseLimits::default())
            .map_err(|_| StoreError::corrupt("a stored resource is not JSON"))?
    };
    Ok(State {
        version: resource.version,
        patient: resource.patient,
        sensitivity: resource.sensitivity,
        deleted: resource.deleted,
        body: Arc::new(body),
    })
}

impl Stage<'_, '_> {
    /// The resource as the units before this one left it.
    pub async fn current(&mut self, rtype: &str, id: &LogicalId) -> Result<Option<State>, StoreError> {
        let key = (rtype.to_owned(), id.clone());
        let changed = [&self.own, &self.work.batch].into_iter().find_map(|changes| changes.states.get(&key).cloned());
        let state = match changed {
            Some(state) => Some(state),
            None => {
                if !self.work.read.contains_key(&key) {
                    self.work.prefetch(std::slice::from_ref(&key)).await?;
                }
                self.work.read.get(&key).cloned().flatten()
            }
        };
        if let Some(state) = &state
            && state.patient.is_patient()
            && state.patient != Ordinal::UNKNOWN
        {
            self.work.touched.insert(state.patient);
        }
        if state.as_ref().is_some_and(|state| state.sensitivity != Sensitivity::NONE) {
            self.work.labelled.insert((rtype.to_owned(), id.clone()));
        }
        Ok(state)
    }

    /// Whether silver was asked for a resource and does not know it.
    pub fn is_fresh(&self, rtype: &str, id: &LogicalId) -> bool {
        matches!(self.work.read.get(&(rtype.to_owned(), id.clone())), Some(None))
    }

    /// Living resources of a type that carry an identifier. More than one is the caller's problem to name.
    pub async fn find(&mut self, rtype: &str, system: &str, value: &str) -> Result<Vec<LogicalId>, StoreError> {
        self.work.look_up([(rtype.to_owned(), system.to_owned(), value.to_owned())]).await?;
        self.find_staged(rtype, system, value).await
    }

    /// As [`Stage::find`], of what was looked up already and what this batch changed.
    pub async fn find_staged(&mut self, rtype: &str, system: &str, value: &str) -> Result<Vec<LogicalId>, StoreError> {
        let identifier = (rtype.to_owned(), system.to_owned(), value.to_owned());
        let mut ids: Vec<LogicalId> = Vec::new();
        for changes in [&self.own, &self.work.batch] {
            ids.extend(changes.identifiers.get(&identifier).into_iter().flatten().cloned());
        }
        ids.extend(self.work.found.get(&identifier).into_iter().flatten().cloned());
        ids.sort();
        ids.dedup();
        // The index and earlier changes may be behind this entry: keep those that still carry the identifier.
        let mut living = Vec::with_capacity(ids.len());
        for id in ids {
            if let Some(state) = self.current(rtype, &id).await?
                && !state.deleted
                && identifiers(&state.body).any(|(s, v)| s == system && v == value)
            {
                living.push(id);
            }
        }
        Ok(living)
    }

    /// Resources of a type that are about a patient, in the order of ids; of very many not all.
    pub async fn about(
        &mut self,
        rtype: &str,
        patient: &LogicalId,
        ordinal: Ordinal,
    ) -> Result<Vec<(LogicalId, State)>, StoreError> {
        let clause = Clause {
            param: "patient",
            kind: ParamKind::Reference,
            modifier: None,
            values: vec![ClauseValue::Reference { rtype: Some("Patient".to_owned()), id: patient.as_str().to_owned() }],
        };
        let (silver, permit) = (self.work.silver, self.work.permit);
        let found = silver.find(permit, self.work.domain, rtype, vec![clause]).await?;
        let mut ids: BTreeSet<LogicalId> = found.into_iter().map(|found| found.id).collect();
        for changes in [&self.own, &self.work.batch] {
            let of = |(key, state): &(&Key, &State)| key.0 == rtype && state.patient == ordinal;
            ids.extend(changes.states.iter().filter(of).map(|(key, _)| key.1.clone()));
        }
        let mut about = Vec::with_capacity(ids.len());
        for id in ids {
            if let Some(state) = self.current(rtype, &id).await?
                && !state.deleted
                && state.patient == ordinal
            {
                about.push((id, state));
            }
        }
        Ok(about)
    }

    pub async fn list_clock(&self, list: &str) -> Result<Option<Timestamp>, StoreError> {
        let known = [&self.own, &self.work.batch].into_iter().find_map(|changes| changes.lists.get(list).copied());
        match known {
            Some(at) => Ok(Some(at)),
            None => self.work.silver.list_clock(self.work.domain, list).await,
        }
    }

    pub fn set_list_clock(&mut self, list: String, at: Timestamp) {
        self.own.lists.insert(list, at);
    }

    /// Every resource that stands in a source record, but the Patient itself, in the order of types and ids; `None` where
    /// it holds more than `max`.
    pub async fn record(&mut self, patient: Ordinal, max: usize) -> Result<Option<Vec<(Key, State)>>, StoreError> {
        let mut keys: BTreeSet<Key> = BTreeSet::new();
        for changes in [&self.own, &self.work.batch] {
            keys.extend(
                changes.states.iter().filter(|(_, state)| state.patient == patient).map(|(key, _)| key.clone()),
            );
        }
        let mut after = 0;
        loop {
            let (silver, permit) = (self.work.silver, self.work.permit);
            let (page, upto) = silver.record_versions(permit, self.work.domain, patient, after, RECORD_PAGE).await?;
            keys.extend(page.into_iter().map(|resource| (resource.rtype, resource.id)));
            if upto == after || keys.len() > max {
                break;
            }
            after = upto;
        }
        if keys.len() > max {
            return Ok(None);
        }
        let mut record = Vec::with_capacity(keys.len());
        let wanted: Vec<Key> = keys.into_iter().filter(|(rtype, _)| rtype != "Patient").collect();
        self.work.prefetch(&wanted).await?;
        for key in wanted {
            if let Some(state) = self.current(&key.0, &key.1).await?
                && !state.deleted
                && state.patient == patient
            {
                record.push((key, state));
            }
        }
        Ok(Some(record))
    }

    /// A fresh source record of this domain. The numbers of erased patients are counted and not given, so that a replay
    /// without their entries gives everybody else the number they had.
    pub fn new_patient(&mut self) -> Ordinal {
        loop {
            let ordinal = self.count_patient();
            if !self.work.gone.contains(ordinal.0) {
                return ordinal;
            }
        }
    }

    fn count_patient(&mut self) -> Ordinal {
        let ordinal = self.work.next_ordinal;
        self.work.next_ordinal = Ordinal(ordinal.0 + 1);
        self.own.patients.push(ordinal);
        ordinal
    }

    /// Stages a version as it was made once, when the entry it came from is no longer there to make it again. Where an
    /// earlier entry now makes fewer or more versions than it did, the number follows on what stands.
    pub async fn put_again(&mut self, rtype: &str, id: &LogicalId, mut state: State) -> Result<(), StoreError> {
        let next = self.current(rtype, id).await?.map_or(1, |stands| stands.version + 1);
        if state.version != next {
            state.version = next;
            let mut body = (*state.body).clone();
            if let Some(Value::Object(meta)) = body.get_mut("meta") {
                meta.insert("versionId", Value::from(next.to_string()));
            }
            state.body = Arc::new(body);
        }
        while state.patient.is_patient() && state.patient != Ordinal::UNKNOWN && self.work.next_ordinal <= state.patient
        {
            self.count_patient();
        }
        self.stage_version(rtype, id, state);
        Ok(())
    }

    /// Stages the next version of a resource. `body` is stamped with `meta.versionId` and `meta.lastUpdated`.
    /// Equal content is no new version. Returns the version that stands.
    pub async fn put(
        &mut self,
        rtype: &str,
        id: &LogicalId,
        patient: Ordinal,
        mut body: Value,
        source: &str,
    ) -> Result<u32, StoreError> {
        let before = self.current(rtype, id).await?;
        if let Some(state) = &before
            && !state.deleted
            && same_content(&state.body, &body)
        {
            return Ok(state.version);
        }
        let version = before.map_or(1, |state| state.version + 1);
        stamp(&mut body, id, version, self.received, source);
        let sensitivity = labels::sensitivity(&body);
        self.stage_version(rtype, id, State { version, patient, sensitivity, deleted: false, body: Arc::new(body) });
        Ok(version)
    }

    pub async fn delete(&mut self, rtype: &str, id: &LogicalId) -> Result<Option<u32>, StoreError> {
        let Some(state) = self.current(rtype, id).await? else { return Ok(None) };
        if state.deleted {
            return Ok(Some(state.version));
        }
        let version = state.version + 1;
        let deleted = State { version, deleted: true, body: Arc::new(Value::Null), ..state };
        self.stage_version(rtype, id, deleted);
        Ok(Some(version))
    }

    fn stage_version(&mut self, rtype: &str, id: &LogicalId, state: State) {
        self.own.versions.push(NewVersion {
            rtype: rtype.to_owned(),
            id: id.clone(),
            version: state.version,
            last_updated: self.received,
            patient: state.patient,
            sensitivity: state.sensitivity,
            deleted: state.deleted,
            positions: vec![self.index],
            body: state.body.clone(),
        });
        for (system, value) in identifiers(&state.body) {
            let key = (rtype.to_owned(), system.to_owned(), value.to_owned());
            self.own.identifiers.entry(key).or_default().push(id.clone());
        }
        self.own.states.insert((rtype.to_owned(), id.clone()), state);
    }

    /// Keeps what was staged.
    pub fn keep(self) {
        let own = self.own;
        self.work.batch.join(own);
    }

    /// Forgets what was staged, but not whom the entry named.
    pub fn discard(self) {
        self.work.next_ordinal = self.ordinal_at_start;
    }
}

/// (system, value) of `identifier`, where both are there.
pub fn identifiers(resource: &Value) -> impl Iterator<Item = (&str, &str)> {
    let list: &[Value] = match resource.get("identifier") {
        Some(Value::Array(list)) => list,
        Some(one @ Value::Object(_)) => std::slice::from_ref(one),
        _ => &[],
    };
    list.iter().filter_map(|identifier| {
        let value = identifier.get("value")?.as_str()?;
        Some((identifier.get("system").and_then(Value::as_str).unwrap_or(""), value))
    })
}

fn same_content(a: &Value, b: &Value) -> bool {
    let content = |value: &Value| {
        let mut value = value.clone();
        if let Some(object) = value.as_object_mut() {
            object.remove("id");
            if let Some(Value::Object(meta)) = object.get_mut("meta") {
                for stamped in ["versionId", "lastUpdated", "source"] {
                    meta.remove(stamped);
                }
                if meta.is_empty() {
                    object.remove("meta");
                }
            }
        }
        value
    };
    content(a) == content(b)
}

/// `id` right after `resourceType`, and the `meta` that the server owns (R4 §2.26.3.6).
fn stamp(body: &mut Value, id: &LogicalId, version: u32, received: Timestamp, source: &str) {
    let Some(object) = body.as_object_mut() else { return };
    object.insert("id", Value::from(id.as_str()));
    let mut meta = match object.remove("meta") {
        Some(Value::Object(meta)) => meta,
        _ => fhir::json::Object::default(),
    };
    meta.insert("versionId", Value::from(version.to_string()));
    meta.insert("lastUpdated", Value::from(received.to_string()));
    meta.insert("source", Value::from(source.to_owned()));
    object.insert("meta", Value::Object(meta));
}
