//! Cells become Arrow columns, by column type.
//!
//! A value that does not fit its column (text in a number, a decimal beyond the precision) becomes null and is counted;
//! a build never fails for one value. FHIR dates stay text, since they are partial.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Decimal128Builder, Float64Builder, Int64Builder, ListBuilder, RecordBatch, StringBuilder,
    StringViewBuilder, UInt16Array, UInt32Array,
};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use base::{Ordinal, Sensitivity};
use products::{Cell, ColumnType, ProductColumn};

use crate::table::hidden_fields;

/// A row with the labels it is guarded by.
#[derive(Debug, Clone)]
pub struct Row {
    pub patient: Ordinal,
    pub sensitivity: Sensitivity,
    pub cells: Vec<Cell>,
}

/// The field of a column as it stands in the file. Lists hold plain strings, which every reader knows.
pub fn field(column: &ProductColumn) -> Field {
    let item = match column.kind {
        ColumnType::Text if column.collection => DataType::Utf8,
        ColumnType::Text => DataType::Utf8View,
        ColumnType::Boolean => DataType::Boolean,
        ColumnType::Integer => DataType::Int64,
        ColumnType::Decimal { precision, scale } => DataType::Decimal128(precision, scale),
        ColumnType::Double => DataType::Float64,
    };
    let data_type = if column.collection { DataType::new_list(item, true) } else { item };
    Field::new(&column.name, data_type, true)
}

/// The columns of a product without the hidden ones.
pub fn schema(columns: &[ProductColumn]) -> Schema {
    Schema::new(columns.iter().map(field).collect::<Vec<_>>())
}

/// The schema of a file: the columns, then the hidden ones.
pub fn file_schema(columns: &Schema) -> Schema {
    let fields = columns.fields().iter().map(|f| f.as_ref().clone()).chain(hidden_fields());
    Schema::new(fields.collect::<Vec<_>>())
}

/// One batch of these rows; adds to `unfit`, one count a column.
pub fn batch(columns: &[ProductColumn], rows: &[Row], unfit: &mut [u64]) -> Result<RecordBatch, ArrowError> {
    let mut arrays = Vec::with_capacity(columns.len() + 2);
    for (index, column) in columns.iter().enumerate() {
        let cells = rows.iter().map(|row| row.cells.get(index).unwrap_or(&Cell::Null));
        arrays.push(self::column(column, cells, unfit.get_mut(index).unwrap_or(&mut 0))?);
    }
    arrays.push(Arc::new(UInt32Array::from_iter_values(rows.iter().map(|r| r.patient.0))));
    arrays.push(Arc::new(UInt16Array::from_iter_values(rows.iter().map(|r| r.sensitivity.0))));
    RecordBatch::try_new(Arc::new(file_schema(&schema(columns))), arrays)
}

fn column<'a>(
    column: &ProductColumn,
    cells: impl Iterator<Item = &'a Cell>,
    unfit: &mut u64,
) -> Result<ArrayRef, ArrowError> {
    macro_rules! build {
        ($builder:expr, $item:expr, $fit:expr) => {{
            if column.collection {
                let item = Arc::new(Field::new_list_field($item, true));
                let mut list = ListBuilder::new($builder).with_field(item);
                for cell in cells {
                    match cell {
                        Cell::Null => list.append_null(),
                        Cell::List(items) => {
                            for item in items {
                                let value = $fit(item);
                                *unfit += u64::from(value.is_none() && *item != Cell::Null);
                                list.values().append_option(value);
                            }
                            list.append(true);
                        }
                        single => {
                            let value = $fit(single);
                            *unfit += u64::from(value.is_none());
                            list.values().append_option(value);
                            list.append(true);
                        }
                    }
                }
                Arc::new(list.finish()) as ArrayRef
            } else {
                let mut builder = $builder;
                for cell in cells {
                    let value = $fit(cell);
                    *unfit += u64::from(value.is_none() && *cell != Cell::Null);
                    builder.append_option(value);
                }
                Arc::new(builder.finish()) as ArrayRef
            }
        }};
    }
    Ok(match column.kind {
        ColumnType::Text if column.collection => build!(StringBuilder::new(), DataType::Utf8, text),
        ColumnType::Text => build!(StringViewBuilder::new(), DataType::Utf8View, text),
        ColumnType::Boolean => build!(BooleanBuilder::new(), DataType::Boolean, boolean),
        ColumnType::Integer => build!(Int64Builder::new(), DataType::Int64, integer),
        ColumnType::Double => build!(Float64Builder::new(), DataType::Float64, double),
        ColumnType::Decimal { precision, scale } => {
            let data_type = DataType::Decimal128(precision, scale);
            let builder = Decimal128Builder::new().with_data_type(data_type.clone());
            build!(builder, data_type, |cell| decimal(cell, precision, scale))
        }
    })
}

fn text(cell: &Cell) -> Option<&str> {
    match cell {
        Cell::Text(text) | Cell::Decimal(text) => Some(text),
        Cell::Boolean(true) => Some("true"),
        Cell::Boolean(false) => Some("false"),
        _ => None,
    }
}

fn boolean(cell: &Cell) -> Option<bool> {
    match cell {
        Cell::Boolean(value) => Some(*value),
        _ => None,
    }
}

fn integer(cell: &Cell) -> Option<i64> {
    match cell {
        Cell::Integer(value) => Some(*value),
        Cell::Decimal(text) => text.parse().ok(),
        _ => None,
    }
}

fn double(cell: &Cell) -> Option<f64> {
    match cell {
        Cell::Integer(value) => Some(*value as f64),
        Cell::Decimal(text) => text.parse().ok().filter(|v: &f64| v.is_finite()),
        _ => None,
    }
}

fn decimal(cell: &Cell, precision: u8, scale: i8) -> Option<i128> {
    match cell {
        Cell::Integer(value) => scaled(&value.to_string(), precision, scale),
        Cell::Decimal(text) => scaled(text, precision, scale),
        _ => None,
    }
}

/// A JSON number as an integer of `10^-scale`, rounded half to even; `None` beyond the precision.
fn scaled(text: &str, precision: u8, scale: i8) -> Option<i128> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (negative, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, mantissa.strip_prefix('+').unwrap_or(mantissa)),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|b| b.wrapping_sub(b'0')).collect();
    if digits.is_empty() || digits.iter().any(|d| *d > 9) {
        return None;
    }
    // Keep so many digits that the last one stands for 10^-scale.
    let keep = i64::from(i32::try_from(whole.len()).ok()?) + i64::from(exponent) + i64::from(scale);
    let digit = |at: i64| usize::try_from(at).ok().and_then(|at| digits.get(at)).copied().unwrap_or(0);
    let mut value: i128 = 0;
    for at in 0..keep.clamp(0, 80) {
        value = value.checked_mul(10)?.checked_add(i128::from(digit(at)))?;
    }
    if keep > 80 && value != 0 {
        return None;
    }
    if keep >= 0 {
        let rest_is_zero = digits.iter().skip(usize::try_from(keep).ok()?.saturating_add(1)).all(|d| *d == 0);
        let up = match digit(keep) {
            0..=4 => false,
            5 if rest_is_zero => value % 2 == 1,
            _ => true,
        };
        value += i128::from(up);
    }
    let limit = 10i128.checked_pow(u32::from(precision)).unwrap_or(i128::MAX);
    (value < limit).then_some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use base::DataClass;

    use super::*;

    #[test]
    fn decimals_keep_their_value_or_are_unfit() {
        for (text, value) in [
            ("1.50", Some(150)),
            ("-0.125", Some(-12)),
            ("0.135", Some(14)),
            ("0.1251", Some(13)),
            ("1e2", Some(10_000)),
            ("1.5E-1", Some(15)),
            ("0.001", Some(0)),
            ("0e99999", Some(0)),
            ("999.999", None),
            ("1e99999", None),
            ("1e-99999", Some(0)),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(scaled(text, 5, 2), value, "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_becomes_null_and_is_counted() {
        let column = |name: &str, kind, collection| ProductColumn {
            name: name.into(),
            kind,
            collection,
            class: DataClass::Clinical,
            description: None,
            nullable: true,
            primary_key: false,
            source_path: String::new(),
        };
        let columns = [column("n", ColumnType::Integer, false), column("l", ColumnType::Text, true)];
        let row = |cells| Row { patient: Ordinal(1), sensitivity: Sensitivity::NONE, cells };
        let rows = [
            row(vec![Cell::Integer(1), Cell::List(vec![Cell::Text("a".into()), Cell::Null])]),
            row(vec![Cell::Text("one".into()), Cell::Null]),
            row(vec![]),
        ];
        let mut unfit = [0, 0];
        let batch = batch(&columns, &rows, &mut unfit).unwrap();
        assert_eq!((batch.num_rows(), batch.num_columns()), (3, 4));
        assert_eq!(unfit, [1, 0]);
        assert_eq!(batch.column(0).null_count(), 2);
    }
}
