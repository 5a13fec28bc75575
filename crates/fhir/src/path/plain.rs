//! Which element an expression takes its values from, and whether it is no more than steps down the JSON, such as
//! `name.first().family` or `value.ofType(Quantity).value`. Found once, so that views read without the evaluator.

use super::ast::{Ast, Literal, NodeId, NodeKind};
use super::func::Func;
use super::types::{choice_suffix, choice_type_name};

/// One step from an element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// The children of this name.
    Child(Box<str>),
    /// A choice element of one type, by its JSON name: `valueQuantity`, with the name and type it stands for.
    Choice { json_name: Box<str>, name: Box<str>, type_name: &'static str },
    /// The item at this place of the collection so far.
    Index(usize),
}

/// Steps from the focus; none for `$this`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trail {
    pub steps: Vec<Step>,
    /// Whether the steps are the whole meaning: no filter, no change of the values.
    pub plain: bool,
}

/// The steps of an expression that takes its values from one element.
pub(crate) fn trail(ast: &Ast) -> Option<Trail> {
    let mut trail = Trail { steps: Vec::new(), plain: true };
    trail.collect(ast, ast.root)?;
    Some(trail)
}

impl Trail {
    /// Recursion is bounded by the depth of the compiled expression.
    fn collect(&mut self, ast: &Ast, id: NodeId) -> Option<()> {
        match ast.kind(id) {
            NodeKind::This => Some(()),
            NodeKind::Member { target, name } => {
                self.target(ast, *target)?;
                self.steps.push(Step::Child(name.clone()));
                Some(())
            }
            NodeKind::Indexer { target, index } => {
                self.collect(ast, *target)?;
                match ast.kind(*index) {
                    NodeKind::Literal(Literal::Integer(at)) => self.steps.push(Step::Index(usize::try_from(*at).ok()?)),
                    _ => self.plain = false,
                }
                Some(())
            }
            NodeKind::TypeTest { operand, spec, cast: true } => {
                self.collect(ast, *operand)?;
                self.plain = false;
                self.choice(&spec.name)
            }
            NodeKind::Call { target, func, args, spec } => {
                self.target(ast, *target)?;
                match (func, spec) {
                    (Func::OfType, Some(spec)) => self.choice(&spec.name),
                    _ => self.function(ast, *func, args),
                }
            }
            _ => None,
        }
    }

    fn target(&mut self, ast: &Ast, target: Option<NodeId>) -> Option<()> {
        target.map_or(Some(()), |target| self.collect(ast, target))
    }

    /// `ofType` right after a name spells the JSON member; anywhere else it is a filter.
    fn choice(&mut self, type_name: &str) -> Option<()> {
        let suffix = choice_suffix(type_name)?;
        let type_name = choice_type_name(type_name)?;
        match self.steps.pop() {
            Some(Step::Child(name)) => {
                let json_name = format!("{name}{suffix}").into();
                self.steps.push(Step::Choice { json_name, name, type_name });
                Some(())
            }
            _ => None,
        }
    }

    /// Functions whose values all come from the element so far.
    fn function(&mut self, ast: &Ast, func: Func, args: &[NodeId]) -> Option<()> {
        use Func::*;
        let literal = |id: &NodeId| matches!(ast.kind(*id), NodeKind::Literal(_) | NodeKind::Negate(_));
        match func {
            First => {
                self.steps.push(Step::Index(0));
                return Some(());
            }
            Where | Last | Tail | Skip | Take | Single | Distinct | Join => {}
            LowBoundary | HighBoundary | ToString | ToDate | ToDateTime | ToTime | ToInteger | ToDecimal
            | Substring | Upper | Lower | Trim
                if args.iter().all(literal) => {}
            Extension => self.steps.push(Step::Child("extension".into())),
            GetReferenceKey => self.steps.push(Step::Child("reference".into())),
            GetResourceKey => self.steps.push(Step::Child("id".into())),
            _ => return None,
        }
        self.plain = false;
        Some(())
    }
}
