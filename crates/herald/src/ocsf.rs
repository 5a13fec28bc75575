//! OCSF (https://schema.ocsf.io, 1.7.0): API Activity (6003), Datastore Activity (6005) for SQL, Authentication (3002) for
//! sign-in. What the schema has no attribute for stands in `unmapped`, by the names of [`Event::details`].

use gate::Outcome;
use serde_json::{Map, Value, json};

use crate::event::{Event, Kind, Place};

const VERSION: &str = "1.7.0";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Api,
    Datastore,
    Authentication,
}

impl Class {
    fn of(kind: Kind) -> Class {
        match kind {
            Kind::SignIn => Class::Authentication,
            Kind::Query => Class::Datastore,
            _ => Class::Api,
        }
    }

    /// Class and category: number and caption of each.
    fn names(self) -> (u32, &'static str, u32, &'static str) {
        match self {
            Class::Api => (6003, "API Activity", 6, "Application Activity"),
            Class::Datastore => (6005, "Datastore Activity", 6, "Application Activity"),
            Class::Authentication => (3002, "Authentication", 3, "Identity & Access Management"),
        }
    }

    fn activity(self, kind: Kind) -> (u32, &'static str) {
        match (self, kind.action()) {
            (Class::Authentication, _) => (1, "Logon"),
            (Class::Datastore, _) => (4, "Query"),
            (_, "C") => (1, "Create"),
            (_, "U") => (3, "Update"),
            (_, "D") => (4, "Delete"),
            (_, "R") => (2, "Read"),
            _ if kind == Kind::Rest("search-type") => (2, "Read"),
            _ => (99, "Other"),
        }
    }
}

pub fn render(event: &Event<'_>, place: &Place) -> Value {
    let record = event.record;
    let kind = Kind::of(record);
    let class = Class::of(kind);
    let (class_uid, class_name, category_uid, category_name) = class.names();
    let (activity_id, activity_name) = class.activity(kind);
    let (severity_id, severity) = severity(event);
    let (status_id, status) = match record.outcome {
        Outcome::Served | Outcome::Granted => (1, "Success"),
        _ => (2, "Failure"),
    };
    let mut out = json!({
        "activity_id": activity_id,
        "activity_name": activity_name,
        "category_uid": category_uid,
        "category_name": category_name,
        "class_uid": class_uid,
        "class_name": class_name,
        "type_uid": class_uid * 100 + activity_id,
        "type_name": format!("{class_name}: {activity_name}"),
        "time": record.at.ms(),
        "severity_id": severity_id,
        "severity": severity,
        "status_id": status_id,
        "status": status,
        "status_code": record.outcome.code(),
        "message": message(event),
        "metadata": metadata(event, place),
        "actor": actor(event, place),
        "src_endpoint": source(event),
    });
    if let Some(out) = out.as_object_mut() {
        if !record.what.is_empty() {
            out.insert("status_detail".into(), record.what.as_str().into());
        }
        let mut unmapped = unmapped(event);
        match class {
            Class::Api => {
                out.insert("api".into(), api(event, place));
                out.insert("resources".into(), resources(event));
            }
            Class::Datastore => {
                let table = record.kinds.join(",");
                out.insert(
                    "database".into(),
                    json!({ "name": record.domain, "type_id": 99, "type": "Wardmesh domain" }),
                );
                out.insert("table".into(), json!({ "name": table }));
            }
            Class::Authentication => {
                out.insert("user".into(), user(event, place));
                out.insert("service".into(), service(event, place));
            }
        }
        let tokens = tokens(event);
        if class != Class::Api && !tokens.is_empty() {
            unmapped.insert("patient-tokens".into(), tokens.into());
        }
        out.insert("unmapped".into(), Value::Object(unmapped));
    }
    out
}

fn severity(event: &Event<'_>) -> (u32, &'static str) {
    match event.record.outcome {
        _ if event.record.emergency => (4, "High"),
        Outcome::Served | Outcome::NotFound => (1, "Informational"),
        Outcome::Refused => (3, "Medium"),
        Outcome::Failed | Outcome::Granted => (4, "High"),
    }
}

fn message(event: &Event<'_>) -> String {
    let record = event.record;
    let kinds = if record.kinds.is_empty() { "everything".to_owned() } else { record.kinds.join(", ") };
    format!("{} {} {kinds} of {}: {}", event.user(), record.action, record.domain, record.outcome.code())
}

fn metadata(event: &Event<'_>, place: &Place) -> Value {
    let mut metadata = json!({
        "version": VERSION,
        "product": { "name": "Wardmesh", "vendor_name": "Wardmesh", "version": place.version },
        "uid": format!("{}/{}", place.log, event.index),
        "sequence": event.index,
        "log_name": place.log,
        "tenant_uid": place.mesh,
        "event_code": event.record.action,
    });
    if let (Some(trace), Some(metadata)) = (event.record.trace, metadata.as_object_mut()) {
        metadata.insert("correlation_uid".into(), base::hex::encode(&trace).into());
    }
    metadata
}

/// The record does not say whether a principal is a person or a service: type 0, unknown.
fn user(event: &Event<'_>, place: &Place) -> Value {
    let user = event.user();
    json!({
        "name": user,
        "uid": user,
        "type_id": 0,
        "type": "Unknown",
        "account": { "name": user, "uid": user, "type_id": 99, "type": "Wardmesh principal" },
        "org": { "name": place.mesh, "uid": place.mesh },
    })
}

fn actor(event: &Event<'_>, place: &Place) -> Value {
    let record = event.record;
    let decision = if record.outcome == Outcome::Refused { "Denied" } else { "Allowed" };
    let version = format!("{:016x}", record.policy_version);
    let policies: Vec<Value> = record
        .policies
        .iter()
        .map(|policy| json!({ "decision": decision, "policy": { "name": policy, "uid": policy, "version": version } }))
        .collect();
    let mut actor = Map::new();
    actor.insert("user".into(), user(event, place));
    if !policies.is_empty() {
        actor.insert("authorizations".into(), policies.into());
    }
    if let Some(service) = event.service() {
        actor.insert("app_name".into(), service.into());
        actor.insert("app_uid".into(), service.into());
    }
    if let Some(token) = record.token {
        actor.insert("session".into(), json!({ "uid": base::hex::encode(&token) }));
    }
    Value::Object(actor)
}

fn source(event: &Event<'_>) -> Value {
    match event.record.from {
        Some(ip) => json!({ "ip": ip.to_string() }),
        None => json!({ "name": "localhost" }),
    }
}

fn service(event: &Event<'_>, place: &Place) -> Value {
    json!({ "name": event.record.door, "uid": format!("{}/{}", place.mesh, event.record.door), "version": place.version })
}

fn api(event: &Event<'_>, place: &Place) -> Value {
    json!({
        "operation": event.record.action,
        "service": service(event, place),
        "request": { "uid": format!("{:016x}", event.record.decision) },
        "response": { "message": event.record.outcome.code() },
    })
}

fn tokens(event: &Event<'_>) -> Vec<Value> {
    event.named().map(|token| base::hex::encode(&token).into()).collect()
}

fn resources(event: &Event<'_>) -> Value {
    let domain = event.record.patient_domain();
    let kinds =
        event.record.kinds.iter().map(|kind| json!({ "name": kind, "type": "kind", "namespace": event.record.domain }));
    let patients =
        tokens(event).into_iter().map(|token| json!({ "uid": token, "type": "Patient", "namespace": domain }));
    Value::Array(kinds.chain(patients).collect())
}

/// A name that comes once holds its text, one that repeats a list.
fn unmapped(event: &Event<'_>) -> Map<String, Value> {
    let mut out = Map::new();
    let lists = ["kind", "policy", "obligation"];
    for (name, text) in event.details() {
        if lists.contains(&name) {
            if let Some(list) = out.entry(name).or_insert_with(|| Value::Array(Vec::new())).as_array_mut() {
                list.push(text.into());
            }
        } else {
            out.insert(name.into(), text.into());
        }
    }
    if let Some(purpose) = event.record.purpose {
        out.insert("purpose-of-use".into(), purpose.code().into());
    }
    out
}
