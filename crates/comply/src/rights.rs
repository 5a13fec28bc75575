//! [`Rights`]: takes each step once its checks hold: the fact first, then what it says. Every step may be repeated, so a
//! crash anywhere goes on at the next start.

use std::sync::Arc;

use async_trait::async_trait;
use base::{Clock, DomainName, LogicalId, Ordinal, PrincipalId};
use parking_lot::RwLock;
use store::{FactError, Facts};
use tokio::sync::{Mutex, Notify};

use crate::book::{Against, Book, Erasure, Event, Ground, Hold, HoldKind, PREFIXES, State, Subject};
use crate::certificate;

const REASON_BYTES_MAX: usize = 1_000;
const RETRY_MS: u64 = 5_000;

/// Why the estate could not do its part; the step is tried again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PortError(pub String);

/// A record that was found.
#[derive(Debug, Clone)]
pub struct Record {
    pub ordinal: Ordinal,
    /// Retention classes of its keys, each with the last year through which it must be kept.
    pub kept: Vec<(String, u16)>,
}

/// Keeps an estate's plan before it is carried out.
#[async_trait]
pub trait KeepPlan: Send + Sync {
    /// When this returns the plan survives a crash.
    async fn keep(&self, plan: String) -> Result<(), String>;
}

/// What must be hidden and destroyed. All but `hide` may take long; all may be repeated.
#[async_trait]
pub trait Estate: Send + Sync {
    /// The source record behind a Patient id.
    async fn find(&self, domain: &DomainName, patient: &LogicalId) -> Result<Option<Record>, PortError>;
    /// From when this returns no door gives anything of the record.
    fn hide(&self, subject: &Subject);
    /// Takes it back.
    fn unhide(&self, subject: &Subject);
    /// Destroys records and keys, by the plan where there is one, else by one it makes and keeps first.
    async fn destroy(&self, subject: &Subject, plan: Option<&str>, keep: &dyn KeepPlan) -> Result<(), PortError>;
    /// Makes copies (data products) anew without the record and destroys the old ones; says in a sentence what it did.
    async fn rewrite(&self, subject: &Subject) -> Result<String, PortError>;
    /// The key epoch now; all earlier ones are gone.
    async fn epoch(&self) -> Result<u64, PortError>;
    /// Begins a new epoch and destroys the earlier ones.
    async fn turn_epoch(&self) -> Result<(), PortError>;
}

#[derive(Debug, thiserror::Error)]
pub enum RightsError {
    #[error(transparent)]
    Against(#[from] Against),
    #[error("there is no such {0}")]
    NotFound(&'static str),
    #[error("{0}")]
    Refused(&'static str),
    #[error(transparent)]
    Estate(#[from] PortError),
    #[error(transparent)]
    Facts(#[from] FactError),
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Rights(Arc<Inner>);

struct Inner {
    facts: Facts,
    clock: Arc<dyn Clock>,
    book: RwLock<(u64, Book)>,
    /// One step at a time: what was checked still holds when its fact is appended.
    turn: Mutex<()>,
    work: Notify,
}

impl Rights {
    /// Reads the facts from the first.
    pub async fn open(facts: Facts, clock: Arc<dyn Clock>) -> Result<Rights, RightsError> {
        let inner = Inner { facts, clock, book: RwLock::default(), turn: Mutex::default(), work: Notify::new() };
        let rights = Rights(Arc::new(inner));
        rights.follow().await?;
        Ok(rights)
    }

    async fn follow(&self) -> Result<(), RightsError> {
        loop {
            let from = self.0.book.read().0;
            let facts = self.0.facts.follow(from).await?;
            let Some(last) = facts.last() else { return Ok(()) };
            let upto = last.position + 1;
            let mut book = self.0.book.write();
            for fact in facts {
                if PREFIXES.iter().any(|prefix| fact.kind.starts_with(prefix)) {
                    let event = serde_json::from_slice(&fact.body)
                        .map_err(|_| FactError::Forged { position: fact.position })?;
                    book.1.apply(fact.position, fact.at, event);
                }
            }
            book.0 = upto;
        }
    }

    async fn append(&self, event: &Event, public: &[u8]) -> Result<u64, RightsError> {
        // Plain data always serialises.
        let body = serde_json::to_vec(event).unwrap_or_default();
        let position = self.0.facts.append_public(event.kind(), &body, public).await?;
        self.follow().await?;
        Ok(position)
    }

    pub fn book(&self) -> Book {
        self.0.book.read().1.clone()
    }

    pub fn erasure(&self, number: u64) -> Result<Erasure, RightsError> {
        self.0.book.read().1.erasures.get(&number).cloned().ok_or(RightsError::NotFound("erasure"))
    }

    /// What stands against destroying a class and year of a domain now: any hold of the domain.
    pub fn may_expire(&self, domain: &DomainName) -> Result<(), Against> {
        self.0.book.read().1.hold_on(domain, None).map_or(Ok(()), Err)
    }

    /// Writes the certificate of an expiry that was carried out.
    pub async fn certify_disposal(
        &self,
        domain: &DomainName,
        class: &str,
        year: u16,
        by: &PrincipalId,
        what: &str,
    ) -> Result<u64, RightsError> {
        let text = format!("CERTIFICATE OF DISPOSAL {domain} {class} {year}\n{what}\n");
        let public = sha256(&text);
        let (domain, class, by) = (domain.clone(), class.to_owned(), by.clone());
        self.append(&Event::DisposalCertified { domain, class, year, by, text }, public.as_bytes()).await
    }

    pub async fn place_hold(
        &self,
        estate: &dyn Estate,
        domain: &DomainName,
        patient: Option<&LogicalId>,
        kind: HoldKind,
        reason: String,
        by: &PrincipalId,
    ) -> Result<u64, RightsError> {
        check_reason(&reason)?;
        let patient = match patient {
            Some(patient) => Some(self.subject(estate, domain, patient).await?.0),
            None => None,
        };
        let _turn = self.0.turn.lock().await;
        let hold = Hold { domain: domain.clone(), patient, kind, reason, by: by.clone() };
        self.append(&Event::HoldPlaced { hold }, &[]).await
    }

    pub async fn lift_hold(&self, hold: u64, by: &PrincipalId) -> Result<(), RightsError> {
        let _turn = self.0.turn.lock().await;
        if !self.0.book.read().1.holds.contains_key(&hold) {
            return Err(RightsError::NotFound("hold"));
        }
        self.append(&Event::HoldLifted { hold, by: by.clone() }, &[]).await.map(drop)
    }

    async fn subject(
        &self,
        estate: &dyn Estate,
        domain: &DomainName,
        patient: &LogicalId,
    ) -> Result<(Subject, Record), RightsError> {
        let record = estate.find(domain, patient).await?.ok_or(RightsError::NotFound("patient"))?;
        let subject = Subject { domain: domain.clone(), patient: patient.clone(), ordinal: record.ordinal };
        Ok((subject, record))
    }

    fn against(&self, subject: &Subject, ground: Ground, record: &Record) -> Option<Against> {
        let year = u16::try_from(self.0.clock.now().year()).unwrap_or_default();
        self.0.book.read().1.against(subject, ground, &record.kept, year)
    }

    /// A request; its number. One that something stands against is on record as refused.
    pub async fn request(
        &self,
        estate: &dyn Estate,
        domain: &DomainName,
        patient: &LogicalId,
        ground: Ground,
        reason: String,
        by: &PrincipalId,
    ) -> Result<u64, RightsError> {
        check_reason(&reason)?;
        let (subject, record) = self.subject(estate, domain, patient).await?;
        let _turn = self.0.turn.lock().await;
        if let Some(under_way) = self.0.book.read().1.under_way(&subject) {
            return Err(under_way.into());
        }
        let against = self.against(&subject, ground, &record);
        let requested = Event::ErasureRequested { subject, ground, reason, by: by.clone() };
        let number = self.append(&requested, &[]).await?;
        if let Some(against) = against {
            let refused = Event::ErasureRefused { erasure: number, by: by.clone(), why: against.to_string() };
            self.append(&refused, &[]).await?;
            return Err(against.into());
        }
        Ok(number)
    }

    pub async fn refuse(&self, number: u64, by: &PrincipalId, why: String) -> Result<(), RightsError> {
        check_reason(&why)?;
        let _turn = self.0.turn.lock().await;
        if self.erasure(number)?.state != State::Requested {
            return Err(RightsError::Refused("the erasure is decided already"));
        }
        self.append(&Event::ErasureRefused { erasure: number, by: by.clone(), why }, &[]).await.map(drop)
    }

    /// Hides the record at the last approval, before the answer. What is disclosed is read after hiding, so that nothing
    /// can be handed out unnoticed between.
    pub async fn approve(
        &self,
        estate: &dyn Estate,
        number: u64,
        by: &PrincipalId,
        disclosed: impl AsyncFnOnce(&Subject) -> Result<Vec<String>, PortError>,
    ) -> Result<State, RightsError> {
        let _turn = self.0.turn.lock().await;
        let erasure = self.erasure(number)?;
        if erasure.state != State::Requested {
            return Err(RightsError::Refused("the erasure is decided already"));
        }
        if erasure.requester == *by {
            return Err(RightsError::Refused("whoever asked for an erasure cannot approve it: two others must"));
        }
        if erasure.approvers.contains(by) {
            return Err(RightsError::Refused("you approved this already: another person must approve it too"));
        }
        // What stands against it may have come since the request.
        let (subject, record) = self.subject(estate, &erasure.subject.domain, &erasure.subject.patient).await?;
        if let Some(against) = self.against(&subject, erasure.ground, &record) {
            return Err(against.into());
        }
        let is_last = erasure.approvers.len() + 1 >= crate::book::APPROVERS;
        if !is_last {
            let event = Event::ErasureApproved { erasure: number, by: by.clone(), disclosed: Vec::new() };
            self.append(&event, &[]).await?;
            return Ok(State::Requested);
        }
        estate.hide(&subject);
        let approved = async {
            let disclosed = disclosed(&subject).await?;
            let event = Event::ErasureApproved { erasure: number, by: by.clone(), disclosed };
            self.append(&event, &[]).await
        };
        if let Err(error) = approved.await {
            // The fact may or may not be durable; only where it is known not to be there the record is shown again.
            if self.follow().await.is_ok() && self.erasure(number)?.state == State::Requested {
                estate.unhide(&subject);
            }
            return Err(error);
        }
        self.append(&Event::ErasureHidden { erasure: number }, &[]).await?;
        self.0.work.notify_one();
        Ok(State::Hidden)
    }

    /// Those whose record must be hidden before a door opens.
    pub fn hidden(&self) -> Vec<Erasure> {
        let book = self.0.book.read();
        book.1.erasures.values().filter(|e| e.state >= State::Approved).cloned().collect()
    }

    /// Takes the next steps of an erasure, as far as they go now; the state it is in then.
    pub async fn advance(&self, estate: &dyn Estate, number: u64) -> Result<State, RightsError> {
        let _turn = self.0.turn.lock().await;
        loop {
            let erasure = self.erasure(number)?;
            let event = match erasure.state {
                State::Refused | State::Requested | State::Certified => return Ok(erasure.state),
                State::Approved => {
                    estate.hide(&erasure.subject);
                    Event::ErasureHidden { erasure: number }
                }
                State::Hidden | State::Planned => {
                    let keep = Keeper { rights: self, number };
                    estate.destroy(&erasure.subject, erasure.plan.as_deref(), &keep).await?;
                    let copies = estate.rewrite(&erasure.subject).await?;
                    Event::ErasureDestroyed { erasure: number, epoch: estate.epoch().await?, copies }
                }
                State::Destroyed => match estate.epoch().await? {
                    epoch if erasure.epoch.is_some_and(|destroyed| epoch > destroyed) => {
                        Event::ErasureFinal { erasure: number, epoch }
                    }
                    _ => return Ok(State::Destroyed),
                },
                State::Final => {
                    let text = certificate::text(&erasure, self.0.clock.now());
                    let public = sha256(&text);
                    let event = Event::ErasureCertified { erasure: number, text };
                    self.append(&event, public.as_bytes()).await?;
                    continue;
                }
            };
            self.append(&event, &[]).await?;
        }
    }

    /// Makes a destroyed erasure final now, by turning the key epoch.
    pub async fn finish(&self, estate: &dyn Estate, number: u64) -> Result<State, RightsError> {
        if self.advance(estate, number).await? == State::Destroyed {
            estate.turn_epoch().await?;
        }
        self.advance(estate, number).await
    }

    /// Takes open erasures on until told to stop: at once when one is approved, and again and again where a step failed
    /// or waits for the epoch.
    pub async fn run(&self, estate: &dyn Estate, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        loop {
            for erasure in self.hidden().into_iter().filter(|e| e.state != State::Certified) {
                tokio::select! {
                    () = &mut stop => return,
                    taken = self.advance(estate, erasure.number) => if let Err(error) = taken {
                        tracing::error!(erasure = erasure.number, %error, "an erasure waits and is tried again");
                    },
                }
            }
            tokio::select! {
                () = &mut stop => return,
                () = self.0.work.notified() => {}
                () = tokio::time::sleep(std::time::Duration::from_millis(RETRY_MS)) => {}
            }
        }
    }
}

struct Keeper<'a> {
    rights: &'a Rights,
    number: u64,
}

#[async_trait]
impl KeepPlan for Keeper<'_> {
    async fn keep(&self, plan: String) -> Result<(), String> {
        let event = Event::ErasurePlanned { erasure: self.number, plan };
        self.rights.append(&event, &[]).await.map(drop).map_err(|error| error.to_string())
    }
}

fn check_reason(reason: &str) -> Result<(), RightsError> {
    if (1..=REASON_BYTES_MAX).contains(&reason.trim().len()) {
        return Ok(());
    }
    Err(RightsError::Refused("a reason of 1 to 1,000 letters is needed"))
}

/// What stays in the clear of a certificate: its text's hash, which a stranger can compare.
fn sha256(text: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    format!("sha256 {}", base::hex::encode(digest.as_ref()))
}
