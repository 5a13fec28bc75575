//! FHIR transactions: bundles posted over HTTPS, each answered when its resources stand in silver; bytes at rest and
//! memory after them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use synth::{Dirt, Door, Hospital, Options};

use super::figure::{Figure, Step, Worker, drive, resident_mb};
use super::mesh::{TestMesh, first_words};
use super::{Plan, failed};
use crate::commands::{Result, progress};
use crate::wire::HttpsClient;

/// An import takes no further bundle after this many times the plan's time.
const IMPORT_FACTOR: u32 = 20;
/// Synthetic patients per second of the plan, when no folder of bundles is there.
const PATIENTS_PER_SECOND: usize = 500;

/// A folder's bundles are posted again, as new records, until about so many resources are there.
const RESOURCES_WANTED: u64 = 34_000;
const ROUNDS_MAX: usize = 8;

/// Bundles to post. Files are read when they are sent, so that they do not count as the node's memory.
struct Bundles {
    list: Vec<(Source, u64)>,
    rounds: usize,
    next: AtomicUsize,
}

enum Source {
    File(PathBuf),
    Made(Bytes),
}

impl Bundles {
    fn of(plan: &Plan) -> Result<(Bundles, String)> {
        let list = match &plan.bundles {
            Some(folder) => files(folder)?,
            None => made(PATIENTS_PER_SECOND * usize::try_from(plan.time.as_secs()).unwrap_or(1)),
        };
        let resources: u64 = list.iter().map(|(_, resources)| resources).sum();
        let kind = if plan.bundles.is_some() { "bundles of the folder" } else { "synthetic bundles" };
        let rounds = (RESOURCES_WANTED.div_ceil(resources.max(1)) as usize).clamp(1, ROUNDS_MAX);
        let told = format!("{} {kind} with {resources} resources, {rounds} time(s)", list.len());
        Ok((Bundles { list, rounds, next: AtomicUsize::new(0) }, told))
    }

    fn take(&self) -> Option<&(Source, u64)> {
        let at = self.next.fetch_add(1, Ordering::Relaxed);
        let rounds_left = at < self.list.len() * self.rounds;
        rounds_left.then(|| self.list.get(at % self.list.len())).flatten()
    }
}

/// What is counted of a bundle, without holding it.
#[derive(serde::Deserialize)]
struct Shape {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    entry: Vec<serde::de::IgnoredAny>,
}

/// The transactions of a folder, with their numbers of resources.
fn files(folder: &std::path::Path) -> Result<Vec<(Source, u64)>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    let mut list = Vec::with_capacity(paths.len());
    for path in paths {
        let shape: Shape = serde_json::from_slice(&std::fs::read(&path)?)
            .map_err(|error| failed(format!("a bundle of the folder cannot be read: {error}")))?;
        if shape.kind == "transaction" {
            list.push((Source::File(path), shape.entry.len() as u64));
        }
    }
    Ok(list)
}

/// One transaction per synthetic patient, whole in itself.
fn made(patients: usize) -> Vec<(Source, u64)> {
    let hospital = Hospital::generate(&Options { seed: 3, patients, dirt: Dirt::NONE, ..Options::default() });
    let bedside = hospital.feed.iter().filter(|item| item.door == Door::Bedside);
    hospital.patients.iter().zip(bedside).filter_map(|(patient, item)| whole(patient, &item.bytes)).collect()
}

fn whole(patient: &synth::Patient, bundle: &[u8]) -> Option<(Source, u64)> {
    let mut bundle: Value = serde_json::from_slice(bundle).ok()?;
    let url = "urn:uuid:00000000-0000-4000-8000-000000000001";
    let entries = bundle["entry"].as_array_mut()?;
    for entry in entries.iter_mut() {
        entry["resource"]["subject"] = json!({ "reference": url });
    }
    let born = &patient.born;
    let resource = json!({
        "resourceType": "Patient",
        "identifier": [{ "system": synth::MRN_SYSTEM, "value": patient.mrn }],
        "name": [{ "family": patient.family, "given": [patient.given] }],
        "gender": patient.sex.fhir(),
        "birthDate": format!("{}-{}-{}", born.get(..4)?, born.get(4..6)?, born.get(6..8)?),
        "address": [{ "line": [patient.street], "city": patient.city, "state": patient.state, "postalCode": patient.zip }],
    });
    let request = json!({ "method": "POST", "url": "Patient" });
    entries.insert(0, json!({ "fullUrl": url, "resource": resource, "request": request }));
    let count = entries.len() as u64;
    Some((Source::Made(serde_json::to_vec(&bundle).ok()?.into()), count))
}

struct Importer {
    https: HttpsClient,
    bundles: Arc<Bundles>,
    token: String,
    path: &'static str,
}

#[async_trait]
impl Worker for Importer {
    async fn step(&mut self) -> Step {
        let Some((source, resources)) = self.bundles.take() else { return Step::End };
        let body = match source {
            Source::Made(bytes) => bytes.clone(),
            Source::File(path) => match std::fs::read(path) {
                Ok(bytes) => bytes.into(),
                Err(error) => return Step::Failed(error.to_string()),
            },
        };
        let headers = [("content-type", "application/fhir+json"), ("prefer", "return=minimal")];
        match self.https.call(Method::POST, self.path, Some(&self.token), &headers, body).await {
            Ok(answer) if answer.status.is_success() => Step::Done { units: *resources, bytes: 0 },
            Ok(answer) => Step::Failed(format!("{}: {}", answer.status, first_words(&answer.text()))),
            Err(error) => Step::Failed(error.to_string()),
        }
    }
}

/// Imports once with 8 workers, which is what other figures read; with `both`, once more with 20 into another domain.
pub async fn figures(mesh: &TestMesh, plan: &Plan, both: bool) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let runs = [(8, "ehr", "/fhir/ehr", "bedside-gateway"), (20, "annex", "/fhir/annex", "annex-gateway")];
    for (workers, domain, path, gateway) in runs.into_iter().take(if both { 2 } else { 1 }) {
        let (bundles, told) = Bundles::of(plan)?;
        progress(&format!("FHIR transactions: {told}, {workers} workers"));
        let (memory, at_rest, living) = (resident_mb(), mesh.at_rest(), mesh.living(domain).await?);
        let bundles = Arc::new(bundles);
        let token = mesh.token(gateway).await?;
        let mut importers = Vec::with_capacity(workers);
        for _ in 0..workers {
            let (bundles, token) = (bundles.clone(), token.clone());
            importers.push(Importer { https: mesh.https().await?, bundles, token, path });
        }
        let load = drive(importers, plan.time * IMPORT_FACTOR).await?;
        let living = mesh.living(domain).await?.saturating_sub(living);
        let took = load.took.as_secs_f64();
        figures.push(
            Figure::of(format!("FHIR transactions: {workers} workers"), &load, "resources/s")
                .under(format!("{told}, {living} living resources after {took:.1} s; times are of a bundle"))
                .goal("1,200/s per core, then 3,000"),
        );
        if domain == "ehr" {
            let now = mesh.at_rest();
            let each = now.all.saturating_sub(at_rest.all) as f64 / living.max(1) as f64;
            figures.push(
                Figure::new("bytes at rest per resource", each, "B")
                    .under(format!("growth on disk as the file system allots it: {}", now.growth(&at_rest, living)))
                    .goal("1,500 B at 34 k resources"),
            );
            figures.push(
                Figure::new("memory after the import", resident_mb(), "MB RSS")
                    .under(format!("node and clients in one process; {memory:.0} MB before"))
                    .goal("150 MB at 34 k resources"),
            );
        }
    }
    Ok(figures)
}
