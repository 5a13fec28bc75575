//! JSON as FHIR needs it: the text of a decimal is kept exactly (R4 §2.24.0.1: precision is meaning), the order of
//! members is kept, duplicate members are refused, and nothing of the content shows in `{:?}`.
//!
//! Knows nothing of FHIR. The reader is in `parse`, the writer in `write`, the object type in `object`.

#[macro_use]
mod macros;
mod number;
mod object;
mod parse;
#[cfg(test)]
pub(crate) mod tests;
mod write;

use std::fmt;

pub use number::Number;
pub use object::{Key, Object};
pub use parse::{DEPTH_HARD_MAX, JsonError, ParseLimits, parse};
pub use write::{to_string, to_string_pretty, to_vec};

/// A JSON value.
#[derive(Clone, PartialEq, Default)]
pub enum Value {
    #[default]
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    Array(Vec<Value>),
    Object(Object),
}

impl Value {
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(b) => Some(*b),
            _ => None,
        }
    }

    pub fn as_number(&self) -> Option<&Number> {
        match self {
            Value::Number(n) => Some(n),
            _ => None,
        }
    }

    /// The number as an integer; `None` when it is written with a fraction or an exponent, or does not fit.
    pub fn as_i64(&self) -> Option<i64> {
        self.as_number().and_then(Number::as_i64)
    }

    pub fn as_f64(&self) -> Option<f64> {
        self.as_number().map(Number::as_f64)
    }

    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Value::Array(items) => Some(items),
            _ => None,
        }
    }

    pub fn as_array_mut(&mut self) -> Option<&mut Vec<Value>> {
        match self {
            Value::Array(items) => Some(items),
            _ => None,
        }
    }

    pub fn as_object(&self) -> Option<&Object> {
        match self {
            Value::Object(object) => Some(object),
            _ => None,
        }
    }

    pub fn as_object_mut(&mut self) -> Option<&mut Object> {
        match self {
            Value::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The member of this name, when this is an object.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.as_object()?.get(key)
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        self.as_object_mut()?.get_mut(key)
    }

    /// Member by member and, in arrays, by decimal index: `value.path(&["name", "0", "family"])`.
    pub fn path(&self, steps: &[&str]) -> Option<&Value> {
        steps.iter().try_fold(self, |value, step| match value {
            Value::Object(object) => object.get(step),
            Value::Array(items) => items.get(step.parse::<usize>().ok()?),
            _ => None,
        })
    }

    /// The items of an array, or the value alone; nothing for null. FHIR elements are read alike whether they repeat.
    pub fn items(&self) -> &[Value] {
        match self {
            Value::Null => &[],
            Value::Array(items) => items,
            one => std::slice::from_ref(one),
        }
    }

    /// Takes the value out and leaves null.
    pub fn take(&mut self) -> Value {
        std::mem::take(self)
    }
}

/// The shape only: a resource is PHI, so its content must not reach a log by `{:?}`.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Bool(_) => f.write_str("Bool(..)"),
            Value::Number(_) => f.write_str("Number(..)"),
            Value::String(_) => f.write_str("String(..)"),
            Value::Array(items) => write!(f, "Array({} items)", items.len()),
            Value::Object(object) => object.fmt(f),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::String(text.to_owned())
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        Value::String(text.clone())
    }
}

impl From<&Value> for Value {
    fn from(value: &Value) -> Self {
        value.clone()
    }
}

macro_rules! value_from {
    ($($from:ty => $variant:ident),*) => {
        $(impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Value::$variant(value.into())
            }
        })*
    };
}
value_from!(String => String, bool => Bool, Number => Number, Vec<Value> => Array, Object => Object);
value_from!(i64 => Number, i32 => Number, u32 => Number, u64 => Number, usize => Number, u16 => Number);

/// The shortest text that reads back as the same number; null when there is none (NaN, infinity).
impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Number::from_f64(number).map_or(Value::Null, Value::Number)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

impl FromIterator<Value> for Value {
    fn from_iter<I: IntoIterator<Item = Value>>(items: I) -> Self {
        Value::Array(items.into_iter().collect())
    }
}
