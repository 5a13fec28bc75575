//! Holds and erasures over the admin API: who asks and who approves is a decision of the gate and a fact of the control
//! log. What each step does is `comply`'s.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Extension, Router};
use base::{DomainName, Layer, LogicalId, Manage, Permit, TraceContext};
use comply::{Ground, HoldKind, PortError, RightsError, Subject};
use gate::{Access, Held};
use policy::Action;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admin::{AdminError, Answer, json_draft};
use crate::doors::{Call, Doors};
use crate::http::Peer;
use crate::outgoing::Outgoing;

pub fn router(doors: Arc<Doors>) -> Router {
    Router::new()
        .route("/admin/holds", get(holds).post(place))
        .route("/admin/holds/{hold}/lift", post(lift))
        .route("/admin/erasures", get(list).post(request))
        .route("/admin/erasures/{erasure}", get(one))
        .route("/admin/erasures/{erasure}/{step}", post(step))
        .with_state(doors)
}

impl From<RightsError> for AdminError {
    fn from(error: RightsError) -> Self {
        let status = match &error {
            RightsError::Against(_) => StatusCode::CONFLICT,
            RightsError::NotFound(_) => StatusCode::NOT_FOUND,
            RightsError::Refused(_) => StatusCode::FORBIDDEN,
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

async fn answer(doors: &Doors, call: &Call, permit: &Permit<Manage>, what: String, value: &Value) -> Answer {
    let held = Held::under(permit, json_draft(value));
    let access = Access::of(permit, Action::Manage, &call.origin).what(what).rows(1);
    let release = doors.gate.release(&call.caller, access).await?;
    Outgoing::data(held, release).map_err(|error| AdminError::broken("the answer could not be released", error))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlaceHold {
    domain: DomainName,
    patient: Option<LogicalId>,
    kind: String,
    reason: String,
}

async fn place(
    State(doors): State<Arc<Doors>>,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let call = doors.call("admin", &peer, trace, &headers).await?;
    let permit = call.manage(&doors, Action::Manage, &gate::governance(), "hold").await?;
    let asked: PlaceHold = read_body(&body)?;
    let kind = HoldKind::parse(&asked.kind).ok_or_else(|| bad("kind is legal or patient-request"))?;
    let by = call.caller.principal();
    let hold =
        doors.rights.place_hold(&*doors.estate, &asked.domain, asked.patient.as_ref(), kind, asked.reason, by).await?;
    answer(&doors, &call, &permit, "hold placed".into(), &json!({ "hold": hold })).await
}

async fn lift(
    State(doors): State<Arc<Doors>>,
    Path(hold): Path<u64>,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
) -> Answer {
    let call = doors.call("admin", &peer, trace, &headers).await?;
    let permit = call.manage(&doors, Action::Manage, &gate::governance(), "hold").await?;
    doors.rights.lift_hold(hold, call.caller.principal()).await?;
    answer(&doors, &call, &permit, "hold lifted".into(), &json!({ "lifted": hold })).await
}

async fn holds(
    State(doors): State<Arc<Doors>>,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
) -> Answer {
    let call = doors.call("admin", &peer, trace, &headers).await?;
    let permit = call.manage(&doors, Action::Manage, &gate::governance(), "hold").await?;
    let holds: Vec<Value> =
        doors.rights.book().holds.into_iter().map(|(number, hold)| json!({ "hold": number, "what": hold })).collect();
    answer(&doors, &call, &permit, "holds".into(), &json!({ "holds": holds })).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestErasure {
    domain: DomainName,
    patient: LogicalId,
    ground: String,
    reason: String,
}

async fn request(
    State(doors): State<Arc<Doors>>,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let call = doors.call("admin", &peer, trace, &headers).await?;
    let permit = call.manage(&doors, Action::Manage, &gate::governance(), "erasure").await?;
    let asked: RequestErasure = read_body(&body)?;
    let ground =
        Ground::parse(&asked.ground).ok_or_else(|| bad("ground is patient-request, order or entered-in-error"))?;
    let by = call.caller.principal();
    let rights = &doors.rights;
    let number = rights.request(&*doors.estate, &asked.domain, &asked.patient, ground, asked.reason, by).await?;
    answer(&doors, &call, &permit, "erasure requested".into(), &json!({ "erasure": number })).await
}

async fn list(
    State(doors): State<Arc<Doors>>,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
) -> Answer {
    let call = doors.call("admin", &peer, trace, &headers).await?;
    let permit = call.manage(&doors, Action::Manage, &gate::governance(), "erasure").await?;
    let all: Vec<_> = doors.rights.book().erasures.into_values().collect();
    answer(&doors, &call, &permit, "erasures".into(), &json!({ "erasures": all })).await
}

async fn one(
    State(doors): State<Arc<Doors>>,
    Path(number): Path<u64>,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
) -> Answer {
    let call = doors.call("admin", &peer, trace, &headers).await?;
    let permit = call.manage(&doors, Action::Manage, &gate::governance(), "erasure").await?;
    let erasure = doors.rights.erasure(number)?;
    answer(&doors, &call, &permit, "erasure".into(), &json!(erasure)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Why {
    reason: String,
}

/// `approve`, `refuse`, or `finish`: the turn of the key epoch that makes it final now.
async fn step(
    State(doors): State<Arc<Doors>>,
    Path((number, step)): Path<(u64, String)>,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let call = doors.call("admin", &peer, trace, &headers).await?;
    let permit = call.manage(&doors, Action::Manage, &gate::governance(), "erasure").await?;
    let by = call.caller.principal();
    let state = match step.as_str() {
        "approve" => {
            let disclosed = async |subject: &Subject| disclosed(&doors, &call, subject).await;
            json!(doors.rights.approve(&*doors.estate, number, by, disclosed).await?)
        }
        "refuse" => {
            doors.rights.refuse(number, by, read_body::<Why>(&body)?.reason).await?;
            json!("refused")
        }
        "finish" => json!(doors.rights.finish(&*doors.estate, number).await?),
        _ => return Err(AdminError(StatusCode::NOT_FOUND, "a step is approve, refuse or finish".into())),
    };
    answer(&doors, &call, &permit, format!("erasure: {step}"), &json!({ "erasure": number, "state": state })).await
}

/// Who was given the record, from the audit log, under the approver's own right to read it and on record.
async fn disclosed(doors: &Doors, call: &Call, subject: &Subject) -> Result<Vec<String>, PortError> {
    let failed = |error: &dyn std::fmt::Display| PortError(error.to_string());
    let ask = call.ask(Action::AuditRead, &gate::governance(), Layer::Governance).kind("audit");
    let permit = doors.gate.permit::<base::Read>(&call.caller, ask).await.map_err(|e| failed(&e))?;
    let page = doors.audit.who_saw(&permit, &subject.domain, subject.ordinal, None, 0).await.map_err(|e| failed(&e))?;
    let access = Access::of(&permit, Action::AuditRead, &call.origin).what("who saw, for an erasure").rows(1);
    let release = doors.gate.release(&call.caller, access).await.map_err(|e| failed(&e))?;
    let page = page.release(release).map_err(|e| failed(&e))?;
    let mut counts = std::collections::BTreeMap::<(String, String), u64>::new();
    for line in page.lines.iter().filter(|line| line.outcome == gate::Outcome::Served.code()) {
        *counts.entry((line.principal.clone(), line.door.clone())).or_default() += 1;
    }
    Ok(counts.into_iter().map(|((who, door), n)| format!("{who} through {door}, {n} answers")).collect())
}
