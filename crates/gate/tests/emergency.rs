//! Break-glass through the gate: two steps, one patient, a clock that jumps, a restart, a record for everything.

use std::sync::{Arc, OnceLock};

use base::{
    Clock, DomainName, Layer, Limits, LogicalId, Manage, ManualClock, Ordinal, Permit, PermitMint, PrincipalId,
    Purpose, Read, Role, SeededEntropy, Write,
};
use expect_test::expect;
use gate::{
    Access, Action, Ask, AuditFilter, AuditFollower, AuditLog, AuditStore, Caller, Category, EmergencyLimits,
    EmergencyLine, EmergencyPass, EmergencyRequest, Gate, GateParts, Issue, MemoryAuditKeys, MemoryBook,
    MemoryDirectory, MemoryPatients, MemoryTarget, NoAlarm, NotReleased, Origin, PrincipalKind, PrincipalRecord,
    ProductLabels, REVIEWS, Refusal, RefusalKind, Targets, TokenIssuer, TokenKeys, Verdict, governance,
};
use policy::Engine;

const NOW_MS: i64 = 1_790_000_000_000;
const HOUR_MS: i64 = 3_600_000;

fn mint() -> PermitMint {
    static MINT: OnceLock<PermitMint> = OnceLock::new();
    MINT.get_or_init(|| PermitMint::claim().expect("the only claim of this process")).clone()
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

/// What survives a restart of the node.
struct World {
    clock: ManualClock,
    entropy: Arc<SeededEntropy>,
    issuer: TokenIssuer,
    directory: Arc<MemoryDirectory>,
    patients: Arc<MemoryPatients>,
    target: Arc<MemoryTarget>,
    book: Arc<MemoryBook>,
}

impl World {
    fn new() -> World {
        let clock = ManualClock::at(NOW_MS);
        let key = TokenIssuer::new_key().unwrap();
        let directory = Arc::new(MemoryDirectory::default());
        for (name, role) in [
            ("dr-lee", Role::Physician),
            ("dr-kim", Role::Physician),
            ("nurse-kim", Role::Nurse),
            ("re-search", Role::Researcher),
            ("ad-min", Role::Administrator),
            ("pri-vacy", Role::PrivacyOfficer),
        ] {
            let mut record = PrincipalRecord::new(id(name), PrincipalKind::Person, role);
            record.domains = vec![domain("ehr")];
            record.training_until = Some(clock.now().plus_ms(400 * 24 * HOUR_MS));
            directory.put(record);
        }
        let patients = Arc::new(MemoryPatients::default());
        patients.restrict(&domain("ehr"), [1, 2]);
        patients.bury(&domain("ehr"), [66]);
        World {
            clock,
            entropy: Arc::new(SeededEntropy::new(7)),
            issuer: TokenIssuer::from_pkcs8(&key, "https://id.test", "ward", 12 * HOUR_MS).unwrap(),
            directory,
            patients,
            target: Arc::new(MemoryTarget::new("one")),
            book: Arc::new(MemoryBook::default()),
        }
    }

    /// A node's start: everything but the logs is made anew.
    async fn gate(&self) -> Gate {
        let keys = Arc::new(MemoryAuditKeys::new(self.entropy.clone()));
        let gate = Gate::new(GateParts {
            mint: mint(),
            engine: Engine::load(policy::starter()).unwrap(),
            audit: AuditLog::open(keys, Targets::new(vec![self.target.clone()], 64)).await.unwrap(),
            patients: self.patients.clone(),
            principals: self.directory.clone(),
            tokens: TokenKeys::of(&self.issuer),
            clock: Arc::new(self.clock.clone()),
            entropy: self.entropy.clone(),
            limits: Limits::default(),
        });
        gate.open_emergencies(self.book.clone(), EmergencyLimits::default()).await.unwrap();
        gate
    }

    /// With a new token each time.
    async fn caller(&self, gate: &Gate, name: &str) -> Caller {
        let record = gate::Directory::principal(&*self.directory, &id(name)).unwrap().unwrap();
        let purpose = if name == "pri-vacy" { Purpose::Compliance } else { Purpose::Treatment };
        let issue = Issue {
            domain: Some(domain("ehr")),
            purpose: Some(purpose),
            ttl_ms: 12 * HOUR_MS,
            ..Issue::new(id(name), record.roles[0])
        };
        let token = self.issuer.issue(&issue, self.clock.now(), &*self.entropy).unwrap();
        gate.authenticate(Some(&token)).await.unwrap()
    }

    async fn session(&self, gate: &Gate, patient: u32) -> EmergencyPass {
        let first = self.caller(gate, "dr-lee").await;
        let asked = gate.request_emergency(&first, request(patient), &origin()).await.unwrap();
        let second = self.caller(gate, "dr-lee").await;
        gate.confirm_emergency(&second, &asked.session.to_string(), &origin()).await.unwrap()
    }
}

fn request(patient: u32) -> EmergencyRequest {
    EmergencyRequest {
        domain: domain("ehr"),
        patient: Ordinal(patient),
        resource: LogicalId::parse(&format!("p{patient}")).unwrap(),
        category: Category::LifeThreat,
        reason: "found unconscious".into(),
    }
}

fn read() -> Ask {
    Ask::new(Action::Read, &domain("ehr"), Layer::Silver, &origin()).kind("Patient")
}

fn query(product: &str) -> Ask {
    Ask::new(Action::Query, &domain("ehr"), Layer::Gold, &origin()).kind(product)
}

async fn reads(gate: &Gate, caller: &Caller, ask: Ask) -> Result<Permit<Read>, String> {
    gate.permit::<Read>(caller, ask).await.map_err(|refusal| refusal.to_string())
}

#[tokio::test]
async fn two_steps_open_one_patient_by_every_door_and_nobody_else() {
    let world = World::new();
    let gate = world.gate().await;
    let lee = world.caller(&gate, "dr-lee").await;
    // Restricted, and not in the care team: treatment does not reach patient 1.
    let treatment = reads(&gate, &lee, read().patient(Ordinal(1))).await.unwrap();
    assert!(!treatment.grant().patients.contains(Ordinal(1)));
    let pass = world.session(&gate, 1).await;
    let session = pass.session.to_string();
    assert_eq!(pass.until.ms() - NOW_MS, 4 * HOUR_MS);
    for ask in [read(), read().patient(Ordinal(1)), query("patients")] {
        let permit = reads(&gate, &lee, ask.under(&session)).await.unwrap();
        let grant = permit.grant();
        assert!(grant.patients.contains(Ordinal(1)) && !grant.patients.contains(Ordinal(2)));
        assert_eq!(grant.purpose, Purpose::EmergencyTreatment);
        let access = Access::of(&permit, Action::Read, &origin()).rows(1).patients(&domain("ehr"), [1]);
        gate.release(&lee, access).await.unwrap();
        let access = Access::of(&permit, Action::Read, &origin()).rows(1).patients(&domain("ehr"), [2]);
        assert!(matches!(gate.release(&lee, access).await, Err(NotReleased::NotCovered(_))));
    }
    let deidentified = ProductLabels { classes: vec![base::DataClass::PseudonymousKey], ..ProductLabels::default() };
    let lab = Ask::new(Action::Read, &domain("laboratory"), Layer::Silver, &origin()).kind("Patient");
    let numbered = query("patients").patients_of(&domain("research"));
    let mut told = String::new();
    for ask in [
        read().patient(Ordinal(2)).under(&session),
        lab.under(&session),
        numbered.under(&session),
        query("cohort").product(deidentified).under(&session),
        read().under("0123"),
        Ask::new(Action::BreakGlass, &domain("ehr"), Layer::Silver, &origin()).patient(Ordinal(1)),
    ] {
        told.push_str(&reads(&gate, &lee, ask).await.unwrap_err());
        told.push('\n');
    }
    let write = Ask::new(Action::Write, &domain("ehr"), Layer::Silver, &origin()).kind("Patient").under(&session);
    told.push_str(&gate.permit::<Write>(&lee, write).await.unwrap_err().to_string());
    expect![[r#"
        the break-glass session is for another patient
        the break-glass session is for another domain
        the break-glass session is for another domain
        no policy lets physician query a product of ehr for ETREAT
        you have no such break-glass session; ask for one
        break-glass is asked for and confirmed by its own two steps
        no policy lets physician write a record of ehr for ETREAT"#]]
    .assert_eq(&told);
    // Another's session opens nothing, and neither does one's own over an erased patient.
    for name in ["dr-kim", "nurse-kim", "ad-min", "re-search"] {
        let other = world.caller(&gate, name).await;
        reads(&gate, &other, read().under(&session)).await.unwrap_err();
    }
    let permit = reads(&gate, &lee, read().under(&session)).await.unwrap();
    assert!(permit.grant().patients.contains(Ordinal(1)));
    world.patients.bury(&domain("ehr"), [1, 66]);
    let permit = reads(&gate, &lee, read().under(&session)).await.unwrap();
    assert!(!permit.grant().patients.contains(Ordinal(1)));
    let refusal = gate.request_emergency(&lee, request(66), &origin()).await.unwrap_err();
    assert_eq!(refusal.to_string(), "there is no such patient here");
}

#[tokio::test]
async fn who_may_not_break_the_glass_is_told_so_and_it_is_on_record() {
    let world = World::new();
    let gate = world.gate().await;
    let mut told = String::new();
    for name in ["nurse-kim", "ad-min", "re-search", "pri-vacy"] {
        let caller = world.caller(&gate, name).await;
        let refusal = gate.request_emergency(&caller, request(1), &origin()).await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Forbidden);
        told.push_str(&format!("{refusal}\n"));
    }
    let lee = world.caller(&gate, "dr-lee").await;
    let wordless = EmergencyRequest { reason: " ".into(), ..request(1) };
    told.push_str(&gate.request_emergency(&lee, wordless, &origin()).await.unwrap_err().to_string());
    expect![[r#"
        no policy lets nurse break the glass for a record of ehr for ETREAT
        administrators run the system and see no patient data; break-glass is for those who treat; administrators, researchers, analysts and auditors have no part in it
        break-glass is for those who treat; administrators, researchers, analysts and auditors have no part in it
        no policy lets privacy-officer break the glass for a record of ehr for ETREAT
        break-glass needs a reason in words, at most 4096 bytes"#]]
    .assert_eq(&told);
    for _ in 0..EmergencyLimits::default().open_max {
        gate.request_emergency(&lee, request(1), &origin()).await.unwrap();
    }
    let refusal = gate.request_emergency(&lee, request(1), &origin()).await.unwrap_err();
    assert!(refusal.to_string().contains("too many"), "{refusal}");
    world.clock.advance_ms(120_000);
    gate.request_emergency(&lee, request(1), &origin()).await.unwrap();
}

#[tokio::test]
async fn a_confirmation_needs_the_same_clinician_a_new_token_and_haste() {
    let world = World::new();
    let gate = world.gate().await;
    let lee = world.caller(&gate, "dr-lee").await;
    let early = world.caller(&gate, "dr-lee").await;
    world.clock.advance_ms(2_000);
    let asked = gate.request_emergency(&lee, request(1), &origin()).await.unwrap().session.to_string();
    let confirm = async |caller: &Caller| -> Result<(), Refusal> {
        gate.confirm_emergency(caller, &asked, &origin()).await.map(drop)
    };
    for (who, caller) in [
        ("the token that asked", &lee),
        ("one from before", &early),
        ("another clinician", &world.caller(&gate, "dr-kim").await),
    ] {
        assert_eq!(confirm(caller).await.unwrap_err().kind, RefusalKind::Forbidden, "{who}");
    }
    assert!(reads(&gate, &lee, read().under(&asked)).await.unwrap_err().contains("not confirmed"));
    world.clock.advance_ms(119_999);
    let fresh = world.caller(&gate, "dr-lee").await;
    confirm(&fresh).await.unwrap();
    assert!(confirm(&world.caller(&gate, "dr-lee").await).await.unwrap_err().to_string().contains("already"));
    let late = gate.request_emergency(&lee, request(1), &origin()).await.unwrap().session.to_string();
    world.clock.advance_ms(120_000);
    let fresh = world.caller(&gate, "dr-lee").await;
    let refusal = gate.confirm_emergency(&fresh, &late, &origin()).await.unwrap_err();
    assert!(refusal.to_string().contains("in time"), "{refusal}");
}

#[tokio::test]
async fn a_session_survives_a_restart_and_ends_in_time_whatever_the_clock_says() {
    let world = World::new();
    let gate = world.gate().await;
    let session = world.session(&gate, 1).await.session.to_string();
    // It is used near its end, the clock is set back by hours, and the node restarts.
    world.clock.advance_ms(4 * HOUR_MS - 60_000);
    let lee = world.caller(&gate, "dr-lee").await;
    reads(&gate, &lee, read().under(&session)).await.unwrap();
    world.clock.jump_ms(-3 * HOUR_MS);
    let lee = world.caller(&gate, "dr-lee").await;
    let permit = reads(&gate, &lee, read().under(&session)).await.unwrap();
    drop(gate);
    let gate = world.gate().await;
    let lee = world.caller(&gate, "dr-lee").await;
    reads(&gate, &lee, read().under(&session)).await.unwrap();
    // A permit of before the restart releases nothing: the gate does not know its decision.
    let access = Access::of(&permit, Action::Read, &origin()).patients(&domain("ehr"), [1]);
    assert_eq!(gate.release(&lee, access).await.unwrap_err(), NotReleased::Expired);
    let permit = reads(&gate, &lee, read().under(&session)).await.unwrap();
    world.clock.advance_ms(60_000);
    let refused = reads(&gate, &lee, read().under(&session)).await.unwrap_err();
    assert!(refused.contains("is over"), "{refused}");
    // The permit lives by the wall clock still; its release asks the session.
    world.clock.jump_ms(-60_000);
    let access = Access::of(&permit, Action::Read, &origin()).patients(&domain("ehr"), [1]);
    assert_eq!(gate.release(&lee, access).await.unwrap_err(), NotReleased::Expired);
}

#[tokio::test]
async fn its_clinician_ends_it_and_a_record_names_the_session() {
    let world = World::new();
    let gate = world.gate().await;
    let session = world.session(&gate, 1).await.session.to_string();
    let lee = world.caller(&gate, "dr-lee").await;
    let permit = reads(&gate, &lee, read().under(&session)).await.unwrap();
    let access = || Access::of(&permit, Action::Read, &origin()).rows(1).patients(&domain("ehr"), [1]);
    gate.release(&lee, access()).await.unwrap();
    let kim = world.caller(&gate, "dr-kim").await;
    gate.end_emergency(&kim, &session, &origin()).await.unwrap_err();
    gate.end_emergency(&lee, &session, &origin()).await.unwrap();
    assert_eq!(gate.release(&lee, access()).await.unwrap_err(), NotReleased::Expired);
    reads(&gate, &lee, read().under(&session)).await.unwrap_err();

    let officer = world.caller(&gate, "pri-vacy").await;
    let ask = Ask::new(Action::AuditRead, &governance(), Layer::Governance, &origin()).kind("audit");
    let permit = gate.permit::<Read>(&officer, ask).await.unwrap();
    let filter = AuditFilter { emergency: true, ..AuditFilter::default() };
    let stores: Vec<Arc<dyn AuditStore>> = vec![world.target.clone()];
    let clock = Arc::new(world.clock.clone());
    let follower = AuditFollower::new(gate.audit().clone(), stores, Arc::new(NoAlarm), clock, None);
    let held = gate.audit_reader(follower).page(&permit, &filter, 0, 100).await.unwrap();
    let release = gate.release(&officer, Access::of(&permit, Action::AuditRead, &origin())).await.unwrap();
    let mut lines = String::new();
    for line in held.release(release).unwrap().lines {
        let job = line.job.as_deref().map(|job| job == format!("break-glass/{session}"));
        lines.push_str(&format!("{} {}: {}, of the session: {job:?}\n", line.action, line.outcome, line.what));
    }
    expect![[r#"
        break-glass served: break-glass asked for: life-threat, of the session: Some(true)
        break-glass granted: break-glass confirmed: life-threat, of the session: Some(true)
        read served: , of the session: Some(true)
        break-glass refused: you have no such break-glass request or session; ask for one, of the session: None
        break-glass served: break-glass ended, of the session: Some(true)
        read refused: this break-glass session is over; ask for another if the emergency goes on, of the session: Some(true)
    "#]]
    .assert_eq(&lines);
}

async fn list(gate: &Gate, officer: &Caller, open_only: bool) -> Vec<EmergencyLine> {
    let ask = Ask::new(Action::MetadataRead, &governance(), Layer::Governance, &origin()).kind(REVIEWS);
    let permit = gate.permit::<Read>(officer, ask).await.unwrap();
    let held = gate.emergencies_of(&permit, open_only).await.unwrap();
    let release = gate.release(officer, Access::of(&permit, Action::MetadataRead, &origin())).await.unwrap();
    held.release(release).unwrap()
}

#[tokio::test]
async fn a_privacy_officer_reviews_and_an_overdue_review_shortens_the_next_session() {
    let world = World::new();
    let gate = world.gate().await;
    let session = world.session(&gate, 1).await.session.to_string();
    let officer = world.caller(&gate, "pri-vacy").await;
    let waiting = list(&gate, &officer, true).await;
    assert_eq!((waiting.len(), waiting[0].reason.as_deref()), (1, Some("found unconscious")));
    assert!(waiting[0].part2, "42 CFR 2.51: it is on record that these were open");
    world.clock.advance_ms(4 * HOUR_MS + EmergencyLimits::default().review_ms + 1);
    let counts = gate.emergency_counts();
    assert_eq!((counts.open, counts.unreviewed, counts.overdue), (0, 1, 1));
    let next = world.session(&gate, 2).await;
    assert_eq!(next.until.ms() - world.clock.now().ms(), EmergencyLimits::default().overdue_session_ms);

    let officer = world.caller(&gate, "pri-vacy").await;
    let ask = || Ask::new(Action::Manage, &governance(), Layer::Governance, &origin()).kind(REVIEWS);
    let permit = gate.permit::<Manage>(&officer, ask()).await.unwrap();
    for unfit in ["", "00"] {
        gate.review_emergency(&permit, unfit, Verdict::Justified, "seen").await.unwrap_err();
    }
    gate.review_emergency(&permit, &session, Verdict::NotJustified, "was at home").await.unwrap();
    gate.review_emergency(&permit, &session, Verdict::Justified, "again").await.unwrap_err();
    let lee = world.caller(&gate, "dr-lee").await;
    gate.permit::<Manage>(&lee, ask()).await.unwrap_err();
    // After a restart the same queue.
    drop(gate);
    let gate = world.gate().await;
    let officer = world.caller(&gate, "pri-vacy").await;
    let counts = gate.emergency_counts();
    assert_eq!((counts.open, counts.unreviewed, counts.overdue), (1, 1, 0));
    let all = list(&gate, &officer, false).await;
    let review = all.iter().find(|line| line.session.to_string() == session).unwrap().review.as_ref().unwrap();
    assert_eq!((review.verdict, review.note.as_deref()), (Verdict::NotJustified, Some("was at home")));
    assert_eq!(list(&gate, &officer, true).await.len(), 1);
}

#[tokio::test]
async fn without_audit_or_control_log_nothing_opens() {
    let world = World::new();
    let gate = world.gate().await;
    let session = world.session(&gate, 1).await.session.to_string();
    let lee = world.caller(&gate, "dr-lee").await;
    let fails = async |what: &str| {
        let asked = gate.request_emergency(&lee, request(1), &origin()).await.unwrap_err();
        assert_eq!(asked.kind, RefusalKind::Unavailable, "{what}");
        let confirmed = gate.confirm_emergency(&lee, &session, &origin()).await.unwrap_err();
        assert!(matches!(confirmed.kind, RefusalKind::Unavailable | RefusalKind::Forbidden), "{what}");
    };
    world.book.fail(true);
    fails("no control log").await;
    // An open session goes on for the minute in which its use is on record.
    reads(&gate, &lee, read().under(&session)).await.unwrap();
    world.clock.advance_ms(60_000);
    let refused = gate.permit::<Read>(&lee, read().under(&session)).await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::Unavailable);
    world.book.fail(false);
    world.target.fail(true);
    fails("no audit").await;
    let permit = gate.permit::<Read>(&lee, read().under(&session)).await.unwrap();
    let access = Access::of(&permit, Action::Read, &origin()).patients(&domain("ehr"), [1]);
    assert!(matches!(gate.release(&lee, access).await, Err(NotReleased::Audit(_))));
}
