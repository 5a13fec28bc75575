//! The bedside: FHIR transactions with vital signs, problems, allergies and prescriptions of patients whom ADT has
//! registered already (conditional references by MRN).

use serde_json::{Value, json};

use crate::people::Patient;
use crate::random::Random;
use crate::truth::{Expected, Truth};
use crate::{Door, Item};

/// The system URI of the hospital's record numbers, as the demo's `domain.toml` declares it.
pub const MRN_SYSTEM: &str = "urn:oid:2.16.840.1.113883.19.5.1";

const PROBLEMS: &[(&str, &str)] = &[
    ("38341003", "Hypertensive disorder"),
    ("44054006", "Diabetes mellitus type 2"),
    ("195967001", "Asthma"),
    ("13645005", "Chronic obstructive lung disease"),
    ("84114007", "Heart failure"),
];

const DRUGS: &[(&str, &str)] = &[
    ("314076", "lisinopril 10 MG Oral Tablet"),
    ("860975", "metformin hydrochloride 500 MG Extended Release Oral Tablet"),
    ("197361", "amlodipine 5 MG Oral Tablet"),
];

pub fn feed(patients: &[Patient], random: &mut Random, feed: &mut Vec<Item>, _truth: &mut Truth) {
    for (n, patient) in patients.iter().enumerate() {
        let Some(encounter) = patient.encounters.first() else { continue };
        let subject = json!({ "reference": format!("Patient?identifier={MRN_SYSTEM}|{}", patient.mrn) });
        let taken = encounter.admitted.plus_ms(30 * 60_000).to_string();
        let mut entries = vec![
            vital(&subject, &taken, ("8867-4", "Heart rate"), random.between(52, 118), "/min"),
            vital(&subject, &taken, ("9279-1", "Respiratory rate"), random.between(11, 26), "/min"),
            vital(&subject, &taken, ("59408-5", "Oxygen saturation"), random.between(88, 100), "%"),
        ];
        let (code, display) = random.pick(PROBLEMS);
        entries.push(entry("Condition", json!({
            "clinicalStatus": coding("http://terminology.hl7.org/CodeSystem/condition-clinical", "active", "Active"),
            "code": coding("http://snomed.info/sct", code, display),
            "subject": subject,
            "onsetDateTime": &taken[..10],
        })));
        if random.chance(0.4) {
            let (code, display) = random.pick(DRUGS);
            entries.push(entry(
                "MedicationRequest",
                json!({
                    "status": "active",
                    "intent": "order",
                    "medicationCodeableConcept": coding("http://www.nlm.nih.gov/research/umls/rxnorm", code, display),
                    "subject": subject,
                    "authoredOn": taken,
                }),
            ));
        }
        let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries });
        feed.push(Item {
            door: Door::Bedside,
            control_id: format!("bedside-{n:06}"),
            bytes: serde_json::to_vec(&bundle).unwrap_or_default(),
            expected: Expected::Accepted,
        });
    }
}

fn coding(system: &str, code: &str, display: &str) -> Value {
    json!({ "coding": [{ "system": system, "code": code, "display": display }], "text": display })
}

fn entry(rtype: &str, mut resource: Value) -> Value {
    resource["resourceType"] = json!(rtype);
    json!({ "resource": resource, "request": { "method": "POST", "url": rtype } })
}

fn vital(subject: &Value, taken: &str, code: (&str, &str), value: i64, unit: &str) -> Value {
    entry(
        "Observation",
        json!({
            "status": "final",
            "category": [coding("http://terminology.hl7.org/CodeSystem/observation-category", "vital-signs", "Vital Signs")],
            "code": coding("http://loinc.org", code.0, code.1),
            "subject": subject,
            "effectiveDateTime": taken,
            "valueQuantity": { "value": value, "unit": unit, "system": "http://unitsofmeasure.org", "code": unit },
        }),
    )
}
