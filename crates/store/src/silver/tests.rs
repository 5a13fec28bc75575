//! Silver on a real catalog, key table and index in a temporary folder: what a commit promises, what a crash leaves,
//! what a permit covers.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use base::{
    DomainName, Grant, Layer, Limits, LogName, LogicalId, ManualClock, Ordinal, PatientSet, Permit, PermitMint,
    PrincipalId, Purpose, Read, SeededEntropy, Sensitivity, SourceName, Timestamp, Write,
};
use fhir::json::Value;
use fhir::search::Query;
use roaring::RoaringBitmap;
use vault::{MemoryRootKeys, Vault};

use super::commit::Step;
use super::*;
use crate::{SqlKeyTable, StoreError};

pub(crate) const NOW: i64 = 1_764_000_000_000;
pub(crate) const SENTINEL: &str = "ZQXSENTINELWORD";

pub(crate) fn mint() -> &'static PermitMint {
    static MINT: OnceLock<PermitMint> = OnceLock::new();
    MINT.get_or_init(|| PermitMint::claim().expect("no other test of this crate claims it"))
}

pub(crate) fn ehr() -> DomainName {
    DomainName::parse("ehr").unwrap()
}

pub(crate) fn grant(patients: PatientSet) -> Grant {
    Grant {
        decision: 1,
        principal: PrincipalId::parse("dr-lee").unwrap(),
        purpose: Purpose::Treatment,
        domain: ehr(),
        layer: Layer::Silver,
        kinds: vec![],
        patients,
        sensitivity: Sensitivity::NONE,
        masks: vec![],
        rows_max: None,
        group_min: None,
        policies: vec![],
        policy_version: 1,
        expires: Timestamp(NOW + 1_000),
    }
}

pub(crate) fn reads(patients: PatientSet) -> Permit<Read> {
    mint().mint(grant(patients))
}

pub(crate) fn writes() -> Permit<Write> {
    mint().mint(Grant { sensitivity: Sensitivity(u16::MAX), ..grant(PatientSet::All) })
}

/// The keys live as long as the folder: the root in memory, the rest in files.
pub(crate) struct Folder {
    pub dir: tempfile::TempDir,
    root: Arc<MemoryRootKeys>,
    clock: Arc<ManualClock>,
}

impl Folder {
    pub fn new() -> Folder {
        let root = Arc::new(MemoryRootKeys::new(Arc::new(SeededEntropy::new(1))));
        Folder { dir: tempfile::tempdir().unwrap(), root, clock: Arc::new(ManualClock::at(NOW)) }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub async fn open(&self) -> Silver {
        let file = |name: &str| format!("sqlite:{}", self.path().join(name).display());
        let keys = SqlKeyTable::open(&file("keys.db")).await.unwrap();
        self.open_on(keys, Catalog::open(&file("catalog.db")).await.unwrap()).await.unwrap()
    }

    pub async fn open_on(&self, keys: SqlKeyTable, catalog: Catalog) -> Result<Silver, StoreError> {
        // Another seed each time: a restarted node does not draw the same keys.
        static SEED: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(100);
        let seed = SEED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let entropy = Arc::new(SeededEntropy::new(seed));
        let vault = Vault::open(self.root.clone(), Arc::new(keys), self.clock.clone(), entropy.clone()).await?;
        Silver::open(SilverParts {
            catalog,
            vault,
            index_dir: self.path().join("index"),
            domains: vec![ehr()],
            retention: Default::default(),
            clock: self.clock.clone(),
            entropy,
            limits: Arc::new(Limits::default()),
        })
        .await
    }
}

pub(crate) fn id(text: &str) -> LogicalId {
    LogicalId::parse(text).unwrap()
}

/// `body` without type and id, which are added.
pub(crate) fn version(rtype: &str, name: &str, version: u32, patient: u32, body: &str) -> NewVersion {
    let text = format!(r#"{{"resourceType":"{rtype}","id":"{name}"{}{body}}}"#, if body.is_empty() { "" } else { "," });
    let body = fhir::json::parse(text.as_bytes(), &fhir::json::ParseLimits::default()).unwrap();
    NewVersion {
        rtype: rtype.into(),
        id: id(name),
        version,
        last_updated: Timestamp(NOW),
        patient: Ordinal(patient),
        sensitivity: Sensitivity::NONE,
        deleted: false,
        positions: vec![],
        body: Arc::new(body),
    }
}

pub(crate) fn deletion(of: &NewVersion) -> NewVersion {
    NewVersion { version: of.version + 1, deleted: true, body: Arc::new(Value::Null), ..of.clone() }
}

pub(crate) fn batch(from: u64, upto: u64, versions: Vec<NewVersion>) -> Batch {
    Batch {
        domain: ehr(),
        consumer: REFINE.into(),
        log: LogName::parse("journal-ehr").unwrap(),
        from,
        upto,
        versions: versions.into_iter().map(|v| NewVersion { positions: vec![upto - 1], ..v }).collect(),
        patients: vec![],
        set_aside: vec![],
        resolved: vec![],
        outcomes: vec![],
        seen: vec![],
        held: vec![],
        named: vec![],
        labelled: vec![],
        counts: vec![],
        entries: vec![],
        unmapped: vec![],
        lists: vec![],
    }
}

pub(crate) fn query(rtype: &str, text: &str) -> Query {
    let pairs: Vec<(String, String)> = text
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())).unwrap())
        .collect();
    fhir::search::parse_query(rtype, &pairs, &Limits::default(), false).unwrap()
}

async fn position(silver: &Silver) -> u64 {
    silver.position(&ehr(), REFINE, &LogName::parse("journal-ehr").unwrap()).await.unwrap()
}

async fn ids(silver: &Silver, permit: &Permit<Read>, rtype: &str, text: &str) -> Vec<String> {
    let page = silver.search(permit, &ehr(), &query(rtype, text)).await.unwrap();
    page.resources.iter().chain(&page.included).map(|r| r.id.to_string()).collect()
}

fn two_patients() -> Vec<NewVersion> {
    vec![
        version("Patient", "a", 1, 1, &format!(r#""name":[{{"family":"{SENTINEL}"}}],"gender":"female""#)),
        version("Patient", "b", 1, 2, r#""name":[{"family":"Muster"}],"gender":"female""#),
        version(
            "Observation",
            "oa",
            1,
            1,
            r#""status":"final","subject":{"reference":"Patient/a"},"code":{"text":"x"}"#,
        ),
        version(
            "Observation",
            "ob",
            1,
            2,
            r#""status":"final","subject":{"reference":"Patient/b"},"code":{"text":"x"}"#,
        ),
        version("Organization", "org", 1, 0, r#""name":"Clinic""#),
    ]
}

#[tokio::test]
async fn what_is_committed_is_read_searched_and_still_there_after_a_restart() {
    let folder = Folder::new();
    let all = reads(PatientSet::All);
    for restarted in [false, true] {
        let silver = folder.open().await;
        if !restarted {
            let mut batch = batch(0, 3, two_patients());
            batch.patients = vec![Ordinal(1), Ordinal(2)];
            assert_eq!(silver.next_ordinal(&ehr()).await.unwrap(), Ordinal(1));
            silver.commit(&writes(), batch).await.unwrap();
        }
        let read = silver.read(&all, &ehr(), "Patient", &id("a")).await.unwrap().unwrap();
        assert_eq!((read.version, read.patient, read.positions, read.deleted), (1, Ordinal(1), vec![2], false));
        assert!(String::from_utf8_lossy(read.body.expose()).contains(SENTINEL));
        assert_eq!(silver.read(&all, &ehr(), "Patient", &id("nobody")).await.unwrap(), None);
        assert_eq!(ids(&silver, &all, "Patient", "gender=female").await, ["a", "b"]);
        assert_eq!(silver.next_ordinal(&ehr()).await.unwrap(), Ordinal(3));
        assert_eq!(position(&silver).await, 3);
        assert_eq!(*silver.applied(&ehr()).borrow(), 3);
        assert_eq!(silver.came_of(&all, &ehr(), 2).await.unwrap().len(), 5);
        assert_eq!(silver.resource_counts(&ehr()).await.unwrap().len(), 3);
    }
}

#[tokio::test]
async fn versions_follow_each_other_and_a_deleted_resource_leaves_the_index() {
    let folder = Folder::new();
    let (silver, all) = (folder.open().await, reads(PatientSet::All));
    let first = version("Patient", "a", 1, 1, r#""gender":"male""#);
    let second = version("Patient", "a", 2, 1, r#""gender":"female""#);
    silver.commit(&writes(), batch(0, 1, vec![first.clone(), second.clone()])).await.unwrap();
    assert_eq!(ids(&silver, &all, "Patient", "gender=male").await, Vec::<String>::new());
    assert_eq!(ids(&silver, &all, "Patient", "gender=female").await, ["a"]);

    for wrong in [1, 2, 4] {
        let late = version("Patient", "a", wrong, 1, "");
        let error = silver.commit(&writes(), batch(1, 2, vec![late])).await.unwrap_err();
        assert!(matches!(error, StoreError::Conflict { found: 2, .. }), "{error}");
    }
    assert_eq!(position(&silver).await, 1, "a refused batch moves nothing");

    silver.commit(&writes(), batch(1, 2, vec![deletion(&second)])).await.unwrap();
    assert_eq!(ids(&silver, &all, "Patient", "gender=female").await, Vec::<String>::new());
    assert!(silver.read(&all, &ehr(), "Patient", &id("a")).await.unwrap().unwrap().deleted);
    let history = silver.history(&all, &ehr(), "Patient", &id("a"), None, 10).await.unwrap();
    assert_eq!(history.iter().map(|r| r.version).collect::<Vec<_>>(), [3, 2, 1]);
    let old = silver.vread(&all, &ehr(), "Patient", &id("a"), 1).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(old.body.expose()).contains("male"));
}

#[tokio::test]
async fn a_batch_is_fenced_by_the_position_it_begins_at() {
    let folder = Folder::new();
    let silver = folder.open().await;
    silver.commit(&writes(), batch(0, 2, vec![version("Patient", "a", 1, 1, "")])).await.unwrap();
    for from in [0, 1] {
        let again = batch(from, 3, vec![version("Patient", "b", 1, 2, "")]);
        assert!(matches!(silver.commit(&writes(), again).await, Err(StoreError::Fenced { at: 2, .. })));
    }
    let mut skipped = batch(2, 3, vec![]);
    skipped.patients = vec![Ordinal(2)];
    assert!(matches!(silver.commit(&writes(), skipped).await, Err(StoreError::Invalid(_))));
}

#[tokio::test]
async fn a_crash_between_any_two_steps_leaves_the_same_content_after_a_replay() {
    for step in [Step::AfterKeys, Step::BeforeSqlCommit, Step::AfterSqlCommit, Step::AfterIndex] {
        let folder = Folder::new();
        let whole = || {
            let mut batch = batch(0, 3, two_patients());
            batch.patients = vec![Ordinal(1), Ordinal(2)];
            batch.outcomes = vec![(1, outcome(201))];
            batch
        };
        {
            let silver = folder.open().await;
            *silver.0.fault.lock() = Some(step);
            assert!(silver.commit(&writes(), whole()).await.is_err());
        }
        let silver = folder.open().await;
        match position(&silver).await {
            0 => silver.commit(&writes(), whole()).await.unwrap(),
            at => assert_eq!((at, matches!(step, Step::AfterSqlCommit | Step::AfterIndex)), (3, true)),
        }
        let all = reads(PatientSet::All);
        assert_eq!(*silver.applied(&ehr()).borrow(), 3);
        assert_eq!(ids(&silver, &all, "Patient", "gender=female").await, ["a", "b"], "{step:?}");
        assert_eq!(silver.scan(&all, &ehr(), "Observation", 0, 10).await.unwrap().resources.len(), 2);
        assert_eq!(silver.outcome(&ehr(), 1).await.unwrap(), Some(outcome(201)));
        assert_eq!(silver.outcome(&ehr(), 2).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_batch_whose_last_steps_failed_is_finished_when_its_position_is_read() {
    let folder = Folder::new();
    let silver = folder.open().await;
    *silver.0.fault.lock() = Some(Step::AfterSqlCommit);
    assert!(silver.commit(&writes(), batch(0, 1, two_patients())).await.is_err());
    assert_eq!(*silver.applied(&ehr()).borrow(), 0);
    assert_eq!(position(&silver).await, 1);
    assert_eq!(*silver.applied(&ehr()).borrow(), 1);
    assert_eq!(ids(&silver, &reads(PatientSet::All), "Patient", "_sort=_id").await, ["a", "b"]);
}

#[tokio::test]
async fn an_index_that_failed_once_is_followed_up_by_the_next_commit() {
    let folder = Folder::new();
    let (silver, all) = (folder.open().await, reads(PatientSet::All));
    *silver.0.fault.lock() = Some(Step::AfterSqlCommit);
    assert!(silver.commit(&writes(), batch(0, 1, two_patients())).await.is_err());
    assert_eq!(*silver.applied(&ehr()).borrow(), 0);
    *silver.0.fault.lock() = None;
    silver.commit(&writes(), batch(1, 2, vec![version("Patient", "c", 1, 3, "")])).await.unwrap();
    assert_eq!(ids(&silver, &all, "Patient", "_sort=_id").await, ["a", "b", "c"]);
}

fn outcome(status: u16) -> Outcome {
    Outcome {
        status,
        headers: vec![("Location".into(), "Patient/a/_history/1".into())],
        body: format!("{{\"n\":\"{SENTINEL}\"}}\n").into_bytes(),
    }
}

#[tokio::test]
async fn a_permit_for_patient_a_never_reads_b() {
    let folder = Folder::new();
    let silver = folder.open().await;
    let mut versions = two_patients();
    let restricted = NewVersion { sensitivity: Sensitivity::PART2, ..version("Observation", "oa2", 1, 1, "") };
    versions.push(restricted);
    silver.commit(&writes(), batch(0, 1, versions)).await.unwrap();

    // Small sets stand in the statement, large ones go through the function; both forms, inside and outside.
    let many = |extra: u32| RoaringBitmap::from_iter((1_000..2_000).chain([extra]));
    for patients in [
        PatientSet::one(Ordinal(1)),
        PatientSet::Only(Arc::new(many(1))),
        PatientSet::AllBut(Arc::new(RoaringBitmap::from_iter([2]))),
        PatientSet::AllBut(Arc::new(many(2))),
    ] {
        let permit = reads(patients);
        for (rtype, name) in [("Patient", "b"), ("Observation", "ob"), ("Observation", "oa2")] {
            assert!(matches!(silver.read(&permit, &ehr(), rtype, &id(name)).await, Err(StoreError::NotCovered(_))));
            assert!(matches!(silver.vread(&permit, &ehr(), rtype, &id(name), 1).await, Err(StoreError::NotCovered(_))));
            let history = silver.history(&permit, &ehr(), rtype, &id(name), None, 10).await;
            assert!(matches!(history, Err(StoreError::NotCovered(_))));
        }
        let wanted = ["a", "b"].map(|name| ("Patient".to_owned(), id(name)));
        assert_eq!(silver.read_many(&permit, &ehr(), &wanted).await.unwrap().len(), 1);
        assert_eq!(silver.scan(&permit, &ehr(), "Observation", 0, 10).await.unwrap().resources.len(), 1);
        assert_eq!(silver.came_of(&permit, &ehr(), 0).await.unwrap().len(), 3);
        for (rtype, text, found) in [
            ("Patient", "gender=female", &["a"][..]),
            ("Patient", "_id=b", &[]),
            ("Patient", "_id=a,b", &["a"]),
            ("Patient", "name=muster", &[]),
            ("Patient", "name:contains=uste", &[]),
            ("Patient", "gender:not=male", &["a"]),
            ("Patient", "_id=a&_revinclude=Observation:subject", &["a", "oa"]),
            ("Observation", "status=final", &["oa"]),
            ("Observation", "subject=Patient/b", &[]),
            ("Observation", "subject:Patient.name=muster", &[]),
            ("Observation", "status=final&_include=Observation:subject", &["oa", "a"]),
            ("Patient", "_has:Observation:subject:status=final", &["a"]),
            ("Organization", "name=clinic", &["org"]),
        ] {
            assert_eq!(ids(&silver, &permit, rtype, text).await, found, "{rtype}?{text}");
        }
        let counted = silver.search(&permit, &ehr(), &query("Patient", "_summary=count")).await.unwrap();
        assert_eq!((counted.total, counted.resources.len()), (Some(1), 0), "a total tells of nobody else");
    }
    let none = reads(PatientSet::None);
    assert_eq!(ids(&silver, &none, "Patient", "gender=female").await, Vec::<String>::new());
    assert_eq!(ids(&silver, &none, "Organization", "").await, ["org"]);
}

#[tokio::test]
async fn another_domain_layer_kind_or_time_is_not_covered() {
    let folder = Folder::new();
    let silver = folder.open().await;
    silver.commit(&writes(), batch(0, 1, two_patients())).await.unwrap();
    let base = || grant(PatientSet::All);
    for (wrong, expired) in [
        (Grant { domain: DomainName::parse("laboratory").unwrap(), ..base() }, false),
        (Grant { layer: Layer::Gold, ..base() }, false),
        (Grant { kinds: vec!["Encounter".into()], ..base() }, false),
        (Grant { expires: Timestamp(NOW), ..base() }, true),
    ] {
        let permit: Permit<Read> = mint().mint(wrong.clone());
        let refused = |error: Option<StoreError>| match error {
            Some(StoreError::Expired) => expired,
            Some(StoreError::NotCovered(_)) => !expired,
            _ => false,
        };
        assert!(refused(silver.read(&permit, &ehr(), "Patient", &id("a")).await.err()));
        assert!(refused(silver.search(&permit, &ehr(), &query("Patient", "")).await.err()));
        assert!(refused(silver.scan(&permit, &ehr(), "Patient", 0, 1).await.err()));
        let write: Permit<Write> = mint().mint(wrong);
        assert!(refused(silver.commit(&write, batch(1, 2, vec![version("Patient", "z", 1, 9, "")])).await.err()));
    }
    // Kinds bound what is included and chained to, too.
    let permit: Permit<Read> = mint().mint(Grant { kinds: vec!["Observation".into()], ..base() });
    assert_eq!(ids(&silver, &permit, "Observation", "_id=oa&_include=Observation:subject").await, ["oa"]);
    assert!(ids(&silver, &permit, "Observation", "subject:Patient.name=muster").await.is_empty());
}

#[tokio::test]
async fn pages_go_on_where_they_ended_for_the_same_principal_and_query_only() {
    let folder = Folder::new();
    let (silver, all) = (folder.open().await, reads(PatientSet::All));
    let versions = (0..25).map(|n| version("Patient", &format!("p{n:02}"), 1, n + 1, r#""gender":"female""#)).collect();
    silver.commit(&writes(), batch(0, 1, versions)).await.unwrap();
    for sort in ["", "&_sort=-_id", "&_sort=gender,-_id", "&_sort=birthdate"] {
        let mut query = query("Patient", &format!("gender=female&_count=10{sort}"));
        let mut seen = Vec::new();
        loop {
            let page = silver.search(&all, &ehr(), &query).await.unwrap();
            seen.extend(page.resources.iter().map(|r| r.id.to_string()));
            match page.next {
                Some(next) => query.cursor = Some(next),
                None => break,
            }
        }
        let mut sorted = seen.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!((seen.len(), sorted.len()), (25, 25), "{sort}");
    }
    let mut first = query("Patient", "gender=female&_count=10");
    let next = silver.search(&all, &ehr(), &first).await.unwrap().next;
    let mut other = query("Patient", "gender=female,male&_count=10");
    other.cursor = next.clone();
    assert!(matches!(silver.search(&all, &ehr(), &other).await, Err(StoreError::BadCursor)));
    first.cursor = next;
    let somebody = Grant { principal: PrincipalId::parse("dr-who").unwrap(), ..grant(PatientSet::All) };
    assert!(matches!(silver.search(&mint().mint(somebody), &ehr(), &first).await, Err(StoreError::BadCursor)));
    let few = Grant { rows_max: Some(3), ..grant(PatientSet::All) };
    first.cursor = None;
    assert_eq!(silver.search(&mint().mint(few), &ehr(), &first).await.unwrap().resources.len(), 3);
}

#[tokio::test]
async fn an_index_built_anew_answers_alike_and_a_damaged_one_is_built_anew() {
    let folder = Folder::new();
    let all = reads(PatientSet::All);
    let asked = [("Patient", "gender=female"), ("Observation", "status=final"), ("Patient", "name=muster")];
    let answers = async |silver: &Silver| {
        let mut answers = Vec::new();
        for (rtype, text) in asked {
            answers.push(ids(silver, &all, rtype, text).await);
        }
        answers
    };
    let before = {
        let silver = folder.open().await;
        silver.commit(&writes(), batch(0, 1, two_patients())).await.unwrap();
        let second = version("Patient", "b", 2, 2, r#""name":[{"family":"Muster"}],"gender":"male""#);
        silver.commit(&writes(), batch(1, 2, vec![second])).await.unwrap();
        let before = answers(&silver).await;
        let mut told = Vec::new();
        silver.rebuild_index(&ehr(), &mut |progress| told.push(progress)).await.unwrap();
        assert_eq!(told, [Progress { change: 6, of: 6, resources: 5 }]);
        assert_eq!(answers(&silver).await, before);
        before
    };
    let file = folder.path().join("index/ehr.index");
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", file.display()));
    }
    std::fs::write(&file, vec![7; 8192]).unwrap();
    assert_eq!(answers(&folder.open().await).await, before);
}

#[tokio::test]
async fn what_consumers_keep_comes_back() {
    let folder = Folder::new();
    let silver = folder.open().await;
    let source = SourceName::parse("adt-main").unwrap();
    let aside = |unit| SetAside {
        index: 1,
        unit,
        source: source.clone(),
        place: "OBX[2]-5".into(),
        code: "value".into(),
        reason: "a number is expected".into(),
        critical: unit == 1,
        at: Timestamp(NOW),
    };
    let seen = |index, n: u8| Seen {
        source: source.clone(),
        key: silver.seen_key("MSG-1"),
        content_hash: base::hex::encode(&[n; 32]),
        index,
        at: Timestamp(NOW + index as i64),
    };
    let mut first = batch(0, 2, vec![]);
    first.set_aside = vec![aside(1), aside(2)];
    first.seen = vec![seen(0, 7), seen(1, 8)];
    first.counts = vec![(source.clone(), "received", 2), (source.clone(), "received", 3)];
    silver.commit(&writes(), first).await.unwrap();
    assert_eq!(silver.open_set_aside(&ehr(), 1).await.unwrap(), [1, 2]);
    assert_eq!(silver.set_aside(&ehr(), None, false, 10).await.unwrap().len(), 2);
    assert_eq!(silver.set_aside(&ehr(), Some((1, 1)), false, 10).await.unwrap()[0].unit, aside(2));
    assert_eq!(silver.set_aside_counts(&ehr()).await.unwrap(), [("value".to_owned(), 2)]);
    assert_eq!(silver.counts(&ehr()).await.unwrap(), [(source.clone(), "received".to_owned(), 5)]);
    assert_eq!(silver.seen_since(&ehr(), Timestamp(NOW + 1), 10).await.unwrap(), [seen(1, 8)]);
    let hash = |n: u8| base::hex::encode(&[n; 32]);
    let key = silver.seen_key("MSG-1");
    let at = |hash: String| {
        let (silver, source, key) = (&silver, &source, &key);
        async move {
            let seen = silver.seen(&ehr(), source, key, Timestamp(NOW)).await.unwrap();
            seen.into_iter().find(|seen| seen.content_hash == hash).map(|seen| seen.index)
        }
    };
    assert_eq!((at(hash(7)).await, at(hash(8)).await, at(hash(9)).await), (Some(0), Some(1), None));

    let mut second = batch(2, 3, vec![]);
    second.resolved = vec![(1, 2)];
    silver.commit(&writes(), second).await.unwrap();
    assert_eq!(silver.open_set_aside(&ehr(), 1).await.unwrap(), [1]);
    assert!(silver.set_aside_of(&ehr(), 1).await.unwrap()[1].resolved);
    assert!(!silver.prune(&ehr(), Timestamp(NOW + 1)).await.unwrap());
    assert_eq!(at(hash(7)).await, None);
}

#[tokio::test]
async fn no_file_holds_what_was_stored_in_the_clear() {
    let folder = Folder::new();
    let silver = folder.open().await;
    let mut versions = two_patients();
    // A client may choose a medical record number as the id.
    versions.push(version("Patient", &format!("mrn-{SENTINEL}"), 1, 3, ""));
    let mut batch = batch(0, 1, versions);
    batch.outcomes = vec![(0, outcome(201))];
    batch.seen = vec![Seen {
        source: SourceName::parse("adt-main").unwrap(),
        key: silver.seen_key(SENTINEL),
        content_hash: base::hex::encode(SENTINEL.repeat(3).as_bytes()[..32].as_ref()),
        index: 0,
        at: Timestamp(NOW),
    }];
    silver.commit(&writes(), batch).await.unwrap();
    assert_eq!(ids(&silver, &reads(PatientSet::All), "Patient", &format!("family={SENTINEL}")).await, ["a"]);
    std::fs::write(folder.path().join("planted"), format!("x{SENTINEL}y")).unwrap();

    let mut files = 0;
    let mut found = Vec::new();
    let mut folders = vec![folder.path().to_owned()];
    while let Some(dir) = folders.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            let bytes = std::fs::read(&path).unwrap().to_ascii_uppercase();
            if bytes.windows(SENTINEL.len()).any(|window| window == SENTINEL.as_bytes()) {
                found.push(path.file_name().unwrap().to_owned());
            }
        }
    }
    assert!(files >= 7, "catalog, keys, index and their logs, and the control");
    assert_eq!(found, ["planted"], "the planted control is found, the sentinel nowhere");
}
