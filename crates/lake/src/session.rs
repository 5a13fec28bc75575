//! Plans and runs one admitted statement over secured tables.
//!
//! A session lives for one statement. Its catalog holds the tables the statement names and our system tables; its
//! functions are DataFusion's without those that read files, make tables or grow without bound; its optimizer is
//! DataFusion's without the rules that push struct-field access towards a scan (apache/datafusion#25414).

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use base::{DomainName, Limits};
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider,
    SchemaProvider,
};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::execution::SessionStateDefaults;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{AggregateUDF, ScalarUDF, WindowUDF};
use datafusion::optimizer::{Optimizer, OptimizerRule};
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionConfig;
use futures::{FutureExt, StreamExt};
use products::{SqlError, VisibleTable};

use crate::barrier::BarrierExec;
use crate::statement::{Admitted, CATALOG, SYSTEM_SCHEMA};
use crate::table::SecuredTable;
use crate::{error, system, verify};

/// Rules that move the reading of a struct's field below a projection, where a mask may be.
const REMOVED_RULES: &[&str] = &["extract_leaf_expressions", "push_down_leaf_projections"];

/// Functions that read beyond their arguments or grow without bound.
const REMOVED_FUNCTIONS: &[&str] = &[
    "array_repeat",
    "array_resize",
    "file_row_index",
    "gen_series",
    "generate_series",
    "input_file_name",
    "list_repeat",
    "list_resize",
    "lpad",
    "range",
    "repeat",
    "rpad",
    "get_field_path",
];

/// What is the same for every session.
pub struct Engine {
    runtime: Arc<RuntimeEnv>,
    rules: Vec<Arc<dyn OptimizerRule + Send + Sync>>,
    scalar: Vec<Arc<ScalarUDF>>,
    aggregate: Vec<Arc<AggregateUDF>>,
    window: Vec<Arc<WindowUDF>>,
    partitions: usize,
}

impl Engine {
    pub fn new(runtime: Arc<RuntimeEnv>, partitions: usize) -> Self {
        let allowed = |name: &str, aliases: &[String]| {
            !REMOVED_FUNCTIONS.contains(&name) && !aliases.iter().any(|a| REMOVED_FUNCTIONS.contains(&a.as_str()))
        };
        let rules = Optimizer::new().rules.into_iter().filter(|rule| !REMOVED_RULES.contains(&rule.name()));
        let scalar = SessionStateDefaults::default_scalar_functions().into_iter();
        Engine {
            runtime,
            rules: rules.collect(),
            scalar: scalar.filter(|f| allowed(f.name(), f.aliases())).collect(),
            aggregate: SessionStateDefaults::default_aggregate_functions(),
            window: SessionStateDefaults::default_window_functions(),
            partitions,
        }
    }

    /// A session that sees exactly these tables.
    pub fn session(
        &self,
        default_domain: &DomainName,
        tables: Vec<(products::TableName, SecuredTable)>,
        visible: &[VisibleTable],
    ) -> Result<SessionState, SqlError> {
        let mut config = SessionConfig::new()
            .with_target_partitions(self.partitions)
            .with_information_schema(false)
            .with_create_default_catalog_and_schema(false)
            .with_default_catalog_and_schema(CATALOG, default_domain.as_str())
            .with_collect_statistics(false);
        config.options_mut().sql_parser.dialect = datafusion::common::config::Dialect::PostgreSQL;
        Ok(SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(self.runtime.clone())
            .with_catalog_list(catalog(default_domain, tables, visible).map_err(|_| error::broken("catalog"))?)
            .with_expr_planners(SessionStateDefaults::default_expr_planners())
            .with_scalar_functions(self.scalar.clone())
            .with_aggregate_functions(self.aggregate.clone())
            .with_window_functions(self.window.clone())
            .with_table_functions(HashMap::new())
            .with_file_formats(Vec::new())
            .with_optimizer_rules(self.rules.clone())
            .build())
    }
}

fn catalog(
    default_domain: &DomainName,
    tables: Vec<(products::TableName, SecuredTable)>,
    visible: &[VisibleTable],
) -> datafusion::error::Result<Arc<dyn CatalogProviderList>> {
    let catalog = MemoryCatalogProvider::new();
    catalog.register_schema(default_domain.as_str(), Arc::new(MemorySchemaProvider::new()))?;
    for (name, table) in tables {
        let schema = match catalog.schema(name.domain.as_str()) {
            Some(schema) => schema,
            None => {
                let schema: Arc<dyn SchemaProvider> = Arc::new(MemorySchemaProvider::new());
                catalog.register_schema(name.domain.as_str(), schema.clone())?;
                schema
            }
        };
        schema.register_table(name.product, Arc::new(table))?;
    }
    catalog.register_schema(SYSTEM_SCHEMA, system::information_schema(visible)?)?;
    let list = MemoryCatalogProviderList::new();
    list.register_catalog(CATALOG.into(), Arc::new(catalog));
    Ok(Arc::new(list))
}

/// The final plan, looked at by the verifier.
pub async fn plan(state: &SessionState, admitted: Admitted, sql: &str) -> Result<Arc<dyn ExecutionPlan>, SqlError> {
    let logical = state.statement_to_plan(admitted.query).await.map_err(|e| error::planning(e, sql))?;
    SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
        .verify_plan(&logical)
        .map_err(|_| SqlError::Refused { what: "only a query that reads is run".into() })?;
    let plan = state.create_physical_plan(&logical).await.map_err(|e| error::planning(e, sql))?;
    let plan = interruptible(plan).map_err(|e| error::planning(e, sql))?;
    verify::verify(&plan).map_err(|_| error::broken("a plan with a scan outside a barrier"))?;
    Ok(plan)
}

/// Lets every operator that makes more rows than it takes hand back control between batches. Only leaves do so by
/// themselves, and a cross join polls its leaves rarely: a timeout would not be noticed.
fn interruptible(plan: Arc<dyn ExecutionPlan>) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
    let wrapped = plan.transform_up(|node| {
        let expands = ["Join", "Unnest", "Recursive"].iter().any(|word| node.name().contains(word));
        Ok(match expands {
            true => Transformed::yes(Arc::new(CooperativeExec::new(node)) as Arc<dyn ExecutionPlan>),
            false => Transformed::no(node),
        })
    })?;
    Ok(wrapped.data)
}

/// Rows of an answer, within limits.
pub struct Rows {
    pub schema: SchemaRef,
    pub batches: Vec<RecordBatch>,
    pub rows: u64,
    pub truncated: bool,
}

/// Runs a verified plan. Dropping the future stops the statement.
pub async fn run(
    state: &SessionState,
    plan: Arc<dyn ExecutionPlan>,
    rows_max: u64,
    limits: &Limits,
) -> Result<Rows, SqlError> {
    let timeout_ms = limits.sql_timeout_ms;
    let work = collect(state, plan, rows_max, limits.sql_result_bytes_max);
    // A panic inside an operator ends the statement, not its door.
    let work = AssertUnwindSafe(work).catch_unwind();
    match tokio::time::timeout(Duration::from_millis(timeout_ms), work).await {
        Ok(Ok(rows)) => rows,
        Ok(Err(_)) => Err(error::broken("panic")),
        Err(_) => Err(SqlError::TimedOut { timeout_ms }),
    }
}

async fn collect(
    state: &SessionState,
    plan: Arc<dyn ExecutionPlan>,
    rows_max: u64,
    bytes_max: usize,
) -> Result<Rows, SqlError> {
    let schema = plan.schema();
    let mut stream = execute_stream(plan, state.task_ctx()).map_err(error::running)?;
    let mut out = Rows { schema, batches: Vec::new(), rows: 0, truncated: false };
    let mut bytes = 0;
    while let Some(batch) = stream.next().await {
        let mut batch = batch.map_err(error::running)?;
        let left = usize::try_from(rows_max - out.rows).unwrap_or(usize::MAX);
        if batch.num_rows() > left {
            out.truncated = true;
            batch = batch.slice(0, left);
        }
        bytes += bytes_of(&batch);
        if bytes > bytes_max {
            return Err(SqlError::TooLarge { what: "the largest answer" });
        }
        out.rows += batch.num_rows() as u64;
        if batch.num_rows() > 0 {
            out.batches.push(batch);
        }
        if out.truncated {
            break;
        }
    }
    Ok(out)
}

/// What a batch takes, counted by its slice where Arrow can tell.
fn bytes_of(batch: &RecordBatch) -> usize {
    batch
        .columns()
        .iter()
        .map(|c| c.to_data().get_slice_memory_size().unwrap_or_else(|_| c.get_array_memory_size()))
        .sum()
}

/// The shape of a plan: operators and the tables they read, no expressions, no counts, no policy.
pub fn explain(plan: &Arc<dyn ExecutionPlan>) -> Rows {
    fn walk(plan: &Arc<dyn ExecutionPlan>, depth: usize, lines: &mut Vec<String>) {
        let indent = "  ".repeat(depth);
        lines.push(match plan.downcast_ref::<BarrierExec>() {
            Some(barrier) => format!("{indent}Read {}", barrier.table()),
            None if plan.is::<CooperativeExec>() => return plan.children().iter().for_each(|c| walk(c, depth, lines)),
            None => format!("{indent}{}", plan.name().trim_end_matches("Exec")),
        });
        for child in plan.children() {
            walk(child, depth + 1, lines);
        }
    }
    let mut lines = Vec::new();
    walk(plan, 0, &mut lines);
    let schema = Arc::new(Schema::new(vec![Field::new("plan", DataType::Utf8, false)]));
    let rows = lines.len() as u64;
    let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(StringArray::from(lines))]);
    Rows { schema, batches: batch.into_iter().collect(), rows, truncated: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_removed_exists_under_that_name() {
        let optimizer = Optimizer::new();
        for name in REMOVED_RULES {
            assert!(optimizer.rules.iter().any(|rule| rule.name() == *name), "{name}");
        }
        let engine = Engine::new(Arc::default(), 1);
        assert_eq!(engine.rules.len(), optimizer.rules.len() - REMOVED_RULES.len());
        assert!(engine.scalar.len() < SessionStateDefaults::default_scalar_functions().len());
    }
}
