//! What stands: holds, erasures and disposals, as the facts say. Pure: a fact in, a state out, the same at every start.

use std::collections::BTreeMap;

use base::{DomainName, LogicalId, Ordinal, PrincipalId, Timestamp};
use serde::{Deserialize, Serialize};

/// Facts of this crate have kinds of these prefixes.
pub const PREFIXES: [&str; 4] = ["accounting-", "disposal-", "erasure-", "hold-"];
/// Approvals that an erasure or a disposal needs, by different people, none of them the requester.
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
    /// The duty to keep it is over; only a disposal says so.
    RetentionEnded,
}

impl Ground {
    /// A ground that a person may give.
    pub fn parse(code: &str) -> Option<Ground> {
        serde_json::from_value(code.into()).ok().filter(|ground| *ground != Ground::RetentionEnded)
    }

    pub fn yields_to_retention(self) -> bool {
        matches!(self, Ground::PatientRequest | Ground::RetentionEnded)
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

/// Who may ask that the right to an accounting is suspended: 45 CFR 164.528(a)(2)(i).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Authority {
    /// §164.512(d).
    HealthOversight,
    /// §164.512(f).
    LawEnforcement,
}

/// How the agency said that an accounting would impede it. On an oral statement the suspension ends after thirty days
/// (§164.528(a)(2)(ii)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Statement {
    Written,
    Oral,
}

/// For a time a patient's accountings leave out what was disclosed to an agency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    pub subject: Subject,
    /// As disclosures name their recipient.
    pub agency: String,
    pub authority: Authority,
    pub statement: Statement,
    /// Who made the statement, and where it is kept.
    pub official: String,
    /// Exclusive.
    pub until: Timestamp,
    pub by: PrincipalId,
}

/// What a fact says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    AccountingSuspended {
        suspension: Suspension,
    },
    /// Before its time.
    AccountingResumed {
        suspension: u64,
        reason: String,
        by: PrincipalId,
    },
    HoldPlaced {
        hold: Hold,
    },
    HoldLifted {
        hold: u64,
        reason: String,
        by: PrincipalId,
    },
    /// `disposal`: approved with it.
    ErasureRequested {
        subject: Subject,
        ground: Ground,
        reason: String,
        by: PrincipalId,
        disposal: Option<u64>,
    },
    /// Refused by a person, or by what stands against it.
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
    /// A piece of the plan, from 0; `more` follow.
    ErasurePlanned {
        erasure: u64,
        part: u32,
        plan: String,
        more: bool,
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
    /// Records of a domain whose last entry is of `through` or before, and whose duty to be kept is over.
    DisposalRequested {
        domain: DomainName,
        through: u16,
        reason: String,
        by: PrincipalId,
    },
    DisposalRefused {
        disposal: u64,
        by: PrincipalId,
        why: String,
    },
    DisposalApproved {
        disposal: u64,
        by: PrincipalId,
    },
    /// Its records are erasures of their own now; `held` stayed behind for a hold or a longer duty.
    DisposalListed {
        disposal: u64,
        records: u64,
        held: u64,
    },
    DisposalCertified {
        disposal: u64,
        text: String,
    },
}

impl Event {
    /// The kind of its fact, in the clear.
    pub fn kind(&self) -> &'static str {
        match self {
            Event::AccountingSuspended { .. } => "accounting-suspended",
            Event::AccountingResumed { .. } => "accounting-resumed",
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
            Event::DisposalRequested { .. } => "disposal-requested",
            Event::DisposalRefused { .. } => "disposal-refused",
            Event::DisposalApproved { .. } => "disposal-approved",
            Event::DisposalListed { .. } => "disposal-listed",
            Event::DisposalCertified { .. } => "disposal-certified",
        }
    }
}

/// How far an erasure or a disposal is. A disposal is never hidden, planned, destroyed or final itself: its records are.
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
    Listed,
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

/// What is asked for, who approved it, and how far it is. Its number is the position of its request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Case {
    pub number: u64,
    pub reason: String,
    pub requester: PrincipalId,
    pub approvers: Vec<PrincipalId>,
    pub state: State,
    pub steps: Vec<Step>,
    pub refusal: Option<String>,
    pub certificate: Option<String>,
}

impl Case {
    fn take(&mut self, step: Step, state: State) {
        self.steps.push(step);
        self.state = state;
    }

    fn approve(&mut self, step: Step, by: PrincipalId) {
        self.approvers.push(by);
        let enough = self.approvers.len() >= APPROVERS;
        self.take(step, if enough { State::Approved } else { State::Requested });
    }
}

/// An erasure as the facts have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Erasure {
    #[serde(flatten)]
    pub case: Case,
    pub subject: Subject,
    pub ground: Ground,
    pub disposal: Option<u64>,
    pub disclosed: Vec<String>,
    #[serde(skip)]
    pub plan: Option<String>,
    pub copies: String,
    pub epoch: Option<u64>,
}

/// The disposal of a domain's records whose duty is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Disposal {
    #[serde(flatten)]
    pub case: Case,
    pub domain: DomainName,
    pub through: u16,
    pub records: u64,
    pub held: u64,
}

/// What stands against an erasure or a disposal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Against {
    #[error("a legal hold stands against it (control/{hold}): `ward hold lift {hold}` when the matter is closed")]
    Legal { hold: u64 },
    #[error(
        "an open request of the patient stands against it (control/{hold}): answer it, then `ward hold lift {hold}`"
    )]
    Request { hold: u64 },
    #[error(
        "the record must be kept until the end of {until} (class {class}): before that only an order or an error in \
         making it ends it (--ground order, --ground entered-in-error)"
    )]
    Retention { class: String, until: u16 },
    #[error("an erasure of this record is under way or done already (control/{erasure})")]
    UnderWay { erasure: u64 },
}

/// Everything that stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Book {
    /// By number; those that are over stay, the accounting of the time asks no more for them.
    pub suspensions: BTreeMap<u64, Suspension>,
    pub holds: BTreeMap<u64, Hold>,
    pub erasures: BTreeMap<u64, Erasure>,
    pub disposals: BTreeMap<u64, Disposal>,
}

impl Book {
    /// Agencies for which the right to an accounting is suspended now.
    pub fn suspended(&self, domain: &DomainName, patient: Ordinal, now: Timestamp) -> Vec<String> {
        let is_about = |subject: &Subject| subject.domain == *domain && subject.ordinal == patient;
        let standing = self.suspensions.values().filter(|it| is_about(&it.subject) && now < it.until);
        standing.map(|suspension| suspension.agency.clone()).collect()
    }

    /// Takes in a fact. One that does not fit what stands changes nothing.
    pub fn apply(&mut self, position: u64, at: Timestamp, event: Event) {
        let what = event.kind();
        let step = |by: Option<PrincipalId>| Step { position, at, what, by };
        match event {
            Event::AccountingSuspended { suspension } => drop(self.suspensions.insert(position, suspension)),
            Event::AccountingResumed { suspension, .. } => {
                if let Some(suspension) = self.suspensions.get_mut(&suspension) {
                    suspension.until = suspension.until.min(at);
                }
            }
            Event::HoldPlaced { hold } => drop(self.holds.insert(position, hold)),
            Event::HoldLifted { hold, .. } => drop(self.holds.remove(&hold)),
            Event::ErasureRequested { subject, ground, reason, by, disposal } => {
                let mut case = open(step(Some(by.clone())), reason, by);
                if let Some(disposal) = disposal.and_then(|number| self.disposals.get(&number)) {
                    case.approvers.clone_from(&disposal.case.approvers);
                    case.state = State::Approved;
                }
                let (disclosed, plan, copies, epoch) = (Vec::new(), None, String::new(), None);
                let erasure = Erasure { case, subject, ground, disposal, disclosed, plan, copies, epoch };
                self.erasures.insert(position, erasure);
            }
            Event::ErasureRefused { erasure, by, why } => self.erasure(erasure, |e| {
                e.case.take(step(Some(by)), State::Refused);
                e.case.refusal = Some(why);
            }),
            Event::ErasureApproved { erasure, by, disclosed } => self.erasure(erasure, |e| {
                e.case.approve(step(Some(by.clone())), by);
                e.disclosed = disclosed;
            }),
            Event::ErasureHidden { erasure } => self.erasure(erasure, |e| e.case.take(step(None), State::Hidden)),
            Event::ErasurePlanned { erasure, part, plan, more } => self.erasure(erasure, |e| {
                let whole = e.plan.get_or_insert_default();
                if part == 0 {
                    whole.clear();
                }
                whole.push_str(&plan);
                e.case.take(step(None), if more { State::Hidden } else { State::Planned });
            }),
            Event::ErasureDestroyed { erasure, epoch, copies } => self.erasure(erasure, |e| {
                e.case.take(step(None), State::Destroyed);
                (e.epoch, e.copies) = (Some(epoch), copies);
            }),
            Event::ErasureFinal { erasure, .. } => self.erasure(erasure, |e| e.case.take(step(None), State::Final)),
            Event::ErasureCertified { erasure, text } => self.erasure(erasure, |e| {
                e.case.take(step(None), State::Certified);
                e.case.certificate = Some(text);
            }),
            Event::DisposalRequested { domain, through, reason, by } => {
                let case = open(step(Some(by.clone())), reason, by);
                self.disposals.insert(position, Disposal { case, domain, through, records: 0, held: 0 });
            }
            Event::DisposalRefused { disposal, by, why } => self.disposal(disposal, |d| {
                d.case.take(step(Some(by)), State::Refused);
                d.case.refusal = Some(why);
            }),
            Event::DisposalApproved { disposal, by } => {
                self.disposal(disposal, |d| d.case.approve(step(Some(by.clone())), by));
            }
            Event::DisposalListed { disposal, records, held } => self.disposal(disposal, |d| {
                d.case.take(step(None), State::Listed);
                (d.records, d.held) = (records, held);
            }),
            Event::DisposalCertified { disposal, text } => self.disposal(disposal, |d| {
                d.case.take(step(None), State::Certified);
                d.case.certificate = Some(text);
            }),
        }
    }

    fn erasure(&mut self, number: u64, change: impl FnOnce(&mut Erasure)) {
        if let Some(erasure) = self.erasures.get_mut(&number) {
            change(erasure);
        }
    }

    fn disposal(&mut self, number: u64, change: impl FnOnce(&mut Disposal)) {
        if let Some(disposal) = self.disposals.get_mut(&number) {
            change(disposal);
        }
    }

    /// An erasure or a disposal.
    pub fn case(&self, number: u64) -> Option<&Case> {
        let erasure = self.erasures.get(&number).map(|erasure| &erasure.case);
        erasure.or_else(|| self.disposals.get(&number).map(|disposal| &disposal.case))
    }

    /// The hold that keeps a record, or with none the first over the whole domain.
    pub fn hold_on(&self, domain: &DomainName, patient: Option<Ordinal>) -> Option<Against> {
        let holds = |hold: &Hold| {
            hold.domain == *domain
                && match (&hold.patient, patient) {
                    (None, _) => true,
                    (Some(held), patient) => Some(held.ordinal) == patient,
                }
        };
        self.holds.iter().find(|(_, hold)| holds(hold)).map(|(hold, what)| match what.kind {
            HoldKind::Legal => Against::Legal { hold: *hold },
            HoldKind::PatientRequest => Against::Request { hold: *hold },
        })
    }

    /// What stands against an erasure in a year. `kept` names the classes of the record's keys, with the last year
    /// through which each must be kept.
    pub fn against(&self, subject: &Subject, ground: Ground, kept: &[(String, u16)], year: u16) -> Option<Against> {
        if let Some(hold) = self.hold_on(&subject.domain, Some(subject.ordinal)) {
            return Some(hold);
        }
        let longest = kept.iter().filter(|(_, until)| *until >= year).max_by_key(|(_, until)| *until);
        let (class, until) = longest.filter(|_| ground.yields_to_retention())?;
        Some(Against::Retention { class: class.clone(), until: *until })
    }

    /// An erasure of this record that is not refused.
    pub fn under_way(&self, subject: &Subject) -> Option<&Erasure> {
        let same = |e: &&Erasure| e.subject.domain == subject.domain && e.subject.ordinal == subject.ordinal;
        self.erasures.values().filter(same).find(|e| e.case.state != State::Refused)
    }
}

impl Erasure {
    /// The plan, once the whole of it is durable.
    pub fn whole_plan(&self) -> Option<&str> {
        self.plan.as_deref().filter(|_| self.case.state >= State::Planned)
    }
}

fn open(step: Step, reason: String, requester: PrincipalId) -> Case {
    Case {
        number: step.position,
        reason,
        requester,
        approvers: Vec::new(),
        state: State::Requested,
        steps: vec![step],
        refusal: None,
        certificate: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(name: &str) -> PrincipalId {
        PrincipalId::parse(name).unwrap()
    }

    fn ehr() -> DomainName {
        DomainName::parse("ehr").unwrap()
    }

    fn subject() -> Subject {
        Subject { domain: ehr(), patient: LogicalId::parse("p1").unwrap(), ordinal: Ordinal(7) }
    }

    fn requested(ground: Ground, disposal: Option<u64>) -> Event {
        Event::ErasureRequested { subject: subject(), ground, reason: "order 1".into(), by: by("a"), disposal }
    }

    #[test]
    fn two_approvals_make_it_and_every_event_survives_its_json() {
        let mut book = Book::default();
        let events = [
            (requested(Ground::Order, None), State::Requested),
            (Event::ErasureApproved { erasure: 0, by: by("b"), disclosed: vec![] }, State::Requested),
            (Event::ErasureApproved { erasure: 0, by: by("c"), disclosed: vec!["x".into()] }, State::Approved),
            (Event::ErasureHidden { erasure: 0 }, State::Hidden),
            (Event::ErasurePlanned { erasure: 0, part: 0, plan: "lost".into(), more: true }, State::Hidden),
            (Event::ErasurePlanned { erasure: 0, part: 0, plan: "on".into(), more: true }, State::Hidden),
            (Event::ErasurePlanned { erasure: 0, part: 1, plan: "e".into(), more: false }, State::Planned),
            (Event::ErasureDestroyed { erasure: 0, epoch: 3, copies: "none".into() }, State::Destroyed),
            (Event::ErasureFinal { erasure: 0, epoch: 4 }, State::Final),
            (Event::ErasureCertified { erasure: 0, text: "done".into() }, State::Certified),
        ];
        for (n, (event, state)) in events.into_iter().enumerate() {
            let again: Event = serde_json::from_slice(&serde_json::to_vec(&event).unwrap()).unwrap();
            assert_eq!(again, event);
            book.apply(n as u64, Timestamp(n as i64), event);
            assert_eq!(book.erasures[&0].case.state, state);
            assert_eq!(book.erasures[&0].whole_plan(), (state >= State::Planned).then_some("one"));
        }
        assert_eq!((book.erasures[&0].disclosed.as_slice(), book.erasures[&0].epoch), (&["x".to_owned()][..], Some(3)));
    }

    #[test]
    fn holds_and_duties_stand_against_it_as_the_ground_says() {
        let mut book = Book::default();
        let kept = [("clinical-6y".to_owned(), 2032)];
        let against = |book: &Book, ground, year| book.against(&subject(), ground, &kept, year);
        assert!(matches!(against(&book, Ground::PatientRequest, 2032), Some(Against::Retention { until: 2032, .. })));
        assert_eq!(against(&book, Ground::PatientRequest, 2033), None);
        assert_eq!(against(&book, Ground::Order, 2026), None);
        let place = |patient, kind| Event::HoldPlaced {
            hold: Hold { domain: ehr(), patient, kind, reason: "case 12".into(), by: by("a") },
        };
        book.apply(4, Timestamp(4), place(Some(subject()), HoldKind::PatientRequest));
        assert_eq!(against(&book, Ground::Order, 2033), Some(Against::Request { hold: 4 }));
        assert_eq!(book.hold_on(&ehr(), Some(Ordinal(8))), None);
        assert_eq!(book.hold_on(&ehr(), None), None, "a record's hold keeps the record, not the domain");
        book.apply(5, Timestamp(5), Event::HoldLifted { hold: 4, reason: "answered".into(), by: by("b") });
        book.apply(6, Timestamp(6), place(None, HoldKind::Legal));
        assert_eq!(book.hold_on(&ehr(), Some(Ordinal(8))), Some(Against::Legal { hold: 6 }));
    }

    #[test]
    fn the_records_of_a_disposal_are_approved_with_it() {
        let mut book = Book::default();
        let (domain, reason) = (ehr(), "schedule 2026".to_owned());
        let events = [
            Event::DisposalRequested { domain, through: 2019, reason, by: by("a") },
            Event::DisposalApproved { disposal: 0, by: by("b") },
            Event::DisposalApproved { disposal: 0, by: by("c") },
            requested(Ground::RetentionEnded, Some(0)),
            Event::DisposalListed { disposal: 0, records: 1, held: 2 },
        ];
        for (n, event) in events.into_iter().enumerate() {
            book.apply(n as u64, Timestamp(n as i64), event);
        }
        assert_eq!((book.case(0).unwrap().state, book.case(3).unwrap().state), (State::Listed, State::Approved));
        assert_eq!(book.case(3).unwrap().approvers, [by("b"), by("c")]);
        assert_eq!(book.under_way(&subject()).map(|e| e.case.number), Some(3));
        assert_eq!(Ground::parse("retention-ended"), None);
    }
}
