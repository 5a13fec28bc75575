//! The SQL door: `POST /sql` with the statement as the body; the answer as JSON lines, CSV or an Arrow stream.
//!
//! One permit per table, one decision per request, one record for the whole answer, with the patients whose rows were
//! read. What was masked, by which rule and why, is in the header `x-ward-masked`.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Router};
use base::{DomainName, Layer, Permit, Read, Sensitivity, TraceContext, Write};
use gate::{Access, Held, ProductLabels};
use policy::Action;
use products::{Format, Product, SnapshotError, SourceTable, SqlAnswer, SqlError, SqlQuery, TableName, VisibleTable};
use serde_json::{Value, json};

use crate::doors::{Call, Doors};
use crate::http::Peer;
use crate::outgoing::{Draft, Outgoing};

/// Columns told one by one; a statement that masks more says so.
const MASKED_TOLD_MAX: usize = 64;

pub fn router(doors: Arc<Doors>) -> Router {
    let body_max = doors.limits.sql_text_bytes_max;
    Router::new().route("/sql", post(query)).layer(DefaultBodyLimit::max(body_max)).with_state(doors)
}

/// The one place where this door's errors become a status and a sentence. No text of it quotes data.
#[derive(Debug)]
pub struct SqlFailure(StatusCode, String);

type Answer = Result<Outgoing, SqlFailure>;

impl SqlFailure {
    pub fn into_parts(self) -> (StatusCode, String) {
        (self.0, self.1)
    }
}

impl From<SqlError> for SqlFailure {
    fn from(error: SqlError) -> Self {
        let status = match &error {
            SqlError::Invalid { .. } | SqlError::Data { .. } => StatusCode::BAD_REQUEST,
            SqlError::Refused { .. } | SqlError::NotCovered(_) => StatusCode::FORBIDDEN,
            SqlError::NoSuchTable { .. } => StatusCode::NOT_FOUND,
            SqlError::TimedOut { .. } => StatusCode::GATEWAY_TIMEOUT,
            SqlError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            SqlError::Busy { .. } => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        SqlFailure(status, error.to_string())
    }
}

impl From<gate::Unauthenticated> for SqlFailure {
    fn from(error: gate::Unauthenticated) -> Self {
        SqlFailure(crate::http::status_of_stranger(error), error.to_string())
    }
}

impl From<gate::Refusal> for SqlFailure {
    fn from(refusal: gate::Refusal) -> Self {
        SqlFailure(crate::http::status_of(&refusal), refusal.to_string())
    }
}

impl From<gate::NotReleased> for SqlFailure {
    fn from(error: gate::NotReleased) -> Self {
        SqlFailure(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

impl IntoResponse for SqlFailure {
    fn into_response(self) -> Response {
        let mut response = (self.0, json!({ "error": self.1 }).to_string()).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

fn format(headers: &HeaderMap) -> Result<Format, SqlFailure> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*");
    let wanted = accept.split(',').map(|part| part.split(';').next().unwrap_or(part).trim());
    for media_type in wanted {
        match media_type {
            "*/*" | "application/*" | "application/json" | "application/x-ndjson" => return Ok(Format::JsonLines),
            "text/csv" | "text/*" => return Ok(Format::Csv),
            "application/vnd.apache.arrow.stream" => return Ok(Format::ArrowStream),
            _ => {}
        }
    }
    let text = "answers come as application/x-ndjson, text/csv or application/vnd.apache.arrow.stream";
    Err(SqlFailure(StatusCode::NOT_ACCEPTABLE, text.to_owned()))
}

async fn query(
    State(doors): State<Arc<Doors>>,
    Extension(peer): Extension<Peer>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let call = doors.call("sql-http", &peer, trace, &headers).await?;
    let format = format(&headers)?;
    let sql = std::str::from_utf8(&body)
        .map_err(|_| SqlFailure(StatusCode::BAD_REQUEST, "the statement is not UTF-8".to_owned()))?;
    let default_domain = call.caller.domain().cloned().unwrap_or_else(gate::governance);
    let names = doors.engine.tables(sql, &default_domain)?;
    let mut permits = Vec::with_capacity(names.len());
    let mut tables = Vec::with_capacity(names.len());
    for name in names {
        let table = permitted(&doors, &call, &name).await?;
        permits.push(table.permit.clone());
        tables.push(table);
    }
    // A statement over no table still is an access; it needs a permit for its record.
    let Some((first, rest)) = permits.split_first() else {
        let text = "the statement reads no product: name one as domain.product".to_owned();
        return Err(SqlFailure(StatusCode::BAD_REQUEST, text));
    };
    let visible = visible(&doors, &call).await;
    let statement = SqlQuery { sql: sql.to_owned(), default_domain, tables, visible, format, rows_max: None };
    let answer = doors.engine.query(statement).await?;

    let mut access = Access::of(first, Action::Query, &call.origin)
        .what("sql")
        .query(doors.gate.query_hash(sql.as_bytes()))
        .rows(answer.rows);
    let mut held = Held::under(first, ());
    for permit in rest {
        access = access.and(permit);
        held = held.and(permit);
    }
    for (domain, patients) in &answer.patients {
        access = access.patients(domain, patients);
    }
    let held = held.map(|()| draft(answer));
    let release = doors.gate.release(&call.caller, access).await?;
    Outgoing::data(held, release)
        .map_err(|_| SqlFailure(StatusCode::SERVICE_UNAVAILABLE, "the answer could not be released".to_owned()))
}

/// What this caller's `information_schema` shows: the products policy would let it read. Asked without a record: no
/// data is read, and a refusal here is not an access.
async fn visible(doors: &Doors, call: &Call) -> Vec<VisibleTable> {
    let mut visible = Vec::new();
    for product in doors.registry.products() {
        let ask = call
            .ask(Action::Query, &product.table.domain, Layer::Gold)
            .kind(&product.table.product)
            .product(labels(product));
        if doors.gate.would_permit::<Read>(&call.caller, &ask) {
            visible.push(product.visible());
        }
    }
    visible
}

/// What policy may know of a product. Rows are about patients even where no column identifies one.
fn labels(product: &Product) -> ProductLabels {
    ProductLabels {
        phi: true,
        classes: product.columns.iter().map(|column| column.class).collect(),
        sensitivity: Sensitivity::NONE,
    }
}

/// A table with the caller's permit for it. One that is not there and one that may not be read look the same, but for
/// the reason policy gives about the caller.
async fn permitted(doors: &Doors, call: &Call, name: &TableName) -> Result<SourceTable, SqlFailure> {
    let missing = || SqlFailure::from(SqlError::NoSuchTable { table: name.to_string() });
    let product = doors.registry.get(name).ok_or_else(missing)?;
    let ask = call.ask(Action::Query, &name.domain, Layer::Gold).kind(&name.product).product(labels(product));
    let permit: Permit<Read> = doors.gate.permit::<Read>(&call.caller, ask).await?;
    if let Some(status) = doors.builder.status(name)
        && let Some(lack) = status.missing.first()
    {
        let what = format!("`{name}` is not open to readers: {lack}");
        return Err(SqlError::Refused { what }.into());
    }
    let snapshot = match doors.snapshots.current(name).await {
        Err(SnapshotError::None) => return Err(missing()),
        other => other.map_err(broken)?,
    };
    Ok(SourceTable { name: name.clone(), columns: product.columns.clone(), manifest: snapshot, permit })
}

fn broken(error: impl std::fmt::Display) -> SqlFailure {
    tracing::error!(%error, "the product store failed");
    SqlFailure(StatusCode::SERVICE_UNAVAILABLE, "the products cannot be read now: try again".to_owned())
}

fn draft(answer: SqlAnswer) -> Draft {
    let masked: Vec<Value> =
        answer.masked.iter().take(MASKED_TOLD_MAX).filter_map(|m| serde_json::to_value(m).ok()).collect();
    let mut draft = Draft::new(StatusCode::OK, answer.format.media_type(), answer.body)
        .with(HeaderName::from_static("x-ward-rows"), answer.rows.to_string());
    if !masked.is_empty() {
        draft = draft.with(HeaderName::from_static("x-ward-masked"), Value::Array(masked).to_string());
    }
    if answer.truncated {
        draft = draft.with(HeaderName::from_static("x-ward-truncated"), "true");
    }
    draft
}

/// Products with their newest snapshots, for the admin API.
pub async fn product_list(doors: &Doors) -> Vec<Value> {
    let mut list = Vec::new();
    for product in doors.registry.products() {
        let Some(status) = doors.builder.status(&product.table) else { continue };
        list.push(json!({
            "product": status.table.to_string(),
            "version": status.version,
            "owner": status.owner,
            "missing": status.missing.join("; "),
            "snapshot": status.snapshot.map(|s| json!({ "id": s.snapshot, "rows": s.rows, "built": s.at.to_string() })),
        }));
    }
    list
}

/// Builds a product for a caller whom policy lets build it.
pub async fn build_product(doors: &Doors, call: &Call, domain: &DomainName, product: &str) -> Answer {
    let name = TableName { domain: domain.clone(), product: product.to_owned() };
    let found =
        doors.registry.get(&name).ok_or_else(|| SqlFailure::from(SqlError::NoSuchTable { table: name.to_string() }))?;
    let ask = call.ask(Action::Build, domain, Layer::Gold).kind(product);
    let permit = doors.gate.permit::<Write>(&call.caller, ask).await?;
    let read = doors.gate.node_permit::<Read>("build", domain, Layer::Silver)?;
    let write = doors.gate.node_permit::<Write>("build", domain, Layer::Gold)?;
    let report = doors.builder.build(&read, &write, &found.table).await.map_err(broken)?;
    let value = json!({ "product": name.to_string(), "snapshot": report.snapshot, "rows": report.rows, "skipped": report.skipped });
    let body = value.to_string().into_bytes();
    let held = Held::under(&permit, Draft::new(StatusCode::OK, "application/json", body));
    let access = Access::of(&permit, Action::Build, &call.origin).what(format!("build {product}")).rows(1);
    let release = doors.gate.release(&call.caller, access).await?;
    Outgoing::data(held, release)
        .map_err(|_| SqlFailure(StatusCode::SERVICE_UNAVAILABLE, "the answer could not be released".to_owned()))
}
