//! The maps: which field goes into which element, by which converter. Facts of the v2-to-FHIR guide's segment maps
//! (PID, PD1, PV1, PV2, OBR, OBX to R4), with our decisions noted. One small interpreter runs them ([`convert`]).

use hl7v2::Element;

use super::convert::{Context, Fault, Said, coding, extension, leaf};
use super::vocabulary::{self, Codes, Vocabulary, coding_system};
use fhir::json;
use fhir::json::Value;

/// One line of a map.
pub struct Row {
    /// Field number in the segment.
    pub field: usize,
    /// Path below the resource; `name[]` repeats with the field.
    pub element: &'static str,
    pub convert: Convert,
    /// Not used where this field of the segment is valued: it says more. 0 is no such field.
    pub unless: usize,
    /// Why, where it is not just what the guide says.
    pub note: &'static str,
}

/// A segment's map into one resource.
pub struct SegmentMap {
    pub segment: &'static str,
    pub resource: &'static str,
    pub rows: &'static [Row],
}

impl SegmentMap {
    pub fn rows(&self, field: usize) -> impl Iterator<Item = &'static Row> {
        self.rows.iter().filter(move |row| row.field == field)
    }
}

/// How a field becomes an element.
pub enum Convert {
    /// CX; the type where CX-5 says none.
    Identifier(&'static str),
    /// EI, of a placer (PLAC) or filler (FILL).
    OrderNumber(&'static str),
    SocialSecurity,
    DriverLicence,
    Name,
    /// ST as the text of an address.
    AddressText,
    /// XTN; the use where XTN-2 says none.
    Telecom(Option<&'static str>),
    /// A code of a required value set.
    Code(Codes),
    Concept(&'static Vocabulary),
    Coding(&'static Vocabulary),
    /// ID of an HL7 table: concept with that table's system.
    TableConcept(&'static str),
    Language,
    Date,
    BirthTime,
    DateTime,
    Instant,
    Text,
    Integer,
    Boolean,
    Days,
    /// XCN as a participant of an encounter: code and display of v3 ParticipationType.
    Participant(&'static str, &'static str),
    Practitioner,
    NamedPerson,
    Organization,
    CodedOrganization,
    /// IS or ST that names an organization.
    OrganizationName,
    /// Y: only for those who may see restricted records.
    Protection,
    /// PL as the location of an encounter, with its status.
    Location(&'static str),
    DischargedTo,
    Interpretation,
    DeviceReference,
    /// The extension of this URL, its value member, by another converter.
    Extension(&'static str, &'static str, &'static Convert),
    /// An extension within an extension: URL, inner URL, value member.
    Nested(&'static str, &'static str, &'static str, &'static Convert),
    /// All repetitions as one US Core extension: URL, categories, table 0189 or the like.
    UsCoreGroup(&'static str, Codes, Codes),
    /// Read by `build`, which knows more than the field.
    ByBuilder,
    /// Not mapped on purpose: the note says why.
    Kept,
}

/// Whether all repetitions go into one value.
impl Convert {
    pub fn takes_whole_field(&self) -> bool {
        matches!(self, Convert::UsCoreGroup(..))
    }
}

/// One repetition (or the whole field) by a converter.
pub fn convert(context: &Context<'_>, element: Element<'_>, by: &Convert) -> Result<Said, Fault> {
    let value = match by {
        Convert::Identifier(kind) => context.identifier(element, kind),
        Convert::OrderNumber(role) => context.order_number(element, role),
        Convert::SocialSecurity => context.social_security(element),
        Convert::DriverLicence => context.driver_licence(element),
        Convert::Name => context.human_name(element, 0),
        Convert::AddressText => leaf(element).map(|text| json!({"text": text})),
        Convert::Telecom(use_) => context.contact_point(element, *use_),
        Convert::Code(codes) => return context.required_code(element, codes),
        Convert::Concept(vocabulary) => context.concept(element, vocabulary),
        Convert::Coding(vocabulary) => context.one_coding(element, vocabulary),
        Convert::TableConcept(table) => leaf(element).map(|code| {
            let system = coding_system(&format!("HL7{table}"));
            json!({"coding": [(coding(&system, &code, None))]})
        }),
        Convert::Language => context.language(element),
        Convert::Date => return context.date(element),
        Convert::BirthTime => return context.birth_time(element),
        Convert::DateTime => return context.date_time(element),
        Convert::Instant => return context.instant(element),
        Convert::Text => leaf(element).map(Value::from),
        Convert::Integer => return context.integer(element),
        Convert::Boolean => return context.boolean(element),
        Convert::Days => return days(context, element),
        Convert::Participant(code, display) => context.practitioner(element).map(|who| {
            let role = coding(vocabulary::PARTICIPATION, code, Some(display));
            json!({"type": [{"coding": [role]}], "individual": who})
        }),
        Convert::Practitioner => context.practitioner(element),
        Convert::NamedPerson => context.named_person(element),
        Convert::Organization => context.organization(element),
        Convert::CodedOrganization => context.coded_organization(element),
        Convert::OrganizationName => leaf(element).map(|name| json!({"type": "Organization", "display": name})),
        Convert::Protection => return protection(context, element),
        Convert::Location(status) => {
            context.place(element).map(|place| json!({"location": place, "status": (*status)}))
        }
        Convert::DischargedTo => context.discharged_to(element),
        Convert::Interpretation => interpretation(context, element),
        Convert::DeviceReference => context.order_number(element, "DEVICE").map(|mut identifier| {
            if let Some(object) = identifier.as_object_mut() {
                object.remove("type");
            }
            json!({"type": "Device", "identifier": identifier})
        }),
        Convert::Extension(url, member, inner) => match convert(context, element, inner)? {
            Said::Value(value) => Some(extension(url, member, value)),
            other => return Ok(other),
        },
        Convert::Nested(url, inner_url, member, inner) => match convert(context, element, inner)? {
            Said::Value(value) => Some(json!({"url": (*url), "extension": [(extension(inner_url, member, value))]})),
            other => return Ok(other),
        },
        Convert::UsCoreGroup(url, categories, local) => context.us_core_group(element, url, categories, local),
        Convert::ByBuilder | Convert::Kept => None,
    };
    Ok(value.map_or(Said::Nothing, Said::Value))
}

fn days(context: &Context<'_>, element: Element<'_>) -> Result<Said, Fault> {
    Ok(match context.integer(element)? {
        Said::Value(number) => {
            Said::Value(json!({"value": number, "unit": "d", "system": (vocabulary::UCUM), "code": "d"}))
        }
        other => other,
    })
}

/// A protected person or visit is labelled restricted (v3 Confidentiality), which storage and policy go by.
fn protection(context: &Context<'_>, element: Element<'_>) -> Result<Said, Fault> {
    Ok(match context.boolean(element)? {
        Said::Value(Value::Bool(true)) => {
            Said::Value(coding("http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "R", Some("restricted")))
        }
        Said::Value(_) => Said::Remove,
        other => other,
    })
}

/// OBX-8: table 0078 as v3 ObservationInterpretation, else what was sent.
fn interpretation(context: &Context<'_>, element: Element<'_>) -> Option<Value> {
    let code = leaf(element.component(1))?;
    match vocabulary::code(vocabulary::INTERPRETATIONS, &code) {
        Some(display) => Some(json!({"coding": [(coding(vocabulary::INTERPRETATION, &code, Some(display)))]})),
        None => context.concept(element, &vocabulary::NONE),
    }
}

const fn row(field: usize, element: &'static str, convert: Convert) -> Row {
    Row { field, element, convert, unless: 0, note: "" }
}

const fn kept(field: usize, note: &'static str) -> Row {
    Row { field, element: "", convert: Convert::Kept, unless: 0, note }
}

const fn unless(field: usize, other: usize, element: &'static str, convert: Convert) -> Row {
    Row { field, element, convert, unless: other, note: "" }
}

const COUNTER: &str = "a counter within the message";

pub const PID: SegmentMap = SegmentMap {
    segment: "PID",
    resource: "Patient",
    rows: &[
        kept(1, COUNTER),
        row(2, "identifier[]", Convert::Identifier("")),
        row(3, "identifier[]", Convert::Identifier("")),
        row(4, "identifier[]", Convert::Identifier("")),
        row(5, "name[]", Convert::Name),
        row(6, "extension[]", Convert::Extension(MOTHERS_MAIDEN_NAME, "valueString", &Convert::Text)),
        row(7, "birthDate", Convert::Date),
        row(7, "_birthDate.extension", Convert::BirthTime),
        row(8, "gender", Convert::Code(vocabulary::SEX)),
        row(9, "name[]", Convert::Name),
        row(10, "extension[]", Convert::UsCoreGroup(US_CORE_RACE, vocabulary::OMB_RACE, &[])),
        row(11, "address", Convert::ByBuilder),
        row(12, "address.district", Convert::ByBuilder),
        row(13, "telecom[]", Convert::Telecom(Some("home"))),
        row(14, "telecom[]", Convert::Telecom(Some("work"))),
        row(15, "communication[]", Convert::Language),
        row(16, "maritalStatus", Convert::Concept(&vocabulary::MARITAL_STATUS)),
        row(17, "extension[]", Convert::Extension(RELIGION, "valueCodeableConcept", &ANY_CONCEPT)),
        row(19, "identifier[]", Convert::SocialSecurity),
        row(20, "identifier[]", Convert::DriverLicence),
        row(
            22,
            "extension[]",
            Convert::UsCoreGroup(US_CORE_ETHNICITY, vocabulary::OMB_ETHNICITY, vocabulary::ETHNICITY_0189),
        ),
        row(23, "extension[]", Convert::Extension(BIRTH_PLACE, "valueAddress", &Convert::AddressText)),
        unless(24, 25, "multipleBirthBoolean", Convert::Boolean),
        row(25, "multipleBirthInteger", Convert::Integer),
        row(26, "extension[]", Convert::Nested(CITIZENSHIP, "code", "valueCodeableConcept", &ANY_CONCEPT)),
        row(28, "extension[]", Convert::Nested(NATIONALITY, "code", "valueCodeableConcept", &ANY_CONCEPT)),
        row(29, "deceasedDateTime", Convert::DateTime),
        unless(30, 29, "deceasedBoolean", Convert::Boolean),
        kept(33, "the sender's own record keeping; the journal has the time of each message"),
        kept(34, "the sender's own record keeping"),
        row(35, "extension[]", Convert::Nested(ANIMAL, "species", "valueCodeableConcept", &ANY_CONCEPT)),
        row(39, "extension[]", Convert::Nested(CITIZENSHIP, "code", "valueCodeableConcept", &ANY_CONCEPT)),
        row(40, "telecom[]", Convert::Telecom(None)),
    ],
};

pub const PD1: SegmentMap = SegmentMap {
    segment: "PD1",
    resource: "Patient",
    rows: &[
        row(3, "generalPractitioner[]", Convert::Organization),
        row(4, "generalPractitioner[]", Convert::Practitioner),
        row(6, "extension[]", Convert::Extension(DISABILITY, "valueCodeableConcept", &ANY_CONCEPT)),
        row(12, "meta.security[]", Convert::Protection),
        row(14, "extension[]", Convert::Extension(CONGREGATION, "valueString", &Convert::Text)),
    ],
};

pub const PV1: SegmentMap = SegmentMap {
    segment: "PV1",
    resource: "Encounter",
    rows: &[
        kept(1, COUNTER),
        row(2, "class", Convert::Coding(&vocabulary::PATIENT_CLASS)),
        row(3, "location[]", Convert::Location("active")),
        row(4, "type[]", Convert::Concept(&vocabulary::NONE)),
        row(5, "hospitalization.preAdmissionIdentifier", Convert::Identifier("")),
        row(6, "location[]", Convert::Location("completed")),
        row(7, "participant[]", Convert::Participant("ATND", "attender")),
        row(8, "participant[]", Convert::Participant("REF", "referrer")),
        row(9, "participant[]", Convert::Participant("CON", "consultant")),
        row(10, "serviceType", Convert::Concept(&vocabulary::NONE)),
        row(11, "location[]", Convert::Location("active")),
        row(13, "hospitalization.reAdmission", Convert::Concept(&vocabulary::NONE)),
        row(14, "hospitalization.admitSource", Convert::Concept(&vocabulary::NONE)),
        row(15, "hospitalization.specialArrangement[]", Convert::Concept(&vocabulary::NONE)),
        row(16, "hospitalization.specialCourtesy[]", Convert::Concept(&vocabulary::NONE)),
        row(17, "participant[]", Convert::Participant("ADM", "admitter")),
        row(19, "identifier[]", Convert::Identifier("VN")),
        row(36, "hospitalization.dischargeDisposition", Convert::Concept(&vocabulary::NONE)),
        row(37, "hospitalization.destination", Convert::DischargedTo),
        row(38, "hospitalization.dietPreference[]", Convert::Concept(&vocabulary::NONE)),
        row(39, "serviceProvider", Convert::OrganizationName),
        row(42, "location[]", Convert::Location("reserved")),
        row(43, "location[]", Convert::Location("completed")),
        row(44, "period.start", Convert::DateTime),
        row(45, "period.end", Convert::DateTime),
        row(50, "identifier[]", Convert::Identifier("")),
        row(52, "participant[]", Convert::Participant("PART", "Participation")),
    ],
};

pub const PV2: SegmentMap = SegmentMap {
    segment: "PV2",
    resource: "Encounter",
    rows: &[
        row(1, "location[]", Convert::Location("planned")),
        row(3, "reasonCode[]", Convert::Concept(&vocabulary::NONE)),
        row(8, "extension[]", Convert::Extension(PLANNED_START, "valueDateTime", &Convert::DateTime)),
        row(9, "extension[]", Convert::Extension(PLANNED_END, "valueDateTime", &Convert::DateTime)),
        row(11, "length", Convert::Days),
        row(13, "participant[]", Convert::Participant("REF", "referrer")),
        row(22, "meta.security[]", Convert::Protection),
        row(25, "priority", Convert::Concept(&vocabulary::NONE)),
        row(38, "extension[]", Convert::Extension(MODE_OF_ARRIVAL, "valueCoding", &Convert::Coding(&vocabulary::NONE))),
    ],
};

pub const OBR: SegmentMap = SegmentMap {
    segment: "OBR",
    resource: "DiagnosticReport",
    rows: &[
        kept(1, COUNTER),
        row(2, "identifier[]", Convert::OrderNumber("PLAC")),
        row(3, "identifier[]", Convert::OrderNumber("FILL")),
        row(4, "code", Convert::Concept(&vocabulary::NONE)),
        unless(7, 8, "effectiveDateTime", Convert::DateTime),
        row(7, "effectivePeriod.start", Convert::ByBuilder),
        row(8, "effectivePeriod.end", Convert::ByBuilder),
        row(22, "issued", Convert::Instant),
        row(24, "category[]", Convert::TableConcept("0074")),
        row(25, "status", Convert::Code(vocabulary::REPORT_STATUS)),
        row(32, "resultsInterpreter[]", Convert::NamedPerson),
        row(34, "performer[]", Convert::NamedPerson),
    ],
};

pub const OBX: SegmentMap = SegmentMap {
    segment: "OBX",
    resource: "Observation",
    rows: &[
        kept(1, COUNTER),
        row(2, "value[x]", Convert::ByBuilder),
        row(3, "code", Convert::Concept(&vocabulary::NONE)),
        row(4, "identifier", Convert::ByBuilder),
        row(5, "value[x]", Convert::ByBuilder),
        row(6, "valueQuantity.unit", Convert::ByBuilder),
        row(7, "referenceRange", Convert::ByBuilder),
        row(8, "interpretation[]", Convert::Interpretation),
        row(11, "status", Convert::ByBuilder),
        row(14, "effectiveDateTime", Convert::DateTime),
        unless(15, 23, "performer[]", Convert::CodedOrganization),
        row(16, "performer[]", Convert::Practitioner),
        row(17, "method", Convert::Concept(&vocabulary::NONE)),
        row(18, "device", Convert::DeviceReference),
        row(20, "bodySite", Convert::Concept(&vocabulary::NONE)),
        row(21, "identifier[]", Convert::OrderNumber("FILL")),
        row(23, "performer[]", Convert::Organization),
    ],
};

pub const EVN: SegmentMap = SegmentMap {
    segment: "EVN",
    resource: "",
    rows: &[
        kept(1, "MSH-9 names the event; a difference is reported"),
        kept(2, "the clock of the event"),
        kept(6, "the clock of the event"),
    ],
};

/// The fate of every field of MSH.
pub const HEADER: &str = "about the message, not the patient: read by the door and kept in the journal";

const ANY_CONCEPT: Convert = Convert::Concept(&vocabulary::NONE);
const MOTHERS_MAIDEN_NAME: &str = "http://hl7.org/fhir/StructureDefinition/patient-mothersMaidenName";
const RELIGION: &str = "http://hl7.org/fhir/StructureDefinition/patient-religion";
const BIRTH_PLACE: &str = "http://hl7.org/fhir/StructureDefinition/patient-birthPlace";
const CITIZENSHIP: &str = "http://hl7.org/fhir/StructureDefinition/patient-citizenship";
const NATIONALITY: &str = "http://hl7.org/fhir/StructureDefinition/patient-nationality";
const ANIMAL: &str = "http://hl7.org/fhir/StructureDefinition/patient-animal";
const DISABILITY: &str = "http://hl7.org/fhir/StructureDefinition/patient-disability";
const CONGREGATION: &str = "http://hl7.org/fhir/StructureDefinition/patient-congregation";
const MODE_OF_ARRIVAL: &str = "http://hl7.org/fhir/StructureDefinition/encounter-modeOfArrival";
const PLANNED_START: &str = "http://hl7.org/fhir/5.0/StructureDefinition/extension-Encounter.plannedStartDate";
const PLANNED_END: &str = "http://hl7.org/fhir/5.0/StructureDefinition/extension-Encounter.plannedEndDate";
const US_CORE_RACE: &str = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-race";
const US_CORE_ETHNICITY: &str = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-ethnicity";
