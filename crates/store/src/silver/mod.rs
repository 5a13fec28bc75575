//! Silver: sealed versions of FHIR resources, read under a permit that covers each of them.
//!
//! Writing is in `commit`, searching in `search`, what consumers keep beside resources in `work`. What a resource means
//! is `clinical`'s and `fhir`'s matter; who may see it was decided by `gate` and is checked here, row by row.

mod commit;
mod digest;
mod entries;
mod erase;
mod follow;
mod label;
mod pack;
mod read;
mod search;
mod types;
mod waiting;
mod whole;
mod work;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use base::{Clock, DomainName, Entropy, Layer, Limits, LogName, Ordinal, Permit, Sensitivity, Target, Timestamp};
use tokio::sync::watch;
use vault::{Holder, RetentionClass, Scope, Vault};

pub use digest::SilverDigest;
pub use entries::{DaySize, Entered, EntryQuery, EntryRow, EntryState, EntryToken, SourceFigures};
pub use erase::Erased;
pub use follow::Progress;
pub use pack::{compress, decompress};
pub use search::{Found, SearchPage};
pub use types::{Batch, NewVersion, Outcome, Resource, Scanned, Seen, SetAside, SetAsideEntry, Traced};

pub use waiting::Waiting;
pub use whole::{Of, Whole};

use crate::index::Index;
use crate::secrets::Secrets;
use crate::{Catalog, StoreError};

/// The consumer whose position is the domain's applied position.
pub const REFINE: &str = "refine";

/// How long clinical records are kept unless the domain says otherwise.
pub const RETENTION_DEFAULT: &str = "clinical-6y";

/// What silver is built of.
pub struct SilverParts {
    pub catalog: Catalog,
    pub vault: Vault,
    /// Where the search indexes lie: one file per domain, derived, never backed up.
    pub index_dir: PathBuf,
    pub domains: Vec<DomainName>,
    /// How long the records of a domain are kept, where it is not [`RETENTION_DEFAULT`].
    pub retention: HashMap<DomainName, RetentionClass>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub limits: Arc<Limits>,
}

/// The silver layer of every domain of this node.
#[derive(Clone)]
pub struct Silver(Arc<Inner>);

struct Inner {
    catalog: Catalog,
    vault: Vault,
    secrets: Secrets,
    clock: Arc<dyn Clock>,
    limits: Arc<Limits>,
    /// For domains that name none.
    retention: RetentionClass,
    retentions: HashMap<DomainName, RetentionClass>,
    domains: HashMap<DomainName, Domain>,
    /// Labels of erased Patients, for the audit's questions.
    erased: parking_lot::RwLock<HashMap<(DomainName, crate::secrets::Token), Ordinal>>,
    #[cfg(test)]
    fault: parking_lot::Mutex<Option<commit::Step>>,
}

struct Domain {
    index: Index,
    applied: watch::Sender<u64>,
    /// Held from the first to the last step of a commit, so that the index sees changes in their order.
    commit: tokio::sync::Mutex<()>,
}

impl Domain {
    /// Tells those who wait that entries below `upto` are in silver and in the index.
    fn advance(&self, upto: u64) {
        self.applied.send_if_modified(|at| {
            let grown = upto > *at;
            *at = upto.max(*at);
            grown
        });
    }
}

impl Silver {
    /// Opens every domain's index, follows it up to silver, and reads where refine stands.
    pub async fn open(parts: SilverParts) -> Result<Silver, StoreError> {
        let secrets = Secrets::new(&parts.vault, parts.entropy)?;
        let retention = RetentionClass::parse(RETENTION_DEFAULT)
            .map_err(|_| StoreError::Invalid("a retention class that is not known"))?;
        let mut domains = HashMap::new();
        for domain in parts.domains {
            let path = parts.index_dir.join(format!("{domain}.index"));
            let key = match crate::index_key::standing(&parts.vault, &domain, &path).await? {
                Some(key) => key,
                // The file, if there is one, does not open under it and is made anew.
                None => {
                    let fresh = crate::index_key::fresh(&parts.vault, &domain, parts.clock.now()).await?;
                    crate::index_key::name_it(&path, fresh.object)?;
                    crate::index_key::destroy_others(&parts.vault, &domain, &fresh).await?;
                    fresh.key
                }
            };
            let index = Index::open(path, key).await?;
            let applied = watch::Sender::new(applied(&parts.catalog, &domain).await?);
            domains.insert(domain, Domain { index, applied, commit: tokio::sync::Mutex::new(()) });
        }
        let silver = Silver(Arc::new(Inner {
            catalog: parts.catalog,
            vault: parts.vault,
            secrets,
            clock: parts.clock,
            limits: parts.limits,
            retention,
            retentions: parts.retention,
            domains,
            erased: parking_lot::RwLock::default(),
            #[cfg(test)]
            fault: parking_lot::Mutex::new(None),
        }));
        for domain in silver.0.domains.keys() {
            silver.follow(domain, &mut |_| {}).await?;
        }
        Ok(silver)
    }

    fn domain(&self, domain: &DomainName) -> Result<&Domain, StoreError> {
        self.0.domains.get(domain).ok_or(StoreError::UnknownDomain)
    }

    /// How far refine has applied the domain's journal: entries below this index are in silver and in the index.
    /// For a domain that is not served here it stays at 0.
    pub fn applied(&self, domain: &DomainName) -> watch::Receiver<u64> {
        match self.0.domains.get(domain) {
            Some(domain) => domain.applied.subscribe(),
            None => watch::Sender::new(0).subscribe(),
        }
    }

    /// The key scope of what a record holds and when it came.
    pub fn scope(&self, domain: &DomainName, holder: Holder, at: Timestamp) -> Scope {
        let year = u16::try_from(at.year()).unwrap_or_default();
        let retention = self.0.retentions.get(domain).unwrap_or(&self.0.retention).clone();
        Scope { domain: domain.clone(), holder, retention, year }
    }

    /// The scope of a resource about this patient.
    pub(crate) fn record_scope(&self, domain: &DomainName, patient: Ordinal, at: Timestamp) -> Scope {
        let known = patient.is_patient() && patient != Ordinal::UNKNOWN;
        self.scope(domain, if known { Holder::Record(patient) } else { Holder::Shared }, at)
    }

    fn check_live<R>(&self, permit: &Permit<R>) -> Result<(), StoreError> {
        if permit.is_live(self.0.clock.now()) { Ok(()) } else { Err(StoreError::Expired) }
    }

    /// Seals a page link of a door: it opens for the same principal and request only.
    pub fn seal_link(&self, bound: &[u8], plain: &[u8]) -> Result<String, StoreError> {
        self.0.secrets.seal_link(bound, plain)
    }

    pub fn open_link(&self, bound: &[u8], link: &str) -> Result<Vec<u8>, StoreError> {
        self.0.secrets.open_link(bound, link)
    }
}

fn target<'a>(domain: &'a DomainName, kind: &'a str, patient: Ordinal, sensitivity: Sensitivity) -> Target<'a> {
    Target { domain, layer: Layer::Silver, kind, patient, sensitivity }
}

async fn applied(catalog: &Catalog, domain: &DomainName) -> Result<u64, StoreError> {
    let row =
        sqlx::query_as::<_, (i64,)>("SELECT COALESCE(MAX(position), 0) FROM consumer WHERE domain = $1 AND name = $2")
            .bind(domain.as_str())
            .bind(REFINE)
            .fetch_one(catalog.db.readers())
            .await?;
    Ok(crate::sql::unbig(row.0))
}

impl Silver {
    /// How much of a log a consumer has applied. Where refine stored a batch whose last steps failed, they are done now:
    /// the index follows, and those who wait for the applied position are told.
    pub async fn position(&self, domain: &DomainName, consumer: &str, log: &LogName) -> Result<u64, StoreError> {
        let row =
            sqlx::query_as::<_, (i64,)>("SELECT position FROM consumer WHERE domain = $1 AND name = $2 AND log = $3")
                .bind(domain.as_str())
                .bind(consumer)
                .bind(log.as_str())
                .fetch_optional(self.0.catalog.db.readers())
                .await?;
        let position = row.map_or(0, |row| crate::sql::unbig(row.0));
        if consumer == REFINE
            && let Ok(served) = self.domain(domain)
            && position > *served.applied.borrow()
        {
            self.follow(domain, &mut |_| {}).await?;
            served.advance(position);
        }
        Ok(position)
    }

    /// The ordinal that the next new source record of the domain gets.
    pub async fn next_ordinal(&self, domain: &DomainName) -> Result<Ordinal, StoreError> {
        let row = sqlx::query_as::<_, (i64,)>("SELECT ordinal FROM domain_state WHERE domain = $1")
            .bind(domain.as_str())
            .fetch_optional(self.0.catalog.db.readers())
            .await?;
        let last = row.map_or(0, |row| row.0);
        u32::try_from(last + 1)
            .ok()
            .filter(|next| *next < Ordinal::UNKNOWN.0)
            .map(Ordinal)
            .ok_or(StoreError::Invalid("more source records than a domain can number"))
    }
}
