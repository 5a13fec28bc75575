//! Existence, filtering, subsetting, combining, aggregation (FHIRPath §5.1–5.4, §7).

use std::cmp::Ordering;

use super::super::ast::{NodeId, NodeKind};
use super::super::error::PathError;
use super::super::eval::{Eval, Items, Scope};
use super::super::func::Func;
use super::super::item::Item;
use super::super::ops::{self, Unordered};
use super::{distinct, holds, one, truth};

pub(super) fn call<'a>(
    eval: &Eval<'a>,
    id: NodeId,
    func: Func,
    input: &[Item<'a>],
    scope: Scope<'_, 'a>,
) -> Result<Items<'a>, PathError> {
    let other = || eval.argument(id, 0, scope);
    match func {
        Func::Empty => truth(input.is_empty()),
        Func::Exists => match eval.args(id).is_empty() {
            true => truth(!input.is_empty()),
            false => truth(any(eval, id, input, scope)?),
        },
        Func::All => truth(all(eval, id, input, scope)?),
        Func::AllTrue => truth(booleans(eval, id, input)?.iter().all(|b| *b)),
        Func::AnyTrue => truth(booleans(eval, id, input)?.iter().any(|b| *b)),
        Func::AllFalse => truth(booleans(eval, id, input)?.iter().all(|b| !*b)),
        Func::AnyFalse => truth(booleans(eval, id, input)?.iter().any(|b| !*b)),
        Func::SubsetOf => truth(subset(eval, id, input, &other()?)?),
        Func::SupersetOf => truth(subset(eval, id, &other()?, input)?),
        Func::Count => one(Some(Item::Integer(input.len() as i64))),
        Func::Distinct => distinct(eval, id, input.iter().cloned()),
        Func::IsDistinct => truth(distinct(eval, id, input.iter().cloned())?.len() == input.len()),
        Func::Where => filter(eval, id, input, scope),
        Func::Select => select(eval, id, input, scope),
        Func::Repeat => repeat(eval, id, input, scope),
        Func::Single => one(eval.single(id, input)?.cloned()),
        Func::First => one(input.first().cloned()),
        Func::Last => one(input.last().cloned()),
        Func::Tail => Ok(input.iter().skip(1).cloned().collect()),
        Func::Skip => Ok(input.iter().skip(amount(eval, id, scope)?.unwrap_or(0)).cloned().collect()),
        Func::Take => Ok(input.iter().take(amount(eval, id, scope)?.unwrap_or(0)).cloned().collect()),
        Func::Intersect => {
            let other = other()?;
            eval.spend(id, input.len() * other.len() / 4)?;
            distinct(eval, id, input.iter().filter(|item| holds(&other, item)).cloned())
        }
        Func::Exclude => {
            let other = other()?;
            eval.spend(id, input.len() * other.len() / 4)?;
            Ok(input.iter().filter(|item| !holds(&other, item)).cloned().collect())
        }
        Func::Union => distinct(eval, id, input.iter().cloned().chain(other()?)),
        Func::Combine => eval.bounded(id, input.iter().cloned().chain(other()?).collect()),
        Func::Aggregate => aggregate(eval, id, input, scope),
        Func::Sort => sort(eval, id, input, scope),
        Func::Iif => iif(eval, id, input, scope),
        _ => match eval.single(id, input)? {
            Some(_) => truth(eval.boolean(id, input)?.map(|b| !b)),
            None => Ok(Vec::new()),
        },
    }
}

/// A criterion on one item.
fn criterion<'a>(
    eval: &Eval<'a>,
    id: NodeId,
    item: &Item<'a>,
    at: usize,
    scope: Scope<'_, 'a>,
) -> Result<Option<bool>, PathError> {
    let focus = std::slice::from_ref(item);
    let answer = eval.argument(id, 0, scope.item(focus, at))?;
    eval.boolean(id, &answer)
}

fn any<'a>(eval: &Eval<'a>, id: NodeId, input: &[Item<'a>], scope: Scope<'_, 'a>) -> Result<bool, PathError> {
    for (at, item) in input.iter().enumerate() {
        if criterion(eval, id, item, at, scope)? == Some(true) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn all<'a>(eval: &Eval<'a>, id: NodeId, input: &[Item<'a>], scope: Scope<'_, 'a>) -> Result<bool, PathError> {
    for (at, item) in input.iter().enumerate() {
        if criterion(eval, id, item, at, scope)? != Some(true) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn booleans(eval: &Eval<'_>, id: NodeId, input: &[Item<'_>]) -> Result<Vec<bool>, PathError> {
    let read = |item: &Item<'_>| match item.system() {
        Some(Item::Boolean(b)) => Ok(b),
        _ => Err(eval.error(id, "this function takes booleans only")),
    };
    input.iter().map(read).collect()
}

fn subset<'a>(eval: &Eval<'a>, id: NodeId, small: &[Item<'a>], large: &[Item<'a>]) -> Result<bool, PathError> {
    eval.spend(id, small.len() * large.len() / 4)?;
    Ok(small.iter().all(|item| holds(large, item)))
}

fn filter<'a>(eval: &Eval<'a>, id: NodeId, input: &[Item<'a>], scope: Scope<'_, 'a>) -> Result<Items<'a>, PathError> {
    let mut out = Vec::new();
    for (at, item) in input.iter().enumerate() {
        if criterion(eval, id, item, at, scope)? == Some(true) {
            out.push(item.clone());
        }
    }
    Ok(out)
}

fn select<'a>(eval: &Eval<'a>, id: NodeId, input: &[Item<'a>], scope: Scope<'_, 'a>) -> Result<Items<'a>, PathError> {
    let mut out = Vec::new();
    for (at, item) in input.iter().enumerate() {
        out.extend(eval.argument(id, 0, scope.item(std::slice::from_ref(item), at))?);
        eval.spend(id, 1)?;
        if out.len() > eval.context.limits.items_max {
            break;
        }
    }
    eval.bounded(id, out)
}

/// Level by level; an item equal to one that was seen is not followed again, so that cycles end.
fn repeat<'a>(eval: &Eval<'a>, id: NodeId, input: &[Item<'a>], scope: Scope<'_, 'a>) -> Result<Items<'a>, PathError> {
    let mut seen: Items<'a> = Vec::new();
    let mut level: Items<'a> = input.to_vec();
    while !level.is_empty() {
        let mut next = Vec::new();
        for (at, item) in level.iter().enumerate() {
            for found in eval.argument(id, 0, scope.item(std::slice::from_ref(item), at))? {
                eval.spend(id, 1 + seen.len() / 4)?;
                if !holds(&seen, &found) {
                    seen.push(found.clone());
                    next.push(found);
                }
            }
        }
        level = next;
    }
    eval.bounded(id, seen)
}

fn amount<'a>(eval: &Eval<'a>, id: NodeId, scope: Scope<'_, 'a>) -> Result<Option<usize>, PathError> {
    let Some(arg) = eval.args(id).first() else { return Ok(None) };
    Ok(eval.integer(*arg, scope)?.map(|n| usize::try_from(n).unwrap_or(0)))
}

fn aggregate<'a>(
    eval: &Eval<'a>,
    id: NodeId,
    input: &[Item<'a>],
    scope: Scope<'_, 'a>,
) -> Result<Items<'a>, PathError> {
    let mut total = eval.argument(id, 1, scope)?;
    for (at, item) in input.iter().enumerate() {
        let inner = Scope { focus: std::slice::from_ref(item), index: Some(at), total: Some(&total) };
        total = eval.argument(id, 0, inner)?;
    }
    Ok(total)
}

/// The branch not taken is not evaluated; the criterion must be a Boolean.
fn iif<'a>(eval: &Eval<'a>, id: NodeId, input: &[Item<'a>], scope: Scope<'_, 'a>) -> Result<Items<'a>, PathError> {
    eval.single(id, input)?;
    let inner = Scope { focus: input, ..scope };
    let criterion = eval.argument(id, 0, inner)?;
    let taken = match eval.single(id, &criterion)?.map(Item::system) {
        None => false,
        Some(Some(Item::Boolean(b))) => b,
        Some(_) => return Err(eval.error(id, "the first argument of `iif()` must be a boolean")),
    };
    eval.argument(id, if taken { 1 } else { 2 }, inner)
}

/// By each key in turn; a key with a minus before it sorts downward. Items without a key come first.
fn sort<'a>(eval: &Eval<'a>, id: NodeId, input: &[Item<'a>], scope: Scope<'_, 'a>) -> Result<Items<'a>, PathError> {
    eval.spend(id, input.len() * 4)?;
    let args = eval.args(id);
    let mut keyed: Vec<(Vec<Option<Item<'a>>>, Item<'a>)> = Vec::with_capacity(input.len());
    for (at, item) in input.iter().enumerate() {
        let inner = scope.item(std::slice::from_ref(item), at);
        let mut keys = Vec::with_capacity(args.len().max(1));
        for arg in args {
            let key = match eval.ast.kind(*arg) {
                NodeKind::Negate(inside) => *inside,
                _ => *arg,
            };
            let found = eval.eval(key, inner)?;
            keys.push(eval.single(id, &found)?.cloned());
        }
        if args.is_empty() {
            keys.push(Some(item.clone()));
        }
        keyed.push((keys, item.clone()));
    }
    let down: Vec<bool> = args.iter().map(|a| matches!(eval.ast.kind(*a), NodeKind::Negate(_))).collect();
    check_sortable(eval, id, &keyed)?;
    keyed.sort_by(|(a, _), (b, _)| {
        a.iter().zip(b).enumerate().fold(Ordering::Equal, |order, (at, (x, y))| {
            order.then_with(|| match (x, y) {
                (Some(x), Some(y)) => {
                    let order = ops::compare(x, y).unwrap_or(Ordering::Equal);
                    if down.get(at) == Some(&true) { order.reverse() } else { order }
                }
                (x, y) => x.is_some().cmp(&y.is_some()),
            })
        })
    });
    Ok(keyed.into_iter().map(|(_, item)| item).collect())
}

/// Keys of one type have an order; anything else would make the sort depend on the order of the input.
fn check_sortable<'a>(
    eval: &Eval<'a>,
    id: NodeId,
    keyed: &[(Vec<Option<Item<'a>>>, Item<'a>)],
) -> Result<(), PathError> {
    let columns = keyed.first().map_or(0, |(keys, _)| keys.len());
    for at in 0..columns {
        let mut keys = keyed.iter().filter_map(|(keys, _)| keys.get(at).and_then(Option::as_ref));
        let Some(first) = keys.next() else { continue };
        if keys.any(|key| matches!(ops::compare(first, key), Err(Unordered::Types))) {
            return Err(eval.error(id, "items of different types cannot be sorted"));
        }
    }
    Ok(())
}
