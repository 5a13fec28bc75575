//! FHIR reads and searches over kept HTTPS connections, of what was imported, by a physician: each answer is decided,
//! recorded durably and released like any other.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Plan;
use super::figure::{Figure, drive};
use super::mesh::{Request, TestMesh};
use crate::commands::{Failure, Result, progress};

const READER: &str = "dr-lee";
/// Resources of a type whose ids and values the requests are made of.
const SAMPLES: usize = 500;

/// Resources of a type, as the door shows them.
async fn sample(mesh: &TestMesh, rtype: &str) -> Result<Vec<Value>> {
    let token = mesh.token(READER).await?;
    let path = format!("/fhir/ehr/{rtype}?_count={SAMPLES}");
    let answer = mesh.https().await?.get(&path, &token).await?;
    if !answer.status.is_success() {
        return Err(Failure::said(format!("a search for {rtype} was answered {}", answer.status)));
    }
    let mut bundle = answer.json();
    let entries = bundle["entry"].as_array_mut().map(std::mem::take).unwrap_or_default();
    Ok(entries.into_iter().map(|mut entry| entry["resource"].take()).collect())
}

pub async fn by_id(mesh: &TestMesh, plan: &Plan) -> Result<Vec<Figure>> {
    let mut requests = Vec::new();
    for rtype in ["Patient", "Observation", "Condition", "Encounter"] {
        for resource in sample(mesh, rtype).await? {
            let id = resource["id"].as_str().unwrap_or_default();
            requests.push(Request::get(format!("/fhir/ehr/{rtype}/{id}")));
        }
    }
    spread(&mut requests);
    let distinct = requests.len();
    let mut figures = Vec::new();
    for connections in [16, 64] {
        progress(&format!("reads by id: {connections} connections"));
        let token = mesh.token(READER).await?;
        let callers = mesh.callers(connections, &token, requests.clone()).await?;
        let load = drive(callers, plan.time).await?;
        figures.push(
            Figure::of(format!("FHIR read by id: {connections} connections"), &load, "reads/s")
                .under(format!("{distinct} resources in turn, of {} living", mesh.living("ehr").await?))
                .goal("5,000/s per core, p99 ≤ 5 ms"),
        );
    }
    Ok(figures)
}

/// Takes the requests out of their order, the same way each time.
fn spread(requests: &mut [Request]) {
    let len = requests.len();
    for n in 0..len {
        requests.swap(n, (n.wrapping_mul(7_919) + 13) % len);
    }
}

const SEARCHERS: usize = 16;

pub async fn searches(mesh: &TestMesh, plan: &Plan) -> Result<Vec<Figure>> {
    let families = families(mesh).await?;
    let living = mesh.living("ehr").await?;
    let mut figures = Vec::new();
    for (family, example, paths) in families {
        if paths.is_empty() {
            progress(&format!("search by {family}: left out, nothing to search for"));
            continue;
        }
        progress(&format!("search by {family}"));
        let token = mesh.token(READER).await?;
        let distinct = paths.len();
        let requests = paths.into_iter().map(Request::get).collect();
        let load = drive(mesh.callers(SEARCHERS, &token, requests).await?, plan.time).await?;
        figures.push(
            Figure::of(format!("FHIR search by {family}"), &load, "searches/s")
                .under(format!("{example}, {distinct} criteria in turn, {living} living resources"))
                .goal("1,000/s per core, p99 ≤ 100 ms"),
        );
    }
    Ok(figures)
}

type Family = (&'static str, &'static str, Vec<String>);

async fn families(mesh: &TestMesh) -> Result<Vec<Family>> {
    let patients = sample(mesh, "Patient").await?;
    let observations = sample(mesh, "Observation").await?;
    let at = |value: &Value, path: &str| value.pointer(path).and_then(Value::as_str).map(str::to_owned);
    let distinct = |values: &[Value], path: &str| -> Vec<String> {
        values.iter().filter_map(|value| at(value, path)).collect::<BTreeSet<_>>().into_iter().collect()
    };
    let ids = distinct(&patients, "/id");
    let names = distinct(&patients, "/name/0/family");
    let codes = distinct(&observations, "/code/coding/0/code");
    let days: BTreeSet<String> = distinct(&observations, "/effectiveDateTime")
        .iter()
        .filter_map(|date| date.get(..10).map(str::to_owned))
        .collect();
    let code_of = |n: usize| codes.get(n % codes.len().max(1)).cloned().unwrap_or_default();
    let base = "/fhir/ehr";
    Ok(vec![
        (
            "token",
            "Observation?code=SYSTEM|CODE",
            codes.iter().map(|code| format!("{base}/Observation?code=http://loinc.org%7C{code}")).collect(),
        ),
        (
            "reference",
            "Observation?patient=ID",
            ids.iter().map(|id| format!("{base}/Observation?patient={id}")).collect(),
        ),
        ("date", "Observation?date=DAY", days.iter().map(|day| format!("{base}/Observation?date={day}")).collect()),
        (
            "string",
            "Patient?name=PREFIX",
            names.iter().map(|name| format!("{base}/Patient?name={}", prefix(name))).collect(),
        ),
        (
            "sorted",
            "Observation?patient=ID&_sort=-date",
            ids.iter().map(|id| format!("{base}/Observation?patient={id}&_sort=-date")).collect(),
        ),
        (
            "combined",
            "Observation?patient=ID&code=CODE&date=ge2000",
            (ids.iter().enumerate())
                .map(|(n, id)| format!("{base}/Observation?patient={id}&code={}&date=ge2000-01-01", code_of(n)))
                .collect(),
        ),
    ])
}

/// The first letters of a name, as somebody types them; only what needs no escaping in a URL.
fn prefix(name: &str) -> String {
    name.chars().take_while(char::is_ascii_alphanumeric).take(4).collect()
}
