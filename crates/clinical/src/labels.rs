//! The clear label of a resource: sensitivity bits from `meta.security`. Holds no PHI.

use base::Sensitivity;
use fhir::json::Value;

/// HL7 v3 Confidentiality, and ActCode's sensitivity policies (value set InformationSensitivityPolicy).
const LABELS: &[(&str, Sensitivity)] = &[
    ("R", Sensitivity::RESTRICTED),
    ("V", Sensitivity::RESTRICTED),
    ("42CFRPart2", Sensitivity::PART2),
    ("ETH", Sensitivity::PART2),
    ("ETHUD", Sensitivity::PART2),
    ("OPIOIDUD", Sensitivity::PART2),
    ("SUD", Sensitivity::PART2),
    ("MH", Sensitivity::MENTAL_HEALTH),
    ("PSY", Sensitivity::MENTAL_HEALTH),
    ("PSYTHPN", Sensitivity::MENTAL_HEALTH),
    ("BH", Sensitivity::MENTAL_HEALTH),
    ("HIV", Sensitivity::HIV),
    ("STD", Sensitivity::HIV),
    ("SEX", Sensitivity::REPRODUCTIVE),
];

pub fn sensitivity(resource: &Value) -> Sensitivity {
    let Some(labels) = resource.path(&["meta", "security"]).and_then(Value::as_array) else {
        return Sensitivity::NONE;
    };
    labels
        .iter()
        .filter_map(|label| label.get("code").and_then(Value::as_str))
        .filter_map(|code| LABELS.iter().find(|(known, _)| *known == code))
        .fold(Sensitivity::NONE, |all, (_, bit)| all.with(*bit))
}
