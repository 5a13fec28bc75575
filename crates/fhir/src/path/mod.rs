//! FHIRPath 2.0 with the R4 specifics: [`compile`] once, [`Expr::eval`] many times over borrowed JSON.
//!
//! A pure function of its arguments: the clock, variables and the resolver come in through [`Context`]. Terminology
//! and profiles are refused at compile time. Errors name the expression, never the data. Views build on it: `view`.

mod ast;
mod check;
mod decimal;
mod error;
mod eval;
mod fns;
mod func;
mod item;
mod lex;
mod navigate;
mod ops;
mod parse;
mod plain;
mod quantity;
mod r4;
mod temporal;
#[cfg(test)]
mod tests;
mod types;

use crate::json::Value;

pub use decimal::Decimal;
pub use error::{PathError, PathErrorKind};
pub(crate) use fns::base64 as decode_base64;
pub use item::{Element, Item};
pub(crate) use plain::{Step, Trail};
pub use quantity::Quantity;
pub use r4::R4;
pub use temporal::{DateTime, Precision, Time};
pub(crate) use types::is_subtype;
pub use types::{ElementType, Structural, TypeInfo};

/// What one expression and one evaluation may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathLimits {
    /// Length of an expression.
    pub text_bytes_max: usize,
    /// Nesting of an expression.
    pub depth_max: usize,
    /// Items of any collection.
    pub items_max: usize,
    /// Length of a text that an expression makes; texts of the resource itself may be longer.
    pub value_bytes_max: usize,
    /// Parts of the expression evaluated, counted per item.
    pub steps_max: usize,
}

impl Default for PathLimits {
    fn default() -> Self {
        PathLimits {
            text_bytes_max: 64 << 10,
            depth_max: 96,
            items_max: 100_000,
            value_bytes_max: 4 << 20,
            steps_max: 5_000_000,
        }
    }
}

/// Finds the resource that a reference names.
pub trait Resolver {
    /// The resource, or `None` when it is not at hand.
    fn resolve(&self, reference: &str) -> Option<&Value>;
}

/// What `trace()` calls: the name given to it, and the items. They are PHI.
pub type Trace = dyn Fn(&str, &[Item<'_>]);

/// What surrounds an evaluation.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub types: &'a dyn TypeInfo,
    /// `%resource`; the root when `None`.
    pub resource: Option<&'a Value>,
    /// `%rootResource`; `%resource` when `None`.
    pub root_resource: Option<&'a Value>,
    /// Variables of the caller: `%name`.
    pub variables: &'a [(&'a str, Item<'a>)],
    /// `%rowIndex` of a view.
    pub row_index: Option<usize>,
    /// The moment of `now()`, `today()` and `timeOfDay()`; without one they are errors.
    pub now: Option<base::Timestamp>,
    pub resolver: Option<&'a dyn Resolver>,
    /// Called by `trace()`.
    pub trace: Option<&'a Trace>,
    pub limits: PathLimits,
}

impl Context<'_> {
    /// R4's types; no variables, no clock, no resolver.
    pub fn new() -> Self {
        Context {
            types: &R4,
            resource: None,
            root_resource: None,
            variables: &[],
            row_index: None,
            now: None,
            resolver: None,
            trace: None,
            limits: PathLimits::default(),
        }
    }
}

impl Default for Context<'_> {
    fn default() -> Self {
        Context::new()
    }
}

/// A compiled expression.
#[derive(Debug, Clone, PartialEq)]
pub struct Expr {
    text: Box<str>,
    ast: ast::Ast,
}

/// Compiles an expression under the default limits.
pub fn compile(text: &str) -> Result<Expr, PathError> {
    compile_within(text, &PathLimits::default())
}

/// Compiles an expression.
pub fn compile_within(text: &str, limits: &PathLimits) -> Result<Expr, PathError> {
    if text.len() > limits.text_bytes_max {
        return Err(PathError::new(PathErrorKind::Limit, 0, "the path is too long, split it"));
    }
    Ok(Expr { text: text.into(), ast: parse::parse(text, limits.depth_max)? })
}

impl Expr {
    /// The text it was compiled from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Evaluates on a resource (or any JSON of a known or guessable type).
    pub fn eval<'a>(&'a self, root: &'a Value, context: &Context<'a>) -> Result<Vec<Item<'a>>, PathError> {
        self.eval_items(&[Item::Element(Element::resource(root))], Some(root), context)
    }

    /// Evaluates on a collection that another evaluation gave; `root` is what `%context` and `%resource` mean.
    pub fn eval_items<'a>(
        &'a self,
        focus: &[Item<'a>],
        root: Option<&'a Value>,
        context: &Context<'a>,
    ) -> Result<Vec<Item<'a>>, PathError> {
        eval::Eval::new(&self.ast, root, context).run(focus)
    }

    /// Evaluates a criterion: the one Boolean, `None` when empty, an error when it is anything else.
    pub fn eval_bool<'a>(&'a self, root: &'a Value, context: &Context<'a>) -> Result<Option<bool>, PathError> {
        let items = self.eval(root, context)?;
        match items.as_slice() {
            [] => Ok(None),
            [one] => match one.system() {
                Some(Item::Boolean(b)) => Ok(Some(b)),
                _ => Err(PathError::new(PathErrorKind::Execution, 0, "the path gives a value that is not a boolean")),
            },
            _ => Err(PathError::new(PathErrorKind::Execution, 0, "the path gives more than one value")),
        }
    }

    /// Mistakes that can be seen without data, for a focus of this type: unknown elements above all.
    pub fn check(&self, focus_type: Option<&str>, types: &dyn TypeInfo) -> Vec<PathError> {
        let mut check = check::Check { ast: &self.ast, types, found: Vec::new() };
        check.run(focus_type);
        check.found
    }

    /// The names of the variables used, without the percent sign.
    pub fn variables(&self) -> impl Iterator<Item = (&str, usize)> {
        self.ast.nodes.iter().filter_map(|node| match &node.kind {
            ast::NodeKind::Variable(name) => Some((name.as_ref(), node.offset as usize)),
            _ => None,
        })
    }

    /// The first function that makes the outcome depend on more than the resource: the clock, or other resources.
    pub(crate) fn outside(&self) -> Option<(&'static str, usize)> {
        use func::Func::{Now, Resolve, TimeOfDay, Today};
        self.ast.nodes.iter().find_map(|node| match &node.kind {
            ast::NodeKind::Call { func: func @ (Now | Today | TimeOfDay | Resolve), .. } => {
                Some((func.name(), node.offset as usize))
            }
            _ => None,
        })
    }

    /// The element this path takes its values from, when it is one; the fast way for views.
    pub(crate) fn trail(&self) -> Option<Trail> {
        plain::trail(&self.ast)
    }

    /// Whether this is the variable `%name` and nothing more.
    pub(crate) fn is_variable(&self, name: &str) -> bool {
        matches!(self.ast.kind(self.ast.root), ast::NodeKind::Variable(own) if **own == *name)
    }
}
