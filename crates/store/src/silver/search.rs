//! Searching: the index finds under the permit, silver reads what it found under the permit once more.

use base::{DomainName, Layer, LogicalId, Ordinal, PatientSet, Permit, Read, Sensitivity, Write};
use fhir::search::{Clause, ClauseValue, ParamKind, Query, Summary};
use rusqlite::types::Value;

use super::Silver;
use super::types::Resource;
use crate::StoreError;
use crate::index::{Cover, FEW, Search, fingerprint};

/// A page of a search.
#[derive(Debug)]
pub struct SearchPage {
    /// In the order asked for; by default the last changed first.
    pub resources: Vec<Resource>,
    /// By `_include` and `_revinclude`.
    pub included: Vec<Resource>,
    /// When it was asked for; counts what the permit covers.
    pub total: Option<u64>,
    /// Gives the next page, to the same principal and for the same query only.
    pub next: Option<String>,
}

/// A resource found by what it carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub id: LogicalId,
    pub patient: Ordinal,
}

fn indexed_id(id: &str) -> Result<LogicalId, StoreError> {
    LogicalId::parse(id).map_err(|_| StoreError::corrupt("an id in the index is not one"))
}

/// Resources that a look-up gives at most: what has more is not an identifier.
const FOUND_MAX: usize = 1_000;

impl Silver {
    /// Runs a search. What the permit does not cover is not counted, paged, followed or told.
    pub async fn search(
        &self,
        permit: &Permit<Read>,
        domain: &DomainName,
        query: &Query,
    ) -> Result<SearchPage, StoreError> {
        self.check_live(permit)?;
        permit.covers_kind(domain, Layer::Silver, &query.rtype)?;
        let cover = Cover::of(permit, domain).ok_or(base::NotCovered("layer"))?;
        let bound = bound(permit, domain, query);
        let after = match &query.cursor {
            Some(link) => Some(decode_keys(&self.open_link(&bound, link)?)?),
            None => None,
        };
        let mut query = query.clone();
        let count = self.page_size(permit, &mut query);
        let search = Search { query, cover, after, count, included_max: self.0.limits.search_count_max, few: FEW };
        let answer = self.domain(domain)?.index.search(search).await?;

        let next = match answer.hits.last() {
            Some(last) if answer.more => Some(self.seal_link(&bound, &encode_keys(&last.keys))?),
            _ => None,
        };
        let hits: Vec<u64> = answer.hits.iter().map(|hit| hit.change).collect();
        let resources = self.read_changes(permit, domain, &hits).await?;
        let included = self.read_changes(permit, domain, &answer.included).await?;
        Ok(SearchPage { resources, included, total: answer.total, next })
    }

    /// `_summary=count` and `_count=0` ask for the total alone (R4 §3.1.1.5.3, §3.1.1.5.8).
    fn page_size(&self, permit: &Permit<Read>, query: &mut Query) -> usize {
        if query.summary == Summary::Count || query.count == Some(0) {
            query.total = fhir::search::Total::Accurate;
            return 0;
        }
        let limits = &self.0.limits;
        let asked = query.count.unwrap_or(limits.search_count_default).clamp(1, limits.search_count_max.max(1));
        let rows_max = permit.grant().rows_max.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX);
        asked.min(rows_max)
    }

    /// For each (type, system, value) the living resources that carry the identifier, in the order of ids. An empty
    /// system is no system. For refine, which asks for a whole batch at once.
    pub async fn find_identifiers(
        &self,
        permit: &Permit<Write>,
        domain: &DomainName,
        wanted: &[(String, String, String)],
    ) -> Result<Vec<Vec<LogicalId>>, StoreError> {
        self.check_live(permit)?;
        let cover = Cover::of(permit, domain).ok_or(base::NotCovered("layer"))?;
        let mut queries = Vec::with_capacity(wanted.len());
        for (rtype, system, value) in wanted {
            permit.covers_kind(domain, Layer::Silver, rtype)?;
            let system = (!system.is_empty()).then(|| system.clone());
            let clause = Clause {
                param: "identifier",
                kind: ParamKind::Token,
                modifier: None,
                values: vec![ClauseValue::Token { system: Some(system), code: Some(value.clone()) }],
            };
            queries.push(Query { rtype: rtype.clone(), clauses: vec![clause], ..Query::default() });
        }
        let found = self.domain(domain)?.index.find_each(queries, cover, FOUND_MAX).await?;
        found.into_iter().map(|list| list.into_iter().map(|(id, _)| indexed_id(&id)).collect()).collect()
    }

    /// Living resources of a type that satisfy all the clauses, in the order of ids; at most 1,000. For refine, which
    /// finds what an input speaks of.
    pub async fn find<R>(
        &self,
        permit: &Permit<R>,
        domain: &DomainName,
        rtype: &str,
        clauses: Vec<Clause>,
    ) -> Result<Vec<Found>, StoreError> {
        self.check_live(permit)?;
        permit.covers_kind(domain, Layer::Silver, rtype)?;
        let cover = Cover::of(permit, domain).ok_or(base::NotCovered("layer"))?;
        let query = Query { rtype: rtype.to_owned(), clauses, ..Query::default() };
        let found = self.domain(domain)?.index.find(query, cover, FOUND_MAX).await?;
        found.into_iter().map(|(id, ordinal)| Ok(Found { id: indexed_id(&id)?, patient: Ordinal(ordinal) })).collect()
    }

    /// Living resources that meet all criteria of a query, chains included, in the order of ids; at most `max`. Of what
    /// is outside `patients` and `sensitivity` nothing is found, counted or followed. For refine, which decides
    /// conditions for callers who reach a part of the domain.
    pub async fn find_within<R>(
        &self,
        permit: &Permit<R>,
        domain: &DomainName,
        query: Query,
        (patients, sensitivity): (&PatientSet, Sensitivity),
        max: usize,
    ) -> Result<Vec<LogicalId>, StoreError> {
        self.check_live(permit)?;
        permit.covers_kind(domain, Layer::Silver, &query.rtype)?;
        let cover = Cover::of(permit, domain).ok_or(base::NotCovered("layer"))?.within(patients, sensitivity);
        let found = self.domain(domain)?.index.find(query, cover, max.min(FOUND_MAX)).await?;
        found.into_iter().map(|(id, _)| indexed_id(&id)).collect()
    }
}

/// What a page link is sealed for.
fn bound(permit: &Permit<Read>, domain: &DomainName, query: &Query) -> Vec<u8> {
    let grant = permit.grant();
    let mut bound = Vec::with_capacity(128);
    for text in [domain.as_str(), grant.principal.as_str(), grant.purpose.code()] {
        bound.extend_from_slice(text.as_bytes());
        bound.push(0);
    }
    bound.extend_from_slice(&fingerprint(query));
    bound
}

pub(super) fn encode_keys(keys: &[Value]) -> Vec<u8> {
    let mut out = Vec::new();
    for key in keys {
        let (tag, bytes): (u8, Vec<u8>) = match key {
            Value::Null => (0, Vec::new()),
            Value::Integer(value) => (1, value.to_be_bytes().to_vec()),
            Value::Real(value) => (2, value.to_be_bytes().to_vec()),
            Value::Text(text) => (3, text.as_bytes().to_vec()),
            Value::Blob(bytes) => (4, bytes.clone()),
        };
        out.push(tag);
        out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        out.extend_from_slice(&bytes);
    }
    out
}

pub(super) fn decode_keys(mut bytes: &[u8]) -> Result<Vec<Value>, StoreError> {
    const BAD: StoreError = StoreError::BadCursor;
    let mut keys = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let (value, rest) = rest.split_at_checked(length).ok_or(BAD)?;
        keys.push(match head[0] {
            0 => Value::Null,
            1 => Value::Integer(i64::from_be_bytes(value.try_into().map_err(|_| BAD)?)),
            2 => Value::Real(f64::from_be_bytes(value.try_into().map_err(|_| BAD)?)),
            3 => Value::Text(String::from_utf8(value.to_vec()).map_err(|_| BAD)?),
            _ => return Err(BAD),
        });
        bytes = rest;
    }
    if bytes.is_empty() { Ok(keys) } else { Err(BAD) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_page_round_trip() {
        let keys = vec![Value::Null, Value::Integer(-7), Value::Real(0.1 + 0.2), Value::Text("Müller".into())];
        assert_eq!(decode_keys(&encode_keys(&keys)).unwrap(), keys);
        assert!(decode_keys(b"\x01\0\0\0\x09abc").is_err());
    }
}
