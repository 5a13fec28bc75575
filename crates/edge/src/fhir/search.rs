//! search-type by GET and POST (R4 §3.1.1). Unknown parameters are an error unless `Prefer: handling=lenient`.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use base::{DataClass, DomainName, Layer, Mask, Permit, Read, TraceContext};
use fhir::json;
use fhir::json::{Object, Value};
use fhir::search::{Chain, Criterion, Has, Query};
use gate::{Access, Held};
use policy::Action;
use store::{Resource, SearchPage};

use super::read::value_of;
use super::{Answer, FHIR_JSON, FhirError, known_type, subset};
use crate::doors::{Call, Doors};
use crate::http::Peer;
use crate::outgoing::{Draft, Released};

pub async fn get(
    State(doors): State<Arc<Doors>>,
    Path((domain, rtype)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
) -> Answer {
    let call = doors.call("fhir", &peer, trace, &headers).await?;
    let pairs = fhir::search::decode_query(query.as_deref().unwrap_or_default());
    Ok(search(&doors, &call, &domain, &rtype, pairs, is_lenient(&headers)).await?.into())
}

/// `POST [type]/_search`: the criteria in the body, where no proxy logs them.
pub async fn post(
    State(doors): State<Arc<Doors>>,
    Path((domain, rtype)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let call = doors.call("fhir", &peer, trace, &headers).await?;
    let pairs = form(query.as_deref(), &body)?;
    Ok(search(&doors, &call, &domain, &rtype, pairs, is_lenient(&headers)).await?.into())
}

/// The criteria of a `_search`: those of the URL and those of the body.
pub(super) fn form(query: Option<&str>, body: &[u8]) -> Result<Vec<(String, String)>, FhirError> {
    let mut pairs = fhir::search::decode_query(query.unwrap_or_default());
    let form = std::str::from_utf8(body)
        .map_err(|_| FhirError::new(StatusCode::BAD_REQUEST, "structure", "the form is not UTF-8"))?;
    pairs.extend(fhir::search::decode_query(form));
    Ok(pairs)
}

/// Whether unknown parameters are passed over (R4 §3.1.1.2).
pub fn is_lenient(headers: &HeaderMap) -> bool {
    headers.get("prefer").and_then(|value| value.to_str().ok()).is_some_and(|text| text.contains("handling=lenient"))
}

/// Searches a type, and records what was shown.
pub async fn search(
    doors: &Doors,
    call: &Call,
    domain: &str,
    rtype: &str,
    pairs: Vec<(String, String)>,
    lenient: bool,
) -> Result<Released, FhirError> {
    let (domain, _) = doors.domain(domain).ok_or_else(FhirError::not_found)?;
    let rtype = known_type(rtype)?;
    let search = Search {
        doors,
        call,
        domain,
        rtype,
        path: rtype.to_owned(),
        what: format!("search {rtype}"),
        pick: Pick::Page,
    };
    let pairs = search.open(pairs)?;
    let query = search.parse(&pairs, lenient)?;
    search.answer(query, &pairs, Vec::new()).await
}

/// One search, wherever it was asked: at a type, in a compartment, by an operation that is a search.
pub(super) struct Search<'a> {
    pub doors: &'a Doors,
    pub call: &'a Call,
    pub domain: &'a DomainName,
    pub rtype: &'a str,
    /// Of the request, below the domain's base: for the links.
    pub path: String,
    /// For the audit record: no ids.
    pub what: String,
    pub pick: Pick,
}

/// Which of the resources that were found are the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pick {
    /// All, by pages.
    Page,
    /// The first page, and no other.
    First,
    /// The newest of each code, so many of one.
    Last(usize),
}

impl Search<'_> {
    fn bound(&self) -> Vec<u8> {
        link_bound(self.call, self.domain, &self.path)
    }

    /// The criteria: as they were given, or as a page link carries them.
    pub fn open(&self, mut pairs: Vec<(String, String)>) -> Result<Vec<(String, String)>, FhirError> {
        pairs.retain(|(name, _)| name != "_format" && name != "_pretty");
        match pairs.as_slice() {
            [(name, link)] if name == "_cursor" => open_link(self.doors, &self.bound(), link),
            _ => Ok(pairs),
        }
    }

    pub fn parse(&self, pairs: &[(String, String)], lenient: bool) -> Result<Query, FhirError> {
        let query = fhir::search::parse_query(self.rtype, pairs, &self.doors.limits, lenient);
        query.map_err(|issue| FhirError { status: StatusCode::BAD_REQUEST, issues: vec![issue], retry_after_s: None })
    }

    /// Permit, page, record, release. `asked` are source records that the request itself names.
    pub async fn answer(
        &self,
        mut query: Query,
        pairs: &[(String, String)],
        asked: Vec<u32>,
    ) -> Result<Released, FhirError> {
        let Search { doors, call, domain, .. } = *self;
        subset::check(&query)?;
        let permit = permit_to_search(doors, call, domain, &query).await?;
        refuse_masked_criteria(&query, &permit.grant().masks)?;
        let mut asked: Vec<u32> =
            asked.into_iter().filter(|record| permit.grant().patients.contains(base::Ordinal(*record))).collect();
        asked.extend(super::merged::widen(doors, &permit, domain, &mut query));
        asked.extend(super::merged::widen_chains(doors, &permit, domain, &mut query).await?);
        let mut page = match self.pick {
            Pick::Page => doors.silver.search(&permit, domain, &query).await?,
            Pick::First => SearchPage { next: None, ..doors.silver.search(&permit, domain, &query).await? },
            Pick::Last(max) => {
                let resources = doors.silver.last(&permit, domain, &query, "code", "date", max).await?;
                let total = Some(resources.len() as u64);
                SearchPage { resources, included: Vec::new(), total, next: None }
            }
        };
        super::merged::add_survivors(doors, &permit, domain, &mut page).await?;
        let ignored = |name: &str| query.ignored.iter().any(|ignored| ignored == name);
        let links = links(doors, &self.bound(), domain, &self.path, &ignored, pairs, page.next.as_deref())?;
        let bundle = bundle(doors, &permit, domain, links, &query, &page)?;
        let hash = doors.gate.query_hash(pairs_text(pairs).as_bytes());
        let shown = page.resources.iter().chain(&page.included);
        let access = Access::of(&permit, Action::Search, &call.origin)
            .what(self.what.as_str())
            .query(hash)
            .rows((page.resources.len() + page.included.len()) as u64)
            .patients(domain, shown.map(|resource| resource.patient.0).chain(asked));
        let held = Held::under(&permit, Draft::new(StatusCode::OK, FHIR_JSON, fhir::json::to_vec(&bundle)));
        let release = doors.gate.release(&call.caller, access).await?;
        Released::open(held, release).map_err(|_| FhirError::unavailable("the answer could not be released"))
    }
}

/// For all types that a search speaks of: those that it asks about must be allowed, those that would come beside what is
/// found are left out where they are not.
async fn permit_to_search(
    doors: &Doors,
    call: &Call,
    domain: &DomainName,
    query: &Query,
) -> Result<Permit<Read>, FhirError> {
    let mut asked = vec![query.rtype.as_str()];
    let mut also = Vec::new();
    for chain in &query.chains {
        kinds_of_chain(chain, &mut asked, &mut also);
    }
    for has in &query.has {
        kinds_of_has(has, &mut asked, &mut also);
    }
    for include in query.includes.iter().chain(&query.revincludes) {
        also.push(include.source.as_str());
        match (&include.target, include.param) {
            (Some(target), _) => also.push(target),
            (None, Some(code)) => {
                also.extend(fhir::search::param(&include.source, code).iter().flat_map(|p| p.targets))
            }
            (None, None) => also.extend(fhir::search::params(&include.source).iter().flat_map(|param| param.targets)),
        }
    }
    for kinds in [&mut asked, &mut also] {
        kinds.sort_unstable();
        kinds.dedup();
    }
    let ask = call.ask(Action::Search, domain, Layer::Silver).kinds(asked).also(also);
    Ok(doors.gate.permit::<Read>(&call.caller, ask).await?)
}

fn kinds_of<'q>(criterion: &'q Criterion, asked: &mut Vec<&'q str>, also: &mut Vec<&'q str>) {
    match criterion {
        Criterion::Clause(_) | Criterion::Any(_) => {}
        Criterion::Chain(chain) => kinds_of_chain(chain, asked, also),
        Criterion::Has(has) => kinds_of_has(has, asked, also),
    }
}

/// A chain that names no type stands for one per target, and leads through those that are allowed.
fn kinds_of_chain<'q>(chain: &'q Chain, asked: &mut Vec<&'q str>, also: &mut Vec<&'q str>) {
    if let [(target, criterion)] = chain.branches.as_slice() {
        asked.push(target);
        return kinds_of(criterion, asked, also);
    }
    for (target, criterion) in &chain.branches {
        let mut within = Vec::new();
        kinds_of(criterion, &mut within, also);
        also.push(target);
        also.extend(within);
    }
}

fn kinds_of_has<'q>(has: &'q Has, asked: &mut Vec<&'q str>, also: &mut Vec<&'q str>) {
    asked.push(&has.rtype);
    kinds_of(&has.criterion, asked, also);
}

pub(super) fn pairs_text(pairs: &[(String, String)]) -> String {
    let mut sorted: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    sorted.sort();
    sorted.join("&")
}

/// A criterion or sort key on a masked element would tell what the mask hides.
pub fn refuse_masked_criteria(query: &Query, masks: &[Mask]) -> Result<(), FhirError> {
    if masks.is_empty() {
        return Ok(());
    }
    let masked = |param: &str| {
        fhir::search::params(&query.rtype)
            .iter()
            .find(|known| known.code == param)
            .is_some_and(|known| classes(&query.rtype, known.expression).any(|c| masks.iter().any(|m| m.class == c)))
    };
    let any = query.any.iter().flatten().flatten();
    let used =
        query.clauses.iter().chain(any).map(|clause| clause.param).chain(query.sort.iter().map(|(param, _)| *param));
    for param in used {
        if masked(param) {
            return Err(FhirError::new(
                StatusCode::FORBIDDEN,
                "forbidden",
                format!("you see the element behind `{param}` masked, so you may not search or sort by it"),
            ));
        }
    }
    if !query.chains.is_empty() || !query.has.is_empty() {
        let text = "chained criteria are not open to callers who see masked data";
        return Err(FhirError::new(StatusCode::FORBIDDEN, "forbidden", text));
    }
    Ok(())
}

/// Classes of the elements a search parameter reads.
fn classes<'a>(rtype: &'a str, expression: &'a str) -> impl Iterator<Item = DataClass> + 'a {
    expression.split('|').map(str::trim).filter_map(move |path| {
        let path = path.trim_start_matches('(').strip_prefix(rtype)?.strip_prefix('.')?;
        let end = path.find(['(', ' ', ')']).unwrap_or(path.len());
        // `.where(` and `.as(` end the path at the dot before them.
        let plain = if path[end..].starts_with('(') {
            path[..end].rsplit_once('.').map_or("", |(head, _)| head)
        } else {
            &path[..end]
        };
        Some(products::classify::derive(rtype, plain))
    })
}

/// What a page link is sealed for: it opens for the same caller and type only.
pub(super) fn link_bound(call: &Call, domain: &DomainName, rtype: &str) -> Vec<u8> {
    format!("fhir-page\0{}\0{domain}\0{rtype}", call.caller.principal()).into_bytes()
}

/// The criteria that a page link carries, with the store's cursor.
pub(super) fn open_link(doors: &Doors, bound: &[u8], link: &str) -> Result<Vec<(String, String)>, FhirError> {
    let bad = || {
        let text = "the page link is not valid for this request: start the search again";
        FhirError::new(StatusCode::BAD_REQUEST, "value", text)
    };
    let plain = doors.silver.open_link(bound, link).map_err(|_| bad())?;
    serde_json::from_slice(&plain).map_err(|_| bad())
}

fn bundle(
    doors: &Doors,
    permit: &Permit<Read>,
    domain: &DomainName,
    links: Vec<Value>,
    query: &Query,
    page: &SearchPage,
) -> Result<Value, FhirError> {
    let base = format!("{}/fhir/{domain}", doors.info.base_url);
    let mut entries = Vec::with_capacity(page.resources.len() + page.included.len());
    for (mode, list) in [("match", &page.resources), ("include", &page.included)] {
        for resource in list {
            let mut value = value_of(doors, permit, resource)?;
            if mode == "match" {
                subset::apply(query, &mut value);
            }
            entries.push(entry(&base, mode, resource, value));
        }
    }
    let mut bundle = Object::default();
    bundle.insert("resourceType", Value::from("Bundle"));
    bundle.insert("type", Value::from("searchset"));
    if let Some(total) = page.total {
        bundle.insert("total", Value::from(total as i64));
    }
    bundle.insert("link", Value::Array(links));
    if !entries.is_empty() {
        bundle.insert("entry", Value::Array(entries));
    }
    Ok(Value::Object(bundle))
}

/// `self` repeats what was understood; `next` is opaque: criteria and cursor, sealed for this caller.
pub(super) fn links(
    doors: &Doors,
    bound: &[u8],
    domain: &DomainName,
    path: &str,
    ignored: &dyn Fn(&str) -> bool,
    pairs: &[(String, String)],
    next: Option<&str>,
) -> Result<Vec<Value>, FhirError> {
    let base = format!("{}/fhir/{domain}/{path}", doors.info.base_url);
    let understood: Vec<&(String, String)> =
        pairs.iter().filter(|(name, _)| name != "_cursor" && !ignored(name)).collect();
    let shown: Vec<String> =
        understood.iter().map(|(name, value)| format!("{}={}", percent(name), percent(value))).collect();
    let mut links = vec![json!({ "relation": "self", "url": (format!("{base}?{}", shown.join("&"))) })];
    if let Some(next) = next {
        let cursor = ("_cursor".to_owned(), next.to_owned());
        let carried: Vec<&(String, String)> = understood.into_iter().chain([&cursor]).collect();
        let plain = serde_json::to_vec(&carried).unwrap_or_default();
        let sealed = doors.silver.seal_link(bound, &plain)?;
        links.push(json!({ "relation": "next", "url": (format!("{base}?_cursor={}", percent(&sealed))) }));
    }
    Ok(links)
}

pub(super) fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':' | b'/' | b'|' | b',') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

pub(super) fn entry(base: &str, mode: &str, resource: &Resource, value: Value) -> Value {
    json!({
        "fullUrl": (format!("{base}/{}/{}", resource.rtype, resource.id)),
        "resource": (value),
        "search": { "mode": mode },
    })
}
