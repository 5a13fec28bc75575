//! The ports [`Records`] and [`Estate`]: what is known of records, and what hides and destroys them. With a fake in
//! memory. The node's own is `ward::node::estate`.

use std::collections::BTreeMap;

use async_trait::async_trait;
use base::{DomainName, LogicalId, Ordinal};
use parking_lot::Mutex;

use crate::book::Subject;

/// Why the estate could not do its part; the step is tried again. Names no patient.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PortError(pub String);

/// A record that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub ordinal: Ordinal,
    /// Retention classes of its keys, each with the last year through which it must be kept.
    pub kept: Vec<(String, u16)>,
}

/// A record by the year of its last entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub ordinal: Ordinal,
    pub year: u16,
}

/// Keeps an estate's plan before it is carried out.
#[async_trait]
pub trait KeepPlan: Send + Sync {
    /// When this returns the plan survives a crash. Refused where something stands against the erasure by now.
    async fn keep(&self, plan: String) -> Result<(), String>;
}

/// What is known of records.
#[async_trait]
pub trait Records: Send + Sync {
    /// The source record behind a Patient id; an erased one is none.
    async fn find(&self, domain: &DomainName, patient: &LogicalId) -> Result<Option<Record>, PortError>;
    /// Every record of the domain by the year of its last entry, in the order of ordinals.
    async fn by_year(&self, domain: &DomainName) -> Result<Vec<Due>, PortError>;
    /// The domain's retention class, such as `clinical-6y`.
    fn class_of(&self, domain: &DomainName) -> String;
    /// The id of the record's Patient; `None` when it has none any more.
    async fn patient_of(&self, domain: &DomainName, record: Ordinal) -> Result<Option<LogicalId>, PortError>;
}

/// What hides and destroys. All but hiding may take long; all may be repeated.
#[async_trait]
pub trait Estate: Records {
    /// From when this returns no door gives anything of the record, and none adds to it.
    fn hide(&self, subject: &Subject);
    /// Takes it back.
    fn unhide(&self, subject: &Subject);
    /// Destroys rows and keys of the record, by the plan where there is one, else by one it makes and keeps first.
    async fn destroy(&self, subject: &Subject, plan: Option<&str>, keep: &dyn KeepPlan) -> Result<(), PortError>;
    /// Makes what is shared or copied (shared keys, search index, data products) anew without the destroyed records of
    /// the domain, and destroys what was there; says in a sentence what it did.
    async fn rewrite(&self, domain: &DomainName) -> Result<String, PortError>;
    /// The key epoch now; the keys of all earlier ones are destroyed when this returns.
    async fn epoch(&self) -> Result<u64, PortError>;
    /// Begins a new epoch and destroys the earlier ones.
    async fn turn_epoch(&self) -> Result<(), PortError>;
}

/// The fake: records in memory, and what was done to them.
#[derive(Debug, Default)]
pub struct MemoryEstate(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    records: BTreeMap<LogicalId, (Record, u16)>,
    hidden: Vec<Ordinal>,
    destroyed: Vec<Ordinal>,
    rewritten: u32,
    epoch: u64,
    broken: bool,
}

impl MemoryEstate {
    /// A record whose last entry is of `year`, kept by class and year.
    pub fn add(&self, patient: &str, ordinal: u32, year: u16, kept: &[(&str, u16)]) {
        let kept = kept.iter().map(|(class, until)| ((*class).to_owned(), *until)).collect();
        let record = Record { ordinal: Ordinal(ordinal), kept };
        if let Ok(id) = LogicalId::parse(patient) {
            self.0.lock().records.insert(id, (record, year));
        }
    }

    /// Fails what takes long, until told otherwise.
    pub fn fail(&self, broken: bool) {
        self.0.lock().broken = broken;
    }

    pub fn hidden(&self) -> Vec<Ordinal> {
        self.0.lock().hidden.clone()
    }

    pub fn destroyed(&self) -> Vec<Ordinal> {
        self.0.lock().destroyed.clone()
    }

    pub fn rewritten(&self) -> u32 {
        self.0.lock().rewritten
    }
}

fn works(inner: &Inner) -> Result<(), PortError> {
    if inner.broken { Err(PortError("the disk is full".into())) } else { Ok(()) }
}

#[async_trait]
impl Records for MemoryEstate {
    async fn find(&self, _: &DomainName, patient: &LogicalId) -> Result<Option<Record>, PortError> {
        Ok(self.0.lock().records.get(patient).map(|(record, _)| record.clone()))
    }

    async fn by_year(&self, _: &DomainName) -> Result<Vec<Due>, PortError> {
        let inner = self.0.lock();
        Ok(inner.records.values().map(|(record, year)| Due { ordinal: record.ordinal, year: *year }).collect())
    }

    fn class_of(&self, _: &DomainName) -> String {
        "clinical-6y".into()
    }

    async fn patient_of(&self, _: &DomainName, record: Ordinal) -> Result<Option<LogicalId>, PortError> {
        let inner = self.0.lock();
        Ok(inner.records.iter().find(|(_, (known, _))| known.ordinal == record).map(|(id, _)| id.clone()))
    }
}

#[async_trait]
impl Estate for MemoryEstate {
    fn hide(&self, subject: &Subject) {
        let hidden = &mut self.0.lock().hidden;
        hidden.retain(|known| *known != subject.ordinal);
        hidden.push(subject.ordinal);
    }

    fn unhide(&self, subject: &Subject) {
        self.0.lock().hidden.retain(|known| *known != subject.ordinal);
    }

    async fn destroy(&self, subject: &Subject, plan: Option<&str>, keep: &dyn KeepPlan) -> Result<(), PortError> {
        works(&self.0.lock())?;
        if plan.is_none() {
            keep.keep(r#"{"versions":1,"own_entries":1}"#.into()).await.map_err(PortError)?;
        }
        let mut inner = self.0.lock();
        inner.records.retain(|_, (record, _)| record.ordinal != subject.ordinal);
        inner.destroyed.push(subject.ordinal);
        Ok(())
    }

    async fn rewrite(&self, _: &DomainName) -> Result<String, PortError> {
        let mut inner = self.0.lock();
        works(&inner)?;
        inner.rewritten += 1;
        Ok("1 built anew".into())
    }

    async fn epoch(&self) -> Result<u64, PortError> {
        Ok(self.0.lock().epoch)
    }

    async fn turn_epoch(&self) -> Result<(), PortError> {
        self.0.lock().epoch += 1;
        Ok(())
    }
}
