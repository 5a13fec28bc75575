//! The class of a column, from where its value comes in FHIR.
//!
//! By table, most special first; what the table does not know is free text, the class that policy treats hardest. A
//! contract may say otherwise, with its reason (see [`crate::check`]).

use base::DataClass;

/// Longest match first within a type; `*` stands for every type.
const RULES: &[(&str, &str, DataClass)] = &[
    ("*", "getResourceKey()", DataClass::TechnicalKey),
    ("*", "getReferenceKey", DataClass::TechnicalKey),
    ("*", "id", DataClass::TechnicalKey),
    ("*", "meta", DataClass::TechnicalKey),
    ("*", "resourceType", DataClass::TechnicalKey),
    ("*", "implicitRules", DataClass::TechnicalKey),
    ("*", "language", DataClass::Demographic),
    ("*", "identifier.system", DataClass::TechnicalKey),
    ("*", "identifier.use", DataClass::TechnicalKey),
    ("*", "identifier.type", DataClass::TechnicalKey),
    ("*", "identifier", DataClass::Identifier),
    ("*", "text", DataClass::FreeText),
    ("*", "note", DataClass::FreeText),
    ("*", "comment", DataClass::FreeText),
    ("Patient", "name.use", DataClass::Clinical),
    ("Patient", "name", DataClass::Name),
    ("Patient", "contact.name", DataClass::Name),
    ("Patient", "contact.address", DataClass::Address),
    ("Patient", "contact", DataClass::Contact),
    ("Patient", "telecom.system", DataClass::Clinical),
    ("Patient", "telecom.use", DataClass::Clinical),
    ("Patient", "telecom", DataClass::Contact),
    ("Patient", "address.postalCode", DataClass::PostalCode),
    ("Patient", "address.state", DataClass::Demographic),
    ("Patient", "address.country", DataClass::Demographic),
    ("Patient", "address", DataClass::Address),
    ("Patient", "birthDate", DataClass::BirthDate),
    ("Patient", "deceasedBoolean", DataClass::Clinical),
    ("Patient", "deceased.ofType(boolean)", DataClass::Clinical),
    ("Patient", "deceased.exists()", DataClass::Clinical),
    ("Patient", "deceased", DataClass::Date),
    ("Patient", "gender", DataClass::Demographic),
    ("Patient", "maritalStatus.text", DataClass::FreeText),
    ("Patient", "maritalStatus", DataClass::Demographic),
    ("Patient", "multipleBirth", DataClass::Demographic),
    ("Patient", "communication", DataClass::Demographic),
    ("Patient", "extension", DataClass::Demographic),
    ("Patient", "photo", DataClass::Binary),
    ("Patient", "active", DataClass::Clinical),
    ("Patient", "link", DataClass::TechnicalKey),
    ("Patient", "generalPractitioner", DataClass::Organizational),
    ("Patient", "managingOrganization", DataClass::Organizational),
    ("RelatedPerson", "name", DataClass::Name),
    ("RelatedPerson", "telecom", DataClass::Contact),
    ("RelatedPerson", "address.postalCode", DataClass::PostalCode),
    ("RelatedPerson", "address", DataClass::Address),
    ("RelatedPerson", "birthDate", DataClass::BirthDate),
    ("RelatedPerson", "gender", DataClass::Demographic),
    ("Organization", "*", DataClass::Organizational),
    ("Location", "*", DataClass::Organizational),
    ("Practitioner", "*", DataClass::Organizational),
    ("PractitionerRole", "*", DataClass::Organizational),
    ("HealthcareService", "*", DataClass::Organizational),
    ("*", "attachment", DataClass::Binary),
    ("*", "data", DataClass::Binary),
    ("*", "subject.display", DataClass::Name),
    ("*", "patient.display", DataClass::Name),
    ("*", "subject", DataClass::TechnicalKey),
    ("*", "patient", DataClass::TechnicalKey),
    ("*", "encounter", DataClass::TechnicalKey),
    ("*", "basedOn", DataClass::TechnicalKey),
    ("*", "result", DataClass::TechnicalKey),
    ("*", "specimen", DataClass::TechnicalKey),
    ("*", "performer", DataClass::Organizational),
    ("*", "participant", DataClass::Organizational),
    ("*", "serviceProvider", DataClass::Organizational),
    ("*", "requester", DataClass::Organizational),
    ("*", "recorder", DataClass::Organizational),
    ("*", "asserter", DataClass::Organizational),
    ("*", "location", DataClass::Organizational),
    ("*", "hospitalization", DataClass::Clinical),
    ("*", "status", DataClass::Clinical),
    ("*", "intent", DataClass::Clinical),
    ("*", "priority", DataClass::Clinical),
    ("*", "class", DataClass::Clinical),
    ("*", "clinicalStatus", DataClass::Clinical),
    ("*", "verificationStatus", DataClass::Clinical),
    ("*", "severity", DataClass::Clinical),
    ("*", "criticality", DataClass::Clinical),
    ("*", "doNotPerform", DataClass::Clinical),
    ("*", "category", DataClass::Clinical),
    ("*", "type", DataClass::Clinical),
    ("*", "code", DataClass::Clinical),
    ("*", "vaccineCode", DataClass::Clinical),
    ("*", "medication", DataClass::Clinical),
    ("*", "reasonCode", DataClass::Clinical),
    ("*", "bodySite", DataClass::Clinical),
    ("*", "method", DataClass::Clinical),
    ("*", "interpretation", DataClass::Clinical),
    ("*", "referenceRange", DataClass::Clinical),
    ("*", "dataAbsentReason", DataClass::Clinical),
    ("*", "component", DataClass::Clinical),
    ("*", "reaction", DataClass::Clinical),
    ("*", "dosageInstruction", DataClass::Clinical),
    ("*", "dosage", DataClass::Clinical),
    ("*", "length", DataClass::Clinical),
    ("Observation", "valueString", DataClass::FreeText),
    ("Observation", "value.ofType(string)", DataClass::FreeText),
    ("Observation", "valueDateTime", DataClass::Date),
    ("Observation", "value.ofType(dateTime)", DataClass::Date),
    ("Observation", "value.ofType(Quantity)", DataClass::Clinical),
    ("Observation", "value.ofType(CodeableConcept)", DataClass::Clinical),
    ("Observation", "value.ofType(boolean)", DataClass::Clinical),
    ("Observation", "value.ofType(integer)", DataClass::Clinical),
    ("Observation", "valueQuantity", DataClass::Clinical),
    ("Observation", "valueCodeableConcept", DataClass::Clinical),
    ("Observation", "valueInteger", DataClass::Clinical),
    ("Observation", "valueBoolean", DataClass::Clinical),
];

/// Elements that end in one of these are dates about a person, whatever the type.
const DATES: &[&str] = &[
    "period",
    "start",
    "end",
    "issued",
    "date",
    "authoredOn",
    "recordedDate",
    "onset",
    "abatement",
    "effective",
    "performed",
    "occurrence",
    "assertedDate",
    "collected",
    "receivedTime",
    "created",
    "sent",
    "received",
    "expirationDate",
];

/// The class of what `path` gives for resources of `rtype`. `path` is a FHIRPath as a view writes it, relative to the
/// resource or beginning with its type.
pub fn derive(rtype: &str, path: &str) -> DataClass {
    if combines(path) {
        return DataClass::FreeText;
    }
    let elements = simplify(rtype, path);
    let mut best: Option<(usize, DataClass)> = None;
    for (on, rule, class) in RULES {
        let depth = usize::from(*on != "*") + 2 * rule.len();
        if (*on == "*" || *on == rtype) && matches(rule, &elements) && best.is_none_or(|(d, _)| depth > d) {
            best = Some((depth, *class));
        }
    }
    // Free text hides at the end of coded elements too: `code.text`, `type.text`, `reference.display`.
    let tail = elements.rsplit('.').next().unwrap_or("");
    let found = best.map(|(_, class)| class);
    match (found, tail) {
        (Some(DataClass::Clinical | DataClass::Demographic), "text" | "comment" | "patientInstruction" | "note") => {
            DataClass::FreeText
        }
        (Some(DataClass::Clinical), _) if is_date(&elements) => DataClass::Date,
        (Some(class), _) => class,
        (None, _) if is_date(&elements) => DataClass::Date,
        (None, _) => DataClass::FreeText,
    }
}

/// Whether a path joins several values (`a & b`, `a | b`, `iif(..)`): then it may hold the worst of them.
fn combines(path: &str) -> bool {
    let (mut depth, mut quoted) = (0u32, false);
    path.contains("iif(")
        || path.contains("%resource")
        || path.chars().any(|c| {
            match c {
                '\'' => quoted = !quoted,
                '(' | '[' if !quoted => depth += 1,
                ')' | ']' if !quoted => depth = depth.saturating_sub(1),
                _ => {}
            }
            !quoted && depth == 0 && matches!(c, '&' | '|' | '+' | '=' | '<' | '>' | '*' | '/')
        })
}

fn matches(rule: &str, elements: &str) -> bool {
    rule == "*" || elements == rule || elements.strip_prefix(rule).is_some_and(|rest| rest.starts_with(['.', '(']))
}

fn is_date(elements: &str) -> bool {
    elements.split('.').any(|element| {
        DATES.iter().any(|date| {
            element == *date
                || element.strip_prefix(date).is_some_and(|r| matches!(r, "DateTime" | "Date" | "Period" | "Instant"))
        })
    }) || elements.ends_with("ofType(dateTime)")
        || elements.ends_with("ofType(Period)")
}

/// The elements of a path without what only picks among values: `name.where(use = 'official').first().family` is
/// `name.family`. Keeps `ofType(..)`, `getResourceKey()`, `exists()`.
fn simplify(rtype: &str, path: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in split(path) {
        let name = part.split(['(', '[']).next().unwrap_or("").trim();
        let picks = matches!(
            name,
            "where"
                | "first"
                | "last"
                | "tail"
                | "skip"
                | "take"
                | "distinct"
                | "single"
                | "join"
                | "lowBoundary"
                | "highBoundary"
                | ""
                | "$this"
                | "%resource"
        );
        if !picks {
            let keep = part.starts_with("ofType(") || name == "getResourceKey" || name == "exists";
            parts.push(if keep { part.replace(' ', "") } else { name.to_owned() });
        }
    }
    if parts.len() > 1 && parts[0] == rtype {
        parts.remove(0);
    }
    parts.join(".")
}

/// Splits at dots outside brackets and quotes.
fn split(path: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut quoted, mut from) = (Vec::new(), 0u32, false, 0);
    for (at, c) in path.char_indices() {
        match c {
            '\'' => quoted = !quoted,
            '(' | '[' if !quoted => depth += 1,
            ')' | ']' if !quoted => depth = depth.saturating_sub(1),
            '.' if !quoted && depth == 0 => {
                parts.push(path[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(path[from..].trim());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_the_class_of_their_element() {
        use DataClass::*;
        for (rtype, path, class) in [
            ("Patient", "getResourceKey()", TechnicalKey),
            ("Patient", "id", TechnicalKey),
            ("Patient", "name.where(use = 'official').first().family", Name),
            ("Patient", "Patient.name.given", Name),
            ("Patient", "birthDate", BirthDate),
            ("Patient", "identifier.where(system = 'http://a.b/c').value", Identifier),
            ("Patient", "identifier.system", TechnicalKey),
            ("Patient", "address.first().postalCode", PostalCode),
            ("Patient", "address.line.join(' ')", Address),
            ("Patient", "address.state", Demographic),
            ("Patient", "telecom.value", Contact),
            ("Patient", "gender", Demographic),
            ("Patient", "deceased.ofType(dateTime)", Date),
            ("Patient", "maritalStatus.text", FreeText),
            ("Patient", "text.div", FreeText),
            ("Patient", "photo.data", Binary),
            ("Observation", "subject.getReferenceKey(Patient)", TechnicalKey),
            ("Observation", "subject.display", Name),
            ("Observation", "effective.ofType(dateTime)", Date),
            ("Observation", "value.ofType(Quantity).value", Clinical),
            ("Observation", "value.ofType(string)", FreeText),
            ("Observation", "code.coding.first().code", Clinical),
            ("Observation", "code.text", FreeText),
            ("Observation", "note.text", FreeText),
            ("Encounter", "period.start", Date),
            ("Encounter", "class.code", Clinical),
            ("Condition", "onset.ofType(dateTime)", Date),
            ("Organization", "name", Organizational),
            ("Encounter", "someNewElement", FreeText),
            ("Patient", "name.first().family & birthDate", FreeText),
            ("Patient", "iif(active, name.family, gender)", FreeText),
        ] {
            assert_eq!(derive(rtype, path), class, "{rtype} {path}");
        }
    }
}
