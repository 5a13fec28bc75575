//! The starting policies as a truth table, the rules of deciding as small cases, and load errors as a reader sees them.

use base::{DomainName, Layer, PrincipalId, Purpose, Role, Sensitivity, SourceName, Timestamp};
use expect_test::{Expect, expect};
use policy::{
    Action, Agreement, ContextFacts, Decision, Engine, Network, PrincipalFacts, PrincipalKind, Request, ResourceFacts,
};
use proptest::prelude::*;

const NOW: Timestamp = Timestamp(1_790_000_000_000);

fn starter() -> Engine {
    Engine::load(policy::starter()).unwrap_or_else(|found| panic!("{}", found[0]))
}

fn principal(role: Role) -> PrincipalFacts {
    let service = matches!(role, Role::Feed | Role::Node | Role::Route | Role::CareTeamApp);
    PrincipalFacts {
        id: PrincipalId::parse("someone").unwrap(),
        kind: if service { PrincipalKind::Service } else { PrincipalKind::Person },
        roles: vec![role],
        domain: Some(DomainName::parse("ehr").unwrap()),
        source: (role == Role::Feed).then(|| SourceName::parse("adt-main").unwrap()),
        assurance: 2,
        training_until: (!service).then(|| NOW.plus_ms(1)),
        care_team: true,
        agreements: vec![Agreement { id: "dua-7".into(), purposes: vec![Purpose::Research], until: NOW.plus_ms(1) }],
    }
}

fn resource(layer: Layer, kind: &str) -> ResourceFacts {
    ResourceFacts {
        domain: DomainName::parse("ehr").unwrap(),
        layer,
        kind: kind.into(),
        phi: true,
        one_patient: false,
        in_care_team: false,
        classes: vec![],
        sensitivity: Sensitivity::NONE,
    }
}

fn request(role: Role, action: Action, resource: ResourceFacts, purpose: Option<Purpose>) -> Request {
    Request {
        principal: principal(role),
        action,
        resource,
        context: ContextFacts {
            purpose,
            emergency: purpose == Some(Purpose::EmergencyTreatment),
            agreement: Some("dua-7".into()),
            network: Network::Internal,
            now: NOW,
        },
    }
}

fn obligations(decision: &Decision) -> String {
    decision.obligations.iter().map(|o| o.what.to_string()).collect::<Vec<_>>().join("; ")
}

/// Every role × every action on what it fits × every purpose and none.
fn truth_table(engine: &Engine) -> String {
    let targets = [
        (Layer::Bronze, "adt-main"),
        (Layer::Bronze, "fhir-api"),
        (Layer::Bronze, "journal"),
        (Layer::Silver, "Patient"),
        (Layer::Silver, "Observation"),
        (Layer::Silver, "*"),
        (Layer::Gold, "patients"),
        (Layer::Governance, "audit"),
        (Layer::Governance, "proof"),
        (Layer::Governance, "source"),
        (Layer::Governance, "product"),
        (Layer::Governance, "set-aside"),
        (Layer::Governance, "key"),
        (Layer::Governance, "break-glass"),
    ];
    let mut purposes: Vec<Option<Purpose>> = vec![None];
    purposes.extend(Purpose::ALL.iter().copied().map(Some));
    let mut table = String::new();
    for role in Role::ALL.iter().copied() {
        table.push_str(&format!("{role}\n"));
        for (layer, kind) in targets {
            for action in Action::ALL.iter().copied() {
                let mut one = resource(layer, kind);
                one.one_patient = true;
                let allowed: Vec<String> = purposes
                    .iter()
                    .filter_map(|purpose| {
                        let decision = engine.decide(&request(role, action, one.clone(), *purpose));
                        let why = purpose.map_or("none", |purpose| purpose.code());
                        decision.allow.then(|| format!("{why} by {}", decision.policies.join("+")))
                    })
                    .collect();
                let all_by_one = allowed.len() == purposes.len();
                match (allowed.first(), all_by_one) {
                    (None, _) => {}
                    (Some(first), true) => {
                        let by = first.split_once(" by ").unwrap().1;
                        table.push_str(&format!("  {action} {}/{kind}: any by {by}\n", layer.code()));
                    }
                    _ => table.push_str(&format!("  {action} {}/{kind}: {}\n", layer.code(), allowed.join(", "))),
                }
            }
        }
    }
    table
}

#[test]
fn the_starting_policies_are_this_table_and_nothing_more() {
    expect![[r#"
        physician
          write bronze/fhir-api: TREAT by api-writes-journal, HPAYMT by api-writes-journal, HOPERAT by api-writes-journal
          read bronze/journal: TREAT by care-opens-messages
          search bronze/journal: TREAT by care-opens-messages
          read silver/Patient: TREAT by care-in-own-domain, ETREAT by break-glass
          search silver/Patient: TREAT by care-in-own-domain, ETREAT by break-glass
          write silver/Patient: TREAT by care-writes-in-own-domain
          export silver/Patient: TREAT by downtime-pack
          subscribe silver/Patient: TREAT by care-in-own-domain
          break-glass silver/Patient: ETREAT by break-glass
          read silver/Observation: TREAT by care-in-own-domain, ETREAT by break-glass
          search silver/Observation: TREAT by care-in-own-domain, ETREAT by break-glass
          write silver/Observation: TREAT by care-writes-in-own-domain
          export silver/Observation: TREAT by downtime-pack
          subscribe silver/Observation: TREAT by care-in-own-domain
          break-glass silver/Observation: ETREAT by break-glass
          read silver/*: TREAT by care-in-own-domain, ETREAT by break-glass
          search silver/*: TREAT by care-in-own-domain, ETREAT by break-glass
          write silver/*: TREAT by care-writes-in-own-domain
          export silver/*: TREAT by downtime-pack
          subscribe silver/*: TREAT by care-in-own-domain
          break-glass silver/*: ETREAT by break-glass
          read gold/patients: TREAT by care-reads-products, ETREAT by break-glass-products
          query gold/patients: TREAT by care-reads-products, ETREAT by break-glass-products
          metadata-read governance/product: any by everyone-sees-the-catalog
        nurse
          write bronze/fhir-api: TREAT by api-writes-journal, HPAYMT by api-writes-journal, HOPERAT by api-writes-journal
          read bronze/journal: TREAT by care-opens-messages
          search bronze/journal: TREAT by care-opens-messages
          read silver/Patient: TREAT by care-in-own-domain
          search silver/Patient: TREAT by care-in-own-domain
          write silver/Patient: TREAT by care-writes-in-own-domain
          export silver/Patient: TREAT by downtime-pack
          subscribe silver/Patient: TREAT by care-in-own-domain
          read silver/Observation: TREAT by care-in-own-domain
          search silver/Observation: TREAT by care-in-own-domain
          write silver/Observation: TREAT by care-writes-in-own-domain
          export silver/Observation: TREAT by downtime-pack
          subscribe silver/Observation: TREAT by care-in-own-domain
          read silver/*: TREAT by care-in-own-domain
          search silver/*: TREAT by care-in-own-domain
          write silver/*: TREAT by care-writes-in-own-domain
          export silver/*: TREAT by downtime-pack
          subscribe silver/*: TREAT by care-in-own-domain
          read gold/patients: TREAT by care-reads-products
          query gold/patients: TREAT by care-reads-products
          metadata-read governance/product: any by everyone-sees-the-catalog
        care-team-app
          write bronze/fhir-api: TREAT by api-writes-journal, HPAYMT by api-writes-journal, HOPERAT by api-writes-journal
          read silver/Patient: TREAT by care-team-app
          search silver/Patient: TREAT by care-team-app
          write silver/Patient: TREAT by care-team-app
          subscribe silver/Patient: TREAT by care-team-app
          read silver/Observation: TREAT by care-team-app
          search silver/Observation: TREAT by care-team-app
          write silver/Observation: TREAT by care-team-app
          subscribe silver/Observation: TREAT by care-team-app
          read silver/*: TREAT by care-team-app
          search silver/*: TREAT by care-team-app
          write silver/*: TREAT by care-team-app
          subscribe silver/*: TREAT by care-team-app
        lab-technician
          write bronze/fhir-api: TREAT by api-writes-journal, HPAYMT by api-writes-journal, HOPERAT by api-writes-journal
          read bronze/journal: TREAT by care-opens-messages
          search bronze/journal: TREAT by care-opens-messages
          read silver/Patient: TREAT by care-in-own-domain
          search silver/Patient: TREAT by care-in-own-domain
          write silver/Patient: TREAT by care-writes-in-own-domain
          subscribe silver/Patient: TREAT by care-in-own-domain
          read silver/Observation: TREAT by care-in-own-domain
          search silver/Observation: TREAT by care-in-own-domain
          write silver/Observation: TREAT by care-writes-in-own-domain
          subscribe silver/Observation: TREAT by care-in-own-domain
          read silver/*: TREAT by care-in-own-domain
          search silver/*: TREAT by care-in-own-domain
          write silver/*: TREAT by care-writes-in-own-domain
          subscribe silver/*: TREAT by care-in-own-domain
          read gold/patients: TREAT by care-reads-products
          query gold/patients: TREAT by care-reads-products
          metadata-read governance/product: any by everyone-sees-the-catalog
        radiologist
          write bronze/fhir-api: TREAT by api-writes-journal, HPAYMT by api-writes-journal, HOPERAT by api-writes-journal
          read bronze/journal: TREAT by care-opens-messages
          search bronze/journal: TREAT by care-opens-messages
          read silver/Patient: TREAT by care-in-own-domain
          search silver/Patient: TREAT by care-in-own-domain
          write silver/Patient: TREAT by care-writes-in-own-domain
          subscribe silver/Patient: TREAT by care-in-own-domain
          read silver/Observation: TREAT by care-in-own-domain
          search silver/Observation: TREAT by care-in-own-domain
          write silver/Observation: TREAT by care-writes-in-own-domain
          subscribe silver/Observation: TREAT by care-in-own-domain
          read silver/*: TREAT by care-in-own-domain
          search silver/*: TREAT by care-in-own-domain
          write silver/*: TREAT by care-writes-in-own-domain
          subscribe silver/*: TREAT by care-in-own-domain
          read gold/patients: TREAT by care-reads-products
          query gold/patients: TREAT by care-reads-products
          metadata-read governance/product: any by everyone-sees-the-catalog
        pharmacist
          write bronze/fhir-api: TREAT by api-writes-journal, HPAYMT by api-writes-journal, HOPERAT by api-writes-journal
          read bronze/journal: TREAT by care-opens-messages
          search bronze/journal: TREAT by care-opens-messages
          read silver/Patient: TREAT by care-in-own-domain
          search silver/Patient: TREAT by care-in-own-domain
          write silver/Patient: TREAT by care-writes-in-own-domain
          subscribe silver/Patient: TREAT by care-in-own-domain
          read silver/Observation: TREAT by care-in-own-domain
          search silver/Observation: TREAT by care-in-own-domain
          write silver/Observation: TREAT by care-writes-in-own-domain
          subscribe silver/Observation: TREAT by care-in-own-domain
          read silver/*: TREAT by care-in-own-domain
          search silver/*: TREAT by care-in-own-domain
          write silver/*: TREAT by care-writes-in-own-domain
          subscribe silver/*: TREAT by care-in-own-domain
          read gold/patients: TREAT by care-reads-products
          query gold/patients: TREAT by care-reads-products
          metadata-read governance/product: any by everyone-sees-the-catalog
        registration-clerk
          write bronze/fhir-api: TREAT by api-writes-journal, HPAYMT by api-writes-journal, HOPERAT by api-writes-journal
          read silver/Patient: TREAT by registration-demographics, HPAYMT by registration-demographics+part2-only-for-treatment, HOPERAT by registration-demographics+part2-only-for-treatment
          search silver/Patient: TREAT by registration-demographics, HPAYMT by registration-demographics+part2-only-for-treatment, HOPERAT by registration-demographics+part2-only-for-treatment
          write silver/Patient: TREAT by registration-demographics, HPAYMT by registration-demographics, HOPERAT by registration-demographics
          metadata-read governance/product: any by everyone-sees-the-catalog
        data-engineer
          read bronze/journal: HOPERAT by engineer-opens-messages
          search bronze/journal: HOPERAT by engineer-opens-messages
          build gold/patients: HOPERAT by engineer-builds-products
          metadata-read governance/source: any by engineer-sees-pipelines
          replay governance/source: any by engineer-runs-pipelines
          check governance/source: any by engineer-sees-pipelines
          manage governance/source: any by engineer-runs-pipelines
          metadata-read governance/product: any by engineer-sees-pipelines
          replay governance/product: any by engineer-runs-pipelines
          check governance/product: any by engineer-sees-pipelines
          manage governance/product: any by engineer-runs-pipelines
          metadata-read governance/set-aside: any by engineer-sees-pipelines
          replay governance/set-aside: any by engineer-runs-pipelines
          check governance/set-aside: any by engineer-sees-pipelines
          manage governance/set-aside: any by engineer-runs-pipelines
        analyst
          read gold/patients: HOPERAT by analyst-reads-products+part2-only-for-treatment
          query gold/patients: HOPERAT by analyst-reads-products+part2-only-for-treatment
          metadata-read governance/product: any by everyone-sees-the-catalog
        researcher
          read gold/patients: HRESCH by researcher-reads-products+part2-only-for-treatment
          query gold/patients: HRESCH by researcher-reads-products+part2-only-for-treatment
          metadata-read governance/product: any by everyone-sees-the-catalog
        privacy-officer
          audit-read governance/audit: HCOMPL by oversight-reads-audit
          proof-read governance/audit: HCOMPL by oversight-reads-audit
          audit-read governance/proof: HCOMPL by oversight-reads-audit
          proof-read governance/proof: HCOMPL by oversight-reads-audit
          metadata-read governance/source: HCOMPL by privacy-officer-sees-policies
          metadata-read governance/product: any by everyone-sees-the-catalog
          metadata-read governance/set-aside: HCOMPL by privacy-officer-sees-policies
          metadata-read governance/key: HCOMPL by privacy-officer-sees-policies
          metadata-read governance/break-glass: HCOMPL by privacy-officer-sees-policies
          manage governance/break-glass: HCOMPL by privacy-officer-reviews-break-glass
        auditor
          audit-read governance/audit: HCOMPL by oversight-reads-audit
          proof-read governance/audit: HCOMPL by oversight-reads-audit
          audit-read governance/proof: HCOMPL by oversight-reads-audit
          proof-read governance/proof: HCOMPL by oversight-reads-audit
          metadata-read governance/source: HCOMPL by auditor-sees-policies
          metadata-read governance/product: any by everyone-sees-the-catalog
        administrator
          proof-read governance/proof: any by administrator-checks-proofs
          metadata-read governance/source: any by administrator-manages
          replay governance/source: any by administrator-manages
          check governance/source: any by administrator-manages
          manage governance/source: any by administrator-manages
          mint-token governance/source: any by administrator-manages
          metadata-read governance/product: any by administrator-manages
          replay governance/product: any by administrator-manages
          check governance/product: any by administrator-manages
          manage governance/product: any by administrator-manages
          mint-token governance/product: any by administrator-manages
          metadata-read governance/set-aside: any by administrator-manages
          replay governance/set-aside: any by administrator-manages
          check governance/set-aside: any by administrator-manages
          manage governance/set-aside: any by administrator-manages
          mint-token governance/set-aside: any by administrator-manages
          metadata-read governance/key: any by administrator-manages
          replay governance/key: any by administrator-manages
          check governance/key: any by administrator-manages
          manage governance/key: any by administrator-manages
          mint-token governance/key: any by administrator-manages
        feed
          ingest bronze/adt-main: TREAT by feed-ingests, ETREAT by feed-ingests, HPAYMT by feed-ingests, HOPERAT by feed-ingests, HRESCH by feed-ingests, PUBHLTH by feed-ingests, PATRQT by feed-ingests, HCOMPL by feed-ingests, HSYSADMIN by feed-ingests
        node
          export silver/Patient: TREAT by downtime-pack-by-the-node
          export silver/Observation: TREAT by downtime-pack-by-the-node
          export silver/*: TREAT by downtime-pack-by-the-node
        route
          export silver/Patient: TREAT by route-within-the-hospital, HPAYMT by route-for-payment-and-operations+part2-only-for-treatment, HOPERAT by route-for-payment-and-operations+part2-only-for-treatment, HRESCH by route-for-research+part2-only-for-treatment, PUBHLTH by route-to-public-health+part2-only-for-treatment
          export silver/Observation: TREAT by route-within-the-hospital, HPAYMT by route-for-payment-and-operations+part2-only-for-treatment, HOPERAT by route-for-payment-and-operations+part2-only-for-treatment, HRESCH by route-for-research+part2-only-for-treatment, PUBHLTH by route-to-public-health+part2-only-for-treatment
          export silver/*: TREAT by route-within-the-hospital, HPAYMT by route-for-payment-and-operations+part2-only-for-treatment, HOPERAT by route-for-payment-and-operations+part2-only-for-treatment, HRESCH by route-for-research+part2-only-for-treatment, PUBHLTH by route-to-public-health+part2-only-for-treatment
    "#]].assert_eq(&truth_table(&starter()));
}

#[test]
fn obligations_of_the_starting_policies() {
    let engine = starter();
    let mut lines = String::new();
    for (role, action, layer, purpose, own) in [
        (Role::Physician, Action::Read, Layer::Silver, Purpose::Treatment, false),
        (Role::Physician, Action::Read, Layer::Silver, Purpose::Treatment, true),
        (Role::Physician, Action::Read, Layer::Silver, Purpose::EmergencyTreatment, false),
        (Role::Physician, Action::Query, Layer::Gold, Purpose::Treatment, false),
        (Role::CareTeamApp, Action::Search, Layer::Silver, Purpose::Treatment, false),
        (Role::RegistrationClerk, Action::Read, Layer::Silver, Purpose::Payment, false),
        (Role::Analyst, Action::Query, Layer::Gold, Purpose::Operations, false),
        (Role::Researcher, Action::Query, Layer::Gold, Purpose::Research, false),
    ] {
        let mut what = resource(layer, "Patient");
        what.in_care_team = own;
        what.one_patient = true;
        let decision = engine.decide(&request(role, action, what, Some(purpose)));
        assert!(decision.allow);
        lines.push_str(&format!("{role} {purpose}{}: {}\n", if own { " own" } else { "" }, obligations(&decision)));
    }
    expect![[r#"
        physician TREAT: hide(part2, restricted); rows(restricted-in-care-team)
        physician TREAT own: 
        physician ETREAT: notify(privacy-officer)
        physician TREAT: hide(part2, restricted); rows(restricted-in-care-team)
        care-team-app TREAT: rows(care-team)
        registration-clerk HPAYMT: hide(part2, mental-health, hiv, reproductive, restricted); rows(not-restricted)
        analyst HOPERAT: hide(part2, restricted); mask(address, null); mask(binary, null); mask(birth-date, year-only); mask(contact, null); mask(free-text, null); mask(identifier, null); mask(name, null); mask(national-id, null); mask(postal-code, zip3); rows(not-restricted)
        researcher HRESCH: hide(part2, mental-health, hiv, reproductive, restricted); mask(address, null); mask(binary, null); mask(birth-date, age-band); mask(contact, null); mask(date, year-only); mask(free-text, null); mask(identifier, keyed-hash); mask(name, null); mask(national-id, null); mask(postal-code, zip3); rows(not-restricted)
    "#]].assert_eq(&lines);
}

#[test]
fn refusals_say_why() {
    let engine = starter();
    let silver = || resource(Layer::Silver, "Observation");
    let mut lapsed = request(Role::Physician, Action::Read, silver(), Some(Purpose::Treatment));
    lapsed.principal.training_until = Some(NOW);
    let mut elsewhere = request(Role::Physician, Action::Read, silver(), Some(Purpose::Treatment));
    elsewhere.resource.domain = DomainName::parse("laboratory").unwrap();
    let mut no_agreement =
        request(Role::Researcher, Action::Query, resource(Layer::Gold, "p"), Some(Purpose::Research));
    no_agreement.context.agreement = None;
    let mut over = request(Role::Researcher, Action::Query, resource(Layer::Gold, "p"), Some(Purpose::Research));
    over.principal.agreements[0].until = NOW;
    let mut both = request(Role::Physician, Action::Read, silver(), Some(Purpose::Treatment));
    both.principal.roles.push(Role::Administrator);
    let mut outside = request(Role::Physician, Action::Read, silver(), Some(Purpose::Treatment));
    (outside.principal.assurance, outside.context.network) = (1, Network::External);
    let mut not_declared = request(Role::Physician, Action::Read, silver(), Some(Purpose::EmergencyTreatment));
    not_declared.context.emergency = false;
    let many = request(Role::Physician, Action::Read, silver(), Some(Purpose::EmergencyTreatment));
    let mut other_source =
        request(Role::Feed, Action::Ingest, resource(Layer::Bronze, "oru"), Some(Purpose::Treatment));
    other_source.resource.kind = "oru-main".into();
    let mut lines = String::new();
    for (name, request) in [
        ("no purpose", request(Role::Physician, Action::Read, silver(), None)),
        ("clerk, Observation", request(Role::RegistrationClerk, Action::Read, silver(), Some(Purpose::Operations))),
        ("lapsed training", lapsed),
        ("other domain", elsewhere),
        ("no agreement", no_agreement),
        ("agreement over", over),
        ("also administrator", both),
        ("outside, one factor", outside),
        ("ETREAT, no emergency", not_declared),
        ("emergency, many patients", many),
        ("feed, other source", other_source),
        ("action of another layer", request(Role::Physician, Action::Ingest, silver(), Some(Purpose::Treatment))),
    ] {
        let decision = engine.decide(&request);
        assert!(!decision.allow && decision.obligations.is_empty(), "{name}");
        lines.push_str(&format!("{name}: [{}] {}\n", decision.policies.join(", "), decision.reasons.join(" | ")));
    }
    expect![[r#"
        no purpose: [ward:purpose] patient data needs a purpose of use, and neither the token nor the client's registration gives one
        clerk, Observation: [] no policy lets registration-clerk read a record of ehr for HOPERAT
        lapsed training: [training-lapsed] your privacy training is missing or has lapsed; renew it to see patient data
        other domain: [] no policy lets physician read a record of laboratory for TREAT
        no agreement: [] no policy lets researcher query a product of ehr for HRESCH
        agreement over: [] no policy lets researcher query a product of ehr for HRESCH
        also administrator: [administrator-sees-no-phi] administrators run the system and see no patient data
        outside, one factor: [outside-needs-two-factors] from outside the hospital's network patient data needs a sign-in with two factors
        ETREAT, no emergency: [ward:emergency] emergency access and the purpose ETREAT go together
        emergency, many patients: [] no policy lets physician read a record of ehr for ETREAT
        feed, other source: [] no policy lets feed ingest a journal of ehr for TREAT
        action of another layer: [ward:action] this action does not exist for what was asked for
    "#]].assert_eq(&lines);
}

const PRICES: &[&str] = &[
    "",
    "mask(name, null)",
    "mask(birth-date, year-only)",
    "mask(birth-date, age-band); rows-max(5)",
    "rows(care-team); hide(part2)",
    "rows(not-restricted); rows-max(3)",
    "group-min(11); hide(hiv)",
];

const OPEN: &str = r#"
@id("open") @reason("open to all")
permit (principal, action == Action::"read", resource is Record);
"#;

fn decide(files: &[(&str, &str)], domain: &str) -> Decision {
    let engine = Engine::load(files).unwrap_or_else(|found| panic!("{}", found[0]));
    let mut request = request(Role::Nurse, Action::Read, resource(Layer::Silver, "Patient"), Some(Purpose::Treatment));
    request.resource.domain = DomainName::parse(domain).unwrap();
    engine.decide(&request)
}

fn policy_text(id: &str, effect: &str, obligation: &str) -> String {
    let obligation = if obligation.is_empty() { String::new() } else { format!("@obligation(\"{obligation}\")") };
    format!(
        "@id(\"{id}\") @reason(\"because {id}\") {obligation}\n{effect} (principal, action == Action::\"read\", resource is Record);\n"
    )
}

/// The rules on the crate's page, one row each: policies → outcome.
#[test]
fn the_rules_of_deciding() {
    let permit = |id: &str, price: &str| policy_text(id, "permit", price);
    let forbid = |id: &str, price: &str| policy_text(id, "forbid", price);
    let rows: Vec<(&str, Vec<String>, &str)> = vec![
        ("nothing", vec![], "no []"),
        ("a forbid alone", vec![forbid("f", "")], "no [f]"),
        ("a condition alone", vec![forbid("c", "mask(name, null)")], "no []"),
        ("a permit", vec![permit("p", "")], "yes [p] "),
        ("a permit at a price", vec![permit("p", "rows-max(5)")], "yes [p] rows-max(5)"),
        ("a forbid wins", vec![permit("p", ""), forbid("f", "")], "no [f]"),
        ("two ways, the lighter", vec![permit("a", "mask(name, null)"), permit("b", "")], "yes [b] "),
        (
            "two ways never mix",
            vec![permit("a", "rows(care-team)"), permit("b", "mask(name, null)")],
            "yes [b] mask(name, null)",
        ),
        ("equal ways, by id", vec![permit("b", "rows-max(5)"), permit("a", "rows-max(5)")], "yes [a] rows-max(5)"),
        (
            "a condition binds the free way too",
            vec![permit("a", "mask(name, null)"), permit("b", ""), forbid("c", "hide(part2)")],
            "yes [b+c] hide(part2)",
        ),
        (
            "a condition and a price for one class",
            vec![permit("a", "mask(birth-date, year-only)"), forbid("c", "mask(birth-date, age-band)")],
            "yes [a+c] mask(birth-date, null)",
        ),
        (
            "conditions add up",
            vec![permit("a", ""), forbid("c", "rows-max(9)"), forbid("d", "rows-max(3); rows(care-team)")],
            "yes [a+c+d] rows(care-team); rows-max(3)",
        ),
        (
            "profiles that exclude each other",
            vec![permit("a", "de-identify(limited)"), forbid("c", "de-identify(safe-harbor)")],
            "no [ward:fail-closed]",
        ),
    ];
    for (name, policies, expected) in rows {
        let text = policies.concat();
        let decision = decide(&[("policies/a.cedar", &text)], "ehr");
        let policies = decision.policies.join("+");
        let found = match decision.allow {
            true => format!("yes [{policies}] {}", obligations(&decision)),
            false => format!("no [{policies}]"),
        };
        assert_eq!(found, expected, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever stands in the files: a further forbid, global or of the domain, never turns a no into a yes and never
    /// takes an obligation away.
    #[test]
    fn a_forbid_only_tightens(
        permits in proptest::collection::vec(0..PRICES.len(), 0..4),
        forbids in proptest::collection::vec(0..PRICES.len(), 0..3),
        added in 0..PRICES.len(),
        by_domain: bool,
    ) {
        let many = |kind: &str, prices: &[usize]| -> String {
            prices.iter().enumerate().map(|(n, price)| policy_text(&format!("{kind}-{n}"), kind, PRICES[*price])).collect()
        };
        let base = many("permit", &permits) + &many("forbid", &forbids);
        let more = policy_text("added", "forbid", PRICES[added]);
        let path = if by_domain { "domains/ehr/policies/a.cedar" } else { "policies/b.cedar" };
        let before = decide(&[("policies/a.cedar", &base)], "ehr");
        let after = decide(&[("policies/a.cedar", &base), (path, &more)], "ehr");
        prop_assert!(before.allow || !after.allow);
        prop_assert_eq!(before.allow, !permits.is_empty() && !forbids.iter().any(|price| PRICES[*price].is_empty()));
        if after.allow {
            prop_assert!(policy::obligation::weight(&before.obligations) <= policy::obligation::weight(&after.obligations));
            for held in &before.obligations {
                let kept = std::mem::discriminant(&held.what);
                prop_assert!(after.obligations.iter().any(|now| std::mem::discriminant(&now.what) == kept));
            }
        }
    }
}

#[test]
fn a_domain_tightens_only_itself() {
    let tight = policy_text("tight", "forbid", "");
    let price = policy_text("price", "forbid", "hide(hiv)");
    let files = [
        ("policies/open.cedar", OPEN),
        ("domains/ehr/policies/own.cedar", &tight),
        ("domains/laboratory/policies/own.cedar", &price),
    ];
    assert!(!decide(&files, "ehr").allow);
    assert_eq!(obligations(&decide(&files, "laboratory")), "hide(hiv)");
    assert_eq!(obligations(&decide(&files, "radiology")), "");
}

#[test]
fn the_version_follows_the_text_and_nothing_else() {
    let other = OPEN.replace("open to all", "open to everyone");
    let two = [("policies/a.cedar", OPEN), ("policies/b.cedar", "")];
    let version = |files: &[(&str, &str)]| Engine::load(files).unwrap().version();
    assert_eq!(version(&two), version(&[two[1], two[0]]));
    assert_ne!(version(&two), version(&[("policies/a.cedar", &other), two[1]]));
    assert_ne!(version(&two), version(&two[..1]));
}

fn check(path: &str, text: &str, expected: Expect) {
    let found = Engine::load(&[(path, text)]).unwrap_err();
    expected.assert_eq(&found.iter().map(|d| format!("{d}\n")).collect::<String>());
}

#[test]
fn errors_read_like_a_compilers() {
    check(
        "policies/a.cedar",
        "permit (principal, action, resource)\n\n;\npermit (principal",
        expect![[r#"
        policies/a.cedar:4: unexpected end of input
          help: a policy is `permit (principal, action, resource) when { ... };`
    "#]],
    );
    check(
        "policies/a.cedar",
        "permit (principal, action, resource);",
        expect![[r#"
        policies/a.cedar:1: a policy has no @id
          help: begin it with @id("..."), 1 to 64 of a-z 0-9 - :
        policies/a.cedar:1: policy `` has no @reason of one sentence
          help: add @reason("one sentence shown to users, up to 300 characters")
    "#]],
    );
    let doctor = "\n@id(\"x\")\n@reason(\"r\")\npermit (principal in Role::\"doctor\", action == Action::\"read\", resource is Record)\nwhen { resource.knid == \"Patient\" };";
    check(
        "policies/a.cedar",
        doctor,
        expect![[r#"
            policies/a.cedar:4: entity `Role::"doctor"` is of an enumerated entity type, but `"doctor"` is not declared as a valid eid
              help: valid entity eids: "physician", "nurse", "care-team-app", "lab-technician", "radiologist", "pharmacist", "registration-clerk", "data-engineer", "analyst", "researcher", "privacy-officer", "auditor", "administrator", "feed", "node", "route"
            policies/a.cedar:5: attribute `knid` on entity type `Record` not found
              help: did you mean `kind`?
        "#]],
    );
    let unguarded = "@id(\"x\") @reason(\"r\")\npermit (principal, action == Action::\"read\", resource is Record)\nwhen { context.purpose == Purpose::\"TREAT\" };";
    check(
        "policies/a.cedar",
        unguarded,
        expect![[r#"
        policies/a.cedar:3: unable to guarantee safety of access to optional attribute `purpose` in context for Action::"read"
          help: try testing for the attribute's presence with `context has purpose && ..`
    "#]],
    );
    let obligation = "@id(\"x\") @reason(\"r\") @obligation(\"mask(nmae, null)\") @obligatoin(\"x\")\npermit (principal, action == Action::\"read\", resource is Record);";
    check(
        "policies/a.cedar",
        obligation,
        expect![[r#"
        policies/a.cedar:1: policy `x` has an unknown annotation @obligatoin
          help: one of: @id, @reason, @obligation
        policies/a.cedar:1: in the @obligation of `x`: `nmae` is not a data class
          help: one of: name, identifier, national-id, address, postal-code, contact, birth-date, date, free-text, binary, demographic, clinical, pseudonymous-key, technical-key, organizational
    "#]],
    );
    check(
        "domains/ehr/policies/a.cedar",
        OPEN,
        expect![[r#"
        domains/ehr/policies/a.cedar:2: `open` permits, but a domain can only tighten
          help: write a forbid here, or move the permit to the mesh's policies/
    "#]],
    );
    check(
        "domains/Ehr/policies/a.cedar",
        OPEN,
        expect![[r#"
        domains/Ehr/policies/a.cedar:1: a domain name must be 1 to 32 of a-z 0-9 - _, beginning with a letter
          help: rename the folder
    "#]],
    );
    let twice = format!("{OPEN}{OPEN}");
    check(
        "policies/a.cedar",
        &twice,
        expect![[r#"
            policies/a.cedar:5: the @id `open` is used twice, first in policies/a.cedar:2
              help: give each policy its own name; audit records cite it
        "#]],
    );
    let template =
        "@id(\"t\") @reason(\"r\")\npermit (principal == ?principal, action == Action::\"read\", resource is Record);";
    check(
        "policies/a.cedar",
        template,
        expect![[r#"
        policies/a.cedar:1: a template cannot be used here (`policy0`)
          help: name the principal and the resource instead of `?principal` or `?resource`
    "#]],
    );
}
