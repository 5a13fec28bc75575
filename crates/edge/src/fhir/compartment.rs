//! Searches within a compartment (R4 §3.1.1.2, `[base]/Patient/[id]/Condition?…`, `[base]/Patient/[id]/*`): a search with
//! one more criterion, under the permit of any search. A merged Patient's compartment is that of the person.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use base::{DomainName, LogicalId, TraceContext};
use fhir::compartment::Compartment;
use fhir::search::{Clause, ClauseValue, ParamKind};
use store::{Of, Whole};

use super::operation::whole::{Asked, Wide};
use super::search::{Pick, Search, is_lenient};
use super::{Answer, FhirError, known_type, operation};
use crate::doors::{Call, Doors};
use crate::http::Peer;

/// `GET [type]/[id]/[member]`: an operation, or a search in the compartment.
pub async fn get(
    State(doors): State<Arc<Doors>>,
    Path((domain, rtype, id, member)): Path<(String, String, String, String)>,
    RawQuery(query): RawQuery,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
) -> Answer {
    let call = doors.call("fhir", &peer, trace, &headers).await?;
    let pairs = fhir::search::decode_query(query.as_deref().unwrap_or_default());
    if member.starts_with('$') {
        return operation::by_get(&doors, &call, &domain, &rtype, Some(&id), &member, pairs, &headers).await;
    }
    search(&doors, &call, &domain, (&rtype, &id, &member), pairs, &headers).await
}

/// `POST [type]/[id]/[type]/_search`.
pub async fn post(
    State(doors): State<Arc<Doors>>,
    Path((domain, rtype, id, member)): Path<(String, String, String, String)>,
    RawQuery(query): RawQuery,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let call = doors.call("fhir", &peer, trace, &headers).await?;
    let pairs = super::search::form(query.as_deref(), &body)?;
    search(&doors, &call, &domain, (&rtype, &id, &member), pairs, &headers).await
}

async fn search(
    doors: &Doors,
    call: &Call,
    domain: &str,
    (rtype, id, member): (&str, &str, &str),
    pairs: Vec<(String, String)>,
    headers: &HeaderMap,
) -> Answer {
    let (domain, _) = doors.domain(domain).ok_or_else(FhirError::not_found)?;
    let unknown = |text: &str| FhirError::new(StatusCode::NOT_FOUND, "not-supported", text);
    let compartment = Compartment::of(known_type(rtype)?)
        .ok_or_else(|| unknown("there is no such compartment here: those of Patient and Encounter are searched"))?;
    let id = LogicalId::parse(id).map_err(|_| FhirError::not_found())?;
    let (ids, asked) = members(doors, domain, compartment, &id);
    let path = format!("{}/{id}/{member}", compartment.root());
    if member == "*" {
        let wide = Wide { doors, call, domain, path, what: format!("search {}/*", compartment.root()) };
        return wide.compartment(compartment, ids, asked, pairs).await;
    }
    let member = known_type(member)?;
    if member == "AuditEvent" {
        return Err(unknown("AuditEvents are searched by themselves: AuditEvent?patient=Patient/ID"));
    }
    if !compartment.holds(member) {
        return Err(unknown("resources of this type belong to no compartment of that kind"));
    }
    let what = format!("search {}/{member}", compartment.root());
    let search = Search { doors, call, domain, rtype: member, path, what, pick: Pick::Page };
    let pairs = search.open(pairs)?;
    let mut query = search.parse(&pairs, is_lenient(headers))?;
    query.any.push(alternatives(compartment, member, &ids));
    Ok(search.answer(query, &pairs, asked).await?.into())
}

/// The resources whose compartment it is, and their source records where that is known: all of one person.
fn members(doors: &Doors, domain: &DomainName, compartment: Compartment, id: &LogicalId) -> (Vec<LogicalId>, Vec<u32>) {
    match compartment {
        Compartment::Encounter => (vec![id.clone()], Vec::new()),
        Compartment::Patient => {
            let family = doors.patients.family(domain, id);
            let records = family.iter().filter_map(|(_, record)| *record).map(|record| record.0).collect();
            (family.into_iter().map(|(id, _)| id).collect(), records)
        }
    }
}

/// What makes a resource of the type belong to one of `ids`: any of the compartment's parameters, or being one of them.
fn alternatives(compartment: Compartment, rtype: &str, ids: &[LogicalId]) -> Vec<Vec<Clause>> {
    let leads = |code: &&'static str| {
        let value = |id: &LogicalId| ClauseValue::Reference {
            rtype: Some(compartment.root().to_owned()),
            id: id.as_str().to_owned(),
        };
        vec![Clause {
            param: code,
            kind: ParamKind::Reference,
            modifier: None,
            values: ids.iter().map(value).collect(),
        }]
    };
    let mut any: Vec<Vec<Clause>> = compartment.parameters(rtype).iter().map(leads).collect();
    if rtype == compartment.root() {
        let value = |id: &LogicalId| ClauseValue::Token { system: None, code: Some(id.as_str().to_owned()) };
        let values = ids.iter().map(value).collect();
        any.push(vec![Clause { param: "_id", kind: ParamKind::Token, modifier: None, values }]);
    }
    any
}

impl Wide<'_> {
    /// `*`: all types at once, so only what every type has is asked for.
    async fn compartment(
        &self,
        compartment: Compartment,
        ids: Vec<LogicalId>,
        asked: Vec<u32>,
        pairs: Vec<(String, String)>,
    ) -> Answer {
        let pairs = self.open(pairs)?;
        let mut wanted = Asked::default();
        for (name, value) in &pairs {
            match name.as_str() {
                "_total" | "_type" | "_count" | "_cursor" => wanted.take(name, value)?,
                _ => {
                    let text =
                        "a search over all types takes _type, _count and _total: name one type to search by more";
                    return Err(FhirError::new(StatusCode::BAD_REQUEST, "not-supported", text));
                }
            }
        }
        let permit = self.permit(compartment.root(), None, &wanted.types).await?;
        let whole = Whole {
            of: Of::Compartment(compartment, ids),
            root: compartment.root(),
            about: None,
            types: wanted.types,
            since: None,
            care: None,
            total: wanted.total,
            count: wanted.count.unwrap_or(self.doors.limits.search_count_default),
            cursor: wanted.cursor,
        };
        let page = self.doors.silver.whole(&permit, self.domain, &whole).await?;
        self.answer(&permit, page, &pairs, asked).await
    }
}
