//! A statement under construction: text and bound values in step. Values of a query never enter the text.

use rusqlite::types::Value;

#[derive(Debug, Clone, Default)]
pub(super) struct Sql {
    pub text: String,
    pub values: Vec<Value>,
}

impl Sql {
    pub fn new(text: &str) -> Self {
        Sql { text: text.to_owned(), values: Vec::new() }
    }

    pub fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    pub fn bind(&mut self, value: impl Into<Value>) -> &mut Self {
        self.text.push('?');
        self.values.push(value.into());
        self
    }

    pub fn append(&mut self, other: &Sql) -> &mut Self {
        self.text.push_str(&other.text);
        self.values.extend(other.values.iter().cloned());
        self
    }

    /// `IN (?,?,...)`; the operator stands in front.
    pub fn list<T: Into<Value>>(&mut self, operator: &str, values: impl IntoIterator<Item = T>) -> &mut Self {
        self.push(operator).push("(");
        for (n, value) in values.into_iter().enumerate() {
            if n > 0 {
                self.push(",");
            }
            self.bind(value);
        }
        self.push(")")
    }
}
