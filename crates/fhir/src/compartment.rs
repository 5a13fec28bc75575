//! Compartments (R4 §2.40, CompartmentDefinition): which search parameters of a type make its instances belong to a
//! Patient or an Encounter, and which of a type's dates are those of care.
//!
//! Facts only; never says who may see what is in one.

use crate::reference::patient_parameters;

/// A resource that others belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compartment {
    Patient,
    Encounter,
}

/// http://hl7.org/fhir/R4/compartmentdefinition-encounter.html. The Encounter itself belongs to it as well.
const ENCOUNTER: &[(&str, &[&str])] = &[
    ("CarePlan", &["encounter"]),
    ("CareTeam", &["encounter"]),
    ("ChargeItem", &["context"]),
    ("Claim", &["encounter"]),
    ("ClinicalImpression", &["encounter"]),
    ("Communication", &["encounter"]),
    ("CommunicationRequest", &["encounter"]),
    ("Composition", &["encounter"]),
    ("Condition", &["encounter"]),
    ("DeviceRequest", &["encounter"]),
    ("DiagnosticReport", &["encounter"]),
    ("DocumentManifest", &["related-ref"]),
    ("DocumentReference", &["encounter"]),
    ("ExplanationOfBenefit", &["encounter"]),
    ("Media", &["encounter"]),
    ("MedicationAdministration", &["context"]),
    ("MedicationRequest", &["encounter"]),
    ("NutritionOrder", &["encounter"]),
    ("Observation", &["encounter"]),
    ("Procedure", &["encounter"]),
    ("QuestionnaireResponse", &["encounter"]),
    ("RequestGroup", &["encounter"]),
    ("ServiceRequest", &["encounter"]),
    ("VisionPrescription", &["encounter"]),
];

impl Compartment {
    /// The compartment of a resource type; the others of R4 (Device, Practitioner, RelatedPerson) are not served.
    pub fn of(rtype: &str) -> Option<Compartment> {
        match rtype {
            "Patient" => Some(Compartment::Patient),
            "Encounter" => Some(Compartment::Encounter),
            _ => None,
        }
    }

    /// The type of the resource that it is the compartment of.
    pub fn root(self) -> &'static str {
        match self {
            Compartment::Patient => "Patient",
            Compartment::Encounter => "Encounter",
        }
    }

    /// The reference parameters by which instances of a type belong to it, any of them; empty when none does.
    pub fn parameters(self, rtype: &str) -> &'static [&'static str] {
        match self {
            Compartment::Patient => patient_parameters(rtype),
            Compartment::Encounter => {
                ENCOUNTER.iter().find(|(name, _)| *name == rtype).map(|(_, parameters)| *parameters).unwrap_or_default()
            }
        }
    }

    /// Whether instances of a type may belong to it.
    pub fn holds(self, rtype: &str) -> bool {
        rtype == self.root() || !self.parameters(rtype).is_empty()
    }
}

/// Groups of [`care_dates`] that a type may have.
pub const CARE_DATES_MAX: usize = 2;

/// The date parameters of a type that tell when care took place, as `start` and `end` of `$everything` mean it
/// (R4 patient-operation-everything: "care dates, not record currency dates"): the first group of which a resource has a
/// value counts, from its earliest to its latest. Empty for what has no time of care, such as a Patient or a Coverage.
pub fn care_dates(rtype: &str) -> &'static [&'static [&'static str]] {
    match rtype {
        "Account" => &[&["period"]],
        "AdverseEvent"
        | "Appointment"
        | "CarePlan"
        | "CareTeam"
        | "ClinicalImpression"
        | "DiagnosticReport"
        | "Encounter"
        | "EpisodeOfCare"
        | "Flag"
        | "Immunization"
        | "ImmunizationEvaluation"
        | "ImmunizationRecommendation"
        | "Invoice"
        | "List"
        | "Observation"
        | "Procedure"
        | "RiskAssessment"
        | "SupplyRequest" => &[&["date"]],
        "AllergyIntolerance" => &[&["onset", "last-date"], &["date"]],
        "ChargeItem" => &[&["occurrence"]],
        "Claim" | "DocumentManifest" | "ExplanationOfBenefit" | "Media" => &[&["created"]],
        "Communication" => &[&["sent", "received"]],
        "CommunicationRequest" | "ServiceRequest" => &[&["occurrence"], &["authored"]],
        "Composition" | "DocumentReference" => &[&["period"], &["date"]],
        "Condition" => &[&["onset-date", "abatement-date"], &["recorded-date"]],
        "DetectedIssue" => &[&["identified"]],
        "DeviceRequest" => &[&["event-date"], &["authored-on"]],
        "Goal" => &[&["start-date", "target-date"]],
        "ImagingStudy" => &[&["started"]],
        "MedicationAdministration" => &[&["effective-time"]],
        "MedicationDispense" => &[&["whenprepared", "whenhandedover"]],
        "MedicationRequest" => &[&["authoredon"]],
        "MedicationStatement" => &[&["effective"]],
        "NutritionOrder" => &[&["datetime"]],
        "QuestionnaireResponse" | "RequestGroup" => &[&["authored"]],
        "Specimen" => &[&["collected"]],
        "Task" => &[&["period"], &["authored-on"]],
        "VisionPrescription" => &[&["datewritten"]],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definitions;
    use crate::search::{ParamKind, param};

    #[test]
    fn what_the_tables_name_is_there() {
        for kind in definitions::resource_types() {
            for compartment in [Compartment::Patient, Compartment::Encounter] {
                for code in compartment.parameters(kind.name) {
                    let param = param(kind.name, code).unwrap_or_else(|| panic!("{} {code}", kind.name));
                    assert_eq!(param.kind, ParamKind::Reference);
                    let leads = param.targets.is_empty() || param.targets.contains(&compartment.root());
                    assert!(leads, "{} {code} leads to no {}", kind.name, compartment.root());
                }
            }
            assert!(care_dates(kind.name).len() <= CARE_DATES_MAX);
            for code in care_dates(kind.name).iter().copied().flatten() {
                let param = param(kind.name, code).unwrap_or_else(|| panic!("{} {code}", kind.name));
                assert_eq!(param.kind, ParamKind::Date, "{} {code}", kind.name);
            }
        }
        assert!(ENCOUNTER.iter().all(|(name, _)| definitions::resource_type(name).is_some()));
        assert!(Compartment::Patient.holds("Patient") && !Compartment::Patient.holds("Organization"));
        assert!(Compartment::Encounter.holds("Encounter") && !Compartment::Encounter.holds("Patient"));
    }
}
