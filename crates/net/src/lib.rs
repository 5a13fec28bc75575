//! TLS, bounded accepting of connections, and drain.
//!
//! Never reads a protocol: doors in `edge` do. One crypto provider (aws-lc-rs) is installed here, explicitly.

mod accept;
mod connect;
mod peer;
mod tls;

pub use accept::{Connection, ConnectionSlot, Drain, Listener, Stream};
pub use connect::{ConnectError, connect, is_internal};
pub use peer::PeerName;
pub use tls::{DevCertificates, TlsError, client_config, install_provider, server_config};
