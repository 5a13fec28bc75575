//! The functions: [`call`] sends each to its family. Here also what families share: equality of sets.

mod boundary;
mod codec;
mod collection;
mod convert;
mod math;
mod text;
mod utility;

use super::ast::{NodeId, NodeKind};
use super::error::PathError;
use super::eval::{Eval, Items, Scope};
use super::func::Func;
use super::item::Item;
use super::ops;
pub(crate) use codec::base64;

/// Items of a set compared one with each other cost the square of their number.
pub(crate) fn distinct<'a>(
    eval: &Eval<'a>,
    id: NodeId,
    items: impl IntoIterator<Item = Item<'a>>,
) -> Result<Items<'a>, PathError> {
    let mut out: Items<'a> = Vec::new();
    for item in items {
        eval.spend(id, out.len() / 4)?;
        if !holds(&out, &item) {
            out.push(item);
        }
    }
    Ok(out)
}

/// Whether a set holds an equal item.
fn holds(set: &[Item<'_>], item: &Item<'_>) -> bool {
    set.iter().any(|other| ops::equal(other, item) == Some(true))
}

/// Calls the function of node `id` on its input.
pub(crate) fn call<'a>(
    eval: &Eval<'a>,
    id: NodeId,
    input: &[Item<'a>],
    scope: Scope<'_, 'a>,
) -> Result<Items<'a>, PathError> {
    use Func::*;
    let NodeKind::Call { func, spec, .. } = eval.ast.kind(id) else { return Ok(Vec::new()) };
    match (func, spec) {
        (Is, Some(spec)) => eval.is(id, input, spec),
        (As, Some(spec)) => eval.cast(id, input, spec),
        (OfType, Some(spec)) => eval.of_type(id, input, spec),
        (GetReferenceKey, spec) => utility::reference_key(input, spec.as_ref()),
        _ => match func {
            Empty | Exists | All | AllTrue | AnyTrue | AllFalse | AnyFalse | SubsetOf | SupersetOf | Count
            | Distinct | IsDistinct | Where | Select | Repeat | Single | First | Last | Tail | Skip | Take
            | Intersect | Exclude | Union | Combine | Aggregate | Sort | Iif | Not => {
                collection::call(eval, id, *func, input, scope)
            }
            ToBoolean | ConvertsToBoolean | ToInteger | ConvertsToInteger | ToDecimal | ConvertsToDecimal | ToDate
            | ConvertsToDate | ToDateTime | ConvertsToDateTime | ToTime | ConvertsToTime | ToQuantity
            | ConvertsToQuantity | ToString | ConvertsToString => convert::call(eval, id, *func, input, scope),
            IndexOf | LastIndexOf | Substring | StartsWith | EndsWith | Contains | Upper | Lower | Replace
            | Matches | MatchesFull | ReplaceMatches | Length | ToChars | Encode | Decode | Escape | Unescape
            | Trim | Split | Join => text::call(eval, id, *func, input, scope),
            Abs | Ceiling | Exp | Floor | Ln | Log | Power | Round | Sqrt | Truncate => {
                math::call(eval, id, *func, input, scope)
            }
            LowBoundary | HighBoundary | Precision | Comparable => boundary::call(eval, id, *func, input, scope),
            _ => utility::call(eval, id, *func, input, scope),
        },
    }
}

/// One Boolean, or none.
fn truth<'a>(answer: impl Into<Option<bool>>) -> Result<Items<'a>, PathError> {
    Ok(answer.into().map(Item::Boolean).into_iter().collect())
}

fn one<'a>(item: Option<Item<'a>>) -> Result<Items<'a>, PathError> {
    Ok(item.into_iter().collect())
}
