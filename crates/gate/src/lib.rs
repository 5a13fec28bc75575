//! Authenticate, decide, permit, record, release.
