//! One criterion of a query as SQL: as a test on a resource's row, and as a source of resources that satisfy it.
//!
//! Both are the same conditions on the same tables; the test leads with `rid` and uses the table's primary key, the
//! source uses its index by value. The meaning of values and prefixes is `fhir::search`'s.

use fhir::search::{Chain, Clause, ClauseValue, Criterion, Has, Modifier, ParamKind, Prefix};
use rusqlite::types::Value;

use super::cover::Cover;
use super::dict::{self, Dict, IDENTIFIER, Param, TEXT};
use super::sql::Sql;
use crate::StoreError;

/// What criteria are turned into SQL with.
pub(super) struct Context<'a> {
    pub dict: &'a Dict,
    pub cover: &'a Cover,
    /// A criterion that more resources satisfy does not drive a search.
    pub few: i64,
}

/// A condition that no row satisfies.
const NEVER: &str = "0";

/// Larger than any text that begins with what stands before it.
const LAST: char = '\u{10FFFF}';

fn unsupported(param: &str) -> StoreError {
    StoreError::unsupported(format!("the search parameter {param}, used like this,"))
}

/// The value table of a clause, and the parameter's name in it.
fn table(clause: &Clause) -> Result<(&'static str, String), StoreError> {
    let code = clause.param.to_owned();
    Ok(match (&clause.modifier, clause.kind) {
        (Some(Modifier::Text), _) => ("str", code + TEXT),
        (Some(Modifier::Identifier), _) => ("tok", code + IDENTIFIER),
        (_, ParamKind::Token) => ("tok", code),
        (_, ParamKind::Reference) => ("ref", code),
        (_, ParamKind::Date) => ("dat", code),
        (_, ParamKind::String) => ("str", code),
        (_, ParamKind::Number) => ("num", code),
        (_, ParamKind::Quantity) => ("qty", code),
        (_, ParamKind::Uri) => ("uri", code),
        (_, ParamKind::Composite) => ("cmp", code),
        (_, ParamKind::Special) => return Err(unsupported(clause.param)),
    })
}

/// The parts of a composite value, each with the clause that it would be by itself.
fn parts<'v>(
    rtype: &str,
    clause: &Clause,
    value: &'v ClauseValue,
) -> Result<Vec<(Clause, &'v ClauseValue)>, StoreError> {
    let ClauseValue::Composite(values) = value else { return Err(unsupported(clause.param)) };
    let components = fhir::search::param(rtype, clause.param).map(|param| param.components).unwrap_or_default();
    if components.len() != values.len() || clause.modifier.is_some() {
        return Err(unsupported(clause.param));
    }
    let of = |kind| Clause { param: clause.param, kind, modifier: None, values: Vec::new() };
    Ok(components.iter().zip(values).map(|(component, value)| (of(component.kind), value)).collect())
}

/// Whether resources that satisfy the clause can be listed, and not only tested.
fn lists(clause: &Clause) -> bool {
    !matches!(clause.modifier, Some(Modifier::Not | Modifier::Missing | Modifier::Contains))
        && !matches!(clause.param, "_lastUpdated")
}

impl Context<'_> {
    fn param(&self, rtype: &str, code: &str) -> Option<Param> {
        self.dict.param(self.dict.rtype(rtype)?, code)
    }

    /// A condition on `r{depth}`.
    pub fn test(&self, rtype: &str, criterion: &Criterion, depth: usize, sql: &mut Sql) -> Result<(), StoreError> {
        match criterion {
            Criterion::Clause(clause) => self.test_clause(rtype, clause, depth, sql),
            Criterion::Chain(chain) => self.test_chain(rtype, chain, depth, sql),
            Criterion::Has(has) => self.test_has(rtype, has, depth, sql),
            Criterion::Any(alternatives) => self.test_any(rtype, alternatives, depth, sql),
        }
    }

    fn test_any(
        &self,
        rtype: &str,
        alternatives: &[Vec<Clause>],
        depth: usize,
        sql: &mut Sql,
    ) -> Result<(), StoreError> {
        sql.push("(").push(NEVER);
        for clauses in alternatives {
            sql.push(" OR (1");
            for clause in clauses {
                sql.push(" AND ");
                self.test_clause(rtype, clause, depth, sql)?;
            }
            sql.push(")");
        }
        sql.push(")");
        Ok(())
    }

    fn test_clause(&self, rtype: &str, clause: &Clause, depth: usize, sql: &mut Sql) -> Result<(), StoreError> {
        if matches!(clause.param, "_id" | "_lastUpdated") {
            return self.test_column(clause, depth, sql);
        }
        if let [ClauseValue::Missing(missing)] = clause.values.as_slice() {
            return self.test_missing(rtype, clause, *missing, depth, sql);
        }
        if matches!(clause.modifier, Some(Modifier::Not)) {
            sql.push("NOT ");
        }
        let (table, code) = table(clause)?;
        let Some(param) = self.param(rtype, &code) else {
            sql.push("(").push(NEVER).push(")");
            return Ok(());
        };
        // Parts of a composite are rows `t` within its row `c`.
        let t = if table == "cmp" { "c" } else { "t" };
        sql.push(&format!("EXISTS (SELECT 1 FROM {table} {t} WHERE {t}.rid = r{depth}.rid AND {t}.p = "));
        sql.bind(param.n).push(" AND (");
        for (n, value) in clause.values.iter().enumerate() {
            if n > 0 {
                sql.push(" OR ");
            }
            sql.push("(");
            match value {
                ClauseValue::Composite(_) => self.test_parts(rtype, clause, value, sql)?,
                value => self.condition(clause, value, sql)?,
            }
            sql.push(")");
        }
        sql.push("))");
        Ok(())
    }

    fn test_missing(
        &self,
        rtype: &str,
        clause: &Clause,
        missing: bool,
        depth: usize,
        sql: &mut Sql,
    ) -> Result<(), StoreError> {
        // A value may stand in the table of its kind, or beside it.
        let bare = Clause { modifier: None, ..clause.clone() };
        let mut places = vec![table(&bare)?];
        match clause.kind {
            ParamKind::Token => places.push(("str", format!("{}{TEXT}", clause.param))),
            ParamKind::Reference => places.push(("tok", format!("{}{IDENTIFIER}", clause.param))),
            _ => {}
        }
        sql.push(if missing { "NOT (" } else { "(" }).push(NEVER);
        for (table, code) in places {
            if let Some(param) = self.param(rtype, &code) {
                sql.push(&format!(" OR EXISTS (SELECT 1 FROM {table} t WHERE t.rid = r{depth}.rid AND t.p = "));
                sql.bind(param.n).push(")");
            }
        }
        sql.push(")");
        Ok(())
    }

    /// A condition on `c`, a row of `cmp`: every part asked for is found among its parts.
    fn test_parts(&self, rtype: &str, clause: &Clause, value: &ClauseValue, sql: &mut Sql) -> Result<(), StoreError> {
        for (n, (part, value)) in parts(rtype, clause, value)?.into_iter().enumerate() {
            let (table, _) = table(&part)?;
            let param = self.param(rtype, &dict::part(clause.param, n)).map_or(-1, |param| param.n);
            sql.push(if n == 0 { "" } else { " AND " });
            sql.push(&format!("EXISTS (SELECT 1 FROM {table} t WHERE t.rid = -c.cid AND t.p = ")).bind(param);
            sql.push(" AND ");
            self.condition(&part, value, sql)?;
            sql.push(")");
        }
        Ok(())
    }

    /// Resources that have the first part asked for; the others are tested.
    fn source_parts(&self, rtype: &str, clause: &Clause, value: &ClauseValue) -> Result<Sql, StoreError> {
        let parts = parts(rtype, clause, value)?;
        let (part, value) = parts.first().ok_or_else(|| unsupported(clause.param))?;
        let (table, _) = table(part)?;
        let n = |code: &str| self.param(rtype, code).map_or(-1, |param| param.n);
        let mut sql =
            Sql::new(&format!("SELECT c.rid AS rid FROM {table} t CROSS JOIN cmp c ON c.cid = -t.rid WHERE t.p = "));
        sql.bind(n(&dict::part(clause.param, 0))).push(" AND c.p = ").bind(n(clause.param)).push(" AND ");
        self.condition(part, value, &mut sql)?;
        Ok(sql)
    }

    /// `_id` and `_lastUpdated`: columns that every resource has.
    fn test_column(&self, clause: &Clause, depth: usize, sql: &mut Sql) -> Result<(), StoreError> {
        if matches!(clause.modifier, Some(Modifier::Not)) {
            sql.push("NOT ");
        }
        sql.push("(");
        for (n, value) in clause.values.iter().enumerate() {
            if n > 0 {
                sql.push(" OR ");
            }
            match value {
                ClauseValue::Missing(missing) => {
                    sql.push(if *missing { "0" } else { "1" });
                }
                ClauseValue::Token { code: Some(id), .. } => {
                    sql.push(&format!("r{depth}.id = ")).bind(id.clone());
                }
                ClauseValue::Date { prefix, from_ms, to_ms } => {
                    // An instant of one millisecond.
                    let column = format!("r{depth}.updated");
                    sql.push("(");
                    range(*prefix, &column, &format!("({column} + 1)"), *from_ms, *to_ms, sql);
                    sql.push(")");
                }
                _ => return Err(unsupported(clause.param)),
            }
        }
        sql.push(")");
        Ok(())
    }

    fn test_chain(&self, rtype: &str, chain: &Chain, depth: usize, sql: &mut Sql) -> Result<(), StoreError> {
        let inner = depth + 1;
        sql.push("(").push(NEVER);
        if let Some(param) = self.param(rtype, chain.param) {
            for (target, criterion) in &chain.branches {
                let Some(tt) = self.dict.rtype(target).filter(|_| self.cover.kind(target)) else { continue };
                sql.push(&format!(
                    " OR EXISTS (SELECT 1 FROM ref f{inner} CROSS JOIN res r{inner} ON r{inner}.rtype = f{inner}.tt \
                     AND r{inner}.id = f{inner}.tid WHERE f{inner}.rid = r{depth}.rid AND f{inner}.p = "
                ));
                sql.bind(param.n).push(&format!(" AND f{inner}.tt = ")).bind(tt);
                self.cover.condition(&format!("r{inner}"), self.dict, sql);
                sql.push(" AND ");
                self.test(target, criterion, inner, sql)?;
                sql.push(")");
            }
        }
        sql.push(")");
        Ok(())
    }

    fn test_has(&self, rtype: &str, has: &Has, depth: usize, sql: &mut Sql) -> Result<(), StoreError> {
        let inner = depth + 1;
        let (param, tt) = (self.param(&has.rtype, has.param), self.dict.rtype(rtype));
        let (Some(param), Some(tt)) = (param, tt) else {
            sql.push("(").push(NEVER).push(")");
            return Ok(());
        };
        sql.push(&format!(
            "EXISTS (SELECT 1 FROM ref f{inner} CROSS JOIN res r{inner} ON r{inner}.rid = f{inner}.rid WHERE \
             f{inner}.tid = r{depth}.id AND f{inner}.p = "
        ));
        sql.bind(param.n).push(&format!(" AND f{inner}.tt = ")).bind(tt);
        self.cover.condition(&format!("r{inner}"), self.dict, sql);
        sql.push(" AND ");
        self.test(&has.rtype, &has.criterion, inner, sql)?;
        sql.push(")");
        Ok(())
    }

    /// `SELECT rid ...` of resources that satisfy the criterion, perhaps with repeats and with some that the permit
    /// does not cover; `None` when they can only be tested.
    pub fn source(&self, rtype: &str, criterion: &Criterion, depth: usize) -> Result<Option<Sql>, StoreError> {
        match criterion {
            Criterion::Clause(clause) => self.source_clause(rtype, clause),
            Criterion::Chain(chain) => self.source_chain(rtype, chain, depth),
            Criterion::Has(has) => self.source_has(rtype, has, depth),
            Criterion::Any(alternatives) => self.source_any(rtype, alternatives),
        }
    }

    /// Of each alternative what its first clause that can be listed gives: the others are tested.
    fn source_any(&self, rtype: &str, alternatives: &[Vec<Clause>]) -> Result<Option<Sql>, StoreError> {
        let mut sql = Sql::default();
        for clauses in alternatives {
            let mut listed = None;
            for clause in clauses {
                if listed.is_none() {
                    listed = self.source_clause(rtype, clause)?;
                }
            }
            let Some(source) = listed else { return Ok(None) };
            if !sql.text.is_empty() {
                sql.push(" UNION ALL ");
            }
            sql.append(&source);
        }
        Ok((!sql.text.is_empty()).then_some(sql))
    }

    fn source_clause(&self, rtype: &str, clause: &Clause) -> Result<Option<Sql>, StoreError> {
        if !lists(clause) {
            return Ok(None);
        }
        let mut sql = Sql::default();
        for value in &clause.values {
            if !sql.text.is_empty() {
                sql.push(" UNION ALL ");
            }
            if clause.param == "_id" {
                let ClauseValue::Token { code: Some(id), .. } = value else { return Ok(None) };
                let tt = self.dict.rtype(rtype).unwrap_or(-1);
                sql.push("SELECT t.rid AS rid FROM res t WHERE t.rtype = ").bind(tt);
                sql.push(" AND t.id = ").bind(id.clone());
                continue;
            }
            if matches!(value, ClauseValue::Composite(_)) {
                sql.append(&self.source_parts(rtype, clause, value)?);
                continue;
            }
            let (table, code) = table(clause)?;
            let n = self.param(rtype, &code).map_or(-1, |param| param.n);
            sql.push(&format!("SELECT t.rid AS rid FROM {table} t WHERE t.p = ")).bind(n).push(" AND ");
            self.condition(clause, value, &mut sql)?;
        }
        Ok((!sql.text.is_empty()).then_some(sql))
    }

    fn source_chain(&self, rtype: &str, chain: &Chain, depth: usize) -> Result<Option<Sql>, StoreError> {
        let inner = depth + 1;
        let n = self.param(rtype, chain.param).map_or(-1, |param| param.n);
        let mut sql = Sql::default();
        for (target, criterion) in &chain.branches {
            let Some(source) = self.source(target, criterion, inner)? else { return Ok(None) };
            if !sql.text.is_empty() {
                sql.push(" UNION ALL ");
            }
            let tt = self.dict.rtype(target).filter(|_| self.cover.kind(target)).unwrap_or(-1);
            sql.push(&format!("SELECT f{inner}.rid AS rid FROM (")).append(&source);
            sql.push(&format!(
                ") s{inner} CROSS JOIN res r{inner} ON r{inner}.rid = s{inner}.rid CROSS JOIN ref f{inner} ON \
                 f{inner}.tid = r{inner}.id AND f{inner}.p = "
            ));
            sql.bind(n).push(&format!(" AND f{inner}.tt = ")).bind(tt);
            sql.push(&format!(" WHERE r{inner}.rtype = ")).bind(tt);
            self.cover.condition(&format!("r{inner}"), self.dict, &mut sql);
        }
        Ok((!sql.text.is_empty()).then_some(sql))
    }

    fn source_has(&self, rtype: &str, has: &Has, depth: usize) -> Result<Option<Sql>, StoreError> {
        let inner = depth + 1;
        let Some(source) = self.source(&has.rtype, &has.criterion, inner)? else { return Ok(None) };
        let n = self.param(&has.rtype, has.param).map_or(-1, |param| param.n);
        let tt = self.dict.rtype(rtype).unwrap_or(-1);
        let mut sql = Sql::default();
        sql.push(&format!("SELECT h{inner}.rid AS rid FROM (")).append(&source);
        sql.push(&format!(
            ") s{inner} CROSS JOIN res r{inner} ON r{inner}.rid = s{inner}.rid CROSS JOIN ref f{inner} ON f{inner}.rid \
             = r{inner}.rid AND f{inner}.p = "
        ));
        sql.bind(n).push(&format!(" AND f{inner}.tt = ")).bind(tt);
        sql.push(&format!(
            " CROSS JOIN res h{inner} ON h{inner}.rtype = f{inner}.tt AND h{inner}.id = f{inner}.tid WHERE 1"
        ));
        self.cover.condition(&format!("r{inner}"), self.dict, &mut sql);
        Ok(Some(sql))
    }

    /// A condition on `t`, a row of the clause's value table.
    fn condition(&self, clause: &Clause, value: &ClauseValue, sql: &mut Sql) -> Result<(), StoreError> {
        match value {
            ClauseValue::Token { system, code } => token(system, code, sql),
            ClauseValue::Text(text) => starts_with("t.folded", text, sql),
            ClauseValue::Reference { rtype, id } => {
                sql.push("t.tid = ").bind(id.clone());
                match rtype {
                    Some(rtype) => sql.push(" AND t.tt = ").bind(self.dict.rtype(rtype).unwrap_or(-1)),
                    None => sql.push(" AND t.tt <> 0"),
                };
            }
            ClauseValue::AbsoluteRef(url) => {
                sql.push("t.tid = ").bind(url.clone()).push(" AND t.tt = 0");
            }
            ClauseValue::Date { prefix, from_ms, to_ms } => range(*prefix, "t.lo", "t.hi", *from_ms, *to_ms, sql),
            ClauseValue::String { folded, exact } => match clause.modifier {
                Some(Modifier::Exact) => {
                    sql.push("t.folded = ").bind(folded.clone()).push(" AND t.exact = ").bind(exact.clone());
                }
                Some(Modifier::Contains) => {
                    sql.push("instr(t.folded, ").bind(folded.clone()).push(") > 0");
                }
                _ => starts_with("t.folded", folded, sql),
            },
            ClauseValue::Number { prefix, value, low, high } => number(*prefix, *value, *low, *high, sql),
            ClauseValue::Quantity { prefix, value, low, high, system, code } => {
                if let Some(code) = code {
                    sql.push("t.code = ").bind(code.clone()).push(" AND ");
                }
                if let Some(Some(uri)) = system {
                    sql.push("t.sys = ").bind(dict::system(Some(uri))).push(" AND ");
                }
                number(*prefix, *value, *low, *high, sql);
            }
            ClauseValue::Uri(uri) => {
                sql.push("t.v = ").bind(uri.clone());
            }
            ClauseValue::Composite(_) | ClauseValue::Missing(_) => return Err(unsupported(clause.param)),
        }
        Ok(())
    }
}

fn token(system: &Option<Option<String>>, code: &Option<String>, sql: &mut Sql) {
    sql.push("1");
    if let Some(code) = code {
        sql.push(" AND t.code = ").bind(code.clone());
    }
    if let Some(system) = system {
        sql.push(" AND t.sys = ").bind(dict::system(system.as_deref()));
    }
}

fn starts_with(column: &str, text: &str, sql: &mut Sql) {
    sql.push(column).push(" >= ").bind(text.to_owned());
    sql.push(" AND ").push(column).push(" < ").bind(format!("{text}{LAST}"));
}

/// Periods, as `ClauseValue` says; written so that each form is bounded on one column, for the index.
fn range(prefix: Prefix, lo: &str, hi: &str, from: i64, to: i64, sql: &mut Sql) {
    let (from, to): (Value, Value) = (from.into(), to.into());
    compare(prefix, lo, hi, [from.clone(), to.clone()], [from, to], sql);
}

/// Numbers: `eq` and `ne`, `sa`, `eb`, `ap` by the precision of the text, the others by the value itself.
fn number(prefix: Prefix, value: f64, low: f64, high: f64, sql: &mut Sql) {
    compare(prefix, "t.lo", "t.hi", [low.into(), high.into()], [value.into(), value.into()], sql);
}

/// `within` is what `eq` must lie in; `beside` is what the comparators look past.
fn compare(prefix: Prefix, lo: &str, hi: &str, within: [Value; 2], beside: [Value; 2], sql: &mut Sql) {
    let ([from, to], [below, above]) = (within, beside);
    match prefix {
        // `lo <= to` follows from the rest and bounds the index.
        Prefix::Eq => {
            sql.push(lo).push(" >= ").bind(from).push(" AND ").push(hi).push(" <= ").bind(to.clone());
            sql.push(" AND ").push(lo).push(" <= ").bind(to);
        }
        Prefix::Ne => {
            sql.push("NOT (").push(lo).push(" >= ").bind(from).push(" AND ").push(hi).push(" <= ").bind(to).push(")");
        }
        Prefix::Gt => {
            sql.push(hi).push(" > ").bind(above);
        }
        Prefix::Lt => {
            sql.push(lo).push(" < ").bind(below);
        }
        // What is equal also ends at or after `from`.
        Prefix::Ge => {
            sql.push(hi).push(" >= ").bind(from.clone()).push(" AND (").push(hi).push(" > ").bind(above);
            sql.push(" OR (").push(lo).push(" >= ").bind(from).push(" AND ").push(hi).push(" <= ").bind(to).push("))");
        }
        Prefix::Le => {
            sql.push(lo).push(" <= ").bind(to.clone()).push(" AND (").push(lo).push(" < ").bind(below);
            sql.push(" OR (").push(lo).push(" >= ").bind(from).push(" AND ").push(hi).push(" <= ").bind(to).push("))");
        }
        Prefix::Sa => {
            sql.push(lo).push(" >= ").bind(to);
        }
        Prefix::Eb => {
            sql.push(hi).push(" <= ").bind(from);
        }
        Prefix::Ap => {
            sql.push(lo).push(" < ").bind(to).push(" AND ").push(hi).push(" > ").bind(from);
        }
    }
}
