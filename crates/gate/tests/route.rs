//! What routes may send under the starting policies: by the patients that a message names, the labels of what it tells,
//! the agreement and the way it is de-identified; every refusal is on record first.

use std::sync::{Arc, OnceLock};

use base::{
    Clock, DomainName, Limits, ManualClock, Mask, Ordinal, PermitMint, Purpose, SeededEntropy, Sensitivity, SourceName,
};
use gate::{
    Access, Action, Agreement, AuditLog, Gate, GateParts, Held, MemoryAuditKeys, MemoryDirectory, MemoryPatients,
    MemoryTarget, NotReleased, Origin, Profile, RefusalKind, RouteRecord, Sending, Targets, TokenIssuer, TokenKeys,
};
use policy::Engine;

struct World {
    gate: Gate,
    patients: Arc<MemoryPatients>,
    target: Arc<MemoryTarget>,
    clock: ManualClock,
}

fn ehr() -> DomainName {
    DomainName::parse("ehr").unwrap()
}

async fn world() -> World {
    static MINT: OnceLock<PermitMint> = OnceLock::new();
    let mint = MINT.get_or_init(|| PermitMint::claim().expect("the only claim of this process")).clone();
    let clock = ManualClock::at(1_790_000_000_000);
    let entropy = Arc::new(SeededEntropy::new(7));
    let target = Arc::new(MemoryTarget::new("one"));
    let keys = Arc::new(MemoryAuditKeys::new(entropy.clone()));
    let key = TokenIssuer::new_key().unwrap();
    let issuer = TokenIssuer::from_pkcs8(&key, "https://id.test", "ward", 3_600_000).unwrap();
    let patients = Arc::new(MemoryPatients::default());
    let gate = Gate::new(GateParts {
        mint,
        engine: Engine::load(policy::starter()).unwrap(),
        audit: AuditLog::open(keys, Targets::new(vec![target.clone()], 64)).await.unwrap(),
        patients: patients.clone(),
        principals: Arc::new(MemoryDirectory::default()),
        tokens: TokenKeys::of(&issuer),
        clock: Arc::new(clock.clone()),
        entropy,
        limits: Limits::default(),
    });
    World { gate, patients, target, clock }
}

impl World {
    fn record(&self, purpose: Purpose, is_outside: bool) -> RouteRecord {
        let until = self.clock.now().plus_ms(86_400_000);
        let agreement = Agreement { id: "dua".into(), purposes: vec![purpose], until };
        let name = SourceName::parse("to-lab").unwrap();
        RouteRecord { name, domain: ehr(), purpose, agreement: is_outside.then_some(agreement) }
    }
}

struct Safe;

impl Profile for Safe {
    fn names(&self) -> &'static [&'static str] {
        &["safe-harbor"]
    }

    fn meets(&self, _: &Mask) -> bool {
        true
    }
}

fn sending<'a>(
    domain: &'a DomainName,
    patients: &'a [Ordinal],
    sensitivity: Sensitivity,
    profile: Option<&'a dyn Profile>,
    origin: &'a Origin,
) -> Sending<'a> {
    let (what, recipient, destination) = ("route to-lab entry 7", "Laboratory", "mllps://lab.example.org:2575");
    Sending { domain, kinds: &[], patients, sensitivity, profile, origin, what, recipient, destination }
}

#[tokio::test]
async fn each_message_is_decided_by_whom_it_names_and_what_it_tells() {
    let world = world().await;
    world.patients.restrict(&ehr(), [2]);
    world.patients.bury(&ehr(), [3]);
    let (free, restricted, hidden) = ([Ordinal(1)], [Ordinal(1), Ordinal(2)], [Ordinal(3)]);
    let (plain, part2, hiv) = (Sensitivity::NONE, Sensitivity::PART2, Sensitivity::HIV);
    let domain = ehr();
    let origin = Origin::new("route", None, None);
    for (purpose, outside, patients, labels, de_identified, may) in [
        (Purpose::Treatment, false, &free[..], plain, false, true),
        (Purpose::Treatment, false, &restricted, part2, false, true),
        (Purpose::Treatment, false, &hidden, plain, false, false),
        (Purpose::Treatment, true, &free, hiv, false, true),
        (Purpose::Treatment, true, &restricted, plain, false, false),
        (Purpose::Treatment, true, &free, part2, false, false),
        (Purpose::Payment, false, &free, plain, false, true),
        (Purpose::Payment, false, &free, hiv, false, false),
        (Purpose::Operations, true, &restricted, plain, false, false),
        (Purpose::PublicHealth, true, &restricted, plain, false, true),
        (Purpose::PublicHealth, true, &free, part2, false, false),
        (Purpose::Research, true, &free, plain, false, false),
        (Purpose::Research, true, &free, plain, true, true),
        (Purpose::Research, false, &free, plain, true, false),
        (Purpose::PatientRequest, true, &free, plain, false, false),
    ] {
        let route = world.gate.route(&world.record(purpose, outside)).unwrap();
        let profile = de_identified.then_some(&Safe as &dyn Profile);
        let sending = sending(&domain, patients, labels, profile, &origin);
        let case = format!("{purpose} outside: {outside} {patients:?} {labels:?} de-identified: {de_identified}");
        assert_eq!(world.gate.would_permit_to_send(&route, sending), may, "{case}");
        match world.gate.permit_to_send(&route, sending).await {
            Ok(permit) => {
                assert!(may, "{case}");
                let held = Held::under(&permit, "message");
                let numbers = patients.iter().map(|patient| patient.0);
                let access = Access::of(&permit, Action::Export, &origin).rows(1).patients(&domain, numbers);
                let release = world.gate.release(&route, access).await.unwrap();
                assert_eq!(held.release(release).unwrap(), "message");
            }
            Err(refusal) => {
                assert!(!may, "{case}: {refusal}");
                assert_eq!(refusal.kind, RefusalKind::Forbidden, "{case}");
            }
        }
    }
    assert!(world.gate.is_any_hidden(&domain, &hidden).unwrap() && !world.gate.is_any_hidden(&domain, &free).unwrap());
}

#[tokio::test]
async fn a_patient_who_is_restricted_after_the_permit_was_given_does_not_leave() {
    let world = world().await;
    let (domain, origin, patients) = (ehr(), Origin::new("route", None, None), [Ordinal(5)]);
    let route = world.gate.route(&world.record(Purpose::Treatment, false)).unwrap();
    let permit =
        world.gate.permit_to_send(&route, sending(&domain, &patients, Sensitivity::NONE, None, &origin)).await.unwrap();
    world.patients.bury(&domain, [5]);
    let access = Access::of(&permit, Action::Export, &origin).rows(1).patients(&domain, [5]);
    assert!(matches!(world.gate.release(&route, access).await, Err(NotReleased::Hidden)));
}

#[tokio::test]
async fn an_agreement_that_ended_ends_the_route_and_an_audit_that_fails_is_an_outage() {
    let world = world().await;
    let record = world.record(Purpose::PublicHealth, true);
    let route = world.gate.route(&record).unwrap();
    let (domain, origin, patients) = (ehr(), Origin::new("route", None, None), [Ordinal(1)]);
    world.target.fail(true);
    let refused = sending(&domain, &patients, Sensitivity::PART2, None, &origin);
    let refusal = world.gate.permit_to_send(&route, refused).await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Unavailable, "what cannot be recorded is no answer");
    world.target.fail(false);
    world.clock.advance_ms(2 * 86_400_000);
    let ended = world.gate.route(&record).unwrap_err();
    assert!(ended.to_string().contains("`dua` is not in force"), "{ended}");
    let other = RouteRecord { purpose: Purpose::Payment, ..world.record(Purpose::PublicHealth, true) };
    assert!(world.gate.route(&other).unwrap_err().to_string().contains("does not allow this purpose"));
}
