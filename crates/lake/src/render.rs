//! Writes the batches of an answer: JSON lines, CSV, Arrow IPC stream.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use products::{AnswerColumn, Format};

/// The answer's columns as a caller reads them.
pub fn columns(schema: &Schema) -> Vec<AnswerColumn> {
    let column = |f: &Arc<Field>| AnswerColumn {
        name: f.name().clone(),
        kind: type_name(f.data_type()),
        nullable: f.is_nullable(),
    };
    schema.fields().iter().map(column).collect()
}

/// SQL's words where it has them.
fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text".into(),
        DataType::Int64 => "bigint".into(),
        DataType::Int32 => "integer".into(),
        DataType::Float64 => "double".into(),
        DataType::Boolean => "boolean".into(),
        DataType::Date32 => "date".into(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::List(item) => format!("{}[]", type_name(item.data_type())),
        other => other.to_string().to_lowercase(),
    }
}

/// The whole answer.
pub fn render(format: Format, schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Vec<u8>, ArrowError> {
    let mut out = Vec::new();
    match format {
        Format::JsonLines => {
            let mut writer = arrow::json::WriterBuilder::new()
                .with_explicit_nulls(true)
                .build::<_, arrow::json::writer::LineDelimited>(&mut out);
            for batch in batches {
                writer.write(batch)?;
            }
            writer.finish()?;
        }
        Format::Csv => {
            let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(&mut out);
            // Lists and structs have no CSV form of their own: they become text.
            let flat = Arc::new(map_schema(schema, &|t| if t.is_nested() { DataType::Utf8 } else { t.clone() }));
            writer.write(&RecordBatch::new_empty(flat.clone()))?;
            for batch in batches {
                writer.write(&convert(batch, &flat)?)?;
            }
        }
        Format::ArrowStream => {
            // View types are younger than many readers.
            let plain = Arc::new(map_schema(schema, &|t| match t {
                DataType::Utf8View => DataType::Utf8,
                DataType::BinaryView => DataType::Binary,
                other => other.clone(),
            }));
            let mut writer = arrow::ipc::writer::StreamWriter::try_new(&mut out, &plain)?;
            for batch in batches {
                writer.write(&convert(batch, &plain)?)?;
            }
            writer.finish()?;
        }
    }
    Ok(out)
}

fn map_schema(schema: &Schema, map: &dyn Fn(&DataType) -> DataType) -> Schema {
    let fields = schema.fields().iter().map(|f| Field::new(f.name(), map(f.data_type()), f.is_nullable()));
    Schema::new(fields.collect::<Vec<_>>())
}

fn convert(batch: &RecordBatch, to: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().zip(to.fields()).map(|(column, field)| match field.data_type() {
        to if to == column.data_type() => Ok(column.clone()),
        DataType::Utf8 if column.data_type().is_nested() => {
            let options = arrow::util::display::FormatOptions::default();
            let formatter = arrow::util::display::ArrayFormatter::try_new(column.as_ref(), &options)?;
            let text = (0..column.len()).map(|row| column.is_valid(row).then(|| formatter.value(row).to_string()));
            Ok(Arc::new(text.collect::<arrow::array::StringArray>()) as _)
        }
        to => cast(column, to),
    });
    let columns = columns.collect::<Result<Vec<_>, ArrowError>>()?;
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(to.clone(), columns, &options)
}
