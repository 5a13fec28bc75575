//! Transactions and batches as R4 §3.1.0.11 has them: what each entry asks for, the order they are done in, and the
//! identities that references between entries come to.
//!
//! Never stores and never searches: ids and the results of searches come in by closures.

use std::collections::HashMap;

use crate::definitions;
use crate::json::Value;
use crate::reference::{Reference, walk_mut};
use crate::validate::Issue;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BundleKind {
    /// All or nothing; entries may refer to each other.
    Transaction,
    /// Each for itself.
    Batch,
}

/// In the order in which a transaction is done (R4 §3.1.0.11.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    Delete,
    Post,
    Put,
    Patch,
    Get,
    Head,
}

impl Method {
    /// `PUT` and `PATCH` are done at the same step, `GET` and `HEAD` too.
    fn step(self) -> u8 {
        match self {
            Method::Delete => 0,
            Method::Post => 1,
            Method::Put | Method::Patch => 2,
            Method::Get | Method::Head => 3,
        }
    }
}

/// One entry, as it asks.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// Its place in the bundle, from 0; the answer keeps it.
    pub index: usize,
    pub full_url: Option<&'a str>,
    pub method: Method,
    pub url: &'a str,
    /// For POST and PUT, of the type that the URL names.
    pub resource: Option<&'a Value>,
    pub if_none_exist: Option<&'a str>,
    pub if_match: Option<&'a str>,
    pub if_none_match: Option<&'a str>,
    pub if_modified_since: Option<&'a str>,
}

impl<'a> Entry<'a> {
    /// The type that a write is about.
    pub fn rtype(&self) -> Option<&'a str> {
        let end = self.url.find(['/', '?']).unwrap_or(self.url.len());
        Some(&self.url[..end]).filter(|rtype| definitions::resource_type(rtype).is_some())
    }

    /// The id in the URL, `Type/id`.
    pub fn id(&self) -> Option<&'a str> {
        match Reference::parse(self.url) {
            Some(Reference::Local { id, version: None, .. }) => Some(id),
            _ => None,
        }
    }

    /// The criteria of a conditional update or delete, `Type?query`.
    pub fn condition(&self) -> Option<&'a str> {
        match Reference::parse(self.url) {
            Some(Reference::Conditional { query, .. }) => Some(query),
            _ => None,
        }
    }

    fn place(&self) -> String {
        format!("Bundle.entry[{}]", self.index)
    }
}

/// A bundle to be done.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    pub kind: BundleKind,
    /// As they stand in the bundle.
    pub entries: Vec<Entry<'a>>,
}

/// An entry's resource with its id and with references to where the others now are.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    pub index: usize,
    pub rtype: String,
    pub id: String,
    pub resource: Value,
}

/// Reads a transaction or batch. The issues say all that is wrong with its entries.
pub fn read<'a>(bundle: &'a Value, limits: &base::Limits) -> Result<Request<'a>, Vec<Issue>> {
    let one = |code, place: &str, text: &str| Err(vec![Issue::error(code, place, text)]);
    if bundle.get("resourceType").and_then(Value::as_str) != Some("Bundle") {
        return one("invalid", "", "a transaction must be a Bundle");
    }
    let kind = match bundle.get("type").and_then(Value::as_str) {
        Some("transaction") => BundleKind::Transaction,
        Some("batch") => BundleKind::Batch,
        _ => return one("invalid", "Bundle.type", "must be transaction or batch"),
    };
    let entries = bundle.get("entry").map(Value::items).unwrap_or_default();
    if entries.len() > limits.bundle_entries_max {
        return one("too-costly", "Bundle.entry", "has more entries than the limit");
    }
    let (mut read, mut issues) = (Vec::with_capacity(entries.len()), Vec::new());
    for (index, entry) in entries.iter().enumerate() {
        match read_entry(index, entry) {
            Ok(entry) => read.push(entry),
            Err((code, text)) => issues.push(Issue::error(code, format!("Bundle.entry[{index}]"), text)),
        }
    }
    if kind == BundleKind::Transaction {
        issues.extend(same_twice(&read));
    }
    if issues.is_empty() { Ok(Request { kind, entries: read }) } else { Err(issues) }
}

fn read_entry(index: usize, entry: &Value) -> Result<Entry<'_>, (&'static str, &'static str)> {
    let request = entry.get("request").ok_or(("required", "needs a request"))?;
    let text = |name| request.get(name).and_then(Value::as_str);
    let method = match text("method") {
        Some("GET") => Method::Get,
        Some("HEAD") => Method::Head,
        Some("POST") => Method::Post,
        Some("PUT") => Method::Put,
        Some("PATCH") => Method::Patch,
        Some("DELETE") => Method::Delete,
        _ => return Err(("value", "request.method must be GET, HEAD, POST, PUT, PATCH or DELETE")),
    };
    let entry = Entry {
        index,
        full_url: entry.get("fullUrl").and_then(Value::as_str),
        method,
        url: text("url").ok_or(("required", "needs a request.url"))?,
        resource: entry.get("resource"),
        if_none_exist: text("ifNoneExist"),
        if_match: text("ifMatch"),
        if_none_match: text("ifNoneMatch"),
        if_modified_since: text("ifModifiedSince"),
    };
    check(&entry)?;
    Ok(entry)
}

/// Whether the URL and the resource fit the method.
fn check(entry: &Entry<'_>) -> Result<(), (&'static str, &'static str)> {
    if matches!(entry.method, Method::Get | Method::Head) {
        return Ok(());
    }
    let rtype = entry.rtype().ok_or(("value", "request.url must begin with a resource type of FHIR R4"))?;
    let named = entry.id().is_some() || entry.condition().is_some();
    match entry.method {
        Method::Post if entry.url != rtype => return Err(("value", "request.url of a POST must be a resource type")),
        Method::Put | Method::Patch | Method::Delete if !named => {
            return Err(("value", "request.url must be Type/id or Type?criteria"));
        }
        _ => {}
    }
    if matches!(entry.method, Method::Post | Method::Put) {
        let resource = entry.resource.ok_or(("required", "needs a resource"))?;
        if resource.get("resourceType").and_then(Value::as_str) != Some(rtype) {
            return Err(("value", "request.url must name the type of the resource"));
        }
        let given = resource.get("id").and_then(Value::as_str);
        if entry.method == Method::Put && entry.id().is_some() && given != entry.id() {
            return Err(("value", "the id of the resource must be that of request.url"));
        }
    }
    Ok(())
}

/// bdl-7 and R4 §3.1.0.11.2: no identity may stand twice.
fn same_twice(entries: &[Entry<'_>]) -> Vec<Issue> {
    let (mut urls, mut targets) = (HashMap::new(), HashMap::new());
    let mut issues = Vec::new();
    for entry in entries {
        let writes = !matches!(entry.method, Method::Get | Method::Head);
        let seen = entry.full_url.is_some_and(|url| urls.insert(url, ()).is_some());
        let written = writes && entry.id().is_some() && targets.insert(entry.url, ()).is_some();
        if seen {
            issues.push(Issue::error("duplicate", entry.place(), "has the fullUrl of an entry before it"));
        }
        if written {
            issues.push(Issue::error("duplicate", entry.place(), "writes the same resource as an entry before it"));
        }
    }
    issues
}

/// The places of the entries in the order they are to be done: DELETE, POST, PUT and PATCH, GET and HEAD, each as
/// they stand; a batch as it stands.
pub fn order(request: &Request<'_>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..request.entries.len()).collect();
    if request.kind == BundleKind::Transaction {
        order.sort_by_key(|at| request.entries[*at].method.step());
    }
    order
}

/// Gives each POST and PUT of a transaction its id, and turns references to entries, by their `fullUrl`, into
/// `Type/id`. In the order of [`order`].
///
/// `identify` gives the id for a POST (a new one, or that of the match of `ifNoneExist`) and for a conditional PUT;
/// `find` gives the id that a conditional reference, `(type, query)`, leads to. Issues of either end the transaction,
/// as does a `urn:uuid:` or `urn:oid:` reference to no entry.
pub fn resolve(
    request: &Request<'_>,
    identify: &mut dyn FnMut(&Entry<'_>) -> Result<String, Issue>,
    find: &mut dyn FnMut(&str, &str) -> Result<String, Issue>,
) -> Result<Vec<Resolved>, Vec<Issue>> {
    let mut issues = Vec::new();
    let mut resolved = Vec::new();
    let mut places: HashMap<&str, String> = HashMap::new();
    for at in order(request) {
        let entry = &request.entries[at];
        let (Method::Post | Method::Put, Some(resource), Some(rtype)) = (entry.method, entry.resource, entry.rtype())
        else {
            continue;
        };
        let id = match entry.id() {
            Some(id) => id.to_owned(),
            None => match identify(entry) {
                Ok(id) => id,
                Err(issue) => {
                    issues.push(issue);
                    continue;
                }
            },
        };
        if let Some(url) = entry.full_url {
            places.insert(url, format!("{rtype}/{id}"));
        }
        resolved.push(Resolved { index: entry.index, rtype: rtype.to_owned(), id, resource: resource.clone() });
    }
    for one in &mut resolved {
        set_id(&mut one.resource, &one.id);
        rewrite(one, &places, find, &mut issues);
    }
    if issues.is_empty() { Ok(resolved) } else { Err(issues) }
}

/// Puts the id right after `resourceType`, where readers expect it.
fn set_id(resource: &mut Value, id: &str) {
    let Some(object) = resource.as_object_mut() else { return };
    if object.contains_key("id") {
        object.insert("id", id);
        return;
    }
    let members = std::mem::take(object);
    for (key, value) in members {
        let first = key.as_str() == "resourceType";
        object.push(String::from(key), value);
        if first {
            object.push("id", id);
        }
    }
}

/// R4 §3.1.0.11.2: links are replaced in references, in elements of type uri, url, oid and uuid, and in the links of
/// the narrative; not in canonicals.
fn rewrite(
    one: &mut Resolved,
    places: &HashMap<&str, String>,
    find: &mut dyn FnMut(&str, &str) -> Result<String, Issue>,
    issues: &mut Vec<Issue>,
) {
    let index = one.index;
    walk_mut(&mut one.resource, &mut |path, kind, value| match (kind, value) {
        ("Reference", value) => {
            let Some(Value::String(text)) = value.get_mut("reference") else { return };
            let place = || format!("Bundle.entry[{index}].resource.{}.reference", inner(path));
            match new_reference(text, places, find) {
                Ok(Some(new)) => *text = new,
                Ok(None) => {}
                Err(issue) => issues.push(Issue { expression: place(), ..issue }),
            }
        }
        ("uri" | "url" | "oid" | "uuid", Value::String(text)) => {
            if let Some(new) = places.get(text.as_str()) {
                new.clone_into(text);
            }
        }
        ("xhtml", Value::String(text)) => rewrite_links(text, places),
        _ => {}
    });
}

/// The place within the resource, without the name of its type.
fn inner(path: &str) -> &str {
    path.split_once('.').map_or(path, |(_, rest)| rest)
}

fn new_reference(
    text: &str,
    places: &HashMap<&str, String>,
    find: &mut dyn FnMut(&str, &str) -> Result<String, Issue>,
) -> Result<Option<String>, Issue> {
    if let Some(place) = places.get(text) {
        return Ok(Some(place.clone()));
    }
    match Reference::parse(text) {
        Some(Reference::Conditional { rtype, query }) => find(rtype, query).map(|id| Some(format!("{rtype}/{id}"))),
        Some(Reference::Urn(urn)) if urn.starts_with("urn:uuid:") || urn.starts_with("urn:oid:") => {
            Err(Issue::error("not-found", "", "refers to an entry that is not in the transaction"))
        }
        _ => Ok(None),
    }
}

/// The targets of `href` and `src` in a narrative.
fn rewrite_links(text: &mut String, places: &HashMap<&str, String>) {
    if !text.contains("href") && !text.contains("src") {
        return;
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find('=') {
        let (before, after) = rest.split_at(at + 1);
        out.push_str(before);
        rest = after;
        let name = before[..at].trim_end();
        let Some((target, end)) = quoted(after).filter(|_| name.ends_with("href") || name.ends_with("src")) else {
            continue;
        };
        if let Some(new) = places.get(target) {
            out.push_str(&after[..end - target.len()]);
            out.push_str(new);
            rest = &after[end..];
        }
    }
    out.push_str(rest);
    *text = out;
}

/// The text in quotes that stands first in `text`, after white space, and where it ends.
fn quoted(text: &str) -> Option<(&str, usize)> {
    let inner = text.trim_start();
    let quote = inner.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let from = text.len() - inner.len() + 1;
    let length = text[from..].find(quote)?;
    Some((&text[from..from + length], from + length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::to_string;

    fn limits() -> base::Limits {
        base::Limits::default()
    }

    fn transaction() -> Value {
        json!({
            "resourceType": "Bundle",
            "type": "transaction",
            "entry": [
                {"request": {"method": "GET", "url": "Patient?name=x"}},
                {
                    "fullUrl": "urn:uuid:0b",
                    "resource": {
                        "resourceType": "Observation",
                        "subject": {"reference": "urn:uuid:0a"},
                        "performer": [{"reference": "Practitioner?identifier=s|1"}, {"reference": "Organization/7"}],
                        "instantiatesUri": "no element of this type",
                        "text": {"status": "generated", "div": "<div><p title='it'>it's</p><a href=\"urn:uuid:0a\">x</a> \"urn:uuid:0a\"</div>"},
                        "extension": [{"url": "u", "valueUri": "urn:uuid:0a"}, {"url": "u", "valueCanonical": "urn:uuid:0a"}],
                    },
                    "request": {"method": "POST", "url": "Observation"},
                },
                {
                    "fullUrl": "http://x/Patient/p1",
                    "resource": {"resourceType": "Patient", "id": "p1"},
                    "request": {"method": "PUT", "url": "Patient/p1", "ifMatch": "W/\"1\""},
                },
                {"request": {"method": "DELETE", "url": "Condition/c1"}},
                {
                    "fullUrl": "urn:uuid:0a",
                    "resource": {"resourceType": "Patient", "id": "old", "link": [{"other": {"reference": "http://x/Patient/p1"}}]},
                    "request": {"method": "POST", "url": "Patient", "ifNoneExist": "identifier=1"},
                },
            ],
        })
    }

    #[test]
    fn a_transaction_is_ordered_and_its_references_resolved() {
        let bundle = transaction();
        let request = read(&bundle, &limits()).unwrap();
        assert_eq!(order(&request), [3, 1, 4, 2, 0]);
        let mut count = 0;
        let mut identify = |entry: &Entry<'_>| {
            count += 1;
            assert_eq!(entry.if_none_exist.is_some(), entry.index == 4);
            Ok(format!("n{count}"))
        };
        let mut find = |rtype: &str, query: &str| {
            assert_eq!((rtype, query), ("Practitioner", "identifier=s|1"));
            Ok("dr".to_owned())
        };
        let resolved = resolve(&request, &mut identify, &mut find).unwrap();
        let shown: Vec<_> = resolved.iter().map(|r| (r.index, r.rtype.as_str(), r.id.as_str())).collect();
        assert_eq!(shown, [(1, "Observation", "n1"), (4, "Patient", "n2"), (2, "Patient", "p1")]);
        let observation = to_string(&resolved[0].resource);
        for part in [
            r#"{"resourceType":"Observation","id":"n1","subject":{"reference":"Patient/n2"}"#,
            r#"{"reference":"Practitioner/dr"},{"reference":"Organization/7"}"#,
            r#"<p title='it'>it's</p><a href=\"Patient/n2\">x</a> \"urn:uuid:0a\"</div>"#,
            r#""valueUri":"Patient/n2""#,
            r#""valueCanonical":"urn:uuid:0a""#,
        ] {
            assert!(observation.contains(part), "{part} in {observation}");
        }
        let patient = to_string(&resolved[1].resource);
        let want = r#"{"resourceType":"Patient","id":"n2","link":[{"other":{"reference":"Patient/p1"}}]}"#;
        assert_eq!(patient, want);
    }

    #[test]
    fn a_reference_to_no_entry_ends_the_transaction() {
        let mut bundle = transaction();
        bundle.get_mut("entry").and_then(Value::as_array_mut).unwrap().pop();
        let request = read(&bundle, &limits()).unwrap();
        let issues = resolve(&request, &mut |_| Ok("n".into()), &mut |_, _| Ok("dr".into())).unwrap_err();
        assert_eq!(issues.len(), 1);
        assert_eq!(issues[0].expression, "Bundle.entry[1].resource.subject.reference");
    }

    #[test]
    fn entries_that_cannot_be_done_are_refused() {
        let patient = || json!({"resourceType": "Patient", "id": "1"});
        for (entry, text) in [
            (json!({}), "needs a request"),
            (json!({"request": {"method": "BREW", "url": "Patient"}}), "request.method"),
            (json!({"request": {"method": "POST"}}), "request.url"),
            (json!({"request": {"method": "POST", "url": "Patient"}}), "needs a resource"),
            (json!({"request": {"method": "POST", "url": "Patient/1"}, "resource": patient()}), "POST must be"),
            (json!({"request": {"method": "POST", "url": "Device"}, "resource": patient()}), "name the type"),
            (json!({"request": {"method": "POST", "url": "Thing"}, "resource": patient()}), "begin with"),
            (json!({"request": {"method": "PUT", "url": "Patient/2"}, "resource": patient()}), "the id of"),
            (json!({"request": {"method": "PUT", "url": "Patient"}, "resource": patient()}), "Type/id"),
            (json!({"request": {"method": "DELETE", "url": "Patient"}}), "Type/id"),
        ] {
            let bundle = json!({"resourceType": "Bundle", "type": "batch", "entry": [entry]});
            let issues = read(&bundle, &limits()).unwrap_err();
            assert!(issues[0].text.contains(text), "{} for {text}", issues[0]);
        }
        let twice = json!({"fullUrl": "urn:uuid:1", "request": {"method": "DELETE", "url": "Patient/1"}});
        let bundle = json!({"resourceType": "Bundle", "type": "transaction", "entry": [twice.clone(), twice]});
        assert_eq!(read(&bundle, &limits()).unwrap_err().len(), 2);
        let few = base::Limits { bundle_entries_max: 1, ..limits() };
        assert_eq!(read(&transaction(), &few).unwrap_err()[0].code, "too-costly");
        let collection = json!({"resourceType": "Bundle", "type": "collection"});
        assert_eq!(read(&collection, &limits()).unwrap_err()[0].expression, "Bundle.type");
    }
}
