//! Syslog: the message of RFC 5424 around a rendering, octet counting of RFC 5425 §4.3, and one session over TLS.
//!
//! RFC 5425 acknowledges nothing, and what lies in a kernel's buffer when a connection breaks is lost without a word. So
//! a session carries one batch and is closed (§4.4): our close_notify follows the last byte, and the receiver must answer
//! it with its own, which it can do only after reading all before it. Only then the batch counts as received.
//!
//! Never here: what to send and from where (see `ship`).

use std::fmt::Write;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use gate::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{Event, Format, Place};

/// What comes back from a syslog receiver is nothing; more than this is another protocol.
const ANSWER_BYTES_MAX: usize = 4096;

/// Appends one event as a frame: `LENGTH SP SYSLOG-MSG`.
pub fn frame(out: &mut Vec<u8>, event: &Event<'_>, place: &Place, format: Format) {
    let mut message = String::with_capacity(2048);
    let _ = write!(
        message,
        "<{}>1 {} {} ward - {} [origin software=\"Wardmesh\" swVersion=\"{}\"][meta sequenceId=\"{}\"] ",
        // Facility 10: security and authorization (PS3.15 A.6).
        10 * 8 + severity(event),
        event.record.at,
        host(&place.mesh),
        message_id(format),
        place.version,
        // RFC 5424 §7.3.1: from 1 to 2147483647, and again.
        event.index % 2_147_483_647 + 1,
    );
    message.push_str(&format.render(event, place));
    out.extend_from_slice(message.len().to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(message.as_bytes());
}

/// RFC 5424 §6.2.1.
fn severity(event: &Event<'_>) -> u8 {
    match event.record.outcome {
        Outcome::Failed => 3,
        Outcome::Refused | Outcome::Granted => 4,
        _ if event.record.emergency => 4,
        Outcome::Served | Outcome::NotFound => 5,
    }
}

/// PS3.15 A.6 names the message id of its own messages.
fn message_id(format: Format) -> &'static str {
    match format {
        Format::Atna => "DICOM+RFC3881",
        Format::Ocsf => "OCSF",
        Format::Cef => "CEF",
        Format::Fhir => "FHIR",
    }
}

/// HOSTNAME is visible ASCII, at most 255.
fn host(mesh: &str) -> String {
    let visible: String = mesh.chars().filter(char::is_ascii_graphic).take(255).collect();
    if visible.is_empty() { "-".to_owned() } else { visible }
}

/// How a receiver says that it has read everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Confirm {
    /// By its close_notify (RFC 5425 §4.4). What a receiver had read and not kept when it was killed is sent again.
    #[default]
    CloseNotify,
    /// By ending the connection. For receivers that answer no close_notify; one that is killed, or someone on the way who
    /// forges the end, can then lose a batch unseen.
    End,
}

/// A receiver.
#[derive(Clone)]
pub struct Receiver {
    pub host: String,
    pub port: u16,
    pub tls: Arc<rustls::ClientConfig>,
    pub confirm: Confirm,
    /// For connecting, for taking the batch, for its end: each.
    pub timeout: Duration,
    /// Only to addresses of this machine and of private networks.
    pub internal_only: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error("the receiver: {0}")]
    Connect(#[from] net::ConnectError),
    #[error("the connection broke before the receiver had confirmed: {0}")]
    Broken(io::Error),
    #[error("the receiver took too long")]
    Timeout,
    #[error(
        "the receiver ended the connection without close_notify (RFC 5425 §4.4), so nothing is confirmed: use another TLS driver there, or set confirm = \"end\" and read what that means"
    )]
    NoCloseNotify,
    #[error("the receiver answers, which no syslog receiver does")]
    Talks,
}

impl Receiver {
    /// Sends one batch of frames. When this returns `Ok`, the receiver has read all of it.
    pub async fn send(&self, frames: &[u8]) -> Result<(), SendError> {
        let connecting = net::connect(&self.host, self.port, Some(self.tls.clone()), self.internal_only);
        let mut stream = self.timely(connecting).await??;
        let sent = async {
            stream.write_all(frames).await?;
            // close_notify, and the end of what we send.
            stream.shutdown().await
        };
        self.timely(sent).await?.map_err(SendError::Broken)?;
        self.timely(self.confirmed(&mut stream)).await?
    }

    async fn timely<T>(&self, step: impl Future<Output = T>) -> Result<T, SendError> {
        tokio::time::timeout(self.timeout, step).await.map_err(|_| SendError::Timeout)
    }

    async fn confirmed(&self, stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Result<(), SendError> {
        let mut answer = [0; ANSWER_BYTES_MAX];
        match stream.read(&mut answer).await {
            Ok(0) => Ok(()),
            Ok(_) => Err(SendError::Talks),
            // TCP's end without TLS's.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => match self.confirm {
                Confirm::End => Ok(()),
                Confirm::CloseNotify => Err(SendError::NoCloseNotify),
            },
            Err(error) => Err(SendError::Broken(error)),
        }
    }
}
