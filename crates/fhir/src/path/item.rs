//! What a path yields: elements of the resource, borrowed, and computed values, owned. An element becomes a System
//! value when an operator asks for one (FHIR R4 FHIRPath page, implicit conversions).

use std::borrow::Cow;

use crate::json::Value;

use super::decimal::Decimal;
use super::quantity::Quantity;
use super::temporal::{DateTime, Time};

/// An element of a resource, with the sibling (`_name`) that holds a primitive's id and extensions.
#[derive(Clone, Copy)]
pub struct Element<'a> {
    pub value: Option<&'a Value>,
    pub sibling: Option<&'a Value>,
    /// The FHIR type, or the path of a backbone element; `None` where the definitions do not tell.
    pub type_name: Option<&'a str>,
}

/// One item of a collection. There is no `Debug` that shows content: items are PHI.
#[derive(Clone)]
pub enum Item<'a> {
    Element(Element<'a>),
    Boolean(bool),
    Integer(i64),
    Decimal(Decimal),
    String(Cow<'a, str>),
    Date(DateTime),
    DateTime(DateTime),
    Time(Time),
    Quantity(Quantity<'a>),
    /// What `type()` gives.
    Type {
        namespace: &'static str,
        name: Cow<'a, str>,
    },
}

impl std::fmt::Debug for Item<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Item({})", self.type_label())
    }
}

impl<'a> Element<'a> {
    /// A resource, with the type it names.
    pub fn resource(value: &'a Value) -> Element<'a> {
        let type_name = value.get("resourceType").and_then(Value::as_str);
        Element { value: Some(value), sibling: None, type_name }
    }

    /// Whether it is a primitive: by its value, or by its type when only extensions are there.
    pub fn is_primitive(&self) -> bool {
        match self.value {
            Some(Value::Object(_)) => false,
            Some(_) => true,
            None => true,
        }
    }

    fn quantity(&self) -> Option<Quantity<'a>> {
        let object = self.value?.as_object().filter(|o| !o.contains_key("comparator"))?;
        match self.type_name {
            Some("Quantity" | "Age" | "Count" | "Distance" | "Duration" | "SimpleQuantity" | "MoneyQuantity") => {}
            None if object.contains_key("unit") || object.contains_key("code") => {}
            _ => return None,
        }
        let value = Decimal::parse(object.get("value")?.as_number()?.as_str())?;
        let text = |key: &str| object.get(key).and_then(Value::as_str);
        // A UCUM code is the unit; another system's code is not, its printed unit is.
        let ucum = text("system") == Some("http://unitsofmeasure.org");
        let unit = text("code").filter(|_| ucum).or(text("unit")).or(text("code")).unwrap_or("1");
        Some(Quantity::new(value, unit))
    }
}

impl<'a> Item<'a> {
    pub fn string(text: impl Into<Cow<'a, str>>) -> Item<'a> {
        Item::String(text.into())
    }

    /// The System value of this item: itself when computed; `None` for complex elements and for those without a value.
    pub fn system(&self) -> Option<Item<'a>> {
        let Item::Element(element) = self else { return Some(self.clone()) };
        match element.value? {
            Value::Bool(b) => Some(Item::Boolean(*b)),
            Value::Number(n) => number_item(n.as_str(), element.type_name),
            Value::String(text) => Some(text_item(text, element.type_name)),
            Value::Object(_) => element.quantity().map(Item::Quantity),
            Value::Null | Value::Array(_) => None,
        }
    }

    /// The text of a string item.
    pub fn text(&self) -> Option<Cow<'a, str>> {
        match self {
            Item::String(text) => Some(text.clone()),
            Item::Element(Element { value: Some(Value::String(text)), .. }) => Some(Cow::Borrowed(text)),
            _ => None,
        }
    }

    /// The JSON element behind this item, when it was not computed.
    pub fn element(&self) -> Option<&Element<'a>> {
        match self {
            Item::Element(element) => Some(element),
            _ => None,
        }
    }

    /// What kind of item this is, for errors.
    pub(crate) fn type_label(&self) -> &'static str {
        match self {
            Item::Element(element) => match element.value {
                Some(Value::Object(_)) => "complex element",
                Some(Value::Bool(_)) => "boolean element",
                Some(Value::Number(_)) => "number element",
                Some(Value::String(_)) => "string element",
                _ => "element without a value",
            },
            Item::Boolean(_) => "Boolean",
            Item::Integer(_) => "Integer",
            Item::Decimal(_) => "Decimal",
            Item::String(_) => "String",
            Item::Date(_) => "Date",
            Item::DateTime(_) => "DateTime",
            Item::Time(_) => "Time",
            Item::Quantity(_) => "Quantity",
            Item::Type { .. } => "type",
        }
    }

    /// The System type's name; `None` for elements and types.
    pub(crate) fn system_name(&self) -> Option<&'static str> {
        match self {
            Item::Element(_) | Item::Type { .. } => None,
            other => Some(other.type_label()),
        }
    }

    /// What `toString()` gives, and what comparison as text uses.
    pub(crate) fn to_text(&self) -> Option<Cow<'a, str>> {
        // A text of the resource stays as it is written, fractions of a second too.
        if let Some(text) = self.text() {
            return Some(text);
        }
        Some(match self.system()? {
            Item::Boolean(b) => Cow::Borrowed(if b { "true" } else { "false" }),
            Item::Integer(i) => Cow::Owned(i.to_string()),
            Item::Decimal(d) => Cow::Owned(d.to_string()),
            Item::String(text) => text,
            Item::Date(d) | Item::DateTime(d) => Cow::Owned(d.to_string()),
            Item::Time(t) => Cow::Owned(t.to_string()),
            Item::Quantity(q) => Cow::Owned(q.to_string()),
            Item::Element(_) | Item::Type { .. } => return None,
        })
    }
}

fn number_item<'a>(text: &str, type_name: Option<&str>) -> Option<Item<'a>> {
    if type_name != Some("decimal")
        && let Ok(integer) = text.parse::<i64>()
    {
        return Some(Item::Integer(integer));
    }
    let decimal = Decimal::parse(text).or_else(|| Decimal::from_f64(text.parse().ok()?))?;
    Some(Item::Decimal(decimal))
}

fn text_item<'a>(text: &'a str, type_name: Option<&str>) -> Item<'a> {
    let parsed = match type_name {
        Some("date") => DateTime::parse_date(text).map(Item::Date),
        Some("dateTime" | "instant") => DateTime::parse(text).map(Item::DateTime),
        Some("time") => Time::parse(text).map(Item::Time),
        _ => None,
    };
    parsed.unwrap_or(Item::String(Cow::Borrowed(text)))
}
