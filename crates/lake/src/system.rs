//! Our own `information_schema`: the tables and columns this caller may see, and nothing else.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::catalog::{MemTable, MemorySchemaProvider, SchemaProvider};
use datafusion::error::Result;
use products::VisibleTable;

use crate::statement::CATALOG;

/// The schema with `tables` and `columns`.
pub fn information_schema(visible: &[VisibleTable]) -> Result<Arc<dyn SchemaProvider>> {
    let schema = MemorySchemaProvider::new();
    schema.register_table("tables".into(), table(tables(visible))?)?;
    schema.register_table("columns".into(), table(columns(visible))?)?;
    Ok(Arc::new(schema))
}

type Columns = Vec<(&'static str, ArrayRef)>;

fn table(columns: Columns) -> Result<Arc<MemTable>> {
    let fields: Vec<Field> =
        columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
    debug_assert!(fields.iter().all(|f| matches!(f.data_type(), DataType::Utf8 | DataType::Int64)));
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(schema.clone(), columns.into_iter().map(|(_, array)| array).collect())?;
    Ok(Arc::new(MemTable::try_new(schema, vec![vec![batch]])?))
}

fn text<T: AsRef<str>>(values: impl Iterator<Item = Option<T>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

fn tables(visible: &[VisibleTable]) -> Columns {
    let each = || visible.iter();
    vec![
        ("table_catalog", text(each().map(|_| Some(CATALOG)))),
        ("table_schema", text(each().map(|t| Some(t.name.domain.as_str())))),
        ("table_name", text(each().map(|t| Some(&t.name.product)))),
        ("table_type", text(each().map(|_| Some("BASE TABLE")))),
        ("description", text(each().map(|t| t.description.as_ref()))),
    ]
}

fn columns(visible: &[VisibleTable]) -> Columns {
    let each = || visible.iter().flat_map(|t| t.columns.iter().enumerate().map(move |(i, c)| (t, i, c)));
    let kind = |c: &products::ProductColumn| format!("{}{}", c.kind, if c.collection { "[]" } else { "" });
    vec![
        ("table_catalog", text(each().map(|_| Some(CATALOG)))),
        ("table_schema", text(each().map(|(t, _, _)| Some(t.name.domain.as_str())))),
        ("table_name", text(each().map(|(t, _, _)| Some(&t.name.product)))),
        ("column_name", text(each().map(|(_, _, c)| Some(&c.name)))),
        ("ordinal_position", Arc::new(Int64Array::from_iter_values(each().map(|(_, i, _)| i as i64 + 1)))),
        ("is_nullable", text(each().map(|(_, _, c)| Some(if c.nullable { "YES" } else { "NO" })))),
        ("data_type", text(each().map(|(_, _, c)| Some(kind(c))))),
        ("classification", text(each().map(|(_, _, c)| Some(c.class.code())))),
        ("description", text(each().map(|(_, _, c)| c.description.as_ref()))),
    ]
}
