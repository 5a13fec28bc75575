//! Records that become one, and parts of a record that go to another: merges (A40) with their inverse, moves (A43 to A45),
//! seen from the FHIR door.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::Mesh;

/// A message of the registration desk, with its event at a minute of the day.
pub fn adt(trigger: &str, minute: u32, rest: &str) -> Vec<u8> {
    let (hour, minute) = (minute / 60, minute % 60);
    let segments = rest.trim_end_matches('\r');
    format!(
        "MSH|^~\\&|REGSYS|GENHOSP|WARD|MESH|20261101120000-0500||ADT^{trigger}|{trigger}-{hour:02}{minute:02}|P|2.5.1\r\
         EVN|{trigger}|20261101{hour:02}{minute:02}00\r{segments}\r"
    )
    .into_bytes()
}

/// PID with numbers, and an account.
pub fn pid(numbers: &str, family: &str, account: &str) -> String {
    format!("PID|1||{numbers}||{family}^Test||19700203|F||||||||||{account}\r")
}

pub fn pv1(visit: &str) -> String {
    format!(
        "PV1|1|I|2N^101^A^GENHOSP||||1001^Lee^Jordan||||||||||||{visit}^^^GENHOSP^VN|||||||||||||||||||||||||20261101080000\r"
    )
}

const ALLERGY: &str = "AL1|1|DA|PEN^Penicillin^L|SV|Rash\r";
const DIAGNOSIS: &str = "DG1|1||J18.9^Pneumonia^I10||20261101|A\r";

pub async fn send(mesh: &Mesh, messages: &[Vec<u8>]) {
    let answers = mesh.send_all("adt-main", messages.iter().map(Vec::as_slice)).await;
    assert!(answers.iter().all(|code| code == "CA" || code == "AA"), "{answers:?}");
    mesh.settle().await;
}

pub async fn search(mesh: &Mesh, query: &str) -> Vec<Value> {
    let answer = mesh.get("dr-lee", &format!("/fhir/ehr/{query}")).await;
    assert!(answer.status.is_success(), "{query}: {}", answer.text());
    answer.json()["entry"].as_array().cloned().unwrap_or_default()
}

/// Ids of the matches of a search.
pub async fn ids(mesh: &Mesh, query: &str) -> BTreeSet<String> {
    let matches = search(mesh, query).await.into_iter().filter(|entry| entry["search"]["mode"] == "match");
    matches.map(|entry| entry["resource"]["id"].as_str().expect("an id").to_owned()).collect()
}

async fn one(mesh: &Mesh, query: &str) -> Value {
    let found = search(mesh, query).await;
    let matches: Vec<&Value> = found.iter().filter(|entry| entry["search"]["mode"] == "match").collect();
    assert_eq!(matches.len(), 1, "{query}: {found:?}");
    matches[0]["resource"].clone()
}

pub async fn patient(mesh: &Mesh, number: &str) -> Value {
    one(mesh, &format!("Patient?identifier={number}")).await
}

pub fn id(resource: &Value) -> String {
    resource["id"].as_str().expect("an id").to_owned()
}

pub async fn encounter(mesh: &Mesh, visit: &str) -> Value {
    one(mesh, &format!("Encounter?identifier={visit}")).await
}

/// How often the audit log says that someone searched this type and was shown this patient.
async fn seen(mesh: &Mesh, patient: &str, what: &str) -> usize {
    let token = mesh.token("privacy-osei").await;
    let path = format!("/admin/audit/who-saw/ehr/{patient}");
    let answer = mesh.client.get(&path, Some(&token)).await.expect("an answer");
    let accesses = answer["accesses"].as_array().cloned().unwrap_or_default();
    accesses.iter().filter(|access| access["what"].as_str() == Some(what)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn merges_are_one_person_to_whoever_reads_until_they_are_undone() {
    let mesh = Mesh::start().await;
    let (old, new) = (pid("M1^^^GENHOSP^MR", "DOE", ""), pid("M2^^^GENHOSP^MR", "ROE", ""));
    send(
        &mesh,
        &[
            adt("A01", 480, &format!("{old}{}{ALLERGY}", pv1("V1"))),
            adt("A01", 481, &format!("{new}{}{ALLERGY}", pv1("V2"))),
        ],
    )
    .await;
    let (loser, survivor) = (id(&patient(&mesh, "M1").await), id(&patient(&mesh, "M2").await));
    let visits = |of: &str| format!("Encounter?patient={of}");
    let own = [ids(&mesh, &visits(&loser)).await, ids(&mesh, &visits(&survivor)).await];
    assert_eq!((own[0].len(), own[1].len()), (1, 1));
    let both_seen = async |mesh: &Mesh| {
        [seen(mesh, &loser, "search Encounter").await, seen(mesh, &survivor, "search Encounter").await]
    };
    assert_eq!(both_seen(&mesh).await, [1, 1]);

    send(&mesh, &[adt("A40", 540, &format!("{new}MRG|M1^^^GENHOSP^MR\r"))]).await;
    let read = mesh.get("dr-lee", &format!("/fhir/ehr/Patient/{loser}")).await.json();
    assert_eq!(read["active"], false, "{read}");
    assert_eq!(read["link"][0]["type"], "replaced-by");
    assert_eq!(read["link"][0]["other"]["reference"], format!("Patient/{survivor}"));
    let both: BTreeSet<String> = own.iter().flatten().cloned().collect();
    assert_eq!(both_seen(&mesh).await, [2, 2], "who saw one of them saw the person");
    for of in [&loser, &survivor] {
        assert_eq!(ids(&mesh, &visits(of)).await, both, "whichever id is asked for");
        assert_eq!(ids(&mesh, &format!("AllergyIntolerance?patient=Patient/{of}")).await.len(), 2);
        assert_eq!(ids(&mesh, &format!("Encounter?subject:Patient={of}")).await, both);
    }
    assert_eq!(both_seen(&mesh).await, [6, 6]);

    // Through a chain too, whichever number is named.
    for chain in ["patient.identifier=M1", "patient.identifier=M2", "subject:Patient.family=ROE"] {
        assert_eq!(ids(&mesh, &format!("Encounter?{chain}")).await, both, "{chain}");
    }
    assert_eq!(ids(&mesh, "Encounter?patient.identifier=M3").await.len(), 0);
    assert_eq!(both_seen(&mesh).await, [9, 9]);

    // Who asks by the old number is led to the person in one answer.
    let found = search(&mesh, "Patient?identifier=M1").await;
    let modes: Vec<(&str, &str)> = found
        .iter()
        .map(|e| (e["search"]["mode"].as_str().unwrap_or(""), e["resource"]["id"].as_str().unwrap_or("")))
        .collect();
    assert_eq!(modes, [("match", loser.as_str()), ("include", survivor.as_str())]);

    // What still comes under the old number is found with the person too, and nothing makes the record active again.
    send(&mesh, &[adt("A01", 600, &format!("{old}{}", pv1("V3"))), adt("A28", 601, &old)]).await;
    assert_eq!(ids(&mesh, &visits(&survivor)).await.len(), 3);
    assert_eq!(patient(&mesh, "M1").await["active"], false);

    // Merges survive a start from the stored state.
    let mesh = Mesh::start_in(mesh.stop().await).await;
    assert_eq!(ids(&mesh, &visits(&loser)).await.len(), 3);

    let all_seen = both_seen(&mesh).await[0];
    let apart = format!("{new}{}", old.replace("PID|1", "PID|2"));
    send(&mesh, &[adt("A37", 660, &apart)]).await;
    assert_eq!(both_seen(&mesh).await, [all_seen - 1; 2], "merged, both were asked about, whichever was named");
    let restored = patient(&mesh, "M1").await;
    assert_eq!((&restored["active"], &restored["link"]), (&Value::Null, &Value::Null), "{restored}");
    assert_eq!(ids(&mesh, &visits(&survivor)).await, own[1]);
    assert_eq!(ids(&mesh, &visits(&loser)).await.len(), 2);
    assert_eq!(search(&mesh, "Patient?identifier=M1").await.len(), 1);
    mesh.stop().await;
}

/// What hides one of them hides the person: a nurse sees neither, a physician of the care team both.
#[tokio::test(flavor = "multi_thread")]
async fn merges_never_show_what_the_permit_does_not_cover() {
    let mesh = Mesh::start().await;
    let (old, new) = (pid("M1^^^GENHOSP^MR", "DOE", ""), pid("M2^^^GENHOSP^MR", "ROE", ""));
    send(&mesh, &[adt("A01", 480, &format!("{old}{}", pv1("V1"))), adt("A01", 481, &format!("{new}{}", pv1("V2")))])
        .await;
    let survivor = id(&patient(&mesh, "M2").await);
    let mut restricted = patient(&mesh, "M1").await;
    let loser = id(&restricted);
    restricted["meta"]["security"] =
        serde_json::json!([{"system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "R"}]);
    let (token, body) = (mesh.token("bedside-gateway").await, bytes::Bytes::from(restricted.to_string()));
    let headers = [("content-type", "application/fhir+json")];
    let path = format!("/fhir/ehr/Patient/{loser}");
    let put =
        mesh.https().await.call(hyper::Method::PUT, &path, Some(&token), &headers, body).await.expect("an answer");
    assert!(put.status.is_success(), "{}", put.text());
    let seen = async |who: &str, of: &str| {
        let answer = mesh.get(who, &format!("/fhir/ehr/Encounter?patient={of}")).await;
        assert!(answer.status.is_success(), "{}", answer.text());
        answer.json()["entry"].as_array().map_or(0, Vec::len)
    };
    let both = async |who: &str| [seen(who, &loser).await, seen(who, &survivor).await];
    assert_eq!([both("nurse-kim").await, both("dr-lee").await], [[0, 1], [1, 1]], "apart");
    send(&mesh, &[adt("A40", 540, &format!("{new}MRG|M1^^^GENHOSP^MR\r"))]).await;
    assert_eq!([both("nurse-kim").await, both("dr-lee").await], [[0, 0], [2, 2]], "merged");
    let found = mesh.get("nurse-kim", "/fhir/ehr/Patient?identifier=M1").await;
    assert!(found.json()["entry"].is_null(), "{}", found.text());
    let apart = format!("{new}{}", old.replace("PID|1", "PID|2"));
    send(&mesh, &[adt("A37", 660, &apart)]).await;
    assert_eq!([both("nurse-kim").await, both("dr-lee").await], [[0, 1], [1, 1]], "apart again");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn merges_moves_take_what_hangs_on_the_number_and_back() {
    let mesh = Mesh::start().await;
    let (one_then, other) = ("E1^^^EMPI^PI~MR2^^^GENHOSP^MR", "E2^^^EMPI^PI");
    send(
        &mesh,
        &[
            adt("A28", 470, &pid(other, "ROE", "")),
            adt("A01", 480, &format!("{}{}{ALLERGY}{DIAGNOSIS}", pid(one_then, "DOE", ""), pv1("V1"))),
        ],
    )
    .await;
    let (wrong, right) = (id(&patient(&mesh, "E1").await), id(&patient(&mesh, "E2").await));
    assert_eq!(encounter(&mesh, "V1").await["subject"]["reference"], format!("Patient/{wrong}"));

    let (there, back) = ("E2^^^EMPI^PI~MR2^^^GENHOSP^MR", "E1^^^EMPI^PI~MR2^^^GENHOSP^MR");
    for (minute, to, from, target, family) in [(540, there, back, &right, "ROE"), (600, back, there, &wrong, "DOE")] {
        send(&mesh, &[adt("A43", minute, &format!("{}MRG|{from}\r", pid(to, family, "")))]).await;
        assert_eq!(mesh.set_aside("ehr").await, Vec::<Value>::new());
        assert_eq!(&id(&patient(&mesh, "MR2").await), target);
        assert_eq!(encounter(&mesh, "V1").await["subject"]["reference"], format!("Patient/{target}"));
        for query in ["AllergyIntolerance", "Condition", "Encounter"] {
            assert_eq!(ids(&mesh, &format!("{query}?patient={target}")).await.len(), 1, "{query} at {minute}");
            let left = if *target == right { &wrong } else { &right };
            assert_eq!(ids(&mesh, &format!("{query}?patient={left}")).await.len(), 0, "{query} at {minute}");
        }
    }
    // Said again by the same list, the allergy is the same one.
    send(&mesh, &[adt("A08", 610, &format!("{}{}{ALLERGY}", pid(one_then, "DOE", ""), pv1("V1")))]).await;
    assert_eq!(ids(&mesh, &format!("AllergyIntolerance?patient={wrong}")).await.len(), 1);

    // A record that keeps another number of the same assigner cannot be split: the number goes, a person does the rest.
    send(
        &mesh,
        &[
            adt("A01", 620, &format!("{}{}", pid("MR7^^^GENHOSP^MR~MR8^^^GENHOSP^MR", "POE", ""), pv1("V7"))),
            adt(
                "A43",
                630,
                &format!("{}MRG|MR7^^^GENHOSP^MR~MR8^^^GENHOSP^MR\r", pid("E2^^^EMPI^PI~MR8^^^GENHOSP^MR", "ROE", "")),
            ),
        ],
    )
    .await;
    let aside = mesh.set_aside("ehr").await;
    assert_eq!((aside.len(), &aside[0]["code"]), (1, &Value::from("move-partial")), "{aside:?}");
    assert_eq!(id(&patient(&mesh, "MR8").await), right);
    assert_eq!(
        encounter(&mesh, "V7").await["subject"]["reference"],
        format!("Patient/{}", id(&patient(&mesh, "MR7").await))
    );
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn merges_moves_of_accounts_and_visits_stay_within_the_two_patients() {
    let mesh = Mesh::start().await;
    let (one_number, other) = ("M1^^^GENHOSP^MR", "M2^^^GENHOSP^MR");
    let stay =
        |account: &str, visit: &str| format!("{}{}{ALLERGY}{DIAGNOSIS}", pid(one_number, "DOE", account), pv1(visit));
    send(
        &mesh,
        &[
            adt("A28", 470, &pid(other, "ROE", "")),
            adt("A28", 471, &pid("M3^^^GENHOSP^MR", "POE", "")),
            adt("A01", 480, &stay("ACC1^^^GENHOSP^AN", "V1")),
            adt("A01", 490, &stay("ACC2^^^GENHOSP^AN", "V2")),
        ],
    )
    .await;
    let (wrong, right) = (id(&patient(&mesh, "M1").await), id(&patient(&mesh, "M2").await));
    let of = |patient: &str, rtype: &str| format!("{rtype}?patient={patient}");

    // The account goes with its visit and the diagnosis of that; the other account and the allergy stay.
    let account = format!("{}MRG|{one_number}||ACC1^^^GENHOSP^AN\r", pid(other, "ROE", "ACC1^^^GENHOSP^AN"));
    send(&mesh, &[adt("A44", 540, &account)]).await;
    assert_eq!(mesh.set_aside("ehr").await, Vec::<Value>::new());
    assert_eq!(encounter(&mesh, "V1").await["subject"]["reference"], format!("Patient/{right}"));
    assert_eq!(encounter(&mesh, "V2").await["subject"]["reference"], format!("Patient/{wrong}"));
    for (rtype, here, there) in
        [("Condition", 1, 1), ("Encounter", 1, 1), ("Account", 1, 1), ("AllergyIntolerance", 1, 0)]
    {
        assert_eq!(ids(&mesh, &of(&wrong, rtype)).await.len(), here, "{rtype}");
        assert_eq!(ids(&mesh, &of(&right, rtype)).await.len(), there, "{rtype}");
    }
    // Its story goes on under the other patient; who still says the first is told.
    send(&mesh, &[adt("A03", 560, &format!("{}{}", pid(other, "ROE", "ACC1^^^GENHOSP^AN"), pv1("V1")))]).await;
    assert_eq!(encounter(&mesh, "V1").await["status"], "finished");
    send(&mesh, &[adt("A08", 570, &stay("ACC1^^^GENHOSP^AN", "V1"))]).await;
    let codes: BTreeSet<String> =
        mesh.set_aside("ehr").await.iter().filter_map(|unit| unit["code"].as_str().map(str::to_owned)).collect();
    assert_eq!(codes, BTreeSet::from(["patient".to_owned()]));
    let told = mesh.set_aside("ehr").await.len();

    // A visit to another account of another patient.
    let visit = format!(
        "{}MRG|{one_number}||ACC2^^^GENHOSP^AN||V2^^^GENHOSP^VN\r{}",
        pid(other, "ROE", "ACC1^^^GENHOSP^AN"),
        pv1("V2")
    );
    send(&mesh, &[adt("A45", 600, &visit)]).await;
    let moved = encounter(&mesh, "V2").await;
    assert_eq!(moved["subject"]["reference"], format!("Patient/{right}"), "{moved}");
    assert!(
        moved["identifier"].to_string().contains("ACC1") && !moved["identifier"].to_string().contains("ACC2"),
        "{moved}"
    );
    // And to a third patient, by one who is neither: nothing moves.
    let wrongly =
        format!("{}MRG|{one_number}||ACC1^^^GENHOSP^AN\r", pid("M3^^^GENHOSP^MR", "POE", "ACC1^^^GENHOSP^AN"));
    send(&mesh, &[adt("A44", 660, &wrongly)]).await;
    let aside = mesh.set_aside("ehr").await;
    assert!(aside.len() > told && aside.iter().any(|unit| unit["code"] == "move-of-another"), "{aside:?}");
    assert_eq!(encounter(&mesh, "V1").await["subject"]["reference"], format!("Patient/{right}"));
    mesh.stop().await;
}
