//! The FHIR door: R4 over HTTP, one base URL per domain (`/fhir/{domain}`).
//!
//! Every request: authenticate → permit → store under the permit → record → release. Query strings hold PHI and never
//! leave this module: not into logs, traces, metrics, errors or the audit record (which keeps a keyed hash).

mod audit_event;
mod bundle_reads;
mod capability;
mod compartment;
mod error;
mod history;
mod mask;
mod merged;
mod operation;
mod prefer;
mod read;
mod search;
mod subset;
mod unless;
mod write;
mod writing;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, header};
use axum::routing::{get, post};

pub use self::error::FhirError;
pub use self::mask::ShowMasked;
use crate::doors::Doors;
use crate::outgoing::{Draft, Outgoing};

pub const FHIR_JSON: &str = "application/fhir+json; charset=utf-8";

pub type Answer = Result<Outgoing, FhirError>;

pub fn router(doors: Arc<Doors>) -> Router {
    let body_max = doors.limits.fhir_body_bytes_max;
    Router::new()
        .route("/fhir/{domain}", post(write::bundle))
        .route("/fhir/{domain}/metadata", get(metadata))
        .route("/fhir/{domain}/AuditEvent", get(audit_event::get).fallback(audit_event::refuse))
        .route("/fhir/{domain}/AuditEvent/_search", post(audit_event::post))
        .route("/fhir/{domain}/AuditEvent/{id}", get(audit_event::read).fallback(audit_event::refuse))
        .route(
            "/fhir/{domain}/{rtype}",
            get(search::get)
                .post(write::create)
                .put(write::update_where)
                .patch(write::patch_where)
                .delete(write::delete_where),
        )
        .route("/fhir/{domain}/{rtype}/_search", post(search::post))
        .route(
            "/fhir/{domain}/{rtype}/{id}",
            get(operation::read_or_get)
                .post(operation::post_of_type)
                .put(write::update)
                .patch(write::patch)
                .delete(write::delete),
        )
        .route("/fhir/{domain}/_history", get(history::system))
        .route("/fhir/{domain}/{rtype}/_history", get(history::of_type))
        .route("/fhir/{domain}/{rtype}/{id}/_history", get(history::instance))
        .route("/fhir/{domain}/{rtype}/{id}/_history/{version}", get(read::vread))
        .route("/fhir/{domain}/{rtype}/{id}/{member}", get(compartment::get).post(operation::post_of_instance))
        .route("/fhir/{domain}/{rtype}/{id}/{member}/_search", post(compartment::post))
        .layer(DefaultBodyLimit::max(body_max))
        .with_state(doors)
}

/// Open to all: it says what the server can do and nothing about anybody.
async fn metadata(State(doors): State<Arc<Doors>>, Path(domain): Path<String>) -> Answer {
    let (name, _) = doors.domain(&domain).ok_or_else(FhirError::not_found)?;
    let base = format!("{}/fhir/{name}", doors.info.base_url);
    let statement = capability::statement(&base, &doors.info.started.to_string(), doors.info.version);
    let body = fhir::json::to_vec(&statement);
    Ok(Outgoing::no_data(Draft::new(StatusCode::OK, FHIR_JSON, body).with(header::CACHE_CONTROL, "max-age=60")))
}

/// Unknown types are a 404 by the specification; the text names no input.
fn known_type(rtype: &str) -> Result<&str, FhirError> {
    if fhir::definitions::resource_type(rtype).is_some() {
        Ok(rtype)
    } else {
        Err(FhirError::new(StatusCode::NOT_FOUND, "not-supported", "this is no resource type of FHIR R4"))
    }
}
