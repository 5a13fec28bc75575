//! The commands' way to the running node: HTTP over its own socket.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

/// What a command says when it fails: one sentence, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no node runs on this mesh (`{socket}` does not answer): start it with `ward serve`")]
    NoNode { socket: String },
    #[error("{status}: {message}")]
    Refused { status: u16, message: String },
    #[error("the node's answer could not be read: {0}")]
    Broken(String),
}

#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: hyper::HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Result<Value, ClientError> {
        serde_json::from_slice(&self.body).map_err(|error| ClientError::Broken(error.to_string()))
    }

    /// The answer, or its error as a sentence.
    pub fn ok(self) -> Result<Answer, ClientError> {
        if self.status.is_success() {
            return Ok(self);
        }
        let message = match serde_json::from_slice::<Value>(&self.body) {
            Ok(body) => body["error"]
                .as_str()
                .or_else(|| body["issue"][0]["details"]["text"].as_str())
                .or_else(|| body["issue"][0]["diagnostics"].as_str())
                .unwrap_or("the node refused")
                .to_owned(),
            Err(_) => String::from_utf8_lossy(&self.body).trim().to_owned(),
        };
        Err(ClientError::Refused { status: self.status.as_u16(), message })
    }
}

impl Client {
    pub fn new(socket: &Path) -> Self {
        Client { socket: socket.to_owned() }
    }

    pub async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        media_type: &str,
        body: impl Into<Bytes>,
    ) -> Result<Answer, ClientError> {
        self.call_with(method, path, token, &[("content-type", media_type)], body).await
    }

    pub async fn call_with(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer, ClientError> {
        let broken = |error: hyper::Error| ClientError::Broken(error.to_string());
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|_| ClientError::NoNode { socket: self.socket.display().to_string() })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body.into())).map_err(|error| ClientError::Broken(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(broken)?.to_bytes();
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }

    pub async fn get(&self, path: &str, token: Option<&str>) -> Result<Value, ClientError> {
        self.call(Method::GET, path, token, "application/json", Bytes::new()).await?.ok()?.json()
    }

    pub async fn post(&self, path: &str, token: Option<&str>, body: &Value) -> Result<Value, ClientError> {
        self.call(Method::POST, path, token, "application/json", body.to_string()).await?.ok()?.json()
    }

    /// A token for a principal, minted by the node for whoever may open its socket.
    pub async fn token(
        &self,
        principal: &base::PrincipalId,
        purpose: Option<base::Purpose>,
    ) -> Result<String, ClientError> {
        let body = serde_json::json!({ "principal": principal, "purpose": purpose.map(|p| p.code()), "minutes": 10 });
        let answer = self.post("/admin/token", None, &body).await?;
        answer["token"].as_str().map(str::to_owned).ok_or_else(|| ClientError::Broken("no token".into()))
    }
}
