//! What follows from the facts of break-glass: sessions in their phases, and a clock that never goes back.
//!
//! A pure function of facts and time, the same live and after a restart. Never here: facts on disk (see `book`).

use std::collections::HashMap;
use std::sync::Arc;

use base::{Clock, DomainName, LogicalId, Ordinal, PrincipalId, Timestamp};
use parking_lot::Mutex;

use crate::emergency::book::{Category, Fact, SealedText, SessionId, Verdict};

/// Limits of break-glass; config may tighten them.
#[derive(Debug, Clone)]
pub struct EmergencyLimits {
    /// A session lasts at most this long; never more than [`EmergencyLimits::SESSION_MS_MAX`].
    pub session_ms: i64,
    /// A request that is not confirmed within this time lapses.
    pub confirm_ms: i64,
    /// A session must be reviewed within this time of its end.
    pub review_ms: i64,
    /// How long a session lasts for one whose earlier session is overdue for review: care is never refused for
    /// paperwork, but it must be asked for more often.
    pub overdue_session_ms: i64,
    /// Open sessions and requests of one clinician.
    pub open_max: usize,
}

impl EmergencyLimits {
    pub const SESSION_MS_MAX: i64 = 4 * 3_600_000;
}

impl Default for EmergencyLimits {
    fn default() -> Self {
        EmergencyLimits {
            session_ms: Self::SESSION_MS_MAX,
            confirm_ms: 120_000,
            review_ms: 3 * 86_400_000,
            overdue_session_ms: 1_800_000,
            open_max: 8,
        }
    }
}

/// How many sessions are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct EmergencyCounts {
    pub open: u64,
    /// Sessions, open ones included, that no privacy officer has reviewed.
    pub unreviewed: u64,
    /// Of these, the ones whose time for review is over.
    pub overdue: u64,
}

/// Time that goes on when the wall clock is set back: never earlier than any time it gave or any fact has.
pub(crate) struct OnwardClock {
    clock: Arc<dyn Clock>,
    /// The newest time given, and the steady time of that moment.
    last: Mutex<(Timestamp, i64)>,
}

impl OnwardClock {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let last = Mutex::new((clock.now(), clock.steady_ms()));
        OnwardClock { clock, last }
    }

    pub fn now(&self) -> Timestamp {
        self.at_least(Timestamp(i64::MIN))
    }

    pub fn at_least(&self, floor: Timestamp) -> Timestamp {
        let mut last = self.last.lock();
        let steady = self.clock.steady_ms();
        let ran_on = last.0.plus_ms((steady - last.1).max(0));
        let now = self.clock.now().max(ran_on).max(floor);
        *last = (now, steady);
        now
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Granted {
    pub at: Timestamp,
    pub until: Timestamp,
    pub part2: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Reviewed {
    pub at: Timestamp,
    pub by: PrincipalId,
    pub verdict: Verdict,
    pub note: SealedText,
}

#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub id: SessionId,
    pub principal: PrincipalId,
    pub domain: DomainName,
    pub patient: Ordinal,
    pub resource: LogicalId,
    pub category: Category,
    pub reason: SealedText,
    pub requested: Timestamp,
    pub wall: Timestamp,
    pub token: Option<String>,
    pub granted: Option<Granted>,
    pub used: Timestamp,
    pub ended: Option<Timestamp>,
    pub review: Option<Reviewed>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waits for its confirmation.
    Requested,
    /// Was not confirmed in time; opens nothing ever.
    Lapsed,
    Open,
    Over,
}

impl Phase {
    pub fn code(self) -> &'static str {
        match self {
            Phase::Requested => "requested",
            Phase::Lapsed => "lapsed",
            Phase::Open => "open",
            Phase::Over => "over",
        }
    }
}

impl Session {
    pub fn phase(&self, now: Timestamp, limits: &EmergencyLimits) -> Phase {
        match (&self.granted, self.ended) {
            (Some(_), Some(_)) => Phase::Over,
            (Some(granted), None) if now < granted.until => Phase::Open,
            (Some(_), None) => Phase::Over,
            (None, Some(_)) => Phase::Lapsed,
            (None, None) if now < self.requested.plus_ms(limits.confirm_ms) => Phase::Requested,
            (None, None) => Phase::Lapsed,
        }
    }

    fn unreviewed(&self) -> bool {
        self.granted.is_some() && self.review.is_none()
    }

    pub fn overdue(&self, now: Timestamp, limits: &EmergencyLimits) -> bool {
        let over = |granted: &Granted| self.ended.unwrap_or(granted.until).plus_ms(limits.review_ms);
        self.unreviewed() && self.granted.as_ref().is_some_and(|granted| now > over(granted))
    }
}

/// All sessions that matter still. Lapsed requests and old reviewed sessions are forgotten here; the log keeps them.
#[derive(Debug, Default)]
pub(crate) struct Sessions(HashMap<SessionId, Session>);

/// A reviewed session stays in lists for so long.
const KEPT_MS: i64 = 90 * 86_400_000;

impl Sessions {
    /// A fact about a session that is not there, or one that came already, changes nothing.
    pub fn apply(&mut self, fact: Fact) {
        if let Fact::Requested { id, at, principal, domain, patient, resource, category, reason, wall, token } = fact {
            let session = Session {
                id,
                principal,
                domain,
                patient: Ordinal(patient),
                resource,
                category,
                reason,
                requested: at,
                wall,
                token,
                granted: None,
                used: at,
                ended: None,
                review: None,
            };
            self.0.entry(id).or_insert(session);
            return;
        }
        let (Fact::Confirmed { id, .. } | Fact::Used { id, .. } | Fact::Ended { id, .. } | Fact::Reviewed { id, .. }) =
            &fact
        else {
            return;
        };
        let Some(session) = self.0.get_mut(id) else { return };
        match fact {
            Fact::Requested { .. } => {}
            Fact::Confirmed { at, until, part2, .. } => {
                // Whoever wrote the fact, four hours are four hours.
                let until = until.min(at.plus_ms(EmergencyLimits::SESSION_MS_MAX));
                session.granted.get_or_insert(Granted { at, until, part2 });
                session.used = session.used.max(at);
            }
            Fact::Used { at, .. } => session.used = session.used.max(at),
            Fact::Ended { at, .. } => drop(session.ended.get_or_insert(at)),
            Fact::Reviewed { at, by, verdict, note, .. } => {
                session.review.get_or_insert(Reviewed { at, by, verdict, note });
            }
        }
    }

    pub fn get(&self, id: SessionId) -> Option<&Session> {
        self.0.get(&id)
    }

    pub fn all(&self) -> impl Iterator<Item = &Session> {
        self.0.values()
    }

    pub fn of<'a>(&'a self, principal: &'a PrincipalId) -> impl Iterator<Item = &'a Session> {
        self.0.values().filter(move |session| session.principal == *principal)
    }

    /// Drops what nobody asks for any more.
    pub fn forget(&mut self, now: Timestamp, limits: &EmergencyLimits) {
        self.0.retain(|_, session| match (session.phase(now, limits), &session.review) {
            (Phase::Lapsed, _) => false,
            (Phase::Over, Some(review)) => now < review.at.plus_ms(KEPT_MS),
            _ => true,
        });
    }

    pub fn counts(&self, now: Timestamp, limits: &EmergencyLimits) -> EmergencyCounts {
        let count = |wanted: &dyn Fn(&Session) -> bool| self.all().filter(|session| wanted(session)).count() as u64;
        EmergencyCounts {
            open: count(&|session| session.phase(now, limits) == Phase::Open),
            unreviewed: count(&Session::unreviewed),
            overdue: count(&|session| session.overdue(now, limits)),
        }
    }
}

#[cfg(test)]
mod tests {
    use base::ManualClock;

    use super::*;

    #[test]
    fn time_never_goes_back_and_never_stands_still() {
        let clock = ManualClock::at(1_000_000);
        let onward = OnwardClock::new(Arc::new(clock.clone()));
        clock.advance_ms(1_000);
        assert_eq!(onward.now(), Timestamp(1_001_000));
        clock.jump_ms(-900_000);
        clock.advance_ms(5_000);
        assert_eq!(onward.now(), Timestamp(1_006_000), "set back: time runs on by what passed");
        clock.jump_ms(2_000_000);
        assert_eq!(onward.now(), clock.now(), "set forward: the wall clock leads");
        assert_eq!(onward.at_least(Timestamp(9_000_000)), Timestamp(9_000_000));
        clock.advance_ms(7);
        assert_eq!(onward.now(), Timestamp(9_000_007));
    }

    #[test]
    fn phases_follow_the_facts_and_no_fact_lends_more_than_four_hours() {
        let (id, at) = (SessionId([1; 16]), Timestamp(0));
        let limits = EmergencyLimits::default();
        let who = PrincipalId::parse("dr-lee").unwrap();
        let mut sessions = Sessions::default();
        sessions.apply(Fact::Ended { id, at, by: who.clone() });
        assert!(sessions.get(id).is_none());
        sessions.apply(Fact::Requested {
            id,
            at,
            principal: who.clone(),
            domain: DomainName::parse("ehr").unwrap(),
            patient: 7,
            resource: LogicalId::parse("abc").unwrap(),
            category: Category::Other,
            reason: String::new(),
            wall: at,
            token: None,
        });
        let phase = |sessions: &Sessions, ms| sessions.get(id).unwrap().phase(Timestamp(ms), &limits);
        assert_eq!((phase(&sessions, 119_999), phase(&sessions, 120_000)), (Phase::Requested, Phase::Lapsed));
        let until = Timestamp(i64::MAX);
        sessions.apply(Fact::Confirmed { id, at, until, part2: true, policies: vec![] });
        let end = EmergencyLimits::SESSION_MS_MAX;
        assert_eq!((phase(&sessions, end - 1), phase(&sessions, end)), (Phase::Open, Phase::Over));
        let counts = |sessions: &Sessions, ms| {
            let counts = sessions.counts(Timestamp(ms), &limits);
            (counts.open, counts.unreviewed, counts.overdue)
        };
        assert_eq!(counts(&sessions, 0), (1, 1, 0));
        assert_eq!(counts(&sessions, end + limits.review_ms + 1), (0, 1, 1));
        sessions.apply(Fact::Ended { id, at: Timestamp(5), by: who.clone() });
        assert_eq!(phase(&sessions, 6), Phase::Over);
        let (verdict, note) = (Verdict::Justified, String::new());
        sessions.apply(Fact::Reviewed { id, at: Timestamp(6), by: who, verdict, note });
        assert_eq!(counts(&sessions, end + limits.review_ms + 1), (0, 0, 0));
        sessions.forget(Timestamp(6 + KEPT_MS), &limits);
        assert!(sessions.get(id).is_none());
    }
}
