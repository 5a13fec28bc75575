//! What belongs together across resource types: all that is about source records, or a compartment; and the newest of
//! each code. One statement each, under the permit's cover, over keys that stand still while others write.

use std::collections::HashMap;

use fhir::compartment::{CARE_DATES_MAX, Compartment, care_dates};
use fhir::search::Query;
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::clause::Context;
use super::dict::TEXT;
use super::query::{self, Hit, Page};
use super::sql::Sql;
use crate::StoreError;

/// Resources of which the newest of each code are picked.
const LAST_AMONG_MAX: usize = 50_000;
/// Resources whose codes are read by one statement.
const CHUNK: usize = 512;

/// What a whole is the whole of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Of {
    Records(Vec<u32>),
    Compartment(Compartment, Vec<String>),
}

/// As `silver` asks for it.
#[derive(Debug, Clone)]
pub(crate) struct Whole {
    pub of: Of,
    pub root: &'static str,
    pub about: Option<Vec<u32>>,
    pub types: Vec<String>,
    pub since_ms: Option<i64>,
    pub care: Option<(i64, i64)>,
    pub total: bool,
}

/// A page after `after` (the keys of the last one), the root's type first, then in the order in which they came in.
pub(super) fn run(
    context: &Context<'_>,
    connection: &Connection,
    whole: &Whole,
    after: Option<&[Value]>,
    count: usize,
) -> Result<Page, StoreError> {
    let from = from(context, whole);
    let total = if whole.total {
        let mut sql = Sql::new("SELECT COUNT(*)");
        sql.append(&from);
        let total: i64 =
            connection.prepare_cached(&sql.text)?.query_row(params_from_iter(&sql.values), |row| row.get(0))?;
        Some(total.max(0) as u64)
    } else {
        None
    };
    let root = context.dict.rtype(whole.root).unwrap_or(-1);
    let mut sql = Sql::new("SELECT r0.rid, r0.change, r0.rtype <> ");
    sql.bind(root).append(&from);
    if let Some(after) = after {
        let [Value::Integer(group), Value::Integer(rid)] = after else { return Err(StoreError::BadCursor) };
        sql.push(" AND (r0.rtype <> ").bind(root).push(", r0.rid) > (").bind(*group).push(", ").bind(*rid).push(")");
    }
    sql.push(" ORDER BY 3, r0.rid LIMIT ").bind(count as i64 + 1);
    let mut statement = connection.prepare_cached(&sql.text)?;
    let rows = statement.query_map(params_from_iter(&sql.values), |row| {
        let rid: i64 = row.get(0)?;
        let keys = vec![Value::Integer(row.get(2)?), Value::Integer(rid)];
        Ok(Hit { rid, change: row.get::<_, i64>(1)?.max(0) as u64, keys })
    })?;
    let mut hits: Vec<Hit> = rows.collect::<Result<_, _>>()?;
    let more = hits.len() > count;
    hits.truncate(count);
    Ok(Page { hits, total, more })
}

/// ` FROM ... WHERE ...`, the resources as `r0`.
fn from(context: &Context<'_>, whole: &Whole) -> Sql {
    let mut sql = Sql::new(" FROM (");
    match &whole.of {
        Of::Records(records) => {
            sql.push("SELECT t.rid AS rid FROM res t WHERE t.ordinal")
                .list(" IN ", records.iter().map(|n| i64::from(*n)));
        }
        Of::Compartment(compartment, ids) => {
            let root = context.dict.rtype(compartment.root()).unwrap_or(-1);
            let params: Vec<i64> = context
                .dict
                .types()
                .flat_map(|(name, rtype)| {
                    let codes = compartment.parameters(name).iter();
                    codes.filter_map(move |code| context.dict.param(rtype, code)).map(|param| param.n)
                })
                .collect();
            sql.push("SELECT t.rid AS rid FROM res t WHERE t.rtype = ").bind(root);
            sql.push(" AND t.id").list(" IN ", ids.iter().cloned());
            sql.push(" UNION SELECT t.rid FROM ref t WHERE t.p").list(" IN ", params);
            sql.push(" AND t.tid").list(" IN ", ids.iter().cloned()).push(" AND t.tt = ").bind(root);
        }
    }
    sql.push(") d CROSS JOIN res r0 ON r0.rid = d.rid WHERE 1");
    context.cover.condition("r0", context.dict, &mut sql);
    if let Some(about) = &whole.about {
        let all = std::iter::once(0).chain(about.iter().map(|n| i64::from(*n)));
        sql.push(" AND r0.ordinal").list(" IN ", all);
    }
    if !whole.types.is_empty() {
        sql.push(" AND r0.rtype").list(" IN ", whole.types.iter().filter_map(|name| context.dict.rtype(name)));
    }
    if let Some(since) = whole.since_ms {
        sql.push(" AND r0.updated > ").bind(since);
    }
    if let Some((start, end)) = whole.care {
        // What has no time of care is of all times.
        sql.push(" AND COALESCE(");
        for group in 0..CARE_DATES_MAX {
            let dates: Vec<i64> = context
                .dict
                .types()
                .flat_map(|(name, rtype)| {
                    let codes = care_dates(name).get(group).copied().unwrap_or_default().iter();
                    codes.filter_map(move |code| context.dict.param(rtype, code)).map(|param| param.n)
                })
                .collect();
            sql.push("(SELECT MIN(d.lo) < ").bind(end).push(" AND MAX(d.hi) > ").bind(start);
            sql.push(" FROM dat d WHERE d.rid = r0.rid AND d.p").list(" IN ", dates).push("), ");
        }
        sql.push("1)");
    }
    sql
}

/// Of the resources that satisfy the query the newest `max` of each code, a code's together, newest first. `code` is a
/// token parameter, `date` says what is newest. Resources that share any coding are of one code
/// (R4 observation-operation-lastn); without a coding, those of one text.
pub(super) fn last(
    context: &Context<'_>,
    connection: &Connection,
    query: &Query,
    code: &str,
    date: &str,
    max: usize,
) -> Result<Vec<u64>, StoreError> {
    let param = |code: &str| {
        let rtype = context.dict.rtype(&query.rtype);
        rtype.and_then(|rtype| context.dict.param(rtype, code)).map_or(-1, |param| param.n)
    };
    let mut sql = Sql::new("SELECT r0.rid, r0.change");
    sql.push(", (SELECT MAX(d.hi) FROM dat d WHERE d.rid = r0.rid AND d.p = ").bind(param(date)).push(") AS at");
    sql.append(&query::from(context, connection, query)?);
    sql.push(" ORDER BY at DESC NULLS LAST, r0.rid DESC LIMIT ").bind(LAST_AMONG_MAX as i64 + 1);
    let mut statement = connection.prepare_cached(&sql.text)?;
    let rows = statement.query_map(params_from_iter(&sql.values), |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?.max(0) as u64))
    })?;
    let found: Vec<(i64, u64)> = rows.collect::<Result<_, _>>()?;
    if found.len() > LAST_AMONG_MAX {
        return Err(StoreError::TooMany { what: "resources to pick the newest from", max: LAST_AMONG_MAX });
    }
    let rids: Vec<i64> = found.iter().map(|(rid, _)| *rid).collect();
    let mut codes = codes(connection, &rids, param(code), param(&format!("{code}{TEXT}")))?;
    let mut groups = Groups::default();
    let group_of: Vec<usize> = rids.iter().map(|rid| groups.put(codes.remove(rid).unwrap_or_default())).collect();
    let mut picked: Vec<(usize, Vec<u64>)> = Vec::new();
    let mut places: HashMap<usize, usize> = HashMap::new();
    for ((_, change), group) in found.iter().zip(group_of) {
        let group = groups.root(group);
        let place = *places.entry(group).or_insert_with(|| {
            picked.push((group, Vec::new()));
            picked.len() - 1
        });
        if picked[place].1.len() < max {
            picked[place].1.push(*change);
        }
    }
    Ok(picked.into_iter().flat_map(|(_, changes)| changes).collect())
}

/// What a resource's code is known by: a coding, or its text.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Name {
    Coding(i64, String),
    Text(String),
}

fn codes(connection: &Connection, rids: &[i64], coding: i64, text: i64) -> Result<HashMap<i64, Vec<Name>>, StoreError> {
    let mut names: HashMap<i64, Vec<Name>> = HashMap::new();
    for chunk in rids.chunks(CHUNK) {
        let mut sql = Sql::new("SELECT t.rid, t.sys, t.code FROM tok t WHERE t.rid");
        sql.list(" IN ", padded(chunk)).push(" AND t.p = ").bind(coding);
        let mut statement = connection.prepare_cached(&sql.text)?;
        let rows = statement.query_map(params_from_iter(&sql.values), |row| {
            Ok((row.get::<_, i64>(0)?, Name::Coding(row.get(1)?, row.get(2)?)))
        })?;
        for row in rows {
            let (rid, name) = row?;
            names.entry(rid).or_default().push(name);
        }
        let left: Vec<i64> = chunk.iter().copied().filter(|rid| !names.contains_key(rid)).collect();
        if left.is_empty() {
            continue;
        }
        let mut sql = Sql::new("SELECT t.rid, t.folded FROM str t WHERE t.rid");
        sql.list(" IN ", padded(&left)).push(" AND t.p = ").bind(text);
        let mut statement = connection.prepare_cached(&sql.text)?;
        let rows = statement
            .query_map(params_from_iter(&sql.values), |row| Ok((row.get::<_, i64>(0)?, Name::Text(row.get(1)?))))?;
        for row in rows {
            let (rid, name) = row?;
            names.entry(rid).or_default().push(name);
        }
    }
    Ok(names)
}

/// Filled up to one length, so that one statement is prepared.
fn padded(rids: &[i64]) -> impl Iterator<Item = i64> {
    let last = rids.last().copied().unwrap_or(-1);
    rids.iter().copied().chain(std::iter::repeat(last)).take(CHUNK.max(rids.len()))
}

/// Resources whose codes have a name in common, joined.
#[derive(Default)]
struct Groups {
    parent: Vec<usize>,
    by_name: HashMap<Name, usize>,
}

impl Groups {
    /// The group of a resource; one without a name is a group by itself.
    fn put(&mut self, names: Vec<Name>) -> usize {
        let own = self.parent.len();
        self.parent.push(own);
        for name in names {
            match self.by_name.get(&name) {
                Some(other) => {
                    let (a, b) = (self.root(*other), self.root(own));
                    self.parent[b] = a;
                }
                None => {
                    self.by_name.insert(name, own);
                }
            }
        }
        own
    }

    fn root(&mut self, mut at: usize) -> usize {
        while self.parent[at] != at {
            self.parent[at] = self.parent[self.parent[at]];
            at = self.parent[at];
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shares_a_coding_is_one_code() {
        let mut groups = Groups::default();
        let coding = |system, code: &str| Name::Coding(system, code.to_owned());
        let a = groups.put(vec![coding(1, "a"), coding(2, "x")]);
        let b = groups.put(vec![coding(1, "b")]);
        let c = groups.put(vec![Name::Text("a".to_owned())]);
        let none = [groups.put(Vec::new()), groups.put(Vec::new())];
        // A translation joins what was apart.
        let d = groups.put(vec![coding(2, "x"), coding(1, "b")]);
        let roots = [a, b, c, d].map(|group| groups.root(group));
        assert!(roots[0] == roots[1] && roots[1] == roots[3] && roots[2] != roots[0]);
        assert_ne!(groups.root(none[0]), groups.root(none[1]));
    }
}
