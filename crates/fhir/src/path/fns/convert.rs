//! `toX()` and `convertsToX()` (FHIRPath §5.5): one function per type decides both.

use super::super::ast::NodeId;
use super::super::decimal::Decimal;
use super::super::error::PathError;
use super::super::eval::{Eval, Items, Scope, quantity_from_text};
use super::super::func::Func;
use super::super::item::Item;
use super::super::quantity::Quantity;
use super::super::temporal::{DateTime, Time};
use super::{one, truth};

pub(super) fn call<'a>(
    eval: &Eval<'a>,
    id: NodeId,
    func: Func,
    input: &[Item<'a>],
    scope: Scope<'_, 'a>,
) -> Result<Items<'a>, PathError> {
    use Func::*;
    let Some(item) = eval.single(id, input)? else { return Ok(Vec::new()) };
    let system = item.system();
    let Some(value) = system.as_ref() else {
        return if func.name().starts_with("converts") { truth(false) } else { Ok(Vec::new()) };
    };
    let converted = match func {
        ToBoolean | ConvertsToBoolean => to_boolean(value),
        ToInteger | ConvertsToInteger => to_integer(value),
        ToDecimal | ConvertsToDecimal => to_decimal(value),
        ToDate | ConvertsToDate => to_date(value),
        ToDateTime | ConvertsToDateTime => to_date_time(value),
        ToTime | ConvertsToTime => to_time(value),
        ToQuantity | ConvertsToQuantity => {
            let unit = eval.argument(id, 0, scope)?;
            let unit = eval.single(id, &unit)?.and_then(Item::text);
            to_quantity(value).filter(|q| unit.as_ref().is_none_or(|u| q.unit == *u)).map(Item::Quantity)
        }
        _ => value.to_text().map(Item::String),
    };
    if func.name().starts_with("converts") { truth(converted.is_some()) } else { one(converted) }
}

fn to_boolean<'a>(value: &Item<'a>) -> Option<Item<'a>> {
    let number = |d: Decimal| match d.to_integer() {
        Some(1) => Some(true),
        Some(0) => Some(false),
        _ => None,
    };
    match value {
        Item::Boolean(b) => Some(*b),
        Item::Integer(i) => number(Decimal::from(*i)),
        Item::Decimal(d) => number(*d),
        Item::String(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "t" | "yes" | "y" | "1" | "1.0" => Some(true),
            "false" | "f" | "no" | "n" | "0" | "0.0" => Some(false),
            _ => None,
        },
        _ => None,
    }
    .map(Item::Boolean)
}

fn to_integer<'a>(value: &Item<'a>) -> Option<Item<'a>> {
    match value {
        Item::Integer(i) => Some(*i),
        Item::Boolean(b) => Some(i64::from(*b)),
        Item::String(text) => text.parse().ok(),
        _ => None,
    }
    .map(Item::Integer)
}

fn to_decimal<'a>(value: &Item<'a>) -> Option<Item<'a>> {
    match value {
        Item::Integer(i) => Some(Decimal::from(*i)),
        Item::Decimal(d) => Some(*d),
        Item::Boolean(b) => Decimal::parse(if *b { "1.0" } else { "0.0" }),
        Item::String(text) => Decimal::parse(text),
        _ => None,
    }
    .map(Item::Decimal)
}

fn to_date<'a>(value: &Item<'a>) -> Option<Item<'a>> {
    match value {
        Item::Date(d) | Item::DateTime(d) => Some(d.date()),
        Item::String(text) => DateTime::parse(text).map(DateTime::date),
        _ => None,
    }
    .map(Item::Date)
}

fn to_date_time<'a>(value: &Item<'a>) -> Option<Item<'a>> {
    match value {
        Item::Date(d) | Item::DateTime(d) => Some(*d),
        Item::String(text) => DateTime::parse(text),
        _ => None,
    }
    .map(Item::DateTime)
}

fn to_time<'a>(value: &Item<'a>) -> Option<Item<'a>> {
    match value {
        Item::Time(t) => Some(*t),
        Item::String(text) => Time::parse(text),
        _ => None,
    }
    .map(Item::Time)
}

fn to_quantity<'a>(value: &Item<'a>) -> Option<Quantity<'a>> {
    match value {
        Item::Quantity(q) => Some(q.clone()),
        Item::Integer(i) => Some(Quantity::new(Decimal::from(*i), "1")),
        Item::Decimal(d) => Some(Quantity::new(*d, "1")),
        Item::Boolean(b) => Decimal::parse(if *b { "1.0" } else { "0.0" }).map(|d| Quantity::new(d, "1")),
        Item::String(text) => quantity_from_text(text),
        _ => None,
    }
}
