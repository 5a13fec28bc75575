//! Messages in, FHIR out: made here for each rule, and the shared samples where they are at hand.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base::Limits;
use fhir::json;
use fhir::json::{Value, to_string_pretty};
use hl7v2::time::Offset;

use super::*;

fn assigners() -> BTreeMap<String, String> {
    BTreeMap::from([("GENHOSP".to_owned(), "urn:oid:2.16.840.1.113883.19.5.1".to_owned())])
}

fn mapped_bytes(bytes: &[u8]) -> Mapped {
    let (assigners, limits) = (assigners(), Limits::default());
    let sender = Sender { name: "adt", utc_offset: Offset::from_minutes(-300), assigners: &assigners };
    let message = hl7v2::parse(bytes, &limits).unwrap();
    map(&message, &sender, &limits)
}

fn mapped(text: &str) -> Mapped {
    mapped_bytes(text.as_bytes())
}

fn header(kind: &str) -> String {
    format!("MSH|^~\\&|APP|FAC|||20260101120000||{kind}|C1|P|2.5.1\r")
}

/// The resources as they would be in an empty domain; ids are `r` and the unit's number.
fn resources(mapped: &Mapped) -> Vec<(u32, Value)> {
    let name = |unit: &Unit| format!("{}/r{}", unit.draft.rtype, unit.n);
    let resolve = |n: u32| mapped.units.iter().find(|u| u.n == n).map(name);
    let made = mapped.units.iter().map(|u| (u.n, u.draft.apply(&u.key, None, &resolve).unwrap().unwrap()));
    made.collect()
}

fn of_type<'r>(resources: &'r [(u32, Value)], rtype: &str) -> Vec<&'r Value> {
    let is = |v: &&Value| v.get("resourceType").and_then(Value::as_str) == Some(rtype);
    resources.iter().map(|(_, v)| v).filter(is).collect()
}

fn shared(file: &str) -> Option<Vec<u8>> {
    let folder = match std::env::var_os("WARD_SHARED_DATA") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
            own.ancestors().map(|a| a.join("shared/data")).find(|f| f.is_dir())?
        }
    };
    std::fs::read(folder.join("hl7v2").join(file)).ok()
}

#[test]
fn show() {
    let Ok(file) = std::env::var("SHOW") else { return };
    let mapped = mapped_bytes(&shared(&file).unwrap());
    for (n, resource) in resources(&mapped) {
        println!("{n} {}", to_string_pretty(&resource));
    }
    for unit in &mapped.units {
        println!("{} {} {:?}", unit.n, unit.place, unit.key);
    }
    for p in &mapped.problems {
        println!("{p:?}");
    }
    for f in &mapped.fates {
        println!("{} {:?}", f.path, f.fate);
    }
    let _ = json!(null);
}
