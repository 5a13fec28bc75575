//! Admits a statement: exactly one, and only a query that reads.
//!
//! Done on the syntax tree before any planning. DDL, DML, COPY, SET, SHOW, EXPLAIN ANALYZE and whatever else SQL has
//! are refused by name; the plan is looked at again later for those that hide in a query (SELECT INTO).

use base::{DomainName, Limits};
use datafusion::common::TableReference;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use products::{SqlError, TableName};

use crate::error;

/// Nesting of expressions and queries.
const DEPTH_MAX: usize = 64;

/// The one schema that is not a domain.
pub const SYSTEM_SCHEMA: &str = "information_schema";

/// A statement that may be planned.
#[derive(Debug)]
pub struct Admitted {
    pub query: Statement,
    /// Only the shape of the plan is asked for.
    pub explain: bool,
}

/// Parses and admits.
pub fn admit(sql: &str, limits: &Limits) -> Result<Admitted, SqlError> {
    if sql.len() > limits.sql_text_bytes_max {
        return Err(SqlError::TooLarge { what: "the longest statement text" });
    }
    crate::depth::check(sql)?;
    let parsed = DFParserBuilder::new(sql)
        .with_dialect(&PostgreSqlDialect {})
        .with_recursion_limit(DEPTH_MAX)
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(|e| error::planning(e, sql))?;
    let mut statements: Vec<Statement> = parsed.into();
    match (statements.pop(), statements.is_empty()) {
        (Some(statement), true) => classify(statement),
        (None, _) => Err(SqlError::Invalid { what: "the statement is empty".into() }),
        _ => refuse("several statements at once are not run, send one"),
    }
}

fn classify(statement: Statement) -> Result<Admitted, SqlError> {
    match statement {
        Statement::Statement(inner) if matches!(*inner, ast::Statement::Query(_)) => {
            Ok(Admitted { query: Statement::Statement(inner), explain: false })
        }
        Statement::Explain(explain) if explain.options.analyze || explain.options.verbose => {
            refuse("EXPLAIN ANALYZE and VERBOSE tell of rows you may not see, use EXPLAIN")
        }
        Statement::Explain(explain) => {
            let inner = classify(*explain.statement)?;
            if inner.explain {
                refuse("EXPLAIN of EXPLAIN is not run")
            } else {
                Ok(Admitted { explain: true, ..inner })
            }
        }
        _ => refuse("only a query that reads is run: SELECT, WITH, VALUES, set operations, EXPLAIN"),
    }
}

fn refuse<T>(what: &str) -> Result<T, SqlError> {
    Err(SqlError::Refused { what: what.into() })
}

/// The products a statement names, each once; our system tables are not among them.
pub fn tables(statement: &Statement, default_domain: &DomainName) -> Result<Vec<TableName>, SqlError> {
    let (references, _) = resolve_table_references(statement, true)
        .map_err(|_| SqlError::Invalid { what: "a table name of the statement cannot be read".into() })?;
    let mut names = Vec::new();
    for reference in references {
        if reference.schema() == Some(SYSTEM_SCHEMA) {
            continue;
        }
        let name = name(&reference, default_domain)?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

fn name(reference: &TableReference, default_domain: &DomainName) -> Result<TableName, SqlError> {
    let missing = || SqlError::NoSuchTable { table: reference.to_string() };
    if reference.catalog().is_some_and(|catalog| catalog != CATALOG) {
        return Err(missing());
    }
    let domain = match reference.schema() {
        Some(schema) => DomainName::parse(schema).map_err(|_| missing())?,
        None => default_domain.clone(),
    };
    Ok(TableName { domain, product: reference.table().to_owned() })
}

/// The catalog all schemas are in.
pub const CATALOG: &str = "ward";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_reading_query_is_admitted() {
        let limits = Limits::default();
        for good in [
            "select 1",
            "with x as (select 1) select * from x",
            "values (1), (2)",
            "select 1 union all select 2",
            "select 1;",
            "explain select 1",
        ] {
            assert!(admit(good, &limits).is_ok(), "{good}");
        }
        for bad in [
            "",
            "select 1; select 2",
            "create table t as select 1",
            "create view v as select 1",
            "create external table t stored as parquet location '/etc'",
            "insert into t values (1)",
            "update t set a = 1",
            "delete from t",
            "drop table t",
            "copy (select 1) to '/tmp/x.parquet'",
            "set datafusion.execution.batch_size = 1",
            "reset datafusion.execution.batch_size",
            "show all",
            "show tables",
            "describe t",
            "explain analyze select 1",
            "explain verbose select 1",
            "prepare p as select 1",
            "execute p",
            "begin",
            "truncate t",
            "select",
            "selec 1",
        ] {
            assert!(admit(bad, &limits).is_err(), "{bad}");
        }
        let deep = format!("select {}1{}", "(".repeat(5_000), ")".repeat(5_000));
        assert!(admit(&deep, &limits).is_err());
        let long = format!("select '{}'", "x".repeat(limits.sql_text_bytes_max));
        assert!(matches!(admit(&long, &limits), Err(SqlError::TooLarge { .. })));
    }

    #[test]
    fn tables_are_named_with_their_domain() {
        let ehr = DomainName::parse("ehr").unwrap();
        let of = |sql: &str| {
            let admitted = admit(sql, &Limits::default()).unwrap();
            tables(&admitted.query, &ehr).map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let sql = "with c as (select * from patients) select * from c join laboratory.labs l using (id)
                   where id in (select id from ehr.visits) and exists (select 1 from information_schema.tables)";
        let mut names = of(sql).unwrap();
        names.sort();
        assert_eq!(names, ["ehr.patients", "ehr.visits", "laboratory.labs"]);
        assert!(of("select * from other.ehr.patients").is_err());
        assert!(of("select * from '/etc/passwd'").is_err() || of("select * from \"/etc/passwd\"").is_ok());
    }
}
