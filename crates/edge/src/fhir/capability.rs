//! The CapabilityStatement, generated from what is there (R4 §5.2).

use fhir::json;
use fhir::json::Value;
use fhir::search::ParamKind;

use super::operation::OPERATIONS;

/// `base` is this domain's FHIR base URL; `date` the day the node started.
pub fn statement(base: &str, date: &str, version: &str) -> Value {
    let mut resources = Vec::new();
    for rtype in fhir::definitions::resource_types().map(|known| known.name) {
        if rtype == "AuditEvent" {
            resources.push(audit_event());
            continue;
        }
        let params: Vec<Value> = fhir::search::params(rtype)
            .iter()
            .filter(|param| !matches!(param.kind, ParamKind::Composite | ParamKind::Special))
            .map(|param| json!({ "name": param.code, "type": kind(param.kind) }))
            .collect();
        let interactions: Vec<Value> =
            ["read", "vread", "create", "update", "patch", "delete", "search-type", "history-instance", "history-type"]
                .iter()
                .map(|code| json!({ "code": *code }))
                .collect();
        let operations = OPERATIONS.iter().filter(|(of, ..)| *of == "*" || *of == rtype);
        let operations: Vec<Value> =
            operations.map(|(_, name, definition)| json!({ "name": *name, "definition": *definition })).collect();
        resources.push(json!({
            "type": rtype,
            "interaction": (Value::Array(interactions)),
            "versioning": "versioned-update",
            "readHistory": true,
            "updateCreate": true,
            "conditionalCreate": true,
            "conditionalRead": "full-support",
            "conditionalUpdate": true,
            "conditionalDelete": "single",
            "searchParam": (Value::Array(params)),
            "operation": (Value::Array(operations)),
        }));
    }
    json!({
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": date,
        "kind": "instance",
        "software": { "name": "Wardmesh", "version": version },
        "implementation": { "description": "A domain of a Wardmesh node", "url": base },
        "fhirVersion": "4.0.1",
        "format": ["application/fhir+json", "json"],
        "patchFormat": [(fhir::patch::JSON_PATCH), "application/fhir+json"],
        "rest": [{
            "mode": "server",
            "security": { "cors": false, "description": "Bearer tokens; every access is decided by policy and recorded" },
            "resource": (Value::Array(resources)),
            "interaction": [{ "code": "transaction" }, { "code": "batch" }, { "code": "history-system" }],
            "compartment": [
                "http://hl7.org/fhir/CompartmentDefinition/patient",
                "http://hl7.org/fhir/CompartmentDefinition/encounter",
            ],
        }],
    })
}

/// Shown from the audit log, by IHE BALP; never written.
fn audit_event() -> Value {
    let params = super::audit_event::PARAMS.iter().map(|(name, kind)| json!({ "name": *name, "type": *kind }));
    let profiles = ["Read", "Query", "Create", "Update", "Delete"].iter().flat_map(|name| {
        let profile = |kind: &str| format!("{}{kind}{name}", herald::audit_event::PROFILE);
        [Value::from(profile("")), Value::from(profile("Patient"))]
    });
    json!({
        "type": "AuditEvent",
        "supportedProfile": (profiles.collect::<Value>()),
        "interaction": [{ "code": "read" }, { "code": "search-type" }],
        "versioning": "no-version",
        "searchParam": (params.collect::<Value>()),
    })
}

fn kind(kind: ParamKind) -> &'static str {
    match kind {
        ParamKind::Token => "token",
        ParamKind::Reference => "reference",
        ParamKind::Date => "date",
        ParamKind::String => "string",
        ParamKind::Number => "number",
        ParamKind::Quantity => "quantity",
        ParamKind::Uri => "uri",
        ParamKind::Composite => "composite",
        ParamKind::Special => "special",
    }
}
