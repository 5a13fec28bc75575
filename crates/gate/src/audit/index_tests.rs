//! Who saw a patient, by the index, against a simple oracle: a `Vec` of records that is looked through. Over restarts,
//! merges, damage, and the loss of the whole index.

use std::path::Path;
use std::sync::Arc;

use base::{Clock, DomainName, Layer, ManualClock, PrincipalId, SeededEntropy, Timestamp};
use proptest::prelude::*;

use crate::audit::follow::{Asked, AuditFollower, NoAlarm};
use crate::audit::index::question::Question;
use crate::audit::keys::MemoryAuditKeys;
use crate::audit::log::AuditLog;
use crate::audit::record::{AuditRecord, Outcome};
use crate::audit::target::{AuditStore, MemoryTarget, Targets};

const DOMAINS: [&str; 2] = ["ehr", "laboratory"];

/// Whom a record is about.
#[derive(Debug, Clone)]
enum About {
    Nobody,
    Patients(Vec<u32>),
    /// A large table: everyone up to a number, but one.
    Wide(u32, u32),
    /// Asked for and refused.
    Refused(u32),
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<(usize, About, u32)>),
    /// What is in memory becomes a run.
    Flush,
    Restart,
    Rebuild,
    /// A bit of a file of the index is turned over.
    Damage(u16, u16),
}

fn about() -> impl Strategy<Value = About> {
    prop_oneof![
        1 => Just(About::Nobody),
        8 => (1u32..14).prop_map(|patient| About::Patients(vec![patient])),
        4 => proptest::collection::vec(1u32..14, 1..12).prop_map(About::Patients),
        1 => (16_500u32..17_000, 1u32..14).prop_map(|(n, but)| About::Wide(n, but)),
        2 => (1u32..14).prop_map(About::Refused),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => proptest::collection::vec((0usize..2, about(), 0u32..1_000_000), 1..20).prop_map(Step::Append),
        6 => Just(Step::Flush),
        1 => Just(Step::Restart),
        1 => Just(Step::Rebuild),
        1 => (any::<u16>(), any::<u16>()).prop_map(|(file, at)| Step::Damage(file, at)),
    ]
}

struct World {
    targets: [Arc<MemoryTarget>; 2],
    audit: AuditLog,
    follower: AuditFollower,
    clock: ManualClock,
    folder: tempfile::TempDir,
    oracle: Vec<AuditRecord>,
}

fn domain(n: usize) -> DomainName {
    DomainName::parse(DOMAINS[n]).unwrap()
}

fn follower(targets: &[Arc<MemoryTarget>; 2], audit: &AuditLog, clock: &ManualClock, folder: &Path) -> AuditFollower {
    let stores: Vec<Arc<dyn AuditStore>> = vec![targets[0].clone(), targets[1].clone()];
    let clock: Arc<dyn Clock> = Arc::new(clock.clone());
    AuditFollower::new(audit.clone(), stores, Arc::new(NoAlarm), clock, Some(folder.join("index")))
}

impl World {
    async fn new() -> World {
        let targets = [Arc::new(MemoryTarget::new("one")), Arc::new(MemoryTarget::new("two"))];
        let keys = Arc::new(MemoryAuditKeys::new(Arc::new(SeededEntropy::new(3))));
        let both = Targets::new(vec![targets[0].clone(), targets[1].clone()], 64);
        let audit = AuditLog::open(keys, both).await.unwrap();
        let (clock, folder) = (ManualClock::at(0), tempfile::tempdir().unwrap());
        let follower = follower(&targets, &audit, &clock, folder.path());
        World { targets, audit, follower, clock, folder, oracle: Vec::new() }
    }

    fn record(&self, n: usize, about: &About, at: u32) -> AuditRecord {
        let who = PrincipalId::parse("dr-lee").unwrap();
        let mut record = AuditRecord::new(Timestamp(i64::from(at)), who, domain(n), Layer::Silver, Outcome::Served);
        record.decision = self.oracle.len() as u64;
        record.what = format!("GET Patient/{at}");
        match about {
            About::Nobody => {}
            About::Patients(patients) => record.patients.extend(patients.iter().copied()),
            About::Wide(n, but) => {
                record.patients.insert_range(1..*n);
                record.patients.remove(*but);
            }
            About::Refused(patient) => {
                record.outcome = Outcome::Refused;
                record.patient_token = Some(self.audit.patient_token(&domain(n), *patient));
            }
        }
        record
    }

    async fn apply(&mut self, step: &Step) {
        match step {
            Step::Append(records) => {
                for (n, about, at) in records {
                    let record = self.record(*n, about, *at);
                    self.oracle.push(record.clone());
                    self.audit.append(vec![record]).await.unwrap();
                }
            }
            Step::Flush => self.follower.settle_index().await,
            Step::Restart => {
                self.follower = follower(&self.targets, &self.audit, &self.clock, self.folder.path());
            }
            Step::Rebuild => self.follower.rebuild_index().await,
            Step::Damage(file, at) => {
                self.damage(usize::from(*file), usize::from(*at));
                self.follower = follower(&self.targets, &self.audit, &self.clock, self.folder.path());
            }
        }
    }

    fn damage(&self, file: usize, at: usize) {
        let Ok(entries) = std::fs::read_dir(self.folder.path().join("index")) else { return };
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        if paths.is_empty() {
            return;
        }
        let path = &paths[file % paths.len()];
        let mut bytes = std::fs::read(path).unwrap();
        let at = at % bytes.len();
        bytes[at] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }

    async fn ask(&self, n: usize, patient: u32, since: u32, until: u32, max: usize) -> Asked {
        let question = || Question {
            token: self.audit.patient_token(&domain(n), patient),
            domain: domain(n),
            patient,
            since: Timestamp(i64::from(since)),
            until: Timestamp(i64::from(until)),
            max,
        };
        // Damage is found by the question, and the next one has the index that was built again.
        match self.follower.ask(question()).await {
            Some(asked) => asked,
            None => self.follower.ask(question()).await.expect("an index that was built again"),
        }
    }

    async fn check(&self, patient: u32, since: u32, until: u32) {
        for (n, name) in DOMAINS.iter().enumerate() {
            let token = self.audit.patient_token(&domain(n), patient);
            let is_about = |record: &&AuditRecord| {
                (record.domain == domain(n) && record.patients.contains(patient)) || record.patient_token == Some(token)
            };
            let period = i64::from(since)..i64::from(until);
            let mut expected: Vec<&AuditRecord> =
                self.oracle.iter().filter(is_about).filter(|record| period.contains(&record.at.ms())).collect();
            expected.sort_by_key(|record| (record.at, record.decision));
            for max in [expected.len() + 1, expected.len().div_ceil(2).max(1)] {
                let asked = self.ask(n, patient, since, until, max).await;
                let seen = |asked: &Asked| -> Vec<(i64, u64, String, u64)> {
                    let mut seen: Vec<_> = asked
                        .answer
                        .found
                        .iter()
                        .map(|found| {
                            let record = &found.record;
                            (record.at.ms(), record.decision, record.what.clone(), found.patients)
                        })
                        .collect();
                    seen.sort();
                    seen
                };
                let want: Vec<_> = expected
                    .iter()
                    .take(max)
                    .map(|record| (record.at.ms(), record.decision, record.what.clone(), record.patients.len()))
                    .collect();
                assert_eq!(seen(&asked), want, "patient {patient} of {name}");
                assert_eq!(asked.answer.more, expected.len() > max);
                assert_eq!((asked.behind, asked.unreadable), (0, 0));
            }
        }
    }
}

async fn run(steps: Vec<Step>, patient: u32, since: u32) {
    let mut world = World::new().await;
    for step in &steps {
        world.apply(step).await;
        world.check(patient, since, 900_000).await;
    }
    world.follower.rebuild_index().await;
    for patient in 1..14 {
        world.check(patient, 0, u32::MAX).await;
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn the_index_answers_as_a_look_through_all_records(
        steps in proptest::collection::vec(step(), 1..40), patient in 1u32..14, since in 0u32..500_000,
    ) {
        runtime().block_on(run(steps, patient, since));
    }
}

#[test]
fn nothing_of_a_patient_or_a_user_lies_in_the_clear_and_a_dropped_index_opens_no_more() {
    runtime().block_on(async {
        let mut world = World::new().await;
        let many: Vec<_> = (0..2_000).map(|at| (0, About::Patients(vec![1 + at % 9]), at)).collect();
        world.apply(&Step::Append(many)).await;
        world.apply(&Step::Flush).await;
        let index = world.folder.path().join("index");
        let token = world.audit.patient_token(&domain(0), 1);
        let mut kept = Vec::new();
        for entry in std::fs::read_dir(&index).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            for secret in [b"dr-lee".as_slice(), b"Patient/", &token[..8]] {
                assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{}", path.display());
            }
            kept.push((path, bytes));
        }
        assert!(kept.len() > 1);
        let old = crate::audit::index::manifest::load(&index).unwrap().unwrap().generation;
        world.follower.rebuild_index().await;
        let key = world.audit.keys().load(old).await;
        assert!(matches!(key, Err(crate::audit::keys::AuditKeyError::Destroyed)), "a copy of the index still opens");
        // Someone puts the old files back: their key is gone, so the index is built from the log again.
        for (path, bytes) in kept {
            std::fs::write(path, bytes).unwrap();
        }
        world.apply(&Step::Restart).await;
        world.check(1, 0, u32::MAX).await;
        let status = world.follower.status().await;
        assert_eq!((status.index.unwrap().records, status.unread), (2_000, 0));
    });
}

/// Eight runs become one, and a question looks into few.
#[test]
fn runs_are_merged() {
    runtime().block_on(async {
        let mut world = World::new().await;
        for n in 0..70u32 {
            world
                .apply(&Step::Append(vec![
                    (0, About::Patients((1..12).collect()), n),
                    (0, About::Patients(vec![3]), n),
                ]))
                .await;
            world.apply(&Step::Flush).await;
        }
        let runs = world.follower.status().await.index.unwrap().runs;
        assert!(runs <= 14, "{runs} runs after 70 flushes");
        world.check(3, 0, u32::MAX).await;
        let asked = world.ask(0, 3, 69, 70, 10).await;
        assert_eq!((asked.answer.found.len(), asked.answer.runs), (2, 1));
    });
}
