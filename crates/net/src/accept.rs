//! Accepting connections, never more than a limit at once, until told to drain.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Stops accepting, lets what is open finish, then ends what has not.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl Drain {
    pub fn new() -> Self {
        Self::default()
    }

    /// Resolves when draining begins.
    pub async fn closing(&self) {
        self.closing.cancelled().await;
    }

    pub fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// Runs a task that drain waits for.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Begins draining and waits for the tasks, at most `timeout`. True when all ended by themselves.
    pub async fn finish(&self, timeout: Duration) -> bool {
        self.closing.cancel();
        self.tasks.close();
        tokio::time::timeout(timeout, self.tasks.wait()).await.is_ok()
    }
}

/// A listening socket, plain or TLS, with a bound on its connections.
pub struct Listener {
    socket: TcpListener,
    tls: Option<TlsAcceptor>,
    slots: Arc<Semaphore>,
    handshake_timeout: Duration,
}

/// One accepted connection. Its place among the allowed ones is free again when it is dropped.
pub struct Connection {
    pub stream: Stream,
    pub peer: SocketAddr,
    slot: ConnectionSlot,
}

/// A connection's place among the allowed ones: hold it as long as the connection lives.
pub struct ConnectionSlot {
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    pub fn into_parts(self) -> (Stream, ConnectionSlot) {
        (self.stream, self.slot)
    }
}

/// A plain or TLS stream.
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::TlsStream<TcpStream>>),
}

impl Stream {
    /// The certificate the other side showed, in DER.
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        match self {
            Stream::Plain(_) => None,
            Stream::Tls(stream) => stream.get_ref().1.peer_certificates()?.first().map(|c| c.as_ref()),
        }
    }
}

impl Listener {
    pub async fn bind(
        address: SocketAddr,
        tls: Option<Arc<rustls::ServerConfig>>,
        connections_max: usize,
        handshake_timeout: Duration,
    ) -> std::io::Result<Self> {
        Ok(Listener {
            socket: TcpListener::bind(address).await?,
            tls: tls.map(TlsAcceptor::from),
            slots: Arc::new(Semaphore::new(connections_max)),
            handshake_timeout,
        })
    }

    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Accepts until `drain` begins; each connection runs as a task of its own, handshake included, so a slow
    /// client holds up nobody. When the limit is reached, new clients wait in the kernel's queue.
    pub async fn serve<F, Fut>(self, drain: Drain, handle: F)
    where
        F: Fn(Connection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let handle = Arc::new(handle);
        loop {
            let slot = tokio::select! {
                () = drain.closing() => return,
                slot = self.slots.clone().acquire_owned() => match slot { Ok(slot) => slot, Err(_) => return },
            };
            let (socket, peer) = tokio::select! {
                () = drain.closing() => return,
                accepted = self.socket.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of descriptors and the like: wait for the next turn rather than spin.
                        tracing::warn!(kind = ?error.kind(), "a connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
            };
            let _ = socket.set_nodelay(true);
            let (tls, handle, timeout) = (self.tls.clone(), handle.clone(), self.handshake_timeout);
            drain.spawn(async move {
                let stream = match tls {
                    None => Stream::Plain(socket),
                    Some(acceptor) => match tokio::time::timeout(timeout, acceptor.accept(socket)).await {
                        Ok(Ok(stream)) => Stream::Tls(Box::new(stream.into())),
                        Ok(Err(_)) | Err(_) => {
                            tracing::debug!(%peer, "a TLS handshake failed");
                            return;
                        }
                    },
                };
                handle(Connection { stream, peer, slot: ConnectionSlot { _permit: slot } }).await;
            });
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Stream::Tls(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Stream::Tls(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(s) => Pin::new(s).poll_flush(cx),
            Stream::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Stream::Tls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}
