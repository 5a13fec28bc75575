//! Tables of what is and what is not a resource.

use super::*;
use crate::json::{ParseLimits, parse, to_string};

fn found(resource: &Value) -> Vec<String> {
    validate(resource).iter().map(|issue| format!("{} {} {}", issue.code, issue.expression, issue.text)).collect()
}

#[test]
fn sound_resources_have_no_issues() {
    for resource in [
        json!({"resourceType": "Patient"}),
        json!({
            "resourceType": "Patient",
            "id": "p-1",
            "meta": {"lastUpdated": "2020-01-01T00:00:00Z", "profile": ["http://x/y"]},
            "text": {"status": "generated", "div": "<div>x</div>"},
            "contained": [{"resourceType": "Organization", "id": "o", "name": "x"}],
            "extension": [
                {"url": "http://x", "valueString": "x"},
                {"url": "http://y", "extension": [{"url": "z", "valueDecimal": 1.10}]},
            ],
            "name": [{"given": ["a", null], "_given": [null, {"extension": [{"url": "x", "valueCode": "y"}]}]}],
            "birthDate": "1970-01",
            "_birthDate": {"id": "x"},
            "_gender": {"extension": [{"url": "http://x", "valueCode": "unknown"}]},
            "deceasedBoolean": false,
            "_deceasedBoolean": {"id": "y"},
            "generalPractitioner": [{"reference": "Practitioner/1"}, {"reference": "#o"}, {"display": "x"}],
        }),
        json!({
            "resourceType": "Condition",
            "clinicalStatus": {"coding": [
                {"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": "active"},
            ]},
            "subject": {"reference": "urn:uuid:1"},
        }),
        json!({"resourceType": "Parameters", "parameter": [{"name": "x", "resource": {"resourceType": "Patient"}}]}),
    ] {
        assert_eq!(found(&resource), Vec::<String>::new(), "{}", to_string(&resource));
    }
}

#[test]
fn each_fault_is_named_with_its_place() {
    let patient = |name: &str, value: Value| json!({"resourceType": "Patient", (name): value});
    for (resource, want) in [
        (json!([]), "structure  a resource must be"),
        (json!({}), "structure  a resource must have"),
        (json!({"resourceType": "Patiënt"}), "structure  unknown resourceType"),
        (json!({"resourceType": "DomainResource"}), "structure  unknown resourceType"),
        (patient("nmae", json!("x")), "structure Patient.nmae unknown element"),
        (patient("John Doe", json!("x")), "structure Patient unknown element"),
        (patient("_nmae", json!({"id": "x"})), "structure Patient.nmae unknown element"),
        (patient("_name", json!([{"id": "x"}])), "structure Patient.name unknown element"),
        (patient("deceased", json!(true)), "structure Patient.deceased unknown element"),
        (patient("name", json!({"family": "x"})), "structure Patient.name must be an array"),
        (patient("name", json!([])), "structure Patient.name must not be an empty array"),
        (patient("name", json!([null])), "structure Patient.name[0] may be null only"),
        (patient("name", json!(["x"])), "structure Patient.name[0] must be an object"),
        (patient("name", json!([{}])), "structure Patient.name[0] must not be empty"),
        (patient("active", json!([true])), "structure Patient.active must not be an array"),
        (patient("active", json!(null)), "structure Patient.active must not be null"),
        (patient("active", json!("true")), "value Patient.active must be true or false"),
        (patient("birthDate", json!("1970-13")), "value Patient.birthDate must be a date"),
        (
            patient("gender", json!("F")),
            "code-invalid Patient.gender must be a code of the value set administrative-gender",
        ),
        (patient("_active", json!({"value": 1})), "structure Patient.active.value unknown element"),
        (patient("_active", json!(5)), "structure Patient.active must be an object with"),
        (patient("id", json!("a_b")), "value Patient.id must be 1 to 64"),
        (patient("contact", json!([{"name": {"use": "nope"}}])), "code-invalid Patient.contact[0].name.use must"),
        (
            json!({"resourceType": "Patient", "deceasedBoolean": true, "deceasedDateTime": "2020"}),
            "structure Patient.deceasedDateTime only one type",
        ),
        (
            json!({"resourceType": "Patient", "deceasedBoolean": true, "_deceasedDateTime": {"id": "x"}}),
            "structure Patient.deceasedDateTime only one type",
        ),
        (json!({"resourceType": "HumanName"}), "structure  unknown resourceType"),
        (
            json!({"resourceType": "Patient", "name": [{"given": ["a"], "_given": [null, null]}]}),
            "structure Patient.name[0].given values and extensions",
        ),
        (patient("extension", json!([{"url": "x"}])), "invariant Patient.extension[0] an extension must have either"),
        (patient("extension", json!([{"valueCode": "x"}])), "required Patient.extension[0] url is required"),
        (
            patient("contained", json!([{"resourceType": "Patient", "contained": [{"resourceType": "Patient"}]}])),
            "invariant Patient.contained[0] a contained resource",
        ),
        (
            patient("contained", json!([{"resourceType": "Nope"}])),
            "structure Patient.contained[0] unknown resourceType",
        ),
        (
            patient("managingOrganization", json!({"reference": "Patient/1"})),
            "value Patient.managingOrganization.reference must refer",
        ),
        (json!({"resourceType": "Observation", "status": "final"}), "required Observation code is required"),
        (
            json!({"resourceType": "Condition", "subject": {}, "clinicalStatus": {"text": "x"}}),
            "structure Condition.subject must not be empty",
        ),
        (
            json!({"resourceType": "Condition", "subject": {"display": "x"}, "clinicalStatus": {"text": "x"}}),
            "code-invalid Condition.clinicalStatus must have a coding",
        ),
        (
            json!({"resourceType": "Bundle", "type": "batch", "entry": [{"resource": {"resourceType": "Patient", "active": 1}}]}),
            "value Bundle.entry[0].resource.active must be",
        ),
    ] {
        let found = found(&resource);
        assert!(found.iter().any(|f| f.starts_with(want)), "{want}: {found:?}");
        assert!(!found.iter().any(|f| f.contains("Doe") || f.contains("1970")), "{found:?}");
    }
}

#[test]
fn findings_are_bounded() {
    let names: Vec<Value> = (0..1000).map(|_| json!({"use": "nope"})).collect();
    assert_eq!(validate(&json!({"resourceType": "Patient", "name": names})).len(), ISSUES_MAX);
}

#[test]
fn an_outcome_is_a_resource_itself() {
    let issues = validate(&json!({"resourceType": "Patient", "active": "x"}));
    for outcome in [operation_outcome(&issues), operation_outcome(&[])] {
        assert_eq!(found(&outcome), Vec::<String>::new());
    }
}

#[test]
fn synthea_bundles_are_valid() {
    for (name, bytes) in crate::testing::synthea() {
        let bundle = parse(&bytes, &ParseLimits::default()).unwrap();
        assert_eq!(found(&bundle), Vec::<String>::new(), "{name}");
    }
}

proptest::proptest! {
    #[test]
    fn no_json_makes_it_panic(resource in crate::testing::any_resource()) {
        validate(&resource);
    }
}
