//! What a trigger event does (v2.8.2 chapter 3; HL7 table 0003). The event decides the status of a visit, never a
//! field of a later update; the guide's own table would set `unknown` on A08.

/// What happens to the patient's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatientEffect {
    /// Created or changed by what PID says.
    Upsert,
    /// Created where unknown; never changed: the sender is not the authority.
    CreateOnly,
    /// MRG names a record that becomes part of the one in PID.
    Merge,
}

/// What happens to the visit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VisitEffect {
    /// The event is not about a visit: PV1 is not read.
    None,
    /// PV1 changes the visit; its status stays.
    Update,
    /// The visit takes this status.
    Status(&'static str),
    /// The visit ends, at PV1-45 or else at the time of the event.
    End,
    /// The end is taken back: in progress again, without an end.
    Reopen,
    /// Created where unknown; never changed.
    CreateOnly,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effect {
    pub patient: PatientEffect,
    pub visit: VisitEffect,
}

/// The effect of an event, `None` where there is no map for it yet.
pub fn effect(code: &str, trigger: &str) -> Option<Effect> {
    use PatientEffect::{CreateOnly, Merge, Upsert};
    let (patient, visit) = match (code, trigger) {
        // The guide says planned for A04, but a registered patient has arrived (§3.3.4).
        ("ADT", "A01" | "A04") => (Upsert, VisitEffect::Status("in-progress")),
        ("ADT", "A03") => (Upsert, VisitEffect::End),
        ("ADT", "A08") => (Upsert, VisitEffect::Update),
        ("ADT", "A11") => (Upsert, VisitEffect::Status("cancelled")),
        ("ADT", "A13") => (Upsert, VisitEffect::Reopen),
        // About the person only (§3.3.28, §3.3.31): a PV1 there is required by the structure and says N.
        ("ADT", "A28" | "A31") => (Upsert, VisitEffect::None),
        ("ADT", "A40") => (Merge, VisitEffect::None),
        ("ORU", "R01") => (CreateOnly, VisitEffect::CreateOnly),
        _ => return None,
    };
    Some(Effect { patient, visit })
}

/// Status of a visit that a message speaks of before any event said one: only what PV1 itself shows.
pub fn status_shown(class: Option<&str>, admitted: bool, discharged: bool) -> &'static str {
    match (class, admitted, discharged) {
        (_, _, true) => "finished",
        (Some("P"), ..) => "planned",
        (_, true, _) => "in-progress",
        _ => "unknown",
    }
}
