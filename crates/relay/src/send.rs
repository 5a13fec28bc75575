//! One receiver: connected, sent to, heard. A message counts as taken only when the receiver says so.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hl7v2::mllp::{Decoder, frame};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::route::{Scheme, Target};

/// Media type of ER7 over HTTP.
const MEDIA_TYPE: &str = "x-application/hl7-v2+er7";
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Why the receiver has not taken it. Holds nothing of message or answer but codes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// It is not there, or was gone before it answered: the same message again, for as long as it takes.
    #[error("{0}")]
    Away(String),
    /// It could not do it this time.
    #[error("the receiver answered {0}")]
    Failed(String),
    /// It will never take it.
    #[error("the receiver answered {0}")]
    Rejected(String),
}

fn away(error: impl std::fmt::Display) -> SendError {
    SendError::Away(error.to_string())
}

/// A receiver and the connection to it, which is kept.
pub struct Destination {
    target: Target,
    /// For a folder: where it is.
    folder: PathBuf,
    tls: Option<Arc<rustls::ClientConfig>>,
    internal_only: bool,
    timeout: Duration,
    connection: Option<Connection>,
}

enum Connection {
    Mllp(Box<Mllp>),
    Http(http1::SendRequest<Full<Bytes>>),
}

struct Mllp {
    stream: net::Stream,
    decoder: Decoder,
}

impl Destination {
    pub fn new(
        target: Target,
        mesh_folder: &Path,
        tls: Option<Arc<rustls::ClientConfig>>,
        internal_only: bool,
        timeout: Duration,
    ) -> Self {
        let folder = mesh_folder.join(&target.path);
        Destination { target, folder, tls, internal_only, timeout, connection: None }
    }

    /// Connects where there is no connection, so that nothing is said to have left before anybody is there.
    pub async fn ready(&mut self) -> Result<(), SendError> {
        if self.connection.is_some() || self.target.scheme == Scheme::File {
            return Ok(());
        }
        let connecting = net::connect(&self.target.host, self.target.port, self.tls.clone(), self.internal_only);
        let stream = self.timely(connecting).await?.map_err(away)?;
        self.connection = Some(match self.target.scheme {
            Scheme::Mllp | Scheme::Mllps => {
                Connection::Mllp(Box::new(Mllp { stream, decoder: Decoder::new(ANSWER_BYTES_MAX) }))
            }
            _ => {
                let handshake = http1::handshake(TokioIo::new(stream));
                let (sender, connection) = self.timely(handshake).await?.map_err(away)?;
                tokio::spawn(connection);
                Connection::Http(sender)
            }
        });
        Ok(())
    }

    /// Sends one message. Any trouble ends the connection: an answer that comes late is never taken for the next one's.
    pub async fn send(&mut self, message: &[u8], control_id: &str, index: u64) -> Result<(), SendError> {
        if self.target.scheme == Scheme::File {
            let (folder, bytes, name) = (self.folder.clone(), message.to_vec(), file_name(index, control_id));
            let written = tokio::task::spawn_blocking(move || write_durably(&folder, &name, &bytes)).await;
            return written.map_err(away)?.map_err(away);
        }
        self.ready().await?;
        let connection = self.connection.take();
        let timeout = self.timeout;
        let exchange = async {
            match connection {
                Some(Connection::Mllp(mut mllp)) => {
                    let answer = mllp.exchange(message, control_id).await;
                    (answer, Some(Connection::Mllp(mllp)))
                }
                Some(Connection::Http(mut sender)) => {
                    let answer = self.post(&mut sender, message).await;
                    (answer, Some(Connection::Http(sender)))
                }
                None => (Err(away("there is no connection")), None),
            }
        };
        match tokio::time::timeout(timeout, exchange).await {
            Ok((answer, connection)) => {
                if !matches!(answer, Err(SendError::Away(_))) {
                    self.connection = connection;
                }
                answer
            }
            Err(_) => Err(away("the receiver took too long to answer")),
        }
    }

    async fn timely<T>(&self, step: impl Future<Output = T>) -> Result<T, SendError> {
        tokio::time::timeout(self.timeout, step).await.map_err(|_| away("the receiver took too long"))
    }

    async fn post(&self, sender: &mut http1::SendRequest<Full<Bytes>>, message: &[u8]) -> Result<(), SendError> {
        sender.ready().await.map_err(away)?;
        let request = Request::post(self.target.path.as_str())
            .header("host", format!("{}:{}", self.target.host, self.target.port))
            .header("content-type", MEDIA_TYPE)
            .body(Full::new(Bytes::copy_from_slice(message)))
            .map_err(away)?;
        let answer = sender.send_request(request).await.map_err(away)?;
        let status = answer.status();
        // Read to its end, so that the connection can be used again.
        Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(away)?;
        match status {
            status if status.is_success() => Ok(()),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Err(away(format!("the receiver answered {}", status.as_u16())))
            }
            status if status.is_server_error() => Err(SendError::Failed(status.as_u16().to_string())),
            status => Err(SendError::Rejected(status.as_u16().to_string())),
        }
    }
}

impl Mllp {
    async fn exchange(&mut self, message: &[u8], control_id: &str) -> Result<(), SendError> {
        self.stream.write_all(&frame(message)).await.map_err(away)?;
        self.stream.flush().await.map_err(away)?;
        let mut buffer = [0; 4096];
        loop {
            if let Some(answer) = self.decoder.next_frame().map_err(away)? {
                return verdict(&answer, control_id);
            }
            match self.stream.read(&mut buffer).await.map_err(away)? {
                0 => return Err(away("the receiver closed the connection before it answered")),
                n => self.decoder.push(&buffer[..n]),
            }
        }
    }
}

/// What an acknowledgement says (HL7 table 0008), if it is the one to this message.
fn verdict(answer: &[u8], control_id: &str) -> Result<(), SendError> {
    let message =
        hl7v2::parse(answer, &base::Limits::default()).map_err(|_| away("the answer is no HL7 v2 message"))?;
    let to = message.get("MSA-2").unwrap_or_default();
    if to.trim() != control_id {
        return Err(away("the answer is to another message"));
    }
    match message.get("MSA-1").unwrap_or_default().trim() {
        "AA" | "CA" => Ok(()),
        code @ ("AR" | "CR") => Err(SendError::Rejected(code.to_owned())),
        code @ ("AE" | "CE") => Err(SendError::Failed(code.to_owned())),
        _ => Err(away("the answer holds no acknowledgement code")),
    }
}

/// In the order of the journal; of the control id only what is safe in a name.
fn file_name(index: u64, control_id: &str) -> String {
    let safe: String =
        control_id.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')).take(40).collect();
    format!("{index:012}-{safe}.hl7")
}

/// Under another name first: whoever watches the folder never sees half a message.
fn write_durably(folder: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::create_dir_all(folder)?;
    let (beside, path) = (folder.join(format!(".{name}.part")), folder.join(name));
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, &path)?;
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_for_its_own_message_alone() {
        let answer =
            |code: &str, id: &str| format!("MSH|^~\\&|A|B|C|D|20200101||ACK|X|P|2.5\rMSA|{code}|{id}\r").into_bytes();
        assert_eq!(verdict(&answer("AA", "1"), "1"), Ok(()));
        assert_eq!(verdict(&answer("CA", "1"), "1"), Ok(()));
        assert_eq!(verdict(&answer("AE", "1"), "1"), Err(SendError::Failed("AE".into())));
        assert_eq!(verdict(&answer("CR", "1"), "1"), Err(SendError::Rejected("CR".into())));
        for other in [answer("AA", "2"), answer("XX", "1"), b"HTTP/1.1 200 OK".to_vec()] {
            assert!(matches!(verdict(&other, "1"), Err(SendError::Away(_))));
        }
    }

    #[test]
    fn files_are_whole_and_named_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        write_durably(&out, &file_name(7, "../C 1"), b"MSH|").unwrap();
        let names: Vec<_> = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["000000000007-C1.hl7"]);
    }
}
