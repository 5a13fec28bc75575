//! The last look at a plan before it runs: a leaf that reads data must be a barrier.
//!
//! The catalog holds only secured tables, so this finds nothing unless something else is broken; then it refuses.

use std::sync::Arc;

use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::work_table::WorkTableExec;

use crate::barrier::BarrierExec;

/// The plan has a leaf that could read data past the barrier. Holds the operator's name only.
#[derive(Debug, PartialEq, Eq)]
pub struct Unguarded(pub String);

/// Walks the whole plan, subqueries that became plans of their own too.
pub fn verify(plan: &Arc<dyn ExecutionPlan>) -> Result<(), Unguarded> {
    let children = plan.children();
    if children.is_empty() {
        return match is_guarded(plan) {
            true => Ok(()),
            false => Err(Unguarded(plan.name().to_owned())),
        };
    }
    children.into_iter().try_for_each(verify)
}

fn is_guarded(leaf: &Arc<dyn ExecutionPlan>) -> bool {
    // Literal rows (VALUES, our system tables) come from memory, and nothing of a product is ever put there.
    let in_memory = || {
        leaf.downcast_ref::<DataSourceExec>()
            .is_some_and(|exec| exec.data_source().downcast_ref::<MemorySourceConfig>().is_some())
    };
    leaf.is::<BarrierExec>()
        || leaf.is::<EmptyExec>()
        || leaf.is::<PlaceholderRowExec>()
        || leaf.is::<WorkTableExec>()
        || in_memory()
}
