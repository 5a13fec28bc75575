//! The barrier: the one operator through which rows of a product reach a query plan.
//!
//! To the optimizer it is a leaf. It owns the scan below it, which no rule can see, so nothing can be pushed into raw
//! data but the conditions that [`crate::safe`] lets pass. For each raw batch it (1) drops rows the permit does not
//! reach, by patient and sensitivity, and rows that fail the conditions, (2) notes whose rows passed, (3) masks
//! columns, (4) drops the hidden columns. It tells no column statistics, and row counts only as a power of two.
//!
//! Invariant: no other operator of a final plan reads product files ([`crate::verify`]).

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, UInt16Array, UInt32Array};
use arrow::compute::{and, filter_record_batch, prep_null_mask_filter};
use arrow::datatypes::SchemaRef;
use base::{Ordinal, PatientSet, Sensitivity};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Statistics, stats::Precision};
use datafusion::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterPushdownPhase, FilterPushdownPropagation, PushedDown,
};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PhysicalExpr, PlanProperties, RecordBatchStream,
};
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use products::TableName;
use roaring::RoaringBitmap;

use crate::mask::Masker;
use crate::safe;

/// Hidden column: the patient of the row.
pub const ORDINAL: &str = "__ordinal";
/// Hidden column: the sensitivity bits of the row.
pub const SENSITIVITY: &str = "__sensitivity";

/// What a permit lets pass, and who passed.
#[derive(Debug)]
pub struct Guard {
    pub patients: PatientSet,
    pub sensitivity: Sensitivity,
    pub touched: Mutex<RoaringBitmap>,
}

impl Guard {
    /// Rows about no patient pass; all must be within the permit's sensitivities. Notes the patients of `keep`.
    fn admit(&self, ordinals: &UInt32Array, sensitivities: &UInt16Array) -> BooleanArray {
        let mut last: Option<(u32, bool)> = None;
        let mut passes = |ordinal: u32| match last {
            Some((seen, passed)) if seen == ordinal => passed,
            _ => {
                let patient = Ordinal(ordinal);
                let passed = !patient.is_patient() || self.patients.contains(patient);
                last = Some((ordinal, passed));
                passed
            }
        };
        // A label that is missing hides its row.
        ordinals
            .iter()
            .zip(sensitivities)
            .map(|(ordinal, bits)| {
                let admitted = match (ordinal, bits) {
                    (Some(ordinal), Some(bits)) => Sensitivity(bits).is_within(self.sensitivity) && passes(ordinal),
                    _ => false,
                };
                Some(admitted)
            })
            .collect()
    }

    fn note(&self, ordinals: &UInt32Array) {
        let mut seen = RoaringBitmap::new();
        let mut last = None;
        for ordinal in ordinals.iter().flatten() {
            if last != Some(ordinal) && ordinal != Ordinal::NONE.0 {
                seen.insert(ordinal);
            }
            last = Some(ordinal);
        }
        *self.touched.lock() |= seen;
    }
}

/// See the module.
pub struct BarrierExec {
    table: TableName,
    /// Gives the visible columns in order, then columns only conditions need, then the hidden ones.
    scan: Arc<dyn ExecutionPlan>,
    guard: Arc<Guard>,
    /// One for each visible column.
    masks: Arc<[Option<Masker>]>,
    /// Over the scan's columns.
    conditions: Vec<Arc<dyn PhysicalExpr>>,
    fetch: Option<usize>,
    /// All rows of the snapshot, hidden ones too.
    rows: u64,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl BarrierExec {
    /// `schema` is what leaves: as many columns as `masks`, which the scan gives first and raw.
    pub fn new(
        table: TableName,
        scan: Arc<dyn ExecutionPlan>,
        guard: Arc<Guard>,
        masks: Vec<Option<Masker>>,
        conditions: Vec<Arc<dyn PhysicalExpr>>,
        rows: u64,
        schema: SchemaRef,
    ) -> Self {
        let partitions = scan.properties().output_partitioning().partition_count();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema.clone()),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        BarrierExec {
            table,
            scan,
            guard,
            masks: masks.into(),
            conditions,
            fetch: None,
            rows,
            schema,
            properties: Arc::new(properties),
        }
    }

    /// Whose rows come through here.
    pub fn table(&self) -> &TableName {
        &self.table
    }

    fn with(&self, conditions: Vec<Arc<dyn PhysicalExpr>>, fetch: Option<usize>) -> BarrierExec {
        BarrierExec {
            table: self.table.clone(),
            scan: self.scan.clone(),
            guard: self.guard.clone(),
            masks: self.masks.clone(),
            conditions,
            fetch,
            rows: self.rows,
            schema: self.schema.clone(),
            properties: self.properties.clone(),
        }
    }
}

/// The table's name only: conditions hold the caller's literals, files hold paths.
impl fmt::Debug for BarrierExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BarrierExec({})", self.table)
    }
}

impl DisplayAs for BarrierExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BarrierExec: table={}", self.table)
    }
}

impl ExecutionPlan for BarrierExec {
    fn name(&self) -> &str {
        "BarrierExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    #[allow(deprecated)] // required by the trait still
    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        Ok(Box::pin(Guarded {
            raw: self.scan.execute(partition, context)?,
            guard: self.guard.clone(),
            masks: self.masks.clone(),
            conditions: self.conditions.clone(),
            left: self.fetch.unwrap_or(usize::MAX),
            schema: self.schema.clone(),
        }))
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        let mut statistics = Statistics::new_unknown(&self.schema);
        if args.partition().is_none() {
            let rounded = self.rows.max(1).checked_next_power_of_two().unwrap_or(u64::MAX);
            statistics.num_rows = Precision::Inexact(usize::try_from(rounded).unwrap_or(usize::MAX));
        }
        Ok(Arc::new(statistics))
    }

    fn with_fetch(&self, fetch: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        Some(Arc::new(self.with(self.conditions.clone(), fetch)))
    }

    fn fetch(&self) -> Option<usize> {
        self.fetch
    }

    /// Takes what is safe and says so; the rest stays above.
    fn handle_child_pushdown_result(
        &self,
        _: FilterPushdownPhase,
        offered: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        // A filter above a limit must not move below it.
        if self.fetch.is_some() {
            return Ok(FilterPushdownPropagation::all_unsupported(offered));
        }
        let plain = |index: usize| matches!(self.masks.get(index), Some(None));
        let mut conditions = self.conditions.clone();
        let mut answers = Vec::with_capacity(offered.parent_filters.len());
        for filter in offered.parent_filters {
            if safe::physical(&filter.filter, &self.schema, &plain) {
                conditions.push(filter.filter);
                answers.push(PushedDown::Yes);
            } else {
                answers.push(PushedDown::No);
            }
        }
        let changed = conditions.len() > self.conditions.len();
        let result = FilterPushdownPropagation::with_parent_pushdown_result(answers);
        Ok(match changed {
            true => result.with_updated_node(Arc::new(self.with(conditions, None)) as Arc<dyn ExecutionPlan>),
            false => result,
        })
    }
}

struct Guarded {
    raw: SendableRecordBatchStream,
    guard: Arc<Guard>,
    masks: Arc<[Option<Masker>]>,
    conditions: Vec<Arc<dyn PhysicalExpr>>,
    left: usize,
    schema: SchemaRef,
}

impl Guarded {
    fn pass(&mut self, raw: RecordBatch) -> Result<RecordBatch> {
        let columns = raw.num_columns();
        if columns < self.masks.len() + 2 {
            return Err(DataFusionError::Internal("a scan without its hidden columns".into()));
        }
        let (ordinals, sensitivities) = (raw.column(columns - 2), raw.column(columns - 1));
        let (Some(ordinals), Some(sensitivities)) = (ordinals.as_primitive_opt(), sensitivities.as_primitive_opt())
        else {
            return Err(DataFusionError::Internal("hidden columns of another type".into()));
        };
        let mut keep = self.guard.admit(ordinals, sensitivities);
        for condition in &self.conditions {
            let truth = condition.evaluate(&raw)?.into_array(raw.num_rows())?;
            let truth = truth.as_boolean();
            keep = match truth.null_count() {
                0 => and(&keep, truth)?,
                _ => and(&keep, &prep_null_mask_filter(truth))?,
            };
        }
        let mut kept = if keep.true_count() == raw.num_rows() { raw } else { filter_record_batch(&raw, &keep)? };
        if kept.num_rows() > self.left {
            kept = kept.slice(0, self.left);
        }
        self.left -= kept.num_rows();
        self.guard.note(kept.column(columns - 2).as_primitive());
        let shown: Vec<ArrayRef> = self
            .masks
            .iter()
            .zip(kept.columns())
            .map(|(mask, raw)| match mask {
                Some(mask) => mask.apply(raw),
                None => Ok(raw.clone()),
            })
            .collect::<Result<_, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(kept.num_rows()));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), shown, &options)?)
    }
}

impl Stream for Guarded {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if self.left == 0 {
                return Poll::Ready(None);
            }
            return match std::task::ready!(self.raw.poll_next_unpin(cx)) {
                Some(Ok(raw)) => match self.pass(raw) {
                    Ok(shown) if shown.num_rows() == 0 => continue,
                    passed => Poll::Ready(Some(passed)),
                },
                end => Poll::Ready(end),
            };
        }
    }
}

impl RecordBatchStream for Guarded {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}
