//! Walks a compiled expression over items. Counts every step, so that no expression runs away; recursion is bounded
//! by the expression's depth. What functions do is in `fns`, what operators do in `ops`.

use std::cell::Cell;

use crate::json::Value;

use super::ast::{Ast, BinaryOp, Literal, NodeId, NodeKind, TypeSpec};
use super::decimal::Decimal;
use super::error::{PathError, PathErrorKind};
use super::fns;
use super::item::{Element, Item};
use super::navigate;
use super::ops::{self, Sum, Unordered};
use super::quantity::Quantity;
use super::types;
use super::{Context, quantity};

pub(crate) type Items<'a> = Vec<Item<'a>>;

/// What `$this`, `$index` and `$total` mean here.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'s, 'a> {
    pub focus: &'s [Item<'a>],
    pub index: Option<usize>,
    pub total: Option<&'s [Item<'a>]>,
}

impl<'s, 'a> Scope<'s, 'a> {
    /// The scope inside a function that goes over items.
    pub fn item(self, focus: &'s [Item<'a>], index: usize) -> Scope<'s, 'a> {
        Scope { focus, index: Some(index), total: self.total }
    }
}

pub(crate) struct Eval<'a> {
    pub ast: &'a Ast,
    pub context: Context<'a>,
    pub root: Option<&'a Value>,
    steps: Cell<usize>,
}

impl<'a> Eval<'a> {
    pub fn new(ast: &'a Ast, root: Option<&'a Value>, context: &Context<'a>) -> Self {
        Eval { ast, context: *context, root, steps: Cell::new(0) }
    }

    pub fn run(&self, focus: &[Item<'a>]) -> Result<Items<'a>, PathError> {
        self.eval(self.ast.root, Scope { focus, index: None, total: None })
    }

    pub fn error(&self, id: NodeId, text: impl Into<String>) -> PathError {
        PathError::new(PathErrorKind::Execution, self.ast.node(id).offset as usize, text)
    }

    /// Counts work; an error when the expression costs too much.
    pub fn spend(&self, id: NodeId, steps: usize) -> Result<(), PathError> {
        let spent = self.steps.get().saturating_add(steps);
        self.steps.set(spent);
        if spent > self.context.limits.steps_max {
            let offset = self.ast.node(id).offset as usize;
            return Err(PathError::new(PathErrorKind::Limit, offset, "the path takes too many steps on this resource"));
        }
        Ok(())
    }

    /// Refuses collections that are too large.
    pub fn bounded(&self, id: NodeId, items: Items<'a>) -> Result<Items<'a>, PathError> {
        if items.len() > self.context.limits.items_max {
            let offset = self.ast.node(id).offset as usize;
            return Err(PathError::new(
                PathErrorKind::Limit,
                offset,
                "the path yields too many items on this resource",
            ));
        }
        self.spend(id, items.len() / 8)?;
        Ok(items)
    }

    /// Refuses to make a text that is too long: doubling one a few dozen times would fill the memory.
    pub fn spend_text(&self, id: NodeId, bytes: usize) -> Result<(), PathError> {
        if bytes > self.context.limits.value_bytes_max {
            let offset = self.ast.node(id).offset as usize;
            return Err(PathError::new(PathErrorKind::Limit, offset, "the path makes a text that is too long"));
        }
        self.spend(id, bytes / 64)
    }

    pub fn eval(&self, id: NodeId, scope: Scope<'_, 'a>) -> Result<Items<'a>, PathError> {
        self.spend(id, 1)?;
        match self.ast.kind(id) {
            NodeKind::Empty => Ok(Vec::new()),
            NodeKind::Literal(literal) => Ok(vec![literal_item(literal)]),
            NodeKind::This => Ok(scope.focus.to_vec()),
            NodeKind::Index => Ok(scope.index.map(|i| Item::Integer(i as i64)).into_iter().collect()),
            NodeKind::Total => Ok(scope.total.map(<[Item<'a>]>::to_vec).unwrap_or_default()),
            NodeKind::Variable(name) => self.variable(id, name),
            NodeKind::Member { target: None, name } => self.member(id, scope.focus, name, true),
            NodeKind::Member { target: Some(target), name } => {
                let items = self.eval(*target, scope)?;
                self.member(id, &items, name, false)
            }
            NodeKind::Call { target, .. } => match target {
                Some(target) => {
                    let items = self.eval(*target, scope)?;
                    fns::call(self, id, &items, scope)
                }
                None => fns::call(self, id, scope.focus, scope),
            },
            NodeKind::Indexer { target, index } => {
                let items = self.eval(*target, scope)?;
                let at = self.integer(*index, scope)?;
                let at = at.and_then(|i| usize::try_from(i).ok());
                Ok(at.and_then(|i| items.get(i).cloned()).into_iter().collect())
            }
            NodeKind::Negate(operand) | NodeKind::Plus(operand) => {
                self.sign(id, *operand, matches!(self.ast.kind(id), NodeKind::Negate(_)), scope)
            }
            NodeKind::Binary { op, left, right } => self.binary(id, *op, *left, *right, scope),
            NodeKind::TypeTest { operand, spec, cast } => {
                let items = self.eval(*operand, scope)?;
                if *cast { self.cast(id, &items, spec) } else { self.is(id, &items, spec) }
            }
        }
    }

    /// The children of this name; at the start of a path also the item's own type, as in `Patient.name`.
    fn member(&self, id: NodeId, items: &[Item<'a>], name: &str, first: bool) -> Result<Items<'a>, PathError> {
        let mut out = Vec::new();
        for item in items {
            match item {
                Item::Element(element) if first && self.is_own_type(element, name) => out.push(item.clone()),
                Item::Element(element) => {
                    navigate::child(self.context.types, element, name, &mut out).map_err(|_| {
                        let offset = self.ast.node(id).offset as usize;
                        let text = format!(
                            "`{name}` is how JSON spells a choice element, write it as in `value.ofType(Quantity)`"
                        );
                        PathError::semantic(offset, text)
                    })?;
                }
                Item::Type { namespace, name: own } => match name {
                    "name" => out.push(Item::String(own.clone())),
                    "namespace" => out.push(Item::string(*namespace)),
                    _ => {}
                },
                Item::Quantity(q) => match name {
                    "value" => out.push(Item::Decimal(q.value)),
                    "unit" | "code" => out.push(Item::String(q.unit.clone())),
                    _ => {}
                },
                _ => {}
            }
        }
        self.bounded(id, out)
    }

    fn is_own_type(&self, element: &Element<'a>, name: &str) -> bool {
        if !name.as_bytes().first().is_some_and(u8::is_ascii_uppercase) {
            return false;
        }
        let Some(own) = element.type_name else { return false };
        if own == name || types::is_subtype(self.context.types, own, name) {
            return true;
        }
        // Without definitions every resource is a Resource and most are DomainResources.
        let resource = element.value.is_some_and(|v| v.get("resourceType").is_some());
        resource && matches!(name, "Resource" | "DomainResource") && !self.context.types.is_complete(own)
    }

    fn variable(&self, id: NodeId, name: &str) -> Result<Items<'a>, PathError> {
        if let Some((_, item)) = self.context.variables.iter().find(|(n, _)| *n == name) {
            return Ok(vec![item.clone()]);
        }
        let resource = self.context.resource.or(self.root);
        let element =
            |value: Option<&'a Value>| Ok(value.map(|v| Item::Element(Element::resource(v))).into_iter().collect());
        let text = |text: String| Ok(vec![Item::string(text)]);
        match name {
            "rowIndex" if self.context.row_index.is_some() => {
                Ok(self.context.row_index.map(|i| Item::Integer(i as i64)).into_iter().collect())
            }
            "context" => element(self.root),
            "resource" => element(resource),
            "rootResource" => element(self.context.root_resource.or(resource)),
            "ucum" => text("http://unitsofmeasure.org".to_owned()),
            "sct" => text("http://snomed.info/sct".to_owned()),
            "loinc" => text("http://loinc.org".to_owned()),
            _ => match (name.strip_prefix("vs-"), name.strip_prefix("ext-")) {
                (Some(set), _) => text(format!("http://hl7.org/fhir/ValueSet/{set}")),
                (_, Some(extension)) => text(format!("http://hl7.org/fhir/StructureDefinition/{extension}")),
                _ => {
                    let offset = self.ast.node(id).offset as usize;
                    Err(PathError::semantic(
                        offset,
                        format!("there is no variable `%{name}`, define it or check its name"),
                    ))
                }
            },
        }
    }

    fn sign(&self, id: NodeId, operand: NodeId, negate: bool, scope: Scope<'_, 'a>) -> Result<Items<'a>, PathError> {
        let items = self.eval(operand, scope)?;
        let Some(item) = self.single(id, &items)? else { return Ok(Vec::new()) };
        let value = match item.system() {
            Some(Item::Integer(i)) => {
                if negate {
                    i.checked_neg().map(Item::Integer)
                } else {
                    Some(Item::Integer(i))
                }
            }
            Some(Item::Decimal(d)) => Some(Item::Decimal(if negate { d.negated() } else { d })),
            Some(Item::Quantity(q)) => Some(Item::Quantity(if negate { q.neg() } else { q })),
            _ => return Err(self.error(id, "a sign needs a number or a quantity")),
        };
        Ok(value.into_iter().collect())
    }

    fn binary(
        &self,
        id: NodeId,
        op: BinaryOp,
        left: NodeId,
        right: NodeId,
        scope: Scope<'_, 'a>,
    ) -> Result<Items<'a>, PathError> {
        use BinaryOp::*;
        let a = self.eval(left, scope)?;
        let answer = |b: Option<bool>| Ok(b.map(Item::Boolean).into_iter().collect());
        if matches!(op, And | Or | Implies) {
            // The right side is not looked at when the left decides.
            let x = self.boolean(left, &a)?;
            match (op, x) {
                (And, Some(false)) => return answer(Some(false)),
                (Or, Some(true)) | (Implies, Some(false)) => return answer(Some(true)),
                _ => {}
            }
            let b = self.eval(right, scope)?;
            return answer(ops::logic(op, x, self.boolean(right, &b)?));
        }
        let b = self.eval(right, scope)?;
        match op {
            Equal => answer(ops::collections_equal(&a, &b)),
            NotEqual => answer(ops::collections_equal(&a, &b).map(|x| !x)),
            Equivalent => answer(Some(ops::collections_equivalent(&a, &b))),
            NotEquivalent => answer(Some(!ops::collections_equivalent(&a, &b))),
            Xor => answer(ops::logic(op, self.boolean(left, &a)?, self.boolean(right, &b)?)),
            Union => self.bounded(id, fns::distinct(self, id, a.into_iter().chain(b))?),
            In => match self.single(left, &a)? {
                None => answer(None),
                Some(item) => answer(Some(b.iter().any(|other| ops::equal(item, other) == Some(true)))),
            },
            Contains => match self.single(right, &b)? {
                None => answer(None),
                Some(item) => answer(Some(a.iter().any(|other| ops::equal(other, item) == Some(true)))),
            },
            Concatenate => self.concatenate(id, left, &a, right, &b),
            Less | LessOrEqual | Greater | GreaterOrEqual => {
                self.order(id, op, (left, &a), (right, &b)).and_then(answer)
            }
            _ => self.arithmetic(id, op, (left, &a), (right, &b)),
        }
    }

    fn arithmetic(
        &self,
        id: NodeId,
        op: BinaryOp,
        (left, a): (NodeId, &[Item<'a>]),
        (right, b): (NodeId, &[Item<'a>]),
    ) -> Result<Items<'a>, PathError> {
        let (Some(x), Some(y)) = (self.single(left, a)?, self.single(right, b)?) else { return Ok(Vec::new()) };
        match ops::arithmetic(op, x, y) {
            Sum::Item(item) => {
                if let Item::String(text) = &item {
                    self.spend_text(id, text.len())?;
                }
                Ok(vec![item])
            }
            Sum::Nothing => Ok(Vec::new()),
            Sum::Unfit => {
                Err(self.error(id, format!("this operator does not take {} and {}", x.type_label(), y.type_label())))
            }
        }
    }

    fn order(
        &self,
        id: NodeId,
        op: BinaryOp,
        (left, a): (NodeId, &[Item<'a>]),
        (right, b): (NodeId, &[Item<'a>]),
    ) -> Result<Option<bool>, PathError> {
        let (Some(x), Some(y)) = (self.single(left, a)?, self.single(right, b)?) else { return Ok(None) };
        match ops::compare(x, y) {
            Ok(order) => Ok(Some(match op {
                BinaryOp::Less => order.is_lt(),
                BinaryOp::LessOrEqual => order.is_le(),
                BinaryOp::Greater => order.is_gt(),
                _ => order.is_ge(),
            })),
            Err(Unordered::Unknown) => Ok(None),
            Err(Unordered::Types) => {
                Err(self.error(id, format!("{} and {} cannot be compared", x.type_label(), y.type_label())))
            }
        }
    }

    fn concatenate(
        &self,
        id: NodeId,
        left: NodeId,
        a: &[Item<'a>],
        right: NodeId,
        b: &[Item<'a>],
    ) -> Result<Items<'a>, PathError> {
        let text = |node: NodeId, items: &[Item<'a>]| match self.single(node, items)? {
            None => Ok(String::new()),
            Some(item) => match item.to_text() {
                Some(text) => Ok(text.into_owned()),
                None => Err(self.error(id, "`&` joins texts")),
            },
        };
        let (a, b) = (text(left, a)?, text(right, b)?);
        self.spend_text(id, a.len() + b.len())?;
        Ok(vec![Item::string(a + &b)])
    }

    /// The one item, or none; more is an error (FHIRPath §4.5, singleton evaluation).
    pub fn single<'i>(&self, id: NodeId, items: &'i [Item<'a>]) -> Result<Option<&'i Item<'a>>, PathError> {
        match items {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            _ => Err(self.error(id, "one item is needed here and there are more, add `first()` or `where()`")),
        }
    }

    /// Singleton evaluation as Boolean: one item that is not a Boolean counts as true.
    pub fn boolean(&self, id: NodeId, items: &[Item<'a>]) -> Result<Option<bool>, PathError> {
        Ok(self.single(id, items)?.map(|item| match item.system() {
            Some(Item::Boolean(b)) => b,
            _ => true,
        }))
    }

    pub fn integer(&self, id: NodeId, scope: Scope<'_, 'a>) -> Result<Option<i64>, PathError> {
        let items = self.eval(id, scope)?;
        match self.single(id, &items)?.map(Item::system) {
            None => Ok(None),
            Some(Some(Item::Integer(i))) => Ok(Some(i)),
            Some(_) => Err(self.error(id, "an integer is needed here")),
        }
    }

    /// Whether an item is of a type.
    pub fn is_type(&self, item: &Item<'a>, spec: &TypeSpec) -> bool {
        let system = spec.namespace.as_deref().is_none_or(|n| n == "System");
        let fhir = spec.namespace.as_deref().is_none_or(|n| n == "FHIR");
        match item {
            Item::Element(element) => fhir && self.element_is(element, &spec.name),
            Item::Type { .. } => false,
            _ => system && item.system_name() == Some(&spec.name),
        }
    }

    fn element_is(&self, element: &Element<'a>, wanted: &str) -> bool {
        match element.type_name {
            Some(own) => self.is_own_type(element, wanted) || types::is_subtype(self.context.types, own, wanted),
            // The definitions do not say: the JSON kind must do.
            None => match element.value {
                Some(Value::Bool(_)) => wanted == "boolean",
                Some(Value::Number(n)) if n.as_i64().is_some() => wanted == "integer" || wanted == "decimal",
                Some(Value::Number(_)) => wanted == "decimal",
                Some(Value::String(_)) => wanted == "string",
                _ => false,
            },
        }
    }

    fn check_type(&self, id: NodeId, spec: &TypeSpec) -> Result<(), PathError> {
        if types::exists(self.context.types, spec) {
            return Ok(());
        }
        Err(self.error(id, format!("there is no type `{}`, check its name", spec.name)))
    }

    pub fn is(&self, id: NodeId, items: &[Item<'a>], spec: &TypeSpec) -> Result<Items<'a>, PathError> {
        self.check_type(id, spec)?;
        let answer = self.single(id, items)?.map(|item| Item::Boolean(self.is_type(item, spec)));
        Ok(answer.into_iter().collect())
    }

    pub fn cast(&self, id: NodeId, items: &[Item<'a>], spec: &TypeSpec) -> Result<Items<'a>, PathError> {
        self.single(id, items)?;
        self.of_type(id, items, spec)
    }

    /// The items of a type. Primitives must be of the very type: R4's suite has `gender.ofType(string)` empty.
    pub fn of_type(&self, id: NodeId, items: &[Item<'a>], spec: &TypeSpec) -> Result<Items<'a>, PathError> {
        self.check_type(id, spec)?;
        let exact = types::is_primitive(&spec.name);
        let fits = |item: &&Item<'a>| match item {
            Item::Element(Element { type_name: Some(own), .. }) if exact => {
                *own == &*spec.name && self.is_type(item, spec)
            }
            item => self.is_type(item, spec),
        };
        Ok(items.iter().filter(fits).cloned().collect())
    }

    /// Evaluates an argument in the scope of the call, not of its input.
    pub fn argument(&self, id: NodeId, at: usize, scope: Scope<'_, 'a>) -> Result<Items<'a>, PathError> {
        match self.args(id).get(at) {
            Some(arg) => self.eval(*arg, scope),
            None => Ok(Vec::new()),
        }
    }

    pub fn args(&self, id: NodeId) -> &'a [NodeId] {
        match self.ast.kind(id) {
            NodeKind::Call { args, .. } => args,
            _ => &[],
        }
    }
}

fn literal_item<'a>(literal: &'a Literal) -> Item<'a> {
    match literal {
        Literal::Boolean(b) => Item::Boolean(*b),
        Literal::Integer(i) => Item::Integer(*i),
        Literal::Decimal(d) => Item::Decimal(*d),
        Literal::String(text) => Item::string(&**text),
        Literal::Date(d) => Item::Date(*d),
        Literal::DateTime(d) => Item::DateTime(*d),
        Literal::Time(t) => Item::Time(*t),
        Literal::Quantity { value, unit, calendar } => {
            Item::Quantity(Quantity { value: *value, unit: (&**unit).into(), calendar: *calendar })
        }
    }
}

/// A quantity read from text: `1 day`, `10.5 'mg'`, `3`.
pub(crate) fn quantity_from_text<'a>(text: &str) -> Option<Quantity<'a>> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || "+-.".contains(c))).unwrap_or(text.len());
    let value = Decimal::parse(&text[..end])?;
    let unit = text[end..].trim();
    if unit.is_empty() {
        return Some(Quantity::new(value, "1"));
    }
    if let Some(quoted) = unit.strip_prefix('\'').and_then(|u| u.strip_suffix('\'')) {
        return Some(Quantity::new(value, quoted.to_owned()));
    }
    quantity::calendar_unit(unit)?;
    Some(Quantity { value, unit: unit.to_owned().into(), calendar: true })
}
