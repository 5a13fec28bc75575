//! The converters by the names that the tables call them: how a field becomes an element. What each does stands in
//! `convert`; which field goes where stands in `maps`.

use fhir::json;
use fhir::json::Value;
use hl7v2::{Element, Segment};

use super::convert::{Context, Fault, Said, coding, leaf, whole};
use super::plan;
use super::value::Units;
use super::vocabulary::{self, Codes, Vocabulary};

/// How a field becomes an element.
#[derive(Clone)]
pub enum Convert {
    /// Said where the item or the segment is.
    Constant(Value),
    /// CX; the type where CX-5 says none.
    Identifier(&'static str),
    /// EI, of a placer (PLAC), a filler (FILL) or nobody in particular.
    Entity(&'static str),
    /// A part of an EIP: 1 is the placer's, 2 the filler's.
    EntityPart(usize, &'static str),
    /// EIP, whichever part is there.
    Group,
    /// A number that is bare text.
    BareNumber(&'static str),
    /// CWE, a code as a number.
    CodedNumber,
    SocialSecurity,
    DriverLicence,
    Name,
    /// XPN as one line.
    NameText,
    NamedRelative,
    Address,
    /// ST as the text of an address.
    AddressText,
    /// XTN; the use where XTN-2 says none.
    Telecom(Option<&'static str>),
    /// A code of a required value set.
    Code(&'static Vocabulary),
    /// A code as it came.
    RawCode,
    Concept(&'static Vocabulary),
    Coding(&'static Vocabulary),
    /// The first component's subcomponents as a concept: RPT.1, SPS.1.
    InnerConcept,
    Language,
    Date,
    BirthTime,
    DateTime,
    Instant,
    Time,
    /// Component of a TQ, as an instant.
    TimingInstant(usize),
    Text,
    /// A component's whole text.
    Part(usize),
    /// CWE in words: original text, name or code; all repetitions in lines.
    Words,
    /// All repetitions in lines.
    Lines,
    /// As it came, separators included.
    Raw,
    Integer,
    Decimal,
    Boolean,
    Days,
    Quantity,
    /// NM with the unit in this field of the segment.
    Amount(usize),
    Period,
    Practitioner,
    NamedPerson,
    Organization,
    CodedOrganization,
    /// IS or ST that names an organization.
    OrganizationName,
    Resource,
    /// Y: only for those who may see restricted records.
    Protection,
    Confidentiality,
    Place,
    DischargedTo,
    Interpretation,
    DeviceReference,
    NewRecord,
    /// All repetitions as one US Core extension.
    UsCoreGroup(&'static str, Codes, Codes),
}

const US_CORE_RACE: &str = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-race";
const US_CORE_ETHNICITY: &str = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-ethnicity";

impl Convert {
    /// What URLs of our own extensions begin with; the field follows.
    pub const EXTENSION: &'static str = "urn:wardmesh:hl7v2:";

    /// The converter that a row of the tables asks for: by the name of a function, of a type map, or by the types on
    /// both sides.
    pub fn named(
        v2_type: &str,
        type_map: &str,
        vocabulary: &str,
        constant: &'static str,
        leaf: &str,
    ) -> Result<Convert, String> {
        if let Some(function) = type_map.strip_prefix("fn:") {
            return Convert::function(function, constant);
        }
        if type_map.is_empty()
            && let Some(text) = constant.strip_prefix('"')
        {
            return Ok(Convert::Constant(constant_of(text.trim_end_matches('"').trim(), leaf)));
        }
        if !type_map.is_empty()
            && !vocabulary.is_empty()
            && !vocabulary.starts_with('"')
            && plan::vocabulary(vocabulary).table.is_empty()
            && plan::vocabulary(vocabulary).is_empty()
        {
            // Vocabularies that the guide names and leaves empty have a table all the same; a wrong name has none.
            if !plan::knows(vocabulary) {
                return Err(format!("no vocabulary `{vocabulary}`"));
            }
        }
        let codes = plan::vocabulary(vocabulary);
        let (from, to) = match type_map.split_once('[') {
            Some((from, to)) => (from, to.trim_end_matches(']')),
            None => (v2_type, leaf),
        };
        let to = to.split('-').next().unwrap_or(to).to_lowercase();
        let argument = if constant.starts_with(['"', '/', '#']) { "" } else { constant };
        Convert::between(from, &to, type_map, codes, argument)
            .ok_or_else(|| format!("no converter from `{from}` to `{to}`"))
    }

    fn between(
        from: &str,
        to: &str,
        type_map: &str,
        codes: &'static Vocabulary,
        argument: &'static str,
    ) -> Option<Convert> {
        Some(match (from, to) {
            (_, "codeableconcept") => Convert::Concept(codes),
            (_, "coding") => Convert::Coding(codes),
            (_, "code") if codes.is_empty() => Convert::RawCode,
            (_, "code") => Convert::Code(codes),
            ("CX", "identifier") => Convert::Identifier(argument),
            ("EIP", "identifier") if type_map.contains("Filler") => Convert::EntityPart(2, "FILL"),
            ("EIP", "identifier") => Convert::EntityPart(1, "PLAC"),
            ("EI" | "PLN", "identifier") => Convert::Entity(""),
            ("DLN", "identifier") => Convert::DriverLicence,
            ("CWE" | "CE" | "HD", "identifier") => Convert::CodedNumber,
            ("ST", "identifier") => Convert::BareNumber(""),
            ("XPN", "humanname") => Convert::Name,
            ("XPN", "string") => Convert::NameText,
            ("XAD", "address") => Convert::Address,
            (_, "contactpoint") => Convert::Telecom(Some(argument).filter(|a| !a.is_empty())),
            (
                "XCN" | "PPN" | "CNN",
                "practitioner" | "practitionerrole" | "patient" | "relatedperson" | "reference",
            ) => Convert::Practitioner,
            ("NDL", "practitionerrole" | "reference") => Convert::NamedPerson,
            ("XON", "organization" | "location" | "reference") => Convert::Organization,
            ("CWE", "organization") => Convert::CodedOrganization,
            ("HD", "organization" | "location") => Convert::OrganizationName,
            ("PL" | "LA1" | "LA2", "location" | "reference") => Convert::Place,
            ("DLD", "location") => Convert::DischargedTo,
            ("CQ", "quantity" | "simplequantity") => Convert::Quantity,
            ("DR", "period") => Convert::Period,
            ("CWE" | "CNE", "string" | "markdown") => Convert::Words,
            (_, "string" | "markdown" | "uri" | "url") => Convert::Text,
            (_, "date") => Convert::Date,
            (_, "datetime") => Convert::DateTime,
            (_, "instant") => Convert::Instant,
            (_, "time") => Convert::Time,
            (_, "boolean") => Convert::Boolean,
            (_, "integer" | "positiveint" | "unsignedint") => Convert::Integer,
            (_, "decimal") => Convert::Decimal,
            ("ST", "address") => Convert::AddressText,
            _ => return None,
        })
    }

    fn function(name: &str, argument: &'static str) -> Result<Convert, String> {
        Ok(match name {
            "race" => Convert::UsCoreGroup(US_CORE_RACE, vocabulary::OMB_RACE, &[]),
            "ethnicity" => {
                Convert::UsCoreGroup(US_CORE_ETHNICITY, vocabulary::OMB_ETHNICITY, vocabulary::ETHNICITY_0189)
            }
            "birth_time" => Convert::BirthTime,
            "language" => Convert::Language,
            "social_security" => Convert::SocialSecurity,
            "protection" => Convert::Protection,
            "confidentiality" => Convert::Confidentiality,
            "organization_name" => Convert::OrganizationName,
            "days" => Convert::Days,
            "placer" => Convert::Entity("PLAC"),
            "filler" => Convert::Entity("FILL"),
            "group" => Convert::Group,
            "prescription" => Convert::BareNumber("prescription"),
            "file" => Convert::BareNumber("file"),
            "first" => Convert::RawCode,
            "second" => Convert::Part(2),
            "raw" => Convert::Raw,
            "text" => Convert::Lines,
            "words" => Convert::Words,
            "named_relative" => Convert::NamedRelative,
            "named_organization" => Convert::CodedOrganization,
            "resource" => Convert::Resource,
            "repeat_pattern" | "specimen_source" => Convert::InnerConcept,
            "timing_start" => Convert::TimingInstant(4),
            "timing_end" => Convert::TimingInstant(5),
            "new_record" => Convert::NewRecord,
            "administered_at" => Convert::Place,
            "interpretation" => Convert::Interpretation,
            "device" => Convert::DeviceReference,
            "amount" => Convert::Amount(argument.parse().map_err(|_| "an amount without the field of its unit")?),
            _ => return Err(format!("no function `{name}`")),
        })
    }

    /// Whether all repetitions go into one value.
    pub fn takes_whole_field(&self) -> bool {
        matches!(self, Convert::UsCoreGroup(..) | Convert::Lines | Convert::Words | Convert::Raw)
    }

    pub fn is_constant(&self) -> bool {
        matches!(self, Convert::Constant(_))
    }
}

fn constant_of(text: &str, leaf: &str) -> Value {
    match leaf {
        "boolean" => Value::Bool(text == "true"),
        "decimal" | "integer" | "positiveInt" | "unsignedInt" => match super::value::number(text) {
            Some(number) => Value::Number(number),
            None => Value::from(text),
        },
        _ => Value::from(text),
    }
}

/// One repetition (or the whole field) by a converter.
pub fn convert(context: &Context<'_>, segment: Segment<'_>, element: Element<'_>, by: &Convert) -> Result<Said, Fault> {
    let value = match by {
        Convert::Constant(value) => Some(value.clone()),
        Convert::Identifier(kind) => context.identifier(element, kind),
        Convert::Entity(role) => context.order_number(element, role),
        Convert::EntityPart(n, role) => context.entity_part(element, *n, role),
        Convert::Group => context.entity_part(element, 1, "PLAC").or_else(|| context.entity_part(element, 2, "FILL")),
        Convert::BareNumber(kind) => context.bare_number(element, kind),
        Convert::CodedNumber => context.coded_number(element),
        Convert::SocialSecurity => context.social_security(element),
        Convert::DriverLicence => context.driver_licence(element),
        Convert::Name => context.human_name(element, 0),
        Convert::NameText => context.name_text(element).map(Value::from),
        Convert::NamedRelative => {
            context.name_text(element).map(|name| json!({"type": "RelatedPerson", "display": name}))
        }
        Convert::Address => context.address(element, None),
        Convert::AddressText => leaf(element).map(|text| json!({"text": text})),
        Convert::Telecom(use_) => context.contact_point(element, *use_),
        Convert::Code(codes) => return context.required_code(element, codes),
        Convert::RawCode => context.raw_code(element).map(Value::from),
        Convert::Concept(vocabulary) => context.concept(element, vocabulary),
        Convert::Coding(vocabulary) => context.one_coding(element, vocabulary),
        Convert::InnerConcept => context.inner_concept(element.component(1)),
        Convert::Language => context.language(element),
        Convert::Date => return context.date(element),
        Convert::BirthTime => return context.birth_time(element),
        Convert::DateTime => return context.date_time(element),
        Convert::Instant => return context.instant(element),
        Convert::Time => return context.time(element),
        Convert::TimingInstant(n) => return context.instant(element.component(*n)),
        Convert::Text => leaf(element).map(Value::from),
        Convert::Part(n) => whole(element.component(*n)).map(Value::from),
        Convert::Words => context.words(element).map(Value::from),
        Convert::Lines => context.lines(element).map(Value::from),
        Convert::Raw => element.value().map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()).map(Value::from),
        Convert::Integer => return context.integer(element),
        Convert::Decimal => return context.decimal(element),
        Convert::Boolean => return context.boolean(element),
        Convert::Days => return days(context, element),
        Convert::Quantity => return context.quantity(element),
        Convert::Amount(unit) => return context.amount(element, &Units::of_field(context, segment, *unit)),
        Convert::Period => context.period(element.component(1), element.component(2)),
        Convert::Practitioner => context.practitioner(element),
        Convert::NamedPerson => context.named_person(element),
        Convert::Organization => context.organization(element),
        Convert::CodedOrganization => context.coded_organization(element),
        Convert::OrganizationName => leaf(element).map(|name| json!({"type": "Organization", "display": name})),
        Convert::Resource => context.words(element).map(|name| json!({"type": "Device", "display": name})),
        Convert::Protection => return protection(context, element),
        Convert::Confidentiality => confidentiality(element),
        Convert::Place => context.place(element),
        Convert::DischargedTo => context.discharged_to(element),
        Convert::Interpretation => interpretation(context, element),
        Convert::DeviceReference => context.order_number(element, "DEVICE").map(|mut identifier| {
            if let Some(object) = identifier.as_object_mut() {
                object.remove("type");
            }
            json!({"type": "Device", "identifier": identifier})
        }),
        Convert::NewRecord => leaf(element).map(|code| Value::Bool(code == "00")),
        Convert::UsCoreGroup(url, categories, local) => context.us_core_group(element, url, categories, local),
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

const CONFIDENTIALITY: &str = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality";

/// A protected person or visit is labelled restricted (v3 Confidentiality), which storage and policy go by.
fn protection(context: &Context<'_>, element: Element<'_>) -> Result<Said, Fault> {
    Ok(match context.boolean(element)? {
        Said::Value(Value::Bool(true)) => Said::Value(coding(CONFIDENTIALITY, "R", Some("restricted"))),
        Said::Value(_) => Said::Remove,
        other => other,
    })
}

/// Table 0272: a document that is restricted or very restricted is labelled so.
fn confidentiality(element: Element<'_>) -> Option<Value> {
    match leaf(element)?.as_str() {
        "V" => Some(coding(CONFIDENTIALITY, "V", Some("very restricted"))),
        "R" => Some(coding(CONFIDENTIALITY, "R", Some("restricted"))),
        _ => None,
    }
}

/// OBX-8: table 0078 as v3 ObservationInterpretation, else what was sent.
fn interpretation(context: &Context<'_>, element: Element<'_>) -> Option<Value> {
    let code = leaf(element.component(1))?;
    match plan::vocabulary("InterpretationCodes").find(&code) {
        Some(found) => Some(json!({"coding": [(coding(found.system, found.code, Some(found.display)))]})),
        None => context.concept(element, plan::vocabulary("")),
    }
}
