//! A search for events, against the records that were appended: whatever each target lacks, nothing is missing, nothing
//! comes twice, and a name means one event whichever target answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::{Clock, DomainName, Layer, ManualClock, Ordinal, PrincipalId, SeededEntropy, Timestamp};

use crate::audit::events::{EventPage, EventQuery};
use crate::audit::follow::{AuditFollower, NoAlarm};
use crate::audit::keys::{MemoryAuditKeys, RecordId};
use crate::audit::log::AuditLog;
use crate::audit::reader::{AuditReadError, AuditReader};
use crate::audit::record::{AuditRecord, Outcome};
use crate::audit::report::Period;
use crate::audit::target::{AuditStore, MemoryTarget, Targets};

struct World {
    targets: [Arc<MemoryTarget>; 2],
    audit: AuditLog,
    reader: AuditReader,
    _folder: tempfile::TempDir,
}

fn ehr() -> DomainName {
    DomainName::parse("ehr").unwrap()
}

impl World {
    async fn new(has_index: bool) -> World {
        let targets = [Arc::new(MemoryTarget::new("one")), Arc::new(MemoryTarget::new("two"))];
        let keys = Arc::new(MemoryAuditKeys::new(Arc::new(SeededEntropy::new(5))));
        let audit = AuditLog::open(keys, Targets::new(vec![targets[0].clone(), targets[1].clone()], 64)).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let stores: Vec<Arc<dyn AuditStore>> = vec![targets[0].clone(), targets[1].clone()];
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(0));
        let index = has_index.then(|| folder.path().join("index"));
        let follower = AuditFollower::new(audit.clone(), stores, Arc::new(NoAlarm), clock.clone(), index);
        let reader = AuditReader::new(follower, audit.clone(), clock);
        World { targets, audit, reader, _folder: folder }
    }

    /// Record `n` is about one of three patients, and now and then about forty.
    async fn append(&self, numbers: std::ops::Range<u64>) {
        for n in numbers {
            let who = PrincipalId::parse("dr-lee").unwrap();
            let mut record = AuditRecord::new(Timestamp(n as i64 / 2), who, ehr(), Layer::Silver, Outcome::Served);
            record.decision = n;
            record.patients.insert(1 + (n % 3) as u32);
            if n % 7 == 0 {
                record.patients.extend(1..41);
            }
            self.audit.append(vec![record]).await.unwrap();
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn page(&self, query: &EventQuery) -> Result<EventPage, AuditReadError> {
        match &query.patients {
            Some(patients) => self.reader.events_of(patients, query, &|_, _| true).await,
            None => self.reader.events_through(query, &|_, _| true).await,
        }
    }

    /// All pages: the decisions in their order, and what each is named.
    async fn all(&self, query: EventQuery) -> (Vec<u64>, BTreeMap<RecordId, u64>) {
        let (mut decisions, mut names, mut query) = (Vec::new(), BTreeMap::new(), query);
        loop {
            let page = self.page(&query).await.unwrap();
            assert_eq!(page.missing, 0);
            for event in page.events {
                decisions.push(event.record.decision);
                let many = event.record.decision % 7 == 0;
                assert_eq!(event.record.patients.len() == 40, many, "its patients are not in it");
                let before = names.insert(event.id, event.record.decision);
                assert_eq!(before, None, "a name was given twice");
            }
            query.after = match page.next {
                Some(next) => Some(next),
                None => return (decisions, names),
            };
        }
    }
}

#[tokio::test]
async fn a_search_finds_what_any_target_has_once_and_in_order() {
    for has_index in [true, false] {
        let world = World::new(has_index).await;
        world.append(0..30).await;
        world.targets[0].fail(true);
        world.append(30..45).await;
        world.targets[0].fail(false);
        world.targets[1].fail(true);
        world.append(45..60).await;
        for newest_first in [true, false] {
            for max in [1, 7, 100] {
                let query = EventQuery { newest_first, max, named_max: 32, ..EventQuery::default() };
                let (mut decisions, _) = world.all(query.clone()).await;
                decisions.sort_unstable();
                assert_eq!(decisions, (0..60).collect::<Vec<_>>(), "{max} a page");

                let patients = Some(vec![(ehr(), Ordinal(2))]);
                let (decisions, _) = world.all(EventQuery { patients, ..query.clone() }).await;
                let expected = (0..60).filter(|n| n % 3 == 1 || n % 7 == 0);
                let mut sorted = decisions.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, expected.collect::<Vec<_>>(), "{max} a page, index {has_index}");
                let times: Vec<u64> = decisions.iter().map(|n| n / 2).collect();
                assert!(if newest_first { times.is_sorted_by(|a, b| a >= b) } else { times.is_sorted() }, "{times:?}");

                let period = Period { since: Some(Timestamp(10)), until: Some(Timestamp(20)) };
                let (decisions, _) = world.all(EventQuery { period, ..query }).await;
                assert!(decisions.len() == 20 && decisions.iter().all(|n| (20..40).contains(n)), "{decisions:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_name_means_one_event_whichever_target_answers() {
    let world = World::new(true).await;
    world.append(0..20).await;
    let query = EventQuery { max: 6, named_max: 32, newest_first: true, ..EventQuery::default() };
    let first = world.page(&query).await.unwrap();
    let (_, before) = world.all(query.clone()).await;

    // The log that answered goes: names stay, and a search that began in it does not go on elsewhere.
    world.targets[0].away(true);
    for (id, decision) in &before {
        let (log, _, record) = world.reader.named(*id).await.unwrap().unwrap();
        assert_eq!((record.decision, &*log), (*decision, "test/two.1"));
        assert_eq!(RecordId::parse(&id.to_string()), Some(*id));
    }
    let goes_on = EventQuery { after: first.next, ..query.clone() };
    assert!(matches!(world.page(&goes_on).await, Err(AuditReadError::Moved)));
    assert_eq!(world.all(query).await.1, before);
    let nobody = RecordId { generation: [7; 16], number: 1 };
    assert!(world.reader.named(nobody).await.unwrap().is_none());
}
