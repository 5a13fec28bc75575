//! The reads of a Bundle (R4 §3.1.0.11): done when its writes are, so that those of a transaction see them. Each is a
//! request like any other, with its own permit, record and release; one that fails says so in its place.

use std::collections::BTreeSet;

use axum::http::{StatusCode, header};
use base::{DomainName, Layer, Read};
use fhir::json::{Object, ParseLimits, Value};
use policy::Action;

use super::unless::Unless;
use super::{FhirError, history, read, search};
use crate::doors::{Call, Doors};
use crate::outgoing::{Draft, Outgoing, Released};

/// The reads of a Bundle, each with its place.
pub struct Reads {
    /// `batch` or `transaction`.
    kind: &'static str,
    entries: usize,
    reads: Vec<(usize, Result<Reading, FhirError>)>,
}

struct Reading {
    what: What,
    unless: Unless,
    /// HEAD: status and headers alone.
    is_head: bool,
}

enum What {
    One { rtype: String, id: String, version: Option<u32> },
    History { rtype: String, id: String, pairs: Vec<(String, String)> },
    Search { rtype: String, pairs: Vec<(String, String)> },
}

impl Reads {
    /// In a transaction every read must be one.
    pub fn of(bundle: &Value, kind: &'static str, reads_max: usize) -> Result<Reads, FhirError> {
        let entries = bundle.get("entry").map(Value::items).unwrap_or_default();
        let mut reads = Vec::new();
        for (n, entry) in entries.iter().enumerate() {
            let request = entry.get("request").unwrap_or(&Value::Null);
            let method = request.get("method").and_then(Value::as_str);
            if !matches!(method, Some("GET" | "HEAD")) {
                continue;
            }
            let url = request.get("url").and_then(Value::as_str).unwrap_or_default();
            let what = what(url, n).map(|what| Reading {
                what,
                unless: Unless::of_entry(request),
                is_head: method == Some("HEAD"),
            });
            match what {
                Err(error) if kind == "transaction" => return Err(error),
                read => reads.push((n, read)),
            }
        }
        if reads.len() > reads_max {
            let text = format!("a Bundle may have {reads_max} reads here: send several");
            return Err(FhirError::new(StatusCode::PAYLOAD_TOO_LARGE, "too-long", text));
        }
        Ok(Reads { kind, entries: entries.len(), reads })
    }

    pub fn is_empty(&self) -> bool {
        self.reads.is_empty()
    }

    /// Whether nothing of the Bundle writes.
    pub fn is_all(&self) -> bool {
        !self.reads.is_empty() && self.reads.len() == self.entries
    }

    /// Before a transaction writes anything: whether its reads will be permitted.
    pub async fn permit(&self, doors: &Doors, call: &Call, domain: &DomainName) -> Result<(), FhirError> {
        if self.kind != "transaction" {
            return Ok(());
        }
        let (mut reads, mut searches) = (BTreeSet::new(), BTreeSet::new());
        for (_, reading) in &self.reads {
            match reading.as_ref().map(|reading| &reading.what) {
                Ok(What::One { rtype, .. } | What::History { rtype, .. }) => reads.insert(rtype.as_str()),
                Ok(What::Search { rtype, .. }) => searches.insert(rtype.as_str()),
                Err(_) => false,
            };
        }
        for (action, kinds) in [(Action::Read, reads), (Action::Search, searches)] {
            for kind in kinds {
                doors.gate.permit::<Read>(&call.caller, call.ask(action, domain, Layer::Silver).kind(kind)).await?;
            }
        }
        Ok(())
    }

    /// Does the reads, and puts them beside what the writes were answered, where there were some.
    pub async fn answer(
        self,
        doors: &Doors,
        call: &Call,
        domain: &DomainName,
        writes: Option<Released>,
        lenient: bool,
    ) -> Outgoing {
        // What all answers together may take is what a request may.
        let mut left = doors.limits.fhir_body_bytes_max;
        let (mut parts, mut places) = (Vec::new(), Vec::new());
        let has_writes = writes.is_some();
        parts.extend(writes);
        for (n, reading) in self.reads {
            let result = match reading {
                Ok(_) if left == 0 => {
                    let text = "the answers of this Bundle take too much: send its reads in several";
                    Err(FhirError::new(StatusCode::PAYLOAD_TOO_LARGE, "too-costly", text))
                }
                Ok(reading) => {
                    let is_head = reading.is_head;
                    reading.run(doors, call, domain, lenient).await.map(|released| (released, is_head))
                }
                Err(error) => Err(error),
            };
            places.push(match result {
                Ok((released, is_head)) => {
                    left = left.saturating_sub(released.bytes());
                    parts.push(released);
                    (n, Ok(is_head))
                }
                Err(error) => (n, Err(error)),
            });
        }
        let (kind, entries) = (self.kind, self.entries);
        Outgoing::joined(parts, |drafts| {
            let mut drafts = drafts.into_iter();
            let own = if has_writes { drafts.next() } else { None };
            joined(kind, entries, own, places, drafts)
        })
    }
}

impl Reading {
    async fn run(self, doors: &Doors, call: &Call, domain: &DomainName, lenient: bool) -> Result<Released, FhirError> {
        match self.what {
            What::One { rtype, id, version } => {
                let name = read::named(doors, domain.as_str(), &rtype, &id)?;
                read::one(doors, call, &name, version, None, &self.unless).await
            }
            What::History { rtype, id, pairs } => {
                let of = history::Of::instance(doors, domain.as_str(), &rtype, &id)?;
                history::page(doors, call, of, pairs).await
            }
            What::Search { rtype, pairs } => search::search(doors, call, domain.as_str(), &rtype, pairs, lenient).await,
        }
    }
}

fn what(url: &str, n: usize) -> Result<What, FhirError> {
    let wrong = |text: &str| {
        let issue = fhir::validate::Issue::error("value", format!("Bundle.entry[{n}].request.url"), text);
        FhirError { status: StatusCode::BAD_REQUEST, issues: vec![issue], retry_after_s: None }
    };
    let (path, query) = url.trim_start_matches('/').split_once('?').unwrap_or((url.trim_start_matches('/'), ""));
    let pairs = fhir::search::decode_query(query);
    let parts: Vec<&str> = path.split('/').collect();
    let rtype = parts.first().copied().unwrap_or_default();
    if rtype == "AuditEvent" {
        return Err(wrong("AuditEvent is read by requests of its own"));
    }
    if fhir::definitions::resource_type(rtype).is_none() {
        return Err(wrong("a read names a resource type: Type/id, Type/id/_history or Type?criteria"));
    }
    let (rtype, owned) = (rtype.to_owned(), |text: &str| text.to_owned());
    match parts.as_slice() {
        [_] => Ok(What::Search { rtype, pairs }),
        [_, id] => Ok(What::One { rtype, id: owned(id), version: None }),
        [_, id, "_history"] => Ok(What::History { rtype, id: owned(id), pairs }),
        [_, id, "_history", version] => match version.parse() {
            Ok(version) => Ok(What::One { rtype, id: owned(id), version: Some(version) }),
            Err(_) => Err(wrong("the version is not one of this server")),
        },
        _ => Err(wrong("a read is Type/id, Type/id/_history, Type/id/_history/version or Type?criteria")),
    }
}

fn joined(
    kind: &str,
    entries: usize,
    own: Option<Draft>,
    places: Vec<(usize, Result<bool, FhirError>)>,
    mut drafts: impl Iterator<Item = Draft>,
) -> Draft {
    let written = own.as_ref().and_then(|own| fhir::json::parse(&own.body, &ParseLimits::default()).ok());
    let listed = written.as_ref().and_then(|bundle| bundle.get("entry")).map(|entries| entries.items().to_vec());
    let mut list = listed.unwrap_or_default();
    list.resize_with(entries, || Value::Object(Object::new()));
    for (n, result) in places {
        list[n] = match result {
            Ok(is_head) => drafts.next().map_or_else(Value::default, |draft| read_entry(draft, is_head)),
            Err(error) => failed_entry(&error),
        };
    }
    let bundle = fhir::json!({
        "resourceType": "Bundle",
        "type": (format!("{kind}-response")),
        "entry": (Value::Array(list)),
    });
    let body = fhir::json::to_vec(&bundle);
    match own {
        Some(own) => Draft { body, ..own },
        None => Draft::new(StatusCode::OK, super::FHIR_JSON, body),
    }
}

fn read_entry(draft: Draft, is_head: bool) -> Value {
    let resource = fhir::json::parse(&draft.body, &ParseLimits::default()).ok();
    let mut response = Object::new();
    response.push("status", clinical::status_line(draft.status.as_u16()));
    if let Some((_, etag)) = draft.headers.iter().find(|(name, _)| *name == header::ETAG) {
        response.push("etag", etag.as_str());
        let modified = resource.as_ref().and_then(|resource| resource.path(&["meta", "lastUpdated"]));
        if let Some(modified) = modified {
            response.push("lastModified", modified);
        }
    }
    let mut entry = Object::new();
    if let (Some(resource), false) = (resource, is_head) {
        entry.push("resource", resource);
    }
    entry.push("response", Value::Object(response));
    Value::Object(entry)
}

fn failed_entry(error: &FhirError) -> Value {
    fhir::json!({ "response": {
        "status": (clinical::status_line(error.status.as_u16())),
        "outcome": (fhir::validate::operation_outcome(&error.issues)),
    } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_read_is_refused_in_its_place() {
        for (url, is_read) in [
            ("Patient/1", true),
            ("/Patient/1", true),
            ("Patient?name=x", true),
            ("Patient", true),
            ("Patient/1/_history", true),
            ("Patient/1/_history/2", true),
            ("Patient/1/_history/x", false),
            ("Patient/1/$everything/x", false),
            ("Nonsense/1", false),
            ("AuditEvent/1", false),
            ("", false),
        ] {
            assert_eq!(what(url, 3).is_ok(), is_read, "{url}");
        }
        assert_eq!(what("x", 3).err().unwrap().issues[0].expression, "Bundle.entry[3].request.url");
    }
}
