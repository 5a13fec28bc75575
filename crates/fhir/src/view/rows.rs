//! Rows of one resource: selects side by side multiply, `unionAll` branches follow each other (SQL on FHIR v2,
//! processing algorithm). One row is filled in place and handed out when its last select is done.

use std::borrow::Cow;

use crate::json::Value;
use crate::path::{Context, Element, Item, PathError};

use super::define::{Column, Each, Select};
use super::source::{Source, element, follow};
use super::{CellRef, ColumnKind, View, ViewColumn, ViewError};

/// Rows that one resource may give.
const ROWS_MAX: usize = 100_000;
/// Depth of `repeat`; JSON is never deeper.
const REPEAT_DEPTH_MAX: usize = crate::json::DEPTH_HARD_MAX;

pub(super) fn each_row(view: &View, resource: &Value, out: &mut dyn FnMut(&[CellRef<'_>])) -> Result<(), ViewError> {
    if resource.get("resourceType").and_then(Value::as_str) != Some(&view.resource) {
        return Ok(());
    }
    let variables: Vec<(&str, Item<'_>)> = view.constants.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
    let context = Context { types: view.types, variables: &variables, row_index: Some(0), ..Context::new() };
    let mut run = Run { view, resource, context, row: vec![CellRef::Null; view.columns.len()], rows: 0, out };
    if !run.wanted()? {
        return Ok(());
    }
    let focus = Item::Element(Element::resource(resource));
    run.walk(Some(&Rest { work: Work::Selects(&view.selects), focus: Some(&focus), index: 0, next: None }))
}

struct Run<'a, 'o> {
    view: &'a View,
    resource: &'a Value,
    context: Context<'a>,
    row: Vec<CellRef<'a>>,
    rows: usize,
    out: &'o mut dyn FnMut(&[CellRef<'_>]),
}

#[derive(Clone, Copy)]
enum Work<'a> {
    /// Selects side by side.
    Selects(&'a [Select]),
    /// Branches after each other.
    Union(&'a [Select]),
}

/// What is still to be filled before the row is whole. Lives on the stack; as deep as the view has selects.
struct Rest<'c, 'a> {
    work: Work<'a>,
    /// `None` under a `forEachOrNull` that found nothing.
    focus: Option<&'c Item<'a>>,
    index: usize,
    next: Option<&'c Rest<'c, 'a>>,
}

impl<'a> Run<'a, '_> {
    fn wanted(&self) -> Result<bool, ViewError> {
        for criterion in &self.view.wheres {
            let answer = criterion.expr.eval_bool(self.resource, &self.context);
            if answer.map_err(|e| at(&criterion.place, e))? != Some(true) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn walk(&mut self, rest: Option<&Rest<'_, 'a>>) -> Result<(), ViewError> {
        let Some(rest) = rest else { return self.hand_out() };
        match rest.work {
            Work::Selects([]) => self.walk(rest.next),
            Work::Selects([first, others @ ..]) => {
                let next = Rest { work: Work::Selects(others), ..*rest };
                self.select(first, rest.focus, rest.index, &next)
            }
            Work::Union(branches) => {
                for branch in branches {
                    self.select(branch, rest.focus, rest.index, rest.next.unwrap_or(&Rest::END))?;
                }
                Ok(())
            }
        }
    }

    fn hand_out(&mut self) -> Result<(), ViewError> {
        self.rows += 1;
        if self.rows > ROWS_MAX {
            return Err(ViewError::new("select", "one resource gives too many rows, join fewer lists in one view"));
        }
        (self.out)(&self.row);
        Ok(())
    }

    fn select(
        &mut self,
        select: &'a Select,
        focus: Option<&Item<'a>>,
        index: usize,
        next: &Rest<'_, 'a>,
    ) -> Result<(), ViewError> {
        let mut items = Vec::new();
        let or_null = match &select.each {
            Each::Here => return self.fill(select, focus, index, next),
            Each::List { source, or_null } => {
                self.items(source, &select.place, focus, index, &mut items)?;
                *or_null
            }
            Each::Repeat(sources) => {
                if let Some(focus) = focus {
                    self.repeat(sources, &select.place, focus, index, 0, &mut items)?;
                }
                false
            }
        };
        if items.is_empty() && or_null {
            return self.fill(select, None, 0, next);
        }
        for (at, item) in items.iter().enumerate() {
            self.fill(select, Some(item), at, next)?;
        }
        Ok(())
    }

    fn fill(
        &mut self,
        select: &'a Select,
        focus: Option<&Item<'a>>,
        index: usize,
        next: &Rest<'_, 'a>,
    ) -> Result<(), ViewError> {
        for column in &select.columns {
            let cell = self.cell(column, focus, index)?;
            if let Some(slot) = self.row.get_mut(column.slot) {
                *slot = cell;
            }
        }
        let union = Rest { work: Work::Union(&select.union), focus, index, next: Some(next) };
        let next = if select.union.is_empty() { next } else { &union };
        self.walk(Some(&Rest { work: Work::Selects(&select.selects), focus, index, next: Some(next) }))
    }

    /// The items a source gives for a focus.
    fn items(
        &self,
        source: &'a Source,
        place: &str,
        focus: Option<&Item<'a>>,
        index: usize,
        out: &mut Vec<Item<'a>>,
    ) -> Result<(), ViewError> {
        match (source, focus) {
            (Source::Plain { hops, type_name }, Some(Item::Element(Element { value: Some(value), .. }))) => {
                follow(value, hops, &mut |v| out.push(Item::Element(element(v, *type_name))));
            }
            (Source::Path(expr), focus) => {
                let focus = focus.map(std::slice::from_ref).unwrap_or_default();
                let context = Context { row_index: Some(index), ..self.context };
                out.extend(expr.eval_items(focus, Some(self.resource), &context).map_err(|e| at(place, e))?);
            }
            _ => {}
        }
        if out.len() > ROWS_MAX {
            return Err(ViewError::new(place, "one resource gives too many items here"));
        }
        Ok(())
    }

    /// Each item before its own children, as a reader goes through a questionnaire.
    fn repeat(
        &self,
        sources: &'a [Source],
        place: &str,
        focus: &Item<'a>,
        index: usize,
        depth: usize,
        out: &mut Vec<Item<'a>>,
    ) -> Result<(), ViewError> {
        if depth > REPEAT_DEPTH_MAX || out.len() > ROWS_MAX {
            return Err(ViewError::new(place, "one resource repeats too deeply or too often here"));
        }
        let mut found = Vec::new();
        for source in sources {
            self.items(source, place, Some(focus), index, &mut found)?;
        }
        for item in found {
            out.push(item.clone());
            self.repeat(sources, place, &item, index, depth + 1, out)?;
        }
        Ok(())
    }

    fn cell(&self, column: &'a Column, focus: Option<&Item<'a>>, index: usize) -> Result<CellRef<'a>, ViewError> {
        let shape = &self.view.columns[column.slot];
        match &column.source {
            Source::RowIndex => Ok(CellRef::Int(index as i64)),
            Source::Plain { hops, .. } => {
                let Some(Item::Element(Element { value: Some(value), .. })) = focus else {
                    return Gather::new(shape, &column.place).finish();
                };
                let mut gather = Gather::new(shape, &column.place);
                follow(value, hops, &mut |v| gather.json(v));
                gather.finish()
            }
            Source::Path(expr) => {
                let focus = focus.map(std::slice::from_ref).unwrap_or_default();
                let context = Context { row_index: Some(index), ..self.context };
                let items = expr.eval_items(focus, Some(self.resource), &context).map_err(|e| at(&column.place, e))?;
                let mut gather = Gather::new(shape, &column.place);
                for item in &items {
                    gather.item(item);
                }
                gather.finish()
            }
        }
    }
}

impl Rest<'_, '_> {
    const END: Rest<'static, 'static> = Rest { work: Work::Selects(&[]), focus: None, index: 0, next: None };
}

fn at(place: &str, error: PathError) -> ViewError {
    ViewError::new(place, error.to_string())
}

/// Gathers the values of one cell and checks that they fit the column.
struct Gather<'a, 'c> {
    shape: &'c ViewColumn,
    place: &'c str,
    first: CellRef<'a>,
    list: Vec<CellRef<'a>>,
    count: usize,
    wrong: Option<&'static str>,
}

impl<'a, 'c> Gather<'a, 'c> {
    fn new(shape: &'c ViewColumn, place: &'c str) -> Self {
        Gather { shape, place, first: CellRef::Null, list: Vec::new(), count: 0, wrong: None }
    }

    fn push(&mut self, cell: Result<CellRef<'a>, &'static str>) {
        match cell {
            Ok(CellRef::Null) => {}
            Ok(cell) => {
                self.count += 1;
                if self.shape.collection {
                    self.list.push(cell);
                } else if self.count == 1 {
                    self.first = cell;
                }
            }
            Err(found) => self.wrong = Some(found),
        }
    }

    fn json(&mut self, value: &'a Value) {
        let kind = self.shape.kind;
        self.push(match (value, kind) {
            (Value::Null, _) => Ok(CellRef::Null),
            (Value::String(text), kind) if is_text(kind) => Ok(CellRef::Text(Cow::Borrowed(text))),
            (Value::Bool(b), ColumnKind::Boolean) => Ok(CellRef::Bool(*b)),
            (Value::Number(n), ColumnKind::Integer | ColumnKind::Integer64) => match n.as_i64() {
                Some(i) => integer(i, kind),
                None => Err("a number with a fraction"),
            },
            (Value::Number(n), ColumnKind::Decimal) => Ok(CellRef::Decimal(Cow::Borrowed(n.as_str()))),
            (Value::Number(n), ColumnKind::String) => Ok(CellRef::Text(Cow::Borrowed(n.as_str()))),
            (Value::Bool(b), ColumnKind::String) => Ok(CellRef::Text(Cow::Borrowed(if *b { "true" } else { "false" }))),
            // R5 and later write integer64 as text.
            (Value::String(text), ColumnKind::Integer64) => text.parse().map(CellRef::Int).map_err(|_| "a text"),
            (Value::String(_), _) => Err("a text"),
            (Value::Bool(_), _) => Err("a boolean"),
            (Value::Number(_), _) => Err("a number"),
            (Value::Object(_) | Value::Array(_), _) => Err("a complex element, name one of its children"),
        });
    }

    fn item(&mut self, item: &Item<'a>) {
        if let Item::Element(element) = item {
            if let Some(value) = element.value {
                self.json(value);
            }
            return;
        }
        let kind = self.shape.kind;
        self.push(match (item, kind) {
            (Item::Boolean(b), ColumnKind::Boolean) => Ok(CellRef::Bool(*b)),
            (Item::Integer(i), ColumnKind::Integer | ColumnKind::Integer64) => integer(*i, kind),
            (Item::Decimal(d), ColumnKind::Integer | ColumnKind::Integer64) => match d.to_integer() {
                Some(i) => integer(i, kind),
                None => Err("a number with a fraction"),
            },
            (Item::Integer(i), ColumnKind::Decimal) => Ok(CellRef::Decimal(Cow::Owned(i.to_string()))),
            (Item::Decimal(d), ColumnKind::Decimal) => Ok(CellRef::Decimal(Cow::Owned(d.to_string()))),
            (Item::String(text), kind) if is_text(kind) => Ok(CellRef::Text(text.clone())),
            (Item::Date(d), ColumnKind::Date | ColumnKind::DateTime | ColumnKind::Instant) => {
                Ok(CellRef::Text(Cow::Owned(d.to_string())))
            }
            (Item::DateTime(d), ColumnKind::Date | ColumnKind::DateTime | ColumnKind::Instant) => {
                Ok(CellRef::Text(Cow::Owned(d.to_string())))
            }
            (Item::Time(t), ColumnKind::Time) => Ok(CellRef::Text(Cow::Owned(t.to_string()))),
            (item, ColumnKind::String) => match item.to_text() {
                Some(text) => Ok(CellRef::Text(text)),
                None => Err("a type"),
            },
            (Item::Boolean(_), _) => Err("a boolean"),
            (Item::Integer(_) | Item::Decimal(_), _) => Err("a number"),
            (Item::Quantity(_), _) => Err("a quantity, take its value and its unit"),
            _ => Err("a value of another type"),
        });
    }

    fn finish(self) -> Result<CellRef<'a>, ViewError> {
        let name = &self.shape.name;
        if let Some(found) = self.wrong {
            let kind = self.shape.kind.name();
            return Err(ViewError::new(self.place, format!("column `{name}` is {kind}, its path gives {found}")));
        }
        if self.shape.collection {
            return Ok(CellRef::List(self.list));
        }
        if self.count > 1 {
            let text = format!(
                "column `{name}` holds one value, its path gives more: set collection, add `first()` or use forEach"
            );
            return Err(ViewError::new(self.place, text));
        }
        Ok(self.first)
    }
}

fn integer<'a>(value: i64, kind: ColumnKind) -> Result<CellRef<'a>, &'static str> {
    match kind {
        ColumnKind::Integer if i32::try_from(value).is_err() => Err("a number past 32 bits, declare integer64"),
        _ => Ok(CellRef::Int(value)),
    }
}

fn is_text(kind: ColumnKind) -> bool {
    !matches!(kind, ColumnKind::Boolean | ColumnKind::Integer | ColumnKind::Integer64 | ColumnKind::Decimal)
}
