//! What a node keeps beside its logs: objects, the catalog, silver and the search index.
//!
//! - [`objects`]: large sealed things, durable when acknowledged.
//! - [`Catalog`]: the SQL database; [`SqlKeyTable`]: the vault's tables, in a database of their own.
//! - [`Silver`]: sealed versions of FHIR resources, read, searched and written under a [`base::Permit`].
//! - [`Control`]: caches of the control log; [`Facts`]: governance facts in the control log itself.
//!
//! All of it is derived from the logs but for keys and large objects. Nothing here decides who may see what (`gate`)
//! or what a resource means (`fhir`, `clinical`); it checks what a permit covers, row by row.

mod catalog;
mod control;
mod error;
pub mod facts;
mod index;
mod index_key;
mod keys;
pub mod objects;
mod routes;
mod secrets;
mod silver;
mod sql;
#[cfg(test)]
mod sqlite_sim_tests;

pub use catalog::Catalog;
pub use control::{Control, ControlDoc, ProductSnapshot};
pub use error::StoreError;
pub use facts::{Fact, FactError, Facts};
pub use index_key::INDEX_CLASS;
pub use keys::SqlKeyTable;
pub use routes::{About, DeadLetter, REFUSED, RouteBook};
pub use silver::{
    Batch, DaySize, Entered, EntryQuery, EntryRow, EntryState, EntryToken, Erased, Found, NewVersion, Of, Outcome,
    Progress, REFINE, RETENTION_DEFAULT, Resource, Scanned, SearchPage, Seen, SetAside, SetAsideEntry, Silver,
    SilverDigest, SilverParts, SourceFigures, Traced, Waiting, Whole, compress, decompress,
};
