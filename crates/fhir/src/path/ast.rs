//! The compiled form of an expression: nodes in one vector, children by index. Immutable, `Send + Sync`.
//! Built by `parse`, walked by `eval` and `check`.

use super::decimal::Decimal;
use super::func::Func;
use super::temporal::{DateTime, Time};

/// Index of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeId(pub(crate) u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BinaryOp {
    Multiply,
    Divide,
    Div,
    Mod,
    Add,
    Subtract,
    Concatenate,
    Union,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
    Equivalent,
    NotEquivalent,
    In,
    Contains,
    And,
    Or,
    Xor,
    Implies,
}

/// `FHIR.Patient`, `System.String`, `code`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeSpec {
    pub namespace: Option<Box<str>>,
    pub name: Box<str>,
}

/// How the unit of a quantity literal is written: `4 days` is a calendar duration, `4 'd'` is UCUM.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    Boolean(bool),
    Integer(i64),
    Decimal(Decimal),
    String(Box<str>),
    Date(DateTime),
    DateTime(DateTime),
    Time(Time),
    Quantity { value: Decimal, unit: Box<str>, calendar: bool },
}

#[derive(Debug, Clone, PartialEq)]
pub enum NodeKind {
    /// `{}`
    Empty,
    Literal(Literal),
    This,
    Index,
    Total,
    /// `%name`
    Variable(Box<str>),
    /// `target.name`, or `name` on the focus.
    Member {
        target: Option<NodeId>,
        name: Box<str>,
    },
    Call {
        target: Option<NodeId>,
        func: Func,
        args: Box<[NodeId]>,
        /// For `is`, `as`, `ofType`, `getReferenceKey`: the type named.
        spec: Option<TypeSpec>,
    },
    Indexer {
        target: NodeId,
        index: NodeId,
    },
    Negate(NodeId),
    /// Unary plus, which demands a number.
    Plus(NodeId),
    Binary {
        op: BinaryOp,
        left: NodeId,
        right: NodeId,
    },
    /// `operand is spec`, `operand as spec`
    TypeTest {
        operand: NodeId,
        spec: TypeSpec,
        cast: bool,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Bytes from the start of the expression, for errors.
    pub offset: u32,
    pub kind: NodeKind,
}

/// A node's kinds and the children of each, once compiled.
#[derive(Debug, Clone, PartialEq)]
pub struct Ast {
    pub nodes: Vec<Node>,
    pub root: NodeId,
}

impl Ast {
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    pub fn kind(&self, id: NodeId) -> &NodeKind {
        &self.node(id).kind
    }
}
