//! What a trigger event does (v2.8.2 chapter 3; HL7 table 0003): whom it is about, what it does to the patient's record
//! and to the visit given how that stands, and which event takes it back. The event decides the status of a visit, never
//! a field of a later update; the guide's own table would set `unknown` on A08.

use base::Timestamp;

use super::draft::Policy;

/// Whom an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    Person,
    Account,
    Visit,
    /// Results, which make an order known and change none.
    Result,
    /// Orders and the like, which name a patient and a visit by the way.
    Other,
}

/// What happens to the patient's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatientEffect {
    /// Created or changed by what PID says.
    Upsert,
    /// Created where unknown; never changed: the sender is not the authority.
    CreateOnly,
    /// MRG names a record that becomes part of the one in PID.
    Merge,
    /// No longer in use; nothing is deleted.
    Inactivate,
    /// The two records of the message are of one person, and both go on.
    Link,
    /// They are not.
    Unlink,
}

/// What happens to the visit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VisitEffect {
    /// The event is not about a visit: PV1 is not read.
    None,
    /// PV1 changes the visit; its status stays.
    Update,
    /// The visit takes the status, unless it is in one of these, which a late or doubled event does not undo.
    Status(&'static str, &'static [&'static str]),
    /// The visit ends, at PV1-45 or else at the time of the event.
    End,
    /// The end is taken back: in progress again, without an end.
    Reopen,
    /// Created where unknown; never changed.
    CreateOnly,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effect {
    pub subject: Subject,
    pub patient: PatientEffect,
    pub visit: VisitEffect,
    /// The event that takes it back.
    pub inverse: &'static str,
}

impl Effect {
    pub const NOTHING: Effect =
        Effect { subject: Subject::Other, patient: PatientEffect::CreateOnly, visit: VisitEffect::None, inverse: "" };

    /// Whether a message of the event may change resources of a type, or only make them known.
    pub fn policy(&self, rtype: &str) -> Policy {
        match rtype {
            "Account" if self.subject == Subject::Account => Policy::CreateOrUpdate,
            "Patient" | "Account" if self.patient == PatientEffect::CreateOnly => Policy::CreateOnly,
            "Encounter" if self.visit == VisitEffect::CreateOnly => Policy::CreateOnly,
            "ServiceRequest" if self.subject == Subject::Result => Policy::CreateOnly,
            _ => Policy::CreateOrUpdate,
        }
    }
}

/// A visit that is over, or was none, does not begin again by a message that came late.
const OVER: &[&str] = &["finished", "cancelled", "entered-in-error"];
const DELETED: &[&str] = &["entered-in-error"];
/// Planning does not undo what has begun.
const BEGUN: &[&str] = &["arrived", "triaged", "in-progress", "onleave", "finished", "entered-in-error"];

type Row = (&'static str, Subject, PatientEffect, VisitEffect, &'static str);

/// The events of ADT. A19 is a query and A20 is about a bed; A56 to A59 do not exist.
const ADT: &[Row] = {
    use PatientEffect::{Inactivate, Link, Merge, Unlink, Upsert};
    use Subject::{Account, Person, Visit};
    use VisitEffect::{End, None, Reopen, Status, Update};
    &[
        ("A01", Visit, Upsert, Status("in-progress", DELETED), "A11"),
        ("A02", Visit, Upsert, Status("in-progress", OVER), "A12"),
        ("A03", Visit, Upsert, End, "A13"),
        // The guide says planned, but a registered patient has arrived (§3.3.4).
        ("A04", Visit, Upsert, Status("in-progress", DELETED), "A11"),
        ("A05", Visit, Upsert, Status("planned", BEGUN), "A38"),
        ("A06", Visit, Upsert, Status("in-progress", OVER), "A07"),
        ("A07", Visit, Upsert, Status("in-progress", OVER), "A06"),
        ("A08", Visit, Upsert, Update, ""),
        ("A09", Visit, Upsert, Update, "A33"),
        ("A10", Visit, Upsert, Update, "A32"),
        ("A11", Visit, Upsert, Status("cancelled", DELETED), "A01"),
        ("A12", Visit, Upsert, Update, "A02"),
        ("A13", Visit, Upsert, Reopen, "A03"),
        ("A14", Visit, Upsert, Status("planned", BEGUN), "A27"),
        ("A15", Visit, Upsert, Update, "A26"),
        ("A16", Visit, Upsert, Update, "A25"),
        ("A17", Visit, Upsert, Update, "A17"),
        ("A18", Person, Merge, None, "A37"),
        ("A21", Visit, Upsert, Status("onleave", OVER), "A52"),
        ("A22", Visit, Upsert, Status("in-progress", OVER), "A53"),
        ("A23", Visit, Upsert, Status("entered-in-error", &[]), ""),
        ("A24", Person, Link, None, "A37"),
        ("A25", Visit, Upsert, Update, "A16"),
        ("A26", Visit, Upsert, Update, "A15"),
        ("A27", Visit, Upsert, Status("cancelled", BEGUN), "A14"),
        // About the person only (§3.3.28, §3.3.31): a PV1 there is required by the structure and says N.
        ("A28", Person, Upsert, None, "A29"),
        ("A29", Person, Inactivate, None, "A28"),
        ("A30", Person, Merge, None, "A37"),
        ("A31", Person, Upsert, None, ""),
        ("A32", Visit, Upsert, Update, "A10"),
        ("A33", Visit, Upsert, Update, "A09"),
        ("A34", Person, Merge, None, "A37"),
        ("A35", Account, Upsert, None, ""),
        ("A36", Person, Merge, None, "A37"),
        ("A37", Person, Unlink, None, "A24"),
        ("A38", Visit, Upsert, Status("cancelled", BEGUN), "A05"),
        ("A39", Person, Merge, None, "A37"),
        ("A40", Person, Merge, None, "A37"),
        ("A41", Account, Upsert, Update, ""),
        ("A42", Visit, Upsert, Update, ""),
        // A move is taken back by the same move the other way round.
        ("A43", Person, Upsert, None, "A43"),
        ("A44", Account, Upsert, None, "A44"),
        ("A45", Visit, Upsert, Update, "A45"),
        ("A46", Person, Upsert, None, "A46"),
        // So is a change of a number.
        ("A47", Person, Upsert, None, "A47"),
        ("A48", Person, Upsert, None, "A48"),
        ("A49", Account, Upsert, None, "A49"),
        ("A50", Visit, Upsert, Update, "A50"),
        ("A51", Visit, Upsert, Update, "A51"),
        ("A52", Visit, Upsert, Status("in-progress", OVER), "A21"),
        ("A53", Visit, Upsert, Status("onleave", OVER), "A22"),
        ("A54", Visit, Upsert, Update, "A55"),
        ("A55", Visit, Upsert, Update, "A54"),
        ("A60", Person, Upsert, Update, ""),
        ("A61", Visit, Upsert, Update, "A62"),
        ("A62", Visit, Upsert, Update, "A61"),
    ]
};

/// What a move takes to another patient (§3.3.43 to §3.3.45).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveOf {
    /// Numbers of a person, with all that came under them.
    Numbers,
    /// An account, with its visits and what belongs to those.
    Account,
    /// A visit and what belongs to it.
    Visit,
}

pub fn moves(code: &str, trigger: &str) -> Option<MoveOf> {
    match (code, trigger) {
        ("ADT", "A43") => Some(MoveOf::Numbers),
        ("ADT", "A44") => Some(MoveOf::Account),
        ("ADT", "A45") => Some(MoveOf::Visit),
        _ => None,
    }
}

/// Types of message other than ADT: they make a patient and a visit known and change neither.
const OTHERS: &[&str] = &["ORM", "OML", "OMG", "MDM", "VXU", "SIU", "DFT", "RDE", "RDS", "RAS", "REF", "PPR"];

/// The effect of an event, `None` where there is no map for it.
pub fn effect(code: &str, trigger: &str) -> Option<Effect> {
    let (patient, visit) = (PatientEffect::CreateOnly, VisitEffect::CreateOnly);
    match code {
        "ADT" => ADT.iter().find(|row| row.0 == trigger).map(|(_, subject, patient, visit, inverse)| Effect {
            subject: *subject,
            patient: *patient,
            visit: *visit,
            inverse,
        }),
        "BAR" => Some(Effect { subject: Subject::Account, patient, visit, inverse: "" }),
        "ORU" | "OUL" => Some(Effect { subject: Subject::Result, patient, visit, inverse: "" }),
        _ if OTHERS.contains(&code) => Some(Effect { subject: Subject::Other, patient, visit, inverse: "" }),
        _ => None,
    }
}

/// Whether messages of a type have a map at all.
pub fn has_map(code: &str) -> bool {
    matches!(code, "ADT" | "BAR" | "ORU" | "OUL") || OTHERS.contains(&code)
}

/// Status of an appointment by its event, where SCH-25 says none (§10.4).
pub fn appointment(trigger: &str) -> Option<&'static str> {
    Some(match trigger {
        "S12" | "S13" => "booked",
        "S15" | "S16" => "cancelled",
        "S17" => "entered-in-error",
        "S26" => "noshow",
        _ => return None,
    })
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

const DAY_MS: i64 = 86_400_000;

/// Whether the time a message gives its event can be true: not more than a day ahead of its arrival, not before the
/// first version of the standard. Otherwise the order of arrival counts.
pub fn plausible(clock: Timestamp, received: Option<Timestamp>) -> bool {
    const FIRST_VERSION_MS: i64 = 536_457_600_000;
    clock.0 >= FIRST_VERSION_MS && received.is_none_or(|received| clock.0 <= received.0 + DAY_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole_and_inverses_meet() {
        for n in 1..=62 {
            let trigger = format!("A{n:02}");
            let there = effect("ADT", &trigger);
            assert_eq!(there.is_none(), matches!(n, 19 | 20 | 56..=59), "{trigger}");
            let Some(there) = there else { continue };
            if !there.inverse.is_empty() {
                let back = effect("ADT", there.inverse).unwrap_or_else(|| panic!("{trigger}: {}", there.inverse));
                assert_eq!(back.subject, there.subject, "{trigger}");
            }
        }
        for update in ["A08", "A31"] {
            let visit = effect("ADT", update).unwrap().visit;
            assert!(matches!(visit, VisitEffect::Update | VisitEffect::None), "{update} never changes a status");
        }
    }

    #[test]
    fn a_clock_that_cannot_be_true_is_none() {
        let now = Some(Timestamp(1_767_225_600_000));
        assert!(plausible(Timestamp(1_767_225_600_000), now) && plausible(Timestamp(1_500_000_000_000), now));
        assert!(!plausible(Timestamp(1_888_000_000_000), now) && !plausible(Timestamp(0), now));
        assert!(plausible(Timestamp(1_888_000_000_000), None));
    }
}
