//! What is answered to a FHIR write: statuses, headers and Bundles of responses (R4 §3.1.0.11.3). Never holds what the
//! writer did not send: the door reads that under the writer's own permit.

use std::sync::Arc;

use base::LogicalId;
use fhir::json::{Object, Value};
use fhir::validate::Issue;
use store::Outcome;

/// A write that was refused; nothing of it was applied.
#[derive(Debug)]
pub struct Refused {
    pub status: u16,
    pub issue: Issue,
}

/// What a single interaction did.
pub struct Done {
    pub status: u16,
    pub rtype: String,
    /// With the version that stands now; none where nothing was there to delete.
    pub at: Option<(LogicalId, u32)>,
    /// As it stands now.
    pub body: Option<Arc<Value>>,
    /// The body is what the writer sent, as far as it is the writer's.
    pub is_own: bool,
}

fn headers(done: &Done) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    if let Some((id, version)) = &done.at {
        headers.push(("location".to_owned(), format!("{}/{id}/_history/{version}", done.rtype)));
        headers.push(("etag".to_owned(), format!("W/\"{version}\"")));
    }
    headers
}

fn last_modified(done: &Done) -> Option<&Value> {
    done.body.as_ref().and_then(|body| body.path(&["meta", "lastUpdated"]))
}

pub fn done_outcome(done: &Done) -> Outcome {
    let body = done.body.as_ref().filter(|_| done.is_own).map_or_else(Vec::new, |body| fhir::json::to_vec(body));
    let mut headers = headers(done);
    let modified = last_modified(done).and_then(Value::as_str);
    headers.extend(modified.map(|at| ("last-modified".to_owned(), at.to_owned())));
    Outcome { status: done.status, headers, body }
}

pub fn refused_outcome(refused: &Refused) -> Outcome {
    let body = fhir::json::to_vec(&fhir::validate::operation_outcome(std::slice::from_ref(&refused.issue)));
    Outcome { status: refused.status, headers: Vec::new(), body }
}

pub fn bundle_outcome(kind: &str, entries: Vec<Value>) -> Outcome {
    let mut bundle = Object::default();
    bundle.insert("resourceType", Value::from("Bundle"));
    bundle.insert("type", Value::from(kind));
    bundle.insert("entry", Value::Array(entries));
    Outcome { status: 200, headers: Vec::new(), body: fhir::json::to_vec(&Value::Object(bundle)) }
}

pub fn done_entry(done: &Done) -> Value {
    let mut response = Object::default();
    response.insert("status", Value::from(status_line(done.status)));
    for (name, value) in headers(done) {
        response.insert(&name, Value::from(value));
    }
    if let Some(modified) = last_modified(done) {
        response.insert("lastModified", modified.clone());
    }
    entry_with(response)
}

pub fn refused_entry(refused: &Refused) -> Value {
    let mut response = Object::default();
    response.insert("status", Value::from(status_line(refused.status)));
    response.insert("outcome", fhir::validate::operation_outcome(std::slice::from_ref(&refused.issue)));
    entry_with(response)
}

fn entry_with(response: Object) -> Value {
    let mut entry = Object::default();
    entry.insert("response", Value::Object(response));
    Value::Object(entry)
}

/// As `Bundle.entry.response.status` has it.
pub fn status_line(status: u16) -> String {
    let reason = match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        304 => "Not Modified",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        410 => "Gone",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        422 => "Unprocessable Content",
        503 => "Service Unavailable",
        _ => "Bad Request",
    };
    format!("{status} {reason}")
}
