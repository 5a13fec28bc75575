//! Operators on items: equality, equivalence, order, arithmetic, three-valued logic (FHIRPath 2.0 §6).

use std::borrow::Cow;
use std::cmp::Ordering;

use crate::json::Value;

use super::ast::BinaryOp;
use super::decimal::Decimal;
use super::item::Item;
use super::quantity::{CalendarUnit, Quantity, decimals_equivalent, duration_of_ucum};
use super::temporal::{DateTime, Precision, Time};

/// Depth to which complex elements are compared; JSON that was read is never deeper.
const DEPTH_MAX: usize = crate::json::DEPTH_HARD_MAX;

/// Both as System values, an untyped text taken for the date or time the other side is.
fn pair<'a>(a: &Item<'a>, b: &Item<'a>) -> Option<(Item<'a>, Item<'a>)> {
    let (x, y) = (a.system()?, b.system()?);
    Some(match (&x, &y) {
        (Item::String(text), other) if is_untyped(a) => (as_temporal(text, other).unwrap_or(x), y),
        (other, Item::String(text)) if is_untyped(b) => as_temporal(text, other).map_or((x.clone(), y), |t| (x, t)),
        (Item::Integer(i), Item::Decimal(_)) => (Item::Decimal(Decimal::from(*i)), y),
        (Item::Decimal(_), Item::Integer(i)) => (x, Item::Decimal(Decimal::from(*i))),
        (Item::Integer(_) | Item::Decimal(_), Item::Quantity(_)) => (to_quantity(&x)?, y),
        (Item::Quantity(_), Item::Integer(_) | Item::Decimal(_)) => {
            let q = to_quantity(&y)?;
            (x, q)
        }
        _ => (x, y),
    })
}

fn is_untyped(item: &Item<'_>) -> bool {
    item.element().is_some_and(|e| e.type_name.is_none())
}

fn as_temporal<'a>(text: &str, like: &Item<'_>) -> Option<Item<'a>> {
    match like {
        Item::Date(_) | Item::DateTime(_) => DateTime::parse(text).map(Item::DateTime),
        Item::Time(_) => Time::parse(text).map(Item::Time),
        _ => None,
    }
}

pub(crate) fn to_decimal(item: &Item<'_>) -> Option<Decimal> {
    match item {
        Item::Integer(i) => Some(Decimal::from(*i)),
        Item::Decimal(d) => Some(*d),
        _ => None,
    }
}

fn to_quantity<'a>(item: &Item<'_>) -> Option<Item<'a>> {
    to_decimal(item).map(|d| Item::Quantity(Quantity::new(d, "1")))
}

/// A measurement given as a bound, such as `< 5 mg/L`: it is no one value (R4 FHIRPath page, Quantity).
fn is_bound(item: &Item<'_>) -> bool {
    item.element().and_then(|e| e.value).is_some_and(|v| v.get("comparator").is_some())
}

/// `=` for two items; `None` when it cannot be known.
pub(crate) fn equal(a: &Item<'_>, b: &Item<'_>) -> Option<bool> {
    let Some((x, y)) = pair(a, b) else {
        let both = a.element().is_some() && b.element().is_some();
        return if !both && (is_bound(a) || is_bound(b)) { None } else { Some(complex_equal(a, b)) };
    };
    match (&x, &y) {
        (Item::Boolean(a), Item::Boolean(b)) => Some(a == b),
        (Item::Integer(a), Item::Integer(b)) => Some(a == b),
        (Item::Decimal(a), Item::Decimal(b)) => Some(a.compare(*b) == Ordering::Equal),
        (Item::String(a), Item::String(b)) => Some(a == b),
        (Item::Date(a) | Item::DateTime(a), Item::Date(b) | Item::DateTime(b)) => {
            a.compare(*b).map(|o| o == Ordering::Equal)
        }
        (Item::Time(a), Item::Time(b)) => a.compare(*b).map(|o| o == Ordering::Equal),
        (Item::Quantity(a), Item::Quantity(b)) => a.compare(b).map(|o| o == Ordering::Equal),
        (Item::Type { namespace: a, name: c }, Item::Type { namespace: b, name: d }) => Some(a == b && c == d),
        _ => Some(false),
    }
}

fn complex_equal(a: &Item<'_>, b: &Item<'_>) -> bool {
    match (a.element(), b.element()) {
        (Some(x), Some(y)) => {
            let same = |a: Option<&Value>, b: Option<&Value>| match (a, b) {
                (Some(a), Some(b)) => deep_equal(a, b, DEPTH_MAX),
                (a, b) => a.is_none() && b.is_none(),
            };
            same(x.value, y.value) && (x.value.is_some() || same(x.sibling, y.sibling))
        }
        _ => false,
    }
}

/// Equality of JSON by value: members in any order, decimals as numbers.
fn deep_equal(a: &Value, b: &Value, depth: usize) -> bool {
    if depth == 0 {
        return false;
    }
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => match (Decimal::parse(x.as_str()), Decimal::parse(y.as_str())) {
            (Some(x), Some(y)) => x.compare(y) == Ordering::Equal,
            _ => x == y,
        },
        (Value::Array(x), Value::Array(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|(a, b)| deep_equal(a, b, depth - 1))
        }
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(key, v)| y.get(key).is_some_and(|w| deep_equal(v, w, depth - 1)))
        }
        _ => a == b,
    }
}

/// `~` for two items.
pub(crate) fn equivalent(a: &Item<'_>, b: &Item<'_>) -> bool {
    let Some((x, y)) = pair(a, b) else { return complex_equal(a, b) };
    match (&x, &y) {
        (Item::String(a), Item::String(b)) => folded(a) == folded(b),
        (Item::Decimal(a), Item::Decimal(b)) => decimals_equivalent(*a, *b),
        (Item::Quantity(a), Item::Quantity(b)) => a.equivalent(b),
        _ => equal(&x, &y) == Some(true),
    }
}

/// Without regard to case, with blanks made one (FHIRPath §6.1.2).
fn folded(text: &str) -> String {
    text.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>().join(" ")
}

/// `=` for collections: same length, same order.
pub(crate) fn collections_equal(a: &[Item<'_>], b: &[Item<'_>]) -> Option<bool> {
    if a.is_empty() || b.is_empty() {
        return None;
    }
    if a.len() != b.len() {
        return Some(false);
    }
    let mut known = true;
    for (x, y) in a.iter().zip(b) {
        match equal(x, y) {
            Some(true) => {}
            Some(false) => return Some(false),
            None => known = false,
        }
    }
    known.then_some(true)
}

/// `~` for collections: same items in any order.
pub(crate) fn collections_equivalent(a: &[Item<'_>], b: &[Item<'_>]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut open: Vec<&Item<'_>> = b.iter().collect();
    a.iter().all(|x| match open.iter().position(|y| equivalent(x, y)) {
        Some(at) => {
            open.swap_remove(at);
            true
        }
        None => false,
    })
}

/// Why two items have no order.
pub(crate) enum Unordered {
    /// It cannot be known (precision, zone, units): the answer is empty.
    Unknown,
    /// They are of different types: an error.
    Types,
}

pub(crate) fn compare(a: &Item<'_>, b: &Item<'_>) -> Result<Ordering, Unordered> {
    let bound = is_bound(a) || is_bound(b);
    let (x, y) = pair(a, b).ok_or(if bound { Unordered::Unknown } else { Unordered::Types })?;
    let known = match (&x, &y) {
        (Item::Integer(a), Item::Integer(b)) => Some(a.cmp(b)),
        (Item::Decimal(a), Item::Decimal(b)) => Some(a.compare(*b)),
        (Item::String(a), Item::String(b)) => Some(a.as_ref().cmp(b.as_ref())),
        (Item::Date(a) | Item::DateTime(a), Item::Date(b) | Item::DateTime(b)) => a.compare(*b),
        (Item::Time(a), Item::Time(b)) => a.compare(*b),
        (Item::Quantity(a), Item::Quantity(b)) => a.compare(b),
        _ => return Err(Unordered::Types),
    };
    known.ok_or(Unordered::Unknown)
}

/// `and`, `or`, `xor`, `implies` over true, false and unknown (FHIRPath §6.5).
pub(crate) fn logic(op: BinaryOp, a: Option<bool>, b: Option<bool>) -> Option<bool> {
    match op {
        BinaryOp::And => match (a, b) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            _ => None,
        },
        BinaryOp::Or => match (a, b) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (Some(false), Some(false)) => Some(false),
            _ => None,
        },
        BinaryOp::Xor => Some(a? ^ b?),
        _ => match (a, b) {
            (Some(false), _) | (_, Some(true)) => Some(true),
            (Some(true), b) => b,
            (None, _) => None,
        },
    }
}

/// The outcome of arithmetic: a value, nothing (overflow, division by zero), or operands that do not fit the operator.
pub(crate) enum Sum<'a> {
    Item(Item<'a>),
    Nothing,
    Unfit,
}

impl<'a> Sum<'a> {
    fn of(item: Option<Item<'a>>) -> Sum<'a> {
        item.map_or(Sum::Nothing, Sum::Item)
    }
}

/// `+ - * / div mod` for two items.
pub(crate) fn arithmetic<'a>(op: BinaryOp, a: &Item<'a>, b: &Item<'a>) -> Sum<'a> {
    let (Some(x), Some(y)) = (a.system(), b.system()) else { return Sum::Unfit };
    match (op, &x, &y) {
        (BinaryOp::Add, Item::String(a), Item::String(b)) => Sum::Item(Item::String(Cow::Owned(format!("{a}{b}")))),
        (BinaryOp::Add | BinaryOp::Subtract, Item::Date(d) | Item::DateTime(d), Item::Quantity(q)) => {
            let Some(moved) = move_date(*d, q, op == BinaryOp::Subtract) else { return Sum::Unfit };
            let wrap = if matches!(x, Item::Date(_)) { Item::Date } else { Item::DateTime };
            Sum::of(moved.map(wrap))
        }
        (BinaryOp::Add | BinaryOp::Subtract, Item::Time(t), Item::Quantity(q)) => {
            let Some(ms) = duration_ms(q) else { return Sum::Unfit };
            Sum::of(ms.and_then(|ms| t.plus_ms(if op == BinaryOp::Subtract { -ms } else { ms })).map(Item::Time))
        }
        (_, Item::Integer(a), Item::Integer(b)) if op != BinaryOp::Divide => {
            Sum::of(integers(op, *a, *b).map(Item::Integer))
        }
        (_, Item::Quantity(_), _) | (_, _, Item::Quantity(_)) => quantities(op, &x, &y),
        _ => match (to_decimal(&x), to_decimal(&y)) {
            (Some(a), Some(b)) => Sum::of(decimals(op, a, b)),
            _ => Sum::Unfit,
        },
    }
}

fn integers(op: BinaryOp, a: i64, b: i64) -> Option<i64> {
    match op {
        BinaryOp::Add => a.checked_add(b),
        BinaryOp::Subtract => a.checked_sub(b),
        BinaryOp::Multiply => a.checked_mul(b),
        BinaryOp::Div => a.checked_div(b),
        BinaryOp::Mod => a.checked_rem(b),
        _ => None,
    }
}

fn decimals<'a>(op: BinaryOp, a: Decimal, b: Decimal) -> Option<Item<'a>> {
    match op {
        BinaryOp::Add => a.checked_add(b),
        BinaryOp::Subtract => a.checked_sub(b),
        BinaryOp::Multiply => a.checked_mul(b),
        BinaryOp::Divide => a.checked_div(b),
        BinaryOp::Mod => a.checked_rem(b),
        BinaryOp::Div => return i64::try_from(a.div_trunc(b)?).ok().map(Item::Integer),
        _ => None,
    }
    .map(Item::Decimal)
}

fn quantities<'a>(op: BinaryOp, x: &Item<'a>, y: &Item<'a>) -> Sum<'a> {
    let quantity = |item: &Item<'a>| match item {
        Item::Quantity(q) => Some(q.clone()),
        other => to_decimal(other).map(|d| Quantity::new(d, "1")),
    };
    let (Some(a), Some(b)) = (quantity(x), quantity(y)) else { return Sum::Unfit };
    Sum::of(
        match op {
            BinaryOp::Add => a.add(&b),
            BinaryOp::Subtract => a.add(&b.neg()),
            BinaryOp::Multiply => a.multiply(&b, false),
            BinaryOp::Divide => a.multiply(&b, true),
            _ => return Sum::Unfit,
        }
        .map(Item::Quantity),
    )
}

/// The calendar duration to move by: a word, or a UCUM unit of definite length. `'a'` and `'mo'` are refused
/// (FHIRPath §6.7: they are not calendar years and months).
fn duration(q: &Quantity<'_>) -> Option<CalendarUnit> {
    q.calendar_unit().or_else(|| duration_of_ucum(&q.unit))
}

/// Milliseconds of a duration; `None` for what is no duration, `Some(None)` when it overflows.
fn duration_ms(q: &Quantity<'_>) -> Option<Option<i64>> {
    let unit = match duration(q)? {
        CalendarUnit::Year | CalendarUnit::Month => return None,
        CalendarUnit::Week => 7 * 86_400_000,
        CalendarUnit::Day => 86_400_000,
        CalendarUnit::Hour => 3_600_000,
        CalendarUnit::Minute => 60_000,
        // Seconds keep their fraction; it is ignored above them.
        CalendarUnit::Second => return Some(q.value.checked_mul(Decimal::from(1000)).and_then(whole)),
        CalendarUnit::Millisecond => 1,
    };
    Some(whole(q.value).and_then(|n| n.checked_mul(unit)))
}

fn whole(value: Decimal) -> Option<i64> {
    i64::try_from(value.truncate()).ok()
}

/// A date moved by a duration: `None` when the quantity is no duration, `Some(None)` when it leaves the calendar.
fn move_date(date: DateTime, q: &Quantity<'_>, back: bool) -> Option<Option<DateTime>> {
    const DAY_MS: i64 = 86_400_000;
    let sign = if back { -1 } else { 1 };
    let months = match duration(q)? {
        CalendarUnit::Year => whole(q.value).and_then(|n| n.checked_mul(12)),
        CalendarUnit::Month => whole(q.value),
        _ => {
            let ms = duration_ms(q)?.and_then(|ms| ms.checked_mul(sign));
            // Coarser dates move by whole months or years: 30 days, 365 days (FHIRPath §6.7.1).
            return Some(ms.and_then(|ms| match date.precision() {
                Precision::Year => date.plus_months(ms / (365 * DAY_MS) * 12),
                Precision::Month => date.plus_months(ms / (30 * DAY_MS)),
                _ => date.plus_ms(ms),
            }));
        }
    };
    let whole_units = |m: i64| if date.precision() == Precision::Year { m / 12 * 12 } else { m };
    Some(months.and_then(|m| m.checked_mul(sign)).and_then(|m| date.plus_months(whole_units(m))))
}
