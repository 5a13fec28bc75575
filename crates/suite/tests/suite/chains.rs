//! Thousands of messages of the synthetic hospital's chains, each set in an order of delivery of its own: silver ends in
//! the known truth, element by element; and the journals, with those of other people's messages, replayed over an empty
//! catalog give the same ids, versions and content.

use std::collections::BTreeMap;

use base::{Layer, Read};
use serde_json::Value;
use store::SilverDigest;
use synth::Door;
use synth::chains::{Chain, Fact, Of, chains, delivery};

use crate::harness::{Mesh, domain, edit, shared_data, ward};

/// Sets of chains, each with its own order of delivery. A failure names the seed: alone it is the same again.
const SEEDS: [u64; 4] = [11, 12, 13, 14];
const CHAINS: usize = 180;

fn domain_of(door: Door) -> &'static str {
    if door == Door::Lab { "laboratory" } else { "ehr" }
}

type Content = BTreeMap<String, Value>;

/// Every resource that stands in a domain, by type and id.
async fn content(mesh: &Mesh, name: &str) -> (SilverDigest, Content) {
    let domain = domain(name);
    let digest = mesh.doors.silver.digest(&domain, None).await.expect("a digest");
    let permit = mesh.doors.gate.node_permit::<Read>("index", &domain, Layer::Silver).expect("a permit");
    let mut content = Content::new();
    for rtype in digest.by_type.keys() {
        let mut after = 0;
        loop {
            let page = mesh.doors.silver.scan(&permit, &domain, rtype, after, 500).await.expect("a page");
            for resource in page.resources.iter().filter(|resource| !resource.deleted) {
                let body = serde_json::from_slice(resource.body.expose()).expect("JSON");
                content.insert(format!("{rtype}/{}", resource.id), body);
            }
            after = page.after;
            if !page.more {
                break;
            }
        }
    }
    (digest, content)
}

/// Ids by type and number.
struct Numbers<'c> {
    content: &'c Content,
    by_number: BTreeMap<(String, String), Vec<&'c str>>,
    by_patient: BTreeMap<(String, String), Vec<&'c Value>>,
}

impl<'c> Numbers<'c> {
    fn of(content: &'c Content) -> Numbers<'c> {
        let (mut by_number, mut by_patient) = (BTreeMap::new(), BTreeMap::new());
        for (name, body) in content {
            let rtype = name.split('/').next().unwrap_or_default().to_owned();
            for identifier in body["identifier"].as_array().into_iter().flatten() {
                let number = identifier["value"].as_str().unwrap_or_default().to_owned();
                let known: &mut Vec<&str> = by_number.entry((rtype.clone(), number)).or_default();
                if !known.contains(&name.as_str()) {
                    known.push(name);
                }
            }
            for subject in ["subject", "patient"] {
                if let Some(patient) = body[subject]["reference"].as_str() {
                    let key = (rtype.clone(), patient.to_owned());
                    by_patient.entry(key).or_insert_with(Vec::new).push(body);
                }
            }
        }
        Numbers { content, by_number, by_patient }
    }

    fn one(&self, rtype: &str, number: &str) -> Result<&'c str, String> {
        match self.by_number.get(&(rtype.to_owned(), number.to_owned())).map(Vec::as_slice) {
            Some([one]) => Ok(one),
            found => Err(format!("{} of number {number}", found.map_or(0, <[_]>::len))),
        }
    }

    fn resource(&self, fact: &Fact) -> Result<&'c Value, String> {
        match &fact.of {
            Of::Number(number) => Ok(&self.content[self.one(fact.rtype, number)?]),
            Of::Coded { patient, code } => {
                let patient = self.one("Patient", patient)?;
                let all = self.by_patient.get(&(fact.rtype.to_owned(), patient.to_owned()));
                let coded = |body: &&&Value| {
                    body["code"]["coding"].as_array().into_iter().flatten().any(|coding| coding["code"] == *code)
                };
                let found: Vec<_> = all.into_iter().flatten().filter(coded).collect();
                match found.as_slice() {
                    [one] => Ok(one),
                    more => Err(format!("{} with code {code}", more.len())),
                }
            }
        }
    }
}

fn at(body: &Value, path: &str) -> Option<String> {
    let mut value = body;
    for step in path.split('.') {
        value = match step.parse::<usize>() {
            Ok(n) => value.get(n)?,
            Err(_) => value.get(step)?,
        };
    }
    Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

/// What is not as the chains say it must be.
fn wrong(seed: u64, set: &[Chain], by_domain: &BTreeMap<&str, Numbers<'_>>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (n, chain) in set.iter().enumerate() {
        for fact in &chain.facts {
            let place = || format!("seed {seed}, chain {n} ({}): {}.{}", chain.name, fact.rtype, fact.path);
            match by_domain[domain_of(fact.door)].resource(fact) {
                Ok(body) if at(body, fact.path) == fact.says => {}
                Ok(body) => wrong.push(format!("{} says {:?}, not {:?}", place(), at(body, fact.path), fact.says)),
                Err(found) => wrong.push(format!("{}: {found}", place())),
            }
        }
    }
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn chains_end_in_the_known_truth_in_any_order_and_replay_to_the_same() {
    let folder = crate::ingest::mesh_for_files();
    edit(folder.path(), "domains/ehr/domain.toml", "name = \"adt-main\"", "name = \"adt-main\"\nlists = \"snapshot\"");
    let mesh = Mesh::start_in(folder).await;
    let today = base::Timestamp(1_793_491_200_000);
    let sets: Vec<(u64, Vec<Chain>)> =
        SEEDS.iter().map(|seed| (*seed, chains(*seed, &format!("S{seed}"), CHAINS, today))).collect();
    let (mut sent, mut stored) = (0, 0);
    for (seed, set) in &sets {
        let order = delivery(*seed, set);
        for door in [Door::Adt, Door::Lab] {
            let source = if door == Door::Lab { "lab-main" } else { "adt-main" };
            let of_door = order.iter().map(|(chain, message)| &set[*chain].messages[*message]);
            let messages: Vec<&[u8]> = of_door.filter(|m| m.door == door).map(|m| m.bytes.as_slice()).collect();
            sent += messages.len();
            let answers = mesh.send_all(source, messages).await;
            assert!(answers.iter().all(|code| code == "CA"), "seed {seed}: {answers:?}");
        }
        stored += set.iter().map(|chain| chain.messages.len()).sum::<usize>();
    }
    mesh.settle().await;
    let size = |name: &str| mesh.doors.domains[&domain(name)].intake.journal().log().size();
    assert_eq!(
        size("ehr") + size("laboratory"),
        stored as u64,
        "what came twice is stored once, numbers used again are not"
    );

    let before: BTreeMap<&str, (SilverDigest, Content)> =
        BTreeMap::from([("ehr", content(&mesh, "ehr").await), ("laboratory", content(&mesh, "laboratory").await)]);
    let by_domain = before.iter().map(|(name, (_, content))| (*name, Numbers::of(content))).collect();
    let wrong: Vec<String> = sets.iter().flat_map(|(seed, set)| wrong(*seed, set, &by_domain)).collect();
    let facts: usize = sets.iter().flat_map(|(_, set)| set).map(|chain| chain.facts.len()).sum();
    assert!(wrong.is_empty(), "{} of {facts}:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
    let aside = mesh.set_aside("laboratory").await;
    let critical: usize = sets.iter().flat_map(|(_, set)| set).map(|chain| chain.critical).sum();
    assert_eq!((aside.len(), aside.iter().filter(|unit| unit["critical"] == true).count()), (critical, critical));
    assert_eq!(mesh.set_aside("ehr").await, Vec::<Value>::new());
    eprintln!(
        "chains: {sent} messages in {} orders, {facts} facts hold, {critical} critical results held and told",
        SEEDS.len()
    );

    // Beside them other people's messages; then everything once more, from the journals alone.
    let files = crate::ingest::send_files(&mesh, shared_data("hl7v2", "the HL7 v2 messages")).await;
    mesh.settle().await;
    let names: Vec<String> = mesh.doors.domains.keys().map(|name| name.as_str().to_owned()).collect();
    let mut whole = BTreeMap::new();
    for name in &names {
        whole.insert(name.as_str(), content(&mesh, name).await);
    }
    let folder = mesh.stop().await;
    let rebuilt = ward(folder.path(), &["rebuild", "catalog"]).await;
    assert!(rebuilt.status.success(), "{}", String::from_utf8_lossy(&rebuilt.stderr));
    let mesh = Mesh::start_in(folder).await;
    let mut resources = 0;
    for name in &names {
        let (digest, content) = content(&mesh, name).await;
        resources += content.len();
        assert_eq!(digest, whole[name.as_str()].0, "{name}: ids and versions");
        assert!(content == whole[name.as_str()].1, "{name}: content");
    }
    eprintln!("chains: {} journals replayed ({files} files of others): {resources} resources, all equal", names.len());
    mesh.stop().await;
}
