//! A query as SQL statements: which resources, in which order, from where on, how many in all.
//!
//! The plan is one of two. A criterion that few resources satisfy drives: its resources are listed, tested against the
//! rest and sorted. Where every criterion is common, or none can be listed, the resources are walked in the order of
//! the answer and tested, until the page is full.

use fhir::search::{Clause, ClauseValue, Criterion, Modifier, ParamKind, Prefix, Query, Total};
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::clause::Context;
use super::sql::Sql;
use crate::StoreError;

/// A criterion that at most so many resources satisfy may drive.
pub(crate) const FEW: i64 = 2_000;

/// A resource of the answer, with the values it is sorted by.
#[derive(Debug, Clone)]
pub(crate) struct Hit {
    pub rid: i64,
    pub change: u64,
    pub keys: Vec<Value>,
}

pub(crate) struct Page {
    pub hits: Vec<Hit>,
    pub total: Option<u64>,
    /// There are more after the last.
    pub more: bool,
}

/// A value the answer is ordered by.
struct Key {
    expression: Sql,
    desc: bool,
}

/// All criteria of a query, in one list.
pub(super) fn criteria(query: &Query) -> Vec<Criterion> {
    let clauses = query.clauses.iter().cloned().map(Criterion::Clause);
    let chains = query.chains.iter().cloned().map(Criterion::Chain);
    let has = query.has.iter().cloned().map(Criterion::Has);
    clauses.chain(chains).chain(has).chain(query.any.iter().cloned().map(Criterion::Any)).collect()
}

/// Runs the query: at most `count` resources after `after` (the last keys of the page before).
pub(super) fn run(
    context: &Context<'_>,
    connection: &Connection,
    query: &Query,
    after: Option<&[Value]>,
    count: usize,
) -> Result<Page, StoreError> {
    // The form is checked even when there is nothing to find.
    let plan = Plan::new(context, connection, query)?;
    let total = match query.total {
        Total::None => None,
        Total::Estimate | Total::Accurate => Some(plan.total(connection)?),
    };
    if count == 0 {
        return Ok(Page { hits: Vec::new(), total, more: false });
    }
    let mut hits = plan.page(connection, after, count + 1)?;
    let more = hits.len() > count;
    hits.truncate(count);
    Ok(Page { hits, total, more })
}

/// Ids and source records, in the order of ids.
pub(super) fn find(
    context: &Context<'_>,
    connection: &Connection,
    query: &Query,
    max: usize,
) -> Result<Vec<(String, u32)>, StoreError> {
    let plan = Plan::new(context, connection, query)?;
    let mut sql = Sql::new("SELECT r0.id, r0.ordinal");
    sql.append(&plan.from).push(" ORDER BY r0.id LIMIT ").bind(max as i64);
    let mut statement = connection.prepare_cached(&sql.text)?;
    let rows = statement.query_map(params_from_iter(&sql.values), |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// ` FROM ... WHERE ...` of a query: its resources as `r0`.
pub(super) fn from(context: &Context<'_>, connection: &Connection, query: &Query) -> Result<Sql, StoreError> {
    Ok(Plan::new(context, connection, query)?.from)
}

/// The statement of a first page, for tests of what SQLite makes of it.
#[cfg(test)]
pub(super) fn page_statement(
    context: &Context<'_>,
    connection: &Connection,
    query: &Query,
    limit: usize,
) -> Result<Sql, StoreError> {
    Plan::new(context, connection, query)?.statement(None, limit)
}

struct Plan {
    /// ` FROM ... WHERE ...`: the resources of the answer as `r0`.
    from: Sql,
    keys: Vec<Key>,
    /// The keys are columns of `r0` in the order of its index.
    natural: bool,
}

impl Plan {
    fn new(context: &Context<'_>, connection: &Connection, query: &Query) -> Result<Plan, StoreError> {
        let criteria = criteria(query);
        let driver = match context.dict.rtype(&query.rtype) {
            Some(_) => driver(context, connection, query, &criteria)?,
            None => None,
        };
        let mut from = Sql::default();
        match &driver {
            Some((_, source)) => {
                from.push(" FROM (SELECT DISTINCT s.rid AS rid FROM (").append(source);
                from.push(") s) d CROSS JOIN res r0 ON r0.rid = d.rid WHERE r0.rtype = ");
            }
            None => {
                from.push(" FROM res r0 WHERE r0.rtype = ");
            }
        }
        from.bind(context.dict.rtype(&query.rtype).unwrap_or(-1));
        context.cover.condition("r0", context.dict, &mut from);
        for criterion in &criteria {
            from.push(" AND ");
            context.test(&query.rtype, criterion, 0, &mut from)?;
        }
        let natural = query.sort.is_empty();
        Ok(Plan { from, keys: keys(context, query)?, natural })
    }

    fn total(&self, connection: &Connection) -> Result<u64, StoreError> {
        let mut sql = Sql::new("SELECT COUNT(*)");
        sql.append(&self.from);
        let total: i64 =
            connection.prepare_cached(&sql.text)?.query_row(params_from_iter(&sql.values), |row| row.get(0))?;
        Ok(total.max(0) as u64)
    }

    fn statement(&self, after: Option<&[Value]>, limit: usize) -> Result<Sql, StoreError> {
        let mut sql = Sql::default();
        if self.natural {
            sql.push("SELECT r0.rid, r0.change, r0.updated, r0.id").append(&self.from);
            if let Some(after) = after {
                let [updated, id] = after else { return Err(StoreError::BadCursor) };
                sql.push(" AND r0.updated <= ").bind(updated.clone());
                sql.push(" AND (r0.updated < ").bind(updated.clone());
                sql.push(" OR r0.id > ").bind(id.clone()).push(")");
            }
            sql.push(" ORDER BY r0.updated DESC, r0.id LIMIT ").bind(limit as i64);
            return Ok(sql);
        }
        sql.push("SELECT * FROM (SELECT r0.rid, r0.change");
        for (n, key) in self.keys.iter().enumerate() {
            sql.push(", ").append(&key.expression).push(&format!(" AS k{n}"));
        }
        sql.append(&self.from).push(")");
        if let Some(after) = after {
            self.after(after, &mut sql)?;
        }
        for (n, key) in self.keys.iter().enumerate() {
            sql.push(if n == 0 { " ORDER BY " } else { ", " });
            // What has no value comes last, either way.
            sql.push(&format!("k{n} {} NULLS LAST", if key.desc { "DESC" } else { "ASC" }));
        }
        sql.push(" LIMIT ").bind(limit as i64);
        Ok(sql)
    }

    /// What stands after these keys in the order of the answer.
    fn after(&self, after: &[Value], sql: &mut Sql) -> Result<(), StoreError> {
        if after.len() != self.keys.len() {
            return Err(StoreError::BadCursor);
        }
        sql.push(" WHERE (0");
        for n in 0..after.len() {
            sql.push(" OR (1");
            for (m, value) in after.iter().enumerate().take(n) {
                sql.push(&format!(" AND k{m} IS ")).bind(value.clone());
            }
            match &after[n] {
                Value::Null => sql.push(" AND 0"),
                value => {
                    let compare = if self.keys[n].desc { "<" } else { ">" };
                    sql.push(&format!(" AND (k{n} {compare} ")).bind(value.clone()).push(&format!(" OR k{n} IS NULL)"))
                }
            };
            sql.push(")");
        }
        sql.push(")");
        Ok(())
    }

    fn page(&self, connection: &Connection, after: Option<&[Value]>, limit: usize) -> Result<Vec<Hit>, StoreError> {
        let sql = self.statement(after, limit)?;
        let mut statement = connection.prepare_cached(&sql.text)?;
        let rows = statement.query_map(params_from_iter(&sql.values), |row| {
            let keys = (0..self.keys.len()).map(|n| row.get(2 + n)).collect::<Result<_, _>>()?;
            Ok(Hit { rid: row.get(0)?, change: row.get::<_, i64>(1)?.max(0) as u64, keys })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

/// The criterion that the fewest resources satisfy, when they are few.
fn driver(
    context: &Context<'_>,
    connection: &Connection,
    query: &Query,
    criteria: &[Criterion],
) -> Result<Option<(i64, Sql)>, StoreError> {
    let mut best: Option<(i64, Sql)> = None;
    let windows = date_windows(context, query);
    let listed = criteria.iter().map(|criterion| context.source(&query.rtype, criterion, 0));
    for source in windows.into_iter().map(|window| Ok(Some(window))).chain(listed) {
        let Some(source) = source? else { continue };
        let most = best.as_ref().map_or(context.few, |(count, _)| *count - 1);
        if most < 0 {
            break;
        }
        let mut sql = Sql::new("SELECT COUNT(*) FROM (SELECT 1 FROM (");
        sql.append(&source).push(") LIMIT ").bind(most + 1).push(")");
        let count: i64 =
            connection.prepare_cached(&sql.text)?.query_row(params_from_iter(&sql.values), |row| row.get(0))?;
        if count <= most {
            best = Some((count, source));
        }
    }
    Ok(best)
}

/// `date=ge...&date=lt...`: each half is common, both together may be rare. Where a resource has at most one value of
/// the parameter the two bound one row.
fn date_windows(context: &Context<'_>, query: &Query) -> Vec<Sql> {
    let mut windows = Vec::new();
    for lower in &query.clauses {
        let [ClauseValue::Date { prefix: Prefix::Ge | Prefix::Gt | Prefix::Sa, from_ms, .. }] = lower.values.as_slice()
        else {
            continue;
        };
        for upper in query.clauses.iter().filter(|upper| upper.param == lower.param) {
            let [ClauseValue::Date { prefix: Prefix::Le | Prefix::Lt | Prefix::Eb, to_ms, .. }] =
                upper.values.as_slice()
            else {
                continue;
            };
            let Some(rtype) = context.dict.rtype(&query.rtype) else { continue };
            let Some(param) = context.dict.param(rtype, lower.param) else { continue };
            if param.multi {
                continue;
            }
            // A superset of what both ask for: every criterion is tested once more.
            let mut sql = Sql::new("SELECT t.rid AS rid FROM dat t WHERE t.p = ");
            sql.bind(param.n).push(" AND t.lo <= ").bind(*to_ms).push(" AND t.lo >= ").bind(*from_ms);
            sql.push(" UNION ALL SELECT t.rid FROM dat t WHERE t.p = ").bind(param.n);
            // What began before the window and reaches into it.
            sql.push(" AND t.hi > ").bind(*from_ms).push(" AND t.lo < ").bind(*from_ms);
            windows.push(sql);
        }
    }
    windows
}

fn keys(context: &Context<'_>, query: &Query) -> Result<Vec<Key>, StoreError> {
    let mut keys = Vec::with_capacity(query.sort.len() + 2);
    for (code, desc) in &query.sort {
        keys.push(Key { expression: sort_expression(context, &query.rtype, code, *desc)?, desc: *desc });
    }
    if query.sort.is_empty() {
        keys.push(Key { expression: Sql::new("r0.updated"), desc: true });
    }
    if !query.sort.iter().any(|(code, _)| *code == "_id") {
        keys.push(Key { expression: Sql::new("r0.id"), desc: false });
    }
    Ok(keys)
}

fn sort_expression(context: &Context<'_>, rtype: &str, code: &str, desc: bool) -> Result<Sql, StoreError> {
    match code {
        "_lastUpdated" => return Ok(Sql::new("r0.updated")),
        "_id" => return Ok(Sql::new("r0.id")),
        _ => {}
    }
    let kind = fhir::search::param(rtype, code).map(|param| param.kind);
    let (table, column) = match kind {
        Some(ParamKind::Token) => ("tok", "code"),
        Some(ParamKind::Reference) => ("ref", "tid"),
        Some(ParamKind::Date) => ("dat", if desc { "hi" } else { "lo" }),
        Some(ParamKind::String) => ("str", "folded"),
        Some(ParamKind::Number) => ("num", if desc { "hi" } else { "lo" }),
        Some(ParamKind::Quantity) => ("qty", "v"),
        Some(ParamKind::Uri) => ("uri", "v"),
        Some(ParamKind::Composite | ParamKind::Special) | None => {
            return Err(StoreError::unsupported(format!("_sort by {code}")));
        }
    };
    let n = context.dict.rtype(rtype).and_then(|rtype| context.dict.param(rtype, code)).map_or(-1, |param| param.n);
    let aggregate = if desc { "MAX" } else { "MIN" };
    let mut sql = Sql::new(&format!("(SELECT {aggregate}(t.{column}) FROM {table} t WHERE t.rid = r0.rid AND t.p = "));
    sql.bind(n).push(")");
    Ok(sql)
}

/// Writes what makes two queries one and the same search: type, criteria, order. For binding page links.
pub(crate) fn fingerprint(query: &Query) -> [u8; 32] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut write = |text: &str| {
        context.update(&(text.len() as u64).to_be_bytes());
        context.update(text.as_bytes());
    };
    write(&query.rtype);
    for criterion in criteria(query) {
        write_criterion(&criterion, &mut write);
    }
    for (code, desc) in &query.sort {
        write(if *desc { "-" } else { "+" });
        write(code);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

fn write_criterion(criterion: &Criterion, write: &mut dyn FnMut(&str)) {
    match criterion {
        Criterion::Clause(clause) => write_clause(clause, write),
        Criterion::Chain(chain) => {
            write("chain");
            write(chain.param);
            write(&chain.branches.len().to_string());
            for (target, criterion) in &chain.branches {
                write(target);
                write_criterion(criterion, write);
            }
        }
        Criterion::Has(has) => {
            write("has");
            write(&has.rtype);
            write(has.param);
            write_criterion(&has.criterion, write);
        }
        Criterion::Any(alternatives) => {
            write("any");
            write(&alternatives.len().to_string());
            for clauses in alternatives {
                write(&clauses.len().to_string());
                for clause in clauses {
                    write_clause(clause, write);
                }
            }
        }
    }
}

fn write_clause(clause: &Clause, write: &mut dyn FnMut(&str)) {
    write("clause");
    write(clause.param);
    match &clause.modifier {
        None => write(""),
        Some(Modifier::Type(rtype)) => write(&format!("type {rtype}")),
        Some(modifier) => write(&format!("{modifier:?}")),
    }
    write(&clause.values.len().to_string());
    for value in &clause.values {
        write_value(value, write);
    }
}

fn write_value(value: &ClauseValue, write: &mut dyn FnMut(&str)) {
    let mut optional = |text: Option<&str>| match text {
        None => write("none"),
        Some(text) => {
            write("some");
            write(text);
        }
    };
    match value {
        ClauseValue::Token { system, code } => {
            optional(system.as_ref().map(|system| system.as_deref().unwrap_or("\0")));
            optional(code.as_deref());
        }
        ClauseValue::Text(text) | ClauseValue::AbsoluteRef(text) | ClauseValue::Uri(text) => write(text),
        ClauseValue::Reference { rtype, id } => {
            optional(rtype.as_deref());
            optional(Some(id));
        }
        ClauseValue::Date { prefix, from_ms, to_ms } => write(&format!("{prefix:?} {from_ms} {to_ms}")),
        ClauseValue::String { folded, exact } => {
            optional(Some(folded));
            optional(Some(exact));
        }
        ClauseValue::Number { prefix, value, low, high } => write(&format!("{prefix:?} {value} {low} {high}")),
        ClauseValue::Quantity { prefix, value, low, high, system, code } => {
            optional(Some(&format!("{prefix:?} {value} {low} {high}")));
            optional(system.as_ref().map(|system| system.as_deref().unwrap_or("\0")));
            optional(code.as_deref());
        }
        ClauseValue::Composite(parts) => {
            for part in parts {
                write_value(part, write);
            }
        }
        ClauseValue::Missing(missing) => write(if *missing { "missing" } else { "present" }),
    }
}
