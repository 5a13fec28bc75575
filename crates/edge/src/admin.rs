//! The admin API: journals, set-aside units, audit, sources, products, tokens. JSON; its OpenAPI is at `/openapi.json`.
//!
//! Shows how data flows and never its content: what a patient's data says is for the FHIR and SQL doors. Minting tokens
//! and handing in files are open over the node's own socket only.

mod audit;
mod break_glass;
mod downtime;
mod journal;
pub(crate) mod keys;
pub mod maintenance;
mod renderings;
mod rights;
mod routes;
mod shadow;
pub(crate) mod sources;
mod worklist;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use base::{DomainName, Layer, LogicalId, Manage, Permit, PrincipalId, Purpose, Read, SourceName, TraceContext};
use clinical::{Content, Door};
use gate::{Access, Held};
use policy::Action;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::doors::{Call, Doors, TokenPurpose};
use crate::http::Peer;
use crate::outgoing::{Draft, Outgoing};

pub use downtime::{DowntimeDesk, Made, Packed, make_pack};
pub use journal::{Expiry, JournalDesk};

pub fn router(doors: Arc<Doors>) -> Router {
    let message_max = doors.limits.hl7_message_bytes_max;
    Router::new()
        .route("/admin/status", get(status))
        .route("/admin/journal/{domain}/{index}", get(trace_entry))
        .route("/admin/lineage/{domain}/{rtype}/{id}", get(lineage))
        .route("/admin/set-aside/{domain}", get(set_aside))
        .route("/admin/set-aside/{domain}/{index}/replay", post(replay))
        .route("/admin/products", get(products))
        .route("/admin/products/{domain}/{product}/build", post(build))
        .route("/admin/index/{domain}/rebuild", post(rebuild_index))
        .route("/admin/token", post(token))
        .route("/admin/ingest/{domain}/{source}", post(ingest))
        .route("/openapi.json", get(openapi))
        .merge(audit::router())
        .merge(break_glass::routes())
        .merge(rights::router())
        .merge(routes::router())
        .merge(journal::router())
        .merge(shadow::router())
        .merge(sources::router())
        .merge(worklist::router())
        .merge(downtime::routes())
        .merge(keys::routes())
        .merge(renderings::router())
        .merge(maintenance::router())
        // A file handed in is at most one message of the largest size.
        .layer(DefaultBodyLimit::max(message_max))
        .with_state(doors)
}

/// The one place where this API's errors become a status and a sentence.
#[derive(Debug)]
pub struct AdminError(StatusCode, String);

type Answer = Result<Outgoing, AdminError>;

impl AdminError {
    /// Without the status, for the node's own log.
    pub fn sentence(&self) -> &str {
        &self.1
    }

    fn not_found(what: &str) -> Self {
        AdminError(StatusCode::NOT_FOUND, format!("there is no such {what}"))
    }

    fn broken(what: &'static str, error: impl std::fmt::Display) -> Self {
        tracing::error!(%error, "{what}");
        AdminError(StatusCode::SERVICE_UNAVAILABLE, format!("{what}: try again"))
    }
}

impl From<gate::Unauthenticated> for AdminError {
    fn from(error: gate::Unauthenticated) -> Self {
        AdminError(crate::http::status_of_stranger(error), error.to_string())
    }
}

impl From<gate::Refusal> for AdminError {
    fn from(refusal: gate::Refusal) -> Self {
        AdminError(crate::http::status_of(&refusal), refusal.to_string())
    }
}

impl From<gate::NotReleased> for AdminError {
    fn from(error: gate::NotReleased) -> Self {
        AdminError(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

impl From<crate::sql::SqlFailure> for AdminError {
    fn from(failure: crate::sql::SqlFailure) -> Self {
        let (status, text) = failure.into_parts();
        AdminError(status, text)
    }
}

impl From<store::StoreError> for AdminError {
    fn from(error: store::StoreError) -> Self {
        AdminError::broken("the store cannot answer now", error)
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let mut response = (self.0, json!({ "error": self.1 }).to_string()).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, axum::http::HeaderValue::from_static("application/json"));
        response
    }
}

fn json_draft(value: &impl Serialize) -> Draft {
    let body = serde_json::to_vec(value).unwrap_or_default();
    Draft::new(StatusCode::OK, "application/json", body)
}

/// What the mesh's own metadata needs: a permit, a record, a release, like any other answer.
async fn released<R>(
    doors: &Doors,
    call: &Call,
    permit: &Permit<R>,
    action: Action,
    what: impl Into<String>,
    value: &impl Serialize,
) -> Answer {
    let held = Held::under(permit, json_draft(value));
    release(doors, call, held, Access::of(permit, action, &call.origin).what(what).rows(1)).await
}

/// The record of this very answer, and then the answer.
async fn release(doors: &Doors, call: &Call, held: Held<Draft>, access: Access) -> Answer {
    opened(held, doors.gate.release(&call.caller, access).await?)
}

fn opened(held: Held<Draft>, release: gate::Release) -> Answer {
    Outgoing::data(held, release).map_err(|error| AdminError::broken("the answer could not be released", error))
}

/// A call of this API, authenticated.
struct Admin(Call);

impl FromRequestParts<Arc<Doors>> for Admin {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, doors: &Arc<Doors>) -> Result<Self, AdminError> {
        let missing = || AdminError::broken("the request cannot be taken", "no peer or trace");
        let peer = parts.extensions.get::<Peer>().ok_or_else(missing)?;
        let trace = parts.extensions.get::<TraceContext>().ok_or_else(missing)?;
        Ok(Admin(doors.call("admin", peer, *trace, &parts.headers).await?))
    }
}

/// The same over the node's own socket, and no other way.
struct Local(Call);

impl FromRequestParts<Arc<Doors>> for Local {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, doors: &Arc<Doors>) -> Result<Self, AdminError> {
        local_only(parts.extensions.get::<Peer>())?;
        let Admin(call) = Admin::from_request_parts(parts, doors).await?;
        Ok(Local(call))
    }
}

fn domain<'a>(doors: &'a Doors, name: &str) -> Result<&'a DomainName, AdminError> {
    doors.domain(name).map(|(name, _)| name).ok_or_else(|| AdminError::not_found("domain"))
}

impl Call {
    /// A permit to see how a domain's data flows.
    async fn metadata(&self, doors: &Doors, domain: &DomainName, kind: &str) -> Result<Permit<Read>, AdminError> {
        let ask = self.ask(Action::MetadataRead, domain, Layer::Governance).kind(kind);
        Ok(doors.gate.permit::<Read>(&self.caller, ask).await?)
    }

    async fn manage(
        &self,
        doors: &Doors,
        action: Action,
        domain: &DomainName,
        kind: &str,
    ) -> Result<Permit<Manage>, AdminError> {
        let ask = self.ask(action, domain, Layer::Governance).kind(kind);
        Ok(doors.gate.permit::<Manage>(&self.caller, ask).await?)
    }
}

async fn status(State(doors): State<Arc<Doors>>, Admin(call): Admin) -> Answer {
    let permit = call.metadata(&doors, &gate::governance(), "source").await?;
    let mut domains = Vec::new();
    for (name, parts) in &doors.domains {
        let size = parts.intake.journal().log().size();
        let counts: Vec<Value> = doors
            .silver
            .counts(name)
            .await?
            .into_iter()
            .map(|(source, counter, n)| json!({ "source": source, "counter": counter, "n": n }))
            .collect();
        let stats: Vec<Value> = doors
            .silver
            .resource_counts(name)
            .await?
            .into_iter()
            .map(|(rtype, living)| json!({ "type": rtype, "living": living }))
            .collect();
        domains.push(json!({
            "domain": name,
            "journal_entries": size,
            "applied": *doors.silver.applied(name).borrow(),
            "counts": counts,
            "resources": stats,
        }));
    }
    let value = json!({
        "mesh": doors.info.mesh,
        "version": doors.info.version,
        "started": doors.info.started.to_string(),
        "policy_version": format!("{:016x}", doors.gate.policy_version()),
        "domains": domains,
        "break_glass": doors.gate.emergency_counts(),
    });
    released(&doors, &call, &permit, Action::MetadataRead, "status", &value).await
}

/// An entry's way: envelope without content, and the versions it made.
async fn trace_entry(
    State(doors): State<Arc<Doors>>,
    Path((name, index)): Path<(String, u64)>,
    Admin(call): Admin,
) -> Answer {
    let name = domain(&doors, &name)?;
    let permit = call.metadata(&doors, name, "journal").await?;
    let journal = doors.domains[name].intake.journal();
    let read = doors
        .gate
        .node_permit::<Read>("refine", name, Layer::Bronze)
        .map_err(|error| AdminError::broken("the journal cannot be read now", error))?;
    if index >= journal.log().size() {
        return Err(AdminError::not_found("journal entry"));
    }
    let entry = journal
        .read(&read, index, 1, usize::MAX)
        .await
        .map_err(|error| AdminError::broken("the journal cannot be read now", error))?
        .pop()
        .ok_or_else(|| AdminError::not_found("journal entry"))?;
    let value = match entry {
        Ok(entry) => {
            let silver = doors
                .gate
                .node_permit::<Read>("refine", name, Layer::Silver)
                .map_err(|error| AdminError::broken("silver cannot be read now", error))?;
            let versions: Vec<Value> = doors
                .silver
                .came_of(&silver, name, index)
                .await?
                .into_iter()
                .map(|v| json!({ "resource": format!("{}/{}", v.rtype, v.id), "version": v.version }))
                .collect();
            let set_aside = doors.silver.set_aside_of(name, index).await?;
            json!({
                "position": format!("{}/{index}", journal.log().name()),
                "received": entry.envelope.received.to_string(),
                "source": entry.envelope.source,
                "door": entry.envelope.door,
                "kind": match &entry.envelope.content {
                    Content::Hl7v2 => "hl7v2".to_owned(),
                    Content::Fhir(request) => format!("fhir {:?} {}", request.interaction, request.rtype).to_lowercase(),
                    Content::Replay { of, whole: false } => format!("replay of {of}"),
                    Content::Replay { of, whole: true } => format!("whole replay of {of}"),
                    Content::Match(matched) if matched.undo => format!("match of {} taken back", matched.of),
                    Content::Match(matched) => format!("match of {}", matched.of),
                    Content::Redacted { of, .. } => format!("what is left of {of}"),
                },
                "bytes": entry.body.expose().len(),
                "content_hash": entry.envelope.content_hash,
                "trace": entry.envelope.trace().map(|t| t.trace_id_hex()),
                "principal": entry.envelope.principal,
                "decision": format!("{:016x}", entry.envelope.decision),
                "versions": versions,
                "fields": fields(&entry, &doors.limits),
                "set_aside": set_aside.iter().map(set_aside_json).collect::<Vec<_>>(),
            })
        }
        Err(error) => json!({ "position": format!("{}/{index}", journal.log().name()), "error": error.to_string() }),
    };
    released(&doors, &call, &permit, Action::MetadataRead, "journal entry", &value).await
}

/// What became of each valued field of an HL7 v2 message: its path, and where it went. No content.
fn fields(entry: &clinical::JournalEntry, limits: &base::Limits) -> Vec<Value> {
    let (Content::Hl7v2, Ok(message)) = (&entry.envelope.content, hl7v2::parse(entry.body.expose(), limits)) else {
        return Vec::new();
    };
    // Where a field goes does not depend on who sent it.
    let none = std::collections::BTreeMap::new();
    let name = entry.envelope.source.as_str();
    let sender =
        clinical::v2::Sender { name, utc_offset: None, assigners: &none, units: &none, authority: &[], received: None };
    let told = clinical::v2::map(&message, &sender, limits).fates;
    told.into_iter()
        .map(|field| match field.fate {
            clinical::v2::Fate::Mapped(to) => json!({ "field": field.path, "fate": "mapped", "to": to }),
            clinical::v2::Fate::Kept(why) => json!({ "field": field.path, "fate": "kept", "why": why }),
            clinical::v2::Fate::Unmapped => json!({ "field": field.path, "fate": "unmapped" }),
        })
        .collect()
}

/// The journal positions that each version of a resource came from, newest first. No content.
async fn lineage(
    State(doors): State<Arc<Doors>>,
    Path((name, rtype, id)): Path<(String, String, String)>,
    Admin(call): Admin,
) -> Answer {
    let name = domain(&doors, &name)?;
    let permit = call.metadata(&doors, name, "lineage").await?;
    let id = LogicalId::parse(&id).map_err(|_| AdminError::not_found("resource"))?;
    let read = doors
        .gate
        .node_permit::<Read>("refine", name, Layer::Silver)
        .map_err(|error| AdminError::broken("silver cannot be read now", error))?;
    let versions = doors.silver.history(&read, name, &rtype, &id, None, doors.limits.search_count_max).await?;
    if versions.is_empty() {
        return Err(AdminError::not_found("resource"));
    }
    let versions: Vec<Value> = versions
        .iter()
        .map(|v| json!({ "version": v.version, "at": v.last_updated.to_string(), "positions": v.positions, "deleted": v.deleted }))
        .collect();
    released(&doors, &call, &permit, Action::MetadataRead, "lineage", &json!({ "versions": versions })).await
}

fn set_aside_json(row: &store::SetAsideEntry) -> Value {
    let aside = &row.unit;
    json!({
        "index": aside.index,
        "unit": if aside.unit == clinical::WHOLE { Value::Null } else { json!(aside.unit) },
        "source": aside.source,
        "place": aside.place,
        "code": aside.code,
        "reason": aside.reason,
        "critical": aside.critical,
        "at": aside.at.to_string(),
        "resolved": row.resolved,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetAsideQuery {
    /// Resolved ones too.
    #[serde(default)]
    all: bool,
    max: Option<usize>,
}

async fn set_aside(
    State(doors): State<Arc<Doors>>,
    Path(name): Path<String>,
    Query(query): Query<SetAsideQuery>,
    Admin(call): Admin,
) -> Answer {
    let name = domain(&doors, &name)?;
    let permit = call.metadata(&doors, name, "set-aside").await?;
    let max = query.max.unwrap_or(200).min(10_000);
    let rows = doors.silver.set_aside(name, None, query.all, max).await?;
    let rows: Vec<Value> = rows.iter().map(set_aside_json).collect();
    released(&doors, &call, &permit, Action::MetadataRead, "set-aside list", &json!({ "set_aside": rows })).await
}

/// A replay is a journal entry itself, so that a rebuild decides the same.
async fn replay(
    State(doors): State<Arc<Doors>>,
    Path((name, index)): Path<(String, u64)>,
    Admin(call): Admin,
) -> Answer {
    let name = domain(&doors, &name)?;
    let permit = call.manage(&doors, Action::Replay, name, "set-aside").await?;
    let before = doors.silver.open_set_aside(name, index).await?.len();
    if before == 0 {
        return Err(AdminError::not_found("set-aside unit waiting at this position"));
    }
    let at = journal::append(&doors, &call, name, "replay", Content::Replay { of: index, whole: false }).await?;
    let mut applied = doors.silver.applied(name);
    let _ = applied.wait_for(|upto| *upto > at).await.is_ok();
    let after = doors.silver.open_set_aside(name, index).await?.len();
    let value = json!({ "replayed": format!("journal-{name}/{index}"), "resolved": before - after, "left": after });
    released(&doors, &call, &permit, Action::Replay, "replay", &value).await
}

async fn rebuild_index(State(doors): State<Arc<Doors>>, Path(name): Path<String>, Admin(call): Admin) -> Answer {
    let name = domain(&doors, &name)?;
    let permit = call.manage(&doors, Action::Manage, name, "index").await?;
    let resources = doors
        .operator
        .rebuild_index(name)
        .await
        .map_err(|error| AdminError::broken("the index could not be rebuilt", error))?;
    released(
        &doors,
        &call,
        &permit,
        Action::Manage,
        "index rebuild",
        &json!({ "domain": name, "resources": resources }),
    )
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenRequest {
    principal: PrincipalId,
    #[serde(default)]
    purpose: Option<String>,
    #[serde(default)]
    without_purpose: bool,
    minutes: i64,
}

fn local_only(peer: Option<&Peer>) -> Result<(), AdminError> {
    match peer {
        Some(Peer::Local) => Ok(()),
        _ => Err(AdminError(StatusCode::FORBIDDEN, "this is open over the node's own socket only".to_owned())),
    }
}

async fn token(State(doors): State<Arc<Doors>>, Local(call): Local, body: Bytes) -> Answer {
    let request: TokenRequest =
        break_glass::body_of(&body, r#"{"principal", "purpose" or "without_purpose", "minutes"}"#)?;
    let purpose = match (&request.purpose, request.without_purpose) {
        (Some(code), false) => TokenPurpose::Of(
            Purpose::parse(code)
                .ok_or_else(|| AdminError(StatusCode::BAD_REQUEST, "this is no purpose of use".to_owned()))?,
        ),
        (None, true) => TokenPurpose::Without,
        (None, false) => TokenPurpose::Default,
        (Some(_), true) => {
            return Err(AdminError(StatusCode::BAD_REQUEST, "a purpose and none cannot both be asked for".to_owned()));
        }
    };
    let permit = call.manage(&doors, Action::MintToken, &gate::governance(), "token").await?;
    let token = doors
        .operator
        .token(&request.principal, purpose, request.minutes)
        .map_err(|error| AdminError(StatusCode::BAD_REQUEST, error.to_string()))?;
    let what = format!("token for {}", request.principal);
    released(&doors, &call, &permit, Action::MintToken, what, &json!({ "token": token })).await
}

/// One HL7 v2 message from a file, as its source would have sent it. The answer is the acknowledgement.
async fn ingest(
    State(doors): State<Arc<Doors>>,
    Path((name, source)): Path<(String, String)>,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    body: Bytes,
) -> Answer {
    local_only(Some(&peer))?;
    let (name, parts) = doors.domain(&name).ok_or_else(|| AdminError::not_found("domain"))?;
    let receiver = SourceName::parse(&source)
        .ok()
        .and_then(|source| parts.receivers.get(&source))
        .ok_or_else(|| AdminError::not_found("HL7 v2 source"))?;
    let caller = doors.gate.source(&receiver.source().name)?;
    let origin = gate::Origin::new("file", None, Some(trace));
    let ask = gate::Ask::new(Action::Ingest, name, Layer::Bronze, &origin).kind(receiver.source().name.as_str());
    let permit = doors.gate.permit::<base::Write>(&caller, ask).await?;
    let reply = receiver.receive(&permit, Door::File, trace, body).await;
    let ack = match (reply.ack, reply.later) {
        (None, Some(later)) => later.await,
        (ack, _) => ack,
    };
    let text = ack.map(|ack| String::from_utf8_lossy(&ack).replace('\r', "\n"));
    Ok(Outgoing::no_data(json_draft(&json!({
        "code": reply.code.code(),
        "index": reply.accepted.map(|accepted| accepted.index),
        "duplicate": reply.accepted.is_some_and(|accepted| accepted.duplicate),
        "ack": text,
    }))))
}

async fn products(State(doors): State<Arc<Doors>>, Admin(call): Admin) -> Answer {
    let permit = call.metadata(&doors, &gate::governance(), "product").await?;
    let list = crate::sql::product_list(&doors).await;
    released(&doors, &call, &permit, Action::MetadataRead, "products", &json!({ "products": list })).await
}

async fn build(
    State(doors): State<Arc<Doors>>,
    Path((name, product)): Path<(String, String)>,
    Admin(call): Admin,
) -> Answer {
    let name = domain(&doors, &name)?;
    Ok(crate::sql::build_product(&doors, &call, name, &product).await?)
}

async fn openapi() -> Outgoing {
    Outgoing::no_data(Draft::new(StatusCode::OK, "application/json", include_bytes!("openapi.json").to_vec()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    /// `METHOD path` of every route that a door's router has, read from its source.
    fn routes(source: &str) -> BTreeSet<String> {
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        let mut found = BTreeSet::new();
        for route in code.split(".route(").skip(1) {
            let route = route.split(".with_state(").next().unwrap_or_default();
            let path = route.split('"').nth(1).unwrap_or_default();
            for method in ["get", "post", "put", "patch", "delete"] {
                if route.contains(&format!("{method}(")) {
                    found.insert(format!("{method} {path}"));
                }
            }
        }
        found
    }

    #[test]
    fn openapi_names_every_route_and_no_other() {
        let sources = [
            include_str!("admin.rs"),
            include_str!("admin/audit.rs"),
            include_str!("admin/break_glass.rs"),
            include_str!("admin/keys.rs"),
            include_str!("admin/rights.rs"),
            include_str!("admin/downtime.rs"),
            include_str!("admin/renderings.rs"),
            include_str!("admin/maintenance.rs"),
            include_str!("admin/routes.rs"),
            include_str!("admin/journal.rs"),
            include_str!("admin/shadow.rs"),
            include_str!("admin/sources.rs"),
            include_str!("admin/worklist.rs"),
            include_str!("sql.rs"),
            include_str!("health.rs"),
            include_str!("fhir/mod.rs"),
        ];
        let spoken: BTreeSet<String> = sources.into_iter().flat_map(routes).collect();
        let document: Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
        let mut described = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            let methods = item.as_object().unwrap().keys().filter(|key| *key != "parameters");
            described.extend(methods.map(|method| format!("{method} {path}")));
        }
        assert_eq!(document["openapi"], "3.1.0");
        assert_eq!(described, spoken);
    }
}
