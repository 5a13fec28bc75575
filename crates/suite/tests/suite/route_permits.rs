//! Law 3 for what routes send: policy decides about each message by the patients it names and the labels of what it
//! tells; what it refuses is never sent, on record, and skipped or waited before as the route says.

use serde_json::Value;

use crate::harness::{Mesh, adt, append, edit};
use crate::routes::{Receiver, route, routes, until_even, with_routes};

/// As [`adt`], of a patient who is protected (PD1-12).
fn protected(control_id: &str, mrn: &str) -> Vec<u8> {
    let text = String::from_utf8(adt(control_id, "A01", mrn, "Protected")).expect("text");
    text.replace("\rPV1|", "\rPD1||||||||||||Y\rPV1|").into_bytes()
}

/// A result of somebody, in a visit that may be protected.
fn result(control_id: &str, mrn: &str) -> Vec<u8> {
    format!(
        "MSH|^~\\&|LAB|GENHOSP|WARD|MESH|20261101130000-0500||ORU^R01^ORU_R01|{control_id}|P|2.5.1\r\
         PID|1||{mrn}^^^GENHOSP^MR||Law^Test||19700203|F\r\
         PV1|1|I|2N^101^A^GENHOSP||||||||||||||||V{mrn}^^^GENHOSP^VN\r\
         OBR|1|P{control_id}|F{control_id}|2345-7^Glucose^LN|||20261101120000\r\
         OBX|1|NM|2345-7^Glucose^LN||95|mg/dL|||||F|||20261101120000\r"
    )
    .into_bytes()
}

async fn patient(mesh: &Mesh, mrn: &str) -> String {
    let bundle = mesh.get("dr-lee", &format!("/fhir/ehr/Encounter?identifier=V{mrn}")).await.json();
    let subject = bundle["entry"][0]["resource"]["subject"]["reference"].as_str();
    subject.unwrap_or_else(|| panic!("{bundle}")).trim_start_matches("Patient/").to_owned()
}

async fn who_saw(mesh: &Mesh, patient: &str) -> Vec<Value> {
    let officer = mesh.token("privacy-osei").await;
    let path = format!("/admin/audit/who-saw/ehr/{patient}");
    let seen = mesh.client.get(&path, Some(&officer)).await.expect("an answer");
    seen["accesses"].as_array().cloned().unwrap_or_default()
}

/// The Patient that an entry made, past policy: the test asks who was kept from whom.
async fn patient_of_entry(mesh: &Mesh, index: u64) -> String {
    let entry = mesh.client.get(&format!("/admin/journal/ehr/{index}"), None).await.expect("a trace");
    let made = entry["versions"].as_array().cloned().unwrap_or_default();
    let mut names = made.iter().filter_map(|version| version["resource"].as_str()?.strip_prefix("Patient/"));
    names.next().unwrap_or_else(|| panic!("{entry}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn law_3_a_route_sends_only_what_policy_permits() {
    let receiver = Receiver::start(|_| "AA").await;
    let to = format!("mllp://{}", receiver.address);
    let text = route("to-billing", &to, "from = [\"adt-main\"]").replace("TREAT", "HOPERAT");
    let mesh = Mesh::start_in(with_routes(&text)).await;
    let messages = [
        adt("C1", "A01", "M1", "Free"),
        protected("C2", "M2"),
        // Says nothing new, of a patient whom policy keeps back.
        protected("C3", "M2"),
        adt("C4", "A08", "M1", "Free"),
        adt("C6", "A01", "M3", "Free"),
        // Of a merge one of the two is protected, and from then on both are: they are one person.
        String::from_utf8(adt("C5", "A40", "M1", "Free"))
            .expect("text")
            .replace("\rPV1|", "\rMRG|M2^^^GENHOSP^MR\rPV1|")
            .into_bytes(),
    ];
    let (before, merge) = messages.split_at(5);
    for messages in [before, merge] {
        mesh.send_all("adt-main", messages.iter().map(Vec::as_slice)).await;
        mesh.settle().await;
        until_even(&mesh.client).await;
    }
    assert_eq!(receiver.ids(), ["C1", "C4", "C6"], "nothing of a protected patient leaves");
    let status = routes(&mesh.client).await;
    assert_eq!((&status[0]["refused"], &status[0]["dead_letters"]), (&Value::from(3), &Value::from(0)), "{status:?}");
    let letters = mesh.client.get("/admin/routes/ehr/to-billing/dead-letters", None).await.expect("an answer");
    let letters = letters["dead_letters"].as_array().expect("letters");
    let positions: Vec<u64> = letters.iter().filter_map(|letter| letter["position"].as_u64()).collect();
    assert_eq!(positions, [1, 2, 5]);
    assert!(letters.iter().all(|letter| letter["code"] == "refused"), "{letters:?}");
    assert!(letters[0]["reason"].as_str().is_some_and(|why| why.contains("route-for-payment-and-operations")));
    // A person who asks for it again is refused too.
    let sent = mesh.client.post("/admin/routes/ehr/to-billing/dead-letters/1/send", None, &Value::Null).await;
    assert!(sent.is_err(), "{sent:?}");
    assert_eq!(receiver.ids(), ["C1", "C4", "C6"]);

    // Who saw the protected patient: the route asked, was refused, and got nothing.
    let patient = patient_of_entry(&mesh, 1).await;
    let rows = who_saw(&mesh, &patient).await;
    let by_route: Vec<&Value> = rows.iter().filter(|row| row.to_string().contains("route:ehr:to-billing")).collect();
    // What was sent of the other number before the merge belongs to the person's report, too.
    let of_entry = |row: &Value, n: u64| {
        let what = row["what"].as_str().unwrap_or_default();
        what.split(':').next().unwrap_or_default().ends_with(&format!("entry {n}"))
    };
    for (n, outcome) in [(0, "served"), (1, "refused"), (2, "refused"), (3, "served"), (5, "refused")] {
        let mut rows = by_route.iter().filter(|row| of_entry(row, n)).peekable();
        assert!(rows.peek().is_some(), "entry {n}: {by_route:?}");
        assert!(rows.all(|row| row["outcome"] == outcome), "entry {n}: {by_route:?}");
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn law_3_labels_of_what_a_message_only_mentions_count() {
    let receiver = Receiver::start(|_| "AA").await;
    let to = format!("mllp://{}", receiver.address);
    let text = route("to-billing", &to, "types = [\"ORU\"]").replace("TREAT", "HOPERAT");
    let mesh = Mesh::start_in(with_routes(&text)).await;
    // The visit is protected (PV2-22), the patient is not.
    let text = String::from_utf8(adt("C1", "A01", "M1", "Law")).expect("text");
    let visit = format!("{text}PV2||||||||||||||||||||||Y\r").into_bytes();
    let messages = [visit, result("R1", "M1"), adt("C2", "A01", "M2", "Law"), result("R2", "M2")];
    mesh.send_all("adt-main", messages.iter().map(Vec::as_slice)).await;
    mesh.settle().await;
    until_even(&mesh.client).await;
    assert_eq!(receiver.ids(), ["R2"], "a result of a protected visit stays");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn law_3_a_route_that_holds_waits_in_order_and_goes_on() {
    let receiver = Receiver::start(|_| "AA").await;
    let to = format!("mllp://{}", receiver.address);
    let text = route("to-billing", &to, "on_refused = \"hold\"").replace("TREAT", "HOPERAT");
    let mesh = Mesh::start_in(with_routes(&text)).await;
    let messages = [adt("C1", "A01", "M1", "Free"), protected("C2", "M2"), adt("C3", "A01", "M3", "Free")];
    mesh.send_all("adt-main", messages.iter().map(Vec::as_slice)).await;
    mesh.settle().await;
    let held = loop {
        let status = routes(&mesh.client).await.remove(0);
        if status["trouble"].as_str().is_some_and(|trouble| trouble.contains("entry 1 may not go")) {
            break status;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!((&held["next"], &held["refused"]), (&Value::from(1), &Value::from(0)), "{held}");
    // The protection ends (PD1-12 = N): the route goes on by itself, in order.
    let text = String::from_utf8(protected("C4", "M2")).expect("text").replace("|Y\rPV1|", "|N\rPV1|");
    mesh.send_all("adt-main", [text.as_bytes()]).await;
    mesh.settle().await;
    until_even(&mesh.client).await;
    assert_eq!(receiver.ids(), ["C1", "C2", "C3", "C4"]);
    // It was refused once, on record, however often the route looked again.
    let patient = patient(&mesh, "M2").await;
    let rows = who_saw(&mesh, &patient).await;
    let refused = rows.iter().filter(|row| row["outcome"] == "refused" && row.to_string().contains("route")).count();
    assert_eq!(refused, 1, "{rows:?}");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn law_3_nothing_leaves_under_an_agreement_that_is_suspended() {
    let receiver = Receiver::start(|_| "AA").await;
    let text = route("to-county", &format!("mllp://{}", receiver.address), "agreement = \"county\"")
        .replace("internal = true\n", "")
        .replace("TREAT", "PUBHLTH");
    let folder = with_routes(&text);
    append(
        folder.path(),
        "agreements/county.toml",
        "id = \"county\"\nkind = \"data-use\"\nparties = []\npurposes = [\"PUBHLTH\"]\ndomains = [\"ehr\"]\n\
         until = \"2099-12-31\"\nsuspended = true\n[recipient]\nname = \"County Health Department\"\n",
    );
    let mesh = Mesh::start_in(folder).await;
    mesh.send_all("adt-main", [adt("C1", "A01", "M1", "Law").as_slice()]).await;
    mesh.settle().await;
    while !routes(&mesh.client).await[0]["trouble"].as_str().is_some_and(|why| why.contains("`county` is not in force"))
    {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(receiver.ids().is_empty());
    let folder = mesh.stop().await;
    edit(folder.path(), "agreements/county.toml", "suspended = true\n", "");
    let mesh = Mesh::start_in(folder).await;
    until_even(&mesh.client).await;
    assert_eq!(receiver.ids(), ["C1"], "what waited goes out when the agreement is in force");

    // What went out is a disclosure that the patient may ask for.
    let patient = patient(&mesh, "M1").await;
    let accounting = mesh.get("privacy-osei", &format!("/admin/audit/disclosures/ehr/{patient}")).await.json();
    let line = &accounting["disclosures"][0];
    assert_eq!(line["recipient"]["name"], "County Health Department", "{accounting}");
    assert!(line["purpose"].as_str().is_some_and(|purpose| purpose.contains("public health")), "{accounting}");
    assert!(line["what"].as_str().is_some_and(|what| what.contains("identity")), "{accounting}");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn law_3_a_message_about_nobody_known_does_not_leave() {
    let receiver = Receiver::start(|_| "AA").await;
    let mesh = Mesh::start_in(with_routes(&route("to-lab", &format!("mllp://{}", receiver.address), ""))).await;
    let nobody = String::from_utf8(adt("C1", "A01", "M1", "Law")).expect("text").replace("|M1^^^GENHOSP^MR|", "||");
    mesh.send_all("adt-main", [nobody.as_bytes(), adt("C2", "A01", "M2", "Law").as_slice()]).await;
    mesh.settle().await;
    until_even(&mesh.client).await;
    assert_eq!(receiver.ids(), ["C2"]);
    let letters = mesh.client.get("/admin/routes/ehr/to-lab/dead-letters", None).await.expect("an answer");
    assert_eq!(letters["dead_letters"][0]["code"], "unidentified", "{letters}");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_no_policy_permits_does_not_start() {
    let folder = with_routes(&route("to-lab", "file:out", ""));
    std::fs::remove_file(folder.path().join("policies/routes.cedar")).expect("a policy file");
    let output = crate::harness::ward(folder.path(), &["check"]).await;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success() && said.contains("no policy lets the route `to-lab` send"), "{said}");
}
