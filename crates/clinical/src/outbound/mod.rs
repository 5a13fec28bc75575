//! Messages of HL7 v2.5.1 made from silver: each version of a resource is told once, in the order of changes.
//!
//! ```text
//! Silver::changes ─ Maker::make(version) → Made { message, about }
//!     Patient     ADT^A28, A31, A29, A40      patient.rs      types.rs  FHIR's data types as v2's
//!     Encounter   ADT^A01 ... A23             visit.rs        er7.rs    segments, escapes
//!     DiagnosticReport, Observation  ORU^R01  result.rs
//!     Immunization                   VXU^V04  vaccine.rs
//! ```
//! What came together is told together: a patient's version within the visit's message, a result within its report's.
//! The control id is that of the version, so that a message sent again is the same message.
//!
//! Never here: who may receive it (see `gate`), when and where to (see `relay`).

mod answer;
mod er7;
mod patient;
mod result;
#[cfg(test)]
mod tests;
mod types;
mod vaccine;
mod visit;

use std::collections::{BTreeMap, HashSet};

use aws_lc_rs::digest;
use base::{DomainName, LogicalId, Ordinal, Permit, Read};
use bytes::Bytes;
use fhir::json::{ParseLimits, Value, parse};
use parking_lot::Mutex;
use store::{About, Resource, Silver, StoreError};

pub use self::answer::{demographics, identifiers, query_answer};
use self::er7::Segment;
use self::types::{list, str_at, time};

/// The resources that one message tells of, at most.
const RESULTS_MAX: usize = 500;
/// MSH-10 has twenty characters (v2.5.1 §2.15.9.10).
const CONTROL_ID_CHARS: usize = 20;
pub const VERSION: &str = "2.5.1";

/// A message, and whom it is about.
#[derive(Debug, Clone)]
pub struct Made {
    pub message: base::Phi<Bytes>,
    pub about: About,
    /// The source whose entry made the version, as `meta.source` names it.
    pub source: String,
}

/// The types of message that may tell of a resource type; none of most.
pub fn kinds_of(rtype: &str) -> &'static [&'static str] {
    match rtype {
        "Patient" | "Encounter" => &["ADT"],
        "DiagnosticReport" => &["ORU"],
        "Observation" => &["ORU", "VXU"],
        "Immunization" => &["VXU"],
        _ => &[],
    }
}

/// Makes messages of one domain's versions.
pub struct Maker {
    silver: Silver,
    domain: DomainName,
    /// MSH-4.
    facility: String,
    assigners: BTreeMap<String, String>,
    /// What one journal entry changed, of the entry looked at last.
    together: Mutex<Option<(u64, Together)>>,
}

/// What an entry changed, as far as one of its messages tells of another's version.
#[derive(Debug, Clone, Default)]
struct Together {
    /// Patients who have a visit among the changes.
    visited: HashSet<Ordinal>,
    /// Observations that a changed report lists.
    reported: HashSet<String>,
    /// The entry's last change: what stands then is what the message tells.
    last: u64,
}

/// A version with its content.
struct Told {
    resource: Resource,
    body: Value,
}

impl Told {
    fn reference(&self) -> String {
        format!("{}/{}", self.resource.rtype, self.resource.id)
    }
}

/// What a message is made of, gathered as it is written.
struct Message {
    segments: Vec<Segment>,
    about: About,
}

impl Message {
    fn new() -> Self {
        Message { segments: Vec::new(), about: About::default() }
    }

    fn tells(&mut self, told: &Told) {
        let Told { resource, .. } = told;
        if resource.patient.is_patient() && !self.about.patients.contains(&resource.patient) {
            self.about.patients.push(resource.patient);
        }
        if !self.about.kinds.contains(&resource.rtype) {
            self.about.kinds.push(resource.rtype.clone());
        }
        self.about.sensitivity = self.about.sensitivity.with(resource.sensitivity);
    }
}

impl Maker {
    /// `assigners` of the domain's sources, namespace to system; the first source to name a system counts.
    pub fn new(
        silver: Silver,
        domain: DomainName,
        facility: String,
        assigners: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let mut back = BTreeMap::new();
        for (namespace, system) in assigners {
            back.entry(system).or_insert(namespace);
        }
        Maker { silver, domain, facility, assigners: back, together: Mutex::default() }
    }

    /// The message that tells of this version; `None` where another one does, or there is none for its type.
    pub async fn make(&self, permit: &Permit<Read>, changed: Resource) -> Result<Option<Made>, StoreError> {
        let now = Told { body: body_of(&changed)?, resource: changed };
        let before = self.before(permit, &now.resource).await?;
        // Of a deleted one, what it was.
        let (now, deleted) = match (now.resource.deleted, before) {
            (false, before) => return self.living(permit, now, before).await,
            (true, Some(before)) => {
                let resource =
                    Resource { version: now.resource.version, change: now.resource.change, ..before.resource };
                (Told { resource, body: before.body }, now.resource)
            }
            (true, None) => return Ok(None),
        };
        let (trigger, mut message) = match now.resource.rtype.as_str() {
            "Patient" => ("ADT^A29^ADT_A21", self.person(&now)),
            "Encounter" => ("ADT^A23^ADT_A21", self.visit(permit, &now, u64::MAX).await?),
            _ => return Ok(None),
        };
        message.about.patients.sort_unstable();
        Ok(Some(self.finished(trigger, &deleted, &now, message)))
    }

    async fn living(&self, permit: &Permit<Read>, now: Told, before: Option<Told>) -> Result<Option<Made>, StoreError> {
        let together = self.together(permit, &now.resource).await?;
        let (kind, message) = match now.resource.rtype.as_str() {
            "Patient" => match self.patient(permit, &now, before.as_ref(), &together).await? {
                Some(made) => made,
                None => return Ok(None),
            },
            "Encounter" => {
                let trigger = visit::event(before.as_ref().map(|told| &told.body), &now.body);
                (adt(trigger), self.visit(permit, &now, together.last).await?)
            }
            "DiagnosticReport" => ("ORU^R01^ORU_R01", self.report(permit, &now, None, together.last).await?),
            "Observation" if together.reported.contains(now.resource.id.as_str()) => return Ok(None),
            "Observation" => match self.observation(permit, &now, &together).await? {
                Some(made) => made,
                None => return Ok(None),
            },
            "Immunization" => {
                ("VXU^V04^VXU_V04", self.vaccination(permit, &now, before.is_none(), together.last).await?)
            }
            _ => return Ok(None),
        };
        let resource = now.resource.clone();
        Ok(Some(self.finished(kind, &resource, &now, message)))
    }

    fn finished(&self, kind: &str, version: &Resource, told: &Told, message: Message) -> Made {
        let Message { segments, mut about } = message;
        about.patients.sort_unstable();
        about.kinds.sort_unstable();
        let mut msh = Segment::new("MSH");
        let when = time(&version.last_updated.to_string());
        msh.set(2, "^~\\&").set(3, "WARDMESH").set(4, er7::text(&self.facility)).set(7, when.clone());
        msh.set(9, kind).set(10, control_id(version)).set(11, "P").set(12, VERSION).set(18, "UNICODE UTF-8");
        let mut text = msh.written();
        if let Some(trigger) = kind.strip_prefix("ADT^").and_then(|rest| rest.get(..3)) {
            let mut evn = Segment::new("EVN");
            evn.set(1, trigger).set(2, when);
            text.push_str(&evn.written());
        }
        segments.iter().for_each(|segment| text.push_str(&segment.written()));
        let source = str_at(&told.body, &["meta", "source"]);
        let source = source.strip_prefix("urn:wardmesh:").and_then(|rest| rest.split([':', '#']).nth(1));
        let source = source.unwrap_or_default().to_owned();
        Made { message: base::Phi::new(Bytes::from(text)), about, source }
    }

    fn person(&self, now: &Told) -> Message {
        let mut message = Message::new();
        message.tells(now);
        message.segments.push(patient::pid(&now.body, self.domain.as_str(), &self.assigners));
        message.segments.extend(patient::pd1(&now.body, &self.assigners));
        message
    }

    /// A patient alone: new, changed, no longer in use, or part of another record now.
    async fn patient(
        &self,
        permit: &Permit<Read>,
        now: &Told,
        before: Option<&Told>,
        together: &Together,
    ) -> Result<Option<(&'static str, Message)>, StoreError> {
        let survivor = |told: &Told| {
            let links = list(&told.body, "link").iter();
            let mut replaced = links.filter(|link| str_at(link, &["type"]) == "replaced-by");
            replaced.next().map(|link| str_at(link, &["other", "reference"]).to_owned())
        };
        let into = survivor(now);
        if into.is_some()
            && into != before.and_then(survivor)
            && let Some(survivor) = self.referred(permit, into.as_deref().unwrap_or_default(), together.last).await?
        {
            let mut message = self.person(&survivor);
            message.tells(now);
            message.segments.push(patient::mrg(&now.body, self.domain.as_str(), &self.assigners));
            return Ok(Some(("ADT^A40^ADT_A39", message)));
        }
        let is_active = |told: &Told| told.body.get("active").and_then(Value::as_bool) != Some(false);
        let trigger = match before {
            _ if !is_active(now) && before.is_none_or(is_active) => "ADT^A29^ADT_A21",
            // The visit's message tells it, and whoever reads it takes the person from there.
            _ if together.visited.contains(&now.resource.patient) => return Ok(None),
            None => "ADT^A28^ADT_A05",
            Some(before) if !is_active(before) && is_active(now) => "ADT^A28^ADT_A05",
            Some(_) => "ADT^A31^ADT_A05",
        };
        let mut message = self.person(now);
        // The structure wants a visit; N says that there is none (table 0004).
        let mut pv1 = Segment::new("PV1");
        pv1.set(1, "1").set(2, "N");
        message.segments.push(pv1);
        Ok(Some((trigger, message)))
    }

    async fn visit(&self, permit: &Permit<Read>, now: &Told, upto: u64) -> Result<Message, StoreError> {
        let mut message = self.about_subject(permit, now, "subject", upto).await?;
        message.tells(now);
        if let Some(pid) = message.segments.first_mut() {
            pid.set(18, visit::account(&now.body, &self.assigners));
        }
        message.segments.push(visit::pv1(&now.body, self.domain.as_str(), &self.assigners));
        message.segments.extend(visit::pv2(&now.body, &self.assigners));
        Ok(message)
    }

    /// PID of whom a resource is about, and PV1 of the visit that it names.
    async fn about_subject(
        &self,
        permit: &Permit<Read>,
        now: &Told,
        element: &str,
        upto: u64,
    ) -> Result<Message, StoreError> {
        let subject = str_at(&now.body, &[element, "reference"]);
        let mut message = match self.referred(permit, subject, upto).await? {
            Some(patient) => self.person(&patient),
            None => Message::new(),
        };
        if let Some(visit) = self.referred(permit, str_at(&now.body, &["encounter", "reference"]), upto).await? {
            message.tells(&visit);
            message.segments.push(visit::pv1(&visit.body, self.domain.as_str(), &self.assigners));
        }
        Ok(message)
    }

    /// A report with all its results, or with the one that changed.
    async fn report(
        &self,
        permit: &Permit<Read>,
        report: &Told,
        only: Option<&Told>,
        upto: u64,
    ) -> Result<Message, StoreError> {
        let mut message = self.about_subject(permit, report, "subject", upto).await?;
        message.tells(report);
        message.segments.push(result::obr(1, &report.body, self.domain.as_str(), &self.assigners));
        let mut n = 1;
        for result in list(&report.body, "result").iter().take(RESULTS_MAX) {
            let reference = str_at(result, &["reference"]);
            let told = match only {
                Some(one) if one.reference() != reference => continue,
                _ => self.referred(permit, reference, upto).await?,
            };
            let Some(told) = told else { continue };
            message.tells(&told);
            let segments = result::obx(n, &told.body, &self.assigners);
            n += segments.len();
            message.segments.extend(segments);
        }
        Ok(message)
    }

    /// A result that no changed report tells: within the report that lists it, with its vaccination, or alone.
    async fn observation(
        &self,
        permit: &Permit<Read>,
        now: &Told,
        together: &Together,
    ) -> Result<Option<(&'static str, Message)>, StoreError> {
        let parts = list(&now.body, "partOf").iter().map(|part| str_at(part, &["reference"]));
        if let Some(vaccination) = parts.into_iter().find(|part| part.starts_with("Immunization/")) {
            return match self.referred(permit, vaccination, together.last).await? {
                // The vaccination's own version tells it, where both came together.
                Some(told) if told.resource.positions == now.resource.positions => Ok(None),
                Some(told) => {
                    let message = self.vaccination(permit, &told, false, together.last).await?;
                    Ok(Some(("VXU^V04^VXU_V04", message)))
                }
                None => Ok(None),
            };
        }
        if let Some(report) = self.report_of(permit, now).await? {
            return Ok(Some(("ORU^R01^ORU_R01", self.report(permit, &report, Some(now), together.last).await?)));
        }
        let mut message = self.about_subject(permit, now, "subject", together.last).await?;
        message.tells(now);
        message.segments.push(result::obr(1, &now.body, self.domain.as_str(), &self.assigners));
        message.segments.extend(result::obx(1, &now.body, &self.assigners));
        Ok(Some(("ORU^R01^ORU_R01", message)))
    }

    async fn report_of(&self, permit: &Permit<Read>, observation: &Told) -> Result<Option<Told>, StoreError> {
        let found = self.found(permit, "DiagnosticReport", "result", &observation.reference(), 1).await?;
        Ok(found.into_iter().next())
    }

    async fn vaccination(
        &self,
        permit: &Permit<Read>,
        now: &Told,
        is_first: bool,
        upto: u64,
    ) -> Result<Message, StoreError> {
        let mut message = self.about_subject(permit, now, "patient", upto).await?;
        message.tells(now);
        message.segments.extend(vaccine::segments(&now.body, is_first, self.domain.as_str(), &self.assigners));
        let mut n = 1;
        for told in self.found(permit, "Observation", "part-of", &now.reference(), RESULTS_MAX).await? {
            message.tells(&told);
            let segments = result::obx(n, &told.body, &self.assigners);
            n += segments.len();
            message.segments.extend(segments);
        }
        Ok(message)
    }

    /// Living resources by a search parameter, in the order of their ids.
    async fn found(
        &self,
        permit: &Permit<Read>,
        rtype: &str,
        parameter: &str,
        value: &str,
        max: usize,
    ) -> Result<Vec<Told>, StoreError> {
        let limits = base::Limits::default();
        let pairs = [(parameter.to_owned(), value.to_owned()), ("_count".to_owned(), max.to_string())];
        let query = fhir::search::parse_query(rtype, &pairs, &limits, false)
            .map_err(|_| StoreError::Invalid("a search of our own does not read"))?;
        let page = self.silver.search(permit, &self.domain, &query).await?;
        let mut found = page.resources;
        found.sort_by_key(|resource| resource.change);
        found.into_iter().map(|resource| Ok(Told { body: body_of(&resource)?, resource })).collect()
    }

    /// What a reference names, as it stood at a change.
    async fn referred(&self, permit: &Permit<Read>, reference: &str, upto: u64) -> Result<Option<Told>, StoreError> {
        let Some((rtype, id)) = reference.split_once('/') else { return Ok(None) };
        let Ok(id) = LogicalId::parse(id) else { return Ok(None) };
        let found = self.silver.read_as_of(permit, &self.domain, rtype, &id, upto).await?;
        let living = found.filter(|resource| !resource.deleted);
        living.map(|resource| Ok(Told { body: body_of(&resource)?, resource })).transpose()
    }

    async fn before(&self, permit: &Permit<Read>, resource: &Resource) -> Result<Option<Told>, StoreError> {
        if resource.version < 2 {
            return Ok(None);
        }
        let Resource { rtype, id, version, .. } = resource;
        let found = self.silver.vread(permit, &self.domain, rtype, id, version - 1).await?;
        let living = found.filter(|resource| !resource.deleted);
        living.map(|resource| Ok(Told { body: body_of(&resource)?, resource })).transpose()
    }

    /// What came of the same entry.
    async fn together(&self, permit: &Permit<Read>, resource: &Resource) -> Result<Together, StoreError> {
        let Some(position) = resource.positions.iter().max().copied() else {
            return Ok(Together { last: resource.change, ..Together::default() });
        };
        let known = self.together.lock().clone();
        if let Some((at, together)) = known
            && at == position
            && together.last >= resource.change
        {
            return Ok(together);
        }
        let mut together = Together { last: resource.change, ..Together::default() };
        for made in self.silver.came_of(permit, &self.domain, position).await? {
            let Some(version) = self.silver.vread(permit, &self.domain, &made.rtype, &made.id, made.version).await?
            else {
                continue;
            };
            together.last = together.last.max(version.change);
            match made.rtype.as_str() {
                "Encounter" => drop(together.visited.insert(made.patient)),
                "DiagnosticReport" => {
                    let body = body_of(&version)?;
                    let results = list(&body, "result").iter().take(RESULTS_MAX);
                    let ids = results.filter_map(|result| str_at(result, &["reference"]).strip_prefix("Observation/"));
                    together.reported.extend(ids.map(str::to_owned));
                }
                _ => {}
            }
        }
        *self.together.lock() = Some((position, together.clone()));
        Ok(together)
    }
}

/// Type, event and structure (table 0354).
fn adt(trigger: &'static str) -> &'static str {
    match trigger {
        "A01" => "ADT^A01^ADT_A01",
        "A02" => "ADT^A02^ADT_A02",
        "A03" => "ADT^A03^ADT_A03",
        "A04" => "ADT^A04^ADT_A01",
        "A05" => "ADT^A05^ADT_A05",
        "A06" => "ADT^A06^ADT_A06",
        "A07" => "ADT^A07^ADT_A06",
        "A11" => "ADT^A11^ADT_A09",
        "A13" => "ADT^A13^ADT_A01",
        "A21" => "ADT^A21^ADT_A21",
        "A22" => "ADT^A22^ADT_A21",
        "A23" => "ADT^A23^ADT_A21",
        "A38" => "ADT^A38^ADT_A38",
        _ => "ADT^A08^ADT_A01",
    }
}

/// The same for the same version on every node that has it.
fn control_id(version: &Resource) -> String {
    let of = format!("{}/{}/{}", version.rtype, version.id, version.version);
    let hash = digest::digest(&digest::SHA256, of.as_bytes());
    base::hex::encode(hash.as_ref()).chars().take(CONTROL_ID_CHARS).collect()
}

fn body_of(resource: &Resource) -> Result<Value, StoreError> {
    if resource.deleted {
        return Ok(Value::Null);
    }
    parse(resource.body.expose(), &ParseLimits::default())
        .map_err(|_| StoreError::Corrupt("a stored resource is not JSON"))
}
