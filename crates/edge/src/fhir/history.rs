//! history of a resource, of a type and of all (R4 §3.1.0.12): newest first, deletions included, in pages whose links are
//! sealed for the caller. What the permit does not cover is not there, and not counted.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use base::{DomainName, Layer, LogicalId, Permit, Read, Timestamp, TraceContext};
use fhir::json;
use fhir::json::{Object, Value};
use gate::{Access, Held, Outcome};
use policy::Action;
use store::{Resource, StoreError};

use super::read::{named, value_of};
use super::search::{open_link, pairs_text, percent};
use super::{Answer, FHIR_JSON, FhirError, known_type};
use crate::doors::{Call, Doors};
use crate::http::Peer;
use crate::outgoing::{Draft, Released};

/// Whose history.
pub struct Of<'a> {
    domain: &'a DomainName,
    rtype: Option<String>,
    id: Option<LogicalId>,
}

impl<'a> Of<'a> {
    pub fn instance(doors: &'a Doors, domain: &str, rtype: &str, id: &str) -> Result<Of<'a>, FhirError> {
        let name = named(doors, domain, rtype, id)?;
        Ok(Of { domain: name.domain, rtype: Some(name.rtype), id: Some(name.id) })
    }

    /// `Patient/x/_history`.
    fn path(&self) -> String {
        let parts = [self.rtype.as_deref(), self.id.as_ref().map(LogicalId::as_str)];
        parts.into_iter().flatten().chain(["_history"]).collect::<Vec<_>>().join("/")
    }
}

pub async fn instance(
    State(doors): State<Arc<Doors>>,
    Path((domain, rtype, id)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
) -> Answer {
    let call = doors.call("fhir", &peer, trace, &headers).await?;
    let of = Of::instance(&doors, &domain, &rtype, &id)?;
    Ok(page(&doors, &call, of, pairs(query)).await?.into())
}

pub async fn of_type(
    State(doors): State<Arc<Doors>>,
    Path((domain, rtype)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
) -> Answer {
    let call = doors.call("fhir", &peer, trace, &headers).await?;
    let (domain, _) = doors.domain(&domain).ok_or_else(FhirError::not_found)?;
    let of = Of { domain, rtype: Some(known_type(&rtype)?.to_owned()), id: None };
    Ok(page(&doors, &call, of, pairs(query)).await?.into())
}

pub async fn system(
    State(doors): State<Arc<Doors>>,
    Path(domain): Path<String>,
    RawQuery(query): RawQuery,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
) -> Answer {
    let call = doors.call("fhir", &peer, trace, &headers).await?;
    let (domain, _) = doors.domain(&domain).ok_or_else(FhirError::not_found)?;
    Ok(page(&doors, &call, Of { domain, rtype: None, id: None }, pairs(query)).await?.into())
}

fn pairs(query: Option<String>) -> Vec<(String, String)> {
    fhir::search::decode_query(query.as_deref().unwrap_or_default())
}

/// What is asked for.
struct Asked {
    since: Option<Timestamp>,
    count: usize,
    /// A version of the resource, or a change number: the page shows what lies before it.
    before: Option<u64>,
}

fn asked(doors: &Doors, pairs: &[(String, String)]) -> Result<Asked, FhirError> {
    let bad = |name: &str, text: &str| {
        let issue = fhir::validate::Issue::error("value", name, format!("{name} {text}"));
        FhirError { status: StatusCode::BAD_REQUEST, issues: vec![issue], retry_after_s: None }
    };
    let limits = &doors.limits;
    let mut asked = Asked { since: None, count: limits.search_count_default.max(1), before: None };
    for (name, value) in pairs {
        match name.as_str() {
            "_since" => {
                let moment = fhir::time::parse(value).filter(fhir::time::Moment::is_date_time);
                let moment = moment.ok_or_else(|| bad("_since", "needs an instant"))?;
                asked.since = Some(Timestamp(moment.from_ms));
            }
            "_count" => {
                let count: usize = value.parse().map_err(|_| bad("_count", "needs a whole number"))?;
                asked.count = count.clamp(1, limits.search_count_max.max(1));
            }
            "_before" => asked.before = Some(value.parse().map_err(|_| bad("_cursor", "is not valid"))?),
            "_format" | "_pretty" => {}
            "_at" | "_list" | "_sort" => {
                let text = "of a history `_since` and `_count` are supported";
                return Err(FhirError::new(StatusCode::BAD_REQUEST, "not-supported", text));
            }
            _ => {
                let text = "this is no parameter of a history: `_since` and `_count` are";
                return Err(FhirError::new(StatusCode::BAD_REQUEST, "not-found", text));
            }
        }
    }
    Ok(asked)
}

/// A page of a history; recorded.
pub async fn page(
    doors: &Doors,
    call: &Call,
    of: Of<'_>,
    mut pairs: Vec<(String, String)>,
) -> Result<Released, FhirError> {
    let bound = format!("fhir-history\0{}\0{}\0{}", call.caller.principal(), of.domain, of.path()).into_bytes();
    if pairs.iter().any(|(name, _)| name == "_before") {
        return Err(FhirError::new(StatusCode::BAD_REQUEST, "not-found", "this is no parameter of a history"));
    }
    if let [(name, link)] = pairs.as_slice()
        && name == "_cursor"
    {
        pairs = open_link(doors, &bound, link)?;
    }
    let asked = asked(doors, &pairs)?;
    let mut ask = call.ask(Action::Read, of.domain, Layer::Silver);
    // Without a type it is about every kind: who may read some may not ask for all.
    if let Some(rtype) = &of.rtype {
        ask = ask.kind(rtype);
    }
    let permit = doors.gate.permit::<Read>(&call.caller, ask).await?;
    let (versions, next) = versions(doors, &permit, &of, &asked).await?;
    let what = format!("history {}", of.rtype.as_deref().unwrap_or("of all types"));
    let access = Access::of(&permit, Action::Read, &call.origin)
        .what(what)
        .query(doors.gate.query_hash(pairs_text(&pairs).as_bytes()));
    if versions.is_empty() && of.id.is_some() && asked.since.is_none() && asked.before.is_none() {
        doors.gate.release(&call.caller, access.outcome(Outcome::NotFound)).await?;
        return Err(FhirError::not_found());
    }
    let access = access.rows(versions.len() as u64).patients(of.domain, versions.iter().map(|v| v.patient.0));
    let links = links(doors, &bound, &of, &pairs, next)?;
    let is_whole = next.is_none() && asked.before.is_none() && asked.since.is_none();
    let bundle = bundle(doors, &permit, &of, &versions, links, is_whole)?;
    let held = Held::under(&permit, Draft::new(StatusCode::OK, FHIR_JSON, fhir::json::to_vec(&bundle)));
    let release = doors.gate.release(&call.caller, access).await?;
    Released::open(held, release).map_err(|_| FhirError::unavailable("the answer could not be released"))
}

/// Versions, newest first, and where the next page goes on.
async fn versions(
    doors: &Doors,
    permit: &Permit<Read>,
    of: &Of<'_>,
    asked: &Asked,
) -> Result<(Vec<Resource>, Option<u64>), FhirError> {
    let (Some(rtype), Some(id)) = (&of.rtype, &of.id) else {
        let (rtype, since) = (of.rtype.as_deref(), asked.since);
        return Ok(doors.silver.changes_before(permit, of.domain, rtype, asked.before, since, asked.count).await?);
    };
    let before = asked.before.map(|before| u32::try_from(before).unwrap_or(u32::MAX));
    let found = match doors.silver.history(permit, of.domain, rtype, id, before, asked.count).await {
        Err(StoreError::NotCovered(_)) => Vec::new(),
        other => other?,
    };
    // Versions are numbered without gaps: what is older than the oldest here is on the next page.
    let next = found.last().map(|oldest| u64::from(oldest.version)).filter(|oldest| *oldest > 1);
    let next = next.filter(|_| found.len() >= asked.count);
    let since = asked.since.unwrap_or(Timestamp(i64::MIN));
    Ok((found.into_iter().filter(|version| version.last_updated >= since).collect(), next))
}

fn bundle(
    doors: &Doors,
    permit: &Permit<Read>,
    of: &Of<'_>,
    versions: &[Resource],
    links: Vec<Value>,
    is_whole: bool,
) -> Result<Value, FhirError> {
    let mut entries = Vec::with_capacity(versions.len());
    for version in versions {
        entries.push(entry(doors, permit, of.domain, version)?);
    }
    let mut bundle = Object::new();
    bundle.push("resourceType", "Bundle");
    bundle.push("type", "history");
    if is_whole {
        bundle.push("total", versions.len());
    }
    bundle.push("link", Value::Array(links));
    if !entries.is_empty() {
        bundle.push("entry", Value::Array(entries));
    }
    Ok(Value::Object(bundle))
}

fn links(
    doors: &Doors,
    bound: &[u8],
    of: &Of<'_>,
    pairs: &[(String, String)],
    next: Option<u64>,
) -> Result<Vec<Value>, FhirError> {
    let base = format!("{}/fhir/{}/{}", doors.info.base_url, of.domain, of.path());
    let own = || pairs.iter().filter(|(name, _)| name != "_before");
    let shown: Vec<String> = own().map(|(name, value)| format!("{}={}", percent(name), percent(value))).collect();
    let query = if shown.is_empty() { String::new() } else { format!("?{}", shown.join("&")) };
    let mut links = vec![json!({ "relation": "self", "url": (format!("{base}{query}")) })];
    if let Some(next) = next {
        let cursor = ("_before".to_owned(), next.to_string());
        let carried: Vec<&(String, String)> = own().chain([&cursor]).collect();
        let sealed = doors.silver.seal_link(bound, &serde_json::to_vec(&carried).unwrap_or_default())?;
        links.push(json!({ "relation": "next", "url": (format!("{base}?_cursor={}", percent(&sealed))) }));
    }
    Ok(links)
}

fn entry(doors: &Doors, permit: &Permit<Read>, domain: &DomainName, version: &Resource) -> Result<Value, FhirError> {
    let url = format!("{}/{}", version.rtype, version.id);
    let (method, status) = match (version.deleted, version.version) {
        (true, _) => ("DELETE", "204"),
        (false, 1) => ("POST", "201"),
        _ => ("PUT", "200"),
    };
    let mut entry = json!({
        "fullUrl": (format!("{}/fhir/{domain}/{url}", doors.info.base_url)),
        "request": { "method": method, "url": (if method == "POST" { version.rtype.as_str() } else { url.as_str() }) },
        "response": {
            "status": status,
            "etag": (format!("W/\"{}\"", version.version)),
            "lastModified": (version.last_updated.to_string()),
        },
    });
    if !version.deleted
        && let Some(object) = entry.as_object_mut()
    {
        object.insert("resource", value_of(doors, permit, version)?);
    }
    Ok(entry)
}
