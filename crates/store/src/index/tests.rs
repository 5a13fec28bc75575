//! The index against a brute-force oracle over the same rows, on generated resources and queries; and the plans SQLite
//! makes of the main families.

use std::collections::HashMap;
use std::sync::Arc;

use base::{LogicalId, Ordinal, PatientSet, SeededEntropy, Sensitivity, Timestamp};
use fhir::search::{Clause, ClauseValue, Criterion, IndexValue, Modifier, Prefix, Query, Total, extract};
use roaring::RoaringBitmap;

use super::*;
use crate::silver::tests::{NOW, ehr, grant, mint, query};

struct Doc {
    rtype: String,
    id: String,
    patient: u32,
    sensitivity: u16,
    updated: i64,
    rows: Vec<(&'static str, IndexValue)>,
}

/// A few words for everything, so that queries meet.
struct Dice(SeededEntropy);

impl Dice {
    fn below(&self, n: u64) -> u64 {
        self.0.next_u64() % n
    }

    fn of<'a>(&self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len() as u64) as usize]
    }

    fn maybe(&self, text: impl FnOnce() -> String) -> String {
        if self.below(4) == 0 { String::new() } else { text() }
    }
}

const NAMES: [&str; 6] = ["Müller", "muller", "Mullerson", "Smith", "O'Neil", "Ångström"];
const SYSTEMS: [&str; 3] = ["http://a", "http://b", ""];
const CODES: [&str; 4] = ["8480-6", "8462-4", "718-7", "x"];
const DATES: [&str; 8] = [
    "2020",
    "2020-02",
    "2020-02-29",
    "2020-02-29T10:00:00Z",
    "2020-02-29T10:00:00+02:00",
    "2019-12-31T23:30:00-01:00",
    "2021",
    "2021-07-01",
];
const NUMBERS: [&str; 7] = ["5.4", "5.40", "100", "1e2", "99.5", "-3", "0.001"];
const UNITS: [&str; 3] = ["mg", "mmol/L", "kg"];
const PEOPLE: u64 = 12;

fn coding(dice: &Dice) -> String {
    let system = match dice.of(&SYSTEMS) {
        "" => String::new(),
        system => format!(r#""system":"{system}","#),
    };
    format!(r#"{{"coding":[{{{system}"code":"{}","display":"{}"}}]}}"#, dice.of(&CODES), dice.of(&NAMES))
}

fn patient(dice: &Dice, n: u64) -> String {
    let name = |dice: &Dice| format!(r#"{{"family":"{}","given":["{}"]}}"#, dice.of(&NAMES), dice.of(&NAMES));
    let identifier = format!(r#"{{"system":"{}","value":"{}"}}"#, dice.of(&["http://a", "http://b"]), dice.of(&CODES));
    format!(
        r#"{{"resourceType":"Patient","id":"p{n}"{}{}{}{}}}"#,
        dice.maybe(|| format!(r#","name":[{},{}]"#, name(dice), name(dice))),
        dice.maybe(|| format!(r#","gender":"{}""#, dice.of(&["male", "female"]))),
        dice.maybe(|| format!(r#","birthDate":"{}""#, dice.of(&["1970-01-01", "1970", "2001-09"]))),
        dice.maybe(|| format!(r#","identifier":[{identifier}]"#)),
    )
}

fn observation(dice: &Dice, n: u64) -> String {
    let subject = format!(r#","subject":{{"reference":"Patient/p{}"}}"#, dice.below(PEOPLE));
    let value = match dice.below(3) {
        0 => format!(
            r#","valueQuantity":{{"value":{},"unit":"{}","system":"http://unitsofmeasure.org","code":"{}"}}"#,
            dice.of(&NUMBERS),
            dice.of(&UNITS),
            dice.of(&UNITS)
        ),
        1 => format!(r#","valueString":"{}""#, dice.of(&NAMES)),
        _ => format!(r#","valueCodeableConcept":{}"#, coding(dice)),
    };
    let when = match dice.below(3) {
        0 => format!(r#","effectivePeriod":{{"start":"{}"}}"#, dice.of(&DATES)),
        _ => format!(r#","effectiveDateTime":"{}""#, dice.of(&DATES)),
    };
    let derived = format!(r#","derivedFrom":[{{"reference":"Observation/o{}"}}]"#, dice.below(n + 1));
    format!(
        r#"{{"resourceType":"Observation","id":"o{n}","status":"{}","code":{}{}{}{}{}}}"#,
        dice.of(&["final", "preliminary"]),
        coding(dice),
        dice.maybe(|| subject),
        dice.maybe(|| when),
        dice.maybe(|| value),
        if dice.below(3) == 0 { derived } else { String::new() },
    )
}

fn docs(dice: &Dice, observations: u64) -> Vec<Doc> {
    let texts = (0..PEOPLE).map(|n| patient(dice, n)).chain((0..observations).map(|n| observation(dice, n)));
    texts
        .map(|text| {
            let body = fhir::json::parse(text.as_bytes(), &fhir::json::ParseLimits::default()).unwrap();
            let of = |name: &str| body.get(name).and_then(fhir::json::Value::as_str).unwrap().to_owned();
            let about = fhir::reference::patient_reference(&body).and_then(|r| r.strip_prefix("Patient/p"));
            let own = of("id").strip_prefix('p').map(str::to_owned);
            let patient = about.map(str::to_owned).or(own).map_or(0, |n| n.parse::<u32>().unwrap() + 1);
            Doc {
                rtype: of("resourceType"),
                id: of("id"),
                patient,
                sensitivity: u16::from(dice.below(8) == 0),
                updated: NOW + dice.below(20) as i64 * 1_000,
                rows: extract(&body),
            }
        })
        .collect()
}

fn documents(docs: &[Doc]) -> Vec<Document> {
    docs.iter()
        .enumerate()
        .map(|(n, doc)| Document {
            rtype: doc.rtype.clone(),
            id: LogicalId::parse(&doc.id).unwrap(),
            version: 1,
            change: n as u64 + 1,
            patient: Ordinal(doc.patient),
            sensitivity: Sensitivity(doc.sensitivity),
            last_updated: Timestamp(doc.updated),
            values: Some(doc.rows.clone()),
        })
        .collect()
}

/// The meaning of a query, said once more: over rows in memory, without SQL.
struct Oracle<'a> {
    docs: &'a [Doc],
    cover: &'a dyn Fn(&Doc) -> bool,
}

fn within(prefix: Prefix, t: (f64, f64), asked: (f64, f64), beside: (f64, f64)) -> bool {
    let eq = asked.0 <= t.0 && t.1 <= asked.1;
    match prefix {
        Prefix::Eq => eq,
        Prefix::Ne => !eq,
        Prefix::Gt => t.1 > beside.1,
        Prefix::Lt => t.0 < beside.0,
        Prefix::Ge => t.1 > beside.1 || eq,
        Prefix::Le => t.0 < beside.0 || eq,
        Prefix::Sa => t.0 >= asked.1,
        Prefix::Eb => t.1 <= asked.0,
        Prefix::Ap => t.0 < asked.1 && t.1 > asked.0,
    }
}

fn system_fits(asked: &Option<Option<String>>, system: &Option<String>) -> bool {
    asked.as_ref().is_none_or(|asked| asked == system)
}

impl Oracle<'_> {
    fn value(&self, clause: &Clause, value: &ClauseValue, row: &IndexValue) -> bool {
        match (value, row) {
            (ClauseValue::Token { system: s, code: c }, IndexValue::Token { system, code, .. })
                if clause.modifier.is_none() || clause.modifier == Some(Modifier::Not) =>
            {
                (code.is_some() || system.is_some())
                    && system_fits(s, system)
                    && c.as_ref().is_none_or(|c| *c == code.clone().unwrap_or_default())
            }
            (ClauseValue::Text(asked), IndexValue::Token { text: Some(text), .. }) => text.starts_with(asked.as_str()),
            (ClauseValue::Reference { rtype: r, id: i }, IndexValue::Reference { rtype, id }) => {
                i == id && r.as_ref().is_none_or(|r| r == rtype)
            }
            (ClauseValue::AbsoluteRef(asked), IndexValue::AbsoluteRef { url }) => asked == url,
            (ClauseValue::Token { system: s, code: c }, IndexValue::IdentifierRef { system, code })
                if clause.modifier == Some(Modifier::Identifier) =>
            {
                system_fits(s, system) && c.as_ref().is_none_or(|c| Some(c) == code.as_ref())
            }
            (ClauseValue::Date { prefix, from_ms, to_ms }, IndexValue::Date { from_ms: lo, to_ms: hi }) => {
                let asked = (*from_ms as f64, *to_ms as f64);
                within(*prefix, (*lo as f64, *hi as f64), asked, asked)
            }
            (ClauseValue::String { folded: f, exact: e }, IndexValue::String { folded, exact }) => {
                match clause.modifier {
                    Some(Modifier::Exact) => e == exact,
                    Some(Modifier::Contains) => folded.contains(f.as_str()),
                    _ => folded.starts_with(f.as_str()),
                }
            }
            (ClauseValue::Number { prefix, value, low, high }, IndexValue::Number { low: lo, high: hi }) => {
                within(*prefix, (*lo, *hi), (*low, *high), (*value, *value))
            }
            (
                ClauseValue::Quantity { prefix, value, low, high, system: s, code: c },
                IndexValue::Quantity { low: lo, high: hi, system, code, unit, .. },
            ) => {
                let named = matches!(s, Some(Some(_)));
                let unit_fits = match c {
                    None => true,
                    Some(c) if named => Some(c) == code.as_ref(),
                    Some(c) => Some(c) == code.as_ref() || Some(c) == unit.as_ref(),
                };
                (!named || s.as_ref().unwrap() == system)
                    && unit_fits
                    && within(*prefix, (*lo, *hi), (*low, *high), (*value, *value))
            }
            (ClauseValue::Uri(asked), IndexValue::Uri(uri)) => asked == uri,
            (ClauseValue::Composite(asked), IndexValue::Composite(parts)) => {
                let bare = Clause { modifier: None, ..clause.clone() };
                asked.len() == parts.len() && asked.iter().zip(parts).all(|(a, p)| self.value(&bare, a, p))
            }
            _ => false,
        }
    }

    fn clause(&self, doc: &Doc, clause: &Clause) -> bool {
        let rows: Vec<_> = match clause.param {
            "_id" => vec![IndexValue::Token { system: None, code: Some(doc.id.clone()), text: None }],
            "_lastUpdated" => vec![IndexValue::Date { from_ms: doc.updated, to_ms: doc.updated + 1 }],
            code => doc.rows.iter().filter(|(c, _)| *c == code).map(|(_, value)| value.clone()).collect(),
        };
        if let [ClauseValue::Missing(missing)] = clause.values.as_slice() {
            return rows.is_empty() == *missing;
        }
        let any = clause.values.iter().any(|value| rows.iter().any(|row| self.value(clause, value, row)));
        any != (clause.modifier == Some(Modifier::Not))
    }

    fn criterion(&self, doc: &Doc, criterion: &Criterion) -> bool {
        match criterion {
            Criterion::Clause(clause) => self.clause(doc, clause),
            Criterion::Chain(chain) => self.refers(doc, Some(chain.param)).any(|target| {
                (self.cover)(target)
                    && chain
                        .branches
                        .iter()
                        .any(|(rtype, inner)| *rtype == target.rtype && self.criterion(target, inner))
            }),
            Criterion::Has(has) => self.docs.iter().any(|from| {
                from.rtype == has.rtype
                    && (self.cover)(from)
                    && self.refers(from, Some(has.param)).any(|target| std::ptr::eq(target, doc))
                    && self.criterion(from, &has.criterion)
            }),
            Criterion::Any(alternatives) => {
                alternatives.iter().any(|clauses| clauses.iter().all(|clause| self.clause(doc, clause)))
            }
        }
    }

    fn refers<'a>(&'a self, doc: &'a Doc, code: Option<&'a str>) -> impl Iterator<Item = &'a Doc> {
        let rows = doc.rows.iter().filter(move |(c, _)| code.is_none_or(|code| *c == code));
        rows.filter_map(|(_, value)| match value {
            IndexValue::Reference { rtype, id } => self.docs.iter().find(|d| d.rtype == *rtype && d.id == *id),
            _ => None,
        })
    }

    /// Numbers (from 1) of the documents that answer the query, in order.
    fn run(&self, query: &Query) -> Vec<u64> {
        let criteria = query::criteria(query);
        let mut found: Vec<(u64, &Doc)> = (1..)
            .zip(self.docs)
            .filter(|(_, doc)| doc.rtype == query.rtype && (self.cover)(doc))
            .filter(|(_, doc)| criteria.iter().all(|criterion| self.criterion(doc, criterion)))
            .collect();
        found.sort_by(|(_, a), (_, b)| {
            let by = query.sort.iter().map(|(code, desc)| {
                let (a, b) = (sort_key(a, code, *desc), sort_key(b, code, *desc));
                match (&a, &b) {
                    (Some(a), Some(b)) if *desc => b.partial_cmp(a).unwrap(),
                    (Some(a), Some(b)) => a.partial_cmp(b).unwrap(),
                    // What has no value comes last.
                    _ => b.is_some().cmp(&a.is_some()),
                }
            });
            let default = query.sort.is_empty().then(|| b.updated.cmp(&a.updated));
            by.chain(default).find(|o| o.is_ne()).unwrap_or_else(|| a.id.cmp(&b.id))
        });
        found.into_iter().map(|(n, _)| n).collect()
    }
}

#[derive(PartialEq, PartialOrd)]
enum SortKey {
    Number(f64),
    Text(String),
}

fn sort_key(doc: &Doc, code: &str, desc: bool) -> Option<SortKey> {
    match code {
        "_id" => return Some(SortKey::Text(doc.id.clone())),
        "_lastUpdated" => return Some(SortKey::Number(doc.updated as f64)),
        _ => {}
    }
    let keys = doc.rows.iter().filter(|(c, _)| *c == code).filter_map(|(_, value)| match value {
        IndexValue::Token { system, code, .. } if code.is_some() || system.is_some() => {
            Some(SortKey::Text(code.clone().unwrap_or_default()))
        }
        IndexValue::String { folded, .. } => Some(SortKey::Text(folded.clone())),
        IndexValue::Date { from_ms, to_ms } => Some(SortKey::Number(if desc { *to_ms } else { *from_ms } as f64)),
        IndexValue::Quantity { value, .. } => Some(SortKey::Number(*value)),
        IndexValue::Reference { id, .. } => Some(SortKey::Text(id.clone())),
        _ => None,
    });
    let better = |a: SortKey, b: SortKey| if (a > b) == desc { a } else { b };
    keys.reduce(better)
}

fn any_clause(dice: &Dice, rtype: &str) -> String {
    let prefix = dice.of(&["", "eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap"]);
    let token = |dice: &Dice| match dice.below(4) {
        0 => dice.of(&CODES).to_owned(),
        1 => format!("http://a|{}", dice.of(&CODES)),
        2 => format!("|{}", dice.of(&CODES)),
        _ => "http://b|".to_owned(),
    };
    let name = |dice: &Dice| dice.of(&["mull", "Müller", "o'n", "smith", "son", "ang"]).to_owned();
    match (rtype, dice.below(12)) {
        (_, 0) => format!("_id={},{}", dice.of(&["p1", "o3", "o7"]), dice.of(&["p2", "o5"])),
        (_, 1) => format!("_lastUpdated={prefix}{}", Timestamp(NOW + dice.below(20) as i64 * 1_000)),
        ("Patient", 2) => format!("name={}", name(dice)),
        ("Patient", 3) => format!("family:exact={}", dice.of(&NAMES)),
        ("Patient", 4) => format!("given:contains={}", name(dice)),
        ("Patient", 5) => format!("gender{}={}", dice.of(&["", ":not"]), dice.of(&["male", "female", "male,female"])),
        ("Patient", 6) => format!("birthdate={prefix}{}", dice.of(&["1970", "1970-01-01", "2001-09", "1990"])),
        ("Patient", 7) => format!("identifier={}", token(dice)),
        ("Patient", 8) => format!("_has:Observation:subject:code={}", token(dice)),
        ("Patient", 9) => format!("_has:Observation:patient:date={prefix}{}", dice.of(&DATES)),
        ("Patient", 10) => format!("birthdate:missing={}", dice.of(&["true", "false"])),
        ("Patient", _) => format!("name={},{}", name(dice), name(dice)),
        (_, 2) => format!("code={}", token(dice)),
        (_, 3) => format!("code={},{}", token(dice), token(dice)),
        (_, 4) => format!("code:text={}", dice.of(&["mul", "smi", "an"])),
        (_, 5) => format!("date={prefix}{}", dice.of(&DATES)),
        (_, 6) => format!("date=ge{}&date=lt{}", dice.of(&DATES), dice.of(&DATES)),
        (_, 7) => {
            let unit = dice.of(&["", "||mg", "|http://unitsofmeasure.org|kg", "||mmol/L"]);
            format!("value-quantity={prefix}{}{unit}", dice.of(&NUMBERS))
        }
        (_, 8) => format!("{}=Patient/p{}", dice.of(&["subject", "patient"]), dice.below(PEOPLE)),
        (_, 9) => format!("subject:Patient.name={}", name(dice)),
        (_, 10) => format!("{}:missing={}", dice.of(&["subject", "date", "code"]), dice.of(&["true", "false"])),
        (_, _) => match dice.below(3) {
            0 => format!("status:not={}", dice.of(&["final", "preliminary"])),
            1 => format!("value-string={}", name(dice)),
            _ => format!("code-value-quantity={}${prefix}{}", token(dice), dice.of(&NUMBERS)),
        },
    }
}

fn any_query(dice: &Dice) -> (&'static str, String) {
    let rtype = if dice.below(3) == 0 { "Patient" } else { "Observation" };
    let clauses: Vec<String> = (0..dice.below(4)).map(|_| any_clause(dice, rtype)).collect();
    let mut text = clauses.join("&");
    if dice.below(2) == 0 {
        let sort = match rtype {
            "Patient" => dice.of(&["name", "-name", "birthdate", "-birthdate,_id", "gender,-_lastUpdated", "-_id"]),
            _ => dice.of(&["date", "-date", "code,-date", "_lastUpdated", "value-quantity", "-subject"]),
        };
        text = format!("{text}&_sort={sort}");
    }
    (rtype, text)
}

async fn index() -> (tempfile::TempDir, Index) {
    let folder = tempfile::tempdir().unwrap();
    let index = Index::open(folder.path().join("ehr.index"), [7; 32].into()).await.unwrap();
    (folder, index)
}

fn cover(patients: PatientSet, sensitivity: Sensitivity) -> Cover {
    let permit = mint().mint::<base::Read>(base::Grant { sensitivity, ..grant(patients) });
    Cover::of(&permit, &ehr()).unwrap()
}

/// All pages of `count`, one after the other, and the total.
async fn pages(index: &Index, query: &Query, cover: &Cover, count: usize, few: i64) -> (Vec<u64>, Option<u64>) {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let query = Query { total: Total::Accurate, ..query.clone() };
        let search = Search { query, cover: cover.clone(), after, count, included_max: 1_000, few };
        let answer = index.search(search).await.unwrap();
        found.extend(answer.hits.iter().map(|hit| hit.change));
        if !answer.more {
            return (found, answer.total);
        }
        after = answer.hits.last().map(|hit| hit.keys.clone());
    }
}

#[tokio::test]
async fn searches_equal_the_oracle_in_ids_order_total_and_pages() {
    let dice = Dice(SeededEntropy::new(20_200_229));
    let docs = docs(&dice, 300);
    let (_folder, index) = index().await;
    assert!(index.apply(0, docs.len() as u64, documents(&docs)).await.unwrap());
    let mut hits: HashMap<&str, usize> = HashMap::new();
    for round in 0..800 {
        let (rtype, text) = any_query(&dice);
        let mut query = query(rtype, &text);
        if dice.below(4) == 0 {
            // The same clauses as alternatives: the first by itself, or all the others together.
            let mut clauses = std::mem::take(&mut query.clauses);
            let rest = clauses.split_off(clauses.len().min(1));
            query.any = vec![[clauses, rest].into_iter().filter(|clauses| !clauses.is_empty()).collect()];
            query.any.retain(|alternatives: &Vec<_>| !alternatives.is_empty());
        }
        let some = RoaringBitmap::from_iter((1..=PEOPLE as u32).filter(|_| dice.below(2) == 0));
        let many = |set: &RoaringBitmap| Arc::new(set | &RoaringBitmap::from_iter(100..200));
        let patients = match dice.below(6) {
            0 => PatientSet::Only(Arc::new(some)),
            1 => PatientSet::AllBut(Arc::new(some)),
            2 => PatientSet::Only(many(&some)),
            3 => PatientSet::AllBut(many(&some)),
            _ => PatientSet::All,
        };
        let allowed = Sensitivity(dice.below(2) as u16);
        let covers = |doc: &Doc| {
            (doc.patient == 0 || patients.contains(Ordinal(doc.patient)))
                && Sensitivity(doc.sensitivity).is_within(allowed)
        };
        let expected = Oracle { docs: &docs, cover: &covers }.run(&query);
        let count = [3, 7, 1_000][dice.below(3) as usize];
        // Both plans: a criterion drives, or the order of the answer does.
        let few = [0, 20, FEW][dice.below(3) as usize];
        let (found, total) = pages(&index, &query, &cover(patients.clone(), allowed), count, few).await;
        assert_eq!((&found, total), (&expected, Some(expected.len() as u64)), "round {round}: {rtype}?{text}");
        *hits.entry(if found.is_empty() { "empty" } else { "found" }).or_default() += 1;
    }
    assert!(hits["found"] > 300, "the queries must meet something: {hits:?}");
}

#[tokio::test]
async fn a_resource_that_changed_is_found_by_its_new_values_only() {
    let dice = Dice(SeededEntropy::new(5));
    let (_folder, index) = index().await;
    let mut old = docs(&dice, 60);
    assert!(index.apply(0, old.len() as u64, documents(&old)).await.unwrap());
    // The same ids with other content, and a part of them gone.
    let changed = docs(&dice, 60);
    let mut update = documents(&changed);
    let at = old.len() as u64;
    for (n, document) in update.iter_mut().enumerate() {
        document.change = at + 1 + n as u64;
        if n % 5 == 0 {
            document.values = None;
        }
    }
    assert!(index.apply(at, at * 2, update).await.unwrap());
    assert!(!index.apply(at, at * 3, vec![]).await.unwrap(), "from another position nothing is applied");
    old = changed.into_iter().enumerate().filter(|(n, _)| n % 5 != 0).map(|(_, doc)| doc).collect();
    let everything = cover(PatientSet::All, Sensitivity(u16::MAX));
    for _ in 0..200 {
        let (rtype, text) = any_query(&dice);
        let query = query(rtype, &text);
        let expected = Oracle { docs: &old, cover: &|_| true }.run(&query);
        let (found, _) = pages(&index, &query, &everything, 1_000, FEW).await;
        let ids = |n: u64| (n - at - 1) as usize;
        let expected: Vec<usize> =
            expected.iter().map(|n| (0..).filter(|n| n % 5 != 0).nth(*n as usize - 1).unwrap()).collect();
        assert_eq!(found.into_iter().map(ids).collect::<Vec<_>>(), expected, "{rtype}?{text}");
    }
}

#[tokio::test]
async fn includes_follow_references_both_ways_and_again_when_asked() {
    let dice = Dice(SeededEntropy::new(11));
    let docs = docs(&dice, 120);
    let (_folder, index) = index().await;
    assert!(index.apply(0, docs.len() as u64, documents(&docs)).await.unwrap());
    let allowed = cover(PatientSet::AllBut(Arc::new(RoaringBitmap::from_iter([1, 2]))), Sensitivity::NONE);
    let covers = |doc: &Doc| doc.patient != 1 && doc.patient != 2 && doc.sensitivity == 0;
    let oracle = Oracle { docs: &docs, cover: &covers };
    for (rtype, text) in [
        ("Observation", "_include=Observation:subject"),
        ("Observation", "_include=Observation:subject:Patient&_include=Observation:derived-from"),
        ("Observation", "_include=*"),
        ("Patient", "_revinclude=Observation:subject"),
        ("Patient", "gender=male&_revinclude=Observation:patient"),
        ("Observation", "_id=o119&_include:iterate=Observation:derived-from"),
    ] {
        let query = query(rtype, &format!("{text}&_count=40"));
        let search = Search {
            query: query.clone(),
            cover: allowed.clone(),
            after: None,
            count: 5,
            included_max: 1_000,
            few: FEW,
        };
        let answer = index.search(search).await.unwrap();
        let page: Vec<u64> = answer.hits.iter().map(|hit| hit.change).collect();
        let mut expected: Vec<u64> = Vec::new();
        let mut frontier = page.clone();
        for round in 0.. {
            let mut next = Vec::new();
            for (n, doc) in (1..).zip(&docs) {
                let from = |n: &u64| &docs[*n as usize - 1];
                let forward = query.includes.iter().filter(|i| round == 0 || i.iterate).any(|i| {
                    frontier.iter().map(from).any(|f| {
                        f.rtype == i.source
                            && oracle.refers(f, i.param).any(|t| std::ptr::eq(t, doc))
                            && i.target.as_ref().is_none_or(|t| *t == doc.rtype)
                    })
                });
                let back = query.revincludes.iter().filter(|i| round == 0 || i.iterate).any(|i| {
                    doc.rtype == i.source
                        && oracle.refers(doc, i.param).any(|t| frontier.iter().map(from).any(|f| std::ptr::eq(f, t)))
                });
                if (forward || back) && covers(doc) && !page.contains(&n) && !expected.contains(&n) {
                    next.push(n);
                }
            }
            if next.is_empty() {
                break;
            }
            expected.extend(&next);
            frontier = next;
        }
        let mut included = answer.included;
        included.sort();
        expected.sort();
        assert_eq!(included, expected, "{rtype}?{text}");
    }
}

#[tokio::test]
async fn includes_without_bound_are_refused() {
    let dice = Dice(SeededEntropy::new(12));
    let docs = docs(&dice, 120);
    let (_folder, index) = index().await;
    assert!(index.apply(0, docs.len() as u64, documents(&docs)).await.unwrap());
    let query = query("Patient", "_revinclude=Observation:subject");
    let everything = cover(PatientSet::All, Sensitivity(1));
    let search = Search { query, cover: everything, after: None, count: 20, included_max: 10, few: FEW };
    assert!(matches!(index.search(search).await, Err(StoreError::TooMany { max: 10, .. })));
}

/// The plan of the page of a query, one step a line.
async fn plan(index: &Index, rtype: &str, text: &str, few: i64) -> String {
    let (query, cover) = (query(rtype, text), cover(PatientSet::All, Sensitivity(1)));
    index
        .read(move |connection, _, dict| {
            let context = Context { dict, cover: &cover, few };
            let sql = query::page_statement(&context, connection, &query, 21)?;
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {}", sql.text))?;
            let rows = statement.query_map(rusqlite::params_from_iter(&sql.values), |row| row.get::<_, String>(3))?;
            Ok(rows.collect::<Result<Vec<_>, _>>()?.join("\n"))
        })
        .await
        .unwrap()
}

#[tokio::test]
async fn plans_use_the_indexes_and_scan_nothing() {
    let dice = Dice(SeededEntropy::new(3));
    let docs = docs(&dice, 200);
    let (_folder, index) = index().await;
    assert!(index.apply(0, docs.len() as u64, documents(&docs)).await.unwrap());
    for (rtype, text, by_value) in [
        ("Observation", "code=http://a|718-7", "tok_v (p=? AND code=? AND sys=?)"),
        ("Observation", "code=718-7", "tok_v (p=? AND code=?)"),
        ("Observation", "subject=Patient/p1", "ref_v (p=? AND tid=? AND tt=?)"),
        ("Observation", "date=2020-02", "dat_lo (p=? AND lo>? AND lo<?)"),
        ("Observation", "date=gt2020-02", "dat_hi (p=? AND hi>?)"),
        ("Observation", "date=ge2020-02&date=lt2020-03", "dat_"),
        ("Patient", "name=mul", "str_v (p=? AND folded>? AND folded<?)"),
        ("Patient", "family:exact=Smith", "str_v (p=? AND folded=? AND exact=?)"),
        ("Observation", "value-quantity=5.4||mg", "qty_v (p=? AND code=? AND lo>? AND lo<?)"),
        ("Observation", "_id=o1", "res_id (rtype=? AND id=?)"),
        ("Observation", "subject:Patient.name=mul", "ref_v (p=? AND tid=? AND tt=?)"),
        ("Patient", "_has:Observation:subject:code=718-7", "tok_v (p=? AND code=?)"),
        ("Observation", "code-value-quantity=718-7$5.4", "tok_v (p=? AND code=?)"),
    ] {
        let driven = plan(&index, rtype, text, FEW).await;
        assert!(driven.contains(by_value), "{rtype}?{text}\n{driven}");
        assert!(driven.contains("SEARCH r0 USING INTEGER PRIMARY KEY"), "{rtype}?{text}\n{driven}");
        // The common case: walked in the order of the answer, each test by the resource's own rows.
        let walked = plan(&index, rtype, text, 0).await;
        let natural = "SEARCH r0 USING INDEX res_updated (rtype=?";
        assert!(walked.contains(natural) || text.starts_with("_id"), "{rtype}?{text}\n{walked}");
        assert!(!walked.contains("TEMP B-TREE FOR ORDER BY") || text.starts_with("_id"), "{rtype}?{text}\n{walked}");
        for plan in [&driven, &walked] {
            let scans = |line: &str| line.contains("SCAN") && !line.contains("SCAN d") && !line.contains("SCAN s");
            assert!(!plan.lines().any(scans), "{rtype}?{text}\n{plan}");
            for line in plan.lines().filter(|line| line.contains("SEARCH t USING PRIMARY KEY")) {
                assert!(line.contains("(rid=? AND p=?"), "{rtype}?{text}\n{plan}");
            }
        }
    }
}
