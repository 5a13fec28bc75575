//! TLS, limits on connections, drain.
