//! A compiled path of a view: plain steps down the JSON where it is no more than that, else a FHIRPath expression.

use std::borrow::Cow;

use crate::json::Value;
use crate::path::{Element, ElementType, Expr, Step, TypeInfo};

/// One plain step, with what the definitions say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hop {
    /// The member of this name.
    Child(Box<str>),
    /// The member of this name, or a choice of it: the definitions do not say.
    ChildOrChoice(Box<str>),
    Index(usize),
}

/// Where values come from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// Steps from the focus, and the FHIR type at their end.
    Plain {
        hops: Box<[Hop]>,
        type_name: Option<&'static str>,
    },
    RowIndex,
    Path(Box<Expr>),
}

/// A source with what is known of it: its FHIR type and the element path it takes values from.
pub(super) struct Resolved {
    pub source: Source,
    pub type_name: Option<&'static str>,
    pub path: Option<String>,
}

/// The focus that paths start from, as far as it is known when the view is parsed.
#[derive(Debug, Clone, Default)]
pub(super) struct Ground {
    /// FHIR type of the focus.
    pub type_name: Option<Cow<'static, str>>,
    /// Its element path; `None` when it was computed.
    pub path: Option<String>,
    /// Whether it is the resource itself.
    pub root: bool,
}

/// Resolves a compiled path against its ground.
pub(super) fn resolve(expr: Expr, ground: &Ground, types: &dyn TypeInfo) -> Resolved {
    if expr.is_variable("rowIndex") {
        return Resolved { source: Source::RowIndex, type_name: Some("integer"), path: None };
    }
    let Some(trail) = expr.trail() else {
        return Resolved { source: Source::Path(Box::new(expr)), type_name: None, path: None };
    };
    let mut steps = trail.steps.as_slice();
    if let (true, Some(Step::Child(name)), Some(own)) = (ground.root, steps.first(), ground.type_name.as_deref())
        && **name == *own
    {
        steps = &steps[1..];
    }
    let mut at = Walk { type_name: ground.type_name.clone(), path: ground.path.clone(), hops: Vec::new() };
    for step in steps {
        at.step(step, types);
    }
    let type_name = at.static_type();
    let source = match trail.plain && !at.open_choice() {
        true => Source::Plain { hops: at.hops.into(), type_name },
        false => Source::Path(Box::new(expr)),
    };
    Resolved { source, type_name, path: at.path }
}

struct Walk {
    type_name: Option<Cow<'static, str>>,
    path: Option<String>,
    hops: Vec<Hop>,
}

impl Walk {
    fn step(&mut self, step: &Step, types: &dyn TypeInfo) {
        match step {
            Step::Index(at) => self.hops.push(Hop::Index(*at)),
            Step::Child(name) => {
                let known = self.type_name.as_deref().and_then(|t| types.element_type(t, name));
                let complete = self.type_name.as_deref().is_some_and(|t| types.is_complete(t));
                let open = known == Some(ElementType::Choice) || known.is_none() && !complete;
                self.hops.push(if open { Hop::ChildOrChoice(name.clone()) } else { Hop::Child(name.clone()) });
                self.enter(name);
                self.type_name = match known {
                    Some(ElementType::One(t)) => Some(Cow::Borrowed(t)),
                    _ => None,
                };
            }
            Step::Choice { json_name, name, type_name } => {
                let known = self.type_name.as_deref().and_then(|t| types.element_type(t, name));
                match known {
                    // `ofType` on an element of that one type changes nothing.
                    Some(ElementType::One(own)) => {
                        self.hops.push(Hop::Child(if own == *type_name { name.clone() } else { json_name.clone() }));
                        self.enter(name);
                    }
                    _ => {
                        self.hops.push(Hop::Child(json_name.clone()));
                        self.enter(json_name);
                    }
                }
                self.type_name = Some(Cow::Borrowed(*type_name));
            }
        }
    }

    fn enter(&mut self, name: &str) {
        if let Some(path) = self.path.as_mut() {
            path.push('.');
            path.push_str(name);
        }
    }

    fn static_type(&self) -> Option<&'static str> {
        match self.type_name {
            Some(Cow::Borrowed(name)) => Some(name),
            _ => None,
        }
    }

    /// A choice in the middle or at the end whose type only the data tells: the evaluator must look.
    fn open_choice(&self) -> bool {
        self.hops.iter().any(|hop| matches!(hop, Hop::ChildOrChoice(_)))
    }
}

/// Follows hops from a value and calls `found` with each value at their end. A null that stands for a primitive with
/// extensions only is an item too, so that places count as in FHIRPath.
pub(super) fn follow<'a>(value: &'a Value, hops: &[Hop], found: &mut dyn FnMut(&'a Value)) {
    let place = hops.iter().enumerate().find_map(|(i, hop)| match hop {
        Hop::Index(at) => Some((i, *at)),
        _ => None,
    });
    let Some((i, at)) = place else { return descend(value, hops, found) };
    // A place counts over the whole collection so far, not within each parent.
    let (mut left, mut hit) = (at, None);
    descend(value, &hops[..i], &mut |v| match left {
        0 if hit.is_none() => hit = Some(v),
        _ => left = left.saturating_sub(1),
    });
    if let Some(v) = hit {
        follow(v, &hops[i + 1..], found);
    }
}

fn descend<'a>(value: &'a Value, hops: &[Hop], found: &mut dyn FnMut(&'a Value)) {
    match hops {
        [] => found(value),
        [Hop::Child(name) | Hop::ChildOrChoice(name), rest @ ..] => {
            let Some(member) = value.as_object().and_then(|o| o.get(name)) else { return };
            for v in member.items() {
                descend(v, rest, found);
            }
        }
        [Hop::Index(_), ..] => {}
    }
}

/// An element as the evaluator takes it.
pub(super) fn element<'a>(value: &'a Value, type_name: Option<&'a str>) -> Element<'a> {
    let own = value.get("resourceType").and_then(Value::as_str);
    Element { value: Some(value), sibling: None, type_name: own.or(type_name) }
}
