//! Break-glass over the admin API: ask, confirm, end; list and review for privacy officers.
//!
//! Its answers hold no patient's data. The session goes into `X-Break-Glass` of a FHIR or SQL request afterwards. What
//! is decided is decided in `gate::emergency`; reasons are read from bodies and never from URLs.

use gate::{Category, EmergencyPass, EmergencyRequest, REVIEWS, Verdict};

use super::*;

pub fn routes() -> Router<Arc<Doors>> {
    Router::new()
        .route("/admin/break-glass", get(list).post(request))
        .route("/admin/break-glass/{session}/confirm", post(confirm))
        .route("/admin/break-glass/{session}/end", post(end))
        .route("/admin/break-glass/{session}/review", post(review))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    domain: String,
    /// Id of the Patient resource.
    patient: String,
    category: String,
    reason: String,
}

/// Errors of a body name its shape only: its reason can name a patient.
pub(super) fn body_of<T: serde::de::DeserializeOwned>(body: &Bytes, shape: &'static str) -> Result<T, AdminError> {
    // serde would take a list for a struct, its items in the order of the fields.
    let is_object = body.trim_ascii_start().starts_with(b"{");
    let parsed = is_object.then(|| serde_json::from_slice(body).ok()).flatten();
    parsed.ok_or_else(|| AdminError(StatusCode::BAD_REQUEST, format!("the body must be {shape}")))
}

fn told(status: StatusCode, pass: &EmergencyPass) -> Outgoing {
    let mut draft = json_draft(pass);
    draft.status = status;
    Outgoing::no_data(draft)
}

async fn request(State(doors): State<Arc<Doors>>, Admin(call): Admin, body: Bytes) -> Answer {
    let request: Request = body_of(&body, r#"{"domain", "patient", "category", "reason"}"#)?;
    let domain = domain(&doors, &request.domain)?.clone();
    let resource = LogicalId::parse(&request.patient).map_err(|_| AdminError::not_found("patient"))?;
    let category = Category::parse(&request.category).ok_or_else(|| {
        let codes: Vec<_> = Category::CODES.iter().map(|(code, _)| *code).collect();
        AdminError(StatusCode::BAD_REQUEST, format!("the category must be one of {}", codes.join(", ")))
    })?;
    let patient = doors.silver.patient_of(&domain, "Patient", &resource).await?;
    let patient = patient.filter(|p| p.is_patient()).ok_or_else(|| AdminError::not_found("patient"))?;
    let wanted = EmergencyRequest { domain, patient, resource, category, reason: request.reason };
    let pass = doors.gate.request_emergency(&call.caller, wanted, &call.origin).await?;
    Ok(told(StatusCode::ACCEPTED, &pass))
}

async fn confirm(State(doors): State<Arc<Doors>>, Path(session): Path<String>, Admin(call): Admin) -> Answer {
    let pass = doors.gate.confirm_emergency(&call.caller, &session, &call.origin).await?;
    Ok(told(StatusCode::CREATED, &pass))
}

async fn end(State(doors): State<Arc<Doors>>, Path(session): Path<String>, Admin(call): Admin) -> Answer {
    let pass = doors.gate.end_emergency(&call.caller, &session, &call.origin).await?;
    Ok(told(StatusCode::OK, &pass))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// Reviewed ones too.
    #[serde(default)]
    all: bool,
}

async fn list(State(doors): State<Arc<Doors>>, Query(query): Query<ListQuery>, Admin(call): Admin) -> Answer {
    let permit = call.metadata(&doors, &gate::governance(), REVIEWS).await?;
    let held = doors.gate.emergencies_of(&permit, !query.all).await?;
    let mut rows = 0;
    let held = held.map(|lines| {
        rows = lines.len() as u64;
        json_draft(&json!({ "sessions": lines }))
    });
    let access = Access::of(&permit, Action::MetadataRead, &call.origin).what("break-glass sessions").rows(rows);
    release(&doors, &call, held, access).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Review {
    verdict: Verdict,
    note: String,
}

async fn review(
    State(doors): State<Arc<Doors>>,
    Path(session): Path<String>,
    Admin(call): Admin,
    body: Bytes,
) -> Answer {
    let review: Review = body_of(&body, r#"{"verdict": "justified" or "not-justified", "note"}"#)?;
    let permit = call.manage(&doors, Action::Manage, &gate::governance(), REVIEWS).await?;
    let session = doors.gate.review_emergency(&permit, &session, review.verdict, &review.note).await?;
    released(
        &doors,
        &call,
        &permit,
        Action::Manage,
        format!("break-glass review {session}"),
        &json!({ "session": session, "verdict": review.verdict }),
    )
    .await
}
