//! Reads the parameters of a search into a [`Query`] (R4 §3.1.1). Every error names the parameter and what is wanted;
//! none repeats a value, since values are PHI.

use super::value::{self, Wanted};
use super::{Chain, Clause, Criterion, Has, Include, Modifier, Param, ParamKind, Query, Summary, Total, param, params};
use crate::definitions;
use crate::validate::Issue;

/// Parameters in one query.
const PARAMETERS_MAX: usize = 100;
/// Values in one parameter.
const VALUES_MAX: usize = 1_000;
/// Steps of chains and `_has` in one parameter.
const CHAIN_MAX: usize = 3;
/// Criteria that one parameter may come to: a chain without a type stands for one per target, at each step.
const CRITERIA_MAX: usize = 200;

/// Parameters of the exchange, not of the search; the door reads them.
const OF_THE_DOOR: &[&str] = &["_format", "_pretty"];
/// Parameters that R4 has and we do not.
const NOT_SUPPORTED: &[&str] =
    &["_text", "_content", "_filter", "_query", "_list", "_type", "_contained", "_containedType", "_score"];

/// Reads decoded name and value pairs. A parameter that is not known is an error; when `lenient` (R4 §3.1.1.2,
/// `Prefer: handling=lenient`) it is passed over and listed in `ignored`.
pub fn parse_query(
    rtype: &str,
    pairs: &[(String, String)],
    limits: &base::Limits,
    lenient: bool,
) -> Result<Query, Issue> {
    if definitions::resource_type(rtype).is_none() {
        return Err(Issue::error("not-supported", "", "unknown resource type; it must be a type of FHIR R4"));
    }
    if pairs.len() > PARAMETERS_MAX {
        return Err(Issue::error("too-costly", "", format!("at most {PARAMETERS_MAX} parameters are taken")));
    }
    let mut builder =
        Builder { query: Query { rtype: rtype.to_owned(), ..Query::default() }, limits, given: Vec::new() };
    for (name, value) in pairs {
        if let Err(issue) = builder.take(name, value) {
            match lenient && issue.code == UNKNOWN {
                true => builder.query.ignored.push(shown(name).to_owned()),
                false => return Err(issue),
            }
        }
    }
    Ok(builder.query)
}

/// Reads the criteria of a condition (R4 §3.1.0.4.3, §3.1.0.5, §3.1.0.11.2): what stands after `?`, undecoded. They
/// select, so what only shapes an answer is refused, and so are criteria that would select everything.
pub fn parse_criteria(rtype: &str, text: &str) -> Result<Query, Issue> {
    let pairs = super::decode_query(text);
    let query = parse_query(rtype, &pairs, &base::Limits::default(), false)?;
    let plain = Query {
        rtype: query.rtype.clone(),
        clauses: query.clauses.clone(),
        chains: query.chains.clone(),
        has: query.has.clone(),
        ..Query::default()
    };
    if query != plain {
        return Err(Issue::error("invalid", "", "a condition takes criteria only: no sorting, paging or including"));
    }
    if query.clauses.is_empty() && query.chains.is_empty() && query.has.is_empty() {
        return Err(Issue::error("required", "", "a condition needs at least one criterion"));
    }
    Ok(query)
}

/// The issue type of an unknown parameter.
const UNKNOWN: &str = "not-found";

/// The name of a parameter as it may be shown. A name comes from the sender: what is not a name might be anything.
fn shown(name: &str) -> &str {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b':' | b'.');
    // All of R4's begin with a small letter or `_`; a person's name does not.
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    if begins && name.len() <= 64 && name.bytes().all(plain) { name } else { "(not a name)" }
}

fn wrong(code: &'static str, name: &str, text: &str) -> Issue {
    Issue::error(code, shown(name), format!("{} {text}", shown(name)))
}

struct Builder<'a> {
    query: Query,
    limits: &'a base::Limits,
    /// Result parameters met, which may stand once.
    given: Vec<&'static str>,
}

impl Builder<'_> {
    fn take(&mut self, name: &str, text: &str) -> Result<(), Issue> {
        match name {
            "_sort" => {
                self.once("_sort")?;
                self.query.sort = sort(&self.query.rtype, text)?;
            }
            "_count" => {
                self.once("_count")?;
                let count: usize = text.parse().map_err(|_| wrong("value", name, "needs a whole number"))?;
                self.query.count = Some(count.min(self.limits.search_count_max));
            }
            "_total" => {
                self.once("_total")?;
                self.query.total = match text {
                    "none" => Total::None,
                    "estimate" => Total::Estimate,
                    "accurate" => Total::Accurate,
                    _ => return Err(wrong("value", name, "needs none, estimate or accurate")),
                };
            }
            "_summary" => {
                self.once("_summary")?;
                self.query.summary = match text {
                    "false" => Summary::False,
                    "true" => Summary::True,
                    "text" => Summary::Text,
                    "data" => Summary::Data,
                    "count" => Summary::Count,
                    _ => return Err(wrong("value", name, "needs true, false, text, data or count")),
                };
            }
            "_elements" => {
                self.once("_elements")?;
                self.query.elements = elements(&self.query.rtype, text)?;
            }
            "_cursor" => {
                self.once("_cursor")?;
                self.query.cursor = Some(text.to_owned());
            }
            "_include" | "_include:iterate" => {
                let include = include(&self.query.rtype, name, text)?;
                self.query.includes.push(include);
            }
            "_revinclude" | "_revinclude:iterate" => {
                let include = include(&self.query.rtype, name, text)?;
                self.query.revincludes.push(include);
            }
            _ if OF_THE_DOOR.contains(&name) => {}
            _ if NOT_SUPPORTED.contains(&name.split(':').next().unwrap_or(name)) => {
                return Err(wrong("not-supported", name, "is not supported"));
            }
            _ => match criterion(
                &self.query.rtype,
                name,
                text,
                &mut Budget { steps: CHAIN_MAX, criteria: CRITERIA_MAX },
            )? {
                Criterion::Clause(clause) => self.query.clauses.push(clause),
                Criterion::Chain(chain) => self.query.chains.push(chain),
                Criterion::Has(has) => self.query.has.push(has),
                Criterion::Any(any) => self.query.any.push(any),
            },
        }
        Ok(())
    }

    fn once(&mut self, name: &'static str) -> Result<(), Issue> {
        if self.given.contains(&name) {
            return Err(wrong("invalid", name, "may be given once"));
        }
        self.given.push(name);
        Ok(())
    }
}

fn known(rtype: &str, code: &str, name: &str) -> Result<&'static Param, Issue> {
    param(rtype, code).ok_or_else(|| wrong(UNKNOWN, name, &format!("is not a search parameter of {rtype}")))
}

/// What one parameter may still cost.
struct Budget {
    steps: usize,
    criteria: usize,
}

fn too_costly(name: &str) -> Issue {
    wrong("too-costly", name, &format!("has more than {CHAIN_MAX} steps of chaining, or leads to too many types"))
}

/// The criterion one step of chaining further on.
fn step(rtype: &str, name: &str, rest: &str, text: &str, budget: &mut Budget) -> Result<Criterion, Issue> {
    budget.steps = budget.steps.checked_sub(1).ok_or_else(|| too_costly(name))?;
    let inner = criterion(rtype, rest, text, budget);
    budget.steps += 1;
    inner
}

/// A parameter that selects: `name:exact`, `subject:Patient.name`, `_has:Observation:patient:code`.
fn criterion(rtype: &str, name: &str, text: &str, budget: &mut Budget) -> Result<Criterion, Issue> {
    budget.criteria = budget.criteria.checked_sub(1).ok_or_else(|| too_costly(name))?;
    if let Some(rest) = name.strip_prefix("_has:") {
        return has(rtype, name, rest, text, budget);
    }
    if let Some((head, rest)) = name.split_once('.') {
        return chain(rtype, name, (head, rest), text, budget);
    }
    let (code, modifier) = match name.split_once(':') {
        Some((code, modifier)) => (code, Some(modifier)),
        None => (name, None),
    };
    let param = known(rtype, code, name)?;
    let modifier = modifier.map(|m| read_modifier(param, m, name)).transpose()?;
    clause(param, modifier, name, text).map(Criterion::Clause)
}

fn clause(param: &'static Param, modifier: Option<Modifier>, name: &str, text: &str) -> Result<Clause, Issue> {
    if param.kind == ParamKind::Special {
        return Err(wrong("not-supported", name, "is not supported"));
    }
    let texts = value::split(text, ',');
    if texts.len() > VALUES_MAX {
        return Err(wrong("too-costly", name, &format!("has more than {VALUES_MAX} values")));
    }
    let wanted =
        Wanted { kind: param.kind, modifier: modifier.as_ref(), targets: param.targets, components: param.components };
    let values = texts.into_iter().map(|text| value::read(&wanted, text)).collect::<Result<Vec<_>, _>>();
    let values = values.map_err(|reason| wrong("value", name, reason))?;
    if modifier == Some(Modifier::Missing) && values.len() > 1 {
        return Err(wrong("value", name, "needs one value"));
    }
    Ok(Clause { param: param.code, kind: param.kind, modifier, values })
}

fn read_modifier(param: &Param, modifier: &str, name: &str) -> Result<Modifier, Issue> {
    use ParamKind as Kind;
    Ok(match (modifier, param.kind) {
        ("missing", kind) if kind != Kind::Composite => Modifier::Missing,
        ("exact", Kind::String) => Modifier::Exact,
        ("contains", Kind::String) => Modifier::Contains,
        ("not", Kind::Token) => Modifier::Not,
        ("text", Kind::Token) => Modifier::Text,
        ("identifier", Kind::Reference) => Modifier::Identifier,
        ("in" | "not-in" | "above" | "below" | "of-type", Kind::Token | Kind::Uri | Kind::Reference) => {
            return Err(wrong("not-supported", name, "has a modifier that is not supported"));
        }
        (rtype, Kind::Reference) if may_lead_to(param, rtype) => Modifier::Type(rtype.to_owned()),
        _ => return Err(wrong("invalid", name, "has a modifier that its type does not have")),
    })
}

fn may_lead_to(param: &Param, rtype: &str) -> bool {
    match param.targets {
        [] => definitions::resource_type(rtype).is_some(),
        targets => targets.contains(&rtype),
    }
}

/// `head` is a reference parameter, with or without `:Type`; `rest` is a criterion of what it leads to.
fn chain(
    rtype: &str,
    name: &str,
    (head, rest): (&str, &str),
    text: &str,
    budget: &mut Budget,
) -> Result<Criterion, Issue> {
    let (code, target) = match head.split_once(':') {
        Some((code, target)) => (code, Some(target)),
        None => (head, None),
    };
    let param = known(rtype, code, name)?;
    if param.kind != ParamKind::Reference {
        return Err(wrong("invalid", name, "chains from what is not a reference"));
    }
    if let Some(target) = target {
        if !may_lead_to(param, target) {
            return Err(wrong("invalid", name, "chains to a type that the reference cannot lead to"));
        }
        let branch = (target.to_owned(), step(target, name, rest, text, budget)?);
        return Ok(Criterion::Chain(Chain { param: param.code, branches: vec![branch] }));
    }
    if param.targets.is_empty() {
        return Err(wrong("invalid", name, "needs the type it chains to, as in subject:Patient.name"));
    }
    // R4 §3.1.1.4.13: without a type, every target that has the parameter is meant.
    let mut branches = Vec::new();
    let mut first_issue = None;
    for target in param.targets {
        match step(target, name, rest, text, budget) {
            Ok(criterion) => branches.push(((*target).to_owned(), criterion)),
            Err(issue) if issue.code == UNKNOWN => first_issue = first_issue.or(Some(issue)),
            Err(issue) => return Err(issue),
        }
    }
    match (branches.is_empty(), first_issue) {
        (true, Some(issue)) => Err(issue),
        _ => Ok(Criterion::Chain(Chain { param: param.code, branches })),
    }
}

/// R4 §3.1.1.4.14: `Type:reference:criterion`.
fn has(rtype: &str, name: &str, rest: &str, text: &str, budget: &mut Budget) -> Result<Criterion, Issue> {
    const FORM: &str = "needs the form _has:Type:reference:parameter";
    let mut parts = rest.splitn(3, ':');
    let (Some(of), Some(code), Some(inner)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(wrong("invalid", name, FORM));
    };
    if definitions::resource_type(of).is_none() {
        return Err(wrong("invalid", name, "names an unknown resource type"));
    }
    let param = known(of, code, name)?;
    if param.kind != ParamKind::Reference || !may_lead_to(param, rtype) {
        return Err(wrong("invalid", name, "names a parameter that does not lead here"));
    }
    let criterion = Box::new(step(of, name, inner, text, budget)?);
    Ok(Criterion::Has(Has { rtype: of.to_owned(), param: param.code, criterion }))
}

fn sort(rtype: &str, text: &str) -> Result<Vec<(&'static str, bool)>, Issue> {
    let mut keys = Vec::new();
    for key in text.split(',') {
        let (code, descending) = match key.strip_prefix('-') {
            Some(code) => (code, true),
            None => (key, false),
        };
        let param = params(rtype).iter().find(|p| p.code == code);
        let param = param.filter(|p| !matches!(p.kind, ParamKind::Composite | ParamKind::Special));
        let param = param.ok_or_else(|| wrong("value", "_sort", "needs search parameters that have an order"))?;
        keys.push((param.code, descending));
    }
    match keys.len() <= 8 {
        true => Ok(keys),
        false => Err(wrong("too-costly", "_sort", "takes at most 8 parameters")),
    }
}

fn elements(rtype: &str, text: &str) -> Result<Vec<String>, Issue> {
    let kind = definitions::resource_type(rtype);
    let names = text.split(',').map(|name| {
        let known = name == "resourceType" || kind.is_some_and(|k| k.element(name).is_some());
        known.then(|| name.to_owned()).ok_or_else(|| wrong("value", "_elements", "names an unknown element"))
    });
    names.collect()
}

/// `Type:parameter`, `Type:parameter:Target`, `Type:*` or `*`.
fn include(rtype: &str, name: &str, text: &str) -> Result<Include, Issue> {
    const FORM: &str = "needs the form Type:parameter or Type:parameter:Target";
    let iterate = name.ends_with(":iterate");
    if text == "*" && name.starts_with("_include") {
        return Ok(Include { source: rtype.to_owned(), param: None, target: None, iterate });
    }
    let mut parts = text.split(':');
    let (Some(source), Some(code), target, None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(wrong("value", name, FORM));
    };
    if definitions::resource_type(source).is_none() {
        return Err(wrong("value", name, "names an unknown resource type"));
    }
    if code == "*" && target.is_none() {
        return Ok(Include { source: source.to_owned(), param: None, target: None, iterate });
    }
    let param = param(source, code).filter(|p| p.kind == ParamKind::Reference);
    let param = param.ok_or_else(|| wrong("value", name, "names a parameter that is not a reference"))?;
    if target.is_some_and(|t| !may_lead_to(param, t)) {
        return Err(wrong("value", name, "names a type that the reference cannot lead to"));
    }
    Ok(Include { source: source.to_owned(), param: Some(param.code), target: target.map(str::to_owned), iterate })
}
