//! [`Phi`]: a value that must not reach a log, an error or a panic by accident.

use std::fmt;

/// Protected health information. `{:?}` prints `Phi(..)`; there is no `Display` and no serialisation.
/// Taking the value out is a visible act: [`Phi::expose`] or [`Phi::into_inner`].
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Phi<T>(T);

impl<T> Phi<T> {
    pub fn new(value: T) -> Self {
        Phi(value)
    }

    /// The value, for code that works on it.
    pub fn expose(&self) -> &T {
        &self.0
    }

    pub fn into_inner(self) -> T {
        self.0
    }

    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Phi<U> {
        Phi(f(self.0))
    }
}

impl<T> fmt::Debug for Phi<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Phi(..)")
    }
}

impl<T> From<T> for Phi<T> {
    fn from(value: T) -> Self {
        Phi(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_the_value() {
        #[derive(Debug)]
        #[allow(dead_code)]
        struct Holder {
            name: Phi<String>,
        }
        let text = format!("{:?}", Holder { name: Phi::new("EVERYWOMAN".to_owned()) });
        assert!(!text.contains("EVERYWOMAN"));
        assert!(text.contains("Phi(..)"));
    }
}
