//! [`Rights`]: what people decide about records: holds, requests, approvals. Each is checked and then a fact of the
//! control log; what the facts demand is done by `work`.

use std::collections::BTreeSet;
use std::sync::Arc;

use base::{Clock, DomainName, LogicalId, PrincipalId, Timestamp};
use parking_lot::RwLock;
use store::{FactError, Facts};
use tokio::sync::{Mutex, Notify};

use crate::book::{
    APPROVERS, Against, Authority, Book, Erasure, Event, Ground, Hold, HoldKind, PREFIXES, State, Statement, Subject,
    Suspension,
};
use crate::estate::{Estate, PortError, Record, Records};
use crate::retention::years_of;

const REASON_BYTES_MAX: usize = 1_000;
const NAME_BYTES_MAX: usize = 200;
/// 45 CFR 164.528(a)(2)(ii)(C): thirty days.
const ORAL_MS_MAX: i64 = 30 * 86_400_000;
/// Holds that stand, and cases that are not finished.
const OPEN_MAX: usize = 100_000;

#[derive(Debug, thiserror::Error)]
pub enum RightsError {
    #[error(transparent)]
    Against(#[from] Against),
    #[error("there is no such {0}")]
    NotFound(&'static str),
    #[error("{0}")]
    Refused(&'static str),
    /// The request contradicts itself or a limit.
    #[error("{0}")]
    Invalid(&'static str),
    #[error(transparent)]
    Estate(#[from] PortError),
    #[error(transparent)]
    Facts(#[from] FactError),
}

/// What an agency asks for: see [`Suspension`].
#[derive(Debug, Clone)]
pub struct Suspending {
    pub domain: DomainName,
    pub patient: LogicalId,
    pub agency: String,
    pub authority: Authority,
    pub statement: Statement,
    pub official: String,
    pub until: Timestamp,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Rights(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    facts: Facts,
    pub clock: Arc<dyn Clock>,
    book: RwLock<(u64, Book)>,
    /// Domains whose copies are made anew once more: a restored copy brought a destroyed record back.
    pub again: Mutex<BTreeSet<DomainName>>,
    /// One fact at a time: what was checked still holds when it is appended.
    pub turn: Mutex<()>,
    /// One work at a time.
    pub at_work: Mutex<()>,
    pub work: Notify,
}

impl Rights {
    /// Reads the facts from the first. Before a door opens: what they hide must be hidden, also where a restored copy
    /// shows it again.
    pub async fn open(facts: Facts, clock: Arc<dyn Clock>) -> Result<Rights, RightsError> {
        let (again, turn, at_work) = (Mutex::default(), Mutex::default(), Mutex::default());
        let inner = Inner { facts, clock, book: RwLock::default(), again, turn, at_work, work: Notify::new() };
        let rights = Rights(Arc::new(inner));
        rights.follow().await?;
        Ok(rights)
    }

    /// The control log's facts.
    pub fn facts(&self) -> &Facts {
        &self.0.facts
    }

    async fn follow(&self) -> Result<(), RightsError> {
        loop {
            let from = self.0.book.read().0;
            let facts = self.0.facts.follow(from).await?;
            let Some(last) = facts.last() else { return Ok(()) };
            let upto = last.position + 1;
            let mut book = self.0.book.write();
            // Another follower may have been faster.
            let seen = book.0;
            for fact in facts.into_iter().filter(|fact| fact.position >= seen) {
                if PREFIXES.iter().any(|prefix| fact.kind.starts_with(prefix)) {
                    let event = serde_json::from_slice(&fact.body)
                        .map_err(|_| FactError::Forged { position: fact.position })?;
                    book.1.apply(fact.position, fact.at, event);
                }
                book.0 = fact.position + 1;
            }
            book.0 = book.0.max(upto);
        }
    }

    /// The caller holds the turn.
    pub(crate) async fn append(&self, event: &Event, public: &[u8]) -> Result<u64, RightsError> {
        // Plain data always serialises.
        let body = serde_json::to_vec(event).unwrap_or_default();
        let position = self.0.facts.append_public(event.kind(), &body, public).await?;
        self.follow().await?;
        Ok(position)
    }

    pub fn book(&self) -> Book {
        self.0.book.read().1.clone()
    }

    pub(crate) fn look<T>(&self, look: impl FnOnce(&Book) -> T) -> T {
        look(&self.0.book.read().1)
    }

    pub fn erasure(&self, number: u64) -> Result<Erasure, RightsError> {
        self.look(|book| book.erasures.get(&number).cloned()).ok_or(RightsError::NotFound("erasure"))
    }

    pub(crate) fn year(&self) -> u16 {
        u16::try_from(self.0.clock.now().year()).unwrap_or_default()
    }

    /// A hold on a record, or with none on a whole domain; its number. Refused when the record is being destroyed.
    pub async fn place_hold(
        &self,
        records: &dyn Records,
        domain: &DomainName,
        patient: Option<&LogicalId>,
        kind: HoldKind,
        reason: String,
        by: &PrincipalId,
    ) -> Result<u64, RightsError> {
        check_reason(&reason)?;
        let patient = match patient {
            Some(patient) => Some(subject(records, domain, patient).await?.0),
            None => None,
        };
        let _turn = self.0.turn.lock().await;
        if self.look(|book| book.holds.len()) >= OPEN_MAX {
            return Err(RightsError::Refused("so many holds stand already: lift those whose matter is closed"));
        }
        if let Some(patient) = &patient
            && let Some(erasure) = self.look(|book| book.under_way(patient).cloned())
            && erasure.case.state >= State::Planned
        {
            return Err(RightsError::Refused("it is too late: the keys of this record are being destroyed"));
        }
        let hold = Hold { domain: domain.clone(), patient, kind, reason, by: by.clone() };
        self.append(&Event::HoldPlaced { hold }, &[]).await
    }

    /// Suspends the right to an accounting, at an agency's statement; its number.
    pub async fn suspend_accounting(
        &self,
        records: &dyn Records,
        asked: Suspending,
        by: &PrincipalId,
    ) -> Result<u64, RightsError> {
        let Suspending { domain, patient, agency, authority, statement, official, until } = asked;
        if agency.trim().is_empty() || agency.len() > NAME_BYTES_MAX || agency.chars().any(char::is_control) {
            return Err(RightsError::Invalid(
                "name the agency as disclosures name their recipient, in at most 200 bytes",
            ));
        }
        if official.trim().is_empty() || official.len() > REASON_BYTES_MAX {
            return Err(RightsError::Invalid("name the official who made the statement, and where it is kept"));
        }
        let now = self.0.clock.now();
        if until <= now {
            return Err(RightsError::Invalid("the suspension is over before it begins: give a later day"));
        }
        if statement == Statement::Oral && until > now.plus_ms(ORAL_MS_MAX) {
            return Err(RightsError::Invalid(
                "on an oral statement the right is suspended for thirty days at most: ask for a written one",
            ));
        }
        let (subject, _) = subject(records, &domain, &patient).await?;
        let _turn = self.0.turn.lock().await;
        if self.look(|book| book.suspensions.len()) >= OPEN_MAX {
            return Err(RightsError::Refused("so many suspensions are on record already"));
        }
        let suspension = Suspension { subject, agency, authority, statement, official, until, by: by.clone() };
        self.append(&Event::AccountingSuspended { suspension }, &[]).await
    }

    /// Ends a suspension before its time.
    pub async fn resume_accounting(
        &self,
        suspension: u64,
        reason: String,
        by: &PrincipalId,
    ) -> Result<(), RightsError> {
        check_reason(&reason)?;
        let _turn = self.0.turn.lock().await;
        let now = self.0.clock.now();
        if !self.look(|book| book.suspensions.get(&suspension).is_some_and(|it| now < it.until)) {
            return Err(RightsError::NotFound("suspension that stands"));
        }
        self.append(&Event::AccountingResumed { suspension, reason, by: by.clone() }, &[]).await.map(drop)
    }

    pub async fn lift_hold(&self, hold: u64, reason: String, by: &PrincipalId) -> Result<(), RightsError> {
        check_reason(&reason)?;
        let _turn = self.0.turn.lock().await;
        if !self.look(|book| book.holds.contains_key(&hold)) {
            return Err(RightsError::NotFound("hold"));
        }
        self.append(&Event::HoldLifted { hold, reason, by: by.clone() }, &[]).await.map(drop)
    }

    pub(crate) fn against(&self, subject: &Subject, ground: Ground, record: &Record) -> Option<Against> {
        let year = self.year();
        self.look(|book| book.against(subject, ground, &record.kept, year))
    }

    /// A request to erase a record; its number. One that something stands against is on record as refused.
    pub async fn request(
        &self,
        records: &dyn Records,
        domain: &DomainName,
        patient: &LogicalId,
        ground: Ground,
        reason: String,
        by: &PrincipalId,
    ) -> Result<u64, RightsError> {
        check_reason(&reason)?;
        let (subject, record) = subject(records, domain, patient).await?;
        let _turn = self.0.turn.lock().await;
        self.check_open()?;
        if let Some(known) = self.look(|book| book.under_way(&subject).map(|erasure| erasure.case.number)) {
            return Err(Against::UnderWay { erasure: known }.into());
        }
        let against = self.against(&subject, ground, &record);
        let requested = Event::ErasureRequested { subject, ground, reason, by: by.clone(), disposal: None };
        let number = self.append(&requested, &[]).await?;
        if let Some(against) = against {
            let refused = Event::ErasureRefused { erasure: number, by: by.clone(), why: against.to_string() };
            self.append(&refused, &[]).await?;
            return Err(against.into());
        }
        Ok(number)
    }

    /// A request to dispose of a domain's records whose last entry is of `through` or before and whose duty is over; its
    /// number.
    pub async fn request_disposal(
        &self,
        records: &dyn Records,
        domain: &DomainName,
        through: u16,
        reason: String,
        by: &PrincipalId,
    ) -> Result<u64, RightsError> {
        check_reason(&reason)?;
        let class = records.class_of(domain);
        let until = through.saturating_add(years_of(&class));
        if until >= self.year() {
            return Err(Against::Retention { class, until }.into());
        }
        let _turn = self.0.turn.lock().await;
        self.check_open()?;
        if let Some(hold) = self.look(|book| book.hold_on(domain, None)) {
            return Err(hold.into());
        }
        let event = Event::DisposalRequested { domain: domain.clone(), through, reason, by: by.clone() };
        self.append(&event, &[]).await
    }

    fn check_open(&self) -> Result<(), RightsError> {
        let open = self.look(|book| {
            let waiting = |state: State| state == State::Requested;
            book.erasures.values().filter(|e| waiting(e.case.state)).count()
                + book.disposals.values().filter(|d| waiting(d.case.state)).count()
        });
        if open < OPEN_MAX {
            Ok(())
        } else {
            Err(RightsError::Refused("too many requests wait for approval: decide them"))
        }
    }

    /// Refuses an erasure or a disposal that is not yet approved.
    pub async fn refuse(&self, number: u64, by: &PrincipalId, why: String) -> Result<(), RightsError> {
        check_reason(&why)?;
        let _turn = self.0.turn.lock().await;
        let by = by.clone();
        let event = match self.decidable(number)? {
            Deciding::Erasure(_) => Event::ErasureRefused { erasure: number, by, why },
            Deciding::Disposal { .. } => Event::DisposalRefused { disposal: number, by, why },
        };
        self.append(&event, &[]).await.map(drop)
    }

    /// An approval of an erasure or a disposal; the state then. The last one hides an erasure's record before it is
    /// answered. `disclosed` is asked after hiding, so that nothing is handed out unnoticed between.
    pub async fn approve(
        &self,
        estate: &dyn Estate,
        number: u64,
        by: &PrincipalId,
        disclosed: impl AsyncFnOnce(&Subject) -> Result<Vec<String>, PortError>,
    ) -> Result<State, RightsError> {
        let _turn = self.0.turn.lock().await;
        let deciding = self.decidable(number)?;
        let (requester, approvers) =
            self.look(|book| book.case(number).map(|case| (case.requester.clone(), case.approvers.clone()))).unzip();
        let approvers = approvers.unwrap_or_default();
        if requester.as_ref() == Some(by) {
            return Err(RightsError::Refused("whoever asked for it cannot approve it: two others must"));
        }
        if approvers.contains(by) {
            return Err(RightsError::Refused("you approved this already: another person must approve it too"));
        }
        let is_last = approvers.len() + 1 >= APPROVERS;
        match deciding {
            Deciding::Disposal { domain } => {
                if let Some(hold) = self.look(|book| book.hold_on(&domain, None)) {
                    return Err(hold.into());
                }
                self.append(&Event::DisposalApproved { disposal: number, by: by.clone() }, &[]).await?;
            }
            Deciding::Erasure(erasure) => {
                // What stands against it may have come since the request.
                let (found, record) = subject(estate, &erasure.subject.domain, &erasure.subject.patient).await?;
                if let Some(against) = self.against(&found, erasure.ground, &record) {
                    return Err(against.into());
                }
                if is_last {
                    self.approve_last(estate, &erasure, by, disclosed).await?;
                } else {
                    let event = Event::ErasureApproved { erasure: number, by: by.clone(), disclosed: Vec::new() };
                    self.append(&event, &[]).await?;
                }
            }
        }
        if is_last {
            self.0.work.notify_one();
        }
        self.look(|book| book.case(number).map(|case| case.state)).ok_or(RightsError::NotFound("erasure"))
    }

    async fn approve_last(
        &self,
        estate: &dyn Estate,
        erasure: &Erasure,
        by: &PrincipalId,
        disclosed: impl AsyncFnOnce(&Subject) -> Result<Vec<String>, PortError>,
    ) -> Result<(), RightsError> {
        let (subject, number) = (&erasure.subject, erasure.case.number);
        estate.hide(subject);
        let approved = async {
            let disclosed = disclosed(subject).await?;
            let event = Event::ErasureApproved { erasure: number, by: by.clone(), disclosed };
            self.append(&event, &[]).await
        };
        if let Err(error) = approved.await {
            // The fact may or may not be durable; only where it is known not to be there the record is shown again.
            if self.follow().await.is_ok() && self.erasure(number)?.case.state == State::Requested {
                estate.unhide(subject);
            }
            return Err(error);
        }
        self.append(&Event::ErasureHidden { erasure: number }, &[]).await.map(drop)
    }

    fn decidable(&self, number: u64) -> Result<Deciding, RightsError> {
        self.look(|book| {
            let case = book.case(number).ok_or(RightsError::NotFound("erasure"))?;
            if case.state != State::Requested {
                return Err(RightsError::Refused("this is decided already"));
            }
            Ok(match (book.erasures.get(&number), book.disposals.get(&number)) {
                (Some(erasure), _) => Deciding::Erasure(Box::new(erasure.clone())),
                (None, Some(disposal)) => Deciding::Disposal { domain: disposal.domain.clone() },
                (None, None) => return Err(RightsError::NotFound("erasure")),
            })
        })
    }
}

enum Deciding {
    Erasure(Box<Erasure>),
    Disposal { domain: DomainName },
}

pub(crate) async fn subject<R: Records + ?Sized>(
    records: &R,
    domain: &DomainName,
    patient: &LogicalId,
) -> Result<(Subject, Record), RightsError> {
    let record = records.find(domain, patient).await?.ok_or(RightsError::NotFound("patient"))?;
    let subject = Subject { domain: domain.clone(), patient: patient.clone(), ordinal: record.ordinal };
    Ok((subject, record))
}

fn check_reason(reason: &str) -> Result<(), RightsError> {
    if (1..=REASON_BYTES_MAX).contains(&reason.trim().len()) && reason.len() <= 2 * REASON_BYTES_MAX {
        return Ok(());
    }
    Err(RightsError::Invalid("a reason of 1 to 1,000 bytes is needed"))
}
