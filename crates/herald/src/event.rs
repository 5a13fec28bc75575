//! What every rendering is made from: one record with its place in the log, the keyed tokens of its patients, and the
//! one table that says what kind of event it is. All of it is a pure function of the record.
//!
//! Never here: a format (see `audit_event`, `atna`, `ocsf`, `cef`), names of patients.

use std::borrow::Cow;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gate::{AuditRecord, Outcome};

/// Of more patients than this no rendering names each: it gives the set, or its digest.
pub const NAMED_MAX: u64 = 32;

/// The node that recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub mesh: String,
    /// Origin of the audit log, as its checkpoints name it: `hospital/audit`.
    pub log: String,
    /// Scheme and authority of the HTTP doors.
    pub base_url: String,
    pub version: &'static str,
}

/// How a large set of patients is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sets {
    /// The ordinals, as a roaring bitmap (portable format) in base64: for readers with a permit.
    Whole,
    /// Their count and the SHA-256 of that bitmap: enough to find the set again in the log. For what leaves.
    Digest,
}

/// One record, ready to be rendered.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// Names the record, wherever it lies: the id of its AuditEvent.
    pub id: &'a str,
    /// Place in the audit log.
    pub index: u64,
    pub record: &'a AuditRecord,
    /// Keyed tokens of the record's patients, when they are at most [`NAMED_MAX`].
    pub tokens: &'a [[u8; 16]],
    pub sets: Sets,
}

/// A coded value: system, code, words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(pub &'static str, pub &'static str, pub &'static str);

/// DICOM's controlled terminology (PS3.16 annex D).
pub const DCM: &str = "http://dicom.nema.org/resources/ontology/DCM";
const FHIR: &str = "http://hl7.org/fhir/restful-interaction";

/// What kind of event a record is: the one place that reads `action` and the first word of `what`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A RESTful interaction of the FHIR door (R4 §3.1.0), by its code.
    Rest(&'static str),
    /// SQL, through any door.
    Query,
    Export,
    Import,
    SignIn,
    Token,
    AuditLog,
    /// An emergency access began.
    Emergency,
    /// What runs the mesh.
    Other,
}

impl Kind {
    pub fn of(record: &AuditRecord) -> Kind {
        if record.outcome == Outcome::Granted {
            return Kind::Emergency;
        }
        match record.action.as_str() {
            "sign-in" => return Kind::SignIn,
            "mint-token" => return Kind::Token,
            "audit-read" | "proof-read" => return Kind::AuditLog,
            "query" => return Kind::Query,
            "export" | "subscribe" | "ship" => return Kind::Export,
            "ingest" => return Kind::Import,
            "break-glass" => return Kind::Emergency,
            "read" | "search" | "write" => {}
            _ => return Kind::Other,
        }
        // A refusal's `what` is its reason, so there the action alone speaks.
        let first = record.what.split(' ').next().unwrap_or_default();
        let known = ["read", "vread", "create", "update", "patch", "delete", "transaction", "batch"];
        match (record.action.as_str(), known.into_iter().find(|known| *known == first), first) {
            ("read", _, "history") => Kind::Rest("history-instance"),
            ("read", Some(code @ "vread"), _) | ("write", Some(code), _) => Kind::Rest(code),
            ("read", ..) => Kind::Rest("read"),
            ("search", ..) => Kind::Rest("search-type"),
            _ => Kind::Rest("update"),
        }
    }

    /// C, R, U, D or E: DICOM's and FHIR's codes for what was done.
    pub fn action(self) -> &'static str {
        match self {
            Kind::Rest("read" | "vread" | "history-instance") | Kind::AuditLog | Kind::Export => "R",
            Kind::Rest("create") | Kind::Import => "C",
            Kind::Rest("update" | "patch") => "U",
            Kind::Rest("delete") => "D",
            _ => "E",
        }
    }

    /// DICOM's event, where it has one (CID 400).
    pub fn dicom(self) -> Code {
        match self {
            Kind::Rest("search-type") | Kind::Query => Code(DCM, "110112", "Query"),
            Kind::Rest(_) => Code(DCM, "110110", "Patient Record"),
            Kind::Export => Code(DCM, "110106", "Export"),
            Kind::Import => Code(DCM, "110107", "Import"),
            Kind::SignIn | Kind::Token => Code(DCM, "110114", "User Authentication"),
            Kind::AuditLog => Code(DCM, "110101", "Audit Log Used"),
            Kind::Emergency => Code(DCM, "110113", "Security Alert"),
            Kind::Other => Code(DCM, "110100", "Application Activity"),
        }
    }

    /// The narrower code of DICOM or FHIR, where there is one.
    pub fn narrower(self) -> Option<Code> {
        match self {
            Kind::Rest(code) => Some(Code(FHIR, code, code)),
            Kind::SignIn => Some(Code(DCM, "110122", "Login")),
            Kind::Emergency => Some(Code(DCM, "110127", "Emergency Override Started")),
            _ => None,
        }
    }

    /// Whether the client sends what counts (a query, a resource) or receives it: DICOM's source and destination.
    pub fn client_is_source(self) -> bool {
        !matches!(self, Kind::Rest("read" | "vread" | "history-instance") | Kind::AuditLog | Kind::Export)
    }
}

/// DICOM's and FHIR's outcome indicator: each outcome of ours has its own, so that each can be searched for.
pub fn indicator(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Served | Outcome::Granted => "0",
        Outcome::NotFound => "4",
        Outcome::Refused => "8",
        Outcome::Failed => "12",
    }
}

impl<'a> Event<'a> {
    /// The person or service behind the access; a service that acts for a person is the client.
    pub fn user(&self) -> &'a str {
        self.record.on_behalf.as_ref().unwrap_or(&self.record.principal).as_str()
    }

    /// The service that acts for the user, when another does.
    pub fn service(&self) -> Option<&'a str> {
        self.record.on_behalf.as_ref().map(|_| self.record.principal.as_str())
    }

    /// Patients named one by one, each once: those of the response, or the one who was asked for.
    pub fn named(&self) -> impl Iterator<Item = [u8; 16]> {
        let asked = self.record.patient_token.filter(|token| !self.tokens.contains(token));
        self.tokens.iter().copied().chain(asked)
    }

    /// A query as far as the record has it: what was asked for, and the keyed hash of the criteria.
    pub fn request(&self) -> String {
        let kinds = if self.record.kinds.is_empty() { "*".to_owned() } else { self.record.kinds.join(",") };
        match &self.record.query_hash {
            Some(hash) => format!("{kinds}?keyed-hash={}", base::hex::encode(hash)),
            None => kinds,
        }
    }

    /// What has no place of its own in the formats, by name: with what each format places itself (time, outcome, action,
    /// who, on behalf of whom, from where, purpose, what, trace, token, patients), every field of the record.
    pub fn details(&self) -> Vec<(&'static str, Cow<'a, str>)> {
        // No `..`: a new field of the record does not compile until it is rendered.
        let AuditRecord {
            at: _,
            decision,
            policy_version,
            rows,
            part,
            parts,
            layer,
            outcome,
            principal: _,
            domain,
            door,
            action,
            what: _,
            kinds,
            policies,
            obligations,
            on_behalf: _,
            token,
            from: _,
            trace: _,
            purpose: _,
            agreement,
            job,
            query_hash,
            patient_token: _,
            patients,
            patients_of,
            emergency,
            recipient,
            destination,
        } = self.record;
        let mut out: Vec<(&'static str, Cow<'a, str>)> = vec![
            ("log-index", self.index.to_string().into()),
            ("decision", format!("{decision:016x}").into()),
            ("policy-version", format!("{policy_version:016x}").into()),
            ("domain", domain.as_str().into()),
            ("layer", layer.code().into()),
            ("door", door.as_str().into()),
            ("action", action.as_str().into()),
            ("outcome", outcome.code().into()),
            ("rows", rows.to_string().into()),
            ("patients", patients.len().to_string().into()),
        ];
        out.extend(kinds.iter().map(|kind| ("kind", kind.as_str().into())));
        out.extend(policies.iter().map(|policy| ("policy", policy.as_str().into())));
        out.extend(obligations.iter().map(|obligation| ("obligation", obligation.as_str().into())));
        out.extend(agreement.iter().map(|agreement| ("agreement", agreement.as_str().into())));
        out.extend(job.iter().map(|job| ("job", job.as_str().into())));
        out.extend(token.iter().map(|token| ("token", base::hex::encode(token).into())));
        out.extend(query_hash.iter().map(|hash| ("query-keyed-hash", base::hex::encode(hash).into())));
        out.extend(patients_of.iter().map(|domain| ("patients-of", domain.as_str().into())));
        out.extend(recipient.iter().map(|recipient| ("recipient", recipient.as_str().into())));
        out.extend(destination.iter().map(|destination| ("destination", destination.as_str().into())));
        out.extend(emergency.then_some(("emergency", "true".into())));
        if *parts > 1 {
            out.push(("part", format!("{} of {parts}", part + 1).into()));
        }
        if patients.len() > NAMED_MAX {
            out.push(self.set());
        }
        // An empty text is what the record holds when there is nothing to say.
        out.retain(|(_, text)| !text.is_empty());
        out
    }

    fn set(&self) -> (&'static str, Cow<'a, str>) {
        let mut bytes = Vec::with_capacity(self.record.patients.serialized_size());
        // Writing to a Vec does not fail.
        let _ = self.record.patients.serialize_into(&mut bytes);
        match self.sets {
            Sets::Whole => ("patient-set", STANDARD.encode(&bytes).into()),
            Sets::Digest => {
                let digest = digest::digest(&digest::SHA256, &bytes);
                ("patient-set-sha256", base::hex::encode(digest.as_ref()).into())
            }
        }
    }
}
