//! Putting resources into the index and taking them out: one transaction per batch, its position in it.

use std::collections::HashMap;

use base::{LogicalId, Ordinal, Sensitivity, Timestamp};
use fhir::search::IndexValue;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::dict::{self, Dict, IDENTIFIER, TEXT, UNIT};

/// A resource as the index sees it.
pub(crate) struct Document {
    pub rtype: String,
    pub id: LogicalId,
    pub version: u32,
    pub change: u64,
    pub patient: Ordinal,
    pub sensitivity: Sensitivity,
    pub last_updated: Timestamp,
    /// `None` takes the resource out.
    pub values: Option<Vec<(&'static str, IndexValue)>>,
}

/// Applies changes `from..=upto`; false, and nothing done, when the index does not stand at `from`.
pub(super) fn apply(
    connection: &mut Connection,
    dict: &mut Dict,
    from: u64,
    upto: u64,
    documents: &[Document],
    publish: &dyn Fn(&Dict),
) -> rusqlite::Result<bool> {
    let tx = connection.transaction()?;
    if position(&tx)? != from {
        return Ok(false);
    }
    for document in documents {
        put(&tx, dict, document)?;
    }
    tx.prepare_cached("UPDATE meta SET v = ? WHERE k = 'position'")?.execute([upto as i64])?;
    if dict.take_changed() {
        publish(dict);
    }
    tx.commit()?;
    Ok(true)
}

pub(super) fn position(connection: &Connection) -> rusqlite::Result<u64> {
    let position: i64 =
        connection.prepare_cached("SELECT v FROM meta WHERE k = 'position'")?.query_row([], |row| row.get(0))?;
    Ok(position.max(0) as u64)
}

fn put(tx: &Transaction<'_>, dict: &mut Dict, document: &Document) -> rusqlite::Result<()> {
    let rtype = dict.make_type(tx, &document.rtype)?;
    let id = document.id.as_str();
    let known: Option<i64> = tx
        .prepare_cached("SELECT rid FROM res WHERE rtype = ? AND id = ?")?
        .query_row(params![rtype, id], |row| row.get(0))
        .optional()?;
    if let Some(rid) = known {
        remove_values(tx, rid)?;
    }
    let Some(values) = &document.values else {
        if let Some(rid) = known {
            tx.prepare_cached("DELETE FROM res WHERE rid = ?")?.execute([rid])?;
        }
        return Ok(());
    };
    tx.prepare_cached(
        "INSERT INTO res (rid, rtype, id, change, version, ordinal, sens, updated) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, \
         ?8) ON CONFLICT (rid) DO UPDATE SET change = ?4, version = ?5, ordinal = ?6, sens = ?7, updated = ?8",
    )?
    .execute(params![
        known,
        rtype,
        id,
        document.change as i64,
        document.version,
        document.patient.0,
        document.sensitivity.0,
        document.last_updated.ms()
    ])?;
    let rid = known.unwrap_or_else(|| tx.last_insert_rowid());
    let mut count: HashMap<&'static str, u32> = HashMap::new();
    for (code, value) in values {
        // These are columns of the resource itself.
        if matches!(*code, "_id" | "_lastUpdated") {
            continue;
        }
        let n = count.entry(code).or_default();
        *n += 1;
        insert(tx, dict, rtype, rid, code, value)?;
        if *n == 2 {
            dict.mark_multi(tx, rtype, code)?;
        }
    }
    Ok(())
}

/// Takes out every resource about a source record.
pub(super) fn erase(connection: &mut Connection, patient: Ordinal) -> rusqlite::Result<u64> {
    let tx = connection.transaction()?;
    let rids: Vec<i64> = tx
        .prepare_cached("SELECT rid FROM res WHERE ordinal = ?")?
        .query_map([patient.0], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for rid in &rids {
        remove_values(&tx, *rid)?;
        tx.prepare_cached("DELETE FROM res WHERE rid = ?")?.execute([rid])?;
    }
    tx.commit()?;
    Ok(rids.len() as u64)
}

fn remove_values(tx: &Transaction<'_>, rid: i64) -> rusqlite::Result<()> {
    let mut composites = tx.prepare_cached("SELECT cid FROM cmp WHERE rid = ?")?;
    for cid in composites.query_map([rid], |row| row.get::<_, i64>(0))?.collect::<Result<Vec<_>, _>>()? {
        remove_rows(tx, -cid)?;
    }
    tx.prepare_cached("DELETE FROM cmp WHERE rid = ?")?.execute([rid])?;
    remove_rows(tx, rid)
}

fn remove_rows(tx: &Transaction<'_>, rid: i64) -> rusqlite::Result<()> {
    for statement in [
        "DELETE FROM tok WHERE rid = ?",
        "DELETE FROM ref WHERE rid = ?",
        "DELETE FROM dat WHERE rid = ?",
        "DELETE FROM str WHERE rid = ?",
        "DELETE FROM num WHERE rid = ?",
        "DELETE FROM qty WHERE rid = ?",
        "DELETE FROM uri WHERE rid = ?",
    ] {
        tx.prepare_cached(statement)?.execute([rid])?;
    }
    Ok(())
}

const TOK: &str = "INSERT OR IGNORE INTO tok (rid, p, code, sys) VALUES (?, ?, ?, ?)";
const REF: &str = "INSERT OR IGNORE INTO ref (rid, p, tid, tt) VALUES (?, ?, ?, ?)";
const STR: &str = "INSERT OR IGNORE INTO str (rid, p, folded, exact) VALUES (?, ?, ?, ?)";
const QTY: &str = "INSERT OR IGNORE INTO qty (rid, p, code, lo, hi, sys, v) VALUES (?, ?, ?, ?, ?, ?, ?)";

fn insert(
    tx: &Transaction<'_>,
    dict: &mut Dict,
    rtype: i64,
    rid: i64,
    code: &str,
    value: &IndexValue,
) -> rusqlite::Result<()> {
    let p = dict.make_param(tx, rtype, code)?;
    match value {
        IndexValue::Token { system, code: token, text } => {
            if token.is_some() || system.is_some() {
                let token = token.as_deref().unwrap_or("");
                tx.prepare_cached(TOK)?.execute(params![rid, p, token, dict::system(system.as_deref())])?;
            }
            if let Some(text) = text.as_deref().filter(|text| !text.is_empty()) {
                let p = dict.make_param(tx, rtype, &format!("{code}{TEXT}"))?;
                tx.prepare_cached(STR)?.execute(params![rid, p, text, ""])?;
            }
        }
        IndexValue::Reference { rtype: target, id } => {
            let target = dict.make_type(tx, target)?;
            tx.prepare_cached(REF)?.execute(params![rid, p, id, target])?;
        }
        IndexValue::AbsoluteRef { url } => {
            tx.prepare_cached(REF)?.execute(params![rid, p, url, 0])?;
        }
        IndexValue::IdentifierRef { system, code: token } => {
            let p = dict.make_param(tx, rtype, &format!("{code}{IDENTIFIER}"))?;
            let token = token.as_deref().unwrap_or("");
            tx.prepare_cached(TOK)?.execute(params![rid, p, token, dict::system(system.as_deref())])?;
        }
        IndexValue::Date { from_ms, to_ms } => {
            tx.prepare_cached("INSERT OR IGNORE INTO dat (rid, p, lo, hi) VALUES (?, ?, ?, ?)")?
                .execute(params![rid, p, from_ms, to_ms])?;
        }
        IndexValue::String { folded, exact } => {
            tx.prepare_cached(STR)?.execute(params![rid, p, folded, exact])?;
        }
        IndexValue::Number { low, high } => {
            tx.prepare_cached("INSERT OR IGNORE INTO num (rid, p, lo, hi) VALUES (?, ?, ?, ?)")?
                .execute(params![rid, p, low, high])?;
        }
        IndexValue::Quantity { value, low, high, system, code, unit } => {
            let system = dict::system(system.as_deref());
            let token = code.as_deref().unwrap_or("");
            tx.prepare_cached(QTY)?.execute(params![rid, p, token, low, high, system, value])?;
            if let Some(unit) = unit.as_deref().filter(|unit| *unit != token) {
                tx.prepare_cached(QTY)?.execute(params![rid, p, unit, low, high, UNIT, value])?;
            }
        }
        IndexValue::Uri(uri) => {
            tx.prepare_cached("INSERT OR IGNORE INTO uri (rid, p, v) VALUES (?, ?, ?)")?
                .execute(params![rid, p, uri])?;
        }
        IndexValue::Composite(parts) => {
            tx.prepare_cached("INSERT INTO cmp (rid, p) VALUES (?, ?)")?.execute(params![rid, p])?;
            let parts_rid = -tx.last_insert_rowid();
            for (n, part) in parts.iter().enumerate() {
                insert(tx, dict, rtype, parts_rid, &dict::part(code, n), part)?;
            }
        }
    }
    Ok(())
}
