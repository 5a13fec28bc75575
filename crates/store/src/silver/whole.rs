//! Reading what belongs together across resource types: all that is about a person, a compartment, the newest of each
//! code. The index finds under the permit, silver reads under the permit once more.

use base::{DomainName, Layer, LogicalId, Ordinal, Permit, Read, Timestamp};
use fhir::compartment::Compartment;
use fhir::search::Query;

use super::Silver;
use super::search::{SearchPage, decode_keys, encode_keys};
use super::types::Resource;
use crate::StoreError;
use crate::index::{self, Cover};

/// What a whole is the whole of.
#[derive(Debug, Clone)]
pub enum Of {
    /// All that is about these source records.
    Records(Vec<Ordinal>),
    /// All that belongs to these resources of the compartment's type, and they themselves.
    Compartment(Compartment, Vec<LogicalId>),
}

/// A question over all resource types at once.
#[derive(Debug, Clone)]
pub struct Whole {
    pub of: Of,
    /// The type that comes first: what it is the whole of.
    pub root: &'static str,
    /// Only what is about these source records or about nobody.
    pub about: Option<Vec<Ordinal>>,
    /// Empty: all that the permit covers.
    pub types: Vec<String>,
    /// Only what changed after this.
    pub since: Option<Timestamp>,
    /// Only what has no time of care, or one that meets this half-open interval of milliseconds.
    pub care: Option<(i64, i64)>,
    pub total: bool,
    /// Resources of a page, at most the limit of a search.
    pub count: usize,
    pub cursor: Option<String>,
}

impl Silver {
    /// A page of a whole. What the permit does not cover is not counted, paged or told.
    pub async fn whole(
        &self,
        permit: &Permit<Read>,
        domain: &DomainName,
        whole: &Whole,
    ) -> Result<SearchPage, StoreError> {
        self.check_live(permit)?;
        let cover = Cover::of(permit, domain).ok_or(base::NotCovered("layer"))?;
        let bound = bound(permit, domain, whole);
        let after = match &whole.cursor {
            Some(link) => Some(decode_keys(&self.open_link(&bound, link)?)?),
            None => None,
        };
        let rows_max = permit.grant().rows_max.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX);
        let count = whole.count.min(self.0.limits.search_count_max).min(rows_max);
        let asked = index::Whole {
            of: match &whole.of {
                Of::Records(records) => index::Of::Records(records.iter().map(|record| record.0).collect()),
                Of::Compartment(compartment, ids) => {
                    index::Of::Compartment(*compartment, ids.iter().map(|id| id.as_str().to_owned()).collect())
                }
            },
            root: whole.root,
            about: whole.about.as_ref().map(|about| about.iter().map(|record| record.0).collect()),
            types: whole.types.clone(),
            since_ms: whole.since.map(Timestamp::ms),
            care: whole.care,
            total: whole.total,
        };
        let answer = self.domain(domain)?.index.whole(asked, cover, after, count).await?;
        let next = match answer.hits.last() {
            Some(last) if answer.more => Some(self.seal_link(&bound, &encode_keys(&last.keys))?),
            _ => None,
        };
        let hits: Vec<u64> = answer.hits.iter().map(|hit| hit.change).collect();
        let resources = self.read_changes(permit, domain, &hits).await?;
        Ok(SearchPage { resources, included: Vec::new(), total: answer.total, next })
    }

    /// Of what satisfies the query the newest `max` of each `code`, by `date`; both are parameters of its type.
    pub async fn last(
        &self,
        permit: &Permit<Read>,
        domain: &DomainName,
        query: &Query,
        code: &'static str,
        date: &'static str,
        max: usize,
    ) -> Result<Vec<Resource>, StoreError> {
        self.check_live(permit)?;
        permit.covers_kind(domain, Layer::Silver, &query.rtype)?;
        let cover = Cover::of(permit, domain).ok_or(base::NotCovered("layer"))?;
        let changes = self.domain(domain)?.index.last(query.clone(), cover, code, date, max).await?;
        let rows_max = permit.grant().rows_max.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX);
        let most = self.0.limits.search_count_max.min(rows_max);
        if changes.len() > most {
            return Err(StoreError::TooMany { what: "resources in one answer", max: most });
        }
        self.read_changes(permit, domain, &changes).await
    }
}

/// What a page link is sealed for: the caller, and all but the page.
fn bound(permit: &Permit<Read>, domain: &DomainName, whole: &Whole) -> Vec<u8> {
    let grant = permit.grant();
    let all_but_page = Whole { count: 0, cursor: None, total: false, ..whole.clone() };
    format!("whole\0{domain}\0{}\0{}\0{all_but_page:?}", grant.principal, grant.purpose.code()).into_bytes()
}
