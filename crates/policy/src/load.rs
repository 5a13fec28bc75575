//! From files to rules: parsing, the strict check against the schema, annotations, and diagnostics like a compiler's.
//!
//! Never here: evaluation (see `engine`), the obligations' own grammar (see `obligation`).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use base::DomainName;
use cedar_policy::{ActionConstraint, Effect, Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator};
use miette::Diagnostic as _;

use crate::facts::Action;
use crate::obligation::{self, Obliged};

pub(crate) const SCHEMA: &str = include_str!("schema.cedarschema");

/// One thing that is wrong in a policy file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub file: String,
    /// From 1.
    pub line: usize,
    pub what: String,
    /// What to do about it.
    pub help: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}\n  help: {}", self.file, self.line, self.what, self.help)
    }
}

/// A policy's own words and price.
#[derive(Debug)]
pub(crate) struct Card {
    pub reason: Arc<str>,
    pub obligations: Vec<Obliged>,
}

/// The policies for one action, by what they do.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub permits: PolicySet,
    pub forbids: PolicySet,
    /// Forbids with obligations: closed unless those are carried out.
    pub conditions: PolicySet,
}

/// Everything loaded: rules by domain (`None`: every domain) and action, and the policies' cards by id.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub rules: HashMap<(Option<DomainName>, Action), Rules>,
    pub cards: HashMap<Arc<str>, Card>,
}

pub(crate) fn load<P: AsRef<str>, T: AsRef<str>>(files: &[(P, T)]) -> Result<Loaded, Vec<Diagnostic>> {
    let validator = Validator::new(schema().map_err(|error| vec![error])?);
    let mut loaded = Loaded::default();
    let mut problems = Vec::new();
    let mut seen: BTreeMap<Arc<str>, String> = BTreeMap::new();
    // Sorted, so that diagnostics and the version do not depend on how a folder was listed.
    let mut files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_ref(), text.as_ref())).collect();
    files.sort_unstable();
    for (path, text) in files {
        match File::parse(path, text) {
            Ok(file) => file.load(&validator, &mut loaded, &mut seen, &mut problems),
            Err(found) => problems.extend(found),
        }
    }
    problems.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    if problems.is_empty() { Ok(loaded) } else { Err(problems) }
}

pub(crate) fn schema() -> Result<Schema, Diagnostic> {
    Schema::from_cedarschema_str(SCHEMA).map(|(schema, _)| schema).map_err(|error| Diagnostic {
        file: "schema.cedarschema".into(),
        line: 1,
        what: one_line(&error.to_string()),
        help: "the built-in schema is broken; report this".into(),
    })
}

struct File<'a> {
    path: &'a str,
    text: &'a str,
    domain: Option<DomainName>,
    policies: PolicySet,
}

impl<'a> File<'a> {
    fn parse(path: &'a str, text: &'a str) -> Result<Self, Vec<Diagnostic>> {
        let domain = domain_of(path)
            .map_err(|what| vec![Diagnostic { file: path.into(), line: 1, what, help: "rename the folder".into() }])?;
        let policies = text.parse::<PolicySet>().map_err(|errors| {
            errors
                .iter()
                .map(|error| {
                    let help = error.help().map(|help| one_line(&help.to_string()));
                    Diagnostic {
                        file: path.into(),
                        line: error.labels().and_then(|mut labels| labels.next()).map_or(1, |l| line(text, l.offset())),
                        what: one_line(&error.to_string()),
                        help: help.unwrap_or_else(|| {
                            "a policy is `permit (principal, action, resource) when { ... };`".to_owned()
                        }),
                    }
                })
                .collect::<Vec<_>>()
        })?;
        Ok(File { path, text, domain, policies })
    }

    fn at(&self, line: usize, what: impl Into<String>, help: impl Into<String>) -> Diagnostic {
        Diagnostic { file: self.path.into(), line, what: what.into(), help: help.into() }
    }

    /// The line where a policy's `@id` stands, or its first line by order in the file.
    fn line_of(&self, policy: &Policy) -> usize {
        let id = policy.annotation("id").and_then(|id| self.text.find(&format!("@id(\"{id}\")")));
        id.map_or(1, |offset| line(self.text, offset))
    }

    fn load(
        &self,
        validator: &Validator,
        loaded: &mut Loaded,
        seen: &mut BTreeMap<Arc<str>, String>,
        problems: &mut Vec<Diagnostic>,
    ) {
        for template in self.policies.templates() {
            let what = format!("a template cannot be used here (`{}`)", template.id());
            problems.push(self.at(
                1,
                what,
                "name the principal and the resource instead of `?principal` or `?resource`",
            ));
        }
        self.validate(validator, problems);
        let mut policies: Vec<&Policy> = self.policies.policies().collect();
        policies.sort_by_key(|policy| self.line_of(policy));
        for policy in policies {
            match self.card(policy, seen) {
                Ok((id, card)) => {
                    if let Err(problem) = self.file_under(policy, &id, &card, loaded) {
                        problems.push(problem);
                    }
                    loaded.cards.insert(id, card);
                }
                Err(found) => problems.extend(found),
            }
        }
    }

    fn validate(&self, validator: &Validator, problems: &mut Vec<Diagnostic>) {
        let result = validator.validate(&self.policies, ValidationMode::Strict);
        for error in result.validation_errors() {
            let own = self.policies.policy(error.policy_id()).map_or(1, |policy| self.line_of(policy));
            let label = error.labels().and_then(|mut labels| labels.next());
            let line = label.map_or(own, |label| line(self.text, label.offset()));
            // Cedar names a policy by its place in the file; a person knows it by its `@id`.
            let what = one_line(&error.to_string());
            let prefix = format!("for policy `{}`", error.policy_id());
            let what =
                what.strip_prefix(&prefix).map_or(what.as_str(), |rest| rest.trim_start_matches([',', ':', ' ']));
            let help = error.help().map(|help| one_line(&help.to_string()));
            problems.push(self.at(
                line,
                what,
                help.unwrap_or_else(|| "the vocabulary stands in policies/ward.cedarschema".to_owned()),
            ));
        }
    }

    /// Annotations to id, reason and obligations.
    fn card(
        &self,
        policy: &Policy,
        seen: &mut BTreeMap<Arc<str>, String>,
    ) -> Result<(Arc<str>, Card), Vec<Diagnostic>> {
        let line = self.line_of(policy);
        let mut problems = Vec::new();
        let id = policy.annotation("id").unwrap_or_default();
        let well_formed = !id.is_empty()
            && id.len() <= 64
            && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b':'));
        if !well_formed {
            let what = if id.is_empty() { "a policy has no @id" } else { "the @id is not a plain name" };
            problems.push(self.at(line, what, "begin it with @id(\"...\"), 1 to 64 of a-z 0-9 - :"));
        } else if id.starts_with("ward:") {
            problems.push(self.at(line, "names that begin with `ward:` are built in", "choose another @id"));
        } else if let Some(first) = seen.get(id) {
            let what = format!("the @id `{id}` is used twice, first in {first}");
            let again = self.text.rfind(&format!("@id(\"{id}\")")).map_or(line, |offset| self::line(self.text, offset));
            problems.push(self.at(again, what, "give each policy its own name; audit records cite it"));
        }
        let reason = policy.annotation("reason").unwrap_or_default();
        if reason.trim().is_empty() || reason.len() > 300 {
            let help = "add @reason(\"one sentence shown to users, up to 300 characters\")";
            problems.push(self.at(line, format!("policy `{id}` has no @reason of one sentence"), help));
        }
        for (key, _) in policy.annotations() {
            if !matches!(key, "id" | "reason" | "obligation") {
                let help = "one of: @id, @reason, @obligation";
                problems.push(self.at(line, format!("policy `{id}` has an unknown annotation @{key}"), help));
            }
        }
        let obligations = match policy.annotation("obligation").map(obligation::parse) {
            None => Vec::new(),
            Some(Ok(obligations)) => obligations,
            Some(Err(error)) => {
                problems.push(self.at(line, format!("in the @obligation of `{id}`: {}", error.what), error.help));
                Vec::new()
            }
        };
        if !problems.is_empty() {
            return Err(problems);
        }
        let id: Arc<str> = id.into();
        let reason: Arc<str> = reason.trim().into();
        seen.insert(id.clone(), format!("{}:{line}", self.path));
        let bind = |what| Obliged { what, policy: id.clone(), reason: reason.clone() };
        let obligations = obligations.into_iter().map(bind).collect();
        Ok((id, Card { reason, obligations }))
    }

    /// Puts the policy under every action it speaks about.
    fn file_under(&self, policy: &Policy, id: &Arc<str>, card: &Card, loaded: &mut Loaded) -> Result<(), Diagnostic> {
        if self.domain.is_some() && policy.effect() == Effect::Permit {
            return Err(self.at(
                self.line_of(policy),
                format!("`{id}` permits, but a domain can only tighten"),
                "write a forbid here, or move the permit to the mesh's policies/",
            ));
        }
        if policy.effect() == Effect::Permit && joined_conflict(card) {
            let what = format!("the obligations of `{id}` exclude each other");
            return Err(self.at(self.line_of(policy), what, "name one de-identification profile"));
        }
        for action in actions_of(policy) {
            let rules = loaded.rules.entry((self.domain.clone(), action)).or_default();
            let set = match (policy.effect(), card.obligations.is_empty()) {
                (Effect::Permit, _) => &mut rules.permits,
                (Effect::Forbid, true) => &mut rules.forbids,
                (Effect::Forbid, false) => &mut rules.conditions,
            };
            set.add(policy.new_id(PolicyId::new(&**id)))
                .map_err(|error| self.at(self.line_of(policy), one_line(&error.to_string()), "give it its own @id"))?;
        }
        Ok(())
    }
}

fn joined_conflict(card: &Card) -> bool {
    obligation::join(card.obligations.clone()).is_err()
}

fn actions_of(policy: &Policy) -> Vec<Action> {
    let known = |uid: &cedar_policy::EntityUid| Action::parse(uid.id().unescaped());
    match policy.action_constraint() {
        ActionConstraint::Any => Action::ALL.to_vec(),
        ActionConstraint::Eq(uid) => known(&uid).into_iter().collect(),
        ActionConstraint::In(uids) => uids.iter().filter_map(known).collect(),
    }
}

/// `domains/<name>/...` anywhere in the path binds the file to that domain.
fn domain_of(path: &str) -> Result<Option<DomainName>, String> {
    let mut parts = path.split(['/', '\\']);
    while let Some(part) = parts.next() {
        if part == "domains" {
            let name = parts.next().unwrap_or_default();
            return DomainName::parse(name).map(Some).map_err(|error| error.to_string());
        }
    }
    Ok(None)
}

fn line(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|b| *b == b'\n').count()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
