//! Turns engine errors into what a caller may see.
//!
//! Planning errors speak of names the caller wrote and may pass, with literals removed. Everything that happens on data
//! becomes a fixed text with an incident id: Arrow quotes values in its errors. The log gets the kind and the id only.

use base::{Entropy, SystemEntropy};
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use parquet::errors::ParquetError;
use products::SqlError;

/// Longest planning error passed on.
const TEXT_CHARS_MAX: usize = 300;

fn incident() -> String {
    let mut id = [0; 8];
    SystemEntropy.fill(&mut id);
    base::hex::encode(&id)
}

/// Something of ours failed: the kind goes to the log.
pub fn broken(kind: &str) -> SqlError {
    let incident = incident();
    tracing::error!(%incident, kind, "the SQL engine failed");
    SqlError::Broken { incident }
}

pub fn write(error: ParquetError) -> SqlError {
    broken(match error {
        ParquetError::External(_) => "a product file could not be stored",
        ParquetError::ArrowError(_) => "a product file could not be encoded",
        _ => "a product file could not be written",
    })
}

/// Errors of parsing and planning, before any data is read.
pub fn planning(error: DataFusionError, sql: &str) -> SqlError {
    match error.find_root() {
        DataFusionError::SQL(..) => {
            SqlError::Invalid { what: format!("the statement is not valid SQL{}", place(&error)) }
        }
        DataFusionError::SchemaError(schema, _) => {
            use datafusion::common::SchemaError::*;
            let what = match schema.as_ref() {
                FieldNotFound { field, .. } => format!("column `{}` does not exist in the tables named", field.name),
                AmbiguousReference { field } => format!("column `{}` is ambiguous, qualify it", field.name),
                DuplicateQualifiedField { name, .. } | DuplicateUnqualifiedField { name } => {
                    format!("column `{name}` stands twice, rename one")
                }
            };
            SqlError::Invalid { what: without_literals(&what, sql) }
        }
        DataFusionError::Plan(text) | DataFusionError::NotImplemented(text) => {
            SqlError::Invalid { what: without_literals(&first_line(text), sql) }
        }
        DataFusionError::ResourcesExhausted(_) => SqlError::TooLarge { what: "the engine's memory" },
        // Constant folding met an error: the caller's own constants.
        DataFusionError::ArrowError(..) | DataFusionError::Execution(_) => {
            SqlError::Invalid { what: "a constant expression of the statement cannot be computed".into() }
        }
        // A function that does not take what the statement gives it: nothing was read yet, and the text is not passed on.
        DataFusionError::Internal(_) | DataFusionError::External(_) => {
            let incident = incident();
            tracing::warn!(%incident, kind = kind(&error), "a statement could not be planned");
            SqlError::Data { incident }
        }
        other => broken(kind(other)),
    }
}

/// Errors while data flows.
pub fn running(error: DataFusionError) -> SqlError {
    match error.find_root() {
        DataFusionError::ResourcesExhausted(_) => SqlError::TooLarge { what: "the engine's memory" },
        // Values in an operation of the statement: what a caller can mend.
        DataFusionError::ArrowError(..)
        | DataFusionError::Execution(_)
        | DataFusionError::Plan(_)
        | DataFusionError::NotImplemented(_)
        | DataFusionError::Internal(_)
        | DataFusionError::External(_) => {
            let incident = incident();
            tracing::warn!(%incident, kind = kind(&error), "a statement failed on its data");
            SqlError::Data { incident }
        }
        other => broken(kind(other)),
    }
}

fn kind(error: &DataFusionError) -> &'static str {
    match error.find_root() {
        DataFusionError::ArrowError(..) => "arrow",
        DataFusionError::ParquetError(_) => "parquet",
        DataFusionError::ObjectStore(_) => "object store",
        DataFusionError::IoError(_) => "io",
        DataFusionError::Execution(_) => "execution",
        DataFusionError::ExecutionJoin(_) => "task",
        DataFusionError::Internal(_) => "internal",
        DataFusionError::External(_) => "external",
        _ => "other",
    }
}

/// ` near line 1, column 8`, from the parser's text, without its quotation.
fn place(error: &DataFusionError) -> String {
    let text = error.to_string();
    let number = |after: &str| {
        let rest = &text[text.find(after)? + after.len()..];
        let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
        (!digits.is_empty()).then_some(digits)
    };
    match (number("Line:"), number("Column:")) {
        (Some(line), Some(column)) => format!(" near line {line}, column {column}"),
        _ => String::new(),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or("").chars().take(TEXT_CHARS_MAX).collect()
}

/// A literal of a statement may be a patient's name: it does not come back in an error.
fn without_literals(text: &str, sql: &str) -> String {
    let mut text = text.to_owned();
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize().unwrap_or_default();
    for token in tokens {
        let literal = match token {
            Token::SingleQuotedString(literal)
            | Token::DollarQuotedString(datafusion::sql::sqlparser::ast::DollarQuotedString {
                value: literal, ..
            }) => literal,
            Token::Number(literal, _) if literal.len() > 2 => literal,
            _ => continue,
        };
        if literal.chars().count() > 1 {
            text = text.replace(&literal, "..");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_do_not_come_back() {
        let sql = "select foo('EVERYWOMAN', 19850307, 1) from t";
        let text = without_literals("no function foo(Utf8('EVERYWOMAN'), Int64(19850307), Int64(1))", sql);
        assert_eq!(text, "no function foo(Utf8('..'), Int64(..), Int64(1))");
    }
}
