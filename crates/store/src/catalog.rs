//! The catalog: resource versions, outcomes, positions of consumers, what was set aside, caches of the control log.
//!
//! Clear columns hold no PHI: a resource is found by a keyed token of its type and id, since clients choose ids (and
//! choose medical record numbers). Bodies are sealed before they come here. Reading and writing is `silver`'s and
//! `control`'s matter.

use crate::StoreError;
use crate::sql::{Database, Migration};

/// The SQL database of a node.
#[derive(Clone)]
pub struct Catalog {
    pub(crate) db: Database,
}

impl Catalog {
    /// Opens or creates it. `sqlite:PATH` or `postgres://...`.
    pub async fn open(url: &str) -> Result<Catalog, StoreError> {
        Ok(Catalog { db: Database::open(url, MIGRATIONS).await? })
    }

    #[cfg(test)]
    pub async fn open_alone(url: &str) -> Result<Catalog, StoreError> {
        Ok(Catalog { db: Database::open_alone(url, MIGRATIONS).await? })
    }

    pub async fn close(&self) {
        self.db.close().await;
    }
}

const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, statements: FIRST },
    Migration { version: 2, statements: HELD_ENTRIES },
    Migration { version: 3, statements: ROUTES },
    Migration { version: 4, statements: ENTRIES },
    Migration { version: 5, statements: NAMED_ENTRIES },
    Migration { version: 6, statements: LIST_CLOCKS },
];

/// What came in, by entry: for searches, figures and the end of raw bodies. `control`, `sender` and `token` are keyed
/// tokens. Entries refined by an earlier version come in with a rebuild of the catalog.
const ENTRIES: &[&str] = &[
    "CREATE TABLE journal_entry (domain TEXT NOT NULL, position BIGINT NOT NULL, source TEXT NOT NULL,
        at BIGINT NOT NULL, kind TEXT NOT NULL, control BIGINT NOT NULL, sender BIGINT NOT NULL, bytes BIGINT NOT NULL, stored BIGINT NOT NULL, forwarded BIGINT NOT NULL,
        expired BIGINT NOT NULL, shadow BIGINT NOT NULL, PRIMARY KEY (domain, position)) {rowless}",
    "CREATE INDEX journal_entry_at ON journal_entry (domain, at)",
    "CREATE INDEX journal_entry_source ON journal_entry (domain, source, at)",
    "CREATE INDEX journal_entry_kind ON journal_entry (domain, kind, position)",
    "CREATE INDEX journal_entry_control ON journal_entry (domain, control, position)",
    "CREATE INDEX journal_entry_sender ON journal_entry (domain, sender, position)",
    "CREATE TABLE journal_identifier (domain TEXT NOT NULL, token BIGINT NOT NULL, position BIGINT NOT NULL,
        PRIMARY KEY (domain, token, position)) {rowless}",
    "CREATE INDEX journal_identifier_position ON journal_identifier (domain, position)",
    "CREATE INDEX set_aside_source ON set_aside (domain, source, resolved)",
    "CREATE TABLE unmapped_field (domain TEXT NOT NULL, source TEXT NOT NULL, place TEXT NOT NULL, n BIGINT NOT NULL,
        PRIMARY KEY (domain, source, place)) {rowless}",
];

/// Whom an entry named beside those whose resources it changed; and the labelled resources that it looked at, so that
/// their labels of today can be asked for.
const NAMED_ENTRIES: &[&str] = &[
    "CREATE TABLE named_entry (domain TEXT NOT NULL, position BIGINT NOT NULL, ordinal BIGINT NOT NULL,
        PRIMARY KEY (domain, position, ordinal)) {rowless}",
    "CREATE TABLE labelled_entry (domain TEXT NOT NULL, position BIGINT NOT NULL, token {blob} NOT NULL,
        PRIMARY KEY (domain, position, token)) {rowless}",
];

/// Of when the newest statement of a list is that a source sends whole. `list` is a keyed token: the table names nobody.
const LIST_CLOCKS: &[&str] =
    &["CREATE TABLE list_clock (domain TEXT NOT NULL, list {blob} NOT NULL, at BIGINT NOT NULL,
        PRIMARY KEY (domain, list)) {rowless}"];

/// What routes could not deliver; and whom an entry is about, asked by its position.
const ROUTES: &[&str] = &[
    "CREATE TABLE dead_letter (domain TEXT NOT NULL, route TEXT NOT NULL, position BIGINT NOT NULL, at BIGINT NOT NULL,
        code TEXT NOT NULL, reason TEXT NOT NULL, resolved BIGINT NOT NULL, PRIMARY KEY (domain, route, position))
        {rowless}",
    "CREATE INDEX held_entry_position ON held_entry (domain, position)",
];

/// Who holds the keys of journal entries that no lineage tells of: ordinal 0 for those held by nobody alone, where an
/// erasure looks for one patient among several; else a patient whom the entry named and did not change.
const HELD_ENTRIES: &[&str] = &[
    "CREATE TABLE held_entry (domain TEXT NOT NULL, ordinal BIGINT NOT NULL, position BIGINT NOT NULL,
        PRIMARY KEY (domain, ordinal, position)) {rowless}",
    "CREATE INDEX resource_version_ordinal ON resource_version (domain, ordinal)",
];

const FIRST: &[&str] = &[
    // The last change number and patient ordinal given out.
    "CREATE TABLE domain_state (domain TEXT PRIMARY KEY, change BIGINT NOT NULL, ordinal BIGINT NOT NULL)",
    "CREATE TABLE resource_version (
        domain TEXT NOT NULL, change BIGINT NOT NULL, token {blob} NOT NULL, version BIGINT NOT NULL,
        rtype TEXT NOT NULL, ordinal BIGINT NOT NULL, sensitivity BIGINT NOT NULL, last_updated BIGINT NOT NULL,
        deleted BIGINT NOT NULL, positions {blob} NOT NULL, object {blob} NOT NULL, body {blob} NOT NULL,
        PRIMARY KEY (domain, change))",
    "CREATE UNIQUE INDEX resource_version_token ON resource_version (domain, token, version)",
    "CREATE INDEX resource_version_type ON resource_version (domain, rtype, change)",
    // From a journal position to the versions that came of it.
    "CREATE TABLE lineage (domain TEXT NOT NULL, position BIGINT NOT NULL, change BIGINT NOT NULL,
        PRIMARY KEY (domain, position, change)) {rowless}",
    "CREATE TABLE patient (domain TEXT NOT NULL, ordinal BIGINT NOT NULL, upto BIGINT NOT NULL,
        PRIMARY KEY (domain, ordinal)) {rowless}",
    "CREATE TABLE outcome (domain TEXT NOT NULL, position BIGINT NOT NULL, status BIGINT NOT NULL, at BIGINT NOT NULL,
        object {blob} NOT NULL, body {blob} NOT NULL, PRIMARY KEY (domain, position))",
    // `key` is a keyed token; `hash` lies under a pad of its own.
    "CREATE TABLE seen (domain TEXT NOT NULL, source TEXT NOT NULL, key TEXT NOT NULL, position BIGINT NOT NULL,
        hash {blob} NOT NULL, at BIGINT NOT NULL, PRIMARY KEY (domain, source, key, position)) {rowless}",
    "CREATE INDEX seen_at ON seen (domain, at)",
    "CREATE TABLE set_aside (domain TEXT NOT NULL, position BIGINT NOT NULL, unit BIGINT NOT NULL,
        source TEXT NOT NULL, place TEXT NOT NULL, code TEXT NOT NULL, reason TEXT NOT NULL, critical BIGINT NOT NULL,
        at BIGINT NOT NULL, resolved BIGINT NOT NULL, PRIMARY KEY (domain, position, unit)) {rowless}",
    "CREATE TABLE consumer (domain TEXT NOT NULL, name TEXT NOT NULL, log TEXT NOT NULL, position BIGINT NOT NULL,
        PRIMARY KEY (domain, name, log)) {rowless}",
    "CREATE TABLE counter (domain TEXT NOT NULL, source TEXT NOT NULL, name TEXT NOT NULL, n BIGINT NOT NULL,
        PRIMARY KEY (domain, source, name)) {rowless}",
    // Caches of the control log; `position` is the entry that says so.
    "CREATE TABLE control_doc (kind TEXT NOT NULL, key TEXT NOT NULL, position BIGINT NOT NULL,
        object {blob} NOT NULL, body {blob} NOT NULL, PRIMARY KEY (kind, key))",
    "CREATE TABLE product_snapshot (domain TEXT NOT NULL, product TEXT NOT NULL, snapshot TEXT NOT NULL,
        position BIGINT NOT NULL, created BIGINT NOT NULL, object {blob} NOT NULL, manifest {blob} NOT NULL,
        PRIMARY KEY (domain, product, snapshot))",
];
