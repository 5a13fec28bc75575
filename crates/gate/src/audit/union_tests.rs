//! Two targets that fail, go, come back and are lost, against a simple oracle: whatever one target has, both have in the
//! end, once, and reports see it at any time.

use std::collections::BTreeSet;
use std::sync::Arc;

use base::{Clock, DomainName, Layer, ManualClock, PrincipalId, SeededEntropy, Timestamp};
use bytes::Bytes;
use proptest::prelude::*;

use crate::audit::follow::{AuditFollower, NoAlarm};
use crate::audit::keys::{MemoryAuditKeys, RecordId};
use crate::audit::log::AuditLog;
use crate::audit::record::{AuditRecord, Outcome};
use crate::audit::target::{AuditSource, AuditStore, MemoryTarget, Targets};

#[derive(Debug, Clone)]
enum Step {
    Append(u8),
    Fail(usize, bool),
    Away(usize, bool),
    /// Loses its records but so many.
    Lose(usize, usize),
    Round,
    /// The node starts again, and its follower with it.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1u8..40).prop_map(Step::Append),
        2 => (0usize..2, any::<bool>()).prop_map(|(n, is)| Step::Fail(n, is)),
        2 => (0usize..2, any::<bool>()).prop_map(|(n, is)| Step::Away(n, is)),
        1 => (0usize..2, 0usize..60).prop_map(|(n, keep)| Step::Lose(n, keep)),
        4 => Just(Step::Round),
        1 => Just(Step::Restart),
    ]
}

struct World {
    targets: [Arc<MemoryTarget>; 2],
    audit: AuditLog,
    follower: AuditFollower,
    clock: ManualClock,
    away: [bool; 2],
}

fn record(n: u64) -> AuditRecord {
    let (who, domain) = (PrincipalId::parse("dr-lee").unwrap(), DomainName::parse("ehr").unwrap());
    AuditRecord { decision: n, ..AuditRecord::new(Timestamp(0), who, domain, Layer::Silver, Outcome::Served) }
}

fn ids(target: &MemoryTarget) -> BTreeSet<RecordId> {
    let all = target.read(0, usize::MAX).unwrap();
    let ids: BTreeSet<_> = all.iter().map(|(_, sealed)| RecordId::of(sealed).unwrap()).collect();
    assert_eq!(ids.len(), all.len(), "a record is there twice");
    ids
}

impl World {
    async fn new() -> World {
        let targets = [Arc::new(MemoryTarget::new("one")), Arc::new(MemoryTarget::new("two"))];
        let keys = Arc::new(MemoryAuditKeys::new(Arc::new(SeededEntropy::new(3))));
        let both = Targets::new(vec![targets[0].clone(), targets[1].clone()], 64);
        let audit = AuditLog::open(keys, both).await.unwrap();
        let clock = ManualClock::at(0);
        let follower = follower(&targets, &audit, &clock);
        World { targets, audit, follower, clock, away: [false; 2] }
    }

    async fn apply(&mut self, step: &Step, next: &mut u64) {
        match *step {
            Step::Append(n) => {
                for _ in 0..n {
                    *next += 1;
                    let _ = self.audit.append(vec![record(*next)]).await;
                    // The other target is behind the acknowledgement.
                    tokio::task::yield_now().await;
                }
            }
            Step::Fail(n, is) => self.targets[n].fail(is),
            Step::Away(n, is) => {
                self.away[n] = is;
                self.targets[n].away(is);
            }
            Step::Lose(n, keep) => {
                let size = self.targets[n].size() as usize;
                self.targets[n].lose(keep.min(size));
            }
            Step::Round => {
                self.clock.advance_ms(1_000);
                self.follower.round(0).await;
            }
            Step::Restart => self.follower = follower(&self.targets, &self.audit, &self.clock),
        }
    }

    fn held(&self) -> BTreeSet<RecordId> {
        self.targets.iter().filter(|target| target.origin().is_some()).flat_map(|target| ids(target)).collect()
    }

    async fn shown(&self) -> (BTreeSet<RecordId>, u64) {
        let view = self.follower.view().await;
        let Some(lead) = view.lead else { return (BTreeSet::new(), view.hidden) };
        let strays = view.strays.iter().map(|(store, index)| store.read(*index, 1).unwrap().remove(0).1);
        let all: Vec<Bytes> = lead.read(0, usize::MAX).unwrap().into_iter().map(|(_, s)| s).chain(strays).collect();
        let ids: BTreeSet<_> = all.iter().map(|sealed| RecordId::of(sealed).unwrap()).collect();
        assert_eq!(ids.len(), all.len(), "a report shows a record twice");
        (ids, view.hidden)
    }
}

fn follower(targets: &[Arc<MemoryTarget>; 2], audit: &AuditLog, clock: &ManualClock) -> AuditFollower {
    let stores: Vec<Arc<dyn AuditStore>> = vec![targets[0].clone(), targets[1].clone()];
    let clock: Arc<dyn Clock> = Arc::new(clock.clone());
    AuditFollower::new(audit.clone(), stores, Arc::new(NoAlarm), clock, None)
}

async fn run(steps: Vec<Step>) {
    let mut world = World::new().await;
    let mut next = 0;
    for step in &steps {
        world.apply(step, &mut next).await;
        let held = world.held();
        let (shown, hidden) = world.shown().await;
        if world.targets.iter().any(|target| target.origin().is_some()) {
            assert!(shown.is_subset(&held));
            assert!(
                held.len() - shown.len() <= hidden as usize,
                "{} held, {} shown, {hidden} hidden",
                held.len(),
                shown.len()
            );
        }
    }
    for target in &world.targets {
        target.away(false);
        target.fail(false);
    }
    let held = world.held();
    world.clock.advance_ms(1_000);
    world.follower.round(0).await;
    while world.follower.round(0).await > 0 {}
    for target in &world.targets {
        assert_eq!(ids(target), held, "a target lacks what the other has");
    }
    assert_eq!(world.shown().await.0, held);
    assert!(
        world.audit.targets().iter().all(|target| !target.lost && target.missed == 0),
        "{:?}",
        world.audit.targets()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn both_targets_reconcile_after_any_outages(steps in proptest::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(run(steps));
    }
}

/// More than is copied at once.
#[tokio::test]
async fn a_target_that_lacks_many_is_filled_up_with_all_of_them() {
    let world = World::new().await;
    world.targets[1].fail(true);
    for batch in 0..6 {
        world.audit.append((batch * 500..batch * 500 + 500).map(record).collect()).await.unwrap();
    }
    world.targets[1].fail(false);
    while world.follower.round(0).await > 0 {}
    assert_eq!(ids(&world.targets[1]).len(), 3_000);
    assert_eq!(ids(&world.targets[1]), ids(&world.targets[0]));
}

/// What is on its way is told as such; what stays away is missed, and the target lost, until it has it.
#[tokio::test]
async fn a_target_is_not_called_whole_while_it_lacks_what_is_not_on_its_way() {
    const GRACE: i64 = 5_000;
    let world = World::new().await;
    let told = async || {
        world.follower.round(GRACE).await;
        let target = world.follower.status().await.targets.remove(1);
        (target.lost, target.missed, target.behind)
    };
    world.audit.append(vec![record(0)]).await.unwrap();
    tokio::task::yield_now().await;
    assert_eq!(told().await, (false, 0, 0));
    world.targets[1].fail(true);
    world.audit.append((1..6).map(record).collect()).await.unwrap();
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
    assert_eq!(told().await, (true, 0, 5), "they might be on their way");
    world.clock.advance_ms(GRACE);
    assert_eq!(told().await, (true, 5, 0), "it takes none, and is whole");
    world.targets[1].fail(false);
    assert_eq!(told().await, (false, 0, 0));
}
