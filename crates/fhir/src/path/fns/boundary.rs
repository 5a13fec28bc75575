//! `lowBoundary`, `highBoundary`, `precision`, `comparable` (FHIRPath §5.7, STU): what a value of limited precision
//! can mean at least and at most.

use super::super::ast::NodeId;
use super::super::decimal::{Decimal, SCALE_MAX};
use super::super::error::PathError;
use super::super::eval::{Eval, Items, Scope};
use super::super::func::Func;
use super::super::item::Item;
use super::super::quantity::Quantity;
use super::super::temporal::{DateTime, Precision, Time, precision_of};
use super::{one, truth};

/// Digits after the point when none are asked for.
const DECIMAL_DIGITS: i64 = 8;

pub(super) fn call<'a>(
    eval: &Eval<'a>,
    id: NodeId,
    func: Func,
    input: &[Item<'a>],
    scope: Scope<'_, 'a>,
) -> Result<Items<'a>, PathError> {
    let Some(item) = eval.single(id, input)?.map(Item::system) else { return Ok(Vec::new()) };
    let Some(value) = item else {
        return Err(eval.error(id, "this function takes numbers, quantities, dates and times"));
    };
    match func {
        Func::Precision => one(precision(&value).map(Item::Integer)),
        Func::Comparable => {
            let other = eval.argument(id, 0, scope)?;
            match (&value, eval.single(id, &other)?.map(Item::system)) {
                (Item::Quantity(a), Some(Some(Item::Quantity(b)))) => truth(a.comparable(&b)),
                (_, None) => Ok(Vec::new()),
                _ => Err(eval.error(id, "`comparable()` takes quantities")),
            }
        }
        _ => {
            let digits = match eval.args(id).first() {
                Some(arg) => eval.integer(*arg, scope)?,
                None => None,
            };
            let high = func == Func::HighBoundary;
            match boundary(&value, high, digits) {
                Some(found) => one(found),
                None => Err(eval.error(id, "this function takes numbers, quantities, dates and times")),
            }
        }
    }
}

fn precision(value: &Item<'_>) -> Option<i64> {
    match value {
        Item::Integer(_) => Some(0),
        Item::Decimal(d) => Some(i64::from(d.scale())),
        Item::Date(d) | Item::DateTime(d) => Some(d.digits()),
        Item::Time(t) => Some(t.digits()),
        Item::Quantity(q) => Some(i64::from(q.value.scale())),
        _ => None,
    }
}

/// `None` for values that have no boundary; `Some(None)` when the precision asked for does not exist.
fn boundary<'a>(value: &Item<'a>, high: bool, digits: Option<i64>) -> Option<Option<Item<'a>>> {
    let places = || u32::try_from(digits.unwrap_or(DECIMAL_DIGITS)).ok().filter(|d| *d <= SCALE_MAX);
    Some(match value {
        Item::Integer(i) => places().and_then(|p| decimal(Decimal::from(*i), high, p)).map(Item::Decimal),
        Item::Decimal(d) => places().and_then(|p| decimal(*d, high, p)).map(Item::Decimal),
        Item::Quantity(q) => places()
            .and_then(|p| decimal(q.value, high, p))
            .map(|value| Item::Quantity(Quantity { value, ..q.clone() })),
        Item::Date(d) => date(*d, high, digits.unwrap_or(8)),
        Item::DateTime(d) => date(*d, high, digits.unwrap_or(17)),
        Item::Time(t) => {
            Time::precision_of(digits.unwrap_or(9)).map(|p| Item::Time(t.boundary(high).with_precision(p)))
        }
        _ => return None,
    })
}

/// Half a unit of the last digit below or above, then outward to the digits asked for; a value that is nothing at
/// those digits stays nothing.
fn decimal(value: Decimal, high: bool, places: u32) -> Option<Decimal> {
    let half = Decimal::new(5, value.scale() + 1)?;
    if value.round(places)?.mantissa() == 0 && value.mantissa() != 0 {
        return Decimal::new(0, places);
    }
    if high { value.checked_add(half)?.ceiling(places) } else { value.checked_sub(half)?.floor(places) }
}

fn date<'a>(value: DateTime, high: bool, digits: i64) -> Option<Item<'a>> {
    let precision = precision_of(digits)?;
    if precision <= Precision::Day {
        return Some(Item::Date(value.date_boundary(high).with_precision(precision)));
    }
    Some(Item::DateTime(value.boundary(high).with_precision(precision)))
}
