//! Real clients over real sockets, for the demo, the benchmarks and the suite: MLLP and HTTPS.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Why a client gave up.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
    #[error("the answer is not MLLP: {0}")]
    Frame(#[from] hl7v2::mllp::FrameError),
    #[error("the connection was closed before the answer")]
    Closed,
    #[error("TLS could not be set up: {0}")]
    Tls(#[from] net::TlsError),
    #[error("HTTP failed: {0}")]
    Http(#[from] hyper::Error),
    #[error("the request could not be made: {0}")]
    Request(#[from] hyper::http::Error),
}

/// One MLLP connection that sends a message and waits for its acknowledgement.
pub struct MllpClient {
    stream: TcpStream,
    decoder: hl7v2::mllp::Decoder,
    buffer: Vec<u8>,
}

impl MllpClient {
    pub async fn connect(address: SocketAddr) -> Result<Self, WireError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(MllpClient { stream, decoder: hl7v2::mllp::Decoder::new(1 << 20), buffer: vec![0; 16 << 10] })
    }

    /// The acknowledgement's bytes.
    pub async fn send(&mut self, message: &[u8]) -> Result<Vec<u8>, WireError> {
        self.write(&hl7v2::mllp::frame(message)).await?;
        self.read().await
    }

    /// Bytes as they are, framed or not.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// The next message that comes.
    pub async fn read(&mut self) -> Result<Vec<u8>, WireError> {
        loop {
            if let Some(ack) = self.decoder.next_frame()? {
                return Ok(ack);
            }
            match self.stream.read(&mut self.buffer).await? {
                0 => return Err(WireError::Closed),
                n => self.decoder.push(&self.buffer[..n]),
            }
        }
    }
}

/// MSA-1 of an acknowledgement: `AA`, `CA`, `AR`, ...
pub fn ack_code(ack: &[u8]) -> String {
    let text = String::from_utf8_lossy(ack);
    let msa = text.split(['\r', '\n']).find(|segment| segment.starts_with("MSA"));
    msa.and_then(|segment| segment.split('|').nth(1)).unwrap_or_default().to_owned()
}

/// One HTTPS connection that is kept.
pub struct HttpsClient {
    sender: http1::SendRequest<Full<Bytes>>,
    authority: String,
}

/// An answer, whole.
#[derive(Debug)]
pub struct HttpAnswer {
    pub status: StatusCode,
    pub headers: hyper::HeaderMap,
    pub body: Bytes,
}

impl HttpAnswer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl HttpsClient {
    /// Trusts the authority in `authority_pem` alone.
    pub async fn connect(address: SocketAddr, authority_pem: &Path) -> Result<Self, WireError> {
        let config = net::client_config(authority_pem, None)?;
        Self::connect_with(address, config).await
    }

    pub async fn connect_with(address: SocketAddr, config: Arc<rustls::ClientConfig>) -> Result<Self, WireError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(address.ip().into());
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(HttpsClient { sender, authority: address.to_string() })
    }

    pub async fn call(
        &mut self,
        method: Method,
        path: &str,
        token: Option<&str>,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<HttpAnswer, WireError> {
        let mut request = Request::builder().method(method).uri(path).header("host", &self.authority);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        self.sender.ready().await?;
        let response = self.sender.send_request(request.body(Full::new(body.into()))?).await?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(HttpAnswer { status: parts.status, headers: parts.headers, body })
    }

    pub async fn get(&mut self, path: &str, token: &str) -> Result<HttpAnswer, WireError> {
        self.call(Method::GET, path, Some(token), &[], Bytes::new()).await
    }
}
