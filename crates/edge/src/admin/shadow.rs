//! What the messages of a source in shadow would have become on one day, to be laid beside another engine's output.
//!
//! It is content: a permit to read the journal, and a record. Nothing of it is in silver.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use base::{Layer, PatientSet, Read, SourceName, Timestamp};
use clinical::v2::shadow::Fold;
use clinical::{Content, Journal};
use gate::{Access, Held};
use policy::Action;
use serde::Deserialize;
use store::{EntryQuery, EntryState};

use super::{Admin, AdminError, Answer, domain, release};
use crate::doors::Doors;
use crate::outgoing::Draft;

pub fn router() -> Router<Arc<Doors>> {
    Router::new().route("/admin/shadow/{domain}/{source}", get(mapped))
}

const PAGE: usize = 500;
/// Messages of one day that are laid side by side.
const MESSAGES_MAX: usize = 50_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Day {
    /// YYYY-MM-DD, UTC.
    day: String,
}

/// The day's resources, one a line.
async fn mapped(
    State(doors): State<Arc<Doors>>,
    Path((name, source)): Path<(String, String)>,
    Query(asked): Query<Day>,
    Admin(call): Admin,
) -> Answer {
    let name = domain(&doors, &name)?;
    let source = SourceName::parse(&source).map_err(|_| AdminError::not_found("source"))?;
    let parts = &doors.domains[name];
    let receiver = parts.receivers.get(&source).ok_or_else(|| AdminError::not_found("HL7 v2 source"))?;
    let ask = call.ask(Action::Read, name, Layer::Bronze).kind(Journal::KIND);
    let permit = doors.gate.permit::<Read>(&call.caller, ask).await?;
    // Whom a shadowed message is about is nobody silver knows: a permit for some patients only reaches none of them.
    if matches!(permit.grant().patients, PatientSet::None | PatientSet::Only(_)) {
        let text = "messages in shadow are about nobody that is known yet, and your permit is for some patients only";
        return Err(AdminError(StatusCode::FORBIDDEN, text.to_owned()));
    }
    let day = fhir::time::parse(&asked.day).filter(|_| asked.day.len() == 10);
    let day = day.ok_or_else(|| AdminError(StatusCode::BAD_REQUEST, "a day is written as YYYY-MM-DD".to_owned()))?;
    let mut query = EntryQuery {
        source: Some(source),
        state: Some(EntryState::Shadow),
        from: Some(Timestamp(day.from_ms)),
        to: Some(Timestamp(day.to_ms - 1)),
        living: true,
        ascending: true,
        first: Some(0),
        max: PAGE,
        ..EntryQuery::default()
    };
    let (mut fold, mut messages) = (Fold::default(), 0);
    loop {
        let rows = doors.silver.entries(name, &query).await?;
        let Some(last) = rows.last() else { break };
        query.first = Some(last.index + 1);
        for row in &rows {
            messages += 1;
            let entry = parts.intake.journal().read(&permit, row.index, 1, usize::MAX).await;
            let entry = entry.map_err(|error| AdminError::broken("the journal cannot be read now", error))?.pop();
            let Some(Ok(entry)) = entry else { continue };
            if entry.envelope.content != Content::Hl7v2 {
                continue;
            }
            let Ok(message) = hl7v2::parse(entry.body.expose(), &doors.limits) else { continue };
            let sender = receiver.source().sender(Some(entry.envelope.received));
            let fits = fold.add(&clinical::v2::map(&message, &sender, &doors.limits));
            if messages > MESSAGES_MAX || !fits {
                let text = "more messages on this day than can be laid side by side: see the limits of the node";
                return Err(AdminError(StatusCode::PAYLOAD_TOO_LARGE, text.to_owned()));
            }
        }
    }
    let resources = fold.resources();
    let mut body = Vec::new();
    for resource in &resources {
        body.extend(fhir::json::to_vec(resource));
        body.push(b'\n');
    }
    let draft = Draft::new(StatusCode::OK, "application/fhir+ndjson", body)
        .with(axum::http::HeaderName::from_static("x-ward-messages"), messages.to_string());
    let access = Access::of(&permit, Action::Read, &call.origin)
        .what(format!("shadow of a source, {messages} messages"))
        .rows(resources.len() as u64);
    release(&doors, &call, Held::under(&permit, draft), access).await
}
