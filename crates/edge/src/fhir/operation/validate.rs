//! `$validate` (R4 resource-operation-validate): what a write would be told, without writing. Checks what a write checks
//! (structure, required bindings, references by type) and whether the caller might write; profiles are not checked.

use axum::http::StatusCode;
use base::{DomainName, Layer, LogicalId, Write};
use fhir::definitions;
use fhir::json::{ParseLimits, Value};
use fhir::validate::{Issue, operation_outcome};
use gate::{Access, Held};
use policy::Action;
use store::StoreError;

use super::arguments::Arguments;
use crate::doors::{Call, Doors};
use crate::fhir::read::{Named, permit_to_read, permit_to_read_one};
use crate::fhir::{Answer, FHIR_JSON, FhirError};
use crate::outgoing::{Draft, Outgoing};

/// What the resource is checked for (http://hl7.org/fhir/resource-validation-mode).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Content,
    Create,
    Update,
    Delete,
}

fn bad(code: &'static str, text: &str) -> FhirError {
    FhirError::new(StatusCode::BAD_REQUEST, code, text)
}

pub async fn validate(
    doors: &Doors,
    call: &Call,
    domain: &DomainName,
    rtype: &str,
    id: Option<&LogicalId>,
    arguments: &Arguments,
) -> Answer {
    let mode = match arguments.text("mode") {
        None => Mode::Content,
        Some("create") => Mode::Create,
        Some("update") => Mode::Update,
        Some("delete") => Mode::Delete,
        Some(_) => return Err(bad("value", "mode needs create, update or delete")),
    };
    let given = arguments.resource("resource");
    if id.is_none() && (mode == Mode::Delete || given.is_none()) {
        return Err(bad("required", "$validate needs a resource, or the id of one"));
    }
    // Whoever may read the type may ask; what stands is read under that permit.
    let (permit, standing) = match id {
        None => (permit_to_read(doors, call, Action::Read, domain, rtype).await?, None),
        Some(id) => {
            let name = Named { domain, rtype: rtype.to_owned(), id: id.clone() };
            let permit = permit_to_read_one(doors, call, &name).await?;
            let found = match doors.silver.read(&permit, domain, rtype, id).await {
                Err(StoreError::NotCovered(_)) => None,
                other => other?.filter(|resource| !resource.deleted),
            };
            (permit, found)
        }
    };
    let mut issues = Vec::new();
    if mode != Mode::Content {
        issues.extend(of_the_write(doors, call, domain, rtype));
    }
    if matches!(mode, Mode::Delete) || given.is_none() {
        match &standing {
            None => {
                issues.push(Issue::error("not-found", "", "there is no such resource here, or none that you may see"))
            }
            Some(standing) if mode != Mode::Delete => {
                let value = fhir::json::parse(standing.body.expose(), &ParseLimits::default())
                    .map_err(|_| FhirError::unavailable("a stored resource could not be read"))?;
                issues.extend(fhir::validate::validate(&value));
            }
            Some(_) => {}
        }
    }
    if let (Some(resource), true) = (given, mode != Mode::Delete) {
        issues.extend(of_the_id(rtype, id, resource, mode));
        issues.extend(fhir::validate::validate(resource));
    }
    issues.extend(arguments.texts("profile").into_iter().filter_map(|profile| of_the_profile(rtype, profile)));
    let access = Access::of(&permit, Action::Read, &call.origin)
        .what(format!("validate {rtype}"))
        .rows(u64::from(standing.is_some()))
        .patients(domain, standing.iter().map(|resource| resource.patient.0));
    let body = fhir::json::to_vec(&operation_outcome(&issues));
    let held = Held::under(&permit, Draft::new(StatusCode::OK, FHIR_JSON, body));
    let release = doors.gate.release(&call.caller, access).await?;
    Outgoing::data(held, release).map_err(|_| FhirError::unavailable("the answer could not be released"))
}

fn of_the_write(doors: &Doors, call: &Call, domain: &DomainName, rtype: &str) -> Option<Issue> {
    if definitions::is_server_owned(rtype) {
        return Some(Issue::error("not-supported", "", "resources of this type are made by this server alone"));
    }
    let ask = call.ask(Action::Write, domain, Layer::Silver).kind(rtype);
    let allowed = doors.gate.would_permit::<Write>(&call.caller, &ask);
    (!allowed).then(|| Issue::error("forbidden", "", "you may not write resources of this type"))
}

/// R4 §3.1.0.4: the id of an update is there and is the one in the URL; that of a create is the server's to choose.
fn of_the_id(rtype: &str, id: Option<&LogicalId>, resource: &Value, mode: Mode) -> Vec<Issue> {
    let mut issues = Vec::new();
    if resource.get("resourceType").and_then(Value::as_str) != Some(rtype) {
        issues.push(Issue::error("invalid", "", "the resource is not of the type in the URL"));
    }
    let place = format!("{rtype}.id");
    let own = resource.get("id").and_then(Value::as_str);
    match (mode, id) {
        (Mode::Update, None) if own.is_none() => {
            issues.push(Issue::error("required", place, "an update needs the id of the resource"));
        }
        (Mode::Update, Some(id)) if own != Some(id.as_str()) => {
            issues.push(Issue::error("invalid", place, "the resource's id must be there and be the id in the URL"));
        }
        (Mode::Create, Some(_)) => {
            issues.push(Issue::error("business-rule", place, "a create is of a type: the server chooses the id"));
        }
        _ => {}
    }
    issues
}

/// Every resource is checked against the base definition of its type; no other is known here.
fn of_the_profile(rtype: &str, profile: &str) -> Option<Issue> {
    let base = format!("http://hl7.org/fhir/StructureDefinition/{rtype}");
    let url = profile.split('|').next().unwrap_or_default();
    (url != base).then(|| Issue::error("not-supported", "", "profiles are not checked here: leave out the profile"))
}
