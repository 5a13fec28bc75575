//! The accounting of disclosures against a simple oracle, and what its paper shows.

use std::collections::BTreeMap;

use base::{DomainName, Layer, PrincipalId, Purpose, Timestamp};
use expect_test::expect;
use proptest::prelude::*;

use crate::audit::disclosure::{Accountant, Accounting, Exclusion, Recipient, Recipients, Study, Suspended, Terms};
use crate::audit::index::rows::Found;
use crate::audit::keys::RecordId;
use crate::audit::print::{self, Paper};
use crate::audit::record::{AuditRecord, Outcome};

const DAY: i64 = 86_400_000;

/// Three agreements: one that says nothing, one for limited data sets, one with a study.
struct Files;

impl Recipients for Files {
    fn recipient(&self, principal: &PrincipalId, agreement: Option<&str>) -> Recipient {
        let address = agreement.map(|_| "1 College Way, Springfield".to_owned());
        let name = if principal.as_str() == "rio" { "Rio Tanaka, State <University>" } else { "County Health" };
        Recipient { name: name.to_owned(), address, phone: None }
    }

    fn terms(&self, agreement: &str) -> Terms {
        match agreement {
            "limited" => Terms { excluded: Some(Exclusion::LimitedDataSet), study: None },
            "study" => Terms { excluded: None, study: Some(study()) },
            _ => Terms::default(),
        }
    }
}

fn study() -> Study {
    Study {
        name: "Outcomes 7".into(),
        description: "How stays end; all stays of a year".into(),
        data: "visits".into(),
        sponsor: "Fund, 2 Bay St, 555-0100".into(),
    }
}

fn found(n: u64, day: i64, who: &str, purpose: Option<Purpose>, agreement: Option<&str>, patients: u64) -> Found {
    let (who, domain) = (PrincipalId::parse(who).unwrap(), DomainName::parse("ehr").unwrap());
    let mut record = AuditRecord::new(Timestamp(day * DAY), who, domain, Layer::Gold, Outcome::Served);
    (record.decision, record.purpose, record.agreement) = (n, purpose, agreement.map(str::to_owned));
    record.action = "query".into();
    record.kinds = vec!["patients".into()];
    record.from = Some("10.1.2.3".parse().unwrap());
    record.obligations = vec!["mask(name, null)".into(), "mask(birth-date, year-only)".into(), "rows-max(5)".into()];
    let id = RecordId { generation: [0; 16], number: n as u32 };
    Found { id, log: "m/audit".into(), index: n, patients, record }
}

/// What went to an agency, or to a person there, is left out while the right is suspended, and is there afterwards; others
/// of a like name are not left out. The paper is the same but for it.
#[test]
fn a_suspended_disclosure_is_left_out_and_appears_after() {
    let named = |n, day, recipient: &str| {
        let mut found = found(n, day, "rio", Some(Purpose::PublicHealth), None, 1);
        found.record.recipient = Some(recipient.to_owned());
        found
    };
    let all = [
        named(1, 10, "Health Inspectorate"),
        named(2, 11, "Jane Roe, health inspectorate "),
        named(3, 12, "Friends of the Health Inspectorate"),
        named(4, 13, "County Health"),
    ];
    let to = |accounting: &Accounting| -> Vec<String> {
        accounting.disclosures.iter().map(|line| line.recipient.name.clone()).collect()
    };
    let suspended = account_without(&all, &["Health Inspectorate".to_owned()]);
    assert_eq!(to(&suspended), ["Friends of the Health Inspectorate", "County Health"]);
    assert_eq!((suspended.suspended, suspended.missing), (2, 0));
    let paper = print::accounting(&suspended, Paper::Text);
    assert!(!paper.contains("Jane Roe") && !paper.contains("suspended"), "{paper}");
    assert_eq!((to(&account(&all)).len(), account(&all).suspended), (4, 0));
}

fn account(all: &[Found]) -> Accounting {
    account_without(all, &[])
}

fn account_without(all: &[Found], suspended: &Suspended) -> Accounting {
    let mut accountant = Accountant::new(&Files, suspended);
    all.iter().for_each(|found| accountant.add(found));
    accountant.finish(Timestamp(0), Timestamp(400 * DAY), 0)
}

#[test]
fn the_paper_has_what_the_law_asks_for_and_no_more() {
    let all = [
        found(1, 10, "rio", Some(Purpose::Research), None, 1),
        found(2, 12, "rio", Some(Purpose::Research), None, 3),
        found(3, 20, "rio", Some(Purpose::Treatment), None, 1),
        found(4, 30, "county", Some(Purpose::PublicHealth), Some("dua"), 1),
        found(5, 40, "rio", Some(Purpose::Research), Some("study"), 900),
        found(6, 41, "rio", Some(Purpose::Research), Some("limited"), 900),
    ];
    let accounting = account(&all);
    expect![[r#"
        Accounting of Disclosures
        =========================

        Name: ______________________   Date of birth: ____________   Record number: ____________

        Disclosures of your health information from 1970-01-01 to 1971-02-05, as 45 CFR 164.528 asks for.

        Disclosures
        -----------

          Date         1970-01-11 (first), 2 times until 1970-01-13 (last)
          To           Rio Tanaka, State <University>
          What         a row in the data set `patients` of ehr, with removed or coarsened: name, birth-date
          Why          research (45 CFR 164.512(i))

          Date         1970-01-31
          To           County Health, 1 College Way, Springfield
          What         a row in the data set `patients` of ehr, with removed or coarsened: name, birth-date
          Why          public health (45 CFR 164.512(b))

        Research on fifty or more people
        --------------------------------

        Your health information may or may not have been disclosed for the following research. If it is likely that it was, the privacy office helps you on request to get in touch with the sponsor and the researcher.

          Protocol     Outcomes 7
          Purpose      How stays end; all stays of a year
          What         visits
          When         1970-02-10 to 1970-02-10 (last)
          Sponsor      Fund, 2 Bay St, 555-0100
          Researcher   Rio Tanaka, State <University>, 1 College Way, Springfield

        Not listed
        ----------

        The law does not ask for disclosures for your treatment, for payment, or for running the hospital; to you or your representative; incident to another permitted disclosure; that you authorized in writing; for the hospital's directory, or to persons involved in your care; for national security or intelligence; to those who had you in custody; as part of a limited data set.

        A health oversight agency or a law enforcement official can ask that what was disclosed to it is left out for a time (45 CFR 164.528(a)(2)).
    "#]].assert_eq(&print::accounting(&accounting, Paper::Text));
    let html = print::accounting(&accounting, Paper::Html);
    assert!(html.contains("State &lt;University&gt;") && !html.contains("<University>"), "{html}");
    let saw = print::who_saw(&all, 0, false, &Files, Paper::Text);
    for paper in [&html, &saw, &print::accounting(&accounting, Paper::Text)] {
        for inside in ["10.1.2.3", "dua", "limited\"", "rio ", "query", "http://", "https://"] {
            assert!(!paper.contains(inside), "`{inside}` in {paper}");
        }
    }
    assert!(saw.contains("treatment") && saw.contains("County Health") && !saw.contains("NOT COMPLETE"), "{saw}");
    assert!(print::accounting(&Accounting { missing: 1, ..accounting }, Paper::Text).contains("NOT COMPLETE"));
}

const PURPOSES: [Option<Purpose>; 7] = [
    None,
    Some(Purpose::Treatment),
    Some(Purpose::Operations),
    Some(Purpose::PatientRequest),
    Some(Purpose::Compliance),
    Some(Purpose::Research),
    Some(Purpose::PublicHealth),
];

fn any_found() -> impl Strategy<Value = Found> {
    let parts = (0i64..100, 0usize..2, 0usize..7, 0usize..4, 0usize..5, 0u64..100, any::<bool>());
    parts.prop_map(|(day, who, purpose, agreement, outcome, patients, is_write)| {
        let agreement = [None, Some("dua"), Some("limited"), Some("study")][agreement];
        let mut found = found(0, day, ["rio", "county"][who], PURPOSES[purpose], agreement, patients);
        let outcomes = [Outcome::Served, Outcome::Served, Outcome::Refused, Outcome::NotFound, Outcome::Granted];
        found.record.outcome = outcomes[outcome];
        if is_write {
            found.record.action = "write".into();
        }
        found
    })
}

proptest! {
    #[test]
    fn the_accounting_lists_what_a_simple_look_lists(mut all in proptest::collection::vec(any_found(), 0..80)) {
        all.sort_by_key(|found| found.record.at);
        let accounting = account(&all);
        // (who, purpose, under an agreement) → first day, last day, how often.
        let mut lines: BTreeMap<(String, &str, bool), (i64, i64, u64)> = BTreeMap::new();
        let (mut studies, mut left_out) = (0u64, 0u64);
        for found in &all {
            let record = &found.record;
            let day = record.at.ms() / DAY;
            if record.outcome != Outcome::Served || found.patients == 0 || record.action == "write" {
                continue;
            }
            let purpose = match record.purpose {
                Some(Purpose::Research) => "research (45 CFR 164.512(i))",
                Some(Purpose::PublicHealth) => "public health (45 CFR 164.512(b))",
                None => "not stated",
                Some(_) => {
                    left_out += 1;
                    continue;
                }
            };
            match record.agreement.as_deref() {
                Some("limited") => left_out += 1,
                Some("study") if record.purpose == Some(Purpose::Research) && found.patients >= 50 => studies += 1,
                agreement => {
                    let who = Files.recipient(&record.principal, None).name;
                    let line = lines.entry((who, purpose, agreement.is_some())).or_insert((day, day, 0));
                    *line = (line.0.min(day), line.1.max(day), line.2 + 1);
                }
            }
        }
        let text = |day: i64| Timestamp(day * DAY).to_string()[..10].to_owned();
        let mut listed = BTreeMap::new();
        for line in &accounting.disclosures {
            let key = (line.recipient.name.clone(), line.purpose, line.recipient.address.is_some());
            listed.insert(key, (line.first.clone(), line.last.clone(), line.times));
        }
        let lines: BTreeMap<_, _> =
            lines.into_iter().map(|(key, (first, last, times))| (key, (text(first), text(last), times))).collect();
        prop_assert_eq!(listed, lines);
        prop_assert_eq!(accounting.excluded.values().sum::<u64>(), left_out);
        prop_assert_eq!(accounting.research.is_empty(), studies == 0);
    }
}
