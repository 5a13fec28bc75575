//! TLS, bounded accepting of connections, and drain.
//!
//! Never reads a protocol: doors in `edge` do. One crypto provider (aws-lc-rs) is installed here, explicitly.

mod accept;
mod tls;

pub use accept::{Connection, ConnectionSlot, Drain, Listener, Stream};
pub use tls::{DevCertificates, TlsError, client_config, install_provider, server_config};
