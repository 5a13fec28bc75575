//! `_include` and `_revinclude` (R4 §3.1.1.5.6): what the page's resources refer to, and what refers to them.

use std::collections::HashSet;

use fhir::search::{Include, Query};
use rusqlite::{Connection, params_from_iter};

use super::clause::Context;
use super::query::Hit;
use super::sql::Sql;
use crate::StoreError;

/// How often included resources are followed further, with `:iterate`.
const ROUNDS_MAX: usize = 8;

/// Page resources per statement.
const CHUNK: usize = 256;

#[derive(Clone, Copy)]
enum Direction {
    /// To what the source refers to.
    Forward,
    /// To what refers to it.
    Back,
}

/// Change numbers of the included resources, without those of the page, in the order found; at most `max`.
pub(super) fn run(
    context: &Context<'_>,
    connection: &Connection,
    query: &Query,
    hits: &[Hit],
    max: usize,
) -> Result<Vec<u64>, StoreError> {
    let mut known: HashSet<i64> = hits.iter().map(|hit| hit.rid).collect();
    let mut included = Vec::new();
    let mut frontier: Vec<i64> = hits.iter().map(|hit| hit.rid).collect();
    let includes = query.includes.iter().map(|include| (include, Direction::Forward));
    let all: Vec<_> = includes.chain(query.revincludes.iter().map(|include| (include, Direction::Back))).collect();
    for round in 0..ROUNDS_MAX {
        let mut next = Vec::new();
        for (include, direction) in all.iter().filter(|(include, _)| round == 0 || include.iterate) {
            for chunk in frontier.chunks(CHUNK) {
                let left = max.saturating_sub(included.len());
                for (rid, change) in follow(context, connection, include, *direction, chunk, left + known.len())? {
                    if known.insert(rid) {
                        next.push(rid);
                        included.push(change);
                    }
                }
                if included.len() > max {
                    return Err(StoreError::TooMany { what: "included resources", max });
                }
            }
        }
        if next.is_empty() {
            break;
        }
        frontier = next;
    }
    Ok(included)
}

fn follow(
    context: &Context<'_>,
    connection: &Connection,
    include: &Include,
    direction: Direction,
    from: &[i64],
    limit: usize,
) -> Result<Vec<(i64, u64)>, StoreError> {
    let Some(source) = context.dict.rtype(&include.source) else { return Ok(Vec::new()) };
    let mut sql = Sql::default();
    match direction {
        Direction::Forward => {
            sql.push(
                "SELECT DISTINCT r1.rid, r1.change FROM ref f CROSS JOIN res r0 ON r0.rid = f.rid CROSS JOIN res r1 ON \
                 r1.rtype = f.tt AND r1.id = f.tid WHERE",
            );
            sql.list(" f.rid IN ", padded(from));
            sql.push(" AND r0.rtype = ").bind(source);
        }
        Direction::Back => {
            sql.push(
                "SELECT DISTINCT r1.rid, r1.change FROM res r0 CROSS JOIN ref f INDEXED BY ref_v ON f.tid = r0.id AND \
                 f.tt = r0.rtype CROSS JOIN res r1 ON r1.rid = f.rid WHERE",
            );
            sql.list(" r0.rid IN ", padded(from));
            sql.push(" AND r1.rtype = ").bind(source);
        }
    }
    match (include.param, direction) {
        (Some(code), _) => {
            let n = context.dict.param(source, code).map_or(-1, |param| param.n);
            sql.push(" AND f.p = ").bind(n);
        }
        (None, Direction::Forward) => {}
        (None, Direction::Back) => {
            let all = context.dict.params_of(source);
            sql.list(" AND f.p IN ", all);
        }
    }
    if let Some(target) = &include.target {
        let tt = context.dict.rtype(target).unwrap_or(-1);
        sql.push(" AND f.tt = ").bind(tt);
    }
    context.cover.condition("r1", context.dict, &mut sql);
    sql.push(" LIMIT ").bind(limit as i64 + 1);
    let mut statement = connection.prepare_cached(&sql.text)?;
    let rows = statement.query_map(params_from_iter(&sql.values), |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?.max(0) as u64))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Filled up to one of few lengths, so that few statements are prepared.
fn padded(rids: &[i64]) -> impl Iterator<Item = i64> {
    let length = [1, 16, 64, CHUNK].into_iter().find(|length| *length >= rids.len()).unwrap_or(CHUNK);
    let last = rids.last().copied().unwrap_or(-1);
    rids.iter().copied().chain(std::iter::repeat(last)).take(length)
}
