//! What the tests of this crate share: the Synthea bundles, when they are beside the checkout, and resources of any
//! shape.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use crate::definitions;
use crate::json::{Number, Object, Value};

/// Name and bytes of each Synthea bundle; none, and a word about it, when they are not there.
#[allow(clippy::print_stdout)] // A skipped test must say so.
pub(crate) fn synthea() -> Vec<(String, Vec<u8>)> {
    let Some(folder) = shared_data().map(|data| data.join("synthea-r4")).filter(|f| f.is_dir()) else {
        println!("skipped: no Synthea bundles beside the checkout; set WARD_SHARED_DATA");
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let read =
        |path: &PathBuf| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap());
    files.iter().filter(|path| path.extension().is_some_and(|e| e == "json")).map(read).collect()
}

fn shared_data() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("WARD_SHARED_DATA") {
        return Some(folder.into());
    }
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    above.map(|folder| folder.join("shared/data")).find(|folder| folder.is_dir())
}

/// A value that may or may not fit where it stands.
fn any_leaf() -> impl Strategy<Value = Value> {
    let texts = prop::sample::select(vec![
        "Patient/1",
        "#",
        "urn:uuid:1",
        "http://x/Patient/1|2",
        "2020",
        "2020-02-30",
        "2020-01-01T00:00:00+14:00",
        "final",
        "",
        "|",
        "9999-12-31",
        "0001",
        "Observation?x",
        "<div/>",
        "é😀",
    ]);
    let numbers = prop::sample::select(vec!["0", "-1", "1e400", "1e-400", "0.10", "123456789012345678901234567890"]);
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        numbers.prop_map(|n| Value::from(Number::parse(n))),
        texts.prop_map(Value::from),
        ".*".prop_map(Value::from),
    ]
}

/// Objects with names that FHIR has, in places where it may not have them.
pub(crate) fn any_resource() -> impl Strategy<Value = Value> {
    let mut names: Vec<String> =
        ["Observation", "Patient", "Bundle", "Bundle.entry", "Reference", "Identifier", "Quantity"]
            .iter()
            .chain(&["Period", "CodeableConcept", "Coding", "HumanName", "Timing", "Range", "SampledData", "Extension"])
            .flat_map(|kind| &definitions::type_named(kind).unwrap().elements)
            .flat_map(|element| element.types.iter().take(12).map(|kind| element.json_name(kind)))
            .flat_map(|name| [format!("_{name}"), name])
            .collect();
    names.extend(["resourceType".to_owned(), "x".to_owned()]);
    let types: Vec<&str> = definitions::resource_types().map(|t| t.name).collect();
    let value = any_leaf().prop_recursive(5, 60, 6, move |inner| {
        let names = prop::sample::select(names.clone());
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((names, inner), 0..8)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    });
    (prop::sample::select(types), value).prop_map(|(rtype, value)| {
        let mut object = match value {
            Value::Object(object) => object,
            _ => Object::new(),
        };
        object.insert("resourceType", rtype);
        Value::Object(object)
    })
}
