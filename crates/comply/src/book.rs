//! What stands: holds and erasures, as the facts say. Pure: a fact in, a state out, the same at every start.

use std::collections::BTreeMap;

use base::{DomainName, LogicalId, Ordinal, PrincipalId, Timestamp};
use serde::{Deserialize, Serialize};

/// Facts of this crate have kinds of these prefixes.
pub const PREFIXES: [&str; 2] = ["erasure-", "hold-"];
/// Approvals that an erasure needs, by different people, none of them the requester.
pub const APPROVERS: usize = 2;

/// A source record of a domain: whom an erasure or hold is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    pub domain: DomainName,
    pub patient: LogicalId,
    pub ordinal: Ordinal,
}

/// Why the law lets a record be erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ground {
    /// The patient asks (GDPR Art. 17, state law). A retention duty stands against it.
    PatientRequest,
    /// A court or authority orders it.
    Order,
    /// The record should never have been made: another person's, a test, a double.
    EnteredInError,
}

impl Ground {
    pub fn parse(code: &str) -> Option<Ground> {
        serde_json::from_value(code.into()).ok()
    }

    pub fn yields_to_retention(self) -> bool {
        matches!(self, Ground::PatientRequest)
    }
}

/// Why nothing may be destroyed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HoldKind {
    Legal,
    /// An open request of the patient, such as for access: it must be answered first.
    PatientRequest,
}

impl HoldKind {
    pub fn parse(code: &str) -> Option<HoldKind> {
        serde_json::from_value(code.into()).ok()
    }
}

/// A hold on a record, or on a whole domain. Its number is the position of the fact that placed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub domain: DomainName,
    /// None: everything of the domain.
    pub patient: Option<Subject>,
    pub kind: HoldKind,
    pub reason: String,
    pub by: PrincipalId,
}

/// What a fact says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    HoldPlaced {
        hold: Hold,
    },
    HoldLifted {
        hold: u64,
        by: PrincipalId,
    },
    ErasureRequested {
        subject: Subject,
        ground: Ground,
        reason: String,
        by: PrincipalId,
    },
    /// Refused by the checks, or by a person.
    ErasureRefused {
        erasure: u64,
        by: PrincipalId,
        why: String,
    },
    /// `disclosed`: who was given the record before, as the audit log knew it then.
    ErasureApproved {
        erasure: u64,
        by: PrincipalId,
        disclosed: Vec<String>,
    },
    ErasureHidden {
        erasure: u64,
    },
    ErasurePlanned {
        erasure: u64,
        plan: String,
    },
    /// `epoch`: the key epoch at the time; final when it is gone.
    ErasureDestroyed {
        erasure: u64,
        epoch: u64,
        copies: String,
    },
    ErasureFinal {
        erasure: u64,
        epoch: u64,
    },
    ErasureCertified {
        erasure: u64,
        text: String,
    },
    DisposalCertified {
        domain: DomainName,
        class: String,
        year: u16,
        by: PrincipalId,
        text: String,
    },
}

impl Event {
    /// The kind of its fact, in the clear.
    pub fn kind(&self) -> &'static str {
        match self {
            Event::HoldPlaced { .. } => "hold-placed",
            Event::HoldLifted { .. } => "hold-lifted",
            Event::ErasureRequested { .. } => "erasure-requested",
            Event::ErasureRefused { .. } => "erasure-refused",
            Event::ErasureApproved { .. } => "erasure-approved",
            Event::ErasureHidden { .. } => "erasure-hidden",
            Event::ErasurePlanned { .. } => "erasure-planned",
            Event::ErasureDestroyed { .. } => "erasure-destroyed",
            Event::ErasureFinal { .. } => "erasure-final",
            Event::ErasureCertified { .. } => "erasure-certified",
            Event::DisposalCertified { .. } => "erasure-disposal-certified",
        }
    }
}

/// How far an erasure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Refused,
    Requested,
    Approved,
    Hidden,
    Planned,
    Destroyed,
    Final,
    Certified,
}

/// One step, for the certificate: when, by whom, and the control entry that says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    pub position: u64,
    pub at: Timestamp,
    pub what: &'static str,
    pub by: Option<PrincipalId>,
}

/// An erasure as the facts have it. Its number is the position of its request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Erasure {
    pub number: u64,
    pub subject: Subject,
    pub ground: Ground,
    pub reason: String,
    pub requester: PrincipalId,
    pub approvers: Vec<PrincipalId>,
    pub state: State,
    pub steps: Vec<Step>,
    pub refusal: Option<String>,
    pub disclosed: Vec<String>,
    pub plan: Option<String>,
    pub copies: String,
    pub epoch: Option<u64>,
    pub certificate: Option<String>,
}

/// What stands against an erasure or an expiry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Against {
    #[error("a {kind} hold stands against it (control/{hold}): it must be lifted first")]
    Hold { hold: u64, kind: &'static str },
    #[error(
        "the records must be kept until the end of {until} (class {class}): only an order or an error in making them goes before that"
    )]
    Retention { class: String, until: u16 },
    #[error("an erasure of this record is under way already (control/{erasure})")]
    UnderWay { erasure: u64 },
}

/// Everything that stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Book {
    pub holds: BTreeMap<u64, Hold>,
    pub erasures: BTreeMap<u64, Erasure>,
}

impl Book {
    /// Takes in a fact. One that does not fit what stands changes nothing: the first word counts.
    pub fn apply(&mut self, position: u64, at: Timestamp, event: Event) {
        let what = event.kind();
        let mut step = |book: &mut Book, erasure: u64, by: Option<PrincipalId>, state: State| {
            let found = book.erasures.get_mut(&erasure)?;
            found.steps.push(Step { position, at, what, by });
            found.state = state;
            Some(erasure)
        };
        match event {
            Event::HoldPlaced { hold } => drop(self.holds.insert(position, hold)),
            Event::HoldLifted { hold, .. } => drop(self.holds.remove(&hold)),
            Event::ErasureRequested { subject, ground, reason, by } => {
                let erasure = Erasure {
                    number: position,
                    subject,
                    ground,
                    reason,
                    requester: by.clone(),
                    approvers: Vec::new(),
                    state: State::Requested,
                    steps: vec![Step { position, at, what, by: Some(by) }],
                    refusal: None,
                    disclosed: Vec::new(),
                    plan: None,
                    copies: String::new(),
                    epoch: None,
                    certificate: None,
                };
                self.erasures.insert(position, erasure);
            }
            Event::ErasureRefused { erasure, by, why } => {
                step(self, erasure, Some(by), State::Refused);
                self.with(erasure, |e| e.refusal = Some(why));
            }
            Event::ErasureApproved { erasure, by, disclosed } => {
                let enough = self.erasures.get(&erasure).is_some_and(|e| e.approvers.len() + 1 >= APPROVERS);
                let state = if enough { State::Approved } else { State::Requested };
                step(self, erasure, Some(by.clone()), state);
                self.with(erasure, |e| {
                    e.approvers.push(by);
                    e.disclosed = disclosed;
                });
            }
            Event::ErasureHidden { erasure } => drop(step(self, erasure, None, State::Hidden)),
            Event::ErasurePlanned { erasure, plan } => {
                step(self, erasure, None, State::Planned);
                self.with(erasure, |e| e.plan = Some(plan));
            }
            Event::ErasureDestroyed { erasure, epoch, copies } => {
                step(self, erasure, None, State::Destroyed);
                self.with(erasure, |e| (e.epoch, e.copies) = (Some(epoch), copies));
            }
            Event::ErasureFinal { erasure, .. } => drop(step(self, erasure, None, State::Final)),
            Event::ErasureCertified { erasure, text } => {
                step(self, erasure, None, State::Certified);
                self.with(erasure, |e| e.certificate = Some(text));
            }
            Event::DisposalCertified { .. } => {}
        }
    }

    fn with(&mut self, erasure: u64, change: impl FnOnce(&mut Erasure)) {
        if let Some(erasure) = self.erasures.get_mut(&erasure) {
            change(erasure);
        }
    }

    /// The hold that keeps a record, or with none the first of the domain.
    pub fn hold_on(&self, domain: &DomainName, patient: Option<Ordinal>) -> Option<Against> {
        let holds = |hold: &Hold| {
            hold.domain == *domain
                && match (&hold.patient, patient) {
                    (None, _) | (_, None) => true,
                    (Some(held), Some(patient)) => held.ordinal == patient,
                }
        };
        self.holds.iter().find(|(_, hold)| holds(hold)).map(|(number, hold)| Against::Hold {
            hold: *number,
            kind: match hold.kind {
                HoldKind::Legal => "legal",
                HoldKind::PatientRequest => "patient-request",
            },
        })
    }

    /// What stands against an erasure now. `kept` names the classes and years of the record's keys, with the last year
    /// through which each must be kept.
    pub fn against(&self, subject: &Subject, ground: Ground, kept: &[(String, u16)], year: u16) -> Option<Against> {
        if let Some(hold) = self.hold_on(&subject.domain, Some(subject.ordinal)) {
            return Some(hold);
        }
        if let Some((class, until)) = kept.iter().filter(|(_, until)| *until >= year).max_by_key(|(_, until)| *until)
            && ground.yields_to_retention()
        {
            return Some(Against::Retention { class: class.clone(), until: *until });
        }
        None
    }

    /// An erasure of this record that is not refused.
    pub fn under_way(&self, subject: &Subject) -> Option<Against> {
        let same = |e: &&Erasure| e.subject == *subject && e.state != State::Refused;
        self.erasures.values().find(same).map(|e| Against::UnderWay { erasure: e.number })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(name: &str) -> PrincipalId {
        PrincipalId::parse(name).unwrap()
    }

    fn subject() -> Subject {
        Subject {
            domain: DomainName::parse("ehr").unwrap(),
            patient: LogicalId::parse("p1").unwrap(),
            ordinal: Ordinal(7),
        }
    }

    #[test]
    fn two_approvals_make_it_and_every_event_survives_its_json() {
        let mut book = Book::default();
        let (ground, reason) = (Ground::Order, "order 1".to_owned());
        let events = [
            Event::ErasureRequested { subject: subject(), ground, reason, by: by("a") },
            Event::ErasureApproved { erasure: 0, by: by("b"), disclosed: vec![] },
            Event::ErasureApproved { erasure: 0, by: by("c"), disclosed: vec!["x".into()] },
            Event::ErasureHidden { erasure: 0 },
        ];
        let mut states = Vec::new();
        for (n, event) in events.into_iter().enumerate() {
            let again: Event = serde_json::from_slice(&serde_json::to_vec(&event).unwrap()).unwrap();
            assert_eq!(again, event);
            book.apply(n as u64, Timestamp(n as i64), event);
            states.push(book.erasures[&0].state);
        }
        assert_eq!(states, [State::Requested, State::Requested, State::Approved, State::Hidden]);
        assert_eq!(book.erasures[&0].disclosed, ["x"]);
    }

    #[test]
    fn holds_and_duties_stand_against_it_as_the_ground_says() {
        let mut book = Book::default();
        let kept = [("clinical-6y".to_owned(), 2032)];
        let against = |book: &Book, ground, year| book.against(&subject(), ground, &kept, year);
        assert!(matches!(against(&book, Ground::PatientRequest, 2032), Some(Against::Retention { until: 2032, .. })));
        assert_eq!(against(&book, Ground::PatientRequest, 2033), None);
        assert_eq!(against(&book, Ground::Order, 2026), None);
        let hold = |patient| Hold {
            domain: subject().domain,
            patient,
            kind: HoldKind::Legal,
            reason: "case".into(),
            by: by("a"),
        };
        let other = Subject { ordinal: Ordinal(8), ..subject() };
        book.apply(4, Timestamp(0), Event::HoldPlaced { hold: hold(Some(other)) });
        assert_eq!(against(&book, Ground::Order, 2026), None, "another record's");
        book.apply(5, Timestamp(0), Event::HoldPlaced { hold: hold(None) });
        assert_eq!(against(&book, Ground::Order, 2026), Some(Against::Hold { hold: 5, kind: "legal" }));
        book.apply(6, Timestamp(0), Event::HoldLifted { hold: 5, by: by("a") });
        assert_eq!(against(&book, Ground::Order, 2026), None);
        assert!(book.hold_on(&subject().domain, None).is_some(), "an expiry of the domain is held by any");
    }
}
