//! The one place that turns errors into what a FHIR client sees: a status and an OperationOutcome without PHI.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use fhir::validate::{Issue, operation_outcome};

use crate::outgoing::Draft;

#[derive(Debug)]
pub struct FhirError {
    pub status: StatusCode,
    pub issues: Vec<Issue>,
    pub retry_after_s: Option<u64>,
}

impl FhirError {
    pub fn new(status: StatusCode, code: &'static str, text: impl Into<String>) -> Self {
        FhirError { status, issues: vec![Issue::error(code, "", text)], retry_after_s: None }
    }

    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "there is no such resource here, or none that you may see")
    }

    pub fn busy(retry_after_ms: u64) -> Self {
        FhirError {
            retry_after_s: Some(retry_after_ms.div_ceil(1_000)),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "throttled",
                "the node is busy and has stored nothing: try again",
            )
        }
    }

    /// As an answer that waits for its release like any other.
    pub fn draft(&self) -> Draft {
        Draft::new(self.status, super::FHIR_JSON, fhir::json::to_vec(&operation_outcome(&self.issues)))
    }

    pub fn unavailable(text: &'static str) -> Self {
        FhirError { retry_after_s: Some(1), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "transient", text) }
    }
}

impl From<fhir::json::JsonError> for FhirError {
    fn from(error: fhir::json::JsonError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "structure", error.to_string())
    }
}

impl From<store::StoreError> for FhirError {
    fn from(error: store::StoreError) -> Self {
        match error {
            store::StoreError::NotCovered(_) => Self::not_found(),
            store::StoreError::Unsupported { .. } => {
                Self::new(StatusCode::BAD_REQUEST, "not-supported", error.to_string())
            }
            store::StoreError::TooMany { .. } => Self::new(StatusCode::BAD_REQUEST, "too-costly", error.to_string()),
            store::StoreError::BadCursor => Self::new(StatusCode::BAD_REQUEST, "value", error.to_string()),
            other => {
                tracing::error!(error = %other, "the store failed a FHIR request");
                Self::unavailable("the store cannot answer now: try again")
            }
        }
    }
}

impl From<clinical::WriteError> for FhirError {
    fn from(error: clinical::WriteError) -> Self {
        match error {
            clinical::WriteError::Intake(clinical::IntakeError::Busy { retry_after_ms }) => Self::busy(retry_after_ms),
            clinical::WriteError::Intake(error @ clinical::IntakeError::KeyReused) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "duplicate", error.to_string())
            }
            clinical::WriteError::NotYetApplied { .. } => FhirError {
                retry_after_s: Some(2),
                ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "transient", error.to_string())
            },
            clinical::WriteError::OutcomeGone { .. } => Self::new(StatusCode::GONE, "processing", error.to_string()),
            other => {
                tracing::error!(error = %other, "a FHIR write failed");
                Self::unavailable("the write could not be stored: send it again")
            }
        }
    }
}

impl From<gate::Unauthenticated> for FhirError {
    fn from(error: gate::Unauthenticated) -> Self {
        let status = crate::http::status_of_stranger(error);
        let code = if status == StatusCode::UNAUTHORIZED { "login" } else { "transient" };
        Self::new(status, code, error.to_string())
    }
}

impl From<gate::Refusal> for FhirError {
    fn from(refusal: gate::Refusal) -> Self {
        let code = match refusal.kind {
            gate::RefusalKind::Forbidden => "forbidden",
            gate::RefusalKind::Expired => "expired",
            gate::RefusalKind::Invalid => "invalid",
            gate::RefusalKind::Unavailable => "transient",
        };
        Self::new(crate::http::status_of(&refusal), code, refusal.to_string())
    }
}

impl From<gate::NotReleased> for FhirError {
    fn from(error: gate::NotReleased) -> Self {
        tracing::error!(%error, "an answer was not released");
        Self::unavailable("the answer could not be released: try again")
    }
}

impl IntoResponse for FhirError {
    fn into_response(self) -> Response {
        let body = fhir::json::to_vec(&operation_outcome(&self.issues));
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(super::FHIR_JSON));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
