//! The shapes of search: a parameter, the rows a resource puts into the index, a query ready to be turned into SQL.
//!
//! Data only. Rows are made by `extract`, queries by `query`; SQL is the store's.

use std::collections::BTreeSet;

/// R4 §3.1.1.4: the type of a search parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ParamKind {
    Token,
    Reference,
    Date,
    String,
    Number,
    Quantity,
    Uri,
    Composite,
    Special,
}

/// A search parameter of one resource type, as the R4 definitions give it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// The name in a query: `birthdate`.
    pub code: &'static str,
    pub kind: ParamKind,
    /// The type it is defined for; `Resource` for those that all have.
    pub base: &'static str,
    /// Empty when the parameter is not read from an element.
    pub expression: &'static str,
    /// Types a reference may lead to.
    pub targets: &'static [&'static str],
    /// Parts of a composite parameter, each read from what `expression` gives.
    pub components: &'static [Component],
}

/// One part of a composite parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    pub kind: ParamKind,
    pub expression: &'static str,
    pub targets: &'static [&'static str],
}

/// One row of the index. Times are milliseconds since 1970 UTC; an open end is `i64::MIN` or `i64::MAX`.
#[derive(Clone, PartialEq)]
pub enum IndexValue {
    /// `system` is `None` where the element has none. `text` is folded: the display or text of a concept, the text of
    /// an identifier's type.
    Token {
        system: Option<String>,
        code: Option<String>,
        text: Option<String>,
    },
    /// A reference to a resource of this server.
    Reference {
        rtype: String,
        id: String,
    },
    /// A reference by URL or URN; with a canonical's `|version` taken off.
    AbsoluteRef {
        url: String,
    },
    /// A reference by identifier only, or beside a literal one: for `:identifier`.
    IdentifierRef {
        system: Option<String>,
        code: Option<String>,
    },
    /// From `from_ms` up to, not including, `to_ms`: the precision of the element is the width.
    Date {
        from_ms: i64,
        to_ms: i64,
    },
    /// `folded` for the ordinary search, `exact` for `:exact`.
    String {
        folded: String,
        exact: String,
    },
    Number {
        low: f64,
        high: f64,
    },
    /// `low` and `high` are half a unit of the last digit given either side of `value`, or what a comparator says.
    Quantity {
        value: f64,
        low: f64,
        high: f64,
        system: Option<String>,
        code: Option<String>,
        unit: Option<String>,
    },
    Uri(String),
    /// The parts of a composite parameter that stand in one element, in the order of `Param::components`.
    Composite(Vec<IndexValue>),
}

/// The kind only: rows are PHI.
impl std::fmt::Debug for IndexValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            IndexValue::Token { .. } => "Token(..)",
            IndexValue::Reference { .. } => "Reference(..)",
            IndexValue::AbsoluteRef { .. } => "AbsoluteRef(..)",
            IndexValue::IdentifierRef { .. } => "IdentifierRef(..)",
            IndexValue::Date { .. } => "Date(..)",
            IndexValue::String { .. } => "String(..)",
            IndexValue::Number { .. } => "Number(..)",
            IndexValue::Quantity { .. } => "Quantity(..)",
            IndexValue::Uri(_) => "Uri(..)",
            IndexValue::Composite(_) => "Composite(..)",
        })
    }
}

/// A search, checked: every parameter exists for its type, every value has the form its kind asks for.
#[derive(Clone, PartialEq, Default)]
pub struct Query {
    pub rtype: String,
    /// All must hold.
    pub clauses: Vec<Clause>,
    /// All must hold: `subject:Patient.name=...`.
    pub chains: Vec<Chain>,
    /// All must hold: `_has:Observation:patient:code=...`.
    pub has: Vec<Has>,
    /// All must hold; each, where all clauses of one of its alternatives do. Made by doors, never read from a query.
    pub any: Vec<Vec<Vec<Clause>>>,
    /// Parameter and whether descending, first to last.
    pub sort: Vec<(&'static str, bool)>,
    /// Page size asked for, never above the limit; 0 asks for the total only.
    pub count: Option<usize>,
    pub total: Total,
    pub summary: Summary,
    /// Elements asked for; empty is all.
    pub elements: Vec<String>,
    pub includes: Vec<Include>,
    pub revincludes: Vec<Include>,
    /// Opaque, from a page link.
    pub cursor: Option<String>,
    /// Parameters not known and passed over, when lenient; names only.
    pub ignored: Vec<String>,
}

impl Query {
    /// The types that its criteria look at: its own, and those that chains and `_has` lead to.
    pub fn types(&self) -> BTreeSet<&str> {
        let mut types = BTreeSet::from([self.rtype.as_str()]);
        self.chains.iter().for_each(|chain| chain.types(&mut types));
        self.has.iter().for_each(|has| has.types(&mut types));
        types
    }
}

impl Chain {
    fn types<'q>(&'q self, types: &mut BTreeSet<&'q str>) {
        for (rtype, criterion) in &self.branches {
            types.insert(rtype);
            criterion.types(types);
        }
    }
}

impl Has {
    fn types<'q>(&'q self, types: &mut BTreeSet<&'q str>) {
        types.insert(&self.rtype);
        self.criterion.types(types);
    }
}

impl Criterion {
    fn types<'q>(&'q self, types: &mut BTreeSet<&'q str>) {
        match self {
            Criterion::Clause(_) | Criterion::Any(_) => {}
            Criterion::Chain(chain) => chain.types(types),
            Criterion::Has(has) => has.types(types),
        }
    }
}

/// Counts only: a query is PHI.
impl std::fmt::Debug for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let criteria = self.clauses.len() + self.chains.len() + self.has.len() + self.any.len();
        write!(f, "Query({}, {criteria} criteria)", self.rtype)
    }
}

/// One parameter of the query: any of `values` must hold.
#[derive(Clone, PartialEq)]
pub struct Clause {
    pub param: &'static str,
    pub kind: ParamKind,
    pub modifier: Option<Modifier>,
    pub values: Vec<ClauseValue>,
}

impl std::fmt::Debug for Clause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Clause({}, {} values)", self.param, self.values.len())
    }
}

/// R4 §3.1.1.4.5. Those that need terminology (`:in`, `:not-in`, `:above`, `:below`) are refused when parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Modifier {
    /// The one value is [`ClauseValue::Missing`].
    Missing,
    /// String: equal to `exact`, case and accents included.
    Exact,
    /// String: `folded` anywhere within.
    Contains,
    /// Token: none of the values; resources without the element match too.
    Not,
    /// Token: values are [`ClauseValue::Text`], to be found at the start of the folded text.
    Text,
    /// Reference: values are [`ClauseValue::Token`], to be found among `IdentifierRef` rows.
    Identifier,
    /// Reference: only to this type; the values carry it.
    Type(String),
}

/// R4 §3.1.1.4.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Prefix {
    Eq,
    Ne,
    Gt,
    Lt,
    Ge,
    Le,
    Sa,
    Eb,
    Ap,
}

/// A value to look for. With `[t.from, t.to)` the indexed range and `[from, to)` the one asked for:
/// eq `from<=t.from && t.to<=to`; ne its contrary; gt `t.to>to`; lt `t.from<from`; ge `t.to>to || eq`;
/// le `t.from<from || eq`; sa `t.from>=to`; eb `t.to<=from`; ap: the ranges (already widened) overlap.
#[derive(Clone, PartialEq)]
pub enum ClauseValue {
    /// `system`: `None` any system (`code`), `Some(None)` no system (`|code`), `Some(Some(s))` this one (`s|code`).
    /// `code`: `None` any code of the system (`s|`).
    Token {
        system: Option<Option<String>>,
        code: Option<String>,
    },
    /// Folded text, for `:text`.
    Text(String),
    /// A local reference; `rtype` is `None` when only an id was given and the parameter has several targets.
    Reference {
        rtype: Option<String>,
        id: String,
    },
    /// A reference by URL, URN or canonical.
    AbsoluteRef(String),
    /// For `ap`, already widened to the approximation.
    Date {
        prefix: Prefix,
        from_ms: i64,
        to_ms: i64,
    },
    /// Ordinary search: `folded` is a prefix of the indexed one.
    String {
        folded: String,
        exact: String,
    },
    /// `low..high` is the precision of the text; gt, lt, ge, le compare with `value` itself.
    Number {
        prefix: Prefix,
        value: f64,
        low: f64,
        high: f64,
    },
    Quantity {
        prefix: Prefix,
        value: f64,
        low: f64,
        high: f64,
        system: Option<Option<String>>,
        /// Matches the code, or the unit when no system was given.
        code: Option<String>,
    },
    Uri(String),
    /// Parts in the order of `Param::components`.
    Composite(Vec<ClauseValue>),
    Missing(bool),
}

impl std::fmt::Debug for ClauseValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClauseValue(..)")
    }
}

/// A criterion on what a reference leads to. Any of the branches must hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Chain {
    pub param: &'static str,
    /// Target type and what must hold there.
    pub branches: Vec<(String, Criterion)>,
}

/// A criterion on a resource that refers to this one.
#[derive(Debug, Clone, PartialEq)]
pub struct Has {
    pub rtype: String,
    /// Its reference parameter that leads here.
    pub param: &'static str,
    pub criterion: Box<Criterion>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Criterion {
    Clause(Clause),
    Chain(Chain),
    Has(Has),
    /// Any of the alternatives must hold, of which all clauses must.
    Any(Vec<Vec<Clause>>),
}

/// R4 §3.1.1.5.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Total {
    #[default]
    None,
    Estimate,
    Accurate,
}

/// R4 §3.1.1.5.8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Summary {
    #[default]
    False,
    True,
    Text,
    Data,
    Count,
}

/// `_include` or `_revinclude`, R4 §3.1.1.5.6.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Include {
    /// The type that holds the reference.
    pub source: String,
    /// `None` is `*`, all its references.
    pub param: Option<&'static str>,
    pub target: Option<String>,
    /// Follow from what was included, too.
    pub iterate: bool,
}
