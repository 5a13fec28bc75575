//! Terminology operations on the ValueSets, CodeSystems and ConceptMaps of a domain: `$expand`, `$validate-code`,
//! `$lookup`, `$subsumes`, `$translate` (R4 §4.7 to §4.9). What is asked with is looked up under a permit for these types;
//! what it means is `fhir::terminology`'s. Codes never reach logs, errors or the audit record.

use std::collections::HashSet;

use axum::http::StatusCode;
use base::{DomainName, Layer, LogicalId, Permit, Read};
use fhir::json;
use fhir::json::{Object, Value};
use fhir::search::{Clause, ClauseValue, ParamKind, Query};
use fhir::terminology::{self, Coding, Loaded, Options, System, TermError, Terms, split_canonical};
use gate::{Access, Held, Outcome};
use policy::Action;
use store::StoreError;

use super::arguments::Arguments;
use crate::doors::{Call, Doors};
use crate::fhir::read::value_of;
use crate::fhir::{Answer, FHIR_JSON, FhirError};
use crate::outgoing::{Draft, Outgoing};

/// Codings of one question.
const CODINGS_MAX: usize = 100;

/// One question, with the permit under which it looks up what it needs.
struct Desk<'a> {
    doors: &'a Doors,
    domain: &'a DomainName,
    permit: Permit<Read>,
    rtype: &'static str,
    arguments: &'a Arguments,
    loaded: Loaded,
    asked: HashSet<(&'static str, String)>,
    /// Resources that were read for it.
    rows: usize,
}

fn bad(code: &'static str, text: impl Into<String>) -> FhirError {
    FhirError::new(StatusCode::BAD_REQUEST, code, text)
}

impl From<TermError> for FhirError {
    fn from(error: TermError) -> Self {
        let status = if error.code == "invalid" { StatusCode::BAD_REQUEST } else { StatusCode::UNPROCESSABLE_ENTITY };
        FhirError::new(status, error.code, error.text)
    }
}

/// `None` where the type has no such operation.
pub async fn run(
    doors: &Doors,
    call: &Call,
    domain: &DomainName,
    (rtype, name): (&str, &str),
    id: Option<&LogicalId>,
    arguments: &Arguments,
) -> Option<Answer> {
    let rtype = ["ValueSet", "CodeSystem", "ConceptMap"].into_iter().find(|known| *known == rtype)?;
    let known: &[&str] = match (rtype, name) {
        ("ValueSet", "expand") => &[
            "url",
            "valueSet",
            "valueSetVersion",
            "filter",
            "offset",
            "count",
            "includeDesignations",
            "activeOnly",
            "displayLanguage",
            "excludeNested",
        ],
        ("ValueSet", "validate-code") => &[
            "url",
            "valueSet",
            "valueSetVersion",
            "code",
            "system",
            "systemVersion",
            "display",
            "coding",
            "codeableConcept",
        ],
        ("CodeSystem", "validate-code") => {
            &["url", "codeSystem", "code", "version", "display", "coding", "codeableConcept"]
        }
        ("CodeSystem", "lookup") if id.is_none() => {
            &["code", "system", "version", "coding", "property", "displayLanguage"]
        }
        ("CodeSystem", "subsumes") => &["codeA", "codeB", "system", "version", "codingA", "codingB"],
        ("ConceptMap", "translate") => &[
            "url",
            "conceptMap",
            "conceptMapVersion",
            "code",
            "system",
            "version",
            "coding",
            "codeableConcept",
            "targetsystem",
            "reverse",
        ],
        _ => return None,
    };
    Some(answer(doors, call, domain, (rtype, name), id, (arguments, known)).await)
}

async fn answer(
    doors: &Doors,
    call: &Call,
    domain: &DomainName,
    (rtype, name): (&'static str, &str),
    id: Option<&LogicalId>,
    (arguments, known): (&Arguments, &[&str]),
) -> Answer {
    let unknown =
        arguments.names().any(|given| !known.contains(&given) && !matches!(given, "resource" | "_format" | "_pretty"));
    if unknown {
        return Err(bad("not-supported", format!("${name} takes {} here", known.join(", "))));
    }
    let ask = call.ask(Action::Read, domain, Layer::Silver).kind(rtype);
    // What a value set is made of is read with it.
    let ask = if rtype == "ValueSet" { ask.kind("CodeSystem") } else { ask };
    let permit = doors.gate.permit::<Read>(&call.caller, ask).await?;
    let mut desk =
        Desk { doors, domain, permit, rtype, arguments, loaded: Loaded::default(), asked: HashSet::new(), rows: 0 };
    let made = match (rtype, name) {
        ("ValueSet", "expand") => desk.expand(id).await,
        ("ValueSet", _) => desk.validate_in_set(id).await,
        ("CodeSystem", "lookup") => desk.lookup().await,
        ("CodeSystem", "subsumes") => desk.subsumes(id).await,
        ("CodeSystem", _) => desk.validate_in_system(id).await,
        _ => desk.translate(id).await,
    };
    let access = Access::of(&desk.permit, Action::Read, &call.origin).what(format!("{name} {rtype}"));
    let value = match made {
        Ok(value) => value,
        // What was looked at and did not help is on record too.
        Err(error) => {
            let outcome = if error.status == StatusCode::NOT_FOUND { Outcome::NotFound } else { Outcome::Failed };
            doors.gate.release(&call.caller, access.outcome(outcome)).await?;
            return Err(error);
        }
    };
    let held = Held::under(&desk.permit, Draft::new(StatusCode::OK, FHIR_JSON, fhir::json::to_vec(&value)));
    let release = doors.gate.release(&call.caller, access.rows(desk.rows as u64)).await?;
    Outgoing::data(held, release).map_err(|_| FhirError::unavailable("the answer could not be released"))
}

impl Desk<'_> {
    /// The resource that is asked about: the instance, the one that was sent, or the one of a URL.
    async fn root(&mut self, id: Option<&LogicalId>, sent: &str, version: &str) -> Result<Value, FhirError> {
        if let Some(id) = id {
            let found = match self.doors.silver.read(&self.permit, self.domain, self.rtype, id).await {
                Err(StoreError::NotCovered(_)) => None,
                other => other?.filter(|resource| !resource.deleted),
            };
            let resource = found.ok_or_else(FhirError::not_found)?;
            self.rows += 1;
            return value_of(self.doors, &self.permit, &resource);
        }
        if let Some(sent) = self.arguments.resource(sent).or(self.arguments.resource("resource")) {
            return match sent.get("resourceType").and_then(Value::as_str) == Some(self.rtype) {
                true => Ok(sent.clone()),
                false => Err(bad("invalid", format!("the resource that was sent is no {}", self.rtype))),
            };
        }
        let missing = || bad("required", format!("name the {} by its url, its id, or send it", self.rtype));
        let url = self.arguments.text("url").ok_or_else(missing)?;
        let canonical = versioned(url, self.arguments.text(version));
        self.by_url(self.rtype, &canonical).await
    }

    async fn by_url(&mut self, rtype: &'static str, canonical: &str) -> Result<Value, FhirError> {
        self.find(rtype, vec![split_canonical(canonical).0.to_owned()]).await?;
        self.loaded.find(rtype, canonical).cloned().ok_or_else(FhirError::not_found)
    }

    /// Loads the resources of a type with these URLs, the oldest first, so that the newest counts.
    async fn find(&mut self, rtype: &'static str, urls: Vec<String>) -> Result<Vec<(&'static str, String)>, FhirError> {
        let max = self.doors.limits.terminology_resources_max;
        let param = fhir::search::param(rtype, "url");
        let Some(param) = param else { return Ok(Vec::new()) };
        let values = urls.iter().cloned().map(ClauseValue::Uri).collect();
        let clause = Clause { param: param.code, kind: ParamKind::Uri, modifier: None, values };
        self.asked.extend(urls.into_iter().map(|url| (rtype, url)));
        let query = Query {
            rtype: rtype.to_owned(),
            clauses: vec![clause],
            sort: vec![("_lastUpdated", false)],
            count: Some(max + 1),
            ..Query::default()
        };
        self.take(query).await
    }

    /// Loads what a search finds; what that refers to and is not here yet.
    async fn take(&mut self, query: Query) -> Result<Vec<(&'static str, String)>, FhirError> {
        let max = self.doors.limits.terminology_resources_max;
        let page = self.doors.silver.search(&self.permit, self.domain, &query).await?;
        self.rows += page.resources.len();
        if self.rows > max || page.next.is_some() {
            return Err(StoreError::TooMany { what: "terminology resources for one question", max }.into());
        }
        let mut wanted = Vec::new();
        for resource in &page.resources {
            let value = value_of(self.doors, &self.permit, resource)?;
            wanted.extend(self.loaded.wanted(&value));
            self.loaded.add(value);
        }
        Ok(wanted)
    }

    /// Loads all that a resource refers to, and so on: one search for each type and round.
    async fn complete(&mut self, root: &Value) -> Result<(), FhirError> {
        let mut wanted = self.loaded.wanted(root);
        while !wanted.is_empty() {
            let mut next = Vec::new();
            for rtype in ["ValueSet", "CodeSystem", "ConceptMap"] {
                let of_type =
                    wanted.iter().filter(|(of, url)| *of == rtype && !self.asked.contains(&(rtype, url.clone())));
                let urls: HashSet<String> = of_type.map(|(_, url)| url.clone()).collect();
                if !urls.is_empty() {
                    next.extend(self.find(rtype, urls.into_iter().collect()).await?);
                }
            }
            wanted = next;
        }
        Ok(())
    }

    /// Whom the question is about: one code, a coding, or any coding of a concept.
    fn codings(&self, version: &str) -> Result<Vec<Coding>, FhirError> {
        let text = |name: &str| self.arguments.text(name).map(str::to_owned);
        let mut codings: Vec<Coding> = Vec::new();
        if let Some(code) = text("code") {
            codings.push(Coding { system: text("system"), version: text(version), code, display: text("display") });
        }
        if let Some(coding) = self.arguments.value("coding") {
            codings.push(Coding::of(coding).ok_or_else(|| bad("invalid", "the coding needs a code"))?);
        }
        if let Some(concept) = self.arguments.value("codeableConcept") {
            let of_concept = concept.get("coding").map(Value::items).unwrap_or_default();
            codings.extend(of_concept.iter().filter_map(Coding::of));
        }
        match codings.len() {
            0 => {
                Err(bad("required", "name what is asked about: a code with its system, a coding or a codeableConcept"))
            }
            1..=CODINGS_MAX => Ok(codings),
            _ => Err(bad("too-costly", format!("at most {CODINGS_MAX} codings are taken"))),
        }
    }

    async fn expand(&mut self, id: Option<&LogicalId>) -> Result<Value, FhirError> {
        let arguments = self.arguments;
        let options = Options {
            filter: arguments.text("filter").map(str::to_owned),
            offset: arguments.number("offset")?.unwrap_or(0),
            count: arguments.number("count")?,
            active_only: arguments.truth("activeOnly")?.unwrap_or(false),
            designations: arguments.truth("includeDesignations")?.unwrap_or(false),
            language: arguments.text("displayLanguage").map(str::to_owned),
            concepts_max: self.doors.limits.expansion_concepts_max,
        };
        let mut root = self.root(id, "valueSet", "valueSetVersion").await?;
        self.complete(&root).await?;
        let terms = Terms::new(&self.loaded, &[&root]);
        let expansion = terminology::expand(&terms, &root, &options)?;
        let mut parameters: Vec<Value> =
            expansion.used.iter().map(|used| json!({ "name": "version", "valueUri": (used.as_str()) })).collect();
        if let Some(count) = options.count {
            parameters.push(json!({ "name": "count", "valueInteger": (count as i64) }));
        }
        let mut said = Object::default();
        said.insert("timestamp", self.doors.clock.now().to_string());
        said.insert("total", expansion.total);
        said.insert("offset", options.offset);
        if !parameters.is_empty() {
            said.insert("parameter", Value::Array(parameters));
        }
        if !expansion.contains.is_empty() {
            said.insert("contains", Value::Array(expansion.contains));
        }
        // R4 valueset-operation-expand, includeDefinition: the definition is left out.
        if let Some(set) = root.as_object_mut() {
            set.remove("compose");
            set.remove("text");
            set.insert("expansion", Value::Object(said));
        }
        Ok(root)
    }

    async fn validate_in_set(&mut self, id: Option<&LogicalId>) -> Result<Value, FhirError> {
        let codings = self.codings("systemVersion")?;
        if codings.iter().all(|coding| coding.system.is_none()) {
            return Err(bad("required", "a code is asked about with its system"));
        }
        let root = self.root(id, "valueSet", "valueSetVersion").await?;
        self.complete(&root).await?;
        let terms = Terms::new(&self.loaded, &[&root]);
        let mut verdict = None;
        for coding in &codings {
            let Some(display) = terms.validate(&root, coding)? else { continue };
            let fits = match coding.display.as_deref() {
                Some(shown) => terms.is_display(&root, coding, shown)?,
                None => true,
            };
            verdict = Some((fits, display));
            if fits {
                break;
            }
        }
        Ok(said(verdict, "none of the codes is in the value set"))
    }

    async fn validate_in_system(&mut self, id: Option<&LogicalId>) -> Result<Value, FhirError> {
        let codings = self.codings("version")?;
        let root = self.root(id, "codeSystem", "version").await?;
        let system = System::of(&root);
        let mut verdict = None;
        for coding in codings.iter().filter(|coding| coding.system.as_deref().is_none_or(|url| url == system.url)) {
            let Some(concept) = system.find(&coding.code) else { continue };
            let fits = coding.display.as_deref().is_none_or(|shown| system.is_display(concept, shown));
            verdict = Some((fits, concept.display.unwrap_or_default().to_owned()));
            if fits {
                break;
            }
        }
        if verdict.is_none() {
            // What is not in a part of a system may be in the rest.
            system.check_complete()?;
        }
        Ok(said(verdict, "none of the codes is in the code system"))
    }

    async fn lookup(&mut self) -> Result<Value, FhirError> {
        let codings = self.codings("version")?;
        let [coding] = codings.as_slice() else { return Err(bad("invalid", "one code is looked up at a time")) };
        let url = coding.system.as_deref().ok_or_else(|| bad("required", "a code is looked up with its system"))?;
        let root = self.by_url("CodeSystem", &versioned(url, coding.version.as_deref())).await?;
        let system = System::of(&root);
        let concept = system.find(&coding.code).ok_or_else(|| {
            FhirError::new(StatusCode::NOT_FOUND, "not-found", "the code is not in the code system that is loaded here")
        })?;
        let asked: HashSet<&str> = self.arguments.texts("property").into_iter().collect();
        let wanted = |name: &str| asked.is_empty() || asked.contains(name);
        let language = self.arguments.text("displayLanguage");
        let designations = concept.value.get("designation").map(Value::items).unwrap_or_default();
        let in_language =
            designations.iter().find(|of| language.is_some() && of.get("language").and_then(Value::as_str) == language);
        let display = in_language.and_then(|of| of.get("value")).and_then(Value::as_str).or(concept.display);
        let name = ["title", "name", "url"].iter().find_map(|name| root.get(name).and_then(Value::as_str));
        let mut out = vec![parameter("name", "valueString", name.unwrap_or_default())];
        out.extend(system.version.map(|version| parameter("version", "valueString", version)));
        // R4 has it 1..1: where there is no display the code stands for itself.
        out.push(parameter("display", "valueString", display.unwrap_or(concept.code)));
        for designation in designations.iter().filter(|_| wanted("designation")) {
            let parts = [("language", "valueCode"), ("use", "valueCoding"), ("value", "valueString")].into_iter();
            let parts = parts.filter_map(|(name, kind)| Some(parameter(name, kind, designation.get(name)?)));
            out.push(json!({ "name": "designation", "part": (parts.collect::<Value>()) }));
        }
        let mut properties: Vec<(&str, &str, Value)> = Vec::new();
        if let Some(definition) = concept.value.get("definition") {
            properties.push(("definition", "valueString", definition.clone()));
        }
        properties.extend(system.parents(concept).map(|parent| ("parent", "valueCode", Value::from(parent.code))));
        properties.extend(system.children(concept).map(|child| ("child", "valueCode", Value::from(child.code))));
        properties.push(("inactive", "valueBoolean", Value::from(concept.is_inactive)));
        let own = concept.value.get("property").map(Value::items).unwrap_or_default();
        for property in own {
            let code = property.get("code").and_then(Value::as_str).unwrap_or_default();
            let members = property.as_object().into_iter().flat_map(|object| object.iter());
            let value = members.into_iter().find(|(member, _)| member.starts_with("value"));
            if let (Some((kind, value)), false) = (value, matches!(code, "parent" | "child" | "inactive")) {
                properties.push((code, kind, value.clone()));
            }
        }
        for (code, kind, value) in properties.into_iter().filter(|(code, ..)| wanted(code)) {
            let parts = json!([(parameter("code", "valueCode", code)), (parameter("value", kind, value))]);
            out.push(json!({ "name": "property", "part": (parts) }));
        }
        Ok(parameters(out))
    }

    async fn subsumes(&mut self, id: Option<&LogicalId>) -> Result<Value, FhirError> {
        let one = |letter: char| -> Result<Coding, FhirError> {
            let (code, coding) = (format!("code{letter}"), format!("coding{letter}"));
            let text = |name: &str| self.arguments.text(name).map(str::to_owned);
            let of_code = text(&code).map(|code| Coding {
                system: text("system"),
                version: text("version"),
                code,
                display: None,
            });
            let of_coding = self.arguments.value(&coding).and_then(Coding::of);
            of_code.or(of_coding).ok_or_else(|| bad("required", format!("name {code}, or {coding} with a code")))
        };
        let (a, b) = (one('A')?, one('B')?);
        if a.system != b.system {
            return Err(bad("invalid", "both codes must be of one system"));
        }
        let root = match (id, a.system.as_deref()) {
            (Some(_), _) => self.root(id, "", "").await?,
            (None, Some(url)) => self.by_url("CodeSystem", &versioned(url, a.version.as_deref())).await?,
            (None, None) => return Err(bad("required", "codes are compared within their system")),
        };
        let system = System::of(&root);
        if a.system.as_deref().is_some_and(|url| url != system.url) {
            return Err(bad("invalid", "the codes are not of this system"));
        }
        let relation = system.relation(&a.code, &b.code).ok_or_else(|| {
            FhirError::new(
                StatusCode::NOT_FOUND,
                "not-found",
                "one of the codes is not in the code system that is loaded here",
            )
        })?;
        Ok(parameters(vec![parameter("outcome", "valueCode", relation.code())]))
    }

    async fn translate(&mut self, id: Option<&LogicalId>) -> Result<Value, FhirError> {
        let codings = self.codings("version")?;
        let target = self.arguments.text("targetsystem");
        let reverse = self.arguments.truth("reverse")?.unwrap_or(false);
        let arguments = self.arguments;
        let named = id.is_some() || ["conceptMap", "resource"].iter().any(|name| arguments.resource(name).is_some());
        let maps = if named || arguments.text("url").is_some() {
            vec![self.root(id, "conceptMap", "conceptMapVersion").await?]
        } else {
            self.maps_of(&codings, target, reverse).await?
        };
        let mut matches = Vec::new();
        let mut succeeds = false;
        for map in &maps {
            self.complete(map).await?;
            for coding in &codings {
                let translation = terminology::translate(&self.loaded, map, coding, target, reverse)?;
                succeeds |= translation.succeeds();
                matches.extend(translation.matches);
            }
        }
        let mut out = vec![parameter("result", "valueBoolean", succeeds)];
        if !succeeds {
            out.push(parameter("message", "valueString", "no map that is loaded here has a translation"));
        }
        for found in matches {
            let mut parts = vec![
                parameter("equivalence", "valueCode", found.equivalence.as_str()),
                parameter("concept", "valueCoding", found.concept.value()),
            ];
            for product in &found.products {
                let text = |name: &str| product.get(name).and_then(Value::as_str);
                let coding =
                    json!({ "system": (text("system")), "code": (text("value")), "display": (text("display")) });
                let element = parameter("element", "valueUri", text("property").unwrap_or_default());
                let product = json!([(element), (parameter("concept", "valueCoding", without_nulls(coding)))]);
                parts.push(json!({ "name": "product", "part": (product) }));
            }
            parts.extend(found.source.as_deref().map(|url| parameter("source", "valueUri", url)));
            out.push(json!({ "name": "match", "part": (Value::Array(parts)) }));
        }
        Ok(parameters(out))
    }

    /// Without a map that is named, all that lead from the system of a code (to the target system).
    async fn maps_of(
        &mut self,
        codings: &[Coding],
        target: Option<&str>,
        reverse: bool,
    ) -> Result<Vec<Value>, FhirError> {
        let (own, other) =
            if reverse { ("target-system", "source-system") } else { ("source-system", "target-system") };
        let clause = |code: &str, urls: Vec<String>| {
            let param = fhir::search::param("ConceptMap", code)?;
            let values = urls.into_iter().map(ClauseValue::Uri).collect();
            Some(Clause { param: param.code, kind: param.kind, modifier: None, values })
        };
        let systems: Vec<String> = codings.iter().filter_map(|coding| coding.system.clone()).collect();
        if systems.is_empty() {
            return Err(bad("required", "name the map by its url, or the system of the code"));
        }
        let mut clauses: Vec<Clause> = clause(own, systems).into_iter().collect();
        clauses.extend(target.and_then(|target| clause(other, vec![target.to_owned()])));
        let max = self.doors.limits.terminology_resources_max;
        let query = Query { rtype: "ConceptMap".to_owned(), clauses, count: Some(max + 1), ..Query::default() };
        let page = self.doors.silver.search(&self.permit, self.domain, &query).await?;
        self.rows += page.resources.len();
        if self.rows > max {
            return Err(StoreError::TooMany { what: "maps for one question", max }.into());
        }
        page.resources.iter().map(|resource| value_of(self.doors, &self.permit, resource)).collect()
    }
}

fn versioned(url: &str, version: Option<&str>) -> String {
    match (split_canonical(url), version) {
        ((_, None), Some(version)) => format!("{url}|{version}"),
        _ => url.to_owned(),
    }
}

fn parameter(name: &str, kind: &str, value: impl Into<Value>) -> Value {
    let mut parameter = Object::default();
    parameter.insert("name", name);
    parameter.insert(kind, value.into());
    Value::Object(parameter)
}

fn parameters(all: Vec<Value>) -> Value {
    json!({ "resourceType": "Parameters", "parameter": (Value::Array(all)) })
}

fn without_nulls(mut value: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.retain(|_, member| !member.is_null());
    }
    value
}

/// The answer of `$validate-code`: found, and whether its display is right.
fn said(verdict: Option<(bool, String)>, not_found: &str) -> Value {
    let (result, message, display) = match verdict {
        None => (false, Some(not_found), None),
        Some((false, display)) => (false, Some("the display is not one of this code"), Some(display)),
        Some((true, display)) => (true, None, Some(display)),
    };
    let mut all = vec![parameter("result", "valueBoolean", result)];
    all.extend(message.map(|message| parameter("message", "valueString", message)));
    all.extend(
        display.filter(|display| !display.is_empty()).map(|display| parameter("display", "valueString", display)),
    );
    parameters(all)
}
