//! Routes: how far each is, what its receiver refused, and a person's word on how to go on.
//!
//! Figures, positions and codes; never content. Changing anything is open over the node's own socket only.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use policy::Action;
use relay::{WorkError, Worker};
use serde::Deserialize;
use serde_json::{Value, json};

use super::break_glass::body_of;
use super::{Admin, AdminError, Answer, Local, released};
use crate::doors::Doors;

pub fn router() -> Router<Arc<Doors>> {
    Router::new()
        .route("/admin/routes", get(list))
        .route("/admin/routes/{domain}/{route}/dead-letters", get(dead_letters))
        .route("/admin/routes/{domain}/{route}/dead-letters/{position}/send", post(send_again))
        .route("/admin/routes/{domain}/{route}/begin", post(begin))
}

fn find<'a>(doors: &'a Doors, domain: &str, route: &str) -> Result<&'a Arc<Worker>, AdminError> {
    let is_it = |worker: &&Arc<Worker>| worker.domain().as_str() == domain && worker.name().as_str() == route;
    doors.routes.iter().find(is_it).ok_or_else(|| AdminError::not_found("route"))
}

async fn list(State(doors): State<Arc<Doors>>, Admin(call): Admin) -> Answer {
    let permit = call.metadata(&doors, &gate::governance(), "source").await?;
    let mut routes = Vec::with_capacity(doors.routes.len());
    for worker in &doors.routes {
        routes.push(worker.status().await?);
    }
    released(&doors, &call, &permit, Action::MetadataRead, "routes", &json!({ "routes": routes })).await
}

#[derive(Deserialize)]
struct Page {
    after: Option<u64>,
    #[serde(default)]
    resolved: bool,
}

async fn dead_letters(
    State(doors): State<Arc<Doors>>,
    Path((domain, route)): Path<(String, String)>,
    Query(page): Query<Page>,
    Admin(call): Admin,
) -> Answer {
    let permit = call.metadata(&doors, super::domain(&doors, &domain)?, "source").await?;
    let worker = find(&doors, &domain, &route)?;
    let letters = worker.book().dead_letters(page.after, page.resolved, doors.limits.search_count_max).await?;
    let letters: Vec<Value> = letters
        .iter()
        .map(|letter| {
            json!({
                "position": letter.position,
                "at": letter.at.to_string(),
                "code": letter.code,
                "reason": letter.reason,
                "resolved": letter.resolved,
            })
        })
        .collect();
    released(&doors, &call, &permit, Action::MetadataRead, "dead letters", &json!({ "dead_letters": letters })).await
}

async fn send_again(
    State(doors): State<Arc<Doors>>,
    Path((domain, route, position)): Path<(String, String, u64)>,
    Local(call): Local,
) -> Answer {
    let permit = call.manage(&doors, Action::Replay, super::domain(&doors, &domain)?, "route").await?;
    let worker = find(&doors, &domain, &route)?;
    worker.send_again(position).await.map_err(|error| match error {
        WorkError::NoSuchEntry => AdminError::not_found("message of this route"),
        error @ (WorkError::Held { .. } | WorkError::NotNow(_)) => AdminError(StatusCode::FORBIDDEN, error.to_string()),
        error => AdminError(StatusCode::BAD_GATEWAY, error.to_string()),
    })?;
    let what = format!("route {route} entry {position} again");
    released(&doors, &call, &permit, Action::Replay, what, &json!({ "sent": position })).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Begin {
    /// An index of the journal; without it, its end.
    from: Option<u64>,
}

async fn begin(
    State(doors): State<Arc<Doors>>,
    Path((domain, route)): Path<(String, String)>,
    Local(call): Local,
    body: Bytes,
) -> Answer {
    let Begin { from } = body_of(&body, "{\"from\": INDEX} or {}")?;
    let name = super::domain(&doors, &domain)?;
    let permit = call.manage(&doors, Action::Manage, name, "route").await?;
    let worker = find(&doors, &domain, &route)?;
    let size = worker.end().await?;
    let from = from.unwrap_or(size);
    if from > size {
        return Err(AdminError(StatusCode::BAD_REQUEST, format!("what it reads ends at {size}")));
    }
    worker.book().begin(from).await?;
    let what = format!("route {route} from {from}");
    released(&doors, &call, &permit, Action::Manage, what, &json!({ "from": from })).await
}
