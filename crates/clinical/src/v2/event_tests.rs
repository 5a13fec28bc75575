//! Events that change numbers, swap beds and move records (v2.8.2 chapter 3), each with what takes it back.

use super::tests::{Silver, at, check, codes, content_of, jane, mapped};
use super::*;

fn contents(silver: &Silver) -> Vec<String> {
    silver.resources.iter().map(|(_, resource)| content_of(resource)).collect()
}

#[test]
fn a_number_that_changed_is_still_found_and_comes_back() {
    let pid = |number: &str| format!("PID|1||{number}^^^GENHOSP^MR||DOE^JANE\r");
    let mut silver = Silver::default();
    silver.take(&at("A28", "0800", &pid("OLD")));
    silver.take(&at("A47", "0900", &format!("{}MRG|OLD^^^GENHOSP^MR\r", pid("NEW"))));
    check(
        &silver,
        &[
            ("Patient.identifier.0.value", Some("NEW")),
            ("Patient.identifier.1.value", Some("OLD")),
            ("Patient.identifier.1.use", Some("old")),
        ],
    );
    // A message that was on its way reaches the same record; and the change is taken back by its like.
    silver.take(&at("A31", "0910", &pid("OLD").replace("JANE", "JOAN")));
    silver.take(&at("A47", "1000", &format!("{}MRG|NEW^^^GENHOSP^MR\r", pid("OLD"))));
    assert_eq!(silver.all("Patient").len(), 1);
    check(
        &silver,
        &[
            ("Patient.identifier.0.value", Some("OLD")),
            ("Patient.identifier.0.use", None),
            ("Patient.identifier.1.value", Some("NEW")),
            ("Patient.identifier.1.use", Some("old")),
            ("Patient.identifier.2", None),
        ],
    );
}

#[test]
fn accounts_and_visits_change_their_numbers() {
    let account = |number: &str| format!("PID|1||42^^^GENHOSP^MR||DOE^JANE|||||||||||||{number}\r");
    let mut silver = Silver::default();
    silver.take(&at("A28", "0800", &account("ACC1")));
    silver.take(&at("A49", "0900", &format!("{}MRG|||ACC1\r", account("ACC2"))));
    assert_eq!(silver.all("Account").len(), 1);
    let visit =
        |number: &str, alternate: &str| format!("PV1|1|I|||||||||||||||||{number}{}{alternate}\r", "|".repeat(31));
    for (trigger, before, mrg, after) in [
        ("A50", visit("V1", ""), "MRG|||||V1\r", visit("V2", "")),
        ("A51", visit("", "ALT1"), "MRG||||||ALT1\r", visit("", "ALT2")),
    ] {
        let mut silver = Silver::default();
        silver.take(&at("A01", "0800", &jane(&before)));
        silver.take(&at(trigger, "0900", &jane(&format!("{mrg}{after}"))));
        assert_eq!(silver.all("Encounter").len(), 1, "{trigger}");
        silver.take(&at("A08", "0930", &jane(&before)));
        assert_eq!(silver.all("Encounter").len(), 1, "{trigger}: found by the old number");
        check(&silver, &[("Encounter.status", Some("in-progress"))]);
    }
}

#[test]
fn a_swap_changes_the_beds_and_another_swaps_them_back() {
    let one = |number: &str, visit: &str, bed: &str| {
        format!("PID|1||{number}^^^GENHOSP^MR||DOE^{number}\rPV1|1|I|W1^R1^{bed}{}{visit}\r", "|".repeat(16))
    };
    let mut silver = Silver::default();
    silver.take(&at("A01", "0800", &one("1", "V1", "A")));
    silver.take(&at("A01", "0801", &one("2", "V2", "B")));
    let beds = |silver: &Silver| {
        [0, 1].map(|n| silver.get(&format!("Encounter[{n}].location.0.location.display")).unwrap_or_default())
    };
    let before = beds(&silver);
    silver.take(&at("A17", "0900", &format!("{}{}", one("1", "V1", "B"), one("2", "V2", "A"))));
    let [first, second] = before.clone();
    assert_eq!(beds(&silver), [second, first]);
    silver.take(&at("A17", "1000", &format!("{}{}", one("1", "V1", "A"), one("2", "V2", "B"))));
    assert_eq!(beds(&silver), before);
    check(&silver, &[("Encounter[0].status", Some("in-progress")), ("Encounter[1].location.1", None)]);
}

#[test]
fn who_was_taken_out_comes_back_but_not_who_was_merged() {
    let mut silver = Silver::default();
    silver.take(&at("A28", "0800", &jane("")));
    silver.take(&at("A29", "0900", &jane("")));
    silver.take(&at("A28", "0830", &jane("")));
    check(&silver, &[("Patient.active", Some("false"))]);
    silver.take(&at("A28", "1000", &jane("")));
    check(&silver, &[("Patient.active", None)]);
    silver.take(&at("A40", "1100", "PID|1||NEW^^^GENHOSP^MR||DOE^JANE\rMRG|42^^^GENHOSP^MR\r"));
    silver.take(&at("A28", "1200", &jane("")));
    check(&silver, &[("Patient[0].active", Some("false"))]);
}

#[test]
fn a_merge_of_patient_and_account_ends_both() {
    let account = |patient: &str, number: &str| format!("PID|1||{patient}^^^GENHOSP^MR||DOE^J|||||||||||||{number}\r");
    let mut silver = Silver::default();
    silver.take(&at("A28", "0800", &account("1", "ACC1")));
    silver.take(&at("A28", "0801", &account("2", "ACC2")));
    silver.take(&at("A36", "0900", &format!("{}MRG|1^^^GENHOSP^MR||ACC1\r", account("2", "ACC2"))));
    let before = contents(&silver);
    check(&silver, &[("Patient[0].active", Some("false")), ("Account[0].status", Some("inactive"))]);
    silver.take(&at("A36", "0900", &format!("{}MRG|1^^^GENHOSP^MR||ACC1\r", account("2", "ACC2"))));
    assert_eq!(contents(&silver), before, "said twice is said once");
}

#[test]
fn a_move_tells_what_it_moves_from_whom() {
    let pid = |numbers: &str| format!("PID|1||{numbers}||DOE^JANE|||||||||||||ACC1\r");
    let number = |system: &str, value: &str| {
        let system = match system {
            "GENHOSP" => "urn:oid:2.16.840.1.113883.19.5.1".to_owned(),
            "FAC" => "urn:wardmesh:facility:FAC".to_owned(),
            other => format!("urn:wardmesh:assigner:{other}"),
        };
        (system, value.to_owned())
    };
    let both =
        mapped(&at("A43", "0900", &format!("{}MRG|E1^^^EMPI^PI~M^^^GENHOSP^MR\r", pid("E2^^^EMPI^PI~M^^^GENHOSP^MR"))));
    assert_eq!(codes(&both), []);
    let moved = &both.moves[0];
    assert_eq!((moved.what, &moved.place[..], moved.to), (MoveOf::Numbers, "MRG", both.units[0].n));
    assert_eq!((&moved.numbers, &moved.from), (&vec![number("GENHOSP", "M")], &vec![number("EMPI", "E1")]));
    assert_eq!(
        both.units[0].key,
        Key::Identifiers(vec![number("EMPI", "E2")]),
        "the number on its way finds whose it was"
    );
    assert!(both.fates.iter().any(|f| f.path == "MRG-1" && f.fate == Fate::Mapped("Patient.identifier".into())));

    let given_up = mapped(&at("A43", "0900", &format!("{}MRG|M1^^^GENHOSP^MR\r", pid("M2^^^GENHOSP^MR"))));
    assert_eq!(given_up.moves[0].numbers, [number("GENHOSP", "M1")]);
    let account = mapped(&at("A44", "0900", &format!("{}MRG|M1^^^GENHOSP^MR||ACC1\r", pid("M2^^^GENHOSP^MR"))));
    assert_eq!(account.moves[0].numbers, [number("FAC", "ACC1"), number("FAC", "ACC1")]);
    for (trigger, rest, code) in [
        ("A43", "MRG|M^^^GENHOSP^MR\r", "move-without-source"),
        ("A43", "MRG|\r", "move-of-nothing"),
        ("A45", "MRG|M1^^^GENHOSP^MR\r", "move-of-nothing"),
    ] {
        let refused = mapped(&at(trigger, "0900", &format!("{}{rest}", pid("M^^^GENHOSP^MR"))));
        assert_eq!((refused.moves.len(), refused.problems[0].code), (0, code));
    }
    let nobody = mapped(&at("A43", "0900", "PID|1||\"\"\rMRG|M^^^GENHOSP^MR\r"));
    assert!(codes(&nobody).contains(&("MRG", "move-without-target")), "{:?}", codes(&nobody));
}

#[test]
fn a_removal_that_comes_before_what_it_removes_keeps_it_out() {
    let mut silver = Silver::default();
    silver.take(&at("A31", "0900", "PID|1||42^^^GENHOSP^MR||ROE^JANE\r"));
    silver.take(&at("A31", "1000", "PID|1||42^^^GENHOSP^MR||||\"\"\r"));
    let marked = contents(&silver);
    silver.take(&at("A28", "0800", "PID|1||42^^^GENHOSP^MR||DOE^JANE||19700301\r"));
    check(&silver, &[("Patient.birthDate", None), ("Patient.name.0.family", Some("ROE"))]);
    // Said again, it makes no version.
    let before: Vec<String> = silver.resources.iter().map(|(_, r)| fhir::json::to_string(r)).collect();
    silver.take(&at("A31", "1100", "PID|1||42^^^GENHOSP^MR||||\"\"\r"));
    assert_eq!(before, silver.resources.iter().map(|(_, r)| fhir::json::to_string(r)).collect::<Vec<_>>());
    assert_eq!(marked.len(), 1);
    silver.take(&at("A31", "1200", "PID|1||42^^^GENHOSP^MR||||19700302\r"));
    check(&silver, &[("Patient.birthDate", Some("1970-03-02"))]);
}
