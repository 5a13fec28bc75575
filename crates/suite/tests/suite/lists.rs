//! Lists of segments that a source sends whole, with what they no longer name; and those with an action code.

use crate::harness::{Mesh, edit, mesh_folder};
use crate::merges::{adt, encounter, id, ids, patient, pid, pv1, search, send};

fn mrn() -> String {
    pid("M1^^^GENHOSP^MR", "DOE", "")
}

fn allergies(codes: &[&str]) -> String {
    codes.iter().enumerate().map(|(n, code)| format!("AL1|{}|DA|{code}^{code}^L\r", n + 1)).collect()
}

/// Code and state of each resource of a type, sorted: `PEN active`.
async fn states(mesh: &Mesh, rtype: &str, code: &[&str], state: &[&str]) -> Vec<String> {
    let found = search(mesh, &format!("{rtype}?patient={}", id(&patient(mesh, "M1").await))).await;
    let at = |value: &serde_json::Value, path: &[&str]| {
        let mut at = value.clone();
        for step in path {
            at = match step.parse::<usize>() {
                Ok(n) => at[n].clone(),
                Err(_) => at[*step].clone(),
            };
        }
        at.as_str().map_or_else(|| at.to_string(), str::to_owned)
    };
    let mut states: Vec<String> =
        found.iter().map(|e| format!("{} {}", at(&e["resource"], code), at(&e["resource"], state))).collect();
    states.sort();
    states
}

async fn allergy_states(mesh: &Mesh) -> Vec<String> {
    states(mesh, "AllergyIntolerance", &["code", "coding", "0", "code"], &["clinicalStatus", "coding", "0", "code"])
        .await
}

async fn snapshot_mesh(lists: &str) -> Mesh {
    let folder = mesh_folder();
    if !lists.is_empty() {
        edit(
            folder.path(),
            "domains/ehr/domain.toml",
            "name = \"adt-main\"",
            &format!("name = \"adt-main\"\nlists = {lists}"),
        );
    }
    Mesh::start_in(folder).await
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_end_what_they_no_longer_name_where_the_source_sends_them_whole() {
    let mesh = snapshot_mesh("\"snapshot\"").await;
    let say = |minute: u32, list: &str| adt("A08", minute, &format!("{}{}{list}", mrn(), pv1("V1")));
    send(&mesh, &[say(480, &allergies(&["PEN", "NUT"]))]).await;
    assert_eq!(allergy_states(&mesh).await, ["NUT active", "PEN active"]);
    // No such segment says nothing.
    send(&mesh, &[say(490, "")]).await;
    assert_eq!(allergy_states(&mesh).await, ["NUT active", "PEN active"]);
    send(&mesh, &[say(500, &allergies(&["PEN"]))]).await;
    assert_eq!(allergy_states(&mesh).await, ["NUT inactive", "PEN active"]);
    // Named again, it is there again; and the empty list is a list.
    send(&mesh, &[say(510, &allergies(&["NUT"]))]).await;
    assert_eq!(allergy_states(&mesh).await, ["NUT active", "PEN inactive"]);
    send(&mesh, &[say(520, "AL1|1||\"\"\r")]).await;
    assert_eq!(allergy_states(&mesh).await, ["NUT inactive", "PEN inactive"]);
    send(&mesh, &[say(530, &allergies(&["PEN", "LATEX"])), say(540, &allergies(&["PEN", "LATEX"]))]).await;
    // Late lists end nothing that a newer one names, and bring nothing back: not even one that only says again what stands
    // moves the clock for nothing.
    send(&mesh, &[say(535, &allergies(&["PEN", "EGG"]))]).await;
    assert_eq!(allergy_states(&mesh).await, ["EGG inactive", "LATEX active", "NUT inactive", "PEN active"]);
    // A list with an entry that cannot be read ends nothing.
    send(&mesh, &[say(550, &format!("{}AL1|2|DA|PEN^PEN^L||||20261399\r", allergies(&["LATEX"])))]).await;
    let now = allergy_states(&mesh).await;
    assert!(now.contains(&"PEN active".to_owned()), "{now:?}");

    let people = |names: &[&str]| -> String {
        names.iter().enumerate().map(|(n, name)| format!("NK1|{}|{name}^Kin|SPO^Spouse^HL70063\r", n + 1)).collect()
    };
    let cover = |plans: &[&str]| -> String {
        plans
            .iter()
            .enumerate()
            .map(|(n, plan)| format!("IN1|{}|{plan}^{plan}|C1^^^PAYER^NIIP|Payer\r", n + 1))
            .collect()
    };
    let ill = |codes: &[(&str, &str)]| -> String {
        let one =
            |(n, (code, kind)): (usize, &(&str, &str))| format!("DG1|{}||{code}^{code}^I10||20261101|{kind}\r", n + 1);
        codes.iter().enumerate().map(one).collect()
    };
    let first = format!(
        "{}{}{}",
        people(&["ANN", "BEN"]),
        ill(&[("J18", "A"), ("I10", "A"), ("E11", "F")]),
        cover(&["P1", "P2"])
    );
    let then = format!("{}{}{}", people(&["BEN"]), ill(&[("J18", "A")]), cover(&["P2"]));
    send(&mesh, &[say(600, &first), say(610, &then)]).await;
    let related = states(&mesh, "RelatedPerson", &["name", "0", "family"], &["active"]).await;
    assert_eq!(related, ["ANN false", "BEN null"]);
    let conditions =
        states(&mesh, "Condition", &["code", "coding", "0", "code"], &["clinicalStatus", "coding", "0", "code"]).await;
    // A list of admitting diagnoses says nothing of the final ones.
    assert_eq!(conditions, ["E11 null", "I10 inactive", "J18 null"]);
    let plans = states(&mesh, "Coverage", &["class", "0", "value"], &["status"]).await;
    assert_eq!(plans, ["P1 cancelled", "P2 active"]);
    assert_eq!(mesh.set_aside("ehr").await.iter().filter(|unit| unit["code"] == "invalid").count(), 0);

    // The same journal over an empty catalog gives the same.
    let before = (allergy_states(&mesh).await, encounter(&mesh, "V1").await);
    let folder = mesh.stop().await;
    let rebuilt = crate::harness::ward(folder.path(), &["rebuild", "catalog"]).await;
    assert!(rebuilt.status.success(), "{}", String::from_utf8_lossy(&rebuilt.stderr));
    let mesh = Mesh::start_in(folder).await;
    assert_eq!((allergy_states(&mesh).await, encounter(&mesh, "V1").await), before);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_only_add_where_nothing_is_declared_and_end_by_action_code() {
    for (lists, penicillin) in [("", "active"), ("[\"NK1\"]", "active"), ("[\"AL1\"]", "inactive")] {
        let mesh = snapshot_mesh(lists).await;
        let say = |minute: u32, list: &str| adt("A08", minute, &format!("{}{}{list}", mrn(), pv1("V1")));
        send(&mesh, &[say(480, &allergies(&["PEN"])), say(490, &allergies(&["NUT"]))]).await;
        assert_eq!(allergy_states(&mesh).await, ["NUT active".to_owned(), format!("PEN {penicillin}")], "{lists}");
        // Diagnoses with action codes: added, taken back, unchanged, added again.
        let by_code =
            |action: &str, code: &str| format!("DG1|1||{code}^{code}^I10||20261101|F{}{action}\r", "|".repeat(15));
        let verification = ["verificationStatus", "coding", "0", "code"];
        let mut minute = 500;
        for (action, code, state) in [
            ("A", "J18", "null"),
            ("D", "J18", "entered-in-error"),
            ("X", "J18", "entered-in-error"),
            ("U", "J18", "null"),
            ("X", "NEW", "null"),
        ] {
            minute += 10;
            send(&mesh, &[say(minute, &by_code(action, code))]).await;
            let all = states(&mesh, "Condition", &["code", "coding", "0", "code"], &verification).await;
            assert!(all.contains(&format!("{code} {state}")), "{action} {code}: {all:?}");
        }
        // Late, it takes nothing back.
        send(&mesh, &[say(515, &by_code("D", "J18"))]).await;
        let all = states(&mesh, "Condition", &["code", "coding", "0", "code"], &verification).await;
        assert!(all.contains(&"J18 null".to_owned()), "{all:?}");
        mesh.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_one_source_end_nothing_of_another_or_beyond_its_authority() {
    let folder = mesh_folder();
    edit(
        folder.path(),
        "domains/ehr/domain.toml",
        "name = \"adt-main\"",
        "name = \"adt-main\"\nlists = \"snapshot\"\nauthority = [\"Patient\", \"Encounter\"]",
    );
    let mesh = Mesh::start_in(folder).await;
    let say = |minute: u32, list: &str| adt("A08", minute, &format!("{}{}{list}", mrn(), pv1("V1")));
    send(&mesh, &[say(480, &allergies(&["PEN"])), say(490, &allergies(&["NUT"]))]).await;
    assert_eq!(
        allergy_states(&mesh).await,
        ["NUT active", "PEN active"],
        "it may not change what it is no authority for"
    );
    mesh.stop().await;

    let mesh = snapshot_mesh("\"snapshot\"").await;
    send(&mesh, &[say(480, &allergies(&["PEN"]))]).await;
    let of = id(&patient(&mesh, "M1").await);
    let written = serde_json::json!({
        "resourceType": "AllergyIntolerance", "patient": {"reference": format!("Patient/{of}")},
        "code": {"coding": [{"system": "urn:x", "code": "CAT"}]},
        "clinicalStatus": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical", "code": "active"}]},
    });
    let answer = mesh.post_fhir("dr-lee", "/fhir/ehr/AllergyIntolerance", &written).await;
    assert_eq!(answer.status.as_u16(), 201, "{}", answer.text());
    send(&mesh, &[say(490, &allergies(&["NUT"]))]).await;
    assert_eq!(allergy_states(&mesh).await, ["CAT active", "NUT active", "PEN inactive"]);
    assert_eq!(ids(&mesh, &format!("AllergyIntolerance?patient={of}")).await.len(), 3);
    mesh.stop().await;
}
