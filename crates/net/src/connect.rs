//! Connecting to others: by name, bounded to inside networks where that was promised.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::accept::Stream;

/// Why there is no connection. Names no data.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("its name is no host name and no address")]
    Name,
    #[error("its address is outside the private networks, and `internal = true` allows none such: name an agreement")]
    Outside,
    #[error("it cannot be reached: {0}")]
    Connect(io::Error),
    #[error("the TLS handshake failed: {0}")]
    Handshake(io::Error),
}

/// A connection, with TLS where there is a configuration for it. With `internal_only`, a name that leads outside gets none.
/// The caller bounds the time.
pub async fn connect(
    host: &str,
    port: u16,
    tls: Option<Arc<rustls::ClientConfig>>,
    internal_only: bool,
) -> Result<Stream, ConnectError> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| ConnectError::Name)?;
    let socket = connect_plain(host, port, internal_only).await?;
    let _ = socket.set_nodelay(true);
    match tls {
        None => Ok(Stream::Plain(socket)),
        Some(tls) => {
            let stream = TlsConnector::from(tls).connect(name, socket).await.map_err(ConnectError::Handshake)?;
            Ok(Stream::Tls(Box::new(stream.into())))
        }
    }
}

async fn connect_plain(host: &str, port: u16, internal_only: bool) -> Result<TcpStream, ConnectError> {
    let mut failed = io::Error::from(io::ErrorKind::NotFound);
    for address in tokio::net::lookup_host((host, port)).await.map_err(ConnectError::Connect)? {
        if internal_only && !is_internal(address.ip()) {
            return Err(ConnectError::Outside);
        }
        match TcpStream::connect(address).await {
            Ok(socket) => return Ok(socket),
            Err(error) => failed = error,
        }
    }
    Err(ConnectError::Connect(failed))
}

/// This machine or a private network (RFC 1918, 4193, 3927, 4291).
pub fn is_internal(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => is_internal(IpAddr::V4(ip)),
            None => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
        },
    }
}
