//! The HTTP server under every HTTP door: connections, limits, trace context, errors that hold no PHI.
//!
//! Query strings of FHIR searches hold PHI: nothing here logs a URI beyond its route.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use base::{Entropy, Limits, TraceContext};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use net::{Connection, Drain, Listener};

use crate::fhir::FhirError;
use crate::metrics::Metrics;

/// When a door is busy or a part of the node is down and nothing says for how long.
const RETRY_AFTER_S: &str = "1";

/// Where a request came from.
#[derive(Debug, Clone)]
pub enum Peer {
    Network(SocketAddr),
    /// The node's own socket: whoever may open it runs this machine's node.
    Local,
}

impl Peer {
    /// For the audit record.
    pub fn address(&self) -> String {
        match self {
            Peer::Network(address) => address.ip().to_string(),
            Peer::Local => "local".to_owned(),
        }
    }
}

/// Serves `router` on a listener until drained.
pub async fn serve(listener: Listener, router: Router, limits: Arc<Limits>, drain: Drain) {
    let drain_connections = drain.clone();
    listener
        .serve(drain, move |connection: Connection| {
            let (router, limits, drain) = (router.clone(), limits.clone(), drain_connections.clone());
            async move {
                let peer = Peer::Network(connection.peer);
                let (stream, _slot) = connection.into_parts();
                serve_io(stream, peer, router, &limits, &drain).await;
            }
        })
        .await;
}

/// Serves one byte stream: a TCP or TLS connection, or the node's own socket.
pub async fn serve_io<S>(stream: S, peer: Peer, router: Router, limits: &Limits, drain: &Drain)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let service = router.layer(axum::Extension(peer));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(limits.http_header_timeout_ms))
        .max_buf_size(128 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(20))
        .max_concurrent_streams(128)
        .max_header_list_size(64 << 10);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => {
            if result.is_err() {
                tracing::debug!("an HTTP connection ended early");
            }
        }
        () = drain.closing() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// What every request passes: a trace, a time limit, a count, and headers that keep answers out of caches.
pub fn with_common(router: Router, entropy: Arc<dyn Entropy>, limits: Arc<Limits>, metrics: Arc<Metrics>) -> Router {
    router.layer(middleware::from_fn(move |request: Request, next: Next| {
        let (entropy, limits, metrics) = (entropy.clone(), limits.clone(), metrics.clone());
        async move { Ok::<_, Infallible>(common(request, next, &*entropy, &limits, &metrics).await) }
    }))
}

async fn common(
    mut request: Request,
    next: Next,
    entropy: &dyn Entropy,
    limits: &Limits,
    metrics: &Metrics,
) -> Response {
    let trace = request
        .headers()
        .get("traceparent")
        .and_then(|value| value.to_str().ok())
        .and_then(TraceContext::parse)
        .unwrap_or_else(|| TraceContext::new(entropy));
    request.extensions_mut().insert(trace);
    let is_fhir = request.uri().path().starts_with("/fhir/");
    let start = std::time::Instant::now();
    let limit = Duration::from_millis(limits.http_request_timeout_ms);
    let mut response = match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => plain(StatusCode::GATEWAY_TIMEOUT, "the request took longer than this node allows: ask for less"),
    };
    if let Some((code, text)) = rejected(&response) {
        let status = response.status();
        response = if is_fhir { FhirError::new(status, code, text).into_response() } else { plain(status, text) };
    }
    metrics.http(response.status(), start.elapsed());
    // Who is told to come back is told when (RFC 9110 §10.2.3); a door that knows better has said so already.
    let later = matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    let headers = response.headers_mut();
    if later {
        headers.entry(header::RETRY_AFTER).or_insert(HeaderValue::from_static(RETRY_AFTER_S));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(value) = HeaderValue::from_str(&trace.to_string()) {
        headers.insert("traceparent", value);
    }
    response
}

/// What a caller who is not known is in HTTP; a directory that is down is not a missing sign-in.
pub fn status_of_stranger(error: gate::Unauthenticated) -> StatusCode {
    match error {
        gate::Unauthenticated::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::UNAUTHORIZED,
    }
}

/// What a refusal of the gate is in HTTP (RFC 9110 §15.5).
pub fn status_of(refusal: &gate::Refusal) -> StatusCode {
    match refusal.kind {
        gate::RefusalKind::Forbidden => StatusCode::FORBIDDEN,
        gate::RefusalKind::Expired => StatusCode::UNAUTHORIZED,
        gate::RefusalKind::Invalid => StatusCode::BAD_REQUEST,
        gate::RefusalKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// The framework's own refusals quote what they could not read, in plain text; every door here answers errors as JSON. So
/// a refusal in plain text is the framework's, and leaves as a fixed text (law 9).
///
/// With the issue type that FHIR has for it.
fn rejected(response: &Response) -> Option<(&'static str, &'static str)> {
    let is_text =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/plain"));
    match response.status() {
        _ if !is_text => None,
        StatusCode::PAYLOAD_TOO_LARGE => {
            Some(("too-long", "the body is larger than this door takes: see the limits of the node"))
        }
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            Some(("not-supported", "the body is of a media type that this door does not take"))
        }
        StatusCode::NOT_FOUND => Some(("not-found", "there is nothing at this path")),
        StatusCode::METHOD_NOT_ALLOWED => Some(("not-supported", "this path does not take this method")),
        status if status.is_client_error() => {
            Some(("structure", "the path, the query or the body of the request cannot be read"))
        }
        _ => None,
    }
}

/// A fixed text, for what has no protocol's own error.
pub fn plain(status: StatusCode, text: &'static str) -> Response {
    let mut response = Response::new(Body::from(format!("{text}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
