//! `/healthz` (the process lives), `/readyz` (it can do its work), `/metrics` (Prometheus text; figures, never PHI).

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;

use crate::doors::Doors;
use crate::outgoing::{Draft, Outgoing};

const TEXT: &str = "text/plain; charset=utf-8";

pub fn router(doors: Arc<Doors>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { Outgoing::no_data(Draft::new(StatusCode::OK, TEXT, b"ok\n".to_vec())) }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(doors)
}

/// Ready while no domain lags beyond the mark at which its doors answer busy.
async fn ready(State(doors): State<Arc<Doors>>) -> Outgoing {
    let behind: Vec<String> = doors
        .domains
        .iter()
        .filter(|(name, parts)| {
            let applied = *doors.silver.applied(name).borrow();
            parts.intake.journal().log().size().saturating_sub(applied) > doors.limits.refine_lag_max
        })
        .map(|(name, _)| name.to_string())
        .collect();
    let (status, text) = if behind.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("refine is behind in {}\n", behind.join(", ")))
    };
    Outgoing::no_data(Draft::new(status, TEXT, text.into_bytes()))
}

async fn metrics(State(doors): State<Arc<Doors>>) -> Outgoing {
    let mut gauges = doors.operator.gauges();
    gauges.extend(crate::admin::sources::gauges(&doors).await);
    for (name, parts) in &doors.domains {
        let size = parts.intake.journal().log().size();
        let applied = *doors.silver.applied(name).borrow();
        gauges.push(("ward_journal_entries", format!("domain=\"{name}\""), size));
        gauges.push(("ward_refine_lag_entries", format!("domain=\"{name}\""), size.saturating_sub(applied)));
    }
    let text = doors.metrics.render(&gauges);
    Outgoing::no_data(Draft::new(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text.into_bytes()))
}
