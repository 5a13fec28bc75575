//! SQL on FHIR v2 ViewDefinitions: [`View::parse`] once, then a resource gives rows of [`Cell`]s.
//!
//! Paths are compiled when the view is parsed; columns that only step down the JSON never meet the FHIRPath evaluator.
//! Pure: where rows go is `products` and `lake`. Parsing is in `define`, rows in `rows`.

mod define;
mod rows;
mod source;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use crate::json::Value;
use crate::path::{Item, R4, TypeInfo};

/// What is wrong: where in the ViewDefinition, what, and what to do. Never quotes the data of a resource.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {text}")]
pub struct ViewError {
    /// A path into the ViewDefinition: `select[0].column[2].path`.
    pub place: String,
    pub text: String,
}

impl ViewError {
    pub(crate) fn new(place: impl Into<String>, text: impl Into<String>) -> ViewError {
        ViewError { place: place.into(), text: text.into() }
    }
}

/// The type of a column's cells. Ids, URIs, codes and the like are strings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ColumnKind {
    String,
    Boolean,
    Integer,
    Integer64,
    Decimal,
    Date,
    DateTime,
    Instant,
    Time,
    Base64,
}

/// A column of the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewColumn {
    pub name: String,
    pub kind: ColumnKind,
    /// Whether cells are lists.
    pub collection: bool,
    /// The element whose values fill the column, when every branch takes them unchanged from one element:
    /// `Patient.name.family`; a choice element as JSON spells it: `Observation.valueQuantity.value`.
    /// `None` for computed columns.
    pub source_path: Option<String>,
    pub description: Option<String>,
}

/// A cell of a row. Dates and times stay as FHIR writes them; decimals keep their text exactly.
#[derive(Clone, PartialEq, Default)]
pub enum Cell {
    #[default]
    Null,
    Bool(bool),
    Int(i64),
    Decimal(String),
    Text(String),
    List(Vec<Cell>),
}

/// A cell that borrows from the resource where it can.
#[derive(Clone, PartialEq, Default)]
pub enum CellRef<'a> {
    #[default]
    Null,
    Bool(bool),
    Int(i64),
    Decimal(Cow<'a, str>),
    Text(Cow<'a, str>),
    List(Vec<CellRef<'a>>),
}

impl CellRef<'_> {
    pub fn to_cell(&self) -> Cell {
        match self {
            CellRef::Null => Cell::Null,
            CellRef::Bool(b) => Cell::Bool(*b),
            CellRef::Int(i) => Cell::Int(*i),
            CellRef::Decimal(d) => Cell::Decimal(d.to_string()),
            CellRef::Text(t) => Cell::Text(t.to_string()),
            CellRef::List(cells) => Cell::List(cells.iter().map(CellRef::to_cell).collect()),
        }
    }
}

/// The kind only: cells are PHI.
impl std::fmt::Debug for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Cell::Null => "Null",
            Cell::Bool(_) => "Bool(..)",
            Cell::Int(_) => "Int(..)",
            Cell::Decimal(_) => "Decimal(..)",
            Cell::Text(_) => "Text(..)",
            Cell::List(_) => "List(..)",
        })
    }
}

/// A prepared view.
#[derive(Clone)]
pub struct View {
    types: &'static dyn TypeInfo,
    name: Option<String>,
    resource: String,
    columns: Vec<ViewColumn>,
    selects: Vec<define::Select>,
    wheres: Vec<define::Criterion>,
    constants: Vec<(String, Item<'static>)>,
    warnings: Vec<ViewError>,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "View({} of {}, {} columns)",
            self.name.as_deref().unwrap_or("unnamed"),
            self.resource,
            self.columns.len()
        )
    }
}

impl View {
    /// Reads a ViewDefinition with the R4 definitions.
    pub fn parse(definition: &Value) -> Result<View, ViewError> {
        View::parse_with(definition, &R4)
    }

    /// Reads a ViewDefinition with other definitions.
    pub fn parse_with(definition: &Value, types: &'static dyn TypeInfo) -> Result<View, ViewError> {
        define::parse(definition, types)
    }

    /// `ViewDefinition.name`
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The type of resource the view is of; others give no rows.
    pub fn resource(&self) -> &str {
        &self.resource
    }

    pub fn columns(&self) -> &[ViewColumn] {
        &self.columns
    }

    /// What is allowed and probably a mistake, such as an element that the type does not have.
    pub fn warnings(&self) -> &[ViewError] {
        &self.warnings
    }

    /// The rows of one resource; none when it is of another type or a `where` says no.
    pub fn rows(&self, resource: &Value) -> Result<Vec<Vec<Cell>>, ViewError> {
        let mut out = Vec::new();
        self.each_row(resource, &mut |row| out.push(row.iter().map(CellRef::to_cell).collect()))?;
        Ok(out)
    }

    /// Calls `row` for each row of one resource, cells borrowed. After an error, rows already given are void.
    pub fn each_row(&self, resource: &Value, row: &mut dyn FnMut(&[CellRef<'_>])) -> Result<(), ViewError> {
        rows::each_row(self, resource, row)
    }
}
