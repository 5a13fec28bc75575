//! What a write asks of the gate: to write each of its types, to search where it has conditions, to read where it
//! patches; and the reach of these permits, which goes into the journal with the write.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use base::{DomainName, Grant, Layer, LogicalId, Ordinal, PatientSet, Permit, Read, Role, SourceName, Write};
use clinical::{FhirRequest, Interaction, Reach};
use fhir::json::Value;
use fhir::reference::Reference;
use fhir::search::Query;
use policy::Action;

use super::search::refuse_masked_criteria;
use super::{FhirError, write::invalid};
use crate::doors::{Call, Doors};

/// The source that API writes of persons and apps count as.
const API_SOURCE: &str = "fhir-api";

/// A write that may be done.
pub struct Permitted {
    pub source: SourceName,
    pub permit: Permit<Write>,
    /// For conditions and patches: the answer tells what was found.
    pub asked: Vec<Permit<Read>>,
    /// Reads are for the feed's own domain to decide, not for the feed.
    pub is_feed: bool,
}

/// One change that a request asks for.
struct Change<'a> {
    rtype: &'a str,
    interaction: Interaction,
    id: Option<&'a str>,
    /// Of an update, patch or delete.
    criteria: Option<&'a str>,
    if_none_exist: Option<&'a str>,
    resource: Option<&'a Value>,
    /// References between entries are looked up.
    is_of_transaction: bool,
}

/// A feed puts in as its own source; everybody else writes records, each type permitted by itself.
pub async fn permit(
    doors: &Doors,
    call: &Call,
    domain: &DomainName,
    request: &mut FhirRequest,
    value: Option<&Value>,
) -> Result<Permitted, FhirError> {
    if let (Some(source), true) = (call.caller.source(), call.caller.roles().contains(&Role::Feed)) {
        let ask = call.ask(Action::Ingest, domain, Layer::Bronze).kind(source.as_str());
        let permit = doors.gate.permit::<Write>(&call.caller, ask).await?;
        return Ok(Permitted { source: source.clone(), permit, asked: Vec::new(), is_feed: true });
    }
    let source = SourceName::parse(API_SOURCE).map_err(|_| FhirError::unavailable("the source has no name"))?;
    let changes = changes(request, value);
    if changes.iter().any(|change| fhir::definitions::is_server_owned(change.rtype)) {
        let text = "AuditEvent, CapabilityStatement, OperationOutcome and Parameters are made by this server alone";
        return Err(FhirError::new(StatusCode::METHOD_NOT_ALLOWED, "not-supported", text));
    }
    let types: BTreeSet<&str> = changes.iter().map(|change| change.rtype).collect();
    let ask = call.ask(Action::Write, domain, Layer::Silver).kinds(types.iter().copied());
    let records = doors.gate.permit::<Write>(&call.caller, ask).await?;
    let asked = permits_to_ask(doors, call, domain, &changes).await?;
    let mut is_decided_later = false;
    for change in &changes {
        check_patient(doors, domain, records.grant(), change).await?;
        is_decided_later |= change.is_decided_later();
    }
    let reach = match is_decided_later || request.interaction == Interaction::Bundle {
        true => Reach::of(std::iter::once(records.grant()).chain(asked.iter().map(Permit::grant))),
        false => None,
    };
    // The same decision, for the journal that carries the write.
    let ask = call.ask(Action::Write, domain, Layer::Silver).kinds(types).through(&source);
    let permit = doors.gate.permit::<Write>(&call.caller, ask).await?;
    request.reach = reach;
    Ok(Permitted { source, permit, asked, is_feed: false })
}

impl Change<'_> {
    /// What it writes to is known only when its turn comes.
    fn is_decided_later(&self) -> bool {
        self.criteria.is_some() || self.if_none_exist.is_some() || self.interaction == Interaction::Patch
    }
}

/// Everything a request changes.
fn changes<'a>(request: &'a FhirRequest, value: Option<&'a Value>) -> Vec<Change<'a>> {
    if request.interaction != Interaction::Bundle {
        return vec![Change {
            rtype: &request.rtype,
            interaction: request.interaction,
            id: request.id.as_deref(),
            criteria: request.criteria.as_deref(),
            if_none_exist: request.if_none_exist.as_deref(),
            resource: value,
            is_of_transaction: false,
        }];
    }
    let is_of_transaction = value.and_then(|v| v.get("type")).and_then(Value::as_str) == Some("transaction");
    let entries = value.and_then(|bundle| bundle.get("entry")).map(Value::items).unwrap_or_default();
    entries.iter().filter_map(|entry| change_of(entry, is_of_transaction)).collect()
}

/// `None` for an entry that reads. What is wrong with an entry says refine, where it stands.
fn change_of(entry: &Value, is_of_transaction: bool) -> Option<Change<'_>> {
    let text = |name: &str| entry.path(&["request", name]).and_then(Value::as_str);
    let interaction = match text("method") {
        Some("GET" | "HEAD") => return None,
        Some("PUT") => Interaction::Update,
        Some("PATCH") => Interaction::Patch,
        Some("DELETE") => Interaction::Delete,
        _ => Interaction::Create,
    };
    let url = text("url").unwrap_or_default().trim_start_matches('/');
    let (path, criteria) = url.split_once('?').map_or((url, None), |(path, criteria)| (path, Some(criteria)));
    let mut parts = path.split('/');
    let rtype = parts.next().unwrap_or_default();
    Some(Change {
        rtype: if fhir::definitions::resource_type(rtype).is_some() { rtype } else { "Bundle" },
        interaction,
        id: parts.next(),
        criteria,
        if_none_exist: text("ifNoneExist"),
        resource: entry.get("resource"),
        is_of_transaction,
    })
}

/// A condition is a search of its type, and a patch tells of what it tests: neither goes past what the caller may see.
async fn permits_to_ask(
    doors: &Doors,
    call: &Call,
    domain: &DomainName,
    changes: &[Change<'_>],
) -> Result<Vec<Permit<Read>>, FhirError> {
    let mut conditions: BTreeSet<(String, String)> = BTreeSet::new();
    for change in changes {
        let own = [change.criteria, change.if_none_exist].into_iter().flatten();
        conditions.extend(own.map(|criteria| (change.rtype.to_owned(), criteria.to_owned())));
        if let (true, Some(resource)) = (change.is_of_transaction, change.resource) {
            fhir::reference::for_each_reference(resource, &mut |_, reference| {
                let target = reference.get("reference").and_then(Value::as_str);
                if let Some(Reference::Conditional { rtype, query }) = target.and_then(Reference::parse) {
                    conditions.insert((rtype.to_owned(), query.to_owned()));
                }
            });
        }
    }
    let mut permits: Vec<Permit<Read>> = Vec::new();
    // One that does not read is refused where it stands: by the door for a request, by refine for an entry.
    let read = |(rtype, criteria): &(String, String)| fhir::search::parse_criteria(rtype, criteria).ok();
    let queries: Vec<Query> = conditions.iter().filter_map(read).collect();
    let searched: BTreeSet<&str> = queries.iter().flat_map(Query::types).collect();
    if !searched.is_empty() {
        let ask = call.ask(Action::Search, domain, Layer::Silver).kinds(searched);
        let permit = doors.gate.permit::<Read>(&call.caller, ask).await?;
        for query in &queries {
            refuse_masked_criteria(query, &permit.grant().masks)?;
        }
        permits.push(permit);
    }
    let patches = || changes.iter().filter(|change| change.interaction == Interaction::Patch);
    if patches().next().is_some() {
        let patched: BTreeSet<&str> = patches().map(|change| change.rtype).collect();
        let mut ask = call.ask(Action::Read, domain, Layer::Silver).kinds(patched);
        // For one resource the decision may know whose it is, as for a read of it.
        if let [Change { rtype, id: Some(id), .. }] = changes
            && let Ok(id) = LogicalId::parse(id)
            && let Some(patient) = doors.silver.patient_of(domain, rtype, &id).await?
            && patient.is_patient()
        {
            ask = ask.patient(patient);
        }
        let permit = doors.gate.permit::<Read>(&call.caller, ask).await?;
        if !permit.grant().masks.is_empty() {
            let text = "you see this type masked, so you may not patch it: a patch tells of what it tests";
            return Err(FhirError::new(StatusCode::FORBIDDEN, "forbidden", text));
        }
        permits.push(permit);
    }
    Ok(permits)
}

/// A permit for some patients lets nobody write about others, nor about one who cannot be told.
async fn check_patient(
    doors: &Doors,
    domain: &DomainName,
    grant: &Grant,
    change: &Change<'_>,
) -> Result<(), FhirError> {
    let Change { rtype, interaction, .. } = *change;
    let writes_to = change.id.and_then(|id| LogicalId::parse(id).ok());
    if grant.patients == PatientSet::All
        || (rtype != "Patient" && fhir::reference::patient_parameters(rtype).is_empty())
    {
        return Ok(());
    }
    let about = match (rtype, interaction) {
        ("Patient", Interaction::Update | Interaction::Patch | Interaction::Delete) => writes_to.clone(),
        (_, Interaction::Patch) => None,
        _ => change
            .resource
            .and_then(fhir::reference::patient_reference)
            .and_then(|reference| reference.strip_prefix("Patient/"))
            .and_then(|rest| rest.split('/').next())
            .and_then(|id| LogicalId::parse(id).ok()),
    };
    if about.as_ref().is_some_and(|id| doors.silver.is_erased_patient(domain, id)) {
        let text = "the record of this patient was erased: nothing is added to it, and its id is not used again";
        return Err(FhirError::new(StatusCode::GONE, "deleted", text));
    }
    // What is there already may be about somebody else than the new content says.
    if let Some(id) = &writes_to
        && let Some(standing) = doors.silver.patient_of(domain, rtype, id).await?
        && standing.is_patient()
        && !grant.patients.contains(standing)
    {
        return Err(FhirError::not_found());
    }
    // The rest is decided within the reach, when its turn comes.
    let has_own_patient = rtype == "Patient" && change.criteria.is_some();
    if interaction == Interaction::Patch
        || has_own_patient
        || (interaction == Interaction::Delete && change.criteria.is_some())
    {
        return Ok(());
    }
    let ordinal = match about {
        Some(id) => doors.silver.patient_of(domain, "Patient", &id).await?,
        None => None,
    };
    let allowed = match (ordinal, rtype, &grant.patients) {
        (Some(ordinal), ..) => grant.patients.contains(ordinal),
        // A new patient is in nobody's restricted set yet, and in nobody's care team either.
        (None, "Patient", PatientSet::AllBut(_)) => interaction != Interaction::Delete,
        _ => grant.patients.contains(Ordinal::UNKNOWN),
    };
    if allowed {
        return Ok(());
    }
    Err(FhirError::new(
        StatusCode::FORBIDDEN,
        "forbidden",
        "you may write about certain patients only: refer to one of them by a literal reference (Patient/ID)",
    ))
}

/// Criteria of a request by itself are read here, so that what is wrong with them is not journalled.
pub fn check_criteria(request: &FhirRequest) -> Result<(), FhirError> {
    for criteria in [&request.criteria, &request.if_none_exist].into_iter().flatten() {
        if criteria.len() > CRITERIA_BYTES_MAX {
            return Err(invalid("the condition is too long"));
        }
        fhir::search::parse_criteria(&request.rtype, criteria).map_err(|issue| FhirError {
            status: StatusCode::BAD_REQUEST,
            issues: vec![issue],
            retry_after_s: None,
        })?;
    }
    Ok(())
}

const CRITERIA_BYTES_MAX: usize = 16 << 10;
