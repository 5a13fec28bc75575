//! Erasures from the request to the certificate, over a real control log and an estate in memory; each step cut short and
//! taken up again.

use std::path::Path;
use std::sync::Arc;

use base::{Clock, DomainName, LogName, LogicalId, ManualClock, Ordinal, PrincipalId, SeededEntropy};
use comply::{
    Against, Authority, Estate, Ground, HoldKind, MemoryEstate, Rights, RightsError, State, Statement, Suspending,
};
use ledger::{Ed25519Signer, Log, LogOptions, RealDisk};
use store::Facts;
use vault::{MemoryKeyTable, MemoryRootKeys, Vault};

/// In 2026.
const NOW: i64 = 1_780_000_000_000;

struct Office {
    vault: Vault,
    clock: Arc<ManualClock>,
    estate: MemoryEstate,
    rights: Rights,
    // Last, since the log writes to it until it is dropped.
    folder: tempfile::TempDir,
}

fn log(folder: &Path, clock: Arc<ManualClock>) -> Log {
    let signer = Arc::new(Ed25519Signer::from_seed("test/control", &[3; 32]).unwrap());
    let name = LogName::parse("control").unwrap();
    Log::open(Arc::new(RealDisk), folder, name, LogOptions::new("test/control"), signer, clock).unwrap()
}

impl Office {
    async fn new() -> Office {
        let clock = Arc::new(ManualClock::at(NOW));
        let entropy = Arc::new(SeededEntropy::new(7));
        let root = Arc::new(MemoryRootKeys::new(entropy.clone()));
        let vault = Vault::open(root, Arc::new(MemoryKeyTable::default()), clock.clone(), entropy).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let facts = Facts::open(log(folder.path(), clock.clone()), vault.clone()).unwrap();
        let rights = Rights::open(facts, clock.clone()).await.unwrap();
        let estate = MemoryEstate::default();
        estate.add("ana", 1, 2026, &[("clinical-6y", 2032)]);
        estate.add("bob", 2, 2015, &[("clinical-6y", 2021)]);
        estate.add("cem", 3, 2018, &[("clinical-6y", 2024), ("clinical-30y", 2048)]);
        estate.add("dee", 4, 2016, &[("clinical-6y", 2022)]);
        Office { vault, folder, clock, estate, rights }
    }

    /// The same control log, read anew.
    async fn again(&mut self) {
        let facts = Facts::open(log(self.folder.path(), self.clock.clone()), self.vault.clone());
        if let Ok(facts) = facts {
            self.rights = Rights::open(facts, self.clock.clone()).await.unwrap();
        }
    }

    async fn request(&self, patient: &str, ground: Ground) -> Result<u64, RightsError> {
        self.rights.request(&self.estate, &ehr(), &id(patient), ground, "letter of 3 May".into(), &by("ann")).await
    }

    async fn approve(&self, number: u64, who: &str) -> Result<State, RightsError> {
        let disclosed = async |_: &comply::Subject| Ok(vec!["dr-lee for TREAT through fhir: 3 answers".to_owned()]);
        self.rights.approve(&self.estate, number, &by(who), disclosed).await
    }

    async fn hold(&self, patient: Option<&str>, kind: HoldKind) -> Result<u64, RightsError> {
        let patient = patient.map(id);
        self.rights.place_hold(&self.estate, &ehr(), patient.as_ref(), kind, "case 12".into(), &by("ann")).await
    }

    /// The log must not outlive its folder.
    async fn end(self) {
        self.rights.facts().log().close().await;
    }

    fn state(&self, number: u64) -> State {
        self.rights.book().case(number).unwrap().state
    }
}

fn ehr() -> DomainName {
    DomainName::parse("ehr").unwrap()
}

fn id(text: &str) -> LogicalId {
    LogicalId::parse(text).unwrap()
}

fn by(name: &str) -> PrincipalId {
    PrincipalId::parse(name).unwrap()
}

#[tokio::test]
async fn an_erasure_goes_by_two_others_to_a_certificate_with_a_public_hash() {
    let office = Office::new().await;
    let number = office.request("ana", Ground::Order).await.unwrap();
    assert!(matches!(office.approve(number, "ann").await, Err(RightsError::Refused(_))), "the requester");
    assert_eq!(office.approve(number, "ben").await.unwrap(), State::Requested);
    assert!(matches!(office.approve(number, "ben").await, Err(RightsError::Refused(_))), "one person twice");
    assert!(office.estate.hidden().is_empty());
    assert_eq!(office.approve(number, "cleo").await.unwrap(), State::Hidden);
    assert_eq!(office.estate.hidden(), [Ordinal(1)], "hidden when the answer comes");
    office.rights.advance(&office.estate).await.unwrap();
    assert_eq!(office.state(number), State::Destroyed, "not final before the epoch has turned");
    office.rights.finish(&office.estate).await.unwrap();
    let erasure = office.rights.erasure(number).unwrap();
    let text = erasure.case.certificate.unwrap();
    assert!(
        text.contains("dr-lee for TREAT") && text.contains("erasure-approved") && text.contains("1 resource versions")
    );
    let entries = office.rights.facts().log().read(0, 100, 1 << 20).unwrap();
    let last = entries.last().unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    assert_eq!(last.parts[2], format!("sha256 {}", base::hex::encode(digest.as_ref())), "a stranger can compare it");
    assert!(matches!(office.request("ana", Ground::Order).await, Err(RightsError::NotFound(_))));
    office.end().await;
}

#[tokio::test]
async fn holds_duties_and_open_requests_refuse_it_and_the_refusal_is_on_record() {
    let office = Office::new().await;
    let against = |result: Result<u64, RightsError>| match result {
        Err(RightsError::Against(against)) => against,
        other => panic!("{other:?}"),
    };
    let refused = against(office.request("ana", Ground::PatientRequest).await);
    assert_eq!(refused, Against::Retention { class: "clinical-6y".into(), until: 2032 });
    let hold = office.hold(Some("ana"), HoldKind::Legal).await.unwrap();
    assert_eq!(against(office.request("ana", Ground::Order).await), Against::Legal { hold });
    office.rights.lift_hold(hold, "closed".into(), &by("ben")).await.unwrap();
    let open = office.hold(Some("ana"), HoldKind::PatientRequest).await.unwrap();
    assert_eq!(against(office.request("ana", Ground::Order).await), Against::Request { hold: open });
    office.rights.lift_hold(open, "answered".into(), &by("ben")).await.unwrap();
    let book = office.rights.book();
    assert_eq!(book.erasures.values().filter(|e| e.case.state == State::Refused).count(), 3);
    let number = office.request("ana", Ground::Order).await.unwrap();
    assert_eq!(against(office.request("ana", Ground::Order).await), Against::UnderWay { erasure: number });
    office.end().await;
}

#[tokio::test]
async fn a_hold_before_destruction_stops_it_and_after_it_is_too_late() {
    let office = Office::new().await;
    let number = office.request("ana", Ground::Order).await.unwrap();
    office.approve(number, "ben").await.unwrap();
    office.approve(number, "cleo").await.unwrap();
    let hold = office.hold(Some("ana"), HoldKind::Legal).await.unwrap();
    office.rights.advance(&office.estate).await.unwrap();
    assert_eq!(office.state(number), State::Refused);
    assert!(office.estate.hidden().is_empty() && office.estate.destroyed().is_empty());
    office.rights.lift_hold(hold, "closed".into(), &by("ben")).await.unwrap();

    let number = office.request("ana", Ground::Order).await.unwrap();
    office.approve(number, "ben").await.unwrap();
    office.approve(number, "cleo").await.unwrap();
    office.rights.advance(&office.estate).await.unwrap();
    assert!(matches!(office.hold(Some("ana"), HoldKind::Legal).await, Err(RightsError::NotFound(_))));
    office.end().await;
}

#[tokio::test]
async fn what_was_cut_short_goes_on_from_the_log_alone() {
    let mut office = Office::new().await;
    let number = office.request("ana", Ground::Order).await.unwrap();
    office.approve(number, "ben").await.unwrap();
    office.approve(number, "cleo").await.unwrap();
    office.estate.fail(true);
    assert!(office.rights.advance(&office.estate).await.is_err());
    assert_eq!(office.state(number), State::Hidden);
    office.rights.facts().log().close().await;
    office.again().await;
    // A node that starts anew hides it before a door opens, whatever its data says.
    let fresh = MemoryEstate::default();
    office.rights.replay(&fresh);
    assert_eq!(fresh.hidden(), [Ordinal(1)]);
    office.estate.fail(false);
    office.rights.advance(&office.estate).await.unwrap();
    assert_eq!((office.state(number), office.estate.destroyed()), (State::Destroyed, vec![Ordinal(1)]));
    office.estate.turn_epoch().await.unwrap();
    office.rights.advance(&office.estate).await.unwrap();
    assert_eq!(office.state(number), State::Certified);
    office.end().await;
}

#[tokio::test]
async fn a_disposal_takes_what_was_kept_long_enough_and_leaves_what_is_held() {
    let office = Office::new().await;
    let plan = office.rights.retention(&office.estate, &ehr()).await.unwrap();
    let rows: Vec<_> = plan.iter().map(|row| (row.year, row.records, row.until, row.due)).collect();
    assert_eq!(rows, [(2015, 1, 2021, true), (2016, 1, 2022, true), (2018, 1, 2024, true), (2026, 1, 2032, false)]);
    office.hold(Some("dee"), HoldKind::Legal).await.unwrap();
    let ask = |through| {
        let reason = "schedule of 2026".to_owned();
        let (office, by) = (&office, by("ann"));
        async move { office.rights.request_disposal(&office.estate, &ehr(), through, reason, &by).await }
    };
    assert!(matches!(ask(2020).await, Err(RightsError::Against(Against::Retention { until: 2026, .. }))));
    let number = ask(2019).await.unwrap();
    office.approve(number, "ben").await.unwrap();
    assert_eq!(office.approve(number, "cleo").await.unwrap(), State::Approved);
    office.rights.advance(&office.estate).await.unwrap();
    office.rights.finish(&office.estate).await.unwrap();
    assert_eq!(office.estate.destroyed(), [Ordinal(2)], "held, of a longer class, or not due: kept");
    let disposal = office.rights.book().disposals[&number].clone();
    assert_eq!((disposal.records, disposal.held, disposal.case.state), (1, 2, State::Certified));
    let text = disposal.case.certificate.unwrap();
    assert!(text.contains("Patient/bob") && !text.contains("Patient/dee"), "{text}");
    assert_eq!(office.estate.rewritten(), 1, "what records share is rewritten once");
    office.end().await;
}

/// 45 CFR 164.528(a)(2): until the day of a written statement, thirty days on an oral one; over a restart, and over
/// before its time.
#[tokio::test]
async fn the_right_to_an_accounting_is_suspended_for_as_long_as_the_statement_allows() {
    const DAY: i64 = 86_400_000;
    let mut office = Office::new().await;
    let suspend = async |office: &Office, patient: &str, statement, days: i64| {
        let asked = Suspending {
            domain: ehr(),
            patient: id(patient),
            agency: "State Inspectorate".into(),
            authority: Authority::HealthOversight,
            statement,
            official: "Inspector Roe; file 7".into(),
            until: office.clock.now().plus_ms(days * DAY),
        };
        office.rights.suspend_accounting(&office.estate, asked, &by("ann")).await
    };
    let standing =
        |office: &Office, ordinal| office.rights.book().suspended(&ehr(), Ordinal(ordinal), office.clock.now());
    assert!(matches!(suspend(&office, "ana", Statement::Oral, 31).await, Err(RightsError::Invalid(_))));
    assert!(matches!(suspend(&office, "ana", Statement::Written, 0).await, Err(RightsError::Invalid(_))));
    assert!(matches!(suspend(&office, "nobody", Statement::Written, 1).await, Err(RightsError::NotFound(_))));
    suspend(&office, "ana", Statement::Oral, 30).await.unwrap();
    let written = suspend(&office, "bob", Statement::Written, 900).await.unwrap();
    office.rights.facts().log().close().await;
    office.again().await;
    assert_eq!((standing(&office, 1), standing(&office, 3)), (vec!["State Inspectorate".to_owned()], Vec::new()));
    office.clock.advance_ms(30 * DAY - 1);
    assert_eq!(standing(&office, 1).len(), 1);
    office.clock.advance_ms(1);
    assert_eq!((standing(&office, 1).len(), standing(&office, 2).len()), (0, 1), "the oral one is over");
    office.rights.resume_accounting(written, "the inspection is over".into(), &by("ann")).await.unwrap();
    assert!(standing(&office, 2).is_empty());
    let again = office.rights.resume_accounting(written, "once more".into(), &by("ann")).await;
    assert!(matches!(again, Err(RightsError::NotFound(_))));
    office.end().await;
}
