//! Math functions (FHIRPath §5.7). Exact where the result is; through `f64` where it is not.

use super::super::ast::NodeId;
use super::super::decimal::Decimal;
use super::super::error::PathError;
use super::super::eval::{Eval, Items, Scope};
use super::super::func::Func;
use super::super::item::Item;
use super::super::ops::to_decimal;
use super::super::quantity::Quantity;
use super::one;

pub(super) fn call<'a>(
    eval: &Eval<'a>,
    id: NodeId,
    func: Func,
    input: &[Item<'a>],
    scope: Scope<'_, 'a>,
) -> Result<Items<'a>, PathError> {
    let Some(item) = eval.single(id, input)?.map(Item::system) else { return Ok(Vec::new()) };
    let argument = match eval.args(id).is_empty() {
        true => None,
        false => {
            let items = eval.argument(id, 0, scope)?;
            match eval.single(id, &items)? {
                None => return Ok(Vec::new()),
                Some(arg) => Some(number(eval, id, arg.system().as_ref())?),
            }
        }
    };
    if let Some(Item::Quantity(q)) = &item {
        return one(of_quantity(eval, id, func, q, argument)?);
    }
    let value = number(eval, id, item.as_ref())?;
    let integer = matches!(item, Some(Item::Integer(_)));
    let result = match func {
        Func::Abs if integer => value.to_integer().and_then(i64::checked_abs).map(Item::Integer),
        Func::Abs => Some(Item::Decimal(if value.is_negative() { value.negated() } else { value })),
        Func::Ceiling => value.ceiling(0).and_then(Decimal::to_integer).map(Item::Integer),
        Func::Floor => value.floor(0).and_then(Decimal::to_integer).map(Item::Integer),
        Func::Truncate => i64::try_from(value.truncate()).ok().map(Item::Integer),
        Func::Round => return round(eval, id, value, integer, argument).and_then(one),
        Func::Power => return one(power(value, argument.unwrap_or(Decimal::ONE), integer)),
        Func::Exp => float(value.to_f64().exp()),
        Func::Ln => float(value.to_f64().ln()),
        Func::Log => float(log(value.to_f64(), argument.map_or(10.0, Decimal::to_f64))),
        _ => float(value.to_f64().sqrt()),
    };
    one(result)
}

fn number(eval: &Eval<'_>, id: NodeId, item: Option<&Item<'_>>) -> Result<Decimal, PathError> {
    item.and_then(to_decimal).ok_or_else(|| eval.error(id, "this function takes numbers"))
}

/// Not-a-number and infinity are no result.
fn float<'a>(value: f64) -> Option<Item<'a>> {
    Decimal::from_f64(value).map(Item::Decimal)
}

fn log(value: f64, base: f64) -> f64 {
    if base == 2.0 {
        value.log2()
    } else if base == 10.0 {
        value.log10()
    } else {
        value.ln() / base.ln()
    }
}

fn digits(eval: &Eval<'_>, id: NodeId, argument: Option<Decimal>) -> Result<u32, PathError> {
    let digits = argument.map_or(Some(0), Decimal::to_integer);
    digits
        .and_then(|n| u32::try_from(n).ok())
        .ok_or_else(|| eval.error(id, "the precision of `round()` must be an integer that is not negative"))
}

fn round<'a>(
    eval: &Eval<'a>,
    id: NodeId,
    value: Decimal,
    integer: bool,
    argument: Option<Decimal>,
) -> Result<Option<Item<'a>>, PathError> {
    let digits = digits(eval, id, argument)?;
    Ok(match integer {
        true => value.to_integer().map(Item::Integer),
        false => value.round(digits).map(Item::Decimal),
    })
}

/// Exact for whole exponents; a negative base has no fractional power.
fn power<'a>(base: Decimal, exponent: Decimal, integer: bool) -> Option<Item<'a>> {
    const EXACT_MAX: i64 = 64;
    if let Some(n) = exponent.to_integer().filter(|n| (0..=EXACT_MAX).contains(n)) {
        let exact = (0..n).try_fold(Decimal::ONE, |product, _| product.checked_mul(base));
        if let Some(exact) = exact {
            return match integer {
                true => exact.to_integer().map(Item::Integer),
                false => Some(Item::Decimal(exact)),
            };
        }
    }
    float(base.to_f64().powf(exponent.to_f64()))
}

fn of_quantity<'a>(
    eval: &Eval<'a>,
    id: NodeId,
    func: Func,
    q: &Quantity<'a>,
    argument: Option<Decimal>,
) -> Result<Option<Item<'a>>, PathError> {
    let value = match func {
        Func::Abs if q.value.is_negative() => Some(q.value.negated()),
        Func::Abs => Some(q.value),
        Func::Ceiling => q.value.ceiling(0),
        Func::Floor => q.value.floor(0),
        Func::Truncate => Decimal::new(q.value.truncate(), 0),
        Func::Round => q.value.round(digits(eval, id, argument)?),
        _ => return Err(eval.error(id, "this function takes numbers, not quantities")),
    };
    Ok(value.map(|value| Item::Quantity(Quantity { value, ..q.clone() })))
}
