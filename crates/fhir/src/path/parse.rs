//! A Pratt parser: tokens to the compiled form (FHIRPath 2.0 §9 and the precedence of §6.9). Refuses unknown
//! functions and wrong argument counts here, so that evaluation need not.

use super::ast::{Ast, BinaryOp, Literal, Node, NodeId, NodeKind, TypeSpec};
use super::decimal::Decimal;
use super::error::{PathError, PathErrorKind};
use super::func::{self, Func};
use super::lex::{Lexer, Token, TokenKind};
use super::quantity::calendar_unit;
use super::temporal::{DateTime, Precision, Time};

/// What one expression may cost to compile.
const NODES_MAX: usize = 4_096;
const ARGS_MAX: usize = 8;

struct Parser<'s> {
    lexer: Lexer<'s>,
    token: Token<'s>,
    nodes: Vec<Node>,
    /// Height of the tree under each node: evaluation recurses so deep.
    heights: Vec<u16>,
    depth: usize,
    depth_max: usize,
}

/// Compiles `text`; nothing deeper than `depth_max`.
pub fn parse(text: &str, depth_max: usize) -> Result<Ast, PathError> {
    let mut lexer = Lexer::new(text);
    let token = lexer.next()?;
    let mut parser = Parser { lexer, token, nodes: Vec::new(), heights: Vec::new(), depth: 0, depth_max };
    let root = parser.expression(0)?;
    match parser.token.kind {
        TokenKind::End => Ok(Ast { nodes: parser.nodes, root }),
        _ => Err(PathError::syntax(parser.token.offset, "the path should end here, or an operator is missing")),
    }
}

/// Binding power and operator of a token, when it is a binary operator. `is` and `as` are handled apart.
fn binary_op(kind: &TokenKind<'_>) -> Option<(u8, BinaryOp)> {
    use BinaryOp::*;
    let word = match kind {
        TokenKind::Symbol(symbol) => symbol,
        TokenKind::Name { text, quoted: false } => text.as_ref(),
        _ => return None,
    };
    Some(match word {
        "implies" => (1, Implies),
        "or" => (2, Or),
        "xor" => (2, Xor),
        "and" => (3, And),
        "in" => (4, In),
        "contains" => (4, Contains),
        "=" => (5, Equal),
        "!=" => (5, NotEqual),
        "~" => (5, Equivalent),
        "!~" => (5, NotEquivalent),
        "<" => (6, Less),
        "<=" => (6, LessOrEqual),
        ">" => (6, Greater),
        ">=" => (6, GreaterOrEqual),
        "|" => (7, Union),
        "+" => (9, Add),
        "-" => (9, Subtract),
        "&" => (9, Concatenate),
        "*" => (10, Multiply),
        "/" => (10, Divide),
        "div" => (10, Div),
        "mod" => (10, Mod),
        _ => return None,
    })
}

const TYPE_TEST: u8 = 8;
const UNARY: u8 = 11;

impl<'s> Parser<'s> {
    fn advance(&mut self) -> Result<Token<'s>, PathError> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.token, next))
    }

    fn is_symbol(&self, symbol: &str) -> bool {
        matches!(self.token.kind, TokenKind::Symbol(s) if s == symbol)
    }

    fn expect(&mut self, symbol: &'static str) -> Result<(), PathError> {
        if !self.is_symbol(symbol) {
            return Err(PathError::syntax(self.token.offset, format!("`{symbol}` is missing")));
        }
        self.advance().map(drop)
    }

    fn too_deep(&self, offset: usize) -> PathError {
        PathError::new(PathErrorKind::Limit, offset, "the path is too deeply nested, split it")
    }

    fn push(&mut self, offset: usize, kind: NodeKind, children: &[NodeId]) -> Result<NodeId, PathError> {
        let height = children.iter().map(|c| self.heights[c.0 as usize]).max().map_or(1, |h| h.saturating_add(1));
        if usize::from(height) > self.depth_max {
            return Err(self.too_deep(offset));
        }
        if self.nodes.len() >= NODES_MAX {
            return Err(PathError::new(PathErrorKind::Limit, offset, "the path has too many parts, split it"));
        }
        let id = NodeId(self.nodes.len() as u32);
        self.nodes.push(Node { offset: offset as u32, kind });
        self.heights.push(height);
        Ok(id)
    }

    /// An expression whose operators bind at least as tightly as `power`.
    fn expression(&mut self, power: u8) -> Result<NodeId, PathError> {
        self.depth += 1;
        if self.depth > self.depth_max {
            return Err(self.too_deep(self.token.offset));
        }
        let mut left = self.unary()?;
        loop {
            let offset = self.token.offset;
            if let Some(cast) = self.type_operator().filter(|_| TYPE_TEST >= power) {
                self.advance()?;
                let spec = self.type_spec()?;
                left = self.push(offset, NodeKind::TypeTest { operand: left, spec, cast }, &[left])?;
                continue;
            }
            let Some((bind, op)) = binary_op(&self.token.kind).filter(|(bind, _)| *bind >= power) else { break };
            self.advance()?;
            let right = self.expression(bind + 1)?;
            left = self.push(offset, NodeKind::Binary { op, left, right }, &[left, right])?;
        }
        self.depth -= 1;
        Ok(left)
    }

    /// Whether the token is `is` (false) or `as` (true).
    fn type_operator(&self) -> Option<bool> {
        match &self.token.kind {
            TokenKind::Name { text, quoted: false } if text == "is" => Some(false),
            TokenKind::Name { text, quoted: false } if text == "as" => Some(true),
            _ => None,
        }
    }

    fn unary(&mut self) -> Result<NodeId, PathError> {
        let offset = self.token.offset;
        let negate = self.is_symbol("-");
        if !negate && !self.is_symbol("+") {
            return self.postfix();
        }
        self.advance()?;
        let operand = self.expression(UNARY)?;
        let kind = if negate { NodeKind::Negate(operand) } else { NodeKind::Plus(operand) };
        self.push(offset, kind, &[operand])
    }

    fn postfix(&mut self) -> Result<NodeId, PathError> {
        let mut left = self.term()?;
        loop {
            let offset = self.token.offset;
            if self.is_symbol(".") {
                self.advance()?;
                left = self.invocation(Some(left))?;
            } else if self.is_symbol("[") {
                self.advance()?;
                let index = self.expression(0)?;
                self.expect("]")?;
                left = self.push(offset, NodeKind::Indexer { target: left, index }, &[left, index])?;
            } else {
                return Ok(left);
            }
        }
    }

    fn term(&mut self) -> Result<NodeId, PathError> {
        let offset = self.token.offset;
        match &self.token.kind {
            TokenKind::Symbol("(") => {
                self.advance()?;
                let inner = self.expression(0)?;
                self.expect(")")?;
                Ok(inner)
            }
            TokenKind::Symbol("{") => {
                self.advance()?;
                self.expect("}")?;
                self.push(offset, NodeKind::Empty, &[])
            }
            TokenKind::Variable(name) => {
                let kind = NodeKind::Variable(name.as_ref().into());
                self.advance()?;
                self.push(offset, kind, &[])
            }
            TokenKind::Name { text, quoted: false } if text == "true" || text == "false" => {
                let value = text == "true";
                self.advance()?;
                self.push(offset, NodeKind::Literal(Literal::Boolean(value)), &[])
            }
            TokenKind::Name { .. } | TokenKind::Special(_) => self.invocation(None),
            TokenKind::End => Err(PathError::syntax(offset, "the path ends too early")),
            TokenKind::Symbol(_) => Err(PathError::syntax(offset, "a name, a value or `(` is missing")),
            _ => self.literal(offset),
        }
    }

    fn literal(&mut self, offset: usize) -> Result<NodeId, PathError> {
        let token = self.advance()?;
        let wrong = |text: &str| PathError::syntax(offset, text);
        let literal = match token.kind {
            TokenKind::String(text) => Literal::String(text.as_ref().into()),
            TokenKind::Number(text) => self.number(text).ok_or_else(|| wrong("this number is too large"))??,
            TokenKind::Time(text) => {
                Literal::Time(Time::parse(text).ok_or_else(|| wrong("this is not a time, write @T14:34:28.123"))?)
            }
            TokenKind::DateTime(text) => {
                let value = DateTime::parse(text).ok_or_else(|| wrong("this is not a date, write @2015-02-04"))?;
                let is_date = value.precision() <= Precision::Day && !text.contains('T');
                if is_date { Literal::Date(value) } else { Literal::DateTime(value) }
            }
            _ => return Err(wrong("a value is missing")),
        };
        self.push(offset, NodeKind::Literal(literal), &[])
    }

    /// A number, or a quantity when a unit follows: `4 days`, `10 'mg'`.
    #[allow(clippy::type_complexity)]
    fn number(&mut self, text: &str) -> Option<Result<Literal, PathError>> {
        let decimal = Decimal::parse(text)?;
        let unit = match &self.token.kind {
            TokenKind::String(unit) => Some((unit.as_ref().into(), false)),
            TokenKind::Name { text, quoted: false } => calendar_unit(text).map(|_| (text.as_ref().into(), true)),
            _ => None,
        };
        if let Some((unit, calendar)) = unit {
            return Some(self.advance().map(|_| Literal::Quantity { value: decimal, unit, calendar }));
        }
        Some(Ok(match text.contains('.') {
            true => Literal::Decimal(decimal),
            false => Literal::Integer(decimal.to_integer()?),
        }))
    }

    fn invocation(&mut self, target: Option<NodeId>) -> Result<NodeId, PathError> {
        let token = self.advance()?;
        let offset = token.offset;
        let name: Box<str> = match token.kind {
            TokenKind::Special(name) => {
                let kind = match name {
                    "this" => NodeKind::This,
                    "index" => NodeKind::Index,
                    "total" => NodeKind::Total,
                    _ => return Err(PathError::syntax(offset, "after `$` only this, index and total are known")),
                };
                if target.is_some() {
                    return Err(PathError::syntax(offset, "`$this`, `$index` and `$total` cannot follow a dot"));
                }
                return self.push(offset, kind, &[]);
            }
            TokenKind::Name { text, .. } => text.as_ref().into(),
            _ => return Err(PathError::syntax(offset, "a name is missing after the dot")),
        };
        if self.is_symbol("(") {
            return self.call(offset, target, &name);
        }
        let children: Vec<NodeId> = target.into_iter().collect();
        self.push(offset, NodeKind::Member { target, name }, &children)
    }

    fn call(&mut self, offset: usize, target: Option<NodeId>, name: &str) -> Result<NodeId, PathError> {
        self.advance()?;
        if let Some(reason) = func::refused(name) {
            let text = format!("`{name}()` is not available: {reason}");
            return Err(PathError::new(PathErrorKind::Unsupported, offset, text));
        }
        let func = Func::named(name)
            .ok_or_else(|| PathError::semantic(offset, format!("there is no function `{name}()`, check its name")))?;
        let mut args = Vec::new();
        let mut spec = None;
        if func.takes_type() && !self.is_symbol(")") {
            spec = Some(self.type_spec()?);
        } else if !self.is_symbol(")") {
            args.push(self.expression(0)?);
            while self.is_symbol(",") && args.len() < ARGS_MAX {
                self.advance()?;
                args.push(self.expression(0)?);
            }
        }
        self.expect(")")?;
        let count = args.len() + usize::from(spec.is_some());
        let (min, max) = func.arity();
        if count < min || count > max {
            let takes = if min == max { min.to_string() } else { format!("{min} to {max}") };
            return Err(PathError::semantic(offset, format!("`{name}()` takes {takes} arguments, {count} are given")));
        }
        let children: Vec<NodeId> = target.into_iter().chain(args.iter().copied()).collect();
        self.push(offset, NodeKind::Call { target, func, args: args.into(), spec }, &children)
    }

    /// `name` or `namespace.name`
    fn type_spec(&mut self) -> Result<TypeSpec, PathError> {
        let first = self.type_name()?;
        if !self.is_symbol(".") {
            return Ok(TypeSpec { namespace: None, name: first });
        }
        // `value as Quantity.unit` is not FHIRPath: the dot binds to the type, so only a namespace may stand here.
        self.advance()?;
        Ok(TypeSpec { namespace: Some(first), name: self.type_name()? })
    }

    fn type_name(&mut self) -> Result<Box<str>, PathError> {
        let token = self.advance()?;
        match token.kind {
            TokenKind::Name { text, .. } => Ok(text.as_ref().into()),
            _ => Err(PathError::syntax(token.offset, "the name of a type is missing")),
        }
    }
}
