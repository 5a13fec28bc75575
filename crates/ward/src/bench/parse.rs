//! Parsing on one core: HL7 v2 and FHIR JSON, validation, values for the search index. Real files where they are, else
//! synthetic ones.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base::Limits;
use fhir::json::{ParseLimits, Value};
use synth::{Door, Hospital, Options};

use super::Plan;
use super::figure::Figure;
use crate::commands::{Failure, Result, progress};

/// Bytes of FHIR that are taken: enough to leave the caches.
const FHIR_BYTES_MAX: usize = 16 << 20;

pub fn figures(plan: &Plan) -> Result<Vec<Figure>> {
    progress("parsing");
    let synthetic = Hospital::generate(&Options { patients: 200, ..Options::default() }).feed;
    let of = |bedside: bool| synthetic.iter().filter(move |item| (item.door == Door::Bedside) == bedside);
    let limits = Limits::default();

    let real = plan.shared.as_ref().map(|shared| files(&shared.join("hl7v2"), "hl7", usize::MAX)).transpose()?;
    let real: Vec<Vec<u8>> = real.unwrap_or_default().iter().flat_map(|file| messages(file, &limits)).collect();
    let (hl7, hl7_told) = match real.is_empty() {
        false => (real, "messages of the shared data"),
        true => (of(false).map(|item| item.bytes.clone()).collect(), "synthetic messages"),
    };
    let real =
        plan.bundles.as_ref().map(|folder| files(folder, "json", FHIR_BYTES_MAX)).transpose()?.unwrap_or_default();
    let (bundles, fhir_told) = match real.is_empty() {
        false => (real, "bundles of the folder"),
        true => (of(true).map(|item| item.bytes.clone()).collect(), "synthetic bundles"),
    };
    let parsed: Vec<Value> =
        bundles.iter().filter_map(|text| fhir::json::parse(text, &ParseLimits::default()).ok()).collect();
    if parsed.len() < bundles.len() {
        return Err(Failure::said("a bundle is not JSON: choose another folder with --bundles"));
    }
    let resources: Vec<&Value> = parsed
        .iter()
        .flat_map(|bundle| bundle.get("entry").map(Value::items).unwrap_or_default())
        .filter_map(|entry| entry.get("resource"))
        .collect();
    // Whole bundles are pretty-printed; what validation and extraction go through is counted as compact text.
    let compact: usize = resources.iter().map(|resource| fhir::json::to_vec(resource).len()).sum();

    let text = bundles.iter().map(Vec::len).sum();
    let parse_limits = ParseLimits::from(&limits);
    let mut figures = vec![
        rate("HL7 v2 parse", hl7.iter().map(Vec::len).sum(), hl7.len(), plan.time, || {
            hl7.iter().for_each(|message| drop(black_box(hl7v2::parse(message, &limits))));
        })
        .under(hl7_told),
        rate("HL7 v2 parse and map", hl7.iter().map(Vec::len).sum(), hl7.len(), plan.time, || {
            hl7.iter().for_each(|message| map(message, &limits));
        })
        .under(hl7_told),
        rate("FHIR JSON parse", text, resources.len(), plan.time, || {
            bundles.iter().for_each(|bundle| drop(black_box(fhir::json::parse(bundle, &parse_limits))));
        })
        .under(fhir_told),
    ];
    let told = format!("{fhir_told}, counted as compact JSON");
    figures.push(
        rate("FHIR validate", compact, resources.len(), plan.time, || {
            resources.iter().for_each(|resource| drop(black_box(fhir::validate::validate(resource))));
        })
        .under(&told),
    );
    figures.push(
        rate("FHIR search values", compact, resources.len(), plan.time, || {
            resources.iter().for_each(|resource| drop(black_box(fhir::search::extract(resource))));
        })
        .under(&told),
    );
    figures.push(
        rate("FHIR JSON write", compact, resources.len(), plan.time, || {
            resources.iter().for_each(|resource| drop(black_box(fhir::json::to_vec(resource))));
        })
        .under(&told),
    );
    Ok(figures)
}

/// Rounds over the same bytes until the time is over.
fn rate(what: &str, bytes: usize, units: usize, time: Duration, mut round: impl FnMut()) -> Figure {
    round();
    let (begun, mut rounds) = (Instant::now(), 0u32);
    while begun.elapsed() < time {
        round();
        rounds += 1;
    }
    let rounds_per_second = f64::from(rounds) / begun.elapsed().as_secs_f64();
    let each = rounds_per_second * units as f64;
    Figure::new(what, rounds_per_second * bytes as f64 / 1e6, "MB/s")
        .under(format!("one core, {:.1} MB in {units} units, {each:.0} units/s", bytes as f64 / 1e6))
}

/// One message to the drafts of its resources.
fn map(bytes: &[u8], limits: &Limits) {
    let Ok(message) = hl7v2::parse(bytes, limits) else { return };
    let none = std::collections::BTreeMap::new();
    let sender = clinical::v2::Sender {
        name: "bench",
        utc_offset: Some(hl7v2::time::Offset::UTC),
        assigners: &none,
        units: &none,
        authority: &[],
        received: None,
    };
    drop(black_box(clinical::v2::map(&message, &sender, limits)));
}

fn messages(file: &[u8], limits: &Limits) -> Vec<Vec<u8>> {
    match hl7v2::batch::split(file, limits) {
        Ok(batch) => batch.messages().map(<[u8]>::to_vec).collect(),
        Err(_) => Vec::new(),
    }
}

/// Files of a folder by their ending, in order, until so many bytes.
fn files(folder: &Path, ending: &str, bytes_max: usize) -> Result<Vec<Vec<u8>>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == ending));
    paths.sort();
    let (mut files, mut bytes) = (Vec::new(), 0);
    for path in paths {
        let file = std::fs::read(path)?;
        bytes += file.len();
        files.push(file);
        if bytes >= bytes_max {
            break;
        }
    }
    Ok(files)
}
