//! The audit log over the admin API: pages, who saw a patient, the accounting of disclosures, checkpoints, how its
//! targets stand.
//!
//! Reading the audit log is an access itself, and is recorded like one.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Extension, Router};
use base::{DomainName, Layer, LogicalId, Ordinal, Permit, PrincipalId, Read, Timestamp, TraceContext};
use gate::{Access, AuditFilter, AuditPage, Held, Paper, Period};
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
        .route("/admin/audit/expire", post(expire))
        .route("/admin/audit/checkpoint/{log}", get(checkpoint))
        .route("/admin/audit/who-saw/{domain}/{patient}", get(who_saw))
        .route("/admin/audit/disclosures/{domain}/{patient}", get(disclosures))
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

/// Ends the retention of records whose six years are over: their keys are destroyed.
async fn expire(
    State(doors): State<Arc<Doors>>,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
) -> Answer {
    let call = doors.call("admin", &peer, trace, &headers).await?;
    let permit = call.manage(&doors, Action::Manage, &gate::governance(), "retention").await?;
    let (before, scopes) = doors
        .audit
        .follower()
        .expire()
        .await
        .map_err(|error| AdminError::broken("keys could not be destroyed now", error))?;
    let held = Held::under(&permit, json_draft(&json!({ "years_before": before, "scopes_destroyed": scopes })));
    let access = Access::of(&permit, Action::Manage, &call.origin).what("audit retention").rows(1);
    let release = doors.gate.release(&call.caller, access).await?;
    Outgoing::data(held, release).map_err(|error| AdminError::broken("the answer could not be released", error))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuditQuery {
    last: Option<usize>,
    principal: Option<PrincipalId>,
}

pub(super) async fn audit_permit(doors: &Doors, call: &Call) -> Result<Permit<Read>, AdminError> {
    let ask = call.ask(Action::AuditRead, &gate::governance(), Layer::Governance).kind("audit");
    Ok(doors.gate.permit::<Read>(&call.caller, ask).await?)
}

fn page_draft(page: AuditPage) -> Draft {
    let (lines, unreadable, hidden) = (page.lines, page.unreadable, page.hidden);
    json_draft(&json!({ "accesses": lines, "unreadable": unreadable, "hidden": hidden }))
}

/// Reading the audit log is an access itself.
async fn audit_lines(doors: &Doors, call: &Call, permit: &Permit<Read>, page: Held<AuditPage>, what: &str) -> Answer {
    let draft = page.map(page_draft);
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
    let page = doors.audit.newest(&permit, &filter, last).await.map_err(unreadable)?;
    audit_lines(&doors, &call, &permit, page, "audit page").await
}

/// The period and the form of a patient's report.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReportQuery {
    /// First day, `YYYY-MM-DD`, UTC.
    from: Option<String>,
    /// Last day.
    to: Option<String>,
    #[serde(rename = "as", default)]
    form: Form,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Form {
    #[default]
    Json,
    Text,
    Html,
}

impl Form {
    fn paper(self) -> Option<(Paper, &'static str)> {
        match self {
            Form::Json => None,
            Form::Text => Some((Paper::Text, "text/plain; charset=utf-8")),
            Form::Html => Some((Paper::Html, "text/html; charset=utf-8")),
        }
    }
}

impl ReportQuery {
    fn period(&self) -> Result<Period, AdminError> {
        let since = self.from.as_deref().map(day).transpose()?;
        let until = self.to.as_deref().map(day).transpose()?.map(|day| day.plus_ms(DAY_MS));
        Ok(Period { since, until })
    }
}

const DAY_MS: i64 = 86_400_000;

fn day(text: &str) -> Result<Timestamp, AdminError> {
    let mut parts = text.splitn(3, '-').map(|part| part.parse::<u32>().ok());
    let mut next = || parts.next().flatten();
    match (next(), next(), next()) {
        (Some(year), Some(month), Some(day)) if year < 10_000 && base::time::is_date(year as i32, month, day) => {
            Ok(Timestamp(base::time::days_from_civil(year as i32, month, day) * DAY_MS))
        }
        _ => Err(AdminError(StatusCode::BAD_REQUEST, "a day is written as YYYY-MM-DD".to_owned())),
    }
}

/// What a question about one patient is asked with.
struct About<'a> {
    call: Call,
    permit: Permit<Read>,
    domain: &'a DomainName,
    patient: Ordinal,
}

async fn about<'a>(
    doors: &'a Doors,
    (name, patient): (String, String),
    peer: &Peer,
    trace: TraceContext,
    headers: &HeaderMap,
) -> Result<About<'a>, AdminError> {
    let call = doors.call("admin", peer, trace, headers).await?;
    let domain = domain(doors, &name)?;
    let patient = LogicalId::parse(&patient).map_err(|_| AdminError::not_found("patient"))?;
    let permit = audit_permit(doors, &call).await?;
    let patient =
        doors.silver.patient_of(domain, "Patient", &patient).await?.ok_or_else(|| AdminError::not_found("patient"))?;
    Ok(About { call, permit, domain, patient })
}

impl About<'_> {
    /// Reading the audit log is an access itself, and it is about this patient.
    async fn released(&self, doors: &Doors, draft: Held<Draft>, what: &str) -> Answer {
        let access = Access::of(&self.permit, Action::AuditRead, &self.call.origin).what(what).rows(1);
        let release = doors.gate.release(&self.call.caller, access).await?;
        Outgoing::data(draft, release).map_err(|error| AdminError::broken("the answer could not be released", error))
    }
}

fn unreadable(error: gate::AuditReadError) -> AdminError {
    AdminError::broken("the audit log cannot be read now", error)
}

async fn who_saw(
    State(doors): State<Arc<Doors>>,
    Path(path): Path<(String, String)>,
    Query(query): Query<ReportQuery>,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
) -> Answer {
    let about = about(&doors, path, &peer, trace, &headers).await?;
    let About { permit, domain, patient, .. } = &about;
    let period = query.period()?;
    let draft = match query.form.paper() {
        None => {
            doors.audit.who_saw_between(permit, domain, *patient, period).await.map_err(unreadable)?.map(page_draft)
        }
        Some((paper, media_type)) => {
            let text = doors.audit.who_saw_on(permit, domain, *patient, period, paper).await.map_err(unreadable)?;
            text.map(|text| Draft::new(StatusCode::OK, media_type, text.into_bytes()))
        }
    };
    about.released(&doors, draft, "who saw a patient").await
}

async fn disclosures(
    State(doors): State<Arc<Doors>>,
    Path(path): Path<(String, String)>,
    Query(query): Query<ReportQuery>,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
) -> Answer {
    let about = about(&doors, path, &peer, trace, &headers).await?;
    let accounting = doors.audit.accounting(&about.permit, about.domain, about.patient, query.period()?).await;
    let draft = accounting.map_err(unreadable)?.map(|accounting| match query.form.paper() {
        None => json_draft(&accounting),
        Some((paper, media_type)) => {
            let text = gate::print_accounting(&accounting, paper);
            Draft::new(StatusCode::OK, media_type, text.into_bytes())
        }
    });
    about.released(&doors, draft, "accounting of disclosures").await
}

/// Public: a checkpoint proves, and tells nothing.
async fn checkpoint(State(doors): State<Arc<Doors>>, Path(log): Path<String>) -> Answer {
    let note = doors.operator.checkpoint(&log).ok_or_else(|| AdminError::not_found("log"))?;
    Ok(Outgoing::no_data(Draft::new(StatusCode::OK, "text/plain; charset=utf-8", note.into_bytes())))
}
