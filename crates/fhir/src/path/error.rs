//! What can be wrong with a path or its evaluation. The text speaks of the expression, never of the data.

/// Which kind of error: who can mend it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathErrorKind {
    /// The text is not FHIRPath.
    Syntax,
    /// The text is FHIRPath, but names what does not exist or cannot be.
    Semantic,
    /// The text is allowed and can never give anything, such as a misspelt element.
    AlwaysEmpty,
    /// This data cannot be evaluated by this expression.
    Execution,
    /// A limit was reached.
    Limit,
    /// Part of FHIRPath that this engine refuses, such as terminology.
    Unsupported,
}

/// One sentence, and the byte of the expression it is about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text} at character {offset} of the path")]
pub struct PathError {
    pub kind: PathErrorKind,
    /// Bytes from the start of the expression.
    pub offset: usize,
    pub text: String,
}

impl PathError {
    pub(crate) fn new(kind: PathErrorKind, offset: usize, text: impl Into<String>) -> PathError {
        PathError { kind, offset, text: text.into() }
    }

    pub(crate) fn syntax(offset: usize, text: impl Into<String>) -> PathError {
        PathError::new(PathErrorKind::Syntax, offset, text)
    }

    pub(crate) fn semantic(offset: usize, text: impl Into<String>) -> PathError {
        PathError::new(PathErrorKind::Semantic, offset, text)
    }
}
