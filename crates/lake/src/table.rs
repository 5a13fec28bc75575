//! A product as DataFusion sees it: a table whose scan is always a [`BarrierExec`].
//!
//! Its schema has no hidden column and shows masked columns with the type the mask gives them.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DFSchema;
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_expr::conjunction;
use datafusion::physical_expr::utils::reassign_expr_columns;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use products::{SnapshotFile, TableName};

use crate::barrier::{BarrierExec, Guard, ORDINAL, SENSITIVITY};
use crate::footers::Opener;
use crate::mask::Masker;
use crate::safe;

/// Where the lake's objects are, inside DataFusion only.
pub const STORE_URL: &str = "ward://lake";

/// The columns a file has beyond those it shows.
pub fn hidden_fields() -> [Field; 2] {
    [Field::new(ORDINAL, DataType::UInt32, false), Field::new(SENSITIVITY, DataType::UInt16, false)]
}

/// See the module.
pub struct SecuredTable {
    name: TableName,
    /// As in the files, the two hidden columns last.
    raw: SchemaRef,
    /// As seen.
    visible: SchemaRef,
    masks: Vec<Option<Masker>>,
    guard: Arc<Guard>,
    files: Vec<SnapshotFile>,
    opener: Arc<Opener>,
}

impl SecuredTable {
    /// `columns` are the raw visible columns, one mask or none for each.
    pub fn new(
        name: TableName,
        columns: &Schema,
        masks: Vec<Option<Masker>>,
        guard: Arc<Guard>,
        files: Vec<SnapshotFile>,
        opener: Arc<Opener>,
    ) -> Result<Self> {
        if columns.fields().len() != masks.len() {
            return Err(DataFusionError::Internal("as many masks as columns are needed".into()));
        }
        let shown = columns.fields().iter().zip(&masks).map(|(field, mask)| match mask {
            Some(mask) => mask.field(field),
            None => field.as_ref().clone(),
        });
        let visible = Arc::new(Schema::new(shown.collect::<Vec<_>>()));
        let raw = columns.fields().iter().map(|f| f.as_ref().clone()).chain(hidden_fields());
        Ok(SecuredTable {
            name,
            raw: Arc::new(Schema::new(raw.collect::<Vec<_>>())),
            visible,
            masks,
            guard,
            files,
            opener,
        })
    }

    fn is_safe(&self, filter: &Expr) -> bool {
        let plain = |name: &str| {
            let (index, field) = self.visible.column_with_name(name)?;
            self.masks[index].is_none().then(|| field.data_type().clone())
        };
        safe::logical(filter, &plain)
    }

    /// The columns to read: those to show, those conditions need besides, and the hidden ones last.
    fn read_columns(&self, shown: &[usize], filters: &[Expr]) -> Result<Vec<usize>> {
        let mut needed = BTreeSet::new();
        for column in filters.iter().flat_map(|f| f.column_refs()) {
            needed.insert(self.raw.index_of(&column.name)?);
        }
        let mut read = shown.to_vec();
        read.extend(needed.into_iter().filter(|index| !shown.contains(index)));
        read.extend([self.masks.len(), self.masks.len() + 1]);
        Ok(read)
    }

    fn file_scan(
        &self,
        state: &dyn Session,
        read: Vec<usize>,
        pruning: Option<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut source = ParquetSource::new(self.raw.clone())
            .with_parquet_file_reader_factory(self.opener.clone())
            .with_enable_page_index(true)
            .with_bloom_filter_on_read(false);
        if let Some(pruning) = pruning {
            source = source.with_predicate(pruning);
        }
        let target = state.config().target_partitions().max(1);
        let mut groups = vec![Vec::new(); target.min(self.files.len()).max(1)];
        for (index, file) in self.files.iter().enumerate() {
            let slot = index % groups.len();
            groups[slot].push(PartitionedFile::new(file.path.clone(), file.bytes));
        }
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::parse(STORE_URL)?, Arc::new(source))
            .with_file_groups(groups.into_iter().map(FileGroup::new).collect())
            .with_projection_indices(Some(read))?
            .build();
        let scan: Arc<dyn ExecutionPlan> = DataSourceExec::from_data_source(config);
        // Splits large files by row group where there are fewer files than cores.
        Ok(scan.repartitioned(target, state.config_options())?.unwrap_or(scan))
    }
}

impl fmt::Debug for SecuredTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecuredTable({})", self.name)
    }
}

#[async_trait]
impl TableProvider for SecuredTable {
    fn schema(&self) -> SchemaRef {
        self.visible.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(filters
            .iter()
            .map(|filter| match self.is_safe(filter) {
                true => TableProviderFilterPushDown::Exact,
                false => TableProviderFilterPushDown::Unsupported,
            })
            .collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if !filters.iter().all(|filter| self.is_safe(filter)) {
            return Err(DataFusionError::Internal("an unsafe condition was pushed to a product".into()));
        }
        let shown: Vec<usize> = projection.cloned().unwrap_or_else(|| (0..self.masks.len()).collect());
        let read = self.read_columns(&shown, filters)?;
        let raw = DFSchema::try_from(self.raw.as_ref().clone())?;
        let conditions: Vec<Arc<dyn PhysicalExpr>> = filters
            .iter()
            .map(|filter| state.create_physical_expr(unqualified(filter.clone())?, &raw))
            .collect::<Result<_>>()?;
        let pruning = (!conditions.is_empty()).then(|| conjunction(conditions.iter().cloned()));
        let scan = self.file_scan(state, read, pruning)?;
        let conditions = conditions
            .into_iter()
            .map(|condition| reassign_expr_columns(condition, &scan.schema()))
            .collect::<Result<_>>()?;
        let schema = Arc::new(self.visible.project(&shown)?);
        let masks = shown.iter().map(|index| self.masks[*index].clone()).collect();
        let rows = self.files.iter().map(|f| f.rows).sum();
        let barrier = BarrierExec::new(self.name.clone(), scan, self.guard.clone(), masks, conditions, rows, schema);
        // Every condition here is applied inside, so a limit may be too.
        Ok(match limit {
            Some(limit) => barrier.with_fetch(Some(limit)).unwrap_or_else(|| Arc::new(barrier)),
            None => Arc::new(barrier),
        })
    }
}

/// The condition with bare column names: inside one table there is nothing to qualify.
fn unqualified(filter: Expr) -> Result<Expr> {
    use datafusion::common::tree_node::{Transformed, TreeNode};
    let bare = filter.transform(|expr| {
        Ok(match expr {
            Expr::Column(column) if column.relation.is_some() => {
                Transformed::yes(Expr::Column(datafusion::common::Column::new_unqualified(column.name)))
            }
            other => Transformed::no(other),
        })
    })?;
    Ok(bare.data)
}
