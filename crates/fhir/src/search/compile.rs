//! Compiles the expressions of search parameters, a small part of FHIRPath, into plain paths over JSON names. The types
//! are followed while compiling, so that reading a resource needs no look-up.
//!
//! Covered: members, `|`, `as`, `.as()`, `.ofType()`, `[n]`, `.where(name='text')`, `.where(resolve() is Type)`,
//! `.extension('url')`, `%resource`, and `a.exists() and a != false`. The general engine is `path`.

use crate::definitions::{self, CodeSet, Kind, Type};

/// What a parameter reads.
#[derive(Debug, Clone, Default)]
pub(super) struct Compiled {
    pub paths: Vec<Path>,
    /// The answer is whether any of the paths leads to something that is not `false`.
    pub truth: bool,
}

/// A way through JSON; arrays are entered as they come.
#[derive(Debug, Clone)]
pub(super) struct Path {
    /// Begins at the resource although the expression is read from an element of it.
    pub from_resource: bool,
    pub steps: Vec<Step>,
    /// The type it leads to.
    pub kind: &'static Type,
    pub codes: Option<&'static CodeSet>,
    /// Whether a reference can lead to a patient only.
    pub only_patient: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Member(String),
    Index(usize),
    /// Keeps what has this member with this text.
    Equal(String, String),
    /// Keeps references that lead to this type.
    LeadsTo(String),
}

/// Compiles `expression` for elements of type `context`. An error says what is not covered.
pub(super) fn compile(context: &'static Type, expression: &str) -> Result<Compiled, String> {
    let mut parser = Parser { rest: expression, context };
    let compiled = parser.whole()?;
    match parser.rest.trim() {
        "" => Ok(compiled),
        rest => Err(format!("not covered: {rest}")),
    }
}

struct Parser<'a> {
    rest: &'a str,
    context: &'static Type,
}

type Paths = Result<Vec<Path>, String>;

impl<'a> Parser<'a> {
    fn whole(&mut self) -> Result<Compiled, String> {
        let paths = self.union()?;
        if !self.word("and") {
            return Ok(Compiled { paths, truth: false });
        }
        self.term()?;
        if self.token("!=") && self.word("false") {
            return Ok(Compiled { paths, truth: true });
        }
        Err("only `and a != false` is covered".to_owned())
    }

    fn union(&mut self) -> Paths {
        let mut paths = self.item()?;
        while self.token("|") {
            paths.extend(self.item()?);
        }
        Ok(paths)
    }

    fn item(&mut self) -> Paths {
        let paths = self.term()?;
        if self.word("as") {
            let kind = self.name()?;
            return Ok(only_type(paths, kind));
        }
        Ok(paths)
    }

    fn term(&mut self) -> Paths {
        let mut paths = if self.token("(") {
            let inner = self.union()?;
            self.expect(")")?;
            inner
        } else if self.token("%resource") {
            self.root(true)
        } else {
            let name = self.name()?;
            if self.context.is_a(name) { self.root(false) } else { member(self.root(false), name)? }
        };
        loop {
            if self.token("[") {
                let end = self.rest.find(']').ok_or("no end of an index")?;
                let index = self.rest[..end].trim().parse().map_err(|_| "an index must be a number")?;
                self.rest = &self.rest[end + 1..];
                paths.iter_mut().for_each(|p| p.steps.push(Step::Index(index)));
            } else if self.token(".") {
                let name = self.name()?;
                paths = if self.token("(") { self.function(paths, name)? } else { member(paths, name)? };
            } else {
                return Ok(paths);
            }
        }
    }

    fn root(&self, from_resource: bool) -> Vec<Path> {
        // Only MolecularSequence's composites say %resource; the holder of a nested type is the start of its path.
        let holder = self.context.name.split('.').next().and_then(definitions::type_named);
        let kind = if from_resource { holder.unwrap_or(self.context) } else { self.context };
        vec![Path { from_resource, steps: Vec::new(), kind, codes: None, only_patient: false }]
    }

    /// Stands after the opening parenthesis.
    fn function(&mut self, paths: Vec<Path>, name: &str) -> Paths {
        let paths = match name {
            "exists" => paths,
            "as" | "ofType" => only_type(paths, self.name()?),
            "extension" => {
                let url = self.quoted()?.to_owned();
                with_step(member(paths, "extension")?, Step::Equal("url".to_owned(), url))
            }
            "where" if self.word("resolve") => {
                self.expect("(")?;
                self.expect(")")?;
                if !self.word("is") {
                    return Err("only `resolve() is Type` is covered".to_owned());
                }
                let target = self.name()?.to_owned();
                with_step(paths, Step::LeadsTo(target))
            }
            "where" => {
                let member = self.name()?.to_owned();
                self.expect("=")?;
                let text = self.quoted()?.to_owned();
                with_step(paths, Step::Equal(member, text))
            }
            other => return Err(format!("function {other} is not covered")),
        };
        self.expect(")")?;
        Ok(paths)
    }

    fn token(&mut self, token: &str) -> bool {
        match self.rest.trim_start().strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.token(token) { Ok(()) } else { Err(format!("expected {token}")) }
    }

    /// A keyword: not the beginning of a longer name.
    fn word(&mut self, word: &str) -> bool {
        match self.rest.trim_start().strip_prefix(word) {
            Some(rest) if !rest.starts_with(|c: char| c.is_ascii_alphanumeric()) => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    fn name(&mut self) -> Result<&'a str, String> {
        let text = self.rest.trim_start();
        let end = text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len());
        if end == 0 {
            return Err("expected a name".to_owned());
        }
        self.rest = &text[end..];
        Ok(&text[..end])
    }

    fn quoted(&mut self) -> Result<&'a str, String> {
        self.expect("'")?;
        let (text, rest) = self.rest.split_once('\'').ok_or("no end of a text")?;
        self.rest = rest;
        Ok(text)
    }
}

fn with_step(paths: Vec<Path>, step: Step) -> Vec<Path> {
    let add = |mut path: Path| {
        path.steps.push(step.clone());
        path
    };
    paths.into_iter().map(add).collect()
}

/// Goes on to an element: one path for each of its types. Some expressions write `DateTime` for `dateTime`.
fn only_type(paths: Vec<Path>, kind: &str) -> Vec<Path> {
    paths.into_iter().filter(|p| p.kind.name.eq_ignore_ascii_case(kind)).collect()
}

fn member(paths: Vec<Path>, name: &str) -> Paths {
    let mut out = Vec::new();
    let mut found = false;
    for path in paths {
        let Some(element) = path.kind.element(name) else { continue };
        found = true;
        for kind in &element.types {
            let mut steps = path.steps.clone();
            steps.push(Step::Member(element.json_name(kind)));
            let only_patient = kind.targets.as_slice() == ["Patient"];
            let kind = kind.definition();
            out.push(Path { steps, kind, codes: element.codes, only_patient, ..path.clone() });
        }
    }
    if found { Ok(out) } else { Err(format!("no element {name}")) }
}

impl Path {
    pub(super) fn is_resource(&self) -> bool {
        matches!(self.kind.kind, Kind::Resource | Kind::AbstractResource)
    }
}
