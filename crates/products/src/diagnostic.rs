//! What a check has to say about a product's files, like a compiler: file, line, what, why, what to do.
//!
//! Holds no patient data: contracts and views are written by people about columns, never about patients.

use std::fmt;

use serde::Serialize;

/// Errors keep a product closed; warnings do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    pub severity: Severity,
    /// Path below the mesh folder: `domains/ehr/products/patients/contract.yaml`.
    pub file: String,
    /// From 1, where the place is known.
    pub line: Option<usize>,
    pub what: String,
    pub why: String,
    pub help: String,
}

impl Diagnostic {
    pub fn error(file: &str, line: Option<usize>, what: impl Into<String>) -> Self {
        Diagnostic {
            severity: Severity::Error,
            file: file.to_owned(),
            line,
            what: what.into(),
            why: String::new(),
            help: String::new(),
        }
    }

    pub fn warning(file: &str, line: Option<usize>, what: impl Into<String>) -> Self {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(file, line, what) }
    }

    pub fn because(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }

    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{severity}: {}\n  --> {}", self.what, self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.why.is_empty() {
            write!(f, "\n  why: {}", self.why)?;
        }
        if !self.help.is_empty() {
            write!(f, "\n  help: {}", self.help)?;
        }
        Ok(())
    }
}

/// The line on which a YAML `key: value` stands, for values that a person wrote once; `after` narrows the search to
/// what follows that line.
pub(crate) fn line_of(text: &str, key: &str, value: &str, after: usize) -> Option<usize> {
    text.lines().enumerate().skip(after).find_map(|(index, line)| {
        let line = line.trim_start().trim_start_matches("- ").trim_start();
        let rest = line.strip_prefix(key)?.trim_start().strip_prefix(':')?;
        let rest = rest.split(" #").next().unwrap_or("").trim().trim_matches(['"', '\'']);
        (value.is_empty() || rest == value).then_some(index + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_like_a_compiler() {
        let text = Diagnostic::error("contract.yaml", Some(3), "the contract names no owner")
            .because("someone must answer for a product")
            .help("add a team with a member whose role is `owner`")
            .to_string();
        assert_eq!(
            text,
            "error: the contract names no owner\n  --> contract.yaml:3\n  why: someone must answer for a product\n  help: add a team with a member whose role is `owner`"
        );
    }

    #[test]
    fn finds_lines_by_key_and_value() {
        let text = "name: a\nschema:\n  - name: t\n    properties:\n      - name: \"b\" # c\n";
        assert_eq!(line_of(text, "name", "b", 0), Some(5));
        assert_eq!(line_of(text, "schema", "", 0), Some(2));
        assert_eq!(line_of(text, "name", "zz", 0), None);
    }
}
