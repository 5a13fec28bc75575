//! The audit log over the admin API: pages, who saw a patient, the accounting of disclosures, checkpoints, how its
//! targets stand.
//!
//! Reading the audit log is an access itself, and is recorded like one.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use base::{DomainName, Layer, LogicalId, Ordinal, Permit, PrincipalId, Read, Timestamp};
use gate::{Access, AuditFilter, AuditPage, Held, Paper, Period};
use policy::Action;
use serde::Deserialize;
use serde_json::json;

use super::{Admin, AdminError, Answer, domain, json_draft, release, released};
use crate::doors::{Call, Doors};
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
async fn status(State(doors): State<Arc<Doors>>, Admin(call): Admin) -> Answer {
    let permit = call.metadata(&doors, &gate::governance(), "source").await?;
    let status = doors.audit.follower().status().await;
    released(&doors, &call, &permit, Action::MetadataRead, "audit status", &status).await
}

/// Ends the retention of records whose six years are over: their keys are destroyed.
async fn expire(State(doors): State<Arc<Doors>>, Admin(call): Admin) -> Answer {
    let permit = call.manage(&doors, Action::Manage, &gate::governance(), "retention").await?;
    let (before, scopes) = doors
        .audit
        .follower()
        .expire()
        .await
        .map_err(|error| AdminError::broken("keys could not be destroyed now", error))?;
    released(
        &doors,
        &call,
        &permit,
        Action::Manage,
        "audit retention",
        &json!({ "years_before": before, "scopes_destroyed": scopes }),
    )
    .await
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
async fn read(doors: &Doors, call: &Call, permit: &Permit<Read>, draft: Held<Draft>, what: &str) -> Answer {
    release(doors, call, draft, Access::of(permit, Action::AuditRead, &call.origin).what(what).rows(1)).await
}

async fn audit_page(State(doors): State<Arc<Doors>>, Query(query): Query<AuditQuery>, Admin(call): Admin) -> Answer {
    let permit = audit_permit(&doors, &call).await?;
    let filter = AuditFilter { principal: query.principal, ..AuditFilter::default() };
    let last = query.last.unwrap_or(20).min(1_000);
    let page = doors.audit.newest(&permit, &filter, last).await.map_err(unreadable)?;
    read(&doors, &call, &permit, page.map(page_draft), "audit page").await
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
        let until = self.to.as_deref().map(end_of).transpose()?;
        Ok(Period { since, until })
    }
}

const DAY_MS: i64 = 86_400_000;

/// The end of a day.
pub(super) fn end_of(text: &str) -> Result<Timestamp, AdminError> {
    Ok(day(text)?.plus_ms(DAY_MS))
}

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
    permit: Permit<Read>,
    domain: &'a DomainName,
    /// All records of the person: those that were merged are one.
    patients: Vec<Ordinal>,
}

async fn about<'a>(doors: &'a Doors, call: &Call, (name, patient): (String, String)) -> Result<About<'a>, AdminError> {
    let domain = domain(doors, &name)?;
    let patient = LogicalId::parse(&patient).map_err(|_| AdminError::not_found("patient"))?;
    let permit = audit_permit(doors, call).await?;
    let own =
        doors.silver.patient_of(domain, "Patient", &patient).await?.ok_or_else(|| AdminError::not_found("patient"))?;
    let mut patients = vec![own];
    for (id, ordinal) in doors.patients.family(domain, &patient).into_iter().skip(1) {
        let ordinal = match ordinal {
            Some(ordinal) => Some(ordinal),
            None => doors.silver.patient_of(domain, "Patient", &id).await?,
        };
        patients.extend(ordinal.filter(|ordinal| *ordinal != own));
    }
    Ok(About { permit, domain, patients })
}

impl About<'_> {
    /// Agencies whose disclosures a patient is not told of now.
    fn suspended(&self, doors: &Doors) -> Vec<String> {
        let (book, now) = (doors.rights.book(), doors.clock.now());
        self.patients.iter().flat_map(|patient| book.suspended(self.domain, *patient, now)).collect()
    }
}

fn unreadable(error: gate::AuditReadError) -> AdminError {
    AdminError::broken("the audit log cannot be read now", error)
}

async fn who_saw(
    State(doors): State<Arc<Doors>>,
    Path(path): Path<(String, String)>,
    Query(query): Query<ReportQuery>,
    Admin(call): Admin,
) -> Answer {
    let about = about(&doors, &call, path).await?;
    let About { permit, domain, patients } = &about;
    let period = query.period()?;
    let draft = match query.form.paper() {
        None => {
            doors.audit.who_saw_between(permit, domain, patients, period).await.map_err(unreadable)?.map(page_draft)
        }
        Some((paper, media_type)) => {
            let suspended = about.suspended(&doors);
            let text = doors.audit.who_saw_on(permit, domain, patients, period, &suspended, paper).await;
            let text = text.map_err(unreadable)?;
            text.map(|text| Draft::new(StatusCode::OK, media_type, text.into_bytes()))
        }
    };
    read(&doors, &call, permit, draft, "who saw a patient").await
}

async fn disclosures(
    State(doors): State<Arc<Doors>>,
    Path(path): Path<(String, String)>,
    Query(query): Query<ReportQuery>,
    Admin(call): Admin,
) -> Answer {
    let about = about(&doors, &call, path).await?;
    let (suspended, period) = (about.suspended(&doors), query.period()?);
    let accounting = doors.audit.accounting(&about.permit, about.domain, &about.patients, period, &suspended).await;
    let draft = accounting.map_err(unreadable)?.map(|accounting| match query.form.paper() {
        None => json_draft(&accounting),
        Some((paper, media_type)) => {
            let text = gate::print_accounting(&accounting, paper);
            Draft::new(StatusCode::OK, media_type, text.into_bytes())
        }
    });
    read(&doors, &call, &about.permit, draft, "accounting of disclosures").await
}

/// Public: a checkpoint proves, and tells nothing.
async fn checkpoint(State(doors): State<Arc<Doors>>, Path(log): Path<String>) -> Answer {
    let note = doors.operator.checkpoint(&log).ok_or_else(|| AdminError::not_found("log"))?;
    Ok(Outgoing::no_data(Draft::new(StatusCode::OK, "text/plain; charset=utf-8", note.into_bytes())))
}
