//! Finds mistakes in a compiled expression without data: elements that a type does not have, choice elements spelled
//! as in JSON, places in collections that have no order. What the definitions do not tell is let through.

use std::borrow::Cow;

use super::ast::{Ast, NodeId, NodeKind, TypeSpec};
use super::error::{PathError, PathErrorKind};
use super::func::Func;
use super::navigate::spelled_choice;
use super::types::{ElementType, TypeInfo, is_system};

/// What is known of a collection before there is data.
#[derive(Clone, Debug, PartialEq)]
enum Known<'a> {
    /// Items of this FHIR type.
    Fhir(Cow<'a, str>),
    /// Nothing.
    Anything,
    /// Children or descendants: no order, any type.
    Unordered,
}

pub(super) struct Check<'a> {
    pub ast: &'a Ast,
    pub types: &'a dyn TypeInfo,
    pub found: Vec<PathError>,
}

impl<'a> Check<'a> {
    /// Checks an expression whose focus is of type `focus`.
    pub fn run(&mut self, focus: Option<&'a str>) {
        let focus = focus.map_or(Known::Anything, |f| Known::Fhir(Cow::Borrowed(f)));
        self.walk(self.ast.root, &focus);
    }

    fn report(&mut self, id: NodeId, kind: PathErrorKind, text: String) {
        self.found.push(PathError::new(kind, self.ast.node(id).offset as usize, text));
    }

    /// Recursion is bounded by the depth of the compiled expression.
    fn walk(&mut self, id: NodeId, focus: &Known<'a>) -> Known<'a> {
        match self.ast.kind(id) {
            NodeKind::This => focus.clone(),
            NodeKind::Member { target: None, name } => self.first(id, focus, name),
            NodeKind::Member { target: Some(target), name } => {
                let parent = self.walk(*target, focus);
                self.member(id, &parent, name)
            }
            NodeKind::Indexer { target, index } => {
                self.walk(*index, focus);
                let known = self.walk(*target, focus);
                self.ordered(id, known)
            }
            NodeKind::Call { target, func, args, spec } => {
                let input = match target {
                    Some(target) => self.walk(*target, focus),
                    None => focus.clone(),
                };
                self.call(id, *func, args, spec.as_ref(), input, focus)
            }
            NodeKind::Negate(operand) | NodeKind::Plus(operand) => {
                self.walk(*operand, focus);
                Known::Anything
            }
            NodeKind::Binary { left, right, .. } => {
                let (a, b) = (self.walk(*left, focus), self.walk(*right, focus));
                if a == b { a } else { Known::Anything }
            }
            NodeKind::TypeTest { operand, spec, cast } => {
                self.walk(*operand, focus);
                if *cast { self.of_type(spec) } else { Known::Anything }
            }
            _ => Known::Anything,
        }
    }

    fn call(
        &mut self,
        id: NodeId,
        func: Func,
        args: &[NodeId],
        spec: Option<&'a TypeSpec>,
        input: Known<'a>,
        focus: &Known<'a>,
    ) -> Known<'a> {
        use Func::*;
        // Arguments that are evaluated per item see the item; the others see what the call sees.
        let per_item = matches!(func, Where | Select | All | Exists | Repeat | Aggregate | Sort | Iif | Trace);
        let inner = if per_item { &input } else { focus };
        let mut last = Known::Anything;
        for arg in args {
            // What `repeat` finds is gone over again, so its argument's focus is not one type.
            last = self.walk(*arg, if func == Repeat { &Known::Anything } else { inner });
        }
        match func {
            OfType | As => spec.map_or(Known::Anything, |s| self.of_type(s)),
            First | Last | Tail | Skip | Take => self.ordered(id, input),
            Where | Single | Distinct | Trace | Intersect | Exclude => input,
            Select => last,
            Children | Descendants => Known::Unordered,
            Extension => Known::Fhir(Cow::Borrowed("Extension")),
            _ => Known::Anything,
        }
    }

    fn of_type(&self, spec: &'a TypeSpec) -> Known<'a> {
        let system = spec.namespace.as_deref() == Some("System");
        if system || is_system(&spec.name) && !self.types.is_complete(&spec.name) {
            return Known::Anything;
        }
        Known::Fhir(Cow::Borrowed(&*spec.name))
    }

    fn ordered(&mut self, id: NodeId, known: Known<'a>) -> Known<'a> {
        if known == Known::Unordered {
            self.report(
                id,
                PathErrorKind::Semantic,
                "children and descendants have no order, so no place in it can be named".to_owned(),
            );
            return Known::Anything;
        }
        known
    }

    /// The first name of a path may be the type of its focus.
    fn first(&mut self, id: NodeId, focus: &Known<'a>, name: &str) -> Known<'a> {
        if let Known::Fhir(own) = focus {
            if own == name || super::types::is_subtype(self.types, own, name) {
                return focus.clone();
            }
            let resource = name.as_bytes().first().is_some_and(u8::is_ascii_uppercase) && self.types.is_type(name);
            if resource && self.types.is_complete(own) {
                self.report(id, PathErrorKind::AlwaysEmpty, format!("the path begins at {name}, but is used on {own}"));
                return Known::Anything;
            }
        }
        self.member(id, focus, name)
    }

    fn member(&mut self, id: NodeId, parent: &Known<'a>, name: &str) -> Known<'a> {
        let Known::Fhir(parent) = parent else { return Known::Anything };
        match self.types.element_type(parent, name) {
            Some(ElementType::One("Resource")) => Known::Anything,
            Some(ElementType::One(t)) => Known::Fhir(Cow::Borrowed(t)),
            Some(ElementType::Choice) => Known::Anything,
            None if !self.types.is_complete(parent) => Known::Anything,
            None => {
                let (kind, text) = match spelled_choice(self.types, parent, name) {
                    Some((element, kind)) => {
                        let text = format!("`{name}` is how JSON spells it, write `{element}.ofType({kind})`");
                        (PathErrorKind::Semantic, text)
                    }
                    None => {
                        let text = format!("`{name}` is not an element of {parent}, check its spelling");
                        (PathErrorKind::AlwaysEmpty, text)
                    }
                };
                self.report(id, kind, text);
                Known::Anything
            }
        }
    }
}
