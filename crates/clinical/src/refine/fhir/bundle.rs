//! Transactions, all or nothing in the specification's order, and batches, each entry by itself (R4 §3.1.0.11). Entries
//! that read are passed over: the door answers them when the writes are done, each under a permit of its own.

use std::collections::{HashMap, HashSet};

use base::LogicalId;
use fhir::json::{Object, ParseLimits, Value};
use fhir::patch::Patch;
use fhir::reference::Reference;
use store::{Outcome, StoreError};

use super::answer::{bundle_outcome, done_entry, refused_entry};
use super::{
    Entry, Failure, Interaction, Refused, Target, Work, Writing, matches, parse_etag, refuse, refused_outcome,
    refusing_issue, resolve_target, single, write,
};
use crate::refine::work::Stage;

pub async fn apply(work: &mut Work<'_>, writing: &Writing<'_>, bundle: Value) -> Result<Outcome, StoreError> {
    if bundle.get("type").and_then(Value::as_str) == Some("batch") {
        return batch(work, writing, &bundle).await;
    }
    let mut stage = work.stage(writing.index, writing.received);
    match transaction(&mut stage, writing, &bundle).await {
        Ok(response) => {
            stage.keep();
            Ok(bundle_outcome("transaction-response", response))
        }
        Err(Failure::Refused(refused)) => {
            stage.discard();
            Ok(refused_outcome(&refused))
        }
        Err(Failure::Store(error)) => Err(error),
    }
}

/// An entry with its place in the Bundle and what it writes to.
struct Placed {
    n: usize,
    entry: Entry,
    target: Target,
    ordinal: Option<base::Ordinal>,
}

async fn transaction(stage: &mut Stage<'_, '_>, writing: &Writing<'_>, bundle: &Value) -> Result<Vec<Value>, Failure> {
    let count = bundle.get("entry").map_or(0, |entries| entries.items().len());
    let mut placed = Vec::with_capacity(count);
    let mut urls: HashMap<String, String> = HashMap::new();
    for n in 0..count {
        let Some(entry) = bundle_entry(bundle, n)? else { continue };
        let target = resolve_target(stage, writing, n as u32, &entry).await?;
        if let (Some(url), Some(id)) = (&entry.full_url, target.id()) {
            let local = format!("{}/{id}", entry.rtype);
            if urls.insert(url.clone(), local.clone()).is_some_and(|earlier| earlier != local) {
                return refuse(400, "duplicate", &*entry.at, "two entries have the same fullUrl");
            }
        }
        placed.push(Placed { n, entry, target, ordinal: None });
    }
    refuse_same_target(&placed)?;
    for placed in &mut placed {
        rewrite_references(stage, writing, &mut placed.entry, &urls).await?;
    }
    // Patients first, so that what refers to them finds its source record; then R4 §3.1.0.11.2's order.
    for placed in &mut placed {
        let makes = matches!(placed.entry.interaction, Interaction::Create | Interaction::Update);
        if let (true, "Patient", Some(id)) = (makes, placed.entry.rtype.as_str(), placed.target.id()) {
            let before = stage.current("Patient", id).await?;
            placed.ordinal = Some(match before {
                Some(state) => state.patient,
                None => stage.new_patient(),
            });
        }
    }
    placed.sort_by_key(|placed| {
        let step = match placed.entry.interaction {
            Interaction::Delete => 0,
            Interaction::Create => 1,
            Interaction::Update | Interaction::Patch | Interaction::Bundle => 2,
        };
        (step, placed.entry.rtype != "Patient", placed.n)
    });
    let mut answers = vec![Value::Object(Object::default()); count];
    for Placed { n, entry, target, ordinal } in placed {
        answers[n] = done_entry(&write(stage, writing, entry, target, ordinal).await?);
    }
    Ok(answers)
}

/// "If any resource identities overlap in steps 1-3, the transaction fails" (R4 §3.1.0.11.2). Two creates under one
/// condition without a match would be two resources that meet it.
fn refuse_same_target(placed: &[Placed]) -> Result<(), Failure> {
    let (mut seen, mut conditions) = (HashSet::new(), HashSet::new());
    for Placed { entry, target, .. } in placed {
        let Target::To(id) = target else { continue };
        let criteria = entry.if_none_exist.as_ref().or(entry.criteria.as_ref());
        let twice = criteria.is_some_and(|criteria| !conditions.insert((&entry.rtype, criteria)));
        if twice || !seen.insert((&entry.rtype, id)) {
            return refuse(400, "duplicate", &*entry.at, "two entries change the same resource");
        }
    }
    Ok(())
}

async fn batch(work: &mut Work<'_>, writing: &Writing<'_>, bundle: &Value) -> Result<Outcome, StoreError> {
    let count = bundle.get("entry").map_or(0, |entries| entries.items().len());
    let mut answers = Vec::with_capacity(count);
    for n in 0..count {
        // The door looks at a batch as a whole only: each entry is checked here, and answered by itself.
        let entry = bundle_entry(bundle, n).and_then(|entry| match &entry {
            Some(Entry { content, interaction: Interaction::Create | Interaction::Update, .. }) => {
                match refusing_issue(content) {
                    Some(issue) => Err(Failure::Refused(Refused { status: 422, issue })),
                    None => Ok(entry),
                }
            }
            _ => Ok(entry),
        });
        let mut stage = work.stage(writing.index, writing.received);
        let (result, made) = match entry {
            Ok(None) => {
                answers.push(Value::Object(Object::default()));
                continue;
            }
            Ok(Some(entry)) => {
                let criteria = entry.if_none_exist.clone().or_else(|| entry.criteria.clone());
                let made = criteria.map(|criteria| (entry.rtype.clone(), criteria));
                (single(&mut stage, writing, n as u32, entry).await, made)
            }
            Err(failure) => (Err(failure), None),
        };
        match result {
            Ok(done) => {
                stage.keep();
                if let (Some(condition), Some((id, _)), 201) = (made, &done.at, done.status) {
                    work.made.insert(condition, id.clone());
                }
                answers.push(done_entry(&done));
            }
            Err(Failure::Refused(refused)) => {
                stage.discard();
                answers.push(refused_entry(&refused));
            }
            Err(Failure::Store(error)) => return Err(error),
        }
    }
    Ok(bundle_outcome("batch-response", answers))
}

/// Reads `Bundle.entry[n]`: its request, resource and fullUrl. `None` where it reads and writes nothing.
fn bundle_entry(bundle: &Value, n: usize) -> Result<Option<Entry>, Failure> {
    let at = format!("Bundle.entry[{n}]");
    let entry = bundle.get("entry").and_then(|entries| entries.items().get(n)).unwrap_or(&Value::Null);
    let text = |name: &str| entry.path(&["request", name]).and_then(Value::as_str);
    let interaction = match text("method") {
        Some("GET" | "HEAD") => return Ok(None),
        Some("POST") => Interaction::Create,
        Some("PUT") => Interaction::Update,
        Some("PATCH") => Interaction::Patch,
        Some("DELETE") => Interaction::Delete,
        _ => return refuse(400, "required", format!("{at}.request.method"), "request.method is missing or unknown"),
    };
    let (rtype, id, criteria) = target_of(text("url").unwrap_or_default(), &at)?;
    let content = entry.get("resource").cloned().unwrap_or_default();
    check_content(&content, interaction, &rtype, id.as_ref(), &at)?;
    let if_match = match text("ifMatch").map(parse_etag) {
        None => None,
        Some(Some(version)) => Some(version),
        Some(None) => return refuse(400, "value", format!("{at}.request.ifMatch"), "ifMatch is not an ETag of ours"),
    };
    Ok(Some(Entry {
        interaction,
        rtype,
        id,
        criteria,
        if_match,
        if_none_exist: text("ifNoneExist").map(str::to_owned),
        full_url: entry.get("fullUrl").and_then(Value::as_str).map(str::to_owned),
        content,
        at,
    }))
}

/// Type, and id or criteria, of `request.url`.
fn target_of(url: &str, at: &str) -> Result<(String, Option<LogicalId>, Option<String>), Failure> {
    let url = url.trim_start_matches('/');
    let (path, criteria) = url.split_once('?').map_or((url, None), |(path, query)| (path, Some(query.to_owned())));
    let mut parts = path.split('/');
    let rtype = parts.next().unwrap_or_default().to_owned();
    let id = parts.next().filter(|id| !id.is_empty());
    let place = || format!("{at}.request.url");
    let is_named_twice = id.is_some() && criteria.is_some();
    if fhir::definitions::resource_type(&rtype).is_none() || parts.next().is_some() || is_named_twice {
        let text = "request.url must be a resource type, a type and an id, or a type and criteria";
        return refuse(400, "value", place(), text);
    }
    match id.map(LogicalId::parse).transpose() {
        Ok(id) => Ok((rtype, id, criteria)),
        Err(_) => refuse(400, "value", place(), "the id in request.url is not a valid id"),
    }
}

fn check_content(
    content: &Value,
    interaction: Interaction,
    rtype: &str,
    id: Option<&LogicalId>,
    at: &str,
) -> Result<(), Failure> {
    let place = || format!("{at}.resource");
    match interaction {
        Interaction::Delete => Ok(()),
        Interaction::Patch => match Patch::read_entry(content, &ParseLimits::default()) {
            Ok(_) => Ok(()),
            Err(issue) => {
                let within =
                    if issue.expression.is_empty() { place() } else { format!("{}.{}", place(), issue.expression) };
                refuse(400, issue.code, within, issue.text)
            }
        },
        _ if content.get("resourceType").and_then(Value::as_str) != Some(rtype) => {
            refuse(400, "invalid", place(), "the resource is missing, or is not of the type in request.url")
        }
        // R4 §3.1.0.4: the id in the body must be the one in the URL, where there is one.
        Interaction::Update => match (id, content.get("id").and_then(Value::as_str)) {
            (Some(id), Some(given)) if given != id.as_str() => {
                refuse(400, "invalid", place(), "the resource's id must be the id in request.url")
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// References to other entries become references to their ids; conditional references are looked up. In a patch these
/// are its values, where it is a FHIRPath Patch; a JSON Patch in a Binary stays as it is.
async fn rewrite_references(
    stage: &mut Stage<'_, '_>,
    writing: &Writing<'_>,
    entry: &mut Entry,
    urls: &HashMap<String, String>,
) -> Result<(), Failure> {
    let mut conditional: Vec<(String, String)> = Vec::new();
    let mut unresolved = None;
    fhir::reference::for_each_reference_mut(&mut entry.content, &mut |path, reference| {
        let Some(target) = reference.get("reference").and_then(Value::as_str) else { return };
        if let Some(local) = urls.get(target) {
            let local = local.clone();
            if let Some(object) = reference.as_object_mut() {
                object.insert("reference", Value::from(local));
            }
        } else if target.starts_with("urn:") {
            unresolved.get_or_insert_with(|| path.to_owned());
        } else if let Some(Reference::Conditional { .. }) = Reference::parse(target) {
            conditional.push((path.to_owned(), target.to_owned()));
        }
    });
    if let Some(path) = unresolved {
        return refuse(
            400,
            "not-found",
            format!("{}.resource.{path}", entry.at),
            "the reference points to no entry of this Bundle",
        );
    }
    let mut found: HashMap<String, String> = HashMap::new();
    for (path, target) in conditional {
        let (rtype, criteria) = target.split_once('?').unwrap_or((&target, ""));
        let at = format!("{}.resource.{path}", entry.at);
        match matches(stage, writing, rtype, criteria, &at).await?.as_slice() {
            [one] => {
                found.insert(target.clone(), format!("{rtype}/{one}"));
            }
            [] => return refuse(412, "not-found", at, "the conditional reference matches no resource"),
            _ => {
                return refuse(412, "multiple-matches", at, "the conditional reference matches more than one resource");
            }
        }
    }
    if !found.is_empty() {
        fhir::reference::for_each_reference_mut(&mut entry.content, &mut |_, reference| {
            let local = reference.get("reference").and_then(Value::as_str).and_then(|t| found.get(t)).cloned();
            if let (Some(local), Some(object)) = (local, reference.as_object_mut()) {
                object.insert("reference", Value::from(local));
            }
        });
    }
    Ok(())
}
