//! How each HL7 v2 source does: rate, last message, lag, what is set aside, which fields have no map, whether it is silent.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use policy::Action;
use serde_json::{Value, json};

use super::{Admin, Answer, released};
use crate::doors::Doors;
use crate::silence::is_silent;

pub fn router() -> Router<Arc<Doors>> {
    Router::new().route("/admin/sources", get(list))
}

async fn list(State(doors): State<Arc<Doors>>, Admin(call): Admin) -> Answer {
    let permit = call.metadata(&doors, &gate::governance(), "source").await?;
    let now = doors.clock.now();
    let mut sources = Vec::new();
    for (domain, parts) in &doors.domains {
        let size = parts.intake.journal().log().size();
        let lag = size.saturating_sub(*doors.silver.applied(domain).borrow());
        for receiver in parts.receivers.values() {
            let source = receiver.source();
            let figures = doors.silver.source_figures(domain, &source.name).await?;
            let last_minute = doors.silver.entries_since(domain, &source.name, now.plus_ms(-60_000)).await?;
            let last_hour = doors.silver.entries_since(domain, &source.name, now.plus_ms(-3_600_000)).await?;
            let answers: serde_json::Map<String, Value> = doors
                .metrics
                .hl7_answers(domain.as_str(), source.name.as_str())
                .into_iter()
                .map(|(code, n)| (code.to_owned(), n.into()))
                .collect();
            let unmapped: Vec<Value> =
                figures.unmapped.iter().map(|(place, n)| json!({ "field": place, "n": n })).collect();
            sources.push(json!({
                "domain": domain,
                "source": source.name,
                "shadow": source.shadow,
                "messages": figures.messages,
                "last_message": figures.last.map(|at| at.to_string()),
                "last_minute": last_minute,
                "last_hour": last_hour,
                "answers": answers,
                "domain_lag_entries": lag,
                "set_aside": figures.set_aside,
                "unmapped": unmapped,
                "silent_after_minutes": source.silent_after_minutes,
                "silent": is_silent(source, figures.last, doors.info.started, now),
            }));
        }
    }
    released(&doors, &call, &permit, Action::MetadataRead, "sources", &json!({ "sources": sources })).await
}

/// The same for the metrics page: name, labels, value. Rates come of `ward_hl7_messages_total`.
pub(crate) async fn gauges(doors: &Doors) -> Vec<(&'static str, String, u64)> {
    let now = doors.clock.now();
    let mut gauges = Vec::new();
    for (domain, parts) in &doors.domains {
        for receiver in parts.receivers.values() {
            let source = receiver.source();
            let Ok(figures) = doors.silver.source_figures(domain, &source.name).await else { continue };
            let label = format!("domain=\"{domain}\",source=\"{}\"", source.name);
            let silent = is_silent(source, figures.last, doors.info.started, now);
            let last = figures.last.map_or(0, |at| u64::try_from(at.ms() / 1_000).unwrap_or(0));
            gauges.push(("ward_source_last_message_timestamp_seconds", label.clone(), last));
            gauges.push(("ward_source_set_aside", label.clone(), figures.set_aside));
            gauges.push(("ward_source_silent", label.clone(), u64::from(silent)));
            for (place, n) in figures.unmapped {
                gauges.push(("ward_source_unmapped_fields_total", format!("{label},field=\"{place}\""), n));
            }
        }
    }
    gauges
}
