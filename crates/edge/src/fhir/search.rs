//! search-type by GET and POST (R4 §3.1.1). Unknown parameters are an error unless `Prefer: handling=lenient`.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use base::{DataClass, DomainName, Mask, Permit, Read, TraceContext};
use fhir::json;
use fhir::json::{Object, Value};
use fhir::search::Query;
use gate::{Access, Held};
use policy::Action;
use store::{Resource, SearchPage};

use super::read::{permit_to_read, value_of};
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
    let mut pairs = fhir::search::decode_query(query.as_deref().unwrap_or_default());
    let form = std::str::from_utf8(&body)
        .map_err(|_| FhirError::new(StatusCode::BAD_REQUEST, "structure", "the form is not UTF-8"))?;
    pairs.extend(fhir::search::decode_query(form));
    Ok(search(&doors, &call, &domain, &rtype, pairs, is_lenient(&headers)).await?.into())
}

/// Whether unknown parameters are passed over (R4 §3.1.1.2).
pub fn is_lenient(headers: &HeaderMap) -> bool {
    headers.get("prefer").and_then(|value| value.to_str().ok()).is_some_and(|text| text.contains("handling=lenient"))
}

/// Searches, and records what was shown.
pub async fn search(
    doors: &Doors,
    call: &Call,
    domain: &str,
    rtype: &str,
    mut pairs: Vec<(String, String)>,
    lenient: bool,
) -> Result<Released, FhirError> {
    let (domain, _) = doors.domain(domain).ok_or_else(FhirError::not_found)?;
    let rtype = known_type(rtype)?;
    pairs.retain(|(name, _)| name != "_format" && name != "_pretty");
    let bound = link_bound(call, domain, rtype);
    if let [(name, link)] = pairs.as_slice()
        && name == "_cursor"
    {
        pairs = open_link(doors, &bound, link)?;
    }
    let mut query = fhir::search::parse_query(rtype, &pairs, &doors.limits, lenient).map_err(|issue| FhirError {
        status: StatusCode::BAD_REQUEST,
        issues: vec![issue],
        retry_after_s: None,
    })?;
    subset::check(&query)?;
    let permit = permit_to_read(doors, call, Action::Search, domain, rtype).await?;
    refuse_masked_criteria(&query, &permit.grant().masks)?;
    let mut asked = super::merged::widen(doors, &permit, domain, &mut query);
    asked.extend(super::merged::widen_chains(doors, &permit, domain, &mut query).await?);
    let mut page = doors.silver.search(&permit, domain, &query).await?;
    super::merged::add_survivors(doors, &permit, domain, &mut page).await?;
    let links = links(doors, &bound, domain, rtype, &query, &pairs, &page)?;
    let bundle = bundle(doors, &permit, domain, links, &query, &page)?;
    let hash = doors.gate.query_hash(pairs_text(&pairs).as_bytes());
    let shown = page.resources.iter().chain(&page.included);
    let access = Access::of(&permit, Action::Search, &call.origin)
        .what(format!("search {rtype}"))
        .query(hash)
        .rows((page.resources.len() + page.included.len()) as u64)
        .patients(domain, shown.map(|resource| resource.patient.0).chain(asked));
    let held = Held::under(&permit, Draft::new(StatusCode::OK, FHIR_JSON, fhir::json::to_vec(&bundle)));
    let release = doors.gate.release(&call.caller, access).await?;
    Released::open(held, release).map_err(|_| FhirError::unavailable("the answer could not be released"))
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
    let used = query.clauses.iter().map(|clause| clause.param).chain(query.sort.iter().map(|(param, _)| *param));
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
fn links(
    doors: &Doors,
    bound: &[u8],
    domain: &DomainName,
    rtype: &str,
    query: &Query,
    pairs: &[(String, String)],
    page: &SearchPage,
) -> Result<Vec<Value>, FhirError> {
    let base = format!("{}/fhir/{domain}/{rtype}", doors.info.base_url);
    let understood: Vec<&(String, String)> =
        pairs.iter().filter(|(name, _)| name != "_cursor" && !query.ignored.contains(name)).collect();
    let shown: Vec<String> =
        understood.iter().map(|(name, value)| format!("{}={}", percent(name), percent(value))).collect();
    let mut links = vec![json!({ "relation": "self", "url": (format!("{base}?{}", shown.join("&"))) })];
    if let Some(next) = &page.next {
        let cursor = ("_cursor".to_owned(), next.clone());
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

fn entry(base: &str, mode: &str, resource: &Resource, value: Value) -> Value {
    json!({
        "fullUrl": (format!("{base}/{}/{}", resource.rtype, resource.id)),
        "resource": (value),
        "search": { "mode": mode },
    })
}
