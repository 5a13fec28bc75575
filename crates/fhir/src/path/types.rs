//! What the engine needs to know of FHIR's types, as a small port, and a guess for when nothing is known.
//! JSON has no types: `valueQuantity` tells its own, `birthDate` does not. The definitions are in `r4`.

use super::ast::TypeSpec;

/// The type of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElementType {
    /// A data type, or the path of a backbone element such as `Patient.contact`.
    One(&'static str),
    /// A choice: JSON spells it `value` + type.
    Choice,
}

/// The definitions behind element names.
pub trait TypeInfo: Send + Sync {
    /// The type of `parent.element`; `None` when the parent is unknown or has no such element.
    fn element_type(&self, parent: &str, element: &str) -> Option<ElementType>;
    /// The type this one specializes: `code` → `string`, `Patient` → `DomainResource`.
    fn base_type(&self, name: &str) -> Option<&'static str>;
    /// Whether a type or resource of this name exists.
    fn is_type(&self, name: &str) -> bool;
    /// Whether every element of this type is known, so that an unknown name is a mistake.
    fn is_complete(&self, name: &str) -> bool;
}

/// Types that a choice may have (R4 §2.24.0.2 and the open types of R4), as JSON spells them after the element name.
pub(crate) const CHOICE_TYPES: [(&str, &str); 50] = [
    ("Base64Binary", "base64Binary"),
    ("Boolean", "boolean"),
    ("Canonical", "canonical"),
    ("Code", "code"),
    ("Date", "date"),
    ("DateTime", "dateTime"),
    ("Decimal", "decimal"),
    ("Id", "id"),
    ("Instant", "instant"),
    ("Integer", "integer"),
    ("Markdown", "markdown"),
    ("Oid", "oid"),
    ("PositiveInt", "positiveInt"),
    ("String", "string"),
    ("Time", "time"),
    ("UnsignedInt", "unsignedInt"),
    ("Uri", "uri"),
    ("Url", "url"),
    ("Uuid", "uuid"),
    ("Address", "Address"),
    ("Age", "Age"),
    ("Annotation", "Annotation"),
    ("Attachment", "Attachment"),
    ("CodeableConcept", "CodeableConcept"),
    ("Coding", "Coding"),
    ("ContactPoint", "ContactPoint"),
    ("Count", "Count"),
    ("Distance", "Distance"),
    ("Duration", "Duration"),
    ("HumanName", "HumanName"),
    ("Identifier", "Identifier"),
    ("Money", "Money"),
    ("Period", "Period"),
    ("Quantity", "Quantity"),
    ("Range", "Range"),
    ("Ratio", "Ratio"),
    ("Reference", "Reference"),
    ("SampledData", "SampledData"),
    ("Signature", "Signature"),
    ("Timing", "Timing"),
    ("ContactDetail", "ContactDetail"),
    ("Contributor", "Contributor"),
    ("DataRequirement", "DataRequirement"),
    ("Expression", "Expression"),
    ("ParameterDefinition", "ParameterDefinition"),
    ("RelatedArtifact", "RelatedArtifact"),
    ("TriggerDefinition", "TriggerDefinition"),
    ("UsageContext", "UsageContext"),
    ("Dosage", "Dosage"),
    ("Meta", "Meta"),
];

/// The type that a JSON name gives its choice element: `("valueQuantity", "value")` → `Quantity`.
pub(crate) fn choice_type(json_name: &str, element: &str) -> Option<&'static str> {
    let suffix = json_name.strip_prefix(element)?;
    suffix.as_bytes().first().filter(|b| b.is_ascii_uppercase())?;
    CHOICE_TYPES.iter().find_map(|(spelled, name)| (*spelled == suffix).then_some(*name))
}

/// How JSON spells a type after a choice element's name: `dateTime` → `DateTime`.
pub(crate) fn choice_suffix(type_name: &str) -> Option<&'static str> {
    CHOICE_TYPES.iter().find_map(|(spelled, name)| (*name == type_name).then_some(*spelled))
}

/// The same name with the life of the tables, when it is a type that a choice may have.
pub(crate) fn choice_type_name(type_name: &str) -> Option<&'static str> {
    CHOICE_TYPES.iter().find_map(|(_, name)| (*name == type_name).then_some(*name))
}

/// Whether a FHIR type is primitive: their names begin in lower case.
pub(crate) fn is_primitive(name: &str) -> bool {
    name.as_bytes().first().is_some_and(u8::is_ascii_lowercase)
}

/// Primitive types and what they specialize (R4 §2.24.0.1); the same in every build.
pub(crate) fn primitive_base(name: &str) -> Option<&'static str> {
    Some(match name {
        "code" | "id" | "markdown" => "string",
        "url" | "canonical" | "uuid" | "oid" => "uri",
        "positiveInt" | "unsignedInt" => "integer",
        "Age" | "Count" | "Distance" | "Duration" => "Quantity",
        _ => return None,
    })
}

/// Knows the data types by name and nothing of resources: element types are guessed from the JSON.
#[derive(Debug, Clone, Copy, Default)]
pub struct Structural;

impl TypeInfo for Structural {
    fn element_type(&self, _parent: &str, _element: &str) -> Option<ElementType> {
        None
    }

    fn base_type(&self, name: &str) -> Option<&'static str> {
        primitive_base(name)
    }

    fn is_type(&self, name: &str) -> bool {
        // Resources are not listed here; their names begin in upper case.
        CHOICE_TYPES.iter().any(|(_, t)| *t == name) || !is_primitive(name)
    }

    fn is_complete(&self, _name: &str) -> bool {
        false
    }
}

/// Whether a System type has this name.
pub(crate) fn is_system(name: &str) -> bool {
    ["Boolean", "Integer", "Decimal", "String", "Date", "DateTime", "Time", "Quantity"].contains(&name)
}

/// Whether `name` is `wanted` or specializes it.
pub(crate) fn is_subtype(types: &dyn TypeInfo, name: &str, wanted: &str) -> bool {
    const CHAIN_MAX: usize = 8;
    let mut current = name;
    for _ in 0..CHAIN_MAX {
        if current == wanted {
            return true;
        }
        match types.base_type(current) {
            Some(base) => current = base,
            None => break,
        }
    }
    // A backbone element's type is its path.
    name.contains('.') && ["BackboneElement", "Element"].contains(&wanted)
}

/// Whether the type that an expression names exists.
pub(crate) fn exists(types: &dyn TypeInfo, spec: &TypeSpec) -> bool {
    match spec.namespace.as_deref() {
        None => is_system(&spec.name) || types.is_type(&spec.name),
        Some("FHIR") => types.is_type(&spec.name),
        Some(_) => true,
    }
}
