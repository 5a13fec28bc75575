//! What the facts demand: hiding, destroying, rewriting, certifying. Every step may be repeated, so a crash anywhere goes
//! on at the next start from what the control log says.

use std::collections::BTreeMap;

use async_trait::async_trait;
use base::{DomainName, PrincipalId};

use crate::book::{Disposal, Erasure, Event, Ground, State, Subject};
use crate::certificate;
use crate::estate::{Estate, KeepPlan};
use crate::rights::{Rights, RightsError};

const RETRY_MS: u64 = 5_000;
/// Records of one disposal; the rest is for the next.
const RECORDS_MAX: u64 = 10_000;
/// A plan is cut into facts of so many bytes.
const PLAN_PIECE_BYTES: usize = 512 * 1024;

impl Rights {
    /// Hides what the facts hide. Before a door opens.
    pub fn replay(&self, estate: &dyn Estate) {
        self.hidden().iter().for_each(|erasure| estate.hide(&erasure.subject));
    }

    /// Erasures whose record nobody may see, in the order in which they were planned: the later may build on what the
    /// earlier left.
    pub fn hidden(&self) -> Vec<Erasure> {
        let mut hidden: Vec<Erasure> =
            self.look(|book| book.erasures.values().filter(|e| e.case.state >= State::Approved).cloned().collect());
        hidden.sort_by_key(|e| e.case.steps.iter().find(|step| step.what == "erasure-planned").map(|s| s.position));
        hidden
    }

    /// What a restored copy brought back was destroyed again: the domain's copies are to follow.
    pub async fn rewrite_again(&self, domain: &DomainName) {
        self.0.again.lock().await.insert(domain.clone());
    }

    /// Takes all steps that can be taken now. The first failure is told after the rest was tried.
    pub async fn advance(&self, estate: &dyn Estate) -> Result<(), RightsError> {
        let _one = self.0.at_work.lock().await;
        let mut failed = None;
        let mut note = |result: Result<(), RightsError>| {
            if let Err(error) = result {
                failed.get_or_insert(error);
            }
        };
        for disposal in self.disposals(State::Approved) {
            note(self.list(estate, &disposal).await);
        }
        let mut domains: BTreeMap<DomainName, Vec<Erasure>> = BTreeMap::new();
        for erasure in self.hidden() {
            match erasure.case.state {
                State::Approved | State::Hidden | State::Planned => {
                    domains.entry(erasure.subject.domain.clone()).or_default().push(erasure);
                }
                State::Destroyed | State::Final => note(self.conclude(estate, &erasure).await),
                _ => {}
            }
        }
        for (domain, erasures) in domains {
            note(self.destroy_all(estate, &domain, &erasures).await);
        }
        let again = self.0.again.lock().await.clone();
        for domain in again {
            let done = estate.rewrite(&domain).await;
            if done.is_ok() {
                self.0.again.lock().await.remove(&domain);
            }
            note(done.map(drop).map_err(RightsError::from));
        }
        for disposal in self.disposals(State::Listed) {
            note(self.certify_disposal(&disposal).await);
        }
        failed.map_or(Ok(()), Err)
    }

    /// Makes what is destroyed final now, by turning the key epoch.
    pub async fn finish(&self, estate: &dyn Estate) -> Result<(), RightsError> {
        self.advance(estate).await?;
        estate.turn_epoch().await?;
        self.advance(estate).await
    }

    /// Goes on until told to stop: at once when something is approved, and again and again where a step failed or waits
    /// for the epoch.
    pub async fn run(&self, estate: &dyn Estate, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return,
                done = self.advance(estate) => if let Err(error) = done {
                    tracing::error!(%error, "an erasure waits and is tried again");
                },
            }
            tokio::select! {
                () = &mut stop => return,
                () = self.0.work.notified() => {}
                () = tokio::time::sleep(std::time::Duration::from_millis(RETRY_MS)) => {}
            }
        }
    }

    fn disposals(&self, state: State) -> Vec<Disposal> {
        self.look(|book| book.disposals.values().filter(|d| d.case.state == state).cloned().collect())
    }

    /// One fact, with its turn.
    async fn say(&self, event: Event, public: &[u8]) -> Result<(), RightsError> {
        let _turn = self.0.turn.lock().await;
        self.append(&event, public).await.map(drop)
    }

    /// Turns an approved disposal into erasures of its records.
    async fn list(&self, estate: &dyn Estate, disposal: &Disposal) -> Result<(), RightsError> {
        let (domain, number) = (&disposal.domain, disposal.case.number);
        let taken = self.look(|book| book.erasures.values().filter(|e| e.disposal == Some(number)).count() as u64);
        let (mut held, mut records) = (0, taken);
        for due in estate.by_year(domain).await?.into_iter().filter(|due| due.year <= disposal.through) {
            if records >= RECORDS_MAX {
                break;
            }
            let Some(patient) = estate.patient_of(domain, due.ordinal).await? else { continue };
            let Some(record) = estate.find(domain, &patient).await? else { continue };
            let subject = Subject { domain: domain.clone(), patient, ordinal: record.ordinal };
            let _turn = self.0.turn.lock().await;
            if self.look(|book| book.under_way(&subject).is_some()) {
                continue;
            }
            if self.against(&subject, Ground::RetentionEnded, &record).is_some() {
                held += 1;
                continue;
            }
            let event = Event::ErasureRequested {
                subject,
                ground: Ground::RetentionEnded,
                reason: disposal.case.reason.clone(),
                by: disposal.case.requester.clone(),
                disposal: Some(number),
            };
            self.append(&event, &[]).await?;
            records += 1;
        }
        self.say(Event::DisposalListed { disposal: number, records, held }, &[]).await
    }

    /// Record after record, then what they share once for all.
    async fn destroy_all(
        &self,
        estate: &dyn Estate,
        domain: &DomainName,
        erasures: &[Erasure],
    ) -> Result<(), RightsError> {
        let (mut destroyed, mut failed) = (Vec::new(), None);
        for erasure in erasures {
            match self.destroy(estate, erasure).await {
                Ok(true) => destroyed.push(erasure.case.number),
                Ok(false) => {}
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        if !destroyed.is_empty() {
            let copies = estate.rewrite(domain).await?;
            let epoch = estate.epoch().await?;
            for erasure in destroyed {
                self.say(Event::ErasureDestroyed { erasure, epoch, copies: copies.clone() }, &[]).await?;
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// False where a hold came in time.
    async fn destroy(&self, estate: &dyn Estate, erasure: &Erasure) -> Result<bool, RightsError> {
        let (subject, number) = (&erasure.subject, erasure.case.number);
        estate.hide(subject);
        if erasure.case.state == State::Approved {
            self.say(Event::ErasureHidden { erasure: number }, &[]).await?;
        }
        if erasure.whole_plan().is_none() {
            let _turn = self.0.turn.lock().await;
            if let Some(hold) = self.look(|book| book.hold_on(&subject.domain, Some(subject.ordinal))) {
                let event = Event::ErasureRefused { erasure: number, by: node()?, why: hold.to_string() };
                self.append(&event, &[]).await?;
                estate.unhide(subject);
                return Ok(false);
            }
        }
        let keep = Keeper { rights: self, erasure };
        estate.destroy(subject, erasure.whole_plan(), &keep).await?;
        Ok(true)
    }

    /// Final when the epoch in which it was destroyed is gone; then the certificate.
    async fn conclude(&self, estate: &dyn Estate, erasure: &Erasure) -> Result<(), RightsError> {
        let number = erasure.case.number;
        if erasure.case.state == State::Destroyed {
            let epoch = estate.epoch().await?;
            if erasure.epoch.is_none_or(|destroyed| epoch <= destroyed) {
                return Ok(());
            }
            self.say(Event::ErasureFinal { erasure: number, epoch }, &[]).await?;
        }
        let text = certificate::of_erasure(&self.erasure(number)?, self.0.clock.now());
        let public = certificate::sha256(&text);
        self.say(Event::ErasureCertified { erasure: number, text }, public.as_bytes()).await
    }

    async fn certify_disposal(&self, disposal: &Disposal) -> Result<(), RightsError> {
        let number = disposal.case.number;
        let records: Vec<Erasure> =
            self.look(|book| book.erasures.values().filter(|e| e.disposal == Some(number)).cloned().collect());
        if records.iter().any(|e| !matches!(e.case.state, State::Certified | State::Refused)) {
            return Ok(());
        }
        let text = certificate::of_disposal(disposal, &records, self.0.clock.now());
        let public = certificate::sha256(&text);
        self.say(Event::DisposalCertified { disposal: number, text }, public.as_bytes()).await
    }
}

/// Whom the facts name where nobody decided.
fn node() -> Result<PrincipalId, RightsError> {
    PrincipalId::parse("ward:erase").map_err(|_| RightsError::Invalid("the node cannot be named"))
}

struct Keeper<'a> {
    rights: &'a Rights,
    erasure: &'a Erasure,
}

#[async_trait]
impl KeepPlan for Keeper<'_> {
    async fn keep(&self, plan: String) -> Result<(), String> {
        let subject = &self.erasure.subject;
        let _turn = self.rights.0.turn.lock().await;
        if let Some(hold) = self.rights.look(|book| book.hold_on(&subject.domain, Some(subject.ordinal))) {
            return Err(hold.to_string());
        }
        let pieces = pieces(&plan);
        for (n, piece) in pieces.iter().enumerate() {
            let event = Event::ErasurePlanned {
                erasure: self.erasure.case.number,
                part: n as u32,
                plan: (*piece).to_owned(),
                more: n + 1 < pieces.len(),
            };
            self.rights.append(&event, &[]).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

/// At least one, each at most [`PLAN_PIECE_BYTES`].
fn pieces(plan: &str) -> Vec<&str> {
    let (mut pieces, mut rest) = (Vec::new(), plan);
    while rest.len() > PLAN_PIECE_BYTES {
        let (piece, next) = rest.split_at(rest.floor_char_boundary(PLAN_PIECE_BYTES));
        pieces.push(piece);
        rest = next;
    }
    pieces.push(rest);
    pieces
}
