//! From silver to a ward's pages: open visits at the location, their patients, and what care needs of each.
//!
//! Everything is read under permits to export, so what a permit does not reach is not there. Never here: the permits'
//! making and the release of what was read (see `gate`).

use std::collections::{BTreeMap, BTreeSet};

use base::{DomainName, Limits, Permit, Read};
use fhir::json::{ParseLimits, Value};
use fhir::search::parse_query;
use roaring::RoaringBitmap;
use store::{Resource, Silver, StoreError};

use crate::{Finding, LINES_MAX, PATIENTS_MAX, Sheet, Ward};

/// Resources of one type read for one patient; the newest.
const RESOURCES_MAX: usize = 1_000;
/// Open visits of a domain looked at.
const VISITS_MAX: usize = 20_000;

/// What a permit to export must name.
pub const KINDS: [&str; 7] = [
    "Encounter",
    "Patient",
    "AllergyIntolerance",
    "Condition",
    "MedicationRequest",
    "MedicationStatement",
    "Observation",
];

/// A domain and the permit to export from it.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    pub domain: &'a DomainName,
    pub permit: &'a Permit<Read>,
}

#[derive(Debug, thiserror::Error)]
pub enum GatherError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("more than {0} patients are at this location: name a smaller one")]
    TooMany(usize),
    #[error("a stored resource could not be read")]
    Unreadable,
}

/// What was gathered, and whose data it is.
#[derive(Debug, Default)]
pub struct Gathered {
    pub ward: Ward,
    /// Resources read.
    pub rows: u64,
    pub patients: Vec<(DomainName, RoaringBitmap)>,
}

/// The ward's pages. The first reader is of the domain whose visits count; the others add observations of the same
/// patients, found by their record numbers.
pub async fn gather(
    silver: &Silver,
    limits: &Limits,
    readers: &[Reader<'_>],
    location: &str,
) -> Result<Gathered, GatherError> {
    let Some((own, others)) = readers.split_first() else { return Ok(Gathered::default()) };
    let mut work = Work { silver, limits, gathered: Gathered::default() };
    let mut beds = BTreeMap::new();
    for visit in work.search(own, "Encounter", &[("status", "in-progress,onleave,arrived,triaged")], VISITS_MAX).await?
    {
        let Some(place) = place_at(&visit, location) else { continue };
        let Some(patient) = visit.path(&["subject", "reference"]).and_then(Value::as_str) else { continue };
        beds.insert((place, patient.to_owned()), visit);
        if beds.len() > PATIENTS_MAX {
            return Err(GatherError::TooMany(PATIENTS_MAX));
        }
    }
    for ((place, patient), visit) in &beds {
        if let Some(sheet) = work.sheet(own, others, place, patient, visit).await? {
            work.gathered.ward.patients.push(sheet);
        }
    }
    // Visits elsewhere were read to find the ward; only what is in the pack leaves.
    Ok(work.gathered)
}

struct Work<'a> {
    silver: &'a Silver,
    limits: &'a Limits,
    gathered: Gathered,
}

impl Work<'_> {
    /// At most `max` resources in the index's order.
    async fn find(
        &self,
        reader: &Reader<'_>,
        rtype: &str,
        pairs: &[(&str, &str)],
        max: usize,
    ) -> Result<Vec<Resource>, GatherError> {
        let count = max.min(self.limits.search_count_max).to_string();
        let pairs: Vec<(String, String)> = pairs
            .iter()
            .chain(&[("_count", count.as_str())])
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let mut query = parse_query(rtype, &pairs, self.limits, false).map_err(|_| GatherError::Unreadable)?;
        let mut found = Vec::new();
        loop {
            let page = self.silver.search(reader.permit, reader.domain, &query).await?;
            found.extend(page.resources);
            if page.next.is_none() || found.len() >= max {
                found.truncate(max);
                return Ok(found);
            }
            query.cursor = page.next;
        }
    }

    async fn search(
        &self,
        reader: &Reader<'_>,
        rtype: &str,
        pairs: &[(&str, &str)],
        max: usize,
    ) -> Result<Vec<Value>, GatherError> {
        self.find(reader, rtype, pairs, max).await?.iter().map(value).collect()
    }

    /// As [`Work::search`], and what is found goes into the pack and its record.
    async fn take(
        &mut self,
        reader: &Reader<'_>,
        rtype: &str,
        pairs: &[(&str, &str)],
    ) -> Result<Vec<Value>, GatherError> {
        let found = self.find(reader, rtype, pairs, RESOURCES_MAX).await?;
        self.gathered.rows += found.len() as u64;
        let touched = found.iter().filter(|one| one.patient.is_patient()).map(|one| one.patient.0);
        match self.gathered.patients.iter_mut().find(|(domain, _)| domain == reader.domain) {
            Some((_, set)) => set.extend(touched),
            None => self.gathered.patients.push((reader.domain.clone(), touched.collect())),
        }
        found.iter().map(value).collect()
    }

    async fn sheet(
        &mut self,
        own: &Reader<'_>,
        others: &[Reader<'_>],
        place: &str,
        patient: &str,
        visit: &Value,
    ) -> Result<Option<Sheet>, GatherError> {
        let id = patient.rsplit('/').next().unwrap_or(patient).to_owned();
        let Some(person) = self.take(own, "Patient", &[("_id", &id)]).await?.pop() else { return Ok(None) };
        let mut sheet = Sheet { place: place.to_owned(), ..sheet_of(&person, visit) };
        let by = [("patient", id.as_str())];
        for allergy in self.take(own, "AllergyIntolerance", &by).await? {
            sheet.left_out += keep(&mut sheet.allergies, allergy_line(&allergy));
        }
        for condition in self.take(own, "Condition", &by).await? {
            sheet.left_out += keep(&mut sheet.problems, problem_line(&condition));
        }
        for rtype in ["MedicationRequest", "MedicationStatement"] {
            for medication in self.take(own, rtype, &by).await? {
                sheet.left_out += keep(&mut sheet.medications, medication_line(&medication));
            }
        }
        let mut observations = self.take(own, "Observation", &[("patient", &id), ("_sort", "-date")]).await?;
        for other in others {
            observations.extend(self.elsewhere(other, &person).await?);
        }
        sheet.findings(observations);
        Ok(Some(sheet))
    }

    /// Observations of the same person in another domain: whoever carries one of the same record numbers.
    async fn elsewhere(&mut self, other: &Reader<'_>, person: &Value) -> Result<Vec<Value>, GatherError> {
        let mut ids = BTreeSet::new();
        for identifier in record_numbers(person) {
            let found = self.find(other, "Patient", &[("identifier", &identifier)], 2).await?;
            // Two who carry one number are not told apart here, so neither is taken.
            if let [one] = found.as_slice() {
                ids.insert(one.id.to_string());
            }
        }
        let mut observations = Vec::new();
        for id in &ids {
            observations.extend(self.take(other, "Observation", &[("patient", id), ("_sort", "-date")]).await?);
        }
        Ok(observations)
    }
}

fn value(resource: &Resource) -> Result<Value, GatherError> {
    fhir::json::parse(resource.body.expose(), &ParseLimits::default()).map_err(|_| GatherError::Unreadable)
}

/// How many lines did not fit: none or one.
fn keep(lines: &mut Vec<String>, line: Option<String>) -> u64 {
    match line {
        Some(line) if lines.len() < LINES_MAX => lines.push(line),
        Some(_) => return 1,
        None => {}
    }
    0
}

fn text<'a>(value: &'a Value, steps: &[&str]) -> &'a str {
    value.path(steps).and_then(Value::as_str).unwrap_or_default()
}

fn items<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).map_or(&[], Value::items)
}

/// The place of a visit that is at this location now: the point of care of an HL7 v2 bed (the first part of its
/// identifier), or a Location by reference or display.
fn place_at(visit: &Value, location: &str) -> Option<String> {
    items(visit, "location").iter().find_map(|at| {
        if !matches!(text(at, &["status"]), "" | "active") {
            return None;
        }
        let place = at.get("location")?;
        let (key, reference) = (text(place, &["identifier", "value"]), text(place, &["reference"]));
        let display = text(place, &["display"]);
        let here = key.split('|').next() == Some(location)
            || reference == location
            || reference.strip_prefix("Location/") == Some(location)
            || display == location;
        (here && !location.is_empty())
            .then(|| if display.is_empty() { location.to_owned() } else { display.to_owned() })
    })
}

fn is_record_number(identifier: &Value) -> bool {
    let kind = identifier.get("type").map_or(&[][..], |kind| items(kind, "coding"));
    kind.iter().any(|coding| text(coding, &["code"]) == "MR")
}

/// As search values: `system|value`, escaped (R4 §3.1.1.5.7).
fn record_numbers(person: &Value) -> Vec<String> {
    let escape = |text: &str| text.replace('\\', "\\\\").replace(',', "\\,").replace('$', "\\$").replace('|', "\\|");
    let numbers = items(person, "identifier").iter().filter(|identifier| is_record_number(identifier));
    let both = numbers.map(|identifier| (text(identifier, &["system"]), text(identifier, &["value"])));
    both.filter(|(system, value)| !system.is_empty() && !value.is_empty())
        .map(|(system, value)| format!("{}|{}", escape(system), escape(value)))
        .collect()
}

fn concept(value: Option<&Value>) -> String {
    let Some(value) = value else { return String::new() };
    let coding = items(value, "coding").first();
    [text(value, &["text"]), coding.map_or("", |c| text(c, &["display"])), coding.map_or("", |c| text(c, &["code"]))]
        .into_iter()
        .find(|words| !words.is_empty())
        .unwrap_or_default()
        .to_owned()
}

fn human_name(name: &Value) -> String {
    if !text(name, &["text"]).is_empty() {
        return text(name, &["text"]).to_owned();
    }
    let given: Vec<&str> = items(name, "given").iter().filter_map(Value::as_str).collect();
    format!("{}, {}", text(name, &["family"]), given.join(" ")).trim_matches([',', ' ']).to_owned()
}

fn sheet_of(person: &Value, visit: &Value) -> Sheet {
    let names = items(person, "name");
    let official = names.iter().find(|name| text(name, &["use"]) == "official").or(names.first());
    let attending = items(visit, "participant").iter().filter(|participant| {
        let codes = items(participant, "type").iter().flat_map(|kind| items(kind, "coding"));
        codes.into_iter().any(|coding| text(coding, &["code"]) == "ATND")
    });
    Sheet {
        name: official.map(human_name).unwrap_or_default(),
        birth_date: text(person, &["birthDate"]).to_owned(),
        gender: text(person, &["gender"]).to_owned(),
        identifiers: items(person, "identifier")
            .iter()
            .filter(|identifier| is_record_number(identifier))
            .map(|identifier| text(identifier, &["value"]).to_owned())
            .collect(),
        since: text(visit, &["period", "start"]).to_owned(),
        attending: attending.map(|who| text(who, &["individual", "display"]).to_owned()).collect(),
        ..Sheet::default()
    }
}

fn status(value: &Value) -> String {
    items(value.get("clinicalStatus").unwrap_or(&Value::Null), "coding")
        .first()
        .map(|coding| text(coding, &["code"]).to_owned())
        .unwrap_or_default()
}

fn allergy_line(allergy: &Value) -> Option<String> {
    if matches!(status(allergy).as_str(), "inactive" | "resolved") {
        return None;
    }
    let mut line = concept(allergy.get("code"));
    let reactions = items(allergy, "reaction").iter().flat_map(|reaction| items(reaction, "manifestation"));
    let reactions: Vec<String> = reactions.map(|manifestation| concept(Some(manifestation))).collect();
    if !reactions.is_empty() {
        line.push_str(&format!(": {}", reactions.join(", ")));
    }
    match text(allergy, &["criticality"]) {
        "high" => line.push_str(" (HIGH RISK)"),
        "" => {}
        risk => line.push_str(&format!(" ({risk})")),
    }
    Some(line)
}

fn problem_line(condition: &Value) -> Option<String> {
    if matches!(status(condition).as_str(), "inactive" | "resolved" | "remission") {
        return None;
    }
    let since = ["onsetDateTime", "recordedDate"].into_iter().find_map(|name| condition.get(name)?.as_str());
    let since = since.map_or(String::new(), |since| format!(" (since {since})"));
    Some(format!("{}{since}", concept(condition.get("code"))))
}

fn medication_line(medication: &Value) -> Option<String> {
    if !matches!(text(medication, &["status"]), "active" | "on-hold" | "intended") {
        return None;
    }
    let mut line = concept(medication.get("medicationCodeableConcept"));
    if line.is_empty() {
        line = text(medication, &["medicationReference", "display"]).to_owned();
    }
    let doses = items(medication, "dosageInstruction").iter().chain(items(medication, "dosage"));
    for dose in doses {
        let how = match text(dose, &["text"]) {
            "" => dose.path(&["doseAndRate", "0", "doseQuantity"]).map(quantity).unwrap_or_default(),
            words => words.to_owned(),
        };
        if !how.is_empty() {
            line.push_str(&format!("; {how}"));
        }
    }
    if text(medication, &["status"]) == "on-hold" {
        line.push_str(" (ON HOLD)");
    }
    Some(line)
}

fn quantity(value: &Value) -> String {
    let number = value.get("value").map(fhir::json::to_string).unwrap_or_default();
    let unit = Some(text(value, &["unit"])).filter(|unit| !unit.is_empty()).unwrap_or(text(value, &["code"]));
    format!("{}{number} {unit}", text(value, &["comparator"])).trim().to_owned()
}

fn shown(observation: &Value) -> String {
    let plain = |name: &str| {
        observation.get(name).map(|value| value.as_str().map_or_else(|| fhir::json::to_string(value), str::to_owned))
    };
    if let Some(value) = observation.get("valueQuantity") {
        return quantity(value);
    }
    if observation.get("valueCodeableConcept").is_some() {
        return concept(observation.get("valueCodeableConcept"));
    }
    if let Some(words) = ["valueString", "valueInteger", "valueBoolean", "valueDateTime"].into_iter().find_map(plain) {
        return words;
    }
    let parts =
        items(observation, "component").iter().map(|part| format!("{} {}", concept(part.get("code")), shown(part)));
    let parts: Vec<String> = parts.collect();
    if parts.is_empty() { format!("({})", text(observation, &["status"])) } else { parts.join("; ") }
}

fn when(observation: &Value) -> String {
    let names = [&["effectiveDateTime"][..], &["effectivePeriod", "start"], &["effectiveInstant"], &["issued"]];
    names.into_iter().map(|steps| text(observation, steps)).find(|at| !at.is_empty()).unwrap_or_default().to_owned()
}

fn is_vital(observation: &Value) -> bool {
    let codings = items(observation, "category").iter().flat_map(|category| items(category, "coding"));
    codings.into_iter().any(|coding| text(coding, &["code"]) == "vital-signs")
}

impl Sheet {
    /// The newest of each code; critical ones first.
    fn findings(&mut self, mut observations: Vec<Value>) {
        observations.retain(|one| !matches!(text(one, &["status"]), "cancelled" | "entered-in-error"));
        observations.sort_by_cached_key(|one| std::cmp::Reverse(when(one)));
        let mut known = BTreeSet::new();
        for observation in &observations {
            let what = concept(observation.get("code"));
            if !known.insert(what.clone()) {
                continue;
            }
            let codings = items(observation, "interpretation").iter().flat_map(|meaning| items(meaning, "coding"));
            let flags: Vec<&str> = codings.map(|coding| text(coding, &["code"])).collect();
            let critical = flags.iter().any(|flag| matches!(*flag, "HH" | "LL" | "AA"));
            let finding =
                Finding { what, value: shown(observation), at: when(observation), flag: flags.join(" "), critical };
            let lines = if is_vital(observation) { &mut self.vitals } else { &mut self.results };
            lines.push(finding);
        }
        for lines in [&mut self.vitals, &mut self.results] {
            lines.sort_by_key(|finding| !finding.critical);
            self.left_out += lines.len().saturating_sub(LINES_MAX) as u64;
            lines.truncate(LINES_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use fhir::json;

    use super::*;

    #[test]
    fn a_place_is_found_by_its_point_of_care_and_only_while_it_is_taken() {
        let at = |status: &str, key: &str| json!({"location": [{"status": status, "location": {"identifier": {"value": key}, "display": "3W, room 301"}}]});
        assert_eq!(place_at(&at("active", "3W|301|1"), "3W").as_deref(), Some("3W, room 301"));
        for (status, key) in [("completed", "3W|301"), ("planned", "3W"), ("active", "3WX|301"), ("active", "4W|3W")] {
            assert_eq!(place_at(&at(status, key), "3W"), None);
        }
        let by_reference = json!({"location": [{"location": {"reference": "Location/icu"}}]});
        assert_eq!(place_at(&by_reference, "icu").as_deref(), Some("icu"));
        assert_eq!(place_at(&at("active", ""), ""), None);
    }

    #[test]
    fn lines_read_like_a_chart_and_the_newest_of_each_code_is_kept() {
        let observation = |code: &str, at: &str, value: i64, flag: &str| {
            json!({
                "status": "final", "code": {"text": code}, "effectiveDateTime": at,
                "valueQuantity": {"value": value, "unit": "mmol/L"},
                "interpretation": [{"coding": [{"code": flag}]}],
            })
        };
        let mut sheet = Sheet::default();
        sheet.findings(vec![
            observation("Sodium", "2026-11-25T08:00:00Z", 140, "N"),
            observation("Potassium", "2026-11-25T07:00:00Z", 5, "N"),
            observation("Potassium", "2026-11-25T09:00:00Z", 7, "HH"),
        ]);
        let lines: Vec<String> =
            sheet.results.iter().map(|f| format!("{} {} {} {}", f.what, f.value, f.flag, f.critical)).collect();
        expect![[r#"
            Potassium 7 mmol/L HH true
            Sodium 140 mmol/L N false"#]]
        .assert_eq(&lines.join("\n"));
        let allergy = json!({
            "code": {"coding": [{"code": "7980", "display": "Penicillin"}]}, "criticality": "high",
            "reaction": [{"manifestation": [{"text": "Anaphylaxis"}]}],
        });
        assert_eq!(allergy_line(&allergy).as_deref(), Some("Penicillin: Anaphylaxis (HIGH RISK)"));
        let gone = json!({"clinicalStatus": {"coding": [{"code": "resolved"}]}, "code": {"text": "Flu"}});
        assert_eq!((problem_line(&gone), allergy_line(&gone)), (None, None));
        let drug = json!({
            "status": "active", "medicationCodeableConcept": {"text": "Metoprolol 25 mg"},
            "dosageInstruction": [{"text": "twice daily"}],
        });
        assert_eq!(medication_line(&drug).as_deref(), Some("Metoprolol 25 mg; twice daily"));
    }
}
