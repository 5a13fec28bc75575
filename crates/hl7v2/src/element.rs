//! A field and what it is made of: repetitions, components, subcomponents (v2.8.2 §2.5). Borrowed, cut when asked.

use std::borrow::Cow;
use std::fmt;

use crate::charset::Charset;
use crate::delimiters::Delimiters;
use crate::escape::unescape;

/// What was said about an element (v2.8.2 §2.5.3, §2.10.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence<T> {
    /// Not valued: nothing was said, what is known stays.
    Absent,
    /// `""`: what is known is to be removed.
    Null,
    Value(T),
}

impl<T> Presence<T> {
    pub fn value(self) -> Option<T> {
        match self {
            Presence::Value(value) => Some(value),
            _ => None,
        }
    }

    pub fn is_value(&self) -> bool {
        matches!(self, Presence::Value(_))
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Presence::Null)
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Context {
    pub delimiters: Delimiters,
    pub charset: Charset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Field,
    Repetition,
    Component,
    Subcomponent,
}

/// A field, repetition, component or subcomponent. A missing one is an absent element, so that a chain such as
/// `field.repetition(2).component(4).subcomponent(1)` needs no questions between.
#[derive(Clone, Copy)]
pub struct Element<'m> {
    text: &'m str,
    level: Level,
    context: &'m Context,
}

impl fmt::Debug for Element<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({} bytes)", self.level, self.text.len())
    }
}

impl<'m> Element<'m> {
    pub(crate) fn new(text: &'m str, level: Level, context: &'m Context) -> Self {
        Element { text, level, context }
    }

    /// As it stands in the message, escapes and delimiters included.
    pub fn raw(self) -> &'m str {
        self.text
    }

    /// The text that was meant; delimiters inside the element stay.
    pub fn text(self) -> Cow<'m, str> {
        unescape(self.text, &self.context.delimiters, &self.context.charset)
    }

    /// Absent, null or the text. An element of nothing but delimiters is absent; one whose only leaves are `""` is null.
    pub fn presence(self) -> Presence<Cow<'m, str>> {
        if self.text.is_empty() {
            return Presence::Absent;
        }
        if self.text == "\"\"" {
            return Presence::Null;
        }
        let delimiters = &self.context.delimiters;
        if self.level == Level::Subcomponent {
            return Presence::Value(self.text());
        }
        let mut null = false;
        for leaf in self.text.as_bytes().split(|b| delimiters.separates(*b)) {
            match leaf {
                b"" => {}
                b"\"\"" => null = true,
                _ => return Presence::Value(self.text()),
            }
        }
        if null { Presence::Null } else { Presence::Absent }
    }

    /// The text when there is one: neither absent nor null.
    pub fn value(self) -> Option<Cow<'m, str>> {
        self.presence().value()
    }

    pub fn is_value(self) -> bool {
        self.presence().is_value()
    }

    pub fn is_null(self) -> bool {
        self.presence().is_null()
    }

    pub fn is_absent(self) -> bool {
        matches!(self.presence(), Presence::Absent)
    }

    /// The repetitions, trailing empty ones included; of a repetition itself and below, the element alone.
    pub fn repetitions(self) -> impl Iterator<Item = Element<'m>> + Clone {
        self.cut(Level::Repetition)
    }

    /// The components of the (first) repetition.
    pub fn components(self) -> impl Iterator<Item = Element<'m>> + Clone {
        self.narrowed(Level::Repetition).cut(Level::Component)
    }

    /// The subcomponents of the (first) component.
    pub fn subcomponents(self) -> impl Iterator<Item = Element<'m>> + Clone {
        self.narrowed(Level::Component).cut(Level::Subcomponent)
    }

    /// The `n`th repetition, from 1.
    pub fn repetition(self, n: usize) -> Element<'m> {
        self.nth(Level::Repetition, n)
    }

    /// The `n`th component, from 1, of the (first) repetition.
    pub fn component(self, n: usize) -> Element<'m> {
        self.narrowed(Level::Repetition).nth(Level::Component, n)
    }

    /// The `n`th subcomponent, from 1, of the (first) component.
    pub fn subcomponent(self, n: usize) -> Element<'m> {
        self.narrowed(Level::Component).nth(Level::Subcomponent, n)
    }

    /// The first leaf: what a receiver that knows only a simple type reads of a richer one (v2.8.2 §2.8.4).
    pub fn first(self) -> Element<'m> {
        self.narrowed(Level::Subcomponent)
    }

    fn delimiter(self, below: Level) -> Option<u8> {
        match below {
            Level::Repetition => self.context.delimiters.repetition,
            Level::Component => self.context.delimiters.component,
            Level::Subcomponent => self.context.delimiters.subcomponent,
            Level::Field => None,
        }
    }

    /// Down to `level` by taking the first at each step.
    fn narrowed(self, level: Level) -> Element<'m> {
        let mut element = self;
        for step in [Level::Repetition, Level::Component, Level::Subcomponent] {
            if step <= level && step > element.level {
                element = element.nth(step, 1);
            }
        }
        element
    }

    fn nth(self, level: Level, n: usize) -> Element<'m> {
        let missing = Element { text: "", level, context: self.context };
        n.checked_sub(1).and_then(|skip| self.cut(level).nth(skip)).unwrap_or(missing)
    }

    /// Into the parts of the next level; an element that is already that deep is its own only part.
    fn cut(self, level: Level) -> Parts<'m> {
        let delimiter = if self.level < level { self.delimiter(level) } else { None };
        Parts { rest: Some(self.text), delimiter, level: self.level.max(level), context: self.context }
    }
}

#[derive(Clone)]
struct Parts<'m> {
    rest: Option<&'m str>,
    delimiter: Option<u8>,
    level: Level,
    context: &'m Context,
}

impl<'m> Iterator for Parts<'m> {
    type Item = Element<'m>;

    fn next(&mut self) -> Option<Element<'m>> {
        let rest = self.rest?;
        let cut = self.delimiter.and_then(|d| rest.as_bytes().iter().position(|b| *b == d));
        let text = match cut {
            Some(at) => {
                self.rest = Some(&rest[at + 1..]);
                &rest[..at]
            }
            None => {
                self.rest = None;
                rest
            }
        };
        Some(Element::new(text, self.level, self.context))
    }
}
