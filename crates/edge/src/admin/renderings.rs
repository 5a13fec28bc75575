//! The audit log on its way out: export of a span in a rendering, and how far shipping is.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use base::Timestamp;
use gate::{Access, AuditRecord, Span};
use herald::{Event, Format, Sets};
use policy::Action;
use serde::Deserialize;
use serde_json::json;

use super::audit::audit_permit;
use super::{Admin, AdminError, Answer, json_draft, release, released};
use crate::doors::Doors;

/// Records of one page, and records looked at for it.
const PAGE_MAX: usize = 2_048;
const SCAN_MAX: u64 = 262_144;

pub fn router() -> Router<Arc<Doors>> {
    Router::new().route("/admin/audit/export", get(export)).route("/admin/audit/shipping", get(shipping))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExportQuery {
    format: Format,
    /// Milliseconds since 1970: from, and up to but not including.
    since: Option<i64>,
    until: Option<i64>,
    /// `next` of the page before.
    #[serde(default)]
    from: u64,
}

/// One page of the log from an index on, one rendering a line; on record like any reading of the log.
async fn export(State(doors): State<Arc<Doors>>, Query(query): Query<ExportQuery>, Admin(call): Admin) -> Answer {
    let permit = audit_permit(&doors, &call).await?;
    let since = Timestamp(query.since.unwrap_or(i64::MIN));
    // Pages of an export without end would record themselves and never come to one.
    let until = Timestamp(query.until.unwrap_or_else(|| doors.clock.now().ms()));
    if since >= until {
        let text = "the span is empty: give a beginning that is before its end".to_owned();
        return Err(AdminError(StatusCode::BAD_REQUEST, text));
    }
    let span = Span {
        from: query.from,
        upto: u64::MAX,
        newest_first: false,
        records_max: PAGE_MAX,
        scan_max: SCAN_MAX,
        named_max: herald::NAMED_MAX,
    };
    let wanted = |_: u64, record: &AuditRecord| since <= record.at && record.at < until;
    let page = doors
        .audit_records
        .page(&permit, span, &wanted)
        .await
        .map_err(|error| AdminError::broken("the audit log cannot be read now", error))?;
    let mut rows = 0;
    let held = page.map(|page| {
        rows = page.records.len() as u64;
        let line = |found: &gate::FoundRecord| {
            let id = found.id.to_string();
            let event =
                Event { id: &id, index: found.index, record: &found.record, tokens: &found.tokens, sets: Sets::Whole };
            query.format.render(&event, &doors.info.place(&found.log))
        };
        let lines: Vec<String> = page.records.iter().map(line).collect();
        let next = page.more.then_some(page.next);
        json_draft(&json!({ "lines": lines, "next": next, "until": until.ms(), "unreadable": page.unreadable }))
    });
    let access = Access::of(&permit, Action::AuditRead, &call.origin)
        .what(format!("export of the audit log as {}", query.format.code()))
        .rows(rows);
    release(&doors, &call, held, access).await
}

async fn shipping(State(doors): State<Arc<Doors>>, Admin(call): Admin) -> Answer {
    let permit = call.metadata(&doors, &gate::governance(), "source").await?;
    let value = json!({ "shippers": doors.operator.shipping() });
    released(&doors, &call, &permit, Action::MetadataRead, "shipping", &value).await
}
