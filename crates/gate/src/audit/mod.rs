//! The audit log: what a record says ([`record`]), how it is sealed ([`keys`]), where it goes ([`target`], [`log`],
//! [`folder`]), how its targets become one truth ([`union`], [`follow`]), who saw whom ([`index`]), how it is read
//! ([`reader`]).

pub(crate) mod disclosure;
#[cfg(test)]
mod disclosure_tests;
pub(crate) mod events;
#[cfg(test)]
mod events_tests;
pub(crate) mod folder;
pub(crate) mod follow;
pub(crate) mod index;
#[cfg(test)]
mod index_tests;
pub(crate) mod keys;
pub(crate) mod ledger;
pub(crate) mod log;
pub(crate) mod print;
pub(crate) mod reader;
pub(crate) mod record;
pub(crate) mod records;
pub(crate) mod report;
pub(crate) mod target;
pub(crate) mod union;
#[cfg(test)]
mod union_tests;
pub(crate) mod vault;
