//! Questions at the MLLP door, by PyPI hl7's client: patient demographics (QBP^Q22) and identifiers (QBP^Q23), with
//! limits, continuation and cancel; who may ask, and that each patient told of is on record first.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::{Mesh, adt, append, edit, mesh_folder, program};

fn python() -> PathBuf {
    program("ward").ancestors().nth(2).expect("the target folder").join("clients/bin/python")
}

const CLERK: &str = "\n[[principal]]\nid = \"svc-pdq\"\nkind = \"service\"\nroles = [\"registration-clerk\"]\n\
                     domain = \"ehr\"\npurposes = [\"HOPERAT\"]\n";

/// A mesh whose ADT source may ask as a registration desk.
fn asking() -> tempfile::TempDir {
    let folder = mesh_folder();
    append(folder.path(), "principals.toml", CLERK);
    let right = "name = \"adt-main\"\nquery = { principal = \"svc-pdq\", purpose = \"HOPERAT\" }";
    edit(folder.path(), "domains/ehr/domain.toml", "name = \"adt-main\"", right);
    folder
}

fn q22(id: &str, tag: &str, parameters: &str, rest: &str) -> String {
    format!(
        "MSH|^~\\&|DESK|GENHOSP|WARD|MESH|20261101120000||QBP^Q22^QBP_Q21|{id}|P|2.5\r\
         QPD|IHE PDQ Query|{tag}|{parameters}{rest}"
    )
}

fn q23(id: &str, number: &str, domains: &str) -> String {
    format!(
        "MSH|^~\\&|DESK|GENHOSP|WARD|MESH|20261101120000||QBP^Q23^QBP_Q21|{id}|P|2.5\r\
         QPD|IHE PIX Query|T{id}|{number}|{domains}\rRCP|I\r"
    )
}

/// Each answer's segments.
async fn ask(mesh: &Mesh, questions: &[String]) -> Vec<Vec<String>> {
    let file = mesh.path().join("questions");
    let lines: Vec<String> = questions.iter().map(|text| text.replace('\r', "|CR|")).collect();
    std::fs::write(&file, lines.join("\n")).expect("a file");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/mllp_query.py");
    let port = mesh.mllp_address("adt-main").port().to_string();
    let output = tokio::process::Command::new(python())
        .arg(script)
        .arg(port)
        .arg(&file)
        .output()
        .await
        .expect("the client runs: see `scripts/setup --tests`");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(|line| line.split("|CR|").filter(|s| !s.is_empty()).map(str::to_owned).collect()).collect()
}

fn segment<'a>(answer: &'a [String], id: &str) -> Vec<&'a str> {
    answer.iter().map(String::as_str).filter(|segment| segment.starts_with(id)).collect()
}

fn field(segment: &str, n: usize) -> &str {
    segment.split('|').nth(n).unwrap_or_default()
}

async fn records(mesh: &Mesh, what: &str) -> Vec<Value> {
    let officer = mesh.token("privacy-osei").await;
    let page = mesh.client.get("/admin/audit?last=500", Some(&officer)).await.expect("the audit log");
    let rows = page["accesses"].as_array().or(page["records"].as_array()).cloned().unwrap_or_default();
    rows.into_iter().filter(|row| row["what"].as_str().is_some_and(|told| told.starts_with(what))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_find_who_fits_and_go_on() {
    let mesh = Mesh::start_in(asking()).await;
    let mut messages: Vec<Vec<u8>> =
        (1..=5).map(|n| adt(&format!("C{n}"), "A01", &format!("M{n}"), "Everyman")).collect();
    messages.push(adt("C6", "A01", "M6", "Everymanson"));
    let protected = String::from_utf8(adt("C7", "A01", "M7", "Everyman")).expect("text");
    messages.push(protected.replace("\rPV1|", "\rPD1||||||||||||Y\rPV1|").into_bytes());
    mesh.send_all("adt-main", messages.iter().map(Vec::as_slice)).await;
    mesh.settle().await;

    let wide = |id: &str, rest: &str| q22(id, "TAG1", "@PID.5.1^everyman~@PID.8^F", rest);
    let answers =
        ask(&mesh, &[wide("Q1", "\rRCP|I|2^RD\r"), q22("Q2", "TAG2", "@PID.5.1^Every*~@PID.7^19700203", "\r")]).await;
    let [first, second] = answers.as_slice() else { panic!("{answers:?}") };
    assert_eq!(field(&first[0], 8), "RSP^K22^RSP_K22");
    assert_eq!((field(&first[1], 1), field(&first[1], 2)), ("AA", "Q1"));
    let qak = segment(first, "QAK")[0];
    assert_eq!([1, 2, 4, 5, 6].map(|n| field(qak, n)), ["TAG1", "OK", "5", "2", "3"]);
    assert_eq!(segment(first, "QPD")[0], "QPD|IHE PDQ Query|TAG1|@PID.5.1^everyman~@PID.8^F");
    let told = segment(first, "PID");
    assert_eq!(told.len(), 2);
    assert!(
        told.iter().all(|pid| field(pid, 5).starts_with("Everyman^Test") && field(pid, 7) == "19700203"),
        "{told:?}"
    );
    assert_eq!(segment(second, "PID").len(), 6, "an asterisk lets the name go on; the protected patient stays unseen");

    // The rest, by the pointer; then there is none.
    let pointer = field(segment(first, "DSC")[0], 1).to_owned();
    let go_on = |id: &str| wide(id, &format!("\rRCP|I|2^RD\rDSC|{pointer}|I\r"));
    let answers = ask(&mesh, &[go_on("Q3"), go_on("Q4")]).await;
    assert_eq!(segment(&answers[0], "PID").len(), 2);
    let next = field(segment(&answers[0], "DSC")[0], 1).to_owned();
    assert_eq!((field(&answers[1][1], 1), field(segment(&answers[1], "QAK")[0], 2)), ("AE", "AE"), "used once");
    let last = wide("Q5", &format!("\rRCP|I|2^RD\rDSC|{next}|I\r"));
    let answers = ask(&mesh, &[last]).await;
    assert_eq!((segment(&answers[0], "PID").len(), segment(&answers[0], "DSC").len()), (1, 0));
    let mut all: Vec<&str> = told.iter().map(|pid| field(pid, 3)).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 2);

    // One record for each patient told of: 2 + 6 + 2 + 1.
    let rows = records(&mesh, "query Q22").await;
    let served = rows.iter().filter(|row| row["outcome"] == "served").count();
    assert_eq!(served, 11, "{rows:?}");
    assert!(rows.iter().all(|row| row["principal"] == "svc-pdq"), "{rows:?}");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_say_what_is_wrong_and_where() {
    let mesh = Mesh::start_in(asking()).await;
    mesh.send_all("adt-main", [adt("C1", "A01", "M1", "Everyman").as_slice()]).await;
    mesh.settle().await;
    let cancel = "MSH|^~\\&|DESK|GENHOSP|WARD|MESH|20261101120000||QCN^J01^QCN_J01|X1|P|2.5\rQID|TAG1|Q22\r".to_owned();
    let cases = [
        (q22("E1", "T", "@PID.99^x", "\r"), "AE", "QPD^1^3^1", "103"),
        (q22("E2", "T", "", "\r"), "AE", "QPD^1^3", "101"),
        (q22("E3", "", "@PID.5.1^Everyman", "\r"), "AE", "QPD^1^2", "101"),
        (q22("E4", "T", "@PID.5.1^Everyman~@PID.7^soon", "\r"), "AE", "QPD^1^3^2", "102"),
        (q22("E5", "T", "@PID.5.1^Everyman", "\rRCP|I|many^RD\r"), "AE", "RCP^1^2", "102"),
        (q22("E6", "T", "@PID.5.1^Everyman", "\rRCP|I\rDSC|nowhere|I\r"), "AE", "DSC^1^1", "204"),
        (q23("E7", "M404^^^GENHOSP", ""), "AE", "QPD^1^3^1^1", "204"),
        (q23("E8", "M1", ""), "AE", "QPD^1^3^1^4", "101"),
        (q22("E9", "T", "@PID.5.1^Everyman", "\r").replace("|P|2.5", "|D|2.5"), "AR", "MSH^1^11", "202"),
    ];
    let mut questions: Vec<String> = cases.iter().map(|(text, ..)| text.clone()).collect();
    questions.push(q22("N1", "T", "@PID.5.1^Nobody", "\r"));
    questions.push(cancel);
    let answers = ask(&mesh, &questions).await;
    for ((question, code, place, number), answer) in cases.iter().zip(&answers) {
        let err = segment(answer, "ERR")[0];
        assert_eq!(field(&answer[1], 1), *code, "{question}: {answer:?}");
        assert_eq!((field(err, 2), field(err, 3).split('^').next()), (*place, Some(*number)), "{question}: {answer:?}");
        assert_eq!(field(segment(answer, "QAK")[0], 2), *code);
        assert!(segment(answer, "PID").is_empty());
    }
    let none = &answers[9];
    assert_eq!((field(&none[1], 1), field(segment(none, "QAK")[0], 2)), ("AA", "NF"));
    assert_eq!((field(&answers[10][0], 8), field(&answers[10][1], 1)), ("ACK^J01^ACK", "AA"));
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_tell_the_numbers_of_a_person() {
    let mesh = Mesh::start_in(asking()).await;
    let two = String::from_utf8(adt("C1", "A01", "M1", "Everyman")).expect("text");
    let two = two.replace("|M1^^^GENHOSP^MR|", "|M1^^^GENHOSP^MR~L1^^^LAB^PI|");
    let old = adt("C2", "A01", "M2", "Everyman");
    let merge =
        two.replace("ADT^A01^ADT_A01|C1", "ADT^A40^ADT_A39|C3").replace("\rPV1|", "\rMRG|M2^^^GENHOSP^MR\rPV1|");
    mesh.send_all("adt-main", [two.as_bytes(), old.as_slice(), merge.as_bytes()]).await;
    mesh.settle().await;
    let questions = [
        q23("P1", "M1^^^GENHOSP", ""),
        q23("P2", "L1^^^LAB", "^^^GENHOSP"),
        q23("P3", "M2^^^GENHOSP", "^^^LAB"),
        q23("P4", "M1^^^GENHOSP", "^^^ELSEWHERE"),
    ];
    let answers = ask(&mesh, &questions).await;
    let numbers =
        |n: usize| segment(&answers[n], "PID").first().map(|pid| field(pid, 3).to_owned()).unwrap_or_default();
    assert_eq!(field(&answers[0][0], 8), "RSP^K23^RSP_K23");
    assert!(numbers(0).contains("L1^^^LAB^PI") && !numbers(0).contains("M1^"), "{answers:?}");
    assert!(!segment(&answers[0], "PID")[0].contains("Everyman"), "only numbers were asked for");
    assert!(numbers(1).contains("M1^^^GENHOSP^MR"), "{answers:?}");
    assert!(
        numbers(2).contains("L1^^^LAB"),
        "a number that was merged away finds the record that has it now: {answers:?}"
    );
    assert_eq!(field(segment(&answers[3], "QAK")[0], 2), "NF");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn law_3_only_a_source_that_may_ask_is_answered() {
    // No `query`: refused, and nothing is stored.
    let mesh = Mesh::start().await;
    mesh.send_all("adt-main", [adt("C1", "A01", "M1", "Everyman").as_slice()]).await;
    mesh.settle().await;
    let question = q22("Q1", "T", "@PID.5.1^Everyman", "\r");
    let answers = ask(&mesh, std::slice::from_ref(&question)).await;
    assert_eq!((field(&answers[0][1], 1), segment(&answers[0], "PID").len()), ("AR", 0), "{answers:?}");
    assert_eq!(mesh.doors.domains[&crate::harness::domain("ehr")].intake.journal().log().size(), 1);
    mesh.stop().await;

    // A principal that policy does not let search patients.
    let folder = asking();
    edit(
        folder.path(),
        "principals.toml",
        "roles = [\"registration-clerk\"]\ndomain = \"ehr\"\npurposes = [\"HOPERAT\"]\n",
        "roles = [\"analyst\"]\ndomain = \"ehr\"\npurposes = [\"HOPERAT\"]\n",
    );
    let mesh = Mesh::start_in(folder).await;
    mesh.send_all("adt-main", [adt("C1", "A01", "M1", "Everyman").as_slice()]).await;
    mesh.settle().await;
    let answers = ask(&mesh, &[question]).await;
    assert_eq!((field(&answers[0][1], 1), segment(&answers[0], "PID").len()), ("AR", 0), "{answers:?}");
    mesh.stop().await;
}
