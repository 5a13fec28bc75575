//! Holds, erasures and disposals over the admin API: who asks and who approves is a decision of the gate and a fact of the
//! control log. What each step does is `comply`'s.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use base::{DomainName, Layer, LogicalId, Manage, Permit};
use comply::{Authority, Ground, HoldKind, PortError, RightsError, Statement, Subject, Suspending};
use gate::Access;
use policy::Action;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admin, AdminError, Answer, released};
use crate::doors::{Call, Doors};

/// Recipients that a certificate names; more are counted.
const RECIPIENTS_MAX: usize = 2_000;

pub fn router() -> Router<Arc<Doors>> {
    Router::new()
        .route("/admin/holds", get(holds).post(place))
        .route("/admin/holds/{hold}/lift", post(lift))
        .route("/admin/suspensions", get(suspensions).post(suspend))
        .route("/admin/suspensions/{suspension}/end", post(resume))
        .route("/admin/erasures", get(list).post(request))
        .route("/admin/erasures/finish", post(finish))
        .route("/admin/erasures/{erasure}", get(one))
        .route("/admin/erasures/{erasure}/approve", post(approve))
        .route("/admin/erasures/{erasure}/refuse", post(refuse))
        .route("/admin/retention", get(retention).post(dispose))
}

impl From<RightsError> for AdminError {
    fn from(error: RightsError) -> Self {
        let status = match &error {
            RightsError::Against(_) => StatusCode::CONFLICT,
            RightsError::NotFound(_) => StatusCode::NOT_FOUND,
            RightsError::Refused(_) => StatusCode::FORBIDDEN,
            RightsError::Invalid(_) => StatusCode::BAD_REQUEST,
            RightsError::Estate(_) | RightsError::Facts(_) => {
                return AdminError::broken("the step could not be taken now", error);
            }
        };
        AdminError(status, error.to_string())
    }
}

fn bad(text: &str) -> AdminError {
    AdminError(StatusCode::BAD_REQUEST, text.to_owned())
}

fn read_body<'a, T: Deserialize<'a>>(body: &'a Bytes) -> Result<T, AdminError> {
    serde_json::from_slice(body).map_err(|_| bad("the request is malformed: see /openapi.json"))
}

async fn answer(doors: &Doors, call: &Call, permit: &Permit<Manage>, what: &str, value: &Value) -> Answer {
    released(doors, call, permit, Action::Manage, what, value).await
}

/// May manage `kind` (`hold`, `erasure`, `erasure-approval`, `retention`) of the mesh.
async fn permitted(doors: &Doors, call: &Call, kind: &str) -> Result<Permit<Manage>, AdminError> {
    call.manage(doors, Action::Manage, &gate::governance(), kind).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlaceHold {
    domain: DomainName,
    patient: Option<LogicalId>,
    kind: String,
    reason: String,
}

async fn place(State(doors): State<Arc<Doors>>, Admin(call): Admin, body: Bytes) -> Answer {
    let permit = permitted(&doors, &call, "hold").await?;
    let asked: PlaceHold = read_body(&body)?;
    super::domain(&doors, asked.domain.as_str())?;
    let kind = HoldKind::parse(&asked.kind).ok_or_else(|| bad("kind is legal or patient-request"))?;
    let (patient, by) = (asked.patient.as_ref(), call.caller.principal());
    let hold = doors.rights.place_hold(&*doors.estate, &asked.domain, patient, kind, asked.reason, by).await?;
    answer(&doors, &call, &permit, "hold placed", &json!({ "hold": hold })).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Why {
    reason: String,
}

async fn lift(State(doors): State<Arc<Doors>>, Path(hold): Path<u64>, Admin(call): Admin, body: Bytes) -> Answer {
    let permit = permitted(&doors, &call, "hold").await?;
    doors.rights.lift_hold(hold, read_body::<Why>(&body)?.reason, call.caller.principal()).await?;
    answer(&doors, &call, &permit, "hold lifted", &json!({ "lifted": hold })).await
}

async fn holds(State(doors): State<Arc<Doors>>, Admin(call): Admin) -> Answer {
    let permit = permitted(&doors, &call, "hold").await?;
    let holds: Vec<Value> =
        doors.rights.book().holds.into_iter().map(|(number, hold)| json!({ "hold": number, "what": hold })).collect();
    answer(&doors, &call, &permit, "holds", &json!({ "holds": holds })).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Suspend {
    domain: DomainName,
    patient: LogicalId,
    agency: String,
    authority: Authority,
    statement: Statement,
    official: String,
    /// Last day, `YYYY-MM-DD`, UTC.
    until: String,
}

/// At an agency's statement the patient's accountings leave out for a time what was disclosed to it (45 CFR
/// 164.528(a)(2)).
async fn suspend(State(doors): State<Arc<Doors>>, Admin(call): Admin, body: Bytes) -> Answer {
    let permit = permitted(&doors, &call, "hold").await?;
    let Suspend { domain, patient, agency, authority, statement, official, until } = read_body(&body)?;
    super::domain(&doors, domain.as_str())?;
    let until = super::audit::end_of(&until)?;
    let asked = Suspending { domain, patient, agency, authority, statement, official, until };
    let number = doors.rights.suspend_accounting(&*doors.estate, asked, call.caller.principal()).await?;
    answer(&doors, &call, &permit, "accounting suspended", &json!({ "suspension": number })).await
}

async fn suspensions(State(doors): State<Arc<Doors>>, Admin(call): Admin) -> Answer {
    let permit = permitted(&doors, &call, "hold").await?;
    let now = doors.clock.now();
    let all = doors.rights.book().suspensions.into_iter();
    let all = all.map(|(number, it)| json!({ "suspension": number, "stands": now < it.until, "what": it }));
    let all: Vec<Value> = all.collect();
    answer(&doors, &call, &permit, "suspensions", &json!({ "suspensions": all })).await
}

async fn resume(
    State(doors): State<Arc<Doors>>,
    Path(suspension): Path<u64>,
    Admin(call): Admin,
    body: Bytes,
) -> Answer {
    let permit = permitted(&doors, &call, "hold").await?;
    let reason = read_body::<Why>(&body)?.reason;
    doors.rights.resume_accounting(suspension, reason, call.caller.principal()).await?;
    answer(&doors, &call, &permit, "accounting resumed", &json!({ "ended": suspension })).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestErasure {
    domain: DomainName,
    patient: LogicalId,
    ground: String,
    reason: String,
}

async fn request(State(doors): State<Arc<Doors>>, Admin(call): Admin, body: Bytes) -> Answer {
    let permit = permitted(&doors, &call, "erasure").await?;
    let asked: RequestErasure = read_body(&body)?;
    super::domain(&doors, asked.domain.as_str())?;
    let ground =
        Ground::parse(&asked.ground).ok_or_else(|| bad("ground is patient-request, order or entered-in-error"))?;
    let by = call.caller.principal();
    let rights = &doors.rights;
    let number = rights.request(&*doors.estate, &asked.domain, &asked.patient, ground, asked.reason, by).await?;
    answer(&doors, &call, &permit, "erasure requested", &json!({ "erasure": number })).await
}

async fn list(State(doors): State<Arc<Doors>>, Admin(call): Admin) -> Answer {
    let permit = permitted(&doors, &call, "erasure").await?;
    let book = doors.rights.book();
    let erasures: Vec<_> = book.erasures.values().collect();
    let disposals: Vec<_> = book.disposals.values().collect();
    answer(&doors, &call, &permit, "erasures", &json!({ "erasures": erasures, "disposals": disposals })).await
}

async fn one(State(doors): State<Arc<Doors>>, Path(number): Path<u64>, Admin(call): Admin) -> Answer {
    let permit = permitted(&doors, &call, "erasure").await?;
    let book = doors.rights.book();
    let found = match book.disposals.get(&number) {
        Some(disposal) => json!(disposal),
        None => json!(doors.rights.erasure(number)?),
    };
    answer(&doors, &call, &permit, "erasure", &found).await
}

async fn approve(State(doors): State<Arc<Doors>>, Path(number): Path<u64>, Admin(call): Admin) -> Answer {
    let permit = permitted(&doors, &call, "erasure-approval").await?;
    let disclosed = async |subject: &Subject| disclosed(&doors, &call, subject).await;
    let state = doors.rights.approve(&*doors.estate, number, call.caller.principal(), disclosed).await?;
    answer(&doors, &call, &permit, "erasure approved", &json!({ "erasure": number, "state": state })).await
}

async fn refuse(State(doors): State<Arc<Doors>>, Path(number): Path<u64>, Admin(call): Admin, body: Bytes) -> Answer {
    let permit = permitted(&doors, &call, "erasure-approval").await?;
    doors.rights.refuse(number, call.caller.principal(), read_body::<Why>(&body)?.reason).await?;
    answer(&doors, &call, &permit, "erasure refused", &json!({ "erasure": number, "state": "refused" })).await
}

/// Turns the key epoch now, which makes what is destroyed final.
async fn finish(State(doors): State<Arc<Doors>>, Admin(call): Admin) -> Answer {
    let permit = permitted(&doors, &call, "erasure").await?;
    doors.rights.finish(&*doors.estate).await?;
    answer(&doors, &call, &permit, "erasures finished", &json!({ "finished": true })).await
}

/// Who was given the record, from the audit log, under the approver's own right to read it and on record.
async fn disclosed(doors: &Doors, call: &Call, subject: &Subject) -> Result<Vec<String>, PortError> {
    let failed = |error: &dyn std::fmt::Display| PortError(error.to_string());
    let ask = call.ask(Action::AuditRead, &gate::governance(), Layer::Governance).kind("audit");
    let permit = doors.gate.permit::<base::Read>(&call.caller, ask).await.map_err(|e| failed(&e))?;
    let page = doors.audit.who_saw(&permit, &subject.domain, subject.ordinal).await.map_err(|e| failed(&e))?;
    let access = Access::of(&permit, Action::AuditRead, &call.origin).what("who saw, for an erasure").rows(1);
    let release = doors.gate.release(&call.caller, access).await.map_err(|e| failed(&e))?;
    let page = page.release(release).map_err(|e| failed(&e))?;
    Ok(recipients(&page.lines))
}

/// By recipient, purpose and door: how many answers, the first and the last.
fn recipients(lines: &[gate::AccessLine]) -> Vec<String> {
    let mut known = BTreeMap::<(String, &str, &str), (u64, &str, &str)>::new();
    for line in lines.iter().filter(|line| line.outcome == gate::Outcome::Served.code()) {
        let who = match &line.on_behalf {
            Some(person) => format!("{} on behalf of {person}", line.principal),
            None => line.principal.clone(),
        };
        let seen = known.entry((who, line.purpose.unwrap_or("-"), &line.door)).or_insert((0, &line.at, &line.at));
        *seen = (seen.0 + 1, seen.1, &line.at);
    }
    let more = known.len().saturating_sub(RECIPIENTS_MAX);
    let line = |((who, purpose, door), (n, first, last)): (_, (u64, &str, &str))| {
        let (who, purpose, door): (String, &str, &str) = (who, purpose, door);
        format!("{who} for {purpose} through {door}: {n} answers from {first} to {last}")
    };
    let mut all: Vec<String> = known.into_iter().take(RECIPIENTS_MAX).map(|(key, value)| line((key, value))).collect();
    all.extend((more > 0).then(|| format!("{more} more recipients, who stand in the audit log")));
    all
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Dispose {
    domain: DomainName,
    through: u16,
    reason: String,
}

/// Asks for a disposal; it is approved and refused like an erasure, under its number.
async fn dispose(State(doors): State<Arc<Doors>>, Admin(call): Admin, body: Bytes) -> Answer {
    let permit = permitted(&doors, &call, "retention").await?;
    let asked: Dispose = read_body(&body)?;
    super::domain(&doors, asked.domain.as_str())?;
    let by = call.caller.principal();
    let number = doors.rights.request_disposal(&*doors.estate, &asked.domain, asked.through, asked.reason, by).await?;
    answer(&doors, &call, &permit, "disposal requested", &json!({ "disposal": number })).await
}

/// How many records of each domain had their last entry in which year, and which of them may go.
async fn retention(State(doors): State<Arc<Doors>>, Admin(call): Admin) -> Answer {
    let permit = permitted(&doors, &call, "retention").await?;
    let mut rows = Vec::new();
    for name in doors.domains.keys() {
        rows.extend(doors.rights.retention(&*doors.estate, name).await?);
    }
    answer(&doors, &call, &permit, "retention plan", &json!({ "retention": rows })).await
}
