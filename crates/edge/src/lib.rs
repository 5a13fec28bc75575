//! Every door of a node: MLLP, FHIR, SQL over HTTP, the admin API, health and metrics.
//!
//! A door reads a protocol, asks the gate, calls what lies below under the permit, and answers only what the gate has
//! released. Errors become a protocol's own in one place per protocol. Never decides, never stores.

mod admin;
mod doors;
pub mod fhir;
mod health;
mod http;
mod metrics;
mod mllp;
mod outgoing;
mod query;
mod silence;
mod sql;

use std::sync::Arc;

use axum::Router;

pub use admin::keys::{KeyDesk, Rotation};
pub use admin::maintenance::{Job, JobState, Maintenance};
pub use admin::{AdminError, DowntimeDesk, Expiry, JournalDesk, Made, Packed, make_pack};
pub use doors::{Call, DomainDoors, Doors, NodeInfo, Operator, OperatorError, TokenPurpose};
pub use fhir::ShowMasked;
pub use http::{Peer, serve, serve_io};
pub use metrics::Metrics;
pub use mllp::{MllpDoor, Pace};
pub use outgoing::{Draft, Outgoing};
pub use query::QueryDesk;
pub use silence::SilenceWatch;

/// All HTTP doors of a node.
pub fn router(doors: Arc<Doors>) -> Router {
    let router = Router::new()
        .merge(fhir::router(doors.clone()))
        .merge(sql::router(doors.clone()))
        .merge(admin::router(doors.clone()))
        .merge(health::router(doors.clone()));
    http::with_common(router, doors.entropy.clone(), doors.limits.clone(), doors.metrics.clone())
}
