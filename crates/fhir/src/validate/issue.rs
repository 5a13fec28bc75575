//! What a check found, and its form for clients: OperationOutcome (R4 §2.34). Never holds a value of the resource.

use crate::json::{Object, Value};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    Fatal,
    Error,
    Warning,
    Information,
}

impl Severity {
    /// The code of http://hl7.org/fhir/issue-severity.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Fatal => "fatal",
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Information => "information",
        }
    }

    /// Whether the resource cannot be taken.
    pub fn refuses(self) -> bool {
        matches!(self, Severity::Fatal | Severity::Error)
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    pub severity: Severity,
    /// A code of http://hl7.org/fhir/issue-type.
    pub code: &'static str,
    /// Where, as FHIRPath: `Patient.name[0].family`; for a query, the name of the parameter. May be empty.
    pub expression: String,
    /// What, and what to do: no values, so it may go to a log.
    pub text: String,
}

impl Issue {
    pub fn error(code: &'static str, expression: impl Into<String>, text: impl Into<String>) -> Self {
        Issue { severity: Severity::Error, code, expression: expression.into(), text: text.into() }
    }
}

impl std::fmt::Display for Issue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.expression.as_str() {
            "" => f.write_str(&self.text),
            expression => write!(f, "{expression}: {}", self.text),
        }
    }
}

impl std::error::Error for Issue {}

/// An OperationOutcome with these issues; with none of them, one that says that all is well.
pub fn operation_outcome(issues: &[Issue]) -> Value {
    let all_well = [Issue {
        severity: Severity::Information,
        code: "informational",
        expression: String::new(),
        text: "no issues found".to_owned(),
    }];
    let issues = if issues.is_empty() { &all_well } else { issues };
    let issues: Vec<Value> = issues.iter().map(issue_value).collect();
    json!({"resourceType": "OperationOutcome", "issue": issues})
}

fn issue_value(issue: &Issue) -> Value {
    let mut value: Object = [("severity", issue.severity.as_str()), ("code", issue.code)].into_iter().collect();
    if !issue.text.is_empty() {
        value.push("diagnostics", issue.text.as_str());
    }
    if !issue.expression.is_empty() {
        value.push("expression", json!([issue.expression.as_str()]));
    }
    Value::Object(value)
}
