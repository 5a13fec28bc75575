//! [`Outgoing`]: the only thing a handler may answer with. Data goes into one only with a [`Release`] (law 3).

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use gate::{Held, Release, WrongRelease};

/// A response that may leave.
pub struct Outgoing(Response);

/// What a handler made under a permit, kept until its access is recorded.
#[derive(Debug)]
pub struct Draft {
    pub status: StatusCode,
    pub media_type: &'static str,
    pub headers: Vec<(HeaderName, String)>,
    pub body: Vec<u8>,
}

impl Draft {
    pub fn new(status: StatusCode, media_type: &'static str, body: Vec<u8>) -> Self {
        Draft { status, media_type, headers: Vec::new(), body }
    }

    pub fn with(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// A draft whose access is on record: it may leave, by itself or as a part of another answer.
pub struct Released(Draft);

impl Released {
    /// Opened by the release of the very access that read it.
    pub fn open(held: Held<Draft>, release: Release) -> Result<Released, WrongRelease> {
        Ok(Released(held.release(release)?))
    }

    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    pub fn bytes(&self) -> usize {
        self.0.body.len()
    }

    /// With the body of another answer, which was released too.
    pub fn with_body_of(self, other: Released) -> Released {
        Released(Draft { body: other.0.body, ..self.0 })
    }
}

impl From<Released> for Outgoing {
    fn from(released: Released) -> Outgoing {
        Outgoing(respond(released.0))
    }
}

impl Outgoing {
    /// One answer of several, each of which was released.
    pub fn joined(parts: Vec<Released>, join: impl FnOnce(Vec<Draft>) -> Draft) -> Outgoing {
        Outgoing(respond(join(parts.into_iter().map(|part| part.0).collect())))
    }

    /// Data: opened by the release of the very access that read it.
    pub fn data(held: Held<Draft>, release: Release) -> Result<Outgoing, WrongRelease> {
        Ok(Outgoing(respond(held.release(release)?)))
    }

    /// What holds no data of anybody: definitions, figures, fixed texts.
    pub fn no_data(draft: Draft) -> Outgoing {
        Outgoing(respond(draft))
    }
}

fn respond(draft: Draft) -> Response {
    let mut response = Response::new(Body::from(draft.body));
    *response.status_mut() = draft.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(draft.media_type));
    for (name, value) in draft.headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    response
}

impl IntoResponse for Outgoing {
    fn into_response(self) -> Response {
        self.0
    }
}
