//! FHIR R4 AuditEvent (§6.4) by IHE BALP (Basic Audit Log Patterns, https://profiles.ihe.net/ITI/BALP): Read, Query,
//! Create, Update, Delete and their Patient variants. A profile is named in `meta` only where the event keeps all of it:
//! a success of that interaction; the Patient variant where exactly one patient is in it.
//!
//! BALP wants the raw query. A record holds none, since criteria are PHI: `entity.query` holds the type and the keyed
//! hash of the criteria, so that equal searches are seen to be equal.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fhir::json;
use fhir::json::{Object, Value};
use gate::Outcome;

use crate::event::{Code, DCM, Event, Kind, Place, indicator};

/// Canonical of BALP's profiles, up to their names.
pub const PROFILE: &str = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit.";
const REQUEST_ID: Code = Code(
    "https://profiles.ihe.net/ITI/BALP/CodeSystem/BasicAuditEntityType",
    "XrequestId",
    "transport specific unique identifier where http X-Request-Id is used",
);
const EVENT: &str = "http://terminology.hl7.org/CodeSystem/audit-event-type";
const ENTITY: &str = "http://terminology.hl7.org/CodeSystem/audit-entity-type";
const ROLE: &str = "http://terminology.hl7.org/CodeSystem/object-role";
const PARTICIPATION: &str = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType";
/// Systems of our own, for what no standard codes.
pub const ACTION: &str = "urn:wardmesh:audit-action";
pub const PRINCIPAL: &str = "urn:wardmesh:principal";

/// The system of a domain's patient tokens.
pub fn patient_system(domain: &str) -> String {
    format!("urn:wardmesh:patient-token:{domain}")
}

/// `name` gives a patient's id to a reader who may know it.
pub fn render(event: &Event<'_>, place: &Place, name: &dyn Fn(&[u8; 16]) -> Option<String>) -> Value {
    let record = event.record;
    let kind = Kind::of(record);
    let patients: Vec<[u8; 16]> = event.named().collect();
    let mut out = Object::new();
    out.insert("resourceType", "AuditEvent");
    out.insert("id", event.id);
    if let Some(profile) = profile(kind, record.outcome, patients.len()) {
        out.insert("meta", json!({ "profile": [(format!("{PROFILE}{profile}"))] }));
    }
    out.insert("type", coding(event_type(kind)));
    let mut subtypes: Vec<Value> = kind.narrower().map(coding).into_iter().collect();
    // Our own action is the narrower code of all; where it is the type itself it is not said twice.
    subtypes.push(json!({ "system": ACTION, "code": (code_text(&record.action)) }));
    out.insert("subtype", subtypes);
    out.insert("action", kind.action());
    out.insert("recorded", record.at.to_string());
    out.insert("outcome", indicator(record.outcome));
    out.insert("outcomeDesc", outcome_text(event));
    if let Some(purpose) = purpose(event) {
        out.insert("purposeOfEvent", vec![purpose]);
    }
    out.insert("agent", agents(event, kind, place));
    out.insert(
        "source",
        json!({
            "site": (place.mesh.as_str()),
            "observer": { "identifier": { "system": "urn:wardmesh:log", "value": (place.log.as_str()) } },
            "type": [(coding(Code("http://terminology.hl7.org/CodeSystem/security-source-type", "4", "Application Server")))],
        }),
    );
    out.insert("entity", entities(event, kind, &patients, name));
    Value::Object(out)
}

fn profile(kind: Kind, outcome: Outcome, patients: usize) -> Option<String> {
    let name = match kind {
        Kind::Rest("read" | "vread") => "Read",
        Kind::Rest("search-type") => "Query",
        Kind::Rest("create") => "Create",
        Kind::Rest("update" | "patch") => "Update",
        Kind::Rest("delete") => "Delete",
        _ => return None,
    };
    let patient = if patients == 1 { "Patient" } else { "" };
    (outcome == Outcome::Served).then(|| format!("{patient}{name}"))
}

/// `AuditEvent.type`.
pub fn event_type(kind: Kind) -> Code {
    match kind {
        Kind::Rest(_) => Code(EVENT, "rest", "RESTful Operation"),
        // DICOM's "Application Activity" is for starting and stopping; the type is extensible and ours is none of them.
        Kind::Other => Code(ACTION, "operation", "Operation of the mesh"),
        other => other.dicom(),
    }
}

fn coding(Code(system, code, display): Code) -> Value {
    json!({ "system": system, "code": code, "display": display })
}

/// A `string` has no control characters and is not blank (R4 §2.24.0.1); records of a later program may hold anything.
pub(crate) fn clean(text: &str) -> String {
    let shown = |c: char| if c.is_control() && !matches!(c, '\t' | '\n' | '\r') { '\u{fffd}' } else { c };
    if text.trim().is_empty() { "(blank)".to_owned() } else { text.chars().map(shown).collect() }
}

/// A `code` has no space at its ends and is not empty.
fn code_text(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.is_empty() { "unknown".to_owned() } else { clean(&words.join(" ")) }
}

/// For a refusal `what` is its reason.
fn outcome_text(event: &Event<'_>) -> String {
    match (event.record.outcome, event.record.what.trim()) {
        (Outcome::Refused, reason) if !reason.is_empty() => clean(&format!("refused: {reason}")),
        (outcome, _) => outcome.code().to_owned(),
    }
}

fn purpose(event: &Event<'_>) -> Option<Value> {
    let code = event.record.purpose?.code();
    Some(json!({ "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": code }] }))
}

/// Client, server, user, in BALP's roles: who sends is the source, who receives is the destination; a delete has an
/// application and a custodian.
fn agents(event: &Event<'_>, kind: Kind, place: &Place) -> Vec<Value> {
    let source = Code(DCM, "110153", "Source Role ID");
    let destination = Code(DCM, "110152", "Destination Role ID");
    let (client, server) = match kind {
        Kind::Rest("delete") => (
            Code(DCM, "110150", "Application"),
            Code("http://terminology.hl7.org/CodeSystem/provenance-participant-type", "custodian", "Custodian"),
        ),
        kind if kind.client_is_source() => (source, destination),
        _ => (destination, source),
    };
    let user = match kind.action() {
        "C" | "U" | "D" => Code(PARTICIPATION, "AUT", "author (originator)"),
        _ => Code(PARTICIPATION, "IRCP", "information recipient"),
    };
    vec![
        json!({
            "type": (concept(client)),
            "who": (client_who(event)),
            "requestor": false,
            "network": (network(event.record.from)),
        }),
        json!({
            "type": (concept(server)),
            "who": { "identifier": { "system": "urn:wardmesh:mesh", "value": (place.mesh.as_str()) } },
            "requestor": false,
            "network": { "address": (format!("{}/{}/{}", place.base_url, event.record.door, event.record.domain)), "type": "5" },
        }),
        user_agent(event, user),
    ]
}

fn concept(code: Code) -> Value {
    json!({ "coding": [(coding(code))] })
}

/// The service that acts for the user; else the token that the client showed; else the user's own client.
fn client_who(event: &Event<'_>) -> Value {
    let (system, value) = match (event.service(), &event.record.token) {
        (Some(service), _) => (PRINCIPAL, service.to_owned()),
        (None, Some(token)) => ("urn:wardmesh:token", base::hex::encode(token)),
        (None, None) => (PRINCIPAL, event.user().to_owned()),
    };
    json!({ "identifier": { "system": system, "value": value } })
}

/// R4 network-type: 2 is an IP address, 1 a machine name; the node's own socket is this machine.
fn network(from: Option<IpAddr>) -> Value {
    match from {
        Some(ip) => json!({ "address": (ip.to_string()), "type": "2" }),
        None => json!({ "address": "localhost", "type": "1" }),
    }
}

fn user_agent(event: &Event<'_>, role: Code) -> Value {
    let user = event.user();
    let policies = event.record.policies.iter().map(|policy| format!("urn:wardmesh:policy:{}", uri_text(policy)));
    let token = event.record.token.iter().map(|token| format!("urn:wardmesh:token:{}", base::hex::encode(token)));
    let policies: Vec<Value> = policies.chain(token).map(Value::from).collect();
    let mut agent = json!({
        "type": (concept(role)),
        "who": { "identifier": { "system": PRINCIPAL, "value": user }, "display": user },
        "name": user,
        "requestor": true,
    });
    if let Some(agent) = agent.as_object_mut() {
        if !policies.is_empty() {
            agent.insert("policy", policies);
        }
        if let Some(purpose) = purpose(event) {
            agent.insert("purposeOfUse", vec![purpose]);
        }
    }
    agent
}

/// A `uri` has no white space.
fn uri_text(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join("%20")
}

fn entities(
    event: &Event<'_>,
    kind: Kind,
    patients: &[[u8; 16]],
    name: &dyn Fn(&[u8; 16]) -> Option<String>,
) -> Vec<Value> {
    let mut out = vec![object(event, kind)];
    if let Some(trace) = event.record.trace {
        out.push(json!({
            "type": (coding(REQUEST_ID)),
            "what": { "identifier": { "system": "urn:wardmesh:trace", "value": (base::hex::encode(&trace)) } },
        }));
    }
    let system = patient_system(event.record.patient_domain().as_str());
    out.extend(patients.iter().map(|token| patient(&system, token, name(token))));
    let details: Vec<Value> = event
        .details()
        .into_iter()
        .map(|(name, text)| json!({ "type": name, "valueString": (clean(&text)) }))
        .collect();
    out.push(json!({
        "what": { "identifier": { "system": "urn:wardmesh:decision", "value": (format!("{:016x}", event.record.decision)) } },
        "type": { "system": ENTITY, "code": "4", "display": "Other" },
        "role": { "system": ROLE, "code": "13", "display": "Security Resource" },
        "name": "the decision and what was recorded with it",
        "detail": details,
    }));
    out
}

/// What it was done to: the query of a search, else the resource.
fn object(event: &Event<'_>, kind: Kind) -> Value {
    let system_object = json!({ "system": ENTITY, "code": "2", "display": "System Object" });
    let described =
        if event.record.what.trim().is_empty() { event.record.action.trim() } else { event.record.what.trim() };
    let described = clean(if described.is_empty() { "not said" } else { described });
    if matches!(kind, Kind::Rest("search-type") | Kind::Query) {
        return json!({
            "type": system_object,
            "role": { "system": ROLE, "code": "24", "display": "Query" },
            "description": (format!("{described}; the criteria are kept as a keyed hash, since they can be PHI")),
            "query": (STANDARD.encode(event.request())),
        });
    }
    let role = if event.record.job.is_some() { ("20", "Job") } else { ("4", "Domain Resource") };
    let mut what = json!({ "display": (described.as_str()) });
    // `type` is a name of a resource type: other kinds (products, sources) stand in the details.
    if let ([kind], Some(what)) = (event.record.kinds.as_slice(), what.as_object_mut())
        && fhir::definitions::resource_type(kind).is_some()
    {
        what.insert("type", kind.as_str());
    }
    json!({
        "what": what,
        "type": system_object,
        "role": { "system": ROLE, "code": (role.0), "display": (role.1) },
    })
}

fn patient(system: &str, token: &[u8; 16], id: Option<String>) -> Value {
    let mut what = json!({
        "type": "Patient",
        "identifier": { "system": system, "value": (base::hex::encode(token)) },
    });
    if let (Some(id), Some(what)) = (id, what.as_object_mut()) {
        what.insert("reference", format!("Patient/{id}"));
    }
    json!({
        "what": what,
        "type": { "system": ENTITY, "code": "1", "display": "Person" },
        "role": { "system": ROLE, "code": "1", "display": "Patient" },
    })
}
