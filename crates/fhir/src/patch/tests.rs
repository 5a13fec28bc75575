//! Patches as data: a resource, a patch, and what comes of it.

use super::*;
use crate::json::{parse, to_string};

fn value(text: &str) -> Value {
    parse(text.as_bytes(), &ParseLimits::default()).expect("JSON")
}

/// The outcome as JSON, or the word `error` with the text.
fn patched(resource: &str, patch: &str) -> String {
    let patch = match Patch::read(&value(patch)) {
        Ok(patch) => patch,
        Err(issue) => return format!("unread: {}", issue.text),
    };
    match patch.apply(&value(resource)) {
        Ok(patched) => to_string(&patched),
        Err(issue) => format!("error: {}", issue.text),
    }
}

fn check(cases: &[(&str, &str, &str)]) {
    for (resource, patch, expected) in cases {
        let outcome = patched(resource, patch);
        match expected.starts_with('{') {
            true => {
                assert!(outcome.starts_with('{'), "{patch}: {outcome}");
                assert!(value(&outcome) == value(expected), "{patch}: {outcome}, not {expected}");
            }
            false => assert!(outcome.contains(expected), "{patch}: {outcome}, not {expected}"),
        }
    }
}

#[test]
fn json_patches_do_what_rfc_6902_says() {
    // After the examples of RFC 6902, appendix A.
    check(&[
        (r#"{"foo":"bar"}"#, r#"[{"op":"add","path":"/baz","value":"qux"}]"#, r#"{"baz":"qux","foo":"bar"}"#),
        (
            r#"{"foo":["bar","baz"]}"#,
            r#"[{"op":"add","path":"/foo/1","value":"qux"}]"#,
            r#"{"foo":["bar","qux","baz"]}"#,
        ),
        (r#"{"baz":"qux","foo":"bar"}"#, r#"[{"op":"remove","path":"/baz"}]"#, r#"{"foo":"bar"}"#),
        (r#"{"foo":["bar","qux","baz"]}"#, r#"[{"op":"remove","path":"/foo/1"}]"#, r#"{"foo":["bar","baz"]}"#),
        (r#"{"baz":"qux"}"#, r#"[{"op":"replace","path":"/baz","value":"boo"}]"#, r#"{"baz":"boo"}"#),
        (
            r#"{"foo":{"bar":"baz","waldo":"fred"},"qux":{"corge":"grault"}}"#,
            r#"[{"op":"move","from":"/foo/waldo","path":"/qux/thud"}]"#,
            r#"{"foo":{"bar":"baz"},"qux":{"corge":"grault","thud":"fred"}}"#,
        ),
        (
            r#"{"foo":["all","grass","cows","eat"]}"#,
            r#"[{"op":"move","from":"/foo/1","path":"/foo/3"}]"#,
            r#"{"foo":["all","cows","eat","grass"]}"#,
        ),
        (
            r#"{"baz":"qux","foo":["a",2,"c"]}"#,
            r#"[{"op":"test","path":"/baz","value":"qux"},{"op":"test","path":"/foo/1","value":2}]"#,
            r#"{"baz":"qux","foo":["a",2,"c"]}"#,
        ),
        (
            r#"{"baz":"qux"}"#,
            r#"[{"op":"test","path":"/baz","value":"bar"}]"#,
            "error: operation 0 cannot be done: the test fails",
        ),
        (
            r#"{"foo":"bar"}"#,
            r#"[{"op":"add","path":"/child","value":{"grandchild":{"a":1}}}]"#,
            r#"{"foo":"bar","child":{"grandchild":{"a":1}}}"#,
        ),
        (r#"{"foo":"bar"}"#, r#"[{"op":"add","path":"/baz","value":"qux","xyz":123}]"#, r#"{"foo":"bar","baz":"qux"}"#),
        (r#"{"foo":"bar"}"#, r#"[{"op":"add","path":"/baz/bat","value":"qux"}]"#, "leads to nothing"),
        (
            r#"{"/":9,"~1":10}"#,
            r#"[{"op":"test","path":"/~01","value":10},{"op":"test","path":"/~1","value":9}]"#,
            r#"{"/":9,"~1":10}"#,
        ),
        (r#"{"/":9,"~1":10}"#, r#"[{"op":"test","path":"/~01","value":"10"}]"#, "the test fails"),
        (
            r#"{"foo":["bar"]}"#,
            r#"[{"op":"add","path":"/foo/-","value":["abc","def"]}]"#,
            r#"{"foo":["bar",["abc","def"]]}"#,
        ),
        (r#"{"a":{"b":1}}"#, r#"[{"op":"copy","from":"/a","path":"/c"}]"#, r#"{"a":{"b":1},"c":{"b":1}}"#),
        (r#"{"n":1.50}"#, r#"[{"op":"test","path":"/n","value":1.5}]"#, r#"{"n":1.50}"#),
        (
            r#"{"o":{"a":1,"b":[2]}}"#,
            r#"[{"op":"test","path":"/o","value":{"b":[2],"a":1}}]"#,
            r#"{"o":{"a":1,"b":[2]}}"#,
        ),
        // What the last removal empties is not there.
        (r#"{"a":1,"l":[1]}"#, r#"[{"op":"remove","path":"/l/0"}]"#, r#"{"a":1}"#),
        (r#"{"a":{"b":1}}"#, r#"[{"op":"move","from":"/a","path":"/a/c"}]"#, "into itself"),
        (r#"{"l":[1]}"#, r#"[{"op":"add","path":"/l/2","value":1}]"#, "beyond the end"),
        (r#"{"l":[1]}"#, r#"[{"op":"add","path":"/l/01","value":1}]"#, "beyond the end"),
        (r#"{"l":[1]}"#, r#"[{"op":"remove","path":"/l/-"}]"#, "leads to nothing"),
        (r#"{"l":[1]}"#, r#"[{"op":"replace","path":"/m","value":1}]"#, "leads to nothing"),
        (r#"{"l":[1]}"#, r#"[{"op":"replace","path":"l","value":1}]"#, "unread: operation 0 has a path"),
        (r#"{"l":[1]}"#, r#"[{"op":"remove","path":"/a~2"}]"#, "unread: operation 0 has a ~"),
        (r#"{"l":[1]}"#, r#"[{"op":"add","path":"/l"}]"#, "unread: operation 0 needs a value"),
        (r#"{"l":[1]}"#, r#"[{"op":"spam","path":"/l"}]"#, "unread: operation 0 has an op"),
        (r#"{"l":[1]}"#, "[]", "unread: a patch needs"),
        (r#"{"resourceType":"Patient","id":"a"}"#, r#"[{"op":"replace","path":"/id","value":"b"}]"#, "may not change"),
        (
            r#"{"resourceType":"Patient","id":"a"}"#,
            r#"[{"op":"replace","path":"","value":{"id":"a"}}]"#,
            "may not change",
        ),
    ]);
}

#[test]
fn a_patch_that_copies_itself_ends_at_the_limit() {
    let copies: Vec<String> = (0..60).map(|n| format!(r#"{{"op":"copy","from":"/a","path":"/a/{n}"}}"#)).collect();
    let outcome = patched(r#"{"a":{"x":"1234567890"}}"#, &format!("[{}]", copies.join(",")));
    assert!(outcome.contains("too deep") || outcome.contains("too large"), "{outcome}");
    let wide: Vec<String> = (0..60).map(|_| r#"{"op":"copy","from":"/a/0","path":"/a/-"},{"op":"copy","from":"/a","path":"/b"},{"op":"move","from":"/b","path":"/a/0"}"#.to_owned()).collect();
    let outcome = patched(r#"{"a":["x"]}"#, &format!("[{}]", wide.join(",")));
    assert!(outcome.contains("too deep") || outcome.contains("too large"), "{outcome}");
}

/// `operation` is the parts without quotes around it: `type=add;path=Patient;...` and the value as JSON members.
fn operation(parts: &[(&str, &str)], value: &str) -> String {
    let mut all: Vec<String> = parts
        .iter()
        .map(|(name, text)| match text.parse::<i64>() {
            Ok(number) => format!(r#"{{"name":"{name}","valueInteger":{number}}}"#),
            Err(_) if *name == "type" => format!(r#"{{"name":"{name}","valueCode":"{text}"}}"#),
            Err(_) => format!(r#"{{"name":"{name}","valueString":"{text}"}}"#),
        })
        .collect();
    if !value.is_empty() {
        all.push(format!(r#"{{"name":"value",{value}}}"#));
    }
    format!(r#"{{"resourceType":"Parameters","parameter":[{{"name":"operation","part":[{}]}}]}}"#, all.join(","))
}

const PATIENT: &str = r#"{"resourceType":"Patient","id":"p","birthDate":"1970-01-01","name":[{"family":"A","given":["x","y","z"],
    "_given":[null,{"id":"of-y"},null]},{"family":"B"}],"contact":[{"name":{"text":"c"}}],"identifier":[{"system":"s","value":"1"}]}"#;

fn path_cases(cases: &[(&[(&str, &str)], &str, &str, &str)]) {
    for (parts, given, pointer, expected) in cases {
        let patch = operation(parts, given);
        let outcome = patched(PATIENT, &patch);
        if pointer.is_empty() {
            assert!(outcome.contains(expected), "{patch}: {outcome}, not {expected}");
            continue;
        }
        assert!(outcome.starts_with('{'), "{patch}: {outcome}");
        let outcome = value(&outcome);
        let steps: Vec<&str> = pointer.split('/').collect();
        let found = outcome.path(&steps).map(to_string).unwrap_or_default();
        assert_eq!(&found, expected, "{patch}");
    }
}

#[test]
fn fhirpath_patches_do_what_the_specification_says() {
    path_cases(&[
        (
            &[("type", "add"), ("path", "Patient"), ("name", "gender")],
            r#""valueCode":"female""#,
            "gender",
            r#""female""#,
        ),
        (
            &[("type", "add"), ("path", "Patient"), ("name", "birthDate")],
            r#""valueDate":"1980-01-01""#,
            "",
            "does not repeat",
        ),
        (
            &[("type", "add"), ("path", "Patient.name.where(family='B')"), ("name", "given")],
            r#""valueString":"w""#,
            "name/1/given",
            r#"["w"]"#,
        ),
        (
            &[("type", "add"), ("path", "Patient"), ("name", "deceased")],
            r#""valueBoolean":true"#,
            "deceasedBoolean",
            "true",
        ),
        (
            &[("type", "add"), ("path", "Patient"), ("name", "nonsense")],
            r#""valueBoolean":true"#,
            "",
            "none of this name",
        ),
        (&[("type", "add"), ("path", "Patient.name"), ("name", "given")], r#""valueString":"w""#, "", "more than one"),
        (
            &[("type", "add"), ("path", "Patient"), ("name", "contact")],
            r#""part":[{"name":"name","valueHumanName":{"text":"a name"}},{"name":"gender","valueCode":"male"}]"#,
            "contact/1",
            r#"{"name":{"text":"a name"},"gender":"male"}"#,
        ),
        (
            &[("type", "add"), ("path", "Patient.birthDate"), ("name", "extension")],
            r#""valueExtension":{"url":"u","valueString":"v"}"#,
            "_birthDate/extension/0/url",
            r#""u""#,
        ),
        (
            &[("type", "insert"), ("path", "Patient.name[0].given"), ("index", "1")],
            r#""valueString":"w""#,
            "name/0/given",
            r#"["x","w","y","z"]"#,
        ),
        (
            &[("type", "insert"), ("path", "Patient.name[0].given"), ("index", "1")],
            r#""valueString":"w""#,
            "name/0/_given/2/id",
            r#""of-y""#,
        ),
        (
            &[("type", "insert"), ("path", "Patient.address"), ("index", "0")],
            r#""valueAddress":{"city":"c"}"#,
            "address",
            r#"[{"city":"c"}]"#,
        ),
        (
            &[("type", "insert"), ("path", "Patient.address"), ("index", "1")],
            r#""valueAddress":{"city":"c"}"#,
            "",
            "beyond the end",
        ),
        (
            &[("type", "insert"), ("path", "Patient.birthDate"), ("index", "0")],
            r#""valueDate":"1980""#,
            "",
            "not one list",
        ),
        (&[("type", "delete"), ("path", "Patient.birthDate")], "", "birthDate", ""),
        (&[("type", "delete"), ("path", "Patient.gender")], "", "birthDate", r#""1970-01-01""#),
        (&[("type", "delete"), ("path", "Patient.identifier[0]")], "", "identifier", ""),
        (&[("type", "delete"), ("path", "Patient.name[0].given[1]")], "", "name/0/given", r#"["x","z"]"#),
        (&[("type", "delete"), ("path", "Patient.name[0].given[1]")], "", "name/0/_given", ""),
        (&[("type", "delete"), ("path", "Patient.name")], "", "", "more than one"),
        (&[("type", "delete"), ("path", "Patient")], "", "", "the resource itself"),
        (&[("type", "delete"), ("path", "Patient.name.count()")], "", "", "no element"),
        (
            &[("type", "replace"), ("path", "Patient.birthDate")],
            r#""valueDate":"1980-01-01""#,
            "birthDate",
            r#""1980-01-01""#,
        ),
        (&[("type", "replace"), ("path", "Patient.gender")], r#""valueCode":"male""#, "", "leads to nothing"),
        (
            &[("type", "replace"), ("path", "Patient.birthDate")],
            r#""valuePeriod":{"start":"1980"}"#,
            "",
            "another type",
        ),
        (
            &[("type", "replace"), ("path", "Patient.contact[0].name")],
            r#""valueHumanName":{"text":"d"}"#,
            "contact/0/name/text",
            r#""d""#,
        ),
        (&[("type", "replace"), ("path", "Patient.id")], r#""valueId":"q""#, "", "may not change"),
        (
            &[("type", "move"), ("path", "Patient.name[0].given"), ("source", "2"), ("destination", "0")],
            "",
            "name/0/given",
            r#"["z","x","y"]"#,
        ),
        (
            &[("type", "move"), ("path", "Patient.name[0].given"), ("source", "1"), ("destination", "0")],
            "",
            "name/0/_given/0/id",
            r#""of-y""#,
        ),
        (
            &[("type", "move"), ("path", "Patient.name"), ("source", "2"), ("destination", "0")],
            "",
            "",
            "beyond the end",
        ),
        (
            &[("type", "delete"), ("path", "Patient.managingOrganization.resolve()")],
            "",
            "",
            "unread: the operation has a path that depends",
        ),
        (&[("type", "delete"), ("path", "Patient.(")], "", "", "unread: the operation has a path that is no FHIRPath"),
        (&[("type", "swap"), ("path", "Patient.name")], "", "", "unread: the operation has a type"),
    ]);
}

#[test]
fn a_choice_is_replaced_by_another_of_its_types() {
    let patch = operation(&[("type", "replace"), ("path", "Observation.value")], r#""valueString":"high""#);
    let observation = r#"{"resourceType":"Observation","id":"o","valueQuantity":{"value":1.50}}"#;
    check(&[(observation, &patch, r#"{"resourceType":"Observation","id":"o","valueString":"high"}"#)]);
}

#[test]
fn a_binary_holds_a_json_patch() {
    // [{"op":"remove","path":"/birthDate"}]
    let data = "W3sib3AiOiJyZW1vdmUiLCJwYXRoIjoiL2JpcnRoRGF0ZSJ9XQ==";
    let binary = |kind: &str, data: &str| json!({"resourceType": "Binary", "contentType": kind, "data": data});
    let read = |binary: &Value| Patch::read_entry(binary, &ParseLimits::default());
    let patched = read(&binary(JSON_PATCH, data)).unwrap().apply(&value(PATIENT)).unwrap();
    assert!(patched.get("birthDate").is_none() && patched.get("name").is_some());
    assert!(read(&binary("text/plain", data)).is_err() && read(&binary(JSON_PATCH, "?")).is_err());
}
