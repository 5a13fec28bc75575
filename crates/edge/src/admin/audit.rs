//! The audit log over the admin API: pages, who saw a patient, checkpoints, how its targets stand.
//!
//! Reading the audit log is an access itself, and is recorded like one.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use axum::{Extension, Router};
use base::{Layer, LogicalId, Permit, PrincipalId, Read, TraceContext};
use gate::{Access, AuditFilter, Held};
use policy::Action;
use serde::Deserialize;
use serde_json::json;

use super::{AdminError, Answer, domain, json_draft, released};
use crate::doors::{Call, Doors};
use crate::http::Peer;
use crate::outgoing::{Draft, Outgoing};

pub fn router() -> Router<Arc<Doors>> {
    Router::new()
        .route("/admin/audit", get(audit_page))
        .route("/admin/audit/status", get(status))
        .route("/admin/audit/checkpoint/{log}", get(checkpoint))
        .route("/admin/audit/who-saw/{domain}/{patient}", get(who_saw))
}

/// How the targets of the audit log stand. No access is shown, so the administrator may see it too.
async fn status(
    State(doors): State<Arc<Doors>>,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
) -> Answer {
    let call = doors.call("admin", &peer, trace, &headers).await?;
    let permit = call.metadata(&doors, &gate::governance(), "source").await?;
    let status = doors.audit.follower().status().await;
    released(&doors, &call, &permit, Action::MetadataRead, "audit status", &status).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuditQuery {
    last: Option<usize>,
    principal: Option<PrincipalId>,
}

async fn audit_permit(doors: &Doors, call: &Call) -> Result<Permit<Read>, AdminError> {
    let ask = call.ask(Action::AuditRead, &gate::governance(), Layer::Governance).kind("audit");
    Ok(doors.gate.permit::<Read>(&call.caller, ask).await?)
}

/// Reading the audit log is an access itself.
async fn audit_lines(
    doors: &Doors,
    call: &Call,
    permit: &Permit<Read>,
    page: Held<gate::AuditPage>,
    what: &str,
) -> Answer {
    let draft = page.map(|page| {
        json_draft(&json!({ "accesses": page.lines, "unreadable": page.unreadable, "hidden": page.hidden }))
    });
    let access = Access::of(permit, Action::AuditRead, &call.origin).what(what).rows(1);
    let release = doors.gate.release(&call.caller, access).await?;
    Outgoing::data(draft, release).map_err(|error| AdminError::broken("the answer could not be released", error))
}

async fn audit_page(
    State(doors): State<Arc<Doors>>,
    Query(query): Query<AuditQuery>,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
) -> Answer {
    let call = doors.call("admin", &peer, trace, &headers).await?;
    let permit = audit_permit(&doors, &call).await?;
    let filter = AuditFilter { principal: query.principal, ..AuditFilter::default() };
    let last = query.last.unwrap_or(20).min(1_000);
    let page = doors
        .audit
        .newest(&permit, &filter, last)
        .await
        .map_err(|error| AdminError::broken("the audit log cannot be read now", error))?;
    audit_lines(&doors, &call, &permit, page, "audit page").await
}

async fn who_saw(
    State(doors): State<Arc<Doors>>,
    Path((name, patient)): Path<(String, String)>,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
) -> Answer {
    let call = doors.call("admin", &peer, trace, &headers).await?;
    let name = domain(&doors, &name)?;
    let patient = LogicalId::parse(&patient).map_err(|_| AdminError::not_found("patient"))?;
    let permit = audit_permit(&doors, &call).await?;
    let ordinal =
        doors.silver.patient_of(name, "Patient", &patient).await?.ok_or_else(|| AdminError::not_found("patient"))?;
    let page = doors
        .audit
        .who_saw(&permit, name, ordinal)
        .await
        .map_err(|error| AdminError::broken("the audit log cannot be read now", error))?;
    audit_lines(&doors, &call, &permit, page, "who saw a patient").await
}

/// Public: a checkpoint proves, and tells nothing.
async fn checkpoint(State(doors): State<Arc<Doors>>, Path(log): Path<String>) -> Answer {
    let note = doors.operator.checkpoint(&log).ok_or_else(|| AdminError::not_found("log"))?;
    Ok(Outgoing::no_data(Draft::new(StatusCode::OK, "text/plain; charset=utf-8", note.into_bytes())))
}
