//! The gate as doors use it: no permit without policy, no answer without its audit record, nothing held that leaves
//! without a release.

use std::sync::{Arc, OnceLock};

use base::{
    Clock, DomainName, Layer, Limits, Manage, ManualClock, Ordinal, Permit, PermitMint, PrincipalId, Purpose, Read,
    Role, SeededEntropy, SourceName, Write,
};
use expect_test::expect;
use gate::{
    Access, Action, Agreement, Ask, AuditFilter, AuditFollower, AuditLog, AuditPage, AuditReader, AuditStore, Gate,
    GateParts, Held, Issue, MemoryAuditKeys, MemoryDirectory, MemoryPatients, MemoryTarget, NoAlarm, NotReleased,
    Origin, Outcome, PrincipalKind, PrincipalRecord, RefusalKind, SourceRecord, Targets, TokenIssuer, TokenKeys,
    Unauthenticated, WrongRelease, governance,
};
use policy::Engine;
use roaring::RoaringBitmap;

const NOW_MS: i64 = 1_790_000_000_000;
const TTL_MS: i64 = 3_600_000;

fn mint() -> PermitMint {
    static MINT: OnceLock<PermitMint> = OnceLock::new();
    MINT.get_or_init(|| PermitMint::claim().expect("the only claim of this process")).clone()
}

struct World {
    gate: Gate,
    issuer: TokenIssuer,
    directory: Arc<MemoryDirectory>,
    patients: Arc<MemoryPatients>,
    targets: [Arc<MemoryTarget>; 2],
    clock: ManualClock,
    entropy: Arc<SeededEntropy>,
}

fn domain(name: &str) -> DomainName {
    DomainName::parse(name).unwrap()
}

fn id(name: &str) -> PrincipalId {
    PrincipalId::parse(name).unwrap()
}

fn origin() -> Origin {
    Origin::new("fhir", Some("10.0.0.7".parse().unwrap()), None)
}

impl World {
    async fn new() -> World {
        let clock = ManualClock::at(NOW_MS);
        let entropy = Arc::new(SeededEntropy::new(7));
        let targets = [Arc::new(MemoryTarget::new("one")), Arc::new(MemoryTarget::new("two"))];
        let keys = Arc::new(MemoryAuditKeys::new(entropy.clone()));
        let both = Targets::new(vec![targets[0].clone(), targets[1].clone()], 64);
        let pkcs8 = TokenIssuer::new_key().unwrap();
        let issuer = TokenIssuer::from_pkcs8(&pkcs8, "https://id.test", "ward", TTL_MS).unwrap();
        let directory = Arc::new(MemoryDirectory::default());
        let patients = Arc::new(MemoryPatients::default());
        let gate = Gate::new(GateParts {
            mint: mint(),
            engine: Engine::load(policy::starter()).unwrap(),
            audit: AuditLog::open(keys, both).await.unwrap(),
            patients: patients.clone(),
            principals: directory.clone(),
            tokens: TokenKeys::of(&issuer),
            clock: Arc::new(clock.clone()),
            entropy: entropy.clone(),
            limits: Limits::default(),
        });
        let world = World { gate, issuer, directory, patients, targets, clock, entropy };
        for (name, role) in [
            ("dr-lee", Role::Physician),
            ("an-alyst", Role::Analyst),
            ("re-search", Role::Researcher),
            ("pri-vacy", Role::PrivacyOfficer),
            ("ad-min", Role::Administrator),
        ] {
            world.enroll(name, role);
        }
        world
    }

    fn enroll(&self, name: &str, role: Role) -> PrincipalRecord {
        let mut record = PrincipalRecord::new(id(name), PrincipalKind::Person, role);
        record.domains = vec![domain("ehr"), domain("laboratory")];
        record.training_until = Some(self.clock.now().plus_ms(400 * 86_400_000));
        record.agreements =
            vec![Agreement { id: "dua-7".into(), purposes: vec![], until: self.clock.now().plus_ms(86_400_000) }];
        self.directory.put(record.clone());
        record
    }

    fn token(&self, name: &str, role: Role, purpose: Option<Purpose>) -> String {
        let mut issue = Issue::new(id(name), role);
        issue.domain = Some(domain("ehr"));
        issue.purpose = purpose;
        issue.agreement = Some("dua-7".into());
        issue.ttl_ms = TTL_MS;
        self.issuer.issue(&issue, self.clock.now(), &*self.entropy).unwrap()
    }

    async fn caller(&self, name: &str, role: Role, purpose: Option<Purpose>) -> gate::Caller {
        self.gate.authenticate(Some(&self.token(name, role, purpose))).await.unwrap()
    }

    async fn lee(&self) -> gate::Caller {
        self.caller("dr-lee", Role::Physician, Some(Purpose::Treatment)).await
    }

    fn reader(&self, target: usize) -> AuditReader {
        let stores: Vec<Arc<dyn AuditStore>> = vec![self.targets[target].clone()];
        let clock = Arc::new(self.clock.clone());
        let follower = AuditFollower::new(self.gate.audit().clone(), stores, Arc::new(NoAlarm), clock, None);
        self.gate.audit_reader(follower)
    }

    /// Reads the audit log as the privacy officer, with the release that this needs.
    async fn audit(&self, target: usize, filter: &AuditFilter) -> AuditPage {
        let officer = self.caller("pri-vacy", Role::PrivacyOfficer, Some(Purpose::Compliance)).await;
        let permit = self.gate.permit::<Read>(&officer, audit_ask()).await.unwrap();
        let held = self.reader(target).page(&permit, filter, 0, 1000).await.unwrap();
        let access = Access::of(&permit, Action::AuditRead, &origin());
        held.release(self.gate.release(&officer, access).await.unwrap()).unwrap()
    }
}

fn audit_ask() -> Ask {
    Ask::new(Action::AuditRead, &governance(), Layer::Governance, &origin()).kind("audit")
}

fn read(kind: &str) -> Ask {
    Ask::new(Action::Read, &domain("ehr"), Layer::Silver, &origin()).kind(kind)
}

fn text(page: &AuditPage) -> String {
    page.lines.iter().map(|line| format!("{line}\n")).collect()
}

#[tokio::test]
async fn the_way_of_a_read() {
    let world = World::new().await;
    let lee = world.lee().await;
    world.patients.restrict(&domain("ehr"), [3, 4]);
    world.patients.assign(lee.principal(), &domain("ehr"), [3]);
    let permit = world.gate.permit::<Read>(&lee, read("Patient")).await.unwrap();
    let seen: Vec<u32> = (1..=5).filter(|p| permit.grant().patients.contains(Ordinal(*p))).collect();
    assert_eq!(seen, [1, 2, 3, 5]);
    let held = Held::under(&permit, "body").map(|body| body.len());
    assert_eq!(format!("{held:?}"), "Held(..)");
    let access = Access::of(&permit, Action::Read, &origin()).what("GET Patient/{id}").rows(1);
    let release = world.gate.release(&lee, access.patients(&domain("ehr"), [0, 3])).await.unwrap();
    assert_eq!(held.release(release), Ok(4));
    expect![[r#"
        2026-09-21T14:13:20.000Z dr-lee read Patient of ehr/silver for TREAT through fhir from 10.0.0.7: served, 1 rows, by care-in-own-domain
    "#]].assert_eq(&text(&world.audit(0, &AuditFilter::default()).await));
}

#[tokio::test]
async fn no_policy_no_permit_and_the_refusal_is_on_record() {
    let world = World::new().await;
    let cases = [
        ("dr-lee", Role::Physician, None, read("Patient")),
        ("dr-lee", Role::Physician, Some(Purpose::Research), read("Patient")),
        ("an-alyst", Role::Analyst, Some(Purpose::Operations), read("Patient")),
        ("ad-min", Role::Administrator, Some(Purpose::Treatment), read("Patient")),
        ("dr-lee", Role::Physician, Some(Purpose::Treatment), read("Patient").stating(Some(Purpose::Research))),
        ("dr-lee", Role::Physician, Some(Purpose::Treatment), read("Patient?name=Everywoman")),
    ];
    for (name, role, purpose, ask) in cases {
        let caller = world.caller(name, role, purpose).await;
        world.gate.permit::<Read>(&caller, ask).await.unwrap_err();
    }
    let lee = world.lee().await;
    // Asking whether one might is no access and leaves no record.
    assert!(world.gate.would_permit::<Read>(&lee, &read("Patient")));
    assert!(!world.gate.would_permit::<Write>(&lee, &read("Patient")));
    assert!(!world.gate.would_permit::<Read>(&lee, &read("Patient").stating(Some(Purpose::Research))));
    assert_eq!(world.gate.permit::<Write>(&lee, read("Patient")).await.unwrap_err().kind, RefusalKind::Invalid);
    assert_eq!(world.gate.permit::<Manage>(&lee, read("Patient")).await.unwrap_err().kind, RefusalKind::Invalid);
    let log = text(&world.audit(0, &AuditFilter::default()).await);
    assert!(!log.contains("Everywoman"));
    expect![[r#"
        2026-09-21T14:13:20.000Z dr-lee read Patient of ehr/silver through fhir from 10.0.0.7: refused (patient data needs a purpose of use, and neither the token nor the client's registration gives one), by ward:purpose
        2026-09-21T14:13:20.000Z dr-lee read Patient of ehr/silver for HRESCH through fhir from 10.0.0.7: refused (no policy lets physician read a record of ehr for HRESCH)
        2026-09-21T14:13:20.000Z an-alyst read Patient of ehr/silver for HOPERAT through fhir from 10.0.0.7: refused (no policy lets analyst read a record of ehr for HOPERAT)
        2026-09-21T14:13:20.000Z ad-min read Patient of ehr/silver for TREAT through fhir from 10.0.0.7: refused (administrators run the system and see no patient data), by administrator-sees-no-phi
        2026-09-21T14:13:20.000Z dr-lee read Patient of ehr/silver for TREAT through fhir from 10.0.0.7: refused (the request states another purpose than the access token is for; ask for a token with that purpose)
        2026-09-21T14:13:20.000Z dr-lee read everything of ehr/silver for TREAT through fhir from 10.0.0.7: refused (what is asked for is not the name of a resource type, a product or a source)
        2026-09-21T14:13:20.000Z dr-lee read Patient of ehr/silver for TREAT through fhir from 10.0.0.7: refused (this action asks for another right than the door wants)
        2026-09-21T14:13:20.000Z dr-lee read Patient of ehr/silver for TREAT through fhir from 10.0.0.7: refused (this action asks for another right than the door wants)
    "#]].assert_eq(&log);
}

#[tokio::test]
async fn without_audit_the_answer_is_no_and_either_target_suffices() {
    let world = World::new().await;
    let lee = world.lee().await;
    let analyst = world.caller("an-alyst", Role::Analyst, Some(Purpose::Operations)).await;
    for (one_fails, two_fails, works) in
        [(false, false, true), (true, false, true), (false, true, true), (true, true, false), (false, false, true)]
    {
        world.targets[0].fail(one_fails);
        world.targets[1].fail(two_fails);
        // A permit alone releases nothing and needs no record; its release does.
        let permit = world.gate.permit::<Read>(&lee, read("Patient")).await.unwrap();
        let released = world.gate.release(&lee, Access::of(&permit, Action::Read, &origin())).await;
        assert_eq!(released.is_ok(), works);
        assert!(works || matches!(released, Err(NotReleased::Audit(_))));
        // A refusal is answered as an outage when it cannot be recorded.
        let refused = world.gate.permit::<Read>(&analyst, read("Patient")).await.unwrap_err();
        assert_eq!(refused.kind, if works { RefusalKind::Forbidden } else { RefusalKind::Unavailable });
    }
    let states = world.gate.audit().targets();
    // They work again, and nobody has filled them up yet.
    assert!(states.iter().all(|state| state.lost && state.missed > 0), "{states:?}");
}

#[tokio::test]
async fn a_target_that_hangs_holds_nobody_up() {
    let world = World::new().await;
    let lee = world.lee().await;
    world.targets[1].stall(true);
    for _ in 0..200 {
        let permit = world.gate.permit::<Read>(&lee, read("Patient")).await.unwrap();
        world.gate.release(&lee, Access::of(&permit, Action::Read, &origin())).await.unwrap();
    }
    // 64 appends wait, as the bound says; the others are counted as missed.
    let state = &world.gate.audit().targets()[1];
    assert!(state.lost && state.missed >= 200 - 64, "{state:?}");
}

#[tokio::test]
async fn a_release_opens_only_its_own_and_checks_what_leaves() {
    let world = World::new().await;
    let (lee, ehr) = (world.lee().await, domain("ehr"));
    world.patients.restrict(&ehr, [9]);
    let one: Permit<Read> = world.gate.permit(&lee, read("Patient").patient(Ordinal(1))).await.unwrap();
    let all: Permit<Read> = world.gate.permit(&lee, read("Patient")).await.unwrap();
    let access = || Access::of(&one, Action::Read, &origin());
    let release = world.gate.release(&lee, access()).await.unwrap();
    assert_eq!(Held::under(&all, ()).release(release), Err(WrongRelease));
    let release = world.gate.release(&lee, access()).await.unwrap();
    assert_eq!(Held::under(&one, ()).and(&all).release(release), Err(WrongRelease));
    let release = world.gate.release(&lee, access().and(&all)).await.unwrap();
    assert_eq!(Held::under(&one, ()).and(&all).release(release), Ok(()));
    let not_covered = |outcome: Result<_, NotReleased>| matches!(outcome, Err(NotReleased::NotCovered(_)));
    assert!(not_covered(world.gate.release(&lee, access().patients(&ehr, [1, 2])).await));
    assert!(world.gate.release(&lee, access().and(&all).patients(&ehr, [1, 2])).await.is_ok());
    assert!(not_covered(world.gate.release(&lee, access().and(&all).patients(&ehr, [9])).await));
    assert!(not_covered(world.gate.release(&lee, access().patients(&domain("laboratory"), [1])).await));
    let other = world.caller("an-alyst", Role::Analyst, Some(Purpose::Operations)).await;
    assert_eq!(world.gate.release(&other, access()).await.unwrap_err(), NotReleased::OtherCaller);
    let analyst_ask = Ask::new(Action::Query, &ehr, Layer::Gold, &origin()).kind("patients");
    let capped = world.gate.permit::<Read>(&other, analyst_ask).await.unwrap();
    assert_eq!(capped.grant().rows_max, None);
    assert_eq!(capped.grant().masks.len(), 9);
}

#[tokio::test]
async fn an_answer_under_way_does_not_leave_once_its_patient_is_hidden() {
    let world = World::new().await;
    let (lee, ehr) = (world.lee().await, domain("ehr"));
    let permit: Permit<Read> = world.gate.permit(&lee, read("Patient")).await.unwrap();
    let of = |patient| Access::of(&permit, Action::Search, &origin()).patients(&ehr, [patient]);
    assert!(world.gate.release(&lee, of(2)).await.is_ok());
    world.patients.bury(&ehr, [2]);
    assert_eq!(world.gate.release(&lee, of(2)).await.unwrap_err(), NotReleased::Hidden);
    assert!(world.gate.release(&lee, of(3)).await.is_ok());
}

#[tokio::test]
async fn permits_and_callers_expire() {
    let world = World::new().await;
    let lee = world.lee().await;
    let permit = world.gate.permit::<Read>(&lee, read("Patient")).await.unwrap();
    assert!(permit.is_live(world.clock.now()));
    world.clock.advance_ms(Limits::default().http_request_timeout_ms as i64);
    assert!(!permit.is_live(world.clock.now()));
    let access = Access::of(&permit, Action::Read, &origin());
    assert_eq!(world.gate.release(&lee, access).await.unwrap_err(), NotReleased::Expired);
    world.clock.advance_ms(TTL_MS);
    assert_eq!(world.gate.permit::<Read>(&lee, read("Patient")).await.unwrap_err().kind, RefusalKind::Expired);
}

#[tokio::test]
async fn tokens_are_bound_to_the_directory() {
    let world = World::new().await;
    let token = world.token("dr-lee", Role::Physician, Some(Purpose::Treatment));
    let enter = |token: String| {
        let gate = world.gate.clone();
        async move { gate.authenticate(Some(&token)).await.map(|caller| caller.roles().to_vec()) }
    };
    assert_eq!(enter(token.clone()).await, Ok(vec![Role::Physician]));
    // A role that the directory does not give is not had, whatever the token says.
    let admin = world.token("dr-lee", Role::Administrator, None);
    assert_eq!(enter(admin).await, Ok(vec![]));
    assert_eq!(enter(world.token("nobody", Role::Nurse, None)).await, Err(Unauthenticated::Unknown));
    assert_eq!(enter("nonsense".into()).await, Err(Unauthenticated::Invalid));
    assert_eq!(world.gate.authenticate(None).await.err(), Some(Unauthenticated::Missing));
    let mut record = world.enroll("dr-lee", Role::Physician);
    record.tokens_from = world.clock.now().plus_ms(1);
    world.directory.put(record.clone());
    assert_eq!(enter(token.clone()).await, Err(Unauthenticated::Revoked), "though the token was cached");
    record.enabled = false;
    world.directory.put(record.clone());
    assert_eq!(enter(token.clone()).await, Err(Unauthenticated::Unknown));
    world.enroll("dr-lee", Role::Physician);
    world.clock.advance_ms(TTL_MS);
    assert_eq!(enter(token).await, Err(Unauthenticated::Expired), "though the token was cached");
    let log = text(&world.audit(0, &AuditFilter { principal: Some(id("anonymous")), ..AuditFilter::default() }).await);
    assert_eq!(log.lines().count(), 5, "{log}");
}

/// Ports that are down.
struct Down;

impl gate::Directory for Down {
    fn principal(&self, _: &PrincipalId) -> Result<Option<Arc<PrincipalRecord>>, gate::Outage> {
        Err(gate::Outage("directory"))
    }
    fn source(&self, _: &SourceName) -> Result<Option<Arc<SourceRecord>>, gate::Outage> {
        Err(gate::Outage("directory"))
    }
}

impl gate::PatientSets for Down {
    fn restricted(&self, _: &DomainName) -> Result<Arc<RoaringBitmap>, gate::Outage> {
        Err(gate::Outage("list of patients"))
    }
    fn care_team(&self, _: &PrincipalId, _: &DomainName) -> Result<Arc<RoaringBitmap>, gate::Outage> {
        Err(gate::Outage("list of patients"))
    }
    fn tombstones(&self, _: &DomainName) -> Result<Arc<RoaringBitmap>, gate::Outage> {
        Err(gate::Outage("list of patients"))
    }
    fn version(&self, _: &DomainName) -> Result<u64, gate::Outage> {
        Err(gate::Outage("list of patients"))
    }
}

#[tokio::test]
async fn an_outage_is_a_no_but_never_a_missing_right() {
    let world = World::new().await;
    let gate = |principals: Arc<dyn gate::Directory>, patients: Arc<dyn gate::PatientSets>| {
        Gate::new(GateParts {
            mint: mint(),
            engine: Engine::load(policy::starter()).unwrap(),
            audit: world.gate.audit().clone(),
            patients,
            principals,
            tokens: TokenKeys::of(&world.issuer),
            clock: Arc::new(world.clock.clone()),
            entropy: world.entropy.clone(),
            limits: Limits::default(),
        })
    };
    let token = world.token("dr-lee", Role::Physician, Some(Purpose::Treatment));
    let without_directory = gate(Arc::new(Down), world.patients.clone());
    let outage = Unauthenticated::Unavailable(gate::Outage("directory"));
    assert_eq!(without_directory.authenticate(Some(&token)).await.err(), Some(outage));
    assert_eq!(without_directory.source(&SourceName::parse("adt-main").unwrap()).err(), Some(outage));
    let without_patients = gate(world.directory.clone(), Arc::new(Down));
    let lee = without_patients.authenticate(Some(&token)).await.unwrap();
    for ask in [read("Patient"), read("Patient").patient(Ordinal(1))] {
        let refusal = without_patients.permit::<Read>(&lee, ask).await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Unavailable);
        assert_eq!(refusal.to_string(), "the list of patients cannot answer now; try again shortly");
    }
}

#[tokio::test]
async fn untrusted_keys_are_forgotten_at_once() {
    let world = World::new().await;
    let token = world.token("dr-lee", Role::Physician, None);
    assert!(world.gate.authenticate(Some(&token)).await.is_ok());
    world.gate.trust(TokenKeys::new("https://id.test", "ward", &[], TTL_MS));
    assert_eq!(world.gate.authenticate(Some(&token)).await.err(), Some(Unauthenticated::Invalid));
}

#[tokio::test]
async fn a_purpose_bound_at_registration_serves_apps_that_know_none() {
    let world = World::new().await;
    let mut record = PrincipalRecord::new(id("app-vitals"), PrincipalKind::Service, Role::CareTeamApp);
    record.domains = vec![domain("ehr")];
    record.care_team = true;
    record.purpose = Some(Purpose::Treatment);
    world.directory.put(record);
    world.patients.assign(&id("app-vitals"), &domain("ehr"), [2, 5]);
    let mut issue = Issue::new(id("app-vitals"), Role::CareTeamApp);
    issue.care_team = true;
    let token = world.issuer.issue(&issue, world.clock.now(), &*world.entropy).unwrap();
    let app = world.gate.authenticate(Some(&token)).await.unwrap();
    let permit = world.gate.permit::<Read>(&app, read("Observation")).await.unwrap();
    let seen: Vec<u32> = (1..=5).filter(|p| permit.grant().patients.contains(Ordinal(*p))).collect();
    assert_eq!(seen, [2, 5]);
}

#[tokio::test]
async fn policies_and_patients_change_at_once() {
    let world = World::new().await;
    let (lee, ehr) = (world.lee().await, domain("ehr"));
    let permit = |ask| world.gate.permit::<Read>(&lee, ask);
    assert!(permit(read("Patient")).await.is_ok());
    let closed = [("policies/none.cedar", "")];
    let version = world.gate.policy_version();
    world.gate.reload(Engine::load(&closed).unwrap());
    assert_ne!(world.gate.policy_version(), version);
    assert!(permit(read("Patient")).await.is_err(), "an answer outlived its policies");
    world.gate.reload(Engine::load(policy::starter()).unwrap());
    assert!(permit(read("Patient")).await.unwrap().grant().patients.contains(Ordinal(6)));
    world.patients.bury(&ehr, [6]);
    assert!(!permit(read("Patient")).await.unwrap().grant().patients.contains(Ordinal(6)));
    // Being in the care team opens what is restricted about that patient.
    let mine = || read("Observation").patient(Ordinal(8));
    assert!(!base::Sensitivity::PART2.is_within(permit(mine()).await.unwrap().grant().sensitivity));
    world.patients.assign(lee.principal(), &ehr, [8]);
    assert!(base::Sensitivity::PART2.is_within(permit(mine()).await.unwrap().grant().sensitivity));
    assert!(!permit(mine()).await.unwrap().grant().patients.contains(Ordinal(9)));
}

#[tokio::test]
async fn several_kinds_need_every_permission() {
    let world = World::new().await;
    let clerk = world.enroll("cl-erk", Role::RegistrationClerk);
    let clerk = world.caller(clerk.id.as_str(), Role::RegistrationClerk, Some(Purpose::Operations)).await;
    let ask = |kinds: &[&'static str]| {
        Ask::new(Action::Search, &domain("ehr"), Layer::Silver, &origin()).kinds(kinds.iter().copied())
    };
    assert!(world.gate.permit::<Read>(&clerk, ask(&["Patient", "Encounter"])).await.is_ok());
    assert!(world.gate.permit::<Read>(&clerk, ask(&["Patient", "Observation"])).await.is_err());
    assert!(world.gate.permit::<Read>(&clerk, ask(&[])).await.is_err(), "no kinds means all kinds");
}

#[tokio::test]
async fn feeds_send_as_themselves() {
    let world = World::new().await;
    let name = SourceName::parse("adt-main").unwrap();
    assert_eq!(world.gate.source(&name).err(), Some(Unauthenticated::Unknown));
    let record = SourceRecord { name: name.clone(), domain: domain("ehr"), purpose: Purpose::Treatment, enabled: true };
    world.directory.put_source(record);
    let feed = world.gate.source(&name).unwrap();
    let ask = |domain: &DomainName, source: &str| {
        Ask::new(Action::Ingest, domain, Layer::Bronze, &Origin::new("mllp", None, None)).kind(source)
    };
    let permit = world.gate.permit::<Write>(&feed, ask(&domain("ehr"), "adt-main")).await.unwrap();
    assert!(permit.covers_kind(&domain("ehr"), Layer::Bronze, "adt-main").is_ok());
    for (to, source) in [("ehr", "oru-main"), ("laboratory", "adt-main")] {
        assert!(world.gate.permit::<Write>(&feed, ask(&domain(to), source)).await.is_err());
    }
    assert!(world.gate.permit::<Read>(&feed, read("Patient")).await.is_err());
}

#[tokio::test]
async fn a_write_is_decided_on_its_types_and_permitted_for_the_journal() {
    let world = World::new().await;
    let (lee, ehr) = (world.lee().await, domain("ehr"));
    let fhir = SourceName::parse("fhir").unwrap();
    let ask = |layer| Ask::new(Action::Write, &ehr, layer, &origin()).kind("Observation").through(&fhir);
    let permit = world.gate.permit::<Write>(&lee, ask(Layer::Silver)).await.unwrap();
    assert!(permit.covers_kind(&ehr, Layer::Bronze, "fhir").is_ok());
    assert!(permit.covers_kind(&ehr, Layer::Silver, "Observation").is_err());
    assert_eq!(world.gate.permit::<Write>(&lee, ask(Layer::Gold)).await.unwrap_err().kind, RefusalKind::Invalid);
    world.enroll("cl-erk", Role::RegistrationClerk);
    let clerk = world.caller("cl-erk", Role::RegistrationClerk, Some(Purpose::Operations)).await;
    assert!(world.gate.permit::<Write>(&clerk, ask(Layer::Silver)).await.is_err());
    assert!(world.gate.permit::<Write>(&clerk, ask(Layer::Silver).kinds(["Patient"])).await.is_err());
    let patient = Ask::new(Action::Write, &ehr, Layer::Silver, &origin()).kind("Patient").through(&fhir);
    assert!(world.gate.permit::<Write>(&clerk, patient).await.is_ok());
}

#[tokio::test]
async fn a_product_of_another_domains_patients_keeps_their_restrictions() {
    let world = World::new().await;
    let (ehr, research) = (domain("ehr"), domain("research"));
    world.patients.restrict(&ehr, [3]);
    let analyst = world.caller("an-alyst", Role::Analyst, Some(Purpose::Operations)).await;
    let ask = Ask::new(Action::Query, &research, Layer::Gold, &origin()).kind("cohort").patients_of(&ehr);
    let permit = world.gate.permit::<Read>(&analyst, ask).await.unwrap();
    assert!(permit.covers_kind(&research, Layer::Gold, "cohort").is_ok());
    assert!(permit.grant().patients.contains(Ordinal(2)) && !permit.grant().patients.contains(Ordinal(3)));
    let access = |domain, patient| Access::of(&permit, Action::Query, &origin()).patients(domain, [patient]);
    assert!(world.gate.release(&analyst, access(&ehr, 3)).await.is_err());
    assert!(world.gate.release(&analyst, access(&research, 2)).await.is_err());
    assert!(world.gate.release(&analyst, access(&ehr, 2)).await.is_ok());
    let filter =
        |domain: &DomainName| AuditFilter { patient: Some((domain.clone(), Ordinal(2))), ..AuditFilter::default() };
    assert_eq!(world.audit(0, &filter(&ehr)).await.lines.len(), 1);
    assert_eq!(world.audit(0, &filter(&research)).await.lines.len(), 0);
}

#[tokio::test]
async fn workers_have_what_the_table_says() {
    let world = World::new().await;
    let ehr = domain("ehr");
    let reads = |worker, layer| world.gate.node_permit::<Read>(worker, &ehr, layer).is_ok();
    let writes = |worker, layer| world.gate.node_permit::<Write>(worker, &ehr, layer).is_ok();
    let mut table = String::new();
    for worker in ["refine", "index", "build", "ship", "ward", "stranger"] {
        let layers = [Layer::Bronze, Layer::Silver, Layer::Gold, Layer::Governance];
        let rights = layers.map(|layer| match (reads(worker, layer), writes(worker, layer)) {
            (true, true) => format!("{} rw", layer.code()),
            (true, false) => format!("{} r", layer.code()),
            (false, true) => format!("{} w", layer.code()),
            (false, false) => String::new(),
        });
        table.push_str(&format!(
            "{worker}: {}\n",
            rights.iter().filter(|r| !r.is_empty()).cloned().collect::<Vec<_>>().join(", ")
        ));
    }
    expect![[r#"
        refine: bronze rw, silver rw
        index: silver rw
        build: silver r, gold rw
        ship: bronze r, silver r, governance r
        ward: governance rw
        stranger: 
    "#]]
    .assert_eq(&table);
    assert!(world.gate.node_permit::<Manage>("refine", &ehr, Layer::Governance).is_err());
}

#[tokio::test]
async fn who_saw_a_patient() {
    let world = World::new().await;
    let (lee, ehr, lab) = (world.lee().await, domain("ehr"), domain("laboratory"));
    for patients in [vec![1], vec![1, 2, 3], vec![2]] {
        let permit = world.gate.permit::<Read>(&lee, read("Patient")).await.unwrap();
        let access = Access::of(&permit, Action::Search, &origin()).rows(patients.len() as u64);
        let access = access.patients(&ehr, patients).query(world.gate.query_hash(b"name=Everywoman"));
        world.gate.release(&lee, access).await.unwrap();
    }
    let analyst = world.caller("an-alyst", Role::Analyst, Some(Purpose::Operations)).await;
    world.gate.permit::<Read>(&analyst, read("Patient").patient(Ordinal(1))).await.unwrap_err();
    // Filler, so that the question crosses chunks and a second one is answered from summaries.
    for _ in 0..2100 {
        let permit = world.gate.permit::<Read>(&lee, read("Patient")).await.unwrap();
        world
            .gate
            .release(&lee, Access::of(&permit, Action::Read, &origin()).outcome(Outcome::NotFound))
            .await
            .unwrap();
    }
    let officer = world.caller("pri-vacy", Role::PrivacyOfficer, Some(Purpose::Compliance)).await;
    let permit = world.gate.permit::<Read>(&officer, audit_ask()).await.unwrap();
    let reader = world.reader(1);
    let mut answers = Vec::new();
    for _ in 0..2 {
        let held = reader.who_saw(&permit, &ehr, Ordinal(1)).await.unwrap();
        let release = world.gate.release(&officer, Access::of(&permit, Action::AuditRead, &origin())).await.unwrap();
        answers.push(text(&held.release(release).unwrap()));
    }
    assert_eq!(answers[0], answers[1]);
    expect![[r#"
        2026-09-21T14:13:20.000Z dr-lee search Patient of ehr/silver for TREAT through fhir from 10.0.0.7: served, 1 rows, by care-in-own-domain
        2026-09-21T14:13:20.000Z dr-lee search Patient of ehr/silver for TREAT through fhir from 10.0.0.7: served, 3 rows, by care-in-own-domain
        2026-09-21T14:13:20.000Z an-alyst read Patient of ehr/silver for HOPERAT through fhir from 10.0.0.7: refused (no policy lets analyst read a record of ehr for HOPERAT)
    "#]].assert_eq(&answers[0]);
    let held = reader.who_saw(&permit, &lab, Ordinal(1)).await.unwrap();
    let release = world.gate.release(&officer, Access::of(&permit, Action::AuditRead, &origin())).await.unwrap();
    assert!(held.release(release).unwrap().lines.is_empty(), "another domain's patient 1 is another patient");
    // A permit for data is none for the log.
    let data = world.gate.permit::<Read>(&lee, read("Patient")).await.unwrap();
    assert!(reader.who_saw(&data, &ehr, Ordinal(1)).await.is_err());
    // Reading was recorded.
    let filter = AuditFilter { principal: Some(id("pri-vacy")), ..AuditFilter::default() };
    assert!(world.audit(1, &filter).await.lines.len() >= 3);
}

#[tokio::test]
async fn pages_go_on_where_they_ended() {
    let world = World::new().await;
    let lee = world.lee().await;
    for n in 0..2500u32 {
        let permit = world.gate.permit::<Read>(&lee, read("Patient")).await.unwrap();
        let access = Access::of(&permit, Action::Read, &origin()).patients(&domain("ehr"), [1 + n % 5]);
        world.gate.release(&lee, access).await.unwrap();
    }
    let officer = world.caller("pri-vacy", Role::PrivacyOfficer, Some(Purpose::Compliance)).await;
    let permit = world.gate.permit::<Read>(&officer, audit_ask()).await.unwrap();
    let filter = AuditFilter { patient: Some((domain("ehr"), Ordinal(3))), ..AuditFilter::default() };
    let (mut at, mut found) = (Some(0), Vec::new());
    while let Some(from) = at {
        let held = world.reader(0).page(&permit, &filter, from, 77).await.unwrap();
        let release = world.gate.release(&officer, Access::of(&permit, Action::AuditRead, &origin())).await.unwrap();
        let page = held.release(release).unwrap();
        assert!(page.lines.len() <= 77);
        found.extend(page.lines.into_iter().map(|line| line.index));
        at = page.next;
    }
    assert_eq!(found.len(), 500);
    for (max, expected) in [(0, &[][..]), (3, &found[497..]), (300, &found[200..]), (9_999, &found[..])] {
        let held = world.reader(0).newest(&permit, &filter, max).await.unwrap();
        let release = world.gate.release(&officer, Access::of(&permit, Action::AuditRead, &origin())).await.unwrap();
        let lines: Vec<u64> = held.release(release).unwrap().lines.into_iter().map(|line| line.index).collect();
        assert_eq!(lines, expected, "{max}");
    }
    assert!(found.windows(2).all(|pair| pair[0] < pair[1]));
}

/// Doors spawn these on any thread.
#[test]
fn futures_can_be_sent() {
    fn sent<T: Send>(_: impl FnOnce() -> T) {}
    #[allow(dead_code)]
    fn all(gate: &Gate, caller: &gate::Caller, ask: Ask, access: Access, reader: &AuditReader, permit: &Permit<Read>) {
        let other = ask.clone();
        sent(|| gate.authenticate(None));
        sent(move || gate.permit::<Write>(caller, ask));
        sent(move || gate.permit::<Manage>(caller, other));
        sent(move || gate.release(caller, access));
        sent(|| reader.who_saw(permit, caller.domain().unwrap(), Ordinal(1)));
    }
}
