//! The audit log: what a record says ([`record`]), how it is sealed ([`keys`]), where it goes ([`target`], [`log`]),
//! how it is read ([`reader`]).

pub(crate) mod keys;
pub(crate) mod ledger;
pub(crate) mod log;
pub(crate) mod reader;
pub(crate) mod record;
pub(crate) mod target;
pub(crate) mod vault;
